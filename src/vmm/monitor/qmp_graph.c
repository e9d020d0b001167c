// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_graph.c - the QMP commands on nodes: adding, snapshots, bitmaps, transactions.  Main
 * loop. */
#include <string.h>

#include "image/graph.h"
#include "vmm/core/clock.h"
#include "vmm/dev/drive.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

static bool has_graph(struct vm *vm, GError **error)
{
    return vm->graph || qmp_fail(error, QMP_GENERIC_ERROR, "this machine has no disks");
}

/* --- nodes -----------------------------------------------------------------------------------
 */

bool qmp_blockdev_add(struct vm *vm, JsonObject *args, struct json_out *ret UNUSED,
                      GError **error)
{
    GError *why = NULL;

    if (!has_graph(vm, error))
        return false;
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    if (args)
        json_node_set_object(node, args);
    else
        json_node_take_object(node, json_object_new());
    g_autofree char *text = json_to_string(node, FALSE);
    struct dict *d = dict_from_json(text, &why);
    return qmp_told(d && graph_blockdev_add(vm->graph, d, &why), &why, error);
}

bool qmp_blockdev_del(struct vm *vm, const struct qmp_blockdev_del *a,
                      struct json_out *ret UNUSED, GError **error)
{
    GError *why = NULL;

    if (!has_graph(vm, error))
        return false;
    drive_free_unused(vm, a->node_name);
    return qmp_told(graph_blockdev_del(vm->graph, a->node_name, &why), &why, error);
}

/* Chains are as long as somebody made them; a client that asks for all of them gets this much.
 */
enum { IMAGE_DEPTH_MAX = 20 };

static void put_snapshots(struct json_out *o, const GPtrArray *all)
{
    json_key(o, "snapshots");
    json_open(o, '[');
    for (guint i = 0; i < all->len; i++) {
        const struct image_snapshot *s = all->pdata[i];

        json_open(o, '{');
        json_put_str(o, "id", s->id);
        json_put_str(o, "name", s->name);
        json_put_int(o, "vm-state-size", (s64)s->vm_state_size);
        json_put_int(o, "date-sec", s->date_sec);
        json_put_int(o, "date-nsec", s->date_nsec);
        json_put_int(o, "vm-clock-sec", (s64)(s->vm_clock_nsec / NS_PER_SEC));
        json_put_int(o, "vm-clock-nsec", (s64)(s->vm_clock_nsec % NS_PER_SEC));
        json_close(o, '}');
    }
    json_close(o, ']');
}

static void put_image(struct json_out *o, struct node *n, bool flat, u32 depth)
{
    struct image_info *i = graph_image_info(n);
    struct graph_node_info info;

    graph_node_info(n, &info);
    json_open(o, '{');
    json_put_str(o, "filename", i->filename);
    json_put_str(o, "format", i->format);
    json_put_int(o, "virtual-size", (s64)i->virtual_size);
    if (i->has_actual_size)
        json_put_int(o, "actual-size", (s64)i->actual_size);
    if (i->cluster_size)
        json_put_int(o, "cluster-size", i->cluster_size);
    if (i->backing_filename) {
        json_put_str(o, "backing-filename", i->backing_filename);
        json_put_str(o, "full-backing-filename", i->full_backing_filename);
    }
    if (i->backing_format)
        json_put_str(o, "backing-filename-format", i->backing_format);
    if (i->snapshots && i->snapshots->len)
        put_snapshots(o, i->snapshots);
    if (!flat && info.backing && depth < IMAGE_DEPTH_MAX) {
        json_key(o, "backing-image");
        put_image(o, info.backing, flat, depth + 1);
    }
    if (i->has_dirty)
        json_put_bool(o, "dirty-flag", i->dirty);
    json_close(o, '}');
    image_info_free(i);
}

static void put_bitmaps(struct json_out *o, struct node *n)
{
    json_key(o, "dirty-bitmaps");
    json_open(o, '[');
    for (u32 i = 0; i < graph_bitmap_count(n); i++) {
        struct bitmap_info b;

        graph_bitmap_info(n, i, &b);
        json_open(o, '{');
        json_put_str(o, "name", b.name);
        json_put_bool(o, "recording", b.recording);
        json_put_bool(o, "persistent", b.persistent);
        if (b.inconsistent)
            json_put_bool(o, "inconsistent", true);
        json_put_bool(o, "busy", b.busy);
        json_put_int(o, "granularity", b.granularity);
        json_put_int(o, "count", (s64)b.count);
        json_close(o, '}');
    }
    json_close(o, ']');
}

