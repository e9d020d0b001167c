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
#include "net/net.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/ram.h"
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

/* ---- checks before anything is opened ------------------------------------------------------
 */

const char *machine_type_name(const struct machine_desc *d, const char *name)
{
    static const char *const names[][3] = {
        { "virtio-blk", "virtio-blk-pci", "virtio-blk-device" },
        { "virtio-net", "virtio-net-pci", "virtio-net-device" },
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i][0]) == 0)
            return names[i][d->board == BOARD_MICROVM ? 2 : 1];
    return name;
}

/* Those a user may add. */
static bool type_offered(const struct dev_type *t)
{
    if (t->kind == DEV_PCI)
        return !((const struct pci_type *)t->more)->fixed;
    return t->kind != DEV_SYSBUS;
}

void machine_print_devices(GString *to)
{
    for (const struct dev_type *const *t = dev_types; *t; t++)
        if (type_offered(*t))
            g_string_append_printf(to, "name \"%s\"%s%s%s\n", (*t)->name,
                                   (*t)->desc ? ", \"" : "", (*t)->desc ? (*t)->desc : "",
                                   (*t)->desc ? "\"" : "");
}

static const char *prop_kind_name(const struct prop *p)
{
    static const char *const names[] = {
        [PROP_BOOL] = "bool",  [PROP_U8] = "uint8",   [PROP_U16] = "uint16",
        [PROP_U32] = "uint32", [PROP_U64] = "uint64", [PROP_SIZE] = "size",
        [PROP_STR] = "str",    [PROP_MAC] = "mac",    [PROP_PTR] = "id",
    };

    return p->kind == PROP_PTR && p->link ? p->link : names[p->kind];
}

bool machine_print_props(const char *type, GString *to)
{
    const struct dev_type *t = dev_type_find(type);

    if (!t || !type_offered(t))
        return false;
    g_string_append_printf(to, "%s options:\n", type);
    for (const struct prop *p = t->props; p && p->name; p++) {
        if (p->kind == PROP_PTR && !p->link)
            continue;
        g_autofree char *left = g_strdup_printf("%s=<%s>", p->name, prop_kind_name(p));
        g_string_append_printf(to, "  %-26s%s%s", left, p->help ? " - " : "",
                               p->help ? p->help : "");
        if (p->def)
            g_string_append_printf(to, " (default: %s)", p->def);
        g_string_append_c(to, '\n');
    }
    return true;
}

static const char *id_of_list(const char *opts)
{
    static __thread char id[320];
    g_autoptr(GPtrArray) kv = opts_parse(opts, "type", "", NULL);
    const char *v = kv ? opts_get(kv, "id") : NULL;

    g_strlcpy(id, v ? v : "", sizeof id);
    return id;
}

static bool list_has(const GPtrArray *list, const char *id)
{
    for (guint i = 0; i < list->len; i++)
        if (strcmp(id_of_list(list->pdata[i]), id) == 0)
            return true;
    return false;
}

static const struct drive_desc *drive_find(const struct machine_desc *d, const char *id)
{
    for (guint i = 0; i < d->drives->len; i++) {
        const struct drive_desc *r = d->drives->pdata[i];

        if (strcmp(r->id, id) == 0)
            return r;
    }
    return NULL;
}

/* Does the id that a property names exist? */
static bool link_check(const struct machine_desc *d, const struct prop *p, const char *val,
                       GError **error)
{
    bool there = true;

    if (!p->link)
        return fail(error, ERR_ARGUMENT, "property '%s' cannot be set", p->name);
    if (strcmp(p->link, "drive") == 0)
        there = drive_find(d, val) != NULL;
    else if (strcmp(p->link, "netdev") == 0)
        there = list_has(d->netdevs, val);
    else if (strcmp(p->link, "chardev") == 0)
        there = list_has(d->chardevs, val);
    return there || fail(error, ERR_NOT_FOUND, "%s=%s: there is no %s with that id", p->name,
                         val, p->link);
}

/* Properties of any device that the builder takes itself when the type has them not. */
static bool prop_is_builders(const char *name)
{
    return strcmp(name, "bus") == 0;
}

static bool device_check(const struct machine_desc *d, const struct device_desc *dev,
                         GHashTable *ids, GHashTable *used, GError **error)
{
    const char *name = machine_type_name(d, dev->type);
    const struct dev_type *t = dev_type_find(name);

    if (!t || !type_offered(t))
        return fail(error, ERR_NOT_FOUND, "there is no device '%s'; -device help lists them",
                    dev->type);
    if (d->board != BOARD_PC && t->kind == DEV_PCI)
        return fail(error, ERR_ARGUMENT, "%s needs PCI, which machine %s has not", name,
                    machine_board_name(d->board));
    if (dev->id && !g_hash_table_add(ids, dev->id))
        return fail(error, ERR_ARGUMENT, "id '%s' is used twice", dev->id);
    for (guint i = 0; i < dev->props->len; i++) {
        const struct opt *o = dev->props->pdata[i];
        const struct prop *p = dev_prop_find(t, o->key);

        if (!p && prop_is_builders(o->key))
            continue;
        if (!p)
            return fail(error, ERR_NOT_FOUND,
                        "%s has no property '%s'; -device %s,help lists them", name, o->key,
                        name);
        if (p->kind != PROP_PTR)
            continue;
        if (!link_check(d, p, o->val, error)) {
            g_prefix_error(error, "%s: ", name);
            return false;
        }
        g_autofree char *key = g_strdup_printf("%s %s", p->link, o->val);
        if ((strcmp(p->link, "drive") == 0 || strcmp(p->link, "netdev") == 0) &&
            !g_hash_table_add(used, g_steal_pointer(&key)))
            return fail(error, ERR_BUSY, "%s: %s=%s has a device already", name, o->key,
                        o->val);
    }
    return true;
}

