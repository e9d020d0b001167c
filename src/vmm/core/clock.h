// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * clock.h - the guest's time and timers on it.
 *
 * vm_now() counts nanoseconds since the machine was built, and stands still while the guest is
 * stopped.  Timers fire on the timer thread with the device's lock held; a timer set in the
 * past fires at once.  A periodic device re-arms itself, and must bound its own rate.
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

u64 vm_now(struct vm *); /* any thread */
/* Seconds since 1970 (UTC) as the guest's real-time clock should show them, and nanoseconds. */
u64 vm_wall_ns(struct vm *);

void timer_init(struct timer *, struct dev *, void (*fn)(struct dev *, struct timer *));
void timer_set(struct timer *, u64 at); /* REQUIRES(dev->lock) */
void timer_cancel(struct timer *);      /* REQUIRES(dev->lock) */
bool timer_armed(const struct timer *);

/* --- for vm.c, migration and tests ----------------------------------------------------------
 */

struct clock *clock_new(struct vm *); /* stands at 0 */
void clock_free(struct clock *);
/* vm_wall_ns() is ahead of the host's clock by so much (-rtc base=). Before the guest runs. */
void clock_shift_wall(struct vm *, s64 ns);
void clock_run(struct vm *);
/* No timer fires after this returns. Main thread, no device lock held. */
void clock_stop(struct vm *);
/* Where a loaded guest left off. REQUIRES the clock to stand. */
void clock_set(struct vm *, u64 now);
/* Disarms all timers of a device that goes, and waits for one that is firing. */
void clock_forget(struct vm *, struct dev *);
/* A test's clock: never runs by itself; clock_step() fires what falls due, in order, in the
 * calling thread, each at its own time.  Wall time starts at CLOCK_MANUAL_WALL. */
#define CLOCK_MANUAL_WALL 946684800ull /* 2000-01-01 00:00:00 UTC, a Saturday */
void clock_manual(struct vm *);
void clock_step(struct vm *, u64 ns);
