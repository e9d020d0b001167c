// SPDX-License-Identifier: GPL-2.0-or-later
/* uart_test.c - the serial port without a host end: registers, interrupts, loopback. */
#include "vmm/dev/pc/uart.h"

#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/bench.h"

enum { P = 0x3f8 };

TEST(uart_registers)
{
    struct bench b = bench_new(&uart_type, P);

    EXPECT_EQ(bench_in(&b, P + 5), 0x60);
    EXPECT_EQ(bench_in(&b, P + 6), 0xb0);
    EXPECT_EQ(bench_in(&b, P + 2), 0x01);
    bench_out(&b, P + 3, 0x83);
    bench_out(&b, P + 0, 0x34);
    bench_out(&b, P + 1, 0x12);
    EXPECT_EQ(bench_in(&b, P), 0x34);
    EXPECT_EQ(bench_in(&b, P + 1), 0x12);
    bench_out(&b, P + 3, 0x03);
    bench_out(&b, P + 7, 0xa5);
    bench_out(&b, P + 1, 0xff);
    EXPECT_EQ(bench_in(&b, P + 1), 0x0f);
    bench_migrate(&b);
    EXPECT_EQ(bench_in(&b, P + 7), 0xa5);
    bench_out(&b, P + 2, 0x01);
    EXPECT_EQ(bench_in(&b, P + 2) & 0xc0, 0xc0);
    EXPECT_EQ(bench_load(&b, "rx_n=17"), -74);
    bench_free(&b);
}

TEST(uart_thre_interrupt)
{
    struct bench b = bench_new(&uart_type, P);

    bench_out(&b, P + 4, 0x0b);
    bench_out(&b, P + 1, 0x02);
    EXPECT(bench_irq(&b, 0)); /* empty when switched on */
    EXPECT_EQ(bench_in(&b, P + 2), 0x02);
    EXPECT(!bench_irq(&b, 0)); /* reading IIR took it back */
    bench_out(&b, P, 'x');
    EXPECT(bench_irq(&b, 0));
    bench_out(&b, P + 4, 0x03); /* OUT2 gates */
    EXPECT(!bench_irq(&b, 0));
    bench_out(&b, P + 4, 0x0b);
    EXPECT(bench_irq(&b, 0));
    bench_out(&b, P + 1, 0x00);
    EXPECT(!bench_irq(&b, 0));
    bench_out(&b, P + 1, 0x02); /* and asks again when switched on again */
    EXPECT(bench_irq(&b, 0));
    bench_free(&b);
}

TEST(uart_loopback_fifo_timeout)
{
    struct bench b = bench_new(&uart_type, P);

    bench_out(&b, P + 4, 0x1a); /* loop, OUT2, RTS */
    EXPECT_EQ(bench_in(&b, P + 6) & 0xf0, 0x90);
    bench_in(&b, P + 6);
    bench_out(&b, P + 4, 0x19); /* DTR for RTS */
    EXPECT_EQ(bench_in(&b, P + 6), 0xa3);
    bench_out(&b, P + 2, 0x81); /* FIFO, trigger 8 */
    bench_out(&b, P + 1, 0x01);
    bench_out(&b, P, 'a');
    EXPECT_EQ(bench_in(&b, P + 5) & 1, 1);
    EXPECT(!bench_irq(&b, 0));
    bench_step(&b, 10 * NS_PER_MS); /* four characters of silence at 9600 baud: 4 ms */
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(bench_in(&b, P + 2), 0xcc);
    EXPECT_EQ(bench_in(&b, P), 'a');
    EXPECT(!bench_irq(&b, 0));
    for (u32 i = 0; i < 8; i++)
        bench_out(&b, P, 'b' + i);
    EXPECT_EQ(bench_in(&b, P + 2), 0xc4);
    bench_migrate(&b);
    for (u32 i = 0; i < 8; i++)
        EXPECT_EQ(bench_in(&b, P), 'b' + i);
    EXPECT_EQ(bench_in(&b, P + 5) & 1, 0);
    for (u32 i = 0; i < 20; i++)
        bench_out(&b, P, i);
    EXPECT_EQ(bench_in(&b, P + 5) & 3, 3); /* overrun */
    EXPECT_EQ(bench_in(&b, P + 5) & 3, 1);
    bench_out(&b, P + 2, 0x03);
    EXPECT_EQ(bench_in(&b, P + 5) & 3, 0);
    bench_free(&b);
}

static void turn(struct bench *b)
{
    for (u32 i = 0; i < 50; i++) {
        while (g_main_context_iteration(b->vm->main, false))
            ;
        g_usleep(1000);
    }
}

/* A terminal at the other end: all that comes gets through a FIFO of 16 bytes. */
TEST(uart_with_a_terminal)
{
    struct bench b = bench_begin(&uart_type, P);
    struct chardev *c = chardev_new(b.vm, "c", "pty", NULL);
    const char *name = c ? strstr(chardev_describe(c), "/dev/") : NULL;
    int fd = name ? open(name, O_RDWR | O_NOCTTY | O_NONBLOCK) : -1;
    struct termios t;
    char buf[64];
    u32 got = 0;

    EXPECT(fd >= 0);
    EXPECT(!tcgetattr(fd, &t));
    cfmakeraw(&t);
    EXPECT(!tcsetattr(fd, TCSANOW, &t));
    EXPECT(dev_set_ptr(b.dev, "chardev", c, NULL));
    EXPECT(bench_realize(&b, NULL));
    turn(&b);
    bench_out(&b, P + 2, 0x41); /* FIFO, trigger 4 */
    bench_out(&b, P + 4, 0x0b);
    bench_out(&b, P + 1, 0x01);
    for (u32 i = 0; i < 40; i++)
        buf[i] = i + 1;
    EXPECT_EQ(write(fd, buf, 40), 40);
    for (u32 round = 0; round < 50 && got < 40; round++) {
        turn(&b);
        bench_step(&b, 100 * NS_PER_MS);
        EXPECT(bench_irq(&b, 0));
        for (u32 n = 0; bench_in(&b, P + 5) & 1; n++) {
            EXPECT(n < 16);
            EXPECT_EQ(bench_in(&b, P), ++got);
        }
        EXPECT(!bench_irq(&b, 0));
    }
    EXPECT_EQ(got, 40);
    for (u32 i = 0; i < 20; i++) {
        EXPECT_EQ(bench_in(&b, P + 5) & 0x60, 0x60);
        bench_out(&b, P, 'a' + i);
    }
    turn(&b);
    EXPECT_EQ(read(fd, buf, sizeof buf), 20);
    EXPECT(!memcmp(buf, "abcdefghijklmnopqrst", 20));
    close(fd);
    dev_free(b.dev); /* before what it stands on */
    b.dev = NULL;
    chardev_free_all(b.vm);
    bench_free(&b);
}

TEST_MAIN()
