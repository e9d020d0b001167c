// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2_cache.c - slices of tables in memory, and the order in which they reach the file. */
#include <errno.h>
#include <string.h>

#include "image/format/qcow2.h"

void qcow2_cache_init(struct slice_cache *c, u32 slice_bytes, u64 bytes_max)
{
    *c = (struct slice_cache){ .bytes = slice_bytes };
    c->max = (u32)MAX(bytes_max / slice_bytes, 16);
    c->mask = 1;
    while (c->mask < c->max)
        c->mask <<= 1;
    c->slices = g_new0(struct slice, c->max);
    c->buckets = g_new0(u32, c->mask);
    c->mask--;
}

void qcow2_cache_clear(struct slice_cache *c)
{
    for (u32 i = 0; i < c->n; i++)
        g_free(c->slices[i].data);
    g_free(c->slices);
    g_free(c->buckets);
    *c = (struct slice_cache){ 0 };
}

static u32 *bucket(struct slice_cache *c, u64 at)
{
    return &c->buckets[((at / c->bytes) * 0x9e3779b97f4a7c15ull >> 20) & c->mask];
}

static struct slice *find(struct slice_cache *c, u64 at)
{
    for (u32 i = *bucket(c, at); i; i = c->slices[i - 1].next) {
        if (c->slices[i - 1].at == at)
            return &c->slices[i - 1];
    }
    return NULL;
}

static void unlink_slice(struct slice_cache *c, struct slice *s)
{
    u32 me = (u32)(s - c->slices) + 1;

    for (u32 *p = bucket(c, s->at); *p; p = &c->slices[*p - 1].next) {
        if (*p == me) {
            *p = s->next;
            return;
        }
    }
}

/* A slice that nobody misses; NULL: all have changes. */
static struct slice *take_slot(struct slice_cache *c)
{
    if (c->n < c->max) {
        struct slice *s = &c->slices[c->n];

        s->data = g_try_malloc(c->bytes);
        if (s->data) {
            c->n++;
            s->at = UINT64_MAX;
            return s;
        }
    }
    for (u32 i = 0; i < 2 * c->n; i++) {
        struct slice *s = &c->slices[c->hand++ % c->n];

        if (s->busy || s->dirty_from != s->dirty_to)
            continue;
        if (!s->used) {
            if (s->at != UINT64_MAX)
                unlink_slice(c, s);
            s->at = UINT64_MAX;
            return s;
        }
        s->used = false;
    }
    return NULL;
}

int qcow2_slice(struct qcow2 *q, struct slice_cache *c, u64 at, struct slice **ret)
{
    struct slice *s;

    while (!(s = find(c, at)) && !(s = take_slot(c))) {
        pthread_mutex_unlock(&q->lock);
        int r = qcow2_barrier(q);
        pthread_mutex_lock(&q->lock);
        if (r)
            return r;
    }
    if (s->at != at) {
        int r = node_pread(q->node.file, at, s->data, c->bytes);

        if (r)
            return r; /* the slot stays unnamed */
        s->at = at;
        u32 *b = bucket(c, at);
        s->next = *b;
        *b = (u32)(s - c->slices) + 1;
    }
    s->used = true;
    *ret = s;
    return 0;
}

void qcow2_slice_dirty(struct slice_cache *c, struct slice *s, u32 from, u32 to)
{
    if (s->dirty_from == s->dirty_to) {
        s->dirty_from = from;
        s->dirty_to = to;
        c->n_dirty++;
    } else {
        s->dirty_from = MIN(s->dirty_from, from);
        s->dirty_to = MAX(s->dirty_to, to);
    }
}

void qcow2_cache_drop(struct slice_cache *c, u64 at, u64 len)
{
    for (u32 i = 0; i < c->n; i++) {
        struct slice *s = &c->slices[i];

        if (s->at == UINT64_MAX || s->at < at || s->at >= at + len)
            continue;
        unlink_slice(c, s);
        s->at = UINT64_MAX;
        if (s->dirty_from != s->dirty_to)
            c->n_dirty--;
        s->dirty_from = s->dirty_to = 0;
        s->used = false;
    }
}

void qcow2_l1_set(struct qcow2 *q, u32 i, u64 entry)
{
    q->l1[i] = entry;
    if (q->l1_dirty_from == q->l1_dirty_to) {
        q->l1_dirty_from = i;
        q->l1_dirty_to = i + 1;
    } else {
        q->l1_dirty_from = MIN(q->l1_dirty_from, i);
        q->l1_dirty_to = MAX(q->l1_dirty_to, i + 1);
    }
}

/* --- the barrier -----------------------------------------------------------------------------
 */

/* What is to be written: copies, so that requests may go on changing the tables. */
struct copy {
    u64 at;
    u32 len;
    struct slice *of;
    u8 data[];
};

/* Copies what is dirty, whole sectors of it, and calls it clean. REQUIRES(q->lock) */
static GPtrArray *copy_slices(struct slice_cache *c)
{
    GPtrArray *a = g_ptr_array_new_with_free_func(g_free);

    for (u32 i = 0; c->n_dirty && i < c->n; i++) {
        struct slice *s = &c->slices[i];

        if (s->dirty_from == s->dirty_to)
            continue;
        u32 from = ROUND_DOWN(s->dirty_from, 512u), to = ROUND_UP(s->dirty_to, 512u);
        struct copy *k = g_malloc(sizeof *k + to - from);

        *k = (struct copy){ .at = s->at + from, .len = to - from, .of = s };
        memcpy(k->data, s->data + from, to - from);
        s->dirty_from = s->dirty_to = 0;
        s->busy = true;
        g_ptr_array_add(a, k);
    }
    c->n_dirty = 0;
    return a;
}

