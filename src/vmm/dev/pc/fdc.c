// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fdc.c - Intel 82078 floppy disk controller and its drives.
 * Intel 82078 data sheet (290474): 2 (registers), 4 to 6 (phases, commands, status registers).
 *
 * A command has three phases: its bytes are taken through the FIFO, data move (by DMA channel
 * 2, or byte by byte through the FIFO when SPECIFY said non-DMA), and result bytes are read.
 * Data of a whole command are in buf: what is read comes from the image at once, what is
 * written goes to it at once.
 *
 * The geometry follows from the image's size; what is smaller than its disk reads as zeroes at
 * the end.  A medium can be read only at its own data rate: systems find out the format that
 * way.
 *
 * Not modelled: time (seeks are done when asked for), scan commands, deleted data marks, gaps,
 * formatting to another layout than the medium has, tape drives.
 */
#include "vmm/dev/pc/fdc.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/bounce.h"
#include "vmm/dev/pc/misc.h"

enum { SRA, SRB, DOR, TDR, MSR_DSR, FIFO };
enum { DOR_SELECT = 0x03, DOR_RUN = 0x04, DOR_DMA = 0x08 };
enum { MSR_BUSY = 0x10, MSR_NONDMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_RATE = 0x03, DSR_RESET = 0x80, DIR_CHANGED = 0x80 };
enum { ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_SEEK = 0x20, ST0_CHECK = 0x10 };
enum {
    ST1_MISSING_MARK = 0x01,
    ST1_NOT_WRITABLE = 0x02,
    ST1_NO_DATA = 0x04,
    ST1_DATA_ERROR = 0x20,
    ST1_END = 0x80,
    ST2_MISSING_MARK = 0x01,
    ST2_WRONG_CYLINDER = 0x10,
};
enum { CONFIG_IMPLIED_SEEK = 0x40, SPECIFY_NONDMA = 0x01, MULTI_TRACK = 0x80 };
enum {
    READ_TRACK = 0x02,
    SPECIFY = 0x03,
    SENSE_DRIVE = 0x04,
    WRITE = 0x05,
    READ = 0x06,
    RECALIBRATE = 0x07,
    SENSE_INTERRUPT = 0x08,
    READ_ID = 0x0a,
    FORMAT = 0x0d,
    DUMP_REGISTERS = 0x0e,
    SEEK = 0x0f,
    VERSION = 0x10,
    PERPENDICULAR = 0x12,
    CONFIGURE = 0x13,
    LOCK = 0x14,
    VERIFY = 0x16,
    PART_ID = 0x18,
    DRIVE_SPECIFICATION = 0x0e | 0x80,
    RELATIVE_SEEK = 0x0f | 0x80,
};
enum { DRIVES = 2, SECTOR = 512, TRACK_MAX = 36, DMA_CHANNEL = 2, CYLINDERS_MAX = 85 };
enum phase { PHASE_COMMAND, PHASE_DATA, PHASE_WAIT, PHASE_RESULT };

static const struct geometry {
    u32 sectors;
    u8 cylinders, heads, per_track;
    u8 rate; /* of DSR: 0 is 500, 1 300, 2 250, 3 1000 kbit/s */
    u8 cmos; /* the drive that reads it */
} geometries[] = {
    { 2880, 80, 2, 18, 0, 4 }, { 5760, 80, 2, 36, 3, 5 }, { 2400, 80, 2, 15, 0, 2 },
    { 1440, 80, 2, 9, 2, 4 },  { 720, 40, 2, 9, 2, 4 },   { 640, 40, 2, 8, 2, 4 },
    { 360, 40, 1, 9, 2, 4 },   { 320, 40, 1, 8, 2, 4 },
};

struct floppy {
    struct dev dev;
    struct fdc *fdc;
    const struct geometry *g; /* of the medium */
    u8 cmos;                  /* what kind of drive it is */
    /* properties */
    struct drive *drive;
    u32 unit, bootindex;
};

