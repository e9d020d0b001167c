// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd_link.c - see nbd.h.  doc/proto.md of the nbd project, "Transmission phase".
 *
 * A server may say anything: a reply belongs to a slot whose cookie is exactly the one that was
 * sent, its data lie inside of the request and come once, and what is not so ends the
 * connection.  Requests of a connection that ends are asked again for reconnect_ms, if there is
 * progress in between, and fail then.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "image/proto/nbd.h"

enum { ATTEMPT_MS = 30000, RETRY_MS = 500, RETRY_MAX_MS = 16000, PIECES = 64 };

static void queue_init(struct nbd_queue *q)
{
    q->first = NULL;
    q->last = &q->first;
}

static void queue_put(struct nbd_queue *q, struct nbd_op *op)
{
    op->next = NULL;
    *q->last = op;
    q->last = &op->next;
}

static struct nbd_op *queue_take(struct nbd_queue *q)
{
    struct nbd_op *op = q->first;

    if (op && !(q->first = op->next))
        q->last = &q->first;
    return op;
}

static void ring(int fd)
{
    eventfd_write(fd, 1);
}

static int errno_of(u32 error)
{
    static const u8 same[] = { NBD_EPERM,  NBD_EIO,       NBD_ENOMEM,  NBD_EINVAL,
                               NBD_ENOSPC, NBD_EOVERFLOW, NBD_ENOTSUP, NBD_ESHUTDOWN };

    for (u32 i = 0; i < ARRAY_LEN(same); i++) {
        if (error == same[i])
            return -(int)error; /* Linux has the same numbers */
    }
    return -EIO;
}

static u64 bytes_out(const struct nbd_op *op)
{
    return sizeof op->head + (op->type == NBD_CMD_WRITE ? op->len : 0);
}

static void op_done(struct nbd_op *op, int result)
{
    g_clear_pointer(&op->seen, g_free);
    op->done(op, result);
}

/* --- sending ---------------------------------------------------------------------------------
 */

/* From `waiting` to slots. REQUIRES(l->lock) */
static void fill(struct nbd_link *l)
{
    while (l->connected && l->waiting.first && l->used < NBD_SLOTS) {
        struct nbd_op *op = queue_take(&l->waiting);
        u32 i = 0;

        while (l->slot[i])
            i++;
        l->slot[i] = op;
        if (!l->used++)
            l->heard = stream_now(); /* it owes us something from now on */
        op->cookie = ++l->generation * NBD_SLOTS + i;
        op->sent = op->got = 0;
        op->n_seen = 0;
        op->error = 0;
        op->status_len = 0;
        op->head = (struct nbd_request){ .magic = be32_of(NBD_REQUEST_MAGIC),
                                         .flags = be16_of(op->flags),
                                         .type = be16_of(op->type),
                                         .cookie = be64_of(op->cookie),
                                         .at = be64_of(op->at),
                                         .len = be32_of(op->len) };
        queue_put(&l->out, op);
    }
}

/* The next pieces of an op's message. */
static int message(const struct nbd_op *op, struct iovec *to, int room)
{
    u64 skip = op->sent;
    int k = 0;

    if (skip < sizeof op->head) {
        to[k++] = (struct iovec){ (u8 *)&op->head + skip, sizeof op->head - skip };
        skip = 0;
    } else {
        skip -= sizeof op->head;
    }
    for (int i = 0; op->type == NBD_CMD_WRITE && i < op->n && k < room; i++) {
        u64 cut = MIN(skip, op->v[i].iov_len);

        skip -= cut;
        if (cut < op->v[i].iov_len)
            to[k++] = (struct iovec){ (u8 *)op->v[i].iov_base + cut, op->v[i].iov_len - cut };
    }
    return k;
}

