// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * smbios.c - System Management BIOS tables, version 2.8 (DMTF DSP0134): types 0, 1, 2 (when
 * asked for), 3, 4, 11 (when asked for), 16, 17, 19, 32, 127.
 *
 * Strings come from -smbios, else they name the program and the board.
 */
#include "vmm/machine/smbios.h"

#include <string.h>

#include "vmm/machine/machine.h"

enum { STRINGS_MAX = 16, DIMM_MAX_MIB = 16 * 1024 };

struct smbios {
    const struct machine_desc *desc;
    GByteArray *a;
    u32 n, max, start;
    const char *strings[STRINGS_MAX]; /* of the structure being made */
    u8 n_strings;
};

static void put(struct smbios *s, u64 val, unsigned n)
{
    u8 b[8];

    for (unsigned i = 0; i < n; i++)
        b[i] = (u8)(val >> (8 * i));
    g_byte_array_append(s->a, b, n);
}

static void begin(struct smbios *s, u8 type, u16 handle)
{
    s->start = s->a->len;
    s->n_strings = 0;
    put(s, type, 1);
    put(s, 0, 1); /* length */
    put(s, handle, 2);
}

/* Writes the string's number; the text follows at the end. Empty strings have number 0. */
static void string(struct smbios *s, const char *text)
{
    if (!text || !*text || s->n_strings == STRINGS_MAX) {
        put(s, 0, 1);
        return;
    }
    s->strings[s->n_strings++] = text;
    put(s, s->n_strings, 1);
}

static void end(struct smbios *s)
{
    s->a->data[s->start + 1] = (u8)(s->a->len - s->start);
    for (u8 i = 0; i < s->n_strings; i++)
        g_byte_array_append(s->a, (const u8 *)s->strings[i], (guint)strlen(s->strings[i]) + 1);
    put(s, 0, s->n_strings ? 1 : 2);
    s->n++;
    s->max = MAX(s->max, s->a->len - s->start);
}

/* What the user said about a field, the last one first; else the default. */
static const char *field(const struct smbios *s, unsigned type, const char *name,
                         const char *def)
{
    const GPtrArray *all = s->desc->smbios;

    for (guint i = all->len; i-- > 0;) {
        const struct smbios_desc *d = all->pdata[i];
        const char *v = d->type == type ? opts_get(d->fields, name) : NULL;

        if (v)
            return v;
    }
    return def;
}

static bool given(const struct smbios *s, unsigned type)
{
    for (guint i = 0; i < s->desc->smbios->len; i++)
        if (((const struct smbios_desc *)s->desc->smbios->pdata[i])->type == type)
            return true;
    return false;
}

static u64 number(const char *text, u64 max)
{
    return MIN(text ? g_ascii_strtoull(text, NULL, 10) : 0, max);
}

static void bios(struct smbios *s)
{
    const char *release = field(s, 0, "release", NULL);
    const char *minor = release ? strchr(release, '.') : NULL;
    bool uefi = g_strcmp0(field(s, 0, "uefi", "off"), "on") == 0;

    begin(s, 0, 0x0000);
    string(s, field(s, 0, "vendor", "Posada"));
    string(s, field(s, 0, "version", POSADA_VERSION));
    put(s, 0xe800, 2); /* segment */
    string(s, field(s, 0, "date", "01/01/2024"));
    put(s, 0, 1);                     /* ROM of 64 KiB */
    put(s, BIT(3), 8);                /* characteristics are not told */
    put(s, 0x01, 1);                  /* ACPI */
    put(s, 0x14 | (uefi ? 8 : 0), 1); /* a virtual machine, targeted content distribution */
    put(s, release ? number(release, 255) : 0, 1);
    put(s, minor ? number(minor + 1, 255) : 0, 1);
    put(s, 0xffff, 2); /* no embedded controller */
    end(s);
}

static void system_info(struct smbios *s)
{
    const u8 *u = s->desc->uuid;
    /* The first three fields are little-endian on the wire (7.2.1). */
    const u8 uuid[16] = { u[3], u[2], u[1],  u[0],  u[5],  u[4],  u[7],  u[6],
                          u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15] };

    begin(s, 1, 0x0100);
    string(s, field(s, 1, "manufacturer", "Posada"));
    string(s, field(s, 1, "product",
                    s->desc->board == BOARD_MICROVM ? "Posada microvm" : "Posada PC (i440FX)"));
    string(s, field(s, 1, "version", machine_board_name(s->desc->board)));
    string(s, field(s, 1, "serial", NULL));
    g_byte_array_append(s->a, uuid, 16);
    put(s, 6, 1); /* woken by the power switch */
    string(s, field(s, 1, "sku", NULL));
    string(s, field(s, 1, "family", NULL));
    end(s);
}

