// SPDX-License-Identifier: GPL-2.0-or-later
/* types.c - every device type there is, by hand; a new device is one line here. */
#include "vmm/core/dev.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/nvme/nvme.h"
#include "vmm/dev/pc/acpi_pm.h"
#include "vmm/dev/pc/fdc.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/hpet.h"
#include "vmm/dev/pc/i8042.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/lapic.h"
#include "vmm/dev/pc/misc.h"
#include "vmm/dev/pc/pcihp.h"
#include "vmm/dev/pc/pic.h"
#include "vmm/dev/pc/pit.h"
#include "vmm/dev/pc/rtc.h"
#include "vmm/dev/pc/uart.h"
#include "vmm/dev/pci/i440fx.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/types.h"

const struct dev_type *const dev_types[] = {
    /* ide/ */
    &ahci_type,
    &ide_cd_type,
    &ide_hd_type,
    &piix3_ide_type,
    /* nvme/ */
    &nvme_type,
    /* pc/ */
    &acpi_pm_type,
    &debugcon_type,
    &debugexit_type,
    &dma_type,
    &fdc_type,
    &floppy_type,
    &fw_cfg_type,
    &hpet_type,
    &i8042_type,
    &ioapic_type,
    &lapic_page_type,
    &lapic_type,
    &pcihp_type,
    &pic_type,
    &pit_type,
    &port92_type,
    &pvpanic_type,
    &rtc_type,
    &uart_type,
    /* pci/ */
    &pci_host_type,
    &i440fx_type,
    &piix3_type,
    &piix4_pm_type,
    /* scsi/ */
    &lsi53c895a_type,
    &scsi_cd_type,
    &scsi_hd_type,
    /* virtio/ */
    &virtconsole_type,
    &virtio_balloon_device_type,
    &virtio_balloon_pci_type,
    &virtio_blk_device_type,
    &virtio_blk_pci_type,
    &virtio_net_device_type,
    &virtio_net_pci_type,
    &virtio_rng_device_type,
    &virtio_rng_pci_type,
    &virtio_scsi_device_type,
    &virtio_scsi_pci_type,
    &virtio_serial_device_type,
    &virtio_serial_pci_type,
    &virtserialport_type,
    NULL,
};
