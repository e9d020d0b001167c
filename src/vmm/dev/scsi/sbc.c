// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sbc.c - the commands of a SCSI disk.  SBC-3, chapter 5 (commands) and 6.5 (mode pages).
 *
 * Without a write cache (mode page 08h, WCE) writes are durable when they end.  UNMAP and WRITE
 * SAME with the UNMAP bit give space back; the latter always leaves zeroes.
 *
 * Not modelled: protection information, formatting, defects, VERIFY that compares, anchored
 * blocks, the power conditions of START STOP UNIT (a stopped disk still answers).
 */
#include <string.h>

#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/scsi.h"

enum {
    REZERO_UNIT = 0x01,
    READ_6 = 0x08,
    WRITE_6 = 0x0a,
    SEEK_6 = 0x0b,
    START_STOP_UNIT = 0x1b,
    PREVENT_ALLOW = 0x1e,
    READ_CAPACITY_10 = 0x25,
    READ_10 = 0x28,
    WRITE_10 = 0x2a,
    SEEK_10 = 0x2b,
    WRITE_VERIFY_10 = 0x2e,
    VERIFY_10 = 0x2f,
    SYNCHRONIZE_CACHE_10 = 0x35,
    WRITE_SAME_10 = 0x41,
    UNMAP = 0x42,
    READ_16 = 0x88,
    WRITE_16 = 0x8a,
    WRITE_VERIFY_16 = 0x8e,
    VERIFY_16 = 0x8f,
    SYNCHRONIZE_CACHE_16 = 0x91,
    WRITE_SAME_16 = 0x93,
    SERVICE_ACTION_IN_16 = 0x9e,
    READ_12 = 0xa8,
    WRITE_12 = 0xaa,
    WRITE_VERIFY_12 = 0xae,
    VERIFY_12 = 0xaf,
};
enum { READ_CAPACITY_16 = 0x10, UNMAP_HEADER = 8, UNMAP_DESCRIPTOR = 16 };

/* Blocks that a command is about; in the length's units. */
static void extent(const u8 *c, u64 *ret_lba, u64 *ret_n)
{
    switch (c[0] >> 5) {
    case 0:
        *ret_lba = get_be24(c + 1) & 0x1fffff;
        *ret_n = c[4] ? c[4] : 256;
        break;
    case 4:
        *ret_lba = get_be64(c + 2);
        *ret_n = get_be32(c + 10);
        break;
    case 5:
        *ret_lba = get_be32(c + 2);
        *ret_n = get_be32(c + 6);
        break;
    default:
        *ret_lba = get_be32(c + 2);
        *ret_n = get_be16(c + 7);
    }
}

static bool in_range(struct scsi_req *q, u64 lba, u64 n)
{
    u64 blocks = scsi_blocks(q->unit);

    if (lba <= blocks && n <= blocks - lba)
        return true;
    scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_RANGE);
    return false;
}

static bool writable(struct scsi_req *q)
{
    if (!scsi_read_only(q->unit))
        return true;
    scsi_fail(q, KEY_DATA_PROTECT, ASC_PROTECTED);
    return false;
}

static void read_write(struct scsi_req *q, bool write)
{
    u64 lba, n, block = q->unit->logical_block;
    bool six = q->cdb[0] < 0x20;

    extent(q->cdb, &lba, &n);
    if (!six && q->cdb[1] & 0xe0) /* protection */
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else if (!in_range(q, lba, n) || (write && !writable(q)))
        return;
    else if (write)
        scsi_write(q, lba * block, n * block, !six && q->cdb[1] & 8);
    else
        scsi_read(q, lba * block, n * block);
}

/* Compared with what the host has, only by reading it back: so it is written through. */
static void write_verify(struct scsi_req *q)
{
    u64 lba, n, block = q->unit->logical_block;

    extent(q->cdb, &lba, &n);
    if (q->cdb[1] & 0xe0)
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else if (in_range(q, lba, n) && writable(q))
        scsi_write(q, lba * block, n * block, true);
}

static void verify(struct scsi_req *q)
{
    u64 lba, n;

    extent(q->cdb, &lba, &n);
    if (q->cdb[1] & 6) /* with what the host has */
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else if (in_range(q, lba, n))
        scsi_ok(q);
}

static void synchronize(struct scsi_req *q)
{
    u64 lba, n;

    extent(q->cdb, &lba, &n);
    if (in_range(q, lba, n))
        scsi_flush(q);
}

/* ---- thin provisioning ---------------------------------------------------------------------
 */

static void unmap_data(struct scsi_req *q)
{
    const u8 *b = q->buf;
    u64 block = q->unit->logical_block;

    if (!q->n) {
        scsi_ok(q);
        return;
    }
    u32 n = q->n < UNMAP_HEADER ? 0 : get_be16(b + 2) / UNMAP_DESCRIPTOR;
    if (q->n < UNMAP_HEADER || n > (q->n - UNMAP_HEADER) / UNMAP_DESCRIPTOR) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
        return;
    }
    struct scsi_range *ranges = g_new(struct scsi_range, MAX(n, 1u));
    for (u32 i = 0; i < n; i++) {
        const u8 *d = b + UNMAP_HEADER + i * UNMAP_DESCRIPTOR;
        u64 lba = get_be64(d), count = get_be32(d + 8);

        if (!in_range(q, lba, count)) {
            g_free(ranges);
            return;
        }
        ranges[i] = (struct scsi_range){ lba * block, count * block };
    }
    scsi_discard(q, ranges, n);
}

