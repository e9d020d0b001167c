// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * exc.c - delivery of exceptions and interrupts through IVT and IDT, double and triple faults,
 * IRET.  SDM volume 3, chapter 6; error codes 6.13; double fault 6.15.
 *
 * Delivery reads all it needs and pushes all it pushes before it changes a register, so that a
 * fault on the way simply becomes the next event.
 *
 * Not modelled: task gates and task switches (#GP with a message), VME.
 */
#include "vmm/cpu/soft/interp.h"

#include "base/log.h"

enum event_kind { EV_FAULT, EV_SOFT, EV_EXTERNAL };
struct event {
    u8 vector;
    u8 kind;
    bool has_error;
    u32 error;
    u64 rip; /* what is pushed */
};

/* ---- stacks being switched to
 * ------------------------------------------------------------------
 */
struct inner {
    const struct x86_seg *ss;
    u64 sp, mask;
    enum tlb_class cls;
    u32 code; /* of the #SS when it does not fit */
};

static void inner_push(struct soft_vcpu *v, struct inner *k, unsigned size, u64 val)
{
    u64 off = (k->sp - size) & k->mask, last = off + size - 1;
    const struct x86_seg *s = k->ss;

    if (s->attr & ATTR_E ? off <= s->limit || last > (s->attr & ATTR_DB ? 0xffffffff : 0xffff)
                         : last > s->limit && s->limit != 0xffffffff)
        throw_err(v, EXC_SS, k->code);
    lin_write_slow(v, (u32)(s->base + off), size, val, k->cls);
    k->sp = (k->sp & ~k->mask) | off;
}

/* ---- delivery
 * ---------------------------------------------------------------------------------
 */
static void event_real(struct soft_vcpu *v, const struct event *ev)
{
    struct stack k = stack_open(v);
    u32 at = ev->vector * 4u, val;

    if (at + 3 > v->s.idt.limit)
        throw_err(v, EXC_GP, at * 2 + 2);
    val = (u32)sys_read(v, (u32)(v->s.idt.base + at), 4);
    stack_push(v, &k, 2, v->s.rflags);
    stack_push(v, &k, 2, v->s.seg[CS].sel);
    stack_push(v, &k, 2, ev->rip);
    stack_close(v, &k);
    v->s.rflags &= ~(u64)(FL_IF | FL_TF | FL_AC | FL_RF);
    seg_real(v, CS, (u16)(val >> 16));
    v->s.rip = val & 0xffff;
    soft_update(v);
}

static u64 pushed_flags(const struct soft_vcpu *v, const struct event *ev)
{
    u64 f = v->s.rflags & ~(u64)FL_RF;

    if (ev->kind == EV_FAULT && ev->vector != EXC_DB)
        f |= FL_RF;
    else if (ev->kind == EV_EXTERNAL)
        f |= v->s.rflags & FL_RF;
    return f;
}

static void flags_entered(struct soft_vcpu *v, bool interrupt_gate)
{
    v->s.rflags &= ~(u64)(FL_TF | FL_NT | FL_RF | FL_VM);
    if (interrupt_gate)
        v->s.rflags &= ~(u64)FL_IF;
}

static void event_long(struct soft_vcpu *v, const struct event *ev)
{
    u32 ext = ev->kind != EV_SOFT, code = ev->vector * 8u + 2 + ext;
    u64 at = v->s.idt.base + ev->vector * 16u, lo, hi, target, sp, flags;
    unsigned type, ist, ncpl;
    enum tlb_class cls;
    struct x86_seg cs;
    struct desc d;
    u16 sel;

    if (ev->vector * 16u + 15 > v->s.idt.limit)
        throw_err(v, EXC_GP, code);
    lo = sys_read(v, at, 8);
    hi = sys_read(v, at + 8, 8);
    type = (lo >> 40) & 31;
    if (type != SYS_INT32 && type != SYS_TRAP32)
        throw_err(v, EXC_GP, code);
    if (ev->kind == EV_SOFT && ((lo >> 45) & 3) < v->cpl)
        throw_err(v, EXC_GP, code);
    if (!(lo & BIT(47)))
        throw_err(v, EXC_NP, code);
    sel = (u16)(lo >> 16);
    target = (lo & 0xffff) | ((lo >> 32) & 0xffff0000) | hi << 32;
    ist = (lo >> 32) & 7;

    desc_read(v, sel, EXC_GP, ext, &d);
    if (!desc_s(&d) || !desc_code(&d) || desc_dpl(&d) > v->cpl ||
        (d.hi & 0x600000) != 0x200000) /* L set, D clear */
        throw_err(v, EXC_GP, (sel & ~3u) | ext);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, (sel & ~3u) | ext);
    ncpl = d.hi & 0x400 ? v->cpl : desc_dpl(&d);
    cls = ncpl == 3 ? TLB_USER : TLB_KERNEL;
    if (ncpl < v->cpl || ist) {
        u32 off = ist ? 28 + 8 * ist : 4 + 8 * ncpl;

        if ((v->s.tr.attr & ATTR_UNUSABLE) || off + 7 > v->s.tr.limit)
            throw_err(v, EXC_TS, (v->s.tr.sel & ~3u) | ext);
        sp = sys_read(v, v->s.tr.base + off, 8);
    } else {
        sp = v->s.gpr[RSP];
    }
    sp &= ~15ull;
    if (!canonical(sp) || !canonical(sp - 48))
        throw_err(v, EXC_SS, ext);
    if (!canonical(target))
        throw_err(v, EXC_GP, ext);
    flags = pushed_flags(v, ev);
    {
        u64 frame[6], n = 0;

        if (ev->has_error)
            frame[n++] = ev->error;
        frame[n++] = ev->rip;
        frame[n++] = v->s.seg[CS].sel;
        frame[n++] = flags;
        frame[n++] = v->s.gpr[RSP];
        frame[n++] = v->s.seg[SS].sel;
        sp -= 8 * n;
        if (!mmu_write(v, sp, frame, (unsigned)(8 * n), cls))
            interp_throw(v);
    }
    desc_accessed(v, sel, &d);
    desc_to_seg(&d, (u16)((sel & ~3) | ncpl), &cs);
    v->s.seg[CS] = cs;
    if (ncpl != v->cpl) {
        struct x86_seg *ss = &v->s.seg[SS];

        ss->sel = (u16)ncpl;
        ss->base = 0;
        ss->limit = 0;
        ss->attr = ATTR_UNUSABLE | ncpl << ATTR_DPL_SHIFT;
    }
    v->s.gpr[RSP] = sp;
    v->s.rip = target;
    flags_entered(v, type == SYS_INT32);
    soft_update(v);
}

