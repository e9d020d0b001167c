// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * msr.c - model-specific registers.  SDM volume 4; AMD APM volume 2, appendix A.
 *
 * Registers that the CPUID table does not announce raise #GP, as do unknown ones.  Those that
 * systems touch without asking, and that mean nothing here, read as a constant and ignore
 * writes.
 *
 * Not modelled: machine-check banks (MCG_CAP says none), performance counters, last branches.
 */
#include "vmm/cpu/soft/interp.h"

#include "base/log.h"

enum msr {
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_SMI_COUNT = 0x34,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SPEC_CTRL = 0x48,
    MSR_PRED_CMD = 0x49,
    MSR_BIOS_UPDT_TRIG = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_FSB_FREQ = 0xcd,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_BBL_CR_CTL3 = 0x11e,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_THERM_INTERRUPT = 0x19b,
    MSR_THERM_STATUS = 0x19c,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LASTBRANCHFROM = 0x1db,
    MSR_LASTINTTO = 0x1de,
    MSR_MTRR_VAR = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K_80000 = 0x258,
    MSR_MTRR_FIX16K_A0000 = 0x259,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC = 0x800,
};
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u
#define MSR_K7_EVNTSEL0    0xc0010000u
#define MSR_SYSCFG         0xc0010010u
#define MSR_HWCR           0xc0010015u
#define MSR_IORR0          0xc0010016u
#define MSR_TOP_MEM        0xc001001au
#define MSR_TOP_MEM2       0xc001001du
#define MSR_NB_CFG         0xc001001fu
#define MSR_PATCH_LOADER   0xc0010020u
#define MSR_INT_PENDING    0xc0010055u
#define MSR_OSVW_LENGTH    0xc0010140u
#define MSR_OSVW_STATUS    0xc0010141u
#define MSR_LS_CFG         0xc0011020u
#define MSR_DC_CFG         0xc0011022u
#define MSR_BU_CFG         0xc0011023u
#define MSR_DE_CFG         0xc0011029u
#define MSR_BU_CFG2        0xc001102au

static bool has(const struct soft_vcpu *v, enum cpuid_word w, u32 bit)
{
    return v->cpuid->have[w] & (1u << bit);
}

static bool is_amd(const struct soft_vcpu *v)
{
    return v->cpuid->vendor[0] == 'A';
}

static bool has_spec_ctrl(const struct soft_vcpu *v)
{
    return has(v, W_7_EDX, 26) || has(v, W_80000008_EBX, 14) || has(v, W_80000008_EBX, 12);
}

static u64 *mtrr(struct soft_vcpu *v, u32 msr)
{
    struct x86_msrs *m = &v->s.msr;

    if (msr >= MSR_MTRR_VAR && msr < MSR_MTRR_VAR + 2 * X86_MTRR_VAR) {
        u32 n = (msr - MSR_MTRR_VAR) / 2;

        return msr & 1 ? &m->mtrr_var_mask[n] : &m->mtrr_var_base[n];
    }
    if (msr >= MSR_MTRR_FIX4K && msr < MSR_MTRR_FIX4K + 8)
        return &m->mtrr_fix[3 + msr - MSR_MTRR_FIX4K];
    switch (msr) {
    case MSR_MTRR_FIX64K:
        return &m->mtrr_fix[0];
    case MSR_MTRR_FIX16K_80000:
        return &m->mtrr_fix[1];
    case MSR_MTRR_FIX16K_A0000:
        return &m->mtrr_fix[2];
    case MSR_MTRR_DEF_TYPE:
        return &m->mtrr_def_type;
    default:
        return NULL;
    }
}

static bool memory_type(u64 t)
{
    return t <= 1 || (t >= 4 && t <= 6);
}

static bool lapic_msr(u32 msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
           (msr >= MSR_X2APIC && msr < MSR_X2APIC + 0x100);
}

/* Reads as a constant, writes are dropped. */
static bool harmless(const struct soft_vcpu *v, u32 msr, u64 *ret)
{
    *ret = 0;
    switch (msr) {
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
    case MSR_SMI_COUNT:
    case MSR_BIOS_UPDT_TRIG:
    case MSR_FSB_FREQ:
    case MSR_MCG_CAP:
    case MSR_THERM_INTERRUPT:
    case MSR_THERM_STATUS:
    case MSR_LASTBRANCHFROM ... MSR_LASTINTTO:
        return true;
    case MSR_FEATURE_CONTROL:
        *ret = 1; /* locked, nothing enabled */
        return true;
    case MSR_BIOS_SIGN_ID:
        *ret = is_amd(v) ? 0x01000065 : 0x100000000ull;
        return true;
    case MSR_PLATFORM_INFO:
        *ret = 0x80000000; /* no CPUID faulting */
        return true;
    case MSR_PERF_STATUS:
    case MSR_PERF_CTL:
        *ret = msr == MSR_PERF_STATUS ? 1000ull | 3ull << 40 : 0;
        return true;
    case MSR_BBL_CR_CTL3:
        *ret = 0xbe702111;
        return true;
    default:
        break;
    }
    if (!is_amd(v))
        return false;
    switch (msr) {
    case MSR_DE_CFG:
        *ret = 2; /* LFENCE serializes */
        return true;
    case MSR_K7_EVNTSEL0 ... MSR_K7_EVNTSEL0 + 7:
    case MSR_IORR0 ... MSR_TOP_MEM2:
    case MSR_NB_CFG:
    case MSR_PATCH_LOADER:
    case MSR_INT_PENDING:
    case MSR_OSVW_LENGTH:
    case MSR_OSVW_STATUS:
    case MSR_LS_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_BU_CFG2:
        return true;
    default:
        return false;
    }
}

