// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * i440fx.c - Intel 82441FX (PMC): the host bridge's own configuration registers.
 * Intel 440FX PCIset data sheet (290549), section 3.2.
 *
 * The PAM registers say for each of 13 pieces of 0xc0000-0xfffff whether reads and writes reach
 * RAM.  Read-only RAM is a ROM slot.  Write-only RAM (writes to RAM while reads come from ROM),
 * which firmware uses only to copy itself, does not exist: it shows the ROM.
 *
 * The slot map is changed under the host bridge's lock (a configuration write) or while all
 * vCPUs are parked (reset, load): nobody else changes RAM slots at those times.
 *
 * Not modelled: SMRAM (the register can be written and locked, nothing is hidden), DRAM
 * timing, AGP and error registers.
 */
#include "vmm/dev/pci/i440fx.h"

#include <string.h>

#include "base/error.h"

enum { PAM0 = 0x59, PAM6 = 0x5f, SMRAM = 0x72, PAM_RE = 1, PAM_WE = 2 };
enum { SMRAM_LOCK = 0x10, SMRAM_OPEN = 0x40 };
enum { PAM_PIECES = 13, PAM_START = 0xc0000, PAM_END = 0x100000, PAM_BIOS = 0xf0000 };

struct i440fx {
    struct pci_dev pci;
    struct ram_block *ram, *bios;
    u8 shown[PAM_PIECES]; /* what the slot map has: RE and WE bits; 0xff: not known */
    struct i440fx_regs {
        struct pci_regs pci;
    } r;
};

static const struct state_field i440fx_fields[] = {
    STATE_STRUCT(struct i440fx_regs, pci, pci_fields),
};

/* One piece goes to RAM, or to what lies under it: the end of the BIOS, or nothing. */
static void piece_show(struct i440fx *s, u64 at, u64 len, u8 mode)
{
    struct ram *ram = s->pci.dev.vm->ram;
    u64 below = PAM_END - at; /* distance from the end, where the BIOS ends too */

    if (!s->bios)
        mode = PAM_RE | PAM_WE;
    if (mode & PAM_RE)
        ram_map_at(ram, at, len, s->ram, at, !(mode & PAM_WE));
    else if (s->bios && at >= 0xe0000 && below <= s->bios->size)
        ram_map_at(ram, at, len, s->bios, s->bios->size - below, true);
    else
        ram_unmap(ram, at, len);
}

/* PAM0's high half is the 64 KiB at 0xf0000; PAM1..6 are pairs of 16 KiB from 0xc0000. */
static void pam_update(struct i440fx *s)
{
    const u8 *c = s->r.pci.config;
    bool changed = false;

    for (unsigned i = 0; i < PAM_PIECES; i++) {
        u8 reg = i == 0 ? c[PAM0] >> 4 : c[PAM0 + 1 + (i - 1) / 2] >> (i % 2 ? 0 : 4);
        u8 mode = reg & (PAM_RE | PAM_WE);

        if (mode == s->shown[i])
            continue;
        if (i == 0)
            piece_show(s, PAM_BIOS, PAM_END - PAM_BIOS, mode);
        else
            piece_show(s, PAM_START + (i - 1) * 0x4000, 0x4000, mode);
        s->shown[i] = mode;
        changed = true;
    }
    if (changed)
        ram_commit(s->pci.dev.vm->ram);
}

static void i440fx_written(struct pci_dev *p, u32 off, unsigned size)
{
    struct i440fx *s = container_of(p, struct i440fx, pci);
    u8 *c = s->r.pci.config;

    if (off <= PAM6 && off + size > PAM0)
        pam_update(s);
    if (off <= SMRAM && off + size > SMRAM && c[SMRAM] & SMRAM_LOCK) {
        c[SMRAM] &= ~SMRAM_OPEN;
        p->wmask[SMRAM] = 0; /* until reset */
    }
}

