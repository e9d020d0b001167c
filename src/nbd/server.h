// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * server.h - an NBD server: images for others, over TCP or UNIX sockets, plain or in TLS.
 *
 * One thread serves all clients; requests are the image's asynchronous ones, so that neither it
 * nor the main thread waits for storage.  Clients are hostile: their number, their requests,
 * the memory that these take, and the time for a handshake or half a message are limited.
 *
 * All functions on the main thread, where the callbacks come, too.
 */
#pragma once

#include "image/image.h"
#include "stream/address.h"
#include "stream/tls.h"

struct nbd_server;
struct nbd_export;

struct nbd_server_options {
    const struct stream_address *address;
    struct tls_creds *tls; /* referred to; NULL: no TLS, else nothing without */
    u32 max_clients;       /* 0: no limit but that of the host */
    GMainContext *main;
    /* Clients that are there now, and whether one that came as far as an export has gone. */
    void (*clients)(void *opaque, u32 count, bool one_left);
    void *opaque;
};
struct nbd_server *nbd_server_new(const struct nbd_server_options *, GError **error);
/* For servers that answer one client from a descriptor that is connected already. */
struct nbd_server *nbd_server_on(int fd, const struct nbd_server_options *);
/* Ends all connections and exports, and waits for their requests. */
void nbd_server_free(struct nbd_server *);
u32 nbd_server_port(const struct nbd_server *); /* 0: no TCP */

struct nbd_export_options {
    const char *name, *description; /* description: or NULL */
    struct image *image;            /* taken; also on failure */
    bool writable, allocation_depth;
    u64 offset; /* bytes at the image's beginning that are not shown */
    /* Is a byte dirty, and how long is the run? Any thread; NULL: there is no bitmap. */
    const char *bitmap; /* its name */
    bool (*dirty)(void *opaque, u64 at, u64 len, u64 *ret_len);
    /* The last client has gone after nbd_export_remove(), or the server: the image is closed.
     */
    void (*gone)(void *opaque);
    void *opaque;
};
/* ERR_ARGUMENT if the name is taken. */
struct nbd_export *nbd_export_add(struct nbd_server *, const struct nbd_export_options *,
                                  GError **error);
struct nbd_export *nbd_export_find(struct nbd_server *, const char *name);
u32 nbd_export_clients(struct nbd_export *);
/* Nobody new gets it; hard: those who have it lose it. Then, later, gone() is called. */
void nbd_export_remove(struct nbd_export *, bool hard);
