// SPDX-License-Identifier: GPL-2.0-or-later
/* trans_emit.c - host code of one guest instruction (trans.h). */
#include "vmm/cpu/soft/trans.h"

#include <string.h>

/* ---- flags ----------------------------------------------------------------------------------
 */

void trans_emit_flags_save(struct trans *t)
{
    struct emit *e = &t->e;

    e_mov(e, S3, RAX);
    e8(e, 0x9f);                                     /* lahf */
    e_bytes(e, (const u8[]){ 0x0f, 0x90, 0xc0 }, 3); /* seto al */
    e8(e, 0x65), e8(e, 0x66), e8(e, 0x89), e8(e, 0x04), e8(e, 0x25), e32(e, OFF(cc));
    e_mov(e, RAX, S3);
}

void trans_emit_flags_restore(struct trans *t)
{
    struct emit *e = &t->e;

    e_mov(e, S3, RAX);
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x04), e8(e, 0x25), e32(e, OFF(cc));
    e8(e, 0x04), e8(e, 0x7f); /* add al, 0x7f: OF = al */
    e8(e, 0x9e);              /* sahf */
    e_mov(e, RAX, S3);
}

/* The host's flags are about to be destroyed; `live`: what is still read. */
static void flags_clobber(struct trans *t, u16 live)
{
    if (t->in_host && !t->in_cc && live) {
        trans_emit_flags_save(t);
        t->in_cc = true;
    }
    t->in_host = false;
}

void trans_flags_leave(struct trans *t, u16 live)
{
    if (live && t->in_host && !t->in_cc) {
        trans_emit_flags_save(t);
        t->in_cc = true;
    }
}

static void flags_need(struct trans *t)
{
    if (!t->in_host)
        trans_emit_flags_restore(t);
    t->in_host = true;
}

/* ---- memory ---------------------------------------------------------------------------------
 */

/* S1 = guest-linear address of the memory operand. Uses S2. Flags are destroyed if a segment
 * base is added. */
static void emit_address(struct trans *t, const struct insn *i, u16 off)
{
    struct emit *e = &t->e;
    bool w = i->adsize == 8;
    u8 base = i->base, index = i->index;

    if (base == GPR_RIP) {
        e_load(e, S1, OFF(page_va));
        e_lea(e, S1, S1, (s32)(off + i->len + i->disp), w);
    } else if (base == GPR_NONE && index == GPR_NONE) {
        if (i->disp == (s32)i->disp && w) {
            e_op_mem(e, 0x8d, S1, 0xff, 0xff, 1, (s32)i->disp, true);
        } else if (!w) {
            e_mov_imm32(e, S1, (u32)i->disp);
        } else {
            e_mov_imm64(e, S1, (u64)i->disp);
        }
    } else {
        if (in_memory(t, base)) {
            e_load(e, S1, OFF_GPR(base));
            base = S1;
        }
        if (in_memory(t, index)) {
            e_load(e, S2, OFF_GPR(index));
            t->held = -1;
            index = S2;
        }
        e_op_mem(e, 0x8d, S1, base, index, i->scale, (s32)i->disp, w);
    }
    if (!i->mem_agen && (i->seg == FS || i->seg == GS)) {
        e_gs(e, 0x03, S1,
             OFF(s.seg) + i->seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, base),
             t->is64);
    }
}

/* to = the TLB entry of the address in `va`. Destroys flags. */
static void emit_tlb_entry(struct trans *t, u8 to, u8 va)
{
    struct emit *e = &t->e;

    if (t->cc->bmi2) { /* rorx to, va, 7 */
        e8(e, 0xc4), e8(e, (to >= 8 ? 0 : 0x80) | 0x40 | (va >= 8 ? 0 : 0x20) | 3), e8(e, 0xfb);
        e8(e, 0xf0), e8(e, 0xc0 | (to & 7) << 3 | (va & 7)), e8(e, 12 - TLB_ENTRY_BITS);
    } else {
        e_mov(e, to, va);
        e_shift(e, 5, to, 12 - TLB_ENTRY_BITS, true);
    }
    e_alu_imm(e, 4, to, (TLB_SIZE - 1) * sizeof(struct tlb_entry), false);
    e_gs(e, 0x03, to, OFF(tlb), true);
}

/* S1 = guest address -> S2 = addend. Destroys flags, S3. */
static void emit_check(struct trans *t, u32 size, bool write)
{
    struct emit *e = &t->e;

    t->held = -1;
    if (t->single) {
        e_load(e, S1, OFF(exit_arg));
        e_rr(e, 0x31, S2, S2, false);
        return;
    }
    emit_tlb_entry(t, S2, S1);
    e_mov(e, S3, S1);
    e_op_mem(e, 0x2b, S3, S2, 0xff, 1, write ? offsetof(struct tlb_entry, wr) : 0, true);
    e_alu_imm(e, 7, S3, 4096 - size, true);
    u8 *jcc = e_jcc(e, 7 /* ja */, e->p + e->delta);
    e_op_mem(e, 0x8b, S2, S2, 0xff, 1, offsetof(struct tlb_entry, addend), true);
    if (t->n_slow < ARRAY_LEN(t->slow))
        t->slow[t->n_slow++] = (struct slow){ jcc, e->p, size, write, false };
    else
        e->full = true;
}

/* RSP + disp -> S2 = addend, in 64-bit mode. Destroys flags, S1, S3. */
static void emit_stack_check(struct trans *t, s32 disp, u32 size, bool write)
{
    struct emit *e = &t->e;

    t->held = -1;
    e_lea(e, S3, RSP, disp, true);
    e_gs(e, 0x2b, S3, OFF(stack_tag), true);
    e_alu_imm(e, 7, S3, 4096 - size, true);
    u8 *jcc = e_jcc(e, 7 /* ja */, e->p + e->delta);
    e_load(e, S2, OFF(stack_addend));
    if (t->n_slow < ARRAY_LEN(t->slow))
        t->slow[t->n_slow++] = (struct slow){ jcc, e->p, size, write, true };
    else
        e->full = true;
}

