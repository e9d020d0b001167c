// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vdi.c - VirtualBox disk images, version 1.1: a header, a table of blocks (1 MiB each, as a
 * rule), blocks in the order in which they were first written.
 *
 * The header counts the blocks in use, and other programs put the next block where that count
 * says: so the count goes to disk before an entry that it covers.  A cut between the two
 * leaves an unused block in the middle; we find those when opening, and use them first.
 *
 * Not supported: differencing images and undo, blocks with extra bytes before the data.
 */
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    VDI_SIGNATURE = 0xbeda107f,
    VDI_VERSION = 0x00010001,
    VDI_DYNAMIC = 1,
    VDI_STATIC = 2,
    VDI_BLOCK = 1 << 20,
    VDI_BLOCK_MIN = 4096,
    VDI_BLOCK_MAX = 256 << 20,
    VDI_BLOCKS_MAX = 0x3fffffff,
    VDI_HOLES_MAX = 1 << 20,
    VDI_MAP_MAX = 64 << 20,
};
#define VDI_NONE 0xffffffffu
#define VDI_ZERO 0xfffffffeu

struct vdi_header {
    char text[64];
    le32 signature, version, header_size, image_type, image_flags;
    char description[256];
    le32 offset_bmap, offset_data;
    le32 cylinders, heads, sectors, sector_size, unused;
    le64 disk_size;
    le32 block_size, block_extra, blocks, blocks_allocated;
    u8 uuid_image[16], uuid_snapshot[16], uuid_link[16], uuid_parent[16];
    u8 unused2[56];
};
_Static_assert(sizeof(struct vdi_header) == 512, "the VDI header has a sector");

struct vdi {
    struct blocks_node bn;
    u32 count;     /* blocks_allocated on disk */
    u32 next;      /* the first block behind all that are in use */
    GArray *holes; /* u32: unused ones before it */
};

static int vdi_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED, size_t n_tail UNUSED,
                     const char *filename UNUSED)
{
    const struct vdi_header *h = (const void *)head;

    return n_head >= sizeof *h && le32_get(h->signature) == VDI_SIGNATURE ? 100 : 0;
}

static struct block vdi_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    if (e == VDI_NONE)
        return (struct block){ .kind = BLOCK_NONE };
    if (e == VDI_ZERO)
        return (struct block){ .kind = BLOCK_ZERO };
    return (struct block){ .kind = BLOCK_DATA, .host = b->data_min + e * b->block };
}

static u64 vdi_encode(const struct blocks *b, u64 index UNUSED, struct block k)
{
    return k.kind == BLOCK_DATA   ? (k.host - b->data_min) / b->block
           : k.kind == BLOCK_ZERO ? VDI_ZERO
                                  : VDI_NONE;
}

static struct vdi *vdi_of(struct blocks *b)
{
    return container_of(b, struct vdi, bn.b);
}

static int vdi_room(struct blocks *b, u64 *count, u64 *host)
{
    struct vdi *v = vdi_of(b);
    u32 at = v->next;

    if (v->holes->len) {
        at = g_array_index(v->holes, u32, v->holes->len - 1);
        *count = 1;
    }
    *host = b->data_min + (u64)at * b->block;
    int r = blocks_clear(b, *host, *count * b->block);
    if (r)
        return r;
    if (v->holes->len)
        g_array_set_size(v->holes, v->holes->len - 1);
    else
        v->next += (u32)*count;
    return 0;
}

static int vdi_before(struct blocks *b)
{
    struct vdi *v = vdi_of(b);
    le32 count = le32_of(v->next);

    if (v->count == v->next)
        return 0;
    int r = node_pwrite(b->file, offsetof(struct vdi_header, blocks_allocated), &count, 4);
    if (!r)
        v->count = v->next;
    return r;
}

static const struct blocks_ops vdi_ops = {
    .decode = vdi_decode,
    .encode = vdi_encode,
    .room = vdi_room,
    .before = vdi_before,
};

static void vdi_close(struct node *n)
{
    struct vdi *v = container_of(n, struct vdi, bn.node);

    blocks_close(&v->bn.b);
    g_clear_pointer(&v->holes, g_array_unref);
}

