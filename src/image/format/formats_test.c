// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * formats_test.c - what holds for every format that maps blocks: bytes come back, several
 * threads may write, a power cut loses nothing that was flushed, and qemu-img agrees both ways.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/test.h"
#include "image/format/samples.h"
#include "image/image.h"
#include "image/journal.h"

static const struct kind {
    const char *format, *options;
    u64 size;
    bool cuts;  /* one file: the power-cut test can hold it */
    bool check; /* qemu-img check knows it */
    bool named; /* cannot be probed */
    bool once;  /* qemu-img cannot write to it again */
} kinds[] = {
    { "parallels", "", 9 * MiB + 512, .cuts = true, .check = true },
    { "parallels", "cluster_size=64k", 9 * MiB, .cuts = true, .check = true },
    { "qcow", "", 9 * MiB + 512, .cuts = true },
    { "qed", "", 9 * MiB + 512, .cuts = true, .check = true },
    { "qed", "cluster_size=4k,table_size=2", 9 * MiB, .cuts = true, .check = true },
    { "vpc", "", 9 * MiB + 512, .cuts = true },
    { "vpc", "force_size=on", 9 * MiB + 512, .cuts = true },
    { "vpc", "subformat=fixed,force_size=on", 9 * MiB + 512, .cuts = true, .named = true },
    { "vhdx", "", 9 * MiB + 512, .cuts = true, .check = true },
    { "vhdx", "block_size=1M,subformat=fixed", 9 * MiB, .cuts = true, .check = true },
    { "vdi", "", 9 * MiB + 512, true, true },
    { "vdi", "static=on", 5 * MiB, true, true },
    { "vmdk", "", 33 * MiB + 512, true, true },
    { "vmdk", "zeroed_grain=on", 9 * MiB, true, true },
    { "vmdk", "subformat=monolithicFlat", 9 * MiB, false, true },
    { "vmdk", "subformat=twoGbMaxExtentSparse", 9 * MiB, false, true },
    { "vmdk", "subformat=twoGbMaxExtentFlat", 9 * MiB, false, true },
    { "vmdk", "subformat=streamOptimized", 9 * MiB, true, true, .once = true },
};

static char *dir;
static char *in_dir(const char *name)
{
    if (!dir)
        dir = g_dir_make_tmp("posada-formats-XXXXXX", NULL);
    return g_build_filename(dir, name, NULL);
}

static bool have_qemu_img(void)
{
    static int have = -1;

    if (have < 0) {
        g_autofree char *p = g_find_program_in_path("qemu-img");
        have = p != NULL;
        if (!p)
            printf("# qemu-img is not installed: cross-reading is skipped\n");
    }
    return have;
}

/* The exit status of a command line. */
static int run(const char *fmt, ...) PRINTF(1, 2);
static int run(const char *fmt, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;
    int status = -1;
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!g_spawn_command_line_sync(line, &out, &err, &status, &error))
        printf("# %s\n", error->message);
    if (status)
        printf("# %s: status %d\n# %s%s\n", line, status, out, err);
    return status;
}

static char *made(const struct kind *k, const char *name)
{
    g_autoptr(GError) error = NULL;
    char *path = in_dir(name);

    if (!image_create(path, k->format, k->size, dict_from_text(k->options, NULL, NULL), false,
                      NULL, &error))
        printf("# %s %s: %s\n", k->format, k->options, error->message);
    EXPECT(!error);
    return path;
}

static struct image *opened(const char *path, const char *format, bool read_only)
{
    struct image_options o = { .format = format, .read_only = read_only };
    g_autoptr(GError) error = NULL;
    struct image *img = image_open(path, &o, &error);

    if (!img)
        printf("# %s: %s\n", path, error->message);
    EXPECT(img);
    return img;
}

static void random_bytes(GRand *rand, u8 *to, u64 n, u32 kind)
{
    for (u64 i = 0; i < n; i++)
        to[i] = kind % 3 ? (u8)g_rand_int(rand) : (u8)(kind + i / 64);
}

