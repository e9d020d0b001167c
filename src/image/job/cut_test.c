// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cut_test.c - power cuts while snapshots are taken and jobs run: several qcow2 files on one
 * time, a guest that writes, flushes and discards, and a manager that mirrors, commits and
 * streams.  After a cut the file that was on top opens with the chain that the headers name,
 * checks find leaks at most, and all that was flushed is there.
 *
 * POSADA_CUTS says how many cuts, POSADA_CUTS_QEMU=1 has qemu-img check each file.
 */
#include "image/job.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/test.h"
#include "image/drivers.h"
#include "image/graph_impl.h"
#include "image/journal.h"

enum { SIZE = 768 * 1024, SECTORS = SIZE / 512, STEPS = 70, DEPTH = 4 };

/* What a sector held, from which time on; id 0 is zeroes. */
struct held {
    u32 id, from;
};
struct world {
    _Atomic u32 clock;
    GPtrArray *files; /* journals: w0, w1 ... */
    const char *layout;
    GMainContext *main;
    struct graph *graph;
    struct image *disk;
    GRand *rand;
    GArray *of[SECTORS]; /* struct held */
    GArray *flushes;     /* struct held: id: when it began, from: when it was complete */
    GArray *tops;        /* struct held: id: which file, from when on */
    u32 next_id, start, jobs;
};

static struct image *lookup(void *opaque, const char *name)
{
    struct world *w = opaque;

    return strcmp(name, "d0") == 0 ? w->disk : NULL;
}

static void report(GError **error)
{
    if (*error)
        printf("# %s\n", (*error)->message);
    EXPECT(!*error);
    g_clear_error(error);
}

/* An empty image; backing: the name of another, or NULL. The graph keeps it. */
static struct node *new_image(struct world *w, const char *backing)
{
    struct open_how how = {
        .write = true, .discard = true, .no_backing = true, .graph = w->graph
    };
    g_autofree char *name = g_strdup_printf("w%u", w->files->len);
    struct node *file = journal_new_on(&w->clock, name);
    g_autodict o = dict_from_text(w->layout, NULL, NULL);
    g_autodict d = dict_new();
    GError *error = NULL;

    g_ptr_array_add(w->files, file);
    if (backing) {
        dict_set(o, "backing_file", backing);
        dict_set(o, "backing_fmt", "qcow2");
    }
    dict_set(d, "node-name", name);
    format_qcow2.create(file, SIZE, o, &error);
    EXPECT_EQ(node_flush(file), 0);
    struct node *n =
        error ? NULL : node_open_over(&format_qcow2, d, node_ref(file), &how, &error);
    report(&error);
    if (n)
        n->monitor = true;
    return n;
}

static void note_top(struct world *w)
{
    struct held t = { (u32)atoi(graph_image_node(w->disk)->name + 1), w->clock };

    if (!w->tops->len || g_array_index(w->tops, struct held, w->tops->len - 1).id != t.id)
        g_array_append_val(w->tops, t);
}

/* Lets what jobs have to say happen. */
static void turn(struct world *w)
{
    while (g_main_context_iteration(w->main, FALSE))
        ;
    note_top(w);
}

static void note(struct world *w, u64 sector, u64 n, u32 id, u32 from)
{
    struct held e = { id, from };

    for (u64 i = 0; i < n; i++)
        g_array_append_val(w->of[sector + i], e);
}

/* --- the guest -------------------------------------------------------------------------------
 */

static void guest(struct world *w)
{
    int what = g_rand_int_range(w->rand, 0, 10);
    u64 n = (u64)g_rand_int_range(w->rand, 1, what < 5 ? 20 : 200);
    u64 sector = (u64)g_rand_int_range(w->rand, 0, (s32)(SECTORS - n));
    u32 from = w->clock;

    if (what < 6) {
        g_autofree u32 *buf = g_malloc(n * 512);
        u32 id = w->next_id++;

        for (u64 i = 0; i < n * 128; i++)
            buf[i] = id;
        EXPECT_EQ(image_write_now(w->disk, sector * 512, buf, n * 512), 0);
        note(w, sector, n, id, from);
    } else if (what == 6) {
        EXPECT_EQ(image_zero_now(w->disk, sector * 512, n * 512, true), 0);
        note(w, sector, n, 0, from);
    } else if (what == 7) {
        EXPECT_EQ(image_discard_now(w->disk, sector * 512, n * 512), 0);
        for (u64 s = sector; s < sector + n; s++) { /* what it is now is not said: look */
            u8 buf[512];
            u32 id;

            EXPECT_EQ(image_read_now(w->disk, s * 512, buf, 512), 0);
            memcpy(&id, buf, 4);
            note(w, s, 1, id, from);
        }
    } else {
        struct held f = { w->clock, 0 };

        EXPECT_EQ(image_flush_now(w->disk), 0);
        f.from = w->clock;
        g_array_append_val(w->flushes, f);
    }
}

