// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * balloon.c - traditional virtio memory balloon.  VIRTIO 1.2, 5.5.
 *
 * Queues: 0 inflate, 1 deflate, then those of the features that the driver accepts, in this
 * order: statistics, free page reporting.  Pages that the guest gives away or reports free are
 * punched out of the memory's file; it gets zeroes when it touches them again.
 *
 * Not modelled: free page hinting (for migration), page poisoning.
 */
#include "vmm/dev/virtio/balloon.h"

#include <string.h>

#include "base/error.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/virtio.h"

enum { F_MUST_TELL_HOST = 0, F_STATS = 1, F_DEFLATE_ON_OOM = 2, F_REPORTING = 5 };
enum { INFLATE, DEFLATE, QSIZE = 128, PAGE_SHIFT = 12, PAGES_AT_ONCE = 256 };

struct vballoon {
    struct virtio v;
    struct vballoon_regs {
        struct virtio_regs virtio;
        u32 num_pages; /* that the balloon should hold */
        u32 actual;    /* that it does hold, as the driver says */
        u64 stats[BALLOON_STATS];
        u64 stats_at;
        u32 poll_seconds;
        u32 zero;
    } r;
    struct timer poll;
    struct vq_req q, stats; /* stats: the buffer that the driver waits to get back */
    bool have_stats;
    bool deflate_on_oom, reporting; /* properties */
};

static const struct state_field vballoon_fields[] = {
    STATE_STRUCT(struct vballoon_regs, virtio, virtio_fields),
    STATE_INT(struct vballoon_regs, num_pages),
    STATE_INT(struct vballoon_regs, actual),
    STATE_UINTS(struct vballoon_regs, stats, UINT64_MAX),
    STATE_INT(struct vballoon_regs, stats_at),
    STATE_UINT(struct vballoon_regs, poll_seconds, 86400),
    STATE_PAD(struct vballoon_regs, zero),
};

static const struct virtio_type vballoon;

static struct vballoon *vballoon_of(struct virtio *v)
{
    return container_of(v, struct vballoon, v);
}

/* ---- pages ---- */

static void give_back(struct vballoon *s, struct iovs *out)
{
    struct ram *ram = virtio_ram(&s->v);
    le32 pfn[PAGES_AT_ONCE];
    u64 from = 0, to = 0; /* a run of pages, in page numbers */

    while (out->left >= sizeof pfn[0]) {
        size_t n = MIN(out->left / sizeof pfn[0], ARRAY_LEN(pfn));

        if (!iovs_get(out, pfn, n * sizeof pfn[0]))
            return;
        for (size_t i = 0; i < n; i++) {
            u64 page = le32_get(pfn[i]);
            if (page != to) {
                if (to > from)
                    ram_discard(ram, from << PAGE_SHIFT, (to - from) << PAGE_SHIFT);
                from = page;
            }
            to = page + 1;
        }
    }
    if (to > from)
        ram_discard(ram, from << PAGE_SHIFT, (to - from) << PAGE_SHIFT);
}

