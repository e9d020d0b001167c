// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * far.c - far JMP, CALL and RET, through call gates too.  SDM volume 2 (CALL, JMP, RET), volume
 * 3, 5.8.
 *
 * Not modelled: transfers to a TSS or through a task gate (#GP with a message).
 */
#include "vmm/cpu/soft/interp.h"

#include "base/log.h"

/* The target operand: ptr16:16/32 or m16:16/32/64. */
static void far_target(struct soft_vcpu *v, const struct insn *i, u16 *sel, u64 *off)
{
    unsigned size = i->opsize;

    if (i->op[0].kind == OP_FAR) {
        *sel = (u16)i->imm2;
        *off = i->imm & mask_of(size);
        return;
    }
    if (!i->has_mem)
        throw_ud(v);
    *off = lin_read(v, mem_linear(v, i, 0, size, false), size);
    *sel = (u16)lin_read(v, mem_linear(v, i, size, 2, false), 2);
}

/* Checks a code segment that a jump or call at unchanged privilege goes to. */
static void code_check(struct soft_vcpu *v, u16 sel, unsigned rpl, const struct desc *d)
{
    if (!desc_code(d) ||
        (d->hi & 0x400 ? desc_dpl(d) > v->cpl : rpl > v->cpl || desc_dpl(d) != v->cpl))
        throw_err(v, EXC_GP, sel & ~3u);
    if (is_long(v) && (d->hi & 0x600000) == 0x600000)
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(d))
        throw_err(v, EXC_NP, sel & ~3u);
}

static void target_check(struct soft_vcpu *v, const struct desc *d, u64 off)
{
    if (is_long(v) && (d->hi & (1u << 21)) ? !canonical(off) : off > desc_limit(d))
        throw_gp(v);
}

static void code_enter(struct soft_vcpu *v, u16 sel, unsigned cpl, struct desc *d, u64 off)
{
    desc_accessed(v, sel, d);
    desc_to_seg(d, (u16)((sel & ~3) | cpl), &v->s.seg[CS]);
    v->x.next_rip = off;
}

struct gate {
    u16 sel;
    u64 off;
    unsigned params, size;
};

static NORETURN void no_task(struct soft_vcpu *v, u16 sel)
{
    soft_fp_save(v);
    log_guest("soft: far transfer to task %04x: task switches are not there", sel);
    throw_err(v, EXC_GP, sel & ~3u);
}

/* A system descriptor as far target: a call gate, or refusal. *d becomes the code segment. */
static void gate_open(struct soft_vcpu *v, u16 sel, struct desc *d, struct gate *g)
{
    unsigned type = desc_type(d);

    if (!is_long(v) && (type == SYS_TASK || type == SYS_TSS16 || type == SYS_TSS32)) {
        if (desc_dpl(d) < v->cpl || desc_dpl(d) < (sel & 3u))
            throw_err(v, EXC_GP, sel & ~3u);
        no_task(v, sel);
    }
    if (type != SYS_CALL32 && (is_long(v) || type != SYS_CALL16))
        throw_err(v, EXC_GP, sel & ~3u);
    if (desc_dpl(d) < v->cpl || desc_dpl(d) < (sel & 3u))
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(d))
        throw_err(v, EXC_NP, sel & ~3u);
    g->sel = (u16)(d->lo >> 16);
    g->size = is_long(v) ? 8 : type == SYS_CALL32 ? 4 : 2;
    g->off = d->lo & 0xffff;
    if (g->size > 2)
        g->off |= d->hi & 0xffff0000;
    if (g->size == 8) {
        if ((d->base_hi >> 40) & 31)
            throw_err(v, EXC_GP, sel & ~3u);
        g->off |= d->base_hi << 32;
    }
    g->params = d->hi & 31;

    desc_read(v, g->sel, EXC_GP, 0, d);
    if (!desc_code(d) || desc_dpl(d) > v->cpl || (is_long(v) && (d->hi & 0x600000) != 0x200000))
        throw_err(v, EXC_GP, g->sel & ~3u);
    if (!desc_p(d))
        throw_err(v, EXC_NP, g->sel & ~3u);
}

void op_far_jmp(struct soft_vcpu *v, const struct insn *i)
{
    struct gate g;
    struct desc d;
    u16 sel;
    u64 off;

    far_target(v, i, &sel, &off);
    if (!is_prot(v)) {
        if (off > (is_v86(v) ? 0xffff : v->s.seg[CS].limit))
            throw_gp(v);
        seg_real(v, CS, sel);
        v->x.next_rip = off;
        soft_update(v);
        return;
    }
    desc_read(v, sel, EXC_GP, 0, &d);
    if (desc_s(&d)) {
        code_check(v, sel, sel & 3, &d);
    } else {
        gate_open(v, sel, &d, &g);
        if (!(d.hi & 0x400) && desc_dpl(&d) != v->cpl)
            throw_err(v, EXC_GP, g.sel & ~3u);
        sel = g.sel;
        off = g.off;
    }
    target_check(v, &d, off);
    code_enter(v, sel, v->cpl, &d, off);
    soft_update(v);
}

