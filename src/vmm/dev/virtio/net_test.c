// SPDX-License-Identifier: GPL-2.0-or-later
/* net_test.c - the network card against a netdev that brings every frame back. */
#include "base/test.h"
#include "net/net.h"
#include "vmm/dev/virtio/offload.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

/* ---- the netdev: frames sent are kept; the test brings them back ---- */

struct net {
    const struct net_user *user;
    void *opaque;
    u8 frame[70000];
    size_t len;
    _Atomic u32 sent, ready, full, bytes, right;
    bool large;
};

const char *net_id(const struct net *n UNUSED)
{
    return "loop";
}
bool net_attach(struct net *n, const struct net_user *user, void *opaque)
{
    n->user = user;
    n->opaque = opaque;
    return true;
}
void net_detach(struct net *n)
{
    n->user = NULL;
}
bool net_try_send(struct net *n, const struct iovec *v, int count)
{
    if (n->full) {
        n->full--;
        return false;
    }
    n->len = 0;
    for (int i = 0; i < count; i++) {
        memcpy(n->frame + n->len, v[i].iov_base, v[i].iov_len);
        n->len += v[i].iov_len;
    }
    n->bytes += n->len;
    n->right += offload_verify(n->frame, n->len);
    n->sent++;
    return true;
}
bool net_large(const struct net *n)
{
    return n->large;
}
void net_ready(struct net *n)
{
    n->ready++;
}
void net_pause(struct net *n UNUSED, bool paused UNUSED)
{
}
bool net_link(const struct net *n UNUSED)
{
    return true;
}

/* ---- */

enum {
    QSIZE = 64,
    RX = 0,
    TX = 1,
    CTRL = 2,
    HDR = VT_DATA,
    BUF = VT_DATA + 0x1000,
    IN = VT_DATA + 0x100000
};
static const u64 merge = BIT(15), ctrl = BIT(17) | BIT(18) | BIT(23);

static void begin(struct vtest *t, struct net *n, enum vtest_way way, u64 features)
{
    g_autoptr(GError) error = NULL;

    memset(n, 0, sizeof *n);
    vtest_begin(t, way == VT_MMIO ? &virtio_net_device_type : &virtio_net_pci_type, way);
    if (!dev_set_ptr(t->dev, "netdev", n, &error))
        g_error("%s", error->message);
    vtest_realize(t);
    EXPECT(vt_start(t, features, 3, QSIZE));
}

static u32 hdr_len(const struct vtest *t)
{
    return t->way == VT_LEGACY && !(t->features & merge) ? 10 : 12;
}

static void fill(u8 *p, u32 n, u8 seed)
{
    memset(p, 0xff, 6);
    for (u32 i = 6; i < n; i++)
        p[i] = (u8)(seed + i);
}

static void send(struct vtest *t, struct net *n, u32 len)
{
    struct vtest_seg s[] = { { HDR, hdr_len(t), false },
                             { BUF, len / 2, false },
                             { BUF + len / 2, len - len / 2, false } };
    u32 before = n->sent;

    fill(vt_at(t, BUF), len, 3);
    vt_add(t, TX, s, 3);
    vt_kick(t, TX);
    EXPECT_EQ(vt_wait(t, TX, NULL), 0);
    EXPECT_EQ(n->sent, before + 1);
    EXPECT_EQ(n->len, len);
    EXPECT(!memcmp(n->frame, vt_at(t, BUF), len));
}

static void buffers(struct vtest *t, unsigned count, u32 len)
{
    for (unsigned i = 0; i < count; i++) {
        struct vtest_seg s[] = { { IN + i * 0x10000, len, true } };
        vt_add(t, RX, s, 1);
    }
    vt_kick(t, RX);
}

TEST(frames_go_both_ways)
{
    for (enum vtest_way way = VT_MODERN; way <= VT_MMIO; way++) {
        struct vtest t;
        static struct net n;
        u8 *in;

        begin(&t, &n, way, 0);
        in = vt_at(&t, IN);
        send(&t, &n, 60);
        send(&t, &n, 1514);
        buffers(&t, 2, 2048);
        EXPECT(n.user->receive(n.opaque, n.frame, n.len));
        EXPECT_EQ(vt_wait(&t, RX, NULL), 1514 + hdr_len(&t));
        EXPECT(!memcmp(in + hdr_len(&t), n.frame, 1514));
        if (hdr_len(&t) == 12)
            EXPECT_EQ(in[10] | in[11] << 8, 1);
        EXPECT(n.user->receive(n.opaque, n.frame, 4000)); /* does not fit: dropped */
        EXPECT(n.user->receive(n.opaque, n.frame, 100));
        EXPECT_EQ(vt_wait(&t, RX, NULL), 100 + hdr_len(&t));
        vtest_free(&t);
    }
}

