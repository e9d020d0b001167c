// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cd.c - the commands of a SCSI CD/DVD-ROM drive, over mmc.c, and its medium for the monitor.
 *
 * A medium is there for the guest while there is an image and the tray is closed.  Opening the
 * tray leaves the image in it; a monitor's eject takes it out.
 *
 * Not modelled: raw sectors (READ CD gives the 2048 bytes of data), audio, writing.
 */
#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/mmc.h"
#include "vmm/dev/scsi/scsi.h"

enum {
    TEST_UNIT_READY = 0x00,
    READ_6 = 0x08,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY = 0x25,
    READ_10 = 0x28,
    SEEK_10 = 0x2b,
    SYNCHRONIZE_CACHE = 0x35,
    READ_SUBCHANNEL = 0x42,
    READ_TOC = 0x43,
    GET_CONFIGURATION = 0x46,
    GET_EVENT_STATUS = 0x4a,
    READ_DISC_INFORMATION = 0x51,
    READ_12 = 0xa8,
    SET_CD_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd,
    READ_CD = 0xbe,
};

bool cd_wants_medium(u8 opcode)
{
    switch (opcode) {
    case TEST_UNIT_READY:
    case READ_6:
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

static struct mmc_drive drive_of(const struct scsi_unit *u)
{
    return (struct mmc_drive){ .sectors = (u32)scsi_blocks(u),
                               .there = scsi_medium_there(u),
                               .tray_open = u->r.tray_open,
                               .locked = u->r.locked };
}

u32 cd_mode_page(const struct scsi_unit *u, u8 page, u8 control, u8 *to)
{
    const struct mmc_drive d = drive_of(u);

    return mmc_mode_page(&d, page, control == 1, to);
}

u8 cd_medium_type(const struct scsi_unit *u)
{
    const struct mmc_drive d = drive_of(u);

    return mmc_medium_type(&d);
}

static void answer(struct scsi_req *q, u32 n, u32 room)
{
    if (n)
        scsi_reply(q, n, room);
    else
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
}

static void sectors(struct scsi_req *q, u32 lba, u32 n)
{
    u64 there = scsi_blocks(q->unit);

    if (n > there || lba > there - n)
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_RANGE);
    else
        scsi_read(q, (u64)lba * MMC_SECTOR, (u64)n * MMC_SECTOR);
}

static void read_cd(struct scsi_req *q)
{
    u32 lba, n;

    switch (mmc_read_cd(q->cdb, &lba, &n)) {
    case MMC_READ_NOTHING:
        scsi_ok(q);
        break;
    case MMC_READ_DATA:
        sectors(q, lba, n);
        break;
    case MMC_READ_AUDIO:
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_TRACK_MODE);
        break;
    case MMC_READ_RAW:
    case MMC_READ_BAD:
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
        break;
    }
}

static void start_stop(struct scsi_req *q)
{
    struct scsi_unit *u = q->unit;
    bool load = q->cdb[4] & 2, start = q->cdb[4] & 1;

    if (!load || q->cdb[4] >> 4) { /* spin up or down, power conditions */
        scsi_ok(q);
        return;
    }
    if (!start && u->r.locked && !u->r.tray_open) {
        scsi_fail(q, scsi_medium_there(u) ? KEY_ILLEGAL_REQUEST : KEY_NOT_READY,
                  ASC_REMOVAL_PREVENTED);
        return;
    }
    if (u->r.tray_open == start) {
        cd_drive_ops.set_tray(u, !start);
        drive_tray_moved(u->drive, !start);
    }
    scsi_ok(q);
}

bool cd_command(struct scsi_req *q)
{
    const struct mmc_drive d = drive_of(q->unit);
    const u8 *c = q->cdb;
    u8 *b = scsi_buf(q, MMC_ANSWER_MAX);

    switch (c[0]) {
    case SET_CD_SPEED:
    case SYNCHRONIZE_CACHE:
        scsi_ok(q);
        return true;
    case START_STOP_UNIT:
        start_stop(q);
        return true;
    case PREVENT_ALLOW:
        q->unit->r.locked = c[4] & 1;
        scsi_ok(q);
        return true;
    case READ_CAPACITY:
        put_be32(b, d.sectors - 1);
        put_be32(b + 4, MMC_SECTOR);
        scsi_reply(q, 8, 8);
        return true;
    case READ_6:
        sectors(q, get_be24(c + 1) & 0x1fffff, c[4] ? c[4] : 256);
        return true;
    case READ_10:
        sectors(q, get_be32(c + 2), get_be16(c + 7));
        return true;
    case READ_12:
        sectors(q, get_be32(c + 2), get_be32(c + 6));
        return true;
    case READ_CD:
        read_cd(q);
        return true;
    case SEEK_10:
        if (get_be32(c + 2) < d.sectors)
            scsi_ok(q);
        else
            scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_RANGE);
        return true;
    case READ_SUBCHANNEL:
        put_be32(b, 0x00150000); /* nothing plays */
        scsi_reply(q, 4, get_be16(c + 7));
        return true;
    case READ_TOC:
        answer(q, mmc_read_toc(&d, c, b), get_be16(c + 7));
        return true;
    case GET_CONFIGURATION:
        answer(q, mmc_get_configuration(&d, c, b), get_be16(c + 7));
        return true;
    case GET_EVENT_STATUS:
        answer(q, mmc_get_event_status(&d, c, &q->unit->r.event, b), get_be16(c + 7));
        return true;
    case READ_DISC_INFORMATION:
        scsi_reply(q, mmc_disc_information(b), get_be16(c + 7));
        return true;
    case MECHANISM_STATUS:
        scsi_reply(q, mmc_mechanism_status(&d, b), get_be16(c + 8));
        return true;
    }
    return false;
}

/* ---- the medium ----------------------------------------------------------------------------
 */

static bool op_tray_open(void *opaque)
{
    return ((struct scsi_unit *)opaque)->r.tray_open;
}

static bool op_locked(void *opaque)
{
    return ((struct scsi_unit *)opaque)->r.locked;
}

static void op_asked(void *opaque)
{
    ((struct scsi_unit *)opaque)->r.event = MMC_EVENT_EJECT_REQUEST;
}

static void op_changed(void *opaque)
{
    struct scsi_unit *u = opaque;

    if (u->r.tray_open)
        return;
    u->r.event = u->drive->image ? MMC_EVENT_NEW_MEDIUM : MMC_EVENT_REMOVAL;
    scsi_attention(u, ASC_MEDIUM_CHANGED);
}

static void op_set_tray(void *opaque, bool open)
{
    struct scsi_unit *u = opaque;

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
    const struct scsi_unit *u = opaque;

    for (const struct scsi_req *q = u->bus->reqs; q; q = q->next)
        if (q->unit == u && q->io)
            return true;
    return false;
}

const struct drive_ops cd_drive_ops = {
    .tray_open = op_tray_open,
    .locked = op_locked,
    .asked = op_asked,
    .set_tray = op_set_tray,
    .changed = op_changed,
    .busy = op_busy,
};
