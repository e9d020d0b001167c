// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sys.c - system instructions: control and debug registers, I/O, SYSCALL and its kin, time,
 * HLT, CPUID.  SDM volume 2; volume 3 chapters 2, 4.10, 17.2.  MSRs are in msr.c.
 */
#include "vmm/cpu/soft/interp.h"

static bool has(const struct soft_vcpu *v, enum cpuid_word w, u32 bit)
{
    return v->cpuid->have[w] & (1u << bit);
}

static void need_cpl0(struct soft_vcpu *v)
{
    if (v->cpl)
        throw_gp(v);
}

/* ---- control registers
 * ------------------------------------------------------------------------
 */
/* What loads the pointers of PAE paging checks their reserved bits (SDM 3, 4.4.1). */
static void pdptes_check(struct soft_vcpu *v, u64 cr0, u64 cr4, u64 cr3, bool loaded)
{
    if (loaded && (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !is_long(v) && !mmu_pdptes_ok(v, cr3))
        throw_gp(v);
}

static void cr0_write(struct soft_vcpu *v, u64 val)
{
    u64 old = v->s.cr0, efer = v->s.msr.efer, diff;

    if ((val >> 32) || ((val & CR0_PG) && !(val & CR0_PE)) ||
        ((val & CR0_NW) && !(val & CR0_CD)))
        throw_gp(v);
    val &=
        CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    val |= CR0_ET;
    diff = old ^ val;
    if (diff & CR0_PG) {
        if ((val & CR0_PG) && (efer & EFER_LME)) {
            if (!(v->s.cr4 & CR4_PAE) || (v->s.seg[CS].attr & ATTR_L))
                throw_gp(v);
            v->s.msr.efer |= EFER_LMA;
        } else if (!(val & CR0_PG)) {
            if (v->mode == MODE_64 || (v->s.cr4 & CR4_PCIDE))
                throw_gp(v);
            v->s.msr.efer &= ~(u64)EFER_LMA;
        }
    }
    pdptes_check(v, val, v->s.cr4, v->s.cr3, diff & (CR0_PG | CR0_CD | CR0_NW));
    v->s.cr0 = val;
    soft_update(v);
    if (diff & (CR0_PG | CR0_WP | CR0_PE))
        mmu_flush_all(v);
}

static void cr3_write(struct soft_vcpu *v, u64 val)
{
    if (is_long(v)) {
        u64 keep = v->s.cr4 & CR4_PCIDE ? BIT(63) : 0;

        if ((val & ~keep) >> v->cpuid->phys_bits)
            throw_gp(v);
    } else {
        val = (u32)val;
        pdptes_check(v, v->s.cr0, v->s.cr4, val, true);
    }
    mmu_set_cr3(v, val);
}

static u64 cr4_allowed(const struct soft_vcpu *v)
{
    u64 may = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE | CR4_OSFXSR |
              CR4_OSXMMEXCPT;

    if (has(v, W_7_ECX, 2))
        may |= CR4_UMIP;
    if (has(v, W_7_EBX, 0))
        may |= CR4_FSGSBASE;
    if (has(v, W_1_ECX, 17))
        may |= CR4_PCIDE;
    if (has(v, W_1_ECX, 26))
        may |= CR4_OSXSAVE;
    if (has(v, W_7_EBX, 7))
        may |= CR4_SMEP;
    if (has(v, W_7_EBX, 20))
        may |= CR4_SMAP;
    return may;
}

static void cr4_write(struct soft_vcpu *v, u64 val)
{
    u64 diff = v->s.cr4 ^ val;

    if (val & ~cr4_allowed(v))
        throw_gp(v);
    if (is_long(v) && !(val & CR4_PAE))
        throw_gp(v);
    if ((diff & val & CR4_PCIDE) && (!is_long(v) || (v->s.cr3 & 0xfff)))
        throw_gp(v);
    pdptes_check(v, v->s.cr0, val, v->s.cr3, diff & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP));
    if (diff & (CR4_OSFXSR | CR4_OSXSAVE))
        soft_fp_save(v);
    v->s.cr4 = val;
    soft_update(v);
    if (diff & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
        mmu_flush_all(v);
}

static u64 cr8_read(struct soft_vcpu *v)
{
    if (!v->vcpu->lapic)
        return v->s.cr8;
    soft_fp_save(v);
    return v->vcpu->lapic_ops->tpr_get(v->vcpu->lapic) >> 4;
}

static void cr8_write(struct soft_vcpu *v, u64 val)
{
    if (val >> 4)
        throw_gp(v);
    v->s.cr8 = val;
    if (v->vcpu->lapic) {
        soft_fp_save(v);
        v->vcpu->lapic_ops->tpr_set(v->vcpu->lapic, (u8)(val << 4));
    }
}

void op_mov_cr(struct soft_vcpu *v, const struct insn *i)
{
    bool write = i->op[0].kind == OP_CR;
    unsigned cr = i->op[write ? 0 : 1].reg, reg = i->op[write ? 1 : 0].reg;
    unsigned size = i->mode == MODE_64 ? 8 : 4;
    u64 val;

    if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
        throw_ud(v);
    need_cpl0(v);
    if (!write) {
        switch (cr) {
        case 0:
            val = v->s.cr0;
            break;
        case 2:
            val = v->s.cr2;
            break;
        case 3:
            val = v->s.cr3;
            break;
        case 4:
            val = v->s.cr4;
            break;
        default:
            val = cr8_read(v);
        }
        gpr_set(v, reg, size, val);
        return;
    }
    val = gpr_get(v, reg, size);
    switch (cr) {
    case 0:
        cr0_write(v, val);
        break;
    case 2:
        v->s.cr2 = val;
        break;
    case 3:
        cr3_write(v, val);
        break;
    case 4:
        cr4_write(v, val);
        break;
    default:
        cr8_write(v, val);
    }
}

void op_lmsw(struct soft_vcpu *v, const struct insn *i)
{
    u64 val;

    need_cpl0(v);
    val = i->op[0].kind == OP_MEM ? lin_read(v, mem_linear(v, i, 0, 2, false), 2)
                                  : v->s.gpr[i->op[0].reg];
    /* PE can be set, not cleared. */
    cr0_write(v, (v->s.cr0 & ~0xeull) | (val & 0xf));
}

void op_clts(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    need_cpl0(v);
    v->s.cr0 &= ~(u64)CR0_TS;
    soft_update(v);
}

/* ---- debug registers ------------------------------------------------------------------------
 */
void op_mov_dr(struct soft_vcpu *v, const struct insn *i)
{
    bool write = i->op[0].kind == OP_DR;
    unsigned dr = i->op[write ? 0 : 1].reg, reg = i->op[write ? 1 : 0].reg;
    unsigned size = i->mode == MODE_64 ? 8 : 4;
    u64 val;

    if (dr > 7)
        throw_ud(v);
    if (dr == 4 || dr == 5) {
        if (v->s.cr4 & CR4_DE)
            throw_ud(v);
        dr += 2;
    }
    need_cpl0(v);
    if (v->s.dr[7] & BIT(13)) { /* general detect */
        v->s.dr[6] |= BIT(13);
        throw_vec(v, EXC_DB);
    }
    if (!write) {
        val = v->s.dr[dr];
        if (dr == 6)
            val = (val & 0xe00f) | 0xffff0ff0;
        else if (dr == 7)
            val |= 0x400;
        gpr_set(v, reg, size, val);
        return;
    }
    val = gpr_get(v, reg, size);
    switch (dr) {
    case 6:
        if (val >> 32)
            throw_gp(v);
        v->s.dr[6] = (val & 0xe00f) | 0xffff0ff0;
        return;
    case 7:
        if (val >> 32)
            throw_gp(v);
        v->s.dr[7] = (val & ~0xd000ull) | 0x400;
        break;
    default:
        v->s.dr[dr] = val;
    }
    soft_update(v);
    mmu_flush_all(v); /* entries of watched pages must go */
}

/* ---- TLB, caches ----------------------------------------------------------------------------
 */
void op_invlpg(struct soft_vcpu *v, const struct insn *i)
{
    u64 la = mem_offset(v, i);

    need_cpl0(v);
    if (!i->has_mem)
        throw_ud(v);
    if (i->mode != MODE_64)
        la = (u32)(la + v->s.seg[i->seg].base);
    else if (i->seg >= FS)
        la += v->s.seg[i->seg].base;
    if (i->mode != MODE_64 || canonical(la))
        mmu_flush_page(v, la);
}

void op_invpcid(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->mode == MODE_64 ? 8 : 4;
    u64 type, lo, va;

    if (!has(v, W_7_EBX, 10))
        throw_ud(v);
    need_cpl0(v);
    type = gpr_get(v, i->op[0].reg, size);
    lo = lin_read(v, mem_linear(v, i, 0, 8, false), 8);
    va = lin_read(v, mem_linear(v, i, 8, 8, false), 8);
    if (type > 3)
        throw_gp(v);
    if (type < 2 && ((lo >> 12) || ((lo & 0xfff) && !(v->s.cr4 & CR4_PCIDE))))
        throw_gp(v);
    if (type == 0 && !canonical(va))
        throw_gp(v);
    mmu_invpcid(v, type, (u16)(lo & 0xfff), va);
}

void op_wbinvd(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    need_cpl0(v);
}

/* ---- time, identification
 * -----------------------------------------------------------------------
 */
static void tsc_check(struct soft_vcpu *v)
{
    if ((v->s.cr4 & CR4_TSD) && v->cpl && !is_real(v))
        throw_gp(v);
}

void op_rdtsc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 t;

    tsc_check(v);
    t = soft_tsc(v);
    v->s.gpr[RAX] = (u32)t;
    v->s.gpr[RDX] = t >> 32;
}

