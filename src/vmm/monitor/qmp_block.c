// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_block.c - the QMP commands on drives and their media. Main loop. */
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

/* What the drives say, as QMP says it. */
static bool told(bool ok, GError **why, GError **error)
{
    if (!ok)
        qmp_fail(error, QMP_GENERIC_ERROR, "%s", (*why)->message);
    g_clear_error(why);
    return ok;
}

static void put_inserted(struct json_out *o, const struct drive *d)
{
    static const char *const limits[] = { "bps",  "bps_rd",  "bps_wr",
                                          "iops", "iops_rd", "iops_wr" };
    const struct image *i = d->image;
    enum image_cache c = d->options.cache;

    json_open(o, '{');
    json_put_str(o, "file", image_path(i));
    json_put_bool(o, "ro", image_read_only(i));
    json_put_str(o, "drv", image_format(i));
    json_put_int(o, "backing_file_depth", image_has_backing(i));
    json_put_bool(o, "encrypted", false);
    json_put_str(o, "detect_zeroes", "off");
    for (u32 k = 0; k < ARRAY_LEN(limits); k++)
        json_put_int(o, limits[k], 0);
    json_key(o, "image");
    json_open(o, '{');
    json_put_str(o, "filename", image_path(i));
    json_put_str(o, "format", image_format(i));
    json_put_int(o, "virtual-size", (s64)image_size(i));
    json_close(o, '}');
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

        json_open(ret, '{');
        json_put_str(ret, "device", d->id);
        if (d->dev)
            json_put_str(ret, "qdev", d->dev->id);
        json_put_str(ret, "type", "unknown");
        json_put_bool(ret, "removable", d->ops != NULL);
        json_put_bool(ret, "locked", drive_locked(d));
        if (d->ops && d->ops->tray_open)
            json_put_bool(ret, "tray_open", drive_tray_open(d));
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

    return d && told(drive_eject(d, a->force, &why), &why, error);
}

bool qmp_blockdev_open_tray(struct vm *vm, const struct qmp_blockdev_open_tray *a,
                            struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;

    return d && told(drive_open_tray(d, a->force, &why), &why, error);
}

bool qmp_blockdev_close_tray(struct vm *vm, const struct qmp_blockdev_close_tray *a,
                             struct json_out *ret UNUSED, GError **error)
{
    struct drive *d = find(vm, a->device, a->id, error);
    GError *why = NULL;

    return d && told(drive_close_tray(d, &why), &why, error);
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
    return told(drive_eject(d, true, &why), &why, error);
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
    return d && told(drive_change(d, a->filename, a->format, read_only, a->force, &why), &why,
                     error);
}
