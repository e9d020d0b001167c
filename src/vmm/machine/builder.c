// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * builder.c - from struct machine_desc to a stopped vm with all its devices.
 *
 * Order: RAM, CPU backend, vCPUs, host ends (character devices, disks, networks), the board's
 * parts, the user's devices, then what boots.  The board then takes part in every reset, after
 * devices and vCPUs, where it does what firmware would have done.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/secret.h"
#include "image/graph.h"
#include "net/net.h"
#include "stream/tls.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/ram.h"
#include "vmm/dev/drive.h"
#include "vmm/dev/pc/intc.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/machine/board.h"

static const struct board_ops *board_of(const struct machine_desc *d)
{
    switch (d->board) {
    case BOARD_PC:
        return &board_pc;
    case BOARD_MICROVM:
        return &board_microvm;
    case BOARD_NONE:
        break;
    }
    return &board_none;
}

struct vm *machine_vm(struct machine *m)
{
    return m->vm;
}

/* ---- host ends -----------------------------------------------------------------------------
 */

static bool make_chardevs(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->chardevs->len; i++) {
        if (!chardev_new_opts(m->vm, m->desc->chardevs->pdata[i], error)) {
            g_prefix_error(error, "-chardev: ");
            return false;
        }
    }
    return true;
}

/* They are kept in one place, and wiped here. */
static bool make_secrets(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->secrets->len; i++) {
        struct secret_props *p = m->desc->secrets->pdata[i];

        if (!secret_add(p, error)) {
            g_prefix_error(error, "-object secret: ");
            return false;
        }
    }
    g_ptr_array_set_size(m->desc->secrets, 0);
    return true;
}

static bool make_creds(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->creds->len; i++) {
        const struct creds_desc *d = m->desc->creds->pdata[i];

        if (!tls_creds_add(d->type, d->props, error)) {
            g_prefix_error(error, "-object %s: ", d->type);
            return false;
        }
    }
    return true;
}

static bool make_throttle_groups(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->throttles->len; i++) {
        const struct throttle_desc *d = m->desc->throttles->pdata[i];

        if (image_throttle_group_find(d->id, NULL))
            return fail(error, ERR_BUSY, "-object: two with id=%s", d->id);
        if (!image_throttle_group(d->id, &d->limits, error)) {
            g_prefix_error(error, "-object throttle-group: ");
            return false;
        }
    }
    return true;
}

static bool make_drives(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->drives->len; i++) {
        const struct drive_desc *d = m->desc->drives->pdata[i];
        struct image_options o = d->options;
        struct image *img = NULL;

        o.graph = m->vm->graph;
        o.node_name = d->node_name;
        o.driver = d->driver;
        if (d->dict)
            img = image_open_dict(dict_copy(d->dict), &o, error);
        else if (d->file)
            img = image_open(d->file, &o, error);
        if (!img && (d->dict || d->file)) {
            g_prefix_error(error, "-drive: ");
            return false;
        }
        struct drive *drive = drive_new(m->vm, d->id, img, d->cdrom);
        drive->options = o;
        drive->options.node_name = NULL; /* that of this medium */
        drive->options.format = NULL;    /* another medium is probed anew */
        drive->options.driver = NULL;
        drive->node = d->dict != NULL;
        for (guint k = 0; d->nodes && k < d->nodes->len; k++)
            graph_own(m->vm->graph, d->nodes->pdata[k]);
        drive->rerror = d->rerror;
        drive->werror = d->werror;
        drive->group = g_strdup(d->group);
        drive->throttle = d->throttle;
        drive_settle(drive);
    }
    return true;
}

static bool make_nets(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->netdevs->len; i++) {
        const char *opts = m->desc->netdevs->pdata[i];
        struct net *n = net_new(opts, error);

        if (!n) {
            g_prefix_error(error, "-netdev: ");
            return false;
        }
        g_hash_table_insert(m->nets, g_strdup(machine_id_of(opts)), n);
        if (!m->vm->nets)
            m->vm->nets = g_ptr_array_new();
        g_ptr_array_add(m->vm->nets, n);
    }
    return true;
}

/* ---- devices -------------------------------------------------------------------------------
 */