static void event_protected(struct soft_vcpu *v, const struct event *ev)
{
    u32 ext = ev->kind != EV_SOFT, code = ev->vector * 8u + 2 + ext, target;
    bool v86 = is_v86(v);
    unsigned type, ncpl, size;
    struct x86_seg cs, ss;
    struct inner k;
    struct desc d;
    u64 gate, flags = pushed_flags(v, ev);
    u16 sel;

    if (ev->vector * 8u + 7 > v->s.idt.limit)
        throw_err(v, EXC_GP, code);
    gate = sys_read(v, (u32)(v->s.idt.base + ev->vector * 8u), 8);
    type = (gate >> 40) & 31;
    if (type == SYS_TASK) {
        soft_fp_save(v);
        log_guest("soft: task gate for vector %u: task switches are not there", ev->vector);
        throw_err(v, EXC_GP, code);
    }
    if (type != SYS_INT32 && type != SYS_TRAP32 && type != SYS_INT16 && type != SYS_TRAP16)
        throw_err(v, EXC_GP, code);
    if (ev->kind == EV_SOFT && ((gate >> 45) & 3) < v->cpl)
        throw_err(v, EXC_GP, code);
    if (!(gate & BIT(47)))
        throw_err(v, EXC_NP, code);
    sel = (u16)(gate >> 16);
    size = type >= SYS_INT32 ? 4 : 2;
    target = size == 4 ? (u32)((gate & 0xffff) | ((gate >> 32) & 0xffff0000)) : gate & 0xffff;

    desc_read(v, sel, EXC_GP, ext, &d);
    if (!desc_s(&d) || !desc_code(&d) || desc_dpl(&d) > v->cpl)
        throw_err(v, EXC_GP, (sel & ~3u) | ext);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, (sel & ~3u) | ext);
    ncpl = d.hi & 0x400 ? v->cpl : desc_dpl(&d);
    if (v86 && ncpl != 0)
        throw_err(v, EXC_GP, (sel & ~3u) | ext);
    if (target > desc_limit(&d))
        throw_err(v, EXC_GP, ext);

    if (ncpl < v->cpl) {
        u16 nss;
        u64 nsp;

        tss_stack(v, ncpl, ext, &nss, &nsp);
        if (!(nss & ~3))
            throw_err(v, EXC_TS, ext);
        seg_check_ss(v, nss, ncpl, EXC_TS, ext, &ss);
        k.ss = &ss;
        k.sp = nsp;
        k.mask = ss.attr & ATTR_DB ? 0xffffffff : 0xffff;
        k.code = (nss & ~3u) | ext;
        k.cls = TLB_KERNEL;
        if (ncpl == 3)
            k.cls = TLB_USER;
        if (v86) {
            inner_push(v, &k, size, v->s.seg[GS].sel);
            inner_push(v, &k, size, v->s.seg[FS].sel);
            inner_push(v, &k, size, v->s.seg[DS].sel);
            inner_push(v, &k, size, v->s.seg[ES].sel);
        }
        inner_push(v, &k, size, v->s.seg[SS].sel);
        inner_push(v, &k, size, v->s.gpr[RSP]);
    } else {
        k.ss = &v->s.seg[SS];
        k.sp = v->s.gpr[RSP];
        k.mask = stack_mask(v);
        k.code = ext;
        k.cls = soft_class(v);
    }
    inner_push(v, &k, size, flags);
    inner_push(v, &k, size, v->s.seg[CS].sel);
    inner_push(v, &k, size, ev->rip);
    if (ev->has_error)
        inner_push(v, &k, size, ev->error);
    desc_accessed(v, sel, &d);
    desc_to_seg(&d, (u16)((sel & ~3) | ncpl), &cs);

    if (ncpl < v->cpl) {
        v->s.seg[SS] = ss;
        if (v86) {
            static const u8 segs[] = { GS, FS, DS, ES };

            for (unsigned n = 0; n < ARRAY_LEN(segs); n++)
                v->s.seg[segs[n]] = (struct x86_seg){ .attr = ATTR_UNUSABLE };
        }
    }
    v->s.gpr[RSP] = k.mask == 0xffffffff ? (u32)k.sp : k.sp;
    v->s.seg[CS] = cs;
    v->s.rip = target;
    flags_entered(v, type == SYS_INT32 || type == SYS_INT16);
    soft_update(v);
}

