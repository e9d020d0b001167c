// SPDX-License-Identifier: GPL-2.0-or-later
/* ioapic_test.c - the I/O APIC against a controller that notes its messages. */
#include "vmm/dev/pc/ioapic.h"

#include "base/test.h"
#include "vmm/core/bench.h"

struct sink {
    u32 n, data;
    u64 addr;
};

static void sink_msi(void *opaque, u64 addr, u32 data)
{
    struct sink *s = opaque;

    s->n++;
    s->addr = addr;
    s->data = data;
}
static const struct intc_ops sink_ops = { .msi = sink_msi };

static u32 get(struct bench *b, u8 reg)
{
    bench_mem_write(b, BENCH_MEM, reg, 4);
    return bench_mem_read(b, BENCH_MEM + 0x10, 4);
}
static void put(struct bench *b, u8 reg, u32 val)
{
    bench_mem_write(b, BENCH_MEM, reg, 4);
    bench_mem_write(b, BENCH_MEM + 0x10, val, 4);
}

TEST(ioapic_registers)
{
    struct bench b = bench_new(&ioapic_type, 0);

    EXPECT_EQ(get(&b, 1), 0x170020);
    put(&b, 0, 0x05000000);
    EXPECT_EQ(get(&b, 0), 0x05000000);
    EXPECT_EQ(get(&b, 0x10), 0x10000);
    put(&b, 0x10, 0xffffffff);
    EXPECT_EQ(get(&b, 0x10), 0x1afff & ~0x1000);
    put(&b, 0x11, 0xffffffff);
    EXPECT_EQ(get(&b, 0x11), 0xff000000);
    put(&b, 0x40, 0x12345678); /* behind the last */
    EXPECT_EQ(get(&b, 0x40), 0);
    bench_free(&b);
}

TEST(ioapic_edge)
{
    struct bench b = bench_new(&ioapic_type, 0);
    struct sink k = {};

    b.vm->intc = &sink_ops;
    b.vm->intc_opaque = &k;
    bench_irq_in(&b, 4, true); /* masked: lost */
    put(&b, 0x19, 0x03000000);
    put(&b, 0x18, 0x0841);
    EXPECT_EQ(k.n, 0);
    bench_irq_in(&b, 4, false);
    bench_irq_in(&b, 4, true);
    EXPECT_EQ(k.n, 1);
    EXPECT_EQ(k.addr, 0xfee03004);
    EXPECT_EQ(k.data, 0x4041);
    bench_irq_in(&b, 4, true);
    EXPECT_EQ(k.n, 1);
    b.vm->intc = NULL;
    bench_free(&b);
}

TEST(ioapic_level)
{
    struct bench b = bench_new(&ioapic_type, 0);
    struct sink k = {};

    b.vm->intc = &sink_ops;
    b.vm->intc_opaque = &k;
    put(&b, 0x10 + 2 * 11, 0x8055);
    bench_irq_in(&b, 11, true);
    EXPECT_EQ(k.n, 1);
    EXPECT_EQ(k.data, 0xc055);
    EXPECT_EQ(get(&b, 0x10 + 2 * 11), 0xc055); /* remote IRR */
    ioapic_eoi(b.dev, 0x54);
    EXPECT_EQ(k.n, 1);
    ioapic_eoi(b.dev, 0x55); /* still high */
    EXPECT_EQ(k.n, 2);
    bench_migrate(&b);
    bench_irq_in(&b, 11, false);
    bench_mem_write(&b, BENCH_MEM + 0x40, 0x55, 4);
    EXPECT_EQ(k.n, 2);
    EXPECT_EQ(get(&b, 0x10 + 2 * 11), 0x8055);
    put(&b, 0x10 + 2 * 11, 0x18055);
    bench_irq_in(&b, 11, true);
    EXPECT_EQ(k.n, 2);
    put(&b, 0x10 + 2 * 11, 0x8055); /* a level waits for the mask */
    EXPECT_EQ(k.n, 3);
    put(&b, 0x10 + 2 * 11, 0x18055); /* the way of old: edge and back clears remote IRR */
    put(&b, 0x10 + 2 * 11, 0x10055);
    EXPECT_EQ(get(&b, 0x10 + 2 * 11), 0x10055);
    b.vm->intc = NULL;
    bench_free(&b);
}

TEST_MAIN()
