// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rtc.c - MC146818A real-time clock and the PC's CMOS RAM.
 * Motorola MC146818A data sheet; register names are the sheet's.
 *
 * Seconds are never counted: the guest's time is the host's wall clock plus an offset, which
 * changes when the guest sets the date.  So it goes on while the guest is stopped, as a battery
 * would have it.  Flags of register C that no interrupt is asked for are computed when it is
 * read; timers run only for interrupts.
 *
 * Not modelled: square-wave output, daylight saving, time bases other than 32 kHz.
 */
#include "vmm/dev/pc/rtc.h"

#include <string.h>

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32,
    CMOS = 128,
};
enum { A_UIP = 0x80, A_RATE = 0x0f };
enum {
    B_SET = 0x80,
    B_PIE = 0x40,
    B_AIE = 0x20,
    B_UIE = 0x10,
    B_SQWE = 0x08,
    B_BINARY = 0x04,
    B_24H = 0x02
};
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10 };
enum { D_VRT = 0x80, PM = 0x80, ALARM_ANY = 0xc0 };
#define UIP_NS 244000ull

struct rtc {
    struct dev dev;
    struct timer second, periodic;
    struct rtc_regs {
        u64 offset;    /* nanoseconds from the host's wall clock to the guest's; wraps */
        u64 seen_sec;  /* guest second when register C was last read or the second timer ran */
        u64 seen_tick; /* the same in periods of the periodic rate */
        u8 index;
        u8 flags; /* register C without IRQF */
        u8 zero[6];
        u8 cmos[CMOS]; /* clock registers are valid while B_SET only */
    } r;
};

static const struct state_field rtc_fields[] = {
    STATE_INT(struct rtc_regs, offset),
    STATE_INT(struct rtc_regs, seen_sec),
    STATE_INT(struct rtc_regs, seen_tick),
    STATE_UINT(struct rtc_regs, index, CMOS - 1),
    STATE_UINT(struct rtc_regs, flags, C_PF | C_AF | C_UF),
    STATE_PAD(struct rtc_regs, zero),
    STATE_BYTES(struct rtc_regs, cmos),
};

static struct rtc *rtc_of(struct dev *d)
{
    return container_of(d, struct rtc, dev);
}

/* --- the calendar ---------------------------------------------------------------------------
 */

static u8 rtc_encode(const struct rtc *s, unsigned val)
{
    return s->r.cmos[REG_B] & B_BINARY ? val : val / 10 << 4 | val % 10;
}

static unsigned rtc_decode(const struct rtc *s, u8 val)
{
    return s->r.cmos[REG_B] & B_BINARY ? val : (val >> 4) * 10 + (val & 15);
}

static u8 rtc_encode_hour(const struct rtc *s, unsigned h)
{
    if (s->r.cmos[REG_B] & B_24H)
        return rtc_encode(s, h);
    return rtc_encode(s, h % 12 ? h % 12 : 12) | (h >= 12 ? PM : 0);
}

