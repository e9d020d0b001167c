// SPDX-License-Identifier: GPL-2.0-or-later
/* pci_test.c - the bus, BARs, interrupts, and the PC's two bridges. */
#include "base/error.h"
#include "base/test.h"
#include "vmm/dev/pci/i440fx.h"

/* ---- a device that counts its accesses ---- */

struct probe {
    struct pci_dev pci;
    u32 reads, writes;
    u64 moved_from, moved_to;
    struct probe_regs {
        struct pci_regs pci;
        struct pci_msix_regs msix;
    } r;
};
static const struct state_field probe_fields[] = {
    STATE_STRUCT(struct probe_regs, pci, pci_fields),
    STATE_STRUCT(struct probe_regs, msix, pci_msix_fields),
};

static u64 probe_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    container_of(d, struct probe, pci.dev)->reads++;
    return off;
}

static void probe_write(struct dev *d, u64 off UNUSED, u64 val UNUSED, unsigned size UNUSED)
{
    container_of(d, struct probe, pci.dev)->writes++;
}

static void probe_moved(struct pci_dev *p, unsigned bar, u64 from, u64 to)
{
    struct probe *s = container_of(p, struct probe, pci);

    if (bar == 1) {
        s->moved_from = from;
        s->moved_to = to;
    }
}

static const struct region ports = {
    .name = "p", .len = 24, .min = 1, .max = 4, .read = probe_read, .write = probe_write
};
static const struct region page = {
    .name = "m", .len = 0x2000, .min = 1, .max = 8, .read = probe_read, .write = probe_write
};

static bool probe_init(struct dev *d, GError **error)
{
    struct probe *s = container_of(d, struct probe, pci.dev);
    static const u8 rom[4096] = { 0x55, 0xaa, 8 };

    if (!pci_init(&s->pci, error))
        return false;
    pci_bar_add(&s->pci, 0, PCI_BAR_IO, &ports);
    pci_bar_add(&s->pci, 1, PCI_BAR_MEM, &page);
    pci_bar_add(&s->pci, 2, PCI_BAR_MEM64, &page);
    pci_msix_add(&s->pci, 4, 4);
    pci_msi_add(&s->pci, 4);
    pci_rom_add(&s->pci, rom, sizeof rom);
    return true;
}

static void probe_reset(struct dev *d)
{
    pci_reset(container_of(d, struct pci_dev, dev));
}

static void probe_loaded(struct dev *d)
{
    pci_loaded(container_of(d, struct pci_dev, dev));
}

static void probe_fini(struct dev *d)
{
    pci_fini(container_of(d, struct pci_dev, dev));
}

static const struct prop probe_props[] = { PCI_PROPS(struct probe, pci), { 0 } };
static const struct pci_type probe_pci = {
    .vendor = 0x1234,
    .device = 0x5678,
    .class = 0x020000,
    .pin = 1,
    .regs = offsetof(struct probe, r.pci),
    .msix = offsetof(struct probe, r.msix),
    .bar_moved = probe_moved,
};
static const struct dev_type probe_type = {
    .name = "probe",
    .desc = "Probe",
    .kind = DEV_PCI,
    .size = sizeof(struct probe),
    .props = probe_props,
    .state = STATE_TABLE(struct probe, r, probe_fields),
    .init = probe_init,
    .reset = probe_reset,
    .loaded = probe_loaded,
    .fini = probe_fini,
    .more = &probe_pci,
};

/* ---- a machine ---- */

struct machine {
    struct vm *vm;
    struct pci_bus *bus;
    struct ram_block *ram, *bios;
    struct probe *a, *b;
    bool gsi[VM_GSI_MAX];
    u32 msis;
    u64 msi_addr;
    u32 msi_data;
};

static void gsi_set(void *opaque, unsigned gsi, bool level)
{
    ((struct machine *)opaque)->gsi[gsi] = level;
}

static void msi(void *opaque, u64 addr, u32 data)
{
    struct machine *m = opaque;

    m->msis++;
    m->msi_addr = addr;
    m->msi_data = data;
}

static const struct intc_ops intc = { .gsi = gsi_set, .msi = msi };

static struct probe *probe_new(struct machine *m, const char *id, const char *addr)
{
    struct dev *d = dev_new(m->vm, &probe_type, id);
    g_autoptr(GError) error = NULL;

