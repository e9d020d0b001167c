// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * secret.h - passwords and keys by id, as QEMU's -object secret has them (its manual,
 * "Providing secret data to QEMU").  One registry for the process; any thread.
 *
 * What a secret holds is wiped when it is freed, and is in no message: errors name ids and
 * files alone.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

/* As options have them; each NULL unless it is given. */
struct secret_props {
    char *id;
    char *data, *file; /* one of the two */
    char *format;      /* "raw" (the default), "base64" */
    char *keyid, *iv;  /* it is encrypted (AES-256-CBC) with that secret; base64 of 16 bytes */
};
/* The property of that name, or NULL. */
char **secret_prop(struct secret_props *, const char *name);
void secret_props_free(struct secret_props *); /* wiped */

/* ERR_BUSY: the id is taken. */
bool secret_add(const struct secret_props *, GError **error);
bool secret_remove(const char *id); /* false: there is none */
bool secret_exists(const char *id);
GPtrArray *secret_ids(void); /* char *, sorted; g_ptr_array_unref */

struct secret_bytes {
    u8 *p; /* with a 0 behind the last byte */
    size_t n;
};
/* A copy, for secret_bytes_clear(). ERR_NOT_FOUND. */
bool secret_get(const char *id, struct secret_bytes *ret, GError **error);
/* The same for what has to be text. */
bool secret_get_utf8(const char *id, struct secret_bytes *ret, GError **error);
void secret_bytes_clear(struct secret_bytes *);
#define SECRET_AUTO __attribute__((cleanup(secret_bytes_clear))) struct secret_bytes

void secret_wipe(void *p, size_t n);
/* The cryptographic library (libgcrypt) wants to hear this before anything else; any number of
 * times. */
void crypto_init(void);
