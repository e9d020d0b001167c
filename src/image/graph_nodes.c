// SPDX-License-Identifier: GPL-2.0-or-later
/* graph_nodes.c - the nodes of a VM by name: which there are, who uses them.  See graph.h. */
#include <string.h>

#include "base/error.h"
#include "image/graph_impl.h"
#include "image/job.h"

enum { NAME_MAX_BYTES = 31 };

/* --- the graph itself ------------------------------------------------------------------------
 */

struct graph *graph_new(GMainContext *main, graph_lookup *lookup, graph_event *event,
                        void *opaque)
{
    struct graph *g = g_new0(struct graph, 1);

    g->main = main;
    g->lookup = lookup;
    g->event = event;
    g->opaque = opaque;
    g->nodes = g_ptr_array_new();
    g->images = g_ptr_array_new();
    g->jobs = g_ptr_array_new();
    pthread_mutex_init(&g->lock, NULL);
    g_queue_init(&g->calls);
    return g;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    graph_stop_jobs(g);
    for (guint i = 0; i < g->nodes->len;) {
        struct node *n = g->nodes->pdata[i];

        if (n->monitor) {
            n->monitor = false;
            node_unref(n);
            i = 0; /* its children may have gone with it */
        } else {
            i++;
        }
    }
    for (guint i = 0; i < g->nodes->len; i++)
        ((struct node *)g->nodes->pdata[i])->graph = NULL;
    for (guint i = 0; i < g->images->len; i++)
        ((struct image *)g->images->pdata[i])->graph = NULL;
    if (g->source) {
        g_source_destroy(g->source);
        g_source_unref(g->source);
    }
    g_ptr_array_unref(g->nodes);
    g_ptr_array_unref(g->images);
    g_ptr_array_unref(g->jobs);
    pthread_mutex_destroy(&g->lock);
    g_free(g);
}

struct call {
    void (*fn)(void *opaque);
    void *opaque;
};

void graph_run_calls(struct graph *g)
{
    for (;;) {
        pthread_mutex_lock(&g->lock);
        struct call *c = g_queue_pop_head(&g->calls);
        if (!c && g->source) {
            g_source_destroy(g->source);
            g_source_unref(g->source);
            g->source = NULL;
        }
        pthread_mutex_unlock(&g->lock);
        if (!c)
            return;
        c->fn(c->opaque);
        g_free(c);
    }
}

static gboolean run_calls(gpointer opaque)
{
    graph_run_calls(opaque);
    return G_SOURCE_REMOVE;
}

void graph_call(struct graph *g, void (*fn)(void *opaque), void *opaque)
{
    struct call *c = g_new(struct call, 1);

    *c = (struct call){ fn, opaque };
    pthread_mutex_lock(&g->lock);
    g_queue_push_tail(&g->calls, c);
    if (!g->source) {
        g->source = g_idle_source_new();
        g_source_set_priority(g->source, G_PRIORITY_DEFAULT);
        g_source_set_callback(g->source, run_calls, g, NULL);
        g_source_attach(g->source, g->main);
    }
    pthread_mutex_unlock(&g->lock);
}

void graph_pause(struct graph *g)
{
    for (guint i = 0; i < g->images->len; i++)
        image_pause(g->images->pdata[i]);
}

void graph_resume(struct graph *g)
{
    for (guint i = 0; i < g->images->len; i++)
        image_resume(g->images->pdata[i]);
}

void graph_add_image(struct graph *g, struct image *img)
{
    g_ptr_array_add(g->images, img);
}

void graph_remove_image(struct graph *g, struct image *img)
{
    g_ptr_array_remove(g->images, img);
}

/* --- names -----------------------------------------------------------------------------------
 */

struct node *graph_find_node(struct graph *g, const char *name)
{
    for (guint i = 0; i < g->nodes->len; i++) {
        struct node *n = g->nodes->pdata[i];

        if (strcmp(n->name, name) == 0)
            return n;
    }
    return NULL;
}

