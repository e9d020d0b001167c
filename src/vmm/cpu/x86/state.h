// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state.h - the architectural state of an x86 processor, common to all backends.
 * Intel SDM volume 3; names are the manual's.
 *
 * The state table x86_state_table (state.c) describes every byte, so a guest saved under one
 * backend goes on under another.
 */
#pragma once

#include "base/types.h"
#include "vmm/core/state.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum x86_seg_name { ES, CS, SS, DS, FS, GS, X86_SEGS };

/* attr as in the VMX access-rights byte layout: 3:0 type, 4 S, 6:5 DPL, 7 P, 12 AVL, 13 L,
 * 14 D/B, 15 G; bit 16 unusable (null selector). limit is in bytes, already scaled. */
enum x86_attr {
    ATTR_TYPE = 0xf,
    ATTR_A = 1,
    ATTR_W = 2,
    ATTR_R = 2,
    ATTR_E = 4,
    ATTR_C = 4,
    ATTR_CODE = 8,
    ATTR_S = 1 << 4,
    ATTR_DPL_SHIFT = 5,
    ATTR_P = 1 << 7,
    ATTR_AVL = 1 << 12,
    ATTR_L = 1 << 13,
    ATTR_DB = 1 << 14,
    ATTR_G = 1 << 15,
    ATTR_UNUSABLE = 1 << 16,
};
struct x86_seg {
    u64 base;
    u32 limit;
    u32 attr;
    u16 sel;
    u8 pad[6];
};
struct x86_dtable {
    u64 base;
    u16 limit;
    u8 pad[6];
};

enum rflags {
    FL_CF = 1 << 0,
    FL_1 = 1 << 1,
    FL_PF = 1 << 2,
    FL_AF = 1 << 4,
    FL_ZF = 1 << 6,
    FL_SF = 1 << 7,
    FL_TF = 1 << 8,
    FL_IF = 1 << 9,
    FL_DF = 1 << 10,
    FL_OF = 1 << 11,
    FL_IOPL = 3 << 12,
    FL_NT = 1 << 14,
    FL_RF = 1 << 16,
    FL_VM = 1 << 17,
    FL_AC = 1 << 18,
    FL_VIF = 1 << 19,
    FL_VIP = 1 << 20,
    FL_ID = 1 << 21,
    FL_STATUS = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF,
};
enum cr0_bits {
    CR0_PE = 1,
    CR0_MP = 2,
    CR0_EM = 4,
    CR0_TS = 8,
    CR0_ET = 16,
    CR0_NE = 32,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR0_NW = 1 << 29,
    CR0_CD = 1 << 30,
};
#define CR0_PG 0x80000000u
enum cr4_bits {
    CR4_VME = 1,
    CR4_PVI = 2,
    CR4_TSD = 4,
    CR4_DE = 8,
    CR4_PSE = 16,
    CR4_PAE = 32,
    CR4_MCE = 64,
    CR4_PGE = 128,
    CR4_PCE = 256,
    CR4_OSFXSR = 512,
    CR4_OSXMMEXCPT = 1024,
    CR4_UMIP = 2048,
    CR4_LA57 = 4096,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
    CR4_PKE = 1 << 22,
};
enum efer_bits { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

enum x86_exception {
    EXC_DE,
    EXC_DB,
    EXC_NMI,
    EXC_BP,
    EXC_OF,
    EXC_BR,
    EXC_UD,
    EXC_NM,
    EXC_DF,
    EXC_TS = 10,
    EXC_NP,
    EXC_SS,
    EXC_GP,
    EXC_PF,
    EXC_MF = 16,
    EXC_AC,
    EXC_MC,
    EXC_XM,
};

enum x86_mp_state { MP_RUNNING, MP_HALTED, MP_WAIT_SIPI, MP_INIT };

enum { X86_XSAVE_MAX = 4096, X86_MTRR_VAR = 8 };

struct x86_msrs {
    u64 efer, star, lstar, cstar, sfmask, kernel_gs_base;
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 tsc; /* guest TSC at the time of the save */
    u64 tsc_adjust, tsc_aux, tsc_deadline;
    u64 apic_base, pat, misc_enable, spec_ctrl, debugctl, smi_count, xss;
    u64 mtrr_def_type, mtrr_fix[11], mtrr_var_base[X86_MTRR_VAR], mtrr_var_mask[X86_MTRR_VAR];
    u64 mcg_status, mcg_ctl;
    u64 kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_async_pf, kvm_pv_eoi;
    u64 syscfg, hwcr, virt_ssbd;
};

struct x86_state {
    u64 gpr[16];
    u64 rip, rflags;
    struct x86_seg seg[X86_SEGS], ldt, tr;
    struct x86_dtable gdt, idt;
    u64 cr0, cr2, cr3, cr4, cr8, xcr0;
    u64 dr[8]; /* 4 and 5 unused */
    struct x86_msrs msr;
    /* Events under way. */
    u8 exc_pending, exc_vector, exc_has_error, int_pending, int_vector, int_soft;
    u8 nmi_pending, nmi_masked;
    u32 exc_error;
    u8 int_shadow; /* after STI or MOV SS: 1 = STI, 2 = MOV SS */
    u8 mp_state;   /* enum x86_mp_state */
    u8 sipi_vector, smm;
    u8 pad[64];
    /* Register page of the kernel's local APIC; all zero when our own model, a device with a
     * state of its own, serves this processor. */
    u8 lapic[1024];
    u8 xsave[X86_XSAVE_MAX] __attribute__((aligned(64))); /* standard (not compacted) format */
};

extern const struct state_table x86_state_table;

/* Power-on state (SDM 3, table 10-1); bsp: runs, else waits for SIPI. */
void x86_reset(struct x86_state *, bool bsp);
/* Flat 32-bit protected mode / 64-bit for boot loaders: sets segments and CR0/EFER/CR4. */
void x86_set_flat32(struct x86_state *, u32 eip);
void x86_print(const struct x86_state *, GString *to);
