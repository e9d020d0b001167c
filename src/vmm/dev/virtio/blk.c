// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blk.c - virtio block device over a disk image.  VIRTIO 1.2, 5.2.
 *
 * A request's data goes straight between the image and guest RAM.  Completions come on the I/O
 * thread, which fetches those of io_uring, or on the image's threads: they take the device's
 * lock if it is free, else they leave the request on a list for the I/O thread.  So a reset,
 * which holds the lock, can wait for the image to drain.
 *
 * Without FLUSH accepted, or with the write cache turned off (CONFIG_WCE), writes are durable
 * when they complete.
 *
 * Not modelled: a limit on a segment's size (there is none), SCSI commands, lifetime, secure
 * erase, zoned storage.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "image/image.h"
#include "vmm/dev/drive.h"
#include "vmm/dev/virtio/iothread.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum {
    F_SEG_MAX = 2,
    F_RO = 5,
    F_BLK_SIZE = 6,
    F_FLUSH = 9,
    F_TOPOLOGY = 10,
    F_CONFIG_WCE = 11,
    F_MQ = 12,
    F_DISCARD = 13,
    F_WRITE_ZEROES = 14,
};
enum {
    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
};
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { SECTOR = 512, ID_LEN = 20, SEGMENT_UNMAP = 1, QUEUES_MAX = 32 };
enum { DISCARD_SECTORS_MAX = 0x400000, DISCARD_SEGS_MAX = 1 };

struct blk_header {
    le32 type, reserved;
    le64 sector;
};
struct blk_segment { /* of discard and write zeroes */
    le64 sector;
    le32 n_sectors, flags;
};
struct blk_config {
    le64 capacity;
    le32 size_max, seg_max;
    le16 cylinders;
    u8 heads, sectors;
    le32 blk_size;
    u8 physical_block_exp, alignment_offset;
    le16 min_io_size;
    le32 opt_io_size;
    u8 writeback, unused0;
    le16 num_queues;
    le32 max_discard_sectors, max_discard_seg, discard_sector_alignment;
    le32 max_write_zeroes_sectors, max_write_zeroes_seg;
    u8 write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 60, "virtio_blk_config");

struct blk_req {
    struct vq_req q;
    struct vblk *s;
    u8 *status;  /* the last byte of `in`, in guest RAM */
    u32 written; /* bytes of `in` that are ours on success, without the status */
    int ret;
    struct blk_req *next; /* on the free or the done list */
};

struct vblk {
    struct virtio v;
    struct vblk_regs {
        struct virtio_regs virtio;
        u8 writeback;
        u8 zero[7];
    } r;
    struct blk_req *free;
    struct blk_req *_Atomic done; /* left by completions that found the lock taken */
    int done_fd;
    u64 capacity; /* bytes, whole sectors */
    /* properties */
    struct image *image;
    char *serial, *rerror, *werror;
    u16 num_queues;
    u32 queue_size;
    u32 logical_block, physical_block;
    bool write_cache, discard, config_wce;
};

static const struct state_field vblk_fields[] = {
    STATE_STRUCT(struct vblk_regs, virtio, virtio_fields),
    STATE_BOOL(struct vblk_regs, writeback),
    STATE_PAD(struct vblk_regs, zero),
};

static struct vblk *vblk_of(struct virtio *v)
{
    return container_of(v, struct vblk, v);
}

/* ---- requests ---- */

static struct blk_req *req_get(struct vblk *s, struct vq *vq)
{
    struct blk_req *r = s->free;

    if (r) {
        s->free = r->next;
    } else {
        r = g_new0(struct blk_req, 1); /* at most a queue's size of them are ever under way */
        r->s = s;
        vq_req_init(&r->q, vq);
    }
    return r;
}

static void req_put(struct blk_req *r)
{
    r->next = r->s->free;
    r->s->free = r;
}

static void finish(struct blk_req *r, u8 status)
{
    struct ram *ram = virtio_ram(&r->s->v);

    if (status == S_OK && r->written)
        iovs_written(&r->q.in);
    *r->status = status;
    ram_written(ram, r->status, 1);
    vq_push(&r->q, (status == S_OK ? r->written : 0) + 1);
    vq_signal(r->q.vq);
    req_put(r);
}

static void finish_ret(struct blk_req *r)
{
    finish(r, r->ret == 0 ? S_OK : r->ret == -ENOTSUP ? S_UNSUPP : S_IOERR);
}

static __thread struct vblk *reaping; /* this thread has its lock */

