// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * server.c - the thread that has all clients, and the exports that the main thread gives it.
 *
 *      main thread            the server's thread                 image threads
 *      exports ──lock──>      accept, TLS, handshake
 *      <──news (GSource)──    requests ─────────────────────────> done: answer, send
 *                             what did not go at once  <──wake──
 *
 * A client is freed by the server's thread when none of its requests is under way.
 */
#include "nbd/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "nbd/impl.h"

enum { EVENTS = 64, TICK_MS = 1000, LOOKERS = 2, PIECES = 64, CLIENTS_MAX = 4096 };

void server_wake(struct nbd_server *s)
{
    eventfd_write(s->wake_fd, 1);
}

/* --- news for the main thread ----------------------------------------------------------------
 */

static void export_free(struct nbd_export *e)
{
    image_close(e->image);
    if (e->gone)
        e->gone(e->opaque);
    g_free(e->name);
    g_free(e->description);
    g_free(e->bitmap);
    g_free(e);
}

static gboolean tell(gpointer opaque)
{
    struct nbd_server *s = opaque;
    g_autoptr(GPtrArray) over = g_ptr_array_new();

    pthread_mutex_lock(&s->lock);
    for (guint i = s->exports->len; i-- > 0;) {
        struct nbd_export *e = s->exports->pdata[i];

        if (e->removed && !e->clients)
            g_ptr_array_add(over, g_ptr_array_remove_index(s->exports, i));
    }
    u32 count = s->count;
    bool left = s->one_left;
    s->one_left = false;
    g_source_unref(s->news);
    s->news = NULL;
    pthread_mutex_unlock(&s->lock);
    for (guint i = 0; i < over->len; i++)
        export_free(over->pdata[i]);
    if (s->notify)
        s->notify(s->opaque, count, left);
    return G_SOURCE_REMOVE;
}

/* REQUIRES(s->lock) */
static void news(struct nbd_server *s)
{
    if (s->news)
        return;
    s->news = g_idle_source_new();
    g_source_set_priority(s->news, G_PRIORITY_DEFAULT);
    g_source_set_callback(s->news, tell, s, NULL);
    g_source_attach(s->news, s->main);
}

/* --- sending ---------------------------------------------------------------------------------
 */

static u64 out_left(const struct out *o)
{
    return o->n_head + o->n_data - o->sent;
}

static int out_pieces(const struct out *o, struct iovec *to)
{
    u64 skip = MIN(o->sent, o->n_head), from = o->sent - skip;
    int k = 0;

    if (skip < o->n_head)
        to[k++] = (struct iovec){ (u8 *)o->head + skip, o->n_head - skip };
    if (from < o->n_data)
        to[k++] = (struct iovec){ o->data + from, o->n_data - from };
    return k;
}

/* REQUIRES(c->lock) */
static void out_free(struct client *c, struct out *o)
{
    c->bytes -= o->bytes;
    c->server->bytes -= o->bytes;
    c->in_flight -= o->request;
    g_free(o->data);
    g_free(o); /* the first member of a request */
}

static struct out *out_take(struct client *c)
{
    struct out *o = c->out;

    if (!(c->out = o->next))
        c->out_last = &c->out;
    return o;
}

/* REQUIRES(c->lock) */
static void send_some(struct client *c)
{
    while (c->out && !c->broken) {
        struct iovec v[PIECES];
        int k = 0;

        for (struct out *o = c->out; o && k + 2 <= PIECES; o = o->next)
            k += out_pieces(o, v + k);
        ssize_t r = stream_send(&c->stream, v, k);
        if (r == -EAGAIN)
            return;
        if (r < 0) {
            c->broken = true;
            return;
        }
        c->moved = stream_now();
        while (c->out && (r > 0 || !out_left(c->out))) {
            u64 part = MIN((u64)r, out_left(c->out));

            c->out->sent += part;
            r -= (ssize_t)part;
            if (!out_left(c->out))
                out_free(c, out_take(c));
        }
    }
}

/* REQUIRES(c->lock) */
static void drop_out(struct client *c)
{
    while (c->out)
        out_free(c, out_take(c));
}

void client_put(struct client *c, struct out *o)
{
    struct nbd_server *s = c->server;

    pthread_mutex_lock(&c->lock);
    bool full = c->in_flight >= REQUESTS_MAX || c->bytes >= CLIENT_BYTES / 2 ||
                s->bytes >= SERVER_BYTES / 2;
    o->next = NULL;
    if (!c->out)
        c->moved = stream_now();
    *c->out_last = o;
    c->out_last = &o->next;
    send_some(c);
    if (c->broken)
        drop_out(c);
    bool wake = c->out || c->broken || full; /* full: he may go on */
    pthread_mutex_unlock(&c->lock);          /* from here on he may be gone */
    if (wake)
        server_wake(s);
}

