// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_bitmap.c - persistent dirty bitmaps (the specification's "Bitmaps extension").
 *
 *   header extension -> directory: an entry for each bitmap -> its table -> clusters of bits
 *
 * A table's entry is the offset of a cluster, or 0 or 1: all of its bits are.  While an image
 * is open for writing, the truth about its bitmaps is in memory (image/dirty.c), and every
 * entry of the directory is marked IN_USE; whoever finds such a mark in an image that nobody
 * has open knows that the bits do not hold ("inconsistent").  When writing ends, all is written
 * anew beside the old, then the header is changed:
 *
 *   1  bits, tables, directory, their counts; flush
 *   2  the autoclear bit goes: there are no bitmaps; flush
 *   3  the header with the new extension; flush
 *   4  the autoclear bit comes back; flush
 *   5  what is no longer referred to is counted down
 *
 * so a power cut leaves bitmaps that are inconsistent or none at all, but never wrong ones.
 *
 * Taken are 1024 bitmaps with 512 MiB of bits in all; extra data in the directory are refused.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "image/format/qcow2.h"
#include "image/graph_impl.h"

enum {
    BITMAPS_MAX = 1024,
    NAME_MAX_BYTES = 1023,
    DIRECTORY_MAX = BITMAPS_MAX * 1056,
    TYPE_DIRTY = 1,
    BITS_MIN = 9,
    BITS_MAX = 31,
    BYTES_MAX = 512 << 20, /* of bits */
};
enum { ALL_ONES = 1 };
#define TABLE_RESERVED 0xff000000000001feull

struct extension {
    be32 n, reserved;
    be64 size, at;
} __attribute__((packed));
struct entry {
    be64 table_at;
    be32 table_size, flags;
    u8 type, granularity_bits;
    be16 name_len;
    be32 extra_len;
} __attribute__((packed));
_Static_assert(sizeof(struct extension) == 24 && sizeof(struct entry) == 24, "bitmaps");

static bool io(struct qcow2 *q, int r, GError **error)
{
    return !r || fail_errno(error, -r, "image '%s': bitmaps", q->node.filename);
}

/* --- reading ---------------------------------------------------------------------------------
 */

static void bitmap_entry_free(void *p)
{
    struct qcow2_bitmap *b = p;

    g_free(b->name);
    g_free(b);
}

static struct qcow2_extension *extension_of(struct qcow2 *q)
{
    for (guint i = 0; i < q->extensions->len; i++) {
        struct qcow2_extension *e = q->extensions->pdata[i];

        if (e->type == EXT_BITMAPS)
            return e;
    }
    return NULL;
}

static bool broken(struct qcow2 *q, const char *why, GError **error)
{
    return fail(error, ERR_FORMAT, "image '%s': the bitmap directory is broken: %s",
                q->node.filename, why);
}

static bool entry_ok(struct qcow2 *q, const struct qcow2_bitmap *b, u32 type)
{
    u64 bytes = b->table_size * q->cluster;

    if (type != TYPE_DIRTY || b->granularity_bits < BITS_MIN ||
        b->granularity_bits > BITS_MAX ||
        b->flags & ~(u32)(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO) || !b->table_at ||
        b->table_at % q->cluster || !b->table_size || bytes > BYTES_MAX)
        return false;
    return b->flags & QCOW2_BITMAP_IN_USE || q->node.size <= (bytes * 8) << b->granularity_bits;
}

