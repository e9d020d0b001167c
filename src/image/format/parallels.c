// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parallels.c - Parallels' expandable disk image (docs/interop/parallels.rst of QEMU, and
 * Parallels' own description): a header, a table of clusters behind it, clusters.
 *
 * "WithoutFreeSpace" counts in sectors, "WithouFreSpacExt" in clusters, and holds more.  The
 * mark "in use" is not set by us, since tables are written in order; an image that has it is
 * checked and repaired when it is opened for writing.
 *
 * Read only: images with a format extension (dirty bitmaps), which we would make stale.
 */
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    PARALLELS_VERSION = 2,
    IN_USE = 0x746f6e59,
    TRACKS_MAX = 256 << 11, /* sectors: clusters of 256 MiB */
    HEADS = 16,
    SECTORS = 32,
};

struct parallels_header {
    char magic[16];
    le32 version, heads, cylinders, tracks, entries;
    le64 sectors;
    le32 in_use, data_off, flags;
    le64 ext_off;
} __attribute__((packed));
_Static_assert(sizeof(struct parallels_header) == 64, "the Parallels header has 64 bytes");

struct parallels {
    struct blocks_node bn;
    u32 unit; /* bytes that entries count in */
    bool in_use;
    u64 data_off;
};
static const char magic_old[] = "WithoutFreeSpace", magic_ext[] = "WithouFreSpacExt";

static int parallels_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                           size_t n_tail UNUSED, const char *filename UNUSED)
{
    const struct parallels_header *h = (const void *)head;

    return n_head >= sizeof *h &&
                   (!memcmp(h->magic, magic_old, 16) || !memcmp(h->magic, magic_ext, 16)) &&
                   le32_get(h->version) == PARALLELS_VERSION
               ? 100
               : 0;
}

static struct block parallels_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    const struct parallels *p = container_of(b, struct parallels, bn.b);

    return (struct block){ .kind = e ? BLOCK_DATA : BLOCK_NONE, .host = e * p->unit };
}

static u64 parallels_encode(const struct blocks *b, u64 index UNUSED, struct block k)
{
    const struct parallels *p = container_of(b, struct parallels, bn.b);

    return k.kind == BLOCK_DATA ? k.host / p->unit : 0;
}

static const struct blocks_ops parallels_ops = { .decode = parallels_decode,
                                                 .encode = parallels_encode };

static int write_in_use(struct node *file, u32 value)
{
    le32 v = le32_of(value);

    return node_pwrite(file, offsetof(struct parallels_header, in_use), &v, 4);
}

static bool repair(struct parallels *p, GError **error)
{
    struct image_check c = { 0 };

    if (!blocks_check(&p->bn.b, REPAIR_ALL, &c, error))
        return false;
    int r = write_in_use(p->bn.b.file, 0);
    p->in_use = r;
    return !r || fail_errno(error, -r, "image '%s': its header", p->bn.node.filename);
}

static bool parallels_open(struct node *n, struct dict *o UNUSED, const struct open_how *how,
                           GError **error)
{
    struct parallels *p = container_of(n, struct parallels, bn.node);
    struct blocks *b = &p->bn.b;
    struct parallels_header h;
    const char *wrong = NULL;

    if (!node_load(n->file, 0, &h, sizeof h, "the Parallels header", error))
        return false;
    bool ext = !memcmp(h.magic, magic_ext, 16);
    u32 tracks = le32_get(h.tracks);
    u64 sectors = ext ? le64_get(h.sectors) : (u32)le64_get(h.sectors);
    u64 entries = le32_get(h.entries);
    if ((!ext && memcmp(h.magic, magic_old, 16) != 0) ||
        le32_get(h.version) != PARALLELS_VERSION)
        wrong = "it is no Parallels image of version 2";
    else if (!tracks || tracks > TRACKS_MAX)
        wrong = "its cluster size is not supported";
    else if (sectors > INT64_MAX / 512 || (sectors + tracks - 1) / tracks > entries)
        wrong = "its table is too short for its size";
    else if (!n->read_only && le64_get(h.ext_off))
        wrong = "it has a format extension (dirty bitmaps?); open it for reading only";
    if (wrong)
        return fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
    p->unit = ext ? tracks * 512 : 512;
    p->in_use = le32_get(h.in_use) == IN_USE;
    p->data_off = (u64)le32_get(h.data_off) * 512;
    if (!p->data_off)
        p->data_off = ROUND_UP(sizeof h + entries * 4, 512);
    n->size = sectors * 512;
    n->cluster = tracks * 512;
    *b = (struct blocks){ .ops = &parallels_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = n->cluster,
                          .align = p->unit,
                          .data_min = sizeof h,
                          .host_max = (u64)UINT32_MAX * p->unit,
                          .end = MAX(n->file->size, p->data_off),
                          .entry_bytes = 4,
                          .table_at = sizeof h,
                          .entries = entries };
    if (blocks_open(b, error) && (n->read_only || how->check || !p->in_use || repair(p, error)))
        return true;
    blocks_close(b);
    return false;
}

