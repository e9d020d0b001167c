// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * transaction.c - several changes of the graph, all or none, at one moment for the guest.
 *
 * The guest's requests are held back from beginning to end.  Each step is carried out at once,
 * so that later ones see what it did, and leaves behind how to take it back and what remains to
 * be done when all have gone well.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "image/drivers.h"
#include "image/job/job_impl.h"

struct step {
    void (*commit)(struct transaction *, struct step *); /* or NULL */
    void (*undo)(struct transaction *, struct step *);   /* or NULL */
    struct node *node, *overlay;
    struct bitmap *bitmap;
    struct bits bits;
    bool flag;
    char *name;
    struct job *job;
};
struct transaction {
    struct graph *graph;
    struct job_group *group; /* its jobs end together; or NULL */
    GPtrArray *steps;
};

struct transaction *transaction_begin(struct graph *g)
{
    struct transaction *t = g_new(struct transaction, 1);

    *t = (struct transaction){ .graph = g, .steps = g_ptr_array_new() };
    graph_pause(g);
    return t;
}

static struct step *step_new(struct transaction *t, struct step s)
{
    g_ptr_array_add(t->steps, g_memdup2(&s, sizeof s));
    return t->steps->pdata[t->steps->len - 1];
}

void transaction_end(struct transaction *t, bool commit)
{
    GPtrArray *steps = t->steps;

    for (guint i = 0; i < steps->len; i++) {
        struct step *s = steps->pdata[commit ? i : steps->len - 1 - i];
        void (*fn)(struct transaction *, struct step *) = commit ? s->commit : s->undo;

        if (fn)
            fn(t, s);
        bits_clear(&s->bits);
        g_free(s->name);
    }
    graph_resume(t->graph);
    g_ptr_array_set_free_func(steps, g_free);
    g_ptr_array_unref(steps);
    job_group_unref(t->group);
    g_free(t);
}

void transaction_grouped(struct transaction *t)
{
    t->group = job_group_new();
}

/* --- external snapshots ----------------------------------------------------------------------
 */

static void snapshot_undo(struct transaction *t, struct step *s)
{
    graph_set_writable(t->graph, s->node, s->flag, NULL);
    graph_replace(t->graph, s->overlay, s->node);
    node_set_backing(s->overlay, NULL);
    node_unref(s->node);
    node_unref(s->overlay);
}

static void snapshot_commit(struct transaction *t UNUSED, struct step *s)
{
    node_unref(s->node);
    node_unref(s->overlay);
}

/* The new top: made, or one that is there. A reference. */
static struct node *overlay_for(struct graph *g, const struct snapshot_args *a,
                                struct node *node, GError **error)
{
    struct node *n;

    if (!a->overlay) {
        struct new_image new = { .file = a->file,
                                 .format = a->format ? a->format : "qcow2",
                                 .node_name = a->node_name,
                                 .size = node->size,
                                 .existing = a->existing,
                                 .discard = node->discard,
                                 .cache = node->cache,
                                 .backing = node->filename,
                                 .backing_format = node_backing_format(node) };
        n = graph_create(g, &new, error);
    } else {
        n = graph_find_node(g, a->overlay);
        if (!n) {
            fail(error, ERR_NOT_FOUND, "Cannot find device='%s' nor node-name='%s'", a->overlay,
                 a->overlay);
            return NULL;
        }
        n = node_unused(n, error) ? node_ref(n) : NULL;
    }
    if (!n)
        return NULL;
    bool ok = true;
    if (n->backing)
        ok = fail(error, ERR_ARGUMENT, "The overlay already has a backing image");
    else if (!n->drv->backing)
        ok = fail(error, ERR_UNSUPPORTED, "The overlay does not support backing images");
    else if (n->read_only && !node->read_only)
        ok = fail(error, ERR_IO, "Node '%s' is read-only", n->name);
    else if (n->size < node->size)
        ok = fail(error, ERR_ARGUMENT,
                  "Node '%s' is smaller (%" G_GUINT64_FORMAT
                  " bytes) than '%s' (%" G_GUINT64_FORMAT ")",
                  n->name, (u64)n->size, node->name, (u64)node->size);
    if (!ok) {
        node_unref(n);
        return NULL;
    }
    return n;
}

bool transaction_snapshot(struct transaction *t, const struct snapshot_args *a, GError **error)
{
    struct node *node = graph_find(t->graph, a->node, error);

    if (!node || !node_no_job(node, error))
        return false;
    if (node->drv == &filter_overlay)
        return fail(error, ERR_UNSUPPORTED,
                    "Node '%s' is a temporary overlay (-snapshot), which has no file to stand "
                    "on",
                    node->name);
    int r = node->read_only ? 0 : node_flush(node);
    if (r)
        return fail_errno(error, -r, "Node '%s': flush", node->name);
    struct node *overlay = overlay_for(t->graph, a, node, error);
    if (!overlay)
        return false;
    bool was = !node->read_only;
    node_ref(node);
    node_set_backing(overlay, node);
    graph_replace(t->graph, node, overlay);
    step_new(t, (struct step){ .commit = snapshot_commit,
                               .undo = snapshot_undo,
                               .node = node,
                               .overlay = overlay,
                               .flag = was });
    return graph_set_writable(t->graph, node, false, error) != NULL;
}

/* --- internal snapshots ----------------------------------------------------------------------
 */

