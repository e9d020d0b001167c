// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nvme.c - an NVM Express controller with one namespace over a disk image.
 * NVM Express 1.3d: 3 (registers), 4 (queues, PRPs), 5 (admin commands), 6 (NVM commands).
 *
 * A submission queue is read when its doorbell rings, as far as there are requests to be had
 * (as many as it has entries); data go straight between image and guest RAM.  A full completion
 * queue keeps what is done until its head moves.
 *
 * Completions come on the image's threads: they take the device's lock if it is free, else they
 * leave the request on a list for the I/O thread.  So a reset can wait for the image with the
 * lock held.  Disabling the controller does not wait: CSTS.RDY falls when the last request has
 * come.
 *
 * Not modelled: SGLs, metadata, firmware, formats, namespaces beyond 1, a controller memory
 * buffer, asynchronous events but for a namespace that has another size, ABORT (answers that
 * it did not).
 */
#include "vmm/dev/nvme/nvme_impl.h"

#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/drive.h"
#include "vmm/dev/virtio/iothread.h"

enum {
    REG_CAP = 0x00,
    REG_VS = 0x08,
    REG_INTMS = 0x0c,
    REG_INTMC = 0x10,
    REG_CC = 0x14,
    REG_CSTS = 0x1c,
    REG_AQA = 0x24,
    REG_ASQ = 0x28,
    REG_ACQ = 0x30,
    DOORBELLS = 0x1000,
    BAR_LEN = 0x4000,
};

static const struct state_field sq_fields[] = {
    STATE_INT(struct sq_regs, base),
    STATE_UINT(struct sq_regs, size, ENTRIES_MAX),
    STATE_UINT(struct sq_regs, head, ENTRIES_MAX - 1),
    STATE_UINT(struct sq_regs, tail, ENTRIES_MAX - 1),
    STATE_UINT(struct sq_regs, cq, QUEUES - 1),
};
static const struct state_field cq_fields[] = {
    STATE_INT(struct cq_regs, base),
    STATE_UINT(struct cq_regs, size, ENTRIES_MAX),
    STATE_UINT(struct cq_regs, head, ENTRIES_MAX - 1),
    STATE_UINT(struct cq_regs, tail, ENTRIES_MAX - 1),
    STATE_UINT(struct cq_regs, vector, QUEUES - 1),
    STATE_UINT(struct cq_regs, phase, 1),
    STATE_UINT(struct cq_regs, interrupts, 1),
    STATE_PAD(struct cq_regs, zero),
};
static const struct state_field nvme_fields[] = {
    STATE_STRUCT(struct nvme_regs, pci, pci_fields),
    STATE_STRUCT(struct nvme_regs, msix, pci_msix_fields),
    STATE_INT(struct nvme_regs, asq),
    STATE_INT(struct nvme_regs, acq),
    STATE_INT(struct nvme_regs, cc),
    STATE_UINT(struct nvme_regs, csts, 0x0f),
    STATE_INT(struct nvme_regs, aqa),
    STATE_INT(struct nvme_regs, mask),
    STATE_STRUCTS(struct nvme_regs, sq, sq_fields),
    STATE_STRUCTS(struct nvme_regs, cq, cq_fields),
    STATE_UINTS(struct nvme_regs, event, 0xffff),
    STATE_UINT(struct nvme_regs, events, EVENTS),
    STATE_UINT(struct nvme_regs, write_cache, 1),
    STATE_UINT(struct nvme_regs, changed, 1),
    STATE_UINT(struct nvme_regs, told, 1),
    STATE_UINT(struct nvme_regs, event_config, EVENT_NAMESPACE),
};

static struct nvme *nvme_of(struct dev *d)
{
    return container_of(d, struct nvme, pci.dev);
}

/* ---- the controller ------------------------------------------------------------------------
 */

/* Nothing is under way any more: all that enabling made is gone. */
void nvme_disabled(struct nvme *s)
{
    for (u32 i = 0; i < QUEUES; i++) {
        while (s->waits[i]) {
            struct nvme_req *q = s->waits[i];

            s->waits[i] = q->next;
            nvme_req_put(q);
        }
    }
    memset(s->r.sq, 0, sizeof s->r.sq);
    memset(s->r.cq, 0, sizeof s->r.cq);
    s->r.events = s->r.changed = s->r.told = 0;
    s->r.event_config = 0;
    s->r.csts = 0;
    s->r.write_cache = s->write_cache && !image_writethrough(s->image);
    nvme_pin_update(s);
}

static void enable(struct nvme *s)
{
    u32 mps = s->r.cc >> 7 & 15, css = s->r.cc >> 4 & 7;
    u32 sq = (s->r.aqa & 0xfff) + 1, cq = (s->r.aqa >> 16 & 0xfff) + 1;

    if (mps > 4 || css || sq < 2 || cq < 2 || s->r.asq & (nvme_page_size(s) - 1) ||
        s->r.acq & (nvme_page_size(s) - 1)) {
        log_guest("%s: enabled with values that cannot be", s->pci.dev.id);
        s->r.csts = CSTS_CFS;
        return;
    }
    s->r.sq[0] = (struct sq_regs){ .base = s->r.asq, .size = (u16)sq };
    s->r.cq[0] =
        (struct cq_regs){ .base = s->r.acq, .size = (u16)cq, .phase = 1, .interrupts = true };
    s->r.csts = CSTS_RDY;
}