static bool ids_check(const GPtrArray *list, const char *option, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < list->len; i++) {
        const char *id = id_of_list(list->pdata[i]);

        if (!g_hash_table_add(ids, g_strdup(id)))
            return fail(error, ERR_ARGUMENT, "%s: id '%s' is used twice", option, id);
    }
    return true;
}

bool machine_check(const struct machine_desc *d, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) drives = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) used = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < d->drives->len; i++) {
        const struct drive_desc *r = d->drives->pdata[i];

        if (!g_hash_table_add(drives, r->id))
            return fail(error, ERR_ARGUMENT, "-drive: id '%s' is used twice", r->id);
    }
    if (!ids_check(d->netdevs, "-netdev", error) || !ids_check(d->chardevs, "-chardev", error))
        return false;
    for (guint i = 0; i < d->devices->len; i++) {
        const struct device_desc *dev = d->devices->pdata[i];

        if (!device_check(d, dev, ids, used, error)) {
            g_prefix_error(error, "%s: ", dev->origin);
            return false;
        }
    }
    for (guint i = 0; i < d->globals->len; i++) {
        const struct global_desc *g = d->globals->pdata[i];
        const struct dev_type *t = dev_type_find(g->type);

        if (!t)
            return fail(error, ERR_NOT_FOUND, "-global: there is no device '%s'", g->type);
        if (!dev_prop_find(t, g->prop))
            return fail(error, ERR_NOT_FOUND, "-global: %s has no property '%s'", g->type,
                        g->prop);
    }
    if (d->board == BOARD_MICROVM && !d->kernel && !d->bios)
        return fail(error, ERR_ARGUMENT, "-machine microvm: needs -kernel");
    return true;
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

static bool make_drives(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->drives->len; i++) {
        const struct drive_desc *d = m->desc->drives->pdata[i];
        struct image *img = image_open(d->file, &d->options, error);

        if (!img) {
            g_prefix_error(error, "-drive: ");
            return false;
        }
        g_hash_table_insert(m->images, d->id, img);
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
        g_hash_table_insert(m->nets, g_strdup(id_of_list(opts)), n);
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
    if (strcmp(p->link, "drive") == 0)
        ptr = g_hash_table_lookup(m->images, text);
    else if (strcmp(p->link, "netdev") == 0)
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

struct dev *machine_part(struct machine *m, const struct part *p, const char *const *props,
                         GError **error)
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
    for (unsigned i = 0; i < p->gsis; i++)
        if (p->gsi[i] >= 0)
            d->irq[i] = vm_gsi(m->vm, (unsigned)p->gsi[i]);
    if (!ok || !dev_realize(d, error)) {
        dev_free(d);
        return NULL;
    }
    for (unsigned i = 0; i < ARRAY_LEN(p->io) && p->io[i]; i++)
        bus_map(m->vm->io, p->io[i], t->io[i], d, 0);
    for (unsigned i = 0; i < ARRAY_LEN(p->mem) && p->mem[i]; i++)
        bus_map(m->vm->mem, p->mem[i], t->mem[i], d, 0);
    return d;
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

        if (dev_prop_find(t, o->key) || !prop_is_builders(o->key))
            ok = machine_set_prop(m, d, o->key, o->val, error);
    }
    ok = ok && board_of(m->desc)->place(m, d, opts_get(desc->props, "bus"), error) &&
         dev_realize(d, error);
    if (!ok) {
        g_prefix_error(error, "%s: ", desc->origin);
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
                                  .no_kernel_irqchip = d->no_kernel_irqchip };
    if (!machine_make_ram(m, error) || !cpu_open(m->vm, &m->cpu, error))
        return false;
    if (d->force_kernel_irqchip && !m->vm->kernel_irqchip)
        return fail(error, ERR_UNSUPPORTED,
                    "-machine kernel_irqchip=on: accelerator %s has no irqchip of its own",
                    m->vm->cpu->name);
    if (!cpu_make_vcpus(m->vm, &m->cpu, error) || !make_chardevs(m, error) ||
        !make_drives(m, error) || !make_nets(m, error) || !board->build(m, error))
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
    m->images = g_hash_table_new(g_str_hash, g_str_equal);
    m->nets = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    m->vm = vm_new();
    m->vm->name = g_strdup(desc->name ? desc->name : "guest");
    memcpy(m->vm->uuid, desc->uuid, 16);
    m->vm->no_reboot = desc->no_reboot;
    m->vm->no_shutdown = desc->no_shutdown;
    if (build(m, error))
        return m;
    machine_free(m);
    return NULL;
}

/* Devices go before what they stand on: drives finish their requests while the devices that
 * asked still exist, then devices, then the images themselves. */
void machine_free(struct machine *m)
{
    GHashTableIter it;
    gpointer v;

    if (!m)
        return;
    cpu_close(m->vm);
    g_hash_table_iter_init(&it, m->nets);
    while (g_hash_table_iter_next(&it, NULL, &v))
        net_free(v);
    g_hash_table_iter_init(&it, m->images);
    while (g_hash_table_iter_next(&it, NULL, &v))
        image_drain(v);
    chardev_free_all(m->vm);
    pc_intc_free(m->vm);
    vm_free(m->vm);
    g_hash_table_iter_init(&it, m->images);
    while (g_hash_table_iter_next(&it, NULL, &v))
        image_close(v);
    g_hash_table_unref(m->images);
    g_hash_table_unref(m->nets);
    boot_free(m->boot);
    if (m->tables)
        g_byte_array_unref(m->tables);
    g_free(m);
}
