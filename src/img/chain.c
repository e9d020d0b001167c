// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chain.c - commit and rebase: commands that work on a chain of backing files.
 *
 * Layers are opened one by one without their backing files, so that each can be written and
 * says of itself what is allocated in it.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "img/img.h"

enum { PIECE = 1 << 20, LAYERS_MAX = 200, IMAGE_OPTS = 256 };

/* --- commit ----------------------------------------------------------------------------------
 */

/* Writes what is allocated in `from` into `to`. */
static int push_down(struct image *from, struct image *to, u8 *buf, struct img_progress *p)
{
    struct image_extent e;
    u64 size = image_size(from);
    int r = 0;

    for (u64 at = 0; !r && at < size; at += e.len) {
        r = image_status_now(from, at, MIN(size - at, 1ull << 30), 1, &e);
        if (r)
            break;
        if (e.flags & IMAGE_ALLOCATED && e.flags & IMAGE_ZERO) {
            r = image_zero_now(to, at, e.len, true);
        } else if (e.flags & IMAGE_ALLOCATED) {
            e.len = MIN(e.len, PIECE);
            r = image_read_now(from, at, buf, e.len);
            if (!r)
                r = image_write_now(to, at, buf, e.len);
        }
        img_progress_add(p, e.len);
    }
    return r;
}

/* Names and formats from the top down to the base; how many. */
struct layer {
    char *name, *format;
};
static int find_layers(const char *top, const struct img_open *how, const char *base,
                       struct layer *l, u32 *ret_n)
{
    struct img_open h = *how;
    u32 n = 0;

    h.write = false;
    h.no_backing = h.no_io = true;
    l[n].name = g_strdup(top);
    l[n++].format = g_strdup(how->format);
    for (;;) {
        h.format = l[n - 1].format;
        g_autodict options = n > 1 ? img_backing_options(top, how, n - 1) : NULL;
        h.driver = options;
        struct image *img = img_open(l[n - 1].name, &h);
        if (!img)
            return 1;
        struct image_info *i = image_get_info(img);
        g_autofree char *name = g_strdup(i->full_backing_filename);
        g_autofree char *format = g_strdup(i->backing_format);
        bool is_base = n > 1 && (!base || !strcmp(base, l[n - 1].name));
        image_info_free(i);
        image_close(img);
        h.image_opts = false;
        *ret_n = n;
        if (is_base)
            return 0;
        if (!name || n == LAYERS_MAX)
            return base ? img_fail("Did not find '%s' in the backing chain of '%s'", base, top)
                        : img_fail("Image does not have a backing file");
        l[n].name = g_steal_pointer(&name);
        l[n++].format = g_steal_pointer(&format);
    }
}

static int commit(struct layer *l, u32 n, const struct img_open *how, bool empty, bool progress)
{
    struct img_open h = *how;
    g_autofree u8 *buf = g_malloc(PIECE);
    struct img_progress p;
    GError *error = NULL;
    int ret = 0;

    h.write = true;
    h.image_opts = false;
    h.format = l[n - 1].format;
    g_autodict options = img_backing_options(l[0].name, how, n - 1);
    h.driver = options;
    struct image *base = img_open(l[n - 1].name, &h);
    if (!base)
        return 1;
    img_progress_start(&p, progress, 0);
    for (u32 i = n - 1; !ret && i-- > 0;) {
        h = *how;
        h.image_opts = how->image_opts && !i;
        h.no_backing = true;
        h.write = !i && empty;
        h.format = l[i].format;
        g_autodict own = i ? img_backing_options(l[0].name, how, i) : NULL;
        h.driver = own;
        struct image *img = img_open(l[i].name, &h);
        if (!img) {
            ret = 1;
            break;
        }
        p.total = p.done + image_size(img) * (i + 1);
        int r = 0;
        if (image_size(base) < image_size(img) &&
            !image_resize(base, image_size(img), NULL, &error)) {
            ret = img_fail_error(error);
        } else if ((r = push_down(img, base, buf, &p)) || (r = image_flush_now(base))) {
            ret = img_fail("Error during commit: %s", g_strerror(-r));
        } else if (!i && empty && !image_make_empty(img, &error)) {
            ret = img_fail("Could not empty %s: %s", l[i].name, error->message);
            g_error_free(error);
        }
        if ((r = image_finish(img)) && !ret)
            ret = img_fail("%s: %s", l[i].name, g_strerror(-r));
    }
    img_progress_end(&p);
    int r = image_finish(base);
    if (r && !ret)
        ret = img_fail("%s: %s", l[n - 1].name, g_strerror(-r));
    return ret;
}

