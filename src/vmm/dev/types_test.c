// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * types_test.c - what every device type has to stand, without knowing what it is.
 *
 * Its table covers each byte of its registers; save, load, save gives the same bytes; each
 * bounded field refuses what is above its bound; mangled streams are refused or loaded, and
 * what was loaded can be used, saved and reset; random guest accesses do no harm.  Of types
 * that need more of a board than a PCI bus, a SCSI bus, a disk and a netdev, only the tables
 * are looked at.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"
#include "image/image.h"
#include "net/net.h"
#include "vmm/core/bench.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/types.h"

enum { PORT = 0x1000, NOISE_ROUNDS = 300, ACCESSES = 3000 };

TEST(every_type_is_described)
{
    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        g_autofree char *why = NULL;
        bool ok = !t->state.size || state_check_table(&t->state, &why);

        if (!ok)
            printf("# %s: %s\n", t->name, why);
        EXPECT(ok);
        EXPECT(t->name && t->name[0]);
        EXPECT(t->size >= sizeof(struct dev));
        EXPECT(t->state.offset + t->state.size <= t->size);
        EXPECT(!t->state.size || t->state.offset >= sizeof(struct dev));
        EXPECT(t->irqs <= DEV_IRQS_MAX);
        EXPECT(dev_type_find(t->name) == t); /* names are unique */
        for (const struct prop *p = t->props; p && p->name; p++) {
            EXPECT(p->offset >= sizeof(struct dev) && p->offset < t->size);
            EXPECT(dev_prop_find(t, p->name) == p);
            EXPECT(p->kind != PROP_PTR || !p->def);
        }
        for (u32 k = 0; k < ARRAY_LEN(t->io) + ARRAY_LEN(t->mem); k++) {
            const struct region *r =
                k < ARRAY_LEN(t->io) ? t->io[k] : t->mem[k - ARRAY_LEN(t->io)];
            if (!r)
                continue;
            EXPECT(r->name && r->len);
            EXPECT(r->min && r->min <= r->max && r->max <= 8);
            EXPECT(!(r->min & (r->min - 1)) && !(r->max & (r->max - 1)));
            EXPECT_EQ(r->len % r->min, 0);
        }
    }
}

/* A device with what little of a board it asks for. */
struct rig {
    struct bench b;
    struct pci_dev *pci; /* NULL: not on a PCI bus */
    struct image *image;
    struct net *net;
};

static void rig_free(struct rig *r)
{
    if (!r->b.dev->realized)
        dev_free(r->b.dev);
    r->b.dev = NULL;
    vm_free_devs(r->b.vm);
    drive_free_all(r->b.vm); /* after the devices, before the vm */
    bench_free(&r->b);
    image_close(r->image);
    net_free(r->net);
    *r = (struct rig){ 0 };
}

static struct image *some_disk(void)
{
    g_autofree char *path = NULL;
    struct image_options o = { .format = "raw" };
    int fd = g_file_open_tmp("posada-types-XXXXXX", &path, NULL);

    EXPECT_EQ(ftruncate(fd, 1 << 20), 0);
    struct image *image = image_open(path, &o, NULL);
    close(fd);
    unlink(path);
    return image;
}

static void outfit(struct rig *r)
{
    struct dev *d = r->b.dev;

    for (const struct prop *p = d->type->props; p && p->name; p++) {
        void *what = NULL;

        if (p->kind == PROP_STR && !strcmp(p->name, "serial"))
            EXPECT(dev_set(d, "serial", "S-1", NULL));
        if (p->kind != PROP_PTR)
            continue;
        if (!g_strcmp0(p->link, "medium"))
            what = drive_new(r->b.vm, "drive", some_disk(), false);
        else if (!strcmp(p->name, "drive"))
            what = r->image = some_disk();
        else if (!strcmp(p->name, "netdev"))
            what = r->net = net_new("none,id=n0", NULL);
        else if (!strcmp(p->name, "ram"))
            what = ram_block_at(r->b.vm->ram, 0);
        else if (!strcmp(p->name, "bios"))
            what = ram_block_new(r->b.vm->ram, "bios", 256 * KiB, NULL);
        if (what)
            EXPECT(dev_set_ptr(d, p->name, what, NULL));
    }
}