struct fdc {
    struct dev dev;
    struct floppy *drive[DRIVES];
    struct bounce io;
    struct dev *dma; /* property */
    struct fdc_regs {
        u8 dor, tdr, dsr, config, precomp, lock, perpendicular;
        u8 specify[2];
        u8 phase, irq;
        u8 sense; /* drives that have not been sensed yet: 4 after a reset; 1: a seek is done */
        u8 st0;   /* of that seek */
        u8 cylinder[4], changed[4];
        u8 fifo[16], pos, need;
        u8 to_host, st1, st2;
        u8 c, h, r, per_side; /* the sector that the transfer began with; last of a side */
        u8 zero[2];
        u32 at, len; /* of buf */
        u32 lba;
        u8 buf[2 * TRACK_MAX * SECTOR];
    } r;
};

static const struct state_field fdc_fields[] = {
    STATE_INT(struct fdc_regs, dor),
    STATE_INT(struct fdc_regs, tdr),
    STATE_INT(struct fdc_regs, dsr),
    STATE_INT(struct fdc_regs, config),
    STATE_INT(struct fdc_regs, precomp),
    STATE_UINT(struct fdc_regs, lock, 1),
    STATE_INT(struct fdc_regs, perpendicular),
    STATE_BYTES(struct fdc_regs, specify),
    STATE_UINT(struct fdc_regs, phase, PHASE_RESULT),
    STATE_UINT(struct fdc_regs, irq, 1),
    STATE_UINT(struct fdc_regs, sense, 4),
    STATE_INT(struct fdc_regs, st0),
    STATE_UINTS(struct fdc_regs, cylinder, CYLINDERS_MAX),
    STATE_UINTS(struct fdc_regs, changed, 1),
    STATE_BYTES(struct fdc_regs, fifo),
    STATE_UINT(struct fdc_regs, pos, 16),
    STATE_UINT(struct fdc_regs, need, 16),
    STATE_UINT(struct fdc_regs, to_host, 1),
    STATE_INT(struct fdc_regs, st1),
    STATE_INT(struct fdc_regs, st2),
    STATE_INT(struct fdc_regs, c),
    STATE_UINT(struct fdc_regs, h, 1),
    STATE_INT(struct fdc_regs, r),
    STATE_UINT(struct fdc_regs, per_side, TRACK_MAX),
    STATE_PAD(struct fdc_regs, zero),
    STATE_UINT(struct fdc_regs, at, 2 * TRACK_MAX * SECTOR),
    STATE_UINT(struct fdc_regs, len, 2 * TRACK_MAX * SECTOR),
    STATE_INT(struct fdc_regs, lba),
    STATE_BYTES(struct fdc_regs, buf),
};

static struct fdc *fdc_of(struct dev *d)
{
    return container_of(d, struct fdc, dev);
}

/* NULL: there is no such drive. */
static struct floppy *drive_of(const struct fdc *s, unsigned unit)
{
    return unit < DRIVES ? s->drive[unit] : NULL;
}

static struct floppy *command_drive(const struct fdc *s)
{
    return drive_of(s, s->r.fifo[1] & 3);
}

static void irq_set_level(struct fdc *s, bool level)
{
    s->r.irq = level;
    irq_set(s->dev.irq[0], level && s->r.dor & DOR_DMA);
}

/* ---- phases --------------------------------------------------------------------------------
 */

static void await_command(struct fdc *s)
{
    s->r.phase = PHASE_COMMAND;
    s->r.pos = s->r.need = 0;
    s->r.at = s->r.len = 0;
}

static void result(struct fdc *s, u8 n, bool interrupt)
{
    s->r.phase = PHASE_RESULT;
    s->r.pos = 0;
    s->r.need = n;
    if (interrupt)
        irq_set_level(s, true);
}

static void reset(struct fdc *s)
{
    struct fdc_regs *r = &s->r;

    bounce_forget(&s->io);
    if (!r->lock)
        r->config = r->precomp = 0;
    r->perpendicular = 0;
    memset(r->cylinder, 0, sizeof r->cylinder);
    r->sense = 0;
    await_command(s);
    irq_set_level(s, false);
}

