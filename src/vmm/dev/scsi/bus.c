// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus.c - SCSI buses and requests: see scsi.h.  SAM-5 4.6 (LUNs), 5.3 (status), 5.14 (unit
 * attention); SPC-4 4.5 (sense data), 6.33 (REPORT LUNS).
 *
 * A request is a chain of steps, each of which ends with a request to the image, with data for
 * or from the host, or with the status; `then` is the next one.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/iothread.h"

enum { REQUEST_SENSE = 0x03, INQUIRY = 0x12, REPORT_LUNS = 0xa0 };
enum { GET_CONFIGURATION = 0x46, GET_EVENT_STATUS = 0x4a };
enum { ZERO_PIECE = 1 << 30 };

/* ---- who is there --------------------------------------------------------------------------
 */

struct scsi_unit *scsi_unit_of(struct dev *d)
{
    return d->type->kind == DEV_SCSI ? container_of(d, struct scsi_unit, dev) : NULL;
}

struct scsi_unit *scsi_unit_at(const struct scsi_bus *b, u8 target, u16 lun)
{
    for (u32 i = 0; i < b->units->len; i++) {
        struct scsi_unit *u = b->units->pdata[i];

        if (u->target == target && u->lun == lun)
            return u;
    }
    return NULL;
}

bool scsi_target_there(const struct scsi_bus *b, u8 target)
{
    for (u32 i = 0; i < b->units->len; i++)
        if (((const struct scsi_unit *)b->units->pdata[i])->target == target)
            return true;
    return false;
}

static struct scsi_bus *bus_find(const struct vm *vm, const char *name)
{
    for (u32 i = 0; vm->scsi_buses && i < vm->scsi_buses->len; i++) {
        struct scsi_bus *b = vm->scsi_buses->pdata[i];

        if (!name || strcmp(b->name, name) == 0)
            return b;
    }
    return NULL;
}

bool scsi_place(struct dev *d, const char *bus, GError **error)
{
    struct scsi_unit *u = scsi_unit_of(d);

    u->bus = bus_find(d->vm, bus);
    if (u->bus)
        return true;
    if (bus)
        return fail(error, ERR_NOT_FOUND, "%s: there is no SCSI bus '%s'", d->type->name, bus);
    return fail(error, ERR_NOT_FOUND,
                "%s: there is no SCSI bus; -device virtio-scsi-pci makes one", d->type->name);
}

/* ---- the end of a request ------------------------------------------------------------------
 */

static void end(struct scsi_req *q, u8 status)
{
    struct scsi_bus *b = q->bus;

    if (q->prev)
        q->prev->next = q->next;
    else
        b->reqs = q->next;
    if (q->next)
        q->next->prev = q->prev;
    g_clear_pointer(&q->ranges, g_free);
    q->status = status;
    b->ops->done(q);
}

void scsi_put_sense(u8 *to, u8 key, u8 asc, u8 ascq, bool descriptors, u8 *ret_len)
{
    memset(to, 0, SCSI_SENSE_LEN);
    if (descriptors) {
        to[0] = 0x72;
        to[1] = key;
        to[2] = asc;
        to[3] = ascq;
        *ret_len = 8;
        return;
    }
    to[0] = 0x70;
    to[2] = key;
    to[7] = SCSI_SENSE_LEN - 8;
    to[12] = asc;
    to[13] = ascq;
    *ret_len = SCSI_SENSE_LEN;
}

void scsi_ok(struct scsi_req *q)
{
    end(q, SCSI_GOOD);
}

void scsi_fail(struct scsi_req *q, u8 key, u16 asc)
{
    scsi_put_sense(q->sense, key, (u8)(asc >> 8), (u8)asc, false, &q->sense_len);
    if (q->unit && !q->bus->autosense) {
        q->unit->r.key = key;
        q->unit->r.asc = (u8)(asc >> 8);
        q->unit->r.ascq = (u8)asc;
    }
    end(q, SCSI_CHECK_CONDITION);
}

/* ---- the image -----------------------------------------------------------------------------
 */

