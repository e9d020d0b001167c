// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ahci.c - Intel ICH9's AHCI controller: six ports of one SATA drive each, native command
 * queuing. Serial ATA AHCI 1.3.1: 3 (registers), 4 (structures in memory), 5 (operation); FIS
 * layouts: Serial ATA 2.6, 10.3.
 *
 * Commands that are not queued go through the drive's task file (ata.c), one at a time; their
 * data move between the drive's buffer and the command's PRD table.  Queued reads and writes go
 * to the image side by side, in pieces, with buffers of their own: a reset cuts them loose, and
 * the port takes no command until those have come back.
 *
 * Not modelled: port multipliers, hot plug, power management of the link, the ICH's IDE mode
 * and index/data ports, staggered spin-up, command completion coalescing.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pci/pci.h"

enum {
    HBA_CAP = 0x00,
    HBA_GHC = 0x04,
    HBA_IS = 0x08,
    HBA_PI = 0x0c,
    HBA_VS = 0x10,
    PORT_BASE = 0x100,
    PORT_LEN = 0x80,
    PX_CLB = 0x00,
    PX_CLBU = 0x04,
    PX_FB = 0x08,
    PX_FBU = 0x0c,
    PX_IS = 0x10,
    PX_IE = 0x14,
    PX_CMD = 0x18,
    PX_TFD = 0x20,
    PX_SIG = 0x24,
    PX_SSTS = 0x28,
    PX_SCTL = 0x2c,
    PX_SERR = 0x30,
    PX_SACT = 0x34,
    PX_CI = 0x38,
};
enum { GHC_HR = 1, GHC_IE = 2 };
enum {
    CMD_ST = 0x0001,
    CMD_CLO = 0x0008,
    CMD_FRE = 0x0010,
    CMD_FR = 0x4000,
    CMD_CR = 0x8000,
    CMD_WRITABLE = 0x0f000017,
    CMD_ATAPI = 0x01000000,
};
enum {
    IS_D2H = 0x01,
    IS_PIO_SETUP = 0x02,
    IS_SET_BITS = 0x08,
    IS_CONNECT = 0x40,
    IS_BUS_ERROR = 0x10000000,
    IS_TASK_ERROR = 0x40000000,
};
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_SET_BITS = 0xa1, FIS_PIO_SETUP = 0x5f };
enum { AT_PIO_SETUP = 0x20, AT_D2H = 0x40, AT_SET_BITS = 0x58 }; /* in the received FIS area */
enum { PORTS = 6, SLOTS = 32, PIECE = 1 << 20, SRST = 0x04, DEVICE_RESET = 0x08 };
enum { READ_FPDMA = 0x60, WRITE_FPDMA = 0x61, SERR_EXCHANGED = 0x04000000 };
#define GHC_AE 0x80000000u

struct port_regs {
    u64 clb, fb;
    u32 is, ie, cmd, sctl, serr, sact, ci, started; /* started: slots that were taken */
    u8 stopped;                                     /* by an error, until ST is cleared */
    u8 srst, zero[6];
};

/* How far a PRD table has been used up. */
struct prdt {
    u64 table;
    u32 n, i, off;
};

struct ncq {
    struct port *p;
    u8 tag;
    bool loose, write, fua;
    u64 at;
    u32 left, piece;
    struct prdt prdt;
    u8 bytes[];
};

struct port {
    struct ide_bus bus;
    struct ahci *s;
    struct port_regs *r;
    /* the command under way that is not queued */
    bool busy;
    u8 slot;
    u64 header;
    struct prdt prdt;
    u32 moved;
    struct ncq *ncq[SLOTS];
    unsigned loose;
};

struct ahci {
    struct pci_dev pci;
    struct port port[PORTS];
    struct ahci_regs {
        struct pci_regs pci;
        u32 ghc, is;
        struct port_regs port[PORTS];
    } r;
};

