// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * handshake.h - a client's way from a connected stream to an NBD export.  Blocking, with a
 * limit.
 */
#pragma once

#include "stream/stream.h"

struct nbd_ask {
    const char *name;      /* of the export */
    const char *context;   /* metadata context for block status, or NULL */
    struct tls_creds *tls; /* NULL: no TLS; else there is no going on without it */
    const char *hostname;  /* for TLS, or NULL */
};
struct nbd_export_info {
    u64 size;
    u16 flags; /* NBD_FLAG_* */
    bool structured, has_context;
    u32 context;             /* its id */
    u32 min, preferred, max; /* bytes of a request: powers of two, but max; checked */
    bool has_block_size;
};
/* On success requests may follow. */
bool nbd_handshake(struct stream *, const struct nbd_ask *, const struct stream_limit *,
                   struct nbd_export_info *ret, GError **error);

/* What a server has. */
struct nbd_listed {
    char *name, *description; /* NULL: none told */
    struct nbd_export_info info;
    GPtrArray *contexts; /* char * */
};
void nbd_listed_free(void *);
/* struct nbd_listed *; g_ptr_array_unref. The stream is good for nothing afterwards. */
GPtrArray *nbd_list(struct stream *, const struct nbd_ask *, const struct stream_limit *,
                    GError **error);