/* --- clients ---------------------------------------------------------------------------------
 */

static void client_new(struct nbd_server *s, int fd)
{
    struct client *c = g_new0(struct client, 1);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c };

    stream_prepare(fd);
    stream_init(&c->stream, fd);
    c->server = s;
    c->out_last = &c->out;
    c->since = stream_now();
    c->events = EPOLLIN;
    pthread_mutex_init(&c->lock, NULL);
    epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e);
    g_ptr_array_add(s->clients, c);
    pthread_mutex_lock(&s->lock);
    s->count++;
    news(s);
    pthread_mutex_unlock(&s->lock);
    handshake_hello(c);
}

/* No more of him; his requests may still be under way. */
static void client_drop(struct client *c)
{
    if (c->gone)
        return;
    c->gone = true;
    epoll_ctl(c->server->epoll_fd, EPOLL_CTL_DEL, c->stream.fd, NULL);
    shutdown(c->stream.fd, SHUT_RDWR);
    pthread_mutex_lock(&c->lock);
    c->broken = true;
    drop_out(c);
    if (c->writing)
        out_free(c, &c->writing->out);
    c->writing = NULL;
    pthread_mutex_unlock(&c->lock);
}

static void client_free(struct client *c)
{
    struct nbd_server *s = c->server;

    pthread_mutex_lock(&s->lock);
    s->count--;
    if (c->export) {
        c->export->clients--;
        s->one_left = true;
    }
    news(s);
    pthread_mutex_unlock(&s->lock);
    stream_close(&c->stream);
    pthread_mutex_destroy(&c->lock);
    g_free(c->context_name);
    g_free(c);
}

static ssize_t client_recv(struct client *c, void *to, size_t n)
{
    struct iovec v = { to, n };

    if (c->stream.tls)
        pthread_mutex_lock(&c->lock);
    ssize_t r = stream_recv(&c->stream, &v, 1);
    if (c->stream.tls)
        pthread_mutex_unlock(&c->lock);
    if (r > 0)
        c->since = c->state == TRANSMISSION ? stream_now() : c->since;
    return r;
}

/* Data of a write: from the buffer, then from the stream. 1: all there, 0: wait, -1: gone. */
static int take_data(struct client *c)
{
    struct request *r = c->writing;
    u32 part = MIN(c->in_len, r->len - c->writing_at);

    memcpy(r->out.data + c->writing_at, c->in, part);
    memmove(c->in, c->in + part, c->in_len - part);
    c->in_len -= part;
    c->writing_at += part;
    while (c->writing_at < r->len) {
        ssize_t n = client_recv(c, r->out.data + c->writing_at, r->len - c->writing_at);

        if (n == -EAGAIN)
            return 0;
        if (n <= 0)
            return -1;
        c->writing_at += (u32)n;
    }
    c->writing = NULL;
    request_start(r);
    return 1;
}

/* What is in the buffer: 1: some of it was taken; 0: more has to come; -1: out with him. */
static int take_message(struct client *c)
{
    s64 n = c->state == GREETED   ? handshake_greeting(c, c->in, c->in_len)
            : c->state == OPTIONS ? handshake_option(c, c->in, c->in_len)
                                  : request_take(c, c->in, c->in_len);

    if (n <= 0)
        return (int)n;
    memmove(c->in, c->in + n, c->in_len - (u32)n);
    c->in_len -= (u32)n;
    return 1;
}

static int step_tls(struct client *c)
{
    g_autoptr(GError) why = NULL;
    short events = 0;

    pthread_mutex_lock(&c->lock);
    int r = stream_tls_step(&c->stream, &events, &why);
    pthread_mutex_unlock(&c->lock);
    if (r < 0)
        log_guest("NBD server: %s", why->message);
    if (r > 0)
        c->state = OPTIONS;
    return r;
}

enum pumped { WAIT, FULL, AGAIN, GONE };

/* Does what can be done now. */
static enum pumped pump(struct client *c)
{
    enum { ROUNDS = 64 };

    for (u32 i = 0; i < ROUNDS; i++) {
        int r = c->state == TLS ? step_tls(c) : c->writing ? take_data(c) : take_message(c);

        if (r < 0)
            return GONE;
        if (r > 0)
            continue;
        if (c->state == TLS || c->writing)
            return WAIT;
        if (c->in_len == sizeof c->in ||
            (c->state == TRANSMISSION && c->in_len >= sizeof(struct nbd_request)) ||
            (c->state == OPTIONS && c->out))
            return FULL;
        ssize_t n = client_recv(c, c->in + c->in_len, sizeof c->in - c->in_len);
        if (n == -EAGAIN)
            return WAIT;
        if (n <= 0)
            return GONE;
        c->in_len += (u32)n;
    }
    return AGAIN;
}