/* false when this type needs more of a board than there is here. */
static bool rig_make(const struct dev_type *t, struct rig *r, bool tell)
{
    g_autoptr(GError) error = NULL;
    bool ok = true;

    *r = (struct rig){ .b = bench_begin(t, PORT) };
    outfit(r);
    if (t->kind == DEV_PCI) {
        struct dev *host = dev_new(r->b.vm, &pci_host_type, "host");

        ok = dev_realize(host, &error) && pci_place(r->b.dev, pci_host_bus(host), -1, &error);
        r->pci = pci_dev_of(r->b.dev);
    }
    if (t->kind == DEV_SCSI) {
        struct dev *host = dev_new(r->b.vm, &virtio_scsi_device_type, "host");

        ok = dev_realize(host, &error) && scsi_place(r->b.dev, NULL, &error);
    }
    if (ok && bench_realize(&r->b, &error))
        return true;
    if (tell)
        printf("# %s needs its board: %s\n", t->name, error->message);
    rig_free(r);
    return false;
}

static int load_raw(struct bench *b, const u8 *regs)
{
    struct state_table t = b->dev->type->state;
    g_autoptr(GByteArray) s = g_byte_array_new();

    t.offset = 0;
    state_save(&t, regs, s);
    return bench_load_bytes(b, s->data, s->len);
}

static u64 type_max(u32 size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

static u32 exceed(struct bench *b, const struct state_field *fields, u32 n, u8 *regs, u32 base)
{
    u32 tried = 0;

    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];

        for (u32 k = 0; k < f->count; k++) {
            u32 at = base + f->offset + k * f->size;

            if (f->kind == STATE_K_STRUCT)
                tried += exceed(b, f->sub, f->n_sub, regs, at);
            if (f->kind != STATE_K_UINT || f->max >= type_max(f->size))
                continue;
            u64 old = 0, bad = f->max + 1; /* little-endian hosts only, as the whole */
            memcpy(&old, regs + at, f->size);
            memcpy(regs + at, &bad, f->size);
            bool refused = load_raw(b, regs) == -EBADMSG;
            if (!refused)
                printf("# %s: field '%s' takes %#llx\n", b->dev->type->name, f->name,
                       (unsigned long long)bad);
            EXPECT(refused);
            memcpy(regs + at, &old, f->size);
            tried++;
        }
    }
    return tried;
}

TEST(every_type_bounds_its_fields)
{
    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        struct rig r;

        if (!t->state.size || !rig_make(t, &r, true))
            continue;
        g_autofree u8 *regs = g_memdup2((u8 *)r.b.dev + t->state.offset, t->state.size);

        EXPECT_EQ(load_raw(&r.b, regs), 0);
        u32 tried = exceed(&r.b, t->state.fields, t->state.n, regs, 0);
        printf("# %s: %u bounds\n", t->name, tried);
        rig_free(&r);
    }
}

/* --- what a guest may do, at random, to all that the device shows ---------------------------
 */

static u32 any_below(GRand *rand, u64 n)
{
    return n ? g_rand_int(rand) % (u32)MIN(n, UINT32_MAX) : 0;
}

/* Where a random access goes: *ret_at on the bus that is returned; NULL: nowhere. */
static struct bus *aim(struct rig *r, GRand *rand, u64 *ret_at)
{
    const struct dev_type *t = r->b.dev->type;
    u32 k = any_below(rand, 8);

    if (r->pci) {
        const struct pci_bar *bar = &r->pci->bar[k % PCI_BARS];

        if (!bar->region.len || bar->at == PCI_UNMAPPED)
            return NULL;
        *ret_at = bar->at + any_below(rand, bar->region.len);
        return bar->kind == PCI_BAR_IO ? r->b.vm->io : r->b.vm->mem;
    }
    if (k % 2 && t->mem[k / 2 % ARRAY_LEN(t->mem)]) {
        k = k / 2 % ARRAY_LEN(t->mem);
        *ret_at = BENCH_MEM + k * MiB + any_below(rand, MIN(t->mem[k]->len, MiB));
        return r->b.vm->mem;
    }
    u64 ports = 0;
    for (k = 0; k < ARRAY_LEN(t->io) && t->io[k]; k++)
        ports += t->io[k]->len;
    *ret_at = PORT + any_below(rand, ports);
    return ports ? r->b.vm->io : NULL;
}

static void poke_config(struct rig *r, GRand *rand, u64 val)
{
    u32 size = 1u << any_below(rand, 3), off = any_below(rand, 256) & ~(size - 1);

    if (any_below(rand, 2))
        pci_config_read(r->pci->bus, r->pci->fn, off, size);
    else
        pci_config_write(r->pci->bus, r->pci->fn, off, (u32)val, size);
}

