// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * code.h - the code cache: blocks of translated code, found by guest-physical place and mode.
 *
 * A block is keyed by (RAM page, offset, mode) and holds no virtual address: code reaches its
 * own VA through v->page_va, so one translation serves every mapping of the page.  Blocks of
 * one page jump to each other directly; jumps that leave the page look the target up by VA in
 * the vCPU's jump cache, whose entries carry the generation of their context (space, privilege,
 * mode).
 *
 * Memory is one memfd, mapped twice: written through one view, run through the other.  A page
 * of guest RAM with translated code has a struct code_page with a bitmap of the bytes that
 * decoding looked at; a write to one of them drops all blocks of the page.  A dropped block's
 * entry is overwritten with a jump to its exit, so nothing else has to be searched for stale
 * pointers.
 *
 * An instruction that reaches into the next page is a block of its own, which looks whether
 * that page is still the one; it is in the lists of both.
 *
 * When the cache is full, everything is dropped with all vCPUs stopped.
 */
#pragma once

#include <stdio.h>

#include "vmm/cpu/soft/soft.h"

enum code_mode {
    CODE_MODE = 3, /* enum insn_mode */
    CODE_NOFP = 4, /* x87/SSE trap (CR0.TS/EM, CR4.OSFXSR clear) */
    CODE_NOAVX = 8,
    CODE_FS = 16, /* FS may be used by its base alone */
    CODE_GS = 32,
    CODE_NOTSC = 64, /* RDTSC traps */
    CODE_USER = 128,
    CODE_NOSHARE = 256, /* translated without shared checks */
};

enum code_exit {
    CODE_EXIT_LOOKUP, /* rip is set: find a block */
    CODE_EXIT_LINK,   /* the same; exit_arg is a link that may be patched */
    CODE_EXIT_POLL,   /* events wait; rip is set */
    CODE_EXIT_INTERP, /* rip is at an instruction for the interpreter */
    CODE_EXIT_SLOW,   /* exit_arg: host PC of an access that has to be interpreted */
    CODE_EXIT_FAULT,  /* exit_arg: host PC that faulted */
    CODE_EXIT_NATIVE, /* native.c's piece has run */
    CODE_EXITS,
};

struct site {    /* one guest instruction in a block */
    u32 host;    /* offset of its first host byte from the block's entry */
    u16 guest;   /* offset in the page */
    bool flags;  /* the host's flags are the guest's when it starts to execute */
    bool shared; /* its check covers more than its own access: may fail needlessly */
};

/* What a block remembers once a shared check of it has failed. */
struct sharing {
    u8 n_failed; /* since ... */
    u64 since;   /* ... this TSC */
    u64 until;   /* the block's entry jumps to its translation without sharing; 0: no */
    u64 entry;   /* the entry's first bytes meanwhile */
    u8 n_rerouted;
    struct block *unshared; /* where it went on last: a block of the same page, lives as long */
    struct block *next;     /* in the cache's list of rerouted blocks */
};

struct block {
    struct block *hash_next, *page_next;
    struct block
        *crossing_next; /* of those that reach into the same page from the one before */
    const u8 *page;     /* host address of the RAM page */
    struct sharing *sharing;
    u32 page_index;
    u16 off, mode;
    u16 n_sites;
    bool dead;
    bool crosses;       /* reaches into the next page (and is in its list, too) */
    bool loops;         /* jumps to itself past its entry */
    u32 code, code_len; /* offset in the cache */
    u32 poll_exit;      /* offset in the cache */
    u32 fault;          /* where the signal handler goes on, offset in the cache */
    u32 incoming;       /* index of a link + 1, 0: none */
    struct site sites[];
};

struct link {      /* a direct jump that leaves a block for another */
    u32 next;      /* of the target's incoming list: index + 1 */
    u32 at;        /* offset of the rel32 */
    u32 stub;      /* where it points while unlinked */
    u32 slot;      /* to another page: offset of that page's host address, 0 while unlinked */
    s32 target;    /* offset from the page's start */
    u32 from : 31; /* index of the block */
    u32 linked : 1;
};

struct code_page {
    u64 bytes[64]; /* 4096 bits: bytes that translations depend on */
    struct block *blocks;
    struct block *crossing; /* blocks of other pages whose one instruction ends here */
};

enum { CODE_HASH = 1 << 16, CODE_BLOCK_MAX_INSNS = 48, CODE_BLOCK_MIN = 32, CODE_CHUNK = 256 };

