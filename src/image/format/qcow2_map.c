// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2_map.c - guest clusters: looking them up, reading, writing, giving them up. */
#include <errno.h>
#include <string.h>

#include "image/format/qcow2.h"

enum { PIECES = 64, ZEROES = 64 * 1024 };
static const u8 zeroes[ZEROES];

/* --- tables ----------------------------------------------------------------------------------
 */

static u64 entry_of(const struct qcow2 *q, const struct slice *s, u32 i)
{
    return be64_get(*(const be64 *)(const void *)(s->data + (size_t)i * q->l2_entry));
}

/* Subclusters: in the low half those with data, in the high half those that are zero. */
static u64 bitmap_of(const struct qcow2 *q, const struct slice *s, u32 i)
{
    return be64_get(*(const be64 *)(const void *)(s->data + (size_t)i * q->l2_entry + 8));
}

static void set_entry(struct qcow2 *q, struct slice *s, u32 i, u64 entry, u64 bitmap)
{
    u8 *p = s->data + (size_t)i * q->l2_entry;

    *(be64 *)(void *)p = be64_of(entry);
    if (q->l2_entry == 16)
        *(be64 *)(void *)(p + 8) = be64_of(bitmap);
    qcow2_slice_dirty(&q->l2, s, i * q->l2_entry, (i + 1) * q->l2_entry);
}

/* The slice with the entry of the cluster at `at`; *ret NULL: there is no table. */
static int l2_find(struct qcow2 *q, u64 at, struct slice **ret, u32 *ret_i)
{
    u64 i1 = at / qcow2_l2_coverage(q);
    u64 i2 = (at >> q->cluster_bits) & (BIT(q->l2_bits) - 1);
    u64 byte = i2 * q->l2_entry;

    *ret = NULL;
    *ret_i = (u32)(byte % q->l2.bytes / q->l2_entry);
    if (i1 >= q->l1_size)
        return -EIO;
    u64 table = q->l1[i1] & OFFSET_MASK;
    if (!table)
        return 0;
    if (table % q->cluster)
        return -EIO;
    return qcow2_slice(q, &q->l2, table + ROUND_DOWN(byte, (u64)q->l2.bytes), ret);
}

/* A table of our own for the cluster at `at`: new, or a copy of one shared with a snapshot. */
static int own_table(struct qcow2 *q, u64 at)
{
    u32 i1 = (u32)(at / qcow2_l2_coverage(q));
    u64 old, new, n;
    int r;

    if (i1 >= q->l1_size)
        return -EIO;
    if ((old = q->l1[i1]) & L2_COPIED && old & OFFSET_MASK)
        return 0;
    r = qcow2_alloc(q, 1, &new, &n);
    if (r)
        return r;
    if (!(old & OFFSET_MASK)) {
        r = node_zero(q->node.file, new, q->cluster, true);
    } else if ((old & OFFSET_MASK) % q->cluster) {
        r = -EIO;
    } else { /* a table that is shared has no changes in memory */
        g_autofree void *buf = g_try_malloc(q->cluster);

        r = buf ? node_pread(q->node.file, old & OFFSET_MASK, buf, q->cluster) : -ENOMEM;
        for (u32 i = 0; !r && i < 1u << q->l2_bits; i++) { /* shared: so is all it refers to */
            be64 *e = (be64 *)(void *)((u8 *)buf + (size_t)i * q->l2_entry);

            if (!q->node.data_file)
                *e = be64_of(be64_get(*e) & ~L2_COPIED);
        }
        if (!r)
            r = node_pwrite(q->node.file, new, buf, q->cluster);
    }
    if (r || q->l1[i1] != old) { /* somebody was faster while the lock was free */
        qcow2_free_later(q, new, q->cluster);
        return r;
    }
    qcow2_cache_drop(&q->l2, new, q->cluster);
    qcow2_l1_set(q, i1, new | L2_COPIED);
    if (old & OFFSET_MASK)
        qcow2_free_later(q, old & OFFSET_MASK, q->cluster);
    return 0;
}

