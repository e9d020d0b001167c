// SPDX-License-Identifier: GPL-2.0-or-later
/* stub_test.c - a stub process: what its code may do, and what stops it. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/cpu/soft/stub.h"

enum { CODE_VA = 0x400000, DATA_VA = 0x500000 };
static int fd;
static u8 *ram; /* page 0: code, pages 1 and 2: data */
static u8 xsave[832] __attribute__((aligned(64)));

static struct stub *open_stub(void)
{
    g_autoptr(GError) error = NULL;
    struct stub *s = stub_new(&fd, 1, &error);

    if (!s) {
        printf("# %s\n", error->message);
        test_failures++;
        return NULL;
    }
    stub_map(s, CODE_VA, 4096, PROT_READ | PROT_EXEC, fd, 0);
    stub_map(s, DATA_VA, 4096, PROT_READ | PROT_WRITE, fd, 4096);
    EXPECT(stub_commit(s));
    memset(xsave, 0, sizeof xsave);
    xsave[0] = 0x7f, xsave[1] = 3;      /* FCW */
    xsave[24] = 0x80, xsave[25] = 0x1f; /* MXCSR */
    return s;
}

static struct user_regs_struct at(u64 rip)
{
    return (struct user_regs_struct){ .rip = rip,
                                      .rsp = DATA_VA + 2048,
                                      .cs = 0x33,
                                      .ss = 0x2b,
                                      .eflags = 2,
                                      .orig_rax = ~0ull };
}

static void code(const void *bytes, size_t n)
{
    memset(ram, 0xcc, 4096);
    memcpy(ram, bytes, n);
}

TEST(system_call_is_stopped)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA);
    struct stub_stop stop;
    /* mov eax, 39 (getpid); mov ebx, 7; syscall */
    static const u8 c[] = { 0xb8, 39, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0x0f, 0x05 };

    if (!s)
        return;
    code(c, sizeof c);
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, STUB_SYSCALL);
    EXPECT_EQ(r.orig_rax, 39u);
    EXPECT_EQ(r.rbx, 7u);
    EXPECT_EQ(r.rip, CODE_VA + sizeof c);
    stub_free(s);
}

/* Code of the guest that jumps into our page cannot make our calls. */
TEST(our_page_gives_nothing)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(STUB_BASE);
    struct stub_stop stop;

    if (!s)
        return;
    /* A list of its own: munmap of everything. */
    u64 list[] = { 11, 0, 1ull << 46, 0, 0, 0, 0, ~0ull };
    memcpy(ram + 4096, list, sizeof list);
    r.rbx = DATA_VA;
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, STUB_SYSCALL);
    EXPECT_EQ(r.orig_rax, 11u);
    /* And it cannot write to the page. */
    static const u8 c[] = { 0x48, 0x89, 0x03 }; /* mov [rbx], rax */
    code(c, sizeof c);
    r = at(CODE_VA);
    r.rbx = STUB_BASE + 4096;
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, SIGSEGV);
    EXPECT_EQ(stop.addr, STUB_BASE + 4096);
    stub_free(s);
}

TEST(memory_is_what_was_mapped)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA);
    struct stub_stop stop;
    static const u8 c[] = {
        0x48, 0x89, 0x03, 0x48, 0x8b, 0x09
    }; /* mov [rbx], rax; mov rcx, [rcx] */

    if (!s)
        return;
    code(c, sizeof c);
    r.rax = 0x1122334455667788;
    r.rbx = DATA_VA + 8;
    r.rcx = DATA_VA + 4096;
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, SIGSEGV);
    EXPECT_EQ(stop.addr, DATA_VA + 4096u);
    EXPECT_EQ(r.rip, CODE_VA + 3u);
    u64 got;
    memcpy(&got, ram + 4096 + 8, 8);
    EXPECT_EQ(got, 0x1122334455667788);

    /* A page comes, and goes. */
    memset(ram + 8192, 0x5a, 4096);
    stub_map(s, DATA_VA + 4096, 4096, PROT_READ, fd, 8192);
    EXPECT(stub_commit(s));
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, SIGTRAP);
    EXPECT_EQ(r.rcx, 0x5a5a5a5a5a5a5a5a);
    stub_unmap(s, DATA_VA + 4096, 4096);
    EXPECT(stub_commit(s));
    r.rip = CODE_VA + 3;
    r.rcx = DATA_VA + 4096;
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, SIGSEGV);
    stub_free(s);
}

TEST(vector_registers_go_in_and_out)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA);
    struct stub_stop stop;
    static const u8 c[] = { 0x66, 0x0f, 0xfe, 0xc1 }; /* paddd xmm0, xmm1 */

    if (!s)
        return;
    code(c, sizeof c);
    xsave[512] = 3;
    for (unsigned k = 0; k < 16; k++)
        xsave[160 + k] = (u8)k, xsave[176 + k] = 1;
    for (unsigned pass = 1; pass < 4; pass++) {
        r = at(CODE_VA);
        stub_run(s, &r, xsave, &stop);
        EXPECT_EQ(stop.signal, SIGTRAP);
        EXPECT_EQ(xsave[160], pass);
        EXPECT_EQ(xsave[175], 15 + pass);
    }
    stub_free(s);
}

static void *kicker(void *opaque)
{
    usleep(20000);
    stub_kick(stub_pid(opaque));
    return NULL;
}

TEST(kick)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA);
    struct stub_stop stop;
    static const u8 c[] = { 0xeb, 0xfe }; /* for ever */
    pthread_t t;

    if (!s)
        return;
    code(c, sizeof c);
    EXPECT(pthread_create(&t, NULL, kicker, s) == 0);
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, STUB_KICKED);
    EXPECT_EQ(r.rip, CODE_VA);
    pthread_join(t, NULL);
    EXPECT(stub_cpu_ns(s) > 0);
    stub_free(s);
}

TEST(a_killed_stub_is_noticed)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA);
    struct stub_stop stop;
    static const u8 c[] = { 0xeb, 0xfe };

    if (!s)
        return;
    code(c, sizeof c);
    kill(stub_pid(s), SIGKILL);
    stub_run(s, &r, xsave, &stop);
    EXPECT(stop.signal == STUB_GONE || stop.signal == STUB_REFUSED);
    stub_map(s, CODE_VA, 4096, PROT_READ, fd, 0);
    EXPECT(!stub_commit(s));
    stub_free(s);
}

TEST(registers_that_the_host_refuses)
{
    struct stub *s = open_stub();
    struct user_regs_struct r = at(CODE_VA), was;
    struct stub_stop stop;

    if (!s)
        return;
    r.fs_base = 0xffff800000000000;
    was = r;
    stub_run(s, &r, xsave, &stop);
    EXPECT_EQ(stop.signal, STUB_REFUSED);
    EXPECT(memcmp(&r, &was, sizeof r) == 0);
    stub_free(s);
}

TEST(a_call_that_fails_is_told)
{
    struct stub *s = open_stub();

    if (!s)
        return;
    stub_map(s, DATA_VA, 4096, PROT_READ, 999, 0);
    EXPECT(!stub_commit(s));
    stub_free(s);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    struct stub *s;

    fd = memfd_create("stub test", 0);
    if (fd < 0 || ftruncate(fd, 3 * 4096) < 0)
        return 1;
    ram = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ram == MAP_FAILED)
        return 1;
    s = stub_new(&fd, 1, &error);
    if (!s) { /* a host that forbids ptrace */
        printf("1..0 # SKIP %s\n", error->message);
        return 0;
    }
    stub_free(s);
    return test_main(argc, argv);
}
