// SPDX-License-Identifier: GPL-2.0-or-later
/* rtc_test.c - clock and CMOS RAM; the bench's clock starts at Saturday, 2000-01-01 00:00:00.
 */
#include "vmm/dev/pc/rtc.h"

#include "base/test.h"
#include "vmm/core/bench.h"

static u8 get(struct bench *b, u8 reg)
{
    bench_out(b, 0x70, reg);
    return bench_in(b, 0x71);
}
static void put(struct bench *b, u8 reg, u8 val)
{
    bench_out(b, 0x70, reg);
    bench_out(b, 0x71, val);
}

TEST(rtc_date)
{
    struct bench b = bench_new(&rtc_type, 0x70);

    EXPECT_EQ(get(&b, 9), 0x00);
    EXPECT_EQ(get(&b, 0x32), 0x20);
    EXPECT_EQ(get(&b, 8), 0x01);
    EXPECT_EQ(get(&b, 7), 0x01);
    EXPECT_EQ(get(&b, 6), 0x07);
    bench_step(&b, (86400ull * 59 + 3600 * 13 + 60 * 25 + 36) * NS_PER_SEC); /* leap day */
    EXPECT_EQ(get(&b, 8), 0x02);
    EXPECT_EQ(get(&b, 7), 0x29);
    EXPECT_EQ(get(&b, 4), 0x13);
    EXPECT_EQ(get(&b, 2), 0x25);
    EXPECT_EQ(get(&b, 0), 0x36);
    rtc_set_time(b.dev, 1234567890);
    EXPECT_EQ(get(&b, 9), 0x09);
    EXPECT_EQ(get(&b, 7), 0x13);
    EXPECT_EQ(get(&b, 0), 0x30);
    rtc_set_time(b.dev, CLOCK_MANUAL_WALL + 86400 * 59 + 3600 * 13 + 60 * 25 + 36);
    put(&b, 0x0b, 0x04); /* binary, 12 hours */
    EXPECT_EQ(get(&b, 7), 29);
    EXPECT_EQ(get(&b, 4), 0x81);
    EXPECT_EQ(get(&b, 0), 36);
    bench_free(&b);
}

TEST(rtc_set_and_migrate)
{
    struct bench b = bench_new(&rtc_type, 0x70);

    bench_step(&b, NS_PER_SEC / 2);
    put(&b, 0x0b, 0x82);
    put(&b, 0x32, 0x19);
    put(&b, 9, 0x99);
    put(&b, 8, 0x12);
    put(&b, 7, 0x31);
    put(&b, 4, 0x23);
    put(&b, 2, 0x59);
    put(&b, 0, 0x58);
    bench_step(&b, 10 * NS_PER_SEC); /* stands while SET */
    EXPECT_EQ(get(&b, 0), 0x58);
    put(&b, 0x0b, 0x02);
    bench_step(&b, NS_PER_SEC + 1);
    EXPECT_EQ(get(&b, 0), 0x59);
    bench_migrate(&b);
    bench_step(&b, NS_PER_SEC);
    EXPECT_EQ(get(&b, 0), 0x00);
    EXPECT_EQ(get(&b, 9), 0x00);
    EXPECT_EQ(get(&b, 0x32), 0x20);
    EXPECT_EQ(get(&b, 7), 0x01);
    put(&b, 8, 0xff); /* nonsense while it runs */
    EXPECT(get(&b, 8) <= 0x12);
    rtc_set_cmos(b.dev, 0x34, 0x77);
    rtc_set_cmos(b.dev, 0x04, 0x77);
    EXPECT_EQ(get(&b, 0x34), 0x77);
    EXPECT_EQ(bench_load(&b, "index=128"), -74);
    bench_free(&b);
}

TEST(rtc_interrupts)
{
    struct bench b = bench_new(&rtc_type, 0x70);

    put(&b, 0x0b, 0x12); /* update ended */
    bench_step(&b, NS_PER_SEC);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(get(&b, 0x0c) & 0x90, 0x90);
    EXPECT(!bench_irq(&b, 0));
    put(&b, 0x01, 0x05); /* alarm at second 5 of any minute */
    put(&b, 0x03, 0xff);
    put(&b, 0x05, 0xff);
    put(&b, 0x0b, 0x22);
    bench_step(&b, 3 * NS_PER_SEC);
    EXPECT(!bench_irq(&b, 0));
    bench_step(&b, NS_PER_SEC);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(get(&b, 0x0c) & 0xa0, 0xa0);
    put(&b, 0x0a, 0x26); /* 1024 Hz */
    put(&b, 0x0b, 0x42);
    u32 n = bench_irq_edges(&b, 0);
    for (u32 i = 0; i < 1024; i++) {
        bench_step(&b, NS_PER_SEC / 1024);
        get(&b, 0x0c);
    }
    n = bench_irq_edges(&b, 0) - n;
    EXPECT(n >= 1020 && n <= 1025);
    put(&b, 0x0b, 0x02);
    get(&b, 0x0c);
    bench_step(&b, NS_PER_SEC);
    EXPECT_EQ(get(&b, 0x0c), 0x50); /* flags without an interrupt */
    EXPECT_EQ(get(&b, 0x0c), 0x00);
    bench_step(&b, NS_PER_SEC - 100000 - vm_now(b.vm) % NS_PER_SEC);
    EXPECT_EQ(get(&b, 0x0a) & 0x80, 0x80); /* update in progress */
    bench_step(&b, 200000);
    EXPECT_EQ(get(&b, 0x0a) & 0x80, 0x00);
    bench_free(&b);
}

TEST_MAIN()
