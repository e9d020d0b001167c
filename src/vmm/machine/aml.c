// SPDX-License-Identifier: GPL-2.0-or-later
/* aml.c - see aml.h; encodings are those of ACPI 6.4, 20.2 (AML) and 6.4 (resources). */
#include "vmm/machine/aml.h"

#include <string.h>

enum {
    NAME_OP = 0x08,
    BYTE_PREFIX = 0x0a,
    WORD_PREFIX = 0x0b,
    DWORD_PREFIX = 0x0c,
    STRING_PREFIX = 0x0d,
    QWORD_PREFIX = 0x0e,
    DUAL_NAME = 0x2e,
    MULTI_NAME = 0x2f,
    EXT_OP = 0x5b,
    OP_REGION = 0x80,
    SYSTEM_IO = 1,
    PCI_CONFIG = 2,
};

static void put(GByteArray *a, u64 val, unsigned n)
{
    u8 b[8];

    for (unsigned i = 0; i < n; i++)
        b[i] = (u8)(val >> (8 * i));
    g_byte_array_append(a, b, n);
}

void aml_op(GByteArray *a, u8 op)
{
    put(a, op, 1);
}

guint aml_begin(GByteArray *a, enum aml_scope op)
{
    if (op > 0xff)
        put(a, EXT_OP, 1);
    put(a, op & 0xff, 1);
    return a->len;
}

/* 20.2.4: one byte up to 63, else the first holds how many follow and four bits of the length,
 * which counts itself. */
void aml_end(GByteArray *a, guint mark)
{
    u32 len = a->len - mark;
    u8 b[4];
    unsigned n = len + 1 < 0x40 ? 1 : len + 2 < 0x1000 ? 2 : len + 3 < 0x100000 ? 3 : 4;

    len += n;
    if (n == 1) {
        b[0] = (u8)len;
    } else {
        b[0] = (u8)((n - 1) << 6 | (len & 15));
        for (unsigned i = 1; i < n; i++)
            b[i] = (u8)(len >> (4 + 8 * (i - 1)));
    }
    g_byte_array_set_size(a, a->len + n);
    memmove(a->data + mark + n, a->data + mark, a->len - mark - n);
    memcpy(a->data + mark, b, n);
}

void aml_path(GByteArray *a, const char *path)
{
    g_auto(GStrv) segs = NULL;
    guint n;

    for (; *path == '\\' || *path == '^'; path++)
        put(a, (u8)*path, 1);
    segs = g_strsplit(path, ".", -1);
    n = g_strv_length(segs);
    if (n == 2) {
        put(a, DUAL_NAME, 1);
    } else if (n > 2) {
        put(a, MULTI_NAME, 1);
        put(a, n, 1);
    } else if (!n) {
        put(a, 0, 1);
    }
    for (guint i = 0; i < n; i++) {
        char seg[5];

        g_snprintf(seg, sizeof seg, "%.4s", segs[i]);
        for (size_t len = strlen(seg); len < 4; len++)
            seg[len] = '_';
        g_byte_array_append(a, (const u8 *)seg, 4);
    }
}

void aml_int(GByteArray *a, u64 val)
{
    if (val <= 1) {
        put(a, val, 1);
    } else if (val <= 0xff) {
        put(a, BYTE_PREFIX, 1);
        put(a, val, 1);
    } else if (val <= 0xffff) {
        put(a, WORD_PREFIX, 1);
        put(a, val, 2);
    } else if (val <= UINT32_MAX) {
        put(a, DWORD_PREFIX, 1);
        put(a, val, 4);
    } else {
        put(a, QWORD_PREFIX, 1);
        put(a, val, 8);
    }
}

void aml_string(GByteArray *a, const char *text)
{
    put(a, STRING_PREFIX, 1);
    g_byte_array_append(a, (const u8 *)text, (guint)strlen(text) + 1);
}

void aml_name(GByteArray *a, const char *path)
{
    put(a, NAME_OP, 1);
    aml_path(a, path);
}

void aml_name_int(GByteArray *a, const char *path, u64 val)
{
    aml_name(a, path);
    aml_int(a, val);
}

void aml_name_string(GByteArray *a, const char *path, const char *text)
{
    aml_name(a, path);
    aml_string(a, text);
}

