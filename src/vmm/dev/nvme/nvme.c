// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nvme.c - an NVM Express controller with one namespace over a disk image.
 * NVM Express 1.3d: 3 (registers), 4 (queues, PRPs), 5 (admin commands), 6 (NVM commands).
 *
 * A submission queue is read when its doorbell rings, as far as there are requests to be had
 * (as many as it has entries); data go straight between image and guest RAM.  A full completion
 * queue keeps what is done until its head moves.
 *
 * Completions come on the image's threads: they take the device's lock if it is free, else they
 * leave the request on a list for the I/O thread.  So a reset can wait for the image with the
 * lock held.  Disabling the controller does not wait: CSTS.RDY falls when the last request has
 * come.
 *
 * Not modelled: SGLs, metadata, firmware, formats, namespaces beyond 1, a controller memory
 * buffer, asynchronous events but for a namespace that has another size, ABORT (answers that
 * it did not).
 */
#include "vmm/dev/nvme/nvme.h"

#include <stdatomic.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/drive.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/virtio/iothread.h"

enum {
    REG_CAP = 0x00,
    REG_VS = 0x08,
    REG_INTMS = 0x0c,
    REG_INTMC = 0x10,
    REG_CC = 0x14,
    REG_CSTS = 0x1c,
    REG_AQA = 0x24,
    REG_ASQ = 0x28,
    REG_ACQ = 0x30,
    DOORBELLS = 0x1000,
    BAR_LEN = 0x4000,
};
enum { CC_EN = 0x0001, CC_SHN = 0xc000, CSTS_RDY = 1, CSTS_CFS = 2, CSTS_SHST_DONE = 8 };
enum {
    ADMIN_DELETE_SQ = 0x00,
    ADMIN_CREATE_SQ = 0x01,
    ADMIN_GET_LOG = 0x02,
    ADMIN_DELETE_CQ = 0x04,
    ADMIN_CREATE_CQ = 0x05,
    ADMIN_IDENTIFY = 0x06,
    ADMIN_ABORT = 0x08,
    ADMIN_SET_FEATURES = 0x09,
    ADMIN_GET_FEATURES = 0x0a,
    ADMIN_ASYNC_EVENT = 0x0c,
};
enum {
    IO_FLUSH = 0x00,
    IO_WRITE = 0x01,
    IO_READ = 0x02,
    IO_WRITE_ZEROES = 0x08,
    IO_DSM = 0x09
};
/* Status: code type << 8 | code; the "do not retry" bit is set with all of them. */
enum {
    OK = 0,
    INVALID_OPCODE = 0x001,
    INVALID_FIELD = 0x002,
    DATA_ERROR = 0x004,
    INTERNAL = 0x006,
    INVALID_NAMESPACE = 0x00b,
    INVALID_PRP_OFFSET = 0x013,
    LBA_RANGE = 0x080,
    CQ_INVALID = 0x100,
    QUEUE_ID_INVALID = 0x101,
    QUEUE_SIZE = 0x102,
    EVENT_LIMIT = 0x105,
    LOG_PAGE = 0x109,
    INTERRUPT_VECTOR = 0x108,
    QUEUE_DELETION = 0x10c,
    READ_ONLY = 0x182,
    WRITE_FAULT = 0x280,
    UNRECOVERED_READ = 0x281,
    LATER = 0xffff, /* not a status: it completes by itself */
    DNR = 0x4000,
};
enum { QUEUES = 65, ENTRIES_MAX = 4096, SQE = 64, CQE = 16, EVENTS = 4, RANGES = 256 };
/* Of asynchronous events: the one there is, as a bit of configuration and as it is told: a
 * notice, of a namespace that changed, which is in log page 4. */
enum { EVENT_NAMESPACE = 0x100, NOTICE_NAMESPACE = 0x040002, LOG_CHANGED = 4 };
enum { MDTS = 7, PIECE_MAX = 4096 << MDTS, NSID = 1, PRP_LIST_MAX = 512, VERSION = 0x00010300 };

struct sq_regs {
    u64 base;
    u16 size; /* entries; 0: there is no such queue */
    u16 head, tail, cq;
};
struct cq_regs {
    u64 base;
    u16 size, head, tail, vector;
    u8 phase, interrupts, zero[6];
};

struct sqe {
    u8 opcode, flags;
    le16 cid;
    le32 nsid;
    le64 reserved, metadata, prp1, prp2;
    le32 cdw[6]; /* 10 to 15 */
};
_Static_assert(sizeof(struct sqe) == SQE, "submission queue entry");

struct nvme_req {
    struct nvme *s;
    u16 sq, cid, status;
    u8 opcode;
    int ret;
    u32 result;
    struct iovs data;
    struct range {
        u64 at, len;
    } * ranges; /* to be discarded, from `next` on */
    u32 n_ranges, next_range;
    struct nvme_req *next; /* on the free, the done or a completion queue's list */
};

struct nvme {
    struct pci_dev pci;
    struct nvme_regs {
        struct pci_regs pci;
        struct pci_msix_regs msix;
        u64 asq, acq;
        u32 cc, csts, aqa, mask;
        struct sq_regs sq[QUEUES];
        struct cq_regs cq[QUEUES];
        u16 event[EVENTS]; /* command ids of the asynchronous event requests that wait */
        u8 events, write_cache;
        u8 changed, told; /* the namespace's size, and the driver has not read the log yet */
        u32 event_config;
    } r;
    u32 under_way[QUEUES];          /* of each submission queue */
    u32 total;                      /* with the flush of a shutdown */
    struct nvme_req *waits[QUEUES]; /* done, but their completion queue is full */
    struct nvme_req *free;
    struct nvme_req *_Atomic done; /* left by completions that found the lock taken */
    struct iothread *io;
    int done_fd;
    u64 blocks;
    unsigned shift; /* log2 of a block */
    /* properties */
    struct image *image;
    char *serial;
    u32 queues; /* pairs for I/O */
    u32 logical_block;
    bool write_cache;
};

