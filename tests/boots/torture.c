// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * torture.c - a program of a Linux guest: what must be the same however its code is run.  Each
 * check computes for a while first, so that a CPU engine that changes its ways for hot code has
 * done so.  Prints a line a check; exit status 0: all well.
 */
#include <cpuid.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

static int failures, cpus;

static void check(int ok, const char *what)
{
    if (!ok)
        failures++;
    printf("%s %s\n", ok ? "ok" : "not ok", what);
    fflush(stdout);
}

static u64 mix(u64 x, unsigned n)
{
    while (n--) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return x;
}

/* Some tens of milliseconds without a system call. */
static void warm_up(void)
{
    static u64 expected;
    u64 got = mix(1, 60000000);

    if (!expected)
        expected = got;
    if (got != expected)
        check(0, "the same sum again");
}

/* ---- what the processor says of itself ------------------------------------------------------
 */
static void cpuid_stays(void)
{
    static const u32 leaves[] = { 0, 1, 7, 0xd, 0x80000000, 0x80000001, 0x80000008, 0x40000000 };
    u32 first[8][4], now[4], bad = 0;

    for (int k = 0; k < 8; k++)
        __cpuid_count(leaves[k], 0, first[k][0], first[k][1], first[k][2], first[k][3]);
    warm_up();
    for (int n = 0; n < 200; n++)
        for (int k = 0; k < 8; k++) {
            __cpuid_count(leaves[k], 0, now[0], now[1], now[2], now[3]);
            u32 skip = leaves[k] == 1 ? 0xff000000u : 0; /* the APIC ID moves with the thread */
            if (now[0] != first[k][0] || (now[1] & ~skip) != (first[k][1] & ~skip) ||
                now[2] != first[k][2] || now[3] != first[k][3])
                bad++;
            mix(n, 1000);
        }
    check(!bad, "CPUID says the same in hot code");
}

static void processor_number(void)
{
    unsigned bad = 0, aux;

    for (int c = 0; c < cpus; c++) {
        cpu_set_t set;

        CPU_ZERO(&set);
        CPU_SET(c, &set);
        sched_setaffinity(0, sizeof set, &set);
        warm_up();
        for (int n = 0; n < 50; n++) {
            __builtin_ia32_rdtscp(&aux);
            bad += (aux & 0xfff) != (unsigned)c || sched_getcpu() != c;
            mix(n, 10000);
        }
    }
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int c = 0; c < cpus; c++)
        CPU_SET(c, &all);
    sched_setaffinity(0, sizeof all, &all);
    check(!bad, "RDTSCP and getcpu name the processor");
}

static void time_goes_on(void)
{
    u64 last = 0, back = 0;
    struct timespec a, b;

    warm_up();
    for (int n = 0; n < 2000; n++) {
        u64 now = __builtin_ia32_rdtsc();
        back += now < last;
        last = now;
        clock_gettime(CLOCK_MONOTONIC, &a);
        mix(n, 500);
        clock_gettime(CLOCK_MONOTONIC, &b);
        back += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
    }
    check(!back, "RDTSC and the clock go forward");
}

/* ---- exceptions ---------------------------------------------------------------------------
 */
static sigjmp_buf out;
static volatile int got_signal, got_code;
static void *volatile got_address, *volatile got_rip;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;

    got_signal = sig;
    got_code = info->si_code;
    got_address = info->si_addr;
    got_rip = (void *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    siglongjmp(out, 1);
}

static volatile int steps;
static void on_step(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;

    (void)sig;
    (void)info;
    if (++steps == 100)
        uc->uc_mcontext.gregs[REG_EFL] &= ~0x100;
}

extern u8 at_ud2[], at_div[], at_int3[], at_load[], at_gp[];

