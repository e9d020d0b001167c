// SPDX-License-Identifier: GPL-2.0-or-later
/* options_devices.c - the options that make devices and their host ends. */
#include "stream/tls.h"
#include "vmm/options_parse.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/secret.h"

/* ---- disks ---------------------------------------------------------------------------------
 */

static bool set_cache(struct image_options *o, const char *cache, GError **error)
{
    static const char *const names[] = {
        [IMAGE_WRITEBACK] = "writeback",
        [IMAGE_NONE] = "none",
        [IMAGE_WRITETHROUGH] = "writethrough",
        [IMAGE_DIRECTSYNC] = "directsync",
        [IMAGE_UNSAFE] = "unsafe",
        NULL,
    };

    if (!value_one_of("cache", cache, names, error))
        return false;
    for (int i = 0; names[i]; i++)
        if (strcmp(cache, names[i]) == 0)
            o->cache = (enum image_cache)i;
    return true;
}

static bool set_detect(struct image_options *o, const char *v, GError **error)
{
    if (!image_detect_zeroes_from_text(v, &o->detect_zeroes))
        return fail(error, ERR_ARGUMENT, "detect-zeroes is off, on or unmap, not '%s'", v);
    return o->detect_zeroes != IMAGE_DETECT_UNMAP || o->discard ||
           fail(error, ERR_ARGUMENT, "detect-zeroes=unmap needs discard=unmap");
}

/* cache.direct=, cache.no-flush=, cache.writeback=: what cache= is made of. */
static bool take_cache(GPtrArray *kv, struct image_options *o, GError **error)
{
    bool direct = o->cache == IMAGE_NONE || o->cache == IMAGE_DIRECTSYNC;
    bool writeback = o->cache != IMAGE_WRITETHROUGH && o->cache != IMAGE_DIRECTSYNC;
    bool no_flush = o->cache == IMAGE_UNSAFE;

    if (!value_take_bool(kv, "cache.direct", &direct, error) ||
        !value_take_bool(kv, "cache.writeback", &writeback, error) ||
        !value_take_bool(kv, "cache.no-flush", &no_flush, error))
        return false;
    if (no_flush && (direct || !writeback))
        return fail(error, ERR_UNSUPPORTED,
                    "cache.no-flush=on goes with cache.direct=off,cache.writeback=on");
    o->cache = no_flush    ? IMAGE_UNSAFE
               : writeback ? (direct ? IMAGE_NONE : IMAGE_WRITEBACK)
                           : (direct ? IMAGE_DIRECTSYNC : IMAGE_WRITETHROUGH);
    return true;
}

static bool set_discard(struct image_options *o, const char *v, GError **error)
{
    if (strcmp(v, "unmap") == 0 || strcmp(v, "on") == 0)
        o->discard = true;
    else if (strcmp(v, "ignore") == 0 || strcmp(v, "off") == 0)
        o->discard = false;
    else
        return fail(error, ERR_ARGUMENT, "discard is 'unmap' or 'ignore', not '%s'", v);
    return true;
}

/* The format is checked here by name so that the message can say what comes later. */
static bool set_format(struct drive_desc *d, const char *v, GError **error)
{
    if (!image_format_known(v)) {
        g_autoptr(GPtrArray) names = image_formats(false);

        g_ptr_array_add(names, NULL);
        g_autofree char *list = g_strjoinv(", ", (char **)names->pdata);
        return fail(error, ERR_ARGUMENT, "format=%s is not there; there is %s", v, list);
    }
    g_free((char *)d->options.format);
    d->options.format = g_strdup(v);
    return true;
}

/* A drive that still has to be checked by settle_drives(). */
static struct drive_desc *drive_add(struct parse *p, const char *iface, const char *file)
{
    struct drive_desc *d = machine_add_drive(p->m);

    d->iface = g_strdup(iface);
    d->file = g_strdup(file);
    return d;
}

static void set_cdrom(struct drive_desc *d)
{
    d->cdrom = d->options.read_only = true;
}

