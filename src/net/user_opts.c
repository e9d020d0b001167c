// SPDX-License-Identifier: GPL-2.0-or-later
/* user_opts.c - see user_opts.h. */
#include "net/user_opts.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/error.h"

static void forward_clear(void *p)
{
    g_free(((struct user_forward *)p)->text);
}

/* The usual size of a network whose address is given without one. */
static u32 usual_mask(u32 net)
{
    if ((net & 0xfff00000) == 0xac100000) /* 172.16/12 */
        return 0xfff00000;
    if ((net & 0xffff0000) == 0xc0a80000) /* 192.168/16 */
        return 0xffff0000;
    if (!(net & 0x80000000))
        return 0xff000000;
    return (net & 0x40000000) ? 0xffffff00 : 0xffff0000;
}

static bool read_ipv4(const char *what, const char *text, struct in_addr *ret, GError **error)
{
    return inet_pton(AF_INET, text, ret) == 1 ||
           fail(error, ERR_ARGUMENT, "%s: '%s' is not an IPv4 address", what, text);
}

static bool read_net(const char *text, struct user_opts *o, GError **error)
{
    g_auto(GStrv) part = g_strsplit(text, "/", 2);
    u32 mask;

    if (!part[0] || !read_ipv4("net", part[0], &o->net, error))
        return false;
    if (!part[1]) {
        mask = usual_mask(ntohl(o->net.s_addr));
    } else if (strchr(part[1], '.')) {
        if (!read_ipv4("net", part[1], &o->mask, error))
            return false;
        mask = ntohl(o->mask.s_addr);
    } else {
        u64 bits;
        if (!g_ascii_string_to_unsigned(part[1], 10, 4, 30, &bits, NULL))
            return fail(error, ERR_ARGUMENT, "net: prefix length '%s' is not 4 to 30", part[1]);
        mask = ~(u32)0 << (32 - bits);
    }
    if (!mask || (~mask & (~mask + 1)) || ~mask < 3)
        return fail(error, ERR_ARGUMENT, "net: '%s' has no usable mask", text);
    o->mask.s_addr = htonl(mask);
    o->net.s_addr &= o->mask.s_addr;
    return true;
}

/* One address inside the network: given, or number `n` of it. */
static bool read_inside(struct keyval *kv, const char *key, u32 n, const struct user_opts *o,
                        struct in_addr *ret, GError **error)
{
    const char *text = keyval_str(kv, key);
    u32 mask = ntohl(o->mask.s_addr);

    ret->s_addr = htonl(ntohl(o->net.s_addr) | (n & ~mask));
    if (!text)
        return true;
    if (!read_ipv4(key, text, ret, error))
        return false;
    if ((ret->s_addr & o->mask.s_addr) != o->net.s_addr)
        return fail(error, ERR_ARGUMENT, "%s: %s lies outside of the network", key, text);
    u32 rest = ntohl(ret->s_addr) & ~mask;
    return (rest != 0 && rest != ~mask) ||
           fail(error, ERR_ARGUMENT, "%s: %s is no host's address in the network", key, text);
}

static bool read_ipv6(struct keyval *kv, struct user_opts *o, GError **error)
{
    const char *net = keyval_str(kv, "ipv6-net"), *prefix = keyval_str(kv, "ipv6-prefix");
    const char *host = keyval_str(kv, "ipv6-host"), *dns = keyval_str(kv, "ipv6-dns");
    u64 len = keyval_uint(kv, "ipv6-prefixlen", 64, 0, 126);
    g_auto(GStrv) part = g_strsplit(net ? net : prefix ? prefix : "fec0::", "/", 2);

    if (inet_pton(AF_INET6, part[0], &o->prefix6) != 1)
        return fail(error, ERR_ARGUMENT, "ipv6-net: '%s' is not an IPv6 address", part[0]);
    if (part[1] && !g_ascii_string_to_unsigned(part[1], 10, 0, 126, &len, NULL))
        return fail(error, ERR_ARGUMENT, "ipv6-net: '%s' is not a prefix length", part[1]);
    o->prefix6_len = (u8)len;
    o->host6 = o->dns6 = o->prefix6;
    o->host6.s6_addr[15] |= 2;
    o->dns6.s6_addr[15] |= 3;
    if (host && inet_pton(AF_INET6, host, &o->host6) != 1)
        return fail(error, ERR_ARGUMENT, "ipv6-host: '%s' is not an IPv6 address", host);
    if (dns && inet_pton(AF_INET6, dns, &o->dns6) != 1)
        return fail(error, ERR_ARGUMENT, "ipv6-dns: '%s' is not an IPv6 address", dns);
    return true;
}

