// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow.c - QEMU's first copy-on-write format ("qcow", version 1): two levels of tables,
 * clusters that may be compressed (raw deflate, a window of 4 KiB), a backing file.
 *
 * Not supported: encryption, which was broken by design and is refused by name.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    QCOW_MAGIC = 0x514649fb, /* "QFI\xfb" */
    QCOW_VERSION = 1,
    NAME_MAX_BYTES = 1023,
    L1_MAX = 32 << 20,
    WINDOW_BITS = 12, /* what other readers inflate with */
};
#define QCOW_PACKED BIT(63)

struct qcow_header {
    be32 magic, version;
    be64 backing_offset;
    be32 backing_size, mtime;
    be64 size;
    u8 cluster_bits, l2_bits, pad[2];
    be32 crypt_method;
    be64 l1_offset;
};
_Static_assert(sizeof(struct qcow_header) == 48, "the qcow header has 48 bytes");

struct qcow {
    struct blocks_node bn;
    u64 l1_at;
    u32 cluster_bits, l2_bits;
};

static int qcow_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                      size_t n_tail UNUSED, const char *filename UNUSED)
{
    const struct qcow_header *h = (const void *)head;

    return n_head >= sizeof *h && be32_get(h->magic) == QCOW_MAGIC &&
                   be32_get(h->version) == QCOW_VERSION
               ? 100
               : 0;
}

static u32 bits_of(const struct blocks *b)
{
    return container_of(b, struct qcow, bn.b)->cluster_bits;
}

static struct block qcow_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    u32 shift = 63 - bits_of(b);

    if (!e)
        return (struct block){ .kind = BLOCK_NONE };
    if (e & QCOW_PACKED)
        return (struct block){ BLOCK_PACKED, e & (BIT(shift) - 1),
                               (u32)(e >> shift) & (b->block - 1) };
    return (struct block){ .kind = BLOCK_DATA, .host = e };
}

static u64 qcow_encode(const struct blocks *b, u64 index UNUSED, struct block k)
{
    if (k.kind == BLOCK_PACKED)
        return QCOW_PACKED | (u64)k.bytes << (63 - bits_of(b)) | k.host;
    return k.kind == BLOCK_DATA ? k.host : 0;
}

static int qcow_write_root(struct blocks *b, u64 from, u64 to)
{
    struct qcow *q = container_of(b, struct qcow, bn.b);
    g_autofree be64 *part = g_try_new(be64, to - from);

    if (!part)
        return -ENOMEM;
    for (u64 i = from; i < to; i++)
        part[i - from] = be64_of(b->root[i]);
    return node_pwrite(b->file, q->l1_at + from * 8, part, (to - from) * 8);
}

static int qcow_unpack(struct blocks *b, u64 index UNUSED, struct block k, u8 *to)
{
    g_autofree u8 *buf = g_try_malloc(b->block);

    if (!buf)
        return -ENOMEM;
    int r = node_pread(b->file, k.host, buf, k.bytes);
    if (r)
        return r;
    return inflate_to(DEFLATE_RAW, buf, k.bytes, to, b->block) == b->block ? 0 : -EIO;
}

static const struct blocks_ops qcow_ops = {
    .decode = qcow_decode,
    .encode = qcow_encode,
    .write_root = qcow_write_root,
    .unpack = qcow_unpack,
};

