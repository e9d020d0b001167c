// SPDX-License-Identifier: GPL-2.0-or-later
/* change.c - create, resize, amend, snapshot. */
#include <string.h>
#include <time.h>

#include "img/img.h"

enum { IMAGE_OPTS = 256, SHRINK, PREALLOCATION, FORCE };

int img_create(int argc, char **argv)
{
    static const struct option longs[] = { { "format", required_argument, NULL, 'f' }, { 0 } };
    g_autodict options = NULL;
    const char *format = "raw", *backing = NULL, *backing_format = NULL;
    bool quiet = false, unsafe = false, list = false;
    u64 size = UINT64_MAX;
    GError *error = NULL;
    int ch;

    while ((ch = getopt_long(argc, argv, "F:b:f:o:qu", longs, NULL)) != -1) {
        switch (ch) {
        case 'F':
            backing_format = optarg;
            break;
        case 'b':
            backing = optarg;
            break;
        case 'f':
            format = optarg;
            break;
        case 'o':
            if (img_is_help(optarg))
                list = true;
            else if (!img_add_options(&options, optarg))
                return 1;
            break;
        case 'q':
            quiet = true;
            break;
        case 'u':
            unsafe = true;
            break;
        default:
            return img_usage("create");
        }
    }
    if (list) {
        g_autofree char *text = image_create_help(format, argv[optind], &error);

        if (!text)
            return img_fail_error(error);
        printf("%s", text);
        return 0;
    }
    if (optind >= argc)
        return img_fail("Expecting image file name");
    const char *name = argv[optind++];
    if (optind < argc && !img_size("image size", argv[optind++], &size))
        return 1;
    if (optind < argc)
        return img_fail("Unexpected argument: %s", argv[optind]);
    if (!options)
        options = dict_new();
    if (backing)
        dict_set(options, "backing_file", backing);
    if (backing_format)
        dict_set(options, "backing_fmt", backing_format);
    g_autofree char *said = NULL;
    bool ok =
        image_create(name, format, size, g_steal_pointer(&options), unsafe, &said, &error);
    if (said && !quiet)
        printf("%s\n", said);
    if (ok)
        return 0;
    img_fail("%s: %s", name, error->message);
    g_error_free(error);
    return 1;
}

int img_resize(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "preallocation", required_argument, NULL,
                                             PREALLOCATION },
                                           { "shrink", no_argument, NULL, SHRINK },
                                           { 0 } };
    struct img_open h = { .write = true };
    const char *preallocation = NULL, *text = NULL;
    bool quiet = false, shrink = false;
    GError *error = NULL;
    int ch;

    /* The size may begin with '-': it comes last and is no option. */
    if (argc > 1 && argv[argc - 1][0] == '-' && g_ascii_isdigit(argv[argc - 1][1]))
        text = argv[--argc];
    while ((ch = getopt_long(argc, argv, "f:q", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'q':
            quiet = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        case PREALLOCATION:
            preallocation = optarg;
            break;
        case SHRINK:
            shrink = true;
            break;
        default:
            return img_usage("resize");
        }
    }
    if (argc - optind != (text ? 1 : 2))
        return img_fail("Expecting image file name and size");
    const char *name = argv[optind];
    if (!text)
        text = argv[optind + 1];
    char sign = strchr("+-", *text) ? *text : 0;
    u64 size;
    if (!parse_size(text + !!sign, INT64_MAX, &size))
        return img_fail("Invalid image size specified: %s", text);
    struct image *img = img_open(name, &h);
    if (!img)
        return 1;
    u64 old = image_size(img);
    int r = 0;
    if (sign == '+')
        size = size > INT64_MAX - old ? INT64_MAX : old + size;
    else if (sign == '-')
        size = size > old ? 0 : old - size;
    /* Formats know sectors. */
    if (strcmp(image_format(img), "raw") != 0)
        size = ROUND_UP(size, 512);
    if (!size && !(sign == 0 && strchr(text, '0') == text)) {
        r = img_fail("New image size must be positive");
    } else if (size < old && !shrink) {
        img_fail("Use the --shrink option to perform a shrink operation.");
        r = img_fail("warning: Shrinking an image will delete all data beyond the shrunken "
                     "image's end. Before performing such an operation, make sure there is no "
                     "important data there.");
    } else if (size <= old && preallocation && strcmp(preallocation, "off") != 0) {
        r = img_fail("Preallocation can only be used for growing images");
    } else if (!image_resize(img, size, preallocation, &error)) {
        r = img_fail_error(error);
    }
    int e = image_finish(img);
    if (e && !r)
        r = img_fail("%s: %s", name, g_strerror(-e));
    if (!r && !quiet)
        printf("Image resized.\n");
    return r;
}

