// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user_helper.c - posada-net: the user-mode network's TCP/IP stack (libslirp) in its own
 * process.
 *
 *   posada-net OPTIONS     started by the VMM, with a SOCK_SEQPACKET socket as descriptor 3
 *
 * The first packet to the VMM is "ok" or an error text; after that each packet is one Ethernet
 * frame.  The program ends when the socket closes.
 *
 * Back pressure: frames that the VMM does not take at once wait in a queue; while it is not
 * empty the host's sockets are not read.  What the guest makes us send beyond that is dropped,
 * as a full switch would.
 */
#include <errno.h>
#include <glib.h>
#include <libslirp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/keyval.h"
#include "net/net.h"
#include "net/user_opts.h"
#include "net/user_sandbox.h"

enum { VMM_FD = 3, QUEUE_FRAMES = 1024, QUEUE_BYTES = 4 << 20, BURST = 64 };

struct helper_timer {
    SlirpTimerCb fn;
    void *opaque;
    s64 at; /* ms; -1: not armed */
};

struct helper {
    Slirp *slirp;
    GArray *polls; /* struct pollfd; the first is the VMM's socket */
    GPtrArray *timers;
    GQueue queue; /* GBytes *: frames to the VMM */
    size_t queued;
    u8 *frame;
};

static s64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (s64)t.tv_sec * (s64)NS_PER_SEC + t.tv_nsec;
}

/* ---- what libslirp asks of us ---- */

