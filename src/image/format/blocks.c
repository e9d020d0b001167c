// SPDX-License-Identifier: GPL-2.0-or-later
/* blocks.c - see blocks.h. */
#include "image/format/blocks.h"

#include <errno.h>
#include <libdeflate.h>
#include <string.h>

#include "base/error.h"

enum {
    FLAT_PAGE = 4096,
    CACHE_BYTES = 16 << 20,
    PAGES_MIN = 2,
    PAGES_MAX = 4096,
    RUN_BYTES = 16 << 20, /* a request is served in pieces of at most this */
    BOUNCE = 64 * 1024,   /* partly written blocks up to this size go out in one write */
};

/* --- tables ----------------------------------------------------------------------------------
 */

static u64 entry_load(const struct blocks *b, const u8 *p)
{
    if (b->entry_bytes == 4) {
        u32 v;
        memcpy(&v, p, 4);
        return b->big_endian ? be32toh(v) : le32toh(v);
    }
    u64 v;
    memcpy(&v, p, 8);
    return b->big_endian ? be64toh(v) : le64toh(v);
}

static void entry_store(const struct blocks *b, u8 *p, u64 v)
{
    if (b->entry_bytes == 4) {
        u32 w = b->big_endian ? htobe32((u32)v) : htole32((u32)v);
        memcpy(p, &w, 4);
    } else {
        v = b->big_endian ? htobe64(v) : htole64(v);
        memcpy(p, &v, 8);
    }
}

static u64 page_host(const struct blocks *b, u64 p)
{
    return b->root ? b->root[p] : b->table_at + p * b->page_bytes;
}

static u32 page_len(const struct blocks *b, u64 p)
{
    return b->root ? b->page_bytes
                   : (u32)MIN(b->page_bytes, b->entries * b->entry_bytes - p * b->page_bytes);
}

static int write_pages(struct blocks *b)
{
    for (u32 i = 0; i < b->n_pages; i++) {
        struct block_page *pg = &b->pages[i];

        if (!pg->hi)
            continue;
        u64 copy = b->ops->mirror ? b->ops->mirror(b, pg->index) : 0;
        u64 at = page_host(b, pg->index);
        int r =
            copy ? node_pwrite(b->file, copy + pg->lo, pg->raw + pg->lo, pg->hi - pg->lo) : 0;
        if (!r)
            r = node_pwrite(b->file, at + pg->lo, pg->raw + pg->lo, pg->hi - pg->lo);
        if (r)
            return r;
        pg->lo = pg->hi = 0;
    }
    return 0;
}

/* What is pointed to goes before what points.  REQUIRES lock, so that nothing that was not yet
 * flushed gets into a table meanwhile. */
static int sync_tables(struct blocks *b)
{
    int r = node_flush(b->file);

    if (!r && b->ops->before) {
        r = b->ops->before(b);
        if (!r)
            r = node_flush(b->file);
    }
    if (!r)
        r = write_pages(b);
    if (!r && b->root_hi) {
        r = node_flush(b->file);
        if (!r)
            r = b->ops->write_root(b, b->root_lo, b->root_hi);
        if (!r)
            b->root_lo = b->root_hi = 0;
    }
    if (!r && b->ops->after)
        r = b->ops->after(b);
    if (!r)
        r = node_flush(b->file);
    if (!r)
        b->changed = false;
    return r;
}

int blocks_append(struct blocks *b, u64 bytes, u32 align, u64 *host)
{
    u64 at = ((b->end + align - 1) / align) * align;

    if (at > INT64_MAX - bytes)
        return -EFBIG;
    int r = blocks_clear(b, at, bytes);
    if (r)
        return r;
    b->end = at + bytes;
    *host = at;
    return 0;
}

int blocks_clear(struct blocks *b, u64 host, u64 bytes)
{
    u64 size = b->file->size;
    int r = 0;

    if (host + bytes > size)
        r = node_zero(b->file, size, host + bytes - size, true);
    if (!r && host < size)
        r = node_zero(b->file, host, MIN(bytes, size - host), true);
    return r;
}