static const struct state_field port_fields[] = {
    STATE_INT(struct port_regs, clb),         STATE_INT(struct port_regs, fb),
    STATE_INT(struct port_regs, is),          STATE_INT(struct port_regs, ie),
    STATE_INT(struct port_regs, cmd),         STATE_INT(struct port_regs, sctl),
    STATE_INT(struct port_regs, serr),        STATE_INT(struct port_regs, sact),
    STATE_INT(struct port_regs, ci),          STATE_INT(struct port_regs, started),
    STATE_UINT(struct port_regs, stopped, 1), STATE_UINT(struct port_regs, srst, 1),
    STATE_PAD(struct port_regs, zero),
};
static const struct state_field ahci_fields[] = {
    STATE_STRUCT(struct ahci_regs, pci, pci_fields),
    STATE_INT(struct ahci_regs, ghc),
    STATE_INT(struct ahci_regs, is),
    STATE_STRUCTS(struct ahci_regs, port, port_fields),
};

static struct ahci *ahci_of(struct dev *d)
{
    return container_of(d, struct ahci, pci.dev);
}

static struct port *port_of(struct ide_unit *u)
{
    return container_of(u->bus, struct port, bus);
}

static struct ram *ram_of(const struct port *p)
{
    return p->s->pci.dev.vm->ram;
}

/* ---- interrupts ----------------------------------------------------------------------------
 */

static void irq_update(struct ahci *s)
{
    for (unsigned i = 0; i < PORTS; i++)
        if (s->r.port[i].is & s->r.port[i].ie)
            s->r.is |= 1u << i;
    bool level = s->r.is && s->r.ghc & GHC_IE;

    if (pci_msi_on(&s->pci)) {
        if (level)
            pci_msi_fire(&s->pci, 0);
    } else {
        pci_intx_set(&s->pci, level);
    }
}

static void port_event(struct port *p, u32 bits)
{
    p->r->is |= bits;
    irq_update(p->s);
}

/* ---- received FISes ------------------------------------------------------------------------
 */

static void fis_put(struct port *p, u32 at, const u8 *fis, u32 n)
{
    if (p->r->cmd & CMD_FRE && !ram_put(ram_of(p), p->r->fb + at, fis, n))
        log_guest("%s: FIS area outside of memory", p->s->pci.dev.id);
}

static void fis_fill(const struct ide_unit *u, u8 *fis)
{
    const struct ide_unit_regs *r = &u->r;

    fis[1] = 0x40; /* interrupt */
    fis[2] = r->status;
    fis[3] = r->error;
    fis[4] = r->lbal;
    fis[5] = r->lbam;
    fis[6] = r->lbah;
    fis[7] = r->device;
    fis[8] = r->prev_lbal;
    fis[9] = r->prev_lbam;
    fis[10] = r->prev_lbah;
    fis[12] = r->count;
    fis[13] = r->prev_count;
}

static void fis_d2h(struct port *p, const struct ide_unit *u)
{
    u8 fis[20] = { FIS_D2H };

    fis_fill(u, fis);
    fis_put(p, AT_D2H, fis, sizeof fis);
}

static void fis_pio_setup(struct port *p, const struct ide_unit *u, u32 n)
{
    u8 fis[20] = { FIS_PIO_SETUP };

    fis_fill(u, fis);
    fis[1] |= 0x20; /* to the host */
    fis[2] |= ATA_DRQ;
    fis[15] = ATA_DRDY | ATA_SRV; /* the status at the end */
    fis[16] = (u8)n;
    fis[17] = (u8)(n >> 8);
    fis_put(p, AT_PIO_SETUP, fis, sizeof fis);
}

static void fis_set_bits(struct port *p, const struct ide_unit *u, u32 done)
{
    u8 fis[8] = { FIS_SET_BITS, 0x40 };

    fis[2] = u->r.status & 0x77;
    fis[3] = u->r.error;
    pci_put32(fis, 4, done);
    fis_put(p, AT_SET_BITS, fis, sizeof fis);
}

/* ---- PRD tables ----------------------------------------------------------------------------
 */

