// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot_test.c - kernels made here, good and bad, and what the loaders put into RAM.
 */
#include "vmm/machine/boot.h"

#include <elf.h>
#include <glib/gstdio.h>

#include "base/test.h"
#include "vmm/core/ram.h"

static char *dir;

static char *file(const char *name, const void *bytes, size_t n)
{
    char *path;

    if (!dir)
        dir = g_dir_make_tmp("posada-boot-XXXXXX", NULL);
    path = g_build_filename(dir, name, NULL);
    g_file_set_contents(path, bytes, (gssize)n, NULL);
    return path;
}

static struct boot_input input(const char *kernel, u64 mib)
{
    struct boot_input in = { .kernel = kernel, .ram_low = mib * MiB, .rsdp = 0xf0020 };

    e820_add(&in.map, 0, 0x9fc00, E820_RAM);
    e820_add(&in.map, 0x9fc00, 0x400, E820_RESERVED);
    e820_add(&in.map, 0xe0000, 0x20000, E820_RESERVED);
    e820_add(&in.map, MiB, (mib - 1) * MiB, E820_RAM);
    return in;
}

static struct ram *ram_of(u64 mib)
{
    struct ram *r = ram_new();
    struct ram_block *b = ram_block_new(r, "ram", mib * MiB, NULL);

    ram_map_at(r, 0, mib * MiB, b, 0, false);
    ram_commit(r);
    return r;
}

static void put(u8 *p, u64 v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (u8)(v >> (8 * i));
}

static u32 get32(struct ram *r, gpa at)
{
    u32 v = 0;

    EXPECT(ram_get(r, at, &v, 4));
    return v;
}

/* A bzImage of 4 setup sectors and 8 KiB of code that begins with its own offset. */
enum { IMAGE_LEN = 5 * 512 + 8192 };
static void bzimage(u8 *k)
{
    memset(k, 0, IMAGE_LEN);
    k[0x1f1] = 4;
    put(k + 0x1fe, 0xaa55, 2);
    k[0x200] = 0xeb;
    k[0x201] = 0x6a;
    memcpy(k + 0x202, "HdrS", 4);
    put(k + 0x206, 0x20f, 2);
    k[0x211] = 1;
    put(k + 0x22c, 0x7fffffff, 4);
    put(k + 0x230, 0x200000, 4);
    k[0x234] = 1;
    put(k + 0x236, 1, 2);
    put(k + 0x238, 255, 4);
    put(k + 0x258, 0x1000000, 8);
    put(k + 0x260, 0x100000, 4);
    for (u32 i = 0; i < 8192; i += 4)
        put(k + 5 * 512 + i, 0xc0de0000 + i, 4);
}

static void refused(const struct boot_input *in, const char *part)
{
    GError *e = NULL;
    struct boot *b = boot_load(in, &e);

    EXPECT(!b);
    if (b || !strstr(e->message, part))
        printf("# \"%s\" is not in \"%s\"\n", part, e ? e->message : "(accepted)");
    EXPECT(e && strstr(e->message, part));
    g_clear_error(&e);
    boot_free(b);
}

static struct boot *accepted(const struct boot_input *in)
{
    GError *e = NULL;
    struct boot *b = boot_load(in, &e);

    if (!b)
        printf("# %s\n", e->message);
    EXPECT(b);
    g_clear_error(&e);
    return b;
}

