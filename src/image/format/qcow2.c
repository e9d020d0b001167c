// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2.c - the header: opening, making, changing and describing images.  See qcow2.h.
 */
#include "image/format/qcow2.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

enum { L2_CACHE_BYTES = 32 << 20, RC_CACHE_BYTES = 4 << 20, SLICE_BYTES = 16 << 10 };

static const struct {
    u8 type, bit;
    const char *name;
} features[] = {
    { 0, 0, "dirty bit" },
    { 0, 1, "corrupt bit" },
    { 0, 2, "external data file" },
    { 0, 3, "compression type" },
    { 0, 4, "extended L2 entries" },
    { 1, 0, "lazy refcounts" },
    { 2, 0, "bitmaps" },
    { 2, 1, "raw external data" },
};

/* --- probing and opening ---------------------------------------------------------------------
 */

static int qcow2_probe(const u8 *head, size_t n, const u8 *tail UNUSED, size_t n_tail UNUSED,
                       const char *filename UNUSED)
{
    struct qcow2_header h;

    if (n < HEADER_V2)
        return 0;
    memcpy(&h, head, MIN(n, sizeof h));
    return be32_get(h.magic) == QCOW2_MAGIC && be32_get(h.version) >= 2 ? 100 : 0;
}

int qcow2_header_put(struct qcow2 *q, size_t at, const void *from, size_t n)
{
    return node_pwrite(q->node.file, at, from, n);
}

static void extension_free(void *p)
{
    struct qcow2_extension *e = p;

    g_free(e->data);
    g_free(e);
}

static void qcow2_init(struct qcow2 *q)
{
    pthread_mutexattr_t recursive;

    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&q->flush_lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&q->lock, NULL);
    pthread_mutex_init(&q->pool_lock, NULL);
    ranges_init(&q->ranges);
    q->extensions = g_ptr_array_new_with_free_func(extension_free);
    q->freed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_free));
    q->snaps = g_ptr_array_new_with_free_func(qcow2_snap_free);
    q->packers = g_ptr_array_new();
}

static void qcow2_release(struct qcow2 *q)
{
    qcow2_cache_clear(&q->l2);
    qcow2_cache_clear(&q->rc);
    qcow2_packers_free(q);
    qcow2_crypt_close(q);
    g_ptr_array_unref(q->extensions);
    g_ptr_array_unref(q->snaps);
    g_array_unref(q->freed);
    g_free(q->l1);
    g_free(q->reftable);
    ranges_clear(&q->ranges);
    pthread_mutex_destroy(&q->pool_lock);
    pthread_mutex_destroy(&q->lock);
    pthread_mutex_destroy(&q->flush_lock);
}

static void qcow2_close(struct node *n)
{
    struct qcow2 *q = QCOW2(n);
    g_autoptr(GError) error = NULL;

    if (!n->read_only && !qcow2_bitmap_ops.store(n, &error))
        log_error("Lost persistent bitmaps of node '%s': %s", n->name ? n->name : n->filename,
                  error->message);
    /* The last flush freed clusters whose counts are still to be written. If that fails, they
     * are leaks, and no harm. */
    if (!n->read_only && q->rc.n_dirty)
        qcow2_barrier(q);
    qcow2_release(q);
}

/* What the image calls the features that we do not know. */
static bool refuse_features(struct qcow2 *q, u64 unknown, GError **error)
{
    g_autoptr(GString) s = g_string_new(NULL);

    for (u32 bit = 0; bit < 64; bit++) {
        g_autofree char *name = NULL;

        if (!(unknown & BIT(bit)))
            continue;
        for (guint i = 0; i < q->extensions->len; i++) {
            const struct qcow2_extension *e = q->extensions->pdata[i];

            for (u32 k = 0; e->type == EXT_FEATURES && k + 48 <= e->len; k += 48) {
                if (e->data[k] == 0 && e->data[k + 1] == bit && !name)
                    name = g_strndup((const char *)e->data + k + 2, 46);
            }
        }
        g_autofree char *valid =
            name ? g_utf8_make_valid(name, -1)
                 : g_strdup_printf("Unknown incompatible feature: bit %u", bit);
        g_string_append_printf(s, "%s%s", s->len ? ", " : "", valid);
    }
    return fail(error, ERR_UNSUPPORTED, "image '%s': Unsupported qcow2 feature(s): %s",
                q->node.filename, s->str);
}

static bool load_extensions(struct qcow2 *q, u64 from, u64 end, GError **error)
{
    while (from + 8 <= end) {
        be32 head[2];

        if (!node_load(q->node.file, from, head, sizeof head, "a header extension", error))
            return false;
        u32 type = be32_get(head[0]), len = be32_get(head[1]);
        from += 8;
        if (type == EXT_END)
            return true;
        if (len > end - from)
            return fail(error, ERR_FORMAT, "image '%s': Header extension too large",
                        q->node.filename);
        struct qcow2_extension *e = g_new0(struct qcow2_extension, 1);
        g_ptr_array_add(q->extensions, e);
        e->type = type;
        e->len = len;
        if (!(e->data =
                  node_load_new(q->node.file, from, len, 65536, "a header extension", error)))
            return false;
        from += ROUND_UP((u64)len, 8);
        if (type == EXT_BACKING_FORMAT && !q->node.backing_format) {
            q->node.backing_format = g_strndup((const char *)e->data, MIN(len, 15));
            g_ptr_array_remove_index(q->extensions, q->extensions->len - 1);
        }
    }
    return true;
}

