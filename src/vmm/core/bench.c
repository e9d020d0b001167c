// SPDX-License-Identifier: GPL-2.0-or-later
/* bench.c - see bench.h. */
#include "vmm/core/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

struct bench_wires {
    bool level[DEV_IRQS_MAX];
    u32 edges[DEV_IRQS_MAX];
    struct irq irq[DEV_IRQS_MAX];
};

static void wire_set(void *opaque, unsigned n, bool level)
{
    struct bench_wires *w = opaque;

    w->edges[n] += level && !w->level[n];
    w->level[n] = level;
}

static void wire_up(struct bench *b)
{
    for (u32 i = 0; i < b->dev->type->irqs; i++)
        b->dev->irq[i] = &b->wires->irq[i];
}

struct bench bench_begin(const struct dev_type *t, u64 port)
{
    struct bench b = { .vm = vm_new(), .port = port, .wires = g_new0(struct bench_wires, 1) };
    g_autoptr(GError) error = NULL;
    struct ram_block *block = ram_block_new(b.vm->ram, "bench", BENCH_RAM, &error);

    if (!block)
        g_error("bench: %s", error->message);
    ram_map_at(b.vm->ram, 0, BENCH_RAM, block, 0, false);
    ram_commit(b.vm->ram);
    clock_manual(b.vm);
    for (u32 i = 0; i < DEV_IRQS_MAX; i++)
        b.wires->irq[i] = (struct irq){ .set = wire_set, .opaque = b.wires, .n = i };
    b.dev = dev_new(b.vm, t, "bench");
    wire_up(&b);
    return b;
}

bool bench_realize(struct bench *b, GError **error)
{
    const struct dev_type *t = b->dev->type;
    u64 port = b->port;

    if (!dev_realize(b->dev, error))
        return false;
    for (u32 i = 0; i < ARRAY_LEN(t->io) && t->io[i]; port += t->io[i++]->len)
        bus_map(b->vm->io, port, t->io[i], b->dev, 0);
    for (u32 i = 0; i < ARRAY_LEN(t->mem) && t->mem[i]; i++)
        bus_map(b->vm->mem, BENCH_MEM + i * MiB, t->mem[i], b->dev, 0);
    return true;
}

struct bench bench_new(const struct dev_type *t, u64 port)
{
    struct bench b = bench_begin(t, port);
    g_autoptr(GError) error = NULL;

    if (!bench_realize(&b, &error))
        g_error("bench: %s", error->message);
    return b;
}

void bench_free(struct bench *b)
{
    if (b->dev && !b->dev->realized) /* else the vm has it */
        dev_free(b->dev);
    vm_free(b->vm);
    g_free(b->wires);
    *b = (struct bench){ 0 };
}

u8 bench_in(struct bench *b, u64 port)
{
    return (u8)bus_read(b->vm->io, port, 1);
}

u16 bench_in16(struct bench *b, u64 port)
{
    return (u16)bus_read(b->vm->io, port, 2);
}

u32 bench_in32(struct bench *b, u64 port)
{
    return (u32)bus_read(b->vm->io, port, 4);
}

void bench_out(struct bench *b, u64 port, u8 val)
{
    bus_write(b->vm->io, port, val, 1);
}

void bench_out16(struct bench *b, u64 port, u16 val)
{
    bus_write(b->vm->io, port, val, 2);
}

void bench_out32(struct bench *b, u64 port, u32 val)
{
    bus_write(b->vm->io, port, val, 4);
}

u64 bench_mem_read(struct bench *b, u64 at, unsigned size)
{
    return bus_read(b->vm->mem, at, size);
}

void bench_mem_write(struct bench *b, u64 at, u64 val, unsigned size)
{
    bus_write(b->vm->mem, at, val, size);
}

void bench_step(struct bench *b, u64 ns)
{
    clock_step(b->vm, ns);
}

bool bench_irq(const struct bench *b, unsigned n)
{
    return b->wires->level[n];
}

