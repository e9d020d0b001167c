// SPDX-License-Identifier: GPL-2.0-or-later
/* nvme_io.c - data pointers and I/O commands of an NVMe controller. NVM Express 1.3d, 4.3, 6.
 */
#include "vmm/dev/nvme/nvme_impl.h"

#include <string.h>

#include "base/log.h"

/* ---- data pointers -------------------------------------------------------------------------
 */

static u16 prp_add(struct nvme *s, struct iovs *v, u64 at, u32 n)
{
    return ram_iov(nvme_ram(s), at, n, v) ? OK : DATA_ERROR;
}

/* The n bytes of a command, with a list of pages if there are more than two. */
static u16 prp_map(struct nvme *s, struct nvme_req *q, const struct sqe *e, u32 n,
                   enum ram_dir dir)
{
    u32 page = nvme_page_size(s), first = MIN(n, page - (u32)(le64_get(e->prp1) & (page - 1)));
    u64 list = le64_get(e->prp2);
    le64 entry[PRP_LIST_MAX];
    u16 status;

    iovs_init(&q->data, nvme_ram(s), dir);
    if (le64_get(e->prp1) & 3)
        return INVALID_PRP_OFFSET;
    status = prp_add(s, &q->data, le64_get(e->prp1), first);
    n -= first;
    if (status || !n)
        return status;
    if (n <= page)
        return list & (page - 1) ? INVALID_PRP_OFFSET : prp_add(s, &q->data, list, n);
    if (list & 7)
        return INVALID_PRP_OFFSET;
    while (n) {
        /* entries up to the end of the page that the list is in; the last one may go on */
        u32 room = (page - (u32)(list & (page - 1))) / 8, want = (n + page - 1) / page;
        u32 take = MIN(MIN(room, want), (u32)PRP_LIST_MAX);
        bool more = want > room && take == room;

        if (!ram_get(nvme_ram(s), list, entry, take * sizeof entry[0]))
            return DATA_ERROR;
        for (u32 i = 0; i < take - more && n; i++) {
            u64 at = le64_get(entry[i]);
            u32 part = MIN(n, page);

            if (at & (page - 1))
                return INVALID_PRP_OFFSET;
            status = prp_add(s, &q->data, at, part);
            if (status)
                return status;
            n -= part;
        }
        list = more ? le64_get(entry[take - 1]) : list + take * sizeof entry[0];
        if (more && (list & 7 || take == 1))
            return INVALID_PRP_OFFSET; /* a list of lists only */
    }
    return OK;
}

u16 nvme_give(struct nvme *s, struct nvme_req *q, const struct sqe *e, const void *bytes, u32 n)
{
    u16 status = prp_map(s, q, e, n, RAM_TO_GUEST);

    return status ? status : iovs_put(&q->data, bytes, n) ? OK : DATA_ERROR;
}

/* ---- NVM commands --------------------------------------------------------------------------
 */

static u16 blocks_of(const struct nvme *s, const struct sqe *e, u64 *ret_at, u64 *ret_len)
{
    u64 lba = le32_get(e->cdw[0]) | (u64)le32_get(e->cdw[1]) << 32;
    u64 n = (le32_get(e->cdw[2]) & 0xffff) + 1;

    if (n > s->blocks || lba > s->blocks - n)
        return LBA_RANGE;
    *ret_at = lba << s->shift;
    *ret_len = n << s->shift;
    return OK;
}

static u16 io_rw(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    bool read = q->opcode == IO_READ, fua = le32_get(e->cdw[2]) >> 30 & 1;
    u64 at, len;
    u16 status = blocks_of(s, e, &at, &len);

    if (status)
        return status;
    if (len > PIECE_MAX)
        return INVALID_FIELD;
    if (!read && image_read_only(s->image))
        return READ_ONLY;
    status = prp_map(s, q, e, (u32)len, read ? RAM_TO_GUEST : RAM_FROM_GUEST);
    if (status)
        return status;
    if (read)
        image_read(s->image, at, q->data.v, (int)q->data.n, nvme_image_did, q);
    else
        image_write(s->image, at, q->data.v, (int)q->data.n, fua || !s->r.write_cache,
                    nvme_image_did, q);
    return LATER;
}

static u16 io_write_zeroes(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u64 at, len;
    u16 status = blocks_of(s, e, &at, &len);

    if (status)
        return status;
    if (image_read_only(s->image))
        return READ_ONLY;
    image_write_zeroes(s->image, at, len, le32_get(e->cdw[2]) >> 25 & 1, nvme_image_did, q);
    return LATER;
}

static u16 io_dsm(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    struct {
        le32 attributes, blocks;
        le64 lba;
    } list[RANGES];
    u32 n = (le32_get(e->cdw[0]) & 0xff) + 1;

    if (!(le32_get(e->cdw[1]) & 4)) /* hints only */
        return OK;
    if (image_read_only(s->image))
        return READ_ONLY;
    u16 status = prp_map(s, q, e, n * (u32)sizeof list[0], RAM_FROM_GUEST);
    if (status)
        return status;
    if (!iovs_get(&q->data, list, n * sizeof list[0]))
        return DATA_ERROR;
    struct range *ranges = g_new(struct range, n);
    for (u32 i = 0; i < n; i++) {
        u64 lba = le64_get(list[i].lba), count = le32_get(list[i].blocks);

        if (count > s->blocks || lba > s->blocks - count) {
            g_free(ranges);
            return LBA_RANGE;
        }
        ranges[i] = (struct range){ lba << s->shift, count << s->shift };
    }
    q->ranges = ranges;
    q->n_ranges = n;
    q->next_range = 0;
    nvme_range_next(q);
    return LATER;
}

u16 nvme_io_command(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u32 nsid = le32_get(e->nsid);

    if (nsid != NSID && !(q->opcode == IO_FLUSH && nsid == UINT32_MAX))
        return INVALID_NAMESPACE;
    if (e->flags & 0xc3) /* SGLs, fused */
        return INVALID_FIELD;
    switch (q->opcode) {
    case IO_FLUSH:
        image_flush(s->image, nvme_image_did, q);
        return LATER;
    case IO_READ:
    case IO_WRITE:
        return io_rw(s, q, e);
    case IO_WRITE_ZEROES:
        return io_write_zeroes(s, q, e);
    case IO_DSM:
        return io_dsm(s, q, e);
    }
    return INVALID_OPCODE;
}