static bool set_place(struct drive_desc *d, GPtrArray *kv, GError **error)
{
    u64 index = UINT64_MAX, bus = UINT64_MAX, unit = UINT64_MAX;

    if (!value_take_uint(kv, "index", 255, &index, error) ||
        !value_take_uint(kv, "bus", 255, &bus, error) ||
        !value_take_uint(kv, "unit", 255, &unit, error))
        return false;
    if (index != UINT64_MAX && (bus != UINT64_MAX || unit != UINT64_MAX))
        return fail(error, ERR_ARGUMENT, "index cannot be used with bus and unit");
    d->index = index == UINT64_MAX ? -1 : (int)index;
    d->bus = bus == UINT64_MAX ? -1 : (int)bus;
    d->unit = unit == UINT64_MAX ? -1 : (int)unit;
    if (d->iface && strcmp(d->iface, "none") == 0 && d->index + d->bus + d->unit != -3)
        return fail(error, ERR_ARGUMENT, "index=, bus= and unit= say nothing for if=none");
    return true;
}

/* What the image's driver is to know: secrets of encrypted images, and of backing files. */
static struct dict *take_driver_options(GPtrArray *kv)
{
    struct dict *d = NULL;

    for (guint i = 0; i < kv->len;) {
        const struct opt *o = kv->pdata[i];

        if (strcmp(o->key, "key-secret") != 0 && !g_str_has_prefix(o->key, "encrypt.") &&
            !g_str_has_prefix(o->key, "backing.")) {
            i++;
            continue;
        }
        if (!d)
            d = dict_new();
        dict_set(d, o->key, o->val);
        g_ptr_array_remove_index(kv, i);
    }
    return d;
}

bool opt_drive(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, NULL, "drive", error);

    if (!kv)
        return false;
    g_autofree char *iface = opts_take(kv, "if");
    g_autofree char *file = opts_take(kv, "file");
    g_autofree char *format = opts_take(kv, "format");
    g_autofree char *driver = opts_take(kv, "driver");
    g_autofree char *media = opts_take(kv, "media");
    g_autofree char *cache = opts_take(kv, "cache");
    g_autofree char *discard = opts_take(kv, "discard");
    g_autofree char *detect = opts_take(kv, "detect-zeroes");
    g_autofree char *aio = opts_take(kv, "aio");
    g_autofree char *node = opts_take(kv, "node-name");
    g_autofree char *ro = opts_take(kv, "read-only");
    g_autofree char *id = opts_take(kv, "id");
    g_autofree char *serial = opts_take(kv, "serial");
    g_autofree char *rerror = opts_take(kv, "rerror");
    g_autofree char *werror = opts_take(kv, "werror");

    if (iface &&
        !g_strv_contains(
            (const char *const[]){ "ide", "scsi", "floppy", "virtio", "none", NULL }, iface)) {
        if (g_strv_contains((const char *const[]){ "sd", "mtd", "pflash", "xen", NULL }, iface))
            return fail(error, ERR_UNSUPPORTED, "if=%s is not there yet; use if=ide", iface);
        return fail(error, ERR_ARGUMENT,
                    "there is no if=%s; there is ide, scsi, floppy, virtio, none", iface);
    }
    if (id && !value_id(id, error))
        return false;
    if (media &&
        !value_one_of("media", media, (const char *const[]){ "disk", "cdrom", NULL }, error))
        return false;
    struct drive_desc *d = drive_add(p, iface, file && *file ? file : NULL);
    d->driver = take_driver_options(kv);
    if (rerror && (!image_on_error_from_text(rerror, &d->rerror) || d->rerror == IMAGE_ENOSPC))
        return fail(error, ERR_ARGUMENT, "rerror is report, ignore or stop, not '%s'", rerror);
    if (werror && !image_on_error_from_text(werror, &d->werror))
        return fail(error, ERR_ARGUMENT, "werror is report, ignore, stop or enospc, not '%s'",
                    werror);
    if (media && strcmp(media, "cdrom") == 0)
        set_cdrom(d);
    if (format && !set_format(d, format, error))
        return false;
    if (driver && !set_format(d, driver, error))
        return false;
    if (cache && !set_cache(&d->options, cache, error))
        return false;
    if (!take_cache(kv, &d->options, error))
        return false;
    if (discard && !set_discard(&d->options, discard, error))
        return false;
    if (aio && !image_aio_from_text(aio, &d->options.aio))
        return fail(error, ERR_ARGUMENT, "aio is threads, native or io_uring, not '%s'", aio);
    if (detect && !set_detect(&d->options, detect, error))
        return false;
    if (ro && !value_bool("read-only", ro, &d->options.read_only, error))
        return false;
    if (!value_take_bool(kv, "readonly", &d->options.read_only, error) ||
        !value_take_bool(kv, "snapshot", &d->options.snapshot, error) ||
        !value_take_throttling(kv, &d->throttle, &d->group, error) ||
        !set_place(d, kv, error) || !value_none_left(kv, error))
        return false;
    d->options.read_only |= d->cdrom;
    if (!d->file && !d->cdrom && g_strcmp0(d->iface, "floppy") != 0)
        return fail(error, ERR_ARGUMENT, "'%s': file= is needed", arg);
    d->id = g_steal_pointer(&id);
    d->node_name = g_steal_pointer(&node);
    d->serial = g_steal_pointer(&serial);
    return true;
}

