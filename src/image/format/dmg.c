// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dmg.c - Apple's disk images (UDIF), read only.
 *
 *   data fork: chunks | XML property list, or resource fork | trailer "koly", 512 bytes
 *
 * Either holds tables ("mish", the blkx resources), one for each partition: which sectors lie
 * in which chunk.  Chunks are zeroes, raw, or compressed by zlib or bzip2.
 *
 * Not supported: ADC, LZFSE and LZMA chunks; encrypted and segmented images.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_BZIP2
#include <bzlib.h>
#endif

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    CHUNK_ZERO = 0,
    CHUNK_RAW = 1,
    CHUNK_IGNORE = 2,
    CHUNK_COMMENT = 0x7ffffffe,
    CHUNKS_MAX = 1 << 20,
    CHUNK_BYTES_MAX = 64 << 20,
    TABLES_MAX = 16 << 20, /* bytes of property list or resource fork */
    MISH_BYTES = 204,
    CHUNK_ENTRY = 40,
};
#define CHUNK_ZLIB 0x80000005u
#define CHUNK_BZIP 0x80000006u
#define CHUNK_END  0xffffffffu

struct dmg_trailer {
    char magic[4]; /* "koly" */
    be32 version, header_size, flags;
    be64 running_offset, data_at, data_len, rsrc_at, rsrc_len;
    u8 pad[216 - 56];
    be64 xml_at, xml_len;
    u8 pad2[492 - 232];
    be64 sectors;
    u8 pad3[12];
} __attribute__((packed));
_Static_assert(sizeof(struct dmg_trailer) == 512, "a UDIF trailer has a sector");

struct chunk {
    u64 at, len; /* in the disk, bytes */
    u64 host, host_len;
    u32 type;
};
struct dmg_buffer {
    _Atomic u32 refs;
    const struct chunk *of;
    u8 bytes[];
};
struct dmg {
    struct node node;
    GArray *chunks; /* struct chunk, sorted, apart */
    u64 data_at;
    pthread_mutex_t lock;
    struct dmg_buffer *last;
};

static int dmg_probe(const u8 *head UNUSED, size_t n_head UNUSED, const u8 *tail, size_t n_tail,
                     const char *filename)
{
    /* The trailer alone is something that a guest can write on a raw disk. */
    return n_tail == 512 && !memcmp(tail, "koly", 4) && filename &&
                   g_str_has_suffix(filename, ".dmg")
               ? 100
               : 0;
}

static u64 get(const u8 *p, u32 n)
{
    u64 v = 0;

    while (n--)
        v = v << 8 | *p++;
    return v;
}

/* One "mish" table. */
static bool add_table(struct dmg *d, const u8 *p, u64 n, GError **error)
{
    const char *name = d->node.filename;
    u64 first, data, count;

    if (n < MISH_BYTES || memcmp(p, "mish", 4) != 0)
        return true; /* some other resource */
    first = get(p + 8, 8);
    data = get(p + 24, 8);
    count = get(p + 200, 4);
    if (count > (n - MISH_BYTES) / CHUNK_ENTRY || count > CHUNKS_MAX - d->chunks->len)
        return fail(error, ERR_FORMAT, "image '%s': a table of chunks is damaged", name);
    p += MISH_BYTES;
    for (u64 i = 0; i < count; i++, p += CHUNK_ENTRY) {
        u64 sector = get(p + 8, 8), sectors = get(p + 16, 8);
        struct chunk c = { .type = (u32)get(p, 4), .host_len = get(p + 32, 8) };
        bool zero = c.type == CHUNK_ZERO || c.type == CHUNK_IGNORE;

        if (c.type == CHUNK_COMMENT || c.type == CHUNK_END || !sectors)
            continue;
        if (__builtin_add_overflow(first, sector, &sector) || sector > INT64_MAX / 512 ||
            sectors > INT64_MAX / 512 - sector ||
            __builtin_add_overflow(data, get(p + 24, 8), &c.host) ||
            __builtin_add_overflow(d->data_at, c.host, &c.host) ||
            (!zero && (sectors > CHUNK_BYTES_MAX / 512 || c.host_len > CHUNK_BYTES_MAX ||
                       c.host > INT64_MAX - CHUNK_BYTES_MAX)))
            return fail(error, ERR_FORMAT, "image '%s': a chunk's place is not possible", name);
        c.at = sector * 512;
        c.len = sectors * 512;
        if (c.type == CHUNK_RAW && c.host_len < c.len)
            return fail(error, ERR_FORMAT, "image '%s': a raw chunk is too short", name);
#ifdef HAVE_BZIP2
        bool known =
            zero || c.type == CHUNK_RAW || c.type == CHUNK_ZLIB || c.type == CHUNK_BZIP;
#else
        bool known = zero || c.type == CHUNK_RAW || c.type == CHUNK_ZLIB;
#endif
        if (!known)
            return fail(error, ERR_UNSUPPORTED,
                        "image '%s': its compression (type 0x%x) is not supported", name,
                        c.type);
        if (!zero)
            g_array_append_val(d->chunks, c);
    }
    return true;
}

