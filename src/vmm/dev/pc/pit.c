// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pit.c - 8254 programmable interval timer, and port 0x61 that gates its third channel.
 * Intel 8254 data sheet (231164); port 0x61 as in the 82371SB (PIIX3), NMI status and control.
 *
 * Nothing is counted: a channel keeps when its count was loaded, and counter and output are
 * computed from the VM clock.  Only OUT0 has a timer, for its rising edges.
 *
 *   mode 0  __________|~~~~~~   d >= n          mode 3  ~~~~|____|~~~~|____  halves of n
 *   mode 1  ~|________|~~~~~~   from the gate   mode 4  ~~~~~~~~~|_|~~~~~~  strobe at n
 *   mode 2  ~~~~~~~~|_|~~~~~~   low at n-1      mode 5  like 4, from the gate
 *
 * IRQ 0 sees the rising edges of modes 2 and 3 at multiples of n; the edge that setting the
 * mode would make is left out.  When the host is late, at most LATE_MAX ticks are made up for,
 * as old kernels count them; the rate that a guest can ask for is bounded.
 *
 * Differences: a new count in modes 2 and 3 takes effect at once, not at the end of the period.
 */
#include "vmm/dev/pc/pit.h"

enum { CHANNELS = 3, CONTROL = 3 };
enum { RW_LATCH, RW_LOW, RW_HIGH, RW_BOTH };
enum { LATE_MAX = 4 };
enum { PACE_NS = 4000, PACE_MAX = 1000 };
#define PERIOD_MIN_NS (100 * NS_PER_US)
#define NEVER         UINT64_MAX

enum {
    P61_GATE2 = 0x01,
    P61_SPEAKER = 0x02,
    P61_SET = 0x0f,
    P61_REFRESH = 0x10,
    P61_OUT2 = 0x20
};

struct pit_channel {
    u64 start; /* vm_now() when counting began; while the gate holds it: time already counted */
    u32 count; /* 1..65536 */
    u16 latch;
    u8 loaded;   /* a count has been written since the mode was set */
    u8 counting; /* ... and (modes 1, 5) the gate has started it */
    u8 mode, bcd, rw;
    u8 write_high, read_high; /* the next access is for the high byte */
    u8 write_low;             /* the low byte that waits for the high one */
    u8 latched;               /* bytes of latch left to read */
    u8 status, status_latched;
    u8 gate, held; /* held: modes 0, 4 with the gate low */
    u8 zero[5];
};

struct pit {
    struct dev dev;
    struct timer timer;
    struct pit_regs {
        struct pit_channel ch[CHANNELS];
        u64 ticked; /* edges of channel 0 since start that the guest has been given */
        u8 port61;
        u8 late; /* edges owed */
        u8 zero[6];
    } r;
};

static const struct state_field pit_channel_fields[] = {
    STATE_INT(struct pit_channel, start),
    STATE_UINT(struct pit_channel, count, 65536),
    STATE_INT(struct pit_channel, latch),
    STATE_UINT(struct pit_channel, loaded, 1),
    STATE_UINT(struct pit_channel, counting, 1),
    STATE_UINT(struct pit_channel, mode, 5),
    STATE_UINT(struct pit_channel, bcd, 1),
    STATE_UINT(struct pit_channel, rw, RW_BOTH),
    STATE_UINT(struct pit_channel, write_high, 1),
    STATE_UINT(struct pit_channel, read_high, 1),
    STATE_INT(struct pit_channel, write_low),
    STATE_UINT(struct pit_channel, latched, 2),
    STATE_INT(struct pit_channel, status),
    STATE_UINT(struct pit_channel, status_latched, 1),
    STATE_UINT(struct pit_channel, gate, 1),
    STATE_UINT(struct pit_channel, held, 1),
    STATE_PAD(struct pit_channel, zero),
};
static const struct state_field pit_fields[] = {
    STATE_STRUCTS(struct pit_regs, ch, pit_channel_fields),
    STATE_INT(struct pit_regs, ticked),
    STATE_UINT(struct pit_regs, port61, P61_SET),
    STATE_UINT(struct pit_regs, late, LATE_MAX),
    STATE_PAD(struct pit_regs, zero),
};

static struct pit *pit_of(struct dev *d)
{
    return container_of(d, struct pit, dev);
}

static u64 ticks_of_ns(u64 ns)
{
    return (unsigned __int128)ns * PIT_HZ / NS_PER_SEC;
}

