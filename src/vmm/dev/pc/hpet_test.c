// SPDX-License-Identifier: GPL-2.0-or-later
/* hpet_test.c - counter and comparators; GSIs and messages are counted. */
#include "vmm/dev/pc/hpet.h"

#include "base/test.h"
#include "vmm/core/bench.h"

enum { M = BENCH_MEM, T0 = M + 0x100, T1 = M + 0x120 };

struct sink {
    u32 rose[24], msis;
    bool level[24];
    u64 addr;
    u32 data;
};
static void sink_gsi(void *opaque, unsigned n, bool level)
{
    struct sink *s = opaque;

    s->rose[n] += level && !s->level[n];
    s->level[n] = level;
}
static void sink_msi(void *opaque, u64 addr, u32 data)
{
    struct sink *s = opaque;

    s->msis++;
    s->addr = addr;
    s->data = data;
}
static const struct intc_ops sink_ops = { .gsi = sink_gsi, .msi = sink_msi };

static struct bench hpet_bench(struct sink *k)
{
    struct bench b = bench_new(&hpet_type, 0);

    *k = (struct sink){};
    b.vm->intc = &sink_ops;
    b.vm->intc_opaque = k;
    return b;
}
static u64 get(struct bench *b, u64 at)
{
    return bench_mem_read(b, at, 8);
}
static void put(struct bench *b, u64 at, u64 val)
{
    bench_mem_write(b, at, val, 8);
}

TEST(hpet_counter)
{
    struct sink k;
    struct bench b = hpet_bench(&k);

    EXPECT_EQ(get(&b, M), 10000000ull << 32 | HPET_ID);
    bench_step(&b, 1000);
    EXPECT_EQ(get(&b, M + 0xf0), 0);
    put(&b, M + 0x10, 1);
    bench_step(&b, 1000);
    EXPECT_EQ(get(&b, M + 0xf0), 100);
    bench_migrate(&b);
    put(&b, M + 0x10, 0);
    bench_step(&b, 1000);
    EXPECT_EQ(get(&b, M + 0xf0), 100);
    put(&b, M + 0xf0, 0x1ffffffff);
    EXPECT_EQ(bench_mem_read(&b, M + 0xf4, 4), 1);
    b.vm->intc = NULL;
    bench_free(&b);
}

TEST(hpet_one_shot_and_periodic)
{
    struct sink k;
    struct bench b = hpet_bench(&k);

    put(&b, M + 0x10, 1);
    put(&b, T0, 16 << 9 | 4);
    put(&b, T0 + 8, 1000);
    bench_step(&b, 9999);
    EXPECT_EQ(k.rose[16], 0);
    bench_step(&b, 2);
    EXPECT_EQ(k.rose[16], 1);
    bench_step(&b, NS_PER_SEC);
    EXPECT_EQ(k.rose[16], 1);

    /* As Linux does: accumulator, then period, in 32-bit mode. */
    put(&b, T1, 17 << 9 | 1 << 8 | 1 << 6 | 1 << 3 | 4);
    bench_mem_write(&b, T1 + 8, (u32)get(&b, M + 0xf0) + 100000, 4);
    bench_mem_write(&b, T1 + 8, 100000, 4);
    for (u32 i = 0; i < 100; i++)
        bench_step(&b, NS_PER_MS);
    EXPECT_EQ(k.rose[17], 100);
    bench_mem_write(&b, T1 + 8, 1, 4); /* a tick each 10 ns is not to be had */
    u32 n = k.rose[17];
    bench_step(&b, 10 * NS_PER_MS);
    EXPECT(k.rose[17] - n <= 101);
    put(&b, M + 0x10, 0);
    n = k.rose[17];
    bench_step(&b, 10 * NS_PER_MS);
    EXPECT_EQ(k.rose[17], n);
    b.vm->intc = NULL;
    bench_free(&b);
}

TEST(hpet_level_fsb_legacy)
{
    struct sink k;
    struct bench b = hpet_bench(&k);
    struct irq *pit = hpet_legacy_line(b.dev, 0);

    irq_set(pit, true);
    EXPECT_EQ(k.rose[0], 1);
    put(&b, M + 0x10, 3);
    EXPECT(!k.level[0]);
    irq_set(pit, false);
    irq_set(pit, true);
    EXPECT_EQ(k.rose[0], 1);
    put(&b, T0, 4);
    put(&b, T0 + 8, get(&b, M + 0xf0) + 100);
    bench_step(&b, 1001);
    EXPECT_EQ(k.rose[0], 2);

    put(&b, T1, 1 << 14 | 4);
    put(&b, T1 + 16, 0xfee01000ull << 32 | 0x41);
    put(&b, M + 0x10, 1);
    put(&b, T1 + 8, get(&b, M + 0xf0) + 100);
    bench_step(&b, 1001);
    EXPECT_EQ(k.msis, 1);
    EXPECT_EQ(k.addr, 0xfee01000);
    EXPECT_EQ(k.data, 0x41);

    put(&b, T0, 18 << 9 | 4 | 2);
    put(&b, T0 + 8, get(&b, M + 0xf0) + 100);
    bench_step(&b, 1001);
    EXPECT(k.level[18]);
    EXPECT_EQ(get(&b, M + 0x20), 1);
    put(&b, M + 0x20, 1);
    EXPECT(!k.level[18]);
    EXPECT_EQ(get(&b, M + 0x20), 0);
    EXPECT_EQ(bench_load(&b, "config=4"), -74);
    b.vm->intc = NULL;
    bench_free(&b);
}

TEST_MAIN()
