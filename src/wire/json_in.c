// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * json_in.c - see json_in.h.
 *
 *   BETWEEN --quote--> STRING --backslash--> ESCAPE --u--> UNICODE (4 digits)
 *      |                  ^--------------------+--------------+
 *      +--letter, digit--> WORD --anything else--> BETWEEN
 *   any --error--> SKIP --newline--> BETWEEN
 *
 * A string leaves in double quotes with only \" \\ and \u00XX (control characters) escaped.
 */
#include "wire/json_in.h"

#include <string.h>

#include "base/error.h"

enum { BETWEEN, STRING, ESCAPE, UNICODE, WORD, SKIP };

void json_in_init(struct json_in *j, size_t max)
{
    *j = (struct json_in){ .text = g_string_new(NULL), .max = max };
}

void json_in_clear(struct json_in *j)
{
    if (j->text)
        g_string_free(j->text, TRUE);
    j->text = NULL;
}

void json_in_reset(struct json_in *j)
{
    /* A large command's memory does not stay. */
    if (j->text->allocated_len > 64 * 1024) {
        g_string_free(j->text, TRUE);
        j->text = g_string_new(NULL);
    }
    g_string_truncate(j->text, 0);
    j->depth = 0;
    j->state = BETWEEN;
    j->surrogate = 0;
}

static bool bad(GError **error, const char *what)
{
    return fail(error, ERR_FORMAT, "JSON parse error, %s", what);
}

/* A code point of an escape, as UTF-8, or escaped again where it must be. */
static void put_char(struct json_in *j, u32 c)
{
    if (c == '"' || c == '\\') {
        g_string_append_c(j->text, '\\');
        g_string_append_c(j->text, (char)c);
    } else if (c < 0x20) {
        g_string_append_printf(j->text, "\\u%04x", c);
    } else {
        g_string_append_unichar(j->text, c);
    }
}

static bool unicode_done(struct json_in *j, GError **error)
{
    u32 c = j->uni;
    bool high = c >= 0xd800 && c < 0xdc00, low = c >= 0xdc00 && c < 0xe000;

    if (low != (j->surrogate != 0))
        return bad(error, "invalid surrogate escape");
    j->state = STRING;
    if (high) {
        j->surrogate = c;
        return true;
    }
    if (low)
        c = 0x10000 + ((j->surrogate & 0x3ff) << 10) + (c & 0x3ff);
    j->surrogate = 0;
    if (c == 0)
        return bad(error, "\\u0000 in a string");
    put_char(j, c);
    return true;
}

static bool take_string(struct json_in *j, u8 c, GError **error)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";

    switch (j->state) {
    case STRING:
        if (j->surrogate && c != '\\')
            return bad(error, "invalid surrogate escape");
        if (c < 0x20)
            return bad(error, "control character in a string");
        if (c == (u8)j->quote) {
            g_string_append_c(j->text, '"');
            j->state = BETWEEN;
        } else if (c == '\\') {
            j->state = ESCAPE;
        } else if (c == '"') {
            put_char(j, c);
        } else {
            g_string_append_c(j->text, (char)c);
        }
        return true;
    case ESCAPE: {
        const char *p = c ? strchr(from, c) : NULL;

        if (c == 'u') {
            j->state = UNICODE;
            j->uni = j->uni_digits = 0;
            return true;
        }
        if (!p || j->surrogate)
            return bad(error, "invalid escape sequence");
        put_char(j, (u8)to[p - from]);
        j->state = STRING;
        return true;
    }
    default:
        if (!g_ascii_isxdigit((char)c))
            return bad(error, "invalid escape sequence");
        j->uni = j->uni << 4 | (u32)g_ascii_xdigit_value((char)c);
        return ++j->uni_digits < 4 || unicode_done(j, error);
    }
}

/* -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? */
static bool is_number(const char *p, bool *ret_integer)
{
    p += *p == '-';
    if (*p == '0')
        p++;
    else if (g_ascii_isdigit(*p))
        p += strspn(p, "0123456789");
    else
        return false;
    *ret_integer = !*p;
    if (*p == '.') {
        size_t n = strspn(p + 1, "0123456789");
        if (!n)
            return false;
        p += 1 + n;
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '+' || *p == '-';
        size_t n = strspn(p, "0123456789");
        if (!n)
            return false;
        p += n;
    }
    return !*p;
}

