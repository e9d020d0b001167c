// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image.h - disk images: the door.  Today one format, raw, over a file or block device; the
 * graph of formats, protocols and filters grows behind these calls.
 *
 * Requests are asynchronous: a function returns at once, done(opaque, ret) runs later on one of
 * the image's own threads (never inside the call), ret 0 or -errno.  The caller keeps iov's
 * memory (not the iov array, which is copied) until then.  Offsets and lengths are bytes, any
 * alignment; beyond the end is -EINVAL.  A write is durable after a flush that was issued after
 * its completion has completed.
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "base/types.h"

struct image;

enum image_cache {
    IMAGE_WRITEBACK,
    IMAGE_NONE,
    IMAGE_WRITETHROUGH,
    IMAGE_DIRECTSYNC,
    IMAGE_UNSAFE
};
struct image_options {
    const char *format; /* "raw", or NULL: probe (and refuse what is not raw yet by name) */
    bool read_only;
    bool snapshot; /* writes go to a temporary overlay and are forgotten */
    enum image_cache cache;
    bool discard;
};

typedef void image_done(void *opaque, int ret);

/* Takes the image lock that QEMU takes too (OFD locks); a second writer is refused by name. */
struct image *image_open(const char *path, const struct image_options *, GError **error);
void image_close(struct image *); /* waits for requests under way, flushes */
u64 image_size(const struct image *);
bool image_read_only(const struct image *);
const char *image_path(const struct image *);

void image_read(struct image *, u64 at, const struct iovec *, int n, image_done *,
                void *opaque);
void image_write(struct image *, u64 at, const struct iovec *, int n, bool fua, image_done *,
                 void *opaque);
void image_flush(struct image *, image_done *, void *opaque);
void image_discard(struct image *, u64 at, u64 len, image_done *, void *opaque);
void image_write_zeroes(struct image *, u64 at, u64 len, bool may_unmap, image_done *,
                        void *opaque);
void image_drain(struct image *); /* waits until nothing is under way */
