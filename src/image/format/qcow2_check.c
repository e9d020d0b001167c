// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_check.c - counts the references to each cluster anew and compares them with the
 * refcounts; and writes refcounts anew, for repairs and snapshots.
 *
 * An L2 table that several snapshots share is read once and counted as often as it is used, so
 * the time is linear in the size of the metadata, whatever their number.  Counts lie in memory
 * that is touched only where the file has clusters.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "image/format/qcow2.h"

enum { CLUSTERS_MAX = 1 << 30 };

void qcow2_counts_free(struct qcow2_counts *c)
{
    if (c->of)
        munmap(c->of, c->n * sizeof *c->of);
    if (c->held)
        munmap(c->held, c->n);
    c->of = NULL;
    c->held = NULL;
}

static bool counts_init(struct qcow2 *q, struct qcow2_counts *c, GError **error)
{
    /* Room behind the end for what a repair or a snapshot adds. */
    c->n = (q->node.file->size >> q->cluster_bits) + 1;
    c->n += c->n + c->n / 4 + 4096; /* all tables anew, and what counts them */
    if (c->n > CLUSTERS_MAX)
        return fail(error, ERR_LIMIT, "image '%s': more than %d clusters", q->node.filename,
                    CLUSTERS_MAX);
    void *p = mmap(NULL, c->n * sizeof *c->of, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return fail_errno(error, errno, "image '%s': counting clusters", q->node.filename);
    c->of = p;
    return true;
}

static void say(struct image_check *k, const char *fmt, ...) PRINTF(2, 3);
static void say(struct image_check *k, const char *fmt, ...)
{
    va_list ap;

    if (!k || !k->say)
        return;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    k->say(k->opaque, text);
}

/* A range of the file is used `times` times; false: it lies outside. */
static bool add(struct qcow2 *q, struct qcow2_counts *c, u64 at, u64 len, u32 times)
{
    u64 first = at >> q->cluster_bits, last;

    if (!len)
        return true;
    if (__builtin_add_overflow(at, len - 1, &last) || last >> q->cluster_bits >= c->n)
        return false;
    for (last >>= q->cluster_bits; first <= last; first++)
        c->of[first] += times;
    return true;
}

/* One L2 table that is used `times` times. k: where to report, or NULL (then errors end it). */
static bool count_table(struct qcow2 *q, struct qcow2_counts *c, const u8 *table, u64 table_at,
                        u32 times, bool active, struct image_check *k)
{
    u32 n = 1u << q->l2_bits;
    u64 next = 0; /* where a cluster would lie that follows the last one */

    for (u32 i = 0; i < n; i++) {
        u64 e = be64_get(*(const be64 *)(const void *)(table + (size_t)i * q->l2_entry));
        u64 at, len, host = e & OFFSET_MASK;

        if (e & L2_COMPRESSED) {
            qcow2_packed_place(q, e, &at, &len);
            if (k && active) {
                k->allocated_clusters++;
                k->compressed_clusters++;
                k->fragmented_clusters++;
            }
            if (e & L2_COPIED || q->node.data_file || !add(q, c, at, len, times)) {
                if (!k)
                    return false;
                k->corruptions++;
                say(k,
                    "ERROR: compressed cluster %u of the L2 table at %#" G_GINT64_MODIFIER
                    "x is broken",
                    i, table_at);
            }
            continue;
        }
        if (q->node.data_file) {
            if (k && active && (host || e & L2_COPIED))
                k->allocated_clusters++;
            continue;
        }
        if (!host)
            continue;
        if (k && active) {
            k->allocated_clusters++;
            if (next && host != next)
                k->fragmented_clusters++;
            next = host + q->cluster;
        }
        if (host % q->cluster || !add(q, c, host, q->cluster, times)) {
            if (!k)
                return false;
            k->corruptions++;
            say(k,
                "ERROR offset=%" G_GINT64_MODIFIER "x: Cluster is not properly aligned or "
                "lies outside; L2 entry corrupted.",
                host);
        }
    }
    return true;
}

struct table_use {
    u32 times;
    bool active;
};

/* Counts an L1 table itself and gathers the L2 tables it names. */
static bool gather(struct qcow2 *q, struct qcow2_counts *c, const u64 *l1, u32 size, u64 at,
                   bool active, GHashTable *tables, struct image_check *k)
{
    if (!add(q, c, at, size * 8ull, 1)) {
        if (k)
            k->corruptions++;
        return k != NULL;
    }
    for (u32 i = 0; i < size; i++) {
        u64 t = l1[i] & OFFSET_MASK;

        if (!t)
            continue;
        if (t % q->cluster || !add(q, c, t, q->cluster, 1)) {
            if (!k)
                return false;
            k->corruptions++;
            say(k,
                "ERROR l2_offset=%" G_GINT64_MODIFIER "x: Table is not cluster aligned or "
                "lies outside; L1 entry corrupted",
                t);
            continue;
        }
        struct table_use *u = g_hash_table_lookup(tables, &t);
        if (!u) {
            u64 *key = g_memdup2(&t, sizeof t);
            u = g_new0(struct table_use, 1);
            g_hash_table_insert(tables, key, u);
        }
        u->times++;
        u->active |= active;
    }
    return true;
}

static bool count_tables(struct qcow2 *q, struct qcow2_counts *c, GHashTable *tables,
                         struct image_check *k, GError **error)
{
    g_autofree u8 *buf = g_try_malloc(q->cluster);
    GHashTableIter it;
    gpointer key, value;

    if (!buf)
        return fail(error, ERR_LIMIT, "image '%s': no memory for a table", q->node.filename);
    g_hash_table_iter_init(&it, tables);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        const struct table_use *u = value;
        u64 at = *(u64 *)key;

        if (at >= q->node.file->size) /* reads as zeroes: an empty table */
            continue;
        int r = node_pread(q->node.file, at, buf, q->cluster);
        if (r && !k)
            return fail_errno(error, -r, "image '%s': L2 table", q->node.filename);
        if (r) {
            k->check_errors++;
            continue;
        }
        if (!count_table(q, c, buf, at, u->times, u->active, k))
            return fail(error, ERR_FORMAT,
                        "image '%s': an L2 table is broken; repair the image",
                        q->node.filename);
    }
    return true;
}

