// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * console.c - virtio console device ("virtio-serial") and its ports.  VIRTIO 1.2, 5.3.
 *
 * Queues 0 and 1 are port 0's (to the guest, from the guest), 2 and 3 carry control messages,
 * 4 and 5 are port 1's and so on.  A port (virtconsole, virtserialport) is a device of its own
 * that joins the last virtio-serial device made before it; everything happens under that one's
 * lock.  Bytes from the host are taken as the guest offers room; bytes to a host end that is
 * full stay in the queue until it has room.
 *
 * Control messages that the guest has no buffer for wait in a bounded list, then are dropped.
 * Not modelled: resizing of a console's screen.
 */
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/backend/chardev.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum { F_MULTIPORT = 1, F_EMERG_WRITE = 2 };
enum { PORTS_MAX = 31, MESSAGES_MAX = 128, QSIZE = 128, CTRL_RX = 2, CTRL_TX = 3 };
enum {
    DEVICE_READY,
    PORT_ADD,
    PORT_REMOVE,
    PORT_READY,
    CONSOLE_PORT,
    RESIZE,
    PORT_OPEN,
    PORT_NAME,
};
enum { CFG_MAX_PORTS = 4, CFG_EMERG = 8, CFG_LEN = 12 };

struct control {
    le32 port;
    le16 event, value;
};

struct vport;
struct message {
    u32 port;
    u16 event, value;
};
static const struct state_field message_fields[] = {
    STATE_UINT(struct message, port, PORTS_MAX),
    STATE_UINT(struct message, event, PORT_NAME),
    STATE_UINT(struct message, value, 1),
};

struct vserial {
    struct virtio v;
    struct vserial_regs {
        struct virtio_regs virtio;
        u8 guest_ready;
        u8 guest_open[PORTS_MAX];
        u8 told_open[PORTS_MAX]; /* what the guest was told of the host's end */
        u8 n_messages;
        u32 sent[PORTS_MAX]; /* bytes of the first request that the host end has */
        u32 zero;
        struct message messages[MESSAGES_MAX];
    } r;
    struct vport *port[PORTS_MAX];
    struct vq_req rx, tx;
    bool paused;
    u32 max_ports; /* property */
};

struct vport {
    struct dev dev;
    struct vserial *s; /* NULL: not joined */
    u32 index;
    bool console, host_open;
    /* properties */
    struct chardev *chardev;
    char *name;
    u32 nr; /* UINT32_MAX: the first free one */
};

static const struct state_field vserial_fields[] = {
    STATE_STRUCT(struct vserial_regs, virtio, virtio_fields),
    STATE_BOOL(struct vserial_regs, guest_ready),
    STATE_UINTS(struct vserial_regs, guest_open, 1),
    STATE_UINTS(struct vserial_regs, told_open, 1),
    STATE_UINT(struct vserial_regs, n_messages, MESSAGES_MAX),
    STATE_UINTS(struct vserial_regs, sent, UINT32_MAX),
    STATE_PAD(struct vserial_regs, zero),
    STATE_STRUCTS(struct vserial_regs, messages, message_fields),
};

static const struct virtio_type vserial;

static struct vserial *vserial_of(struct virtio *v)
{
    return container_of(v, struct vserial, v);
}

/* Queue to the guest of a port; the one from the guest follows it. */
static struct vq *port_rx(struct vserial *s, u32 port)
{
    return &s->v.vq[port ? 2 * port + 2 : 0];
}

static struct vport *port_of(struct vq *vq)
{
    struct vserial *s = vserial_of(vq->v);

    return s->port[vq->index < 2 ? 0 : vq->index / 2 - 1];
}

/* ---- control messages ---- */

/* The first message into the request's buffer; its length, 0: it does not fit. */
static u32 message_put(struct vserial *s, const struct message *m, struct iovs *in)
{
    struct control c = { le32_of(m->port), le16_of(m->event), le16_of(m->value) };
    const struct vport *p = m->port < PORTS_MAX ? s->port[m->port] : NULL;
    u32 n = sizeof c;

    if (!iovs_put(in, &c, sizeof c))
        return 0;
    if (m->event == PORT_NAME && p && p->name && iovs_put(in, p->name, strlen(p->name) + 1))
        n += strlen(p->name) + 1;
    return n;
}

static void messages_flush(struct vserial *s)
{
    struct vserial_regs *r = &s->r;
    struct vq *vq = &s->v.vq[CTRL_RX];
    bool told = false;

    while (r->n_messages) {
        if (vq_pop(vq, &s->rx) != 1) {
            if (vq_enable(vq)) /* ring when there are buffers again */
                continue;
            break;
        }
        u32 n = message_put(s, &r->messages[0], &s->rx.in);
        if (!n) {
            vq_break(vq, "a buffer too small for a control message");
            return;
        }
        vq_push(&s->rx, n);
        told = true;
        r->n_messages--;
        memmove(r->messages, r->messages + 1, r->n_messages * sizeof r->messages[0]);
        memset(r->messages + r->n_messages, 0, sizeof r->messages[0]);
    }
    if (told)
        vq_signal(vq);
}

