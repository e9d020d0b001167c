// SPDX-License-Identifier: GPL-2.0-or-later
/* pic_test.c - the 8259A pair. */
#include "vmm/dev/pc/pic.h"

#include "base/test.h"
#include "vmm/core/bench.h"

enum { M = 0x20, S = 0x22, ELCR = 0x24 }; /* where the bench puts the three regions */

static struct bench pic_bench(u8 icw4)
{
    struct bench b = bench_new(&pic_type, M);

    bench_out(&b, M, 0x11);
    bench_out(&b, M + 1, 0x30);
    bench_out(&b, M + 1, 0x04);
    bench_out(&b, M + 1, icw4);
    bench_out(&b, S, 0x11);
    bench_out(&b, S + 1, 0x38);
    bench_out(&b, S + 1, 0x02);
    bench_out(&b, S + 1, icw4);
    bench_out(&b, M + 1, 0);
    bench_out(&b, S + 1, 0);
    return b;
}

TEST(pic_edge_and_eoi)
{
    struct bench b = pic_bench(1);

    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_irq_in(&b, 4, true);
    EXPECT(bench_irq(&b, 0));
    EXPECT(pic_pending(b.dev));
    bench_out(&b, M, 0x0a);
    EXPECT_EQ(bench_in(&b, M), 0x10); /* IRR */
    EXPECT_EQ(pic_ack(b.dev), 0x34);
    EXPECT_EQ(bench_in(&b, M), 0x00);
    bench_out(&b, M, 0x0b);
    EXPECT_EQ(bench_in(&b, M), 0x10); /* ISR */
    EXPECT(!bench_irq(&b, 0));

    bench_irq_in(&b, 5, true); /* less urgent: waits for the EOI */
    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_irq_in(&b, 1, true); /* more urgent: nests */
    EXPECT_EQ(pic_ack(b.dev), 0x31);
    bench_migrate(&b);
    bench_out(&b, M, 0x20);
    EXPECT_EQ(bench_in(&b, M), 0x10);
    bench_out(&b, M, 0x64); /* specific EOI of 4 */
    EXPECT_EQ(pic_ack(b.dev), 0x35);
    bench_out(&b, M, 0x20);
    bench_irq_in(&b, 4, true); /* still high: no new edge */
    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_irq_in(&b, 4, false);
    bench_irq_in(&b, 4, true);
    EXPECT_EQ(pic_ack(b.dev), 0x34);
    bench_free(&b);
}

TEST(pic_cascade)
{
    struct bench b = pic_bench(1);

    bench_irq_in(&b, 12, true);
    bench_irq_in(&b, 8, true);
    EXPECT_EQ(pic_ack(b.dev), 0x38);
    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_out(&b, S, 0x20);
    EXPECT_EQ(pic_ack(b.dev), -1); /* the master's IR2 is in service */
    bench_out(&b, M, 0x20);
    EXPECT_EQ(pic_ack(b.dev), 0x3c);
    bench_out(&b, S, 0x0b);
    EXPECT_EQ(bench_in(&b, S), 0x10);
    bench_out(&b, M, 0x0b);
    EXPECT_EQ(bench_in(&b, M), 0x04);
    bench_irq_in(&b, 2, true); /* nobody drives the cascade from outside */
    bench_out(&b, S, 0x20);
    bench_out(&b, M, 0x20);
    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_free(&b);
}

TEST(pic_level_mask_and_fall)
{
    struct bench b = pic_bench(1);

    bench_out(&b, ELCR, 0xff);
    bench_out(&b, ELCR + 1, 0xff);
    EXPECT_EQ(bench_in(&b, ELCR), 0xf8);
    EXPECT_EQ(bench_in(&b, ELCR + 1), 0xde);
    bench_irq_in(&b, 11, true);
    EXPECT_EQ(pic_ack(b.dev), 0x3b);
    bench_out(&b, S, 0x20);
    bench_out(&b, M, 0x20);
    EXPECT_EQ(pic_ack(b.dev), 0x3b); /* asks again while it is high */
    bench_irq_in(&b, 11, false);
    bench_out(&b, S, 0x20);
    bench_out(&b, M, 0x20);
    EXPECT_EQ(pic_ack(b.dev), -1);

    bench_out(&b, M + 1, 0x02);
    bench_irq_in(&b, 1, true);
    EXPECT(!pic_pending(b.dev));
    bench_out(&b, M + 1, 0x00); /* the latch was set under the mask */
    EXPECT(pic_pending(b.dev));
    bench_irq_in(&b, 1, false);
    EXPECT(!pic_pending(b.dev));
    bench_free(&b);
}

TEST(pic_aeoi_rotation_poll)
{
    struct bench b = pic_bench(3);

    bench_out(&b, M, 0x80); /* rotate in AEOI mode */
    bench_irq_in(&b, 3, true);
    EXPECT_EQ(pic_ack(b.dev), 0x33);
    bench_irq_in(&b, 1, true);
    bench_irq_in(&b, 4, true);
    EXPECT_EQ(pic_ack(b.dev), 0x34); /* 3 became the lowest */
    EXPECT_EQ(pic_ack(b.dev), 0x31);

    bench_out(&b, M, 0x0c);
    EXPECT_EQ(bench_in(&b, M), 0x00);
    bench_irq_in(&b, 5, true);
    bench_out(&b, M, 0x0c);
    EXPECT_EQ(bench_in(&b, M + 1), 0x85);
    EXPECT_EQ(bench_in(&b, M + 1), 0x00); /* IMR again */
    bench_free(&b);
}

TEST(pic_special_mask)
{
    struct bench b = pic_bench(1);

    bench_irq_in(&b, 1, true);
    EXPECT_EQ(pic_ack(b.dev), 0x31);
    bench_out(&b, M + 1, 0x02);
    bench_irq_in(&b, 6, true);
    EXPECT_EQ(pic_ack(b.dev), -1);
    bench_out(&b, M, 0x68);
    EXPECT_EQ(pic_ack(b.dev), 0x36);
    EXPECT_EQ(bench_load(&b, "chip[1].lowest=8"), -74);
    bench_free(&b);
}

TEST_MAIN()
