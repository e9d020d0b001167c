// SPDX-License-Identifier: GPL-2.0-or-later
/* lapic_test.c - local APICs of a machine with four vCPUs that do not run, and its PIC, IOAPIC.
 */
#include "vmm/dev/pc/lapic.h"

#include <x86intrin.h>

#include "base/test.h"
#include "vmm/core/clock.h"
#include "vmm/dev/pc/intc.h"

enum { N = 4 };
struct rig {
    struct vm *vm;
    struct vcpu cpu[N];
    struct vcpu *list[N];
};

static void rig_make(struct rig *r)
{
    g_autoptr(GError) error = NULL;

    *r = (struct rig){ .vm = vm_new() };
    clock_manual(r->vm);
    for (u32 i = 0; i < N; i++) {
        r->cpu[i] = (struct vcpu){ .vm = r->vm, .index = i, .apic_id = i };
        r->list[i] = &r->cpu[i];
    }
    r->vm->vcpus = r->list;
    r->vm->n_vcpus = N;
    EXPECT(pc_intc_make(r->vm, true, &error));
}

static void rig_free(struct rig *r)
{
    vcpu_set_current(NULL);
    for (u32 i = 0; i < N; i++) /* no thread was started: the vm is not to wait for one */
        dev_free(r->cpu[i].lapic);
    r->vm->n_vcpus = 0;
    r->vm->vcpus = NULL;
    vm_free(r->vm);
}

static u32 get(struct rig *r, u32 cpu, u32 off)
{
    vcpu_set_current(&r->cpu[cpu]);
    return bus_read(r->vm->mem, LAPIC_PAGE + off, 4);
}
static void put(struct rig *r, u32 cpu, u32 off, u32 val)
{
    vcpu_set_current(&r->cpu[cpu]);
    bus_write(r->vm->mem, LAPIC_PAGE + off, val, 4);
}
static int ack(struct rig *r, u32 cpu)
{
    return lapic_ops.ack(r->cpu[cpu].lapic);
}
static bool wrmsr(struct rig *r, u32 cpu, u32 msr, u64 val)
{
    return lapic_ops.msr_write(r->cpu[cpu].lapic, msr, val);
}
static u64 rdmsr(struct rig *r, u32 cpu, u32 msr)
{
    u64 val = 0xdead;

    EXPECT(lapic_ops.msr_read(r->cpu[cpu].lapic, msr, &val));
    return val;
}
static void enable(struct rig *r)
{
    for (u32 i = 0; i < N; i++) {
        put(r, i, 0xf0, 0x1ff);
        r->cpu[i].events = 0;
    }
}

TEST(lapic_page_is_per_cpu)
{
    struct rig r;

    rig_make(&r);
    EXPECT_EQ(get(&r, 2, 0x20), 0x02000000);
    EXPECT_EQ(get(&r, 3, 0x20), 0x03000000);
    EXPECT_EQ(get(&r, 0, 0x30), 0x050014);
    EXPECT_EQ(get(&r, 0, 0x350), 0x700); /* the boot processor's virtual wire */
    EXPECT_EQ(get(&r, 1, 0x350), 0x10000);
    EXPECT_EQ(get(&r, 1, 0xf0), 0xff);
    EXPECT_EQ(rdmsr(&r, 0, 0x1b), 0xfee00900);
    EXPECT_EQ(rdmsr(&r, 1, 0x1b), 0xfee00800);
    put(&r, 1, 0x80, 0x20);
    EXPECT_EQ(get(&r, 0, 0x80), 0);
    EXPECT_EQ(lapic_ops.tpr_get(r.cpu[1].lapic), 0x20);
    vcpu_set_current(NULL);
    EXPECT_EQ(bus_read(r.vm->mem, LAPIC_PAGE + 0x20, 4), 0xffffffff);
    rig_free(&r);
}