    if (addr && !dev_set(d, "addr", addr, &error))
        g_error("%s", error->message);
    if (!pci_place(d, m->bus, -1, &error) || !dev_realize(d, &error))
        g_error("%s", error->message);
    return container_of(d, struct probe, pci.dev);
}

static void machine_new(struct machine *m, bool bios)
{
    g_autoptr(GError) error = NULL;

    memset(m, 0, sizeof *m);
    m->vm = vm_new();
    m->vm->intc = &intc;
    m->vm->intc_opaque = m;
    m->ram = ram_block_new(m->vm->ram, "ram", 4 * MiB, &error);
    ram_map_at(m->vm->ram, 0, 4 * MiB, m->ram, 0, false);
    if (bios) {
        m->bios = ram_block_new(m->vm->ram, "bios", 256 * KiB, &error);
        memset(m->bios->host, 0xb1, 256 * KiB);
        ram_map_at(m->vm->ram, 4 * GiB - 256 * KiB, 256 * KiB, m->bios, 0, true);
    }
    m->bus = i440fx_new(m->vm, m->ram, m->bios, &error);
    if (!m->bus)
        g_error("%s", error->message);
    m->a = probe_new(m, "a", NULL);
    m->b = probe_new(m, "b", "6.0");
}

static u32 get(struct machine *m, u8 fn, u32 off, unsigned size)
{
    bus_write(m->vm->io, 0xcf8, 0x80000000 | fn << 8 | (off & 0xfc), 4);
    return (u32)bus_read(m->vm->io, 0xcfc + (off & 3), size);
}

static void put(struct machine *m, u8 fn, u32 off, u32 val, unsigned size)
{
    bus_write(m->vm->io, 0xcf8, 0x80000000 | fn << 8 | (off & 0xfc), 4);
    bus_write(m->vm->io, 0xcfc + (off & 3), val, size);
}

enum { A = 2 * 8, B = 6 * 8 };

TEST(who_sits_where)
{
    struct machine m;

    machine_new(&m, false);
    EXPECT_EQ(get(&m, 0, 0, 4), 0x12378086);
    EXPECT_EQ(get(&m, 0, PCI_SUBVENDOR, 4), 0x11001af4);
    EXPECT_EQ(get(&m, 8, 0, 4), 0x70008086);
    EXPECT_EQ(get(&m, 8, PCI_HEADER_TYPE, 1), 0x80);
    EXPECT_EQ(get(&m, A, 0, 4), 0x56781234);
    EXPECT_EQ(get(&m, A, 2, 2), 0x5678);
    EXPECT_EQ(get(&m, B, 0, 2), 0x1234);
    EXPECT_EQ(get(&m, 7 * 8, 0, 4), 0xffffffff);
    EXPECT_EQ(get(&m, 9, 0, 2), 0xffff);
    put(&m, A, 0, 0, 4); /* read-only */
    EXPECT_EQ(get(&m, A, 0, 4), 0x56781234);
    EXPECT_EQ(get(&m, A, PCI_STATUS, 2) & PCI_STATUS_CAPS, PCI_STATUS_CAPS);
    bus_write(m.vm->io, 0xcf8, 0x80010000, 4); /* another bus */
    EXPECT_EQ(bus_read(m.vm->io, 0xcfc, 4), 0xffffffff);
    bus_write(m.vm->io, 0xcf8, 0, 4);
    EXPECT_EQ(bus_read(m.vm->io, 0xcfc, 4), 0xffffffff);

    struct dev *d = dev_new(m.vm, &probe_type, "c");
    g_autoptr(GError) error = NULL;
    EXPECT(dev_set(d, "addr", "6", &error));
    EXPECT(!pci_place(d, m.bus, -1, &error));
    g_clear_error(&error);
    EXPECT(dev_set(d, "addr", "6.1", &error));
    EXPECT(!pci_place(d, m.bus, -1, &error)); /* 6.0 is no multifunction device */
    g_clear_error(&error);
    EXPECT(dev_set(d, "addr", "20", &error));
    EXPECT(!pci_place(d, m.bus, -1, &error));
    dev_free(d);
    vm_free(m.vm);
}

