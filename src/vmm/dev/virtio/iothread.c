// SPDX-License-Identifier: GPL-2.0-or-later
/* iothread.c - an epoll loop over eventfds in a thread of its own; see iothread.h. */
#include "vmm/dev/virtio/iothread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/core/quiescent.h"

struct watch {
    int fd;
    void (*fn)(void *opaque);
    void *opaque;
};

struct iothread {
    char *name;
    int epoll, wake;
    pthread_t thread;
    bool started;
    GPtrArray *watches; /* struct watch; only added to */
    pthread_mutex_t lock;
    pthread_cond_t change;
    _Atomic bool pause; /* what is wanted */
    bool resting;       /* the thread waits for !pause; lock */
    _Atomic bool quit;
};

void eventfd_ring(int fd)
{
    ssize_t n UNUSED = write(fd, &(u64){ 1 }, 8); /* a full counter rings already */
}

static void rest(struct iothread *t)
{
    core_offline();
    pthread_mutex_lock(&t->lock);
    t->resting = true;
    pthread_cond_broadcast(&t->change);
    while (t->pause && !t->quit)
        pthread_cond_wait(&t->change, &t->lock);
    t->resting = false;
    pthread_mutex_unlock(&t->lock);
    core_online();
}

static void *loop(void *opaque)
{
    struct iothread *t = opaque;
    struct epoll_event ev[16];
    u64 count;

    pthread_setname_np(pthread_self(), t->name);
    core_thread_register();
    while (!t->quit) {
        core_offline();
        int n = epoll_wait(t->epoll, ev, ARRAY_LEN(ev), -1);
        core_online();
        for (int i = 0; i < n && !t->quit; i++) {
            struct watch *w = ev[i].data.ptr;

            /* Level-triggered: what is not read now, for a pause, is seen again after it. */
            if (t->pause && w)
                break;
            ssize_t got = read(w ? w->fd : t->wake, &count, sizeof count);
            if (w && got == sizeof count)
                w->fn(w->opaque);
            core_quiescent();
        }
        if (t->pause)
            rest(t);
    }
    core_thread_unregister();
    return NULL;
}

static int watch_fd(struct iothread *t, int fd, struct watch *w)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = w };

    return epoll_ctl(t->epoll, EPOLL_CTL_ADD, fd, &ev);
}

struct iothread *iothread_new(const char *name, GError **error)
{
    struct iothread *t = g_new0(struct iothread, 1);
    sigset_t all, old;

    t->name = g_strndup(name, 15);
    t->watches = g_ptr_array_new();
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->change, NULL);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->epoll < 0 || t->wake < 0 || watch_fd(t, t->wake, NULL)) {
        fail_errno(error, errno, "I/O thread %s: no descriptors", name);
        iothread_free(t);
        return NULL;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the main thread and vCPUs */
    int err = pthread_create(&t->thread, NULL, loop, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        fail_errno(error, err, "I/O thread %s cannot be started", name);
        iothread_free(t);
        return NULL;
    }
    t->started = true;
    return t;
}

int iothread_add(struct iothread *t, void (*fn)(void *opaque), void *opaque, GError **error)
{
    g_autofd fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct watch *w = g_new(struct watch, 1);

    *w = (struct watch){ fd, fn, opaque };
    if (fd < 0 || watch_fd(t, fd, w)) {
        fail_errno(error, errno, "I/O thread %s: no eventfd", t->name);
        g_free(w);
        return -1;
    }
    g_ptr_array_add(t->watches, w);
    return fd_steal(&fd);
}

void iothread_pause(struct iothread *t)
{
    if (!t || !t->started)
        return;
    pthread_mutex_lock(&t->lock);
    t->pause = true;
    eventfd_ring(t->wake);
    while (!t->resting)
        pthread_cond_wait(&t->change, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void iothread_resume(struct iothread *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->pause = false;
    pthread_cond_broadcast(&t->change);
    pthread_mutex_unlock(&t->lock);
}

void iothread_free(struct iothread *t)
{
    if (!t)
        return;
    if (t->started) {
        pthread_mutex_lock(&t->lock);
        t->quit = true;
        pthread_cond_broadcast(&t->change);
        pthread_mutex_unlock(&t->lock);
        eventfd_ring(t->wake);
        pthread_join(t->thread, NULL);
    }
    for (u32 i = 0; i < t->watches->len; i++) {
        struct watch *w = t->watches->pdata[i];
        fd_close(&w->fd);
        g_free(w);
    }
    g_ptr_array_free(t->watches, true);
    fd_close(&t->epoll);
    fd_close(&t->wake);
    pthread_cond_destroy(&t->change);
    pthread_mutex_destroy(&t->lock);
    g_free(t->name);
    g_free(t);
}
