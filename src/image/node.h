// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * node.h - inside the image library: one layer of an image (a host file, an overlay, later a
 * format), with blocking calls that the pool's threads make, several at a time.
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "base/types.h"
#include "image/image.h"

/* What is left of a request's buffer; the array is the request's own copy and is used up. */
struct cursor {
    struct iovec *v;
    int n;
};
void cursor_advance(struct cursor *, size_t n);
void cursor_zero(struct cursor *, size_t n); /* fills with zeroes, and advances */
/* The next pieces, at most max bytes and `room` pieces; returns how many. */
int cursor_peek(const struct cursor *, size_t max, struct iovec *to, int room);

struct node;
struct node_ops {
    /* 0 or -errno. at..at+len is inside node->size. Exactly len bytes are taken off the cursor.
     */
    int (*read)(struct node *, u64 at, u64 len, struct cursor *);
    int (*write)(struct node *, u64 at, u64 len, struct cursor *);
    int (*zero)(struct node *, u64 at, u64 len, bool may_unmap);
    int (*discard)(struct node *, u64 at, u64 len);
    int (*flush)(struct node *);
    void (*close)(struct node *);
};
struct node {
    const struct node_ops *ops;
    u64 size; /* a multiple of 512 */
};

/* A regular file or a block device, locked as QEMU locks it. */
struct node *file_open(const char *path, bool write, enum image_cache cache, bool discard,
                       GError **error);
/* Takes base over. All writes go to an unlinked temporary file. */
struct node *overlay_open(struct node *base, GError **error);

/* The format that the first (and, where it matters, last) bytes announce; "raw" when none. */
const char *probe_format(const u8 *head, size_t n_head, const u8 *tail, size_t n_tail);
bool probe_known(const char *format); /* is it the name of a format at all? */

/* QEMU's lock bytes on an open file description, see lock.c. Released when it is closed. */
bool lock_file(int fd, const char *path, bool write, GError **error);
