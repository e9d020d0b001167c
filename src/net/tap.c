// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tap.c - the kernel's TAP interface, by name or as an open descriptor.
 *
 * The interface has to exist (or we need the right to make it), be up and be bridged or routed
 * already: no scripts are run.  Not here: offloads (vnet_hdr), vhost, several queues.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/fd.h"
#include "net/net_impl.h"

static const struct net_ops tap_ops = { .kind = "tap",
                                        .recv = net_recv_packet,
                                        .send = net_send_packet };

static bool is_no(const char *script)
{
    return !script || !*script || strcmp(script, "no") == 0;
}

static int tap_open(const char *ifname, GError **error)
{
    struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    g_autofd fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return fail_errno(error, errno, "/dev/net/tun"), -1;
    if (strlen(ifname) >= sizeof r.ifr_name)
        return fail(error, ERR_ARGUMENT, "ifname '%s' is too long", ifname), -1;
    strcpy(r.ifr_name, ifname);
    if (ioctl(fd, TUNSETIFF, &r) < 0)
        return fail_errno(error, errno, "could not use tap interface '%s'", ifname), -1;
    return fd_steal(&fd);
}

struct net *net_open_tap(const char *id, struct keyval *kv, GError **error)
{
    const char *ifname = keyval_str(kv, "ifname"), *number = keyval_str(kv, "fd");
    int fd = number ? (int)keyval_uint(kv, "fd", 0, 3, 1 << 20) : -1;

    if (!is_no(keyval_str(kv, "script")) || !is_no(keyval_str(kv, "downscript")))
        keyval_refuse(kv, "scripts are not run; set the interface up first and say script=no");
    if (keyval_bool(kv, "vhost", false) || keyval_bool(kv, "vnet_hdr", false))
        keyval_refuse(kv, "vhost and vnet_hdr are not supported");
    if (!number == !ifname)
        keyval_refuse(kv, "one of 'ifname' and 'fd' is needed");
    if (!keyval_done(kv, error))
        return NULL;

    if (number) {
        unsigned flags = 0;
        struct ifreq r = { 0 };

        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            return fail_errno(error, errno, "fd=%d", fd), NULL;
        if (ioctl(fd, TUNGETIFF, &r) < 0)
            return fail(error, ERR_ARGUMENT, "fd=%d is not a tap device", fd), NULL;
        flags = (unsigned)(unsigned short)r.ifr_flags;
        if (!(flags & IFF_TAP) || !(flags & IFF_NO_PI) || (flags & IFF_VNET_HDR))
            return fail(error, ERR_ARGUMENT,
                        "fd=%d: needs IFF_TAP and IFF_NO_PI, no IFF_VNET_HDR", fd),
                   NULL;
        fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    } else {
        fd = tap_open(ifname, error);
        if (fd < 0)
            return NULL;
    }

    struct net *n = net_alloc(&tap_ops, sizeof *n, id);
    n->fd = fd;
    if (ifname)
        net_describe(n, "tap %s", ifname);
    if (net_start(n, error))
        return n;
    net_free(n);
    return NULL;
}
