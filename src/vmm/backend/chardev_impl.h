// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_impl.h - what the kinds of character devices share; included in this folder only.
 *
 * A kind fills in one or two descriptors and, where it must, a few operations; chardev.c does
 * the reading, the queue and the main-loop source.
 *
 * Threads: c->lock guards the queue, fd_out and `open`; all the rest belongs to the main
 * thread. No user's handler is called with c->lock held, so a device may write with its own
 * lock held.
 */
#pragma once

#include <pthread.h>

#include "base/keyval.h"
#include "vmm/backend/chardev.h"

enum { CHARDEV_QUEUE = 64 * 1024 };

struct chardev_ops {
    const char *kind;
    bool drop_oldest; /* a full queue forgets its oldest bytes: pty */
    bool socket;      /* fd_out is one: send() without SIGPIPE */
    /* Bytes from the host on their way to the user, changed in place; returns how many stay. */
    size_t (*filter_in)(struct chardev *, u8 *bytes, size_t n);
    /* End of file or error on fd_in. The default stops reading. */
    void (*lost)(struct chardev *);
    /* These replace the common ones: mux. */
    size_t (*write)(struct chardev *, const u8 *bytes, size_t n);
    void (*attach)(struct chardev *, const struct chardev_user *, void *opaque);
    void (*detach)(struct chardev *, void *opaque);
    void (*pump)(struct chardev *); /* main loop, after chardev_accept() */
    void (*fini)(struct chardev *);
};

struct chardev {
    const struct chardev_ops *ops;
    struct vm *vm;
    char *id, *describe;
    const struct chardev_user *user;
    void *opaque;
    int fd_in, fd_out; /* may be the same; -1: none */
    bool input_ended;
    GSource *source;
    void *tag_in, *tag_out; /* what the source polls now; NULL: nothing */
    int log_fd;             /* logfile=: a copy of all output */

    pthread_mutex_t lock;
    bool open;      /* somebody is there */
    bool may_block; /* fd_out could not be made non-blocking: ask poll() first */
    bool double_ff; /* telnet: 0xff goes out twice */
    bool refused;   /* a write was not taken whole: CHARDEV_WRITABLE is owed */
    bool full_told; /* a failing write has been logged */
    u8 *queue;      /* ring of CHARDEV_QUEUE bytes, made when first needed */
    size_t q_at, q_len;
};

struct chardev *chardev_alloc(struct vm *, const struct chardev_ops *, size_t size,
                              const char *id);
/* After the kind has set it up: starts its source and enters it in the vm's list. */
void chardev_start(struct chardev *);
void chardev_free(struct chardev *);
void chardev_set_describe(struct chardev *, const char *fmt, ...) PRINTF(2, 3);
/* New descriptors (or -1 for gone; the old ones are closed), with the event. Main thread. */
void chardev_set_fds(struct chardev *, int fd_in, int fd_out);
void chardev_update(struct chardev *); /* what to poll for now; main thread */
void chardev_event(struct chardev *, enum chardev_event);
bool fd_set_nonblock(int fd);

/* The kinds: options are read from kv, which the caller checks with keyval_done(). */
typedef struct chardev *chardev_open_fn(struct vm *, const char *id, struct keyval *,
                                        GError **error);
chardev_open_fn chardev_open_stdio, chardev_open_pty, chardev_open_socket, chardev_open_file,
    chardev_open_pipe, chardev_open_null;
struct chardev *chardev_open_mux(struct vm *, const char *id, struct chardev *base);
