// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * atapi.c - the packet commands of a CD/DVD-ROM drive.
 * INCITS 396 (MMC-5) and T10/1228-D (MMC-2) for READ CD and READ TOC; SPC-3 for sense data;
 * SFF-8020i for what ATAPI adds (interrupt reason, byte count).
 *
 * The medium is one data track of 2048-byte sectors, as an ISO image has it.  Raw sectors are
 * made on the way (mode 1, error correction zero, which no reader of a working drive checks).
 *
 * A medium is there for the guest while there is an image and the tray is closed.  Opening the
 * tray leaves the image in it; a monitor's eject takes it out.
 *
 * Not modelled: audio, writing, changers, DVD structures, mode select.
 */
#include <string.h>

#include "vmm/dev/ide/ide.h"
#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/mmc.h"

enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    READ_SUBCHANNEL = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    MODE_SENSE_10 = 0x5a,
    READ_12 = 0xa8,
    SET_CD_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd,
    READ_CD = 0xbe,
};
enum { NO_SENSE = 0, NOT_READY = 2, MEDIUM_ERROR = 3, ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6 };
enum {
    ASC_READ_ERROR = 0x11,
    ASC_OPCODE = 0x20,
    ASC_RANGE = 0x21,
    ASC_FIELD = 0x24,
    ASC_MEDIUM_CHANGED = 0x28,
    ASC_POWER_ON = 0x29,
    ASC_SAVING = 0x39,
    ASC_NO_MEDIUM = 0x3a,
    ASC_REMOVAL_PREVENTED = 0x53,
    ASC_TRACK_MODE = 0x64,
};
enum { RAW_SECTOR = 2352 };

static bool medium_there(const struct ide_unit *u)
{
    return u->drive->image && !u->r.tray_open;
}

static u32 cd_sectors(const struct ide_unit *u)
{
    u64 n = u->drive->image ? image_size(u->drive->image) / ATA_CD_SECTOR : 0;

    return (u32)MIN(n, (u64)UINT32_MAX);
}

/* ---- ends ----------------------------------------------------------------------------------
 */

static void done(struct ide_unit *u)
{
    u->r.sense = u->r.asc = u->r.ascq = 0;
    u->r.count = ATAPI_IO | ATAPI_COD;
    ata_end(u, 0);
}

static void failed(struct ide_unit *u, u8 sense, u8 asc, u8 ascq)
{
    u->r.sense = sense;
    u->r.asc = asc;
    u->r.ascq = ascq;
    u->r.count = ATAPI_IO | ATAPI_COD;
    ata_end(u, (u8)(sense << 4) | ATA_ABRT);
}

static void no_medium(struct ide_unit *u)
{
    failed(u, NOT_READY, ASC_NO_MEDIUM, u->r.tray_open ? 2 : 1);
}

/* The next part of buf[pos..len): all of it by DMA, a DRQ block by PIO. */
static void block_send(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;
    u32 left = r->len - r->pos, max = r->limit ? r->limit : 0xfffe;

    if (max == 0xffff || (left > max && max & 1))
        max--;
    if (!max)
        max = 2;
    u32 n = r->dma ? left : MIN(left, max);
    r->block = r->pos + n;
    r->count = ATAPI_IO;
    if (!r->dma) {
        r->lbam = (u8)n;
        r->lbah = (u8)(n >> 8);
    }
    r->status = ATA_DRDY | ATA_SRV;
    r->waits = true;
    u->bus->ops->send(u);
}

/* n bytes of buf, no more than the host has room for. */
static void reply(struct ide_unit *u, u32 n, u32 room)
{
    u->r.flow = FLOW_BUF_IN;
    u->r.len = MIN(n, room);
    u->r.pos = 0;
    u->r.left = 0;
    if (u->r.len)
        block_send(u);
    else
        done(u);
}

/* ---- reading -------------------------------------------------------------------------------
 */

static void read_next(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;
    u32 n = MIN(r->left, ATA_BUF / (r->cd_raw ? RAW_SECTOR : ATA_CD_SECTOR));

    if (!medium_there(u)) {
        no_medium(u);
        return;
    }
    if (n > cd_sectors(u) || r->lba > cd_sectors(u) - n) {
        failed(u, ILLEGAL_REQUEST, ASC_RANGE, 0);
        return;
    }
    ata_io(u, BOUNCE_READ, r->lba * ATA_CD_SECTOR, n * ATA_CD_SECTOR);
}

