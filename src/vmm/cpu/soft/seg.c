// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * seg.c - descriptors, segment registers, descriptor-table registers, and the instructions that
 * look at descriptors.  SDM volume 3, chapters 3, 5.
 *
 * The limit and the null tests come before any read; the accessed bit is set by an atomic or.
 */
#include "vmm/cpu/soft/interp.h"

/* ---- descriptors ----------------------------------------------------------------------------
 */
u32 desc_limit(const struct desc *d)
{
    u32 l = (d->lo & 0xffff) | (d->hi & 0xf0000);

    return d->hi & (1u << 23) ? l << 12 | 0xfff : l;
}

u64 desc_base(const struct desc *d)
{
    return (d->lo >> 16) | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
}

bool desc_find(struct soft_vcpu *v, u16 sel, struct desc *ret)
{
    u64 base, limit, off = sel & 0xfff8u;

    if (sel & 4) {
        if (v->s.ldt.attr & ATTR_UNUSABLE || !(v->s.ldt.attr & ATTR_P))
            return false;
        base = v->s.ldt.base;
        limit = v->s.ldt.limit;
    } else {
        base = v->s.gdt.base;
        limit = v->s.gdt.limit;
    }
    if (off + 7 > limit)
        return false;
    ret->at = base + off;
    if (!is_long(v))
        ret->at = (u32)ret->at;

    u64 val = sys_read(v, ret->at, 8);

    ret->lo = (u32)val;
    ret->hi = (u32)(val >> 32);
    ret->base_hi = 0;
    /* System descriptors of IA-32e mode have 16 bytes. */
    if (is_long(v) && !desc_s(ret)) {
        if (off + 15 > limit)
            return false;
        ret->base_hi = sys_read(v, ret->at + 8, 8);
    }
    return true;
}

void desc_read(struct soft_vcpu *v, u16 sel, u8 vec, u32 ext, struct desc *ret)
{
    if (!(sel & ~3))
        throw_err(v, vec, ext);
    if (!desc_find(v, sel, ret))
        throw_err(v, vec, (sel & ~3u) | ext);
}

/* Atomic or of a byte of a descriptor. */
static void desc_or(struct soft_vcpu *v, u64 at, u8 bits)
{
    bool mmio;
    gpa pa;
    u8 *p = mmu_ptr(v, at, 1, MMU_WRITE, TLB_KERNEL, &mmio, &pa);

    if (p)
        __atomic_fetch_or(p, bits, __ATOMIC_SEQ_CST);
    else if (mmio)
        mmu_phys_write(v, pa, mmu_phys_read(v, pa, 1) | bits, 1);
    else
        interp_throw(v);
}

void desc_accessed(struct soft_vcpu *v, u16 sel UNUSED, struct desc *d)
{
    if (d->hi & 0x100)
        return;
    desc_or(v, d->at + 5, 1);
    d->hi |= 0x100;
}

void desc_to_seg(const struct desc *d, u16 sel, struct x86_seg *ret)
{
    ret->base = desc_base(d);
    if (!desc_s(d))
        ret->base |= (d->base_hi & 0xffffffff) << 32;
    ret->limit = desc_limit(d);
    ret->attr = (d->hi >> 8) & 0xf0ff;
    ret->sel = sel;
}

static void seg_null(struct x86_seg *s, u16 sel)
{
    s->sel = sel;
    s->base = 0;
    s->limit = 0;
    s->attr = ATTR_UNUSABLE;
}

void seg_real(struct soft_vcpu *v, unsigned seg, u16 sel)
{
    struct x86_seg *s = &v->s.seg[seg];

    s->sel = sel;
    s->base = (u64)sel << 4;
    if (is_v86(v)) {
        s->limit = 0xffff;
        s->attr = 0xf3; /* data, accessed, writable, DPL 3 */
    } else if (s->attr & ATTR_UNUSABLE) {
        /* Came out of protected mode with a null selector. */
        s->limit = 0xffff;
        s->attr = 0x93;
    }
    /* Else limit and rights stay ("unreal mode"). */
}

/* ---- loads ----------------------------------------------------------------------------------
 */
void seg_check_ss(struct soft_vcpu *v, u16 sel, unsigned cpl, u8 vec, u32 ext,
                  struct x86_seg *ret)
{
    u32 code = (sel & ~3u) | ext;
    struct desc d;

    desc_read(v, sel, vec, ext, &d);
    if ((sel & 3) != cpl || desc_dpl(&d) != cpl || !desc_s(&d) || (d.hi & 0x800) ||
        !(d.hi & 0x200))
        throw_err(v, vec, code);
    if (!desc_p(&d))
        throw_err(v, EXC_SS, code);
    desc_accessed(v, sel, &d);
    desc_to_seg(&d, sel, ret);
}

