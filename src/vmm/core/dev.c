// SPDX-License-Identifier: GPL-2.0-or-later
/* dev.c - device base: making, properties, realize, reset, input lines, lock order.  See dev.h.
 */
#include "vmm/core/dev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

/* --- lock order -----------------------------------------------------------------------------
 */

enum { HELD_MAX = 8 };
static __thread struct {
    u32 n;
    struct dev *dev[HELD_MAX];
} held;

void dev_lock_check(struct dev *d)
{
    for (u32 i = 0; i < held.n; i++) {
        struct dev *h = held.dev[i];
        if (h->type->rank < d->type->rank)
            continue;
        log_error("lock order: device '%s' (rank %u) entered while '%s' (rank %u) is held",
                  d->id, d->type->rank, h->id, h->type->rank);
        abort();
    }
    g_assert(held.n < HELD_MAX);
    held.dev[held.n++] = d;
}

void dev_unlock_check(struct dev *d)
{
    for (u32 i = held.n; i--;) {
        if (held.dev[i] == d) {
            held.dev[i] = held.dev[--held.n];
            return;
        }
    }
    log_error("lock order: device '%s' is left but was not entered", d->id);
    abort();
}

bool dev_locked(const struct dev *d)
{
    for (u32 i = 0; i < held.n; i++) {
        if (held.dev[i] == d)
            return true;
    }
    return false;
}

/* --- properties -----------------------------------------------------------------------------
 */

const struct prop *dev_prop_find(const struct dev_type *t, const char *name)
{
    for (const struct prop *p = t->props; p && p->name; p++) {
        if (!strcmp(p->name, name))
            return p;
    }
    return NULL;
}

static const struct prop *prop_or_fail(struct dev *d, const char *name, GError **error)
{
    const struct prop *p = dev_prop_find(d->type, name);

    if (!p)
        fail(error, ERR_ARGUMENT, "device '%s' (%s) has no property '%s'", d->id, d->type->name,
             name);
    return p;
}

static bool parse_bool(const char *text, bool *ret)
{
    static const char *const words[] = { "off", "on", "false", "true", "no", "yes", "0", "1" };

    for (u32 i = 0; i < ARRAY_LEN(words); i++) {
        if (!strcmp(text, words[i])) {
            *ret = i % 2;
            return true;
        }
    }
    return false;
}

static bool parse_uint(const char *text, bool suffix, u64 *ret)
{
    char *end;
    unsigned shift = 0;

    if (!g_ascii_isdigit(*text))
        return false;
    errno = 0;
    u64 val = g_ascii_strtoull(text, &end, 0);
    if (errno)
        return false;
    if (suffix && *end) {
        const char *units = "BKMGTPE", *u = strchr(units, g_ascii_toupper(*end));
        if (!u)
            return false;
        shift = 10 * (unsigned)(u - units);
        end++;
        if (shift && (*end == 'i' || *end == 'B')) /* KiB, KB */
            end += strcmp(end, "iB") == 0 ? 2 : 1;
    }
    if (*end || val > UINT64_MAX >> shift)
        return false;
    *ret = val << shift;
    return true;
}

static bool parse_mac(const char *text, u8 ret[6])
{
    unsigned b[6];
    int used = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
               &used) != 6 ||
        text[used])
        return false;
    for (u32 i = 0; i < 6; i++)
        ret[i] = (u8)b[i];
    return true;
}

static bool set_uint(struct dev *d, const struct prop *p, const char *text, u64 type_max,
                     GError **error)
{
    void *at = (u8 *)d + p->offset;
    u64 val, max = p->max ? p->max : type_max;

    if (!parse_uint(text, p->kind == PROP_SIZE, &val))
        return fail(error, ERR_ARGUMENT, "device '%s': property '%s': '%s' is not a %s", d->id,
                    p->name, text, p->kind == PROP_SIZE ? "size" : "number");
    if (val < p->min || val > max)
        return fail(error, ERR_ARGUMENT,
                    "device '%s': property '%s': '%s' is not within %" G_GUINT64_FORMAT
                    "..%" G_GUINT64_FORMAT,
                    d->id, p->name, text, p->min, max);
    if (type_max == UINT8_MAX)
        *(u8 *)at = (u8)val;
    else if (type_max == UINT16_MAX)
        *(u16 *)at = (u16)val;
    else if (type_max == UINT32_MAX)
        *(u32 *)at = (u32)val;
    else
        *(u64 *)at = val;
    return true;
}

bool dev_set(struct dev *d, const char *name, const char *text, GError **error)
{
    const struct prop *p = prop_or_fail(d, name, error);

    if (!p)
        return false;
    void *at = (u8 *)d + p->offset;

    switch (p->kind) {
    case PROP_BOOL:
        return parse_bool(text, at) ||
               fail(error, ERR_ARGUMENT,
                    "device '%s': property '%s': '%s' is not 'on' or 'off'", d->id, name, text);
    case PROP_U8:
        return set_uint(d, p, text, UINT8_MAX, error);
    case PROP_U16:
        return set_uint(d, p, text, UINT16_MAX, error);
    case PROP_U32:
        return set_uint(d, p, text, UINT32_MAX, error);
    case PROP_U64:
    case PROP_SIZE:
        return set_uint(d, p, text, UINT64_MAX, error);
    case PROP_STR:
        g_free(*(char **)at);
        *(char **)at = g_strdup(text);
        return true;
    case PROP_MAC:
        return parse_mac(text, at) ||
               fail(error, ERR_ARGUMENT,
                    "device '%s': property '%s': '%s' is not a MAC address like "
                    "52:54:00:12:34:56",
                    d->id, name, text);
    case PROP_PTR:
        break;
    }
    return fail(error, ERR_ARGUMENT, "device '%s': property '%s' cannot be set from text",
                d->id, name);
}