/* -hda and the like. */
static bool drive_at(struct parse *p, const char *iface, const char *file, int index,
                     bool cdrom)
{
    struct drive_desc *d = drive_add(p, iface, file);

    d->index = index;
    if (cdrom)
        set_cdrom(d);
    return true;
}

bool opt_hda(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "ide", arg, 0, false);
}

bool opt_hdb(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "ide", arg, 1, false);
}

bool opt_hdc(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "ide", arg, 2, false);
}

bool opt_hdd(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "ide", arg, 3, false);
}

bool opt_fda(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "floppy", arg, 0, false);
}

bool opt_fdb(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "floppy", arg, 1, false);
}

bool opt_cdrom(struct parse *p, const char *arg, GError **error UNUSED)
{
    return drive_at(p, "ide", arg, 2, true);
}

/* ---- which drive sits where ---- */

enum { SCSI_UNITS = 7 };

static const struct iface {
    const char *name;
    u32 units; /* a bus has; 0: there are no buses */
    u32 max;   /* drives in all; 0: any number */
} ifaces[] = {
    { "ide", 2, 4 },    { "scsi", SCSI_UNITS, 4 * SCSI_UNITS },
    { "floppy", 0, 2 }, { "virtio", 0, 0 },
    { "none", 0, 0 },
};

static bool place_taken(const struct parse *p, const struct drive_desc *d, int index)
{
    for (guint i = 0; i < p->m->drives->len; i++) {
        const struct drive_desc *o = p->m->drives->pdata[i];

        if (o != d && o->iface && strcmp(o->iface, d->iface) == 0 && o->index == index)
            return true;
    }
    return false;
}

/* bus and unit, or neither, become an index. */
static bool place_find(const struct parse *p, struct drive_desc *d, const struct iface *f,
                       GError **error)
{
    int units = f->units ? (int)f->units : 1;

    if (d->bus >= 0 || d->unit >= 0) {
        if (d->unit >= units)
            return fail(error, ERR_ARGUMENT, "if=%s: a bus has %d units, there is no unit %d",
                        f->name, units, d->unit);
        int bus = MAX(d->bus, 0), unit = d->unit;
        for (int i = 0; unit < 0 && i < units; i++)
            if (!place_taken(p, d, bus * units + i))
                unit = i;
        d->index = bus * units + MAX(unit, 0);
    }
    for (int i = 0; d->index < 0; i++)
        if (!place_taken(p, d, i))
            d->index = i;
    if (f->max && d->index >= (int)f->max)
        return fail(error, ERR_LIMIT, "if=%s: there is room for %u drives", f->name, f->max);
    if (place_taken(p, d, d->index))
        return fail(error, ERR_BUSY, "if=%s: two drives for index=%d", f->name, d->index);
    return true;
}

static void drive_name(struct drive_desc *d)
{
    if (strcmp(d->iface, "ide") == 0)
        d->id =
            g_strdup_printf("ide%d-%s%d", d->index / 2, d->cdrom ? "cd" : "hd", d->index % 2);
    else if (strcmp(d->iface, "scsi") == 0)
        d->id = g_strdup_printf("scsi%d-%s%d", d->index / SCSI_UNITS, d->cdrom ? "cd" : "hd",
                                d->index % SCSI_UNITS);
    else
        d->id = g_strdup_printf("%s%d", d->iface, d->index);
}

/* The host adapter of a drive's bus, if none of the drives before has made it. */
static void scsi_adapter(struct parse *p, const char *id)
{
    for (guint i = 0; i < p->m->devices->len; i++)
        if (g_strcmp0(((const struct device_desc *)p->m->devices->pdata[i])->id, id) == 0)
            return;
    machine_add_device(p->m, "lsi53c895a", id, "-drive", opts_parse("", NULL, "drive", NULL));
}

