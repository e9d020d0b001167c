// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * convert.c - convert: copies images, several threads at once.
 *
 * Threads take pieces in order and copy them independently, so a piece may be written before
 * the one in front of it; -W says that this is wanted, and without it it still is: no format
 * here minds.  Zeroes are looked for in what is read, and need no write where a new image reads
 * as zeroes anyway.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "img/img.h"

enum { PIECE = 512 << 10, SOURCES_MAX = 256 };

struct source {
    struct image *img;
    u64 at, size; /* in the whole; rounded up to sectors */
};
struct convert {
    struct source src[SOURCES_MAX];
    u32 n_src;
    struct image *dst;
    u64 total, sparse, rate;
    u32 cluster; /* of a compressed target */
    bool compress, dst_zero, only_top, salvage, quiet;
    bool detect; /* zeroes are looked for */
    s64 began;   /* us */
    /* The kernel lets one writer at a time into a file and has the others spin: they wait here.
     */
    GMutex write_lock;
    GMutex lock; /* all below */
    u64 next;
    struct image_extent ext; /* of the source at next */
    u64 ext_end;
    u64 moved;
    int ret;
    bool failed;
    struct img_progress progress;
};

static void stop(struct convert *c, int r, const char *fmt, ...) PRINTF(3, 4);
static void stop(struct convert *c, int r, const char *fmt, ...)
{
    va_list ap;

    g_mutex_lock(&c->lock);
    if (!c->failed) {
        va_start(ap, fmt);
        g_autofree char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        img_fail("%s: %s", text, g_strerror(-r));
    }
    c->failed = true;
    c->ret = r;
    g_mutex_unlock(&c->lock);
}

static const struct source *source_at(const struct convert *c, u64 at)
{
    u32 i = 0;

    while (i + 1 < c->n_src && at >= c->src[i].at + c->src[i].size)
        i++;
    return &c->src[i];
}

/* The next piece; false: there is none. REQUIRES(c->lock) */
static bool take(struct convert *c, u64 *at, u64 *len, u32 *flags)
{
    if (c->failed || c->next >= c->total)
        return false;
    const struct source *s = source_at(c, c->next);
    u64 in = c->next - s->at, left = s->at + s->size - c->next;

    if (c->next >= c->ext_end) {
        int r = image_status_now(s->img, in, left, c->only_top ? 1 : 0, &c->ext);

        if (r) { /* read it, and see */
            c->ext = (struct image_extent){ .len = MIN(left, PIECE),
                                            .flags = IMAGE_DATA | IMAGE_ALLOCATED };
        }
        c->ext_end = c->next + c->ext.len;
    }
    *flags = c->ext.flags;
    *at = c->next;
    *len = c->ext_end - c->next;
    if (!(c->ext.flags & IMAGE_ZERO) && (c->ext.flags & IMAGE_ALLOCATED || !c->only_top))
        *len = MIN(*len, PIECE - (c->compress ? *at % c->cluster : *at % PIECE));
    /* Compressed clusters are written whole, whatever they are made of. */
    if (c->compress) {
        u64 end = ROUND_UP(*at + *len, (u64)c->cluster);

        if (!(c->ext.flags & IMAGE_ZERO) || *len % c->cluster) {
            if (c->ext.flags & IMAGE_ZERO && *len > c->cluster)
                end = ROUND_DOWN(*at + *len, (u64)c->cluster);
            else
                *flags = IMAGE_DATA | IMAGE_ALLOCATED;
        }
        *len = MIN(end, c->total) - *at;
    }
    c->next += *len;
    return true;
}

static int read_all(struct convert *c, u64 at, u8 *buf, u64 len)
{
    while (len) {
        const struct source *s = source_at(c, at);
        u64 part = MIN(len, s->at + s->size - at);
        int r = image_read_now(s->img, at - s->at, buf, part);

        if (r && c->salvage) {
            for (u64 i = 0; i < part; i += 512) {
                if (image_read_now(s->img, at - s->at + i, buf + i, MIN(512, part - i))) {
                    if (!c->quiet)
                        img_fail("warning: error while reading offset %" G_GUINT64_FORMAT,
                                 at + i);
                    memset(buf + i, 0, MIN(512, part - i));
                }
            }
            r = 0;
        }
        if (r)
            return r;
        at += part;
        buf += part;
        len -= part;
    }
    return 0;
}

static bool is_zero(const u8 *p, u64 n)
{
    return !p[0] && !p[n - 1] && !p[n / 2] && (n == 1 || !memcmp(p, p + 1, n - 1));
}