static void random_io(struct image *img, u8 *model, u64 size, u32 seed, u32 rounds)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    enum { LONGEST = 300000 };
    g_autofree u8 *buf = g_malloc(LONGEST);

    for (u32 i = 0; i < rounds; i++) {
        u64 len = (u64)g_rand_int_range(rand, 1, i % 4 ? 9000 : LONGEST);
        u64 at = g_rand_int(rand) % (size - len);

        if (i % 3 == 0) {
            at = ROUND_DOWN(at, 65536);
            len = MIN(ROUND_UP(len, 65536), LONGEST);
            len = MIN(len, size - at);
        }
        switch (g_rand_int_range(rand, 0, 6)) {
        case 0:
            EXPECT_EQ(image_zero_now(img, at, len, i % 2), 0);
            memset(model + at, 0, len);
            break;
        case 1:
        case 2:
            EXPECT_EQ(image_read_now(img, at, buf, len), 0);
            EXPECT(!memcmp(buf, model + at, len));
            break;
        default:
            random_bytes(rand, buf, len, i);
            EXPECT_EQ(image_write_now(img, at, buf, len), 0);
            memcpy(model + at, buf, len);
        }
        if (i % 50 == 49)
            EXPECT_EQ(image_flush_now(img), 0);
    }
}

static void expect_bytes(struct image *img, const u8 *model, u64 size)
{
    g_autofree u8 *all = g_malloc(size);
    u64 wrong = 0;

    EXPECT(image_size(img) >= size);
    EXPECT_EQ(image_read_now(img, 0, all, size), 0);
    while (wrong < size && all[wrong] == model[wrong])
        wrong++;
    EXPECT_EQ(wrong, size);
}

/* What status says is zeroes is zeroes, and the extents add up. */
static void expect_status(struct image *img, const u8 *model, u64 size)
{
    struct image_extent e;

    for (u64 at = 0; at < size; at += e.len) {
        EXPECT_EQ(image_status_now(img, at, size - at, 0, &e), 0);
        EXPECT(e.len && e.len <= size - at);
        if (!e.len)
            return;
        if (e.flags & IMAGE_ZERO)
            EXPECT(node_is_zero(model + at, e.len));
    }
}

static void expect_clean(struct image *img)
{
    struct image_check c = { 0 };
    g_autoptr(GError) error = NULL;

    if (!image_check(img, REPAIR_NONE, &c, &error)) {
        EXPECT(g_error_matches(error, posada_error_quark(), ERR_UNSUPPORTED));
        return;
    }
    EXPECT_EQ(c.corruptions, 0);
    EXPECT_EQ(c.leaks, 0);
    EXPECT_EQ(c.check_errors, 0);
}

static void remove_all(void)
{
    EXPECT_EQ(run("rm -rf '%s'", dir), 0);
    g_clear_pointer(&dir, g_free);
}

TEST(formats_keep_bytes)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        g_autofree char *path = made(k, "disk.img");
        g_autofree u8 *model = g_malloc0(k->size);
        struct image *img = opened(path, k->named ? k->format : NULL, false);

        printf("# %s %s\n", k->format, k->options);
        if (!img)
            continue;
        EXPECT_STR(image_format(img), k->format);
        expect_bytes(img, model, k->size);
        random_io(img, model, k->size, i, 300);
        expect_bytes(img, model, k->size);
        expect_status(img, model, k->size);
        EXPECT_EQ(image_write_now(img, image_size(img), "x", 1), -EINVAL);
        EXPECT_EQ(image_finish(img), 0);
        img = opened(path, k->format, false);
        expect_bytes(img, model, k->size);
        random_io(img, model, k->size, i + 100, 100);
        EXPECT_EQ(image_finish(img), 0);
        img = opened(path, k->format, true);
        expect_bytes(img, model, k->size);
        expect_status(img, model, k->size);
        expect_clean(img);
        EXPECT_EQ(image_write_now(img, 0, "x", 1), -EROFS);
        EXPECT_EQ(image_finish(img), 0);
        remove_all();
    }
}

