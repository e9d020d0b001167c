// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * job.h - a third door of the image library: work on images beside the running guest.
 *
 *   created ─> running ─> (ready ─complete─>) waiting ─> pending ─finalize─> concluded
 * ─dismiss─> gone │  ^        (mirror, active commit)                              ^ v  │ │
 *               paused      cancel or an error, from anywhere ──> aborting ───────┘
 *
 * A job copies on a thread of its own.  What it begins and ends with (who stands on what, which
 * bitmap is whose) happens on the main thread, with the guest's requests held back for that
 * moment.  While it runs, taps on the nodes (node.h) tell it of the guest's writes.  The nodes
 * it works on are its own: other commands on them are refused.
 *
 * States, verbs, events and messages are QEMU's (qapi/job.json, qapi/block-core.json).  Main
 * thread throughout; events come through graph_event on it too.
 */
#pragma once

#include "image/graph.h"

enum job_status {
    JOB_UNDEFINED,
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY, /* paused when ready */
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
};
extern const char *const job_status_names[];

enum job_verb {
    JOB_CANCEL,
    JOB_PAUSE,
    JOB_RESUME,
    JOB_SET_SPEED,
    JOB_COMPLETE,
    JOB_FINALIZE,
    JOB_DISMISS,
};

enum job_on_error { JOB_REPORT, JOB_IGNORE, JOB_ENOSPC, JOB_STOP };

struct job_event {
    enum {
        JOB_EV_STATUS,
        JOB_EV_READY,
        JOB_EV_COMPLETED,
        JOB_EV_CANCELLED,
        JOB_EV_ERROR,
        JOB_EV_PENDING
    } kind;
    const char *id, *type;
    enum job_status status;
    u64 len, offset, speed;
    const char *error;        /* COMPLETED; NULL: none */
    bool write;               /* ERROR: of the target */
    enum job_on_error action; /* ERROR: what is done */
};

struct job_info {
    const char *id, *type, *error;
    enum job_status status;
    u64 len, offset, speed;
    bool block; /* query-block-jobs shows it */
    bool busy, paused, ready, auto_finalize, auto_dismiss;
    const char *io_status;
};
u32 job_count(const struct graph *);
struct job *job_at(struct graph *, u32 index);
struct job *job_find(struct graph *, const char *id); /* NULL: none */
void job_get_info(struct job *, struct job_info *ret);
const char *job_type(const struct job *);

/* Does the state allow it? The verbs below ask themselves. */
bool job_cancel(struct job *, bool force, GError **error);
bool job_pause(struct job *, GError **error);
bool job_resume(struct job *, GError **error);
bool job_set_speed(struct job *, s64 speed, GError **error);
bool job_complete(struct job *, GError **error);
bool job_finalize(struct job *, GError **error);
bool job_dismiss(struct job *, GError **error);

/* What all have. */
struct job_args {
    const char *id;     /* NULL: the device's name */
    const char *device; /* drive or node-name */
    s64 speed;          /* bytes a second, 0: no limit */
    bool manual_finalize, manual_dismiss;
    enum job_on_error on_source_error, on_target_error;
};

enum job_sync { SYNC_TOP, SYNC_FULL, SYNC_NONE, SYNC_INCREMENTAL, SYNC_BITMAP };

/* Where copies go: a node of blockdev-add, or a file. */
struct job_target {
    const char *node; /* else: */
    const char *file, *format, *node_name;
    bool existing;
};
struct mirror_args {
    struct job_args job;
    struct job_target target;
    enum job_sync sync;
    const char *replaces;                /* node-name, or NULL: the source */
    u64 granularity;                     /* 0: as it fits */
    bool write_blocking, keep_allocated; /* zeroes are not unmapped at the target */
};
bool job_mirror(struct graph *, const struct mirror_args *, GError **error);

struct backup_args {
    struct job_args job;
    struct job_target target;
    enum job_sync sync;
    const char *bitmap;
    enum { BITMAP_ON_SUCCESS, BITMAP_NEVER, BITMAP_ALWAYS } bitmap_mode;
    bool compress;
};
bool job_backup(struct graph *, const struct backup_args *, GError **error);

struct stream_args {
    struct job_args job;
    const char *base, *base_node; /* file name, or node: at most one; none: the whole chain */
    const char *bottom;           /* instead: the lowest node that goes */
    const char *backing_file;     /* what to write into the header, or NULL */
};
bool job_stream(struct graph *, const struct stream_args *, GError **error);

struct commit_args {
    struct job_args job;
    const char *top, *top_node, *base, *base_node;
    const char *backing_file;
};
bool job_commit(struct graph *, const struct commit_args *, GError **error);

/* options: driver, filename or file, size, ... as blockdev-create has them; takes it. */
bool job_create(struct graph *, const char *id, struct dict *options, GError **error);
