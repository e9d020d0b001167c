// SPDX-License-Identifier: GPL-2.0-or-later
/* graph.c - from names and options to open nodes.  See node.h. */
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "image/graph_impl.h"

const struct driver *driver_find(const char *name)
{
    for (u32 i = 0; drivers[i]; i++) {
        if (!strcmp(drivers[i]->name, name))
            return drivers[i];
    }
    return NULL;
}

const struct driver *probe_format(const u8 *head, size_t n_head, const u8 *tail, size_t n_tail,
                                  const char *filename)
{
    const struct driver *best = NULL;
    int best_score = 0;

    for (u32 i = 0; drivers[i]; i++) {
        int score = drivers[i]->kind == FORMAT && drivers[i]->probe
                        ? drivers[i]->probe(head, n_head, tail, n_tail, filename)
                        : 0;
        if (score > best_score) {
            best = drivers[i];
            best_score = score;
        }
    }
    return best;
}

static const struct driver *probe_node(struct node *file, GError **error)
{
    u8 head[PROBE_BYTES], tail[512];
    size_t n_head = MIN(file->size, sizeof head), n_tail = file->size >= 512 ? 512 : 0;
    int r = node_pread(file, 0, head, n_head);

    if (!r)
        r = node_pread(file, file->size - n_tail, tail, n_tail);
    if (r) {
        fail_errno(error, -r, "image '%s': reading its first bytes", file->filename);
        return NULL;
    }
    return probe_format(head, n_head, tail, n_tail, file->filename);
}

struct node *node_alloc(const struct driver *drv)
{
    struct node *n = g_malloc0(drv->size);

    n->drv = drv;
    n->refs = 1;
    return n;
}

struct node *node_ref(struct node *n)
{
    n->refs++;
    return n;
}

static void node_free(struct node *n)
{
    if (n->graph)
        graph_forget_node(n->graph, n);
    node_bitmaps_free(n);
    node_unref(n->backing);
    node_unref(n->data_file);
    node_unref(n->file);
    g_free(n->name);
    g_free(n->filename);
    g_free(n->backing_name);
    g_free(n->backing_format);
    dict_free(n->opened_with);
    g_free(n);
}

void node_unref(struct node *n)
{
    if (!n || --n->refs)
        return;
    if (n->drv->close)
        n->drv->close(n);
    node_free(n);
}

/* --- names -----------------------------------------------------------------------------------
 */

/* A word and a colon before any slash: a protocol, not a path. */
static bool has_protocol(const char *name)
{
    return name[strcspn(name, ":/")] == ':' && name[0] != ':';
}

char *node_sibling(const char *filename, const char *name)
{
    const char *slash = strrchr(filename, '/');

    if (name[0] == '/' || has_protocol(name) || !slash || g_str_has_prefix(filename, "json:"))
        return g_strdup(name);
    return g_strdup_printf("%.*s%s", (int)(slash + 1 - filename), filename, name);
}

bool node_parse_protocol(const char *name, struct dict *d, GError **error)
{
    if (strlen(name) > 4095)
        return fail(error, ERR_ARGUMENT, "a file name is longer than 4095 bytes");
    for (u32 i = 0; has_protocol(name) && drivers[i]; i++) {
        for (u32 k = 0; drivers[i]->prefixes && drivers[i]->prefixes[k]; k++) {
            if (!g_str_has_prefix(name, drivers[i]->prefixes[k]))
                continue;
            dict_set(d, "driver", drivers[i]->name);
            return drivers[i]->parse(name, d, error);
        }
    }
    if (has_protocol(name))
        return fail(error, ERR_UNSUPPORTED, "Unknown protocol '%.*s'", (int)strcspn(name, ":"),
                    name);
    if (!*name)
        return fail(error, ERR_ARGUMENT, "The 'file' block driver requires a file name");
    struct stat st;
    bool device = stat(name, &st) == 0 && S_ISBLK(st.st_mode);
    dict_set(d, "driver", device ? "host_device" : "file");
    dict_set(d, "filename", name);
    return true;
}

/* --- opening ---------------------------------------------------------------------------------
 */