static void reset_end(struct fdc *s)
{
    s->r.sense = 4; /* one for each drive that could be there */
    irq_set_level(s, true);
}

/* The seven bytes after a transfer; the sector is the one after the last that was moved. */
static void transfer_result(struct fdc *s, u8 st0, u8 st1, u8 st2)
{
    struct fdc_regs *r = &s->r;
    u8 unit = r->fifo[1] & 3, n = r->fifo[5];
    u32 done = (r->at + SECTOR - 1) / SECTOR, next = r->r + done;

    if (!st1 && !st2 && r->per_side && next > r->per_side) {
        next -= r->per_side;
        if (r->fifo[0] & MULTI_TRACK && !r->h && next <= r->per_side) {
            r->h = 1;
        } else {
            next = 1;
            r->c++;
            r->h = r->fifo[0] & MULTI_TRACK ? 0 : r->h;
        }
    }
    u8 out[7] = { (u8)(st0 | (r->fifo[1] & 4) | unit), st1, st2, r->c, r->h, (u8)next, n };

    memcpy(r->fifo, out, sizeof out);
    result(s, sizeof out, true);
}

/* ---- data ----------------------------------------------------------------------------------
 */

static void write_back(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    struct floppy *f = command_drive(s);
    u32 n = ROUND_UP(r->at, (u32)SECTOR);

    if (!f || !f->drive->image) {
        transfer_result(s, ST0_ABNORMAL, ST1_MISSING_MARK, 0);
        return;
    }
    memset(r->buf + r->at, 0, n - r->at);
    u64 at = (u64)r->lba * SECTOR, size = image_size(f->drive->image);
    if (!n || at >= size) { /* beyond the file: there is no room */
        transfer_result(s, n ? ST0_ABNORMAL : 0, n ? ST1_DATA_ERROR : 0, 0);
        return;
    }
    r->phase = PHASE_WAIT;
    bounce_start(&s->io, f->drive->image, BOUNCE_WRITE, at, (u32)MIN((u64)n, size - at), r->buf,
                 true);
}

/* All that will move has moved. */
static void data_done(struct fdc *s, bool terminal)
{
    struct fdc_regs *r = &s->r;
    u8 st1 = terminal ? 0 : ST1_END;

    r->st1 = st1;
    if (r->to_host || !r->at)
        transfer_result(s, st1 ? ST0_ABNORMAL : 0, st1, 0);
    else
        write_back(s);
}

static bool by_dma(const struct fdc *s)
{
    return !(s->r.specify[1] & SPECIFY_NONDMA);
}

static void data_begin(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    bool terminal = false;

    r->phase = PHASE_DATA;
    r->at = 0;
    if (!by_dma(s)) {
        irq_set_level(s, true);
        return;
    }
    if (r->dor & DOR_DMA)
        r->at = dma_move(s->dma, DMA_CHANNEL, r->buf, r->len, r->to_host, &terminal);
    data_done(s, terminal);
}

static void io_came(void *opaque, enum bounce_op op, int ret, const u8 *bytes, u32 len)
{
    struct fdc *s = opaque;
    struct fdc_regs *r = &s->r;

    if (ret) {
        log_guest("floppy %u: I/O error at sector %u", r->fifo[1] & 3, r->lba);
        r->at = 0;
        transfer_result(s, ST0_ABNORMAL, ST1_DATA_ERROR, 0);
    } else if (op == BOUNCE_READ) {
        memcpy(r->buf, bytes, len);
        data_begin(s);
    } else {
        transfer_result(s, r->st1 ? ST0_ABNORMAL : 0, r->st1, 0);
    }
}