void qmp_put_image(struct json_out *o, struct node *n, bool flat)
{
    put_image(o, n, flat, 0);
}

void qmp_put_layers(struct json_out *o, struct node *n)
{
    struct graph_node_info i;

    graph_node_info(n, &i);
    if (i.name)
        json_put_str(o, "node-name", i.name);
    if (i.backing_file)
        json_put_str(o, "backing_file", i.backing_file);
    json_put_int(o, "backing_file_depth", i.backing_depth);
    if (graph_bitmap_count(n))
        put_bitmaps(o, n);
}

static void put_node(struct json_out *o, struct node *n, bool flat)
{
    static const char *const limits[] = { "iops_rd", "iops_wr", "iops",
                                          "bps_rd",  "bps_wr",  "bps" };
    struct graph_node_info i;

    graph_node_info(n, &i);
    json_open(o, '{');
    for (u32 k = 0; k < ARRAY_LEN(limits); k++)
        json_put_int(o, limits[k], 0);
    json_put_str(o, "detect_zeroes", image_detect_zeroes_text(i.detect_zeroes));
    json_put_int(o, "write_threshold", 0);
    json_key(o, "image");
    qmp_put_image(o, n, flat);
    json_put_bool(o, "ro", i.read_only);
    qmp_put_layers(o, n);
    json_put_str(o, "drv", i.format);
    json_put_bool(o, "encrypted", false);
    json_put_str(o, "file", i.filename);
    json_key(o, "cache");
    json_open(o, '{');
    json_put_bool(o, "no-flush", i.cache == IMAGE_UNSAFE);
    json_put_bool(o, "direct", i.cache == IMAGE_NONE || i.cache == IMAGE_DIRECTSYNC);
    json_put_bool(o, "writeback", i.cache != IMAGE_WRITETHROUGH && i.cache != IMAGE_DIRECTSYNC);
    json_close(o, '}');
    json_close(o, '}');
}

bool qmp_query_named_block_nodes(struct vm *vm, const struct qmp_query_named_block_nodes *a,
                                 struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '[');
    for (u32 i = vm->graph ? graph_count(vm->graph) : 0; i--;)
        put_node(ret, graph_node_at(vm->graph, i), a->flat);
    json_close(ret, ']');
    return true;
}

/* device or node-name: exactly one. */
static const char *one_of(const char *device, const char *node, GError **error)
{
    if (!device == !node)
        qmp_fail(error, QMP_GENERIC_ERROR, "Need exactly one of 'device' and 'node-name'");
    return !device == !node ? NULL : device ? device : node;
}

bool qmp_change_backing_file(struct vm *vm, const struct qmp_change_backing_file *a,
                             struct json_out *ret UNUSED, GError **error)
{
    GError *why = NULL;

    return has_graph(vm, error) &&
           qmp_told(graph_change_backing(vm->graph, a->device, a->image_node_name,
                                         a->backing_file, &why),
                    &why, error);
}

bool qmp_block_resize(struct vm *vm, const struct qmp_block_resize *a,
                      struct json_out *ret UNUSED, GError **error)
{
    const char *name = one_of(a->device, a->node_name, error);
    GError *why = NULL;

    return name && has_graph(vm, error) &&
           qmp_told(graph_resize(vm->graph, name, a->size, &why), &why, error);
}

/* --- actions, of transactions or alone -------------------------------------------------------
 */

static bool snapshot_sync(struct transaction *t, const struct qmp_blockdev_snapshot_sync *a,
                          GError **error)
{
    const char *name = one_of(a->device, a->node_name, error);
    struct snapshot_args s = { .node = name,
                               .file = a->snapshot_file,
                               .format = a->format,
                               .node_name = a->snapshot_node_name,
                               .existing =
                                   a->has_mode && a->mode == QMP_NEW_IMAGE_MODE_EXISTING };
    GError *why = NULL;

    if (!name)
        return false;
    if (a->node_name && !a->snapshot_node_name)
        return qmp_fail(error, QMP_GENERIC_ERROR, "New overlay node-name missing");
    return qmp_told(transaction_snapshot(t, &s, &why), &why, error);
}

static bool snapshot(struct transaction *t, const struct qmp_blockdev_snapshot *a,
                     GError **error)
{
    struct snapshot_args s = { .node = a->node, .overlay = a->overlay };
    GError *why = NULL;

    return qmp_told(transaction_snapshot(t, &s, &why), &why, error);
}

