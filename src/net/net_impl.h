// SPDX-License-Identifier: GPL-2.0-or-later
/* net_impl.h - what the kinds of netdevs share; included in this folder only. */
#pragma once

#include <pthread.h>

#include "base/keyval.h"
#include "net/net.h"

struct net_ops {
    const char *kind;
    /* Thread: one frame into buf. > 0: its length; 0: none now; < 0: that end is gone. */
    ssize_t (*recv)(struct net *, u8 *buf, size_t n);
    bool large; /* takes TCP frames of up to 64 KiB */
    /* Any thread: sends a gathered frame without blocking; false: not taken, errno EAGAIN when
     * it may be later. */
    bool (*send)(struct net *, const struct iovec *, int n, size_t len);
    /* Thread: n->listen_fd is readable. */
    void (*accept)(struct net *);
    /* Thread: the connection ended. true: it may come back (n->listen_fd is polled). */
    bool (*lost)(struct net *);
    /* Thread: more than reading is to be done. Returns poll events wanted besides POLLIN. */
    short (*wants)(struct net *);
    void (*writable)(struct net *);
    void (*fini)(struct net *);
};

struct net {
    const struct net_ops *ops;
    char *id, *describe;
    _Atomic int fd; /* -1: nobody there (yet); changed by the thread only */
    int listen_fd;
    int wake; /* eventfd */
    pthread_t thread;
    bool started;
    _Atomic bool quit, paused, ready;

    pthread_mutex_t lock; /* user and opaque; held while user->receive() runs */
    const struct net_user *_Atomic user;
    void *opaque;
    pthread_mutex_t
        send_lock; /* around ops->send(); innermost, devices send with theirs held */

    u8 *frame;   /* the thread's: one frame */
    size_t kept; /* length of a frame that the device did not take */
    _Atomic u64 in, in_bytes, out, out_bytes, dropped;
};

struct net *net_alloc(const struct net_ops *, size_t size, const char *id);
bool net_start(struct net *, GError **error);
void net_wake(struct net *);
void net_describe(struct net *, const char *fmt, ...) PRINTF(2, 3);
/* Thread: another descriptor (or -1); the old one is closed; the device hears of the link. */
void net_set_fd(struct net *, int fd);
/* recv and send for descriptors where one read is one frame. */
ssize_t net_recv_packet(struct net *, u8 *buf, size_t n);
bool net_send_packet(struct net *, const struct iovec *, int n, size_t len);

typedef struct net *net_open_fn(const char *id, struct keyval *, GError **error);
net_open_fn net_open_user, net_open_tap, net_open_socket, net_open_stream, net_open_dgram,
    net_open_none;
