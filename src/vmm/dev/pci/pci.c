// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci.c - a function's configuration space, BARs, capabilities and interrupts.
 * PCI Local Bus 3.0: chapter 6 (configuration), 6.7 (capabilities), 6.8 (MSI, MSI-X).
 *
 * Each byte of configuration space has a mask of what the guest may set and one of what writing
 * 1 clears.  After a write the BARs are compared with what is mapped, so whatever address the
 * guest writes, a BAR is mapped whole, within its space, below everything of the board - or
 * not.
 *
 * Not modelled: power management, 66 MHz and parity status, expansion bridges.
 */
#include "vmm/dev/pci/pci.h"

#include <string.h>

#include "base/error.h"
#include "vmm/dev/pci/bus.h"

enum { BAR_PRIORITY = -1, MSIX_PBA = 0x800, MSIX_BAR_LEN = 0x1000 };
enum { MSI_ENABLE = 0x0001, MSI_64 = 0x0080, MSI_MASKING = 0x0100 };
enum { MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000 };
/* Offsets in the MSI capability, 64-bit with masking. */
enum {
    MSI_CTRL = 2,
    MSI_ADDR = 4,
    MSI_DATA = 12,
    MSI_MASK = 16,
    MSI_PENDING = 20,
    MSI_LEN = 24
};
/* Offsets in an MSI-X table entry. */
enum { MSIX_ADDR = 0, MSIX_DATA = 8, MSIX_VECTOR_CTRL = 12 };

const struct state_field pci_fields[3] = {
    STATE_BYTES(struct pci_regs, config),
    STATE_BOOL(struct pci_regs, intx),
    STATE_PAD(struct pci_regs, zero),
};
const struct state_field pci_msix_fields[2] = {
    STATE_BYTES(struct pci_msix_regs, table),
    STATE_BYTES(struct pci_msix_regs, pending),
};

u16 pci_get16(const u8 *c, u32 off)
{
    return c[off] | c[off + 1] << 8;
}

u32 pci_get32(const u8 *c, u32 off)
{
    return pci_get16(c, off) | (u32)pci_get16(c, off + 2) << 16;
}

void pci_put16(u8 *c, u32 off, u16 val)
{
    c[off] = (u8)val;
    c[off + 1] = val >> 8;
}

void pci_put32(u8 *c, u32 off, u32 val)
{
    pci_put16(c, off, (u16)val);
    pci_put16(c, off + 2, val >> 16);
}

struct pci_dev *pci_dev_of(struct dev *d)
{
    return d->type->kind == DEV_PCI ? container_of(d, struct pci_dev, dev) : NULL;
}

