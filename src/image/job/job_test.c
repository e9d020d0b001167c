// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * job_test.c - jobs, snapshots, bitmaps and transactions while several threads read, write and
 * discard, against a model in memory; then the states and the refusals.
 *
 * POSADA_JOB_ROUNDS says how many random operations the long test makes.  qemu-img, if it is
 * there, checks and compares what they left.
 */
#include "image/job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/test.h"
#include "image/graph_impl.h"

enum { SIZE = 3 * 1024 * 1024, WRITERS = 3, PIECE = 5 * 1024 + 512 };

/* --- a VM's worth of it ----------------------------------------------------------------------
 */

struct bed {
    char *dir;
    GMainContext *main;
    struct graph *graph;
    struct image *disk; /* "d0" */
    u8 model[SIZE];
    GRand *rand;
    u32 files;
    GString *events;
    char *error; /* of the last job that completed */
    /* writers */
    pthread_t writer[WRITERS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    u32 hold, held;
    bool stop;
    _Atomic u64 bad, ops;
};

static struct image *lookup(void *opaque, const char *name)
{
    struct bed *b = opaque;

    return strcmp(name, "d0") == 0 ? b->disk : NULL;
}

static void on_event(void *opaque, const struct job_event *ev)
{
    static const char *const kinds[] = { NULL,        "READY", "COMPLETED",
                                         "CANCELLED", "ERROR", "PENDING" };
    struct bed *b = opaque;

    g_string_append_printf(b->events, "%s ",
                           ev->kind == JOB_EV_STATUS ? job_status_names[ev->status]
                                                     : kinds[ev->kind]);
    if (ev->kind == JOB_EV_COMPLETED) {
        g_free(b->error);
        b->error = g_strdup(ev->error);
    }
}

static char *new_file(struct bed *b)
{
    return g_strdup_printf("%s/f%u", b->dir, b->files++);
}

static struct bed *bed_new(const char *format, const char *options, u32 seed)
{
    struct bed *b = g_new0(struct bed, 1);
    g_autoptr(GError) error = NULL;

    b->dir = g_dir_make_tmp("posada-job-XXXXXX", NULL);
    b->main = g_main_context_new();
    b->graph = graph_new(b->main, lookup, on_event, b);
    b->rand = g_rand_new_with_seed(seed);
    b->events = g_string_new(NULL);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->changed, NULL);
    g_autofree char *path = new_file(b);
    struct dict *d = dict_from_text(options, NULL, NULL);
    if (!image_create(path, format, SIZE, d, false, NULL, &error))
        printf("# %s\n", error->message);
    struct image_options o = { .format = format,
                               .discard = true,
                               .graph = b->graph,
                               .node_name = "n0",
                               .cache = IMAGE_UNSAFE };
    b->disk = error ? NULL : image_open(path, &o, &error);
    if (!b->disk)
        printf("# %s\n", error->message);
    EXPECT(b->disk);
    return b;
}

static void bed_free(struct bed *b)
{
    graph_stop_jobs(b->graph);
    image_close(b->disk);
    graph_free(b->graph);
    g_main_context_unref(b->main);
    g_rand_free(b->rand);
    g_string_free(b->events, TRUE);
    g_free(b->error);
    g_autofree char *rm = g_strdup_printf("rm -rf '%s'", b->dir);
    EXPECT_EQ(system(rm), 0);
    g_free(b->dir);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->changed);
    g_free(b);
}

static struct node *top(struct bed *b)
{
    return graph_image_node(b->disk);
}

/* --- writers ---------------------------------------------------------------------------------
 */

struct writer {
    struct bed *b;
    u32 index;
};

/* Each has pieces of its own, which lie between those of the others: neighbours share clusters,
 * and nobody has to lock the model. */
static void one_request(struct bed *b, u32 index, GRand *rand)
{
    u64 pieces = SIZE / PIECE / WRITERS;
    u64 piece = (u64)g_rand_int_range(rand, 0, (s32)pieces) * WRITERS + index;
    u64 at = piece * PIECE, len = PIECE;
    u8 buf[PIECE];
    int r;

    if (g_rand_int_range(rand, 0, 2)) {
        u64 skip = (u64)g_rand_int_range(rand, 0, PIECE / 512) * 512;

        at += skip;
        len = (u64)g_rand_int_range(rand, 1, (s32)((PIECE - skip) / 512) + 1) * 512;
    }
    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
    case 1:
        r = image_read_now(b->disk, at, buf, len);
        if (r || memcmp(buf, b->model + at, len) != 0)
            b->bad++;
        break;
    case 2:
        r = image_zero_now(b->disk, at, len, index & 1);
        memset(b->model + at, 0, len);
        b->bad += r != 0;
        break;
    case 3:
        /* What a discarded sector holds is not said: look. */
        r = image_discard_now(b->disk, at, len);
        b->bad += r || image_read_now(b->disk, at, b->model + at, len);
        break;
    default:
        for (u64 i = 0; i < len; i += 4) {
            u32 v = g_rand_int(rand);

            memcpy(buf + i, &v, 4);
        }
        r = image_write_now(b->disk, at, buf, len);
        memcpy(b->model + at, buf, len);
        b->bad += r != 0;
    }
    b->ops++;
}

