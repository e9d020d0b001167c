// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lapic.c - the local APIC, as xAPIC page and as x2APIC registers.
 * Intel SDM volume 3, chapter 11 (APIC); register names are the manual's.
 *
 * Who touches what, so that an interrupt costs an atomic OR and a signal:
 *
 *   irr, tmr, esr_now, lint   any thread, atomically
 *   svr, ldr, dfr, apic_base  written by the own vCPU, read by senders (relaxed)
 *   lvt, timer registers      the device's lock (the timer thread reads them)
 *   isr, tpr, icr             the own vCPU alone
 *
 * The own vCPU is told again (VCPU_INTR) whenever TPR, EOI or an acknowledge leaves something
 * deliverable, so a backend may drop the event once it has asked ack().
 *
 * Not modelled: thermal and performance interrupts (their LVTs are plain registers), CMCI,
 * focus processor checking, EOI-broadcast suppression, arbitration on a bus.
 */
#include "vmm/dev/pc/lapic.h"

#include <stdatomic.h>
#include <x86intrin.h>

#include "vmm/dev/pc/intc.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/pic.h"

/* Register numbers: offset in the page / 16, MSR - 0x800. */
enum {
    APIC_ID = 0x02,
    APIC_VER = 0x03,
    APIC_TPR = 0x08,
    APIC_APR = 0x09,
    APIC_PPR = 0x0a,
    APIC_EOI = 0x0b,
    APIC_RRD = 0x0c,
    APIC_LDR = 0x0d,
    APIC_DFR = 0x0e,
    APIC_SVR = 0x0f,
    APIC_ISR = 0x10,
    APIC_TMR = 0x18,
    APIC_IRR = 0x20,
    APIC_ESR = 0x28,
    APIC_ICR = 0x30,
    APIC_ICR2 = 0x31,
    APIC_LVT = 0x32,
    APIC_TMICT = 0x38,
    APIC_TMCCT = 0x39,
    APIC_TDCR = 0x3e,
    APIC_SELF_IPI = 0x3f,
};
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVTS };
enum {
    LVT_MASKED = 1 << 16,
    LVT_TIMER_MODE = 3 << 17,
    LVT_PERIODIC = 1 << 17,
    LVT_DEADLINE = 2 << 17,
};
enum { SVR_ENABLE = 1 << 8 };
enum { ESR_SEND_VECTOR = 1 << 5, ESR_RECV_VECTOR = 1 << 6, ESR_ADDRESS = 1 << 7 };
enum { BASE_BSP = 1 << 8, BASE_X2 = 1 << 10, BASE_ENABLE = 1 << 11 };
enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800 };

#define NEVER         UINT64_MAX
#define BASE_ADDR     0x000ffffffffff000ull
#define DFR_FLAT      0xffffffffu
#define LAPIC_VERSION (0x14 | (LVTS - 1) << 16)
#define PERIOD_MIN_NS (100 * NS_PER_US) /* a guest may not load the host with timers */
#define DEADLINE_MAX  (NS_PER_SEC * 86400 * 365)

/* Delivery status (12) reads as zero, and remote IRR (14) is not kept. */
static const u32 lvt_settable[LVTS] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };

struct lapic {
    struct dev dev;
    struct vcpu *vcpu; /* NULL on a test's bench */
    struct timer timer;
    struct lapic_regs {
        u64 apic_base;
        u64 tsc_deadline;
        u64 timer_at; /* vm_now() of the next expiry, NEVER: stopped */
        u32 irr[8], isr[8], tmr[8];
        u32 tpr, ldr, dfr, svr;
        u32 icr, icr2;
        u32 esr, esr_now; /* latched by a write, collecting */
        u32 lvt[LVTS];
        u32 tmict, tdcr;
        u32 lint; /* levels at LINT0, LINT1 */
        u32 zero;
    } r;
};

static const struct state_field lapic_fields[] = {
    STATE_INT(struct lapic_regs, apic_base),
    STATE_INT(struct lapic_regs, tsc_deadline),
    STATE_INT(struct lapic_regs, timer_at),
    STATE_UINTS(struct lapic_regs, irr, UINT32_MAX),
    STATE_UINTS(struct lapic_regs, isr, UINT32_MAX),
    STATE_UINTS(struct lapic_regs, tmr, UINT32_MAX),
    STATE_UINT(struct lapic_regs, tpr, 0xff),
    STATE_INT(struct lapic_regs, ldr),
    STATE_INT(struct lapic_regs, dfr),
    STATE_UINT(struct lapic_regs, svr, 0x1ff),
    STATE_INT(struct lapic_regs, icr),
    STATE_INT(struct lapic_regs, icr2),
    STATE_UINT(struct lapic_regs, esr, 0xff),
    STATE_UINT(struct lapic_regs, esr_now, 0xff),
    STATE_UINTS(struct lapic_regs, lvt, 0x7ffff),
    STATE_INT(struct lapic_regs, tmict),
    STATE_UINT(struct lapic_regs, tdcr, 0xb),
    STATE_UINT(struct lapic_regs, lint, 3),
    STATE_PAD(struct lapic_regs, zero),
};