/* Moves up to n bytes; returns how many there was room for. *ret_bad: memory is not there. */
static u32 prdt_move(struct port *p, struct prdt *t, u8 *buf, u32 n, bool to_guest,
                     bool *ret_bad)
{
    u32 moved = 0;

    *ret_bad = false;
    while (moved < n && t->i < t->n) {
        u8 e[16];

        if (!ram_get(ram_of(p), t->table + 16ull * t->i, e, sizeof e)) {
            *ret_bad = true;
            return moved;
        }
        u64 at = pci_get32(e, 0) | (u64)pci_get32(e, 4) << 32;
        u32 len = (pci_get32(e, 12) & 0x3fffff) + 1;
        u32 part = t->off < len ? MIN(len - t->off, n - moved) : 0;
        bool ok = to_guest ? ram_put(ram_of(p), at + t->off, buf + moved, part)
                           : ram_get(ram_of(p), at + t->off, buf + moved, part);

        if (part && !ok) {
            *ret_bad = true;
            return moved;
        }
        moved += part;
        t->off += part;
        if (t->off >= len) {
            t->i++;
            t->off = 0;
        }
    }
    return moved;
}

/* ---- native command queuing ----------------------------------------------------------------
 */

static void port_run(struct port *p);
static void ncq_did(void *opaque, int ret);

static void ncq_failed(struct port *p, u8 tag, u8 error)
{
    struct ide_unit *u = p->bus.unit[0];

    u->r.error = error;
    u->r.status = ATA_DRDY | ATA_SRV | ATA_ERR;
    u->r.ncq_failed = 0x80 | tag;
    u->r.ncq_error = error;
    p->r->stopped = true;
    fis_set_bits(p, u, 0);
    port_event(p, IS_SET_BITS | IS_TASK_ERROR);
}

/* false: it has failed and was told. */
static bool ncq_piece(struct ncq *q)
{
    struct port *p = q->p;
    struct image *image = p->bus.unit[0]->drive->image;
    struct iovec v = { q->bytes, MIN(q->left, (u32)PIECE) };
    bool bad;

    q->piece = (u32)v.iov_len;
    if (!q->write) {
        image_read(image, q->at, &v, 1, ncq_did, q);
        return true;
    }
    if (prdt_move(p, &q->prdt, q->bytes, q->piece, false, &bad) < q->piece) {
        port_event(p, IS_BUS_ERROR);
        ncq_failed(p, q->tag, ATA_ABRT);
        return false;
    }
    image_write(image, q->at, &v, 1, q->fua, ncq_did, q);
    return true;
}

static void ncq_came(struct ncq *q, int ret)
{
    struct port *p = q->p;
    bool bad = false, more = false;

    if (ret) {
        log_guest("%s: I/O error at byte %llu", p->bus.name, (unsigned long long)q->at);
        ncq_failed(p, q->tag, q->write ? ATA_ABRT : ATA_UNC);
    } else if (!q->write && prdt_move(p, &q->prdt, q->bytes, q->piece, true, &bad) < q->piece) {
        port_event(p, IS_BUS_ERROR);
        ncq_failed(p, q->tag, ATA_ABRT);
    } else {
        q->at += q->piece;
        q->left -= q->piece;
        more = q->left && ncq_piece(q);
        if (!q->left) {
            p->r->sact &= ~(1u << q->tag);
            fis_set_bits(p, p->bus.unit[0], 1u << q->tag);
            port_event(p, IS_SET_BITS);
        }
    }
    if (more)
        return;
    p->ncq[q->tag] = NULL;
    g_free(q);
    port_run(p);
}

/* A thread of the image's. */
static void ncq_did(void *opaque, int ret)
{
    struct ncq *q = opaque;
    struct port *p = q->p;
    struct dev *d = &p->s->pci.dev;

    dev_lock(d);
    if (!q->loose) {
        ncq_came(q, ret);
    } else {
        g_free(q);
        if (!--p->loose)
            port_run(p);
    }
    dev_unlock(d);
}

