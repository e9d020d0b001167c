// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * net.c - what all netdevs do alike: the thread that brings frames to the device, the frame
 * that is kept when the device has no room, the counters.
 *
 *   host -> recv() -> user->receive()   the netdev's thread; not taken: kept until net_ready()
 *   guest -> net_send() -> send()       the caller's thread; host buffer full: dropped
 *
 * There is no queue of our own: the socket's buffer towards us is the bounded queue of incoming
 * frames, the one away from us that of outgoing ones.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "net/net_impl.h"

enum { BURST = 64, HEADER = 14 };

void net_wake(struct net *n)
{
    u64 one = 1;
    ssize_t w UNUSED = write(n->wake, &one, sizeof one);
}

void net_set_fd(struct net *n, int fd)
{
    int old;

    pthread_mutex_lock(&n->send_lock); /* or a sender could meet the number reused */
    old = atomic_exchange(&n->fd, fd);
    if (old >= 0)
        close(old);
    pthread_mutex_unlock(&n->send_lock);
    pthread_mutex_lock(&n->lock);
    if (n->user && n->user->link && (old >= 0) != (fd >= 0))
        n->user->link(n->opaque, fd >= 0);
    pthread_mutex_unlock(&n->lock);
}

/* ---- the thread ---- */

/* Offers n->frame; false: no room, or nobody to offer it to. */
static bool deliver(struct net *n, size_t len)
{
    bool taken = false;

    pthread_mutex_lock(&n->lock);
    if (n->user)
        taken = n->user->receive(n->opaque, n->frame, len);
    pthread_mutex_unlock(&n->lock);
    if (taken) {
        n->in++;
        n->in_bytes += len;
    }
    return taken;
}

/* Up to a burst of frames; false when the device has no more room. */
static bool take_frames(struct net *n)
{
    for (u32 i = 0; i < BURST && !n->quit && !n->paused; i++) {
        ssize_t len = n->ops->recv(n, n->frame, NET_FRAME_MAX);

        if (len < 0) {
            if (!n->ops->lost || !n->ops->lost(n)) {
                log_warn("netdev %s: the host end is gone; the guest's link is down", n->id);
                net_set_fd(n, -1);
            }
            return true;
        }
        if (len == 0)
            return true;
        if (len < HEADER)
            continue;
        atomic_store(&n->ready, false);
        if (!deliver(n, (size_t)len)) {
            n->kept = (size_t)len;
            return atomic_load(&n->ready);
        }
    }
    return true;
}

static void *net_thread(void *opaque)
{
    struct net *n = opaque;
    bool blocked = false;

    while (!n->quit) {
        if (atomic_exchange(&n->ready, false))
            blocked = false;
        if (n->kept && !blocked && !n->paused) {
            if (deliver(n, n->kept))
                n->kept = 0;
            else
                blocked = !atomic_load(&n->ready);
            if (n->kept && !blocked)
                continue;
        }

        bool want = !n->kept && !n->paused && n->user;
        short more = n->ops->wants && n->fd >= 0 ? n->ops->wants(n) : 0;
        struct pollfd p[3] = { { .fd = n->wake, .events = POLLIN },
                               { .fd = want || more ? n->fd : -1, .events = more },
                               { .fd = n->fd < 0 ? n->listen_fd : -1, .events = POLLIN } };
        if (want)
            p[1].events |= POLLIN;
        if (poll(p, 3, -1) < 0)
            continue;
        if (p[0].revents) {
            u64 drained;
            ssize_t r UNUSED = read(n->wake, &drained, sizeof drained);
        }
        if (p[2].revents && n->ops->accept)
            n->ops->accept(n);
        if (p[1].revents & POLLOUT)
            n->ops->writable(n);
        if (want && (p[1].revents & (POLLIN | POLLHUP | POLLERR)))
            blocked = !take_frames(n);
    }
    return NULL;
}

/* ---- for the kinds ---- */

struct net *net_alloc(const struct net_ops *ops, size_t size, const char *id)
{
    struct net *n = g_malloc0(size);

    n->ops = ops;
    n->id = g_strdup(id);
    n->describe = g_strdup(ops->kind);
    n->fd = n->listen_fd = n->wake = -1;
    pthread_mutex_init(&n->lock, NULL);
    pthread_mutex_init(&n->send_lock, NULL);
    return n;
}

