// SPDX-License-Identifier: GPL-2.0-or-later
/* types.c - every device type there is, by hand; a new device is one line here. */
#include "vmm/core/dev.h"
#include "vmm/dev/pci/i440fx.h"

const struct dev_type *const dev_types[] = {
    /* pci/ */
    &pci_host_type,
    &i440fx_type,
    &piix3_type,
    NULL,
};