static void ncq_start(struct port *p, u8 slot, const u8 *fis, const struct prdt *prdt)
{
    struct ide_unit *u = p->bus.unit[0];
    u8 tag = fis[12] >> 3;
    u64 block = u->logical_block, blocks = u->sectors / (block / ATA_SECTOR);
    u64 lba = fis[4] | (u64)fis[5] << 8 | (u64)fis[6] << 16 | (u64)fis[8] << 24 |
              (u64)fis[9] << 32 | (u64)fis[10] << 40;
    u32 n = fis[3] | (u32)fis[11] << 8;
    bool write = fis[2] == WRITE_FPDMA;

    n = n ? n : 65536;
    p->r->ci &= ~(1u << slot);
    p->r->started &= ~(1u << slot);
    u->r.status = ATA_DRDY | ATA_SRV;
    u->r.error = 0;
    fis_d2h(p, u);
    if (u->cd || p->ncq[tag] || n > blocks || lba > blocks - n ||
        (write && image_read_only(u->drive->image))) {
        ncq_failed(p, tag, u->cd || p->ncq[tag] ? ATA_ABRT : ATA_IDNF);
        return;
    }
    u64 len = n * block;
    struct ncq *q = g_malloc(sizeof *q + MIN(len, (u64)PIECE));

    *q = (struct ncq){ .p = p,
                       .tag = tag,
                       .write = write,
                       .fua = fis[7] & 0x80 || !u->r.write_cache,
                       .at = lba * block,
                       .left = (u32)len,
                       .prdt = *prdt };
    p->ncq[tag] = q;
    if (!ncq_piece(q)) {
        p->ncq[tag] = NULL;
        g_free(q);
    }
}

/* ---- commands ------------------------------------------------------------------------------
 */

static void signature_fis(struct port *p)
{
    struct ide_unit *u = p->bus.unit[0];

    fis_d2h(p, u);
    port_event(p, IS_D2H);
}

/* A FIS that changes the device control register: software reset, in two steps. */
static void control(struct port *p, u8 slot, u8 val)
{
    struct ide_unit *u = p->bus.unit[0];
    bool was = p->r->srst;

    p->r->srst = val & SRST ? 1 : 0;
    p->r->ci &= ~(1u << slot);
    p->r->started &= ~(1u << slot);
    if (p->r->srst) {
        ata_reset(u, true);
        u->r.status = ATA_BSY;
    } else if (was) {
        ata_reset(u, true);
        signature_fis(p);
    }
}

static void fis_take(struct ide_unit_regs *r, const u8 *fis)
{
    r->feature = fis[3];
    r->lbal = fis[4];
    r->lbam = fis[5];
    r->lbah = fis[6];
    r->device = fis[7];
    r->prev_lbal = fis[8];
    r->prev_lbam = fis[9];
    r->prev_lbah = fis[10];
    r->prev_feature = fis[11];
    r->count = fis[12];
    r->prev_count = fis[13];
}

static void command(struct port *p, u8 slot)
{
    struct ide_unit *u = p->bus.unit[0];
    u64 header = p->r->clb + 32u * slot;
    u8 h[16], fis[20];

    if (!ram_get(ram_of(p), header, h, sizeof h)) {
        p->r->stopped = true;
        port_event(p, IS_BUS_ERROR);
        return;
    }
    u64 table = (pci_get32(h, 8) & ~0x7fu) | (u64)pci_get32(h, 12) << 32;
    struct prdt prdt = { .table = table + 0x80, .n = pci_get16(h, 2) };
    if (!ram_get(ram_of(p), table, fis, sizeof fis) || fis[0] != FIS_H2D) {
        p->r->stopped = true;
        port_event(p, IS_BUS_ERROR);
        return;
    }
    p->r->started |= 1u << slot;
    p->r->cmd = (p->r->cmd & ~0x1f00u) | (u32)slot << 8;
    if (!(fis[1] & 0x80)) {
        control(p, slot, fis[15]);
        return;
    }
    if (fis[2] == READ_FPDMA || fis[2] == WRITE_FPDMA) {
        ncq_start(p, slot, fis, &prdt);
        return;
    }
    p->busy = true;
    p->slot = slot;
    p->header = header;
    p->prdt = prdt;
    p->moved = 0;
    u->r.status &= ~(ATA_BSY | ATA_DRQ);
    fis_take(&u->r, fis);
    ata_command(u, fis[2]);
    if (fis[2] == DEVICE_RESET && p->busy) /* the drive ends it without an interrupt */
        u->bus->ops->end(u);
}