/* ---- instructions ---------------------------------------------------------------------------
 */

/* Operands that are in memory. */
static u16 memory_gprs(const struct trans *t, const struct insn *i)
{
    u16 set = 0;

    for (unsigned k = 0; k < i->nops; k++)
        if (i->op[k].kind == OP_GPR)
            set |= 1 << i->op[k].reg;
    return set & t->in_mem;
}
static void load_memory_gprs(struct trans *t, u16 set)
{
    for (u8 r = 0; set >> r; r++)
        if (set >> r & 1)
            e_load(&t->e, r, OFF_GPR(r));
}
static void store_memory_gprs(struct trans *t, const struct insn *i)
{
    u16 set = 0;

    for (unsigned k = 0; k < i->nops; k++)
        if (i->op[k].kind == OP_GPR && i->op[k].access & OP_WRITE)
            set |= 1 << i->op[k].reg;
    set &= t->in_mem;
    for (u8 r = 0; set >> r; r++)
        if (set >> r & 1)
            e_store(&t->e, OFF_GPR(r), r);
}

static u8 opcode_start(const struct insn *i)
{
    static const u8 escape[] = { [ZYDIS_OPCODE_MAP_DEFAULT] = 0,
                                 [ZYDIS_OPCODE_MAP_0F] = 1,
                                 [ZYDIS_OPCODE_MAP_0F38] = 2,
                                 [ZYDIS_OPCODE_MAP_0F3A] = 2 };
    return i->opcode_at - (i->map < sizeof escape ? escape[i->map] : 0);
}

static bool skip_prefix(u8 b)
{
    switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x67:
        return true;
    default:
        return false;
    }
}

/* The instruction without memory operand: the same bytes, but for what 64-bit mode lacks. */
static void emit_copy(struct trans *t, const struct insn *i)
{
    struct emit *e = &t->e;

    if (!t->is64) {
        u8 at = i->enc == ENC_LEGACY ? opcode_start(i) : 0;
        u8 op = i->bytes[at];

        if (i->enc == ENC_LEGACY && i->map == ZYDIS_OPCODE_MAP_DEFAULT && op >= 0x40 &&
            op <= 0x4f) {
            for (u8 k = 0; k < at; k++)
                if (i->bytes[k] == 0x66)
                    e8(e, 0x66);
            e8(e, 0xff);
            e8(e, 0xc0 | (op & 8) | (op & 7));
            return;
        }
        if (i->enc == ENC_LEGACY && i->map == ZYDIS_OPCODE_MAP_DEFAULT && op == 0x82) {
            e_bytes(e, (const u8[]){ 0x80, i->bytes[at + 1], i->bytes[at + 2] }, 3);
            return;
        }
    }
    e_bytes(e, i->bytes, i->len);
}

/* The instruction with its memory operand replaced by [b + x + disp] (x 0xff: none). */
static void emit_with_operand(struct trans *t, const struct insn *i, u8 b, u8 x, s32 disp)
{
    struct emit *e = &t->e;
    u8 reg = i->modrm >> 3 & 7;

    if (i->enc == ENC_VEX) {
        u8 k = 0;
        /* A REX that another prefix follows counts for nothing. */
        while (skip_prefix(i->bytes[k]) || (t->is64 && (i->bytes[k] & 0xf0) == 0x40))
            k++;
        u8 v1, v2;
        if (i->bytes[k] == 0xc5) {
            v1 = (i->bytes[k + 1] & 0x80) | 0x60 | 1;
            v2 = i->bytes[k + 1] & 0x7f;
        } else {
            v1 = i->bytes[k + 1];
            v2 = i->bytes[k + 2];
        }
        if (!t->is64) { /* the bits that are ignored or fixed there */
            v1 |= 0xe0;
            v2 |= 0x40;
            if (i->bytes[k] == 0xc4)
                v2 = (v2 & 0x7f) | (i->bytes[k + 2] & 0x80);
        }
        v1 |= 0x60;
        if (b >= 8)
            v1 &= (u8)~0x20;
        if (x != 0xff && x >= 8)
            v1 &= (u8)~0x40;
        e8(e, 0xc4);
        e8(e, v1);
        e8(e, v2);
        e8(e, i->opcode);
    } else {
        u8 at = opcode_start(i);
        bool moffs = !i->has_modrm; /* A0-A3 */
        u8 rex = 0x40 | (i->rex & 0x0c) | (b >= 8) | (x != 0xff && x >= 8 ? 2 : 0);
        u8 high = 0xff;

        for (u8 k = 0; k < i->nops; k++)
            if (i->op[k].kind == OP_HIGH8)
                high = i->op[k].reg;
        if (high != 0xff) { /* AH cannot be named together with a REX prefix: swap it into AL */
            e8(e, 0x86), e8(e, 0xc0 | (4 + high) << 3 | high);
            reg = high;
        }
        for (u8 k = 0; k < at; k++) {
            u8 c = i->bytes[k];
            if (!skip_prefix(c) && !(t->is64 && (c & 0xf0) == 0x40))
                e8(e, c);
        }
        e8(e, rex);
        if (moffs) {
            static const u8 as[] = { 0x8a, 0x8b, 0x88, 0x89 };
            e8(e, as[i->opcode & 3]);
            reg = 0;
        } else {
            if (!t->is64 && i->map == ZYDIS_OPCODE_MAP_DEFAULT && i->opcode == 0x82)
                e8(e, 0x80);
            else
                e_bytes(e, i->bytes + at, i->modrm_at - at);
        }
        e_mem_tail(e, reg, b, x, 1, disp);
        if (!moffs)
            e_bytes(e, i->bytes + i->len - i->imm_size, i->imm_size);
        if (high != 0xff)
            e8(e, 0x86), e8(e, 0xc0 | (4 + high) << 3 | high);
        return;
    }
    e_mem_tail(e, reg, b, x, 1, disp);
    e_bytes(e, i->bytes + i->len - i->imm_size, i->imm_size);
}

