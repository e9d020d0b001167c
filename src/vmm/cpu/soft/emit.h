// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * emit.h - writing host instructions, the few kinds that the translator adds around the
 * guest's. x86-64 encodings: SDM volume 2, section 2.1-2.3.
 *
 * `p` is the writable view; `rx` = p + delta is where the bytes will run.  A buffer that runs
 * full sets `full` and swallows the rest; the block is then thrown away.
 */
#pragma once

#include "base/types.h"

struct emit {
    u8 *p, *end;
    s64 delta; /* executable address - writable address */
    bool full;
};

static inline void e8(struct emit *e, u8 b)
{
    if (e->p < e->end)
        *e->p++ = b;
    else
        e->full = true;
}
static inline void e32(struct emit *e, u32 v)
{
    for (int i = 0; i < 4; i++)
        e8(e, (u8)(v >> (8 * i)));
}
static inline void e64(struct emit *e, u64 v)
{
    e32(e, (u32)v);
    e32(e, (u32)(v >> 32));
}
static inline void e_bytes(struct emit *e, const u8 *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        e8(e, b[i]);
}

/* op reg, gs:[off] (or the other way round, as the opcode says); w: 64-bit. */
static inline void e_gs(struct emit *e, u8 opcode, u8 reg, u32 off, bool w)
{
    e8(e, 0x65);
    if (w || reg >= 8)
        e8(e, 0x40 | (w ? 8 : 0) | (reg >= 8 ? 4 : 0));
    e8(e, opcode);
    e8(e, 0x04 | (reg & 7) << 3);
    e8(e, 0x25);
    e32(e, off);
}
static inline void e_load(struct emit *e, u8 reg, u32 off)
{
    e_gs(e, 0x8b, reg, off, true);
}
static inline void e_store(struct emit *e, u32 off, u8 reg)
{
    e_gs(e, 0x89, reg, off, true);
}
/* op r64, r64: rm <- rm op reg (0x89 mov, 0x01 add, 0x29 sub, 0x31 xor, 0x39 cmp ...) */
static inline void e_rr(struct emit *e, u8 opcode, u8 rm, u8 reg, bool w)
{
    u8 rex = 0x40 | (w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0);

    if (rex != 0x40)
        e8(e, rex);
    e8(e, opcode);
    e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}
static inline void e_mov(struct emit *e, u8 to, u8 from)
{
    e_rr(e, 0x89, to, from, true);
}
/* op r, imm32 (sign-extended): digit selects add 0, or 1, and 4, sub 5, xor 6, cmp 7 */
static inline void e_alu_imm(struct emit *e, u8 digit, u8 reg, u32 imm, bool w)
{
    u8 rex = 0x40 | (w ? 8 : 0) | (reg >= 8 ? 1 : 0);

    if (rex != 0x40)
        e8(e, rex);
    e8(e, 0x81);
    e8(e, 0xc0 | digit << 3 | (reg & 7));
    e32(e, imm);
}
/* digit: shl 4, shr 5, sar 7 */
static inline void e_shift(struct emit *e, u8 digit, u8 reg, u8 n, bool w)
{
    u8 rex = 0x40 | (w ? 8 : 0) | (reg >= 8 ? 1 : 0);

    if (rex != 0x40)
        e8(e, rex);
    e8(e, 0xc1);
    e8(e, 0xc0 | digit << 3 | (reg & 7));
    e8(e, n);
}
static inline void e_mov_imm32(struct emit *e, u8 reg, u32 imm)
{
    if (reg >= 8)
        e8(e, 0x41);
    e8(e, 0xb8 | (reg & 7));
    e32(e, imm);
}
static inline void e_mov_imm64(struct emit *e, u8 reg, u64 imm)
{
    e8(e, 0x48 | (reg >= 8));
    e8(e, 0xb8 | (reg & 7));
    e64(e, imm);
}
/* The memory operand [base + index*scale + disp]; base and index may be 0xff; reg is the other
 * operand or digit.  Caller has written prefixes; this writes REX, opcode bytes, modrm, sib. */
static inline void e_mem_tail(struct emit *e, u8 reg, u8 base, u8 index, u8 scale, s32 disp)
{
    u8 ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
    u8 r = (reg & 7) << 3;

    if (base == 0xff) { /* [index*scale + disp32] or [disp32] */
        e8(e, r | 4);
        e8(e, ss << 6 | (index == 0xff ? 4 : index & 7) << 3 | 5);
        e32(e, (u32)disp);
        return;
    }
    u8 mod = disp == 0 && (base & 7) != 5 ? 0 : disp >= -128 && disp <= 127 ? 1 : 2;
    if (index == 0xff && (base & 7) != 4) {
        e8(e, mod << 6 | r | (base & 7));
    } else {
        e8(e, mod << 6 | r | 4);
        e8(e, ss << 6 | (index == 0xff ? 4 : index & 7) << 3 | (base & 7));
    }
    if (mod == 1)
        e8(e, (u8)disp);
    else if (mod == 2)
        e32(e, (u32)disp);
}
static inline u8 e_rex(bool w, u8 reg, u8 base, u8 index)
{
    return 0x40 | (w ? 8 : 0) | (reg < 16 && reg >= 8 ? 4 : 0) |
           (index != 0xff && index >= 8 ? 2 : 0) | (base != 0xff && base >= 8 ? 1 : 0);
}
/* op reg, [base + index*scale + disp]: 0x8b load, 0x89 store, 0x8d lea, 0x2b sub, 0x3b cmp */
static inline void e_op_mem(struct emit *e, u8 opcode, u8 reg, u8 base, u8 index, u8 scale,
                            s32 disp, bool w)
{
    u8 rex = e_rex(w, reg, base, index);

    if (rex != 0x40)
        e8(e, rex);
    e8(e, opcode);
    e_mem_tail(e, reg, base, index, scale, disp);
}
static inline void e_lea(struct emit *e, u8 reg, u8 base, s32 disp, bool w)
{
    e_op_mem(e, 0x8d, reg, base, 0xff, 1, disp, w);
}
/* jmp/jcc rel32 to an executable address; returns the writable address of the displacement. */
static inline u8 *e_jmp(struct emit *e, const u8 *to_rx)
{
    e8(e, 0xe9);
    u8 *at = e->p;
    e32(e, (u32)(to_rx - (e->p + 4 + e->delta)));
    return at;
}
static inline u8 *e_jcc(struct emit *e, u8 cc, const u8 *to_rx)
{
    e8(e, 0x0f);
    e8(e, 0x80 | cc);
    u8 *at = e->p;
    e32(e, (u32)(to_rx - (e->p + 4 + e->delta)));
    return at;
}
/* Points an earlier rel32 at the place where emission stands now. */
static inline void e_here(struct emit *e, u8 *at)
{
    u32 v = (u32)(e->p - (at + 4));

    if (!e->full)
        for (int i = 0; i < 4; i++)
            at[i] = (u8)(v >> (8 * i));
}
/* lea reg, [rip + distance to `to`] */
static inline u8 *e_lea_rip(struct emit *e, u8 reg)
{
    e8(e, 0x48 | (reg >= 8 ? 4 : 0));
    e8(e, 0x8d);
    e8(e, 0x05 | (reg & 7) << 3);
    u8 *at = e->p;
    e32(e, 0);
    return at;
}