GPtrArray *qcow2_bitmaps(struct qcow2 *q, u64 *ret_at, u64 *ret_len, GError **error)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(bitmap_entry_free);
    const struct qcow2_extension *e = extension_of(q);
    struct extension x;
    u64 pos = 0;

    *ret_at = *ret_len = 0;
    if (!e || !(q->autoclear & AUTOCLEAR_BITMAPS))
        return g_steal_pointer(&all);
    if (e->len != sizeof x) {
        broken(q, "its extension has another length", error);
        return NULL;
    }
    memcpy(&x, e->data, sizeof x);
    u64 at = be64_get(x.at), len = be64_get(x.size);
    u32 n = be32_get(x.n);
    if (!n || n > BITMAPS_MAX || !at || at % q->cluster) {
        broken(q, n > BITMAPS_MAX ? "more bitmaps than 1024" : "its place or number", error);
        return NULL;
    }
    g_autofree u8 *dir =
        node_load_new(q->node.file, at, len, DIRECTORY_MAX, "the bitmap directory", error);
    if (!dir)
        return NULL;
    for (u32 i = 0; i < n; i++) {
        struct entry d;

        if (pos > len || len - pos < sizeof d) {
            broken(q, "it is too short", error);
            return NULL;
        }
        memcpy(&d, dir + pos, sizeof d);
        u64 extra = be32_get(d.extra_len), name = be16_get(d.name_len);
        if (extra) {
            fail(error, ERR_UNSUPPORTED, "image '%s': Bitmap extra data is not supported",
                 q->node.filename);
            return NULL;
        }
        if (!name || name > NAME_MAX_BYTES || len - pos - sizeof d < name ||
            !g_utf8_validate((char *)dir + pos + sizeof d, (gssize)name, NULL)) {
            broken(q, "a name", error);
            return NULL;
        }
        struct qcow2_bitmap *b = g_new0(struct qcow2_bitmap, 1);
        g_ptr_array_add(all, b);
        b->table_at = be64_get(d.table_at);
        b->table_size = be32_get(d.table_size);
        b->flags = be32_get(d.flags);
        b->granularity_bits = d.granularity_bits;
        b->flags_at = at + pos + offsetof(struct entry, flags);
        b->name = g_strndup((char *)dir + pos + sizeof d, name);
        if (!entry_ok(q, b, d.type)) {
            fail(error, ERR_FORMAT, "image '%s': Bitmap '%s' doesn't satisfy the constraints",
                 q->node.filename, b->name);
            return NULL;
        }
        pos += ROUND_UP(sizeof d + name, 8);
    }
    if (pos != len) {
        broken(q, "it is longer than its entries", error);
        return NULL;
    }
    *ret_at = at;
    *ret_len = len;
    return g_steal_pointer(&all);
}

u64 *qcow2_bitmap_table(struct qcow2 *q, const struct qcow2_bitmap *b, GError **error)
{
    u64 bytes = b->table_size * 8ull;
    g_autofree be64 *raw =
        node_load_new(q->node.file, b->table_at, bytes, bytes, "a bitmap's table", error);
    g_autofree u64 *table = raw ? g_try_new(u64, b->table_size) : NULL;

    if (raw && !table)
        fail(error, ERR_LIMIT, "image '%s': no memory for a bitmap's table", q->node.filename);
    for (u32 i = 0; table && i < b->table_size; i++) {
        table[i] = be64_get(raw[i]);
        u64 at = table[i] & OFFSET_MASK;

        if (table[i] & TABLE_RESERVED || at % q->cluster || (at && table[i] & ALL_ONES)) {
            fail(error, ERR_FORMAT, "image '%s': Bitmap '%s': its table is broken",
                 q->node.filename, b->name);
            return NULL;
        }
    }
    return g_steal_pointer(&table);
}

static bool load_bits(struct qcow2 *q, const struct qcow2_bitmap *b, struct bits *to,
                      GError **error)
{
    g_autofree u64 *table = qcow2_bitmap_table(q, b, error);
    g_autofree u8 *buf = g_malloc(q->cluster);
    u64 grain = BIT(b->granularity_bits), n = (q->node.size + grain - 1) / grain;

    if (!table)
        return false;
    for (u32 i = 0; i < b->table_size && i * q->cluster * 8 < n; i++) {
        if (!table[i])
            continue;
        if (table[i] & ALL_ONES)
            memset(buf, 0xff, q->cluster);
        else if (!io(q, node_pread(q->node.file, table[i], buf, q->cluster), error))
            return false;
        bits_import(to, i * q->cluster, buf, q->cluster);
    }
    return true;
}

/* What the directory says is marked in use, durably. */
static bool mark(struct qcow2 *q, GPtrArray *all, GError **error)
{
    bool any = false;

    for (guint i = 0; i < all->len; i++) {
        struct qcow2_bitmap *b = all->pdata[i];
        be32 flags = be32_of(b->flags | QCOW2_BITMAP_IN_USE);

        if (b->flags & QCOW2_BITMAP_IN_USE)
            continue;
        any = true;
        if (!io(q, node_pwrite(q->node.file, b->flags_at, &flags, sizeof flags), error))
            return false;
    }
    if (any && !io(q, node_flush(q->node.file), error))
        return false;
    q->bitmaps_held = true;
    return true;
}

