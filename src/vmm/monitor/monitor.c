// SPDX-License-Identifier: GPL-2.0-or-later
/* monitor.c - the list of monitors, their output, and who hears of events.  See monitor.h. */
#include "base/error.h"
#include "vmm/backend/chardev.h"
#include "vmm/monitor/monitor_impl.h"

bool monitor_check(struct chardev *c, GError **error)
{
    return chardev_free_for_use(c) ||
           fail(error, ERR_BUSY, "chardev '%s' is in use", chardev_id(c));
}

static void on_event(void *opaque, enum vm_event ev, enum vm_cause cause)
{
    struct vm *vm = opaque;

    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->event)
            m->event(m, ev, cause);
    }
}

static void on_deleted(struct vm *vm, const char *dev)
{
    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->deleted)
            m->deleted(m, dev);
    }
}

static void on_tray(struct vm *vm, const char *drive, const char *dev, bool open)
{
    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->tray)
            m->tray(m, drive, dev, open);
    }
}

static void on_io_error(struct vm *vm, const char *drive, const char *dev, const char *node,
                        bool read, int err, enum vm_io_error did)
{
    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->io_error)
            m->io_error(m, drive, dev, node, read, err, did);
    }
}

static void on_job(struct vm *vm, const struct job_event *ev)
{
    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->job)
            m->job(m, ev);
    }
}

void monitor_add(struct monitor *m, struct vm *vm, struct chardev *c)
{
    m->vm = vm;
    m->chardev = c;
    m->out = g_string_new(NULL);
    if (!vm->monitors) {
        vm->monitors = g_ptr_array_new();
        vm_listen(vm, on_event, vm);
        vm->device_deleted = on_deleted;
        vm->tray_moved = on_tray;
        vm->io_error = on_io_error;
        vm->job_event = on_job;
    }
    g_ptr_array_add(vm->monitors, m);
}

void monitor_clear(struct monitor *m)
{
    chardev_detach(m->chardev, m);
    g_string_free(m->out, TRUE);
}

void monitor_export_deleted(struct vm *vm, const char *id)
{
    for (u32 i = 0; vm->monitors && i < vm->monitors->len; i++) {
        struct monitor *m = vm->monitors->pdata[i];
        if (m->exported)
            m->exported(m, id);
    }
}

void monitor_close_all(struct vm *vm)
{
    exports_free(vm);
    /* The array stays: it says that we listen already. */
    while (vm->monitors && vm->monitors->len) {
        struct monitor *m = vm->monitors->pdata[vm->monitors->len - 1];
        g_ptr_array_set_size(vm->monitors, (int)vm->monitors->len - 1);
        m->free(m);
    }
}

void monitor_flush(struct monitor *m)
{
    bool was_full = m->out->len >= MONITOR_OUT_HIGH;
    size_t n = m->out->len ? chardev_write(m->chardev, m->out->str, m->out->len) : 0;

    g_string_erase(m->out, 0, (gssize)n);
    if (was_full && m->out->len < MONITOR_OUT_HIGH)
        chardev_accept(m->chardev);
}

void monitor_put(struct monitor *m, const char *text, size_t n)
{
    if (m->out->len + n > MONITOR_OUT_MAX)
        return; /* only events come while nobody reads: they are lost */
    g_string_append_len(m->out, text, (gssize)n);
    monitor_flush(m);
}

size_t monitor_room(const struct monitor *m)
{
    return m->out->len < MONITOR_OUT_HIGH ? 4096 : 0;
}
