// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * json_out.h - writes JSON text, value by value, with the spacing that QEMU uses.
 *
 *   json_open(o, '{'); json_key(o, "a"); json_int(o, 1); json_close(o, '}');   {"a": 1}
 *
 * Strings may hold any bytes: what is not UTF-8 becomes U+FFFD.
 */
#pragma once

#include <glib.h>
#include <json-glib/json-glib.h>

#include "base/types.h"

struct json_out {
    GString *text;
    bool comma;  /* the next value is not the first */
    bool pretty; /* a line a value, indented */
    bool keyed;  /* the next value belongs to the key just written */
    u32 depth;
};

void json_open(struct json_out *, char bracket);
void json_close(struct json_out *, char bracket);
void json_key(struct json_out *, const char *key);
void json_str(struct json_out *, const char *value);
void json_int(struct json_out *, s64 value);
void json_bool(struct json_out *, bool value);
void json_null(struct json_out *);
void json_node(struct json_out *, JsonNode *); /* a parsed value, as it came */
void json_raw(struct json_out *, const char *text);

/* Key and value at once. */
void json_put_str(struct json_out *, const char *key, const char *value);
void json_put_int(struct json_out *, const char *key, s64 value);
void json_put_bool(struct json_out *, const char *key, bool value);
