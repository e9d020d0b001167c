// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus.c - one conventional PCI bus: who sits where, configuration mechanism 1, and the way of
 * the INTx pins through four PIRQ lines to the machine's GSIs.
 * PCI Local Bus 3.0, 3.2.2.3.2 (ports 0xcf8 and 0xcfc); swizzle as PC boards wire it: INTA of
 * slot 1 is PIRQA, of slot 2 PIRQB and so on.
 *
 * Lines are shared: each PIRQ counts its drivers, and a GSI is high while any PIRQ that is
 * routed to it is.  Counts and routes are under line_lock, between device and interrupt
 * controller.
 *
 * Not modelled: other buses behind bridges (reads as all ones), special cycles.
 */
#include "vmm/dev/pci/bus.h"

#include <inttypes.h>

#include "base/error.h"

enum { PIRQS = 4 };

struct pci_bus {
    struct vm *vm;
    struct pci_dev *fn[PCI_FNS];
    pthread_mutex_t line_lock;
    u32 drivers[PIRQS];
    int route[PIRQS]; /* GSI, or -1 */
    u32 high;         /* GSIs that we hold up */
};

struct pci_host {
    struct dev dev;
    struct pci_bus bus;
    struct pci_host_regs {
        u32 address;
    } r;
};

static const struct state_field pci_host_fields[] = {
    STATE_INT(struct pci_host_regs, address),
};

/* ---- interrupt lines ---- */

/* REQUIRES(line_lock) */
static void lines_update(struct pci_bus *b)
{
    u32 high = 0;

    for (unsigned i = 0; i < PIRQS; i++)
        if (b->drivers[i] && b->route[i] >= 0)
            high |= 1u << b->route[i];
    for (u32 change = high ^ b->high; change; change &= change - 1) {
        unsigned gsi = __builtin_ctz(change);

        irq_set(vm_gsi(b->vm, gsi), high & 1u << gsi);
    }
    b->high = high;
}

void pci_bus_line(struct pci_bus *b, u8 fn, u8 pin, bool level)
{
    unsigned pirq = ((pin - 1) + (fn / 8) - 1) & (PIRQS - 1);

    pthread_mutex_lock(&b->line_lock);
    b->drivers[pirq] += level ? 1 : -1;
    lines_update(b);
    pthread_mutex_unlock(&b->line_lock);
}

void pci_bus_route(struct pci_bus *b, unsigned pirq, int gsi)
{
    pthread_mutex_lock(&b->line_lock);
    b->route[pirq & (PIRQS - 1)] = gsi < VM_GSI_MAX ? gsi : -1;
    lines_update(b);
    pthread_mutex_unlock(&b->line_lock);
}

/* ---- who sits where ---- */

struct vm *pci_bus_vm(struct pci_bus *b)
{
    return b->vm;
}

struct pci_dev *pci_bus_dev(struct pci_bus *b, u8 fn)
{
    return b->fn[fn];
}

static bool addr_parse(const char *text, int *ret)
{
    char *end;
    u64 slot = g_ascii_strtoull(text, &end, 16), fn = 0;

    if (end == text)
        return false;
    if (*end == '.') {
        const char *dot = end + 1;
        fn = g_ascii_strtoull(dot, &end, 16);
        if (end == dot)
            return false;
    }
    if (*end || slot > 31 || fn > 7)
        return false;
    *ret = (int)(slot * 8 + fn);
    return true;
}

bool pci_place(struct dev *d, struct pci_bus *b, int fn, GError **error)
{
    struct pci_dev *p = pci_dev_of(d);
    struct pci_host *host = container_of(b, struct pci_host, bus);

    if (!p)
        return fail(error, ERR_ARGUMENT, "%s is not a PCI device", d->type->name);
    if (fn < 0 && p->addr && !addr_parse(p->addr, &fn))
        return fail(error, ERR_ARGUMENT,
                    "%s: addr=%s: expected slot or slot.function, up to 1f.7", d->type->name,
                    p->addr);
    for (int slot = 0; fn < 0 && slot < PCI_FNS / 8; slot++)
        if (!b->fn[slot * 8])
            fn = slot * 8;
    if (fn < 0)
        return fail(error, ERR_LIMIT, "%s: the PCI bus is full", d->type->name);
    if (fn >= PCI_FNS || b->fn[fn])
        return fail(error, ERR_BUSY, "%s: PCI slot %x.%x is taken by %s", d->type->name, fn / 8,
                    fn % 8, fn < PCI_FNS ? b->fn[fn]->dev.type->name : "nobody");
    if (fn % 8 && b->fn[fn & ~7] && !b->fn[fn & ~7]->multifunction)
        return fail(error, ERR_ARGUMENT,
                    "%s: PCI function %x.%x needs multifunction=on at %x.0", d->type->name,
                    fn / 8, fn % 8, fn / 8);
    dev_lock(&host->dev);
    b->fn[fn] = p;
    p->bus = b;
    p->fn = fn;
    dev_unlock(&host->dev);
    return true;
}

/* The function's lock is not held: it is on its way out and no vCPU can be inside. */
void pci_bus_remove(struct pci_dev *p)
{
    if (!p->bus)
        return;
    struct pci_host *host = container_of(p->bus, struct pci_host, bus);

    dev_lock(&host->dev);
    if (p->bus->fn[p->fn] == p)
        p->bus->fn[p->fn] = NULL;
    dev_unlock(&host->dev);
    p->bus = NULL;
}