bool dev_set_ptr(struct dev *d, const char *name, void *ptr, GError **error)
{
    const struct prop *p = prop_or_fail(d, name, error);

    if (!p)
        return false;
    if (p->kind != PROP_PTR)
        return fail(error, ERR_ARGUMENT, "device '%s': property '%s' takes text", d->id, name);
    *(void **)((u8 *)d + p->offset) = ptr;
    return true;
}

/* --- life -----------------------------------------------------------------------------------
 */

const struct dev_type *dev_type_find(const char *name)
{
    for (u32 i = 0; dev_types[i]; i++) {
        if (!strcmp(dev_types[i]->name, name))
            return dev_types[i];
    }
    return NULL;
}

struct dev *dev_new(struct vm *vm, const struct dev_type *t, const char *id)
{
    g_assert(t->size >= sizeof(struct dev) && t->irqs <= DEV_IRQS_MAX);
    struct dev *d = g_malloc0(t->size);

    d->type = t;
    d->vm = vm;
    d->id = id ? g_strdup(id) : g_strdup_printf("%s.%u", t->name, vm ? vm->next_dev++ : 0);
    pthread_mutex_init(&d->lock, NULL);
    for (const struct prop *p = t->props; p && p->name; p++) {
        g_autoptr(GError) error = NULL;

        if (p->def && !dev_set(d, p->name, p->def, &error))
            g_error("default of a property: %s", error->message);
    }
    return d;
}

bool dev_realize(struct dev *d, GError **error)
{
    struct vm *vm = d->vm;

    g_assert(!d->realized);
    vm_lock(vm);
    for (u32 i = 0; i < vm->devs->len; i++) {
        const struct dev *other = vm->devs->pdata[i];
        if (!strcmp(other->id, d->id)) {
            vm_unlock(vm);
            return fail(error, ERR_ARGUMENT, "device id '%s' is taken by a %s", d->id,
                        other->type->name);
        }
    }
    vm_unlock(vm);
    if (d->type->init && !d->type->init(d, error))
        return g_prefix_error(error, "%s: ", d->id), false;
    d->realized = true;
    vm_lock(vm);
    g_ptr_array_add(vm->devs, d);
    vm_unlock(vm);
    dev_reset(d);
    return true;
}

void dev_reset(struct dev *d)
{
    dev_lock(d);
    if (d->type->reset)
        d->type->reset(d);
    dev_unlock(d);
}

bool dev_load(struct dev *d, const u8 *bytes, size_t n, GError **error)
{
    dev_lock(d);
    bool ok = state_load(&d->type->state, d, bytes, n, error);
    if (ok && d->type->loaded)
        d->type->loaded(d);
    dev_unlock(d);
    return ok || (g_prefix_error(error, "state of device '%s': ", d->id), false);
}

void dev_save(struct dev *d, GByteArray *to)
{
    dev_lock(d);
    if (d->type->saving)
        d->type->saving(d);
    state_save(&d->type->state, d, to);
    dev_unlock(d);
}

void dev_free(struct dev *d)
{
    if (!d)
        return;
    struct vm *vm = d->vm;

    if (vm) {
        vm_lock(vm);
        g_ptr_array_remove(vm->devs, d);
        vm_unlock(vm);
        bus_unmap_dev(vm->io, d);
        bus_unmap_dev(vm->mem, d);
        clock_forget(vm, d);
    }
    if (d->realized && d->type->fini)
        d->type->fini(d);
    if (vm)
        clock_forget(vm, d); /* fini may have let a callback arm one more */
    for (const struct prop *p = d->type->props; p && p->name; p++) {
        if (p->kind == PROP_STR)
            g_free(*(char **)((u8 *)d + p->offset));
    }
    if (d->lines)
        g_ptr_array_free(d->lines, true);
    pthread_mutex_destroy(&d->lock);
    g_free(d->id);
    g_free(d);
}

/* --- input lines ----------------------------------------------------------------------------
 */

static void line_set(void *opaque, unsigned pin, bool level)
{
    struct dev *d = opaque;

    dev_lock(d);
    d->type->irq_in(d, pin, level);
    dev_unlock(d);
}

struct irq *dev_irq_in(struct dev *d, unsigned pin)
{
    g_assert(d->type->irq_in);
    if (!d->lines)
        d->lines = g_ptr_array_new_with_free_func(g_free);
    for (u32 i = 0; i < d->lines->len; i++) {
        struct irq *line = d->lines->pdata[i];
        if (line->n == pin)
            return line;
    }

    struct irq *line = g_new(struct irq, 1);
    *line = (struct irq){ .set = line_set, .opaque = d, .n = pin };
    g_ptr_array_add(d->lines, line);
    return line;
}
