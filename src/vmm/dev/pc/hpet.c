// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hpet.c - IA-PC HPET (High Precision Event Timers) Specification 1.0a.
 *
 * The counter is computed from the VM clock; a comparator has a host timer while it can raise
 * an interrupt.  A comparator in 32-bit mode compares the low half.  Rates that a guest asks
 * for are bounded; periods that passed while the host was late are merged into one.
 *
 * Edge-triggered interrupts pull their line low and up again and leave it high, as the 8259A
 * latches an edge only while the input stays high.
 */
#include "vmm/dev/pc/hpet.h"

#include <stdatomic.h>

enum { CAP = 0x000, CONFIG = 0x010, STATUS = 0x020, COUNTER = 0x0f0, TIMER0 = 0x100 };
enum { TN_CONFIG = 0x00, TN_CMP = 0x08, TN_FSB = 0x10, TN_STEP = 0x20 };
enum { CONFIG_ENABLE = 1, CONFIG_LEGACY = 2 };
#define PERIOD_FS     10000000ull /* of one tick */
#define TICK_NS       10
#define PERIOD_MIN_NS (100 * NS_PER_US)
#define ROUTES        0x00ff0000u /* inputs of the I/O APIC that no ISA interrupt has */
#define NEVER         UINT64_MAX

enum {
    TN_LEVEL = 1 << 1,
    TN_ENABLE = 1 << 2,
    TN_PERIODIC = 1 << 3,
    TN_CAN_PERIODIC = 1 << 4,
    TN_CAN_64 = 1 << 5,
    TN_SET_ACC = 1 << 6,
    TN_32 = 1 << 8,
    TN_ROUTE = 0x1f << 9,
    TN_FSB_ON = 1 << 14,
    TN_CAN_FSB = 1 << 15,
    TN_SET = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET_ACC | TN_32 | TN_ROUTE | TN_FSB_ON,
};

struct hpet_timer {
    u64 config; /* settable bits only */
    u64 cmp, period;
    u64 fsb; /* low half: data, high half: address */
};

struct hpet {
    struct dev dev;
    struct timer timer[HPET_TIMERS];
    struct irq legacy_line[2];
    _Atomic bool legacy; /* derived from config, for the lines */
    struct hpet_regs {
        struct hpet_timer t[HPET_TIMERS];
        u64 config, status;
        u64 counter; /* when it stands */
        u64 start;   /* vm_now() at which the running counter would have been 0; wraps */
    } r;
};

static const struct state_field hpet_timer_fields[] = {
    STATE_UINT(struct hpet_timer, config, 0xffff),
    STATE_INT(struct hpet_timer, cmp),
    STATE_INT(struct hpet_timer, period),
    STATE_INT(struct hpet_timer, fsb),
};
static const struct state_field hpet_fields[] = {
    STATE_STRUCTS(struct hpet_regs, t, hpet_timer_fields),
    STATE_UINT(struct hpet_regs, config, CONFIG_ENABLE | CONFIG_LEGACY),
    STATE_UINT(struct hpet_regs, status, BIT(HPET_TIMERS) - 1),
    STATE_INT(struct hpet_regs, counter),
    STATE_INT(struct hpet_regs, start),
};

static struct hpet *hpet_of(struct dev *d)
{
    return container_of(d, struct hpet, dev);
}

/* --- the counter ----------------------------------------------------------------------------
 */

static bool hpet_on(const struct hpet *s)
{
    return s->r.config & CONFIG_ENABLE;
}

static u64 hpet_counter(const struct hpet *s)
{
    return hpet_on(s) ? s->r.counter + (vm_now(s->dev.vm) - s->r.start) / TICK_NS
                      : s->r.counter;
}

static void hpet_enable(struct hpet *s, bool on)
{
    if (on)
        s->r.start = vm_now(s->dev.vm);
    else
        s->r.counter = hpet_counter(s);
}

/* --- comparators ----------------------------------------------------------------------------
 */

static u64 tn_mask(const struct hpet_timer *t)
{
    return t->config & TN_32 ? UINT32_MAX : UINT64_MAX;
}

/* The line of a timer that sends no messages, or NULL. */
static struct irq *tn_line(struct hpet *s, unsigned n)
{
    const struct hpet_timer *t = &s->r.t[n];
    unsigned route = (t->config & TN_ROUTE) >> 9;

    if (s->r.config & CONFIG_LEGACY && n < 2)
        return vm_gsi(s->dev.vm, n == 0 ? 0 : 8);
    return t->config & TN_FSB_ON || !(ROUTES >> route & 1) ? NULL : vm_gsi(s->dev.vm, route);
}

static void tn_lower(struct hpet *s, unsigned n)
{
    if (s->r.status >> n & 1) {
        s->r.status &= ~(u64)BIT(n);
        irq_set(tn_line(s, n), false);
    }
}

