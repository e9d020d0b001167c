// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vmdk.c - VMware's virtual disks ("Virtual Disk Format 5.0", VMware): a descriptor in text,
 * and extents.  monolithicSparse and streamOptimized hold both in one file, the others have a
 * file for the descriptor and more for the extents, in the same folder.
 *
 *   sparse extent:  header | descriptor | redundant GD, GTs | GD, GTs | grains ...
 *
 * GD and GT are the root and the pages of blocks.h, grains its blocks.  In streamOptimized each
 * grain is a marker (LBA, length) and a zlib stream, padded to a sector; a grain that is
 * written again goes to the end anew.
 *
 * The content ID changes with the first write after opening, so that children of this image
 * (ours or VMware's) notice.
 *
 * Read only: streams whose grain directory is at the end, version 3 that is not compressed.
 * Not supported: VMFS sparse, SESPARSE and ESX's COWD extents, raw device mappings.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    VMDK_MAGIC = 0x564d444b, /* "KDMV" */
    FLAG_NEWLINES = 1,
    FLAG_RGD = 2,
    FLAG_ZERO_GRAINS = 4,
    FLAG_COMPRESSED = 0x10000,
    FLAG_MARKERS = 0x20000,
    COMPRESS_DEFLATE = 1,
    MARKER_FOOTER = 3,
    GTE_ZERO = 1,

    GRAIN = 64 * 1024,
    GTES = 512,
    DESC_SECTORS = 20,
    DESC_MAX = 1 << 20,
    GD_MAX = 32 << 20,
    EXTENTS_MAX = 4096,
    GRAIN_MAX = 32 << 20,
};
#define GD_AT_END   UINT64_MAX
#define SPLIT_BYTES (2 * GiB)
#define NO_PARENT   0xffffffffu

struct vmdk_header {
    le32 magic, version, flags;
    le64 capacity, grain_size, desc_offset, desc_size;
    le32 gtes_per_gt;
    le64 rgd_offset, gd_offset, overhead;
    u8 unclean;
    char newlines[4];
    le16 compression;
    u8 pad[433];
} __attribute__((packed));
_Static_assert(sizeof(struct vmdk_header) == 512, "a VMDK header has a sector");

struct vmdk_marker { /* of a grain; without size, of something else */
    le64 val;
    le32 size;
    le32 type; /* a grain's data begin here already */
} __attribute__((packed));
enum { MARKER_BYTES = 12 };

struct extent_file {
    struct blocks b;
    u64 start;   /* in the guest's disk, bytes */
    u64 gd, rgd; /* bytes; rgd 0: none is kept */
    u64 *mirror;
    char *kind;  /* "FLAT", or "" for sparse ones as qemu-img has it */
    bool zeroes; /* a ZERO extent: no file */
    bool packed;
    bool markers;
    struct node *own; /* our reference, unless it is n->file */
};

struct vmdk {
    struct node node;
    GPtrArray *extents; /* struct extent_file */
    u32 cid, parent_cid;
    char *create_type;
    u64 cid_at; /* where in n->file the eight digits are; 0: nowhere */
    pthread_mutex_t lock;
    bool cid_changed;
};

/* --- descriptor ------------------------------------------------------------------------------
 */

/* The value of `key` in the text, unquoted; *at: where it begins. */
static char *desc_value(const char *text, const char *key, u64 *at)
{
    size_t n = strlen(key);

    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *p = line + strspn(line, " \t");
        if (g_ascii_strncasecmp(p, key, n) != 0)
            continue;
        p += n + strspn(p + n, " \t");
        if (*p++ != '=')
            continue;
        p += strspn(p, " \t\"");
        if (at)
            *at = (u64)(p - text);
        return g_strndup(p, strcspn(p, "\"\r\n"));
    }
    return NULL;
}

static bool looks_like_descriptor(const char *p, size_t n)
{
    const char *end = p + n;

    while (p < end) {
        const char *line = p;
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : end;
        while (line < p && (*line == ' ' || *line == '\t' || *line == '\r' || *line == '\n'))
            line++;
        if (line == p || *line == '#')
            continue;
        return (size_t)(p - line) >= 9 && !g_ascii_strncasecmp(line, "version=", 8) &&
               line[8] >= '1' && line[8] <= '3';
    }
    return false;
}

static int vmdk_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                      size_t n_tail UNUSED, const char *filename UNUSED)
{
    if (n_head >= 4 && (!memcmp(head, "KDMV", 4) || !memcmp(head, "COWD", 4)))
        return 100;
    return looks_like_descriptor((const char *)head, n_head) ? 100 : 0;
}