/* *ret NULL: there is no such page (and it is not to be made). */
static int page_get(struct blocks *b, u64 p, bool make, struct block_page **ret)
{
    struct block_page *pg = &b->pages[p % b->n_pages];
    int r;

    *ret = pg;
    if (pg->index == p)
        return 0;
    if (!page_host(b, p) && b->root && !make) {
        *ret = NULL;
        return 0;
    }
    if (pg->hi && (r = sync_tables(b)))
        return r;
    if (!pg->raw && !(pg->raw = g_try_malloc(b->page_bytes)))
        return -ENOMEM;
    pg->index = UINT64_MAX;
    if (b->root && !b->root[p]) {
        u64 host;

        if ((r = blocks_append(b, b->page_bytes, b->align, &host)))
            return r;
        if (b->host_max && host > b->host_max)
            return -EFBIG;
        b->root[p] = host;
        if (b->ops->page_made && (r = b->ops->page_made(b, p))) {
            b->root[p] = 0;
            return r;
        }
        b->root_lo = b->root_hi ? MIN(b->root_lo, p) : p;
        b->root_hi = MAX(b->root_hi, p + 1);
        b->changed = true;
        memset(pg->raw, 0, b->page_bytes);
        pg->lo = 0;
        pg->hi = b->page_bytes;
    } else {
        u32 n = page_len(b, p);
        u64 at = page_host(b, p), size = b->file->size;

        if (n > size || at > size - n)
            return -EIO;
        if ((r = node_pread(b->file, at, pg->raw, n)))
            return r;
    }
    pg->index = p;
    return 0;
}

int blocks_get(struct blocks *b, u64 index, struct block *ret)
{
    u32 per_page = b->page_bytes / b->entry_bytes;
    u64 slot = b->ops->slot ? b->ops->slot(b, index) : index;
    struct block_page *pg;

    *ret = (struct block){ .kind = BLOCK_NONE };
    if (b->root ? slot / per_page >= b->root_len : slot >= b->entries)
        return 0;
    int r = page_get(b, slot / per_page, false, &pg);
    if (r || !pg)
        return r;
    *ret = b->ops->decode(b, index,
                          entry_load(b, pg->raw + (size_t)(slot % per_page) * b->entry_bytes));
    if ((ret->kind == BLOCK_DATA || ret->kind == BLOCK_PACKED) &&
        (ret->host < b->data_min || ret->host >= b->file->size ||
         ret->host > INT64_MAX - b->block))
        ret->kind = BLOCK_BROKEN;
    return 0;
}

int blocks_set(struct blocks *b, u64 index, struct block k)
{
    u32 per_page = b->page_bytes / b->entry_bytes;
    u64 slot = b->ops->slot ? b->ops->slot(b, index) : index;
    u32 at = (u32)(slot % per_page) * b->entry_bytes;
    struct block_page *pg;

    if (b->root ? slot / per_page >= b->root_len : slot >= b->entries)
        return -EIO;
    int r = page_get(b, slot / per_page, true, &pg);
    if (r)
        return r;
    entry_store(b, pg->raw + at, b->ops->encode(b, index, k));
    pg->lo = pg->hi ? MIN(pg->lo, at) : at;
    pg->hi = MAX(pg->hi, at + b->entry_bytes);
    b->changed = true;
    return 0;
}

