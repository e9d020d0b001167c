// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_block.c - the QMP commands on drives and their media. Main loop. */
#include <errno.h>
#include <time.h>

#include "image/graph.h"
#include "vmm/dev/drive.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

static struct drive *find(struct vm *vm, const char *device, const char *id, GError **error)
{
    struct drive *d = NULL;

    if (!device == !id) {
        qmp_fail(error, QMP_GENERIC_ERROR, "Need exactly one of 'device' and 'id'");
        return NULL;
    }
    d = drive_find(vm, device, id);
    if (!d)
        qmp_fail(error, device ? QMP_DEVICE_NOT_FOUND : QMP_GENERIC_ERROR,
                 device ? "Device '%s' not found" : "Cannot find device='%s'",
                 device ? device : id);
    return d;
}

bool qmp_told(bool ok, GError **why, GError **error)
{
    if (!ok)
        qmp_fail(error, QMP_GENERIC_ERROR, "%s", (*why)->message);
    g_clear_error(why);
    return ok;
}

static const char *const limit_names[IMAGE_LIMITS] = {
    [IMAGE_BPS] = "bps",   [IMAGE_BPS_READ] = "bps_rd",   [IMAGE_BPS_WRITE] = "bps_wr",
    [IMAGE_IOPS] = "iops", [IMAGE_IOPS_READ] = "iops_rd", [IMAGE_IOPS_WRITE] = "iops_wr",
};

static void put_limits(struct json_out *o, struct image *image)
{
    struct image_throttle t;
    g_autofree char *group = image_get_throttle(image, &t);
    char name[32];

    for (u32 k = 0; k < IMAGE_LIMITS; k++) {
        const struct image_limit *l = &t.limit[k];

        json_put_int(o, limit_names[k], (s64)l->avg);
        if (!l->max)
            continue;
        g_snprintf(name, sizeof name, "%s_max", limit_names[k]);
        json_put_int(o, name, (s64)l->max);
        g_snprintf(name, sizeof name, "%s_max_length", limit_names[k]);
        json_put_int(o, name, (s64)l->seconds);
    }
    if (t.op_size)
        json_put_int(o, "iops_size", (s64)t.op_size);
    if (group)
        json_put_str(o, "group", group);
}

static void put_inserted(struct json_out *o, const struct drive *d)
{
    const struct image *i = d->image;
    enum image_cache c = d->options.cache;

    json_open(o, '{');
    json_put_str(o, "file", image_path(i));
    json_put_bool(o, "ro", image_read_only(i));
    json_put_str(o, "drv", image_format(i));
    qmp_put_layers(o, graph_image_node(d->image));
    json_put_bool(o, "encrypted", false);
    json_put_str(o, "detect_zeroes", image_detect_zeroes_text(image_detect_zeroes(i)));
    put_limits(o, d->image);
    json_key(o, "image");
    qmp_put_image(o, graph_image_node(d->image), false);
    json_key(o, "cache");
    json_open(o, '{');
    json_put_bool(o, "writeback", c != IMAGE_WRITETHROUGH && c != IMAGE_DIRECTSYNC);
    json_put_bool(o, "direct", c == IMAGE_NONE || c == IMAGE_DIRECTSYNC);
    json_put_bool(o, "no-flush", c == IMAGE_UNSAFE);
    json_close(o, '}');
    json_put_int(o, "write_threshold", 0);
    json_close(o, '}');
}

bool qmp_query_block(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '[');
    for (u32 i = 0; vm->drives && i < vm->drives->len; i++) {
        struct drive *d = vm->drives->pdata[i];

        if (d->node && !d->dev) /* a node that no disk has */
            continue;
        json_open(ret, '{');
        json_put_str(ret, "device", d->node ? "" : d->id);
        if (d->dev)
            json_put_str(ret, "qdev", d->dev->id);
        json_put_str(ret, "type", "unknown");
        json_put_bool(ret, "removable", d->ops != NULL);
        json_put_bool(ret, "locked", drive_locked(d));
        if (d->ops && d->ops->tray_open)
            json_put_bool(ret, "tray_open", drive_tray_open(d));
        if (d->werror == IMAGE_STOP || d->werror == IMAGE_ENOSPC || d->rerror == IMAGE_STOP) {
            int held = d->image ? image_held(d->image) : 0;
            json_put_str(ret, "io-status",
                         !held             ? "ok"
                         : held == -ENOSPC ? "nospace"
                                           : "failed");
        }
        if (d->image) {
            json_key(ret, "inserted");
            put_inserted(ret, d);
        }
        json_close(ret, '}');
    }
    json_close(ret, ']');
    return true;
}