static void *writer(void *opaque)
{
    struct writer *w = opaque;
    struct bed *b = w->b;
    GRand *rand = g_rand_new_with_seed(100 + w->index);

    for (;;) {
        pthread_mutex_lock(&b->lock);
        while (b->hold && !b->stop) {
            b->held++;
            pthread_cond_broadcast(&b->changed);
            while (b->hold && !b->stop)
                pthread_cond_wait(&b->changed, &b->lock);
            b->held--;
            pthread_cond_broadcast(&b->changed);
        }
        bool stop = b->stop;
        pthread_mutex_unlock(&b->lock);
        if (stop)
            break;
        one_request(b, w->index, rand);
    }
    g_rand_free(rand);
    g_free(w);
    return NULL;
}

static void writers_start(struct bed *b)
{
    for (u32 i = 0; i < WRITERS; i++) {
        struct writer *w = g_new(struct writer, 1);

        *w = (struct writer){ b, i };
        pthread_create(&b->writer[i], NULL, writer, w);
    }
}

/* Until writers_go() nobody is in a request; the model is what the disk holds. */
static void writers_hold(struct bed *b)
{
    pthread_mutex_lock(&b->lock);
    b->hold = 1;
    while (b->held < WRITERS)
        pthread_cond_wait(&b->changed, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

static void writers_go(struct bed *b)
{
    pthread_mutex_lock(&b->lock);
    b->hold = 0;
    pthread_cond_broadcast(&b->changed);
    while (b->held)
        pthread_cond_wait(&b->changed, &b->lock);
    pthread_mutex_unlock(&b->lock);
}

static void writers_stop(struct bed *b)
{
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    for (u32 i = 0; i < WRITERS; i++)
        pthread_join(b->writer[i], NULL);
}

/* --- looking ---------------------------------------------------------------------------------
 */

static bool disk_is(struct bed *b, const u8 *want)
{
    g_autofree u8 *all = g_malloc(SIZE);

    EXPECT_EQ(image_read_now(b->disk, 0, all, SIZE), 0);
    for (u64 i = 0; i < SIZE; i += 512) {
        if (memcmp(all + i, want + i, 512) != 0) {
            printf("# differs at %" G_GUINT64_FORMAT "\n", i);
            return false;
        }
    }
    return true;
}

static bool file_is(const char *path, const char *format, const u8 *want)
{
    struct image_options o = { .read_only = true, .format = format, .force_share = true };
    g_autofree u8 *all = g_malloc(SIZE);
    g_autoptr(GError) error = NULL;
    struct image *img = image_open(path, &o, &error);

    if (!img) {
        printf("# %s\n", error->message);
        return false;
    }
    EXPECT_EQ(image_read_now(img, 0, all, SIZE), 0);
    image_close(img);
    for (u64 i = 0; i < SIZE; i += 512) {
        if (memcmp(all + i, want + i, 512) != 0) {
            printf("# %s differs at %" G_GUINT64_FORMAT "\n", path, i);
            return false;
        }
    }
    return true;
}

/* 0 when qemu-img check finds nothing, or is not there. */
static int qemu_check(const char *path)
{
    const char *argv[] = { "qemu-img", "check", "-q", "-U", "-f", "qcow2", path, NULL };
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL |
                          G_SPAWN_STDERR_TO_DEV_NULL,
                      NULL, NULL, NULL, NULL, &status, NULL))
        return 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void turn(struct bed *b)
{
    g_main_context_iteration(b->main, FALSE);
    g_usleep(200);
}

/* Until the job has got there, or has gone; true: it is there. */
static bool wait_status(struct bed *b, const char *id, u32 statuses)
{
    for (u32 i = 0; i < 100000; i++) {
        struct job *job = job_find(b->graph, id);
        struct job_info info;

        if (!job)
            return false;
        job_get_info(job, &info);
        if (statuses & BIT(info.status))
            return true;
        turn(b);
    }
    EXPECT(!"in time");
    return false;
}

static void wait_gone(struct bed *b, const char *id)
{
    wait_status(b, id, 0);
    while (g_main_context_iteration(b->main, FALSE))
        ;
}

static bool good(bool ok, GError **error)
{
    if (!ok)
        printf("# %s\n", (*error)->message);
    g_clear_error(error);
    return ok;
}
#define GOOD(call)                                                                             \
    ({                                                                                         \
        GError *error = NULL;                                                                  \
        bool good_ = good((call), &error);                                                     \
        EXPECT(good_);                                                                         \
        good_;                                                                                 \
    })
/* Refused, with exactly these words. */
#define BAD(call, text)                                                                        \
    do {                                                                                       \
        GError *error = NULL;                                                                  \
                                                                                               \
        EXPECT(!(call));                                                                       \
        EXPECT_STR(error ? error->message : "", text);                                         \
        g_clear_error(&error);                                                                 \
    } while (0)

/* --- everything at once ----------------------------------------------------------------------
 */

static u32 depth(struct bed *b)
{
    u32 n = 0;

    for (struct node *k = top(b); k; k = k->backing)
        n++;
    return n;
}

static bool snapshot(struct bed *b, GError **error)
{
    g_autofree char *path = new_file(b);
    struct snapshot_args s = { .node = "d0", .file = path };
    struct transaction *t = transaction_begin(b->graph);
    bool ok = transaction_snapshot(t, &s, error);

    transaction_end(t, ok);
    return ok;
}

/* A transaction whose last step fails: nothing of it may be there. */
static void failing_transaction(struct bed *b)
{
    g_autofree char *path = new_file(b), *copy = new_file(b);
    struct snapshot_args s = { .node = "d0", .file = path, .node_name = "never" };
    struct backup_args a = { .job = { .id = "never", .device = "d0" },
                             .target = { .file = copy },
                             .sync = SYNC_FULL };
    struct node *was = top(b);
    u32 nodes = graph_count(b->graph), bitmaps = graph_bitmap_count(was);
    struct transaction *t = transaction_begin(b->graph);

    GOOD(transaction_bitmap_add(t, "d0", &(struct bitmap_args){ .name = "never" }, &error));
    GOOD(transaction_snapshot(t, &s, &error));
    EXPECT(top(b) != was && was->read_only);
    GOOD(transaction_backup(t, &a, &error));
    BAD(transaction_bitmap_clear(t, "d0", "nobody", &error), "Dirty bitmap 'nobody' not found");
    transaction_end(t, false);
    EXPECT(top(b) == was && !was->read_only);
    EXPECT_EQ(graph_count(b->graph), nodes);
    EXPECT_EQ(graph_bitmap_count(was), bitmaps);
    EXPECT(!job_find(b->graph, "never"));
}

/* Plays with a job's verbs while it runs; they may come too late. */
static void disturb(struct bed *b, const char *id)
{
    for (u32 i = (u32)g_rand_int_range(b->rand, 0, 3); i--;) {
        struct job *job = job_find(b->graph, id);

        if (!job)
            return;
        switch (g_rand_int_range(b->rand, 0, 3)) {
        case 0:
            job_pause(job, NULL);
            turn(b);
            if ((job = job_find(b->graph, id)))
                job_resume(job, NULL);
            break;
        case 1:
            job_set_speed(job, g_rand_int_range(b->rand, 1, 20) * 1000000, NULL);
            break;
        default:
            turn(b);
        }
    }
    struct job *job = job_find(b->graph, id);
    if (job)
        job_set_speed(job, 0, NULL);
}

static void mirror(struct bed *b, bool commit)
{
    g_autofree char *path = new_file(b);
    struct mirror_args m = {
        .job = { .id = "j", .device = "d0" },
        .target = { .file = path, .format = g_rand_int_range(b->rand, 0, 4) ? "qcow2" : "raw" },
        .sync = SYNC_FULL,
        .granularity = g_rand_int_range(b->rand, 0, 2) ? 0 : 4096,
        .write_blocking = g_rand_int_range(b->rand, 0, 2),
        .keep_allocated = g_rand_int_range(b->rand, 0, 2),
    };
    bool qcow2 = strcmp(m.target.format, "qcow2") == 0;
    struct commit_args c = { .job = { .id = "j", .device = "d0" } };
    int how = g_rand_int_range(b->rand, 0, 8);

    if (qcow2 && !commit)
        m.sync = (enum job_sync[]){ SYNC_FULL, SYNC_TOP, SYNC_NONE }[how % 3];
    if (m.sync == SYNC_NONE && depth(b) > 3)
        m.sync = SYNC_FULL;
    if (!GOOD(commit ? job_commit(b->graph, &c, &error) : job_mirror(b->graph, &m, &error)))
        return;
    g_string_append_printf(b->events, "[%s%s sync %d gran %u wb %d keep %d how %d] ",
                           commit ? "commit " : "", m.target.format, m.sync, (u32)m.granularity,
                           m.write_blocking, m.keep_allocated, how);
    disturb(b, "j");
    if (how == 7) { /* before it is ready, perhaps */
        struct job *job = job_find(b->graph, "j");

        GOOD(job_cancel(job, true, &error));
        wait_gone(b, "j");
        return;
    }
    EXPECT(wait_status(b, "j", BIT(JOB_READY)));
    if (how == 6) { /* a copy as of now; with sync top and none it stands on what we stand on */
        writers_hold(b);
        GOOD(job_cancel(job_find(b->graph, "j"), false, &error));
        wait_gone(b, "j");
        if (!commit && m.sync == SYNC_FULL)
            EXPECT(file_is(path, m.target.format, b->model));
        writers_go(b);
        return;
    }
    GOOD(job_complete(job_find(b->graph, "j"), &error));
    wait_gone(b, "j");
    EXPECT(!b->error);
    if (!commit)
        EXPECT_STR(top(b)->filename, path);
}

/* What the disk holds at the moment of the transaction is what the copy holds in the end. */
static void backup(struct bed *b, bool compress)
{
    g_autofree char *path = new_file(b);
    struct backup_args a = { .job = { .id = "j", .device = "d0" },
                             .target = { .file = path, .format = "qcow2" },
                             .sync = depth(b) > 1 && g_rand_int_range(b->rand, 0, 2)
                                         ? SYNC_TOP
                                         : SYNC_FULL,
                             .compress = compress };
    g_autofree u8 *then = NULL;

    writers_hold(b);
    then = g_memdup2(b->model, SIZE);
    bool ok = GOOD(job_backup(b->graph, &a, &error));
    writers_go(b);
    if (!ok)
        return;
    disturb(b, "j");
    wait_gone(b, "j");
    EXPECT(!b->error);
    EXPECT(file_is(path, "qcow2", then));
    EXPECT_EQ(qemu_check(path), 0);
}

/* A full copy with a bitmap from that moment on, then increments into the same file. */
static void increments(struct bed *b)
{
    g_autofree char *path = new_file(b);
    struct backup_args a = { .job = { .id = "j", .device = "d0" },
                             .target = { .file = path, .format = "qcow2" },
                             .sync = SYNC_FULL };
    char node[64];

    g_strlcpy(node, graph_node_name(top(b)), sizeof node);
    for (u32 i = 0; i < 4; i++) {
        g_autofree u8 *then = NULL;

        writers_hold(b);
        then = g_memdup2(b->model, SIZE);
        struct transaction *t = transaction_begin(b->graph);
        bool ok = i || GOOD(transaction_bitmap_add(
                           t, node, &(struct bitmap_args){ .name = "inc", .granularity = 4096 },
                           &error));
        ok = ok && GOOD(transaction_backup(t, &a, &error));
        transaction_end(t, ok);
        writers_go(b);
        if (!ok)
            return;
        if (i == 2) { /* one that fails loses no marks */
            struct job *job = job_find(b->graph, "j");

            job_cancel(job, true, NULL);
            wait_gone(b, "j");
        } else {
            wait_gone(b, "j");
            EXPECT(!b->error);
            EXPECT(file_is(path, "qcow2", then));
        }
        a.sync = SYNC_INCREMENTAL;
        a.bitmap = "inc";
        a.target.existing = true;
        g_usleep(3000);
    }
    GOOD(graph_bitmap_remove(b->graph, node, "inc", &error));
}

static void stream(struct bed *b)
{
    u32 layers = depth(b);
    struct node *base = top(b);
    struct stream_args a = { .job = { .id = "j", .device = "d0" } };

    if (!top(b)->drv->set_backing)
        return;
    for (u32 i = (u32)g_rand_int_range(b->rand, 1, (s32)layers + 1); i--;)
        base = base->backing;
    a.base_node = base ? graph_node_name(base) : NULL;
    if (!GOOD(job_stream(b->graph, &a, &error)))
        return;
    disturb(b, "j");
    if (g_rand_int_range(b->rand, 0, 6) == 0)
        job_cancel(job_find(b->graph, "j"), true, NULL);
    wait_gone(b, "j");
    EXPECT(!b->error);
}

static void commit_below(struct bed *b)
{
    struct node *t = top(b)->backing, *base = t ? t->backing : NULL;
    struct commit_args a = { .job = { .id = "j", .device = "d0" } };

    if (!base)
        return;
    a.top_node = graph_node_name(t);
    a.base_node = g_rand_int_range(b->rand, 0, 2) ? graph_node_name(base) : NULL;
    if (!GOOD(job_commit(b->graph, &a, &error)))
        return;
    disturb(b, "j");
    wait_gone(b, "j");
    EXPECT(!b->error);
}

static void internal_snapshot(struct bed *b)
{
    struct image_snapshot *s = NULL;

    if (!top(b)->drv->snapshots)
        return;
    GOOD(graph_snapshot_internal(b->graph, "d0", "s", 1, &error));
    g_usleep(2000);
    GOOD(graph_snapshot_internal_delete(b->graph, "d0", NULL, "s", &s, &error));
    image_snapshot_free(s);
}

static void everything(const char *format, const char *options, u32 rounds, u32 seed)
{
    struct bed *b = bed_new(format, options, seed);

    writers_start(b);
    for (u32 i = 0; i < rounds && !b->bad && test_failures < 3; i++) {
        int what = g_rand_int_range(b->rand, 0, 12);
        u32 failures = (u32)test_failures;

        g_string_truncate(b->events, 0);
        g_clear_pointer(&b->error, g_free);
        if (depth(b) < 2 && what < 5)
            what = 0;
        if (what < 2 && depth(b) < 5)
            GOOD(snapshot(b, &error));
        else if (what == 2 || (what < 2 && depth(b) >= 5))
            stream(b);
        else if (what == 3)
            commit_below(b);
        else if (what == 4)
            mirror(b, depth(b) > 1);
        else if (what < 8)
            mirror(b, false);
        else if (what == 8)
            backup(b, i & 1);
        else if (what == 9)
            increments(b);
        else if (what == 10)
            failing_transaction(b);
        else
            internal_snapshot(b);
        if (i % 4 == 3) {
            writers_hold(b);
            EXPECT(disk_is(b, b->model));
            writers_go(b);
        }
        if (b->bad || (u32)test_failures != failures)
            printf("# %s %s seed %u round %u: %d, %u bad answers; events: %s\n", format,
                   options, seed, i, what, (u32)b->bad, b->events->str);
    }
    writers_stop(b);
    EXPECT(!b->bad);
    EXPECT(b->ops > 100);
    EXPECT(disk_is(b, b->model));
    g_autofree char *path = g_strdup(top(b)->filename), *drv = g_strdup(top(b)->drv->name);
    u32 layers = depth(b);
    image_flush_now(b->disk);
    for (struct node *n = top(b); n; n = n->backing) {
        if (n->drv->snapshots)
            EXPECT_EQ(qemu_check(n->filename), 0);
    }
    /* The chain that the headers name is the one that we had. */
    EXPECT(file_is(path, drv, b->model));
    printf("# %s: %u operations of the guest, %u layers left\n", format, (u32)b->ops, layers);
    bed_free(b);
}

TEST(jobs_while_the_guest_writes)
{
    const char *env = getenv("POSADA_JOB_ROUNDS");
    u32 rounds = env ? (u32)atoi(env) : 40;

    everything("qcow2", "", rounds, 1);
    everything("qcow2", "cluster_size=4k,extended_l2=off", rounds, 2);
    everything("raw", "", rounds, 3);
}

/* --- states ----------------------------------------------------------------------------------
 */

static void settle(struct bed *b)
{
    while (g_main_context_iteration(b->main, FALSE))
        ;
}

static void fill(struct bed *b)
{
    for (u64 i = 0; i < SIZE; i++)
        b->model[i] = (u8)(i / 512 * 7 + i % 511);
    EXPECT_EQ(image_write_now(b->disk, 0, b->model, SIZE), 0);
}

TEST(jobs_go_through_their_states)
{
    struct bed *b = bed_new("qcow2", "", 1);
    g_autofree char *path = new_file(b);
    struct mirror_args m = { .job = { .id = "m",
                                      .device = "d0",
                                      .speed = 1,
                                      .manual_finalize = true,
                                      .manual_dismiss = true },
                             .target = { .file = path, .node_name = "copy" },
                             .sync = SYNC_FULL };
    struct job_info info;

    fill(b);
    GOOD(job_mirror(b->graph, &m, &error));
    struct job *job = job_find(b->graph, "m");
    BAD(job_complete(job, &error),
        "Job 'm' in state 'running' cannot accept command verb 'complete'");
    BAD(job_dismiss(job, &error),
        "Job 'm' in state 'running' cannot accept command verb 'dismiss'");
    BAD(job_resume(job, &error), "Can't resume a job that was not paused");
    BAD(job_set_speed(job, -1, &error), "Parameter 'speed' expects a non-negative value");
    GOOD(job_pause(job, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_PAUSED)));
    BAD(job_pause(job, &error), "Job is already paused");
    job_get_info(job, &info);
    EXPECT(info.paused && !info.busy && !info.ready && info.offset < info.len);
    GOOD(job_resume(job, &error));
    GOOD(job_set_speed(job, 0, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_READY)));
    job_get_info(job, &info);
    EXPECT(info.ready && info.offset == info.len && info.len >= SIZE);
    GOOD(job_pause(job, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_STANDBY)));
    GOOD(job_resume(job, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_READY)));
    BAD(job_finalize(job, &error),
        "Job 'm' in state 'ready' cannot accept command verb 'finalize'");
    GOOD(job_complete(job, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_PENDING)));
    EXPECT_STR(graph_node_name(top(b)), "n0");
    EXPECT_EQ(image_write_now(b->disk, 5000, "late", 4), 0); /* the last bytes go over too */
    memcpy(b->model + 5000, "late", 4);
    /* and do so before anybody asks for the end */
    char copied[5] = "";
    for (u32 i = 0; i < 5000 && strcmp(copied, "late") != 0; i++) {
        g_usleep(1000);
        node_pread(graph_find_node(b->graph, "copy"), 5000, copied, 4);
    }
    EXPECT_STR(copied, "late");
    GOOD(job_finalize(job, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_CONCLUDED)));
    EXPECT_STR(graph_node_name(top(b)), "copy");
    EXPECT(disk_is(b, b->model));
    job_get_info(job, &info);
    EXPECT(info.status == JOB_CONCLUDED && !info.error);
    BAD(job_cancel(job, true, &error),
        "Job 'm' in state 'concluded' cannot accept command verb 'cancel'");
    GOOD(job_dismiss(job, &error));
    settle(b);
    EXPECT(!job_find(b->graph, "m") && !graph_find_node(b->graph, "n0"));
    EXPECT_STR(b->events->str,
               "created running paused running ready READY standby ready waiting pending "
               "PENDING COMPLETED concluded null ");
    bed_free(b);
}

