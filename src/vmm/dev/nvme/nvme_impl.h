// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nvme_impl.h - inside the NVMe controller: what its registers and life (nvme.c), its queues
 * (nvme_queue.c), admin commands (nvme_admin.c) and I/O commands (nvme_io.c) share.  All with
 * the device's lock held, unless said otherwise.
 */
#pragma once

#include "vmm/dev/nvme/nvme.h"

#include <stdatomic.h>

#include "image/image.h"
#include "vmm/dev/pci/pci.h"

enum { CC_EN = 0x0001, CC_SHN = 0xc000, CSTS_RDY = 1, CSTS_CFS = 2, CSTS_SHST_DONE = 8 };
enum {
    ADMIN_DELETE_SQ = 0x00,
    ADMIN_CREATE_SQ = 0x01,
    ADMIN_GET_LOG = 0x02,
    ADMIN_DELETE_CQ = 0x04,
    ADMIN_CREATE_CQ = 0x05,
    ADMIN_IDENTIFY = 0x06,
    ADMIN_ABORT = 0x08,
    ADMIN_SET_FEATURES = 0x09,
    ADMIN_GET_FEATURES = 0x0a,
    ADMIN_ASYNC_EVENT = 0x0c,
};
enum {
    IO_FLUSH = 0x00,
    IO_WRITE = 0x01,
    IO_READ = 0x02,
    IO_WRITE_ZEROES = 0x08,
    IO_DSM = 0x09
};
/* Status: code type << 8 | code; the "do not retry" bit is set with all of them. */
enum {
    OK = 0,
    INVALID_OPCODE = 0x001,
    INVALID_FIELD = 0x002,
    DATA_ERROR = 0x004,
    INTERNAL = 0x006,
    INVALID_NAMESPACE = 0x00b,
    INVALID_PRP_OFFSET = 0x013,
    LBA_RANGE = 0x080,
    CQ_INVALID = 0x100,
    QUEUE_ID_INVALID = 0x101,
    QUEUE_SIZE = 0x102,
    EVENT_LIMIT = 0x105,
    LOG_PAGE = 0x109,
    INTERRUPT_VECTOR = 0x108,
    QUEUE_DELETION = 0x10c,
    READ_ONLY = 0x182,
    WRITE_FAULT = 0x280,
    UNRECOVERED_READ = 0x281,
    LATER = 0xffff, /* not a status: it completes by itself */
    DNR = 0x4000,
};
enum { QUEUES = 65, ENTRIES_MAX = 4096, SQE = 64, CQE = 16, EVENTS = 4, RANGES = 256 };
/* Of asynchronous events: the one there is, as a bit of configuration and as it is told: a
 * notice, of a namespace that changed, which is in log page 4. */
enum { EVENT_NAMESPACE = 0x100, NOTICE_NAMESPACE = 0x040002, LOG_CHANGED = 4 };
enum { MDTS = 7, PIECE_MAX = 4096 << MDTS, NSID = 1, PRP_LIST_MAX = 512, VERSION = 0x00010300 };

struct sq_regs {
    u64 base;
    u16 size; /* entries; 0: there is no such queue */
    u16 head, tail, cq;
};
struct cq_regs {
    u64 base;
    u16 size, head, tail, vector;
    u8 phase, interrupts, zero[6];
};

struct sqe {
    u8 opcode, flags;
    le16 cid;
    le32 nsid;
    le64 reserved, metadata, prp1, prp2;
    le32 cdw[6]; /* 10 to 15 */
};
_Static_assert(sizeof(struct sqe) == SQE, "submission queue entry");

struct nvme_req {
    struct nvme *s;
    u16 sq, cid, status;
    u8 opcode;
    int ret;
    u32 result;
    struct iovs data;
    struct range {
        u64 at, len;
    } * ranges; /* to be discarded, from `next` on */
    u32 n_ranges, next_range;
    struct nvme_req *next; /* on the free, the done or a completion queue's list */
};

struct nvme {
    struct pci_dev pci;
    struct nvme_regs {
        struct pci_regs pci;
        struct pci_msix_regs msix;
        u64 asq, acq;
        u32 cc, csts, aqa, mask;
        struct sq_regs sq[QUEUES];
        struct cq_regs cq[QUEUES];
        u16 event[EVENTS]; /* command ids of the asynchronous event requests that wait */
        u8 events, write_cache;
        u8 changed, told; /* the namespace's size, and the driver has not read the log yet */
        u32 event_config;
    } r;
    u32 under_way[QUEUES];          /* of each submission queue */
    u32 total;                      /* with the flush of a shutdown */
    struct nvme_req *waits[QUEUES]; /* done, but their completion queue is full */
    struct nvme_req *free;
    struct nvme_req *_Atomic done; /* left by completions that found the lock taken */
    struct iothread *io;
    int done_fd;
    u64 blocks;
    unsigned shift; /* log2 of a block */
    /* properties */
    struct image *image;
    char *serial;
    u32 queues; /* pairs for I/O */
    u32 logical_block;
    bool write_cache;
};

static inline struct ram *nvme_ram(const struct nvme *s)
{
    return s->pci.dev.vm->ram;
}
static inline u32 nvme_page_size(const struct nvme *s)
{
    return 4096u << (s->r.cc >> 7 & 15);
}

/* --- nvme_queue.c --- */
void nvme_pin_update(struct nvme *); /* the interrupt pin is as the queues want it */
struct nvme_req *nvme_req_get(struct nvme *, u16 sq, const struct sqe *);
void nvme_req_put(struct nvme_req *);
void nvme_finish_status(struct nvme_req *, u16 status);
void nvme_finish_list(struct nvme *);       /* what completions have left */
void nvme_image_did(void *opaque, int ret); /* a thread of the image's: of a nvme_req */
void nvme_done_kicked(void *opaque);        /* the I/O thread; without the lock */
bool nvme_running(const struct nvme *);
void nvme_sq_run(struct nvme *, u16 id);
void nvme_doorbell(struct nvme *, u32 n, u32 val);
bool nvme_range_next(struct nvme_req *); /* discards the next range; false: there is none */

/* --- nvme_io.c --- */
/* Bytes for the guest, where the command says. A status */
u16 nvme_give(struct nvme *, struct nvme_req *, const struct sqe *, const void *bytes, u32 n);
u16 nvme_io_command(struct nvme *, struct nvme_req *, const struct sqe *);

/* --- nvme_admin.c --- */
u16 nvme_admin_command(struct nvme *, struct nvme_req *, const struct sqe *);
void nvme_resized(void *opaque); /* main thread, without the lock: the image has another size */

/* --- nvme.c --- */
void nvme_disabled(struct nvme *); /* nothing is under way any more */
