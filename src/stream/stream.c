// SPDX-License-Identifier: GPL-2.0-or-later
/* stream.c - see stream.h. */
#include "stream/stream.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "stream/tls_impl.h"

void stream_init(struct stream *s, int fd)
{
    *s = (struct stream){ .fd = fd };
}

void stream_close(struct stream *s)
{
    tls_end(s);
    tls_creds_unref(s->creds);
    s->creds = NULL;
    g_clear_pointer(&s->hostname, g_free);
    fd_close(&s->fd);
}

ssize_t stream_recv(struct stream *s, const struct iovec *v, int n)
{
    if (s->tls)
        return tls_recv(s, v[0].iov_base, v[0].iov_len);
    struct msghdr m = { .msg_iov = (struct iovec *)v, .msg_iovlen = (size_t)n };
    ssize_t r;
    do
        r = recvmsg(s->fd, &m, MSG_DONTWAIT);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

ssize_t stream_send(struct stream *s, const struct iovec *v, int n)
{
    if (s->tls)
        return tls_send(s, v, n);
    struct msghdr m = { .msg_iov = (struct iovec *)v, .msg_iovlen = (size_t)n };
    ssize_t r;
    do
        r = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

bool stream_read_all(struct stream *s, void *to, size_t n, const struct stream_limit *l,
                     GError **error)
{
    u8 *p = to;

    while (n) {
        struct iovec v = { p, n };
        ssize_t r = stream_recv(s, &v, 1);

        if (r == -EAGAIN)
            r = stream_wait(s->fd, POLLIN, l);
        else if (r == 0)
            return fail(error, ERR_IO, "the peer has closed the connection");
        if (r < 0)
            return fail_errno(error, (int)-r, "reading from the peer");
        p += r;
        n -= (size_t)r;
    }
    return true;
}

bool stream_write_all(struct stream *s, const void *from, size_t n,
                      const struct stream_limit *l, GError **error)
{
    const u8 *p = from;

    while (n) {
        struct iovec v = { (void *)p, n };
        ssize_t r = stream_send(s, &v, 1);

        if (r == -EAGAIN)
            r = stream_wait(s->fd, POLLOUT, l);
        if (r < 0)
            return fail_errno(error, (int)-r, "writing to the peer");
        p += r;
        n -= (size_t)r;
    }
    return true;
}

bool stream_tls_all(struct stream *s, const struct stream_limit *l, GError **error)
{
    for (;;) {
        short events;
        int r = stream_tls_step(s, &events, error);

        if (r)
            return r > 0;
        r = stream_wait(s->fd, events, l);
        if (r)
            return fail_errno(error, -r, "TLS handshake");
    }
}
