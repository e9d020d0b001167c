// SPDX-License-Identifier: GPL-2.0-or-later
/* pcihp.h - PCI hotplug through ACPI: see pcihp.c. io[0]: 20 ports. */
#pragma once

#include "vmm/dev/pc/acpi_pm.h"

extern const struct dev_type pcihp_type;

/* pm gets the event; fixed: a bit for each slot that stays; eject: the guest lets go of these
 * slots, called with d's lock held. */
void pcihp_wire(struct dev *d, struct dev *pm, u32 fixed,
                void (*eject)(void *opaque, u32 slots), void *opaque);
/* Tells the guest: there is something new in this slot, or (false) it shall let go of it. Main
 * thread, no device lock. */
void pcihp_changed(struct dev *d, u8 slot, bool plugged);