static bool load_table(struct qcow2 *q, u64 at, u32 n, u32 max_bytes, const char *what,
                       u64 **ret, GError **error)
{
    if (at % q->cluster)
        return fail(error, ERR_FORMAT, "image '%s': %s is not aligned to a cluster",
                    q->node.filename, what);
    g_autofree be64 *raw = node_load_new(q->node.file, at, n * 8ull, max_bytes, what, error);
    if (!raw)
        return false;
    u64 *t = *ret = g_try_new(u64, MAX(n, 1));
    if (!t)
        return fail(error, ERR_LIMIT, "image '%s': no memory for %s", q->node.filename, what);
    for (u32 i = 0; i < n; i++)
        t[i] = be64_get(raw[i]);
    return true;
}

static bool take_header(struct qcow2 *q, const struct qcow2_header *h, GError **error)
{
    const char *name = q->node.filename;

    q->version = be32_get(h->version);
    q->cluster_bits = be32_get(h->cluster_bits);
    if (be32_get(h->magic) != QCOW2_MAGIC)
        return fail(error, ERR_FORMAT, "image '%s': Image is not in qcow2 format", name);
    if (q->version < 2 || q->version > 3)
        return fail(error, ERR_UNSUPPORTED, "image '%s': Unsupported qcow2 version %u", name,
                    q->version);
    if (q->cluster_bits < 9 || q->cluster_bits > 21)
        return fail(error, ERR_FORMAT, "image '%s': Unsupported cluster size: 2^%u", name,
                    q->cluster_bits);
    q->cluster = q->unit = BIT(q->cluster_bits);
    q->refcount_order = 4;
    q->header_length = HEADER_V2;
    if (q->version > 2) {
        q->incompatible = be64_get(h->incompatible);
        q->compatible = be64_get(h->compatible);
        q->autoclear = be64_get(h->autoclear);
        q->refcount_order = be32_get(h->refcount_order);
        q->header_length = be32_get(h->header_length);
        if (q->header_length < HEADER_V3 || q->header_length > q->cluster)
            return fail(error, ERR_FORMAT, "image '%s': qcow2 header of %u bytes", name,
                        q->header_length);
        if (q->refcount_order > 6)
            return fail(error, ERR_FORMAT,
                        "image '%s': Reference count entry width too large; may not exceed 64 "
                        "bits",
                        name);
        if (q->incompatible & INCOMPAT_COMPRESSION) {
            if (q->header_length <= HEADER_V3)
                return fail(error, ERR_FORMAT, "image '%s': no room for a compression type",
                            name);
            q->compression = h->compression;
            if (q->compression > COMPRESSION_ZSTD)
                return fail(error, ERR_UNSUPPORTED, "image '%s': unknown compression type: %u",
                            name, q->compression);
        }
    }
    q->l2_entry = q->incompatible & INCOMPAT_EXTENDED_L2 ? 16 : 8;
    q->l2_bits = q->cluster_bits - (q->l2_entry == 16 ? 4 : 3);
    if (q->l2_entry == 16) {
        if (q->cluster_bits < 14)
            return fail(error, ERR_FORMAT,
                        "image '%s': Extended L2 entries want clusters of at least 16 KiB",
                        name);
        q->unit = q->cluster / SUBCLUSTERS;
    }
    q->crypt_method = be32_get(h->crypt_method);
    u64 size = be64_get(h->size);
    if (size > INT64_MAX - q->cluster)
        return fail(error, ERR_FORMAT, "image '%s': the disk is too large", name);
    q->node.size = ROUND_UP(size, 512);
    q->node.cluster = (u32)q->cluster;
    return true;
}

static bool load_backing_name(struct qcow2 *q, const struct qcow2_header *h, GError **error)
{
    u64 at = be64_get(h->backing_at);
    u32 len = be32_get(h->backing_len);

    if (!at)
        return true;
    if (len > MIN(1023, q->cluster - MIN(q->cluster, at)) || at > q->cluster)
        return fail(error, ERR_FORMAT, "image '%s': Backing file name too long",
                    q->node.filename);
    g_autofree char *name = g_malloc0(len + 1);
    if (!node_load(q->node.file, at, name, len, "the backing file's name", error))
        return false;
    if (*name)
        q->node.backing_name = g_steal_pointer(&name);
    return true;
}

static bool load_data_file(struct qcow2 *q, struct dict *o, const struct open_how *how,
                           GError **error)
{
    g_autofree char *name = NULL;

    if (!(q->incompatible & INCOMPAT_DATA_FILE))
        return !dict_has(o, "data-file") ||
               fail(error, ERR_ARGUMENT, "'data-file' is not valid for this image");
    for (guint i = 0; i < q->extensions->len; i++) {
        const struct qcow2_extension *e = q->extensions->pdata[i];

        if (e->type == EXT_DATA_FILE)
            name = g_strndup((const char *)e->data, e->len);
    }
    if (!name && !dict_has(o, "data-file") && !dict_has(o, "data-file.filename"))
        return fail(error, ERR_ARGUMENT, "'data-file' is required for this image");
    if (how->no_io) {
        GError *ignored = NULL;

        q->node.data_file = node_open_child(&q->node, o, "data-file", name, how, &ignored);
        g_clear_error(&ignored);
        return true;
    }
    q->node.data_file = node_open_child(&q->node, o, "data-file", name, how, error);
    return q->node.data_file;
}