static void tn_raise(struct hpet *s, unsigned n)
{
    struct hpet_timer *t = &s->r.t[n];
    bool legacy = s->r.config & CONFIG_LEGACY && n < 2;

    if (t->config & TN_LEVEL)
        s->r.status |= BIT(n);
    if (!(t->config & TN_ENABLE))
        return;
    if (t->config & TN_FSB_ON && !legacy) {
        vm_msi(s->dev.vm, t->fsb >> 32, t->fsb);
        return;
    }
    if (!(t->config & TN_LEVEL))
        irq_set(tn_line(s, n), false);
    irq_set(tn_line(s, n), true);
}

/* Sets the host timer for the next match. */
static void tn_arm(struct hpet *s, unsigned n)
{
    struct hpet_timer *t = &s->r.t[n];
    u64 now = hpet_counter(s), left;

    if (!hpet_on(s) || !(t->config & (TN_ENABLE | TN_LEVEL))) {
        timer_cancel(&s->timer[n]);
        return;
    }
    left = (t->cmp - now) & tn_mask(t);
    /* A one-shot of 64 bits that has passed matches again in 5800 years. */
    if (left > INT64_MAX / TICK_NS) {
        timer_cancel(&s->timer[n]);
        return;
    }
    timer_set(&s->timer[n], vm_now(s->dev.vm) + left * TICK_NS);
}

/* A periodic comparator moves behind the counter; periods that were missed are merged. */
static void tn_advance(struct hpet *s, unsigned n)
{
    struct hpet_timer *t = &s->r.t[n];
    u64 mask = tn_mask(t), period = t->period & mask, now = hpet_counter(s);
    u64 behind = (now - t->cmp) & mask;

    if (!(t->config & TN_PERIODIC) || !period)
        return;
    if (behind <= mask / 2)
        t->cmp = (t->cmp + (behind / period + 1) * period) & mask;
    /* The bound of the rate: skip ahead. */
    if (period < PERIOD_MIN_NS / TICK_NS && ((t->cmp - now) & mask) < PERIOD_MIN_NS / TICK_NS)
        t->cmp = (now + PERIOD_MIN_NS / TICK_NS) & mask;
}

static void hpet_fire(struct dev *d, struct timer *timer)
{
    struct hpet *s = hpet_of(d);
    unsigned n = timer - s->timer;
    struct hpet_timer *t = &s->r.t[n];

    if (!hpet_on(s))
        return;
    tn_raise(s, n);
    if (t->config & TN_PERIODIC && t->period & tn_mask(t)) {
        tn_advance(s, n);
        tn_arm(s, n);
    } else if (t->config & TN_32) {
        /* Matches again when the low half has gone round: 43 seconds. */
        timer_set(timer, vm_now(d->vm) + (1ull << 32) * TICK_NS);
    }
}

/* --- registers ------------------------------------------------------------------------------
 */

static void hpet_write_config(struct hpet *s, u64 val)
{
    u64 was = s->r.config;

    val &= CONFIG_ENABLE | CONFIG_LEGACY;
    if ((was ^ val) & CONFIG_ENABLE)
        hpet_enable(s, val & CONFIG_ENABLE);
    if ((was ^ val) & CONFIG_LEGACY) {
        /* What had the two lines before leaves them low. */
        if (val & CONFIG_LEGACY)
            atomic_store(&s->legacy, true);
        irq_set(vm_gsi(s->dev.vm, 0), false);
        irq_set(vm_gsi(s->dev.vm, 8), false);
        if (!(val & CONFIG_LEGACY))
            atomic_store(&s->legacy, false);
    }
    s->r.config = val;
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        if (!(val & CONFIG_ENABLE))
            tn_lower(s, n);
        tn_arm(s, n);
    }
}

static void tn_write_config(struct hpet *s, unsigned n, u64 val)
{
    struct hpet_timer *t = &s->r.t[n];

    val &= TN_SET;
    if (s->r.status >> n & 1 && (!(val & TN_ENABLE) || (val ^ t->config) & ~(u64)TN_SET_ACC))
        tn_lower(s, n); /* off the line that it has now */
    t->config = val;
    t->cmp &= tn_mask(t);
    t->period &= tn_mask(t);
    tn_arm(s, n);
}

/* `lanes`: the bits that are written. */
static void tn_write_cmp(struct hpet *s, unsigned n, u64 val, u64 lanes)
{
    struct hpet_timer *t = &s->r.t[n];

    lanes &= tn_mask(t);
    val &= lanes;
    if (!(t->config & TN_PERIODIC) || t->config & TN_SET_ACC)
        t->cmp = (t->cmp & ~lanes) | val;
    if (t->config & TN_PERIODIC)
        t->period = (t->period & ~lanes) | val;
    t->config &= ~(u64)TN_SET_ACC;
    tn_arm(s, n);
}

static u64 tn_caps(void)
{
    return (u64)ROUTES << 32 | TN_CAN_PERIODIC | TN_CAN_64 | TN_CAN_FSB;
}

