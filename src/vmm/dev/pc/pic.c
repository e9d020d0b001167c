// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pic.c - two cascaded 8259A programmable interrupt controllers with the edge/level registers.
 * Intel 8259A data sheet (231468); ELCR as in the 82371SB (PIIX3), section 2.5.
 *
 *   IRQ0,1,3..7 --> master IR0.. --> INTR
 *   IRQ8..15    --> slave --> master IR2
 *
 * An edge-triggered request is latched while its input stays high.  INTR falls with it, and an
 * acknowledge without INTR gives no vector, so the spurious IRQ7 of a slow bus does not appear,
 * except in a poll.
 *
 * Not modelled: 8080 mode (CALL vectors), buffered mode, more than one slave.
 */
#include "vmm/dev/pc/pic.h"

#include <stdatomic.h>

enum { CASCADE = 2, SPURIOUS = 7 };
enum { ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_LTIM = 0x08, ICW1_INIT = 0x10 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum {
    OCW3 = 0x08,
    OCW3_RIS = 0x01,
    OCW3_RR = 0x02,
    OCW3_POLL = 0x04,
    OCW3_SMM = 0x20,
    OCW3_ESMM = 0x40
};

struct pic_chip {
    u8 lines; /* levels at the inputs */
    u8 irr, imr, isr;
    u8 elcr;     /* 1: level-triggered */
    u8 base;     /* ICW2: vectors base..base+7 */
    u8 icw_next; /* 0: ready; 2, 3, 4: that ICW comes next */
    u8 lowest;   /* priority order starts behind this input; 7 after reset */
    bool icw4, single, ltim;
    bool aeoi, sfnm, rotate_aeoi;
    bool special_mask, poll, read_isr;
    u8 icw3;
};

struct pic {
    struct dev dev;
    struct pic_regs {
        struct pic_chip chip[2]; /* master, slave */
    } r;
    _Atomic bool intr; /* derived: what the INTR output is */
};

static const struct state_field pic_chip_fields[] = {
    STATE_INT(struct pic_chip, lines),         STATE_INT(struct pic_chip, irr),
    STATE_INT(struct pic_chip, imr),           STATE_INT(struct pic_chip, isr),
    STATE_INT(struct pic_chip, elcr),          STATE_INT(struct pic_chip, base),
    STATE_UINT(struct pic_chip, icw_next, 4),  STATE_UINT(struct pic_chip, lowest, 7),
    STATE_BOOL(struct pic_chip, icw4),         STATE_BOOL(struct pic_chip, single),
    STATE_BOOL(struct pic_chip, ltim),         STATE_BOOL(struct pic_chip, aeoi),
    STATE_BOOL(struct pic_chip, sfnm),         STATE_BOOL(struct pic_chip, rotate_aeoi),
    STATE_BOOL(struct pic_chip, special_mask), STATE_BOOL(struct pic_chip, poll),
    STATE_BOOL(struct pic_chip, read_isr),     STATE_INT(struct pic_chip, icw3),
};
static const struct state_field pic_fields[] = {
    STATE_STRUCTS(struct pic_regs, chip, pic_chip_fields),
};

static struct pic *pic_of(struct dev *d)
{
    return container_of(d, struct pic, dev);
}

static bool pic_is_master(const struct pic *s, const struct pic_chip *c)
{
    return c == &s->r.chip[0];
}

/* Distance of the most urgent set bit behind `lowest` (0 is most urgent), or 8 for none. */
static unsigned pic_order(const struct pic_chip *c, u8 bits)
{
    for (unsigned i = 0; i < 8; i++)
        if (bits & (1 << ((c->lowest + 1 + i) & 7)))
            return i;
    return 8;
}

/* The input that the chip would ask for, or -1. */
static int pic_wanted(const struct pic *s, const struct pic_chip *c)
{
    unsigned req = pic_order(c, c->irr & ~c->imr);
    u8 isr = c->isr;

    if (req == 8)
        return -1;
    if (c->special_mask)
        isr &= ~c->imr; /* a masked level in service blocks nobody */
    /* Special fully nested mode: the cascade in service does not block another of its slave. */
    if (c->sfnm && pic_is_master(s, c))
        isr &= ~(1 << CASCADE);
    if (req >= pic_order(c, isr))
        return -1;
    return (c->lowest + 1 + req) & 7;
}

/*
 * Recomputes the slave's request, then INTR.  The cascade is treated as a level: the slave's
 * INT output falls at its INTA and rises for the next request, so both come to the same.
 */
static void pic_update(struct pic *s)
{
    struct pic_chip *m = &s->r.chip[0];
    u8 slave = pic_wanted(s, &s->r.chip[1]) >= 0 && !m->single ? 1 << CASCADE : 0;

    m->lines = (m->lines & ~(1 << CASCADE)) | slave;
    m->irr = (m->irr & ~(1 << CASCADE)) | slave;

    bool intr = pic_wanted(s, m) >= 0;

    if (intr != atomic_load_explicit(&s->intr, memory_order_relaxed)) {
        atomic_store_explicit(&s->intr, intr, memory_order_release);
        irq_set(s->dev.irq[0], intr);
    }
}

static void pic_irq_in(struct dev *d, unsigned pin, bool level)
{
    struct pic *s = pic_of(d);

    if (pin > 15 || pin == CASCADE)
        return;

    struct pic_chip *c = &s->r.chip[pin >> 3];
    u8 bit = 1 << (pin & 7);

    if (level) {
        if (!(c->lines & bit) || c->ltim || c->elcr & bit)
            c->irr |= bit;
        c->lines |= bit;
    } else {
        c->lines &= ~bit;
        c->irr &= ~bit; /* the latch holds only while the input is high */
    }
    pic_update(s);
}

/* One INTA at one chip: its input number, 7 when the request is gone. */
static unsigned pic_take(struct pic *s, struct pic_chip *c)
{
    int n = pic_wanted(s, c);

    if (n < 0)
        return SPURIOUS;
    if (!(c->ltim || c->elcr & (1 << n)))
        c->irr &= ~(1 << n); /* level requests stay while the line is high */
    if (!c->aeoi)
        c->isr |= 1 << n;
    else if (c->rotate_aeoi)
        c->lowest = n;
    return n;
}

bool pic_pending(struct dev *d)
{
    return atomic_load_explicit(&pic_of(d)->intr, memory_order_acquire);
}

int pic_ack(struct dev *d)
{
    struct pic *s = pic_of(d);
    int vector = -1;

    dev_lock(d);
    if (pic_pending(d)) {
        unsigned n = pic_take(s, &s->r.chip[0]);

        vector = s->r.chip[0].base + n;
        if (n == CASCADE)
            vector = s->r.chip[1].base + pic_take(s, &s->r.chip[1]);
        pic_update(s);
    }
    dev_unlock(d);
    return vector;
}

static void pic_command(struct pic_chip *c, u8 val)
{
    if (val & ICW1_INIT) {
        c->imr = c->isr = 0;
        /* Edge latches are cleared; an input that is high has to fall and rise again. */
        c->irr = val & ICW1_LTIM ? c->lines : c->lines & c->elcr;
        c->lowest = 7;
        c->special_mask = c->poll = c->read_isr = false;
        c->aeoi = c->sfnm = c->rotate_aeoi = false;
        c->icw4 = val & ICW1_IC4;
        c->single = val & ICW1_SNGL;
        c->ltim = val & ICW1_LTIM;
        c->icw_next = 2;
    } else if (val & OCW3) {
        if (val & OCW3_POLL)
            c->poll = true;
        if (val & OCW3_RR)
            c->read_isr = val & OCW3_RIS;
        if (val & OCW3_ESMM)
            c->special_mask = val & OCW3_SMM;
    } else {
        unsigned level = val & 7;
        unsigned order = pic_order(c, c->special_mask ? c->isr & ~c->imr : c->isr);
        unsigned top = (c->lowest + 1 + order) & 7;

        switch (val >> 5) {
        case 0: /* rotate in automatic EOI mode: clear, set */
        case 4:
            c->rotate_aeoi = val >> 7;
            break;
        case 1: /* non-specific EOI, without and with rotation */
        case 5:
            if (order < 8) {
                c->isr &= ~(1 << top);
                if (val >> 7)
                    c->lowest = top;
            }
            break;
        case 3: /* specific EOI */
        case 7:
            c->isr &= ~(1 << level);
            if (val >> 7)
                c->lowest = level;
            break;
        case 6: /* set priority */
            c->lowest = level;
            break;
        }
    }
}

static void pic_data(struct pic_chip *c, u8 val)
{
    switch (c->icw_next) {
    case 2:
        c->base = val & 0xf8;
        c->icw_next = !c->single ? 3 : c->icw4 ? 4 : 0;
        break;
    case 3:
        c->icw3 = val;
        c->icw_next = c->icw4 ? 4 : 0;
        break;
    case 4:
        c->aeoi = val & ICW4_AEOI;
        c->sfnm = val & ICW4_SFNM;
        c->icw_next = 0;
        break;
    default:
        c->imr = val;
    }
}

static void pic_write(struct pic *s, struct pic_chip *c, u64 off, u8 val)
{
    if (off == 0)
        pic_command(c, val);
    else
        pic_data(c, val);
    pic_update(s);
}

static u8 pic_read(struct pic *s, struct pic_chip *c, u64 off)
{
    if (c->poll) { /* any read after the poll command acts as INTA */
        u8 val = 0;

        c->poll = false;
        if (pic_wanted(s, c) >= 0)
            val = 0x80 | pic_take(s, c);
        pic_update(s);
        return val;
    }
    if (off == 1)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static u64 pic_read0(struct dev *d, u64 off, unsigned size UNUSED)
{
    return pic_read(pic_of(d), &pic_of(d)->r.chip[0], off);
}
static u64 pic_read1(struct dev *d, u64 off, unsigned size UNUSED)
{
    return pic_read(pic_of(d), &pic_of(d)->r.chip[1], off);
}
static void pic_write0(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    pic_write(pic_of(d), &pic_of(d)->r.chip[0], off, val);
}
static void pic_write1(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    pic_write(pic_of(d), &pic_of(d)->r.chip[1], off, val);
}

static u64 pic_elcr_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    return pic_of(d)->r.chip[off & 1].elcr;
}

static void pic_elcr_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct pic *s = pic_of(d);

