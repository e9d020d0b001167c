// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * overlay.c - writes that are forgotten: a sparse, unlinked temporary file over a base that is
 * only read.
 *
 * A bitmap says which 4 KiB grains lie in the overlay.  A write that covers part of a grain
 * first copies the grain from the base.  Writes to grains that are not there yet take a lock,
 * so that no copy goes over what another writer has just written.  Flushes go nowhere: nobody
 * will read this file after us.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/drivers.h"

enum { GRAIN = 4096, PIECES = 64 };

struct overlay {
    struct node node;
    int fd;
    pthread_mutex_t lock; /* writes to grains that are not there yet */
    _Atomic u64 *map;     /* one bit a grain */
    u64 map_bytes;
};

static bool have(const struct overlay *o, u64 grain)
{
    return atomic_load(&o->map[grain / 64]) & BIT(grain % 64);
}

static void mark(struct overlay *o, u64 grain)
{
    atomic_fetch_or(&o->map[grain / 64], BIT(grain % 64));
}

/* How many bytes from `at`, at most len, come from the same side as the first one. */
static u64 run_length(const struct overlay *o, u64 at, u64 len, bool ours)
{
    u64 end = at + len, to = ROUND_DOWN(at, GRAIN) + GRAIN;

    while (to < end && have(o, to / GRAIN) == ours)
        to += GRAIN;
    return MIN(to, end) - at;
}

static int own_io(struct overlay *o, u64 at, u64 len, struct cursor *c, bool write)
{
    while (len) {
        struct iovec v[PIECES];
        int k = cursor_peek(c, len, v, PIECES);
        ssize_t r = write ? pwritev(o->fd, v, k, (s64)at) : preadv(o->fd, v, k, (s64)at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0 && write)
            return -EIO;
        if (r == 0) { /* a hole behind the file's end */
            cursor_zero(c, len);
            break;
        }
        cursor_advance(c, (size_t)r);
        at += (u64)r;
        len -= (u64)r;
    }
    return 0;
}

static int overlay_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct overlay *o = container_of(n, struct overlay, node);

    while (len) {
        bool ours = have(o, at / GRAIN);
        u64 part = run_length(o, at, len, ours);
        int r = ours ? own_io(o, at, part, c, false) : node_read(o->node.file, at, part, c);

        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

/* Brings the grain over from the base, unless it is there. REQUIRES(o->lock) */
static int fill(struct overlay *o, u64 grain)
{
    u8 buf[GRAIN];
    u64 at = grain * GRAIN, len = MIN((u64)GRAIN, o->node.size - at);
    struct iovec v = { buf, len };
    struct cursor c = { &v, 1 };
    if (have(o, grain))
        return 0;
    int r = node_read(o->node.file, at, len, &c);
    if (!r) {
        v = (struct iovec){ buf, len };
        c = (struct cursor){ &v, 1 };
        r = own_io(o, at, len, &c, true);
    }
    if (!r)
        mark(o, grain);
    return r;
}

/* Fills the grains at both ends of a range that the range covers in part. REQUIRES(o->lock) */
static int fill_ends(struct overlay *o, u64 at, u64 len)
{
    u64 end = at + len;
    int r = 0;

    if (at % GRAIN)
        r = fill(o, at / GRAIN);
    if (!r && end % GRAIN && end != o->node.size)
        r = fill(o, end / GRAIN);
    return r;
}

static void mark_range(struct overlay *o, u64 at, u64 len)
{
    for (u64 g = at / GRAIN; g <= (at + len - 1) / GRAIN; g++)
        mark(o, g);
}

static int overlay_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct overlay *o = container_of(n, struct overlay, node);

    if (run_length(o, at, len, true) == len && have(o, at / GRAIN))
        return own_io(o, at, len, c, true);

    pthread_mutex_lock(&o->lock);
    int r = fill_ends(o, at, len);
    if (!r)
        r = own_io(o, at, len, c, true);
    if (!r)
        mark_range(o, at, len);
    pthread_mutex_unlock(&o->lock);
    return r;
}

static int overlay_zero(struct node *n, u64 at, u64 len, bool may_unmap UNUSED)
{
    struct overlay *o = container_of(n, struct overlay, node);

    pthread_mutex_lock(&o->lock);
    int r = fill_ends(o, at, len);

    if (!r &&
        fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (s64)at, (s64)len) < 0) {
        static const u8 zeroes[64 * 1024];

        for (u64 done = 0; !r && done < len;) {
            struct iovec v = { (void *)zeroes, MIN(len - done, sizeof zeroes) };
            struct cursor c = { &v, 1 };
            u64 part = v.iov_len;

            r = own_io(o, at + done, part, &c, true);
            done += part;
        }
    }
    if (!r)
        mark_range(o, at, len);
    pthread_mutex_unlock(&o->lock);
    return r;
}

static int overlay_discard(struct node *n UNUSED, u64 at UNUSED, u64 len UNUSED)
{
    return 0;
}

static int overlay_flush(struct node *n UNUSED)
{
    return 0;
}

static int overlay_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    struct overlay *o = container_of(n, struct overlay, node);
    bool ours = have(o, at / GRAIN);
    u64 part = run_length(o, at, len, ours);

    if (!ours)
        return node_status(n->file, at, part, ret);
    *ret = (struct extent){ .len = part, .flags = EXTENT_DATA | EXTENT_ALLOCATED };
    return 0;
}

static void overlay_close(struct node *n)
{
    struct overlay *o = container_of(n, struct overlay, node);

    if (o->map)
        munmap(o->map, o->map_bytes);
    fd_close(&o->fd);
    pthread_mutex_destroy(&o->lock);
}

static int temporary_file(void)
{
    const char *dir = g_getenv("TMPDIR");

    if (!dir || !*dir)
        dir = "/var/tmp"; /* on disk, where /tmp may be memory */
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (fd >= 0)
        return fd;

    g_autofree char *path = g_build_filename(dir, "posada-snapshot-XXXXXX", NULL);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

struct node *overlay_open(struct node *base, GError **error)
{
    struct node *n = node_alloc(&filter_overlay);
    struct overlay *o = container_of(n, struct overlay, node);
    u64 grains = base->size / GRAIN + 1;

    n->size = base->size;
    n->file = base;
    n->filename = g_strdup(base->filename);
    pthread_mutex_init(&o->lock, NULL);
    o->fd = temporary_file();
    if (o->fd < 0) {
        fail_errno(error, errno, "snapshot: no temporary file in $TMPDIR or /var/tmp");
        node_unref(n);
        return NULL;
    }
    o->map_bytes = ROUND_UP(ROUND_UP(grains, 64) / 8, 4096);
    void *map = mmap(NULL, o->map_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        fail_errno(error, errno, "snapshot: no memory for a map of %" G_GUINT64_FORMAT " bytes",
                   o->map_bytes);
        node_unref(n);
        return NULL;
    }
    o->map = map;
    return n;
}

const struct driver filter_overlay = {
    .name = "overlay",
    .kind = FILTER,
    .size = sizeof(struct overlay),
    .close = overlay_close,
    .read = overlay_read,
    .write = overlay_write,
    .zero = overlay_zero,
    .discard = overlay_discard,
    .flush = overlay_flush,
    .status = overlay_status,
};
