// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pc.c - machine "pc": i440FX and PIIX3 with what a PC has beside them, as a table of parts.
 *
 * Interrupts: ISA interrupt n is GSI n (0 arrives at the IOAPIC's input 2); PCI INTx goes
 * through the PIIX' PIRQ routes to ISA interrupts.  With KVM's irqchip the interrupt
 * controllers are the kernel's.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/backend/chardev.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pc/acpi_pm.h"
#include "vmm/dev/pc/fdc.h"
#include "vmm/dev/pc/hpet.h"
#include "vmm/dev/pc/intc.h"
#include "vmm/dev/pc/misc.h"
#include "vmm/dev/pc/pcihp.h"
#include "vmm/dev/pci/i440fx.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/machine/board.h"
#include "vmm/machine/pci_setup.h"

enum { BIOS_MAX = 8 << 20 };

/* Those without conditions. */
static const struct part parts[] = {
    { .type = "i8042", .id = "i8042", .io = { 0x60, 0x64 }, .gsis = 2, .gsi = { 1, 12 } },
    { .type = "i8257", .id = "dma", .io = { 0x80, 0xc0, 0x480 } },
    { .type = "port92", .id = "port92", .io = { 0x92 } },
};

/* Reads the firmware into a ROM that ends at 4 GiB. */
static bool bios_load(struct machine *m, GError **error)
{
    static const char *const defaults[] = { "/usr/share/seabios/bios-256k.bin",
                                            "/usr/share/seabios/bios.bin",
                                            "/usr/share/qemu/bios-256k.bin" };
    const char *path = m->desc->bios;
    struct stat st;

    for (size_t i = 0; !path && i < ARRAY_LEN(defaults); i++)
        if (access(defaults[i], R_OK) == 0)
            path = defaults[i];
    if (!path)
        return fail(error, ERR_NOT_FOUND,
                    "no firmware: %s is missing; install the package seabios, or use -bios or "
                    "-kernel",
                    defaults[0]);
    g_autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) != 0)
        return fail_errno(error, errno, "-bios: %s", path);
    if (!S_ISREG(st.st_mode) || st.st_size < 4096 || st.st_size > BIOS_MAX ||
        st.st_size % 0x10000)
        return fail(error, ERR_FORMAT,
                    "-bios: %s: no firmware: it has to be a file of n * 64 KiB, at most %d MiB",
                    path, BIOS_MAX >> 20);
    m->bios = ram_block_new(m->vm->ram, "pc.bios", (u64)st.st_size, error);
    if (!m->bios)
        return false;
    if (!fd_read_all(fd, m->bios->host, m->bios->size, 0, error)) {
        g_prefix_error(error, "-bios: %s: ", path);
        return false;
    }
    vm_lock(m->vm);
    ram_map_at(m->vm->ram, 4 * GiB - m->bios->size, m->bios->size, m->bios, 0, true);
    ram_commit(m->vm->ram);
    vm_unlock(m->vm);
    return true;
}

/* In the HPET's legacy mode it takes the lines of 8254 and RTC. */
static bool timers_make(struct machine *m, GError **error)
{
    const struct part hpet = { .type = "hpet", .id = "hpet", .mem = { PC_HPET } };
    const struct part pit = { .type = "isa-pit", .id = "pit", .io = { 0x40, 0x61 } };
    const struct part rtc = { .type = "mc146818rtc", .id = "rtc", .io = { 0x70 } };
    struct irq *irq0 = vm_gsi(m->vm, 0), *irq8 = vm_gsi(m->vm, 8);

    if (m->desc->hpet) {
        struct dev *d = machine_part(m, &hpet, NULL, error);
        if (!d)
            return false;
        irq0 = hpet_legacy_line(d, 0);
        irq8 = hpet_legacy_line(d, 1);
        m->has_hpet = true;
    }
    /* The kernel's irqchip has an 8254 of its own. */
    if (!m->vm->kernel_irqchip && !machine_part_on(m, &pit, irq0, error))
        return false;
    m->rtc = machine_part_on(m, &rtc, irq8, error);
    return m->rtc != NULL;
}

static void pc_powerdown(struct vm *vm UNUSED, void *opaque)
{
    acpi_pm_power_button(opaque);
}

/* Only if a drive was asked for: systems look for drives at a controller for long. */
static bool floppy_make(struct machine *m, GError **error)
{
    struct dev *dma = NULL;
    bool wanted = false;

    for (guint i = 0; i < m->desc->devices->len; i++)
        wanted |= strcmp(((const struct device_desc *)m->desc->devices->pdata[i])->type,
                         floppy_type.name) == 0;
    for (guint i = 0; i < m->vm->devs->len; i++)
        if (((struct dev *)m->vm->devs->pdata[i])->type == &dma_type)
            dma = m->vm->devs->pdata[i];
    if (!wanted)
        return true;
    struct dev *d = dev_new(m->vm, &fdc_type, "fdc");
    d->irq[0] = vm_gsi(m->vm, 6);
    if (!dev_set_ptr(d, "dma", dma, error) || !dev_realize(d, error)) {
        dev_free(d);
        return false;
    }
    bus_map(m->vm->io, 0x3f0, fdc_type.io[0], d, 0);
    bus_map(m->vm->io, 0x3f7, fdc_type.io[1], d, 0);
    m->fdc = d;
    return true;
}

