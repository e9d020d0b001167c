// SPDX-License-Identifier: GPL-2.0-or-later
/* drive.c - see drive.h. */
#include "vmm/dev/drive.h"

#include <string.h>

#include "base/error.h"
#include "image/graph.h"

/* --- errors of requests ----------------------------------------------------------------------
 */

struct failed {
    struct vm *vm;
    char *id;
    bool read;
    int err;
    enum vm_io_error did;
};

static void tell_failed(void *opaque)
{
    struct failed *f = opaque;
    const struct drive *d = drive_find(f->vm, f->id, NULL);
    const char *node = d && d->image ? image_node_name(d->image) : NULL;

    if (d && f->vm->io_error)
        f->vm->io_error(f->vm, d->node ? "" : f->id, d->dev ? d->dev->id : NULL, node, f->read,
                        f->err, f->did);
    if (d && f->did == VM_IO_STOP && f->vm->run == RUN_RUNNING)
        vm_stop(f->vm, RUN_IO_ERROR);
    g_free(f->id);
    g_free(f);
}

/* A thread of the image's. */
static void on_failed(void *opaque, bool read, int err, enum image_on_error did)
{
    static const u8 of[] = {
        [IMAGE_REPORT] = VM_IO_REPORT,
        [IMAGE_IGNORE] = VM_IO_IGNORE,
        [IMAGE_STOP] = VM_IO_STOP,
    };
    struct drive *d = opaque;
    struct failed *f = g_new(struct failed, 1);

    *f = (struct failed){ d->vm, g_strdup(d->id), read, err, (enum vm_io_error)of[did] };
    vm_on_main(d->vm, tell_failed, f);
}

/* What was held is tried again when the guest goes on. */
static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct vm *vm = opaque;

    for (u32 i = 0; ev == VM_EV_RESUME && vm->drives && i < vm->drives->len; i++) {
        const struct drive *d = vm->drives->pdata[i];

        if (d->image)
            image_retry(d->image);
    }
}

struct drive *drive_find_image(struct vm *vm, const struct image *image)
{
    for (u32 i = 0; vm->drives && i < vm->drives->len; i++) {
        struct drive *d = vm->drives->pdata[i];

        if (d->image == image)
            return d;
    }
    return NULL;
}

bool drive_error_props(struct drive *d, const char *rerror, const char *werror, GError **error)
{
    enum image_on_error r = d->rerror, w = d->werror;

    if (rerror && strcmp(rerror, "auto") != 0 &&
        (!image_on_error_from_text(rerror, &r) || r == IMAGE_ENOSPC))
        return fail(error, ERR_ARGUMENT, "rerror=%s: expected report, ignore, stop or auto",
                    rerror);
    if (werror && strcmp(werror, "auto") != 0 && !image_on_error_from_text(werror, &w))
        return fail(error, ERR_ARGUMENT,
                    "werror=%s: expected report, ignore, stop, enospc or auto", werror);
    d->rerror = r;
    d->werror = w;
    if (d->image)
        image_on_errors(d->image, r, w);
    return true;
}

/* --- the drive itself ------------------------------------------------------------------------
 */

void drive_settle(struct drive *d)
{
    if (!d->image)
        return;
    image_on_errors(d->image, d->rerror, d->werror);
    if (image_throttle_any(&d->throttle))
        image_set_throttle(d->image, d->group ? d->group : d->id, &d->throttle);
}

bool drive_set_throttle(struct drive *d, const char *group, const struct image_throttle *t,
                        GError **error)
{
    struct image_throttle was;

    if (!image_throttle_ok(t, error))
        return false;
    if (!d->image)
        return fail(error, ERR_NOT_FOUND, "Device '%s' has no medium", d->id);
    g_autofree char *in = image_get_throttle(d->image, &was);
    const char *name = group ? group : in ? in : d->group ? d->group : d->id;
    image_set_throttle(d->image, name, t);
    if (name != d->group) {
        char *copy = g_strdup(name);
        g_free(d->group);
        d->group = copy;
    }
    d->throttle = *t;
    return true;
}

