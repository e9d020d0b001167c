// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dma8237.c - the PC's two 8237A DMA controllers and page registers.
 * Intel 8237A data sheet (231466); page registers as in the 82371SB.
 *
 * A device asks by dma_move(), which carries as much as the channel is programmed for in one
 * go; its lock ranks after that of devices.  Channels 4 to 7 count words.  Port 0x80, where
 * programs write POST codes and which Linux uses for a delay, is the page register of no
 * channel.
 *
 * Not modelled: memory to memory, requests by software, priorities, the cascade's mask.
 */
#include "vmm/dev/pc/misc.h"

#include <string.h>

enum { CHANNELS = 4, PAGES = 16 };
enum { COMMAND = 8, REQUEST, MASK_ONE, MODE, CLEAR_FF, MASTER_CLEAR, CLEAR_MASK, MASK_ALL };

enum { DISABLED = 0x04, AUTO = 0x10, DOWN = 0x20, KIND = 0x0c, TO_MEMORY = 4, FROM_MEMORY = 8 };

struct dma_chip {
    u16 address[CHANNELS], count[CHANNELS];
    u16 base_address[CHANNELS], base_count[CHANNELS];
    u8 mode[CHANNELS];
    u8 command, request, mask;
    u8 high;     /* the flip-flop: the next access is for the high byte */
    u8 terminal; /* channels that have come to their ends, until status is read */
    u8 zero[3];
};

struct dma {
    struct dev dev;
    struct dma_regs {
        struct dma_chip chip[2];
        u8 page[PAGES], high_page[PAGES];
    } r;
};

static const struct state_field dma_chip_fields[] = {
    STATE_UINTS(struct dma_chip, address, 0xffff),
    STATE_UINTS(struct dma_chip, count, 0xffff),
    STATE_UINTS(struct dma_chip, base_address, 0xffff),
    STATE_UINTS(struct dma_chip, base_count, 0xffff),
    STATE_BYTES(struct dma_chip, mode),
    STATE_INT(struct dma_chip, command),
    STATE_UINT(struct dma_chip, request, 15),
    STATE_UINT(struct dma_chip, mask, 15),
    STATE_UINT(struct dma_chip, high, 1),
    STATE_UINT(struct dma_chip, terminal, 15),
    STATE_PAD(struct dma_chip, zero),
};
static const struct state_field dma_fields[] = {
    STATE_STRUCTS(struct dma_regs, chip, dma_chip_fields),
    STATE_BYTES(struct dma_regs, page),
    STATE_BYTES(struct dma_regs, high_page),
};

static struct dma *dma_of(struct dev *d)
{
    return container_of(d, struct dma, dev);
}

static void chip_reset(struct dma_chip *c)
{
    c->command = c->request = c->high = c->terminal = 0;
    c->mask = 15;
}

static u8 chip_read(struct dma_chip *c, unsigned reg)
{
    u16 val;

    if (reg == MASK_ALL)
        return c->mask | 0xf0;
    if (reg == COMMAND) { /* status */
        val = c->terminal;
        c->terminal = 0;
        return (u8)val;
    }
    if (reg > COMMAND)
        return 0; /* temporary register */
    val = reg & 1 ? c->count[reg / 2] : c->address[reg / 2];
    c->high ^= 1;
    return c->high ? val & 0xff : val >> 8;
}

static void chip_write(struct dma_chip *c, unsigned reg, u8 val)
{
    u16 *word, *base;
    u8 bit = 1 << (val & 3);

    switch (reg) {
    case COMMAND:
        c->command = val;
        return;
    case REQUEST:
        c->request = val & 4 ? c->request | bit : c->request & ~bit;
        return;
    case MASK_ONE:
        c->mask = val & 4 ? c->mask | bit : c->mask & ~bit;
        return;
    case MODE:
        c->mode[val & 3] = val;
        return;
    case CLEAR_FF:
        c->high = 0;
        return;
    case MASTER_CLEAR:
        chip_reset(c);
        return;
    case CLEAR_MASK:
        c->mask = 0;
        return;
    case MASK_ALL:
        c->mask = val & 15;
        return;
    }
    word = reg & 1 ? &c->count[reg / 2] : &c->address[reg / 2];
    base = reg & 1 ? &c->base_count[reg / 2] : &c->base_address[reg / 2];
    *base = c->high ? (*base & 0xff) | val << 8 : (*base & 0xff00) | val;
    *word = *base;
    c->high ^= 1;
}