static const struct state_field sq_fields[] = {
    STATE_INT(struct sq_regs, base),
    STATE_UINT(struct sq_regs, size, ENTRIES_MAX),
    STATE_UINT(struct sq_regs, head, ENTRIES_MAX - 1),
    STATE_UINT(struct sq_regs, tail, ENTRIES_MAX - 1),
    STATE_UINT(struct sq_regs, cq, QUEUES - 1),
};
static const struct state_field cq_fields[] = {
    STATE_INT(struct cq_regs, base),
    STATE_UINT(struct cq_regs, size, ENTRIES_MAX),
    STATE_UINT(struct cq_regs, head, ENTRIES_MAX - 1),
    STATE_UINT(struct cq_regs, tail, ENTRIES_MAX - 1),
    STATE_UINT(struct cq_regs, vector, QUEUES - 1),
    STATE_UINT(struct cq_regs, phase, 1),
    STATE_UINT(struct cq_regs, interrupts, 1),
    STATE_PAD(struct cq_regs, zero),
};
static const struct state_field nvme_fields[] = {
    STATE_STRUCT(struct nvme_regs, pci, pci_fields),
    STATE_STRUCT(struct nvme_regs, msix, pci_msix_fields),
    STATE_INT(struct nvme_regs, asq),
    STATE_INT(struct nvme_regs, acq),
    STATE_INT(struct nvme_regs, cc),
    STATE_UINT(struct nvme_regs, csts, 0x0f),
    STATE_INT(struct nvme_regs, aqa),
    STATE_INT(struct nvme_regs, mask),
    STATE_STRUCTS(struct nvme_regs, sq, sq_fields),
    STATE_STRUCTS(struct nvme_regs, cq, cq_fields),
    STATE_UINTS(struct nvme_regs, event, 0xffff),
    STATE_UINT(struct nvme_regs, events, EVENTS),
    STATE_UINT(struct nvme_regs, write_cache, 1),
    STATE_UINT(struct nvme_regs, changed, 1),
    STATE_UINT(struct nvme_regs, told, 1),
    STATE_UINT(struct nvme_regs, event_config, EVENT_NAMESPACE),
};

static struct nvme *nvme_of(struct dev *d)
{
    return container_of(d, struct nvme, pci.dev);
}

static struct ram *ram_of(const struct nvme *s)
{
    return s->pci.dev.vm->ram;
}

/* ---- interrupts ----------------------------------------------------------------------------
 */

static void pin_update(struct nvme *s)
{
    bool level = false;

    for (u32 i = 0; i < QUEUES && !pci_msix_on(&s->pci); i++) {
        const struct cq_regs *c = &s->r.cq[i];

        level |= c->size && c->interrupts && c->head != c->tail &&
                 !(c->vector < 32 && s->r.mask & 1u << c->vector);
    }
    pci_intx_set(&s->pci, level);
}

/* ---- completion ----------------------------------------------------------------------------
 */

static void sq_run(struct nvme *s, u16 id);

static void req_put(struct nvme_req *q)
{
    iovs_free(&q->data);
    g_clear_pointer(&q->ranges, g_free);
    q->next = q->s->free;
    q->s->free = q;
}

static bool cq_full(const struct cq_regs *c)
{
    return (c->tail + 1) % c->size == c->head;
}

/* REQUIRES room in the queue. */
static void cq_put(struct nvme *s, u16 id, struct nvme_req *q)
{
    struct cq_regs *c = &s->r.cq[id];
    struct {
        le32 result, reserved;
        le16 sq_head, sq, cid, status;
    } e = { .result = le32_of(q->result),
            .sq_head = le16_of(s->r.sq[q->sq].head),
            .sq = le16_of(q->sq),
            .cid = le16_of(q->cid),
            .status = le16_of((u16)((q->status ? q->status | DNR : 0) << 1 | c->phase)) };
    _Static_assert(sizeof e == CQE, "completion queue entry");

    if (!ram_put(ram_of(s), c->base + (u64)c->tail * CQE, &e, sizeof e))
        log_guest("%s: a completion queue outside of memory", s->pci.dev.id);
    if (++c->tail == c->size) {
        c->tail = 0;
        c->phase ^= 1;
    }
}

static void cq_signal(struct nvme *s, u16 id)
{
    const struct cq_regs *c = &s->r.cq[id];

    if (!c->interrupts)
        return;
    if (pci_msix_on(&s->pci))
        pci_msix_fire(&s->pci, c->vector);
    else
        pin_update(s);
}

static void disabled(struct nvme *s);

static void finish(struct nvme_req *q)
{
    struct nvme *s = q->s;
    u16 sq = q->sq, cq = s->r.sq[sq].cq;

    s->under_way[sq]--;
    s->total--;
    if (!(s->r.cc & CC_EN) || !s->r.sq[sq].size || !s->r.cq[cq].size) {
        req_put(q);
        if (!(s->r.cc & CC_EN) && !s->total)
            disabled(s);
        return;
    }
    if (cq_full(&s->r.cq[cq]) || s->waits[cq]) {
        struct nvme_req **at = &s->waits[cq];

        while (*at)
            at = &(*at)->next;
        q->next = NULL;
        *at = q;
        return;
    }
    cq_put(s, cq, q);
    req_put(q);
    cq_signal(s, cq);
    sq_run(s, sq);
}

