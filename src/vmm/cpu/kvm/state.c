// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state.c - a vCPU's registers between the kernel's structures and struct x86_state.
 *
 * Not carried: page-directory pointers that PAE guests loaded and then overwrote in memory
 * (KVM_GET_SREGS2), nested guests, async page faults under way, supervisor XSAVE components.
 */
#include "vmm/cpu/kvm/kvm.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"

#define AT(f) offsetof(struct x86_msrs, f)
/* The TSC is not here: it moves, and is written only when it has to be. */
static const struct {
    u32 index, at;
} msr_list[] = {
    { 0xc0000081, AT(star) },
    { 0xc0000082, AT(lstar) },
    { 0xc0000083, AT(cstar) },
    { 0xc0000084, AT(sfmask) },
    { 0xc0000102, AT(kernel_gs_base) },
    { 0x174, AT(sysenter_cs) },
    { 0x175, AT(sysenter_esp) },
    { 0x176, AT(sysenter_eip) },
    { 0x3b, AT(tsc_adjust) },
    { 0xc0000103, AT(tsc_aux) },
    { 0x277, AT(pat) },
    { 0x1a0, AT(misc_enable) },
    { 0x48, AT(spec_ctrl) },
    { 0x1d9, AT(debugctl) },
    { 0x34, AT(smi_count) },
    { 0xda0, AT(xss) },
    { 0x2ff, AT(mtrr_def_type) },
    { 0x250, AT(mtrr_fix[0]) },
    { 0x258, AT(mtrr_fix[1]) },
    { 0x259, AT(mtrr_fix[2]) },
    { 0x268, AT(mtrr_fix[3]) },
    { 0x269, AT(mtrr_fix[4]) },
    { 0x26a, AT(mtrr_fix[5]) },
    { 0x26b, AT(mtrr_fix[6]) },
    { 0x26c, AT(mtrr_fix[7]) },
    { 0x26d, AT(mtrr_fix[8]) },
    { 0x26e, AT(mtrr_fix[9]) },
    { 0x26f, AT(mtrr_fix[10]) },
    { 0x17a, AT(mcg_status) },
    { 0x17b, AT(mcg_ctl) },
    { 0x4b564d01, AT(kvm_system_time) },
    { 0x4b564d00, AT(kvm_wall_clock) },
    { 0x4b564d03, AT(kvm_steal_time) },
    { 0x4b564d02, AT(kvm_async_pf) },
    { 0x4b564d04, AT(kvm_pv_eoi) },
    { 0xc0010010, AT(syscfg) },
    { 0xc0010015, AT(hwcr) },
    { 0xc001011f, AT(virt_ssbd) },
};

enum { MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0 };

struct msrs {
    struct kvm_msrs h;
    struct kvm_msr_entry e[KVM_MSRS_MAX];
};

/* The kernel stops at the first MSR that it does not know: strike that and try again. */
void kvm_msrs_find(struct kvm_vcpu *kc)
{
    struct kvm_vm *kv = kc->kv;
    struct msrs m = { 0 };

    if (kv->n_msrs)
        return;
    for (u32 i = 0; i < ARRAY_LEN(msr_list); i++) {
        kv->msrs[kv->n_msrs].index = msr_list[i].index;
        kv->msrs[kv->n_msrs++].at = (u32)msr_list[i].at;
    }
    for (u32 i = 0; i < X86_MTRR_VAR; i++) {
        kv->msrs[kv->n_msrs].index = 0x200 + 2 * i;
        kv->msrs[kv->n_msrs++].at = (u32)(AT(mtrr_var_base) + 8 * i);
        kv->msrs[kv->n_msrs].index = 0x201 + 2 * i;
        kv->msrs[kv->n_msrs++].at = (u32)(AT(mtrr_var_mask) + 8 * i);
    }
    for (;;) {
        m.h.nmsrs = kv->n_msrs;
        for (u32 i = 0; i < kv->n_msrs; i++)
            m.e[i].index = kv->msrs[i].index;
        int n = kvm_ioctl(kc->fd, KVM_GET_MSRS, &m);

        if (n >= (int)kv->n_msrs || kv->n_msrs == 0)
            return;
        u32 bad = n < 0 ? 0 : (u32)n;
        kv->n_msrs--;
        memmove(&kv->msrs[bad], &kv->msrs[bad + 1], (kv->n_msrs - bad) * sizeof kv->msrs[0]);
    }
}