/* As much as goes: 0, -EAGAIN when there is more, -errno. REQUIRES(l->lock) */
static int send_some(struct nbd_link *l)
{
    while (l->out.first) {
        struct iovec v[PIECES];
        int k = 0;

        for (struct nbd_op *op = l->out.first; op && k < PIECES / 2; op = op->next)
            k += message(op, v + k, PIECES - k);
        ssize_t r = stream_send(&l->stream, v, k);
        if (r < 0)
            return (int)r;
        while (r > 0 && l->out.first) {
            struct nbd_op *op = l->out.first;
            u64 part = MIN((u64)r, bytes_out(op) - op->sent);

            op->sent += part;
            r -= (ssize_t)part;
            if (op->sent == bytes_out(op))
                queue_take(&l->out);
        }
    }
    return 0;
}

/* false: it can neither be asked now, nor wait. */
static bool start(struct nbd_link *l, struct nbd_op *op, bool may_wait)
{
    bool wake = false;

    pthread_mutex_lock(&l->lock);
    if (!l->connected && (!may_wait || stream_now() >= l->give_up)) {
        pthread_mutex_unlock(&l->lock);
        return false;
    }
    queue_put(&l->waiting, op);
    if (l->connected) {
        fill(l);
        wake = send_some(l) != 0; /* the rest, or the error, is the thread's */
    }
    pthread_mutex_unlock(&l->lock);
    if (wake)
        ring(l->wake_fd);
    return true;
}

void nbd_link_start(struct nbd_link *l, struct nbd_op *op)
{
    if (!start(l, op, true))
        op_done(op, -EIO);
}

bool nbd_link_try(struct nbd_link *l, struct nbd_op *op)
{
    return start(l, op, false);
}

/* --- receiving -------------------------------------------------------------------------------
 */

static int nonsense(struct nbd_link *l, const char *what)
{
    if (!l->warned)
        log_warn("%s: the server %s; the connection is given up", l->title, what);
    l->warned = true;
    return -EPROTO;
}

static struct nbd_op *find(struct nbd_link *l, u64 cookie)
{
    pthread_mutex_lock(&l->lock);
    struct nbd_op *op = l->slot[cookie % NBD_SLOTS];
    if (op && (op->cookie != cookie || op->sent != bytes_out(op)))
        op = NULL;
    pthread_mutex_unlock(&l->lock);
    return op;
}

static void finish(struct nbd_link *l, struct nbd_op *op)
{
    if (!op->error && op->type == NBD_CMD_READ && op->got != op->len)
        op->error = -EIO; /* it says that it is done, and it is not */
    if (!op->error && op->type == NBD_CMD_BLOCK_STATUS && !op->status_len)
        op->error = -EIO;
    pthread_mutex_lock(&l->lock);
    l->slot[op->cookie % NBD_SLOTS] = NULL;
    l->used--;
    l->give_up = INT64_MAX; /* there is progress */
    fill(l);
    bool wake = send_some(l) != 0;
    pthread_mutex_unlock(&l->lock);
    if (wake)
        ring(l->wake_fd);
    op_done(op, op->error);
}

/* Notes that these bytes of a read have come; false: they had already, or are not asked for. */
static bool note_piece(struct nbd_op *op, u64 at, u64 len)
{
    if (!len || op->type != NBD_CMD_READ || at < op->at || len > op->len ||
        at - op->at > op->len - len)
        return false;
    struct nbd_piece p = { (u32)(at - op->at), (u32)len };
    struct nbd_piece *last = op->n_seen ? &op->seen[op->n_seen - 1] : NULL;

    for (u32 i = 0; i < op->n_seen; i++) {
        if (p.at < op->seen[i].at + op->seen[i].len && op->seen[i].at < p.at + p.len)
            return false;
    }
    op->got += len;
    if (last && last->at + last->len == p.at) {
        last->len += p.len;
        return true;
    }
    if (op->n_seen == NBD_PIECES_MAX)
        return false;
    if (!(op->n_seen & (op->n_seen - 1)))
        op->seen = g_renew(struct nbd_piece, op->seen, op->n_seen ? 2 * op->n_seen : 1);
    op->seen[op->n_seen++] = p;
    return true;
}