bool pci_master(const struct pci_dev *p)
{
    return pci_get16(p->r->config, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

void pci_master_on(struct pci_dev *p)
{
    u8 *c = p->r->config;

    pci_put16(c, PCI_COMMAND, pci_get16(c, PCI_COMMAND) | PCI_COMMAND_MASTER);
}

/* ---- BARs ---- */

static u32 bar_reg(unsigned bar)
{
    return bar == PCI_ROM ? PCI_ROM_BAR : PCI_BAR0 + 4 * bar;
}

static bool bar_is_64(const struct pci_bar *b)
{
    return b->kind >= PCI_BAR_MEM64;
}

/* Where the guest wants it. Address 0 and the top of the space are what sizing leaves behind.
 */
static u64 bar_wanted(const struct pci_dev *p, unsigned i)
{
    const struct pci_bar *b = &p->bar[i];
    const u8 *c = p->r->config;
    u16 command = pci_get16(c, PCI_COMMAND);
    u64 at = pci_get32(c, bar_reg(i));

    if (!b->region.len)
        return PCI_UNMAPPED;
    if (bar_is_64(b))
        at |= (u64)pci_get32(c, bar_reg(i) + 4) << 32;
    if (!(command & (b->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEM)))
        return PCI_UNMAPPED;
    if (i == PCI_ROM && !(at & 1))
        return PCI_UNMAPPED;
    at &= ~(b->region.len - 1);
    if (at == 0)
        return PCI_UNMAPPED;
    if (b->kind == PCI_BAR_IO)
        return at + b->region.len <= 0x10000 ? at : PCI_UNMAPPED;
    if (!bar_is_64(b))
        return at + b->region.len < 4 * GiB ? at : PCI_UNMAPPED;
    return at < BIT(52) - b->region.len ? at : PCI_UNMAPPED;
}

static void bars_update(struct pci_dev *p)
{
    struct vm *vm = p->dev.vm;

    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *b = &p->bar[i];
        struct bus *bus = b->kind == PCI_BAR_IO ? vm->io : vm->mem;
        u64 from = b->at, to = bar_wanted(p, i);

        if (to == from)
            continue;
        if (b->map)
            bus_unmap(bus, b->map);
        b->map =
            to == PCI_UNMAPPED ? NULL : bus_map(bus, to, &b->region, &p->dev, BAR_PRIORITY);
        b->at = to;
        if (p->pt->bar_moved)
            p->pt->bar_moved(p, i, from, to);
    }
}

void pci_bar_add(struct pci_dev *p, unsigned i, enum pci_bar_kind kind, const struct region *r)
{
    struct pci_bar *b = &p->bar[i];
    u64 len = i == PCI_ROM ? 2048 : kind == PCI_BAR_IO ? 4 : 16;
    u32 reg = bar_reg(i), low = 0;

    while (len < r->len)
        len <<= 1;
    b->kind = kind;
    b->region = *r;
    b->region.len = len;
    if (kind == PCI_BAR_IO)
        low = 1;
    else if (bar_is_64(b))
        low = kind == PCI_BAR_MEM64_PREFETCH ? 0xc : 0x4;
    pci_put32(p->r->config, reg, low);
    pci_put32(p->wmask, reg, (u32) ~(len - 1) | (i == PCI_ROM));
    if (bar_is_64(b)) {
        pci_put32(p->r->config, reg + 4, 0);
        pci_put32(p->wmask, reg + 4, ~(len - 1) >> 32);
    }
    p->wmask[PCI_COMMAND] |= kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEM;
}

static u64 rom_read(struct dev *d, u64 off, unsigned size)
{
    struct pci_dev *p = container_of(d, struct pci_dev, dev);
    u64 val = 0;

    for (unsigned i = 0; i < size; i++)
        val |= (u64)(off + i < p->rom_len ? p->rom[off + i] : 0xff) << (8 * i);
    return val;
}

static void rom_write(struct dev *d UNUSED, u64 off UNUSED, u64 val UNUSED,
                      unsigned size UNUSED)
{
}

void pci_rom_add(struct pci_dev *p, const u8 *bytes, u32 len)
{
    struct region r = { .name = "rom",
                        .len = MIN(len, 16 * MiB),
                        .min = 1,
                        .max = 8,
                        .read = rom_read,
                        .write = rom_write };

    p->rom = g_memdup2(bytes, r.len);
    p->rom_len = r.len;
    pci_bar_add(p, PCI_ROM, PCI_BAR_MEM, &r);
}

/* ---- capabilities ---- */

u8 pci_cap_add(struct pci_dev *p, u8 id, u8 len)
{
    u8 at = ROUND_UP(p->cap_end, 4), *c = p->r->config;

    g_assert(at + len <= PCI_CONFIG_LEN);
    c[at] = id;
    c[at + 1] = c[PCI_CAP_PTR];
    c[PCI_CAP_PTR] = at;
    c[PCI_STATUS] |= PCI_STATUS_CAPS;
    p->cap_end = at + len;
    return at;
}

/* ---- INTx ---- */

bool pci_msi_on(const struct pci_dev *p)
{
    return p->msi && p->r->config[p->msi + MSI_CTRL] & MSI_ENABLE;
}

bool pci_msix_on(const struct pci_dev *p)
{
    return p->msix && pci_get16(p->r->config, p->msix + 2) & MSIX_ENABLE;
}

static void intx_update(struct pci_dev *p)
{
    u8 *c = p->r->config;
    bool off = pci_get16(c, PCI_COMMAND) & PCI_COMMAND_INTX_OFF;
    bool out = p->r->intx && !off && !pci_msi_on(p) && !pci_msix_on(p);

    c[PCI_STATUS] = (c[PCI_STATUS] & ~PCI_STATUS_INTX) | (p->r->intx ? PCI_STATUS_INTX : 0);
    if (out == p->intx_out || !p->bus || !c[PCI_INT_PIN])
        return;
    p->intx_out = out;
    pci_bus_line(p->bus, p->fn, c[PCI_INT_PIN], out);
}

void pci_intx_set(struct pci_dev *p, bool level)
{
    p->r->intx = level;
    intx_update(p);
}

/* ---- MSI ---- */

void pci_msi_add(struct pci_dev *p, unsigned vectors)
{
    u8 at = pci_cap_add(p, PCI_CAP_MSI, MSI_LEN), log2 = 0;

    while (1u << log2 < vectors && log2 < 5)
        log2++;
    p->msi = at;
    pci_put16(p->r->config, at + MSI_CTRL, MSI_64 | MSI_MASKING | log2 << 1);
    pci_put16(p->wmask, at + MSI_CTRL, 0x0070 | MSI_ENABLE);
    pci_put32(p->wmask, at + MSI_ADDR, ~3u);
    pci_put32(p->wmask, at + MSI_ADDR + 4, ~0u);
    pci_put16(p->wmask, at + MSI_DATA, 0xffff);
    pci_put32(p->wmask, at + MSI_MASK, log2 == 5 ? ~0u : (1u << (1u << log2)) - 1);
}

static unsigned msi_vectors(const struct pci_dev *p)
{
    u16 ctrl = pci_get16(p->r->config, p->msi + MSI_CTRL);

    return 1u << MIN(ctrl >> 4 & 7, ctrl >> 1 & 7);
}

void pci_msi_fire(struct pci_dev *p, unsigned vector)
{
    u8 *c = p->r->config, at = p->msi;

    if (!pci_msi_on(p))
        return;
    unsigned n = msi_vectors(p);
    vector &= n - 1;
    u32 bit = 1u << vector, pending = pci_get32(c, at + MSI_PENDING);

    if (pci_get32(c, at + MSI_MASK) & bit) {
        pci_put32(c, at + MSI_PENDING, pending | bit);
        return;
    }
    pci_put32(c, at + MSI_PENDING, pending & ~bit);
    if (pci_master(p))
        vm_msi(p->dev.vm,
               pci_get32(c, at + MSI_ADDR) | (u64)pci_get32(c, at + MSI_ADDR + 4) << 32,
               (pci_get16(c, at + MSI_DATA) & ~(n - 1)) | vector);
}

static void msi_update(struct pci_dev *p)
{
    u32 due = pci_get32(p->r->config, p->msi + MSI_PENDING) &
              ~pci_get32(p->r->config, p->msi + MSI_MASK);

    for (unsigned i = 0; i < 32 && pci_msi_on(p); i++)
        if (due & 1u << i)
            pci_msi_fire(p, i);
}

/* ---- MSI-X ---- */

static bool msix_masked(const struct pci_dev *p, unsigned v)
{
    return pci_get16(p->r->config, p->msix + 2) & MSIX_MASK_ALL ||
           p->mx->table[v * 16 + MSIX_VECTOR_CTRL] & 1;
}

void pci_msix_fire(struct pci_dev *p, unsigned v)
{
    if (!pci_msix_on(p) || v >= p->vectors)
        return;
    if (msix_masked(p, v)) {
        p->mx->pending[v / 8] |= 1 << v % 8;
        return;
    }
    const u8 *e = &p->mx->table[v * 16];
    p->mx->pending[v / 8] &= ~(1 << v % 8);
    if (pci_master(p))
        vm_msi(p->dev.vm, pci_get32(e, MSIX_ADDR) | (u64)pci_get32(e, MSIX_ADDR + 4) << 32,
               pci_get32(e, MSIX_DATA));
}

static void msix_update(struct pci_dev *p)
{
    if (!pci_msix_on(p))
        return;
    for (unsigned v = 0; v < p->vectors; v++)
        if (p->mx->pending[v / 8] & 1 << v % 8 && !msix_masked(p, v))
            pci_msix_fire(p, v);
}

static u64 msix_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct pci_dev *p = container_of(d, struct pci_dev, dev);

    if (off + 4 <= p->vectors * 16u)
        return pci_get32(p->mx->table, off);
    if (off >= MSIX_PBA && off + 4 <= MSIX_PBA + sizeof p->mx->pending)
        return pci_get32(p->mx->pending, off - MSIX_PBA);
    return 0;
}