/* Takes what the descriptor says but the extents. */
static bool read_descriptor(struct vmdk *v, const char *text, u64 text_at, GError **error)
{
    struct node *n = &v->node;
    u64 at = 0;
    g_autofree char *cid = desc_value(text, "CID", &at);
    g_autofree char *parent = desc_value(text, "parentCID", NULL);
    g_autofree char *hint = desc_value(text, "parentFileNameHint", NULL);

    v->create_type = desc_value(text, "createType", NULL);
    v->cid = cid ? (u32)strtoul(cid, NULL, 16) : 0;
    v->parent_cid = parent ? (u32)strtoul(parent, NULL, 16) : NO_PARENT;
    if (cid && strlen(cid) == 8)
        v->cid_at = text_at + at;
    if (v->parent_cid == NO_PARENT)
        return true;
    if (!hint || !*hint)
        return fail(error, ERR_FORMAT,
                    "image '%s': its descriptor names a parent's content ID but no parent",
                    n->filename);
    n->backing_name = g_steal_pointer(&hint);
    n->backing_format = g_strdup("vmdk");
    return true;
}

static char *load_text(struct node *file, u64 at, u64 len, GError **error)
{
    g_autofree char *raw = node_load_new(file, at, len, DESC_MAX, "the VMDK descriptor", error);

    return raw ? g_strndup(raw, len) : NULL; /* ends at the first zero byte */
}

/* --- sparse extents --------------------------------------------------------------------------
 */

static struct extent_file *file_of(const struct blocks *b)
{
    return container_of(b, struct extent_file, b);
}

static struct block vmdk_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    if (!e)
        return (struct block){ .kind = BLOCK_NONE };
    if (e == GTE_ZERO && b->zero_kind)
        return (struct block){ .kind = BLOCK_ZERO };
    return (struct block){ .kind = file_of(b)->packed ? BLOCK_PACKED : BLOCK_DATA,
                           .host = e * 512 };
}

static u64 vmdk_encode(const struct blocks *b UNUSED, u64 index UNUSED, struct block k)
{
    return k.kind == BLOCK_DATA || k.kind == BLOCK_PACKED ? k.host / 512
           : k.kind == BLOCK_ZERO                         ? GTE_ZERO
                                                          : 0;
}

static u64 vmdk_mirror(const struct blocks *b, u64 p)
{
    const struct extent_file *x = file_of(b);

    return x->mirror ? x->mirror[p] : 0;
}

static int vmdk_page_made(struct blocks *b, u64 p)
{
    struct extent_file *x = file_of(b);

    return x->mirror ? blocks_append(b, b->page_bytes, 512, &x->mirror[p]) : 0;
}

static int write_directory(struct blocks *b, u64 at, const u64 *hosts, u64 from, u64 to)
{
    g_autofree le32 *part = g_try_new(le32, to - from);

    if (!part)
        return -ENOMEM;
    for (u64 i = from; i < to; i++)
        part[i - from] = le32_of((u32)(hosts[i] / 512));
    return node_pwrite(b->file, at + from * 4, part, (to - from) * 4);
}

static int vmdk_write_root(struct blocks *b, u64 from, u64 to)
{
    struct extent_file *x = file_of(b);
    int r = x->mirror ? write_directory(b, x->rgd, x->mirror, from, to) : 0;

    return r ? r : write_directory(b, x->gd, b->root, from, to);
}

static int vmdk_unpack(struct blocks *b, u64 index, struct block k, u8 *to)
{
    const struct extent_file *x = file_of(b);
    struct vmdk_marker m;
    u64 from = k.host, n = 2 * (u64)b->block;
    int r;

    if (x->markers) {
        if ((r = node_pread(b->file, k.host, &m, MARKER_BYTES)))
            return r;
        n = le32_get(m.size);
        from += MARKER_BYTES;
    }
    if (!n || n > 2 * (u64)b->block || from >= b->file->size)
        return -EIO;
    n = MIN(n, b->file->size - from);
    g_autofree u8 *buf = g_try_malloc(n);
    if (!buf)
        return -ENOMEM;
    if ((r = node_pread(b->file, from, buf, n)))
        return r;
    s64 got = inflate_to(DEFLATE_ZLIB, buf, n, to, b->block);
    if (got < 0)
        return (int)got;
    /* The last grain may end with the disk. */
    if ((u64)got < MIN(b->block, b->size - index * b->block))
        return -EIO;
    memset(to + got, 0, b->block - (u64)got);
    return 0;
}

static int vmdk_pack(struct blocks *b, u64 index, const u8 *from)
{
    u64 room = MARKER_BYTES + 2 * (u64)b->block, host;
    struct block k = { .kind = BLOCK_NONE };
    int r = 0;

    if (!node_is_zero(from, b->block) || b->n->backing_name) {
        g_autofree u8 *buf = g_try_malloc(room);
        if (!buf)
            return -ENOMEM;
        size_t n =
            deflate_to(DEFLATE_ZLIB, from, b->block, buf + MARKER_BYTES, room - MARKER_BYTES);
        if (!n)
            return -EIO;
        struct vmdk_marker m = { le64_of(index * (b->block / 512)), le32_of((u32)n) };
        memcpy(buf, &m, MARKER_BYTES);
        pthread_mutex_lock(&b->lock);
        r = blocks_append(b, ROUND_UP(MARKER_BYTES + n, 512), 512, &host);
        if (!r && host > b->host_max)
            r = -EFBIG;
        pthread_mutex_unlock(&b->lock);
        if (!r)
            r = node_pwrite(b->file, host, buf, MARKER_BYTES + n);
        k = (struct block){ .kind = BLOCK_PACKED, .host = host };
    }
    pthread_mutex_lock(&b->lock);
    if (!r && k.kind == BLOCK_NONE) {
        struct block was;
        r = blocks_get(b, index, &was);
        if (!r && was.kind == BLOCK_NONE) { /* zeroes where there is nothing */
            pthread_mutex_unlock(&b->lock);
            return 0;
        }
    }
    if (!r)
        r = blocks_set(b, index, k);
    pthread_mutex_unlock(&b->lock);
    return r;
}