/* The slice to change. Nothing may come between it and the change that lets go of the lock. */
static int l2_own(struct qcow2 *q, u64 at, struct slice **ret, u32 *ret_i)
{
    for (;;) {
        int r = own_table(q, at);

        if (!r)
            r = l2_find(q, at, ret, ret_i);
        if (r)
            return r;
        u64 l1 = q->l1[at / qcow2_l2_coverage(q)];
        if (*ret && l1 & L2_COPIED && (*ret)->at - (l1 & OFFSET_MASK) < q->cluster)
            return 0;
    }
}

/* --- looking up ------------------------------------------------------------------------------
 */

void qcow2_packed_place(const struct qcow2 *q, u64 entry, u64 *ret_at, u64 *ret_len)
{
    u32 shift = 62 - (q->cluster_bits - 8);
    u64 at = entry & (BIT(shift) - 1);
    u64 sectors = ((entry & (BIT(62) - 1)) >> shift) + 1;

    *ret_at = at;
    *ret_len = sectors * 512 - at % 512;
}

/* The unit (subcluster or cluster) with number `sub` in an entry. */
static int classify(const struct qcow2 *q, u64 entry, u64 bitmap, u32 sub, struct run *r)
{
    r->entry = entry;
    r->mine = entry & L2_COPIED;
    r->host = 0;
    if (entry & L2_COMPRESSED) {
        r->type = RUN_PACKED;
        return q->node.data_file ? -EIO : 0;
    }
    u64 host = entry & OFFSET_MASK;
    if (host % q->cluster)
        return -EIO;
    bool stored = host || (q->node.data_file && entry & L2_COPIED);
    if (q->l2_entry == 16) {
        bool data = bitmap >> sub & 1, zero = bitmap >> (sub + 32) & 1;

        if ((data && zero) || (data && !stored))
            return -EIO;
        r->type = data ? RUN_DATA : zero ? RUN_ZERO : RUN_UNALLOCATED;
    } else {
        r->type = q->version > 2 && entry & L2_ZERO ? RUN_ZERO
                  : stored                          ? RUN_DATA
                                                    : RUN_UNALLOCATED;
    }
    if (stored)
        r->host = host + sub * q->unit;
    r->mine = r->mine && stored;
    return 0;
}

int qcow2_lookup(struct qcow2 *q, u64 at, u64 len, struct run *ret)
{
    struct slice *s;
    u32 i;
    int r = l2_find(q, at, &s, &i);

    if (r)
        return r;
    if (!s) {
        u64 end = (at / qcow2_l2_coverage(q) + 1) * qcow2_l2_coverage(q);
        *ret = (struct run){ .type = RUN_UNALLOCATED, .len = MIN(len, end - at) };
        return 0;
    }
    bool own = q->l1[at / qcow2_l2_coverage(q)] & L2_COPIED || q->node.data_file;
    u32 n = q->l2.bytes / q->l2_entry, subs = (u32)(q->cluster / q->unit);
    u32 sub = (u32)(at % q->cluster / q->unit);
    u64 done = 0, part = q->unit - at % q->unit;

    r = classify(q, entry_of(q, s, i), q->l2_entry == 16 ? bitmap_of(q, s, i) : 0, sub, ret);
    if (r)
        return r;
    ret->mine = ret->mine && own; /* what a shared table refers to is shared */
    u64 host = ret->host ? ret->host + at % q->unit : ret->host;
    bool stored = q->node.data_file ? ret->mine : host != 0;
    if (stored)
        host = ret->host + at % q->unit;
    if (ret->type == RUN_PACKED) {
        ret->len = MIN(len, q->cluster - at % q->cluster);
        return 0;
    }
    struct run next = *ret;
    ret->host = host;
    while (next.type == ret->type && next.mine == ret->mine &&
           (stored ? next.host + (done ? 0 : at % q->unit) == host + done : !next.host)) {
        done += part;
        part = q->unit;
        if (++sub == subs) {
            sub = 0;
            if (++i == n)
                break;
        }
        if (done >= len)
            break;
        if (classify(q, entry_of(q, s, i), q->l2_entry == 16 ? bitmap_of(q, s, i) : 0, sub,
                     &next))
            break;
        next.mine = next.mine && own;
    }
    ret->len = MIN(done, len);
    return 0;
}