static void finish_status(struct nvme_req *q, u16 status)
{
    q->status = status;
    finish(q);
}

static void image_did(void *opaque, int ret);

/* The next range to be discarded; false: there is none left. */
static bool range_next(struct nvme_req *q)
{
    if (q->next_range >= q->n_ranges)
        return false;
    const struct range *r = &q->ranges[q->next_range++];
    image_discard(q->s->image, r->at, r->len, image_did, q);
    return true;
}

static void finish_ret(struct nvme_req *q)
{
    if (q->ranges) { /* that the host cannot discard is no error */
        if (!range_next(q))
            finish_status(q, OK);
        return;
    }
    if (!q->ret && q->opcode == IO_READ)
        iovs_written(&q->data);
    finish_status(q, !q->ret                 ? OK
                     : q->opcode == IO_READ  ? UNRECOVERED_READ
                     : q->opcode == IO_FLUSH ? INTERNAL
                                             : WRITE_FAULT);
}

static void finish_list(struct nvme *s)
{
    struct nvme_req *q = atomic_exchange(&s->done, NULL);

    while (q) {
        struct nvme_req *next = q->next;

        finish_ret(q);
        q = next;
    }
}

static void leave(struct nvme *s, struct nvme_req *q)
{
    q->next = atomic_load(&s->done);
    while (!atomic_compare_exchange_weak(&s->done, &q->next, q))
        ;
    eventfd_ring(s->done_fd);
}

static __thread struct nvme *reaping; /* this thread has its lock */

/* A thread of the image's, or one that reaps. */
static void image_did(void *opaque, int ret)
{
    struct nvme_req *q = opaque;
    struct nvme *s = q->s;

    q->ret = ret;
    if (reaping == s) {
        finish_ret(q);
        return;
    }
    if (!dev_trylock(&s->pci.dev)) {
        leave(s, q);
        return;
    }
    finish_ret(q);
    dev_unlock(&s->pci.dev);
}

/* Those that have come, and those that they make room for: some, so that others get the lock.
 * REQUIRES the device's lock */
static void reap(struct nvme *s)
{
    enum { ROUNDS = 16 };
    u32 n = 1;

    if (reaping == s) /* the one that has called us goes on */
        return;
    reaping = s;
    for (u32 i = 0; i < ROUNDS && n; i++)
        n = image_reap(s->image);
    reaping = NULL;
    if (n)
        eventfd_ring(s->done_fd);
}

static void done_kicked(void *opaque)
{
    struct nvme *s = opaque;

    dev_lock(&s->pci.dev);
    reap(s);
    finish_list(s);
    dev_unlock(&s->pci.dev);
}

/* ---- data pointers -------------------------------------------------------------------------
 */

static u32 page_size(const struct nvme *s)
{
    return 4096u << (s->r.cc >> 7 & 15);
}

static u16 prp_add(struct nvme *s, struct iovs *v, u64 at, u32 n)
{
    return ram_iov(ram_of(s), at, n, v) ? OK : DATA_ERROR;
}

/* The n bytes of a command, with a list of pages if there are more than two. */
static u16 prp_map(struct nvme *s, struct nvme_req *q, const struct sqe *e, u32 n,
                   enum ram_dir dir)
{
    u32 page = page_size(s), first = MIN(n, page - (u32)(le64_get(e->prp1) & (page - 1)));
    u64 list = le64_get(e->prp2);
    le64 entry[PRP_LIST_MAX];
    u16 status;

    iovs_init(&q->data, ram_of(s), dir);
    if (le64_get(e->prp1) & 3)
        return INVALID_PRP_OFFSET;
    status = prp_add(s, &q->data, le64_get(e->prp1), first);
    n -= first;
    if (status || !n)
        return status;
    if (n <= page)
        return list & (page - 1) ? INVALID_PRP_OFFSET : prp_add(s, &q->data, list, n);
    if (list & 7)
        return INVALID_PRP_OFFSET;
    while (n) {
        /* entries up to the end of the page that the list is in; the last one may go on */
        u32 room = (page - (u32)(list & (page - 1))) / 8, want = (n + page - 1) / page;
        u32 take = MIN(MIN(room, want), (u32)PRP_LIST_MAX);
        bool more = want > room && take == room;

        if (!ram_get(ram_of(s), list, entry, take * sizeof entry[0]))
            return DATA_ERROR;
        for (u32 i = 0; i < take - more && n; i++) {
            u64 at = le64_get(entry[i]);
            u32 part = MIN(n, page);

            if (at & (page - 1))
                return INVALID_PRP_OFFSET;
            status = prp_add(s, &q->data, at, part);
            if (status)
                return status;
            n -= part;
        }
        list = more ? le64_get(entry[take - 1]) : list + take * sizeof entry[0];
        if (more && (list & 7 || take == 1))
            return INVALID_PRP_OFFSET; /* a list of lists only */
    }
    return OK;
}

static u16 give(struct nvme *s, struct nvme_req *q, const struct sqe *e, const void *bytes,
                u32 n)
{
    u16 status = prp_map(s, q, e, n, RAM_TO_GUEST);

    return status ? status : iovs_put(&q->data, bytes, n) ? OK : DATA_ERROR;
}

/* ---- NVM commands --------------------------------------------------------------------------
 */

