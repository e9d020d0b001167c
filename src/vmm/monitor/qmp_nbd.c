// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_nbd.c - the QMP commands that serve disks by the NBD protocol.  Main loop. */
#include <string.h>

#include "base/error.h"
#include "image/graph.h"
#include "nbd/server.h"
#include "vmm/dev/drive.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

enum { CONNECTIONS = 100, CONNECTIONS_MAX = 4096 };

struct exports {
    struct nbd_server *server; /* NULL: none */
    GPtrArray *all;            /* struct vm_export * */
};
struct vm_export {
    struct vm *vm;
    char *id, *node;
    struct nbd_export *nbd;
    struct bitmap *bitmap; /* or NULL */
    bool leaving;
};

static struct exports *exports_of(struct vm *vm)
{
    if (!vm->exports) {
        vm->exports = g_new0(struct exports, 1);
        vm->exports->all = g_ptr_array_new();
    }
    return vm->exports;
}

void exports_free(struct vm *vm)
{
    if (!vm->exports)
        return;
    nbd_server_free(vm->exports->server);
    g_ptr_array_unref(vm->exports->all);
    g_clear_pointer(&vm->exports, g_free);
}

/* --- the server ------------------------------------------------------------------------------
 */

static const char *text_member(JsonObject *o, const char *name)
{
    JsonNode *n = o ? json_object_get_member(o, name) : NULL;

    return n && JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == G_TYPE_STRING
               ? json_node_get_string(n)
               : NULL;
}

/* Borrows the strings. */
static bool take_address(JsonNode *n, struct stream_address *ret, GError **error)
{
    JsonObject *o = n && JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
    const char *type = text_member(o, "type");
    JsonNode *inner = o ? json_object_get_member(o, "data") : NULL;
    JsonObject *d = inner && JSON_NODE_HOLDS_OBJECT(inner) ? json_node_get_object(inner) : o;
    char *path = (char *)text_member(d, "path");

    *ret = (struct stream_address){ .host = (char *)text_member(d, "host"),
                                    .port = (char *)text_member(d, "port"),
                                    .path = path };
    if (g_strcmp0(type, "unix") == 0 && path) {
        ret->kind = STREAM_UNIX;
        return true;
    }
    ret->kind = STREAM_INET;
    if (g_strcmp0(type, "inet") == 0 && ret->host && ret->port)
        return true;
    return qmp_fail(error, QMP_GENERIC_ERROR,
                    "Parameter 'addr' expects type inet with host and port, or unix with path");
}

bool qmp_nbd_server_start(struct vm *vm, const struct qmp_nbd_server_start *a,
                          struct json_out *ret UNUSED, GError **error)
{
    struct exports *x = exports_of(vm);
    struct stream_address address;
    GError *why = NULL;
    struct nbd_server_options o = { .address = &address,
                                    .max_clients = CONNECTIONS,
                                    .main = vm->main };

    if (x->server)
        return qmp_fail(error, QMP_GENERIC_ERROR, "NBD server already running");
    if (a->tls_authz)
        return qmp_fail(error, QMP_GENERIC_ERROR, "tls-authz is not supported");
    if (a->has_max_connections &&
        (a->max_connections < 0 || a->max_connections > CONNECTIONS_MAX))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'max-connections' expects 0 to %d",
                        CONNECTIONS_MAX);
    if (a->has_max_connections)
        o.max_clients = (u32)a->max_connections;
    if (!take_address(a->addr, &address, error))
        return false;
    if (a->tls_creds && !(o.tls = tls_creds_find(a->tls_creds, true, &why)))
        return qmp_told(false, &why, error);
    x->server = nbd_server_new(&o, &why);
    tls_creds_unref(o.tls);
    return qmp_told(x->server != NULL, &why, error);
}

bool qmp_nbd_server_stop(struct vm *vm, struct json_out *ret UNUSED, GError **error)
{
    struct exports *x = exports_of(vm);

    if (!x->server)
        return qmp_fail(error, QMP_GENERIC_ERROR, "NBD server not running");
    nbd_server_free(x->server);
    x->server = NULL;
    return true;
}

/* --- exports ---------------------------------------------------------------------------------
 */

static struct vm_export *find(struct vm *vm, const char *id)
{
    struct exports *x = exports_of(vm);

    for (guint i = 0; i < x->all->len; i++) {
        struct vm_export *e = x->all->pdata[i];

        if (strcmp(e->id, id) == 0)
            return e;
    }
    return NULL;
}

static void vm_export_free(struct vm_export *e)
{
    graph_bitmap_release(e->bitmap);
    g_free(e->id);
    g_free(e->node);
    g_free(e);
}

static void gone(void *opaque)
{
    struct vm_export *e = opaque;
    struct vm *vm = e->vm;
    g_autofree char *id = g_strdup(e->id);

    g_ptr_array_remove(vm->exports->all, e);
    vm_export_free(e);
    monitor_export_deleted(vm, id);
}

static bool dirty(void *opaque, u64 at, u64 len, u64 *ret_len)
{
    return graph_bitmap_dirty(((struct vm_export *)opaque)->bitmap, at, len, ret_len);
}

struct wanted {
    const char *id, *node, *name, *description;
    const char *bitmap_node, *bitmap;
    bool writable, depth;
};

