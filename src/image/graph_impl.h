// SPDX-License-Identifier: GPL-2.0-or-later
/* graph_impl.h - the graph as the files of image/ see it.  Main thread. */
#pragma once

#include "image/graph.h"
#include "image/inside.h"

struct graph {
    GMainContext *main;
    graph_lookup *lookup;
    graph_event *event;
    void *opaque;
    GPtrArray *nodes;  /* struct node *, all that are open; no references */
    GPtrArray *images; /* struct image * */
    GPtrArray *jobs;   /* struct job * */
    u32 next_name;
    /* What jobs' threads have to say, in order; the lock guards these alone. */
    pthread_mutex_t lock;
    GQueue calls;
    GSource *source; /* attached while there are calls */
};

void graph_add_node(struct graph *, struct node *); /* makes a name up if it has none */
void graph_forget_node(struct graph *, struct node *);
void graph_add_image(struct graph *, struct image *);
void graph_remove_image(struct graph *, struct image *);
/* Is the name free, and one? */
bool graph_name_ok(struct graph *, const char *name, GError **error);
/* A node by name as a child of another that is being opened: a new reference. */
struct node *graph_refer(struct graph *, const char *name, bool write, GError **error);
/* No request of any door is inside a node between these. */
void graph_pause(struct graph *);
void graph_resume(struct graph *);
/* fn(opaque) on the main thread, in the order of the calls. Any thread. */
void graph_call(struct graph *, void (*fn)(void *opaque), void *opaque);
void graph_run_calls(struct graph *); /* now */
/* PAUSED.  *ret: the node that has it. */
bool node_snapshot_internal(struct graph *, const char *device, const char *name,
                            u64 vm_clock_nsec, struct node **ret, GError **error);

/* Nobody but (perhaps) doors uses it; else who, by ERR_BUSY. */
bool node_no_job(struct node *, GError **error);
/* Nobody at all: neither doors, nor parents, nor jobs. */
bool node_unused(struct node *, GError **error);
/* The node whose child it is, or NULL. */
struct node *node_parent(struct node *);

/* PAUSED.  Whatever stood on `from` stands on `to`; but `to` itself and what is below it. */
void graph_replace(struct graph *, struct node *from, struct node *to);
/* PAUSED.  Makes a node writable, or gives writing and its lock up.  The node may be another
 * object afterwards: the returned one; NULL and *error leaves it as it was. */
struct node *graph_set_writable(struct graph *, struct node *, bool, GError **error);
/* PAUSED.  Gives up what n has as backing and takes a reference of `backing` (or NULL). */
void node_set_backing(struct node *n, struct node *backing);
/* What to write into an overlay's header about n. */
const char *node_backing_format(const struct node *n);
bool node_write_backing(struct node *n, const char *name, const char *format, GError **error);

/* A new image (unless existing) opened as a node without its backing file; free by unref. */
struct new_image {
    const char *file, *format, *node_name;
    u64 size;
    bool existing, discard;
    enum image_cache cache;
    const char *backing, *backing_format; /* NULL: none */
};
struct node *graph_create(struct graph *, const struct new_image *, GError **error);

/* --- dirty.c: dirty bitmaps --- */

/* A bit for each granule; any thread. */
struct bits {
    u64 size; /* bytes */
    u32 shift;
    u64 n; /* granules */
    _Atomic u64 *word;
};
bool bits_init(struct bits *, u64 size, u32 granularity, GError **error);
void bits_clear(struct bits *); /* frees */
void bits_set(struct bits *, u64 at, u64 len);
/* Every granule that lies in the range, in part too. */
void bits_reset(struct bits *, u64 at, u64 len);
bool bits_get(const struct bits *, u64 at);
/* The first run of set granules at or after `at`, at most max bytes long, cut at the image's
 * end; false: none. */
bool bits_next(const struct bits *, u64 at, u64 max, u64 *ret_at, u64 *ret_len);
u64 bits_count(const struct bits *); /* set granules times their size */
void bits_merge(struct bits *to, const struct bits *from);
/* New granules are clear. Nobody else is inside. */
bool bits_resize(struct bits *, u64 size, GError **error);
/* As files have them, 8 granules a byte, the lowest bit first; byte: a multiple of 8.  What
 * lies behind the end is ignored, and zeroes. */
void bits_import(struct bits *, u64 byte, const u8 *from, size_t n);
void bits_export(const struct bits *, u64 byte, u8 *to, size_t n);

struct bitmap {
    char *name;
    struct bits bits;
    bool recording;
    bool persistent;   /* the image keeps it */
    bool inconsistent; /* it was in use when somebody's writing ended badly: bits are void */
    struct job *job;   /* who uses it, or NULL */
    struct node *held; /* a reference of its node's while somebody looks at it, or NULL */
    u32 holders;
};
/* For reading and changing; what also_for says: although it cannot be changed, or does not hold
 */
enum { BITMAP_READONLY = 1, BITMAP_INCONSISTENT = 2 };
struct bitmap *node_bitmap(struct node *, const char *name, u32 also_for, GError **error);
bool node_bitmap_exists(struct node *, const char *name);
struct bitmap *node_bitmap_at(struct node *, u32 index);
/* All can take another size: they are neither used nor broken. */
bool node_bitmaps_resizable(struct node *, GError **error);
/* After node->size has changed. */
bool node_bitmaps_resize(struct node *, GError **error);
struct bitmap *bitmap_new(struct node *, const char *name, u64 granularity,
                          bool has_granularity, GError **error);
void bitmap_free(struct bitmap *);
/* A new one that is the node's. PAUSED */
struct bitmap *node_bitmap_add(struct node *, const struct bitmap_args *, GError **error);
/* PAUSED, both. */
void node_bitmap_put(struct node *, struct bitmap *);
void node_bitmap_take(struct node *, struct bitmap *); /* it is the caller's then */
void node_bitmaps_free(struct node *);
