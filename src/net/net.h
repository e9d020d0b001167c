// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * net.h - packet ends: frames in, frames out.  A netdev is the host end of a guest's network
 * card.
 *
 * Kinds: user (libslirp in its own sandboxed process, DHCP, DNS, hostfwd), tap, socket, stream,
 * dgram, none.  One device attaches to one netdev.  Frames are Ethernet without FCS, at most
 * NET_FRAME_MAX bytes; longer and shorter ones (less than a header) are dropped.
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "base/types.h"

enum { NET_FRAME_MAX = 65536 + 256 };

struct net;

/* Where frames from the host go. Runs on the netdev's own thread; the device takes its lock
 * itself (dev_lock). Returning false means "no room": the frame is kept and offered again after
 * net_ready(). */
struct net_user {
    bool (*receive)(void *opaque, const u8 *frame, size_t n);
    void (*link)(void *opaque, bool up); /* may be NULL; told when it changes */
};

/* opts: "user,id=n0,hostfwd=tcp::2222-:22", "tap,id=n1,ifname=tap0,script=no" as in -netdev. */
struct net *net_new(const char *opts, GError **error);
const char *net_id(const struct net *);
void net_free(struct net *);
/* false: has a device already. */
bool net_attach(struct net *, const struct net_user *, void *opaque);
/* Returns when no receive() runs any more: not with a lock held that receive() takes. */
void net_detach(struct net *);
/* A frame from the guest, gathered. Copies; never blocks; drops when the host end is full. Any
 * thread. */
void net_send(struct net *, const struct iovec *, int n);
/* The same, but false when the host end is full now: the frame is not taken, and not counted as
 * dropped. */
bool net_try_send(struct net *, const struct iovec *, int n);
/* Does it take TCP frames larger than the link's MTU (and see to it that they get through)? */
bool net_large(const struct net *);
void net_ready(struct net *);              /* the device has room again; any thread */
void net_pause(struct net *, bool paused); /* guest stopped: keep frames back */
bool net_link(const struct net *);         /* is anybody there? */

struct net_counts {
    u64 in, in_bytes, out, out_bytes, dropped; /* in: to the guest; dropped: of out */
};
void net_count(const struct net *, struct net_counts *ret);
void net_print(const struct net *, GString *to); /* "info network": one line */