void seg_load(struct soft_vcpu *v, unsigned seg, u16 sel)
{
    struct x86_seg *s = &v->s.seg[seg];
    struct desc d;

    if (!is_prot(v)) {
        seg_real(v, seg, sel);
        soft_update(v);
        return;
    }
    if (seg == SS) {
        struct x86_seg n;

        if (!(sel & ~3)) {
            if (v->mode != MODE_64 || v->cpl == 3 || (sel & 3) != v->cpl)
                throw_gp(v);
            seg_null(s, sel);
            s->attr |= (u32)v->cpl << ATTR_DPL_SHIFT;
        } else {
            seg_check_ss(v, sel, v->cpl, EXC_GP, 0, &n);
            *s = n;
        }
        soft_update(v);
        return;
    }
    if (!(sel & ~3)) {
        seg_null(s, sel);
    } else {
        u32 code = sel & ~3u;

        desc_read(v, sel, EXC_GP, 0, &d);
        if (!desc_s(&d) || (d.hi & 0xa00) == 0x800) /* system, or execute-only */
            throw_err(v, EXC_GP, code);
        if ((d.hi & 0xc00) != 0xc00 && /* not conforming code */
            ((sel & 3) > desc_dpl(&d) || v->cpl > desc_dpl(&d)))
            throw_err(v, EXC_GP, code);
        if (!desc_p(&d))
            throw_err(v, EXC_NP, code);
        desc_accessed(v, sel, &d);
        desc_to_seg(&d, sel, s);
    }
    if (v->mode != MODE_64) /* flat or not, usable or not: code is translated for that */
        soft_update(v);
}

void seg_drop_outer(struct soft_vcpu *v, unsigned cpl)
{
    static const u8 segs[] = { ES, DS, FS, GS };

    for (unsigned k = 0; k < ARRAY_LEN(segs); k++) {
        struct x86_seg *s = &v->s.seg[segs[k]];

        if (s->attr & ATTR_UNUSABLE)
            continue;
        if ((s->attr & (ATTR_CODE | ATTR_C)) == (ATTR_CODE | ATTR_C))
            continue;
        if (((s->attr >> ATTR_DPL_SHIFT) & 3) < cpl)
            seg_null(s, 0);
    }
}

void tss_stack(struct soft_vcpu *v, unsigned cpl, u32 ext, u16 *ret_ss, u64 *ret_sp)
{
    const struct x86_seg *tr = &v->s.tr;
    u32 code = (tr->sel & ~3u) | ext;
    bool tss32 = tr->attr & 8;
    u32 off = tss32 ? 4 + 8 * cpl : 2 + 4 * cpl;

    if ((tr->attr & ATTR_UNUSABLE) || off + (tss32 ? 6 : 4) - 1 > tr->limit)
        throw_err(v, EXC_TS, code);
    *ret_sp = sys_read(v, tr->base + off, tss32 ? 4 : 2);
    *ret_ss = (u16)sys_read(v, tr->base + off + (tss32 ? 4 : 2), 2);
}

/* ---- instructions ---------------------------------------------------------------------------
 */
static unsigned sreg_of(const struct insn *i)
{
    return i->op[0].reg;
}

void op_mov_to_seg(struct soft_vcpu *v, const struct insn *i)
{
    u16 sel = (u16)(i->op[1].kind == OP_MEM ? lin_read(v, mem_linear(v, i, 0, 2, false), 2)
                                            : op_get(v, i, 1));

    if (sreg_of(i) == CS)
        throw_ud(v);
    seg_load(v, sreg_of(i), sel);
    if (sreg_of(i) == SS)
        v->x.shadow = 2;
}

void op_pop_seg(struct soft_vcpu *v, const struct insn *i)
{
    struct stack k = stack_open(v);
    unsigned seg = sreg_of(i);
    u64 at = k.sp & k.mask;
    /* Only the selector's two bytes have to be there. */
    u16 sel = (u16)lin_read(v, linear(v, SS, at, 2, false), 2);

    k.sp = (k.sp & ~k.mask) | ((at + i->opsize) & k.mask);
    seg_load(v, seg, sel);
    stack_close(v, &k);
    if (seg == SS)
        v->x.shadow = 2;
}