/* <key>blkx</key> <array> ... <data>base64</data> ...: all <data> that hold tables. */
static bool add_plist(struct dmg *d, struct dmg_trailer *t, GError **error)
{
    u64 len = be64_get(t->xml_len);
    g_autofree char *raw = node_load_new(d->node.file, be64_get(t->xml_at), len, TABLES_MAX,
                                         "the property list", error);
    if (!raw)
        return false;
    g_autofree char *text = g_strndup(raw, len);
    const char *p = strstr(text, "<key>blkx</key>");

    while (p && (p = strstr(p, "<data>"))) {
        const char *end = strstr(p += 6, "</data>");
        gsize n;

        if (!end)
            break;
        g_autofree char *base64 = g_strndup(p, (gsize)(end - p));
        g_autofree u8 *table = g_base64_decode(base64, &n);
        if (!add_table(d, table, n, error))
            return false;
        p = end;
    }
    return true;
}

/* The resource fork: its data are pieces, each behind its length. */
static bool add_resources(struct dmg *d, struct dmg_trailer *t, GError **error)
{
    u64 len = be64_get(t->rsrc_len);
    g_autofree u8 *raw = node_load_new(d->node.file, be64_get(t->rsrc_at), len, TABLES_MAX,
                                       "the resource fork", error);
    if (!raw)
        return false;
    if (len < 16)
        return fail(error, ERR_FORMAT, "image '%s': its resource fork is too short",
                    d->node.filename);
    u64 at = get(raw, 4), end = at + get(raw + 8, 4);
    end = MIN(end, len);
    while (at + 4 <= end) {
        u64 n = get(raw + at, 4);

        at += 4;
        if (n > end - at)
            break;
        if (!add_table(d, raw + at, n, error))
            return false;
        at += n;
    }
    return true;
}

static int by_place(gconstpointer a, gconstpointer b)
{
    const struct chunk *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

static void dmg_close(struct node *n)
{
    struct dmg *d = container_of(n, struct dmg, node);

    g_array_unref(d->chunks);
    g_free(d->last);
    pthread_mutex_destroy(&d->lock);
}

static bool load_chunks(struct dmg *d, GError **error)
{
    struct node *n = &d->node;
    struct dmg_trailer t;
    u64 end = 0;

    if (!node_load(n->file, MAX(n->file->size, 512) - 512, &t, sizeof t, "the UDIF trailer",
                   error))
        return false;
    if (memcmp(t.magic, "koly", 4) != 0)
        return fail(error, ERR_FORMAT, "image '%s': it has no UDIF trailer", n->filename);
    d->data_at = be64_get(t.data_at);
    if (!(be64_get(t.rsrc_len) ? add_resources(d, &t, error) : add_plist(d, &t, error)))
        return false;
    g_array_sort(d->chunks, by_place);
    for (guint i = 0; i < d->chunks->len; i++) {
        const struct chunk *c = &g_array_index(d->chunks, struct chunk, i);

        if (c->at < end)
            return fail(error, ERR_FORMAT, "image '%s': chunks overlap", n->filename);
        end = c->at + c->len;
    }
    u64 sectors = be64_get(t.sectors);
    if (sectors > INT64_MAX / 512)
        return fail(error, ERR_FORMAT, "image '%s': its size is not possible", n->filename);
    n->size = MAX(end, sectors * 512);
    return true;
}

static bool dmg_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                     GError **error)
{
    struct dmg *d = container_of(n, struct dmg, node);

    d->chunks = g_array_new(FALSE, FALSE, sizeof(struct chunk));
    pthread_mutex_init(&d->lock, NULL);
    if (load_chunks(d, error))
        return true;
    dmg_close(n);
    return false;
}