static int put_zeroes(struct convert *c, u64 at, u64 len)
{
    return c->dst_zero ? 0 : image_zero_now(c->dst, at, len, true);
}

static int put_data(struct convert *c, u64 at, const u8 *buf, u64 len)
{
    g_mutex_lock(&c->write_lock);
    int r = image_write_now(c->dst, at, buf, len);
    g_mutex_unlock(&c->write_lock);
    return r;
}

static int put_plain(struct convert *c, u64 at, const u8 *buf, u64 len)
{
    u64 grain = c->sparse, done = 0;

    if (!c->detect || !grain)
        return put_data(c, at, buf, len);
    while (done < len) {
        /* A run of the same kind, in steps that lie on multiples of the grain. */
        u64 end = done;
        bool zero = false;

        while (end < len) {
            u64 step = MIN(len - end, grain - (at + end) % grain);
            bool z = is_zero(buf + end, step);

            if (end > done && z != zero)
                break;
            zero = z;
            end += step;
        }
        int r = zero ? put_zeroes(c, at + done, end - done)
                     : put_data(c, at + done, buf + done, end - done);
        if (r)
            return r;
        done = end;
    }
    return 0;
}

static int put_packed(struct convert *c, u64 at, const u8 *buf, u64 len)
{
    for (u64 done = 0; done < len;) {
        u64 part = MIN(len - done, c->cluster);
        int r;

        if (is_zero(buf + done, part))
            r = put_zeroes(c, at + done, part);
        else
            r = image_write_compressed_now(c->dst, at + done, buf + done, part);
        if (r)
            return r;
        done += part;
    }
    return 0;
}

static void keep_to_rate(struct convert *c, u64 len)
{
    g_mutex_lock(&c->lock);
    c->moved += len;
    s64 due = c->began + (s64)((double)c->moved * 1e6 / (double)c->rate);
    g_mutex_unlock(&c->lock);
    s64 wait = due - g_get_monotonic_time();
    if (wait > 0)
        g_usleep((gulong)wait);
}

static void work(void *opaque)
{
    struct convert *c = opaque;
    u8 *buf = NULL;

    for (;;) {
        u64 at, len;
        u32 flags;

        g_mutex_lock(&c->lock);
        bool more = take(c, &at, &len, &flags);
        g_mutex_unlock(&c->lock);
        if (!more)
            break;
        if (c->only_top && !(flags & IMAGE_ALLOCATED)) {
            img_progress_add(&c->progress, len);
            continue;
        }
        int r;
        if (flags & IMAGE_ZERO) {
            g_mutex_lock(&c->write_lock);
            r = put_zeroes(c, at, len);
            g_mutex_unlock(&c->write_lock);
            if (r)
                stop(c, r, "error while writing at byte %" G_GUINT64_FORMAT, at);
        } else {
            if (!buf)
                buf = g_malloc(PIECE + (2 << 20));
            r = read_all(c, at, buf, len);
            if (r) {
                stop(c, r, "error while reading at byte %" G_GUINT64_FORMAT, at);
                break;
            }
            r = c->compress ? put_packed(c, at, buf, len) : put_plain(c, at, buf, len);
            if (r)
                stop(c, r, "error while writing at byte %" G_GUINT64_FORMAT, at);
            if (c->rate)
                keep_to_rate(c, len);
        }
        img_progress_add(&c->progress, len);
    }
    g_free(buf);
}

/* --- the command ----------------------------------------------------------------------------
 */

struct args {
    const char *out_format, *backing, *backing_format, *snapshot;
    struct dict *options;
    struct img_open in, out;
    u64 sparse, rate;
    u32 threads;
    bool compress, no_create, target_zero, progress, quiet, salvage, bitmaps, skip_broken;
};

static const char *snapshot_name(const char *param)
{
    if (g_str_has_prefix(param, "snapshot.id="))
        return param + 12;
    return g_str_has_prefix(param, "snapshot.name=") ? param + 14 : param;
}

