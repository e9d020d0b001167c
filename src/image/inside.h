// SPDX-License-Identifier: GPL-2.0-or-later
/* inside.h - what struct image is, for the files that make up the door. */
#pragma once

#include <pthread.h>

#include "image/node.h"
#include "image/ring.h"
#include "image/throttle.h"

/*
 * `node` changes only while the image is paused and nothing is active: whoever reaches the node
 * enters first (image_enter()).  Completions run when their request is no longer active.
 */
struct request;
struct image {
    bool read_only;
    bool writethrough;
    struct graph *graph; /* or NULL */
    image_resized *resized;
    void *resized_opaque;
    pthread_mutex_t lock; /* all below */
    struct node *node;
    pthread_cond_t work, idle;
    struct request *first, **last;
    u32 threads, waiting;
    u32 asleep;  /* of the threads: in the middle of a request, for somebody to wake them */
    u32 pending; /* requests not yet done */
    u32 active;  /* of them, and of those on callers' threads, those inside the node */
    u32 in_ring; /* of the active ones */
    u32 paused;  /* who wants nothing to become active */
    bool closing;
    struct request *held;  /* failed, and wait for image_retry() */
    u32 n_held, giving_up; /* giving_up: nothing is held */
    int held_err;
    enum image_on_error on_read, on_write;
    /* not under the lock */
    struct ring *ring; /* NULL: threads do all */
    struct throttle_member throttle;
    image_failed *failed;
    void *failed_opaque;
    struct counters {
        _Atomic u64 bytes, done, failed, invalid, ns;
    } count[IMAGE_OPS];
    _Atomic u64 highest, last_ns;
};

/* A filter has this thread wait for what may take long: if it is a worker, others may be
 * started in its place. */
void door_thread_sleeps(bool);

/* A door over a node, which it takes; graph may be NULL. */
struct image *image_over(struct node *, struct graph *, bool read_only);
struct node *image_enter(struct image *);
void image_leave(struct image *);
/* Requests wait from now on, and none is inside the node. Main thread; nests. */
void image_pause(struct image *);
void image_resume(struct image *);
