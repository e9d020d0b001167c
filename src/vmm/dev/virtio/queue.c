// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * queue.c - the split virtqueue, device side.  VIRTIO 1.2, 2.7.
 *
 *   descriptor table   le64 addr, le32 len, le16 flags, le16 next          16 bytes each
 *   available ring     le16 flags, le16 idx, le16 ring[size], le16 used_event
 *   used ring          le16 flags, le16 idx, { le32 id, le32 len }[size], le16 avail_event
 *
 * Everything here lies in guest memory and changes while we look: each value is fetched once,
 * checked, and the copy is used.  A chain ends after as many descriptors as its table has, so a
 * cycle is found; no more requests are taken than the queue has descriptors.  What cannot be
 * right breaks the queue: the device asks for a reset (2.1.1) and looks at no queue until then.
 *
 * Not modelled: packed rings, in-order use.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "vmm/dev/virtio/iothread.h"
#include "vmm/dev/virtio/virtio.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_LEN = 16 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { AVAIL_IDX = 2, AVAIL_RING = 4, USED_IDX = 2, USED_RING = 4, USED_ELEM = 8 };
/* As many as one request can have pieces; drivers use at most the queue's size. */
enum { INDIRECT_MAX = 2 * IOVS_MAX };

struct desc {
    le64 addr;
    le32 len;
    le16 flags, next;
};

static void iovs_clear(struct iovs *v)
{
    v->n = v->cur = 0;
    v->left = 0;
}

void vq_req_init(struct vq_req *q, struct vq *vq)
{
    q->vq = vq;
    iovs_init(&q->out, virtio_ram(vq->v), RAM_FROM_GUEST);
    iovs_init(&q->in, virtio_ram(vq->v), RAM_TO_GUEST);
}

void vq_req_free(struct vq_req *q)
{
    iovs_free(&q->out);
    iovs_free(&q->in);
}

void vq_break(struct vq *vq, const char *why)
{
    struct virtio *v = vq->v;

    log_guest("%s: queue %u: %s", v->pci.dev.id, vq->index, why);
    if (v->r->status & VIRTIO_S_NEEDS_RESET)
        return;
    v->r->status |= VIRTIO_S_NEEDS_RESET;
    virtio_config_changed(v);
}

static int broken(struct vq *vq, const char *why)
{
    vq_break(vq, why);
    return -1;
}

bool vq_ready(const struct vq *vq)
{
    return vq->r->ready && vq->v->dma && virtio_live(vq->v);
}

void vq_kick(struct vq *vq)
{
    if (vq->kick >= 0)
        eventfd_ring(vq->kick);
}

void vq_reset(struct vq *vq)
{
    memset(vq->r, 0, sizeof *vq->r);
    vq->r->size = vq->max;
    vq->r->vector = VIRTIO_NO_VECTOR;
    vq->in_flight = 0;
    vq->epoch++;
}

static bool event_idx(const struct vq *vq)
{
    return virtio_has(vq->v, VIRTIO_F_RING_EVENT_IDX);
}

/* How many requests wait; -1: broken. */
static int waiting(struct vq *vq)
{
    struct vq_regs *r = vq->r;
    u16 idx;

    if (!ram_get_u16(virtio_ram(vq->v), r->driver + AVAIL_IDX, &idx))
        return broken(vq, "the available ring is not in RAM");
    idx -= r->last_avail;
    if (idx > r->size)
        return broken(vq, "more requests than the ring has room for");
    return idx;
}

bool vq_empty(struct vq *vq)
{
    return !vq_ready(vq) || waiting(vq) <= 0;
}

static int walk(struct vq *vq, struct vq_req *q)
{
    struct ram *ram = virtio_ram(vq->v);
    gpa table = vq->r->desc;
    u32 n = vq->r->size, i = q->head, budget = n;
    bool indirect = false;

    for (;;) {
        struct desc d;

        if (!budget--)
            return broken(vq, "a cycle of descriptors");
        if (!ram_get(ram, table + (u64)i * DESC_LEN, &d, sizeof d))
            return broken(vq, "a descriptor is not in RAM");
        u16 flags = le16_get(d.flags);
        u32 len = le32_get(d.len);

        if (flags & DESC_INDIRECT) {
            if (indirect || flags & DESC_NEXT || !virtio_has(vq->v, VIRTIO_F_RING_INDIRECT))
                return broken(vq, "an indirect table where none may be");
            if (!len || len % DESC_LEN || len / DESC_LEN > INDIRECT_MAX)
                return broken(vq, "an indirect table of bad length");
            indirect = true;
            table = le64_get(d.addr);
            n = budget = len / DESC_LEN;
            i = 0;
            continue;
        }
        struct iovs *to = flags & DESC_WRITE ? &q->in : &q->out;
        if (to == &q->out && q->in.n)
            return broken(vq, "a readable descriptor after a writable one");
        if (len && !ram_iov(ram, le64_get(d.addr), len, to))
            return broken(vq, "a buffer is not in RAM, or in too many pieces");
        if (!(flags & DESC_NEXT))
            return 1;
        i = le16_get(d.next);
        if (i >= n)
            return broken(vq, "a link out of the descriptor table");
    }
}