static int qcow_write_compressed(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct blocks *b = &container_of(n, struct blocks_node, node)->b;
    g_autofree u8 *plain = g_try_malloc(b->block);
    g_autofree u8 *packed = g_try_malloc(b->block);
    struct range g;
    u64 host;

    if (at % b->block || len > b->block || (len < b->block && at + len != n->size))
        return -EINVAL;
    if (!plain || !packed)
        return -ENOMEM;
    cursor_get(c, plain, len);
    memset(plain + len, 0, b->block - len);
    size_t n_packed = bits_of(b) > WINDOW_BITS
                          ? 0
                          : deflate_to(DEFLATE_RAW, plain, b->block, packed, b->block - 1);
    if (!n_packed) {
        struct iovec v = { plain, len };
        struct cursor again = { &v, 1 };
        return blocks_write(b, at, len, &again);
    }
    blocks_enter(b, &g, at / b->block);
    pthread_mutex_lock(&b->lock);
    int r = blocks_append(b, n_packed, 1, &host);
    pthread_mutex_unlock(&b->lock);
    if (!r)
        r = node_pwrite(b->file, host, packed, n_packed);
    pthread_mutex_lock(&b->lock);
    if (!r)
        r = blocks_set(b, at / b->block, (struct block){ BLOCK_PACKED, host, (u32)n_packed });
    pthread_mutex_unlock(&b->lock);
    blocks_leave(b, &g);
    return r;
}

static bool load_l1(struct qcow *q, GError **error)
{
    struct blocks *b = &q->bn.b;
    g_autofree be64 *raw =
        node_load_new(b->file, q->l1_at, b->root_len * 8, L1_MAX, "the qcow L1 table", error);

    if (!raw)
        return false;
    b->root = g_try_new(u64, MAX(b->root_len, 1));
    if (!b->root)
        return fail(error, ERR_LIMIT, "image '%s': no memory for its tables",
                    b->file->filename);
    for (u64 i = 0; i < b->root_len; i++)
        b->root[i] = be64_get(raw[i]);
    return true;
}

static bool qcow_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                      GError **error)
{
    struct qcow *q = container_of(n, struct qcow, bn.node);
    struct blocks *b = &q->bn.b;
    struct qcow_header h;
    const char *wrong = NULL;

    if (!node_load(n->file, 0, &h, sizeof h, "the qcow header", error))
        return false;
    u64 size = be64_get(h.size), name_at = be64_get(h.backing_offset);
    u32 name_len = be32_get(h.backing_size);
    if (be32_get(h.magic) != QCOW_MAGIC || be32_get(h.version) != QCOW_VERSION)
        wrong = "it is no qcow image of version 1";
    else if (be32_get(h.crypt_method))
        wrong = "it is encrypted, which is not supported for qcow; convert it by a program "
                "that knows its key";
    else if (h.cluster_bits < 9 || h.cluster_bits > 16)
        wrong = "its cluster size is not between 512 bytes and 64 KiB";
    else if (h.l2_bits < 6 || h.l2_bits > 13)
        wrong = "its L2 tables have an odd size";
    else if (size > INT64_MAX - (1 << 16))
        wrong = "its size is not possible";
    else if (name_at && name_len > NAME_MAX_BYTES)
        wrong = "the name of its backing file is too long";
    if (wrong)
        return fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
    q->cluster_bits = h.cluster_bits;
    q->l2_bits = h.l2_bits;
    q->l1_at = be64_get(h.l1_offset);
    n->size = ROUND_UP(size, 512);
    n->cluster = 1u << h.cluster_bits;
    u32 shift = h.cluster_bits + h.l2_bits;
    *b = (struct blocks){ .ops = &qcow_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = n->cluster,
                          .data_min = sizeof h,
                          .entry_bytes = 8,
                          .big_endian = true,
                          .root_len = (n->size + BIT(shift) - 1) >> shift,
                          .page_bytes = 8u << h.l2_bits };
    g_autofree char *name = name_at && name_len
                                ? node_load_new(n->file, name_at, name_len, NAME_MAX_BYTES,
                                                "the name of its backing file", error)
                                : NULL;
    if ((name_at && name_len && !name) || !load_l1(q, error) || !blocks_open(b, error)) {
        blocks_close(b);
        return false;
    }
    if (name)
        n->backing_name = g_strndup(name, name_len);
    return true;
}

static const struct image_option qcow_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "backing_file", OPTION_STR, "File name of a base image", NULL },
    { "backing_fmt", OPTION_STR, "Format of the backing image", NULL },
    { NULL },
};