static void tell(struct vserial *s, u32 port, u16 event, u16 value)
{
    struct vserial_regs *r = &s->r;

    if (!virtio_has(&s->v, F_MULTIPORT) || !r->guest_ready)
        return;
    if (r->n_messages == MESSAGES_MAX) {
        log_guest("%s: the guest reads no control messages", s->v.pci.dev.id);
        return;
    }
    r->messages[r->n_messages++] = (struct message){ port, event, value };
    messages_flush(s);
}

static void tell_open(struct vport *p)
{
    struct vserial *s = p->s;

    if (s->r.told_open[p->index] == p->host_open || !s->r.guest_ready)
        return;
    s->r.told_open[p->index] = p->host_open;
    tell(s, p->index, PORT_OPEN, p->host_open);
}

static void message_take(struct vserial *s, u32 port, u16 event, u16 value)
{
    struct vport *p = port < PORTS_MAX ? s->port[port] : NULL;

    if (event == DEVICE_READY) {
        if (!value)
            return;
        s->r.guest_ready = true;
        for (u32 i = 0; i < PORTS_MAX; i++)
            if (s->port[i])
                tell(s, i, PORT_ADD, 1);
        return;
    }
    if (!p)
        return;
    switch (event) {
    case PORT_READY:
        if (!value)
            return;
        if (p->console)
            tell(s, port, CONSOLE_PORT, 1);
        if (p->name)
            tell(s, port, PORT_NAME, 1);
        s->r.told_open[port] = false;
        tell_open(p);
        break;
    case PORT_OPEN:
        s->r.guest_open[port] = value != 0;
        if (value && p->chardev)
            chardev_accept(p->chardev);
        break;
    }
}

static void handle_ctrl_rx(struct vq *vq)
{
    messages_flush(vserial_of(vq->v));
}