static bool load_all(struct qcow2 *q, struct dict *o, const struct open_how *how,
                     GError **error)
{
    struct node *n = &q->node;
    struct qcow2_header h = { 0 };
    u64 file_size = n->file->size;

    if (file_size < HEADER_V2)
        return fail(error, ERR_FORMAT, "image '%s': too short for a qcow2 header", n->filename);
    int r = node_pread(n->file, 0, &h, sizeof h);
    if (r)
        return fail_errno(error, -r, "image '%s': header", n->filename);
    if (!take_header(q, &h, error))
        return false;
    u64 backing_at = be64_get(h.backing_at);
    u64 end = backing_at && backing_at < q->cluster ? backing_at : q->cluster;
    if (!load_extensions(q, q->header_length, MIN(end, file_size), error))
        return false;
    if (q->incompatible & ~(u64)INCOMPAT_KNOWN)
        return refuse_features(q, q->incompatible & ~(u64)INCOMPAT_KNOWN, error);
    if (q->incompatible & INCOMPAT_CORRUPT && how->write && !how->check)
        return fail(error, ERR_FORMAT,
                    "image '%s': qcow2: Image is corrupt; cannot be opened read/write",
                    n->filename);
    if (!load_backing_name(q, &h, error) || !qcow2_crypt_open(q, o, how, error) ||
        !load_data_file(q, o, how, error))
        return false;

    q->l1_size = be32_get(h.l1_size);
    q->l1_at = be64_get(h.l1_at);
    u64 need = (n->size + qcow2_l2_coverage(q) - 1) / qcow2_l2_coverage(q);
    if (q->l1_size > L1_BYTES_MAX / 8)
        return fail(error, ERR_LIMIT, "image '%s': Active L1 table too large", n->filename);
    if (need > q->l1_size)
        return fail(error, ERR_FORMAT, "image '%s': L1 table is too small", n->filename);
    q->reftable_at = be64_get(h.reftable_at);
    u32 clusters = be32_get(h.reftable_clusters);
    if (clusters > REFTABLE_BYTES_MAX >> q->cluster_bits)
        return fail(error, ERR_LIMIT,
                    "image '%s': Image does not contain a reference count "
                    "table, or it is too large",
                    n->filename);
    q->reftable_size = (u32)(clusters * q->cluster / 8);
    /* A table may end with the file before its last cluster does. */
    if (q->l1_size &&
        !load_table(q, q->l1_at, q->l1_size, L1_BYTES_MAX, "the L1 table", &q->l1, error))
        return false;
    if (!q->l1)
        q->l1 = g_new0(u64, 1);
    u64 have = q->reftable_at < file_size ? (file_size - q->reftable_at) / 8 : 0;
    if (!clusters || !load_table(q, q->reftable_at, (u32)MIN(q->reftable_size, have),
                                 REFTABLE_BYTES_MAX, "the refcount table", &q->reftable, error))
        return clusters ? false
                        : fail(error, ERR_FORMAT,
                               "image '%s': Image does not contain a reference count table",
                               n->filename);
    q->reftable_size = (u32)MIN(q->reftable_size, have);
    if (!qcow2_snapshots_load(q, be64_get(h.snapshots_at), be32_get(h.n_snapshots), error))
        return false;

    u32 slice = (u32)MIN(q->cluster, SLICE_BYTES);
    /* No more than the whole of it would take. */
    u64 all = need * q->cluster;
    qcow2_cache_init(&q->l2, slice, MIN(L2_CACHE_BYTES, all));
    qcow2_cache_init(&q->rc, slice, RC_CACHE_BYTES);
    return true;
}

/* What an unclean end left behind, and what others must know before we write. */
static bool begin_writing(struct qcow2 *q, GError **error)
{
    int r = 0;

    if (q->incompatible & INCOMPAT_DIRTY) {
        struct image_check k = { 0 };

        log_info("image '%s' was not closed in order: repairing it", q->node.filename);
        if (!qcow2_check(&q->node, REPAIR_ALL, &k, error))
            return false;
    }
    u64 keep = q->autoclear & AUTOCLEAR_DATA_FILE_RAW;
    for (guint i = 0; i < q->extensions->len; i++) {
        if (((struct qcow2_extension *)q->extensions->pdata[i])->type != EXT_BITMAPS)
            continue;
        keep |= q->autoclear & AUTOCLEAR_BITMAPS;
        if (keep & AUTOCLEAR_BITMAPS)
            continue;
        log_warn("image '%s': a program lacking bitmap support modified this file: its "
                 "bitmaps are lost",
                 q->node.filename);
        g_ptr_array_remove_index(q->extensions, i--); /* it goes with the next header */
    }
    if (q->autoclear != keep) {
        be64 v = be64_of(q->autoclear = keep);

        r = qcow2_header_put(q, offsetof(struct qcow2_header, autoclear), &v, sizeof v);
        if (!r)
            r = node_flush(q->node.file);
    }
    return !r || fail_errno(error, -r, "image '%s': header", q->node.filename);
}

static bool qcow2_open(struct node *n, struct dict *o, const struct open_how *how,
                       GError **error)
{
    struct qcow2 *q = QCOW2(n);

    qcow2_init(q);
    q->discard = how->discard;
    dict_bool(o, "lazy-refcounts", false); /* counts are always ordered here */
    dict_size(o, "l2-cache-size", 0, UINT64_MAX);
    dict_size(o, "l2-cache-entry-size", 0, UINT64_MAX);
    dict_size(o, "refcount-cache-size", 0, UINT64_MAX);
    dict_size(o, "cache-size", 0, UINT64_MAX);
    dict_num(o, "cache-clean-interval", 0, 0, UINT64_MAX);
    dict_bool(o, "pass-discard-request", true);
    dict_bool(o, "pass-discard-snapshot", true);
    dict_bool(o, "pass-discard-other", true);
    dict_str(o, "overlap-check");
    if (load_all(q, o, how, error) && (n->read_only || how->check || begin_writing(q, error)))
        return true;
    node_unref(n->data_file);
    n->data_file = NULL;
    qcow2_release(q);
    return false;
}

static int qcow2_flush(struct node *n)
{
    return qcow2_barrier(QCOW2(n));
}

/* --- the header as a whole -------------------------------------------------------------------
 */

static void put_extension(GByteArray *b, u32 type, const void *data, u32 len)
{
    be32 head[2] = { be32_of(type), be32_of(len) };
    static const u8 pad[8];

    g_byte_array_append(b, (const u8 *)head, sizeof head);
    if (len)
        g_byte_array_append(b, data, len);
    g_byte_array_append(b, pad, (guint)(ROUND_UP(len, 8) - len));
}