/* Finds the command's sectors; false: it has been answered with an error. */
static bool address(struct fdc *s, struct floppy *f)
{
    struct fdc_regs *r = &s->r;
    u8 unit = r->fifo[1] & 3, head = r->fifo[1] >> 2 & 1;
    u8 c = r->fifo[2], h = r->fifo[3], sector = r->fifo[4], eot = r->fifo[6];

    r->at = r->per_side = 0;
    r->c = c;
    r->h = h & 1;
    r->r = sector;
    if (!f || !f->drive->image || (r->dsr & DSR_RATE) != f->g->rate) {
        transfer_result(s, ST0_ABNORMAL, ST1_MISSING_MARK, ST2_MISSING_MARK);
        return false;
    }
    if (r->config & CONFIG_IMPLIED_SEEK && c < f->g->cylinders)
        r->cylinder[unit] = c;
    if (c != r->cylinder[unit] || c >= f->g->cylinders) {
        transfer_result(s, ST0_ABNORMAL, ST1_NO_DATA, ST2_WRONG_CYLINDER);
        return false;
    }
    if (h != head || head >= f->g->heads || !sector || sector > f->g->per_track ||
        r->fifo[5] != 2) {
        transfer_result(s, ST0_ABNORMAL, ST1_NO_DATA, 0);
        return false;
    }
    r->per_side = (u8)CLAMP(eot, sector, f->g->per_track);
    u32 n = r->per_side - sector + 1u;
    if (r->fifo[0] & MULTI_TRACK && !head && f->g->heads > 1)
        n += r->per_side;
    r->lba = ((u32)c * f->g->heads + head) * f->g->per_track + sector - 1;
    /* both sides follow each other only where a side is read to its end */
    if (r->per_side < f->g->per_track)
        n = r->per_side - sector + 1u;
    r->len = n * SECTOR;
    return true;
}

static void read_begin(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    struct floppy *f = command_drive(s);

    if (!address(s, f))
        return;
    u64 at = (u64)r->lba * SECTOR, size = image_size(f->drive->image);
    u32 n = at < size ? (u32)MIN((u64)r->len, size - at) : 0;

    r->to_host = true;
    memset(r->buf + n, 0, r->len - n);
    if (!n) {
        data_begin(s);
        return;
    }
    r->phase = PHASE_WAIT;
    bounce_start(&s->io, f->drive->image, BOUNCE_READ, at, n, NULL, false);
}

static bool writable(struct fdc *s, const struct floppy *f)
{
    if (!f || !f->drive->image || !image_read_only(f->drive->image))
        return true;
    s->r.at = 0;
    transfer_result(s, ST0_ABNORMAL, ST1_NOT_WRITABLE, 0);
    return false;
}

static void write_begin(struct fdc *s)
{
    struct floppy *f = command_drive(s);

    if (!address(s, f) || !writable(s, f))
        return;
    s->r.to_host = false;
    data_begin(s);
}

static void verify(struct fdc *s)
{
    if (address(s, command_drive(s))) {
        s->r.at = s->r.len;
        transfer_result(s, 0, 0, 0);
    }
}

/* The ids of a track's sectors come by DMA; the layout stays what it is. */
static void format_track(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    struct floppy *f = command_drive(s);
    u8 head = r->fifo[1] >> 2 & 1, fill = r->fifo[5], n = r->fifo[3];
    u8 unit = r->fifo[1] & 3, ids[4 * TRACK_MAX];
    bool tc = false;

    r->c = r->cylinder[unit];
    r->h = head;
    r->r = 1;
    r->at = r->per_side = 0;
    if (!f || !f->drive->image || head >= f->g->heads || r->c >= f->g->cylinders ||
        n != f->g->per_track || r->fifo[2] != 2 || !by_dma(s)) {
        transfer_result(s, ST0_ABNORMAL, ST1_NO_DATA, 0);
        return;
    }
    if (!writable(s, f))
        return;
    dma_move(s->dma, DMA_CHANNEL, ids, 4u * n, false, &tc);
    r->lba = ((u32)r->c * f->g->heads + head) * f->g->per_track;
    r->at = n * (u32)SECTOR;
    memset(r->buf, fill, r->at);
    r->st1 = 0;
    write_back(s);
}

