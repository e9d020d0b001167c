// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * piix3.c - Intel 82371SB (PIIX3), function 0: the ISA bridge.
 * Intel 82371FB/82371SB data sheet (290550): PIRQRC 2.2.9, reset control 2.5.6.
 *
 * Two things of it do work: which ISA interrupt each PIRQ line drives, and the reset control
 * register at port 0xcf9.  The rest is remembered.  Function 1 is the IDE interface, function 3
 * the PIIX4's power management, each a device of its own.
 *
 * Not modelled: DMA and X-bus decoding (the chips behind them are the board's), SMI, APM.
 */
#include "vmm/dev/pci/i440fx.h"

#include <string.h>

enum { PIRQRC = 0x60, PIRQ_OFF = 0x80, RCR_CPU = 0x04, RCR_SYSTEM = 0x02 };

struct piix3 {
    struct pci_dev pci;
    struct piix3_regs {
        struct pci_regs pci;
        u8 rcr; /* reset control */
        u8 zero[7];
    } r;
};

static const struct state_field piix3_fields[] = {
    STATE_STRUCT(struct piix3_regs, pci, pci_fields),
    STATE_UINT(struct piix3_regs, rcr, RCR_SYSTEM),
    STATE_PAD(struct piix3_regs, zero),
};

static void routes_update(struct piix3 *s)
{
    for (unsigned i = 0; i < 4; i++) {
        u8 v = s->r.pci.config[PIRQRC + i];
        int gsi = v & 15;

        /* 0, 1, 2, 8 and 13 belong to the board: reserved values route nowhere */
        if (v & PIRQ_OFF || (1u << gsi) & 0x2107)
            gsi = -1;
        pci_bus_route(s->pci.bus, i, gsi);
    }
}

static void piix3_written(struct pci_dev *p, u32 off, unsigned size)
{
    if (off < PIRQRC + 4 && off + size > PIRQRC)
        routes_update(container_of(p, struct piix3, pci));
}

static u64 rcr_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    return container_of(d, struct piix3, pci.dev)->r.rcr;
}

static void rcr_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    struct piix3 *s = container_of(d, struct piix3, pci.dev);

    if (val & RCR_CPU)
        vm_request(d->vm, VM_REQ_RESET, VM_BY_GUEST);
    else
        s->r.rcr = val & RCR_SYSTEM;
}

static const struct region rcr_port = {
    .name = "reset-control", .len = 1, .min = 1, .max = 1, .read = rcr_read, .write = rcr_write
};

static bool piix3_init(struct dev *d, GError **error)
{
    struct piix3 *s = container_of(d, struct piix3, pci.dev);
    u8 *c = s->r.pci.config, *wm = s->pci.wmask;

    s->pci.multifunction = true;
    if (!pci_init(&s->pci, error))
        return false;
    pci_put16(c, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    pci_put16(wm, PCI_COMMAND, 0x0008);
    pci_put16(c, PCI_STATUS, 0x0200);
    memset(c + PIRQRC, PIRQ_OFF, 4);
    memset(wm + PIRQRC, 0x8f, 4);
    /* Recovery timers, X-bus select, top of memory, IDE interrupt, SMI: remembered. */
    static const u8 regs[][2] = { { 0x4c, 0x4d }, { 0x4e, 0x03 }, { 0x4f, 0x00 },
                                  { 0x69, 0x02 }, { 0x70, 0x80 }, { 0x76, 0x0c },
                                  { 0x77, 0x0c }, { 0x78, 0x02 }, { 0x82, 0x00 },
                                  { 0xa0, 0x08 }, { 0xa2, 0x00 }, { 0xa3, 0x00 },
                                  { 0xa8, 0x0f } };
    for (unsigned i = 0; i < ARRAY_LEN(regs); i++) {
        c[regs[i][0]] = regs[i][1];
        wm[regs[i][0]] = 0xff;
    }
    return true;
}

static void piix3_reset(struct dev *d)
{
    struct piix3 *s = container_of(d, struct piix3, pci.dev);

    pci_reset(&s->pci);
    s->r.rcr = 0;
    routes_update(s);
}

static void piix3_loaded(struct dev *d)
{
    struct piix3 *s = container_of(d, struct piix3, pci.dev);

    pci_loaded(&s->pci);
    routes_update(s);
}

static void piix3_fini(struct dev *d)
{
    pci_fini(container_of(d, struct pci_dev, dev));
}

static const struct pci_type piix3_pci = {
    .vendor = 0x8086,
    .device = 0x7000,
    .class = 0x060100,
    .fixed = true,
    .regs = offsetof(struct piix3, r.pci),
    .config_written = piix3_written,
};

const struct dev_type piix3_type = {
    .name = "PIIX3",
    .desc = "ISA bridge",
    .kind = DEV_PCI,
    .size = sizeof(struct piix3),
    .io = { &rcr_port },
    .state = STATE_TABLE(struct piix3, r, piix3_fields),
    .init = piix3_init,
    .reset = piix3_reset,
    .loaded = piix3_loaded,
    .fini = piix3_fini,
    .more = &piix3_pci,
};