TEST(linux_64)
{
    u8 k[IMAGE_LEN];
    struct ram *r = ram_of(64);

    bzimage(k);
    g_autofree char *path = file("bz", k, sizeof k);
    g_autofree char *initrd = file("initrd", "0123456789", 10);
    struct boot_input in = input(path, 64);
    in.initrd = initrd;
    in.append = "console=ttyS0";
    struct boot *b = accepted(&in);
    if (!b)
        return;
    EXPECT(boot_write(b, r, NULL));
    EXPECT(b->lng);
    EXPECT_EQ(b->rip, 0x1000200);
    EXPECT_EQ(get32(r, 0x1000000), 0xc0de0000);
    EXPECT_EQ(get32(r, 0x1001ffc), 0xc0de1ffc);

    gpa zp = b->rsi, at;
    char text[16] = { 0 };
    at = get32(r, zp + 0x228);
    EXPECT(ram_get(r, at, text, 14));
    EXPECT_STR(text, "console=ttyS0");
    at = get32(r, zp + 0x218);
    EXPECT_EQ(get32(r, zp + 0x21c), 10);
    EXPECT_EQ(at, 64 * MiB - 4096);
    memset(text, 0, sizeof text);
    EXPECT(ram_get(r, at, text, 10));
    EXPECT_STR(text, "0123456789");
    EXPECT_EQ(get32(r, zp + 0x70), 0xf0020);
    EXPECT_EQ(get32(r, zp + 0x1e8) & 0xff, 4);
    EXPECT_EQ(get32(r, zp + 0x2d0 + 8), 0x9fc00);
    EXPECT_EQ(get32(r, zp + 0x202), 0x53726448);
    /* setup_data: a seed */
    at = get32(r, zp + 0x250);
    EXPECT_EQ(get32(r, at + 8), 9);
    /* identity map: PML4[0] -> PDPT[3] -> PD[511] = the last 2 MiB below 4 GiB */
    at = get32(r, get32(r, b->cr3) & ~0xfffu) & ~0xfffu;
    EXPECT_EQ(get32(r, at + 8 * 1), 0x200083);
    EXPECT_EQ(get32(r, b->gdt + 0x10 + 4), 0x00af9b00);
    /* a second boot writes the same */
    EXPECT(ram_fill(r, 0x1000000, 0, 4096));
    EXPECT(boot_write(b, r, NULL));
    EXPECT_EQ(get32(r, 0x1000000), 0xc0de0000);
    boot_free(b);
    ram_free(r);
}

TEST(linux_32)
{
    u8 k[IMAGE_LEN];

    bzimage(k);
    put(k + 0x236, 0, 2);
    k[0x234] = 0;
    g_autofree char *path = file("bz32", k, sizeof k);
    struct boot_input in = input(path, 64);
    struct boot *b = accepted(&in);
    if (!b)
        return;
    EXPECT(!b->lng);
    EXPECT_EQ(b->rip, 0x100000);
    boot_free(b);
}

TEST(linux_refusals)
{
    u8 k[IMAGE_LEN];
    g_autofree char *path = NULL;
    struct boot_input in;

#define TRY(mib, part, ...)                                                                    \
    bzimage(k);                                                                                \
    __VA_ARGS__;                                                                               \
    g_free(path);                                                                              \
    path = file("bad", k, sizeof k);                                                           \
    in = input(path, mib);                                                                     \
    refused(&in, part)
    TRY(16, "needs 17 MiB of memory", (void)0);
    TRY(64, "too old", put(k + 0x206, 0x201, 2));
    TRY(64, "zImage", k[0x211] = 0);
    TRY(64, "within its setup code", k[0x1f1] = 200);
    TRY(64, "cut short", k[0x201] = 4);
    TRY(64, "wants to be loaded at 0", put(k + 0x258, 0, 8));
    TRY(64, "wants to be loaded at", put(k + 0x258, UINT64_MAX, 8));
    TRY(64, "of memory below 4 GiB", put(k + 0x260, UINT32_MAX, 4));
    TRY(64, "no kernel", k[0x202] = 'x');
#undef TRY
    bzimage(k);
    g_free(path);
    path = file("bz", k, sizeof k);
    in = input(path, 64);
    g_autofree char *line = g_strnfill(256, 'x');
    in.append = line;
    refused(&in, "at most 255");
    in.append = NULL;
    in.initrd = "/nonexistent";
    refused(&in, "/nonexistent: No such file");
    g_autofree char *big = g_malloc0(50 * MiB);
    g_autofree char *initrd = file("big", big, 50 * MiB);
    in.initrd = initrd;
    refused(&in, "do not fit");
    in = input("/nonexistent", 64);
    refused(&in, "No such file");
    in = input("/", 64);
    refused(&in, "not a regular file");
    in = input("/dev/zero", 64);
    refused(&in, "not a regular file");
}