static bool i440fx_init(struct dev *d, GError **error)
{
    struct i440fx *s = container_of(d, struct i440fx, pci.dev);
    u8 *c = s->r.pci.config, *wm = s->pci.wmask;

    if (!pci_init(&s->pci, error))
        return false;
    if (!s->ram || s->ram->size < PAM_END)
        return fail(error, ERR_ARGUMENT, "i440fx: it needs at least 1 MiB of RAM");
    pci_put16(c, PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_MASTER);
    pci_put16(wm, PCI_COMMAND, 0x0140);
    pci_put16(c, PCI_STATUS, 0x0280);
    memset(wm + PAM0, 0x77, PAM6 - PAM0 + 1);
    wm[PAM0] = 0x70;
    memset(wm + 0x50, 0xff, PAM0 - 0x50); /* DRAM timing and the like: remembered */
    memset(wm + 0x60, 0xff, 8);           /* row boundaries */
    c[SMRAM] = 0x02;
    wm[SMRAM] = 0x78;
    memset(s->shown, 0xff, sizeof s->shown);
    return true;
}

static void i440fx_reset(struct dev *d)
{
    struct i440fx *s = container_of(d, struct i440fx, pci.dev);

    s->pci.wmask[SMRAM] = 0x78;
    pci_reset(&s->pci);
    pam_update(s);
}

static void i440fx_loaded(struct dev *d)
{
    struct i440fx *s = container_of(d, struct i440fx, pci.dev);

    s->pci.wmask[SMRAM] = 0x78;
    pci_loaded(&s->pci);
    i440fx_written(&s->pci, SMRAM, 1);
    pam_update(s);
}

static void i440fx_fini(struct dev *d)
{
    pci_fini(container_of(d, struct pci_dev, dev));
}

static const struct prop i440fx_props[] = {
    PROP(struct i440fx, ram, PROP_PTR, .name = "ram", .help = "RAM block from address 0"),
    PROP(struct i440fx, bios, PROP_PTR, .name = "bios", .help = "ROM block that ends at 1 MiB"),
    { 0 },
};

static const struct pci_type i440fx_pci = {
    .vendor = 0x8086,
    .device = 0x1237,
    .class = 0x060000,
    .revision = 2,
    .fixed = true,
    .regs = offsetof(struct i440fx, r.pci),
    .config_written = i440fx_written,
};

const struct dev_type i440fx_type = {
    .name = "i440FX",
    .desc = "Host bridge",
    .kind = DEV_PCI,
    .size = sizeof(struct i440fx),
    .props = i440fx_props,
    .state = STATE_TABLE(struct i440fx, r, i440fx_fields),
    .init = i440fx_init,
    .reset = i440fx_reset,
    .loaded = i440fx_loaded,
    .fini = i440fx_fini,
    .more = &i440fx_pci,
};

/* ---- the board's way to all of it ---- */

static bool place_and_realize(struct dev *d, struct pci_bus *b, int fn, GError **error)
{
    if (pci_place(d, b, fn, error) && dev_realize(d, error))
        return true;
    dev_free(d);
    return false;
}

struct pci_bus *i440fx_new(struct vm *vm, struct ram_block *ram, struct ram_block *bios,
                           GError **error)
{
    struct dev *host = dev_new(vm, &pci_host_type, "pci-host");

    if (!dev_realize(host, error))
        return dev_free(host), NULL;
    bus_map(vm->io, 0xcf8, pci_host_type.io[0], host, 0);
    bus_map(vm->io, 0xcfc, pci_host_type.io[1], host, 0);

    struct pci_bus *b = pci_host_bus(host);
    struct dev *d = dev_new(vm, &i440fx_type, "i440fx");
    if (!dev_set_ptr(d, "ram", ram, error) || !dev_set_ptr(d, "bios", bios, error))
        return dev_free(d), NULL;
    if (!place_and_realize(d, b, 0, error))
        return NULL;

    d = dev_new(vm, &piix3_type, "piix3");
    if (!place_and_realize(d, b, 1 * 8, error))
        return NULL;
    bus_map(vm->io, 0xcf9, piix3_type.io[0], d,
            1); /* over the address register's second byte */
    return b;
}
