// SPDX-License-Identifier: GPL-2.0-or-later
/* qcow2_refcount.c - how often each cluster of the file is used, and finding free ones. */
#include <errno.h>
#include <string.h>

#include "image/format/qcow2.h"

u64 refcount_get(const void *block, u64 i, u32 order)
{
    const u8 *p = block;
    u32 width = 1u << order;

    switch (order) {
    case 3:
        return p[i];
    case 4:
        return be16_get(((const be16 *)block)[i]);
    case 5:
        return be32_get(((const be32 *)block)[i]);
    case 6:
        return be64_get(((const be64 *)block)[i]);
    }
    return p[(i << order) / 8] >> ((i << order) % 8) & ((1u << width) - 1);
}

void refcount_set(void *block, u64 i, u32 order, u64 count)
{
    u8 *p = block;
    u32 width = 1u << order, shift = (u32)((i << order) % 8);

    switch (order) {
    case 3:
        p[i] = (u8)count;
        return;
    case 4:
        ((be16 *)block)[i] = be16_of((u16)count);
        return;
    case 5:
        ((be32 *)block)[i] = be32_of((u32)count);
        return;
    case 6:
        ((be64 *)block)[i] = be64_of(count);
        return;
    }
    p += (i << order) / 8;
    *p = (u8)((*p & ~(((1u << width) - 1) << shift)) | (u32)count << shift);
}

/* The slice with a cluster's count, and its place there; *ret NULL: no block, all are free. */
static int count_slice(struct qcow2 *q, u64 cluster, struct slice **ret, u64 *ret_i)
{
    u64 entries = qcow2_block_entries(q), block = cluster / entries;
    u64 in_block = cluster % entries, per_slice = (u64)q->rc.bytes * 8 >> q->refcount_order;

    *ret = NULL;
    if (block >= q->reftable_size || !(q->reftable[block] & REFTABLE_MASK))
        return 0;
    u64 at = q->reftable[block] & REFTABLE_MASK;
    if (at % q->cluster)
        return -EIO;
    *ret_i = in_block % per_slice;
    return qcow2_slice(q, &q->rc, at + in_block / per_slice * q->rc.bytes, ret);
}

int qcow2_count(struct qcow2 *q, u64 cluster, u64 *ret)
{
    struct slice *s;
    u64 i;
    int r = count_slice(q, cluster, &s, &i);

    *ret = !r && s ? refcount_get(s->data, i, q->refcount_order) : 0;
    return r;
}

static void touch(struct qcow2 *q, struct slice *s, u64 i)
{
    u32 byte = (u32)(i << q->refcount_order >> 3);

    qcow2_slice_dirty(&q->rc, s, byte, byte + MAX(1u, 1u << q->refcount_order >> 3));
}

/* --- blocks and the table --------------------------------------------------------------------
 */

/*
 * A bigger refcount table, in clusters from `at` on, which no block covers yet; the blocks that
 * cover it come first.  Nothing refers to any of it until the header is changed.
 * REQUIRES(q->flush_lock), as the barrier writes to the table's old place
 */
static int grow_table(struct qcow2 *q, u64 at)
{
    u64 entries = qcow2_block_entries(q), first = at / q->cluster / entries;
    u64 want = first + first / 2 + 2, blocks = 1, clusters;

    for (;;) {
        clusters = (ROUND_UP((want + blocks) * 8, q->cluster)) >> q->cluster_bits;
        u64 need = (clusters + blocks + entries - 1) / entries;
        if (need <= blocks)
            break;
        blocks = need;
    }
    u64 size = clusters * q->cluster / 8;
    if (size * 8 > REFTABLE_BYTES_MAX)
        return -EFBIG;
    g_autofree u64 *table = g_try_new0(u64, size);
    g_autofree void *block = g_try_malloc0(q->cluster);
    g_autofree be64 *raw = g_try_new0(be64, size);
    if (!table || !block || !raw)
        return -ENOMEM;
    memcpy(table, q->reftable, q->reftable_size * 8ull);
    int r = 0;
    for (u64 b = 0; !r && b < blocks; b++) {
        table[first + b] = at + b * q->cluster;
        memset(block, 0, q->cluster);
        for (u64 i = 0; i < entries && b * entries + i < blocks + clusters; i++)
            refcount_set(block, i, q->refcount_order, 1);
        r = node_pwrite(q->node.file, table[first + b], block, q->cluster);
    }
    /* Entries that wait for the barrier wait on: their blocks' counts are not on disk yet. */
    for (u64 i = 0; i < size; i++)
        raw[i] =
            be64_of(i >= q->reftable_dirty_from && i < q->reftable_dirty_to ? 0 : table[i]);
    u64 table_at = at + blocks * q->cluster;
    if (!r)
        r = node_pwrite(q->node.file, table_at, raw, size * 8);
    if (!r)
        r = node_flush(q->node.file);
    struct {
        be64 at;
        be32 clusters;
    } __attribute__((packed)) h = { be64_of(table_at), be32_of((u32)clusters) };
    if (!r)
        r = qcow2_header_put(q, offsetof(struct qcow2_header, reftable_at), &h, sizeof h);
    if (!r)
        r = node_flush(q->node.file);
    if (r)
        return r;
    qcow2_free_later(q, q->reftable_at, q->reftable_size * 8ull);
    g_free(q->reftable);
    q->reftable = g_steal_pointer(&table);
    q->reftable_size = (u32)size;
    q->reftable_at = table_at;
    return 0;
}

