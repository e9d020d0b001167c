// SPDX-License-Identifier: GPL-2.0-or-later
/* image_test.c - raw images: bytes in, bytes out, bounds, locks, overlays, probing. */
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/test.h"
#include "image/node.h"

static char *dir;
static const char *image_make(const char *name, const void *bytes, size_t n, u64 size)
{
    static char path[256];

    if (!dir)
        dir = g_dir_make_tmp("posada-image-XXXXXX", NULL);
    g_snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    EXPECT_EQ(write(fd, bytes, n), n);
    EXPECT_EQ(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return path;
}

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int ret;
};
static void wake(void *opaque, int ret)
{
    struct wait *w = opaque;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->ret = ret;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}
#define SYNC(call, img, ...)                                                                   \
    ({                                                                                         \
        struct wait w_ = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 };    \
        call(img, __VA_ARGS__, wake, &w_);                                                     \
        pthread_mutex_lock(&w_.lock);                                                          \
        while (!w_.done)                                                                       \
            pthread_cond_wait(&w_.cond, &w_.lock);                                             \
        pthread_mutex_unlock(&w_.lock);                                                        \
        w_.ret;                                                                                \
    })
static int flush(struct image *img)
{
    struct wait w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0 };

    image_flush(img, wake, &w);
    image_drain(img);
    return w.ret;
}
static int rd(struct image *img, u64 at, void *buf, size_t n)
{
    struct iovec v[2] = { { buf, n / 2 }, { (u8 *)buf + n / 2, n - n / 2 } };

    return SYNC(image_read, img, at, v, 2);
}
static int wr(struct image *img, u64 at, const void *buf, size_t n)
{
    struct iovec v[2] = { { (void *)buf, n / 3 }, { (u8 *)buf + n / 3, n - n / 3 } };

    return SYNC(image_write, img, at, v, 2, false);
}
static struct image *open_with(const char *path, struct image_options o)
{
    g_autoptr(GError) error = NULL;
    struct image *img = image_open(path, &o, &error);

    if (!img)
        printf("# %s\n", error->message);
    EXPECT(img);
    return img;
}

static void random_io(struct image *img, u8 *model, u64 size, u32 rounds)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    g_autofree u8 *buf = g_malloc(100000);

    for (u32 i = 0; i < rounds; i++) {
        u64 len = (u64)g_rand_int_range(rand, 0, i % 4 ? 3000 : 100000);
        len = MIN(len, size);
        u64 at = g_rand_int(rand) % (size - len + 1);

        if (i % 5 == 0) {
            at &= ~511ull;
            len &= ~511ull;
        }
        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
            EXPECT_EQ(SYNC(image_write_zeroes, img, at, len, i % 2), 0);
            memset(model + at, 0, len);
            break;
        case 1:
            EXPECT_EQ(rd(img, at, buf, len), 0);
            EXPECT(!memcmp(buf, model + at, len));
            break;
        default:
            for (u64 k = 0; k < len; k++)
                buf[k] = (u8)g_rand_int(rand);
            EXPECT_EQ(wr(img, at, buf, len), 0);
            memcpy(model + at, buf, len);
        }
    }
    g_autofree u8 *all = g_malloc(size);
    EXPECT_EQ(rd(img, 0, all, size), 0);
    EXPECT(!memcmp(all, model, size));
}

TEST(image_is_its_bytes)
{
    static const enum image_cache caches[] = { IMAGE_WRITEBACK, IMAGE_NONE, IMAGE_WRITETHROUGH,
                                               IMAGE_UNSAFE };

    for (u32 i = 0; i < ARRAY_LEN(caches); i++) {
        enum { SIZE = 1 << 20 };
        const char *path = image_make("raw", "hello", 5, SIZE);
        g_autofree u8 *model = g_malloc0(SIZE);
        struct image_options o = { .cache = caches[i], .discard = true };
        g_autoptr(GError) error = NULL;
        struct image *img = image_open(path, &o, &error);

        if (!img && caches[i] == IMAGE_NONE) { /* this file system has no O_DIRECT */
            printf("# %s\n", error->message);
            continue;
        }
        memcpy(model, "hello", 5);
        EXPECT_EQ(image_size(img), SIZE);
        EXPECT_STR(image_path(img), path);
        random_io(img, model, SIZE, 200);
        EXPECT_EQ(flush(img), 0);
        EXPECT_EQ(SYNC(image_discard, img, 0, 65536), 0);
        image_close(img);

        g_autofree char *bytes = NULL;
        gsize n;
        EXPECT(g_file_get_contents(path, &bytes, &n, NULL));
        EXPECT_EQ(n, SIZE);
        EXPECT(!memcmp(bytes + 65536, model + 65536, SIZE - 65536));
    }
}