/* For writing: which places are in use. */
static bool vdi_scan(struct vdi *v, GError **error)
{
    struct blocks *b = &v->bn.b;
    u64 places = b->file->size > b->data_min
                     ? (b->file->size - b->data_min + b->block - 1) / b->block
                     : 0;
    g_autofree u8 *map = places / 8 < VDI_MAP_MAX ? g_try_malloc0((gsize)places / 8 + 1) : NULL;

    for (u64 i = 0; i < b->entries; i++) {
        struct block k;
        int r = blocks_get(b, i, &k);

        if (r)
            return fail_errno(error, -r, "image '%s': its block table", b->file->filename);
        if (k.kind != BLOCK_DATA)
            continue;
        u64 place = (k.host - b->data_min) / b->block;
        v->next = MAX(v->next, (u32)place + 1);
        if (map)
            map[place / 8] |= (u8)BIT(place % 8);
    }
    for (u32 i = 0; map && i < v->next && v->holes->len < VDI_HOLES_MAX; i++) {
        if (!(map[i / 8] & BIT(i % 8)))
            g_array_append_val(v->holes, i);
    }
    return true;
}

static bool vdi_header_ok(struct node *n, const struct vdi_header *h, GError **error)
{
    static const u8 none[16];
    u32 block = le32_get(h->block_size), type = le32_get(h->image_type);
    u64 size = le64_get(h->disk_size), blocks = le32_get(h->blocks);
    const char *wrong = NULL;

    if (le32_get(h->signature) != VDI_SIGNATURE)
        wrong = "it is no VDI image";
    else if (le32_get(h->version) != VDI_VERSION)
        wrong = "its version is not 1.1";
    else if (type != VDI_DYNAMIC && type != VDI_STATIC)
        wrong = "it is neither dynamic nor static (a differencing image?)";
    else if (memcmp(h->uuid_link, none, 16) != 0 || memcmp(h->uuid_parent, none, 16) != 0)
        wrong = "it builds upon another image, which is not supported";
    else if (le32_get(h->sector_size) != 512)
        wrong = "its sectors have not 512 bytes";
    else if (block < VDI_BLOCK_MIN || block > VDI_BLOCK_MAX || (block & (block - 1)))
        wrong = "its block size is not supported";
    else if (le32_get(h->block_extra))
        wrong = "its blocks have extra data";
    else if (le32_get(h->offset_bmap) % 512 || le32_get(h->offset_data) % 512 ||
             le32_get(h->offset_bmap) < 512)
        wrong = "its offsets are not multiples of 512";
    else if (le32_get(h->offset_data) < le32_get(h->offset_bmap) + blocks * 4)
        wrong = "its data overlap the block table";
    else if (blocks > VDI_BLOCKS_MAX || size > blocks * block)
        wrong = "it has fewer blocks than its size needs";
    return !wrong || fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
}

static bool vdi_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                     GError **error)
{
    struct vdi *v = container_of(n, struct vdi, bn.node);
    struct blocks *b = &v->bn.b;
    struct vdi_header h;

    if (!node_load(n->file, 0, &h, sizeof h, "the VDI header", error) ||
        !vdi_header_ok(n, &h, error))
        return false;
    n->size = ROUND_UP(le64_get(h.disk_size), 512);
    n->cluster = le32_get(h.block_size);
    v->count = le32_get(h.blocks_allocated);
    v->holes = g_array_new(FALSE, FALSE, 4);
    *b = (struct blocks){ .ops = &vdi_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = n->cluster,
                          .data_min = le32_get(h.offset_data),
                          .zero_kind = true,
                          .entry_bytes = 4,
                          .table_at = le32_get(h.offset_bmap),
                          .entries = le32_get(h.blocks) };
    b->host_max = b->data_min + (u64)VDI_BLOCKS_MAX * b->block;
    if (!blocks_open(b, error) || (!n->read_only && !vdi_scan(v, error))) {
        vdi_close(n);
        return false;
    }
    return true;
}

static const struct image_option vdi_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "static", OPTION_BOOL, "VDI static (pre-allocated) image", "off" },
    { NULL },
};

/* Writes the entries from..to of a new table: none, or each its own block. */
static int write_map(struct node *file, u64 at, u64 from, u64 to, bool each)
{
    le32 part[1024];

    for (u64 i = from; i < to;) {
        u64 n = MIN(to - i, ARRAY_LEN(part));

        for (u64 k = 0; k < n; k++)
            part[k] = le32_of(each ? (u32)(i + k) : VDI_NONE);
        int r = node_pwrite(file, at + i * 4, part, n * 4);
        if (r)
            return r;
        i += n;
    }
    return 0;
}

static void random_uuid(u8 *to)
{
    for (u32 i = 0; i < 16; i++)
        to[i] = (u8)g_random_int();
    to[6] = (to[6] & 0x0f) | 0x40;
    to[8] = (to[8] & 0x3f) | 0x80;
}