struct drive *drive_new(struct vm *vm, const char *id, struct image *image, bool cdrom)
{
    struct drive *d = g_new0(struct drive, 1);

    d->vm = vm;
    d->id = g_strdup(id);
    d->image = image;
    d->cdrom = cdrom;
    d->options.read_only = cdrom;
    d->rerror = IMAGE_REPORT;
    d->werror = IMAGE_ENOSPC;
    image_throttle_init(&d->throttle);
    if (image)
        image_watch_errors(image, on_failed, d);
    if (!vm->drives) {
        vm->drives = g_ptr_array_new();
        vm_listen(vm, heard, vm);
    }
    g_ptr_array_add(vm->drives, d);
    drive_settle(d);
    return d;
}

struct drive *drive_of_node(struct vm *vm, const char *node_name, GError **error)
{
    struct node *n = vm->graph ? graph_find_node(vm->graph, node_name) : NULL;
    struct graph_node_info info;

    if (!n) {
        fail(error, ERR_NOT_FOUND, "there is no drive and no node '%s'", node_name);
        return NULL;
    }
    graph_node_info(n, &info);
    struct image *image = graph_open_image(vm->graph, node_name, info.read_only, error);
    if (!image)
        return NULL;
    struct drive *d = drive_new(vm, node_name, image, false);
    d->node = true;
    d->options.read_only = info.read_only;
    d->options.cache = info.cache;
    return d;
}

void drive_free_unused(struct vm *vm, const char *node_name)
{
    for (u32 i = 0; vm->drives && i < vm->drives->len;) {
        struct drive *d = vm->drives->pdata[i];
        bool ours = d->node && !d->dev && d->image &&
                    graph_find_node(vm->graph, node_name) == graph_image_node(d->image);

        if (ours)
            drive_free(d);
        else
            i++;
    }
}

static struct image *drive_lookup(void *opaque, const char *name)
{
    struct vm *vm = opaque;
    struct drive *d = drive_find(vm, name, name);

    return d && !(d->node && strcmp(d->id, name) == 0) ? d->image : NULL;
}

static void tell_job(void *opaque, const struct job_event *ev)
{
    struct vm *vm = opaque;

    if (vm->job_event)
        vm->job_event(vm, ev);
}

void drive_make_graph(struct vm *vm)
{
    vm->graph = graph_new(vm->main, drive_lookup, tell_job, vm);
}

void drive_free(struct drive *d)
{
    if (!d)
        return;
    g_ptr_array_remove(d->vm->drives, d);
    image_close(d->image);
    g_free(d->group);
    g_free(d->id);
    g_free(d);
}

void drive_free_all(struct vm *vm)
{
    while (vm->drives && vm->drives->len)
        drive_free(vm->drives->pdata[0]);
    if (vm->drives)
        g_ptr_array_unref(vm->drives);
    vm->drives = NULL;
}

struct drive *drive_find(struct vm *vm, const char *id, const char *dev_id)
{
    for (u32 i = 0; vm->drives && i < vm->drives->len; i++) {
        struct drive *d = vm->drives->pdata[i];

        if ((id && strcmp(d->id, id) == 0) ||
            (dev_id && d->dev && strcmp(d->dev->id, dev_id) == 0))
            return d;
    }
    return NULL;
}

void drive_attach(struct drive *d, struct dev *dev, struct dev *lock,
                  const struct drive_ops *ops, void *opaque)
{
    d->dev = dev;
    d->lock = lock;
    d->ops = ops;
    d->opaque = opaque;
}

void drive_detach(struct drive *d)
{
    d->dev = d->lock = NULL;
    d->ops = NULL;
    d->opaque = NULL;
}