static const struct blocks_ops sparse_ops = {
    .decode = vmdk_decode,
    .encode = vmdk_encode,
    .mirror = vmdk_mirror,
    .page_made = vmdk_page_made,
    .write_root = vmdk_write_root,
};
static const struct blocks_ops packed_ops = {
    .decode = vmdk_decode,
    .encode = vmdk_encode,
    .mirror = vmdk_mirror,
    .page_made = vmdk_page_made,
    .write_root = vmdk_write_root,
    .unpack = vmdk_unpack,
    .pack = vmdk_pack,
};
static const struct blocks_ops packed_read_ops = { .decode = vmdk_decode,
                                                   .unpack = vmdk_unpack };

static bool load_directory(struct node *file, u64 at, u64 entries, u64 **ret, GError **error)
{
    g_autofree le32 *raw =
        node_load_new(file, at, entries * 4, GD_MAX, "a VMDK grain directory", error);

    if (!raw)
        return false;
    *ret = g_try_new(u64, MAX(entries, 1));
    if (!*ret)
        return fail(error, ERR_LIMIT, "image '%s': no memory for its grain directory",
                    file->filename);
    for (u64 i = 0; i < entries; i++)
        (*ret)[i] = (u64)le32_get(raw[i]) * 512;
    return true;
}

/* A stream that was written in one go: the header at the end has the directory's place. */
static bool read_footer(struct node *file, struct vmdk_header *h, GError **error)
{
    struct {
        struct vmdk_marker marker;
        u8 pad[496];
        struct vmdk_header header;
        struct vmdk_marker end;
        u8 pad2[496];
    } f;

    if (!node_load(file, MAX(file->size, sizeof f) - sizeof f, &f, sizeof f, "the VMDK footer",
                   error))
        return false;
    if (le32_get(f.marker.size) || le32_get(f.marker.type) != MARKER_FOOTER ||
        le32_get(f.header.magic) != VMDK_MAGIC || le64_get(f.header.gd_offset) == GD_AT_END)
        return fail(error, ERR_FORMAT, "image '%s': its footer is missing", file->filename);
    *h = f.header;
    return true;
}

static bool header_ok(struct node *file, const struct vmdk_header *h, GError **error)
{
    u64 grain = le64_get(h->grain_size), capacity = le64_get(h->capacity);
    u32 version = le32_get(h->version), gtes = le32_get(h->gtes_per_gt);
    const char *wrong = NULL;

    if (le32_get(h->magic) != VMDK_MAGIC)
        wrong = "it is no sparse VMDK extent";
    else if (!version || version > 3)
        wrong = "its VMDK version is not supported";
    else if (!grain || grain > GRAIN_MAX / 512 || (grain & (grain - 1)))
        wrong = "its grain size is not supported";
    else if (gtes < 8 || gtes > 1 << 16 || (gtes & (gtes - 1)))
        wrong = "its grain tables have an odd size";
    else if (capacity > INT64_MAX / 512)
        wrong = "its capacity is too large";
    else if (le64_get(h->gd_offset) > INT64_MAX / 512 ||
             le64_get(h->rgd_offset) > INT64_MAX / 512)
        wrong = "its grain directory lies beyond the end of the file";
    else if (le32_get(h->flags) & FLAG_COMPRESSED &&
             le16_get(h->compression) != COMPRESS_DEFLATE)
        wrong = "its compression is unknown";
    return !wrong || fail(error, ERR_FORMAT, "image '%s': %s", file->filename, wrong);
}

static void extent_free(void *p)
{
    struct extent_file *x = p;

    blocks_close(&x->b);
    node_unref(x->own);
    g_free(x->mirror);
    g_free(x->kind);
    g_free(x);
}

static struct extent_file *extent_new(struct vmdk *v, struct node *file, u64 size)
{
    struct extent_file *x = g_new0(struct extent_file, 1);

    x->start = v->node.size;
    x->b.n = &v->node;
    x->b.base = x->start;
    x->b.file = file;
    x->b.size = size;
    v->node.size += size;
    g_ptr_array_add(v->extents, x);
    return x;
}

