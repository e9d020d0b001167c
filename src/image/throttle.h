// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * throttle.h - bytes and requests a second, by leaky buckets, for groups of images.
 *
 * What passes fills six buckets (bytes and requests, each of reads, of writes and of both);
 * they leak at the configured rate.  A request passes when no bucket that it goes into is over
 * its brim, so a big one may overfill a bucket and those behind it wait the longer: the rate is
 * exact in the long run.  The brim: a tenth of a second's worth, or with a `max` that much for
 * `seconds` seconds; with seconds > 1 a second bucket holds bursts themselves to `max`.
 *
 * The members of a group (images, filter nodes) share its buckets and take turns.  What has to
 * wait is started by a thread that all groups share; there is one lock over all of it, taken by
 * requests that are limited only.
 */
#pragma once

#include "image/image.h"

struct throttle_bucket {
    double level, burst;
};
struct throttle_state {
    struct image_throttle limits;
    struct throttle_bucket bucket[IMAGE_LIMITS];
    u64 last; /* ns, when they leaked last */
};
/* ns until such a request may pass: 0 is now. */
u64 throttle_wait_ns(struct throttle_state *, bool write, u64 now);
void throttle_account(struct throttle_state *, bool write, u64 bytes);

struct throttle_request { /* in the request that it stands for */
    struct throttle_request *next;
    u64 bytes;
};
struct throttle_queue {
    struct throttle_request *first, **last;
};
struct throttle_group;
struct throttle_member {
    struct throttle_group *group; /* NULL: not limited */
    struct throttle_member *next; /* of the group */
    _Atomic bool on;              /* has a group: what can be asked without the lock */
    u32 passing;                  /* nothing waits: it is being drained */
    bool node;                    /* a filter's: it passes while any image is drained */
    struct throttle_queue queue[2];
    /* Lets it go. Under the lock: it may not call back here. */
    void (*go)(struct throttle_member *, struct throttle_request *);
};

void throttle_member_init(struct throttle_member *,
                          void (*go)(struct throttle_member *, struct throttle_request *));
/* Leaves the one that it was in; name NULL: that alone. What waits, goes. */
void throttle_join(struct throttle_member *, const char *name);
/* true: the request may go at once. Else go() will be called. */
bool throttle_pass(struct throttle_member *, bool write, struct throttle_request *);
/* While `passing` nothing waits, nor in filter nodes, and what has waited goes; it is counted all
 * the same.  m NULL: filter nodes alone. */
void throttle_passing(struct throttle_member *m, bool passing);
/* The group's limits, for all its members, who is one from now on; none at all: leaves it. */
void throttle_limit(struct throttle_member *, const char *group, const struct image_throttle *);
char *throttle_limits(struct throttle_member *, struct image_throttle *ret);
