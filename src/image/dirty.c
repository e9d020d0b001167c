// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dirty.c - dirty bitmaps: which granules of a node have changed.  Those that an image keeps
 * are read and written by its format (struct bitmap_ops); here they are in memory.
 *
 * Bits are set after a change, by the thread that made it; a job that clears a bit before it
 * reads the bytes misses nothing.
 */
#include <string.h>

#include "base/error.h"
#include "image/graph_impl.h"
#include "image/job.h"

/* 512 MiB of bits is a bitmap of 2 TiB in granules of 512 bytes. */
enum { BITMAPS_MAX = 1024, GRANULARITY = 65536, NAME_MAX_BYTES = 1023 };
static const u64 words_max = 1ull << 26;

bool bits_init(struct bits *b, u64 size, u32 granularity, GError **error)
{
    b->size = size;
    b->shift = (u32)__builtin_ctz(granularity);
    b->n = (size + granularity - 1) >> b->shift;
    u64 words = b->n / 64 + 1;
    b->word = words <= words_max ? g_try_new0(_Atomic u64, words) : NULL;
    return b->word ||
           fail(error, ERR_LIMIT,
                "no memory for a bitmap of %" G_GUINT64_FORMAT " granules; choose larger ones",
                b->n);
}

void bits_clear(struct bits *b)
{
    g_clear_pointer(&b->word, g_free);
}

static void change(struct bits *b, u64 at, u64 len, bool set)
{
    if (at >= b->size || !len)
        return;
    u64 last = (MIN(at + len, b->size) - 1) >> b->shift;

    for (u64 i = at >> b->shift; i <= last;) {
        u64 n = MIN(64 - i % 64, last - i + 1);
        u64 mask = (n == 64 ? UINT64_MAX : BIT(n) - 1) << i % 64;

        if (set)
            atomic_fetch_or(&b->word[i / 64], mask);
        else
            atomic_fetch_and(&b->word[i / 64], ~mask);
        i += n;
    }
}

void bits_set(struct bits *b, u64 at, u64 len)
{
    change(b, at, len, true);
}

void bits_reset(struct bits *b, u64 at, u64 len)
{
    change(b, at, len, false);
}

static bool bit(const struct bits *b, u64 i)
{
    return atomic_load(&b->word[i / 64]) & BIT(i % 64);
}

bool bits_get(const struct bits *b, u64 at)
{
    return bit(b, at >> b->shift);
}

bool bits_next(const struct bits *b, u64 at, u64 max, u64 *ret_at, u64 *ret_len)
{
    /* The end may lie inside of the last granule. */
    u64 i = at < b->size ? at >> b->shift : b->n;

    while (i < b->n) {
        u64 w = atomic_load(&b->word[i / 64]) >> i % 64;

        if (w) {
            i += (u64)__builtin_ctzll(w);
            break;
        }
        i = ROUND_DOWN(i, 64) + 64;
    }
    if (i >= b->n)
        return false;
    u64 end = i + 1, most = MAX(max >> b->shift, 1);
    while (end < b->n && end - i < most && bit(b, end))
        end++;
    *ret_at = i << b->shift;
    *ret_len = MIN(end << b->shift, b->size) - *ret_at;
    return true;
}

u64 bits_count(const struct bits *b)
{
    u64 sum = 0;

    for (u64 i = 0; i <= b->n / 64; i++)
        sum += (u64)__builtin_popcountll(atomic_load(&b->word[i]));
    return sum << b->shift;
}

void bits_merge(struct bits *to, const struct bits *from)
{
    if (to->shift == from->shift && to->n == from->n) {
        for (u64 i = 0; i <= to->n / 64; i++)
            atomic_fetch_or(&to->word[i], atomic_load(&from->word[i]));
        return;
    }
    for (u64 at = 0, len; bits_next(from, at, from->size, &at, &len); at += len)
        bits_set(to, at, len);
}

bool bits_resize(struct bits *b, u64 size, GError **error)
{
    u64 n = (size + BIT(b->shift) - 1) >> b->shift, words = n / 64 + 1, had = b->n / 64 + 1;

    if (words > had) {
        _Atomic u64 *more =
            words <= words_max ? g_try_realloc_n(b->word, words, sizeof *b->word) : NULL;

        if (!more)
            return fail(error, ERR_LIMIT,
                        "no memory for a bitmap of %" G_GUINT64_FORMAT " granules", n);
        memset((void *)(more + had), 0, (words - had) * sizeof *more);
        b->word = more;
    }
    if (n < b->n) {
        for (u64 i = n; i < b->n && i % 64; i++)
            atomic_fetch_and(&b->word[i / 64], ~BIT(i % 64));
        for (u64 w = (n + 63) / 64; w < had; w++)
            atomic_store(&b->word[w], 0);
    }
    b->n = n;
    b->size = size;
    return true;
}

