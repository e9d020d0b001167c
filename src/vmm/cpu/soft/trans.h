// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * trans.h - inside of the translator: guest x86 code to host x86-64 code, a block at a time.
 *
 *   trans_classify.c  which instructions it knows, and what becomes of each
 *   trans_plan.c      before anything is written: who reads which flags, which checks are
 * shared trans_emit.c      an instruction's host code trans.c           a block: decode, plan,
 * emit, exits
 *
 * Guest registers live in the host's registers of the same name, RSP included, except three:
 * those stay in v->s.gpr, and the host's registers of their names are scratch (S1, S2, S3).
 * Between blocks the three are R9, R10 and R11; a block that uses these much and others little
 * trades them at its entry and back at its exits (trans_plan_registers).  GS is the vCPU.
 * An instruction that only computes is copied byte for byte; one with a memory operand
 * gets the operand replaced by [S1 + S2]: guest address + addend from the TLB.
 *
 *   S1 = address; S2 = &tlb[index]; S3 = S1 - tag; if S3 > 4096 - size: slow; S2 = addend
 *
 * Through RSP, in 64-bit mode, there is one page that needs no look into the TLB:
 *
 *   S3 = address - v->stack_tag; if S3 > 4096 - size: slow; S2 = v->stack_addend
 *
 * The slow path fills the TLB and comes back, or leaves the block for the interpreter to do
 * this one instruction: MMIO, page-crossing accesses, faults, writes to code.  So only the
 * interpreter raises exceptions, and every instruction either happens whole or not at all.
 *
 * Status flags.  Between blocks they are in v->cc (SETO in bits 7:0, LAHF in 15:8); inside,
 * they are in the host's flags or in v->cc or dead.  Checks destroy the host's, so a check
 * saves them first if somebody still reads them (a backward pass over the block knows; at a
 * jump within the page the target is decoded ahead).  At a fault, flags that the code would
 * overwrite before reading are not restored.
 */
#pragma once

#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/emit.h"

enum kind {
    K_NONE, /* interpreter */
    K_SIMPLE,
    K_NOP,
    K_LEA,
    K_PUSH,
    K_POP,
    K_LEAVE,
    K_RDTSC,
    K_PUSHF,
    K_CLI,
    K_STI,
    K_SWAPGS,
    K_STAC,
    K_CLAC,
    K_BITS,
    K_STRING,
    K_REP,     /* MOVS and STOS */
    K_FROMSEG, /* MOV register, segment register */
    K_CLD,
    K_JCC,
    K_LOOP, /* may go on */
    K_JMP,
    K_CALL,
    K_JMP_IND,
    K_CALL_IND,
    K_RET, /* end the block */
};

/* The block's three scratch registers. */
#define S1 (t->s1)
#define S2 (t->s2)
#define S3 (t->s3)
/* The same between blocks, where thunks take their arguments. */
enum { C1 = 9, C2 = 10, C3 = 11, CODE_IN_MEMORY = 1 << C1 | 1 << C2 | 1 << C3 };
#define OFF(f)     ((u32)offsetof(struct soft_vcpu, f))
#define OFF_GPR(n) (OFF(s.gpr) + 8 * (n))
#define MN(x)      ZYDIS_MNEMONIC_##x

struct slow { /* out-of-line part of a check */
    u8 *jcc;
    u8 *back; /* writable address to come back to */
    u32 size;
    bool write;
    bool stack; /* S3 is the address from v->stack_tag */
};
struct far_jump { /* to another page */
    u8 *jcc[2];   /* not the page that it was linked for */
    u8 *jmp;
    u8 *ref[2]; /* displacements that lead to its slot */
    u32 link;
    s32 target;
};
struct exit_stub { /* out-of-line part of a conditional exit */
    u8 *jcc;
    s32 target;
    bool save; /* the flags, which the target wants */
};

/*
 * Accesses through one register that does not change in between (or, for RSP, changes by known
 * amounts) share one check: the first one checks the whole span and leaves the addend in
 * v->group[], the others use it.
 */
enum { GROUPS = 8, GROUPS_OPEN = 2, GROUP_SPAN = 512, GROUP_GAP = 128 };
struct group {
    u8 base;
    s32 lo, hi; /* span, from the register's value at the start of the group's numbering */
    s32 shift;  /* RSP: how far it had moved at the first access */
    u32 first, n;
    bool write;
    s8 slot; /* in v->group[], -1: not shared */
};

struct interp_stub { /* out-of-line: leave for the interpreter at instruction k */
    u8 *jcc;
    u32 k;
};

/* Decoded lately: blocks look ahead into each other. */
enum { TRANS_DECODED = 1024 };
struct trans_decoded {
    const u8 *at; /* host address */
    u32 gen;      /* of the page, see page_gen */
    u16 mode;
    enum kind kind;
    struct insn i;
};