static void read_id(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    struct floppy *f = command_drive(s);
    u8 unit = r->fifo[1] & 3;

    r->at = r->per_side = 0;
    r->c = r->cylinder[unit];
    r->h = r->fifo[1] >> 2 & 1;
    r->r = 1;
    r->fifo[5] = 2;
    if (!f || !f->drive->image || (r->dsr & DSR_RATE) != f->g->rate ||
        r->c >= f->g->cylinders || r->h >= f->g->heads)
        transfer_result(s, ST0_ABNORMAL, ST1_MISSING_MARK, ST2_MISSING_MARK);
    else
        transfer_result(s, 0, 0, 0);
}

/* ---- commands ------------------------------------------------------------------------------
 */

static void seek(struct fdc *s, u32 cylinder)
{
    struct fdc_regs *r = &s->r;
    u8 unit = r->fifo[1] & 3;
    struct floppy *f = drive_of(s, unit);

    r->st0 = ST0_SEEK | (r->fifo[1] & 7);
    if (f) {
        r->cylinder[unit] = (u8)MIN(cylinder, (u32)CYLINDERS_MAX);
        if (f->drive->image)
            r->changed[unit] = false;
    } else if ((r->fifo[0] & 0x1f) == RECALIBRATE) {
        r->st0 |= ST0_ABNORMAL | ST0_CHECK; /* track 0 was not found */
    }
    r->sense = 1;
    await_command(s);
    irq_set_level(s, true);
}

static void sense_interrupt(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    u8 n = 2, st0 = r->st0, cylinder = r->cylinder[st0 & 3];

    if (r->sense > 1 || (r->sense == 1 && (st0 & 0xc0) == 0xc0)) { /* after a reset */
        st0 = (u8)(0xc0 | (4 - r->sense));
        cylinder = r->cylinder[4 - r->sense];
        r->st0 = 0xc0;
        r->sense--;
    } else if (r->sense) {
        r->sense = 0;
    } else {
        st0 = ST0_INVALID;
        n = 1;
    }
    r->fifo[0] = st0;
    r->fifo[1] = cylinder;
    irq_set_level(s, false);
    result(s, n, false);
}

static void sense_drive(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    u8 unit = r->fifo[1] & 3;
    struct floppy *f = drive_of(s, unit);
    bool protected = f && f->drive->image && image_read_only(f->drive->image);

    r->fifo[0] = 0x28 | (r->fifo[1] & 7);
    if (protected)
        r->fifo[0] |= 0x40;
    if (f && !r->cylinder[unit])
        r->fifo[0] |= 0x10;
    result(s, 1, false);
}

static void dump_registers(struct fdc *s)
{
    struct fdc_regs *r = &s->r;

    memcpy(r->fifo, r->cylinder, 4);
    r->fifo[4] = r->specify[0];
    r->fifo[5] = r->specify[1];
    r->fifo[6] = 0;
    r->fifo[7] = (u8)(r->lock << 7 | (r->perpendicular & 0x7f));
    r->fifo[8] = r->config;
    r->fifo[9] = r->precomp;
    result(s, 10, false);
}

static u8 code_of(u8 first)
{
    if (first == DRIVE_SPECIFICATION || (first & 0xbf) == RELATIVE_SEEK)
        return first & 0xbf;
    return first & 0x1f;
}

/* Bytes of a command with its first one. */
static u8 command_length(u8 first)
{
    switch (code_of(first)) {
    case READ_TRACK:
    case WRITE:
    case READ:
    case VERIFY:
        return 9;
    case FORMAT:
        return 6;
    case CONFIGURE:
        return 4;
    case SPECIFY:
    case SEEK:
    case RELATIVE_SEEK:
        return 3;
    case SENSE_DRIVE:
    case RECALIBRATE:
    case READ_ID:
    case PERPENDICULAR:
        return 2;
    case DRIVE_SPECIFICATION:
        return 6;
    }
    return 1;
}

