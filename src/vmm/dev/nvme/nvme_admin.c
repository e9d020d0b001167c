// SPDX-License-Identifier: GPL-2.0-or-later
/* nvme_admin.c - admin commands and events of an NVMe controller.  NVM Express 1.3d, 5. */
#include "vmm/dev/nvme/nvme_impl.h"

#include <string.h>

#include "base/log.h"

/* ---- admin commands ------------------------------------------------------------------------
 */

static u16 create_cq(struct nvme *s, const struct sqe *e)
{
    u32 a = le32_get(e->cdw[0]), b = le32_get(e->cdw[1]);
    u16 id = a & 0xffff, vector = b >> 16;
    u32 size = (a >> 16) + 1;

    if (!id || id > s->queues || s->r.cq[id].size)
        return QUEUE_ID_INVALID;
    if (size < 2 || size > ENTRIES_MAX)
        return QUEUE_SIZE;
    if (!(b & 1) || le64_get(e->prp1) & (nvme_page_size(s) - 1))
        return INVALID_FIELD;
    if (b & 2 && vector >= s->pci.vectors)
        return INTERRUPT_VECTOR;
    s->r.cq[id] = (struct cq_regs){ .base = le64_get(e->prp1),
                                    .size = (u16)size,
                                    .vector = b & 2 ? vector : 0,
                                    .phase = 1,
                                    .interrupts = b >> 1 & 1 };
    return OK;
}

static u16 create_sq(struct nvme *s, const struct sqe *e)
{
    u32 a = le32_get(e->cdw[0]), b = le32_get(e->cdw[1]);
    u16 id = a & 0xffff, cq = b >> 16;
    u32 size = (a >> 16) + 1;

    if (!id || id > s->queues || s->r.sq[id].size || s->under_way[id])
        return QUEUE_ID_INVALID;
    if (!cq || cq > s->queues || !s->r.cq[cq].size)
        return CQ_INVALID;
    if (size < 2 || size > ENTRIES_MAX)
        return QUEUE_SIZE;
    if (!(b & 1) || le64_get(e->prp1) & (nvme_page_size(s) - 1))
        return INVALID_FIELD;
    s->r.sq[id] = (struct sq_regs){ .base = le64_get(e->prp1), .size = (u16)size, .cq = cq };
    return OK;
}

static u16 delete_sq(struct nvme *s, const struct sqe *e)
{
    u16 id = le32_get(e->cdw[0]) & 0xffff;

    if (!id || id > s->queues || !s->r.sq[id].size)
        return QUEUE_ID_INVALID;
    s->r.sq[id] = (struct sq_regs){ 0 }; /* what is under way ends unheard */
    return OK;
}

static u16 delete_cq(struct nvme *s, const struct sqe *e)
{
    u16 id = le32_get(e->cdw[0]) & 0xffff;

    if (!id || id > s->queues || !s->r.cq[id].size)
        return QUEUE_ID_INVALID;
    for (u32 i = 1; i < QUEUES; i++)
        if (s->r.sq[i].size && s->r.sq[i].cq == id)
            return QUEUE_DELETION;
    s->r.cq[id] = (struct cq_regs){ 0 };
    while (s->waits[id]) {
        struct nvme_req *q = s->waits[id];

        s->waits[id] = q->next;
        nvme_req_put(q);
    }
    nvme_pin_update(s);
    return OK;
}

static void text_put(u8 *to, const char *text, size_t n)
{
    size_t have = strnlen(text, n);

    memset(to, ' ', n);
    memcpy(to, text, have);
}

static void identify_controller(const struct nvme *s, u8 *b)
{
    pci_put16(b, 0, 0x1b36);
    pci_put16(b, 2, 0x1af4);
    text_put(b + 4, s->serial, 20);
    text_put(b + 24, "POSADA NVMe", 40);
    text_put(b + 64, "1.0", 8);
    b[72] = 6; /* arbitration burst */
    b[77] = MDTS;
    pci_put32(b, 80, VERSION);
    pci_put32(b, 92, EVENT_NAMESPACE);
    b[258] = 3; /* aborts at a time, less one */
    b[259] = EVENTS - 1;
    b[260] = 0x03; /* one firmware slot, read-only */
    pci_put16(b, 266, 0x157);
    pci_put16(b, 268, 0x175);
    b[512] = 0x66;
    b[513] = 0x44;
    pci_put32(b, 516, 1);                                      /* namespaces */
    pci_put16(b, 520, image_read_only(s->image) ? 0 : 0x000c); /* DSM, write zeroes */
    b[525] = 1;                                                /* a volatile write cache */
    g_snprintf((char *)b + 768, 256, "nqn.2014-08.org.nvmexpress:posada:%s", s->serial);
    pci_put16(b, 2048, 2500); /* the one power state, centiwatts */
}

static u16 identify(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u8 b[4096] = { 0 };
    u32 nsid = le32_get(e->nsid);

    switch (le32_get(e->cdw[0]) & 0xff) {
    case 0:
        if (nsid != NSID && nsid != UINT32_MAX)
            return INVALID_NAMESPACE;
        for (u32 i = 0; i < 3; i++) { /* size, capacity, use */
            pci_put32(b, 8 * i, (u32)s->blocks);
            pci_put32(b, 8 * i + 4, (u32)(s->blocks >> 32));
        }
        b[130] = (u8)s->shift;
        break;
    case 1:
        identify_controller(s, b);
        break;
    case 2: /* active namespaces above nsid */
        if (nsid < NSID)
            pci_put32(b, 0, NSID);
        break;
    case 3: /* no identifiers but the serial number */
        if (nsid != NSID)
            return INVALID_NAMESPACE;
        break;
    default:
        return INVALID_FIELD;
    }
    return nvme_give(s, q, e, b, sizeof b);
}