/* A thread of the image's, or one that reaps. */
static void image_did(void *opaque, int ret)
{
    struct blk_req *r = opaque;
    struct vblk *s = r->s;

    r->ret = ret;
    if (reaping == s) {
        finish_ret(r);
        return;
    }
    if (dev_trylock(&s->v.pci.dev)) {
        finish_ret(r);
        dev_unlock(&s->v.pci.dev);
        return;
    }
    r->next = atomic_load(&s->done);
    while (!atomic_compare_exchange_weak(&s->done, &r->next, r))
        ;
    eventfd_ring(s->done_fd);
}

static void finish_list(struct vblk *s)
{
    struct blk_req *r = atomic_exchange(&s->done, NULL);

    while (r) {
        struct blk_req *next = r->next;
        finish_ret(r);
        r = next;
    }
}

/* REQUIRES the device's lock */
static void reap(struct vblk *s)
{
    reaping = s;
    while (image_reap(s->image)) /* it starts none, so they have an end */
        ;
    reaping = NULL;
}

static void done_kicked(void *opaque)
{
    struct vblk *s = opaque;

    dev_lock(&s->v.pci.dev);
    reap(s);
    finish_list(s);
    dev_unlock(&s->v.pci.dev);
}

static bool in_range(const struct vblk *s, u64 sector, u64 len, u64 *ret_at)
{
    u64 at;

    if (__builtin_mul_overflow(sector, (u64)SECTOR, &at) || len > s->capacity ||
        at > s->capacity - len)
        return false;
    *ret_at = at;
    return true;
}

static void rw(struct blk_req *r, u32 type, u64 sector)
{
    struct vblk *s = r->s;
    struct iovs *v = type == T_IN ? &r->q.in : &r->q.out;
    u64 at;

    if (v->left % s->logical_block || (sector * SECTOR) % s->logical_block ||
        !in_range(s, sector, v->left, &at) || (type == T_OUT && image_read_only(s->image))) {
        finish(r, S_IOERR);
        return;
    }
    if (!v->left) {
        finish(r, S_OK);
        return;
    }
    if (type == T_IN) {
        r->written = (u32)MIN(v->left, (size_t)UINT32_MAX - 1);
        image_read(s->image, at, v->v + v->cur, (int)(v->n - v->cur), image_did, r);
        return;
    }
    bool durable = !virtio_has(&s->v, F_FLUSH) || !s->r.writeback;
    image_write(s->image, at, v->v + v->cur, (int)(v->n - v->cur), durable, image_did, r);
}

static void get_id(struct blk_req *r)
{
    char id[ID_LEN] = { 0 };
    size_t n = MIN(r->q.in.left, sizeof id);

    strncpy(id, r->s->serial ? r->s->serial : "", sizeof id);
    if (!iovs_put(&r->q.in, id, n))
        n = 0;
    /* iovs_put() has marked them; finish() must not look for pieces again */
    r->q.in.cur = r->q.in.n;
    r->written = (u32)n;
    finish(r, S_OK);
}

static void discard(struct blk_req *r, u32 type)
{
    struct vblk *s = r->s;
    struct blk_segment seg;
    u64 at;

    if (!virtio_has(&s->v, type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES)) {
        finish(r, S_UNSUPP);
        return;
    }
    if (r->q.out.left != sizeof seg || !iovs_get(&r->q.out, &seg, sizeof seg)) {
        finish(r, S_IOERR);
        return;
    }
    u64 len = (u64)le32_get(seg.n_sectors) * SECTOR;
    u32 flags = le32_get(seg.flags);
    if (flags & ~(type == T_DISCARD ? 0u : SEGMENT_UNMAP)) {
        finish(r, S_UNSUPP);
        return;
    }
    if (le32_get(seg.n_sectors) > DISCARD_SECTORS_MAX || image_read_only(s->image) ||
        !in_range(s, le64_get(seg.sector), len, &at)) {
        finish(r, S_IOERR);
        return;
    }
    if (!len)
        finish(r, S_OK);
    else if (type == T_DISCARD)
        image_discard(s->image, at, len, image_did, r);
    else
        image_write_zeroes(s->image, at, len, flags & SEGMENT_UNMAP, image_did, r);
}

/* The status byte is the last one of what we may write, wherever the driver has put it. */
static bool take_status(struct blk_req *r)
{
    struct iovs *in = &r->q.in;

    if (!in->n || !in->left)
        return false;
    struct iovec *last = &in->v[in->n - 1];
    r->status = (u8 *)last->iov_base + --last->iov_len;
    if (!last->iov_len)
        in->n--;
    in->left--;
    return true;
}

static void start(struct blk_req *r)
{
    struct blk_header h;

    r->written = 0;
    if (!take_status(r) || !iovs_get(&r->q.out, &h, sizeof h)) {
        vq_break(r->q.vq, "a block request without header or status byte");
        req_put(r);
        return;
    }
    u32 type = le32_get(h.type);

    switch (type) {
    case T_IN:
    case T_OUT:
        rw(r, type, le64_get(h.sector));
        break;
    case T_FLUSH:
        image_flush(r->s->image, image_did, r);
        break;
    case T_GET_ID:
        get_id(r);
        break;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        discard(r, type);
        break;
    default:
        finish(r, S_UNSUPP);
    }
}

