// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qed.c - QEMU Enhanced Disk format (docs/interop/qed_spec.rst): two levels of tables of equal
 * size, clusters, a backing file.
 *
 * Written in order, tables need no "dirty" mark, and we set none.  An image that somebody else
 * left marked is checked and repaired when it is opened for writing.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    QED_MAGIC = 0x00444551, /* "QED\0" */
    FEATURE_BACKING = 1,
    FEATURE_NEED_CHECK = 2,
    FEATURE_RAW_BACKING = 4,
    FEATURES = 7,
    CLUSTER_MIN = 4 << 10,
    CLUSTER_MAX = 64 << 20,
    TABLE_MAX = 16,             /* clusters */
    TABLE_BYTES_MAX = 16 << 20, /* ours, to bound memory: 256 KiB is usual */
    NAME_MAX_BYTES = 1023,
    ENTRY_ZERO = 1,
};

struct qed_header {
    le32 magic, cluster_size, table_size, header_size;
    le64 features, compat_features, autoclear_features;
    le64 l1_offset, image_size;
    le32 backing_offset, backing_size;
};
_Static_assert(sizeof(struct qed_header) == 64, "the QED header has 64 bytes");

struct qed {
    struct blocks_node bn;
    struct qed_header h;
};

static int qed_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED, size_t n_tail UNUSED,
                     const char *filename UNUSED)
{
    return n_head >= sizeof(struct qed_header) && !memcmp(head, "QED", 4) ? 100 : 0;
}

static struct block qed_decode(const struct blocks *b, u64 index UNUSED, u64 e)
{
    if (e <= ENTRY_ZERO)
        return (struct block){ .kind = e ? BLOCK_ZERO : BLOCK_NONE };
    return (struct block){ .kind = e % b->block ? BLOCK_BROKEN : BLOCK_DATA, .host = e };
}

static u64 qed_encode(const struct blocks *b UNUSED, u64 index UNUSED, struct block k)
{
    return k.kind == BLOCK_DATA ? k.host : k.kind == BLOCK_ZERO ? ENTRY_ZERO : 0;
}

static int qed_write_root(struct blocks *b, u64 from, u64 to)
{
    struct qed *q = container_of(b, struct qed, bn.b);
    g_autofree le64 *part = g_try_new(le64, to - from);

    if (!part)
        return -ENOMEM;
    for (u64 i = from; i < to; i++)
        part[i - from] = le64_of(b->root[i]);
    return node_pwrite(b->file, le64_get(q->h.l1_offset) + from * 8, part, (to - from) * 8);
}

static const struct blocks_ops qed_ops = {
    .decode = qed_decode,
    .encode = qed_encode,
    .write_root = qed_write_root,
};

static bool header_ok(struct node *n, const struct qed_header *h, GError **error)
{
    u32 cluster = le32_get(h->cluster_size), table = le32_get(h->table_size);
    u64 size = le64_get(h->image_size), l1 = le64_get(h->l1_offset), entries;
    const char *wrong = NULL;

    if (le32_get(h->magic) != QED_MAGIC)
        wrong = "it is no QED image";
    else if (le64_get(h->features) & ~(u64)FEATURES)
        wrong = "it has features that are unknown here";
    else if (cluster < CLUSTER_MIN || cluster > CLUSTER_MAX || (cluster & (cluster - 1)))
        wrong = "its cluster size is not a power of two between 4 KiB and 64 MiB";
    else if (!table || table > TABLE_MAX || (table & (table - 1)))
        wrong = "its table size is not 1, 2, 4, 8 or 16 clusters";
    else if ((u64)cluster * table > TABLE_BYTES_MAX)
        wrong = "its tables are larger than 16 MiB";
    else if (!l1 || l1 % cluster)
        wrong = "its L1 table is not at a cluster's begin";
    else if (size % 512 || size > INT64_MAX ||
             (entries = (u64)cluster * table / 8,
              (size - !!size) / cluster / entries >= entries))
        wrong = "its size is not possible";
    return !wrong || fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
}