static void read_begin(struct ide_unit *u, u32 lba, u32 n, bool raw)
{
    struct ide_unit_regs *r = &u->r;

    if (n > cd_sectors(u) || lba > cd_sectors(u) - n) {
        failed(u, ILLEGAL_REQUEST, ASC_RANGE, 0);
        return;
    }
    if (!n) {
        done(u);
        return;
    }
    r->flow = FLOW_CD_IN;
    r->lba = lba;
    r->left = n;
    r->cd_raw = raw;
    read_next(u);
}

static u8 bcd(u8 v)
{
    return (u8)(v / 10 << 4 | v % 10);
}

/* Makes raw sectors of n plain ones, in place, from the last. */
static void expand(u8 *buf, u32 lba, u32 n)
{
    while (n--) {
        u8 *s = buf + n * RAW_SECTOR, msf[3];

        memmove(s + 16, buf + n * ATA_CD_SECTOR, ATA_CD_SECTOR);
        memset(s, 0xff, 12);
        s[0] = s[11] = 0;
        mmc_put_msf(msf, lba + n);
        for (int i = 0; i < 3; i++)
            s[12 + i] = bcd(msf[i]);
        s[15] = 1;
        memset(s + 16 + ATA_CD_SECTOR, 0, RAW_SECTOR - 16 - ATA_CD_SECTOR);
    }
}

void atapi_read_done(struct ide_unit *u, int ret)
{
    struct ide_unit_regs *r = &u->r;
    u32 n = MIN(r->left, ATA_BUF / (r->cd_raw ? RAW_SECTOR : ATA_CD_SECTOR));

    if (ret) {
        failed(u, MEDIUM_ERROR, ASC_READ_ERROR, 0);
        return;
    }
    if (r->cd_raw)
        expand(r->buf, (u32)r->lba, n);
    r->lba += n;
    r->left -= n;
    r->len = n * (r->cd_raw ? RAW_SECTOR : ATA_CD_SECTOR);
    r->pos = 0;
    block_send(u);
}

void atapi_next(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    r->pos = r->block;
    if (r->pos < r->len)
        block_send(u);
    else if (r->flow == FLOW_CD_IN && r->left)
        read_next(u);
    else
        done(u);
}

static void read_cd(struct ide_unit *u, const u8 *c)
{
    u32 lba, n;

    switch (mmc_read_cd(c, &lba, &n)) {
    case MMC_READ_NOTHING:
        done(u);
        break;
    case MMC_READ_DATA:
        read_begin(u, lba, n, false);
        break;
    case MMC_READ_RAW:
        read_begin(u, lba, n, true);
        break;
    case MMC_READ_AUDIO:
        failed(u, ILLEGAL_REQUEST, ASC_TRACK_MODE, 0);
        break;
    case MMC_READ_BAD:
        failed(u, ILLEGAL_REQUEST, ASC_FIELD, 0);
        break;
    }
}

/* ---- what the drive says -------------------------------------------------------------------
 */

void atapi_identify(struct ide_unit *u)
{
    u16 w[256] = { 0 };
    u8 mode = u->r.transfer_mode;

    w[0] = 0x85c0; /* CD-ROM, removable, 12-byte packets, DRQ within 50 us */
    ata_identify_strings(u, w);
    w[48] = 1;
    w[49] = 0x0f00;
    w[53] = 7;
    w[63] = 7 | ((mode & 0xf8) == 0x20 ? 1 << (8 + (mode & 7)) : 0);
    w[64] = 3;
    w[65] = w[66] = w[67] = w[68] = 120;
    w[71] = w[72] = 30;
    w[80] = 0x00f0;
    w[81] = 0x0016;
    w[82] = 0x4210; /* NOP, DEVICE RESET, PACKET */
    w[83] = w[84] = 0x4000;
    w[85] = 0x4210;
    w[87] = 0x4000;
    w[88] = 0x3f | ((mode & 0xf8) == 0x40 ? 1 << (8 + (mode & 7)) : 0);
    w[93] = 0x6001;
    for (int i = 0; i < 256; i++) {
        u->r.buf[2 * i] = (u8)w[i];
        u->r.buf[2 * i + 1] = (u8)(w[i] >> 8);
    }
}

