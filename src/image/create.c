// SPDX-License-Identifier: GPL-2.0-or-later
/* create.c - new images, and tables of options.  See image.h. */
#include <string.h>

#include "base/error.h"
#include "image/inside.h"

static const struct image_option none[] = { { NULL } };

static const struct image_option *find(const struct image_option *t, const char *name)
{
    for (; t && t->name; t++) {
        if (!strcmp(t->name, name))
            return t;
    }
    return NULL;
}

/* --- help ------------------------------------------------------------------------------------
 */

static int by_name(gconstpointer a, gconstpointer b)
{
    const struct image_option *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static char *help_of(const struct image_option *a, const struct image_option *b)
{
    static const char *const types[] = { "str", "bool (on/off)", "size", "num" };
    GString *s = g_string_new("Supported options:\n");
    g_autoptr(GPtrArray) all = g_ptr_array_new();

    for (; a && a->name; a++)
        g_ptr_array_add(all, (void *)a);
    for (; b && b->name; b++) {
        bool known = false;
        for (guint i = 0; i < all->len; i++)
            known |= !strcmp(((struct image_option *)all->pdata[i])->name, b->name);
        if (!known)
            g_ptr_array_add(all, (void *)b);
    }
    g_ptr_array_sort(all, by_name);
    for (guint i = 0; i < all->len; i++) {
        const struct image_option *o = all->pdata[i];
        g_autofree char *head = g_strdup_printf("%s=<%s>", o->name, types[o->type]);

        g_string_append_printf(s, o->help ? "  %-22s - %s\n" : "  %s\n", head, o->help);
    }
    return g_string_free(s, FALSE);
}

static const struct driver *creatable(const char *format, GError **error)
{
    const struct driver *drv = driver_find(format);

    if (!drv || drv->kind != FORMAT) {
        fail(error, ERR_ARGUMENT, "Unknown file format '%s'", format);
        return NULL;
    }
    if (!drv->create) {
        fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support image creation",
             format);
        return NULL;
    }
    return drv;
}

static const struct driver *protocol_of(const char *path, struct dict **ret, GError **error)
{
    struct dict *d = dict_new();

    if (!node_parse_protocol(path, d, error)) {
        dict_free(d);
        return NULL;
    }
    *ret = d;
    return driver_find(dict_peek(d, "driver"));
}

char *image_create_help(const char *format, const char *path, GError **error)
{
    const struct driver *drv = creatable(format, error), *proto;
    g_autodict d = NULL;

    if (!drv || !(proto = protocol_of(path ? path : "x", &d, error)))
        return NULL;
    return help_of(drv->create_options, proto->create_options);
}

char *image_amend_help(const char *format, GError **error)
{
    const struct driver *drv = driver_find(format);

    if (!drv || !drv->amend) {
        fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support option amendment",
             format);
        return NULL;
    }
    return help_of(drv->amend_options, none);
}

/* --- creating --------------------------------------------------------------------------------
 */

struct node *node_create_file(const char *name, struct dict *options, GError **error)
{
    static const struct open_how how = { .write = true };
    struct dict *d = NULL;
    const struct driver *proto = protocol_of(name, &d, error);

    if (proto && proto->create_file) {
        g_autodict c = dict_copy(d);

        if (options)
            dict_merge(c, options);
        dict_str(c, "driver");
        if (!proto->create_file(c, error) || !dict_done(c, name, error)) {
            dict_free(d);
            return NULL;
        }
    }
    return proto ? node_open_dict(d, &how, error) : NULL;
}

/* Moves what only the protocol knows out of o. */
static struct dict *split(struct dict *o, const struct driver *drv, const struct driver *proto,
                          GError **error)
{
    g_autodict p = dict_new();
    GList *keys = dict_keys(o);
    bool ok = true;

    for (GList *k = keys; ok && k; k = k->next) {
        const char *key = k->data;

        if (find(drv->create_options, key))
            continue;
        if ((ok = find(proto->create_options, key)))
            dict_set(p, key, dict_peek(o, key));
        else
            fail(error, ERR_ARGUMENT, "Invalid parameter '%s'", key);
    }
    g_list_free(keys);
    if (!ok)
        return NULL;
    for (const struct image_option *t = proto->create_options; t && t->name; t++) {
        if (!find(drv->create_options, t->name))
            dict_remove(o, t->name);
    }
    return g_steal_pointer(&p);
}

