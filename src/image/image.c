// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image.c - the door: opening, and the threads that carry out requests.  See image.h.
 *
 * Requests wait in one queue; up to eight threads, started when there is work for them, take
 * them from there and make the node's blocking calls.  A thread that finds nothing for ten
 * seconds ends.  What needs nothing but a file goes past the queue, to the kernel (ring.h), if
 * whoever asks has said that it fetches the completions.
 */
#include "image/image.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "image/graph_impl.h"
#include "image/inside.h"

enum { THREADS_MAX = 8, ASLEEP_MAX = 256, IDLE_SECONDS = 10 };

enum op { OP_READ, OP_WRITE, OP_FLUSH, OP_DISCARD, OP_ZERO };
struct request {
    struct request *next;
    struct image *img;
    enum op op;
    u64 at, len;
    bool flag;      /* write: FUA; zero: may unmap */
    bool bad;       /* outside of the image */
    bool cancelled; /* was held, and is given up */
    bool slow;      /* for the threads: the kernel could not do it at once */
    u64 began;      /* ns */
    struct throttle_request limit;
    image_done *done;
    void *opaque;
    int n;
    struct iovec v[]; /* the second half: as they were, for another try */
};

static u64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

/* --- threads --------------------------------------------------------------------------------
 */

/* After what has changed the image and returned r. */
static int wrote(struct image *img, int r)
{
    return r || !img->writethrough ? r : node_flush(img->node);
}

static int carry_out(struct image *img, struct request *q)
{
    struct node *n = img->node;
    struct cursor c = { q->v, q->n };
    int r;

    if (q->cancelled)
        return -ECANCELED;
    if (q->bad)
        return -EINVAL;
    if (img->read_only && (q->op == OP_WRITE || q->op == OP_DISCARD || q->op == OP_ZERO))
        return -EROFS;
    if (!q->len && q->op != OP_FLUSH)
        return 0;
    switch (q->op) {
    case OP_READ:
        return node_read(n, q->at, q->len, &c);
    case OP_WRITE:
        r = node_write(n, q->at, q->len, &c);
        return r || !(q->flag || img->writethrough) ? r : node_flush(n);
    case OP_FLUSH:
        return img->read_only ? 0 : node_flush(n);
    case OP_DISCARD:
        return node_discard(n, q->at, q->len);
    case OP_ZERO:
        return wrote(img, node_zero(n, q->at, q->len, q->flag));
    }
    return -ENOSYS;
}

/* What the policy says of the error *r; true: the request is held. */
static bool hold(struct image *img, struct request *q, int *r)
{
    int err = *r;

    if (!img->failed || err == -EINVAL || err == -EROFS || err == -ENOTSUP || q->cancelled)
        return false;
    pthread_mutex_lock(&img->lock);
    enum image_on_error act = q->op == OP_READ ? img->on_read : img->on_write;
    if (act == IMAGE_ENOSPC)
        act = err == -ENOSPC ? IMAGE_STOP : IMAGE_REPORT;
    bool held = act == IMAGE_STOP && !img->giving_up;
    if (held) {
        memcpy(q->v, q->v + q->n, (size_t)q->n * sizeof *q->v);
        q->next = img->held;
        img->held = q;
        img->n_held++;
        img->held_err = err;
        pthread_cond_broadcast(&img->idle);
    }
    pthread_mutex_unlock(&img->lock);
    if (act == IMAGE_IGNORE)
        *r = 0;
    if (held || act != IMAGE_STOP)
        img->failed(img->failed_opaque, q->op == OP_READ, -err, act);
    return held;
}

static const u8 kinds[] = {
    [OP_READ] = IMAGE_OP_READ,  [OP_WRITE] = IMAGE_OP_WRITE,     [OP_FLUSH] = IMAGE_OP_FLUSH,
    [OP_ZERO] = IMAGE_OP_WRITE, [OP_DISCARD] = IMAGE_OP_DISCARD,
};