struct done {
    _Atomic u32 ok;
};
static void count(void *opaque, int ret)
{
    ((struct done *)opaque)->ok += ret == 0;
}

TEST(formats_serve_many_threads)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        enum { PIECE = 3000, PIECES = 1200 };
        g_autofree char *path = made(k, "disk.img");
        g_autofree u8 *model = g_malloc0(k->size);
        struct image *img = opened(path, k->named ? k->format : NULL, false);
        struct done done = { 0 };

        if (!img)
            continue;
        for (u32 p = 0; p < PIECES; p++) {
            u64 at = (u64)p * PIECE;
            memset(model + at, (int)(p % 255 + 1), PIECE);
            struct iovec v[2] = { { model + at, 100 }, { model + at + 100, PIECE - 100 } };
            image_write(img, at, v, 2, p % 100 == 0, count, &done);
        }
        image_drain(img);
        EXPECT_EQ(done.ok, PIECES);
        expect_bytes(img, model, k->size);
        EXPECT_EQ(image_finish(img), 0);
        img = opened(path, k->named ? k->format : NULL, true);
        expect_bytes(img, model, k->size);
        EXPECT_EQ(image_finish(img), 0);
        remove_all();
    }
}

/* --- qemu-img --------------------------------------------------------------------------------
 */

static void save(const char *path, const u8 *model, u64 size)
{
    EXPECT(g_file_set_contents(path, (const char *)model, (gssize)size, NULL));
}

TEST(formats_written_by_us_are_read_by_qemu_img)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds) && have_qemu_img(); i++) {
        const struct kind *k = &kinds[i];
        g_autofree char *path = made(k, "disk.img");
        g_autofree char *raw = in_dir("raw");
        struct image *img = opened(path, k->named ? k->format : NULL, false);

        if (!img)
            continue;
        u64 size = image_size(img);
        g_autofree u8 *model = g_malloc0(size);
        random_io(img, model, size, i + 7, 120);
        EXPECT_EQ(image_finish(img), 0);
        save(raw, model, size);
        EXPECT_EQ(run("qemu-img compare -f raw -F %s %s %s", k->format, raw, path), 0);
        if (k->check)
            EXPECT_EQ(run("qemu-img check -f %s %s", k->format, path), 0);
        EXPECT_EQ(run("qemu-img info %s", path), 0);
        /* And they write there, too. */
        if (!k->once)
            EXPECT_EQ(run("qemu-img convert -n -f raw -O %s %s %s", k->format, raw, path), 0);
        img = opened(path, k->format, true);
        expect_bytes(img, model, size);
        expect_clean(img);
        EXPECT_EQ(image_finish(img), 0);
        remove_all();
    }
}

TEST(formats_written_by_qemu_img_are_read_by_us)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds) && have_qemu_img(); i++) {
        const struct kind *k = &kinds[i];
        g_autoptr(GRand) rand = g_rand_new_with_seed(i);
        g_autofree char *path = in_dir("disk.img");
        g_autofree char *raw = in_dir("raw");
        g_autofree u8 *model = g_malloc0(k->size + 4 * MiB);

        for (u32 p = 0; p < 60; p++) {
            u64 len = (u64)g_rand_int_range(rand, 1, 60000);
            u64 at = g_rand_int(rand) % (k->size - len);
            random_bytes(rand, model + at, len, p);
        }
        save(raw, model, k->size);
        EXPECT_EQ(run("qemu-img convert -f raw -O %s %s%s %s %s", k->format,
                      k->options[0] ? "-o " : "", k->options, raw, path),
                  0);
        struct image *img = opened(path, k->named ? k->format : NULL, false);
        if (!img)
            continue;
        EXPECT_STR(image_format(img), k->format);
        expect_bytes(img, model, k->size);
        expect_status(img, model, k->size);
        expect_clean(img);
        u64 size = MIN(image_size(img), k->size + 4 * MiB);
        random_io(img, model, size, i + 50, 100);
        EXPECT_EQ(image_finish(img), 0);
        save(raw, model, size);
        EXPECT_EQ(run("qemu-img compare -f raw -F %s %s %s", k->format, raw, path), 0);
        if (k->check)
            EXPECT_EQ(run("qemu-img check -f %s %s", k->format, path), 0);
        remove_all();
    }
}

