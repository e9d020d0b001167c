// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_test.c - qcow2 against a model in memory: every layout, many threads, failing writes,
 * power cuts.  POSADA_CUTS says how many cuts (thousands by default), POSADA_CUTS_QEMU=1 has
 * qemu-img check each image that a cut left.
 */
#include "image/format/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"
#include "base/test.h"
#include "image/journal.h"

static const struct open_how rw = { .write = true, .discard = true };

static struct node *open_on(struct node *file, const struct open_how *how, GError **error)
{
    g_autodict d = dict_new();
    be32 crypt_method = { 0 };

    node_pread(file, offsetof(struct qcow2_header, crypt_method), &crypt_method, 4);
    if (be32_get(crypt_method))
        dict_set(d, "encrypt.key-secret", "q");
    return node_open_over(&format_qcow2, d, node_ref(file), how, error);
}

static struct node *make_on(struct node *file, u64 size, const char *options)
{
    static const struct secret_props secret = { .id = (char *)"q",
                                                .data = (char *)"open sesame" };
    g_autodict o = dict_from_text(options, NULL, NULL);
    g_autoptr(GError) error = NULL;

    if (!secret_exists("q"))
        secret_add(&secret, NULL);
    if (!format_qcow2.create(file, size, o, &error) || !dict_done(o, "qcow2", &error))
        printf("# %s: %s\n", options, error->message);
    EXPECT(!error);
    struct node *n = error ? NULL : open_on(file, &rw, &error);
    if (error)
        printf("# %s: %s\n", options, error->message);
    EXPECT(n);
    return n;
}

static void print_line(void *opaque UNUSED, const char *line)
{
    printf("# %s\n", line);
}

/* Checks without repairs; leaks: are they allowed? */
static bool sound(struct node *n, bool leaks)
{
    struct image_check k = { .say = leaks ? NULL : print_line };
    g_autoptr(GError) error = NULL;
    bool ok = format_qcow2.check(n, REPAIR_NONE, &k, &error);

    if (!ok)
        printf("# %s\n", error->message);
    return ok && !k.corruptions && !k.check_errors && (leaks || !k.leaks);
}

#define LUKS "encrypt.format=luks,encrypt.key-secret=q,encrypt.iter-time=1"
static const char *const layouts[] = {
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=4k,refcount_bits=2",
    "cluster_size=1k,refcount_bits=64",
    "cluster_size=2M",
    "compat=0.10,cluster_size=4k",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=64k,compression_type=zstd",
    "cluster_size=8k,compression_type=zstd,lazy_refcounts=on,refcount_bits=32",
    "cluster_size=16k,preallocation=metadata",
    "cluster_size=4k," LUKS ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc",
    "cluster_size=16k,extended_l2=on," LUKS,
    "cluster_size=16k,preallocation=metadata," LUKS,
    "cluster_size=2k,compat=0.10,encrypt.format=aes,encrypt.key-secret=q",
};

/* --- one thread, all operations -------------------------------------------------------------
 */

static void fill(GRand *rand, u8 *p, u64 n)
{
    bool soft = g_rand_boolean(rand);

    for (u64 i = 0; i < n; i++)
        p[i] = (u8)(soft ? i / 64 + n : g_rand_int(rand));
}

static void one_step(struct node *n, u8 *model, u64 size, GRand *rand, u8 *buf)
{
    u64 len = (u64)g_rand_int_range(rand, 1, g_rand_int_range(rand, 0, 4) ? 9000 : 200000);
    len = MIN(len, size);
    u64 at = g_rand_int(rand) % (size - len + 1);
    int what = g_rand_int_range(rand, 0, 12);
    struct iovec v = { buf, 0 };
    struct cursor c = { &v, 1 };

    if (g_rand_boolean(rand)) {
        at &= ~511ull;
        len = MAX(len & ~511ull, 512);
    }
    switch (what) {
    case 0:
        EXPECT_EQ(node_zero(n, at, len, g_rand_boolean(rand)), 0);
        memset(model + at, 0, len);
        break;
    case 1:
        at = ROUND_DOWN(at, (u64)n->cluster);
        len = MIN((u64)n->cluster * 3, size - at);
        EXPECT_EQ(node_discard(n, at, len), 0);
        EXPECT_EQ(node_pread(n, at, buf, len), 0);
        for (u64 i = 0; i < len; i++) /* as it was, or zero */
            EXPECT(buf[i] == 0 || buf[i] == model[at + i]);
        memcpy(model + at, buf, len);
        break;
    case 2:
        at = ROUND_DOWN(at, (u64)n->cluster);
        len = MIN(n->cluster, size - at);
        fill(rand, buf, len);
        v.iov_len = len;
        EXPECT_EQ(QCOW2(n)->crypt ? node_write(n, at, len, &c)
                                  : n->drv->write_compressed(n, at, len, &c),
                  0);
        memcpy(model + at, buf, len);
        break;
    case 3:
        EXPECT_EQ(node_flush(n), 0);
        break;
    case 4:
    case 5:
        EXPECT_EQ(node_pread(n, at, buf, len), 0);
        EXPECT(!memcmp(buf, model + at, len));
        break;
    default:
        fill(rand, buf, len);
        EXPECT_EQ(node_pwrite(n, at, buf, len), 0);
        memcpy(model + at, buf, len);
    }
}