struct place { /* host address of an operand: [base + index + disp] */
    u8 base, index;
    s32 disp;
};

/* Access [base + disp] of instruction k as part of its group. */
static struct place emit_grouped(struct trans *t, u32 k, u8 base, s32 disp)
{
    struct group *g = &t->groups[t->group_of[k]];
    struct emit *e = &t->e;
    u32 slot = OFF(group) + 8 * (u32)g->slot;
    bool mem = in_memory(t, base);

    if (g->first == k) {
        flags_clobber(t, t->live[k]);
        t->sites[k].shared = true;
        if (base == RSP && t->is64) {
            emit_stack_check(t, g->lo - g->shift, (u32)(g->hi - g->lo), g->write);
        } else {
            if (mem)
                e_load(e, S1, OFF_GPR(base));
            e_lea(e, S1, mem ? S1 : base, g->lo - g->shift, t->is64);
            emit_check(t, (u32)(g->hi - g->lo), g->write);
        }
        e_store(e, slot, S2);
    } else if (t->held != g->slot) {
        e_load(e, S2, slot);
    }
    t->held = g->slot;
    if (mem) {
        e_load(e, S1, OFF_GPR(base));
        base = S1;
    }
    if (t->is64)
        return (struct place){ base, S2, disp };
    e_lea(e, S1, base, disp, false); /* EA wraps at 4 GiB */
    return (struct place){ S1, S2, 0 };
}

/* The memory operand of instruction k. */
static struct place emit_place(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];

    if (t->group_of[k] >= 0)
        return emit_grouped(t, k, i->base, (s32)i->disp);
    flags_clobber(t, t->live[k]);
    if (i->base == RSP && i->index == GPR_NONE && t->is64 && i->adsize == 8 && i->seg != FS &&
        i->seg != GS && i->disp >= INT32_MIN && i->disp <= INT32_MAX) {
        emit_stack_check(t, (s32)i->disp, i->mem_size, i->mem_access & OP_WRITE);
        return (struct place){ RSP, S2, (s32)i->disp };
    }
    emit_address(t, i, t->off[k]);
    emit_check(t, i->mem_size, i->mem_access & OP_WRITE);
    return (struct place){ S1, S2, 0 };
}

/* The stack slot [base + disp] of instruction k. */
static struct place emit_stack(struct trans *t, u32 k, u8 base, s32 disp, bool write)
{
    if (t->group_of[k] >= 0)
        return emit_grouped(t, k, base, disp);
    flags_clobber(t, t->live[k]);
    if (base == RSP && t->is64) {
        emit_stack_check(t, disp, 8, write);
        return (struct place){ RSP, S2, disp };
    }
    e_lea(&t->e, S1, base, disp, t->is64);
    emit_check(t, t->is64 ? 8 : 4, write);
    return (struct place){ S1, S2, 0 };
}

/* mov between a register and a place: opcode 0x8b load, 0x89 store */
static void emit_at(struct trans *t, u8 opcode, u8 reg, struct place at)
{
    e_op_mem(&t->e, opcode, reg, at.base, at.index, 1, at.disp, t->is64);
}

void trans_emit_simple(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    u16 after = t->live[k + 1];
    bool need = i->fl_read || (i->fl_write && (after & ~trans_flags_killed(i)));
    u16 set = memory_gprs(t, i);

    if (!i->has_mem) {
        if (need)
            flags_need(t);
        t->sites[k].flags = t->in_host;
        load_memory_gprs(t, set);
        emit_copy(t, i);
        store_memory_gprs(t, i);
    } else {
        struct place at = { S1, S2, 0 };

        if (t->single) {
            flags_clobber(t, FL_STATUS);
            emit_check(t, i->mem_size, false);
        } else {
            at = emit_place(t, k);
        }
        for (unsigned o = 0; o < i->nops; o++) {
            if (i->op[o].kind == OP_HIGH8 &&
                at.base != S1) { /* AH and AL get swapped around it */
                e_op_mem(&t->e, 0x8d, S1, at.base, at.index, 1, at.disp, true);
                at = (struct place){ S1, 0xff, 0 };
            }
        }
        u8 b = at.base, x = at.index;
        if (set) {
            b = !(set >> S1 & 1) ? S1 : !(set >> S2 & 1) ? S2 : S3;
            if (b == S2)
                t->held = -1;
            e_op_mem(&t->e, 0x8d, b, at.base, at.index, 1, at.disp, true);
            x = 0xff;
            at.disp = 0;
        }
        if (need) {
            if (b == S3) { /* restoring uses S3 */
                e_store(&t->e, OFF(scratch[2]), S3);
                flags_need(t);
                e_load(&t->e, S3, OFF(scratch[2]));
            } else {
                flags_need(t);
            }
        }
        t->sites[k].flags = t->in_host;
        load_memory_gprs(t, set);
        emit_with_operand(t, i, b, x, at.disp);
        store_memory_gprs(t, i);
    }
    if (set >> S2 & 1)
        t->held = -1;
    if (i->fl_write) {
        t->in_host = true;
        t->in_cc = false;
    }
}

