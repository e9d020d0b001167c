// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * piix4_pm.c - Intel 82371AB (PIIX4), function 3: where in the ports the power management
 * registers lie.  Intel 82371AB data sheet (290562), section 7.1.
 *
 * The registers themselves are a device of their own (dev/pc/acpi_pm.c): its first region is
 * shown at PMBA while PMREGMISC says so.
 *
 * Not modelled: the SMBus (its registers are remembered), device monitors, SMI.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/pci/i440fx.h"

enum {
    PMBA = 0x40,
    DEVACTB = 0x58,
    PMREGMISC = 0x80,
    PMIOSE = 0x01,
    SMBBA = 0x90,
    SMBHSTCFG = 0xd2
};

struct piix4_pm {
    struct pci_dev pci;
    struct dev *pm;
    struct mapping *map;
    u16 at; /* where it is mapped; 0: nowhere */
    struct piix4_pm_regs {
        struct pci_regs pci;
    } r;
};

static const struct state_field piix4_pm_fields[] = {
    STATE_STRUCT(struct piix4_pm_regs, pci, pci_fields),
};

static void block_update(struct piix4_pm *s)
{
    const u8 *c = s->r.pci.config;
    u16 at = c[PMREGMISC] & PMIOSE ? pci_get16(c, PMBA) & 0xffc0 : 0;

    if (at == s->at || !s->pm)
        return;
    if (s->map)
        bus_unmap(s->pci.dev.vm->io, s->map);
    s->map = at ? bus_map(s->pci.dev.vm->io, at, s->pm->type->io[0], s->pm, 0) : NULL;
    s->at = at;
}

static void piix4_pm_written(struct pci_dev *p, u32 off UNUSED, unsigned size UNUSED)
{
    block_update(container_of(p, struct piix4_pm, pci));
}

static bool piix4_pm_init(struct dev *d, GError **error)
{
    struct piix4_pm *s = container_of(d, struct piix4_pm, pci.dev);
    u8 *c = s->r.pci.config, *wm = s->pci.wmask;

    if (!pci_init(&s->pci, error))
        return false;
    pci_put16(c, PCI_STATUS, 0x0280);
    wm[PCI_COMMAND] |= PCI_COMMAND_IO;
    pci_put32(c, PMBA, 1);
    pci_put16(wm, PMBA, 0xffc0);
    wm[PMREGMISC] = PMIOSE;
    /* SMIs on command are on already: SeaBIOS takes that as a sign that SMM is set up and does
     * not wait for a handler that would never run. */
    c[DEVACTB + 3] = 0x02;
    pci_put32(c, SMBBA, 1);
    pci_put16(wm, SMBBA, 0xfff0);
    wm[SMBHSTCFG] = 0x0f;
    memset(wm + 0x44, 0xff, 0x3c); /* counters and device resources: remembered */
    return true;
}

static void piix4_pm_reset(struct dev *d)
{
    struct piix4_pm *s = container_of(d, struct piix4_pm, pci.dev);

    pci_reset(&s->pci);
    block_update(s);
}

static void piix4_pm_loaded(struct dev *d)
{
    struct piix4_pm *s = container_of(d, struct piix4_pm, pci.dev);

    pci_loaded(&s->pci);
    block_update(s);
}

static void piix4_pm_fini(struct dev *d)
{
    struct piix4_pm *s = container_of(d, struct piix4_pm, pci.dev);

    bus_unmap(d->vm->io, s->map);
    pci_fini(&s->pci);
}

static const struct prop piix4_pm_props[] = {
    PROP(struct piix4_pm, pm, PROP_PTR, .name = "pm",
         .help = "device whose first port region is shown at PMBA"),
    { 0 },
};

static const struct pci_type piix4_pm_pci = {
    .vendor = 0x8086,
    .device = 0x7113,
    .class = 0x068000,
    .revision = 3,
    .pin = 1,
    .fixed = true,
    .regs = offsetof(struct piix4_pm, r.pci),
    .config_written = piix4_pm_written,
};

const struct dev_type piix4_pm_type = {
    .name = "PIIX4_PM",
    .desc = "Power management",
    .kind = DEV_PCI,
    .size = sizeof(struct piix4_pm),
    .props = piix4_pm_props,
    .state = STATE_TABLE(struct piix4_pm, r, piix4_pm_fields),
    .init = piix4_pm_init,
    .reset = piix4_pm_reset,
    .loaded = piix4_pm_loaded,
    .fini = piix4_pm_fini,
    .more = &piix4_pm_pci,
};

bool piix4_pm_new(struct pci_bus *b, struct dev *pm, GError **error)
{
    struct dev *d = dev_new(pci_bus_vm(b), &piix4_pm_type, "piix4-pm");

    if (dev_set_ptr(d, "pm", pm, error) && pci_place(d, b, 1 * 8 + 3, error) &&
        dev_realize(d, error))
        return true;
    dev_free(d);
    return false;
}
