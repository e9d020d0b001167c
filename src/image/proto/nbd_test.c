// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd_test.c - the NBD client against a server that we script: a good one, and those that lie.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/test.h"
#include "image/image.h"
#include "stream/address.h"
#include "wire/nbd/nbd.h"

enum { SIZE = 1 << 20 };

struct peer {
    char dir[32], path[64], url[128];
    int listener;
    pthread_t thread;
    /* How it is. */
    bool oldstyle, simple;
    u16 flags;
    u32 min_block;
    /* Answers a request; false: closes the connection. */
    bool (*answer)(struct peer *, int fd, const struct nbd_request *, const u8 *payload);
    _Atomic u32 connections, requests;
    u8 disk[SIZE];
};

static bool take(int fd, void *to, size_t n)
{
    return fd_read_all(fd, to, n, -1, NULL);
}

static bool give(int fd, const void *from, size_t n)
{
    return send(fd, from, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool option_reply(int fd, u32 option, u32 type, const void *data, u32 n)
{
    struct nbd_option_reply h = { be64_of(NBD_REP_MAGIC), be32_of(option), be32_of(type),
                                  be32_of(n) };

    return give(fd, &h, sizeof h) && (!n || give(fd, data, n));
}

static bool go(struct peer *p, int fd)
{
    struct {
        be16 type;
        be64 size;
        be16 flags;
    } __attribute__((packed))
    e = { be16_of(NBD_INFO_EXPORT), be64_of(SIZE), be16_of(p->flags) };
    struct {
        be16 type;
        be32 min, preferred, max;
    } __attribute__((packed))
    b = { be16_of(NBD_INFO_BLOCK_SIZE), be32_of(p->min_block), be32_of(4096), be32_of(65536) };

    return option_reply(fd, NBD_OPT_GO, NBD_REP_INFO, &e, sizeof e) &&
           option_reply(fd, NBD_OPT_GO, NBD_REP_INFO, &b, sizeof b) &&
           option_reply(fd, NBD_OPT_GO, NBD_REP_ACK, NULL, 0);
}

static bool greet(struct peer *p, int fd)
{
    struct {
        be64 magic, opts;
        be16 flags;
    } __attribute__((packed))
    hello = { be64_of(NBD_MAGIC), be64_of(NBD_OPTS_MAGIC), be16_of(3) };
    be32 flags;

    if (p->oldstyle) {
        struct {
            be64 magic, old, size;
            be16 global, flags;
            u8 zero[124];
        } __attribute__((packed))
        old = { be64_of(NBD_MAGIC), be64_of(NBD_OLDSTYLE_MAGIC), be64_of(SIZE),
                be16_of(0),         be16_of(p->flags),           { 0 } };
        return give(fd, &old, sizeof old);
    }
    if (!give(fd, &hello, sizeof hello) || !take(fd, &flags, 4))
        return false;
    for (;;) {
        struct nbd_option o;
        u8 data[8192];

        if (!take(fd, &o, sizeof o) || be32_get(o.len) > sizeof data ||
            !take(fd, data, be32_get(o.len)))
            return false;
        u32 option = be32_get(o.option);
        if (option == NBD_OPT_GO)
            return go(p, fd);
        if (option == NBD_OPT_STRUCTURED_REPLY && p->simple) {
            option_reply(fd, option, NBD_REP_ERR_UNSUP, NULL, 0);
            continue;
        }
        if (option == NBD_OPT_SET_META_CONTEXT)
            option_reply(fd, option, NBD_REP_META_CONTEXT, "\0\0\0\7base:allocation", 19);
        option_reply(fd, option, NBD_REP_ACK, NULL, 0);
    }
}

static void *serve(void *opaque)
{
    struct peer *p = opaque;
    static u8 payload[SIZE];

    for (;;) {
        g_autofd fd = accept(p->listener, NULL, NULL);
        struct nbd_request r;

        if (fd < 0)
            return NULL;
        p->connections++;
        bool ok = greet(p, fd);
        while (ok && take(fd, &r, sizeof r) && be16_get(r.type) != NBD_CMD_DISC) {
            if (be16_get(r.type) == NBD_CMD_WRITE && !take(fd, payload, be32_get(r.len)))
                break;
            p->requests++;
            ok = p->answer(p, fd, &r, payload);
        }
    }
}

static void peer_start(struct peer *p)
{
    struct stream_address a = { .kind = STREAM_UNIX, .path = p->path };
    int fd[STREAM_LISTEN_MAX];

    strcpy(p->dir, "/tmp/nbd-test-XXXXXX");
    g_assert(g_mkdtemp(p->dir));
    g_snprintf(p->path, sizeof p->path, "%s/s", p->dir);
    g_snprintf(p->url, sizeof p->url, "nbd+unix:///x?socket=%s", p->path);
    if (!p->min_block)
        p->min_block = 1;
    p->flags |= NBD_FLAG_HAS_FLAGS;
    for (u32 i = 0; i < SIZE; i++)
        p->disk[i] = (u8)(i * 7 + i / 4096);
    g_assert(stream_listen(&a, fd, NULL) == 1);
    p->listener = fd[0];
    fcntl(fd[0], F_SETFL, 0);
    pthread_create(&p->thread, NULL, serve, p);
}

static void peer_stop(struct peer *p)
{
    shutdown(p->listener, SHUT_RDWR);
    pthread_join(p->thread, NULL);
    close(p->listener);
    unlink(p->path);
    rmdir(p->dir);
}

static bool chunk(int fd, const struct nbd_request *r, u16 flags, u16 type, const void *data,
                  u32 n)
{
    struct nbd_chunk c = { be32_of(NBD_CHUNK_MAGIC), be16_of(flags), be16_of(type), r->cookie,
                           be32_of(n) };

    return give(fd, &c, sizeof c) && (!n || give(fd, data, n));
}

static bool data_chunk(struct peer *p, int fd, const struct nbd_request *r, u16 flags, u64 at,
                       u32 n)
{
    struct nbd_chunk c = { be32_of(NBD_CHUNK_MAGIC), be16_of(flags),
                           be16_of(NBD_REPLY_OFFSET_DATA), r->cookie, be32_of(n + 8) };
    be64 where = be64_of(at);

    return give(fd, &c, sizeof c) && give(fd, &where, 8) && give(fd, p->disk + at, n);
}

static bool hole_chunk(int fd, const struct nbd_request *r, u16 flags, u64 at, u32 n)
{
    struct {
        be64 at;
        be32 n;
    } __attribute__((packed)) h = { be64_of(at), be32_of(n) };

    return chunk(fd, r, flags, NBD_REPLY_OFFSET_HOLE, &h, sizeof h);
}

static bool error_chunk(int fd, const struct nbd_request *r, u32 error)
{
    struct {
        be32 error;
        be16 n;
    } __attribute__((packed)) e = { be32_of(error), be16_of(0) };

    return chunk(fd, r, 1, NBD_REPLY_ERROR, &e, sizeof e);
}

/* Reads come in two pieces, the second one first; its end is a hole. */
static bool honest(struct peer *p, int fd, const struct nbd_request *r, const u8 *payload)
{
    u64 at = be64_get(r->at);
    u32 n = be32_get(r->len), status[3];

    switch (be16_get(r->type)) {
    case NBD_CMD_READ:
        if (p->simple) {
            struct nbd_simple_reply s = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(0),
                                          r->cookie };
            return give(fd, &s, sizeof s) && give(fd, p->disk + at, n);
        }
        if (n < 3000)
            return data_chunk(p, fd, r, 1, at, n);
        memset(p->disk + at + n - 500, 0, 500);
        return hole_chunk(fd, r, 0, at + n - 500, 500) &&
               data_chunk(p, fd, r, 0, at + 1000, n - 1500) &&
               data_chunk(p, fd, r, 0, at, 1000) && chunk(fd, r, 1, NBD_REPLY_NONE, NULL, 0);
    case NBD_CMD_WRITE:
        memcpy(p->disk + at, payload, n);
        break;
    case NBD_CMD_BLOCK_STATUS:
        status[0] = GUINT32_TO_BE(7);
        status[1] = GUINT32_TO_BE(n > 65536 ? 65536 : n);
        status[2] = GUINT32_TO_BE(at < 65536 ? 0 : 3);
        return chunk(fd, r, 1, NBD_REPLY_BLOCK_STATUS, status, 12);
    default:
        break;
    }
    struct nbd_simple_reply s = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(0), r->cookie };
    return give(fd, &s, sizeof s);
}

