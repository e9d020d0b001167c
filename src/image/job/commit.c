// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * commit.c - moves what lies between a base and a layer below the active one into the base; the
 * overlay above then stands on the base.  Nobody writes to any of these, so the copy is plain.
 * Commit of the active layer is in mirror.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

struct commit {
    struct job job;
    struct node *overlay, *top, *base;
    char *backing_file;
    bool base_was, overlay_was; /* writable */
};

static struct commit *commit_of(struct job *job)
{
    return container_of(job, struct commit, job);
}

static int commit_run(struct job *job)
{
    struct commit *c = commit_of(job);
    u64 size = c->top->size;
    void *buf = job_buffer();
    int r = buf ? 0 : -ENOMEM;

    job_set_len(job, 0, size);
    for (u64 at = 0, len; !r && at < size;) {
        bool here = false, write = false;

        if (job_stop_asked(job)) {
            r = -ECANCELED;
            break;
        }
        r = job_allocated(c->top, c->base, at, MIN(size - at, (u64)JOB_CHUNK), &here, &len);
        if (!r && here)
            r = job_copy(c->top, c->base, at, len, buf, true, &write);
        if (r && job_error(job, r, write) != JOB_REPORT) {
            r = 0;
            continue;
        }
        if (r)
            break;
        at += len;
        job_progress(job, len);
        job_pace(job, here ? len : 0);
    }
    free(buf);
    return r ? r : node_flush(c->base);
}

static bool commit_prepare(struct job *job, GError **error)
{
    struct commit *c = commit_of(job);
    const char *name = c->backing_file ? c->backing_file : c->base->filename;

    if (!node_write_backing(c->overlay, name, node_backing_format(c->base), error))
        return false;
    node_set_backing(c->overlay, c->base);
    return true;
}

static void commit_clean(struct job *job)
{
    struct commit *c = commit_of(job);

    if (!c->base_was)
        graph_set_writable(job->graph, c->base, false, NULL);
    if (!c->overlay_was)
        graph_set_writable(job->graph, c->overlay, false, NULL);
    g_free(c->backing_file);
}

static const struct job_driver commit_driver = {
    .type = "commit",
    .size = sizeof(struct commit),
    .block = true,
    .run = commit_run,
    .prepare = commit_prepare,
    .clean = commit_clean,
};

static bool find(struct graph *g, struct node *active, const char *file, const char *node,
                 const char *what, struct node *def, struct node **ret, GError **error)
{
    struct node *n = def, *b;

    if (file && node)
        return fail(error, ERR_ARGUMENT,
                    "'%s-node' and '%s' cannot be specified at the same time", what, what);
    if (file)
        n = job_chain_find(active, file);
    else if (node)
        n = graph_find_node(g, node);
    for (b = active; b && b != n; b = b->backing)
        ;
    if (!n || !b)
        return fail(error, ERR_NOT_FOUND, "'%s' is not in this backing file chain of '%s'",
                    file   ? file
                    : node ? node
                           : what,
                    active->name);
    *ret = n;
    return true;
}

bool job_commit(struct graph *g, const struct commit_args *a, GError **error)
{
    struct node *active = job_source(g, &a->job, error), *top, *base, *overlay = NULL;
    struct node *last = active;

    if (!active)
        return false;
    while (last->backing)
        last = last->backing;
    if (!find(g, active, a->top, a->top_node, "top", active, &top, error) ||
        !find(g, top, a->base, a->base_node, "base", last, &base, error))
        return false;
    if (top == base)
        return fail(error, ERR_ARGUMENT,
                    top->backing ? "cannot commit an image into itself"
                                 : "image '%s' has no backing file to commit into",
                    top->filename);
    /* Others may stand on the base too: they would see other bytes. */
    struct node *first = top;
    while (first->backing != base)
        first = first->backing;
    for (u32 i = 0; i < graph_count(g); i++) {
        struct node *p = graph_node_at(g, i);

        if (p != first && p->backing == base)
            return fail(error, ERR_BUSY, "Node '%s' is busy: it is a backing file of '%s' too",
                        base->name, p->name);
    }
    if (top == active) {
        if (a->backing_file)
            return fail(error, ERR_ARGUMENT,
                        "'backing-file' specified, but 'top' is the active layer");
        return job_commit_active(g, &a->job, top, base, error);
    }
    for (overlay = active; overlay->backing != top;)
        overlay = overlay->backing;
    struct job *job = job_new(g, &commit_driver, &a->job, error);
    if (!job)
        return false;
    struct commit *c = commit_of(job);
    c->base_was = c->overlay_was = true; /* until we have changed them */
    graph_pause(g);
    bool ok = job_own_chain(job, overlay, error) &&
              job_write_to(job, &base, top->size, &c->base_was, error);
    c->base = base;
    if (ok)
        ok = job_write_to(job, &overlay, 0, &c->overlay_was, error);
    c->overlay = overlay;
    c->top = top;
    c->backing_file = g_strdup(a->backing_file);
    if (!ok)
        job_discard(job);
    graph_resume(g);
    if (ok)
        job_start(job);
    return ok;
}