static void io_failed(struct scsi_req *q, int ret)
{
    if (ret == -ENOSPC)
        scsi_fail(q, KEY_DATA_PROTECT, ASC_NO_SPACE);
    else
        scsi_fail(q, KEY_MEDIUM_ERROR, q->dir == SCSI_IN ? ASC_READ_ERROR : ASC_WRITE_ERROR);
}

static void came(struct scsi_req *q)
{
    q->io = false;
    if (q->aborted)
        end(q, SCSI_TASK_ABORTED);
    else if (q->ret)
        io_failed(q, q->ret);
    else
        q->then(q);
}

/* A thread of the image's. */
static void image_did(void *opaque, int ret)
{
    struct scsi_req *q = opaque;
    struct scsi_bus *b = q->bus;

    q->ret = ret;
    if (dev_trylock(b->host)) {
        struct dev *host = b->host;

        came(q);
        dev_unlock(host);
        return;
    }
    q->next_done = atomic_load(&b->done);
    while (!atomic_compare_exchange_weak(&b->done, &q->next_done, q))
        ;
    eventfd_ring(b->done_fd);
}

static void came_list(struct scsi_bus *b)
{
    struct scsi_req *q = atomic_exchange(&b->done, NULL);

    while (q) {
        struct scsi_req *next = q->next_done;

        came(q);
        q = next;
    }
}

static void done_kicked(void *opaque)
{
    struct scsi_bus *b = opaque;

    dev_lock(b->host);
    came_list(b);
    dev_unlock(b->host);
}

static struct image *image_of(const struct scsi_req *q)
{
    return q->unit->drive->image;
}

/* ---- data through buf ----------------------------------------------------------------------
 */

u8 *scsi_buf(struct scsi_req *q, u32 n)
{
    if (q->cap < n) {
        q->buf = g_realloc(q->buf, n);
        q->cap = n;
    }
    return q->buf;
}

static void host_piece(struct scsi_req *q, enum scsi_dir dir, u32 n,
                       void (*then)(struct scsi_req *))
{
    q->dir = dir;
    q->n = n;
    q->then = then;
    q->bus->ops->data(q);
}

void scsi_go_on(struct scsi_req *q)
{
    q->moved += q->n;
    q->then(q);
}

void scsi_reply(struct scsi_req *q, u32 n, u32 room)
{
    n = MIN(n, room);
    if (!n) {
        scsi_ok(q);
    } else if (q->sg) {
        size_t k = MIN(n, q->sg->left);

        if (!iovs_put(q->sg, q->buf, k))
            k = 0;
        q->dir = SCSI_IN;
        q->moved = k;
        scsi_ok(q);
    } else {
        host_piece(q, SCSI_IN, n, scsi_ok);
    }
}

void scsi_take(struct scsi_req *q, u32 n, void (*then)(struct scsi_req *))
{
    scsi_buf(q, MAX(n, 1u));
    if (!n) {
        q->n = 0;
        then(q);
    } else if (!q->sg) {
        host_piece(q, SCSI_OUT, n, then);
    } else if (!iovs_get(q->sg, q->buf, n)) {
        q->overrun = true;
        scsi_ok(q);
    } else {
        q->dir = SCSI_OUT;
        q->n = n;
        q->moved = n;
        then(q);
    }
}

/* ---- reading and writing -------------------------------------------------------------------
 */

/* The pieces of sg end after n bytes. */
static void sg_cut(struct iovs *v, u64 n)
{
    size_t sum = 0;

    for (u32 i = v->cur; i < v->n; i++) {
        if (v->v[i].iov_len >= n - sum) {
            v->v[i].iov_len = n - sum;
            v->n = i + 1;
            break;
        }
        sum += v->v[i].iov_len;
    }
    v->left = n;
}

static bool sg_fits(struct scsi_req *q, u64 n)
{
    if (q->sg->left < n) {
        q->overrun = true;
        scsi_ok(q);
        return false;
    }
    sg_cut(q->sg, n);
    q->moved = n;
    return true;
}