/* Until all of them are gone, or one is in that state. */
static bool wait_all_gone(struct bed *b)
{
    for (u32 i = 0; i < 10000 && job_count(b->graph); i++) {
        g_usleep(1000);
        settle(b);
    }
    return !job_count(b->graph);
}

static bool two_backups(struct bed *b, const char *second_device, s64 second_speed, bool manual)
{
    struct transaction *t = transaction_begin(b->graph);
    g_autofree char *one = new_file(b), *two = new_file(b);
    struct backup_args a = { .job = { .id = "one", .device = "d0", .manual_finalize = manual },
                             .target = { .file = one },
                             .sync = SYNC_INCREMENTAL,
                             .bitmap = "b" };
    struct backup_args c = { .job = { .id = "two",
                                      .device = second_device,
                                      .speed = second_speed,
                                      .manual_finalize = manual },
                             .target = { .file = two },
                             .sync = SYNC_FULL };
    g_autoptr(GError) error = NULL;

    transaction_grouped(t);
    bool ok = transaction_backup(t, &a, &error) && transaction_backup(t, &c, &error);
    if (!ok)
        printf("# %s\n", error->message);
    transaction_end(t, ok);
    return ok;
}

TEST(jobs_that_end_together)
{
    struct bed *b = bed_new("qcow2", "", 1);
    g_autofree char *path = new_file(b);
    struct bitmap_args m = { .name = "b" };
    g_autoptr(GError) why = NULL;
    struct job_info info;
    struct bitmap_info bits;

    fill(b);
    if (!image_create(path, "raw", SIZE, dict_new(), false, NULL, &why))
        printf("# %s\n", why->message);
    struct dict *d = dict_new();
    dict_set(d, "driver", "raw");
    dict_set(d, "node-name", "other");
    dict_set(d, "file.driver", "file");
    dict_set(d, "file.filename", path);
    GOOD(graph_blockdev_add(b->graph, d, &error));
    GOOD(graph_bitmap_add(b->graph, "d0", &m, &error));
    EXPECT_EQ(image_write_now(b->disk, 0, "late", 4), 0);
    memcpy(b->model, "late", 4);

    /* the fast one waits for the slow one */
    EXPECT(two_backups(b, "other", 1, false));
    EXPECT(wait_status(b, "one", BIT(JOB_WAITING)));
    g_usleep(20000);
    settle(b);
    job_get_info(job_find(b->graph, "one"), &info);
    EXPECT_EQ(info.status, JOB_WAITING);
    GOOD(job_set_speed(job_find(b->graph, "two"), 0, &error));
    EXPECT(wait_all_gone(b));
    EXPECT(!b->error);
    graph_bitmap_info(top(b), 0, &bits);
    EXPECT_EQ(bits.count, 0);

    /* the slow one is cancelled: so is the other, and the bitmap is as it was */
    EXPECT_EQ(image_write_now(b->disk, 0, "more", 4), 0);
    memcpy(b->model, "more", 4);
    g_string_truncate(b->events, 0);
    EXPECT(two_backups(b, "other", 1, false));
    EXPECT(wait_status(b, "one", BIT(JOB_WAITING)));
    GOOD(job_cancel(job_find(b->graph, "two"), true, &error));
    EXPECT(wait_all_gone(b));
    EXPECT(strstr(b->events->str, "CANCELLED") && !strstr(b->events->str, "COMPLETED"));
    graph_bitmap_info(top(b), 0, &bits);
    EXPECT_EQ(bits.count, bits.granularity);

    /* one word ends both */
    EXPECT(two_backups(b, "other", 0, true));
    EXPECT(wait_status(b, "one", BIT(JOB_PENDING)));
    EXPECT(wait_status(b, "two", BIT(JOB_PENDING)));
    GOOD(job_finalize(job_find(b->graph, "two"), &error));
    EXPECT(wait_all_gone(b));
    graph_bitmap_info(top(b), 0, &bits);
    EXPECT_EQ(bits.count, 0);

    /* the VM ends in the middle of it */
    EXPECT(two_backups(b, "other", 1, true));
    EXPECT(wait_status(b, "one", BIT(JOB_WAITING)));
    bed_free(b);
}