/* sectors 0: what the header says. */
static bool add_sparse(struct vmdk *v, struct node *file, u64 sectors, bool own, GError **error)
{
    struct vmdk_header h;
    bool at_end;

    if (!node_load(file, 0, &h, sizeof h, "the VMDK header", error) ||
        !header_ok(file, &h, error)) {
        if (own)
            node_unref(file);
        return false;
    }
    struct extent_file *x =
        extent_new(v, file, 512 * (sectors ? sectors : le64_get(h.capacity)));
    x->own = own ? file : NULL;
    if (sectors && sectors > le64_get(h.capacity))
        return fail(error, ERR_FORMAT,
                    "image '%s': the extent '%s' is smaller than the descriptor says",
                    v->node.filename, file->filename);
    at_end = le64_get(h.gd_offset) == GD_AT_END;
    if (at_end && (!read_footer(file, &h, error) || !header_ok(file, &h, error)))
        return false;

    u32 flags = le32_get(h.flags);
    struct blocks *b = &x->b;
    x->kind = g_strdup("");
    x->packed = flags & FLAG_COMPRESSED;
    x->markers = flags & FLAG_MARKERS;
    x->gd = le64_get(h.gd_offset) * 512;
    x->rgd = flags & FLAG_RGD ? le64_get(h.rgd_offset) * 512 : 0;
    b->ops = !x->packed ? &sparse_ops : at_end || !x->markers ? &packed_read_ops : &packed_ops;
    if ((le32_get(h.version) == 3 && !x->packed) || b->ops == &packed_read_ops)
        v->node.read_only = true;
    b->block = (u32)le64_get(h.grain_size) * 512;
    b->align = x->packed ? 512 : b->block;
    b->data_min = 512;
    b->host_max = (u64)UINT32_MAX * 512;
    b->zero_kind = flags & FLAG_ZERO_GRAINS;
    b->entry_bytes = 4;
    b->page_bytes = le32_get(h.gtes_per_gt) * 4;
    u64 grains = (b->size + b->block - 1) / b->block;
    b->root_len = (grains + b->page_bytes / 4 - 1) / (b->page_bytes / 4);
    return load_directory(file, x->gd, b->root_len, &b->root, error) &&
           (v->node.read_only || !x->rgd ||
            load_directory(file, x->rgd, b->root_len, &x->mirror, error)) &&
           blocks_open(b, error);
}

static bool add_flat(struct vmdk *v, struct node *file, u64 sectors, u64 offset, GError **error)
{
    struct extent_file *x = extent_new(v, file, sectors * 512);

    x->own = file;
    x->kind = g_strdup("FLAT");
    x->b.block = 512;
    x->b.flat = true;
    x->b.data_min = offset * 512;
    return blocks_open(&x->b, error);
}

/* --- extents of a descriptor -----------------------------------------------------------------
 */

/* RW 4192256 SPARSE "name.vmdk" [offset]; false: it is no such line. */
struct extent_line {
    char access[16], kind[16], name[1024];
    u64 sectors, offset;
};
static bool parse_line(const char *line, struct extent_line *l)
{
    unsigned long long sectors, offset = 0;
    int used = 0;

    if (sscanf(line, "%15s %llu %15s%n", l->access, &sectors, l->kind, &used) != 3)
        return false;
    if (strcmp(l->access, "RW") != 0 && strcmp(l->access, "RDONLY") != 0 &&
        strcmp(l->access, "NOACCESS") != 0)
        return false;
    l->sectors = sectors;
    l->offset = 0;
    l->name[0] = 0;
    if (sscanf(line + used, " \"%1023[^\"\n\r]\" %llu", l->name, &offset) == 2)
        l->offset = offset;
    return true;
}

static bool add_line(struct vmdk *v, const struct extent_line *l, struct dict *o,
                     const struct open_how *how, GError **error)
{
    struct node *n = &v->node;
    struct open_how child = *how;
    bool flat = !strcmp(l->kind, "FLAT") || !strcmp(l->kind, "VMFS");
    bool sparse = !strcmp(l->kind, "SPARSE");
    char key[32];

    if (!l->sectors || l->sectors > INT64_MAX / 512 - n->size / 512 ||
        l->offset > INT64_MAX / 512 - l->sectors)
        return fail(error, ERR_FORMAT, "image '%s': an extent's size is not possible",
                    n->filename);
    if (v->extents->len >= EXTENTS_MAX)
        return fail(error, ERR_LIMIT, "image '%s': it has more than %d extents", n->filename,
                    EXTENTS_MAX);
    if (!strcmp(l->kind, "ZERO")) {
        extent_new(v, NULL, l->sectors * 512)->zeroes = true;
        return true;
    }
    if ((!flat && !sparse) || !strcmp(l->access, "NOACCESS") || !l->name[0])
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': extents of type %s %s are unknown here", n->filename,
                    l->access, l->kind);
    if (!strcmp(l->access, "RDONLY"))
        n->read_only = true;
    g_snprintf(key, sizeof key, "extents.%u", v->extents->len);
    g_autofree char *dotted = g_strconcat(key, ".filename", NULL);
    /* Who writes into a disk must not be led to write into any other file. */
    if (!n->read_only && strpbrk(l->name, "/:") && !dict_has(o, key) && !dict_has(o, dotted))
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': its extent '%s' is not in the same folder; open it for "
                    "reading only, or name the file by %s=",
                    n->filename, l->name, key);
    child.write = !n->read_only;
    struct node *file = node_open_child(n, o, key, l->name, &child, error);
    if (!file)
        return false;
    return flat ? add_flat(v, file, l->sectors, l->offset, error)
                : add_sparse(v, file, l->sectors, true, error);
}

