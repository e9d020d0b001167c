// SPDX-License-Identifier: GPL-2.0-or-later
/* node.c - operations on a node: bounds, defaults, and small helpers.  See node.h. */
#include "image/node.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

enum { ZERO_CHUNK = 64 * 1024, PIECES = 64 };

int node_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    u64 size = n->size;
    u64 have = at < size ? MIN(len, size - at) : 0;

    if (have) {
        int r = n->drv->read(n, at, have, c);
        if (r)
            return r;
    }
    if (have < len)
        cursor_zero(c, len - have);
    return 0;
}

/* Formats have an end, protocols grow. */
static bool fits(const struct node *n, u64 at, u64 len)
{
    if (n->drv->kind == PROTOCOL)
        return at <= INT64_MAX && len <= INT64_MAX - at;
    return len <= n->size && at <= n->size - len;
}

static void wrote(struct node *n, u64 end)
{
    u64 was = atomic_load_explicit(&n->highest, memory_order_relaxed);

    while (was < end && !atomic_compare_exchange_weak(&n->highest, &was, end))
        ;
}

/* --- those who watch for changes ------------------------------------------------------------
 */

static bool tapped(const struct node *n)
{
    return n->taps[TAP_BITMAPS] || n->taps[TAP_JOB];
}

static void taps_after(struct node *n, u64 at, u64 len, struct range range[TAPS], int count)
{
    while (count-- > 0) {
        if (n->taps[count])
            n->taps[count]->after(n->taps[count], at, len, &range[count]);
    }
}

static int taps_before(struct node *n, u64 at, u64 len, struct range range[TAPS])
{
    for (int i = 0; i < TAPS; i++) {
        struct tap *t = n->taps[i];
        int r = t && t->before ? t->before(t, at, len, &range[i]) : 0;

        if (r) {
            taps_after(n, at, len, range, i);
            return r;
        }
    }
    return 0;
}

/* --- changing -------------------------------------------------------------------------------
 */

int node_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct range range[TAPS];

    if (n->read_only)
        return -EROFS;
    if (!n->drv->write)
        return -ENOTSUP;
    if (!fits(n, at, len))
        return -EINVAL;
    if (!len)
        return 0;
    if (n->detect_zeroes && cursor_is_zero(c, len)) {
        int z = node_zero(n, at, len, n->detect_zeroes == IMAGE_DETECT_UNMAP);
        if (!z)
            cursor_advance(c, len);
        return z;
    }
    bool told = tapped(n);
    int r = told ? taps_before(n, at, len, range) : 0;
    if (r)
        return r;
    r = n->drv->write(n, at, len, c);
    if (!r)
        wrote(n, at + len);
    if (told)
        taps_after(n, at, len, range, TAPS);
    return r;
}

static int write_zeroes(struct node *n, u64 at, u64 len)
{
    static const u8 zeroes[ZERO_CHUNK];

    while (len) {
        struct iovec v[PIECES];
        u64 part = 0;
        int k = 0;

        for (; k < PIECES && part < len; k++) {
            v[k] = (struct iovec){ (void *)zeroes, MIN(len - part, sizeof zeroes) };
            part += v[k].iov_len;
        }
        struct cursor c = { v, k };
        int r = n->drv->write(n, at, part, &c);
        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

int node_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    if (n->read_only)
        return -EROFS;
    if (!n->drv->write)
        return -ENOTSUP;
    if (!fits(n, at, len))
        return -EINVAL;
    if (!len)
        return 0;
    struct range range[TAPS];
    bool told = tapped(n);
    int r = told ? taps_before(n, at, len, range) : 0;
    if (r)
        return r;
    r = n->drv->zero ? n->drv->zero(n, at, len, may_unmap) : -ENOTSUP;
    if (r == -ENOTSUP)
        r = write_zeroes(n, at, len);
    if (!r)
        wrote(n, at + len);
    if (told)
        taps_after(n, at, len, range, TAPS);
    return r;
}

int node_discard(struct node *n, u64 at, u64 len)
{
    if (n->read_only)
        return -EROFS;
    if (!fits(n, at, len))
        return -EINVAL;
    if (!len || !n->discard || !n->drv->discard)
        return 0;
    struct range range[TAPS];
    bool told = tapped(n);
    int r = told ? taps_before(n, at, len, range) : 0;
    if (r)
        return r;
    r = n->drv->discard(n, at, len);
    if (told)
        taps_after(n, at, len, range, TAPS);
    return r;
}

bool node_direct(struct node *n, enum image_op op, u64 at, u64 len, const struct iovec *v,
                 int k, struct direct *ret)
{
    if (!n->drv->direct)
        return false;
    if (op != IMAGE_OP_READ && n->read_only)
        return false;
    if (op == IMAGE_OP_WRITE && (n->detect_zeroes || tapped(n)))
        return false;
    return n->drv->direct(n, op, at, len, v, k, ret);
}

bool node_start(struct node *n, enum image_op op, u64 at, u64 len, const struct iovec *v, int k,
                bool fua, node_done *done, void *tag)
{
    if (!n->drv->start || (op != IMAGE_OP_READ && n->read_only) ||
        (op == IMAGE_OP_WRITE && (n->detect_zeroes || tapped(n))) ||
        (op != IMAGE_OP_FLUSH && (len > n->size || at > n->size - len)))
        return false;
    return n->drv->start(n, op, at, len, v, k, fua, done, tag);
}

void node_direct_wrote(struct node *n, u64 end)
{
    for (; n; n = n->file) /* all at the same place: who has none of its own, has no direct() */
        wrote(n, end);
}

int node_flush(struct node *n)
{
    return n->read_only || !n->drv->flush ? 0 : n->drv->flush(n);
}

int node_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    if (at >= n->size) {
        *ret = (struct extent){ .len = len, .flags = EXTENT_ZERO };
        return 0;
    }
    len = MIN(len, n->size - at);
    *ret = (struct extent){ .len = len, .flags = EXTENT_DATA | EXTENT_ALLOCATED };
    int r = n->drv->status ? n->drv->status(n, at, len, ret) : 0;
    if (!r && (!ret->len || ret->len > len))
        ret->len = len;
    return r;
}