static void emit_lea(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    u8 r = i->op[0].reg;
    bool mem = in_memory(t, r);

    emit_address(t, i, t->off[k]);
    if (i->opsize == 2) {
        if (mem)
            e_load(&t->e, S2, OFF_GPR(r));
        e8(&t->e, 0x66);
        e_rr(&t->e, 0x89, mem ? S2 : r, S1, false);
        if (mem)
            e_store(&t->e, OFF_GPR(r), S2);
    } else {
        e_rr(&t->e, 0x89, mem ? S1 : r, S1, i->opsize == 8);
        if (mem)
            e_store(&t->e, OFF_GPR(r), S1);
    }
}

void trans_emit_trade(struct trans *t)
{
    for (u8 r = 0; r < 16; r++)
        if (t->spill >> r & 1)
            e_store(&t->e, OFF_GPR(r), r);
    for (u8 r = C1; r <= C3; r++)
        if (t->fetch >> r & 1)
            e_load(&t->e, r, OFF_GPR(r));
}

void trans_emit_trade_back(struct trans *t, u8 target)
{
    for (u8 r = C1; r <= C3; r++)
        if (t->fetch >> r & 1)
            e_store(&t->e, OFF_GPR(r), r);
    if (target != 0xff && target != C1)
        e_mov(&t->e, C1, target);
    for (u8 r = 0; r < 16; r++)
        if (t->spill >> r & 1)
            e_load(&t->e, r, OFF_GPR(r));
}

/* Leaves for the target at S1, a VA; flags are in v->cc or dead. */
static void emit_indirect(struct trans *t)
{
    trans_emit_trade_back(t, S1);
    if (!t->is64)
        e_rr(&t->e, 0x89, C1, C1, false); /* EIP is 32 bits */
    code_emit_lookup(&t->e, t->cc->rx + t->cc->miss);
}

/* The displacement of an operand that is the slot, known later. */
static void slot_ref(struct trans *t, struct far_jump *f, unsigned n)
{
    f->ref[n] = t->e.p;
    e32(&t->e, 0);
}

/*
 * Leaves for another page, at a known distance: straight to the block there, if the TLB says
 * that it is the page (the slot tells its host address) which that block was made from.
 */
static void emit_far(struct trans *t, s32 target)
{
    struct emit *e = &t->e;
    struct far_jump *f = &t->fars[t->n_fars];

    trans_emit_trade_back(t, 0xff);
    if (t->n_fars == ARRAY_LEN(t->fars)) {
        e->full = true;
        return;
    }
    t->n_fars++;
    f->target = target;
    e_load(e, C1, OFF(page_va));
    e_lea(e, C1, C1, (target >> 12) * 4096, t->is64);
    emit_tlb_entry(t, C2, C1);
    e_op_mem(e, 0x3b, C1, C2, 0xff, 1, offsetof(struct tlb_entry, ex), true);
    f->jcc[0] = e_jcc(e, 5, e->p + e->delta);
    e_bytes(e, (const u8[]){ 0x4c, 0x8b, 0x1d }, 3); /* mov r11, [rip + slot] */
    slot_ref(t, f, 0);
    e_rr(e, 0x29, C3, C1, true);
    e_op_mem(e, 0x3b, C3, C2, 0xff, 1, offsetof(struct tlb_entry, addend), true);
    f->jcc[1] = e_jcc(e, 5, e->p + e->delta);
    e_store(e, OFF(page_va), C1);
    f->jmp = e_jmp(e, e->p + e->delta);
}

static void add_link(struct trans *t, const u8 *at, s32 target)
{
    if (t->n_links == ARRAY_LEN(t->links)) {
        t->e.full = true;
        return;
    }
    t->links[t->n_links].at = (u32)(at - t->cc->rw);
    t->links[t->n_links].stub = (u32)(t->e.p - t->cc->rw);
    t->links[t->n_links].target = target;
    t->links[t->n_links++].slot = 0;
}

static void emit_link_exit(struct trans *t, u32 link, s32 target)
{
    struct emit *e = &t->e;

    e_mov_imm32(e, C3, t->cc->n_links + link);
    e_bytes(e, (const u8[]){ 0x49, 0xc7, 0xc2 }, 3), e32(e, (u32)target); /* mov r10, simm32 */
    e_jmp(e, t->cc->rx + t->cc->exit_link);
}

void trans_emit_far_stubs(struct trans *t)
{
    struct emit *e = &t->e;

    for (u32 k = 0; k < t->n_fars; k++) {
        struct far_jump *f = &t->fars[k];

        f->link = t->n_links;
        /* Where the jump goes when its target was dropped a moment ago: page_va is that one's.
         */
        add_link(t, f->jmp, f->target);
        e_here(e, f->jmp);
        trans_emit_exit(t, CODE_EXIT_LOOKUP, f->target & 4095);
        e_here(e, f->jcc[0]);
        e_here(e, f->jcc[1]);
        e_bytes(e, (const u8[]){ 0x48, 0x83, 0x3d }, 3); /* cmp qword [rip + slot], 0 */
        slot_ref(t, f, 1);
        e8(e, 0);
        u8 *other = e_jcc(e, 5, e->p + e->delta);
        emit_link_exit(t, f->link, f->target);
        e_here(e, other);
        e_lea(e, C1, C1, f->target & 4095, t->is64);
        e_jmp(e, t->cc->rx + t->cc->lookup);
    }
}

