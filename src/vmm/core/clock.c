// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * clock.c - the guest's time, and the thread that fires its timers.  See clock.h.
 *
 * Timers lie in a binary heap under clock->lock, the innermost lock of all.  A device arms and
 * cancels with its own lock held.  The timer thread needs both locks in the other order, so it
 * picks a timer, drops the clock's lock, takes the device's and looks again: a timer that was
 * cancelled or moved meanwhile is left alone.
 *
 * Time is one word, so that readers need no lock: running, it is what to subtract from the
 * host's monotonic clock; standing, the time itself with the top bit set.
 */
#include "vmm/core/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>

#include "vmm/core/dev.h"
#include "vmm/core/quiescent.h"
#include "vmm/core/vm.h"

#define STANDS BIT(63)
#define BIAS   BIT(62) /* keeps the difference positive for a guest older than the host */

struct clock {
    struct vm *vm;
    _Atomic u64 word;
    s64 wall_off; /* what the wall clock is ahead of the host's */
    bool manual;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t wake;  /* the timer thread: something changed */
    pthread_cond_t idle;  /* `firing` became NULL */
    struct timer **heap;  /* heap[0] is due first; timer->heap_slot is its index + 1 */
    u32 n, cap;
    u64 sleeps_until; /* what the timer thread waits for */
    struct dev *firing;
    bool running, quit, started;
    pthread_t thread;
};

static u64 mono_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

static u64 now_of(const struct clock *c)
{
    u64 w = atomic_load_explicit(&c->word, memory_order_acquire);

    return w & STANDS ? w & ~STANDS : mono_ns() + BIAS - w;
}

u64 vm_now(struct vm *vm)
{
    return now_of(vm->clock);
}

u64 vm_wall_ns(struct vm *vm)
{
    struct timespec ts;

    if (vm->clock->manual)
        return CLOCK_MANUAL_WALL * NS_PER_SEC + vm_now(vm);
    clock_gettime(CLOCK_REALTIME, &ts);
    return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec + (u64)vm->clock->wall_off;
}

void clock_shift_wall(struct vm *vm, s64 ns)
{
    vm->clock->wall_off = ns;
}

/* --- the heap; all REQUIRES(c->lock) --------------------------------------------------------
 */

static void heap_put(struct clock *c, u32 i, struct timer *t)
{
    c->heap[i] = t;
    t->heap_slot = i + 1;
}

static void heap_up(struct clock *c, u32 i)
{
    struct timer *t = c->heap[i];

    for (; i && c->heap[(i - 1) / 2]->at > t->at; i = (i - 1) / 2)
        heap_put(c, i, c->heap[(i - 1) / 2]);
    heap_put(c, i, t);
}

static void heap_down(struct clock *c, u32 i)
{
    struct timer *t = c->heap[i];

    for (u32 kid; (kid = 2 * i + 1) < c->n; i = kid) {
        if (kid + 1 < c->n && c->heap[kid + 1]->at < c->heap[kid]->at)
            kid++;
        if (c->heap[kid]->at >= t->at)
            break;
        heap_put(c, i, c->heap[kid]);
    }
    heap_put(c, i, t);
}

static void heap_remove(struct clock *c, struct timer *t)
{
    u32 i = t->heap_slot - 1;

    t->heap_slot = 0;
    t->at = UINT64_MAX;
    c->n--;
    if (i == c->n)
        return;
    heap_put(c, i, c->heap[c->n]);
    heap_up(c, i);
    heap_down(c, c->heap[i]->heap_slot - 1);
}

static void heap_insert(struct clock *c, struct timer *t)
{
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 16;
        c->heap = g_renew(struct timer *, c->heap, c->cap);
    }
    heap_put(c, c->n++, t);
    heap_up(c, c->n - 1);
}

/* --- the timer thread -----------------------------------------------------------------------
 */

/* Fires the timer that is due first. REQUIRES(c->lock), which is dropped meanwhile. */
static void fire(struct clock *c)
{
    struct timer *t = c->heap[0];
    struct dev *d = t->dev; /* clock_forget() keeps it alive while it is `firing` */

    c->firing = d;
    pthread_mutex_unlock(&c->lock);
    dev_lock(d);
    pthread_mutex_lock(&c->lock);
    bool due = t->heap_slot && t->at <= now_of(c) && (c->running || c->manual);
    if (due)
        heap_remove(c, t);
    pthread_mutex_unlock(&c->lock);
    if (due)
        t->fn(d, t);
    dev_unlock(d);
    pthread_mutex_lock(&c->lock);
    c->firing = NULL;
    pthread_cond_broadcast(&c->idle);
}

