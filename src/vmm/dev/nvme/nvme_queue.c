// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nvme_queue.c - queues of an NVMe controller: taking commands, completing them, interrupts.
 * NVM Express 1.3d, 4.1 and 7.5.
 *
 * Completions come on the image's threads: they take the device's lock if it is free, else they
 * leave the request on a list for the I/O thread.
 */
#include "vmm/dev/nvme/nvme_impl.h"

#include <string.h>

#include "base/log.h"
#include "vmm/dev/virtio/iothread.h"

/* ---- interrupts ----------------------------------------------------------------------------
 */

void nvme_pin_update(struct nvme *s)
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

void nvme_req_put(struct nvme_req *q)
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

    if (!ram_put(nvme_ram(s), c->base + (u64)c->tail * CQE, &e, sizeof e))
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
        nvme_pin_update(s);
}

static void finish(struct nvme_req *q)
{
    struct nvme *s = q->s;
    u16 sq = q->sq, cq = s->r.sq[sq].cq;

    s->under_way[sq]--;
    s->total--;
    if (!(s->r.cc & CC_EN) || !s->r.sq[sq].size || !s->r.cq[cq].size) {
        nvme_req_put(q);
        if (!(s->r.cc & CC_EN) && !s->total)
            nvme_disabled(s);
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
    nvme_req_put(q);
    cq_signal(s, cq);
    nvme_sq_run(s, sq);
}

void nvme_finish_status(struct nvme_req *q, u16 status)
{
    q->status = status;
    finish(q);
}

/* The next range to be discarded; false: there is none left. */
bool nvme_range_next(struct nvme_req *q)
{
    if (q->next_range >= q->n_ranges)
        return false;
    const struct range *r = &q->ranges[q->next_range++];
    image_discard(q->s->image, r->at, r->len, nvme_image_did, q);
    return true;
}

static void finish_ret(struct nvme_req *q)
{
    if (q->ranges) { /* that the host cannot discard is no error */
        if (!nvme_range_next(q))
            nvme_finish_status(q, OK);
        return;
    }
    if (!q->ret && q->opcode == IO_READ)
        iovs_written(&q->data);
    nvme_finish_status(q, !q->ret                 ? OK
                          : q->opcode == IO_READ  ? UNRECOVERED_READ
                          : q->opcode == IO_FLUSH ? INTERNAL
                                                  : WRITE_FAULT);
}

void nvme_finish_list(struct nvme *s)
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
void nvme_image_did(void *opaque, int ret)
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

void nvme_done_kicked(void *opaque)
{
    struct nvme *s = opaque;

    dev_lock(&s->pci.dev);
    reap(s);
    nvme_finish_list(s);
    dev_unlock(&s->pci.dev);
}

/* ---- queues --------------------------------------------------------------------------------
 */

struct nvme_req *nvme_req_get(struct nvme *s, u16 sq, const struct sqe *e)
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

bool nvme_running(const struct nvme *s)
{
    return s->r.csts & CSTS_RDY && s->r.cc & CC_EN && pci_master(&s->pci);
}

static void take_commands(struct nvme *s, u16 id)
{
    struct sq_regs *r = &s->r.sq[id];
    u32 budget = ENTRIES_MAX;
    struct sqe e;

    while (nvme_running(s) && r->size && r->head != r->tail && s->under_way[id] < r->size &&
           !s->waits[r->cq] && budget--) {
        if (!ram_get(nvme_ram(s), r->base + (u64)r->head * SQE, &e, sizeof e)) {
            log_guest("%s: a submission queue outside of memory", s->pci.dev.id);
            s->r.csts |= CSTS_CFS;
            return;
        }
        r->head = (r->head + 1) % r->size;
        struct nvme_req *q = nvme_req_get(s, id, &e);
        u16 status = id ? nvme_io_command(s, q, &e) : nvme_admin_command(s, q, &e);
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
        nvme_req_put(q);
        cq_signal(s, cq);
    }
}

void nvme_sq_run(struct nvme *s, u16 id)
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
        nvme_req_put(q);
        cq_signal(s, id);
    }
    for (u16 i = 0; i < QUEUES && !s->waits[id]; i++)
        if (s->r.sq[i].size && s->r.sq[i].cq == id)
            nvme_sq_run(s, i);
    nvme_pin_update(s);
}

void nvme_doorbell(struct nvme *s, u32 n, u32 val)
{
    u16 id = (u16)(n / 2);

    if (!nvme_running(s) || id >= QUEUES)
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
    nvme_sq_run(s, id);
}