/* A header of these fields with extensions and backing file, no longer than a cluster. */
static GByteArray *make_header(struct qcow2_header *h, u32 header_length, GPtrArray *extensions,
                               const char *backing, const char *backing_format, GError **error)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    bool v3 = be32_get(h->version) > 2;
    u64 cluster = BIT(be32_get(h->cluster_bits));

    g_byte_array_set_size(b, header_length);
    memset(b->data, 0, header_length);
    if (backing && backing_format)
        put_extension(b, EXT_BACKING_FORMAT, backing_format, (u32)strlen(backing_format));
    for (guint i = 0; extensions && i < extensions->len; i++) {
        const struct qcow2_extension *e = extensions->pdata[i];

        if (e->type != EXT_FEATURES)
            put_extension(b, e->type, e->data, e->len);
    }
    if (v3) {
        u8 table[ARRAY_LEN(features) * 48] = { 0 };

        for (u32 i = 0; i < ARRAY_LEN(features); i++) {
            table[i * 48] = features[i].type;
            table[i * 48 + 1] = features[i].bit;
            g_strlcpy((char *)table + i * 48 + 2, features[i].name, 46);
        }
        /* It explains only: small clusters may have no room for it. */
        if (b->len + sizeof table + 16 + (backing ? strlen(backing) : 0) <= cluster)
            put_extension(b, EXT_FEATURES, table, sizeof table);
    }
    put_extension(b, EXT_END, NULL, 0);
    h->backing_at = be64_of(0);
    h->backing_len = be32_of(0);
    if (backing) {
        h->backing_at = be64_of(b->len);
        h->backing_len = be32_of((u32)strlen(backing));
        g_byte_array_append(b, (const u8 *)backing, (guint)strlen(backing));
    }
    if (b->len > cluster || (backing && strlen(backing) > 1023)) {
        fail(error, ERR_LIMIT,
             "the header does not fit in a cluster: the backing file's name "
             "is too long");
        return NULL;
    }
    memcpy(b->data, h, MIN(header_length, sizeof *h));
    return g_steal_pointer(&b);
}

bool qcow2_header_rewrite(struct qcow2 *q, GError **error)
{
    struct qcow2_header h = { 0 };
    struct node *n = &q->node;
    int r = node_pread(n->file, 0, &h,
                       q->version > 2 ? MIN(sizeof h, q->header_length) : HEADER_V2);

    if (r)
        return fail_errno(error, -r, "image '%s': header", n->filename);
    if (q->version > 2) {
        h.incompatible = be64_of(q->incompatible);
        h.compatible = be64_of(q->compatible);
        h.autoclear = be64_of(q->autoclear);
    }
    g_autoptr(GByteArray) b = make_header(&h, q->header_length, q->extensions, n->backing_name,
                                          n->backing_format, error);
    if (!b)
        return false;
    guint used = b->len;
    g_byte_array_set_size(b, (guint)q->cluster);
    memset(b->data + used, 0, q->cluster - used);
    r = node_pwrite(n->file, 0, b->data, b->len);
    if (!r)
        r = node_flush(n->file);
    return !r || fail_errno(error, -r, "image '%s': header", n->filename);
}

static bool qcow2_set_backing(struct node *n, const char *name, const char *format,
                              GError **error)
{
    struct qcow2 *q = QCOW2(n);
    char *old = n->backing_name, *old_format = n->backing_format;

    if (q->autoclear & AUTOCLEAR_DATA_FILE_RAW && name)
        return fail(error, ERR_UNSUPPORTED,
                    "Cannot set a backing file for images with "
                    "data-file-raw");
    pthread_mutex_lock(&q->flush_lock);
    n->backing_name = (char *)name;
    n->backing_format = (char *)format;
    bool ok = qcow2_header_rewrite(q, error);
    n->backing_name = old;
    n->backing_format = old_format;
    pthread_mutex_unlock(&q->flush_lock);
    return ok;
}

/* --- making ----------------------------------------------------------------------------------
 */

static const struct image_option create_options[] = {
    { "encryption", OPTION_BOOL,
      "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
      NULL },
    { "encrypt.format", OPTION_STR, "Encrypt the image, format choices: 'aes', 'luks'", NULL },
    LUKS_CREATE_OPTIONS("encrypt."),
    { "cluster_size", OPTION_SIZE, "qcow2 cluster size", "65536" },
    { "preallocation", OPTION_STR,
      "Preallocation mode (allowed values: off, metadata, falloc, full)", NULL },
    { "extended_l2", OPTION_BOOL, "Extended L2 tables", "off" },
    { "compression_type", OPTION_STR, "Compression method used for image cluster compression",
      "zlib" },
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { "compat", OPTION_STR, "Compatibility level (v2 [0.10] or v3 [1.1])", NULL },
    { "backing_file", OPTION_STR, "File name of a base image", NULL },
    { "backing_fmt", OPTION_STR, "Image format of the base image", NULL },
    { "data_file", OPTION_STR, "File name of an external data file", NULL },
    { "data_file_raw", OPTION_BOOL, "The external data file must stay valid as a raw image",
      NULL },
    { "lazy_refcounts", OPTION_BOOL, "Postpone refcount updates", "off" },
    { "refcount_bits", OPTION_NUM, "Width of a reference count entry in bits", "16" },
    { NULL },
};

enum preallocation { PRE_OFF, PRE_METADATA, PRE_FALLOC, PRE_FULL };
struct make {
    u32 version, cluster_bits, refcount_order, preallocation;
    bool lazy, extended, data_raw;
    u8 compression;
    const char *backing, *backing_format, *data_file;
    struct qcow2_crypt_new crypt;
};

