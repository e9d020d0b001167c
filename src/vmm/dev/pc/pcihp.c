// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pcihp.c - slots of PCI bus 0 that ACPI can plug and eject, by the ports that QEMU's PIIX4 has
 * at 0xae00 (docs/specs/acpi_pci_hotplug of QEMU 7.2); general-purpose event 1 tells of a
 * change.
 *
 *   +0  slots that were plugged      read clears
 *   +4  slots that shall be removed  read clears
 *   +8  a write ejects these slots
 *   +c  slots that can be removed
 *  +10  which bus: only 0 is there
 *
 * The methods that read and write them are in the DSDT (machine/acpi.c).
 */
#include "vmm/dev/pc/pcihp.h"

enum { UP = 0x00, DOWN = 0x04, EJECT = 0x08, REMOVABLE = 0x0c, SELECT = 0x10, LEN = 0x14 };
enum { GPE = 1 };

struct pcihp {
    struct dev dev;
    struct pcihp_regs {
        u32 up, down, select;
        u8 zero[4];
    } r;
    u32 fixed; /* slots that stay */
    struct dev *pm;
    void (*eject)(void *opaque, u32 slots);
    void *opaque;
};

static const struct state_field pcihp_fields[] = {
    STATE_INT(struct pcihp_regs, up),
    STATE_INT(struct pcihp_regs, down),
    STATE_INT(struct pcihp_regs, select),
    STATE_PAD(struct pcihp_regs, zero),
};

static struct pcihp *pcihp_of(struct dev *d)
{
    return container_of(d, struct pcihp, dev);
}

static u64 hp_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct pcihp *s = pcihp_of(d);
    u32 val = 0;

    if (off == SELECT)
        return s->r.select;
    if (s->r.select)
        return 0;
    switch (off) {
    case UP:
        val = s->r.up;
        s->r.up = 0;
        break;
    case DOWN:
        val = s->r.down;
        s->r.down = 0;
        break;
    case REMOVABLE:
        val = ~s->fixed;
        break;
    }
    return val;
}

static void hp_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct pcihp *s = pcihp_of(d);

    if (off == SELECT)
        s->r.select = (u32)val;
    else if (off == EJECT && !s->r.select && s->eject && val & ~(u64)s->fixed)
        s->eject(s->opaque, (u32)val & ~s->fixed);
}

void pcihp_wire(struct dev *d, struct dev *pm, u32 fixed,
                void (*eject)(void *opaque, u32 slots), void *opaque)
{
    struct pcihp *s = pcihp_of(d);

    s->pm = pm;
    s->fixed = fixed;
    s->eject = eject;
    s->opaque = opaque;
}

void pcihp_changed(struct dev *d, u8 slot, bool plugged)
{
    struct pcihp *s = pcihp_of(d);

    dev_lock(d);
    if (plugged)
        s->r.up |= 1u << slot;
    else
        s->r.down |= 1u << slot;
    dev_unlock(d);
    acpi_pm_gpe(s->pm, GPE);
}

static void hp_reset(struct dev *d)
{
    pcihp_of(d)->r = (struct pcihp_regs){ 0 };
}

static const struct region hp_ports = { .name = "acpi-pci-hotplug",
                                        .len = LEN,
                                        .min = 4,
                                        .max = 4,
                                        .read = hp_read,
                                        .write = hp_write };

const struct dev_type pcihp_type = {
    .name = "acpi-pci-hotplug",
    .desc = "ACPI PCI hotplug registers",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct pcihp),
    .io = { &hp_ports },
    .state = STATE_TABLE(struct pcihp, r, pcihp_fields),
    .reset = hp_reset,
};
