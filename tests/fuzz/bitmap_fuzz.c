// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bitmap_fuzz.c - fuzz target of qcow2's dirty bitmaps: a good image whose bitmap directory,
 * tables and bits are any bytes.
 *
 * Input: what to do; how many bitmaps the header claims (bit 7: the refcounts do not know of
 * them); the directory's length (2 bytes); then all from the directory on, as it lies behind
 * the image's own clusters.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "image/image.h"

enum { CLUSTER = 512, SIZE = 65536, HEAD = 4 };
enum { HEADER_LENGTH_AT = 100, AUTOCLEAR_AT = 88 };

/* An empty image, made once. */
static GBytes *base(void)
{
    static GBytes *made;

    if (!made) {
        g_autofree char *path =
            g_strdup_printf("%s/posada-bitmap-fuzz-%d", g_get_tmp_dir(), getpid());
        char *bytes;
        size_t n;

        if (!image_create(path, "qcow2", SIZE, dict_from_text("cluster_size=512", NULL, NULL),
                          false, NULL, NULL) ||
            !g_file_get_contents(path, &bytes, &n, NULL))
            abort();
        unlink(path);
        bytes = g_realloc(bytes, ROUND_UP(n, CLUSTER));
        memset(bytes + n, 0, ROUND_UP(n, CLUSTER) - n);
        made = g_bytes_new_take(bytes, ROUND_UP(n, CLUSTER));
    }
    return made;
}

static void put32(u8 *p, u32 v)
{
    be32 b = be32_of(v);

    memcpy(p, &b, sizeof b);
}

static int image_of(const u8 *data, size_t n)
{
    size_t have;
    const u8 *good = g_bytes_get_data(base(), &have);
    g_autofree u8 *all = g_malloc(have + n);
    u32 header = good[HEADER_LENGTH_AT + 3];
    int fd = memfd_create("image", MFD_CLOEXEC);

    memcpy(all, good, have);
    memcpy(all + have, data + HEAD, n - HEAD);
    all[AUTOCLEAR_AT + 7] |= 1;
    put32(all + header, 0x23852875);
    put32(all + header + 4, 24);
    put32(all + header + 8, data[1] & 0x7f);
    put32(all + header + 12, 0);
    put32(all + header + 16, 0);
    put32(all + header + 20, (u32)data[2] << 8 | data[3]);
    put32(all + header + 24, 0);
    put32(all + header + 28, (u32)have);
    put32(all + header + 32, 0); /* the end */
    put32(all + header + 36, 0);
    if (fd < 0 || write(fd, all, have + n - HEAD) != (ssize_t)(have + n - HEAD))
        abort();
    return fd;
}

static void look(struct image *img)
{
    struct image_check k = { 0 };
    struct image_bitmap b;

    image_info_free(image_get_info(img));
    for (u32 i = 0; image_bitmap_get(img, i, &b); i++) {
        if (!*b.name || b.granularity < 512)
            abort();
    }
    image_bitmaps_space(img, 65536);
    image_check(img, REPAIR_NONE, &k, NULL);
}

static void change(struct image *img, u8 how)
{
    static u8 some[4096];
    struct image_bitmap b;

    image_write_now(img, 8192, some, sizeof some);
    if (how & 1)
        image_bitmap_add(img, "new", 0, how & 2, NULL);
    for (u32 i = 0; i < 4 && image_bitmap_get(img, i, &b); i++) {
        g_autofree char *name = g_strdup(b.name);

        if (how & 4)
            image_bitmap_clear(img, name, NULL);
        if (how & 8)
            image_bitmap_enable(img, name, true, NULL);
        if (how & 16)
            image_bitmap_merge(img, "new", img, name, NULL);
        if (how & 32)
            image_bitmap_remove(img, name, NULL);
    }
    if (how & 64)
        image_resize(img, how & 128 ? SIZE * 2 : SIZE / 2, NULL, NULL);
    image_flush_now(img);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    struct image_options ro = { .read_only = true, .cache = IMAGE_UNSAFE, .bitmaps = true },
                         rw = { .cache = IMAGE_UNSAFE },
                         repair = { .cache = IMAGE_UNSAFE, .check = true };
    struct image_check k = { 0 };
    GError *error = NULL;
    char path[32];

    if (n < HEAD)
        return 0;
    int fd = image_of(data, n);
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct image *img = data[1] & 0x80 ? NULL : image_open(path, &repair, NULL);
    if (img)
        image_check(img, REPAIR_ALL, &k, NULL);
    image_close(img);
    img = image_open(path, &ro, &error);
    if (!img != !!error)
        abort(); /* exactly one of the two */
    if (img)
        look(img);
    image_close(img);
    bool opens = img != NULL;
    g_clear_error(&error);
    img = image_open(path, &rw, &error);
    if (!img != !opens)
        abort(); /* writing asks for no more than reading */
    if (img)
        change(img, data[0]);
    image_close(img);
    g_clear_error(&error);
    close(fd);
    return 0;
}

/* ---- seeds: what a good image has from its directory on ------------------------------------
 */

const unsigned fuzz_seeds = 6;

size_t fuzz_seed(unsigned i, u8 *to)
{
    static const u8 hows[] = { 1, 4 | 8, 1 | 16, 32, 64, 64 | 128 | 1 };
    size_t have;

    g_bytes_get_data(base(), &have);
    u8 *dir = to + HEAD;
    size_t n = HEAD + 5 * CLUSTER;
    memset(to, 0, n);
    to[0] = hows[i];
    to[1] = 2;
    to[3] = 64;
    for (u32 k = 0; k < 2; k++) {
        u8 *e = dir + 32 * k, *table = dir + CLUSTER * (1 + k);

        put32(e + 4, (u32)(have + CLUSTER * (1 + k)));
        put32(e + 8, 1);                    /* entries of the table */
        put32(e + 12, k && i == 3 ? 1 : 2); /* in use, auto */
        e[16] = 1;                          /* a dirty bitmap */
        e[17] = (u8)(9 + 3 * k);            /* granularity */
        e[19] = 2;                          /* of the name */
        e[24] = 'b';
        e[25] = (u8)('0' + k);
        put32(table + 4, i == 1 ? 1 : (u32)(have + CLUSTER * (3 + k)));
        memset(dir + CLUSTER * (3 + k), 0x81, 16);
    }
    return n;
}
