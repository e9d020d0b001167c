// SPDX-License-Identifier: GPL-2.0-or-later
/* ring.c - see ring.h.  Without liburing in the build nobody has one. */
#include "image/ring.h"

#ifndef HAVE_LIBURING

struct ring *ring_new(int eventfd UNUSED, void (*done)(void *tag, int res) UNUSED)
{
    return NULL;
}

void ring_free(struct ring *r UNUSED)
{
}

bool ring_rw(struct ring *r UNUSED, bool write UNUSED, int fd UNUSED,
             const struct iovec *v UNUSED, int n UNUSED, u64 at UNUSED, bool durable UNUSED,
             void *tag UNUSED)
{
    return false;
}

bool ring_sync(struct ring *r UNUSED, int fd UNUSED, void *tag UNUSED)
{
    return false;
}

void ring_batch(struct ring *r UNUSED, bool on UNUSED)
{
}

u32 ring_reap(struct ring *r UNUSED)
{
    return 0;
}

void ring_wait(struct ring *r UNUSED, u32 msec UNUSED)
{
}

#else

#include <glib.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>

enum { ENTRIES = 256, REAP_MAX = 64 };

struct ring {
    struct io_uring u;
    pthread_mutex_t submit, complete;
    u32 batches, queued; /* submit */
    void (*done)(void *tag, int res);
};

struct ring *ring_new(int eventfd, void (*done)(void *tag, int res))
{
    struct ring *r = g_new0(struct ring, 1);

    if (io_uring_queue_init(ENTRIES, &r->u, IORING_SETUP_CLAMP) < 0) {
        g_free(r);
        return NULL;
    }
    if (eventfd >= 0 && io_uring_register_eventfd(&r->u, eventfd) < 0) {
        io_uring_queue_exit(&r->u);
        g_free(r);
        return NULL;
    }
    r->done = done;
    pthread_mutex_init(&r->submit, NULL);
    pthread_mutex_init(&r->complete, NULL);
    return r;
}

void ring_free(struct ring *r)
{
    if (!r)
        return;
    io_uring_queue_exit(&r->u);
    pthread_mutex_destroy(&r->submit);
    pthread_mutex_destroy(&r->complete);
    g_free(r);
}

/* What the kernel does not take now (it is out of memory) it will with the next. */
static void flush(struct ring *r)
{
    int n = io_uring_submit(&r->u);

    r->queued -= n > 0 ? MIN((u32)n, r->queued) : 0;
}

/* NULL: no room. REQUIRES(r->submit) */
static struct io_uring_sqe *entry(struct ring *r)
{
    struct io_uring_sqe *e = io_uring_get_sqe(&r->u);

    if (!e) {
        flush(r);
        e = io_uring_get_sqe(&r->u);
    }
    return e;
}

static void queued(struct ring *r, struct io_uring_sqe *e, void *tag)
{
    io_uring_sqe_set_data(e, tag);
    r->queued++;
    if (!r->batches)
        flush(r);
}

bool ring_rw(struct ring *r, bool write, int fd, const struct iovec *v, int n, u64 at,
             bool durable, void *tag)
{
    pthread_mutex_lock(&r->submit);
    struct io_uring_sqe *e = entry(r);
    if (e && write)
        io_uring_prep_writev2(e, fd, v, (u32)n, at, durable ? RWF_DSYNC : 0);
    else if (e)
        io_uring_prep_readv(e, fd, v, (u32)n, at);
    if (e)
        queued(r, e, tag);
    pthread_mutex_unlock(&r->submit);
    return e != NULL;
}

bool ring_sync(struct ring *r, int fd, void *tag)
{
    pthread_mutex_lock(&r->submit);
    struct io_uring_sqe *e = entry(r);
    if (e) {
        io_uring_prep_fsync(e, fd, IORING_FSYNC_DATASYNC);
        queued(r, e, tag);
    }
    pthread_mutex_unlock(&r->submit);
    return e != NULL;
}

void ring_batch(struct ring *r, bool on)
{
    pthread_mutex_lock(&r->submit);
    if (on && !r->batches++)
        io_uring_cq_eventfd_toggle(&r->u, false); /* old kernels cannot: it rings in vain */
    if (!on && !--r->batches) {
        if (r->queued)
            flush(r);
        io_uring_cq_eventfd_toggle(&r->u, true);
    }
    pthread_mutex_unlock(&r->submit);
}

u32 ring_reap(struct ring *r)
{
    struct io_uring_cqe *cqe[REAP_MAX];
    struct {
        void *tag;
        int res;
    } came[REAP_MAX];

    pthread_mutex_lock(&r->submit);
    if (r->queued && !r->batches) /* the kernel had not taken them */
        flush(r);
    pthread_mutex_unlock(&r->submit);
    pthread_mutex_lock(&r->complete);
    u32 n = io_uring_peek_batch_cqe(&r->u, cqe, REAP_MAX);
    for (u32 i = 0; i < n; i++) {
        came[i].tag = io_uring_cqe_get_data(cqe[i]);
        came[i].res = cqe[i]->res;
    }
    io_uring_cq_advance(&r->u, n);
    pthread_mutex_unlock(&r->complete);
    for (u32 i = 0; i < n; i++)
        r->done(came[i].tag, came[i].res);
    return n;
}

void ring_wait(struct ring *r, u32 msec)
{
    struct pollfd p = { .fd = r->u.ring_fd, .events = POLLIN };

    poll(&p, 1, (int)msec);
}

#endif
