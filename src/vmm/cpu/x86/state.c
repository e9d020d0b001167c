// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state.c - the state table of a processor, its reset values, and how it is printed.
 * Intel SDM volume 3, table 10-1 ("IA-32 and Intel 64 Processor States Following Power-up").
 */
#include "vmm/cpu/x86/state.h"

#include <string.h>

static const struct state_field seg_fields[] = {
    STATE_INT(struct x86_seg, base),
    STATE_INT(struct x86_seg, limit),
    STATE_UINT(struct x86_seg, attr, 0x1ffff),
    STATE_INT(struct x86_seg, sel),
    STATE_PAD(struct x86_seg, pad),
};

static const struct state_field dtable_fields[] = {
    STATE_INT(struct x86_dtable, base),
    STATE_INT(struct x86_dtable, limit),
    STATE_PAD(struct x86_dtable, pad),
};

#define MSR(f) STATE_INT(struct x86_msrs, f)
static const struct state_field msr_fields[] = {
    MSR(efer),
    MSR(star),
    MSR(lstar),
    MSR(cstar),
    MSR(sfmask),
    MSR(kernel_gs_base),
    MSR(sysenter_cs),
    MSR(sysenter_esp),
    MSR(sysenter_eip),
    MSR(tsc),
    MSR(tsc_adjust),
    MSR(tsc_aux),
    MSR(tsc_deadline),
    MSR(apic_base),
    MSR(pat),
    MSR(misc_enable),
    MSR(spec_ctrl),
    MSR(debugctl),
    MSR(smi_count),
    MSR(xss),
    MSR(mtrr_def_type),
    STATE_UINTS(struct x86_msrs, mtrr_fix, UINT64_MAX),
    STATE_UINTS(struct x86_msrs, mtrr_var_base, UINT64_MAX),
    STATE_UINTS(struct x86_msrs, mtrr_var_mask, UINT64_MAX),
    MSR(mcg_status),
    MSR(mcg_ctl),
    MSR(kvm_system_time),
    MSR(kvm_wall_clock),
    MSR(kvm_steal_time),
    MSR(kvm_async_pf),
    MSR(kvm_pv_eoi),
    MSR(syscfg),
    MSR(hwcr),
    MSR(virt_ssbd),
};
#undef MSR

/* Bounds are what would index or shift something of ours; what the architecture reserves is
 * for the backend to refuse, as it depends on the CPU model. */
static const struct state_field x86_fields[] = {
    STATE_UINTS(struct x86_state, gpr, UINT64_MAX),
    STATE_INT(struct x86_state, rip),
    STATE_INT(struct x86_state, rflags),
    STATE_STRUCTS(struct x86_state, seg, seg_fields),
    STATE_STRUCT(struct x86_state, ldt, seg_fields),
    STATE_STRUCT(struct x86_state, tr, seg_fields),
    STATE_STRUCT(struct x86_state, gdt, dtable_fields),
    STATE_STRUCT(struct x86_state, idt, dtable_fields),
    STATE_UINT(struct x86_state, cr0, UINT32_MAX),
    STATE_INT(struct x86_state, cr2),
    STATE_INT(struct x86_state, cr3),
    STATE_INT(struct x86_state, cr4),
    STATE_UINT(struct x86_state, cr8, 15),
    STATE_INT(struct x86_state, xcr0),
    STATE_UINTS(struct x86_state, dr, UINT64_MAX),
    STATE_STRUCT(struct x86_state, msr, msr_fields),
    STATE_BOOL(struct x86_state, exc_pending),
    STATE_UINT(struct x86_state, exc_vector, 31),
    STATE_BOOL(struct x86_state, exc_has_error),
    STATE_BOOL(struct x86_state, int_pending),
    STATE_INT(struct x86_state, int_vector),
    STATE_BOOL(struct x86_state, int_soft),
    STATE_BOOL(struct x86_state, nmi_pending),
    STATE_BOOL(struct x86_state, nmi_masked),
    STATE_INT(struct x86_state, exc_error),
    STATE_UINT(struct x86_state, int_shadow, 2),
    STATE_UINT(struct x86_state, mp_state, MP_INIT),
    STATE_INT(struct x86_state, sipi_vector),
    STATE_BOOL(struct x86_state, smm),
    STATE_PAD(struct x86_state, pad),
    STATE_BYTES(struct x86_state, lapic),
    STATE_BYTES(struct x86_state, xsave),
};

const struct state_table x86_state_table = {
    .offset = 0,
    .size = sizeof(struct x86_state),
    .fields = x86_fields,
    .n = ARRAY_LEN(x86_fields),
};

