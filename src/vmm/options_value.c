// SPDX-License-Identifier: GPL-2.0-or-later
/* options_value.c - numbers, sizes, switches and ids on the command line. */
#include "vmm/options_parse.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

bool value_uint(const char *text, u64 max, u64 *ret, GError **error)
{
    GError *e = NULL;
    guint64 v;

    if (!g_ascii_string_to_unsigned(text, 10, 0, max, &v, &e)) {
        g_clear_error(&e);
        return fail(error, ERR_ARGUMENT, "'%s' is not a number from 0 to %" PRIu64, text, max);
    }
    *ret = v;
    return true;
}

bool value_bool(const char *key, const char *text, bool *ret, GError **error)
{
    if (strcmp(text, "on") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "true") == 0 ||
        strcmp(text, "y") == 0)
        *ret = true;
    else if (strcmp(text, "off") == 0 || strcmp(text, "no") == 0 ||
             strcmp(text, "false") == 0 || strcmp(text, "n") == 0)
        *ret = false;
    else
        return fail(error, ERR_ARGUMENT, "%s is 'on' or 'off', not '%s'", key, text);
    return true;
}

/* "512", "1.5G", "64k"; a bare number counts in `unit`. */
bool value_size(const char *text, u64 unit, u64 *ret, GError **error)
{
    static const char suffixes[] = "BKMGTPE";
    char *end;
    double v;
    u64 whole = 0;

    if (!g_ascii_isdigit(text[0]))
        return fail(error, ERR_ARGUMENT, "'%s' is not a size", text);
    whole = g_ascii_strtoull(text, &end, 10);
    if (*end == 'x' || *end == 'X')
        whole = g_ascii_strtoull(text, &end, 16);
    v = *end == '.' ? g_ascii_strtod(text, &end) : 0;
    bool fraction = v != 0;
    if (*end) {
        const char *s = strchr(suffixes, g_ascii_toupper(*end));

        if (!s || end[1])
            return fail(error, ERR_ARGUMENT, "'%s' is not a size (suffixes are K, M, G, T)",
                        text);
        unit = 1ull << (10 * (s - suffixes));
    }
    if (fraction ? v * (double)unit >= 9e18 : __builtin_mul_overflow(whole, unit, &whole))
        return fail(error, ERR_ARGUMENT, "'%s' is too large", text);
    *ret = fraction ? (u64)(v * (double)unit) : whole;
    return true;
}

bool value_one_of(const char *key, const char *val, const char *const *list, GError **error)
{
    g_autofree char *all = NULL;

    for (const char *const *p = list; *p; p++)
        if (strcmp(*p, val) == 0)
            return true;
    all = g_strjoinv(", ", (char **)list);
    return fail(error, ERR_ARGUMENT, "%s=%s is not there; there is %s", key, val, all);
}

/* Every key that is left over is one that the option does not have. */
bool value_none_left(const GPtrArray *kv, GError **error)
{
    if (!kv->len)
        return true;
    return fail(error, ERR_ARGUMENT, "there is no property '%s'",
                ((const struct opt *)kv->pdata[0])->key);
}

bool value_take_bool(GPtrArray *kv, const char *key, bool *io, GError **error)
{
    g_autofree char *v = opts_take(kv, key);

    return !v || value_bool(key, v, io, error);
}

bool value_take_uint(GPtrArray *kv, const char *key, u64 max, u64 *io, GError **error)
{
    g_autofree char *v = opts_take(kv, key);

    if (!v || value_uint(v, max, io, error))
        return true;
    g_prefix_error(error, "%s: ", key);
    return false;
}

/* A feature that QEMU has as a switch, of which only "off" can be had here. */
bool value_take_off(GPtrArray *kv, const char *key, GError **error)
{
    g_autofree char *v = opts_take(kv, key);
    bool on = false;

    if (!v || strcmp(v, "auto") == 0)
        return true;
    if (!value_bool(key, v, &on, error))
        return false;
    return !on || fail(error, ERR_UNSUPPORTED, "%s=on is not there yet", key);
}

bool value_id(const char *id, GError **error)
{
    bool ok = g_ascii_isalpha(id[0]) && strlen(id) <= VALUE_NAME_MAX;

    for (const char *p = id; ok && *p; p++)
        ok = g_ascii_isalnum(*p) || strchr("-._", *p);
    return ok || fail(error, ERR_ARGUMENT,
                      "'%s' is no id: a letter, then letters, digits, '-', '.', '_'", id);
}

void value_set(char **at, const char *text)
{
    g_free(*at);
    *at = g_strdup(text);
}