static void internal_undo(struct transaction *t UNUSED, struct step *s)
{
    g_autoptr(GError) error = NULL;

    if (!s->node->drv->snapshots->remove(s->node, s->name, &error))
        log_error("node '%s': snapshot '%s' of a transaction that failed stays: %s",
                  s->node->name, s->name, error->message);
}

bool transaction_internal(struct transaction *t, const char *device, const char *name,
                          u64 vm_clock_nsec, GError **error)
{
    struct node *n;

    if (!node_snapshot_internal(t->graph, device, name, vm_clock_nsec, &n, error))
        return false;
    step_new(t, (struct step){ .undo = internal_undo, .node = n, .name = g_strdup(name) });
    return true;
}

/* --- bitmaps ---------------------------------------------------------------------------------
 */

static void bitmap_add_undo(struct transaction *t UNUSED, struct step *s)
{
    node_bitmap_take(s->node, s->bitmap);
    bitmap_free(s->bitmap);
}

static struct node *bitmap_node(struct transaction *t, const char *name, GError **error)
{
    return graph_find(t->graph, name, error);
}

bool transaction_bitmap_add(struct transaction *t, const char *node,
                            const struct bitmap_args *a, GError **error)
{
    struct node *n = bitmap_node(t, node, error);
    struct bitmap *m = n ? node_bitmap_add(n, a, error) : NULL;

    if (!m)
        return false;
    step_new(t, (struct step){ .undo = bitmap_add_undo, .node = n, .bitmap = m });
    return true;
}

static void bitmap_remove_commit(struct transaction *t UNUSED, struct step *s)
{
    g_autoptr(GError) error = NULL;

    /* Should it fail, the file has it until it is closed: marked as out of date. */
    if (s->bitmap->persistent && !s->node->read_only &&
        !s->node->drv->bitmaps->remove(s->node, s->bitmap->name, &error))
        log_warn("node '%s': bitmap '%s' is still in the file: %s", s->node->name,
                 s->bitmap->name, error->message);
    bitmap_free(s->bitmap);
}

static void bitmap_remove_undo(struct transaction *t UNUSED, struct step *s)
{
    node_bitmap_put(s->node, s->bitmap);
}

bool transaction_bitmap_remove(struct transaction *t, const char *node, const char *name,
                               GError **error)
{
    struct node *n = bitmap_node(t, node, error);
    struct bitmap *m = n ? node_bitmap(n, name, BITMAP_INCONSISTENT, error) : NULL;

    if (!m)
        return false;
    node_bitmap_take(n, m);
    step_new(t, (struct step){ .commit = bitmap_remove_commit,
                               .undo = bitmap_remove_undo,
                               .node = n,
                               .bitmap = m });
    return true;
}

/* The bits as they were come back. */
static void bits_undo(struct transaction *t UNUSED, struct step *s)
{
    bits_reset(&s->bitmap->bits, 0, s->bitmap->bits.size);
    bits_merge(&s->bitmap->bits, &s->bits);
}

static bool keep_bits(struct transaction *t, struct bitmap *m, GError **error)
{
    struct step s = { .undo = bits_undo, .bitmap = m };

    if (!bits_init(&s.bits, m->bits.size, 1u << m->bits.shift, error))
        return false;
    bits_merge(&s.bits, &m->bits);
    step_new(t, s);
    return true;
}

bool transaction_bitmap_clear(struct transaction *t, const char *node, const char *name,
                              GError **error)
{
    struct node *n = bitmap_node(t, node, error);
    struct bitmap *m = n ? node_bitmap(n, name, 0, error) : NULL;

    if (!m || !keep_bits(t, m, error))
        return false;
    bits_reset(&m->bits, 0, m->bits.size);
    return true;
}

bool transaction_bitmap_merge(struct transaction *t, const char *node, const char *target,
                              const char *from_node, const char *from, GError **error)
{
    struct node *n = bitmap_node(t, node, error);
    struct node *f = n && from_node ? bitmap_node(t, from_node, error) : n;
    struct bitmap *to = f ? node_bitmap(n, target, 0, error) : NULL;
    struct bitmap *src = to ? node_bitmap(f, from, BITMAP_READONLY, error) : NULL;

    if (!src)
        return false;
    if (src->bits.size != to->bits.size)
        return fail(error, ERR_ARGUMENT, "Bitmaps are of different sizes and can't be merged");
    if (!keep_bits(t, to, error))
        return false;
    bits_merge(&to->bits, &src->bits);
    return true;
}

static void enable_undo(struct transaction *t UNUSED, struct step *s)
{
    s->bitmap->recording = s->flag;
}

bool transaction_bitmap_enable(struct transaction *t, const char *node, const char *name,
                               bool on, GError **error)
{
    struct node *n = bitmap_node(t, node, error);
    struct bitmap *m = n ? node_bitmap(n, name, 0, error) : NULL;

    if (!m)
        return false;
    step_new(t, (struct step){ .undo = enable_undo, .bitmap = m, .flag = m->recording });
    m->recording = on;
    return true;
}

/* --- backups ---------------------------------------------------------------------------------
 */

static void backup_commit(struct transaction *t UNUSED, struct step *s)
{
    job_start(s->job);
}

static void backup_undo(struct transaction *t UNUSED, struct step *s)
{
    job_discard(s->job);
}

bool transaction_backup(struct transaction *t, const struct backup_args *a, GError **error)
{
    struct job *job;

    if (!job_new_backup(t->graph, a, &job, error))
        return false;
    if (t->group)
        job_group_add(t->group, job);
    step_new(t, (struct step){ .commit = backup_commit, .undo = backup_undo, .job = job });
    return true;
}
