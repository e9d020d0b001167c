// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mirror.c - makes another node hold what the source holds, keeps it so, and at the end puts it
 * in the source's place.  Commit of the active layer is a mirror into the base.
 *
 * A tap marks what the guest writes; the thread clears a mark, then copies what it stands for,
 * until none is left.  With copy-mode write-blocking a write's own thread copies what it wrote,
 * before it is acknowledged.  Then ranges keep a write and a copy of the same bytes apart.
 *
 * When it is told to complete, the last marks are dealt with on the main thread, with all
 * requests held back; then whoever stood on the source stands on the target.  Should that be
 * somebody's decision (auto-finalize off), the thread goes on copying until it is made: what is
 * left for the main thread is little.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

enum { GRANULARITY_MIN = 512, GRANULARITY_MAX = 64 * 1024 * 1024 };

struct mirror {
    struct job job;
    struct node *source, *target, *replaces;
    struct node *base; /* commit: the target; else NULL */
    enum job_sync sync;
    bool write_blocking, may_unmap, zero_first;
    struct node *backing; /* what the target shall stand on in the end, with a reference */
    bool set_backing;
    bool was_writable; /* commit: the base */
    struct tap tap;
    bool tapped;
    struct bits dirty;
    pthread_mutex_t lock; /* ranges */
    struct ranges ranges;
    bool has_ranges;
};

static struct mirror *mirror_of(struct job *job)
{
    return container_of(job, struct mirror, job);
}

/* --- the guest's writes ----------------------------------------------------------------------
 */

static int guest_begins(struct tap *t, u64 at, u64 len, struct range *range)
{
    struct mirror *m = container_of(t, struct mirror, tap);

    if (!m->write_blocking)
        return 0;
    u64 grain = BIT(m->dirty.shift);
    *range = (struct range){ .at = ROUND_DOWN(at, grain),
                             .end = ROUND_UP(at + len, grain),
                             .alone = true };
    pthread_mutex_lock(&m->lock);
    ranges_enter(&m->ranges, &m->lock, range);
    pthread_mutex_unlock(&m->lock);
    return 0;
}

/* What lies in there goes to the target now; what does not remains marked. */
static void copy_at_once(struct mirror *m, u64 at, u64 end)
{
    void *buf = job_buffer();
    u64 len = MIN(end, m->source->size) - at;
    bool write;

    if (buf && !job_copy(m->source, m->target, at, len, buf, m->may_unmap, &write))
        bits_reset(&m->dirty, at, len);
    free(buf);
}

static void guest_ended(struct tap *t, u64 at, u64 len, struct range *range)
{
    struct mirror *m = container_of(t, struct mirror, tap);

    bits_set(&m->dirty, at, len);
    if (m->write_blocking) {
        copy_at_once(m, range->at, range->end);
        pthread_mutex_lock(&m->lock);
        ranges_leave(&m->ranges, range);
        pthread_mutex_unlock(&m->lock);
    }
    job_wake(&m->job);
}

/* --- copying ---------------------------------------------------------------------------------
 */

static int copy_chunk(struct mirror *m, u64 at, u64 len, void *buf, bool *ret_write)
{
    struct range range = { .at = at, .end = at + len, .alone = true };

    if (m->write_blocking) {
        pthread_mutex_lock(&m->lock);
        ranges_enter(&m->ranges, &m->lock, &range);
        pthread_mutex_unlock(&m->lock);
    }
    bits_reset(&m->dirty, at, len); /* before reading: a write after this marks it again */
    int r = job_copy(m->source, m->target, at, len, buf, m->may_unmap, ret_write);
    if (r)
        bits_set(&m->dirty, at, len);
    if (m->write_blocking) {
        pthread_mutex_lock(&m->lock);
        ranges_leave(&m->ranges, &range);
        pthread_mutex_unlock(&m->lock);
    }
    return r;
}

/* All that has to be copied to begin with. */
static int mark_all(struct mirror *m)
{
    u64 size = m->source->size;

    if (m->sync == SYNC_NONE)
        return 0;
    if (m->sync == SYNC_FULL && m->zero_first) {
        bits_set(&m->dirty, 0, size);
        return 0;
    }
    /* A new target is zeroes (full), or shows the backing file (top). */
    for (u64 at = 0, len; at < size; at += len) {
        bool marked;
        int r;

        if (m->sync == SYNC_FULL) {
            struct image_extent e;

            r = node_chain_status(m->source, at, size - at, 0, &e);
            marked = !(e.flags & IMAGE_ZERO);
            len = e.len;
        } else {
            r = job_allocated(m->source, m->base ? m->base : m->source->backing, at, size - at,
                              &marked, &len);
        }
        if (r)
            return r;
        if (marked)
            bits_set(&m->dirty, at, len);
        if (job_stop_asked(&m->job))
            return -ECANCELED;
    }
    return 0;
}

