// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * raw.c - the bytes as they are; offset= and size= cut a window out of them.
 *
 * A file whose length is no multiple of 512 reads as zeroes up to the next one; a write there
 * makes it longer.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"

struct raw {
    struct node node;
    u64 offset;
    bool window; /* with an end that is ours */
};

static int raw_probe(const u8 *head UNUSED, size_t n_head UNUSED, const u8 *tail UNUSED,
                     size_t n_tail UNUSED, const char *filename UNUSED)
{
    return 1; /* when nobody else wants it */
}

static bool raw_open(struct node *n, struct dict *o, const struct open_how *how UNUSED,
                     GError **error)
{
    struct raw *r = container_of(n, struct raw, node);
    u64 have = n->file->size;

    r->offset = dict_size(o, "offset", 0, INT64_MAX);
    r->window = dict_has(o, "size");
    u64 size = dict_size(o, "size", 0, INT64_MAX);
    if (r->offset > have || (r->window && size > have - r->offset))
        return fail(error, ERR_ARGUMENT,
                    "image '%s': offset and size lie outside of its %" G_GUINT64_FORMAT
                    " bytes",
                    n->filename, have);
    n->size = r->window ? size & ~511ull : ROUND_UP(have - r->offset, 512);
    return true;
}

static int raw_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return node_read(n->file, at + container_of(n, struct raw, node)->offset, len, c);
}

static int raw_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return node_write(n->file, at + container_of(n, struct raw, node)->offset, len, c);
}

static int raw_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    return node_zero(n->file, at + container_of(n, struct raw, node)->offset, len, may_unmap);
}

static int raw_discard(struct node *n, u64 at, u64 len)
{
    return node_discard(n->file, at + container_of(n, struct raw, node)->offset, len);
}

static int raw_flush(struct node *n)
{
    return node_flush(n->file);
}

static int raw_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    return node_status(n->file, at + container_of(n, struct raw, node)->offset, len, ret);
}

static bool raw_direct(struct node *n, enum image_op op, u64 at, u64 len, const struct iovec *v,
                       int k, struct direct *ret)
{
    return !container_of(n, struct raw, node)->offset &&
           node_direct(n->file, op, at, len, v, k, ret);
}

static bool raw_start(struct node *n, enum image_op op, u64 at, u64 len, const struct iovec *v,
                      int k, bool fua, node_done *done, void *tag)
{
    return !container_of(n, struct raw, node)->offset &&
           node_start(n->file, op, at, len, v, k, fua, done, tag);
}

static const struct image_option raw_options[] = {
    { "preallocation", OPTION_STR, "Preallocation mode (allowed values: off, falloc, full)",
      NULL },
    { "size", OPTION_SIZE, "Virtual disk size", NULL },
    { NULL },
};

static bool raw_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    const char *preallocation = dict_str(o, "preallocation");

    if (file->size == size && !preallocation)
        return true;
    if (!file->drv->resize)
        return fail(error, ERR_UNSUPPORTED, "'%s': %s cannot be resized", file->filename,
                    file->drv->name);
    return file->drv->resize(file, size, preallocation, error);
}

static bool raw_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct raw *r = container_of(n, struct raw, node);

    if (r->window)
        return fail(error, ERR_UNSUPPORTED, "Cannot resize fixed-size raw disks");
    if (size > INT64_MAX - r->offset)
        return fail(error, ERR_LIMIT, "'%s': too large", n->filename);
    if (!n->file->drv->resize)
        return fail(error, ERR_UNSUPPORTED, "'%s': %s cannot be resized", n->filename,
                    n->file->drv->name);
    if (!n->file->drv->resize(n->file, size + r->offset, preallocation, error))
        return false;
    n->size = ROUND_UP(size, 512);
    return true;
}

static bool raw_measure(u64 size, u64 data UNUSED, struct dict *o UNUSED,
                        struct image_measure *ret, GError **error UNUSED)
{
    ret->required = ret->fully_allocated = size;
    return true;
}

const struct driver format_raw = {
    .name = "raw",
    .kind = FORMAT,
    .size = sizeof(struct raw),
    .new_is_zero = true,
    .probe = raw_probe,
    .open = raw_open,
    .read = raw_read,
    .write = raw_write,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .status = raw_status,
    .direct = raw_direct,
    .start = raw_start,
    .create_options = raw_options,
    .create = raw_create,
    .resize = raw_resize,
    .measure = raw_measure,
};
