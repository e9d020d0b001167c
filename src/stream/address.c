// SPDX-License-Identifier: GPL-2.0-or-later
/* address.c - see address.h. */
#include "stream/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/fd.h"

enum { BACKLOG = 64 };

void stream_address_clear(struct stream_address *a)
{
    g_clear_pointer(&a->host, g_free);
    g_clear_pointer(&a->port, g_free);
    g_clear_pointer(&a->path, g_free);
}

s64 stream_now(void)
{
    return g_get_monotonic_time() / 1000;
}

int stream_wait(int fd, short events, const struct stream_limit *l)
{
    for (;;) {
        struct pollfd p[2] = { { .fd = fd, .events = events },
                               { .fd = l->cancel_fd, .events = POLLIN } };
        s64 left = l->until - stream_now();

        if (left <= 0)
            return -ETIMEDOUT;
        int r = poll(p, 2, (int)MIN(left, 60000));
        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0 && p[1].revents)
            return -ECANCELED;
        if (r > 0 && p[0].revents)
            return 0;
    }
}

void stream_prepare(int fd)
{
    int one = 1;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* UNIX sockets refuse it */
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

static bool unix_name(const char *path, struct sockaddr_un *ret, GError **error)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof ret->sun_path)
        return fail(error, ERR_ARGUMENT, "UNIX socket path '%s' is too long", path);
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return true;
}

/* 0 or -errno. */
static int finish_connect(int fd, int r, const struct stream_limit *l)
{
    int err = r < 0 ? errno : 0;
    socklen_t n = sizeof err;

    if (err != EINPROGRESS && err != EINTR)
        return -err;
    if ((r = stream_wait(fd, POLLOUT, l)))
        return r;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0 ? -errno : -err;
}

static int connect_unix(const struct stream_address *a, const struct stream_limit *l,
                        GError **error)
{
    struct sockaddr_un un;

    if (!unix_name(a->path, &un, error))
        return -1;
    g_autofd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;
    while ((r = connect(fd, (struct sockaddr *)&un, sizeof un)) < 0 && errno == EAGAIN) {
        struct pollfd p = { .fd = l->cancel_fd, .events = POLLIN }; /* its backlog is full */

        if (stream_now() >= l->until || poll(&p, 1, 20) > 0)
            break;
    }
    r = finish_connect(fd, r, l);
    if (r) {
        fail_errno(error, -r, "Failed to connect to '%s'", a->path);
        return -1;
    }
    return fd_steal(&fd);
}

static struct addrinfo *resolve(const struct stream_address *a, bool listens, GError **error)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                                    .ai_flags = listens ? AI_PASSIVE : 0 };
    struct addrinfo *list;
    const char *host = a->host && *a->host ? a->host : NULL;
    int r = getaddrinfo(host, a->port, &hints, &list);

    if (!r)
        return list;
    fail(error, ERR_NOT_FOUND, "address resolution failed for %s:%s: %s", host ? host : "",
         a->port, gai_strerror(r));
    return NULL;
}

static int connect_inet(const struct stream_address *a, const struct stream_limit *l,
                        GError **error)
{
    struct addrinfo *list = resolve(a, false, error);
    int err = ENOENT, found = -1;

    for (struct addrinfo *i = list; i && found < 0; i = i->ai_next) {
        g_autofd fd =
            socket(i->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, i->ai_protocol);

        if (fd < 0) {
            err = errno;
            continue;
        }
        int r = finish_connect(fd, connect(fd, i->ai_addr, i->ai_addrlen), l);
        if (r)
            err = -r;
        else
            found = fd_steal(&fd);
    }
    if (list)
        freeaddrinfo(list);
    if (found < 0 && list)
        fail_errno(error, err, "Failed to connect to '%s:%s'", a->host, a->port);
    return found;
}

int stream_connect(const struct stream_address *a, const struct stream_limit *l, GError **error)
{
    int fd = a->kind == STREAM_UNIX   ? connect_unix(a, l, error)
             : a->kind == STREAM_INET ? connect_inet(a, l, error)
                                      : fcntl(a->fd, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return -1;
    stream_prepare(fd);
    return fd;
}

static int listen_unix(const char *path, GError **error)
{
    struct sockaddr_un un;

    if (!unix_name(path, &un, error))
        return -1;
    g_autofd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* What is left of one that has gone; never one that is alive, never a file. */
    g_autofd probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(probe, (struct sockaddr *)&un, sizeof un) < 0 && errno == ECONNREFUSED)
        unlink(path);
    if (bind(fd, (struct sockaddr *)&un, sizeof un) < 0 || listen(fd, BACKLOG) < 0) {
        fail_errno(error, errno, "Failed to bind socket to %s", path);
        return -1;
    }
    return fd_steal(&fd);
}

static int listen_inet(const struct stream_address *a, int ret_fd[STREAM_LISTEN_MAX],
                       GError **error)
{
    struct addrinfo *list = resolve(a, true, error);
    int n = 0, err = ENOENT, one = 1;

    for (struct addrinfo *i = list; i && n < STREAM_LISTEN_MAX; i = i->ai_next) {
        g_autofd fd =
            socket(i->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, i->ai_protocol);

        if (fd < 0) {
            err = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (i->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        if (bind(fd, i->ai_addr, i->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
            err = errno;
        else
            ret_fd[n++] = fd_steal(&fd);
    }
    if (list)
        freeaddrinfo(list);
    if (!n && list)
        fail_errno(error, err, "Failed to bind socket to %s:%s", a->host ? a->host : "",
                   a->port);
    return n;
}

int stream_listen(const struct stream_address *a, int ret_fd[STREAM_LISTEN_MAX], GError **error)
{
    if (a->kind == STREAM_INET)
        return listen_inet(a, ret_fd, error);
    int fd = a->kind == STREAM_UNIX ? listen_unix(a->path, error) : a->fd;
    if (fd < 0)
        return 0;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    ret_fd[0] = fd;
    return 1;
}
