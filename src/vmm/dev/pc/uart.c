// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * uart.c - 16550A asynchronous receiver and transmitter.
 * National Semiconductor PC16550D data sheet; register names are the sheet's.
 *
 * Sending takes no time: a byte goes to the chardev as it is written and the transmitter is
 * empty again, so a polling driver never waits, unless the host side does not take it; then
 * bytes gather in the transmit FIFO and go out when the chardev says that it is writable.  What
 * arrives is taken only as the FIFO has room, so it never overruns.  Only the character timeout
 * depends on the divisor.  As on a PC, OUT2 gates the interrupt.
 *
 * Not modelled: DMA signalling, parity and framing errors, baud rates towards the host.
 */
#include "vmm/dev/pc/uart.h"

#include <string.h>

#include "base/error.h"
#include "vmm/backend/chardev.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, PORTS };
enum { IER_RX = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum {
    IIR_MODEM = 0x0,
    IIR_NONE = 0x1,
    IIR_THRE = 0x2,
    IIR_RX = 0x4,
    IIR_LINE = 0x6,
    IIR_TIMEOUT = 0xc,
    IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_DMA = 8, FCR_TRIGGER = 0xc0 };
enum { LCR_STOP = 0x04, LCR_PARITY = 0x08, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16 };
enum {
    LSR_DR = 1,
    LSR_OE = 2,
    LSR_PE = 4,
    LSR_FE = 8,
    LSR_BI = 16,
    LSR_THRE = 32,
    LSR_TEMT = 64
};
enum {
    MSR_DELTA = 0x0f,
    MSR_TERI = 0x04,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};
enum { FIFO = 16, CLOCK_HZ = 1843200 };

struct uart {
    struct dev dev;
    struct chardev *chardev;
    u32 iobase, irq;
    struct timer timeout;
    struct uart_regs {
        u16 divisor;
        u8 ier, fcr, lcr, mcr, lsr, msr, scr;
        u8 thre_pending;    /* THRE interrupt is waiting to be read or served */
        u8 timeout_pending; /* character timeout */
        u8 rx_n, tx_n;
        u8 rx[FIFO], tx[FIFO];
        u8 zero[1];
    } r;
};

static const struct state_field uart_fields[] = {
    STATE_INT(struct uart_regs, divisor),
    STATE_UINT(struct uart_regs, ier, 0x0f),
    STATE_INT(struct uart_regs, fcr),
    STATE_INT(struct uart_regs, lcr),
    STATE_UINT(struct uart_regs, mcr, 0x1f),
    STATE_UINT(struct uart_regs, lsr, 0x7f),
    STATE_INT(struct uart_regs, msr),
    STATE_INT(struct uart_regs, scr),
    STATE_UINT(struct uart_regs, thre_pending, 1),
    STATE_UINT(struct uart_regs, timeout_pending, 1),
    STATE_UINT(struct uart_regs, rx_n, FIFO),
    STATE_UINT(struct uart_regs, tx_n, FIFO),
    STATE_BYTES(struct uart_regs, rx),
    STATE_BYTES(struct uart_regs, tx),
    STATE_PAD(struct uart_regs, zero),
};

static struct uart *uart_of(struct dev *d)
{
    return container_of(d, struct uart, dev);
}

static bool uart_fifo(const struct uart *s)
{
    return s->r.fcr & FCR_ENABLE;
}

static unsigned uart_room(const struct uart *s)
{
    return uart_fifo(s) ? FIFO : 1;
}

static unsigned uart_trigger(const struct uart *s)
{
    return uart_fifo(s) ? (const u8[]){ 1, 4, 8, 14 }[s->r.fcr >> 6] : 1;
}

/* The most urgent interrupt, as IIR shows it. */
static u8 uart_iir(const struct uart *s)
{
    const struct uart_regs *r = &s->r;

    if (r->ier & IER_LINE && r->lsr & (LSR_OE | LSR_PE | LSR_FE | LSR_BI))
        return IIR_LINE;
    if (r->ier & IER_RX && r->rx_n >= uart_trigger(s))
        return IIR_RX;
    if (r->ier & IER_RX && r->timeout_pending)
        return IIR_TIMEOUT;
    if (r->ier & IER_THRE && r->thre_pending)
        return IIR_THRE;
    if (r->ier & IER_MODEM && r->msr & MSR_DELTA)
        return IIR_MODEM;
    return IIR_NONE;
}

static void uart_update(struct uart *s)
{
    irq_set(s->dev.irq[0], uart_iir(s) != IIR_NONE && s->r.mcr & MCR_OUT2);
}

/* Four characters of silence with something in the FIFO. */
static u64 uart_timeout_ns(const struct uart *s)
{
    unsigned bits =
        2 + 5 + (s->r.lcr & 3) + !!(s->r.lcr & LCR_STOP) + !!(s->r.lcr & LCR_PARITY);
    u64 ns = 4ull * bits * 16 * MAX(s->r.divisor, 1) * NS_PER_SEC / CLOCK_HZ;

    return CLAMP(ns, 100 * NS_PER_US, NS_PER_SEC);
}

static void uart_timeout_arm(struct uart *s)
{
    if (uart_fifo(s) && s->r.rx_n)
        timer_set(&s->timeout, vm_now(s->dev.vm) + uart_timeout_ns(s));
    else
        timer_cancel(&s->timeout);
}

static void uart_receive(struct uart *s, u8 byte)
{
    if (s->r.rx_n < uart_room(s))
        s->r.rx[s->r.rx_n++] = byte;
    else
        s->r.lsr |= LSR_OE;
    s->r.lsr |= LSR_DR;
}

/* Hands to the host what waits for it. */
static void uart_flush(struct uart *s)
{
    size_t n = s->r.tx_n;

    if (n == 0)
        return;
    n = s->chardev ? MIN(chardev_write(s->chardev, s->r.tx, n), n) : n;
    memmove(s->r.tx, s->r.tx + n, s->r.tx_n - n);
    s->r.tx_n -= n;
    if (s->r.tx_n == 0) {
        s->r.lsr |= LSR_THRE | LSR_TEMT;
        s->r.thre_pending = 1;
    }
}

static void uart_timeout(struct dev *d, struct timer *t UNUSED)
{
    struct uart *s = uart_of(d);

    s->r.timeout_pending = s->r.rx_n > 0;
    uart_flush(s); /* left over by a load */
    uart_update(s);
}

static void uart_send(struct uart *s, u8 byte)
{
    s->r.thre_pending = 0;
    if (s->r.mcr & MCR_LOOP) {
        uart_receive(s, byte);
        uart_timeout_arm(s);
        s->r.thre_pending = 1;
        return;
    }
    if (s->r.tx_n == FIFO || (s->r.tx_n && !uart_fifo(s)))
        s->r.tx_n--; /* written over, as the holding register would be */
    s->r.tx[s->r.tx_n++] = byte;
    s->r.lsr &= ~(LSR_THRE | LSR_TEMT);
    uart_flush(s);
}

/* Modem inputs: the other end is always there; in loopback they are our own outputs. */
static void uart_modem(struct uart *s)
{
    u8 was = s->r.msr, now = MSR_CTS | MSR_DSR | MSR_DCD;

    if (s->r.mcr & MCR_LOOP) {
        now = (s->r.mcr & MCR_RTS ? MSR_CTS : 0) | (s->r.mcr & MCR_DTR ? MSR_DSR : 0) |
              (s->r.mcr & MCR_OUT1 ? MSR_RI : 0) | (s->r.mcr & MCR_OUT2 ? MSR_DCD : 0);
    }
    u8 delta = (was ^ now) >> 4 & 0x0b;

    if (was & MSR_RI && !(now & MSR_RI))
        delta |= MSR_TERI;
    s->r.msr = now | (was & MSR_DELTA) | delta;
}

static u8 uart_read_rbr(struct uart *s)
{
    u8 val = s->r.rx[0];

    if (s->r.rx_n) {
        memmove(s->r.rx, s->r.rx + 1, --s->r.rx_n);
        if (!s->r.rx_n)
            s->r.lsr &= ~(LSR_DR | LSR_BI);
        s->r.timeout_pending = 0;
        uart_timeout_arm(s);
        if (s->chardev && !(s->r.mcr & MCR_LOOP))
            chardev_accept(s->chardev);
    }
    return val;
}

static u64 uart_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct uart *s = uart_of(d);
    struct uart_regs *r = &s->r;
    u8 val = 0xff;