static void msix_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct pci_dev *p = container_of(d, struct pci_dev, dev);

    if (off + 4 > p->vectors * 16u)
        return; /* the pending bits are read-only */
    if (off % 16 == MSIX_ADDR)
        val &= ~3u;
    else if (off % 16 == MSIX_VECTOR_CTRL)
        val &= 1;
    pci_put32(p->mx->table, off, (u32)val);
    unsigned v = off / 16;
    if (p->mx->pending[v / 8] & 1 << v % 8)
        pci_msix_fire(p, v);
}

static const struct region msix_region = { .name = "msix",
                                           .len = MSIX_BAR_LEN,
                                           .min = 4,
                                           .max = 4,
                                           .read = msix_read,
                                           .write = msix_write };

void pci_msix_add(struct pci_dev *p, unsigned bar, unsigned vectors)
{
    u8 at = pci_cap_add(p, PCI_CAP_MSIX, 12), *c = p->r->config;

    g_assert(p->mx && vectors && vectors <= PCI_MSIX_MAX);
    p->msix = at;
    p->vectors = vectors;
    pci_put16(c, at + 2, vectors - 1);
    pci_put16(p->wmask, at + 2, MSIX_ENABLE | MSIX_MASK_ALL);
    pci_put32(c, at + 4, bar);
    pci_put32(c, at + 8, MSIX_PBA | bar);
    pci_bar_add(p, bar, PCI_BAR_MEM, &msix_region);
}

