// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * socket.c - guests wired to each other over host sockets.
 *
 *   -netdev socket   listen=[HOST]:PORT | connect=HOST:PORT | mcast=GROUP:PORT |
 *                    udp=HOST:PORT,localaddr=HOST:PORT | fd=N
 *   -netdev stream   server=on|off, addr.type=inet|unix|fd, addr.host=, addr.port=, addr.path=,
 *                    addr.str=
 *   -netdev dgram    local.type=..., remote.type=... (inet, unix, fd), multicast by remote
 *
 * On a stream each frame has its length before it, 32 bits big endian, as QEMU's netdevs have
 * it. A stream server has one peer at a time; when that leaves, the next may come.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "net/net_impl.h"

enum { HEAD = 4 };

struct net_socket {
    struct net n;
    u8 in[HEAD + NET_FRAME_MAX]; /* the thread's */
    size_t in_len;
    u8 out[HEAD + NET_FRAME_MAX]; /* rest of a frame that went out in part; send_lock */
    size_t out_at, out_len;
    struct sockaddr_storage to; /* datagrams: where they go; len 0: connected */
    socklen_t to_len;
    char *made_path;
};

static struct net_socket *socket_of(struct net *n)
{
    return container_of(n, struct net_socket, n);
}

/* ---- streams ---- */