    switch (off) {
    case RBR:
        val = r->lcr & LCR_DLAB ? r->divisor & 0xff : uart_read_rbr(s);
        break;
    case IER:
        val = r->lcr & LCR_DLAB ? r->divisor >> 8 : r->ier;
        break;
    case IIR:
        val = uart_iir(s);
        if (val == IIR_THRE)
            r->thre_pending = 0;
        if (uart_fifo(s))
            val |= IIR_FIFO;
        break;
    case LCR:
        return r->lcr;
    case MCR:
        return r->mcr;
    case LSR: /* what a polling driver reads: nothing changes unless an error is shown */
        val = r->lsr;
        if (!(val & (LSR_OE | LSR_PE | LSR_FE | LSR_BI)))
            return val;
        r->lsr &= ~(LSR_OE | LSR_PE | LSR_FE | LSR_BI);
        break;
    case MSR:
        val = r->msr;
        r->msr &= ~MSR_DELTA;
        break;
    case SCR:
        return r->scr;
    }
    uart_update(s);
    return val;
}

static void uart_write_fcr(struct uart *s, u8 val)
{
    if ((val ^ s->r.fcr) & FCR_ENABLE)
        val |= FCR_CLEAR_RX | FCR_CLEAR_TX;
    if (!(val & FCR_ENABLE))
        val &= FCR_ENABLE | FCR_CLEAR_RX | FCR_CLEAR_TX;
    if (val & FCR_CLEAR_RX) {
        s->r.rx_n = 0;
        s->r.lsr &= ~(LSR_DR | LSR_BI);
        s->r.timeout_pending = 0;
    }
    if (val & FCR_CLEAR_TX) {
        s->r.tx_n = 0;
        if (!(s->r.lsr & LSR_THRE))
            s->r.thre_pending = 1;
        s->r.lsr |= LSR_THRE | LSR_TEMT;
    }
    s->r.fcr = val & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER);
    uart_timeout_arm(s);
    if (val & FCR_CLEAR_RX && s->chardev)
        chardev_accept(s->chardev);
}