/* ---- configuration space ---- */

static bool overlaps(u32 off, unsigned size, u32 at, u32 len)
{
    return off < at + len && at < off + size;
}

u32 pci_dev_config_read(struct pci_dev *p, u32 off, unsigned size)
{
    u32 val = 0;

    if (off + size > PCI_CONFIG_LEN)
        return UINT32_MAX;
    if (p->pt->config_read)
        p->pt->config_read(p, off, size);
    for (unsigned i = 0; i < size; i++)
        val |= (u32)p->r->config[off + i] << (8 * i);
    return val;
}

void pci_dev_config_write(struct pci_dev *p, u32 off, u32 val, unsigned size)
{
    u8 *c = p->r->config;

    if (off + size > PCI_CONFIG_LEN)
        return;
    for (unsigned i = 0; i < size; i++, val >>= 8) {
        u32 at = off + i;

        c[at] = (c[at] & ~p->wmask[at]) | (val & p->wmask[at]);
        c[at] &= ~(val & p->w1c[at]);
    }
    if (overlaps(off, size, PCI_COMMAND, 2) || overlaps(off, size, PCI_BAR0, 24) ||
        overlaps(off, size, PCI_ROM_BAR, 4))
        bars_update(p);
    if (p->msi && overlaps(off, size, p->msi, MSI_LEN))
        msi_update(p);
    if (p->msix && overlaps(off, size, p->msix, 4))
        msix_update(p);
    intx_update(p);
    if (p->pt->config_written)
        p->pt->config_written(p, off, size);
}

/* ---- life ---- */

