// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * net_test.c - netdevs against a guest made of a few lines: it speaks ARP, DHCP, ICMP and as
 * much TCP as a forwarded connection needs.
 */
#include "net/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/test.h"

/* What the netdev's thread brings lies here until the test looks. */
struct guest {
    struct net *net;
    GAsyncQueue *frames; /* GBytes * */
    _Atomic u32 room, refused;
    _Atomic bool up;
};

static bool guest_receive(void *opaque, const u8 *frame, size_t n)
{
    struct guest *g = opaque;

    if (!g->room) {
        g->refused++;
        return false;
    }
    g->room--;
    g_async_queue_push(g->frames, g_bytes_new(frame, n));
    return true;
}

static void guest_link(void *opaque, bool up)
{
    ((struct guest *)opaque)->up = up;
}

static const struct net_user guest_user = { .receive = guest_receive, .link = guest_link };

static bool guest_open(struct guest *g, const char *opts)
{
    g_autoptr(GError) error = NULL;

    *g = (struct guest){ .net = net_new(opts, &error), .room = 1u << 30 };
    if (error)
        printf("# %s\n", error->message);
    EXPECT(g->net != NULL);
    if (!g->net)
        return false;
    g->frames = g_async_queue_new_full((GDestroyNotify)g_bytes_unref);
    EXPECT(net_attach(g->net, &guest_user, g));
    EXPECT(!net_attach(g->net, &guest_user, g));
    return true;
}

static void guest_close(struct guest *g)
{
    net_detach(g->net);
    net_free(g->net);
    g_async_queue_unref(g->frames);
}

static void guest_send(struct guest *g, const u8 *frame, size_t n)
{
    /* In two pieces, as a driver would. */
    struct iovec v[2] = { { (void *)frame, 14 }, { (void *)(frame + 14), n - 14 } };

    net_send(g->net, v, 2);
}

/* The next frame of this ethertype (and IP protocol, if not 0); false after two seconds. */
static bool guest_wait(struct guest *g, u16 type, u8 proto, u8 *ret, size_t *ret_n)
{
    for (u32 i = 0; i < 100; i++) {
        GBytes *b = g_async_queue_timeout_pop(g->frames, 20 * 1000 * 5);
        size_t n;

        if (!b) {
            if (i > 20)
                return false;
            continue;
        }
        const u8 *p = g_bytes_get_data(b, &n);
        bool hit =
            n >= 34 && n <= 2000 && (p[12] << 8 | p[13]) == type && (!proto || p[23] == proto);
        if (hit) {
            memcpy(ret, p, n);
            *ret_n = n;
        }
        g_bytes_unref(b);
        if (hit)
            return true;
    }
    return false;
}

/* ---- packets ---- */

static const u8 guest_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
static const u8 guest_ip[4] = { 10, 0, 2, 15 }, host_ip[4] = { 10, 0, 2, 2 };