/* --- the manager -----------------------------------------------------------------------------
 */

static u32 depth(struct world *w)
{
    u32 n = 0;

    for (struct node *k = graph_image_node(w->disk); k; k = k->backing)
        n++;
    return n;
}

/* Closes what a job has left behind: nobody stands on it any more. */
static void tidy(struct world *w)
{
    for (u32 i = graph_count(w->graph); i--;) {
        struct node *n = i < graph_count(w->graph) ? graph_node_at(w->graph, i) : NULL;

        if (n && node_unused(n, NULL))
            graph_blockdev_del(w->graph, n->name, NULL);
    }
}

static void begin_something(struct world *w)
{
    struct job_args job = { .id = "j",
                            .device = "d0",
                            .speed = g_rand_int_range(w->rand, 20, 400) * 1000000 };
    struct node *top = graph_image_node(w->disk);
    int what = g_rand_int_range(w->rand, 0, 5);
    GError *error = NULL;

    if (depth(w) < 2 || (what == 0 && depth(w) < DEPTH)) {
        struct snapshot_args s = { .node = "d0" };
        struct node *over = new_image(w, top->filename);

        s.overlay = over->name;
        struct transaction *t = transaction_begin(w->graph);
        bool ok = transaction_snapshot(t, &s, &error);
        transaction_end(t, ok);
    } else if (what == 1) {
        struct stream_args s = { .job = job };

        if (g_rand_int_range(w->rand, 0, 2))
            s.base_node = top->backing->name;
        if (s.base_node && top->backing->backing && g_rand_int_range(w->rand, 0, 2))
            s.base_node = top->backing->backing->name;
        job_stream(w->graph, &s, &error);
    } else if (what == 2 && depth(w) > 2) {
        struct commit_args c = { .job = job, .top_node = top->backing->name };

        job_commit(w->graph, &c, &error);
    } else if (what == 3) {
        struct commit_args c = { .job = job };

        job_commit(w->graph, &c, &error);
    } else {
        struct mirror_args m = { .job = job,
                                 .sync = SYNC_FULL,
                                 .write_blocking = g_rand_int_range(w->rand, 0, 2) };

        m.target.node = new_image(w, NULL)->name;
        job_mirror(w->graph, &m, &error);
    }
    w->jobs++;
    report(&error);
}

static void manage(struct world *w)
{
    struct job *job = job_find(w->graph, "j");
    struct job_info info;

    if (!job) {
        tidy(w);
        if (g_rand_int_range(w->rand, 0, 3) == 0)
            begin_something(w);
        note_top(w);
        return;
    }
    job_get_info(job, &info);
    if (info.status == JOB_READY && g_rand_int_range(w->rand, 0, 3) == 0)
        job_complete(job, NULL);
    else if (g_rand_int_range(w->rand, 0, 30) == 0)
        job_cancel(job, true, NULL);
    g_usleep((gulong)g_rand_int_range(w->rand, 0, 1500));
}

static struct world *world_new(const char *layout, u32 seed)
{
    struct world *w = g_new0(struct world, 1);

    w->files = g_ptr_array_new();
    w->layout = layout;
    w->main = g_main_context_new();
    w->graph = graph_new(w->main, lookup, NULL, w);
    w->rand = g_rand_new_with_seed(seed);
    w->next_id = 1;
    for (u32 i = 0; i < SECTORS; i++)
        w->of[i] = g_array_new(FALSE, FALSE, sizeof(struct held));
    w->flushes = g_array_new(FALSE, FALSE, sizeof(struct held));
    w->tops = g_array_new(FALSE, FALSE, sizeof(struct held));
    w->disk = image_over(node_ref(new_image(w, NULL)), w->graph, false);
    w->start = w->clock;
    note_top(w);
    for (u32 i = 0; i < STEPS; i++) {
        guest(w);
        turn(w);
        manage(w);
        turn(w);
    }
    graph_stop_jobs(w->graph);
    image_close(w->disk);
    graph_free(w->graph);
    g_main_context_unref(w->main);
    return w;
}

static void world_free(struct world *w)
{
    for (guint i = 0; i < w->files->len; i++)
        node_unref(w->files->pdata[i]);
    g_ptr_array_unref(w->files);
    for (u32 i = 0; i < SECTORS; i++)
        g_array_unref(w->of[i]);
    g_array_unref(w->flushes);
    g_array_unref(w->tops);
    g_rand_free(w->rand);
    g_free(w);
}

/* --- after the cut ---------------------------------------------------------------------------
 */