struct node *graph_find(struct graph *g, const char *name, GError **error)
{
    struct image *img = g->lookup ? g->lookup(g->opaque, name) : NULL;
    struct node *n = img ? img->node : graph_find_node(g, name);

    if (!n)
        fail(error, ERR_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", name, name);
    return n;
}

const char *graph_node_name(const struct node *n)
{
    return n->name;
}

bool graph_name_ok(struct graph *g, const char *name, GError **error)
{
    bool well = g_ascii_isalpha(name[0]) && strlen(name) <= NAME_MAX_BYTES;

    for (const char *p = name; *p && well; p++)
        well = g_ascii_isalnum(*p) || strchr("-._", *p);
    if (!well)
        return fail(error, ERR_ARGUMENT,
                    "Invalid node-name: '%s' (a letter, then at most %d letters, digits, '-', "
                    "'.', '_')",
                    name, NAME_MAX_BYTES - 1);
    if (graph_find_node(g, name))
        return fail(error, ERR_ARGUMENT, "Duplicate nodes with node-name='%s'", name);
    if (g->lookup && g->lookup(g->opaque, name))
        return fail(error, ERR_ARGUMENT, "node-name=%s is conflicting with a device id", name);
    return true;
}

void graph_add_node(struct graph *g, struct node *n)
{
    while (!n->name) {
        n->name = g_strdup_printf("#block%03u", g->next_name++);
        if (graph_find_node(g, n->name))
            g_clear_pointer(&n->name, g_free);
    }
    n->graph = g;
    g_ptr_array_add(g->nodes, n);
}

void graph_forget_node(struct graph *g, struct node *n)
{
    g_ptr_array_remove(g->nodes, n);
}

u32 graph_count(const struct graph *g)
{
    return g->nodes->len;
}

struct node *graph_node_at(struct graph *g, u32 i)
{
    return g->nodes->pdata[i];
}

void graph_node_info(struct node *n, struct graph_node_info *ret)
{
    *ret = (struct graph_node_info){
        .name = n->name,
        .filename = n->filename,
        .format = n->drv->name,
        .read_only = n->read_only,
        .size = n->size,
        .cache = n->cache,
        .detect_zeroes = n->detect_zeroes,
        .backing = n->backing,
        .backing_file = n->backing ? n->backing->filename : NULL,
    };
    for (const struct node *b = n->backing; b; b = b->backing)
        ret->backing_depth++;
}

struct image_info *graph_image_info(struct node *n)
{
    return node_get_info(n);
}

struct node *graph_image_node(struct image *img)
{
    return img->node;
}

/* --- who uses a node -------------------------------------------------------------------------
 */

struct node *node_parent(struct node *n)
{
    for (guint i = 0; i < n->graph->nodes->len; i++) {
        struct node *p = n->graph->nodes->pdata[i];

        if (p->file == n || p->backing == n || p->data_file == n)
            return p;
    }
    return NULL;
}

static struct image *door(struct node *n)
{
    for (guint i = 0; i < n->graph->images->len; i++) {
        struct image *img = n->graph->images->pdata[i];

        if (img->node == n)
            return img;
    }
    return NULL;
}

bool node_no_job(struct node *n, GError **error)
{
    return !n->job ||
           fail(error, ERR_BUSY, "Node '%s' is busy: block device is in use by block job: %s",
                n->name, job_type(n->job));
}

bool node_unused(struct node *n, GError **error)
{
    struct node *p = node_parent(n);

    if (!node_no_job(n, error))
        return false;
    if (p)
        return fail(error, ERR_BUSY, "Node '%s' is busy: node is used as %s of '%s'", n->name,
                    p->backing == n ? "backing hd" : "file", p->name);
    return !door(n) || fail(error, ERR_BUSY, "Node '%s' is busy: a device uses it", n->name);
}

bool graph_image_free(struct image *img, GError **error)
{
    return !img || !img->graph || node_no_job(img->node, error);
}

/* Does somebody write to it? */
static bool written(struct node *n)
{
    struct node *p = node_parent(n);
    struct image *img = door(n);

    return (p && p->backing != n && !p->read_only) || (img && !img->read_only) || n->job;
}

struct node *graph_refer(struct graph *g, const char *name, bool write, GError **error)
{
    struct node *n = graph_find_node(g, name);

