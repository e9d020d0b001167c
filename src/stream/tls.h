// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tls.h - TLS credentials by name, as -object tls-creds-x509|psk|anon makes them (GnuTLS).
 *
 * The names are the process's; whoever uses credentials holds a reference, so that deleting the
 * object ends no stream.  Any thread.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct tls_creds;
bool tls_built_in(void);
/* Is that the name of a kind of credentials? */
bool tls_creds_kind(const char *qom_type);
/*
 * As options have them; each NULL unless it is given.  Files in dir have QEMU's names:
 * ca-cert.pem, ca-crl.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem,
 * dh-params.pem, keys.psk.
 */
struct tls_creds_props {
    char *id, *dir;
    char *endpoint;    /* "server", "client" (the default) */
    char *verify_peer; /* "on" (the default), "off" */
    char *priority;    /* GnuTLS's */
    char *passwordid;  /* x509: the secret that the key's file is encrypted with */
    char *username;    /* psk */
};
/* The property of that name, or NULL. */
char **tls_creds_prop(struct tls_creds_props *, const char *name);
void tls_creds_props_free(struct tls_creds_props *);
bool tls_creds_add(const char *qom_type, const struct tls_creds_props *, GError **error);
/* Names, and in `types` (if not NULL) what they are, both char *; g_ptr_array_unref. */
GPtrArray *tls_creds_ids(GPtrArray **types);
bool tls_creds_remove(const char *id); /* false: there is none */
/* server: which end it is wanted for. A reference, or NULL and *error. */
struct tls_creds *tls_creds_find(const char *id, bool server, GError **error);
/* For servers whose certificate one of the host's authorities has signed. */
struct tls_creds *tls_creds_system(GError **error);
struct tls_creds *tls_creds_ref(struct tls_creds *);
void tls_creds_unref(struct tls_creds *); /* NULL is fine */
