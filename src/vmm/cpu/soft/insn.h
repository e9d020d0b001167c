// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * insn.h - one decoded x86 instruction, in the compact form that the interpreter executes and
 * the translator re-encodes.  Made from Zydis by insn.c.
 */
#pragma once

#include "base/types.h"
#include <Zydis/Zydis.h>

enum insn_op_kind {
    OP_NONE,
    OP_GPR,   /* reg 0-15, size 1/2/4/8; size 1 with reg 4-7 is SPL..DIL */
    OP_HIGH8, /* AH CH DH BH as reg 0-3 */
    OP_MEM,   /* the instruction's one explicit memory operand (see has_mem) */
    OP_IMM,   /* imm (op that is the second immediate: imm2) */
    OP_REL,   /* branch displacement: imm, sign-extended */
    OP_FAR,   /* ptr16:16/32: imm = offset, imm2 = selector */
    OP_SEG,
    OP_CR,
    OP_DR,
    OP_MM,
    OP_XMM,
    OP_YMM,
    OP_ST,
    OP_K,
    OP_BND,
    OP_OTHER,
};
enum { OP_READ = 1, OP_WRITE = 2 };
struct insn_op {
    u8 kind, reg, size, access;
};

enum insn_prefix {
    PFX_LOCK = 1,
    PFX_REP = 2,
    PFX_REPNE = 4,
    PFX_66 = 8,
    PFX_67 = 16,
    PFX_REX = 32,
    PFX_REXW = 64
};
enum insn_enc { ENC_LEGACY, ENC_3DNOW, ENC_VEX, ENC_EVEX, ENC_OTHER };
enum { GPR_NONE = 0xff, GPR_RIP = 16 };
/* The processor mode that decoding depends on. */
enum insn_mode { MODE_16, MODE_32, MODE_64 };

struct insn {
    u8 bytes[16];
    u8 len;
    u8 mode;   /* enum insn_mode */
    u16 mnem;  /* ZydisMnemonic */
    u8 opsize; /* operand size in bytes: 1, 2, 4, 8 (8 also for 64-bit stack operations) */
    u8 adsize; /* 2, 4, 8 */
    u8 prefixes;
    u8 enc;
    u8 map, opcode; /* ZydisOpcodeMap, last opcode byte */
    u8 rex;         /* the REX byte or 0 */
    u8 vex_len;     /* 0: 128, 1: 256 bits */
    u8 nops;        /* visible operands */
    struct insn_op op[4];
    /* memory operand; implicit string operands (rsi/rdi), stack accesses are not in here */
    bool has_mem, mem_vsib, mem_agen; /* agen: address only (LEA, NOP) */
    u8 seg;                           /* effective segment register, enum x86_seg_name */
    bool seg_override;
    u8 base, index, scale; /* GPR_NONE, 0-15, GPR_RIP; VSIB: index is a vector register */
    u8 mem_size;           /* bytes; 0 when not a fixed small size */
    u16 mem_size16;        /* the same for big ones (XSAVE, FXSAVE) */
    u8 mem_access;         /* OP_READ | OP_WRITE */
    s64 disp;
    u64 imm; /* sign-extended to 64 bits when the instruction sign-extends it */
    u32 imm2;
    /* where things lie in bytes[] */
    u8 opcode_at, modrm_at, disp_at, disp_size, imm_at, imm_size;
    u8 modrm;
    bool has_modrm;
    /* status flags (FL_STATUS bits) */
    u16 fl_undefined;      /* the part of fl_write that hardware may as well leave alone */
    u16 gpr_written;       /* registers that it writes, hidden ones too */
    u16 fl_read, fl_write; /* write: all that are changed or undefined after */
    bool vector;           /* touches x87, MMX, SSE or AVX state */
    bool avx;              /* VEX-encoded vector instruction: needs XCR0.AVX */
    u8 isa;                /* ZydisISASet, for the check against CPUID */
};

/* Decodes up to n (<= 15) bytes. Returns 0; -EAGAIN when n is too few; -EILSEQ: #UD (or #GP
 * when longer than 15 bytes, -E2BIG). */
int insn_decode(const u8 *bytes, size_t n, enum insn_mode, struct insn *ret);
const char *insn_name(u16 mnem); /* "mov" */
/* For messages: "mov rax, [rbx+8]". */
void insn_format(const struct insn *, u64 rip, char *to, size_t n);