static bool open_descriptor(struct vmdk *v, struct dict *o, const struct open_how *how,
                            GError **error)
{
    struct node *n = &v->node;
    g_autofree char *text = load_text(n->file, 0, n->file->size, error);
    struct extent_line l;

    if (!text || !read_descriptor(v, text, 0, error))
        return false;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (parse_line(line, &l) && !add_line(v, &l, o, how, error))
            return false;
    }
    return v->extents->len || fail(error, ERR_FORMAT,
                                   "image '%s': its descriptor has no "
                                   "extents",
                                   n->filename);
}

static bool open_monolithic(struct vmdk *v, GError **error)
{
    struct node *n = &v->node;
    struct vmdk_header h;

    if (!node_load(n->file, 0, &h, sizeof h, "the VMDK header", error))
        return false;
    u64 at = le64_get(h.desc_offset), len = le64_get(h.desc_size);
    if (at && len) {
        if (at > INT64_MAX / 512 || len > DESC_MAX / 512)
            return fail(error, ERR_FORMAT, "image '%s': its descriptor is too large",
                        n->filename);
        g_autofree char *text = load_text(n->file, at * 512, len * 512, error);
        if (!text || !read_descriptor(v, text, at * 512, error))
            return false;
    }
    return add_sparse(v, n->file, 0, false, error);
}

static void vmdk_close(struct node *n)
{
    struct vmdk *v = container_of(n, struct vmdk, node);

    g_ptr_array_unref(v->extents);
    g_free(v->create_type);
    pthread_mutex_destroy(&v->lock);
}

static bool vmdk_open(struct node *n, struct dict *o, const struct open_how *how,
                      GError **error)
{
    struct vmdk *v = container_of(n, struct vmdk, node);
    char magic[4];

    if (!node_load(n->file, 0, magic, sizeof magic, "the VMDK signature", error))
        return false;
    if (!memcmp(magic, "COWD", 4))
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': COWD extents (of old ESX servers) are "
                    "not supported",
                    n->filename);
    v->extents = g_ptr_array_new_with_free_func(extent_free);
    v->parent_cid = NO_PARENT;
    pthread_mutex_init(&v->lock, NULL);
    if (!(memcmp(magic, "KDMV", 4) ? open_descriptor(v, o, how, error)
                                   : open_monolithic(v, error))) {
        g_clear_pointer(&n->backing_name, g_free);
        g_clear_pointer(&n->backing_format, g_free);
        vmdk_close(n);
        return false;
    }
    for (guint i = 0; i < v->extents->len; i++) {
        const struct extent_file *x = v->extents->pdata[i];

        if (x->b.root)
            n->cluster = x->b.block;
    }
    if (n->read_only && how->write) {
        fail(error, ERR_UNSUPPORTED,
             "image '%s': VMDK files of this kind can only be read; open it so", n->filename);
        g_clear_pointer(&n->backing_name, g_free);
        g_clear_pointer(&n->backing_format, g_free);
        vmdk_close(n);
        return false;
    }
    return true;
}

/* --- requests --------------------------------------------------------------------------------
 */

static struct extent_file *extent_at(struct node *n, u64 at)
{
    struct vmdk *v = container_of(n, struct vmdk, node);
    guint lo = 0, hi = v->extents->len;

    while (hi - lo > 1) {
        guint mid = lo + (hi - lo) / 2;
        if (((struct extent_file *)v->extents->pdata[mid])->start <= at)
            lo = mid;
        else
            hi = mid;
    }
    return v->extents->pdata[lo];
}

static int vmdk_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = 0;

    while (len && !r) {
        struct extent_file *x = extent_at(n, at);
        u64 part = MIN(len, x->start + x->b.size - at);

        if (x->zeroes)
            cursor_zero(c, part);
        else
            r = blocks_read(&x->b, at - x->start, part, c);
        at += part;
        len -= part;
    }
    return r;
}

/* Before the first change. */
static int change_cid(struct vmdk *v)
{
    char digits[9];
    int r = 0;

    pthread_mutex_lock(&v->lock);
    if (!v->cid_changed && v->cid_at) {
        u32 cid = g_random_int();

        if (cid == v->cid || cid == NO_PARENT)
            cid ^= 1;
        g_snprintf(digits, sizeof digits, "%08x", cid);
        r = node_pwrite(v->node.file, v->cid_at, digits, 8);
        if (!r)
            v->cid = cid;
    }
    v->cid_changed = !r;
    pthread_mutex_unlock(&v->lock);
    return r;
}