static void same(struct node *n, const u8 *model, u64 size)
{
    g_autofree u8 *all = g_malloc(size);

    EXPECT_EQ(node_pread(n, 0, all, size), 0);
    EXPECT(!memcmp(all, model, size));
}

TEST(qcow2_every_layout_keeps_what_is_written)
{
    enum { SIZE = 5 * 1024 * 1024 + 512 * 3 };
    g_autofree u8 *buf = g_malloc(8 << 20);

    for (u32 i = 0; i < ARRAY_LEN(layouts); i++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(i + 1);
        g_autofree u8 *model = g_malloc0(SIZE);
        struct node *file = journal_new(), *n = make_on(file, SIZE, layouts[i]);
        g_autoptr(GError) error = NULL;
        int before = test_failures;

        for (u32 k = 0; n && k < 400; k++)
            one_step(n, model, SIZE, rand, buf);
        same(n, model, SIZE);
        EXPECT_EQ(node_flush(n), 0);
        EXPECT(sound(n, true));
        node_unref(n);
        n = open_on(file, &rw, &error);
        EXPECT(n);
        same(n, model, SIZE);
        EXPECT(sound(n, false));
        node_unref(n);
        node_unref(file);
        if (test_failures != before)
            printf("# with %s\n", layouts[i]);
    }
}

TEST(qcow2_over_a_backing_file)
{
    enum { SIZE = 2 << 20, BASE = SIZE - 70000 / 512 * 512 };
    g_autofree u8 *buf = g_malloc(8 << 20);

    for (u32 i = 0; i < ARRAY_LEN(layouts); i++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(i + 1);
        g_autofree u8 *model = g_malloc0(SIZE);
        struct node *base_file = journal_new(), *file = journal_new();
        struct node *base = make_on(base_file, BASE, "cluster_size=4k");
        int before = test_failures;

        fill(rand, model, BASE);
        EXPECT_EQ(node_pwrite(base, 0, model, BASE), 0);
        struct node *n = make_on(file, SIZE, layouts[i]);
        if (strstr(layouts[i], "preallocation")) { /* hides the backing file */
            node_unref(n);
            node_unref(file);
            node_unref(base);
            node_unref(base_file);
            continue;
        }
        n->backing = base;
        for (u32 k = 0; k < 250; k++)
            one_step(n, model, SIZE, rand, buf);
        same(n, model, SIZE);
        EXPECT_EQ(node_flush(n), 0);
        EXPECT(sound(n, true));
        node_unref(n);
        node_unref(file);
        node_unref(base_file);
        if (test_failures != before)
            printf("# with %s\n", layouts[i]);
    }
}

/* --- snapshots ------------------------------------------------------------------------------
 */

static bool snap(struct node *n, const char *name, GError **error)
{
    struct image_snapshot s = { .name = (char *)name, .icount = UINT64_MAX };

    return qcow2_snapshot_ops.create(n, &s, error);
}