static void unmap(struct scsi_req *q)
{
    if (!q->unit->discard_granularity)
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_OPCODE);
    else if (q->cdb[1] & 1) /* anchored */
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else if (writable(q))
        scsi_take(q, get_be16(q->cdb + 7), unmap_data);
}

static void write_same_data(struct scsi_req *q)
{
    u64 lba, n, block = q->unit->logical_block;
    bool zero = true;

    extent(q->cdb, &lba, &n);
    if (!n)
        n = scsi_blocks(q->unit) - lba;
    for (u32 i = 0; i < q->n; i++)
        zero &= !q->buf[i];
    if (zero)
        scsi_zero(q, lba * block, n * block, q->cdb[1] & 8);
    else
        scsi_fill(q, lba * block, n * block, q->n);
}

static void write_same(struct scsi_req *q)
{
    bool sixteen = q->cdb[0] == WRITE_SAME_16, no_data = sixteen && q->cdb[1] & 1;
    u64 lba, n;

    extent(q->cdb, &lba, &n);
    if (q->cdb[1] & (sixteen ? 0xf6 : 0xf7)) /* protection, anchored, what is obsolete */
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else if (in_range(q, lba, n) && writable(q))
        scsi_take(q, no_data ? 0 : q->unit->logical_block, write_same_data);
}

/* ---- what it is ----------------------------------------------------------------------------
 */

static void read_capacity_10(struct scsi_req *q)
{
    u64 last = scsi_blocks(q->unit) - 1;
    u8 *b = scsi_buf(q, 8);

    put_be32(b, last > UINT32_MAX ? UINT32_MAX : (u32)last);
    put_be32(b + 4, q->unit->logical_block);
    scsi_reply(q, 8, 8);
}

static void service_action_in(struct scsi_req *q)
{
    const struct scsi_unit *u = q->unit;
    u8 *b = scsi_buf(q, 32), exp = 0;

    if ((q->cdb[1] & 31) != READ_CAPACITY_16) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
        return;
    }
    while (u->logical_block << (exp + 1) <= u->physical_block)
        exp++;
    memset(b, 0, 32);
    put_be64(b, scsi_blocks(u) - 1);
    put_be32(b + 8, u->logical_block);
    b[13] = exp;
    b[14] = u->discard_granularity ? 0x80 : 0;
    scsi_reply(q, 32, get_be32(q->cdb + 10));
}

static void page_geometry(const struct scsi_unit *u, u8 *to)
{
    u64 cylinders = scsi_blocks(u) / (16 * 63);

    put_be32(to + 1, (u32)MIN(cylinders, 0xffffffull)); /* three bytes, from to[2] on */
    to[1] = 22;
    to[5] = 16; /* heads */
    put_be16(to + 20, 5400);
}

u32 sbc_mode_page(const struct scsi_unit *u, u8 page, u8 control, u8 *to)
{
    static const u8 lengths[][2] = { { 0x01, 12 }, { 0x04, 24 }, { 0x08, 20 }, { 0x0a, 12 } };
    bool values = control != 1, cache = control == 2 ? u->write_cache_prop : u->r.write_cache;
    u32 n = 0;

    for (u32 i = 0; i < ARRAY_LEN(lengths); i++)
        if (lengths[i][0] == page)
            n = lengths[i][1];
    if (!n)
        return 0;
    memset(to, 0, n);
    to[0] = page;
    to[1] = (u8)(n - 2);
    if (page == 0x01 && values)
        to[2] = 0x80; /* writes are reallocated */
    else if (page == 0x04 && values)
        page_geometry(u, to);
    else if (page == 0x08)
        to[2] = !values || cache ? 4 : 0; /* WCE, which may be changed */
    else if (page == 0x0a && values)
        to[3] = 0x10; /* commands are reordered freely */
    return n;
}

void sbc_mode_select(struct scsi_req *q, bool write_cache)
{
    bool off = q->unit->r.write_cache && !write_cache;

    q->unit->r.write_cache = write_cache;
    if (off)
        scsi_flush(q);
    else
        scsi_ok(q);
}

bool sbc_command(struct scsi_req *q)
{
    switch (q->cdb[0]) {
    case REZERO_UNIT:
    case SEEK_6:
    case SEEK_10:
    case PREVENT_ALLOW:
        scsi_ok(q);
        return true;
    case READ_6:
    case READ_10:
    case READ_12:
    case READ_16:
        read_write(q, false);
        return true;
    case WRITE_6:
    case WRITE_10:
    case WRITE_12:
    case WRITE_16:
        read_write(q, true);
        return true;
    case WRITE_VERIFY_10:
    case WRITE_VERIFY_12:
    case WRITE_VERIFY_16:
        write_verify(q);
        return true;
    case VERIFY_10:
    case VERIFY_12:
    case VERIFY_16:
        verify(q);
        return true;
    case START_STOP_UNIT:
        scsi_flush(q);
        return true;
    case SYNCHRONIZE_CACHE_10:
    case SYNCHRONIZE_CACHE_16:
        synchronize(q);
        return true;
    case UNMAP:
        unmap(q);
        return true;
    case WRITE_SAME_10:
    case WRITE_SAME_16:
        write_same(q);
        return true;
    case READ_CAPACITY_10:
        read_capacity_10(q);
        return true;
    case SERVICE_ACTION_IN_16:
        service_action_in(q);
        return true;
    }
    return false;
}
