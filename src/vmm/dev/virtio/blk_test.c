// SPDX-License-Identifier: GPL-2.0-or-later
/* blk_test.c - the block device over a real image file. */
#include <stdlib.h>
#include <unistd.h>

#include "base/test.h"
#include "image/image.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

enum { DISK = 4 << 20, QSIZE = 64 };
enum { HDR = VT_DATA, STATUS = VT_DATA + 0x1000, BUF = VT_DATA + 0x10000 };

struct disk {
    char path[64];
    struct image *image;
};

static void disk_new(struct disk *d, bool read_only)
{
    g_autoptr(GError) error = NULL;

    strcpy(d->path, "/tmp/posada-blk-XXXXXX");
    int fd = mkstemp(d->path);
    if (fd < 0 || ftruncate(fd, DISK))
        g_error("%s", d->path);
    close(fd);
    d->image = image_open(
        d->path,
        &(struct image_options){ .format = "raw", .discard = true, .read_only = read_only },
        &error);
    if (!d->image)
        g_error("%s", error->message);
}

static void disk_free(struct disk *d)
{
    image_close(d->image);
    unlink(d->path);
}

static void begin(struct vtest *t, struct disk *d, enum vtest_way way, bool read_only)
{
    g_autoptr(GError) error = NULL;

    disk_new(d, read_only);
    vtest_begin(t, way == VT_MMIO ? &virtio_blk_device_type : &virtio_blk_pci_type, way);
    if (!dev_set_ptr(t->dev, "drive", d->image, &error) ||
        !dev_set(t->dev, "serial", "S-1234", &error))
        g_error("%s", error->message);
}

static void end(struct vtest *t, struct disk *d)
{
    vtest_free(t);
    disk_free(d);
}

/* Puts a request on the queue, data in `pieces` descriptors. */
static void put(struct vtest *t, u32 slot, u32 type, u64 sector, u32 len, bool in,
                unsigned pieces)
{
    struct vtest_seg s[12] = { { HDR + slot * 16, 16, false } };
    u8 *h = vt_at(t, HDR + slot * 16);
    unsigned n = 1;

    memset(h, 0, 16);
    memcpy(h, &type, 4);
    memcpy(h + 8, &sector, 8);
    for (unsigned i = 0; i < pieces && len; i++) {
        u32 part = i + 1 < pieces ? len / pieces : len - (pieces - 1) * (len / pieces);
        s[n++] = (struct vtest_seg){ BUF + slot * 0x10000 + i * (len / pieces), part, in };
    }
    *(u8 *)vt_at(t, STATUS + slot) = 0xee;
    s[n++] = (struct vtest_seg){ STATUS + slot, 1, true };
    vt_add(t, 0, s, n);
}

static u8 request(struct vtest *t, u32 type, u64 sector, u32 len, bool in, s64 *ret_len)
{
    put(t, 0, type, sector, len, in, 3);
    vt_kick(t, 0);
    s64 n = vt_wait(t, 0, NULL);
    if (ret_len)
        *ret_len = n;
    return n < 0 ? 0xff : *(u8 *)vt_at(t, STATUS);
}

static void segment(struct vtest *t, u64 sector, u32 n, u32 flags)
{
    u8 *p = vt_at(t, BUF);

    memcpy(p, &sector, 8);
    memcpy(p + 8, &n, 4);
    memcpy(p + 12, &flags, 4);
}

static const u64 features = BIT(VIRTIO_F_RING_INDIRECT) | BIT(9) | BIT(13) | BIT(14) | BIT(11);

TEST(reads_and_writes)
{
    for (enum vtest_way way = VT_MODERN; way <= VT_MMIO; way++) {
        for (unsigned indirect = 0; indirect < 2; indirect++) {
            struct vtest t;
            struct disk d;
            s64 n;

            begin(&t, &d, way, false);
            vtest_realize(&t);
            t.q[0].indirect = indirect;
            EXPECT(vt_start(&t, features, 1, QSIZE));
            EXPECT_EQ(vt_config(&t, 0, 4), DISK / 512);
            memset(vt_at(&t, BUF), 0x5a, 8192);
            EXPECT_EQ(request(&t, 1, 8, 8192, false, &n), 0);
            EXPECT_EQ(n, 1);
            memset(vt_at(&t, BUF), 0, 8192);
            EXPECT_EQ(request(&t, 0, 7, 8192, true, &n), 0);
            EXPECT_EQ(n, 8193);
            EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 511), 0);
            EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 512), 0x5a);
            EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 8191), 0x5a);
            EXPECT_EQ(request(&t, 4, 0, 0, false, &n), 0);
            EXPECT_EQ(request(&t, 8, 0, 20, true, &n), 0);
            EXPECT_STR((char *)vt_at(&t, BUF), "S-1234");
            EXPECT_EQ(request(&t, 77, 0, 512, true, &n), 2);
            end(&t, &d);
        }
    }
}

