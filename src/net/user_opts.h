// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user_opts.h - the options of -netdev user, as both the VMM (to refuse mistakes early) and its
 * helper process read them.
 */
#pragma once

#include <glib.h>
#include <netinet/in.h>

#include "base/keyval.h"

struct user_forward { /* hostfwd= */
    bool udp;
    struct in_addr host, guest; /* guest 0.0.0.0: the first DHCP address */
    u16 host_port, guest_port;
    char *text;
};

struct user_opts {
    bool ipv4, ipv6, restricted;
    struct in_addr net, mask, host, dns, dhcp_start;
    struct in6_addr prefix6, host6, dns6;
    u8 prefix6_len;
    const char *hostname, *tftp, *bootfile, *tftp_server_name, *domainname; /* kv's */
    GPtrArray *dns_search; /* const char *, ends with NULL */
    GArray *forwards;      /* struct user_forward */
};

/* Does not call keyval_done(). Frees nothing of kv, which has to outlive *ret. */
bool user_opts_read(struct keyval *kv, struct user_opts *ret, GError **error);
void user_opts_clear(struct user_opts *);