static bool make_options(struct dict *o, struct make *m, GError **error)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };
    static const char *const compressions[] = { "zlib", "zstd", NULL };
    const char *compat = dict_str(o, "compat");
    u64 cluster = dict_size(o, "cluster_size", 65536, UINT64_MAX);
    u64 bits = dict_num(o, "refcount_bits", 16, 0, UINT32_MAX);

    *m = (struct make){ .version = 3 };
    if (compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2")))
        m->version = 2;
    else if (compat && strcmp(compat, "1.1") != 0 && strcmp(compat, "v3") != 0)
        return fail(error, ERR_ARGUMENT, "Invalid parameter '%s'", compat);
    if (cluster < 512 || cluster > 2 << 20 || cluster & (cluster - 1))
        return fail(error, ERR_ARGUMENT,
                    "Cluster size must be a power of two between 512 and 2048k");
    if (!bits || bits > 64 || bits & (bits - 1))
        return fail(error, ERR_ARGUMENT,
                    "Refcount width must be a power of two and may not exceed 64 bits");
    m->cluster_bits = (u32)__builtin_ctzll(cluster);
    m->refcount_order = (u32)__builtin_ctzll(bits);
    m->preallocation = (u32)dict_enum(o, "preallocation", modes, 0);
    m->lazy = dict_bool(o, "lazy_refcounts", false);
    m->extended = dict_bool(o, "extended_l2", false);
    m->compression = (u8)dict_enum(o, "compression_type", compressions, 0);
    m->backing = dict_str(o, "backing_file");
    m->backing_format = dict_str(o, "backing_fmt");
    m->data_file = dict_str(o, "data_file");
    m->data_raw = dict_bool(o, "data_file_raw", false);
    if (m->backing && !*m->backing)
        m->backing = NULL;
    if (!qcow2_crypt_options(o, &m->crypt, error))
        return false;
    if (m->version < 3 && m->crypt.method && m->preallocation)
        return fail(error, ERR_ARGUMENT,
                    "Preallocation of encrypted images is only supported with compatibility "
                    "level 1.1 and above (use version=v3 or greater)");
    if (m->version < 3 && m->refcount_order != 4)
        return fail(error, ERR_ARGUMENT,
                    "Different refcount widths than 16 bits require compatibility level 1.1 or "
                    "above (use version=v3 or greater)");
    if (m->version < 3 && (m->lazy || m->extended || m->data_file || m->compression))
        return fail(error, ERR_ARGUMENT,
                    "Lazy refcounts, extended L2 entries, external data files and other "
                    "compression types than zlib are only supported with compatibility level "
                    "1.1 and above (use version=v3 or greater)");
    if (m->data_file && (m->backing && m->data_raw))
        return fail(error, ERR_ARGUMENT,
                    "Backing file and data-file-raw cannot be used at the same time");
    if (m->data_raw && !m->data_file)
        return fail(error, ERR_ARGUMENT, "data-file-raw requires data-file");
    if (m->extended && m->cluster_bits < 14)
        return fail(error, ERR_ARGUMENT,
                    "Extended L2 entries are only supported with cluster sizes of at least "
                    "16384 bytes");
    return true;
}

/* Clusters of L1, refcount blocks and table for a new image. */
struct layout {
    u64 l1_entries, l1, blocks, table;
};

static u64 crypt_clusters(const struct make *m)
{
    return m->crypt.method == CRYPT_LUKS
               ? (luks_new_payload(&m->crypt.luks) + BIT(m->cluster_bits) - 1) >>
                     m->cluster_bits
               : 0;
}

static struct layout layout_of(const struct make *m, u64 size, u64 more)
{
    u64 cluster = BIT(m->cluster_bits);
    u64 per_l2 = cluster / (m->extended ? 16 : 8) * cluster,
        e = cluster * 8 >> m->refcount_order;
    struct layout l = { .l1_entries = size / per_l2 + (size % per_l2 != 0),
                        .blocks = 1,
                        .table = 1 };

    l.l1 = (l.l1_entries * 8 + cluster - 1) / cluster;
    for (;;) {
        u64 all = 1 + l.table + l.blocks + l.l1 + crypt_clusters(m) + more,
            blocks = (all + e - 1) / e, table = (blocks * 8 + cluster - 1) / cluster;

        if (blocks <= l.blocks && table <= l.table)
            return l;
        l.blocks = MAX(blocks, l.blocks);
        l.table = MAX(table, l.table);
    }
}

