// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ring.h - requests that the kernel carries out by itself (io_uring), for bytes that lie
 * plainly in a file.
 *
 * Whoever has asked for it (image_reap_by()) fetches the completions, so that a request costs
 * no change of threads.  All functions from any thread.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

struct ring;
/* done(tag, res): res as the system call would have it, or -errno. NULL: the host has no
 * io_uring for us. eventfd: rung for every completion, or -1. */
struct ring *ring_new(int eventfd, void (*done)(void *tag, int res));
void ring_free(struct ring *); /* nothing may be under way */
/* false: there is no room now. durable: the write is, when it is done. v stays until then. */
bool ring_rw(struct ring *, bool write, int fd, const struct iovec *v, int n, u64 at,
             bool durable, void *tag);
bool ring_sync(struct ring *, int fd, void *tag);
/* Between true and false requests are collected and then submitted at once. Nests.  For those
 * that are done by then the eventfd does not ring: ring_reap() is to follow. */
void ring_batch(struct ring *, bool);
u32 ring_reap(struct ring *);            /* calls done() for what has come; how many */
void ring_wait(struct ring *, u32 msec); /* until something may have come */