static struct x86_seg seg_get(const struct kvm_segment *k)
{
    u32 attr = k->type | (u32)k->s << 4 | (u32)k->dpl << ATTR_DPL_SHIFT | (u32)k->present << 7 |
               (u32)k->avl << 12 | (u32)k->l << 13 | (u32)k->db << 14 | (u32)k->g << 15 |
               (u32)(k->unusable & 1) << 16;

    return (
        struct x86_seg){ .base = k->base, .limit = k->limit, .attr = attr, .sel = k->selector };
}

static struct kvm_segment seg_set(const struct x86_seg *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & ATTR_TYPE,
        .s = s->attr >> 4 & 1,
        .dpl = s->attr >> ATTR_DPL_SHIFT & 3,
        .present = s->attr >> 7 & 1,
        .avl = s->attr >> 12 & 1,
        .l = s->attr >> 13 & 1,
        .db = s->attr >> 14 & 1,
        .g = s->attr >> 15 & 1,
        .unusable = s->attr >> 16 & 1,
    };
}

static void *seg_of(struct kvm_sregs *k, unsigned i)
{
    struct kvm_segment *const all[] = { &k->es, &k->cs, &k->ss, &k->ds, &k->fs, &k->gs };

    return all[i];
}

static void regs_get(const struct kvm_regs *k, struct x86_state *s)
{
    const u64 all[16] = { k->rax, k->rcx, k->rdx, k->rbx, k->rsp, k->rbp, k->rsi, k->rdi,
                          k->r8,  k->r9,  k->r10, k->r11, k->r12, k->r13, k->r14, k->r15 };

    memcpy(s->gpr, all, sizeof all);
    s->rip = k->rip;
    s->rflags = k->rflags;
}

static void regs_set(const struct x86_state *s, struct kvm_regs *k)
{
    const u64 *g = s->gpr;

    *k = (struct kvm_regs){ .rax = g[RAX],
                            .rcx = g[RCX],
                            .rdx = g[RDX],
                            .rbx = g[RBX],
                            .rsp = g[RSP],
                            .rbp = g[RBP],
                            .rsi = g[RSI],
                            .rdi = g[RDI],
                            .r8 = g[R8],
                            .r9 = g[R9],
                            .r10 = g[R10],
                            .r11 = g[R11],
                            .r12 = g[R12],
                            .r13 = g[R13],
                            .r14 = g[R14],
                            .r15 = g[R15],
                            .rip = s->rip,
                            .rflags = s->rflags };
}

static void sregs_get(struct kvm_sregs *k, struct x86_state *s)
{
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i] = seg_get(seg_of(k, i));
    s->ldt = seg_get(&k->ldt);
    s->tr = seg_get(&k->tr);
    s->gdt = (struct x86_dtable){ .base = k->gdt.base, .limit = k->gdt.limit };
    s->idt = (struct x86_dtable){ .base = k->idt.base, .limit = k->idt.limit };
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8 & 15;
    s->msr.efer = k->efer;
    s->msr.apic_base = k->apic_base;
}

static void sregs_set(const struct x86_state *s, struct kvm_sregs *k)
{
    for (unsigned i = 0; i < X86_SEGS; i++)
        *(struct kvm_segment *)seg_of(k, i) = seg_set(&s->seg[i]);
    k->ldt = seg_set(&s->ldt);
    k->tr = seg_set(&s->tr);
    k->gdt = (struct kvm_dtable){ .base = s->gdt.base, .limit = s->gdt.limit };
    k->idt = (struct kvm_dtable){ .base = s->idt.base, .limit = s->idt.limit };
    k->cr0 = s->cr0;
    k->cr2 = s->cr2;
    k->cr3 = s->cr3;
    k->cr4 = s->cr4;
    k->cr8 = s->cr8;
    k->efer = s->msr.efer;
    k->apic_base = s->msr.apic_base;
    memset(k->interrupt_bitmap, 0, sizeof k->interrupt_bitmap); /* told by the events */
}