    if (!n) {
        fail(error, ERR_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", name, name);
        return NULL;
    }
    if (write && n->read_only && !n->auto_ro) {
        fail(error, ERR_ARGUMENT, "Block node '%s' is read-only", name);
        return NULL;
    }
    if (write && !node_unused(n, error))
        return NULL;
    if (write && !graph_set_writable(g, n, true, error))
        return NULL;
    if (!write && written(n)) {
        fail(error, ERR_BUSY, "Node '%s' is busy: somebody writes to it", name);
        return NULL;
    }
    return node_ref(n);
}

/* --- adding and removing ---------------------------------------------------------------------
 */

bool graph_blockdev_add(struct graph *g, struct dict *d, GError **error)
{
    struct open_how how = { .write = true, .graph = g };

    if (!dict_peek(d, "node-name") || !dict_peek(d, "driver")) {
        fail(error, ERR_ARGUMENT, "Parameter '%s' is missing",
             dict_peek(d, "driver") ? "node-name" : "driver");
        dict_free(d);
        return false;
    }
    /* A protocol's node alone: whoever comes to stand on it says whether it is written to. */
    const struct driver *drv = driver_find(dict_peek(d, "driver"));
    bool auto_ro = drv && drv->kind == PROTOCOL && drv->set_writable &&
                   g_strcmp0(dict_peek(d, "auto-read-only"), "on") == 0 &&
                   g_strcmp0(dict_peek(d, "read-only"), "on") != 0;
    if (auto_ro)
        dict_set(d, "read-only", "on");
    struct node *n = node_open_dict(d, &how, error);
    if (n) {
        n->monitor = true;
        n->auto_ro = auto_ro;
    }
    return n != NULL;
}

bool graph_blockdev_del(struct graph *g, const char *name, GError **error)
{
    struct node *n = graph_find_node(g, name);

    if (!n)
        return fail(error, ERR_NOT_FOUND, "Failed to find node with node-name='%s'", name);
    if (!node_no_job(n, error))
        return false;
    if (!n->monitor)
        return fail(error, ERR_BUSY, "Node %s is not owned by the monitor", name);
    if (!node_unused(n, error))
        return false;
    n->monitor = false;
    node_flush(n);
    node_unref(n);
    return true;
}

void graph_own(struct graph *g, const char *name)
{
    struct node *n = graph_find_node(g, name);

    if (!n || n->monitor)
        return;
    n->monitor = true;
    node_ref(n);
}

struct image *graph_open_image(struct graph *g, const char *name, bool read_only,
                               GError **error)
{
    struct node *n = graph_refer(g, name, !read_only, error);

    return n ? image_over(n, g, read_only) : NULL;
}

struct image *graph_export_image(struct graph *g, const char *name, bool writable,
                                 GError **error)
{
    struct node *n = graph_find(g, name, error);

    if (!n)
        return NULL;
    if (writable)
        return graph_open_image(g, n->name, false, error);
    return image_over(node_ref(n), g, true);
}

struct node *graph_create(struct graph *g, const struct new_image *a, GError **error)
{
    struct open_how how = {
        .write = true, .no_backing = true, .discard = a->discard, .cache = a->cache, .graph = g
    };
    g_autodict options = dict_new();

