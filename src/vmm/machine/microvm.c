// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * microvm.c - lean boards for direct boot.
 *
 * "microvm": interrupt controllers, 8254, RTC, serial ports, ACPI's power management ports (for
 * power-off, reset and the power button), and slots for virtio devices over memory-mapped
 * registers, which kernels find in the ACPI tables.  No PCI, no firmware.
 * "none": RAM and processors, with LAPICs and an IOAPIC.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/pc/acpi_pm.h"
#include "vmm/dev/pc/intc.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/virtio.h"
#include "vmm/machine/board.h"

static void microvm_powerdown(struct vm *vm UNUSED, void *opaque)
{
    acpi_pm_power_button(opaque);
}

static bool microvm_build(struct machine *m, GError **error)
{
    const struct part pit = {
        .type = "isa-pit", .id = "pit", .io = { 0x40, 0x61 }, .gsis = 1, .gsi = { 0 }
    };
    const struct part rtc = {
        .type = "mc146818rtc", .id = "rtc", .io = { 0x70 }, .gsis = 1, .gsi = { 8 }
    };
    const struct part pm = { .type = "acpi-pm",
                             .id = "pm",
                             .io = { [ACPI_PM_IO_BLOCK] = PC_PM_BASE,
                                     [ACPI_PM_IO_GPE] = PC_GPE_BASE,
                                     [ACPI_PM_IO_RESET] = 0xcf9 },
                             .gsis = 1,
                             .gsi = { PC_SCI } };
    const char *const pm_props[] = { "sci-enabled", "on", NULL };

    if (!m->vm->kernel_irqchip &&
        (!pc_intc_make(m->vm, true, error) || !machine_part(m, &pit, NULL, error)))
        return false;
    m->rtc = machine_part(m, &rtc, NULL, error);
    struct dev *d = m->rtc ? machine_part(m, &pm, pm_props, error) : NULL;
    if (!d)
        return false;
    m->vm->powerdown = microvm_powerdown;
    m->vm->powerdown_opaque = d;
    m->has_pm = true;
    return machine_make_serials(m, error) && machine_make_debugcon(m, error);
}

static bool microvm_place(struct machine *m, struct dev *d, const char *bus, GError **error)
{
    if (d->type->kind == DEV_SCSI)
        return scsi_place(d, bus, error);
    if (bus && d->type->kind != DEV_VIRTIO_PORT)
        return fail(error, ERR_NOT_FOUND, "%s: there is no bus '%s'", d->type->name, bus);
    if (!machine_is_mmio(d->type))
        return true;
    if (m->mmio_used == VIRTIO_MMIO_SLOTS)
        return fail(error, ERR_LIMIT, "%s: all %d virtio slots are taken", d->type->name,
                    VIRTIO_MMIO_SLOTS);
    d->irq[0] = vm_gsi(m->vm, VIRTIO_MMIO_GSI + m->mmio_used);
    return true;
}

static void microvm_placed(struct machine *m, struct dev *d)
{
    if (machine_is_mmio(d->type))
        virtio_mmio_map(d, VIRTIO_MMIO_BASE + 0x200ull * m->mmio_used++);
}

static bool none_build(struct machine *m, GError **error)
{
    return m->vm->kernel_irqchip || pc_intc_make(m->vm, false, error);
}

static bool none_place(struct machine *m UNUSED, struct dev *d UNUSED, const char *bus UNUSED,
                       GError **error UNUSED)
{
    return true;
}

static bool finish(struct machine *m, GError **error)
{
    return machine_load_kernel(m, error);
}

static bool reset(struct machine *m, GError **error)
{
    return machine_reset_kernel(m, error);
}

const struct board_ops board_microvm = { .build = microvm_build,
                                         .place = microvm_place,
                                         .placed = microvm_placed,
                                         .finish = finish,
                                         .reset = reset };
const struct board_ops board_none = {
    .build = none_build, .place = none_place, .finish = finish, .reset = reset
};
