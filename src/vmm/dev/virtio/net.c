// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * net.c - virtio network card.  VIRTIO 1.2, 5.1.
 *
 * Queue 0 receives, 1 transmits, 2 takes commands.  Frames from the host come on the netdev's
 * thread; one for which the driver has no buffers is refused and offered again after the driver
 * has rung (net_ready()).
 *
 * Offload towards the host is done here (offload.c), so that what reaches the netdev is
 * complete and no larger than the link's; frames for the guest whose checksum is right are
 * marked so.
 *
 * Not modelled: large frames towards the guest, several queue pairs, VLAN filtering,
 * announcements.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "net/net.h"
#include "vmm/dev/virtio/offload.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_MAC = 5,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_RX_EXTRA = 20,
    F_CTRL_MAC_ADDR = 23
};
enum { RX, TX, CTRL };
enum { STATUS_LINK_UP = 1 };
enum { HDR_NEEDS_CSUM = 1, HDR_DATA_VALID = 2, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4 };
enum { CTRL_OK = 0, CTRL_ERR = 1 };
enum { CLASS_RX = 0, CLASS_MAC = 1 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { MAC = 6, MACS_MAX = 64, FRAME_MIN = 14, FRAME_MAX = 65536 + 64 };
enum { RX_BUFFERS_MAX = 64 }; /* that one frame may fill */
enum { FULL_RETRY_US = 200, FULL_MAX_MS = 100 };

struct net_header {
    u8 flags, gso_type;
    le16 hdr_len, gso_size, csum_start, csum_offset;
    le16 num_buffers; /* not with legacy drivers that do not merge */
};
_Static_assert(sizeof(struct net_header) == 12, "virtio_net_hdr");

struct vnet {
    struct virtio v;
    struct vnet_regs {
        struct virtio_regs virtio;
        u8 mac[MAC];
        u8 rx_mode[6]; /* by RX_ command: on or off */
        u8 n_macs;     /* filter table, unicast first */
        u8 n_unicast;
        u8 overflow; /* more than fit were given: bit 0 unicast, bit 1 multicast */
        u8 zero;
        u8 macs[MACS_MAX * MAC];
    } r;
    bool link_up;
    bool refused; /* a frame waits for buffers */
    bool paused;  /* the guest is stopped */
    struct vq_req rx[RX_BUFFERS_MAX], tx, ctrl;
    u8 *frame;          /* FRAME_MAX: a copy to work on */
    struct timer retry; /* the host end was full */
    u64 full_since;     /* vm_now(); 0: it is not */
    u32 cut, cut_sent;  /* segments of the frame in hand, how many the host end has */
    bool full;
    /* properties */
    struct net *net;
    u8 mac[MAC];
    u32 rx_size, tx_size;
    bool csum, guest_csum, host_tso4, host_tso6;
};

static const struct state_field vnet_fields[] = {
    STATE_STRUCT(struct vnet_regs, virtio, virtio_fields),
    STATE_BYTES(struct vnet_regs, mac),
    STATE_UINTS(struct vnet_regs, rx_mode, 1),
    STATE_UINT(struct vnet_regs, n_macs, MACS_MAX),
    STATE_UINT(struct vnet_regs, n_unicast, MACS_MAX),
    STATE_UINT(struct vnet_regs, overflow, 3),
    STATE_PAD(struct vnet_regs, zero),
    STATE_BYTES(struct vnet_regs, macs),
};

static struct vnet *vnet_of(struct virtio *v)
{
    return container_of(v, struct vnet, v);
}

static size_t header_len(const struct vnet *s)
{
    return virtio_has(&s->v, F_MRG_RXBUF) || virtio_has(&s->v, VIRTIO_F_VERSION_1) ? 12 : 10;
}

/* ---- host to guest ---- */

static bool wanted(const struct vnet *s, const u8 *frame)
{
    const struct vnet_regs *r = &s->r;
    bool multicast = frame[0] & 1;

    if (r->rx_mode[RX_PROMISC])
        return true;
    if (!memcmp(frame, "\xff\xff\xff\xff\xff\xff", MAC))
        return !r->rx_mode[RX_NOBCAST];
    if (multicast ? r->rx_mode[RX_NOMULTI] : r->rx_mode[RX_NOUNI])
        return false;
    if (multicast ? r->rx_mode[RX_ALLMULTI] || r->overflow & 2
                  : r->rx_mode[RX_ALLUNI] || r->overflow & 1)
        return true;
    if (!multicast && !memcmp(frame, r->mac, MAC))
        return true;
    unsigned from = multicast ? r->n_unicast : 0, to = multicast ? r->n_macs : r->n_unicast;
    for (unsigned i = from; i < to; i++)
        if (!memcmp(frame, r->macs + i * MAC, MAC))
            return true;
    return false;
}

/* Fills as many buffers as the frame needs; all are handed back together, or none is taken. */
static bool put_frame(struct vnet *s, const u8 *frame, size_t n)
{
    struct vq *vq = &s->v.vq[RX];
    size_t hlen = header_len(s), done = 0, used[RX_BUFFERS_MAX];
    bool merge = virtio_has(&s->v, F_MRG_RXBUF);
    struct net_header h = { 0 };
    unsigned k = 0;
    u8 *num_at = NULL;

    while (done < n) {
        if (k == RX_BUFFERS_MAX || (k && !merge)) {
            vq_rewind(vq, k); /* never fits: drop it */
            return true;
        }
        struct vq_req *q = &s->rx[k];
        int got = vq_pop(vq, q);
        if (got != 1) {
            if (k)
                vq_rewind(vq, k);
            return got < 0;
        }
        k++;
        used[k - 1] = 0;
        if (k == 1) {
            /* The count comes last: remember where it goes, which may not be one piece. */
            if (q->in.left < hlen) {
                vq_break(vq, "a receive buffer smaller than its header");
                return true;
            }
            if (q->in.v[0].iov_len >= hlen)
                num_at = (u8 *)q->in.v[0].iov_base + offsetof(struct net_header, num_buffers);
            h.num_buffers = le16_of(1);
            if (virtio_has(&s->v, F_GUEST_CSUM) && offload_verify(frame, n))
                h.flags = HDR_DATA_VALID;
            if (!iovs_put(&q->in, &h, hlen))
                return true;
            used[0] = hlen;
        }
        size_t len = MIN(q->in.left, n - done);
        if (!len && k > 1) {
            vq_break(vq, "an empty receive buffer");
            return true;
        }
        if (len && !iovs_put(&q->in, frame + done, len))
            return true;
        done += len;
        used[k - 1] += len;
    }
    if (k > 1) {
        if (!num_at) {
            vq_break(vq, "a receive buffer's header in pieces");
            return true;
        }
        h.num_buffers = le16_of(k);
        memcpy(num_at, &h.num_buffers, sizeof h.num_buffers);
        ram_written(virtio_ram(&s->v), num_at, sizeof h.num_buffers);
    }
    for (unsigned i = 0; i < k; i++)
        vq_push(&s->rx[i], (u32)used[i]);
    vq_signal(vq);
    return true;
}

/* The netdev's thread. */
static bool receive(void *opaque, const u8 *frame, size_t n)
{
    struct vnet *s = opaque;
    bool taken = true;

    dev_lock(&s->v.pci.dev);
    struct vq *vq = &s->v.vq[RX];
    if (s->paused) {
        taken = false; /* one that was on its way already */
        s->refused = true;
    } else if (vq_ready(vq) && n >= FRAME_MIN && n <= FRAME_MAX && wanted(s, frame)) {
        taken = put_frame(s, frame, n);
        if (!taken && vq_enable(vq))
            taken = put_frame(s, frame, n); /* buffers came while we looked */
        if (taken)
            vq_disable(vq);
        s->refused = !taken;
    }
    dev_unlock(&s->v.pci.dev);
    return taken;
}

static void link_changed(void *opaque, bool up)
{
    struct vnet *s = opaque;

    dev_lock(&s->v.pci.dev);
    if (s->link_up != up) {
        s->link_up = up;
        virtio_config_changed(&s->v);
    }
    dev_unlock(&s->v.pci.dev);
}

static const struct net_user user = { .receive = receive, .link = link_changed };

static void handle_rx(struct vq *vq)
{
    struct vnet *s = vnet_of(vq->v);

    if (s->refused && s->net) {
        s->refused = false;
        net_ready(s->net);
    }
}

/* ---- guest to host ---- */

/* One after the other; what the host end has taken before it was full is not sent again. */
static void send_segment(void *opaque, const struct iovec *v, int n)
{
    struct vnet *s = opaque;

    if (s->full || s->cut++ < s->cut_sent)
        return;
    s->full = !net_try_send(s->net, v, n);
    s->cut_sent += !s->full;
}

/* What the header asks for and the driver may ask; other requests are frames that get lost.
 * false: the host end is full. */
static bool send_frame(struct vnet *s, const struct net_header *h, struct iovs *out)
{
    size_t n = out->left;
    u32 start = le16_get(h->csum_start), offset = le16_get(h->csum_offset);
    struct iovec v = { s->frame, n };

    if (n < FRAME_MIN || n > FRAME_MAX || !s->net || !s->link_up)
        return true;
    if (!(h->flags & HDR_NEEDS_CSUM) && h->gso_type == GSO_NONE)
        return net_try_send(s->net, out->v + out->cur, (int)(out->n - out->cur));
    if (!virtio_has(&s->v, F_CSUM) || !iovs_get(out, s->frame, n))
        return true;
    unsigned feature = h->gso_type == GSO_TCPV4   ? F_HOST_TSO4
                       : h->gso_type == GSO_TCPV6 ? F_HOST_TSO6
                                                  : 63;
    if (h->gso_type != GSO_NONE && !virtio_has(&s->v, feature))
        return true;
    if (h->gso_type == GSO_NONE || (net_large(s->net) && h->flags & HDR_NEEDS_CSUM))
        return !offload_checksum(s->frame, n, start, offset) || net_try_send(s->net, &v, 1);
    s->full = false;
    s->cut = 0;
    if (!offload_segment(s->frame, n, le16_get(h->gso_size), send_segment, s))
        log_guest("%s: a frame that cannot be cut", s->v.pci.dev.id);
    return !s->full;
}

/* The frame stays in the queue for a moment, in which the host end may get room again. */
static bool wait_for_room(struct vnet *s)
{
    u64 now = vm_now(s->v.pci.dev.vm);

    if (!s->full_since)
        s->full_since = now;
    if (now - s->full_since > FULL_MAX_MS * NS_PER_MS)
        return false;
    timer_set(&s->retry, now + FULL_RETRY_US * NS_PER_US);
    return true;
}

static void retry_due(struct dev *d, struct timer *t UNUSED)
{
    vq_kick(&virtio_of(d)->vq[TX]);
}

static void handle_tx(struct vq *vq)
{
    struct vnet *s = vnet_of(vq->v);
    unsigned budget = vq->r->size;
    struct iovs *out = &s->tx.out;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->tx) == 1) {
            struct net_header h = { 0 };

            if (!iovs_get(out, &h, header_len(s))) {
                vq_break(vq, "a frame without its header");
                return;
            }
            if (send_frame(s, &h, out)) {
                s->full_since = 0;
            } else if (wait_for_room(s)) {
                vq_rewind(vq, 1);
                vq_signal(vq);
                return;
            } /* else it is lost */
            s->cut_sent = 0;
            vq_push(&s->tx, 0);
            if (!--budget) {
                vq_signal(vq);
                vq_kick(vq);
                return;
            }
        }
        vq_signal(vq);
    } while (vq_enable(vq));
}