TEST(merged_buffers)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, merge);
    fill(n.frame, 5000, 9);
    buffers(&t, 3, 2048);
    EXPECT(n.user->receive(n.opaque, n.frame, 5000));
    EXPECT_EQ(vt_wait(&t, RX, NULL), 2048);
    EXPECT_EQ(vt_wait(&t, RX, NULL), 2048);
    EXPECT_EQ(vt_wait(&t, RX, NULL), 5012 - 4096);
    u8 *p = vt_at(&t, IN);
    EXPECT_EQ(p[10] | p[11] << 8, 3);
    EXPECT(!memcmp(p + 12, n.frame, 2036));
    EXPECT(!memcmp(vt_at(&t, IN + 0x20000), n.frame + 2036 + 2048, 5012 - 4096));
    vtest_free(&t);
}

TEST(no_room_then_room)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, merge | BIT(VIRTIO_F_RING_EVENT_IDX));
    fill(n.frame, 3000, 9);
    EXPECT(!n.user->receive(n.opaque, n.frame, 60));
    u32 before = n.ready;
    buffers(&t, 1, 2048);
    for (unsigned i = 0; i < 5000 && n.ready == before; i++)
        g_usleep(200);
    EXPECT(n.ready > before);
    EXPECT(!n.user->receive(n.opaque, n.frame, 3000)); /* needs two: none is used up */
    EXPECT(n.user->receive(n.opaque, n.frame, 60));
    EXPECT_EQ(vt_wait(&t, RX, NULL), 72);
    vtest_free(&t);
}

static u8 command(struct vtest *t, const void *bytes, u32 len)
{
    struct vtest_seg s[] = { { HDR, len, false }, { BUF, 1, true } };

    memcpy(vt_at(t, HDR), bytes, len);
    *(u8 *)vt_at(t, BUF) = 0xee;
    vt_add(t, CTRL, s, 2);
    vt_kick(t, CTRL);
    EXPECT_EQ(vt_wait(t, CTRL, NULL), 1);
    return *(u8 *)vt_at(t, BUF);
}

static bool arrives(struct vtest *t, struct net *n, const void *mac)
{
    u16 *used = vt_at(t, t->q[RX].used);

    fill(n->frame, 60, 1);
    memcpy(n->frame, mac, 6);
    n->user->receive(n->opaque, n->frame, 60);
    bool yes = used[1] != t->q[RX].seen;
    t->q[RX].seen = used[1];
    return yes;
}

TEST(filters)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, ctrl | BIT(5));
    buffers(&t, 16, 2048);
    EXPECT_EQ(vt_config(&t, 0, 4), 0x12005452);
    EXPECT_EQ(vt_config(&t, 4, 2), 0x5634);
    EXPECT_EQ(vt_config(&t, 6, 2), 1);
    EXPECT(arrives(&t, &n, "\x52\x54\x00\x12\x34\x56"));
    EXPECT(!arrives(&t, &n, "\x52\x54\x00\x12\x34\x57"));
    EXPECT(arrives(&t, &n, "\xff\xff\xff\xff\xff\xff"));
    EXPECT(!arrives(&t, &n, "\x01\x00\x5e\x00\x00\x01"));
    EXPECT_EQ(command(&t,
                      "\x01\x00\x01\x00\x00\x00\x52\x54\x00\x12\x34\x57"
                      "\x01\x00\x00\x00\x01\x00\x5e\x00\x00\x01",
                      22),
              0);
    EXPECT(arrives(&t, &n, "\x52\x54\x00\x12\x34\x57"));
    EXPECT(arrives(&t, &n, "\x01\x00\x5e\x00\x00\x01"));
    EXPECT_EQ(command(&t, "\x01\x00\xff\xff\xff\xff\x00", 7), 1);
    EXPECT_EQ(command(&t, "\x00\x00\x01", 3), 0); /* promiscuous */
    EXPECT(arrives(&t, &n, "\x00\x00\x00\x00\x00\x09"));
    EXPECT_EQ(command(&t, "\x00\x00\x00", 3), 0);
    EXPECT_EQ(command(&t, "\x01\x01\x02\x00\x00\x00\x00\x01", 8), 0); /* another address */
    EXPECT_EQ(vt_config(&t, 0, 4), 2);
    EXPECT_EQ(command(&t, "\x07\x00\x00", 3), 1);
    EXPECT_EQ(command(&t, "\x00", 1), 1);
    vtest_free(&t);
}