static void exceptions(void)
{
    struct sigaction a = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    static const int sigs[] = { SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS };
    unsigned bad = 0;

    for (unsigned k = 0; k < 5; k++)
        sigaction(sigs[k], &a, NULL);
    warm_up();
    for (int n = 0; n < 40; n++) {
        got_signal = 0;
        if (!sigsetjmp(out, 1))
            __asm__ volatile("at_ud2: ud2" ::: "memory");
        bad += got_signal != SIGILL || got_rip != at_ud2;
        if (!sigsetjmp(out, 1))
            __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx\nat_div: div %%ecx" ::
                                 : "rax", "rcx", "rdx", "memory");
        bad += got_signal != SIGFPE || got_rip != at_div || got_code != FPE_INTDIV;
        if (!sigsetjmp(out, 1))
            __asm__ volatile("at_int3: int3" ::: "memory");
        bad += got_signal != SIGTRAP || got_rip != at_int3 + 1;
        if (!sigsetjmp(out, 1))
            __asm__ volatile("at_load: mov 0x12345, %%rax" ::: "rax", "memory");
        bad += got_signal != SIGSEGV || got_rip != at_load || got_address != (void *)0x12345;
        if (!sigsetjmp(out, 1))
            __asm__ volatile("at_gp: mov %%cr0, %%rax" ::: "rax", "memory");
        bad += got_signal != SIGSEGV || got_rip != at_gp;
        mix(n, 100000);
    }
    check(!bad, "UD2, DIV, INT3, a load and a privileged instruction fault where they are");

    struct sigaction s = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
    sigaction(SIGTRAP, &s, NULL);
    steps = 0;
    warm_up();
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushf; orl $0x100, (%%rsp); popf\n"
                     "mov $200, %%ecx\n1: dec %%ecx; jnz 1b\nlea 128(%%rsp), %%rsp" ::
                         : "rcx", "cc", "memory");
    check(steps == 100, "single steps");
    for (unsigned k = 0; k < 5; k++)
        signal(sigs[k], SIG_DFL);
}

/* ---- memory ---------------------------------------------------------------------------------
 */
static u8 *guarded;
static volatile long repairs;

static void on_guard(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    u8 *at = (u8 *)((uintptr_t)info->si_addr & ~4095ul);
    if (at < guarded || at >= guarded + 16 * 4096)
        _exit(9);
    repairs++;
    mprotect(at, 4096, PROT_READ | PROT_WRITE);
}

static _Atomic int stop;
static void *reader(void *sum)
{
    u64 x = 0;

    while (!stop)
        for (int p = 0; p < 16; p++)
            x += ((volatile u8 *)guarded)[p * 4096 + 7];
    *(u64 *)sum = x;
    return NULL;
}

static void protection(void)
{
    struct sigaction a = { .sa_sigaction = on_guard, .sa_flags = SA_SIGINFO }, old;
    pthread_t t;
    u64 sum;
    long expected = 0;
    unsigned bad = 0;

    guarded = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &a, &old);
    stop = 0;
    pthread_create(&t, NULL, reader, &sum);
    warm_up();
    for (int n = 1; n <= 60; n++) {
        mprotect(guarded, 16 * 4096, PROT_READ);
        for (int p = 0; p < 16; p++) {
            guarded[p * 4096 + 9] = (u8)(n + p); /* faults, once */
            guarded[p * 4096 + 9]++;
            expected++;
        }
        for (int p = 0; p < 16; p++)
            bad += guarded[p * 4096 + 9] != (u8)(n + p + 1);
        mix(n, 20000);
    }
    stop = 1;
    pthread_join(t, NULL);
    sigaction(SIGSEGV, &old, NULL);
    munmap(guarded, 16 * 4096);
    check(!bad && repairs == expected, "write protection, taken and given while another thread reads");
}

