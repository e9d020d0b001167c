// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio.c - device status, feature negotiation, configuration space and life of a virtio
 * device, whatever its transport.  VIRTIO 1.2, 2.1 to 2.5 and 3.1.
 *
 * Not modelled: reset of a single queue, suspending, administration queues.
 */
#include "vmm/dev/virtio/virtio.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/virtio/iothread.h"

static const struct state_field vq_fields[] = {
    STATE_INT(struct vq_regs, desc),   STATE_INT(struct vq_regs, driver),
    STATE_INT(struct vq_regs, device), STATE_UINT(struct vq_regs, size, VQ_SIZE_MAX),
    STATE_INT(struct vq_regs, vector), STATE_INT(struct vq_regs, last_avail),
    STATE_INT(struct vq_regs, used),   STATE_INT(struct vq_regs, signalled),
    STATE_BOOL(struct vq_regs, ready), STATE_BOOL(struct vq_regs, signalled_valid),
    STATE_PAD(struct vq_regs, zero),
};
const struct state_field virtio_fields[12] = {
    STATE_STRUCT(struct virtio_regs, pci, pci_fields),
    STATE_STRUCT(struct virtio_regs, msix, pci_msix_fields),
    STATE_INT(struct virtio_regs, driver_features),
    STATE_INT(struct virtio_regs, device_feature_sel),
    STATE_INT(struct virtio_regs, driver_feature_sel),
    STATE_INT(struct virtio_regs, queue_sel),
    STATE_INT(struct virtio_regs, config_vector),
    STATE_INT(struct virtio_regs, status),
    STATE_INT(struct virtio_regs, isr),
    STATE_INT(struct virtio_regs, generation),
    STATE_BOOL(struct virtio_regs, legacy),
    STATE_STRUCTS(struct virtio_regs, vq, vq_fields),
};

bool virtio_live(const struct virtio *v)
{
    return (v->r->status & (VIRTIO_S_DRIVER_OK | VIRTIO_S_NEEDS_RESET)) == VIRTIO_S_DRIVER_OK;
}

/* ---- queues ---- */

/* On the I/O thread: somebody rang. */
static void kicked(void *opaque)
{
    struct vq *vq = opaque;
    struct dev *d = &vq->v->pci.dev;

    dev_lock(d);
    if (vq_ready(vq))
        vq->handle(vq);
    dev_unlock(d);
}

struct vq *virtio_add_queue(struct virtio *v, u16 size, void (*handle)(struct vq *))
{
    g_assert(v->n_queues < VIRTIO_QUEUES_MAX);
    struct vq *vq = &v->vq[v->n_queues];

    vq->v = v;
    vq->index = v->n_queues;
    vq->r = &v->r->vq[v->n_queues++];
    vq->max = size;
    vq->handle = handle;
    vq->kick = -1;
    return vq;
}

bool virtio_size_ok(struct virtio *v, const char *prop, u32 size, GError **error)
{
    if (size >= 2 && size <= VQ_SIZE_MAX && !(size & (size - 1)))
        return true;
    return fail(error, ERR_ARGUMENT, "%s=%u: expected a power of two from 2 to %u", prop, size,
                VQ_SIZE_MAX);
}

struct vq *virtio_queue(struct virtio *v, u32 index)
{
    return index < v->n_queues ? &v->vq[index] : NULL;
}

void virtio_queue_size(struct vq *vq, u32 size)
{
    if (!vq->r->ready && size && size <= vq->max && !(size & (size - 1)))
        vq->r->size = size;
}

void virtio_queue_enable(struct vq *vq)
{
    struct vq_regs *r = vq->r;

    if (r->ready)
        return;
    r->ready = true;
    r->last_avail = r->used = r->signalled = 0;
    r->signalled_valid = false;
}

void virtio_queue_bell(struct vq *vq, struct bus *b, const struct doorbell *bell)
{
    struct doorbell *have = &vq->bell;

    if (!vq_ready(vq))
        b = NULL;
    if (b == vq->bell_bus &&
        (!b || (have->at == bell->at && have->val == bell->val && have->size == bell->size)))
        return;
    if (vq->bell_bus)
        bus_doorbell_del(vq->bell_bus, have);
    vq->bell_bus = b;
    if (!b)
        return;
    *have = *bell;
    have->fd = vq->kick;
    bus_doorbell_add(b, have);
}

