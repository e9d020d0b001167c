// SPDX-License-Identifier: GPL-2.0-or-later
/* server_test.c - the NBD server against clients that we script: good ones, and those that are
 * not. */
#include "nbd/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/test.h"
#include "stream/stream.h"
#include "wire/nbd/handshake.h"
#include "wire/nbd/nbd.h"

enum { SIZE = 1 << 20, SECONDS = 20 };

struct rig {
    struct nbd_server *server;
    struct nbd_export *export;
    char dir[32], path[64];
    int file;
    u32 gone, clients;
    bool left;
};

static void on_gone(void *opaque)
{
    ((struct rig *)opaque)->gone++;
}

static void on_clients(void *opaque, u32 count, bool one_left)
{
    struct rig *r = opaque;

    r->clients = count;
    r->left |= one_left;
}

static void rig_open(struct rig *r, bool writable, u32 max)
{
    struct stream_address a = { .kind = STREAM_UNIX, .path = r->path };
    const struct nbd_server_options o = {
        .address = &a, .max_clients = max, .clients = on_clients, .opaque = r
    };
    struct image_options how = { .format = "raw", .read_only = !writable, .discard = true };
    char disk[64];

    *r = (struct rig){ .dir = "/tmp/nbd-test-XXXXXX" };
    g_assert(g_mkdtemp(r->dir));
    g_snprintf(r->path, sizeof r->path, "%s/s", r->dir);
    r->file = memfd_create("disk", MFD_CLOEXEC);
    g_assert(ftruncate(r->file, SIZE) == 0 && pwrite(r->file, "hello", 5, 4096) == 5);
    g_snprintf(disk, sizeof disk, "/proc/self/fd/%d", r->file);
    struct nbd_export_options e = {
        .name = "x", .description = "y", .writable = writable, .gone = on_gone, .opaque = r
    };
    e.image = image_open(disk, &how, NULL);
    g_assert(e.image);
    r->server = nbd_server_new(&o, NULL);
    g_assert(r->server);
    r->export = nbd_export_add(r->server, &e, NULL);
}

static void rig_close(struct rig *r)
{
    nbd_server_free(r->server);
    EXPECT_EQ(r->gone, 1);
    EXPECT(access(r->path, F_OK) != 0);
    close(r->file);
    rmdir(r->dir);
}

static struct stream_limit soon(void)
{
    return (struct stream_limit){ stream_now() + SECONDS * 1000, -1 };
}

/* A client that is not through the handshake. */
static bool knock(struct rig *r, struct stream *ret)
{
    struct stream_address a = { .kind = STREAM_UNIX, .path = r->path };
    struct stream_limit l = soon();
    int fd = stream_connect(&a, &l, NULL);

    if (fd < 0)
        return false;
    stream_init(ret, fd);
    return true;
}

static bool enter(struct rig *r, struct stream *ret, struct nbd_export_info *info)
{
    const struct nbd_ask ask = { .name = "x", .context = "base:allocation" };
    struct stream_limit l = soon();

    return knock(r, ret) && nbd_handshake(ret, &ask, &l, info, NULL);
}

/* The server has hung up, whatever it said before. */
static bool over(struct stream *s)
{
    struct stream_limit l = soon();
    u8 b;

    while (stream_read_all(s, &b, 1, &l, NULL))
        ;
    bool ended = stream_now() < l.until;
    stream_close(s);
    return ended;
}

static bool ask(struct stream *s, u16 type, u16 flags, u64 cookie, u64 at, u32 len,
                const void *data)
{
    struct nbd_request h = { be32_of(NBD_REQUEST_MAGIC),
                             be16_of(flags),
                             be16_of(type),
                             be64_of(cookie),
                             be64_of(at),
                             be32_of(len) };
    struct stream_limit l = soon();

    return stream_write_all(s, &h, sizeof h, &l, NULL) &&
           (!data || stream_write_all(s, data, len, &l, NULL));
}

/* The error of a simple answer, or -1. */
static s64 answer(struct stream *s, u64 cookie)
{
    struct nbd_simple_reply h;
    struct stream_limit l = soon();

    if (!stream_read_all(s, &h, sizeof h, &l, NULL) ||
        be32_get(h.magic) != NBD_SIMPLE_REPLY_MAGIC || be64_get(h.cookie) != cookie)
        return -1;
    return be32_get(h.error);
}

