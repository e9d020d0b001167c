// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi.c - virtio SCSI host adapter.  VIRTIO 1.2, 5.6.
 *
 * Queue 0 takes task management, queue 1 hands out events, the others take commands, whose data
 * go straight between image and guest RAM.  A LUN's eight bytes are 1, target, 0x40 | LUN.
 *
 * Task management waits for what it aborts with the lock held: the image answers in its time.
 *
 * Not modelled: protection information, task attributes (all are simple), asynchronous
 * notification subscriptions (accepted, none are ever sent).
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/iothread.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum { F_INOUT = 0, F_HOTPLUG = 1, F_CHANGE = 2 };
enum {
    S_OK = 0,
    S_OVERRUN = 1,
    S_ABORTED = 2,
    S_BAD_TARGET = 3,
    S_FAILURE = 9,
    S_FUNCTION_SUCCEEDED = 10,
    S_FUNCTION_REJECTED = 11,
    S_INCORRECT_LUN = 12,
};
enum { T_TMF = 0, T_AN_QUERY = 1, T_AN_SUBSCRIBE = 2 };
enum {
    TMF_ABORT_TASK = 0,
    TMF_ABORT_TASK_SET = 1,
    TMF_CLEAR_ACA = 2,
    TMF_CLEAR_TASK_SET = 3,
    TMF_NEXUS_RESET = 4,
    TMF_UNIT_RESET = 5,
    TMF_QUERY_TASK = 6,
    TMF_QUERY_TASK_SET = 7,
};
enum { EV_NONE = 0, EV_TRANSPORT_RESET = 1, EV_PARAM_CHANGE = 3, EV_MISSED = 0x80000000 };
enum { RESET_RESCAN = 1, RESET_REMOVED = 2 };
enum { QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REQUEST, QUEUES_MAX = 32, EVENTS_MAX = 16 };
enum { SENSE_DEFAULT = 96, CDB_DEFAULT = 32, SIZE_MAX_SET = 255 };
enum { TARGET_MAX = 255, HEADER = 19 }; /* of a request before its CDB */

struct response {
    le32 sense_len, residual;
    le16 qualifier;
    u8 status, response;
};
_Static_assert(sizeof(struct response) == 12, "virtio_scsi_cmd_resp without sense");
struct event {
    le32 event;
    u8 lun[8];
    le32 reason;
} __attribute__((packed));
struct scsi_config {
    le32 num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size;
    le16 max_channel, max_target;
    le32 max_lun;
};
_Static_assert(sizeof(struct scsi_config) == 36, "virtio_scsi_config");

struct vscsi;
struct cmd {
    struct scsi_req q;
    struct vq_req r;
    struct vscsi *s;
    struct iovs head; /* where the response goes */
    u64 tag;
    u32 room; /* for data */
    struct cmd *next;
};

struct vscsi {
    struct virtio v;
    struct vscsi_regs {
        struct virtio_regs virtio;
        u32 sense_size, cdb_size;
        /* events that found no buffer: the oldest first */
        u32 event[EVENTS_MAX], reason[EVENTS_MAX];
        u8 lun[EVENTS_MAX][8];
        u8 events, missed, zero[6];
    } r;
    struct scsi_bus bus;
    struct cmd *free;
    struct vq_req event_req, control_req;
    bool ready; /* past init: what comes now is plugged in */
    /* properties */
    u32 num_queues, queue_size, max_sectors, cmd_per_lun;
    bool hotplug, param_change;
};

static const struct state_field vscsi_fields[] = {
    STATE_STRUCT(struct vscsi_regs, virtio, virtio_fields),
    STATE_UINT(struct vscsi_regs, sense_size, SIZE_MAX_SET),
    STATE_UINT(struct vscsi_regs, cdb_size, SIZE_MAX_SET),
    STATE_UINTS(struct vscsi_regs, event, UINT32_MAX),
    STATE_UINTS(struct vscsi_regs, reason, UINT32_MAX),
    STATE_BYTES(struct vscsi_regs, lun),
    STATE_UINT(struct vscsi_regs, events, EVENTS_MAX),
    STATE_UINT(struct vscsi_regs, missed, 1),
    STATE_PAD(struct vscsi_regs, zero),
};

static struct vscsi *vscsi_of(struct virtio *v)
{
    return container_of(v, struct vscsi, v);
}

/* ---- commands ---- */

static struct cmd *cmd_get(struct vscsi *s, struct vq *vq)
{
    struct cmd *c = s->free;