static ssize_t stream_recv(struct net *n, u8 *buf, size_t size)
{
    struct net_socket *s = socket_of(n);

    for (;;) {
        size_t want = HEAD;

        if (s->in_len >= HEAD) {
            be32 head;
            memcpy(&head, s->in, HEAD);
            size_t len = be32_get(head);
            if (len > NET_FRAME_MAX || len > size)
                return -1; /* out of step, or hostile */
            want += len;
            if (s->in_len == want) {
                memcpy(buf, s->in + HEAD, len);
                s->in_len = 0;
                if (len)
                    return (ssize_t)len;
                continue;
            }
        }
        ssize_t r = recv(n->fd, s->in + s->in_len, want - s->in_len, MSG_DONTWAIT);
        if (r < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (r <= 0)
            return -1;
        s->in_len += (size_t)r;
    }
}

static bool stream_send(struct net *n, const struct iovec *iov, int count, size_t len)
{
    struct net_socket *s = socket_of(n);
    struct iovec v[64];
    be32 head = be32_of((u32)len);

    if (count >= (int)ARRAY_LEN(v))
        return false;
    if (s->out_len) {
        errno = EAGAIN;
        return false;
    }
    v[0] = (struct iovec){ &head, HEAD };
    memcpy(v + 1, iov, (size_t)count * sizeof *iov);
    struct msghdr m = { .msg_iov = v, .msg_iovlen = (size_t)count + 1 };
    ssize_t w = sendmsg(n->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (w < 0)
        return false;
    if ((size_t)w == len + HEAD)
        return true;
    /* Part of it is under way: the rest has to follow, whatever else is dropped. */
    size_t skip = (size_t)w;
    s->out_at = s->out_len = 0;
    for (int i = 0; i <= count; i++) {
        size_t cut = MIN(skip, v[i].iov_len);
        memcpy(s->out + s->out_len, (u8 *)v[i].iov_base + cut, v[i].iov_len - cut);
        s->out_len += v[i].iov_len - cut;
        skip -= cut;
    }
    net_wake(n);
    return true;
}

static short stream_wants(struct net *n)
{
    struct net_socket *s = socket_of(n);

    pthread_mutex_lock(&n->send_lock);
    short more = s->out_len ? POLLOUT : 0;
    pthread_mutex_unlock(&n->send_lock);
    return more;
}

static void stream_writable(struct net *n)
{
    struct net_socket *s = socket_of(n);

    pthread_mutex_lock(&n->send_lock);
    ssize_t w = send(n->fd, s->out + s->out_at, s->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (w > 0) {
        s->out_at += (size_t)w;
        s->out_len -= (size_t)w;
    } else if (w < 0 && errno != EAGAIN && errno != EINTR) {
        s->out_len = 0; /* the reading side sees the end */
    }
    pthread_mutex_unlock(&n->send_lock);
}

static void stream_begin(struct net *n, int fd)
{
    struct net_socket *s = socket_of(n);
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* refused by UNIX sockets */
    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    s->in_len = 0;
    pthread_mutex_lock(&n->send_lock);
    s->out_len = 0;
    pthread_mutex_unlock(&n->send_lock);
    net_set_fd(n, fd);
}

static void stream_accept(struct net *n)
{
    int fd = accept4(n->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd >= 0)
        stream_begin(n, fd);
}

static bool stream_lost(struct net *n)
{
    if (n->listen_fd < 0)
        return false;
    net_set_fd(n, -1);
    return true;
}

static void socket_fini(struct net *n)
{
    struct net_socket *s = socket_of(n);

    if (s->made_path)
        unlink(s->made_path);
    g_free(s->made_path);
}

static const struct net_ops stream_ops = {
    .kind = "stream",
    .recv = stream_recv,
    .send = stream_send,
    .accept = stream_accept,
    .lost = stream_lost,
    .wants = stream_wants,
    .writable = stream_writable,
    .fini = socket_fini,
};

/* ---- datagrams ---- */

static bool dgram_send(struct net *n, const struct iovec *iov, int count, size_t len)
{
    struct net_socket *s = socket_of(n);
    struct msghdr m = { .msg_name = s->to_len ? &s->to : NULL,
                        .msg_namelen = s->to_len,
                        .msg_iov = (struct iovec *)iov,
                        .msg_iovlen = (size_t)count };

    return sendmsg(n->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

static const struct net_ops dgram_ops = {
    .kind = "dgram", .recv = net_recv_packet, .send = dgram_send, .fini = socket_fini
};

/* ---- addresses ---- */

struct address {
    struct sockaddr_storage a;
    socklen_t len;
};

static bool address_inet(const char *host, const char *port, int type, bool passive,
                         struct address *ret, GError **error)
{
    struct addrinfo hints = { .ai_socktype = type, .ai_flags = passive ? AI_PASSIVE : 0 },
                    *list;
    int err;

    hints.ai_family = *host ? AF_UNSPEC : AF_INET;
    err = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    if (err)
        return fail(error, ERR_ARGUMENT, "address resolution failed for %s:%s: %s", host, port,
                    gai_strerror(err));
    memcpy(&ret->a, list->ai_addr, list->ai_addrlen);
    ret->len = list->ai_addrlen;
    freeaddrinfo(list);
    return true;
}

static bool address_unix(const char *path, struct address *ret, GError **error)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };

    if (strlen(path) >= sizeof un.sun_path)
        return fail(error, ERR_ARGUMENT, "UNIX socket path '%s' is too long", path);
    strcpy(un.sun_path, path);
    memcpy(&ret->a, &un, sizeof un);
    ret->len = sizeof un;
    return true;
}

/* "HOST:PORT" */
static bool address_text(const char *text, int type, bool passive, struct address *ret,
                         GError **error)
{
    const char *colon = strrchr(text, ':');

    if (!colon || !colon[1])
        return fail(error, ERR_ARGUMENT, "'%s' is not HOST:PORT", text);
    g_autofree char *host = g_strndup(text, (size_t)(colon - text));
    return address_inet(host, colon + 1, type, passive, ret, error);
}

/* "addr.type=..." and its like under a prefix; *ret_fd: fd= was given. */
static bool address_options(struct keyval *kv, const char *prefix, int type, bool passive,
                            struct address *ret, char **ret_path, int *ret_fd, GError **error)
{
    char key[32];
#define KEY(k) (g_snprintf(key, sizeof key, "%s.%s", prefix, k), key)
    const char *kind = keyval_str(kv, KEY("type")), *host = keyval_str(kv, KEY("host"));
    const char *port = keyval_str(kv, KEY("port")), *path = keyval_str(kv, KEY("path"));
    const char *str = keyval_str(kv, KEY("str"));

    *ret_fd = -1;
    if (!kind)
        return true;
    if (strcmp(kind, "inet") == 0 && port)
        return address_inet(host ? host : "", port, type, passive, ret, error);
    if (strcmp(kind, "unix") == 0 && path) {
        *ret_path = g_strdup(path);
        return address_unix(path, ret, error);
    }
    if (strcmp(kind, "fd") == 0 && str) {
        *ret_fd = (int)keyval_uint(kv, KEY("str"), 0, 3, 1 << 20);
        return true;
    }
#undef KEY
    return fail(
        error, ERR_ARGUMENT,
        "%s.type: inet (with host and port), unix (with path) or fd (with str) is needed",
        prefix);
}

/* ---- opening ---- */

/* Binds or connects a stream; fd >= 0 is one that was handed to us. */
static struct net *stream_open(const char *id, const struct address *a, char *path, int given,
                               bool server, const char *what, GError **error)
{
    g_autofree char *own_path = path;
    g_autofd fd = given;
    int one = 1;
    struct stat st;

    if (fd < 0) {
        fd = socket(a->a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return fail_errno(error, errno, "socket"), NULL;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (server && path && stat(path, &st) == 0 && S_ISSOCK(st.st_mode))
            unlink(path);
        if (server ? bind(fd, (const struct sockaddr *)&a->a, a->len) < 0 || listen(fd, 1) < 0
                   : connect(fd, (const struct sockaddr *)&a->a, a->len) < 0)
            return fail_errno(error, errno, "%s %s",
                              server ? "cannot listen at" : "cannot connect to", what),
                   NULL;
    }

    struct net_socket *s = (struct net_socket *)net_alloc(&stream_ops, sizeof *s, id);
    net_describe(&s->n, "%s %s", server ? "listening at" : "connected to", what);
    if (server) {
        s->made_path = g_steal_pointer(&own_path);
        s->n.listen_fd = fd_steal(&fd);
        fcntl(s->n.listen_fd, F_SETFL, O_RDWR | O_NONBLOCK);
    } else {
        stream_begin(&s->n, fd_steal(&fd));
    }
    if (net_start(&s->n, error))
        return &s->n;
    net_free(&s->n);
    return NULL;
}

static bool multicast_join(int fd, const struct address *group, const char *local,
                           GError **error)
{
    const struct sockaddr_in *in = (const void *)&group->a;
    struct ip_mreq req = { .imr_multiaddr = in->sin_addr, .imr_interface.s_addr = INADDR_ANY };
    u8 on = 1;

    if (local && inet_pton(AF_INET, local, &req.imr_interface) != 1)
        return fail(error, ERR_ARGUMENT, "localaddr '%s' is not an IPv4 address", local);
    if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &req, sizeof req) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &on, sizeof on) < 0 ||
        (local && setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &req.imr_interface,
                             sizeof req.imr_interface) < 0))
        return fail_errno(error, errno, "multicast group");
    return true;
}