/* The request's buffer from byte `at` on, at most len bytes of it. */
static int window(const struct nbd_op *op, u64 at, u64 len, struct iovec *to, int room)
{
    int k = 0;

    for (int i = 0; i < op->n && k < room && len; i++) {
        u64 cut = MIN(at, op->v[i].iov_len), part = MIN(len, op->v[i].iov_len - cut);

        at -= cut;
        len -= part;
        if (part)
            to[k++] = (struct iovec){ (u8 *)op->v[i].iov_base + cut, part };
    }
    return k;
}

/* Copies into the request's buffer; from NULL: zeroes. */
static void store(const struct nbd_op *op, u64 at, const u8 *from, u64 len)
{
    struct iovec v;

    for (; len && window(op, at, len, &v, 1); at += v.iov_len, len -= v.iov_len) {
        if (from)
            memcpy(v.iov_base, from, v.iov_len);
        else
            memset(v.iov_base, 0, v.iov_len);
        if (from)
            from += v.iov_len;
    }
}

static u32 get32(const u8 *p)
{
    be32 v;

    memcpy(&v, p, sizeof v);
    return be32_get(v);
}

static u64 get64(const u8 *p)
{
    be64 v;

    memcpy(&v, p, sizeof v);
    return be64_get(v);
}

/* The data of a read follow. */
static void expect_data(struct nbd_link *l, struct nbd_op *op, u64 at, u64 len, bool last)
{
    l->op = op;
    l->data_at = at;
    l->data_left = len;
    l->last_chunk = last;
}

