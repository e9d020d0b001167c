// SPDX-License-Identifier: GPL-2.0-or-later
/* misc_test.c - port 92, debug ports, DMA registers. */
#include "vmm/dev/pc/misc.h"

#include "base/test.h"
#include "vmm/core/bench.h"

TEST(port92_resets_on_the_edge)
{
    struct bench b = bench_new(&port92_type, 0x92);

    EXPECT_EQ(bench_in(&b, 0x92), 2);
    bench_out(&b, 0x92, 0x02);
    EXPECT_EQ(b.vm->requests, 0);
    bench_out(&b, 0x92, 0x03);
    EXPECT_EQ(b.vm->requests, VM_REQ_RESET);
    bench_migrate(&b);
    EXPECT_EQ(bench_in(&b, 0x92), 3);
    bench_free(&b);
}

TEST(debugcon_answers)
{
    struct bench b = bench_begin(&debugcon_type, 0);

    EXPECT(dev_set(b.dev, "iobase", "0x402", NULL));
    EXPECT(bench_realize(&b, NULL));
    EXPECT_EQ(bench_in(&b, 0x402), 0xe9);
    bench_out(&b, 0x402, 'x');
    bench_free(&b);
}

TEST(debugexit_status)
{
    struct bench b = bench_begin(&debugexit_type, 0);

    EXPECT(dev_set(b.dev, "iobase", "0xf4", NULL));
    EXPECT(dev_set(b.dev, "iosize", "4", NULL));
    EXPECT(bench_realize(&b, NULL));
    bench_out32(&b, 0xf4, 0x10);
    EXPECT_EQ(b.vm->exit_status, 0x21);
    bench_free(&b);
    b = bench_begin(&debugexit_type, 0);
    EXPECT(dev_set(b.dev, "iobase", "0xffff", NULL));
    EXPECT(!bench_realize(&b, NULL));
    bench_free(&b);
}

TEST(pvpanic_shuts_down)
{
    struct bench b = bench_new(&pvpanic_type, 0);

    EXPECT_EQ(bench_in(&b, 0x505), 3);
    bench_out(&b, 0x505, 2);
    EXPECT_EQ(b.vm->requests, 0);
    bench_out(&b, 0x505, 1);
    EXPECT_EQ(b.vm->requests, VM_REQ_SHUTDOWN);
    bench_free(&b);
}

TEST(dma_registers)
{
    struct bench b = bench_new(&dma_type, 0x80);

    bench_out(&b, 0x0c, 0);
    bench_out(&b, 0x02, 0x34);
    bench_out(&b, 0x02, 0x12);
    EXPECT_EQ(bench_in(&b, 0x02), 0x34);
    bench_migrate(&b);
    EXPECT_EQ(bench_in(&b, 0x02), 0x12);
    EXPECT_EQ(bench_in(&b, 0x08), 0);
    EXPECT_EQ(bench_in(&b, 0x0f), 0xff);
    bench_out(&b, 0x0a, 2);
    EXPECT_EQ(bench_in(&b, 0x0f), 0xfb);
    bench_out(&b, 0x87, 0x55);
    EXPECT_EQ(bench_in(&b, 0x87), 0x55);
    bench_out(&b, 0x80, 0xaa);
    EXPECT_EQ(bench_load(&b, "chip[0].high=2"), -74);
    bench_free(&b);
}

TEST_MAIN()