/* A block for clusters that have none: it is the first cluster that it covers. */
static int new_block(struct qcow2 *q, u64 index)
{
    u64 at = index * qcow2_block_entries(q) << q->cluster_bits;
    struct slice *s;

    if (index >= q->reftable_size) {
        pthread_mutex_unlock(&q->lock);
        pthread_mutex_lock(&q->flush_lock);
        pthread_mutex_lock(&q->lock);
        int e = index >= q->reftable_size ? grow_table(q, at) : 0;
        pthread_mutex_unlock(&q->flush_lock);
        return e;
    }
    int r = node_zero(q->node.file, at, q->cluster, true);
    if (!r)
        r = qcow2_slice(q, &q->rc, at, &s);
    if (r || q->reftable[index] & REFTABLE_MASK)
        return r; /* somebody else was faster while the lock was free */
    refcount_set(s->data, 0, q->refcount_order, 1);
    touch(q, s, 0);
    q->reftable[index] = at;
    if (q->reftable_dirty_from == q->reftable_dirty_to) {
        q->reftable_dirty_from = (u32)index;
        q->reftable_dirty_to = (u32)index + 1;
    } else {
        q->reftable_dirty_from = MIN(q->reftable_dirty_from, (u32)index);
        q->reftable_dirty_to = MAX(q->reftable_dirty_to, (u32)index + 1);
    }
    return 0;
}

/* --- counting --------------------------------------------------------------------------------
 */

int qcow2_count_add(struct qcow2 *q, u64 at, u64 len, s64 by)
{
    u64 first = at >> q->cluster_bits, last = (at + len - 1) >> q->cluster_bits;
    u64 max = q->refcount_order == 6 ? INT64_MAX : BIT(1u << q->refcount_order) - 1;

    for (u64 c = first; len && c <= last; c++) {
        struct slice *s;
        u64 i;
        int r = count_slice(q, c, &s, &i);

        if (r)
            return r;
        u64 count = s ? refcount_get(s->data, i, q->refcount_order) : 0;
        if (!s || (by < 0 ? count < (u64)-by : count > max - (u64)by))
            return by < 0 ? -EIO : -ERANGE;
        count += (u64)by;
        refcount_set(s->data, i, q->refcount_order, count);
        touch(q, s, i);
        if (!count) {
            q->hint = MIN(q->hint, c);
            qcow2_cache_drop(&q->l2, c << q->cluster_bits, q->cluster);
            qcow2_cache_drop(&q->rc, c << q->cluster_bits, q->cluster);
            if (q->packed_at >> q->cluster_bits == c)
                q->packed_at = 0;
        }
    }
    return 0;
}

void qcow2_free_later(struct qcow2 *q, u64 at, u64 len)
{
    struct qcow2_free f = { at, len }, *last;

    /* A compressed cluster's bytes count each cluster that they touch: no joining. */
    if (q->freed->len && !(at % q->cluster) && !(len % q->cluster)) {
        last = &g_array_index(q->freed, struct qcow2_free, q->freed->len - 1);
        if (last->at + last->len == at && !(last->at % q->cluster)) {
            last->len += len;
            return;
        }
    }
    g_array_append_val(q->freed, f);
}