static bool is_multicast(const struct address *a)
{
    const struct sockaddr_in *in = (const void *)&a->a;

    return a->len && in->sin_family == AF_INET && IN_MULTICAST(ntohl(in->sin_addr.s_addr));
}

/* local->len 0: none; a multicast group is bound to itself. */
static struct net *dgram_open(const char *id, const struct address *local, char *local_path,
                              const struct address *remote, int given, const char *interface,
                              GError **error)
{
    g_autofree char *own_path = local_path;
    g_autofd fd = given;
    int one = 1;
    struct stat st;

    if (fd < 0) {
        const struct address *at = is_multicast(remote) ? remote : local;

        fd = socket(remote->a.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return fail_errno(error, errno, "socket"), NULL;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (own_path && stat(own_path, &st) == 0 && S_ISSOCK(st.st_mode))
            unlink(own_path);
        if (at->len && bind(fd, (const struct sockaddr *)&at->a, at->len) < 0)
            return fail_errno(error, errno, "cannot bind"), NULL;
        if (is_multicast(remote) && !multicast_join(fd, remote, interface, error))
            return NULL;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);

    struct net_socket *s = (struct net_socket *)net_alloc(&dgram_ops, sizeof *s, id);
    s->made_path = g_steal_pointer(&own_path);
    s->to = remote->a;
    s->to_len = remote->len;
    s->n.fd = fd_steal(&fd);
    if (net_start(&s->n, error))
        return &s->n;
    net_free(&s->n);
    return NULL;
}

struct net *net_open_socket(const char *id, struct keyval *kv, GError **error)
{
    const char *at = keyval_str(kv, "listen"), *to = keyval_str(kv, "connect");
    const char *mcast = keyval_str(kv, "mcast"), *udp = keyval_str(kv, "udp");
    const char *local = keyval_str(kv, "localaddr"), *number = keyval_str(kv, "fd");
    int fd = number ? (int)keyval_uint(kv, "fd", 0, 3, 1 << 20) : -1, type = 0;
    struct address a = { 0 }, b = { 0 };
    socklen_t n = sizeof type;

    if (!!at + !!to + !!mcast + !!udp + !!number != 1)
        keyval_refuse(kv, "exactly one of listen=, connect=, mcast=, udp=, or fd= is required");
    if (udp && !local)
        keyval_refuse(kv, "localaddr= is mandatory with udp=");
    if (local && !udp && !mcast)
        keyval_refuse(kv, "localaddr= is only valid with mcast= or udp=");
    if (!keyval_done(kv, error))
        return NULL;
    if (at || to)
        return address_text(at ? at : to, SOCK_STREAM, at != NULL, &a, error)
                   ? stream_open(id, &a, NULL, -1, at != NULL, at ? at : to, error)
                   : NULL;
    if (udp)
        return address_text(udp, SOCK_DGRAM, false, &a, error) &&
                       address_text(local, SOCK_DGRAM, true, &b, error)
                   ? dgram_open(id, &b, NULL, &a, -1, NULL, error)
                   : NULL;
    if (mcast) {
        if (!address_text(mcast, SOCK_DGRAM, false, &a, error))
            return NULL;
        if (!is_multicast(&a))
            return fail(error, ERR_ARGUMENT, "'%s' is not a multicast address", mcast), NULL;
        return dgram_open(id, &b, NULL, &a, -1, local, error);
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
        return fail_errno(error, errno, "fd=%d", fd), NULL;
    return type == SOCK_STREAM ? stream_open(id, &a, NULL, fd, false, "a descriptor", error)
                               : dgram_open(id, &b, NULL, &a, fd, NULL, error);
}

struct net *net_open_stream(const char *id, struct keyval *kv, GError **error)
{
    bool server = keyval_bool(kv, "server", false);
    struct address a = { 0 };
    g_autofree char *path = NULL;
    int fd;

    if (!address_options(kv, "addr", SOCK_STREAM, server, &a, &path, &fd, error))
        return NULL;
    if (!a.len && fd < 0)
        keyval_refuse(kv, "Parameter 'addr.type' is missing");
    if (!keyval_done(kv, error))
        return NULL;
    g_autofree char *what = g_strdup(path ? path : keyval_str(kv, "addr.port"));
    return stream_open(id, &a, g_steal_pointer(&path), fd, server, what ? what : "a descriptor",
                       error);
}

struct net *net_open_dgram(const char *id, struct keyval *kv, GError **error)
{
    struct address local = { 0 }, remote = { 0 };
    g_autofree char *local_path = NULL, *remote_path = NULL;
    int fd, remote_fd;

    if (!address_options(kv, "local", SOCK_DGRAM, true, &local, &local_path, &fd, error) ||
        !address_options(kv, "remote", SOCK_DGRAM, false, &remote, &remote_path, &remote_fd,
                         error))
        return NULL;
    if (fd < 0 && !remote.len)
        keyval_refuse(kv, "Parameter 'remote.type' is missing");
    if (fd < 0 && !local.len && !is_multicast(&remote))
        keyval_refuse(kv, "Parameter 'local.type' is missing");
    if (!keyval_done(kv, error))
        return NULL;
    return dgram_open(id, &local, g_steal_pointer(&local_path), &remote, fd, NULL, error);
}