void trans_emit_far_slots(struct trans *t)
{
    struct emit *e = &t->e;

    for (u32 k = 0; k < t->n_fars && !e->full; k++) {
        struct far_jump *f = &t->fars[k];

        while ((e->p - t->cc->rw) & 7)
            e8(e, 0xcc);
        for (unsigned n = 0; n < ARRAY_LEN(f->ref); n++) {
            u32 rel = (u32)(e->p - (f->ref[n] + 4 + n)); /* behind the second one is a byte */

            memcpy(f->ref[n], &rel, sizeof rel);
        }
        t->links[f->link].slot = (u32)(e->p - t->cc->rw);
        e64(e, 0);
    }
}

void trans_emit_direct(struct trans *t, s32 target)
{
    struct emit *e = &t->e;

    if (target < 0 || target >= 4096) {
        emit_far(t, target);
        return;
    }
    if (target == t->off[0] &&
        t->in_mem != CODE_IN_MEMORY) { /* round again, registers as they are */
        e_bytes(e, (const u8[]){ 0x65, 0x80, 0x3c, 0x25 }, 4); /* cmp byte gs:[poll], 0 */
        e32(e, OFF(poll));
        e8(e, 0);
        e_jcc(e, 4, t->body + e->delta);
        t->loops = true;
    }
    trans_emit_trade_back(t, 0xff);
    u8 *at = e_jmp(e, e->p + e->delta);
    e_here(e, at);
    add_link(t, at, target);
    emit_link_exit(t, t->n_links - 1, target);
}

void trans_emit_exit(struct trans *t, u32 code, s32 off)
{
    e_mov_imm32(&t->e, C3, code);
    e8(&t->e, 0x49), e8(&t->e, 0xc7), e8(&t->e, 0xc2),
        e32(&t->e, (u32)off); /* mov r10, simm32 */
    e_jmp(&t->e, t->cc->rx + t->cc->exit_off);
}

/* Condition code of a Jcc/SETcc/CMOVcc: low four bits of the opcode, in all encodings. */
static void emit_jcc(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    s32 target = branch_target(t, k);

    flags_need(t);
    t->sites[k].flags = true;
    u8 *jcc = e_jcc(&t->e, i->opcode & 15, t->e.p + t->e.delta);
    t->exits[t->n_exits++] = (struct exit_stub){ jcc, target, !t->in_cc && t->want[k] };
}

static void emit_push(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;
    u8 r = i->op[0].reg;

    if (i->has_mem) {
        flags_clobber(t, t->live[k]);
        emit_address(t, i, t->off[k]);
        emit_check(t, w, false);
        e_op_mem(e, 0x8b, S3, S1, S2, 1, 0, t->is64);
        e_store(e, OFF(scratch[0]), S3);
    }
    struct place at = emit_stack(t, k, RSP, -w, true);

    if (i->op[0].kind == OP_IMM) {
        e8(e, e_rex(t->is64, 0, at.base, at.index));
        e8(e, 0xc7), e_mem_tail(e, 0, at.base, at.index, 1, at.disp), e32(e, (u32)i->imm);
    } else {
        if (i->has_mem)
            e_load(e, r = S3, OFF(scratch[0]));
        else if (in_memory(t, r))
            e_load(e, S3, OFF_GPR(r)), r = S3;
        emit_at(t, 0x89, r, at);
    }
    e_lea(e, RSP, RSP, -w, t->is64);
}

static void emit_pop(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;
    u8 r = t->i[k].op[0].reg;

    struct place at = emit_stack(t, k, RSP, 0, false);

    if (r == RSP) {
        emit_at(t, 0x8b, RSP, at);
        return;
    }
    if (in_memory(t, r)) {
        emit_at(t, 0x8b, S3, at);
        e_store(e, OFF_GPR(r), S3);
    } else {
        emit_at(t, 0x8b, r, at);
    }
    e_lea(e, RSP, RSP, w, t->is64);
}

/* Pushes the return address; flags are destroyed. */
static void emit_push_return(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;

    struct place at = emit_stack(t, k, RSP, -w, true);

    e_load(e, S3, OFF(page_va));
    e_lea(e, S3, S3, t->off[k] + t->i[k].len, true);
    emit_at(t, 0x89, S3, at);
    e_lea(e, RSP, RSP, -w, t->is64);
}

/* Target of an indirect JMP or CALL to S1. */
static void emit_target(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;

    if (i->has_mem) {
        emit_address(t, i, t->off[k]);
        emit_check(t, t->is64 ? 8 : 4, false);
        e_op_mem(e, 0x8b, S1, S1, S2, 1, 0, t->is64);
    } else if (in_memory(t, i->op[0].reg)) {
        e_load(e, S1, OFF_GPR(i->op[0].reg));
    } else {
        e_mov(e, S1, i->op[0].reg);
    }
}

static void emit_rdtsc(struct trans *t, u32 k)
{
    struct emit *e = &t->e;

    flags_clobber(t, t->live[k + 1]);
    e8(e, 0x0f), e8(e, 0x31);
    e_shift(e, 4, RDX, 32, true);
    e_rr(e, 0x09, RDX, RAX, true);
    e_gs(e, 0x03, RDX, OFF(tsc_offset), true);
    e_rr(e, 0x89, RAX, RDX, false);
    e_shift(e, 5, RDX, 32, true);
    if (t->i[k].mnem == MN(RDTSCP))
        e_gs(e, 0x8b, RCX, OFF(s.msr.tsc_aux), false);
}

