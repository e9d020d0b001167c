// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state.c - saves, loads, checks and prints what a state table describes.  See state.h.
 *
 *   object:  field*
 *   field:   u8 n, name[n], le32 len, bytes[len]
 *   bytes:   UINT    count integers, little-endian, of their natural size
 *            BYTES   as they are
 *            STRUCT  an object; when count > 1: count times le32 len, object
 *
 * A stream never sizes an allocation: it is read into a copy of the registers, whose size is
 * the table's, and the copy replaces them when all of it was good.
 */
#include "vmm/core/state.h"

#include <string.h>

#include "base/error.h"

/* Of more elements than that, only the first are printed. */
enum { PRINT_MAX = 4096, PRINT_HEAD = 64 };

enum { STATE_FIELDS_MAX = 256 };

static u64 uint_get(const u8 *p, u32 size)
{
    switch (size) {
    case 1:
        return *p;
    case 2:
        return *(const u16 *)(const void *)p;
    case 4:
        return *(const u32 *)(const void *)p;
    default:
        return *(const u64 *)(const void *)p;
    }
}

static void uint_set(u8 *p, u32 size, u64 val)
{
    switch (size) {
    case 1:
        *p = (u8)val;
        break;
    case 2:
        *(u16 *)(void *)p = (u16)val;
        break;
    case 4:
        *(u32 *)(void *)p = (u32)val;
        break;
    default:
        *(u64 *)(void *)p = val;
        break;
    }
}

static u32 u32_at(const u8 *p)
{
    return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static void put_u32(GByteArray *to, u32 v)
{
    const u8 b[4] = { (u8)v, (u8)(v >> 8), (u8)(v >> 16), (u8)(v >> 24) };

    g_byte_array_append(to, b, 4);
}

/* Fills in a length that was not known when its place was kept. */
static void patch_u32(GByteArray *to, u32 at)
{
    u32 v = to->len - at - 4;

    for (u32 i = 0; i < 4; i++)
        to->data[at + i] = (u8)(v >> (8 * i));
}

/* --- check ----------------------------------------------------------------------------------
 */

static char *check_fields(const struct state_field *fields, u32 n, u8 *covered, u32 size)
{
    if (n > STATE_FIELDS_MAX)
        return g_strdup_printf("%u fields, at most %u", n, STATE_FIELDS_MAX);
    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];
        u64 len = (u64)f->size * f->count;

        if (!f->name || !*f->name || strlen(f->name) > 255)
            return g_strdup_printf("field %u has no usable name", i);
        for (u32 j = 0; j < i; j++) {
            if (!strcmp(fields[j].name, f->name))
                return g_strdup_printf("field '%s' appears twice", f->name);
        }
        if (!len || f->offset > size || len > size - f->offset)
            return g_strdup_printf("field '%s' lies outside the struct", f->name);
        if (f->kind == STATE_K_UINT &&
            ((f->size != 1 && f->size != 2 && f->size != 4 && f->size != 8) ||
             f->offset % f->size))
            return g_strdup_printf("field '%s' is no integer (%u bytes at %u)", f->name,
                                   f->size, f->offset);
        for (u64 b = f->offset; b < f->offset + len; b++) {
            if (covered[b]++)
                return g_strdup_printf("field '%s' covers byte %" G_GUINT64_FORMAT " again",
                                       f->name, b);
        }
        if (f->kind == STATE_K_STRUCT) {
            struct state_table t = { .size = f->size, .fields = f->sub, .n = f->n_sub };
            g_autofree char *why = NULL;

            if (!state_check_table(&t, &why))
                return g_strdup_printf("%s: %s", f->name, why);
        }
    }
    for (u32 b = 0; b < size; b++) {
        if (!covered[b])
            return g_strdup_printf("byte %u belongs to no field", b);
    }
    return NULL;
}

bool state_check_table(const struct state_table *t, char **ret_why)
{
    g_autofree u8 *covered = g_malloc0((gsize)t->size + 1);
    char *why = check_fields(t->fields, t->n, covered, t->size);

    if (why && ret_why)
        *ret_why = why;
    else
        g_free(why);
    return !why;
}

/* --- save -----------------------------------------------------------------------------------
 */

static void save_fields(const struct state_field *fields, u32 n, const u8 *base, GByteArray *to)
{
    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];
        const u8 *p = base + f->offset;

        if (f->kind == STATE_K_PAD)
            continue;

        u8 name_len = (u8)strlen(f->name);
        g_byte_array_append(to, &name_len, 1);
        g_byte_array_append(to, (const u8 *)f->name, name_len);
        u32 len_at = to->len;
        put_u32(to, 0);

        for (u32 k = 0; k < f->count; k++, p += f->size) {
            if (f->kind == STATE_K_BYTES) {
                g_byte_array_append(to, p, f->size);
            } else if (f->kind == STATE_K_UINT) {
                u64 le = htole64(uint_get(p, f->size));
                g_byte_array_append(to, (const u8 *)&le, f->size);
            } else {
                u32 sub_at = to->len;
                if (f->count > 1)
                    put_u32(to, 0);
                save_fields(f->sub, f->n_sub, p, to);
                if (f->count > 1)
                    patch_u32(to, sub_at);
            }
        }
        patch_u32(to, len_at);
    }
}

void state_save(const struct state_table *t, const void *object, GByteArray *to)
{
    save_fields(t->fields, t->n, (const u8 *)object + t->offset, to);
}

