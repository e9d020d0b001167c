// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file.c - the bottom of most images: a regular file ("file") or a block device ("host_device")
 * of the host.
 *
 * With cache=none and directsync, requests that are not aligned as direct I/O wants them go
 * through a second, buffered descriptor: the kernel keeps the two coherent.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/error.h"
#include "base/fd.h"
#include "image/drivers.h"

enum { DIRECT_ALIGN = 4096, PIECES = 64 };

struct file {
    struct node node;
    int fd, direct_fd; /* direct_fd: -1 without O_DIRECT */
    int lock_fd;       /* the description that holds the locks, when it is not fd's: else -1 */
    bool block_dev;
    bool no_flush, ring;
    bool no_holes; /* the file system cannot say where holes are */
    bool no_lock;
    u32 denies; /* PERM_* that others shall not do */
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

static void grown(struct file *f, u64 end)
{
    u64 size = f->node.size;

    while (size < end && !atomic_compare_exchange_weak(&f->node.size, &size, end))
        ;
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
    grown(f, at);
    return 0;
}

static bool file_direct(struct node *n, enum image_op op, u64 at, u64 len,
                        const struct iovec *v, int k, struct direct *ret)
{
    struct file *f = container_of(n, struct file, node);
    const struct cursor c = { (struct iovec *)v, k };

    /* What grows the file, or ends beyond its end, needs a look. */
    if (!f->ring || (op != IMAGE_OP_FLUSH && (len > n->size || at > n->size - len)))
        return false;
    *ret = (struct direct){ op == IMAGE_OP_FLUSH ? f->fd : fd_for(f, at, len, &c), at,
                            f->no_flush };
    return true;
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
    struct file *f = container_of(n, struct file, node);
    u64 size = n->size;

    if (at + len > size) {
        /* Not ftruncate(): another thread may have written beyond that end meanwhile. */
        if (f->block_dev || fallocate(f->fd, 0, (s64)(at + len - 1), 1) < 0)
            return -ENOTSUP;
        grown(f, at + len); /* what is new reads as zeroes */
        if (at >= size && may_unmap)
            return 0;
    }
    if ((may_unmap && try_fallocate(f, FALLOC_FL_PUNCH_HOLE, at, len)) ||
        try_fallocate(f, FALLOC_FL_ZERO_RANGE, at, len))
        return 0;
    return -ENOTSUP;
}

static int file_discard(struct node *n, u64 at, u64 len)
{
    struct file *f = container_of(n, struct file, node);

    if (at < n->size)
        try_fallocate(f, FALLOC_FL_PUNCH_HOLE, at, len); /* a hint: it may fail */
    return 0;
}

static int file_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    struct file *f = container_of(n, struct file, node);
    s64 data, end;

    *ret = (struct extent){
        .len = len, .flags = EXTENT_ALLOCATED | EXTENT_DATA | EXTENT_OFFSET, .host = at, .in = n
    };
    if (f->no_holes)
        return 0;
    data = lseek(f->fd, (s64)at, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        f->no_holes = true;
        return 0;
    }
    if (data < 0 || (u64)data > at) {
        ret->flags = EXTENT_ALLOCATED | EXTENT_ZERO | EXTENT_OFFSET;
        ret->len = data < 0 ? len : MIN(len, (u64)data - at);
        return 0;
    }
    end = lseek(f->fd, (s64)at, SEEK_HOLE);
    if (end > (s64)at)
        ret->len = MIN(len, (u64)end - at);
    return 0;
}

static void file_close(struct node *n)
{
    struct file *f = container_of(n, struct file, node);

    fd_close(&f->fd);
    fd_close(&f->direct_fd);
    fd_close(&f->lock_fd);
}