static void replaced_pages(void)
{
    unsigned bad = 0;
    u8 *at = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    warm_up();
    for (int n = 0; n < 60; n++) {
        memset(at, n + 1, 64 * 4096);
        madvise(at + (n % 32) * 4096, 8 * 4096, MADV_DONTNEED);
        for (int p = 0; p < 64; p++) {
            int gone = p >= n % 32 && p < n % 32 + 8;
            bad += at[p * 4096 + n] != (gone ? 0 : (u8)(n + 1));
        }
        mmap(at + 5 * 4096, 4096, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        bad += at[5 * 4096 + 100] != 0;
        mix(n, 20000);
    }
    munmap(at, 64 * 4096);
    check(!bad, "pages given back and mapped over are empty");
}

static void large_pages(int more, const char *what)
{
    unsigned bad = 0;
    size_t size = 8 << 20;
    u8 *raw = mmap(NULL, size + (2 << 20), PROT_READ | PROT_WRITE | more,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u8 *at = (u8 *)(((uintptr_t)raw + (2 << 20) - 1) & ~((2ul << 20) - 1));

    madvise(at, size, MADV_HUGEPAGE);
    for (size_t k = 0; k < size; k += 64)
        *(u64 *)(void *)(at + k) = k * 3;
    warm_up();
    for (int n = 0; n < 12; n++) {
        size_t hole = (size_t)n * 300 * 4096 % size & ~4095ul;
        mprotect(at + hole, 4096, PROT_READ);
        for (size_t k = 0; k < size; k += 64)
            bad += *(u64 *)(void *)(at + k) != k * 3;
        mprotect(at + hole, 4096, PROT_READ | PROT_WRITE | more);
        madvise(at + hole, 4096, MADV_DONTNEED);
        for (size_t k = 0; k < 4096; k += 64) {
            bad += *(u64 *)(void *)(at + hole + k) != 0;
            *(u64 *)(void *)(at + hole + k) = (hole + k) * 3;
        }
        /* Both sides write after a fork: what was one page is two now. */
        pid_t pid = fork();
        if (!pid) {
            for (size_t k = 0; k < size; k += 4096)
                *(u64 *)(void *)(at + k) = 1;
            mix(n, 100000);
            _exit(0);
        }
        for (size_t k = 0; k < size; k += 4096)
            bad += *(u64 *)(void *)(at + k) != k * 3;
        for (size_t k = 0; k < size; k += 8192)
            *(u64 *)(void *)(at + k) = k * 3;
        int status = -1;
        waitpid(pid, &status, 0);
        bad += status != 0;
        for (size_t k = 0; k < size; k += 4096)
            bad += *(u64 *)(void *)(at + k) != k * 3;
    }
    munmap(raw, size + (2 << 20));
    check(!bad, what);
}

static void copy_on_write(void)
{
    enum { N = 300 };
    unsigned bad = 0;
    u32 *at = mmap(NULL, N * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    warm_up();
    for (int n = 0; n < 10; n++) {
        for (int p = 0; p < N; p++)
            at[p * 1024] = (u32)(n * 1000 + p);
        mix(n, 3000000);
        pid_t pid = fork();
        if (!pid) {
            unsigned wrong = 0;
            mix(n, 8000000);
            for (int p = 0; p < N; p++) {
                wrong += at[p * 1024] != (u32)(n * 1000 + p);
                at[p * 1024] = 7;
            }
            mix(n, 8000000);
            for (int p = 0; p < N; p++)
                wrong += at[p * 1024] != 7;
            _exit(wrong ? 1 : 0);
        }
        for (int p = 0; p < N; p += 2)
            at[p * 1024] += 5;
        mix(n, 8000000);
        int status = -1;
        waitpid(pid, &status, 0);
        bad += status != 0;
        for (int p = 0; p < N; p++)
            bad += at[p * 1024] != (u32)(n * 1000 + p + (p & 1 ? 0 : 5));
    }
    munmap(at, N * 4096);
    check(!bad, "copy on write after fork, both sides");
}

/* ---- code that changes ----------------------------------------------------------------------
 */
static void new_code(void)
{
    unsigned bad = 0;
    u8 *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
                    -1, 0);

    warm_up();
    for (u32 n = 1; n < 3000; n++) {
        u8 *p = code + n % 7 * 64;
        memcpy(p, "\xb8", 1);
        memcpy(p + 1, &n, 4);
        p[5] = 0xc3;
        bad += ((u32(*)(void))(uintptr_t)p)() != n;
        if (n % 100 == 0)
            mix(n, 200000);
    }
    munmap(code, 4096);

    /* Written in one place, executed in another. */
    int fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, 4096) < 0)
        bad++;
    u8 *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    u8 *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    for (u32 n = 1; n < 1000; n++) {
        memcpy(w, "\xb8", 1);
        memcpy(w + 1, &n, 4);
        w[5] = 0xc3;
        __builtin_ia32_mfence();
        u32 a, b, c, d;
        __cpuid(0, a, b, c, d); /* serializes */
        bad += ((u32(*)(void))(uintptr_t)x)() != n;
        if (n % 100 == 0)
            mix(n, 200000);
    }
    munmap(w, 4096);
    munmap(x, 4096);
    close(fd);
    check(!bad, "code written and executed at once, through one mapping and through two");
}

/* ---- registers ------------------------------------------------------------------------------
 */