/* 0: go on; else the exit status + 1. */
static int parse(int argc, char **argv, struct args *a)
{
    enum { IMAGE_OPTS = 256, TARGET_IMAGE_OPTS, TARGET_ZERO, SALVAGE, BITMAPS, SKIP_BROKEN };
    static const struct option longs[] = {
        { "force-share", no_argument, NULL, 'U' },
        { "image-opts", no_argument, NULL, IMAGE_OPTS },
        { "target-image-opts", no_argument, NULL, TARGET_IMAGE_OPTS },
        { "target-is-zero", no_argument, NULL, TARGET_ZERO },
        { "salvage", no_argument, NULL, SALVAGE },
        { "bitmaps", no_argument, NULL, BITMAPS },
        { "skip-broken-bitmaps", no_argument, NULL, SKIP_BROKEN },
        { "source-format", required_argument, NULL, 'f' },
        { "source-cache", required_argument, NULL, 'T' },
        { "cache", required_argument, NULL, 't' },
        { "snapshot", required_argument, NULL, 'l' },
        { 0 },
    };
    u64 n;
    int ch;

    while ((ch = getopt_long(argc, argv, "hf:O:B:CcF:o:l:S:pt:T:qnm:WUr:", longs, NULL)) !=
           -1) {
        switch (ch) {
        case 'f':
            a->in.format = optarg;
            break;
        case 'O':
            a->out_format = optarg;
            break;
        case 'B':
            a->backing = optarg;
            break;
        case 'F':
            a->backing_format = optarg;
            break;
        case 'C':
        case 'W':
            break; /* copies are out of order as it is, and offloading is a hint */
        case 'c':
            a->compress = true;
            break;
        case 'o':
            if (img_is_help(optarg)) {
                GError *error = NULL;
                g_autofree char *text = image_create_help(a->out_format, NULL, &error);

                if (!text)
                    return img_fail_error(error) + 1;
                printf("%s", text);
                return 1;
            }
            if (!img_add_options(&a->options, optarg))
                return 2;
            break;
        case 'l':
            a->in.snapshot = snapshot_name(optarg);
            break;
        case 'S':
            if (!img_size("sparse size", optarg, &a->sparse))
                return 2;
            if (a->sparse % 512 || a->sparse > INT32_MAX)
                return img_fail(
                           "Invalid buffer size for sparse output specified. Valid sizes are "
                           "multiples of 512 up to %d. Select 0 to disable sparse detection "
                           "(fully allocates output).",
                           INT32_MAX & ~511) +
                       1;
            break;
        case 'p':
            a->progress = true;
            break;
        case 'q':
            a->quiet = true;
            break;
        case 't':
            a->out.cache = optarg;
            break;
        case 'T':
            a->in.cache = optarg;
            break;
        case 'n':
            a->no_create = true;
            break;
        case 'm':
            if (!parse_size(optarg, 16, &n) || !n)
                return img_fail("Invalid number of coroutines. Allowed number of coroutines is "
                                "between 1 and 16") +
                       1;
            a->threads = (u32)n;
            break;
        case 'r':
            if (!img_size("rate limit", optarg, &a->rate))
                return 2;
            break;
        case 'U':
            a->in.force_share = true;
            break;
        case IMAGE_OPTS:
            a->in.image_opts = true;
            break;
        case TARGET_IMAGE_OPTS:
            a->out.image_opts = true;
            break;
        case TARGET_ZERO:
            a->target_zero = true;
            break;
        case SALVAGE:
            a->salvage = true;
            break;
        case BITMAPS:
            a->bitmaps = a->in.bitmaps = true;
            break;
        case SKIP_BROKEN:
            a->skip_broken = true;
            break;
        default:
            return img_usage("convert") + 1;
        }
    }
    if (a->skip_broken && !a->bitmaps)
        return img_fail("Use of --skip-broken-bitmaps requires --bitmaps") + 1;
    if (a->target_zero && !a->no_create)
        return img_fail("--target-is-zero requires use of -n flag") + 1;
    if (a->out.image_opts && !a->no_create)
        return img_fail("--target-image-opts requires use of -n flag") + 1;
    return 0;
}

static bool make_target(const struct convert *c, struct args *a, const char *name)
{
    GError *error = NULL;
    struct dict *o = a->options ? dict_copy(a->options) : dict_new();
    char text[32];

    if (a->backing)
        dict_set(o, "backing_file", a->backing);
    if (a->backing_format)
        dict_set(o, "backing_fmt", a->backing_format);
    if (dict_peek(o, "backing_file") && !dict_peek(o, "backing_fmt")) {
        dict_free(o);
        img_fail("backing format must be specified if -B is used: use -F");
        return false;
    }
    g_snprintf(text, sizeof text, "%" G_GUINT64_FORMAT, c->total);
    u64 size = c->total;
    if (dict_peek(o, "size"))
        size = UINT64_MAX;
    if (image_create(name, a->out_format, size, o, false, NULL, &error))
        return true;
    img_fail("%s: error while converting %s: %s", name, a->out_format, error->message);
    g_error_free(error);
    return false;
}