TEST(qcow2_snapshots_come_and_go)
{
    enum { SIZE = 1 << 20, COUNT = 3 };
    g_autofree u8 *buf = g_malloc(8 << 20);

    for (u32 i = 0; i < ARRAY_LEN(layouts); i++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(i + 77);
        g_autofree u8 *model = g_malloc0(SIZE);
        u8 *kept[COUNT] = { 0 };
        bool is[COUNT] = { 0 };
        struct node *file = journal_new(), *n = make_on(file, SIZE, layouts[i]);
        g_autoptr(GError) error = NULL;
        int before = test_failures;

        if (strstr(layouts[i], "refcount_bits=1")) {
            one_step(n, model, SIZE, rand, buf);
            EXPECT_EQ(node_pwrite(n, 0, model, SIZE), 0);
            EXPECT(!snap(n, "x", &error)); /* one bit cannot count to two */
            EXPECT(sound(n, false));
            node_unref(n);
            node_unref(file);
            continue;
        }
        for (u32 k = 0; k < 40; k++) {
            u32 w = (u32)g_rand_int_range(rand, 0, COUNT);
            g_autofree char *name = g_strdup_printf("snap%u", w);

            for (u32 m = 0; m < 8; m++)
                one_step(n, model, SIZE, rand, buf);
            if (!is[w]) {
                is[w] = snap(n, name, &error);
                kept[w] = g_memdup2(model, SIZE);
            } else if (g_rand_boolean(rand)) {
                EXPECT(qcow2_snapshot_ops.apply(n, name, &error));
                memcpy(model, kept[w], SIZE);
            } else {
                EXPECT(qcow2_snapshot_ops.remove(n, name, &error));
                g_clear_pointer(&kept[w], g_free);
                is[w] = false;
            }
            if (error) {
                printf("# %s\n", error->message);
                /* two bits count to three: the fourth user is refused, and nothing happens */
                EXPECT(strstr(layouts[i], "refcount_bits=2"));
                g_clear_error(&error);
                if (!is[w])
                    g_clear_pointer(&kept[w], g_free);
                else
                    break;
            }
            same(n, model, SIZE);
            EXPECT_EQ(node_flush(n), 0);
            if (!sound(n, false) || test_failures != before) {
                EXPECT(!"sound");
                break;
            }
        }
        for (u32 w = 0; w < COUNT; w++) {
            g_autofree char *name = g_strdup_printf("snap%u", w);
            const struct open_how ro = { 0 };

            if (is[w]) {
                node_flush(n);
                struct node *r = open_on(file, &ro, &error);
                EXPECT(qcow2_snapshot_ops.load(r, name, &error));
                same(r, kept[w], SIZE);
                node_unref(r);
            }
            g_free(kept[w]);
        }
        EXPECT(!qcow2_snapshot_ops.remove(n, "nobody", &error));
        node_unref(n);
        node_unref(file);
        if (test_failures != before)
            printf("# with %s\n", layouts[i]);
    }
}

/* --- many threads ---------------------------------------------------------------------------
 */

struct worker {
    struct node *n;
    u8 *model;
    u64 from, size;
    u32 seed;
};

static gpointer hammer(gpointer p)
{
    struct worker *w = p;
    g_autoptr(GRand) rand = g_rand_new_with_seed(w->seed);
    g_autofree u8 *buf = g_malloc(65536);

    for (u32 i = 0; i < 500; i++) {
        u64 len = 1 + g_rand_int(rand) % 20000, at = g_rand_int(rand) % (w->size - len);
        u8 *m = w->model + w->from + at;

        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            EXPECT_EQ(node_zero(w->n, w->from + at, len, true), 0);
            memset(m, 0, len);
            break;
        case 1:
            EXPECT_EQ(node_flush(w->n), 0);
            break;
        case 2:
            EXPECT_EQ(node_pread(w->n, w->from + at, buf, len), 0);
            EXPECT(!memcmp(buf, m, len));
            break;
        default:
            memset(buf, (int)(i + w->seed), len);
            EXPECT_EQ(node_pwrite(w->n, w->from + at, buf, len), 0);
            memcpy(m, buf, len);
        }
    }
    return NULL;
}

TEST(qcow2_many_threads_at_once)
{
    enum { THREADS = 4, SIZE = 4 << 20 };

    for (u32 i = 0; i < ARRAY_LEN(layouts); i++) {
        g_autofree u8 *model = g_malloc0(SIZE);
        struct node *file = journal_new(), *n = make_on(file, SIZE, layouts[i]);
        struct worker w[THREADS];
        GThread *t[THREADS];
        int before = test_failures;

        /* Neighbours share clusters at their ends: pieces are of odd sizes. */
        for (u32 k = 0; k < THREADS; k++) {
            w[k] = (struct worker){ n, model, k * (SIZE / THREADS) + k * 100,
                                    SIZE / THREADS - 700, k + 1 };
            t[k] = g_thread_new("hammer", hammer, &w[k]);
        }
        for (u32 k = 0; k < 4 && !strstr(layouts[i], "refcount_bits="); k++) {
            g_autoptr(GError) error = NULL;

            EXPECT(snap(n, "s", &error));
            g_usleep(3000);
            EXPECT(qcow2_snapshot_ops.remove(n, "s", &error));
        }
        for (u32 k = 0; k < THREADS; k++)
            g_thread_join(t[k]);
        same(n, model, SIZE);
        EXPECT_EQ(node_flush(n), 0);
        EXPECT_EQ(node_flush(n), 0);
        EXPECT(sound(n, false));
        node_unref(n);
        node_unref(file);
        if (test_failures != before)
            printf("# with %s\n", layouts[i]);
    }
}