static void uart_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct uart *s = uart_of(d);
    struct uart_regs *r = &s->r;

    switch (off) {
    case RBR:
        if (r->lcr & LCR_DLAB)
            r->divisor = (r->divisor & 0xff00) | (val & 0xff);
        else
            uart_send(s, val);
        break;
    case IER:
        if (r->lcr & LCR_DLAB) {
            r->divisor = (r->divisor & 0xff) | (val & 0xff) << 8;
            break;
        }
        /* Switching it on with an empty transmitter asks at once. */
        if (val & IER_THRE && !(r->ier & IER_THRE) && r->lsr & LSR_THRE)
            r->thre_pending = 1;
        r->ier = val & 0x0f;
        break;
    case IIR:
        uart_write_fcr(s, val);
        break;
    case LCR:
        r->lcr = val;
        break;
    case MCR: {
        bool left = r->mcr & MCR_LOOP && !(val & MCR_LOOP);

        r->mcr = val & 0x1f;
        uart_modem(s);
        if (left && s->chardev)
            chardev_accept(s->chardev);
        break;
    }
    case SCR:
        r->scr = val;
        return;
    }
    uart_update(s);
}

/* --- the host's side: main loop ------------------------------------------------------------
 */

static size_t uart_can_read(void *opaque)
{
    struct uart *s = opaque;
    size_t n;

    dev_lock(&s->dev);
    n = s->r.mcr & MCR_LOOP ? 0 : uart_room(s) - MIN(s->r.rx_n, uart_room(s));
    dev_unlock(&s->dev);
    return n;
}