/* The secrets by which the target is made open it, too. */
static struct dict *key_secrets(const struct dict *options)
{
    static const char *const keys[] = { "key-secret", "encrypt.key-secret" };
    struct dict *d = dict_new();

    for (size_t i = 0; options && i < ARRAY_LEN(keys); i++) {
        if (dict_has(options, keys[i]))
            dict_set(d, keys[i], dict_peek(options, keys[i]));
    }
    return d;
}

static bool encrypts(const struct dict *options)
{
    return options && (dict_has(options, "encrypt.format") ||
                       g_strcmp0(dict_peek(options, "encryption"), "on") == 0);
}

static int convert(struct convert *c, struct args *a, const char *target)
{
    g_autodict secrets = key_secrets(a->options);

    if (a->compress && !a->no_create && encrypts(a->options))
        return img_fail("Compression and encryption not supported at the same time");
    if (!a->no_create && !make_target(c, a, target))
        return 1;
    if (!a->no_create)
        a->out.driver = secrets;
    a->out.write = true;
    a->out.format = a->out.image_opts ? NULL : a->out_format;
    if (!a->out.cache)
        a->out.cache = "unsafe";
    c->dst = img_open(target, &a->out);
    a->out.driver = NULL;
    if (!c->dst)
        return 1;
    if (a->bitmaps && !image_keeps_bitmaps(c->dst))
        return img_fail("Format driver '%s' does not support bitmaps", image_format(c->dst));
    if (c->compress && !image_can_compress(c->dst))
        return img_fail("Compression not supported for this file format");
    if (image_size(c->dst) < c->total)
        return img_fail("output file is smaller than input file");
    c->cluster = image_cluster_size(c->dst) ? image_cluster_size(c->dst) : 65536;
    c->dst_zero = a->target_zero ||
                  (!a->no_create && image_new_is_zero(c->dst) && !image_has_backing(c->dst));
    c->only_top =
        image_has_backing(c->dst) && c->n_src == 1 && image_has_backing(c->src[0].img);
    c->detect = c->sparse;
    /* In a format with clusters short runs of zeroes save nothing. */
    if (image_cluster_size(c->dst) && c->sparse)
        c->sparse = MAX(c->sparse, 16384);
    if (!c->sparse && !c->compress)
        c->dst_zero = false;
    c->began = g_get_monotonic_time();
    img_progress_start(&c->progress, a->progress && !a->quiet, c->total);
    img_run(a->threads, work, c);
    if (!c->failed)
        img_progress_end(&c->progress);
    if (!c->failed && a->bitmaps)
        c->failed = !img_copy_bitmaps(c->src[0].img, c->dst);
    int r = image_finish(c->dst);
    c->dst = NULL;
    if (r && !c->failed)
        return img_fail("%s: %s", target, g_strerror(-r));
    return c->failed;
}

int img_convert(int argc, char **argv)
{
    struct args a = { .out_format = "raw", .sparse = 4096, .threads = img_threads() };
    g_autofree struct convert *c = g_new0(struct convert, 1);
    int r = parse(argc, argv, &a);

    if (!r && argc - optind < 2)
        r = img_fail("Must specify image file name") + 1;
    if (!r && argc - optind - 1 > SOURCES_MAX)
        r = img_fail("At most %d inputs", SOURCES_MAX) + 1;
    g_mutex_init(&c->lock);
    g_mutex_init(&c->write_lock);
    for (int i = optind; !r && i < argc - 1; i++) {
        struct source *s = &c->src[c->n_src];

        if (!(s->img = img_open(argv[i], &a.in))) {
            r = 2;
            break;
        }
        s->at = c->total;
        s->size = image_size(s->img);
        c->total += s->size;
        c->n_src++;
    }
    if (!r && a.bitmaps && c->n_src > 1)
        r = img_fail("Copying bitmaps only possible with single source") + 1;
    if (!r && a.bitmaps && !image_keeps_bitmaps(c->src[0].img))
        r = img_fail("Source lacks bitmap support") + 1;
    if (!r && a.bitmaps && !img_check_bitmaps(c->src[0].img, a.skip_broken))
        r = 2;
    if (!r) {
        c->sparse = a.sparse;
        c->compress = a.compress;
        c->salvage = a.salvage;
        c->quiet = a.quiet;
        c->rate = a.rate;
        r = convert(c, &a, argv[argc - 1]) + 1;
    }
    for (u32 i = 0; i < c->n_src; i++)
        image_close(c->src[i].img);
    image_close(c->dst);
    g_mutex_clear(&c->lock);
    g_mutex_clear(&c->write_lock);
    dict_free(a.options);
    return r - 1;
}
