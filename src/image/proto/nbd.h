// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd.h - an NBD client's connection: many requests on one stream, and a thread that reads the
 * replies, sends what could not be sent at once, and connects anew.
 *
 *      whoever asks ──> waiting ──> slot (cookie) ──> out ──> server
 *                                     └──────<── reply ──<───┘      the thread
 *
 * Names and meanings of the options are QEMU's (qapi/block-core.json, BlockdevOptionsNbd).
 */
#pragma once

#include <pthread.h>

#include "image/node.h"
#include "wire/nbd/handshake.h"
#include "wire/nbd/nbd.h"

enum {
    NBD_SLOTS = 128,         /* requests under way: a power of two */
    NBD_PIECES_MAX = 1024,   /* of one request's reply */
    NBD_IN_BYTES = 64 << 10, /* replies but their data */
};

/* One message to the server, and what it answers. */
struct nbd_op {
    struct nbd_op *next;
    u16 type, flags;
    u64 at;
    u32 len;
    struct iovec *v; /* data, both ways; stay as they are */
    int n;
    /* 0 or -errno; on the connection's thread, or (when there is no connection) the caller's.
     */
    void (*done)(struct nbd_op *, int result);
    void *opaque;
    /* NBD_CMD_BLOCK_STATUS: the first extent */
    u32 status_len, status_flags;
    /* the connection's */
    struct nbd_request head;
    u64 cookie, sent, got;
    int error;
    u32 n_seen; /* of a read: what has come */
    struct nbd_piece {
        u32 at, len;
    } * seen;
};

struct nbd_queue {
    struct nbd_op *first, **last;
};

struct nbd_link {
    /* Set after nbd_link_init(), and left alone after nbd_link_open(). */
    struct stream_address address;
    char *name, *context, *hostname;
    struct tls_creds *tls;
    u32 reconnect_ms, open_ms;
    u32 silence_ms;    /* a server that owes answers and sends nothing for so long is gone */
    const char *title; /* for messages */

    struct nbd_export_info info; /* of the first connection: later ones are no worse */
    pthread_t thread;
    int wake_fd, close_fd; /* eventfds */
    pthread_mutex_t lock;  /* all below */
    struct stream stream;
    bool want_write, connected, closing, warned;
    u64 generation; /* of the connection, in cookies */
    s64 give_up;    /* stream_now(): who waits for a connection waits no longer */
    s64 heard;      /* when the server last said something */
    struct nbd_queue waiting, out;
    struct nbd_op *slot[NBD_SLOTS];
    u32 used, context_id;
    /* the thread's alone */
    struct nbd_op *op;      /* whose data come next */
    u64 data_at, data_left; /* of op, in bytes from its beginning */
    bool last_chunk;
    u32 in_len, in_at;
    u8 in[NBD_IN_BYTES];
};

void nbd_link_init(struct nbd_link *);
/* Connects (blocking, at most open_ms or half a minute), then starts the thread. */
bool nbd_link_open(struct nbd_link *, GError **error);
/* No request may be under way. Also after a failure. */
void nbd_link_close(struct nbd_link *);
/* op->done() comes later, or at once. Any thread. */
void nbd_link_start(struct nbd_link *, struct nbd_op *);
/* The same if there is a connection; false: there is none. */
bool nbd_link_try(struct nbd_link *, struct nbd_op *);
/* The same and waits: 0 or -errno. */
int nbd_link_do(struct nbd_link *, struct nbd_op *);