static void handle_ctrl_tx(struct vq *vq)
{
    struct vserial *s = vserial_of(vq->v);
    unsigned budget = vq->r->size;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->tx) == 1) {
            struct control c;
            bool ok = iovs_get(&s->tx.out, &c, sizeof c);

            vq_push(&s->tx, 0);
            vq_signal(vq);
            if (ok)
                message_take(s, le32_get(c.port), le16_get(c.event), le16_get(c.value));
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- guest to host ---- */

/* Gives the request's bytes to the host end; false when it is full. */
static bool give(struct vport *p, struct iovs *v, u32 *sent)
{
    if (!iovs_skip(v, MIN(*sent, v->left)))
        return true;
    while (v->left) {
        const struct iovec *piece = &v->v[v->cur];
        size_t len = piece->iov_len;
        size_t n = p->chardev ? chardev_write(p->chardev, piece->iov_base, len) : len;

        *sent += (u32)MIN(n, len);
        if (n < len)
            return false;
        if (!iovs_skip(v, len))
            return true;
    }
    return true;
}

static void handle_tx(struct vq *vq)
{
    struct vserial *s = vserial_of(vq->v);
    struct vport *p = port_of(vq);
    unsigned budget = vq->r->size;
    u32 none = 0, *sent = p ? &s->r.sent[p->index] : &none;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->tx) == 1) {
            if (p && !give(p, &s->tx.out, sent)) {
                vq_rewind(vq, 1); /* CHARDEV_WRITABLE rings again */
                return;
            }
            *sent = 0;
            vq_push(&s->tx, 0);
            vq_signal(vq);
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- host to guest ---- */

/* The guest has put out buffers. */
static void handle_rx(struct vq *vq)
{
    struct vport *p = port_of(vq);

    if (p && p->chardev)
        chardev_accept(p->chardev);
}

static bool listening(const struct vport *p)
{
    const struct vserial *s = p->s;

    return !s->paused &&
           (!virtio_has(&s->v, F_MULTIPORT) ? p->index == 0 : s->r.guest_open[p->index]);
}

/* Main loop, as all of the chardev's calls. */
static size_t port_can_read(void *opaque)
{
    struct vport *p = opaque;
    struct vserial *s = p->s;
    struct dev *d = &s->v.pci.dev;
    size_t room = 0;

    dev_lock(d);
    struct vq *vq = port_rx(s, p->index);
    for (unsigned again = 2; listening(p) && again--;) {
        if (vq_pop(vq, &s->rx) == 1) {
            room = s->rx.in.left;
            vq_rewind(vq, 1);
            vq_disable(vq);
            break;
        }
        if (!vq_enable(vq))
            break;
    }
    dev_unlock(d);
    return room;
}

static void port_read(void *opaque, const u8 *bytes, size_t n)
{
    struct vport *p = opaque;
    struct vserial *s = p->s;
    struct dev *d = &s->v.pci.dev;

    dev_lock(d);
    struct vq *vq = port_rx(s, p->index);
    while (n && listening(p) && vq_pop(vq, &s->rx) == 1) {
        size_t len = MIN(n, s->rx.in.left);

        if (!len || !iovs_put(&s->rx.in, bytes, len)) {
            vq_break(vq, "an empty buffer to receive into");
            break;
        }
        vq_push(&s->rx, (u32)len);
        bytes += len;
        n -= len;
    }
    vq_signal(vq);
    dev_unlock(d);
}

static void port_event(void *opaque, enum chardev_event ev)
{
    struct vport *p = opaque;
    struct dev *d = &p->s->v.pci.dev;

    dev_lock(d);
    if (ev == CHARDEV_OPENED || ev == CHARDEV_CLOSED) {
        p->host_open = ev == CHARDEV_OPENED;
        tell_open(p);
    } else if (ev == CHARDEV_WRITABLE) {
        vq_kick(port_rx(p->s, p->index) + 1);
    }
    dev_unlock(d);
}

static const struct chardev_user user = { .can_read = port_can_read,
                                          .read = port_read,
                                          .event = port_event };

/* ---- the device ---- */

static void config(struct virtio *v, u8 *bytes)
{
    bytes[CFG_MAX_PORTS] = (u8)vserial_of(v)->max_ports;
}

/* Emergency write: a byte for the first console, without any queue. */
static void config_written(struct virtio *v, const u8 *bytes, u32 off, u32 len)
{
    struct vserial *s = vserial_of(v);

    if (off <= CFG_EMERG && CFG_EMERG < off + len && s->port[0] && s->port[0]->console &&
        s->port[0]->chardev)
        chardev_write(s->port[0]->chardev, bytes + CFG_EMERG, 1);
}

static void vserial_reset(struct virtio *v)
{
    struct vserial *s = vserial_of(v);
    size_t at = offsetof(struct vserial_regs, guest_ready);

    memset((u8 *)&s->r + at, 0, sizeof s->r - at);
}

static void vserial_loaded(struct virtio *v)
{
    struct vserial *s = vserial_of(v);

    for (u32 i = 0; i < PORTS_MAX; i++)
        if (s->port[i])
            tell_open(s->port[i]);
}

static void vserial_pause(struct virtio *v, bool paused)
{
    struct vserial *s = vserial_of(v);

    dev_lock(&v->pci.dev);
    s->paused = paused;
    for (u32 i = 0; i < PORTS_MAX && !paused; i++)
        if (s->port[i] && s->port[i]->chardev)
            chardev_accept(s->port[i]->chardev);
    dev_unlock(&v->pci.dev);
}

static bool vserial_init(struct virtio *v, GError **error)
{
    struct vserial *s = vserial_of(v);

    if (s->max_ports < 1 || s->max_ports > PORTS_MAX)
        return fail(error, ERR_ARGUMENT, "max_ports=%u: expected 1 to %u", s->max_ports,
                    PORTS_MAX);
    v->features |= BIT(F_MULTIPORT) | BIT(F_EMERG_WRITE);
    v->config_len = CFG_LEN;
    /* Fewer than queues on purpose: two interrupts for all of them are plenty. */
    v->own_vectors = s->max_ports + 1;
    virtio_add_queue(v, QSIZE, handle_rx);
    virtio_add_queue(v, QSIZE, handle_tx);
    virtio_add_queue(v, 32, handle_ctrl_rx);
    virtio_add_queue(v, 32, handle_ctrl_tx);
    for (u32 i = 1; i < s->max_ports; i++) {
        virtio_add_queue(v, QSIZE, handle_rx);
        virtio_add_queue(v, QSIZE, handle_tx);
    }
    vq_req_init(&s->rx, &v->vq[0]);
    vq_req_init(&s->tx, &v->vq[0]);
    return true;
}

static void vserial_fini(struct virtio *v)
{
    struct vserial *s = vserial_of(v);

    for (u32 i = 0; i < PORTS_MAX; i++) {
        if (!s->port[i])
            continue;
        if (s->port[i]->chardev)
            chardev_detach(s->port[i]->chardev, s->port[i]);
        s->port[i]->s = NULL;
    }
    vq_req_free(&s->rx);
    vq_req_free(&s->tx);
}

static const struct virtio_type vserial = {
    .pci = VIRTIO_PCI(struct vserial, 0x078000),
    .id = 3,
    .legacy_device = 0x1003,
    .regs = offsetof(struct vserial, r.virtio),
    .init = vserial_init,
    .fini = vserial_fini,
    .reset = vserial_reset,
    .config = config,
    .config_written = config_written,
    .loaded = vserial_loaded,
    .pause = vserial_pause,
};

#define SERIAL_PROPS                                                                           \
    PROP(struct vserial, max_ports, PROP_U32, .name = "max_ports", .def = "31",                \
         .help = "how many ports there can be")

static const struct prop serial_pci_props[] = {
    SERIAL_PROPS,
    VIRTIO_PCI_PROPS(struct vserial),
    { 0 },
};
static const struct prop serial_mmio_props[] = {
    SERIAL_PROPS,
    { 0 },
};

const struct dev_type virtio_serial_pci_type = {
    .name = "virtio-serial-pci",
    .desc = "Virtio console",
    .kind = DEV_PCI,
    .props = serial_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vserial, vserial_fields, vserial),
};
const struct dev_type virtio_serial_device_type = {
    .name = "virtio-serial-device",
    .desc = "Virtio console (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = serial_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vserial, vserial_fields, vserial),
};

