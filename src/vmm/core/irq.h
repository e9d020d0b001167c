// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * irq.h - interrupt lines between devices, the platform's GSIs, and MSIs.
 *
 * A line has one driver and one sink.  irq_set() on an unconnected line (NULL) does nothing.
 * Level lines that several devices share (PCI INTx) are or-ed by the sink's own counting.
 */
#pragma once

#include "base/types.h"

struct irq {
    void (*set)(void *opaque, unsigned n, bool level);
    void *opaque;
    unsigned n;
};

static inline void irq_set(const struct irq *i, bool level)
{
    if (i && i->set)
        i->set(i->opaque, i->n, level);
}
static inline void irq_pulse(const struct irq *i)
{
    irq_set(i, true);
    irq_set(i, false);
}

struct vm;

/*
 * What the machine's interrupt controllers do for everybody else; filled in by the board with
 * our own PIC/IOAPIC/LAPIC models, or by the KVM backend for the kernel's.  Any thread; takes
 * interrupt-controller locks (the innermost rank).
 */
struct intc_ops {
    void (*gsi)(void *opaque, unsigned gsi, bool level);
    void (*msi)(void *opaque, u64 addr, u32 data);
    /* Optional: fd that raises this MSI when signalled (irqfd). <0 when not to be had. */
    int (*msi_fd)(void *opaque, int fd, u64 addr, u32 data);
    void (*msi_fd_del)(void *opaque, int fd);
};

/* A line that drives a GSI of the machine. Owned by the vm. */
struct irq *vm_gsi(struct vm *, unsigned gsi);
void vm_msi(struct vm *, u64 addr, u32 data);