TEST(discards_and_zeroes)
{
    struct vtest t;
    struct disk d;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    EXPECT(vt_start(&t, features, 1, QSIZE));
    memset(vt_at(&t, BUF), 0x11, 8192);
    EXPECT_EQ(request(&t, 1, 0, 8192, false, NULL), 0);
    segment(&t, 4, 2, 0);
    EXPECT_EQ(request(&t, 13, 0, 16, false, NULL), 0);
    EXPECT_EQ(request(&t, 0, 0, 4096, true, NULL), 0);
    EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 2047), 0x11);
    EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 2048), 0);
    EXPECT_EQ(*(u8 *)vt_at(&t, BUF + 3072), 0x11);
    segment(&t, 8, 8, 0);
    EXPECT_EQ(request(&t, 11, 0, 16, false, NULL), 0);
    segment(&t, 8, 8, 2); /* unknown flag */
    EXPECT_EQ(request(&t, 11, 0, 16, false, NULL), 2);
    segment(&t, DISK / 512, 8, 0);
    EXPECT_EQ(request(&t, 11, 0, 16, false, NULL), 1);
    segment(&t, UINT64_MAX, UINT32_MAX, 0);
    EXPECT_EQ(request(&t, 13, 0, 16, false, NULL), 1);
    EXPECT_EQ(request(&t, 13, 0, 15, false, NULL), 1);
    end(&t, &d);
}

TEST(out_of_range)
{
    struct vtest t;
    struct disk d;
    s64 n;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    EXPECT(vt_start(&t, features, 1, QSIZE));
    EXPECT_EQ(request(&t, 0, DISK / 512 - 1, 512, true, &n), 0);
    EXPECT_EQ(request(&t, 0, DISK / 512 - 1, 1024, true, &n), 1);
    EXPECT_EQ(n, 1);
    EXPECT_EQ(request(&t, 0, DISK / 512, 512, true, &n), 1);
    EXPECT_EQ(request(&t, 0, UINT64_MAX, 512, true, &n), 1);
    EXPECT_EQ(request(&t, 0, 1ull << 55, 512, true, &n), 1);
    EXPECT_EQ(request(&t, 0, 0, 100, true, &n), 1);
    end(&t, &d);
}

TEST(read_only_disk)
{
    struct vtest t;
    struct disk d;

    begin(&t, &d, VT_MODERN, true);
    vtest_realize(&t);
    EXPECT(vt_features(&t) & BIT(5));
    EXPECT(!(vt_features(&t) & BIT(13)));
    EXPECT(vt_start(&t, BIT(5) | BIT(9), 1, QSIZE));
    EXPECT_EQ(request(&t, 1, 0, 512, false, NULL), 1);
    EXPECT_EQ(request(&t, 0, 0, 512, true, NULL), 0);
    end(&t, &d);
}

TEST(write_cache_bit)
{
    struct vtest t;
    struct disk d;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    EXPECT(vt_start(&t, features, 1, QSIZE));
    EXPECT_EQ(vt_config(&t, 32, 1), 1);
    vt_config_write(&t, 32, 0, 1);
    EXPECT_EQ(vt_config(&t, 32, 1), 0);
    EXPECT_EQ(request(&t, 1, 0, 512, false, NULL), 0);
    vt_config_write(&t, 0, 0, 4); /* capacity is read-only */
    EXPECT_EQ(vt_config(&t, 0, 4), DISK / 512);
    end(&t, &d);
}

TEST(many_at_once_and_reset_between)
{
    struct vtest t;
    struct disk d;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    for (unsigned round = 0; round < 30; round++) {
        EXPECT(vt_start(&t, features | BIT(VIRTIO_F_RING_EVENT_IDX), 1, QSIZE));
        for (unsigned i = 0; i < 20; i++)
            put(&t, i, i & 1, (u64)i * 16, 8192, !(i & 1), 1);
        vt_kick(&t, 0);
        if (round % 3 == 0) {
            vt_set_status(&t, 0); /* with requests under way */
            EXPECT_EQ(vt_status(&t), 0);
            continue;
        }
        for (unsigned i = 0; i < 20; i++)
            EXPECT(vt_wait(&t, 0, NULL) >= 1);
        for (unsigned i = 0; i < 20; i++)
            EXPECT_EQ(*(u8 *)vt_at(&t, STATUS + i), 0);
        if (round % 3 == 1)
            vm_reset(t.vm), vtest_program(&t);
    }
    end(&t, &d);
}

TEST(stop_leaves_nothing_under_way)
{
    struct vtest t;
    struct disk d;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    vm_cont(t.vm);
    EXPECT(vt_start(&t, features, 1, QSIZE));
    for (unsigned i = 0; i < 16; i++)
        put(&t, i, 1, (u64)i * 16, 8192, false, 1);
    vt_kick(&t, 0);
    vm_stop(t.vm, RUN_PAUSED);
    EXPECT_EQ(virtio_of(t.dev)->vq[0].in_flight, 0);
    u16 *used = vt_at(&t, t.q[0].used), before = used[1];
    g_usleep(20000);
    EXPECT_EQ(used[1], before);
    vm_cont(t.vm); /* what was not taken yet is taken now */
    for (unsigned i = 0; i < 16; i++)
        EXPECT(vt_wait(&t, 0, NULL) >= 1);
    end(&t, &d);
}

