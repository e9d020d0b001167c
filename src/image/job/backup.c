// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * backup.c - copies a node as it was at one moment, while the guest writes on.
 *
 * `todo` has a bit for each granule that is still to be copied.  Before the guest changes such
 * a granule, its thread copies the old bytes; the job's thread copies the others one after the
 * other.  Ranges see to it that each is copied once, and before the change.
 *
 * When the target cannot be written in the guest's way, the backup fails, not the guest.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

enum { GRANULE_MIN = 65536 };

struct backup {
    struct job job;
    struct node *source, *target;
    enum job_sync sync;
    bool compress;
    struct bits todo;
    struct tap tap;
    bool tapped;
    struct bitmap *bitmap; /* incremental: of the source, and what it was */
    struct bits was;
    int bitmap_mode;
    pthread_mutex_t lock; /* ranges, broken */
    struct ranges ranges;
    bool has_ranges;
    int broken; /* -errno of a copy in the guest's way */
};

static struct backup *backup_of(struct job *job)
{
    return container_of(job, struct backup, job);
}

/* One granule or several, whole ones; the last may be cut by the end. */
static int copy_granules(struct backup *b, u64 at, u64 len, void *buf, bool *ret_write)
{
    if (!b->compress)
        return job_copy(b->source, b->target, at, len, buf, true, ret_write);
    u64 cluster = b->target->cluster;
    for (u64 n; len; at += n, len -= n) {
        struct iovec v = { buf, n = MIN(len, cluster) };
        struct cursor c = { &v, 1 };
        int r = node_pread(b->source, at, buf, n);

        *ret_write = false;
        if (!r && node_is_zero(buf, n)) {
            r = node_zero(b->target, at, n, true);
            *ret_write = true;
        } else if (!r) {
            r = b->target->drv->write_compressed(b->target, at, n, &c);
            *ret_write = true;
        }
        if (r)
            return r;
    }
    return 0;
}

/* Copies what is still to be copied of at..at+len, at most JOB_CHUNK. */
static int copy_old(struct backup *b, u64 at, u64 len, u64 *ret_copied, bool *ret_write)
{
    u64 grain = BIT(b->todo.shift);
    struct range range = { .at = ROUND_DOWN(at, grain),
                           .end = ROUND_UP(at + len, grain),
                           .alone = true };
    void *buf = NULL;
    int r = 0;

    *ret_copied = 0;
    pthread_mutex_lock(&b->lock);
    ranges_enter(&b->ranges, &b->lock, &range);
    pthread_mutex_unlock(&b->lock);
    for (u64 part; !r && bits_next(&b->todo, at, JOB_CHUNK, &at, &part); at += part) {
        if (at >= range.end)
            break;
        part = MIN(part, range.end - at);
        if (!buf && !(buf = job_buffer()))
            r = -ENOMEM;
        if (!r)
            r = copy_granules(b, at, part, buf, ret_write);
        if (!r) {
            bits_reset(&b->todo, at, part);
            *ret_copied += part;
        }
    }
    free(buf);
    pthread_mutex_lock(&b->lock);
    ranges_leave(&b->ranges, &range);
    pthread_mutex_unlock(&b->lock);
    job_progress(&b->job, *ret_copied);
    return r;
}

static int guest_begins(struct tap *t, u64 at, u64 len, struct range *range UNUSED)
{
    struct backup *b = container_of(t, struct backup, tap);
    u64 copied;
    bool write;

    pthread_mutex_lock(&b->lock);
    int r = b->broken;
    pthread_mutex_unlock(&b->lock);
    if (!r)
        r = copy_old(b, at, len, &copied, &write);
    if (r) {
        pthread_mutex_lock(&b->lock);
        b->broken = r;
        pthread_mutex_unlock(&b->lock);
        job_wake(&b->job);
    }
    return 0;
}

static void guest_ended(struct tap *t UNUSED, u64 at UNUSED, u64 len UNUSED,
                        struct range *range UNUSED)
{
}

/* Clears what the layers of the sync mode do not hold: it need not be copied. */
static int skip_what_is_below(struct backup *b)
{
    for (u64 at = 0, len; b->sync == SYNC_TOP && at < b->source->size; at += len) {
        u64 grain = BIT(b->todo.shift);
        bool any = false;
        int r = 0;

        /* A granule counts when any of it is there. */
        for (u64 k = at, part; !r && !any && k < MIN(at + grain, b->source->size); k += part)
            r = job_allocated(b->source, b->source->backing, k,
                              MIN(at + grain, b->source->size) - k, &any, &part);
        if (r)
            return r;
        len = grain;
        if (!any)
            bits_reset(&b->todo, at, 1);
        if (job_stop_asked(&b->job))
            return -ECANCELED;
    }
    return 0;
}

static int broken(struct backup *b)
{
    pthread_mutex_lock(&b->lock);
    int r = b->broken;
    pthread_mutex_unlock(&b->lock);
    return r;
}

static int backup_run(struct job *job)
{
    struct backup *b = backup_of(job);
    int r = skip_what_is_below(b);
    u64 at = 0, len;

    job_set_len(job, 0, b->sync == SYNC_NONE ? b->source->size : bits_count(&b->todo));
    while (!r && (b->sync == SYNC_NONE || bits_next(&b->todo, at, JOB_CHUNK, &at, &len))) {
        u64 copied = 0;
        bool write = false;

        if (job_stop_asked(job))
            r = -ECANCELED;
        else
            r = broken(b);
        if (r)
            break;
        if (b->sync == SYNC_NONE) { /* only what the guest changes, until cancelled */
            job_wait(job, 1000);
            continue;
        }
        r = copy_old(b, at, len, &copied, &write);
        if (r && job_error(job, r, write) != JOB_REPORT)
            r = 0;
        job_pace(job, copied);
    }
    if (!r)
        r = broken(b);
    return r ? r : node_flush(b->target);
}