/* 19.3.4: three letters of five bits, four hexadecimal digits, stored big-endian. */
void aml_name_eisaid(GByteArray *a, const char *path, const char *id)
{
    u32 v = (u32)(id[0] - 0x40) << 26 | (u32)(id[1] - 0x40) << 21 | (u32)(id[2] - 0x40) << 16;

    for (int i = 0; i < 4; i++)
        v |= (u32)g_ascii_xdigit_value(id[3 + i]) << (12 - 4 * i);
    aml_name(a, path);
    put(a, DWORD_PREFIX, 1);
    put(a, __builtin_bswap32(v), 4);
}

guint aml_device(GByteArray *a, const char *name)
{
    guint mark = aml_begin(a, AML_DEVICE);

    aml_path(a, name);
    return mark;
}

guint aml_method(GByteArray *a, const char *name, u8 args)
{
    guint mark = aml_begin(a, AML_METHOD);

    aml_path(a, name);
    put(a, args, 1);
    return mark;
}

void aml_region_io(GByteArray *a, const char *name, u16 at, u8 len)
{
    put(a, EXT_OP, 1);
    put(a, OP_REGION, 1);
    aml_path(a, name);
    put(a, SYSTEM_IO, 1);
    aml_int(a, at);
    aml_int(a, len);
}

void aml_region_pci(GByteArray *a, const char *name, u8 off, u8 len)
{
    put(a, EXT_OP, 1);
    put(a, OP_REGION, 1);
    aml_path(a, name);
    put(a, PCI_CONFIG, 1);
    aml_int(a, off);
    aml_int(a, len);
}

/* ---- resource descriptors ------------------------------------------------------------------
 */

void aml_name_resources(GByteArray *a, const char *path, const GByteArray *res)
{
    aml_name(a, path);
    guint mark = aml_begin(a, AML_BUFFER);
    aml_int(a, res->len + 2);
    g_byte_array_append(a, res->data, res->len);
    put(a, 0x0079, 2); /* end tag, without checksum */
    aml_end(a, mark);
}

void res_io(GByteArray *r, u16 at, u8 align, u8 len)
{
    put(r, 0x47, 1);
    put(r, 1, 1); /* decodes 16 bits */
    put(r, at, 2);
    put(r, at, 2);
    put(r, align, 1);
    put(r, len, 1);
}

void res_irq(GByteArray *r, u8 irq)
{
    put(r, 0x22, 1);
    put(r, 1u << irq, 2);
}

void res_mem32(GByteArray *r, u32 at, u32 len)
{
    put(r, 0x86, 1);
    put(r, 9, 2);
    put(r, 1, 1); /* read and write */
    put(r, at, 4);
    put(r, len, 4);
}

enum { RES_MEMORY = 0, RES_IO = 1, RES_BUS = 2, RES_FIXED = 0x0c };

void res_bus(GByteArray *r, u16 min, u16 max)
{
    put(r, 0x88, 1);
    put(r, 13, 2);
    put(r, RES_BUS, 1);
    put(r, RES_FIXED, 1);
    put(r, 0, 1);
    put(r, 0, 2);
    put(r, min, 2);
    put(r, max, 2);
    put(r, 0, 2);
    put(r, max - min + 1u, 2);
}

void res_word_io(GByteArray *r, u16 min, u16 max)
{
    put(r, 0x88, 1);
    put(r, 13, 2);
    put(r, RES_IO, 1);
    put(r, RES_FIXED, 1);
    put(r, 3, 1); /* the whole range */
    put(r, 0, 2);
    put(r, min, 2);
    put(r, max, 2);
    put(r, 0, 2);
    put(r, max - min + 1u, 2);
}

void res_dword_mem(GByteArray *r, u32 min, u32 max, bool cacheable)
{
    put(r, 0x87, 1);
    put(r, 23, 2);
    put(r, RES_MEMORY, 1);
    put(r, RES_FIXED, 1);
    put(r, cacheable ? 3 : 1, 1); /* read and write */
    put(r, 0, 4);
    put(r, min, 4);
    put(r, max, 4);
    put(r, 0, 4);
    put(r, max - min + 1u, 4);
}

void res_irqs_ext(GByteArray *r, const u32 *irqs, u8 n)
{
    put(r, 0x89, 1);
    put(r, 2 + 4u * n, 2);
    put(r, 0x09, 1); /* consumer, level, active high, shared */
    put(r, n, 1);
    for (u8 i = 0; i < n; i++)
        put(r, irqs[i], 4);
}
