// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mmio.c - virtio over memory-mapped registers, version 2.  VIRTIO 1.2, 4.2.
 *
 * One interrupt line, level, high while the interrupt status is not zero.
 * Not modelled: the legacy interface (version 1), shared memory regions.
 */
#include "vmm/dev/virtio/virtio.h"

enum {
    R_MAGIC = 0x000,
    R_VERSION = 0x004,
    R_DEVICE_ID = 0x008,
    R_VENDOR_ID = 0x00c,
    R_DEVICE_FEATURES = 0x010,
    R_DEVICE_FEATURES_SEL = 0x014,
    R_DRIVER_FEATURES = 0x020,
    R_DRIVER_FEATURES_SEL = 0x024,
    R_QUEUE_SEL = 0x030,
    R_QUEUE_SIZE_MAX = 0x034,
    R_QUEUE_SIZE = 0x038,
    R_QUEUE_READY = 0x044,
    R_QUEUE_NOTIFY = 0x050,
    R_INTERRUPT_STATUS = 0x060,
    R_INTERRUPT_ACK = 0x064,
    R_STATUS = 0x070,
    R_QUEUE_DESC = 0x080,
    R_QUEUE_DRIVER = 0x090,
    R_QUEUE_DEVICE = 0x0a0,
    R_SHM_LEN = 0x0b0,
    R_SHM_BASE = 0x0b8,
    R_GENERATION = 0x0fc,
    R_CONFIG = 0x100,
    R_END = 0x200,
};

static void mmio_interrupt(struct virtio *v, u8 isr, u16 vector UNUSED)
{
    v->r->isr |= isr;
    irq_set(v->pci.dev.irq[0], v->r->isr != 0);
}

static void mmio_bells(struct virtio *v)
{
    for (u32 i = 0; i < v->n_queues; i++) {
        struct doorbell bell = {
            .at = v->mmio_at + R_QUEUE_NOTIFY, .val = i, .size = 4, .match = true
        };
        virtio_queue_bell(&v->vq[i], v->mmio_at == PCI_UNMAPPED ? NULL : v->pci.dev.vm->mem,
                          &bell);
    }
}

static const struct virtio_transport mmio_transport = { .interrupt = mmio_interrupt,
                                                        .bells = mmio_bells };

static u64 mmio_read(struct dev *d, u64 off, unsigned size)
{
    struct virtio *v = virtio_of(d);
    struct virtio_regs *r = v->r;
    struct vq *vq = virtio_queue(v, r->queue_sel);

    if (off >= R_CONFIG)
        return virtio_config_read(v, off - R_CONFIG, size);
    if (size != 4)
        return 0;
    switch (off) {
    case R_MAGIC:
        return 0x74726976; /* "virt" */
    case R_VERSION:
        return 2;
    case R_DEVICE_ID:
        return v->vt->id;
    case R_VENDOR_ID:
        return 0x44415350; /* "PSAD" */
    case R_DEVICE_FEATURES:
        return virtio_device_features(v, r->device_feature_sel, false);
    case R_QUEUE_SIZE_MAX:
        return vq ? vq->max : 0;
    case R_QUEUE_READY:
        return vq ? vq->r->ready : 0;
    case R_INTERRUPT_STATUS:
        return r->isr;
    case R_STATUS:
        return r->status;
    case R_SHM_LEN ... R_SHM_BASE + 4:
        return UINT32_MAX; /* there are none */
    case R_GENERATION:
        return r->generation;
    }
    return 0;
}

static void set_half(struct vq *vq, u64 *reg, bool high, u32 val)
{
    if (vq->r->ready)
        return;
    *reg = high ? (*reg & UINT32_MAX) | (u64)val << 32 : (*reg & ~(u64)UINT32_MAX) | val;
}

static void queue_write(struct vq *vq, u64 off, u32 val)
{
    switch (off) {
    case R_QUEUE_SIZE:
        virtio_queue_size(vq, val);
        break;
    case R_QUEUE_READY:
        if (val == 1)
            virtio_queue_enable(vq);
        else if (val == 0)
            vq->r->ready = false;
        break;
    case R_QUEUE_DESC:
    case R_QUEUE_DESC + 4:
        set_half(vq, &vq->r->desc, off & 4, val);
        break;
    case R_QUEUE_DRIVER:
    case R_QUEUE_DRIVER + 4:
        set_half(vq, &vq->r->driver, off & 4, val);
        break;
    case R_QUEUE_DEVICE:
    case R_QUEUE_DEVICE + 4:
        set_half(vq, &vq->r->device, off & 4, val);
        break;
    }
}

static void mmio_write(struct dev *d, u64 off, u64 val64, unsigned size)
{
    struct virtio *v = virtio_of(d);
    struct virtio_regs *r = v->r;
    struct vq *vq;
    u32 val = (u32)val64;

    if (off >= R_CONFIG) {
        virtio_config_write(v, off - R_CONFIG, val, size);
        return;
    }
    if (size != 4)
        return;
    switch (off) {
    case R_DEVICE_FEATURES_SEL:
        r->device_feature_sel = val;
        break;
    case R_DRIVER_FEATURES:
        virtio_driver_features(v, r->driver_feature_sel, val);
        break;
    case R_DRIVER_FEATURES_SEL:
        r->driver_feature_sel = val;
        break;
    case R_QUEUE_SEL:
        r->queue_sel = val <= UINT16_MAX ? val : UINT16_MAX;
        break;
    case R_QUEUE_NOTIFY:
        vq = virtio_queue(v, val);
        if (vq)
            vq_kick(vq);
        break;
    case R_INTERRUPT_ACK:
        r->isr &= ~val;
        irq_set(d->irq[0], r->isr != 0);
        break;
    case R_STATUS:
        virtio_set_status(v, (u8)val);
        break;
    default:
        vq = virtio_queue(v, r->queue_sel);
        if (vq)
            queue_write(vq, off, val);
    }
}

const struct region virtio_mmio_region = { .name = "virtio-mmio",
                                           .len = R_END,
                                           .min = 1,
                                           .max = 4,
                                           .read = mmio_read,
                                           .write = mmio_write };

bool virtio_mmio_init(struct dev *d, GError **error)
{
    struct virtio *v = virtio_of(d);

    if (!virtio_init(v, &mmio_transport, error))
        return false;
    v->has_modern = true;
    v->features |= BIT(VIRTIO_F_VERSION_1);
    return true;
}

void virtio_mmio_map(struct dev *d, u64 at)
{
    bus_map(d->vm->mem, at, &virtio_mmio_region, d, 0);
    virtio_of(d)->mmio_at = at;
}
