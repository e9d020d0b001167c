// SPDX-License-Identifier: GPL-2.0-or-later
/* direct_code_test.c - which pages may run as they are. */
#include <string.h>
#include <sys/mman.h>

#include "base/test.h"
#include "vmm/cpu/soft/direct.h"
#include "vmm/cpu/soft/direct_code.h"

static struct soft_vcpu *v;
static struct soft_vm *sv;
static struct vm vm;
static _Atomic u32 gens[4];
static _Atomic u8 flags[4];
static u8 page[4096], other[4096];

static void fresh(void)
{
    static bool made;

    if (!made) {
        v = g_new0(struct soft_vcpu, 1);
        sv = g_new0(struct soft_vm, 1);
        v->sv = sv;
        sv->vm = &vm;
        sv->page_gen = gens;
        sv->n_pages = 4;
        made = true;
    }
    direct_code_free(sv->direct_code);
    sv->direct_code = direct_code_new(4);
    memset(flags, 0, sizeof flags);
    memset(page, 0x90, sizeof page);
    memset(other, 0x90, sizeof other);
}

static enum direct_verdict judge(u32 *slot)
{
    return direct_code_judge(v, 1, &flags[1], page, NULL, NULL, slot);
}

TEST(ordinary_code_is_clean)
{
    u32 slot;

    fresh();
    EXPECT_EQ(judge(&slot), CODE_CLEAN);
    EXPECT_EQ(flags[1], 0); /* and needs no watch */
    /* mov eax, 0x0000a20f: the bytes are there, the instruction is not */
    memcpy(page + 1000, "\xb8\x0f\xa2\x00\x00", 5);
    EXPECT_EQ(judge(&slot), CODE_CLEAN);
}

TEST(each_instruction_is_found)
{
    static const struct {
        const char *name, *bytes;
        unsigned n;
    } bad[] = {
        { "cpuid", "\x0f\xa2", 2 },
        { "sysenter", "\x0f\x34", 2 },
        { "rdtscp", "\x0f\x01\xf9", 3 },
        { "rdpid rax", "\xf3\x0f\xc7\xf8", 4 },
        { "lsl eax, ecx", "\x0f\x03\xc1", 3 },
        { "xsave [rdi]", "\x0f\xae\x27", 3 },
        { "xsavec [rdi]", "\x0f\xc7\x27", 3 },
    };
    static const struct {
        const char *name, *bytes;
        unsigned n;
    } good[] = {
        { "rdtsc", "\x0f\x31", 2 },
        { "xgetbv", "\x0f\x01\xd0", 3 },
        { "cmpxchg8b [rdi]", "\x0f\xc7\x0f", 3 },
        { "lfence", "\x0f\xae\xe8", 3 },
        { "rdrand eax", "\x0f\xc7\xf0", 3 },
        { "xrstor [rsp]", "\x0f\xae\x2c\x24", 4 },
    };
    u32 slot;

    for (unsigned k = 0; k < ARRAY_LEN(bad); k++) {
        fresh();
        memcpy(page + 2000, bad[k].bytes, bad[k].n);
        if (judge(&slot) != CODE_EXCLUDED) {
            printf("# %s not found\n", bad[k].name);
            test_failures++;
        }
        EXPECT_EQ(flags[1], RAM_PAGE_CODE);
        /* Over the page's end. */
        for (unsigned here = 1; here < bad[k].n; here++) {
            fresh();
            memcpy(page + 4096 - here, bad[k].bytes, here);
            memcpy(other, bad[k].bytes + here, bad[k].n - here);
            EXPECT_EQ(direct_code_judge(v, 1, &flags[1], page, NULL, other, &slot),
                      CODE_EXCLUDED);
            EXPECT_EQ(direct_code_judge(v, 2, &flags[2], other, page, NULL, &slot),
                      CODE_EXCLUDED);
            EXPECT_EQ(judge(&slot), CODE_CLEAN); /* with nothing behind it */
        }
    }
    for (unsigned k = 0; k < ARRAY_LEN(good); k++) {
        fresh();
        memcpy(page + 2000, good[k].bytes, good[k].n);
        if (judge(&slot) != CODE_CLEAN) {
            printf("# %s is harmless\n", good[k].name);
            test_failures++;
        }
    }
}

TEST(seen_in_execution_it_is_patched)
{
    static const u8 cpuid[] = { 0x0f, 0xa2 };
    u32 slot = ~0u, again = ~0u;
    const u8 *copies;

    fresh();
    memcpy(page + 2000, cpuid, 2); /* seen */
    memcpy(page + 2200, cpuid, 2); /* close to it */
    EXPECT_EQ(judge(&slot), CODE_EXCLUDED);
    direct_code_confirm(sv->direct_code, 1, 2000, cpuid, 2);
    EXPECT_EQ(judge(&slot), CODE_PATCHED);
    EXPECT_EQ(judge(&again), CODE_PATCHED);
    EXPECT_EQ(slot, again);
    copies = mmap(NULL, 4096, PROT_READ, MAP_SHARED, direct_code_fd(sv->direct_code),
                  (off_t)slot * 4096);
    EXPECT(copies != MAP_FAILED);
    memcpy(other, page, 4096);
    other[2001] = other[2201] = 0x0b;
    EXPECT(memcmp(copies, other, 4096) == 0);
    munmap((void *)(uintptr_t)copies, 4096);
    /* A third one, far away and never seen, spoils it: after the write that made it is told. */
    memcpy(page + 3900, cpuid, 2);
    EXPECT(direct_code_concerns(sv->direct_code, 1));
    direct_code_written(sv, 1);
    EXPECT(!direct_code_concerns(sv->direct_code, 1));
    EXPECT_EQ(judge(&slot), CODE_EXCLUDED);
}

TEST(data_among_code_is_not_changed)
{
    static const u8 cpuid[] = { 0x0f, 0xa2 };
    u32 slot;

    fresh();
    memcpy(page + 2000, cpuid, 2);
    direct_code_confirm(sv->direct_code, 1, 2000, cpuid, 2);
    /* In an immediate close to it: stays as it is. */
    memcpy(page + 2100, "\xb8\x0f\xa2\x00\x00", 5);
    EXPECT_EQ(judge(&slot), CODE_PATCHED);
    const u8 *copy = mmap(NULL, 4096, PROT_READ, MAP_SHARED, direct_code_fd(sv->direct_code),
                          (off_t)slot * 4096);
    EXPECT(copy != MAP_FAILED);
    EXPECT_EQ(copy[2102], 0xa2);
    EXPECT_EQ(copy[2001], 0x0b);
    munmap((void *)(uintptr_t)copy, 4096);
}

TEST_MAIN()
