// SPDX-License-Identifier: GPL-2.0-or-later
/* crypt_io.c - see crypt_io.h. */
#include "image/crypt_io.h"

#include <errno.h>
#include <stdlib.h>

enum { CHUNK = 256 << 10, ALIGN = 4096 /* what cache=none would copy to have */ };

static u8 *buffer(u64 len)
{
    void *p;

    return posix_memalign(&p, ALIGN, MIN(ROUND_UP(len, CRYPT_SECTOR) + CRYPT_SECTOR, CHUNK))
               ? NULL
               : p;
}

static int read_sectors(struct crypt *c, struct node *n, u64 at, u64 iv_at, u8 *buf, size_t len)
{
    int r = node_pread(n, at, buf, len);

    return r ? r : crypt_decrypt(c, iv_at / CRYPT_SECTOR, buf, buf, len);
}

int crypt_read(struct crypt *c, struct node *n, u64 at, u64 iv_at, u64 len, struct cursor *to)
{
    u8 *buf = buffer(len);
    int r = buf ? 0 : -ENOMEM;

    while (!r && len) {
        u64 head = at % CRYPT_SECTOR, part = MIN(len, CHUNK - head);

        r = read_sectors(c, n, at - head, iv_at - head, buf,
                         ROUND_UP(head + part, CRYPT_SECTOR));
        if (!r)
            cursor_put(to, buf + head, part);
        at += part;
        iv_at += part;
        len -= part;
    }
    free(buf);
    return r;
}

int crypt_write(struct crypt *c, struct node *n, u64 at, u64 iv_at, u64 len,
                struct cursor *from)
{
    u8 *buf = buffer(len);
    int r = buf ? 0 : -ENOMEM;

    while (!r && len) {
        u64 head = at % CRYPT_SECTOR, part = MIN(len, CHUNK - head), end = head + part;
        u64 whole = ROUND_UP(end, CRYPT_SECTOR), last = whole - CRYPT_SECTOR;

        if (head)
            r = read_sectors(c, n, at - head, iv_at - head, buf, CRYPT_SECTOR);
        if (!r && end < whole && !(head && !last))
            r = read_sectors(c, n, at - head + last, iv_at - head + last, buf + last,
                             CRYPT_SECTOR);
        if (!r) {
            cursor_get(from, buf + head, part);
            r = crypt_encrypt(c, (iv_at - head) / CRYPT_SECTOR, buf, buf, whole);
        }
        if (!r)
            r = node_pwrite(n, at - head, buf, whole);
        at += part;
        iv_at += part;
        len -= part;
    }
    free(buf);
    return r;
}