static unsigned rtc_decode_hour(const struct rtc *s, u8 val)
{
    if (s->r.cmos[REG_B] & B_24H)
        return rtc_decode(s, val);
    return rtc_decode(s, val & ~PM) % 12 + (val & PM ? 12 : 0);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar, and back. March starts the year.
 */
static s64 days_of(s64 y, unsigned m, unsigned d)
{
    y -= m <= 2;
    s64 era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = y - era * 400, doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;

    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void date_of(s64 days, s64 *y, unsigned *m, unsigned *d)
{
    days += 719468;
    s64 era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned doe = days - era * 146097;
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;

    *d = doy - (153 * mp + 2) / 5 + 1;
    *m = mp < 10 ? mp + 3 : mp - 9;
    *y = yoe + era * 400 + (*m <= 2);
}

static u64 rtc_now(const struct rtc *s)
{
    return vm_wall_ns(s->dev.vm) + s->r.offset;
}

static bool rtc_running(const struct rtc *s)
{
    return !(s->r.cmos[REG_B] & B_SET);
}

/* The clock registers for a second since 1970. */
static void rtc_show(struct rtc *s, u64 sec)
{
    u8 *c = s->r.cmos;
    unsigned m, d;
    s64 y;

    date_of(sec / 86400, &y, &m, &d);
    c[SECONDS] = rtc_encode(s, sec % 60);
    c[MINUTES] = rtc_encode(s, sec / 60 % 60);
    c[HOURS] = rtc_encode_hour(s, sec / 3600 % 24);
    c[WEEKDAY] = rtc_encode(s, (sec / 86400 + 4) % 7 + 1); /* 1 is Sunday */
    c[DAY] = rtc_encode(s, d);
    c[MONTH] = rtc_encode(s, m);
    c[YEAR] = rtc_encode(s, y % 100);
    c[CENTURY] = rtc_encode(s, y / 100 % 100);
}

/* Takes the clock registers as the time from now on. Nonsense is brought into range. */
static void rtc_take(struct rtc *s, u64 fraction)
{
    const u8 *c = s->r.cmos;
    unsigned m = CLAMP(rtc_decode(s, c[MONTH]), 1, 12), d = CLAMP(rtc_decode(s, c[DAY]), 1, 31);
    s64 y = rtc_decode(s, c[CENTURY]) % 100 * 100 + rtc_decode(s, c[YEAR]) % 100;
    s64 days = days_of(MAX(y, 1970), m, d);
    u64 sec = days * 86400 + rtc_decode_hour(s, c[HOURS]) % 24 * 3600 +
              rtc_decode(s, c[MINUTES]) % 60 * 60 + rtc_decode(s, c[SECONDS]) % 60;

    s->r.offset = sec * NS_PER_SEC + fraction - vm_wall_ns(s->dev.vm);
    s->r.seen_sec = sec;
}

static bool rtc_is_clock(unsigned i)
{
    return i <= YEAR || i == CENTURY;
}

static bool rtc_is_alarm(unsigned i)
{
    return i == SECONDS_ALARM || i == MINUTES_ALARM || i == HOURS_ALARM;
}

/* --- interrupts -----------------------------------------------------------------------------
 */

static void rtc_update_irq(struct rtc *s)
{
    irq_set(s->dev.irq[0], s->r.flags & s->r.cmos[REG_B] & (C_PF | C_AF | C_UF));
}

/* Nanoseconds of the periodic rate, 0: off. At most 8192 Hz, as rates 1 and 2 are slow. */
static u64 rtc_period(const struct rtc *s)
{
    unsigned rate = s->r.cmos[REG_A] & A_RATE;

    if (rate == 0)
        return 0;
    return (NS_PER_SEC << (rate <= 2 ? rate + 6 : rate - 1)) / 32768;
}

static u64 rtc_tick(const struct rtc *s)
{
    return rtc_period(s) ? vm_now(s->dev.vm) / rtc_period(s) : 0;
}

static void rtc_arm(struct rtc *s)
{
    u8 b = s->r.cmos[REG_B];
    u64 now = vm_now(s->dev.vm), period = rtc_period(s);

    if (rtc_running(s) && b & (B_AIE | B_UIE))
        timer_set(&s->second, now + NS_PER_SEC - rtc_now(s) % NS_PER_SEC);
    else
        timer_cancel(&s->second);
    if (period && b & B_PIE)
        timer_set(&s->periodic, (now / period + 1) * period);
    else
        timer_cancel(&s->periodic);
}

static bool rtc_alarm_field(u8 want, u8 is)
{
    return (want & ALARM_ANY) == ALARM_ANY || want == is;
}

/* Brings the flags up to date with the second that is now. */
static void rtc_look(struct rtc *s)
{
    u64 sec = rtc_now(s) / NS_PER_SEC, tick = rtc_tick(s);
    u8 *c = s->r.cmos;

    if (tick != s->r.seen_tick) {
        s->r.flags |= rtc_period(s) ? C_PF : 0;
        s->r.seen_tick = tick;
    }
    if (!rtc_running(s) || sec == s->r.seen_sec)
        return;
    /* An alarm that fell into seconds which nobody saw is found if they are few. */
    for (u64 t = sec - MIN(sec - s->r.seen_sec - 1, 2); t <= sec; t++) {
        rtc_show(s, t);
        if (rtc_alarm_field(c[SECONDS_ALARM], c[SECONDS]) &&
            rtc_alarm_field(c[MINUTES_ALARM], c[MINUTES]) &&
            rtc_alarm_field(c[HOURS_ALARM], c[HOURS]))
            s->r.flags |= C_AF;
    }
    s->r.flags |= C_UF;
    s->r.seen_sec = sec;
}

static void rtc_fire(struct dev *d, struct timer *t UNUSED)
{
    struct rtc *s = rtc_of(d);

    rtc_look(s);
    rtc_update_irq(s);
    rtc_arm(s);
}

/* --- ports ----------------------------------------------------------------------------------
 */

static u8 rtc_read_reg(struct rtc *s, unsigned i)
{
    u8 val;

    switch (i) {
    case REG_A:
        val = s->r.cmos[REG_A] & ~A_UIP;
        if (rtc_running(s) && rtc_now(s) % NS_PER_SEC >= NS_PER_SEC - UIP_NS)
            val |= A_UIP;
        return val;
    case REG_C: /* reading acknowledges */
        rtc_look(s);
        val = s->r.flags;
        if (val & s->r.cmos[REG_B] & (C_PF | C_AF | C_UF))
            val |= C_IRQF;
        s->r.flags = 0;
        rtc_update_irq(s);
        return val;
    case REG_D:
        return D_VRT;
    }
    if (rtc_is_clock(i) && !rtc_is_alarm(i) && rtc_running(s))
        rtc_show(s, rtc_now(s) / NS_PER_SEC);
    return s->r.cmos[i];
}

static void rtc_write_b(struct rtc *s, u8 val)
{
    bool ran = rtc_running(s);

    rtc_look(s);
    if (ran && val & B_SET) {
        rtc_show(s, rtc_now(s) / NS_PER_SEC);
        val &= ~B_UIE; /* the data sheet: SET clears UIE */
    }
    if (!ran && !(val & B_SET)) {
        /* In the format that comes into force with this write. */
        u8 format = (s->r.cmos[REG_B] & ~(B_BINARY | B_24H)) | (val & (B_BINARY | B_24H));

        s->r.cmos[REG_B] = format;
        rtc_take(s, 0);
    }
    s->r.cmos[REG_B] = val;
    rtc_arm(s);
    rtc_update_irq(s);
}

static void rtc_write_reg(struct rtc *s, unsigned i, u8 val)
{
    switch (i) {
    case REG_A:
        rtc_look(s);
        s->r.cmos[REG_A] = val & ~A_UIP;
        s->r.seen_tick = rtc_tick(s);
        rtc_arm(s);
        return;
    case REG_B:
        rtc_write_b(s, val);
        return;
    case REG_C:
    case REG_D:
        return;
    }
    if (rtc_is_clock(i) && !rtc_is_alarm(i) && rtc_running(s)) {
        u64 now = rtc_now(s);

        rtc_show(s, now / NS_PER_SEC);
        s->r.cmos[i] = val;
        rtc_take(s, now % NS_PER_SEC);
        rtc_arm(s);
        return;
    }
    s->r.cmos[i] = val;
}

static u64 rtc_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct rtc *s = rtc_of(d);

    return off == 0 ? 0xff : rtc_read_reg(s, s->r.index); /* the index port is write-only */
}

static void rtc_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct rtc *s = rtc_of(d);

    if (off == 0)
        s->r.index = val & (CMOS - 1); /* bit 7 masks NMI, which nobody raises */
    else
        rtc_write_reg(s, s->r.index, val);
}