void op_rdtscp(struct soft_vcpu *v, const struct insn *i)
{
    if (!has(v, W_80000001_EDX, 27))
        throw_ud(v);
    op_rdtsc(v, i);
    v->s.gpr[RCX] = (u32)v->s.msr.tsc_aux;
}

void op_rdpid(struct soft_vcpu *v, const struct insn *i)
{
    if (!has(v, W_7_ECX, 22))
        throw_ud(v);
    v->s.gpr[i->op[0].reg] = (u32)v->s.msr.tsc_aux;
}

void op_rdpmc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    throw_gp(v); /* no counters */
}

void op_cpuid(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u32 r[4];

    soft_fp_save(v);
    cpuid_query(v->cpuid, (u32)v->s.gpr[RAX], (u32)v->s.gpr[RCX], v->vcpu->apic_id, v->s.cr4,
                v->s.xcr0, r);
    v->s.gpr[RAX] = r[0];
    v->s.gpr[RBX] = r[1];
    v->s.gpr[RCX] = r[2];
    v->s.gpr[RDX] = r[3];
}

void op_xgetbv(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 val;

    if (!(v->s.cr4 & CR4_OSXSAVE))
        throw_ud(v);
    switch ((u32)v->s.gpr[RCX]) {
    case 0:
        val = v->s.xcr0;
        break;
    case 1: /* XINUSE; a component that is in use is a safe answer */
        if (has(v, W_D_1_EAX, 2)) {
            val = v->s.xcr0;
            break;
        }
        __attribute__((fallthrough));
    default:
        throw_gp(v);
    }
    v->s.gpr[RAX] = (u32)val;
    v->s.gpr[RDX] = val >> 32;
}

