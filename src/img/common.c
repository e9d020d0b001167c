// SPDX-License-Identifier: GPL-2.0-or-later
/* common.c - see img.h. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/secret.h"
#include "img/img.h"
#include "stream/tls.h"

bool img_is_help(const char *text)
{
    return !strcmp(text, "help") || !strcmp(text, "?") || g_str_has_suffix(text, ",help") ||
           g_str_has_suffix(text, ",?");
}

static bool take_creds(const char *type, const struct dict *d, GError **error)
{
    struct tls_creds_props *p = g_new0(struct tls_creds_props, 1);
    g_autoptr(GList) keys = dict_keys(d);
    bool ok = true;

    for (GList *k = keys; ok && k; k = k->next) {
        char **at = tls_creds_prop(p, k->data);

        if (at)
            *at = g_strdup(dict_peek(d, k->data));
        else if (strcmp(k->data, "qom-type") != 0)
            ok = fail(error, ERR_ARGUMENT, "Parameter '%s' is unexpected", (char *)k->data);
    }
    ok = ok && tls_creds_add(type, p, error);
    tls_creds_props_free(p);
    return ok;
}

static bool take_object(const char *text, GError **error)
{
    g_autodict d =
        text[0] == '{' ? dict_from_json(text, error) : dict_from_text(text, "qom-type", error);
    const char *type = d ? dict_peek(d, "qom-type") : NULL;

    if (!d)
        return false;
    if (!type)
        return fail(error, ERR_ARGUMENT, "Parameter 'qom-type' is missing");
    if (tls_creds_kind(type))
        return take_creds(type, d, error);
    if (strcmp(type, "secret") != 0)
        return fail(error, ERR_ARGUMENT, "Parameter 'qom-type' does not accept value '%s'",
                    type);
    struct secret_props *p = g_new0(struct secret_props, 1);
    g_autoptr(GList) keys = dict_keys(d);
    bool ok = true;
    for (GList *k = keys; ok && k; k = k->next) {
        char **at = secret_prop(p, k->data);

        if (at)
            *at = g_strdup(dict_peek(d, k->data));
        else if (strcmp(k->data, "qom-type") != 0)
            ok = fail(error, ERR_ARGUMENT, "Parameter '%s' is unexpected", (char *)k->data);
    }
    ok = ok && secret_add(p, error);
    secret_props_free(p);
    return ok;
}

bool img_take_objects(int *argc, char **argv)
{
    int to = 0;

    for (int i = 0; i < *argc; i++) {
        const char *text = NULL;
        GError *error = NULL;

        if (strcmp(argv[i], "--") == 0) { /* options end here */
            while (i < *argc)
                argv[to++] = argv[i++];
            break;
        }
        if (strncmp(argv[i], "--object=", 9) == 0)
            text = argv[i] + 9;
        else if (strcmp(argv[i], "--object") == 0 && i + 1 < *argc)
            text = argv[++i];
        else
            argv[to++] = argv[i];
        if (text && !take_object(text, &error)) {
            img_fail_error(error);
            return false;
        }
    }
    argv[ *argc = to] = NULL;
    return true;
}

bool img_add_options(struct dict **to, const char *text)
{
    GError *error = NULL;
    g_autodict d = dict_from_text(text, NULL, &error);

    if (!d) {
        img_fail_error(error);
        return false;
    }
    if (!*to)
        *to = dict_new();
    dict_merge(*to, d);
    return true;
}

bool img_size(const char *what, const char *text, u64 *ret)
{
    if (parse_size(text, INT64_MAX, ret))
        return true;
    img_fail("Invalid %s specified. You may use k, M, G, T, P or E suffixes for kilobytes, "
             "megabytes, gigabytes, terabytes, petabytes and exabytes.",
             what);
    return false;
}

bool img_json(const char *output, bool *ret)
{
    *ret = !strcmp(output, "json");
    if (*ret || !strcmp(output, "human"))
        return true;
    img_fail("--output must be used with human or json as argument.");
    return false;
}

