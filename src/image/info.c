// SPDX-License-Identifier: GPL-2.0-or-later
/* info.c - what an image is, checking and changing it.  See image.h. */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "image/graph_impl.h"

/* --- details ---------------------------------------------------------------------------------
 */

static void detail_free(void *p)
{
    struct image_detail *d = p;

    g_free(d->name);
    g_free(d->text);
    if (d->members)
        g_ptr_array_unref(d->members);
    g_free(d);
}

GPtrArray *image_details_new(void)
{
    return g_ptr_array_new_with_free_func(detail_free);
}

struct image_detail *image_detail_new(GPtrArray *to, const char *name, int type)
{
    struct image_detail *d = g_new0(struct image_detail, 1);

    d->name = g_strdup(name);
    d->type = type;
    if (type == DETAIL_LIST || type == DETAIL_DICT)
        d->members = image_details_new();
    g_ptr_array_add(to, d);
    return d;
}

void image_detail_str(GPtrArray *to, const char *name, const char *value)
{
    image_detail_new(to, name, DETAIL_STR)->text = g_strdup(value);
}

void image_detail_int(GPtrArray *to, const char *name, s64 value)
{
    image_detail_new(to, name, DETAIL_INT)->number = value;
}

void image_detail_bool(GPtrArray *to, const char *name, bool value)
{
    image_detail_new(to, name, DETAIL_BOOL)->number = value;
}

/* --- info ------------------------------------------------------------------------------------
 */

void image_info_free(struct image_info *i)
{
    if (!i)
        return;
    g_free(i->filename);
    g_free(i->format);
    g_free(i->backing_filename);
    g_free(i->full_backing_filename);
    g_free(i->backing_format);
    if (i->snapshots)
        g_ptr_array_unref(i->snapshots);
    if (i->details)
        g_ptr_array_unref(i->details);
    g_free(i);
}

static bool actual_size(struct node *n, u64 *sum)
{
    struct stat st;

    if (n->drv->kind == PROTOCOL) {
        if (stat(n->filename, &st) < 0)
            return false;
        *sum += (u64)st.st_blocks * 512;
        return true;
    }
    if (n->data_file && !actual_size(n->data_file, sum))
        return false;
    return n->file && actual_size(n->file, sum);
}

struct image_info *node_get_info(struct node *n)
{
    struct image_info *i = g_new0(struct image_info, 1);

    i->filename = g_strdup(n->filename);
    i->format = g_strdup(n->drv->name);
    i->virtual_size = n->size;
    i->has_actual_size = actual_size(n, &i->actual_size);
    i->cluster_size = n->cluster;
    if (n->backing_name) {
        i->backing_filename = g_strdup(n->backing_name);
        i->full_backing_filename = node_sibling(n->filename, n->backing_name);
        i->backing_format = g_strdup(n->backing_format);
    }
    if (n->drv->info)
        n->drv->info(n, i);
    if (n->drv->snapshots) {
        i->snapshots = n->drv->snapshots->list(n);
    }
    return i;
}

struct image_info *image_get_info(struct image *img)
{
    return node_get_info(img->node);
}

const char *image_format(const struct image *img)
{
    return img->node->drv->name;
}

u32 image_cluster_size(const struct image *img)
{
    return img->node->cluster;
}

bool image_can_compress(const struct image *img)
{
    return img->node->drv->write_compressed != NULL;
}

bool image_new_is_zero(const struct image *img)
{
    return img->node->drv->new_is_zero;
}

bool image_has_backing(const struct image *img)
{
    return img->node->backing_name != NULL;
}

bool image_format_known(const char *name)
{
    const struct driver *drv = driver_find(name);

    return drv && drv->open;
}

static int by_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *image_formats(bool create)
{
    GPtrArray *a = g_ptr_array_new();

    for (u32 i = 0; drivers[i]; i++) {
        if (drivers[i]->open && (!create || drivers[i]->create))
            g_ptr_array_add(a, (void *)drivers[i]->name);
    }
    g_ptr_array_sort(a, by_text);
    return a;
}

bool image_cache_from_text(const char *text, enum image_cache *ret)
{
    static const char *const names[] = { [IMAGE_WRITEBACK] = "writeback",
                                         [IMAGE_NONE] = "none",
                                         [IMAGE_WRITETHROUGH] = "writethrough",
                                         [IMAGE_DIRECTSYNC] = "directsync",
                                         [IMAGE_UNSAFE] = "unsafe" };

    for (u32 i = 0; i < ARRAY_LEN(names); i++) {
        if (!strcmp(names[i], text)) {
            *ret = i;
            return true;
        }
    }
    if (!strcmp(text, "off")) {
        *ret = IMAGE_NONE;
        return true;
    }
    return false;
}

/* --- changing --------------------------------------------------------------------------------
 */

#define NEEDS(img, op, what)                                                                   \
    do {                                                                                       \
        if (!(img)->node->drv->op)                                                             \
            return fail(error, ERR_UNSUPPORTED,                                                \
                        "image '%s': format %s does not support " what, (img)->node->filename, \
                        (img)->node->drv->name);                                               \
    } while (0)

bool image_check(struct image *img, enum image_repair how, struct image_check *ret,
                 GError **error)
{
    NEEDS(img, check, "checks");
    return img->node->drv->check(img->node, how, ret, error);
}