TEST(jobs_that_are_cancelled_leave_all_as_it_was)
{
    struct bed *b = bed_new("qcow2", "", 1);
    g_autofree char *path = new_file(b);
    struct mirror_args m = { .job = { .device = "d0", .speed = 1 },
                             .target = { .file = path },
                             .sync = SYNC_FULL };

    fill(b);
    GOOD(job_mirror(b->graph, &m, &error)); /* the drive's name is the job's */
    GOOD(job_cancel(job_find(b->graph, "d0"), false, &error));
    wait_gone(b, "d0");
    EXPECT_STR(b->events->str, "created running aborting CANCELLED concluded null ");
    EXPECT_EQ(graph_count(b->graph), 2);
    EXPECT(!top(b)->job && !top(b)->taps[TAP_JOB]);

    g_string_truncate(b->events, 0);
    m.job.speed = 0;
    m.job.manual_finalize = true;
    m.target.existing = true;
    GOOD(job_mirror(b->graph, &m, &error));
    EXPECT(wait_status(b, "d0", BIT(JOB_READY)));
    GOOD(job_complete(job_find(b->graph, "d0"), &error));
    EXPECT(wait_status(b, "d0", BIT(JOB_PENDING)));
    GOOD(job_cancel(job_find(b->graph, "d0"), false, &error));
    wait_gone(b, "d0");
    EXPECT_STR(b->events->str, "created running ready READY waiting pending PENDING aborting "
                               "CANCELLED concluded null ");
    EXPECT_STR(graph_node_name(top(b)), "n0");
    EXPECT(disk_is(b, b->model));
    bed_free(b);
}

