// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * selftest.c - does /dev/kvm run a long-mode guest at speed?
 *
 * There are hosts whose KVM opens, creates guests and answers every question, yet interprets
 * most instructions; our own translator is far faster there.  Neither the device node nor CPU
 * flags tell.  So a guest of a few bytes reloads CR3 and adds in a loop, and reports each
 * 48,000 instructions by a port write.  A processor takes 30 us for that, nested ones up to a
 * millisecond, an interpreter tens.  The first reports may be slow anywhere (nothing is mapped
 * yet, the host is busy): the best one counts, and three good ones end the test.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "vmm/cpu/kvm/kvm.h"

enum { TEST_MEM = 2 << 20, TEST_CODE = 0x1000, TEST_TABLES = 0x10000, TEST_PORT = 0xe9 };
enum {
    TEST_BOUND_US = 6000,
    TEST_LIMIT_MS = 50, /* the watchdog */
    TEST_GOOD = 3,      /* reports within the bound that are enough */
};

extern const u8 kvm_test_code[], kvm_test_code_end[];
__asm__(".pushsection .rodata\n"
        "kvm_test_code:\n"
        "1: movl $8, %ecx\n"
        "2: movq %rax, %cr3\n"
        "   movl $2000, %edx\n"
        "3: addq (%rbx), %rsi\n"
        "   decl %edx\n"
        "   jnz 3b\n"
        "   decl %ecx\n"
        "   jnz 2b\n"
        "   outb %al, $0xe9\n"
        "   jmp 1b\n"
        "kvm_test_code_end:\n"
        ".popsection\n");

struct probe {
    int kvm, vm, vcpu;
    u8 *mem;
    struct kvm_run *run;
    size_t run_size;
    timer_t timer;
    bool has_timer;
};

static u64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

static void probe_close(struct probe *p)
{
    if (p->has_timer)
        timer_delete(p->timer);
    if (p->run)
        munmap(p->run, p->run_size);
    if (p->mem)
        munmap(p->mem, TEST_MEM);
    fd_close(&p->vcpu);
    fd_close(&p->vm);
    fd_close(&p->kvm);
}

/* NULL, or what could not be done; errno says why. */
static const char *probe_open(struct probe *p)
{
    p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (p->kvm < 0)
        return "/dev/kvm cannot be opened";
    if (kvm_ioctl(p->kvm, KVM_GET_API_VERSION, NULL) != KVM_API_VERSION)
        return "the kernel's KVM interface is not version 12";
    p->vm = kvm_ioctl(p->kvm, KVM_CREATE_VM, NULL);
    if (p->vm < 0)
        return "no virtual machine can be created";
    kvm_ioctl_n(p->vm, KVM_SET_TSS_ADDR, 0xfffbd000);
    p->mem = mmap(NULL, TEST_MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p->mem == MAP_FAILED) {
        p->mem = NULL;
        return "no memory";
    }
    struct kvm_userspace_memory_region r = { .memory_size = TEST_MEM,
                                             .userspace_addr = (uintptr_t)p->mem };
    if (kvm_ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &r) < 0)
        return "guest memory is refused";
    p->vcpu = kvm_ioctl(p->vm, KVM_CREATE_VCPU, NULL);
    if (p->vcpu < 0)
        return "no virtual processor can be created";
    int size = kvm_ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof *p->run)
        return "no shared run page";
    p->run_size = (size_t)size;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    if (p->run == MAP_FAILED) {
        p->run = NULL;
        return "the run page cannot be mapped";
    }
    return NULL;
}