/* Options that every node takes. */
static void common_options(struct dict *d, struct open_how *how)
{
    static const char *const discards[] = { "ignore", "unmap", "off", "on", NULL };

    if (dict_bool(d, "read-only", false))
        how->write = false;
    dict_bool(d, "auto-read-only", false);
    if (dict_bool(d, "force-share", false))
        how->force_share = true;
    int discard = dict_enum(d, "discard", discards, -1);
    if (discard >= 0)
        how->discard = discard & 1;
    bool direct = dict_bool(d, "cache.direct",
                            how->cache == IMAGE_NONE || how->cache == IMAGE_DIRECTSYNC);
    bool sync = how->cache == IMAGE_WRITETHROUGH || how->cache == IMAGE_DIRECTSYNC;
    bool no_flush = dict_bool(d, "cache.no-flush", how->cache == IMAGE_UNSAFE);
    how->cache = no_flush ? IMAGE_UNSAFE
                 : direct ? (sync ? IMAGE_DIRECTSYNC : IMAGE_NONE)
                          : (sync ? IMAGE_WRITETHROUGH : IMAGE_WRITEBACK);
}

/* d: all that belongs to a child, with or without a driver; takes it. */
static struct node *open_protocol(struct dict *d, const struct open_how *how, GError **error)
{
    const char *name = dict_peek(d, "filename");

    if (!dict_has(d, "driver")) {
        g_autofree char *copy = g_strdup(name ? name : "");
        dict_remove(d, "filename");
        if (!node_parse_protocol(copy, d, error)) {
            dict_free(d);
            return NULL;
        }
    }
    return node_open_dict(d, how, error);
}

/* What only the driver takes, to open it once more. */
static struct dict *own_options(const struct dict *d)
{
    static const char *const common[] = { "driver",         "node-name",     "read-only",
                                          "auto-read-only", "force-share",   "discard",
                                          "cache.direct",   "cache.no-flush" };
    struct dict *own = dict_copy(d);

    for (u32 i = 0; i < ARRAY_LEN(common); i++)
        dict_remove(own, common[i]);
    dict_free(dict_take(own, "backing"));
    dict_remove(own, "backing");
    return own;
}

struct node *node_open_over(const struct driver *drv, struct dict *d, struct node *file,
                            const struct open_how *how, GError **error)
{
    struct node *n = node_alloc(drv);
    const char *name = dict_str(d, "node-name");

    n->file = file;
    n->name = g_strdup(name);
    n->cache = how->cache;
    n->opened_rw = how->write;
    if (how->graph)
        n->opened_with = own_options(d);
    if (how->graph && name && !graph_name_ok(how->graph, name, error)) {
        node_free(n);
        return NULL;
    }
    n->read_only = !how->write || !drv->write;
    n->discard = how->discard;
    n->filename = g_strdup(file ? file->filename : dict_peek(d, "filename"));
    if (!n->filename)
        n->filename = g_strdup(drv->name);
    if (how->write && !drv->write && drv->kind == FORMAT) {
        fail(error, ERR_UNSUPPORTED, "image '%s': format %s is read-only here; open it so",
             n->filename, drv->name);
        node_free(n);
        return NULL;
    }
    if (!drv->open || !drv->open(n, d, how, error)) {
        if (!drv->open)
            fail(error, ERR_UNSUPPORTED, "driver '%s' cannot be opened by name", drv->name);
        node_free(n);
        return NULL;
    }
    if ((drv->kind == FORMAT && !node_open_backing(n, d, how, error)) ||
        !dict_done(d, drv->name, error)) {
        node_unref(n);
        return NULL;
    }
    if (drv->bitmaps && (how->write || how->graph || how->bitmaps) && !how->check &&
        !how->no_io && !drv->bitmaps->load(n, error)) {
        node_unref(n);
        return NULL;
    }
    /* A child of it may have taken the name meanwhile. */
    if (how->graph && name && !graph_name_ok(how->graph, name, error)) {
        node_unref(n);
        return NULL;
    }
    if (how->graph)
        graph_add_node(how->graph, n);
    return n;
}

struct node *node_open_dict(struct dict *d, const struct open_how *given, GError **error)
{
    struct open_how how = *given;
    const struct driver *drv = NULL;
    struct node *file = NULL, *n = NULL;
    const char *name = dict_str(d, "driver");