void op_lxs(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size, seg;
    u64 off;
    u16 sel;

    switch (i->mnem) {
    case ZYDIS_MNEMONIC_LDS:
        seg = DS;
        break;
    case ZYDIS_MNEMONIC_LES:
        seg = ES;
        break;
    case ZYDIS_MNEMONIC_LFS:
        seg = FS;
        break;
    case ZYDIS_MNEMONIC_LGS:
        seg = GS;
        break;
    default:
        seg = SS;
    }
    if (!i->has_mem)
        throw_ud(v);
    off = lin_read(v, mem_linear(v, i, 0, size, false), size);
    sel = (u16)lin_read(v, mem_linear(v, i, size, 2, false), 2);
    seg_load(v, seg, sel);
    gpr_set(v, i->op[0].reg, size, off);
    if (seg == SS)
        v->x.shadow = 2;
}

static void table_load(struct soft_vcpu *v, const struct insn *i, struct x86_dtable *t)
{
    unsigned size = i->mode == MODE_64 ? 8 : 4;
    u64 base;
    u16 limit;

    if (v->cpl)
        throw_gp(v);
    if (!i->has_mem)
        throw_ud(v);
    limit = (u16)lin_read(v, mem_linear(v, i, 0, 2, false), 2);
    base = lin_read(v, mem_linear(v, i, 2, size, false), size);
    if (i->mode == MODE_64) {
        if (!canonical(base))
            throw_gp(v);
    } else if (i->mode == MODE_16 ? !(i->prefixes & PFX_66) : !!(i->prefixes & PFX_66)) {
        base &= 0xffffff; /* 16-bit operand size */
    }
    t->limit = limit;
    t->base = base;
}

void op_lgdt(struct soft_vcpu *v, const struct insn *i)
{
    table_load(v, i, &v->s.gdt);
}

void op_lidt(struct soft_vcpu *v, const struct insn *i)
{
    table_load(v, i, &v->s.idt);
}

static void umip_check(struct soft_vcpu *v)
{
    if ((v->s.cr4 & CR4_UMIP) && v->cpl == 3 && (v->s.cr0 & CR0_PE))
        throw_gp(v);
}

static void table_store(struct soft_vcpu *v, const struct insn *i, const struct x86_dtable *t)
{
    unsigned size = i->mode == MODE_64 ? 8 : 4;
    u64 la, la2;

    umip_check(v);
    if (!i->has_mem)
        throw_ud(v);
    la = mem_linear(v, i, 0, 2, true);
    la2 = mem_linear(v, i, 2, size, true);
    lin_probe(v, la, 2);
    lin_write(v, la2, size, t->base);
    lin_write(v, la, 2, t->limit);
}

void op_sgdt(struct soft_vcpu *v, const struct insn *i)
{
    table_store(v, i, &v->s.gdt);
}

void op_sidt(struct soft_vcpu *v, const struct insn *i)
{
    table_store(v, i, &v->s.idt);
}

/* The 16-bit source of LLDT, LTR, LAR, VERR...: r/m16, whatever size the decoder names. */
static u16 rm16(struct soft_vcpu *v, const struct insn *i, unsigned n)
{
    if (i->op[n].kind == OP_MEM)
        return (u16)lin_read(v, mem_linear(v, i, 0, 2, false), 2);
    return (u16)v->s.gpr[i->op[n].reg];
}

/* A selector into a register (whole, zero-extended) or 16-bit memory: SLDT, STR, SMSW. */
static void store16(struct soft_vcpu *v, const struct insn *i, u64 val)
{
    if (i->op[0].kind == OP_MEM)
        lin_write(v, mem_linear(v, i, 0, 2, true), 2, val);
    else
        gpr_set(v, i->op[0].reg, i->op[0].size, val);
}

static void need_prot(struct soft_vcpu *v)
{
    if (!is_prot(v))
        throw_ud(v);
}

void op_lldt(struct soft_vcpu *v, const struct insn *i)
{
    struct desc d;
    u16 sel;

    need_prot(v);
    if (v->cpl)
        throw_gp(v);
    sel = rm16(v, i, 0);
    if (!(sel & ~3)) {
        seg_null(&v->s.ldt, sel);
        return;
    }
    if (sel & 4)
        throw_err(v, EXC_GP, sel & ~3u);
    desc_read(v, sel, EXC_GP, 0, &d);
    if (desc_s(&d) || desc_type(&d) != SYS_LDT)
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, sel & ~3u);
    desc_to_seg(&d, sel, &v->s.ldt);
}

