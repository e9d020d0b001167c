// SPDX-License-Identifier: GPL-2.0-or-later
/* compare.c - compare: do two images read the same?  Several threads; the first difference
 * wins. */
#include <string.h>

#include "img/img.h"

enum { PIECE = 256 << 10 };

struct compare {
    struct image *a, *b;
    const char *name_a, *name_b;
    u64 size; /* of the shorter */
    bool strict;
    GMutex lock; /* all below */
    u64 next, differs;
    struct image_extent ea, eb;
    u64 end_a, end_b;
    int ret;
    struct img_progress progress;
};

/* REQUIRES(c->lock) */
static int look(struct image *img, u64 at, u64 end, struct image_extent *e, u64 *e_end)
{
    if (at < *e_end)
        return 0;
    int r = image_status_now(img, at, end - at, 0, e);
    *e_end = at + e->len;
    return r;
}

static void read_failed(struct compare *c, const char *name, u64 at, int r)
{
    g_mutex_lock(&c->lock);
    if (c->ret < 2)
        img_fail("Error while reading offset %" G_GUINT64_FORMAT " of %s: %s", at, name,
                 g_strerror(-r));
    c->ret = 4;
    g_mutex_unlock(&c->lock);
}

static void differ(struct compare *c, u64 at)
{
    g_mutex_lock(&c->lock);
    c->differs = MIN(c->differs, at);
    g_mutex_unlock(&c->lock);
}

static u64 mismatch(const u8 *a, const u8 *b, u64 n)
{
    for (u64 i = 0; i < n; i++) {
        if (a[i] != b[i])
            return i;
    }
    return n;
}

static void work(void *opaque)
{
    struct compare *c = opaque;
    g_autofree u8 *a = g_malloc(PIECE);
    g_autofree u8 *b = g_malloc0(PIECE);

    for (;;) {
        g_mutex_lock(&c->lock);
        u64 at = c->next;
        if (c->ret || at >= c->size || at > c->differs) {
            g_mutex_unlock(&c->lock);
            return;
        }
        int r = look(c->a, at, c->size, &c->ea, &c->end_a);
        if (!r)
            r = look(c->b, at, c->size, &c->eb, &c->end_b);
        if (r) {
            img_fail("Sector allocation test failed for one of the images: %s", g_strerror(-r));
            c->ret = 3;
            g_mutex_unlock(&c->lock);
            return;
        }
        bool za = c->ea.flags & IMAGE_ZERO, zb = c->eb.flags & IMAGE_ZERO;
        u64 len = MIN(c->end_a, c->end_b) - at;
        if (!za || !zb)
            len = MIN(len, PIECE);
        if (c->strict && (c->ea.flags ^ c->eb.flags) & IMAGE_ALLOCATED)
            c->differs = MIN(c->differs, at);
        c->next += len;
        g_mutex_unlock(&c->lock);

        if (!za || !zb) {
            if (za)
                memset(a, 0, len);
            else if ((r = image_read_now(c->a, at, a, len)))
                return read_failed(c, c->name_a, at, r);
            if (zb)
                memset(b, 0, len);
            else if ((r = image_read_now(c->b, at, b, len)))
                return read_failed(c, c->name_b, at, r);
            if (memcmp(a, b, len))
                differ(c, at + (mismatch(a, b, len) & ~511ull));
        }
        img_progress_add(&c->progress, len);
    }
}

/* What is longer than the other must be zero there. */
static void work_rest(struct compare *c, struct image *longer, const char *name)
{
    g_autofree u8 *buf = g_malloc(PIECE);

    for (u64 at = c->size, end = image_size(longer); at < end && !c->ret;) {
        struct image_extent e;
        int r = image_status_now(longer, at, end - at, 0, &e);
        u64 len = r ? 0 : e.flags & IMAGE_ZERO ? e.len : MIN(e.len, PIECE);

        if (!r && !(e.flags & IMAGE_ZERO))
            r = image_read_now(longer, at, buf, len);
        if (r)
            return read_failed(c, name, at, r);
        for (u64 i = 0; !(e.flags & IMAGE_ZERO) && i < len; i++) {
            if (buf[i]) {
                c->differs = (at + i) & ~511ull;
                return;
            }
        }
        at += len;
    }
}

int img_compare(int argc, char **argv)
{
    static const struct option longs[] = { { "force-share", no_argument, NULL, 'U' },
                                           { "image-opts", no_argument, NULL, 256 },
                                           { 0 } };
    struct img_open ha = { 0 }, hb = { 0 };
    struct compare c = { .differs = UINT64_MAX };
    bool progress = false, quiet = false;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:F:T:pqsU", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            ha.format = optarg;
            break;
        case 'F':
            hb.format = optarg;
            break;
        case 'T':
            ha.cache = hb.cache = optarg;
            break;
        case 'p':
            progress = true;
            break;
        case 'q':
            quiet = true;
            break;
        case 's':
            c.strict = true;
            break;
        case 'U':
            ha.force_share = hb.force_share = true;
            break;
        case 256:
            ha.image_opts = hb.image_opts = true;
            break;
        default:
            return img_usage("compare") + 1;
        }
    }
    if (argc - optind != 2)
        return img_fail("Expecting two image file names") + 1;
    c.name_a = argv[optind];
    c.name_b = argv[optind + 1];
    if (!(c.a = img_open(c.name_a, &ha)))
        return 2;
    if (!(c.b = img_open(c.name_b, &hb))) {
        image_close(c.a);
        return 2;
    }
    u64 size_a = image_size(c.a), size_b = image_size(c.b);
    c.size = MIN(size_a, size_b);
    g_mutex_init(&c.lock);
    img_progress_start(&c.progress, progress && !quiet, c.size);
    if (c.strict && size_a != size_b) {
        if (!quiet)
            printf("Strict mode: Image size mismatch!\n");
        c.ret = 1;
    } else {
        img_run(img_threads(), work, &c);
        if (size_a != size_b && !c.ret && c.differs == UINT64_MAX) {
            if (!quiet)
                printf("Warning: Image size mismatch!\n");
            work_rest(&c, size_a > size_b ? c.a : c.b, size_a > size_b ? c.name_a : c.name_b);
        }
        if (!c.ret && c.differs != UINT64_MAX) {
            if (!quiet)
                printf("Content mismatch at offset %" G_GUINT64_FORMAT "!\n", c.differs);
            c.ret = 1;
        } else if (!c.ret && !quiet) {
            printf("Images are identical.\n");
        }
    }
    if (progress && !quiet)
        img_progress_end(&c.progress);
    image_close(c.a);
    image_close(c.b);
    return c.ret;
}