static void take_requests(struct vq *vq)
{
    struct vblk *s = vblk_of(vq->v);
    unsigned budget = vq->r->size;

    do {
        vq_disable(vq);
        for (;;) {
            struct blk_req *r = req_get(s, vq);

            if (vq_pop(vq, &r->q) != 1) {
                req_put(r);
                break;
            }
            start(r);
            if (!--budget) {
                vq_kick(vq); /* let others have the lock */
                return;
            }
        }
    } while (vq_enable(vq));
}

static void handle(struct vq *vq)
{
    struct vblk *s = vblk_of(vq->v);

    image_batch(s->image, true);
    take_requests(vq);
    image_batch(s->image, false);
    reap(s);
}

/* ---- configuration ---- */

static void config(struct virtio *v, u8 *bytes)
{
    struct vblk *s = vblk_of(v);
    u8 exp = 0;

    while (s->logical_block << (exp + 1) <= s->physical_block)
        exp++;
    u32 align = s->logical_block / SECTOR;
    u64 cylinders = s->capacity / SECTOR / (16 * 63);
    struct blk_config c = {
        .capacity = le64_of(s->capacity / SECTOR),
        .seg_max = le32_of(MIN(s->queue_size - 2, IOVS_MAX / 2 - 2)),
        .cylinders = le16_of(MIN(cylinders, 16383u)),
        .heads = 16,
        .sectors = 63,
        .blk_size = le32_of(s->logical_block),
        .physical_block_exp = exp,
        .writeback = s->r.writeback,
        .num_queues = le16_of(s->num_queues),
        .max_discard_sectors = le32_of(DISCARD_SECTORS_MAX),
        .max_discard_seg = le32_of(DISCARD_SEGS_MAX),
        .discard_sector_alignment = le32_of(align),
        .max_write_zeroes_sectors = le32_of(DISCARD_SECTORS_MAX),
        .max_write_zeroes_seg = le32_of(DISCARD_SEGS_MAX),
        .write_zeroes_may_unmap = 1,
    };

    memcpy(bytes, &c, sizeof c);
}

static void config_written(struct virtio *v, const u8 *bytes, u32 off, u32 len)
{
    struct vblk *s = vblk_of(v);
    u32 at = offsetof(struct blk_config, writeback);

    if (off <= at && at < off + len && virtio_has(v, F_CONFIG_WCE))
        s->r.writeback = bytes[at] & 1;
}

static u64 whole_blocks(const struct vblk *s)
{
    return image_size(s->image) & ~(u64)(s->logical_block - 1);
}

/* Main thread: the disk has another size, which the driver learns by an interrupt. */
static void resized(void *opaque)
{
    struct vblk *s = opaque;

    dev_lock(&s->v.pci.dev);
    s->capacity = whole_blocks(s);
    virtio_config_changed(&s->v);
    dev_unlock(&s->v.pci.dev);
}

/* ---- life ---- */

static void blk_drain(struct virtio *v)
{
    struct vblk *s = vblk_of(v);

    image_drain(s->image); /* their completions find our lock taken and queue up */
    finish_list(s);
}

static void blk_reset(struct virtio *v)
{
    struct vblk *s = vblk_of(v);

    blk_drain(v);
    s->r.writeback = s->write_cache && !image_writethrough(s->image);
}

static void blk_pause(struct virtio *v, bool paused)
{
    struct vblk *s = vblk_of(v);

    if (!paused)
        return;
    image_quiesce(s->image);
    dev_lock(&v->pci.dev);
    finish_list(s);
    dev_unlock(&v->pci.dev);
}

static bool block_size_ok(u32 n)
{
    return n >= SECTOR && n <= 32768 && !(n & (n - 1));
}

