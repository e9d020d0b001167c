// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_snapshot.c - internal snapshots.
 *
 * A snapshot is a second L1 table.  Taking, removing or going back to one changes counts and
 * COPIED flags everywhere, which no order of writes could do in one step.  So all of it is
 * written anew beside the old: the active L1 table, those of its L2 tables whose flags change,
 * the refcounts, the snapshot table.  Size, L1, refcount table and snapshot table all stand in
 * the header's first sector (bytes 24 to 72): one write puts the new ones in force.  Before it
 * the image is as it was, after it as it shall be; nothing leaks in between.
 *
 * Requests wait meanwhile.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/format/qcow2.h"

struct entry {
    be64 l1_at;
    be32 l1_size;
    be16 id_len, name_len;
    be32 date_sec, date_nsec;
    be64 vm_clock;
    be32 vm_state_size, extra_len;
} __attribute__((packed));
struct extra {
    be64 vm_state_size, disk_size, icount;
} __attribute__((packed));

void qcow2_snap_free(void *p)
{
    struct qcow2_snap *s = p;

    g_free(s->s.id);
    g_free(s->s.name);
    g_free(s->extra);
    g_free(s);
}

static char *text(const u8 *p, u32 n)
{
    g_autofree char *raw = g_strndup((const char *)p, n);

    return g_utf8_make_valid(raw, -1);
}

bool qcow2_snapshots_load(struct qcow2 *q, u64 at, u32 n, GError **error)
{
    u64 file_size = q->node.file->size, pos = 0;

    q->snapshots_at = at;
    if (!n)
        return true;
    if (n > SNAPSHOTS_MAX || at % q->cluster || at >= file_size)
        return fail(error, ERR_FORMAT,
                    "image '%s': Too many snapshots, or their table is "
                    "misplaced",
                    q->node.filename);
    u64 have = MIN(file_size - at, SNAPSHOT_TABLE_MAX);
    g_autofree u8 *table =
        node_load_new(q->node.file, at, have, SNAPSHOT_TABLE_MAX, "the snapshot table", error);
    if (!table)
        return false;
    for (u32 i = 0; i < n; i++) {
        struct entry e;
        struct extra x = { 0 };

        pos = ROUND_UP(pos, 8);
        if (pos + sizeof e > have)
            goto bad;
        memcpy(&e, table + pos, sizeof e);
        pos += sizeof e;
        u32 extra = be32_get(e.extra_len), id = be16_get(e.id_len), name = be16_get(e.name_len);
        if (extra > SNAPSHOT_EXTRA_MAX || pos + extra + id + name > have)
            goto bad;
        memcpy(&x, table + pos, MIN(extra, sizeof x));
        struct qcow2_snap *s = g_new0(struct qcow2_snap, 1);
        g_ptr_array_add(q->snaps, s);
        s->l1_at = be64_get(e.l1_at);
        s->l1_size = be32_get(e.l1_size);
        if (extra > sizeof x) {
            s->extra_len = extra - (u32)sizeof x;
            s->extra = g_memdup2(table + pos + sizeof x, s->extra_len);
        }
        s->s.id = text(table + pos + extra, id);
        s->s.name = text(table + pos + extra + id, name);
        s->s.date_sec = be32_get(e.date_sec);
        s->s.date_nsec = be32_get(e.date_nsec);
        s->s.vm_clock_nsec = be64_get(e.vm_clock);
        s->s.vm_state_size = extra >= 8 ? be64_get(x.vm_state_size) : be32_get(e.vm_state_size);
        s->s.disk_size = extra >= 16 ? be64_get(x.disk_size) : (u64)q->node.size;
        s->s.icount = extra >= 24 ? be64_get(x.icount) : UINT64_MAX;
        if (s->l1_size > L1_BYTES_MAX / 8 || s->l1_at % q->cluster ||
            s->s.disk_size > INT64_MAX)
            goto bad;
        pos += extra + id + name;
    }
    q->snapshots_len = pos;
    return true;
bad:
    return fail(error, ERR_FORMAT, "image '%s': the snapshot table is broken",
                q->node.filename);
}

