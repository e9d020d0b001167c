// SPDX-License-Identifier: GPL-2.0-or-later
/* cursor.c - a request's scattered buffer, used up from the front.  See node.h. */
#include <string.h>

#include "image/node.h"

void cursor_advance(struct cursor *c, size_t n)
{
    while (n || (c->n && !c->v->iov_len)) {
        size_t len = MIN(n, c->v->iov_len);

        c->v->iov_base = (u8 *)c->v->iov_base + len;
        c->v->iov_len -= len;
        n -= len;
        if (!c->v->iov_len) {
            c->v++;
            c->n--;
        }
    }
}

void cursor_zero(struct cursor *c, size_t n)
{
    while (n) {
        size_t len = MIN(n, c->v->iov_len);

        if (len)
            memset(c->v->iov_base, 0, len);
        cursor_advance(c, len);
        n -= len;
    }
}

int cursor_peek(const struct cursor *c, size_t max, struct iovec *to, int room)
{
    int k = 0;

    for (int i = 0; i < c->n && k < room && max; i++) {
        size_t len = MIN(max, c->v[i].iov_len);

        if (len)
            to[k++] = (struct iovec){ c->v[i].iov_base, len };
        max -= len;
    }
    return k;
}

void cursor_put(struct cursor *c, const void *from, size_t n)
{
    const u8 *p = from;

    while (n) {
        size_t len = MIN(n, c->v->iov_len);

        if (len)
            memcpy(c->v->iov_base, p, len);
        cursor_advance(c, len);
        p += len;
        n -= len;
    }
}

void cursor_get(struct cursor *c, void *to, size_t n)
{
    u8 *p = to;

    while (n) {
        size_t len = MIN(n, c->v->iov_len);

        if (len)
            memcpy(p, c->v->iov_base, len);
        cursor_advance(c, len);
        p += len;
        n -= len;
    }
}

bool cursor_is_zero(const struct cursor *c, size_t n)
{
    for (int i = 0; n; i++) {
        size_t len = MIN(n, c->v[i].iov_len);

        if (!node_is_zero(c->v[i].iov_base, len))
            return false;
        n -= len;
    }
    return true;
}