static struct lapic *lapic_of(struct dev *d)
{
    return container_of(d, struct lapic, dev);
}

#define peek(p)    __atomic_load_n((p), __ATOMIC_RELAXED)
#define poke(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

static u32 lapic_id(const struct lapic *s)
{
    return s->vcpu ? s->vcpu->apic_id : 0;
}

static bool lapic_enabled(const struct lapic *s)
{
    return peek(&s->r.apic_base) & BASE_ENABLE;
}

static bool lapic_x2(const struct lapic *s)
{
    return (peek(&s->r.apic_base) & (BASE_ENABLE | BASE_X2)) == (BASE_ENABLE | BASE_X2);
}

static u32 lapic_ldr(const struct lapic *s)
{
    if (lapic_x2(s)) /* SDM 3, 11.12.10.2: derived, read-only */
        return (lapic_id(s) >> 4) << 16 | 1u << (lapic_id(s) & 15);
    return peek(&s->r.ldr);
}

static void lapic_signal(struct lapic *s, u32 events)
{
    if (s->vcpu)
        vcpu_signal(s->vcpu, events);
}

/* --- request and service bits ------------------------------------------------------------- */

static int bits_highest(const u32 *words)
{
    for (int i = 7; i >= 0; i--) {
        u32 w = __atomic_load_n(&words[i], __ATOMIC_ACQUIRE);

        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

static void bits_set(u32 *words, u8 v)
{
    __atomic_fetch_or(&words[v >> 5], 1u << (v & 31), __ATOMIC_SEQ_CST);
}

static void bits_clear(u32 *words, u8 v)
{
    __atomic_fetch_and(&words[v >> 5], ~(1u << (v & 31)), __ATOMIC_SEQ_CST);
}

static bool bits_get(const u32 *words, u8 v)
{
    return peek(&words[v >> 5]) >> (v & 31) & 1;
}

static u8 lapic_ppr(const struct lapic *s)
{
    int isr = bits_highest(s->r.isr);
    u8 tpr = peek(&s->r.tpr);

    return isr >= 0 && (isr & 0xf0) >= (tpr & 0xf0) ? isr & 0xf0 : tpr;
}

static int lapic_deliverable(const struct lapic *s)
{
    int v;

    if (!lapic_enabled(s))
        return -1;
    v = bits_highest(s->r.irr);
    return v >= 16 && (v & 0xf0) > (lapic_ppr(s) & 0xf0) ? v : -1;
}

/* The PIC whose INTR this processor takes, or NULL. */
static struct dev *lapic_pic(struct lapic *s)
{
    u32 lint0 = peek(&s->r.lvt[LVT_LINT0]);
    struct pc_intc *intc;

    /* A disabled APIC connects LINT0 straight to INTR. */
    if (lapic_enabled(s) && (lint0 & LVT_MASKED || (lint0 >> 8 & 7) != LAPIC_EXTINT))
        return NULL;
    intc = pc_intc(s->dev.vm);
    return intc ? intc->pic : NULL;
}

static bool lapic_pending(struct dev *d)
{
    struct lapic *s = lapic_of(d);
    struct dev *pic;

    if (lapic_deliverable(s) >= 0)
        return true;
    pic = lapic_pic(s);
    return pic && pic_pending(pic);
}

static void lapic_look(struct lapic *s)
{
    if (lapic_pending(&s->dev))
        lapic_signal(s, VCPU_INTR);
}

static int lapic_ack(struct dev *d)
{
    struct lapic *s = lapic_of(d);
    struct dev *pic = lapic_pic(s);
    int v = -1;

    if (pic && pic_pending(pic))
        v = pic_ack(pic);
    if (v < 0) {
        v = lapic_deliverable(s);
        if (v < 0)
            return -1;
        bits_clear(s->r.irr, v);
        bits_set(s->r.isr, v);
    }
    lapic_look(s);
    return v;
}

static void lapic_accept(struct lapic *, u8 vector, bool level);

static void lapic_error(struct lapic *s, u32 bit)
{
    u32 lvt = peek(&s->r.lvt[LVT_ERROR]);

    if (!(__atomic_fetch_or(&s->r.esr_now, bit, __ATOMIC_RELAXED) & bit) &&
        !(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
        lapic_accept(s, lvt & 0xff, false);
}

/* A fixed interrupt arrives. */
static void lapic_accept(struct lapic *s, u8 vector, bool level)
{
    if (vector < 16) {
        lapic_error(s, ESR_RECV_VECTOR);
        return;
    }
    if (level)
        bits_set(s->r.tmr, vector);
    else
        bits_clear(s->r.tmr, vector);
    bits_set(s->r.irr, vector);
    lapic_signal(s, VCPU_INTR);
}

static void lapic_eoi(struct lapic *s)
{
    int v = bits_highest(s->r.isr);
    struct pc_intc *intc;

    if (v < 0)
        return;
    bits_clear(s->r.isr, v);
    if (bits_get(s->r.tmr, v)) {
        intc = pc_intc(s->dev.vm);
        if (intc && intc->ioapic)
            ioapic_eoi(intc->ioapic, v);
    }
    lapic_look(s);
}

static u8 lapic_tpr_get(struct dev *d)
{
    return lapic_of(d)->r.tpr;
}

static void lapic_tpr_set(struct dev *d, u8 val)
{
    struct lapic *s = lapic_of(d);
    u8 was = s->r.tpr;

    poke(&s->r.tpr, val);
    if (val < was)
        lapic_look(s);
}

/* --- messages ----------------------------------------------------------------------------- */

static struct lapic *lapic_at(struct vm *vm, u32 i)
{
    struct vcpu *v = vm->vcpus ? vm->vcpus[i] : NULL;

    return v && v->lapic && v->lapic_ops == &lapic_ops ? lapic_of(v->lapic) : NULL;
}

static bool lapic_broadcast(const struct lapic_msg *m)
{
    return m->wide ? m->dest == UINT32_MAX : m->dest == 0xff;
}

static bool lapic_match(const struct lapic *s, const struct lapic_msg *m)
{
    u32 ldr = lapic_ldr(s);

    if (!lapic_enabled(s))
        return false;
    if (lapic_broadcast(m))
        return true;
    if (!m->logical)
        return m->dest == lapic_id(s);
    if (lapic_x2(s))
        return m->dest >> 16 == ldr >> 16 && (m->dest & ldr & 0xffff);
    if (m->dest > 0xff)
        return false;
    ldr >>= 24;
    if (peek(&s->r.dfr) >> 28 == 0xf)
        return m->dest & ldr;
    return m->dest >> 4 == ldr >> 4 && (m->dest & ldr & 15);
}

/* One destination takes it. false: a software-disabled APIC refuses fixed interrupts. */
static bool lapic_take(struct lapic *s, const struct lapic_msg *m)
{
    if (!lapic_enabled(s))
        return false;
    switch (m->mode) {
    case LAPIC_FIXED:
    case LAPIC_LOWEST:
        if (!(peek(&s->r.svr) & SVR_ENABLE))
            return false;
        lapic_accept(s, m->vector, m->level);
        return true;
    case LAPIC_SMI:
        lapic_signal(s, VCPU_SMI);
        return true;
    case LAPIC_NMI:
        lapic_signal(s, VCPU_NMI);
        return true;
    case LAPIC_INIT:
        lapic_signal(s, VCPU_INIT);
        return true;
    case LAPIC_SIPI:
        if (s->vcpu)
            atomic_store(&s->vcpu->sipi_vector, m->vector);
        lapic_signal(s, VCPU_SIPI);
        return true;
    case LAPIC_EXTINT: /* the vCPU asks the PIC if its LINT0 is set up for it */
        lapic_signal(s, VCPU_INTR);
        return true;
    }
    return false;
}

static unsigned lapic_busy(const struct lapic *s)
{
    int irr = bits_highest(s->r.irr);

    return MAX(irr, (int)lapic_ppr(s));
}

/* Lowest priority: the least busy of the destinations, in turn among equals. */
static bool lapic_deliver_lowest(struct vm *vm, const struct lapic_msg *m)
{
    struct pc_intc *intc = pc_intc(vm);
    u32 turn = intc ? atomic_fetch_add(&intc->turn, 1) : 0;
    struct lapic *best = NULL;
    unsigned least = 256;

    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct lapic *s = lapic_at(vm, (turn + i) % vm->n_vcpus);

        if (!s || !(peek(&s->r.svr) & SVR_ENABLE) || !lapic_match(s, m))
            continue;
        if (lapic_busy(s) < least) {
            least = lapic_busy(s);
            best = s;
        }
    }
    return best && lapic_take(best, m);
}

bool lapic_deliver(struct vm *vm, const struct lapic_msg *m)
{
    bool taken = false;

    if (m->mode == LAPIC_LOWEST)
        return lapic_deliver_lowest(vm, m);
    if (!m->logical && m->dest < vm->n_vcpus && !lapic_broadcast(m)) {
        struct lapic *s = lapic_at(vm, m->dest);

        if (s && lapic_id(s) == m->dest) /* ids are usually the numbers of the vCPUs */
            return lapic_take(s, m);
    }
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct lapic *s = lapic_at(vm, i);

        if (s && lapic_match(s, m))
            taken |= lapic_take(s, m);
    }
    return taken;
}

bool lapic_deliver_msi(struct vm *vm, u64 addr, u32 data)
{
    struct lapic_msg m = {
        .dest = addr >> 12 & 0xff,
        .logical = addr >> 2 & 1,
        .vector = data,
        .mode = data >> 8 & 7,
        .level = data >> 15 & 1,
    };

    if ((addr & ~0xfffffull) != LAPIC_PAGE)
        return false;
    return lapic_deliver(vm, &m);
}

/* Writes to ICR; the destination is in icr2. */
static void lapic_send(struct lapic *s, u32 icr)
{
    struct vm *vm = s->dev.vm;
    struct lapic_msg m = {
        .wide = lapic_x2(s),
        .vector = icr,
        .mode = icr >> 8 & 7,
        .logical = icr >> 11 & 1,
    };

    m.dest = m.wide ? s->r.icr2 : s->r.icr2 >> 24;
    if (m.mode == LAPIC_INIT && (icr & 0xc000) == 0x8000)
        return; /* INIT level de-assert: only sets arbitration ids */
    if ((m.mode == LAPIC_FIXED || m.mode == LAPIC_LOWEST) && m.vector < 16) {
        lapic_error(s, ESR_SEND_VECTOR);
        return;
    }
    switch (icr >> 18 & 3) {
    case 0:
        lapic_deliver(vm, &m);
        break;
    case 1:
        lapic_take(s, &m);
        break;
    case 2:
    case 3:
        for (u32 i = 0; i < vm->n_vcpus; i++) {
            struct lapic *to = lapic_at(vm, i);

            if (to && (to != s || (icr >> 18 & 3) == 2))
                lapic_take(to, &m);
        }
        break;
    }
}

void lapic_lint(struct vm *vm, unsigned pin, bool level)
{
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct lapic *s = lapic_at(vm, i);
        u32 lvt, was;

        if (!s)
            continue;
        was = level ? __atomic_fetch_or(&s->r.lint, 1u << pin, __ATOMIC_RELAXED)
                    : __atomic_fetch_and(&s->r.lint, ~(1u << pin), __ATOMIC_RELAXED);
        if (!level || was >> pin & 1)
            continue;
        lvt = peek(&s->r.lvt[pin == 0 ? LVT_LINT0 : LVT_LINT1]);
        if (!lapic_enabled(s))
            lapic_signal(s, pin == 0 ? VCPU_INTR : VCPU_NMI);
        else if (!(lvt & LVT_MASKED))
            lapic_take(s, &(struct lapic_msg){ .vector = lvt, .mode = lvt >> 8 & 7 });
    }
}

/* --- the timer (REQUIRES(dev->lock)) ------------------------------------------------------ */

static u32 lapic_timer_mode(const struct lapic *s)
{
    return s->r.lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

/* Nanoseconds of one count: the divider, as the bus runs at 1 GHz. */
static u32 lapic_div(const struct lapic *s)
{
    return 1u << (((s->r.tdcr & 3) + ((s->r.tdcr & 8) >> 1) + 1) & 7);
}

static u64 lapic_period(const struct lapic *s)
{
    return MAX((u64)s->r.tmict * lapic_div(s), PERIOD_MIN_NS);
}

/* Moves timer_at of a periodic timer behind now; ticks that nobody saw are lost, as IRR would
 * have merged them. */
static void lapic_timer_roll(struct lapic *s, u64 now)
{
    if (s->r.timer_at == NEVER || s->r.timer_at > now)
        return;
    if (lapic_timer_mode(s) == LVT_PERIODIC && s->r.tmict) {
        u64 period = lapic_period(s);

        s->r.timer_at += ((now - s->r.timer_at) / period + 1) * period;
    } else {
        s->r.timer_at = NEVER;
    }
}

static u64 lapic_tsc(const struct lapic *s)
{
    return __rdtsc() + (s->vcpu ? (u64)peek(&s->vcpu->tsc_offset) : 0);
}

static u64 lapic_deadline_at(struct lapic *s)
{
    s64 left = (s64)(s->r.tsc_deadline - lapic_tsc(s));
    u64 ns;

    if (left <= 0)
        return 0;
    ns = MIN((unsigned __int128)left * NS_PER_SEC / vm_tsc_hz() + 1, DEADLINE_MAX);
    return vm_now(s->dev.vm) + ns;
}

/* Sets the host timer by the registers. */
static void lapic_timer_arm(struct lapic *s)
{
    u64 at;

    if (lapic_timer_mode(s) == LVT_DEADLINE) {
        at = s->r.tsc_deadline ? lapic_deadline_at(s) : NEVER;
    } else {
        /* A one-shot that has run out by now, as this thread was held up, is still to be told:
         * the host timer fires at once. */
        if (lapic_timer_mode(s) == LVT_PERIODIC)
            lapic_timer_roll(s, vm_now(s->dev.vm));
        at = s->r.lvt[LVT_TIMER] & LVT_MASKED ? NEVER : s->r.timer_at;
    }
    if (at == NEVER)
        timer_cancel(&s->timer);
    else
        timer_set(&s->timer, at);
}

static void lapic_timer_fire(struct dev *d, struct timer *t UNUSED)
{
    struct lapic *s = lapic_of(d);
    u32 lvt = s->r.lvt[LVT_TIMER];

    if (lapic_timer_mode(s) == LVT_DEADLINE) {
        if (!s->r.tsc_deadline)
            return;
        if ((s64)(s->r.tsc_deadline - lapic_tsc(s)) > 0) {
            lapic_timer_arm(s); /* clocks differ by rounding: never early */
            return;
        }
        s->r.tsc_deadline = 0;
    } else {
        u64 now = vm_now(d->vm);

        if (s->r.timer_at == NEVER || now < s->r.timer_at) {
            lapic_timer_arm(s);
            return;
        }
        lapic_timer_roll(s, now);
        if (s->r.timer_at != NEVER)
            timer_set(&s->timer, s->r.timer_at);
    }
    if (!(lvt & LVT_MASKED))
        lapic_accept(s, lvt, false);
}

static u32 lapic_timer_count(struct lapic *s)
{
    u64 now = vm_now(s->dev.vm), left;

    if (lapic_timer_mode(s) == LVT_DEADLINE || !s->r.tmict)
        return 0;
    if (s->r.timer_at != NEVER && s->r.timer_at <= now) {
        if (lapic_timer_mode(s) != LVT_PERIODIC)
            return 0;
        left = lapic_period(s) - (now - s->r.timer_at) % lapic_period(s);
    } else {
        left = s->r.timer_at == NEVER ? 0 : s->r.timer_at - now;
    }
    return MIN((left + lapic_div(s) - 1) / lapic_div(s), s->r.tmict);
}

static void lapic_write_lvt(struct lapic *s, unsigned n, u32 val)
{
    u32 was = s->r.lvt[n];

    val &= lvt_settable[n];
    if (!(s->r.svr & SVR_ENABLE))
        val |= LVT_MASKED;
    if (n == LVT_TIMER && (val & LVT_TIMER_MODE) == LVT_TIMER_MODE)
        val &= ~LVT_TIMER_MODE; /* reserved */
    if (n == LVT_TIMER && was & LVT_MASKED && lapic_timer_mode(s) != LVT_DEADLINE)
        lapic_timer_roll(s, vm_now(s->dev.vm)); /* what ran out while masked is gone */
    poke(&s->r.lvt[n], val);
    if (n == LVT_TIMER && (was ^ val) & (LVT_TIMER_MODE | LVT_MASKED)) {
        /* Between TSC-deadline and the other modes the timer is disarmed (SDM 3, 11.5.4.1). */
        if ((was ^ val) & LVT_DEADLINE) {
            s->r.tsc_deadline = 0;
            s->r.timer_at = NEVER;
            s->r.tmict = 0;
        }
        lapic_timer_arm(s);
    }
}

static void lapic_write_svr(struct lapic *s, u32 val)
{
    poke(&s->r.svr, val & 0x1ff);
    if (!(val & SVR_ENABLE)) {
        for (unsigned i = 0; i < LVTS; i++)
            poke(&s->r.lvt[i], s->r.lvt[i] | LVT_MASKED);
        lapic_timer_arm(s);
    }
}

static void lapic_write_tmict(struct lapic *s, u32 val)
{
    if (lapic_timer_mode(s) == LVT_DEADLINE)
        return;
    s->r.tmict = val;
    s->r.timer_at = NEVER;
    if (val) {
        u64 ns = (u64)val * lapic_div(s);

        if (lapic_timer_mode(s) == LVT_PERIODIC)
            ns = lapic_period(s);
        s->r.timer_at = vm_now(s->dev.vm) + ns;
    }
    lapic_timer_arm(s);
}

static void lapic_write_tdcr(struct lapic *s, u32 val)
{
    u32 left = lapic_timer_count(s);

    s->r.tdcr = val & 0xb;
    if (s->r.timer_at != NEVER && lapic_timer_mode(s) != LVT_DEADLINE) {
        s->r.timer_at = vm_now(s->dev.vm) + (u64)left * lapic_div(s);
        lapic_timer_arm(s);
    }
}

/* --- registers ---------------------------------------------------------------------------- */

/* false: no such register. */
static bool lapic_reg_read(struct lapic *s, unsigned reg, u32 *ret)
{
    struct lapic_regs *r = &s->r;

    switch (reg) {
    case APIC_ID:
        *ret = lapic_x2(s) ? lapic_id(s) : lapic_id(s) << 24;
        break;
    case APIC_VER:
        *ret = LAPIC_VERSION;
        break;
    case APIC_TPR:
        *ret = r->tpr;
        break;
    case APIC_APR:
        *ret = lapic_busy(s);
        break;
    case APIC_PPR:
        *ret = lapic_ppr(s);
        break;
    case APIC_EOI:
    case APIC_RRD:
        *ret = 0;
        break;
    case APIC_LDR:
        *ret = lapic_ldr(s);
        break;
    case APIC_DFR:
        *ret = r->dfr;
        break;
    case APIC_SVR:
        *ret = r->svr;
        break;
    case APIC_ISR ... APIC_ISR + 7:
        *ret = peek(&r->isr[reg - APIC_ISR]);
        break;
    case APIC_TMR ... APIC_TMR + 7:
        *ret = peek(&r->tmr[reg - APIC_TMR]);
        break;
    case APIC_IRR ... APIC_IRR + 7:
        *ret = peek(&r->irr[reg - APIC_IRR]);
        break;
    case APIC_ESR:
        *ret = r->esr;
        break;
    case APIC_ICR:
        *ret = r->icr;
        break;
    case APIC_ICR2:
        *ret = r->icr2;
        break;
    case APIC_LVT ... APIC_LVT + LVTS - 1:
        *ret = r->lvt[reg - APIC_LVT];
        break;
    case APIC_TMICT:
        *ret = r->tmict;
        break;
    case APIC_TMCCT:
        dev_lock(&s->dev);
        *ret = lapic_timer_count(s);
        dev_unlock(&s->dev);
        break;
    case APIC_TDCR:
        *ret = r->tdcr;
        break;
    default:
        return false;
    }
    return true;
}

static bool lapic_reg_write(struct lapic *s, unsigned reg, u32 val)
{
    struct lapic_regs *r = &s->r;

    switch (reg) {
    case APIC_ID: /* read-only, as in all recent processors */
    case APIC_VER:
        break;
    case APIC_TPR:
        lapic_tpr_set(&s->dev, val);
        break;
    case APIC_EOI:
        lapic_eoi(s);
        break;
    case APIC_LDR:
        poke(&r->ldr, val & 0xff000000);
        break;
    case APIC_DFR:
        poke(&r->dfr, val | 0x0fffffff);
        break;
    case APIC_ESR:
        r->esr = __atomic_exchange_n(&r->esr_now, 0, __ATOMIC_RELAXED);
        break;
    case APIC_ICR:
        r->icr = val & 0xccfff;
        lapic_send(s, r->icr);
        break;
    case APIC_ICR2:
        r->icr2 = val & 0xff000000;
        break;
    case APIC_SVR:
        dev_lock(&s->dev);
        lapic_write_svr(s, val);
        dev_unlock(&s->dev);
        break;
    case APIC_LVT ... APIC_LVT + LVTS - 1:
        dev_lock(&s->dev);
        lapic_write_lvt(s, reg - APIC_LVT, val);
        dev_unlock(&s->dev);
        lapic_look(s); /* LINT0 may now let the PIC through */
        break;
    case APIC_TMICT:
        dev_lock(&s->dev);
        lapic_write_tmict(s, val);
        dev_unlock(&s->dev);
        break;
    case APIC_TDCR:
        dev_lock(&s->dev);
        lapic_write_tdcr(s, val);
        dev_unlock(&s->dev);
        break;
    default:
        return false;
    }
    return true;
}

/* --- MSRs --------------------------------------------------------------------------------- */

static void lapic_clear(struct lapic *s);
static void lapic_page_follow(struct lapic *s);

static bool lapic_write_base(struct lapic *s, u64 val)
{
    u64 was = s->r.apic_base;
    bool en = val & BASE_ENABLE, x2 = val & BASE_X2;

    if (val & ~(BASE_ADDR | BASE_BSP | BASE_X2 | BASE_ENABLE) || (x2 && !en))
        return false;
    if (x2 && !(was & BASE_ENABLE)) /* SDM 3, figure 11-27 */
        return false;
    if (en && !x2 && was & BASE_X2)
        return false;
    dev_lock(&s->dev);
    poke(&s->r.apic_base, (val & ~(u64)BASE_BSP) | (was & BASE_BSP));
    if (!en && was & BASE_ENABLE)
        lapic_clear(s);
    dev_unlock(&s->dev);
    if ((val ^ was) & BASE_ADDR && en)
        lapic_page_follow(s);
    lapic_look(s);
    return true;
}

static bool lapic_msr_read(struct dev *d, u32 msr, u64 *ret)
{
    struct lapic *s = lapic_of(d);
    unsigned reg = msr - MSR_X2APIC;
    u32 val;

    if (msr == MSR_APIC_BASE) {
        *ret = s->r.apic_base;
        return true;
    }
    if (msr == MSR_TSC_DEADLINE) {
        dev_lock(d);
        *ret = s->r.tsc_deadline;
        dev_unlock(d);
        return true;
    }
    if (reg > APIC_SELF_IPI || !lapic_x2(s))
        return false;
    switch (reg) {
    case APIC_APR:
    case APIC_EOI:
    case APIC_RRD:
    case APIC_DFR:
    case APIC_ICR2:
    case APIC_SELF_IPI:
        return false;
    case APIC_ICR:
        *ret = s->r.icr | (u64)s->r.icr2 << 32;
        return true;
    }
    if (!lapic_reg_read(s, reg, &val))
        return false;
    *ret = val;
    return true;
}

static bool lapic_msr_write(struct dev *d, u32 msr, u64 val)
{
    struct lapic *s = lapic_of(d);
    unsigned reg = msr - MSR_X2APIC;

    if (msr == MSR_APIC_BASE)
        return lapic_write_base(s, val);
    if (msr == MSR_TSC_DEADLINE) {
        dev_lock(d);
        if (lapic_timer_mode(s) == LVT_DEADLINE) {
            s->r.tsc_deadline = val;
            lapic_timer_arm(s);
        }
        dev_unlock(d);
        return true;
    }
    if (reg > APIC_SELF_IPI || !lapic_x2(s))
        return false;
    switch (reg) {
    case APIC_ICR:
        s->r.icr = val & 0xccfff;
        s->r.icr2 = val >> 32;
        lapic_send(s, s->r.icr);
        return true;
    case APIC_SELF_IPI:
        if (val > 0xff)
            return false;
        if (val < 16)
            lapic_error(s, ESR_SEND_VECTOR);
        else
            lapic_accept(s, val, false);
        return true;
    case APIC_EOI:
    case APIC_ESR:
        if (val)
            return false;
        break;
    case APIC_TPR:
        if (val > 0xff)
            return false;
        break;
    case APIC_ID:
    case APIC_VER:
    case APIC_LDR:
    case APIC_DFR:
    case APIC_ICR2:
        return false;
    }
    return !(val >> 32) && lapic_reg_write(s, reg, val);
}

/* --- the device --------------------------------------------------------------------------- */

/* State after INIT and power-up (SDM 3, 11.4.7), without APIC_BASE. REQUIRES(dev->lock). */
static void lapic_clear(struct lapic *s)
{
    u64 base = s->r.apic_base;
    u32 lint = s->r.lint;

    s->r = (struct lapic_regs){
        .apic_base = base,
        .timer_at = NEVER,
        .dfr = DFR_FLAT,
        .svr = 0xff,
        .lint = lint,
    };
    for (unsigned i = 0; i < LVTS; i++)
        s->r.lvt[i] = LVT_MASKED;
    /* Virtual wire mode on the boot processor, as firmware would leave it: a kernel that was
     * loaded directly and knows no APIC gets the PIC's interrupts. */
    if (base & BASE_BSP)
        s->r.lvt[LVT_LINT0] = LAPIC_EXTINT << 8;
    timer_cancel(&s->timer);
}

static void lapic_init_op(struct dev *d)
{
    dev_lock(d);
    lapic_clear(lapic_of(d));
    dev_unlock(d);
}

static void lapic_reset(struct dev *d)
{
    struct lapic *s = lapic_of(d);

    s->r.apic_base =
        LAPIC_PAGE | BASE_ENABLE | (!s->vcpu || s->vcpu->index == 0 ? BASE_BSP : 0);
    lapic_clear(s);
    lapic_page_follow(s);
}

static void lapic_loaded(struct dev *d)
{
    struct lapic *s = lapic_of(d);

    lapic_page_follow(s);
    /* An expiry that passed meanwhile fires at once, and a periodic timer finds its phase then.
     */
    if (lapic_timer_mode(s) == LVT_DEADLINE)
        lapic_timer_arm(s);
    else if (s->r.timer_at != NEVER && !(s->r.lvt[LVT_TIMER] & LVT_MASKED))
        timer_set(&s->timer, s->r.timer_at);
    lapic_look(s);
}

static bool lapic_dev_init(struct dev *d, GError **error UNUSED)
{
    struct lapic *s = lapic_of(d);

    timer_init(&s->timer, d, lapic_timer_fire);
    return true;
}

static void lapic_fini(struct dev *d)
{
    struct lapic *s = lapic_of(d);

    if (s->vcpu && s->vcpu->lapic == d)
        s->vcpu->lapic = NULL;
}

static const struct prop lapic_props[] = {
    PROP(struct lapic, vcpu, PROP_PTR, .name = "vcpu"),
    {},
};

const struct dev_type lapic_type = {
    .name = "apic",
    .desc = "local APIC of one vCPU",
    .kind = DEV_SYSBUS,
    .rank = DEV_RANK_LAPIC,
    .size = sizeof(struct lapic),
    .props = lapic_props,
    .state = STATE_TABLE(struct lapic, r, lapic_fields),
    .init = lapic_dev_init,
    .reset = lapic_reset,
    .loaded = lapic_loaded,
    .fini = lapic_fini,
};

const struct lapic_ops lapic_ops = {
    .ack = lapic_ack,
    .pending = lapic_pending,
    .tpr_get = lapic_tpr_get,
    .tpr_set = lapic_tpr_set,
    .msr_read = lapic_msr_read,
    .msr_write = lapic_msr_write,
    .init = lapic_init_op,
};

struct dev *lapic_make(struct vm *vm, struct vcpu *v, GError **error)
{
    g_autofree char *id = g_strdup_printf("apic.%u", v->index);
    struct dev *d = dev_new(vm, &lapic_type, id);

    if (!dev_set_ptr(d, "vcpu", v, error) || !dev_realize(d, error)) {
        dev_free(d);
        return NULL;
    }
    v->lapic = d;
    v->lapic_ops = &lapic_ops;
    return d;
}

void lapic_print(struct dev *d, GString *to)
{
    struct lapic *s = lapic_of(d);

    g_string_append_printf(to, "APIC %u: base %#llx%s%s\n", lapic_id(s),
                           s->r.apic_base & BASE_ADDR, lapic_enabled(s) ? "" : " disabled",
                           lapic_x2(s) ? " x2APIC" : "");
    state_print(&lapic_type.state, s, to);
}

/* --- the page ------------------------------------------------------------------------------
 */

struct lapic_page {
    struct dev dev;
    pthread_mutex_t map_lock; /* the innermost but the bus's own */
    u64 at;                   /* derived from the LAPICs' APIC_BASE; 0: nowhere yet */
    struct mapping *mapping;
};

/* The LAPIC of the vCPU that does the access, or NULL when it has no page. */
static struct lapic *lapic_here(void)
{
    struct vcpu *v = vcpu_current();
    struct lapic *s = v && v->lapic && v->lapic_ops == &lapic_ops ? lapic_of(v->lapic) : NULL;

    return s && lapic_enabled(s) && !lapic_x2(s) ? s : NULL;
}

static u64 lapic_page_read(struct dev *d UNUSED, u64 off, unsigned size UNUSED)
{
    struct lapic *s = lapic_here();
    u32 val;

    if (!s)
        return UINT32_MAX;
    if (off & 15)
        return 0;
    if (lapic_reg_read(s, off >> 4, &val))
        return val;
    lapic_error(s, ESR_ADDRESS);
    return 0;
}

static void lapic_page_write(struct dev *d UNUSED, u64 off, u64 val, unsigned size UNUSED)
{
    struct lapic *s = lapic_here();

    if (s && !(off & 15) && !lapic_reg_write(s, off >> 4, val))
        lapic_error(s, ESR_ADDRESS);
}

static const struct region lapic_page_region = {
    .name = "lapic",
    .len = 0x1000,
    .min = 4,
    .max = 4,
    .read = lapic_page_read,
    .write = lapic_page_write,
    .unlocked = true,
};

/*
 * The page is where the last APIC_BASE written says; a guest with several addresses at once,
 * which nobody has, finds only that.
 */
static void lapic_page_follow(struct lapic *s)
{
    struct pc_intc *intc = pc_intc(s->dev.vm);
    struct lapic_page *p;
    u64 at = s->r.apic_base & BASE_ADDR;

    if (!intc || !intc->page)
        return;
    p = container_of(intc->page, struct lapic_page, dev);
    pthread_mutex_lock(&p->map_lock);
    if (at != p->at) {
        if (p->mapping)
            bus_unmap(s->dev.vm->mem, p->mapping);
        p->mapping = bus_map(s->dev.vm->mem, at, &lapic_page_region, &p->dev, 0);
        p->at = at;
    }
    pthread_mutex_unlock(&p->map_lock);
}

static bool lapic_page_init(struct dev *d, GError **error UNUSED)
{
    pthread_mutex_init(&container_of(d, struct lapic_page, dev)->map_lock, NULL);
    return true;
}

static void lapic_page_fini(struct dev *d)
{
    struct pc_intc *intc = pc_intc(d->vm);

    pthread_mutex_destroy(&container_of(d, struct lapic_page, dev)->map_lock);
    if (intc && intc->page == d)
        pc_intc_free(d->vm);
}

const struct dev_type lapic_page_type = {
    .name = "apic-page",
    .desc = "register page of the local APICs",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct lapic_page),
    .mem = { &lapic_page_region },
    .init = lapic_page_init,
    .fini = lapic_page_fini,
};
