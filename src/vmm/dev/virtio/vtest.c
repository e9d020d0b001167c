// SPDX-License-Identifier: GPL-2.0-or-later
/* vtest.c - see vtest.h. */
#include "vmm/dev/virtio/vtest.h"

#include <string.h>

#include "base/log.h"
#include "vmm/dev/pci/i440fx.h"

enum { SLOT = 4, BAR0 = 0xc000, BAR1 = 0xfeb00000, BAR4 = 0xfea00000, MMIO = 0xfeb10000 };
enum { COMMON = 0, DEVICE = 0x2000, NOTIFY = 0x3000 };

static void gsi_set(void *opaque, unsigned gsi, bool level)
{
    ((struct vtest *)opaque)->gsi[gsi] = level;
}

static void msi(void *opaque, u64 addr UNUSED, u32 data)
{
    struct vtest *t = opaque;

    t->msis++;
    t->msi[data % ARRAY_LEN(t->msi)]++;
}

static const struct intc_ops intc = { .gsi = gsi_set, .msi = msi };

static void line_set(void *opaque, unsigned n, bool level)
{
    ((struct vtest *)opaque)->gsi[n] = level;
}

void vtest_begin(struct vtest *t, const struct dev_type *type, enum vtest_way way)
{
    g_autoptr(GError) error = NULL;

    memset(t, 0, sizeof *t);
    t->way = way;
    t->vm = vm_new();
    t->vm->intc = &intc;
    t->vm->intc_opaque = t;
    t->ram = ram_block_new(t->vm->ram, "ram", VT_RAM, &error);
    if (t->ram)
        ram_map_at(t->vm->ram, 0, VT_RAM, t->ram, 0, false);
    ram_commit(t->vm->ram);
    if (!t->ram || !(t->bus = i440fx_new(t->vm, t->ram, NULL, &error)))
        g_error("%s", error->message);
    t->dev = dev_new(t->vm, type, "test");
    t->fn = SLOT * 8;
}

u32 vt_pci_read(struct vtest *t, u32 off, unsigned size)
{
    bus_write(t->vm->io, 0xcf8, 0x80000000 | t->fn << 8 | (off & 0xfc), 4);
    return (u32)bus_read(t->vm->io, 0xcfc + (off & 3), size);
}

void vt_pci_write(struct vtest *t, u32 off, u32 val, unsigned size)
{
    bus_write(t->vm->io, 0xcf8, 0x80000000 | t->fn << 8 | (off & 0xfc), 4);
    bus_write(t->vm->io, 0xcfc + (off & 3), val, size);
}

void vtest_realize(struct vtest *t)
{
    g_autoptr(GError) error = NULL;

    if (t->way == VT_MMIO) {
        t->line = (struct irq){ .set = line_set, .opaque = t, .n = 5 };
        t->dev->irq[0] = &t->line;
        if (!dev_realize(t->dev, &error))
            g_error("%s", error->message);
        virtio_mmio_map(t->dev, MMIO);
        return;
    }
    if (!pci_place(t->dev, t->bus, t->fn, &error) || !dev_realize(t->dev, &error))
        g_error("%s", error->message);
    vtest_program(t);
}

void vtest_program(struct vtest *t)
{
    vt_pci_write(t, 0x10, BAR0, 4);
    vt_pci_write(t, 0x14, BAR1, 4);
    vt_pci_write(t, 0x20, BAR4, 4);
    vt_pci_write(t, 0x24, 0, 4);
    vt_pci_write(t, PCI_COMMAND, 7, 2);
    t->bar0 = BAR0;
    t->bar4 = BAR4;
    /* MSI-X on, vector n sends n */
    for (u8 cap = vt_pci_read(t, PCI_CAP_PTR, 1); cap; cap = vt_pci_read(t, cap + 1, 1)) {
        if (vt_pci_read(t, cap, 1) != PCI_CAP_MSIX)
            continue;
        u32 n = (vt_pci_read(t, cap + 2, 2) & 0x7ff) + 1;
        vt_pci_write(t, cap + 2, 0x8000, 2);
        for (u32 i = 0; i < n; i++) {
            bus_write(t->vm->mem, BAR1 + i * 16, 0xfee00000, 4);
            bus_write(t->vm->mem, BAR1 + i * 16 + 8, i, 4);
            bus_write(t->vm->mem, BAR1 + i * 16 + 12, 0, 4);
        }
    }
}