/* --- finding ---------------------------------------------------------------------------------
 */

/* Header and the tables that are held whole are never free, whatever a broken count says. */
static bool untouchable(const struct qcow2 *q, u64 at)
{
    return !at || (at + q->cluster > q->l1_at && at < q->l1_at + q->l1_size * 8ull) ||
           (at + q->cluster > q->reftable_at && at < q->reftable_at + q->reftable_size * 8ull);
}

/* Up to `want` free clusters in a row from the first at or after `from`. */
static int find_free(struct qcow2 *q, u64 from, u64 want, u64 *ret, u64 *ret_n)
{
    u64 n = 0, c = from;
    /* Counts of clusters far beyond the file's end are lies: no endless search among them. */
    u64 end = (q->node.file->size >> q->cluster_bits) + 2 * qcow2_block_entries(q) + (1 << 22);

    for (; n < want; c++) {
        struct slice *s;
        u64 i = 0;

        if (c > end || c >= (u64)INT64_MAX >> q->cluster_bits)
            return c > end ? -EIO : -EFBIG;
        u64 block = c / qcow2_block_entries(q);
        if (block >= q->reftable_size || !(q->reftable[block] & REFTABLE_MASK)) {
            int r = n ? 0 : new_block(q, block);
            if (r)
                return r;
            if (n)
                break;
        }
        int r = count_slice(q, c, &s, &i);
        if (r)
            return r;
        if (!s)
            return -EIO;
        if (refcount_get(s->data, i, q->refcount_order) ||
            untouchable(q, c << q->cluster_bits)) {
            if (n)
                break;
            continue;
        }
        n++;
    }
    *ret = c - n;
    *ret_n = n;
    return 0;
}

int qcow2_alloc(struct qcow2 *q, u64 n, u64 *ret_at, u64 *ret_n)
{
    for (;;) {
        u64 first, found, hint = q->hint;
        int r = find_free(q, hint, n, &first, &found);

        if (r)
            return r;
        /* Another thread may have taken them while a slice was waited for. */
        bool still = true;
        for (u64 i = 0; still && i < found; i++) {
            struct slice *s;
            u64 k;

            r = count_slice(q, first + i, &s, &k);
            if (r)
                return r;
            if (refcount_get(s->data, k, q->refcount_order)) {
                found = i;
                still = false;
                break;
            }
            refcount_set(s->data, k, q->refcount_order, 1);
            touch(q, s, k);
        }
        if (!found)
            continue;
        if (q->hint == hint)
            q->hint = first + found;
        *ret_at = first << q->cluster_bits;
        *ret_n = found;
        return 0;
    }
}

int qcow2_alloc_exactly(struct qcow2 *q, u64 n, u64 *ret_at)
{
    u64 from = q->hint;

    for (;;) {
        u64 first, found;
        int r = find_free(q, from, n, &first, &found);

        if (r)
            return r;
        if (found < n) {
            from = first + found;
            continue;
        }
        r = qcow2_count_add(q, first << q->cluster_bits, n << q->cluster_bits, 1);
        *ret_at = first << q->cluster_bits;
        return r;
    }
}

int qcow2_alloc_packed(struct qcow2 *q, u32 bytes, u64 *ret_at)
{
    u64 max = q->refcount_order == 6 ? INT64_MAX : BIT(1u << q->refcount_order) - 1;
    u64 open = q->packed_at, left = 0, at, n, count;
    int r;

    /* A count that has just been looked at is in memory, so the lock stays ours after it. */
    if (open) {
        r = qcow2_count(q, open >> q->cluster_bits, &count);
        if (r)
            return r;
        if (q->packed_at == open && count && count < max)
            left = ROUND_UP(open, q->cluster) - open;
    }
    if (left < bytes) {
        r = qcow2_alloc(q, 1, &at, &n);
        if (!r && left)
            r = qcow2_count(q, open >> q->cluster_bits, &count);
        if (r)
            return r;
        if (left && (q->packed_at != open || !count || count >= max || at != open + left))
            left = 0; /* not from there on into the new one */
    }
    if (left) {
        r = qcow2_count_add(q, open, MIN(left, bytes), 1);
        if (r)
            return r;
        at = open;
    }
    q->packed_at = at + bytes;
    if (!(q->packed_at % q->cluster))
        q->packed_at = 0;
    *ret_at = at;
    return 0;
}