void op_xsetbv(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 val = v->s.gpr[RDX] << 32 | (u32)v->s.gpr[RAX];

    if (!(v->s.cr4 & CR4_OSXSAVE))
        throw_ud(v);
    need_cpl0(v);
    if ((u32)v->s.gpr[RCX] || !(val & 1) || (val & ~v->cpuid->xcr0) ||
        ((val & 4) && !(val & 2)))
        throw_gp(v);
    soft_fp_save(v);
    v->s.xcr0 = val;
    soft_update(v);
}

void op_rdmsr(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 val;

    need_cpl0(v);
    if (!soft_rdmsr(v, (u32)v->s.gpr[RCX], &val))
        throw_gp(v);
    v->s.gpr[RAX] = (u32)val;
    v->s.gpr[RDX] = val >> 32;
}

void op_wrmsr(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    need_cpl0(v);
    if (!soft_wrmsr(v, (u32)v->s.gpr[RCX], v->s.gpr[RDX] << 32 | (u32)v->s.gpr[RAX]))
        throw_gp(v);
}

/* ---- flags, HLT
 * ------------------------------------------------------------------------------
 */
void op_hlt(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    need_cpl0(v);
    v->s.mp_state = MP_HALTED;
    v->x.stop = SOFT_HALT;
}

static void iopl_check(struct soft_vcpu *v)
{
    if (!is_real(v) && v->cpl > iopl_of(v))
        throw_gp(v);
}

