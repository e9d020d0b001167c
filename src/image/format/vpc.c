// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vpc.c - Virtual PC's and Hyper-V's VHD ("Virtual Hard Disk Image Format Specification", 1.0).
 *
 *   fixed:    the disk | footer
 *   dynamic:  copy of the footer | header | BAT | [bitmap | block] ... | footer
 *
 * A new block is put over the footer at the end, which is written again behind it when the
 * tables are; until then the copy at the beginning speaks for the file.  Bitmaps only matter
 * for differencing disks (not supported): ours are all ones, and are not looked at.
 *
 * The size: Virtual PC and QEMU's old images go by the geometry, all others by the size field.
 * QEMU goes by the size field if it knows the creator, so we sign as it does.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    VHD_FIXED = 2,
    VHD_DYNAMIC = 3,
    VHD_VERSION = 0x00010000,
    VHD_BLOCK = 2 << 20,
    VHD_BLOCK_MIN = 4096,
    VHD_BLOCK_MAX = 256 << 20,
    VHD_EPOCH = 946684800, /* 2000-01-01 */
    VHD_HEADER_AT = 512,
    VHD_TABLE_AT = 1536,
};
#define VHD_NONE         0xffffffffu
#define VHD_MAX_GEOMETRY (65535ull * 16 * 255)
#define VHD_MAX_SECTORS  0xff000000ull /* 2040 GiB */

struct vhd_footer {
    char cookie[8]; /* "conectix" */
    be32 features, version;
    be64 data_offset;
    be32 timestamp;
    char creator[4];
    be32 creator_version;
    char creator_os[4];
    be64 original_size, current_size;
    be16 cylinders;
    u8 heads, sectors;
    be32 type, checksum;
    u8 uuid[16];
    u8 saved_state;
    u8 pad[427];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_footer) == 512, "a VHD footer has a sector");

struct vhd_header {
    char cookie[8]; /* "cxsparse" */
    be64 data_offset, table_offset;
    be32 version, entries, block_size, checksum;
    u8 parent[984];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_header) == 1024, "a VHD header has two sectors");

struct vpc {
    struct blocks_node bn;
    struct vhd_footer footer;
    u32 bitmap; /* bytes before each block */
};

static u32 checksum(const void *p, size_t n, size_t field)
{
    const u8 *b = p;
    u32 sum = 0;

    for (size_t i = 0; i < n; i++) {
        if (i < field || i >= field + 4)
            sum += b[i];
    }
    return ~sum;
}

static bool footer_ok(const struct vhd_footer *f)
{
    return !memcmp(f->cookie, "conectix", 8) &&
           be32_get(f->checksum) ==
               checksum(f, sizeof *f, offsetof(struct vhd_footer, checksum));
}

static void footer_seal(struct vhd_footer *f)
{
    f->checksum = be32_of(checksum(f, sizeof *f, offsetof(struct vhd_footer, checksum)));
}

/* Not by the footer at the end: a guest could write one on a raw disk. */
static int vpc_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED, size_t n_tail UNUSED,
                     const char *filename UNUSED)
{
    return n_head >= 8 && !memcmp(head, "conectix", 8) ? 100 : 0;
}

static struct block vpc_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    const struct vpc *v = container_of(b, struct vpc, bn.b);

    if (e == VHD_NONE)
        return (struct block){ .kind = BLOCK_NONE };
    return (struct block){ .kind = BLOCK_DATA, .host = e * 512 + v->bitmap };
}

static u64 vpc_encode(const struct blocks *b, u64 index UNUSED, struct block k)
{
    const struct vpc *v = container_of(b, struct vpc, bn.b);

    return k.kind == BLOCK_DATA ? (k.host - v->bitmap) / 512 : VHD_NONE;
}

