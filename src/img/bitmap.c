// SPDX-License-Identifier: GPL-2.0-or-later
/* bitmap.c - bitmap: the dirty bitmaps that an image keeps; and what convert does with them. */
#include <string.h>

#include "img/img.h"

enum { IMAGE_OPTS = 256, ADD, REMOVE, CLEAR, ENABLE, DISABLE, MERGE, ACTIONS_MAX = 64 };

struct action {
    int what;
    const char *source; /* MERGE */
};

static const char *action_name(int what)
{
    static const char *const names[] = {
        "add", "remove", "clear", "enable", "disable", "merge"
    };

    return names[what - ADD];
}

static bool act(struct image *img, const char *name, const struct action *a, u64 granularity,
                struct image *source, GError **error)
{
    switch (a->what) {
    case ADD:
        return image_bitmap_add(img, name, granularity, false, error);
    case REMOVE:
        return image_bitmap_remove(img, name, error);
    case CLEAR:
        return image_bitmap_clear(img, name, error);
    case ENABLE:
    case DISABLE:
        return image_bitmap_enable(img, name, a->what == ENABLE, error);
    default:
        return image_bitmap_merge(img, name, source ? source : img, a->source, error);
    }
}

static bool is_inconsistent(struct image *img, const char *name)
{
    struct image_bitmap b;

    for (u32 i = 0; image_bitmap_get(img, i, &b); i++) {
        if (strcmp(b.name, name) == 0)
            return b.inconsistent;
    }
    return false;
}

int img_bitmap(int argc, char **argv)
{
    static const struct option longs[] = {
        { "image-opts", no_argument, NULL, IMAGE_OPTS },
        { "add", no_argument, NULL, ADD },
        { "remove", no_argument, NULL, REMOVE },
        { "clear", no_argument, NULL, CLEAR },
        { "enable", no_argument, NULL, ENABLE },
        { "disable", no_argument, NULL, DISABLE },
        { "merge", required_argument, NULL, MERGE },
        { "granularity", required_argument, NULL, 'g' },
        { "source-file", required_argument, NULL, 'b' },
        { "source-format", required_argument, NULL, 'F' },
        { 0 },
    };
    struct img_open h = { .write = true, .no_backing = true }, src = { .bitmaps = true };
    struct action actions[ACTIONS_MAX];
    const char *source_name = NULL;
    u64 granularity = 0;
    u32 n = 0;
    bool add = false, merge = false;
    GError *error = NULL;
    int ch;

    while ((ch = getopt_long(argc, argv, "b:f:F:g:", longs, NULL)) != -1) {
        switch (ch) {
        case 'b':
            source_name = optarg;
            break;
        case 'f':
            h.format = optarg;
            break;
        case 'F':
            src.format = optarg;
            break;
        case 'g':
            if (!img_size("granularity", optarg, &granularity))
                return 1;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        case ADD ... MERGE:
            if (n == ACTIONS_MAX)
                return img_fail("At most %d operations", ACTIONS_MAX);
            actions[n++] = (struct action){ ch, ch == MERGE ? optarg : NULL };
            add |= ch == ADD;
            merge |= ch == MERGE;
            break;
        default:
            return img_usage("bitmap");
        }
    }
    if (argc - optind != 2)
        return img_fail("Expecting filename and bitmap name");
    if (!n)
        return img_fail("Need at least one of --add, --remove, --clear, --enable, --disable, "
                        "or --merge");
    if (granularity && !add)
        return img_fail("granularity only supported with --add");
    if (src.format && !source_name)
        return img_fail("-F only supported with -b");
    if (source_name && !merge)
        return img_fail("Merge bitmap source file only supported with --merge");

    const char *name = argv[optind + 1];
    struct image *img = img_open(argv[optind], &h), *source = NULL;
    int r = img ? 0 : 1;
    if (!r && source_name && !(source = img_open(source_name, &src)))
        r = 1;
    for (u32 i = 0; !r && i < n; i++) {
        if (act(img, name, &actions[i], granularity, source, &error))
            continue;
        r = img_fail("Operation %s on bitmap %s failed: %s", action_name(actions[i].what), name,
                     error->message);
        if (is_inconsistent(img, name))
            fprintf(stderr, "Try block-dirty-bitmap-remove to delete this bitmap from disk\n");
        g_clear_error(&error);
    }
    if (img && !image_bitmaps_store(img, &error))
        r = img_fail_error(error);
    image_close(source);
    image_close(img);
    return r;
}

bool img_check_bitmaps(struct image *from, bool skip_broken)
{
    struct image_bitmap b;

    for (u32 i = 0; image_bitmap_get(from, i, &b); i++) {
        if (!b.inconsistent || skip_broken)
            continue;
        img_fail("Cannot copy inconsistent bitmap '%s'", b.name);
        fprintf(stderr,
                "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it\n");
        return false;
    }
    return true;
}

bool img_copy_bitmaps(struct image *from, struct image *to)
{
    struct image_bitmap b;
    GError *error = NULL;

    for (u32 i = 0; image_bitmap_get(from, i, &b); i++) {
        if (b.inconsistent) {
            img_fail("warning: Skipping inconsistent bitmap '%s'", b.name);
            continue;
        }
        if (!image_bitmap_add(to, b.name, b.granularity, true, &error)) {
            img_fail("Failed to create bitmap %s: %s", b.name, error->message);
            g_error_free(error);
            return false;
        }
        if (!image_bitmap_merge(to, b.name, from, b.name, &error) ||
            (b.recording && !image_bitmap_enable(to, b.name, true, &error))) {
            img_fail("Failed to populate bitmap %s: %s", b.name, error->message);
            g_error_free(error);
            return false;
        }
    }
    if (image_bitmaps_store(to, &error))
        return true;
    img_fail_error(error);
    return false;
}