void op_cli(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    iopl_check(v);
    v->s.rflags &= ~(u64)FL_IF;
}

void op_sti(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    iopl_check(v);
    if (!(v->s.rflags & FL_IF))
        v->x.shadow = 1;
    v->s.rflags |= FL_IF;
}

static void ac_set(struct soft_vcpu *v, bool on)
{
    if (!has(v, W_7_EBX, 20) || v->cpl || is_v86(v))
        throw_ud(v);
    v->s.rflags = on ? v->s.rflags | FL_AC : v->s.rflags & ~(u64)FL_AC;
    soft_update_class(v);
}

void op_clac(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    ac_set(v, false);
}

void op_stac(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    ac_set(v, true);
}

/* ---- segment bases
 * ----------------------------------------------------------------------------
 */
void op_swapgs(struct soft_vcpu *v, const struct insn *i)
{
    u64 t;

    if (i->mode != MODE_64)
        throw_ud(v);
    need_cpl0(v);
    t = v->s.seg[GS].base;
    v->s.seg[GS].base = v->s.msr.kernel_gs_base;
    v->s.msr.kernel_gs_base = t;
}

void op_fsgsbase(struct soft_vcpu *v, const struct insn *i)
{
    bool fs = i->mnem == ZYDIS_MNEMONIC_RDFSBASE || i->mnem == ZYDIS_MNEMONIC_WRFSBASE;
    bool rd = i->mnem == ZYDIS_MNEMONIC_RDFSBASE || i->mnem == ZYDIS_MNEMONIC_RDGSBASE;
    struct x86_seg *s = &v->s.seg[fs ? FS : GS];
    u64 val;

    if (i->mode != MODE_64 || !(v->s.cr4 & CR4_FSGSBASE))
        throw_ud(v);
    if (rd) {
        gpr_set(v, i->op[0].reg, i->op[0].size, s->base);
        return;
    }
    val = gpr_get(v, i->op[0].reg, i->op[0].size);
    if (!canonical(val))
        throw_gp(v);
    s->base = val;
}

/* ---- fast system calls
 * ------------------------------------------------------------------------
 */
enum { CODE64 = 0xa09b, CODE32 = 0xc09b, DATA32 = 0xc093 };

static void flat_seg(struct x86_seg *s, u16 sel, u32 attr, unsigned dpl)
{
    s->sel = sel;
    s->base = 0;
    s->limit = 0xffffffff;
    s->attr = attr | dpl << ATTR_DPL_SHIFT;
}

static bool is_amd(const struct soft_vcpu *v)
{
    return v->cpuid->vendor[0] == 'A' || v->cpuid->vendor[0] == 'H'; /* Hygon is alike */
}

void op_syscall(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 star = v->s.msr.star;
    u16 cs = (u16)(star >> 32) & 0xfffc;

    if (!(v->s.msr.efer & EFER_SCE) || !is_prot(v) || (v->mode != MODE_64 && !is_amd(v)))
        throw_ud(v);
    if (is_long(v)) {
        v->s.gpr[RCX] = v->x.next_rip;
        v->s.gpr[R11] = v->s.rflags & ~(u64)FL_RF;
        v->x.next_rip = v->mode == MODE_64 ? v->s.msr.lstar : v->s.msr.cstar;
        v->s.rflags = (v->s.rflags & ~(v->s.msr.sfmask | FL_RF)) | FL_1;
        flat_seg(&v->s.seg[CS], cs, CODE64, 0);
    } else {
        v->s.gpr[RCX] = v->x.next_rip;
        v->x.next_rip = (u32)star;
        v->s.rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
        flat_seg(&v->s.seg[CS], cs, CODE32, 0);
    }
    flat_seg(&v->s.seg[SS], cs + 8, DATA32, 0);
    v->x.no_step = !(v->s.rflags & FL_TF);
    soft_update(v);
}