/* ---- commands (5.1.6.5) ---- */

/* A counted list of addresses; false when it is cut short. */
static bool take_macs(struct vnet *s, struct iovs *out, u8 overflow_bit)
{
    struct vnet_regs *r = &s->r;
    le32 n;

    if (!iovs_get(out, &n, sizeof n) || le32_get(n) > out->left / MAC)
        return false;
    u32 k = le32_get(n);
    if (k > (u32)(MACS_MAX - r->n_macs)) {
        r->overflow |= overflow_bit;
        return iovs_skip(out, (size_t)k * MAC);
    }
    if (!iovs_get(out, r->macs + r->n_macs * MAC, (size_t)k * MAC))
        return false;
    r->n_macs += k;
    return true;
}

static bool command(struct vnet *s, struct iovs *out)
{
    struct vnet_regs *r = &s->r;
    u8 head[2], on;

    if (!iovs_get(out, head, sizeof head))
        return false;
    if (head[0] == CLASS_RX && head[1] <= RX_NOBCAST) {
        if (!iovs_get(out, &on, 1) || on > 1)
            return false;
        r->rx_mode[head[1]] = on;
        return true;
    }
    if (head[0] == CLASS_MAC && head[1] == MAC_ADDR_SET)
        return out->left == MAC && iovs_get(out, r->mac, MAC);
    if (head[0] == CLASS_MAC && head[1] == MAC_TABLE_SET) {
        r->n_macs = r->overflow = 0;
        if (!take_macs(s, out, 1))
            return false;
        r->n_unicast = r->n_macs;
        return take_macs(s, out, 2);
    }
    return false;
}