__attribute__((noinline)) static void event_deliver(struct soft_vcpu *v,
                                                    const struct event *ev)
{
    if (is_real(v))
        event_real(v, ev);
    else if (is_long(v))
        event_long(v, ev);
    else
        event_protected(v, ev);
    v->x.next_rip = v->s.rip;
    v->x.no_step = true;
    v->x.shadow = 0;
    v->s.int_shadow = 0;
    v->s.mp_state = MP_RUNNING;
}

/* ---- double and triple faults
 * -------------------------------------------------------------------
 */
static bool contributory(u8 vec)
{
    return vec == EXC_DE || (vec >= EXC_TS && vec <= EXC_GP);
}

/* `first` was being delivered when `second` came up: turns it into what is to be delivered. */
static int combine(const struct event *first, struct event *second)
{
    if (first->kind != EV_FAULT)
        return SOFT_GO;
    if (first->vector == EXC_DF)
        return contributory(second->vector) || second->vector == EXC_PF ? SOFT_TRIPLE : SOFT_GO;
    if ((contributory(first->vector) && contributory(second->vector)) ||
        (first->vector == EXC_PF &&
         (second->vector == EXC_PF || contributory(second->vector)))) {
        second->vector = EXC_DF;
        second->has_error = true;
        second->error = 0;
    }
    return SOFT_GO;
}

