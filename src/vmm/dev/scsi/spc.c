// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * spc.c - the commands that SCSI disks and CD-ROMs have in common.  SPC-4: 6.4 and 7.8 (INQUIRY
 * and vital product data), 6.9 to 6.13 and 7.5 (mode pages), 6.37 (REQUEST SENSE).
 *
 * Not modelled: reservations (there is one initiator; RESERVE and RELEASE always succeed), log
 * pages, saved mode pages, diagnostics beyond "all is well".
 */
#include <string.h>

#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/scsi.h"

enum {
    TEST_UNIT_READY = 0x00,
    REQUEST_SENSE = 0x03,
    INQUIRY = 0x12,
    MODE_SELECT_6 = 0x15,
    RESERVE_6 = 0x16,
    RELEASE_6 = 0x17,
    MODE_SENSE_6 = 0x1a,
    SEND_DIAGNOSTIC = 0x1d,
    MODE_SELECT_10 = 0x55,
    RESERVE_10 = 0x56,
    RELEASE_10 = 0x57,
    MODE_SENSE_10 = 0x5a,
};
enum {
    VPD_PAGES = 0x00,
    VPD_SERIAL = 0x80,
    VPD_IDENTIFICATION = 0x83,
    VPD_BLOCK_LIMITS = 0xb0,
    VPD_CHARACTERISTICS = 0xb1,
    VPD_PROVISIONING = 0xb2,
};
enum { UNMAP_DESCRIPTORS = 255, PAGE_ALL = 0x3f, ID_MAX = 128 };

static void put_text(u8 *to, const char *text, size_t n)
{
    size_t have = strnlen(text, n);

    memset(to, ' ', n);
    memcpy(to, text, have);
}

/* ---- INQUIRY -------------------------------------------------------------------------------
 */

static u32 vpd_identification(const struct scsi_unit *u, u8 *to)
{
    size_t n = strnlen(u->device_id, ID_MAX);
    u32 at = 0;

    if (n) { /* ASCII, vendor specific: what QEMU's disks have, and udev makes names of */
        to[at] = 2;
        to[at + 1] = 0;
        to[at + 3] = (u8)n;
        memcpy(to + at + 4, u->device_id, n);
        at += 4 + (u32)n;
    }
    if (u->wwn) { /* binary, NAA */
        to[at] = 1;
        to[at + 1] = 3;
        to[at + 3] = 8;
        put_be64(to + at + 4, u->wwn);
        at += 12;
    }
    return at;
}

static u32 vpd_block_limits(const struct scsi_unit *u, u8 *to)
{
    u32 block = u->logical_block, granularity = u->discard_granularity / block;

    put_be16(to + 2, u->physical_block / block); /* optimal transfer length granularity */
    if (u->discard_granularity) {
        put_be32(to + 16, (u32)(GiB / block)); /* blocks in one UNMAP */
        put_be32(to + 20, UNMAP_DESCRIPTORS);
        put_be32(to + 24, MAX(granularity, 1u));
        put_be32(to + 28, 0x80000000); /* aligned to 0 */
    }
    put_be64(to + 32, GiB / block); /* in one WRITE SAME */
    return 60;
}

static u32 vpd_provisioning(const struct scsi_unit *u, u8 *to)
{
    to[1] = u->discard_granularity ? 0xe0 : 0; /* UNMAP, WRITE SAME (16) and (10) discard */
    to[2] = u->discard_granularity ? 2 : 0;    /* thin */
    return 4;
}

static u32 vpd(const struct scsi_unit *u, u8 page, u8 *to)
{
    static const u8 pages[] = { VPD_PAGES,        VPD_SERIAL,          VPD_IDENTIFICATION,
                                VPD_BLOCK_LIMITS, VPD_CHARACTERISTICS, VPD_PROVISIONING };
    u32 n;

    switch (page) {
    case VPD_PAGES:
        n = u->cd ? 3 : sizeof pages;
        memcpy(to, pages, n);
        return n;
    case VPD_SERIAL:
        n = (u32)strnlen(u->serial, ID_MAX);
        memcpy(to, u->serial, n);
        return n;
    case VPD_IDENTIFICATION:
        return vpd_identification(u, to);
    }
    if (u->cd)
        return UINT32_MAX;
    switch (page) {
    case VPD_BLOCK_LIMITS:
        return vpd_block_limits(u, to);
    case VPD_CHARACTERISTICS:
        put_be16(to, u->rotation);
        return 60;
    case VPD_PROVISIONING:
        return vpd_provisioning(u, to);
    }
    return UINT32_MAX;
}

static void inquiry(struct scsi_req *q)
{
    const struct scsi_unit *u = q->unit;
    const u8 *c = q->cdb;
    u8 *b = scsi_buf(q, 512);
    u32 n = 36;

    memset(b, 0, 512);
    b[0] = u->cd ? 0x05 : 0x00;
    if (c[1] & 1) {
        n = vpd(u, c[2], b + 4);
        b[1] = c[2];
        if (n != UINT32_MAX)
            put_be16(b + 2, n);
        n = n == UINT32_MAX ? 0 : n + 4;
    } else if (c[2]) {
        n = 0; /* a page, but not of vital product data */
    } else {
        b[1] = u->cd ? 0x80 : 0; /* removable */
        b[2] = 5;                /* SPC-3 */
        b[3] = 0x12;             /* hierarchical LUNs, response format */
        b[4] = 31;
        b[7] = 0x12; /* wide bus, command queuing */
        put_text(b + 8, u->vendor, 8);
        put_text(b + 16, u->product, 16);
        put_text(b + 32, u->version, 4);
    }
    if (n)
        scsi_reply(q, n, get_be16(c + 3));
    else
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
}