/* Takes what the host has issued, as far as it can go on now. */
static void port_run(struct port *p)
{
    struct ide_unit *u = p->bus.unit[0];

    while (u && p->r->cmd & CMD_ST && !p->busy && !p->r->stopped && !p->loose && !u->io.loose &&
           pci_master(&p->s->pci)) {
        u32 due = p->r->ci & ~p->r->started;

        if (!due)
            return;
        command(p, (u8)__builtin_ctz(due));
    }
}

/* What is under way is cut loose. */
static void port_forget(struct port *p)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!p->ncq[i])
            continue;
        p->ncq[i]->loose = true;
        p->ncq[i] = NULL;
        p->loose++;
    }
    if (p->loose)
        image_give_up(p->bus.unit[0]->drive->image);
    if (p->busy && p->bus.unit[0])
        ata_reset(p->bus.unit[0], true);
    p->busy = false;
    p->r->started = 0;
}

/* ---- what the drive asks for ---------------------------------------------------------------
 */

static void bus_error(struct port *p, struct ide_unit *u)
{
    port_event(p, IS_BUS_ERROR);
    ata_dma_failed(u);
}

static void op_send(struct ide_unit *u)
{
    struct port *p = port_of(u);
    struct ide_unit_regs *r = &u->r;
    u32 n = r->block - r->pos;
    bool bad;

    if (!r->dma)
        fis_pio_setup(p, u, n);
    u32 moved = prdt_move(p, &p->prdt, r->buf + r->pos, n, true, &bad);
    p->moved += moved;
    r->pos = r->block;
    if (bad) {
        bus_error(p, u);
        return;
    }
    if (!r->dma)
        p->r->is |= IS_PIO_SETUP;
    ata_sent(u); /* what has no room in the table is dropped, as the HBA does */
}

static void op_receive(struct ide_unit *u)
{
    struct port *p = port_of(u);
    struct ide_unit_regs *r = &u->r;
    u32 n = r->block - r->pos;
    bool bad = false;

    if (r->flow == FLOW_PACKET)
        bad = !ram_get(ram_of(p), p->prdt.table - 0x40, r->buf, 12);
    else if (prdt_move(p, &p->prdt, r->buf + r->pos, n, false, &bad) < n)
        bad = true;
    else
        p->moved += n;
    if (bad) {
        bus_error(p, u);
        return;
    }
    r->pos = r->block;
    ata_received(u);
}

static void op_end(struct ide_unit *u)
{
    struct port *p = port_of(u);
    bool error = u->r.status & ATA_ERR;

    if (!p->busy)
        return;
    p->busy = false;
    if (!ram_put_u32(ram_of(p), p->header + 4, p->moved))
        log_guest("%s: command list outside of memory", p->bus.name);
    fis_d2h(p, u);
    if (error) {
        p->r->stopped = true;
    } else {
        p->r->ci &= ~(1u << p->slot);
        p->r->started &= ~(1u << p->slot);
    }
    port_event(p, IS_D2H | (error ? IS_TASK_ERROR : 0));
}

static void op_loaded(struct ide_unit *u)
{
    irq_update(port_of(u)->s);
}

static void op_idle(struct ide_unit *u)
{
    port_run(port_of(u));
}

static const struct ide_bus_ops bus_ops = {
    .send = op_send, .receive = op_receive, .end = op_end, .loaded = op_loaded, .idle = op_idle
};

/* ---- registers -----------------------------------------------------------------------------
 */

static u32 port_read(struct port *p, u32 off)
{
    const struct port_regs *r = p->r;
    const struct ide_unit *u = p->bus.unit[0];

    switch (off) {
    case PX_CLB:
        return (u32)r->clb;
    case PX_CLBU:
        return (u32)(r->clb >> 32);
    case PX_FB:
        return (u32)r->fb;
    case PX_FBU:
        return (u32)(r->fb >> 32);
    case PX_IS:
        return r->is;
    case PX_IE:
        return r->ie;
    case PX_CMD:
        return r->cmd | (u && u->cd ? CMD_ATAPI : 0);
    case PX_TFD:
        return u ? u->r.status | (u32)u->r.error << 8 : 0x7f;
    case PX_SIG:
        return !u ? 0xffffffff : u->cd ? 0xeb140101 : 0x00000101;
    case PX_SSTS:
        return u ? 0x113 : 0; /* there, first generation, active */
    case PX_SCTL:
        return r->sctl;
    case PX_SERR:
        return r->serr;
    case PX_SACT:
        return r->sact;
    case PX_CI:
        return r->ci;
    }
    return 0;
}