/* BARs in their places, decoding and bus mastering on. */
static void set_bars(struct rig *r)
{
    for (u32 i = 0; r->pci && i < PCI_ROM; i++) {
        const struct pci_bar *bar = &r->pci->bar[i];

        if (!bar->region.len)
            continue;
        pci_config_write(
            r->pci->bus, r->pci->fn, PCI_BAR0 + 4 * i,
            bar->kind == PCI_BAR_IO ? 0xc000 + i * 0x100 : 0xe0000000 + i * 0x100000, 4);
        if (bar->kind >= PCI_BAR_MEM64)
            pci_config_write(r->pci->bus, r->pci->fn, PCI_BAR0 + 4 * i + 4, 0, 4);
    }
    if (r->pci)
        pci_config_write(r->pci->bus, r->pci->fn, PCI_COMMAND,
                         PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 2);
}

static void poke(struct rig *r, GRand *rand, u32 n)
{
    set_bars(r);
    while (n--) {
        u64 val = (u64)g_rand_int(rand) << 32 | g_rand_int(rand), at = 0;
        unsigned size = 1u << any_below(rand, 4);

        if (any_below(rand, 3))
            val &= any_below(rand, 2) ? 0xff : 0xff000;
        if (r->pci && !any_below(rand, 16)) {
            poke_config(r, rand, val);
            if (any_below(rand, 2))
                set_bars(r);
        }
        struct bus *bus = aim(r, rand, &at);
        if (!bus)
            continue;
        if (bus == r->b.vm->io)
            size = MIN(size, 4);
        if (any_below(rand, 2))
            bus_read(bus, at, size);
        else
            bus_write(bus, at, val, size);
        if (n % 16 == 0)
            bench_step(&r->b, 10 * NS_PER_US);
        if (n % 64 == 0) /* descriptors, tables: whatever it reads by itself */
            EXPECT(ram_put(r->b.vm->ram, any_below(rand, BENCH_RAM - 8), &val, 8));
    }
    if (r->image)
        image_drain(r->image);
}

TEST(every_type_saves_what_it_loads)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(19);

    for (u32 i = 0; dev_types[i]; i++) {
        for (u32 pokes = 0; pokes <= 200; pokes += 50) {
            struct rig r;

            if (!rig_make(dev_types[i], &r, false))
                break;
            poke(&r, rand, pokes);
            g_autoptr(GByteArray) s = bench_save(&r.b);
            u64 now = vm_now(r.b.vm);
            rig_free(&r);

            EXPECT(rig_make(dev_types[i], &r, true));
            clock_set(r.b.vm, now);
            bool ok = bench_load_bytes(&r.b, s->data, s->len) == 0;
            g_autoptr(GByteArray) s2 = bench_save(&r.b);
            bool same = s->len == s2->len && (!s->len || !memcmp(s->data, s2->data, s->len));
            if (!ok || !same)
                printf("# %s: %s after %u accesses\n", dev_types[i]->name,
                       ok ? "saves other bytes than it loaded" : "does not load its own state",
                       pokes);
            EXPECT(ok && same);
            rig_free(&r);
        }
    }
}

TEST(every_type_stands_noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(20);

    for (u32 i = 0; dev_types[i]; i++) {
        const struct dev_type *t = dev_types[i];
        struct rig r;
        u32 loaded = 0;

        if (!rig_make(t, &r, false))
            continue;
        for (u32 pin = 0; t->irq_in && pin < 4; pin++)
            bench_irq_in(&r.b, pin, true);
        poke(&r, rand, ACCESSES);
        g_autoptr(GByteArray) used = bench_save(&r.b);
        EXPECT_EQ(bench_load_bytes(&r.b, used->data, used->len), 0);
        for (u32 n = 0; n < NOISE_ROUNDS && used->len; n++) {
            g_autofree u8 *copy = g_memdup2(used->data, used->len);

            for (u32 k = 1 + any_below(rand, 5); k--;)
                copy[any_below(rand, used->len)] = (u8)g_rand_int(rand);
            if (bench_load_bytes(&r.b, copy, used->len))
                continue;
            loaded++;
            poke(&r, rand, 20);
            g_autoptr(GByteArray) again = bench_save(&r.b);
            bool ok = bench_load_bytes(&r.b, again->data, again->len) == 0;
            if (!ok)
                printf("# %s does not load its own state\n", t->name);
            EXPECT(ok);
        }
        printf("# %s: %u of %u mangled states were loaded\n", t->name, loaded, NOISE_ROUNDS);
        dev_reset(r.b.dev);
        rig_free(&r);
    }
}
TEST_MAIN()