static void uart_chardev_read(void *opaque, const u8 *bytes, size_t n)
{
    struct uart *s = opaque;

    dev_lock(&s->dev);
    for (size_t i = 0; i < n; i++)
        uart_receive(s, bytes[i]);
    uart_timeout_arm(s);
    uart_update(s);
    dev_unlock(&s->dev);
}

static void uart_chardev_event(void *opaque, enum chardev_event ev)
{
    struct uart *s = opaque;

    dev_lock(&s->dev);
    if (ev == CHARDEV_BREAK) {
        s->r.lsr |= LSR_BI;
        uart_receive(s, 0);
    } else if (ev == CHARDEV_WRITABLE || ev == CHARDEV_CLOSED) {
        uart_flush(s);
    }
    uart_update(s);
    dev_unlock(&s->dev);
}

static const struct chardev_user uart_user = {
    .can_read = uart_can_read,
    .read = uart_chardev_read,
    .event = uart_chardev_event,
};

/* --- the device -----------------------------------------------------------------------------
 */

static const struct region uart_ports = {
    .name = "serial",
    .len = PORTS,
    .min = 1,
    .max = 1,
    .read = uart_read,
    .write = uart_write,
};

static void uart_reset(struct dev *d)
{
    struct uart *s = uart_of(d);

    s->r = (struct uart_regs){
        .divisor = 12,
        .lsr = LSR_THRE | LSR_TEMT,
        .mcr = MCR_OUT2,
        .msr = MSR_CTS | MSR_DSR | MSR_DCD,
    };
    timer_cancel(&s->timeout);
    uart_update(s);
    if (s->chardev)
        chardev_accept(s->chardev);
}

static void uart_loaded(struct dev *d)
{
    struct uart *s = uart_of(d);

    uart_timeout_arm(s);
    if (s->r.tx_n)
        timer_set(&s->timeout, vm_now(d->vm));
    uart_update(s);
}

static const struct {
    u16 port;
    u8 irq;
} com[] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

static bool uart_init(struct dev *d, GError **error)
{
    struct uart *s = uart_of(d);

    timer_init(&s->timeout, d, uart_timeout);
    /* The user's own without an address: the first of COM1..COM4 that is free. */
    for (unsigned i = 0; d->user && !s->iobase && i < ARRAY_LEN(com); i++) {
        if (!bus_has(d->vm->io, com[i].port)) {
            s->iobase = com[i].port;
            s->irq = com[i].irq;
        }
    }
    if (s->chardev && !chardev_free_for_use(s->chardev))
        return fail(error, ERR_BUSY, "its chardev is in use");
    if (d->user && !s->iobase)
        return fail(error, ERR_BUSY, "all four serial ports are taken; set iobase and irq");
    if (s->iobase) {
        bus_map(d->vm->io, s->iobase, &uart_ports, d, 0);
        d->irq[0] = vm_gsi(d->vm, s->irq);
    }
    if (s->chardev)
        chardev_attach(s->chardev, &uart_user, s);
    return true;
}

static void uart_fini(struct dev *d)
{
    struct uart *s = uart_of(d);

    if (s->chardev)
        chardev_detach(s->chardev, s);
}

static const struct prop uart_props[] = {
    PROP(struct uart, chardev, PROP_PTR, .name = "chardev", .link = "chardev"),
    PROP(struct uart, iobase, PROP_U32, .name = "iobase", .max = 0xfff8),
    PROP(struct uart, irq, PROP_U32, .name = "irq", .def = "4", .max = 15),
    {},
};

const struct dev_type uart_type = {
    .name = "isa-serial",
    .desc = "16550A serial port",
    .kind = DEV_ISA,
    .size = sizeof(struct uart),
    .io = { &uart_ports },
    .irqs = 1,
    .props = uart_props,
    .state = STATE_TABLE(struct uart, r, uart_fields),
    .init = uart_init,
    .reset = uart_reset,
    .loaded = uart_loaded,
    .fini = uart_fini,
};
