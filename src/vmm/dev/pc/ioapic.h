// SPDX-License-Identifier: GPL-2.0-or-later
/* ioapic.h - 82093AA I/O APIC with 24 inputs and the EOI register of version 0x20. */
#pragma once

#include "vmm/core/dev.h"

enum { IOAPIC_PAGE = 0xfec00000u, IOAPIC_PINS = 24 };

extern const struct dev_type ioapic_type; /* property "id"; mem[0] at IOAPIC_PAGE */

/* A LAPIC has ended a level-triggered interrupt. Takes the device's lock; the caller holds no
 * lock of rank INTC or LAPIC. */
void ioapic_eoi(struct dev *, u8 vector);