static u16 get_log(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    u8 b[4096] = { 0 };
    u32 d10 = le32_get(e->cdw[0]), d11 = le32_get(e->cdw[1]);
    u64 n = (((u64)(d11 & 0xffff) << 16 | d10 >> 16) + 1) * 4;
    u64 off = le32_get(e->cdw[2]) | (u64)le32_get(e->cdw[3]) << 32, len = 512;

    switch (d10 & 0xff) {
    case 1: /* errors: none */
        break;
    case 2:                   /* health */
        pci_put16(b, 1, 310); /* kelvin */
        b[3] = 100;           /* spare */
        b[4] = 10;
        break;
    case 3: /* firmware slots */
        b[0] = 1;
        text_put(b + 8, "1.0", 8);
        break;
    case LOG_CHANGED:
        if (s->r.changed)
            pci_put32(b, 0, NSID);
        len = 4096;
        break;
    default:
        return LOG_PAGE;
    }
    if (off >= len || off & 3)
        return INVALID_FIELD;
    u16 status = nvme_give(s, q, e, b + off, (u32)MIN(n, len - off));
    if ((d10 & 0xff) == LOG_CHANGED && status == OK && !(d10 & BIT(15))) /* not to be kept */
        s->r.changed = s->r.told = 0;
    return status;
}

static u16 features(struct nvme *s, struct nvme_req *q, const struct sqe *e, bool set)
{
    u32 value = le32_get(e->cdw[1]);

    switch (le32_get(e->cdw[0]) & 0xff) {
    case 0x06: /* volatile write cache */
        if (set) {
            s->r.write_cache = value & 1;
            image_flush(s->image, nvme_image_did, q);
            q->opcode = IO_FLUSH;
            return LATER;
        }
        q->result = s->r.write_cache;
        return OK;
    case 0x07: /* number of queues */
        q->result = (s->queues - 1) | (s->queues - 1) << 16;
        return OK;
    case 0x04: /* temperature threshold */
        q->result = set ? 0 : 0x157;
        return OK;
    case 0x0b: /* events */
        if (set)
            s->r.event_config = value & EVENT_NAMESPACE;
        else
            q->result = s->r.event_config;
        return OK;
    case 0x01: /* arbitration, power, errors, coalescing, vectors, atomicity */
    case 0x02:
    case 0x05:
    case 0x08:
    case 0x09:
    case 0x0a:
        return OK;
    }
    return INVALID_FIELD;
}

/* Is there something to tell that has not been told? */
static bool notice(struct nvme *s)
{
    if (!s->r.changed || s->r.told || !(s->r.event_config & EVENT_NAMESPACE))
        return false;
    s->r.told = true;
    return true;
}

static u16 async_event(struct nvme *s, struct nvme_req *q)
{
    if (notice(s)) {
        q->result = NOTICE_NAMESPACE;
        return OK;
    }
    if (s->r.events >= EVENTS)
        return EVENT_LIMIT;
    s->r.event[s->r.events++] = q->cid;
    s->under_way[0]--;
    s->total--;
    nvme_req_put(q);
    return LATER;
}

u16 nvme_admin_command(struct nvme *s, struct nvme_req *q, const struct sqe *e)
{
    if (e->flags & 0xc3)
        return INVALID_FIELD;
    switch (e->opcode) {
    case ADMIN_CREATE_CQ:
        return create_cq(s, e);
    case ADMIN_CREATE_SQ:
        return create_sq(s, e);
    case ADMIN_DELETE_CQ:
        return delete_cq(s, e);
    case ADMIN_DELETE_SQ:
        return delete_sq(s, e);
    case ADMIN_IDENTIFY:
        return identify(s, q, e);
    case ADMIN_GET_LOG:
        return get_log(s, q, e);
    case ADMIN_ABORT:
        q->result = 1; /* was not */
        return OK;
    case ADMIN_SET_FEATURES:
    case ADMIN_GET_FEATURES:
        return features(s, q, e, e->opcode == ADMIN_SET_FEATURES);
    case ADMIN_ASYNC_EVENT:
        return async_event(s, q);
    }
    return INVALID_OPCODE;
}

/* Main thread. */
void nvme_resized(void *opaque)
{
    struct nvme *s = opaque;

    dev_lock(&s->pci.dev);
    s->blocks = image_size(s->image) >> s->shift;
    s->r.changed = true;
    if (nvme_running(s) && s->r.events && notice(s)) {
        const struct sqe e = { .opcode = ADMIN_ASYNC_EVENT, .cid = le16_of(s->r.event[0]) };
        struct nvme_req *q = nvme_req_get(s, 0, &e);

        s->r.events--;
        memmove(s->r.event, s->r.event + 1, s->r.events * sizeof s->r.event[0]);
        q->result = NOTICE_NAMESPACE;
        nvme_finish_status(q, OK);
    }
    dev_unlock(&s->pci.dev);
}
