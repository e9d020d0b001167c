// SPDX-License-Identifier: GPL-2.0-or-later
/* rng_test.c - the entropy device, and with it what all transports and queues do. */
#include "base/test.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

static const struct dev_type *type_of(enum vtest_way way)
{
    return way == VT_MMIO ? &virtio_rng_device_type : &virtio_rng_pci_type;
}

static void start(struct vtest *t, enum vtest_way way, u64 features)
{
    vtest_begin(t, type_of(way), way);
    vtest_realize(t);
    EXPECT(vt_start(t, features, 1, 8));
}

static void ask(struct vtest *t, u32 len)
{
    struct vtest_seg s[] = { { VT_DATA, len, true } };

    memset(vt_at(t, VT_DATA), 0, len + 16);
    u16 head = vt_add(t, 0, s, 1), got = 0xffff;
    vt_kick(t, 0);
    EXPECT_EQ(vt_wait(t, 0, &got), len);
    EXPECT_EQ(got, head);
}

static bool entropy(const u8 *p, u32 n)
{
    u32 zero = 0;

    for (u32 i = 0; i < n; i++)
        zero += !p[i];
    return zero < n / 8;
}

TEST(every_transport_gives_bytes)
{
    for (enum vtest_way way = VT_MODERN; way <= VT_MMIO; way++) {
        struct vtest t;

        start(&t, way, BIT(VIRTIO_F_RING_EVENT_IDX) | BIT(VIRTIO_F_RING_INDIRECT));
        for (unsigned i = 0; i < 20; i++) {
            t.q[0].indirect = i & 1;
            ask(&t, 1000 + i);
            EXPECT(entropy(vt_at(&t, VT_DATA), 1000 + i));
            EXPECT_EQ(*(u8 *)vt_at(&t, VT_DATA + 1000 + i), 0);
            /* say that the next one should interrupt */
            *(u16 *)vt_at(&t, t.q[0].avail + 4 + 2 * t.q[0].size) = t.q[0].seen;
        }
        if (way == VT_MMIO)
            EXPECT(t.gsi[5]);
        else
            EXPECT(t.msi[1] > 0);
        vtest_free(&t);
    }
}

TEST(interrupts_by_line)
{
    struct vtest t;

    vtest_begin(&t, &virtio_rng_pci_type, VT_MODERN);
    g_autoptr(GError) error = NULL;
    EXPECT(dev_set(t.dev, "vectors", "0", &error));
    vtest_realize(&t);
    pci_bus_route(t.bus, 3, 11); /* slot 4, pin A */
    EXPECT(vt_start(&t, 0, 1, 8));
    ask(&t, 16);
    for (unsigned i = 0; i < 1000 && !t.gsi[11]; i++)
        g_usleep(100);
    EXPECT(t.gsi[11]);
    EXPECT(vt_pci_read(&t, PCI_STATUS, 2) & PCI_STATUS_INTX);
    EXPECT_EQ(bus_read(t.vm->mem, t.bar4 + 0x1000, 1), VIRTIO_ISR_QUEUE);
    EXPECT(!t.gsi[11]);
    EXPECT_EQ(bus_read(t.vm->mem, t.bar4 + 0x1000, 1), 0);
    vtest_free(&t);
}

TEST(features_are_checked)
{
    struct vtest t;

    vtest_begin(&t, &virtio_rng_pci_type, VT_MODERN);
    vtest_realize(&t);
    EXPECT(vt_features(&t) & BIT(VIRTIO_F_VERSION_1));
    EXPECT(!vt_start(&t, BIT(5), 1, 8));
    EXPECT(vt_start(&t, BIT(VIRTIO_F_RING_EVENT_IDX), 1, 8));
    vtest_free(&t);
}

TEST(identity)
{
    struct vtest t;

    vtest_begin(&t, &virtio_rng_pci_type, VT_MODERN);
    g_autoptr(GError) error = NULL;
    EXPECT(dev_set(t.dev, "disable-legacy", "on", &error));
    vtest_realize(&t);
    EXPECT_EQ(vt_pci_read(&t, 0, 4), 0x10441af4);
    EXPECT_EQ(vt_pci_read(&t, PCI_REVISION, 1), 1);
    EXPECT_EQ(vt_pci_read(&t, PCI_BAR0, 4), 0);
    vtest_free(&t);

    vtest_begin(&t, &virtio_rng_pci_type, VT_LEGACY);
    vtest_realize(&t);
    EXPECT_EQ(vt_pci_read(&t, 0, 4), 0x10051af4);
    EXPECT_EQ(vt_pci_read(&t, PCI_REVISION, 1), 0);
    EXPECT_EQ(vt_pci_read(&t, PCI_SUBVENDOR, 4), 0x00041af4);
    vtest_free(&t);
}

/* Each of these must break the queue, and nothing else. */
static void broken(void (*spoil)(struct vtest *))
{
    for (unsigned indirect = 0; indirect < 2; indirect++) {
        struct vtest t;
        struct vtest_seg s[] = { { VT_DATA, 16, true } };

        start(&t, VT_MODERN, indirect ? BIT(VIRTIO_F_RING_INDIRECT) : 0);
        t.hold = true;
        vt_add(&t, 0, s, 1);
        spoil(&t);
        vt_publish(&t, 0);
        t.hold = false;
        vt_kick(&t, 0);
        for (unsigned i = 0; i < 5000 && !(vt_status(&t) & VIRTIO_S_NEEDS_RESET); i++)
            g_usleep(200);
        EXPECT(vt_status(&t) & VIRTIO_S_NEEDS_RESET);
        vt_kick(&t, 0);
        EXPECT(vt_start(&t, 0, 1, 8)); /* and a reset helps */
        ask(&t, 64);
        vtest_free(&t);
    }
}