TEST(bars)
{
    struct machine m;

    machine_new(&m, false);
    put(&m, A, PCI_BAR0, ~0u, 4);
    EXPECT_EQ(get(&m, A, PCI_BAR0, 4), 0xffffffe1);
    put(&m, A, PCI_BAR0 + 4, ~0u, 4);
    EXPECT_EQ(get(&m, A, PCI_BAR0 + 4, 4), 0xffffe000);
    put(&m, A, PCI_BAR0 + 8, ~0u, 4);
    put(&m, A, PCI_BAR0 + 12, ~0u, 4);
    EXPECT_EQ(get(&m, A, PCI_BAR0 + 8, 4), 0xffffe004);
    EXPECT_EQ(get(&m, A, PCI_BAR0 + 12, 4), 0xffffffff);
    put(&m, A, PCI_ROM_BAR, 0xfffff800, 4);
    EXPECT_EQ(get(&m, A, PCI_ROM_BAR, 4), 0xfffff000);

    put(&m, A, PCI_BAR0, 0xc000, 4);
    put(&m, A, PCI_BAR0 + 4, 0xfe000000, 4);
    put(&m, A, PCI_BAR0 + 8, 0x10000000, 4);
    put(&m, A, PCI_BAR0 + 12, 0x12, 4);
    EXPECT(!bus_has(m.vm->io, 0xc000));
    put(&m, A, PCI_COMMAND, 3, 2);
    EXPECT(bus_has(m.vm->io, 0xc000) && bus_has(m.vm->io, 0xc01f) &&
           !bus_has(m.vm->io, 0xc020));
    EXPECT(bus_has(m.vm->mem, 0xfe000000) && bus_has(m.vm->mem, 0x1210001fff));
    EXPECT_EQ(m.a->moved_to, 0xfe000000);
    EXPECT_EQ(bus_read(m.vm->io, 0xc004, 1), 4);
    EXPECT_EQ(m.a->reads, 1);
    put(&m, A, PCI_BAR0 + 4, 0xfd000000, 4);
    EXPECT_EQ(m.a->moved_from, 0xfe000000);
    EXPECT(!bus_has(m.vm->mem, 0xfe000000) && bus_has(m.vm->mem, 0xfd000000));
    put(&m, A, PCI_ROM_BAR, 0xfc000001, 4);
    EXPECT_EQ(bus_read(m.vm->mem, 0xfc000000, 2), 0xaa55);
    put(&m, A, PCI_ROM_BAR, 0xfc000000, 4);
    EXPECT(!bus_has(m.vm->mem, 0xfc000000));
    dev_reset(&m.a->pci.dev);
    EXPECT(!bus_has(m.vm->io, 0xc000) && !bus_has(m.vm->mem, 0xfd000000));
    EXPECT_EQ(get(&m, A, PCI_BAR0, 4), 1);
    vm_free(m.vm);
}

TEST(hostile_bars)
{
    struct machine m;
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);

    machine_new(&m, false);
    put(&m, A, PCI_COMMAND, 7, 2);
    put(&m, B, PCI_COMMAND, 7, 2);
    for (unsigned i = 0; i < 20000; i++) {
        static const u32 nasty[] = { 0,          ~0u,        0xcf8,      0xcfc, 0xfee00000,
                                     0xfec00000, 0xffff0000, 0x80000000, 0xfff };
        u32 val = i % 2 ? nasty[g_rand_int(rand) % ARRAY_LEN(nasty)] : g_rand_int(rand);
        u32 off = i % 3 ? PCI_BAR0 + g_rand_int(rand) % 32 : g_rand_int(rand) % 256;

        put(&m, i & 4 ? A : B, off, val, 1 << g_rand_int_range(rand, 0, 3));
        EXPECT(get(&m, A, 0, 4) == 0x56781234); /* the ports cannot be stolen */
    }
    vm_free(m.vm);
}

TEST(lines_are_shared_and_routed)
{
    struct machine m;

    machine_new(&m, false); /* A: slot 2, PIRQB; B: slot 6, PIRQB */
    put(&m, 8, 0x61, 10, 1);
    pci_intx_set(&m.a->pci, true);
    EXPECT(m.gsi[10]);
    pci_intx_set(&m.b->pci, true);
    pci_intx_set(&m.a->pci, false);
    EXPECT(m.gsi[10]);
    put(&m, 8, 0x61, 11, 1); /* moves while high */
    EXPECT(!m.gsi[10] && m.gsi[11]);
    put(&m, B, PCI_COMMAND, PCI_COMMAND_INTX_OFF, 2);
    EXPECT(!m.gsi[11]);
    EXPECT(get(&m, B, PCI_STATUS, 2) & PCI_STATUS_INTX);
    put(&m, B, PCI_COMMAND, 0, 2);
    EXPECT(m.gsi[11]);
    put(&m, 8, 0x61, 0x80, 1);
    EXPECT(!m.gsi[11]);
    put(&m, 8, 0x61, 2, 1); /* reserved */
    EXPECT(!m.gsi[2]);
    put(&m, 8, 0x61, 5, 1);
    EXPECT(m.gsi[5]);
    dev_reset(&m.b->pci.dev);
    EXPECT(!m.gsi[5]);
    vm_free(m.vm);
}