    how.depth++;
    if (how.depth > DEPTH_MAX) {
        fail(error, ERR_LIMIT, "an image stands on more than %d others, or on itself",
             DEPTH_MAX);
        goto out;
    }
    if (name && !(drv = driver_find(name))) {
        fail(error, ERR_UNSUPPORTED, "Unknown driver '%s'", name);
        goto out;
    }
    common_options(d, &how);
    static const char *const detects[] = { "off", "on", "unmap", NULL };
    int detect = dict_enum(d, "detect-zeroes", detects, IMAGE_DETECT_OFF);
    if (detect == IMAGE_DETECT_UNMAP && !how.discard)
        dict_refuse(d, "detect-zeroes=unmap needs discard=unmap");
    if (!drv || drv->kind != PROTOCOL) {
        const char *key = drv && drv->child ? drv->child : "file";
        struct dict *child = dict_take(d, key);
        const char *path = child ? NULL : dict_str(d, key);

        if (path && how.graph && graph_find_node(how.graph, path)) {
            file = graph_refer(how.graph, path, how.write, error);
            if (!file || (!drv && !(drv = probe_node(file, error)))) {
                node_unref(file);
                goto out;
            }
            n = node_open_over(drv, d, file, &how, error);
            goto out;
        }
        if (!child && !path)
            path = dict_str(d, "filename");
        if (!child && path) {
            child = dict_new();
            dict_set(child, "filename", path);
        }
        if (!child) {
            fail(error, ERR_ARGUMENT, "%s: file.filename= or file= is needed",
                 drv ? drv->name : "image");
            goto out;
        }
        file = drv && drv->kind == FILTER ? node_open_dict(child, &how, error)
                                          : open_protocol(child, &how, error);
        if (!file || (!drv && !(drv = probe_node(file, error)))) {
            node_unref(file);
            goto out;
        }
    }
    n = node_open_over(drv, d, file, &how, error);
    if (n)
        n->detect_zeroes = (enum image_detect_zeroes)detect;
out:
    dict_free(d);
    return n;
}

struct dict *node_name_options(const char *name, const char *format, GError **error)
{
    struct dict *d;

    if (g_str_has_prefix(name, "json:")) {
        if (!(d = dict_from_json(name + 5, error)))
            return NULL;
    } else {
        struct dict *file = dict_new();

        if (!node_parse_protocol(name, file, error)) {
            dict_free(file);
            return NULL;
        }
        d = dict_new();
        dict_put(d, "file", file);
    }
    if (format && !dict_has(d, "driver"))
        dict_set(d, "driver", format);
    return d;
}

struct node *node_open_name(const char *name, const char *format, const struct open_how *how,
                            GError **error)
{
    struct dict *d = node_name_options(name, format, error);

    return d ? node_open_dict(d, how, error) : NULL;
}

struct node *node_open_file(const char *name, const struct open_how *how, GError **error)
{
    struct dict *d = dict_new();

    dict_set(d, "filename", name);
    return open_protocol(d, how, error);
}

struct node *node_open_child(struct node *n, struct dict *o, const char *key, const char *name,
                             const struct open_how *how, GError **error)
{
    struct dict *d = o ? dict_take(o, key) : NULL;
    const char *given = o && !d ? dict_str(o, key) : NULL;

    if (!d) {
        g_autofree char *full =
            given ? g_strdup(given) : node_sibling(n->filename, name ? name : "");
        return node_open_file(full, how, error);
    }
    return open_protocol(d, how, error);
}

bool node_open_backing(struct node *n, struct dict *o, const struct open_how *how,
                       GError **error)
{
    struct open_how below = *how;
    struct dict *d = dict_take(o, "backing");
    const char *given = d ? NULL : dict_str(o, "backing");

    below.write = below.check = below.discard = below.bitmaps = false;
    if (how->no_backing || (given && !*given) || (!d && !given && !n->backing_name)) {
        dict_free(d);
        return true;
    }
    if (d &&
        (dict_has(d, "driver") || dict_has(d, "filename") || dict_has(d, "file.filename"))) {
        n->backing = node_open_dict(d, &below, error);
    } else if (given && how->graph && graph_find_node(how->graph, given)) {
        n->backing = graph_refer(how->graph, given, false, error);
    } else {
        g_autofree char *full =
            given ? g_strdup(given)
                  : node_sibling(n->filename, n->backing_name ? n->backing_name : "");

        struct dict *all = node_name_options(full, given ? NULL : n->backing_format, error);
        if (all && d) /* what the header does not say: secrets and the like */
            dict_merge(all, d);
        dict_free(d);
        n->backing = all ? node_open_dict(all, &below, error) : NULL;
    }
    if (!n->backing && error)
        g_prefix_error(error, "Could not open backing file: ");
    return n->backing != NULL;
}
