// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * intc.h - the PC's interrupt controllers put together: vm->intc for machines that do not use
 * the kernel's irqchip.
 *
 *   device --> vm_gsi(n) --+--> PIC input n (n < 16) --INTR--> LINT0 of the LAPICs
 *                          +--> IOAPIC input n (GSI 0: input 2) --message--> LAPICs
 *
 * So the MADT needs one override: ISA IRQ 0 is IOAPIC input 2.
 */
#pragma once

#include "vmm/core/dev.h"

struct pc_intc {
    struct vm *vm;
    struct dev *pic;    /* NULL: a board without */
    struct dev *ioapic; /* NULL: a board without */
    struct dev *page;   /* the LAPICs' register page */
    struct irq intr;    /* the PIC's output */
    struct irq *to_pic[16], *to_ioapic[24];
    _Atomic u32 turn; /* rotates among equals of lowest-priority delivery */
};
extern const struct intc_ops pc_intc_ops;

/*
 * Makes, realizes, maps and wires PIC (if wanted), IOAPIC and a LAPIC for each of vm->vcpus,
 * and sets vm->intc and vm->intc_opaque.  Call after cpu_make_vcpus() and before devices that
 * use lines.  The struct goes with the page, the first of the devices that it made.
 */
bool pc_intc_make(struct vm *, bool with_pic, GError **error);
/* The machine's, or NULL when it has other controllers. */
struct pc_intc *pc_intc(struct vm *);
void pc_intc_free(struct vm *); /* the page's */
/* The NMI button: LINT1 of all LAPICs. */
void pc_nmi(struct vm *);