int qcow2_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    struct qcow2 *q = QCOW2(n);
    struct run r;

    pthread_mutex_lock(&q->lock);
    int e = qcow2_lookup(q, at, len, &r);
    for (struct run more; !e && r.len < len;) { /* over the ends of slices */
        e = qcow2_lookup(q, at + r.len, len - r.len, &more);
        if (e || more.type != r.type || r.type == RUN_PACKED || !more.host != !r.host ||
            (r.host && more.host != r.host + r.len)) {
            e = 0;
            break;
        }
        r.len += more.len;
    }
    pthread_mutex_unlock(&q->lock);
    if (e)
        return e;
    static const u32 flags[] = {
        [RUN_UNALLOCATED] = 0,
        [RUN_ZERO] = EXTENT_ALLOCATED | EXTENT_ZERO,
        [RUN_DATA] = EXTENT_ALLOCATED | EXTENT_DATA | EXTENT_OFFSET,
        [RUN_PACKED] = EXTENT_ALLOCATED | EXTENT_DATA | EXTENT_COMPRESSED,
    };
    *ret = (struct extent){ .len = r.len, .flags = flags[r.type] };
    if (q->crypt_method) {
        ret->flags &= ~(u32)EXTENT_OFFSET;
    } else if (r.type == RUN_DATA || (r.type == RUN_ZERO && (r.host || r.mine))) {
        ret->flags |= EXTENT_OFFSET;
        ret->host = r.host;
        ret->in = qcow2_data(q);
    }
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------
 */

static int read_packed(struct qcow2 *q, u64 entry, u64 at, u64 len, struct cursor *c)
{
    u64 from, n;

    qcow2_packed_place(q, entry, &from, &n);
    g_autofree u8 *packed = g_try_malloc(n);
    g_autofree u8 *whole = g_try_malloc(q->cluster);
    if (!packed || !whole)
        return -ENOMEM;
    if (from >= q->node.file->size)
        return -EIO;
    int r = node_pread(q->node.file, from, packed, n);
    if (!r)
        r = qcow2_unpack(q, whole, q->cluster, packed, n);
    if (!r)
        cursor_put(c, whole + at % q->cluster, len);
    return r;
}

/* Inside a range that the caller has entered. */
static int read_entered(struct qcow2 *q, u64 at, u64 len, struct cursor *c)
{
    while (len) {
        struct run run;

        pthread_mutex_lock(&q->lock);
        int r = qcow2_lookup(q, at, len, &run);
        pthread_mutex_unlock(&q->lock);
        if (r)
            return r;
        switch (run.type) {
        case RUN_UNALLOCATED:
            r = node_read_backing(&q->node, at, run.len, c);
            break;
        case RUN_ZERO:
            cursor_zero(c, run.len);
            break;
        case RUN_DATA:
            r = qcow2_data_read(q, at, run.host, run.len, c);
            break;
        case RUN_PACKED:
            r = read_packed(q, run.entry, at, run.len, c);
            break;
        }
        if (r)
            return r;
        at += run.len;
        len -= run.len;
    }
    return 0;
}

static void enter(struct qcow2 *q, struct range *r, u64 at, u64 len, bool alone)
{
    r->at = ROUND_DOWN(at, q->cluster);
    r->end = ROUND_UP(at + len, q->cluster);
    r->alone = alone;
    ranges_enter(&q->ranges, &q->lock, r);
}

int qcow2_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct qcow2 *q = QCOW2(n);
    struct range range;

    pthread_mutex_lock(&q->lock);
    enter(q, &range, at, len, false);
    pthread_mutex_unlock(&q->lock);
    int r = read_entered(q, at, len, c);
    pthread_mutex_lock(&q->lock);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* --- writing ---------------------------------------------------------------------------------
 */