void pci_unplace(struct dev *d)
{
    struct pci_dev *p = pci_dev_of(d);

    if (p)
        pci_bus_remove(p);
}

/* ---- configuration accesses ---- */

u32 pci_config_read(struct pci_bus *b, u8 fn, u32 off, unsigned size)
{
    struct pci_dev *p = b->fn[fn];
    u32 val = UINT32_MAX >> (32 - 8 * size);

    if (!p || !p->dev.realized)
        return val;
    dev_lock(&p->dev);
    val &= pci_dev_config_read(p, off, size);
    dev_unlock(&p->dev);
    return val;
}

void pci_config_write(struct pci_bus *b, u8 fn, u32 off, u32 val, unsigned size)
{
    struct pci_dev *p = b->fn[fn];

    if (!p || !p->dev.realized)
        return;
    dev_lock(&p->dev);
    pci_dev_config_write(p, off, val, size);
    dev_unlock(&p->dev);
}

/* CONFIG_ADDRESS takes dwords only: bytes at 0xcf9 belong to others. */
static u64 address_read(struct dev *d, u64 off, unsigned size)
{
    struct pci_host *h = container_of(d, struct pci_host, dev);

    return off == 0 && size == 4 ? h->r.address : UINT64_MAX;
}

static void address_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct pci_host *h = container_of(d, struct pci_host, dev);

    if (off == 0 && size == 4)
        h->r.address = val & 0x80fffffc;
}

static u64 data_read(struct dev *d, u64 off, unsigned size)
{
    struct pci_host *h = container_of(d, struct pci_host, dev);
    u32 a = h->r.address;

    if (!(a & 0x80000000) || a >> 16 & 0xff || off + size > 4)
        return UINT64_MAX;
    return pci_config_read(&h->bus, a >> 8 & 0xff, (a & 0xfc) + off, size);
}

static void data_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct pci_host *h = container_of(d, struct pci_host, dev);
    u32 a = h->r.address;

    if (a & 0x80000000 && !(a >> 16 & 0xff) && off + size <= 4)
        pci_config_write(&h->bus, a >> 8 & 0xff, (a & 0xfc) + off, (u32)val, size);
}

static const struct region address_port = { .name = "pci-config-address",
                                            .len = 4,
                                            .min = 1,
                                            .max = 4,
                                            .read = address_read,
                                            .write = address_write };
static const struct region data_port = { .name = "pci-config-data",
                                         .len = 4,
                                         .min = 1,
                                         .max = 4,
                                         .read = data_read,
                                         .write = data_write };

/* ---- the host's own life ---- */

struct pci_bus *pci_host_bus(struct dev *d)
{
    return &container_of(d, struct pci_host, dev)->bus;
}

static bool host_init(struct dev *d, GError **error UNUSED)
{
    struct pci_bus *b = pci_host_bus(d);

    b->vm = d->vm;
    pthread_mutex_init(&b->line_lock, NULL);
    for (unsigned i = 0; i < PIRQS; i++)
        b->route[i] = -1;
    return true;
}

static void host_reset(struct dev *d)
{
    container_of(d, struct pci_host, dev)->r.address = 0;
}

static void host_fini(struct dev *d)
{
    struct pci_bus *b = pci_host_bus(d);

    for (unsigned i = 0; i < PCI_FNS; i++)
        if (b->fn[i])
            b->fn[i]->bus = NULL; /* they may outlive us by a moment */
    pthread_mutex_destroy(&b->line_lock);
}

const struct dev_type pci_host_type = {
    .name = "pci-host",
    .desc = "PCI host bridge, configuration mechanism 1",
    .rank = DEV_RANK_BRIDGE,
    .size = sizeof(struct pci_host),
    .io = { &address_port, &data_port },
    .state = STATE_TABLE(struct pci_host, r, pci_host_fields),
    .init = host_init,
    .reset = host_reset,
    .fini = host_fini,
};

void pci_bus_print(struct pci_bus *b, GString *to)
{
    static const char *const kinds[] = { "I/O", "32 bit memory", "64 bit memory",
                                         "64 bit prefetchable memory" };

    for (unsigned fn = 0; fn < PCI_FNS; fn++) {
        struct pci_dev *p = b->fn[fn];

        if (!p || !p->r)
            continue;
        dev_lock(&p->dev);
        const u8 *c = p->r->config;
        g_string_append_printf(to, "  Bus  0, device %3u, function %u:\n", fn / 8, fn % 8);
        g_string_append_printf(to, "    %s: PCI device %04x:%04x\n", p->dev.type->desc,
                               pci_get16(c, PCI_VENDOR_ID), pci_get16(c, PCI_DEVICE_ID));
        if (c[PCI_INT_PIN])
            g_string_append_printf(to, "      IRQ %u, pin %c\n", c[PCI_INT_LINE],
                                   'A' + c[PCI_INT_PIN] - 1);
        for (unsigned i = 0; i < PCI_BARS; i++) {
            const struct pci_bar *bar = &p->bar[i];

            if (!bar->region.len)
                continue;
            g_string_append_printf(to, "      BAR%u: %s at ", i, kinds[bar->kind]);
            if (bar->at == PCI_UNMAPPED)
                g_string_append(to, "nowhere\n");
            else
                g_string_append_printf(to, "0x%" PRIx64 " [0x%" PRIx64 "].\n", bar->at,
                                       bar->at + bar->region.len - 1);
        }
        g_string_append_printf(to, "      id \"%s\"\n", p->dev.id ? p->dev.id : "");
        dev_unlock(&p->dev);
    }
}
