// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * luks_fuzz.c - fuzz target of encrypted images: a good one with patches in its headers.
 *
 * byte 0: bits 0-1: luks, qcow2 with luks, qcow2 with aes; the others say what is done with it.
 * Then patches: place (2 bytes; the top bit: in the header of LUKS, else from the image's
 * begin), length, bytes.
 *
 * Iterations that would be taken, but take long, are made fewer here: those that are too many
 * stay, since they are to be refused.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/secret.h"
#include "fuzz.h"
#include "image/image.h"

enum { DISK = 64 << 10, KINDS = 3, HEAD = 1024, PATCH = 8, PAGE = 4096 };
enum { ITERATIONS_FEW = 1500, ITERATIONS_MANY = 1 << 29 };

static const struct {
    const char *format, *options, *open;
} kinds[KINDS] = {
    { "luks", "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,key-secret=s,iter-time=1",
      "key-secret" },
    { "qcow2",
      "cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,"
      "encrypt.cipher-alg=serpent-128",
      "encrypt.key-secret" },
    { "qcow2", "cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s",
      "encrypt.key-secret" },
};
static struct {
    u8 *p;
    size_t n, luks_at; /* luks_at 0: at the begin, or nowhere */
} good[KINDS];

static int fd = -1;
static char path[32];