/* ---- transfers ---- */

/* Where the page register of a channel is, after 0x80. */
static const u8 page_of[8] = { 7, 3, 1, 2, 0, 11, 9, 10 };

u32 dma_move(struct dev *d, unsigned channel, void *buf, u32 n, bool to_memory, bool *ret_tc)
{
    struct dma *s = dma_of(d);
    struct dma_chip *c = &s->r.chip[channel / 4];
    unsigned i = channel % 4, unit = channel < 4 ? 1 : 2;
    u32 moved = 0;
    bool tc = false;

    dev_lock(d);
    u8 kind = c->mode[i] & KIND;
    bool ready = !(c->mask & 1 << i) && !(c->command & DISABLED) &&
                 (kind == 0 || kind == (to_memory ? TO_MEMORY : FROM_MEMORY));
    u32 page = (u32)s->r.page[page_of[channel]] << 16;
    while (ready && !tc && n - moved >= unit) {
        gpa at = unit == 1 ? page | c->address[i] : (page & 0xfe0000) | (u32)c->address[i] << 1;
        u8 *b = (u8 *)buf + moved;

        /* where no memory is, nothing is stored and ones are read */
        if (kind == TO_MEMORY) {
            bool ok UNUSED = ram_put(d->vm->ram, at, b, unit);
        } else if (kind == FROM_MEMORY && !ram_get(d->vm->ram, at, b, unit)) {
            memset(b, 0xff, unit);
        }
        c->address[i] += c->mode[i] & DOWN ? -1 : 1;
        moved += unit;
        tc = c->count[i]-- == 0;
    }
    if (tc) {
        c->terminal |= 1 << i;
        if (c->mode[i] & AUTO) {
            c->address[i] = c->base_address[i];
            c->count[i] = c->base_count[i];
        } else {
            c->mask |= 1 << i;
        }
    }
    dev_unlock(d);
    *ret_tc = tc;
    return moved;
}

static u64 dma_read0(struct dev *d, u64 off, unsigned size UNUSED)
{
    return chip_read(&dma_of(d)->r.chip[0], off);
}
static void dma_write0(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    chip_write(&dma_of(d)->r.chip[0], off, val);
}
/* The second one's registers are two ports apart. */
static u64 dma_read1(struct dev *d, u64 off, unsigned size UNUSED)
{
    return chip_read(&dma_of(d)->r.chip[1], off / 2);
}
static void dma_write1(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    chip_write(&dma_of(d)->r.chip[1], off / 2, val);
}
static u64 dma_page_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    return dma_of(d)->r.page[off];
}
static void dma_page_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    dma_of(d)->r.page[off] = val;
}
static u64 dma_high_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    return dma_of(d)->r.high_page[off];
}
static void dma_high_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    dma_of(d)->r.high_page[off] = val;
}

static void dma_reset(struct dev *d)
{
    for (unsigned i = 0; i < 2; i++)
        chip_reset(&dma_of(d)->r.chip[i]);
}

static const struct region dma_chip0 = {
    .name = "dma1",
    .len = 16,
    .min = 1,
    .max = 1,
    .read = dma_read0,
    .write = dma_write0,
};
static const struct region dma_chip1 = {
    .name = "dma2",
    .len = 32,
    .min = 1,
    .max = 1,
    .read = dma_read1,
    .write = dma_write1,
};
static const struct region dma_pages = {
    .name = "dma-pages",
    .len = PAGES,
    .min = 1,
    .max = 1,
    .read = dma_page_read,
    .write = dma_page_write,
};
static const struct region dma_high_pages = {
    .name = "dma-high-pages",
    .len = PAGES,
    .min = 1,
    .max = 1,
    .read = dma_high_read,
    .write = dma_high_write,
};

static bool dma_init(struct dev *d, GError **error UNUSED)
{
    bus_map(d->vm->io, 0, &dma_chip0, d, 0);
    return true;
}

const struct dev_type dma_type = {
    .name = "i8257",
    .desc = "DMA controllers",
    .kind = DEV_SYSBUS,
    .rank = DEV_RANK_INTC,
    .size = sizeof(struct dma),
    .io = { &dma_pages, &dma_chip1, &dma_high_pages },
    .state = STATE_TABLE(struct dma, r, dma_fields),
    .init = dma_init,
    .reset = dma_reset,
};
