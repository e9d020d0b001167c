// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_socket.c - UNIX and TCP sockets, as server or client, plain or telnet (RFC 854).
 *
 * A server has one client at a time; the next waits in the backlog.  A client with reconnect=N
 * tries again every N seconds.  Telnet: we offer to echo, to suppress go-ahead and binary both
 * ways, strip what the other side says about options, and turn its BREAK into ours.
 *
 * Not here: TLS, WebSocket, descriptor passing.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/backend/chardev_impl.h"
#include "vmm/core/vm.h"

enum { CONNECT_MS = 10000 };
enum {
    IAC = 255,
    DONT = 254,
    DO = 253,
    WONT = 252,
    WILL = 251,
    SB = 250,
    SE = 240,
    BREAK = 243
};
enum telnet_state { T_DATA, T_IAC, T_OPTION, T_SUB, T_SUB_IAC };

struct sock {
    struct chardev c;
    char *path, *host, *port; /* path, or the other two; none: fd= was given */
    bool server, telnet, nodelay, made_path;
    int family;
    u32 reconnect; /* seconds; 0: no */
    int listen_fd, connecting;
    GSource *watch; /* for a client, for the connection under way, or for the time to retry */
    enum telnet_state t_state;
};

static struct sock *sock_of(struct chardev *c)
{
    return container_of(c, struct sock, c);
}

static void sock_wait_again(struct sock *s);

static void sock_name(struct sock *s, const char *prefix)
{
    const char *how = s->server ? ",server=on" : "";

    if (s->path)
        chardev_set_describe(&s->c, "%sunix:%s%s", prefix, s->path, how);
    else if (s->host)
        chardev_set_describe(&s->c, "%s%s:%s:%s%s", prefix, s->telnet ? "telnet" : "tcp",
                             s->host, s->port, how);
    else
        chardev_set_describe(&s->c, "%sfd%s", prefix, how);
}

static void watch_stop(struct sock *s)
{
    if (!s->watch)
        return;
    g_source_destroy(s->watch);
    g_clear_pointer(&s->watch, g_source_unref);
}

static void watch_fd(struct sock *s, int fd, GIOCondition cond,
                     gboolean (*fn)(int, GIOCondition, void *))
{
    watch_stop(s);
    s->watch = g_unix_fd_source_new(fd, cond);
    g_source_set_callback(s->watch, G_SOURCE_FUNC(fn), s, NULL);
    g_source_attach(s->watch, s->c.vm->main);
}

/* ---- telnet ---- */

static size_t telnet_in(struct chardev *c, u8 *bytes, size_t n)
{
    struct sock *s = sock_of(c);
    size_t kept = 0;

    if (!s->telnet)
        return n;
    for (size_t i = 0; i < n; i++) {
        u8 b = bytes[i];
        switch (s->t_state) {
        case T_DATA:
            if (b == IAC)
                s->t_state = T_IAC;
            else
                bytes[kept++] = b;
            break;
        case T_IAC:
            s->t_state = T_DATA;
            if (b == IAC)
                bytes[kept++] = b;
            else if (b == SB)
                s->t_state = T_SUB;
            else if (b >= WILL && b <= DONT)
                s->t_state = T_OPTION;
            else if (b == BREAK)
                chardev_event(c, CHARDEV_BREAK);
            break;
        case T_OPTION:
            s->t_state = T_DATA;
            break;
        case T_SUB:
            if (b == IAC)
                s->t_state = T_SUB_IAC;
            break;
        case T_SUB_IAC:
            s->t_state = b == SE ? T_DATA : T_SUB;
            break;
        }
    }
    return kept;
}

/* ---- connections ---- */

static void sock_connected(struct sock *s, int fd)
{
    int one = 1;

    watch_stop(s);
    fd_set_nonblock(fd);
    if (!s->path && s->nodelay)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (s->telnet) {
        static const u8 hello[] = { IAC, WILL, 1, IAC, WILL, 3, IAC, WILL, 0, IAC, DO, 0 };
        ssize_t w UNUSED = send(fd, hello, sizeof hello, MSG_NOSIGNAL | MSG_DONTWAIT);
        s->t_state = T_DATA;
    }
    sock_name(s, "");
    chardev_set_fds(&s->c, fd, fd);
}

static void sock_lost(struct chardev *c)
{
    struct sock *s = sock_of(c);

    sock_name(s, "disconnected:");
    chardev_set_fds(c, -1, -1);
    sock_wait_again(s);
}

static gboolean sock_accept(int fd, GIOCondition cond UNUSED, void *opaque)
{
    struct sock *s = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

    if (client < 0)
        return G_SOURCE_CONTINUE;
    sock_connected(s, client);
    return G_SOURCE_REMOVE;
}