static void drive_device(struct parse *p, const struct drive_desc *d)
{
    GPtrArray *props = opts_parse("", NULL, "drive", NULL);
    const char *type = "virtio-blk";

    opts_add(props, "drive", d->id);
    if (d->serial)
        opts_add(props, "serial", d->serial);
    if (strcmp(d->iface, "ide") == 0) {
        g_autofree char *bus = g_strdup_printf("ide.%d", d->index / 2);

        type = d->cdrom ? "ide-cd" : "ide-hd";
        opts_add(props, "bus", bus);
        opts_add(props, "unit", d->index % 2 ? "1" : "0");
    } else if (strcmp(d->iface, "scsi") == 0) {
        g_autofree char *id = g_strdup_printf("lsi%d", d->index / SCSI_UNITS);
        g_autofree char *bus = g_strconcat(id, ".0", NULL);
        g_autofree char *unit = g_strdup_printf("%d", d->index % SCSI_UNITS);

        scsi_adapter(p, id);
        type = d->cdrom ? "scsi-cd" : "scsi-hd";
        opts_add(props, "bus", bus);
        opts_add(props, "scsi-id", unit);
    } else if (strcmp(d->iface, "floppy") == 0) {
        type = "floppy";
        opts_add(props, "unit", d->index ? "1" : "0");
    }
    machine_add_device(p->m, type, NULL, "-drive", props);
}

bool settle_drives(struct parse *p, GError **error)
{
    /* those with a place of their own first */
    for (int asked = 1; asked >= 0; asked--) {
        for (guint i = 0; i < p->m->drives->len; i++) {
            struct drive_desc *d = p->m->drives->pdata[i];
            const struct iface *f = ifaces;

            if (!d->iface)
                d->iface = g_strdup(p->m->board == BOARD_MICROVM ? "virtio" : "ide");
            if ((d->index >= 0 || d->bus >= 0 || d->unit >= 0) != asked)
                continue;
            while (strcmp(f->name, d->iface) != 0)
                f++;
            if (!place_find(p, d, f, error)) {
                g_prefix_error(error, "-drive: ");
                return false;
            }
            d->bus = d->unit = -1;
        }
    }
    for (guint i = 0; i < p->m->drives->len; i++) {
        struct drive_desc *d = p->m->drives->pdata[i];

        if (!d->id)
            drive_name(d);
        if (p->snapshot && !d->cdrom)
            d->options.snapshot = true;
        if (d->cdrom && strcmp(d->iface, "virtio") == 0 && !d->file)
            return fail(error, ERR_ARGUMENT, "-drive: if=virtio: file= is needed");
        if (strcmp(d->iface, "none") != 0)
            drive_device(p, d);
    }
    return true;
}

/* Puts the nodes that d refers to by name (file=NODE, backing=NODE) in its place: the image is
 * opened from one tree.  A node that stands in another is no drive of its own any more. */
static bool pull_in(struct parse *p, struct dict *d, const char *key, GPtrArray *nodes,
                    GError **error)
{
    const char *name = dict_peek(d, key);

    if (!name || !*name)
        return true;
    for (guint i = 0; i < p->m->drives->len; i++) {
        struct drive_desc *o = p->m->drives->pdata[i];

        if (!o->dict || strcmp(o->id, name) != 0) /* all with a dict have an id */
            continue;
        dict_remove(d, key);
        dict_put(d, key, g_steal_pointer(&o->dict));
        for (guint k = 0; k < o->nodes->len; k++)
            g_ptr_array_add(nodes, g_strdup(o->nodes->pdata[k]));
        g_ptr_array_remove_index(p->m->drives, i);
        return true;
    }
    return fail(error, ERR_NOT_FOUND, "there is no node '%s' before it", name);
}

/* -blockdev driver=file,node-name=f,filename=X and driver=raw,node-name=r,file=f, or all in one
 * (file.driver=file,file.filename=X), or as JSON. */