TEST(lapic_priorities)
{
    struct rig r;

    rig_make(&r);
    enable(&r);
    EXPECT_EQ(ack(&r, 1), -1);
    EXPECT(lapic_deliver_msi(r.vm, 0xfee01000, 0x41));
    EXPECT_EQ(r.cpu[1].events, VCPU_INTR);
    EXPECT_EQ(r.cpu[0].events, 0);
    EXPECT(lapic_deliver_msi(r.vm, 0xfee01000, 0x52));
    EXPECT_EQ(ack(&r, 1), 0x52);
    EXPECT_EQ(get(&r, 1, 0xa0), 0x50);
    EXPECT_EQ(ack(&r, 1), -1);
    r.cpu[1].events = 0;
    put(&r, 1, 0xb0, 0); /* EOI: told again about 0x41 */
    EXPECT_EQ(r.cpu[1].events, VCPU_INTR);
    put(&r, 1, 0x80, 0x40);
    EXPECT(!lapic_ops.pending(r.cpu[1].lapic));
    r.cpu[1].events = 0;
    lapic_ops.tpr_set(r.cpu[1].lapic, 0x30);
    EXPECT_EQ(r.cpu[1].events, VCPU_INTR);
    EXPECT_EQ(ack(&r, 1), 0x41);
    EXPECT_EQ(get(&r, 1, 0x100 + 0x20), 1 << 1);
    put(&r, 1, 0xb0, 0);
    put(&r, 1, 0xb0, 0); /* without one in service: nothing */
    EXPECT_EQ(get(&r, 1, 0x120), 0);
    EXPECT(lapic_deliver_msi(r.vm, 0xfee01000, 0x0f)); /* vector below 16 */
    put(&r, 1, 0x280, 0);
    EXPECT_EQ(get(&r, 1, 0x280), 0x40);
    EXPECT_EQ(ack(&r, 1), -1);
    rig_free(&r);
}

TEST(lapic_ipis)
{
    struct rig r;

    rig_make(&r);
    enable(&r);
    put(&r, 0, 0x310, 0x02000000);
    put(&r, 0, 0x300, 0x000c4500 & ~0xc0000u); /* INIT to 2 */
    EXPECT_EQ(r.cpu[2].events, VCPU_INIT);
    put(&r, 0, 0x300, 0x8500); /* its de-assert */
    r.cpu[2].events = 0;
    put(&r, 0, 0x300, 0x4609);
    EXPECT_EQ(r.cpu[2].events, VCPU_SIPI);
    EXPECT_EQ(r.cpu[2].sipi_vector, 9);
    put(&r, 0, 0x300, 0xc4400); /* NMI to all but self */
    EXPECT_EQ(r.cpu[0].events, 0);
    EXPECT_EQ(r.cpu[1].events, VCPU_NMI);
    EXPECT_EQ(r.cpu[3].events, VCPU_NMI);
    put(&r, 3, 0x300, 0x80061); /* all and self */
    for (u32 i = 0; i < N; i++)
        EXPECT_EQ(ack(&r, i), 0x61);
    put(&r, 1, 0x300, 0x40072); /* self */
    EXPECT_EQ(ack(&r, 1), 0x72);
    EXPECT_EQ(ack(&r, 0), -1);
    put(&r, 1, 0xb0, 0);
    put(&r, 1, 0x310, 0xff000000);
    put(&r, 1, 0x300, 0x4073); /* broadcast id */
    EXPECT_EQ(ack(&r, 1), 0x73);
    EXPECT_EQ(ack(&r, 2), 0x73);
    put(&r, 0, 0x300, 0x400f); /* to a vector that is none */
    put(&r, 0, 0x280, 0);
    EXPECT_EQ(get(&r, 0, 0x280), 0x20);
    rig_free(&r);
}

