// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keyval.h - option strings: "first,key=value,flag,key=a,,b".
 *
 * A comma in a value is written twice.  A word without '=' is the value of the implied key when
 * it comes first, else a flag: "server" means server=on, "nowait" means wait=off.  A key may
 * come several times (hostfwd=); the last one counts where only one is wanted.
 *
 * Readers mark what they used; keyval_done() refuses the rest by name, so that no option is
 * silently ignored.  The first mistake stays: later readers give defaults and keyval_done()
 * says what it was, so that callers need one check only.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct keyval;

/* what: for messages ("-netdev user"); implied: key of the first word, NULL: "" (a flag). */
struct keyval *keyval_parse(const char *what, const char *text, const char *implied);
void keyval_free(struct keyval *);

const char *keyval_str(struct keyval *, const char *key); /* NULL: not given */
bool keyval_bool(struct keyval *, const char *key, bool def);
u64 keyval_uint(struct keyval *, const char *key, u64 def, u64 min, u64 max);
/* The i-th value of a key that may come several times; NULL after the last. */
const char *keyval_nth(struct keyval *, const char *key, u32 i);
/* A reader's own complaint, kept like the module's. */
void keyval_refuse(struct keyval *, const char *fmt, ...) PRINTF(2, 3);
/* The text it was parsed from, for handing it on. */
const char *keyval_text(const struct keyval *);
bool keyval_done(struct keyval *, GError **error);

static inline void keyval_freep(struct keyval **kv)
{
    keyval_free(*kv);
}
#define g_autokeyval __attribute__((cleanup(keyval_freep))) struct keyval *