static void watch(struct client *c, bool in)
{
    struct epoll_event e = { .data.ptr = c };

    pthread_mutex_lock(&c->lock);
    bool out = c->out != NULL;
    pthread_mutex_unlock(&c->lock);
    e.events = (in ? EPOLLIN : 0u) | (out ? EPOLLOUT : 0u);
    if (e.events != c->events)
        epoll_ctl(c->server->epoll_fd, EPOLL_CTL_MOD, c->stream.fd, &e);
    c->events = e.events;
}

/* true: there is more to do at once. */
static bool client_serve(struct client *c)
{
    if (c->gone)
        return false;
    pthread_mutex_lock(&c->lock);
    send_some(c);
    bool broken = c->broken;
    pthread_mutex_unlock(&c->lock);
    enum pumped p = broken ? GONE : pump(c);
    if (p == GONE)
        client_drop(c);
    else
        watch(c, p != FULL);
    return p == AGAIN || (p == WAIT && stream_buffered(&c->stream));
}

static bool late(struct client *c, s64 now)
{
    if (c->state != TRANSMISSION)
        return now - c->since > HANDSHAKE_MS;
    pthread_mutex_lock(&c->lock);
    bool stuck = c->out && now - c->moved > STALL_MS;
    pthread_mutex_unlock(&c->lock);
    bool half = c->writing || (c->in_len && c->in_len < sizeof(struct nbd_request));
    return stuck || (half && now - c->since > STALL_MS);
}

/* Who is late, whose export is gone, who can be freed. */
static void sweep(struct nbd_server *s)
{
    s64 now = stream_now();

    for (guint i = s->clients->len; i-- > 0;) {
        struct client *c = s->clients->pdata[i];

        pthread_mutex_lock(&s->lock);
        bool out = s->quit || (c->export && c->export->hard);
        pthread_mutex_unlock(&s->lock);
        if (out || late(c, now))
            client_drop(c);
        if (!c->gone)
            continue;
        pthread_mutex_lock(&c->lock);
        bool over = !c->in_flight;
        pthread_mutex_unlock(&c->lock);
        if (over) {
            g_ptr_array_remove_index_fast(s->clients, i);
            client_free(c);
        }
    }
}

/* --- the thread ------------------------------------------------------------------------------
 */

static void listen_on(struct nbd_server *s, bool on)
{
    for (int i = 0; i < s->n_listen; i++) {
        struct epoll_event e = { .events = on ? EPOLLIN : 0u, .data.ptr = &s->listen[i] };

        epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, s->listen[i], &e);
    }
}

/* false: the host has no room for more, for now. */
static bool accept_some(struct nbd_server *s, int listener)
{
    while (s->clients->len < s->max_clients) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
            return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
        client_new(s, fd);
    }
    return true;
}

static bool is_listener(const struct nbd_server *s, const void *p)
{
    return (const int *)p >= s->listen && (const int *)p < s->listen + s->n_listen;
}

static void *run(void *opaque)
{
    struct nbd_server *s = opaque;
    bool busy = false;

    pthread_setname_np(pthread_self(), "nbd server");
    while (!s->quit || s->clients->len) {
        struct epoll_event e[EVENTS];
        bool woken = busy, room = true;
        int n = epoll_wait(s->epoll_fd, e, EVENTS, busy ? 0 : s->clients->len ? TICK_MS : -1);

        busy = false;
        for (int i = 0; i < n; i++) {
            void *p = e[i].data.ptr;

            if (p == s) {
                eventfd_t v;
                eventfd_read(s->wake_fd, &v);
                woken = true;
            } else if (is_listener(s, p)) {
                room = accept_some(s, *(int *)p);
            } else {
                struct client *c = p;

                /* One who has gone while he was not listened to. */
                if (e[i].events & (EPOLLHUP | EPOLLERR) && !(c->events & EPOLLIN))
                    client_drop(c);
                busy |= client_serve(c);
            }
        }
        for (guint i = 0; woken && i < s->clients->len; i++)
            busy |= client_serve(s->clients->pdata[i]);
        sweep(s);
        listen_on(s, !s->quit && room && s->clients->len < s->max_clients);
        if (!room)
            g_usleep(10000);
    }
    return NULL;
}

/* --- the main thread -------------------------------------------------------------------------
 */

static struct nbd_server *server_new(const struct nbd_server_options *o)
{
    struct nbd_server *s = g_new0(struct nbd_server, 1);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };

    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &e);
    s->max_clients =
        o->max_clients && o->max_clients < CLIENTS_MAX ? o->max_clients : CLIENTS_MAX;
    s->tls = o->tls ? tls_creds_ref(o->tls) : NULL;
    s->main = o->main;
    s->notify = o->clients;
    s->opaque = o->opaque;
    s->clients = g_ptr_array_new();
    s->exports = g_ptr_array_new();
    s->looks = g_thread_pool_new(request_look, s, LOOKERS, FALSE, NULL);
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