static u64 ns_of_ticks(u64 ticks) /* rounded up, so that it is never early */
{
    return ((unsigned __int128)ticks * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static u32 ch_count(const struct pit_channel *c)
{
    return MAX(c->count, 1);
}

/* Clocks since the count was loaded. */
static u64 ch_ticks(const struct pit_channel *c, u64 now)
{
    if (c->held)
        return ticks_of_ns(c->start);
    return now > c->start ? ticks_of_ns(now - c->start) : 0;
}

static bool ch_periodic(const struct pit_channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool ch_out(const struct pit_channel *c, u64 now)
{
    u64 d = ch_ticks(c, now), n = ch_count(c);

    if (!c->counting)
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1:
        return d >= n;
    case 2:
        return !c->gate || d % n != n - 1;
    case 3:
        return !c->gate || d % n < (n + 1) / 2;
    default:
        return d != n;
    }
}

static u16 ch_counter(const struct pit_channel *c, u64 now)
{
    u64 d = ch_ticks(c, now), n = ch_count(c), val;
    u32 all = c->bcd ? 10000 : 65536;

    if (!c->loaded)
        return 0;
    if (!c->counting || (ch_periodic(c) && !c->gate))
        d = 0;
    switch (c->mode) {
    case 2:
        val = n - d % n;
        break;
    case 3: /* counts down by two, twice a period */
        val = n - 2 * d % n;
        break;
    default:
        val = (n + all - d % all) % all;
    }
    val %= all;
    if (c->bcd)
        val = val / 1000 << 12 | val / 100 % 10 << 8 | val / 10 % 10 << 4 | val % 10;
    return val;
}

/* --- OUT0 (REQUIRES(dev->lock)) ------------------------------------------------------------
 */

/* When OUT0 rises next, or NEVER. */
static u64 pit_next(struct pit *s, u64 now)
{
    const struct pit_channel *c = &s->r.ch[0];
    u64 n = ch_count(c), at;

    if (!c->counting || c->held)
        return NEVER;
    if (!ch_periodic(c)) {
        at = c->start + ns_of_ticks(n);
        return s->r.ticked ? NEVER : at;
    }
    if (s->r.late) /* owed ticks come at four times the rate */
        return now + MAX(ns_of_ticks(n) / 4, PERIOD_MIN_NS);
    at = c->start + ns_of_ticks((s->r.ticked + 1) * n);
    return MAX(at, now + (ns_of_ticks(n) < PERIOD_MIN_NS ? PERIOD_MIN_NS : 0));
}

static void pit_arm(struct pit *s)
{
    u64 at = pit_next(s, vm_now(s->dev.vm));

    if (at == NEVER)
        timer_cancel(&s->timer);
    else
        timer_set(&s->timer, at);
}

static void pit_fire(struct dev *d, struct timer *t UNUSED)
{
    struct pit *s = pit_of(d);
    struct pit_channel *c = &s->r.ch[0];
    u64 now = vm_now(d->vm), n = ch_ticks(c, now) / ch_count(c);

    if (!c->counting || c->held)
        return;
    if (ch_periodic(c)) {
        u64 fresh = n > s->r.ticked ? n - s->r.ticked : 0;

        if (fresh + s->r.late == 0) {
            pit_arm(s);
            return;
        }
        /* Faster than the bound: what does not fit is not owed. */
        if (ns_of_ticks(ch_count(c)) < PERIOD_MIN_NS)
            fresh = MIN(fresh, 1);
        s->r.ticked = MAX(n, s->r.ticked);
        s->r.late = MIN(fresh + s->r.late - 1, LATE_MAX);
    } else {
        s->r.ticked = 1;
    }
    irq_set(d->irq[0], false);
    irq_set(d->irq[0], true);
    pit_arm(s);
}

/* The channel starts to count now. */
static void pit_start(struct pit *s, unsigned i)
{
    struct pit_channel *c = &s->r.ch[i];

    c->counting = 1;
    c->held = 0;
    c->start = vm_now(s->dev.vm);
    if ((c->mode == 0 || c->mode == 4) && !c->gate) {
        c->held = 1;
        c->start = 0;
    }
    if (i == 0) {
        s->r.ticked = 0;
        s->r.late = 0;
        irq_set(s->dev.irq[0], false);
        pit_arm(s);
    }
}

static void pit_load(struct pit *s, unsigned i, u16 val)
{
    struct pit_channel *c = &s->r.ch[i];
    u32 n = val;

    if (c->bcd)
        n = (val >> 12) * 1000 + (val >> 8 & 15) * 100 + (val >> 4 & 15) * 10 + (val & 15);
    c->count = n ? n : c->bcd ? 10000 : 65536;
    c->loaded = 1;
    if (c->mode != 1 && c->mode != 5)
        pit_start(s, i);
}

/* --- ports ---------------------------------------------------------------------------------
 */

static void pit_latch_count(struct pit *s, struct pit_channel *c)
{
    if (c->latched)
        return; /* until it has been read */
    c->latch = ch_counter(c, vm_now(s->dev.vm));
    c->latched = c->rw == RW_BOTH ? 2 : 1;
    c->read_high = c->rw == RW_HIGH;
}

static void pit_latch_status(struct pit *s, struct pit_channel *c)
{
    if (c->status_latched)
        return;
    c->status = (ch_out(c, vm_now(s->dev.vm)) ? 0x80 : 0) | (c->loaded ? 0 : 0x40) |
                c->rw << 4 | c->mode << 1 | c->bcd;
    c->status_latched = 1;
}

static void pit_control(struct pit *s, u8 val)
{
    unsigned i = val >> 6, rw = val >> 4 & 3, mode = val >> 1 & 7;

    if (i == 3) { /* read-back */
        for (unsigned n = 0; n < CHANNELS; n++) {
            if (!(val & (2 << n)))
                continue;
            if (!(val & 0x20))
                pit_latch_count(s, &s->r.ch[n]);
            if (!(val & 0x10))
                pit_latch_status(s, &s->r.ch[n]);
        }
        return;
    }

    struct pit_channel *c = &s->r.ch[i];

    if (rw == RW_LATCH) {
        pit_latch_count(s, c);
        return;
    }
    c->rw = rw;
    c->mode = mode > 5 ? mode - 4 : mode;
    c->bcd = val & 1;
    c->loaded = c->counting = c->held = 0;
    c->write_high = c->read_high = rw == RW_HIGH;
    c->latched = c->status_latched = 0;
    if (i == 0) {
        s->r.late = 0;
        irq_set(s->dev.irq[0], false);
        pit_arm(s);
    }
}

static u64 pit_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct pit *s = pit_of(d);
    u16 val;

    if (off == CONTROL)
        return 0xff;

    struct pit_channel *c = &s->r.ch[off];

    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    val = c->latch;
    if (c->latched)
        c->latched--;
    else
        val = ch_counter(c, vm_now(d->vm));
    val = c->read_high ? val >> 8 : val & 0xff;
    if (c->rw == RW_BOTH)
        c->read_high ^= 1;
    return val;
}

static void pit_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct pit *s = pit_of(d);

    if (off == CONTROL) {
        pit_control(s, val);
        return;
    }

    struct pit_channel *c = &s->r.ch[off];

    switch (c->rw) {
    case RW_LOW:
        pit_load(s, off, val & 0xff);
        break;
    case RW_HIGH:
        pit_load(s, off, (val & 0xff) << 8);
        break;
    case RW_BOTH:
        if (!c->write_high) {
            c->write_low = val;
            if (c->mode == 0 && c->counting) { /* the first byte stops the count */
                c->counting = 0;
                if (off == 0)
                    pit_arm(s);
            }
        } else {
            pit_load(s, off, c->write_low | (val & 0xff) << 8);
        }
        c->write_high ^= 1;
        break;
    }
}

