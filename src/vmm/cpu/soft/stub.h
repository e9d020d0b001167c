// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stub.h - a process that maps nothing but pages of a guest, for user code to run in
 * unmodified.
 *
 * The process is a tracee (ptrace(2)) of the thread that made it, and so are all functions here
 * that thread's alone, but stub_kick().  It runs two kinds of code: the guest's, with every
 * system call, fault and trap stopped before it has an effect on the host (PTRACE_SYSEMU), and
 * between these, while the guest's code does not run, a few instructions of ours in a read-only
 * page that make the mapping calls queued by stub_map() and stub_unmap().  Code of the guest
 * that jumps there gets its system calls stopped like any other.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/types.h"

struct stub;

/* Guest addresses that a stub cannot give to the guest: its own page and list of calls; below
 * what the kernel lets a process map (vm.mmap_min_addr); above user space. */
#define STUB_BASE 0x3a5a00000000ull
enum { STUB_SIZE = 68 * 1024, STUB_LOWEST = 64 * 1024 };
#define STUB_END 0x7ffffffff000ull
static inline bool stub_can_map(u64 va)
{
    return va >= STUB_LOWEST && va < STUB_END && va - STUB_BASE >= STUB_SIZE;
}

/* fds: the memfds that stub_map() will name, kept open in the process under the same numbers;
 * all others are closed. NULL: the host does not allow it, *error says what. */
struct stub *stub_new(const int *fds, unsigned n_fds, GError **error);
void stub_free(struct stub *); /* any thread, once the maker has ended or itself */

/* Queue mappings of [va, va+len) onto [off, off+len) of fd, with mmap(2)'s PROT_*;
 * page-aligned. Carried out by stub_commit(), or when the list is full. */
void stub_map(struct stub *, u64 va, u64 len, int prot, int fd, u64 off);
void stub_unmap(struct stub *, u64 va, u64 len);
void stub_unmap_all(struct stub *);
void stub_trap_tsc(struct stub *, bool on); /* RDTSC: SIGSEGV, or the host's counter */
/* false: one of the calls failed, or the process is gone; it is in an unknown state now. */
bool stub_commit(struct stub *) MUST_CHECK;

/* Why the guest's code stopped. */
struct stub_stop {
    int signal; /* SIGSEGV, SIGILL, ...; STUB_SYSCALL; STUB_KICKED; STUB_GONE */
    int code;   /* si_code of SIGSEGV, SIGBUS, SIGTRAP */
    u64 addr;   /* si_addr of SIGSEGV, SIGBUS */
};
/* STUB_REFUSED: it never ran, *regs and *xsave are as they were; STUB_GONE: what it had done is
 * lost. The stub is of no use after either. */
enum { STUB_SYSCALL = 1000, STUB_KICKED, STUB_REFUSED, STUB_GONE };
/*
 * Runs the guest's code from *regs until it stops; *regs and *xsave then hold what it left.
 * xsave: X87, SSE and AVX state in XSAVE's standard format (832 bytes), 64 bytes aligned.
 * After STUB_SYSCALL, RIP is behind the instruction and RAX in orig_rax.
 */
void stub_run(struct stub *, struct user_regs_struct *regs, u8 *xsave, struct stub_stop *ret);
/* Makes a stub_run() under way, or the next one, return STUB_KICKED soon. Any thread. */
void stub_kick(pid_t pid);
u64 stub_cpu_ns(const struct stub *);   /* processor time that it has used */
u64 stub_stop_ns(const struct stub *);  /* ... of which a stop takes so much */
u64 stub_delay_ns(const struct stub *); /* time that it wanted to run and did not */
pid_t stub_pid(const struct stub *);
/* Both the calling thread and the process on this CPU only (a wake-up across CPUs costs far
 * more than all the rest). */
void stub_pin(struct stub *, int cpu);