static void read_all(struct scsi_req *q)
{
    iovs_written(q->sg);
    scsi_ok(q);
}

static void read_next(struct scsi_req *q);

static void read_piece(struct scsi_req *q)
{
    u32 n = (u32)MIN(q->left, (u64)SCSI_PIECE);

    q->at += n;
    q->left -= n;
    host_piece(q, SCSI_IN, n, read_next);
}

static void read_next(struct scsi_req *q)
{
    struct iovec v = { q->buf, MIN(q->left, (u64)SCSI_PIECE) };

    if (!q->left) {
        scsi_ok(q);
        return;
    }
    q->then = read_piece;
    q->io = true;
    image_read(image_of(q), q->at, &v, 1, image_did, q);
}

void scsi_read(struct scsi_req *q, u64 at, u64 n)
{
    q->dir = SCSI_IN;
    q->at = at;
    q->left = n;
    if (!n) {
        scsi_ok(q);
    } else if (!q->sg) {
        scsi_buf(q, SCSI_PIECE);
        read_next(q);
    } else if (sg_fits(q, n)) {
        q->then = read_all;
        q->io = true;
        image_read(image_of(q), at, q->sg->v + q->sg->cur, (int)(q->sg->n - q->sg->cur),
                   image_did, q);
    }
}

static void write_next(struct scsi_req *q);

static void write_piece(struct scsi_req *q)
{
    struct iovec v = { q->buf, q->n };
    u64 at = q->at;

    q->at += q->n;
    q->left -= q->n;
    q->then = write_next;
    q->io = true;
    image_write(image_of(q), at, &v, 1, q->fua, image_did, q);
}

static void write_next(struct scsi_req *q)
{
    if (q->left)
        host_piece(q, SCSI_OUT, (u32)MIN(q->left, (u64)SCSI_PIECE), write_piece);
    else
        scsi_ok(q);
}

void scsi_write(struct scsi_req *q, u64 at, u64 n, bool fua)
{
    q->dir = SCSI_OUT;
    q->at = at;
    q->left = n;
    q->fua = fua || !q->unit->r.write_cache;
    if (!n) {
        scsi_ok(q);
    } else if (!q->sg) {
        scsi_buf(q, SCSI_PIECE);
        write_next(q);
    } else if (sg_fits(q, n)) {
        q->then = scsi_ok;
        q->io = true;
        image_write(image_of(q), at, q->sg->v + q->sg->cur, (int)(q->sg->n - q->sg->cur),
                    q->fua, image_did, q);
    }
}

void scsi_flush(struct scsi_req *q)
{
    if (!image_of(q)) {
        scsi_ok(q);
        return;
    }
    q->then = scsi_ok;
    q->io = true;
    image_flush(image_of(q), image_did, q);
}

static void discard_next(struct scsi_req *q)
{
    while (q->range < q->n_ranges && !q->ranges[q->range].len)
        q->range++;
    if (q->range == q->n_ranges) {
        scsi_ok(q);
        return;
    }
    struct scsi_range *r = &q->ranges[q->range];
    u64 at = r->at, n = MIN(r->len, (u64)ZERO_PIECE);

    r->at += n;
    r->len -= n;
    q->then = discard_next;
    q->io = true;
    image_discard(image_of(q), at, n, image_did, q);
}

void scsi_discard(struct scsi_req *q, struct scsi_range *ranges, u32 n)
{
    q->ranges = ranges;
    q->n_ranges = n;
    q->range = 0;
    discard_next(q);
}

static void zero_next(struct scsi_req *q)
{
    u64 at = q->at, n = MIN(q->left, (u64)ZERO_PIECE);

    if (!n) {
        scsi_ok(q);
        return;
    }
    q->at += n;
    q->left -= n;
    q->then = zero_next;
    q->io = true;
    image_write_zeroes(image_of(q), at, n, q->fua, image_did, q);
}

void scsi_zero(struct scsi_req *q, u64 at, u64 n, bool may_unmap)
{
    q->at = at;
    q->left = n;
    q->fua = may_unmap;
    zero_next(q);
}