void vtest_free(struct vtest *t)
{
    vm_free(t->vm);
}

void *vt_at(struct vtest *t, gpa at)
{
    return t->ram->host + at;
}

/* ---- registers ---- */

static void common_write(struct vtest *t, u32 off, u64 val, unsigned size)
{
    bus_write(t->vm->mem, t->bar4 + off, val, size);
}

static void mmio_write(struct vtest *t, u32 off, u32 val)
{
    bus_write(t->vm->mem, MMIO + off, val, 4);
}

u64 vt_features(struct vtest *t)
{
    u64 f = 0;

    if (t->way == VT_LEGACY)
        return bus_read(t->vm->io, t->bar0, 4);
    for (u32 i = 0; i < 2; i++) {
        if (t->way == VT_MMIO) {
            mmio_write(t, 0x14, i);
            f |= bus_read(t->vm->mem, MMIO + 0x10, 4) << (32 * i);
        } else {
            common_write(t, 0, i, 4);
            f |= bus_read(t->vm->mem, t->bar4 + 4, 4) << (32 * i);
        }
    }
    return f;
}

u8 vt_status(struct vtest *t)
{
    if (t->way == VT_LEGACY)
        return bus_read(t->vm->io, t->bar0 + 18, 1);
    if (t->way == VT_MMIO)
        return bus_read(t->vm->mem, MMIO + 0x70, 4);
    return bus_read(t->vm->mem, t->bar4 + 0x14, 1);
}

void vt_set_status(struct vtest *t, u8 s)
{
    if (t->way == VT_LEGACY)
        bus_write(t->vm->io, t->bar0 + 18, s, 1);
    else if (t->way == VT_MMIO)
        mmio_write(t, 0x70, s);
    else
        common_write(t, 0x14, s, 1);
}

u64 vt_config(struct vtest *t, u32 off, unsigned size)
{
    if (t->way == VT_LEGACY)
        return bus_read(t->vm->io, t->bar0 + 24 + off, size);
    return bus_read(t->vm->mem, (t->way == VT_MMIO ? MMIO + 0x100 : t->bar4 + DEVICE) + off,
                    size);
}

void vt_config_write(struct vtest *t, u32 off, u64 val, unsigned size)
{
    if (t->way == VT_LEGACY)
        bus_write(t->vm->io, t->bar0 + 24 + off, val, size);
    else
        bus_write(t->vm->mem, (t->way == VT_MMIO ? MMIO + 0x100 : t->bar4 + DEVICE) + off, val,
                  size);
}

void vt_queue_setup(struct vtest *t, unsigned i, u16 size)
{
    struct vtest_queue *q = &t->q[i];
    bool indirect = q->indirect;

    *q = (struct vtest_queue){ .desc = VT_RINGS + i * 0x20000,
                               .size = size,
                               .indirect = indirect };
    memset(vt_at(t, q->desc), 0, 0x20000);
    if (t->way == VT_LEGACY) {
        bus_write(t->vm->io, t->bar0 + 14, i, 2);
        q->size = size = bus_read(t->vm->io, t->bar0 + 12, 2);
        q->avail = q->desc + 16 * size;
        q->used = ROUND_UP(q->avail + 6 + 2 * size, (u64)4096);
        bus_write(t->vm->io, t->bar0 + 8, q->desc / 4096, 4);
        bus_write(t->vm->io, t->bar0 + 22, i + 1, 2);
        return;
    }
    q->avail = q->desc + 0x8000;
    q->used = q->desc + 0x10000;
    if (t->way == VT_MMIO) {
        mmio_write(t, 0x30, i);
        mmio_write(t, 0x38, size);
        mmio_write(t, 0x80, (u32)q->desc);
        mmio_write(t, 0x90, (u32)q->avail);
        mmio_write(t, 0xa0, (u32)q->used);
        mmio_write(t, 0x44, 1);
        return;
    }
    common_write(t, 0x16, i, 2);
    common_write(t, 0x18, size, 2);
    common_write(t, 0x1a, i + 1, 2);
    common_write(t, 0x20, q->desc, 8);
    common_write(t, 0x28, q->avail, 8);
    common_write(t, 0x30, q->used, 8);
    common_write(t, 0x1c, 1, 2);
}