static void pit_gate2(struct pit *s, bool gate)
{
    struct pit_channel *c = &s->r.ch[2];
    u64 now = vm_now(s->dev.vm);

    if (gate == c->gate)
        return;
    c->gate = gate;
    switch (c->mode) {
    case 0:
    case 4:
        if (c->counting && c->held == gate) {
            c->start = now - MIN(c->start, now); /* time counted <-> when it began */
            c->held = !gate;
        }
        break;
    default:
        if (gate && c->loaded)
            pit_start(s, 2);
    }
}

/*
 * Linux measures the TSC by polling OUT2 in mode 0, and takes the measurement as disturbed when
 * one poll took ten times as long as another.  A port of ours answers so fast that the host's
 * own timer tick is enough for that; so here a poll takes as long as on a slow bus.
 */
static void pit_pace(struct pit *s)
{
    const struct pit_channel *c = &s->r.ch[2];
    u64 now = vm_now(s->dev.vm);

    if (c->mode != 0 || !c->counting || c->held || ch_out(c, now))
        return;
    for (unsigned n = 0; n < PACE_MAX && vm_now(s->dev.vm) < now + PACE_NS; n++)
        __builtin_ia32_pause();
}

static u64 pit_speaker_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    struct pit *s = pit_of(d);
    u64 now;

    pit_pace(s);
    now = vm_now(d->vm);

    /* The refresh request toggles every 15.085 us; programs wait by it. */
    return s->r.port61 | (now / 15085 & 1 ? P61_REFRESH : 0) |
           (ch_out(&s->r.ch[2], now) ? P61_OUT2 : 0);
}

static void pit_speaker_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    struct pit *s = pit_of(d);

    s->r.port61 = val & P61_SET;
    pit_gate2(s, val & P61_GATE2);
}

static void pit_reset(struct dev *d)
{
    struct pit *s = pit_of(d);

    s->r = (struct pit_regs){};
    for (unsigned i = 0; i < CHANNELS; i++)
        s->r.ch[i] =
            (struct pit_channel){ .count = 65536, .mode = 3, .rw = RW_BOTH, .gate = i != 2 };
    timer_cancel(&s->timer);
    irq_set(d->irq[0], false);
}

static void pit_loaded(struct dev *d)
{
    pit_arm(pit_of(d));
}

static bool pit_init(struct dev *d, GError **error UNUSED)
{
    timer_init(&pit_of(d)->timer, d, pit_fire);
    return true;
}

static const struct region pit_ports = {
    .name = "pit",
    .len = 4,
    .min = 1,
    .max = 1,
    .read = pit_read,
    .write = pit_write,
};
static const struct region pit_speaker = {
    .name = "speaker",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = pit_speaker_read,
    .write = pit_speaker_write,
};

const struct dev_type pit_type = {
    .name = "isa-pit",
    .desc = "8254 interval timer",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct pit),
    .io = { &pit_ports, &pit_speaker },
    .irqs = 1,
    .state = STATE_TABLE(struct pit, r, pit_fields),
    .init = pit_init,
    .reset = pit_reset,
    .loaded = pit_loaded,
};
