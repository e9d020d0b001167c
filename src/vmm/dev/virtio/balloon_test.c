// SPDX-License-Identifier: GPL-2.0-or-later
/* balloon_test.c - pages that go, statistics, reports. */
#include "base/test.h"
#include "vmm/dev/virtio/balloon.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

enum { STATS = BIT(1), REPORTING = BIT(5), PAGES = 0x800000 };

static void begin(struct vtest *t, u64 features, unsigned queues)
{
    g_autoptr(GError) error = NULL;

    vtest_begin(t, &virtio_balloon_pci_type, VT_MODERN);
    EXPECT(dev_set(t->dev, "free-page-reporting", "on", &error));
    vtest_realize(t);
    EXPECT(vt_start(t, features, queues, 32));
}

TEST(inflates)
{
    struct vtest t;
    u32 *pfn;

    begin(&t, 0, 2);
    memset(vt_at(&t, PAGES), 0x77, 0x10000);
    pfn = vt_at(&t, VT_DATA);
    pfn[0] = PAGES >> 12;
    pfn[1] = (PAGES >> 12) + 1;
    pfn[2] = (PAGES >> 12) + 5;
    pfn[3] = 0xffffffff;
    pfn[4] = VT_RAM >> 12;
    struct vtest_seg s[] = { { VT_DATA, 21, false } };
    vt_add(&t, 0, s, 1);
    vt_kick(&t, 0);
    EXPECT_EQ(vt_wait(&t, 0, NULL), 0);
    EXPECT_EQ(*(u8 *)vt_at(&t, PAGES), 0);
    EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x1fff), 0);
    EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x2000), 0x77);
    EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x5000), 0);
    vt_add(&t, 1, s, 1);
    vt_kick(&t, 1);
    EXPECT_EQ(vt_wait(&t, 1, NULL), 0);
    vtest_free(&t);
}

TEST(target_and_actual)
{
    struct vtest t;

    begin(&t, 0, 2);
    EXPECT(balloon_find(t.vm) == t.dev);
    balloon_set(t.dev, VT_RAM - (1 << 20));
    EXPECT_EQ(vt_config(&t, 0, 4), 256);
    vt_config_write(&t, 4, 100, 4);
    EXPECT_EQ(balloon_actual(t.dev), VT_RAM - 100 * 4096);
    vt_config_write(&t, 0, 7, 4);
    EXPECT_EQ(vt_config(&t, 0, 4), 256);
    balloon_set(t.dev, UINT64_MAX);
    EXPECT_EQ(vt_config(&t, 0, 4), 0);
    vtest_free(&t);
}

TEST(statistics)
{
    struct vtest t;
    u64 stats[BALLOON_STATS];
    static const u8 bytes[] = { 4,    0,    0x39, 0x30, 0, 0, 0, 0, 0, 0,
                                0xff, 0xff, 1,    0,    0, 0, 0, 0, 0, 0 };
    struct vtest_seg s[] = { { VT_DATA, sizeof bytes, false } };

    begin(&t, STATS | BIT(VIRTIO_F_RING_EVENT_IDX), 3);
    memcpy(vt_at(&t, VT_DATA), bytes, sizeof bytes);
    for (unsigned i = 0; i < 3; i++) {
        vt_add(&t, 2, s, 1);
        vt_kick(&t, 2);
        for (unsigned k = 0; k < 5000 && !balloon_stats(t.dev, stats); k++)
            g_usleep(200);
        if (i) /* the one before came back */
            EXPECT_EQ(vt_wait(&t, 2, NULL), 0);
    }
    EXPECT(balloon_stats(t.dev, stats) > 0);
    EXPECT_EQ(stats[BALLOON_FREE], 12345);
    EXPECT_EQ(stats[BALLOON_TOTAL], UINT64_MAX);
    vtest_free(&t);
}

/* Without statistics the reports are queue 2, with them queue 3. */
TEST(reports)
{
    for (unsigned q = 2; q < 4; q++) {
        struct vtest t;
        struct vtest_seg s[] = { { PAGES, 0x4000, true }, { PAGES + 0x8000, 0x1000, true } };

        begin(&t, REPORTING | (q == 3 ? STATS : 0), q + 1);
        memset(vt_at(&t, PAGES), 0x77, 0x10000);
        vt_add(&t, q, s, 2);
        vt_kick(&t, q);
        EXPECT_EQ(vt_wait(&t, q, NULL), 0);
        EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x3fff), 0);
        EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x4000), 0x77);
        EXPECT_EQ(*(u8 *)vt_at(&t, PAGES + 0x8000), 0);
        vtest_free(&t);
    }
}
TEST_MAIN()
