// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stream.c - fills a node with what its backing chain holds, down to a base, so that what lies
 * between can go.
 *
 * A piece that the node has not allocated is read through the chain and written into the node.
 * The guest may write there at the same time: ranges let in either the copy or the guest, and
 * the copy looks at the allocation when it is inside.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

struct stream {
    struct job job;
    struct node *top, *base; /* base NULL: the whole chain */
    char *backing_file;
    struct tap tap;
    bool tapped;
    bool was_writable;
    pthread_mutex_t lock; /* ranges */
    struct ranges ranges;
    bool has_ranges;
    _Atomic pthread_t thread;
};

static struct stream *stream_of(struct job *job)
{
    return container_of(job, struct stream, job);
}

static int guest_begins(struct tap *t, u64 at, u64 len, struct range *range)
{
    struct stream *s = container_of(t, struct stream, tap);

    *range = (struct range){ .at = at, .end = at + len };
    if (pthread_equal(pthread_self(), s->thread)) /* that is us, inside already */
        return 0;
    pthread_mutex_lock(&s->lock);
    ranges_enter(&s->ranges, &s->lock, range);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void guest_ended(struct tap *t, u64 at UNUSED, u64 len UNUSED, struct range *range)
{
    struct stream *s = container_of(t, struct stream, tap);

    if (pthread_equal(pthread_self(), s->thread))
        return;
    pthread_mutex_lock(&s->lock);
    ranges_leave(&s->ranges, range);
    pthread_mutex_unlock(&s->lock);
}

/* Brings at..at+len in, where the top has nothing; *ret_copied: bytes that were moved. */
static int fill(struct stream *s, u64 at, u64 len, void *buf, u64 *ret_copied, bool *ret_write)
{
    struct range range = { .at = at, .end = at + len, .alone = true };
    int r = 0;

    pthread_mutex_lock(&s->lock);
    ranges_enter(&s->ranges, &s->lock, &range);
    pthread_mutex_unlock(&s->lock);
    while (len && !r) {
        bool here, below = false;
        u64 part, part2;

        r = job_allocated(s->top, s->top->backing, at, len, &here, &part);
        if (!r && !here && s->top->backing)
            r = job_allocated(s->top->backing, s->base, at, part, &below, &part2);
        if (!r && !here && s->top->backing)
            part = part2;
        if (!r && below) {
            r = job_copy(s->top, s->top, at, part, buf, false, ret_write);
            *ret_copied += part;
        }
        at += part;
        len -= part;
    }
    pthread_mutex_lock(&s->lock);
    ranges_leave(&s->ranges, &range);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int stream_run(struct job *job)
{
    struct stream *s = stream_of(job);
    u64 size = s->top->size;
    void *buf = job_buffer();
    int r = buf ? 0 : -ENOMEM;

    s->thread = pthread_self();
    job_set_len(job, 0, size);
    for (u64 at = 0; !r && at < size;) {
        u64 len = MIN(size - at, (u64)JOB_CHUNK), copied = 0;
        bool write = false;

        if (job_stop_asked(job)) {
            r = -ECANCELED;
            break;
        }
        r = fill(s, at, len, buf, &copied, &write);
        if (r && job_error(job, r, false) != JOB_REPORT) {
            r = 0;
            continue;
        }
        at += len;
        job_progress(job, r ? 0 : len);
        job_pace(job, copied);
    }
    free(buf);
    /* What the chain held must be durable here before the chain can go. */
    return r ? r : node_flush(s->top);
}

static bool stream_prepare(struct job *job, GError **error)
{
    struct stream *s = stream_of(job);
    const char *name = s->backing_file ? s->backing_file : s->base ? s->base->filename : NULL;

    if (!node_write_backing(s->top, name, s->base ? node_backing_format(s->base) : NULL, error))
        return false;
    node_set_backing(s->top, s->base);
    return true;
}

static void stream_clean(struct job *job)
{
    struct stream *s = stream_of(job);

    if (s->tapped)
        s->top->taps[TAP_JOB] = NULL;
    if (!s->was_writable)
        graph_set_writable(job->graph, s->top, false, NULL);
    if (s->has_ranges) {
        ranges_clear(&s->ranges);
        pthread_mutex_destroy(&s->lock);
    }
    g_free(s->backing_file);
}

static const struct job_driver stream_driver = {
    .type = "stream",
    .size = sizeof(struct stream),
    .block = true,
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
};

/* *ret: NULL for the whole chain. */
static bool find_base(struct graph *g, const struct stream_args *a, struct node *top,
                      struct node **ret, GError **error)
{
    struct node *n = NULL;

    if (!!a->base + !!a->base_node + !!a->bottom > 1)
        return fail(error, ERR_ARGUMENT,
                    "'base', 'base-node' and 'bottom' cannot be specified at the same time");
    *ret = NULL;
    if (!a->base && !a->base_node && !a->bottom)
        return true;
    if (a->base)
        n = job_chain_find(top, a->base);
    else
        n = graph_find_node(g, a->base_node ? a->base_node : a->bottom);
    bool inside = false;
    for (struct node *b = top; b; b = b->backing)
        inside |= b == n;
    if (!n || !inside || (n == top && !a->bottom))
        return fail(error, ERR_NOT_FOUND, "Node '%s' is not a backing image of '%s'",
                    a->base        ? a->base
                    : a->base_node ? a->base_node
                                   : a->bottom,
                    top->name);
    *ret = a->bottom ? n->backing : n;
    return true;
}

bool job_stream(struct graph *g, const struct stream_args *a, GError **error)
{
    struct node *top = job_source(g, &a->job, error), *base;

    if (!top || !find_base(g, a, top, &base, error))
        return false;
    if (!top->drv->set_backing)
        return fail(error, ERR_UNSUPPORTED,
                    "Node '%s': format %s does not support backing files", top->name,
                    top->drv->name);
    if (a->backing_file && !base)
        return fail(error, ERR_ARGUMENT,
                    "backing file specified, but streaming the entire chain");
    struct job *job = job_new(g, &stream_driver, &a->job, error);
    if (!job)
        return false;
    struct stream *s = stream_of(job);
    s->was_writable = true; /* until we have changed it */
    graph_pause(g);
    bool ok =
        job_own_chain(job, top, error) && job_write_to(job, &top, 0, &s->was_writable, error);
    s->top = top;
    s->base = base;
    s->backing_file = g_strdup(a->backing_file);
    pthread_mutex_init(&s->lock, NULL);
    ranges_init(&s->ranges);
    s->has_ranges = true;
    if (ok) {
        s->tap = (struct tap){ guest_begins, guest_ended };
        top->taps[TAP_JOB] = &s->tap;
        s->tapped = true;
    } else {
        job_discard(job);
    }
    graph_resume(g);
    if (ok)
        job_start(job);
    return ok;
}