static void execute(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    u8 unit = r->fifo[1] & 3;

    switch (code_of(r->fifo[0])) {
    case READ:
    case READ_TRACK:
        read_begin(s);
        return;
    case WRITE:
        write_begin(s);
        return;
    case VERIFY:
        verify(s);
        return;
    case FORMAT:
        format_track(s);
        return;
    case READ_ID:
        read_id(s);
        return;
    case SPECIFY:
        memcpy(r->specify, r->fifo + 1, 2);
        break;
    case CONFIGURE:
        r->config = r->fifo[2];
        r->precomp = r->fifo[3];
        break;
    case PERPENDICULAR:
        r->perpendicular = r->fifo[1] & 0x80 ? r->fifo[1] & 0x7f
                                             : (r->perpendicular & 0x7c) | (r->fifo[1] & 3);
        break;
    case DRIVE_SPECIFICATION:
        break;
    case SEEK:
        seek(s, r->fifo[2]);
        return;
    case RELATIVE_SEEK:
        if (r->fifo[0] & 0x40)
            seek(s, r->cylinder[unit] + r->fifo[2]);
        else
            seek(s, r->cylinder[unit] - MIN(r->fifo[2], r->cylinder[unit]));
        return;
    case RECALIBRATE:
        seek(s, 0);
        return;
    case SENSE_INTERRUPT:
        sense_interrupt(s);
        return;
    case SENSE_DRIVE:
        sense_drive(s);
        return;
    case DUMP_REGISTERS:
        dump_registers(s);
        return;
    case VERSION:
        r->fifo[0] = 0x90;
        result(s, 1, false);
        return;
    case PART_ID:
        r->fifo[0] = 0x41;
        result(s, 1, false);
        return;
    case LOCK:
        r->lock = r->fifo[0] >> 7;
        r->fifo[0] = (u8)(r->lock << 4);
        result(s, 1, false);
        return;
    default:
        r->fifo[0] = ST0_INVALID;
        result(s, 1, false);
        return;
    }
    await_command(s);
}

/* ---- registers -----------------------------------------------------------------------------
 */

static u8 main_status(const struct fdc *s)
{
    const struct fdc_regs *r = &s->r;

    if (!(r->dor & DOR_RUN))
        return 0;
    switch ((enum phase)r->phase) {
    case PHASE_COMMAND:
        return MSR_RQM | (r->pos ? MSR_BUSY : 0);
    case PHASE_DATA:
        return MSR_RQM | MSR_NONDMA | MSR_BUSY | (r->to_host ? MSR_DIO : 0);
    case PHASE_WAIT:
        return MSR_BUSY;
    case PHASE_RESULT:
        break;
    }
    return MSR_RQM | MSR_DIO | MSR_BUSY;
}

static void data_byte_moved(struct fdc *s)
{
    irq_set_level(s, true);
    if (++s->r.at >= s->r.len)
        data_done(s, true);
}

static u8 fifo_read(struct fdc *s)
{
    struct fdc_regs *r = &s->r;
    u8 val = 0;

    if (r->phase == PHASE_DATA && r->to_host && r->at < r->len) {
        val = r->buf[r->at];
        irq_set_level(s, false);
        data_byte_moved(s);
    } else if (r->phase == PHASE_RESULT) {
        irq_set_level(s, false);
        if (r->pos < sizeof r->fifo)
            val = r->fifo[r->pos++];
        if (r->pos >= r->need)
            await_command(s);
    }
    return val;
}

static void fifo_write(struct fdc *s, u8 val)
{
    struct fdc_regs *r = &s->r;

    if (!(r->dor & DOR_RUN))
        return;
    if (r->phase == PHASE_DATA && !r->to_host && r->at < r->len) {
        r->buf[r->at] = val;
        irq_set_level(s, false);
        data_byte_moved(s);
        return;
    }
    if (r->phase != PHASE_COMMAND)
        return;
    if (!r->pos)
        r->need = command_length(val);
    r->fifo[r->pos++] = val;
    if (r->pos >= r->need)
        execute(s);
}

static u64 fdc_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct fdc *s = fdc_of(d);

    switch (off) {
    case SRA:
        return s->r.irq << 7;
    case SRB:
        return 0xc0;
    case DOR:
        return s->r.dor;
    case TDR:
        return s->r.tdr;
    case MSR_DSR:
        return main_status(s);
    case FIFO:
        return fifo_read(s);
    }
    return 0xff;
}