static int vpc_room(struct blocks *b, u64 *count, u64 *host)
{
    struct vpc *v = container_of(b, struct vpc, bn.b);
    g_autofree u8 *ones = g_try_malloc(v->bitmap);
    u64 at;

    if (!ones)
        return -ENOMEM;
    b->changed = true; /* the footer is to be written again */
    int r = blocks_append(b, (u64)v->bitmap + b->block, 512, &at);
    if (r)
        return r;
    memset(ones, 0xff, v->bitmap);
    *count = 1;
    *host = at + v->bitmap;
    return node_pwrite(b->file, at, ones, v->bitmap);
}

static int vpc_after(struct blocks *b)
{
    struct vpc *v = container_of(b, struct vpc, bn.b);

    return node_pwrite(b->file, b->end, &v->footer, sizeof v->footer);
}

static const struct blocks_ops vpc_ops = {
    .decode = vpc_decode,
    .encode = vpc_encode,
    .room = vpc_room,
    .after = vpc_after,
};

static u64 disk_sectors(const struct vhd_footer *f)
{
    u64 chs = (u64)be16_get(f->cylinders) * f->heads * f->sectors;
    bool by_chs = !memcmp(f->creator, "vpc ", 4) || !memcmp(f->creator, "qemu", 4);

    return by_chs && chs && chs != VHD_MAX_GEOMETRY ? chs : be64_get(f->current_size) / 512;
}

static bool load_footer(struct node *n, struct vhd_footer *f, bool *at_end, GError **error)
{
    struct vhd_footer end = { 0 };
    u64 size = n->file->size;

    if (!node_load(n->file, 0, f, sizeof *f, "the VHD footer", error) ||
        !node_load(n->file, size - 512, &end, sizeof end, "the VHD footer", error))
        return false;
    *at_end = footer_ok(&end);
    if (footer_ok(f) && be32_get(f->type) != VHD_FIXED)
        return true;
    *f = end;
    return *at_end ||
           fail(error, ERR_FORMAT, "image '%s': it is no VHD image, or its footer is damaged",
                n->filename);
}

static bool open_dynamic(struct vpc *v, GError **error)
{
    struct node *n = &v->bn.node;
    struct blocks *b = &v->bn.b;
    struct vhd_header h;

    if (!node_load(n->file, be64_get(v->footer.data_offset), &h, sizeof h, "the VHD header",
                   error))
        return false;
    u32 block = be32_get(h.block_size);
    u64 entries = be32_get(h.entries), needed;
    const char *wrong = NULL;
    if (memcmp(h.cookie, "cxsparse", 8) != 0)
        wrong = "its dynamic header is missing";
    else if (block < VHD_BLOCK_MIN || block > VHD_BLOCK_MAX || (block & (block - 1)))
        wrong = "its block size is not supported";
    else if ((needed = (n->size + block - 1) / block) > entries)
        wrong = "its block table is too short for its size";
    if (wrong)
        return fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
    n->cluster = b->block = block;
    v->bitmap = ROUND_UP(block / 512 / 8, 512);
    b->ops = &vpc_ops;
    b->align = 512;
    b->data_min = VHD_HEADER_AT;
    b->host_max = (u64)(VHD_NONE - 1) * 512;
    b->entry_bytes = 4;
    b->big_endian = true;
    b->table_at = be64_get(h.table_offset);
    b->entries = needed;
    return true;
}

static bool vpc_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                     GError **error)
{
    struct vpc *v = container_of(n, struct vpc, bn.node);
    struct blocks *b = &v->bn.b;
    bool at_end;

    if (n->file->size < 512)
        return fail(error, ERR_FORMAT, "image '%s': it is too short for a VHD image",
                    n->filename);
    if (!load_footer(n, &v->footer, &at_end, error))
        return false;
    u32 type = be32_get(v->footer.type);
    u64 sectors = disk_sectors(&v->footer);
    if (type != VHD_FIXED && type != VHD_DYNAMIC)
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': it is neither a fixed nor a dynamic VHD (differencing disks "
                    "are not supported)",
                    n->filename);
    if (sectors > VHD_MAX_SECTORS)
        return fail(error, ERR_LIMIT, "image '%s': a VHD has at most 2040 GiB", n->filename);
    n->size = sectors * 512;
    *b = (struct blocks){ .n = n, .file = n->file, .size = n->size };
    u64 len = n->file->size;
    b->end = at_end ? len - 512 : ROUND_UP(len, 512);
    if (type == VHD_FIXED) {
        if (n->size > n->file->size - 512)
            return fail(error, ERR_FORMAT, "image '%s': the file is shorter than the disk",
                        n->filename);
        b->flat = true;
    } else if (!open_dynamic(v, error)) {
        return false;
    }
    if (blocks_open(b, error))
        return true;
    blocks_close(b);
    return false;
}

