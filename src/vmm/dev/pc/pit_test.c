// SPDX-License-Identifier: GPL-2.0-or-later
/* pit_test.c - the 8254 with a clock that is turned by hand. */
#include "vmm/dev/pc/pit.h"

#include "base/test.h"
#include "vmm/core/bench.h"

enum { P = 0x40, SPEAKER = 0x44 };

static void load(struct bench *b, unsigned ch, u8 control, u16 count)
{
    bench_out(b, P + 3, ch << 6 | control);
    bench_out(b, P + ch, count & 0xff);
    bench_out(b, P + ch, count >> 8);
}
static u16 latch(struct bench *b, unsigned ch)
{
    bench_out(b, P + 3, ch << 6);
    u8 low = bench_in(b, P + ch);

    return low | bench_in(b, P + ch) << 8;
}
static u64 ns(u64 ticks)
{
    return (ticks * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

TEST(pit_periodic_irq)
{
    struct bench b = bench_new(&pit_type, P);

    load(&b, 0, 0x34, 11932); /* 100 Hz */
    EXPECT_EQ(bench_irq_edges(&b, 0), 0);
    bench_step(&b, ns(11931));
    EXPECT_EQ(bench_irq_edges(&b, 0), 0);
    bench_step(&b, NS_PER_US * 2);
    EXPECT_EQ(bench_irq_edges(&b, 0), 1);
    for (u32 i = 0; i < 1000; i++)
        bench_step(&b, 10 * NS_PER_MS);
    EXPECT(bench_irq_edges(&b, 0) >= 1000 && bench_irq_edges(&b, 0) <= 1002);
    u32 before = bench_irq_edges(&b, 0);
    bench_migrate(&b);
    bench_step(&b, 100 * NS_PER_MS);
    EXPECT(bench_irq_edges(&b, 0) - before >= 9);
    load(&b, 0, 0x30, 1000); /* one shot */
    before = bench_irq_edges(&b, 0);
    bench_step(&b, NS_PER_SEC);
    EXPECT_EQ(bench_irq_edges(&b, 0) - before, 1);
    EXPECT(bench_irq(&b, 0));
    bench_free(&b);
}

TEST(pit_rate_is_bounded)
{
    struct bench b = bench_new(&pit_type, P);

    load(&b, 0, 0x34, 1);
    bench_step(&b, NS_PER_SEC / 10);
    EXPECT(bench_irq_edges(&b, 0) <= 1001);
    EXPECT(bench_irq_edges(&b, 0) >= 500);
    bench_free(&b);
}

TEST(pit_counting)
{
    struct bench b = bench_new(&pit_type, P);

    load(&b, 0, 0x34, 0);
    bench_step(&b, ns(1000));
    EXPECT_EQ(latch(&b, 0), 65536 - 1000);
    load(&b, 0, 0x36, 10000);
    bench_step(&b, ns(100));
    EXPECT_EQ(latch(&b, 0), 10000 - 200);
    load(&b, 0, 0x30, 100);
    bench_step(&b, ns(101));
    EXPECT_EQ(latch(&b, 0), 65535); /* goes on below zero */
    load(&b, 0, 0x31, 0x1000);      /* BCD */
    bench_step(&b, ns(1));
    EXPECT_EQ(latch(&b, 0), 0x0999);
    bench_out(&b, P + 3, 0xe2); /* read-back: status of channel 0 */
    EXPECT_EQ(bench_in(&b, P), 0x31);
    bench_out(&b, P + 3, 0xc2); /* status and count */
    bench_step(&b, ns(50));
    EXPECT_EQ(bench_in(&b, P), 0x31);
    EXPECT_EQ(bench_in(&b, P), 0x99);
    EXPECT_EQ(bench_in(&b, P), 0x09);
    EXPECT_EQ(bench_load(&b, "ch[2].mode=6"), -74);
    bench_free(&b);
}

TEST(pit_channel2_gate)
{
    struct bench b = bench_new(&pit_type, P);

    bench_out(&b, SPEAKER, 0x00);
    load(&b, 2, 0x30, 1000);
    bench_step(&b, ns(5000));
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0); /* the gate holds it */
    EXPECT_EQ(latch(&b, 2), 1000);
    bench_out(&b, SPEAKER, 0x01);
    bench_step(&b, ns(400));
    bench_out(&b, SPEAKER, 0x00);
    bench_step(&b, ns(5000));
    EXPECT_EQ(latch(&b, 2), 600);
    bench_migrate(&b);
    bench_out(&b, SPEAKER, 0x01);
    bench_step(&b, ns(599));
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0);
    bench_step(&b, ns(2));
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0x20);
    load(&b, 2, 0x32, 100); /* mode 1: the gate's rise starts it */
    bench_step(&b, ns(5000));
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0x20);
    bench_out(&b, SPEAKER, 0x00);
    bench_out(&b, SPEAKER, 0x01);
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0x00);
    bench_step(&b, ns(101));
    EXPECT_EQ(bench_in(&b, SPEAKER) & 0x20, 0x20);

    u8 a = bench_in(&b, SPEAKER) & 0x10;
    bench_step(&b, 15085);
    EXPECT(a != (bench_in(&b, SPEAKER) & 0x10));
    bench_free(&b);
}

TEST_MAIN()