static u16 blocks_of(const struct nvme *s, const struct sqe *e, u64 *ret_at, u64 *ret_len)
{
    u64 lba = le32_get(e->cdw[0]) | (u64)le32_get(e->cdw[1]) << 32;
    u64 n = (le32_get(e->cdw[2]) & 0xffff) + 1;

    if (n > s->blocks || lba > s->blocks - n)
        return LBA_RANGE;
    *ret_at = lba << s->shift;
    *ret_len = n << s->shift;
    return OK;
}

static u16 io_rw(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    bool read = q->opcode == IO_READ, fua = le32_get(e->cdw[2]) >> 30 & 1;
    u64 at, len;
    u16 status = blocks_of(s, e, &at, &len);

    if (status)
        return status;
    if (len > PIECE_MAX)
        return INVALID_FIELD;
    if (!read && image_read_only(s->image))
        return READ_ONLY;
    status = prp_map(s, q, e, (u32)len, read ? RAM_TO_GUEST : RAM_FROM_GUEST);
    if (status)
        return status;
    if (read)
        image_read(s->image, at, q->data.v, (int)q->data.n, image_did, q);
    else
        image_write(s->image, at, q->data.v, (int)q->data.n, fua || !s->r.write_cache,
                    image_did, q);
    return LATER;
}

static u16 io_write_zeroes(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u64 at, len;
    u16 status = blocks_of(s, e, &at, &len);

    if (status)
        return status;
    if (image_read_only(s->image))
        return READ_ONLY;
    image_write_zeroes(s->image, at, len, le32_get(e->cdw[2]) >> 25 & 1, image_did, q);
    return LATER;
}

static u16 io_dsm(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    struct {
        le32 attributes, blocks;
        le64 lba;
    } list[RANGES];
    u32 n = (le32_get(e->cdw[0]) & 0xff) + 1;

    if (!(le32_get(e->cdw[1]) & 4)) /* hints only */
        return OK;
    if (image_read_only(s->image))
        return READ_ONLY;
    u16 status = prp_map(s, q, e, n * (u32)sizeof list[0], RAM_FROM_GUEST);
    if (status)
        return status;
    if (!iovs_get(&q->data, list, n * sizeof list[0]))
        return DATA_ERROR;
    struct range *ranges = g_new(struct range, n);
    for (u32 i = 0; i < n; i++) {
        u64 lba = le64_get(list[i].lba), count = le32_get(list[i].blocks);

        if (count > s->blocks || lba > s->blocks - count) {
            g_free(ranges);
            return LBA_RANGE;
        }
        ranges[i] = (struct range){ lba << s->shift, count << s->shift };
    }
    q->ranges = ranges;
    q->n_ranges = n;
    q->next_range = 0;
    range_next(q);
    return LATER;
}

static u16 io_command(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u32 nsid = le32_get(e->nsid);

    if (nsid != NSID && !(q->opcode == IO_FLUSH && nsid == UINT32_MAX))
        return INVALID_NAMESPACE;
    if (e->flags & 0xc3) /* SGLs, fused */
        return INVALID_FIELD;
    switch (q->opcode) {
    case IO_FLUSH:
        image_flush(s->image, image_did, q);
        return LATER;
    case IO_READ:
    case IO_WRITE:
        return io_rw(s, q, e);
    case IO_WRITE_ZEROES:
        return io_write_zeroes(s, q, e);
    case IO_DSM:
        return io_dsm(s, q, e);
    }
    return INVALID_OPCODE;
}

/* ---- admin commands ------------------------------------------------------------------------
 */

static u16 create_cq(struct nvme *s, const struct sqe *e)
{
    u32 a = le32_get(e->cdw[0]), b = le32_get(e->cdw[1]);
    u16 id = a & 0xffff, vector = b >> 16;
    u32 size = (a >> 16) + 1;

    if (!id || id > s->queues || s->r.cq[id].size)
        return QUEUE_ID_INVALID;
    if (size < 2 || size > ENTRIES_MAX)
        return QUEUE_SIZE;
    if (!(b & 1) || le64_get(e->prp1) & (page_size(s) - 1))
        return INVALID_FIELD;
    if (b & 2 && vector >= s->pci.vectors)
        return INTERRUPT_VECTOR;
    s->r.cq[id] = (struct cq_regs){ .base = le64_get(e->prp1),
                                    .size = (u16)size,
                                    .vector = b & 2 ? vector : 0,
                                    .phase = 1,
                                    .interrupts = b >> 1 & 1 };
    return OK;
}

static u16 create_sq(struct nvme *s, const struct sqe *e)
{
    u32 a = le32_get(e->cdw[0]), b = le32_get(e->cdw[1]);
    u16 id = a & 0xffff, cq = b >> 16;
    u32 size = (a >> 16) + 1;

    if (!id || id > s->queues || s->r.sq[id].size || s->under_way[id])
        return QUEUE_ID_INVALID;
    if (!cq || cq > s->queues || !s->r.cq[cq].size)
        return CQ_INVALID;
    if (size < 2 || size > ENTRIES_MAX)
        return QUEUE_SIZE;
    if (!(b & 1) || le64_get(e->prp1) & (page_size(s) - 1))
        return INVALID_FIELD;
    s->r.sq[id] = (struct sq_regs){ .base = le64_get(e->prp1), .size = (u16)size, .cq = cq };
    return OK;
}