static bool qemu_agrees(struct node *file)
{
    char path[] = "/tmp/posada-cut-XXXXXX";
    int fd = mkstemp(path), status = -1;
    u64 n;
    g_autofree u8 *bytes = journal_bytes(file, &n);

    EXPECT_EQ(write(fd, bytes, n), n);
    close(fd);
    /* Without its backing file, which has no name there. */
    g_autofree char *spec = g_strdup_printf("driver=qcow2,backing=,file.filename=%s", path);
    const char *argv[] = { "qemu-img", "check", "-q", "--image-opts", spec, NULL };
    g_spawn_sync(NULL, (char **)argv, NULL,
                 G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                 NULL, NULL, NULL, NULL, &status, NULL);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    unlink(path);
    if (code != 0 && code != 3)
        printf("# qemu-img check says %d\n", code);
    return code == 0 || code == 3;
}

/* What the files of the chain are after the cut, opened by what their headers say. */
static struct node *open_cut(struct world *w, u32 index, u32 time, bool qemu, u32 layer)
{
    struct open_how how = { .write = layer == 0, .discard = true, .no_backing = true };
    struct node *file = w->files->pdata[index];
    struct image_check k = { 0 };
    g_autodict d = dict_new();
    GError *error = NULL;

    file = journal_cut(file, journal_length_at(file, time), w->rand);
    bool ok = !qemu || qemu_agrees(file);
    struct node *n = node_open_over(&format_qcow2, d, file, &how, &error);
    if (n &&
        (!format_qcow2.check(n, REPAIR_NONE, &k, &error) || k.corruptions || k.check_errors)) {
        printf("# w%u: check finds errors\n", index);
        ok = false;
    }
    if (n && n->backing_name) {
        u32 below = (u32)atoi(n->backing_name + 1);

        ok = ok && layer < 10 && below < w->files->len &&
             (n->backing = open_cut(w, below, time, qemu, layer + 1));
    }
    if (error)
        printf("# w%u: %s\n", index, error->message);
    g_clear_error(&error);
    if (!ok) {
        node_unref(n);
        n = NULL;
    }
    return n;
}

static bool sector_is(const u8 *p, u32 id)
{
    u32 v;

    for (u32 i = 0; i < 128; i++) {
        memcpy(&v, p + i * 4, 4);
        if (v != id)
            return false;
    }
    return true;
}

/* Is what the sector holds what it held at the last flush, or came later? */
static bool sector_ok(const struct world *w, u32 s, const u8 *p, u32 flushed, u32 cut)
{
    u32 id = 0;

    for (guint i = 0; i < w->of[s]->len; i++) {
        const struct held *e = &g_array_index(w->of[s], struct held, i);

        if (e->from < flushed)
            id = e->id;
        else if (e->from <= cut && sector_is(p, e->id))
            return true;
    }
    return sector_is(p, id);
}

static bool cut_once(struct world *w, u32 cut, bool qemu)
{
    g_autofree u8 *all = g_malloc(SIZE);
    u32 top = 0, flushed = 0;

    for (guint i = 0; i < w->tops->len; i++) {
        const struct held *t = &g_array_index(w->tops, struct held, i);

        if (t->from <= cut)
            top = t->id;
    }
    for (guint i = 0; i < w->flushes->len; i++) {
        const struct held *f = &g_array_index(w->flushes, struct held, i);

        if (f->from <= cut)
            flushed = MAX(flushed, f->id);
    }
    struct node *n = open_cut(w, top, cut, qemu, 0);
    bool ok = n != NULL;
    if (ok)
        EXPECT_EQ(node_pread(n, 0, all, SIZE), 0);
    for (u32 s = 0; ok && s < SECTORS; s++) {
        if (!sector_ok(w, s, all + s * 512, flushed, cut)) {
            printf("# sector %u holds %u, flushed at %u\n", s, *(u32 *)(void *)(all + s * 512),
                   flushed);
            ok = false;
        }
    }
    node_unref(n);
    if (!ok)
        printf("# cut %u, on top w%u\n", cut, top);
    return ok;
}

TEST(power_cuts_under_jobs_lose_nothing_flushed)
{
    static const char *const layouts[] = { "cluster_size=64k", "cluster_size=4k",
                                           "cluster_size=16k,extended_l2=on", "compat=v2",
                                           "cluster_size=512" };
    const char *env = getenv("POSADA_CUTS");
    u32 cuts = env ? (u32)atoi(env) : 1000, done = 0, bad = 0, jobs = 0;
    bool qemu = getenv("POSADA_CUTS_QEMU") != NULL;

    for (u32 seed = 1; done < cuts && bad < 3; seed++) {
        const char *layout = layouts[seed % ARRAY_LEN(layouts)];
        struct world *w = world_new(layout, seed);

        for (u32 i = 0; i < 40 && done < cuts; i++, done++) {
            u32 cut = (u32)g_rand_int_range(w->rand, (s32)w->start, (s32)w->clock + 1);

            if (!cut_once(w, cut, qemu)) {
                printf("# seed %u, layout %s, %u files\n", seed, layout, w->files->len);
                bad++;
            }
        }
        jobs += w->jobs;
        world_free(w);
    }
    printf("# %u cuts, %u snapshots and jobs\n", done, jobs);
    EXPECT_EQ(bad, 0);
}

TEST_MAIN()