static bool writable(struct image *img, GError **error)
{
    return !img->read_only ||
           fail(error, ERR_IO, "image '%s' is open for reading only", img->node->filename);
}

bool image_resize(struct image *img, u64 size, const char *preallocation, GError **error)
{
    NEEDS(img, resize, "resizing");
    return writable(img, error) && node_bitmaps_resizable(img->node, error) &&
           img->node->drv->resize(img->node, size, preallocation, error) &&
           node_bitmaps_resize(img->node, error);
}

bool image_amend(struct image *img, struct dict *options, bool force, GError **error)
{
    g_autodict o = options;

    NEEDS(img, amend, "amending its options");
    return writable(img, error) && img->node->drv->amend(img->node, o, force, error) &&
           dict_done(o, img->node->drv->name, error);
}

bool image_set_backing(struct image *img, const char *name, const char *format, GError **error)
{
    NEEDS(img, set_backing, "backing files");
    if (!writable(img, error) || !img->node->drv->set_backing(img->node, name, format, error))
        return false;
    g_free(img->node->backing_name);
    g_free(img->node->backing_format);
    img->node->backing_name = g_strdup(name);
    img->node->backing_format = g_strdup(format);
    return true;
}

bool image_make_empty(struct image *img, GError **error)
{
    NEEDS(img, make_empty, "emptying");
    return writable(img, error) && img->node->drv->make_empty(img->node, error);
}

/* --- snapshots -------------------------------------------------------------------------------
 */

void image_snapshot_free(struct image_snapshot *s)
{
    if (!s)
        return;
    g_free(s->id);
    g_free(s->name);
    g_free(s);
}

GPtrArray *image_snapshots(struct image *img)
{
    return img->node->drv->snapshots ? img->node->drv->snapshots->list(img->node) : NULL;
}

bool image_snapshot_create(struct image *img, const struct image_snapshot *s, GError **error)
{
    NEEDS(img, snapshots, "internal snapshots");
    return writable(img, error) && img->node->drv->snapshots->create(img->node, s, error);
}

bool image_snapshot_remove(struct image *img, const char *id, GError **error)
{
    NEEDS(img, snapshots, "internal snapshots");
    return writable(img, error) && img->node->drv->snapshots->remove(img->node, id, error);
}

bool image_snapshot_apply(struct image *img, const char *id, GError **error)
{
    NEEDS(img, snapshots, "internal snapshots");
    if (graph_bitmap_count(img->node))
        return fail(error, ERR_BUSY, "Device has active dirty bitmaps");
    return writable(img, error) && img->node->drv->snapshots->apply(img->node, id, error);
}

/* --- dirty bitmaps ---------------------------------------------------------------------------
 */

bool image_keeps_bitmaps(const struct image *img)
{
    struct bitmap none = { 0 };
    const struct bitmap_ops *ops = img->node->drv->bitmaps;

    return ops && ops->can_store(img->node, &none, NULL);
}

bool image_bitmap_get(struct image *img, u32 i, struct image_bitmap *ret)
{
    struct bitmap_info b;

    if (i >= graph_bitmap_count(img->node))
        return false;
    graph_bitmap_info(img->node, i, &b);
    *ret = (struct image_bitmap){ b.name, b.granularity, b.recording, b.inconsistent };
    return true;
}

bool image_bitmap_add(struct image *img, const char *name, u64 granularity, bool disabled,
                      GError **error)
{
    struct bitmap_args a = {
        .name = name, .granularity = granularity, .disabled = disabled, .persistent = true
    };

    return node_bitmap_add(img->node, &a, error);
}

bool image_bitmap_remove(struct image *img, const char *name, GError **error)
{
    struct bitmap *m = node_bitmap(img->node, name, BITMAP_INCONSISTENT, error);

    if (!m || !img->node->drv->bitmaps->remove(img->node, name, error))
        return false;
    node_bitmap_take(img->node, m);
    bitmap_free(m);
    return true;
}

bool image_bitmap_clear(struct image *img, const char *name, GError **error)
{
    struct bitmap *m = node_bitmap(img->node, name, 0, error);

    if (m)
        bits_reset(&m->bits, 0, m->bits.size);
    return m;
}

bool image_bitmap_enable(struct image *img, const char *name, bool on, GError **error)
{
    struct bitmap *m = node_bitmap(img->node, name, 0, error);

    if (m)
        m->recording = on;
    return m;
}

bool image_bitmap_merge(struct image *img, const char *name, struct image *from,
                        const char *source, GError **error)
{
    struct bitmap *to = node_bitmap(img->node, name, 0, error);
    struct bitmap *m = to ? node_bitmap(from->node, source, BITMAP_READONLY, error) : NULL;

    if (!m)
        return false;
    if (m->bits.size != to->bits.size)
        return fail(error, ERR_ARGUMENT, "Bitmaps are of different sizes and can't be merged");
    bits_merge(&to->bits, &m->bits);
    return true;
}

bool image_bitmaps_store(struct image *img, GError **error)
{
    const struct bitmap_ops *ops = img->node->drv->bitmaps;

    return !ops || img->node->read_only || ops->store(img->node, error);
}

u64 image_bitmaps_space(struct image *img, u64 cluster)
{
    const struct bitmap_ops *ops = img->node->drv->bitmaps;

    return ops ? ops->space(img->node, cluster) : 0;
}