enum { NESTED_MAX = 8 };

/* Not inlined, nor is what throws: a jump within one function is not allowed, and compilers give
 * the place of a variable that lives across it to another. */
__attribute__((noinline)) static bool event_try(struct soft_vcpu *v, const struct event *ev)
{
    if (__builtin_setjmp(v->x.jump))
        return false;
    event_deliver(v, ev);
    return true;
}

static int event_run(struct soft_vcpu *v, struct event *ev)
{
    void *jump[5];
    int r = SOFT_GO;

    for (unsigned k = 0; k < ARRAY_LEN(jump); k++)
        jump[k] = v->x.jump[k];
    for (unsigned n = 0; !event_try(v, ev); n++) {
        struct event next = { v->fault.vector, EV_FAULT, v->fault.has_error, v->fault.error,
                              v->s.rip };

        if (next.vector == EXC_PF)
            v->s.cr2 = v->fault.cr2;
        r = n < NESTED_MAX ? combine(ev, &next) : SOFT_TRIPLE;
        if (r)
            break;
        *ev = next;
        v->dr_hit = 0;
    }
    for (unsigned k = 0; k < ARRAY_LEN(jump); k++)
        v->x.jump[k] = jump[k];
    return r;
}

int exc_raise(struct soft_vcpu *v, u8 vector, bool has_error, u32 error)
{
    struct event ev = { vector, EV_FAULT, has_error && !is_real(v), error, v->s.rip };

    if (vector == EXC_DB) /* GD is cleared so that the handler can touch the registers */
        v->s.dr[7] &= ~BIT(13);
    return event_run(v, &ev);
}

int exc_fault(struct soft_vcpu *v)
{
    if (v->fault.vector == EXC_PF)
        v->s.cr2 = v->fault.cr2;
    return exc_raise(v, v->fault.vector, v->fault.has_error, v->fault.error);
}

int exc_interrupt(struct soft_vcpu *v, u8 vector)
{
    struct event ev = { vector, EV_EXTERNAL, false, 0, v->s.rip };

    if (vector == EXC_NMI)
        v->s.nmi_masked = 1;
    return event_run(v, &ev);
}

void soft_int(struct soft_vcpu *v, u8 vector, bool check)
{
    /* INT1 is an exception for the gate's DPL, but not for what is pushed. */
    struct event ev = { vector, check ? EV_SOFT : EV_EXTERNAL, false, 0, v->x.next_rip };

    v->x.stop = event_run(v, &ev);
    v->x.next_rip = v->s.rip;
}

/* ---- IRET
 * -------------------------------------------------------------------------------------
 */
static void flags_return(struct soft_vcpu *v, u64 val, unsigned size, unsigned cpl)
{
    u64 may = FL_STATUS | FL_TF | FL_DF | FL_NT;

    if (size > 2)
        may |= FL_RF | FL_AC | FL_ID;
    if (cpl <= iopl_of(v))
        may |= FL_IF;
    if (cpl == 0) {
        may |= FL_IOPL;
        if (size > 2)
            may |= FL_VIF | FL_VIP;
    }
    v->s.rflags = (v->s.rflags & ~may) | (val & may) | FL_1;
    v->x.keep_rf = true;
}

static void iret_real(struct soft_vcpu *v, unsigned size)
{
    struct stack k = stack_open(v);
    u64 ip = stack_pop(v, &k, size), cs = stack_pop(v, &k, size);
    u64 fl = stack_pop(v, &k, size), iopl = v->s.rflags & FL_IOPL;

    if (is_v86(v) && iopl != FL_IOPL)
        throw_gp(v);
    if ((u32)ip > 0xffff && (is_v86(v) || (u32)ip > v->s.seg[CS].limit))
        throw_gp(v);
    stack_close(v, &k);
    flags_return(v, fl, size, is_v86(v) ? 3 : 0);
    if (is_v86(v))
        v->s.rflags = (v->s.rflags & ~(u64)FL_IOPL) | iopl;
    seg_real(v, CS, (u16)cs);
    v->x.next_rip = (u32)ip;
    soft_update(v);
}

