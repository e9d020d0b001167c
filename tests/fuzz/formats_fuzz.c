// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * formats_fuzz.c - fuzz target of the formats other than qcow2: a good image with patches.
 *
 * byte 0: which image; byte 1: what to do with it (bit 7: all that follows is the file itself);
 * then patches: place (4 bytes; the top one chooses begin, end, 64 KiB multiples), length,
 * bytes.  Checksums are made right again, or nothing behind them would be reached.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "image/format/samples.h"
#include "image/image.h"

enum { DISK = 5 << 20, PAGE = 4096, BUF = 65536, EXTENTS_MAX = 200 };

static const struct {
    const char *format, *options;
} kinds[] = {
    { "vmdk", "" },
    { "vmdk", "zeroed_grain=on" },
    { "vmdk", "subformat=streamOptimized" },
    { "vdi", "" },
    { "vpc", "" },
    { "vpc", "subformat=fixed" },
    { "qcow", "" },
    { "vhdx", "" },
    { "parallels", "cluster_size=64k" },
    { "qed", "cluster_size=4k,table_size=1" },
    { "bochs", NULL },
    { "cloop", NULL },
    { "dmg", NULL },
};

static int fd = -1; /* the image */
static char path[32];

static void put_file(const u8 *p, size_t n)
{
    if (fd >= 0)
        close(fd);
    fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    /* Holes stay holes. */
    for (size_t at = 0; at < n; at += PAGE) {
        static const u8 none[PAGE];
        size_t len = MIN(PAGE, n - at);

        if (memcmp(p + at, none, len) && pwrite(fd, p + at, len, (off_t)at) != (ssize_t)len)
            abort();
    }
    if (ftruncate(fd, (off_t)n))
        abort();
}

static GByteArray *build(unsigned kind)
{
    g_autofree u8 *disk = g_malloc0(DISK);
    GError *error = NULL;
    struct image_options rw = { .format = kinds[kind].format, .cache = IMAGE_UNSAFE };

    for (u32 i = 0; i < DISK; i += i % 3 ? 70000 : 300000)
        memset(disk + i, (int)(i % 251), 9000);
    if (!kinds[kind].options)
        return !strcmp(kinds[kind].format, "bochs")   ? sample_bochs(disk, DISK)
               : !strcmp(kinds[kind].format, "cloop") ? sample_cloop(disk, DISK, 65536)
                                                      : sample_dmg(disk, DISK);
    put_file(disk, 0);
    if (!image_create(path, kinds[kind].format, DISK,
                      dict_from_text(kinds[kind].options, NULL, NULL), false, NULL, &error))
        abort();
    struct image *img = image_open(path, &rw, &error);
    for (u32 i = 0; img && i < DISK - BUF; i += 1 << 20)
        image_write_now(img, i + 3000, disk + i, BUF / 4);
    if (!img || (image_can_compress(img) && kind == 6 &&
                 image_write_compressed_now(img, 4 * 4096, disk, 4096)))
        abort();
    image_close(img);
    off_t n = lseek(fd, 0, SEEK_END);
    GByteArray *a = g_byte_array_sized_new((guint)n);
    g_byte_array_set_size(a, (guint)n);
    if (pread(fd, a->data, (size_t)n, 0) != n)
        abort();
    return a;
}