bool opt_blockdev(struct parse *p, const char *arg, GError **error)
{
    g_autodict d =
        arg[0] == '{' ? dict_from_json(arg, error) : dict_from_text(arg, "driver", error);
    if (!d)
        return false;
    const char *driver = dict_peek(d, "driver"), *node = dict_peek(d, "node-name");

    if (!driver || !node)
        return fail(error, ERR_ARGUMENT, "'%s': driver= and node-name= are needed", arg);
    if (!value_id(node, error))
        return false;
    if (!image_format_known(driver))
        return fail(error, ERR_ARGUMENT, "there is no driver '%s'", driver);
    g_autofree char *id = g_strdup(node);
    g_autoptr(GPtrArray) nodes = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(nodes, g_strdup(id));
    if (!pull_in(p, d, "file", nodes, error) || !pull_in(p, d, "image", nodes, error) ||
        !pull_in(p, d, "backing", nodes, error))
        return false;
    const char *name = dict_peek(d, dict_has(d, "filename") ? "filename" : "file.filename");

    struct drive_desc *drive = drive_add(p, "none", name ? name : driver);
    drive->id = g_steal_pointer(&id);
    drive->dict = g_steal_pointer(&d);
    drive->nodes = g_steal_pointer(&nodes);
    return true;
}

bool opt_snapshot(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->snapshot = true;
    return true;
}

/* ---- devices and network -------------------------------------------------------------------
 */

bool opt_device(struct parse *p, const char *arg, GError **error)
{
    if (arg[0] == '{')
        return fail(error, ERR_UNSUPPORTED, "the JSON form is not there yet");
    g_autoptr(GPtrArray) kv = opts_parse(arg, "driver", "device", error);

    if (!kv)
        return false;
    g_autofree char *type = opts_take(kv, "driver");
    if (!type)
        return fail(error, ERR_ARGUMENT, "'%s' does not name a device", arg);
    if (strcmp(type, "help") == 0 || strcmp(type, "?") == 0 || opts_get(kv, "help")) {
        GString *s = g_string_new(NULL);

        if (!opts_get(kv, "help")) {
            machine_print_devices(s);
        } else if (!machine_print_props(type, s)) {
            g_string_free(s, TRUE);
            return fail(error, ERR_NOT_FOUND, "there is no device '%s'", type);
        }
        p->o->print = g_string_free(s, FALSE);
        return true;
    }
    g_autofree char *id = opts_take(kv, "id");
    if (id && !value_id(id, error))
        return false;
    if (p->m->devices->len >= MACHINE_DEVICES_MAX)
        return fail(error, ERR_LIMIT, "more than %d devices", MACHINE_DEVICES_MAX);
    machine_add_device(p->m, type, id, "-device", g_steal_pointer(&kv));
    return true;
}

bool opt_global(struct parse *p, const char *arg, GError **error)
{
    const char *dot = strchr(arg, '.'), *eq = strchr(arg, '=');

    if (!dot || !eq || dot > eq || dot == arg || eq == dot + 1)
        return fail(error, ERR_ARGUMENT, "'%s' is not DEVICE.PROPERTY=VALUE", arg);
    struct global_desc *g = g_new0(struct global_desc, 1);
    g->type = g_strndup(arg, (gsize)(dot - arg));
    g->prop = g_strndup(dot + 1, (gsize)(eq - dot - 1));
    g->val = g_strdup(eq + 1);
    g_ptr_array_add(p->m->globals, g);
    return true;
}

/* Each kind's own properties are checked by the network library, before it opens anything. */
static bool net_kind_ok(const char *kind, GError **error)
{
    if (g_strv_contains((const char *const[]){ "user", "tap", "socket", NULL }, kind))
        return true;
    return fail(error, ERR_UNSUPPORTED, "there is no kind '%s'; there is user, tap, socket",
                kind);
}

bool opt_netdev(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "type", "netdev", error);

    if (!kv)
        return false;
    const char *kind = opts_get(kv, "type"), *id = opts_get(kv, "id");
    if (!kind || !id)
        return fail(error, ERR_ARGUMENT, "'%s': a kind and id= are needed", arg);
    if (!net_kind_ok(kind, error) || !value_id(id, error))
        return false;
    g_ptr_array_add(p->m->netdevs, g_strdup(arg));
    return true;
}