static int vmdk_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = change_cid(container_of(n, struct vmdk, node));

    while (len && !r) {
        struct extent_file *x = extent_at(n, at);
        u64 part = MIN(len, x->start + x->b.size - at);

        r = x->zeroes ? -EROFS : blocks_write(&x->b, at - x->start, part, c);
        at += part;
        len -= part;
    }
    return r;
}

static int vmdk_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    int r = change_cid(container_of(n, struct vmdk, node));

    while (len && !r) {
        struct extent_file *x = extent_at(n, at);
        u64 part = MIN(len, x->start + x->b.size - at);

        if (!x->zeroes)
            r = blocks_zero(&x->b, at - x->start, part, may_unmap);
        at += part;
        len -= part;
    }
    return r == -ENOTSUP ? -EIO : r;
}

static int vmdk_discard(struct node *n, u64 at, u64 len)
{
    int r = change_cid(container_of(n, struct vmdk, node));

    while (len && !r) {
        struct extent_file *x = extent_at(n, at);
        u64 part = MIN(len, x->start + x->b.size - at);

        if (!x->zeroes)
            r = blocks_discard(&x->b, at - x->start, part);
        at += part;
        len -= part;
    }
    return r;
}

static int vmdk_write_compressed(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct extent_file *x = extent_at(n, at);

    return x->packed ? vmdk_write(n, at, len, c) : -ENOTSUP;
}

static int vmdk_flush(struct node *n)
{
    struct vmdk *v = container_of(n, struct vmdk, node);
    int r = v->extents->len && !((struct extent_file *)v->extents->pdata[0])->own
                ? 0
                : node_flush(n->file);

    for (guint i = 0; i < v->extents->len && !r; i++) {
        struct extent_file *x = v->extents->pdata[i];

        if (!x->zeroes)
            r = blocks_flush(&x->b);
    }
    return r;
}

static int vmdk_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    struct extent_file *x = extent_at(n, at);
    u64 part = MIN(len, x->start + x->b.size - at);

    if (x->zeroes) {
        *ret = (struct extent){ .len = part, .flags = EXTENT_ALLOCATED | EXTENT_ZERO };
        return 0;
    }
    return blocks_status(&x->b, at - x->start, part, ret);
}

/* --- what it is ------------------------------------------------------------------------------
 */

static void vmdk_info(struct node *n, struct image_info *i)
{
    struct vmdk *v = container_of(n, struct vmdk, node);

    i->details = image_details_new();
    image_detail_int(i->details, "cid", v->cid);
    image_detail_int(i->details, "parent-cid", v->parent_cid);
    image_detail_str(i->details, "create-type", v->create_type ? v->create_type : "");
    GPtrArray *list = image_detail_new(i->details, "extents", DETAIL_LIST)->members;
    for (guint k = 0; k < v->extents->len; k++) {
        const struct extent_file *x = v->extents->pdata[k];
        GPtrArray *d = image_detail_new(list, "", DETAIL_DICT)->members;

        if (x->packed)
            image_detail_bool(d, "compressed", true);
        image_detail_int(d, "virtual-size", (s64)x->b.size);
        image_detail_str(d, "filename", x->b.file ? x->b.file->filename : "");
        if (x->b.root)
            image_detail_int(d, "cluster-size", x->b.block);
        image_detail_str(d, "format", x->zeroes ? "ZERO" : x->kind);
    }
    i->has_dirty = true;
}

static bool vmdk_check(struct node *n, enum image_repair how, struct image_check *ret,
                       GError **error)
{
    struct vmdk *v = container_of(n, struct vmdk, node);

    for (guint i = 0; i < v->extents->len; i++) {
        struct extent_file *x = v->extents->pdata[i];

        if (x->b.root && !blocks_check(&x->b, how, ret, error))
            return false;
    }
    return true;
}

/* --- creation --------------------------------------------------------------------------------
 */

enum subformat { MONO_SPARSE, MONO_FLAT, SPLIT_SPARSE, SPLIT_FLAT, STREAM };
static const char *const subformats[] = { "monolithicSparse",     "monolithicFlat",
                                          "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
                                          "streamOptimized",      NULL };
static const char *const adapters[] = { "ide", "lsilogic", "buslogic", "legacyESX", NULL };

static const struct image_option vmdk_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "adapter_type", OPTION_STR,
      "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
      NULL },
    { "backing_file", OPTION_STR, "File name of a base image", NULL },
    { "backing_fmt", OPTION_STR, "Must be 'vmdk' if present", NULL },
    { "compat6", OPTION_BOOL, "VMDK version 6 image", "off" },
    { "hwversion", OPTION_STR, "VMDK hardware version", "undefined" },
    { "toolsversion", OPTION_STR, "VMware guest tools version", NULL },
    { "subformat", OPTION_STR,
      "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | "
      "twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
      NULL },
    { "zeroed_grain", OPTION_BOOL,
      "Enable efficient zero writes using the zeroed-grain GTE feature", NULL },
    { NULL },
};