static bool write_new_image(struct node *file, u64 size, const struct make *m,
                            const struct layout *l, GError **error)
{
    u64 cluster = BIT(m->cluster_bits), crypt_at = (1 + l->table + l->blocks + l->l1) * cluster;
    u64 all = 1 + l->table + l->blocks + l->l1 + crypt_clusters(m);
    u64 e = cluster * 8 >> m->refcount_order;
    g_autoptr(GPtrArray) extensions = g_ptr_array_new();
    bool luks = m->crypt.method == CRYPT_LUKS;
    u64 luks_len = luks ? luks_new_payload(&m->crypt.luks) : 0;
    be64 luks_place[2] = { be64_of(crypt_at), be64_of(luks_len) };
    struct qcow2_extension crypto = { EXT_CRYPTO, sizeof luks_place, (u8 *)luks_place };
    struct qcow2_extension data = { .type = EXT_DATA_FILE, .data = (u8 *)m->data_file };
    u32 header_length = m->version > 2 ? (u32)sizeof(struct qcow2_header) : HEADER_V2;
    struct qcow2_header h = {
        .magic = be32_of(QCOW2_MAGIC),
        .version = be32_of(m->version),
        .cluster_bits = be32_of(m->cluster_bits),
        .size = be64_of(size),
        .crypt_method = be32_of(m->crypt.method),
        .l1_size = be32_of((u32)l->l1_entries),
        .l1_at = be64_of((1 + l->table + l->blocks) * cluster),
        .reftable_at = be64_of(cluster),
        .reftable_clusters = be32_of((u32)l->table),
        .incompatible = be64_of((m->data_file ? INCOMPAT_DATA_FILE : 0) |
                                (m->compression ? INCOMPAT_COMPRESSION : 0) |
                                (m->extended ? INCOMPAT_EXTENDED_L2 : 0)),
        .compatible = be64_of(m->lazy ? COMPAT_LAZY_REFCOUNTS : 0),
        .autoclear = be64_of(m->data_raw ? AUTOCLEAR_DATA_FILE_RAW : 0),
        .refcount_order = be32_of(m->refcount_order),
        .header_length = be32_of(header_length),
        .compression = m->compression,
    };

    if (m->data_file) {
        data.len = (u32)strlen(m->data_file);
        g_ptr_array_add(extensions, &data);
    }
    if (luks)
        g_ptr_array_add(extensions, &crypto);
    g_autoptr(GByteArray) head =
        make_header(&h, header_length, extensions, m->backing, m->backing_format, error);
    if (!head)
        return false;
    g_autofree be64 *table = g_malloc0(l->table * cluster);
    g_autofree void *block = g_malloc(cluster);
    int r = node_zero(file, 0, all * cluster, true);
    for (u64 b = 0; !r && b < l->blocks; b++) {
        table[b] = be64_of((1 + l->table + b) * cluster);
        memset(block, 0, cluster);
        for (u64 i = 0; i < e && b * e + i < all; i++)
            refcount_set(block, i, m->refcount_order, 1);
        r = node_pwrite(file, (1 + l->table + b) * cluster, block, cluster);
    }
    if (!r)
        r = node_pwrite(file, cluster, table, l->table * cluster);
    struct luks_place place = { file, crypt_at, luks_len };
    if (!r && luks && !luks_make(&m->crypt.luks, &place, NULL, error))
        return false;
    if (!r)
        r = node_pwrite(file, 0, head->data, head->len);
    return !r || fail_errno(error, -r, "'%s'", file->filename);
}

/* Storage for all of a new image. */
static bool preallocate(struct node *n, u64 from, u64 to, u32 mode, GError **error)
{
    static const char *const modes[] = { NULL, NULL, "falloc", "full" };
    struct qcow2 *q = QCOW2(n);
    int r = qcow2_preallocate(q, from, to - from);
    u64 end = 0;

    if (!r)
        r = qcow2_barrier(q);
    if (r)
        return fail_errno(error, -r, "'%s': preallocation", n->filename);
    /* The last cluster's end */
    struct run run;
    for (u64 at = from; at < to; at += run.len) {
        pthread_mutex_lock(&q->lock);
        r = qcow2_lookup(q, at, to - at, &run);
        pthread_mutex_unlock(&q->lock);
        if (r)
            return fail_errno(error, -r, "'%s': preallocation", n->filename);
        if (run.type == RUN_DATA || (run.type == RUN_ZERO && run.host))
            end = MAX(end, run.host + run.len);
    }
    struct node *data = qcow2_data(q);
    return data->size >= end || data->drv->resize == NULL ||
           data->drv->resize(data, end, modes[mode], error);
}

static bool qcow2_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    struct make m;

    if (!make_options(o, &m, error))
        return false;
    size = ROUND_UP(size, 512);
    struct layout l = layout_of(&m, size, 0);
    if (l.l1_entries * 8 > L1_BYTES_MAX)
        return fail(error, ERR_LIMIT,
                    "The image size is too large (try using a larger cluster size)");
    if (m.data_file) {
        g_autofree char *name = node_sibling(file->filename, m.data_file);
        struct node *data = node_create_file(name, NULL, error);
        bool ok = data && (!m.data_raw || node_truncate(data, size, error));

        node_unref(data);
        if (!ok)
            return false;
    }
    if (!write_new_image(file, size, &m, &l, error))
        return false;
    if (m.preallocation == PRE_OFF)
        return true;

    struct open_how how = { .write = true, .no_backing = true };
    struct node *n = node_alloc(&format_qcow2);
    g_autodict options = dict_new();
    if (m.crypt.method)
        dict_set(options, "encrypt.key-secret", m.crypt.luks.secret_id);
    n->file = node_ref(file);
    n->filename = g_strdup(file->filename);
    if (!qcow2_open(n, options, &how, error)) {
        node_unref(file);
        g_free(n->filename);
        g_free(n->backing_name);
        g_free(n->backing_format);
        g_free(n);
        return false;
    }
    bool ok = preallocate(n, 0, size, m.preallocation, error);
    int r = qcow2_barrier(QCOW2(n));
    node_unref(n);
    return ok && (!r || fail_errno(error, -r, "'%s'", file->filename));
}

static bool qcow2_measure(u64 size, u64 data, struct dict *o, struct image_measure *ret,
                          GError **error)
{
    struct make m;

    if (!make_options(o, &m, error))
        return false;
    u64 cluster = BIT(m.cluster_bits);
    size = ROUND_UP(size, cluster);
    u64 per_l2 = cluster / (m.extended ? 16 : 8), clusters = size >> m.cluster_bits;
    u64 l2 = (clusters + per_l2 - 1) / per_l2;
    struct layout l = layout_of(&m, size, l2 + clusters);

    if (l.l1_entries * 8 > L1_BYTES_MAX)
        return fail(error, ERR_LIMIT,
                    "The image size is too large (try using a larger cluster size)");
    u64 meta = (1 + l.table + l.blocks + l.l1 + crypt_clusters(&m) + l2) * cluster;
    ret->fully_allocated = meta + size;
    ret->required = meta + ROUND_UP(data, cluster);
    ret->has_bitmaps = m.version > 2;
    return true;
}