/* The chunk at `at`, or NULL and how long it is zeroes. */
static const struct chunk *find(const struct dmg *d, u64 at, u64 *len)
{
    guint lo = 0, hi = d->chunks->len;

    while (lo < hi) {
        guint mid = lo + (hi - lo) / 2;
        const struct chunk *c = &g_array_index(d->chunks, struct chunk, mid);

        if (at >= c->at + c->len) {
            lo = mid + 1;
        } else if (at < c->at) {
            hi = mid;
        } else {
            *len = MIN(*len, c->at + c->len - at);
            return c;
        }
    }
    if (lo < d->chunks->len)
        *len = MIN(*len, g_array_index(d->chunks, struct chunk, lo).at - at);
    return NULL;
}

static int unpack(struct dmg *d, const struct chunk *c, u8 *to)
{
    if (!c->host_len || c->host >= d->node.file->size ||
        c->host_len > d->node.file->size - c->host)
        return -EIO;
    g_autofree u8 *buf = g_try_malloc(c->host_len);
    if (!buf)
        return -ENOMEM;
    int r = node_pread(d->node.file, c->host, buf, c->host_len);
    if (r)
        return r;
    if (c->type == CHUNK_ZLIB)
        return inflate_to(DEFLATE_ZLIB, buf, c->host_len, to, c->len) == (s64)c->len ? 0 : -EIO;
#ifdef HAVE_BZIP2
    unsigned n = (unsigned)c->len;
    return BZ2_bzBuffToBuffDecompress((char *)to, &n, (char *)buf, (unsigned)c->host_len, 0,
                                      0) == BZ_OK &&
                   n == c->len
               ? 0
               : -EIO;
#else
    return -EIO;
#endif
}

static void buffer_unref(struct dmg_buffer *b)
{
    if (b && --b->refs == 0)
        g_free(b);
}

static int read_packed(struct dmg *d, const struct chunk *c, u64 off, u64 len,
                       struct cursor *cur)
{
    struct dmg_buffer *b, *old;

    pthread_mutex_lock(&d->lock);
    b = d->last && d->last->of == c ? d->last : NULL;
    if (b)
        b->refs++;
    pthread_mutex_unlock(&d->lock);
    if (!b) {
        if (!(b = g_try_malloc(sizeof *b + c->len)))
            return -ENOMEM;
        b->refs = 2;
        b->of = c;
        int r = unpack(d, c, b->bytes);
        if (r) {
            g_free(b);
            return r;
        }
        pthread_mutex_lock(&d->lock);
        old = d->last;
        d->last = b;
        pthread_mutex_unlock(&d->lock);
        buffer_unref(old);
    }
    cursor_put(cur, b->bytes + off, len);
    buffer_unref(b);
    return 0;
}

static int dmg_read(struct node *n, u64 at, u64 len, struct cursor *cur)
{
    struct dmg *d = container_of(n, struct dmg, node);
    int r = 0;

    while (len && !r) {
        u64 part = len;
        const struct chunk *c = find(d, at, &part);

        if (!c)
            cursor_zero(cur, part);
        else if (c->type == CHUNK_RAW)
            r = node_read(n->file, c->host + (at - c->at), part, cur);
        else
            r = read_packed(d, c, at - c->at, part, cur);
        at += part;
        len -= part;
    }
    return r;
}

static int dmg_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    u64 part = len;
    const struct chunk *c = find(container_of(n, struct dmg, node), at, &part);

    ret->len = part;
    ret->flags = EXTENT_ALLOCATED | (!c ? EXTENT_ZERO : EXTENT_DATA);
    if (c && c->type != CHUNK_RAW)
        ret->flags |= EXTENT_COMPRESSED;
    return 0;
}

const struct driver format_dmg = {
    .name = "dmg",
    .kind = FORMAT,
    .size = sizeof(struct dmg),
    .probe = dmg_probe,
    .open = dmg_open,
    .close = dmg_close,
    .read = dmg_read,
    .status = dmg_status,
};