bool qmp_eject(struct vm *vm, const struct qmp_eject *a, struct json_out *ret UNUSED,
               GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;

    return d && qmp_told(drive_eject(d, a->force, &why), &why, error);
}

bool qmp_blockdev_open_tray(struct vm *vm, const struct qmp_blockdev_open_tray *a,
                            struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;

    return d && qmp_told(drive_open_tray(d, a->force, &why), &why, error);
}

bool qmp_blockdev_close_tray(struct vm *vm, const struct qmp_blockdev_close_tray *a,
                             struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;

    return d && qmp_told(drive_close_tray(d, &why), &why, error);
}

bool qmp_blockdev_remove_medium(struct vm *vm, const struct qmp_blockdev_remove_medium *a,
                                struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, NULL, a->id, error);
    GError *why = NULL;

    if (!d)
        return false;
    if (d->ops && d->ops->tray_open && !drive_tray_open(d))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Tray of device '%s' is not open", a->id);
    return qmp_told(drive_eject(d, true, &why), &why, error);
}

bool qmp_blockdev_change_medium(struct vm *vm, const struct qmp_blockdev_change_medium *a,
                                struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;
    int read_only = -1;

    if (a->read_only_mode == QMP_BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_ONLY)
        read_only = 1;
    else if (a->read_only_mode == QMP_BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_WRITE)
        read_only = 0;
    return d && qmp_told(drive_change(d, a->filename, a->format, read_only, a->force, &why),
                         &why, error);
}

/* --- limits and counters ---------------------------------------------------------------------
 */

bool qmp_block_set_io_throttle(struct vm *vm, const struct qmp_block_set_io_throttle *a,
                               struct json_out *ret UNUSED, GError **error)
{
    const struct {
        u32 which;
        s64 avg;
        bool has_max;
        s64 max;
        bool has_seconds;
        s64 seconds;
    } given[] = {
        { IMAGE_BPS, a->bps, a->has_bps_max, a->bps_max, a->has_bps_max_length,
          a->bps_max_length },
        { IMAGE_BPS_READ, a->bps_rd, a->has_bps_rd_max, a->bps_rd_max, a->has_bps_rd_max_length,
          a->bps_rd_max_length },
        { IMAGE_BPS_WRITE, a->bps_wr, a->has_bps_wr_max, a->bps_wr_max,
          a->has_bps_wr_max_length, a->bps_wr_max_length },
        { IMAGE_IOPS, a->iops, a->has_iops_max, a->iops_max, a->has_iops_max_length,
          a->iops_max_length },
        { IMAGE_IOPS_READ, a->iops_rd, a->has_iops_rd_max, a->iops_rd_max,
          a->has_iops_rd_max_length, a->iops_rd_max_length },
        { IMAGE_IOPS_WRITE, a->iops_wr, a->has_iops_wr_max, a->iops_wr_max,
          a->has_iops_wr_max_length, a->iops_wr_max_length },
    };
    struct drive *d = find(vm, a->device, a->id, error);
    struct image_throttle t;
    GError *why = NULL;
    bool negative = a->has_iops_size && a->iops_size < 0;

    if (!d)
        return false;
    image_throttle_init(&t);
    for (u32 i = 0; i < ARRAY_LEN(given); i++) {
        struct image_limit *l = &t.limit[given[i].which];

        l->avg = (u64)given[i].avg;
        if (given[i].has_max)
            l->max = (u64)given[i].max;
        if (given[i].has_seconds)
            l->seconds = (u64)given[i].seconds;
        negative |= given[i].avg < 0 || (given[i].has_max && given[i].max < 0) ||
                    (given[i].has_seconds && given[i].seconds < 0);
    }
    if (negative)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Limits are not negative");
    if (a->has_iops_size)
        t.op_size = (u64)a->iops_size;
    return qmp_told(drive_set_throttle(d, a->group, &t, &why), &why, error);
}

static s64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * (s64)NS_PER_SEC + t.tv_nsec;
}

