// SPDX-License-Identifier: GPL-2.0-or-later
/* impl.h - what the files of the NBD server share. */
#pragma once

#include <pthread.h>

#include "nbd/server.h"
#include "stream/stream.h"
#include "wire/nbd/nbd.h"

enum {
    OPTION_MAX = 16 << 10, /* bytes of an option's data */
    IN_BYTES = OPTION_MAX + 64,
    REQUESTS_MAX = 64,        /* of a client under way */
    CLIENT_BYTES = 64 << 20,  /* of data in them */
    SERVER_BYTES = 512 << 20, /* of all clients; beyond it small requests only, one each */
    SMALL_BYTES = 256 << 10,
    HANDSHAKE_MS = 10000, /* until the first request may come */
    STALL_MS = 60000,     /* half a message, or answers that nobody fetches */
    EXTENTS_MAX = 2048,   /* of one answer */
};
enum { CONTEXT_BASE, CONTEXT_DEPTH, CONTEXT_BITMAP, CONTEXTS };

struct nbd_export {
    struct nbd_server *server;
    char *name, *description, *bitmap;
    struct image *image;
    bool writable, depth;
    u64 offset;
    bool (*dirty)(void *opaque, u64 at, u64 len, u64 *ret_len);
    void (*gone)(void *opaque);
    void *opaque;
    /* under the server's lock */
    u32 clients;
    bool removed, hard;
};

/* Bytes on their way out: an answer, or what a handshake says. */
struct out {
    struct out *next;
    struct client *client;
    u64 bytes; /* of memory that is counted */
    bool request;
    u32 n_head;
    u8 head[64];
    u8 *data; /* g_free */
    u64 n_data, sent;
};

struct request {
    struct out out; /* the answer; out.data: what is read or written */
    u16 type, flags;
    u64 cookie, at;
    u32 len;
    int error; /* why it is not even tried */
};

enum state { GREETED, OPTIONS, TLS, TRANSMISSION };
struct client {
    struct nbd_server *server;
    struct stream stream;
    pthread_mutex_t lock; /* out, in_flight, bytes, broken; TLS */
    struct out *out, **out_last;
    u32 in_flight; /* requests that are not answered to the last byte */
    u64 bytes;
    s64 moved; /* when something last went out */
    bool broken;
    /* the server's thread alone */
    enum state state;
    struct nbd_export *export;
    u64 size;
    bool fixed, no_zeroes, structured, context[CONTEXTS], gone;
    char *context_name;      /* of the export that the contexts are chosen for */
    u32 events;              /* what epoll waits for */
    s64 since;               /* of the handshake's begin, or of half a message's */
    struct request *writing; /* its data come */
    u32 in_len, writing_at;
    u8 in[IN_BYTES];
};

struct nbd_server {
    int wake_fd, epoll_fd, n_listen, listen[STREAM_LISTEN_MAX];
    struct tls_creds *tls;
    u32 max_clients;
    GMainContext *main;
    void (*notify)(void *opaque, u32 count, bool one_left);
    void *opaque;
    pthread_t thread;
    GThreadPool *looks; /* block status */
    GPtrArray *clients; /* the thread's alone */
    _Atomic u64 bytes;
    _Atomic bool quit;
    pthread_mutex_t lock; /* all below, and the exports' */
    GPtrArray *exports;
    u32 count;
    bool one_left;
    GSource *news; /* for the main thread */
    char *unlink_path;
};

void server_wake(struct nbd_server *);
/* Sends what goes now; the thread does the rest. Takes the out. Any thread. */
void client_put(struct client *, struct out *);
void client_answer(struct request *, int error); /* error: 0 or -errno */
u16 export_flags(const struct client *, const struct nbd_export *);
u64 export_size(const struct nbd_export *);

/* handshake.c: takes apart what is in c->in: bytes used, 0: more is needed, -1: out with him.
 */
s64 handshake_greeting(struct client *, const u8 *p, u32 have);
s64 handshake_option(struct client *, const u8 *p, u32 have);
void handshake_hello(struct client *);
/* By name, with a place for one more client. NULL: there is none. */
struct nbd_export *export_enter(struct nbd_server *, const char *name, u32 len);

/* requests.c */
s64 request_take(struct client *, const u8 *p, u32 have);
void request_start(struct request *); /* its data are there */
void request_look(gpointer request, gpointer server);
void request_free(struct request *);
