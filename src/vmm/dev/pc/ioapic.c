// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ioapic.c - I/O APIC: routes 24 inputs to LAPICs as messages.
 * Intel 82093AA data sheet (290566); the EOI register is that of the ICH's version 0x20.
 *
 * An edge at a masked input is lost, as the data sheet says.  A level-triggered input asks
 * again at its EOI while it stays high.  Messages go out through vm_msi().
 *
 * Not modelled: polarity (lines say "asserted", so the bit is only kept), the delivery status
 * bit (always idle), ExtINT.
 */
#include "vmm/dev/pc/ioapic.h"

#include "vmm/dev/pc/lapic.h"

enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { IOAPIC_ID, IOAPIC_VER, IOAPIC_ARB, IOAPIC_REDTBL = 0x10 };
enum { VERSION = 0x20 };

#define RED_VECTOR     0xffull
#define RED_LOGICAL    BIT(11)
#define RED_REMOTE_IRR BIT(14)
#define RED_LEVEL      BIT(15)
#define RED_MASKED     BIT(16)
/* Delivery status (12) and remote IRR are read-only. */
#define RED_SETTABLE (0xff0000000001afffull & ~BIT(12))

struct ioapic {
    struct dev dev;
    u8 conf_id;
    struct ioapic_regs {
        u64 red[IOAPIC_PINS];
        u32 lines; /* levels at the inputs */
        u8 select, id;
        u8 zero[2];
    } r;
};

static const struct state_field ioapic_fields[] = {
    STATE_UINTS(struct ioapic_regs, red, UINT64_MAX),
    STATE_UINT(struct ioapic_regs, lines, BIT(IOAPIC_PINS) - 1),
    STATE_INT(struct ioapic_regs, select),
    STATE_UINT(struct ioapic_regs, id, 15),
    STATE_PAD(struct ioapic_regs, zero),
};

static struct ioapic *ioapic_of(struct dev *d)
{
    return container_of(d, struct ioapic, dev);
}

static void ioapic_send(struct ioapic *s, unsigned pin)
{
    u64 red = s->r.red[pin];
    u64 addr = LAPIC_PAGE | (red >> 56) << 12 | (red & RED_LOGICAL ? 1 << 2 : 0);
    u32 data = (red & 0x7ff) | 1 << 14 | (red & RED_LEVEL ? 1 << 15 : 0);

    if (red & RED_LEVEL)
        s->r.red[pin] |= RED_REMOTE_IRR;
    vm_msi(s->dev.vm, addr, data);
}

/* A level-triggered input that is high, open and not in service asks. */
static void ioapic_level(struct ioapic *s, unsigned pin)
{
    if ((s->r.red[pin] & (RED_LEVEL | RED_MASKED | RED_REMOTE_IRR)) == RED_LEVEL &&
        s->r.lines >> pin & 1)
        ioapic_send(s, pin);
}

static void ioapic_irq_in(struct dev *d, unsigned pin, bool level)
{
    struct ioapic *s = ioapic_of(d);
    bool rose;

    if (pin >= IOAPIC_PINS)
        return;
    rose = level && !(s->r.lines >> pin & 1);
    s->r.lines = level ? s->r.lines | 1u << pin : s->r.lines & ~(1u << pin);
    if (s->r.red[pin] & RED_LEVEL)
        ioapic_level(s, pin);
    else if (rose && !(s->r.red[pin] & RED_MASKED))
        ioapic_send(s, pin);
}

/* REQUIRES(dev->lock) */
static void ioapic_end(struct ioapic *s, u8 vector)
{
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        if ((s->r.red[i] & RED_VECTOR) != vector || !(s->r.red[i] & RED_REMOTE_IRR))
            continue;
        s->r.red[i] &= ~RED_REMOTE_IRR;
        ioapic_level(s, i);
    }
}

void ioapic_eoi(struct dev *d, u8 vector)
{
    dev_lock(d);
    ioapic_end(ioapic_of(d), vector);
    dev_unlock(d);
}

static u64 ioapic_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct ioapic *s = ioapic_of(d);
    unsigned sel = s->r.select;

    if (off == IOREGSEL)
        return sel;
    if (off != IOWIN)
        return 0;
    switch (sel) {
    case IOAPIC_ID:
    case IOAPIC_ARB:
        return (u32)s->r.id << 24;
    case IOAPIC_VER:
        return VERSION | (IOAPIC_PINS - 1) << 16;
    }
    if (sel < IOAPIC_REDTBL || sel >= IOAPIC_REDTBL + 2 * IOAPIC_PINS)
        return 0;
    return (u32)(s->r.red[(sel - IOAPIC_REDTBL) / 2] >> (sel & 1 ? 32 : 0));
}

static void ioapic_write_red(struct ioapic *s, unsigned pin, bool high, u32 val)
{
    u64 red = s->r.red[pin];

    red = high ? (red & UINT32_MAX) | (u64)val << 32 : (red & ~(u64)UINT32_MAX) | val;
    red = (red & RED_SETTABLE) | (s->r.red[pin] & RED_REMOTE_IRR);
    /* Systems without the EOI register switch to edge and back to end an interrupt. */
    if (!(red & RED_LEVEL))
        red &= ~RED_REMOTE_IRR;
    s->r.red[pin] = red;
    ioapic_level(s, pin);
}

static void ioapic_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct ioapic *s = ioapic_of(d);
    unsigned sel = s->r.select;

    switch (off) {
    case IOREGSEL:
        s->r.select = val;
        break;
    case IOEOI:
        ioapic_end(s, val);
        break;
    case IOWIN:
        if (sel == IOAPIC_ID)
            s->r.id = val >> 24 & 15;
        else if (sel >= IOAPIC_REDTBL && sel < IOAPIC_REDTBL + 2 * IOAPIC_PINS)
            ioapic_write_red(s, (sel - IOAPIC_REDTBL) / 2, sel & 1, val);
        break;
    }
}

static void ioapic_reset(struct dev *d)
{
    struct ioapic *s = ioapic_of(d);

    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        s->r.red[i] = RED_MASKED;
    s->r.select = 0;
    s->r.id = s->conf_id;
}

static const struct prop ioapic_props[] = {
    PROP(struct ioapic, conf_id, PROP_U8, .name = "id", .def = "0", .max = 15),
    {},
};

static const struct region ioapic_region = {
    .name = "ioapic",
    .len = 0x1000,
    .min = 4,
    .max = 4,
    .read = ioapic_read,
    .write = ioapic_write,
};

const struct dev_type ioapic_type = {
    .name = "ioapic",
    .desc = "82093AA I/O APIC",
    .kind = DEV_SYSBUS,
    .rank = DEV_RANK_INTC,
    .size = sizeof(struct ioapic),
    .mem = { &ioapic_region },
    .irq_in = ioapic_irq_in,
    .props = ioapic_props,
    .state = STATE_TABLE(struct ioapic, r, ioapic_fields),
    .reset = ioapic_reset,
};