/* COMRESET, from either end. */
static void port_reset(struct port *p)
{
    struct ide_unit *u = p->bus.unit[0];

    port_forget(p);
    p->r->sact = p->r->ci = 0;
    p->r->srst = p->r->stopped = false;
    if (!u)
        return;
    ata_reset(u, true);
    p->r->serr |= SERR_EXCHANGED;
    p->r->is |= IS_CONNECT;
    signature_fis(p);
}

static void cmd_write(struct port *p, u32 val)
{
    struct port_regs *r = p->r;
    u32 was = r->cmd;
    struct ide_unit *u = p->bus.unit[0];

    r->cmd = (was & ~(u32)CMD_WRITABLE) | (val & CMD_WRITABLE);
    r->cmd = (r->cmd & ~(u32)(CMD_FR | CMD_CR)) | (r->cmd & CMD_FRE ? CMD_FR : 0) |
             (r->cmd & CMD_ST ? CMD_CR : 0);
    if (val & CMD_CLO && u && !p->busy)
        u->r.status &= ~(ATA_BSY | ATA_DRQ);
    if (was & CMD_ST && !(val & CMD_ST)) {
        port_forget(p);
        r->ci = r->sact = 0;
        r->stopped = false;
        r->cmd &= ~0x1f00u;
    }
    if (val & CMD_ST && !(was & CMD_ST))
        port_run(p);
}

static void port_write(struct port *p, u32 off, u32 val)
{
    struct port_regs *r = p->r;

    switch (off) {
    case PX_CLB:
        r->clb = (r->clb & ~0xffffffffull) | (val & ~0x3ffu);
        break;
    case PX_CLBU:
        r->clb = (u32)r->clb | (u64)val << 32;
        break;
    case PX_FB:
        r->fb = (r->fb & ~0xffffffffull) | (val & ~0xffu);
        break;
    case PX_FBU:
        r->fb = (u32)r->fb | (u64)val << 32;
        break;
    case PX_IS:
        r->is &= ~val;
        irq_update(p->s);
        break;
    case PX_IE:
        r->ie = val;
        irq_update(p->s);
        break;
    case PX_CMD:
        cmd_write(p, val);
        break;
    case PX_SCTL:
        if ((r->sctl & 15) == 1 && (val & 15) != 1)
            port_reset(p);
        r->sctl = val & 0xfff;
        break;
    case PX_SERR:
        r->serr &= ~val;
        break;
    case PX_SACT:
        if (r->cmd & CMD_ST)
            r->sact |= val;
        break;
    case PX_CI:
        if (r->cmd & CMD_ST) {
            r->ci |= val;
            port_run(p);
        }
        break;
    }
}

static void hba_reset(struct ahci *s)
{
    for (unsigned i = 0; i < PORTS; i++) {
        struct port *p = &s->port[i];

        port_forget(p);
        memset(p->r, 0, sizeof *p->r);
        if (p->bus.unit[0])
            ata_reset(p->bus.unit[0], true);
    }
    s->r.ghc = GHC_AE;
    s->r.is = 0;
    irq_update(s);
}

static u64 ahci_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct ahci *s = ahci_of(d);

    if (off >= PORT_BASE && off < PORT_BASE + PORTS * PORT_LEN)
        return port_read(&s->port[(off - PORT_BASE) / PORT_LEN], off % PORT_LEN);
    switch (off) {
    case HBA_CAP: /* 64 bit, queuing, override, first generation, AHCI only, slots, ports */
        return 0xc1140000u | (SLOTS - 1) << 8 | (PORTS - 1);
    case HBA_GHC:
        return s->r.ghc;
    case HBA_IS:
        return s->r.is;
    case HBA_PI:
        return (1u << PORTS) - 1;
    case HBA_VS:
        return 0x00010301;
    }
    return 0;
}

