// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ranges.h - keeps requests on the same clusters of one node apart, and lets the others run.
 *
 * A request enters with the range that it works on: shared with other readers and in-place
 * writers, or alone, when it allocates, frees or moves.  Both calls want the node's metadata
 * mutex held, and entering may let go of it for a while: look up tables afterwards.
 */
#pragma once

#include <pthread.h>

#include "base/types.h"

struct range {
    u64 at, end;
    bool alone;
    struct range *next;
};
struct ranges {
    struct range *first;
    pthread_cond_t changed;
    u32 waiting;
};
void ranges_init(struct ranges *);
void ranges_clear(struct ranges *);
void ranges_enter(struct ranges *, pthread_mutex_t *, struct range *);
void ranges_leave(struct ranges *, struct range *);
