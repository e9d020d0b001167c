// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * native.c - vector state in and out of the host's registers, single instructions run on the
 * host for the interpreter, and the signals that guest code can cause.
 *
 * Translated code and native pieces raise host signals where the guest's instruction would
 * fault: SIGFPE (#DE, #MF, #XM), SIGSEGV (#GP of a misaligned vector operand), SIGILL, SIGBUS.
 * The handler finds its vCPU by a thread-local pointer and resumes in the `fault` thunk.  RSP
 * is the guest's at that time, so handlers run on their own stack (SS_AUTODISARM: the kernel
 * never takes the guest's RSP for a position on it).
 */
#include "vmm/cpu/soft/native.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/cpu/soft/code.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
enum { ARCH_SET_GS_ = 0x1001, NATIVE_SLICE = 16 * 1024, NATIVE_SLOTS = 256, XSTATE = 7 };
enum { SIGNAL_STACK = 64 * 1024 };

struct native_code {
    u8 *rw;
    const u8 *rx;
    u32 pos;
    struct native_slot {
        u8 bytes[15], len, mode;
        u32 code; /* offset, 0: free */
    } slot[NATIVE_SLOTS];
};

static __thread struct soft_vcpu *self;
static struct sigaction old_action[65];

void soft_fp_save(struct soft_vcpu *v)
{
    u32 mxcsr = 0x1f80;

    if (!v->fp_live)
        return;
    __asm__ volatile("xsave64 %0" : "+m"(v->s.xsave) : "a"(XSTATE), "d"(0) : "memory");
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
    v->fp_live = false;
}

void soft_fp_load(struct soft_vcpu *v)
{
    if (v->fp_live)
        return;
    __asm__ volatile("xrstor64 %0" : : "m"(v->s.xsave), "a"(XSTATE), "d"(0) : "memory");
    v->fp_live = true;
}

static bool in_cache(const struct code_cache *cc, u64 pc)
{
    return cc && pc - (u64)(uintptr_t)cc->rx < cc->size;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *r = uc->uc_mcontext.gregs;
    struct soft_vcpu *v = self;
    u64 pc = (u64)r[REG_RIP];

    if (!v || !in_cache(v->sv->code, pc)) {
        /* Not ours: as if we had not been here. */
        sigaction(sig, &old_action[sig], NULL);
        return;
    }
    struct code_cache *cc = v->sv->code;
    struct block *b = NULL;
    const struct site *s = code_site(cc, (const u8 *)(uintptr_t)pc, &b);

    if (s && s->flags) {
        u64 fl = (u64)r[REG_EFL];
        v->cc = (u16)((fl & 0xd5) << 8 | (fl >> 11 & 1));
    }
    v->exit_arg = pc;
    v->scratch[7] =
        sig == SIGFPE
            ? (info->si_code == FPE_INTDIV || info->si_code == FPE_INTOVF ? EXC_DE : EXC_XM)
        : sig == SIGILL  ? EXC_UD
        : sig == SIGBUS  ? EXC_AC
        : sig == SIGTRAP ? EXC_DB
                         : EXC_GP;
    r[REG_EFL] &= ~(greg_t)(FL_DF | FL_TF | FL_AC);
    r[REG_RIP] = (greg_t)(uintptr_t)(cc->rx + (s ? b->fault : cc->fault));
}

void native_install(void)
{
    static const int sigs[] = { SIGSEGV, SIGFPE, SIGILL, SIGBUS, SIGTRAP };
    struct sigaction a = { .sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

    sigemptyset(&a.sa_mask);
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++) {
        struct sigaction now;
        sigaction(sigs[k], NULL, &now);
        if (now.sa_sigaction != on_signal) {
            old_action[sigs[k]] = now;
            sigaction(sigs[k], &a, NULL);
        }
    }
}

void native_thread_enter(struct soft_vcpu *v)
{
    stack_t st = { .ss_sp = v->signal_stack,
                   .ss_size = SIGNAL_STACK,
                   .ss_flags = SS_AUTODISARM };

    if (sigaltstack(&st, NULL) < 0) {
        st.ss_flags = 0;
        sigaltstack(&st, NULL);
    }
    syscall(SYS_arch_prctl, ARCH_SET_GS_, v);
    self = v;
}

void native_thread_leave(struct soft_vcpu *v UNUSED)
{
    stack_t st = { .ss_flags = SS_DISABLE };

    self = NULL;
    sigaltstack(&st, NULL);
}

bool native_init(struct soft_vcpu *v, GError **error)
{
    struct code_cache *cc = v->sv->code;
    u32 at = cc->size - (v->vcpu->index + 1) * NATIVE_SLICE;

    v->native = g_new0(struct native_code, 1);
    v->native->rw = cc->rw + at;
    v->native->rx = cc->rx + at;
    v->native->pos = 16;
    v->signal_stack = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (v->signal_stack == MAP_FAILED) {
        v->signal_stack = NULL;
        return fail_errno(error, errno, "signal stack");
    }
    return true;
}

u32 native_area(u32 vcpus)
{
    return vcpus * NATIVE_SLICE;
}

void native_fini(struct soft_vcpu *v)
{
    g_clear_pointer(&v->native, g_free);
    if (v->signal_stack)
        munmap(v->signal_stack, SIGNAL_STACK);
}

static bool same_bytes(const u8 *a, const u8 *b, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (a[k] != b[k])
            return false;
    return true;
}

int soft_native(struct soft_vcpu *v, const struct insn *i, void *mem)
{
    struct native_code *nc = v->native;
    u32 h = (u32)i->len * 31 + i->mode;

    for (unsigned k = 0; k < i->len; k++)
        h = h * 33 ^ i->bytes[k];
    struct native_slot *s = &nc->slot[(h ^ h >> 8) & (NATIVE_SLOTS - 1)];

    if (!s->code || s->len != i->len || s->mode != i->mode ||
        !same_bytes(s->bytes, i->bytes, i->len)) {
        soft_fp_save(v);
        if (nc->pos + 512 > NATIVE_SLICE) {
            nc->pos = 16;
            memset(nc->slot, 0, sizeof nc->slot);
        }
        s->code = nc->pos;
        s->len = i->len;
        s->mode = i->mode;
        memcpy(s->bytes, i->bytes, i->len);
        u32 n =
            trans_single(v->sv, i, nc->rw + nc->pos, nc->rw + nc->pos + 500, nc->rx + nc->pos);
        if (!n) {
            s->code = 0;
            return EXC_UD;
        }
        nc->pos = ROUND_UP(nc->pos + n, 16u);
    }
    if (i->vector)
        soft_fp_load(v);
    v->exit_arg = (u64)(uintptr_t)mem;
    u64 rip = v->s.rip, page_va = v->page_va;

    native_enter(v, nc->rx + s->code);
    v->s.rip = rip;
    v->page_va = page_va;
    if (!SOFT_LAZY_FP)
        soft_fp_save(v);
    if (v->exit_code != CODE_EXIT_FAULT)
        return 0;
    u8 vector = (u8)v->scratch[7];

    if (vector == EXC_XM && i->vector) {
        for (unsigned k = 0; k < i->nops; k++)
            if (i->op[k].kind == OP_ST || i->op[k].kind == OP_MM)
                vector = EXC_MF;
        if (i->opcode >= 0xd8 && i->opcode <= 0xdf && i->map == ZYDIS_OPCODE_MAP_DEFAULT)
            vector = EXC_MF;
        if (i->opcode == 0x9b)
            vector = EXC_MF;
    }
    return vector;
}

void native_enter(struct soft_vcpu *v, const u8 *code)
{
    u64 fl = v->s.rflags;
    struct code_cache *cc = v->sv->code;

    v->cc = (u16)(((fl & 0xd5) | 2) << 8 | (fl >> 11 & 1));
    ((void (*)(struct soft_vcpu *, const u8 *))(uintptr_t)(cc->rx + cc->enter))(v, code);
    v->s.rflags =
        (v->s.rflags & ~(u64)FL_STATUS) | (v->cc >> 8 & 0xd5) | (u64)(v->cc & 1) << 11;
}

/* The fill thunk's C side. Where the compiler cannot be kept from calling memcpy and the like
 * (clang, sanitizers), vector registers are saved around it. */
u64 native_fill(struct soft_vcpu *v, u64 va, unsigned size, u32 write)
{
    u64 addend;

    if (SOFT_LAZY_FP)
        return mmu_fill_fast(v, va, size, write);
    soft_fp_save(v);
    addend = mmu_fill_fast(v, va, size, write);
    soft_fp_load(v);
    return addend;
}