TEST(image_refuses_what_lies_outside)
{
    const char *path = image_make("small", "x", 1, 1000); /* counts as 1024 */
    struct image *img = open_with(path, (struct image_options){ .format = "raw" });
    u8 buf[2048] = { 1 };

    EXPECT_EQ(image_size(img), 1024);
    memset(buf, 7, sizeof buf);
    EXPECT_EQ(rd(img, 0, buf, 1024), 0);
    EXPECT_EQ(buf[0], 'x');
    EXPECT_EQ(buf[1023], 0);
    EXPECT_EQ(rd(img, 1, buf, 1024), -EINVAL);
    EXPECT_EQ(rd(img, UINT64_MAX, buf, 2), -EINVAL);
    EXPECT_EQ(wr(img, 1024, buf, 1), -EINVAL);
    EXPECT_EQ(wr(img, 1024, buf, 0), 0);
    EXPECT_EQ(SYNC(image_write_zeroes, img, 512, 1024, true), -EINVAL);
    EXPECT_EQ(SYNC(image_discard, img, 0, UINT64_MAX), -EINVAL);
    struct iovec wrap[2] = { { buf, SIZE_MAX }, { buf, 2 } };
    EXPECT_EQ(SYNC(image_read, img, 0, wrap, 2), -EINVAL);
    EXPECT_EQ(wr(img, 1023, buf + 1, 1), 0);
    EXPECT_EQ(rd(img, 1023, buf, 1), 0);
    EXPECT_EQ(buf[0], 0);
    image_close(img);

    img = open_with(path, (struct image_options){ .read_only = true });
    EXPECT(image_read_only(img));
    EXPECT_EQ(wr(img, 0, buf, 1), -EROFS);
    EXPECT_EQ(SYNC(image_write_zeroes, img, 0, 1, true), -EROFS);
    EXPECT_EQ(rd(img, 0, buf, 1), 0);
    EXPECT_EQ(flush(img), 0);
    image_close(img);
    image_close(NULL);
}

TEST(image_snapshot_forgets)
{
    enum { SIZE = 300 * 1000 / 512 * 512 };
    g_autofree u8 *before = g_malloc(SIZE);

    for (u32 i = 0; i < SIZE; i++)
        before[i] = (u8)(i * 7 + i / 256);
    const char *path = image_make("base", before, SIZE, SIZE);
    g_autofree u8 *model = g_memdup2(before, SIZE);
    struct image *img = open_with(path, (struct image_options){ .snapshot = true });

    EXPECT(!image_read_only(img));
    random_io(img, model, SIZE, 400);
    EXPECT_EQ(flush(img), 0);
    struct image *other = open_with(path, (struct image_options){ .snapshot = true });
    u8 c;
    EXPECT_EQ(rd(other, 5, &c, 1), 0);
    EXPECT_EQ(c, before[5]);
    image_close(other);
    image_close(img);

    g_autofree char *bytes = NULL;
    gsize n;
    EXPECT(g_file_get_contents(path, &bytes, &n, NULL));
    EXPECT(n == SIZE && !memcmp(bytes, before, SIZE));
}

static const char *refusal(const char *path, struct image_options o)
{
    static char buf[512];
    g_autoptr(GError) error = NULL;
    struct image *img = image_open(path, &o, &error);

    EXPECT(!img);
    g_strlcpy(buf, img ? "opened" : error->message, sizeof buf);
    image_close(img);
    return buf;
}

