// SPDX-License-Identifier: GPL-2.0-or-later
/* intc.c - see intc.h. */
#include "vmm/dev/pc/intc.h"

#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/lapic.h"
#include "vmm/dev/pc/pic.h"

enum { ISA_IRQS = 16, CASCADE = 2 };

static void intc_gsi(void *opaque, unsigned gsi, bool level)
{
    struct pc_intc *c = opaque;

    if (gsi < ISA_IRQS)
        irq_set(c->to_pic[gsi], level);
    if (gsi < IOAPIC_PINS)
        irq_set(c->to_ioapic[gsi], level);
}

static void intc_msi(void *opaque, u64 addr, u32 data)
{
    struct pc_intc *c = opaque;

    lapic_deliver_msi(c->vm, addr, data);
}

const struct intc_ops pc_intc_ops = { .gsi = intc_gsi, .msi = intc_msi };

struct pc_intc *pc_intc(struct vm *vm)
{
    return vm->intc == &pc_intc_ops ? vm->intc_opaque : NULL;
}

static void intc_intr(void *opaque, unsigned n, bool level)
{
    struct pc_intc *c = opaque;

    lapic_lint(c->vm, n, level);
}

void pc_nmi(struct vm *vm)
{
    lapic_lint(vm, 1, true);
    lapic_lint(vm, 1, false);
}

static struct dev *intc_part(struct vm *vm, const struct dev_type *type, const char *id,
                             GError **error)
{
    struct dev *d = dev_new(vm, type, id);

    if (dev_realize(d, error))
        return d;
    dev_free(d);
    return NULL;
}

bool pc_intc_make(struct vm *vm, bool with_pic, GError **error)
{
    struct pc_intc *c = g_new0(struct pc_intc, 1);

    c->vm = vm;
    c->intr = (struct irq){ .set = intc_intr, .opaque = c, .n = 0 };
    vm->intc_opaque = c;
    vm->intc = &pc_intc_ops;

    c->page = intc_part(vm, &lapic_page_type, "apic-page", error);
    if (!c->page)
        return false;
    /* The first LAPIC's reset maps the page. */
    for (u32 i = 0; i < vm->n_vcpus; i++)
        if (!lapic_make(vm, vm->vcpus[i], error))
            return false;
    if (with_pic) {
        struct dev *pic = dev_new(vm, &pic_type, "pic");

        pic->irq[0] = &c->intr;
        if (!dev_realize(pic, error)) {
            dev_free(pic);
            return false;
        }
        for (unsigned i = 0; i < 3; i++)
            bus_map(vm->io, (u64[]){ 0x20, 0xa0, 0x4d0 }[i], pic_type.io[i], pic, 0);
        c->pic = pic;
        for (unsigned i = 0; i < ISA_IRQS; i++)
            c->to_pic[i] = i == CASCADE ? NULL : dev_irq_in(pic, i);
    }
    c->ioapic = intc_part(vm, &ioapic_type, "ioapic", error);
    if (!c->ioapic)
        return false;
    bus_map(vm->mem, IOAPIC_PAGE, ioapic_type.mem[0], c->ioapic, 0);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        if (i != CASCADE)
            c->to_ioapic[i] = dev_irq_in(c->ioapic, i == 0 ? CASCADE : i);
    return true;
}

void pc_intc_free(struct vm *vm)
{
    if (!pc_intc(vm))
        return;
    g_free(vm->intc_opaque);
    vm->intc = NULL;
    vm->intc_opaque = NULL;
}