static struct image *open_at(struct peer *p, bool write, u32 delay)
{
    GError *error = NULL;
    struct image_options o = { .read_only = !write, .discard = true };
    g_autofree char *text =
        g_strdup_printf("driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=%s,"
                        "file.export=x,file.reconnect-delay=%u",
                        p->path, delay);
    struct dict *d = dict_from_text(text, NULL, &error);

    if (p->oldstyle)
        dict_set(d, "file.export", "");
    struct image *img = image_open_dict(d, &o, &error);
    EXPECT_STR(error ? error->message : "none", "none");
    g_clear_error(&error);
    return img;
}

TEST(reads_writes_and_looks)
{
    static struct peer p = { .answer = honest, .flags = NBD_FLAG_SEND_FLUSH };
    static u8 buf[200000];
    struct image_extent e;

    peer_start(&p);
    struct image *img = open_at(&p, true, 0);
    if (img) {
        EXPECT_EQ(image_size(img), SIZE);
        EXPECT_EQ(image_read_now(img, 4096, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, p.disk + 4096, sizeof buf), 0);
        EXPECT(p.requests >= 3); /* the server takes 64 KiB at once */
        memset(buf, 0x5a, sizeof buf);
        EXPECT_EQ(image_write_now(img, 77, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, p.disk + 77, sizeof buf), 0);
        EXPECT_EQ(image_flush_now(img), 0);
        EXPECT_EQ(image_status_now(img, 0, SIZE, 0, &e), 0);
        EXPECT_EQ(e.len, 65536);
        EXPECT(e.flags & IMAGE_DATA);
        EXPECT_EQ(image_status_now(img, 65536, SIZE - 65536, 0, &e), 0);
        EXPECT(e.flags & IMAGE_ZERO && !(e.flags & IMAGE_DATA));
        image_close(img);
    }
    peer_stop(&p);
}

