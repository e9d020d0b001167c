// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image.c - the door: opening, and the threads that carry out requests.  See image.h.
 *
 * Requests wait in one queue; up to four threads, started when there is work for them, take
 * them from there and make the node's blocking calls.  A thread that finds nothing for ten
 * seconds ends.
 */
#include "image/image.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "image/node.h"

enum { THREADS_MAX = 4, IDLE_SECONDS = 10, PROBE_BYTES = 512 };

enum op { OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZERO };
struct request {
    struct request *next;
    enum op op;
    u64 at, len;
    bool flag; /* write: FUA; zero: may unmap */
    bool bad;  /* outside of the image */
    image_done *done;
    void *opaque;
    int n;
    struct iovec v[];
};

struct image {
    char *path;
    struct node *node;
    bool read_only;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t work, idle;
    struct request *first, **last;
    u32 threads, waiting;
    u32 pending; /* requests not yet done */
    bool closing;
};

/* --- threads --------------------------------------------------------------------------------
 */

static int carry_out(struct image *img, struct request *q)
{
    const struct node_ops *ops = img->node->ops;
    struct cursor c = { q->v, q->n };
    int r;

    if (q->bad)
        return -EINVAL;
    if (img->read_only && (q->op == OP_WRITE || q->op == OP_DISCARD || q->op == OP_ZERO))
        return -EROFS;
    if (!q->len && q->op != OP_FLUSH)
        return 0;
    switch (q->op) {
    case OP_READ:
        return ops->read(img->node, q->at, q->len, &c);
    case OP_WRITE:
        r = ops->write(img->node, q->at, q->len, &c);
        return r || !q->flag ? r : ops->flush(img->node);
    case OP_FLUSH:
        return img->read_only ? 0 : ops->flush(img->node);
    case OP_DISCARD:
        return ops->discard(img->node, q->at, q->len);
    case OP_ZERO:
        return ops->zero(img->node, q->at, q->len, q->flag);
    }
    return -ENOSYS;
}

/* The next request, or NULL when the thread shall end. REQUIRES(img->lock) */
static struct request *take(struct image *img)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    while (!img->first) {
        if (img->closing)
            return NULL;
        img->waiting++;
        int r = pthread_cond_timedwait(&img->work, &img->lock, &until);
        img->waiting--;
        if (r == ETIMEDOUT && !img->first)
            return NULL;
    }

    struct request *q = img->first;
    img->first = q->next;
    if (!img->first)
        img->last = &img->first;
    return q;
}

static void *worker(void *opaque)
{
    struct image *img = opaque;
    struct request *q;

    pthread_setname_np(pthread_self(), "image I/O");
    pthread_mutex_lock(&img->lock);
    while ((q = take(img))) {
        pthread_mutex_unlock(&img->lock);
        int r = carry_out(img, q);
        if (q->done)
            q->done(q->opaque, r);
        g_free(q);
        pthread_mutex_lock(&img->lock);
        if (!--img->pending)
            pthread_cond_broadcast(&img->idle);
    }
    img->threads--;
    pthread_cond_broadcast(&img->idle); /* image_close() waits for the last of us */
    pthread_mutex_unlock(&img->lock);
    return NULL;
}

/* REQUIRES(img->lock) */
static bool start_thread(struct image *img)
{
    pthread_attr_t attr;
    pthread_t t;
    sigset_t all, old;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 512 * 1024);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    bool ok = pthread_create(&t, &attr, worker, img) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    img->threads += ok;
    return ok;
}

static void submit(struct image *img, enum op op, u64 at, u64 len, const struct iovec *v, int n,
                   bool flag, image_done *done, void *opaque)
{
    struct request *q = g_malloc(sizeof *q + (size_t)n * sizeof *v);
    u64 sum = 0;

    *q = (struct request){ .op = op, .at = at, .flag = flag, .done = done, .opaque = opaque };
    for (int i = 0; i < n; i++) {
        q->v[i] = v[i];
        if (__builtin_add_overflow(sum, (u64)v[i].iov_len, &sum))
            q->bad = true;
    }
    q->n = n;
    q->len = op == OP_READ || op == OP_WRITE ? sum : len;
    if (q->len > img->node->size || at > img->node->size - q->len)
        q->bad = true;

    pthread_mutex_lock(&img->lock);
    *img->last = q;
    img->last = &q->next;
    img->pending++;
    if (img->waiting)
        pthread_cond_signal(&img->work);
    else if (img->threads < THREADS_MAX && !start_thread(img) && !img->threads)
        g_error("image '%s': the host has no room for a thread", img->path);
    pthread_mutex_unlock(&img->lock);
}