static void handle_ctrl(struct vq *vq)
{
    struct vnet *s = vnet_of(vq->v);
    unsigned budget = vq->r->size;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->ctrl) == 1) {
            u8 ack = command(s, &s->ctrl.out) ? CTRL_OK : CTRL_ERR;

            if (!iovs_put(&s->ctrl.in, &ack, 1)) {
                vq_break(vq, "a command without room for its answer");
                return;
            }
            vq_push(&s->ctrl, 1);
            vq_signal(vq);
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- configuration and life ---- */

static void config(struct virtio *v, u8 *bytes)
{
    struct vnet *s = vnet_of(v);

    memcpy(bytes, s->r.mac, MAC);
    bytes[6] = s->link_up ? STATUS_LINK_UP : 0;
    bytes[8] = 1; /* queue pairs */
}

static void config_written(struct virtio *v, const u8 *bytes, u32 off, u32 len UNUSED)
{
    struct vnet *s = vnet_of(v);

    /* Legacy drivers set the address here, byte by byte; later ones by a command. */
    if (v->r->legacy && off < MAC)
        memcpy(s->r.mac, bytes, MAC);
}

static void vnet_reset(struct virtio *v)
{
    struct vnet *s = vnet_of(v);

    memset(s->r.rx_mode, 0, sizeof s->r.rx_mode);
    s->r.n_macs = s->r.n_unicast = s->r.overflow = 0;
    memset(s->r.macs, 0, sizeof s->r.macs);
    memcpy(s->r.mac, s->mac, MAC);
    if (s->refused && s->net)
        net_ready(s->net); /* there is nobody to wait for any more: let it be dropped */
    s->refused = false;
    s->full_since = s->cut_sent = 0;
    timer_cancel(&s->retry);
}

static void driver_ok(struct virtio *v)
{
    struct vnet *s = vnet_of(v);

    /* A driver that cannot ask for more must see everything. */
    if (!virtio_has(v, F_CTRL_RX))
        s->r.rx_mode[RX_PROMISC] = 1;
}

static void vnet_loaded(struct virtio *v)
{
    struct vnet *s = vnet_of(v);

    s->r.n_unicast = MIN(s->r.n_unicast, s->r.n_macs);
}

static void vnet_pause(struct virtio *v, bool paused)
{
    struct vnet *s = vnet_of(v);

    if (!s->net)
        return;
    net_pause(s->net, paused);
    dev_lock(&v->pci.dev);
    s->paused = paused;
    if (!paused && s->refused) {
        s->refused = false;
        net_ready(s->net);
    }
    dev_unlock(&v->pci.dev);
}

/* 52:54:00:12:34:56 for the first card of the machine, then counting up. */
static void default_mac(struct vnet *s)
{
    static const u8 none[MAC], first[MAC] = { 0x52, 0x54, 0x00, 0x12, 0x34, 0x56 };
    struct vm *vm = s->v.pci.dev.vm;
    u8 n = 0;

    if (memcmp(s->mac, none, MAC))
        return;
    vm_lock(vm);
    for (u32 i = 0; i < vm->devs->len; i++) {
        const struct dev *d = vm->devs->pdata[i];
        const struct prop *p = dev_prop_find(d->type, "mac");
        n += p && p->kind == PROP_MAC;
    }
    vm_unlock(vm);
    memcpy(s->mac, first, MAC);
    s->mac[5] += n;
}

static void vnet_free(struct vnet *s)
{
    for (unsigned i = 0; i < RX_BUFFERS_MAX; i++)
        vq_req_free(&s->rx[i]);
    vq_req_free(&s->tx);
    vq_req_free(&s->ctrl);
    g_free(s->frame);
    s->frame = NULL;
}

static bool vnet_init(struct virtio *v, GError **error)
{
    struct vnet *s = vnet_of(v);

    if (!virtio_size_ok(v, "rx_queue_size", s->rx_size, error) ||
        !virtio_size_ok(v, "tx_queue_size", s->tx_size, error))
        return false;
    default_mac(s);
    if (s->mac[0] & 1)
        return fail(error, ERR_ARGUMENT, "mac=%02x:...: a multicast address", s->mac[0]);
    v->features |= BIT(F_MAC) | BIT(F_MRG_RXBUF) | BIT(F_STATUS) | BIT(F_CTRL_VQ) |
                   BIT(F_CTRL_RX) | BIT(F_CTRL_RX_EXTRA) | BIT(F_CTRL_MAC_ADDR);
    if (s->csum)
        v->features |= BIT(F_CSUM);
    if (s->csum && s->host_tso4)
        v->features |= BIT(F_HOST_TSO4);
    if (s->csum && s->host_tso6)
        v->features |= BIT(F_HOST_TSO6);
    if (s->guest_csum)
        v->features |= BIT(F_GUEST_CSUM);
    v->config_len = 10;
    s->frame = g_malloc(FRAME_MAX);
    timer_init(&s->retry, &v->pci.dev, retry_due);
    virtio_add_queue(v, s->rx_size, handle_rx);
    virtio_add_queue(v, s->tx_size, handle_tx);
    virtio_add_queue(v, 64, handle_ctrl);
    for (unsigned i = 0; i < RX_BUFFERS_MAX; i++)
        vq_req_init(&s->rx[i], &v->vq[RX]);
    vq_req_init(&s->tx, &v->vq[TX]);
    vq_req_init(&s->ctrl, &v->vq[CTRL]);
    memcpy(s->r.mac, s->mac, MAC);
    s->link_up = s->net != NULL;
    if (s->net && !net_attach(s->net, &user, s))
        return vnet_free(s),
               fail(error, ERR_BUSY, "netdev '%s' has a device already", net_id(s->net));
    return true;
}

static void vnet_fini(struct virtio *v)
{
    struct vnet *s = vnet_of(v);

    if (s->net)
        net_detach(s->net);
    vnet_free(s);
}

static const struct virtio_type vnet = {
    .pci = VIRTIO_PCI(struct vnet, 0x020000),
    .id = 1,
    .legacy_device = 0x1000,
    .regs = offsetof(struct vnet, r.virtio),
    .init = vnet_init,
    .fini = vnet_fini,
    .reset = vnet_reset,
    .config = config,
    .config_written = config_written,
    .driver_ok = driver_ok,
    .loaded = vnet_loaded,
    .pause = vnet_pause,
};

#define NET_PROPS                                                                              \
    PROP(struct vnet, net, PROP_PTR, .name = "netdev", .link = "netdev",                       \
         .help = "the host end of the card"),                                                  \
        PROP(struct vnet, mac, PROP_MAC, .name = "mac", .help = "its address"),                \
        PROP(struct vnet, csum, PROP_BOOL, .name = "csum", .def = "on",                        \
             .help = "the card completes checksums"),                                          \
        PROP(struct vnet, guest_csum, PROP_BOOL, .name = "guest_csum", .def = "on",            \
             .help = "the card tells which checksums are right"),                              \
        PROP(struct vnet, host_tso4, PROP_BOOL, .name = "host_tso4", .def = "on",              \
             .help = "the card cuts long TCP segments"),                                       \
        PROP(struct vnet, host_tso6, PROP_BOOL, .name = "host_tso6", .def = "on",              \
             .help = "the same over IPv6"),                                                    \
        PROP(struct vnet, rx_size, PROP_U32, .name = "rx_queue_size", .def = "256",            \
             .help = "buffers to receive into"),                                               \
        PROP(struct vnet, tx_size, PROP_U32, .name = "tx_queue_size", .def = "256",            \
             .help = "frames to send")

static const struct prop net_pci_props[] = {
    NET_PROPS,
    VIRTIO_PCI_PROPS(struct vnet),
    { 0 },
};
static const struct prop net_mmio_props[] = {
    NET_PROPS,
    { 0 },
};

const struct dev_type virtio_net_pci_type = {
    .name = "virtio-net-pci",
    .desc = "Virtio network card",
    .kind = DEV_PCI,
    .props = net_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vnet, vnet_fields, vnet),
};
const struct dev_type virtio_net_device_type = {
    .name = "virtio-net-device",
    .desc = "Virtio network card (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = net_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vnet, vnet_fields, vnet),
};