/* A job that is under way when the VM ends. */
TEST(jobs_end_with_the_vm)
{
    struct bed *b = bed_new("qcow2", "", 1);
    g_autofree char *path = new_file(b);
    struct mirror_args m = { .job = { .device = "d0", .speed = 1 },
                             .target = { .file = path },
                             .sync = SYNC_FULL };

    fill(b);
    GOOD(job_mirror(b->graph, &m, &error));
    GOOD(job_pause(job_find(b->graph, "d0"), &error));
    EXPECT(wait_status(b, "d0", BIT(JOB_PAUSED)));
    bed_free(b);
}

TEST(jobs_refuse_what_cannot_be)
{
    struct bed *b = bed_new("qcow2", "", 1);
    g_autofree char *path = new_file(b), *other = new_file(b), *small = new_file(b);
    struct mirror_args m = { .job = { .id = "m", .device = "d0", .speed = 1 },
                             .target = { .file = path, .node_name = "copy" },
                             .sync = SYNC_FULL };
    struct mirror_args m2 = { .job = { .id = "m2", .device = "nobody" },
                              .target = { .file = other } };
    struct backup_args k = { .job = { .id = "k", .device = "d0" },
                             .target = { .file = other },
                             .sync = SYNC_INCREMENTAL };
    struct stream_args s = { .job = { .id = "s", .device = "d0" }, .base_node = "n0" };
    struct commit_args c = { .job = { .id = "c", .device = "d0" } };
    g_autofree char *add = g_strdup_printf("driver=qcow2,node-name=small,file.driver=file,"
                                           "file.node-name=smallf,file.filename=%s",
                                           small);

    fill(b);
    BAD(job_mirror(b->graph, &m2, &error),
        "Cannot find device='nobody' nor node-name='nobody'");
    m2.job.device = "n0";
    m2.job.id = NULL;
    BAD(job_mirror(b->graph, &m2, &error), "An explicit job ID is required for this node");
    m2.job.id = "1x";
    BAD(job_mirror(b->graph, &m2, &error), "Invalid job ID '1x'");
    m2.job.id = "m2";
    m2.job.speed = -1;
    BAD(job_mirror(b->graph, &m2, &error), "Parameter 'speed' expects a non-negative value");
    m2.job.speed = 0;
    m2.granularity = 513;
    BAD(job_mirror(b->graph, &m2, &error),
        "Parameter 'granularity' expects a power of 2 in range [512B, 64MB]");
    m2.granularity = 0;
    m2.target.node_name = "bad name";
    BAD(job_mirror(b->graph, &m2, &error),
        "Invalid node-name: 'bad name' (a letter, then at most 30 letters, digits, '-', '.', "
        "'_')");
    m2.target.node_name = "n0";
    BAD(job_mirror(b->graph, &m2, &error), "Duplicate nodes with node-name='n0'");
    m2.target.node_name = "d0";
    BAD(job_mirror(b->graph, &m2, &error), "node-name=d0 is conflicting with a device id");
    m2.target = (struct job_target){ .node = "n0" };
    BAD(job_mirror(b->graph, &m2, &error), "Node 'n0' is busy: block device is in use by block "
                                           "job: mirror");
    BAD(job_backup(b->graph, &k, &error),
        "must provide a valid bitmap name for 'incremental' sync mode");
    k.bitmap = "nobody";
    BAD(job_backup(b->graph, &k, &error), "Dirty bitmap 'nobody' not found");
    BAD(job_stream(b->graph, &s, &error), "Node 'n0' is not a backing image of 'n0'");
    g_autofree char *none =
        g_strdup_printf("image '%s' has no backing file to commit into", top(b)->filename);
    BAD(job_commit(b->graph, &c, &error), none);
    EXPECT_EQ(job_count(b->graph), 0);
    EXPECT_EQ(graph_count(b->graph), 2);
    EXPECT(!top(b)->taps[TAP_JOB] && !top(b)->job);

    /* Another size, one node in two places, nodes in use. */
    GOOD(image_create(small, "qcow2", 1 << 20, dict_new(), false, NULL, &error));
    GOOD(graph_blockdev_add(b->graph, dict_from_text(add, NULL, NULL), &error));
    BAD(graph_blockdev_add(b->graph,
                           dict_from_text("driver=qcow2,node-name=two,file=smallf", NULL, NULL),
                           &error),
        "Node 'smallf' is busy: node is used as file of 'small'");
    m2.target.node = "small";
    BAD(job_mirror(b->graph, &m2, &error),
        "Source and target image have different sizes ('n0': 3145728, 'small': 1048576)");
    BAD(graph_blockdev_del(b->graph, "smallf", &error),
        "Node smallf is not owned by the monitor");
    BAD(graph_blockdev_del(b->graph, "nobody", &error),
        "Failed to find node with node-name='nobody'");
    struct snapshot_args snap = { .node = "d0", .overlay = "small" };
    struct transaction *t = transaction_begin(b->graph);
    BAD(transaction_snapshot(t, &snap, &error),
        "Node 'small' is smaller (1048576 bytes) than 'n0' (3145728)");
    transaction_end(t, false);
    snap.overlay = "n0";
    t = transaction_begin(b->graph);
    BAD(transaction_snapshot(t, &snap, &error), "Node 'n0' is busy: a device uses it");
    transaction_end(t, false);
    BAD(graph_resize(b->graph, "d0", -1, &error), "Parameter 'size' expects a >0 size");
    BAD(graph_resize(b->graph, "smallf", 512, &error),
        "Node 'smallf' is busy: node is used as file of 'small'");

    /* While a job works on it. */
    GOOD(job_mirror(b->graph, &m, &error));
    static const char busy[] = "Node 'n0' is busy: block device is in use by block job: mirror";
    struct image_snapshot *was = NULL;
    BAD(job_stream(b->graph, &s, &error), busy);
    BAD(snapshot(b, &error), busy);
    BAD(graph_resize(b->graph, "d0", SIZE * 2, &error), busy);
    BAD(graph_snapshot_internal(b->graph, "d0", "x", 0, &error), busy);
    BAD(graph_snapshot_internal_delete(b->graph, "d0", NULL, "x", &was, &error), busy);
    BAD(graph_blockdev_del(b->graph, "n0", &error), busy);
    BAD(graph_image_free(b->disk, &error), busy);
    m2.target.node = "copy";
    m2.job.device = "small";
    BAD(job_mirror(b->graph, &m2, &error),
        "Node 'copy' is busy: block device is in use by block job: mirror");
    m.target.file = other;
    m.target.node_name = NULL;
    m.job.device = "small";
    BAD(job_mirror(b->graph, &m, &error), "Job ID 'm' already in use");
    EXPECT(disk_is(b, b->model));
    job_cancel(job_find(b->graph, "m"), true, NULL);
    wait_gone(b, "m");
    GOOD(graph_blockdev_del(b->graph, "small", &error));
    EXPECT_EQ(graph_count(b->graph), 2);
    bed_free(b);
}