static void put16(u8 *p, u32 v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void put32(u8 *p, u32 v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

static u32 get16(const u8 *p)
{
    return (u32)p[0] << 8 | p[1];
}

static u32 get32(const u8 *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static u32 sum16(const u8 *p, size_t n, u32 sum)
{
    for (size_t i = 0; i < n; i++)
        sum += i & 1 ? p[i] : (u32)p[i] << 8;
    return sum;
}

static u16 fold(u32 sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (u16)~sum;
}

/* Ethernet and IPv4 headers around n bytes at f + 34. Returns the frame's length. */
static size_t ip_wrap(u8 *f, const u8 *to_mac, const u8 *from, const u8 *to, u8 proto, size_t n)
{
    memset(f, 0, 34);
    memcpy(f, to_mac, 6);
    memcpy(f + 6, guest_mac, 6);
    put16(f + 12, 0x800);
    f[14] = 0x45;
    put16(f + 16, (u32)(20 + n));
    f[22] = 64;
    f[23] = proto;
    memcpy(f + 26, from, 4);
    memcpy(f + 30, to, 4);
    put16(f + 24, fold(sum16(f + 14, 20, 0)));
    return 34 + n;
}

static size_t dhcp_message(u8 *f, u8 kind, const u8 *wanted)
{
    static const u8 all[6] = { 255, 255, 255, 255, 255, 255 }, zero[4],
                    ones[4] = { 255, 255, 255, 255 };
    u8 *d = f + 42, *o = d + 240;

    memset(f, 0, 400);
    d[0] = 1, d[1] = 1, d[2] = 6;
    put32(d + 4, 0x1234);
    memcpy(d + 28, guest_mac, 6);
    put32(d + 236, 0x63825363);
    *o++ = 53, *o++ = 1, *o++ = kind;
    if (wanted) {
        *o++ = 50, *o++ = 4;
        memcpy(o, wanted, 4);
        o += 4;
    }
    *o++ = 255;
    size_t n = (size_t)(o - (f + 34));
    put16(f + 34, 68);
    put16(f + 36, 67);
    put16(f + 38, (u32)n);
    return ip_wrap(f, all, zero, ones, 17, n);
}

static void arp_reply(struct guest *g, const u8 *request)
{
    u8 f[42];

    memcpy(f, request, 42);
    memcpy(f, request + 6, 6);
    memcpy(f + 6, guest_mac, 6);
    put16(f + 20, 2);
    memcpy(f + 22, guest_mac, 6);
    memcpy(f + 28, guest_ip, 4);
    memcpy(f + 32, request + 22, 10);
    guest_send(g, f, sizeof f);
}

/* DHCP, as a real guest does it. */
static bool get_address(struct guest *g)
{
    u8 f[2000];
    size_t n;

    n = dhcp_message(f, 1, NULL);
    guest_send(g, f, n);
    EXPECT(guest_wait(g, 0x800, 17, f, &n));
    if (n < 300)
        return false;
    EXPECT_EQ(f[42 + 240 + 2], 2); /* OFFER */
    EXPECT(memcmp(f + 42 + 16, guest_ip, 4) == 0);
    n = dhcp_message(f, 3, guest_ip);
    guest_send(g, f, n);
    EXPECT(guest_wait(g, 0x800, 17, f, &n));
    EXPECT_EQ(f[42 + 240 + 2], 5); /* ACK */
    return true;
}

/* ---- the user-mode network ---- */

TEST(user_gives_an_address_and_answers)
{
    struct guest g;
    u8 f[2000] = { 0 };
    size_t n;

    if (!guest_open(&g, "user,id=n0"))
        return;
    EXPECT_STR(net_id(g.net), "n0");
    EXPECT(net_link(g.net));
    EXPECT(get_address(&g));

    memset(f, 0xff, 6); /* who has 10.0.2.2? */
    memcpy(f + 6, guest_mac, 6);
    put16(f + 12, 0x806);
    memcpy(f + 14, "\0\1\x8\0\6\4\0\1", 8);
    memcpy(f + 22, guest_mac, 6);
    memcpy(f + 28, guest_ip, 4);
    memset(f + 32, 0, 6);
    memcpy(f + 38, host_ip, 4);
    guest_send(&g, f, 42);
    EXPECT(guest_wait(&g, 0x806, 0, f, &n));
    EXPECT_EQ(get16(f + 20), 2);
    EXPECT(memcmp(f + 28, host_ip, 4) == 0);

    u8 gateway[6];
    memcpy(gateway, f + 22, 6);
    memset(f + 34, 0, 64);
    f[34] = 8; /* echo request */
    put16(f + 36, fold(sum16(f + 34, 64, 0)));
    n = ip_wrap(f, gateway, guest_ip, host_ip, 1, 64);
    guest_send(&g, f, n);
    EXPECT(guest_wait(&g, 0x800, 1, f, &n));
    EXPECT_EQ(f[34], 0); /* echo reply */
    guest_close(&g);
}

TEST(user_keeps_frames_that_find_no_room)
{
    struct guest g;
    u8 f[2000];
    size_t n;

    if (!guest_open(&g, "user,id=n0,ipv6=off"))
        return;
    g.room = 0;
    n = dhcp_message(f, 1, NULL);
    guest_send(&g, f, n);
    for (u32 i = 0; i < 200 && !g.refused; i++)
        g_usleep(10000);
    u32 refused = g.refused;
    EXPECT(refused >= 1);
    g_usleep(30000);
    EXPECT_EQ(g.refused, refused); /* it waits to be told */
    g.room = 10;
    net_ready(g.net);
    EXPECT(guest_wait(&g, 0x800, 17, f, &n));

    net_pause(g.net, true);
    n = dhcp_message(f, 1, NULL);
    guest_send(&g, f, n);
    g_usleep(50000);
    EXPECT_EQ(g_async_queue_length(g.frames), 0);
    net_pause(g.net, false);
    EXPECT(guest_wait(&g, 0x800, 17, f, &n));
    guest_close(&g);
}

TEST(user_survives_any_frame)
{
    struct guest g;
    u8 f[2000];
    u32 seed = 1;
    struct net_counts c;

    if (!guest_open(&g, "user,id=n0"))
        return;
    for (u32 i = 0; i < 3000; i++) {
        u32 n = 14 + (seed >> 8) % 1500;
        for (u32 k = 0; k < n; k++)
            f[k] = (u8)((seed = seed * 1103515245 + 12345) >> 16);
        if (i & 1) { /* looks a little like IP */
            put16(f + 12, i & 2 ? 0x800 : 0x86dd);
            f[14] = i & 2 ? 0x45 : 0x60;
        }
        guest_send(&g, f, n);
        if (i % 50 == 0)
            g_usleep(1000);
    }
    net_send(g.net, &(struct iovec){ f, 5 }, 1); /* less than a header */
    net_count(g.net, &c);
    EXPECT(c.out > 100);
    EXPECT(c.dropped >= 1);
    for (u32 i = 0; i < 20; i++) { /* until the other side has chewed it all */
        g_usleep(20000);
        while (g_async_queue_length(g.frames) > 0)
            g_bytes_unref(g_async_queue_pop(g.frames));
    }
    EXPECT(get_address(&g)); /* the other process still lives */
    guest_close(&g);
}

/* A TCP segment from the guest's port 80. */
static void tcp_send(struct guest *g, const u8 *peer_frame, u8 flags, u32 seq, u32 ack,
                     const char *data)
{
    u8 f[200], pseudo[12];
    size_t n = strlen(data);

    memset(f, 0, sizeof f);
    put16(f + 34, 80);
    memcpy(f + 36, peer_frame + 34, 2);
    put32(f + 38, seq);
    put32(f + 42, ack);
    f[46] = 5 << 4;
    f[47] = flags;
    put16(f + 48, 8192);
    memcpy(f + 54, data, n);
    memcpy(pseudo, guest_ip, 4);
    memcpy(pseudo + 4, peer_frame + 26, 4);
    put16(pseudo + 8, 6);
    put16(pseudo + 10, (u32)(20 + n));
    put16(f + 50, fold(sum16(f + 34, 20 + n, sum16(pseudo, 12, 0))));
    n = ip_wrap(f, peer_frame + 6, guest_ip, peer_frame + 26, 6, 20 + n);
    guest_send(g, f, n);
}

TEST(user_forwards_a_connection)
{
    struct guest g;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof a;
    u8 f[2000];
    char buf[16] = { 0 };
    size_t n;
    u32 seq = 1000;

    int fd = socket(AF_INET, SOCK_STREAM, 0); /* a port that is free now */
    EXPECT_EQ(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    getsockname(fd, (struct sockaddr *)&a, &len);
    close(fd);
    g_autofree char *opts =
        g_strdup_printf("user,id=n0,ipv6=off,hostfwd=tcp:127.0.0.1:%u-:80", ntohs(a.sin_port));
    if (!guest_open(&g, opts))
        return;

    g_autoptr(GError) error = NULL; /* the port is taken now: refused by name */
    EXPECT(!net_new(opts, &error));
    EXPECT(error &&
           strstr(error->message, "Could not set up host forwarding rule 'tcp:127.0.0.1:"));

    EXPECT(get_address(&g));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    EXPECT_EQ(write(fd, "ping", 4), 4);
    bool done = false;
    for (u32 i = 0; i < 50 && !done; i++) {
        GBytes *b = g_async_queue_timeout_pop(g.frames, 2000 * 1000);
        EXPECT(b != NULL);
        if (!b)
            break;
        n = MIN(g_bytes_get_size(b), sizeof f);
        memcpy(f, g_bytes_get_data(b, NULL), n);
        g_bytes_unref(b);
        if (n >= 42 && get16(f + 12) == 0x806 && get16(f + 20) == 1 &&
            memcmp(f + 38, guest_ip, 4) == 0)
            arp_reply(&g, f);
        if (n < 54 || get16(f + 12) != 0x800 || f[23] != 6)
            continue;
        u32 their = get32(f + 38), data = get16(f + 16) - 20 - (u32)(f[46] >> 4) * 4;
        if (f[47] & 2) { /* SYN */
            tcp_send(&g, f, 0x12, seq, their + 1, "");
            seq++;
        } else if (data) {
            EXPECT_EQ(data, 4);
            EXPECT(memcmp(f + 34 + (f[46] >> 4) * 4, "ping", 4) == 0);
            tcp_send(&g, f, 0x18, seq, their + data, "pong");
            done = true;
        }
    }
    EXPECT(done);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    EXPECT_EQ(poll(&p, 1, 5000), 1);
    EXPECT_EQ(recv(fd, buf, sizeof buf, MSG_DONTWAIT), 4);
    EXPECT_STR(buf, "pong");
    close(fd);
    guest_close(&g);
}

TEST(options_that_cannot_be)
{
    static const char *const bad[] = {
        "",
        "id=x",
        "user",
        "vde,id=x",
        "user,id=x,colour=red",
        "user,id=x,net=10.0.2",
        "user,id=x,net=10.0.2.0/33",
        "user,id=x,net=10.0.2.0/255.0.255.0",
        "user,id=x,host=10.0.3.1",
        "user,id=x,host=10.0.2.3",
        "user,id=x,dhcpstart=10.0.2.255",
        "user,id=x,hostfwd=tcp::22",
        "user,id=x,hostfwd=sctp::22-:22",
        "user,id=x,hostfwd=tcp::70000-:22",
        "user,id=x,hostfwd=tcp::22-:0",
        "user,id=x,ipv4=off,ipv6=off",
        "user,id=x,smb=/tmp",
        "tap,id=x",
        "tap,id=x,ifname=a,fd=5",
        "tap,id=x,ifname=a,script=/etc/up",
        "tap,id=x,fd=999",
        "socket,id=x",
        "socket,id=x,listen=:1,connect=:2",
        "socket,id=x,mcast=10.1.1.1:1",
        "stream,id=x,addr.type=unix",
        "stream,id=x,server=on",
        "dgram,id=x",
        "none,id=x,a=b",
    };

    for (u32 i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        struct net *n = net_new(bad[i], &error);

        EXPECT(!n && error);
        if (n)
            printf("# accepted: %s\n", bad[i]);
        net_free(n);
    }
}

/* ---- tap ---- */

/* Needs the right to make an interface, which few have: passes without it. */
TEST(tap_carries_both_ways)
{
    struct guest g = { .room = 1u << 30 };
    struct ifreq r = { 0 };
    struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
    u8 f[2000] = { 0 };
    size_t n;

    g_snprintf(r.ifr_name, sizeof r.ifr_name, "ptest%u", (u32)getpid() % 100000);
    g_autofree char *opts = g_strdup_printf("tap,id=t,ifname=%s,script=no", r.ifr_name);
    g_autoptr(GError) error = NULL;
    struct net *probe = net_new(opts, &error);
    if (!probe) {
        printf("# not tried: %s\n", error->message);
        return;
    }
    net_free(probe);
    if (!guest_open(&g, opts))
        return;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL));
    EXPECT_EQ(ioctl(fd, SIOCGIFFLAGS, &r), 0);
    r.ifr_flags |= IFF_UP;
    EXPECT_EQ(ioctl(fd, SIOCSIFFLAGS, &r), 0);
    at.sll_ifindex = (int)if_nametoindex(r.ifr_name);
    EXPECT_EQ(bind(fd, (struct sockaddr *)&at, sizeof at), 0);

    memset(f, 0xff, 6);
    memcpy(f + 6, guest_mac, 6);
    put16(f + 12, 0x88b5);
    strcpy((char *)f + 14, "from the host");
    EXPECT_EQ(send(fd, f, 1000, 0), 1000);
    EXPECT(guest_wait(&g, 0x88b5, 0, f, &n));
    EXPECT_EQ(n, 1000);
    strcpy((char *)f + 14, "from the guest");
    guest_send(&g, f, 900);
    bool seen = false;
    for (u32 i = 0; i < 200 && !seen; i++) {
        ssize_t len = recv(fd, f, sizeof f, 0);
        seen = len == 900 && strcmp((char *)f + 14, "from the guest") == 0;
        if (len < 0)
            g_usleep(5000);
    }
    EXPECT(seen);
    close(fd);
    guest_close(&g);
}

/* ---- sockets between guests ---- */

static void check_pair(struct guest *a, struct guest *b)
{
    u8 f[60000], got[2000];
    struct net_counts c;
    size_t n;

    memset(f, 0x5a, sizeof f);
    put16(f + 12, 0x88b5);
    guest_send(a, f, 1000);
    EXPECT(guest_wait(b, 0x88b5, 0, got, &n));
    EXPECT_EQ(n, 1000);
    EXPECT(memcmp(f, got, 1000) == 0);
    guest_send(b, f, 60);
    EXPECT(guest_wait(a, 0x88b5, 0, got, &n));
    EXPECT_EQ(n, 60);
    /* A peer that does not read: frames are dropped, what arrives is whole. */
    b->room = 0;
    for (u32 i = 0; i < 2000; i++)
        guest_send(a, f, sizeof f);
    net_count(a->net, &c);
    EXPECT(c.dropped > 0);
    b->room = 1u << 30;
    net_ready(b->net);
    GBytes *bytes;
    u32 count = 0;
    while ((bytes = g_async_queue_timeout_pop(b->frames, 200 * 1000))) {
        EXPECT_EQ(g_bytes_get_size(bytes), sizeof f);
        EXPECT_EQ(memcmp(g_bytes_get_data(bytes, NULL), f, sizeof f), 0);
        g_bytes_unref(bytes);
        count++;
    }
    EXPECT(count >= 1);
}

TEST(stream_between_two_guests)
{
    struct guest a, b;
    g_autofree char *dir = g_dir_make_tmp("posada-net-XXXXXX", NULL);
    g_autofree char *server =
        g_strdup_printf("stream,id=a,server=on,addr.type=unix,addr.path=%s/s", dir);
    g_autofree char *client = g_strdup_printf("stream,id=b,addr.type=unix,addr.path=%s/s", dir);

    if (!guest_open(&a, server) || !guest_open(&b, client))
        return;
    for (u32 i = 0; i < 200 && !a.up; i++)
        g_usleep(5000);
    EXPECT(a.up);
    check_pair(&a, &b);
    guest_close(&b);
    for (u32 i = 0; i < 200 && a.up; i++)
        g_usleep(5000);
    EXPECT(!a.up); /* and the next may come */
    if (guest_open(&b, client)) {
        for (u32 i = 0; i < 200 && !a.up; i++)
            g_usleep(5000);
        EXPECT(a.up);
        guest_close(&b);
    }
    guest_close(&a);
    EXPECT_EQ(rmdir(dir), 0);
}

TEST(stream_refuses_a_length_out_of_bounds)
{
    struct guest a;
    int pair[2];

    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    g_autofree char *opts = g_strdup_printf("socket,id=a,fd=%d", pair[0]);
    if (!guest_open(&a, opts))
        return;
    EXPECT_EQ(write(pair[1], "\0\0\0\x10zzzz", 8), 8);
    EXPECT_EQ(write(pair[1], "zzzzzzzzzzzz\xff\xff\xff\xff", 16), 16);
    for (u32 i = 0; i < 200 && net_link(a.net); i++)
        g_usleep(5000);
    EXPECT(!net_link(a.net));
    EXPECT_EQ(g_async_queue_length(a.frames), 1);
    close(pair[1]);
    guest_close(&a);
}

TEST(dgram_between_two_guests)
{
    struct guest a, b;
    g_autofree char *dir = g_dir_make_tmp("posada-net-XXXXXX", NULL);
    g_autofree char *one = g_strdup_printf(
        "dgram,id=a,local.type=unix,local.path=%s/a,remote.type=unix,remote.path=%s/b", dir,
        dir);
    g_autofree char *two = g_strdup_printf(
        "dgram,id=b,local.type=unix,local.path=%s/b,remote.type=unix,remote.path=%s/a", dir,
        dir);

    if (!guest_open(&a, one) || !guest_open(&b, two))
        return;
    check_pair(&a, &b);
    guest_close(&a);
    guest_close(&b);
    EXPECT_EQ(rmdir(dir), 0);
}

TEST_MAIN()