static GByteArray *serialize(GPtrArray *snaps)
{
    GByteArray *b = g_byte_array_new();
    static const u8 pad[8];

    for (guint i = 0; i < snaps->len; i++) {
        const struct qcow2_snap *s = snaps->pdata[i];
        size_t id = strlen(s->s.id), name = strlen(s->s.name);
        struct entry e = { .l1_at = be64_of(s->l1_at),
                           .l1_size = be32_of(s->l1_size),
                           .id_len = be16_of((u16)id),
                           .name_len = be16_of((u16)name),
                           .date_sec = be32_of(s->s.date_sec),
                           .date_nsec = be32_of(s->s.date_nsec),
                           .vm_clock = be64_of(s->s.vm_clock_nsec),
                           .vm_state_size = be32_of(
                               s->s.vm_state_size > UINT32_MAX ? 0 : (u32)s->s.vm_state_size),
                           .extra_len = be32_of((u32)sizeof(struct extra) + s->extra_len) };
        struct extra x = { be64_of(s->s.vm_state_size), be64_of(s->s.disk_size),
                           be64_of(s->s.icount) };

        g_byte_array_append(b, pad, (guint)(ROUND_UP(b->len, 8) - b->len));
        g_byte_array_append(b, (const u8 *)&e, sizeof e);
        g_byte_array_append(b, (const u8 *)&x, sizeof x);
        if (s->extra_len)
            g_byte_array_append(b, s->extra, s->extra_len);
        g_byte_array_append(b, (const u8 *)s->s.id, (guint)id);
        g_byte_array_append(b, (const u8 *)s->s.name, (guint)name);
    }
    return b;
}

/* --- building aside --------------------------------------------------------------------------
 */

/* The image as it shall be. */
struct shadow {
    struct qcow2 *q;
    struct qcow2_counts counts;
    u64 *l1;
    u32 l1_size;
    u64 size;
    GPtrArray *snaps; /* borrowed */
    u64 from;         /* no free cluster below */
    u8 *buf;          /* a table */
};

static bool shadow_begin(struct qcow2 *q, struct shadow *s, GError **error)
{
    *s = (struct shadow){ .q = q, .size = q->node.size };
    if (!qcow2_count_references(q, &s->counts, error))
        return false;
    s->buf = g_malloc(q->cluster);
    s->snaps = g_ptr_array_new();
    return qcow2_counts_hold(q, &s->counts, error);
}

static void shadow_end(struct shadow *s)
{
    qcow2_counts_free(&s->counts);
    if (s->snaps)
        g_ptr_array_unref(s->snaps);
    g_free(s->buf);
    g_free(s->l1);
}

static bool io(struct qcow2 *q, int r, GError **error)
{
    return !r || fail_errno(error, -r, "image '%s': changing snapshots", q->node.filename);
}

/* Counts an L1 table's L2 tables and all that they refer to, by times more. */
static bool count_l1(struct shadow *s, const u64 *l1, u32 n, s32 by, GError **error)
{
    for (u32 i = 0; i < n; i++) {
        u64 t = l1[i] & OFFSET_MASK;

        if (!t)
            continue;
        if (!io(s->q, node_pread(s->q->node.file, t, s->buf, s->q->cluster), error))
            return false;
        s->counts.of[t >> s->q->cluster_bits] += (u32)by; /* checked when it was counted */
        if (!qcow2_counts_add_table(s->q, &s->counts, s->buf, by))
            return fail(error, ERR_FORMAT, "image '%s': an L2 table is broken",
                        s->q->node.filename);
    }
    return true;
}

static u64 *load_l1(struct qcow2 *q, const struct qcow2_snap *s, GError **error)
{
    g_autofree be64 *raw = node_load_new(q->node.file, s->l1_at, s->l1_size * 8ull,
                                         L1_BYTES_MAX, "a snapshot's L1 table", error);
    u64 *l1 = raw ? g_new0(u64, MAX(s->l1_size, 1)) : NULL;

    for (u32 i = 0; l1 && i < s->l1_size; i++)
        l1[i] = be64_get(raw[i]);
    return l1;
}