    if (a->node_name && !graph_name_ok(g, a->node_name, error))
        return NULL;
    if (!a->existing) {
        if (a->backing)
            dict_set(options, "backing_file", a->backing);
        if (a->backing)
            dict_set(options, "backing_fmt", a->backing_format);
        if (!image_create(a->file, a->format ? a->format : "qcow2", a->size,
                          g_steal_pointer(&options), true, NULL, error))
            return NULL;
    }
    struct dict *d = dict_new();
    if (a->format)
        dict_set(d, "driver", a->format);
    if (a->node_name)
        dict_set(d, "node-name", a->node_name);
    struct dict *file = dict_new();
    dict_set(file, "filename", a->file);
    dict_put(d, "file", file);
    return node_open_dict(d, &how, error);
}

/* --- changing what stands on what ------------------------------------------------------------
 */

static bool below(const struct node *top, const struct node *n)
{
    for (; top; top = top->backing) {
        if (top == n)
            return true;
    }
    return false;
}

static void swap(struct node **at, struct node *to)
{
    struct node *old = *at;

    *at = node_ref(to);
    node_unref(old);
}

void graph_replace(struct graph *g, struct node *from, struct node *to)
{
    node_ref(from); /* its last user may be among those */
    to->detect_zeroes = from->detect_zeroes;
    for (guint i = 0; i < g->images->len; i++) {
        struct image *img = g->images->pdata[i];

        pthread_mutex_lock(&img->lock);
        if (img->node == from)
            swap(&img->node, to);
        pthread_mutex_unlock(&img->lock);
    }
    for (guint i = 0; i < g->nodes->len; i++) {
        struct node *p = g->nodes->pdata[i];

        if (below(to, p))
            continue;
        if (p->file == from)
            swap(&p->file, to);
        if (p->backing == from)
            swap(&p->backing, to);
    }
    node_unref(from);
}

void node_set_backing(struct node *n, struct node *backing)
{
    struct node *old = n->backing;

    n->backing = backing ? node_ref(backing) : NULL;
    node_unref(old);
}

const char *node_backing_format(const struct node *n)
{
    while (n->drv->kind == FILTER && n->file) /* headers know of no filters */
        n = n->file;
    return n->drv->name;
}

bool node_write_backing(struct node *n, const char *name, const char *format, GError **error)
{
    if (!n->drv->set_backing)
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': format %s does not support backing files", n->filename,
                    n->drv->name);
    if (n->read_only)
        return fail(error, ERR_IO, "image '%s' is open for reading only", n->filename);
    if (!n->drv->set_backing(n, name, format, error))
        return false;
    g_free(n->backing_name);
    g_free(n->backing_format);
    n->backing_name = g_strdup(name);
    n->backing_format = g_strdup(format);
    return true;
}

/* The protocols below; their locks follow. */
static bool files_writable(struct node *n, bool on, GError **error)
{
    if (n->read_only == !on)
        return true;
    if (n->drv->kind != PROTOCOL)
        return (!n->data_file || files_writable(n->data_file, on, error)) &&
               (!n->file || files_writable(n->file, on, error));
    if (!n->drv->set_writable)
        return fail(error, ERR_UNSUPPORTED,
                    "Node '%s': %s cannot change between reading and writing while it is open",
                    n->name, n->drv->name);
    return n->drv->set_writable(n, on, error);
}

/* The same format over the same file once more, opened for writing. */
static struct node *open_again(struct graph *g, struct node *n, GError **error)
{
    struct open_how how = {
        .write = true, .no_backing = true, .discard = n->discard, .cache = n->cache
    };

