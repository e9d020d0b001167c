// SPDX-License-Identifier: GPL-2.0-or-later
/* throttle_test.c - rates and bursts, groups, and what happens to requests that fail. */
#include "image/throttle.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/test.h"

static struct image_throttle limits(u32 which, u64 avg, u64 max, u64 seconds)
{
    struct image_throttle t;

    image_throttle_init(&t);
    t.limit[which] = (struct image_limit){ avg, max, seconds };
    return t;
}

/* How many requests pass in `ns`, with as many as may be always waiting. */
static u64 run(struct throttle_state *s, bool write, u64 bytes, u64 *now, u64 ns)
{
    u64 end = *now + ns, n = 0;

    for (;;) {
        u64 wait = throttle_wait_ns(s, write, *now);

        if (wait && *now + wait > end) {
            throttle_wait_ns(s, write, end);
            *now = end;
            return n;
        }
        *now += wait;
        if (!wait) {
            throttle_account(s, write, bytes);
            n++;
        }
    }
}

static bool within(u64 got, u64 want, double percent)
{
    double off = 100.0 * ((double)got - (double)want) / (double)want;

    if (off > percent || off < -percent)
        printf("# %llu, expected %llu\n", (unsigned long long)got, (unsigned long long)want);
    return off <= percent && off >= -percent;
}

TEST(rates)
{
    static const struct {
        u32 which;
        u64 avg, bytes, want; /* want: requests in 20 s */
        bool write;
    } cases[] = {
        { IMAGE_IOPS, 100, 4096, 2000, false },
        { IMAGE_IOPS_WRITE, 250, 512, 5000, true },
        { IMAGE_BPS, 10 * MiB, 4096, 51200, false },
        { IMAGE_BPS, 10 * MiB, MiB, 200, true },
        { IMAGE_BPS_READ, 1 * MiB, 3 * MiB, 6, false },
        { IMAGE_IOPS, 1, 4096, 20, true },
    };

    for (u32 i = 0; i < ARRAY_LEN(cases); i++) {
        struct throttle_state s = { limits(cases[i].which, cases[i].avg, 0, 1) };
        u64 now = 1000, n = run(&s, cases[i].write, cases[i].bytes, &now, 20 * NS_PER_SEC);

        EXPECT(within(n, cases[i].want, cases[i].want < 100 ? 20 : 2));
        /* the other direction is free, unless the limit is for both */
        if (cases[i].which % 3)
            EXPECT_EQ(throttle_wait_ns(&s, !cases[i].write, now), 0);
    }
}

TEST(bursts)
{
    /* 100 a second, 1000 in bursts, of which there may be a second's worth at once */
    struct throttle_state s = { limits(IMAGE_IOPS, 100, 1000, 1) };
    u64 now = 1000;

    EXPECT(within(run(&s, false, 512, &now, NS_PER_MS), 1001, 1));
    EXPECT(within(run(&s, false, 512, &now, 10 * NS_PER_SEC), 1000, 2));
    now += 10 * NS_PER_SEC; /* the bucket is empty again */
    EXPECT(within(run(&s, false, 512, &now, NS_PER_MS), 1001, 1));

    /* 100 a second, 500 for 3 seconds: 1500 at that speed, then 100 */
    s = (struct throttle_state){ limits(IMAGE_IOPS, 100, 500, 3) };
    now = 1000;
    EXPECT(within(run(&s, true, 512, &now, NS_PER_SEC), 550, 2)); /* a tenth in advance */
    EXPECT(within(run(&s, true, 512, &now, NS_PER_SEC), 500, 2));
    EXPECT(within(run(&s, true, 512, &now, 2 * NS_PER_SEC), 850, 3)); /* 1900 in 4 s */
    EXPECT(within(run(&s, true, 512, &now, 10 * NS_PER_SEC), 1000, 3));

    /* big requests count as several */
    s = (struct throttle_state){ limits(IMAGE_IOPS, 100, 0, 1) };
    s.limits.op_size = 8192;
    now = 1000;
    EXPECT(within(run(&s, true, 65536, &now, 20 * NS_PER_SEC), 250, 3));
    EXPECT(within(run(&s, true, 4096, &now, 20 * NS_PER_SEC), 2000, 3));
}