void virtio_dma_set(struct virtio *v, bool on)
{
    if (on == v->dma)
        return;
    if (!on && v->vt->drain)
        v->vt->drain(v);
    v->dma = on;
    v->tr->bells(v);
    for (u32 i = 0; i < v->n_queues; i++)
        if (vq_ready(&v->vq[i]))
            vq_kick(&v->vq[i]); /* it may have rung before */
}

/* ---- features and status ---- */

u32 virtio_device_features(struct virtio *v, u32 sel, bool legacy)
{
    u64 f = legacy ? (u32)v->features : v->features & ~BIT(VIRTIO_F_ANY_LAYOUT);

    return sel == 0 ? (u32)f : sel == 1 ? f >> 32 : 0;
}

void virtio_driver_features(struct virtio *v, u32 sel, u32 bits)
{
    u64 *f = &v->r->driver_features;

    if (v->r->status & (VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK))
        return; /* it has made up its mind */
    if (sel == 0)
        *f = (*f & ~(u64)UINT32_MAX) | bits;
    else if (sel == 1)
        *f = (*f & UINT32_MAX) | (u64)bits << 32;
}

static void driver_ok(struct virtio *v)
{
    if (v->vt->driver_ok)
        v->vt->driver_ok(v);
    v->tr->bells(v);
    for (u32 i = 0; i < v->n_queues; i++)
        if (v->vq[i].r->ready)
            vq_kick(&v->vq[i]); /* it may have rung before it was allowed to */
}

void virtio_set_status(struct virtio *v, u8 status)
{
    struct virtio_regs *r = v->r;
    u8 old = r->status;

    if (status == 0) {
        virtio_reset(v);
        return;
    }
    status |= old & VIRTIO_S_NEEDS_RESET;
    if (r->legacy) {
        status &= ~VIRTIO_S_FEATURES_OK; /* no such step there */
    } else {
        u64 f = r->driver_features;

        /* Once given, the driver's word holds. */
        status |= old & (VIRTIO_S_FEATURES_OK | VIRTIO_S_DRIVER_OK);
        if (status & ~old & VIRTIO_S_FEATURES_OK &&
            (f & ~v->features || !(f & BIT(VIRTIO_F_VERSION_1))))
            status &= ~VIRTIO_S_FEATURES_OK;
        if (!(status & VIRTIO_S_FEATURES_OK))
            status &= ~VIRTIO_S_DRIVER_OK;
    }
    r->status = status;
    if (status & ~old & VIRTIO_S_DRIVER_OK)
        driver_ok(v);
}

void virtio_config_changed(struct virtio *v)
{
    v->r->generation++;
    if (v->r->status & VIRTIO_S_DRIVER_OK)
        v->tr->interrupt(v, VIRTIO_ISR_CONFIG, v->r->config_vector);
}

/* ---- configuration space ---- */

u64 virtio_config_read(struct virtio *v, u64 off, unsigned size)
{
    u8 bytes[VIRTIO_CONFIG_MAX] = { 0 };
    u64 val = 0;

    if (off >= v->config_len || size > v->config_len - off)
        return 0;
    v->vt->config(v, bytes);
    for (unsigned i = 0; i < size; i++)
        val |= (u64)bytes[off + i] << (8 * i);
    return val;
}

void virtio_config_write(struct virtio *v, u64 off, u64 val, unsigned size)
{
    u8 bytes[VIRTIO_CONFIG_MAX] = { 0 };

    if (!v->vt->config_written || off >= v->config_len || size > v->config_len - off)
        return;
    v->vt->config(v, bytes);
    for (unsigned i = 0; i < size; i++)
        bytes[off + i] = val >> (8 * i);
    v->vt->config_written(v, bytes, off, size);
}

/* ---- life ---- */

/* The guest stops: nothing may be under way, so that what is saved is all there is. */
static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct virtio *v = opaque;

    if (ev == VM_EV_STOP) {
        iothread_pause(v->io);
        if (v->vt->pause)
            v->vt->pause(v, true);
    } else if (ev == VM_EV_RESUME) {
        if (v->vt->pause)
            v->vt->pause(v, false);
        iothread_resume(v->io);
        dev_lock(&v->pci.dev);
        for (u32 i = 0; i < v->n_queues; i++)
            if (vq_ready(&v->vq[i]))
                vq_kick(&v->vq[i]); /* after a load nobody else would */
        dev_unlock(&v->pci.dev);
    }
}

