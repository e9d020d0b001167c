// SPDX-License-Identifier: GPL-2.0-or-later
/* dict.c - see dict.h. */
#include "image/dict.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/error.h"
#include "base/secret.h"

enum { JSON_MAX = 1 << 20, NESTING_MAX = 32, KEYS_MAX = 4096 };

struct value {
    char *text;
    bool used;
};
struct dict {
    GHashTable *map;
    char *complaint;
};

static void value_free(void *p)
{
    struct value *v = p;

    if (v->text) /* it may be a password */
        secret_wipe(v->text, strlen(v->text));
    g_free(v->text);
    g_free(v);
}

struct dict *dict_new(void)
{
    struct dict *d = g_new0(struct dict, 1);

    d->map = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, value_free);
    return d;
}

void dict_free(struct dict *d)
{
    if (!d)
        return;
    g_hash_table_unref(d->map);
    g_free(d->complaint);
    g_free(d);
}

void dict_set(struct dict *d, const char *key, const char *text)
{
    struct value *v = g_new0(struct value, 1);

    v->text = g_strdup(text);
    g_hash_table_replace(d->map, g_strdup(key), v);
}

void dict_remove(struct dict *d, const char *key)
{
    g_hash_table_remove(d->map, key);
}

bool dict_has(const struct dict *d, const char *key)
{
    return g_hash_table_contains(d->map, key);
}

const char *dict_peek(const struct dict *d, const char *key)
{
    const struct value *v = g_hash_table_lookup(d->map, key);

    return v ? v->text : NULL;
}

const char *dict_str(struct dict *d, const char *key)
{
    struct value *v = g_hash_table_lookup(d->map, key);

    if (!v)
        return NULL;
    v->used = true;
    return v->text;
}

void dict_refuse(struct dict *d, const char *fmt, ...)
{
    va_list ap;

    if (d->complaint)
        return;
    va_start(ap, fmt);
    d->complaint = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

bool dict_bool(struct dict *d, const char *key, bool def)
{
    const char *v = dict_str(d, key);

    if (!v)
        return def;
    if (!strcmp(v, "on") || !strcmp(v, "yes") || !strcmp(v, "true") || !strcmp(v, "y"))
        return true;
    if (strcmp(v, "off") != 0 && strcmp(v, "no") != 0 && strcmp(v, "false") != 0 &&
        strcmp(v, "n") != 0)
        dict_refuse(d, "Parameter '%s' expects 'on' or 'off'", key);
    return false;
}

u64 dict_num(struct dict *d, const char *key, u64 def, u64 min, u64 max)
{
    const char *v = dict_str(d, key);
    char *end;

    if (!v)
        return def;
    u64 n = g_ascii_strtoull(v, &end, 0);
    if (!g_ascii_isdigit(*v) || *end || n < min || n > max) {
        dict_refuse(d,
                    "Parameter '%s' expects a number from %" G_GUINT64_FORMAT
                    " to %" G_GUINT64_FORMAT,
                    key, min, max);
        return def;
    }
    return n;
}

bool parse_size(const char *text, u64 max, u64 *ret)
{
    static const char units[] = "bkmgtpe";
    char *end;

    if (!g_ascii_isdigit(*text))
        return false;
    u64 n = g_ascii_strtoull(text, &end, text[0] == '0' && (text[1] | 32) == 'x' ? 16 : 10);
    double part = 0;
    if (*end == '.') {
        char *end2;
        part = g_ascii_strtod(end, &end2);
        end = end2;
    }
    u32 shift = 0;
    if (*end) {
        const char *u = strchr(units, g_ascii_tolower(*end));

        if (!u || end[1])
            return false;
        shift = (u32)(u - units) * 10;
    } else if (part > 0) {
        return false;
    }
    if (shift && n > (UINT64_MAX >> shift))
        return false;
    n = (n << shift) + (u64)(part * (double)(1ull << shift));
    if (n > max)
        return false;
    *ret = n;
    return true;
}

u64 dict_size(struct dict *d, const char *key, u64 def, u64 max)
{
    const char *v = dict_str(d, key);
    u64 n;

    if (!v)
        return def;
    if (parse_size(v, max, &n))
        return n;
    dict_refuse(d,
                "Parameter '%s' expects a non-negative number below 2^64 with an optional "
                "suffix k, M, G, T, P or E",
                key);
    return def;
}

int dict_enum(struct dict *d, const char *key, const char *const *names, int def)
{
    const char *v = dict_str(d, key);

    if (!v)
        return def;
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], v))
            return i;
    }
    dict_refuse(d, "Parameter '%s' does not accept value '%s'", key, v);
    return def;
}

struct dict *dict_copy(const struct dict *d)
{
    struct dict *c = dict_new();