static void server_start(struct nbd_server *s)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&s->thread, NULL, run, s))
        g_error("NBD server: the host has no room for a thread");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct nbd_server *nbd_server_new(const struct nbd_server_options *o, GError **error)
{
    int fd[STREAM_LISTEN_MAX], n = stream_listen(o->address, fd, error);

    if (!n)
        return NULL;
    struct nbd_server *s = server_new(o);
    for (int i = 0; i < n; i++) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = &s->listen[i] };

        s->listen[i] = fd[i];
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd[i], &e);
    }
    s->n_listen = n;
    if (o->address->kind == STREAM_UNIX)
        s->unlink_path = g_strdup(o->address->path);
    server_start(s);
    return s;
}

struct nbd_server *nbd_server_on(int fd, const struct nbd_server_options *o)
{
    struct nbd_server *s = server_new(o);

    client_new(s, fd);
    server_start(s);
    return s;
}

void nbd_server_free(struct nbd_server *s)
{
    if (!s)
        return;
    s->quit = true;
    server_wake(s);
    pthread_join(s->thread, NULL);
    g_thread_pool_free(s->looks, FALSE, TRUE);
    for (int i = 0; i < s->n_listen; i++)
        close(s->listen[i]);
    if (s->unlink_path)
        unlink(s->unlink_path);
    if (s->news) {
        g_source_destroy(s->news);
        g_source_unref(s->news);
    }
    for (guint i = 0; i < s->exports->len; i++)
        export_free(s->exports->pdata[i]);
    tls_creds_unref(s->tls);
    g_ptr_array_unref(s->clients);
    g_ptr_array_unref(s->exports);
    pthread_mutex_destroy(&s->lock);
    fd_close(&s->wake_fd);
    fd_close(&s->epoll_fd);
    g_free(s->unlink_path);
    g_free(s);
}

u32 nbd_server_port(const struct nbd_server *s)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;

    if (!s->n_listen || getsockname(s->listen[0], (struct sockaddr *)&a, &n) < 0)
        return 0;
    return a.ss_family == AF_INET    ? ntohs(((struct sockaddr_in *)&a)->sin_port)
           : a.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&a)->sin6_port)
                                     : 0;
}

struct nbd_export *nbd_export_find(struct nbd_server *s, const char *name)
{
    struct nbd_export *found = NULL;

    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < s->exports->len; i++) {
        struct nbd_export *e = s->exports->pdata[i];

        if (!e->removed && !strcmp(e->name, name))
            found = e;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

u32 nbd_export_clients(struct nbd_export *e)
{
    pthread_mutex_lock(&e->server->lock);
    u32 n = e->clients;
    pthread_mutex_unlock(&e->server->lock);
    return n;
}

struct nbd_export *nbd_export_add(struct nbd_server *s, const struct nbd_export_options *o,
                                  GError **error)
{
    const char *about = o->description;
    bool ok = true;

    if (strlen(o->name) > NBD_NAME_MAX || (about && strlen(about) > NBD_NAME_MAX))
        ok = fail(error, ERR_ARGUMENT,
                  "The export's name or description is longer than %d bytes", NBD_NAME_MAX);
    else if (nbd_export_find(s, o->name))
        ok = fail(error, ERR_ARGUMENT, "NBD server already has export named '%s'", o->name);
    else if (o->writable && image_read_only(o->image))
        ok = fail(error, ERR_ARGUMENT, "The image is read-only: so is its export");
    if (!ok) {
        image_close(o->image);
        return NULL;
    }
    struct nbd_export *e = g_new0(struct nbd_export, 1);
    e->server = s;
    e->name = g_strdup(o->name);
    e->description = g_strdup(about);
    e->bitmap = g_strdup(o->bitmap);
    e->dirty = o->dirty;
    e->image = o->image;
    e->writable = o->writable;
    e->depth = o->allocation_depth;
    e->offset = o->offset;
    e->gone = o->gone;
    e->opaque = o->opaque;
    pthread_mutex_lock(&s->lock);
    g_ptr_array_add(s->exports, e);
    pthread_mutex_unlock(&s->lock);
    return e;
}

void nbd_export_remove(struct nbd_export *e, bool hard)
{
    struct nbd_server *s = e->server;

    pthread_mutex_lock(&s->lock);
    e->removed = true;
    e->hard |= hard;
    news(s);
    pthread_mutex_unlock(&s->lock);
    server_wake(s);
}
