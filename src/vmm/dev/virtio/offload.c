// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * offload.c - Internet checksums (RFC 1071) and TCP segmentation; see offload.h.
 *
 * IPv6 extension headers, IP fragments and VLAN tags are left alone: a frame with them is not
 * verified and not cut.
 */
#include "vmm/dev/virtio/offload.h"

#include <string.h>

enum { ETH = 14, IP4_MIN = 20, IP6 = 40, TCP_MIN = 20, UDP = 8, MSS_MIN = 64 };
enum { PROTO_TCP = 6, PROTO_UDP = 17, TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };
enum { HEADERS_MAX = ETH + 60 + 60 };

static u16 get16(const u8 *p)
{
    return (u16)(p[0] << 8 | p[1]);
}

static u32 get32(const u8 *p)
{
    return (u32)get16(p) << 16 | get16(p + 2);
}

static void put16(u8 *p, u32 val)
{
    p[0] = (u8)(val >> 8);
    p[1] = (u8)val;
}

static void put32(u8 *p, u32 val)
{
    put16(p, val >> 16);
    put16(p + 2, val);
}

/* Sums in host order: the sum is the same but for its bytes' order. */
static u64 sum_bytes(u64 sum, const u8 *p, size_t n)
{
    for (; n >= 4; p += 4, n -= 4) {
        u32 word;
        memcpy(&word, p, 4);
        sum += word;
    }
    if (n) {
        u32 word = 0;
        memcpy(&word, p, n);
        sum += word;
    }
    return sum;
}

/* As the network has it. */
static u16 sum_fold(u64 sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return be16toh((u16)sum);
}

/* Addresses, protocol and length, for the checksum of what IP carries. */
static u64 pseudo_sum(const u8 *ip, bool v6, u8 proto, size_t len)
{
    u8 tail[8];
    u64 sum = v6 ? sum_bytes(0, ip + 8, 32) : sum_bytes(0, ip + 12, 8);

    put32(tail, (u32)len);
    put32(tail + 4, proto);
    return sum_bytes(sum, tail, sizeof tail);
}

bool offload_checksum(u8 *frame, size_t n, u32 start, u32 offset)
{
    if (start >= n || offset + 2 > n - start)
        return false;
    u16 check = (u16)~sum_fold(sum_bytes(0, frame + start, n - start));
    put16(frame + start + offset, check ? check : 0xffff);
    return true;
}

struct parsed {
    bool v6;
    u8 proto;
    size_t l4, end; /* offsets in the frame */
};

static bool parse(const u8 *frame, size_t n, struct parsed *ret)
{
    const u8 *ip = frame + ETH;

    if (n < ETH + IP4_MIN)
        return false;
    size_t room = n - ETH;
    if (get16(frame + 12) == 0x0800) {
        size_t header = (ip[0] & 15) * 4u, total = get16(ip + 2);

        if (ip[0] >> 4 != 4 || header < IP4_MIN || total < header || total > room ||
            get16(ip + 6) & 0x3fff)
            return false;
        *ret = (struct parsed){ false, ip[9], ETH + header, ETH + total };
        return true;
    }
    if (get16(frame + 12) == 0x86dd && room >= IP6) {
        size_t total = IP6 + (size_t)get16(ip + 4);

        if (ip[0] >> 4 != 6 || total > room)
            return false;
        *ret = (struct parsed){ true, ip[6], ETH + IP6, ETH + total };
        return true;
    }
    return false;
}

bool offload_verify(const u8 *frame, size_t n)
{
    struct parsed f;

    if (!parse(frame, n, &f))
        return false;
    size_t len = f.end - f.l4;
    if (f.proto == PROTO_UDP ? len < UDP || !get16(frame + f.l4 + 6)
                             : f.proto != PROTO_TCP || len < TCP_MIN)
        return false;
    u64 sum = pseudo_sum(frame + ETH, f.v6, f.proto, len);
    return sum_fold(sum_bytes(sum, frame + f.l4, len)) == 0xffff;
}

bool offload_segment(const u8 *frame, size_t n, u32 mss,
                     void (*send)(void *opaque, const struct iovec *, int n), void *opaque)
{
    struct parsed f;
    u8 head[HEADERS_MAX];

    /* The length field of a frame to be cut may not hold its length: take the frame's. */
    if (n < ETH + IP6 + TCP_MIN && n < ETH + IP4_MIN + TCP_MIN)
        return false;
    size_t first = n < sizeof head ? n : sizeof head;
    memcpy(head, frame, first);
    bool v6 = get16(head + 12) == 0x86dd;
    put16(head + ETH + (v6 ? 4 : 2), 0);
    if (!v6)
        put16(head + ETH + 2, (u32)(first - ETH));
    if (mss < MSS_MIN || !parse(head, first, &f) || f.proto != PROTO_TCP)
        return false;
    if (f.l4 + TCP_MIN > n)
        return false;
    size_t headers = f.l4 + (frame[f.l4 + 12] >> 4) * 4u;
    if (headers < f.l4 + TCP_MIN || headers > n || headers > sizeof head)
        return false;

    u8 *ip = head + ETH, *tcp = head + f.l4, flags = frame[f.l4 + 13];
    u32 seq = get32(frame + f.l4 + 4), id = v6 ? 0 : get16(frame + ETH + 4);
    size_t left = n - headers, at = headers;
    do {
        size_t len = left < mss ? left : mss, segment = headers - f.l4 + len;

        left -= len;
        if (v6) {
            put16(ip + 4, (u32)segment);
        } else {
            put16(ip + 2, (u32)(f.l4 - ETH + segment));
            put16(ip + 4, id++);
            put16(ip + 10, 0);
            put16(ip + 10, (u16)~sum_fold(sum_bytes(0, ip, f.l4 - ETH)));
        }
        put32(tcp + 4, seq);
        tcp[13] = flags & (left ? ~(TCP_FIN | TCP_PSH) : 0xff);
        put16(tcp + 16, 0);
        u64 sum = pseudo_sum(ip, v6, PROTO_TCP, segment);
        sum = sum_bytes(sum, tcp, headers - f.l4); /* a multiple of four bytes */
        sum = sum_bytes(sum, frame + at, len);
        put16(tcp + 16, (u16)~sum_fold(sum));
        const struct iovec v[] = { { head, headers }, { (u8 *)frame + at, len } };
        send(opaque, v, len ? 2 : 1);
        seq += (u32)len;
        at += len;
        flags &= ~TCP_CWR; /* of the first one only */
    } while (left);
    return true;
}