static bool blk_init(struct virtio *v, GError **error)
{
    struct vblk *s = vblk_of(v);

    if (!s->image)
        return fail(error, ERR_ARGUMENT, "it needs a drive: drive=ID");
    if (!virtio_size_ok(v, "queue-size", s->queue_size, error))
        return false;
    if (s->queue_size < 4)
        return fail(error, ERR_ARGUMENT, "queue-size=%u: at least 4", s->queue_size);
    if (s->num_queues < 1 || s->num_queues > QUEUES_MAX)
        return fail(error, ERR_ARGUMENT, "num-queues=%u: expected 1 to %u", s->num_queues,
                    QUEUES_MAX);
    if (!block_size_ok(s->logical_block) || !block_size_ok(s->physical_block) ||
        s->physical_block < s->logical_block)
        return fail(error, ERR_ARGUMENT,
                    "block sizes are powers of two from 512 to 32768, the physical one not "
                    "smaller than the logical one");
    struct drive *drive = drive_find_image(v->pci.dev.vm, s->image);
    if (drive && drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", drive->id);
    if (drive && !drive_error_props(drive, s->rerror, s->werror, error))
        return false;
    s->capacity = whole_blocks(s);
    v->features |= BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY);
    if (s->config_wce)
        v->features |= BIT(F_CONFIG_WCE);
    if (s->num_queues > 1)
        v->features |= BIT(F_MQ);
    if (image_read_only(s->image))
        v->features |= BIT(F_RO);
    else if (s->discard)
        v->features |= BIT(F_DISCARD) | BIT(F_WRITE_ZEROES);
    v->config_len = sizeof(struct blk_config);
    s->done_fd = iothread_add(v->io, done_kicked, s, error);
    if (s->done_fd < 0)
        return false;
    image_reap_by(s->image, s->done_fd);
    if (drive)
        drive_attach(drive, &v->pci.dev, &v->pci.dev, NULL, s);
    image_on_resize(s->image, resized, s);
    for (u32 i = 0; i < s->num_queues; i++)
        virtio_add_queue(v, s->queue_size, handle);
    return true;
}

static void blk_fini(struct virtio *v)
{
    struct vblk *s = vblk_of(v);

    image_on_resize(s->image, NULL, NULL);
    image_drain(s->image);
    image_reap_off(s->image);
    struct drive *drive = drive_find_image(v->pci.dev.vm, s->image);
    if (drive)
        drive_detach(drive);
    for (struct blk_req *r = atomic_exchange(&s->done, NULL), *next; r; r = next) {
        next = r->next;
        req_put(r);
    }
    while (s->free) {
        struct blk_req *r = s->free;
        s->free = r->next;
        vq_req_free(&r->q);
        g_free(r);
    }
}

static const struct virtio_type blk = {
    .pci = VIRTIO_PCI(struct vblk, 0x010000),
    .id = 2,
    .legacy_device = 0x1001,
    .regs = offsetof(struct vblk, r.virtio),
    .init = blk_init,
    .fini = blk_fini,
    .reset = blk_reset,
    .config = config,
    .config_written = config_written,
    .drain = blk_drain,
    .pause = blk_pause,
};

#define BLK_PROPS                                                                              \
    PROP(struct vblk, image, PROP_PTR, .name = "drive", .link = "drive",                       \
         .help = "the disk behind it"),                                                        \
        PROP(struct vblk, serial, PROP_STR, .name = "serial",                                  \
             .help = "serial number, 20 characters"),                                          \
        PROP(struct vblk, rerror, PROP_STR, .name = "rerror",                                  \
             .help = "reads that fail: report, ignore, stop, auto (as the drive has it)"),     \
        PROP(struct vblk, werror, PROP_STR, .name = "werror",                                  \
             .help = "writes that fail: the same, or enospc"),                                 \
        PROP(struct vblk, num_queues, PROP_U16, .name = "num-queues", .def = "1",              \
             .help = "request queues"),                                                        \
        PROP(struct vblk, queue_size, PROP_U32, .name = "queue-size", .def = "256",            \
             .help = "requests a queue holds"),                                                \
        PROP(struct vblk, logical_block, PROP_U32, .name = "logical_block_size", .def = "512", \
             .help = "bytes"),                                                                 \
        PROP(struct vblk, physical_block, PROP_U32, .name = "physical_block_size",             \
             .def = "512", .help = "bytes"),                                                   \
        PROP(struct vblk, write_cache, PROP_BOOL, .name = "write-cache", .def = "on",          \
             .help = "writes are durable after a flush only"),                                 \
        PROP(struct vblk, config_wce, PROP_BOOL, .name = "config-wce", .def = "on",            \
             .help = "the guest may change that"),                                             \
        PROP(struct vblk, discard, PROP_BOOL, .name = "discard", .def = "on",                  \
             .help = "offer discard and write zeroes")

static const struct prop blk_pci_props[] = {
    BLK_PROPS,
    VIRTIO_PCI_PROPS(struct vblk),
    { 0 },
};
static const struct prop blk_mmio_props[] = {
    BLK_PROPS,
    { 0 },
};

const struct dev_type virtio_blk_pci_type = {
    .name = "virtio-blk-pci",
    .desc = "Virtio block device",
    .kind = DEV_PCI,
    .props = blk_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vblk, vblk_fields, blk),
};
const struct dev_type virtio_blk_device_type = {
    .name = "virtio-blk-device",
    .desc = "Virtio block device (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = blk_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vblk, vblk_fields, blk),
};
