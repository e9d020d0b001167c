// SPDX-License-Identifier: GPL-2.0-or-later
/* bench_test.c - the bench itself, with a device that uses all of it. */
#include "vmm/core/bench.h"

#include <errno.h>

#include "base/test.h"

struct blink {
    struct dev dev;
    struct timer timer;
    u32 period_us;
    struct blink_regs {
        u64 next;
        u8 index, on;
        u8 zero[6];
        u8 cell[8];
    } r;
};
static const struct state_field blink_fields[] = {
    STATE_INT(struct blink_regs, next),   STATE_UINT(struct blink_regs, index, 7),
    STATE_BOOL(struct blink_regs, on),    STATE_PAD(struct blink_regs, zero),
    STATE_BYTES(struct blink_regs, cell),
};
static const struct prop blink_props[] = {
    PROP(struct blink, period_us, PROP_U32, .name = "period", .min = 1, .def = "10"),
    { 0 },
};

static u64 blink_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct blink *s = container_of(d, struct blink, dev);

    return off ? s->r.cell[s->r.index] : s->r.index;
}
static void blink_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct blink *s = container_of(d, struct blink, dev);

    if (off)
        s->r.cell[s->r.index] = (u8)val;
    else
        s->r.index = val & 7;
    if (off && val == 0x99)
        timer_set(&s->timer, s->r.next = vm_now(d->vm) + s->period_us * NS_PER_US);
}
static void blink_fire(struct dev *d, struct timer *t UNUSED)
{
    struct blink *s = container_of(d, struct blink, dev);

    s->r.on ^= 1;
    irq_set(d->irq[0], s->r.on);
    timer_set(&s->timer, s->r.next = vm_now(d->vm) + s->period_us * NS_PER_US);
}
static bool blink_init(struct dev *d, GError **error UNUSED)
{
    struct blink *s = container_of(d, struct blink, dev);

    timer_init(&s->timer, d, blink_fire);
    return true;
}
static void blink_loaded(struct dev *d)
{
    struct blink *s = container_of(d, struct blink, dev);

    irq_set(d->irq[0], s->r.on);
    if (s->r.next)
        timer_set(&s->timer, s->r.next);
}
static const struct region blink_ports = {
    .name = "blink", .len = 2, .min = 1, .max = 1, .read = blink_read, .write = blink_write
};
static const struct dev_type blink_type = {
    .name = "blink",
    .size = sizeof(struct blink),
    .io = { &blink_ports },
    .mem = { &blink_ports },
    .irqs = 1,
    .props = blink_props,
    .state = { offsetof(struct blink, r), sizeof(struct blink_regs), blink_fields,
               ARRAY_LEN(blink_fields) },
    .init = blink_init,
    .loaded = blink_loaded,
};

TEST(bench_does_what_it_says)
{
    struct bench b = bench_begin(&blink_type, 0x70);

    EXPECT(dev_set(b.dev, "period", "20", NULL));
    EXPECT(bench_realize(&b, NULL));
    bench_out(&b, 0x70, 3);
    bench_out(&b, 0x71, 0x55);
    EXPECT_EQ(bench_in16(&b, 0x70), 0x5503);
    EXPECT_EQ(bench_mem_read(&b, BENCH_MEM + 1, 1), 0x55);
    bench_mem_write(&b, BENCH_MEM + 1, 0x99, 1);
    bench_step(&b, 20 * NS_PER_US);
    EXPECT(bench_irq(&b, 0));
    bench_step(&b, 10 * NS_PER_US);
    bench_migrate(&b);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(bench_in(&b, 0x71), 0x99);
    bench_step(&b, 10 * NS_PER_US);
    EXPECT(!bench_irq(&b, 0));
    bench_step(&b, 100 * NS_PER_US);
    EXPECT_EQ(bench_irq_edges(&b, 0), 5);
    EXPECT_EQ(bench_load(&b, "index=7"), 0);
    EXPECT_EQ(bench_in(&b, 0x70), 7);
    EXPECT_EQ(bench_load(&b, "index=255"), -EBADMSG);
    EXPECT_EQ(bench_load(&b, "cell[7]=0x12"), 0);
    EXPECT_EQ(bench_in(&b, 0x71), 0x12);
    bench_free(&b);
}
TEST_MAIN()
