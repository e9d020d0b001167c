// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rng.c - virtio entropy device over the host's getrandom().  VIRTIO 1.2, 5.4.
 *
 * The properties max-bytes and period (milliseconds) bound how much the guest may take; without
 * them it gets 64 KiB a request and as many requests as it makes.
 */
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum { REQUEST_MAX = 65536 };

struct vrng {
    struct virtio v;
    struct vrng_regs {
        struct virtio_regs virtio;
        u64 quota;      /* bytes left in this period */
        u64 period_end; /* vm_now() */
    } r;
    struct timer timer; /* wakes a queue that ran out of quota */
    struct vq_req q;
    /* properties */
    u64 max_bytes;
    u32 period_ms;
};

static const struct state_field vrng_fields[] = {
    STATE_STRUCT(struct vrng_regs, virtio, virtio_fields),
    STATE_INT(struct vrng_regs, quota),
    STATE_INT(struct vrng_regs, period_end),
};

static struct vrng *vrng_of(struct virtio *v)
{
    return container_of(v, struct vrng, v);
}

/* How many of n bytes may go out now; with none left the timer is set. */
static size_t allowed(struct vrng *s, size_t n)
{
    struct vrng_regs *r = &s->r;
    u64 now = vm_now(s->v.pci.dev.vm);

    if (s->max_bytes == UINT64_MAX)
        return n;
    if (now >= r->period_end) {
        r->quota = s->max_bytes;
        r->period_end = now + s->period_ms * NS_PER_MS;
    }
    if (!r->quota)
        timer_set(&s->timer, r->period_end);
    n = MIN(n, r->quota);
    return n;
}

static void handle(struct vq *vq)
{
    struct vrng *s = vrng_of(vq->v);
    unsigned budget = 64;
    u8 bytes[4096];

    do {
        vq_disable(vq);
        while (!vq_empty(vq)) {
            size_t room = allowed(s, REQUEST_MAX), done = 0;

            if (!room || !budget--) {
                if (room)
                    vq_kick(vq);
                return;
            }
            if (vq_pop(vq, &s->q) != 1)
                return;
            room = MIN(room, s->q.in.left);
            while (done < room) {
                ssize_t n = getrandom(bytes, MIN(sizeof bytes, room - done), 0);
                if (n <= 0 || !iovs_put(&s->q.in, bytes, (size_t)n))
                    break;
                done += (size_t)n;
            }
            if (s->max_bytes != UINT64_MAX)
                s->r.quota -= done;
            vq_push(&s->q, (u32)done);
            vq_signal(vq);
        }
    } while (vq_enable(vq));
    explicit_bzero(bytes, sizeof bytes);
}

static void quota_back(struct dev *d, struct timer *t UNUSED)
{
    vq_kick(&virtio_of(d)->vq[0]);
}

static void config(struct virtio *v UNUSED, u8 *bytes UNUSED)
{
}

static void vrng_reset(struct virtio *v)
{
    struct vrng *s = vrng_of(v);

    timer_cancel(&s->timer);
    s->r.quota = 0;
    s->r.period_end = 0;
}

static void vrng_loaded(struct virtio *v)
{
    struct vrng *s = vrng_of(v);

    s->r.quota = MIN(s->r.quota, s->max_bytes);
    s->r.period_end = MIN(s->r.period_end, vm_now(v->pci.dev.vm) + s->period_ms * NS_PER_MS);
    timer_set(&s->timer, s->r.period_end);
}

static bool vrng_init(struct virtio *v, GError **error)
{
    struct vrng *s = vrng_of(v);

    if (!s->period_ms)
        return fail(error, ERR_ARGUMENT, "period=0: expected milliseconds");
    if (!s->max_bytes)
        return fail(error, ERR_ARGUMENT, "max-bytes=0: the guest would wait for ever");
    timer_init(&s->timer, &v->pci.dev, quota_back);
    virtio_add_queue(v, 8, handle);
    vq_req_init(&s->q, &v->vq[0]);
    return true;
}

static void vrng_fini(struct virtio *v)
{
    vq_req_free(&vrng_of(v)->q);
}

static const struct virtio_type vrng = {
    .pci = VIRTIO_PCI(struct vrng, 0x00ff00),
    .id = 4,
    .legacy_device = 0x1005,
    .regs = offsetof(struct vrng, r.virtio),
    .init = vrng_init,
    .fini = vrng_fini,
    .reset = vrng_reset,
    .config = config,
    .loaded = vrng_loaded,
};

#define RNG_PROPS                                                                              \
    PROP(struct vrng, max_bytes, PROP_U64, .name = "max-bytes", .def = "18446744073709551615", \
         .help = "the guest may take in a period"),                                            \
        PROP(struct vrng, period_ms, PROP_U32, .name = "period", .def = "65536",               \
             .help = "milliseconds")

static const struct prop rng_pci_props[] = {
    RNG_PROPS,
    VIRTIO_PCI_PROPS(struct vrng),
    { 0 },
};
static const struct prop rng_mmio_props[] = {
    RNG_PROPS,
    { 0 },
};

const struct dev_type virtio_rng_pci_type = {
    .name = "virtio-rng-pci",
    .desc = "Virtio entropy source",
    .kind = DEV_PCI,
    .props = rng_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vrng, vrng_fields, vrng),
};
const struct dev_type virtio_rng_device_type = {
    .name = "virtio-rng-device",
    .desc = "Virtio entropy source (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = rng_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vrng, vrng_fields, vrng),
};