/* What an entry owned goes, once no table on disk has it any more. REQUIRES(q->lock) */
static void drop_entry(struct qcow2 *q, u64 entry)
{
    if (entry & L2_COMPRESSED) {
        u64 at, len;

        qcow2_packed_place(q, entry, &at, &len);
        qcow2_free_later(q, at, len);
    } else if (!q->node.data_file && entry & OFFSET_MASK) {
        qcow2_free_later(q, entry & OFFSET_MASK, q->cluster);
    } else if (q->node.data_file && entry & L2_COPIED && q->discard) {
        node_discard(q->node.data_file, entry & OFFSET_MASK, q->cluster);
    }
}

/* New storage for clusters from `at` on. */
struct place {
    u64 host, n; /* clusters */
    bool fresh;  /* reads as zeroes: beyond the file's end, not encrypted */
};

static int place_new(struct qcow2 *q, u64 at, u64 n, struct place *p)
{
    if (q->node.data_file) {
        *p = (struct place){ .host = ROUND_DOWN(at, q->cluster), .n = n };
        return 0;
    }
    int r = qcow2_alloc(q, n, &p->host, &p->n);
    p->fresh = !r && !q->crypt && p->host >= q->node.file->size;
    return r;
}

static void unplace(struct qcow2 *q, const struct place *p)
{
    if (!q->node.data_file)
        qcow2_free_later(q, p->host, p->n << q->cluster_bits);
}

/* How many clusters from the one at `at` on have to get new storage, for len bytes. */
static int count_new(struct qcow2 *q, u64 at, u64 len, u64 *ret)
{
    u64 n = 0, end = at + len;

    for (u64 c = ROUND_DOWN(at, q->cluster); c < end; c += q->cluster, n++) {
        struct slice *s;
        u32 i;
        int r = l2_find(q, c, &s, &i);

        if (r)
            return r;
        bool own = q->l1[c / qcow2_l2_coverage(q)] & L2_COPIED || q->node.data_file;
        u64 e = s && own ? entry_of(q, s, i) : 0;
        if (!(e & L2_COMPRESSED) && e & L2_COPIED && (e & OFFSET_MASK || q->node.data_file))
            break;
        if ((c + q->cluster) % qcow2_l2_coverage(q) == 0) {
            n++;
            break;
        }
    }
    *ret = n;
    return 0;
}

/* Copy-on-write: where bytes have to be brought along around what is written. */
struct around {
    u64 head, tail; /* bytes before at, and behind the end */
    bool head_zero, tail_zero;
};

static bool reads_zero(struct qcow2 *q, u64 at, u64 len)
{
    struct run run = { 0 };

    for (; len; at += run.len, len -= run.len) {
        pthread_mutex_lock(&q->lock);
        int r = qcow2_lookup(q, at, len, &run);
        pthread_mutex_unlock(&q->lock);
        if (r || !(run.type == RUN_ZERO || (run.type == RUN_UNALLOCATED &&
                                            (!q->node.backing || at >= q->node.backing->size))))
            return false;
    }
    return true;
}