void rtc_set_cmos(struct dev *d, u8 index, u8 val)
{
    dev_lock(d);
    if (index > REG_D && index < CMOS && index != CENTURY)
        rtc_of(d)->r.cmos[index] = val;
    dev_unlock(d);
}

void rtc_set_time(struct dev *d, u64 seconds)
{
    struct rtc *s = rtc_of(d);

    dev_lock(d);
    s->r.offset = seconds * NS_PER_SEC - vm_wall_ns(d->vm);
    s->r.seen_sec = seconds;
    rtc_arm(s);
    dev_unlock(d);
}

u8 rtc_get_cmos(struct dev *d, u8 index)
{
    dev_lock(d);
    u8 val = rtc_of(d)->r.cmos[index & (CMOS - 1)];

    dev_unlock(d);
    return val;
}

/* The chip has a battery: a reset only stops its interrupts. */
static void rtc_reset(struct dev *d)
{
    struct rtc *s = rtc_of(d);

    s->r.cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    if (!rtc_running(s))
        rtc_write_b(s, s->r.cmos[REG_B] & ~B_SET);
    s->r.flags = 0;
    rtc_arm(s);
    rtc_update_irq(s);
}

static void rtc_loaded(struct dev *d)
{
    rtc_arm(rtc_of(d));
    rtc_update_irq(rtc_of(d));
}

static bool rtc_init(struct dev *d, GError **error UNUSED)
{
    struct rtc *s = rtc_of(d);

    timer_init(&s->second, d, rtc_fire);
    timer_init(&s->periodic, d, rtc_fire);
    s->r.cmos[REG_A] = 0x26; /* 32 kHz, 1024 Hz */
    s->r.cmos[REG_B] = B_24H;
    s->r.seen_sec = rtc_now(s) / NS_PER_SEC;
    s->r.seen_tick = rtc_tick(s);
    return true;
}

static const struct region rtc_ports = {
    .name = "rtc",
    .len = 2,
    .min = 1,
    .max = 1,
    .read = rtc_read,
    .write = rtc_write,
};

const struct dev_type rtc_type = {
    .name = "mc146818rtc",
    .desc = "real-time clock and CMOS RAM",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct rtc),
    .io = { &rtc_ports },
    .irqs = 1,
    .state = STATE_TABLE(struct rtc, r, rtc_fields),
    .init = rtc_init,
    .reset = rtc_reset,
    .loaded = rtc_loaded,
};