/* A chunk's kind, or -1; its payload to p. */
static s64 chunk(struct stream *s, u64 cookie, void *p, size_t room)
{
    struct nbd_chunk h;
    struct stream_limit l = soon();

    if (!stream_read_all(s, &h, sizeof h, &l, NULL) || be32_get(h.magic) != NBD_CHUNK_MAGIC ||
        be64_get(h.cookie) != cookie || be32_get(h.len) > room ||
        !stream_read_all(s, p, be32_get(h.len), &l, NULL))
        return -1;
    return be16_get(h.type);
}

TEST(reads_writes_and_looks)
{
    struct rig r;
    struct stream s;
    struct nbd_export_info info;
    u8 buf[8192], data[512];

    rig_open(&r, true, 0);
    EXPECT(enter(&r, &s, &info));
    EXPECT_EQ(info.size, SIZE);
    EXPECT(info.structured && info.has_context && info.flags & NBD_FLAG_CAN_MULTI_CONN);
    EXPECT(ask(&s, NBD_CMD_READ, 0, 7, 4096, 512, NULL));
    EXPECT_EQ(chunk(&s, 7, buf, sizeof buf), NBD_REPLY_OFFSET_DATA);
    EXPECT_EQ(memcmp(buf + 8, "hello", 6), 0);
    EXPECT(ask(&s, NBD_CMD_READ, 0, 8, 65536, 4096, NULL));
    EXPECT_EQ(chunk(&s, 8, buf, sizeof buf), NBD_REPLY_OFFSET_HOLE);
    memset(data, 0x5a, sizeof data);
    EXPECT(ask(&s, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 9, SIZE - 512, 512, data));
    EXPECT_EQ(answer(&s, 9), 0);
    EXPECT(pread(r.file, buf, 512, SIZE - 512) == 512 && !memcmp(buf, data, 512));
    EXPECT(ask(&s, NBD_CMD_FLUSH, 0, 10, 0, 0, NULL));
    EXPECT_EQ(answer(&s, 10), 0);
    EXPECT(ask(&s, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 11, 65536, 65536, NULL));
    EXPECT_EQ(chunk(&s, 11, buf, sizeof buf), NBD_REPLY_BLOCK_STATUS);
    EXPECT_EQ(buf[11], NBD_STATE_HOLE | NBD_STATE_ZERO);
    stream_close(&s);
    rig_close(&r);
}

TEST(what_cannot_be)
{
    struct rig r;
    struct stream s;
    struct nbd_export_info info;
    u8 buf[64], data[512] = { 0 };

    rig_open(&r, true, 0);
    EXPECT(enter(&r, &s, &info));
    EXPECT(ask(&s, NBD_CMD_READ, 0, 1, SIZE - 511, 512, NULL));
    EXPECT_EQ(chunk(&s, 1, buf, sizeof buf), NBD_REPLY_ERROR);
    EXPECT_EQ(buf[3], NBD_EINVAL);
    EXPECT(ask(&s, NBD_CMD_READ, 0, 2, UINT64_MAX - 100, 512, NULL));
    EXPECT_EQ(chunk(&s, 2, buf, sizeof buf), NBD_REPLY_ERROR);
    EXPECT(ask(&s, NBD_CMD_WRITE, 0, 3, SIZE, 512, data));
    EXPECT_EQ(answer(&s, 3), NBD_ENOSPC);
    EXPECT(ask(&s, NBD_CMD_WRITE_ZEROES, 0, 4, 4096, 0xffffffff, NULL));
    EXPECT_EQ(answer(&s, 4), NBD_ENOSPC);
    EXPECT(ask(&s, NBD_CMD_FLUSH, NBD_CMD_FLAG_NO_HOLE, 5, 0, 0, NULL));
    EXPECT_EQ(answer(&s, 5), NBD_EINVAL);
    EXPECT(ask(&s, 99, 0, 6, 0, 512, NULL));
    EXPECT_EQ(answer(&s, 6), NBD_EINVAL);
    EXPECT(ask(&s, NBD_CMD_READ, 0, 7, 0, 0xffffffff, NULL)); /* and he is still served */
    EXPECT_EQ(chunk(&s, 7, buf, sizeof buf), NBD_REPLY_ERROR);
    EXPECT(ask(&s, NBD_CMD_WRITE, 0, 8, 0, NBD_PAYLOAD_MAX + 1, NULL));
    EXPECT(over(&s));
    EXPECT(enter(&r, &s, &info));
    EXPECT(ask(&s, NBD_CMD_DISC, 0, 9, 0, 0, NULL));
    EXPECT(over(&s));
    rig_close(&r);

    rig_open(&r, false, 0);
    EXPECT(enter(&r, &s, &info));
    EXPECT(info.flags & NBD_FLAG_READ_ONLY);
    EXPECT(ask(&s, NBD_CMD_WRITE, 0, 1, 0, 512, data));
    EXPECT_EQ(answer(&s, 1), NBD_EPERM);
    EXPECT(ask(&s, NBD_CMD_TRIM, 0, 2, 0, 512, NULL));
    EXPECT_EQ(answer(&s, 2), NBD_EPERM);
    stream_close(&s);
    rig_close(&r);
}