/* 16 bits of the register, or all with zeroes above. */
static void emit_from_seg(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 r = i->op[0].reg;
    u32 from =
        OFF(s.seg) + i->op[1].reg * sizeof(struct x86_seg) + offsetof(struct x86_seg, sel);
    bool mem = in_memory(t, r);

    if (i->opsize == 2) {
        e8(e, 0x65), e8(e, 0x66);
        e8(e, 0x40 | ((mem ? S1 : r) >= 8 ? 4 : 0));
        e8(e, 0x8b);
    } else {
        e8(e, 0x65);
        e8(e, 0x40 | ((mem ? S1 : r) >= 8 ? 4 : 0));
        e8(e, 0x0f), e8(e, 0xb7); /* movzx */
    }
    e8(e, 0x04 | ((mem ? S1 : r) & 7) << 3), e8(e, 0x25), e32(e, from);
    if (mem && i->opsize == 2)
        e8(e, 0x66);
    if (mem)
        e_gs(e, 0x89, S1, OFF_GPR(r), i->opsize != 2);
}

/* ---- system instructions that are worth it --------------------------------------------------
 */

/* op byte gs:[off], imm: digit 1 or, 4 and, 7 cmp */
static void emit_gs_byte(struct trans *t, u8 digit, u32 off, u8 imm)
{
    e_bytes(&t->e, (const u8[]){ 0x65, 0x80, (u8)(0x04 | digit << 3), 0x25 }, 4);
    e32(&t->e, off);
    e8(&t->e, imm);
}

/* test byte gs:[off], imm */
static void emit_gs_byte_test(struct trans *t, u32 off, u8 imm)
{
    e_bytes(&t->e, (const u8[]){ 0x65, 0xf6, 0x04, 0x25 }, 4);
    e32(&t->e, off);
    e8(&t->e, imm);
}

/* RFLAGS = what memory has of the system flags + v->cc. */
static void emit_pushf(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;

    if (t->in_host && !t->in_cc)
        trans_emit_flags_save(t);
    t->in_cc = true;
    t->in_host = false;
    e8(e, 0x65), e8(e, S1 >= 8 ? 0x44 : 0x40), e8(e, 0x0f), e8(e, 0xb7); /* movzx */
    e8(e, 0x04 | (S1 & 7) << 3), e8(e, 0x25);
    e32(e, OFF(cc));
    e_rr(e, 0x89, S2, S1, false);
    e_alu_imm(e, 4, S2, 1, false);
    e_shift(e, 4, S2, 11, false);
    e_shift(e, 5, S1, 8, false);
    e_alu_imm(e, 4, S1, 0xd5, false);
    e_rr(e, 0x09, S1, S2, false);
    e_gs(e, 0x8b, S2, OFF(s.rflags), false);
    e_alu_imm(e, 4, S2, ~(u32)(FL_STATUS | FL_RF | FL_VM), false);
    e_rr(e, 0x09, S1, S2, false);
    e_store(e, OFF(scratch[0]), S1);
    e_lea(e, S1, RSP, -w, t->is64);
    emit_check(t, w, true);
    e_load(e, S3, OFF(scratch[0]));
    e_op_mem(e, 0x89, S3, S1, S2, 1, 0, t->is64);
    e_lea(e, RSP, RSP, -w, t->is64);
    (void)k;
}

static void emit_interp_if(struct trans *t, u8 cc, u32 k)
{
    t->interps[t->n_interps++] =
        (struct interp_stub){ e_jcc(&t->e, cc, t->e.p + t->e.delta), k };
}

void trans_emit_next_guard(struct trans *t)
{
    struct emit *e = &t->e;

    e_load(e, S1, OFF(page_va));
    e_lea(e, S1, S1, 4096, t->is64);
    emit_tlb_entry(t, S2, S1);
    e_op_mem(e, 0x3b, S1, S2, 0xff, 1, offsetof(struct tlb_entry, ex), true);
    emit_interp_if(t, 5, 0);
    e_op_mem(e, 0x03, S1, S2, 0xff, 1, offsetof(struct tlb_entry, addend), true);
    e_mov_imm64(e, S3, (u64)(uintptr_t)t->next);
    e_rr(e, 0x39, S1, S3, true);
    emit_interp_if(t, 5, 0);
}

/* The caller has seen to it that the next instruction is in the block too (interrupt shadow).
 */
static void emit_sti(struct trans *t, u32 k)
{
    flags_clobber(t, t->live[k]);
    emit_gs_byte(t, 7, OFF(intr), 0);
    emit_interp_if(t, 5, k);
    emit_gs_byte(t, 1, OFF(s.rflags) + 1, FL_IF >> 8);
}

static void emit_swapgs(struct trans *t)
{
    u32 base = OFF(s.seg) + GS * sizeof(struct x86_seg) + offsetof(struct x86_seg, base);

    e_load(&t->e, S1, base);
    e_load(&t->e, S2, OFF(s.msr.kernel_gs_base));
    e_store(&t->e, base, S2);
    e_store(&t->e, OFF(s.msr.kernel_gs_base), S1);
}

static void emit_ac(struct trans *t, u32 k, bool set)
{
    flags_clobber(t, t->live[k]);
    emit_gs_byte(t, set ? 1 : 4, OFF(s.rflags) + 2, set ? FL_AC >> 16 : (u8) ~(FL_AC >> 16));
    e_load(&t->e, S1, OFF(class_tlb) + 8 * (set ? TLB_KERNEL_AC : TLB_KERNEL));
    e_store(&t->e, OFF(tlb), S1);
}