/* --- load -----------------------------------------------------------------------------------
 */

static bool load_fields(const struct state_field *fields, u32 n_fields, u8 *base, const u8 *in,
                        size_t n, GError **error);

static bool load_structs(const struct state_field *f, u8 *base, const u8 *in, size_t n,
                         GError **error)
{
    if (f->count == 1)
        return load_fields(f->sub, f->n_sub, base, in, n, error);
    for (u32 k = 0; k < f->count; k++, base += f->size) {
        if (n < 4 || u32_at(in) > n - 4)
            return fail(error, ERR_FORMAT, "element %u is cut off", k);
        u32 len = u32_at(in);
        if (!load_fields(f->sub, f->n_sub, base, in + 4, len, error))
            return g_prefix_error(error, "element %u: ", k), false;
        in += 4 + len;
        n -= 4 + len;
    }
    return !n || fail(error, ERR_FORMAT, "more than %u elements", f->count);
}

static bool load_field(const struct state_field *f, u8 *base, const u8 *in, size_t n,
                       GError **error)
{
    u8 *p = base + f->offset;

    if (f->kind == STATE_K_STRUCT)
        return load_structs(f, p, in, n, error);
    if (n != (u64)f->size * f->count)
        return fail(error, ERR_FORMAT, "%zu bytes instead of %u", n, f->size * f->count);
    if (f->kind == STATE_K_BYTES) {
        memcpy(p, in, n);
        return true;
    }
    for (u32 k = 0; k < f->count; k++, p += f->size, in += f->size) {
        u64 le = 0;

        memcpy(&le, in, f->size);
        le = le64toh(le);
        if (le > f->max)
            return fail(error, ERR_FORMAT,
                        "value %" G_GUINT64_FORMAT " is above %" G_GUINT64_FORMAT, le, f->max);
        uint_set(p, f->size, le);
    }
    return true;
}

static bool load_fields(const struct state_field *fields, u32 n_fields, u8 *base, const u8 *in,
                        size_t n, GError **error)
{
    bool got[STATE_FIELDS_MAX] = { false };

    while (n) {
        u32 i, name_len = in[0];

        if (n < 1 + name_len + 4)
            return fail(error, ERR_FORMAT, "field header is cut off");
        const char *name = (const char *)in + 1;
        u32 len = u32_at(in + 1 + name_len);
        in += 1 + name_len + 4;
        n -= 1 + name_len + 4;
        if (len > n)
            return fail(error, ERR_FORMAT, "field '%.*s' is cut off", (int)name_len, name);
        for (i = 0; i < n_fields; i++) {
            if (fields[i].kind != STATE_K_PAD && strlen(fields[i].name) == name_len &&
                !memcmp(fields[i].name, name, name_len))
                break;
        }
        if (i == n_fields || got[i])
            return fail(error, ERR_FORMAT, "field '%.*s' is unknown or appears twice",
                        (int)name_len, name);
        got[i] = true;
        if (!load_field(&fields[i], base, in, len, error))
            return g_prefix_error(error, "field '%s': ", fields[i].name), false;
        in += len;
        n -= len;
    }
    for (u32 i = 0; i < n_fields; i++) {
        if (!got[i] && fields[i].kind != STATE_K_PAD && !fields[i].optional)
            return fail(error, ERR_FORMAT, "field '%s' is missing", fields[i].name);
    }
    return true;
}

bool state_load(const struct state_table *t, void *object, const u8 *bytes, size_t n,
                GError **error)
{
    u8 *regs = (u8 *)object + t->offset;
    g_autofree u8 *copy = g_memdup2(regs, t->size);

    if (!load_fields(t->fields, t->n, copy, bytes, n, error))
        return false;
    if (t->size)
        memcpy(regs, copy, t->size);
    return true;
}

/* --- print ----------------------------------------------------------------------------------
 */

static void print_fields(const struct state_field *fields, u32 n, const u8 *base,
                         const char *prefix, GString *to)
{
    for (u32 i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];
        const u8 *p = base + f->offset;

        if (f->kind == STATE_K_PAD)
            continue;
        if (f->kind == STATE_K_STRUCT) {
            for (u32 k = 0; k < f->count; k++) {
                g_autofree char *sub = f->count > 1
                                           ? g_strdup_printf("%s%s[%u].", prefix, f->name, k)
                                           : g_strdup_printf("%s%s.", prefix, f->name);
                print_fields(f->sub, f->n_sub, p + (size_t)k * f->size, sub, to);
            }
            continue;
        }
        g_string_append_printf(to, "%s%s =", prefix, f->name);
        u32 count = f->kind == STATE_K_BYTES ? f->size : f->count;
        u32 size = f->kind == STATE_K_BYTES ? 1 : f->size;
        u32 shown = count > PRINT_MAX ? PRINT_HEAD : count;
        for (u32 k = 0; k < shown; k++)
            g_string_append_printf(to,
                                   size == 1 && count > 1 ? " %02" G_GINT64_MODIFIER "x"
                                                          : " %#" G_GINT64_MODIFIER "x",
                                   uint_get(p + (size_t)k * size, size));
        if (shown < count)
            g_string_append_printf(to, " ... (%u)", count);
        g_string_append_c(to, '\n');
    }
}

void state_print(const struct state_table *t, const void *object, GString *to)
{
    print_fields(t->fields, t->n, (const u8 *)object + t->offset, "", to);
}