bool opt_nic(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "type", "nic", error);

    if (!kv)
        return false;
    g_autofree char *kind = opts_take(kv, "type");
    if (!kind)
        return fail(error, ERR_ARGUMENT, "'%s': a kind is needed", arg);
    if (strcmp(kind, "none") == 0)
        return value_none_left(kv, error);
    g_autofree char *model = opts_take(kv, "model");
    g_autofree char *mac = opts_take(kv, "mac");
    g_autofree char *id = opts_take(kv, "id");
    g_autofree char *addr = opts_take(kv, "addr");

    if (!net_kind_ok(kind, error))
        return false;
    if (id && !value_id(id, error))
        return false;
    if (model && strcmp(model, "virtio") != 0 && strcmp(model, "virtio-net-pci") != 0)
        return fail(error, ERR_UNSUPPORTED,
                    "model=%s is not there yet; there is virtio-net-pci", model);
    g_autofree char *net = id ? g_strdup(id) : g_strdup_printf("nic%u", p->nics);
    p->nics++;

    GPtrArray *props = opts_parse("", NULL, "nic", NULL);
    opts_add(props, "netdev", net);
    if (mac)
        opts_add(props, "mac", mac);
    if (addr)
        opts_add(props, "addr", addr);
    /* The board settles whether it is the PCI or the MMIO one. */
    machine_add_device(p->m, "virtio-net", NULL, "-nic", props);

    g_autofree char *rest = opts_text(kv);
    g_ptr_array_add(p->m->netdevs,
                    g_strdup_printf("%s,id=%s%s%s", kind, net, *rest ? "," : "", rest));
    return true;
}

bool opt_net(struct parse *p UNUSED, const char *arg, GError **error)
{
    if (strcmp(arg, "none") == 0)
        return true;
    return fail(error, ERR_UNSUPPORTED, "only -net none; for '%s' use -nic or -netdev", arg);
}

/* An object's members, as "outer.inner" where they nest. */
static GPtrArray *opts_of_json(const char *text, GError **error)
{
    g_autodict d = dict_from_json(text, error);

    if (!d)
        return NULL;
    GPtrArray *kv = opts_parse("", NULL, "object", NULL);
    g_autoptr(GList) keys = dict_keys(d);
    for (GList *k = keys; k; k = k->next)
        opts_add(kv, k->data, dict_peek(d, k->data));
    return kv;
}

static bool secret_option(struct parse *p, const GPtrArray *kv, GError **error)
{
    struct secret_props *s = g_new0(struct secret_props, 1);

    g_ptr_array_add(p->m->secrets, s);
    for (guint i = 0; i < kv->len; i++) {
        const struct opt *o = kv->pdata[i];
        char **at = secret_prop(s, o->key);

        if (at)
            value_set(at, o->val);
        else if (strcmp(o->key, "qom-type") != 0)
            return fail(error, ERR_ARGUMENT, "secret has no property '%s'", o->key);
    }
    return true;
}

static bool creds_option(struct parse *p, const char *type, const GPtrArray *kv, GError **error)
{
    struct creds_desc *d = g_new0(struct creds_desc, 1);

    d->type = g_strdup(type);
    d->props = g_new0(struct tls_creds_props, 1);
    g_ptr_array_add(p->m->creds, d);
    for (guint i = 0; i < kv->len; i++) {
        const struct opt *o = kv->pdata[i];
        char **at = tls_creds_prop(d->props, o->key);

        if (at)
            value_set(at, o->val);
        else if (strcmp(o->key, "qom-type") != 0)
            return fail(error, ERR_ARGUMENT, "%s has no property '%s'", type, o->key);
    }
    return true;
}

bool opt_object(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv =
        arg[0] == '{' ? opts_of_json(arg, error) : opts_parse(arg, "qom-type", "object", error);

    if (!kv)
        return false;
    const char *type = opts_get(kv, "qom-type"), *id = opts_get(kv, "id");
    const char *file = opts_get(kv, "filename");
    if (!type || !id)
        return fail(error, ERR_ARGUMENT, "a type and id= are needed");
    if (!value_id(id, error))
        return false;
    if (strcmp(type, "throttle-group") == 0) {
        g_autofree char *name = g_strdup(id);
        return throttle_group_option(p, kv, name, error);
    }
    if (strcmp(type, "secret") == 0)
        return secret_option(p, kv, error);
    if (tls_creds_kind(type))
        return creds_option(p, type, kv, error);
    bool random = strcmp(type, "rng-random") == 0;
    if (!random && strcmp(type, "rng-builtin") != 0)
        return fail(error, ERR_UNSUPPORTED,
                    "there is no '%s'; there is rng-random, rng-builtin, secret, "
                    "throttle-group, tls-creds-anon, tls-creds-psk, tls-creds-x509",
                    type);
    if (random && file && strcmp(file, "/dev/urandom") != 0 && strcmp(file, "/dev/random") != 0)
        return fail(error, ERR_UNSUPPORTED, "filename=%s: only /dev/urandom and /dev/random",
                    file);
    for (guint i = 0; i < kv->len; i++) {
        const char *k = ((const struct opt *)kv->pdata[i])->key;

        if (strcmp(k, "qom-type") != 0 && strcmp(k, "id") != 0 &&
            !(random && strcmp(k, "filename") == 0))
            return fail(error, ERR_ARGUMENT, "%s has no property '%s'", type, k);
    }
    g_ptr_array_add(p->m->objects, g_steal_pointer(&kv));
    return true;
}

