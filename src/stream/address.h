// SPDX-License-Identifier: GPL-2.0-or-later
/* address.h - where a stream begins or ends: TCP, a UNIX socket, or a descriptor that is there.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct stream_address {
    enum stream_kind { STREAM_INET, STREAM_UNIX, STREAM_FD } kind;
    char *host, *port; /* INET; host "" (to listen): any */
    char *path;        /* UNIX */
    int fd;            /* FD: taken by whoever listens; who connects takes a copy */
};
void stream_address_clear(struct stream_address *); /* frees what it points to */

/* How long something may take, and what ends it before. */
struct stream_limit {
    s64 until;     /* stream_now() */
    int cancel_fd; /* readable: stop; -1: nothing does */
};
s64 stream_now(void); /* milliseconds, CLOCK_MONOTONIC */
/* Waits for POLLIN or POLLOUT on fd: 0, -ETIMEDOUT, -ECANCELED. */
int stream_wait(int fd, short events, const struct stream_limit *);

/* A connected descriptor that does not block; -1 and *error. */
int stream_connect(const struct stream_address *, const struct stream_limit *, GError **error);
enum { STREAM_LISTEN_MAX = 8 };
/* Listening descriptors that do not block, at most STREAM_LISTEN_MAX; how many, 0 and *error.
 */
int stream_listen(const struct stream_address *, int ret_fd[STREAM_LISTEN_MAX], GError **error);
/* A descriptor that came from accept() or from outside, made fit. */
void stream_prepare(int fd);