static bool qcow2_bitmaps_load(struct node *n, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    u64 at, len, budget = BYTES_MAX;
    g_autoptr(GPtrArray) all = qcow2_bitmaps(q, &at, &len, error);

    for (guint i = 0; all && i < all->len; i++) {
        const struct qcow2_bitmap *b = all->pdata[i];
        u64 bytes = (n->size >> b->granularity_bits) / 8 + 8;

        if (bytes > budget)
            return fail(error, ERR_LIMIT,
                        "image '%s': its bitmaps have more than 512 MiB of bits", n->filename);
        budget -= bytes;
        struct bitmap *m = bitmap_new(n, b->name, BIT(b->granularity_bits), true, error);
        if (!m)
            return false;
        m->persistent = true;
        m->inconsistent = b->flags & QCOW2_BITMAP_IN_USE;
        m->recording = b->flags & QCOW2_BITMAP_AUTO && !m->inconsistent;
        if (node_bitmap_exists(n, b->name) ||
            (!m->inconsistent && !load_bits(q, b, &m->bits, error))) {
            bitmap_free(m);
            return !error || *error ? false : broken(q, "a name is there twice", error);
        }
        node_bitmap_put(n, m);
    }
    return all && (n->read_only || mark(q, all, error));
}

static bool qcow2_bitmaps_in_use(struct node *n, GError **error)
{
    u64 at, len;
    g_autoptr(GPtrArray) all = qcow2_bitmaps(QCOW2(n), &at, &len, error);

    return all && mark(QCOW2(n), all, error);
}

/* --- writing ---------------------------------------------------------------------------------
 */

struct place {
    u64 at, len;
};

/* New clusters with these bytes. REQUIRES(q->lock) */
static int put(struct qcow2 *q, const void *bytes, u64 len, GArray *taken, u64 *ret_at)
{
    u64 clusters = (len + q->cluster - 1) >> q->cluster_bits;
    int r = qcow2_alloc_exactly(q, clusters, ret_at);

    if (r)
        return r;
    struct place p = { *ret_at, clusters << q->cluster_bits };
    g_array_append_val(taken, p);
    pthread_mutex_unlock(&q->lock);
    r = node_pwrite(q->node.file, *ret_at, bytes, len);
    pthread_mutex_lock(&q->lock);
    return r;
}

static void give_back(struct qcow2 *q, GArray *taken)
{
    for (guint i = 0; i < taken->len; i++)
        qcow2_free_later(q, g_array_index(taken, struct place, i).at,
                         g_array_index(taken, struct place, i).len);
}

/* REQUIRES(q->lock) */
static int put_bitmap(struct qcow2 *q, const struct bitmap *m, GArray *taken,
                      struct qcow2_bitmap *b)
{
    u64 bytes = (m->bits.n + 7) / 8, n = MAX((bytes + q->cluster - 1) >> q->cluster_bits, 1);
    g_autofree be64 *table = g_try_new0(be64, n);
    g_autofree u8 *buf = g_malloc(q->cluster);
    int r = table ? 0 : -ENOMEM;

    for (u64 i = 0; !r && i < n; i++) {
        u64 at;

        bits_export(&m->bits, i << q->cluster_bits, buf, q->cluster);
        if (node_is_zero(buf, q->cluster))
            continue;
        r = put(q, buf, q->cluster, taken, &at);
        if (!r)
            table[i] = be64_of(at);
    }
    b->table_size = (u32)n;
    b->granularity_bits = m->bits.shift;
    b->flags = m->recording ? QCOW2_BITMAP_AUTO : 0;
    return r ? r : put(q, table, n * 8, taken, &b->table_at);
}

static GByteArray *serialize(GPtrArray *all)
{
    GByteArray *out = g_byte_array_new();
    static const u8 pad[8];

    for (guint i = 0; i < all->len; i++) {
        const struct qcow2_bitmap *b = all->pdata[i];
        struct entry d = { .table_at = be64_of(b->table_at),
                           .table_size = be32_of(b->table_size),
                           .flags = be32_of(b->flags),
                           .type = TYPE_DIRTY,
                           .granularity_bits = (u8)b->granularity_bits,
                           .name_len = be16_of((u16)strlen(b->name)) };

        g_byte_array_append(out, (const u8 *)&d, sizeof d);
        g_byte_array_append(out, (const u8 *)b->name, (guint)strlen(b->name));
        g_byte_array_append(out, pad, (guint)(ROUND_UP(out->len, 8) - out->len));
    }
    return out;
}

