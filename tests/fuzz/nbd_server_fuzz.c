// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd_server_fuzz.c - fuzz target of the NBD server: a client that says anything.
 *
 * The bytes are what the client sends, from its greeting on; all that the server says is read
 * and thrown away.  It has to answer or to hang up, and to be there no more in the end.
 */
#include <fcntl.h>
#include <glib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "fuzz.h"
#include "nbd/server.h"
#include "wire/nbd/nbd.h"

enum { SIZE = 1 << 20 };

static bool dirty(void *opaque, u64 at, u64 len, u64 *ret_len)
{
    *ret_len = MIN(len, 4096 - at % 4096);
    return at / 4096 & 1;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static const struct nbd_server_options o;
    static int file = -1;
    char path[64];
    struct nbd_export_options e = {
        .name = "x", .writable = true, .allocation_depth = true, .bitmap = "b", .dirty = dirty
    };
    struct image_options how = { .format = "raw", .discard = true };
    int fd[2];

    if (n > 65536)
        return 0;
    if (file < 0) {
        file = memfd_create("disk", MFD_CLOEXEC);
        if (ftruncate(file, SIZE))
            return 0;
    }
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    e.image = image_open(path, &how, NULL);
    if (!e.image || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
        abort();
    struct nbd_server *s = nbd_server_on(fd[1], &o);
    nbd_export_add(s, &e, NULL);
    if (send(fd[0], data, n, MSG_NOSIGNAL) > 0 && !shutdown(fd[0], SHUT_WR)) {
        static u8 sink[65536];

        while (recv(fd[0], sink, sizeof sink, 0) > 0)
            ;
    }
    close(fd[0]);
    nbd_server_free(s);
    return 0;
}

/* --- seeds -----------------------------------------------------------------------------------
 */

static size_t put(u8 *to, size_t at, const void *p, size_t n)
{
    memcpy(to + at, p, n);
    return at + n;
}

static size_t option(u8 *to, size_t at, u32 option, const void *p, u32 n)
{
    struct nbd_option h = { be64_of(NBD_OPTS_MAGIC), be32_of(option), be32_of(n) };

    return put(to, put(to, at, &h, sizeof h), p, n);
}

static size_t request(u8 *to, size_t at, u16 type, u16 flags, u64 from, u32 len)
{
    struct nbd_request h = { be32_of(NBD_REQUEST_MAGIC),
                             be16_of(flags),
                             be16_of(type),
                             be64_of(at),
                             be64_of(from),
                             be32_of(len) };

    at = put(to, at, &h, sizeof h);
    if (type == NBD_CMD_WRITE) {
        memset(to + at, 0x5a, len);
        at += len;
    }
    return at;
}

size_t fuzz_seed(unsigned i, u8 *to)
{
    static const u8 contexts[] = "\0\0\0\1x\0\0\0\3\0\0\0\17base:allocation\0\0\0\5qemu:"
                                 "\0\0\0\23qemu:dirty-bitmap:b";
    static const u8 ask[] = "\0\0\0\1x\0\3\0\1\0\2\0\3";
    size_t n = put(to, 0, "\0\0\0\3", 4);

    if (i < 2) {
        n = option(to, n, NBD_OPT_LIST, "", 0);
        n = option(to, n, NBD_OPT_STRUCTURED_REPLY, "", 0);
        n = option(to, n, NBD_OPT_LIST_META_CONTEXT, contexts, sizeof contexts - 1);
        n = option(to, n, NBD_OPT_SET_META_CONTEXT, contexts, sizeof contexts - 1);
        n = option(to, n, NBD_OPT_INFO, ask, sizeof ask - 1);
    }
    if (i == 1)
        return option(to, n, NBD_OPT_ABORT, "", 0);
    n = i == 2 ? option(to, n, NBD_OPT_EXPORT_NAME, "x", 1)
               : option(to, n, NBD_OPT_GO, ask, sizeof ask - 1);
    n = request(to, n, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 5000, 700);
    n = request(to, n, NBD_CMD_READ, i ? 0 : NBD_CMD_FLAG_DF, 4096, 4096);
    n = request(to, n, NBD_CMD_READ, 0, 65536, 4096);
    n = request(to, n, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 4096, 4096);
    n = request(to, n, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 8192, 65536);
    n = request(to, n, NBD_CMD_FLUSH, 0, 0, 0);
    n = request(to, n, NBD_CMD_CACHE, 0, 0, 65536);
    n = request(to, n, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE);
    n = request(to, n, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE);
    return request(to, n, NBD_CMD_DISC, 0, 0, 0);
}
const unsigned fuzz_seeds = 3;
