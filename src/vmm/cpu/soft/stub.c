// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stub.c - see stub.h.  ptrace(2), rseq(2), SDM volume 1, 13.4 (XSAVE area).
 */
#include "vmm/cpu/soft/stub.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

/*
 * The code page, run with RBX at the list: each entry is a system call's number and its six
 * arguments, a negative number ends it.  Stops at the INT3 with RBX at the entry that failed,
 * or at the end.
 */
static const u8 stub_code[] = {
    0x48, 0x8b, 0x03,                   /*  0 loop: mov rax, [rbx]       */
    0x48, 0x85, 0xc0,                   /*  3       test rax, rax        */
    0x78, 0x28,                         /*  6       js done              */
    0x48, 0x8b, 0x7b, 0x08,             /*  8       mov rdi, [rbx + 8]   */
    0x48, 0x8b, 0x73, 0x10,             /* 12       mov rsi, [rbx + 16]  */
    0x48, 0x8b, 0x53, 0x18,             /* 16       mov rdx, [rbx + 24]  */
    0x4c, 0x8b, 0x53, 0x20,             /* 20       mov r10, [rbx + 32]  */
    0x4c, 0x8b, 0x43, 0x28,             /* 24       mov r8, [rbx + 40]   */
    0x4c, 0x8b, 0x4b, 0x30,             /* 28       mov r9, [rbx + 48]   */
    0x0f, 0x05,                         /* 32       syscall              */
    0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, /* 34       cmp rax, -4095       */
    0x73, 0x06,                         /* 40       jae done             */
    0x48, 0x83, 0xc3, 0x38,             /* 42       add rbx, 56          */
    0xeb, 0xd0,                         /* 46       jmp loop             */
    0xcc,                               /* 48 done: int3                 */
};

enum { CODE_SIZE = 4096, XSTATE_ROOM = 64 * 1024, GUEST_XSTATE = 832, XSTATE_HEADER = 512 };
struct call {
    s64 nr;
    u64 arg[6];
};
enum { CALLS_MAX = (STUB_SIZE - CODE_SIZE) / sizeof(struct call) - 1 };

struct stub {
    pid_t pid;
    int fd; /* memfd of code page and list */
    u8 *page;
    struct call *calls;
    unsigned n_calls;
    bool broken;
    int sched_fd; /* its schedstat; -1 */
    u64 stop_ns;
    int cpu;    /* pinned to; -1 */
    u8 *xstate; /* as the process has it, if xstate_known */
    size_t xstate_size;
    bool xstate_known;
};

/* ---- in the new process ---------------------------------------------------------------------
 * A copy of one thread of the monitor: system calls only, no library. */
static NORETURN void child(int page_fd, const int *fds, unsigned n_fds)
{
    unsigned from = 0;
    u64 open = 0;

    syscall(SYS_setsid);
    syscall(SYS_prctl, PR_SET_NAME, "posada guest");
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &open, NULL, sizeof open);
    /* glibc registered this thread's area, which will be gone. */
    if (__rseq_size)
        syscall(SYS_rseq, (u8 *)__builtin_thread_pointer() + __rseq_offset,
                MAX(__rseq_size, 32u), RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
    void *at = mmap((void *)(uintptr_t)STUB_BASE, STUB_SIZE, PROT_READ | PROT_EXEC,
                    MAP_SHARED | MAP_FIXED_NOREPLACE, page_fd, 0);
    if (at != (void *)(uintptr_t)STUB_BASE)
        syscall(SYS_exit_group, 1);
    for (unsigned k = 0; k < n_fds; k++) {
        if ((unsigned)fds[k] > from)
            syscall(SYS_close_range, from, (unsigned)fds[k] - 1, 0);
        from = (unsigned)fds[k] + 1;
    }
    syscall(SYS_close_range, from, ~0u, 0);
    if (syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0) < 0)
        syscall(SYS_exit_group, 2);
    syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
    for (;;)
        syscall(SYS_exit_group, 3);
}

/* ---- the tracer's side ----------------------------------------------------------------------
 */
static bool wait_stop(struct stub *s, int *ret)
{
    pid_t r;

    do {
        r = waitpid(s->pid, ret, __WALL);
    } while (r < 0 && errno == EINTR);
    return r == s->pid && WIFSTOPPED(*ret);
}

static bool xstate_get(struct stub *s)
{
    struct iovec v = { s->xstate, s->xstate_size };

    if (ptrace(PTRACE_GETREGSET, s->pid, (void *)NT_X86_XSTATE, &v) < 0)
        return false;
    s->xstate_size = v.iov_len;
    return s->xstate_size >= GUEST_XSTATE;
}

