// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_bitmap_test.c - dirty bitmaps that a qcow2 image keeps: over many sessions of writing,
 * and with power cuts in them.  After a cut a bitmap is as the last session that ended well
 * left it, or says that it does not hold, or is gone; and the image has leaks at most.
 */
#include <string.h>

#include "base/test.h"
#include "image/format/qcow2.h"
#include "image/graph_impl.h"
#include "image/journal.h"

enum { SIZE = 1 << 20, GRAIN = 4096, GRAINS = SIZE / GRAIN, SESSIONS = 12 };

static const struct open_how rw = { .write = true, .discard = true };
static const char *const layouts[] = { "cluster_size=512", "cluster_size=64k",
                                       "cluster_size=4k,refcount_bits=1",
                                       "extended_l2=on,cluster_size=16k" };

static struct node *open_on(struct node *file, const struct open_how *how)
{
    g_autodict d = dict_new();
    g_autoptr(GError) error = NULL;
    struct node *n = node_open_over(&format_qcow2, d, node_ref(file), how, &error);

    if (!n)
        printf("# %s\n", error->message);
    return n;
}

static struct node *make(struct node *file, const char *layout)
{
    g_autodict o = dict_from_text(layout, NULL, NULL);

    EXPECT(format_qcow2.create(file, SIZE, o, NULL));
    return open_on(file, &rw);
}

static bool sound(struct node *n)
{
    struct image_check k = { 0 };

    return format_qcow2.check(n, REPAIR_NONE, &k, NULL) && !k.corruptions && !k.check_errors;
}

/* What a session left; `opened`: when it had said that it has the bitmaps, `closes`: when it
 * began to store them. */
struct state {
    u32 opened, closes;
    bool there, bit[GRAINS];
};

static bool is(const struct bitmap *m, const struct state *s)
{
    if (!s->there || m->bits.size != SIZE || 1u << m->bits.shift != GRAIN)
        return false;
    for (u32 i = 0; i < GRAINS; i++) {
        if (bits_get(&m->bits, (u64)i * GRAIN) != s->bit[i])
            return false;
    }
    return true;
}

/* A session: opens, changes, closes. */
static bool session(struct node *file, GRand *rand, struct state *now)
{
    struct node *n = open_on(file, &rw);
    u8 some[512] = { 1 };

    if (!n)
        return false;
    now->opened = journal_length(file);
    struct bitmap *m = node_bitmap(n, "b", 0, NULL);
    EXPECT_EQ(m != NULL, now->there);
    EXPECT(!m || is(m, now));
    if (!m) {
        struct bitmap_args a = { .name = "b", .granularity = GRAIN, .persistent = true };

        memset(now->bit, 0, sizeof now->bit);
        now->there = node_bitmap_add(n, &a, NULL);
        EXPECT(now->there);
    } else if (!g_rand_int_range(rand, 0, 4)) {
        EXPECT(n->drv->bitmaps->remove(n, "b", NULL));
        node_bitmap_take(n, m);
        bitmap_free(m);
        now->there = false;
    }
    for (u32 i = 0; i < 6; i++) {
        u32 at = (u32)g_rand_int_range(rand, 0, SIZE / 512);

        EXPECT_EQ(node_pwrite(n, at * 512ull, some, sizeof some), 0);
        now->bit[at * 512 / GRAIN] = true;
        if (i == 3)
            EXPECT_EQ(node_flush(n), 0);
    }
    now->closes = journal_length(file);
    node_unref(n);
    return true;
}

