// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * firmware.c - the ACPI and SMBIOS tables of a machine: written into RAM for a direct boot.
 *
 * Without firmware all tables lie in the last 64 KiB below 1 MiB, where kernels look for the
 * RSDP and for the SMBIOS entry point:
 *
 *   0xf0000  SMBIOS entry point
 *   0xf0020  RSDP
 *   0xf0080  ACPI tables, then SMBIOS structures
 */
#include <string.h>

#include "base/error.h"
#include "vmm/core/vm.h"
#include "vmm/machine/acpi.h"
#include "vmm/machine/board.h"
#include "vmm/machine/smbios.h"

enum { FSEG = 0xf0000, FSEG_LEN = 0x10000, RSDP_AT = 0x20, ACPI_AT = 0x80 };

static struct acpi_tables *tables_make(const struct machine *m)
{
    const struct machine_desc *d = m->desc;
    g_autofree u32 *ids = g_new(u32, m->vm->n_vcpus);
    struct acpi_input in = {
        .cpus = m->vm->n_vcpus,
        .apic_ids = ids,
        .pci = m->pci != NULL,
        .pci_mem = (u32)MAX(m->ram_low, (u64)0x80000000),
        .pci_mem_end = PC_PCI_MEM_END,
        .pm_base = m->has_pm ? PC_PM_BASE : 0,
        .smi_cmd = m->has_smi_cmd,
        .hpet = m->has_hpet,
        .i8042 = m->has_i8042,
        .rtc = m->rtc != NULL,
        .pit = d->board == BOARD_PC,
        .fw_cfg = m->fw_cfg != NULL,
        .reset_port = m->pci != NULL,
    };

    for (u32 i = 0; i < m->vm->n_vcpus; i++)
        ids[i] = m->vm->vcpus[i]->apic_id;
    for (int i = 0; i < SERIALS_MAX; i++)
        in.serial[i] = m->serial_at[i];
    if (m->mmio_used) {
        in.virtio_mmio_n = m->mmio_used;
        in.virtio_mmio_base = VIRTIO_MMIO_BASE;
        in.virtio_mmio_gsi = VIRTIO_MMIO_GSI;
    }
    return acpi_build(&in);
}

static bool append(GByteArray *to, u32 at, const void *bytes, u32 n, GError **error)
{
    if (at > FSEG_LEN || n > FSEG_LEN - at)
        return fail(error, ERR_LIMIT, "ACPI and SMBIOS tables are larger than 64 KiB");
    if (to->len < at + n) {
        u32 old = to->len;

        g_byte_array_set_size(to, at + n);
        memset(to->data + old, 0, at + n - old);
    }
    memcpy(to->data + at, bytes, n);
    return true;
}

bool machine_make_tables(struct machine *m, GError **error)
{
    u8 anchor[SMBIOS_ANCHOR_LEN];
    u32 n, max, at = ACPI_AT;
    bool ok = true;

    m->tables = g_byte_array_new();
    m->tables_at = FSEG;
    if (m->desc->acpi) {
        struct acpi_tables *t = tables_make(m);

        acpi_place(t, FSEG + ACPI_AT);
        ok = append(m->tables, ACPI_AT, t->tables->data, t->tables->len, error) &&
             append(m->tables, RSDP_AT, t->rsdp->data, t->rsdp->len, error);
        at = ROUND_UP(ACPI_AT + t->tables->len, 16u);
        m->rsdp = FSEG + RSDP_AT;
        acpi_free(t);
    }
    g_autoptr(GByteArray) smbios = smbios_build(m->desc, m->ram_low, &n, &max);
    if (!ok || !append(m->tables, at, smbios->data, smbios->len, error))
        return false;
    smbios_anchor(smbios, n, max, FSEG + at, anchor);
    return append(m->tables, 0, anchor, sizeof anchor, error);
}
