// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * desc.c - struct machine_desc: defaults, freeing, and "key=value" texts as QEMU writes them.
 */
#include "vmm/machine/machine.h"

#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "stream/tls.h"

static void opts_free(void *p)
{
    struct opt *k = p;

    if (k->val) /* it may be a password */
        secret_wipe(k->val, strlen(k->val));
    g_free(k->key);
    g_free(k->val);
    g_free(k);
}

void opts_add(GPtrArray *a, const char *key, const char *val)
{
    struct opt *k = g_new(struct opt, 1);

    k->key = g_strdup(key);
    k->val = g_strdup(val);
    g_ptr_array_add(a, k);
}

/* Cuts the next element off *at: up to a single comma, with doubled ones made one. */
static char *element_next(const char **at)
{
    GString *s = g_string_new(NULL);
    const char *p = *at;

    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',')
                break;
            p++;
        }
        g_string_append_c(s, *p);
    }
    *at = *p ? p + 1 : p;
    return g_string_free(s, FALSE);
}

GPtrArray *opts_parse(const char *text, const char *first, const char *what, GError **error)
{
    g_autoptr(GPtrArray) ret = g_ptr_array_new_with_free_func(opts_free);
    const char *at = text;
    bool head = true;

    while (*at) {
        const char *start = at;
        g_autofree char *e = element_next(&at);
        /* The key ends at the first "=" of the raw text: keys have no commas. */
        size_t key_len = strcspn(start, "=,");
        bool has_val = start[key_len] == '=';

        if (head && first && !has_val) {
            if (!*e) {
                fail(error, ERR_ARGUMENT, "%s: '%s' lacks its %s", what, text, first);
                return NULL;
            }
            opts_add(ret, first, e);
        } else if (!key_len) {
            fail(error, ERR_ARGUMENT, "%s: '%s' has an element without a name", what, text);
            return NULL;
        } else {
            char *eq = has_val ? strchr(e, '=') : NULL;

            if (eq)
                *eq = 0;
            opts_add(ret, e, eq ? eq + 1 : "on");
        }
        head = false;
    }
    return g_steal_pointer(&ret);
}

const char *opts_get(const GPtrArray *a, const char *key)
{
    for (guint i = a->len; i-- > 0;) {
        const struct opt *k = a->pdata[i];

        if (strcmp(k->key, key) == 0)
            return k->val;
    }
    return NULL;
}

char *opts_take(GPtrArray *a, const char *key)
{
    char *ret = g_strdup(opts_get(a, key));

    for (guint i = a->len; i-- > 0;) {
        const struct opt *k = a->pdata[i];

        if (strcmp(k->key, key) == 0)
            g_ptr_array_remove_index(a, i);
    }
    return ret;
}

static void text_escape(GString *s, const char *text)
{
    for (; *text; text++) {
        if (*text == ',')
            g_string_append_c(s, ',');
        g_string_append_c(s, *text);
    }
}

char *opts_text(const GPtrArray *a)
{
    GString *s = g_string_new(NULL);

    for (guint i = 0; i < a->len; i++) {
        const struct opt *k = a->pdata[i];

        if (i)
            g_string_append_c(s, ',');
        g_string_append_printf(s, "%s=", k->key);
        text_escape(s, k->val);
    }
    return g_string_free(s, FALSE);
}

static const struct {
    const char *name, *help;
} boards[] = {
    [BOARD_PC] = { "pc", "i440FX and PIIX3: the standard PC" },
    [BOARD_MICROVM] = { "microvm", "lean board for direct boot: virtio-mmio, no PCI" },
    [BOARD_NONE] = { "none", "nothing but RAM and processors" },
};

const char *machine_board_name(enum machine_board b)
{
    return boards[b].name;
}

bool machine_board_find(const char *name, enum machine_board *ret, GError **error)
{
    for (size_t i = 0; i < ARRAY_LEN(boards); i++) {
        if (strcmp(name, boards[i].name) == 0) {
            *ret = (enum machine_board)i;
            return true;
        }
    }
    return fail(error, ERR_ARGUMENT,
                "there is no machine type '%s'; use -machine help for a list", name);
}

void machine_print_boards(GString *to)
{
    for (size_t i = 0; i < ARRAY_LEN(boards); i++)
        g_string_append_printf(to, "%-12s %s%s\n", boards[i].name, boards[i].help,
                               i == BOARD_PC ? " (default)" : "");
}