static int write_tables(struct node *file, u64 gd, u64 gd_sectors, u64 gts)
{
    g_autofree le32 *dir = g_try_new0(le32, MAX(gts, 1));

    if (!dir)
        return -ENOMEM;
    for (u64 i = 0; i < gts; i++)
        dir[i] = le32_of((u32)(gd + gd_sectors + i * (GTES * 4 / 512)));
    return gts ? node_pwrite(file, gd * 512, dir, gts * 4) : 0;
}

static bool make_sparse(struct node *file, u64 size, bool stream, bool zero_grains,
                        const char *text, GError **error)
{
    u64 grains = (size + GRAIN - 1) / GRAIN, gts = (grains + GTES - 1) / GTES;
    u64 gd_sectors = (gts * 4 + 511) / 512, gt_sectors = gts * (GTES * 4 / 512);
    u64 rgd = 1 + DESC_SECTORS, gd = rgd + gd_sectors + gt_sectors;
    u64 overhead = ROUND_UP(gd + gd_sectors + gt_sectors, GRAIN / 512);
    struct vmdk_header h = { .newlines = { '\n', ' ', '\r', '\n' } };

    if (gts * 4 > GD_MAX || overhead > UINT32_MAX)
        return fail(error, ERR_LIMIT, "'%s': VMDK extents cannot be so large", file->filename);
    h.magic = le32_of(VMDK_MAGIC);
    h.version = le32_of(stream ? 3 : zero_grains ? 2 : 1);
    h.flags = le32_of(FLAG_NEWLINES | FLAG_RGD | (stream ? FLAG_COMPRESSED | FLAG_MARKERS : 0) |
                      (zero_grains ? FLAG_ZERO_GRAINS : 0));
    h.capacity = le64_of(size / 512);
    h.grain_size = le64_of(GRAIN / 512);
    h.desc_offset = le64_of(1);
    h.desc_size = le64_of(DESC_SECTORS);
    h.gtes_per_gt = le32_of(GTES);
    h.rgd_offset = le64_of(rgd);
    h.gd_offset = le64_of(gd);
    h.overhead = le64_of(overhead);
    h.compression = le16_of(stream ? COMPRESS_DEFLATE : 0);
    int r = node_zero(file, 0, overhead * 512, true);
    if (!r)
        r = write_tables(file, rgd, gd_sectors, gts);
    if (!r)
        r = write_tables(file, gd, gd_sectors, gts);
    if (!r && text)
        r = node_pwrite(file, 512, text, strlen(text));
    if (!r)
        r = node_pwrite(file, 0, &h, sizeof h);
    return !r || create_failed(file, r, error);
}

struct recipe {
    enum subformat how;
    u64 size;
    bool zero_grains;
    const char *adapter, *hwversion, *toolsversion, *backing;
    u32 parent_cid;
};

static char *descriptor(const struct recipe *m, const char *extents)
{
    u32 heads = strcmp(m->adapter, "ide") ? 255 : 16;
    GString *s = g_string_new("# Disk DescriptorFile\nversion=1\n");

    g_string_append_printf(s, "CID=%08x\nparentCID=%08x\ncreateType=\"%s\"\n",
                           g_random_int() & ~1u, m->parent_cid, subformats[m->how]);
    if (m->backing)
        g_string_append_printf(s, "parentFileNameHint=\"%s\"\n", m->backing);
    g_string_append_printf(s,
                           "\n# Extent description\n%s\n# The Disk Data Base\n#DDB\n\n"
                           "ddb.virtualHWVersion = \"%s\"\n"
                           "ddb.geometry.cylinders = \"%" G_GUINT64_FORMAT "\"\n"
                           "ddb.geometry.heads = \"%u\"\nddb.geometry.sectors = \"63\"\n"
                           "ddb.adapterType = \"%s\"\nddb.toolsVersion = \"%s\"\n",
                           extents, m->hwversion, m->size / (63 * 512 * heads), heads,
                           m->adapter, m->toolsversion);
    return g_string_free(s, FALSE);
}

/* The file beside the descriptor for piece i. */
static bool make_piece(struct node *desc, const struct recipe *m, const char *name, u64 size,
                       GError **error)
{
    g_autofree char *full = node_sibling(desc->filename, name);
    struct node *file = node_create_file(full, NULL, error);

    if (!file)
        return false;
    bool ok = m->how == SPLIT_SPARSE
                  ? make_sparse(file, size, false, m->zero_grains, NULL, error)
                  : node_truncate(file, size, error);
    int r = node_flush(file);
    node_unref(file);
    return ok && (!r || create_failed(desc, r, error));
}