/* The target's errors: reported, or the job stops until somebody resumes it. */
TEST(jobs_meet_errors)
{
    struct bed *b = bed_new("raw", "", 1);
    g_autofree char *path = new_file(b);
    g_autofree char *add =
        g_strdup_printf("driver=blkdebug,node-name=t,inject-error.0.iotype=write,"
                        "inject-error.0.errno=28,inject-error.0.once=on,image.driver=raw,"
                        "image.file.driver=file,image.file.filename=%s",
                        path);
    struct mirror_args m = {
        .job = { .id = "m", .device = "d0", .on_target_error = JOB_ENOSPC },
        .target = { .node = "t" },
        .sync = SYNC_FULL
    };

    fill(b);
    GOOD(image_create(path, "raw", SIZE, dict_new(), false, NULL, &error));
    if (!GOOD(graph_blockdev_add(b->graph, dict_from_text(add, NULL, NULL), &error))) {
        bed_free(b);
        return;
    }
    GOOD(job_mirror(b->graph, &m, &error));
    EXPECT(wait_status(b, "m", BIT(JOB_PAUSED)));
    struct job_info info;
    job_get_info(job_find(b->graph, "m"), &info);
    EXPECT_STR(info.io_status, "nospace");
    GOOD(job_resume(job_find(b->graph, "m"), &error));
    EXPECT(wait_status(b, "m", BIT(JOB_READY)));
    GOOD(job_complete(job_find(b->graph, "m"), &error));
    wait_gone(b, "m");
    EXPECT(disk_is(b, b->model));
    EXPECT_STR(graph_node_name(top(b)), "t");
    bed_free(b);
}