    if (c) {
        s->free = c->next;
        return c;
    }
    c = g_new0(struct cmd, 1); /* at most as many as the queues hold */
    c->s = s;
    vq_req_init(&c->r, vq);
    iovs_init(&c->head, virtio_ram(&s->v), RAM_TO_GUEST);
    return c;
}

static void cmd_put(struct cmd *c)
{
    c->next = c->s->free;
    c->s->free = c;
}

static void cmd_free(struct cmd *c)
{
    vq_req_free(&c->r);
    iovs_free(&c->head);
    scsi_req_free(&c->q);
    g_free(c);
}

static void respond(struct cmd *c, u8 response)
{
    struct scsi_req *q = &c->q;
    u8 bytes[sizeof(struct response) + SIZE_MAX_SET] = { 0 };
    u32 n = (u32)c->head.left;
    u32 sense = MIN((u32)q->sense_len, n - (u32)sizeof(struct response));
    u32 moved = q->dir == SCSI_IN ? (u32)q->moved : 0;
    struct response h = { .sense_len = le32_of(sense),
                          .residual = le32_of(c->room - (u32)MIN(q->moved, c->room)),
                          .status = q->status,
                          .response = response };

    memcpy(bytes, &h, sizeof h);
    memcpy(bytes + sizeof h, q->sense, sense);
    if (!iovs_put(&c->head, bytes, n))
        n = 0;
    vq_push(&c->r, n + moved);
    vq_signal(c->r.vq);
    cmd_put(c);
}

static void cmd_done(struct scsi_req *q)
{
    struct cmd *c = container_of(q, struct cmd, q);

    respond(c, q->aborted ? S_ABORTED : q->overrun ? S_OVERRUN : S_OK);
}

static bool lun_parse(const u8 *lun, u8 *ret_target, u16 *ret_lun)
{
    if (lun[0] != 1 || (lun[2] & 0xc0) > 0x40 || (lun[2] && lun[2] < 0x40))
        return false;
    *ret_target = lun[1];
    *ret_lun = (u16)((lun[2] & 0x3f) << 8 | lun[3]);
    return true;
}

/* The first n bytes of what the device may write are the response. */
static bool split(struct cmd *c, u32 n)
{
    struct iovs *in = &c->r.in, *to = &c->head;

    to->n = to->cur = 0;
    to->left = 0;
    if (in->left < n)
        return false;
    if (to->cap < in->n) {
        to->cap = in->n;
        to->v = g_renew(struct iovec, to->v, to->cap);
    }
    for (u32 i = in->cur; to->left < n; i++) {
        size_t part = MIN(in->v[i].iov_len, n - to->left);

        to->v[to->n++] = (struct iovec){ in->v[i].iov_base, part };
        to->left += part;
    }
    return iovs_skip(in, n);
}

static void start(struct cmd *c)
{
    struct vscsi *s = c->s;
    struct scsi_req *q = &c->q;
    u8 h[HEADER], cdb[SIZE_MAX_SET] = { 0 };

    if (!iovs_get(&c->r.out, h, sizeof h) || !iovs_get(&c->r.out, cdb, s->r.cdb_size) ||
        !split(c, sizeof(struct response) + s->r.sense_size)) {
        vq_break(c->r.vq, "a SCSI request without room for command or response");
        cmd_put(c);
        return;
    }
    memcpy(&c->tag, h + 8, sizeof c->tag);
    memcpy(q->cdb, cdb, sizeof q->cdb);
    q->status = q->sense_len = 0;
    q->moved = 0;
    q->dir = SCSI_NONE;
    bool in = c->r.in.left, out = c->r.out.left;
    c->room = (u32)MIN(in ? c->r.in.left : c->r.out.left, (size_t)UINT32_MAX);
    if (h[0] == 0xc1 && h[1] == 1) { /* REPORT LUNS well known unit: of target 0 */
        memset(h, 0, 8);
        h[0] = 1;
    }
    if (!lun_parse(h, &q->target, &q->lun) || !scsi_target_there(&s->bus, q->target)) {
        respond(c, S_BAD_TARGET);
        return;
    }
    if (in && out) { /* F_INOUT was not offered */
        respond(c, S_FAILURE);
        return;
    }
    q->sg = out ? &c->r.out : &c->r.in;
    scsi_submit(&s->bus, q);
}