TEST(nonsense_before_the_export)
{
    static const char *const words[] = {
        "\377\377\377\377",                         /* flags that there are not */
        "\0\0\0\3GET / HTTP/1.1\r\n\r\n     ",      /* no option */
        "\0\0\0\3IHAVEOPT\0\0\0\7\377\377\377\377", /* a long one */
        "\0\0\0\3IHAVEOPT\0\0\0\1\0\0\0\1z",        /* an export that there is not */
    };
    static const size_t lengths[] = { 4, 28, 20, 21 };
    struct rig r;
    struct stream s;

    rig_open(&r, true, 0);
    for (u32 i = 0; i < ARRAY_LEN(words); i++) {
        struct stream_limit l = soon();

        EXPECT(knock(&r, &s));
        EXPECT(stream_write_all(&s, words[i], lengths[i], &l, NULL));
        EXPECT(over(&s));
    }
    rig_close(&r);
}

/* One more than may come waits until another has gone. */
TEST(as_many_as_may_be)
{
    struct rig r;
    struct stream a, b, c;
    struct nbd_export_info info;
    const struct timespec a_moment = { .tv_nsec = 100000000 };

    rig_open(&r, true, 2);
    EXPECT(enter(&r, &a, &info) && enter(&r, &b, &info));
    EXPECT_EQ(nbd_export_clients(r.export), 2);
    EXPECT(knock(&r, &c));
    struct stream_limit now = { stream_now() + 200, -1 };
    EXPECT_EQ(stream_wait(c.fd, POLLIN, &now), -ETIMEDOUT);
    stream_close(&a);
    struct stream_limit l = soon();
    EXPECT_EQ(stream_wait(c.fd, POLLIN, &l), 0);
    stream_close(&c);
    /* hard: those who have the export lose it, and nobody gets it any more */
    nbd_export_remove(r.export, true);
    EXPECT(over(&b));
    for (u32 i = 0; i < 100 && !r.gone; i++) {
        g_main_context_iteration(NULL, FALSE);
        nanosleep(&a_moment, NULL);
    }
    EXPECT_EQ(r.gone, 1);
    EXPECT(r.left);
    EXPECT(!nbd_export_find(r.server, "x"));
    EXPECT(!enter(&r, &a, &info));
    stream_close(&a);
    rig_close(&r);
}

/* He asks and asks, and never listens: what is held for him is bounded, others are served. */
TEST(one_who_does_not_listen)
{
    struct rig r;
    struct stream s, other;
    struct nbd_export_info info;
    u8 buf[1024];
    u32 asked = 0;

    rig_open(&r, true, 0);
    EXPECT(enter(&r, &s, &info));
    memset(buf, 0x77, sizeof buf);
    EXPECT(pwrite(r.file, buf, sizeof buf, 0) == sizeof buf);
    for (; asked < 100000; asked++) {
        struct nbd_request h = { be32_of(NBD_REQUEST_MAGIC),
                                 be16_of(0),
                                 be16_of(NBD_CMD_READ),
                                 be64_of(asked),
                                 be64_of(0),
                                 be32_of(SIZE) };
        struct iovec v = { &h, sizeof h };
        struct stream_limit l = { stream_now() + 300, -1 };

        if (stream_send(&s, &v, 1) != sizeof h && stream_wait(s.fd, POLLOUT, &l))
            break;
    }
    EXPECT(asked < 100000);
    EXPECT(enter(&r, &other, &info));
    EXPECT(ask(&other, NBD_CMD_FLUSH, 0, 1, 0, 0, NULL));
    EXPECT_EQ(answer(&other, 1), 0);
    stream_close(&other);
    stream_close(&s);
    rig_close(&r);
}

TEST_MAIN()