/* A 32-bit ELF with one segment and a note. */
enum { ELF_LEN = 4096 + 256 };
static void elf(u8 *k, u32 paddr, u32 memsz, bool note)
{
    Elf32_Ehdr h = { .e_machine = EM_386,
                     .e_entry = paddr + 4,
                     .e_phoff = 64,
                     .e_phentsize = sizeof(Elf32_Phdr),
                     .e_phnum = 2 };
    Elf32_Phdr p[2] = {
        { .p_type = PT_LOAD,
          .p_offset = 4096,
          .p_paddr = paddr,
          .p_filesz = 256,
          .p_memsz = memsz },
        { .p_type = note ? PT_NOTE : PT_NULL, .p_offset = 512, .p_filesz = 20, .p_memsz = 20 },
    };
    u32 n[5] = { 4, 4, 18, 0, paddr + 8 };

    memset(k, 0, ELF_LEN);
    memcpy(h.e_ident, ELFMAG, 4);
    h.e_ident[EI_CLASS] = ELFCLASS32;
    h.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(n + 3, "Xen", 4);
    memcpy(k, &h, sizeof h);
    memcpy(k + 64, p, sizeof p);
    memcpy(k + 512, n, sizeof n);
    memset(k + 4096, 0x90, 256);
}

TEST(pvh)
{
    u8 k[ELF_LEN];
    struct ram *r = ram_of(16);

    elf(k, 0x100000, 8192, true);
    g_autofree char *path = file("pvh", k, sizeof k);
    g_autofree char *initrd = file("initrd", "abc", 3);
    struct boot_input in = input(path, 16);
    in.initrd = initrd;
    in.append = "x y";
    struct boot *b = accepted(&in);
    if (!b)
        return;
    EXPECT(ram_fill(r, 0x100000, 0xee, 16384));
    EXPECT(boot_write(b, r, NULL));
    EXPECT_EQ(b->rip, 0x100008);
    EXPECT_EQ(get32(r, 0x1000fc), 0x90909090);
    EXPECT_EQ(get32(r, 0x100100), 0); /* bss */
    EXPECT_EQ(get32(r, 0x101ffc), 0);
    EXPECT_EQ(get32(r, 0x102000), 0xeeeeeeee);
    gpa si = b->rbx;
    EXPECT_EQ(get32(r, si), 0x336ec578);
    EXPECT_EQ(get32(r, si + 12), 1);
    EXPECT_EQ(get32(r, get32(r, si + 16) + 8), 3); /* size of the module */
    EXPECT_EQ(get32(r, get32(r, si + 24)) & 0xffffff, 'x' | ' ' << 8 | 'y' << 16);
    EXPECT_EQ(get32(r, si + 32), 0xf0020);
    EXPECT_EQ(get32(r, si + 48), 4);
    boot_free(b);
    ram_free(r);
}

TEST(elf_refusals)
{
    u8 k[ELF_LEN];
    g_autofree char *path = NULL;
    struct boot_input in;

#define TRY(part, ...)                                                                         \
    elf(k, 0x100000, 8192, true);                                                              \
    __VA_ARGS__;                                                                               \
    g_free(path);                                                                              \
    path = file("bad", k, sizeof k);                                                           \
    in = input(path, 16);                                                                      \
    refused(&in, part)
    TRY("neither a PVH entry", elf(k, 0x100000, 8192, false));
    TRY("where there is no memory", elf(k, 0xa0000, 8192, true));
    TRY("where there is no memory", elf(k, 0x100000, 0xffffffff, true));
    TRY("where there is no memory", elf(k, 0xfffff000, 8192, true));
    TRY("more bytes than memory", elf(k, 0x100000, 1, true));
    TRY("not for x86", put(k + 18, EM_ARM, 2));
    TRY("0 ELF segments", put(k + 44, 0, 2));
    TRY("65535 ELF segments", put(k + 44, 65535, 2));
    TRY("bad ELF program headers", put(k + 42, 8, 2));
    TRY("bad ELF program headers", put(k + 28, 0xfffffff0, 4));
    TRY("shorter than its headers say", put(k + 64 + 4, 0x7fffffff, 4));
    TRY("in use already", (memcpy(k + 64 + 64, k + 64, 32), put(k + 44, 3, 2)));
    TRY("neither a PVH entry", put(k + 512, 0xffffffff, 4));
#undef TRY
}