/* --- failing storage ------------------------------------------------------------------------
 */

TEST(qcow2_survives_failing_writes)
{
    enum { SIZE = 1 << 20 };
    g_autofree u8 *buf = g_malloc0(65536);

    for (u32 i = 0; i < 60; i++) {
        struct node *file = journal_new();
        struct node *n = make_on(file, SIZE, layouts[i % ARRAY_LEN(layouts)]);
        g_autoptr(GRand) rand = g_rand_new_with_seed(i);
        g_autoptr(GError) error = NULL;

        journal_fail_after(file, i * 2);
        for (u32 k = 0; k < 40; k++) {
            node_pwrite(n, g_rand_int(rand) % (SIZE - 9000), buf, 9000);
            if (k % 8 == 7)
                node_flush(n);
        }
        node_unref(n);
        journal_fail_after(file, UINT32_MAX);
        n = open_on(file, &rw, &error);
        EXPECT(n && sound(n, true));
        node_unref(n);
        node_unref(file);
    }
}

/* --- power cuts -----------------------------------------------------------------------------
 */

enum { CUT_SIZE = 768 * 1024, CUT_SECTORS = CUT_SIZE / 512, CUT_STEPS = 60 };

/* What a sector held, from which point of the journal on; id 0 is zeroes. */
struct held {
    u32 id, from;
};
struct history {
    struct node *file, *n;
    GArray *of[CUT_SECTORS]; /* struct held */
    GArray *flushes;  /* struct held: id = position when it began, from = when complete */
    GPtrArray *snaps; /* struct snap_model */
    u32 next_id;
};
struct snap_model {
    char *name;
    u32 made, gone; /* positions: complete when made; begun to go */
    u32 ids[CUT_SECTORS];
};

static void note(struct history *h, u64 sector, u64 n, u32 id, u32 from)
{
    struct held e = { id, from };

    for (u64 i = 0; i < n; i++)
        g_array_append_val(h->of[sector + i], e);
}

static void cut_write(struct history *h, GRand *rand, bool compressed)
{
    g_autofree u32 *buf = g_malloc(CUT_SIZE);
    u64 cluster = h->n->cluster;
    u64 n = (u64)g_rand_int_range(rand, 1, g_rand_int_range(rand, 0, 5) ? 12 : 200);
    u64 sector = (u64)g_rand_int_range(rand, 0, (s32)(CUT_SECTORS - n));
    u32 id = h->next_id++, from = journal_length(h->file);

    compressed = compressed && !QCOW2(h->n)->crypt;
    if (compressed) {
        sector = sector * 512 / cluster * cluster / 512;
        n = MIN(cluster / 512, CUT_SECTORS - sector);
    }
    for (u64 i = 0; i < n * 128; i++)
        buf[i] = id;
    struct iovec v = { buf, n * 512 };
    struct cursor c = { &v, 1 };
    EXPECT_EQ(compressed ? h->n->drv->write_compressed(h->n, sector * 512, n * 512, &c)
                         : node_write(h->n, sector * 512, n * 512, &c),
              0);
    note(h, sector, n, id, from);
}

static void cut_flush(struct history *h)
{
    struct held f = { journal_length(h->file), 0 };

    EXPECT_EQ(node_flush(h->n), 0);
    f.from = journal_length(h->file);
    g_array_append_val(h->flushes, f);
}

static u32 now_id(struct history *h, u32 s)
{
    return h->of[s]->len ? g_array_index(h->of[s], struct held, h->of[s]->len - 1).id : 0;
}