bool pci_init(struct pci_dev *p, GError **error)
{
    const struct pci_type *t = p->dev.type->more;

    if (!p->bus)
        return fail(error, ERR_ARGUMENT, "%s: no PCI bus here to put it on", p->dev.type->name);
    p->pt = t;
    p->r = (void *)((u8 *)p + t->regs);
    p->mx = t->msix ? (void *)((u8 *)p + t->msix) : NULL;
    p->cap_end = 0x40;
    for (unsigned i = 0; i < PCI_BARS; i++)
        p->bar[i].at = PCI_UNMAPPED;

    u8 *c = p->r->config;
    pci_put16(c, PCI_VENDOR_ID, t->vendor);
    pci_put16(c, PCI_DEVICE_ID, t->device);
    c[PCI_REVISION] = t->revision;
    c[PCI_CLASS] = t->class & 0xff;
    c[PCI_CLASS + 1] = t->class >> 8 & 0xff;
    c[PCI_CLASS + 2] = t->class >> 16;
    c[PCI_HEADER_TYPE] = p->multifunction ? 0x80 : 0;
    pci_put16(c, PCI_SUBVENDOR, t->subvendor ? t->subvendor : 0x1af4);
    pci_put16(c, PCI_SUBDEVICE, t->subvendor ? t->subdevice : 0x1100);
    c[PCI_INT_PIN] = t->pin;

    pci_put16(p->wmask, PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    pci_put16(p->w1c, PCI_STATUS, 0xf900);
    p->wmask[0x0c] = 0xff; /* cache line size */
    p->wmask[PCI_INT_LINE] = 0xff;
    return true;
}

void pci_reset(struct pci_dev *p)
{
    if (!p->ready) { /* the first one, right after init */
        memcpy(p->base, p->r->config, sizeof p->base);
        p->ready = true;
    }
    memcpy(p->r->config, p->base, sizeof p->base);
    p->r->intx = false;
    if (p->mx) {
        memset(p->mx, 0, sizeof *p->mx);
        for (unsigned v = 0; v < p->vectors; v++)
            p->mx->table[v * 16 + MSIX_VECTOR_CTRL] = 1;
    }
    intx_update(p);
    bars_update(p);
}

/* What a stream says about read-only bits is not believed. */
void pci_loaded(struct pci_dev *p)
{
    u8 *c = p->r->config;
    u32 pending = p->msi ? pci_get32(c, p->msi + MSI_PENDING) : 0;

    for (u32 i = 0; i < PCI_CONFIG_LEN; i++) {
        u8 own = p->wmask[i] | p->w1c[i];
        c[i] = (c[i] & own) | (p->base[i] & ~own);
    }
    if (p->msi)
        pci_put32(c, p->msi + MSI_PENDING, pending & pci_get32(p->wmask, p->msi + MSI_MASK));
    for (unsigned v = 0; p->mx && v < PCI_MSIX_MAX; v++) {
        if (v < p->vectors) {
            p->mx->table[v * 16] &= ~3;
            pci_put32(p->mx->table, v * 16 + MSIX_VECTOR_CTRL,
                      p->mx->table[v * 16 + MSIX_VECTOR_CTRL] & 1);
        } else {
            memset(&p->mx->table[v * 16], 0, 16);
            p->mx->pending[v / 8] &= ~(1 << v % 8);
        }
    }
    intx_update(p);
    bars_update(p);
}

void pci_fini(struct pci_dev *p)
{
    if (p->r && p->r->intx)
        pci_intx_set(p, false);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *b = &p->bar[i];

        if (!b->map)
            continue;
        bus_unmap(b->kind == PCI_BAR_IO ? p->dev.vm->io : p->dev.vm->mem, b->map);
        b->map = NULL;
        u64 from = b->at;
        b->at = PCI_UNMAPPED;
        if (p->pt->bar_moved)
            p->pt->bar_moved(p, i, from, PCI_UNMAPPED);
    }
    pci_bus_remove(p);
    g_free((void *)p->rom);
    p->rom = NULL;
}