int vq_pop(struct vq *vq, struct vq_req *q)
{
    struct vq_regs *r = vq->r;
    u16 head;

    if (!vq_ready(vq))
        return 0;
    int n = waiting(vq);
    if (n <= 0)
        return n;
    if (vq->in_flight >= r->size)
        return broken(vq, "more requests under way than descriptors");
    atomic_thread_fence(memory_order_acquire); /* the index first, then what it covers */
    if (!ram_get_u16(virtio_ram(vq->v), r->driver + AVAIL_RING + 2 * (r->last_avail % r->size),
                     &head))
        return broken(vq, "the available ring is not in RAM");
    if (head >= r->size)
        return broken(vq, "a request starts outside the descriptor table");
    q->vq = vq;
    q->head = head;
    q->epoch = vq->epoch;
    iovs_clear(&q->out);
    iovs_clear(&q->in);
    n = walk(vq, q);
    if (n == 1) {
        r->last_avail++;
        vq->in_flight++;
    }
    return n;
}

void vq_rewind(struct vq *vq, unsigned n)
{
    vq->r->last_avail -= n;
    vq->in_flight -= MIN(n, vq->in_flight);
}

void vq_push(struct vq_req *q, u32 written)
{
    struct vq *vq = q->vq;
    struct vq_regs *r = vq->r;
    struct ram *ram = virtio_ram(vq->v);
    struct {
        le32 id, len;
    } e = { le32_of(q->head), le32_of(written) };

    if (q->epoch != vq->epoch || !vq->in_flight)
        return;
    vq->in_flight--;
    if (!vq_ready(vq))
        return;
    if (!ram_put(ram, r->device + USED_RING + USED_ELEM * (r->used % r->size), &e, sizeof e)) {
        vq_break(vq, "the used ring is not in RAM");
        return;
    }
    atomic_thread_fence(memory_order_release); /* the element before the index */
    r->used++;
    if (!ram_put_u16(ram, r->device + USED_IDX, r->used))
        vq_break(vq, "the used ring is not in RAM");
}

/* 2.7.7.1 and 2.7.10.1 */
static bool wants_interrupt(struct vq *vq)
{
    struct vq_regs *r = vq->r;
    struct ram *ram = virtio_ram(vq->v);
    u16 old = r->signalled, val;
    bool valid = r->signalled_valid;

    r->signalled = r->used;
    r->signalled_valid = true;
    if (valid && old == r->used)
        return false;
    atomic_thread_fence(memory_order_seq_cst); /* our index before its wish */
    if (event_idx(vq)) {
        if (!ram_get_u16(ram, r->driver + AVAIL_RING + 2 * r->size, &val))
            return false;
        return !valid || (u16)(r->used - val - 1) < (u16)(r->used - old);
    }
    return ram_get_u16(ram, r->driver, &val) && !(val & AVAIL_NO_INTERRUPT);
}

void vq_signal(struct vq *vq)
{
    if (vq_ready(vq) && wants_interrupt(vq))
        vq->v->tr->interrupt(vq->v, VIRTIO_ISR_QUEUE, vq->r->vector);
}

void vq_disable(struct vq *vq)
{
    /* With event indices the one that is written already has been passed. */
    if (vq_ready(vq) && !event_idx(vq) &&
        !ram_put_u16(virtio_ram(vq->v), vq->r->device, USED_NO_NOTIFY))
        vq_break(vq, "the used ring is not in RAM");
}

bool vq_enable(struct vq *vq)
{
    struct vq_regs *r = vq->r;
    bool ok;

    if (!vq_ready(vq))
        return false;
    if (event_idx(vq))
        ok = ram_put_u16(virtio_ram(vq->v), r->device + USED_RING + USED_ELEM * r->size,
                         r->last_avail);
    else
        ok = ram_put_u16(virtio_ram(vq->v), r->device, 0);
    if (!ok) {
        vq_break(vq, "the used ring is not in RAM");
        return false;
    }
    atomic_thread_fence(memory_order_seq_cst); /* our wish before its index */
    return waiting(vq) > 0;
}