static u16 delete_sq(struct nvme *s, const struct sqe *e)
{
    u16 id = le32_get(e->cdw[0]) & 0xffff;

    if (!id || id > s->queues || !s->r.sq[id].size)
        return QUEUE_ID_INVALID;
    s->r.sq[id] = (struct sq_regs){ 0 }; /* what is under way ends unheard */
    return OK;
}

static u16 delete_cq(struct nvme *s, const struct sqe *e)
{
    u16 id = le32_get(e->cdw[0]) & 0xffff;

    if (!id || id > s->queues || !s->r.cq[id].size)
        return QUEUE_ID_INVALID;
    for (u32 i = 1; i < QUEUES; i++)
        if (s->r.sq[i].size && s->r.sq[i].cq == id)
            return QUEUE_DELETION;
    s->r.cq[id] = (struct cq_regs){ 0 };
    while (s->waits[id]) {
        struct nvme_req *q = s->waits[id];

        s->waits[id] = q->next;
        req_put(q);
    }
    pin_update(s);
    return OK;
}

static void text_put(u8 *to, const char *text, size_t n)
{
    size_t have = strnlen(text, n);

    memset(to, ' ', n);
    memcpy(to, text, have);
}

static void identify_controller(const struct nvme *s, u8 *b)
{
    pci_put16(b, 0, 0x1b36);
    pci_put16(b, 2, 0x1af4);
    text_put(b + 4, s->serial, 20);
    text_put(b + 24, "POSADA NVMe", 40);
    text_put(b + 64, "1.0", 8);
    b[72] = 6; /* arbitration burst */
    b[77] = MDTS;
    pci_put32(b, 80, VERSION);
    pci_put32(b, 92, EVENT_NAMESPACE);
    b[258] = 3; /* aborts at a time, less one */
    b[259] = EVENTS - 1;
    b[260] = 0x03; /* one firmware slot, read-only */
    pci_put16(b, 266, 0x157);
    pci_put16(b, 268, 0x175);
    b[512] = 0x66;
    b[513] = 0x44;
    pci_put32(b, 516, 1);                                      /* namespaces */
    pci_put16(b, 520, image_read_only(s->image) ? 0 : 0x000c); /* DSM, write zeroes */
    b[525] = 1;                                                /* a volatile write cache */
    g_snprintf((char *)b + 768, 256, "nqn.2014-08.org.nvmexpress:posada:%s", s->serial);
    pci_put16(b, 2048, 2500); /* the one power state, centiwatts */
}

static u16 identify(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u8 b[4096] = { 0 };
    u32 nsid = le32_get(e->nsid);

    switch (le32_get(e->cdw[0]) & 0xff) {
    case 0:
        if (nsid != NSID && nsid != UINT32_MAX)
            return INVALID_NAMESPACE;
        for (u32 i = 0; i < 3; i++) { /* size, capacity, use */
            pci_put32(b, 8 * i, (u32)s->blocks);
            pci_put32(b, 8 * i + 4, (u32)(s->blocks >> 32));
        }
        b[130] = (u8)s->shift;
        break;
    case 1:
        identify_controller(s, b);
        break;
    case 2: /* active namespaces above nsid */
        if (nsid < NSID)
            pci_put32(b, 0, NSID);
        break;
    case 3: /* no identifiers but the serial number */
        if (nsid != NSID)
            return INVALID_NAMESPACE;
        break;
    default:
        return INVALID_FIELD;
    }
    return give(s, q, e, b, sizeof b);
}

static u16 get_log(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u8 b[4096] = { 0 };
    u32 d10 = le32_get(e->cdw[0]), d11 = le32_get(e->cdw[1]);
    u64 n = (((u64)(d11 & 0xffff) << 16 | d10 >> 16) + 1) * 4;
    u64 off = le32_get(e->cdw[2]) | (u64)le32_get(e->cdw[3]) << 32, len = 512;

    switch (d10 & 0xff) {
    case 1: /* errors: none */
        break;
    case 2:                   /* health */
        pci_put16(b, 1, 310); /* kelvin */
        b[3] = 100;           /* spare */
        b[4] = 10;
        break;
    case 3: /* firmware slots */
        b[0] = 1;
        text_put(b + 8, "1.0", 8);
        break;
    case LOG_CHANGED:
        if (s->r.changed)
            pci_put32(b, 0, NSID);
        len = 4096;
        break;
    default:
        return LOG_PAGE;
    }
    if (off >= len || off & 3)
        return INVALID_FIELD;
    u16 status = give(s, q, e, b + off, (u32)MIN(n, len - off));
    if ((d10 & 0xff) == LOG_CHANGED && status == OK && !(d10 & BIT(15))) /* not to be kept */
        s->r.changed = s->r.told = 0;
    return status;
}

static u16 features(struct nvme *s, struct nvme_req *q, const struct sqe *e, bool set)
{
    u32 value = le32_get(e->cdw[1]);

    switch (le32_get(e->cdw[0]) & 0xff) {
    case 0x06: /* volatile write cache */
        if (set) {
            s->r.write_cache = value & 1;
            image_flush(s->image, image_did, q);
            q->opcode = IO_FLUSH;
            return LATER;
        }
        q->result = s->r.write_cache;
        return OK;
    case 0x07: /* number of queues */
        q->result = (s->queues - 1) | (s->queues - 1) << 16;
        return OK;
    case 0x04: /* temperature threshold */
        q->result = set ? 0 : 0x157;
        return OK;
    case 0x0b: /* events */
        if (set)
            s->r.event_config = value & EVENT_NAMESPACE;
        else
            q->result = s->r.event_config;
        return OK;
    case 0x01: /* arbitration, power, errors, coalescing, vectors, atomicity */
    case 0x02:
    case 0x05:
    case 0x08:
    case 0x09:
    case 0x0a:
        return OK;
    }
    return INVALID_FIELD;
}

