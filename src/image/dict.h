// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dict.h - named options of images, nested names flattened: "file.filename".
 *
 * Readers mark what they used; dict_done() refuses the rest by name.  The first wrong value is
 * remembered and reported by dict_done(), so that one check is enough.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct dict;
struct dict *dict_new(void);
void dict_free(struct dict *);
/* "key=value,key=value"; a comma in a value is doubled; a word alone is `implied` when it
 * comes first, else word=on. */
struct dict *dict_from_text(const char *text, const char *implied, GError **error);
/* A JSON object; {"a": {"b": [1]}} is a.b.0=1.  Bounded in size and nesting. */
struct dict *dict_from_json(const char *text, GError **error);
struct dict *dict_copy(const struct dict *);
/* As a JSON object, sorted by name: what json: takes. */
char *dict_to_json(const struct dict *);

void dict_set(struct dict *, const char *key, const char *value); /* copies both */
void dict_remove(struct dict *, const char *key);
bool dict_has(const struct dict *, const char *key);
const char *dict_peek(const struct dict *, const char *key); /* without marking */
const char *dict_str(struct dict *, const char *key);        /* NULL: not given */
bool dict_bool(struct dict *, const char *key, bool def);
u64 dict_num(struct dict *, const char *key, u64 def, u64 min, u64 max);
u64 dict_size(struct dict *, const char *key, u64 def, u64 max); /* 64k, 1.5G */
/* The value's index in names (ends with NULL), def if it is not given. */
int dict_enum(struct dict *, const char *key, const char *const *names, int def);
/* Moves "prefix.*" out, without the prefix; NULL: there is none. */
struct dict *dict_take(struct dict *, const char *prefix);
/* Moves all of `from` in, as "prefix.*"; frees from. */
void dict_put(struct dict *, const char *prefix, struct dict *from);
void dict_merge(struct dict *, const struct dict *from); /* those of from win */
void dict_refuse(struct dict *, const char *fmt, ...) PRINTF(2, 3);
/* Was everything used and right?  what: "qcow2" */
bool dict_done(struct dict *, const char *what, GError **error);
/* The keys, sorted; g_list_free. */
GList *dict_keys(const struct dict *);

/* A size as people write it; false: it is none, or over max. */
bool parse_size(const char *text, u64 max, u64 *ret);

static inline void dict_freep(struct dict **d)
{
    dict_free(*d);
}
#define g_autodict __attribute__((cleanup(dict_freep))) struct dict *
