// SPDX-License-Identifier: GPL-2.0-or-later
/* tls_impl.h - what stream.c wants of tls.c. */
#pragma once

#include "stream/stream.h"

ssize_t tls_recv(struct stream *, void *to, size_t n);
ssize_t tls_send(struct stream *, const struct iovec *, int n);
void tls_end(struct stream *);