    /* IRQ 0, 1, 2, 8 and 13 are always edge-triggered. */
    s->r.chip[off & 1].elcr = val & (off & 1 ? 0xde : 0xf8);
    pic_update(s);
}

static void pic_reset(struct dev *d)
{
    struct pic *s = pic_of(d);

    for (unsigned i = 0; i < 2; i++) {
        struct pic_chip *c = &s->r.chip[i];

        *c = (struct pic_chip){ .lines = c->lines, .lowest = 7, .base = i == 0 ? 0x08 : 0x70 };
    }
    pic_update(s);
}

static void pic_loaded(struct dev *d)
{
    struct pic *s = pic_of(d);
    bool intr = pic_wanted(s, &s->r.chip[0]) >= 0;

    atomic_store(&s->intr, intr);
    irq_set(d->irq[0], intr);
}

static const struct region pic_master = {
    .name = "pic-master",
    .len = 2,
    .min = 1,
    .max = 1,
    .read = pic_read0,
    .write = pic_write0,
};
static const struct region pic_slave = {
    .name = "pic-slave",
    .len = 2,
    .min = 1,
    .max = 1,
    .read = pic_read1,
    .write = pic_write1,
};
static const struct region pic_elcr = {
    .name = "elcr",
    .len = 2,
    .min = 1,
    .max = 1,
    .read = pic_elcr_read,
    .write = pic_elcr_write,
};

const struct dev_type pic_type = {
    .name = "isa-i8259",
    .desc = "pair of 8259A interrupt controllers",
    .kind = DEV_SYSBUS,
    .rank = DEV_RANK_INTC,
    .size = sizeof(struct pic),
    .io = { &pic_master, &pic_slave, &pic_elcr },
    .irqs = 1,
    .irq_in = pic_irq_in,
    .state = STATE_TABLE(struct pic, r, pic_fields),
    .reset = pic_reset,
    .loaded = pic_loaded,
};