static bool load_l1(struct qed *q, GError **error)
{
    struct blocks *b = &q->bn.b;
    g_autofree le64 *raw = node_load_new(b->file, le64_get(q->h.l1_offset), b->page_bytes,
                                         TABLE_BYTES_MAX, "the QED L1 table", error);

    if (!raw)
        return false;
    b->root_len = b->page_bytes / 8;
    b->root = g_try_new(u64, b->root_len);
    if (!b->root)
        return fail(error, ERR_LIMIT, "image '%s': no memory for its tables",
                    b->file->filename);
    for (u64 i = 0; i < b->root_len; i++)
        b->root[i] = le64_get(raw[i]);
    return true;
}

static bool load_backing(struct qed *q, GError **error)
{
    struct node *n = &q->bn.node;
    u64 features = le64_get(q->h.features);
    u32 len = le32_get(q->h.backing_size);

    if (!(features & FEATURE_BACKING))
        return true;
    g_autofree char *name =
        node_load_new(n->file, le32_get(q->h.backing_offset), len, NAME_MAX_BYTES,
                      "the name of its backing file", error);
    if (!name)
        return false;
    n->backing_name = g_strndup(name, len);
    n->backing_format = features & FEATURE_RAW_BACKING ? g_strdup("raw") : NULL;
    return true;
}

/* What a writer has to do first: clear what it does not keep up, repair what is marked. */
static bool prepare(struct qed *q, GError **error)
{
    struct node *n = &q->bn.node;
    u64 features = le64_get(q->h.features);
    struct image_check c = { 0 };

    if (!(features & FEATURE_NEED_CHECK) && !le64_get(q->h.autoclear_features))
        return true;
    if (features & FEATURE_NEED_CHECK && !blocks_check(&q->bn.b, REPAIR_ALL, &c, error))
        return false;
    q->h.features = le64_of(features & ~(u64)FEATURE_NEED_CHECK);
    q->h.autoclear_features = le64_of(0);
    int r = node_pwrite(n->file, 0, &q->h, sizeof q->h);
    return !r || fail_errno(error, -r, "image '%s': its header", n->filename);
}

static bool qed_open(struct node *n, struct dict *o UNUSED, const struct open_how *how,
                     GError **error)
{
    struct qed *q = container_of(n, struct qed, bn.node);
    struct blocks *b = &q->bn.b;

    if (!node_load(n->file, 0, &q->h, sizeof q->h, "the QED header", error) ||
        !header_ok(n, &q->h, error))
        return false;
    n->size = le64_get(q->h.image_size);
    n->cluster = le32_get(q->h.cluster_size);
    *b = (struct blocks){ .ops = &qed_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = n->cluster,
                          .data_min = n->cluster,
                          .zero_kind = true,
                          .entry_bytes = 8,
                          .page_bytes = n->cluster * le32_get(q->h.table_size) };
    if (load_l1(q, error) && blocks_open(b, error) && load_backing(q, error) &&
        (n->read_only || how->check || prepare(q, error)))
        return true;
    blocks_close(b);
    g_clear_pointer(&n->backing_name, g_free);
    g_clear_pointer(&n->backing_format, g_free);
    return false;
}

static void qed_info(struct node *n, struct image_info *i)
{
    struct qed *q = container_of(n, struct qed, bn.node);

    i->has_dirty = true;
    i->dirty = le64_get(q->h.features) & FEATURE_NEED_CHECK;
}

static bool qed_check(struct node *n, enum image_repair how, struct image_check *ret,
                      GError **error)
{
    struct qed *q = container_of(n, struct qed, bn.node);

    if (!blocks_node_check(n, how, ret, error))
        return false;
    return how != REPAIR_ALL || n->read_only || prepare(q, error);
}

