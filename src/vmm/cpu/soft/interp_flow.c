// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp_flow.c - near jumps, calls, the stack, conditions, software interrupts.
 * SDM volume 2.  Stack instructions change RSP last.
 */
#include "vmm/cpu/soft/interp_int.h"

/* ---- conditions -----------------------------------------------------------------------------
 */
static inline bool cond(const struct soft_vcpu *v, unsigned cc)
{
    u64 f = v->s.rflags;
    bool r;

    switch (cc >> 1) {
    case 0:
        r = f & FL_OF;
        break;
    case 1:
        r = f & FL_CF;
        break;
    case 2:
        r = f & FL_ZF;
        break;
    case 3:
        r = f & (FL_CF | FL_ZF);
        break;
    case 4:
        r = f & FL_SF;
        break;
    case 5:
        r = f & FL_PF;
        break;
    case 6:
        r = !(f & FL_SF) != !(f & FL_OF);
        break;
    default:
        r = (f & FL_ZF) || !(f & FL_SF) != !(f & FL_OF);
    }
    return r != (cc & 1);
}

static void jump_rel(struct soft_vcpu *v, const struct insn *i)
{
    u64 to = v->x.next_rip + i->imm;

    jump_near(v, i->opsize == 2 ? to & 0xffff : to);
}

static inline void cond_move(struct soft_vcpu *v, const struct insn *i, bool yes)
{
    u64 val = op_get(v, i, 1); /* read, and faults, whatever the condition */

    op_set(v, i, 0,
           yes ? val : op_get(v, i, 0)); /* a 32-bit one clears the upper half anyway */
}

#define COND(name, cc)                                                                         \
    void op_j_##name(struct soft_vcpu *v, const struct insn *i)                                \
    {                                                                                          \
        if (cond(v, cc))                                                                       \
            jump_rel(v, i);                                                                    \
    }                                                                                          \
    void op_set_##name(struct soft_vcpu *v, const struct insn *i)                              \
    {                                                                                          \
        op_set(v, i, 0, cond(v, cc));                                                          \
    }                                                                                          \
    void op_cmov_##name(struct soft_vcpu *v, const struct insn *i)                             \
    {                                                                                          \
        cond_move(v, i, cond(v, cc));                                                          \
    }
COND(o, 0)
COND(no, 1)
COND(b, 2)
COND(nb, 3)
COND(z, 4)
COND(nz, 5)
COND(be, 6)
COND(nbe, 7)
COND(s, 8)
COND(ns, 9)
COND(p, 10)
COND(np, 11)
COND(l, 12)
COND(nl, 13)
COND(le, 14)
COND(nle, 15)

/* ---- jumps and calls
 * --------------------------------------------------------------------------
 */
static bool is_far(const struct insn *i)
{
    return i->opcode == 0x9a || i->opcode == 0xea ||
           (i->opcode == 0xff && (((i->modrm >> 3) & 7) == 3 || ((i->modrm >> 3) & 7) == 5));
}

void op_jmp(struct soft_vcpu *v, const struct insn *i)
{
    if (i->op[0].kind == OP_REL)
        jump_rel(v, i);
    else if (is_far(i))
        op_far_jmp(v, i);
    else
        jump_near(v, op_get(v, i, 0));
}

void op_call(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k;
    u64 ret = v->x.next_rip;

    if (i->op[0].kind == OP_REL) {
        jump_rel(v, i);
    } else if (is_far(i)) {
        op_far_call(v, i);
        return;
    } else {
        jump_near(v, op_get(v, i, 0));
    }
    k = stack_open(v);
    stack_push(v, &k, i->opsize, ret);
    stack_close(v, &k);
}

void op_ret(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 rip;

    if (i->opcode == 0xca || i->opcode == 0xcb) {
        op_far_ret(v, i);
        return;
    }
    rip = stack_pop(v, &k, i->opsize);
    jump_near(v, rip);
    if (i->nops && i->op[0].kind == OP_IMM)
        k.sp = (k.sp & ~k.mask) | ((k.sp + (i->imm & 0xffff)) & k.mask);
    stack_close(v, &k);
}

static void loop_if(struct soft_vcpu *v, const struct insn *i, bool more)
{
    u64 n = (v->s.gpr[RCX] - 1) & mask_of(i->adsize);

    if (n && more)
        jump_rel(v, i);
    gpr_set(v, RCX, i->adsize, n);
}

void op_loop(struct soft_vcpu *v, const struct insn *i)
{
    loop_if(v, i, true);
}

void op_loope(struct soft_vcpu *v, const struct insn *i)
{
    loop_if(v, i, v->s.rflags & FL_ZF);
}

void op_loopne(struct soft_vcpu *v, const struct insn *i)
{
    loop_if(v, i, !(v->s.rflags & FL_ZF));
}