static int put_autoclear(struct qcow2 *q, u64 bits)
{
    be64 v = be64_of(bits);
    int r = qcow2_header_put(q, offsetof(struct qcow2_header, autoclear), &v, sizeof v);

    if (!r)
        r = node_flush(q->node.file);
    if (!r)
        q->autoclear = bits;
    return r;
}

/* The header says that the directory is there; n 0: that there is none. */
static bool refer(struct qcow2 *q, u32 n, u64 at, u64 len, GError **error)
{
    struct extension x = { .n = be32_of(n), .size = be64_of(len), .at = be64_of(at) };
    struct qcow2_extension *e = extension_of(q);

    if (q->autoclear & AUTOCLEAR_BITMAPS &&
        !io(q, put_autoclear(q, q->autoclear & ~(u64)AUTOCLEAR_BITMAPS), error))
        return false;
    if (e)
        g_ptr_array_remove(q->extensions, e);
    if (n) {
        e = g_new0(struct qcow2_extension, 1);
        e->type = EXT_BITMAPS;
        e->len = sizeof x;
        e->data = g_memdup2(&x, sizeof x);
        g_ptr_array_add(q->extensions, e);
    }
    return qcow2_header_rewrite(q, error) &&
           (!n || io(q, put_autoclear(q, q->autoclear | AUTOCLEAR_BITMAPS), error));
}

/* Bits and table of a bitmap; what cannot be read leaks. REQUIRES(q->lock) */
static void release(struct qcow2 *q, const struct qcow2_bitmap *b)
{
    g_autofree u64 *table = qcow2_bitmap_table(q, b, NULL);

    for (u32 i = 0; table && i < b->table_size; i++) {
        if (table[i] & OFFSET_MASK)
            qcow2_free_later(q, table[i] & OFFSET_MASK, q->cluster);
    }
    if (table)
        qcow2_free_later(q, b->table_at, b->table_size * 8ull);
}

static struct qcow2_bitmap *entry_find(GPtrArray *all, const char *name)
{
    for (guint i = 0; i < all->len; i++) {
        struct qcow2_bitmap *b = all->pdata[i];

        if (strcmp(b->name, name) == 0)
            return b;
    }
    return NULL;
}

/* Puts the directory `new` in force, and gives up what of `old` is not `kept` in it.  Both
 * locks are held. */
static bool replace(struct qcow2 *q, GPtrArray *old, struct place old_dir, GPtrArray *new,
                    GArray *taken, GError **error)
{
    g_autoptr(GByteArray) dir = serialize(new);
    u64 at = 0;
    bool ok = !new->len || io(q, put(q, dir->data, dir->len, taken, &at), error);

    pthread_mutex_unlock(&q->lock);
    ok = ok && io(q, qcow2_barrier(q), error);
    bool may_show = ok; /* in the header, whatever it says of an error */
    ok = ok && refer(q, new->len, at, dir->len, error);
    pthread_mutex_lock(&q->lock);
    if (!ok && !may_show)
        give_back(q, taken);
    if (!ok)
        return false;
    for (guint i = 0; i < old->len; i++) {
        const struct qcow2_bitmap *b = old->pdata[i], *now = entry_find(new, b->name);

        if (!now || now->table_at != b->table_at)
            release(q, b);
    }
    if (old_dir.len)
        qcow2_free_later(q, old_dir.at, old_dir.len);
    pthread_mutex_unlock(&q->lock);
    ok = io(q, qcow2_settle(q), error);
    pthread_mutex_lock(&q->lock);
    return ok;
}

static struct qcow2_bitmap *entry_copy(const struct qcow2_bitmap *b)
{
    struct qcow2_bitmap *c = g_memdup2(b, sizeof *b);

    c->name = g_strdup(b->name);
    return c;
}