static void inquiry(struct ide_unit *u, const u8 *c)
{
    u8 *b = u->r.buf;

    if (c[1] & 1 || c[2]) { /* vital product data */
        failed(u, ILLEGAL_REQUEST, ASC_FIELD, 0);
        return;
    }
    memset(b, 0, 36);
    b[0] = 0x05; /* CD/DVD */
    b[1] = 0x80; /* removable */
    b[3] = 0x21; /* ATAPI, response format */
    b[4] = 31;
    ata_put_string(b + 8, "POSADA", 8);
    ata_put_string(b + 16, u->model, 16);
    ata_put_string(b + 32, u->version, 4);
    reply(u, 36, get_be16(c + 3));
}

static void request_sense(struct ide_unit *u, const u8 *c)
{
    struct ide_unit_regs *r = &u->r;
    u8 *b = r->buf;

    if (!r->sense && r->attention) {
        r->sense = UNIT_ATTENTION;
        r->asc = r->attention;
        r->attention = 0;
    }
    memset(b, 0, 18);
    b[0] = 0x70;
    b[2] = r->sense;
    b[7] = 10;
    b[12] = r->asc;
    b[13] = r->ascq;
    r->sense = r->asc = r->ascq = 0;
    reply(u, 18, c[4]);
}

static struct mmc_drive drive_of(const struct ide_unit *u)
{
    return (struct mmc_drive){ .sectors = cd_sectors(u),
                               .there = medium_there(u),
                               .tray_open = u->r.tray_open,
                               .locked = u->r.locked,
                               .atapi = true };
}

/* An answer of n bytes in buf; none: it was not asked rightly. */
static void answer(struct ide_unit *u, u32 n, u32 room)
{
    if (n)
        reply(u, n, room);
    else
        failed(u, ILLEGAL_REQUEST, ASC_FIELD, 0);
}

static void mode_sense(struct ide_unit *u, const u8 *c)
{
    static const u8 pages[] = { 0x01, 0x0e, 0x2a };
    const struct mmc_drive d = drive_of(u);
    u8 *b = u->r.buf, page = c[2] & 0x3f, control = c[2] >> 6;
    u32 n = 8;

    if (control == 3) {
        failed(u, ILLEGAL_REQUEST, ASC_SAVING, 0);
        return;
    }
    memset(b, 0, 8);
    for (u32 i = 0; i < ARRAY_LEN(pages); i++)
        if (page == pages[i] || page == 0x3f)
            n += mmc_mode_page(&d, pages[i], control == 1, b + n);
    put_be16(b, n - 2);
    b[2] = mmc_medium_type(&d);
    answer(u, n == 8 ? 0 : n, get_be16(c + 7));
}

static void start_stop(struct ide_unit *u, const u8 *c)
{
    struct ide_unit_regs *r = &u->r;
    bool load = c[4] & 2, start = c[4] & 1;

    if (!load || c[4] >> 4) { /* spin up or down, power conditions */
        done(u);
        return;
    }
    if (!start && r->locked && !r->tray_open) {
        failed(u, medium_there(u) ? ILLEGAL_REQUEST : NOT_READY, ASC_REMOVAL_PREVENTED, 2);
        return;
    }
    if (r->tray_open == start) {
        atapi_drive_ops.set_tray(u, !start);
        drive_tray_moved(u->drive, !start);
    }
    done(u);
}

/* ---- commands ------------------------------------------------------------------------------
 */