/* BT family with a register offset into memory: the offset's upper bits select the word. */
static void emit_bit_string(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 r = i->op[1].reg;
    bool w = i->opsize == 8;

    flags_clobber(t, t->live[k]);
    emit_address(t, i, t->off[k]);
    if (in_memory(t, r))
        e_load(e, S3, OFF_GPR(r)), r = S3;
    e_rr(e, 0x89, S2, r, true);
    e_alu_imm(e, 4, S2, w ? 63 : 31, false);
    e_store(e, OFF(scratch[3]), S2);
    if (w)
        e_mov(e, S2, r);
    else
        e8(e, 0x48 | (S2 >= 8 ? 4 : 0) | (r >= 8)), e8(e, 0x63),
            e8(e, 0xc0 | (S2 & 7) << 3 | (r & 7)); /* movsxd */
    e_shift(e, 7, S2, w ? 6 : 5, true);
    e_shift(e, 4, S2, w ? 3 : 2, true);
    e_rr(e, 0x01, S1, S2, i->adsize == 8);
    emit_check(t, i->opsize, i->mem_access & OP_WRITE);
    if (t->live[k + 1] & ~trans_flags_killed(i))
        flags_need(t);
    e_load(e, S3, OFF(scratch[3]));
    t->sites[k].flags = t->in_host;
    if (i->prefixes & PFX_LOCK)
        e8(e, 0xf0);
    e8(e, e_rex(w, S3, S1, S2));
    e8(e, 0x0f);
    e8(e, i->opcode);
    e_mem_tail(e, S3, S1, S2, 1, 0);
    t->in_host = true;
    t->in_cc = false;
}

/* op reg, [S1 + S2] of 1, 2, 4 or 8 bytes; op: the byte form's opcode. */
static void emit_sized(struct trans *t, u8 op, u8 reg, u8 size)
{
    struct emit *e = &t->e;

    if (size == 2)
        e8(e, 0x66);
    e8(e, e_rex(size == 8, reg, S1, S2));
    e8(e, size == 1 ? op : op + 1);
    e_mem_tail(e, reg, S1, S2, 1, 0);
}
/* One element of MOVS, CMPS, STOS, LODS, SCAS upwards; downwards is left to the interpreter. */
static void emit_string(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 size = i->opcode & 1 ? i->opsize : 1;
    u8 what = i->opcode & 0xfe;

    flags_clobber(t, t->live[k]);
    emit_gs_byte_test(t, OFF(s.rflags) + 1, FL_DF >> 8);
    emit_interp_if(t, 5, k);
    if (what == 0xa4 || what == 0xa6 || what == 0xac) { /* the source at RSI */
        e_rr(e, 0x89, S1, RSI, t->is64);
        emit_check(t, size, false);
        emit_sized(t, 0x8a, what == 0xac ? RAX : S3, size);
        if (what != 0xac)
            e_store(e, OFF(scratch[0]), S3);
    }
    if (what != 0xac) { /* the destination at RDI */
        e_rr(e, 0x89, S1, RDI, t->is64);
        emit_check(t, size, what == 0xa4 || what == 0xaa);
        if (what == 0xa4 || what == 0xa6)
            e_load(e, S3, OFF(scratch[0]));
        switch (what) {
        case 0xa4:
            emit_sized(t, 0x88, S3, size);
            break;
        case 0xaa:
            emit_sized(t, 0x88, RAX, size);
            break;
        case 0xa6:
            emit_sized(t, 0x3a, S3, size);
            break;
        default:
            emit_sized(t, 0x3a, RAX, size);
            break;
        }
        e_lea(e, RDI, RDI, size, t->is64);
    }
    if (what == 0xa4 || what == 0xa6 || what == 0xac)
        e_lea(e, RSI, RSI, size, t->is64);
    if (what == 0xa6 || what == 0xae) {
        t->in_host = true;
        t->in_cc = false;
    }
}

/* S3 = how many elements of 1 << log bytes lie between S1 and its page's end. */
static void emit_left_in_page(struct trans *t, u8 log)
{
    struct emit *e = &t->e;

    e_rr(e, 0x89, S3, S1, true);
    e_alu_imm(e, 1, S3, (u32)-4096, true);
    e8(e, e_rex(true, 0, S3, 0xff)), e8(e, 0xf7), e8(e, 0xd8 | (S3 & 7)); /* neg */
    if (log)
        e_shift(e, 5, S3, log, true);
}

/*
 * REP MOVS and REP STOS upwards: the host's own instruction, on host addresses, up to the end
 * of a page; the block is run again for the rest.  An element that lies in two pages is left to
 * the interpreter.
 */
static void emit_rep(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 size = i->opcode & 1 ? i->opsize : 1, log = (u8)__builtin_ctz(size);
    bool movs = (i->opcode & 0xfe) == 0xa4;
    u8 *none, *less;

    flags_clobber(t, t->live[k]);
    emit_gs_byte_test(t, OFF(s.rflags) + 1, FL_DF >> 8);
    emit_interp_if(t, 5, k);
    e_rr(e, 0x85, RCX, RCX, t->is64);
    none = e_jcc(e, 4, e->p + e->delta);
    if (!t->is64)
        e_rr(e, 0x89, RCX, RCX, false);
    if (movs) {
        e_rr(e, 0x89, S1, RSI, t->is64);
        emit_check(t, 1, false);
        e_store(e, OFF(scratch[0]), S2);
        emit_left_in_page(t, log);
        e_store(e, OFF(scratch[1]), S3);
    }
    e_rr(e, 0x89, S1, RDI, t->is64);
    emit_check(t, 1, true);
    emit_left_in_page(t, log);
    if (movs) {
        e_gs(e, 0x3b, S3, OFF(scratch[1]), true);
        less = e_jcc(e, 6, e->p + e->delta);
        e_load(e, S3, OFF(scratch[1]));
        e_here(e, less);
    }
    e_rr(e, 0x39, S3, RCX, true);
    less = e_jcc(e, 6, e->p + e->delta);
    e_mov(e, S3, RCX);
    e_here(e, less);
    e_rr(e, 0x85, S3, S3, true);
    emit_interp_if(t, 4, k);
    e_rr(e, 0x29, RCX, S3, true);
    e_store(e, OFF(scratch[2]), RCX); /* left after this */
    e_mov(e, RCX, S3);
    if (!t->is64)
        e_rr(e, 0x89, RDI, RDI, false);
    e_rr(e, 0x01, RDI, S2, true);
    if (movs) {
        if (!t->is64)
            e_rr(e, 0x89, RSI, RSI, false);
        e_load(e, S3, OFF(scratch[0]));
        e_rr(e, 0x01, RSI, S3, true);
    }
    e8(e, 0xf3);
    if (size == 2)
        e8(e, 0x66);
    if (size == 8)
        e8(e, 0x48);
    e8(e, i->opcode);
    e_rr(e, 0x29, RDI, S2, true);
    if (movs)
        e_rr(e, 0x29, RSI, S3, true);
    if (!t->is64) { /* at 4 GiB they go on at 0 */
        e_rr(e, 0x89, RDI, RDI, false);
        if (movs)
            e_rr(e, 0x89, RSI, RSI, false);
    }
    e_load(e, RCX, OFF(scratch[2]));
    e_rr(e, 0x85, RCX, RCX, true);
    t->exits[t->n_exits++] =
        (struct exit_stub){ e_jcc(e, 5, e->p + e->delta), t->off[k], false };
    e_here(e, none);
}