static void cut_snapshot(struct history *h, GRand *rand)
{
    g_autoptr(GError) error = NULL;
    u32 what = (u32)g_rand_int_range(rand, 0, 3), from = journal_length(h->file);
    struct snap_model *m = NULL;

    for (guint i = 0; i < h->snaps->len; i++) {
        struct snap_model *o = h->snaps->pdata[i];
        if (o->gone == UINT32_MAX)
            m = o;
    }
    if (!what || !m) {
        m = g_new0(struct snap_model, 1);
        m->name = g_strdup_printf("s%u", h->snaps->len);
        for (u32 i = 0; i < CUT_SECTORS; i++)
            m->ids[i] = now_id(h, i);
        EXPECT(snap(h->n, m->name, &error));
        m->made = journal_length(h->file);
        m->gone = UINT32_MAX;
        g_ptr_array_add(h->snaps, m);
    } else if (what == 1) {
        m->gone = from;
        EXPECT(qcow2_snapshot_ops.remove(h->n, m->name, &error));
    } else {
        EXPECT(qcow2_snapshot_ops.apply(h->n, m->name, &error));
        for (u32 i = 0; i < CUT_SECTORS; i++)
            note(h, i, 1, m->ids[i], from);
    }
    /* It is a flush of everything before it, and of itself. */
    struct held f = { journal_length(h->file), journal_length(h->file) };
    g_array_append_val(h->flushes, f);
    if (error)
        printf("# %s\n", error->message);
}

static void cut_history(struct history *h, const char *layout, u32 seed)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);

    memset(h, 0, sizeof *h);
    h->file = journal_new();
    h->n = make_on(h->file, CUT_SIZE, layout);
    h->flushes = g_array_new(FALSE, FALSE, sizeof(struct held));
    h->snaps = g_ptr_array_new();
    h->next_id = 1;
    for (u32 i = 0; i < CUT_SECTORS; i++)
        h->of[i] = g_array_new(FALSE, FALSE, sizeof(struct held));
    bool snaps = !strstr(layout, "refcount_bits=1") && !strstr(layout, "refcount_bits=2");
    EXPECT_EQ(node_flush(h->file), 0); /* the new image itself */
    for (u32 i = 0; i < CUT_STEPS; i++) {
        int what = g_rand_int_range(rand, 0, 20);
        u64 n = (u64)g_rand_int_range(rand, 1, 300);
        u64 sector = (u64)g_rand_int_range(rand, 0, (s32)(CUT_SECTORS - n));
        u32 from = journal_length(h->file);

        if (what < 10) {
            cut_write(h, rand, false);
        } else if (what < 12) {
            cut_write(h, rand, true);
        } else if (what < 14) {
            EXPECT_EQ(node_zero(h->n, sector * 512, n * 512, what == 12), 0);
            note(h, sector, n, 0, from);
        } else if (what == 14) {
            /* May keep what it was: both are allowed from here on. */
            EXPECT_EQ(node_discard(h->n, sector * 512, n * 512), 0);
            for (u64 s = sector; s < sector + n; s++) {
                u32 id, was = now_id(h, (u32)s);
                u8 buf[512];

                EXPECT_EQ(node_pread(h->n, s * 512, buf, 512), 0);
                memcpy(&id, buf, 4);
                EXPECT(id == was || !id);
                note(h, s, 1, id, from);
            }
        } else if (what < 18 || !snaps) {
            cut_flush(h);
        } else {
            cut_snapshot(h, rand);
        }
    }
}

static void history_free(struct history *h)
{
    node_unref(h->n);
    node_unref(h->file);
    for (u32 i = 0; i < CUT_SECTORS; i++)
        g_array_unref(h->of[i]);
    g_array_unref(h->flushes);
    for (guint i = 0; i < h->snaps->len; i++) {
        g_free(((struct snap_model *)h->snaps->pdata[i])->name);
        g_free(h->snaps->pdata[i]);
    }
    g_ptr_array_unref(h->snaps);
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
static bool sector_ok(const struct history *h, u32 s, const u8 *p, u32 flushed, u32 cut)
{
    u32 id = 0;

    for (guint i = 0; i < h->of[s]->len; i++) {
        const struct held *e = &g_array_index(h->of[s], struct held, i);

        if (e->from < flushed)
            id = e->id; /* complete before the flush began: it, or what is later */
    }
    if (sector_is(p, id))
        return true;
    for (guint i = 0; i < h->of[s]->len; i++) {
        const struct held *e = &g_array_index(h->of[s], struct held, i);

        if (e->from >= flushed && e->from <= cut && sector_is(p, e->id))
            return true;
    }
    return false;
}

static bool qemu_agrees(struct node *file)
{
    char path[] = "/tmp/posada-cut-XXXXXX";
    int fd = mkstemp(path), status = -1;
    u64 n;
    g_autofree u8 *bytes = journal_bytes(file, &n);

    EXPECT_EQ(write(fd, bytes, n), n);
    close(fd);
    const char *argv[] = { "qemu-img", "check", "-q", "-f", "qcow2", path, NULL };
    g_spawn_sync(NULL, (char **)argv, NULL,
                 G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                 NULL, NULL, NULL, NULL, &status, NULL);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 0 || code == 3)
        unlink(path);
    else
        printf("# qemu-img check says %d of %s\n", code, path);
    return code == 0 || code == 3;
}