TEST(image_is_locked)
{
    const char *path = image_make("locked", "", 0, 4096);
    struct image_options rw = { 0 }, ro = { .read_only = true };
    struct image *img = open_with(path, rw);
    g_autofree char *start = g_strdup_printf("image '%s': the ", path);

    EXPECT(g_str_has_prefix(refusal(path, rw), start));
    EXPECT(strstr(refusal(path, rw), "\"write\" lock is not to be had: this process itself"));
    EXPECT(strstr(refusal(path, ro), "shared \"write\" lock is not to be had"));
    image_close(img);
    img = open_with(path, ro);
    struct image *second = open_with(path, ro);
    EXPECT(strstr(refusal(path, rw), "\"write\" lock is not to be had"));
    image_close(second);
    image_close(img);
    image_close(open_with(path, rw));
}

static const char *probed(const char *head, size_t n, const u8 *tail, const char *name)
{
    u8 buf[PROBE_BYTES] = { 0 };

    memcpy(buf, head, n);
    return probe_format(buf, sizeof buf, tail, tail ? 512 : 0, name)->name;
}

TEST(image_refusals_say_why)
{
    struct image_options any = { 0 }, odd = { .format = "zip" };
    const char *path = image_make("q.img", "abc", 3, 65536);

    EXPECT(strstr(refusal(path, odd), "Unknown driver 'zip'"));
    EXPECT(strstr(refusal(dir, any), dir));
    EXPECT(strstr(refusal("/nonexistent/x", any), "'/nonexistent/x': No such file"));
    EXPECT(strstr(refusal("/dev/null", any), "neither a file nor a block device"));
    EXPECT(strstr(refusal("gopher:x", any), "Unknown protocol 'gopher'"));
    EXPECT(strstr(refusal("json:{", any), "Could not parse the JSON options"));
    EXPECT(strstr(refusal("json:{\"driver\":\"raw\"}", any), "file.filename= or file="));
    path = image_make("empty", "", 0, 0);
    struct image *img = open_with(path, any);
    EXPECT_EQ(image_size(img), 0);
    image_close(img);
    EXPECT_STR(probed("abc", 3, NULL, "x"), "raw");
}

TEST(image_opens_by_options)
{
    g_autofree u8 *bytes = g_malloc0(8192);
    struct image_options ro = { .read_only = true };
    g_autoptr(GError) error = NULL;
    u8 c;

    bytes[4096] = 9;
    const char *path = image_make("opts", bytes, 8192, 8192);
    g_autofree char *json =
        g_strdup_printf("json:{\"driver\": \"raw\", \"offset\": 4096, \"size\": \"1k\", "
                        "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}",
                        path);
    struct image *img = open_with(json, ro);
    EXPECT_EQ(image_size(img), 1024);
    EXPECT_EQ(rd(img, 0, &c, 1), 0);
    EXPECT_EQ(c, 9);
    image_close(img);

    g_autofree char *text = g_strdup_printf("driver=raw,file.filename=%s,offset=4k", path);
    img = image_open_dict(dict_from_text(text, NULL, NULL), &ro, &error);
    EXPECT(img);
    EXPECT_EQ(image_size(img), 4096);
    image_close(img);
    g_autofree char *wrong = g_strdup_printf("driver=raw,file.filename=%s,ofset=4k", path);
    EXPECT(!image_open_dict(dict_from_text(wrong, NULL, NULL), &ro, &error));
    EXPECT_STR(error->message, "raw: Invalid parameter 'ofset'");
    g_clear_error(&error);
    g_autofree char *deep = g_strdup_printf("json:{\"driver\":\"raw\",\"file.filename\":\"%s\","
                                            "\"offset\":\"9k\"}",
                                            path);
    EXPECT(strstr(refusal(deep, ro), "offset and size lie outside"));
}