/* A reply at p of `have` bytes: how many it took, 0 when more are needed, -errno. */
static s64 simple_reply(struct nbd_link *l, const u8 *p, u32 have)
{
    struct nbd_simple_reply h;

    if (have < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    struct nbd_op *op = find(l, be64_get(h.cookie));
    if (!op)
        return nonsense(l, "answers what nobody asked");
    if (l->info.structured && (op->type == NBD_CMD_READ || op->type == NBD_CMD_BLOCK_STATUS) &&
        !be32_get(h.error))
        return nonsense(l, "answers in the form that was not agreed on");
    if (op->got || op->status_len)
        return nonsense(l, "answers twice");
    if (be32_get(h.error))
        op->error = errno_of(be32_get(h.error));
    if (!op->error && op->type == NBD_CMD_READ) {
        note_piece(op, op->at, op->len);
        expect_data(l, op, 0, op->len, true);
    } else {
        finish(l, op);
    }
    return sizeof h;
}

/* A chunk without data of a read, at p, as a whole. */
static int small_chunk(struct nbd_link *l, struct nbd_op *op, u32 type, const u8 *p, u32 len)
{
    switch (type) {
    case NBD_REPLY_NONE:
        return len ? nonsense(l, "sends a chunk of a wrong length") : 0;
    case NBD_REPLY_OFFSET_HOLE:
        if (len != 12 || !note_piece(op, get64(p), get32(p + 8)))
            return nonsense(l, "sends a hole where none belongs");
        store(op, get64(p) - op->at, NULL, get32(p + 8));
        return 0;
    case NBD_REPLY_BLOCK_STATUS:
        if (op->type != NBD_CMD_BLOCK_STATUS || len < 12 || len % 8 != 4)
            return nonsense(l, "tells a status that nobody asked for");
        if (get32(p) == l->context_id && !op->status_len) {
            op->status_len = get32(p + 4);
            op->status_flags = get32(p + 8);
            if (!op->status_len)
                return nonsense(l, "tells the status of no bytes");
        }
        return 0;
    default:
        if (!(type & NBD_REPLY_ERR))
            return nonsense(l, "sends a chunk of an unknown kind");
        if (len < 6)
            return nonsense(l, "sends a chunk of a wrong length");
        if (!op->error)
            op->error = errno_of(get32(p));
        return 0;
    }
}

static s64 chunk(struct nbd_link *l, const u8 *p, u32 have)
{
    struct nbd_chunk h;

    if (have < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    u32 len = be32_get(h.len), type = be16_get(h.type);
    bool last = be16_get(h.flags) & NBD_REPLY_FLAG_DONE;
    struct nbd_op *op = find(l, be64_get(h.cookie));

    if (!l->info.structured || !op)
        return nonsense(l, "answers what nobody asked");
    if (type == NBD_REPLY_OFFSET_DATA) {
        if (have < sizeof h + 8)
            return 0;
        u64 at = get64(p + sizeof h);
        if (len <= 8 || !note_piece(op, at, len - 8))
            return nonsense(l, "sends data where none belong");
        expect_data(l, op, at - op->at, len - 8, last);
        return sizeof h + 8;
    }
    if (len > NBD_IN_BYTES - sizeof h)
        return nonsense(l, "sends a chunk that is too long");
    if (have < sizeof h + len)
        return 0;
    int r = small_chunk(l, op, type, p + sizeof h, len);
    if (r)
        return r;
    if (last)
        finish(l, op);
    return (s64)(sizeof h + len);
}

static void data_came(struct nbd_link *l, u64 n)
{
    l->data_at += n;
    l->data_left -= n;
    if (!l->data_left && l->last_chunk)
        finish(l, l->op);
}

/* All that is in the buffer: 0 or -errno. */
static int parse(struct nbd_link *l)
{
    while (l->in_at < l->in_len) {
        const u8 *p = l->in + l->in_at;
        u32 have = l->in_len - l->in_at;
        s64 n;

        if (l->data_left) {
            n = (s64)MIN(have, l->data_left);
            store(l->op, l->data_at, p, (u64)n);
            data_came(l, (u64)n);
        } else if (have < 4) {
            break;
        } else if (get32(p) == NBD_SIMPLE_REPLY_MAGIC) {
            n = simple_reply(l, p, have);
        } else if (get32(p) == NBD_CHUNK_MAGIC) {
            n = chunk(l, p, have);
        } else {
            n = nonsense(l, "sends what is no reply");
        }
        if (n < 0)
            return (int)n;
        if (!n)
            break;
        l->in_at += (u32)n;
    }
    memmove(l->in, l->in + l->in_at, l->in_len - l->in_at);
    l->in_len -= l->in_at;
    l->in_at = 0;
    return 0;
}

static ssize_t recv_locked(struct nbd_link *l, const struct iovec *v, int n)
{
    bool tls = l->stream.tls; /* one thread at a time there */

    if (tls)
        pthread_mutex_lock(&l->lock);
    ssize_t r = stream_recv(&l->stream, v, n);
    if (tls)
        pthread_mutex_unlock(&l->lock);
    return r;
}

/* What there is, within reason: 0 or -errno. */
static int receive(struct nbd_link *l)
{
    enum { ROUNDS = 64 };

    for (u32 i = 0; i < ROUNDS; i++) {
        struct iovec v[PIECES];
        bool direct = l->data_left > 0;
        int k = 1;

        if (direct)
            k = window(l->op, l->data_at, l->data_left, v, PIECES - 1);
        else
            v[0] = (struct iovec){ l->in + l->in_len, sizeof l->in - l->in_len };
        ssize_t r = recv_locked(l, v, k);
        if (r == -EAGAIN)
            return 0;
        if (r <= 0)
            return r ? (int)r : -ECONNRESET;
        if (direct) {
            data_came(l, (u64)r);
            continue;
        }
        l->in_len += (u32)r;
        int err = parse(l);
        if (err)
            return err;
    }
    return 0;
}

/* --- the connection --------------------------------------------------------------------------
 */

static bool connect_once(struct nbd_link *l, s64 until, struct stream *ret,
                         struct nbd_export_info *info, GError **error)
{
    const struct stream_limit limit = { until, l->close_fd };
    const struct nbd_ask ask = { l->name, l->context, l->tls, l->hostname };
    int fd = stream_connect(&l->address, &limit, error);

    if (fd < 0)
        return false;
    stream_init(ret, fd);
    if (nbd_handshake(ret, &ask, &limit, info, error))
        return true;
    stream_close(ret);
    return false;
}

/* All that wait, and all that were asked. */
static void fail_all(struct nbd_link *l)
{
    pthread_mutex_lock(&l->lock);
    struct nbd_op *op = l->waiting.first;
    queue_init(&l->waiting);
    pthread_mutex_unlock(&l->lock);
    while (op) {
        struct nbd_op *next = op->next;

        op_done(op, -EIO);
        op = next;
    }
}

static void lost(struct nbd_link *l, int err)
{
    struct nbd_queue again;

    pthread_mutex_lock(&l->lock);
    if (!l->warned && !l->closing)
        log_warn("%s: the connection is lost: %s", l->title, g_strerror(-err));
    stream_close(&l->stream);
    l->connected = false;
    queue_init(&l->out);
    queue_init(&again);
    for (u32 i = 0; i < NBD_SLOTS; i++) {
        if (l->slot[i])
            queue_put(&again, l->slot[i]);
        l->slot[i] = NULL;
    }
    l->used = 0;
    if (again.first) { /* they come first */
        *again.last = l->waiting.first;
        if (!l->waiting.first)
            l->waiting.last = again.last;
        l->waiting.first = again.first;
    }
    if (l->give_up == INT64_MAX)
        l->give_up = stream_now() + l->reconnect_ms;
    bool over = stream_now() >= l->give_up;
    pthread_mutex_unlock(&l->lock);
    l->op = NULL;
    l->data_left = 0;
    l->in_len = l->in_at = 0;
    if (over)
        fail_all(l);
}

/* Is the export still the one that we know? */
static bool as_before(const struct nbd_link *l, const struct nbd_export_info *i)
{
    return i->size == l->info.size && i->min <= l->info.min && i->max >= l->info.max &&
           i->structured == l->info.structured && i->has_context == l->info.has_context &&
           !((i->flags ^ l->info.flags) & l->info.flags & ~NBD_FLAG_READ_ONLY) &&
           (!l->want_write || !(i->flags & NBD_FLAG_READ_ONLY));
}

/* Until there is a connection; false: it is being closed. */
static bool reconnect(struct nbd_link *l)
{
    s64 pause = RETRY_MS;

    for (;;) {
        struct nbd_export_info info = { 0 };
        struct stream s;
        g_autoptr(GError) why = NULL;
        s64 now = stream_now(), left = l->give_up - now;
        s64 until = now + (left > 0 ? MIN(left, ATTEMPT_MS) : ATTEMPT_MS);

        if (connect_once(l, until, &s, &info, &why)) {
            if (as_before(l, &info)) {
                pthread_mutex_lock(&l->lock);
                l->stream = s;
                l->context_id = info.context;
                l->connected = true;
                l->warned = false;
                fill(l);
                int r = send_some(l);
                pthread_mutex_unlock(&l->lock);
                if (r && r != -EAGAIN)
                    lost(l, r);
                return true;
            }
            stream_close(&s);
            if (!l->warned)
                log_warn("%s: the server has another export now", l->title);
            l->warned = true;
        }
        if (stream_now() >= l->give_up)
            fail_all(l);
        left = l->give_up - stream_now();
        const struct stream_limit limit = {
            stream_now() + (left > 0 ? MIN(left, pause) : pause), l->close_fd
        };
        if (stream_wait(-1, 0, &limit) == -ECANCELED)
            return false;
        if (stream_now() >= l->give_up)
            fail_all(l);
        pause = MIN(pause * 2, RETRY_MAX_MS);
    }
}

/* One round of the thread: 0 or -errno when the connection is over. */
static int serve(struct nbd_link *l)
{
    eventfd_t n;

    pthread_mutex_lock(&l->lock);
    int r = send_some(l);
    s64 silent = l->used ? stream_now() - l->heard : 0;
    bool owes = l->used > 0;
    pthread_mutex_unlock(&l->lock);
    if (r && r != -EAGAIN)
        return r;
    if (silent >= l->silence_ms)
        return -ETIMEDOUT;

    struct pollfd p[] = {
        { .fd = l->stream.fd, .events = (short)(POLLIN | (r ? POLLOUT : 0)) },
        { .fd = l->wake_fd, .events = POLLIN },
        { .fd = l->close_fd, .events = POLLIN },
    };
    int wait = stream_buffered(&l->stream) ? 0
               : owes                      ? (int)(l->silence_ms - silent) + 1
                                           : 60000;
    if (poll(p, 3, wait) < 0 && errno != EINTR)
        return -errno;
    if (p[1].revents)
        eventfd_read(l->wake_fd, &n);
    if (p[2].revents)
        return -ECANCELED;
    if (!p[0].revents && !stream_buffered(&l->stream))
        return 0;
    pthread_mutex_lock(&l->lock);
    l->heard = stream_now();
    pthread_mutex_unlock(&l->lock);
    return receive(l);
}

static void *run(void *opaque)
{
    struct nbd_link *l = opaque;

    pthread_setname_np(pthread_self(), "nbd client");
    for (;;) {
        int r = serve(l);

        if (r == -ECANCELED)
            break;
        if (r) {
            lost(l, r);
            if (!reconnect(l))
                break;
        }
    }
    return NULL;
}

void nbd_link_init(struct nbd_link *l)
{
    *l = (struct nbd_link){ .stream.fd = -1, .give_up = INT64_MAX };
    queue_init(&l->waiting);
    queue_init(&l->out);
    pthread_mutex_init(&l->lock, NULL);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->close_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

bool nbd_link_open(struct nbd_link *l, GError **error)
{
    s64 until = stream_now() + MAX(l->open_ms, ATTEMPT_MS), retry = stream_now() + l->open_ms;
    sigset_t all, old;

    for (;;) {
        GError *why = NULL;

        if (connect_once(l, until, &l->stream, &l->info, &why))
            break;
        if (stream_now() + RETRY_MS > retry) {
            g_propagate_error(error, why);
            return false;
        }
        g_clear_error(&why);
        g_usleep(RETRY_MS * 1000);
    }
    l->context_id = l->info.context;
    l->connected = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r) {
        l->thread = 0;
        return fail_errno(error, r, "no thread for the NBD client");
    }
    return true;
}

void nbd_link_close(struct nbd_link *l)
{
    if (l->thread) {
        pthread_mutex_lock(&l->lock);
        l->closing = true;
        pthread_mutex_unlock(&l->lock);
        ring(l->close_fd);
        pthread_join(l->thread, NULL);
    }
    if (l->connected) {
        struct nbd_request bye = { .magic = be32_of(NBD_REQUEST_MAGIC),
                                   .type = be16_of(NBD_CMD_DISC) };
        struct iovec v = { &bye, sizeof bye };

        stream_send(&l->stream, &v, 1); /* a courtesy: it may not go */
    }
    stream_close(&l->stream);
    fd_close(&l->wake_fd);
    fd_close(&l->close_fd);
    pthread_mutex_destroy(&l->lock);
    stream_address_clear(&l->address);
    tls_creds_unref(l->tls);
    g_free(l->name);
    g_free(l->context);
    g_free(l->hostname);
}

/* --- waiting for one -------------------------------------------------------------------------
 */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int result;
};

static void wake(struct nbd_op *op, int result)
{
    struct waiter *w = op->opaque;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->result = result;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

int nbd_link_do(struct nbd_link *l, struct nbd_op *op)
{
    struct waiter w = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

    op->done = wake;
    op->opaque = &w;
    nbd_link_start(l, op);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.result;
}