static const struct image_option qed_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "backing_file", OPTION_STR, "File name of a base image", NULL },
    { "backing_fmt", OPTION_STR, "Image format of the base image", NULL },
    { "cluster_size", OPTION_SIZE, "Cluster size (in bytes)", "65536" },
    { "table_size", OPTION_SIZE, "L1/L2 table size (in clusters)", NULL },
    { NULL },
};

/* The header, and behind it the name. */
static int write_header(struct node *file, struct qed_header *h, const char *backing,
                        const char *format)
{
    u8 buf[sizeof *h + NAME_MAX_BYTES] = { 0 };
    size_t n = backing ? strlen(backing) : 0;
    u64 features = le64_get(h->features) & FEATURE_NEED_CHECK;

    if (backing)
        features |= FEATURE_BACKING;
    if (backing && format && !strcmp(format, "raw"))
        features |= FEATURE_RAW_BACKING;
    h->features = le64_of(features);
    h->backing_offset = le32_of(backing ? sizeof *h : 0);
    h->backing_size = le32_of((u32)n);
    memcpy(buf, h, sizeof *h);
    if (n)
        memcpy(buf + sizeof *h, backing, n);
    return node_pwrite(file, 0, buf, sizeof *h + n);
}

static bool qed_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    u64 cluster = dict_size(o, "cluster_size", 64 * KiB, UINT32_MAX);
    u64 table = dict_size(o, "table_size", 0, UINT32_MAX);
    const char *backing = dict_str(o, "backing_file"), *format = dict_str(o, "backing_fmt");
    struct qed_header h = { .magic = le32_of(QED_MAGIC) };

    if (!table)
        table = 4;
    h.cluster_size = le32_of((u32)cluster);
    h.table_size = le32_of((u32)table);
    h.header_size = le32_of(1);
    h.l1_offset = le64_of(cluster);
    h.image_size = le64_of(size = ROUND_UP(size, 512));
    if (backing && strlen(backing) > NAME_MAX_BYTES)
        return fail(error, ERR_LIMIT, "'%s': the name of the backing file is too long",
                    file->filename);
    if (!header_ok(file, &h, error))
        return false;
    int r = node_zero(file, 0, cluster + cluster * table, true);
    if (!r)
        r = write_header(file, &h, backing, format);
    return !r || create_failed(file, r, error);
}

static bool qed_set_backing(struct node *n, const char *name, const char *format,
                            GError **error)
{
    struct qed *q = container_of(n, struct qed, bn.node);

    if (name && strlen(name) > NAME_MAX_BYTES)
        return fail(error, ERR_LIMIT, "'%s': the name of the backing file is too long",
                    n->filename);
    int r = blocks_flush(&q->bn.b);
    if (!r)
        r = write_header(n->file, &q->h, name, format);
    if (!r)
        r = node_flush(n->file);
    return !r || fail_errno(error, -r, "image '%s': its header", n->filename);
}

static bool qed_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct qed *q = container_of(n, struct qed, bn.node);
    struct qed_header h = q->h;

    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "Shrinking images is currently not supported");
    if (n->backing_name && (!n->backing || n->backing->size > n->size))
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': its backing file is longer and would show through",
                    n->filename);
    h.image_size = le64_of(ROUND_UP(size, 512));
    if (!header_ok(n, &h, error))
        return false;
    int r = node_pwrite(n->file, 0, &h, sizeof h);
    if (!r)
        r = node_flush(n->file);
    if (r)
        return fail_errno(error, -r, "image '%s': growing", n->filename);
    q->h = h;
    q->bn.b.size = ROUND_UP(size, 512);
    n->size = q->bn.b.size;
    return true;
}

const struct driver format_qed = {
    .name = "qed",
    .kind = FORMAT,
    .size = sizeof(struct qed),
    .backing = true,
    .new_is_zero = true,
    .probe = qed_probe,
    .open = qed_open,
    .close = blocks_node_close,
    BLOCKS_OPS,
    .create_options = qed_options,
    .create = qed_create,
    .resize = qed_resize,
    .set_backing = qed_set_backing,
    .info = qed_info,
    .check = qed_check,
};
