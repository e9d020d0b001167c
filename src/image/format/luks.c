// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * luks.c - disks encrypted as LUKS version 1 has it: a header (image/luks.h), then the sectors.
 *
 * Zeroes are encrypted as all else is, and discards do nothing: what is unused does not show.
 * Not done: version 2; a header in a file of its own.
 */
#include "image/luks.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/crypt_io.h"
#include "image/drivers.h"

struct luks_image {
    struct node node;
    struct luks header;  /* the slots change under amend only */
    struct crypt *crypt; /* NULL: opened for its header alone */
    char *secret_id;
    pthread_mutex_t lock; /* the ranges */
    struct ranges ranges;
};

static struct luks_image *luks_of(struct node *n)
{
    return container_of(n, struct luks_image, node);
}

static int probe(const u8 *head, size_t n, const u8 *tail UNUSED, size_t n_tail UNUSED,
                 const char *filename UNUSED)
{
    return luks_probe(head, n);
}

static struct luks_place place(struct node *n)
{
    return (struct luks_place){ .file = n->file, .room = n->file->size };
}

static bool luks_open(struct node *n, struct dict *o, const struct open_how *how,
                      GError **error)
{
    struct luks_image *l = luks_of(n);
    struct luks_place p = place(n);
    const char *id = dict_str(o, "key-secret");

    if (!luks_load(&p, &l->header, error))
        return false;
    if (l->header.payload > n->file->size)
        return fail(error, ERR_FORMAT,
                    "image '%s': its payload lies beyond the end of the file", n->filename);
    if (!(how->no_io && !how->write) &&
        !(l->crypt = luks_unlock(&l->header, &p, id, "key-secret", error)))
        return false;
    l->secret_id = g_strdup(id);
    n->size = ROUND_DOWN(n->file->size - l->header.payload, CRYPT_SECTOR);
    pthread_mutex_init(&l->lock, NULL);
    ranges_init(&l->ranges);
    return true;
}

static void luks_close(struct node *n)
{
    struct luks_image *l = luks_of(n);

    crypt_free(l->crypt);
    g_free(l->secret_id);
    ranges_clear(&l->ranges);
    pthread_mutex_destroy(&l->lock);
}

static int luks_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct luks_image *l = luks_of(n);

    if (!l->crypt)
        return -EIO;
    return crypt_read(l->crypt, n->file, l->header.payload + at, at, len, c);
}

static int luks_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct luks_image *l = luks_of(n);
    struct range range = { .at = ROUND_DOWN(at, CRYPT_SECTOR),
                           .end = ROUND_UP(at + len, CRYPT_SECTOR),
                           .alone = at % CRYPT_SECTOR || len % CRYPT_SECTOR };

    if (!l->crypt)
        return -EIO;
    pthread_mutex_lock(&l->lock);
    ranges_enter(&l->ranges, &l->lock, &range);
    pthread_mutex_unlock(&l->lock);
    int r = crypt_write(l->crypt, n->file, l->header.payload + at, at, len, c);
    pthread_mutex_lock(&l->lock);
    ranges_leave(&l->ranges, &range);
    pthread_mutex_unlock(&l->lock);
    return r;
}

static int luks_flush(struct node *n)
{
    return node_flush(n->file);
}

static const struct image_option create_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    LUKS_CREATE_OPTIONS(""),
    { "preallocation", OPTION_STR, "Preallocation mode (allowed values: off, falloc, full)",
      NULL },
    { NULL },
};
static const struct image_option amend_options[] = { LUKS_AMEND_OPTIONS(""), { NULL } };

static bool resize_file(struct node *file, u64 header, u64 size, const char *preallocation,
                        GError **error)
{
    if (size > INT64_MAX - header)
        return fail(error, ERR_LIMIT, "'%s': The requested file size is too large",
                    file->filename);
    if (file->size == size + header && !preallocation)
        return true;
    if (!file->drv->resize)
        return fail(error, ERR_UNSUPPORTED, "'%s': %s cannot be resized", file->filename,
                    file->drv->name);
    return file->drv->resize(file, size + header, preallocation, error);
}

static bool luks_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    struct luks_new what;

    if (!luks_new_options(o, "", &what, error))
        return false;
    struct luks_place p = { .file = file, .room = luks_new_payload(&what) };
    return resize_file(file, p.room, ROUND_UP(size, CRYPT_SECTOR), dict_str(o, "preallocation"),
                       error) &&
           luks_make(&what, &p, NULL, error);
}

static bool luks_measure(u64 size, u64 data UNUSED, struct dict *o, struct image_measure *ret,
                         GError **error)
{
    struct luks_new what;

    if (!luks_new_options(o, "", &what, error))
        return false;
    dict_str(o, "preallocation");
    ret->required = ret->fully_allocated = size + luks_new_payload(&what);
    return true;
}

static bool luks_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    if (!resize_file(n->file, luks_of(n)->header.payload, size, preallocation, error))
        return false;
    n->size = ROUND_DOWN(size, CRYPT_SECTOR);
    return true;
}

static bool luks_image_amend(struct node *n, struct dict *o, bool force, GError **error)
{
    struct luks_image *l = luks_of(n);
    struct luks_place p = place(n);

    return luks_amend(&l->header, &p, o, "", l->secret_id, force, error);
}

static void luks_info(struct node *n, struct image_info *i)
{
    i->encrypted = true;
    i->has_dirty = true;
    i->details = image_details_new();
    luks_describe(&luks_of(n)->header, false, i->details);
}

const struct driver format_luks = {
    .name = "luks",
    .kind = FORMAT,
    .size = sizeof(struct luks_image),
    .probe = probe,
    .open = luks_open,
    .close = luks_close,
    .read = luks_read,
    .write = luks_write,
    .flush = luks_flush,
    .create_options = create_options,
    .create = luks_create,
    .resize = luks_resize,
    .amend_options = amend_options,
    .amend = luks_image_amend,
    .info = luks_info,
    .measure = luks_measure,
};
