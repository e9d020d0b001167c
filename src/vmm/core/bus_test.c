// SPDX-License-Identifier: GPL-2.0-or-later
/* bus_test.c - access splitting, overlap, doorbells, changes under readers. */
#include "vmm/core/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"

struct probe {
    struct dev dev;
    u8 mem[64];
    u32 calls;
    u64 last_off, last_val;
    unsigned last_size;
};

static u64 probe_read(struct dev *d, u64 off, unsigned size)
{
    struct probe *p = container_of(d, struct probe, dev);
    u64 v = 0;

    EXPECT_EQ(off % size, 0);
    memcpy(&v, p->mem + off, size);
    p->calls++;
    p->last_off = off;
    p->last_size = size;
    return v;
}

static void probe_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    struct probe *p = container_of(d, struct probe, dev);

    EXPECT_EQ(off % size, 0);
    memcpy(p->mem + off, &val, size);
    p->calls++;
    p->last_off = off;
    p->last_val = val;
    p->last_size = size;
}

static const struct region bytes = {
    .name = "bytes", .len = 8, .min = 1, .max = 1, .read = probe_read, .write = probe_write
};
static const struct region dwords = {
    .name = "dwords", .len = 16, .min = 4, .max = 4, .read = probe_read, .write = probe_write
};
static const struct region any = {
    .name = "any", .len = 32, .min = 1, .max = 8, .read = probe_read, .write = probe_write
};
static const struct region one = {
    .name = "one", .len = 1, .min = 1, .max = 1, .read = probe_read, .write = probe_write
};
static const struct dev_type probe_type = { .name = "probe", .size = sizeof(struct probe) };
static const struct dev_type other_type = { .name = "other", .size = sizeof(struct probe) };

static struct probe *probe_of(struct bench *b)
{
    struct probe *p = container_of(b->dev, struct probe, dev);

    for (u32 i = 0; i < sizeof p->mem; i++)
        p->mem[i] = (u8)(i + 1);
    return p;
}

TEST(bus_splits_and_widens)
{
    struct bench b = bench_new(&probe_type, 0);
    struct probe *p = probe_of(&b);
    struct bus *io = b.vm->io;

    bus_map(io, 0x100, &bytes, b.dev, 0);
    EXPECT_EQ(bus_read(io, 0x100, 4), 0x04030201);
    EXPECT_EQ(p->calls, 4);
    EXPECT_EQ(bus_read(io, 0x107, 2), 0xff08); /* the second byte is nobody's */
    EXPECT_EQ(bus_read(io, 0x0ff, 1), 0xff);
    EXPECT_EQ(bus_read(io, 0xffff, 1), 0xff);
    EXPECT_EQ(bus_read(io, 0xffff, 4), 0xffffffff);
    EXPECT_EQ(bus_read(io, 0x10000, 8), UINT64_MAX);

    bus_map(io, 0x200, &dwords, b.dev, 0);
    EXPECT_EQ(bus_read(io, 0x206, 2), 0x0807);
    EXPECT_EQ(p->last_off, 4);
    EXPECT_EQ(p->last_size, 4);
    bus_write(io, 0x209, 0xaa, 1);
    EXPECT_EQ(p->last_off, 8);
    EXPECT_EQ(p->last_val, 0xaa00);
    bus_write(io, 0x200, 0x1122334455667788, 8);
    EXPECT_EQ(p->last_val, 0x11223344);
    EXPECT_EQ(bus_read(io, 0x200, 8), 0x1122334455667788);

    bus_map(b.vm->mem, 0x1000, &any, b.dev, 0);
    probe_of(&b);
    p->calls = 0;
    EXPECT_EQ(bus_read(b.vm->mem, 0x1008, 8), 0x100f0e0d0c0b0a09);
    EXPECT_EQ(p->calls, 1);
    EXPECT_EQ(bus_read(b.vm->mem, 0x1003, 4), 0x07060504); /* 1 + 2 + 1, each aligned */
    EXPECT_EQ(p->calls, 4);
    EXPECT_EQ(bus_read(b.vm->mem, UINT64_MAX, 1), 0xff);
    EXPECT_EQ(bus_read(b.vm->mem, UINT64_MAX, 8), UINT64_MAX);
    bench_free(&b);
}