static struct copy *copy_table(const u64 *table, u64 table_at, u32 *from, u32 *to, u32 size)
{
    if (*from == *to)
        return NULL;
    u32 a = ROUND_DOWN(*from, 64u), b = MIN(ROUND_UP(*to, 64u), size);
    struct copy *k = g_malloc(sizeof *k + (size_t)(b - a) * 8);

    *k = (struct copy){ .at = table_at + a * 8ull, .len = (b - a) * 8 };
    for (u32 i = a; i < b; i++)
        ((be64 *)(void *)k->data)[i - a] = be64_of(table[i]);
    *from = *to = 0;
    return k;
}

static int write_copies(struct qcow2 *q, GPtrArray *a)
{
    for (guint i = 0; i < a->len; i++) {
        struct copy *k = a->pdata[i];
        int r = node_pwrite(q->node.file, k->at, k->data, k->len);

        if (r)
            return r;
    }
    return 0;
}

/* After a failure the changes are as dirty as before, and can be tried again. */
static void release_copies(struct slice_cache *c, GPtrArray *a, bool again)
{
    for (guint i = 0; i < a->len; i++) {
        struct copy *k = a->pdata[i];

        k->of->busy = false;
        if (again)
            qcow2_slice_dirty(c, k->of, (u32)(k->at - k->of->at),
                              (u32)(k->at - k->of->at) + k->len);
    }
    g_ptr_array_unref(a);
}

static void table_again(const struct copy *k, u64 table_at, u32 *from, u32 *to)
{
    if (!k)
        return;
    u32 a = (u32)((k->at - table_at) / 8), b = a + k->len / 8;

    *from = *from == *to ? a : MIN(*from, a);
    *to = MAX(*to, b);
}

/* A flush that failed may have lost what was written, and the next one may not say so: what is
 * on disk is whole, but what we hold is no longer known to get there. */
static int sync_all(struct qcow2 *q)
{
    int r = node_flush(q->node.file);

    if (!r && q->node.data_file)
        r = node_flush(q->node.data_file);
    if (r)
        q->gone_bad = true;
    return r;
}

/* Step 4: nothing on disk refers to these any more. REQUIRES(q->flush_lock) */
static int release_freed(struct qcow2 *q, GArray *freed)
{
    int r = 0;

    /* Holes first: once counted down, a cluster can be somebody else's. */
    for (guint i = 0; q->discard && i < freed->len; i++) {
        const struct qcow2_free *f = &g_array_index(freed, struct qcow2_free, i);
        u64 count = 2;

        if (f->at % q->cluster || f->len < q->cluster)
            continue;
        for (u64 at = f->at; at < f->at + f->len; at += q->cluster) {
            pthread_mutex_lock(&q->lock);
            if (qcow2_count(q, at >> q->cluster_bits, &count))
                count = 2;
            pthread_mutex_unlock(&q->lock);
            if (count == 1)
                node_discard(q->node.file, at, q->cluster);
        }
    }
    pthread_mutex_lock(&q->lock);
    for (guint i = 0; i < freed->len; i++) {
        const struct qcow2_free *f = &g_array_index(freed, struct qcow2_free, i);
        int e = qcow2_count_add(q, f->at, f->len, -1);

        if (e)
            r = e;
    }
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* REQUIRES(q->flush_lock) */
static int barrier(struct qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    if (q->gone_bad) {
        pthread_mutex_unlock(&q->lock);
        return -EIO;
    }
    GPtrArray *rc = copy_slices(&q->rc), *l2 = copy_slices(&q->l2);
    g_autofree struct copy *reftable =
        copy_table(q->reftable, q->reftable_at, &q->reftable_dirty_from, &q->reftable_dirty_to,
                   q->reftable_size);
    g_autofree struct copy *l1 =
        copy_table(q->l1, q->l1_at, &q->l1_dirty_from, &q->l1_dirty_to, q->l1_size);
    g_autoptr(GArray) freed = q->freed;
    q->freed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_free));
    pthread_mutex_unlock(&q->lock);

    int r = write_copies(q, rc);
    if (!r && reftable) {
        r = sync_all(q);
        if (!r)
            r = node_pwrite(q->node.file, reftable->at, reftable->data, reftable->len);
    }
    if (!r)
        r = sync_all(q);
    bool more = l2->len || l1;
    if (!r)
        r = write_copies(q, l2);
    if (!r && l1)
        r = node_pwrite(q->node.file, l1->at, l1->data, l1->len);
    if (!r && more)
        r = sync_all(q);
    pthread_mutex_lock(&q->lock);
    release_copies(&q->rc, rc, r);
    release_copies(&q->l2, l2, r);
    if (r) {
        table_again(reftable, q->reftable_at, &q->reftable_dirty_from, &q->reftable_dirty_to);
        table_again(l1, q->l1_at, &q->l1_dirty_from, &q->l1_dirty_to);
        g_array_append_vals(q->freed, freed->data, freed->len);
    }
    pthread_mutex_unlock(&q->lock);
    return r ? r : release_freed(q, freed);
}

int qcow2_barrier(struct qcow2 *q)
{
    pthread_mutex_lock(&q->flush_lock);
    int r = barrier(q);
    pthread_mutex_unlock(&q->flush_lock);
    return r;
}

int qcow2_settle(struct qcow2 *q)
{
    int r = barrier(q);

    return r ? r : barrier(q); /* the second one writes the counts of what the first freed */
}