void image_read(struct image *img, u64 at, const struct iovec *v, int n, image_done *done,
                void *opaque)
{
    submit(img, OP_READ, at, 0, v, n, false, done, opaque);
}

void image_write(struct image *img, u64 at, const struct iovec *v, int n, bool fua,
                 image_done *done, void *opaque)
{
    submit(img, OP_WRITE, at, 0, v, n, fua, done, opaque);
}

void image_flush(struct image *img, image_done *done, void *opaque)
{
    submit(img, OP_FLUSH, 0, 0, NULL, 0, false, done, opaque);
}

void image_discard(struct image *img, u64 at, u64 len, image_done *done, void *opaque)
{
    submit(img, OP_DISCARD, at, len, NULL, 0, false, done, opaque);
}

void image_write_zeroes(struct image *img, u64 at, u64 len, bool may_unmap, image_done *done,
                        void *opaque)
{
    submit(img, OP_ZERO, at, len, NULL, 0, may_unmap, done, opaque);
}

void image_drain(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    while (img->pending)
        pthread_cond_wait(&img->idle, &img->lock);
    pthread_mutex_unlock(&img->lock);
}

/* --- opening --------------------------------------------------------------------------------
 */

static size_t read_some(struct node *n, u64 at, u8 *buf, size_t len)
{
    struct iovec v = { buf, len };
    struct cursor c = { &v, 1 };

    return n->size >= len && n->ops->read(n, at, len, &c) == 0 ? len : 0;
}

static bool format_ok(struct node *n, const char *path, const char *asked, GError **error)
{
    u8 head[PROBE_BYTES], tail[PROBE_BYTES];

    if (asked && !strcmp(asked, "raw"))
        return true;
    if (asked && !probe_known(asked))
        return fail(error, ERR_ARGUMENT, "image '%s': format '%s' is unknown; there is raw",
                    path, asked);
    if (asked)
        return fail(error, ERR_UNSUPPORTED, "image '%s': format %s is not supported yet", path,
                    asked);

    size_t n_head = read_some(n, 0, head, sizeof head);
    size_t n_tail = n_head ? read_some(n, n->size - sizeof tail, tail, sizeof tail) : 0;
    const char *found = probe_format(head, n_head, tail, n_tail);
    return !strcmp(found, "raw") ||
           fail(
               error, ERR_UNSUPPORTED,
               "image '%s': format %s is not supported yet (format=raw takes its bytes as they "
               "are)",
               path, found);
}

static struct node *open_nodes(const char *path, const struct image_options *o, GError **error)
{
    struct node *n =
        file_open(path, !o->read_only && !o->snapshot, o->cache, o->discard, error);

    if (n && !format_ok(n, path, o->format, error)) {
        n->ops->close(n);
        return NULL;
    }
    return n && o->snapshot && !o->read_only ? overlay_open(n, error) : n;
}

struct image *image_open(const char *path, const struct image_options *o, GError **error)
{
    static const struct image_options none;
    struct node *node = open_nodes(path, o ? o : &none, error);
    pthread_condattr_t attr;

    if (!node)
        return NULL;
    struct image *img = g_new0(struct image, 1);
    img->path = g_strdup(path);
    img->node = node;
    img->read_only = o && o->read_only;
    img->last = &img->first;
    pthread_mutex_init(&img->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&img->work, &attr);
    pthread_cond_init(&img->idle, NULL);
    pthread_condattr_destroy(&attr);
    return img;
}

void image_close(struct image *img)
{
    if (!img)
        return;
    image_drain(img);
    pthread_mutex_lock(&img->lock);
    img->closing = true;
    pthread_cond_broadcast(&img->work);
    while (img->threads)
        pthread_cond_wait(&img->idle, &img->lock);
    pthread_mutex_unlock(&img->lock);
    if (!img->read_only)
        img->node->ops->flush(img->node);
    img->node->ops->close(img->node);
    pthread_cond_destroy(&img->work);
    pthread_cond_destroy(&img->idle);
    pthread_mutex_destroy(&img->lock);
    g_free(img->path);
    g_free(img);
}

u64 image_size(const struct image *img)
{
    return img->node->size;
}

bool image_read_only(const struct image *img)
{
    return img->read_only;
}

const char *image_path(const struct image *img)
{
    return img->path;
}