/* On the guest's thread: a shutdown is once in a guest's life. */
static void cc_write(struct nvme *s, u32 val)
{
    u32 was = s->r.cc;

    s->r.cc = val & 0x00fffff1;
    if (val & CC_SHN && !(was & CC_SHN)) {
        image_flush_now(s->image);
        s->r.csts |= CSTS_SHST_DONE;
    } else if (!(val & CC_SHN)) {
        s->r.csts &= ~CSTS_SHST_DONE;
    }
    if (val & CC_EN && !(was & CC_EN) && !(s->r.csts & CSTS_RDY))
        enable(s);
    else if (!(val & CC_EN) && was & CC_EN && !s->total)
        nvme_disabled(s);
}

static u64 capabilities(void)
{
    /* entries, contiguous queues, time to be ready, NVM commands, pages up to 64 KiB */
    return (ENTRIES_MAX / 2 - 1) | 1u << 16 | 0x0fu << 24 | BIT(37) | (u64)4 << 52;
}

static u64 nvme_read(struct dev *d, u64 off, unsigned size)
{
    struct nvme *s = nvme_of(d);
    u64 val = 0;

    switch (off & ~7ull) {
    case REG_CAP:
        val = capabilities();
        break;
    case REG_VS:
        val = VERSION | (u64)s->r.mask << 32;
        break;
    case REG_INTMC:
        val = s->r.mask | (u64)s->r.cc << 32;
        break;
    case REG_CSTS & ~7:
        val = (u64)s->r.csts << 32;
        break;
    case REG_AQA & ~7:
        val = (u64)s->r.aqa << 32;
        break;
    case REG_ASQ:
        val = s->r.asq;
        break;
    case REG_ACQ:
        val = s->r.acq;
        break;
    }
    return size == 8 ? val : val >> (off & 4 ? 32 : 0) & 0xffffffff;
}

static void write32(struct nvme *s, u64 off, u32 val)
{
    bool on = s->r.cc & CC_EN;

    switch (off) {
    case REG_INTMS:
        s->r.mask |= val;
        nvme_pin_update(s);
        break;
    case REG_INTMC:
        s->r.mask &= ~val;
        nvme_pin_update(s);
        break;
    case REG_CC:
        cc_write(s, val);
        break;
    case REG_AQA:
        if (!on)
            s->r.aqa = val & 0x0fff0fff;
        break;
    case REG_ASQ:
        if (!on)
            s->r.asq = (s->r.asq & ~0xffffffffull) | (val & ~0xfffu);
        break;
    case REG_ASQ + 4:
        if (!on)
            s->r.asq = (u32)s->r.asq | (u64)val << 32;
        break;
    case REG_ACQ:
        if (!on)
            s->r.acq = (s->r.acq & ~0xffffffffull) | (val & ~0xfffu);
        break;
    case REG_ACQ + 4:
        if (!on)
            s->r.acq = (u32)s->r.acq | (u64)val << 32;
        break;
    }
}

static void nvme_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct nvme *s = nvme_of(d);

    if (off >= DOORBELLS) {
        nvme_doorbell(s, (u32)(off - DOORBELLS) / 4, (u32)val);
        return;
    }
    write32(s, off, (u32)val);
    if (size == 8)
        write32(s, off + 4, (u32)(val >> 32));
}

static const struct region nvme_bar = {
    .name = "nvme", .len = BAR_LEN, .min = 4, .max = 8, .read = nvme_read, .write = nvme_write
};

/* ---- life ----------------------------------------------------------------------------------
 */

static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct nvme *s = opaque;

    if (ev == VM_EV_RESUME) { /* after a load nobody else would */
        dev_lock(&s->pci.dev);
        for (u16 i = 0; i < QUEUES; i++)
            if (s->r.sq[i].size)
                nvme_sq_run(s, i);
        dev_unlock(&s->pci.dev);
    }
    if (ev != VM_EV_STOP)
        return;
    for (bool busy = true; busy;) { /* ranges follow one another */
        u32 held = image_quiesce(s->image);
        dev_lock(&s->pci.dev);
        nvme_finish_list(s);
        busy = s->total != held;
        dev_unlock(&s->pci.dev);
    }
}