static void count(struct image *img, const struct request *q, int r)
{
    struct counters *c = &img->count[kinds[q->op]];
    u64 now = now_ns();

    img->last_ns = now;
    if (q->bad) {
        c->invalid++;
        return;
    }
    c->ns += now - q->began;
    if (r) {
        c->failed++;
        return;
    }
    c->done++;
    c->bytes += q->len;
    if (kinds[q->op] == IMAGE_OP_WRITE) {
        u64 was = img->highest;

        while (was < q->at + q->len &&
               !atomic_compare_exchange_weak(&img->highest, &was, q->at + q->len))
            ;
    }
}

/* false: it is held, and not done. */
static bool complete(struct image *img, struct request *q, int r)
{
    if (r && hold(img, q, &r))
        return false;
    count(img, q, r);
    if (q->done)
        q->done(q->opaque, r);
    g_free(q);
    return true;
}

/* The next request, or NULL when the thread shall end. REQUIRES(img->lock) */
static struct request *take(struct image *img)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    while (!img->first || img->paused) {
        if (img->closing)
            return NULL;
        img->waiting++;
        int r = pthread_cond_timedwait(&img->work, &img->lock, &until);
        img->waiting--;
        if (r == ETIMEDOUT && !img->first)
            return NULL;
        if (r == ETIMEDOUT)
            until.tv_sec += IDLE_SECONDS;
    }

    struct request *q = img->first;
    img->first = q->next;
    if (!img->first)
        img->last = &img->first;
    img->active++;
    return q;
}

struct node *image_enter(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    while (img->paused)
        pthread_cond_wait(&img->idle, &img->lock);
    img->active++;
    struct node *n = img->node;
    pthread_mutex_unlock(&img->lock);
    return n;
}

void image_leave(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    img->active--;
    if (img->paused)
        pthread_cond_broadcast(&img->idle);
    pthread_mutex_unlock(&img->lock);
}

void image_resume(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    if (!--img->paused) {
        pthread_cond_broadcast(&img->work);
        pthread_cond_broadcast(&img->idle);
    }
    pthread_mutex_unlock(&img->lock);
}

static __thread struct image *working_for;