static bool ok(struct image_throttle t)
{
    g_autoptr(GError) error = NULL;
    bool r = image_throttle_ok(&t, &error);

    EXPECT(r == !error);
    return r;
}

TEST(limits_that_go_together)
{
    struct image_throttle t = limits(IMAGE_BPS, 100, 200, 5);

    EXPECT(ok(t));
    EXPECT(!ok(limits(IMAGE_BPS, 100, 50, 1)));
    EXPECT(!ok(limits(IMAGE_BPS, 0, 50, 1)));
    EXPECT(!ok(limits(IMAGE_BPS, 100, 0, 2)));
    EXPECT(!ok(limits(IMAGE_BPS, 100, 200, 0)));
    EXPECT(!ok(limits(IMAGE_BPS, 1000000000000001, 0, 1)));
    EXPECT(!ok(limits(IMAGE_BPS, 100, 1000000, 1000000000000)));
    t.limit[IMAGE_BPS_READ].avg = 5;
    EXPECT(!ok(t));
    t = limits(IMAGE_BPS_READ, 100, 0, 1);
    t.limit[IMAGE_BPS_WRITE].avg = 1;
    EXPECT(ok(t));
    t.op_size = 4096;
    EXPECT(!ok(t));
    t.limit[IMAGE_IOPS_READ].avg = 1;
    EXPECT(ok(t));
}

/* --- images ---------------------------------------------------------------------------------
 */

enum { SIZE = 1024 * 1024 };
static char path[2][64];

static void files_new(void)
{
    for (u32 i = 0; i < 2; i++) {
        g_strlcpy(path[i], "/tmp/posada-throttle-XXXXXX", sizeof path[i]);
        int fd = g_mkstemp(path[i]);
        EXPECT_EQ(ftruncate(fd, SIZE), 0);
        close(fd);
    }
}

static void files_free(void)
{
    for (u32 i = 0; i < 2; i++)
        unlink(path[i]);
}

static struct image *open_file(u32 i, const char *options)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text =
        g_strdup_printf(options ? "driver=blkdebug,image.driver=raw,image.file.filename=%s,%s"
                                : "driver=raw,file.filename=%s",
                        path[i], options);
    struct dict *d = dict_from_text(text, NULL, &error);
    struct image *img = image_open_dict(d, NULL, &error);

    EXPECT(img != NULL);
    if (error)
        printf("# %s\n", error->message);
    return img;
}

struct counter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    u32 done;
    int ret; /* the last one's, if it was an error */
};
static struct counter counter = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };
static u8 bytes[4096];