static void ahci_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct ahci *s = ahci_of(d);

    if (off >= PORT_BASE && off < PORT_BASE + PORTS * PORT_LEN) {
        port_write(&s->port[(off - PORT_BASE) / PORT_LEN], off % PORT_LEN, (u32)val);
    } else if (off == HBA_GHC) {
        if (val & GHC_HR) {
            hba_reset(s);
            return;
        }
        s->r.ghc = GHC_AE | (val & GHC_IE);
        irq_update(s);
    } else if (off == HBA_IS) {
        s->r.is &= ~(u32)val;
        irq_update(s);
    }
}

static const struct region ahci_bar = {
    .name = "ahci", .len = 0x1000, .min = 4, .max = 4, .read = ahci_read, .write = ahci_write
};

/* ---- life ----------------------------------------------------------------------------------
 */

static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct ahci *s = opaque;

    for (unsigned i = 0; ev == VM_EV_STOP && i < PORTS; i++)
        ide_bus_drain(&s->port[i].bus);
    if (ev != VM_EV_RESUME)
        return;
    dev_lock(&s->pci.dev);
    for (unsigned i = 0; i < PORTS; i++) /* after a load nobody else would */
        port_run(&s->port[i]);
    dev_unlock(&s->pci.dev);
}

static bool ahci_init(struct dev *d, GError **error)
{
    struct ahci *s = ahci_of(d);

    if (!pci_init(&s->pci, error))
        return false;
    pci_bar_add(&s->pci, 5, PCI_BAR_MEM, &ahci_bar);
    pci_msi_add(&s->pci, 1);
    for (unsigned i = 0; i < PORTS; i++) {
        g_autofree char *name = g_strdup_printf("%s.%u", d->id, i);

        s->port[i].s = s;
        s->port[i].r = &s->r.port[i];
        ide_bus_init(&s->port[i].bus, d, &bus_ops, name, i, 1);
        s->port[i].bus.queues = true;
    }
    vm_listen(d->vm, heard, s);
    return true;
}

static void ahci_reset(struct dev *d)
{
    struct ahci *s = ahci_of(d);

    pci_reset(&s->pci);
    hba_reset(s);
    for (unsigned i = 0; i < PORTS; i++)
        if (s->port[i].bus.unit[0])
            ata_reset(s->port[i].bus.unit[0], false);
}

static void ahci_loaded(struct dev *d)
{
    struct ahci *s = ahci_of(d);

    pci_loaded(&s->pci);
    for (unsigned i = 0; i < PORTS; i++) {
        struct port *p = &s->port[i];
        struct ide_unit *u = p->bus.unit[0];

        port_forget(p);
        p->r->cmd &= CMD_WRITABLE | CMD_FR | CMD_CR | 0x1f00u;
        p->r->clb &= ~0x3ffull;
        p->r->fb &= ~0xffull;
        if (u && u->r.waits) /* such a command would never go on */
            ata_reset(u, true);
    }
    s->r.ghc = GHC_AE | (s->r.ghc & GHC_IE);
    irq_update(s);
}

static void ahci_fini(struct dev *d)
{
    struct ahci *s = ahci_of(d);

    vm_unlisten(d->vm, s);
    for (unsigned i = 0; i < PORTS; i++)
        ide_bus_fini(&s->port[i].bus);
    pci_fini(&s->pci);
}

static const struct prop ahci_props[] = {
    PCI_PROPS(struct ahci, pci),
    { 0 },
};

static const struct pci_type ahci_pci = {
    .vendor = 0x8086,
    .device = 0x2922,
    .class = 0x010601,
    .revision = 2,
    .pin = 1,
    .regs = offsetof(struct ahci, r.pci),
};

const struct dev_type ahci_type = {
    .name = "ich9-ahci",
    .desc = "AHCI controller",
    .kind = DEV_PCI,
    .size = sizeof(struct ahci),
    .props = ahci_props,
    .state = STATE_TABLE(struct ahci, r, ahci_fields),
    .init = ahci_init,
    .reset = ahci_reset,
    .loaded = ahci_loaded,
    .fini = ahci_fini,
    .more = &ahci_pci,
};