/* Is there something to tell that has not been told? */
static bool notice(struct nvme *s)
{
    if (!s->r.changed || s->r.told || !(s->r.event_config & EVENT_NAMESPACE))
        return false;
    s->r.told = true;
    return true;
}

static u16 async_event(struct nvme *s, struct nvme_req *q)
{
    if (notice(s)) {
        q->result = NOTICE_NAMESPACE;
        return OK;
    }
    if (s->r.events >= EVENTS)
        return EVENT_LIMIT;
    s->r.event[s->r.events++] = q->cid;
    s->under_way[0]--;
    s->total--;
    req_put(q);
    return LATER;
}

static u16 admin_command(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    if (e->flags & 0xc3)
        return INVALID_FIELD;
    switch (e->opcode) {
    case ADMIN_CREATE_CQ:
        return create_cq(s, e);
    case ADMIN_CREATE_SQ:
        return create_sq(s, e);
    case ADMIN_DELETE_CQ:
        return delete_cq(s, e);
    case ADMIN_DELETE_SQ:
        return delete_sq(s, e);
    case ADMIN_IDENTIFY:
        return identify(s, q, e);
    case ADMIN_GET_LOG:
        return get_log(s, q, e);
    case ADMIN_ABORT:
        q->result = 1; /* was not */
        return OK;
    case ADMIN_SET_FEATURES:
    case ADMIN_GET_FEATURES:
        return features(s, q, e, e->opcode == ADMIN_SET_FEATURES);
    case ADMIN_ASYNC_EVENT:
        return async_event(s, q);
    }
    return INVALID_OPCODE;
}

/* ---- queues --------------------------------------------------------------------------------
 */

static struct nvme_req *req_get(struct nvme *s, u16 sq, const struct sqe *e)
{
    struct nvme_req *q = s->free;

    if (q)
        s->free = q->next;
    else
        q = g_new(struct nvme_req, 1); /* at most a queue's size for each queue */
    *q = (struct nvme_req){ .s = s, .sq = sq, .cid = le16_get(e->cid), .opcode = e->opcode };
    s->under_way[sq]++;
    s->total++;
    return q;
}

static bool running(const struct nvme *s)
{
    return s->r.csts & CSTS_RDY && s->r.cc & CC_EN && pci_master(&s->pci);
}

static void take_commands(struct nvme *s, u16 id)
{
    struct sq_regs *r = &s->r.sq[id];
    u32 budget = ENTRIES_MAX;
    struct sqe e;

    while (running(s) && r->size && r->head != r->tail && s->under_way[id] < r->size &&
           !s->waits[r->cq] && budget--) {
        if (!ram_get(ram_of(s), r->base + (u64)r->head * SQE, &e, sizeof e)) {
            log_guest("%s: a submission queue outside of memory", s->pci.dev.id);
            s->r.csts |= CSTS_CFS;
            return;
        }
        r->head = (r->head + 1) % r->size;
        struct nvme_req *q = req_get(s, id, &e);
        u16 status = id ? io_command(s, q, &e) : admin_command(s, q, &e);
        if (status == LATER)
            continue;
        /* not by finish(), which would come back here */
        q->status = status;
        u16 cq = r->cq;
        s->under_way[id]--;
        s->total--;
        if (cq_full(&s->r.cq[cq])) {
            q->next = NULL;
            s->waits[cq] = q;
            return;
        }
        cq_put(s, cq, q);
        req_put(q);
        cq_signal(s, cq);
    }
}

static void sq_run(struct nvme *s, u16 id)
{
    image_batch(s->image, true);
    take_commands(s, id);
    image_batch(s->image, false);
    reap(s);
}

static void cq_moved(struct nvme *s, u16 id)
{
    while (s->waits[id] && !cq_full(&s->r.cq[id])) {
        struct nvme_req *q = s->waits[id];

        s->waits[id] = q->next;
        cq_put(s, id, q);
        req_put(q);
        cq_signal(s, id);
    }
    for (u16 i = 0; i < QUEUES && !s->waits[id]; i++)
        if (s->r.sq[i].size && s->r.sq[i].cq == id)
            sq_run(s, i);
    pin_update(s);
}

static void doorbell(struct nvme *s, u32 n, u32 val)
{
    u16 id = (u16)(n / 2);

    if (!running(s) || id >= QUEUES)
        return;
    if (n & 1) {
        struct cq_regs *c = &s->r.cq[id];

        if (!c->size || val >= c->size)
            return;
        c->head = (u16)val;
        cq_moved(s, id);
        return;
    }
    if (!s->r.sq[id].size || val >= s->r.sq[id].size)
        return;
    s->r.sq[id].tail = (u16)val;
    sq_run(s, id);
}

/* Main thread. */
static void resized(void *opaque)
{
    struct nvme *s = opaque;

    dev_lock(&s->pci.dev);
    s->blocks = image_size(s->image) >> s->shift;
    s->r.changed = true;
    if (running(s) && s->r.events && notice(s)) {
        const struct sqe e = { .opcode = ADMIN_ASYNC_EVENT, .cid = le16_of(s->r.event[0]) };
        struct nvme_req *q = req_get(s, 0, &e);

        s->r.events--;
        memmove(s->r.event, s->r.event + 1, s->r.events * sizeof s->r.event[0]);
        q->result = NOTICE_NAMESPACE;
        finish_status(q, OK);
    }
    dev_unlock(&s->pci.dev);
}