void img_size_text(u64 n, char *to, size_t room)
{
    static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
    int e, i;

    /* Three digits: 1000 KiB is 0.977 MiB. */
    frexp((double)n / (1000.0 / 1024.0), &e);
    i = n ? (e - 1) / 10 : 0;
    g_snprintf(to, room, "%0.3g %sB", (double)n / (double)(1ull << (i * 10)), units[i]);
}

struct image *img_open(const char *name, const struct img_open *h)
{
    struct image_options o = { .format = h->format,
                               .read_only = !h->write,
                               .no_backing = h->no_backing,
                               .check = h->check,
                               .no_io = h->no_io,
                               .bitmaps = h->bitmaps,
                               .force_share = h->force_share,
                               .load_snapshot = h->snapshot,
                               .driver = h->driver,
                               .discard = true };
    GError *error = NULL;
    struct image *img;

    if (h->cache && !image_cache_from_text(h->cache, &o.cache)) {
        img_fail("Invalid cache option: %s", h->cache);
        return NULL;
    }
    if (h->aio && !image_aio_from_text(h->aio, &o.aio)) {
        img_fail("Invalid aio option: %s", h->aio);
        return NULL;
    }
    if (h->image_opts) {
        struct dict *d = dict_from_text(name, NULL, &error);

        if (d && h->format) {
            dict_free(d);
            img_fail("--image-opts and --format are mutually exclusive");
            return NULL;
        }
        img = d ? image_open_dict(d, &o, &error) : NULL;
    } else {
        img = image_open(name, &o, &error);
    }
    if (!img) {
        img_fail("Could not open '%s': %s", name, error->message);
        g_error_free(error);
    }
    return img;
}

struct dict *img_backing_options(const char *name, const struct img_open *h, u32 depth)
{
    struct dict *d = h->image_opts ? dict_from_text(name, NULL, NULL) : NULL;

    while (d && depth--) {
        struct dict *below = dict_take(d, "backing");

        dict_free(d);
        d = below;
    }
    return d;
}

/* --- progress --------------------------------------------------------------------------------
 */

static void show(struct img_progress *p)
{
    int now = p->total ? (int)((double)p->done * 10000.0 / (double)p->total) : 10000;

    if (!p->on || (now == p->shown && now != 10000) || now < p->shown)
        return;
    p->shown = now;
    printf("    (%.2f/100%%)\r", now / 100.0);
    fflush(stdout);
}

void img_progress_start(struct img_progress *p, bool on, u64 total)
{
    p->on = on;
    p->total = total;
    p->done = 0;
    p->shown = -1;
    g_mutex_init(&p->lock);
    show(p);
}

void img_progress_add(struct img_progress *p, u64 n)
{
    g_mutex_lock(&p->lock);
    p->done += n;
    if (p->total && (int)((double)p->done * 100.0 / (double)p->total) * 100 > p->shown)
        show(p);
    g_mutex_unlock(&p->lock);
}

void img_progress_end(struct img_progress *p)
{
    p->done = p->total;
    show(p);
    if (p->on)
        printf("\n");
    g_mutex_clear(&p->lock);
}

/* --- threads ---------------------------------------------------------------------------------
 */

u32 img_threads(void)
{
    return CLAMP(2 * g_get_num_processors(), 4, 16); /* some of them wait for storage */
}

struct job {
    void (*work)(void *);
    void *opaque;
};

static gpointer run_job(gpointer p)
{
    struct job *j = p;

    j->work(j->opaque);
    return NULL;
}

void img_run(u32 threads, void (*work)(void *), void *opaque)
{
    struct job j = { work, opaque };
    GThread *t[64];
    u32 n = MIN(threads, 64) - 1;

    for (u32 i = 0; i < n; i++)
        t[i] = g_thread_new("image I/O", run_job, &j);
    work(opaque);
    for (u32 i = 0; i < n; i++)
        g_thread_join(t[i]);
}