static void *worker(void *opaque)
{
    struct image *img = opaque;
    struct request *q;

    pthread_setname_np(pthread_self(), "image I/O");
    working_for = img;
    pthread_mutex_lock(&img->lock);
    while ((q = take(img))) {
        pthread_mutex_unlock(&img->lock);
        int r = carry_out(img, q);
        image_leave(img);
        bool done = complete(img, q, r);
        pthread_mutex_lock(&img->lock);
        if (done && --img->pending == img->n_held)
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

/* Somebody has to look at the queue. REQUIRES(img->lock) */
static void call_worker(struct image *img)
{
    if (img->waiting)
        pthread_cond_signal(&img->work);
    else if (img->threads - img->asleep < THREADS_MAX && !start_thread(img) && !img->threads)
        g_error("image '%s': the host has no room for a thread", img->node->filename);
}

void door_thread_sleeps(bool sleeps)
{
    struct image *img = working_for;

    if (!img)
        return;
    pthread_mutex_lock(&img->lock);
    img->asleep += sleeps ? 1 : -1u;
    if (sleeps && img->first && img->asleep <= ASLEEP_MAX)
        call_worker(img);
    pthread_mutex_unlock(&img->lock);
}

/* REQUIRES(img->lock) */
static void enqueue(struct image *img, struct request *q)
{
    q->next = NULL;
    *img->last = q;
    img->last = &q->next;
    call_worker(img);
}

/* --- without threads -------------------------------------------------------------------------
 */

/* The request, which is active, has been done outside of our threads, or it is for them now. */
static void did(struct request *q, bool ok)
{
    struct image *img = q->img;

    pthread_mutex_lock(&img->lock);
    if (ok && q->op == OP_WRITE)
        node_direct_wrote(img->node, q->at + q->len);
    img->active--;
    if (img->paused)
        pthread_cond_broadcast(&img->idle);
    if (!ok) { /* once more as a whole, and the error is told by who knows it */
        q->slow = true;
        enqueue(img, q);
    }
    pthread_mutex_unlock(&img->lock);
    if (!ok)
        return;
    complete(img, q, 0);
    pthread_mutex_lock(&img->lock);
    if (--img->pending == img->n_held)
        pthread_cond_broadcast(&img->idle);
    pthread_mutex_unlock(&img->lock);
}

static void ring_did(void *tag, int res)
{
    struct request *q = tag;

    pthread_mutex_lock(&q->img->lock);
    q->img->in_ring--;
    pthread_mutex_unlock(&q->img->lock);
    did(q, q->op == OP_FLUSH ? res == 0 : res >= 0 && (u64)res == q->len);
}

static void node_did(void *tag, int res)
{
    did(tag, !res);
}

/* For the threads alone. */
static bool slow(const struct image *img, const struct request *q)
{
    return q->bad || q->slow || q->op > OP_FLUSH || q->len > INT32_MAX ||
           (!q->len && q->op != OP_FLUSH) || (img->read_only && q->op != OP_READ);
}

/* true: the node has it, and comes back by node_did(). */
static bool by_node(struct image *img, struct request *q)
{
    if (slow(img, q))
        return false;
    pthread_mutex_lock(&img->lock);
    struct node *n = img->paused || !img->node->drv->start ? NULL : img->node;
    img->active += n != NULL;
    pthread_mutex_unlock(&img->lock);
    if (!n)
        return false;
    bool fua = q->op == OP_WRITE && (q->flag || img->writethrough);
    if (node_start(n, (enum image_op)kinds[q->op], q->at, q->len, q->v, q->n, fua, node_did, q))
        return true;
    image_leave(img);
    return false;
}

/* true: the kernel has it. */
static bool by_ring(struct image *img, struct request *q)
{
    struct direct d;
    bool taken;

    if (slow(img, q))
        return false;
    pthread_mutex_lock(&img->lock);
    taken = !img->paused &&
            node_direct(img->node, (enum image_op)kinds[q->op], q->at, q->len, q->v, q->n, &d);
    if (taken && q->op == OP_FLUSH && d.no_flush)
        taken = false;
    if (taken) {
        img->active++;
        img->in_ring++;
    }
    pthread_mutex_unlock(&img->lock);
    if (!taken)
        return false;
    if (q->op == OP_FLUSH)
        taken = ring_sync(img->ring, d.fd, q);
    else
        taken = ring_rw(img->ring, q->op == OP_WRITE, d.fd, q->v, q->n, d.at,
                        q->op == OP_WRITE && !d.no_flush && (q->flag || img->writethrough), q);
    if (taken)
        return true;
    pthread_mutex_lock(&img->lock);
    img->in_ring--;
    img->active--;
    if (img->paused)
        pthread_cond_broadcast(&img->idle);
    pthread_mutex_unlock(&img->lock);
    return false;
}

bool image_reap_by(struct image *img, int eventfd)
{
    struct direct d;

    image_reap_off(img);
    if (node_direct(img->node, IMAGE_OP_READ, 0, 0, NULL, 0, &d))
        img->ring = ring_new(eventfd, ring_did);
    return img->ring != NULL;
}

void image_reap_off(struct image *img)
{
    ring_free(img->ring);
    img->ring = NULL;
}

u32 image_reap(struct image *img)
{
    return img->ring ? ring_reap(img->ring) : 0;
}

void image_reap_wait(struct image *img, u32 msec)
{
    if (img->ring)
        ring_wait(img->ring, msec);
}

void image_batch(struct image *img, bool on)
{
    if (img->ring)
        ring_batch(img->ring, on);
}

/* Until something has changed. REQUIRES(img->lock) */
static void wait_change(struct image *img)
{
    enum { LOOK_AGAIN = 10 }; /* ms: somebody else may have reaped the last one */

    if (!img->in_ring) {
        pthread_cond_wait(&img->idle, &img->lock);
        return;
    }
    pthread_mutex_unlock(&img->lock);
    if (!ring_reap(img->ring))
        ring_wait(img->ring, LOOK_AGAIN);
    pthread_mutex_lock(&img->lock);
}

void image_pause(struct image *img)
{
    throttle_passing(NULL, true);
    pthread_mutex_lock(&img->lock);
    img->paused++;
    while (img->active)
        wait_change(img);
    pthread_mutex_unlock(&img->lock);
    throttle_passing(NULL, false);
}

/* --- requests --------------------------------------------------------------------------------
 */

/* Its turn has come, after throttle_pass() had it wait. */
static void go(struct throttle_member *m, struct throttle_request *limit)
{
    struct image *img = container_of(m, struct image, throttle);

    pthread_mutex_lock(&img->lock);
    enqueue(img, container_of(limit, struct request, limit));
    pthread_mutex_unlock(&img->lock);
}

static void submit(struct image *img, enum op op, u64 at, u64 len, const struct iovec *v, int n,
                   bool flag, image_done *done, void *opaque)
{
    struct request *q = g_malloc(sizeof *q + (size_t)n * sizeof *v * 2);
    u64 sum = 0;

    *q = (struct request){
        .img = img, .op = op, .at = at, .flag = flag, .done = done, .opaque = opaque
    };
    for (int i = 0; i < n; i++) {
        q->v[i] = q->v[n + i] = v[i];
        if (__builtin_add_overflow(sum, (u64)v[i].iov_len, &sum))
            q->bad = true;
    }
    q->n = n;
    q->len = op == OP_READ || op == OP_WRITE ? sum : len;
    q->began = now_ns();
    q->limit.bytes = q->len;

    pthread_mutex_lock(&img->lock);
    u64 size = img->node->size;
    if (q->len > size || at > size - q->len)
        q->bad = true;
    img->pending++;
    pthread_mutex_unlock(&img->lock);
    bool limited = img->throttle.on && (op == OP_READ || op == OP_WRITE || op == OP_ZERO);
    if (limited && !throttle_pass(&img->throttle, op != OP_READ, &q->limit))
        return;
    if ((!img->ring || !by_ring(img, q)) && !by_node(img, q))
        go(&img->throttle, &q->limit);
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

/* Starts them again, or gives them up. REQUIRES(img->lock) */
static void let_go(struct image *img, bool cancel)
{
    struct request *q = NULL;

    while (img->held) { /* the last one is the first in the list */
        struct request *next = img->held->next;

        img->held->next = q;
        q = img->held;
        img->held = next;
    }
    while (q) {
        struct request *next = q->next;

        q->cancelled = cancel;
        img->n_held--;
        enqueue(img, q);
        q = next;
    }
}

u32 image_quiesce(struct image *img)
{
    throttle_passing(&img->throttle, true);
    pthread_mutex_lock(&img->lock);
    while (img->pending != img->n_held)
        wait_change(img);
    u32 n = img->n_held;
    pthread_mutex_unlock(&img->lock);
    throttle_passing(&img->throttle, false);
    return n;
}

void image_drain(struct image *img)
{
    throttle_passing(&img->throttle, true);
    pthread_mutex_lock(&img->lock);
    img->giving_up++;
    let_go(img, true);
    while (img->pending)
        wait_change(img);
    img->giving_up--;
    pthread_mutex_unlock(&img->lock);
    throttle_passing(&img->throttle, false);
}

void image_give_up(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    let_go(img, true);
    pthread_mutex_unlock(&img->lock);
}

void image_retry(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    img->held_err = 0;
    let_go(img, false);
    pthread_mutex_unlock(&img->lock);
}

int image_held(struct image *img)
{
    pthread_mutex_lock(&img->lock);
    int err = img->held_err;
    pthread_mutex_unlock(&img->lock);
    return err;
}

void image_watch_errors(struct image *img, image_failed *failed, void *opaque)
{
    img->failed = failed;
    img->failed_opaque = opaque;
}

void image_on_errors(struct image *img, enum image_on_error read, enum image_on_error write)
{
    pthread_mutex_lock(&img->lock);
    img->on_read = read;
    img->on_write = write;
    pthread_mutex_unlock(&img->lock);
}

void image_errors(struct image *img, enum image_on_error *ret_read,
                  enum image_on_error *ret_write)
{
    pthread_mutex_lock(&img->lock);
    *ret_read = img->on_read;
    *ret_write = img->on_write;
    pthread_mutex_unlock(&img->lock);
}

bool image_on_error_from_text(const char *text, enum image_on_error *ret)
{
    static const char *const names[] = {
        [IMAGE_REPORT] = "report",
        [IMAGE_IGNORE] = "ignore",
        [IMAGE_STOP] = "stop",
        [IMAGE_ENOSPC] = "enospc",
    };

    for (u32 i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum image_on_error)i;
            return true;
        }
    }
    return false;
}

/* --- limits and counters ---------------------------------------------------------------------
 */

void image_set_throttle(struct image *img, const char *group, const struct image_throttle *t)
{
    throttle_limit(&img->throttle, group, t);
}

char *image_get_throttle(struct image *img, struct image_throttle *ret)
{
    return throttle_limits(&img->throttle, ret);
}

void image_get_stats(struct image *img, struct image_stats *ret)
{
    for (u32 i = 0; i < IMAGE_OPS; i++) {
        const struct counters *c = &img->count[i];

        ret->bytes[i] = c->bytes;
        ret->done[i] = c->done;
        ret->failed[i] = c->failed;
        ret->invalid[i] = c->invalid;
        ret->ns[i] = c->ns;
    }
    ret->highest = img->highest;
    ret->last_ns = img->last_ns;
}

bool image_get_layer(const struct image *img, u32 depth, struct image_layer *ret)
{
    const struct node *n = img->node;

    while (n && depth--)
        n = n->backing;
    if (!n)
        return false;
    *ret = (struct image_layer){ .name = n->name, .highest = n->highest };
    if (n->file) {
        ret->has_file = true;
        ret->file_name = n->file->name;
        ret->file_highest = n->file->highest;
    }
    return true;
}

/* --- on the caller's thread ------------------------------------------------------------------
 */

static bool inside(const struct node *n, u64 at, u64 len)
{
    return len <= n->size && at <= n->size - len;
}

int image_read_now(struct image *img, u64 at, void *to, size_t n)
{
    struct node *node = image_enter(img);
    int r = inside(node, at, n) ? node_pread(node, at, to, n) : -EINVAL;

    image_leave(img);
    return r;
}

int image_write_now(struct image *img, u64 at, const void *from, size_t n)
{
    if (img->read_only)
        return -EROFS;
    struct node *node = image_enter(img);
    int r = inside(node, at, n) ? wrote(img, node_pwrite(node, at, from, n)) : -EINVAL;
    image_leave(img);
    return r;
}

int image_write_compressed_now(struct image *img, u64 at, const void *from, size_t n)
{
    struct iovec v = { (void *)from, n };
    struct cursor c = { &v, 1 };
    int r;

    if (img->read_only)
        return -EROFS;
    struct node *node = image_enter(img);
    if (!node->drv->write_compressed)
        r = -ENOTSUP;
    else if (!inside(node, at, n))
        r = -EINVAL;
    else
        r = wrote(img, node->drv->write_compressed(node, at, n, &c));
    image_leave(img);
    return r;
}

int image_zero_now(struct image *img, u64 at, u64 len, bool may_unmap)
{
    if (img->read_only)
        return -EROFS;
    struct node *node = image_enter(img);
    int r = inside(node, at, len) ? wrote(img, node_zero(node, at, len, may_unmap)) : -EINVAL;
    image_leave(img);
    return r;
}

int image_discard_now(struct image *img, u64 at, u64 len)
{
    if (img->read_only)
        return -EROFS;
    struct node *node = image_enter(img);
    int r = inside(node, at, len) ? node_discard(node, at, len) : -EINVAL;
    image_leave(img);
    return r;
}

int image_flush_now(struct image *img)
{
    if (img->read_only)
        return 0;
    int r = node_flush(image_enter(img));
    image_leave(img);
    return r;
}

int node_chain_status(struct node *n, u64 at, u64 len, u32 layers, struct image_extent *ret)
{
    struct extent e = { 0 };
    u32 depth = 0;

    if (!inside(n, at, len))
        return -EINVAL;
    for (;; depth++) {
        int r = node_status(n, at, len, &e);

        if (r)
            return r;
        if (at + e.len < n->size || !len)
            len = MIN(len, e.len);
        else
            e.len = len = MIN(len, e.len); /* what is beyond n's end is another extent */
        if (!(e.flags & EXTENT_ALLOCATED) && n->drv->kind == FILTER) {
            n = n->file; /* it shows what this shows: no layer of its own */
            depth--;
            continue;
        }
        if (e.flags & EXTENT_ALLOCATED || !n->backing || depth + 1 == layers)
            break;
        n = n->backing;
        if (at >= n->size) { /* the backing file is shorter: zeroes, of this layer's making */
            depth++;
            e = (struct extent){ .len = len, .flags = EXTENT_ZERO };
            break;
        }
    }
    if (!(e.flags & EXTENT_ALLOCATED) && !n->backing)
        e.flags |= EXTENT_ZERO;
    *ret = (struct image_extent){ .at = at,
                                  .len = MIN(len, e.len),
                                  .flags = e.flags,
                                  .depth = depth,
                                  .host = e.host,
                                  .filename = e.in ? e.in->filename : NULL };
    return 0;
}

int image_status_now(struct image *img, u64 at, u64 len, u32 layers, struct image_extent *ret)
{
    int r = node_chain_status(image_enter(img), at, len, layers, ret);

    image_leave(img);
    return r;
}

/* --- opening --------------------------------------------------------------------------------
 */

static struct open_how how_of(const struct image_options *o)
{
    return (struct open_how){
        .write = !o->read_only && !o->snapshot,
        .no_backing = o->no_backing,
        .no_io = o->no_io,
        .check = o->check,
        .bitmaps = o->bitmaps,
        .force_share = o->force_share,
        .share_rw = o->share_rw,
        .discard = o->discard,
        .cache = o->cache,
        .aio = o->aio,
        .graph = o->graph,
    };
}

struct image *image_over(struct node *n, struct graph *graph, bool read_only)
{
    struct image *img = g_new0(struct image, 1);
    pthread_condattr_t attr;

    img->node = n;
    img->graph = graph;
    img->read_only = read_only;
    img->writethrough = n->cache == IMAGE_WRITETHROUGH || n->cache == IMAGE_DIRECTSYNC;
    img->last = &img->first;
    throttle_member_init(&img->throttle, go);
    pthread_mutex_init(&img->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&img->work, &attr);
    pthread_cond_init(&img->idle, NULL);
    pthread_condattr_destroy(&attr);
    if (graph)
        graph_add_image(graph, img);
    return img;
}

static struct image *image_of(struct node *n, const struct image_options *o, GError **error)
{
    if (n && o->load_snapshot && n->drv->snapshots && n->drv->snapshots->load) {
        if (!n->drv->snapshots->load(n, o->load_snapshot, error)) {
            node_unref(n);
            n = NULL;
        }
    } else if (n && o->load_snapshot) {
        fail(error, ERR_UNSUPPORTED, "image '%s': format %s has no internal snapshots",
             n->filename, n->drv->name);
        node_unref(n);
        n = NULL;
    }
    if (n && o->snapshot && !o->read_only) {
        n = overlay_open(n, error);
        if (n && o->graph)
            graph_add_node(o->graph, n);
    }
    if (!n)
        return NULL;
    if (o->detect_zeroes)
        n->detect_zeroes = o->detect_zeroes;
    bool read_only = o->read_only || (n->read_only && !o->snapshot);
    struct image *img = image_over(n, o->graph, read_only);
    img->writethrough = o->cache == IMAGE_WRITETHROUGH || o->cache == IMAGE_DIRECTSYNC;
    return img;
}

struct image *image_open(const char *path, const struct image_options *o, GError **error)
{
    static const struct image_options none;
    struct open_how how = how_of(o ? o : &none);

    if (o && o->format && !driver_find(o->format)) {
        fail(error, ERR_ARGUMENT, "Unknown driver '%s'", o->format);
        return NULL;
    }
    struct dict *d = node_name_options(path, o ? o->format : NULL, error);
    if (d && o && o->node_name)
        dict_set(d, "node-name", o->node_name);
    if (d && o && o->driver)
        dict_merge(d, o->driver);
    return d ? image_of(node_open_dict(d, &how, error), o ? o : &none, error) : NULL;
}

struct image *image_open_dict(struct dict *d, const struct image_options *o, GError **error)
{
    static const struct image_options none;
    struct open_how how = how_of(o ? o : &none);

    return image_of(node_open_dict(d, &how, error), o ? o : &none, error);
}

int image_finish(struct image *img)
{
    if (!img)
        return 0;
    image_drain(img);
    pthread_mutex_lock(&img->lock);
    img->closing = true;
    pthread_cond_broadcast(&img->work);
    while (img->threads)
        pthread_cond_wait(&img->idle, &img->lock);
    pthread_mutex_unlock(&img->lock);
    image_reap_off(img);
    throttle_join(&img->throttle, NULL);
    int r = image_flush_now(img);
    if (img->graph)
        graph_remove_image(img->graph, img);
    node_unref(img->node);
    pthread_cond_destroy(&img->work);
    pthread_cond_destroy(&img->idle);
    pthread_mutex_destroy(&img->lock);
    g_free(img);
    return r;
}

void image_close(struct image *img)
{
    image_finish(img);
}

u64 image_size(const struct image *img)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&img->lock;

    pthread_mutex_lock(lock);
    u64 size = img->node->size;
    pthread_mutex_unlock(lock);
    return size;
}

