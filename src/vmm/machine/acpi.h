// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi.h - the ACPI tables of a board, in a form that both firmware and a direct boot can
 * place.
 *
 * Pointers in the tables are offsets into them until somebody knows where they lie: firmware by
 * the loader script (acpi_loader_script), a direct boot by acpi_place().
 */
#pragma once

#include <glib.h>

#include "base/types.h"

/* What the tables say; filled in by the board. */
struct acpi_input {
    u32 cpus;
    const u32 *apic_ids; /* of each */
    bool pci;            /* with link devices behind a PIIX3 */
    u32 pci_mem, pci_mem_end;
    u32 pm_base;  /* 0: no power management ports (and no SCI) */
    bool smi_cmd; /* port 0xb2 switches to ACPI mode */
    bool hpet, i8042, rtc, pit, fw_cfg, reset_port;
    bool pci_hotplug; /* the ports of dev/pc/pcihp.c */
    bool serial[4];
    u32 virtio_mmio_n, virtio_mmio_base, virtio_mmio_gsi;
};

struct acpi_pointer {
    u32 at, size;
    bool in_rsdp;
};
struct acpi_checksum {
    u32 at, start, len;
    bool in_rsdp;
};
struct acpi_tables {
    GByteArray *tables, *rsdp;
    GArray *pointers;  /* struct acpi_pointer: what they hold is an offset into tables */
    GArray *checksums; /* struct acpi_checksum, in the order they have to be made */
};

struct acpi_tables *acpi_build(const struct acpi_input *);
void acpi_free(struct acpi_tables *);
/* Final addresses and checksums, for tables that will lie at this address. */
void acpi_place(struct acpi_tables *, u32 tables_at);
/* The commands for SeaBIOS' and OVMF's table loader ("etc/table-loader"). */
GByteArray *acpi_loader_script(const struct acpi_tables *);
