// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * graph.h - a second door of the image library: the nodes of one VM by name, and what changes
 * between them while the guest runs.  image.h's doors (what a device has) stand on nodes; a
 * snapshot or the end of a job puts another node below a door.
 *
 *      device ── image ──> overlay (new) ──backing──> disk ──file──> file
 *
 * All on the main thread.  Names: a node-name, or through `lookup` the name of a drive.  Every
 * change is refused, with the node and the reason named, when somebody else uses the node; what
 * is refused leaves all as it was.
 *
 * The command's names and meanings are QEMU's (qapi/block-core.json).
 */
#pragma once

#include "image/image.h"

struct bitmap;
struct node;
struct job_event;

/* The image below a drive's or device's name, or NULL. */
typedef struct image *graph_lookup(void *opaque, const char *name);
/* What happened to a job: see job.h. */
typedef void graph_event(void *opaque, const struct job_event *);

struct graph *graph_new(GMainContext *, graph_lookup *, graph_event *, void *opaque);
/* Cancels the jobs and waits for them, and lets go of the nodes of blockdev-add. */
void graph_free(struct graph *);
void graph_stop_jobs(struct graph *); /* the first half of it: while the devices still exist */

/* By node-name, else the top node of the drive of that name; ERR_NOT_FOUND. */
struct node *graph_find(struct graph *, const char *name, GError **error);
struct node *graph_find_node(struct graph *, const char *node_name); /* NULL: none */
const char *graph_node_name(const struct node *);

/* A node of its own, named by the dict's "node-name"; takes the dict. */
bool graph_blockdev_add(struct graph *, struct dict *, GError **error);
bool graph_blockdev_del(struct graph *, const char *node_name, GError **error);
/* As if blockdev-add had made it: it stays until blockdev-del. Nothing if there is none. */
void graph_own(struct graph *, const char *node_name);
/* A door over a node that has none: what a device gets. */
struct image *graph_open_image(struct graph *, const char *node_name, bool read_only,
                               GError **error);
/* A door for those outside of the VM, beside whoever else has the node (or drive) of that name;
 * writable: if nobody else has it. */
struct image *graph_export_image(struct graph *, const char *name, bool writable,
                                 GError **error);
/* Fails, with the reason, if a job works on it. */
bool graph_image_free(struct image *, GError **error);
struct node *graph_image_node(struct image *);

/* For lists: what a node is. The pointers hold until something changes. */
struct graph_node_info {
    const char *name, *filename, *format;
    bool read_only;
    u64 size;
    enum image_cache cache;
    enum image_detect_zeroes detect_zeroes;
    u32 backing_depth;
    const char *backing_file; /* or NULL */
    struct node *backing;     /* or NULL */
};
u32 graph_count(const struct graph *);
struct node *graph_node_at(struct graph *, u32 index);
void graph_node_info(struct node *, struct graph_node_info *ret);
struct image_info *graph_image_info(struct node *); /* image_info_free */

/* The header of a node below (or of) `device` names `file` as its backing file from now on. */
bool graph_change_backing(struct graph *, const char *device, const char *node,
                          const char *file, GError **error);
bool graph_resize(struct graph *, const char *name, s64 size, GError **error);

/* --- internal snapshots --- */
bool graph_snapshot_internal(struct graph *, const char *device, const char *name,
                             u64 vm_clock_nsec, GError **error);
/* id, name: at least one. ret: what it was, image_snapshot_free. */
bool graph_snapshot_internal_delete(struct graph *, const char *device, const char *id,
                                    const char *name, struct image_snapshot **ret,
                                    GError **error);

/* --- dirty bitmaps: in memory, or (persistent) kept by the image --- */
struct bitmap_info {
    const char *name;
    u64 count; /* dirty bytes */
    u32 granularity;
    bool recording, busy, persistent, inconsistent;
};
struct bitmap_args {
    const char *name;
    u64 granularity; /* bytes; 0: as it fits */
    bool disabled, persistent;
};
bool graph_bitmap_add(struct graph *, const char *node, const struct bitmap_args *,
                      GError **error);
bool graph_bitmap_remove(struct graph *, const char *node, const char *name, GError **error);
bool graph_bitmap_clear(struct graph *, const char *node, const char *name, GError **error);
bool graph_bitmap_enable(struct graph *, const char *node, const char *name, bool on,
                         GError **error);
bool graph_bitmap_merge(struct graph *, const char *node, const char *target,
                        const char *from_node, const char *from, GError **error);
u32 graph_bitmap_count(struct node *);
void graph_bitmap_info(struct node *, u32 index, struct bitmap_info *ret);

/*
 * For those who only look at it, from any thread, until they release it: nobody changes or frees
 * it meanwhile.  node: or one below it has it; still: it may not be recording while somebody can
 * write.
 */
struct bitmap *graph_bitmap_hold(struct graph *, const char *node, const char *name, bool still,
                                 GError **error);
void graph_bitmap_release(struct bitmap *); /* NULL is fine */
/* Is the byte dirty, and of how many is that so? *ret_len at most len. */
bool graph_bitmap_dirty(const struct bitmap *, u64 at, u64 len, u64 *ret_len);

/* --- transactions: all or nothing, at one moment for the guest --- */
struct transaction;
struct transaction *transaction_begin(struct graph *);
/* The jobs that it begins end well together, or all fail. Before the first of them. */
void transaction_grouped(struct transaction *);
/* Each takes part or fails; after a failure only transaction_end() may follow. */
struct snapshot_args {
    const char *node;          /* node-name or drive */
    const char *file, *format; /* new overlay: its file; format NULL: qcow2 */
    const char *node_name;     /* for it, or NULL */
    bool existing;             /* the file is there already */
    const char *overlay;       /* instead: a node of blockdev-add */
};
bool transaction_snapshot(struct transaction *, const struct snapshot_args *, GError **error);
bool transaction_internal(struct transaction *, const char *device, const char *name,
                          u64 vm_clock_nsec, GError **error);
bool transaction_bitmap_add(struct transaction *, const char *node, const struct bitmap_args *,
                            GError **error);
bool transaction_bitmap_remove(struct transaction *, const char *node, const char *name,
                               GError **error);
bool transaction_bitmap_clear(struct transaction *, const char *node, const char *name,
                              GError **error);
bool transaction_bitmap_enable(struct transaction *, const char *node, const char *name,
                               bool on, GError **error);
bool transaction_bitmap_merge(struct transaction *, const char *node, const char *target,
                              const char *from_node, const char *from, GError **error);
struct backup_args;
bool transaction_backup(struct transaction *, const struct backup_args *, GError **error);
/* commit false: everything is as it was. */
void transaction_end(struct transaction *, bool commit);