static void announce_table(GString *s, const struct image_option *t, struct dict *o)
{
    for (; t && t->name; t++) {
        const char *v = dict_peek(o, t->name);
        u64 n;

        if (!v && !t->def)
            continue;
        g_autofree char *value = g_strdup(v ? v : t->def);
        if (t->type == OPTION_SIZE && parse_size(value, UINT64_MAX, &n)) {
            g_free(value);
            value = g_strdup_printf("%" G_GUINT64_FORMAT, n);
        }
        g_string_append_printf(s, " %s=", t->name);
        for (const char *p = value; *p; p++) {
            if (*p == ',')
                g_string_append_c(s, ',');
            g_string_append_c(s, *p);
        }
    }
}

/* The backing file must be there (unless unsafe); its size is the default. */
static bool look_at_backing(const char *path, struct dict *o, bool unsafe, u64 *size,
                            GError **error)
{
    const char *name = dict_peek(o, "backing_file"), *format = dict_peek(o, "backing_fmt");

    if (format && (!driver_find(format) || driver_find(format)->kind != FORMAT))
        return fail(error, ERR_ARGUMENT, "Unknown backing file format '%s'", format);
    if (!name || !*name)
        return true;
    g_autofree char *full = node_sibling(path, name);
    if (!strcmp(full, path))
        return fail(error, ERR_ARGUMENT,
                    "Error: Trying to create an image with the same filename as the backing "
                    "file");
    if (unsafe)
        return *size != UINT64_MAX ||
               fail(error, ERR_ARGUMENT, "Image creation needs a size parameter");

    struct open_how how = { .depth = 1, .no_io = *size != UINT64_MAX };
    struct node *n = node_open_name(full, format, &how, error);
    if (!n) {
        if (error)
            g_prefix_error(error, "Could not open backing image: ");
        return false;
    }
    if (*size == UINT64_MAX)
        *size = n->size;
    bool ok = format || fail(error, ERR_ARGUMENT,
                             "Backing file specified without backing format\n"
                             "Detected format of %s.",
                             n->drv->name);
    node_unref(n);
    return ok;
}

bool image_create(const char *path, const char *format, u64 size, struct dict *options,
                  bool unsafe_backing, char **ret_announce, GError **error)
{
    g_autodict o = options;
    g_autodict where = NULL;
    g_autodict protocol = NULL;
    const struct driver *drv = creatable(format, error), *proto;
    char text[32];

    if (!drv || !(proto = protocol_of(path, &where, error)))
        return false;
    if (dict_has(o, "size") && size == UINT64_MAX &&
        !parse_size(dict_peek(o, "size"), INT64_MAX, &size))
        return fail(error, ERR_ARGUMENT, "Invalid image size specified");
    if (!(protocol = split(o, drv, proto, error)))
        return false;
    if (dict_has(o, "backing_file") && !drv->backing)
        return fail(error, ERR_UNSUPPORTED, "Backing file not supported for file format '%s'",
                    format);
    if (!look_at_backing(path, o, unsafe_backing, &size, error))
        return false;
    if (size == UINT64_MAX)
        return fail(error, ERR_ARGUMENT, "Image creation needs a size parameter");
    if (size > INT64_MAX)
        return fail(error, ERR_LIMIT, "Image size must be less than 8 EiB!");
    g_snprintf(text, sizeof text, "%" G_GUINT64_FORMAT, size);
    dict_set(o, "size", text);
    dict_str(o, "size");
    if (ret_announce) {
        GString *s = g_string_new(NULL);

        g_string_printf(s, "Formatting '%s', fmt=%s", path, format);
        announce_table(s, drv->create_options, o);
        announce_table(s, proto->create_options, protocol);
        *ret_announce = g_string_free(s, FALSE);
    }
    struct node *file = node_create_file(path, protocol, error);
    if (!file)
        return false;
    bool ok = drv->create(file, size, o, error) && dict_done(o, format, error);
    int r = node_flush(file);
    if (ok && r)
        ok = fail_errno(error, -r, "'%s'", path);
    node_unref(file);
    return ok;
}

bool image_measure(const char *format, u64 size, u64 data, struct dict *o,
                   struct image_measure *ret, GError **error)
{
    const struct driver *drv = driver_find(format);

    *ret = (struct image_measure){ 0 };
    if (!drv || drv->kind != FORMAT)
        return fail(error, ERR_ARGUMENT, "Unknown file format '%s'", format);
    if (!drv->measure)
        return fail(error, ERR_UNSUPPORTED, "Format driver '%s' does not support measuring",
                    format);
    return drv->measure(size, data, o, ret, error) && dict_done(o, format, error);
}