TEST(multiboot_elf)
{
    u8 k[ELF_LEN];
    struct ram *r = ram_of(16);

    elf(k, 0x100000, 8192, false);
    put(k + 4096, 0x1badb002, 4);
    put(k + 4100, 3, 4);
    put(k + 4104, (u32) - (0x1badb002 + 3), 4);
    g_autofree char *path = file("mb", k, sizeof k);
    g_autofree char *module = file("module", "0123", 4);
    g_autofree char *list = g_strdup_printf("%s a b,%s", module, module);
    struct boot_input in = input(path, 16);
    in.initrd = list;
    struct boot *b = accepted(&in);
    if (!b)
        return;
    EXPECT(boot_write(b, r, NULL));
    EXPECT_EQ(b->rip, 0x100004);
    EXPECT_EQ(b->rax, 0x2badb002);
    gpa i = b->rbx;
    EXPECT_EQ(get32(r, i), 0x24d);
    EXPECT_EQ(get32(r, i + 4), 639);
    EXPECT_EQ(get32(r, i + 8), 15 * 1024);
    EXPECT_EQ(get32(r, i + 20), 2);
    gpa m = get32(r, i + 24);
    EXPECT_EQ(get32(r, m + 4) - get32(r, m), 4);
    EXPECT_EQ(get32(r, get32(r, m)), 0x33323130);
    EXPECT(get32(r, m + 16) != get32(r, m));
    EXPECT_EQ(get32(r, i + 44), 4 * 24);
    EXPECT_EQ(get32(r, get32(r, i + 48)), 20);
    boot_free(b);
    ram_free(r);
}

TEST(multiboot_addresses)
{
    u8 k[1024] = { 0 };
    u32 h[8] = { 0x1badb002, 0x10000,  (u32) - (0x1badb002 + 0x10000),
                 0x200010,   0x200000, 0x200200,
                 0x201000,   0x200020 };
    struct boot_input in;

    memcpy(k + 0x10, h, sizeof h);
    g_autofree char *path = file("aout", k, sizeof k);
    in = input(path, 16);
    struct boot *b = accepted(&in);
    if (b)
        EXPECT_EQ(b->rip, 0x200020);
    boot_free(b);

#define TRY(part, i, v)                                                                        \
    memcpy(k + 0x10, h, sizeof h);                                                             \
    put(k + 0x10 + 4 * (i), v, 4);                                                             \
    g_free(path);                                                                              \
    path = file("bad", k, sizeof k);                                                           \
    in = input(path, 16);                                                                      \
    refused(&in, part)
    TRY("lies before", 3, 0x100000);
    TRY("lies before", 3, 0x300000);
    TRY("load end", 5, 0x100000);
    TRY("load end", 5, 0xffffffff);
    TRY("bss end", 6, 0x200001);
    TRY("where there is no memory", 6, 0xffffffff);
#undef TRY
}

TEST(small_and_odd_files)
{
    for (size_t n = 0; n < 70; n += 3) {
        u8 k[70];

        memset(k, 0, sizeof k);
        memcpy(k, ELFMAG, 4);
        k[EI_CLASS] = ELFCLASS32;
        g_autofree char *path = file("short", k, n);
        struct boot_input in = input(path, 16);
        refused(&in, "short");
    }
    g_autofree char *rm = g_strdup_printf("rm -rf %s", dir);
    g_spawn_command_line_sync(rm, NULL, NULL, NULL, NULL);
    g_clear_pointer(&dir, g_free);
}

TEST_MAIN()