/* An L2 table of the image's own, with the flags that the new counts ask for. */
static bool settle_table(struct shadow *s, u64 *entry, GError **error)
{
    struct qcow2 *q = s->q;
    u64 t = *entry & OFFSET_MASK;
    bool own = s->counts.of[t >> q->cluster_bits] == 1, changed = false;

    if (!io(q, node_pread(q->node.file, t, s->buf, q->cluster), error))
        return false;
    for (u32 i = 0; i < 1u << q->l2_bits; i++) {
        be64 *p = (be64 *)(void *)(s->buf + (size_t)i * q->l2_entry);
        u64 e = be64_get(*p), host = e & OFFSET_MASK;

        if (e & L2_COMPRESSED || !host || q->node.data_file)
            continue;
        bool flag = own && s->counts.of[host >> q->cluster_bits] == 1;
        if (flag == !!(e & L2_COPIED))
            continue;
        *p = be64_of(e ^ L2_COPIED);
        changed = true;
    }
    if (changed) {
        u64 new = qcow2_counts_take(&s->counts, &s->from, 1) << q->cluster_bits;

        if (!new)
            return fail(error, ERR_LIMIT, "image '%s': no room", q->node.filename);
        if (!io(q, node_pwrite(q->node.file, new, s->buf, q->cluster), error))
            return false;
        s->counts.of[t >> q->cluster_bits]--;
        t = new;
        own = true;
    }
    *entry = t | (own ? L2_COPIED : 0);
    return true;
}

/* New clusters for a table of n bytes. */
static bool put(struct shadow *s, const void *p, u64 n, u64 *ret_at, GError **error)
{
    struct qcow2 *q = s->q;
    u64 clusters = (n + q->cluster - 1) >> q->cluster_bits;

    *ret_at = 0;
    if (!n)
        return true;
    *ret_at = qcow2_counts_take(&s->counts, &s->from, clusters) << q->cluster_bits;
    if (!*ret_at)
        return fail(error, ERR_LIMIT, "image '%s': no room", q->node.filename);
    g_autofree u8 *padded = g_malloc0(clusters << q->cluster_bits);
    memcpy(padded, p, n);
    return io(q, node_pwrite(q->node.file, *ret_at, padded, clusters << q->cluster_bits),
              error);
}

/* Writes what is new and puts it in force. */
static bool shadow_commit(struct shadow *s, GError **error)
{
    struct qcow2 *q = s->q;
    g_autofree be64 *raw = g_new0(be64, MAX(s->l1_size, 1));
    u64 l1_at, snaps_at, reftable_at;
    u32 reftable_clusters;

    s->from = 0;
    for (u32 i = 0; i < s->l1_size; i++) {
        if (s->l1[i] & OFFSET_MASK && !settle_table(s, &s->l1[i], error))
            return false;
        raw[i] = be64_of(s->l1[i]);
    }
    g_autoptr(GByteArray) snaps = serialize(s->snaps);
    qcow2_counts_release(q, &s->counts, q->snapshots_at, q->snapshots_len);
    if (snaps->len > SNAPSHOT_TABLE_MAX)
        return fail(error, ERR_LIMIT, "image '%s': the snapshot table is full",
                    q->node.filename);
    if (!(s->from = 0, put(s, raw, s->l1_size * 8ull, &l1_at, error)) ||
        !(s->from = 0, put(s, snaps->data, snaps->len, &snaps_at, error)) ||
        !qcow2_write_refcounts(q, &s->counts, 0, &reftable_at, &reftable_clusters, error))
        return false;
    struct {
        be64 size;
        be32 crypt_method, l1_size;
        be64 l1_at, reftable_at;
        be32 reftable_clusters, n_snapshots;
        be64 snapshots_at;
    } __attribute__((packed)) h = {
        .size = be64_of(s->size),
        .crypt_method = be32_of(q->crypt_method),
        .l1_size = be32_of(s->l1_size),
        .l1_at = be64_of(l1_at),
        .reftable_at = be64_of(reftable_at),
        .reftable_clusters = be32_of(reftable_clusters),
        .n_snapshots = be32_of(s->snaps->len),
        .snapshots_at = be64_of(snaps_at),
    };
    if (!io(q, node_flush(q->node.file), error) ||
        !io(q, qcow2_header_put(q, offsetof(struct qcow2_header, size), &h, sizeof h), error))
        return false;
    int r = node_flush(q->node.file);

    /* The file says so, durably or not: memory follows. */
    g_free(q->l1);
    q->l1 = g_steal_pointer(&s->l1);
    q->l1_size = s->l1_size;
    q->l1_at = l1_at;
    q->l1_dirty_from = q->l1_dirty_to = 0;
    q->snapshots_at = snaps_at;
    q->snapshots_len = snaps->len;
    q->node.size = s->size;
    qcow2_cache_drop(&q->l2, 0, INT64_MAX);
    if (r)
        q->gone_bad = true;
    return io(q, r, error) && qcow2_switch_refcounts(q, reftable_at, reftable_clusters, error);
}