static void finish_bitmap(struct backup *b, bool good)
{
    if (!b->bitmap)
        return;
    /* What changed since is in the bitmap already; the old marks are done with, or not. */
    if (b->bitmap_mode == BITMAP_NEVER || (!good && b->bitmap_mode == BITMAP_ON_SUCCESS))
        bits_merge(&b->bitmap->bits, &b->was);
    else if (!good)
        bits_merge(&b->bitmap->bits, &b->todo); /* always: what was not copied */
    b->bitmap->job = NULL;
    b->bitmap = NULL;
    bits_clear(&b->was);
}

static bool backup_prepare(struct job *job, GError **error)
{
    struct backup *b = backup_of(job);
    int r = broken(b); /* since the thread has ended */

    if (r)
        return fail_errno(error, -r, "Node '%s'", b->target->name);
    r = node_flush(b->target);
    if (r)
        return fail_errno(error, -r, "Node '%s'", b->target->name);
    return true;
}

static void backup_commit(struct job *job)
{
    finish_bitmap(backup_of(job), true);
}

static void backup_abort(struct job *job)
{
    finish_bitmap(backup_of(job), false);
}

static void backup_clean(struct job *job)
{
    struct backup *b = backup_of(job);

    if (b->tapped)
        b->source->taps[TAP_JOB] = NULL;
    finish_bitmap(b, false); /* one that never began */
    bits_clear(&b->todo);
    if (b->has_ranges) {
        ranges_clear(&b->ranges);
        pthread_mutex_destroy(&b->lock);
    }
}

static const struct job_driver backup_driver = {
    .type = "backup",
    .size = sizeof(struct backup),
    .block = true,
    .run = backup_run,
    .prepare = backup_prepare,
    .commit = backup_commit,
    .abort = backup_abort,
    .clean = backup_clean,
};

static bool take_bitmap(struct backup *b, const struct backup_args *a, GError **error)
{
    bool needs = a->sync == SYNC_INCREMENTAL || a->sync == SYNC_BITMAP;

    if (needs && !a->bitmap)
        return fail(error, ERR_ARGUMENT, "must provide a valid bitmap name for '%s' sync mode",
                    a->sync == SYNC_BITMAP ? "bitmap" : "incremental");
    if (!a->bitmap)
        return true;
    if (!needs)
        return fail(error, ERR_ARGUMENT,
                    "a bitmap goes with sync modes incremental and bitmap only");
    if (a->sync == SYNC_INCREMENTAL && a->bitmap_mode != BITMAP_ON_SUCCESS)
        return fail(error, ERR_ARGUMENT,
                    "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
    struct bitmap *m = node_bitmap(b->source, a->bitmap, 0, error);
    if (!m || !bits_init(&b->was, m->bits.size, 1u << m->bits.shift, error))
        return false;
    m->job = &b->job;
    b->bitmap = m;
    b->bitmap_mode = a->sync == SYNC_INCREMENTAL ? BITMAP_ON_SUCCESS : a->bitmap_mode;
    bits_merge(&b->was, &m->bits);
    bits_reset(&m->bits, 0, m->bits.size);
    return true;
}

static bool set_up(struct backup *b, const struct backup_args *a, GError **error)
{
    struct job *job = &b->job;

    b->sync = a->sync == SYNC_TOP && !b->source->backing ? SYNC_FULL : a->sync;
    b->compress = a->compress;
    if (!job_own_chain(job, b->source, error) ||
        !(b->target = job_target(job, &a->target, b->source, b->sync, error)))
        return false;
    if (a->compress && !b->target->drv->write_compressed)
        return fail(error, ERR_UNSUPPORTED, "Compression is not supported for this format: %s",
                    b->target->drv->name);
    if (!a->target.node) {
        struct node *below = b->sync == SYNC_TOP    ? b->source->backing
                             : b->sync == SYNC_NONE ? b->source
                                                    : NULL;
        if (below && !b->target->backing)
            node_set_backing(b->target, below);
    }
    if (!bits_init(&b->todo, b->source->size, MAX(b->target->cluster, (u32)GRANULE_MIN), error))
        return false;
    if (!take_bitmap(b, a, error))
        return false;
    if (b->bitmap)
        bits_merge(&b->todo, &b->was);
    else
        bits_set(&b->todo, 0, b->source->size);
    pthread_mutex_init(&b->lock, NULL);
    ranges_init(&b->ranges);
    b->has_ranges = true;
    b->tap = (struct tap){ guest_begins, guest_ended };
    b->source->taps[TAP_JOB] = &b->tap;
    b->tapped = true;
    return true;
}

bool job_new_backup(struct graph *g, const struct backup_args *a, struct job **ret,
                    GError **error)
{
    struct node *source = job_source(g, &a->job, error);
    struct job *job = source ? job_new(g, &backup_driver, &a->job, error) : NULL;

    if (!job)
        return false;
    backup_of(job)->source = source;
    if (!set_up(backup_of(job), a, error)) {
        job_discard(job);
        return false;
    }
    *ret = job;
    return true;
}

bool job_backup(struct graph *g, const struct backup_args *a, GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_backup(t, a, error);

    transaction_end(t, ok);
    return ok;
}