bool drive_tray_open(struct drive *d)
{
    bool open = false;

    if (!d->ops || !d->ops->tray_open)
        return false;
    dev_lock(d->lock);
    open = d->ops->tray_open(d->opaque);
    dev_unlock(d->lock);
    return open;
}

bool drive_locked(struct drive *d)
{
    bool locked = false;

    if (!d->ops || !d->ops->locked)
        return false;
    dev_lock(d->lock);
    locked = d->ops->locked(d->opaque);
    dev_unlock(d->lock);
    return locked;
}

static bool removable(const struct drive *d, GError **error)
{
    return d->ops || fail(error, ERR_UNSUPPORTED, "Device '%s' is not removable", d->id);
}

static void set_tray(struct drive *d, bool open)
{
    if (!d->ops->set_tray || d->ops->tray_open(d->opaque) == open)
        return;
    d->ops->set_tray(d->opaque, open);
    drive_tray_moved(d, open);
}

bool drive_open_tray(struct drive *d, bool force, GError **error)
{
    if (!removable(d, error))
        return false;
    dev_lock(d->lock);
    bool held = d->ops->locked && d->ops->locked(d->opaque) && !d->ops->tray_open(d->opaque);
    if (held && d->ops->asked)
        d->ops->asked(d->opaque);
    if (!held || force)
        set_tray(d, true);
    dev_unlock(d->lock);
    return !held || force ||
           fail(error, ERR_BUSY,
                "Device '%s' is locked and force was not specified, wait for tray to open and "
                "try again",
                d->id);
}

bool drive_close_tray(struct drive *d, GError **error)
{
    if (!removable(d, error))
        return false;
    dev_lock(d->lock);
    set_tray(d, false);
    dev_unlock(d->lock);
    return true;
}

/* The old one is closed once nothing uses it. */
static void swap(struct drive *d, struct image *with)
{
    for (;;) {
        if (d->image)
            image_drain(d->image); /* completions need the lock that we do not have yet */
        dev_lock(d->lock);
        if (!d->ops->busy || !d->ops->busy(d->opaque))
            break;
        dev_unlock(d->lock);
    }
    struct image *old = d->image;
    struct image_throttle now;
    g_autofree char *group = old ? image_get_throttle(old, &now) : NULL;
    if (group)
        d->throttle = now; /* the group's may have been changed by way of another drive */
    d->image = with;
    if (with) {
        image_watch_errors(with, on_failed, d);
        drive_settle(d);
    }
    if (old || with)
        d->ops->changed(d->opaque);
    dev_unlock(d->lock);
    image_close(old);
}

bool drive_eject(struct drive *d, bool force, GError **error)
{
    if (d->image && !graph_image_free(d->image, error))
        return false;
    if (!drive_open_tray(d, force, error))
        return false;
    swap(d, NULL);
    return true;
}

bool drive_change(struct drive *d, const char *file, const char *format, int read_only,
                  bool force, GError **error)
{
    struct image_options o = d->options;

    if (!removable(d, error))
        return false;
    o.format = format;
    if (read_only >= 0)
        o.read_only = read_only || d->cdrom;
    struct image *image = image_open(file, &o, error);
    if (!image)
        return false;
    if (!drive_eject(d, force, error)) {
        image_close(image);
        return false;
    }
    swap(d, image);
    return drive_close_tray(d, error);
}

struct moved {
    struct vm *vm;
    char *id, *dev;
    bool open;
};

static void tell_moved(void *opaque)
{
    struct moved *m = opaque;

    if (m->vm->tray_moved)
        m->vm->tray_moved(m->vm, m->id, m->dev, m->open);
    g_free(m->id);
    g_free(m->dev);
    g_free(m);
}

void drive_tray_moved(struct drive *d, bool open)
{
    struct moved *m = g_new(struct moved, 1);

    *m = (struct moved){ d->vm, g_strdup(d->id), g_strdup(d->dev ? d->dev->id : ""), open };
    vm_on_main(d->vm, tell_moved, m);
}