/* What a stop costs on this host: the INT3 of our page, some times. */
static void measure(struct stub *s)
{
    enum { STOPS = 32 };
    u8 xsave[GUEST_XSTATE] __attribute__((aligned(64)));
    struct user_regs_struct r;
    struct stub_stop stop;
    u64 began = stub_cpu_ns(s);

    memcpy(xsave, s->xstate, sizeof xsave);
    for (unsigned k = 0; k < STOPS; k++) {
        r = (struct user_regs_struct){
            .rip = STUB_BASE + sizeof stub_code - 1, .cs = 0x33, .ss = 0x2b, .orig_rax = ~0ull
        };
        stub_run(s, &r, xsave, &stop);
    }
    s->stop_ns = (stub_cpu_ns(s) - began) / STOPS;
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

struct stub *stub_new(const int *fds, unsigned n_fds, GError **error)
{
    struct stub *s = g_new0(struct stub, 1);
    g_autofree int *keep = g_memdup2(fds, n_fds * sizeof *fds);
    g_autofree char *sched = NULL;
    int status;

    qsort(keep, n_fds, sizeof *keep, by_number);
    s->cpu = -1;
    s->pid = s->sched_fd = -1;
    s->fd = memfd_create("posada stub", MFD_CLOEXEC);
    s->page = MAP_FAILED;
    if (s->fd >= 0 && ftruncate(s->fd, STUB_SIZE) == 0)
        s->page = mmap(NULL, STUB_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (s->page == MAP_FAILED) {
        fail_errno(error, errno, "memory of a stub process");
        goto no;
    }
    memcpy(s->page, stub_code, sizeof stub_code);
    s->calls = (void *)(s->page + CODE_SIZE);
    s->xstate = g_malloc0(XSTATE_ROOM);
    s->xstate_size = XSTATE_ROOM;

    s->pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (!s->pid)
        child(s->fd, keep, n_fds);
    if (s->pid < 0) {
        fail_errno(error, errno, "stub process");
        goto no;
    }
    if (!wait_stop(s, &status) || WSTOPSIG(status) != SIGSTOP) {
        fail(error, ERR_FAILED, "a stub process ended with status %#x: may not be traced",
             status);
        goto no;
    }
    if (ptrace(PTRACE_SETOPTIONS, s->pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) < 0 ||
        !xstate_get(s)) {
        fail_errno(error, errno, "ptrace of a stub process");
        goto no;
    }
    sched = g_strdup_printf("/proc/%d/schedstat", (int)s->pid);
    s->sched_fd = open(sched, O_RDONLY | O_CLOEXEC);
    stub_unmap_all(s);
    if (!stub_commit(s)) {
        fail(error, ERR_FAILED, "a stub process cannot empty its memory");
        goto no;
    }
    measure(s);
    return s;
no:
    stub_free(s);
    return NULL;
}

void stub_free(struct stub *s)
{
    if (!s)
        return;
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
    }
    if (s->page && s->page != MAP_FAILED)
        munmap(s->page, STUB_SIZE);
    if (s->fd >= 0)
        close(s->fd);
    if (s->sched_fd >= 0)
        close(s->sched_fd);
    g_free(s->xstate);
    g_free(s);
}

u64 stub_cpu_ns(const struct stub *s)
{
    struct timespec t = { 0, 0 };
    clockid_t id;

    if (clock_getcpuclockid(s->pid, &id) == 0)
        clock_gettime(id, &t);
    return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

u64 stub_stop_ns(const struct stub *s)
{
    return s->stop_ns;
}

u64 stub_delay_ns(const struct stub *s)
{
    char text[96] = "";
    ssize_t n = s->sched_fd < 0 ? -1 : pread(s->sched_fd, text, sizeof text - 1, 0);
    char *end;

    if (n <= 0)
        return 0;
    g_ascii_strtoull(text, &end, 10); /* time on a CPU, then waiting for one */
    return g_ascii_strtoull(end, NULL, 10);
}

pid_t stub_pid(const struct stub *s)
{
    return s->pid;
}

static void queue(struct stub *s, struct call c)
{
    if (s->n_calls == CALLS_MAX && !stub_commit(s))
        s->broken = true;
    s->calls[s->n_calls++] = c;
}

void stub_map(struct stub *s, u64 va, u64 len, int prot, int fd, u64 off)
{
    queue(s, (struct call){
                 SYS_mmap,
                 { va, len, (u64)prot, MAP_SHARED | MAP_FIXED | MAP_POPULATE, (u64)fd, off } });
}

void stub_unmap(struct stub *s, u64 va, u64 len)
{
    queue(s, (struct call){ SYS_munmap, { va, len } });
}

void stub_unmap_all(struct stub *s)
{
    stub_unmap(s, 0, STUB_BASE);
    stub_unmap(s, STUB_BASE + STUB_SIZE, STUB_END - STUB_BASE - STUB_SIZE);
}

void stub_trap_tsc(struct stub *s, bool on)
{
    queue(s, (struct call){ SYS_prctl, { PR_SET_TSC, on ? PR_TSC_SIGSEGV : PR_TSC_ENABLE } });
}

bool stub_commit(struct stub *s)
{
    u64 list = STUB_BASE + CODE_SIZE, end = list + s->n_calls * sizeof(struct call);
    struct user_regs_struct r = { .rip = STUB_BASE,
                                  .rbx = list,
                                  .cs = 0x33,
                                  .ss = 0x2b,
                                  .eflags = 0x202,
                                  .orig_rax = ~0ull };
    int status;

    if (!s->n_calls || s->broken)
        return !s->broken;
    s->calls[s->n_calls].nr = -1;
    s->n_calls = 0;
    s->broken = true;
    if (ptrace(PTRACE_SETREGS, s->pid, 0, &r) < 0)
        return false;
    do { /* a kick that came late is forgotten here: whoever kicks has set its reason before */
        if (ptrace(PTRACE_CONT, s->pid, 0, 0) < 0 || !wait_stop(s, &status))
            return false;
        if (WSTOPSIG(status) == SIGSEGV || WSTOPSIG(status) == SIGBUS)
            return false;
    } while (WSTOPSIG(status) != SIGTRAP);
    if (ptrace(PTRACE_GETREGS, s->pid, 0, &r) < 0 || r.rbx != end) {
        log_info("stub: call %" G_GUINT64_FORMAT " failed: %s",
                 (u64)(r.rbx - list) / sizeof(struct call), g_strerror((int)-r.rax));
        return false;
    }
    s->broken = false;
    return true;
}

/* The guest's state into the process, unless it has it. */
static bool xstate_put(struct stub *s, const u8 *xsave)
{
    struct iovec v = { s->xstate, s->xstate_size };

    if (s->xstate_known && memcmp(s->xstate, xsave, 464) == 0 &&
        memcmp(s->xstate + XSTATE_HEADER, xsave + XSTATE_HEADER,
               GUEST_XSTATE - XSTATE_HEADER) == 0)
        return true;
    memcpy(s->xstate, xsave, 464); /* then bytes for software, the kernel's */
    memcpy(s->xstate + XSTATE_HEADER, xsave + XSTATE_HEADER, GUEST_XSTATE - XSTATE_HEADER);
    s->xstate[XSTATE_HEADER] &= 7;
    memset(s->xstate + XSTATE_HEADER + 1, 0, 63);
    return ptrace(PTRACE_SETREGSET, s->pid, (void *)NT_X86_XSTATE, &v) >= 0;
}

static bool xstate_take(struct stub *s, u8 *xsave)
{
    struct iovec v = { s->xstate, s->xstate_size };

    if (ptrace(PTRACE_GETREGSET, s->pid, (void *)NT_X86_XSTATE, &v) < 0)
        return false;
    s->xstate[XSTATE_HEADER] &= 7;
    memset(s->xstate + XSTATE_HEADER + 1, 0, 63);
    s->xstate_known = true;
    memcpy(xsave, s->xstate, 464);
    memcpy(xsave + XSTATE_HEADER, s->xstate + XSTATE_HEADER, GUEST_XSTATE - XSTATE_HEADER);
    return true;
}

void stub_run(struct stub *s, struct user_regs_struct *regs, u8 *xsave, struct stub_stop *ret)
{
    siginfo_t info;
    int status, sig;

    *ret = (struct stub_stop){ .signal = STUB_REFUSED };
    if (s->broken || !xstate_put(s, xsave) || ptrace(PTRACE_SETREGS, s->pid, 0, regs) < 0 ||
        ptrace(PTRACE_SYSEMU, s->pid, 0, 0) < 0) {
        s->broken = true;
        return;
    }
    ret->signal = STUB_GONE;
    if (!wait_stop(s, &status) || ptrace(PTRACE_GETREGS, s->pid, 0, regs) < 0 ||
        !xstate_take(s, xsave)) {
        s->broken = true;
        return;
    }
    sig = WSTOPSIG(status);
    if (sig == (SIGTRAP | 0x80)) {
        ret->signal = STUB_SYSCALL;
        return;
    }
    if (sig == SIGSEGV || sig == SIGBUS || sig == SIGTRAP) {
        if (ptrace(PTRACE_GETSIGINFO, s->pid, 0, &info) < 0)
            return;
        ret->code = info.si_code;
        ret->addr = (u64)(uintptr_t)info.si_addr;
    }
    ret->signal =
        sig == SIGSEGV || sig == SIGBUS || sig == SIGTRAP || sig == SIGILL || sig == SIGFPE
            ? sig
            : STUB_KICKED;
}

void stub_kick(pid_t pid)
{
    kill(pid, SIGURG);
}

void stub_pin(struct stub *s, int cpu)
{
    cpu_set_t set;

    if (s->cpu == cpu)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(s->pid, sizeof set, &set);
    s->cpu = cpu;
}