static bool vdi_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    bool fixed = dict_bool(o, "static", false);
    u64 blocks = (size + VDI_BLOCK - 1) / VDI_BLOCK;
    u64 data = ROUND_UP(512 + blocks * 4, 512);
    struct vdi_header h = { .text = "<<< Posada VM Virtual Disk Image >>>\n" };

    if (blocks > VDI_BLOCKS_MAX)
        return fail(error, ERR_LIMIT,
                    "Unsupported VDI image size (size is 0x%" G_GINT64_MODIFIER
                    "x, max supported is 0x%" G_GINT64_MODIFIER "x)",
                    size, (u64)VDI_BLOCKS_MAX * VDI_BLOCK);
    h.signature = le32_of(VDI_SIGNATURE);
    h.version = le32_of(VDI_VERSION);
    h.header_size = le32_of(0x180);
    h.image_type = le32_of(fixed ? VDI_STATIC : VDI_DYNAMIC);
    h.offset_bmap = le32_of(512);
    h.offset_data = le32_of((u32)data);
    h.sector_size = le32_of(512);
    h.disk_size = le64_of(size);
    h.block_size = le32_of(VDI_BLOCK);
    h.blocks = le32_of((u32)blocks);
    h.blocks_allocated = le32_of(fixed ? (u32)blocks : 0);
    random_uuid(h.uuid_image);
    random_uuid(h.uuid_snapshot);
    int r = node_pwrite(file, 0, &h, sizeof h);
    if (!r)
        r = write_map(file, 512, 0, blocks, fixed);
    u64 end = fixed ? data + blocks * VDI_BLOCK : data;
    if (!r && end > file->size)
        r = node_zero(file, file->size, end - file->size, true);
    return !r || create_failed(file, r, error);
}

/* As far as there is room for the table: nothing is moved. */
static bool vdi_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct vdi *v = container_of(n, struct vdi, bn.node);
    struct blocks *b = &v->bn.b;
    u64 blocks = (size + b->block - 1) / b->block;
    le64 disk = le64_of(size);
    le32 count = le32_of((u32)blocks);

    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "image '%s': VDI images cannot be shrunk",
                    n->filename);
    if (blocks > (b->data_min - b->table_at) / 4)
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': its block table has no room for that size; convert it to "
                    "a larger one",
                    n->filename);
    int r = blocks_flush(b);
    if (!r)
        r = write_map(n->file, b->table_at, b->entries, MAX(blocks, b->entries), false);
    if (!r)
        r = node_flush(n->file);
    if (!r && blocks > b->entries)
        r = node_pwrite(n->file, offsetof(struct vdi_header, blocks), &count, 4);
    if (!r)
        r = node_pwrite(n->file, offsetof(struct vdi_header, disk_size), &disk, 8);
    if (!r)
        r = node_flush(n->file);
    if (r)
        return fail_errno(error, -r, "image '%s': growing", n->filename);
    pthread_mutex_lock(&b->lock);
    blocks_forget(b); /* the last page was shorter */
    b->entries = MAX(blocks, b->entries);
    b->size = ROUND_UP(size, 512);
    n->size = b->size;
    pthread_mutex_unlock(&b->lock);
    return true;
}

static bool vdi_check(struct node *n, enum image_repair how, struct image_check *ret,
                      GError **error)
{
    struct vdi *v = container_of(n, struct vdi, bn.node);

    if (!blocks_node_check(n, how, ret, error))
        return false;
    if (v->count == ret->allocated_clusters)
        return true;
    if (ret->say) {
        g_autofree char *line = g_strdup_printf(
            "ERROR: the header counts %u blocks in use, there are %" G_GUINT64_FORMAT, v->count,
            ret->allocated_clusters);
        ret->say(ret->opaque, line);
    }
    if (v->count < ret->allocated_clusters) {
        ret->corruptions++;
        ret->corruptions_fixed += how == REPAIR_ALL;
    } else {
        ret->leaks += v->count - ret->allocated_clusters;
        if (how != REPAIR_NONE && !v->holes->len)
            ret->leaks_fixed += v->count - ret->allocated_clusters;
    }
    if (how == REPAIR_NONE || n->read_only)
        return true;
    int r = vdi_before(&v->bn.b);
    return !r || fail_errno(error, -r, "image '%s'", n->filename);
}

const struct driver format_vdi = {
    .name = "vdi",
    .kind = FORMAT,
    .size = sizeof(struct vdi),
    .new_is_zero = true,
    .probe = vdi_probe,
    .open = vdi_open,
    BLOCKS_OPS,
    .close = vdi_close,
    .create_options = vdi_options,
    .create = vdi_create,
    .resize = vdi_resize,
    .info = blocks_node_info,
    .check = vdi_check,
};
