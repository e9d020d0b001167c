// SPDX-License-Identifier: GPL-2.0-or-later
/* clock_test.c - the guest's time stands with the guest; timers fire once, in order, or not. */
#include "vmm/core/clock.h"

#include <stdatomic.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"

enum { TIMERS = 64 };
struct ticker {
    struct dev dev;
    struct timer t[TIMERS];
    u64 fired_at[TIMERS];
    _Atomic u32 fired;
    u64 period;
};

static void tick(struct dev *d, struct timer *t)
{
    struct ticker *s = container_of(d, struct ticker, dev);

    s->fired_at[t - s->t] = vm_now(d->vm);
    s->fired++;
    if (s->period)
        timer_set(t, vm_now(d->vm) + s->period);
}

static bool ticker_init(struct dev *d, GError **error UNUSED)
{
    struct ticker *s = container_of(d, struct ticker, dev);

    for (u32 i = 0; i < TIMERS; i++)
        timer_init(&s->t[i], d, tick);
    return true;
}
static const struct dev_type ticker_type = { .name = "ticker",
                                             .size = sizeof(struct ticker),
                                             .init = ticker_init };

TEST(timers_fire_in_order_on_a_turned_clock)
{
    struct bench b = bench_new(&ticker_type, 0);
    struct ticker *s = container_of(b.dev, struct ticker, dev);
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    u64 at[TIMERS];

    dev_lock(b.dev);
    for (u32 round = 0; round < 3; round++) {
        for (u32 i = 0; i < TIMERS; i++)
            timer_set(&s->t[i], at[i] = (u64)g_rand_int_range(rand, 1, 1000));
    }
    for (u32 i = 0; i < TIMERS; i += 3)
        timer_cancel(&s->t[i]);
    EXPECT(timer_armed(&s->t[1]));
    EXPECT(!timer_armed(&s->t[0]));
    dev_unlock(b.dev);
    bench_step(&b, 500);
    EXPECT_EQ(vm_now(b.vm), 500);
    for (u32 i = 0; i < TIMERS; i++)
        EXPECT_EQ(s->fired_at[i], i % 3 && at[i] <= 500 ? at[i] : 0);
    bench_step(&b, 500);
    for (u32 i = 0; i < TIMERS; i++)
        EXPECT_EQ(s->fired_at[i], i % 3 ? at[i] : 0);
    s->fired = 0;
    s->period = 10;
    dev_lock(b.dev);
    timer_set(&s->t[0], 5); /* the past: at once */
    dev_unlock(b.dev);
    bench_step(&b, 100);
    EXPECT_EQ(s->fired, 11);
    EXPECT_EQ(vm_wall_ns(b.vm), CLOCK_MANUAL_WALL * NS_PER_SEC + 1100);
    bench_free(&b);
}

static void wait_for(_Atomic u32 *count, u32 n)
{
    for (u32 i = 0; i < 5000 && atomic_load(count) < n; i++)
        usleep(1000);
}

TEST(timers_fire_in_time)
{
    struct vm *vm = vm_new();
    struct dev *d = dev_new(vm, &ticker_type, NULL);
    struct ticker *s = container_of(d, struct ticker, dev);

    EXPECT(dev_realize(d, NULL));
    dev_lock(d);
    timer_set(&s->t[0], 0);
    dev_unlock(d);
    usleep(2000);
    EXPECT_EQ(s->fired, 0); /* stands */
    EXPECT_EQ(vm_now(vm), 0);
    clock_run(vm);
    wait_for(&s->fired, 1);
    EXPECT_EQ(s->fired, 1);

    u64 want = vm_now(vm) + 3 * NS_PER_MS;
    dev_lock(d);
    timer_set(&s->t[1], want + 500 * NS_PER_SEC);
    timer_set(&s->t[2], want);
    dev_unlock(d);
    wait_for(&s->fired, 2);
    dev_lock(d);
    EXPECT(s->fired_at[2] >= want);
    dev_unlock(d);

    clock_stop(vm);
    u64 then = vm_now(vm);
    dev_lock(d);
    timer_set(&s->t[3], then + 1);
    dev_unlock(d);
    usleep(3000);
    EXPECT_EQ(vm_now(vm), then);
    EXPECT_EQ(s->fired, 2);
    clock_set(vm, then + NS_PER_SEC);
    clock_run(vm);
    EXPECT(vm_now(vm) >= then + NS_PER_SEC);
    wait_for(&s->fired, 3);
    EXPECT_EQ(s->fired, 3);
    vm_free(vm);
}

TEST(a_cancelled_timer_does_not_fire)
{
    struct vm *vm = vm_new();
    struct dev *d = dev_new(vm, &ticker_type, NULL);
    struct ticker *s = container_of(d, struct ticker, dev);
    u32 before;

    EXPECT(dev_realize(d, NULL));
    clock_run(vm);
    for (u32 i = 0; i < 300; i++) {
        dev_lock(d);
        timer_set(&s->t[0], vm_now(vm)); /* the thread goes for the device's lock now */
        before = s->fired;
        usleep(i % 50);
        timer_cancel(&s->t[0]);
        EXPECT_EQ(s->fired, before);
        dev_unlock(d);
        usleep(i % 20);
        EXPECT_EQ(s->fired, before);
    }
    dev_lock(d);
    s->period = 1000;
    for (u32 i = 0; i < 4; i++)
        timer_set(&s->t[i], 0);
    dev_unlock(d);
    usleep(2000);
    dev_free(d); /* while they fire */
    vm_free(vm);
}
TEST_MAIN()