    dict_merge(c, d);
    return c;
}

void dict_merge(struct dict *d, const struct dict *from)
{
    GHashTableIter it;
    gpointer k, v;

    g_hash_table_iter_init(&it, from->map);
    while (g_hash_table_iter_next(&it, &k, &v))
        dict_set(d, k, ((struct value *)v)->text);
}

struct dict *dict_take(struct dict *d, const char *prefix)
{
    size_t n = strlen(prefix);
    struct dict *to = NULL;
    GHashTableIter it;
    gpointer k, v;

    g_hash_table_iter_init(&it, d->map);
    while (g_hash_table_iter_next(&it, &k, &v)) {
        const char *key = k;

        if (strncmp(key, prefix, n) != 0 || key[n] != '.')
            continue;
        if (!to)
            to = dict_new();
        dict_set(to, key + n + 1, ((struct value *)v)->text);
        g_hash_table_iter_remove(&it);
    }
    return to;
}

void dict_put(struct dict *d, const char *prefix, struct dict *from)
{
    GHashTableIter it;
    gpointer k, v;

    g_hash_table_iter_init(&it, from->map);
    while (g_hash_table_iter_next(&it, &k, &v)) {
        g_autofree char *key = g_strdup_printf("%s.%s", prefix, (const char *)k);

        dict_set(d, key, ((struct value *)v)->text);
    }
    dict_free(from);
}

GList *dict_keys(const struct dict *d)
{
    return g_list_sort(g_hash_table_get_keys(d->map), (GCompareFunc)strcmp);
}

bool dict_done(struct dict *d, const char *what, GError **error)
{
    GList *keys = dict_keys(d);

    for (GList *k = keys; k; k = k->next) {
        if (!((struct value *)g_hash_table_lookup(d->map, k->data))->used)
            dict_refuse(d, "Invalid parameter '%s'", (char *)k->data);
    }
    g_list_free(keys);
    return !d->complaint || fail(error, ERR_ARGUMENT, "%s: %s", what, d->complaint);
}

/* --- text ------------------------------------------------------------------------------------
 */

struct dict *dict_from_text(const char *text, const char *implied, GError **error)
{
    struct dict *d = dict_new();
    bool first = true;

    for (const char *p = text; *p; first = false) {
        g_autoptr(GString) s = g_string_new(NULL);

        for (; *p && (*p != ',' || p[1] == ','); p++) {
            if (*p == ',')
                p++;
            g_string_append_c(s, *p);
        }
        if (*p)
            p++;
        char *eq = strchr(s->str, '=');
        if (!s->len) {
            dict_free(d);
            fail(error, ERR_ARGUMENT, "'%s': an option is empty", text);
            return NULL;
        }
        if (first && implied && !eq) {
            dict_set(d, implied, s->str);
        } else if (eq) {
            *eq = 0;
            dict_set(d, s->str, eq + 1);
        } else {
            dict_set(d, s->str, "on");
        }
    }
    return d;
}

/* --- JSON ------------------------------------------------------------------------------------
 */

struct json {
    const char *p;
    struct dict *d;
    GString *path;
    u32 keys;
};

