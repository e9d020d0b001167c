// SPDX-License-Identifier: GPL-2.0-or-later
/* types.h - the virtio device types, for dev/types.c. */
#pragma once

#include "vmm/core/dev.h"

extern const struct dev_type virtio_blk_pci_type, virtio_blk_device_type;
extern const struct dev_type virtio_net_pci_type, virtio_net_device_type;
extern const struct dev_type virtio_scsi_pci_type, virtio_scsi_device_type;
extern const struct dev_type virtio_rng_pci_type, virtio_rng_device_type;
extern const struct dev_type virtio_serial_pci_type, virtio_serial_device_type;
extern const struct dev_type virtconsole_type, virtserialport_type;
extern const struct dev_type virtio_balloon_pci_type, virtio_balloon_device_type;