/* Data and what is around it, to host, which is where `at - around->head` goes. */
static int write_around(struct qcow2 *q, u64 at, u64 len, struct cursor *c,
                        const struct around *a, u64 host, bool fresh)
{
    bool skip_head = !a->head || (fresh && a->head_zero);
    bool skip_tail = !a->tail || (fresh && a->tail_zero);

    if (skip_head && skip_tail)
        return qcow2_data_write(q, at, host + a->head, len, c);
    g_autofree u8 *buf = g_try_malloc0(a->head + a->tail);
    if (!buf)
        return -ENOMEM;
    struct iovec hv = { buf, a->head }, tv = { buf + a->head, a->tail };
    struct cursor hc = { &hv, 1 }, tc = { &tv, 1 };
    int r = a->head_zero ? 0 : read_entered(q, at - a->head, a->head, &hc);
    /* The last cluster may go on behind the image's end: zeroes. */
    u64 tail = MIN(a->tail, q->node.size - MIN(q->node.size, at + len));
    if (!r && !a->tail_zero)
        r = read_entered(q, at + len, tail, &tc);
    /* One write if the request has few pieces. */
    struct iovec v[PIECES];
    int k = 0;
    if (!r && c->n <= PIECES - 2) {
        if (!skip_head)
            v[k++] = (struct iovec){ buf, a->head };
        k += cursor_peek(c, len, v + k, PIECES - 2);
        if (!skip_tail)
            v[k++] = (struct iovec){ buf + a->head, a->tail };
        struct cursor all = { v, k };
        u64 head = skip_head ? 0 : a->head;
        r = qcow2_data_write(q, at - head, host + a->head - head,
                             head + len + (skip_tail ? 0 : a->tail), &all);
        if (!r)
            cursor_advance(c, len);
        return r;
    }
    hv = (struct iovec){ buf, a->head };
    tv = (struct iovec){ buf + a->head, a->tail };
    hc = (struct cursor){ &hv, 1 };
    tc = (struct cursor){ &tv, 1 };
    if (!r && !skip_head)
        r = qcow2_data_write(q, at - a->head, host, a->head, &hc);
    if (!r)
        r = qcow2_data_write(q, at, host + a->head, len, c);
    if (!r && !skip_tail)
        r = qcow2_data_write(q, at + len, host + a->head + len, a->tail, &tc);
    return r;
}

/* Bits of the units that a byte range of a cluster touches. */
static u64 unit_bits(const struct qcow2 *q, u64 from, u64 to)
{
    u64 a = from / q->unit, b = (to + q->unit - 1) / q->unit;

    return (b >= 64 ? ~0ull : BIT(b) - 1) & ~(BIT(a) - 1);
}

/* The entries of n clusters, of which [from, to) got data. Old ones are given up. */
static int link_new(struct qcow2 *q, u64 from, u64 to, const struct place *p, u64 n, bool whole)
{
    u64 first = ROUND_DOWN(from, q->cluster);

    for (u64 k = 0; k < n; k++) {
        u64 at = first + k * q->cluster, bits = 0, old, bitmap = 0;
        struct slice *s;
        u32 i;
        int r = l2_own(q, at, &s, &i);

        if (r) { /* what is linked stays, the rest goes */
            struct place rest = { .host = p->host + k * q->cluster, .n = p->n - k };
            unplace(q, &rest);
            return r;
        }
        old = entry_of(q, s, i);
        if (q->l2_entry == 16) {
            bits = unit_bits(q, MAX(from, at) - at, MIN(to, at + q->cluster) - at);
            bitmap = whole ? UINT32_MAX : bitmap_of(q, s, i);
            if (!whole && old & L2_COMPRESSED)
                bitmap = 0;
            bitmap = (bitmap | bits) & ~(bits << 32);
        }
        set_entry(q, s, i, (p->host + k * q->cluster) | L2_COPIED, bitmap);
        drop_entry(q, old);
    }
    return 0;
}