/* ---- the controller ------------------------------------------------------------------------
 */

/* Nothing is under way any more: all that enabling made is gone. */
static void disabled(struct nvme *s)
{
    for (u32 i = 0; i < QUEUES; i++) {
        while (s->waits[i]) {
            struct nvme_req *q = s->waits[i];

            s->waits[i] = q->next;
            req_put(q);
        }
    }
    memset(s->r.sq, 0, sizeof s->r.sq);
    memset(s->r.cq, 0, sizeof s->r.cq);
    s->r.events = s->r.changed = s->r.told = 0;
    s->r.event_config = 0;
    s->r.csts = 0;
    s->r.write_cache = s->write_cache && !image_writethrough(s->image);
    pin_update(s);
}

static void enable(struct nvme *s)
{
    u32 mps = s->r.cc >> 7 & 15, css = s->r.cc >> 4 & 7;
    u32 sq = (s->r.aqa & 0xfff) + 1, cq = (s->r.aqa >> 16 & 0xfff) + 1;

    if (mps > 4 || css || sq < 2 || cq < 2 || s->r.asq & (page_size(s) - 1) ||
        s->r.acq & (page_size(s) - 1)) {
        log_guest("%s: enabled with values that cannot be", s->pci.dev.id);
        s->r.csts = CSTS_CFS;
        return;
    }
    s->r.sq[0] = (struct sq_regs){ .base = s->r.asq, .size = (u16)sq };
    s->r.cq[0] =
        (struct cq_regs){ .base = s->r.acq, .size = (u16)cq, .phase = 1, .interrupts = true };
    s->r.csts = CSTS_RDY;
}

/* On the guest's thread: a shutdown is once in a guest's life. */
static void cc_write(struct nvme *s, u32 val)
{
    u32 was = s->r.cc;

    s->r.cc = val & 0x00fffff1;
    if (val & CC_SHN && !(was & CC_SHN)) {
        image_flush_now(s->image);
        s->r.csts |= CSTS_SHST_DONE;
    } else if (!(val & CC_SHN)) {
        s->r.csts &= ~CSTS_SHST_DONE;
    }
    if (val & CC_EN && !(was & CC_EN) && !(s->r.csts & CSTS_RDY))
        enable(s);
    else if (!(val & CC_EN) && was & CC_EN && !s->total)
        disabled(s);
}

static u64 capabilities(void)
{
    /* entries, contiguous queues, time to be ready, NVM commands, pages up to 64 KiB */
    return (ENTRIES_MAX / 2 - 1) | 1u << 16 | 0x0fu << 24 | BIT(37) | (u64)4 << 52;
}

static u64 nvme_read(struct dev *d, u64 off, unsigned size)
{
    struct nvme *s = nvme_of(d);
    u64 val = 0;

    switch (off & ~7ull) {
    case REG_CAP:
        val = capabilities();
        break;
    case REG_VS:
        val = VERSION | (u64)s->r.mask << 32;
        break;
    case REG_INTMC:
        val = s->r.mask | (u64)s->r.cc << 32;
        break;
    case REG_CSTS & ~7:
        val = (u64)s->r.csts << 32;
        break;
    case REG_AQA & ~7:
        val = (u64)s->r.aqa << 32;
        break;
    case REG_ASQ:
        val = s->r.asq;
        break;
    case REG_ACQ:
        val = s->r.acq;
        break;
    }
    return size == 8 ? val : val >> (off & 4 ? 32 : 0) & 0xffffffff;
}

static void write32(struct nvme *s, u64 off, u32 val)
{
    bool on = s->r.cc & CC_EN;

    switch (off) {
    case REG_INTMS:
        s->r.mask |= val;
        pin_update(s);
        break;
    case REG_INTMC:
        s->r.mask &= ~val;
        pin_update(s);
        break;
    case REG_CC:
        cc_write(s, val);
        break;
    case REG_AQA:
        if (!on)
            s->r.aqa = val & 0x0fff0fff;
        break;
    case REG_ASQ:
        if (!on)
            s->r.asq = (s->r.asq & ~0xffffffffull) | (val & ~0xfffu);
        break;
    case REG_ASQ + 4:
        if (!on)
            s->r.asq = (u32)s->r.asq | (u64)val << 32;
        break;
    case REG_ACQ:
        if (!on)
            s->r.acq = (s->r.acq & ~0xffffffffull) | (val & ~0xfffu);
        break;
    case REG_ACQ + 4:
        if (!on)
            s->r.acq = (u32)s->r.acq | (u64)val << 32;
        break;
    }
}

static void nvme_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct nvme *s = nvme_of(d);

    if (off >= DOORBELLS) {
        doorbell(s, (u32)(off - DOORBELLS) / 4, (u32)val);
        return;
    }
    write32(s, off, (u32)val);
    if (size == 8)
        write32(s, off + 4, (u32)(val >> 32));
}

static const struct region nvme_bar = {
    .name = "nvme", .len = BAR_LEN, .min = 4, .max = 8, .read = nvme_read, .write = nvme_write
};

/* ---- life ----------------------------------------------------------------------------------
 */