/* Offsets in the legacy region of an XSAVE image (SDM 1, table 10-2). */
enum {
    XS_FCW = 0,
    XS_FSW = 2,
    XS_FTW = 4,
    XS_MXCSR = 24,
    XS_ST0 = 32,
    XS_XMM0 = 160,
    XS_BV = 512
};

static void put_le(u8 *to, u64 val, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        to[i] = val >> (8 * i);
}

static u64 get_le(const u8 *from, unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n; i++)
        val |= (u64)from[i] << (8 * i);
    return val;
}

void x86_reset(struct x86_state *s, bool bsp)
{
    memset(s, 0, sizeof *s);
    s->rip = 0xfff0;
    s->rflags = FL_1;
    s->gpr[RDX] = 0x600; /* the backend puts the model's signature here */
    s->cr0 = CR0_ET | CR0_NW | CR0_CD;
    s->xcr0 = 1;
    for (int i = 0; i < X86_SEGS; i++)
        s->seg[i] =
            (struct x86_seg){ .limit = 0xffff, .attr = ATTR_P | ATTR_S | ATTR_W | ATTR_A };
    s->seg[CS].sel = 0xf000;
    s->seg[CS].base = 0xffff0000;
    s->seg[CS].attr |= ATTR_CODE;
    s->ldt = (struct x86_seg){ .limit = 0xffff, .attr = ATTR_P | 2 };
    s->tr = (struct x86_seg){ .limit = 0xffff, .attr = ATTR_P | 11 };
    s->gdt.limit = s->idt.limit = 0xffff;
    s->dr[6] = 0xffff0ff0;
    s->dr[7] = 0x400;
    s->msr.apic_base = 0xfee00000 | BIT(11) | (bsp ? BIT(8) : 0);
    s->msr.pat = 0x0007040600070406;
    s->msr.misc_enable = 1; /* fast strings */
    s->mp_state = bsp ? MP_RUNNING : MP_WAIT_SIPI;
    put_le(s->xsave + XS_FCW, 0x40, 2);
    s->xsave[XS_FTW] = 0xff; /* tag word 5555h: all registers hold zero */
    put_le(s->xsave + XS_MXCSR, 0x1f80, 4);
    s->xsave[XS_BV] = 3;
}

void x86_set_flat32(struct x86_state *s, u32 eip)
{
    const u32 flat = ATTR_P | ATTR_S | ATTR_W | ATTR_A | ATTR_DB | ATTR_G;

    for (int i = 0; i < X86_SEGS; i++)
        s->seg[i] = (struct x86_seg){ .limit = 0xffffffff, .attr = flat, .sel = 0x18 };
    s->seg[CS].attr |= ATTR_CODE;
    s->seg[CS].sel = 0x10;
    s->tr = (struct x86_seg){ .limit = 0x67, .attr = ATTR_P | 11 };
    s->ldt = (struct x86_seg){ .attr = ATTR_UNUSABLE };
    s->cr0 = CR0_PE | CR0_ET;
    s->cr4 = 0;
    s->msr.efer = 0;
    s->rflags = FL_1;
    s->rip = eip;
    s->mp_state = MP_RUNNING;
}

static void print_seg(const char *name, const struct x86_seg *g, GString *to)
{
    static const char *const sys[] = { "?",          "TSS16-avl", "LDT",       "TSS16-busy",
                                       "CallGate16", "TaskGate",  "IntGate16", "TrapGate16",
                                       "?",          "TSS-avl",   "?",         "TSS-busy",
                                       "CallGate",   "?",         "IntGate",   "TrapGate" };

    g_string_append_printf(to, "%-3s=%04x %016" G_GINT64_MODIFIER "x %08x %05x", name, g->sel,
                           g->base, g->limit, g->attr);
    if (g->attr & ATTR_UNUSABLE)
        g_string_append(to, " unusable");
    else if (!(g->attr & ATTR_P))
        g_string_append(to, " not present");
    else if (!(g->attr & ATTR_S))
        g_string_append_printf(to, " DPL=%u %s", g->attr >> ATTR_DPL_SHIFT & 3,
                               sys[g->attr & ATTR_TYPE]);
    else if (g->attr & ATTR_CODE)
        g_string_append_printf(to, " DPL=%u CS%s [%c%c%c]", g->attr >> ATTR_DPL_SHIFT & 3,
                               g->attr & ATTR_L    ? "64"
                               : g->attr & ATTR_DB ? "32"
                                                   : "16",
                               g->attr & ATTR_C ? 'C' : '-', g->attr & ATTR_R ? 'R' : '-',
                               g->attr & ATTR_A ? 'A' : '-');
    else
        g_string_append_printf(to, " DPL=%u DS%s [%c%c%c]", g->attr >> ATTR_DPL_SHIFT & 3,
                               g->attr & ATTR_DB ? "32" : "16", g->attr & ATTR_E ? 'E' : '-',
                               g->attr & ATTR_W ? 'W' : '-', g->attr & ATTR_A ? 'A' : '-');
    g_string_append_c(to, '\n');
}