TEST(bus_overlap_goes_by_priority)
{
    struct bench b = bench_new(&probe_type, 0);
    struct probe *p = probe_of(&b);
    struct dev *o = dev_new(b.vm, &other_type, NULL);
    struct probe *q = container_of(o, struct probe, dev);
    struct bus *io = b.vm->io;

    bus_map(io, 0xcf8, &dwords, b.dev, 0);
    struct mapping *hi = bus_map(io, 0xcf9, &one, o, 1);
    bus_write(io, 0xcf9, 6, 1);
    EXPECT_EQ(q->last_val, 6);
    EXPECT_EQ(p->calls, 0);
    bus_write(io, 0xcf8, 0x80000000, 4);
    EXPECT_EQ(p->last_val, 0x80000000);
    EXPECT_EQ(q->calls, 1);
    struct mapping *low = bus_map(io, 0xcf9, &one, b.dev, -1);
    bus_write(io, 0xcf9, 7, 1);
    EXPECT_EQ(q->last_val, 7);
    struct mapping *later = bus_map(io, 0xcf9, &one, b.dev, 1);
    bus_write(io, 0xcf9, 8, 1);
    EXPECT_EQ(q->last_val, 7);
    g_autoptr(GString) s = g_string_new(NULL);
    bus_print(io, s);
    EXPECT(strstr(s->str, "0000000000000cf9-0000000000000cf9 one (bench)"));
    EXPECT(strstr(s->str, "0000000000000cfa-0000000000000d07 dwords (bench)"));
    bus_unmap(io, hi);
    bus_unmap(io, later);
    bus_unmap(io, low);
    bus_write(io, 0xcf9, 9, 1);
    EXPECT_EQ(p->last_val, 0x900);
    EXPECT(bus_has(io, 0xd07));
    EXPECT(!bus_has(io, 0xd08));

    bus_map(io, 0xfffe, &dwords, o, 0); /* what sticks out is cut off */
    EXPECT(bus_has(io, 0xffff));
    bus_map(io, 0x10000, &one, o, 0);
    EXPECT(!bus_has(io, 0x10000));
    bus_map(b.vm->mem, UINT64_MAX - 3, &dwords, o, 0);
    EXPECT(bus_has(b.vm->mem, UINT64_MAX));
    EXPECT(!bus_has(b.vm->mem, 0));
    dev_free(o);
    EXPECT(!bus_has(io, 0xffff));
    EXPECT(bus_has(io, 0xcf8));
    bench_free(&b);
}

static int heard;
static void hear(void *opaque UNUSED, const struct doorbell *d UNUSED, bool add)
{
    heard += add ? 1 : -1;
}

TEST(bus_doorbells_ring)
{
    struct bench b = bench_new(&probe_type, 0);
    struct probe *p = probe_of(&b);
    struct bus *mem = b.vm->mem;
    int fd = eventfd(0, EFD_NONBLOCK);
    struct doorbell d = { .at = 0x2004, .size = 2, .val = 1, .match = true, .fd = fd };
    struct doorbell e = { .at = 0x2008, .fd = fd };
    u64 n = 0;

    bus_map(mem, 0x2000, &any, b.dev, 0);
    bus_doorbell_add(mem, &e);
    bus_doorbell_listen(mem, hear, NULL);
    EXPECT_EQ(heard, 1);
    bus_doorbell_add(mem, &d);
    EXPECT_EQ(heard, 2);
    bus_write(mem, 0x2004, 1, 2);
    EXPECT_EQ(p->calls, 0);
    EXPECT_EQ(read(fd, &n, 8), 8);
    EXPECT_EQ(n, 1);
    bus_write(mem, 0x2004, 0x10001, 2); /* only the low half counts */
    bus_write(mem, 0x2008, 77, 4);
    EXPECT_EQ(read(fd, &n, 8), 8);
    EXPECT_EQ(n, 2);
    bus_write(mem, 0x2004, 2, 2);
    bus_write(mem, 0x2004, 1, 4);
    EXPECT_EQ(p->calls, 2);
    bus_doorbell_del(mem, &d);
    EXPECT_EQ(heard, 1);
    bus_write(mem, 0x2004, 1, 2);
    EXPECT_EQ(p->calls, 3);
    close(fd);
    bench_free(&b);
}

static _Atomic bool done;
static void *reader(void *opaque)
{
    struct bus *io = opaque;

    core_thread_register();
    while (!atomic_load(&done)) {
        core_quiescent();
        u64 v = bus_read(io, 0x100, 1);
        if (v != 1 && v != 0xff)
            return (void *)1;
    }
    core_thread_unregister();
    return NULL;
}
static void *stranger(void *opaque)
{
    while (!atomic_load(&done))
        bus_read(opaque, 0x100, 2);
    return NULL;
}

TEST(bus_changes_under_readers)
{
    struct bench b = bench_new(&probe_type, 0);
    pthread_t t[2];
    void *bad = NULL;

    probe_of(&b);
    done = false;
    pthread_create(&t[0], NULL, reader, b.vm->io);
    pthread_create(&t[1], NULL, stranger, b.vm->io);
    for (u32 i = 0; i < 2000; i++)
        bus_unmap(b.vm->io, bus_map(b.vm->io, 0x100, &bytes, b.dev, 0));
    done = true;
    for (u32 i = 0; i < 2; i++) {
        pthread_join(t[i], &bad);
        EXPECT(!bad);
    }
    bench_free(&b);
}
TEST_MAIN()