TEST(image_status_and_creation)
{
    g_autofree char *path = g_build_filename(dir, "made", NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *said = NULL;
    struct image_extent e;
    u8 buf[4096];

    memset(buf, 5, sizeof buf);
    EXPECT(image_create(path, "raw", 1 << 20, dict_new(), false, &said, &error));
    g_autofree char *expected = g_strdup_printf("Formatting '%s', fmt=raw size=1048576", path);
    EXPECT_STR(said, expected);
    struct image *img = open_with(path, (struct image_options){ 0 });
    EXPECT_EQ(image_write_now(img, 65536, buf, sizeof buf), 0);
    EXPECT_EQ(image_status_now(img, 0, 1 << 20, 0, &e), 0);
    EXPECT_EQ(e.flags & (IMAGE_ZERO | IMAGE_DATA), IMAGE_ZERO);
    EXPECT_EQ(e.len, 65536);
    EXPECT_EQ(image_status_now(img, 65536, 1 << 19, 0, &e), 0);
    EXPECT_EQ(e.flags & (IMAGE_ZERO | IMAGE_DATA), IMAGE_DATA);
    EXPECT_EQ(e.len, 4096);
    EXPECT_EQ(e.host, 65536);
    EXPECT(image_resize(img, 2 << 20, NULL, &error));
    EXPECT_EQ(image_size(img), 2 << 20);
    EXPECT_EQ(image_finish(img), 0);
    EXPECT(!image_create(path, "raw", UINT64_MAX, dict_new(), false, NULL, &error));
    EXPECT_STR(error->message, "Image creation needs a size parameter");
    g_clear_error(&error);
    EXPECT(!image_create(path, "raw", 512, dict_from_text("cluster_size=1", NULL, NULL), false,
                         NULL, &error));
    EXPECT_STR(error->message, "Invalid parameter 'cluster_size'");
    unlink(path);
}

static _Atomic u32 completed;
static void count(void *opaque UNUSED, int ret)
{
    completed += ret == 0;
}
TEST(image_many_at_once)
{
    const char *path = image_make("many", "", 0, 1 << 20);
    struct image *img = open_with(path, (struct image_options){ .snapshot = true });
    static u8 buf[256][512];

    for (u32 i = 0; i < 256; i++) { /* eight writers to each grain */
        struct iovec v = { buf[i], 512 };
        memset(buf[i], (int)i, 512);
        image_write(img, i * 512, &v, 1, i % 16 == 0, count, NULL);
    }
    image_drain(img);
    EXPECT_EQ(completed, 256);
    for (u32 i = 0; i < 256; i++) {
        u8 got[512];
        EXPECT_EQ(rd(img, i * 512, got, 512), 0);
        EXPECT(!memcmp(got, buf[i], 512));
    }
    struct iovec v = { buf[0], 512 };
    image_read(img, 0, &v, 1, count, NULL);
    image_close(img); /* waits */
    EXPECT_EQ(completed, 257);
}

/* With completions fetched by us, as an I/O thread does. */
static void reap_until(struct image *img, int n)
{
    while (completed < n)
        if (!image_reap(img))
            image_reap_wait(img, 1);
}

TEST(image_by_the_kernel)
{
    static u8 buf[256][512], got[256][512];
    const char *path = image_make("ring", "", 0, 256 * 512 - 100); /* an odd end */
    struct image_options o = { .format = "raw", .aio = IMAGE_AIO_THREADS };
    struct image_stats stats;

    for (int pass = 0; pass < 2; pass++) {
        struct image *img = open_with(path, o);
        bool ours = image_reap_by(img, -1);

        if (o.aio == IMAGE_AIO_THREADS)
            EXPECT(!ours);
        else if (!ours)
            printf("# no io_uring here: by threads\n");
        completed = 0;
        image_batch(img, true);
        for (u32 i = 0; i < 256; i++) {
            struct iovec v[2] = { { buf[i], 100 }, { buf[i] + 100, 412 } };
            memset(buf[i], (int)(i + 7 + (u32)pass), 512);
            image_write(img, i * 512, v, 2, i % 16 == 0, count, NULL);
        }
        image_batch(img, false);
        reap_until(img, 256);
        image_flush(img, count, NULL);
        reap_until(img, 257);
        for (u32 i = 0; i < 256; i++) {
            struct iovec v = { got[i], 512 };
            image_read(img, i * 512, &v, 1, count, NULL);
        }
        image_drain(img); /* fetches them, too */
        EXPECT_EQ(completed, 513);
        EXPECT(!memcmp(got, buf, sizeof got));
        image_get_stats(img, &stats);
        EXPECT_EQ(stats.done[IMAGE_OP_WRITE], 256);
        EXPECT_EQ(stats.bytes[IMAGE_OP_READ], 256 * 512);
        EXPECT_EQ(stats.highest, 256 * 512);
        struct iovec v = { got[0], 512 };
        image_read(img, 256 * 512 - 511, &v, 1, NULL, NULL); /* beyond the end */
        image_read(img, 0, &v, 1, count, NULL);
        image_close(img);
        EXPECT_EQ(completed, 514);
        o.aio = IMAGE_AIO_IO_URING;
    }
}

/* What lies on disk while the writer has not flushed. */
static u8 byte_on_disk(const char *path, u64 at)
{
    struct image *img =
        open_with(path, (struct image_options){ .read_only = true, .force_share = true });
    u8 b = 0xff;

    EXPECT_EQ(image_read_now(img, at, &b, 1), 0);
    image_close(img);
    return b;
}

TEST(cache_modes_of_a_format)
{
    static const struct {
        enum image_cache cache;
        bool at_once; /* the tables are on disk without a flush */
    } cases[] = {
        { IMAGE_WRITEBACK, false },   { IMAGE_UNSAFE, false },    { IMAGE_NONE, false },
        { IMAGE_WRITETHROUGH, true }, { IMAGE_DIRECTSYNC, true },
    };
    u8 data[512];

    memset(data, 0x77, sizeof data);
    for (u32 i = 0; i < ARRAY_LEN(cases); i++) {
        const char *path = image_make("modes.qcow2", "", 0, 0);
        struct image_options o = { .format = "qcow2", .cache = cases[i].cache };
        EXPECT(image_create(path, "qcow2", 16 << 20, dict_new(), false, NULL, NULL));
        struct image *img = image_open(path, &o, NULL);
        bool direct = o.cache == IMAGE_NONE || o.cache == IMAGE_DIRECTSYNC;

        EXPECT(img || direct); /* not all file systems have direct I/O */
        if (!img)
            continue;
        EXPECT_EQ(image_writethrough(img), cases[i].at_once);
        EXPECT_EQ(wr(img, 1 << 20, data, sizeof data), 0);
        EXPECT_EQ(byte_on_disk(path, 1 << 20), cases[i].at_once ? 0x77 : 0);
        EXPECT_EQ(image_write_now(img, 5 << 20, data, sizeof data), 0);
        EXPECT_EQ(byte_on_disk(path, 5 << 20), cases[i].at_once ? 0x77 : 0);
        if (cases[i].at_once) {
            EXPECT_EQ(image_zero_now(img, 5 << 20, 65536, true), 0);
            EXPECT_EQ(byte_on_disk(path, 5 << 20), 0);
            EXPECT_EQ(SYNC(image_write_zeroes, img, 1 << 20, 65536, false), 0);
            EXPECT_EQ(byte_on_disk(path, 1 << 20), 0);
        }
        EXPECT_EQ(flush(img), 0);
        EXPECT_EQ(byte_on_disk(path, 1 << 20), cases[i].at_once ? 0 : 0x77);
        image_close(img);
    }
}

static u64 blocks_of(const char *path)
{
    struct stat st = { 0 };

    EXPECT_EQ(stat(path, &st), 0);
    return (u64)st.st_blocks;
}

TEST(zeroes_are_detected)
{
    static const enum image_detect_zeroes how[] = { IMAGE_DETECT_OFF, IMAGE_DETECT_ZERO,
                                                    IMAGE_DETECT_UNMAP };
    g_autofree u8 *data = g_malloc(1 << 20), *zeroes = g_malloc0(1 << 20);

    memset(data, 1, 1 << 20);
    for (u32 i = 0; i < ARRAY_LEN(how); i++) {
        const char *path = image_make("zeroes", data, 1 << 20, 1 << 20);
        struct image_options o = { .format = "raw", .discard = true, .detect_zeroes = how[i] };
        struct image *img = open_with(path, o);
        u8 back = 0xff;

        EXPECT_EQ(image_detect_zeroes(img), how[i]);
        zeroes[1 << 19] = 1; /* not all of it: nothing happens */
        EXPECT_EQ(wr(img, 0, zeroes, 1 << 20), 0);
        EXPECT(blocks_of(path) >= 2048);
        EXPECT_EQ(image_read_now(img, 1 << 19, &back, 1), 0);
        EXPECT_EQ(back, 1);
        zeroes[1 << 19] = 0;
        EXPECT_EQ(wr(img, 0, zeroes, 1 << 20), 0);
        EXPECT_EQ(flush(img), 0);
        EXPECT_EQ(blocks_of(path) < 2048, how[i] == IMAGE_DETECT_UNMAP);
        EXPECT_EQ(image_read_now(img, 1 << 19, &back, 1), 0);
        EXPECT_EQ(back, 0);
        image_close(img);
    }
    g_autoptr(GError) error = NULL;
    g_autofree char *text = g_strdup_printf("driver=raw,detect-zeroes=unmap,file.filename=%s",
                                            image_make("zeroes", "x", 1, 512));
    EXPECT(!image_open_dict(dict_from_text(text, NULL, NULL), NULL, &error));
    EXPECT(error && strstr(error->message, "discard=unmap"));
}

/* What a filter does not hold lies somewhere below, and is no zeroes. */
TEST(filters_show_the_chain_below)
{
    u8 data[4096], buf[4096];
    g_autoptr(GError) error = NULL;
    struct image_extent e;

    memset(data, 7, sizeof data);
    g_autofree char *base = g_strdup(image_make("chain-base", "", 0, 0));
    g_autofree char *top = g_strdup(image_make("chain-top", "", 0, 0));
    EXPECT(image_create(base, "qcow2", 1 << 20, dict_new(), false, NULL, &error));
    struct image *img = open_with(base, (struct image_options){ .format = "qcow2" });
    EXPECT_EQ(image_write_now(img, 8192, data, sizeof data), 0);
    image_close(img);
    struct dict *o = dict_new();
    dict_set(o, "backing_file", base);
    dict_set(o, "backing_fmt", "qcow2");
    EXPECT(image_create(top, "qcow2", 1 << 20, o, false, NULL, &error));
    img = open_with(top, (struct image_options){ .format = "qcow2", .snapshot = true });
    EXPECT_EQ(image_status_now(img, 8192, 4096, 0, &e), 0);
    EXPECT_EQ(e.flags & (IMAGE_ZERO | IMAGE_ALLOCATED), IMAGE_ALLOCATED);
    EXPECT_EQ(e.depth, 1);
    EXPECT_EQ(image_write_now(img, 0, data, sizeof data), 0);
    EXPECT_EQ(image_status_now(img, 0, 4096, 0, &e), 0);
    EXPECT_EQ(e.flags & (IMAGE_ZERO | IMAGE_ALLOCATED), IMAGE_ALLOCATED);
    EXPECT_EQ(e.depth, 0);
    EXPECT_EQ(image_read_now(img, 8192, buf, sizeof buf), 0);
    EXPECT(!memcmp(buf, data, sizeof data));
    EXPECT_EQ(image_status_now(img, 512 * 1024, 4096, 0, &e), 0);
    EXPECT(e.flags & IMAGE_ZERO);
    image_close(img);
}

TEST(zz_clean_up)
{
    static const char *const names[] = { "raw",         "small",  "base",  "locked",
                                         "q.img",       "opts",   "empty", "many",
                                         "modes.qcow2", "zeroes", "ring",  "chain-base",
                                         "chain-top" };

    for (u32 i = 0; i < ARRAY_LEN(names); i++) {
        g_autofree char *p = g_build_filename(dir, names[i], NULL);
        unlink(p);
    }
    EXPECT_EQ(rmdir(dir), 0);
    g_free(dir);
}

TEST_MAIN()