/* What lies at `at`, and for how long the answer goes on; ret->host is that byte's place. */
static int look(struct blocks *b, u64 at, u64 max, struct block *ret, u64 *ret_len)
{
    u64 index, off, len;
    struct block next;

    max = MIN(max, RUN_BYTES);
    if (b->flat) {
        *ret = (struct block){ .kind = BLOCK_DATA, .host = b->data_min + at };
        *ret_len = max;
        return 0;
    }
    index = at / b->block;
    off = at % b->block;
    len = b->block - off;
    int r = blocks_get(b, index, ret);
    if (r)
        return r;
    if (ret->kind == BLOCK_DATA)
        ret->host += off;
    while (len < max && ret->kind != BLOCK_PACKED) {
        if ((r = blocks_get(b, ++index, &next)))
            return r;
        if (next.kind != ret->kind || (next.kind == BLOCK_DATA && next.host != ret->host + len))
            break;
        len += b->block;
    }
    *ret_len = MIN(len, max);
    return 0;
}

/* --- reading ---------------------------------------------------------------------------------
 */

static void packed_unref(struct blocks_packed *p)
{
    if (p && --p->refs == 0)
        g_free(p);
}

/* The block's bytes, which stay until packed_unref(). */
static int unpacked(struct blocks *b, u64 index, struct block k, struct blocks_packed **ret)
{
    struct blocks_packed *p, *old;

    pthread_mutex_lock(&b->lock);
    p = b->packed;
    if (p && p->index == index && p->host == k.host) {
        p->refs++;
        pthread_mutex_unlock(&b->lock);
        *ret = p;
        return 0;
    }
    pthread_mutex_unlock(&b->lock);
    p = g_try_malloc(sizeof *p + b->block);
    if (!p || !b->ops->unpack) {
        g_free(p);
        return p ? -EIO : -ENOMEM;
    }
    p->refs = 2; /* the caller's and b's */
    p->index = index;
    p->host = k.host;
    int r = b->ops->unpack(b, index, k, p->bytes);
    if (r) {
        g_free(p);
        return r;
    }
    pthread_mutex_lock(&b->lock);
    old = b->packed;
    b->packed = p;
    pthread_mutex_unlock(&b->lock);
    packed_unref(old);
    *ret = p;
    return 0;
}

static int read_packed(struct blocks *b, u64 at, u64 len, struct block k, struct cursor *c)
{
    struct blocks_packed *p;
    int r = unpacked(b, at / b->block, k, &p);

    if (r)
        return r;
    cursor_put(c, p->bytes + at % b->block, len);
    packed_unref(p);
    return 0;
}

static int read_run(struct blocks *b, u64 at, u64 len, struct block k, struct cursor *c)
{
    switch (k.kind) {
    case BLOCK_NONE:
        return node_read_backing(b->n, b->base + at, len, c);
    case BLOCK_ZERO:
        cursor_zero(c, len);
        return 0;
    case BLOCK_DATA:
        return node_read(b->file, k.host, len, c);
    case BLOCK_PACKED:
        return read_packed(b, at, len, k, c);
    case BLOCK_BROKEN:
        break;
    }
    return -EIO;
}

void blocks_enter(struct blocks *b, struct range *r, u64 index)
{
    *r = (struct range){ .at = index * b->block, .end = (index + 1) * b->block, .alone = true };
    pthread_mutex_lock(&b->lock);
    ranges_enter(&b->ranges, &b->lock, r);
    pthread_mutex_unlock(&b->lock);
}

void blocks_leave(struct blocks *b, struct range *r)
{
    pthread_mutex_lock(&b->lock);
    ranges_leave(&b->ranges, r);
    pthread_mutex_unlock(&b->lock);
}

