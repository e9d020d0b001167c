// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_file.c - a file that takes the output (and may give input), a pair of named pipes,
 * and null.
 *
 * pipe: PATH.in and PATH.out if both exist (named from our side: we read PATH.in), else PATH
 * for both directions.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/backend/chardev_impl.h"

static const struct chardev_ops file_ops = { .kind = "file" };
static const struct chardev_ops pipe_ops = { .kind = "pipe" };
static const struct chardev_ops null_ops = { .kind = "null" };

struct chardev *chardev_open_file(struct vm *vm, const char *id, struct keyval *kv,
                                  GError **error)
{
    const char *path = keyval_str(kv, "path"), *input = keyval_str(kv, "input-path");
    bool append = keyval_bool(kv, "append", false);
    g_autofd in = -1;

    if (!path)
        keyval_refuse(kv, "Parameter 'path' is missing");
    if (!keyval_done(kv, error))
        return NULL;
    /* Non-blocking: a named pipe without a reader must not hang us. */
    g_autofd out =
        open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | (append ? O_APPEND : O_TRUNC),
             0666);
    if (out < 0)
        return fail_errno(error, errno, "%s", path), NULL;
    if (input) {
        in = open(input, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (in < 0)
            return fail_errno(error, errno, "%s", input), NULL;
    }

    struct chardev *c = chardev_alloc(vm, &file_ops, sizeof *c, id);
    c->fd_out = fd_steal(&out);
    c->fd_in = fd_steal(&in);
    c->open = true;
    chardev_start(c);
    return c;
}

struct chardev *chardev_open_pipe(struct vm *vm, const char *id, struct keyval *kv,
                                  GError **error)
{
    const char *path = keyval_str(kv, "path");

    if (!path)
        keyval_refuse(kv, "Parameter 'path' is missing");
    if (!keyval_done(kv, error))
        return NULL;

    g_autofree char *in_path = g_strconcat(path, ".in", NULL);
    g_autofree char *out_path = g_strconcat(path, ".out", NULL);
    /* For both directions: then neither side's open waits, and there is never an end of file.
     */
    g_autofd in = open(in_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    g_autofd out = open(out_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (in < 0 || out < 0) {
        fd_close(&in);
        fd_close(&out);
        in = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (in < 0)
            return fail_errno(error, errno, "%s", path), NULL;
        out = in;
    }

    struct chardev *c = chardev_alloc(vm, &pipe_ops, sizeof *c, id);
    c->fd_in = in;
    c->fd_out = out;
    in = out = -1;
    c->open = true;
    chardev_set_describe(c, "pipe:%s", path);
    chardev_start(c);
    return c;
}

struct chardev *chardev_open_null(struct vm *vm, const char *id, struct keyval *kv,
                                  GError **error)
{
    if (!keyval_done(kv, error))
        return NULL;
    struct chardev *c = chardev_alloc(vm, &null_ops, sizeof *c, id);
    c->open = true;
    chardev_start(c);
    return c;
}
