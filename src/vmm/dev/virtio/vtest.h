// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vtest.h - for unit tests: a machine with a PCI bus and one virtio device, and a small driver
 * for it, over each of the transports.
 */
#pragma once

#include "vmm/dev/virtio/virtio.h"

enum vtest_way { VT_MODERN, VT_LEGACY, VT_MMIO };
enum { VT_RAM = 16 << 20, VT_QUEUES = 8, VT_RINGS = 0x100000, VT_DATA = 0x400000 };

/* The driver's half of a queue. */
struct vtest_queue {
    gpa desc, avail, used;
    u16 size, next, idx, seen;
    bool indirect; /* put chains into tables of their own */
};
struct vtest {
    struct vm *vm;
    struct pci_bus *bus;
    struct dev *dev;
    struct ram_block *ram;
    enum vtest_way way;
    u8 fn;
    u64 bar0, bar4;
    u64 features; /* negotiated */
    struct vtest_queue q[VT_QUEUES];
    _Atomic u32 msis;    /* all vectors */
    _Atomic u32 msi[16]; /* by vector: our data is the number */
    _Atomic bool gsi[VM_GSI_MAX];
    struct irq line; /* MMIO */
    bool hold;       /* vt_add() does not show what it adds: vt_publish() does */
};
struct vtest_seg {
    gpa at;
    u32 len;
    bool in; /* the device writes */
};

/* Two steps, for properties between; the second aborts on failure. */
void vtest_begin(struct vtest *, const struct dev_type *, enum vtest_way);
void vtest_realize(struct vtest *);
/* BARs and MSI-X, again after a reset of the machine. */
void vtest_program(struct vtest *);
void vtest_free(struct vtest *);

u64 vt_features(struct vtest *);
u8 vt_status(struct vtest *);
void vt_set_status(struct vtest *, u8);
u64 vt_config(struct vtest *, u32 off, unsigned size);
void vt_config_write(struct vtest *, u32 off, u64 val, unsigned size);
/* Reset, features, queues, DRIVER_OK. false when the device refuses the features. */
bool vt_start(struct vtest *, u64 features, unsigned queues, u16 size);
/* Without DRIVER_OK. */
void vt_queue_setup(struct vtest *, unsigned q, u16 size);

/* Makes a chain available; its head. */
u16 vt_add(struct vtest *, unsigned q, const struct vtest_seg *, unsigned n);
void vt_publish(struct vtest *, unsigned q);
void vt_kick(struct vtest *, unsigned q);
/* Waits (two seconds) for the next used element; its length, or -1. */
s64 vt_wait(struct vtest *, unsigned q, u16 *ret_head);
bool vt_wait_true(bool (*fn)(void *), void *opaque);
/* Guest RAM, host view. */
void *vt_at(struct vtest *, gpa at);
void vt_desc(struct vtest *, gpa table, unsigned i, u64 addr, u32 len, u16 flags, u16 next);
u32 vt_pci_read(struct vtest *, u32 off, unsigned size);
void vt_pci_write(struct vtest *, u32 off, u32 val, unsigned size);
