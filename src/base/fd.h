// SPDX-License-Identifier: GPL-2.0-or-later
/* fd.h - owned file descriptors: g_autofd closes at scope end; -1 means none. */
#pragma once

#include <glib.h>
#include <unistd.h>

#include "base/types.h"

static inline void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
#define g_autofd __attribute__((cleanup(fd_close))) int

static inline int fd_steal(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}

/* Whole-buffer I/O: exactly n bytes or an error that says what happened. at < 0: no seek. */
bool fd_read_all(int fd, void *to, size_t n, s64 at, GError **error);
bool fd_write_all(int fd, const void *from, size_t n, s64 at, GError **error);