TEST(old_servers)
{
    static struct peer p = { .answer = honest, .oldstyle = true, .simple = true };
    static struct peer q = { .answer = honest, .simple = true };
    static u8 buf[5000];

    peer_start(&p);
    struct image *img = open_at(&p, true, 0);
    if (img) {
        EXPECT_EQ(image_read_now(img, 100, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, p.disk + 100, sizeof buf), 0);
        image_close(img);
    }
    peer_stop(&p);
    peer_start(&q);
    if ((img = open_at(&q, true, 0))) {
        struct image_extent e;

        EXPECT_EQ(image_read_now(img, 100, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, q.disk + 100, sizeof buf), 0);
        EXPECT_EQ(image_status_now(img, 0, SIZE, 0, &e), 0); /* all is data, for all we know */
        EXPECT_EQ(e.len, SIZE);
        EXPECT(e.flags & IMAGE_DATA);
        image_close(img);
    }
    peer_stop(&q);
}

TEST(a_server_with_blocks)
{
    static struct peer p = { .answer = honest, .simple = true, .min_block = 512 };
    static u8 buf[5000], was[SIZE];

    peer_start(&p);
    memcpy(was, p.disk, SIZE);
    struct image *img = open_at(&p, true, 0);
    if (img) {
        EXPECT_EQ(image_read_now(img, 1000, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, p.disk + 1000, sizeof buf), 0);
        memset(buf, 0xa5, sizeof buf);
        memset(was + 700, 0xa5, 3000);
        memset(was + 10000, 0xa5, 10);
        EXPECT_EQ(image_write_now(img, 700, buf, 3000), 0);
        EXPECT_EQ(image_write_now(img, 10000, buf, 10), 0);
        EXPECT_EQ(memcmp(was, p.disk, SIZE), 0);
        image_close(img);
    }
    peer_stop(&p);
}