static void baseboard(struct smbios *s)
{
    begin(s, 2, 0x0200);
    string(s, field(s, 2, "manufacturer", "Posada"));
    string(s, field(s, 2, "product", NULL));
    string(s, field(s, 2, "version", NULL));
    string(s, field(s, 2, "serial", NULL));
    string(s, field(s, 2, "asset", NULL));
    put(s, 1, 1); /* hosting board */
    string(s, field(s, 2, "location", NULL));
    put(s, 0x0300, 2);
    put(s, 0x0a, 1); /* motherboard */
    put(s, 0, 1);
    end(s);
}

static void chassis(struct smbios *s)
{
    begin(s, 3, 0x0300);
    string(s, field(s, 3, "manufacturer", "Posada"));
    put(s, 1, 1); /* other */
    string(s, field(s, 3, "version", machine_board_name(s->desc->board)));
    string(s, field(s, 3, "serial", NULL));
    string(s, field(s, 3, "asset", NULL));
    put(s, 0x03030303 & 0xffffff, 3); /* boot-up, power and thermal state: safe */
    put(s, 2, 1);                     /* security: unknown */
    put(s, 0, 4);
    put(s, 0, 4); /* height, power cords, no contained elements */
    string(s, field(s, 3, "sku", NULL));
    end(s);
}

static void processor(struct smbios *s, u32 socket)
{
    const struct machine_desc *d = s->desc;
    u32 cores = d->cores, threads = d->cores * d->threads;
    g_autofree char *name = g_strdup_printf("%s %u", field(s, 4, "sock_pfx", "CPU"), socket);

    begin(s, 4, (u16)(0x0400 + socket));
    string(s, name);
    put(s, 3, 1); /* central processor */
    put(s, 1, 1); /* family: other */
    string(s, field(s, 4, "manufacturer", "Posada"));
    put(s, 0, 8); /* CPUID tells */
    string(s, field(s, 4, "version", machine_board_name(d->board)));
    put(s, 0, 1);
    put(s, 0, 2);
    put(s, number(field(s, 4, "max-speed", "2000"), 65535), 2);
    put(s, number(field(s, 4, "current-speed", "2000"), 65535), 2);
    put(s, 0x41, 1); /* populated, enabled */
    put(s, 1, 1);
    put(s, 0xffff, 2); /* no cache handles */
    put(s, 0xffff, 2);
    put(s, 0xffff, 2);
    string(s, field(s, 4, "serial", NULL));
    string(s, field(s, 4, "asset", NULL));
    string(s, field(s, 4, "part", NULL));
    put(s, MIN(cores, 255), 1);
    put(s, MIN(cores, 255), 1);
    put(s, MIN(threads, 255), 1);
    put(s, 0x04, 2); /* 64-bit capable */
    put(s, 1, 2);
    put(s, cores, 2);
    put(s, cores, 2);
    put(s, threads, 2);
    end(s);
}

static void oem_strings(struct smbios *s)
{
    u8 n = 0;

    begin(s, 11, 0x0e00);
    put(s, 0, 1);
    for (guint i = 0; i < s->desc->smbios->len; i++) {
        const struct smbios_desc *d = s->desc->smbios->pdata[i];

        for (guint j = 0; d->type == 11 && j < d->fields->len; j++) {
            const struct opt *o = d->fields->pdata[j];

            if (!*o->val || s->n_strings == STRINGS_MAX)
                continue;
            s->strings[s->n_strings++] = o->val;
            n++;
        }
    }
    s->a->data[s->a->len - 1] = n;
    end(s);
}