/* Counting takes time: not after every piece. */
static void show_progress(struct mirror *m, u64 done, s64 *last)
{
    enum { EVERY = 50000 }; /* us */
    s64 now = g_get_monotonic_time();

    if (now - *last < EVERY)
        return;
    *last = now;
    job_set_len(&m->job, done, done + bits_count(&m->dirty));
}

/* Until nothing is marked and the end has been asked for. */
static int copy_all(struct mirror *m, void *buf)
{
    struct job *job = &m->job;
    u64 done = 0, at = 0, len = 0, next = 0;
    s64 shown = 0;

    for (;;) {
        bool write = false;

        if (job_stop_asked(job))
            return -ECANCELED;
        if (!bits_next(&m->dirty, next, JOB_CHUNK, &at, &len) &&
            !bits_next(&m->dirty, 0, JOB_CHUNK, &at, &len)) {
            job_set_len(job, done, done + bits_count(&m->dirty));
            if (!job_told(job, &job->ready)) {
                int r = node_flush(m->target);

                if (r && job_error(job, r, true) == JOB_REPORT)
                    return r;
                if (!r)
                    job_set_ready(job);
                continue;
            }
            if (job_told(job, &job->complete_asked) || job_told(job, &job->cancel))
                return 0;
            job_wait(job, 1000);
            continue;
        }
        int r = copy_chunk(m, at, len, buf, &write);
        if (r) {
            if (job_error(job, r, write) == JOB_REPORT)
                return r;
            continue;
        }
        next = at + len;
        done += len;
        show_progress(m, done, &shown);
        job_pace(job, len);
    }
}

static int mirror_run(struct job *job)
{
    struct mirror *m = mirror_of(job);
    void *buf = job_buffer();
    int r = buf ? mark_all(m) : -ENOMEM;

    if (!r)
        r = copy_all(m, buf);
    free(buf);
    return r;
}

/* What the guest writes while the end is waited for. */
static int mirror_linger(struct job *job)
{
    struct mirror *m = mirror_of(job);
    void *buf = job_buffer();
    u64 at, len, next = 0;
    int r = buf ? 0 : -ENOMEM;

    while (!r) {
        bool write;

        if (job_stop_asked(job)) {
            r = -ECANCELED;
        } else if (bits_next(&m->dirty, next, JOB_CHUNK, &at, &len) ||
                   bits_next(&m->dirty, 0, JOB_CHUNK, &at, &len)) {
            r = copy_chunk(m, at, len, buf, &write);
            next = at + len;
            job_pace(job, len);
        } else if (job_told(job, &job->finalize_asked)) {
            break;
        } else {
            job_wait(job, 1000);
        }
    }
    free(buf);
    return r;
}

/* --- the end ---------------------------------------------------------------------------------
 */

static bool copy_rest(struct mirror *m, GError **error)
{
    void *buf = job_buffer();
    u64 at = 0, len;
    int r = buf ? 0 : -ENOMEM;

    for (bool write; !r && bits_next(&m->dirty, at, JOB_CHUNK, &at, &len); at += len) {
        bits_reset(&m->dirty, at, len);
        r = job_copy(m->source, m->target, at, len, buf, m->may_unmap, &write);
    }
    free(buf);
    if (!r)
        r = node_flush(m->target);
    return !r || fail_errno(error, -r, "Node '%s': the last bytes", m->target->name);
}

static void mirror_untap(struct mirror *m)
{
    if (m->tapped)
        m->source->taps[TAP_JOB] = NULL;
    m->tapped = false;
}

static bool mirror_prepare(struct job *job, GError **error)
{
    struct mirror *m = mirror_of(job);

    if (!copy_rest(m, error))
        return false;
    if (job->cancel) /* a copy was wanted, no move */
        return true;
    if (m->backing == m->source && !graph_set_writable(job->graph, m->source, false, error))
        return false;
    mirror_untap(m);
    if (m->set_backing)
        node_set_backing(m->target, m->backing);
    graph_replace(job->graph, m->replaces ? m->replaces : m->source, m->target);
    /* What the guest reads from now on must not be given up by the job's end. */
    m->was_writable = true;
    return true;
}

static void mirror_clean(struct job *job)
{
    struct mirror *m = mirror_of(job);

    mirror_untap(m);
    if (m->base && !m->was_writable)
        graph_set_writable(job->graph, m->target, false, NULL);
    node_unref(m->backing);
    bits_clear(&m->dirty);
    if (m->has_ranges) {
        ranges_clear(&m->ranges);
        pthread_mutex_destroy(&m->lock);
    }
}

