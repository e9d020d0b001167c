// SPDX-License-Identifier: GPL-2.0-or-later
/* copy.c - dd and bench. */
#include <string.h>

#include "img/img.h"

enum { IMAGE_OPTS = 256, FLUSH, NO_DRAIN, PATTERN, DEPTH_MAX = 512 };

/* --- dd --------------------------------------------------------------------------------------
 */

static int copy_blocks(struct image *in, struct image *out, u64 from, u64 len, u64 bs)
{
    g_autofree u8 *buf = g_malloc(bs);
    int r = 0;

    for (u64 done = 0; !r && done < len; done += bs) {
        u64 part = MIN(bs, len - done);

        r = image_read_now(in, from + done, buf, part);
        if (!r)
            r = image_write_now(out, done, buf, part);
    }
    return r;
}

int img_dd(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct img_open h = { 0 }, ho = { .write = true };
    const char *format = "raw", *from = NULL, *to = NULL;
    u64 bs = 512, count = UINT64_MAX, skip = 0;
    GError *error = NULL;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:O:U", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'O':
            format = optarg;
            break;
        case 'U':
            h.force_share = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("dd");
        }
    }
    for (int i = optind; i < argc; i++) {
        const char *v = strchr(argv[i], '=');

        if (!v)
            return img_fail("unrecognized operand %s", argv[i]);
        v++;
        if (g_str_has_prefix(argv[i], "if="))
            from = v;
        else if (g_str_has_prefix(argv[i], "of="))
            to = v;
        else if (g_str_has_prefix(argv[i], "bs=")) {
            if (!parse_size(v, 1 << 30, &bs) || !bs)
                return img_fail("invalid number: '%s'", v);
        } else if (g_str_has_prefix(argv[i], "count=")) {
            if (!parse_size(v, INT64_MAX, &count))
                return img_fail("invalid number: '%s'", v);
        } else if (g_str_has_prefix(argv[i], "skip=")) {
            if (!parse_size(v, INT64_MAX, &skip))
                return img_fail("invalid number: '%s'", v);
        } else {
            return img_fail("unrecognized operand %s", argv[i]);
        }
    }
    if (!from || !to)
        return img_fail("Must specify both input and output file names");
    struct image *in = img_open(from, &h);
    if (!in)
        return 1;
    u64 size = image_size(in), start, len;
    if (__builtin_mul_overflow(skip, bs, &start) || start > size) {
        img_fail("%s: cannot skip to specified offset", from);
        start = size;
    }
    if (__builtin_mul_overflow(count, bs, &len))
        len = UINT64_MAX;
    len = MIN(len > size ? size : len, size - start);
    int r = 0;
    struct image *out = NULL;
    if (!image_create(to, format, len, dict_new(), false, NULL, &error)) {
        r = img_fail("%s: error while creating output image of type %s: %s", to, format,
                     error->message);
        g_error_free(error);
    } else {
        ho.format = format;
        out = img_open(to, &ho);
        r = !out;
    }
    if (!r) {
        int e = copy_blocks(in, out, start, len, bs);

        if (e)
            r = img_fail("error while copying: %s", g_strerror(-e));
    }
    image_close(in);
    int e = image_finish(out);
    return r || !e ? r : img_fail("%s: %s", to, g_strerror(-e));
}

/* --- bench -----------------------------------------------------------------------------------
 */

struct bench {
    struct image *img;
    GMutex lock;
    GCond changed;
    u64 at, step, size;
    u32 bytes, left, under_way, flush_every, since_flush;
    bool write, drain, flushing, reaps;
    int ret;
};
struct bench_slot {
    struct bench *b;
    struct iovec v;
};

static void bench_done(void *opaque, int ret)
{
    struct bench *b = ((struct bench_slot *)opaque)->b;

    g_mutex_lock(&b->lock);
    if (ret)
        b->ret = ret;
    b->under_way--;
    ((struct bench_slot *)opaque)->v.iov_len = 0; /* free again */
    g_cond_signal(&b->changed);
    g_mutex_unlock(&b->lock);
}

static void flush_done(void *opaque, int ret)
{
    struct bench *b = opaque;

    g_mutex_lock(&b->lock);
    if (ret)
        b->ret = ret;
    b->flushing = false;
    g_cond_signal(&b->changed);
    g_mutex_unlock(&b->lock);
}

/* Until a request has come back. REQUIRES(b->lock), let go of meanwhile */
static void bench_wait(struct bench *b)
{
    enum { LOOK_AGAIN = 1 }; /* ms: threads may have had a part of them */

    if (!b->reaps) {
        g_cond_wait(&b->changed, &b->lock);
        return;
    }
    g_mutex_unlock(&b->lock);
    image_batch(b->img, false);
    if (!image_reap(b->img)) {
        image_reap_wait(b->img, LOOK_AGAIN);
        image_reap(b->img);
    }
    image_batch(b->img, true);
    g_mutex_lock(&b->lock);
}

