// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * piix_ide.c - Intel 82371SB (PIIX3), function 1: two IDE channels with bus-master DMA.
 * Intel 82371FB/82371SB data sheet (290550), 2.3 (configuration), 2.7 (bus master registers);
 * ATA/ATAPI-7 volume 2 for the task file behind ports; "Programming Interface for Bus Master
 * IDE Controller" 1.0 for the PRD tables.
 *
 *   0x1f0-0x1f7, 0x3f6, IRQ 14    primary      BMIBA + 0: command, + 2: status, + 4: PRD table
 *   0x170-0x177, 0x376, IRQ 15    secondary    BMIBA + 8, + 10, + 12
 *
 * A channel's ports answer while its IDETIM register says so (bit 15) and I/O is decoded.  Both
 * drives take what is written to the task file; the selected one answers.  A channel or a slave
 * that is not there reads as zero.
 *
 * A transfer moves when both sides are ready: the drive has a piece (or wants one), and the
 * engine was started.
 *
 * Not modelled: timings (they are remembered), the slave's DMA when the engine was started for
 * the master.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pci/i440fx.h"

enum { IDETIM = 0x40, SIDETIM = 0x44, IDE_DECODE = 0x8000 };
enum { CONTROL_NIEN = 0x02, CONTROL_SRST = 0x04, CONTROL_HOB = 0x80 };
enum { BM_START = 0x01, BM_TO_MEMORY = 0x08 };
enum { BM_ACTIVE = 0x01, BM_ERROR = 0x02, BM_INT = 0x04, BM_CAPABLE = 0x60 };
enum { EXECUTE_DIAGNOSTIC = 0x90, PRD_LAST = 0x80 };

struct chan_regs {
    u8 control, select;
    u8 bm_command, bm_status;
    u32 bm_table;
    /* where the engine is: the next descriptor, and what is left of the one before */
    u32 next, addr, left;
    u8 last, zero[3];
};

struct piix_ide {
    struct pci_dev pci;
    struct chan {
        struct ide_bus bus;
        struct mapping *task, *control; /* NULL: not decoded */
    } ch[2];
    struct piix_ide_regs {
        struct pci_regs pci;
        struct chan_regs ch[2];
    } r;
};

static const struct state_field chan_fields[] = {
    STATE_UINT(struct chan_regs, control, 0xff),
    STATE_UINT(struct chan_regs, select, 1),
    STATE_UINT(struct chan_regs, bm_command, BM_START | BM_TO_MEMORY),
    STATE_UINT(struct chan_regs, bm_status, 0x67),
    STATE_INT(struct chan_regs, bm_table),
    STATE_INT(struct chan_regs, next),
    STATE_INT(struct chan_regs, addr),
    STATE_UINT(struct chan_regs, left, 65536),
    STATE_UINT(struct chan_regs, last, 1),
    STATE_PAD(struct chan_regs, zero),
};
static const struct state_field piix_ide_fields[] = {
    STATE_STRUCT(struct piix_ide_regs, pci, pci_fields),
    STATE_STRUCTS(struct piix_ide_regs, ch, chan_fields),
};

static struct piix_ide *ide_of(struct dev *d)
{
    return container_of(d, struct piix_ide, pci.dev);
}

static struct chan_regs *regs_of(struct ide_bus *b)
{
    return &ide_of(b->host)->r.ch[b->index];
}

/* NULL: nobody is there. */
static struct ide_unit *selected(struct ide_bus *b)
{
    return b->unit[regs_of(b)->select];
}

static void irq_update(struct ide_bus *b)
{
    const struct ide_unit *u = selected(b);

    irq_set(b->host->irq[b->index], u && u->r.irq && !(regs_of(b)->control & CONTROL_NIEN));
}

static void irq_raise(struct ide_unit *u)
{
    if (!u->r.irq)
        regs_of(u->bus)->bm_status |= BM_INT;
    u->r.irq = true;
    irq_update(u->bus);
}

/* ---- bus-master DMA ------------------------------------------------------------------------
 */

