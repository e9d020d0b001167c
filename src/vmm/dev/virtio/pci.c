// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci.c - virtio over PCI, modern and legacy.  VIRTIO 1.2, 4.1; legacy interface 4.1.4.10.
 *
 * BAR 0, I/O: the legacy registers.  BAR 1: MSI-X.  BAR 4, 64-bit memory:
 *   0x0000 common configuration    0x1000 ISR    0x2000 device configuration
 *   0x3000 notification, four bytes a queue
 * A device has both interfaces (transitional) unless told otherwise; the first one that the
 * driver uses to set a status decides which it speaks until the next reset.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/virtio/virtio.h"

enum { BAR_LEGACY = 0, BAR_MSIX = 1, BAR_MODERN = 4 };
enum {
    AT_COMMON = 0x0000,
    AT_ISR = 0x1000,
    AT_DEVICE = 0x2000,
    AT_NOTIFY = 0x3000,
    AT_END = 0x4000,
    NOTIFY_STEP = 4,
    LEGACY_ALIGN = 4096,
    LEGACY_LEN = 128,
};

/* struct virtio_pci_common_cfg */
enum {
    C_DEVICE_FEATURE_SEL = 0x00,
    C_DEVICE_FEATURE = 0x04,
    C_DRIVER_FEATURE_SEL = 0x08,
    C_DRIVER_FEATURE = 0x0c,
    C_CONFIG_VECTOR = 0x10,
    C_NUM_QUEUES = 0x12,
    C_STATUS = 0x14,
    C_GENERATION = 0x15,
    C_QUEUE_SEL = 0x16,
    C_QUEUE_SIZE = 0x18,
    C_QUEUE_VECTOR = 0x1a,
    C_QUEUE_ENABLE = 0x1c,
    C_QUEUE_NOTIFY_OFF = 0x1e,
    C_QUEUE_DESC = 0x20,
    C_QUEUE_DRIVER = 0x28,
    C_QUEUE_DEVICE = 0x30,
    C_END = 0x38,
};

/* Legacy registers. */
enum {
    L_DEVICE_FEATURES = 0,
    L_DRIVER_FEATURES = 4,
    L_QUEUE_PFN = 8,
    L_QUEUE_SIZE = 12,
    L_QUEUE_SEL = 14,
    L_QUEUE_NOTIFY = 16,
    L_STATUS = 18,
    L_ISR = 19,
    L_CONFIG_VECTOR = 20,
    L_QUEUE_VECTOR = 22,
};

/* struct virtio_pci_cap; type at 3 */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
enum { CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_DATA = 16, CAP_LEN = 16 };

static void pci_interrupt(struct virtio *v, u8 isr, u16 vector)
{
    if (isr == 0) {
        pci_intx_set(&v->pci, false);
    } else if (pci_msix_on(&v->pci)) {
        if (vector != VIRTIO_NO_VECTOR)
            pci_msix_fire(&v->pci, vector);
    } else {
        v->r->isr |= isr;
        pci_intx_set(&v->pci, true);
    }
}

/* One doorbell a queue, in the interface that the driver speaks. */
static void pci_bells(struct virtio *v)
{
    bool legacy = v->r->legacy;
    u64 at = v->pci.bar[legacy ? BAR_LEGACY : BAR_MODERN].at;
    struct vm *vm = v->pci.dev.vm;

    for (u32 i = 0; i < v->n_queues; i++) {
        struct doorbell bell = { .at = at + AT_NOTIFY + NOTIFY_STEP * i };

        if (legacy)
            bell = (struct doorbell){
                .at = at + L_QUEUE_NOTIFY, .val = i, .match = true, .size = 2
            };
        virtio_queue_bell(&v->vq[i],
                          at == PCI_UNMAPPED ? NULL
                          : legacy           ? vm->io
                                             : vm->mem,
                          &bell);
    }
}

static const struct virtio_transport pci_transport = { .interrupt = pci_interrupt,
                                                       .bells = pci_bells };

static u8 isr_read(struct virtio *v)
{
    u8 isr = v->r->isr;

    v->r->isr = 0;
    pci_intx_set(&v->pci, false);
    return isr;
}

static u16 vector_of(struct virtio *v, u64 val)
{
    return val < v->pci.vectors ? val : VIRTIO_NO_VECTOR;
}

/* ---- modern ---- */

/* Half of a 64-bit ring address. */
static void set_half(u64 *reg, u64 off, u32 val)
{
    *reg = off & 4 ? (*reg & UINT32_MAX) | (u64)val << 32 : (*reg & ~(u64)UINT32_MAX) | val;
}

static u64 *ring_address(struct vq_regs *q, u64 off)
{
    return off < C_QUEUE_DRIVER ? &q->desc : off < C_QUEUE_DEVICE ? &q->driver : &q->device;
}