static bool pm_make(struct machine *m, bool direct, GError **error)
{
    const struct part p = { .type = "acpi-pm",
                            .id = "pm",
                            .io = { [ACPI_PM_IO_GPE] = PC_GPE_BASE, [ACPI_PM_IO_SMI] = 0xb2 },
                            .gsis = 1,
                            .gsi = { PC_SCI } };
    /* Firmware switches to ACPI mode when the system asks; without it we start there. */
    const char *const props[] = { "sci-enabled", direct ? "on" : "off", NULL };
    struct dev *pm = machine_part(m, &p, props, error);

    if (!pm || !piix4_pm_new(m->pci, pm, error))
        return false;
    m->vm->powerdown = pc_powerdown;
    m->vm->powerdown_opaque = pm;
    m->has_pm = m->has_smi_cmd = true;
    if (!m->desc->acpi)
        return true;
    const struct part hp = { .type = "acpi-pci-hotplug",
                             .id = "hotplug",
                             .io = { PC_HOTPLUG } };
    m->hotplug = machine_part(m, &hp, NULL, error);
    if (m->hotplug) /* the host bridge and the PIIX stay */
        pcihp_wire(m->hotplug, pm, 3, machine_ejects, m);
    return m->hotplug != NULL;
}

static bool fw_cfg_make(struct machine *m, GError **error)
{
    const struct part p = { .type = "fw_cfg", .id = "fw_cfg", .io = { 0x510, 0x514 } };

    m->fw_cfg = machine_part(m, &p, NULL, error);
    return m->fw_cfg != NULL;
}

static bool pc_memory(struct machine *m, GError **error)
{
    if (!m->desc->kernel)
        return bios_load(m, error);
    return !m->desc->bios || fail(error, ERR_ARGUMENT,
                                  "-bios: a kernel is started without firmware; leave out "
                                  "either -bios or -kernel");
}

static bool pc_build(struct machine *m, GError **error)
{
    struct vm *vm = m->vm;
    bool direct = m->desc->kernel != NULL;

    if (!vm->kernel_irqchip && !pc_intc_make(vm, true, error))
        return false;
    m->pci = i440fx_new(vm, m->ram, m->bios, error);
    if (!m->pci)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (!machine_part(m, &parts[i], NULL, error))
            return false;
    m->has_i8042 = true;
    if (!piix3_ide_new(m->pci, vm_gsi(vm, 14), vm_gsi(vm, 15), error) || !floppy_make(m, error))
        return false;
    return timers_make(m, error) && pm_make(m, direct, error) && fw_cfg_make(m, error) &&
           machine_make_serials(m, error) && machine_make_debugcon(m, error);
}

static bool pc_place(struct machine *m, struct dev *d, const char *bus, GError **error)
{
    if (d->type->kind == DEV_IDE)
        return ide_place(d, bus, error);
    if (d->type->kind == DEV_SCSI)
        return scsi_place(d, bus, error);
    if (d->type->kind != DEV_PCI)
        return true; /* ISA devices know their ports */
    if (bus && strcmp(bus, "pci.0") != 0 && strcmp(bus, "pci") != 0)
        return fail(error, ERR_NOT_FOUND, "%s: there is no bus '%s'; there is pci.0",
                    d->type->name, bus);
    /* Slot 2 is kept for a graphics card, so that one does not move all others. */
    int fn = -1;
    for (int slot = 3; fn < 0 && !pci_dev_of(d)->addr && slot < 32; slot++)
        if (!pci_bus_dev(m->pci, (u8)(slot << 3)))
            fn = slot << 3;
    return pci_place(d, m->pci, fn, error);
}

static bool pc_finish(struct machine *m, GError **error)
{
    machine_set_cmos(m);
    return machine_fill_fw_cfg(m, error) && machine_load_kernel(m, error);
}

static bool pc_reset(struct machine *m, GError **error)
{
    machine_hotplug_reset(m);
    machine_set_boot_order(m);
    if (!m->boot)
        return true;
    return pci_setup(m->vm, m->pci, error) && machine_reset_kernel(m, error);
}

const struct board_ops board_pc = { .memory = pc_memory,
                                    .build = pc_build,
                                    .place = pc_place,
                                    .finish = pc_finish,
                                    .reset = pc_reset };
