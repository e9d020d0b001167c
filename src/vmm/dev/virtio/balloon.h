// SPDX-License-Identifier: GPL-2.0-or-later
/* balloon.h - what the monitor asks of a virtio balloon. Main thread. */
#pragma once

#include "vmm/core/dev.h"

/* Statistics by tag (VIRTIO 1.2, 5.5.6.3); UINT64_MAX: not known. */
enum {
    BALLOON_SWAP_IN,
    BALLOON_SWAP_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_CACHES,
    BALLOON_HUGE_ALLOCATIONS,
    BALLOON_HUGE_FAILURES,
    BALLOON_STATS,
};

/* The machine's balloon device, or NULL. */
struct dev *balloon_find(struct vm *);
/* The guest is asked to use this much memory; more than it has means all. */
void balloon_set(struct dev *, u64 bytes);
/* What it uses now, as far as the balloon knows. */
u64 balloon_actual(struct dev *);
/* Seconds since 1970 of the last answer, 0: none yet; the numbers. */
u64 balloon_stats(struct dev *, u64 ret[BALLOON_STATS]);
void balloon_poll(struct dev *, u32 seconds); /* how often to ask; 0: not at all */