void op_sysret(struct soft_vcpu *v, const struct insn *i)
{
    u16 base = (u16)(v->s.msr.star >> 48);

    if (!(v->s.msr.efer & EFER_SCE) || !is_prot(v) || (v->mode != MODE_64 && !is_amd(v)))
        throw_ud(v);
    need_cpl0(v);
    if (is_long(v)) {
        bool wide = i->prefixes & PFX_REXW;

        if (wide && !canonical(v->s.gpr[RCX]))
            throw_gp(v);
        v->s.rflags = (v->s.gpr[R11] & 0x3c7fd7) | FL_1;
        if (wide)
            flat_seg(&v->s.seg[CS], (base + 16) | 3, CODE64, 3);
        else
            flat_seg(&v->s.seg[CS], base | 3, CODE32, 3);
        v->x.next_rip = wide ? v->s.gpr[RCX] : (u32)v->s.gpr[RCX];
        v->x.keep_rf = true;
    } else {
        v->s.rflags |= FL_IF;
        flat_seg(&v->s.seg[CS], base | 3, CODE32, 3);
        v->x.next_rip = (u32)v->s.gpr[RCX];
    }
    flat_seg(&v->s.seg[SS], (base + 8) | 3, DATA32, 3);
    soft_update(v);
}

void op_sysenter(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u16 cs = (u16)v->s.msr.sysenter_cs & 0xfffc;
    bool lm = is_long(v);

    if (lm && is_amd(v)) /* AMD64 manual 3: not in long mode */
        throw_ud(v);
    if (is_real(v) || !cs)
        throw_gp(v);
    v->s.rflags &= ~(u64)(FL_VM | FL_IF | FL_RF);
    v->s.gpr[RSP] = lm ? v->s.msr.sysenter_esp : (u32)v->s.msr.sysenter_esp;
    v->x.next_rip = lm ? v->s.msr.sysenter_eip : (u32)v->s.msr.sysenter_eip;
    flat_seg(&v->s.seg[CS], cs, lm ? CODE64 : CODE32, 0);
    flat_seg(&v->s.seg[SS], cs + 8, DATA32, 0);
    soft_update(v);
}

void op_sysexit(struct soft_vcpu *v, const struct insn *i)
{
    u16 cs = (u16)v->s.msr.sysenter_cs & 0xfffc;
    bool wide = i->prefixes & PFX_REXW;

    if (is_long(v) && is_amd(v))
        throw_ud(v);
    if (is_real(v) || v->cpl || !cs)
        throw_gp(v);
    if (wide && (!canonical(v->s.gpr[RCX]) || !canonical(v->s.gpr[RDX])))
        throw_gp(v);
    v->s.gpr[RSP] = wide ? v->s.gpr[RCX] : (u32)v->s.gpr[RCX];
    v->x.next_rip = wide ? v->s.gpr[RDX] : (u32)v->s.gpr[RDX];
    flat_seg(&v->s.seg[CS], (cs + (wide ? 32 : 16)) | 3, wide ? CODE64 : CODE32, 3);
    flat_seg(&v->s.seg[SS], (cs + (wide ? 40 : 24)) | 3, DATA32, 3);
    soft_update(v);
}

/* ---- ports ----------------------------------------------------------------------------------
 */
void io_check(struct soft_vcpu *v, u16 port, unsigned size)
{
    const struct x86_seg *tr = &v->s.tr;
    u32 map, at, bits;

    if (unlikely(v->dr_active) && (v->s.cr4 & CR4_DE)) {
        static const u8 lens[] = { 1, 2, 8, 4 };

        for (unsigned k = 0; k < 4; k++) {
            u64 dr7 = v->s.dr[7];
            unsigned len = lens[(dr7 >> (18 + 4 * k)) & 3];
            u64 a = v->s.dr[k] & ~(u64)(len - 1);

            if (((dr7 >> (2 * k)) & 3) && ((dr7 >> (16 + 4 * k)) & 3) == 2 && port < a + len &&
                a < (u32)port + size)
                v->dr_hit |= BIT(k);
        }
    }
    if (is_real(v) || (!is_v86(v) && v->cpl <= iopl_of(v)))
        return;
    if ((tr->attr & ATTR_UNUSABLE) || !(tr->attr & 8) || tr->limit < 0x67)
        throw_gp(v);
    map = (u32)sys_read(v, tr->base + 0x66, 2);
    at = map + port / 8;
    if (at + 1 > tr->limit)
        throw_gp(v);
    bits = (u32)sys_read(v, tr->base + at, 2) >> (port & 7);
    if (bits & ((1u << size) - 1))
        throw_gp(v);
}