static u64 common_read(struct virtio *v, u64 off)
{
    struct virtio_regs *r = v->r;
    struct vq *vq = virtio_queue(v, r->queue_sel);

    switch (off) {
    case C_DEVICE_FEATURE_SEL:
        return r->device_feature_sel;
    case C_DEVICE_FEATURE:
        return virtio_device_features(v, r->device_feature_sel, false);
    case C_DRIVER_FEATURE_SEL:
        return r->driver_feature_sel;
    case C_DRIVER_FEATURE:
        return r->driver_feature_sel < 2 ? r->driver_features >> (32 * r->driver_feature_sel)
                                         : 0;
    case C_CONFIG_VECTOR:
        return r->config_vector;
    case C_NUM_QUEUES:
        return v->n_queues;
    case C_STATUS:
        return r->status;
    case C_GENERATION:
        return r->generation;
    case C_QUEUE_SEL:
        return r->queue_sel;
    }
    if (!vq)
        return 0;
    switch (off) {
    case C_QUEUE_SIZE:
        return vq->r->size;
    case C_QUEUE_VECTOR:
        return vq->r->vector;
    case C_QUEUE_ENABLE:
        return vq->r->ready;
    case C_QUEUE_NOTIFY_OFF:
        return vq->index;
    case C_QUEUE_DESC ... C_END - 1:
        return *ring_address(vq->r, off) >> (off & 4 ? 32 : 0);
    }
    return 0;
}

static void common_write(struct virtio *v, u64 off, u64 val)
{
    struct virtio_regs *r = v->r;
    struct vq *vq = virtio_queue(v, r->queue_sel);

    switch (off) {
    case C_DEVICE_FEATURE_SEL:
        r->device_feature_sel = (u32)val;
        return;
    case C_DRIVER_FEATURE_SEL:
        r->driver_feature_sel = (u32)val;
        return;
    case C_DRIVER_FEATURE:
        virtio_driver_features(v, r->driver_feature_sel, (u32)val);
        return;
    case C_CONFIG_VECTOR:
        r->config_vector = vector_of(v, val);
        return;
    case C_STATUS:
        if (val && !r->status)
            r->legacy = false;
        virtio_set_status(v, (u8)val);
        return;
    case C_QUEUE_SEL:
        r->queue_sel = (u16)val;
        return;
    }
    if (!vq)
        return;
    switch (off) {
    case C_QUEUE_SIZE:
        virtio_queue_size(vq, (u32)val);
        return;
    case C_QUEUE_VECTOR:
        vq->r->vector = vector_of(v, val);
        return;
    case C_QUEUE_ENABLE:
        if (val == 1)
            virtio_queue_enable(vq);
        return;
    case C_QUEUE_DESC ... C_END - 1:
        if (!vq->r->ready)
            set_half(ring_address(vq->r, off), off, (u32)val);
        return;
    }
}

static u64 modern_read(struct dev *d, u64 off, unsigned size)
{
    struct virtio *v = virtio_of(d);

    if (off < AT_ISR) {
        /* Registers are read at their width or wider, from their start. */
        u64 val = common_read(v, off);
        if (size == 4 && off % 4 == 0 && off >= C_CONFIG_VECTOR && off < C_QUEUE_DESC)
            val = (val & 0xffff) | common_read(v, off + 2) << 16;
        return val;
    }
    if (off < AT_DEVICE)
        return off == AT_ISR ? isr_read(v) : 0;
    if (off < AT_NOTIFY)
        return virtio_config_read(v, off - AT_DEVICE, size);
    return 0;
}

static void modern_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct virtio *v = virtio_of(d);

    if (off < AT_ISR) {
        common_write(v, off, val);
    } else if (off >= AT_DEVICE && off < AT_NOTIFY) {
        virtio_config_write(v, off - AT_DEVICE, val, size);
    } else if (off >= AT_NOTIFY) {
        struct vq *vq = virtio_queue(v, (off - AT_NOTIFY) / NOTIFY_STEP);
        if (vq)
            vq_kick(vq);
    }
}

static const struct region modern_region = { .name = "virtio",
                                             .len = AT_END,
                                             .min = 1,
                                             .max = 4,
                                             .read = modern_read,
                                             .write = modern_write };

/* ---- legacy ---- */

static void legacy_rings(struct vq_regs *q, u64 at)
{
    q->desc = at;
    q->driver = at + 16ull * q->size;
    q->device = ROUND_UP(q->driver + 4 + 2ull * q->size + 2, (u64)LEGACY_ALIGN);
}

static u64 legacy_config_at(const struct virtio *v)
{
    return pci_msix_on(&v->pci) ? 24 : 20;
}