/* --- the operations --------------------------------------------------------------------------
 */

/* Alone with the image, and nothing dirty; both locks are held. */
static bool stop(struct qcow2 *q, struct range *r, GError **error)
{
    *r = (struct range){ .at = 0, .end = UINT64_MAX, .alone = true };
    pthread_mutex_lock(&q->lock);
    ranges_enter(&q->ranges, &q->lock, r);
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_lock(&q->flush_lock);
    int e = q->gone_bad ? -EIO : qcow2_settle(q);
    pthread_mutex_lock(&q->lock);
    return io(q, e, error);
}

static void go_on(struct qcow2 *q, struct range *r)
{
    ranges_leave(&q->ranges, r);
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->flush_lock);
}

static struct qcow2_snap *snap_find(struct qcow2 *q, const char *name, guint *ret_i)
{
    for (u32 by_name = 0; by_name < 2; by_name++) {
        for (guint i = 0; i < q->snaps->len; i++) {
            struct qcow2_snap *s = q->snaps->pdata[i];

            if (!strcmp(by_name ? s->s.name : s->s.id, name)) {
                *ret_i = i;
                return s;
            }
        }
    }
    return NULL;
}

static bool no_such(struct qcow2 *q, const char *name, GError **error)
{
    return fail(error, ERR_NOT_FOUND, "image '%s': there is no snapshot '%s'", q->node.filename,
                name);
}

static bool usable(struct qcow2 *q, GError **error)
{
    return !q->node.data_file ||
           fail(error, ERR_UNSUPPORTED, "image '%s': with a data file there are no snapshots",
                q->node.filename);
}

static void copy_snaps(struct shadow *s, const struct qcow2_snap *but)
{
    for (guint i = 0; i < s->q->snaps->len; i++) {
        if (s->q->snaps->pdata[i] != but)
            g_ptr_array_add(s->snaps, s->q->snaps->pdata[i]);
    }
}

static bool snap_create(struct node *n, const struct image_snapshot *what, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    struct shadow s = { 0 };
    struct range range;
    u64 id = 0;

    if (!usable(q, error))
        return false;
    if (strlen(what->name) > 65535)
        return fail(error, ERR_ARGUMENT, "a snapshot's name is too long");
    bool ok = stop(q, &range, error);
    if (ok && q->snaps->len >= SNAPSHOTS_MAX)
        ok = fail(error, ERR_LIMIT, "image '%s': it has %d snapshots", n->filename,
                  SNAPSHOTS_MAX);
    for (guint i = 0; i < q->snaps->len; i++)
        id = MAX(id,
                 g_ascii_strtoull(((struct qcow2_snap *)q->snaps->pdata[i])->s.id, NULL, 10));
    struct qcow2_snap *new = g_new0(struct qcow2_snap, 1);
    new->s = *what;
    new->s.id = what->id ? g_strdup(what->id) : g_strdup_printf("%" G_GUINT64_FORMAT, id + 1);
    new->s.name = g_strdup(what->name);
    new->s.disk_size = n->size;
    new->l1_at = q->l1_at;
    new->l1_size = q->l1_size;
    ok = ok && shadow_begin(q, &s, error) && count_l1(&s, q->l1, q->l1_size, 1, error);
    if (ok) {
        copy_snaps(&s, NULL);
        g_ptr_array_add(s.snaps, new);
        s.l1 = g_memdup2(q->l1, MAX(q->l1_size, 1) * 8ull);
        s.l1_size = q->l1_size;
        ok = shadow_commit(&s, error);
    }
    if (ok)
        g_ptr_array_add(q->snaps, new);
    else
        qcow2_snap_free(new);
    shadow_end(&s);
    go_on(q, &range);
    return ok;
}

static bool snap_remove(struct node *n, const char *name, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    struct shadow s = { 0 };
    struct range range;
    guint i = 0;
    bool ok = stop(q, &range, error);
    struct qcow2_snap *old = ok ? snap_find(q, name, &i) : NULL;

    if (ok && !old)
        ok = no_such(q, name, error);
    g_autofree u64 *l1 = ok ? load_l1(q, old, error) : NULL;
    ok = l1 && shadow_begin(q, &s, error);
    if (ok) {
        qcow2_counts_release(q, &s.counts, old->l1_at, old->l1_size * 8ull);
        qcow2_counts_release(q, &s.counts, q->l1_at, q->l1_size * 8ull);
        copy_snaps(&s, old);
        s.l1 = g_memdup2(q->l1, MAX(q->l1_size, 1) * 8ull);
        s.l1_size = q->l1_size;
        ok = count_l1(&s, l1, old->l1_size, -1, error) && shadow_commit(&s, error);
    }
    if (ok)
        g_ptr_array_remove_index(q->snaps, i);
    shadow_end(&s);
    go_on(q, &range);
    return ok;
}