struct trans {
    struct emit e;
    struct soft_vm *sv;
    struct code_cache *cc;
    const u8 *page;
    const u8 *next; /* the page that follows in the address space, where the first instruction
                       reaches into it, else NULL */
    struct code_page *cp;
    u32 gen; /* writes to the page so far */
    u16 mode;
    bool is64;
    bool single; /* native.c: operand at v->exit_arg, no checks */
    u8 s1, s2, s3;
    u16 in_mem;       /* guest registers that are in v->s.gpr: S1, S2 and S3 */
    u16 fetch, spill; /* on entry: of R9-R11 those to be loaded, of S1-S3 those to be stored */
    bool loops;       /* jumps to its own `body` */
    u8 *entry, *body; /* body: after the registers were traded */
    u32 n, n_slow, n_exits, n_groups, n_interps, n_links, n_fars;
    bool in_host, in_cc; /* where the flags are */
    s8 held;             /* the group whose addend S2 has, -1: none */
    /* From here on nothing is cleared for a new block. */
    struct insn i[CODE_BLOCK_MAX_INSNS];
    enum kind kinds[CODE_BLOCK_MAX_INSNS];
    u16 off[CODE_BLOCK_MAX_INSNS + 1];
    u16 live[CODE_BLOCK_MAX_INSNS + 1]; /* flags read at or after instruction k */
    u16 want[CODE_BLOCK_MAX_INSNS];     /* flags that a conditional jump's target reads */
    struct site sites[CODE_BLOCK_MAX_INSNS];
    struct slow slow[CODE_BLOCK_MAX_INSNS * 2];
    struct exit_stub exits[CODE_BLOCK_MAX_INSNS];
    s8 group_of[CODE_BLOCK_MAX_INSNS]; /* index into groups, -1: own check */
    struct group groups[CODE_BLOCK_MAX_INSNS];
    struct interp_stub interps[CODE_BLOCK_MAX_INSNS * 4];
    struct {
        u32 at, stub, slot;
        s32 target;
    } links[CODE_BLOCK_MAX_INSNS + 2];
    struct far_jump fars[CODE_BLOCK_MAX_INSNS + 2];
    struct trans_decoded *decoded; /* [TRANS_DECODED] */
};

/* ---- trans_classify.c -----------------------------------------------------------------------
 */
enum kind trans_classify(const struct soft_vm *, const struct insn *, u16 mode);
/* Flags that are certainly overwritten (a shift by a variable count may leave them alone). */
u16 trans_flags_killed(const struct insn *);

/* The instruction at an offset of the page, and its kind; NULL: none, or not all of it is in
 * the page. Good until the next call. */
const struct trans_decoded *trans_decode(struct trans *, s32 at);

/* ---- trans_plan.c ---------------------------------------------------------------------------
 */
void trans_mark_bytes(struct code_page *, u32 from, u32 n);
/* Flags that code at `off` of the page reads before it overwrites them. */
u16 trans_flags_wanted(struct trans *, s32 off);
/* t->live: who reads which flags. */
void trans_plan_flags(struct trans *, bool ends, bool interp);
/* t->groups: which accesses share a check. */
void trans_plan_groups(struct trans *);
/* t->s1, s2, s3: which registers are scratch. */
void trans_plan_registers(struct trans *);
void trans_plan_default_registers(struct trans *);
static inline bool in_memory(const struct trans *t, u8 r)
{
    return r < 16 && t->in_mem >> r & 1;
}
static inline s32 branch_target(const struct trans *t, u32 k)
{
    return (s32)(t->off[k] + t->i[k].len + (s64)t->i[k].imm);
}

/* ---- trans_emit.c ---------------------------------------------------------------------------
 */
void trans_emit_flags_save(struct trans *);
void trans_emit_flags_restore(struct trans *);
/* Before leaving the block: flags in v->cc if somebody reads them. */
void trans_flags_leave(struct trans *, u16 live);
/* Instruction k that only computes. */
void trans_emit_simple(struct trans *, u32 k);
/* Leaves for the interpreter unless the page that follows is t->next. */
void trans_emit_next_guard(struct trans *);
/* Instruction k, of whatever kind. */
void trans_emit_insn(struct trans *, u32 k);
/* Leaves for a place known relative to the page; flags are in v->cc or dead. */
void trans_emit_direct(struct trans *, s32 target);
/* Out of line, after all that may leave; and at the end of the block. */
void trans_emit_far_stubs(struct trans *);
void trans_emit_far_slots(struct trans *);
/* Registers as they are in the block, from what they are between blocks, and the way back,
 * where `target` (0xff: none) ends up in C1. */
void trans_emit_trade(struct trans *);
void trans_emit_trade_back(struct trans *, u8 target);
/* Leaves with the given exit code from between blocks; RIP = page_va + off. */
void trans_emit_exit(struct trans *, u32 code, s32 off);