static void print_flags(u64 fl, GString *to)
{
    static const struct {
        u32 bit;
        char c;
    } names[] = { { FL_OF, 'O' }, { FL_DF, 'D' }, { FL_IF, 'I' },
                  { FL_TF, 'T' }, { FL_SF, 'S' }, { FL_ZF, 'Z' },
                  { FL_AF, 'A' }, { FL_PF, 'P' }, { FL_CF, 'C' } };

    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        g_string_append_c(to, fl & names[i].bit ? names[i].c : '-');
}

#define X64 "%016" G_GINT64_MODIFIER "x"

static void print_fpu(const u8 *x, GString *to)
{
    g_string_append_printf(to, "FCW=%04x FSW=%04x FTW=%02x MXCSR=%08x XSTATE_BV=" X64 "\n",
                           (unsigned)get_le(x + XS_FCW, 2), (unsigned)get_le(x + XS_FSW, 2),
                           x[XS_FTW], (unsigned)get_le(x + XS_MXCSR, 4), get_le(x + XS_BV, 8));
    for (int i = 0; i < 8; i++)
        g_string_append_printf(to, "FPR%d=" X64 " %04x%c", i, get_le(x + XS_ST0 + 16 * i, 8),
                               (unsigned)get_le(x + XS_ST0 + 16 * i + 8, 2),
                               i & 1 ? '\n' : ' ');
    for (int i = 0; i < 16; i++)
        g_string_append_printf(to, "XMM%02d=" X64 X64 "%c", i,
                               get_le(x + XS_XMM0 + 16 * i + 8, 8),
                               get_le(x + XS_XMM0 + 16 * i, 8), i & 1 ? '\n' : ' ');
}

void x86_print(const struct x86_state *s, GString *to)
{
    static const char *const gpr[] = { "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP",
                                       "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15" };
    static const u8 order[] = { RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP,
                                R8,  R9,  R10, R11, R12, R13, R14, R15 };
    static const char *const seg[] = { "ES", "CS", "SS", "DS", "FS", "GS" };
    static const char *const mp[] = { "running", "halted", "wait-for-SIPI", "INIT" };

    for (int i = 0; i < 16; i++)
        g_string_append_printf(to, "%s=" X64 "%c", gpr[i], s->gpr[order[i]],
                               (i & 3) == 3 ? '\n' : ' ');
    g_string_append_printf(to, "RIP=" X64 " RFL=%08x [", s->rip, (u32)s->rflags);
    print_flags(s->rflags, to);
    g_string_append_printf(to, "] CPL=%u II=%d SMM=%d HLT=%d %s\n",
                           s->seg[SS].attr >> ATTR_DPL_SHIFT & 3, s->int_shadow, s->smm,
                           s->mp_state == MP_HALTED, mp[s->mp_state & 3]);
    for (int i = 0; i < X86_SEGS; i++)
        print_seg(seg[i], &s->seg[i], to);
    print_seg("LDT", &s->ldt, to);
    print_seg("TR", &s->tr, to);
    g_string_append_printf(to, "GDT=     " X64 " %08x\nIDT=     " X64 " %08x\n", s->gdt.base,
                           s->gdt.limit, s->idt.base, s->idt.limit);
    g_string_append_printf(to, "CR0=%08x CR2=" X64 " CR3=" X64 " CR4=%08x CR8=%x\n",
                           (u32)s->cr0, s->cr2, s->cr3, (u32)s->cr4, (u32)s->cr8);
    for (int i = 0; i < 4; i++)
        g_string_append_printf(to, "DR%d=" X64 "%c", i, s->dr[i], i == 3 ? '\n' : ' ');
    g_string_append_printf(to, "DR6=" X64 " DR7=" X64 "\n", s->dr[6], s->dr[7]);
    g_string_append_printf(to, "EFER=" X64 " XCR0=" X64 " TSC=" X64 "\n", s->msr.efer, s->xcr0,
                           s->msr.tsc);
    if (s->exc_pending)
        g_string_append_printf(to, "exception %u pending, error code %x\n", s->exc_vector,
                               s->exc_error);
    if (s->int_pending)
        g_string_append_printf(to, "interrupt %02x pending\n", s->int_vector);
    print_fpu(s->xsave, to);
}