static bool snap_apply(struct node *n, const char *name, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    struct shadow s = { 0 };
    struct range range;
    guint i = 0;
    bool ok = stop(q, &range, error);
    struct qcow2_snap *to = ok ? snap_find(q, name, &i) : NULL;

    if (ok && !to)
        ok = no_such(q, name, error);
    g_autofree u64 *l1 = ok ? load_l1(q, to, error) : NULL;
    ok = l1 && shadow_begin(q, &s, error) && count_l1(&s, l1, to->l1_size, 1, error);
    if (ok) {
        u64 need = (to->s.disk_size + qcow2_l2_coverage(q) - 1) / qcow2_l2_coverage(q);

        qcow2_counts_release(q, &s.counts, q->l1_at, q->l1_size * 8ull);
        copy_snaps(&s, NULL);
        s.size = to->s.disk_size;
        s.l1_size = (u32)MAX(to->l1_size, need);
        ok = s.l1_size <= L1_BYTES_MAX / 8 ||
             fail(error, ERR_FORMAT, "image '%s': the snapshot is too large", n->filename);
        if (ok) {
            s.l1 = g_new0(u64, MAX(s.l1_size, 1));
            memcpy(s.l1, l1, to->l1_size * 8ull);
            ok = count_l1(&s, q->l1, q->l1_size, -1, error) && shadow_commit(&s, error);
        }
    }
    shadow_end(&s);
    go_on(q, &range);
    return ok;
}

bool qcow2_make_empty(struct node *n, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    struct shadow s = { 0 };
    struct range range;
    bool ok = stop(q, &range, error) && usable(q, error) && shadow_begin(q, &s, error);

    if (ok) {
        qcow2_counts_release(q, &s.counts, q->l1_at, q->l1_size * 8ull);
        copy_snaps(&s, NULL);
        s.l1 = g_new0(u64, MAX(q->l1_size, 1));
        s.l1_size = q->l1_size;
        ok = count_l1(&s, q->l1, q->l1_size, -1, error) && shadow_commit(&s, error);
    }
    shadow_end(&s);
    go_on(q, &range);
    return ok;
}

static bool snap_load(struct node *n, const char *name, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    guint i;
    struct qcow2_snap *s = snap_find(q, name, &i);
    u64 need;

    if (!s)
        return no_such(q, name, error);
    u64 *l1 = load_l1(q, s, error);
    if (!l1)
        return false;
    need = (s->s.disk_size + qcow2_l2_coverage(q) - 1) / qcow2_l2_coverage(q);
    if (need > s->l1_size) {
        g_free(l1);
        return fail(error, ERR_FORMAT, "image '%s': the snapshot's L1 table is too small",
                    n->filename);
    }
    pthread_mutex_lock(&q->lock);
    g_free(q->l1);
    q->l1 = l1;
    q->l1_size = s->l1_size;
    n->size = s->s.disk_size;
    n->read_only = true;
    pthread_mutex_unlock(&q->lock);
    return true;
}

static void snapshot_free(void *p)
{
    image_snapshot_free(p);
}

static GPtrArray *snap_list(struct node *n)
{
    struct qcow2 *q = QCOW2(n);
    GPtrArray *a = g_ptr_array_new_with_free_func(snapshot_free);

    pthread_mutex_lock(&q->lock);
    for (guint i = 0; i < q->snaps->len; i++) {
        const struct qcow2_snap *s = q->snaps->pdata[i];
        struct image_snapshot *c = g_memdup2(&s->s, sizeof s->s);

        c->id = g_strdup(c->id);
        c->name = g_strdup(c->name);
        g_ptr_array_add(a, c);
    }
    pthread_mutex_unlock(&q->lock);
    return a;
}

const struct snapshot_ops qcow2_snapshot_ops = {
    .list = snap_list,
    .create = snap_create,
    .remove = snap_remove,
    .apply = snap_apply,
    .load = snap_load,
};
