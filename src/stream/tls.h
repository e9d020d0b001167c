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
 * text: "id=tls0,dir=/etc/pki,endpoint=server,verify-peer=on,priority=...,username=..." without
 * the type.  Files in dir have QEMU's names: ca-cert.pem, ca-crl.pem, server-cert.pem,
 * server-key.pem, client-cert.pem, client-key.pem, dh-params.pem, keys.psk.
 */
bool tls_creds_add(const char *qom_type, const char *text, GError **error);
bool tls_creds_remove(const char *id); /* false: there is none */
/* server: which end it is wanted for. A reference, or NULL and *error. */
struct tls_creds *tls_creds_find(const char *id, bool server, GError **error);
/* For servers whose certificate one of the host's authorities has signed. */
struct tls_creds *tls_creds_system(GError **error);
struct tls_creds *tls_creds_ref(struct tls_creds *);
void tls_creds_unref(struct tls_creds *); /* NULL is fine */