static bool cut_once(struct history *h, u32 cut, GRand *rand, bool qemu)
{
    struct node *file = journal_cut(h->file, cut, rand);
    g_autofree u8 *all = g_malloc(CUT_SIZE);
    g_autoptr(GError) error = NULL;
    u32 flushed = 0;
    bool ok = true;

    if (qemu)
        ok = qemu_agrees(file);
    struct node *n = open_on(file, &rw, &error);
    if (!n) {
        printf("# cut %u: %s\n", cut, error->message);
        node_unref(file);
        return false;
    }
    if (!sound(n, true)) {
        printf("# cut %u: check finds errors\n", cut);
        ok = false;
    }
    for (guint i = 0; i < h->flushes->len; i++) {
        const struct held *f = &g_array_index(h->flushes, struct held, i);
        if (f->from <= cut)
            flushed = MAX(flushed, f->id);
    }
    EXPECT_EQ(node_pread(n, 0, all, CUT_SIZE), 0);
    for (u32 s = 0; s < CUT_SECTORS; s++) {
        if (!sector_ok(h, s, all + s * 512, flushed, cut)) {
            printf("# cut %u: sector %u holds %u, flushed at %u\n", cut, s,
                   *(u32 *)(void *)(all + s * 512), flushed);
            ok = false;
            break;
        }
    }
    for (guint i = 0; ok && i < h->snaps->len; i++) {
        const struct snap_model *m = h->snaps->pdata[i];
        const struct open_how ro = { 0 };

        if (m->made > cut || m->gone <= cut)
            continue;
        struct node *r = open_on(file, &ro, &error);
        ok = r && qcow2_snapshot_ops.load(r, m->name, &error) &&
             !node_pread(r, 0, all, CUT_SIZE);
        for (u32 s = 0; ok && s < CUT_SECTORS; s++)
            ok = sector_is(all + s * 512, m->ids[s]);
        if (!ok)
            printf("# cut %u: snapshot %s is lost: %s\n", cut, m->name,
                   error ? error->message : "other bytes");
        node_unref(r);
    }
    node_unref(n);
    node_unref(file);
    return ok;
}

TEST(qcow2_power_cuts_lose_nothing_flushed)
{
    const char *env = getenv("POSADA_CUTS");
    u32 cuts = env ? (u32)atoi(env) : 2200, done = 0, bad = 0;
    bool qemu = getenv("POSADA_CUTS_QEMU") != NULL;

    for (u32 seed = 1; done < cuts && bad < 3; seed++) {
        const char *layout = layouts[seed % ARRAY_LEN(layouts)];
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed * 7919);
        struct history h;

        if (strstr(layout, "cluster_size=2M"))
            continue;
        cut_history(&h, layout, seed);
        /* A new image that was not flushed need not be one: cuts begin behind that. */
        struct node *fresh = journal_new(), *made = make_on(fresh, CUT_SIZE, layout);
        u32 first = journal_length(fresh) + 1, end = journal_length(h.file);
        node_unref(made);
        node_unref(fresh);
        for (u32 i = 0; i < 40 && done < cuts; i++, done++) {
            u32 cut = (u32)g_rand_int_range(rand, (s32)first, (s32)end + 1);

            if (i % 2)
                cut = journal_before_flush(h.file, cut);
            if (!cut_once(&h, cut, rand, qemu)) {
                printf("# seed %u, layout %s\n", seed, layout);
                bad++;
                break;
            }
        }
        history_free(&h);
    }
    EXPECT_EQ(bad, 0);
    printf("# %u cuts\n", done);
}

TEST_MAIN()