static void iret_to_v86(struct soft_vcpu *v, struct stack *k, u32 ip, u16 cs, u32 fl)
{
    static const u8 segs[] = { ES, DS, FS, GS };
    u32 sp = (u32)stack_pop(v, k, 4);
    u16 ss = (u16)stack_pop(v, k, 4), sel[4];

    for (unsigned n = 0; n < 4; n++)
        sel[n] = (u16)stack_pop(v, k, 4);
    v->s.rflags = (fl & (FL_STATUS | FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM |
                         FL_AC | FL_VIF | FL_VIP | FL_ID)) |
                  FL_1;
    v->x.keep_rf = true;
    seg_real(v, CS, cs);
    seg_real(v, SS, ss);
    for (unsigned n = 0; n < 4; n++)
        seg_real(v, segs[n], sel[n]);
    v->s.gpr[RSP] = sp;
    v->x.next_rip = ip & 0xffff;
    soft_update(v);
}

static void iret_protected(struct soft_vcpu *v, unsigned size)
{
    struct stack k = stack_open(v);
    u64 ip, fl, sp = 0;
    bool outer, from64 = v->mode == MODE_64;
    struct x86_seg cs, ss;
    struct desc d;
    u16 sel, ssel = 0;
    unsigned rpl;

    if (v->s.rflags & FL_NT) {
        soft_fp_save(v);
        log_guest("soft: IRET with NT set: task switches are not there");
        throw_gp(v);
    }
    ip = stack_pop(v, &k, size);
    sel = (u16)stack_pop(v, &k, size);
    fl = stack_pop(v, &k, size);
    if ((fl & FL_VM) && size == 4 && v->cpl == 0 && !is_long(v)) {
        iret_to_v86(v, &k, (u32)ip, sel, (u32)fl);
        return;
    }
    rpl = sel & 3;
    desc_read(v, sel, EXC_GP, 0, &d);
    if (rpl < v->cpl || !desc_s(&d) || !desc_code(&d) ||
        (d.hi & 0x400 ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        throw_err(v, EXC_GP, sel & ~3u);
    if (!desc_p(&d))
        throw_err(v, EXC_NP, sel & ~3u);

    bool to64 = is_long(v) && (d.hi & (1u << 21));

    if (to64 && (d.hi & (1u << 22)))
        throw_err(v, EXC_GP, sel & ~3u);
    outer = rpl > v->cpl;
    if (outer || from64) {
        sp = stack_pop(v, &k, size);
        ssel = (u16)stack_pop(v, &k, size);
        if (!(ssel & ~3)) {
            if (!to64 || rpl == 3 || (ssel & 3) != rpl)
                throw_gp(v);
            ss = (struct x86_seg){ .sel = ssel, .attr = ATTR_UNUSABLE | rpl << ATTR_DPL_SHIFT };
        } else {
            seg_check_ss(v, ssel, rpl, EXC_GP, 0, &ss);
        }
    }
    if (to64 ? !canonical(ip) : ip > desc_limit(&d))
        throw_gp(v);
    desc_accessed(v, sel, &d);
    desc_to_seg(&d, sel, &cs);

    flags_return(v, fl, size, v->cpl);
    v->s.seg[CS] = cs;
    if (outer || from64) {
        v->s.seg[SS] = ss;
        if (to64 || size == 8)
            v->s.gpr[RSP] = sp;
        else if (ss.attr & ATTR_DB)
            v->s.gpr[RSP] = (u32)sp;
        else
            v->s.gpr[RSP] = (v->s.gpr[RSP] & ~0xffffull) | (u16)sp;
    } else {
        stack_close(v, &k);
    }
    if (outer)
        seg_drop_outer(v, rpl);
    v->x.next_rip = to64 ? ip : (u32)ip;
    soft_update(v);
}

void op_iret(struct soft_vcpu *v, const struct insn *i)
{
    if (is_prot(v))
        iret_protected(v, i->opsize);
    else
        iret_real(v, i->opsize);
    v->s.nmi_masked = 0;
}
