// SPDX-License-Identifier: GPL-2.0-or-later
/* iovs.c - scattered buffers in guest RAM, see ram.h.  Blocks live as long as the guest, so
 * host pieces stay valid when the map changes. */
#include <string.h>

#include "vmm/core/quiescent.h"
#include "vmm/core/ram.h"

void iovs_init(struct iovs *v, struct ram *r, enum ram_dir dir)
{
    *v = (struct iovs){ .ram = r, .dir = dir };
}

void iovs_free(struct iovs *v)
{
    g_free(v->v);
    iovs_init(v, v->ram, v->dir);
}

static bool piece_add(struct iovs *v, u8 *host, size_t n)
{
    struct iovec *last = v->n > v->cur ? &v->v[v->n - 1] : NULL;

    if (last && (u8 *)last->iov_base + last->iov_len == host) {
        last->iov_len += n;
        return true;
    }
    if (v->n == IOVS_MAX)
        return false;
    if (v->n == v->cap) {
        v->cap = MIN(IOVS_MAX, v->cap ? v->cap * 2 : 8);
        v->v = g_renew(struct iovec, v->v, v->cap);
    }
    v->v[v->n++] = (struct iovec){ host, n };
    return true;
}

bool ram_iov(struct ram *r, gpa at, size_t n, struct iovs *v)
{
    bool entered = core_enter(), ok = true;
    size_t sum;

    if (__builtin_add_overflow(v->left, n, &sum) || n > UINT64_MAX - at)
        ok = false;
    while (ok && n) {
        const struct ram_slot *s = ram_slot_find(r, at);

        if (!s || (s->rom && v->dir == RAM_TO_GUEST)) {
            ok = false;
            break;
        }
        size_t len = MIN(n, s->len - (at - s->at));
        ok = piece_add(v, s->block->host + s->off + (at - s->at), len);
        if (ok)
            v->left += len;
        at += len;
        n -= len;
    }
    core_leave(entered);
    return ok;
}

/* Walks n bytes off the front; `to` or `from` may be NULL. */
static bool iovs_walk(struct iovs *v, u8 *to, const u8 *from, size_t n)
{
    if (n > v->left)
        return false;
    v->left -= n;
    while (n) {
        struct iovec *p = &v->v[v->cur];
        size_t len = MIN(n, p->iov_len);

        if (to) {
            memcpy(to, p->iov_base, len);
            to += len;
        } else if (from) {
            memcpy(p->iov_base, from, len);
            ram_written(v->ram, p->iov_base, len);
            from += len;
        }
        p->iov_base = (u8 *)p->iov_base + len;
        p->iov_len -= len;
        n -= len;
        if (!p->iov_len)
            v->cur++;
    }
    return true;
}

bool iovs_get(struct iovs *v, void *to, size_t n)
{
    return iovs_walk(v, to, NULL, n);
}

bool iovs_put(struct iovs *v, const void *from, size_t n)
{
    return iovs_walk(v, NULL, from, n);
}

bool iovs_skip(struct iovs *v, size_t n)
{
    return iovs_walk(v, NULL, NULL, n);
}

void iovs_written(const struct iovs *v)
{
    for (u32 i = v->cur; i < v->n; i++)
        ram_written(v->ram, v->v[i].iov_base, v->v[i].iov_len);
}