/* false without *error: outside of the file. */
static bool count_bitmaps(struct qcow2 *q, struct qcow2_counts *c, struct image_check *k,
                          GError **error)
{
    g_autoptr(GError) why = NULL;
    u64 at, len;
    g_autoptr(GPtrArray) all = qcow2_bitmaps(q, &at, &len, &why);
    bool ok = all && add(q, c, at, len, 1);

    for (guint i = 0; ok && i < all->len; i++) {
        const struct qcow2_bitmap *b = all->pdata[i];
        g_autofree u64 *table = qcow2_bitmap_table(q, b, &why);

        ok = table && add(q, c, b->table_at, b->table_size * 8ull, 1);
        for (u32 j = 0; ok && j < b->table_size; j++) {
            if (table[j] & OFFSET_MASK)
                ok = add(q, c, table[j] & OFFSET_MASK, q->cluster, 1);
        }
    }
    if (ok)
        return true;
    if (!k) {
        if (why)
            g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    k->corruptions++;
    say(k, "ERROR: %s", why ? why->message : "a bitmap lies outside of the file");
    return true;
}

/* Everything that refers to clusters, but for the refcount structure. */
static bool count_all(struct qcow2 *q, struct qcow2_counts *c, struct image_check *k,
                      GError **error)
{
    g_autoptr(GHashTable) tables =
        g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    u64 budget = 2 * q->node.file->size + (64 << 20);
    bool ok = add(q, c, 0, q->cluster, 1) &&
              gather(q, c, q->l1, q->l1_size, q->l1_at, true, tables, k) &&
              add(q, c, q->snapshots_at, q->snapshots_len, 1);

    for (guint i = 0; ok && i < q->snaps->len; i++) {
        const struct qcow2_snap *s = q->snaps->pdata[i];
        u64 bytes = s->l1_size * 8ull;

        if (bytes > budget)
            return fail(error, ERR_FORMAT, "image '%s': the snapshots' tables overlap",
                        q->node.filename);
        budget -= bytes;
        g_autofree be64 *raw = node_load_new(q->node.file, s->l1_at, bytes, L1_BYTES_MAX,
                                             "a snapshot's L1 table", error);
        g_autofree u64 *l1 = g_try_new(u64, MAX(s->l1_size, 1));
        if (!raw || !l1)
            return false;
        for (u32 j = 0; j < s->l1_size; j++)
            l1[j] = be64_get(raw[j]);
        ok = gather(q, c, l1, s->l1_size, s->l1_at, false, tables, k);
    }
    for (guint i = 0; ok && i < q->extensions->len; i++) {
        const struct qcow2_extension *e = q->extensions->pdata[i];

        if (e->type == EXT_CRYPTO && e->len >= 16) {
            be64 place[2];
            memcpy(place, e->data, sizeof place);
            ok = add(q, c, be64_get(place[0]), be64_get(place[1]), 1);
        }
    }
    ok = ok && count_bitmaps(q, c, k, error);
    if (!ok && error && *error)
        return false;
    if (!ok)
        return fail(error, ERR_FORMAT,
                    "image '%s': a table names clusters outside of the file; repair the image",
                    q->node.filename);
    return count_tables(q, c, tables, k, error);
}

/* --- refcounts anew --------------------------------------------------------------------------
 */

u64 qcow2_counts_take(struct qcow2_counts *c, u64 *from, u64 n)
{
    for (u64 at = *from, run = 0; at < c->n; at++) {
        run = c->of[at] || (c->held && c->held[at]) ? 0 : run + 1;
        if (run < n)
            continue;
        at -= n - 1;
        for (u64 i = 0; i < n; i++)
            c->of[at + i] = 1;
        *from = at + n;
        return at;
    }
    return 0;
}

bool qcow2_counts_release(struct qcow2 *q, struct qcow2_counts *c, u64 at, u64 len)
{
    return add(q, c, at, len, (u32)-1);
}

bool qcow2_counts_hold(struct qcow2 *q, struct qcow2_counts *c, GError **error)
{
    void *p = mmap(NULL, c->n, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    u64 first = q->reftable_at >> q->cluster_bits;

    if (p == MAP_FAILED)
        return fail_errno(error, errno, "image '%s': counting clusters", q->node.filename);
    c->held = p;
    for (u64 i = 0; i < c->n; i++) {
        if (c->of[i])
            c->held[i] = 1;
    }
    for (u64 i = 0; i < (q->reftable_size * 8ull + q->cluster - 1) >> q->cluster_bits; i++) {
        if (first + i < c->n)
            c->held[first + i] = 1;
    }
    for (u32 i = 0; i < q->reftable_size; i++) {
        u64 at = (q->reftable[i] & REFTABLE_MASK) >> q->cluster_bits;

        if (at && at < c->n)
            c->held[at] = 1;
    }
    return true;
}

bool qcow2_counts_add_table(struct qcow2 *q, struct qcow2_counts *c, const u8 *table, s32 by)
{
    return count_table(q, c, table, 0, (u32)by, false, NULL);
}

bool qcow2_write_refcounts(struct qcow2 *q, struct qcow2_counts *c, u64 first_free, u64 *ret_at,
                           u32 *ret_clusters, GError **error)
{
    u64 entries = qcow2_block_entries(q), used = c->n, from = first_free;
    u64 max = q->refcount_order == 6 ? UINT64_MAX : BIT(1u << q->refcount_order) - 1;

    while (used && !c->of[used - 1] && !(c->held && c->held[used - 1]))
        used--;
    /* The blocks for what is there now, and for themselves and the table behind it. */
    u64 extra = used / entries + 2, blocks, table_clusters;
    for (;; extra++) {
        blocks = (MAX(used, from) + extra) / entries + 1;
        table_clusters = (blocks * 8 + q->cluster - 1) >> q->cluster_bits;
        if (blocks + table_clusters <= extra)
            break;
    }
    if (blocks * 8 > REFTABLE_BYTES_MAX)
        return fail(error, ERR_LIMIT, "image '%s': refcount table too large", q->node.filename);
    g_autofree be64 *table = g_try_malloc0(table_clusters << q->cluster_bits);
    g_autofree u64 *place = g_try_new0(u64, blocks);
    g_autofree void *block = g_try_malloc(q->cluster);
    u64 table_at = qcow2_counts_take(c, &from, table_clusters);
    bool ok = table && place && block && table_at;

    for (u64 b = 0; ok && b < blocks; b++) {
        bool any = false;
        for (u64 i = b * entries; i < (b + 1) * entries && i < c->n && !any; i++)
            any = c->of[i];
        /* The last blocks cover the blocks themselves. */
        if (any || b >= used / entries)
            ok = (place[b] = qcow2_counts_take(c, &from, 1));
    }
    if (!ok || from > blocks * entries)
        return fail(error, ERR_LIMIT, "image '%s': no room for new refcounts",
                    q->node.filename);
    for (u64 b = 0; b < blocks; b++) {
        if (!place[b])
            continue;
        memset(block, 0, q->cluster);
        for (u64 i = 0; i < entries && b * entries + i < c->n; i++) {
            u64 count = c->of[b * entries + i];
            if (count > max)
                return fail(error, ERR_LIMIT,
                            "image '%s': a cluster is used more often than %u bits can count",
                            q->node.filename, 1u << q->refcount_order);
            if (count)
                refcount_set(block, i, q->refcount_order, count);
        }
        table[b] = be64_of(place[b] << q->cluster_bits);
        int r = node_pwrite(q->node.file, place[b] << q->cluster_bits, block, q->cluster);
        if (r)
            return fail_errno(error, -r, "image '%s': writing refcounts", q->node.filename);
    }
    int r = node_pwrite(q->node.file, table_at << q->cluster_bits, table,
                        table_clusters << q->cluster_bits);
    if (r)
        return fail_errno(error, -r, "image '%s': writing refcounts", q->node.filename);
    *ret_at = table_at << q->cluster_bits;
    *ret_clusters = (u32)table_clusters;
    return true;
}

bool qcow2_count_references(struct qcow2 *q, struct qcow2_counts *c, GError **error)
{
    *c = (struct qcow2_counts){ 0 };
    if (counts_init(q, c, error) && count_all(q, c, NULL, error))
        return true;
    qcow2_counts_free(c);
    return false;
}

bool qcow2_switch_refcounts(struct qcow2 *q, u64 at, u32 clusters, GError **error)
{
    u32 n = (u32)((u64)clusters * q->cluster / 8);
    g_autofree be64 *raw = node_load_new(q->node.file, at, n * 8ull, REFTABLE_BYTES_MAX,
                                         "the refcount table", error);

    if (!raw)
        return false;
    u64 *table = g_new(u64, n);
    for (u32 i = 0; i < n; i++)
        table[i] = be64_get(raw[i]);
    g_free(q->reftable);
    q->reftable = table;
    q->reftable_size = n;
    q->reftable_at = at;
    q->reftable_dirty_from = q->reftable_dirty_to = 0;
    q->hint = 0;
    q->packed_at = 0;
    qcow2_cache_drop(&q->rc, 0, INT64_MAX);
    return true;
}

/* --- checking --------------------------------------------------------------------------------
 */

/* Also the clusters of the refcount structure as it is. */
static bool count_refcounts(struct qcow2 *q, struct qcow2_counts *c, struct image_check *k,
                            bool *ret_broken)
{
    *ret_broken = false;
    if (!add(q, c, q->reftable_at, q->reftable_size * 8ull, 1))
        *ret_broken = true;
    for (u32 i = 0; i < q->reftable_size; i++) {
        u64 at = q->reftable[i] & REFTABLE_MASK;

        if (!at)
            continue;
        if (at % q->cluster || at >= q->node.file->size || !add(q, c, at, q->cluster, 1)) {
            k->corruptions++;
            *ret_broken = true;
            say(k,
                "ERROR refcount block %u is not cluster aligned or outside image; refcount "
                "table entry corrupted",
                i);
        } else if (c->of[at >> q->cluster_bits] != 1) {
            k->corruptions++;
            *ret_broken = true;
            say(k, "ERROR refcount block %u refcount=%u", i, c->of[at >> q->cluster_bits]);
        }
    }
    return true;
}

static bool compare(struct qcow2 *q, const struct qcow2_counts *c, struct image_check *k,
                    bool *ret_low, GError **error)
{
    u64 clusters = MIN(c->n, (u64)q->reftable_size * qcow2_block_entries(q));
    u64 last = 0;

    for (u64 i = 0; i < c->n; i++) {
        u64 count = 0, entries = qcow2_block_entries(q);

        if (i < clusters) {
            if (!(q->reftable[i / entries] & REFTABLE_MASK)) {
                /* nothing there: only references count */
            } else if (qcow2_count(q, i, &count)) {
                k->check_errors++;
                continue;
            }
        }
        if (count || c->of[i])
            last = i + 1;
        if (count == c->of[i])
            continue;
        say(k, "%s cluster %" G_GUINT64_FORMAT " refcount=%" G_GUINT64_FORMAT " reference=%u",
            count > c->of[i] ? "Leaked" : "ERROR", i, count, c->of[i]);
        if (count > c->of[i]) {
            k->leaks++;
        } else {
            k->corruptions++;
            *ret_low = true;
        }
    }
    k->image_end = last << q->cluster_bits;
    (void)error;
    return true;
}

/* COPIED says that the count is one; in the active tables only. fix: sets it right. */
static bool check_copied(struct qcow2 *q, const struct qcow2_counts *c, struct image_check *k,
                         bool fix)
{
    g_autofree u8 *buf = g_try_malloc(q->cluster);

    for (u32 i = 0; buf && i < q->l1_size; i++) {
        u64 t = q->l1[i] & OFFSET_MASK;
        bool changed = false;

        if (!t || t % q->cluster || t >> q->cluster_bits >= c->n)
            continue;
        if ((c->of[t >> q->cluster_bits] == 1) != !!(q->l1[i] & L2_COPIED)) {
            say(k,
                "%s OFLAG_COPIED L2 cluster: l1_index=%u l1_entry=%" G_GINT64_MODIFIER
                "x refcount=%u",
                fix ? "Repairing" : "ERROR", i, q->l1[i], c->of[t >> q->cluster_bits]);
            k->corruptions++;
            if (fix) {
                qcow2_l1_set(q, i, q->l1[i] ^ L2_COPIED);
                k->corruptions_fixed++;
            }
        }
        if (t >= q->node.file->size || node_pread(q->node.file, t, buf, q->cluster))
            continue;
        for (u32 j = 0; j < 1u << q->l2_bits; j++) {
            be64 *p = (be64 *)(void *)(buf + (size_t)j * q->l2_entry);
            u64 e = be64_get(*p), host = e & OFFSET_MASK;

            if (e & L2_COMPRESSED || !host || q->node.data_file ||
                host >> q->cluster_bits >= c->n)
                continue;
            if ((c->of[host >> q->cluster_bits] == 1) == !!(e & L2_COPIED))
                continue;
            say(k, "%s OFLAG_COPIED data cluster: l2_entry=%" G_GINT64_MODIFIER "x refcount=%u",
                fix ? "Repairing" : "ERROR", e, c->of[host >> q->cluster_bits]);
            k->corruptions++;
            if (fix) {
                *p = be64_of(e ^ L2_COPIED);
                changed = true;
                k->corruptions_fixed++;
            }
        }
        if (changed && node_pwrite(q->node.file, t, buf, q->cluster))
            k->check_errors++;
    }
    return true;
}

/* New refcounts, and the header's word for it. REQUIRES(q->flush_lock) and q->lock */
static bool rebuild(struct qcow2 *q, GError **error)
{
    struct qcow2_counts c;
    u64 at, end = (q->node.file->size + q->cluster - 1) >> q->cluster_bits;
    u32 clusters;

    if (!qcow2_count_references(q, &c, error))
        return false;
    /* Behind the end: no broken count can be in the way. */
    bool ok = qcow2_write_refcounts(q, &c, end, &at, &clusters, error);
    struct {
        be64 at;
        be32 n;
    } __attribute__((packed)) h = { be64_of(at), be32_of(clusters) };
    int r = 0;
    if (ok && !(r = node_flush(q->node.file)) &&
        !(r = qcow2_header_put(q, offsetof(struct qcow2_header, reftable_at), &h, sizeof h)))
        r = node_flush(q->node.file);
    qcow2_counts_free(&c);
    if (r)
        return fail_errno(error, -r, "image '%s': repair", q->node.filename);
    return ok && qcow2_switch_refcounts(q, at, clusters, error);
}

bool qcow2_check(struct node *n, enum image_repair how, struct image_check *k, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    struct qcow2_counts c = { 0 };
    struct range range = { .at = 0, .end = UINT64_MAX, .alone = true };
    bool ok, broken = false, low = false;

    if (how != REPAIR_NONE && n->read_only)
        return fail(error, ERR_IO, "image '%s' is open for reading only", n->filename);
    pthread_mutex_lock(&q->lock);
    ranges_enter(&q->ranges, &q->lock, &range); /* before the flush_lock, which requests take */
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_lock(&q->flush_lock);
    int r = n->read_only ? 0 : qcow2_settle(q);
    pthread_mutex_lock(&q->lock);
    k->has_clusters = true;
    k->total_clusters = (n->size + q->cluster - 1) >> q->cluster_bits;
    ok = !r || fail_errno(error, -r, "image '%s'", n->filename);
    ok = ok && counts_init(q, &c, error) && count_all(q, &c, k, error) &&
         count_refcounts(q, &c, k, &broken) && compare(q, &c, k, &low, error) &&
         check_copied(q, &c, k, how == REPAIR_ALL);
    if (ok && ((how != REPAIR_NONE && k->leaks) || (how == REPAIR_ALL && (broken || low)))) {
        u64 found = k->corruptions - k->corruptions_fixed, leaks = k->leaks;

        if (how == REPAIR_ALL || !(broken || low)) {
            ok = rebuild(q, error);
            if (ok) {
                k->leaks_fixed = leaks;
                if (how == REPAIR_ALL)
                    k->corruptions_fixed += found;
            }
        }
    }
    qcow2_counts_free(&c);
    pthread_mutex_unlock(&q->lock);
    if (ok && how != REPAIR_NONE) {
        r = qcow2_settle(q);
        if (!r && how == REPAIR_ALL && q->incompatible & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)) {
            q->incompatible &= ~(u64)(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
            be64 v = be64_of(q->incompatible);
            r = qcow2_header_put(q, offsetof(struct qcow2_header, incompatible), &v, sizeof v);
            if (!r)
                r = node_flush(n->file);
        }
        ok = !r || fail_errno(error, -r, "image '%s': repair", n->filename);
    }
    pthread_mutex_unlock(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return ok;
}
