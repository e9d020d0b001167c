// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * clock.h - the guest's time and timers on it.
 *
 * vm_now() counts nanoseconds since the machine was built, and stands still while the guest is
 * stopped.  Timers fire on the timer thread with the device's lock held; a timer set in the past
 * fires at once.  A periodic device re-arms itself, and must bound its own rate.
 */
#pragma once

#include "base/types.h"

struct vm;
struct dev;

struct timer {
    struct dev *dev;
    void (*fn)(struct dev *, struct timer *);
    u64 at;        /* vm_now() value, UINT64_MAX = not armed */
    u32 heap_slot; /* clock.c's own */
};

u64 vm_now(struct vm *);
/* Seconds since 1970 (UTC) as the guest's real-time clock should show them, and nanoseconds. */
u64 vm_wall_ns(struct vm *);

void timer_init(struct timer *, struct dev *, void (*fn)(struct dev *, struct timer *));
void timer_set(struct timer *, u64 at); /* REQUIRES(dev->lock) */
void timer_cancel(struct timer *);      /* REQUIRES(dev->lock) */
bool timer_armed(const struct timer *);
