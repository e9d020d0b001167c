// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cloop.c - compressed loop images (version 2, of Knoppix), read only: a shell script of 128
 * bytes, block size, number of blocks, where each begins (and the last one ends), zlib streams.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum { CLOOP_SCRIPT = 128, CLOOP_BLOCK_MAX = 64 << 20 };
static const char cloop_magic[] =
    "#!/bin/sh\n#V2.0 Format\n"
    "modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

static int cloop_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                       size_t n_tail UNUSED, const char *filename UNUSED)
{
    size_t n = sizeof cloop_magic - 1;

    return n_head >= n && !memcmp(head, cloop_magic, n) ? 100 : 0;
}

static struct block cloop_decode(const struct blocks *b UNUSED, u64 index UNUSED, u64 e)
{
    return (struct block){ .kind = BLOCK_PACKED, .host = e };
}

static int cloop_unpack(struct blocks *b, u64 index, struct block k, u8 *to)
{
    be64 end;
    int r = node_pread(b->file, b->table_at + (index + 1) * 8, &end, sizeof end);

    if (r)
        return r;
    u64 n = be64_get(end) - k.host;
    if (be64_get(end) <= k.host || n > 2 * (u64)b->block || n > b->file->size - k.host)
        return -EIO;
    g_autofree u8 *buf = g_try_malloc(n);
    if (!buf)
        return -ENOMEM;
    if ((r = node_pread(b->file, k.host, buf, n)))
        return r;
    return inflate_to(DEFLATE_ZLIB, buf, n, to, b->block) == b->block ? 0 : -EIO;
}

static const struct blocks_ops cloop_ops = { .decode = cloop_decode, .unpack = cloop_unpack };

static bool cloop_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                       GError **error)
{
    struct blocks *b = &container_of(n, struct blocks_node, node)->b;
    struct {
        be32 block, count;
    } h;

    if (!node_load(n->file, CLOOP_SCRIPT, &h, sizeof h, "the cloop header", error))
        return false;
    u32 block = be32_get(h.block);
    u64 count = be32_get(h.count);
    if (!block || block % 512 || block > CLOOP_BLOCK_MAX)
        return fail(error, ERR_FORMAT,
                    "image '%s': a cloop image's blocks are a multiple of "
                    "512 bytes up to 64 MiB",
                    n->filename);
    n->size = count * block;
    *b = (struct blocks){ .ops = &cloop_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = block,
                          .data_min = CLOOP_SCRIPT + sizeof h,
                          .entry_bytes = 8,
                          .big_endian = true,
                          .table_at = CLOOP_SCRIPT + sizeof h,
                          .entries = count + 1 };
    if (blocks_open(b, error))
        return true;
    blocks_close(b);
    return false;
}

const struct driver format_cloop = {
    .name = "cloop",
    .kind = FORMAT,
    .size = sizeof(struct blocks_node),
    .probe = cloop_probe,
    .open = cloop_open,
    .close = blocks_node_close,
    BLOCKS_READ_OPS,
};