static bool internal(struct vm *vm, struct transaction *t,
                     const struct qmp_blockdev_snapshot_internal_sync *a, GError **error)
{
    GError *why = NULL;

    return qmp_told(transaction_internal(t, a->device, a->name, vm_now(vm), &why), &why, error);
}

static bool bitmap_add(struct transaction *t, const struct qmp_block_dirty_bitmap_add *a,
                       GError **error)
{
    struct bitmap_args b = { .name = a->name,
                             .granularity = (u64)a->granularity,
                             .disabled = a->disabled,
                             .persistent = a->persistent };
    GError *why = NULL;

    if (a->has_granularity && a->granularity < 512)
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Granularity must be power of 2 and at least 512");
    return qmp_told(transaction_bitmap_add(t, a->node, &b, &why), &why, error);
}

static bool bitmap_merge(struct transaction *t, const struct qmp_block_dirty_bitmap_merge *a,
                         GError **error)
{
    GError *why = NULL;

    for (u32 i = 0; i < json_array_get_length(a->bitmaps); i++) {
        JsonNode *n = json_array_get_element(a->bitmaps, i);
        const char *node = NULL, *name = NULL;

        if (JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == G_TYPE_STRING) {
            name = json_node_get_string(n);
        } else {
            struct qmp_block_dirty_bitmap_clear b; /* it has the same members */

            if (!JSON_NODE_HOLDS_OBJECT(n))
                return qmp_fail(error, QMP_GENERIC_ERROR,
                                "Invalid parameter type for 'bitmaps[%u]', expected: string or "
                                "object",
                                i);
            if (!qmp_read_block_dirty_bitmap_clear(json_node_get_object(n), &b, error))
                return false;
            node = b.node;
            name = b.name;
        }
        if (!qmp_told(transaction_bitmap_merge(t, a->node, a->target, node, name, &why), &why,
                      error))
            return false;
    }
    return true;
}

static bool bitmap_enable(struct transaction *t, const char *node, const char *name, bool on,
                          GError **error)
{
    GError *why = NULL;

    return qmp_told(transaction_bitmap_enable(t, node, name, on, &why), &why, error);
}

static bool bitmap_clear(struct transaction *t, const struct qmp_block_dirty_bitmap_clear *a,
                         GError **error)
{
    GError *why = NULL;

    return qmp_told(transaction_bitmap_clear(t, a->node, a->name, &why), &why, error);
}

static bool bitmap_remove(struct transaction *t, const struct qmp_block_dirty_bitmap_remove *a,
                          GError **error)
{
    GError *why = NULL;

    return qmp_told(transaction_bitmap_remove(t, a->node, a->name, &why), &why, error);
}

/* A command that is a transaction of one action. */
#define ALONE(name, call)                                                                      \
    bool qmp_##name(struct vm *vm, const struct qmp_##name *a, struct json_out *ret UNUSED,    \
                    GError **error)                                                            \
    {                                                                                          \
        if (!has_graph(vm, error))                                                             \
            return false;                                                                      \
        struct transaction *t = transaction_begin(vm->graph);                                  \
        bool ok = call;                                                                        \
        transaction_end(t, ok);                                                                \
        return ok;                                                                             \
    }

ALONE(blockdev_snapshot_sync, snapshot_sync(t, a, error))
ALONE(blockdev_snapshot, snapshot(t, a, error))
ALONE(blockdev_snapshot_internal_sync, internal(vm, t, a, error))
ALONE(block_dirty_bitmap_add, bitmap_add(t, a, error))
ALONE(block_dirty_bitmap_remove, bitmap_remove(t, a, error))
ALONE(block_dirty_bitmap_clear, bitmap_clear(t, a, error))
ALONE(block_dirty_bitmap_enable, bitmap_enable(t, a->node, a->name, true, error))
ALONE(block_dirty_bitmap_disable, bitmap_enable(t, a->node, a->name, false, error))
ALONE(block_dirty_bitmap_merge, bitmap_merge(t, a, error))

bool qmp_blockdev_snapshot_delete_internal_sync(
    struct vm *vm, const struct qmp_blockdev_snapshot_delete_internal_sync *a,
    struct json_out *o, GError **error)
{
    struct image_snapshot *s = NULL;
    GError *why = NULL;