bool machine_set_prop(struct machine *m, struct dev *d, const char *name, const char *text,
                      GError **error)
{
    const struct prop *p = dev_prop_find(d->type, name);
    void *ptr = NULL;

    if (!p || p->kind != PROP_PTR || !p->link)
        return dev_set(d, name, text, error);
    if (strcmp(p->link, "drive") == 0 || strcmp(p->link, "medium") == 0) {
        struct drive *drive = drive_find(m->vm, text, NULL);

        /* A node's, from before something else was put on it: not that node's any more. */
        if (drive && drive->node && !drive->dev && drive->image &&
            graph_image_node(drive->image) != graph_find_node(m->vm->graph, text)) {
            drive_free(drive);
            drive = NULL;
        }
        if (!drive && graph_find_node(m->vm->graph, text)) {
            drive_free_unused(m->vm, text);
            drive = drive_of_node(m->vm, text, error);
            if (!drive)
                return false;
        }
        ptr = drive;
        if (drive && strcmp(p->link, "drive") == 0)
            ptr = drive->image;
        if (drive && !ptr)
            return fail(error, ERR_ARGUMENT, "%s: %s=%s: the drive is empty", d->type->name,
                        name, text);
    }
    if (strcmp(p->link, "netdev") == 0)
        ptr = g_hash_table_lookup(m->nets, text);
    else if (strcmp(p->link, "chardev") == 0)
        ptr = chardev_find(m->vm, text);
    if (!ptr)
        return fail(error, ERR_NOT_FOUND, "%s: %s=%s: there is no %s with that id",
                    d->type->name, name, text, p->link);
    return dev_set_ptr(d, name, ptr, error);
}

static bool globals_apply(struct machine *m, struct dev *d, GError **error)
{
    for (guint i = 0; i < m->desc->globals->len; i++) {
        const struct global_desc *g = m->desc->globals->pdata[i];

        if (strcmp(g->type, d->type->name) == 0 &&
            !machine_set_prop(m, d, g->prop, g->val, error)) {
            g_prefix_error(error, "-global: ");
            return false;
        }
    }
    return true;
}

static struct dev *part_make(struct machine *m, const struct part *p, const char *const *props,
                             struct irq *irq0, GError **error)
{
    const struct dev_type *t = dev_type_find(p->type);

    if (!t) {
        fail(error, ERR_NOT_FOUND, "machine %s: device '%s' is not built in",
             machine_board_name(m->desc->board), p->type);
        return NULL;
    }
    struct dev *d = dev_new(m->vm, t, p->id);
    bool ok = globals_apply(m, d, error);
    for (; ok && props && props[0]; props += 2)
        ok = machine_set_prop(m, d, props[0], props[1], error);
    d->irq[0] = irq0;
    for (unsigned i = 0; i < p->gsis; i++)
        d->irq[i] = vm_gsi(m->vm, (unsigned)p->gsi[i]);
    if (!ok || !dev_realize(d, error)) {
        dev_free(d);
        return NULL;
    }
    for (unsigned i = 0; i < ARRAY_LEN(p->io); i++)
        if (p->io[i])
            bus_map(m->vm->io, p->io[i], t->io[i], d, 0);
    for (unsigned i = 0; i < ARRAY_LEN(p->mem) && p->mem[i]; i++)
        bus_map(m->vm->mem, p->mem[i], t->mem[i], d, 0);
    return d;
}

struct dev *machine_part(struct machine *m, const struct part *p, const char *const *props,
                         GError **error)
{
    return part_make(m, p, props, NULL, error);
}

struct dev *machine_part_on(struct machine *m, const struct part *p, struct irq *irq,
                            GError **error)
{
    return part_make(m, p, NULL, irq, error);
}

bool machine_user_device(struct machine *m, const struct device_desc *desc, GError **error)
{
    const char *name = machine_type_name(m->desc, desc->type);
    const struct dev_type *t = dev_type_find(name);

    if (!t) /* machine_check() has seen it; -device of an embedder may not */
        return fail(error, ERR_NOT_FOUND, "there is no device '%s'", name);
    struct dev *d = dev_new(m->vm, t, desc->id);
    bool ok = globals_apply(m, d, error);

    d->user = true;
    for (guint i = 0; ok && i < desc->props->len; i++) {
        const struct opt *o = desc->props->pdata[i];

        if (dev_prop_find(t, o->key) || !machine_own_prop(t, o->key))
            ok = machine_set_prop(m, d, o->key, o->val, error);
    }
    ok = ok && board_of(m->desc)->place(m, d, opts_get(desc->props, "bus"), error) &&
         dev_realize(d, error);
    if (ok && board_of(m->desc)->placed)
        board_of(m->desc)->placed(m, d);
    if (!ok) {
        g_prefix_error(error, "%s: ", desc->origin);
        pci_unplace(d);
        dev_free(d);
    }
    return ok;
}

/* ---- all of it -----------------------------------------------------------------------------
 */

/* After devices and vCPUs have been reset: the board does what firmware would. */
static void on_event(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct machine *m = opaque;
    g_autoptr(GError) error = NULL;

    if (ev != VM_EV_RESET || board_of(m->desc)->reset(m, &error))
        return;
    log_error("reset: %s", error->message);
    vm_request(m->vm, VM_REQ_ERROR, VM_BY_PANIC);
}