static void events_get(const struct kvm_vcpu_events *e, struct x86_state *s)
{
    s->exc_pending = e->exception.injected != 0;
    s->exc_vector = e->exception.nr & 31;
    s->exc_has_error = e->exception.has_error_code != 0;
    s->exc_error = e->exception.error_code;
    s->int_pending = e->interrupt.injected != 0;
    s->int_vector = e->interrupt.nr;
    s->int_soft = e->interrupt.soft != 0;
    s->int_shadow = e->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2
                    : e->interrupt.shadow & KVM_X86_SHADOW_INT_STI  ? 1
                                                                    : 0;
    s->nmi_pending = e->nmi.pending != 0 || e->nmi.injected != 0;
    s->nmi_masked = e->nmi.masked != 0 && !e->nmi.injected;
    s->sipi_vector = (u8)e->sipi_vector;
    s->smm = e->flags & KVM_VCPUEVENT_VALID_SMM && e->smi.smm;
}

static void events_set(const struct x86_state *s, struct kvm_vcpu_events *e)
{
    *e = (struct kvm_vcpu_events){
        .exception = { .injected = s->exc_pending,
                       .nr = s->exc_vector,
                       .has_error_code = s->exc_has_error,
                       .error_code = s->exc_error },
        .interrupt = { .injected = s->int_pending,
                       .nr = s->int_vector,
                       .soft = s->int_soft,
                       .shadow = s->int_shadow == 2   ? KVM_X86_SHADOW_INT_MOV_SS
                                 : s->int_shadow == 1 ? KVM_X86_SHADOW_INT_STI
                                                      : 0 },
        .nmi = { .pending = s->nmi_pending, .masked = s->nmi_masked },
        .sipi_vector = s->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                 KVM_VCPUEVENT_VALID_SIPI_VECTOR,
    };
}

static int msrs_get(struct kvm_vcpu *kc, struct x86_state *s)
{
    struct kvm_vm *kv = kc->kv;
    struct msrs m = { 0 };

    m.h.nmsrs = kv->n_msrs;
    for (u32 i = 0; i < kv->n_msrs; i++)
        m.e[i].index = kv->msrs[i].index;
    int n = kvm_ioctl(kc->fd, KVM_GET_MSRS, &m);
    if (n < 0)
        return n;
    for (int i = 0; i < n; i++)
        memcpy((u8 *)&s->msr + kv->msrs[i].at, &m.e[i].data, 8);

    struct msrs t = { .h.nmsrs = 2,
                      .e = { { .index = MSR_TSC }, { .index = MSR_TSC_DEADLINE } } };
    n = kvm_ioctl(kc->fd, KVM_GET_MSRS, &t);
    if (n < 1)
        return n < 0 ? n : -EIO;
    s->msr.tsc = kc->tsc_got = t.e[0].data;
    s->msr.tsc_deadline = n > 1 ? t.e[1].data : 0;
    return 0;
}

/* A value that this kernel refuses (a feature that the guest's CPUID lacks) is left out. */
static int msrs_set(struct kvm_vcpu *kc, const struct x86_state *s)
{
    struct kvm_vm *kv = kc->kv;
    u32 from = 0;

    while (from < kv->n_msrs) {
        struct msrs m = { 0 };

        m.h.nmsrs = kv->n_msrs - from;
        for (u32 i = from; i < kv->n_msrs; i++) {
            m.e[i - from].index = kv->msrs[i].index;
            memcpy(&m.e[i - from].data, (const u8 *)&s->msr + kv->msrs[i].at, 8);
        }
        int n = kvm_ioctl(kc->fd, KVM_SET_MSRS, &m);
        if (n < 0)
            return n;
        from += (u32)n + 1; /* all, or the one after the last that went in is refused */
    }

    struct msrs t = { .h.nmsrs = 1, .e = { { .index = MSR_TSC, .data = s->msr.tsc } } };
    if (s->msr.tsc != kc->tsc_got || !s->msr.tsc)
        kvm_ioctl(kc->fd, KVM_SET_MSRS, &t);
    if (s->msr.tsc_deadline && kv->vm->kernel_irqchip) {
        t.e[0] =
            (struct kvm_msr_entry){ .index = MSR_TSC_DEADLINE, .data = s->msr.tsc_deadline };
        kvm_ioctl(kc->fd, KVM_SET_MSRS, &t);
    }
    return 0;
}

static int xsave_get(struct kvm_vcpu *kc, struct x86_state *s)
{
    struct kvm_xsave x; /* its 4 KiB are what X86_XSAVE_MAX is */
    struct kvm_xcrs c = { 0 };
    int rc;

    _Static_assert(sizeof x.region == X86_XSAVE_MAX, "XSAVE image");
    rc = kvm_ioctl(kc->fd, KVM_GET_XSAVE, &x);
    if (rc < 0)
        return rc;
    memcpy(s->xsave, x.region, sizeof s->xsave);
    s->xcr0 = 1;
    if (kvm_ioctl(kc->fd, KVM_GET_XCRS, &c) >= 0)
        for (u32 i = 0; i < c.nr_xcrs && i < KVM_MAX_XCRS; i++)
            if (c.xcrs[i].xcr == 0)
                s->xcr0 = c.xcrs[i].value;
    return 0;
}

