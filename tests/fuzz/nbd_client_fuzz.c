// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd_client_fuzz.c - fuzz target of the NBD client: a server that says anything.
 *
 * The bytes are what the server says, cut in pieces (two bytes of length before each): the
 * first is for the handshake, and each of the others follows when the client has asked
 * something.  No answer may be written outside of the request that it is for.
 */
#include <glib.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz.h"
#include "image/proto/nbd.h"

enum { SIZE = 65536, GUARD = 64 };

struct server {
    int fd;
    const u8 *p;
    size_t n;
};

static bool say(struct server *s)
{
    if (s->n < 2)
        return false;
    size_t len = MIN((size_t)(s->p[0] << 8 | s->p[1]), s->n - 2);
    bool ok = send(s->fd, s->p + 2, len, MSG_NOSIGNAL) == (ssize_t)len;
    s->p += 2 + len;
    s->n -= 2 + len;
    return ok;
}

static void *serve(void *opaque)
{
    struct server *s = opaque;
    const struct timeval patience = { .tv_usec = 5000 }; /* else both wait for each other */
    u32 magic = 0;
    bool ok = say(s);

    setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);

    while (ok) {
        u8 b;

        if (recv(s->fd, &b, 1, 0) != 1)
            break;
        magic = magic << 8 | b;
        if (magic == NBD_REQUEST_MAGIC)
            ok = say(s);
    }
    close(s->fd);
    return NULL;
}