static bool nvme_init(struct dev *d, GError **error)
{
    struct nvme *s = nvme_of(d);

    if (!s->image)
        return fail(error, ERR_ARGUMENT, "it needs a drive: drive=ID");
    if (!s->serial || !*s->serial)
        return fail(error, ERR_ARGUMENT, "it needs a serial number: serial=TEXT");
    if (s->queues < 1 || s->queues > QUEUES - 1)
        return fail(error, ERR_ARGUMENT, "max_ioqpairs=%u: expected 1 to %u", s->queues,
                    QUEUES - 1);
    if (s->logical_block != 512 && s->logical_block != 4096)
        return fail(error, ERR_ARGUMENT, "logical_block_size is 512 or 4096");
    struct drive *drive = drive_find_image(d->vm, s->image);
    if (drive && drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", drive->id);
    if (!pci_init(&s->pci, error))
        return false;
    s->shift = s->logical_block == 512 ? 9 : 12;
    s->blocks = image_size(s->image) >> s->shift;
    s->io = iothread_new("nvme", error);
    if (!s->io)
        return false;
    s->done_fd = iothread_add(s->io, nvme_done_kicked, s, error);
    if (s->done_fd < 0) {
        iothread_free(s->io);
        return false;
    }
    image_reap_by(s->image, s->done_fd);
    if (drive)
        drive_attach(drive, d, d, NULL, s);
    image_on_resize(s->image, nvme_resized, s);
    pci_bar_add(&s->pci, 0, PCI_BAR_MEM64, &nvme_bar);
    pci_msix_add(&s->pci, 4, s->queues + 1);
    vm_listen(d->vm, heard, s);
    return true;
}

/* Waits for what is under way, whose completions find the lock taken and queue up. */
static void nvme_reset(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    s->r.cc = 0;
    while (s->total) {
        image_drain(s->image);
        nvme_finish_list(s);
    }
    pci_reset(&s->pci);
    s->r.asq = s->r.acq = 0;
    s->r.aqa = s->r.mask = 0;
    nvme_disabled(s);
}

static void nvme_loaded(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    pci_loaded(&s->pci);
    for (u32 i = 0; i < QUEUES; i++) {
        struct sq_regs *q = &s->r.sq[i];
        struct cq_regs *c = &s->r.cq[i];

        if (i > s->queues)
            q->size = c->size = 0;
        if (c->size < 2 || c->head >= c->size || c->tail >= c->size)
            *c = (struct cq_regs){ 0 };
        if (c->vector >= s->pci.vectors)
            c->vector = 0;
    }
    for (u32 i = 0; i < QUEUES; i++) {
        struct sq_regs *q = &s->r.sq[i];

        if (q->size < 2 || q->head >= q->size || q->tail >= q->size || !s->r.cq[q->cq].size)
            *q = (struct sq_regs){ 0 };
    }
    if ((s->r.cc >> 7 & 15) > 4)
        s->r.cc &= ~CC_EN;
    if (!(s->r.cc & CC_EN))
        nvme_disabled(s);
    nvme_pin_update(s);
}

static void nvme_fini(struct dev *d)
{
    struct nvme *s = nvme_of(d);

    image_on_resize(s->image, NULL, NULL);
    vm_unlisten(d->vm, s);
    iothread_pause(s->io);
    dev_lock(d);
    s->r.cc = 0;
    while (s->total) {
        image_drain(s->image);
        nvme_finish_list(s);
    }
    nvme_disabled(s);
    dev_unlock(d);
    image_reap_off(s->image);
    struct drive *drive = drive_find_image(d->vm, s->image);
    if (drive)
        drive_detach(drive);
    iothread_free(s->io);
    while (s->free) {
        struct nvme_req *q = s->free;

        s->free = q->next;
        g_free(q);
    }
    pci_fini(&s->pci);
}

static const struct prop nvme_props[] = {
    PROP(struct nvme, image, PROP_PTR, .name = "drive", .link = "drive",
         .help = "the disk behind it"),
    PROP(struct nvme, serial, PROP_STR, .name = "serial",
         .help = "serial number, 20 characters"),
    PROP(struct nvme, queues, PROP_U32, .name = "max_ioqpairs", .def = "64",
         .help = "pairs of queues for I/O"),
    PROP(struct nvme, logical_block, PROP_U32, .name = "logical_block_size", .def = "512",
         .help = "bytes"),
    PROP(struct nvme, write_cache, PROP_BOOL, .name = "write-cache", .def = "on",
         .help = "writes are durable after a flush only"),
    PCI_PROPS(struct nvme, pci),
    { 0 },
};

static const struct pci_type nvme_pci = {
    .vendor = 0x1b36,
    .device = 0x0010,
    .class = 0x010802,
    .revision = 2,
    .pin = 1,
    .regs = offsetof(struct nvme, r.pci),
    .msix = offsetof(struct nvme, r.msix),
};

const struct dev_type nvme_type = {
    .name = "nvme",
    .desc = "NVM Express controller",
    .kind = DEV_PCI,
    .size = sizeof(struct nvme),
    .props = nvme_props,
    .state = STATE_TABLE(struct nvme, r, nvme_fields),
    .init = nvme_init,
    .reset = nvme_reset,
    .loaded = nvme_loaded,
    .fini = nvme_fini,
    .more = &nvme_pci,
};