static int xsave_set(struct kvm_vcpu *kc, const struct x86_state *s)
{
    struct kvm_xsave x = { 0 };
    struct kvm_xcrs c = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 } } };
    u64 bv;

    memcpy(x.region, s->xsave, sizeof s->xsave);
    /* Components that this guest has not are in their initial state. */
    memcpy(&bv, (u8 *)x.region + 512, 8);
    bv &= kc->kv->cpuid.xcr0 | 3;
    memcpy((u8 *)x.region + 512, &bv, 8);
    memset((u8 *)x.region + 520, 0, 56);
    if (kc->kv->has.xsave && s->xcr0)
        kvm_ioctl(kc->fd, KVM_SET_XCRS, &c);
    return kvm_ioctl(kc->fd, KVM_SET_XSAVE, &x);
}

/* SDM 3, 11.4.7.1: local APIC after power-up; LINT0 of the BSP passes the 8259 on (virtual
 * wire), as firmware would set up. */
static void lapic_reset_page(struct kvm_lapic_state *l, u32 id, bool bsp)
{
    static const struct {
        u16 at;
        u32 val;
    } regs[] = { { 0x80, 0 },        { 0xd0, 0 },        { 0xe0, 0xffffffff },
                 { 0xf0, 0xff },     { 0x280, 0 },       { 0x300, 0 },
                 { 0x310, 0 },       { 0x2f0, 0x10000 }, { 0x320, 0x10000 },
                 { 0x330, 0x10000 }, { 0x340, 0x10000 }, { 0x350, 0x10000 },
                 { 0x360, 0x10000 }, { 0x370, 0x10000 }, { 0x380, 0 },
                 { 0x390, 0 },       { 0x3e0, 0 } };
    u32 v = id << 24, wire = 0x700;

    memset(l->regs + 0x100, 0, 0x180); /* ISR, TMR, IRR */
    for (unsigned i = 0; i < ARRAY_LEN(regs); i++)
        memcpy(l->regs + regs[i].at, &regs[i].val, 4);
    memcpy(l->regs + 0x20, &v, 4);
    if (bsp)
        memcpy(l->regs + 0x350, &wire, 4);
}

static int lapic_set(struct kvm_vcpu *kc, const struct x86_state *s)
{
    static const u8 zero[sizeof s->lapic];
    struct kvm_lapic_state l;

    _Static_assert(sizeof l.regs == sizeof s->lapic, "register page");
    if (memcmp(s->lapic, zero, sizeof zero)) {
        memcpy(l.regs, s->lapic, sizeof l.regs);
    } else {
        int rc = kvm_ioctl(kc->fd, KVM_GET_LAPIC, &l); /* for its version */
        if (rc < 0)
            return rc;
        lapic_reset_page(&l, kc->vcpu->apic_id, kc->vcpu->index == 0);
    }
    return kvm_ioctl(kc->fd, KVM_SET_LAPIC, &l);
}

static u8 mp_get(struct kvm_vcpu *kc)
{
    struct kvm_mp_state m = { 0 };

    if (!kc->kv->vm->kernel_irqchip)
        return kc->wait_sipi ? MP_WAIT_SIPI : kc->halted ? MP_HALTED : MP_RUNNING;
    if (kvm_ioctl(kc->fd, KVM_GET_MP_STATE, &m) < 0)
        return MP_RUNNING;
    switch (m.mp_state) {
    case KVM_MP_STATE_HALTED:
        return MP_HALTED;
    case KVM_MP_STATE_UNINITIALIZED:
    case KVM_MP_STATE_INIT_RECEIVED:
        return MP_WAIT_SIPI;
    default:
        return MP_RUNNING;
    }
}