static bool open_fds(struct file *f, const char *path, const struct open_how *how,
                     GError **error)
{
    bool direct = how->cache == IMAGE_NONE || how->cache == IMAGE_DIRECTSYNC;
    /* O_NONBLOCK: a FIFO must not hang us */
    int mode = (how->write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;
    struct stat st;

    f->fd = open(path, mode);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return fail_errno(error, errno, "Could not open '%s'", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fail(error, ERR_ARGUMENT, "image '%s' is neither a file nor a block device",
                    path);
    f->block_dev = S_ISBLK(st.st_mode);

    s64 size = lseek(f->fd, 0, SEEK_END);
    int dev_ro = 0;
    if (size < 0)
        return fail_errno(error, errno, "image '%s': size", path);
    if (how->write && f->block_dev && ioctl(f->fd, BLKROGET, &dev_ro) == 0 && dev_ro)
        return fail(error, ERR_IO, "image '%s': the block device is read-only", path);
    f->node.size = (u64)size;
    if (direct) {
        f->direct_fd = open(path, mode | O_DIRECT);
        if (f->direct_fd < 0)
            return fail_errno(
                error, errno,
                "image '%s': its file system has no direct I/O, so cache=none and "
                "cache=directsync cannot be had",
                path);
    }
    return true;
}

static bool file_open(struct node *n, struct dict *o, const struct open_how *how,
                      GError **error)
{
    static const char *const lockings[] = { "auto", "on", "off", NULL };
    static const char *const aios[] = {
        [IMAGE_AIO_DEFAULT] = "default",
        [IMAGE_AIO_THREADS] = "threads",
        [IMAGE_AIO_NATIVE] = "native",
        [IMAGE_AIO_IO_URING] = "io_uring",
        NULL,
    };
    struct file *f = container_of(n, struct file, node);
    const char *path = dict_str(o, "filename");
    int locking = dict_enum(o, "locking", lockings, 0);

    f->fd = f->direct_fd = f->lock_fd = -1;
    enum image_aio aio = (enum image_aio)dict_enum(o, "aio", aios, (int)how->aio);
    f->ring = aio != IMAGE_AIO_THREADS;
    f->no_flush = how->cache == IMAGE_UNSAFE;
    u32 does = PERM_READ | (how->write ? PERM_WRITE | PERM_RESIZE : 0);
    f->denies = how->force_share || how->share_rw ? 0 : PERM_WRITE | PERM_RESIZE;
    f->no_lock = locking == 2;
    if (!path)
        return fail(error, ERR_ARGUMENT, "The 'file' block driver requires a file name");
    if (open_fds(f, path, how, error) &&
        (f->no_lock || lock_file(f->fd, path, does, f->denies, error)))
        return true;
    fd_close(&f->fd);
    fd_close(&f->direct_fd);
    return false;
}

static const char *const preallocations[] = { "off", "falloc", "full", NULL };

static bool preallocate(int fd, const char *path, u64 from, u64 to, int how, GError **error)
{
    static const u8 zeroes[64 * 1024];

    if (how == 1) {
        int r = to > from ? posix_fallocate(fd, (s64)from, (s64)(to - from)) : 0;
        return !r || fail_errno(error, r, "Could not preallocate data for '%s'", path);
    }
    for (u64 at = from; how == 2 && at < to;) {
        ssize_t r = pwrite(fd, zeroes, MIN(sizeof zeroes, to - at), (s64)at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return fail_errno(error, r ? errno : EIO, "Could not write zeros to '%s'", path);
        at += (u64)r;
    }
    return how != 2 || fsync(fd) == 0 || fail_errno(error, errno, "'%s'", path);
}

static bool file_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct file *f = container_of(n, struct file, node);
    u64 was = n->size;
    int how = 0;

    while (preallocation && preallocations[how] &&
           strcmp(preallocations[how], preallocation) != 0)
        how++;
    if (!preallocations[how])
        return fail(error, ERR_ARGUMENT, "Unsupported preallocation mode '%s'", preallocation);
    if (f->block_dev)
        return size <= was ||
               fail(error, ERR_UNSUPPORTED, "Cannot grow device files ('%s')", n->filename);
    if (size > INT64_MAX)
        return fail(error, ERR_LIMIT, "'%s': too large", n->filename);
    if (ftruncate(f->fd, (s64)size) < 0)
        return fail_errno(error, errno, "Could not resize '%s'", n->filename);
    n->size = size;
    return preallocate(f->fd, n->filename, MIN(was, size), size, how, error);
}

/* The same file opened once more, in place of *fd. */
static bool open_anew(struct file *f, int *fd, int flags, GError **error)
{
    g_autofd now = open(f->node.filename, O_RDWR | O_CLOEXEC | O_NONBLOCK | flags);
    struct stat a, b;

    if (now < 0 || fstat(now, &a) < 0 || fstat(*fd, &b) < 0)
        return fail_errno(error, errno, "Could not reopen file '%s' for writing",
                          f->node.filename);
    if (a.st_dev != b.st_dev || a.st_ino != b.st_ino)
        return fail(error, ERR_IO, "'%s' is another file than the one that is open",
                    f->node.filename);
    return dup3(now, *fd, O_CLOEXEC) >= 0 || fail_errno(error, errno, "'%s'", f->node.filename);
}

static bool file_set_writable(struct node *n, bool on, GError **error)
{
    struct file *f = container_of(n, struct file, node);
    u32 more = PERM_WRITE | PERM_RESIZE;

    if (!on) {
        n->read_only = true;
        if (!f->no_lock)
            lock_drop(f->lock_fd >= 0 ? f->lock_fd : f->fd, more, 0);
        return true;
    }
    if (!n->opened_rw) {
        /* The locks stay with the description that has them. */
        if (f->lock_fd < 0 && (f->lock_fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0)) < 0)
            return fail_errno(error, errno, "'%s'", n->filename);
        if (!open_anew(f, &f->fd, 0, error) ||
            (f->direct_fd >= 0 && !open_anew(f, &f->direct_fd, O_DIRECT, error)))
            return false;
        n->opened_rw = true;
    }
    int lock_fd = f->lock_fd >= 0 ? f->lock_fd : f->fd;
    if (!f->no_lock && !lock_file(lock_fd, n->filename, PERM_READ | more, f->denies, error)) {
        lock_drop(lock_fd, more, 0);
        return false;
    }
    n->read_only = false;
    return true;
}

static bool file_create(struct dict *o, GError **error)
{
    const char *path = dict_str(o, "filename");

    dict_size(o, "extent_size_hint", 0, UINT32_MAX); /* for XFS: a hint */
    bool nocow = dict_bool(o, "nocow", false);
    if (!path)
        return fail(error, ERR_ARGUMENT, "The 'file' block driver requires a file name");
    /* Not O_TRUNC: whoever uses it must not lose it because we ask. */
    g_autofd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(error, errno, "Could not create '%s'", path);
    if (!S_ISREG(st.st_mode))
        return fail(error, ERR_ARGUMENT, "Could not create '%s': it is not a file", path);
    if (!lock_file(fd, path, PERM_WRITE | PERM_RESIZE, PERM_RESIZE, error))
        return false;
    if (nocow && st.st_size == 0) {
        int attr;

        if (ioctl(fd, FS_IOC_GETFLAGS, &attr) == 0) {
            attr |= FS_NOCOW_FL;
            ioctl(fd, FS_IOC_SETFLAGS, &attr); /* only btrfs knows it */
        }
    }
    return ftruncate(fd, 0) == 0 || fail_errno(error, errno, "Could not resize '%s'", path);
}

static bool file_parse(const char *filename, struct dict *d, GError **error UNUSED)
{
    if (g_str_has_prefix(filename, "file:"))
        filename += 5;
    if (g_str_has_prefix(filename, "//") && filename[2] == '/')
        filename += 2; /* file:///path */
    dict_set(d, "filename", filename);
    return true;
}

static const char *const file_prefixes[] = { "file:", NULL };
static const char *const device_prefixes[] = { "host_device:", NULL };

static bool device_parse(const char *filename, struct dict *d, GError **error UNUSED)
{
    dict_set(d, "filename", filename + strlen(device_prefixes[0]));
    return true;
}

static const struct image_option file_options[] = {
    { "extent_size_hint", OPTION_SIZE, "Extent size hint for the image file, 0 to disable",
      NULL },
    { "nocow", OPTION_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL },
    { NULL },
};

#define FILE_OPS                                                                               \
    .kind = PROTOCOL, .size = sizeof(struct file), .open = file_open, .close = file_close,     \
    .read = file_read, .write = file_write, .zero = file_zero, .discard = file_discard,        \
    .flush = file_flush, .direct = file_direct, .status = file_status, .resize = file_resize,  \
    .set_writable = file_set_writable

const struct driver proto_file = {
    .name = "file",
    FILE_OPS,
    .prefixes = file_prefixes,
    .parse = file_parse,
    .create_options = file_options,
    .create_file = file_create,
};

const struct driver proto_host_device = {
    .name = "host_device",
    FILE_OPS,
    .prefixes = device_prefixes,
    .parse = device_parse,
};
