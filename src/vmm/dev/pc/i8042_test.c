// SPDX-License-Identifier: GPL-2.0-or-later
/* i8042_test.c - keyboard controller, keyboard and mouse. */
#include "vmm/dev/pc/i8042.h"

#include "base/test.h"
#include "vmm/core/bench.h"
#include "vmm/dev/pc/ps2.h"

enum { DATA = 0x60, CMD = 0x61 }; /* the bench puts the two ports side by side */

static u8 ask(struct bench *b, u8 command)
{
    bench_out(b, CMD, command);
    EXPECT_EQ(bench_in(b, CMD) & 1, 1);
    return bench_in(b, DATA);
}
static void mouse(struct bench *b, u8 val)
{
    bench_out(b, CMD, 0xd4);
    bench_out(b, DATA, val);
    EXPECT_EQ(bench_in(b, CMD) & 0x21, 0x21);
    EXPECT_EQ(bench_in(b, DATA), 0xfa);
}
static void ctr(struct bench *b, u8 val)
{
    bench_out(b, CMD, 0x60);
    bench_out(b, DATA, val);
}

TEST(i8042_controller)
{
    struct bench b = bench_new(&i8042_type, DATA);

    EXPECT_EQ(bench_in(&b, CMD) & 1, 0);
    EXPECT_EQ(ask(&b, 0xaa), 0x55);
    EXPECT_EQ(ask(&b, 0xab), 0x00);
    EXPECT_EQ(ask(&b, 0xa9), 0x00);
    ctr(&b, 0x47);
    EXPECT_EQ(ask(&b, 0x20), 0x47);
    bench_out(&b, CMD, 0xa7);
    EXPECT_EQ(ask(&b, 0x20), 0x67);
    bench_out(&b, CMD, 0xa8);
    bench_out(&b, CMD, 0xd3); /* the loop test of Linux, with its interrupt */
    u32 n = bench_irq_edges(&b, 1);
    bench_out(&b, DATA, 0x5a);
    EXPECT_EQ(bench_irq_edges(&b, 1), n + 1);
    EXPECT_EQ(bench_in(&b, CMD) & 0x21, 0x21);
    EXPECT_EQ(bench_in(&b, DATA), 0x5a);
    EXPECT(!bench_irq(&b, 1));
    EXPECT_EQ(ask(&b, 0xd0) & 3, 3);
    bench_out(&b, CMD, 0xdd);
    EXPECT_EQ(ask(&b, 0xd0) & 3, 1);
    EXPECT_EQ(b.vm->requests, 0);
    bench_out(&b, CMD, 0xfe);
    EXPECT_EQ(b.vm->requests, VM_REQ_RESET);
    bench_free(&b);
}