static void spoil_cycle(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 16, 1 | 2, 0);
}
static void spoil_range(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_RAM - 8, 16, 2, 0);
}
static void spoil_wrap(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, UINT64_MAX - 7, 16, 2, 0);
}
static void spoil_giant(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, 0, UINT32_MAX, 2, 0);
}
static void spoil_next(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 16, 1 | 2, 8);
}
static void spoil_order(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 16, 1 | 2, 1);
    vt_desc(t, t->q[0].desc, 1, VT_DATA, 16, 0, 0);
}
static void spoil_head(struct vtest *t)
{
    ((u16 *)vt_at(t, t->q[0].avail))[2] = 8;
}
static void spoil_index(struct vtest *t)
{
    t->q[0].idx = 1000;
}
static void spoil_table(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 24, 4, 0);
}
static void spoil_table_where(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_RAM, 32, 4, 0);
}
static void spoil_table_twice(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 32, 4, 0);
    vt_desc(t, VT_DATA, 0, VT_DATA, 32, 4, 0);
}
static void spoil_table_cycle(struct vtest *t)
{
    vt_desc(t, t->q[0].desc, 0, VT_DATA, 32, 4, 0);
    vt_desc(t, VT_DATA, 0, VT_DATA, 16, 1, 1);
    vt_desc(t, VT_DATA, 1, VT_DATA, 16, 1, 0);
}

TEST(hostile_rings_break_the_queue)
{
    broken(spoil_cycle);
    broken(spoil_range);
    broken(spoil_wrap);
    broken(spoil_giant);
    broken(spoil_next);
    broken(spoil_order);
    broken(spoil_head);
    broken(spoil_index);
    broken(spoil_table);
    broken(spoil_table_where);
    broken(spoil_table_twice);
    broken(spoil_table_cycle);
}

TEST(rings_outside_of_ram)
{
    static const u64 where[] = { VT_RAM, UINT64_MAX - 15, UINT64_MAX - 4095, 0x123456789000 };

    for (unsigned i = 0; i < ARRAY_LEN(where); i++) {
        for (u32 reg = 0x20; reg <= 0x30; reg += 8) {
            struct vtest t;
            struct vtest_seg s[] = { { VT_DATA, 16, true } };

            start(&t, VT_MODERN, 0);
            struct virtio *v = virtio_of(t.dev);
            dev_lock(t.dev);
            *(u64 *)(void *)((u8 *)v->vq[0].r + (reg - 0x20)) = where[i];
            dev_unlock(t.dev);
            vt_add(&t, 0, s, 1);
            vt_kick(&t, 0);
            for (unsigned k = 0; k < 5000 && !(vt_status(&t) & VIRTIO_S_NEEDS_RESET); k++)
                g_usleep(200);
            EXPECT(vt_status(&t) & VIRTIO_S_NEEDS_RESET);
            vtest_free(&t);
        }
    }
}

TEST(configuration_window)
{
    struct vtest t;
    u8 cap;

    vtest_begin(&t, &virtio_rng_pci_type, VT_MODERN);
    vtest_realize(&t);
    for (cap = vt_pci_read(&t, PCI_CAP_PTR, 1); cap; cap = vt_pci_read(&t, cap + 1, 1))
        if (vt_pci_read(&t, cap, 1) == PCI_CAP_VENDOR && vt_pci_read(&t, cap + 3, 1) == 5)
            break;
    EXPECT(cap != 0);
    vt_pci_write(&t, cap + 4, 4, 1); /* BAR 4 */
    vt_pci_write(&t, cap + 8, 0x14, 4);
    vt_pci_write(&t, cap + 12, 1, 4);
    vt_pci_write(&t, cap + 16, 3, 1); /* status */
    EXPECT_EQ(vt_status(&t), 3);
    EXPECT_EQ(vt_pci_read(&t, cap + 16, 1), 3);
    vt_pci_write(&t, cap + 8, 0xfffffffc, 4); /* nowhere */
    vt_pci_write(&t, cap + 12, 4, 4);
    vt_pci_write(&t, cap + 16, 3, 4);
    vt_pci_read(&t, cap + 16, 4);
    vt_pci_write(&t, cap + 4, 0xff, 1);
    vt_pci_read(&t, cap + 16, 4);
    vtest_free(&t);
}

TEST(random_register_writes)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    for (enum vtest_way way = VT_MODERN; way <= VT_MMIO; way++) {
        struct vtest t;

        start(&t, way, 0);
        for (unsigned i = 0; i < 20000; i++) {
            u32 off = g_rand_int(rand), val = g_rand_int(rand);
            unsigned size = 1 << g_rand_int_range(rand, 0, 3);

            if (g_rand_int(rand) & 1)
                val &= 0xff;
            if (way == VT_MMIO) {
                bus_write(t.vm->mem, 0xfeb10000 + off % 0x200, val, size);
                bus_read(t.vm->mem, 0xfeb10000 + val % 0x200, size);
            } else if (way == VT_LEGACY) {
                bus_write(t.vm->io, t.bar0 + off % 64, val, size);
                bus_read(t.vm->io, t.bar0 + val % 64, size);
            } else if (i % 3) {
                bus_write(t.vm->mem, t.bar4 + off % 0x40, val, size);
                bus_read(t.vm->mem, t.bar4 + val % 0x4000, size);
            } else {
                vt_pci_write(&t, off % 256, val, size);
                vt_pci_read(&t, val % 256, size);
            }
        }
        vtest_free(&t);
    }
}
TEST_MAIN()