void op_jcxz(struct soft_vcpu *v, const struct insn *i)
{
    if (!gpr_get(v, RCX, i->adsize))
        jump_rel(v, i);
}

/* ---- stack ----------------------------------------------------------------------------------
 */
void op_push(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 val = op_get(v, i, 0);

    stack_push(v, &k, i->opsize, val);
    stack_close(v, &k);
}

void op_pop(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k;
    u64 val, old = v->s.gpr[RSP], off;

    if (i->op[0].kind == OP_SEG) {
        op_pop_seg(v, i);
        return;
    }
    k = stack_open(v);
    val = stack_pop(v, &k, i->opsize);
    if (i->op[0].kind == OP_MEM) {
        /* The address is computed with the new RSP. */
        stack_close(v, &k);
        off = mem_offset(v, i);
        v->s.gpr[RSP] = old;
        lin_write(v, linear(v, i->seg, off, i->opsize, true), i->opsize, val);
        stack_close(v, &k);
        return;
    }
    stack_close(v, &k);
    gpr_set(v, i->op[0].reg, i->opsize, val);
}

void op_pusha(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 sp = v->s.gpr[RSP];

    for (unsigned r = RAX; r <= RDI; r++)
        stack_push(v, &k, i->opsize, r == RSP ? sp : v->s.gpr[r]);
    stack_close(v, &k);
}

void op_popa(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 val[8];

    for (int r = RDI; r >= RAX; r--)
        val[r] = stack_pop(v, &k, i->opsize);
    stack_close(v, &k);
    for (unsigned r = RAX; r <= RDI; r++)
        if (r != RSP)
            gpr_set(v, r, i->opsize, val[r]);
}

void op_pushf(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);

    if (is_v86(v) && iopl_of(v) < 3)
        throw_gp(v);
    stack_push(v, &k, i->opsize, v->s.rflags & ~(u64)(FL_VM | FL_RF));
    stack_close(v, &k);
}

void op_popf(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 val, may = FL_STATUS | FL_TF | FL_DF | FL_NT, old = v->s.rflags;

    if (is_v86(v) && iopl_of(v) < 3)
        throw_gp(v);
    val = stack_pop(v, &k, i->opsize);
    if (i->opsize > 2)
        may |= FL_AC | FL_ID;
    if (v->cpl <= iopl_of(v))
        may |= FL_IF;
    if (v->cpl == 0)
        may |= FL_IOPL;
    stack_close(v, &k);
    v->s.rflags = (old & ~may & ~(u64)FL_RF) | (val & may) | FL_1;
    if ((old ^ v->s.rflags) & FL_AC)
        soft_update_class(v);
}

void op_enter(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->opsize, level = i->imm2 & 31;
    u64 alloc = i->imm & 0xffff, bp = v->s.gpr[RBP], frame;
    struct stack k = stack_open(v);

    stack_push(v, &k, size, bp);
    frame = k.sp;
    for (unsigned n = 1; n < level; n++) {
        u64 at;

        bp = (bp & ~k.mask) | ((bp - size) & k.mask);
        at = bp & k.mask;
        stack_push(v, &k, size, lin_read(v, linear(v, SS, at, size, false), size));
    }
    if (level)
        stack_push(v, &k, size, frame);
    k.sp = (k.sp & ~k.mask) | ((k.sp - alloc) & k.mask);
    /* The new top has to be writable, as the processor checks. */
    lin_probe(v, linear(v, SS, k.sp & k.mask, 1, true), 1);
    stack_close(v, &k);
    gpr_set(v, RBP, size, frame);
}

void op_leave(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    u64 bp;

    k.sp = (k.sp & ~k.mask) | (v->s.gpr[RBP] & k.mask);
    bp = stack_pop(v, &k, i->opsize);
    stack_close(v, &k);
    gpr_set(v, RBP, i->opsize, bp);
}

/* ---- software interrupts
 * ---------------------------------------------------------------------
 */
void op_int(struct soft_vcpu *v, const struct insn *i)
{
    if (is_v86(v) && iopl_of(v) < 3)
        throw_gp(v);
    soft_int(v, (u8)i->imm, true);
}

void op_int1(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    soft_int(v, EXC_DB, false);
}

void op_int3(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    soft_int(v, EXC_BP, true);
}

void op_into(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    if (v->s.rflags & FL_OF)
        soft_int(v, EXC_OF, true);
}

void op_bound(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    s64 val = (s64)sext(op_get(v, i, 0), size);
    s64 lo = (s64)sext(lin_read(v, mem_linear(v, i, 0, size, false), size), size);
    s64 hi = (s64)sext(lin_read(v, mem_linear(v, i, size, size, false), size), size);

    if (val < lo || val > hi)
        throw_vec(v, EXC_BR);
}

void op_fence(struct soft_vcpu *v UNUSED, const struct insn *i UNUSED)
{
    __asm__ volatile("mfence" : : : "memory");
}
