// SPDX-License-Identifier: GPL-2.0-or-later
/* look.c - info, check, map, measure: commands that only look (check may repair). */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "img/img.h"

enum { OUTPUT = 256, IMAGE_OPTS, CHAIN, START, LENGTH, SIZE };

static void end_json(struct json_out *o)
{
    printf("%s\n", o->text->str);
    g_string_free(o->text, TRUE);
}

/* --- info ------------------------------------------------------------------------------------
 */

static void json_details(struct json_out *o, GPtrArray *details)
{
    for (guint i = 0; i < details->len; i++) {
        const struct image_detail *d = details->pdata[i];

        if (*d->name)
            json_key(o, d->name);
        switch (d->type) {
        case DETAIL_STR:
            json_str(o, d->text);
            break;
        case DETAIL_INT:
            json_int(o, d->number);
            break;
        case DETAIL_BOOL:
            json_bool(o, d->number);
            break;
        case DETAIL_LIST:
            json_open(o, '[');
            json_details(o, d->members);
            json_close(o, ']');
            break;
        case DETAIL_DICT:
            json_open(o, '{');
            json_details(o, d->members);
            json_close(o, '}');
            break;
        }
    }
}

static void json_snapshots(struct json_out *o, GPtrArray *list)
{
    json_open(o, '[');
    for (guint i = 0; i < list->len; i++) {
        const struct image_snapshot *s = list->pdata[i];

        json_open(o, '{');
        if (s->icount != UINT64_MAX)
            json_put_int(o, "icount", (s64)s->icount);
        json_put_int(o, "vm-clock-nsec", (s64)(s->vm_clock_nsec % NS_PER_SEC));
        json_put_str(o, "name", s->name);
        json_put_int(o, "date-sec", s->date_sec);
        json_put_int(o, "date-nsec", s->date_nsec);
        json_put_int(o, "vm-clock-sec", (s64)(s->vm_clock_nsec / NS_PER_SEC));
        json_put_str(o, "id", s->id);
        json_put_int(o, "vm-state-size", (s64)s->vm_state_size);
        json_close(o, '}');
    }
    json_close(o, ']');
}

static void json_info(struct json_out *o, const struct image_info *i)
{
    json_open(o, '{');
    if (i->snapshots && i->snapshots->len) {
        json_key(o, "snapshots");
        json_snapshots(o, i->snapshots);
    }
    if (i->backing_format)
        json_put_str(o, "backing-filename-format", i->backing_format);
    json_put_int(o, "virtual-size", (s64)i->virtual_size);
    json_put_str(o, "filename", i->filename);
    if (i->cluster_size)
        json_put_int(o, "cluster-size", i->cluster_size);
    json_put_str(o, "format", i->format);
    if (i->has_actual_size)
        json_put_int(o, "actual-size", (s64)i->actual_size);
    if (i->encrypted)
        json_put_bool(o, "encrypted", true);
    if (i->compressed)
        json_put_bool(o, "compressed", true);
    if (i->details && i->details->len) {
        json_key(o, "format-specific");
        json_open(o, '{');
        json_put_str(o, "type", i->format);
        json_key(o, "data");
        json_open(o, '{');
        json_details(o, i->details);
        json_close(o, '}');
        json_close(o, '}');
    }
    if (i->backing_filename) {
        json_put_str(o, "full-backing-filename", i->full_backing_filename);
        json_put_str(o, "backing-filename", i->backing_filename);
    }
    if (i->has_dirty || !strcmp(i->format, "raw"))
        json_put_bool(o, "dirty-flag", i->dirty);
    json_close(o, '}');
}

static void print_details(GPtrArray *details, u32 indent)
{
    for (guint i = 0; i < details->len; i++) {
        const struct image_detail *d = details->pdata[i];
        g_autofree char *name = g_strdelimit(g_strdup(d->name), "-", ' ');

        printf("%*s", (int)indent * 4, "");
        if (*name)
            printf("%s:", name);
        else
            printf("[%u]:", i);
        switch (d->type) {
        case DETAIL_STR:
            printf(" %s\n", d->text);
            break;
        case DETAIL_INT:
            printf(" %" G_GINT64_FORMAT "\n", d->number);
            break;
        case DETAIL_BOOL:
            printf(" %s\n", d->number ? "true" : "false");
            break;
        default:
            printf("\n");
            print_details(d->members, indent + 1);
        }
    }
}