static int mp_set(struct kvm_vcpu *kc, u8 state)
{
    struct kvm_mp_state m = { .mp_state = KVM_MP_STATE_RUNNABLE };

    kc->halted = state == MP_HALTED;
    kc->wait_sipi = state == MP_WAIT_SIPI || state == MP_INIT;
    if (!kc->kv->vm->kernel_irqchip)
        return 0;
    if (kc->halted)
        m.mp_state = KVM_MP_STATE_HALTED;
    if (kc->wait_sipi)
        m.mp_state = KVM_MP_STATE_INIT_RECEIVED;
    return kvm_ioctl(kc->fd, KVM_SET_MP_STATE, &m);
}

bool kvm_get(struct vcpu *v, struct x86_state *ret, GError **error)
{
    struct kvm_vcpu *kc = v->impl;
    struct x86_state now = { 0 }, *s = &now; /* *ret keeps its value when something fails */
    struct kvm_regs r;
    struct kvm_sregs sr;
    struct kvm_vcpu_events e;
    struct kvm_debugregs d;
    struct kvm_lapic_state l;
    const char *what = "general registers";
    int rc = kvm_ioctl(kc->fd, KVM_GET_REGS, &r);

    if (rc >= 0)
        what = "system registers", rc = kvm_ioctl(kc->fd, KVM_GET_SREGS, &sr);
    if (rc >= 0)
        what = "FPU state", rc = xsave_get(kc, s);
    if (rc >= 0)
        what = "events", rc = kvm_ioctl(kc->fd, KVM_GET_VCPU_EVENTS, &e);
    if (rc >= 0)
        what = "debug registers", rc = kvm_ioctl(kc->fd, KVM_GET_DEBUGREGS, &d);
    if (rc >= 0)
        what = "MSRs", rc = msrs_get(kc, s);
    if (rc >= 0 && kc->kv->vm->kernel_irqchip) {
        what = "local APIC", rc = kvm_ioctl(kc->fd, KVM_GET_LAPIC, &l);
        if (rc >= 0)
            memcpy(s->lapic, l.regs, sizeof s->lapic);
    }
    if (rc < 0)
        return fail_errno(error, -rc, "kvm: vCPU %u: %s", v->index, what);
    regs_get(&r, s);
    sregs_get(&sr, s);
    events_get(&e, s);
    memcpy(s->dr, d.db, sizeof d.db);
    s->dr[6] = d.dr6;
    s->dr[7] = d.dr7;
    s->mp_state = mp_get(kc);
    *ret = now;
    return true;
}

bool kvm_set(struct vcpu *v, const struct x86_state *s, GError **error)
{
    struct kvm_vcpu *kc = v->impl;
    struct kvm_regs r;
    struct kvm_sregs sr = { 0 };
    struct kvm_vcpu_events e;
    struct kvm_debugregs d = { .dr6 = s->dr[6], .dr7 = s->dr[7] };
    const char *what = "system registers";
    int rc;

    regs_set(s, &r);
    if (s->rip == 0xfff0 && s->gpr[RDX] == 0x600 && s->seg[CS].base == 0xffff0000)
        r.rdx = kc->kv->cpuid.signature; /* a reset tells the model in EDX */
    sregs_set(s, &sr);
    events_set(s, &e);
    memcpy(d.db, s->dr, sizeof d.db);
    /* Nothing of an exit before may be completed on top of this. */
    kc->io_pending = false;
    kc->run->ready_for_interrupt_injection = 0;
    kc->run->if_flag = (s->rflags & FL_IF) != 0;
    kc->run->apic_base = kc->apic_base = s->msr.apic_base;
    kc->run->cr8 = s->cr8;
    rc = kvm_ioctl(kc->fd, KVM_SET_SREGS, &sr);
    if (rc >= 0)
        what = "general registers", rc = kvm_ioctl(kc->fd, KVM_SET_REGS, &r);
    if (rc >= 0)
        what = "FPU state", rc = xsave_set(kc, s);
    if (rc >= 0 && kc->kv->vm->kernel_irqchip)
        what = "local APIC", rc = lapic_set(kc, s);
    if (rc >= 0)
        what = "MSRs", rc = msrs_set(kc, s);
    if (rc >= 0)
        what = "debug registers", rc = kvm_ioctl(kc->fd, KVM_SET_DEBUGREGS, &d);
    if (rc >= 0)
        what = "run state", rc = mp_set(kc, s->mp_state);
    if (rc >= 0)
        what = "events", rc = kvm_ioctl(kc->fd, KVM_SET_VCPU_EVENTS, &e);
    return rc >= 0 || fail_errno(error, -rc, "kvm: vCPU %u: %s are refused", v->index, what);
}