TEST(qcow2_bitmaps_over_power_cuts)
{
    u32 kept = 0, broken = 0, none = 0;

    for (u32 seed = 1; seed <= 24; seed++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
        struct node *file = journal_new();
        g_autofree struct state *history = g_new0(struct state, SESSIONS + 1);

        struct node *new = make(file, layouts[seed % ARRAY_LEN(layouts)]);
        EXPECT_EQ(node_flush(new), 0);
        EXPECT_EQ(node_flush(file), 0);
        node_unref(new);
        u32 first = journal_length(file);
        for (u32 i = 1; i <= SESSIONS; i++) {
            history[i] = history[i - 1];
            if (!session(file, rand, &history[i]))
                EXPECT(!"it opens");
        }
        for (u32 c = 0; c < 60; c++) {
            u32 cut = (u32)g_rand_int_range(rand, (s32)first, (s32)journal_length(file) + 1);
            if (c % 2)
                cut = journal_before_flush(file, cut);
            struct node *left = journal_cut(file, cut, rand), *n = open_on(left, &rw);
            struct bitmap *m = n ? node_bitmap(n, "b", BITMAP_INCONSISTENT, NULL) : NULL;
            bool good = n && sound(n);

            if (m && !m->inconsistent) {
                bool any = false;

                /* The state of a session that was ending, or had ended, at the cut; and the
                 * next one had not begun to write. */
                for (u32 i = 1; i <= SESSIONS; i++)
                    any |= history[i].closes <= cut && is(m, &history[i]) &&
                           (i == SESSIONS || cut <= history[i + 1].opened);
                good = good && any;
                kept++;
            } else if (m) {
                broken++;
            } else {
                none++;
            }
            EXPECT(good);
            if (!good)
                printf("# seed %u, cut %u\n", seed, cut);
            node_unref(n);
            /* Closed in order, it opens again; what was broken is still there, and so. */
            n = open_on(left, &rw);
            EXPECT(n && sound(n));
            node_unref(n);
            node_unref(left);
        }
        node_unref(file);
    }
    printf("# %u kept, %u inconsistent, %u none\n", kept, broken, none);
    EXPECT(kept && broken && none);
}

TEST(qcow2_bitmaps_take_another_size)
{
    struct node *file = journal_new(), *n = make(file, "cluster_size=512");
    struct bitmap_args a = { .name = "b", .granularity = 512, .persistent = true };
    struct bitmap *m = node_bitmap_add(n, &a, NULL);
    u8 some[512] = { 1 };

    EXPECT_EQ(node_pwrite(n, SIZE - 512, some, 512), 0);
    EXPECT_EQ(node_pwrite(n, SIZE / 2 - 512, some, 512), 0);
    EXPECT(n->drv->resize(n, SIZE / 2, NULL, NULL) && node_bitmaps_resize(n, NULL));
    EXPECT_EQ(bits_count(&m->bits), 512);
    EXPECT(n->drv->resize(n, 3 * SIZE, NULL, NULL) && node_bitmaps_resize(n, NULL));
    EXPECT_EQ(bits_count(&m->bits), 512);
    EXPECT_EQ(node_pwrite(n, 3 * SIZE - 512, some, 512), 0);
    node_unref(n);
    n = open_on(file, &rw);
    m = node_bitmap(n, "b", 0, NULL);
    EXPECT(m && bits_count(&m->bits) == 1024 && bits_get(&m->bits, SIZE / 2 - 512) &&
           bits_get(&m->bits, 3 * SIZE - 512));
    EXPECT(sound(n));
    node_unref(n);
    node_unref(file);
}

TEST(qcow2_bitmaps_whose_place_cannot_be_written)
{
    for (u32 after = 0; after < 40; after++) {
        struct node *file = journal_new(), *n = make(file, "cluster_size=512");
        struct bitmap_args a = { .name = "b", .persistent = true };
        g_autoptr(GError) error = NULL;
        u8 some[512] = { 1 };

        EXPECT(node_bitmap_add(n, &a, NULL));
        EXPECT_EQ(node_pwrite(n, 0, some, 512), 0);
        EXPECT_EQ(node_flush(n), 0);
        journal_fail_after(file, after);
        bool ok = n->drv->bitmaps->store(n, &error);
        EXPECT_EQ(!ok, !!error);
        journal_fail_after(file, UINT32_MAX);
        node_unref(n);
        n = open_on(file, &rw);
        struct bitmap *m = n ? node_bitmap(n, "b", 0, NULL) : NULL;
        EXPECT(n && sound(n));
        EXPECT(!ok || (m && bits_count(&m->bits)));
        EXPECT(!m || bits_count(&m->bits));
        node_unref(n);
        node_unref(file);
    }
}

TEST_MAIN()