/* --- power cuts ------------------------------------------------------------------------------
 */

struct moment {
    guint at;  /* entries of the journal then */
    u8 *model; /* as it was */
    guint ops; /* operations before it */
};
struct op {
    u64 at, len;
};

static void power_cuts(const struct kind *k, u32 cuts)
{
    const struct driver *drv = driver_find(k->format);
    g_autoptr(GRand) rand = g_rand_new_with_seed(11);
    g_autoptr(GError) error = NULL;
    static const struct open_how how = { .write = true };
    g_autodict options = dict_from_text(k->options, NULL, NULL);
    g_autodict none = dict_new();
    struct node *file = journal_new();
    enum { LONGEST = 100000, OPS = 160 };
    g_autofree u8 *buf = g_malloc(LONGEST);

    EXPECT(drv->create(file, k->size, options, &error));
    EXPECT_EQ(node_flush(file), 0); /* as image_create() does */
    guint start = journal_length(file);
    struct node *n = node_open_over(drv, none, node_ref(file), &how, &error);
    if (!n) {
        printf("# %s\n", error->message);
        EXPECT(n);
        return;
    }
    u64 size = n->size;
    u8 *model = g_malloc0(size);
    GArray *moments = g_array_new(FALSE, TRUE, sizeof(struct moment));
    struct op ops[OPS];
    struct moment first = { journal_length(file), g_memdup2(model, size), 0 };
    guint begun[OPS]; /* entries when the operation began */

    g_array_append_val(moments, first);
    for (u32 i = 0; i < OPS; i++) {
        u64 len = (u64)g_rand_int_range(rand, 1, i % 4 ? 5000 : LONGEST);
        u64 at = g_rand_int(rand) % (size - len);

        ops[i] = (struct op){ at, len };
        begun[i] = journal_length(file);
        if (i % 9 == 8) {
            EXPECT_EQ(node_zero(n, at, len, i % 2), 0);
            memset(model + at, 0, len);
        } else {
            random_bytes(rand, buf, len, i);
            EXPECT_EQ(node_pwrite(n, at, buf, len), 0);
            memcpy(model + at, buf, len);
        }
        if (i % 10 == 7) {
            EXPECT_EQ(node_flush(n), 0);
            struct moment m = { journal_length(file), g_memdup2(model, size), i + 1 };
            g_array_append_val(moments, m);
        }
    }
    EXPECT_EQ(node_flush(n), 0);
    guint entries = journal_length(file);
    g_autofree u8 *now = g_malloc(size);
    g_autofree u8 *touched = g_malloc(size);

    for (u32 c = 0; c < cuts; c++) {
        guint at = (guint)g_rand_int_range(rand, (gint32)start, (gint32)entries + 1);
        struct node *left = journal_cut(file, at, rand);
        struct moment *m = &g_array_index(moments, struct moment, 0);

        for (guint i = 0; i < moments->len; i++) {
            if (g_array_index(moments, struct moment, i).at <= at)
                m = &g_array_index(moments, struct moment, i);
        }
        memset(touched, 0, size);
        for (guint i = m->ops; i < OPS && begun[i] <= at; i++)
            memset(touched + ops[i].at, 1, ops[i].len);
        struct node *again = node_open_over(drv, none, left, &how, &error);
        if (!again) {
            printf("# %s, cut at %u: %s\n", k->format, at, error->message);
            EXPECT(again);
            g_clear_error(&error);
            continue;
        }
        EXPECT_EQ(node_pread(again, 0, now, size), 0);
        u64 wrong = 0;
        while (wrong < size && (touched[wrong] || now[wrong] == m->model[wrong]))
            wrong++;
        EXPECT_EQ(wrong, size);
        if (drv->check) {
            struct image_check r = { 0 };
            EXPECT(drv->check(again, REPAIR_NONE, &r, &error));
            EXPECT_EQ(r.corruptions, 0);
        }
        /* It goes on working: nothing new gets where something else lies. */
        memset(buf, 0x5a, LONGEST);
        memcpy(touched, now, size);
        for (u32 i = 0; i < 4; i++) {
            u64 to = g_rand_int(rand) % (size - LONGEST);
            EXPECT_EQ(node_pwrite(again, to, buf, LONGEST), 0);
            memset(touched + to, 0x5a, LONGEST);
        }
        EXPECT_EQ(node_flush(again), 0);
        EXPECT_EQ(node_pread(again, 0, now, size), 0);
        EXPECT(!memcmp(now, touched, size));
        node_unref(again);
    }
    for (guint i = 0; i < moments->len; i++)
        g_free(g_array_index(moments, struct moment, i).model);
    g_array_unref(moments);
    g_free(model);
    node_unref(n);
    node_unref(file);
}