/* --- changing --------------------------------------------------------------------------------
 */

/* An L1 table with room for `need` entries. REQUIRES(q->flush_lock), and alone */
static int grow_l1(struct qcow2 *q, u64 need, u64 size)
{
    u64 entries = MAX(need, q->l1_size), at = q->l1_at, old_at = q->l1_at;
    u32 old_size = q->l1_size;
    int r = 0;

    if (need > L1_BYTES_MAX / 8)
        return -EFBIG;
    if (need > q->l1_size) {
        g_autofree be64 *raw = g_try_malloc0(ROUND_UP(entries * 8, q->cluster));
        u64 *l1 = g_try_new0(u64, entries);

        if (!raw || !l1) {
            g_free(l1);
            return -ENOMEM;
        }
        memcpy(l1, q->l1, q->l1_size * 8ull);
        for (u32 i = 0; i < q->l1_size; i++)
            raw[i] = be64_of(l1[i]);
        r = qcow2_alloc_exactly(q, (entries * 8 + q->cluster - 1) >> q->cluster_bits, &at);
        if (!r)
            r = node_pwrite(q->node.file, at, raw, ROUND_UP(entries * 8, q->cluster));
        if (r) {
            g_free(l1);
            return r;
        }
        g_free(q->l1);
        q->l1 = l1;
        pthread_mutex_unlock(&q->lock);
        r = qcow2_barrier(q); /* its clusters' counts */
        pthread_mutex_lock(&q->lock);
        if (r)
            return r;
    }
    struct {
        be64 size;
        be32 crypt_method, l1_size;
        be64 l1_at;
    } __attribute__((packed))
    h = { be64_of(size), be32_of(q->crypt_method), be32_of((u32)entries), be64_of(at) };
    r = qcow2_header_put(q, offsetof(struct qcow2_header, size), &h, sizeof h);
    if (!r)
        r = node_flush(q->node.file);
    if (r)
        return r;
    q->l1_size = (u32)entries;
    q->l1_at = at;
    if (at != old_at)
        qcow2_free_later(q, old_at, old_size * 8ull);
    return 0;
}

static bool qcow2_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };
    struct qcow2 *q = QCOW2(n);
    struct range range = { .at = 0, .end = UINT64_MAX, .alone = true };
    u64 old = n->size;
    u32 mode = 0;

    while (preallocation && modes[mode] && strcmp(modes[mode], preallocation) != 0)
        mode++;
    if (!modes[mode])
        return fail(error, ERR_ARGUMENT, "Unsupported preallocation mode '%s'", preallocation);
    if (size % 512)
        return fail(error, ERR_ARGUMENT, "The new size must be a multiple of 512");
    if (size > INT64_MAX - q->cluster)
        return fail(error, ERR_LIMIT, "'%s': too large", n->filename);
    if (q->snaps->len && q->version < 3)
        return fail(error, ERR_UNSUPPORTED,
                    "Can't resize a version 2 image which has snapshots");
    int r = 0;
    if (size < old) {
        /* The bytes that stay in the last cluster; then what lies behind is given up. */
        u64 end = MIN(ROUND_UP(size, q->cluster), old);

        if (end > size)
            r = node_zero(n, size, end - size, false);
        if (!r && end < old)
            r = qcow2_discard(n, end, old - end);
        if (!r)
            r = qcow2_barrier(q);
    }
    pthread_mutex_lock(&q->lock);
    ranges_enter(&q->ranges, &q->lock, &range);
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_lock(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
    u64 need = (size + qcow2_l2_coverage(q) - 1) / qcow2_l2_coverage(q);
    if (!r)
        r = grow_l1(q, need, size);
    if (!r)
        n->size = size;
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&q->flush_lock);
    pthread_mutex_lock(&q->lock);
    ranges_leave(&q->ranges, &range);
    pthread_mutex_unlock(&q->lock);
    /* What the backing file has behind the old end must not show. */
    if (!r && n->backing && size > old && n->backing->size > old)
        r = node_zero(n, old, MIN(size, (u64)n->backing->size) - old, true);
    if (!r && q->node.data_file && q->autoclear & AUTOCLEAR_DATA_FILE_RAW &&
        !node_truncate(q->node.data_file, size, error))
        return false;
    if (!r)
        r = qcow2_barrier(q);
    if (r)
        return fail_errno(error, -r, "image '%s': resize", n->filename);
    return !mode || size <= old || preallocate(n, old, size, mode, error);
}

static const struct image_option amend_options[] = {
    { "backing_file", OPTION_STR, "File name of a base image", NULL },
    { "backing_fmt", OPTION_STR, "Image format of the base image", NULL },
    { "compat", OPTION_STR, "Compatibility level (v2 [0.10] or v3 [1.1])", NULL },
    { "data_file", OPTION_STR, "File name of an external data file", NULL },
    { "data_file_raw", OPTION_BOOL, "The external data file must stay valid as a raw image",
      NULL },
    LUKS_AMEND_OPTIONS("encrypt."),
    { "lazy_refcounts", OPTION_BOOL, "Postpone refcount updates", NULL },
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { NULL },
};

