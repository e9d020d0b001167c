// SPDX-License-Identifier: GPL-2.0-or-later
/* fw_cfg_test.c - items, files, directory and DMA of the firmware configuration device. */
#include "vmm/dev/pc/fw_cfg.h"

#include "base/test.h"
#include "vmm/core/bench.h"

enum { SEL = 0x510, DATA = 0x511, DMA = 0x512 }; /* the bench puts them side by side */

static void get(struct bench *b, u16 key, void *to, size_t n)
{
    bench_out16(b, SEL, key);
    for (size_t i = 0; i < n; i++)
        ((u8 *)to)[i] = bench_in(b, DATA);
}

struct access {
    be32 control, length;
    be64 address;
};
static u32 dma(struct bench *b, u32 control, u32 n, u64 to)
{
    struct access a = { be32_of(control), be32_of(n), be64_of(to) };

    EXPECT(ram_put(b->vm->ram, 0x1000, &a, sizeof a));
    bench_out32(b, DMA, 0);
    bench_out32(b, DMA + 4, htobe32(0x1000));
    EXPECT(ram_get(b->vm->ram, 0x1000, &a, sizeof a));
    return be32_get(a.control);
}

static GBytes *make(void *opaque)
{
    ++*(u32 *)opaque;
    return g_bytes_new("fresh", 5);
}
static void written(void *opaque, const u8 *bytes, size_t n)
{
    EXPECT_EQ(n, 8);
    memcpy(opaque, bytes, 8);
}

TEST(fw_cfg_items)
{
    struct bench b = bench_new(&fw_cfg_type, SEL);
    u8 buf[80];
    u32 made = 0;

    get(&b, 0, buf, 6);
    EXPECT(!memcmp(buf, "QEMU\0\0", 6));
    get(&b, 1, buf, 4);
    EXPECT(!memcmp(buf, "\3\0\0\0", 4));
    fw_cfg_add_u16(b.dev, FW_CFG_NB_CPUS, 0x102);
    get(&b, FW_CFG_NB_CPUS, buf, 2);
    EXPECT(!memcmp(buf, "\2\1", 2));
    EXPECT(fw_cfg_add_file(b.dev, "etc/one", "hello", 5, NULL));
    EXPECT(fw_cfg_add_callback(b.dev, "etc/two", 5, make, &made, NULL));
    EXPECT(fw_cfg_add_file(b.dev, "etc/one", "hallo!", 6, NULL));
    get(&b, FW_CFG_FILE_DIR, buf, 68);
    EXPECT(!memcmp(buf, "\0\0\0\2\0\0\0\6\0\x20\0\0etc/one", 20));
    get(&b, 0x21, buf, 6);
    EXPECT(!memcmp(buf, "fresh\0", 6));
    get(&b, 0x21, buf, 6);
    EXPECT_EQ(made, 1);
    dev_reset(b.dev);
    get(&b, 0x21, buf, 1);
    EXPECT_EQ(made, 2);
    get(&b, 0xffff, buf, 2);
    EXPECT_EQ(buf[0], 0);
    get(&b, 0x20, buf, 2);
    EXPECT_EQ(bench_in(&b, DATA), 'l');
    EXPECT(!fw_cfg_add_file(b.dev, "", "", 0, NULL));
    bench_free(&b);
}

TEST(fw_cfg_migrates_position)
{
    struct bench b = bench_new(&fw_cfg_type, SEL);

    bench_out16(&b, SEL, 0);
    EXPECT_EQ(bench_in(&b, DATA), 'Q');
    bench_migrate(&b);
    EXPECT_EQ(bench_in(&b, DATA), 'E');
    bench_free(&b);
}

TEST(fw_cfg_dma)
{
    struct bench b = bench_new(&fw_cfg_type, SEL);
    char buf[16], wrote[8] = "";

    EXPECT_EQ(bench_in(&b, DMA), 'Q');
    EXPECT_EQ(bench_in32(&b, DMA), 0x554d4551 & 0xffffffff);
    EXPECT_EQ(bench_in(&b, DMA + 7), 'G');
    EXPECT(fw_cfg_add_file(b.dev, "f", "0123456789", 10, NULL));
    EXPECT_EQ(dma(&b, 0x20 << 16 | 8 | 2, 4, 0x2000), 0);
    EXPECT_EQ(dma(&b, 4, 2, 0), 0);
    EXPECT_EQ(dma(&b, 2, 8, 0x2004), 0); /* four bytes there are, then zeroes */
    EXPECT(ram_get(b.vm->ram, 0x2000, buf, 12));
    EXPECT(!memcmp(buf, "01236789\0\0\0\0", 12));
    EXPECT_EQ(dma(&b, 0x20 << 16 | 8 | 2, 4, BENCH_RAM), 1);
    EXPECT_EQ(dma(&b, 0x20 << 16 | 8 | 2, UINT32_MAX, 0x2000), 1);
    EXPECT_EQ(dma(&b, 0x20 << 16 | 8 | 2, 4, UINT64_MAX - 1), 1);
    EXPECT_EQ(dma(&b, 0x20 << 16 | 8 | 16, 4, 0x2000), 1); /* not writable */
    EXPECT(fw_cfg_add_writable(b.dev, "w", NULL, 8, written, wrote, NULL));
    EXPECT(ram_put(b.vm->ram, 0x2000, "01236789", 8));
    EXPECT_EQ(dma(&b, 0x21 << 16 | 8 | 16, 8, 0x2000), 0);
    EXPECT(!memcmp(wrote, "01236789", 8));
    EXPECT_EQ(dma(&b, 16, 1, 0x2000), 1); /* behind its end */
    EXPECT_EQ(dma(&b, 0x21 << 16 | 8 | 16, 9, 0x2000), 1);
    bench_out32(&b, DMA, 0xffffffff); /* a descriptor where nothing is */
    bench_out32(&b, DMA + 4, 0xffffffff);
    bench_free(&b);
}

TEST_MAIN()