static void fdc_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct fdc *s = fdc_of(d);
    u8 was = s->r.dor;

    switch (off) {
    case DOR:
        s->r.dor = (u8)val;
        if (!(val & DOR_RUN) && was & DOR_RUN)
            reset(s);
        else if (val & DOR_RUN && !(was & DOR_RUN))
            reset_end(s);
        else
            irq_set_level(s, s->r.irq);
        break;
    case TDR:
        s->r.tdr = val & 3;
        break;
    case MSR_DSR:
        s->r.dsr = (u8)(val & ~DSR_RESET);
        if (val & DSR_RESET) {
            reset(s);
            reset_end(s);
        }
        break;
    case FIFO:
        fifo_write(s, (u8)val);
        break;
    }
}

static u64 dir_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    struct fdc *s = fdc_of(d);
    u8 unit = s->r.dor & DOR_SELECT;

    return drive_of(s, unit) && s->r.changed[unit] ? DIR_CHANGED : 0;
}

static void ccr_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    struct fdc *s = fdc_of(d);

    s->r.dsr = (u8)((s->r.dsr & ~DSR_RATE) | (val & DSR_RATE));
}

static const struct region fdc_ports = {
    .name = "fdc", .len = 6, .min = 1, .max = 1, .read = fdc_read, .write = fdc_write
};
static const struct region fdc_dir = {
    .name = "fdc-dir", .len = 1, .min = 1, .max = 1, .read = dir_read, .write = ccr_write
};

/* ---- life ----------------------------------------------------------------------------------
 */

static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct fdc *s = opaque;

    for (unsigned i = 0; ev == VM_EV_STOP && i < DRIVES; i++)
        if (s->drive[i] && s->drive[i]->drive->image)
            image_quiesce(s->drive[i]->drive->image);
}

static bool fdc_init(struct dev *d, GError **error)
{
    struct fdc *s = fdc_of(d);

    if (!s->dma)
        return fail(error, ERR_ARGUMENT, "it needs DMA controllers");
    s->io = (struct bounce){ .dev = d, .came = io_came, .opaque = s };
    vm_listen(d->vm, heard, s);
    return true;
}

static void fdc_reset(struct dev *d)
{
    struct fdc *s = fdc_of(d);

    bounce_forget(&s->io);
    memset(&s->r, 0, offsetof(struct fdc_regs, buf));
    s->r.dor = DOR_RUN | DOR_DMA;
    s->r.dsr = 2;
    memset(s->r.changed, 1, sizeof s->r.changed);
    irq_set_level(s, false);
}

/* What was under way has not been saved; what cannot be is not believed. */
static void fdc_loaded(struct dev *d)
{
    struct fdc *s = fdc_of(d);
    struct fdc_regs *r = &s->r;
    bool bad = r->phase == PHASE_WAIT || r->at > r->len || r->pos > r->need;

    bad |= r->phase == PHASE_COMMAND && r->need && r->pos >= r->need;
    bad |= r->phase == PHASE_COMMAND && (r->pos != 0) != (r->need != 0);
    bad |= r->phase == PHASE_DATA && (by_dma(s) || r->at >= r->len);
    bounce_forget(&s->io);
    if (bad)
        reset(s);
    irq_set_level(s, r->irq);
}

static void fdc_fini(struct dev *d)
{
    struct fdc *s = fdc_of(d);

    vm_unlisten(d->vm, s);
    for (unsigned i = 0; i < DRIVES; i++)
        if (s->drive[i])
            s->drive[i]->fdc = NULL;
}

static const struct prop fdc_props[] = {
    PROP(struct fdc, dma, PROP_PTR, .name = "dma", .help = "DMA controllers"),
    { 0 },
};

const struct dev_type fdc_type = {
    .name = "isa-fdc",
    .desc = "Floppy controller",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct fdc),
    .io = { &fdc_ports, &fdc_dir },
    .irqs = 1,
    .props = fdc_props,
    .state = STATE_TABLE(struct fdc, r, fdc_fields),
    .init = fdc_init,
    .reset = fdc_reset,
    .loaded = fdc_loaded,
    .fini = fdc_fini,
};

