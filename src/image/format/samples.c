// SPDX-License-Identifier: GPL-2.0-or-later
/* samples.c - see samples.h. */
#include "image/format/samples.h"

#include <libdeflate.h>
#include <string.h>

static void put(GByteArray *a, u64 v, u32 n, bool big)
{
    for (u32 i = 0; i < n; i++) {
        u8 b = (u8)(v >> 8 * (big ? n - 1 - i : i));
        g_byte_array_append(a, &b, 1);
    }
}

static void pad(GByteArray *a, gsize to)
{
    static const u8 zeroes[512];

    while (a->len < to)
        g_byte_array_append(a, zeroes, (guint)MIN(sizeof zeroes, to - a->len));
}

static void put_text(GByteArray *a, const char *text, gsize to)
{
    g_byte_array_append(a, (const u8 *)text, (guint)strlen(text));
    pad(a, to);
}

static bool zeroes(const u8 *p, u64 n)
{
    for (u64 i = 0; i < n; i++) {
        if (p[i])
            return false;
    }
    return true;
}

static void put_zlib(GByteArray *a, const u8 *p, u64 n)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(1);
    size_t room = libdeflate_zlib_compress_bound(c, n);
    g_autofree u8 *buf = g_malloc(room);

    g_byte_array_append(a, buf, (guint)libdeflate_zlib_compress(c, p, n, buf, room));
    libdeflate_free_compressor(c);
}

GByteArray *sample_bochs(const u8 *disk, u64 n)
{
    enum { EXTENT = 64 * 1024, SECTORS = EXTENT / 512 };
    GByteArray *a = g_byte_array_new();
    u32 entries = (u32)((n + EXTENT - 1) / EXTENT), used = 0;

    put_text(a, "Bochs Virtual HD Image", 32);
    put_text(a, "Redolog", 48);
    put_text(a, "Growing", 64);
    put(a, 0x20000, 4, false);
    put(a, 512, 4, false);
    put(a, entries, 4, false);
    put(a, SECTORS / 8, 4, false);
    put(a, EXTENT, 4, false);
    put(a, 0, 4, false);
    put(a, n, 8, false);
    pad(a, 512);
    for (u32 i = 0; i < entries; i++) {
        u64 at = (u64)i * EXTENT;
        put(a, zeroes(disk + at, MIN(EXTENT, n - at)) ? UINT32_MAX : used++, 4, false);
    }
    for (u32 i = 0; i < entries; i++) {
        u64 at = (u64)i * EXTENT, len = MIN(EXTENT, n - at);
        u8 bitmap[512] = { 0 };
        gsize end = a->len + 512 + EXTENT;

        if (zeroes(disk + at, len))
            continue;
        for (u32 s = 0; s < len / 512; s++) {
            if (!zeroes(disk + at + s * 512, 512))
                bitmap[s / 8] |= (u8)BIT(s % 8);
        }
        g_byte_array_append(a, bitmap, sizeof bitmap);
        g_byte_array_append(a, disk + at, (guint)len);
        pad(a, end);
    }
    return a;
}

GByteArray *sample_cloop(const u8 *disk, u64 n, u32 block)
{
    GByteArray *a = g_byte_array_new(), *data = g_byte_array_new();
    u32 blocks = (u32)((n + block - 1) / block);
    g_autofree u8 *buf = g_malloc(block);

    put_text(a,
             "#!/bin/sh\n#V2.0 Format\n"
             "modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
             128);
    put(a, block, 4, true);
    put(a, blocks, 4, true);
    u64 start = 136 + (blocks + 1) * 8ull;
    for (u32 i = 0; i < blocks; i++) {
        u64 at = (u64)i * block, len = MIN(block, n - at);

        put(a, start + data->len, 8, true);
        memset(buf, 0, block);
        memcpy(buf, disk + at, len);
        put_zlib(data, buf, block);
    }
    put(a, start + data->len, 8, true);
    g_byte_array_append(a, data->data, data->len);
    g_byte_array_unref(data);
    return a;
}

GByteArray *sample_dmg(const u8 *disk, u64 n)
{
    enum { CHUNK = 256 * 1024 };
    GByteArray *a = g_byte_array_new(), *mish = g_byte_array_new();
    u32 chunks = (u32)((n + CHUNK - 1) / CHUNK);

    put_text(mish, "mish", 4);
    put(mish, 1, 4, true);
    put(mish, 0, 8, true);
    put(mish, n / 512, 8, true);
    pad(mish, 200);
    put(mish, chunks + 1, 4, true);
    for (u32 i = 0; i < chunks; i++) {
        u64 at = (u64)i * CHUNK, len = MIN(CHUNK, n - at), host = a->len;
        u32 type = zeroes(disk + at, len) ? 2 : i % 3 ? 0x80000005 : 1;

        if (type == 1)
            g_byte_array_append(a, disk + at, (guint)len);
        else if (type != 2)
            put_zlib(a, disk + at, len);
        put(mish, type, 4, true);
        put(mish, 0, 4, true);
        put(mish, at / 512, 8, true);
        put(mish, len / 512, 8, true);
        put(mish, host, 8, true);
        put(mish, a->len - host, 8, true);
    }
    put(mish, UINT32_MAX, 4, true);
    pad(mish, mish->len + 4);
    put(mish, n / 512, 8, true);
    pad(mish, mish->len + 24);

    u64 data = a->len;
    g_autofree char *base64 = g_base64_encode(mish->data, mish->len);
    g_autofree char *xml = g_strdup_printf(
        "<plist version=\"1.0\"><dict><key>resource-fork</key><dict><key>blkx</key><array>"
        "<dict><key>Data</key><data>\n%s\n</data></dict></array></dict></dict></plist>\n",
        base64);
    put_text(a, xml, 0);
    u64 at = a->len;
    put_text(a, "koly", at + 4);
    put(a, 4, 4, true);
    put(a, 512, 4, true);
    put(a, 1, 4, true);
    put(a, 0, 8, true);
    put(a, 0, 8, true);
    put(a, data, 8, true);
    pad(a, at + 216);
    put(a, data, 8, true);
    put(a, strlen(xml), 8, true);
    pad(a, at + 492);
    put(a, n / 512, 8, true);
    pad(a, at + 512);
    g_byte_array_unref(mish);
    return a;
}