struct code_cache {
    pthread_mutex_t lock;
    int fd;
    u8 *rw;
    const u8 *rx;
    u32 size, pos, start, limit; /* start: after the thunks */
    struct block **hash;
    struct code_page **pages; /* by RAM page index */
    u64 n_pages;
    struct block **blocks; /* in order of code; room for as many as the cache can hold */
    u32 *chunks; /* for each CODE_CHUNK of the cache: the last block that begins before */
    _Atomic u32 n_blocks;
    struct trans *trans;        /* working memory of the translator */
    struct block *rerouted;     /* blocks whose entry leads to another translation for now */
    _Atomic u64 rerouted_until; /* the first of them ends then; 0: there are none */
    struct link *links;
    u32 n_links, cap_links;
    /* thunks: offsets */
    u32 enter, leave, fill, fill_traded, fill_stack, fill_stack_traded, lookup, miss, exit_off,
        exit_link, fault;
    bool bmi2;
    FILE *perfmap; /* names for perf(1); NULL: not wanted */
    /* statistics */
    u64 n_translated, n_insns, tsc_translating, n_flushes, n_drops, n_links_made, n_rerouted;
};

static inline struct jump_cache_entry *jump_cache_entry(const struct soft_vcpu *v, u64 va)
{
    return (void *)((u8 *)v->jump_cache + jump_cache_at(va));
}

/* The other place where a VA may be found, after this one. */
static inline struct jump_cache_entry *jump_cache_second(struct jump_cache_entry *j)
{
    return (void *)((uintptr_t)j ^ sizeof *j);
}

/* reserve: bytes at the end for native.c */
bool code_init(struct soft_vm *, u64 size, u64 reserve, GError **error);
void code_free(struct soft_vm *);
/* Finds or translates the block at v->s.rip and enters it in the jump cache; NULL: the
 * instruction has to be interpreted (or fetching it faulted: interp_fetch will raise it). */
struct block *code_find(struct soft_vcpu *);
/* The code at v->s.rip if the jump cache has it, or had it in another context (most often: in a
 * process before) and the same page is there now; NULL: look with code_find(). */
const u8 *code_known(struct soft_vcpu *);
/* What the jump cache leads to at v->s.rip is gone. */
void code_forgotten(struct soft_vcpu *);
/* The same, translated with more mode bits (CODE_NOSHARE); not entered in the jump cache. */
struct block *code_find_mode(struct soft_vcpu *, u16 extra);
/* Guest PC of a host PC inside some block (offset in the page); NULL when it is in none. */
const struct site *code_site(struct code_cache *, const u8 *host_pc, struct block **ret);
/*
 * A shared check of this block failed, at this site: how to go on, at v->s.rip (NULL:
 * interpret). If that happens often, the block's entry leads to its translation without shared
 * checks for a while.
 */
struct block *code_shared_failed(struct soft_vcpu *, struct block *, const struct site *);
/* Takes back what code_shared_failed() did long enough ago. Now and then. */
void code_share_again(struct soft_vcpu *);
void code_link(struct soft_vcpu *, u32 link, struct block *to);
u16 code_mode_of(const struct soft_vcpu *);
void code_make_thunks(struct soft_vm *);
struct emit;
/* Emits: to the code of the VA in R9, from the jump cache; `miss`: where else. R10, R11 are
 * free. */
void code_emit_lookup(struct emit *, const u8 *miss);

struct code_source { /* pages that a block may be made of; both are marked as code */
    const u8 *page,
        *next; /* host addresses; next: what follows in the address space, or NULL */
    u64 index, next_index;
};
/*
 * trans.c: emits one block.  One whose first instruction is not for translation only leaves for
 * the interpreter.  NULL: there is no room (*ret_full; cache->pos unchanged), or the
 * instruction reaches into a next page that is not given. REQUIRES(lock), FP saved.
 */
struct block *trans_block(struct soft_vcpu *, const struct code_source *, u16 off, u16 mode,
                          bool *ret_full);
struct trans *trans_new(void);
void trans_free(struct trans *);
/* For native.c: code that runs one instruction with its operand at v->exit_arg, then leaves. */
/* Returns its length, 0 when it does not fit. */
u32 trans_single(struct soft_vm *, const struct insn *, u8 *rw, u8 *end, const u8 *rx);
/* Is this extension (ZydisISASet) known to the translator and in the guest's CPUID? */
bool trans_isa_ok(const struct soft_vm *, u8 isa);
/* May this instruction be copied to the host with only its memory operand replaced? */
bool trans_is_simple(const struct soft_vm *, const struct insn *);