void trans_emit_insn(struct trans *t, u32 k)
{
    enum kind kind = t->kinds[k];
    struct emit *e = &t->e;
    const struct insn *i = &t->i[k];
    u8 w = t->is64 ? 8 : 4;
    struct place at;

    t->sites[k] = (struct site){ .host = (u32)(e->p - t->entry),
                                 .guest = t->off[k],
                                 .flags = t->in_host };
    if (kind != K_SIMPLE && kind != K_NOP && kind != K_PUSH && kind != K_POP && kind != K_JCC)
        t->held = -1; /* they use S2 as they like */
    switch (kind) {
    case K_SIMPLE:
        trans_emit_simple(t, k);
        break;
    case K_NOP:
        break;
    case K_LEA:
        emit_lea(t, k);
        break;
    case K_PUSH:
        emit_push(t, k);
        break;
    case K_POP:
        emit_pop(t, k);
        break;
    case K_LEAVE:
        at = emit_stack(t, k, RBP, 0, false);
        e_lea(e, RSP, RBP, w, t->is64);
        emit_at(t, 0x8b, RBP, at);
        break;
    case K_RDTSC:
        emit_rdtsc(t, k);
        break;
    case K_PUSHF:
        emit_pushf(t, k);
        break;
    case K_CLI:
        flags_clobber(t, t->live[k]);
        emit_gs_byte(t, 4, OFF(s.rflags) + 1, (u8) ~(FL_IF >> 8));
        break;
    case K_STI:
        emit_sti(t, k);
        break;
    case K_SWAPGS:
        emit_swapgs(t);
        break;
    case K_STAC:
    case K_CLAC:
        emit_ac(t, k, kind == K_STAC);
        break;
    case K_BITS:
        emit_bit_string(t, k);
        break;
    case K_STRING:
        emit_string(t, k);
        break;
    case K_REP:
        emit_rep(t, k);
        break;
    case K_FROMSEG:
        emit_from_seg(t, k);
        break;
    case K_CLD:
        flags_clobber(t, t->live[k]);
        emit_gs_byte(t, 4, OFF(s.rflags) + 1, (u8) ~(FL_DF >> 8));
        break;
    case K_JCC:
        emit_jcc(t, k);
        break;
    case K_LOOP: {
        s32 target = branch_target(t, k);
        u8 *to_taken;

        trans_flags_leave(t, t->live[k]);
        t->in_host = false; /* both ways read v->cc */
        if (i->mnem == MN(LOOP))
            e_lea(e, RCX, RCX, -1, t->is64);
        if (!t->is64)
            e8(e, 0x67);
        e8(e, 0xe3), e8(e, i->mnem == MN(LOOP) ? 5 : 2);
        if (i->mnem != MN(LOOP))
            e8(e, 0xeb), e8(e, 5);
        to_taken = e_jmp(e, e->p + e->delta);
        t->exits[t->n_exits++] = (struct exit_stub){ to_taken, target, false };
        break;
    }
    case K_JMP:
        trans_flags_leave(t, t->live[k]);
        trans_emit_direct(t, branch_target(t, k));
        break;
    case K_CALL:
        trans_flags_leave(t, t->live[k]);
        t->in_host = false;
        emit_push_return(t, k);
        trans_emit_direct(t, branch_target(t, k));
        break;
    case K_JMP_IND:
        trans_flags_leave(t, t->live[k]);
        t->in_host = false;
        emit_target(t, k);
        emit_indirect(t);
        break;
    case K_CALL_IND:
        trans_flags_leave(t, t->live[k]);
        t->in_host = false;
        if (i->has_mem || i->op[0].reg == RSP) {
            emit_target(t, k);
            e_store(e, OFF(scratch[1]), S1);
            emit_push_return(t, k);
            e_load(e, S1, OFF(scratch[1]));
        } else {
            emit_push_return(t, k);
            emit_target(t, k);
        }
        emit_indirect(t);
        break;
    case K_RET:
        trans_flags_leave(t, t->live[k]);
        t->in_host = false;
        at = emit_stack(t, k, RSP, 0, false);
        emit_at(t, 0x8b, S1, at);
        e_lea(e, RSP, RSP, (s32)(w + (i->opcode == 0xc2 ? (i->imm & 0xffff) : 0)), t->is64);
        emit_indirect(t);
        break;
    case K_NONE:
        break;
    }
}