/* ---- serial ports, monitors, display -------------------------------------------------------
 */

bool opt_serial(struct parse *p, const char *arg, GError **error)
{
    if (p->serials >= SERIALS_MAX)
        return fail(error, ERR_LIMIT, "more than %d serial ports", SERIALS_MAX);
    if (strncmp(arg, "vc", 2) == 0 && (!arg[2] || arg[2] == ':'))
        return fail(error, ERR_UNSUPPORTED, "'%s': there is no screen yet", arg);
    if (strcmp(arg, "none") == 0) {
        p->serials++;
        return true;
    }
    p->m->serial[p->serials++] = g_strdup(arg);
    return true;
}

static void monitor_add(struct parse *p, const char *spec, bool qmp, bool pretty)
{
    struct monitor_desc *d = g_new0(struct monitor_desc, 1);

    d->chardev = g_strdup(spec);
    d->qmp = qmp;
    d->pretty = pretty;
    g_ptr_array_add(p->o->monitors, d);
}

bool opt_monitor(struct parse *p, const char *arg, GError **error)
{
    if (strncmp(arg, "vc", 2) == 0 && (!arg[2] || arg[2] == ':'))
        return fail(error, ERR_UNSUPPORTED, "'%s': there is no screen yet", arg);
    p->no_monitor = true; /* the default one */
    if (strcmp(arg, "none") != 0)
        monitor_add(p, arg, false, false);
    return true;
}

bool opt_qmp(struct parse *p, const char *arg, GError **error UNUSED)
{
    monitor_add(p, arg, true, false);
    return true;
}

bool opt_qmp_pretty(struct parse *p, const char *arg, GError **error UNUSED)
{
    monitor_add(p, arg, true, true);
    return true;
}

bool opt_mon(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "chardev", "mon", error);
    bool pretty = false;

    if (!kv)
        return false;
    g_autofree char *chardev = opts_take(kv, "chardev");
    g_autofree char *mode = opts_take(kv, "mode");
    if (!chardev)
        return fail(error, ERR_ARGUMENT, "'%s': chardev= is needed", arg);
    if (mode && !value_one_of("mode", mode,
                              (const char *const[]){ "readline", "control", NULL }, error))
        return false;
    if (!value_take_bool(kv, "pretty", &pretty, error) || !value_none_left(kv, error))
        return false;
    g_autofree char *spec = g_strdup_printf("chardev:%s", chardev);
    monitor_add(p, spec, mode && strcmp(mode, "control") == 0, pretty);
    return true;
}

bool opt_chardev(struct parse *p, const char *arg, GError **error)
{
    g_autoptr(GPtrArray) kv = opts_parse(arg, "backend", "chardev", error);

    if (!kv)
        return false;
    if (!opts_get(kv, "backend") || !opts_get(kv, "id"))
        return fail(error, ERR_ARGUMENT, "'%s': a backend and id= are needed", arg);
    g_ptr_array_add(p->m->chardevs, g_strdup(arg));
    return value_id(opts_get(kv, "id"), error);
}

bool opt_debugcon(struct parse *p, const char *arg, GError **error UNUSED)
{
    value_set(&p->m->debugcon, arg);
    return true;
}

static bool only_none(const char *arg, const char *what, GError **error)
{
    return strcmp(arg, "none") == 0 ||
           fail(error, ERR_UNSUPPORTED, "'%s' is not there yet; only none: %s", arg, what);
}

bool opt_display(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no screen", error);
}

bool opt_vga(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no graphics card", error);
}

bool opt_parallel(struct parse *p UNUSED, const char *arg, GError **error)
{
    return only_none(arg, "there is no parallel port", error);
}

bool opt_nographic(struct parse *p, const char *arg UNUSED, GError **error UNUSED)
{
    p->nographic = true;
    p->m->graphics = false;
    return true;
}