void img_print_snapshots(GPtrArray *list)
{
    printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE",
           "VM CLOCK", "ICOUNT");
    for (guint i = 0; i < list->len; i++) {
        const struct image_snapshot *s = list->pdata[i];
        char size[32], date[32], clock[32], icount[32] = "";
        time_t t = s->date_sec;
        struct tm tm;
        u64 secs = s->vm_clock_nsec / NS_PER_SEC;

        img_size_text(s->vm_state_size, size, sizeof size);
        localtime_r(&t, &tm);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
        g_snprintf(clock, sizeof clock, "%02d:%02d:%02d.%03d", (int)(secs / 3600),
                   (int)(secs / 60 % 60), (int)(secs % 60),
                   (int)(s->vm_clock_nsec / 1000000 % 1000));
        if (s->icount != UINT64_MAX)
            g_snprintf(icount, sizeof icount, "%" G_GUINT64_FORMAT, s->icount);
        printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date, clock, icount);
    }
}

static void print_info(const struct image_info *i)
{
    char virtual[32], actual[32] = "unavailable";

    img_size_text(i->virtual_size, virtual, sizeof virtual);
    if (i->has_actual_size)
        img_size_text(i->actual_size, actual, sizeof actual);
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" G_GUINT64_FORMAT " bytes)\n"
           "disk size: %s\n",
           i->filename, i->format, virtual, i->virtual_size, actual);
    if (i->encrypted)
        printf("encrypted: yes\n");
    if (i->cluster_size)
        printf("cluster_size: %u\n", i->cluster_size);
    if (i->dirty)
        printf("cleanly shut down: no\n");
    if (i->backing_filename) {
        printf("backing file: %s", i->backing_filename);
        if (strcmp(i->backing_filename, i->full_backing_filename) != 0)
            printf(" (actual path: %s)", i->full_backing_filename);
        printf("\n");
        if (i->backing_format)
            printf("backing file format: %s\n", i->backing_format);
    }
    if (i->snapshots && i->snapshots->len)
        img_print_snapshots(i->snapshots);
    if (i->details && i->details->len) {
        printf("Format specific information:\n");
        print_details(i->details, 1);
    }
}