bool vt_start(struct vtest *t, u64 features, unsigned queues, u16 size)
{
    vt_set_status(t, 0);
    vt_set_status(t, 3);
    if (t->way != VT_LEGACY)
        features |= BIT(VIRTIO_F_VERSION_1);
    for (u32 i = 0; i < 2; i++) {
        u32 bits = features >> (32 * i);
        if (t->way == VT_LEGACY && i == 0) {
            bus_write(t->vm->io, t->bar0 + 4, bits, 4);
        } else if (t->way == VT_MMIO) {
            mmio_write(t, 0x24, i);
            mmio_write(t, 0x20, bits);
        } else if (t->way == VT_MODERN) {
            common_write(t, 8, i, 4);
            common_write(t, 12, bits, 4);
        }
    }
    t->features = features;
    if (t->way != VT_LEGACY) {
        vt_set_status(t, 11);
        if (!(vt_status(t) & VIRTIO_S_FEATURES_OK))
            return false;
    }
    for (unsigned i = 0; i < queues; i++)
        vt_queue_setup(t, i, size);
    vt_set_status(t, vt_status(t) | VIRTIO_S_DRIVER_OK);
    return true;
}

/* ---- rings ---- */

void vt_desc(struct vtest *t, gpa table, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
    u8 *d = vt_at(t, table + 16 * i);

    memcpy(d, &addr, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
}

u16 vt_add(struct vtest *t, unsigned qi, const struct vtest_seg *s, unsigned n)
{
    struct vtest_queue *q = &t->q[qi];
    u16 head = q->next;
    gpa table = q->desc;

    if (q->indirect) {
        table = q->desc + 0x18000 + (u64)head * 0x100; /* up to 16 descriptors each */
        vt_desc(t, q->desc, head, table, 16 * n, 4, 0);
        q->next = (q->next + 1) % q->size;
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned at = q->indirect ? i : q->next,
                 next = q->indirect ? i + 1 : (at + 1) % q->size;

        vt_desc(t, table, at, s[i].at, s[i].len, (i + 1 < n) | (s[i].in ? 2 : 0), next);
        if (!q->indirect)
            q->next = next;
    }
    u16 *avail = vt_at(t, q->avail);
    avail[2 + q->idx % q->size] = head;
    q->idx++;
    if (!t->hold)
        vt_publish(t, qi);
    return head;
}

void vt_publish(struct vtest *t, unsigned qi)
{
    u16 *avail = vt_at(t, t->q[qi].avail);

    __atomic_store_n(&avail[1], t->q[qi].idx, __ATOMIC_SEQ_CST);
}

void vt_kick(struct vtest *t, unsigned q)
{
    if (t->way == VT_LEGACY)
        bus_write(t->vm->io, t->bar0 + 16, q, 2);
    else if (t->way == VT_MMIO)
        mmio_write(t, 0x50, q);
    else
        common_write(t, NOTIFY + 4 * q, q, 2);
}

bool vt_wait_true(bool (*fn)(void *), void *opaque)
{
    for (unsigned i = 0; i < 10000; i++) {
        if (fn(opaque))
            return true;
        g_usleep(200);
    }
    return false;
}

s64 vt_wait(struct vtest *t, unsigned qi, u16 *ret_head)
{
    struct vtest_queue *q = &t->q[qi];
    u16 *used = vt_at(t, q->used);

    for (unsigned i = 0; i < 10000; i++) {
        if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) != q->seen) {
            u32 *e = (u32 *)(void *)((u8 *)used + 4 + 8 * (q->seen++ % q->size));
            if (ret_head)
                *ret_head = (u16)e[0];
            return e[1];
        }
        g_usleep(200);
    }
    return -1;
}