TEST(lapic_logical)
{
    struct rig r;

    rig_make(&r);
    enable(&r);
    for (u32 i = 0; i < N; i++)
        put(&r, i, 0xd0, 1u << (24 + i));
    EXPECT(lapic_deliver_msi(r.vm, 0xfee0a004, 0x48));
    EXPECT_EQ(ack(&r, 1), 0x48);
    EXPECT_EQ(ack(&r, 3), 0x48);
    EXPECT_EQ(ack(&r, 0), -1);
    for (u32 i = 0; i < N; i++) {
        put(&r, i, 0xe0, 0x0fffffff);
        put(&r, i, 0xd0, (i / 2) << 28 | 1u << (24 + i % 2));
    }
    EXPECT(lapic_deliver_msi(r.vm, 0xfee12004, 0x59)); /* cluster 1, member 1 */
    EXPECT_EQ(ack(&r, 3), 0x59);
    EXPECT_EQ(ack(&r, 1), -1);
    EXPECT(!lapic_deliver_msi(r.vm, 0xfee24004, 0x59));
    /* Lowest priority takes the idle ones in turn. */
    lapic_ops.tpr_set(r.cpu[0].lapic, 0x80);
    lapic_ops.tpr_set(r.cpu[1].lapic, 0);
    EXPECT(lapic_deliver_msi(r.vm, 0xfee03004, 0x160));
    EXPECT_EQ(ack(&r, 1), 0x60);
    EXPECT_EQ(ack(&r, 0), -1);
    rig_free(&r);
}

TEST(lapic_x2)
{
    struct rig r;
    u64 val;

    rig_make(&r);
    enable(&r);
    EXPECT(!lapic_ops.msr_read(r.cpu[1].lapic, 0x802, &val));
    EXPECT(!wrmsr(&r, 1, 0x1b, 0xfee00400));
    EXPECT(wrmsr(&r, 1, 0x1b, 0xfee00c00));
    EXPECT(wrmsr(&r, 2, 0x1b, 0xfee00c00));
    EXPECT(!wrmsr(&r, 1, 0x1b, 0xfee00800)); /* x2APIC to xAPIC is not allowed */
    EXPECT_EQ(rdmsr(&r, 1, 0x802), 1);
    EXPECT_EQ(rdmsr(&r, 2, 0x80d), 4);
    EXPECT_EQ(get(&r, 1, 0x20), 0xffffffff);
    EXPECT(wrmsr(&r, 1, 0x83f, 0x91));
    EXPECT_EQ(ack(&r, 1), 0x91);
    EXPECT(!wrmsr(&r, 1, 0x80b, 1));
    EXPECT(wrmsr(&r, 1, 0x80b, 0));
    EXPECT(wrmsr(&r, 1, 0x830, 2ull << 32 | 0x92));
    EXPECT_EQ(rdmsr(&r, 1, 0x830), 2ull << 32 | 0x92);
    EXPECT_EQ(ack(&r, 2), 0x92);
    EXPECT(wrmsr(&r, 2, 0x80b, 0));
    EXPECT(wrmsr(&r, 1, 0x830, 4ull << 32 | 0x893)); /* logical: cluster 0, id 2 */
    EXPECT_EQ(ack(&r, 2), 0x93);
    EXPECT(!wrmsr(&r, 1, 0x802, 1));
    EXPECT(!wrmsr(&r, 1, 0x808, 0x100));
    EXPECT(!wrmsr(&r, 1, 0x831, 0));
    EXPECT(wrmsr(&r, 1, 0x1b, 0xfee00000));
    EXPECT(!wrmsr(&r, 1, 0x1b, 0xfee00c00));
    EXPECT(wrmsr(&r, 1, 0x1b, 0xfee00800));
    EXPECT_EQ(get(&r, 1, 0xf0), 0xff); /* disabling it lost its state */
    rig_free(&r);
}