/* --- creation --------------------------------------------------------------------------------
 */

/* The appendix's way from a size to a geometry, which is never more than the size. */
static void geometry(u64 total, struct vhd_footer *f)
{
    u32 spt, heads, tracks;

    total = MIN(total, VHD_MAX_GEOMETRY);
    if (total >= 65535 * 16 * 63) {
        spt = 255;
        heads = 16;
        tracks = (u32)(total / spt);
    } else {
        spt = 17;
        tracks = (u32)(total / spt);
        heads = MAX((tracks + 1023) / 1024, 4);
        if (tracks >= heads * 1024 || heads > 16) {
            spt = 31;
            heads = 16;
            tracks = (u32)(total / spt);
        }
        if (tracks >= heads * 1024) {
            spt = 63;
            heads = 16;
            tracks = (u32)(total / spt);
        }
    }
    f->cylinders = be16_of((u16)(tracks / heads));
    f->heads = (u8)heads;
    f->sectors = (u8)spt;
}

static u64 chs(const struct vhd_footer *f)
{
    return (u64)be16_get(f->cylinders) * f->heads * f->sectors;
}

/* Sets size and geometry; unless it is forced, the size grows to one that a geometry has. */
static u64 set_size(struct vhd_footer *f, u64 sectors, bool force)
{
    u64 want = MIN(sectors, VHD_MAX_GEOMETRY);

    geometry(want, f);
    for (u64 i = 1; !force && chs(f) < want; i++)
        geometry(want + i, f);
    if (!force && sectors < VHD_MAX_GEOMETRY)
        sectors = chs(f);
    f->current_size = be64_of(sectors * 512);
    return sectors;
}

static const struct image_option vpc_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "subformat", OPTION_STR,
      "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
      NULL },
    { "force_size", OPTION_BOOL,
      "Force disk size calculation to use the actual size specified, rather than using the "
      "nearest CHS-based calculation",
      NULL },
    { NULL },
};

static int write_dynamic(struct node *file, const struct vhd_footer *f, u64 sectors)
{
    u64 entries = (sectors + VHD_BLOCK / 512 - 1) / (VHD_BLOCK / 512);
    u64 table = ROUND_UP(entries * 4, 512);
    struct vhd_header h = { .cookie = "cxsparse" };
    g_autofree u8 *none = g_try_malloc(MAX(table, 1));

    if (!none)
        return -ENOMEM;
    memset(none, 0xff, table);
    h.data_offset = be64_of(UINT64_MAX);
    h.table_offset = be64_of(VHD_TABLE_AT);
    h.version = be32_of(VHD_VERSION);
    h.entries = be32_of((u32)entries);
    h.block_size = be32_of(VHD_BLOCK);
    h.checksum = be32_of(checksum(&h, sizeof h, offsetof(struct vhd_header, checksum)));
    int r = node_pwrite(file, VHD_TABLE_AT + table, f, sizeof *f);
    if (!r && table)
        r = node_pwrite(file, VHD_TABLE_AT, none, table);
    if (!r)
        r = node_pwrite(file, VHD_HEADER_AT, &h, sizeof h);
    return r ? r : node_pwrite(file, 0, f, sizeof *f);
}