/* [tcp|udp]:[HOST]:PORT-[GUEST]:PORT */
static bool read_forward(const char *text, struct user_forward *f, GError **error)
{
    g_auto(GStrv) side = g_strsplit(text, "-", 2), from = NULL, to = NULL;
    u64 host_port, guest_port;

    if (!side[0] || !side[1])
        goto out;
    from = g_strsplit(side[0], ":", 3);
    to = g_strsplit(side[1], ":", 2);
    if (g_strv_length(from) != 3 || g_strv_length(to) != 2)
        goto out;
    f->udp = strcmp(from[0], "udp") == 0;
    if (!f->udp && strcmp(from[0], "tcp") != 0 && *from[0])
        goto out;
    if (*from[1] && inet_pton(AF_INET, from[1], &f->host) != 1)
        goto out;
    if (*to[0] && inet_pton(AF_INET, to[0], &f->guest) != 1)
        goto out;
    if (!g_ascii_string_to_unsigned(from[2], 10, 0, 65535, &host_port, NULL) ||
        !g_ascii_string_to_unsigned(to[1], 10, 1, 65535, &guest_port, NULL))
        goto out;
    f->host_port = (u16)host_port;
    f->guest_port = (u16)guest_port;
    return true;
out:
    return fail(error, ERR_ARGUMENT,
                "invalid host forwarding rule '%s'; the form is "
                "tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT",
                text);
}

bool user_opts_read(struct keyval *kv, struct user_opts *ret, GError **error)
{
    struct user_opts o = { 0 };
    const char *net = keyval_str(kv, "net"), *text;
    bool ok = false;

    o.dns_search = g_ptr_array_new();
    o.forwards = g_array_new(FALSE, TRUE, sizeof(struct user_forward));
    g_array_set_clear_func(o.forwards, forward_clear);
    o.ipv4 = keyval_bool(kv, "ipv4", true);
    o.ipv6 = keyval_bool(kv, "ipv6", true);
    o.restricted = keyval_bool(kv, "restrict", false);
    o.hostname = keyval_str(kv, "hostname");
    o.tftp = keyval_str(kv, "tftp");
    o.bootfile = keyval_str(kv, "bootfile");
    o.tftp_server_name = keyval_str(kv, "tftp-server-name");
    o.domainname = keyval_str(kv, "domainname");
    if (keyval_str(kv, "guestfwd"))
        keyval_refuse(kv, "guestfwd= is not supported");
    if (keyval_str(kv, "smb") || keyval_str(kv, "smbserver"))
        keyval_refuse(kv, "smb= is not supported");
    if (!o.ipv4 && !o.ipv6)
        keyval_refuse(kv, "IPv4 and IPv6 are both off");
    if ((o.bootfile && strlen(o.bootfile) > 127) || (o.hostname && strlen(o.hostname) > 255) ||
        (o.domainname && strlen(o.domainname) > 255) ||
        (o.tftp_server_name && strlen(o.tftp_server_name) > 255))
        keyval_refuse(kv, "a name is too long for DHCP (bootfile 127, others 255 bytes)");
    for (u32 i = 0; (text = keyval_nth(kv, "dnssearch", i)); i++)
        g_ptr_array_add(o.dns_search, (void *)text);
    g_ptr_array_add(o.dns_search, NULL);

    if (!read_net(net ? net : "10.0.2.0/24", &o, error) ||
        !read_inside(kv, "host", 2, &o, &o.host, error) ||
        !read_inside(kv, "dns", 3, &o, &o.dns, error) ||
        !read_inside(kv, "dhcpstart", 15, &o, &o.dhcp_start, error) ||
        !read_ipv6(kv, &o, error))
        goto out;
    if (o.host.s_addr == o.dns.s_addr || o.host.s_addr == o.dhcp_start.s_addr ||
        o.dns.s_addr == o.dhcp_start.s_addr) {
        fail(error, ERR_ARGUMENT, "host, dns and dhcpstart must be different addresses");
        goto out;
    }
    for (u32 i = 0; (text = keyval_nth(kv, "hostfwd", i)); i++) {
        struct user_forward f = { 0 };

        if (!read_forward(text, &f, error))
            goto out;
        f.text = g_strdup(text);
        g_array_append_val(o.forwards, f);
    }
    *ret = o;
    ok = true;
out:
    if (!ok)
        user_opts_clear(&o);
    return ok;
}

void user_opts_clear(struct user_opts *o)
{
    if (o->dns_search)
        g_ptr_array_unref(o->dns_search);
    if (o->forwards)
        g_array_unref(o->forwards);
}
