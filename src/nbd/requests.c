// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * requests.c - what clients ask of an export: doc/proto.md of the nbd project, "Transmission".
 *
 *      take (the server's thread) ─> start ─> the image ─> answer (any thread) ─> free
 */
#include <errno.h>
#include <string.h>

#include "nbd/impl.h"

u64 export_size(const struct nbd_export *e)
{
    u64 size = image_size(e->image);

    return size > e->offset ? size - e->offset : 0;
}

u16 export_flags(const struct client *c, const struct nbd_export *e)
{
    u16 flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if (e->writable)
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES;
    else
        flags |= NBD_FLAG_READ_ONLY;
    if (c->structured)
        flags |= NBD_FLAG_SEND_DF;
    /* All clients are in the same image, and a flush is for all that was written to it. */
    if (c->server->max_clients != 1)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    return flags;
}

static u32 error_of(int r)
{
    switch (-r) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

/* --- answers ---------------------------------------------------------------------------------
 */

static void head_put(struct request *r, const void *p, u32 n)
{
    memcpy(r->out.head + r->out.n_head, p, n);
    r->out.n_head += n;
}

static void head_chunk(struct request *r, u16 type, u32 len)
{
    struct nbd_chunk h = { be32_of(NBD_CHUNK_MAGIC), be16_of(NBD_REPLY_FLAG_DONE),
                           be16_of(type), be64_of(r->cookie), be32_of(len) };

    head_put(r, &h, sizeof h);
}

static bool is_zero(const u8 *p, u64 n)
{
    return n && !p[0] && !p[n / 2] && !p[n - 1] && !memcmp(p, p + 1, n - 1);
}

static void data_gone(struct request *r)
{
    g_clear_pointer(&r->out.data, g_free);
    r->out.n_data = 0;
}

static void answer_read(struct request *r)
{
    be64 at = be64_of(r->at);
    be32 len = be32_of(r->len);

    if (is_zero(r->out.data, r->len)) {
        head_chunk(r, NBD_REPLY_OFFSET_HOLE, 12);
        head_put(r, &at, 8);
        head_put(r, &len, 4);
        data_gone(r);
        return;
    }
    head_chunk(r, NBD_REPLY_OFFSET_DATA, r->len + 8);
    head_put(r, &at, 8);
    r->out.n_data = r->len;
}

void client_answer(struct request *r, int error)
{
    struct client *c = r->out.client;
    u32 code = error_of(error);
    bool reads = r->type == NBD_CMD_READ, looks = r->type == NBD_CMD_BLOCK_STATUS;

    if (code || !(reads || looks))
        data_gone(r);
    if (c->structured && (reads || looks)) {
        struct {
            be32 code;
            be16 len;
        } __attribute__((packed)) e = { be32_of(code), be16_of(0) };

        if (code) {
            head_chunk(r, NBD_REPLY_ERROR, sizeof e);
            head_put(r, &e, sizeof e);
        } else if (reads) {
            answer_read(r);
        } /* a look has its chunks ready */
    } else {
        struct nbd_simple_reply h = { be32_of(NBD_SIMPLE_REPLY_MAGIC), be32_of(code),
                                      be64_of(r->cookie) };

        head_put(r, &h, sizeof h);
        if (!code && reads)
            r->out.n_data = r->len;
    }
    client_put(c, &r->out);
}

void request_free(struct request *r)
{
    g_free(r->out.data);
    g_free(r);
}

/* --- what is where ---------------------------------------------------------------------------
 */

static u32 status_of(struct request *r, u32 context, u64 at, u64 len, u64 *ret_len, int *error)
{
    const struct nbd_export *e = r->out.client->export;
    struct image_extent x;

    if (context == CONTEXT_BITMAP)
        return e->dirty(e->opaque, at, len, ret_len) ? 1 : 0;
    *error = image_status_now(e->image, at, len, 0, &x);
    if (*error)
        return 0;
    *ret_len = x.len;
    if (context == CONTEXT_DEPTH)
        return x.flags & IMAGE_ALLOCATED ? x.depth + 1 : 0;
    return (x.flags & IMAGE_DATA ? 0 : NBD_STATE_HOLE) |
           (x.flags & IMAGE_ZERO ? NBD_STATE_ZERO : 0);
}

static int look(struct request *r, u32 context, GByteArray *to)
{
    u64 at = r->at + r->out.client->export->offset, left = r->len;
    u32 most = r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : EXTENTS_MAX, n = 0, last = 0, run = 0;
    g_autoptr(GByteArray) all = g_byte_array_new();

    while (left) {
        u64 len = 0;
        int error = 0;
        u32 flags = status_of(r, context, at, left, &len, &error);

        if (error)
            return error;
        len = MIN(len, left);
        if (!len)
            return -EIO;
        if (n && flags == last) {
            run += (u32)len;
        } else {
            if (n == most)
                break;
            n++;
            run = (u32)len;
            last = flags;
            g_byte_array_set_size(all, n * 8);
        }
        be32 pair[2] = { be32_of(run), be32_of(last) };
        memcpy(all->data + (n - 1) * 8, pair, 8);
        at += len;
        left -= len;
    }
    struct nbd_chunk h = { be32_of(NBD_CHUNK_MAGIC), be16_of(0),
                           be16_of(NBD_REPLY_BLOCK_STATUS), be64_of(r->cookie),
                           be32_of(4 + all->len) };
    be32 id = be32_of(context);
    g_byte_array_append(to, (u8 *)&h, sizeof h);
    g_byte_array_append(to, (u8 *)&id, sizeof id);
    g_byte_array_append(to, all->data, all->len);
    return 0;
}

void request_look(gpointer p, gpointer server UNUSED)
{
    struct request *r = p;
    struct client *c = r->out.client;
    g_autoptr(GByteArray) all = g_byte_array_new();
    int error = 0;
    guint last = 0;

    for (u32 i = 0; i < CONTEXTS && !error; i++) {
        if (!c->context[i])
            continue;
        last = all->len;
        error = look(r, i, all);
    }
    if (!error) {
        be16 done = be16_of(NBD_REPLY_FLAG_DONE);

        memcpy(all->data + last + offsetof(struct nbd_chunk, flags), &done, 2);
        r->out.n_data = all->len;
        r->out.data = g_byte_array_free(g_steal_pointer(&all), FALSE);
    }
    client_answer(r, error);
}

/* --- asking the image ------------------------------------------------------------------------
 */

static void done(void *opaque, int error)
{
    client_answer(opaque, error);
}

/* The second half of a request whose effect shall be durable. */
static void then_flush(void *opaque, int error)
{
    struct request *r = opaque;

    if (error)
        client_answer(r, error);
    else
        image_flush(r->out.client->export->image, done, r);
}

void request_start(struct request *r)
{
    struct client *c = r->out.client;
    struct nbd_export *e = c->export;
    struct iovec v = { r->out.data, r->len };
    bool fua = r->flags & NBD_CMD_FLAG_FUA;
    u64 at = r->at + e->offset;

    if (r->error) {
        client_answer(r, r->error);
        return;
    }
    switch (r->type) {
    case NBD_CMD_READ:
    case NBD_CMD_CACHE: /* read into the host's memory, and there it stays for a while */
        v.iov_len = MIN(v.iov_len, NBD_PAYLOAD_MAX);
        image_read(e->image, at, &v, 1, done, r);
        return;
    case NBD_CMD_WRITE:
        image_write(e->image, at, &v, 1, fua, done, r);
        return;
    case NBD_CMD_FLUSH:
        image_flush(e->image, done, r);
        return;
    case NBD_CMD_TRIM:
        image_discard(e->image, at, r->len, fua ? then_flush : done, r);
        return;
    case NBD_CMD_WRITE_ZEROES:
        image_write_zeroes(e->image, at, r->len, !(r->flags & NBD_CMD_FLAG_NO_HOLE),
                           fua ? then_flush : done, r);
        return;
    default:
        g_thread_pool_push(c->server->looks, r, NULL);
        return;
    }
}

/* 0, or why it cannot be done. */
static int check(const struct client *c, const struct request *r)
{
    static const u16 flags[] = {
        [NBD_CMD_READ] = NBD_CMD_FLAG_DF,
        [NBD_CMD_WRITE_ZEROES] = NBD_CMD_FLAG_NO_HOLE,
        [NBD_CMD_BLOCK_STATUS] = NBD_CMD_FLAG_REQ_ONE,
    };
    bool changes =
        r->type == NBD_CMD_WRITE || r->type == NBD_CMD_TRIM || r->type == NBD_CMD_WRITE_ZEROES;
    bool looks = r->type == NBD_CMD_BLOCK_STATUS;

    if (r->type > NBD_CMD_BLOCK_STATUS || r->type == NBD_CMD_DISC)
        return -EINVAL;
    if (r->flags & ~(flags[r->type] | NBD_CMD_FLAG_FUA))
        return -EINVAL;
    if (r->type == NBD_CMD_READ && r->flags & NBD_CMD_FLAG_DF && !c->structured)
        return -EINVAL;
    if (changes && !c->export->writable)
        return -EPERM;
    if (looks && !(c->context[0] || c->context[1] || c->context[2]))
        return -EINVAL;
    if (r->type == NBD_CMD_FLUSH)
        return r->at || r->len ? -EINVAL : 0;
    if (r->len > c->size || r->at > c->size - r->len)
        return changes ? -ENOSPC : -EINVAL;
    if (!r->len && (r->type == NBD_CMD_READ || looks))
        return -EINVAL;
    if (r->type == NBD_CMD_READ && r->len > NBD_PAYLOAD_MAX)
        return -EINVAL;
    return 0;
}

/* Is there room for one more with so many bytes? */
static bool room(struct client *c, u64 bytes)
{
    pthread_mutex_lock(&c->lock);
    bool ok =
        !c->in_flight || (c->in_flight < REQUESTS_MAX && c->bytes + bytes <= CLIENT_BYTES);
    if (ok && c->server->bytes + bytes > SERVER_BYTES)
        ok = !c->in_flight && bytes <= SMALL_BYTES;
    if (ok) {
        c->in_flight++;
        c->bytes += bytes;
        c->server->bytes += bytes;
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

s64 request_take(struct client *c, const u8 *p, u32 have)
{
    struct nbd_request h;

    if (have < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    if (be32_get(h.magic) != NBD_REQUEST_MAGIC || be16_get(h.type) == NBD_CMD_DISC)
        return -1;
    struct request q = { .type = be16_get(h.type),
                         .flags = be16_get(h.flags),
                         .cookie = be64_get(h.cookie),
                         .at = be64_get(h.at),
                         .len = be32_get(h.len) };
    if (q.type == NBD_CMD_WRITE && q.len > NBD_PAYLOAD_MAX)
        return -1; /* not even to be read and thrown away */
    int error = check(c, &q);
    u64 bytes = q.type == NBD_CMD_WRITE   ? q.len
                : error                   ? 0
                : q.type == NBD_CMD_READ  ? q.len
                : q.type == NBD_CMD_CACHE ? MIN(q.len, NBD_PAYLOAD_MAX)
                                          : 0;
    if (!room(c, bytes))
        return 0;
    struct request *r = g_new(struct request, 1);
    *r = q;
    r->out = (struct out){ .client = c, .bytes = bytes, .request = true };
    r->out.data = bytes ? g_try_malloc(bytes) : NULL;
    if (bytes && !r->out.data && q.type == NBD_CMD_WRITE) {
        c->writing = r; /* freed with him */
        return -1;
    }
    r->error = bytes && !r->out.data ? -ENOMEM : error;
    if (q.type == NBD_CMD_WRITE && q.len) {
        c->writing = r; /* also one that fails: its data come all the same */
        c->writing_at = 0;
    } else if (!r->error && !q.len && (q.type == NBD_CMD_WRITE || q.type == NBD_CMD_CACHE)) {
        client_answer(r, 0);
    } else {
        request_start(r);
    }
    return sizeof h;
}