static bool qcow_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    const char *backing = dict_str(o, "backing_file");
    size_t name = backing ? strlen(backing) : 0;
    struct qcow_header h = { .cluster_bits = backing ? 9 : 12, .l2_bits = backing ? 12 : 9 };
    u32 shift = h.cluster_bits + h.l2_bits;
    u64 entries = (size + BIT(shift) - 1) >> shift;
    u64 l1 = ROUND_UP(sizeof h + name, 8);

    dict_str(o, "backing_fmt"); /* checked when it was opened; the header has no room for it */
    if (entries * 8 > L1_MAX || name > NAME_MAX_BYTES)
        return fail(error, ERR_LIMIT,
                    name > NAME_MAX_BYTES ? "'%s': the name of the backing file is too long"
                                          : "'%s': qcow images cannot be so large",
                    file->filename);
    h.magic = be32_of(QCOW_MAGIC);
    h.version = be32_of(QCOW_VERSION);
    h.size = be64_of(size);
    h.l1_offset = be64_of(l1);
    if (name) {
        h.backing_offset = be64_of(sizeof h);
        h.backing_size = be32_of((u32)name);
    }
    int r = node_zero(file, 0, ROUND_UP(l1 + entries * 8, 512), true);
    if (!r && name)
        r = node_pwrite(file, sizeof h, backing, name);
    if (!r)
        r = node_pwrite(file, 0, &h, sizeof h);
    return !r || create_failed(file, r, error);
}

/* A longer first table goes to the end; the header's one sector switches over to it. */
static int move_l1(struct qcow *q, u64 size, u64 entries)
{
    struct blocks *b = &q->bn.b;
    struct qcow_header h;
    u64 was_at = q->l1_at, was = b->root_len, at;
    u64 *root;
    int r = node_pread(b->file, 0, &h, sizeof h);

    if (r)
        return r;
    if (entries > was) {
        if ((r = blocks_append(b, entries * 8, b->align, &at)))
            return r;
        if (!(root = g_try_realloc(b->root, entries * 8)))
            return -ENOMEM;
        memset(root + was, 0, (entries - was) * 8);
        b->root = root;
        b->root_len = entries;
        q->l1_at = at;
        if (!(r = qcow_write_root(b, 0, entries)))
            r = node_flush(b->file);
        if (r) {
            b->root_len = was;
            q->l1_at = was_at;
            return r;
        }
    }
    h.size = be64_of(size);
    h.l1_offset = be64_of(q->l1_at);
    return node_pwrite(b->file, 0, &h, sizeof h);
}

static bool qcow_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct qcow *q = container_of(n, struct qcow, bn.node);
    struct blocks *b = &q->bn.b;
    u32 shift = q->cluster_bits + q->l2_bits;
    u64 entries = (size + BIT(shift) - 1) >> shift;

    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "image '%s': qcow images cannot be shrunk",
                    n->filename);
    if (n->backing_name) /* it could show through where zeroes should be */
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': qcow images with a backing file cannot grow", n->filename);
    if (entries * 8 > L1_MAX)
        return fail(error, ERR_LIMIT, "image '%s': qcow images cannot be so large",
                    n->filename);
    int r = blocks_flush(b);
    pthread_mutex_lock(&b->lock);
    if (!r)
        r = move_l1(q, size, entries);
    if (!r) {
        b->size = ROUND_UP(size, 512);
        n->size = b->size;
    }
    pthread_mutex_unlock(&b->lock);
    if (!r)
        r = node_flush(n->file);
    return !r || fail_errno(error, -r, "image '%s': growing", n->filename);
}

const struct driver format_qcow = {
    .name = "qcow",
    .kind = FORMAT,
    .size = sizeof(struct qcow),
    .backing = true,
    .new_is_zero = true,
    .probe = qcow_probe,
    .open = qcow_open,
    .close = blocks_node_close,
    BLOCKS_OPS,
    .write_compressed = qcow_write_compressed,
    .create_options = qcow_options,
    .create = qcow_create,
    .resize = qcow_resize,
    .info = blocks_node_info,
};