void op_in(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    u16 port = i->op[1].kind == OP_IMM ? (u16)(i->imm & 0xff) : (u16)v->s.gpr[RDX];

    io_check(v, port, size);
    soft_fp_save(v);
    gpr_set(v, RAX, size, bus_read(v->vm->io, port, size));
}

void op_out(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[1].size;
    u16 port = i->op[0].kind == OP_IMM ? (u16)(i->imm & 0xff) : (u16)v->s.gpr[RDX];

    io_check(v, port, size);
    soft_fp_save(v);
    bus_write(v->vm->io, port, gpr_get(v, RAX, size), size);
}

/* ---- CPUID limits
 * -----------------------------------------------------------------------------
 */
void soft_cpuid_limits(struct cpuid_limits *ret)
{
    /* Done in C here, whatever the host has; done natively, if the host has it. */
    static const cpuid_words ours = {
        [W_1_EDX] = 0x178bfbfd, /* all to FXSR but VME, PSN, DS, ACPI; SSE2, HTT */
        [W_1_ECX] = 1u << 13 | 1u << 17 | 1u << 21 | 1u << 22 | 1u << 24 | 1u << 31,
        [W_7_EBX] =
            1u << 0 | 1u << 1 | 1u << 7 | 1u << 9 | 1u << 10 | 1u << 20 | 1u << 23 | 1u << 24,
        [W_7_ECX] = 1u << 2 | 1u << 22,
        [W_80000001_EDX] = 1u << 11 | 1u << 20 | 1u << 26 | 1u << 27 | 1u << 29,
        [W_80000001_ECX] = 1u << 0 | 1u << 8,
        [W_80000007_EDX] = 1u << 8,
        [W_6_EAX] = 1u << 2,
    };
    static const cpuid_words native = {
        [W_1_ECX] = 1u << 0 | 1u << 1 | 1u << 9 | 1u << 12 | 1u << 19 | 1u << 20 | 1u << 23 |
                    1u << 25 | 1u << 26 | 1u << 28 | 1u << 29 | 1u << 30,
        [W_7_EBX] = 1u << 3 | 1u << 5 | 1u << 8 | 1u << 18 | 1u << 19 | 1u << 29,
        [W_7_ECX] = 1u << 8 | 1u << 9 | 1u << 10,
        [W_7_EDX] = 1u << 4,
        [W_80000001_EDX] = 0x01c3f3fd,
        [W_80000001_ECX] = 1u << 1 | 1u << 5 | 1u << 6 | 1u << 22,
        [W_D_1_EAX] = 1u << 0 | 1u << 1 | 1u << 2,
    };
    struct cpuid_limits host;

    bytes_zero(&host, sizeof host);
    cpuid_host(&host);
    *ret = host;
    for (unsigned w = 0; w < CPUID_WORDS; w++)
        ret->can[w] = ours[w] | (native[w] & host.can[w]);
    if (!(host.can[W_80000007_EDX] & (1u << 8))) /* the guest's TSC is the host's */
        ret->can[W_80000007_EDX] = 0;
    ret->xcr0 = host.xcr0 & 7;
    if (!(ret->can[W_1_ECX] & (1u << 26)))
        ret->xcr0 = 0;
    /* kvm-clock, no I/O delays, TSC the same on all CPUs (kvmclock.c) */
    ret->hv_kvm = true;
    ret->can[W_KVM_EAX] = 1u << 1 | 1u << 3 | 1u << 24;
    ret->no_return_overflow = true;
}
