// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * stream.h - a connected socket, plain or inside TLS.
 *
 * Nothing blocks but the functions that end in _all, which have a limit.  A plain stream may be
 * read by one thread and written by another; one in TLS by one thread at a time.
 */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "stream/address.h"
#include "stream/tls.h"

struct stream {
    int fd;
    struct gnutls_session_int *tls; /* NULL: plain */
    struct tls_creds *creds;
    char *hostname; /* to be in the peer's certificate, or NULL */
    bool tls_done, tls_unsent;
};
void stream_init(struct stream *, int fd); /* takes fd */
void stream_close(struct stream *);        /* any time, also twice */

/* Bytes, 0 at the end, -EAGAIN, or -errno. n >= 1 pieces. */
ssize_t stream_recv(struct stream *, const struct iovec *, int n);
ssize_t stream_send(struct stream *, const struct iovec *, int n);
/* There is more to read, of which poll() knows nothing. */
bool stream_buffered(const struct stream *);

/* From here on it is TLS; the creds are referred to. */
bool stream_start_tls(struct stream *, struct tls_creds *, bool server, const char *hostname,
                      GError **error);
/* 1: done, the peer is who it has to be; 0: wait for *ret_events; -1 and *error. */
int stream_tls_step(struct stream *, short *ret_events, GError **error);

bool stream_read_all(struct stream *, void *to, size_t n, const struct stream_limit *,
                     GError **error);
bool stream_write_all(struct stream *, const void *from, size_t n, const struct stream_limit *,
                      GError **error);
bool stream_tls_all(struct stream *, const struct stream_limit *, GError **error);