void bits_import(struct bits *b, u64 byte, const u8 *from, size_t n)
{
    for (u64 w = byte / 8; n >= 8 && w <= b->n / 64; w++, from += 8, n -= 8) {
        u64 v = le64_get(*(const le64 *)(const void *)from);

        if (w == b->n / 64)
            v &= BIT(b->n % 64) - 1;
        atomic_store(&b->word[w], v);
    }
}

void bits_export(const struct bits *b, u64 byte, u8 *to, size_t n)
{
    for (u64 w = byte / 8; n >= 8; w++, to += 8, n -= 8) {
        le64 v = le64_of(w <= b->n / 64 ? atomic_load(&b->word[w]) : 0);

        memcpy(to, &v, sizeof v);
    }
}

/* --- bitmaps of a node -----------------------------------------------------------------------
 */

struct bitmaps {
    struct tap tap;
    GPtrArray *all; /* struct bitmap */
};

static struct bitmaps *bitmaps_of(const struct node *n)
{
    struct tap *t = n->taps[TAP_BITMAPS];

    return t ? container_of(t, struct bitmaps, tap) : NULL;
}

static void changed(struct tap *t, u64 at, u64 len, struct range *range UNUSED)
{
    struct bitmaps *s = container_of(t, struct bitmaps, tap);

    for (guint i = 0; i < s->all->len; i++) {
        struct bitmap *m = s->all->pdata[i];

        if (m->recording)
            bits_set(&m->bits, at, len);
    }
}

struct bitmap *bitmap_new(struct node *n, const char *name, u64 granularity,
                          bool has_granularity, GError **error)
{
    if (!*name || strlen(name) > NAME_MAX_BYTES) {
        fail(error, ERR_ARGUMENT,
             *name ? "Bitmap name too long" : "Bitmap name cannot be empty");
        return NULL;
    }
    if (!has_granularity)
        granularity = n->cluster ? MAX(4096, MIN(n->cluster, GRANULARITY)) : GRANULARITY;
    if (granularity < 512 || granularity & (granularity - 1) || granularity > 1u << 31) {
        fail(error, ERR_ARGUMENT, "Granularity must be power of 2 and at least 512");
        return NULL;
    }
    if (graph_bitmap_count(n) >= BITMAPS_MAX) {
        fail(error, ERR_LIMIT, "Node '%s' has %d bitmaps already", n->name, BITMAPS_MAX);
        return NULL;
    }
    struct bitmap *m = g_new0(struct bitmap, 1);
    if (!bits_init(&m->bits, n->size, (u32)granularity, error)) {
        g_free(m);
        return NULL;
    }
    m->name = g_strdup(name);
    m->recording = true;
    return m;
}

struct bitmap *node_bitmap_add(struct node *n, const struct bitmap_args *a, GError **error)
{
    if (node_bitmap_exists(n, a->name)) {
        fail(error, ERR_ARGUMENT, "Bitmap already exists: %s", a->name);
        return NULL;
    }
    struct bitmap *m = bitmap_new(n, a->name, a->granularity, a->granularity != 0, error);
    if (!m)
        return NULL;
    m->recording = !a->disabled;
    m->persistent = a->persistent;
    bool ok = true;
    if (a->persistent && !n->drv->bitmaps)
        ok = fail(error, ERR_UNSUPPORTED,
                  "Can't store persistent bitmaps to %s: Operation not supported",
                  n->name ? n->name : n->filename);
    else if (a->persistent && n->read_only)
        ok = fail(error, ERR_IO, "Node '%s' is read only", n->name ? n->name : n->filename);
    else if (a->persistent)
        ok = n->drv->bitmaps->can_store(n, m, error);
    if (!ok) {
        bitmap_free(m);
        return NULL;
    }
    node_bitmap_put(n, m);
    return m;
}

void bitmap_free(struct bitmap *m)
{
    if (!m)
        return;
    bits_clear(&m->bits);
    g_free(m->name);
    g_free(m);
}

void node_bitmap_put(struct node *n, struct bitmap *m)
{
    struct bitmaps *s = bitmaps_of(n);

    if (!s) {
        s = g_new0(struct bitmaps, 1);
        s->tap.after = changed;
        s->all = g_ptr_array_new();
        n->taps[TAP_BITMAPS] = &s->tap;
    }
    g_ptr_array_add(s->all, m);
}

void node_bitmap_take(struct node *n, struct bitmap *m)
{
    struct bitmaps *s = bitmaps_of(n);

    g_ptr_array_remove(s->all, m);
    if (s->all->len)
        return;
    n->taps[TAP_BITMAPS] = NULL;
    g_ptr_array_unref(s->all);
    g_free(s);
}

void node_bitmaps_free(struct node *n)
{
    while (bitmaps_of(n)) {
        struct bitmap *m = bitmaps_of(n)->all->pdata[0];

        node_bitmap_take(n, m);
        bitmap_free(m);
    }
}

u32 graph_bitmap_count(struct node *n)
{
    return bitmaps_of(n) ? bitmaps_of(n)->all->len : 0;
}