TEST(msix_masks_and_remembers)
{
    struct machine m;
    u64 table = 0xfd100000;

    machine_new(&m, false);
    u8 cap = m.a->pci.msix;
    put(&m, A, PCI_BAR0 + 16, (u32)table, 4);
    put(&m, A, PCI_COMMAND, 6, 2);
    EXPECT_EQ(get(&m, A, cap + 2, 2), 3);
    EXPECT_EQ(bus_read(m.vm->mem, table + 12, 4), 1); /* masked after reset */
    bus_write(m.vm->mem, table + 16, 0xfee01004, 4);
    bus_write(m.vm->mem, table + 24, 0x4041, 4);
    pci_msix_fire(&m.a->pci, 1); /* off: nothing */
    put(&m, A, cap + 2, 0x8000, 2);
    pci_msix_fire(&m.a->pci, 1); /* masked: pending */
    EXPECT_EQ(m.msis, 0);
    EXPECT_EQ(bus_read(m.vm->mem, table + 0x800, 4), 2);
    bus_write(m.vm->mem, table + 28, 0, 4);
    EXPECT_EQ(m.msis, 1);
    EXPECT_EQ(m.msi_addr, 0xfee01004);
    EXPECT_EQ(m.msi_data, 0x4041);
    EXPECT_EQ(bus_read(m.vm->mem, table + 0x800, 4), 0);
    put(&m, A, cap + 2, 0xc000, 2);
    pci_msix_fire(&m.a->pci, 1);
    EXPECT_EQ(m.msis, 1);
    put(&m, A, cap + 2, 0x8000, 2);
    EXPECT_EQ(m.msis, 2);
    pci_msix_fire(&m.a->pci, 4);
    pci_msix_fire(&m.a->pci, 1000);
    EXPECT_EQ(m.msis, 2);
    /* an enabled MSI-X takes the place of the line */
    pci_bus_route(m.bus, 1, 9);
    pci_intx_set(&m.a->pci, true);
    EXPECT(!m.gsi[9]);
    vm_free(m.vm);
}

TEST(msi)
{
    struct machine m;

    machine_new(&m, false);
    u8 cap = m.a->pci.msi;
    put(&m, A, PCI_COMMAND, 4, 2);
    put(&m, A, cap + 4, 0xfee00003, 4);
    EXPECT_EQ(get(&m, A, cap + 4, 4), 0xfee00000);
    put(&m, A, cap + 12, 0x61, 2);
    put(&m, A, cap + 2, 0x21, 2); /* on, four vectors */
    pci_msi_fire(&m.a->pci, 2);
    EXPECT_EQ(m.msi_data, 0x62);
    put(&m, A, cap + 16, 8, 4);
    pci_msi_fire(&m.a->pci, 3);
    EXPECT_EQ(m.msis, 1);
    EXPECT_EQ(get(&m, A, cap + 20, 4), 8);
    put(&m, A, cap + 16, 0, 4);
    EXPECT_EQ(m.msis, 2);
    EXPECT_EQ(m.msi_data, 0x63);
    vm_free(m.vm);
}