static void command(struct ide_unit *u, const u8 *c)
{
    const struct mmc_drive d = drive_of(u);
    u8 *b = u->r.buf;

    switch (c[0]) {
    case TEST_UNIT_READY:
    case SET_CD_SPEED:
        done(u);
        break;
    case REQUEST_SENSE:
        request_sense(u, c);
        break;
    case INQUIRY:
        inquiry(u, c);
        break;
    case START_STOP_UNIT:
        start_stop(u, c);
        break;
    case PREVENT_ALLOW:
        u->r.locked = c[4] & 1;
        done(u);
        break;
    case READ_CAPACITY:
        put_be32(b, cd_sectors(u) - 1);
        put_be32(b + 4, ATA_CD_SECTOR);
        reply(u, 8, 8);
        break;
    case READ_10:
        read_begin(u, get_be32(c + 2), get_be16(c + 7), false);
        break;
    case READ_12:
        read_begin(u, get_be32(c + 2), get_be32(c + 6), false);
        break;
    case READ_CD:
        read_cd(u, c);
        break;
    case SEEK_10:
        if (get_be32(c + 2) < cd_sectors(u))
            done(u);
        else
            failed(u, ILLEGAL_REQUEST, ASC_RANGE, 0);
        break;
    case READ_SUBCHANNEL:
        memset(b, 0, 4);
        b[1] = 0x15; /* nothing plays */
        reply(u, 4, get_be16(c + 7));
        break;
    case READ_TOC:
        answer(u, mmc_read_toc(&d, c, b), get_be16(c + 7));
        break;
    case GET_CONFIGURATION:
        answer(u, mmc_get_configuration(&d, c, b), get_be16(c + 7));
        break;
    case GET_EVENT_STATUS:
        answer(u, mmc_get_event_status(&d, c, &u->r.event, b), get_be16(c + 7));
        break;
    case READ_DISC_INFORMATION:
        reply(u, mmc_disc_information(b), get_be16(c + 7));
        break;
    case MODE_SENSE_10:
        mode_sense(u, c);
        break;
    case MECHANISM_STATUS:
        reply(u, mmc_mechanism_status(&d, b), get_be16(c + 8));
        break;
    default:
        failed(u, ILLEGAL_REQUEST, ASC_OPCODE, 0);
    }
}

/* Those that neither report nor clear a unit attention. */
static bool without_attention(u8 opcode)
{
    return opcode == INQUIRY || opcode == REQUEST_SENSE || opcode == GET_CONFIGURATION ||
           opcode == GET_EVENT_STATUS;
}

static bool wants_medium(u8 opcode)
{
    switch (opcode) {
    case TEST_UNIT_READY:
    case READ_CAPACITY:
    case READ_10:
    case READ_12:
    case READ_CD:
    case SEEK_10:
    case READ_SUBCHANNEL:
    case READ_TOC:
    case READ_DISC_INFORMATION:
        return true;
    }
    return false;
}

void atapi_packet(struct ide_unit *u)
{
    u8 c[12];

    memcpy(c, u->r.buf, sizeof c);
    if (u->r.attention && !without_attention(c[0])) {
        u8 asc = u->r.attention;

        u->r.attention = 0;
        failed(u, UNIT_ATTENTION, asc, 0);
    } else if (wants_medium(c[0]) && (!medium_there(u) || !cd_sectors(u))) {
        no_medium(u);
    } else {
        command(u, c);
    }
}

void atapi_reset(struct ide_unit *u, bool soft)
{
    struct ide_unit_regs *r = &u->r;

    r->sense = r->asc = r->ascq = 0;
    r->limit = r->cd_raw = 0;
    if (soft)
        return;
    r->attention = ASC_POWER_ON;
    r->locked = false;
    r->event = MMC_EVENT_NONE;
}

/* ---- the medium ----------------------------------------------------------------------------
 */

static bool op_tray_open(void *opaque)
{
    return ((struct ide_unit *)opaque)->r.tray_open;
}

static bool op_locked(void *opaque)
{
    return ((struct ide_unit *)opaque)->r.locked;
}

static void op_asked(void *opaque)
{
    ((struct ide_unit *)opaque)->r.event = MMC_EVENT_EJECT_REQUEST;
}

static void op_changed(void *opaque)
{
    struct ide_unit *u = opaque;

    if (u->r.tray_open)
        return;
    u->r.event = u->drive->image ? MMC_EVENT_NEW_MEDIUM : MMC_EVENT_REMOVAL;
    u->r.attention = ASC_MEDIUM_CHANGED;
}

static void op_set_tray(void *opaque, bool open)
{
    struct ide_unit *u = opaque;

    u->r.tray_open = open;
    if (open) {
        u->r.event = MMC_EVENT_REMOVAL;
        u->r.locked = false;
    } else if (u->drive->image) {
        op_changed(u);
    }
}

static bool op_busy(void *opaque)
{
    return ata_busy(opaque);
}

const struct drive_ops atapi_drive_ops = {
    .tray_open = op_tray_open,
    .locked = op_locked,
    .asked = op_asked,
    .set_tray = op_set_tray,
    .changed = op_changed,
    .busy = op_busy,
};