bool net_start(struct net *n, GError **error)
{
    sigset_t all, before;

    n->frame = g_malloc(NET_FRAME_MAX);
    n->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (n->wake < 0)
        return fail_errno(error, errno, "netdev %s: eventfd", n->id);
    /* Signals are the main thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&n->thread, NULL, net_thread, n);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        return fail_errno(error, err, "netdev %s: thread", n->id);
    n->started = true;
    pthread_setname_np(n->thread, "net");
    return true;
}

void net_describe(struct net *n, const char *fmt, ...)
{
    va_list ap;

    g_free(n->describe);
    va_start(ap, fmt);
    n->describe = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

ssize_t net_recv_packet(struct net *n, u8 *buf, size_t size)
{
    ssize_t r = read(n->fd, buf, size); /* the descriptor is non-blocking */

    if (r < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED || errno == ENOBUFS
                   ? 0
                   : -1;
    return r;
}

bool net_send_packet(struct net *n, const struct iovec *iov, int count, size_t len)
{
    return writev(n->fd, iov, count) == (ssize_t)len;
}

/* ---- the door ---- */

static const struct {
    const char *name;
    net_open_fn *open;
} kinds[] = {
    { "user", net_open_user },     { "tap", net_open_tap },     { "socket", net_open_socket },
    { "stream", net_open_stream }, { "dgram", net_open_dgram }, { "none", net_open_none },
};

struct net *net_new(const char *opts, GError **error)
{
    g_autokeyval kv = keyval_parse("-netdev", opts, "type");
    const char *kind = keyval_str(kv, "type"), *id = keyval_str(kv, "id");

    if (!kind)
        return fail(error, ERR_ARGUMENT, "-netdev: Parameter 'type' is missing"), NULL;
    if (!id)
        return fail(error, ERR_ARGUMENT, "-netdev %s: Parameter 'id' is missing", kind), NULL;
    for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(kinds[i].name, kind) != 0)
            continue;
        struct net *n = kinds[i].open(id, kv, error);
        if (!n)
            g_prefix_error(error, "netdev %s: ", id);
        return n;
    }
    fail(error, ERR_ARGUMENT,
         "-netdev: '%s' is not a kind of netdev; there are user, tap, socket, stream, dgram, "
         "none",
         kind);
    return NULL;
}

const char *net_id(const struct net *n)
{
    return n->id;
}

void net_free(struct net *n)
{
    if (!n)
        return;
    if (n->started) {
        n->quit = true;
        net_wake(n);
        pthread_join(n->thread, NULL);
    }
    if (n->ops->fini)
        n->ops->fini(n);
    int fd = n->fd;
    fd_close(&fd);
    fd_close(&n->listen_fd);
    fd_close(&n->wake);
    pthread_mutex_destroy(&n->lock);
    pthread_mutex_destroy(&n->send_lock);
    g_free(n->frame);
    g_free(n->id);
    g_free(n->describe);
    g_free(n);
}

bool net_attach(struct net *n, const struct net_user *user, void *opaque)
{
    bool ok;

    pthread_mutex_lock(&n->lock);
    ok = !n->user;
    if (ok) {
        n->opaque = opaque;
        n->user = user;
    }
    pthread_mutex_unlock(&n->lock);
    net_wake(n);
    return ok;
}

void net_detach(struct net *n)
{
    pthread_mutex_lock(&n->lock);
    n->user = NULL;
    n->opaque = NULL;
    pthread_mutex_unlock(&n->lock);
}

bool net_try_send(struct net *n, const struct iovec *iov, int count)
{
    size_t len = 0;
    bool sent = false, full = false;

    for (int i = 0; i < count; i++)
        if (__builtin_add_overflow(len, iov[i].iov_len, &len))
            len = SIZE_MAX / 2;
    if (len >= HEADER && len <= NET_FRAME_MAX && count <= IOV_MAX) {
        pthread_mutex_lock(&n->send_lock);
        errno = 0;
        sent = n->fd >= 0 && n->ops->send(n, iov, count, len);
        full = n->fd >= 0 && !sent && (errno == EAGAIN || errno == ENOBUFS);
        pthread_mutex_unlock(&n->send_lock);
    }
    if (full)
        return false;
    if (sent) {
        n->out++;
        n->out_bytes += len;
    } else {
        n->dropped++;
    }
    return true;
}

void net_send(struct net *n, const struct iovec *iov, int count)
{
    n->dropped += !net_try_send(n, iov, count);
}

bool net_large(const struct net *n)
{
    return n->ops->large;
}

void net_ready(struct net *n)
{
    /* Most calls come while the thread is not waiting for one. */
    if (!atomic_exchange(&n->ready, true))
        net_wake(n);
}

void net_pause(struct net *n, bool paused)
{
    n->paused = paused;
    net_wake(n);
}

bool net_link(const struct net *n)
{
    return n->fd >= 0;
}

void net_count(const struct net *n, struct net_counts *ret)
{
    *ret = (struct net_counts){ n->in, n->in_bytes, n->out, n->out_bytes, n->dropped };
}

void net_print(const struct net *n, GString *to)
{
    g_string_append_printf(to,
                           "%s: %s, link %s, to guest %" PRIu64 " frames %" PRIu64
                           " bytes, from guest %" PRIu64 " frames %" PRIu64 " bytes, %" PRIu64
                           " dropped\n",
                           n->id, n->describe, net_link(n) ? "up" : "down", n->in, n->in_bytes,
                           n->out, n->out_bytes, n->dropped);
}

/* A netdev that leads nowhere. */
static const struct net_ops none_ops = { .kind = "none" };

struct net *net_open_none(const char *id, struct keyval *kv, GError **error)
{
    return keyval_done(kv, error) ? net_alloc(&none_ops, sizeof(struct net), id) : NULL;
}