static void parallels_info(struct node *n, struct image_info *i)
{
    i->has_dirty = i->dirty = container_of(n, struct parallels, bn.node)->in_use;
}

/* The end of the file: what lies behind the last cluster belongs to nobody. */
static bool parallels_check(struct node *n, enum image_repair how, struct image_check *ret,
                            GError **error)
{
    struct parallels *p = container_of(n, struct parallels, bn.node);
    struct blocks *b = &p->bn.b;

    if (!blocks_check(b, how, ret, error))
        return false;
    u64 end = MAX(ret->image_end, p->data_off);
    if (n->file->size > end) {
        u64 count = (n->file->size - end + b->block - 1) / b->block;

        if (ret->say) {
            g_autofree char *line =
                g_strdup_printf("ERROR: %" G_GUINT64_FORMAT
                                " bytes at the end of the file belong to no cluster",
                                n->file->size - end);
            ret->say(ret->opaque, line);
        }
        ret->leaks += count;
        if (how != REPAIR_NONE && !n->read_only) {
            if (!node_truncate(n->file, end, error))
                return false;
            b->end = end;
            ret->leaks_fixed += count;
        }
    }
    return how != REPAIR_ALL || !p->in_use || n->read_only || repair(p, error);
}

static const struct image_option parallels_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "cluster_size", OPTION_SIZE, "Parallels image cluster size", "1048576" },
    { NULL },
};

static bool parallels_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    u64 cluster = dict_size(o, "cluster_size", MiB, UINT32_MAX);
    struct parallels_header h = { .version = le32_of(PARALLELS_VERSION) };

    memcpy(h.magic, magic_ext, 16);
    if (!cluster || cluster % 512 || cluster / 512 > TRACKS_MAX)
        return fail(error, ERR_ARGUMENT,
                    "'%s': Parallels images have clusters of a multiple of "
                    "512 bytes up to 256 MiB",
                    file->filename);
    u64 sectors = (size + 511) / 512, entries = (size + cluster - 1) / cluster;
    u64 data = (sizeof h + entries * 4 + cluster - 1) / cluster * cluster;
    if (entries > UINT32_MAX || data / 512 > UINT32_MAX)
        return fail(error, ERR_LIMIT, "'%s': that needs larger clusters", file->filename);
    h.heads = le32_of(HEADS);
    h.cylinders = le32_of((u32)((sectors + HEADS * SECTORS - 1) / (HEADS * SECTORS)));
    h.tracks = le32_of((u32)(cluster / 512));
    h.entries = le32_of((u32)entries);
    h.sectors = le64_of(sectors);
    h.data_off = le32_of((u32)(data / 512));
    int r = node_zero(file, 0, data, true);
    if (!r)
        r = node_pwrite(file, 0, &h, sizeof h);
    return !r || create_failed(file, r, error);
}

/* As far as the table has room before the first cluster. */
static bool parallels_resize(struct node *n, u64 size, const char *preallocation,
                             GError **error)
{
    struct parallels *p = container_of(n, struct parallels, bn.node);
    struct blocks *b = &p->bn.b;
    u64 entries = (size + b->block - 1) / b->block, sectors = (size + 511) / 512;
    struct parallels_header h;

    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "image '%s': Parallels images cannot be shrunk",
                    n->filename);
    if (entries > (p->data_off - sizeof h) / 4 || (p->unit == 512 && sectors > UINT32_MAX))
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': its table has no room for that size; convert it to a larger "
                    "one",
                    n->filename);
    int r = blocks_flush(b);
    if (!r && entries > b->entries)
        r = node_zero(n->file, b->table_at + b->entries * 4, (entries - b->entries) * 4, false);
    if (!r)
        r = node_flush(n->file);
    if (!r)
        r = node_pread(n->file, 0, &h, sizeof h);
    h.entries = le32_of((u32)MAX(entries, b->entries));
    h.sectors = le64_of(sectors);
    h.cylinders = le32_of((u32)((sectors + HEADS * SECTORS - 1) / (HEADS * SECTORS)));
    if (!r)
        r = node_pwrite(n->file, 0, &h, sizeof h);
    if (!r)
        r = node_flush(n->file);
    if (r)
        return fail_errno(error, -r, "image '%s': growing", n->filename);
    pthread_mutex_lock(&b->lock);
    blocks_forget(b);
    b->entries = MAX(entries, b->entries);
    b->size = sectors * 512;
    n->size = b->size;
    pthread_mutex_unlock(&b->lock);
    return true;
}

const struct driver format_parallels = {
    .name = "parallels",
    .kind = FORMAT,
    .size = sizeof(struct parallels),
    .new_is_zero = true,
    .probe = parallels_probe,
    .open = parallels_open,
    .close = blocks_node_close,
    BLOCKS_OPS,
    .create_options = parallels_options,
    .create = parallels_create,
    .resize = parallels_resize,
    .info = parallels_info,
    .check = parallels_check,
};
