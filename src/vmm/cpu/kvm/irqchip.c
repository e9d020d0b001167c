// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * irqchip.c - the kernel's 8259s, IOAPIC and 8254 as a device: what saves, loads, resets and
 * prints them like any other. Linux, Documentation/virt/kvm/api.rst: KVM_GET_IRQCHIP and
 * KVM_GET_PIT2; the registers are those of the kernel's structures.
 *
 * The registers live in the kernel; the copy here is made when somebody wants to see it.  Only
 * the 8254 is kept here while the guest stands still, as the kernel's would go on counting: its
 * channels begin anew where they were when the guest goes on, but channel 0 with a full period.
 * Levels of lines are not in it: devices raise theirs again after a load.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/cpu/kvm/kvm.h"

enum { PIC_MASTER, PIC_SLAVE, IOAPIC, CHIPS };

struct irqchip {
    struct dev dev;
    struct irqchip_regs {
        struct kvm_pic_state pic[2];
        struct kvm_ioapic_state ioapic;
        struct kvm_pit_state2 pit; /* count_load_time: nanoseconds ago */
    } r, fresh;                    /* fresh: as they came up, which is what a reset goes to */
    bool held; /* r.pit is what counts, not the kernel's: the guest stands still */
};

static const struct state_field pic_fields[] = {
    STATE_INT(struct kvm_pic_state, last_irr),
    STATE_INT(struct kvm_pic_state, irr),
    STATE_INT(struct kvm_pic_state, imr),
    STATE_INT(struct kvm_pic_state, isr),
    STATE_UINT(struct kvm_pic_state, priority_add, 7),
    STATE_INT(struct kvm_pic_state, irq_base),
    STATE_UINT(struct kvm_pic_state, read_reg_select, 1),
    STATE_UINT(struct kvm_pic_state, poll, 4),
    STATE_UINT(struct kvm_pic_state, special_mask, 1),
    STATE_UINT(struct kvm_pic_state, init_state, 3),
    STATE_UINT(struct kvm_pic_state, auto_eoi, 1),
    STATE_UINT(struct kvm_pic_state, rotate_on_auto_eoi, 1),
    STATE_UINT(struct kvm_pic_state, special_fully_nested_mode, 1),
    STATE_UINT(struct kvm_pic_state, init4, 1),
    STATE_INT(struct kvm_pic_state, elcr),
    STATE_INT(struct kvm_pic_state, elcr_mask),
};
static const struct state_field ioapic_fields[] = {
    STATE_INT(struct kvm_ioapic_state, base_address),
    STATE_UINT(struct kvm_ioapic_state, ioregsel, 255),
    STATE_UINT(struct kvm_ioapic_state, id, 15),
    STATE_UINT(struct kvm_ioapic_state, irr, BIT(KVM_IOAPIC_NUM_PINS) - 1),
    STATE_PAD(struct kvm_ioapic_state, pad),
    STATE_UINTS(struct kvm_ioapic_state, redirtbl, UINT64_MAX),
};
static const struct state_field channel_fields[] = {
    STATE_UINT(struct kvm_pit_channel_state, count, 65536),
    STATE_INT(struct kvm_pit_channel_state, latched_count),
    STATE_UINT(struct kvm_pit_channel_state, count_latched, 4),
    STATE_UINT(struct kvm_pit_channel_state, status_latched, 1),
    STATE_INT(struct kvm_pit_channel_state, status),
    STATE_UINT(struct kvm_pit_channel_state, read_state, 4),
    STATE_UINT(struct kvm_pit_channel_state, write_state, 4),
    STATE_INT(struct kvm_pit_channel_state, write_latch),
    STATE_UINT(struct kvm_pit_channel_state, rw_mode, 4),
    STATE_UINT(struct kvm_pit_channel_state, mode, 255),
    STATE_UINT(struct kvm_pit_channel_state, bcd, 1),
    STATE_UINT(struct kvm_pit_channel_state, gate, 1),
    STATE_UINT(struct kvm_pit_channel_state, count_load_time, INT64_MAX),
};
static const struct state_field pit_fields[] = {
    STATE_STRUCTS(struct kvm_pit_state2, channels, channel_fields),
    STATE_UINT(struct kvm_pit_state2, flags,
               KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON),
    STATE_PAD(struct kvm_pit_state2, reserved),
};
static const struct state_field irqchip_fields[] = {
    STATE_STRUCTS(struct irqchip_regs, pic, pic_fields),
    STATE_STRUCT(struct irqchip_regs, ioapic, ioapic_fields),
    STATE_STRUCT(struct irqchip_regs, pit, pit_fields),
};

static struct irqchip *irqchip_of(struct dev *d)
{
    return container_of(d, struct irqchip, dev);
}

/* The clock of count_load_time. */
static s64 kernel_now(void)
{
    return g_get_monotonic_time() * 1000;
}

static int chips_get(struct kvm_vm *kv, struct irqchip_regs *ret)
{
    struct kvm_irqchip c[CHIPS] = { 0 };
    int rc = 0;

    for (u32 i = 0; i < CHIPS && rc >= 0; i++) {
        c[i].chip_id = i;
        rc = kvm_ioctl(kv->fd, KVM_GET_IRQCHIP, &c[i]);
    }
    if (rc < 0)
        return rc;
    ret->pic[0] = c[PIC_MASTER].chip.pic;
    ret->pic[1] = c[PIC_SLAVE].chip.pic;
    ret->ioapic = c[IOAPIC].chip.ioapic;
    return 0;
}