static gboolean connect_done(int fd, GIOCondition cond UNUSED, void *opaque)
{
    struct sock *s = opaque;
    int err = 0;
    socklen_t n = sizeof err;

    getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n);
    fd = fd_steal(&s->connecting);
    if (err) {
        close(fd);
        sock_wait_again(s);
    } else {
        sock_connected(s, fd);
    }
    return G_SOURCE_REMOVE;
}

static struct addrinfo *sock_resolve(struct sock *s, GError **error)
{
    struct addrinfo hints = { .ai_family = s->family,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = s->server ? AI_PASSIVE : 0 };
    struct addrinfo *list = NULL;
    int err = getaddrinfo(*s->host ? s->host : NULL, s->port, &hints, &list);

    if (err) {
        fail(error, ERR_IO, "address resolution failed for %s:%s: %s", s->host, s->port,
             gai_strerror(err));
        return NULL;
    }
    return list;
}

static bool unix_address(const char *path, struct sockaddr_un *ret, GError **error)
{
    if (strlen(path) >= sizeof ret->sun_path)
        return fail(error, ERR_ARGUMENT,
                    "UNIX socket path '%s' is too long (at most %zu bytes)", path,
                    sizeof ret->sun_path - 1);
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    strcpy(ret->sun_path, path);
    return true;
}

/* A connected socket, one under way (*ret_pending), or -1. */
static int sock_connect(struct sock *s, bool *ret_pending, GError **error)
{
    int flags = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, err = 0;
    g_autofd fd = -1;

    if (s->path) {
        struct sockaddr_un un;

        if (!unix_address(s->path, &un, error))
            return -1;
        fd = socket(AF_UNIX, flags, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&un, sizeof un) < 0)
            return fail_errno(error, errno, "Failed to connect to '%s'", s->path), -1;
        return fd_steal(&fd);
    }

    struct addrinfo *list = sock_resolve(s, error);
    if (!list)
        return -1;
    for (struct addrinfo *a = list; a; a = a->ai_next) {
        fd_close(&fd);
        fd = socket(a->ai_family, flags, 0);
        if (fd < 0) {
            err = errno;
            continue;
        }
        err = connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? errno : 0;
        if (err == EINPROGRESS && !ret_pending) {
            struct pollfd p = { .fd = fd, .events = POLLOUT };
            socklen_t n = sizeof err;

            err = ETIMEDOUT;
            if (poll(&p, 1, CONNECT_MS) > 0)
                getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n);
        }
        if (!err || (err == EINPROGRESS && ret_pending))
            break;
        fd_close(&fd);
    }
    freeaddrinfo(list);
    if (fd < 0)
        return fail_errno(error, err, "Failed to connect to '%s:%s'", s->host, s->port), -1;
    if (ret_pending)
        *ret_pending = err == EINPROGRESS;
    return fd_steal(&fd);
}

static gboolean sock_retry(void *opaque)
{
    struct sock *s = opaque;
    bool pending = false;
    int fd = sock_connect(s, &pending, NULL);

    if (fd < 0)
        return G_SOURCE_CONTINUE;
    if (pending) {
        s->connecting = fd;
        watch_fd(s, fd, G_IO_OUT | G_IO_ERR | G_IO_HUP, connect_done);
    } else {
        sock_connected(s, fd);
    }
    return G_SOURCE_REMOVE;
}

static void sock_wait_again(struct sock *s)
{
    if (s->server) {
        watch_fd(s, s->listen_fd, G_IO_IN, sock_accept);
    } else if (s->reconnect) {
        watch_stop(s);
        s->watch = g_timeout_source_new_seconds(s->reconnect);
        g_source_set_callback(s->watch, sock_retry, s, NULL);
        g_source_attach(s->watch, s->c.vm->main);
    } else {
        watch_stop(s);
    }
}

static bool sock_listen(struct sock *s, GError **error)
{
    int one = 1, err = 0;

    if (s->path) {
        struct sockaddr_un un;
        struct stat st;

        if (!unix_address(s->path, &un, error))
            return false;
        if (stat(s->path, &st) == 0 && S_ISSOCK(st.st_mode))
            unlink(s->path); /* left by somebody who is gone */
        s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&un, sizeof un) < 0)
            return fail_errno(error, errno, "Failed to bind socket to %s", s->path);
        s->made_path = true;
    } else {
        struct addrinfo *list = sock_resolve(s, error);

        if (!list)
            return false;
        for (struct addrinfo *a = list; a && s->listen_fd < 0; a = a->ai_next) {
            int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
            if (fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0) {
                s->listen_fd = fd;
                break;
            }
            err = errno;
            if (fd >= 0)
                close(fd);
        }
        freeaddrinfo(list);
        if (s->listen_fd < 0)
            return fail_errno(error, err, "Failed to bind socket to %s:%s", s->host, s->port);
    }
    if (listen(s->listen_fd, 1) < 0)
        return fail_errno(error, errno, "Failed to listen");
    return true;
}