TEST(formats_survive_power_cuts)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kinds[i].cuts) {
            int before = test_failures;
            power_cuts(&kinds[i], (u32)MIN(60, 400 * MiB / kinds[i].size));
            if (test_failures != before)
                printf("# that was %s %s\n", kinds[i].format, kinds[i].options);
        }
    }
}

/* --- growing ---------------------------------------------------------------------------------
 */

TEST(formats_grow)
{
    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        g_autoptr(GError) error = NULL;

        if (!driver_find(k->format)->resize)
            continue;
        g_autofree char *path = made(k, "disk.img");
        struct image *img = opened(path, k->named ? k->format : NULL, false);
        if (!img)
            continue;
        u64 size = image_size(img), more = size + 3 * MiB;
        g_autofree u8 *model = g_malloc0(more);
        random_io(img, model, size, i, 50);
        if (image_resize(img, more, NULL, &error)) {
            EXPECT(image_size(img) >= more);
            expect_bytes(img, model, more);
            random_io(img, model, more, i, 50);
            EXPECT_EQ(image_finish(img), 0);
            img = opened(path, k->format, false);
            expect_bytes(img, model, more);
            expect_clean(img);
        } else {
            printf("# %s %s: %s\n", k->format, k->options, error->message);
            EXPECT(g_error_matches(error, posada_error_quark(), ERR_UNSUPPORTED));
            expect_bytes(img, model, size);
        }
        EXPECT_EQ(image_finish(img), 0);
        remove_all();
    }
}

/* --- formats that are only read --------------------------------------------------------------
 */

TEST(formats_that_are_only_read)
{
    enum { SIZE = 3 * MiB };
    g_autofree u8 *model = g_malloc0(SIZE);
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);

    for (u32 p = 0; p < 12; p++) {
        u64 len = (u64)g_rand_int_range(rand, 1, 90000);
        random_bytes(rand, model + g_rand_int(rand) % (SIZE - len), len, p);
    }
    GByteArray *bytes[] = { sample_bochs(model, SIZE), sample_cloop(model, SIZE, 65536),
                            sample_dmg(model, SIZE) };
    static const char *const names[] = { "bochs", "cloop", "dmg" };

    for (u32 i = 0; i < ARRAY_LEN(names); i++) {
        g_autofree char *path = in_dir("disk.dmg");
        g_autofree char *raw = in_dir("raw");

        save(path, bytes[i]->data, bytes[i]->len);
        struct image *img = opened(path, NULL, true);
        if (!img)
            continue;
        EXPECT_STR(image_format(img), names[i]);
        EXPECT_EQ(image_size(img), SIZE);
        expect_bytes(img, model, SIZE);
        expect_status(img, model, SIZE);
        for (u32 k = 0; k < 200; k++) {
            u8 buf[5000];
            u64 len = (u64)g_rand_int_range(rand, 1, sizeof buf);
            u64 at = g_rand_int(rand) % (SIZE - len);
            EXPECT_EQ(image_read_now(img, at, buf, len), 0);
            EXPECT(!memcmp(buf, model + at, len));
        }
        EXPECT_EQ(image_finish(img), 0);
        save(raw, model, SIZE);
        if (have_qemu_img())
            EXPECT_EQ(run("qemu-img compare -f raw -F %s %s %s", names[i], raw, path), 0);
        struct image_options rw = { .format = names[i] };
        g_autoptr(GError) error = NULL;
        EXPECT(!image_open(path, &rw, &error));
        EXPECT(g_error_matches(error, posada_error_quark(), ERR_UNSUPPORTED));
        /* Cut short, nothing but an error comes of it. */
        save(path, bytes[i]->data, bytes[i]->len / 2);
        g_clear_error(&error);
        struct image_options ro = { .format = names[i], .read_only = true };
        img = image_open(path, &ro, &error);
        g_autofree u8 *part = g_malloc(SIZE);
        EXPECT(!img || image_read_now(img, 0, part, SIZE) == -EIO);
        image_close(img);
        g_byte_array_unref(bytes[i]);
        remove_all();
    }
}