static void skip(struct json *j)
{
    while (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r')
        j->p++;
}

static bool hex4(const char *p, u32 *ret)
{
    *ret = 0;
    for (int i = 0; i < 4; i++) {
        if (!g_ascii_isxdigit(p[i]))
            return false;
        *ret = *ret << 4 | (u32)g_ascii_xdigit_value(p[i]);
    }
    return true;
}

static bool json_escape(struct json *j, GString *s)
{
    static const char from[] = "\"\\/bfnrt'", to[] = "\"\\/\b\f\n\r\t'";
    const char *e = *j->p ? strchr(from, *j->p) : NULL;
    u32 c, low;

    if (e) {
        g_string_append_c(s, to[e - from]);
        j->p++;
        return true;
    }
    if (*j->p != 'u' || !hex4(j->p + 1, &c))
        return false;
    j->p += 5;
    if (c >= 0xd800 && c < 0xdc00 && j->p[0] == '\\' && j->p[1] == 'u' &&
        hex4(j->p + 2, &low) && low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        j->p += 6;
    }
    if (!c || (c >= 0xd800 && c < 0xe000))
        return false;
    g_string_append_unichar(s, c);
    return true;
}

static bool json_text(struct json *j, GString *s)
{
    char quote = *j->p++;

    for (; *j->p != quote;) {
        if ((u8)*j->p < 0x20)
            return false;
        if (*j->p == '\\') {
            j->p++;
            if (!json_escape(j, s))
                return false;
        } else {
            g_string_append_c(s, *j->p++);
        }
    }
    j->p++;
    return true;
}

static bool json_value(struct json *j, u32 depth);

static bool json_member(struct json *j, u32 depth, const char *key)
{
    gsize was = j->path->len;

    if (j->path->len)
        g_string_append_c(j->path, '.');
    g_string_append(j->path, key);
    bool ok = json_value(j, depth + 1);
    g_string_truncate(j->path, was);
    return ok;
}

static bool json_composite(struct json *j, u32 depth)
{
    bool object = *j->p++ == '{';
    char close = object ? '}' : ']';

    skip(j);
    if (*j->p == close)
        return j->p++, true;
    for (u32 i = 0;; i++) {
        g_autoptr(GString) key = g_string_new(NULL);

        skip(j);
        if (object) {
            if ((*j->p != '"' && *j->p != '\'') || !json_text(j, key))
                return false;
            skip(j);
            if (*j->p++ != ':')
                return false;
        } else {
            g_string_printf(key, "%u", i);
        }
        if (!json_member(j, depth, key->str))
            return false;
        skip(j);
        if (*j->p == close)
            return j->p++, true;
        if (*j->p++ != ',')
            return false;
    }
}

static bool json_value(struct json *j, u32 depth)
{
    g_autoptr(GString) s = g_string_new(NULL);

    skip(j);
    if (depth > NESTING_MAX || j->keys++ > KEYS_MAX)
        return false;
    if (*j->p == '{' || *j->p == '[')
        return json_composite(j, depth);
    if (!depth)
        return false;
    if (*j->p == '"' || *j->p == '\'') {
        if (!json_text(j, s))
            return false;
    } else {
        while (g_ascii_isalnum(*j->p) || (*j->p && strchr("+-.", *j->p)))
            g_string_append_c(s, *j->p++);
        if (!s->len)
            return false;
        if (!strcmp(s->str, "null")) {
            /* Not given, but for a backing file: there it means that there shall be none. */
            if (g_str_equal(j->path->str, "backing") ||
                g_str_has_suffix(j->path->str, ".backing"))
                dict_set(j->d, j->path->str, "");
            return true;
        }
        if (!strcmp(s->str, "true"))
            g_string_assign(s, "on");
        else if (!strcmp(s->str, "false"))
            g_string_assign(s, "off");
        else if (!g_ascii_isdigit(s->str[s->str[0] == '-']))
            return false;
    }
    dict_set(j->d, j->path->str, s->str);
    return true;
}

struct dict *dict_from_json(const char *text, GError **error)
{
    struct json j = { .p = text };

    if (strlen(text) > JSON_MAX) {
        fail(error, ERR_LIMIT, "json: longer than %d bytes", JSON_MAX);
        return NULL;
    }
    j.d = dict_new();
    j.path = g_string_new(NULL);
    skip(&j);
    bool ok = *j.p == '{' && json_value(&j, 0);
    skip(&j);
    ok = ok && !*j.p;
    g_string_free(j.path, TRUE);
    if (ok)
        return j.d;
    dict_free(j.d);
    fail(error, ERR_ARGUMENT, "Could not parse the JSON options, near position %td",
         j.p - text);
    return NULL;
}

static void json_quote(GString *s, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_string_append_c(s, '"');
    for (const char *p = valid; *p; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_printf(s, "\\%c", *p);
        else if ((u8)*p < 0x20)
            g_string_append_printf(s, "\\u%04x", *p);
        else
            g_string_append_c(s, *p);
    }
    g_string_append_c(s, '"');
}

/* The keys that begin with prefix, as one object. */
static void json_object(GString *s, const struct dict *d, GList **k, const char *prefix)
{
    size_t n = strlen(prefix);
    bool comma = false;

    g_string_append_c(s, '{');
    while (*k && !strncmp((*k)->data, prefix, n)) {
        const char *key = (const char *)(*k)->data + n, *dot = strchr(key, '.');
        g_autofree char *word = dot ? g_strndup(key, (gsize)(dot - key)) : g_strdup(key);

        if (comma)
            g_string_append(s, ", ");
        comma = true;
        json_quote(s, word);
        g_string_append(s, ": ");
        if (dot) {
            g_autofree char *longer = g_strdup_printf("%s%s.", prefix, word);
            json_object(s, d, k, longer);
        } else {
            json_quote(s, dict_peek(d, (*k)->data));
            *k = (*k)->next;
        }
    }
    g_string_append_c(s, '}');
}

char *dict_to_json(const struct dict *d)
{
    GString *s = g_string_new(NULL);
    GList *keys = dict_keys(d), *k = keys;

    json_object(s, d, &k, "");
    g_list_free(keys);
    return g_string_free(s, FALSE);
}