/* --- those that lie --------------------------------------------------------------------------
 */

static int lie;
enum {
    WRONG_COOKIE,
    HUGE_CHUNK,
    BEFORE,
    BEYOND,
    TWICE,
    TOO_LITTLE,
    CUT,
    NO_MAGIC,
    SIMPLE_DATA,
    STATUS_UNASKED,
    LONG_ERROR,
    UNKNOWN_CHUNK,
    LONG_HOLE,
    GONE,
    LIES
};

static bool liar(struct peer *p, int fd, const struct nbd_request *r, const u8 *payload UNUSED)
{
    struct nbd_request other = *r;
    struct nbd_simple_reply s = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(0), r->cookie };
    struct nbd_chunk c = { be32_of(NBD_CHUNK_MAGIC), be16_of(1), be16_of(NBD_REPLY_OFFSET_DATA),
                           r->cookie, be32_of(0xffffffff) };
    u64 at = be64_get(r->at);
    u32 n = be32_get(r->len), zero[64] = { 0 };

    switch (lie) {
    case WRONG_COOKIE:
        other.cookie = be64_of(be64_get(r->cookie) + 1);
        return data_chunk(p, fd, &other, 1, at, n);
    case HUGE_CHUNK:
        return give(fd, &c, sizeof c) && give(fd, zero, sizeof zero);
    case BEFORE:
        return data_chunk(p, fd, r, 1, at - 1, n);
    case BEYOND:
        return data_chunk(p, fd, r, 1, at + 1, n);
    case TWICE:
        return data_chunk(p, fd, r, 0, at, 1000) && data_chunk(p, fd, r, 1, at + 500, n - 500);
    case TOO_LITTLE:
        return data_chunk(p, fd, r, 1, at, n - 1);
    case CUT:
        give(fd, &c, 7);
        return false;
    case NO_MAGIC:
        return give(fd, zero, sizeof zero);
    case SIMPLE_DATA:
        return give(fd, &s, sizeof s) && give(fd, p->disk, n);
    case STATUS_UNASKED:
        return chunk(fd, r, 1, NBD_REPLY_BLOCK_STATUS, zero, 12);
    case LONG_ERROR:
        c.type = be16_of(NBD_REPLY_ERROR);
        return give(fd, &c, sizeof c);
    case UNKNOWN_CHUNK:
        return chunk(fd, r, 1, 99, zero, 12);
    case LONG_HOLE:
        return hole_chunk(fd, r, 1, at, 0xffffffff);
    default:
        return false;
    }
}

TEST(lies_are_errors)
{
    static u8 buf[4000];

    for (lie = 0; lie < LIES; lie++) {
        static struct peer p;

        p = (struct peer){ .answer = liar };
        peer_start(&p);
        struct image *img = open_at(&p, false, 0);
        if (img) {
            int r = image_read_now(img, 8192, buf, sizeof buf);
            if (r != -EIO)
                printf("# lie %d\n", lie);
            EXPECT_EQ(r, -EIO);
            image_close(img);
        }
        peer_stop(&p);
    }
}