u32 bench_irq_edges(const struct bench *b, unsigned n)
{
    return b->wires->edges[n];
}

void bench_irq_in(struct bench *b, unsigned pin, bool level)
{
    irq_set(dev_irq_in(b->dev, pin), level);
}

/* --- state ----------------------------------------------------------------------------------
 */

GByteArray *bench_save(const struct bench *b)
{
    GByteArray *to = g_byte_array_new();

    dev_save(b->dev, to);
    return to;
}

int bench_load_bytes(struct bench *b, const u8 *bytes, size_t n)
{
    return dev_load(b->dev, bytes, n, NULL) ? 0 : -EBADMSG;
}

static void copy_props(struct dev *to, const struct dev *from)
{
    for (const struct prop *p = from->type->props; p && p->name; p++) {
        static const u8 sizes[] = { [PROP_BOOL] = sizeof(bool),
                                    [PROP_U8] = 1,
                                    [PROP_U16] = 2,
                                    [PROP_U32] = 4,
                                    [PROP_U64] = 8,
                                    [PROP_SIZE] = 8,
                                    [PROP_MAC] = 6,
                                    [PROP_PTR] = sizeof(void *) };
        u8 *dst = (u8 *)to + p->offset;
        const u8 *src = (const u8 *)from + p->offset;

        if (p->kind == PROP_STR) {
            g_free(*(char **)(void *)dst);
            *(char **)(void *)dst = g_strdup(*(char *const *)(const void *)src);
        } else {
            memcpy(dst, src, sizes[p->kind]);
        }
    }
}

void bench_migrate(struct bench *b)
{
    g_autoptr(GByteArray) saved = bench_save(b);
    g_autoptr(GError) error = NULL;
    struct dev *old = b->dev;

    b->dev = dev_new(b->vm, old->type, "bench");
    copy_props(b->dev, old);
    dev_free(old);
    wire_up(b);
    memset(b->wires->level, 0, sizeof b->wires->level);
    if (!bench_realize(b, &error) || !dev_load(b->dev, saved->data, saved->len, &error))
        g_error("bench_migrate: %s", error->message);
}

/* Finds "a.b[2].c" in a table; the place in the registers, and how wide. */
static u8 *find_field(const struct state_field *fields, u32 n, u8 *base, const char *path,
                      u32 *ret_size)
{
    size_t len = strcspn(path, ".[=");

    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];
        u64 index = 0;

        if (strlen(f->name) != len || strncmp(f->name, path, len) != 0)
            continue;
        path += len;
        if (*path == '[') {
            index = strtoul(path + 1, NULL, 0);
            path += strcspn(path, "]") + 1;
        }
        u32 size = f->kind == STATE_K_BYTES ? 1 : f->size;
        if (index >= (u64)f->size * f->count / size)
            return NULL;
        u8 *at = base + f->offset + index * size;
        if (f->kind == STATE_K_STRUCT && *path == '.')
            return find_field(f->sub, f->n_sub, at, path + 1, ret_size);
        *ret_size = size;
        return f->kind == STATE_K_STRUCT || *path != '=' ? NULL : at;
    }
    return NULL;
}

int bench_load(struct bench *b, const char *field_is_value)
{
    const struct state_table *t = &b->dev->type->state;
    const char *value = strchr(field_is_value, '=');
    g_autofree u8 *regs = g_memdup2((u8 *)b->dev + t->offset, t->size);
    struct state_table at_zero = *t;
    u32 size;

    at_zero.offset = 0;
    u8 *at = value ? find_field(t->fields, t->n, regs, field_is_value, &size) : NULL;
    if (!at)
        g_error("bench_load: there is no field for \"%s\"", field_is_value);
    u64 val = htole64(strtoull(value + 1, NULL, 0));
    memcpy(at, &val, size);

    g_autoptr(GByteArray) bytes = g_byte_array_new();
    state_save(&at_zero, regs, bytes);
    return bench_load_bytes(b, bytes->data, bytes->len);
}
