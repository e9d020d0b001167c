// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * direct.h - user code of the guest, run by the host's processor as it is (stub.h), where that
 * pays: in address spaces that compute.  See direct.c.
 *
 * A stub is one more cache of an address space, beside the TLB: whoever flushes tells it by the
 * inline functions below, which only note it (they run with vector registers live); what was
 * noted is carried out before the next entry.
 */
#pragma once

#include "vmm/cpu/soft/soft.h"

enum { DIRECT_SPACES = 4, DIRECT_PENDING = 32 };

struct stub;

struct direct_space {
    u64 cr3; /* base of its page tables; ~0: free */
    struct stub *stub;
    GHashTable *pages; /* what the stub maps: see direct.c */
    bool stale;        /* compare all of it with the page tables */
    bool cut;          /* some are parts of a larger page of the guest: INVLPG names only one */
    u32 n_pending;     /* pages to compare */
    u64 pending[DIRECT_PENDING];
    bool tsc_traps;
    u64 ran; /* the stub's processor time when it was judged last; stops since */
    u32 traps;
    u64 fault_at; /* TSC of the guest's last page fault there; how many came soon after another
                   */
    u32 burst;
    u64 delay; /* how long the stub has waited for a CPU, when that was looked at last */
    u64 used;  /* for choosing a victim */
};

struct direct {
    struct direct_space space[DIRECT_SPACES];
    u64 clock;
    bool refused; /* the host does not allow it */
    u32 n_blocks; /* RAM blocks that the stubs know */
    /* Promotion: the last timer interrupts in user code. */
    u64 sample_cr3, sample_at, sample_interp;
    u64 score; /* TSC ticks that the space has computed since */
    u64 banned_cr3[8], banned_until[8];
    u32 banned_next;
    u64 backoff[8];
    /* The CPU that this thread is bound to, -1; since when; what it was allowed before. */
    _Atomic int cpu;
    u64 pinned_at, moved_at;
    struct direct_cpus *allowed;
    /* Statistics. */
    u64 n_enter, n_syscall, n_fault, n_kick, n_other, n_map, n_unmap, n_excluded, n_promoted,
        n_demoted, n_resync, n_held;
    u8 *xsave;
};

static inline void direct_flush_all(struct soft_vcpu *v)
{
    struct direct *d = v->direct;

    for (unsigned k = 0; d && k < DIRECT_SPACES; k++)
        d->space[k].stale = true;
}

static inline void direct_flush_space(struct soft_vcpu *v, u64 cr3)
{
    struct direct *d = v->direct;

    for (unsigned k = 0; d && k < DIRECT_SPACES; k++)
        if (d->space[k].cr3 == cr3)
            d->space[k].stale = true;
}

static inline void direct_look_at(struct direct_space *s, u64 va)
{
    if (s->n_pending < DIRECT_PENDING && !s->cut)
        s->pending[s->n_pending++] = va;
    else
        s->stale = true;
}

static inline void direct_flush_page(struct soft_vcpu *v, u64 va)
{
    struct direct *d = v->direct;

    for (unsigned k = 0; d && !(va >> 47) && k < DIRECT_SPACES; k++)
        direct_look_at(&d->space[k], va);
}

/* Which of them does CR3 name? To be called when it changes. */
static inline void direct_choose(struct soft_vcpu *v)
{
    struct direct *d = v->direct;

    v->direct_space = NULL;
    for (unsigned k = 0; d && k < DIRECT_SPACES; k++)
        if (d->space[k].cr3 == v->spaces[v->space].cr3)
            v->direct_space = &d->space[k];
}

bool direct_init(struct soft_vcpu *);
void direct_fini(struct soft_vcpu *); /* after the thread has ended */
/* Runs user code; false: not now (translate it). *ret_stop as interp_exec(). All functions of
 * direct.c that have no other word on it: vector registers are saved already (soft_fp_save()).
 */
bool direct_run(struct soft_vcpu *, int *ret_stop);
/* An interrupt found user code running: is this a space that computes? */
void direct_sample(struct soft_vcpu *);
/* The interpreter is about to execute an instruction at RIP that is not the same on the host.
 */
void direct_seen(struct soft_vcpu *, const struct insn *);
/* Makes direct_run() return. Any thread, after poll was set. */
void direct_kick(struct soft_vcpu *);
/* This thread is about to sleep: it may wake on any CPU. */
void direct_unpin(struct soft_vcpu *);
void direct_info(const struct soft_vcpu *, GString *to); /* a line for people */
/* Pages that stubs may write: dirty in `log`, whatever happened. Stopped vCPU. */
void direct_log_sync(struct soft_vcpu *, u8 log);
