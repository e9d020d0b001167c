// SPDX-License-Identifier: GPL-2.0-or-later
/* keyval.c - see keyval.h. */
#include "base/keyval.h"

#include <stdarg.h>
#include <string.h>

#include "base/error.h"

struct pair {
    char *key, *value;
    bool used;
};

struct keyval {
    char *what, *text, *complaint;
    GArray *pairs;
};

static void pair_clear(void *p)
{
    struct pair *pair = p;

    g_free(pair->key);
    g_free(pair->value);
}

void keyval_refuse(struct keyval *kv, const char *fmt, ...)
{
    va_list ap;

    if (kv->complaint)
        return;
    va_start(ap, fmt);
    kv->complaint = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

/* One item up to a single comma; ",," stands for a comma. */
static char *item_next(const char **at)
{
    GString *s = g_string_new(NULL);
    const char *p = *at;

    for (; *p && (*p != ',' || p[1] == ','); p++) {
        if (*p == ',')
            p++;
        g_string_append_c(s, *p);
    }
    *at = *p ? p + 1 : p;
    return g_string_free(s, FALSE);
}

struct keyval *keyval_parse(const char *what, const char *text, const char *implied)
{
    struct keyval *kv = g_new0(struct keyval, 1);
    bool first = true;

    kv->what = g_strdup(what);
    kv->text = g_strdup(text);
    kv->pairs = g_array_new(FALSE, TRUE, sizeof(struct pair));
    g_array_set_clear_func(kv->pairs, pair_clear);
    for (const char *p = text; *p; first = false) {
        g_autofree char *item = item_next(&p);
        char *eq = strchr(item, '=');
        struct pair pair = { 0 };

        if (!*item && !first)
            continue;
        if (first && implied && (!eq || strchr(item, ':') || strchr(item, '/')) &&
            !(eq && g_str_has_prefix(item, implied) && item[strlen(implied)] == '=')) {
            pair.key = g_strdup(implied);
            pair.value = g_steal_pointer(&item);
        } else if (eq) {
            pair.key = g_strndup(item, (size_t)(eq - item));
            pair.value = g_strdup(eq + 1);
        } else if (g_str_has_prefix(item, "no") && strcmp(item, "nodelay") != 0) {
            pair.key = g_strdup(item + 2);
            pair.value = g_strdup("off");
        } else {
            pair.key = g_steal_pointer(&item);
            pair.value = g_strdup("on");
        }
        g_array_append_val(kv->pairs, pair);
    }
    return kv;
}

void keyval_free(struct keyval *kv)
{
    if (!kv)
        return;
    g_array_unref(kv->pairs);
    g_free(kv->what);
    g_free(kv->text);
    g_free(kv->complaint);
    g_free(kv);
}

const char *keyval_text(const struct keyval *kv)
{
    return kv->text;
}

const char *keyval_nth(struct keyval *kv, const char *key, u32 i)
{
    for (u32 k = 0; k < kv->pairs->len; k++) {
        struct pair *p = &g_array_index(kv->pairs, struct pair, k);
        if (strcmp(p->key, key) != 0)
            continue;
        p->used = true;
        if (i-- == 0)
            return p->value;
    }
    return NULL;
}

const char *keyval_str(struct keyval *kv, const char *key)
{
    const char *last = NULL, *v;

    for (u32 i = 0; (v = keyval_nth(kv, key, i)); i++)
        last = v;
    return last;
}

bool keyval_bool(struct keyval *kv, const char *key, bool def)
{
    const char *v = keyval_str(kv, key);

    if (!v)
        return def;
    if (strcmp(v, "on") == 0 || strcmp(v, "yes") == 0 || strcmp(v, "true") == 0 ||
        strcmp(v, "y") == 0)
        return true;
    if (strcmp(v, "off") != 0 && strcmp(v, "no") != 0 && strcmp(v, "false") != 0 &&
        strcmp(v, "n") != 0)
        keyval_refuse(kv, "Parameter '%s' expects 'on' or 'off', not '%s'", key, v);
    return false;
}

u64 keyval_uint(struct keyval *kv, const char *key, u64 def, u64 min, u64 max)
{
    const char *v = keyval_str(kv, key);
    char *end;

    if (!v)
        return def;
    u64 n = g_ascii_strtoull(v, &end, 0);
    if (!g_ascii_isdigit(*v) || *end || n < min || n > max) {
        keyval_refuse(kv,
                      "Parameter '%s' expects a number from %" G_GUINT64_FORMAT
                      " to %" G_GUINT64_FORMAT ", not '%s'",
                      key, min, max, v);
        return def;
    }
    return n;
}

bool keyval_done(struct keyval *kv, GError **error)
{
    for (u32 k = 0; k < kv->pairs->len; k++) {
        struct pair *p = &g_array_index(kv->pairs, struct pair, k);
        if (!p->used)
            keyval_refuse(kv, "Invalid parameter '%s'", p->key);
    }
    return !kv->complaint || fail(error, ERR_ARGUMENT, "%s: %s", kv->what, kv->complaint);
}