static bool word_done(struct json_in *j, GError **error)
{
    const char *w = j->text->str + j->word_at;
    bool integer = false;
    s64 unused;

    j->state = BETWEEN;
    if (strcmp(w, "true") == 0 || strcmp(w, "false") == 0 || strcmp(w, "null") == 0)
        return true;
    if (!is_number(w, &integer))
        return fail(error, ERR_FORMAT, "JSON parse error, invalid keyword '%s'", w);
    /* Beyond 64 bits it is a floating-point number, as in QEMU. */
    if (integer && !g_ascii_string_to_signed(w, 10, INT64_MIN, INT64_MAX, &unused, NULL))
        g_string_append(j->text, ".0");
    return true;
}

/* One byte. *ret_again: it was not taken, only ended a word. */
static bool take(struct json_in *j, u8 c, bool *ret_again, GError **error)
{
    *ret_again = false;
    if (j->text->len >= j->max)
        return fail(error, ERR_LIMIT, "JSON token size limit exceeded");
    if (j->state >= STRING && j->state <= UNICODE)
        return take_string(j, c, error);
    bool word =
        g_ascii_isalnum((char)c) || c == '-' || c == '+' || c == '.' || c == '_' || c >= 0x80;
    if (j->state == WORD && !word) {
        *ret_again = true;
        return word_done(j, error);
    }
    if (word) {
        if (j->state != WORD) {
            j->state = WORD;
            j->word_at = j->text->len;
        }
        if (j->text->len - j->word_at >= JSON_IN_WORD)
            return bad(error, "a word or number is too long");
        g_string_append_c(j->text, (char)c);
        return true;
    }
    switch (c) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        /* It separates: "1 2" is not 12. */
        if (j->depth && j->text->str[j->text->len - 1] != ' ')
            g_string_append_c(j->text, ' ');
        return true;
    case '"':
    case '\'':
        j->state = STRING;
        j->quote = (char)c;
        g_string_append_c(j->text, '"');
        return true;
    case '{':
    case '[':
        if (j->depth == JSON_IN_DEPTH)
            return fail(error, ERR_LIMIT, "JSON nesting depth limit exceeded");
        j->close[j->depth++] = c == '{' ? '}' : ']';
        break;
    case '}':
    case ']':
        if (!j->depth || j->close[j->depth - 1] != (char)c)
            return bad(error, "unexpected bracket");
        j->depth--;
        break;
    case ',':
    case ':':
        if (!j->depth)
            return bad(error, "stray ',' or ':'");
        break;
    default:
        return bad(error, "stray character");
    }
    g_string_append_c(j->text, (char)c);
    return true;
}

static bool parse(struct json_in *j, JsonNode **ret_value, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(GError) cause = NULL;

    if (!g_utf8_validate(j->text->str, (gssize)j->text->len, NULL))
        return bad(error, "not UTF-8");
    if (!json_parser_load_from_data(parser, j->text->str, (gssize)j->text->len, &cause))
        return bad(error, cause->message);
    JsonNode *root = json_parser_get_root(parser);
    if (!root)
        return bad(error, "no value");
    *ret_value = json_node_ref(root);
    return true;
}

size_t json_in_feed(struct json_in *j, const u8 *bytes, size_t n, enum json_in_result *ret,
                    JsonNode **ret_value, GError **error)
{
    size_t i = 0;

    while (i < n) {
        u8 c = bytes[i];
        bool again, ok;

        if (j->state == SKIP) {
            if (c == '\n')
                json_in_reset(j);
            i++;
            continue;
        }
        ok = take(j, c, &again, error);
        if (!ok) { /* c is still to be taken: by SKIP, or as the newline that ends it */
            json_in_reset(j);
            j->state = c == '\n' ? BETWEEN : SKIP;
            *ret = JSON_IN_ERROR;
            return i;
        }
        i += !again;
        if (j->state != BETWEEN || j->depth || !j->text->len)
            continue;
        ok = parse(j, ret_value, error);
        json_in_reset(j);
        *ret = ok ? JSON_IN_VALUE : JSON_IN_ERROR;
        return i;
    }
    *ret = JSON_IN_MORE;
    return n;
}