static bool flow_in(const struct ide_unit *u)
{
    return u->r.flow == FLOW_BUF_IN || u->r.flow == FLOW_DISK_IN || u->r.flow == FLOW_CD_IN;
}

static bool by_dma(const struct ide_unit *u)
{
    return u->r.dma && u->r.flow != FLOW_PACKET;
}

/* The next descriptor; false: memory is not there. */
static bool prd_next(struct piix_ide *s, struct chan_regs *c)
{
    u8 prd[8];

    if (!ram_get(s->pci.dev.vm->ram, c->next, prd, sizeof prd))
        return false;
    c->addr = pci_get32(prd, 0) & ~1u;
    c->left = pci_get16(prd, 4) & 0xfffe;
    if (!c->left)
        c->left = 65536;
    c->last = (prd[7] & PRD_LAST) != 0;
    c->next += sizeof prd;
    return true;
}

/* Moves buf[pos..block) as far as the table goes; false: the bus said no. */
static bool dma_move(struct piix_ide *s, struct chan_regs *c, struct ide_unit *u)
{
    struct ram *ram = s->pci.dev.vm->ram;
    struct ide_unit_regs *r = &u->r;

    while (r->pos < r->block) {
        if (!c->left && c->last)
            return true; /* the table has ended before the data */
        if (!c->left && !prd_next(s, c))
            return false;
        u32 n = MIN(c->left, r->block - r->pos);
        bool ok = flow_in(u) ? ram_put(ram, c->addr, r->buf + r->pos, n)
                             : ram_get(ram, c->addr, r->buf + r->pos, n);
        if (!ok)
            return false;
        r->pos += n;
        c->addr += n;
        c->left -= n;
    }
    return true;
}

static void dma_run(struct ide_unit *u)
{
    struct piix_ide *s = ide_of(u->bus->host);
    struct chan_regs *c = regs_of(u->bus);

    u->r.status |= ATA_BSY;
    if (!(c->bm_command & BM_START) || !(c->bm_status & BM_ACTIVE))
        return;
    if (!pci_master(&s->pci) || !dma_move(s, c, u)) {
        c->bm_status = (c->bm_status & ~BM_ACTIVE) | BM_ERROR;
        ata_dma_failed(u);
        return;
    }
    if (!c->left && c->last)
        c->bm_status &= ~BM_ACTIVE;
    if (u->r.pos < u->r.block)
        return; /* it waits for more room until it is reset */
    u->r.status &= ~ATA_BSY;
    if (flow_in(u))
        ata_sent(u);
    else
        ata_received(u);
}

static void bm_command(struct ide_bus *b, u8 val)
{
    struct chan_regs *c = regs_of(b);
    bool was = c->bm_command & BM_START;

    c->bm_command = val & (BM_START | BM_TO_MEMORY);
    if (!(val & BM_START)) {
        c->bm_status &= ~BM_ACTIVE;
        return;
    }
    if (was)
        return;
    c->next = c->bm_table;
    c->left = 0;
    c->last = false;
    c->bm_status |= BM_ACTIVE;
    for (unsigned i = 0; i < b->units; i++)
        if (b->unit[i] && b->unit[i]->r.waits && by_dma(b->unit[i]))
            dma_run(b->unit[i]);
}

static u64 bm_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    const struct chan_regs *c = &ide_of(d)->r.ch[off / 8];

    switch (off % 8) {
    case 0:
        return c->bm_command;
    case 2:
        return c->bm_status;
    case 4 ... 7:
        return c->bm_table >> (8 * (off % 4)) & 0xff;
    }
    return 0;
}

static void bm_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct piix_ide *s = ide_of(d);
    struct chan_regs *c = &s->r.ch[off / 8];
    u32 shift = 8 * (off % 4);

    switch (off % 8) {
    case 0:
        bm_command(&s->ch[off / 8].bus, (u8)val);
        break;
    case 2:
        c->bm_status =
            (val & BM_CAPABLE) | (c->bm_status & ~BM_CAPABLE & ~(val & (BM_INT | BM_ERROR)));
        break;
    case 4 ... 7:
        c->bm_table = ((c->bm_table & ~(0xffu << shift)) | (u32)val << shift) & ~3u;
        break;
    }
}