/* --- backing files and compression -----------------------------------------------------------
 */

TEST(formats_with_backing_files)
{
    enum { SIZE = 6 * MiB };
    static const struct {
        const char *format, *base;
    } chains[] = { { "qcow", "raw" }, { "qed", "raw" }, { "qed", "qed" }, { "vmdk", "vmdk" } };

    for (u32 i = 0; i < ARRAY_LEN(chains); i++) {
        struct kind base = { chains[i].base, "", SIZE };
        g_autofree char *base_path = made(&base, "base.img");
        g_autofree char *path = in_dir("top.img");
        g_autofree char *raw = in_dir("raw");
        g_autofree u8 *model = g_malloc0(SIZE);
        g_autoptr(GError) error = NULL;
        struct image *img = opened(base_path, chains[i].base, false);

        random_io(img, model, SIZE, i, 60);
        EXPECT_EQ(image_finish(img), 0);
        struct dict *o = dict_new();
        dict_set(o, "backing_file", "base.img");
        dict_set(o, "backing_fmt", chains[i].base);
        EXPECT(image_create(path, chains[i].format, UINT64_MAX, o, false, NULL, &error));
        img = opened(path, NULL, false);
        if (!img)
            continue;
        EXPECT(image_has_backing(img));
        expect_bytes(img, model, SIZE);
        random_io(img, model, SIZE, i + 9, 150);
        EXPECT_EQ(image_finish(img), 0);
        img = opened(path, chains[i].format, true);
        expect_bytes(img, model, SIZE);
        expect_clean(img);
        EXPECT_EQ(image_finish(img), 0);
        save(raw, model, SIZE);
        if (have_qemu_img())
            EXPECT_EQ(run("qemu-img compare -f raw -F %s %s %s", chains[i].format, raw, path),
                      0);
        remove_all();
    }
}

TEST(formats_compress_blocks)
{
    enum { SIZE = 4 * MiB };
    struct kind k = { "qcow", "", SIZE };
    g_autofree char *path = made(&k, "disk.img");
    g_autofree char *raw = in_dir("raw");
    g_autofree u8 *model = g_malloc0(SIZE);
    g_autoptr(GRand) rand = g_rand_new_with_seed(8);
    struct image *img = opened(path, NULL, false);
    u32 cluster = image_cluster_size(img);

    for (u32 i = 0; i < SIZE / cluster; i += 1 + i % 3) {
        random_bytes(rand, model + i * cluster, cluster, i);
        EXPECT_EQ(image_write_compressed_now(img, i * cluster, model + i * cluster, cluster),
                  0);
    }
    expect_bytes(img, model, SIZE);
    EXPECT_EQ(image_flush_now(img), 0);
    save(raw, model, SIZE);
    random_io(img, model, SIZE, 4, 100);
    EXPECT_EQ(image_finish(img), 0);
    if (have_qemu_img()) {
        g_autofree char *theirs = in_dir("theirs.img");
        g_autofree char *now = in_dir("now");

        save(now, model, SIZE);
        EXPECT_EQ(run("qemu-img compare -f raw -F qcow %s %s", now, path), 0);
        /* 7.2 says 1 when all is written: whether it is, comparing shows. */
        run("qemu-img convert -c -f raw -O qcow %s %s", now, theirs);
        EXPECT_EQ(run("qemu-img compare -f raw -F qcow %s %s", now, theirs), 0);
        img = opened(theirs, NULL, false);
        expect_bytes(img, model, SIZE);
        random_io(img, model, SIZE, 6, 100);
        EXPECT_EQ(image_finish(img), 0);
        save(now, model, SIZE);
        EXPECT_EQ(run("qemu-img compare -f raw -F qcow %s %s", now, theirs), 0);
    }
    remove_all();
}