static const struct job_driver mirror_driver = {
    .type = "mirror",
    .size = sizeof(struct mirror),
    .block = true,
    .run = mirror_run,
    .linger = mirror_linger,
    .prepare = mirror_prepare,
    .clean = mirror_clean,
    .completes = true,
};
static const struct job_driver active_commit_driver = {
    .type = "commit",
    .size = sizeof(struct mirror),
    .block = true,
    .run = mirror_run,
    .linger = mirror_linger,
    .prepare = mirror_prepare,
    .clean = mirror_clean,
    .completes = true,
};

/* --- the beginning ---------------------------------------------------------------------------
 */

/* PAUSED.  Marks come from here on. */
static bool begin(struct mirror *m, u32 granularity, GError **error)
{
    if (!bits_init(&m->dirty, m->source->size, granularity, error))
        return false;
    pthread_mutex_init(&m->lock, NULL);
    ranges_init(&m->ranges);
    m->has_ranges = true;
    m->tap = (struct tap){ guest_begins, guest_ended };
    m->source->taps[TAP_JOB] = &m->tap;
    m->tapped = true;
    job_set_len(&m->job, 0, m->sync == SYNC_NONE ? 0 : m->source->size);
    return true;
}

static u32 fitting_granularity(const struct node *target)
{
    u32 n = target->cluster ? target->cluster : 65536;

    return MAX(4096u, MIN(n, 65536u));
}

static bool set_up(struct mirror *m, const struct mirror_args *a, GError **error)
{
    struct job *job = &m->job;
    struct node *source = m->source;
    enum job_sync sync = a->sync;

    if (sync == SYNC_TOP && !source->backing)
        sync = SYNC_FULL;
    m->sync = sync;
    m->write_blocking = a->write_blocking;
    m->may_unmap = !a->keep_allocated;
    if (!job_own_chain(job, source, error) ||
        !(m->target = job_target(job, &a->target, source, sync, error)))
        return false;
    if (a->replaces) {
        m->replaces = graph_find_node(job->graph, a->replaces);
        if (!m->replaces)
            return fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'",
                        a->replaces);
        if (m->replaces->size != source->size)
            return fail(error, ERR_ARGUMENT,
                        "cannot replace image with a mirror image of different size");
        if (m->replaces->job != job && !job_own(job, m->replaces, error))
            return false;
    }
    /* A new image of a format that begins as zeroes need not get them. */
    m->zero_first = a->target.node || a->target.existing || !m->target->drv->new_is_zero;
    if (!a->target.node) {
        struct node *b = sync == SYNC_TOP ? source->backing : sync == SYNC_NONE ? source : NULL;

        m->set_backing = true;
        m->backing = b ? node_ref(b) : NULL;
    }
    u64 granularity = a->granularity ? a->granularity : fitting_granularity(m->target);
    if (granularity < GRANULARITY_MIN || granularity > GRANULARITY_MAX ||
        granularity & (granularity - 1))
        return fail(error, ERR_ARGUMENT,
                    "Parameter 'granularity' expects a power of 2 in range [512B, 64MB]");
    /* What is written of a cluster of the target fills it with zeroes as long as its backing
     * file is not below it, so what others see through it must come in whole clusters. */
    if (sync != SYNC_FULL)
        granularity = MAX(granularity, m->target->cluster);
    return begin(m, (u32)granularity, error);
}

bool job_mirror(struct graph *g, const struct mirror_args *a, GError **error)
{
    struct node *source = job_source(g, &a->job, error);
    struct job *job = source ? job_new(g, &mirror_driver, &a->job, error) : NULL;

    if (!job)
        return false;
    mirror_of(job)->source = source;
    graph_pause(g);
    bool ok = set_up(mirror_of(job), a, error);
    if (!ok)
        job_discard(job);
    graph_resume(g);
    if (ok)
        job_start(job);
    return ok;
}

bool job_commit_active(struct graph *g, const struct job_args *a, struct node *top,
                       struct node *base, GError **error)
{
    struct job *job = job_new(g, &active_commit_driver, a, error);

    if (!job)
        return false;
    struct mirror *m = mirror_of(job);
    m->source = top;
    m->sync = SYNC_TOP;
    m->was_writable = true; /* until we have changed it */
    graph_pause(g);
    bool ok = job_own_chain(job, top, error) &&
              job_write_to(job, &base, top->size, &m->was_writable, error);
    m->target = m->base = base;
    m->may_unmap = true;
    ok = ok && begin(m, fitting_granularity(base), error);
    if (!ok)
        job_discard(job);
    graph_resume(g);
    if (ok)
        job_start(job);
    return ok;
}