static void drive_free(void *p)
{
    struct drive_desc *d = p;

    g_free(d->id);
    g_free(d->file);
    dict_free(d->dict);
    dict_free(d->driver);
    if (d->nodes)
        g_ptr_array_unref(d->nodes);
    g_free(d->iface);
    g_free(d->serial);
    g_free(d->node_name);
    g_free((char *)d->options.format);
    g_free(d->group);
    g_free(d);
}

static void creds_free(void *p)
{
    struct creds_desc *d = p;

    g_free(d->type);
    tls_creds_props_free(d->props);
    g_free(d);
}

static void secret_free(void *p)
{
    secret_props_free(p);
}

static void throttle_free(void *p)
{
    struct throttle_desc *d = p;

    g_free(d->id);
    g_free(d);
}

static void device_free(void *p)
{
    struct device_desc *d = p;

    g_free(d->type);
    g_free(d->id);
    g_free(d->origin);
    g_ptr_array_unref(d->props);
    g_free(d);
}

static void global_free(void *p)
{
    struct global_desc *g = p;

    g_free(g->type);
    g_free(g->prop);
    g_free(g->val);
    g_free(g);
}

static void fw_cfg_free(void *p)
{
    struct fw_cfg_desc *f = p;

    g_free(f->name);
    g_free(f->file);
    if (f->bytes)
        g_bytes_unref(f->bytes);
    g_free(f);
}

static void smbios_free(void *p)
{
    struct smbios_desc *s = p;

    g_ptr_array_unref(s->fields);
    g_free(s);
}

struct machine_desc *machine_desc_new(void)
{
    struct machine_desc *d = g_new0(struct machine_desc, 1);

    d->acpi = d->hpet = d->graphics = true;
    d->ram = 128 * MiB;
    d->smp = d->sockets = d->cores = d->threads = d->max_cpus = 1;
    d->boot_menu_wait = d->boot_fail_wait = -1;
    d->drives = g_ptr_array_new_with_free_func(drive_free);
    d->devices = g_ptr_array_new_with_free_func(device_free);
    d->globals = g_ptr_array_new_with_free_func(global_free);
    d->netdevs = g_ptr_array_new_with_free_func(g_free);
    d->chardevs = g_ptr_array_new_with_free_func(g_free);
    d->secrets = g_ptr_array_new_with_free_func(secret_free);
    d->creds = g_ptr_array_new_with_free_func(creds_free);
    d->throttles = g_ptr_array_new_with_free_func(throttle_free);
    d->objects = g_ptr_array_new_with_free_func((GDestroyNotify)g_ptr_array_unref);
    d->fw_cfg = g_ptr_array_new_with_free_func(fw_cfg_free);
    d->smbios = g_ptr_array_new_with_free_func(smbios_free);
    return d;
}

void machine_desc_free(struct machine_desc *d)
{
    if (!d)
        return;
    g_free(d->name);
    g_free(d->accel);
    g_free(d->cpu_model);
    g_free(d->bios);
    g_free(d->kernel);
    g_free(d->initrd);
    g_free(d->append);
    g_ptr_array_unref(d->drives);
    g_ptr_array_unref(d->devices);
    g_ptr_array_unref(d->globals);
    g_ptr_array_unref(d->netdevs);
    g_ptr_array_unref(d->chardevs);
    g_ptr_array_unref(d->objects);
    g_ptr_array_unref(d->secrets);
    g_ptr_array_unref(d->creds);
    g_ptr_array_unref(d->throttles);
    g_ptr_array_unref(d->fw_cfg);
    g_ptr_array_unref(d->smbios);
    for (int i = 0; i < SERIALS_MAX; i++)
        g_free(d->serial[i]);
    g_free(d->debugcon);
    g_free(d->boot_order);
    g_free(d->boot_once);
    g_free(d->rtc_base);
    g_free(d);
}

struct drive_desc *machine_add_drive(struct machine_desc *d)
{
    struct drive_desc *r = g_new0(struct drive_desc, 1);

    r->werror = IMAGE_ENOSPC;
    image_throttle_init(&r->throttle);

    r->index = r->bus = r->unit = -1;
    g_ptr_array_add(d->drives, r);
    return r;
}

struct device_desc *machine_add_device(struct machine_desc *d, const char *type, const char *id,
                                       const char *origin, GPtrArray *props)
{
    struct device_desc *r = g_new0(struct device_desc, 1);

    r->type = g_strdup(type);
    r->id = g_strdup(id);
    r->origin = g_strdup(origin);
    r->props = props ? props : g_ptr_array_new_with_free_func(opts_free);
    g_ptr_array_add(d->devices, r);
    return r;
}