    if (n->data_file) {
        fail(error, ERR_UNSUPPORTED,
             "Node '%s' has a data file: it cannot be opened anew for writing", n->name);
        return NULL;
    }
    g_autodict d = n->opened_with ? dict_copy(n->opened_with) : dict_new();
    struct node *again = node_open_over(n->drv, d, node_ref(n->file), &how, error);
    if (!again)
        return NULL;
    graph_forget_node(g, n);
    g_free(again->name);
    again->name = g_steal_pointer(&n->name);
    n->name = g_strdup(""); /* on its way out */
    again->cache = n->cache;
    again->opened_with = g_steal_pointer(&n->opened_with);
    again->opened_rw = true;
    g_free(again->filename);
    again->filename = g_strdup(n->filename);
    again->backing = g_steal_pointer(&n->backing);
    graph_add_node(g, again);
    n->graph = NULL;
    again->job = n->job;
    node_bitmaps_free(again); /* it has read them itself; but who uses them knows the others */
    again->taps[TAP_BITMAPS] = g_steal_pointer(&n->taps[TAP_BITMAPS]);
    if (n->monitor) {
        n->monitor = false;
        again->monitor = true;
        node_ref(again);
        node_unref(n); /* one of several: who called us holds another */
    }
    return again;
}

struct node *graph_set_writable(struct graph *g, struct node *n, bool on, GError **error)
{
    if (n->read_only == !on)
        return n;
    if (!on) {
        /* Twice: what the first one frees is counted by the second. */
        int r = node_flush(n);
        if (!r)
            r = node_flush(n);
        if (r) {
            fail_errno(error, -r, "Node '%s': flush", n->name);
            return NULL;
        }
        if (n->drv->bitmaps && !n->drv->bitmaps->store(n, error))
            return NULL;
        if (!files_writable(n, false, error))
            return NULL;
        n->read_only = true;
        return n;
    }
    if (!n->drv->write) {
        fail(error, ERR_UNSUPPORTED, "Node '%s': format %s is read-only here", n->name,
             n->drv->name);
        return NULL;
    }
    if (!files_writable(n, true, error))
        return NULL;
    if (n->opened_rw || n->drv->kind == PROTOCOL) {
        n->read_only = false;
        if (n->drv->bitmaps && !n->drv->bitmaps->in_use(n, error)) {
            n->read_only = true;
            return NULL;
        }
        return n;
    }
    struct node *again = open_again(g, n, error);
    if (!again) {
        files_writable(n, false, NULL);
        return NULL;
    }
    node_ref(n);
    graph_replace(g, n, again);
    node_unref(n);
    node_unref(again); /* those who stood on n hold it */
    return again;
}

bool graph_change_backing(struct graph *g, const char *device, const char *node,
                          const char *file, GError **error)
{
    struct node *top = graph_find(g, device, error);
    struct node *n = top ? graph_find_node(g, node) : NULL;

    if (top && !n)
        return fail(error, ERR_NOT_FOUND, "Cannot find device='' nor node-name='%s'", node);
    if (!top || !node_no_job(n, error))
        return false;
    if (!n->backing)
        return fail(error, ERR_ARGUMENT,
                    "not allowing backing file change on an image without a backing file");
    if (!below(top, n))
        return fail(error, ERR_ARGUMENT, "'%s' and image file are not in the same chain",
                    device);
    bool was = !n->read_only;
    graph_pause(g);
    struct node *w = graph_set_writable(g, n, true, error);
    bool ok = w && node_write_backing(w, file, node_backing_format(w->backing), error);
    if (w && !was && !graph_set_writable(g, w, false, ok ? error : NULL))
        ok = false;
    graph_resume(g);
    return ok;
}

/* --- size ------------------------------------------------------------------------------------
 */

bool graph_resize(struct graph *g, const char *name, s64 size, GError **error)
{
    struct node *n = graph_find(g, name, error);

    if (!n || !node_no_job(n, error))
        return false;
    if (size < 0)
        return fail(error, ERR_ARGUMENT, "Parameter 'size' expects a >0 size");
    if (node_parent(n))
        return fail(error, ERR_BUSY, "Node '%s' is busy: node is used as %s of '%s'", n->name,
                    node_parent(n)->backing == n ? "backing hd" : "file", node_parent(n)->name);
    if (n->read_only || !n->drv->resize)
        return fail(error, n->read_only ? ERR_IO : ERR_UNSUPPORTED,
                    n->read_only ? "Node '%s' is read only"
                                 : "Image format driver of '%s' does not support resize",
                    n->name);
    if (!node_bitmaps_resizable(n, error))
        return false;
    graph_pause(g);
    bool ok = n->drv->resize(n, (u64)size, NULL, error) && node_bitmaps_resize(n, error);
    graph_resume(g);
    for (guint i = 0; ok && i < g->images->len; i++) {
        struct image *img = g->images->pdata[i];

        if (img->node == n && img->resized)
            img->resized(img->resized_opaque);
    }
    return ok;
}

/* --- internal snapshots ----------------------------------------------------------------------
 */

static struct node *snapshots_of(struct graph *g, const char *device, GError **error)
{
    struct node *n = graph_find(g, device, error);