/* REQUIRES(b->lock), let go of while waiting and submitting */
static void bench_run(struct bench *b, struct bench_slot *slots, u32 depth)
{
    while (!b->ret && (b->left || b->under_way || b->flushing)) {
        bool flush = b->flush_every && b->since_flush >= b->flush_every && !b->flushing;

        if (flush && b->drain && b->under_way) {
            bench_wait(b);
            continue;
        }
        if (flush) {
            b->since_flush = 0;
            b->flushing = true;
            g_mutex_unlock(&b->lock);
            image_flush(b->img, flush_done, b);
            g_mutex_lock(&b->lock);
            continue;
        }
        if (!b->left || b->under_way == depth || (b->flushing && b->drain)) {
            bench_wait(b);
            continue;
        }
        u32 i = 0;
        while (slots[i].v.iov_len)
            i++;
        u64 at = b->at;
        b->at += b->step;
        if (b->at > b->size - b->bytes)
            b->at = (b->at - at) % MAX(b->size - b->bytes, 1) / 512 * 512;
        b->left--;
        b->under_way++;
        b->since_flush++;
        slots[i].v.iov_len = b->bytes;
        g_mutex_unlock(&b->lock);
        if (b->write)
            image_write(b->img, at, &slots[i].v, 1, false, bench_done, &slots[i]);
        else
            image_read(b->img, at, &slots[i].v, 1, bench_done, &slots[i]);
        g_mutex_lock(&b->lock);
    }
}

int img_bench(int argc, char **argv)
{
    static const struct option longs[] = { { "flush-interval", required_argument, NULL, FLUSH },
                                           { "pattern", required_argument, NULL, PATTERN },
                                           { "no-drain", no_argument, NULL, NO_DRAIN },
                                           { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct bench b = { .drain = true };
    struct img_open h = { 0 };
    u64 count = 75000, depth = 64, offset = 0, bytes = 4096, step = 0, flush = 0, pattern = 0;
    bool quiet = false;
    int ch;

    while ((ch = getopt_long(argc, argv, "c:d:f:i:no:qs:S:t:wU", longs, NULL)) != -1) {
        bool ok = true;

        switch (ch) {
        case 'c':
            ok = parse_size(optarg, INT32_MAX, &count);
            break;
        case 'd':
            ok = parse_size(optarg, DEPTH_MAX, &depth) && depth;
            break;
        case 'f':
            h.format = optarg;
            break;
        case 'i':
            h.aio = optarg;
            break;
        case 'n':
            h.aio = "native";
            break;
        case 'o':
            ok = parse_size(optarg, INT64_MAX, &offset);
            break;
        case 'q':
            quiet = true;
            break;
        case 's':
            ok = parse_size(optarg, 1 << 30, &bytes) && bytes;
            break;
        case 'S':
            ok = parse_size(optarg, INT32_MAX, &step);
            break;
        case 't':
            h.cache = optarg;
            break;
        case 'w':
            b.write = h.write = true;
            break;
        case 'U':
            h.force_share = true;
            break;
        case FLUSH:
            ok = parse_size(optarg, INT32_MAX, &flush);
            break;
        case PATTERN:
            ok = parse_size(optarg, 255, &pattern);
            break;
        case NO_DRAIN:
            b.drain = false;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("bench");
        }
        if (!ok)
            return img_fail("Invalid number for -%c: %s", ch < 256 ? ch : '-', optarg);
    }
    if (argc - optind != 1)
        return img_fail("Expecting one image file name");
    if (flush && !b.write)
        return img_fail("--flush-interval is only available in write tests");
    if (flush && flush < depth)
        return img_fail("Flush interval can't be smaller than depth");
    if (!(b.img = img_open(argv[optind], &h)))
        return 1;
    b.size = image_size(b.img);
    if (b.size < bytes || offset > b.size - bytes) {
        image_close(b.img);
        return img_fail("the image is smaller than that");
    }
    b.at = offset;
    b.bytes = (u32)bytes;
    b.step = step ? step : bytes;
    b.left = (u32)count;
    b.flush_every = (u32)flush;
    if (!quiet) {
        printf("Sending %u %s requests, %u bytes each, %u in parallel (starting at offset "
               "%" G_GUINT64_FORMAT ", step size %" G_GUINT64_FORMAT ")\n",
               b.left, b.write ? "write" : "read", b.bytes, (u32)depth, b.at, b.step);
        if (flush)
            printf("Sending flush every %u %srequests\n", b.flush_every,
                   b.drain ? "" : "overlapping ");
    }
    g_autofree u8 *buf = g_malloc(bytes * depth);
    g_autofree struct bench_slot *slots = g_new0(struct bench_slot, depth);
    memset(buf, (int)pattern, bytes * depth);
    for (u64 i = 0; i < depth; i++)
        slots[i] = (struct bench_slot){ &b, { buf + i * bytes, 0 } };
    b.reaps = image_reap_by(b.img, -1);
    s64 began = g_get_monotonic_time();
    image_batch(b.img, true);
    g_mutex_lock(&b.lock);
    bench_run(&b, slots, (u32)depth);
    g_mutex_unlock(&b.lock);
    image_batch(b.img, false);
    image_drain(b.img);
    double took = (double)(g_get_monotonic_time() - began) / 1e6;
    int r = b.ret ? img_fail("Failed request: %s", g_strerror(-b.ret)) : 0;
    if (!r && !quiet)
        printf("Run completed in %3.3f seconds.\n", took);
    int e = image_finish(b.img);
    return r || !e ? r : img_fail("%s: %s", argv[optind], g_strerror(-e));
}