static bool vpc_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    static const char *const kinds[] = { "dynamic", "fixed", NULL };
    bool fixed = dict_enum(o, "subformat", kinds, 0) == 1;
    bool force = dict_bool(o, "force_size", false);
    struct vhd_footer f = { .cookie = "conectix", .creator = "qem2", .creator_os = "Wi2k" };
    u64 sectors = (size + 511) / 512;
    int r = 0;

    if (sectors > VHD_MAX_SECTORS)
        return fail(error, ERR_LIMIT, "Disk size is too large, max size is 2040 GiB");
    sectors = set_size(&f, sectors, force);
    f.features = be32_of(2);
    f.version = be32_of(VHD_VERSION);
    f.data_offset = be64_of(fixed ? UINT64_MAX : VHD_HEADER_AT);
    f.timestamp = be32_of((u32)(time(NULL) - VHD_EPOCH));
    f.creator_version = be32_of(0x00050003);
    f.original_size = f.current_size;
    f.type = be32_of(fixed ? VHD_FIXED : VHD_DYNAMIC);
    for (u32 i = 0; i < sizeof f.uuid; i++)
        f.uuid[i] = (u8)g_random_int();
    footer_seal(&f);
    if (fixed && sectors)
        r = node_zero(file, 0, sectors * 512, true);
    if (!r)
        r = fixed ? node_pwrite(file, sectors * 512, &f, sizeof f)
                  : write_dynamic(file, &f, sectors);
    return !r || create_failed(file, r, error);
}

static bool vpc_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct vpc *v = container_of(n, struct vpc, bn.node);
    struct blocks *b = &v->bn.b;
    struct vhd_footer f = v->footer;
    u64 sectors = (size + 511) / 512, was = b->end;
    struct vhd_header h;

    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "image '%s': VHD images cannot be shrunk",
                    n->filename);
    if (sectors > VHD_MAX_SECTORS)
        return fail(error, ERR_LIMIT, "Disk size is too large, max size is 2040 GiB");
    if (!b->flat) {
        if (!node_load(n->file, be64_get(f.data_offset), &h, sizeof h, "the VHD header", error))
            return false;
        if ((sectors * 512 + b->block - 1) / b->block > be32_get(h.entries))
            return fail(error, ERR_UNSUPPORTED,
                        "image '%s': its block table has no room for that size; convert it to "
                        "a larger one",
                        n->filename);
    }
    memcpy(f.creator, "qem2", 4); /* by the size field from now on */
    set_size(&f, sectors, true);
    footer_seal(&f);
    int r = blocks_flush(b);
    if (!r && b->flat) { /* the new footer is there before the old one goes */
        b->end = sectors * 512;
        if (b->end > was + 512)
            r = node_zero(n->file, was + 512, b->end - was - 512, true);
        u64 tail = b->end;
        if (!r)
            r = node_pwrite(n->file, tail, &f, sizeof f);
        if (!r)
            r = node_flush(n->file);
        if (!r && tail > was)
            r = node_zero(n->file, was, MIN(512, tail - was), false);
    } else if (!r) {
        r = node_pwrite(n->file, 0, &f, sizeof f);
        if (!r)
            r = node_flush(n->file);
        if (!r)
            r = node_pwrite(n->file, b->end, &f, sizeof f);
    }
    if (!r)
        r = node_flush(n->file);
    if (r)
        return fail_errno(error, -r, "image '%s': growing", n->filename);
    pthread_mutex_lock(&b->lock);
    v->footer = f;
    blocks_forget(b);
    b->size = sectors * 512;
    n->size = b->size;
    if (!b->flat)
        b->entries = (b->size + b->block - 1) / b->block;
    pthread_mutex_unlock(&b->lock);
    return true;
}

const struct driver format_vpc = {
    .name = "vpc",
    .kind = FORMAT,
    .size = sizeof(struct vpc),
    .new_is_zero = true,
    .probe = vpc_probe,
    .open = vpc_open,
    .close = blocks_node_close,
    BLOCKS_OPS,
    .create_options = vpc_options,
    .create = vpc_create,
    .resize = vpc_resize,
    .info = blocks_node_info,
};