int node_pread(struct node *n, u64 at, void *to, size_t len)
{
    struct iovec v = { to, len };
    struct cursor c = { &v, 1 };

    return node_read(n, at, len, &c);
}

int node_pwrite(struct node *n, u64 at, const void *from, size_t len)
{
    struct iovec v = { (void *)from, len };
    struct cursor c = { &v, 1 };

    return node_write(n, at, len, &c);
}

int node_read_backing(struct node *n, u64 at, u64 len, struct cursor *c)
{
    if (n->backing)
        return node_read(n->backing, at, len, c);
    cursor_zero(c, len);
    return 0;
}

int node_pread_backing(struct node *n, u64 at, void *to, size_t len)
{
    struct iovec v = { to, len };
    struct cursor c = { &v, 1 };

    return node_read_backing(n, at, len, &c);
}

bool node_load(struct node *file, u64 at, void *to, size_t n, const char *what, GError **error)
{
    if (n > file->size || at > file->size - n)
        return fail(error, ERR_FORMAT, "image '%s': %s lies beyond the end of the file",
                    file->filename, what);
    int r = node_pread(file, at, to, n);
    return !r || fail_errno(error, -r, "image '%s': reading %s", file->filename, what);
}

void *node_load_new(struct node *file, u64 at, u64 n, u64 max, const char *what, GError **error)
{
    if (n > max) {
        fail(error, ERR_LIMIT,
             "image '%s': %s has %" G_GUINT64_FORMAT " bytes, at most %" G_GUINT64_FORMAT
             " are taken",
             file->filename, what, n, max);
        return NULL;
    }
    /* Bound by what is there before memory is spent on it. */
    if (n > file->size || at > file->size - n) {
        fail(error, ERR_FORMAT, "image '%s': %s lies beyond the end of the file",
             file->filename, what);
        return NULL;
    }
    g_autofree void *p = g_try_malloc(n ? n : 1);
    if (!p) {
        fail(error, ERR_LIMIT, "image '%s': no memory for %s", file->filename, what);
        return NULL;
    }
    return n && !node_load(file, at, p, n, what, error) ? NULL : g_steal_pointer(&p);
}

bool node_truncate(struct node *n, u64 size, GError **error)
{
    if (n->read_only)
        return fail(error, ERR_IO, "image '%s' is open for reading only", n->filename);
    if (!n->drv->resize)
        return fail(error, ERR_UNSUPPORTED, "image '%s': %s cannot be resized", n->filename,
                    n->drv->name);
    return n->drv->resize(n, size, NULL, error);
}

bool node_is_zero(const void *p, size_t n)
{
    const u8 *b = p;

    /* The ends and the middle first: data seldom begin and end with zeroes. */
    if (!n)
        return true;
    if (b[0] || b[n - 1] || b[n / 2])
        return false;
    return memcmp(b, b + 1, n - 1) == 0;
}