static u64 legacy_read(struct dev *d, u64 off, unsigned size)
{
    struct virtio *v = virtio_of(d);
    struct virtio_regs *r = v->r;
    struct vq *vq = virtio_queue(v, r->queue_sel);

    if (off >= legacy_config_at(v))
        return virtio_config_read(v, off - legacy_config_at(v), size);
    switch (off) {
    case L_DEVICE_FEATURES:
        return virtio_device_features(v, 0, true);
    case L_DRIVER_FEATURES:
        return (u32)r->driver_features;
    case L_QUEUE_PFN:
        return vq && vq->r->ready ? vq->r->desc / LEGACY_ALIGN : 0;
    case L_QUEUE_SIZE:
        return vq ? vq->r->size : 0;
    case L_QUEUE_SEL:
        return r->queue_sel;
    case L_STATUS:
        return r->status;
    case L_ISR:
        return isr_read(v);
    case L_CONFIG_VECTOR:
        return r->config_vector;
    case L_QUEUE_VECTOR:
        return vq ? vq->r->vector : VIRTIO_NO_VECTOR;
    }
    return UINT64_MAX;
}

static void legacy_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct virtio *v = virtio_of(d);
    struct virtio_regs *r = v->r;
    struct vq *vq = virtio_queue(v, r->queue_sel);

    if (off >= legacy_config_at(v)) {
        virtio_config_write(v, off - legacy_config_at(v), val, size);
        return;
    }
    switch (off) {
    case L_DRIVER_FEATURES:
        virtio_driver_features(v, 0, (u32)val & (u32)v->features);
        break;
    case L_QUEUE_PFN:
        if ((u32)val == 0) {
            virtio_reset(v); /* how old drivers let go of their queues */
        } else if (vq && !vq->r->ready) {
            legacy_rings(vq->r, (val & UINT32_MAX) * LEGACY_ALIGN);
            virtio_queue_enable(vq);
        }
        break;
    case L_QUEUE_SEL:
        r->queue_sel = (u16)val;
        break;
    case L_QUEUE_NOTIFY:
        vq = virtio_queue(v, (u16)val);
        if (vq)
            vq_kick(vq);
        break;
    case L_STATUS:
        if ((u8)val && !r->status)
            r->legacy = true;
        if (val & VIRTIO_S_DRIVER_OK) /* Linux before 2.6.34 never turns bus mastering on */
            pci_master_on(&v->pci);
        virtio_dma_set(v, pci_master(&v->pci));
        virtio_set_status(v, (u8)val);
        break;
    case L_CONFIG_VECTOR:
        r->config_vector = vector_of(v, val & 0xffff);
        break;
    case L_QUEUE_VECTOR:
        if (vq)
            vq->r->vector = vector_of(v, val & 0xffff);
        break;
    }
}

static const struct region legacy_region = { .name = "virtio-legacy",
                                             .len = LEGACY_LEN,
                                             .min = 1,
                                             .max = 4,
                                             .read = legacy_read,
                                             .write = legacy_write };

/* ---- access to the BARs through configuration space (4.1.4.9) ---- */

static bool window(struct virtio *v, const struct region **ret_region, u32 *ret_off,
                   u32 *ret_size)
{
    const u8 *cap = v->r->pci.config + v->cfg_cap;
    const struct region *r;
    u32 off = pci_get32(cap, CAP_OFFSET), size = pci_get32(cap, CAP_LENGTH);

    if (cap[CAP_BAR] == BAR_MODERN)
        r = &modern_region;
    else if (cap[CAP_BAR] == BAR_LEGACY && v->has_legacy)
        r = &legacy_region;
    else
        return false;
    if ((size != 1 && size != 2 && size != 4) || off % size || off > r->len - size)
        return false;
    *ret_region = r;
    *ret_off = off;
    *ret_size = size;
    return true;
}

static bool touches_window(const struct virtio *v, u32 off, unsigned size)
{
    return v->cfg_cap && off < v->cfg_cap + CAP_DATA + 4u &&
           v->cfg_cap + (u32)CAP_DATA < off + size;
}

void virtio_pci_config_read(struct pci_dev *p, u32 off, unsigned size)
{
    struct virtio *v = container_of(p, struct virtio, pci);
    const struct region *r;
    u32 at, n;

    if (touches_window(v, off, size) && window(v, &r, &at, &n))
        pci_put32(p->r->config, v->cfg_cap + CAP_DATA, (u32)r->read(&p->dev, at, n));
}