TEST(no_bus_mastering_no_dma)
{
    for (enum vtest_way way = VT_MODERN; way <= VT_LEGACY; way++) {
        struct vtest t;
        struct disk d;

        begin(&t, &d, way, false);
        vtest_realize(&t);
        EXPECT(vt_start(&t, features, 1, QSIZE));
        for (unsigned i = 0; i < 16; i++)
            put(&t, i, 0, (u64)i * 16, 8192, true, 1);
        vt_kick(&t, 0);
        vt_pci_write(&t, PCI_COMMAND, 3, 2);
        EXPECT_EQ(virtio_of(t.dev)->vq[0].in_flight, 0); /* what was under way has ended */
        u16 *used = vt_at(&t, t.q[0].used), before = used[1];
        memset(vt_at(&t, BUF), 0x77, 16 * 0x10000);
        vt_kick(&t, 0);
        g_usleep(20000);
        EXPECT_EQ(used[1], before);
        for (unsigned i = 0; i < 16 * 0x10000; i++)
            if (*(u8 *)vt_at(&t, BUF + i) != 0x77)
                EXPECT_EQ(i, 0);
        vt_pci_write(&t, PCI_COMMAND, 7, 2); /* what waited is taken without being rung for */
        for (unsigned i = 0; i < 16; i++)
            EXPECT(vt_wait(&t, 0, NULL) >= 1);
        vt_pci_write(&t, PCI_COMMAND, 3, 2);
        EXPECT(vt_start(&t, features, 1, QSIZE));
        EXPECT_EQ(vt_pci_read(&t, PCI_COMMAND, 2) & PCI_COMMAND_MASTER,
                  way == VT_LEGACY ? PCI_COMMAND_MASTER : 0);
        end(&t, &d);
    }
}

TEST(state_moves_to_another_device)
{
    struct vtest t, u;
    struct disk d, e;
    g_autoptr(GByteArray) s = g_byte_array_new(), s2 = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    EXPECT(vt_start(&t, features, 1, QSIZE));
    memset(vt_at(&t, BUF), 0x42, 512);
    EXPECT_EQ(request(&t, 1, 3, 512, false, NULL), 0);
    dev_lock(t.dev);
    state_save(&t.dev->type->state, t.dev, s);
    dev_unlock(t.dev);
    begin(&u, &e, VT_MODERN, false);
    vtest_realize(&u);
    EXPECT(state_load(&u.dev->type->state, u.dev, s->data, s->len, &error));
    dev_lock(u.dev);
    u.dev->type->loaded(u.dev);
    state_save(&u.dev->type->state, u.dev, s2);
    dev_unlock(u.dev);
    EXPECT(s->len == s2->len && !memcmp(s->data, s2->data, s->len));
    memcpy(vt_at(&u, 0), vt_at(&t, 0), VT_RAM);
    memcpy(u.q, t.q, sizeof u.q);
    EXPECT_EQ(request(&u, 0, 0, 512, true, NULL), 0); /* goes on where the other was */
    EXPECT_EQ(*(u8 *)vt_at(&u, BUF), 0);
    end(&t, &d);
    end(&u, &e);
}

TEST(malformed_requests)
{
    struct vtest t;
    struct disk d;
    static const struct vtest_seg bad[][3] = {
        { { HDR, 16, false }, { 0 }, { 0 } },               /* no status */
        { { HDR, 8, false }, { STATUS, 1, true }, { 0 } },  /* half a header */
        { { STATUS, 1, true }, { 0 }, { 0 } },              /* none */
        { { HDR, 16, false }, { STATUS, 0, true }, { 0 } }, /* empty status */
        { { HDR, 0, false }, { STATUS, 1, true }, { 0 } },
    };

    begin(&t, &d, VT_MODERN, false);
    vtest_realize(&t);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        unsigned n = 0;
        while (n < 3 && bad[i][n].at)
            n++;
        EXPECT(vt_start(&t, features, 1, QSIZE));
        vt_add(&t, 0, bad[i], n);
        vt_kick(&t, 0);
        for (unsigned k = 0; k < 5000 && !(vt_status(&t) & VIRTIO_S_NEEDS_RESET); k++)
            g_usleep(200);
        EXPECT(vt_status(&t) & VIRTIO_S_NEEDS_RESET);
    }
    /* the status byte at the end of the data's descriptor is legal */
    EXPECT(vt_start(&t, features, 1, QSIZE));
    struct vtest_seg s[] = { { HDR, 16, false }, { BUF, 513, true } };
    memset(vt_at(&t, HDR), 0, 16);
    ((u8 *)vt_at(&t, BUF))[512] = 0xee;
    vt_add(&t, 0, s, 2);
    vt_kick(&t, 0);
    EXPECT_EQ(vt_wait(&t, 0, NULL), 513);
    EXPECT_EQ(((u8 *)vt_at(&t, BUF))[512], 0);
    end(&t, &d);
}
TEST_MAIN()