int img_info(int argc, char **argv)
{
    static const struct option longs[] = { { "format", required_argument, NULL, 'f' },
                                           { "output", required_argument, NULL, OUTPUT },
                                           { "backing-chain", no_argument, NULL, CHAIN },
                                           { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct img_open h = { .no_backing = true, .check = true, .no_io = true };
    struct json_out o = { .pretty = true };
    bool json = false, chain = false;
    int ch, ret = 0;

    while ((ch = getopt_long(argc, argv, "f:U", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'U':
            h.force_share = true;
            break;
        case OUTPUT:
            if (!img_json(optarg, &json))
                return 1;
            break;
        case CHAIN:
            chain = true;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("info");
        }
    }
    if (optind != argc - 1)
        return img_fail("Expecting one image file name");

    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)image_info_free);
    g_autofree char *name = g_strdup(argv[optind]);
    g_autofree char *format = g_strdup(h.format);
    while (name) {
        if (!g_hash_table_add(seen, g_strdup(name))) {
            ret = img_fail("Backing file '%s' creates an infinite loop.", name);
            break;
        }
        h.format = format;
        struct image *img = img_open(name, &h);
        if (!img) {
            ret = 1;
            break;
        }
        struct image_info *i = image_get_info(img);
        image_close(img);
        g_ptr_array_add(all, i);
        h.image_opts = false;
        g_free(name);
        g_free(format);
        name = chain ? g_strdup(i->full_backing_filename) : NULL;
        format = g_strdup(i->backing_format);
    }
    if (ret)
        return ret;
    if (json) {
        o.text = g_string_new(NULL);
        if (chain)
            json_open(&o, '[');
    }
    for (guint i = 0; i < all->len; i++) {
        if (json) {
            json_info(&o, all->pdata[i]);
        } else {
            if (i)
                printf("\n");
            print_info(all->pdata[i]);
        }
    }
    if (json) {
        if (chain)
            json_close(&o, ']');
        end_json(&o);
    }
    return 0;
}

/* --- check -----------------------------------------------------------------------------------
 */

static void say(void *opaque, const char *line)
{
    u32 *left = opaque;

    if (!*left)
        return;
    if (!--*left)
        line = "(more of the kind is not shown)";
    fprintf(stderr, "%s\n", line);
}

static void check_json(const struct image_check *k, const char *name, const char *format)
{
    struct json_out o = { .pretty = true, .text = g_string_new(NULL) };

    json_open(&o, '{');
    if (k->image_end)
        json_put_int(&o, "image-end-offset", (s64)k->image_end);
    if (k->has_clusters)
        json_put_int(&o, "total-clusters", (s64)k->total_clusters);
    json_put_int(&o, "check-errors", (s64)k->check_errors);
    if (k->corruptions)
        json_put_int(&o, "corruptions", (s64)k->corruptions);
    if (k->leaks)
        json_put_int(&o, "leaks", (s64)k->leaks);
    if (k->corruptions_fixed)
        json_put_int(&o, "corruptions-fixed", (s64)k->corruptions_fixed);
    if (k->leaks_fixed)
        json_put_int(&o, "leaks-fixed", (s64)k->leaks_fixed);
    if (k->allocated_clusters)
        json_put_int(&o, "allocated-clusters", (s64)k->allocated_clusters);
    if (k->fragmented_clusters)
        json_put_int(&o, "fragmented-clusters", (s64)k->fragmented_clusters);
    if (k->compressed_clusters)
        json_put_int(&o, "compressed-clusters", (s64)k->compressed_clusters);
    json_put_str(&o, "filename", name);
    json_put_str(&o, "format", format);
    json_close(&o, '}');
    end_json(&o);
}

static void check_human(const struct image_check *k)
{
    if (!(k->corruptions | k->leaks | k->check_errors))
        printf("No errors were found on the image.\n");
    if (k->corruptions)
        printf("\n%" G_GUINT64_FORMAT " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               k->corruptions);
    if (k->leaks)
        printf("\n%" G_GUINT64_FORMAT " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               k->leaks);
    if (k->check_errors)
        printf("\n%" G_GUINT64_FORMAT " internal errors have occurred during the check.\n",
               k->check_errors);
    if (k->total_clusters && k->allocated_clusters)
        printf("%" G_GUINT64_FORMAT "/%" G_GUINT64_FORMAT " = %0.2f%% allocated, "
               "%0.2f%% fragmented, %0.2f%% compressed clusters\n",
               k->allocated_clusters, k->total_clusters,
               (double)k->allocated_clusters * 100.0 / (double)k->total_clusters,
               (double)k->fragmented_clusters * 100.0 / (double)k->allocated_clusters,
               (double)k->compressed_clusters * 100.0 / (double)k->allocated_clusters);
    if (k->image_end)
        printf("Image end offset: %" G_GUINT64_FORMAT "\n", k->image_end);
}

int img_check(int argc, char **argv)
{
    static const struct option longs[] = { { "format", required_argument, NULL, 'f' },
                                           { "repair", required_argument, NULL, 'r' },
                                           { "output", required_argument, NULL, OUTPUT },
                                           { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { 0 } };
    struct img_open h = { .check = true, .no_backing = true };
    enum image_repair repair = REPAIR_NONE;
    bool json = false, quiet = false;
    u32 lines = 1000;
    GError *error = NULL;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:r:qT:U", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'r':
            if (strcmp(optarg, "leaks") != 0 && strcmp(optarg, "all") != 0)
                return img_fail("Option -r expects 'leaks' or 'all' (not '%s')", optarg);
            repair = optarg[0] == 'l' ? REPAIR_LEAKS : REPAIR_ALL;
            break;
        case 'q':
            quiet = true;
            break;
        case 'T':
            h.cache = optarg;
            break;
        case 'U':
            h.force_share = true;
            break;
        case OUTPUT:
            if (!img_json(optarg, &json))
                return 1;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        default:
            return img_usage("check");
        }
    }
    if (optind != argc - 1)
        return img_fail("Expecting one image file name");
    h.write = repair != REPAIR_NONE;
    struct image *img = img_open(argv[optind], &h);
    if (!img)
        return 1;
    struct image_check k = { .say = json || quiet ? NULL : say, .opaque = &lines };
    bool ok = image_check(img, repair, &k, &error);
    if (ok && (k.leaks_fixed || k.corruptions_fixed)) {
        struct image_check again = { .say = k.say, .opaque = &lines };
        u64 leaks = k.leaks_fixed, corruptions = k.corruptions_fixed;

        if (!json && !quiet)
            printf("The following inconsistencies were found and repaired:\n\n"
                   "    %" G_GUINT64_FORMAT " leaked clusters\n"
                   "    %" G_GUINT64_FORMAT " corruptions\n\n"
                   "Double checking the fixed image now...\n",
                   leaks, corruptions);
        ok = image_check(img, REPAIR_NONE, &again, &error);
        k = again;
        k.leaks_fixed = leaks;
        k.corruptions_fixed = corruptions;
    }
    g_autofree char *format = g_strdup(image_format(img));
    int r = image_finish(img);
    if (!ok) {
        bool unsupported = g_error_matches(error, posada_error_quark(), ERR_UNSUPPORTED);

        if (unsupported) {
            g_error_free(error);
            img_fail("This image format does not support checks");
            return 63;
        }
        img_fail("Check failed: %s", error->message);
        g_error_free(error);
        return 1;
    }
    if (json)
        check_json(&k, argv[optind], format);
    else if (!quiet)
        check_human(&k);
    return r || k.check_errors ? 1 : k.corruptions ? 2 : k.leaks ? 3 : 0;
}

/* --- map -------------------------------------------------------------------------------------
 */

/* false: for people it cannot be told where this lies */
static bool map_entry(const struct image_extent *e, bool json, const char *end)
{
    bool data = e->flags & IMAGE_DATA, zero = e->flags & IMAGE_ZERO;

    if (!json) {
        if (data && !(e->flags & IMAGE_OFFSET)) {
            img_fail("File contains external, encrypted or compressed clusters.");
            return false;
        }
        if (data && !zero)
            printf("%#-16" G_GINT64_MODIFIER "x%#-16" G_GINT64_MODIFIER
                   "x%#-16" G_GINT64_MODIFIER "x%s\n",
                   e->at, e->len, e->host, e->filename ? e->filename : "");
        return true;
    }
    printf("{ \"start\": %" G_GUINT64_FORMAT ", \"length\": %" G_GUINT64_FORMAT
           ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
           e->at, e->len, e->depth, e->flags & IMAGE_ALLOCATED ? "true" : "false",
           zero ? "true" : "false", data ? "true" : "false");
    if (e->flags & IMAGE_OFFSET)
        printf(", \"offset\": %" G_GUINT64_FORMAT, e->host);
    printf("}%s", end);
    return true;
}

int img_map(int argc, char **argv)
{
    static const struct option longs[] = { { "format", required_argument, NULL, 'f' },
                                           { "output", required_argument, NULL, OUTPUT },
                                           { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { "start-offset", required_argument, NULL, START },
                                           { "max-length", required_argument, NULL, LENGTH },
                                           { 0 } };
    struct img_open h = { 0 };
    u64 at = 0, max = UINT64_MAX;
    bool json = false;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:s:l:U", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'U':
            h.force_share = true;
            break;
        case OUTPUT:
            if (!img_json(optarg, &json))
                return 1;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        case 's':
        case START:
            if (!img_size("start offset", optarg, &at))
                return 1;
            break;
        case 'l':
        case LENGTH:
            if (!img_size("max length", optarg, &max))
                return 1;
            break;
        default:
            return img_usage("map");
        }
    }
    if (optind != argc - 1)
        return img_fail("Expecting one image file name");
    struct image *img = img_open(argv[optind], &h);
    if (!img)
        return 1;
    struct image_extent cur = { 0 }, e;
    u64 end = MIN(image_size(img), max > UINT64_MAX - at ? UINT64_MAX : at + max);
    int r = 0;
    if (json)
        printf("[");
    else
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    for (; at < end; at += e.len) {
        r = image_status_now(img, at, end - at, 0, &e);
        if (r)
            break;
        if (cur.len && cur.flags == e.flags && cur.depth == e.depth &&
            (!(e.flags & IMAGE_OFFSET) ||
             (cur.host + cur.len == e.host && cur.filename == e.filename))) {
            cur.len += e.len;
            continue;
        }
        if (cur.len && !map_entry(&cur, json, ",\n")) {
            image_close(img);
            return 1;
        }
        cur = e;
    }
    bool told = r || !cur.len || map_entry(&cur, json, "");
    if (json)
        printf("]\n");
    image_close(img);
    return r ? img_fail("Failed to read image metadata: %s", g_strerror(-r)) : !told;
}

/* --- measure ---------------------------------------------------------------------------------
 */

/* Of the image that is measured. */
static u64 measured_cluster(const struct dict *options)
{
    u64 n;

    return dict_has(options, "cluster_size") &&
                   parse_size(dict_peek(options, "cluster_size"), 2 << 20, &n) && n
               ? n
               : 65536;
}

int img_measure(int argc, char **argv)
{
    static const struct option longs[] = { { "output", required_argument, NULL, OUTPUT },
                                           { "image-opts", no_argument, NULL, IMAGE_OPTS },
                                           { "force-share", no_argument, NULL, 'U' },
                                           { "size", required_argument, NULL, SIZE },
                                           { "output-format", required_argument, NULL, 'O' },
                                           { 0 } };
    struct img_open h = { 0 };
    g_autodict options = NULL;
    const char *out = "raw";
    bool bitmaps = false;
    u64 bitmap_bytes = 0, size = UINT64_MAX, data = 0;
    struct image_measure m;
    GError *error = NULL;
    bool json = false;
    int ch;

    while ((ch = getopt_long(argc, argv, "f:l:o:O:U", longs, NULL)) != -1) {
        switch (ch) {
        case 'f':
            h.format = optarg;
            break;
        case 'l':
            h.snapshot = g_str_has_prefix(optarg, "snapshot.id=")     ? optarg + 12
                         : g_str_has_prefix(optarg, "snapshot.name=") ? optarg + 14
                                                                      : optarg;
            break;
        case 'o':
            if (!img_add_options(&options, optarg))
                return 1;
            break;
        case 'O':
            out = optarg;
            break;
        case 'U':
            h.force_share = true;
            break;
        case OUTPUT:
            if (!img_json(optarg, &json))
                return 1;
            break;
        case IMAGE_OPTS:
            h.image_opts = true;
            break;
        case SIZE:
            if (!img_size("image size", optarg, &size))
                return 1;
            break;
        default:
            return img_usage("measure");
        }
    }
    if (argc - optind > 1)
        return img_fail("At most one filename argument is allowed.");
    if ((argc - optind == 1) == (size != UINT64_MAX))
        return img_fail(argc - optind ? "--size N cannot be used together with a filename."
                                      : "Either --size N or one filename must be specified.");
    if (!options)
        options = dict_new();
    if (argc - optind == 1) {
        struct image *img = img_open(argv[optind], &h);
        struct image_extent e;
        u64 counted = 0;

        if (!img)
            return 1;
        size = image_size(img);
        bitmaps = image_keeps_bitmaps(img);
        bitmap_bytes = image_bitmaps_space(img, measured_cluster(options));
        for (u64 at = 0; at < size; at += e.len) {
            int r = image_status_now(img, at, size - at, 0, &e);

            if (r) {
                image_close(img);
                return img_fail("%s: %s", argv[optind], g_strerror(-r));
            }
            if (e.flags & IMAGE_ZERO)
                continue;
            /* In whole clusters of the new image, each once. */
            u64 cluster = measured_cluster(options);
            u64 from = MAX(at / cluster * cluster, counted);
            u64 to = MIN((at + e.len + cluster - 1) / cluster * cluster, ROUND_UP(size, 512));
            if (to > from) {
                data += to - from;
                counted = to;
            }
        }
        image_close(img);
    }
    if (!image_measure(out, size, data, options, &m, &error))
        return img_fail_error(error);
    if (json) {
        struct json_out o = { .pretty = true, .text = g_string_new(NULL) };

        json_open(&o, '{');
        if (bitmaps && m.has_bitmaps)
            json_put_int(&o, "bitmaps", (s64)bitmap_bytes);
        json_put_int(&o, "required", (s64)m.required);
        json_put_int(&o, "fully-allocated", (s64)m.fully_allocated);
        json_close(&o, '}');
        end_json(&o);
    } else {
        printf("required size: %" G_GUINT64_FORMAT "\nfully allocated size: %" G_GUINT64_FORMAT
               "\n",
               m.required, m.fully_allocated);
        if (bitmaps && m.has_bitmaps)
            printf("bitmaps size: %" G_GUINT64_FORMAT "\n", bitmap_bytes);
    }
    return 0;
}