static void request_sense(struct scsi_req *q)
{
    struct scsi_unit_regs *r = &q->unit->r;
    u8 *b = scsi_buf(q, SCSI_SENSE_LEN), len;

    if (!r->key && r->attention_asc) {
        r->key = KEY_UNIT_ATTENTION;
        r->asc = r->attention_asc;
        r->ascq = r->attention_ascq;
        r->attention_asc = 0;
    }
    scsi_put_sense(b, r->key, r->asc, r->ascq, q->cdb[1] & 1, &len);
    r->key = r->asc = r->ascq = 0;
    scsi_reply(q, len, q->cdb[4]);
}

/* ---- mode pages ----------------------------------------------------------------------------
 */

static u32 mode_page(const struct scsi_unit *u, u8 page, u8 control, u8 *to)
{
    return u->cd ? cd_mode_page(u, page, control, to) : sbc_mode_page(u, page, control, to);
}

static void mode_sense(struct scsi_req *q)
{
    const struct scsi_unit *u = q->unit;
    const u8 *c = q->cdb;
    bool ten = c[0] == MODE_SENSE_10, descriptor = !u->cd && !(c[1] & 8);
    u8 page = c[2] & PAGE_ALL, control = c[2] >> 6, *b = scsi_buf(q, 512);
    u32 at = ten ? 8 : 4, head = at;

    memset(b, 0, 512);
    if (control == 3) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_SAVING);
        return;
    }
    if (descriptor) {
        u64 n = scsi_blocks(u);

        put_be32(b + at, n > 0xffffff ? 0xffffff : (u32)n);
        b[at] = 0;
        put_be32(b + at + 4, u->logical_block);
        b[ten ? 7 : 3] = 8;
        at += 8;
    }
    head = at;
    for (u8 p = 1; p < PAGE_ALL; p++)
        if (page == p || page == PAGE_ALL)
            at += mode_page(u, p, control, b + at);
    if (at == head || (c[3] && c[3] != 0xff)) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
        return;
    }
    /* write protection, and that DPO and FUA are known */
    u8 specific = u->cd ? 0 : (u8)(0x10 | (scsi_read_only(u) ? 0x80 : 0));
    u8 type = u->cd ? cd_medium_type(u) : 0;
    if (ten) {
        put_be16(b, at - 2);
        b[2] = type;
        b[3] = specific;
    } else {
        b[0] = (u8)(at - 1);
        b[1] = type;
        b[2] = specific;
    }
    scsi_reply(q, at, ten ? get_be16(c + 7) : c[4]);
}

/* Is this page one that we could have sent, but for what may be changed? */
static bool page_ok(const struct scsi_unit *u, const u8 *p, u32 n, bool *write_cache)
{
    u8 now[256], mask[256];
    u32 len = mode_page(u, p[0] & PAGE_ALL, 0, now);

    if (p[0] & 0x40 || !len || len != n)
        return false;
    mode_page(u, p[0] & PAGE_ALL, 1, mask);
    for (u32 i = 2; i < n; i++)
        if ((p[i] ^ now[i]) & ~mask[i])
            return false;
    if ((p[0] & PAGE_ALL) == 0x08 && !u->cd)
        *write_cache = p[2] & 4;
    return true;
}

static void mode_select_data(struct scsi_req *q)
{
    const struct scsi_unit *u = q->unit;
    const u8 *b = q->buf;
    bool ten = q->cdb[0] == MODE_SELECT_10, cache = u->r.write_cache;
    u32 n = q->n, at = ten ? 8 : 4;

    if (!n) {
        scsi_ok(q);
        return;
    }
    u32 descriptors = n < at ? UINT32_MAX : ten ? get_be16(b + 6) : b[3];
    if (n < at || descriptors > n - at) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
        return;
    }
    if ((ten && b[4] & 1) || (descriptors && descriptors != 8) ||
        (descriptors && get_be24(b + at + 5) != scsi_block_size(u))) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD);
        return;
    }
    for (at += descriptors; at < n;) {
        if (n - at < 2 || b[at + 1] + 2u > n - at) {
            scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LIST_LENGTH);
            return;
        }
        if (!page_ok(u, b + at, b[at + 1] + 2u, &cache)) {
            scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LIST_FIELD);
            return;
        }
        at += b[at + 1] + 2u;
    }
    if (u->cd)
        scsi_ok(q);
    else
        sbc_mode_select(q, cache);
}

static void mode_select(struct scsi_req *q)
{
    const u8 *c = q->cdb;

    if (!(c[1] & 0x10) || c[1] & 1) /* pages of the standard's format, not to be saved */
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
    else
        scsi_take(q, c[0] == MODE_SELECT_10 ? get_be16(c + 7) : c[4], mode_select_data);
}

bool spc_command(struct scsi_req *q)
{
    switch (q->cdb[0]) {
    case TEST_UNIT_READY:
    case RESERVE_6:
    case RESERVE_10:
    case RELEASE_6:
    case RELEASE_10:
        scsi_ok(q);
        return true;
    case SEND_DIAGNOSTIC:
        if (get_be16(q->cdb + 3)) /* parameters */
            scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
        else
            scsi_ok(q);
        return true;
    case REQUEST_SENSE:
        request_sense(q);
        return true;
    case INQUIRY:
        inquiry(q);
        return true;
    case MODE_SENSE_6:
    case MODE_SENSE_10:
        mode_sense(q);
        return true;
    case MODE_SELECT_6:
    case MODE_SELECT_10:
        mode_select(q);
        return true;
    }
    return false;
}