TEST(lapic_timer)
{
    struct rig r;

    rig_make(&r);
    enable(&r);
    put(&r, 0, 0x3e0, 0xb); /* by 1 */
    put(&r, 0, 0x320, 0x33);
    put(&r, 0, 0x380, 1000000);
    clock_step(r.vm, 400000);
    EXPECT_EQ(get(&r, 0, 0x390), 600000);
    put(&r, 0, 0x3e0, 0x3); /* by 16: the count goes on from where it is */
    EXPECT_EQ(get(&r, 0, 0x390), 600000);
    put(&r, 0, 0x3e0, 0xb);
    EXPECT_EQ(ack(&r, 0), -1);
    clock_step(r.vm, 600000);
    EXPECT_EQ(ack(&r, 0), 0x33);
    put(&r, 0, 0xb0, 0);
    clock_step(r.vm, 10000000);
    EXPECT_EQ(ack(&r, 0), -1);
    EXPECT_EQ(get(&r, 0, 0x390), 0);

    put(&r, 0, 0x320, 0x20034);
    put(&r, 0, 0x380, 1000000);
    for (u32 i = 0; i < 5; i++) {
        clock_step(r.vm, 1000000);
        EXPECT_EQ(ack(&r, 0), 0x34);
        put(&r, 0, 0xb0, 0);
    }
    put(&r, 0, 0x320, 0x30034); /* masked: counts, but does not interrupt */
    clock_step(r.vm, 1500000);
    EXPECT_EQ(ack(&r, 0), -1);
    EXPECT_EQ(get(&r, 0, 0x390), 500000);
    put(&r, 0, 0x320, 0x20034);
    clock_step(r.vm, 500000);
    EXPECT_EQ(ack(&r, 0), 0x34);
    put(&r, 0, 0xb0, 0);
    put(&r, 0, 0x380, 1); /* a billion a second are asked for */
    clock_step(r.vm, 1000000);
    EXPECT_EQ(ack(&r, 0), 0x34);
    put(&r, 0, 0x380, 0);
    rig_free(&r);
}

TEST(lapic_deadline)
{
    struct rig r;

    rig_make(&r);
    enable(&r);
    r.cpu[0].tsc_offset = -(s64)__rdtsc(); /* a guest that has just started */
    EXPECT(wrmsr(&r, 0, 0x6e0, 12345));
    EXPECT_EQ(rdmsr(&r, 0, 0x6e0), 0); /* not in that mode */
    put(&r, 0, 0x320, 0x40037);
    EXPECT(wrmsr(&r, 0, 0x6e0, 1)); /* past */
    clock_step(r.vm, 1);
    EXPECT_EQ(rdmsr(&r, 0, 0x6e0), 0);
    EXPECT_EQ(ack(&r, 0), 0x37);
    put(&r, 0, 0xb0, 0);
    EXPECT(wrmsr(&r, 0, 0x6e0, vm_tsc_hz() * 1000)); /* far */
    clock_step(r.vm, NS_PER_SEC);
    EXPECT_EQ(ack(&r, 0), -1);
    EXPECT(wrmsr(&r, 0, 0x6e0, UINT64_MAX / 2));
    EXPECT(wrmsr(&r, 0, 0x6e0, 0));
    clock_step(r.vm, NS_PER_SEC * 86400);
    EXPECT_EQ(ack(&r, 0), -1);
    rig_free(&r);
}