/* ---- ports ---- */

static struct vserial *last_vserial(struct vm *vm)
{
    struct vserial *s = NULL;

    vm_lock(vm);
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];
        if (d->type == &virtio_serial_pci_type || d->type == &virtio_serial_device_type)
            s = vserial_of(virtio_of(d));
    }
    vm_unlock(vm);
    return s;
}

static bool port_init(struct dev *d, GError **error)
{
    struct vport *p = container_of(d, struct vport, dev);
    struct vserial *s = last_vserial(d->vm);

    p->console = d->type == &virtconsole_type;
    if (!s)
        return fail(error, ERR_ARGUMENT,
                    "%s: there is no virtio-serial-pci before it to be a port of",
                    d->type->name);
    u32 nr = p->nr;
    /* Port 0 is what drivers without several ports know: it stays for a console. */
    for (u32 i = p->console ? 0 : 1; nr == UINT32_MAX && i < s->max_ports; i++)
        if (!s->port[i])
            nr = i;
    if (nr >= s->max_ports)
        return fail(error, ERR_LIMIT, "%s: %s has %u ports, and no room for another one",
                    d->type->name, s->v.pci.dev.id, s->max_ports);
    if (s->port[nr])
        return fail(error, ERR_BUSY, "%s: nr=%u: that port is taken by %s", d->type->name, nr,
                    s->port[nr]->dev.id);
    if (p->name && strlen(p->name) > 255)
        return fail(error, ERR_ARGUMENT, "%s: a name of more than 255 characters",
                    d->type->name);
    if (p->chardev && !chardev_free_for_use(p->chardev))
        return fail(error, ERR_BUSY, "%s: chardev '%s' is in use", d->type->name,
                    chardev_id(p->chardev));
    dev_lock(&s->v.pci.dev);
    p->s = s;
    p->index = nr;
    s->port[nr] = p;
    tell(s, nr, PORT_ADD, 1);
    dev_unlock(&s->v.pci.dev);
    if (p->chardev)
        chardev_attach(p->chardev, &user, p);
    return true;
}

static void port_fini(struct dev *d)
{
    struct vport *p = container_of(d, struct vport, dev);
    struct vserial *s = p->s;

    if (!s)
        return;
    if (p->chardev)
        chardev_detach(p->chardev, p);
    dev_lock(&s->v.pci.dev);
    s->port[p->index] = NULL;
    s->r.guest_open[p->index] = s->r.told_open[p->index] = 0;
    tell(s, p->index, PORT_REMOVE, 1);
    dev_unlock(&s->v.pci.dev);
}

static const struct prop port_props[] = {
    PROP(struct vport, chardev, PROP_PTR, .name = "chardev", .link = "chardev",
         .help = "the host end"),
    PROP(struct vport, name, PROP_STR, .name = "name",
         .help = "what the guest finds it by: /dev/virtio-ports/NAME"),
    PROP(struct vport, nr, PROP_U32, .name = "nr", .def = "4294967295",
         .help = "number of the port"),
    { 0 },
};

const struct dev_type virtconsole_type = {
    .name = "virtconsole",
    .desc = "Console port of a virtio-serial device",
    .kind = DEV_VIRTIO_PORT,
    .size = sizeof(struct vport),
    .props = port_props,
    .init = port_init,
    .fini = port_fini,
};
const struct dev_type virtserialport_type = {
    .name = "virtserialport",
    .desc = "Data port of a virtio-serial device",
    .kind = DEV_VIRTIO_PORT,
    .size = sizeof(struct vport),
    .props = port_props,
    .init = port_init,
    .fini = port_fini,
};