static void put_file(const u8 *p, size_t n)
{
    static const u8 none[PAGE];

    if (fd >= 0)
        close(fd);
    fd = memfd_create("image", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (size_t at = 0; at < n; at += PAGE) { /* holes stay holes */
        size_t len = MIN(PAGE, n - at);

        if (memcmp(p + at, none, len) && pwrite(fd, p + at, len, (off_t)at) != (ssize_t)len)
            abort();
    }
    if (ftruncate(fd, (off_t)n))
        abort();
}

static struct image *open_it(unsigned kind, const char *secret, bool write, bool no_io)
{
    g_autodict d = dict_new();
    struct image_options o = { .format = kinds[kind].format,
                               .read_only = !write,
                               .no_io = no_io,
                               .no_backing = true,
                               .driver = d,
                               .cache = IMAGE_UNSAFE };
    GError *error = NULL;

    if (secret)
        dict_set(d, kinds[kind].open, secret);
    struct image *img = image_open(path, &o, &error);
    if (!img != !!error)
        abort();
    g_clear_error(&error);
    return img;
}

static void build(void)
{
    static const struct secret_props secrets[] = {
        { .id = (char *)"s", .data = (char *)"open sesame" },
        { .id = (char *)"w", .data = (char *)"something else" }
    };

    secret_add(&secrets[0], NULL);
    secret_add(&secrets[1], NULL);
    for (unsigned k = 0; k < KINDS; k++) {
        u8 some[3000];

        put_file(NULL, 0);
        if (!image_create(path, kinds[k].format, DISK,
                          dict_from_text(kinds[k].options, NULL, NULL), false, NULL, NULL))
            abort();
        struct image *img = open_it(k, "s", true, false);
        memset(some, 0x5a, sizeof some);
        if (!img || image_write_now(img, 3001, some, sizeof some))
            abort();
        image_close(img);
        good[k].n = (size_t)lseek(fd, 0, SEEK_END);
        good[k].p = g_malloc(good[k].n);
        if (pread(fd, good[k].p, good[k].n, 0) != (ssize_t)good[k].n)
            abort();
        for (size_t at = PAGE; k == 1 && at < good[k].n && !good[k].luks_at; at += PAGE) {
            if (!memcmp(good[k].p + at, "LUKS", 4))
                good[k].luks_at = at;
        }
    }
}

static void fewer(u8 *p)
{
    u32 v = (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];

    if (v > ITERATIONS_FEW && v < ITERATIONS_MANY) {
        v = 1 + v % ITERATIONS_FEW;
        p[0] = p[1] = 0;
        p[2] = (u8)(v >> 8);
        p[3] = (u8)v;
    }
}

static void look(struct image *img)
{
    static u8 buf[8192];
    struct image_check k = { 0 };
    u64 size = image_size(img), n = MIN(size, sizeof buf);
    GError *error = NULL;

    image_info_free(image_get_info(img));
    image_read_now(img, 0, buf, n);
    image_read_now(img, size - n, buf, n);
    image_check(img, REPAIR_NONE, &k, &error);
    g_clear_error(&error);
}

static void change(struct image *img, unsigned kind, u8 how)
{
    static const char *const amends[] = { "state=active,new-secret=w,iter-time=1",
                                          "state=inactive,old-secret=s",
                                          "state=inactive,keyslot=1",
                                          "state=active,new-secret=w,keyslot=1,iter-time=1" };
    static u8 out[5000], in[5000];
    struct image_check k = { 0 };
    u64 size = image_size(img), n = MIN(size, sizeof out), at = (size - n) / 2;
    GError *error = NULL;

    bool sound = kind == 0 || (image_check(img, REPAIR_NONE, &k, &error) && !k.corruptions &&
                               !k.check_errors);
    g_clear_error(&error);
    memset(out, how, n);
    if (!image_write_now(img, at, out, n) && sound &&
        (image_read_now(img, at, in, n) || memcmp(in, out, n)))
        abort();
    if (how & 0x40) {
        g_autodict o = dict_from_text(amends[how >> 2 & 3], NULL, NULL);
        struct dict *options = dict_new();

        dict_merge(options, o);
        if (kind) {
            struct dict *inner = options;

            options = dict_new();
            dict_put(options, "encrypt", inner);
        }
        image_amend(img, options, how & 0x20, &error);
        g_clear_error(&error);
    }
    if (how & 0x80) {
        image_resize(img, 4096, NULL, &error);
        g_clear_error(&error);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    if (!n)
        return 0;
    if (!good[0].p)
        build();
    unsigned kind = data[0] % 4 % KINDS;
    g_autofree u8 *p = g_memdup2(good[kind].p, good[kind].n);
    size_t luks = good[kind].luks_at;

    for (size_t left = n - 1; left > 3;) {
        const u8 *patch = data + n - left;
        size_t at = (size_t)(patch[0] << 8 | patch[1]),
               len = MIN(patch[2] % PATCH + 1u, left - 3);

        at = (at & 0x7fff) % HEAD + (at & 0x8000 ? luks : 0);
        memcpy(p + at, patch + 3, len);
        left -= 3 + len;
    }
    if (kind < 2) {
        fewer(p + luks + 164);
        for (unsigned i = 0; i < 8; i++)
            fewer(p + luks + 208 + 48 * i + 4);
    }
    put_file(p, good[kind].n);
    struct image *img = open_it(kind, NULL, false, true);
    if (img)
        look(img);
    image_close(img);
    img = open_it(kind, data[0] & 0x10 ? "w" : "s", true, false);
    if (img)
        change(img, kind, data[0]);
    image_close(img);
    return 0;
}

/* ---- seeds for the replay ------------------------------------------------------------------
 */

enum { PLACES = 2 };
const unsigned fuzz_seeds = KINDS * PLACES;

/* A word of a header each, and one behind it. */
size_t fuzz_seed(unsigned i, u8 *to)
{
    static const u16 places[PLACES] = { 104, 252 };
    unsigned kind = i % KINDS, at = places[i / KINDS];
    u8 *p = to;

    *p++ = (u8)(kind | (i * 37 & 0xfc));
    for (unsigned k = 0; k < 2; k++, at += 4) {
        *p++ = (u8)(at >> 8 | (kind == 1 ? 0x80 : 0));
        *p++ = (u8)at;
        *p++ = 3;
        memset(p, k ? 0xff : 0, 4);
        p += 4;
    }
    return (size_t)(p - to);
}
