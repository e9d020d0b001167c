// SPDX-License-Identifier: GPL-2.0-or-later
/* copy.c - what all jobs do: find the source, open the target, move bytes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/job/job_impl.h"

void *job_buffer(void)
{
    void *p = NULL;

    return posix_memalign(&p, 4096, JOB_CHUNK) ? NULL : p;
}

int job_copy(struct node *from, struct node *to, u64 at, u64 len, void *buf, bool may_unmap,
             bool *ret_write)
{
    *ret_write = false;
    while (len) {
        struct image_extent e;
        int r = node_chain_status(from, at, len, 0, &e);

        if (r)
            return r;
        if (e.flags & IMAGE_ZERO) {
            r = node_zero(to, at, e.len, may_unmap);
            *ret_write = r != 0;
        } else {
            e.len = MIN(e.len, (u64)JOB_CHUNK);
            r = node_pread(from, at, buf, e.len);
            if (!r && (r = node_pwrite(to, at, buf, e.len)))
                *ret_write = true;
        }
        if (r)
            return r;
        at += e.len;
        len -= e.len;
    }
    return 0;
}

int job_allocated(struct node *top, const struct node *base, u64 at, u64 len, bool *ret,
                  u64 *ret_len)
{
    for (struct node *n = top; n && n != base;
         n = n->drv->kind == FILTER ? n->file : n->backing) {
        struct extent e;

        if (at >= n->size) { /* this layer ends before: zeroes of its making */
            *ret = n != top;
            *ret_len = len;
            return 0;
        }
        int r = node_status(n, at, len, &e);
        if (r)
            return r;
        len = MIN(len, e.len);
        if (e.flags & EXTENT_ALLOCATED || (e.flags & EXTENT_ZERO && !n->drv->backing)) {
            *ret = true;
            *ret_len = len;
            return 0;
        }
    }
    *ret = false;
    *ret_len = len;
    return 0;
}

struct node *job_source(struct graph *g, const struct job_args *a, GError **error)
{
    struct node *n = graph_find(g, a->device, error);

    return n && node_no_job(n, error) ? n : NULL;
}

struct node *job_chain_find(struct node *top, const char *file)
{
    for (struct node *n = top; n; n = n->backing) {
        if (strcmp(n->filename, file) == 0)
            return n;
        /* As the overlay above it calls it. */
        if (n->backing && n->backing_name && strcmp(n->backing_name, file) == 0)
            return n->backing;
    }
    return NULL;
}

static struct node *target_node(struct graph *g, const char *name, GError **error)
{
    struct node *n = graph_find(g, name, error);

    if (!n || !node_unused(n, error))
        return NULL;
    if (n->read_only && !n->auto_ro) {
        fail(error, ERR_IO, "Block node '%s' is read-only", n->name);
        return NULL;
    }
    return graph_set_writable(g, n, true, error) ? node_ref(n) : NULL;
}

struct node *job_target(struct job *job, const struct job_target *a, struct node *source,
                        enum job_sync sync, GError **error)
{
    struct node *backing = sync == SYNC_TOP    ? source->backing
                           : sync == SYNC_NONE ? source
                                               : NULL;
    struct node *n;

    if (a->node) {
        n = target_node(job->graph, a->node, error);
    } else {
        struct new_image new = {
            .file = a->file,
            .format = a->format     ? a->format
                      : a->existing ? NULL
                                    : node_backing_format(source),
            .node_name = a->node_name,
            .size = source->size,
            .existing = a->existing,
            .discard = source->discard,
            .cache = source->cache,
            .backing = backing ? backing->filename : NULL,
            .backing_format = backing ? node_backing_format(backing) : NULL,
        };
        n = graph_create(job->graph, &new, error);
    }
    if (!n)
        return NULL;
    bool ok =
        n != source || fail(error, ERR_ARGUMENT, "Node '%s' cannot be its own target", n->name);
    if (ok && n->size != source->size)
        ok = fail(error, ERR_ARGUMENT,
                  "Source and target image have different sizes ('%s': %" G_GUINT64_FORMAT
                  ", '%s': %" G_GUINT64_FORMAT ")",
                  source->name, (u64)source->size, n->name, (u64)n->size);
    ok = ok && job_own(job, n, error);
    node_unref(n); /* the job has it */
    return ok ? n : NULL;
}

bool job_write_to(struct job *job, struct node **n, u64 size, bool *ret_was, GError **error)
{
    bool was = !(*n)->read_only;
    struct node *now = graph_set_writable(job->graph, *n, true, error);

    if (!now)
        return false;
    job_swap_node(job, *n, now);
    *n = now;
    if (now->size < size && !node_truncate(now, size, error)) {
        if (!was)
            graph_set_writable(job->graph, now, false, NULL);
        return false;
    }
    *ret_was = was;
    return true;
}
