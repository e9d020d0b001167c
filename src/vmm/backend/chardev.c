// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev.c - what all character devices do alike: reading when the user has room, writing
 * without blocking, the bounded queue, and the one main-loop source.
 *
 *   host -> read() -> filter_in -> user->read()          main thread
 *   user -> chardev_write() -> write(), rest -> queue    any thread
 *                              queue -> write()          main thread, when the host has room
 *
 * Other threads reach the source only through its ready time, which GLib allows.
 */
#include "vmm/backend/chardev_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "vmm/core/vm.h"

struct chardev_source {
    GSource source;
    struct chardev *c;
};

bool fd_set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

void chardev_event(struct chardev *c, enum chardev_event ev)
{
    if (c->user && c->user->event)
        c->user->event(c->opaque, ev);
}

/* ---- output ---- */

/* As much as the host takes now; never blocks. REQUIRES(c->lock) */
static size_t host_write(struct chardev *c, const u8 *bytes, size_t n)
{
    size_t done = 0;

    while (done < n) {
        size_t len = n - done;
        ssize_t w;

        if (c->may_block) {
            struct pollfd p = { .fd = c->fd_out, .events = POLLOUT };
            if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
                break;
            len = MIN(len, 512); /* what a writable pipe takes for sure */
        }
        if (c->ops->socket)
            w = send(c->fd_out, bytes + done, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        else
            w = write(c->fd_out, bytes + done, len);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0 && errno != EAGAIN) {
            if (!c->full_told && !c->ops->socket)
                log_warn("chardev %s: write: %s; output is lost", c->id, g_strerror(errno));
            c->full_told = true;
            return n; /* nobody will ever take it; a reader's end is seen by the input side */
        }
        if (w <= 0)
            break;
        done += (size_t)w;
    }
    return done;
}

/* REQUIRES(c->lock) */
static void queue_flush(struct chardev *c)
{
    while (c->q_len) {
        size_t piece = MIN(c->q_len, CHARDEV_QUEUE - c->q_at);
        size_t w = c->fd_out < 0 ? piece : host_write(c, c->queue + c->q_at, piece);

        c->q_at = (c->q_at + w) % CHARDEV_QUEUE;
        c->q_len -= w;
        if (w < piece)
            break;
    }
}

/* Returns how many bytes found room. REQUIRES(c->lock) */
static size_t queue_put(struct chardev *c, const u8 *bytes, size_t n)
{
    size_t taken = n;

    if (!c->queue)
        c->queue = g_malloc(CHARDEV_QUEUE);
    if (c->ops->drop_oldest) {
        if (n > CHARDEV_QUEUE) {
            bytes += n - CHARDEV_QUEUE;
            n = CHARDEV_QUEUE;
        }
        if (c->q_len + n > CHARDEV_QUEUE) {
            size_t drop = c->q_len + n - CHARDEV_QUEUE;
            c->q_at = (c->q_at + drop) % CHARDEV_QUEUE;
            c->q_len -= drop;
        }
    } else {
        taken = n = MIN(n, CHARDEV_QUEUE - c->q_len);
    }
    for (size_t done = 0; done < n;) {
        size_t at = (c->q_at + c->q_len) % CHARDEV_QUEUE;
        size_t piece = MIN(n - done, CHARDEV_QUEUE - at);

        memcpy(c->queue + at, bytes + done, piece);
        c->q_len += piece;
        done += piece;
    }
    return taken;
}

/* REQUIRES(c->lock) */
static size_t out_put(struct chardev *c, const u8 *bytes, size_t n)
{
    size_t done = c->q_len ? 0 : host_write(c, bytes, n);

    if (done < n)
        done += queue_put(c, bytes + done, n - done);
    return done;
}

/* 0xff is telnet's escape. Two bytes go or none. REQUIRES(c->lock) */
static size_t out_put_telnet(struct chardev *c, const u8 *bytes, size_t n)
{
    static const u8 ff[2] = { 0xff, 0xff };
    size_t done = 0;

    while (done < n) {
        const u8 *p = memchr(bytes + done, 0xff, n - done);
        size_t plain = p ? (size_t)(p - bytes) - done : n - done;
        size_t w = out_put(c, bytes + done, plain);

        done += w;
        if (w < plain || !p)
            break;
        if (CHARDEV_QUEUE - c->q_len < 2)
            break;
        out_put(c, ff, 2);
        done++;
    }
    return done;
}