int img_amend(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force", no_argument, NULL, FORCE },
                                           { 0 } };
    struct img_open h = { .write = true };
    g_autodict options = NULL;
    bool list = false, progress = false, quiet = false, force = false;
    GError *error = NULL;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:t:o:pq", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 't':
            h.cache = optarg;
            break;
        case 'o':
            if (img_is_help(optarg))
                list = true;
            else if (!img_add_options(&options, optarg))
                return 1;
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
        case FORCE:
            force = true;
            break;
        default:
            return img_usage("amend");
        }
    }
    if (list && h.format) {
        g_autofree char *text = image_amend_help(h.format, &error);

        if (!text)
            return img_fail_error(error);
        printf("%s", text);
        return 0;
    }
    if (!options)
        return img_fail("Must specify options (-o)");
    if (argc - optind != 1)
        return img_fail("Expecting one image file name");
    struct image *img = img_open(argv[optind], &h);
    if (!img)
        return 1;
    struct img_progress p;
    img_progress_start(&p, progress && !quiet, 1);
    int r =
        image_amend(img, g_steal_pointer(&options), force, &error) ? 0 : img_fail_error(error);
    int e = image_finish(img);
    img_progress_end(&p);
    return r || !e ? r : img_fail("%s: %s", argv[optind], g_strerror(-e));
}

int img_snapshot(int argc, char **argv)
{
    static const struct option longs[] = { { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct img_open h = { .no_backing = true };
    const char *name = NULL;
    int action = 0, ch, r = 0;
    GError *error = NULL;

    while ((ch = getopt_long(argc, argv, "la:c:d:qU", longs, NULL)) != -1) {
        switch (ch) {
        case 'l':
        case 'a':
        case 'c':
        case 'd':
            if (action)
                return img_fail("Cannot mix '-l', '-a', '-c', '-d'");
            action = ch;
            name = optarg;
            break;
        case 'q':
            h.quiet = true;
            break;
        case 'U':
            h.force_share = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("snapshot");
        }
    }
    if (argc - optind != 1)
        return img_fail("Expecting one image file name");
    h.write = action && action != 'l';
    struct image *img = img_open(argv[optind], &h);
    if (!img)
        return 1;
    struct image_snapshot s = { .name = (char *)name, .icount = 0 };
    struct timespec now;
    switch (action) {
    case 0:
    case 'l': {
        g_autoptr(GPtrArray) list = image_snapshots(img);

        if (list && list->len)
            img_print_snapshots(list);
        break;
    }
    case 'c':
        clock_gettime(CLOCK_REALTIME, &now);
        s.date_sec = (u32)now.tv_sec;
        s.date_nsec = (u32)now.tv_nsec;
        if (!image_snapshot_create(img, &s, &error))
            r = img_fail("Could not create snapshot '%s': %s", name, error->message);
        break;
    case 'a':
        if (!image_snapshot_apply(img, name, &error))
            r = img_fail("Could not apply snapshot '%s': %s", name, error->message);
        break;
    case 'd':
        if (!image_snapshot_remove(img, name, &error))
            r = img_fail("Could not delete snapshot '%s': %s", name, error->message);
        break;
    }
    g_clear_error(&error);
    int e = image_finish(img);
    return r || !e ? r : img_fail("%s: %s", argv[optind], g_strerror(-e));
}