static void did(void *opaque, int ret)
{
    struct counter *c = opaque;

    pthread_mutex_lock(&c->lock);
    c->done++;
    if (ret)
        c->ret = ret;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void write_one(struct image *img, u64 at)
{
    struct iovec v = { bytes, sizeof bytes };

    image_write(img, at, &v, 1, false, did, &counter);
}

static void wait_for(u32 n)
{
    pthread_mutex_lock(&counter.lock);
    while (counter.done < n)
        pthread_cond_wait(&counter.cond, &counter.lock);
    pthread_mutex_unlock(&counter.lock);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

TEST(group_of_two_images)
{
    struct image_throttle t = limits(IMAGE_IOPS, 200, 0, 1), got;
    struct image_stats stats[2];
    struct image *img[2];

    files_new();
    counter.done = 0;
    counter.ret = 0;
    for (u32 i = 0; i < 2; i++) {
        img[i] = open_file(i, NULL);
        image_set_throttle(img[i], "both", &t);
    }
    double began = seconds();
    for (u32 i = 0; i < 240; i++)
        write_one(img[i & 1], i % 16 * 4096);
    wait_for(120); /* 20 at once, the others at 200 a second */
    double took = seconds() - began;
    EXPECT(took > 0.45);
    for (u32 i = 0; i < 2; i++) {
        image_get_stats(img[i], &stats[i]);
        EXPECT(stats[i].done[IMAGE_OP_WRITE] > 50); /* in turn */
    }
    g_autofree char *group = image_get_throttle(img[1], &got);
    EXPECT_STR(group, "both");
    EXPECT_EQ(got.limit[IMAGE_IOPS].avg, 200);

    /* changed under way */
    t = limits(IMAGE_IOPS, 1000000, 0, 1);
    image_set_throttle(img[0], "both", &t);
    wait_for(240);
    EXPECT_EQ(counter.ret, 0);

    /* who is drained, or leaves, does not wait */
    t = limits(IMAGE_IOPS, 1, 0, 1);
    image_set_throttle(img[0], "both", &t);
    began = seconds();
    for (u32 i = 0; i < 20; i++)
        write_one(img[0], 0);
    image_drain(img[0]);
    for (u32 i = 0; i < 20; i++)
        write_one(img[1], 0);
    image_throttle_init(&t);
    image_set_throttle(img[1], "both", &t);
    EXPECT(!image_get_throttle(img[1], &got));
    wait_for(280);
    EXPECT(seconds() - began < 2);
    image_get_stats(img[1], &stats[1]);
    EXPECT_EQ(stats[1].done[IMAGE_OP_WRITE], 140);
    EXPECT_EQ(stats[1].bytes[IMAGE_OP_WRITE], 140 * 4096);
    EXPECT_EQ(stats[1].highest, 16 * 4096);
    image_close(img[0]);
    image_close(img[1]);
    EXPECT(!image_throttle_group_find("both", NULL));
    files_free();
}

TEST(throttle_node)
{
    struct image_throttle t = limits(IMAGE_IOPS_WRITE, 100, 0, 1);
    g_autoptr(GError) error = NULL;
    u8 read[2][512];
    struct iovec v[2] = { { read[0], 512 }, { read[1], 512 } };

    files_new();
    EXPECT(image_throttle_group("g", &t, NULL));
    g_autofree char *text = g_strdup_printf(
        "driver=throttle,throttle-group=g,file.driver=raw,file.file.filename=%s", path[0]);
    struct image *img = image_open_dict(dict_from_text(text, NULL, NULL), NULL, &error);
    EXPECT(img != NULL);
    EXPECT(!image_throttle_group_free("g"));
    counter.done = 0;
    double began = seconds();
    for (u32 i = 0; i < 60; i++)
        write_one(img, 0);
    image_read(img, 0, v, 1, did, &counter); /* passes by all that wait */
    image_read(img, 0, v + 1, 1, did, &counter);
    wait_for(12);
    EXPECT(seconds() - began < 0.4);
    wait_for(62);
    EXPECT(seconds() - began > 0.4);

    /* a drain does not wait for it */
    t = limits(IMAGE_IOPS_WRITE, 1, 0, 1);
    EXPECT(image_throttle_group("g", &t, NULL));
    began = seconds();
    for (u32 i = 0; i < 40; i++)
        write_one(img, 0);
    image_quiesce(img);
    wait_for(102);
    EXPECT(seconds() - began < 2);
    image_close(img);
    EXPECT(image_throttle_group_free("g"));
    EXPECT(!image_open_dict(dict_from_text(text, NULL, NULL), NULL, &error));
    files_free();
}

/* --- errors ---------------------------------------------------------------------------------
 */

struct told {
    _Atomic u32 n;
    _Atomic int err, did;
    _Atomic bool read;
};
static void on_failed(void *opaque, bool read, int err, enum image_on_error act)
{
    struct told *t = opaque;

    t->read = read;
    t->err = err;
    t->did = (int)act;
    t->n++;
}

/* It is told after the request is held. */
static void told_times(struct told *t, u32 n)
{
    while (t->n < n)
        g_usleep(100);
    EXPECT_EQ(t->n, n);
}

static struct image *failing(const char *how, struct told *told, enum image_on_error write)
{
    struct image *img = open_file(0, how);

    *told = (struct told){ 0 };
    counter.done = 0;
    counter.ret = 0;
    image_watch_errors(img, on_failed, told);
    image_on_errors(img, IMAGE_REPORT, write);
    return img;
}

TEST(errors_reported_ignored_held)
{
    static const char *const nospace = "inject-error.0.iotype=write,inject-error.0.errno=28,"
                                       "inject-error.0.sector=8,inject-error.0.once=on";
    struct image_stats stats;
    struct told told;
    u8 back[4096];

    files_new();
    memset(bytes, 0x5a, sizeof bytes);
    struct image *img = failing(nospace, &told, IMAGE_REPORT);
    write_one(img, 4096);
    wait_for(1);
    EXPECT_EQ(counter.ret, -ENOSPC);
    EXPECT_EQ(told.n, 1);
    EXPECT_EQ(told.err, ENOSPC);
    EXPECT_EQ(told.did, IMAGE_REPORT);
    EXPECT(!told.read);
    image_get_stats(img, &stats);
    EXPECT_EQ(stats.failed[IMAGE_OP_WRITE], 1);
    EXPECT_EQ(stats.done[IMAGE_OP_WRITE], 0);
    image_close(img);

    img = failing(nospace, &told, IMAGE_IGNORE);
    write_one(img, 4096);
    wait_for(1);
    EXPECT_EQ(counter.ret, 0);
    EXPECT_EQ(told.did, IMAGE_IGNORE);
    EXPECT_EQ(image_read_now(img, 4096, back, sizeof back), 0);
    EXPECT_EQ(back[0], 0);
    image_close(img);

    /* held, then done with all its bytes */
    img = failing(nospace, &told, IMAGE_ENOSPC);
    write_one(img, 0);
    write_one(img, 4096);
    image_quiesce(img);
    EXPECT_EQ(counter.done, 1);
    told_times(&told, 1);
    EXPECT_EQ(told.did, IMAGE_STOP);
    EXPECT_EQ(image_held(img), -ENOSPC);
    image_retry(img);
    wait_for(2);
    EXPECT_EQ(counter.ret, 0);
    EXPECT_EQ(image_held(img), 0);
    EXPECT_EQ(image_read_now(img, 4096, back, sizeof back), 0);
    EXPECT_EQ(memcmp(back, bytes, sizeof back), 0);
    image_close(img);

    /* another error than a lack of space */
    img = failing("inject-error.0.iotype=write", &told, IMAGE_ENOSPC);
    write_one(img, 0);
    wait_for(1);
    EXPECT_EQ(counter.ret, -EIO);
    EXPECT_EQ(told.did, IMAGE_REPORT);
    image_close(img);
    files_free();
}

TEST(held_requests_are_given_up)
{
    struct told told;

    files_new();
    struct image *img = failing("inject-error.0.errno=5", &told, IMAGE_STOP);
    for (u32 i = 0; i < 5; i++)
        write_one(img, i * 4096);
    image_quiesce(img);
    EXPECT_EQ(counter.done, 0);
    told_times(&told, 5);
    image_retry(img); /* in vain */
    image_quiesce(img);
    EXPECT_EQ(counter.done, 0);
    told_times(&told, 10);
    image_drain(img);
    EXPECT_EQ(counter.done, 5);
    EXPECT_EQ(counter.ret, -ECANCELED);
    write_one(img, 0);
    image_close(img); /* gives the last one up */
    EXPECT_EQ(counter.done, 6);
    files_free();
}

TEST_MAIN()
