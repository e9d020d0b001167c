// SPDX-License-Identifier: GPL-2.0-or-later
/* offload_test.c - checksums and segments; what is cut must verify and join again. */
#include <glib.h>

#include "base/test.h"
#include "vmm/dev/virtio/offload.h"

enum { ETH = 14 };

static void be16_put(u8 *p, u32 v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

/* A TCP frame with `len` bytes of payload and options of 12; its length. */
static size_t tcp_frame(u8 *f, bool v6, u32 len)
{
    size_t l4 = ETH + (v6 ? 40 : 20);
    u8 *ip = f + ETH, *tcp = f + l4;

    memset(f, 0, l4 + 32);
    be16_put(f + 12, v6 ? 0x86dd : 0x0800);
    if (v6) {
        ip[0] = 0x60;
        be16_put(ip + 4, 32 + len);
        ip[6] = 6;
        memset(ip + 8, 0xfe, 32);
    } else {
        ip[0] = 0x45;
        be16_put(ip + 2, 52 + len);
        be16_put(ip + 4, 0xffff);
        ip[9] = 6;
        memcpy(ip + 12, "\x0a\x00\x02\x0f\x0a\x00\x02\x02", 8);
    }
    be16_put(tcp, 1234);
    be16_put(tcp + 2, 80);
    be16_put(tcp + 4, 0xffff); /* the sequence number wraps */
    be16_put(tcp + 6, 0xff00);
    tcp[12] = 8 << 4;
    tcp[13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR ACK PSH FIN */
    for (u32 i = 0; i < len; i++)
        tcp[32 + i] = (u8)(i * 7 + i / 256);
    return l4 + 32 + len;
}

struct got {
    u8 payload[70000];
    u32 n, frames;
    u32 head, mss;
    u8 first_flags, last_flags;
};

static void collect(void *opaque, const struct iovec *v, int n)
{
    struct got *g = opaque;
    u8 frame[3000];
    size_t len = 0;

    for (int i = 0; i < n; i++) {
        memcpy(frame + len, v[i].iov_base, v[i].iov_len);
        len += v[i].iov_len;
    }
    EXPECT(offload_verify(frame, len));
    EXPECT(len - g->head <= g->mss);
    memcpy(g->payload + g->n, frame + g->head, len - g->head);
    g->n += len - g->head;
    g->last_flags = frame[g->head - 32 + 13];
    if (!g->frames++)
        g->first_flags = g->last_flags;
}

TEST(segments_verify_and_join)
{
    static u8 frame[70000];
    static struct got g;

    for (unsigned v6 = 0; v6 < 2; v6++) {
        for (u32 len = 0; len < 65000; len = len * 3 + 1) {
            size_t n = tcp_frame(frame, v6, len);

            memset(&g, 0, sizeof g);
            g.head = ETH + (v6 ? 40 : 20) + 32;
            g.mss = 1448;
            EXPECT(offload_segment(frame, n, 1448, collect, &g));
            EXPECT_EQ(g.n, len);
            EXPECT(!memcmp(g.payload, frame + g.head, len));
            EXPECT_EQ(g.frames, len ? (len + 1447) / 1448 : 1);
            EXPECT_EQ(g.last_flags & 0x7f, 0x19);
            EXPECT_EQ(g.first_flags, g.frames > 1 ? 0x90 : 0x99);
        }
    }
}

TEST(checksum_is_completed)
{
    u8 f[200];
    size_t n = tcp_frame(f, false, 51);
    u32 sum = 6 + 32 + 51;

    for (unsigned i = 12; i < 20; i += 2)
        sum += f[ETH + i] << 8 | f[ETH + i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    be16_put(f + 34 + 16, (sum & 0xffff) + (sum >> 16));
    EXPECT(!offload_verify(f, n));
    EXPECT(offload_checksum(f, n, 34, 16));
    EXPECT(offload_verify(f, n));
    f[n - 1] ^= 1;
    EXPECT(!offload_verify(f, n));
    EXPECT(!offload_checksum(f, n, (u32)n, 0));
    EXPECT(!offload_checksum(f, n, (u32)n - 1, 0));
    EXPECT(!offload_checksum(f, n, 34, 0xffff));
}

static void count(void *opaque, const struct iovec *v UNUSED, int n UNUSED)
{
    ++*(u32 *)opaque;
}

TEST(random_frames_do_no_harm)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);
    u32 cut = 0, right = 0;

    for (unsigned i = 0; i < 200000; i++) {
        size_t n = (size_t)g_rand_int_range(rand, 1, 300);
        g_autofree u8 *f = g_malloc(400);

        n = i % 4 ? tcp_frame(f, i & 1, (u32)n) : n;
        n = MIN(n, (size_t)g_rand_int_range(rand, 1, 400));
        for (unsigned k = 0; k < 3; k++)
            f[g_rand_int(rand) % n] = (u8)g_rand_int(rand);
        g_autofree u8 *exact = g_memdup2(f, n); /* so that a checker sees overruns */
        right += offload_verify(exact, n);
        if (offload_segment(exact, n, g_rand_int(rand) % 200, count, &cut))
            continue;
    }
    EXPECT(cut > 1000);
    printf("# %u segments, %u right ones\n", cut, right);
}
TEST_MAIN()