static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct nvme *s = opaque;

    if (ev == VM_EV_RESUME) { /* after a load nobody else would */
        dev_lock(&s->pci.dev);
        for (u16 i = 0; i < QUEUES; i++)
            if (s->r.sq[i].size)
                sq_run(s, i);
        dev_unlock(&s->pci.dev);
    }
    if (ev != VM_EV_STOP)
        return;
    for (bool busy = true; busy;) { /* ranges follow one another */
        u32 held = image_quiesce(s->image);
        dev_lock(&s->pci.dev);
        finish_list(s);
        busy = s->total != held;
        dev_unlock(&s->pci.dev);
    }
}

static bool nvme_init(struct dev *d, GError **error)
{
    struct nvme *s = nvme_of(d);

    if (!s->image)
        return fail(error, ERR_ARGUMENT, "it needs a drive: drive=ID");
    if (!s->serial || !*s->serial)
        return fail(error, ERR_ARGUMENT, "it needs a serial number: serial=TEXT");
    if (s->queues < 1 || s->queues > QUEUES - 1)
        return fail(error, ERR_ARGUMENT, "max_ioqpairs=%u: expected 1 to %u", s->queues,
                    QUEUES - 1);
    if (s->logical_block != 512 && s->logical_block != 4096)
        return fail(error, ERR_ARGUMENT, "logical_block_size is 512 or 4096");
    struct drive *drive = drive_find_image(d->vm, s->image);
    if (drive && drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", drive->id);
    if (!pci_init(&s->pci, error))
        return false;
    s->shift = s->logical_block == 512 ? 9 : 12;
    s->blocks = image_size(s->image) >> s->shift;
    s->io = iothread_new("nvme", error);
    if (!s->io)
        return false;
    s->done_fd = iothread_add(s->io, done_kicked, s, error);
    if (s->done_fd < 0) {
        iothread_free(s->io);
        return false;
    }
    image_reap_by(s->image, s->done_fd);
    if (drive)
        drive_attach(drive, d, d, NULL, s);
    image_on_resize(s->image, resized, s);
    pci_bar_add(&s->pci, 0, PCI_BAR_MEM64, &nvme_bar);
    pci_msix_add(&s->pci, 4, s->queues + 1);
    vm_listen(d->vm, heard, s);
    return true;
}

/* Waits for what is under way, whose completions find the lock taken and queue up. */
static void nvme_reset(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    s->r.cc = 0;
    while (s->total) {
        image_drain(s->image);
        finish_list(s);
    }
    pci_reset(&s->pci);
    s->r.asq = s->r.acq = 0;
    s->r.aqa = s->r.mask = 0;
    disabled(s);
}

static void nvme_loaded(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    pci_loaded(&s->pci);
    for (u32 i = 0; i < QUEUES; i++) {
        struct sq_regs *q = &s->r.sq[i];
        struct cq_regs *c = &s->r.cq[i];

        if (i > s->queues)
            q->size = c->size = 0;
        if (c->size < 2 || c->head >= c->size || c->tail >= c->size)
            *c = (struct cq_regs){ 0 };
        if (c->vector >= s->pci.vectors)
            c->vector = 0;
    }
    for (u32 i = 0; i < QUEUES; i++) {
        struct sq_regs *q = &s->r.sq[i];

        if (q->size < 2 || q->head >= q->size || q->tail >= q->size || !s->r.cq[q->cq].size)
            *q = (struct sq_regs){ 0 };
    }
    if ((s->r.cc >> 7 & 15) > 4)
        s->r.cc &= ~CC_EN;
    if (!(s->r.cc & CC_EN))
        disabled(s);
    pin_update(s);
}

static void nvme_fini(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    image_on_resize(s->image, NULL, NULL);
    vm_unlisten(d->vm, s);
    iothread_pause(s->io);
    dev_lock(d);
    s->r.cc = 0;
    while (s->total) {
        image_drain(s->image);
        finish_list(s);
    }
    disabled(s);
    dev_unlock(d);
    image_reap_off(s->image);
    struct drive *drive = drive_find_image(d->vm, s->image);
    if (drive)
        drive_detach(drive);
    iothread_free(s->io);
    while (s->free) {
        struct nvme_req *q = s->free;

        s->free = q->next;
        g_free(q);
    }
    pci_fini(&s->pci);
}

static const struct prop nvme_props[] = {
    PROP(struct nvme, image, PROP_PTR, .name = "drive", .link = "drive",
         .help = "the disk behind it"),
    PROP(struct nvme, serial, PROP_STR, .name = "serial",
         .help = "serial number, 20 characters"),
    PROP(struct nvme, queues, PROP_U32, .name = "max_ioqpairs", .def = "64",
         .help = "pairs of queues for I/O"),
    PROP(struct nvme, logical_block, PROP_U32, .name = "logical_block_size", .def = "512",
         .help = "bytes"),
    PROP(struct nvme, write_cache, PROP_BOOL, .name = "write-cache", .def = "on",
         .help = "writes are durable after a flush only"),
    PCI_PROPS(struct nvme, pci),
    { 0 },
};

static const struct pci_type nvme_pci = {
    .vendor = 0x1b36,
    .device = 0x0010,
    .class = 0x010802,
    .revision = 2,
    .pin = 1,
    .regs = offsetof(struct nvme, r.pci),
    .msix = offsetof(struct nvme, r.msix),
};

const struct dev_type nvme_type = {
    .name = "nvme",
    .desc = "NVM Express controller",
    .kind = DEV_PCI,
    .size = sizeof(struct nvme),
    .props = nvme_props,
    .state = STATE_TABLE(struct nvme, r, nvme_fields),
    .init = nvme_init,
    .reset = nvme_reset,
    .loaded = nvme_loaded,
    .fini = nvme_fini,
    .more = &nvme_pci,
};