static void ask(struct nbd_link *l, u16 type, u16 flags, u64 at, u32 len)
{
    static u8 buf[GUARD + SIZE + GUARD];
    struct iovec v[2] = { { buf + GUARD, len / 3 }, { buf + GUARD + len / 3, len - len / 3 } };
    bool data = type == NBD_CMD_READ || type == NBD_CMD_WRITE;
    struct nbd_op op = {
        .type = type, .flags = flags, .at = at, .len = len, .v = v, .n = data ? 2 : 0
    };

    memset(buf, 0xee, sizeof buf);
    nbd_link_do(l, &op);
    for (u32 i = 0; i < GUARD; i++) {
        if (buf[i] != 0xee || buf[GUARD + (data ? len : 0) + i] != 0xee)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static struct nbd_link l;
    pthread_t thread;
    int fd[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
        abort();
    struct server s = { fd[1], data, n };
    nbd_link_init(&l);
    l.warned = true; /* no lines in the log */
    l.address = (struct stream_address){ .kind = STREAM_FD, .fd = fd[0] };
    l.name = g_strdup("x");
    l.context = g_strdup("base:allocation");
    l.silence_ms = 1000;
    l.title = "fuzz";
    pthread_create(&thread, NULL, serve, &s);
    if (nbd_link_open(&l, NULL)) {
        ask(&l, NBD_CMD_READ, 0, 4096, 6000);
        ask(&l, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE);
        ask(&l, NBD_CMD_WRITE, 0, 100, 50);
        ask(&l, NBD_CMD_FLUSH, 0, 0, 0);
        ask(&l, NBD_CMD_READ, 0, 0, SIZE);
    }
    shutdown(fd[0], SHUT_RDWR);
    nbd_link_close(&l);
    close(fd[0]);
    pthread_join(thread, NULL);
    return 0;
}

/* --- seeds -----------------------------------------------------------------------------------
 */

static size_t put(u8 *to, size_t at, const void *p, size_t n)
{
    memcpy(to + at, p, n);
    return at + n;
}

static size_t reply(u8 *to, size_t at, u32 option, u32 type, const void *p, u32 n)
{
    struct nbd_option_reply h = { be64_of(NBD_REP_MAGIC), be32_of(option), be32_of(type),
                                  be32_of(n) };

    return put(to, put(to, at, &h, sizeof h), p, n);
}

static size_t simple(u8 *to, size_t at, u32 nth, u32 error)
{
    struct nbd_simple_reply h = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(error),
                                  be64_of(nth * NBD_SLOTS) };

    return put(to, at, &h, sizeof h);
}

static size_t chunk(u8 *to, size_t at, u32 nth, u16 flags, u16 type, const void *p, u32 n,
                    u32 data)
{
    struct nbd_chunk h = { be32_of(NBD_CHUNK_MAGIC), be16_of(flags), be16_of(type),
                           be64_of(nth * NBD_SLOTS), be32_of(n + data) };

    at = put(to, put(to, at, &h, sizeof h), p, n);
    memset(to + at, 0x11, data);
    return at + data;
}

/* Writes the length of the piece that begins at `from`. */
static size_t cut(u8 *to, size_t from, size_t at)
{
    to[from] = (u8)((at - from - 2) >> 8);
    to[from + 1] = (u8)(at - from - 2);
    return at;
}

static size_t hello(u8 *to)
{
    static const u8 export[] = "\0\0\0\0\0\0\0\1\0\0\5\355",
                    sizes[] = "\0\3\0\0\0\1\0\0\20\0\2\0\0";
    be64 magic[2] = { be64_of(NBD_MAGIC), be64_of(NBD_OPTS_MAGIC) };
    size_t n = put(to, 2, magic, sizeof magic);

    n = put(to, n, "\0\3", 2);
    n = reply(to, n, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    n = reply(to, n, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\7base:allocation",
              19);
    n = reply(to, n, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
    n = reply(to, n, NBD_OPT_GO, NBD_REP_INFO, export, 12);
    n = reply(to, n, NBD_OPT_GO, NBD_REP_INFO, sizes, 14);
    return cut(to, 0, reply(to, n, NBD_OPT_GO, NBD_REP_ACK, "", 0));
}

size_t fuzz_seed(unsigned i, u8 *to)
{
    static const u8 at0[] = "\0\0\0\0\0\0\20\0", at1[] = "\0\0\0\0\0\0\24\0";
    static const u8 hole[] = "\0\0\0\0\0\0\25\x70\0\0\22\0",
                    status[] = "\0\0\0\7\0\0\20\0\0\0\0\3\0\0\20\0\0\0\0\0";
    size_t n, from;

    if (i == 2) { /* an old server */
        struct {
            be64 magic, old, size;
            be16 global, flags;
            u8 zero[124];
        } __attribute__((packed)) old = { be64_of(NBD_MAGIC), be64_of(NBD_OLDSTYLE_MAGIC),
                                          be64_of(SIZE),      be16_of(0),
                                          be16_of(5),         { 0 } };
        n = from = cut(to, 0, put(to, 2, &old, sizeof old));
        n = simple(to, n + 2, 1, 0);
        memset(to + n, 0x22, 6000);
        return cut(to, from, n + 6000);
    }
    from = hello(to);
    if (i == 0) {
        n = chunk(to, from + 2, 1, 0, NBD_REPLY_OFFSET_DATA, at1, 8, 368);
        n = chunk(to, n, 1, 0, NBD_REPLY_OFFSET_DATA, at0, 8, 1024);
        n = chunk(to, n, 1, 1, NBD_REPLY_OFFSET_HOLE, hole, 12, 0);
    } else {
        n = chunk(to, from + 2, 1, 1, NBD_REPLY_ERROR, "\0\0\0\5\0\2no", 8, 0);
    }
    from = cut(to, from, n);
    from = cut(to, from, chunk(to, from + 2, 2, 1, NBD_REPLY_BLOCK_STATUS, status, 20, 0));
    from = cut(to, from, simple(to, from + 2, 3, 0));
    from = cut(to, from, simple(to, from + 2, 4, i ? 28 : 0));
    return cut(to, from,
               chunk(to, from + 2, 5, 1, NBD_REPLY_ERROR_OFFSET, "\0\0\0\5\0\0\0\0\0\0\0\0\0\0",
                     14, 0));
}
const unsigned fuzz_seeds = 3;