int blocks_read(struct blocks *b, u64 at, u64 len, struct cursor *c)
{
    if (b->flat)
        return node_read(b->file, b->data_min + at, len, c);
    while (len) {
        struct range g = { .at = at, .end = at + MIN(len, RUN_BYTES) };
        struct block k;
        u64 n;

        pthread_mutex_lock(&b->lock);
        ranges_enter(&b->ranges, &b->lock, &g);
        int r = look(b, at, len, &k, &n);
        pthread_mutex_unlock(&b->lock);
        if (!r)
            r = read_run(b, at, n, k, c);
        blocks_leave(b, &g);
        if (r)
            return r;
        at += n;
        len -= n;
    }
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------
 */

/* Puts what the guest sees at at..at+len now to host; the range there is zeroes. */
static int fill(struct blocks *b, u64 at, u64 len, struct block k, u64 host)
{
    if (k.kind != BLOCK_NONE || !b->n->backing)
        return 0;
    g_autofree u8 *buf = g_try_malloc(BOUNCE);
    if (!buf)
        return -ENOMEM;
    while (len) {
        u64 n = MIN(len, BOUNCE);
        int r = node_pread_backing(b->n, b->base + at, buf, n);

        if (!r && !node_is_zero(buf, n))
            r = node_pwrite(b->file, host, buf, n);
        if (r)
            return r;
        at += n;
        host += n;
        len -= n;
    }
    return 0;
}

/* A whole block from what is there with the cursor's bytes over it. */
static int merge(struct blocks *b, u64 index, struct block k, u64 off, u64 len,
                 struct cursor *c, u8 *to)
{
    u64 tail = off + len;
    int r = 0;

    if (k.kind == BLOCK_PACKED) {
        struct blocks_packed *p;

        if ((r = unpacked(b, index, k, &p)))
            return r;
        memcpy(to, p->bytes, b->block);
        packed_unref(p);
    } else if (k.kind == BLOCK_DATA) {
        r = node_pread(b->file, k.host, to, b->block);
    } else if (k.kind == BLOCK_ZERO || !b->n->backing) {
        memset(to, 0, off);
        memset(to + tail, 0, b->block - tail);
    } else {
        u64 at = b->base + index * b->block;

        if (off)
            r = node_pread_backing(b->n, at, to, off);
        if (!r && tail < b->block)
            r = node_pread_backing(b->n, at + tail, to + tail, b->block - tail);
    }
    if (!r)
        cursor_get(c, to + off, len);
    return r;
}

/* at..at+len touches `count` new blocks, all of k's kind, which begin at host. */
static int write_new(struct blocks *b, u64 at, u64 len, u64 count, struct block k, u64 host,
                     struct cursor *c)
{
    u64 start = at / b->block * b->block, end = start + count * b->block;
    int r;

    if (at == start && at + len == end)
        return node_write(b->file, host, len, c);
    if (count == 1 && (k.kind == BLOCK_PACKED || b->block <= BOUNCE)) {
        g_autofree u8 *buf = g_try_malloc(b->block);

        if (!buf)
            return -ENOMEM;
        r = merge(b, at / b->block, k, at - start, len, c, buf);
        return r ? r : node_pwrite(b->file, host, buf, b->block);
    }
    r = fill(b, start, at - start, k, host);
    if (!r)
        r = node_write(b->file, host + (at - start), len, c);
    if (!r)
        r = fill(b, at + len, end - at - len, k, host + (at + len - start));
    return r;
}

/* The range is entered alone.  Writes the first part of at..at+len; *done: how much. */
static int allocate(struct blocks *b, u64 at, u64 len, struct cursor *c, u64 *done)
{
    u64 index = at / b->block, off = at % b->block, n, host = 0;
    struct block k;

    pthread_mutex_lock(&b->lock);
    int r = look(b, at, len, &k, &n);
    u64 count = (off + n + b->block - 1) / b->block;
    if (!r && k.kind == BLOCK_BROKEN)
        r = -EIO;
    if (!r && k.kind != BLOCK_DATA) {
        if (k.kind == BLOCK_PACKED)
            count = 1;
        if (b->ops->room)
            r = b->ops->room(b, &count, &host);
        else
            r = blocks_append(b, count * b->block, b->align, &host);
        if (!r && b->host_max && host + (count - 1) * b->block > b->host_max)
            r = -EFBIG;
        if (!r && b->ops->prepare)
            r = b->ops->prepare(b, host);
    }
    pthread_mutex_unlock(&b->lock);
    if (r)
        return r;
    n = MIN(n, count * b->block - off);
    *done = n;
    if (k.kind == BLOCK_DATA) /* somebody else was faster */
        return node_write(b->file, k.host, n, c);
    r = write_new(b, at, n, count, k, host, c);
    pthread_mutex_lock(&b->lock);
    for (u64 i = 0; !r && i < count; i++)
        r = blocks_set(b, index + i,
                       (struct block){ .kind = BLOCK_DATA, .host = host + i * b->block });
    pthread_mutex_unlock(&b->lock);
    return r;
}

/* The same for formats in which every block is packed. */
static int repack(struct blocks *b, u64 at, u64 len, struct cursor *c, u64 *done)
{
    u64 index = at / b->block, off = at % b->block, n = MIN(len, b->block - off);
    g_autofree u8 *buf = g_try_malloc(b->block);
    struct block k;

    if (!buf)
        return -ENOMEM;
    pthread_mutex_lock(&b->lock);
    int r = blocks_get(b, index, &k);
    pthread_mutex_unlock(&b->lock);
    if (!r && k.kind == BLOCK_BROKEN)
        r = -EIO;
    if (!r)
        r = merge(b, index, k, off, n, c, buf);
    if (!r)
        r = b->ops->pack(b, index, buf);
    *done = n;
    return r;
}

int blocks_write(struct blocks *b, u64 at, u64 len, struct cursor *c)
{
    if (b->flat)
        return node_write(b->file, b->data_min + at, len, c);
    if (!b->ops->encode)
        return -EROFS;
    while (len) {
        struct range g = { .at = at, .end = at + MIN(len, RUN_BYTES) };
        struct block k;
        u64 n = 0;

        pthread_mutex_lock(&b->lock);
        ranges_enter(&b->ranges, &b->lock, &g);
        int r = look(b, at, len, &k, &n);
        bool alone = !r && (k.kind != BLOCK_DATA || b->ops->pack);
        if (alone) { /* whole blocks, for us alone: looked up again then */
            ranges_leave(&b->ranges, &g);
            g.at = at / b->block * b->block;
            g.end = ((at + n + b->block - 1) / b->block) * b->block;
            g.alone = true;
            ranges_enter(&b->ranges, &b->lock, &g);
        }
        pthread_mutex_unlock(&b->lock);
        if (!r && alone)
            r = b->ops->pack ? repack(b, at, n, c, &n) : allocate(b, at, n, c, &n);
        else if (!r)
            r = node_write(b->file, k.host, n, c);
        blocks_leave(b, &g);
        if (r)
            return r;
        at += n;
        len -= n;
    }
    return 0;
}

static int write_zeroes(struct blocks *b, u64 at, u64 len)
{
    static const u8 zeroes[BOUNCE];

    while (len) {
        struct iovec v = { (void *)zeroes, MIN(len, BOUNCE) };
        struct cursor c = { &v, 1 };
        u64 n = v.iov_len;
        int r = blocks_write(b, at, n, &c);

        if (r)
            return r;
        at += n;
        len -= n;
    }
    return 0;
}

/* The range is entered alone.  *by_writing: it takes writing zeroes, and nothing was done. */
static int zero_run(struct blocks *b, u64 at, u64 max, bool may_unmap, u64 *n, bool *by_writing)
{
    bool backed = b->n->backing_name || b->n->backing;
    struct block k;

    pthread_mutex_lock(&b->lock);
    int r = look(b, at, max, &k, n);
    if (!r && k.kind == BLOCK_BROKEN)
        r = -EIO;
    bool none = k.kind == BLOCK_NONE && backed, packed = k.kind == BLOCK_PACKED;
    if (!r && (none || packed)) {
        u64 end = at + *n;
        u64 first = (at + b->block - 1) / b->block;
        u64 last = end == b->size ? (end + b->block - 1) / b->block : end / b->block;

        if (at % b->block || first >= last || (backed && !b->zero_kind)) {
            *by_writing = true;
            if (first < last && at % b->block)
                *n = first * b->block - at;
        } else {
            enum block_kind kind = b->zero_kind ? BLOCK_ZERO : BLOCK_NONE;

            for (u64 i = first; !r && i < last; i++)
                r = blocks_set(b, i, (struct block){ .kind = kind });
            *n = MIN(last * b->block, end) - at;
        }
    }
    pthread_mutex_unlock(&b->lock);
    return !r && k.kind == BLOCK_DATA ? node_zero(b->file, k.host, *n, may_unmap) : r;
}

int blocks_zero(struct blocks *b, u64 at, u64 len, bool may_unmap)
{
    if (b->flat)
        return node_zero(b->file, b->data_min + at, len, may_unmap);
    if (!b->ops->encode)
        return -EROFS;
    while (len) {
        u64 n = MIN(len, RUN_BYTES);
        struct range g = { .at = at / b->block * b->block,
                           .end = (at + n + b->block - 1) / b->block * b->block,
                           .alone = true };
        bool by_writing = false;

        pthread_mutex_lock(&b->lock);
        ranges_enter(&b->ranges, &b->lock, &g);
        pthread_mutex_unlock(&b->lock);
        int r = zero_run(b, at, n, may_unmap, &n, &by_writing);
        blocks_leave(b, &g);
        if (!r && by_writing)
            r = write_zeroes(b, at, n);
        if (r)
            return r;
        at += n;
        len -= n;
    }
    return 0;
}

/* Blocks are not given back to the format, only to the file below: see the head of blocks.h. */
int blocks_discard(struct blocks *b, u64 at, u64 len)
{
    while (len) {
        struct range g = { .at = at, .end = at + MIN(len, RUN_BYTES) };
        struct block k;
        u64 n;

        pthread_mutex_lock(&b->lock);
        ranges_enter(&b->ranges, &b->lock, &g);
        int r = look(b, at, len, &k, &n);
        pthread_mutex_unlock(&b->lock);
        if (!r && k.kind == BLOCK_DATA)
            r = node_discard(b->file, k.host, n);
        blocks_leave(b, &g);
        if (r)
            return r;
        at += n;
        len -= n;
    }
    return 0;
}

int blocks_flush(struct blocks *b)
{
    int r;

    pthread_mutex_lock(&b->lock);
    if (b->changed) {
        r = sync_tables(b);
        pthread_mutex_unlock(&b->lock);
        return r;
    }
    pthread_mutex_unlock(&b->lock);
    return node_flush(b->file);
}

int blocks_status(struct blocks *b, u64 at, u64 len, struct extent *ret)
{
    struct extent below;
    struct block k;
    u64 n;

    pthread_mutex_lock(&b->lock);
    int r = look(b, at, len, &k, &n);
    pthread_mutex_unlock(&b->lock);
    if (r)
        return r;
    *ret = (struct extent){ .len = n };
    switch (k.kind) {
    case BLOCK_NONE:
        break;
    case BLOCK_ZERO:
        ret->flags = EXTENT_ALLOCATED | EXTENT_ZERO;
        break;
    case BLOCK_PACKED:
    case BLOCK_BROKEN:
        ret->flags = EXTENT_ALLOCATED | EXTENT_DATA | EXTENT_COMPRESSED;
        break;
    case BLOCK_DATA:
        ret->flags = EXTENT_ALLOCATED | EXTENT_DATA | EXTENT_OFFSET;
        ret->host = k.host;
        ret->in = b->file;
        /* Blocks may be holes in the file. */
        if (k.host < b->file->size && !node_status(b->file, k.host, n, &below)) {
            ret->len = MIN(n, below.len);
            if (below.flags & EXTENT_ZERO)
                ret->flags |= EXTENT_ZERO;
            if (!(below.flags & EXTENT_DATA))
                ret->flags &= ~(u32)EXTENT_DATA;
        }
        break;
    }
    return 0;
}

/* --- checking --------------------------------------------------------------------------------
 */

enum { CHECK_MAP_MAX = 64 << 20 };

static void say(struct image_check *c, const char *what, u64 index, u64 host)
{
    g_autofree char *line = g_strdup_printf(
        "ERROR: block %" G_GUINT64_FORMAT " %s (0x%" G_GINT64_MODIFIER "x)", index, what, host);

    if (c->say)
        c->say(c->opaque, line);
}

struct check {
    u8 *seen; /* a bit for each b->align bytes of the file */
    u64 bits, high;
    u64 expected; /* where the next block would lie in an image in one piece */
};

static int check_entry(struct blocks *b, u64 index, enum image_repair how,
                       struct image_check *ret, struct check *s)
{
    struct block k;
    const char *wrong = NULL;
    int r = blocks_get(b, index, &k);

    if (r || k.kind == BLOCK_NONE || k.kind == BLOCK_ZERO)
        return r;
    if (k.kind == BLOCK_BROKEN) {
        wrong = "lies outside of the file";
    } else if (k.kind == BLOCK_DATA) {
        u64 bit = k.host / b->align;

        if (bit < s->bits && s->seen[bit / 8] & BIT(bit % 8))
            wrong = "lies where another one lies";
        else if (bit < s->bits)
            s->seen[bit / 8] |= (u8)BIT(bit % 8);
    }
    if (wrong) {
        say(ret, wrong, index, k.host);
        ret->corruptions++;
        if (how != REPAIR_ALL || !b->ops->encode)
            return 0;
        r = blocks_set(b, index, (struct block){ .kind = BLOCK_NONE });
        if (!r)
            ret->corruptions_fixed++;
        return r;
    }
    ret->allocated_clusters++;
    ret->compressed_clusters += k.kind == BLOCK_PACKED;
    ret->fragmented_clusters += s->expected && k.host != s->expected;
    s->expected = k.host + b->block;
    s->high = MAX(s->high, k.host + (k.kind == BLOCK_DATA ? b->block : 1));
    return 0;
}

bool blocks_check(struct blocks *b, enum image_repair how, struct image_check *ret,
                  GError **error)
{
    struct check s = { 0 };
    u64 total = (b->size + b->block - 1) / b->block;
    u32 per_page = b->page_bytes / b->entry_bytes;
    int r = 0;

    s.bits = b->file->size / b->align + 1;
    g_autofree u8 *seen = s.bits / 8 < CHECK_MAP_MAX ? g_try_malloc0(s.bits / 8 + 1) : NULL;
    s.seen = seen;
    if (!seen) {
        s.bits = 0;
        ret->check_errors++; /* overlaps go unseen */
    }
    ret->has_clusters = true;
    ret->total_clusters += total;
    pthread_mutex_lock(&b->lock);
    for (u64 i = 0; i < total && !r;) {
        if (b->root && i % per_page == 0 && i / per_page < b->root_len &&
            !b->root[i / per_page]) {
            i += per_page;
            continue;
        }
        if (b->root && i / per_page >= b->root_len)
            break;
        r = check_entry(b, i++, how, ret, &s);
        if (r == -EIO) { /* the page: count it once, and go on with the next */
            say(ret, "has a table that lies outside of the file", i - 1, 0);
            ret->corruptions++;
            i = ROUND_DOWN(i - 1, per_page) + per_page;
            r = 0;
        }
    }
    ret->image_end = MAX(ret->image_end, s.high);
    if (!r && b->changed)
        r = sync_tables(b);
    pthread_mutex_unlock(&b->lock);
    return !r || fail_errno(error, -r, "image '%s': check", b->file->filename);
}

/* --- opening ---------------------------------------------------------------------------------
 */

bool blocks_open(struct blocks *b, GError **error)
{
    u64 bytes, pages;

    b->opened = true;
    pthread_mutex_init(&b->lock, NULL);
    ranges_init(&b->ranges);
    if (!b->end)
        b->end = b->file->size;
    if (!b->align)
        b->align = b->block;
    if (b->flat)
        return true;
    if (!b->root) {
        b->page_bytes = FLAT_PAGE;
        if (__builtin_mul_overflow(b->entries, b->entry_bytes, &bytes) ||
            bytes > b->file->size || b->table_at > b->file->size - bytes)
            return fail(error, ERR_FORMAT,
                        "image '%s': its block table lies beyond the end of the file",
                        b->file->filename);
    }
    pages = b->root ? b->root_len : (bytes + FLAT_PAGE - 1) / FLAT_PAGE;
    b->n_pages = (u32)CLAMP(CACHE_BYTES / b->page_bytes, PAGES_MIN, PAGES_MAX);
    b->n_pages = (u32)CLAMP(pages, 1, b->n_pages);
    b->pages = g_new0(struct block_page, b->n_pages);
    for (u32 i = 0; i < b->n_pages; i++)
        b->pages[i].index = UINT64_MAX;
    return true;
}

void blocks_forget(struct blocks *b)
{
    for (u32 i = 0; i < b->n_pages; i++) {
        if (!b->pages[i].hi)
            b->pages[i].index = UINT64_MAX;
    }
}

void blocks_close(struct blocks *b)
{
    for (u32 i = 0; i < b->n_pages; i++)
        g_free(b->pages[i].raw);
    g_clear_pointer(&b->pages, g_free);
    g_clear_pointer(&b->root, g_free);
    b->n_pages = 0;
    packed_unref(b->packed);
    b->packed = NULL;
    if (b->opened) {
        ranges_clear(&b->ranges);
        pthread_mutex_destroy(&b->lock);
    }
    b->opened = false;
}

/* --- for formats with one table --------------------------------------------------------------
 */

#define B(n) (&container_of(n, struct blocks_node, node)->b)

int blocks_node_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return blocks_read(B(n), at, len, c);
}