TEST(bits_end_inside_of_a_granule)
{
    struct bits small, large;
    u64 at, len;

    EXPECT(bits_init(&small, 5000, 512, NULL) && bits_init(&large, 5000, 65536, NULL));
    bits_set(&large, 4999, 1);
    EXPECT(bits_next(&large, 0, 5000, &at, &len) && at == 0 && len == 5000);
    EXPECT(!bits_next(&large, 5000, 5000, &at, &len));
    bits_merge(&small, &large); /* it comes to an end */
    EXPECT_EQ(bits_count(&small), 10 * 512);
    bits_clear(&small);
    bits_clear(&large);
}

TEST(bits_are_set_and_found)
{
    struct bits s = { 0 };
    u64 at, len;

    EXPECT(bits_init(&s, 1000 * 4096 + 100, 4096, NULL));
    EXPECT(!bits_next(&s, 0, UINT64_MAX, &at, &len));
    bits_set(&s, 4095, 2);
    bits_set(&s, 1000 * 4096 + 99, 1000);
    bits_set(&s, 63 * 4096, 4096 * 130);
    EXPECT_EQ(bits_count(&s), (2 + 1 + 130) * 4096);
    EXPECT(bits_next(&s, 0, UINT64_MAX, &at, &len) && at == 0 && len == 8192);
    EXPECT(bits_next(&s, 8192, UINT64_MAX, &at, &len) && at == 63 * 4096 && len == 130 * 4096);
    EXPECT(bits_next(&s, 70 * 4096, 8192, &at, &len) && at == 70 * 4096 && len == 8192);
    EXPECT(bits_next(&s, 200 * 4096, 1, &at, &len) && at == 1000 * 4096 && len == 100);
    bits_reset(&s, 64 * 4096, 128 * 4096);
    EXPECT_EQ(bits_count(&s), (2 + 1 + 2) * 4096);
    EXPECT(bits_get(&s, 63 * 4096 + 5) && !bits_get(&s, 64 * 4096));
    bits_clear(&s);
    GError *error = NULL;
    EXPECT(!bits_init(&s, 1ull << 62, 512, &error) && error);
    g_clear_error(&error);
}

TEST_MAIN()