static void put_stats(struct json_out *o, const struct image_stats *s)
{
    static const char *const kinds[IMAGE_OPS] = { "rd", "wr", "flush", "unmap" };
    char name[48];

    json_key(o, "stats");
    json_open(o, '{');
    for (u32 k = 0; k < IMAGE_OPS; k++) {
        const struct {
            const char *fmt;
            u64 n;
            bool not_of_flush;
        } fields[] = {
            { "_bytes", s->bytes[k], true },
            { "_operations", s->done[k], false },
            { "_total_time_ns", s->ns[k], false },
            { "_merged", 0, true }, /* none are */
        };

        for (u32 i = 0; i < ARRAY_LEN(fields); i++) {
            if (k == IMAGE_OP_FLUSH && fields[i].not_of_flush)
                continue;
            g_snprintf(name, sizeof name, "%s%s", kinds[k], fields[i].fmt);
            json_put_int(o, name, (s64)fields[i].n);
        }
        g_snprintf(name, sizeof name, "failed_%s_operations", kinds[k]);
        json_put_int(o, name, (s64)s->failed[k]);
        g_snprintf(name, sizeof name, "invalid_%s_operations", kinds[k]);
        json_put_int(o, name, (s64)s->invalid[k]);
    }
    json_put_int(o, "wr_highest_offset", (s64)s->highest);
    if (s->last_ns)
        json_put_int(o, "idle_time_ns", MAX(now_ns() - (s64)s->last_ns, 0));
    json_put_bool(o, "account_invalid", true);
    json_put_bool(o, "account_failed", true);
    json_key(o, "timed_stats");
    json_open(o, '[');
    json_close(o, ']');
    json_close(o, '}');
}

/* Nodes count nothing but how far they were written. */
static void put_node_stats(struct json_out *o, const char *name, u64 highest)
{
    const struct image_stats s = { .highest = highest };

    if (name)
        json_put_str(o, "node-name", name);
    put_stats(o, &s);
}

static void put_file(struct json_out *o, const struct image_layer *l)
{
    if (!l->has_file)
        return;
    json_key(o, "parent");
    json_open(o, '{');
    put_node_stats(o, l->file_name, l->file_highest);
    json_close(o, '}');
}

/* What lies below the layer just put; closes its object. */
static void put_chain(struct json_out *o, struct image *image)
{
    struct image_layer l;
    u32 depth = 0;

    for (; image_get_layer(image, depth, &l); depth++) {
        if (depth) {
            json_key(o, "backing");
            json_open(o, '{');
            put_node_stats(o, l.name, l.highest);
        }
        put_file(o, &l);
    }
    while (depth--)
        json_close(o, '}');
}

static void put_drive_stats(struct json_out *o, const struct drive *d)
{
    struct image_stats s = { 0 };
    struct image_layer l;

    json_open(o, '{');
    json_put_str(o, "device", d->node ? "" : d->id);
    if (d->dev)
        json_put_str(o, "qdev", d->dev->id);
    if (!d->image) {
        put_stats(o, &s);
        json_close(o, '}');
        return;
    }
    if (image_get_layer(d->image, 0, &l) && l.name)
        json_put_str(o, "node-name", l.name);
    image_get_stats(d->image, &s);
    put_stats(o, &s);
    put_chain(o, d->image);
}

static void put_nodes(struct json_out *o, struct image *image)
{
    struct image_layer l;

    for (u32 depth = 0; image_get_layer(image, depth, &l); depth++) {
        json_open(o, '{');
        put_node_stats(o, l.name, l.highest);
        put_file(o, &l);
        json_close(o, '}');
        if (!l.has_file)
            continue;
        json_open(o, '{');
        put_node_stats(o, l.file_name, l.file_highest);
        json_close(o, '}');
    }
}

bool qmp_query_blockstats(struct vm *vm, const struct qmp_query_blockstats *a,
                          struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '[');
    for (u32 i = 0; vm->drives && i < vm->drives->len; i++) {
        const struct drive *d = vm->drives->pdata[i];

        if (!a->query_nodes && (!d->node || d->dev))
            put_drive_stats(ret, d);
        else if (a->query_nodes && d->image)
            put_nodes(ret, d->image);
    }
    json_close(ret, ']');
    return true;
}