size_t chardev_write(struct chardev *c, const void *bytes, size_t n)
{
    size_t done = n;

    if (!n)
        return 0;
    if (c->ops->write)
        return c->ops->write(c, bytes, n);
    pthread_mutex_lock(&c->lock);
    if (c->open && c->fd_out >= 0) {
        done = c->double_ff ? out_put_telnet(c, bytes, n) : out_put(c, bytes, n);
        if (done < n)
            c->refused = true;
        if (c->q_len)
            g_source_set_ready_time(c->source, 0);
    }
    if (c->log_fd >= 0) {
        ssize_t w UNUSED = write(c->log_fd, bytes, done);
    }
    pthread_mutex_unlock(&c->lock);
    return done;
}

/* ---- input and the source ---- */

static void chardev_input(struct chardev *c)
{
    u8 buf[4096];
    size_t room = c->user ? c->user->can_read(c->opaque) : 0;

    if (!room || c->fd_in < 0)
        return;
    ssize_t r = read(c->fd_in, buf, MIN(room, sizeof buf));
    if (r < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (r <= 0) {
        c->input_ended = true;
        /* Input that ends (a file, a pipe) does not close the output beside it. */
        if (c->ops->lost)
            c->ops->lost(c);
        return;
    }
    size_t n = c->ops->filter_in ? c->ops->filter_in(c, buf, (size_t)r) : (size_t)r;
    if (n)
        c->user->read(c->opaque, buf, n);
}

static void tag_want(struct chardev *c, void **tag, int fd, bool want, GIOCondition cond)
{
    if (want && !*tag) {
        *tag = g_source_add_unix_fd(c->source, fd, cond);
    } else if (!want && *tag) {
        /* Removed, not set to no events: a hangup is reported whatever one asks for. */
        g_source_remove_unix_fd(c->source, *tag);
        *tag = NULL;
    }
}

void chardev_update(struct chardev *c)
{
    bool in = c->fd_in >= 0 && !c->input_ended && c->user && c->user->can_read(c->opaque) > 0;

    pthread_mutex_lock(&c->lock);
    bool out = c->fd_out >= 0 && c->q_len > 0;
    pthread_mutex_unlock(&c->lock);
    tag_want(c, &c->tag_in, c->fd_in, in, G_IO_IN | G_IO_HUP | G_IO_ERR);
    tag_want(c, &c->tag_out, c->fd_out, out, G_IO_OUT | G_IO_HUP | G_IO_ERR);
}

static gboolean source_dispatch(GSource *source, GSourceFunc fn UNUSED, gpointer data UNUSED)
{
    struct chardev *c = ((struct chardev_source *)source)->c;
    bool writable = false;

    g_source_set_ready_time(source, -1);
    pthread_mutex_lock(&c->lock);
    queue_flush(c);
    if (c->refused && c->q_len <= CHARDEV_QUEUE / 2) {
        c->refused = false;
        writable = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (writable)
        chardev_event(c, CHARDEV_WRITABLE);
    if (c->ops->pump)
        c->ops->pump(c);
    if (c->tag_in && g_source_query_unix_fd(source, c->tag_in))
        chardev_input(c);
    chardev_update(c);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = { .dispatch = source_dispatch };

void chardev_accept(struct chardev *c)
{
    g_source_set_ready_time(c->source, 0);
}

/* ---- life ---- */

struct chardev *chardev_alloc(struct vm *vm, const struct chardev_ops *ops, size_t size,
                              const char *id)
{
    struct chardev *c = g_malloc0(size);

    c->ops = ops;
    c->vm = vm;
    c->id = g_strdup(id);
    c->describe = g_strdup(ops->kind);
    c->fd_in = c->fd_out = c->log_fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    c->source = g_source_new(&source_funcs, sizeof(struct chardev_source));
    ((struct chardev_source *)c->source)->c = c;
    g_source_set_static_name(c->source, "chardev");
    return c;
}

void chardev_start(struct chardev *c)
{
    if (!c->vm->chardevs)
        c->vm->chardevs = g_ptr_array_new();
    g_ptr_array_add(c->vm->chardevs, c);
    g_source_attach(c->source, c->vm->main);
}

void chardev_set_describe(struct chardev *c, const char *fmt, ...)
{
    va_list ap;

    g_free(c->describe);
    va_start(ap, fmt);
    c->describe = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

void chardev_set_fds(struct chardev *c, int fd_in, int fd_out)
{
    int old_in = c->fd_in, old_out = c->fd_out;
    bool was_open = c->open;

    tag_want(c, &c->tag_in, -1, false, 0);
    tag_want(c, &c->tag_out, -1, false, 0);
    pthread_mutex_lock(&c->lock);
    c->fd_in = fd_in;
    c->fd_out = fd_out;
    c->open = fd_in >= 0 || fd_out >= 0;
    c->q_at = c->q_len = 0;
    c->input_ended = false;
    pthread_mutex_unlock(&c->lock);
    if (old_in >= 0)
        close(old_in);
    if (old_out >= 0 && old_out != old_in)
        close(old_out);
    if (c->open != was_open)
        chardev_event(c, c->open ? CHARDEV_OPENED : CHARDEV_CLOSED);
    if (!c->open && c->refused) { /* a user that waits for room would wait for ever */
        c->refused = false;
        chardev_event(c, CHARDEV_WRITABLE);
    }
    chardev_update(c);
}

void chardev_free(struct chardev *c)
{
    if (!c)
        return;
    c->user = NULL;
    g_source_destroy(c->source);
    if (c->ops->fini)
        c->ops->fini(c);
    g_source_unref(c->source);
    if (c->fd_out >= 0 && c->fd_out != c->fd_in)
        close(c->fd_out);
    if (c->fd_in >= 0)
        close(c->fd_in);
    if (c->log_fd >= 0)
        close(c->log_fd);
    pthread_mutex_destroy(&c->lock);
    g_free(c->queue);
    g_free(c->id);
    g_free(c->describe);
    g_free(c);
}

/* Until the queue is empty or the time is over. */
static void chardev_linger(struct chardev *c, s64 until)
{
    while (c->q_len && c->fd_out >= 0) {
        s64 left = (until - g_get_monotonic_time()) / 1000;
        struct pollfd p = { .fd = c->fd_out, .events = POLLOUT };

        if (left <= 0 || poll(&p, 1, (int)left) <= 0 || !(p.revents & POLLOUT))
            break;
        pthread_mutex_lock(&c->lock);
        queue_flush(c);
        pthread_mutex_unlock(&c->lock);
    }
}

void chardev_free_all(struct vm *vm)
{
    s64 until = g_get_monotonic_time() + 100 * 1000;

    if (!vm->chardevs)
        return;
    /* Newest first: a mux goes before what it stands on. */
    for (u32 i = vm->chardevs->len; i-- > 0;) {
        struct chardev *c = vm->chardevs->pdata[i];
        chardev_linger(c, until);
        chardev_free(c);
    }
    g_clear_pointer(&vm->chardevs, g_ptr_array_unref);
}

void chardev_attach(struct chardev *c, const struct chardev_user *user, void *opaque)
{
    if (c->ops->attach) {
        c->ops->attach(c, user, opaque);
    } else {
        c->user = user;
        c->opaque = opaque;
        if (c->open)
            chardev_event(c, CHARDEV_OPENED);
    }
    chardev_accept(c);
}

void chardev_detach(struct chardev *c, void *opaque)
{
    if (c->ops->detach) {
        c->ops->detach(c, opaque);
    } else if (c->opaque == opaque) {
        c->user = NULL;
        c->opaque = NULL;
    }
    chardev_accept(c);
}

bool chardev_is_mux(const struct chardev *c)
{
    return c->ops->attach != NULL;
}

bool chardev_has_user(const struct chardev *c)
{
    return c->user != NULL;
}

bool chardev_free_for_use(const struct chardev *c)
{
    return chardev_is_mux(c) || !c->user;
}

const char *chardev_describe(struct chardev *c)
{
    return c->describe;
}

const char *chardev_id(const struct chardev *c)
{
    return c->id;
}

struct chardev *chardev_find(struct vm *vm, const char *id)
{
    for (u32 i = 0; vm->chardevs && i < vm->chardevs->len; i++) {
        struct chardev *c = vm->chardevs->pdata[i];
        if (strcmp(c->id, id) == 0)
            return c;
    }
    return NULL;
}