static void handle_requests(struct vq *vq)
{
    struct vscsi *s = vscsi_of(vq->v);
    unsigned budget = vq->r->size;

    do {
        vq_disable(vq);
        for (;;) {
            struct cmd *c = cmd_get(s, vq);

            if (vq_pop(vq, &c->r) != 1) {
                cmd_put(c);
                break;
            }
            start(c);
            if (!--budget) {
                vq_kick(vq); /* let others have the lock */
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- task management ---- */

static bool tmf_hits(const struct cmd *c, u32 what, u8 target, u16 lun, u64 tag)
{
    const struct scsi_req *q = &c->q;

    if (q->target != target || (what != TMF_NEXUS_RESET && q->lun != lun))
        return false;
    return c->tag == tag || (what != TMF_ABORT_TASK && what != TMF_QUERY_TASK);
}

static u8 tmf(struct vscsi *s, u32 what, const u8 *where, u64 tag)
{
    bool query = what == TMF_QUERY_TASK || what == TMF_QUERY_TASK_SET, found = false;
    u8 target;
    u16 lun;

    if (what > TMF_QUERY_TASK_SET || what == TMF_CLEAR_ACA)
        return S_FUNCTION_REJECTED;
    if (!lun_parse(where, &target, &lun) || !scsi_target_there(&s->bus, target))
        return S_BAD_TARGET;
    if (what != TMF_NEXUS_RESET && !scsi_unit_at(&s->bus, target, lun))
        return S_INCORRECT_LUN;
    for (struct scsi_req *q = s->bus.reqs, *next; q; q = next) {
        next = q->next;
        if (!tmf_hits(container_of(q, struct cmd, q), what, target, lun, tag))
            continue;
        found = true;
        if (!query)
            scsi_abort(q);
    }
    if (query)
        return found ? S_FUNCTION_SUCCEEDED : S_OK;
    scsi_bus_drain(&s->bus);
    if (what == TMF_UNIT_RESET)
        scsi_reset(&s->bus, scsi_unit_at(&s->bus, target, lun));
    else if (what == TMF_NEXUS_RESET)
        for (u32 i = 0; i < s->bus.units->len; i++)
            if (((struct scsi_unit *)s->bus.units->pdata[i])->target == target)
                scsi_reset(&s->bus, s->bus.units->pdata[i]);
    return S_OK;
}

static void control(struct vscsi *s, struct vq_req *r)
{
    struct {
        le32 type, subtype;
        u8 lun[8];
        le64 tag;
    } __attribute__((packed)) q = { 0 };
    u8 answer[5] = { 0 };
    u32 n = 1;
    bool ok = iovs_get(&r->out, &q, 4);

    if (ok && le32_get(q.type) == T_TMF) {
        ok = iovs_get(&r->out, (u8 *)&q + 4, sizeof q - 4) && r->in.left >= n;
        if (ok)
            answer[0] = tmf(s, le32_get(q.subtype), q.lun, le64_get(q.tag));
    } else if (ok && (le32_get(q.type) == T_AN_QUERY || le32_get(q.type) == T_AN_SUBSCRIBE)) {
        n = 5; /* no events, then S_OK */
    } else if (ok) {
        answer[0] = S_FAILURE;
    }
    if (!ok || !iovs_put(&r->in, answer, n)) {
        vq_break(r->vq, "a control request of the wrong size");
        return;
    }
    vq_push(r, n);
    vq_signal(r->vq);
}

static void handle_control(struct vq *vq)
{
    struct vscsi *s = vscsi_of(vq->v);
    unsigned budget = vq->r->size;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->control_req) == 1) {
            control(s, &s->control_req);
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- events ---- */

static void events_send(struct vscsi *s)
{
    struct vq *vq = &s->v.vq[QUEUE_EVENT];
    bool any = false;

    while (s->r.events) {
        struct event e = { .event = le32_of(s->r.event[0] | (s->r.missed ? EV_MISSED : 0)),
                           .reason = le32_of(s->r.reason[0]) };

        if (vq_pop(vq, &s->event_req) != 1)
            break;
        memcpy(e.lun, s->r.lun[0], 8);
        if (!iovs_put(&s->event_req.in, &e, sizeof e)) {
            vq_break(vq, "an event buffer that is too small");
            return;
        }
        vq_push(&s->event_req, sizeof e);
        any = true;
        s->r.missed = false;
        s->r.events--;
        memmove(s->r.event, s->r.event + 1, sizeof s->r.event - sizeof s->r.event[0]);
        memmove(s->r.reason, s->r.reason + 1, sizeof s->r.reason - sizeof s->r.reason[0]);
        memmove(s->r.lun, s->r.lun + 1, sizeof s->r.lun - sizeof s->r.lun[0]);
    }
    if (any)
        vq_signal(vq);
}

static void event_add(struct vscsi *s, const struct scsi_unit *u, u32 event, u32 reason)
{
    u8 n = s->r.events;

    if (!virtio_live(&s->v))
        return; /* the driver will scan the bus when it starts */
    if (n == EVENTS_MAX) {
        s->r.missed = true;
        return;
    }
    s->r.event[n] = event;
    s->r.reason[n] = reason;
    memset(s->r.lun[n], 0, 8);
    s->r.lun[n][0] = 1;
    s->r.lun[n][1] = (u8)u->target;
    s->r.lun[n][2] = (u8)(u->lun >> 8 | (u->lun >= 256 ? 0x40 : 0));
    s->r.lun[n][3] = (u8)u->lun;
    s->r.events++;
    events_send(s);
}

static void handle_events(struct vq *vq)
{
    events_send(vscsi_of(vq->v));
}

static void plugged(struct scsi_bus *b, const struct scsi_unit *u, bool there)
{
    struct vscsi *s = container_of(b, struct vscsi, bus);

    if (s->ready && virtio_has(&s->v, F_HOTPLUG))
        event_add(s, u, EV_TRANSPORT_RESET, there ? RESET_RESCAN : RESET_REMOVED);
}

static void attention(struct scsi_bus *b, const struct scsi_unit *u, u8 asc, u8 ascq)
{
    struct vscsi *s = container_of(b, struct vscsi, bus);

    if (virtio_has(&s->v, F_CHANGE) && !u->cd)
        event_add(s, u, EV_PARAM_CHANGE, (u32)asc | (u32)ascq << 8);
}

/* ---- configuration ---- */

static void config(struct virtio *v, u8 *bytes)
{
    const struct vscsi *s = vscsi_of(v);
    const struct scsi_config c = {
        .num_queues = le32_of(s->num_queues),
        .seg_max = le32_of(MIN(s->queue_size - 2, IOVS_MAX / 2 - 2)),
        .max_sectors = le32_of(s->max_sectors),
        .cmd_per_lun = le32_of(s->cmd_per_lun),
        .event_info_size = le32_of(sizeof(struct event)),
        .sense_size = le32_of(s->r.sense_size),
        .cdb_size = le32_of(s->r.cdb_size),
        .max_target = le16_of(TARGET_MAX),
        .max_lun = le32_of(SCSI_LUN_MAX),
    };

    memcpy(bytes, &c, sizeof c);
}

static void config_written(struct virtio *v, const u8 *bytes, u32 off UNUSED, u32 len UNUSED)
{
    struct vscsi *s = vscsi_of(v);
    struct scsi_config c;

    memcpy(&c, bytes, sizeof c);
    if (le32_get(c.sense_size) <= SIZE_MAX_SET)
        s->r.sense_size = le32_get(c.sense_size);
    if (le32_get(c.cdb_size) >= 1 && le32_get(c.cdb_size) <= SIZE_MAX_SET)
        s->r.cdb_size = le32_get(c.cdb_size);
}

/* ---- life ---- */

static void vscsi_drain(struct virtio *v)
{
    scsi_bus_drain(&vscsi_of(v)->bus);
}

static void vscsi_reset(struct virtio *v)
{
    struct vscsi *s = vscsi_of(v);

    scsi_bus_drain(&s->bus);
    scsi_reset(&s->bus, NULL);
    s->r.sense_size = SENSE_DEFAULT;
    s->r.cdb_size = CDB_DEFAULT;
    s->r.events = s->r.missed = 0;
    memset(s->r.event, 0, sizeof s->r.event);
    memset(s->r.reason, 0, sizeof s->r.reason);
    memset(s->r.lun, 0, sizeof s->r.lun);
}

static void vscsi_loaded(struct virtio *v)
{
    struct vscsi *s = vscsi_of(v);

    if (!s->r.cdb_size)
        s->r.cdb_size = CDB_DEFAULT;
}

static void vscsi_pause(struct virtio *v, bool paused)
{
    if (paused)
        scsi_bus_rest(&vscsi_of(v)->bus);
}

static const struct scsi_bus_ops bus_ops = { .done = cmd_done,
                                             .plugged = plugged,
                                             .attention = attention };

static bool vscsi_init(struct virtio *v, GError **error)
{
    struct vscsi *s = vscsi_of(v);
    g_autofree char *name = g_strdup_printf("%s.0", v->pci.dev.id);

    if (!virtio_size_ok(v, "virtqueue_size", s->queue_size, error))
        return false;
    if (s->queue_size < 4)
        return fail(error, ERR_ARGUMENT, "virtqueue_size=%u: at least 4", s->queue_size);
    if (s->num_queues < 1 || s->num_queues > QUEUES_MAX)
        return fail(error, ERR_ARGUMENT, "num_queues=%u: expected 1 to %u", s->num_queues,
                    QUEUES_MAX);
    s->bus.ops = &bus_ops;
    s->bus.targets = TARGET_MAX - 1;
    s->bus.own_target = 0xff;
    s->bus.luns = SCSI_LUN_MAX;
    s->bus.autosense = true;
    if (!scsi_bus_init(&s->bus, &v->pci.dev, name, v->io, error))
        return false;
    if (s->hotplug)
        v->features |= BIT(F_HOTPLUG);
    if (s->param_change)
        v->features |= BIT(F_CHANGE);
    v->config_len = sizeof(struct scsi_config);
    virtio_add_queue(v, s->queue_size, handle_control);
    virtio_add_queue(v, s->queue_size, handle_events);
    for (u32 i = 0; i < s->num_queues; i++)
        virtio_add_queue(v, s->queue_size, handle_requests);
    vq_req_init(&s->control_req, &v->vq[QUEUE_CONTROL]);
    vq_req_init(&s->event_req, &v->vq[QUEUE_EVENT]);
    s->ready = true;
    return true;
}

static void vscsi_fini(struct virtio *v)
{
    struct vscsi *s = vscsi_of(v);

    dev_lock(&v->pci.dev);
    scsi_bus_drain(&s->bus);
    dev_unlock(&v->pci.dev);
    scsi_bus_fini(&s->bus);
    while (s->free) {
        struct cmd *c = s->free;

        s->free = c->next;
        cmd_free(c);
    }
    vq_req_free(&s->control_req);
    vq_req_free(&s->event_req);
}

static const struct virtio_type vscsi = {
    .pci = VIRTIO_PCI(struct vscsi, 0x010000),
    .id = 8,
    .legacy_device = 0x1004,
    .regs = offsetof(struct vscsi, r.virtio),
    .init = vscsi_init,
    .fini = vscsi_fini,
    .reset = vscsi_reset,
    .config = config,
    .config_written = config_written,
    .loaded = vscsi_loaded,
    .drain = vscsi_drain,
    .pause = vscsi_pause,
};

#define SCSI_PROPS                                                                             \
    PROP(struct vscsi, num_queues, PROP_U32, .name = "num_queues", .def = "1",                 \
         .help = "request queues"),                                                            \
        PROP(struct vscsi, queue_size, PROP_U32, .name = "virtqueue_size", .def = "256",       \
             .help = "requests a queue holds"),                                                \
        PROP(struct vscsi, max_sectors, PROP_U32, .name = "max_sectors", .def = "65535",       \
             .help = "of 512 bytes in one command"),                                           \
        PROP(struct vscsi, cmd_per_lun, PROP_U32, .name = "cmd_per_lun", .def = "128",         \
             .help = "commands at a time for a disk"),                                         \
        PROP(struct vscsi, hotplug, PROP_BOOL, .name = "hotplug", .def = "on",                 \
             .help = "tell the guest of disks that come and go"),                              \
        PROP(struct vscsi, param_change, PROP_BOOL, .name = "param_change", .def = "on",       \
             .help = "tell the guest of disks that change")

static const struct prop scsi_pci_props[] = {
    SCSI_PROPS,
    VIRTIO_PCI_PROPS(struct vscsi),
    { 0 },
};
static const struct prop scsi_mmio_props[] = {
    SCSI_PROPS,
    { 0 },
};

const struct dev_type virtio_scsi_pci_type = {
    .name = "virtio-scsi-pci",
    .desc = "Virtio SCSI host adapter",
    .kind = DEV_PCI,
    .props = scsi_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vscsi, vscsi_fields, vscsi),
};
const struct dev_type virtio_scsi_device_type = {
    .name = "virtio-scsi-device",
    .desc = "Virtio SCSI host adapter (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = scsi_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vscsi, vscsi_fields, vscsi),
};