static const struct region bm_ports = {
    .name = "bus-master-ide", .len = 16, .min = 1, .max = 1, .read = bm_read, .write = bm_write
};

/* ---- what the drives ask for ---------------------------------------------------------------
 */

static void op_send(struct ide_unit *u)
{
    if (by_dma(u)) {
        dma_run(u);
        return;
    }
    u->r.status |= ATA_DRQ;
    irq_raise(u);
}

static void op_receive(struct ide_unit *u)
{
    if (by_dma(u)) {
        dma_run(u);
        return;
    }
    u->r.status = (u->r.status & ~ATA_BSY) | ATA_DRQ;
    if (!u->r.first) /* the host looks for the first DRQ by itself */
        irq_raise(u);
}

static void op_loaded(struct ide_unit *u)
{
    irq_update(u->bus);
}

static const struct ide_bus_ops bus_ops = {
    .send = op_send, .receive = op_receive, .end = irq_raise, .loaded = op_loaded
};

/* ---- the task file -------------------------------------------------------------------------
 */

static u32 data_read(struct ide_unit *u, unsigned size)
{
    struct ide_unit_regs *r = &u->r;
    u32 val = 0;

    if (!r->waits || by_dma(u) || !flow_in(u))
        return UINT32_MAX;
    for (unsigned i = 0; i < size && r->pos < r->block; i++)
        val |= (u32)r->buf[r->pos++] << (8 * i);
    if (r->pos == r->block)
        ata_sent(u);
    return val;
}

static void data_write(struct ide_unit *u, u32 val, unsigned size)
{
    struct ide_unit_regs *r = &u->r;

    if (!r->waits || by_dma(u) || flow_in(u))
        return;
    for (unsigned i = 0; i < size && r->pos < r->block; i++)
        r->buf[r->pos++] = (u8)(val >> (8 * i));
    if (r->pos == r->block)
        ata_received(u);
}

static u8 reg_read(struct ide_bus *b, u64 off)
{
    struct ide_unit *u = selected(b);
    bool prev = regs_of(b)->control & CONTROL_HOB;

    if (!u)
        return 0;
    switch (off) {
    case 1:
        return prev ? u->r.prev_feature : u->r.error;
    case 2:
        return prev ? u->r.prev_count : u->r.count;
    case 3:
        return prev ? u->r.prev_lbal : u->r.lbal;
    case 4:
        return prev ? u->r.prev_lbam : u->r.lbam;
    case 5:
        return prev ? u->r.prev_lbah : u->r.lbah;
    case 6:
        return u->r.device | 0xa0;
    case 7:
        u->r.irq = false;
        irq_update(b);
        return u->r.status;
    }
    return 0xff;
}

static void command(struct ide_bus *b, u8 val)
{
    struct chan_regs *c = regs_of(b);
    bool all = val == EXECUTE_DIAGNOSTIC;

    if (all)
        c->select = 0;
    for (unsigned i = 0; i < b->units; i++) {
        struct ide_unit *u = b->unit[i];

        if (!u || (!all && i != c->select))
            continue;
        if (all)
            u->r.device &= ~ATA_DEV_1;
        u->r.irq = false;
        ata_command(u, val);
    }
    irq_update(b);
}