static bool add(struct vm *vm, const struct wanted *w, GError **error)
{
    struct exports *x = exports_of(vm);
    GError *why = NULL;

    if (!x->server)
        return qmp_fail(error, QMP_GENERIC_ERROR, "NBD server not running");
    if (!vm->graph)
        return qmp_fail(error, QMP_GENERIC_ERROR, "this machine has no disks");
    if (find(vm, w->id))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Block export id '%s' is already in use",
                        w->id);
    if (w->writable)
        drive_free_unused(vm, w->node); /* -blockdev's, which no device wants */
    struct vm_export *e = g_new0(struct vm_export, 1);
    e->vm = vm;
    e->id = g_strdup(w->id);
    if (w->bitmap)
        e->bitmap = graph_bitmap_hold(vm->graph, w->bitmap_node, w->bitmap, !w->writable, &why);
    struct image *img = why ? NULL : graph_export_image(vm->graph, w->node, w->writable, &why);
    if (img) {
        const struct nbd_export_options o = { .name = w->name,
                                              .description = w->description,
                                              .image = img,
                                              .writable = w->writable,
                                              .allocation_depth = w->depth,
                                              .bitmap = w->bitmap,
                                              .dirty = dirty,
                                              .gone = gone,
                                              .opaque = e };
        e->node = g_strdup(image_node_name(img));
        e->nbd = nbd_export_add(x->server, &o, &why);
    }
    if (e->nbd)
        g_ptr_array_add(x->all, e);
    else
        vm_export_free(e);
    return qmp_told(!why, &why, error);
}

bool qmp_nbd_server_add(struct vm *vm, const struct qmp_nbd_server_add *a,
                        struct json_out *ret UNUSED, GError **error)
{
    const struct wanted w = { .id = a->name ? a->name : a->device,
                              .node = a->device,
                              .name = a->name ? a->name : a->device,
                              .description = a->description,
                              .bitmap_node = a->device,
                              .bitmap = a->bitmap,
                              .writable = a->has_writable && a->writable };
    return add(vm, &w, error);
}

bool qmp_block_export_add(struct vm *vm, const struct qmp_block_export_add *a,
                          struct json_out *ret UNUSED, GError **error)
{
    struct wanted w = { .id = a->id,
                        .node = a->node_name,
                        .name = a->name ? a->name : a->node_name,
                        .description = a->description,
                        .bitmap_node = a->node_name,
                        .writable = a->has_writable && a->writable,
                        .depth = a->has_allocation_depth && a->allocation_depth };
    guint n = a->bitmaps ? json_array_get_length(a->bitmaps) : 0;

    if (n > 1)
        return qmp_fail(error, QMP_GENERIC_ERROR, "only one bitmap of an export can be served");
    if (a->has_writethrough && a->writethrough && w.writable)
        return qmp_fail(error, QMP_GENERIC_ERROR, "writethrough exports are not supported");
    if (n) {
        JsonNode *b = json_array_get_element(a->bitmaps, 0);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(b) ? json_node_get_object(b) : NULL;

        bool text = JSON_NODE_HOLDS_VALUE(b) && json_node_get_value_type(b) == G_TYPE_STRING;
        w.bitmap = o ? text_member(o, "name") : text ? json_node_get_string(b) : NULL;
        w.bitmap_node = o ? text_member(o, "node") : w.bitmap_node;
        if (!w.bitmap || !w.bitmap_node)
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Parameter 'bitmaps' expects names or {node, name}");
    }
    return add(vm, &w, error);
}

static bool remove_export(struct vm_export *e, bool hard, GError **error)
{
    if (!hard && nbd_export_clients(e->nbd))
        return qmp_fail(error, QMP_GENERIC_ERROR, "export '%s' still in use", e->id);
    e->leaving = true;
    nbd_export_remove(e->nbd, hard);
    return true;
}

bool qmp_nbd_server_remove(struct vm *vm, const struct qmp_nbd_server_remove *a,
                           struct json_out *ret UNUSED, GError **error)
{
    struct exports *x = exports_of(vm);
    struct vm_export *e = find(vm, a->name);

    if (!x->server)
        return qmp_fail(error, QMP_GENERIC_ERROR, "NBD server not running");
    if (!e || e->leaving)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Export '%s' is not found", a->name);
    return remove_export(e, a->has_mode && a->mode == QMP_BLOCK_EXPORT_REMOVE_MODE_HARD, error);
}

bool qmp_block_export_del(struct vm *vm, const struct qmp_block_export_del *a,
                          struct json_out *ret UNUSED, GError **error)
{
    struct vm_export *e = find(vm, a->id);

    if (!e)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Export '%s' is not found", a->id);
    if (e->leaving)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Export '%s' is already shutting down",
                        a->id);
    return remove_export(e, a->has_mode && a->mode == QMP_BLOCK_EXPORT_REMOVE_MODE_HARD, error);
}

bool qmp_query_block_exports(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    struct exports *x = exports_of(vm);

    json_open(ret, '[');
    for (guint i = 0; i < x->all->len; i++) {
        const struct vm_export *e = x->all->pdata[i];

        json_open(ret, '{');
        json_put_str(ret, "id", e->id);
        json_put_str(ret, "type", "nbd");
        json_put_str(ret, "node-name", e->node);
        json_put_bool(ret, "shutting-down", e->leaving);
        json_close(ret, '}');
    }
    json_close(ret, ']');
    return true;
}