/* Clusters that need new storage. *ret: bytes done. The range is ours alone. */
static int write_new(struct qcow2 *q, u64 at, u64 len, struct cursor *c, u64 n, u64 *ret)
{
    struct place p;
    struct slice *s;
    u32 i;
    u64 first = ROUND_DOWN(at, q->cluster);
    bool whole = q->l2_entry == 8;

    /* With subclusters only those that are touched are brought along, unless the old cluster
     * has data of its own that would be left behind. */
    pthread_mutex_lock(&q->lock);
    int r = 0;
    if (!whole) {
        r = l2_find(q, at, &s, &i);
        if (!r && s && (entry_of(q, s, i) & L2_COMPRESSED || (u32)bitmap_of(q, s, i))) {
            whole = true;
            n = 1;
        }
        for (u64 k = 1; !r && k < n; k++) {
            r = l2_find(q, first + k * q->cluster, &s, &i);
            if (!r && s && (entry_of(q, s, i) & L2_COMPRESSED || (u32)bitmap_of(q, s, i)))
                n = k;
        }
    }
    if (!r)
        r = place_new(q, at, n, &p);
    pthread_mutex_unlock(&q->lock);
    if (r)
        return r;

    u64 end = MIN(at + len, first + p.n * q->cluster);
    u64 grain = whole ? q->cluster : q->unit;
    struct around a = { .head = at % grain, .tail = ROUND_UP(end, grain) - end };
    a.head_zero = a.head && reads_zero(q, at - a.head, a.head);
    u64 tail = MIN(a.tail, q->node.size - MIN(end, q->node.size));
    a.tail_zero = a.tail && reads_zero(q, end, tail);
    r = write_around(q, at, end - at, c, &a, p.host + (at - a.head - first), p.fresh);
    pthread_mutex_lock(&q->lock);
    u64 used = (ROUND_UP(end, q->cluster) - first) >> q->cluster_bits;
    if (r) {
        unplace(q, &p);
    } else {
        if (used < p.n) {
            struct place rest = { .host = p.host + used * q->cluster, .n = p.n - used };
            unplace(q, &rest);
            p.n = used;
        }
        r = link_new(q, at, end, &p, used, whole);
    }
    pthread_mutex_unlock(&q->lock);
    *ret = end - at;
    return r;
}

/* A cluster that has storage of its own, but units in it that are not data yet. */
static int write_units(struct qcow2 *q, u64 at, u64 len, struct cursor *c, u64 *ret)
{
    u64 first = ROUND_DOWN(at, q->cluster), end = MIN(at + len, first + q->cluster);
    struct around a = { .head = at % q->unit, .tail = ROUND_UP(end, q->unit) - end };
    struct slice *s;
    u32 i;

    pthread_mutex_lock(&q->lock);
    int r = l2_find(q, at, &s, &i);
    u64 entry = !r && s ? entry_of(q, s, i) : 0;
    pthread_mutex_unlock(&q->lock);
    if (r)
        return r;
    u64 tail = MIN(a.tail, q->node.size - MIN(end, q->node.size));
    a.head_zero = a.head && reads_zero(q, at - a.head, a.head);
    a.tail_zero = a.tail && reads_zero(q, end, tail);
    r = write_around(q, at, end - at, c, &a, (entry & OFFSET_MASK) + (at - a.head - first),
                     false);
    if (r)
        return r;
    pthread_mutex_lock(&q->lock);
    r = l2_own(q, at, &s, &i);
    if (!r) {
        u64 bits = 0, bitmap = 0;

        if (q->l2_entry == 16) {
            bits = unit_bits(q, at - first, end - first);
            bitmap = (bitmap_of(q, s, i) | bits) & ~(bits << 32);
        }
        set_entry(q, s, i, entry & ~L2_ZERO, bitmap);
    }
    pthread_mutex_unlock(&q->lock);
    *ret = end - at;
    return r;
}

/* The range is ours alone; something in it needs storage. */
static int write_alone(struct qcow2 *q, u64 at, u64 len, struct cursor *c)
{
    while (len) {
        struct run run;
        u64 done = 0, n = 0;

        pthread_mutex_lock(&q->lock);
        int r = qcow2_lookup(q, at, len, &run);
        if (!r && !(run.type == RUN_DATA && run.mine))
            r = count_new(q, at, len, &n);
        pthread_mutex_unlock(&q->lock);
        if (r)
            return r;
        if (run.type == RUN_DATA && run.mine) {
            r = qcow2_data_write(q, at, run.host, run.len, c);
            done = run.len;
        } else if (n) {
            r = write_new(q, at, len, c, n, &done);
        } else {
            r = write_units(q, at, q->l2_entry == 16 ? MIN(len, run.len) : len, c, &done);
        }
        if (r)
            return r;
        at += done;
        len -= done;
    }
    return 0;
}

static int in_place(struct qcow2 *q, u64 at, u64 len, bool *ret)
{
    struct run run;

    *ret = true;
    for (; len; at += run.len, len -= run.len) {
        int r = qcow2_lookup(q, at, len, &run);

        if (r)
            return r;
        if (run.type != RUN_DATA || !run.mine) {
            *ret = false;
            return 0;
        }
    }
    return 0;
}