static void fill_next(struct scsi_req *q)
{
    struct iovec v = { q->buf, MIN(q->left, (u64)q->n) };
    u64 at = q->at;

    if (!q->left) {
        scsi_ok(q);
        return;
    }
    q->at += v.iov_len;
    q->left -= v.iov_len;
    q->then = fill_next;
    q->io = true;
    image_write(image_of(q), at, &v, 1, q->fua, image_did, q);
}

void scsi_fill(struct scsi_req *q, u64 at, u64 left, u32 n)
{
    u32 whole = SCSI_PIECE / n * n;
    u8 *b = scsi_buf(q, whole);

    for (u32 i = n; i < whole; i += n)
        memcpy(b + i, b, n);
    q->n = whole;
    q->at = at;
    q->left = left;
    q->fua = !q->unit->r.write_cache;
    fill_next(q);
}

/* ---- targets -------------------------------------------------------------------------------
 */

static void report_luns(struct scsi_req *q)
{
    const struct scsi_bus *b = q->bus;
    u32 n = 8, room = get_be32(q->cdb + 6);
    u8 *p = scsi_buf(q, 8 + 8 * b->units->len);

    if (room < 16 || q->cdb[2] > 2) {
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_CDB_FIELD);
        return;
    }
    memset(p, 0, 8 + 8 * b->units->len);
    for (u32 i = 0; i < b->units->len && q->cdb[2] != 1; i++) { /* 1: well known ones */
        const struct scsi_unit *u = b->units->pdata[i];

        if (u->target != q->target)
            continue;
        p[n] = u->lun < 256 ? 0 : (u8)(0x40 | u->lun >> 8);
        p[n + 1] = (u8)u->lun;
        n += 8;
    }
    put_be32(p, n - 8);
    scsi_reply(q, n, room);
}

/* What the target says for a unit that it has not. */
static void no_unit(struct scsi_req *q)
{
    u8 *b = scsi_buf(q, 36), len;

    switch (q->cdb[0]) {
    case INQUIRY:
        memset(b, 0, 36);
        b[0] = 0x7f; /* it cannot have one */
        b[2] = 5;
        b[3] = 0x12;
        b[4] = 31;
        scsi_reply(q, 36, get_be16(q->cdb + 3));
        break;
    case REQUEST_SENSE:
        scsi_put_sense(b, KEY_ILLEGAL_REQUEST, ASC_LUN >> 8, 0, q->cdb[1] & 1, &len);
        scsi_reply(q, len, q->cdb[4]);
        break;
    default:
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_LUN);
    }
}

/* Those that neither report nor clear a unit attention. */
static bool without_attention(const struct scsi_req *q)
{
    switch (q->cdb[0]) {
    case INQUIRY:
    case REQUEST_SENSE:
    case REPORT_LUNS:
        return true;
    case GET_CONFIGURATION:
    case GET_EVENT_STATUS:
        return q->unit->cd;
    }
    return false;
}

static void unit_command(struct scsi_req *q)
{
    struct scsi_unit *u = q->unit;
    u8 asc = u->r.attention_asc;

    if (asc && !without_attention(q)) {
        u->r.attention_asc = 0;
        scsi_fail(q, KEY_UNIT_ATTENTION, (u16)(asc << 8 | u->r.attention_ascq));
        return;
    }
    if (q->cdb[0] != REQUEST_SENSE)
        u->r.key = u->r.asc = u->r.ascq = 0;
    if (u->cd && cd_wants_medium(q->cdb[0]) && !scsi_blocks(u)) {
        scsi_fail(q, KEY_NOT_READY, ASC_NO_MEDIUM + (u->r.tray_open ? 2 : 1));
        return;
    }
    if (!spc_command(q) && !(u->cd ? cd_command(q) : sbc_command(q)))
        scsi_fail(q, KEY_ILLEGAL_REQUEST, ASC_OPCODE);
}