/* Call gate to more privilege: new stack, old SS:SP, parameters, return address. */
static void call_inner(struct soft_vcpu *v, const struct gate *g, struct desc *d)
{
    unsigned cpl = desc_dpl(d);
    struct x86_seg ss;
    u64 sp, old_sp = v->s.gpr[RSP];
    u32 param[31];

    target_check(v, d, g->off);
    if (g->size == 8) {
        u32 off = 4 + 8 * cpl;
        u64 frame[4] = { v->s.rip, v->s.seg[CS].sel, old_sp, v->s.seg[SS].sel };

        frame[0] = v->x.next_rip;
        if ((v->s.tr.attr & ATTR_UNUSABLE) || off + 7 > v->s.tr.limit)
            throw_err(v, EXC_TS, v->s.tr.sel & ~3u);
        sp = sys_read(v, v->s.tr.base + off, 8);
        if (!canonical(sp) || !canonical(sp - sizeof frame))
            throw_err(v, EXC_SS, 0);
        sp -= sizeof frame;
        if (!mmu_write(v, sp, frame, sizeof frame, TLB_KERNEL))
            interp_throw(v);
        ss = (struct x86_seg){ .sel = (u16)cpl, .attr = ATTR_UNUSABLE | cpl << ATTR_DPL_SHIFT };
    } else {
        u64 mask;
        u16 sel;

        for (unsigned n = 0; n < g->params; n++) {
            u64 at = (old_sp + n * g->size) & stack_mask(v);

            param[n] = (u32)lin_read(v, linear(v, SS, at, g->size, false), g->size);
        }
        tss_stack(v, cpl, 0, &sel, &sp);
        if (!(sel & ~3))
            throw_err(v, EXC_TS, 0);
        seg_check_ss(v, sel, cpl, EXC_TS, 0, &ss);
        mask = ss.attr & ATTR_DB ? 0xffffffff : 0xffff;

        u32 vals[4 + 31], n = 0;

        vals[n++] = v->s.seg[SS].sel;
        vals[n++] = (u32)old_sp;
        for (unsigned k = g->params; k-- > 0;)
            vals[n++] = param[k];
        vals[n++] = v->s.seg[CS].sel;
        vals[n++] = (u32)v->x.next_rip;
        for (u32 k = 0; k < n; k++) {
            u64 off = (sp - g->size) & mask, last = off + g->size - 1;

            if (ss.attr & ATTR_E ? off <= ss.limit : last > ss.limit && ss.limit != 0xffffffff)
                throw_err(v, EXC_SS, sel & ~3u);
            lin_write_slow(v, (u32)(ss.base + off), g->size, vals[k], TLB_KERNEL);
            sp = (sp & ~mask) | off;
        }
    }
    code_enter(v, g->sel, cpl, d, g->off);
    v->s.seg[SS] = ss;
    v->s.gpr[RSP] = sp;
    soft_update(v);
}

void op_far_call(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    unsigned size = i->opsize;
    struct gate g;
    struct desc d;
    u16 sel;
    u64 off;

    far_target(v, i, &sel, &off);
    if (!is_prot(v)) {
        if (off > (is_v86(v) ? 0xffff : v->s.seg[CS].limit))
            throw_gp(v);
        stack_push(v, &k, size, v->s.seg[CS].sel);
        stack_push(v, &k, size, v->x.next_rip);
        stack_close(v, &k);
        seg_real(v, CS, sel);
        v->x.next_rip = off;
        soft_update(v);
        return;
    }
    desc_read(v, sel, EXC_GP, 0, &d);
    if (desc_s(&d)) {
        code_check(v, sel, sel & 3, &d);
    } else {
        gate_open(v, sel, &d, &g);
        if (!(d.hi & 0x400) && desc_dpl(&d) < v->cpl) {
            call_inner(v, &g, &d);
            return;
        }
        sel = g.sel;
        off = g.off;
        size = g.size;
    }
    target_check(v, &d, off);
    stack_push(v, &k, size, v->s.seg[CS].sel);
    stack_push(v, &k, size, v->x.next_rip);
    code_enter(v, sel, v->cpl, &d, off);
    stack_close(v, &k);
    soft_update(v);
}

void op_far_ret(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    unsigned size = i->opsize, rpl;
    u64 drop = i->nops && i->op[0].kind == OP_IMM ? i->imm & 0xffff : 0;
    u64 off = stack_pop(v, &k, size), sp = 0;
    u16 sel = (u16)stack_pop(v, &k, size), ssel = 0;
    struct x86_seg cs, ss;
    struct desc d;
    bool outer, to64;

    k.sp = (k.sp & ~k.mask) | ((k.sp + drop) & k.mask);
    if (!is_prot(v)) {
        if (off > (is_v86(v) ? 0xffff : v->s.seg[CS].limit))
            throw_gp(v);
        stack_close(v, &k);
        seg_real(v, CS, sel);
        v->x.next_rip = off;
        soft_update(v);
        return;
    }
    rpl = sel & 3;
    desc_read(v, sel, EXC_GP, 0, &d);
    if (rpl < v->cpl || !desc_code(&d) ||
        (d.hi & 0x400 ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, sel & ~3u);
    to64 = is_long(v) && (d.hi & (1u << 21));
    outer = rpl > v->cpl;
    if (outer) {
        sp = stack_pop(v, &k, size);
        ssel = (u16)stack_pop(v, &k, size);
        if (!(ssel & ~3)) {
            if (!to64 || rpl == 3)
                throw_gp(v);
            ss = (struct x86_seg){ .sel = ssel, .attr = ATTR_UNUSABLE | rpl << ATTR_DPL_SHIFT };
        } else {
            seg_check_ss(v, ssel, rpl, EXC_GP, 0, &ss);
        }
    }
    target_check(v, &d, off);
    desc_accessed(v, sel, &d);
    desc_to_seg(&d, sel, &cs);
    v->s.seg[CS] = cs;
    if (outer) {
        v->s.seg[SS] = ss;
        if (to64)
            v->s.gpr[RSP] = sp + drop;
        else if (ss.attr & ATTR_DB)
            v->s.gpr[RSP] = (u32)(sp + drop);
        else
            v->s.gpr[RSP] = (v->s.gpr[RSP] & ~0xffffull) | (u16)(sp + drop);
        seg_drop_outer(v, rpl);
    } else {
        stack_close(v, &k);
    }
    v->x.next_rip = off;
    soft_update(v);
}