static const char *probe_setup(struct probe *p)
{
    u64 *t = (u64 *)(void *)(p->mem + TEST_TABLES);
    struct kvm_sregs s;
    struct kvm_regs r = {
        .rip = TEST_CODE, .rsp = 0x8000, .rflags = 2, .rax = TEST_TABLES, .rbx = 0x2000
    };
    struct kvm_segment code = {
        .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
    };
    struct kvm_segment data = {
        .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
    };

    t[0] = (TEST_TABLES + 0x1000) | 3;
    t[512] = (TEST_TABLES + 0x2000) | 3;
    t[1024] = 0x83; /* 2 MiB, identity */
    memcpy(p->mem + TEST_CODE, kvm_test_code, (size_t)(kvm_test_code_end - kvm_test_code));
    struct {
        struct kvm_cpuid2 h;
        struct kvm_cpuid_entry2 e[160];
    } *c = g_malloc0(sizeof *c);
    c->h.nent = 160;
    if (kvm_ioctl(p->kvm, KVM_GET_SUPPORTED_CPUID, c) >= 0)
        kvm_ioctl(p->vcpu, KVM_SET_CPUID2, c);
    g_free(c);
    if (kvm_ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
        return "no registers can be read";
    s.cr3 = TEST_TABLES;
    s.cr4 |= CR4_PAE;
    s.cr0 |= CR0_PG | CR0_PE;
    s.efer |= EFER_LME | EFER_LMA;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    if (kvm_ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0 || kvm_ioctl(p->vcpu, KVM_SET_REGS, &r) < 0)
        return "long mode is refused";
    return NULL;
}

static void probe_watchdog(struct probe *p)
{
    struct sigevent e = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = kvm_kick_signal() };
    struct itimerspec at = { .it_value = { .tv_nsec = TEST_LIMIT_MS * NS_PER_MS } };

    e._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    p->has_timer = timer_create(CLOCK_MONOTONIC, &e, &p->timer) == 0;
    if (p->has_timer)
        timer_settime(p->timer, 0, &at, NULL);
}

/* Runs; the best time of a report in ns, UINT64_MAX when there was none. */
static u64 probe_run(struct probe *p, const char **ret_why)
{
    u64 last = now_ns(), best = UINT64_MAX;

    for (int good = 0; good < TEST_GOOD;) {
        int rc = ioctl(p->vcpu, KVM_RUN, 0);
        u64 now = now_ns();

        if (rc < 0 && (errno == EINTR || errno == EAGAIN))
            return best; /* the watchdog */
        if (rc < 0 || p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != TEST_PORT) {
            *ret_why = "the test guest does not run";
            return UINT64_MAX;
        }
        best = MIN(best, now - last);
        good += now - last <= TEST_BOUND_US * NS_PER_US;
        last = now;
    }
    return best;
}

bool kvm_self_test(char **ret_why)
{
    struct probe p = { .kvm = -1, .vm = -1, .vcpu = -1 };
    const char *what = NULL;
    u64 best = UINT64_MAX;
    sigset_t old, set;

    errno = 0;
    sigemptyset(&set);
    sigaddset(&set, kvm_kick_signal());
    pthread_sigmask(SIG_BLOCK, &set, &old);
    what = probe_open(&p);
    if (!what)
        what = probe_setup(&p);
    if (what) {
        *ret_why = errno ? g_strdup_printf("%s: %s", what, g_strerror(errno)) : g_strdup(what);
    } else if (!kvm_set_run_mask(p.vcpu)) {
        *ret_why = g_strdup("KVM_SET_SIGNAL_MASK is refused");
        what = "";
    } else {
        probe_watchdog(&p);
        best = probe_run(&p, &what);
        if (what)
            *ret_why = g_strdup(what);
        else if (best == UINT64_MAX)
            *ret_why = g_strdup_printf("/dev/kvm is slow: under %.1f million instructions a "
                                       "second in long mode (it interprets)",
                                       48.0 / TEST_LIMIT_MS);
        else
            *ret_why = g_strdup_printf("/dev/kvm %s: %.0f million instructions a second in a "
                                       "long-mode loop that reloads CR3",
                                       best > TEST_BOUND_US * NS_PER_US ? "is slow" : "works",
                                       48e6 / (double)best);
    }
    probe_close(&p);
    kvm_drain_kick();
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return !what && best <= TEST_BOUND_US * NS_PER_US;
}