TEST(pam_shadows_the_bios)
{
    struct machine m;
    u8 byte = 0;

    machine_new(&m, true);
    EXPECT(ram_get(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT_EQ(byte, 0xb1);
    EXPECT(!ram_put(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT(ram_get(m.vm->ram, 0xe0000, &byte, 1));
    EXPECT(!ram_get(m.vm->ram, 0xd0000, &byte, 1)); /* nothing there */
    put(&m, 0, 0x59, 0x33, 1);                      /* RAM at 0xf0000 */
    EXPECT_EQ(get(&m, 0, 0x59, 1), 0x30);
    byte = 0x77;
    EXPECT(ram_put(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT_EQ(m.ram->host[0xffff0], 0x77);
    put(&m, 0, 0x59, 0x10, 1); /* read-only RAM */
    byte = 0;
    EXPECT(!ram_put(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT(ram_get(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT_EQ(byte, 0x77);
    put(&m, 0, 0x5a, 0x30, 1); /* 0xc4000 */
    EXPECT(ram_put(m.vm->ram, 0xc4000, &byte, 1));
    EXPECT(!ram_put(m.vm->ram, 0xc3fff, &byte, 1));
    put(&m, 0, 0x5f, 0x33, 1); /* 0xe8000, 0xec000 */
    EXPECT(ram_put(m.vm->ram, 0xe8000, &byte, 1) && ram_put(m.vm->ram, 0xeffff, &byte, 1));
    EXPECT(!ram_put(m.vm->ram, 0xe7fff, &byte, 1));
    vm_reset(m.vm);
    EXPECT(ram_get(m.vm->ram, 0xffff0, &byte, 1));
    EXPECT_EQ(byte, 0xb1);
    put(&m, 0, 0x72, 0x5a, 1); /* SMRAM locked */
    put(&m, 0, 0x72, 0x02, 1);
    EXPECT_EQ(get(&m, 0, 0x72, 1), 0x1a);
    vm_free(m.vm);
}

TEST(reset_control)
{
    struct machine m;

    machine_new(&m, false);
    bus_write(m.vm->io, 0xcf9, 2, 1);
    EXPECT_EQ(bus_read(m.vm->io, 0xcf9, 1), 2);
    EXPECT(!(m.vm->requests & VM_REQ_RESET));
    bus_write(m.vm->io, 0xcf9, 6, 1);
    EXPECT(m.vm->requests & VM_REQ_RESET);
    EXPECT_EQ(get(&m, 0, 0, 4), 0x12378086); /* dwords at 0xcf8 still go to the bridge */
    vm_free(m.vm);
}

static u64 block_read(struct dev *d UNUSED, u64 off, unsigned size UNUSED)
{
    return off;
}
static const struct region block = {
    .name = "block", .len = 64, .min = 1, .max = 4, .read = block_read
};
static const struct dev_type block_type = { .name = "block",
                                            .size = sizeof(struct dev),
                                            .io = { &block } };

TEST(power_management_moves)
{
    struct machine m;
    g_autoptr(GError) error = NULL;

    machine_new(&m, false);
    struct dev *pm = dev_new(m.vm, &block_type, "pm");
    EXPECT(dev_realize(pm, &error) && piix4_pm_new(m.bus, pm, &error));
    EXPECT_EQ(get(&m, 11, 0, 4), 0x71138086);
    put(&m, 11, 0x40, 0x0601, 4);
    EXPECT_EQ(get(&m, 11, 0x40, 4), 0x0601);
    EXPECT(!bus_has(m.vm->io, 0x600));
    put(&m, 11, 0x80, 1, 1);
    EXPECT_EQ(bus_read(m.vm->io, 0x608, 1), 8);
    put(&m, 11, 0x40, 0xb01b, 4);
    EXPECT(!bus_has(m.vm->io, 0x608) && bus_has(m.vm->io, 0xb03f));
    vm_reset(m.vm);
    EXPECT(!bus_has(m.vm->io, 0xb000));
    vm_free(m.vm);
}

TEST(state_of_a_function)
{
    struct machine m;
    g_autoptr(GByteArray) s = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    struct dev *d;

    machine_new(&m, false);
    put(&m, A, PCI_BAR0, 0xc000, 4);
    put(&m, A, PCI_COMMAND, 7, 2);
    put(&m, 8, 0x61, 10, 1);
    pci_intx_set(&m.a->pci, true);
    d = &m.a->pci.dev;
    state_save(&d->type->state, d, s);
    dev_reset(d);
    EXPECT(!m.gsi[10]);
    EXPECT(state_load(&d->type->state, d, s->data, s->len, &error));
    m.a->r.pci.config[PCI_VENDOR_ID] = 0; /* a lie */
    m.a->r.msix.table[4 * 16] = 0xff;     /* no such vector */
    dev_lock(d);
    d->type->loaded(d);
    dev_unlock(d);
    EXPECT(m.gsi[10] && bus_has(m.vm->io, 0xc000));
    EXPECT_EQ(get(&m, A, 0, 4), 0x56781234);
    EXPECT_EQ(m.a->r.msix.table[4 * 16], 0);
    vm_free(m.vm);
}
TEST_MAIN()