TEST(link_changes)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, BIT(16));
    bus_write(t.vm->mem, t.bar4 + 0x10, 0, 2); /* vector 0: configuration */
    n.user->link(n.opaque, false);
    EXPECT_EQ(vt_config(&t, 6, 2), 0);
    EXPECT_EQ(t.msi[0], 1);
    n.user->link(n.opaque, true);
    EXPECT_EQ(vt_config(&t, 6, 2), 1);
    vtest_free(&t);
}

/* A TCP frame of 40 + 3000 bytes that asks to be cut. */
static void send_long(struct vtest *t, u8 gso_type)
{
    u8 *h = vt_at(t, HDR), *f = vt_at(t, BUF);
    struct vtest_seg s[] = { { HDR, 12, false }, { BUF, 54 + 3000, false } };

    memset(h, 0, 12);
    h[0] = 1; /* needs checksum */
    h[1] = gso_type;
    h[4] = 1000 & 0xff;
    h[5] = 1000 >> 8;
    h[6] = 34;
    h[8] = 16;
    fill(f, 54 + 3000, 7);
    memcpy(f + 12, "\x08\x00\x45\x00\x0b\xe0\x00\x01\x00\x00\x40\x06", 12);
    f[46] = 5 << 4;
    vt_add(t, TX, s, 2);
    vt_kick(t, TX);
}

TEST(long_segments)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, BIT(0) | BIT(11));
    send_long(&t, 1);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 3);
    EXPECT_EQ(n.right, 3);
    EXPECT_EQ(n.bytes, 3 * 54 + 3000);
    n.large = true;
    send_long(&t, 1);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 4);
    send_long(&t, 4); /* IPv6 was not agreed */
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 4);
    vtest_free(&t);

    begin(&t, &n, VT_MODERN, 0); /* nothing was */
    send_long(&t, 1);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 0);
    vtest_free(&t);
}

TEST(a_full_host_end_holds_frames_back)
{
    struct vtest t;
    static struct net n;

    begin(&t, &n, VT_MODERN, BIT(0) | BIT(11));
    vm_cont(t.vm); /* the clock runs */
    n.full = 3;
    send(&t, &n, 100);
    EXPECT_EQ(n.full, 0);
    EXPECT_EQ(n.sent, 1);
    n.full = 2;
    send_long(&t, 1);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 4); /* none of them twice */
    n.full = 1000000;
    u32 before = n.full;
    send_long(&t, 1);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0); /* lost in the end */
    EXPECT(n.full < before && n.sent == 4);
    vm_stop(t.vm, RUN_PAUSED);
    vtest_free(&t);
}

TEST(bad_frames)
{
    struct vtest t;
    static struct net n;
    struct vtest_seg tiny[] = { { HDR, 6, false } };
    struct vtest_seg empty[] = { { HDR, 12, false }, { BUF, 5, false } };
    struct vtest_seg huge[] = { { HDR, 12, false }, { 0, 0x100000, false } };

    begin(&t, &n, VT_MODERN, 0);
    vt_add(&t, TX, empty, 2);
    vt_add(&t, TX, huge, 2);
    vt_kick(&t, TX);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(vt_wait(&t, TX, NULL), 0);
    EXPECT_EQ(n.sent, 0);
    vt_add(&t, TX, tiny, 1);
    vt_kick(&t, TX);
    for (unsigned k = 0; k < 5000 && !(vt_status(&t) & VIRTIO_S_NEEDS_RESET); k++)
        g_usleep(200);
    EXPECT(vt_status(&t) & VIRTIO_S_NEEDS_RESET);
    EXPECT(n.user->receive(n.opaque, n.frame, 60)); /* dropped, not kept */
    vtest_free(&t);
}
TEST_MAIN()