static void *vectors(void *which)
{
    u64 seed = 1 + (u64)(uintptr_t)which, wrong = 0;
    u8 keep[16][32], now[16][32];
    int fd = open("/dev/zero", O_RDONLY);

    warm_up();
    for (int n = 0; n < 300; n++) {
        char c;
        for (unsigned k = 0; k < sizeof keep; k += 8) {
            seed = mix(seed, 1);
            memcpy((u8 *)keep + k, &seed, 8);
        }
        u64 left = 20000 + (seed & 0xffff), nr = 0, rdi = (u64)fd, rsi = (u64)(uintptr_t)&c;
        __asm__ volatile(
            "vmovdqu (%[k]), %%ymm0; vmovdqu 32(%[k]), %%ymm1; vmovdqu 64(%[k]), %%ymm2\n"
            "vmovdqu 96(%[k]), %%ymm3; vmovdqu 128(%[k]), %%ymm4; vmovdqu 160(%[k]), %%ymm5\n"
            "vmovdqu 192(%[k]), %%ymm6; vmovdqu 224(%[k]), %%ymm7; vmovdqu 256(%[k]), %%ymm8\n"
            "vmovdqu 480(%[k]), %%ymm15\n"
            "1: dec %[l]; jnz 1b\n"
            "mov $1, %%edx; syscall\n" /* read(fd, &c, 1) */
            "vmovdqu %%ymm0, (%[o]); vmovdqu %%ymm1, 32(%[o]); vmovdqu %%ymm2, 64(%[o])\n"
            "vmovdqu %%ymm3, 96(%[o]); vmovdqu %%ymm4, 128(%[o]); vmovdqu %%ymm5, 160(%[o])\n"
            "vmovdqu %%ymm6, 192(%[o]); vmovdqu %%ymm7, 224(%[o]); vmovdqu %%ymm8, 256(%[o])\n"
            "vmovdqu %%ymm15, 480(%[o])\n"
            : [l] "+r"(left), "+a"(nr), "+D"(rdi), "+S"(rsi)
            : [k] "r"(keep), [o] "r"(now)
            : "rcx", "rdx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
              "xmm6", "xmm7", "xmm8", "xmm15");
        wrong += memcmp(keep, now, 9 * 32) != 0 || memcmp(keep[15], now[15], 32) != 0;
    }
    close(fd);
    return (void *)(uintptr_t)wrong;
}

static volatile long ticks;
static void on_tick(int sig)
{
    (void)sig;
    ticks++;
    /* A handler that uses all of them. */
    __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm7\n"
                     "vmovdqa %%ymm0, %%ymm15; fldpi; fstp %%st(0)" ::
                         : "xmm0", "xmm7", "xmm15");
}

static void registers(void)
{
    struct itimerval each = { { 0, 1700 }, { 0, 1700 } }, none = { { 0, 0 }, { 0, 0 } };
    pthread_t t[4];
    u64 wrong = 0;

    signal(SIGALRM, on_tick);
    setitimer(ITIMER_REAL, &each, NULL);
    for (uintptr_t k = 0; k < 4; k++)
        pthread_create(&t[k], NULL, vectors, (void *)k);
    for (int k = 0; k < 4; k++) {
        void *r;
        pthread_join(t[k], &r);
        wrong += (u64)(uintptr_t)r;
    }
    setitimer(ITIMER_REAL, &none, NULL);
    check(!wrong && ticks > 5, "vector registers outlast system calls, signals and other threads");

    unsigned bad = 0;
    for (unsigned rc = 0; rc < 4; rc++) {
        u32 csr = 0x1f80 | rc << 13, now;
        _mm_setcsr(csr);
        warm_up();
        sched_yield();
        now = _mm_getcsr();
        bad += (now & 0x6000) != rc << 13;
    }
    _mm_setcsr(0x1f80);
    check(!bad, "MXCSR too");
}

static void bases(void)
{
    static const u64 at[] = { 0x1234, 0x7fffffffe000, 0xffff800000000000, 0xffffffffffffff00, 0 };
    unsigned bad = 0;

    if (!(getauxval(AT_HWCAP2) & 2))
        return; /* the kernel does not let us */
    for (unsigned k = 0; k < 5; k++) {
        u64 now;

        __asm__ volatile("wrgsbase %0" : : "r"(at[k]));
        warm_up();
        sched_yield();
        mix(k, 1000000);
        __asm__ volatile("rdgsbase %0" : "=r"(now));
        bad += now != at[k];
    }
    check(!bad, "GS base, anywhere");
}

int main(void)
{
    cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    cpuid_stays();
    processor_number();
    time_goes_on();
    exceptions();
    protection();
    replaced_pages();
    large_pages(0, "large pages, and when they are broken up");
    large_pages(PROT_EXEC, "the same where code may be");
    copy_on_write();
    new_code();
    registers();
    bases();
    printf("torture: %s\n", failures ? "FAILED" : "all well");
    return failures != 0;
}