static ssize_t to_vmm(const void *buf, size_t len, void *opaque)
{
    struct helper *h = opaque;

    if (g_queue_is_empty(&h->queue) &&
        send(VMM_FD, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len)
        return (ssize_t)len;
    if (h->queue.length < QUEUE_FRAMES && h->queued + len <= QUEUE_BYTES) {
        g_queue_push_tail(&h->queue, g_bytes_new(buf, len));
        h->queued += len;
    }
    return (ssize_t)len;
}

static void guest_error(const char *msg UNUSED, void *opaque UNUSED)
{
}

static s64 clock_get(void *opaque UNUSED)
{
    return now_ns();
}

static void *timer_new(SlirpTimerCb fn, void *cb_opaque, void *opaque)
{
    struct helper *h = opaque;
    struct helper_timer *t = g_new(struct helper_timer, 1);

    *t = (struct helper_timer){ fn, cb_opaque, -1 };
    g_ptr_array_add(h->timers, t);
    return t;
}

static void timer_free(void *t, void *opaque)
{
    struct helper *h = opaque;

    g_ptr_array_remove(h->timers, t);
    g_free(t);
}

static void timer_mod(void *t, s64 at, void *opaque UNUSED)
{
    ((struct helper_timer *)t)->at = at;
}

static void poll_fd_ignored(int fd UNUSED, void *opaque UNUSED)
{
}

static void notify(void *opaque UNUSED)
{
}

static const SlirpCb callbacks = {
    .send_packet = to_vmm,
    .guest_error = guest_error,
    .clock_get_ns = clock_get,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd_ignored,
    .unregister_poll_fd = poll_fd_ignored,
    .notify = notify,
};

static const struct {
    int slirp;
    short poll;
} poll_bits[] = {
    { SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
    { SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static int poll_add(int fd, int events, void *opaque)
{
    struct helper *h = opaque;
    struct pollfd p = { .fd = fd };

    for (u32 i = 0; i < ARRAY_LEN(poll_bits); i++)
        if (events & poll_bits[i].slirp)
            p.events |= poll_bits[i].poll;
    g_array_append_val(h->polls, p);
    return (int)h->polls->len - 1;
}

static int poll_result(int i, void *opaque)
{
    struct helper *h = opaque;
    int events = 0;

    if (i < 0 || (u32)i >= h->polls->len)
        return 0;
    for (u32 k = 0; k < ARRAY_LEN(poll_bits); k++)
        if (g_array_index(h->polls, struct pollfd, i).revents & poll_bits[k].poll)
            events |= poll_bits[k].slirp;
    return events;
}

/* ---- the loop ---- */

static void queue_flush(struct helper *h)
{
    GBytes *b;

    while ((b = g_queue_peek_head(&h->queue))) {
        size_t len = g_bytes_get_size(b);

        if (send(VMM_FD, g_bytes_get_data(b, NULL), len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
            (errno == EAGAIN || errno == EINTR))
            return;
        h->queued -= len;
        g_bytes_unref(g_queue_pop_head(&h->queue));
    }
}

/* false: the VMM is gone. */
static bool take_frames(struct helper *h)
{
    for (u32 i = 0; i < BURST; i++) {
        ssize_t n = recv(VMM_FD, h->frame, NET_FRAME_MAX, MSG_DONTWAIT);

        if (n == 0)
            return false;
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        slirp_input(h->slirp, h->frame, (int)n);
    }
    return true;
}

static void run_timers(struct helper *h)
{
    s64 now = now_ns() / (s64)NS_PER_MS;

    /* A timer's function may arm it again, or make and free others: one at a time. */
    for (u32 i = 0; i < h->timers->len; i++) {
        struct helper_timer *t = h->timers->pdata[i];
        if (t->at < 0 || t->at > now)
            continue;
        t->at = -1;
        t->fn(t->opaque);
    }
}

static int timeout_until_timer(struct helper *h, u32 timeout)
{
    s64 now = now_ns() / (s64)NS_PER_MS, wait = MIN(timeout, 60000);

    for (u32 i = 0; i < h->timers->len; i++) {
        struct helper_timer *t = h->timers->pdata[i];
        if (t->at >= 0)
            wait = CLAMP(t->at - now, 0, wait);
    }
    return (int)wait;
}

static void helper_loop(struct helper *h)
{
    for (;;) {
        bool full = !g_queue_is_empty(&h->queue);
        struct pollfd vmm = { .fd = VMM_FD, .events = full ? POLLIN | POLLOUT : POLLIN };
        u32 timeout = UINT32_MAX;

        g_array_set_size(h->polls, 0);
        g_array_append_val(h->polls, vmm);
        if (!full)
            slirp_pollfds_fill(h->slirp, &timeout, poll_add, h);
        int n = poll((struct pollfd *)(void *)h->polls->data, h->polls->len,
                     timeout_until_timer(h, timeout));
        if (n < 0 && errno != EINTR)
            return;
        short got = g_array_index(h->polls, struct pollfd, 0).revents;
        if (got & POLLOUT)
            queue_flush(h);
        if ((got & (POLLIN | POLLHUP | POLLERR)) && !take_frames(h))
            return;
        if (!full)
            slirp_pollfds_poll(h->slirp, n < 0, poll_result, h);
        run_timers(h);
    }
}

/* ---- start ---- */

static bool helper_start(struct helper *h, const char *text, GError **error)
{
    struct keyval *kv = keyval_parse("posada-net", text, "type"); /* lives as long as we do */
    struct user_opts o;

    if (!user_opts_read(kv, &o, error))
        return false;
    SlirpConfig c = {
        .version = 1,
        .restricted = o.restricted,
        .in_enabled = o.ipv4,
        .vnetwork = o.net,
        .vnetmask = o.mask,
        .vhost = o.host,
        .in6_enabled = o.ipv6,
        .vprefix_addr6 = o.prefix6,
        .vprefix_len = o.prefix6_len,
        .vhost6 = o.host6,
        .vhostname = o.hostname,
        .tftp_server_name = o.tftp_server_name,
        .tftp_path = o.tftp,
        .bootfile = o.bootfile,
        .vdhcp_start = o.dhcp_start,
        .vnameserver = o.dns,
        .vnameserver6 = o.dns6,
        .vdnssearch = o.dns_search->len > 1 ? (const char **)o.dns_search->pdata : NULL,
        .vdomainname = o.domainname,
    };
    h->slirp = slirp_new(&c, &callbacks, h);
    if (!h->slirp)
        return fail(error, ERR_FAILED, "libslirp refuses this network");
    for (u32 i = 0; i < o.forwards->len; i++) {
        struct user_forward *f = &g_array_index(o.forwards, struct user_forward, i);
        struct in_addr guest = f->guest.s_addr ? f->guest : o.dhcp_start;

        if (slirp_add_hostfwd(h->slirp, f->udp, f->host, f->host_port, guest, f->guest_port) <
            0)
            return fail_errno(error, errno, "Could not set up host forwarding rule '%s'",
                              f->text);
    }
    return sandbox_enter(o.tftp, error);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    struct helper h = { .queue = G_QUEUE_INIT };
    int type = 0;
    socklen_t n = sizeof type;

    if (argc != 2 || getsockopt(VMM_FD, SOL_SOCKET, SO_TYPE, &type, &n) < 0 ||
        type != SOCK_SEQPACKET) {
        fprintf(stderr, "posada-net: this program is started by posada-vmm\n");
        return 1;
    }
    h.polls = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    h.timers = g_ptr_array_new();
    h.frame = g_malloc(NET_FRAME_MAX);

    bool ok = helper_start(&h, argv[1], &error);
    const char *word = ok ? "ok" : error->message;
    if (send(VMM_FD, word, strlen(word), MSG_NOSIGNAL) < 0 || !ok)
        return 1;
    helper_loop(&h);
    slirp_cleanup(h.slirp);
    return 0;
}