void virtio_pci_config_written(struct pci_dev *p, u32 off, unsigned size)
{
    struct virtio *v = container_of(p, struct virtio, pci);
    const struct region *r;
    u32 at, n;

    virtio_dma_set(v, pci_master(p));
    if (touches_window(v, off, size) && window(v, &r, &at, &n))
        r->write(&p->dev, at,
                 pci_get32(p->r->config, v->cfg_cap + CAP_DATA) & (UINT32_MAX >> (32 - 8 * n)),
                 n);
}

/* ---- life ---- */

void virtio_pci_bar_moved(struct pci_dev *p, unsigned bar UNUSED, u64 from UNUSED,
                          u64 to UNUSED)
{
    struct virtio *v = container_of(p, struct virtio, pci);

    if (v->tr)
        pci_bells(v);
}

static u8 cap_add(struct virtio *v, u8 type, u32 at, u32 n, u8 extra)
{
    u8 cap = pci_cap_add(&v->pci, PCI_CAP_VENDOR, CAP_LEN + extra), *c = v->r->pci.config + cap;

    c[2] = CAP_LEN + extra;
    c[3] = type;
    c[CAP_BAR] = BAR_MODERN;
    pci_put32(c, CAP_OFFSET, at);
    pci_put32(c, CAP_LENGTH, n);
    return cap;
}

static void modern_add(struct virtio *v)
{
    u8 *c = v->r->pci.config;

    pci_bar_add(&v->pci, BAR_MODERN, PCI_BAR_MEM64_PREFETCH, &modern_region);
    cap_add(v, CAP_COMMON, AT_COMMON, AT_ISR - AT_COMMON, 0);
    cap_add(v, CAP_ISR, AT_ISR, AT_DEVICE - AT_ISR, 0);
    cap_add(v, CAP_DEVICE, AT_DEVICE, AT_NOTIFY - AT_DEVICE, 0);
    u8 cap = cap_add(v, CAP_NOTIFY, AT_NOTIFY, AT_END - AT_NOTIFY, 4);
    pci_put32(c, cap + CAP_LEN, NOTIFY_STEP);
    v->cfg_cap = cap = cap_add(v, CAP_PCI, 0, 0, 4);
    c[cap + CAP_BAR] = 0;
    v->pci.wmask[cap + CAP_BAR] = 0xff;
    memset(v->pci.wmask + cap + CAP_OFFSET, 0xff, 12); /* offset, length, data */
}

static bool interfaces(struct virtio *v, GError **error)
{
    const char *dl = v->disable_legacy ? v->disable_legacy : "auto";
    bool on = !strcmp(dl, "on") || !strcmp(dl, "true") || !strcmp(dl, "yes");

    if (!on && strcmp(dl, "off") && strcmp(dl, "auto") && strcmp(dl, "false") &&
        strcmp(dl, "no"))
        return fail(error, ERR_ARGUMENT, "disable-legacy=%s: expected on, off or auto", dl);
    v->has_legacy = !on && v->vt->legacy_device;
    v->has_modern = !v->disable_modern;
    if (!v->has_legacy && !v->has_modern)
        return fail(error, ERR_ARGUMENT,
                    "disable-legacy and disable-modern leave it no interface");
    if (v->vectors != UINT32_MAX && v->vectors > PCI_MSIX_MAX)
        return fail(error, ERR_ARGUMENT, "vectors=%u: at most %u", v->vectors, PCI_MSIX_MAX);
    return true;
}

bool virtio_pci_init(struct dev *d, GError **error)
{
    struct virtio *v = virtio_of(d);

    if (!pci_init(&v->pci, error))
        return false;
    if (!virtio_init(v, &pci_transport, error)) {
        pci_fini(&v->pci);
        return false;
    }
    if (!interfaces(v, error)) {
        pci_fini(&v->pci);
        virtio_free(v);
        return false;
    }
    u8 *c = v->r->pci.config;
    if (v->has_legacy) {
        v->features |= BIT(VIRTIO_F_ANY_LAYOUT);
        pci_put16(c, PCI_DEVICE_ID, v->vt->legacy_device);
        pci_put16(c, PCI_SUBVENDOR, 0x1af4);
        pci_put16(c, PCI_SUBDEVICE, v->vt->id);
        pci_bar_add(&v->pci, BAR_LEGACY, PCI_BAR_IO, &legacy_region);
    } else {
        pci_put16(c, PCI_DEVICE_ID, 0x1040 + v->vt->id);
        c[PCI_REVISION] = 1;
    }
    u32 own = v->own_vectors ? v->own_vectors : v->n_queues + 1;
    u32 vectors = v->vectors == UINT32_MAX ? own : v->vectors;
    if (vectors)
        pci_msix_add(&v->pci, BAR_MSIX, vectors);
    if (v->has_modern) {
        v->features |= BIT(VIRTIO_F_VERSION_1);
        modern_add(v);
    }
    return true;
}