static void reg_write(struct ide_bus *b, u64 off, u8 val)
{
    struct chan_regs *c = regs_of(b);

    c->control &= ~CONTROL_HOB;
    if (off == 7) {
        command(b, val);
        return;
    }
    if (off == 6)
        c->select = (val & ATA_DEV_1) != 0;
    for (unsigned i = 0; i < b->units; i++) {
        struct ide_unit_regs *r = b->unit[i] ? &b->unit[i]->r : NULL;

        if (!r)
            continue;
        switch (off) {
        case 1:
            r->prev_feature = r->feature;
            r->feature = val;
            break;
        case 2:
            r->prev_count = r->count;
            r->count = val;
            break;
        case 3:
            r->prev_lbal = r->lbal;
            r->lbal = val;
            break;
        case 4:
            r->prev_lbam = r->lbam;
            r->lbam = val;
            break;
        case 5:
            r->prev_lbah = r->lbah;
            r->lbah = val;
            break;
        case 6:
            r->device = val;
            break;
        }
    }
    irq_update(b);
}

static void control_write(struct ide_bus *b, u8 val)
{
    struct chan_regs *c = regs_of(b);
    bool was = c->control & CONTROL_SRST, is = val & CONTROL_SRST;

    c->control = val & (CONTROL_NIEN | CONTROL_SRST | CONTROL_HOB);
    for (unsigned i = 0; i < b->units && was != is; i++) {
        struct ide_unit *u = b->unit[i];

        if (!u)
            continue;
        ata_reset(u, true);
        u->r.device = 0;
        if (is)
            u->r.status = ATA_BSY;
    }
    if (is)
        c->select = 0;
    irq_update(b);
}

static u64 task_read(struct ide_bus *b, u64 off, unsigned size)
{
    struct ide_unit *u = selected(b);
    u64 val = 0;

    if (off == 0)
        return u ? data_read(u, size) : 0;
    for (unsigned i = 0; i < size; i++)
        val |= (u64)reg_read(b, off + i) << (8 * i);
    return val;
}

static void task_write(struct ide_bus *b, u64 off, u64 val, unsigned size)
{
    struct ide_unit *u = selected(b);

    if (off == 0) {
        if (u)
            data_write(u, (u32)val, size);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        reg_write(b, off + i, (u8)(val >> (8 * i)));
}

static u64 alt_read(struct ide_bus *b)
{
    const struct ide_unit *u = selected(b);

    return u ? u->r.status : 0;
}

#define CHANNEL(n)                                                                             \
    static u64 task_read##n(struct dev *d, u64 off, unsigned size)                             \
    {                                                                                          \
        return task_read(&ide_of(d)->ch[n].bus, off, size);                                    \
    }                                                                                          \
    static void task_write##n(struct dev *d, u64 off, u64 val, unsigned size)                  \
    {                                                                                          \
        task_write(&ide_of(d)->ch[n].bus, off, val, size);                                     \
    }                                                                                          \
    static u64 control_read##n(struct dev *d, u64 off UNUSED, unsigned size UNUSED)            \
    {                                                                                          \
        return alt_read(&ide_of(d)->ch[n].bus);                                                \
    }                                                                                          \
    static void control_write##n(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED) \
    {                                                                                          \
        control_write(&ide_of(d)->ch[n].bus, (u8)val);                                         \
    }                                                                                          \
    static const struct region task_ports##n = { .name = "ide-task",                           \
                                                 .len = 8,                                     \
                                                 .min = 1,                                     \
                                                 .max = 4,                                     \
                                                 .read = task_read##n,                         \
                                                 .write = task_write##n };                     \
    static const struct region control_port##n = { .name = "ide-control",                      \
                                                   .len = 1,                                   \
                                                   .min = 1,                                   \
                                                   .max = 1,                                   \
                                                   .read = control_read##n,                    \
                                                   .write = control_write##n };
CHANNEL(0)
CHANNEL(1)

/* ---- configuration, life -------------------------------------------------------------------
 */

static void ports_update(struct piix_ide *s)
{
    static const struct {
        u16 task, control;
        const struct region *task_region, *control_region;
    } at[2] = { { 0x1f0, 0x3f6, &task_ports0, &control_port0 },
                { 0x170, 0x376, &task_ports1, &control_port1 } };
    const u8 *c = s->r.pci.config;
    struct dev *d = &s->pci.dev;

    for (unsigned i = 0; i < 2; i++) {
        struct chan *ch = &s->ch[i];
        bool on = pci_get16(c, IDETIM + 2 * i) & IDE_DECODE &&
                  pci_get16(c, PCI_COMMAND) & PCI_COMMAND_IO;

        if (on == (ch->task != NULL))
            continue;
        if (on) {
            ch->task = bus_map(d->vm->io, at[i].task, at[i].task_region, d, 0);
            ch->control = bus_map(d->vm->io, at[i].control, at[i].control_region, d, 0);
        } else {
            bus_unmap(d->vm->io, ch->task);
            bus_unmap(d->vm->io, ch->control);
            ch->task = ch->control = NULL;
        }
    }
}

static void piix_ide_written(struct pci_dev *p, u32 off UNUSED, unsigned size UNUSED)
{
    ports_update(container_of(p, struct piix_ide, pci));
}

/* Nothing is under way in a guest that stands. */
static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct piix_ide *s = opaque;

    for (unsigned i = 0; ev == VM_EV_STOP && i < 2; i++)
        ide_bus_drain(&s->ch[i].bus);
}