/* -rtc base=: the difference to the host's clock stays what it is at the start. */
static bool set_clock(struct machine *m, GError **error)
{
    const char *base = m->desc->rtc_base;
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    s64 us;

    if (!base || strcmp(base, "utc") == 0)
        return true;
    if (strcmp(base, "localtime") == 0) {
        us = g_date_time_get_utc_offset(now);
    } else {
        g_autofree char *iso = g_strconcat(base, strchr(base, 'T') ? "Z" : "T00:00:00Z", NULL);
        g_autoptr(GDateTime) t = g_date_time_new_from_iso8601(iso, NULL);

        if (!t)
            return fail(error, ERR_ARGUMENT, "-rtc: base=%s is no date", base);
        us = g_date_time_difference(t, now);
    }
    clock_shift_wall(m->vm, us * (s64)NS_PER_US);
    return true;
}

static bool build(struct machine *m, GError **error)
{
    const struct machine_desc *d = m->desc;
    const struct board_ops *board = board_of(d);

    m->cpu = (struct cpu_config){ .accel = d->accel,
                                  .model = d->cpu_model,
                                  .smp = d->smp,
                                  .sockets = d->sockets,
                                  .cores = d->cores,
                                  .threads = d->threads,
                                  .no_kernel_irqchip = d->no_kernel_irqchip,
                                  .code_cache_mib = d->code_cache_mib,
                                  .direct = d->direct,
                                  .perfmap = d->perfmap };
    if (!set_clock(m, error) || !machine_make_ram(m, error) ||
        (board->memory && !board->memory(m, error)) || !cpu_open(m->vm, &m->cpu, error))
        return false;
    if (d->force_kernel_irqchip && !m->vm->kernel_irqchip)
        return fail(error, ERR_UNSUPPORTED,
                    "-machine kernel_irqchip=on: accelerator %s has no irqchip of its own",
                    m->vm->cpu->name);
    if (!cpu_make_vcpus(m->vm, &m->cpu, error) || !make_chardevs(m, error) ||
        !make_secrets(m, error) || !make_creds(m, error) || !make_throttle_groups(m, error) || !make_drives(m, error) ||
        !make_nets(m, error) || !board->build(m, error))
        return false;
    for (guint i = 0; i < d->devices->len; i++)
        if (!machine_user_device(m, d->devices->pdata[i], error))
            return false;
    if (!board->finish(m, error))
        return false;
    vm_listen(m->vm, on_event, m);
    if (!board->reset(m, error) || !cpu_start_threads(m->vm, error))
        return false;
    m->started = true;
    return true;
}

struct machine *machine_build(const struct machine_desc *desc, GError **error)
{
    if (!machine_check(desc, error))
        return NULL;
    struct machine *m = g_new0(struct machine, 1);

    m->desc = desc;
    m->nets = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    m->vm = vm_new();
    m->vm->machine = m;
    m->vm->name = g_strdup(desc->name ? desc->name : "guest");
    memcpy(m->vm->uuid, desc->uuid, 16);
    drive_make_graph(m->vm);
    m->vm->no_reboot = desc->no_reboot;
    m->vm->no_shutdown = desc->no_shutdown;
    if (build(m, error))
        return m;
    machine_free(m);
    return NULL;
}

/* Devices go before what they stand on: drives finish their requests while the devices that
 * asked still exist, then devices, then the host ends themselves. */
void machine_free(struct machine *m)
{
    GHashTableIter it;
    gpointer v;

    if (!m)
        return;
    cpu_stop(m->vm);
    graph_stop_jobs(m->vm->graph);
    for (u32 i = 0; m->vm->drives && i < m->vm->drives->len; i++) {
        const struct drive *d = m->vm->drives->pdata[i];

        if (d->image)
            image_drain(d->image);
    }
    vm_free_devs(m->vm);
    pc_intc_free(m->vm);
    g_hash_table_iter_init(&it, m->nets);
    while (g_hash_table_iter_next(&it, NULL, &v))
        net_free(v);
    chardev_free_all(m->vm);
    cpu_close(m->vm);
    drive_free_all(m->vm);
    graph_free(m->vm->graph);
    for (guint i = 0; i < m->desc->throttles->len; i++)
        image_throttle_group_free(
            ((const struct throttle_desc *)m->desc->throttles->pdata[i])->id);
    g_autoptr(GPtrArray) creds = tls_creds_ids(NULL);
    for (guint i = 0; i < creds->len; i++)
        tls_creds_remove(creds->pdata[i]);
    g_autoptr(GPtrArray) secrets = secret_ids();
    for (guint i = 0; i < secrets->len; i++)
        secret_remove(secrets->pdata[i]);
    vm_free(m->vm);
    g_hash_table_unref(m->nets);
    boot_free(m->boot);
    if (m->tables)
        g_byte_array_unref(m->tables);
    g_free(m);
}
