// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * create.c - blockdev-create: makes a file, or puts an empty image of a format on a node.
 * All that is allocated is headers, unless preallocation was asked for: hence a job.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

struct create {
    struct job job;
    const struct driver *drv;
    struct node *file; /* formats: what the image comes to lie on */
    u64 size;
    struct dict *options;
};

static struct create *create_of(struct job *job)
{
    return container_of(job, struct create, job);
}

static int create_run(struct job *job)
{
    struct create *c = create_of(job);
    bool ok;

    if (c->drv->kind == PROTOCOL) {
        const char *name = dict_str(c->options, "filename");
        struct dict *where = dict_new();

        /* The file, then its size; the file's own options stay. */
        dict_set(where, "driver", c->drv->name);
        dict_set(where, "filename", name);
        ok = c->drv->create_file(c->options, &job->why) &&
             dict_done(c->options, c->drv->name, &job->why);
        struct open_how how = { .write = true };
        struct node *n = ok ? node_open_dict(where, &how, &job->why) : NULL;
        if (!ok)
            dict_free(where);
        ok = n && node_truncate(n, c->size, &job->why);
        node_unref(n);
    } else {
        ok = c->drv->create(c->file, c->size, c->options, &job->why) &&
             dict_done(c->options, c->drv->name, &job->why);
        int r = ok ? node_flush(c->file) : 0;
        if (r)
            ok = fail_errno(&job->why, -r, "Node '%s'", c->file->name);
    }
    job_set_len(job, ok, 1);
    return ok ? 0 : -EIO;
}

static void create_clean(struct job *job)
{
    struct node *file = create_of(job)->file;

    if (file && file->auto_ro)
        graph_set_writable(job->graph, file, false, NULL);
    dict_free(create_of(job)->options);
}

static const struct job_driver create_driver = {
    .type = "create",
    .size = sizeof(struct create),
    .run = create_run,
    .clean = create_clean,
};

/* QMP has dashes, and some names of its own. */
static struct dict *as_created(struct dict *d)
{
    static const char *const others[][2] = {
        { "backing-fmt", "backing_fmt" },           { "backing-file", "backing_file" },
        { "cluster-size", "cluster_size" },         { "lazy-refcounts", "lazy_refcounts" },
        { "refcount-bits", "refcount_bits" },       { "extended-l2", "extended_l2" },
        { "compression-type", "compression_type" }, { "version", "compat" }
    };

    for (u32 i = 0; i < ARRAY_LEN(others); i++) {
        const char *v = dict_peek(d, others[i][0]);

        if (!v)
            continue;
        g_autofree char *value = g_strdup(v);
        dict_remove(d, others[i][0]);
        dict_set(d, others[i][1], value);
    }
    return d;
}

bool job_create(struct graph *g, const char *id, struct dict *options, GError **error)
{
    g_autodict d = as_created(options);
    const char *name = dict_str(d, "driver"), *on = dict_peek(d, "file");
    const struct driver *drv = name ? driver_find(name) : NULL;
    struct job_args args = { .id = id, .manual_dismiss = true };

    if (!name)
        return fail(error, ERR_ARGUMENT, "Parameter 'driver' is missing");
    if (!drv || (!drv->create && !drv->create_file))
        return fail(error, ERR_UNSUPPORTED, "Driver '%s' does not support image creation",
                    name);
    if (!dict_has(d, "size"))
        return fail(error, ERR_ARGUMENT, "Parameter 'size' is missing");
    if (!dict_has(d, drv->kind == PROTOCOL ? "filename" : "file"))
        return fail(error, ERR_ARGUMENT, "Parameter '%s' is missing",
                    drv->kind == PROTOCOL ? "filename" : "file");
    u64 size = dict_size(d, "size", 0, INT64_MAX);
    struct node *file = NULL;
    if (drv->kind != PROTOCOL) {
        file = graph_find_node(g, on);
        if (!file)
            return fail(error, ERR_NOT_FOUND, "Cannot find device='' nor node-name='%s'", on);
        if (file->read_only && !file->auto_ro)
            return fail(error, ERR_IO, "Block node '%s' is read-only", on);
        if (!node_unused(file, error) || !graph_set_writable(g, file, true, error))
            return false;
        dict_str(d, "file");
    }
    struct job *job = job_new(g, &create_driver, &args, error);
    if (!job)
        return false;
    struct create *c = create_of(job);
    c->drv = drv;
    c->size = size;
    c->file = file;
    if (file && !job_own(job, file, error)) {
        job_discard(job);
        return false;
    }
    c->options = g_steal_pointer(&d);
    job_start(job);
    return true;
}