static bool make_pieces(struct node *desc, const struct recipe *m, GError **error)
{
    g_autofree char *base = g_path_get_basename(desc->filename);
    g_autoptr(GString) lines = g_string_new(NULL);
    bool flat = m->how != SPLIT_SPARSE;
    u64 most = m->how == MONO_FLAT ? m->size : SPLIT_BYTES;
    u32 i = 0;

    if (g_str_has_suffix(base, ".vmdk"))
        base[strlen(base) - 5] = 0;
    if (m->size / SPLIT_BYTES >= EXTENTS_MAX && m->how != MONO_FLAT)
        return fail(error, ERR_LIMIT, "'%s': that makes more than %d extents", desc->filename,
                    EXTENTS_MAX);
    for (u64 left = m->size; left;) {
        u64 part = MIN(left, most);
        g_autofree char *name = m->how == MONO_FLAT ? g_strdup_printf("%s-flat.vmdk", base)
                                                    : g_strdup_printf("%s-%c%03u.vmdk", base,
                                                                      flat ? 'f' : 's', ++i);

        if (!make_piece(desc, m, name, part, error))
            return false;
        g_string_append_printf(lines, "RW %" G_GUINT64_FORMAT " %s \"%s\"%s\n", part / 512,
                               flat ? "FLAT" : "SPARSE", name, flat ? " 0" : "");
        left -= part;
    }
    g_autofree char *text = descriptor(m, lines->str);
    int r = node_pwrite(desc, 0, text, strlen(text));
    return !r || create_failed(desc, r, error);
}

static bool parent_of(struct node *file, struct recipe *m, GError **error)
{
    static const struct open_how how = {
        .no_io = true, .no_backing = true, .force_share = true, .depth = 1
    };
    g_autofree char *full = node_sibling(file->filename, m->backing);
    struct node *n = node_open_name(full, NULL, &how, error);

    if (!n)
        return false;
    bool ok = !strcmp(n->drv->name, "vmdk");
    if (ok)
        m->parent_cid = container_of(n, struct vmdk, node)->cid;
    else
        fail(error, ERR_ARGUMENT, "'%s': a VMDK image's backing file must be one, too",
             m->backing);
    node_unref(n);
    return ok;
}

static bool vmdk_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    struct recipe m = { .how =
                            (enum subformat)dict_enum(o, "subformat", subformats, MONO_SPARSE),
                        .size = ROUND_UP(size, 512),
                        .parent_cid = NO_PARENT };
    bool compat6 = dict_bool(o, "compat6", false);
    const char *fmt = dict_str(o, "backing_fmt");

    m.zero_grains = dict_bool(o, "zeroed_grain", false);
    m.adapter = adapters[dict_enum(o, "adapter_type", adapters, 0)];
    m.hwversion = dict_str(o, "hwversion");
    m.toolsversion = dict_str(o, "toolsversion");
    m.backing = dict_str(o, "backing_file");
    if (m.hwversion && !strcmp(m.hwversion, "undefined"))
        m.hwversion = NULL;
    if (compat6 && m.hwversion)
        return fail(error, ERR_ARGUMENT, "compat6 cannot be enabled with hwversion set");
    if (!m.hwversion)
        m.hwversion = compat6 ? "6" : "4";
    if (!m.toolsversion)
        m.toolsversion = "2147483647";
    if (fmt && strcmp(fmt, "vmdk") != 0)
        return fail(error, ERR_ARGUMENT, "backing_fmt must be 'vmdk'");
    if (strpbrk(m.hwversion, "\"\n") || strpbrk(m.toolsversion, "\"\n") ||
        (m.backing && strpbrk(m.backing, "\"\r\n")) || strpbrk(file->filename, "\"\r\n"))
        return fail(error, ERR_ARGUMENT,
                    "'%s': a VMDK descriptor cannot hold quotes or line breaks in names",
                    file->filename);
    if (m.backing && (m.how == MONO_FLAT || m.how == SPLIT_FLAT))
        return fail(error, ERR_ARGUMENT, "Flat image can't have backing file");
    if (m.zero_grains && (m.how == MONO_FLAT || m.how == SPLIT_FLAT))
        return fail(error, ERR_ARGUMENT, "Flat image can't enable zeroed grain");
    if (m.backing && !parent_of(file, &m, error))
        return false;
    if (m.how != MONO_SPARSE && m.how != STREAM)
        return make_pieces(file, &m, error);

    g_autofree char *base = g_path_get_basename(file->filename);
    g_autofree char *line =
        g_strdup_printf("RW %" G_GUINT64_FORMAT " SPARSE \"%s\"\n", m.size / 512, base);
    g_autofree char *text = descriptor(&m, line);
    if (strlen(text) >= DESC_SECTORS * 512)
        return fail(error, ERR_LIMIT, "'%s': its descriptor would be too long", file->filename);
    return make_sparse(file, m.size, m.how == STREAM, m.zero_grains, text, error);
}

const struct driver format_vmdk = {
    .name = "vmdk",
    .kind = FORMAT,
    .size = sizeof(struct vmdk),
    .backing = true,
    .new_is_zero = true,
    .probe = vmdk_probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .read = vmdk_read,
    .write = vmdk_write,
    .zero = vmdk_zero,
    .discard = vmdk_discard,
    .flush = vmdk_flush,
    .status = vmdk_status,
    .write_compressed = vmdk_write_compressed,
    .create_options = vmdk_options,
    .create = vmdk_create,
    .info = vmdk_info,
    .check = vmdk_check,
};