int blocks_node_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return blocks_write(B(n), at, len, c);
}

int blocks_node_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    return blocks_zero(B(n), at, len, may_unmap);
}

int blocks_node_discard(struct node *n, u64 at, u64 len)
{
    return blocks_discard(B(n), at, len);
}

int blocks_node_flush(struct node *n)
{
    return blocks_flush(B(n));
}

int blocks_node_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    return blocks_status(B(n), at, len, ret);
}

bool blocks_node_check(struct node *n, enum image_repair how, struct image_check *ret,
                       GError **error)
{
    return blocks_check(B(n), how, ret, error);
}

void blocks_node_info(struct node *n UNUSED, struct image_info *i)
{
    i->has_dirty = true;
}

void blocks_node_close(struct node *n)
{
    blocks_close(B(n));
}

/* --- deflate ---------------------------------------------------------------------------------
 */

s64 inflate_to(enum deflate_kind kind, const void *from, size_t n, void *to, size_t n_to)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    size_t in = 0, out = 0;

    if (!d)
        return -ENOMEM;
    enum libdeflate_result r =
        kind == DEFLATE_RAW ? libdeflate_deflate_decompress_ex(d, from, n, to, n_to, &in, &out)
                            : libdeflate_zlib_decompress_ex(d, from, n, to, n_to, &in, &out);
    libdeflate_free_decompressor(d);
    return r == LIBDEFLATE_SUCCESS ? (s64)out : -EIO;
}

size_t deflate_to(enum deflate_kind kind, const void *from, size_t n, void *to, size_t room)
{
    enum { LEVEL = 6 };
    struct libdeflate_compressor *d = libdeflate_alloc_compressor(LEVEL);
    size_t r = 0;

    if (d)
        r = kind == DEFLATE_RAW ? libdeflate_deflate_compress(d, from, n, to, room)
                                : libdeflate_zlib_compress(d, from, n, to, room);
    libdeflate_free_compressor(d);
    return r;
}

bool create_failed(struct node *file, int r, GError **error)
{
    return fail_errno(error, -r, "'%s': writing the new image", file->filename);
}