static bool refuses(struct peer *p UNUSED, int fd, const struct nbd_request *r,
                    const u8 *payload UNUSED)
{
    struct nbd_simple_reply s = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(NBD_ENOSPC),
                                  r->cookie };

    if (be16_get(r->type) == NBD_CMD_READ)
        return error_chunk(fd, r, NBD_EPERM);
    if (be16_get(r->type) == NBD_CMD_FLUSH)
        s.error = be32_of(4711);
    return give(fd, &s, sizeof s);
}

TEST(errors_have_names)
{
    static struct peer p = { .answer = refuses, .flags = NBD_FLAG_SEND_FLUSH };
    u8 buf[512] = { 0 };

    peer_start(&p);
    struct image *img = open_at(&p, true, 0);
    if (img) {
        EXPECT_EQ(image_read_now(img, 0, buf, sizeof buf), -EPERM);
        EXPECT_EQ(image_write_now(img, 0, buf, sizeof buf), -ENOSPC);
        EXPECT_EQ(image_flush_now(img), -EIO);
        EXPECT_EQ(p.connections, 1); /* errors end nothing */
        image_close(img);
    }
    peer_stop(&p);
}

/* The first connection goes in the middle of the third request. */
static bool faints(struct peer *p, int fd, const struct nbd_request *r, const u8 *payload)
{
    return !(p->connections == 1 && p->requests >= 3) && honest(p, fd, r, payload);
}

TEST(connects_again)
{
    static struct peer p = { .answer = faints }, q = { .answer = faints };
    static u8 buf[2000];

    peer_start(&p);
    struct image *img = open_at(&p, false, 20);
    for (u32 i = 0; img && i < 6; i++) {
        EXPECT_EQ(image_read_now(img, i * 4096, buf, sizeof buf), 0);
        EXPECT_EQ(memcmp(buf, p.disk + i * 4096, sizeof buf), 0);
    }
    EXPECT_EQ(p.connections, 2);
    if (img)
        image_close(img);
    peer_stop(&p);

    peer_start(&q); /* without a delay requests fail, and later ones find a new connection */
    img = open_at(&q, false, 0);
    int failed = 0, after = -1;
    for (u32 i = 0; img && i < 4; i++)
        failed += image_read_now(img, i * 4096, buf, sizeof buf) == -EIO;
    EXPECT(failed >= 1);
    for (u32 i = 0; img && after && i < 200; i++) {
        g_usleep(20000);
        after = image_read_now(img, 0, buf, sizeof buf);
    }
    EXPECT_EQ(after, 0);
    if (img)
        image_close(img);
    peer_stop(&q);
}

static void done(void *opaque, int ret)
{
    _Atomic u32 *count = opaque;

    *count += ret ? 1000 : 1;
}

TEST(many_at_once)
{
    static struct peer p = { .answer = honest };
    static u8 buf[300][4096];
    _Atomic u32 count = 0;

    peer_start(&p);
    struct image *img = open_at(&p, false, 0);
    for (u32 i = 0; img && i < 300; i++) {
        struct iovec v = { buf[i], 2048 };
        image_read(img, (i % 256) * 4096, &v, 1, done, &count);
    }
    if (img)
        image_close(img);
    EXPECT_EQ(count, 300);
    for (u32 i = 0; i < 300; i++)
        EXPECT_EQ(memcmp(buf[i], p.disk + (i % 256) * 4096, 2048), 0);
    peer_stop(&p);
}

static void bad_name(const char *name)
{
    struct image_options o = { .read_only = true };
    GError *error = NULL;
    struct image *img = image_open(name, &o, &error);

    EXPECT(!img && error);
    g_clear_error(&error);
}

TEST(names)
{
    bad_name("nbd:");
    bad_name("nbd:host");
    bad_name("nbd:unix:");
    bad_name("nbd://host/x?socket=/tmp/x");
    bad_name("nbd+unix:///x");
    bad_name("nbd+unix://host/x?socket=/x");
    bad_name("nbd+unix:///x?socket=/nonexistent/socket");
    bad_name("nbd:127.0.0.1:1");
}

TEST_MAIN()