    if (!n || !node_no_job(n, error))
        return NULL;
    if (n->read_only) {
        fail(error, ERR_IO, "Device '%s' is read only", device);
        return NULL;
    }
    if (!n->drv->snapshots) {
        fail(error, ERR_UNSUPPORTED,
             "Block format '%s' used by device '%s' does not support feature 'internal "
             "snapshots'",
             n->drv->name, device);
        return NULL;
    }
    return n;
}

bool graph_snapshot_internal(struct graph *g, const char *device, const char *name,
                             u64 vm_clock_nsec, GError **error)
{
    struct transaction *t = transaction_begin(g);
    bool ok = transaction_internal(t, device, name, vm_clock_nsec, error);

    transaction_end(t, ok);
    return ok;
}

bool node_snapshot_internal(struct graph *g, const char *device, const char *name,
                            u64 vm_clock_nsec, struct node **ret, GError **error)
{
    s64 now = g_get_real_time();
    struct image_snapshot s = { .name = (char *)name,
                                .date_sec = (u32)(now / G_USEC_PER_SEC),
                                .date_nsec = (u32)(now % G_USEC_PER_SEC) * 1000,
                                .vm_clock_nsec = vm_clock_nsec,
                                .icount = UINT64_MAX };
    struct node *n = snapshots_of(g, device, error);

    if (!n)
        return false;
    if (!*name)
        return fail(error, ERR_ARGUMENT, "Name is empty");
    g_autoptr(GPtrArray) all = n->drv->snapshots->list(n);
    u64 last = 0;
    for (guint i = 0; i < all->len; i++) {
        const struct image_snapshot *o = all->pdata[i];

        if (strcmp(o->name, name) == 0)
            return fail(error, ERR_ARGUMENT,
                        "Snapshot with name '%s' already exists on device '%s'", name, device);
        last = MAX(last, g_ascii_strtoull(o->id, NULL, 10));
    }
    g_autofree char *id = g_strdup_printf("%" G_GUINT64_FORMAT, last + 1);
    s.id = id;
    if (!n->drv->snapshots->create(n, &s, error))
        return false;
    *ret = n;
    return true;
}

bool graph_snapshot_internal_delete(struct graph *g, const char *device, const char *id,
                                    const char *name, struct image_snapshot **ret,
                                    GError **error)
{
    struct node *n = snapshots_of(g, device, error);

    if (!n)
        return false;
    if (!id && !name)
        return fail(error, ERR_ARGUMENT, "Name or id must be provided");
    g_autoptr(GPtrArray) all = n->drv->snapshots->list(n);
    for (guint i = 0; i < all->len; i++) {
        struct image_snapshot *s = all->pdata[i];

        if ((id && strcmp(s->id, id) != 0) || (name && strcmp(s->name, name) != 0))
            continue;
        struct image_snapshot *was = g_new(struct image_snapshot, 1);
        *was = *s;
        was->id = g_strdup(s->id);
        was->name = g_strdup(s->name);
        graph_pause(g);
        bool ok = n->drv->snapshots->remove(n, was->id, error);
        graph_resume(g);
        if (ok)
            *ret = was;
        else
            image_snapshot_free(was);
        return ok;
    }
    return fail(error, ERR_NOT_FOUND,
                "Snapshot with id '%s' and name '%s' does not exist on device '%s'",
                id ? id : "(null)", name ? name : "(null)", device);
}
