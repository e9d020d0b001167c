// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * irq.c - the ways into the kernel's interrupt controllers: lines, MSIs, irqfds; and
 * ioeventfds. Linux, Documentation/virt/kvm/api.rst.
 *
 * GSI n below 24 drives input n of the IOAPIC and, below 16, of the two 8259s; GSI 0 is IOAPIC
 * input 2, as the MADT's override says, and 8259 input 2 is the cascade.
 */
#include "vmm/cpu/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

static void intc_gsi(void *opaque, unsigned gsi, bool level)
{
    struct kvm_vm *kv = opaque;
    struct kvm_irq_level l = { .irq = gsi, .level = level };

    kvm_ioctl(kv->fd, KVM_IRQ_LINE, &l);
}

static void intc_msi(void *opaque, u64 addr, u32 data)
{
    struct kvm_vm *kv = opaque;
    struct kvm_msi m = { .address_lo = (u32)addr,
                         .address_hi = (u32)(addr >> 32),
                         .data = data };

    kvm_ioctl(kv->fd, KVM_SIGNAL_MSI, &m);
}

struct routing {
    struct kvm_irq_routing h;
    struct kvm_irq_routing_entry e[16 + VM_GSI_MAX + KVM_GSIS_MAX];
};

static void route_pin(struct routing *r, u32 gsi, u32 chip, u32 pin)
{
    r->e[r->h.nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = { .irqchip = chip, .pin = pin },
    };
}

/* REQUIRES(route_lock) */
static int routes_tell(struct kvm_vm *kv)
{
    g_autofree struct routing *r = g_new0(struct routing, 1);

    for (u32 i = 0; i < 16; i++)
        if (i != 2)
            route_pin(r, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i & 7);
    for (u32 i = 0; i < VM_GSI_MAX; i++)
        if (i != 2)
            route_pin(r, i, KVM_IRQCHIP_IOAPIC, i ? i : 2);
    for (u32 i = 0; i < ARRAY_LEN(kv->routes); i++) {
        const struct kvm_msi_route *m = &kv->routes[i];

        if (m->used)
            r->e[r->h.nr++] = (struct kvm_irq_routing_entry){
                .gsi = VM_GSI_MAX + i,
                .type = KVM_IRQ_ROUTING_MSI,
                .u.msi = { .address_lo = (u32)m->addr,
                           .address_hi = (u32)(m->addr >> 32),
                           .data = m->data },
            };
    }
    return kvm_ioctl(kv->fd, KVM_SET_GSI_ROUTING, r);
}

static int irqfd(struct kvm_vm *kv, int fd, u32 route, bool add)
{
    struct kvm_irqfd f = { .fd = (u32)fd,
                           .gsi = VM_GSI_MAX + route,
                           .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN };

    return kvm_ioctl(kv->fd, KVM_IRQFD, &f);
}

static s32 route_of(struct kvm_vm *kv, int fd, bool used)
{
    for (u32 i = 0; i < ARRAY_LEN(kv->routes); i++)
        if (kv->routes[i].used == used && (!used || kv->routes[i].fd == fd))
            return (s32)i;
    return -1;
}

/* The same fd again: the message has changed (the guest rewrote its MSI-X entry). */
static int intc_msi_fd(void *opaque, int fd, u64 addr, u32 data)
{
    struct kvm_vm *kv = opaque;
    int rc = -ENOSPC;

    pthread_mutex_lock(&kv->route_lock);
    s32 i = route_of(kv, fd, true);
    bool known = i >= 0;

    if (!known)
        i = route_of(kv, fd, false);
    if (i >= 0) {
        struct kvm_msi_route old = kv->routes[i];

        kv->routes[i] = (struct kvm_msi_route){ true, fd, addr, data };
        rc = routes_tell(kv);
        if (rc >= 0 && !known)
            rc = irqfd(kv, fd, (u32)i, true);
        if (rc < 0) {
            kv->routes[i] = old;
            routes_tell(kv);
        }
    }
    pthread_mutex_unlock(&kv->route_lock);
    return rc < 0 ? rc : fd;
}

static void intc_msi_fd_del(void *opaque, int fd)
{
    struct kvm_vm *kv = opaque;

    pthread_mutex_lock(&kv->route_lock);
    s32 i = route_of(kv, fd, true);

    if (i >= 0) {
        irqfd(kv, fd, (u32)i, false);
        kv->routes[i].used = false;
        routes_tell(kv);
    }
    pthread_mutex_unlock(&kv->route_lock);
}

static const struct intc_ops kvm_intc = {
    .gsi = intc_gsi,
    .msi = intc_msi,
    .msi_fd = intc_msi_fd,
    .msi_fd_del = intc_msi_fd_del,
};

bool kvm_irq_init(struct kvm_vm *kv, GError **error)
{
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    int rc;

    pthread_mutex_init(&kv->route_lock, NULL);
    if (!kv->vm->kernel_irqchip)
        return true;
    rc = kvm_ioctl(kv->fd, KVM_CREATE_IRQCHIP, NULL);
    if (rc < 0)
        return fail_errno(error, -rc,
                          "kvm: the kernel makes no interrupt controllers "
                          "(kernel_irqchip=off has ours)");
    rc = kvm_ioctl(kv->fd, KVM_CREATE_PIT2, &pit);
    if (rc < 0)
        return fail_errno(error, -rc, "kvm: the kernel makes no 8254");
    rc = routes_tell(kv);
    if (rc < 0)
        return fail_errno(error, -rc, "kvm: interrupt routing is refused");
    kv->vm->intc = &kvm_intc;
    kv->vm->intc_opaque = kv;
    return kvm_irqchip_make(kv, error);
}

static void doorbell(struct kvm_vm *kv, const struct doorbell *d, bool add, u32 flags)
{
    struct kvm_ioeventfd e = {
        .datamatch = d->match ? d->val : 0,
        .addr = d->at,
        .len = d->size,
        .fd = d->fd,
        .flags = flags | (d->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    int rc;

    if (!d->size && !kv->has.ioeventfd_any)
        return; /* the bus rings it */
    rc = kvm_ioctl(kv->fd, KVM_IOEVENTFD, &e);
    if (rc < 0 && add)
        log_info("kvm: no ioeventfd at %#llx: %s", (unsigned long long)d->at, g_strerror(-rc));
}

static void doorbell_io(void *opaque, const struct doorbell *d, bool add)
{
    doorbell(opaque, d, add, KVM_IOEVENTFD_FLAG_PIO);
}

static void doorbell_mem(void *opaque, const struct doorbell *d, bool add)
{
    doorbell(opaque, d, add, 0);
}

void kvm_doorbells_unlisten(struct kvm_vm *kv)
{
    bus_doorbell_listen(kv->vm->io, NULL, NULL);
    bus_doorbell_listen(kv->vm->mem, NULL, NULL);
}

void kvm_doorbells_listen(struct kvm_vm *kv)
{
    bus_doorbell_listen(kv->vm->io, doorbell_io, kv);
    bus_doorbell_listen(kv->vm->mem, doorbell_mem, kv);
}