static void *timer_thread(void *opaque)
{
    struct clock *c = opaque;

    pthread_setname_np(pthread_self(), "timers");
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
    core_thread_register();
    core_offline();
    pthread_mutex_lock(&c->lock);
    while (!c->quit) {
        u64 now = now_of(c);

        if (c->running && c->n && c->heap[0]->at <= now) {
            core_online();
            fire(c);
            core_offline();
            continue;
        }
        if (!c->running || !c->n) {
            c->sleeps_until = UINT64_MAX;
            pthread_cond_wait(&c->wake, &c->lock);
            continue;
        }
        /* A day is as good as for ever and does not overflow. */
        u64 until = mono_ns() + MIN(c->heap[0]->at - now, 86400 * NS_PER_SEC);
        struct timespec ts = { .tv_sec = (time_t)(until / NS_PER_SEC),
                               .tv_nsec = (long)(until % NS_PER_SEC) };
        c->sleeps_until = c->heap[0]->at;
        pthread_cond_timedwait(&c->wake, &c->lock, &ts);
    }
    pthread_mutex_unlock(&c->lock);
    core_thread_unregister();
    return NULL;
}

/* Wakes the thread when it would sleep too long. REQUIRES(c->lock) */
static void look(struct clock *c)
{
    if (c->manual || !c->running || !c->n || c->heap[0]->at >= c->sleeps_until)
        return;
    c->sleeps_until = 0; /* one signal is enough */
    if (!c->started) {
        sigset_t all, old;

        sigfillset(&all); /* the program's signals belong to its main thread */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        c->started = !pthread_create(&c->thread, NULL, timer_thread, c);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (!c->started)
            g_error("timer thread: the host has no room for a thread");
    }
    pthread_cond_signal(&c->wake);
}

/* --- timers ---------------------------------------------------------------------------------
 */

void timer_init(struct timer *t, struct dev *d, void (*fn)(struct dev *, struct timer *))
{
    *t = (struct timer){ .dev = d, .fn = fn, .at = UINT64_MAX };
}

void timer_set(struct timer *t, u64 at)
{
    struct clock *c = t->dev->vm->clock;

    if (at == UINT64_MAX) {
        timer_cancel(t);
        return;
    }
    pthread_mutex_lock(&c->lock);
    if (t->heap_slot)
        heap_remove(c, t);
    t->at = at;
    heap_insert(c, t);
    look(c);
    pthread_mutex_unlock(&c->lock);
}

void timer_cancel(struct timer *t)
{
    if (!t->dev || !t->dev->vm)
        return;
    struct clock *c = t->dev->vm->clock;

    pthread_mutex_lock(&c->lock);
    if (t->heap_slot)
        heap_remove(c, t);
    pthread_mutex_unlock(&c->lock);
}

bool timer_armed(const struct timer *t)
{
    return t->heap_slot != 0;
}

/* --- the clock ------------------------------------------------------------------------------
 */

struct clock *clock_new(struct vm *vm)
{
    struct clock *c = g_new0(struct clock, 1);
    pthread_condattr_t attr;

    c->vm = vm;
    c->sleeps_until = UINT64_MAX;
    atomic_init(&c->word, STANDS);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_cond_init(&c->idle, NULL);
    pthread_condattr_destroy(&attr);
    return c;
}

void clock_free(struct clock *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->quit = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (c->started)
        pthread_join(c->thread, NULL);
    pthread_cond_destroy(&c->wake);
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->lock);
    g_free(c->heap);
    g_free(c);
}

void clock_run(struct vm *vm)
{
    struct clock *c = vm->clock;

    pthread_mutex_lock(&c->lock);
    if (!c->running && !c->manual) {
        atomic_store(&c->word, mono_ns() + BIAS - now_of(c));
        c->running = true;
        look(c);
    }
    pthread_mutex_unlock(&c->lock);
}

void clock_stop(struct vm *vm)
{
    struct clock *c = vm->clock;

    pthread_mutex_lock(&c->lock);
    if (c->running) {
        atomic_store(&c->word, now_of(c) | STANDS);
        c->running = false;
        c->sleeps_until = UINT64_MAX;
    }
    while (c->firing)
        pthread_cond_wait(&c->idle, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void clock_set(struct vm *vm, u64 now)
{
    struct clock *c = vm->clock;

    pthread_mutex_lock(&c->lock);
    if (!c->running)
        atomic_store(&c->word, MIN(now, BIAS - 1) | STANDS);
    pthread_mutex_unlock(&c->lock);
}

void clock_forget(struct vm *vm, struct dev *d)
{
    struct clock *c = vm->clock;

    pthread_mutex_lock(&c->lock);
    for (u32 i = 0; i < c->n;) {
        if (c->heap[i]->dev == d) {
            heap_remove(c, c->heap[i]);
            i = 0; /* the order changed */
        } else {
            i++;
        }
    }
    while (c->firing == d)
        pthread_cond_wait(&c->idle, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

void clock_manual(struct vm *vm)
{
    clock_stop(vm);
    vm->clock->manual = true;
}

void clock_step(struct vm *vm, u64 ns)
{
    struct clock *c = vm->clock;

    pthread_mutex_lock(&c->lock);
    u64 end = now_of(c) + ns;

    while (c->n && c->heap[0]->at <= end) {
        atomic_store(&c->word, MAX(now_of(c), c->heap[0]->at) | STANDS);
        fire(c);
    }
    atomic_store(&c->word, end | STANDS);
    pthread_mutex_unlock(&c->lock);
}