/* VHDX has an entry of another kind after each 4 GiB of these blocks. */
TEST(formats_beyond_a_chunk)
{
    struct kind k = { "vhdx", "block_size=1M", 6 * GiB };
    static const u64 places[] = { 4 * GiB - MiB, 4 * GiB, 4 * GiB + MiB, 6 * GiB - MiB };
    g_autofree char *path = made(&k, "disk.img");
    g_autofree char *raw = in_dir("raw");
    g_autofree u8 *buf = g_malloc(MiB);
    g_autofree u8 *got = g_malloc(MiB);
    struct image *img = opened(path, NULL, false);
    int fd = open(raw, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    EXPECT_EQ(ftruncate(fd, 6 * GiB), 0);
    for (u32 i = 0; i < ARRAY_LEN(places); i++) {
        memset(buf, (int)i + 1, MiB);
        EXPECT_EQ(image_write_now(img, places[i], buf, MiB), 0);
        EXPECT_EQ(pwrite(fd, buf, MiB, (off_t)places[i]), MiB);
    }
    close(fd);
    EXPECT_EQ(image_finish(img), 0);
    if (have_qemu_img()) {
        EXPECT_EQ(run("qemu-img compare -f raw -F vhdx %s %s", raw, path), 0);
        EXPECT_EQ(run("qemu-img convert -f raw -O vhdx -o block_size=1M %s %s", raw, path), 0);
    }
    img = opened(path, NULL, true);
    for (u32 i = 0; i < ARRAY_LEN(places); i++) {
        memset(buf, (int)i + 1, MiB);
        EXPECT_EQ(image_read_now(img, places[i], got, MiB), 0);
        EXPECT(!memcmp(buf, got, MiB));
    }
    expect_clean(img);
    EXPECT_EQ(image_finish(img), 0);
    remove_all();
}

/* --- what is broken --------------------------------------------------------------------------
 */

/* Each word of the headers at its extremes: the image is refused, or goes on to be read. */
TEST(formats_stand_broken_headers)
{
    static const u32 values[] = { 0, 1, 0x7fffffff, 0xffffffff };

    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        g_autofree char *path = made(&kinds[i], "disk.img");
        u32 refused = 0, taken = 0;

        for (u32 at = 0; at < 640; at += 4) {
            struct image_options o = { .format = kinds[i].format, .read_only = true };
            g_autoptr(GError) error = NULL;
            u8 was[4], buf[4096];
            int fd = open(path, O_RDWR | O_CLOEXEC);

            if (pread(fd, was, 4, at) != 4) {
                close(fd);
                break;
            }
            EXPECT_EQ(pwrite(fd, &values[at / 4 % 4], 4, at), 4);
            struct image *img = image_open(path, &o, &error);
            EXPECT(!img == !!error);
            if (img && image_size(img) >= sizeof buf) {
                image_read_now(img, 0, buf, sizeof buf);
                image_read_now(img, image_size(img) - sizeof buf, buf, sizeof buf);
            }
            refused += !img;
            taken += img != NULL;
            image_close(img);
            EXPECT_EQ(pwrite(fd, was, 4, at), 4);
            close(fd);
        }
        EXPECT(refused || kinds[i].named);
        EXPECT(taken);
        image_close(opened(path, kinds[i].format, true));
        remove_all();
    }
}
TEST_MAIN()