static u64 hpet_reg(struct hpet *s, u64 off)
{
    unsigned n = (off - TIMER0) / TN_STEP;

    switch (off) {
    case CAP:
        return PERIOD_FS << 32 | HPET_ID;
    case CONFIG:
        return s->r.config;
    case STATUS:
        return s->r.status;
    case COUNTER:
        return hpet_counter(s);
    }
    if (off < TIMER0 || n >= HPET_TIMERS)
        return 0;
    switch ((off - TIMER0) % TN_STEP) {
    case TN_CONFIG:
        return s->r.t[n].config | tn_caps();
    case TN_CMP:
        if (hpet_on(s))
            tn_advance(s, n);
        return s->r.t[n].cmp;
    case TN_FSB:
        return s->r.t[n].fsb;
    }
    return 0;
}

static void hpet_set_reg(struct hpet *s, u64 off, u64 val, u64 lanes)
{
    unsigned n = (off - TIMER0) / TN_STEP;

    switch (off) {
    case CONFIG:
        hpet_write_config(s, val);
        return;
    case STATUS:
        for (n = 0; n < HPET_TIMERS; n++)
            if (val >> n & 1)
                tn_lower(s, n);
        return;
    case COUNTER:
        s->r.counter = val;
        s->r.start = vm_now(s->dev.vm);
        for (n = 0; n < HPET_TIMERS; n++)
            tn_arm(s, n);
        return;
    }
    if (off < TIMER0 || n >= HPET_TIMERS)
        return;
    switch ((off - TIMER0) % TN_STEP) {
    case TN_CONFIG:
        tn_write_config(s, n, val);
        break;
    case TN_CMP:
        tn_write_cmp(s, n, val, lanes);
        break;
    case TN_FSB:
        s->r.t[n].fsb = val;
        break;
    }
}

static u64 hpet_read(struct dev *d, u64 off, unsigned size)
{
    u64 val = hpet_reg(hpet_of(d), off & ~7ull);

    return size == 8 ? val : val >> (off & 4 ? 32 : 0) & UINT32_MAX;
}

static void hpet_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct hpet *s = hpet_of(d);
    u64 reg = off & ~7ull, lanes = UINT64_MAX;

    if (size == 4) {
        lanes = off & 4 ? ~(u64)UINT32_MAX : UINT32_MAX;
        val = off & 4 ? val << 32 : val & UINT32_MAX;
        if (reg != STATUS) /* where zero leaves a bit alone */
            val |= hpet_reg(s, reg) & ~lanes;
    }
    hpet_set_reg(s, reg, val, lanes);
}

/* --- the device -----------------------------------------------------------------------------
 */

static void hpet_legacy_set(void *opaque, unsigned n, bool level)
{
    struct hpet *s = opaque;

    if (!atomic_load(&s->legacy))
        irq_set(vm_gsi(s->dev.vm, n), level);
}

struct irq *hpet_legacy_line(struct dev *d, unsigned which)
{
    return &hpet_of(d)->legacy_line[which & 1];
}

static void hpet_reset(struct dev *d)
{
    struct hpet *s = hpet_of(d);

    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        tn_lower(s, n);
        timer_cancel(&s->timer[n]);
    }
    s->r = (struct hpet_regs){};
    for (unsigned n = 0; n < HPET_TIMERS; n++)
        s->r.t[n].cmp = UINT64_MAX;
    atomic_store(&s->legacy, false);
}

static void hpet_loaded(struct dev *d)
{
    struct hpet *s = hpet_of(d);

    atomic_store(&s->legacy, !!(s->r.config & CONFIG_LEGACY));
    for (unsigned n = 0; n < HPET_TIMERS; n++) {
        tn_arm(s, n);
        if (s->r.status >> n & 1 && s->r.t[n].config & TN_ENABLE)
            irq_set(tn_line(s, n), true);
    }
}

static bool hpet_init(struct dev *d, GError **error UNUSED)
{
    struct hpet *s = hpet_of(d);

    for (unsigned n = 0; n < HPET_TIMERS; n++)
        timer_init(&s->timer[n], d, hpet_fire);
    for (unsigned i = 0; i < 2; i++)
        s->legacy_line[i] =
            (struct irq){ .set = hpet_legacy_set, .opaque = s, .n = i == 0 ? 0 : 8 };
    return true;
}

static const struct region hpet_region = {
    .name = "hpet",
    .len = 0x400,
    .min = 4,
    .max = 8,
    .read = hpet_read,
    .write = hpet_write,
};

const struct dev_type hpet_type = {
    .name = "hpet",
    .desc = "high precision event timer",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct hpet),
    .mem = { &hpet_region },
    .state = STATE_TABLE(struct hpet, r, hpet_fields),
    .init = hpet_init,
    .reset = hpet_reset,
    .loaded = hpet_loaded,
};