int qcow2_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct qcow2 *q = QCOW2(n);
    struct range range;
    bool simple;

    if (q->gone_bad)
        return -EIO;
    pthread_mutex_lock(&q->lock);
    enter(q, &range, at, len, false);
    int r = in_place(q, at, len, &simple);
    if (q->crypt && (at % CRYPT_SECTOR || len % CRYPT_SECTOR))
        simple = false; /* a sector is read, and written as a whole */
    if (!r && !simple) {
        ranges_leave(&q->ranges, &range);
        enter(q, &range, at, len, true);
    }
    pthread_mutex_unlock(&q->lock);
    if (!r)
        r = write_alone(q, at, len, c);
    pthread_mutex_lock(&q->lock);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* --- compressed ------------------------------------------------------------------------------
 */

static int link_packed(struct qcow2 *q, u64 at, u64 host, u32 len)
{
    u32 shift = 62 - (q->cluster_bits - 8);
    u64 sectors = ((host + len - 1) >> 9) - (host >> 9);
    struct slice *s;
    u32 i;
    int r = host >= BIT(shift) ? -EFBIG : l2_own(q, at, &s, &i);

    if (r) {
        qcow2_free_later(q, host, len);
        return r;
    }
    u64 old = entry_of(q, s, i);
    set_entry(q, s, i, L2_COMPRESSED | sectors << shift | host, 0);
    drop_entry(q, old);
    return 0;
}

