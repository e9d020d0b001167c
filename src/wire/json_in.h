// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * json_in.h - JSON values out of a byte stream that may be hostile.
 *
 * The stream is cut into top-level values by a strict lexer (RFC 8259, plus strings in single
 * quotes, as QEMU takes them): bounded in size and nesting, no control characters, escapes
 * decoded, numbers and words checked.  What json-glib gets to see is made only of tokens that
 * it understands; it has assertions that malformed surrogate escapes would reach.
 *
 * After an error the rest of the line is skipped.
 */
#pragma once

#include <glib.h>
#include <json-glib/json-glib.h>

#include "base/types.h"

enum { JSON_IN_DEPTH = 128, JSON_IN_WORD = 40 };

struct json_in {
    GString *text; /* the value so far, normalised */
    size_t max;    /* bytes of text at most */
    u32 depth;
    char close[JSON_IN_DEPTH]; /* which bracket ends each level */
    int state;
    char quote; /* of the string under way */
    u32 uni, uni_digits, surrogate;
    size_t word_at; /* where the word under way begins in text */
};

void json_in_init(struct json_in *, size_t max);
void json_in_clear(struct json_in *);
void json_in_reset(struct json_in *); /* forgets what is half read */

enum json_in_result { JSON_IN_MORE, JSON_IN_VALUE, JSON_IN_ERROR };
/*
 * Takes bytes up to the end of a value and returns how many.  VALUE: *ret_value is it, to be
 * freed with json_node_unref().  ERROR: *error says why.  MORE: all taken.
 */
size_t json_in_feed(struct json_in *, const u8 *bytes, size_t n, enum json_in_result *ret,
                    JsonNode **ret_value, GError **error);