    if (!has_graph(vm, error) || !qmp_told(graph_snapshot_internal_delete(
                                               vm->graph, a->device, a->id, a->name, &s, &why),
                                           &why, error))
        return false;
    json_open(o, '{');
    json_put_str(o, "id", s->id);
    json_put_str(o, "name", s->name);
    json_put_int(o, "vm-state-size", (s64)s->vm_state_size);
    json_put_int(o, "date-sec", s->date_sec);
    json_put_int(o, "date-nsec", s->date_nsec);
    json_put_int(o, "vm-clock-sec", (s64)(s->vm_clock_nsec / NS_PER_SEC));
    json_put_int(o, "vm-clock-nsec", (s64)(s->vm_clock_nsec % NS_PER_SEC));
    json_close(o, '}');
    image_snapshot_free(s);
    return true;
}

/* --- transactions ----------------------------------------------------------------------------
 */

/* An action's data, read as the arguments of the command of its name. */
#define ACTION(command, name, call)                                                            \
    if (strcmp(type, command) == 0) {                                                          \
        struct qmp_##name data, *a = &data;                                                    \
                                                                                               \
        return qmp_read_##name(args, a, error) && call;                                        \
    }

static bool act(struct vm *vm, struct transaction *t, const char *type, JsonObject *args,
                GError **error)
{
    ACTION("blockdev-snapshot-sync", blockdev_snapshot_sync, snapshot_sync(t, a, error))
    ACTION("blockdev-snapshot", blockdev_snapshot, snapshot(t, a, error))
    ACTION("blockdev-snapshot-internal-sync", blockdev_snapshot_internal_sync,
           internal(vm, t, a, error))
    ACTION("drive-backup", drive_backup, qmp_drive_backup_in(vm, t, a, error))
    ACTION("blockdev-backup", blockdev_backup, qmp_blockdev_backup_in(vm, t, a, error))
    ACTION("block-dirty-bitmap-add", block_dirty_bitmap_add, bitmap_add(t, a, error))
    ACTION("block-dirty-bitmap-remove", block_dirty_bitmap_remove, bitmap_remove(t, a, error))
    ACTION("block-dirty-bitmap-clear", block_dirty_bitmap_clear, bitmap_clear(t, a, error))
    ACTION("block-dirty-bitmap-enable", block_dirty_bitmap_enable,
           bitmap_enable(t, a->node, a->name, true, error))
    ACTION("block-dirty-bitmap-disable", block_dirty_bitmap_disable,
           bitmap_enable(t, a->node, a->name, false, error))
    ACTION("block-dirty-bitmap-merge", block_dirty_bitmap_merge, bitmap_merge(t, a, error))
    if (strcmp(type, "abort") == 0)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Transaction aborted using Abort action");
    return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'type' does not accept value '%s'",
                    type);
}

static bool act_node(struct vm *vm, struct transaction *t, JsonNode *n, u32 i, GError **error)
{
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(n) ? json_node_get_object(n) : NULL;
    JsonNode *type = o ? json_object_get_member(o, "type") : NULL;
    JsonNode *data = o ? json_object_get_member(o, "data") : NULL;

    if (!o)
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Invalid parameter type for 'actions[%u]', expected: object", i);
    if (!type || !JSON_NODE_HOLDS_VALUE(type) ||
        json_node_get_value_type(type) != G_TYPE_STRING)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'actions[%u].type' is missing", i);
    if (!data || !JSON_NODE_HOLDS_OBJECT(data))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'actions[%u].data' is missing", i);
    return act(vm, t, json_node_get_string(type), json_node_get_object(data), error);
}

bool qmp_transaction(struct vm *vm, const struct qmp_transaction *a,
                     struct json_out *ret UNUSED, GError **error)
{
    bool ok = true;

    if (!has_graph(vm, error))
        return false;
    JsonNode *mode =
        a->properties ? json_object_get_member(a->properties, "completion-mode") : NULL;
    if (mode &&
        (!JSON_NODE_HOLDS_VALUE(mode) || json_node_get_value_type(mode) != G_TYPE_STRING ||
         (strcmp(json_node_get_string(mode), "individual") != 0 &&
          strcmp(json_node_get_string(mode), "grouped") != 0)))
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Parameter 'completion-mode' expects individual or grouped");
    struct transaction *t = transaction_begin(vm->graph);
    if (mode && strcmp(json_node_get_string(mode), "grouped") == 0)
        transaction_grouped(t);
    for (u32 i = 0; ok && i < json_array_get_length(a->actions); i++)
        ok = act_node(vm, t, json_array_get_element(a->actions, i), i, error);
    transaction_end(t, ok);
    return ok;
}
