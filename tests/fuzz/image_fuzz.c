// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image_fuzz.c - fuzz target of the image formats: a file of any bytes as a disk image.
 *
 * The file is opened for reading and looked at in every way, then opened for writing, written,
 * checked, repaired.  Whatever it says, nothing may crash, and what was written into an image
 * that took it must be read back.  Backing files are left closed: a name in a fuzzed image must
 * not open files of ours.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "image/image.h"

enum { EXTENTS_MAX = 200, BUF = 65536 };

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
    image_read_now(img, 0, buf, n);
    image_read_now(img, size - n, buf, n);
    image_read_now(img, size / 2, buf, MIN(n, size - size / 2));
    image_check(img, REPAIR_NONE, &k, &error);
    g_clear_error(&error);
}

static void change(struct image *img, u8 how)
{
    static u8 out[BUF], in[BUF];
    u64 size = image_size(img), n = MIN(size, BUF), at = size - n;
    struct image_check k = { 0 };
    struct image_snapshot s = { .name = (char *)"s" };
    GError *error = NULL;

    memset(out, 0x5a, n);
    if (how & 2) {
        image_check(img, REPAIR_ALL, &k, &error);
        g_clear_error(&error);
    }
    k = (struct image_check){ 0 };
    bool sound =
        !strcmp(image_format(img), "raw") ||
        (image_check(img, REPAIR_NONE, &k, &error) && !k.corruptions && !k.check_errors);
    g_clear_error(&error);
    if (how & 4) {
        image_snapshot_create(img, &s, &error);
        g_clear_error(&error);
    }
    image_discard_now(img, 0, n);
    image_zero_now(img, size / 2, MIN(n, size - size / 2), how & 8);
    if (!image_write_now(img, at, out, n) && !image_flush_now(img) && sound &&
        !image_read_now(img, at, in, n) && memcmp(in, out, n))
        abort(); /* in a broken image clusters may be shared; this one was none */
    if (how & 16) {
        image_resize(img, size / 2 & ~511ull, NULL, &error);
        g_clear_error(&error);
        image_resize(img, size, NULL, &error);
        g_clear_error(&error);
    }
    if (how & 4) {
        image_snapshot_apply(img, "s", &error);
        g_clear_error(&error);
        image_snapshot_remove(img, "s", &error);
        g_clear_error(&error);
    }
    if (how & 32 && image_can_compress(img)) {
        u32 cluster = image_cluster_size(img);
        g_autofree u8 *c = g_malloc0(cluster);

        image_write_compressed_now(img, 0, c, MIN(cluster, size));
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    struct image_options o = {
        .read_only = true, .no_backing = true, .check = true, .cache = IMAGE_UNSAFE
    };
    GError *error = NULL;
    char path[32];

    if (!n)
        return 0;
    int fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data + 1, n - 1) != (ssize_t)(n - 1))
        abort();
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct image *img = image_open(path, &o, &error);
    if (!img != !!error)
        abort(); /* exactly one of the two */
    if (img)
        look(img);
    image_close(img);
    g_clear_error(&error);
    o.read_only = false;
    o.discard = true;
    o.check = data[0] & 1;
    img = image_open(path, &o, &error);
    if (img)
        change(img, data[0]);
    image_close(img);
    g_clear_error(&error);
    close(fd);
    return 0;
}

/* ---- seeds for the replay: small images of every format, cut to what fits ------------------
 */

static const struct {
    const char *format, *options;
    u8 how;
} seeds[] = {
    { "raw", "", 0 },
    { "qcow2", "cluster_size=512", 2 },
    { "qcow2", "cluster_size=512,refcount_bits=64", 4 },
    { "qcow2", "cluster_size=512,refcount_bits=1", 16 },
    { "qcow2", "cluster_size=1k,compat=0.10", 32 | 8 },
    { "qcow2", "cluster_size=512,compression_type=zstd,lazy_refcounts=on", 32 | 1 },
    { "qcow2", "extended_l2=on,cluster_size=16k", 8 | 1 },
};
const unsigned fuzz_seeds = ARRAY_LEN(seeds);

size_t fuzz_seed(unsigned i, u8 *to)
{
    g_autofree char *path = g_strdup_printf("%s/posada-fuzz-%d", g_get_tmp_dir(), getpid());
    struct image_options rw = { .cache = IMAGE_UNSAFE };
    struct image_snapshot s = { .name = (char *)"one" };
    GError *error = NULL;
    u8 some[1024];

    if (!image_create(path, seeds[i].format, 16384,
                      dict_from_text(seeds[i].options, NULL, NULL), false, NULL, &error))
        abort();
    struct image *img = image_open(path, &rw, &error);
    for (size_t k = 0; k < sizeof some; k++)
        some[k] = (u8)(k * 7);
    if (!img || image_write_now(img, 3000, some, sizeof some))
        abort();
    image_snapshot_create(img, &s, &error);
    g_clear_error(&error);
    memset(some, 1, sizeof some);
    if (image_can_compress(img) && image_cluster_size(img) <= sizeof some &&
        image_write_compressed_now(img, 8192, some, image_cluster_size(img)))
        abort();
    image_close(img);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, to + 1, FUZZ_SEED_MAX - 1);
    close(fd);
    unlink(path);
    to[0] = seeds[i].how;
    return n < 0 ? 1 : (size_t)n + 1;
}