static void handle_pages(struct vq *vq)
{
    struct vballoon *s = vballoon_of(vq->v);
    unsigned budget = 16;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->q) == 1) {
            if (vq->index == INFLATE)
                give_back(s, &s->q.out);
            vq_push(&s->q, 0);
            vq_signal(vq);
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

static void handle_report(struct vq *vq)
{
    struct vballoon *s = vballoon_of(vq->v);
    unsigned budget = 16;

    do {
        vq_disable(vq);
        while (vq_pop(vq, &s->q) == 1) {
            iovs_discard(&s->q.in);
            vq_push(&s->q, 0);
            vq_signal(vq);
            if (!--budget) {
                vq_kick(vq);
                return;
            }
        }
    } while (vq_enable(vq));
}

/* ---- statistics ---- */

static void handle_stats(struct vq *vq)
{
    struct vballoon *s = vballoon_of(vq->v);
    struct {
        le16 tag;
        le64 val;
    } __attribute__((packed)) e;

    /* The driver gives one buffer and waits; a second one takes its place. */
    for (unsigned budget = 4; budget && vq_enable(vq); budget--) {
        if (s->have_stats) {
            vq_push(&s->stats, 0);
            vq_signal(vq);
            s->have_stats = false;
        }
        if (vq_pop(vq, &s->stats) != 1)
            return;
        s->have_stats = true;
        memset(s->r.stats, 0xff, sizeof s->r.stats);
        for (unsigned i = 0; i < 64 && iovs_get(&s->stats.out, &e, sizeof e); i++)
            if (le16_get(e.tag) < BALLOON_STATS)
                s->r.stats[le16_get(e.tag)] = le64_get(e.val);
        s->r.stats_at = vm_wall_ns(vq->v->pci.dev.vm) / NS_PER_SEC;
    }
}

static void poll_set(struct vballoon *s)
{
    if (s->r.poll_seconds)
        timer_set(&s->poll, vm_now(s->v.pci.dev.vm) + s->r.poll_seconds * NS_PER_SEC);
    else
        timer_cancel(&s->poll);
}

/* Handing the buffer back asks for new numbers. */
static void poll_due(struct dev *d, struct timer *t UNUSED)
{
    struct vballoon *s = vballoon_of(virtio_of(d));

    if (s->have_stats) {
        s->have_stats = false;
        vq_push(&s->stats, 0);
        vq_signal(s->stats.vq);
    }
    poll_set(s);
}

/* Queue 2 is what the driver has accepted first. */
static void handle_third(struct vq *vq)
{
    if (virtio_has(vq->v, F_STATS))
        handle_stats(vq);
    else
        handle_report(vq);
}

/* ---- for the monitor ---- */

struct dev *balloon_find(struct vm *vm)
{
    struct dev *found = NULL;

    vm_lock(vm);
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];
        if (d->type == &virtio_balloon_pci_type || d->type == &virtio_balloon_device_type)
            found = d;
    }
    vm_unlock(vm);
    return found;
}

void balloon_set(struct dev *d, u64 bytes)
{
    struct vballoon *s = vballoon_of(virtio_of(d));
    u64 size = ram_size(d->vm->ram);

    dev_lock(d);
    u64 pages = (size - MIN(bytes, size)) >> PAGE_SHIFT;
    s->r.num_pages = (u32)MIN(pages, UINT32_MAX);
    virtio_config_changed(&s->v);
    dev_unlock(d);
}

u64 balloon_actual(struct dev *d)
{
    struct vballoon *s = vballoon_of(virtio_of(d));
    u64 size = ram_size(d->vm->ram);

    dev_lock(d);
    u64 held = (u64)s->r.actual << PAGE_SHIFT;
    dev_unlock(d);
    return size - MIN(held, size);
}

u64 balloon_stats(struct dev *d, u64 ret[BALLOON_STATS])
{
    struct vballoon *s = vballoon_of(virtio_of(d));

    dev_lock(d);
    memcpy(ret, s->r.stats, sizeof s->r.stats);
    u64 at = s->r.stats_at;
    dev_unlock(d);
    return at;
}

void balloon_poll(struct dev *d, u32 seconds)
{
    struct vballoon *s = vballoon_of(virtio_of(d));

    dev_lock(d);
    s->r.poll_seconds = MIN(seconds, 86400u);
    poll_set(s);
    dev_unlock(d);
}

/* ---- configuration and life ---- */

static void config(struct virtio *v, u8 *bytes)
{
    struct vballoon *s = vballoon_of(v);
    le32 c[2] = { le32_of(s->r.num_pages), le32_of(s->r.actual) };

    memcpy(bytes, c, sizeof c);
}