static bool piix_ide_init(struct dev *d, GError **error)
{
    struct piix_ide *s = ide_of(d);

    if (!pci_init(&s->pci, error))
        return false;
    pci_put16(s->r.pci.config, PCI_STATUS, 0x0280);
    pci_put32(s->pci.wmask, IDETIM, 0xffffffff);
    s->pci.wmask[SIDETIM] = 0xff;
    pci_bar_add(&s->pci, 4, PCI_BAR_IO, &bm_ports);
    ide_bus_init(&s->ch[0].bus, d, &bus_ops, "ide.0", 0, 2);
    ide_bus_init(&s->ch[1].bus, d, &bus_ops, "ide.1", 1, 2);
    vm_listen(d->vm, heard, s);
    return true;
}

static void piix_ide_reset(struct dev *d)
{
    struct piix_ide *s = ide_of(d);

    pci_reset(&s->pci);
    memset(s->r.ch, 0, sizeof s->r.ch);
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < 2; k++)
            if (s->ch[i].bus.unit[k])
                ata_reset(s->ch[i].bus.unit[k], false);
        irq_update(&s->ch[i].bus);
    }
    ports_update(s);
}

/* The drives are loaded after us: what their interrupts are is seen then. */
static void piix_ide_loaded(struct dev *d)
{
    struct piix_ide *s = ide_of(d);

    pci_loaded(&s->pci);
    ports_update(s);
    for (unsigned i = 0; i < 2; i++)
        irq_update(&s->ch[i].bus);
}

static void piix_ide_fini(struct dev *d)
{
    struct piix_ide *s = ide_of(d);

    vm_unlisten(d->vm, s);
    for (unsigned i = 0; i < 2; i++)
        ide_bus_fini(&s->ch[i].bus);
    pci_fini(&s->pci);
}

static const struct pci_type piix_ide_pci = {
    .vendor = 0x8086,
    .device = 0x7010,
    .class = 0x010180,
    .fixed = true,
    .regs = offsetof(struct piix_ide, r.pci),
    .config_written = piix_ide_written,
};

const struct dev_type piix3_ide_type = {
    .name = "piix3-ide",
    .desc = "IDE interface",
    .kind = DEV_PCI,
    .size = sizeof(struct piix_ide),
    .irqs = 2,
    .state = STATE_TABLE(struct piix_ide, r, piix_ide_fields),
    .init = piix_ide_init,
    .reset = piix_ide_reset,
    .loaded = piix_ide_loaded,
    .fini = piix_ide_fini,
    .more = &piix_ide_pci,
};

bool piix3_ide_new(struct pci_bus *b, struct irq *irq14, struct irq *irq15, GError **error)
{
    struct dev *d = dev_new(pci_bus_vm(b), &piix3_ide_type, "ide");

    d->irq[0] = irq14;
    d->irq[1] = irq15;
    if (pci_place(d, b, 1 * 8 + 1, error) && dev_realize(d, error))
        return true;
    dev_free(d);
    return false;
}