bool soft_rdmsr(struct soft_vcpu *v, u32 msr, u64 *ret)
{
    struct x86_msrs *m = &v->s.msr;
    u64 *p = mtrr(v, msr);

    if (p) {
        *ret = *p;
        return true;
    }
    if (lapic_msr(msr)) {
        soft_fp_save(v);
        return v->vcpu->lapic && v->vcpu->lapic_ops->msr_read(v->vcpu->lapic, msr, ret);
    }
    switch (msr) {
    case MSR_KVM_SYSTEM_TIME_NEW:
    case MSR_KVM_WALL_CLOCK_NEW:
        if (!cpuid_has(v->cpuid, W_KVM_EAX, 3))
            return false;
        *ret = msr == MSR_KVM_WALL_CLOCK_NEW ? m->kvm_wall_clock : m->kvm_system_time;
        return true;
    case MSR_TSC:
        *ret = soft_tsc(v);
        return true;
    case MSR_TSC_ADJUST:
        *ret = m->tsc_adjust;
        return has(v, W_7_EBX, 1);
    case MSR_TSC_AUX:
        *ret = m->tsc_aux;
        return has(v, W_80000001_EDX, 27) || has(v, W_7_ECX, 22);
    case MSR_SPEC_CTRL:
        *ret = m->spec_ctrl;
        return has_spec_ctrl(v);
    case MSR_ARCH_CAPABILITIES:
        *ret = 0;
        return has(v, W_7_EDX, 29);
    case MSR_MTRRCAP:
        *ret = 0x500 | X86_MTRR_VAR;
        return true;
    case MSR_SYSENTER_CS:
        *ret = m->sysenter_cs;
        return true;
    case MSR_SYSENTER_ESP:
        *ret = m->sysenter_esp;
        return true;
    case MSR_SYSENTER_EIP:
        *ret = m->sysenter_eip;
        return true;
    case MSR_MCG_STATUS:
        *ret = m->mcg_status;
        return true;
    case MSR_MISC_ENABLE:
        *ret = m->misc_enable;
        return true;
    case MSR_DEBUGCTL:
        *ret = m->debugctl;
        return true;
    case MSR_PAT:
        *ret = m->pat;
        return true;
    case MSR_EFER:
        *ret = m->efer;
        return true;
    case MSR_STAR:
        *ret = m->star;
        return true;
    case MSR_LSTAR:
        *ret = m->lstar;
        return true;
    case MSR_CSTAR:
        *ret = m->cstar;
        return true;
    case MSR_SFMASK:
        *ret = m->sfmask;
        return true;
    case MSR_FS_BASE:
        *ret = v->s.seg[FS].base;
        return true;
    case MSR_GS_BASE:
        *ret = v->s.seg[GS].base;
        return true;
    case MSR_KERNEL_GS_BASE:
        *ret = m->kernel_gs_base;
        return true;
    case MSR_SYSCFG:
        *ret = m->syscfg;
        return is_amd(v);
    case MSR_HWCR:
        *ret = m->hwcr | BIT(24); /* the TSC runs at the nominal rate */
        return is_amd(v);
    default:
        if (harmless(v, msr, ret))
            return true;
        soft_fp_save(v);
        log_guest("soft: rdmsr 0x%x: no such register", msr);
        return false;
    }
}

static bool mtrr_write(struct soft_vcpu *v, u32 msr, u64 *p, u64 val)
{
    u64 phys = BIT(v->cpuid->phys_bits) - 1;

    if (msr == MSR_MTRR_DEF_TYPE) {
        if ((val & ~0xcffull) || !memory_type(val & 0xff))
            return false;
    } else if (msr < MSR_MTRR_FIX64K) {
        if (msr & 1 ? val & ~(phys & ~0x7ffull) : val & ~(phys & ~0xf00ull))
            return false;
        if (!(msr & 1) && !memory_type(val & 0xff))
            return false;
    } else {
        for (unsigned k = 0; k < 8; k++)
            if (!memory_type((val >> (8 * k)) & 0xff))
                return false;
    }
    *p = val;
    return true;
}