int qcow2_write_compressed(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct qcow2 *q = QCOW2(n);
    struct range range;
    u64 host;

    if (q->gone_bad)
        return -EIO;
    if (q->node.data_file || q->crypt_method)
        return -ENOTSUP;
    if (at % q->cluster || (len != q->cluster && at + len != n->size) || len > q->cluster)
        return -EINVAL;
    g_autofree u8 *plain = g_try_malloc0(q->cluster);
    g_autofree u8 *packed = g_try_malloc(q->cluster);
    if (!plain || !packed)
        return -ENOMEM;
    cursor_get(c, plain, len);
    s64 bytes = qcow2_pack(q, packed, plain, q->cluster);
    if (bytes < 0)
        return (int)bytes;
    if (!bytes) {
        struct iovec v = { plain, len };
        struct cursor again = { &v, 1 };

        return qcow2_write(n, at, len, &again);
    }
    pthread_mutex_lock(&q->lock);
    enter(q, &range, at, len, true);
    int r = qcow2_alloc_packed(q, (u32)bytes, &host);
    pthread_mutex_unlock(&q->lock);
    if (!r)
        r = node_pwrite(n->file, host, packed, (size_t)bytes);
    pthread_mutex_lock(&q->lock);
    if (!r)
        r = link_packed(q, at, host, (u32)bytes);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* --- zeroes and discards ---------------------------------------------------------------------
 */

/* One whole cluster. keep: its storage stays. */
static int zero_cluster(struct qcow2 *q, u64 at, bool keep)
{
    struct slice *s;
    u32 i;
    int r = l2_find(q, at, &s, &i);

    if (r)
        return r;
    u64 old = s ? entry_of(q, s, i) : 0,
        bitmap = s && q->l2_entry == 16 ? bitmap_of(q, s, i) : 0;
    bool zero = q->l2_entry == 16 ? bitmap >> 32 == UINT32_MAX
                                  : (old & L2_ZERO) && !(old & L2_COMPRESSED);
    bool stored =
        old & L2_COMPRESSED || old & OFFSET_MASK || (q->node.data_file && old & L2_COPIED);
    if ((zero && (keep || !stored)) || (!stored && !bitmap && !old && !q->node.backing))
        return 0;
    r = l2_own(q, at, &s, &i);
    if (r)
        return r;
    old = entry_of(q, s, i);
    keep = keep && stored && old & L2_COPIED && !(old & L2_COMPRESSED);
    u64 entry = keep ? old & ~L2_ZERO : 0;
    if (q->l2_entry == 16)
        set_entry(q, s, i, entry, (u64)UINT32_MAX << 32);
    else
        set_entry(q, s, i, entry | L2_ZERO, 0);
    if (!keep)
        drop_entry(q, old);
    return 0;
}

static int write_zeroes(struct qcow2 *q, u64 at, u64 len)
{
    while (len) {
        struct iovec v = { (void *)zeroes, MIN(len, ZEROES) };
        struct cursor c = { &v, 1 };
        u64 part = v.iov_len;
        int r = qcow2_write(&q->node, at, part, &c);

        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

int qcow2_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    struct qcow2 *q = QCOW2(n);
    u64 end = at + len;
    u64 from = ROUND_UP(at, q->cluster);
    u64 to = end == n->size ? ROUND_UP(end, q->cluster) : ROUND_DOWN(end, q->cluster);
    struct range range;
    int r = 0;

    if (q->gone_bad)
        return -EIO;
    /* Version 2 has no zero clusters; a raw data file must hold what is read. */
    if (q->version < 3 || q->autoclear & AUTOCLEAR_DATA_FILE_RAW) {
        if (q->node.data_file)
            return -ENOTSUP;
        if (n->backing || !may_unmap)
            return -ENOTSUP;
    }
    if (from >= to)
        return reads_zero(q, at, len) ? 0 : write_zeroes(q, at, len);
    if (at < from && !reads_zero(q, at, from - at))
        r = write_zeroes(q, at, from - at);
    if (!r && to < end && !reads_zero(q, to, end - to))
        r = write_zeroes(q, to, end - to);
    if (r)
        return r;
    if (q->version < 3)
        return qcow2_discard(n, from, to - from);
    pthread_mutex_lock(&q->lock);
    enter(q, &range, from, to - from, true);
    for (u64 c = from; !r && c < to; c += q->cluster)
        r = zero_cluster(q, c, !may_unmap);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_discard(struct node *n, u64 at, u64 len)
{
    struct qcow2 *q = QCOW2(n);
    u64 end = at + len;
    u64 from = ROUND_UP(at, q->cluster);
    u64 to = end == n->size ? ROUND_UP(end, q->cluster) : ROUND_DOWN(end, q->cluster);
    struct range range;
    int r = 0;

    if (q->gone_bad)
        return -EIO;
    if (from >= to || q->autoclear & AUTOCLEAR_DATA_FILE_RAW || (q->version < 3 && n->backing))
        return 0;
    pthread_mutex_lock(&q->lock);
    enter(q, &range, from, to - from, true);
    for (u64 c = from; !r && c < to; c += q->cluster) {
        struct slice *s;
        u32 i;

        if (q->version >= 3) {
            r = zero_cluster(q, c, false);
            continue;
        }
        r = l2_find(q, c, &s, &i);
        if (r || !s || !entry_of(q, s, i))
            continue;
        r = l2_own(q, c, &s, &i);
        if (r)
            break;
        u64 old = entry_of(q, s, i);
        set_entry(q, s, i, 0, 0);
        drop_entry(q, old);
    }
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_preallocate(struct qcow2 *q, u64 at, u64 len)
{
    u64 end = at + len;

    at = ROUND_DOWN(at, q->cluster);
    while (at < end) {
        struct place p;
        u64 n = 0;

        pthread_mutex_lock(&q->lock);
        int r = count_new(q, at, end - at, &n);
        if (!r && n) {
            r = place_new(q, at, n, &p);
            if (!r)
                r = link_new(q, at, at + p.n * q->cluster, &p, p.n, true);
            /* What lies there is no zeroes when it is decrypted. */
            for (u64 k = 0; !r && q->crypt && k < p.n; k++)
                r = zero_cluster(q, at + k * q->cluster, true);
        }
        pthread_mutex_unlock(&q->lock);
        if (r)
            return r;
        at += (n ? p.n : 1) * q->cluster;
    }
    return 0;
}