int img_commit(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { 0 } };
    struct layer l[LAYERS_MAX] = { 0 };
    struct img_open h = { 0 };
    const char *base = NULL;
    bool drop = false, progress = false, quiet = false;
    u32 n = 0;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:t:b:dpq", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 't':
            h.cache = optarg;
            break;
        case 'b':
            base = optarg;
            drop = true;
            break;
        case 'd':
            drop = true;
            break;
        case 'p':
            progress = true;
            break;
        case 'q':
            quiet = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("commit");
        }
    }
    if (argc - optind != 1)
        return img_fail("Expecting one image file name");
    int r = find_layers(argv[optind], &h, base, l, &n);
    if (!r)
        r = commit(l, n, &h, !drop, progress && !quiet);
    for (u32 i = 0; i < LAYERS_MAX; i++) {
        g_free(l[i].name);
        g_free(l[i].format);
    }
    if (!r && !quiet)
        printf("Image committed.\n");
    return r;
}

/* --- rebase ----------------------------------------------------------------------------------
 */

static int read_or_zero(struct image *img, u64 at, u8 *buf, u64 n)
{
    u64 size = img ? image_size(img) : 0, have = at < size ? MIN(n, size - at) : 0;

    memset(buf + have, 0, n - have);
    return have ? image_read_now(img, at, buf, have) : 0;
}

/* Where the image shows its backing file, and the new one reads otherwise, it gets bytes of its
 * own, in whole clusters: there is no backing file now to fill them up from. */
static int keep_contents(struct image *img, struct image *old, struct image *new,
                         struct img_progress *p)
{
    u64 size = image_size(img), cluster = image_cluster_size(img);
    struct image_extent e;
    int r = 0;

    cluster = cluster ? cluster : 65536;
    u64 piece = MAX(cluster, 512 << 10);
    g_autofree u8 *a = g_malloc(piece);
    g_autofree u8 *b = g_malloc(piece);
    for (u64 at = 0; !r && at < size; at += e.len) {
        r = image_status_now(img, at, MIN(size - at, 1ull << 30), 1, &e);
        if (!r && !(e.flags & IMAGE_ALLOCATED)) {
            e.len = MIN(e.len, piece - at % piece);
            r = read_or_zero(old, at, a, e.len);
            if (!r)
                r = read_or_zero(new, at, b, e.len);
            for (u64 k = 0, part; !r && k < e.len; k += part) {
                part = MIN(e.len - k, cluster - (at + k) % cluster);
                if (memcmp(a + k, b + k, part))
                    r = image_write_now(img, at + k, a + k, part);
            }
        }
        img_progress_add(p, e.len);
    }
    return r ? r : image_flush_now(img);
}

int img_rebase(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct img_open h = { .write = true, .no_backing = true }, below = { 0 };
    const char *backing = NULL, *backing_format = NULL;
    bool unsafe = false, progress = false, quiet = false;
    struct image *old = NULL, *new = NULL;
    GError *error = NULL;
    int ch, r = 0;

    while ((ch = getopt_long(argc, argv, "f:F:b:upt:T:qU", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'F':
            backing_format = optarg;
            break;
        case 'b':
            backing = optarg;
            break;
        case 'u':
            unsafe = true;
            break;
        case 'p':
            progress = true;
            break;
        case 't':
            h.cache = optarg;
            break;
        case 'T':
            below.cache = optarg;
            break;
        case 'q':
            quiet = true;
            break;
        case 'U':
            below.force_share = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("rebase");
        }
    }
    if (argc - optind != 1)
        return img_fail("Expecting one image file name");
    if (!unsafe && !backing)
        return img_fail("Use backing file (-b) option or -u to change its name only");
    if (backing && *backing && !backing_format)
        return img_fail("backing format must be specified: use -F");
    if (backing_format && !image_format_known(backing_format))
        return img_fail("Invalid format name: '%s'", backing_format);
    struct image *img = img_open(argv[optind], &h);
    if (!img)
        return 1;
    struct image_info *i = image_get_info(img);
    if (!unsafe) {
        if (i->full_backing_filename) {
            g_autodict options = img_backing_options(argv[optind], &h, 1);

            below.format = i->backing_format;
            below.driver = options;
            if (!(old = img_open(i->full_backing_filename, &below)))
                r = 1;
            below.driver = NULL;
        }
        if (!r && *backing) {
            g_autofree char *folder = g_path_get_dirname(argv[optind]);
            g_autofree char *full = backing[0] == '/' || strchr(backing, ':')
                                        ? g_strdup(backing)
                                        : g_build_filename(folder, backing, NULL);

            below.format = backing_format;
            if (!(new = img_open(full, &below)))
                r = 1;
        }
        if (!r) {
            struct img_progress p;

            img_progress_start(&p, progress && !quiet, image_size(img));
            int e = keep_contents(img, old, new, &p);
            img_progress_end(&p);
            if (e)
                r = img_fail("error while rebasing: %s", g_strerror(-e));
        }
    }
    if (!r &&
        !image_set_backing(img, backing && *backing ? backing : NULL, backing_format, &error)) {
        r = img_fail("Could not change the backing file to '%s': %s", backing ? backing : "",
                     error->message);
        g_error_free(error);
    }
    image_info_free(i);
    image_close(old);
    image_close(new);
    int e = image_finish(img);
    return r || !e ? r : img_fail("%s: %s", argv[optind], g_strerror(-e));
}