TEST(i8042_keyboard)
{
    struct bench b = bench_new(&i8042_type, DATA);

    ctr(&b, 0x03); /* no translation */
    bench_out(&b, DATA, 0xff);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    EXPECT_EQ(bench_in(&b, DATA), 0xaa);
    EXPECT(!bench_irq(&b, 0));
    bench_out(&b, DATA, 0xf2);
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    bench_migrate(&b);
    EXPECT_EQ(bench_in(&b, DATA), 0xab);
    EXPECT_EQ(bench_in(&b, DATA), 0x83);
    i8042_key(b.dev, 0x1e, true);
    i8042_key(b.dev, 0x1e, false);
    EXPECT_EQ(bench_in(&b, DATA), 0x1c);
    EXPECT_EQ(bench_in(&b, DATA), 0xf0);
    EXPECT_EQ(bench_in(&b, DATA), 0x1c);
    ctr(&b, 0x43);
    i8042_key(b.dev, 0xe048, true);
    i8042_key(b.dev, 0xe048, false);
    i8042_key(b.dev, 0x41, true);
    EXPECT_EQ(bench_in(&b, DATA), 0xe0);
    EXPECT_EQ(bench_in(&b, DATA), 0x48);
    EXPECT_EQ(bench_in(&b, DATA), 0xe0);
    EXPECT_EQ(bench_in(&b, DATA), 0xc8);
    EXPECT_EQ(bench_in(&b, DATA), 0x41);
    for (u32 c = 1; c < 0x59; c++) { /* every key comes back as the code it went in as */
        if (c >= 0x55 && c < 0x57)
            continue;
        i8042_key(b.dev, c, true);
        i8042_key(b.dev, c, false);
        EXPECT_EQ(bench_in(&b, DATA), c);
        EXPECT_EQ(bench_in(&b, DATA), c | 0x80);
    }
    i8042_key(b.dev, PS2_PAUSE, true);
    static const u8 pause[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
    for (u32 i = 0; i < 6; i++)
        EXPECT_EQ(bench_in(&b, DATA), pause[i]);
    bench_out(&b, DATA, 0xed);
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    bench_out(&b, DATA, 0x02);
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    EXPECT_EQ(i8042_leds(b.dev), 2);
    bench_out(&b, DATA, 0xf0);
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    bench_out(&b, DATA, 0x00);
    EXPECT_EQ(bench_in(&b, DATA), 0xfa);
    EXPECT_EQ(bench_in(&b, DATA), 0x41); /* set 2, translated */
    for (u32 i = 0; i < 1000; i++)       /* nobody reads: it stays bounded */
        i8042_key(b.dev, 0x1e, i & 1);
    EXPECT_EQ(bench_load(&b, "kbd.set=3"), -74);
    bench_free(&b);
}

TEST(i8042_mouse)
{
    struct bench b = bench_new(&i8042_type, DATA);

    ctr(&b, 0x03);
    i8042_mouse(b.dev, 5, 5, 0, 0); /* not enabled */
    EXPECT_EQ(bench_in(&b, CMD) & 1, 0);
    mouse(&b, 0xff);
    EXPECT_EQ(bench_in(&b, DATA), 0xaa);
    EXPECT_EQ(bench_in(&b, DATA), 0x00);
    mouse(&b, 0xf2);
    EXPECT_EQ(bench_in(&b, DATA), 0x00);
    mouse(&b, 0xf4);
    i8042_mouse(b.dev, 5, -3, 0, 1);
    EXPECT(bench_irq(&b, 1));
    EXPECT_EQ(bench_in(&b, DATA), 0x09);
    EXPECT_EQ(bench_in(&b, DATA), 5);
    EXPECT_EQ(bench_in(&b, DATA), 3);
    i8042_mouse(b.dev, -300, 0, 0, 0);
    EXPECT_EQ(bench_in(&b, DATA), 0x18);
    EXPECT_EQ(bench_in(&b, DATA), 0x01);
    EXPECT_EQ(bench_in(&b, DATA), 0x00);
    EXPECT_EQ(bench_in(&b, DATA), 0x18); /* the rest of it */
    EXPECT_EQ(bench_in(&b, DATA), (u8)-45);
    EXPECT_EQ(bench_in(&b, DATA), 0x00);
    EXPECT_EQ(bench_in(&b, CMD) & 1, 0);
    static const u8 wheel[] = { 200, 100, 80 }, five[] = { 200, 200, 80 };
    for (u32 i = 0; i < 3; i++) {
        mouse(&b, 0xf3);
        mouse(&b, wheel[i]);
    }
    mouse(&b, 0xf2);
    EXPECT_EQ(bench_in(&b, DATA), 3);
    bench_migrate(&b);
    i8042_mouse(b.dev, 0, 0, -1, 0);
    EXPECT_EQ(bench_in(&b, DATA), 0x08);
    bench_in(&b, DATA);
    bench_in(&b, DATA);
    EXPECT_EQ(bench_in(&b, DATA), 0xff);
    for (u32 i = 0; i < 3; i++) {
        mouse(&b, 0xf3);
        mouse(&b, five[i]);
    }
    i8042_mouse(b.dev, 0, 0, 1, 0x10);
    EXPECT_EQ(bench_in(&b, DATA), 0x08);
    bench_in(&b, DATA);
    bench_in(&b, DATA);
    EXPECT_EQ(bench_in(&b, DATA), 0x21);
    mouse(&b, 0xe9);
    EXPECT_EQ(bench_in(&b, DATA), 0x20);
    EXPECT_EQ(bench_in(&b, DATA), 0x02);
    EXPECT_EQ(bench_in(&b, DATA), 80);
    for (u32 i = 0; i < 100000; i++)
        i8042_mouse(b.dev, 30000, -30000, 100, i);
    bench_free(&b);
}

TEST_MAIN()