static void config_written(struct virtio *v, const u8 *bytes, u32 off UNUSED, u32 len UNUSED)
{
    struct vballoon *s = vballoon_of(v);
    le32 c[2];

    memcpy(c, bytes, sizeof c);
    s->r.actual = le32_get(c[1]); /* the other one is read-only */
}

static void vballoon_reset(struct virtio *v)
{
    struct vballoon *s = vballoon_of(v);

    s->have_stats = false;
    s->r.actual = 0;
    s->r.stats_at = 0;
    memset(s->r.stats, 0xff, sizeof s->r.stats);
}

static void vballoon_loaded(struct virtio *v)
{
    struct vballoon *s = vballoon_of(v);

    s->have_stats = false;
    poll_set(s);
}

/* The buffer that waits goes back to the queue, so that saved indices tell all. */
static void vballoon_pause(struct virtio *v, bool paused)
{
    struct vballoon *s = vballoon_of(v);

    dev_lock(&v->pci.dev);
    if (paused && s->have_stats) {
        s->have_stats = false;
        vq_rewind(s->stats.vq, 1);
    }
    dev_unlock(&v->pci.dev);
}

static bool vballoon_init(struct virtio *v, GError **error UNUSED)
{
    struct vballoon *s = vballoon_of(v);

    v->features |= BIT(F_STATS);
    if (s->deflate_on_oom)
        v->features |= BIT(F_DEFLATE_ON_OOM);
    if (s->reporting)
        v->features |= BIT(F_REPORTING);
    v->config_len = 8;
    virtio_add_queue(v, QSIZE, handle_pages);
    virtio_add_queue(v, QSIZE, handle_pages);
    virtio_add_queue(v, QSIZE, handle_third);
    if (s->reporting)
        virtio_add_queue(v, 32, handle_report);
    vq_req_init(&s->q, &v->vq[0]);
    vq_req_init(&s->stats, &v->vq[2]);
    timer_init(&s->poll, &v->pci.dev, poll_due);
    return true;
}

static void vballoon_fini(struct virtio *v)
{
    struct vballoon *s = vballoon_of(v);

    vq_req_free(&s->q);
    vq_req_free(&s->stats);
}

static const struct virtio_type vballoon = {
    .pci = VIRTIO_PCI(struct vballoon, 0x00ff00),
    .id = 5,
    .legacy_device = 0x1002,
    .regs = offsetof(struct vballoon, r.virtio),
    .init = vballoon_init,
    .fini = vballoon_fini,
    .reset = vballoon_reset,
    .config = config,
    .config_written = config_written,
    .loaded = vballoon_loaded,
    .pause = vballoon_pause,
};

#define BALLOON_PROPS                                                                          \
    PROP(struct vballoon, deflate_on_oom, PROP_BOOL, .name = "deflate-on-oom",                 \
         .help = "the guest may take pages back when it has none left"),                       \
        PROP(struct vballoon, reporting, PROP_BOOL, .name = "free-page-reporting",             \
             .help = "the guest tells which pages it does not use")

static const struct prop balloon_pci_props[] = {
    BALLOON_PROPS,
    VIRTIO_PCI_PROPS(struct vballoon),
    { 0 },
};
static const struct prop balloon_mmio_props[] = {
    BALLOON_PROPS,
    { 0 },
};

const struct dev_type virtio_balloon_pci_type = {
    .name = "virtio-balloon-pci",
    .desc = "Virtio memory balloon",
    .kind = DEV_PCI,
    .props = balloon_pci_props,
    .init = virtio_pci_init,
    VIRTIO_DEV(struct vballoon, vballoon_fields, vballoon),
};
const struct dev_type virtio_balloon_device_type = {
    .name = "virtio-balloon-device",
    .desc = "Virtio memory balloon (MMIO)",
    .mem = { &virtio_mmio_region },
    .irqs = 1,
    .props = balloon_mmio_props,
    .init = virtio_mmio_init,
    VIRTIO_DEV(struct vballoon, vballoon_fields, vballoon),
};