void op_ltr(struct soft_vcpu *v, const struct insn *i)
{
    struct desc d;
    u16 sel;

    need_prot(v);
    if (v->cpl)
        throw_gp(v);
    sel = rm16(v, i, 0);
    if (!(sel & ~3))
        throw_gp(v);
    if (sel & 4)
        throw_err(v, EXC_GP, sel & ~3u);
    desc_read(v, sel, EXC_GP, 0, &d);
    if (desc_s(&d) ||
        (desc_type(&d) != SYS_TSS32 && (is_long(v) || desc_type(&d) != SYS_TSS16)))
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, sel & ~3u);
    desc_or(v, d.at + 5, 2);
    d.hi |= 0x200;
    desc_to_seg(&d, sel, &v->s.tr);
}

void op_sldt(struct soft_vcpu *v, const struct insn *i)
{
    need_prot(v);
    umip_check(v);
    store16(v, i, v->s.ldt.sel);
}

void op_str(struct soft_vcpu *v, const struct insn *i)
{
    need_prot(v);
    umip_check(v);
    store16(v, i, v->s.tr.sel);
}

void op_smsw(struct soft_vcpu *v, const struct insn *i)
{
    umip_check(v);
    store16(v, i, v->s.cr0);
}

/* May cpl and rpl see it, as LAR, LSL, VERR, VERW ask? */
static bool visible(struct soft_vcpu *v, u16 sel, const struct desc *d)
{
    if (desc_s(d) && (d->hi & 0xc00) == 0xc00)
        return true;
    return v->cpl <= desc_dpl(d) && (sel & 3u) <= desc_dpl(d);
}

static void set_zf(struct soft_vcpu *v, bool z)
{
    v->s.rflags = z ? v->s.rflags | FL_ZF : v->s.rflags & ~(u64)FL_ZF;
}

void op_lar(struct soft_vcpu *v, const struct insn *i)
{
    /* Valid system types: legacy mode, IA-32e mode. */
    const u32 ok =
        is_long(v) ? BIT(2) | BIT(9) | BIT(11) | BIT(12)
                   : BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(9) | BIT(11) | BIT(12);
    struct desc d;
    u16 sel;

    need_prot(v);
    sel = rm16(v, i, 1);
    if (!(sel & ~3) || !desc_find(v, sel, &d) ||
        (!desc_s(&d) && !(ok & (1u << desc_type(&d)))) || !visible(v, sel, &d)) {
        set_zf(v, false);
        return;
    }
    gpr_set(v, i->op[0].reg, i->op[0].size, d.hi & 0x00ffff00);
    set_zf(v, true);
}

void op_lsl(struct soft_vcpu *v, const struct insn *i)
{
    const u32 ok =
        is_long(v) ? BIT(2) | BIT(9) | BIT(11) : BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11);
    struct desc d;
    u16 sel;

    need_prot(v);
    sel = rm16(v, i, 1);
    if (!(sel & ~3) || !desc_find(v, sel, &d) ||
        (!desc_s(&d) && !(ok & (1u << desc_type(&d)))) || !visible(v, sel, &d)) {
        set_zf(v, false);
        return;
    }
    gpr_set(v, i->op[0].reg, i->op[0].size, desc_limit(&d));
    set_zf(v, true);
}

void op_verr(struct soft_vcpu *v, const struct insn *i)
{
    struct desc d;
    u16 sel;

    need_prot(v);
    sel = rm16(v, i, 0);
    set_zf(v, (sel & ~3) && desc_find(v, sel, &d) && desc_s(&d) && visible(v, sel, &d) &&
                  (d.hi & 0xa00) != 0x800);
}

void op_verw(struct soft_vcpu *v, const struct insn *i)
{
    struct desc d;
    u16 sel;

    need_prot(v);
    sel = rm16(v, i, 0);
    set_zf(v, (sel & ~3) && desc_find(v, sel, &d) && desc_s(&d) && visible(v, sel, &d) &&
                  (d.hi & 0xa00) == 0x200);
}

void op_arpl(struct soft_vcpu *v, const struct insn *i)
{
    u16 dst, src;

    need_prot(v);
    if (i->op[0].kind == OP_MEM)
        lin_probe(v, mem_linear(v, i, 0, 2, true), 2);
    dst = rm16(v, i, 0);
    src = (u16)op_get(v, i, 1);
    if ((dst & 3) < (src & 3)) {
        dst = (u16)((dst & ~3) | (src & 3));
        if (i->op[0].kind == OP_MEM)
            lin_write(v, mem_linear(v, i, 0, 2, true), 2, dst);
        else
            gpr_set(v, i->op[0].reg, 2, dst);
        set_zf(v, true);
    } else {
        set_zf(v, false);
    }
}