void image_on_resize(struct image *img, image_resized *fn, void *opaque)
{
    img->resized = fn;
    img->resized_opaque = opaque;
}

bool image_read_only(const struct image *img)
{
    return img->read_only;
}

const char *image_path(const struct image *img)
{
    return img->node->filename;
}

const char *image_node_name(const struct image *img)
{
    return img->node->name;
}

bool image_writethrough(const struct image *img)
{
    return img->writethrough;
}

enum image_detect_zeroes image_detect_zeroes(const struct image *img)
{
    return img->node->detect_zeroes;
}

static const char *const detects[] = {
    [IMAGE_DETECT_OFF] = "off",
    [IMAGE_DETECT_ZERO] = "on",
    [IMAGE_DETECT_UNMAP] = "unmap",
};

const char *image_detect_zeroes_text(enum image_detect_zeroes d)
{
    return detects[d];
}

bool image_detect_zeroes_from_text(const char *text, enum image_detect_zeroes *ret)
{
    for (u32 i = 0; i < ARRAY_LEN(detects); i++) {
        if (strcmp(text, detects[i]) == 0) {
            *ret = (enum image_detect_zeroes)i;
            return true;
        }
    }
    return false;
}

bool image_aio_from_text(const char *text, enum image_aio *ret)
{
    static const char *const names[] = {
        [IMAGE_AIO_THREADS] = "threads",
        [IMAGE_AIO_NATIVE] = "native",
        [IMAGE_AIO_IO_URING] = "io_uring",
    };

    for (u32 i = IMAGE_AIO_THREADS; i < ARRAY_LEN(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum image_aio)i;
            return true;
        }
    }
    return false;
}