static bool amend_compat(struct qcow2 *q, const char *compat, GError **error)
{
    u32 version = !strcmp(compat, "0.10") || !strcmp(compat, "v2")  ? 2
                  : !strcmp(compat, "1.1") || !strcmp(compat, "v3") ? 3
                                                                    : 0;
    struct qcow2_header h = { 0 };

    if (!version)
        return fail(error, ERR_ARGUMENT, "Unknown compatibility level %s", compat);
    if (version == q->version)
        return true;
    if (version < q->version)
        return fail(error, ERR_UNSUPPORTED,
                    "going back to compatibility level 0.10 is not "
                    "there; convert the image");
    int r = node_pread(q->node.file, 0, &h, HEADER_V2);
    h.version = be32_of(3);
    h.refcount_order = be32_of(4);
    h.header_length = be32_of(sizeof h);
    q->version = 3;
    q->header_length = sizeof h;
    g_autoptr(GByteArray) b = make_header(&h, sizeof h, q->extensions, q->node.backing_name,
                                          q->node.backing_format, error);
    if (!b)
        return false;
    if (!r)
        r = node_pwrite(q->node.file, 0, b->data, b->len);
    if (!r)
        r = node_flush(q->node.file);
    return !r || fail_errno(error, -r, "image '%s': header", q->node.filename);
}

static bool qcow2_amend(struct node *n, struct dict *o, bool force, GError **error)
{
    struct qcow2 *q = QCOW2(n);
    const char *compat = dict_str(o, "compat"), *backing = dict_str(o, "backing_file"),
               *backing_format = dict_str(o, "backing_fmt");

    if (!qcow2_crypt_amend(q, o, force, error) || (compat && !amend_compat(q, compat, error)))
        return false;
    if (dict_has(o, "lazy_refcounts")) {
        bool lazy = dict_bool(o, "lazy_refcounts", false);

        if (lazy && q->version < 3)
            return fail(error, ERR_ARGUMENT,
                        "Lazy refcounts only supported with compatibility level 1.1 and above "
                        "(use compat=1.1 or greater)");
        q->compatible = lazy ? q->compatible | COMPAT_LAZY_REFCOUNTS
                             : q->compatible & ~(u64)COMPAT_LAZY_REFCOUNTS;
        if (!qcow2_header_rewrite(q, error))
            return false;
    }
    if (backing || backing_format) {
        const char *name = backing ? *backing ? backing : NULL : n->backing_name;

        if (!qcow2_set_backing(n, name, backing_format ? backing_format : n->backing_format,
                               error))
            return false;
    }
    if (dict_has(o, "size")) {
        u64 size = dict_size(o, "size", 0, INT64_MAX);
        return qcow2_resize(n, size, NULL, error);
    }
    return true;
}

/* --- describing ------------------------------------------------------------------------------
 */

static void describe_bitmaps(struct qcow2 *q, GPtrArray *to)
{
    u64 at, len;
    g_autoptr(GPtrArray) all = qcow2_bitmaps(q, &at, &len, NULL);

    if (!all || !all->len)
        return;
    struct image_detail *list = image_detail_new(to, "bitmaps", DETAIL_LIST);
    for (guint i = 0; i < all->len; i++) {
        const struct qcow2_bitmap *b = all->pdata[i];
        struct image_detail *d = image_detail_new(list->members, "", DETAIL_DICT);
        struct image_detail *f = image_detail_new(d->members, "flags", DETAIL_LIST);

        if (b->flags & QCOW2_BITMAP_IN_USE)
            image_detail_str(f->members, "", "in-use");
        if (b->flags & QCOW2_BITMAP_AUTO)
            image_detail_str(f->members, "", "auto");
        image_detail_str(d->members, "name", b->name);
        image_detail_int(d->members, "granularity", (s64)BIT(b->granularity_bits));
    }
}

static void qcow2_info(struct node *n, struct image_info *i)
{
    struct qcow2 *q = QCOW2(n);
    GPtrArray *d = i->details = image_details_new();

    i->has_dirty = true;
    i->dirty = q->incompatible & INCOMPAT_DIRTY;
    i->encrypted = q->crypt_method;
    image_detail_str(d, "compat", q->version > 2 ? "1.1" : "0.10");
    if (q->version < 3) {
        image_detail_str(d, "compression-type", q->compression ? "zstd" : "zlib");
        image_detail_int(d, "refcount-bits", 1 << q->refcount_order);
        qcow2_crypt_describe(q, d);
        return;
    }
    for (guint k = 0; k < q->extensions->len; k++) {
        const struct qcow2_extension *e = q->extensions->pdata[k];

        if (e->type == EXT_DATA_FILE) {
            g_autofree char *name = g_strndup((const char *)e->data, e->len);
            image_detail_str(d, "data-file", name);
        }
    }
    image_detail_str(d, "compression-type", q->compression ? "zstd" : "zlib");
    image_detail_bool(d, "lazy-refcounts", q->compatible & COMPAT_LAZY_REFCOUNTS);
    describe_bitmaps(q, d);
    image_detail_int(d, "refcount-bits", 1 << q->refcount_order);
    qcow2_crypt_describe(q, d);
    image_detail_bool(d, "corrupt", q->incompatible & INCOMPAT_CORRUPT);
    if (q->incompatible & INCOMPAT_DATA_FILE)
        image_detail_bool(d, "data-file-raw", q->autoclear & AUTOCLEAR_DATA_FILE_RAW);
    image_detail_bool(d, "extended-l2", q->incompatible & INCOMPAT_EXTENDED_L2);
}

const struct driver format_qcow2 = {
    .name = "qcow2",
    .kind = FORMAT,
    .size = sizeof(struct qcow2),
    .backing = true,
    .new_is_zero = true,
    .probe = qcow2_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .read = qcow2_read,
    .write = qcow2_write,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .status = qcow2_status,
    .write_compressed = qcow2_write_compressed,
    .create_options = create_options,
    .create = qcow2_create,
    .resize = qcow2_resize,
    .amend_options = amend_options,
    .amend = qcow2_amend,
    .set_backing = qcow2_set_backing,
    .make_empty = qcow2_make_empty,
    .info = qcow2_info,
    .check = qcow2_check,
    .measure = qcow2_measure,
    .snapshots = &qcow2_snapshot_ops,
    .bitmaps = &qcow2_bitmap_ops,
};