bool virtio_init(struct virtio *v, const struct virtio_transport *tr, GError **error)
{
    const struct virtio_type *t = v->pci.dev.type->more;

    v->vt = t;
    v->tr = tr;
    v->r = (void *)((u8 *)v + t->regs);
    v->features = BIT(VIRTIO_F_RING_INDIRECT) | BIT(VIRTIO_F_RING_EVENT_IDX);
    v->mmio_at = PCI_UNMAPPED;
    v->dma = v->pci.dev.type->kind != DEV_PCI;
    v->io = iothread_new(v->pci.dev.id, error);
    if (!v->io)
        return false;
    if (!t->init(v, error)) {
        iothread_free(v->io);
        v->io = NULL;
        return false;
    }
    g_assert(v->config_len <= VIRTIO_CONFIG_MAX);
    for (u32 i = 0; i < v->n_queues; i++) {
        v->vq[i].kick = iothread_add(v->io, kicked, &v->vq[i], error);
        if (v->vq[i].kick < 0) {
            virtio_free(v);
            return false;
        }
    }
    vm_listen(v->pci.dev.vm, heard, v);
    return true;
}

void virtio_free(struct virtio *v)
{
    vm_unlisten(v->pci.dev.vm, v);
    iothread_pause(v->io);
    if (v->vt->fini)
        v->vt->fini(v);
    iothread_free(v->io);
    v->io = NULL;
    for (u32 i = 0; i < v->n_queues; i++)
        v->vq[i].kick = -1;
}

void virtio_reset(struct virtio *v)
{
    struct virtio_regs *r = v->r;

    r->status = 0; /* queues are dead from here on */
    if (v->vt->reset)
        v->vt->reset(v);
    r->driver_features = 0;
    r->device_feature_sel = r->driver_feature_sel = 0;
    r->queue_sel = 0;
    r->config_vector = VIRTIO_NO_VECTOR;
    r->isr = 0;
    r->legacy = false;
    for (u32 i = 0; i < v->n_queues; i++)
        vq_reset(&v->vq[i]);
    v->tr->interrupt(v, 0, VIRTIO_NO_VECTOR);
    v->tr->bells(v);
}

void virtio_dev_reset(struct dev *d)
{
    struct virtio *v = virtio_of(d);

    virtio_reset(v);
    v->r->generation = 0;
    if (d->type->kind == DEV_PCI) {
        pci_reset(&v->pci);
        virtio_dma_set(v, pci_master(&v->pci));
    }
}

/* A stream is hostile: what it says of queues must be possible. */
void virtio_dev_loaded(struct dev *d)
{
    struct virtio *v = virtio_of(d);
    struct virtio_regs *r = v->r;

    if (d->type->kind == DEV_PCI) {
        pci_loaded(&v->pci);
        v->dma = pci_master(&v->pci);
    }
    r->legacy = r->legacy && v->has_legacy;
    if (r->status & VIRTIO_S_FEATURES_OK && r->driver_features & ~v->features)
        r->status |= VIRTIO_S_NEEDS_RESET; /* made where there was more to offer */
    if (r->config_vector >= v->pci.vectors)
        r->config_vector = VIRTIO_NO_VECTOR;
    for (u32 i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        struct vq_regs *q = &r->vq[i];

        if (i >= v->n_queues) {
            memset(q, 0, sizeof *q);
            continue;
        }
        v->vq[i].in_flight = 0;
        v->vq[i].epoch++;
        if (q->vector >= v->pci.vectors)
            q->vector = VIRTIO_NO_VECTOR;
        if (!q->size || q->size > v->vq[i].max || q->size & (q->size - 1)) {
            q->size = v->vq[i].max;
            q->ready = false;
            r->status |= VIRTIO_S_NEEDS_RESET;
        }
    }
    if (d->type->kind != DEV_PCI)
        v->tr->interrupt(v, 0, VIRTIO_NO_VECTOR); /* the line is what the status says */
    v->tr->bells(v);
    if (v->vt->loaded)
        v->vt->loaded(v);
}

void virtio_dev_fini(struct dev *d)
{
    struct virtio *v = virtio_of(d);

    for (u32 i = 0; i < v->n_queues; i++)
        virtio_queue_bell(&v->vq[i], NULL, NULL);
    if (d->type->kind == DEV_PCI)
        pci_fini(&v->pci);
    virtio_free(v);
}