void graph_bitmap_info(struct node *n, u32 i, struct bitmap_info *ret)
{
    const struct bitmap *m = bitmaps_of(n)->all->pdata[i];

    *ret = (struct bitmap_info){ .name = m->name,
                                 .count = bits_count(&m->bits),
                                 .granularity = 1u << m->bits.shift,
                                 .recording = m->recording,
                                 .busy = m->job || m->holders,
                                 .persistent = m->persistent,
                                 .inconsistent = m->inconsistent };
}

static struct bitmap *find(struct node *n, const char *name)
{
    struct bitmaps *s = bitmaps_of(n);

    for (guint i = 0; s && i < s->all->len; i++) {
        struct bitmap *m = s->all->pdata[i];

        if (strcmp(m->name, name) == 0)
            return m;
    }
    return NULL;
}

static bool usable(struct node *n, const struct bitmap *m, u32 also_for, GError **error)
{
    if (m->job || m->holders)
        return fail(error, ERR_BUSY,
                    "Bitmap '%s' is currently in use by another operation and cannot be used",
                    m->name);
    if (m->persistent && n->read_only && !(also_for & BITMAP_READONLY))
        return fail(error, ERR_IO, "Bitmap '%s' is readonly and cannot be modified", m->name);
    return !m->inconsistent || also_for & BITMAP_INCONSISTENT ||
           fail(error, ERR_IO, "Bitmap '%s' is inconsistent and cannot be used", m->name);
}

struct bitmap *node_bitmap(struct node *n, const char *name, u32 also_for, GError **error)
{
    struct bitmap *m = find(n, name);

    if (!m)
        fail(error, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
    return m && usable(n, m, also_for, error) ? m : NULL;
}

struct bitmap *graph_bitmap_hold(struct graph *g, const char *node, const char *name,
                                 bool still, GError **error)
{
    struct node *n = graph_find(g, node, error);
    struct bitmap *m = NULL;

    if (!n)
        return NULL;
    while (!(m = find(n, name)) && n->backing)
        n = n->backing;
    if (!m) {
        fail(error, ERR_NOT_FOUND, "Bitmap '%s' is not found", name);
        return NULL;
    }
    if (!m->holders && !usable(n, m, BITMAP_READONLY, error))
        return NULL;
    if (still && m->recording && !n->read_only) {
        fail(error, ERR_ARGUMENT, "Enabled bitmap '%s' incompatible with readonly export",
             name);
        return NULL;
    }
    if (!m->holders++)
        m->held = node_ref(n);
    return m;
}

void graph_bitmap_release(struct bitmap *m)
{
    if (!m || --m->holders)
        return;
    struct node *n = m->held;
    m->held = NULL;
    node_unref(n); /* the bitmap may go with it */
}

bool graph_bitmap_dirty(const struct bitmap *m, u64 at, u64 len, u64 *ret_len)
{
    u64 next, run;

    *ret_len = len;
    if (at >= m->bits.size || !bits_next(&m->bits, at, len, &next, &run))
        return false;
    if (next > at) {
        *ret_len = MIN(len, next - at);
        return false;
    }
    *ret_len = MIN(len, run);
    return true;
}

bool node_bitmap_exists(struct node *n, const char *name)
{
    return find(n, name);
}

struct bitmap *node_bitmap_at(struct node *n, u32 i)
{
    return bitmaps_of(n)->all->pdata[i];
}

bool node_bitmaps_resizable(struct node *n, GError **error)
{
    for (u32 i = 0; i < graph_bitmap_count(n); i++) {
        if (!usable(n, node_bitmap_at(n, i), 0, error))
            return false;
    }
    return true;
}

bool node_bitmaps_resize(struct node *n, GError **error)
{
    for (u32 i = 0; i < graph_bitmap_count(n); i++) {
        if (!bits_resize(&node_bitmap_at(n, i)->bits, n->size, error))
            return false;
    }
    return true;
}

/* --- commands: transactions of one step ------------------------------------------------------
 */

bool graph_bitmap_add(struct graph *g, const char *node, const struct bitmap_args *a,
                      GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_bitmap_add(t, node, a, error);

    transaction_end(t, ok);
    return ok;
}

bool graph_bitmap_remove(struct graph *g, const char *node, const char *name, GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_bitmap_remove(t, node, name, error);

    transaction_end(t, ok);
    return ok;
}

bool graph_bitmap_clear(struct graph *g, const char *node, const char *name, GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_bitmap_clear(t, node, name, error);

    transaction_end(t, ok);
    return ok;
}

bool graph_bitmap_enable(struct graph *g, const char *node, const char *name, bool on,
                         GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_bitmap_enable(t, node, name, on, error);

    transaction_end(t, ok);
    return ok;
}

bool graph_bitmap_merge(struct graph *g, const char *node, const char *target,
                        const char *from_node, const char *from, GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_bitmap_merge(t, node, target, from_node, from, error);

    transaction_end(t, ok);
    return ok;
}