void scsi_submit(struct scsi_bus *b, struct scsi_req *q)
{
    q->bus = b;
    q->unit = scsi_unit_at(b, q->target, q->lun);
    q->status = q->sense_len = 0;
    q->overrun = q->aborted = q->io = q->fua = false;
    q->dir = SCSI_NONE;
    q->moved = 0;
    q->n = 0;
    q->prev = NULL;
    q->next = b->reqs;
    if (b->reqs)
        b->reqs->prev = q;
    b->reqs = q;
    if (q->cdb[0] == REPORT_LUNS)
        report_luns(q);
    else if (q->unit)
        unit_command(q);
    else
        no_unit(q);
}

void scsi_abort(struct scsi_req *q)
{
    q->aborted = true;
    if (!q->io)
        end(q, SCSI_TASK_ABORTED);
}

void scsi_req_free(struct scsi_req *q)
{
    g_free(q->buf);
}

/* ---- rest and reset ------------------------------------------------------------------------
 */

/* One that the image has, of that unit or (NULL) of any. */
static struct scsi_req *in_image(const struct scsi_bus *b, const struct scsi_unit *u)
{
    for (struct scsi_req *q = b->reqs; q; q = q->next)
        if (q->io && (!u || q->unit == u))
            return q;
    return NULL;
}

void scsi_bus_drain(struct scsi_bus *b)
{
    struct scsi_req *q;

    while ((q = in_image(b, NULL))) {
        image_drain(image_of(q)); /* completions find our lock taken and queue up */
        came_list(b);
    }
}

void scsi_bus_rest(struct scsi_bus *b)
{
    for (bool busy = true; busy;) { /* the steps of a command follow one another */
        u32 held = 0, under_way = 0;

        for (u32 i = 0; i < b->units->len; i++) {
            const struct scsi_unit *u = b->units->pdata[i];

            if (u->drive->image)
                held += image_quiesce(u->drive->image);
        }
        dev_lock(b->host);
        came_list(b);
        for (const struct scsi_req *q = b->reqs; q; q = q->next)
            under_way += q->io;
        busy = under_way != held;
        dev_unlock(b->host);
    }
}

void scsi_attention(struct scsi_unit *u, u16 asc)
{
    if (u->r.attention_asc != ASC_POWER_ON >> 8) { /* which says more */
        u->r.attention_asc = (u8)(asc >> 8);
        u->r.attention_ascq = (u8)asc;
    }
    if (u->bus->ops->attention)
        u->bus->ops->attention(u->bus, u, (u8)(asc >> 8), (u8)asc);
}

static void unit_reset(struct scsi_unit *u)
{
    u->r.key = u->r.asc = u->r.ascq = 0;
    u->r.attention_asc = ASC_POWER_ON >> 8;
    u->r.attention_ascq = 0;
    u->r.write_cache =
        u->write_cache_prop && (u->cd || !image_writethrough(u->drive->image));
    u->r.locked = false;
    u->r.event = 0;
}

void scsi_reset(struct scsi_bus *b, struct scsi_unit *only)
{
    for (u32 i = 0; i < b->units->len; i++)
        if (!only || b->units->pdata[i] == only)
            unit_reset(b->units->pdata[i]);
}

bool scsi_bus_init(struct scsi_bus *b, struct dev *host, const char *name, struct iothread *io,
                   GError **error)
{
    struct vm *vm = host->vm;

    b->done_fd = iothread_add(io, done_kicked, b, error);
    if (b->done_fd < 0)
        return false;
    b->name = g_strdup(name);
    b->host = host;
    b->units = g_ptr_array_new();
    if (!vm->scsi_buses)
        vm->scsi_buses = g_ptr_array_new();
    g_ptr_array_add(vm->scsi_buses, b);
    return true;
}

void scsi_bus_fini(struct scsi_bus *b)
{
    if (!b->name)
        return;
    g_ptr_array_remove(b->host->vm->scsi_buses, b);
    for (u32 i = 0; i < b->units->len; i++)
        ((struct scsi_unit *)b->units->pdata[i])->bus = NULL;
    g_ptr_array_unref(b->units);
    g_clear_pointer(&b->name, g_free);
}
