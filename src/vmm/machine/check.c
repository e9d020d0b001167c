// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check.c - what can be said of a machine_desc before anything is opened, and what -device help
 * lists.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/machine/board.h"

/* ---- checks before anything is opened ------------------------------------------------------
 */

const char *machine_type_name(const struct machine_desc *d, const char *name)
{
    static const char *const names[][3] = {
        { "virtio-blk", "virtio-blk-pci", "virtio-blk-device" },
        { "virtio-net", "virtio-net-pci", "virtio-net-device" },
        { "lsi", "lsi53c895a", "lsi53c895a" },
        { "virtio-scsi", "virtio-scsi-pci", "virtio-scsi-device" },
        { "ahci", "ich9-ahci", "ich9-ahci" },
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
    return t->kind != DEV_SYSBUS || machine_is_mmio(t);
}

/* A virtio device for the slots of boards without PCI. */
bool machine_is_mmio(const struct dev_type *t)
{
    return g_str_has_prefix(t->name, "virtio-") && g_str_has_suffix(t->name, "-device");
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

const char *machine_id_of(const char *opts)
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
        if (strcmp(machine_id_of(list->pdata[i]), id) == 0)
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
    if (strcmp(p->link, "drive") == 0 || strcmp(p->link, "medium") == 0)
        there = drive_find(d, val) != NULL;
    else if (strcmp(p->link, "netdev") == 0)
        there = list_has(d->netdevs, val);
    else if (strcmp(p->link, "chardev") == 0)
        there = list_has(d->chardevs, val);
    return there || fail(error, ERR_NOT_FOUND, "%s=%s: there is no %s with that id", p->name,
                         val, p->link);
}

/* Entropy comes from the host's random numbers whatever -object names: so rng= needs only the
 * check that the object exists. */
bool machine_own_prop(const struct dev_type *t, const char *name)
{
    return strcmp(name, "bus") == 0 ||
           (strcmp(name, "rng") == 0 && g_str_has_prefix(t->name, "virtio-rng-"));
}

static bool object_find(const struct machine_desc *d, const char *id)
{
    for (guint i = 0; i < d->objects->len; i++)
        if (strcmp(opts_get(d->objects->pdata[i], "id"), id) == 0)
            return true;
    return false;
}

static bool device_check(const struct machine_desc *d, const struct device_desc *dev,
                         GHashTable *ids, GHashTable *used, GError **error)
{
    const char *name = machine_type_name(d, dev->type);
    const struct dev_type *t = dev_type_find(name);

    if (!t || !type_offered(t))
        return fail(error, ERR_NOT_FOUND, "there is no device '%s'; -device help lists them",
                    dev->type);
    if (d->board != BOARD_PC && (t->kind == DEV_IDE || t->kind == DEV_FLOPPY))
        return fail(error, ERR_ARGUMENT, "%s needs a controller, which machine %s has not",
                    name, machine_board_name(d->board));
    if (d->board != BOARD_PC && t->kind == DEV_PCI)
        return fail(error, ERR_ARGUMENT, "%s needs PCI, which machine %s has not", name,
                    machine_board_name(d->board));
    if (d->board != BOARD_MICROVM && machine_is_mmio(t))
        return fail(error, ERR_ARGUMENT,
                    "%s is for machine microvm; machine %s has PCI devices", name,
                    machine_board_name(d->board));
    if (dev->id && !g_hash_table_add(ids, dev->id))
        return fail(error, ERR_ARGUMENT, "id '%s' is used twice", dev->id);
    for (guint i = 0; i < dev->props->len; i++) {
        const struct opt *o = dev->props->pdata[i];
        const struct prop *p = dev_prop_find(t, o->key);

        if (!p && machine_own_prop(t, o->key)) {
            if (strcmp(o->key, "rng") == 0 && !object_find(d, o->val))
                return fail(error, ERR_NOT_FOUND,
                            "%s: rng=%s: there is no -object with that id", name, o->val);
            continue;
        }
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
        g_autofree char *key = g_strdup_printf("%s %s", o->key, o->val);
        if ((strcmp(o->key, "drive") == 0 || strcmp(o->key, "netdev") == 0) &&
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
        const char *id = machine_id_of(list->pdata[i]);

        if (!g_hash_table_add(ids, g_strdup(id)))
            return fail(error, ERR_ARGUMENT, "%s: id '%s' is used twice", option, id);
    }
    return true;
}

/* Nothing that was asked for may be left out because the board has no place for it. */
static bool board_check(const struct machine_desc *d, GError **error)
{
    const char *name = machine_board_name(d->board);
    bool boot = d->boot_order || d->boot_once || d->boot_menu || d->boot_strict ||
                d->boot_menu_wait >= 0 || d->boot_fail_wait >= 0;

    if (d->board == BOARD_PC)
        return true;
    if (d->board == BOARD_MICROVM && !d->kernel)
        return fail(error, ERR_ARGUMENT, "-machine microvm: needs -kernel");
    if (d->bios)
        return fail(error, ERR_UNSUPPORTED, "-bios: machine %s has no firmware", name);
    if (boot)
        return fail(error, ERR_UNSUPPORTED, "-boot: machine %s has no firmware", name);
    if (d->fw_cfg->len)
        return fail(error, ERR_UNSUPPORTED, "-fw_cfg: machine %s has no firmware", name);
    for (int i = 0; d->board == BOARD_NONE && i < SERIALS_MAX; i++)
        if (d->serial[i])
            return fail(error, ERR_UNSUPPORTED, "-serial: machine none has no serial ports");
    if (d->board == BOARD_NONE && d->debugcon)
        return fail(error, ERR_UNSUPPORTED, "-debugcon: machine none has no ports");
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
    return board_check(d, error);
}
