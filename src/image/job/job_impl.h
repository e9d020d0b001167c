// SPDX-License-Identifier: GPL-2.0-or-later
/* job_impl.h - what the kinds of jobs share; inside image/ only. */
#pragma once

#include "image/graph_impl.h"
#include "image/job.h"

enum { JOB_CHUNK = 1024 * 1024 }; /* bytes copied in one step, at most */

struct job_driver {
    const char *type;
    size_t size; /* of its struct, which begins with struct job */
    bool block;
    /* On the job's thread: 0 or -errno, or -ECANCELED when job_stop_asked(). A message of its
     * own goes to job->why. */
    int (*run)(struct job *);
    /* On the job's thread, too, while job-finalize is waited for (auto-finalize off): until
     * job_told(finalize_asked), or as run(). NULL: there is nothing to do meanwhile. */
    int (*linger)(struct job *);
    /* On the main thread, all PAUSED. After run() went well; may still fail. */
    bool (*prepare)(struct job *, GError **error);
    void (*commit)(struct job *); /* all that end together are prepared; may be NULL */
    void (*abort)(struct job *); /* instead of prepare(), or after it failed; may be NULL */
    void (*clean)(struct job *); /* always: taps and nodes go */
    bool completes;              /* can be told to, when it is ready */
};

struct job {
    const struct job_driver *drv;
    struct graph *graph;
    char *id;
    bool auto_finalize, auto_dismiss;
    enum job_on_error on_source_error, on_target_error;
    GPtrArray *nodes; /* struct node *, with references: those that are its own */
    pthread_t thread;
    bool joined;
    bool idle; /* it has no thread, and waits for a word of the main thread's */
    struct job_group *group; /* those that end together, or NULL */
    char *error; /* main thread, when concluded */

    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;
    enum job_status status;
    bool cancel, force, pause, complete_asked, finalize_asked, ready, waiting;
    bool busy; /* the thread is in the middle of something */
    int ret;
    GError *why;
    u64 speed;
    s64 due; /* ns, monotonic: when it may go on */
    u64 offset, len;
    const char *io_status;
};

/* A job with its id checked, not started yet; enters the graph's list. */
struct job *job_new(struct graph *, const struct job_driver *, const struct job_args *,
                    GError **error);
/* The node becomes the job's own; fails if it is somebody's. */
bool job_own(struct job *, struct node *, GError **error);
bool job_own_chain(struct job *, struct node *top, GError **error);
/* Instead of starting: as if it had never been. PAUSED */
void job_discard(struct job *);
void job_start(struct job *);
/* Jobs of one group end well together, or none of them does.  Before they start. */
struct job_group *job_group_new(void);
void job_group_add(struct job_group *, struct job *);
void job_group_unref(struct job_group *);
/* Another object stands for the node now. */
void job_swap_node(struct job *, struct node *from, struct node *to);

/* --- on the job's thread --- */
/* Sleeps while paused; true: shall end at once. */
bool job_stop_asked(struct job *);
/* Counts bytes against the speed limit, and sleeps accordingly. */
void job_pace(struct job *, u64 bytes);
/* Until something happens, or ms have passed. */
void job_wait(struct job *, u32 ms);
void job_wake(struct job *); /* any thread */
void job_progress(struct job *, u64 add);
void job_set_len(struct job *, u64 offset, u64 len);
void job_set_ready(struct job *);
/* An error while copying. true: try again later (the job has been paused, or skips it). */
enum job_on_error job_error(struct job *, int err, bool write);
bool job_told(struct job *, bool *flag); /* reads a flag under the lock */

/* --- copying --- */
void *job_buffer(void); /* JOB_CHUNK bytes as direct I/O likes them; free() */
/* Copies len <= JOB_CHUNK bytes; zeroes stay zeroes. 0 or -errno; *ret_write: of the target */
int job_copy(struct node *from, struct node *to, u64 at, u64 len, void *buf, bool may_unmap,
             bool *ret_write);
/* How many bytes from `at` are decided by the layers from top down to (not with) base, or are
 * not; base NULL: all of them. */
int job_allocated(struct node *top, const struct node *base, u64 at, u64 len, bool *ret,
                  u64 *ret_len);

/* The source's node and whose it is, and the id that a job gets without one. */
struct node *job_source(struct graph *, const struct job_args *, GError **error);
/* Opens or finds the target and makes it the job's own. mode: sync decides on the new file's
 * backing file. */
struct node *job_target(struct job *, const struct job_target *, struct node *source,
                        enum job_sync sync, GError **error);
/* PAUSED.  Makes *n, a node of the job's (another object then, perhaps), writable and at least
 * that large; on success *ret_was says whether it was writable. */
bool job_write_to(struct job *, struct node **n, u64 size, bool *ret_was, GError **error);
bool job_commit_active(struct graph *, const struct job_args *, struct node *top,
                       struct node *base, GError **error);
/* A backing node by file name, below top. */
struct node *job_chain_find(struct node *top, const char *file);
bool job_new_backup(struct graph *, const struct backup_args *, struct job **ret,
                    GError **error);