static bool efer_write(struct soft_vcpu *v, u64 val)
{
    u64 may = EFER_SCE | EFER_LMA, old = v->s.msr.efer;

    if (has(v, W_80000001_EDX, 29))
        may |= EFER_LME;
    if (has(v, W_80000001_EDX, 20))
        may |= EFER_NXE;
    if (val & ~may)
        return false;
    if (((old ^ val) & EFER_LME) && (v->s.cr0 & CR0_PG))
        return false;
    v->s.msr.efer = (val & ~(u64)EFER_LMA) | (old & EFER_LMA);
    soft_update(v);
    if ((old ^ val) & EFER_NXE)
        mmu_flush_all(v);
    return true;
}

static void tsc_shift(struct soft_vcpu *v, u64 by)
{
    v->tsc_offset += by;
    v->vcpu->tsc_offset = (s64)v->tsc_offset;
}

static bool set_canonical(u64 *p, u64 val)
{
    if (!canonical(val))
        return false;
    *p = val;
    return true;
}

bool soft_wrmsr(struct soft_vcpu *v, u32 msr, u64 val)
{
    struct x86_msrs *m = &v->s.msr;
    u64 *p = mtrr(v, msr), old;

    if (p)
        return mtrr_write(v, msr, p, val);
    if (lapic_msr(msr)) {
        soft_fp_save(v);
        return v->vcpu->lapic && v->vcpu->lapic_ops->msr_write(v->vcpu->lapic, msr, val);
    }
    switch (msr) {
    case MSR_KVM_SYSTEM_TIME_NEW:
    case MSR_KVM_WALL_CLOCK_NEW:
        return kvmclock_write(v, msr, val);
    case MSR_TSC:
        old = soft_tsc(v);
        m->tsc_adjust += val - old;
        tsc_shift(v, val - old);
        return true;
    case MSR_TSC_ADJUST:
        if (!has(v, W_7_EBX, 1))
            return false;
        tsc_shift(v, val - m->tsc_adjust);
        m->tsc_adjust = val;
        return true;
    case MSR_TSC_AUX:
        if ((val >> 32) || !(has(v, W_80000001_EDX, 27) || has(v, W_7_ECX, 22)))
            return false;
        m->tsc_aux = val;
        return true;
    case MSR_SPEC_CTRL:
        if (!has_spec_ctrl(v) || (val & ~7ull))
            return false;
        m->spec_ctrl = val;
        return true;
    case MSR_PRED_CMD:
        return (has_spec_ctrl(v) || has(v, W_80000008_EBX, 12)) && !(val & ~1ull);
    case MSR_MTRRCAP:
    case MSR_ARCH_CAPABILITIES:
    case MSR_MCG_CAP:
    case MSR_PLATFORM_INFO:
        return false;
    case MSR_SYSENTER_CS:
        m->sysenter_cs = (u32)val;
        return true;
    case MSR_SYSENTER_ESP:
        return set_canonical(&m->sysenter_esp, val);
    case MSR_SYSENTER_EIP:
        return set_canonical(&m->sysenter_eip, val);
    case MSR_MCG_STATUS:
        m->mcg_status = val & 7;
        return true;
    case MSR_MISC_ENABLE:
        m->misc_enable = val;
        return true;
    case MSR_DEBUGCTL:
        if (val & ~0x3full)
            return false;
        m->debugctl = 0; /* no last-branch records, no branch stepping */
        return true;
    case MSR_PAT:
        for (unsigned k = 0; k < 8; k++) {
            u64 t = (val >> (8 * k)) & 0xff;

            if (!memory_type(t) && t != 7)
                return false;
        }
        m->pat = val;
        return true;
    case MSR_EFER:
        return efer_write(v, val);
    case MSR_STAR:
        m->star = val;
        return true;
    case MSR_LSTAR:
        return set_canonical(&m->lstar, val);
    case MSR_CSTAR:
        return set_canonical(&m->cstar, val);
    case MSR_SFMASK:
        m->sfmask = (u32)val;
        return true;
    case MSR_FS_BASE:
        return set_canonical(&v->s.seg[FS].base, val);
    case MSR_GS_BASE:
        return set_canonical(&v->s.seg[GS].base, val);
    case MSR_KERNEL_GS_BASE:
        return set_canonical(&m->kernel_gs_base, val);
    case MSR_SYSCFG:
        m->syscfg = val;
        return is_amd(v);
    case MSR_HWCR:
        m->hwcr = val;
        return is_amd(v);
    default:
        if (harmless(v, msr, &old))
            return true;
        soft_fp_save(v);
        log_guest("soft: wrmsr 0x%x: no such register", msr);
        return false;
    }
}