static void memory(struct smbios *s, u64 ram_low)
{
    u64 mib = s->desc->ram >> 20, kib = s->desc->ram >> 10;
    u32 dimms = (u32)((mib + DIMM_MAX_MIB - 1) / DIMM_MAX_MIB);
    const char *prefix = field(s, 17, "loc_pfx", "DIMM");

    dimms = dimms ? dimms : 1;
    begin(s, 16, 0x1000);
    put(s, 1, 1); /* other location */
    put(s, 3, 1); /* system memory */
    put(s, 6, 1); /* multi-bit error correction */
    put(s, kib < 0x80000000 ? kib : 0x80000000, 4);
    put(s, 0xfffe, 2);
    put(s, dimms, 2);
    put(s, kib < 0x80000000 ? 0 : s->desc->ram, 8);
    end(s);

    for (u32 i = 0; i < dimms; i++) {
        u64 size = MIN(mib - (u64)i * DIMM_MAX_MIB, (u64)DIMM_MAX_MIB);
        g_autofree char *name = g_strdup_printf("%s %u", prefix, i);

        begin(s, 17, (u16)(0x1100 + i));
        put(s, 0x1000, 2);
        put(s, 0xfffe, 2);
        put(s, 0xffff, 2); /* widths: unknown */
        put(s, 0xffff, 2);
        put(s, size, 2); /* below 32 GiB - 1 MiB: DIMM_MAX_MIB */
        put(s, 9, 1);    /* DIMM */
        put(s, 0, 1);
        string(s, name);
        string(s, field(s, 17, "bank", NULL));
        put(s, 7, 1); /* RAM */
        put(s, 2, 2); /* other */
        put(s, number(field(s, 17, "speed", NULL), 65535), 2);
        string(s, field(s, 17, "manufacturer", "Posada"));
        string(s, field(s, 17, "serial", NULL));
        string(s, field(s, 17, "asset", NULL));
        string(s, field(s, 17, "part", NULL));
        put(s, 0, 1);
        put(s, 0, 4);
        put(s, 0, 2);
        put(s, 0, 6); /* voltages: unknown */
        end(s);
    }

    const struct {
        u64 at, len;
    } parts[] = { { 0, ram_low }, { 4 * GiB, s->desc->ram - ram_low } };
    for (u16 i = 0; i < ARRAY_LEN(parts); i++) {
        u64 first = parts[i].at, last = first + parts[i].len - 1;
        bool wide = last >> 10 >= UINT32_MAX;

        if (!parts[i].len)
            continue;
        begin(s, 19, (u16)(0x1300 + i));
        put(s, wide ? UINT32_MAX : first >> 10, 4);
        put(s, wide ? UINT32_MAX : last >> 10, 4);
        put(s, 0x1000, 2);
        put(s, 1, 1);
        put(s, wide ? first : 0, 8);
        put(s, wide ? last : 0, 8);
        end(s);
    }
}

GByteArray *smbios_build(const struct machine_desc *d, u64 ram_low, u32 *ret_n, u32 *ret_max)
{
    struct smbios s = { .desc = d, .a = g_byte_array_new() };

    bios(&s);
    system_info(&s);
    if (given(&s, 2))
        baseboard(&s);
    chassis(&s);
    for (u32 i = 0; i < d->sockets; i++)
        processor(&s, i);
    if (given(&s, 11))
        oem_strings(&s);
    memory(&s, ram_low);
    begin(&s, 32, 0x2000);
    put(&s, 0, 6);
    put(&s, 0, 1); /* no errors detected */
    end(&s);
    begin(&s, 127, 0x7f00);
    end(&s);
    *ret_n = s.n;
    *ret_max = s.max;
    return s.a;
}

static u8 checksum(const u8 *p, size_t n)
{
    u8 sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += p[i];
    return (u8)-sum;
}

void smbios_anchor(const GByteArray *tables, u32 n, u32 max, u32 tables_at,
                   u8 ret[SMBIOS_ANCHOR_LEN])
{
    struct {
        u8 sig[4], sum, len, major, minor;
        le16 max;
        u8 revision, formatted[5], dmi[5], dmi_sum;
        le16 tables_len;
        le32 tables_at;
        le16 n;
        u8 bcd;
    } __attribute__((packed)) e = {
        .sig = "_SM_",
        .len = SMBIOS_ANCHOR_LEN,
        .major = 2,
        .minor = 8,
        .max = le16_of((u16)max),
        .dmi = "_DMI_",
        .tables_len = le16_of((u16)tables->len),
        .tables_at = le32_of(tables_at),
        .n = le16_of((u16)n),
        .bcd = 0x28,
    };

    _Static_assert(sizeof e == SMBIOS_ANCHOR_LEN, "SMBIOS entry point");
    e.dmi_sum = checksum((const u8 *)&e + 16, 15);
    e.sum = checksum((const u8 *)&e, sizeof e);
    memcpy(ret, &e, sizeof e);
}
