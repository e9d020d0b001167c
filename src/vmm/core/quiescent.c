// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * quiescent.c - epoch-based reclamation, see quiescent.h.
 *
 *   retire:    unpublish p;  e = ++epoch;  queue (p, e);  free all with e <= min(seen, online)
 *   reader:    seen = epoch at its loop top;  0 while offline
 *
 * A reader that has seen epoch e read it after p was unpublished, so it cannot find p again,
 * and what it held before is out of its hands.  Going online is a Dekker handshake with
 * retire(): either retire() sees the thread, or the thread sees the new map.
 *
 * The epoch belongs to the process, not to a guest: a thread may serve several.
 */
#include "vmm/core/quiescent.h"

#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

struct core_thread {
    _Atomic u64 seen; /* 0: offline */
    struct core_thread *next;
};

struct retired {
    void *p;
    void (*fn)(void *);
    u64 epoch;
    struct retired *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct core_thread *threads; /* lock */
static struct retired *queue;       /* lock */
static _Atomic u64 epoch = 1;
static __thread struct core_thread *self;
static pthread_key_t exit_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void thread_gone(void *opaque)
{
    struct core_thread *t = opaque;

    pthread_mutex_lock(&lock);
    for (struct core_thread **p = &threads; *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    self = NULL;
    g_free(t);
}

static void make_key(void)
{
    pthread_key_create(&exit_key, thread_gone);
}

static struct core_thread *thread_get(void)
{
    if (likely(self))
        return self;
    pthread_once(&once, make_key);
    struct core_thread *t = g_new0(struct core_thread, 1);

    pthread_mutex_lock(&lock);
    t->next = threads;
    threads = t;
    pthread_mutex_unlock(&lock);
    pthread_setspecific(exit_key, t);
    return self = t;
}

void core_thread_register(void)
{
    thread_get();
    core_online();
}

void core_thread_unregister(void)
{
    if (!self)
        return;
    pthread_setspecific(exit_key, NULL);
    thread_gone(self);
}

void core_quiescent(void)
{
    struct core_thread *t = self;
    u64 e = atomic_load_explicit(&epoch, memory_order_acquire);

    if (t && atomic_load_explicit(&t->seen, memory_order_relaxed) != e)
        atomic_store_explicit(&t->seen, e, memory_order_release);
}

void core_offline(void)
{
    if (self)
        atomic_store_explicit(&self->seen, 0, memory_order_release);
}

void core_online(void)
{
    /* Sequentially consistent, as is the load of a map's pointer behind it (see the head). */
    if (self)
        atomic_exchange(&self->seen, atomic_load(&epoch));
}

bool core_enter(void)
{
    struct core_thread *t = self;

    if (likely(t && atomic_load_explicit(&t->seen, memory_order_relaxed)))
        return false;
    thread_get();
    core_online();
    return true;
}

void core_leave(bool entered)
{
    if (unlikely(entered))
        core_offline();
}

void core_retire(void *p, void (*fn)(void *))
{
    struct retired *r = g_new(struct retired, 1), *free_list = NULL;

    *r = (struct retired){ .p = p, .fn = fn };
    pthread_mutex_lock(&lock);
    r->epoch = atomic_fetch_add(&epoch, 1) + 1;
    r->next = queue;
    queue = r;

    u64 passed = UINT64_MAX;
    for (struct core_thread *t = threads; t; t = t->next) {
        u64 seen = atomic_load(&t->seen);
        if (seen && seen < passed)
            passed = seen;
    }
    for (struct retired **q = &queue; *q;) {
        struct retired *old = *q;
        if (old->epoch <= passed) {
            *q = old->next;
            old->next = free_list;
            free_list = old;
        } else {
            q = &old->next;
        }
    }
    pthread_mutex_unlock(&lock);

    while (free_list) {
        struct retired *old = free_list;
        free_list = old->next;
        old->fn(old->p);
        g_free(old);
    }
}
