// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file.c - the bottom of every image: a regular file or a block device of the host.
 *
 * A file whose length is no multiple of 512 reads as zeroes up to the next one; a write there
 * makes it longer.  With cache=none and directsync, requests that are not aligned as direct I/O
 * wants them go through a second, buffered descriptor: the kernel keeps the two coherent.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/node.h"

enum { DIRECT_ALIGN = 4096, PIECES = 64, ZERO_CHUNK = 256 * 1024 };

struct file {
    struct node node;
    int fd, direct_fd; /* direct_fd: -1 without O_DIRECT */
    bool block_dev;
    bool sync_writes, no_flush, discard;
};

static bool aligned(u64 at, u64 len, const struct cursor *c)
{
    if ((at | len) % DIRECT_ALIGN)
        return false;
    for (int i = 0; i < c->n; i++) {
        if (((uintptr_t)c->v[i].iov_base | c->v[i].iov_len) % DIRECT_ALIGN)
            return false;
    }
    return true;
}

static int fd_for(const struct file *f, u64 at, u64 len, const struct cursor *c)
{
    return f->direct_fd >= 0 && aligned(at, len, c) ? f->direct_fd : f->fd;
}

static int file_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct file *f = container_of(n, struct file, node);
    int fd = fd_for(f, at, len, c);

    while (len) {
        struct iovec v[PIECES];
        int k = cursor_peek(c, len, v, PIECES);
        ssize_t r = preadv(fd, v, k, (s64)at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno == EINVAL && fd == f->direct_fd) { /* the end of an odd file */
            fd = f->fd;
            continue;
        }
        if (r < 0)
            return -errno;
        if (r == 0) {
            cursor_zero(c, len);
            break;
        }
        cursor_advance(c, (size_t)r);
        at += (u64)r;
        len -= (u64)r;
    }
    return 0;
}

static int file_flush(struct node *n)
{
    struct file *f = container_of(n, struct file, node);

    return f->no_flush || fdatasync(f->fd) == 0 ? 0 : -errno;
}

static int file_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct file *f = container_of(n, struct file, node);
    int fd = fd_for(f, at, len, c);

    while (len) {
        struct iovec v[PIECES];
        int k = cursor_peek(c, len, v, PIECES);
        ssize_t r = pwritev(fd, v, k, (s64)at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && errno == EINVAL && fd == f->direct_fd) {
            fd = f->fd;
            continue;
        }
        if (r <= 0)
            return r ? -errno : -EIO;
        cursor_advance(c, (size_t)r);
        at += (u64)r;
        len -= (u64)r;
    }
    return f->sync_writes ? file_flush(n) : 0;
}

static bool try_fallocate(const struct file *f, int mode, u64 at, u64 len)
{
    int r;

    do
        r = fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (s64)at, (s64)len);
    while (r < 0 && errno == EINTR);
    return r == 0;
}

static int file_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    static const u8 zeroes[ZERO_CHUNK];
    struct file *f = container_of(n, struct file, node);

    if ((may_unmap && try_fallocate(f, FALLOC_FL_PUNCH_HOLE, at, len)) ||
        try_fallocate(f, FALLOC_FL_ZERO_RANGE, at, len))
        return f->sync_writes ? file_flush(n) : 0;
    while (len) {
        struct iovec v = { (void *)zeroes, MIN(len, sizeof zeroes) };
        struct cursor c = { &v, 1 };
        u64 part = v.iov_len;
        int r = file_write(n, at, part, &c);

        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

static int file_discard(struct node *n, u64 at, u64 len)
{
    struct file *f = container_of(n, struct file, node);

    if (f->discard)
        try_fallocate(f, FALLOC_FL_PUNCH_HOLE, at, len); /* a hint: it may fail */
    return 0;
}

static void file_close(struct node *n)
{
    struct file *f = container_of(n, struct file, node);

    fd_close(&f->fd);
    fd_close(&f->direct_fd);
    g_free(f);
}

static const struct node_ops file_ops = { .read = file_read,
                                          .write = file_write,
                                          .zero = file_zero,
                                          .discard = file_discard,
                                          .flush = file_flush,
                                          .close = file_close };

static bool file_setup(struct file *f, const char *path, bool write, bool direct,
                       GError **error)
{
    int mode =
        (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK; /* a FIFO must not hang us */
    struct stat st;

    f->fd = open(path, mode);
    if (f->fd < 0)
        return fail_errno(error, errno, "image '%s'", path);
    if (fstat(f->fd, &st) < 0)
        return fail_errno(error, errno, "image '%s'", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fail(error, ERR_ARGUMENT, "image '%s' is neither a file nor a block device",
                    path);
    f->block_dev = S_ISBLK(st.st_mode);

    s64 size = lseek(f->fd, 0, SEEK_END);
    int dev_ro = 0;
    if (size < 0)
        return fail_errno(error, errno, "image '%s': size", path);
    if (write && f->block_dev && ioctl(f->fd, BLKROGET, &dev_ro) == 0 && dev_ro)
        return fail(error, ERR_IO, "image '%s': the block device is read-only", path);
    f->node.size = ROUND_UP((u64)size, 512);
    if (direct) {
        f->direct_fd = open(path, mode | O_DIRECT);
        if (f->direct_fd < 0)
            return fail_errno(
                error, errno,
                "image '%s': its file system has no direct I/O, so cache=none and "
                "cache=directsync cannot be had",
                path);
    }
    return lock_file(f->fd, path, write, error);
}

struct node *file_open(const char *path, bool write, enum image_cache cache, bool discard,
                       GError **error)
{
    struct file *f = g_new0(struct file, 1);

    f->node.ops = &file_ops;
    f->fd = f->direct_fd = -1;
    f->sync_writes = cache == IMAGE_WRITETHROUGH || cache == IMAGE_DIRECTSYNC;
    f->no_flush = cache == IMAGE_UNSAFE;
    f->discard = discard;
    if (!file_setup(f, path, write, cache == IMAGE_NONE || cache == IMAGE_DIRECTSYNC, error)) {
        file_close(&f->node);
        return NULL;
    }
    return &f->node;
}