/* ---- life ---- */

static void sock_fini(struct chardev *c)
{
    struct sock *s = sock_of(c);

    watch_stop(s);
    fd_close(&s->listen_fd);
    fd_close(&s->connecting);
    if (s->made_path)
        unlink(s->path);
    g_free(s->path);
    g_free(s->host);
    g_free(s->port);
}

static const struct chardev_ops socket_ops = { .kind = "socket",
                                               .socket = true,
                                               .filter_in = telnet_in,
                                               .lost = sock_lost,
                                               .fini = sock_fini };

/* HOST:PORT, [V6]:PORT or :PORT */
static void split_address(struct sock *s, struct keyval *kv, const char *addr)
{
    const char *colon = strrchr(addr, ':');

    if (!colon || !colon[1]) {
        keyval_refuse(kv, "'%s' is not HOST:PORT", addr);
        return;
    }
    s->port = g_strdup(colon + 1);
    if (*addr == '[' && colon > addr + 1 && colon[-1] == ']')
        s->host = g_strndup(addr + 1, (size_t)(colon - addr) - 2);
    else
        s->host = g_strndup(addr, (size_t)(colon - addr));
}

static void sock_options(struct sock *s, struct keyval *kv, int *ret_fd, bool *ret_wait)
{
    const char *addr = keyval_str(kv, "addr"), *fd = keyval_str(kv, "fd");

    s->path = g_strdup(keyval_str(kv, "path"));
    s->host = g_strdup(keyval_str(kv, "host"));
    s->port = g_strdup(keyval_str(kv, "port"));
    if (addr && !s->host && !s->port)
        split_address(s, kv, addr);
    s->server = keyval_bool(kv, "server", false);
    s->telnet = s->c.double_ff = keyval_bool(kv, "telnet", false);
    s->nodelay = keyval_bool(kv, "delay", true) && keyval_bool(kv, "nodelay", true);
    s->reconnect = (u32)keyval_uint(kv, "reconnect", 0, 0, 3600);
    *ret_wait = s->server && keyval_bool(kv, "wait", true);
    if (keyval_str(kv, "wait") && !s->server)
        keyval_refuse(kv, "'wait' option is incompatible with socket in client connect mode");
    if (s->reconnect && s->server)
        keyval_refuse(kv,
                      "'reconnect' option is incompatible with socket in server listen mode");
    bool v4 = keyval_bool(kv, "ipv4", true), v6 = keyval_bool(kv, "ipv6", true);
    s->family = v4 && v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6;
    *ret_fd = fd ? (int)keyval_uint(kv, "fd", 0, 3, 1 << 20) : -1;
    if (!fd && !s->path && !s->port)
        keyval_refuse(kv, "one of 'path', 'host' and 'port', or 'fd' is needed");
    if (s->port && !s->host)
        s->host = g_strdup("");
    if (s->path && s->port)
        keyval_refuse(kv, "'path' and 'port' exclude each other");
}

static bool sock_begin(struct sock *s, int fd, bool wait, GError **error)
{
    if (fd >= 0) {
        int listening = 0;
        socklen_t n = sizeof listening;

        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0)
            return fail_errno(error, errno, "fd=%d", fd);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (!s->server)
            return sock_connected(s, fd), true;
        if (!listening)
            return fail(error, ERR_ARGUMENT, "fd=%d is not a listening socket", fd);
        s->listen_fd = fd;
        fd_set_nonblock(fd);
    } else if (s->server) {
        if (!sock_listen(s, error))
            return false;
    } else {
        fd = sock_connect(s, NULL, s->reconnect ? NULL : error);
        if (fd >= 0)
            return sock_connected(s, fd), true;
        if (!s->reconnect)
            return false;
    }
    sock_name(s, "disconnected:");
    sock_wait_again(s);
    if (wait)
        fprintf(stderr, "waiting for connection on: %s\n", s->c.describe);
    while (wait && !s->c.open) {
        if (s->c.vm->requests & VM_REQ_QUIT)
            return fail(error, ERR_FAILED, "interrupted while waiting for a connection");
        g_main_context_iteration(s->c.vm->main, TRUE);
    }
    return true;
}

struct chardev *chardev_open_socket(struct vm *vm, const char *id, struct keyval *kv,
                                    GError **error)
{
    struct sock *s = (struct sock *)chardev_alloc(vm, &socket_ops, sizeof *s, id);
    bool wait;
    int fd;

    s->listen_fd = s->connecting = -1;
    sock_options(s, kv, &fd, &wait);
    if (!keyval_done(kv, error) || !sock_begin(s, fd, wait, error)) {
        chardev_free(&s->c);
        return NULL;
    }
    chardev_start(&s->c);
    return &s->c;
}