static u32 get32(const u8 *p)
{
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

static void put32(u8 *p, u32 v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (u8)(v >> 8 * i);
}

static void crc32c_at(u8 *p, size_t n)
{
    u32 c = ~0u;

    put32(p + 4, 0);
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (unsigned k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78 : c >> 1;
    }
    put32(p + 4, ~c);
}

static void vhd_sum(u8 *p, size_t n, size_t field)
{
    u32 sum = 0;

    memset(p + field, 0, 4);
    for (size_t i = 0; i < n; i++)
        sum += p[i];
    sum = GUINT32_TO_BE(~sum);
    memcpy(p + field, &sum, 4);
}

/* touched: has a patch changed a page?  Checksums over untouched ones are right already. */
static void mend(const char *format, u8 *p, size_t n, const bool *touched)
{
    if (!strcmp(format, "vpc") && n >= 1536) {
        vhd_sum(p, 512, 64);
        vhd_sum(p + n - 512, 512, 64);
        vhd_sum(p + 512, 1024, 36);
    }
    if (strcmp(format, "vhdx") != 0 || n < 2 << 20)
        return;
    for (size_t i = 1; i <= 2; i++) {
        if (touched[i * 16])
            crc32c_at(p + i * 65536, 4096);
    }
    for (size_t i = 3; i <= 4; i++) {
        bool any = false;
        for (size_t k = 0; k < 16; k++)
            any |= touched[i * 16 + k];
        if (any)
            crc32c_at(p + i * 65536, 65536);
    }
    for (size_t at = 1 << 20; at < 2 << 20; at += 4096) { /* log entries of one sector or two */
        u32 len = get32(p + at + 8);
        if (touched[at / PAGE] && !memcmp(p + at, "loge", 4) && len && len <= 16384)
            crc32c_at(p + at, len);
    }
}

static size_t patch(const char *format, u8 *p, size_t n, const u8 *data, size_t left)
{
    g_autofree bool *touched = g_new0(bool, n / PAGE + 17 * 64);

    while (left > 5) {
        u32 at = get32(data) & 0xffffff, len = data[4] % 32 + 1;

        switch (data[3] & 3) {
        case 1:
            at = (u32)(n - at % 4096 % n);
            break;
        case 2:
            at = (at >> 12) * 65536 + at % 4096;
            break;
        }
        data += 5;
        left -= 5;
        len = (u32)MIN(len, left);
        if (at < n && len <= n - at) {
            memcpy(p + at, data, len);
            touched[at / PAGE] = touched[(at + len) / PAGE] = true;
        }
        data += len;
        left -= len;
    }
    mend(format, p, n, touched);
    return n;
}

static void look(struct image *img)
{
    static u8 buf[BUF];
    u64 size = image_size(img), at = 0;
    struct image_extent e;
    struct image_check k = { 0 };
    GError *error = NULL;

    image_info_free(image_get_info(img));
    for (u32 i = 0; i < EXTENTS_MAX && at < size; i++, at += e.len) {
        if (image_status_now(img, at, size - at, 0, &e))
            break;
        if (!e.len)
            abort(); /* would not end */
    }
    u64 n = MIN(size, BUF);
    for (u64 i = 0; i < 8 && size; i++)
        image_read_now(img, MIN(size / 8 * i, size - n), buf, n);
    image_read_now(img, size - n, buf, n);
    image_check(img, REPAIR_NONE, &k, &error);
    g_clear_error(&error);
}

static void change(struct image *img, u8 how)
{
    static u8 out[BUF], in[BUF];
    u64 size = image_size(img), n = MIN(size, BUF), at = size - n;
    struct image_check k = { 0 };
    GError *error = NULL;

    memset(out, 0x5a, n);
    if (how & 2) {
        image_check(img, REPAIR_ALL, &k, &error);
        g_clear_error(&error);
    }
    image_discard_now(img, 0, n);
    image_zero_now(img, size / 2, MIN(n, size - size / 2), how & 8);
    if (how & 16) {
        image_resize(img, size + (1 << 20), NULL, &error);
        g_clear_error(&error);
    }
    if (how & 32 && image_can_compress(img) && image_cluster_size(img) <= BUF)
        image_write_compressed_now(img, 0, out, MIN(image_cluster_size(img), size));
    k = (struct image_check){ 0 };
    bool sound = image_check(img, REPAIR_NONE, &k, &error) && !k.corruptions && !k.check_errors;
    g_clear_error(&error);
    if (!image_write_now(img, at, out, n) && !image_flush_now(img) && sound &&
        !image_read_now(img, at, in, n) && memcmp(in, out, n))
        abort(); /* in a broken image blocks may be shared; this one was none */
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static GByteArray *good[ARRAY_LEN(kinds)];

    if (n < 2)
        return 0;
    unsigned kind = data[0] % ARRAY_LEN(kinds);
    struct image_options o = { .format = kinds[kind].format,
                               .read_only = true,
                               .no_backing = true,
                               .check = true,
                               .cache = IMAGE_UNSAFE };
    GError *error = NULL;

    if (data[1] & 0x80) {
        put_file(data + 2, n - 2);
    } else {
        if (!good[kind])
            good[kind] = build(kind);
        g_autofree u8 *bytes = g_memdup2(good[kind]->data, good[kind]->len);
        put_file(bytes, patch(kinds[kind].format, bytes, good[kind]->len, data + 2, n - 2));
    }
    struct image *img = image_open(path, &o, &error);
    if (!img != !!error)
        abort(); /* exactly one of the two */
    if (img)
        look(img);
    image_close(img);
    g_clear_error(&error);
    o.read_only = false;
    o.discard = true;
    o.check = data[1] & 1;
    img = image_open(path, &o, &error);
    if (img)
        change(img, data[1]);
    image_close(img);
    g_clear_error(&error);
    return 0;
}

/* ---- seeds for the replay ------------------------------------------------------------------
 */

static const char text[] =
    "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
    "createType=\"twoGbMaxExtentSparse\"\nRW 4096 ZERO\n"
    "RW 100 SPARSE \"x\"\nRW 7 FLAT \"y\" 3\n";
const unsigned fuzz_seeds = ARRAY_LEN(kinds) + 1;

size_t fuzz_seed(unsigned i, u8 *to)
{
    u8 *p = to + 2;
    static const u32 places[] = { 0, 0x100, 0x140, 0x170, 0x200, 0x600, 0x400, 0xc00, 0x2a00 };

    if (i == ARRAY_LEN(kinds)) { /* a descriptor of split extents */
        to[0] = 0;
        to[1] = 0x80;
        memcpy(p, text, sizeof text);
        return 2 + sizeof text;
    }
    to[0] = (u8)i;
    to[1] = i % 2 ? 2 | 16 : 1 | 8 | 32;
    /* Patches of four bytes at words where headers and tables are; first they do nothing much.
     */
    for (unsigned k = 0; k < 2; k++, p += 9) {
        put32(p, (places[(i + k) % ARRAY_LEN(places)] + (i % 7) * 4) | (u32)(k * 2) << 24);
        p[4] = 3;
        put32(p + 5, k ? 0 : UINT32_MAX);
    }
    return (size_t)(p - to);
}