static int chips_set(struct kvm_vm *kv, const struct irqchip_regs *r)
{
    struct kvm_irqchip c[CHIPS] = { 0 };
    int rc = 0;

    c[PIC_MASTER].chip.pic = r->pic[0];
    c[PIC_SLAVE].chip.pic = r->pic[1];
    c[IOAPIC].chip.ioapic = r->ioapic;
    for (u32 i = 0; i < CHIPS && rc >= 0; i++) {
        c[i].chip_id = i;
        rc = kvm_ioctl(kv->fd, KVM_SET_IRQCHIP, &c[i]);
    }
    return rc;
}

static int pit_get(struct kvm_vm *kv, struct irqchip_regs *ret)
{
    struct kvm_pit_state2 p = { 0 };
    int rc = kvm_ioctl(kv->fd, KVM_GET_PIT2, &p);
    s64 now = kernel_now();

    if (rc < 0)
        return rc;
    for (u32 i = 0; i < ARRAY_LEN(p.channels); i++)
        p.channels[i].count_load_time = MAX(now - p.channels[i].count_load_time, 0);
    ret->pit = p;
    return 0;
}

static int pit_set(struct kvm_vm *kv, const struct irqchip_regs *r)
{
    struct kvm_pit_state2 p = r->pit;
    s64 now = kernel_now();

    for (u32 i = 0; i < ARRAY_LEN(p.channels); i++)
        p.channels[i].count_load_time = now - p.channels[i].count_load_time;
    return kvm_ioctl(kv->fd, KVM_SET_PIT2, &p);
}

static void told(int rc, const char *what)
{
    if (rc < 0)
        log_error("kvm: %s of the kernel's interrupt controllers and timer: %s", what,
                  g_strerror(-rc));
}

static void push(struct irqchip *s)
{
    struct kvm_vm *kv = s->dev.vm->cpu_vm;
    int rc = chips_set(kv, &s->r);

    told(rc < 0 ? rc : pit_set(kv, &s->r), "setting the state");
}

static bool irqchip_init(struct dev *d, GError **error)
{
    struct irqchip *s = irqchip_of(d);
    int rc = chips_get(d->vm->cpu_vm, &s->fresh);

    s->held = true;
    if (rc >= 0)
        rc = pit_get(d->vm->cpu_vm, &s->fresh);
    return rc >= 0 || fail_errno(error, -rc, "the kernel does not tell their state");
}

static void irqchip_reset(struct dev *d)
{
    struct irqchip *s = irqchip_of(d);

    s->r = s->fresh;
    push(s);
}

static void irqchip_saving(struct dev *d)
{
    struct irqchip *s = irqchip_of(d);
    int rc = chips_get(d->vm->cpu_vm, &s->r);

    if (rc >= 0 && !s->held)
        rc = pit_get(d->vm->cpu_vm, &s->r);
    told(rc, "reading the state");
}

static void irqchip_loaded(struct dev *d)
{
    struct irqchip *s = irqchip_of(d);

    /* Wiring, which no stream may choose. */
    for (u32 i = 0; i < 2; i++)
        s->r.pic[i].elcr_mask = s->fresh.pic[i].elcr_mask;
    s->r.ioapic.base_address = s->fresh.ioapic.base_address;
    push(s);
}

static const struct dev_type irqchip_type = {
    .name = "kvm-irqchip",
    .desc = "the kernel's 8259, I/O APIC and 8254",
    .kind = DEV_SYSBUS,
    .rank = DEV_RANK_INTC,
    .size = sizeof(struct irqchip),
    .state = STATE_TABLE(struct irqchip, r, irqchip_fields),
    .init = irqchip_init,
    .reset = irqchip_reset,
    .saving = irqchip_saving,
    .loaded = irqchip_loaded,
};

static struct dev *irqchip_find(struct kvm_vm *kv)
{
    GPtrArray *devs = kv->vm->devs;

    for (u32 i = 0; i < devs->len; i++) {
        struct dev *d = devs->pdata[i];

        if (d->type == &irqchip_type)
            return d;
    }
    return NULL;
}

bool kvm_irqchip_make(struct kvm_vm *kv, GError **error)
{
    struct dev *d = dev_new(kv->vm, &irqchip_type, "kvm-irqchip");

    if (dev_realize(d, error))
        return true;
    dev_free(d);
    return false;
}

void kvm_irqchip_free(struct kvm_vm *kv)
{
    dev_free(irqchip_find(kv));
}

void kvm_irqchip_stop(struct kvm_vm *kv)
{
    struct dev *d = irqchip_find(kv);

    if (!d)
        return;
    dev_lock(d);
    if (!irqchip_of(d)->held)
        told(pit_get(kv, &irqchip_of(d)->r), "reading the state");
    irqchip_of(d)->held = true;
    dev_unlock(d);
}

void kvm_irqchip_resume(struct kvm_vm *kv)
{
    struct dev *d = irqchip_find(kv);

    if (!d)
        return;
    dev_lock(d);
    told(pit_set(kv, &irqchip_of(d)->r), "setting the state");
    irqchip_of(d)->held = false;
    dev_unlock(d);
}