/* ---- drives --------------------------------------------------------------------------------
 */

static void medium_look(struct floppy *f)
{
    u64 n = f->drive->image ? (image_size(f->drive->image) + SECTOR - 1) / SECTOR : 2880;

    f->g = &geometries[0];
    for (u32 i = 0; i < ARRAY_LEN(geometries); i++)
        if (geometries[i].sectors == n)
            f->g = &geometries[i];
    if (n > 2880 && f->g == &geometries[0])
        f->g = &geometries[1];
}

static void op_changed(void *opaque)
{
    struct floppy *f = opaque;

    medium_look(f);
    f->fdc->r.changed[f->unit] = true;
}

static bool op_busy(void *opaque)
{
    return bounce_busy(&((struct floppy *)opaque)->fdc->io);
}

static const struct drive_ops floppy_ops = { .changed = op_changed, .busy = op_busy };

static struct fdc *fdc_find(const struct vm *vm)
{
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];

        if (d->type == &fdc_type)
            return fdc_of(d);
    }
    return NULL;
}

static bool floppy_init(struct dev *d, GError **error)
{
    struct floppy *f = container_of(d, struct floppy, dev);
    struct fdc *s = fdc_find(d->vm);

    if (!s)
        return fail(error, ERR_ARGUMENT, "there is no floppy controller to put it on");
    if (f->unit == UINT32_MAX)
        f->unit = s->drive[0] ? 1 : 0;
    if (f->unit >= DRIVES || s->drive[f->unit])
        return fail(error, ERR_BUSY, "there is no room for unit %u", f->unit);
    if (f->drive && f->drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", f->drive->id);
    if (!f->drive)
        f->drive = drive_new(d->vm, d->id, NULL, false);
    f->fdc = s;
    medium_look(f);
    f->cmos = f->g->cmos;
    drive_attach(f->drive, d, &s->dev, &floppy_ops, f);
    dev_lock(&s->dev);
    s->drive[f->unit] = f;
    dev_unlock(&s->dev);
    return true;
}

static void floppy_fini(struct dev *d)
{
    struct floppy *f = container_of(d, struct floppy, dev);

    if (f->fdc) {
        dev_lock(&f->fdc->dev);
        bounce_forget(&f->fdc->io);
        dev_unlock(&f->fdc->dev);
        if (f->drive->image)
            image_drain(f->drive->image);
        dev_lock(&f->fdc->dev);
        f->fdc->drive[f->unit] = NULL;
        dev_unlock(&f->fdc->dev);
    }
    drive_detach(f->drive);
}

u8 fdc_cmos_type(struct dev *d, unsigned unit)
{
    const struct floppy *f = drive_of(fdc_of(d), unit);

    return f ? f->cmos : 0;
}

struct dev *fdc_of_floppy(struct dev *d, unsigned *ret_unit, u32 *ret_bootindex)
{
    if (d->type != &floppy_type)
        return NULL;
    const struct floppy *f = container_of(d, struct floppy, dev);

    *ret_unit = f->unit;
    *ret_bootindex = f->bootindex;
    return &f->fdc->dev;
}

static const struct prop floppy_props[] = {
    PROP(struct floppy, drive, PROP_PTR, .name = "drive", .link = "medium",
         .help = "what is in it"),
    PROP(struct floppy, unit, PROP_U32, .name = "unit", .def = "4294967295",
         .help = "0: drive A, 1: drive B"),
    PROP(struct floppy, bootindex, PROP_U32, .name = "bootindex", .def = "4294967295",
         .help = "place in the boot order, lowest first"),
    { 0 },
};

const struct dev_type floppy_type = {
    .name = "floppy",
    .desc = "Floppy drive",
    .kind = DEV_FLOPPY,
    .size = sizeof(struct floppy),
    .props = floppy_props,
    .init = floppy_init,
    .fini = floppy_fini,
};