TEST(lapic_pic_and_ioapic)
{
    struct rig r;

    rig_make(&r);
    /* Virtual wire: IRQ 3 through the PIC to the boot processor only. */
    bus_write(r.vm->io, 0x20, 0x11, 1);
    bus_write(r.vm->io, 0x21, 0x20, 1);
    bus_write(r.vm->io, 0x21, 0x04, 1);
    bus_write(r.vm->io, 0x21, 0x01, 1);
    irq_set(vm_gsi(r.vm, 3), true);
    EXPECT_EQ(r.cpu[0].events, VCPU_INTR);
    EXPECT(!lapic_ops.pending(r.cpu[1].lapic));
    EXPECT(lapic_ops.pending(r.cpu[0].lapic));
    EXPECT_EQ(ack(&r, 0), 0x23);
    EXPECT_EQ(ack(&r, 0), -1);

    /* GSI 0 is the I/O APIC's pin 2; level pin 5 comes again until it falls. */
    enable(&r);
    bus_write(r.vm->io, 0x21, 0xff, 1);
    bus_write(r.vm->mem, 0xfec00000, 0x14, 4);
    bus_write(r.vm->mem, 0xfec00010, 0x71, 4);
    irq_set(vm_gsi(r.vm, 0), true);
    EXPECT_EQ(ack(&r, 0), 0x71);
    put(&r, 0, 0xb0, 0);
    bus_write(r.vm->mem, 0xfec00000, 0x1b, 4);
    bus_write(r.vm->mem, 0xfec00010, 0x01000000, 4);
    bus_write(r.vm->mem, 0xfec00000, 0x1a, 4);
    bus_write(r.vm->mem, 0xfec00010, 0x8075, 4);
    irq_set(vm_gsi(r.vm, 5), true);
    EXPECT_EQ(ack(&r, 1), 0x75);
    EXPECT_EQ(get(&r, 1, 0x180 + 0x30), 1 << 21);
    put(&r, 1, 0xb0, 0);
    EXPECT_EQ(ack(&r, 1), 0x75);
    irq_set(vm_gsi(r.vm, 5), false);
    put(&r, 1, 0xb0, 0);
    EXPECT_EQ(ack(&r, 1), -1);

    pc_nmi(r.vm); /* LINT1 is masked */
    EXPECT_EQ(r.cpu[0].events & VCPU_NMI, 0);
    put(&r, 0, 0x360, 0x400);
    pc_nmi(r.vm);
    EXPECT_EQ(r.cpu[0].events & VCPU_NMI, VCPU_NMI);
    rig_free(&r);
}

TEST(lapic_moves)
{
    struct rig r;

    rig_make(&r);
    EXPECT(wrmsr(&r, 0, 0x1b, 0xfd000000 | 0x900));
    vcpu_set_current(&r.cpu[0]);
    EXPECT_EQ(bus_read(r.vm->mem, 0xfd000030, 4), 0x050014);
    EXPECT(!bus_has(r.vm->mem, LAPIC_PAGE));
    dev_reset(r.cpu[0].lapic);
    EXPECT(bus_has(r.vm->mem, LAPIC_PAGE));
    rig_free(&r);
}

/* Senders on other threads against an owner that acknowledges: nothing is lost or made up. */
struct storm {
    struct rig *r;
    _Atomic u32 sent, left;
};

static void *storm_sender(void *opaque)
{
    struct storm *k = opaque;

    for (u32 i = 0; i < 20000; i++) {
        k->sent++;
        lapic_deliver_msi(k->r->vm, 0xfee00000, 0x20 + i % 0xd0);
    }
    k->left--;
    return NULL;
}

TEST(lapic_storm)
{
    struct rig r;
    pthread_t t[2];
    u32 got = 0;

    rig_make(&r);
    enable(&r);
    struct storm k = { .r = &r, .left = 2 };
    for (u32 i = 0; i < 2; i++)
        EXPECT(!pthread_create(&t[i], NULL, storm_sender, &k));
    vcpu_set_current(&r.cpu[0]);
    for (;;) {
        u32 left = k.left; /* before the look: what came earlier is seen */
        u32 ev = __atomic_exchange_n((u32 *)&r.cpu[0].events, 0, __ATOMIC_SEQ_CST);
        int v;

        while ((v = ack(&r, 0)) >= 0) {
            got++;
            EXPECT(v >= 0x20 && v < 0xf0);
            EXPECT(wrmsr(&r, 0, 0x6e0, 0));
            bus_write(r.vm->mem, LAPIC_PAGE + 0xb0, 0, 4);
        }
        if (!left && !ev)
            break;
    }
    for (u32 i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    EXPECT(got > 0 && got <= k.sent);
    for (u32 i = 0; i < 8; i++)
        EXPECT_EQ(get(&r, 0, 0x200 + 16 * i), 0); /* IRR */
    rig_free(&r);
}

TEST_MAIN()
