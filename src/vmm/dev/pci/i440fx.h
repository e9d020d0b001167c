// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * i440fx.h - the PC board's PCI chips, and how the board gets them.
 */
#pragma once

#include "vmm/dev/pci/pci.h"

extern const struct dev_type i440fx_type;   /* host bridge, 0:0.0; props "ram", "bios" */
extern const struct dev_type piix4_pm_type; /* power management, 0:1.3; prop "pm" */
extern const struct dev_type piix3_type;    /* ISA bridge, 0:1.0 */

/*
 * Makes and places host bridge, i440FX and PIIX3 and maps their ports (0xcf8-0xcff, 0xcf9).
 * ram: the block whose offset is the guest-physical address, below 1 MiB at least.
 * bios: shown, its last byte at 0xfffff, where the PAM registers do not select RAM; NULL: RAM
 * is always there (direct kernel boot).
 */
struct pci_bus *i440fx_new(struct vm *, struct ram_block *ram, struct ram_block *bios,
                           GError **error);
/* The power management function; pm: the device (acpi_pm_type) whose first port region it shows
 * where the firmware puts it: the board does not map that one. */
bool piix4_pm_new(struct pci_bus *, struct dev *pm, GError **error);