static bool store_all(struct qcow2 *q, GError **error)
{
    g_autoptr(GPtrArray) new = g_ptr_array_new_with_free_func(bitmap_entry_free);
    g_autoptr(GArray) taken = g_array_new(FALSE, FALSE, sizeof(struct place));
    struct place dir;
    g_autoptr(GPtrArray) old = qcow2_bitmaps(q, &dir.at, &dir.len, error);
    int r = 0;

    if (!old)
        return false;
    for (u32 i = 0; i < graph_bitmap_count(&q->node); i++) {
        struct bitmap *m = node_bitmap_at(&q->node, i);
        struct qcow2_bitmap *b = m->persistent ? entry_find(old, m->name) : NULL;

        if (!m->persistent || (m->inconsistent && !b))
            continue;
        if (m->inconsistent) {
            g_ptr_array_add(new, entry_copy(b));
            continue;
        }
        b = g_new0(struct qcow2_bitmap, 1);
        b->name = g_strdup(m->name);
        g_ptr_array_add(new, b);
        if (m->bits.size != q->node.size && !bits_resize(&m->bits, q->node.size, error))
            return false;
        if (!r)
            r = put_bitmap(q, m, taken, b);
    }
    if (!old->len && !new->len)
        return true;
    if (!r)
        return replace(q, old, dir, new, taken, error);
    give_back(q, taken);
    return io(q, r, error);
}

static void enter(struct qcow2 *q)
{
    pthread_mutex_lock(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
}

static void leave(struct qcow2 *q)
{
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->flush_lock);
}

static bool qcow2_bitmaps_store(struct node *n, GError **error)
{
    struct qcow2 *q = QCOW2(n);

    if (!q->bitmaps_held)
        return true;
    if (q->gone_bad)
        return fail(error, ERR_IO, "image '%s': a flush failed before; bitmaps are lost",
                    n->filename);
    enter(q);
    bool ok = store_all(q, error);
    leave(q);
    q->bitmaps_held = false;
    return ok;
}

static bool qcow2_bitmaps_remove(struct node *n, const char *name, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    g_autoptr(GPtrArray) new = g_ptr_array_new_with_free_func(bitmap_entry_free);
    g_autoptr(GArray) taken = g_array_new(FALSE, FALSE, sizeof(struct place));
    struct place dir;

    enter(q);
    g_autoptr(GPtrArray) old = qcow2_bitmaps(q, &dir.at, &dir.len, error);
    bool ok = old != NULL;
    for (guint i = 0; ok && i < old->len; i++) {
        struct qcow2_bitmap *b = old->pdata[i];

        if (strcmp(b->name, name) == 0)
            continue;
        b = entry_copy(b);
        b->flags |= QCOW2_BITMAP_IN_USE;
        g_ptr_array_add(new, b);
    }
    if (ok && new->len != old->len)
        ok = replace(q, old, dir, new, taken, error);
    leave(q);
    return ok;
}

static bool qcow2_bitmaps_can_store(struct node *n, const struct bitmap *m, GError **error)
{
    struct qcow2 *q = QCOW2(n);

    if (q->version < 3)
        fail(error, ERR_UNSUPPORTED, "Cannot store dirty bitmaps in qcow2 v2 files");
    else if ((m->bits.n + 7) / 8 > BYTES_MAX)
        fail(error, ERR_LIMIT,
             "Too much space will be occupied by the bitmap. Use larger granularity");
    else
        return true;
    if (error)
        g_prefix_error(error, "Can't make bitmap '%s' persistent in '%s': ", m->name,
                       n->name ? n->name : n->filename);
    return false;
}

static u64 qcow2_bitmaps_space(struct node *n, u64 cluster)
{
    u64 at, len, bytes = 0, dir = 0;
    g_autoptr(GPtrArray) all = qcow2_bitmaps(QCOW2(n), &at, &len, NULL);

    for (guint i = 0; all && i < all->len; i++) {
        const struct qcow2_bitmap *b = all->pdata[i];
        u64 grain = BIT(b->granularity_bits);

        if (b->flags & QCOW2_BITMAP_IN_USE)
            continue;
        u64 bits = (n->size + grain - 1) / grain, data = (bits + 7) / 8;
        u64 clusters = (data + cluster - 1) / cluster;
        bytes += clusters * cluster + ROUND_UP(clusters * 8, cluster);
        dir += ROUND_UP(sizeof(struct entry) + strlen(b->name), 8);
    }
    return bytes + ROUND_UP(dir, cluster);
}

const struct bitmap_ops qcow2_bitmap_ops = {
    .load = qcow2_bitmaps_load,
    .in_use = qcow2_bitmaps_in_use,
    .store = qcow2_bitmaps_store,
    .remove = qcow2_bitmaps_remove,
    .can_store = qcow2_bitmaps_can_store,
    .space = qcow2_bitmaps_space,
};
