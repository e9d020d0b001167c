// SPDX-License-Identifier: GPL-2.0-or-later
/* fdc_test.c - the floppy controller with one drive and a DMA channel, as drivers see them. */
#include "vmm/dev/pc/fdc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"
#include "vmm/dev/pc/misc.h"

enum { PORT = 0x3f0, DISK = 2880 * 512, BUF = 0x20000, PATIENCE_US = 10 * 1000 * 1000 };
enum { DOR = PORT + 2, MSR = PORT + 4, FIFO = PORT + 5, CHANGE = PORT + 6 };

struct rig {
    struct bench b;
    struct dev *dma, *floppy;
    struct drive *drive;
    char path[64];
};

static void begin(struct rig *r, bool read_only)
{
    struct image_options o = { .format = "raw", .read_only = read_only };
    g_autoptr(GError) error = NULL;
    g_autofree u32 *words = g_new(u32, DISK / 4);

    for (u32 i = 0; i < DISK / 4; i++)
        words[i] = i;
    *r = (struct rig){ .b = bench_begin(&fdc_type, PORT) };
    strcpy(r->path, "/tmp/posada-fdc-XXXXXX");
    int fd = mkstemp(r->path);
    if (fd < 0 || write(fd, words, DISK) != DISK)
        g_error("%s", r->path);
    close(fd);
    r->dma = dev_new(r->b.vm, &dma_type, "dma");
    if (!dev_realize(r->dma, &error) || !dev_set_ptr(r->b.dev, "dma", r->dma, &error) ||
        !bench_realize(&r->b, &error))
        g_error("%s", error->message);
    bus_map(r->b.vm->io, 0x80, dma_type.io[0], r->dma, 0);
    struct image *image = image_open(r->path, &o, &error);
    r->drive = drive_new(r->b.vm, "floppy0", image, false);
    r->floppy = dev_new(r->b.vm, &floppy_type, "floppy");
    if (!dev_set_ptr(r->floppy, "drive", r->drive, &error) || !dev_realize(r->floppy, &error))
        g_error("%s", error->message);
}

static void end(struct rig *r)
{
    struct vm *vm = r->b.vm;

    vm_free_devs(vm);
    r->b.dev = NULL;
    drive_free_all(vm);
    bench_free(&r->b);
    unlink(r->path);
}

static bool wait_for(struct rig *r, u8 mask, u8 want)
{
    for (u32 us = 0; us < PATIENCE_US; us += 20) {
        if ((bench_in(&r->b, MSR) & mask) == want)
            return true;
        g_usleep(20);
    }
    return false;
}

static void command(struct rig *r, const u8 *bytes, u32 n)
{
    while (n--) {
        EXPECT(wait_for(r, 0xc0, 0x80));
        bench_out(&r->b, FIFO, *bytes++);
    }
}

static u32 results(struct rig *r, u8 *to)
{
    u32 n = 0;

    EXPECT(wait_for(r, 0xc0, 0xc0));
    while (bench_in(&r->b, MSR) == 0xd0 && n < 16)
        to[n++] = bench_in(&r->b, FIFO);
    return n;
}

static void dma_setup(struct rig *r, u32 at, u16 n, u8 mode)
{
    struct bench *b = &r->b;

    bench_out(b, 0x0a, 6);
    bench_out(b, 0x0c, 0);
    bench_out(b, 0x0b, mode);
    bench_out(b, 0x04, (u8)at);
    bench_out(b, 0x04, (u8)(at >> 8));
    bench_out(b, 0x81, (u8)(at >> 16));
    bench_out(b, 0x05, (u8)(n - 1));
    bench_out(b, 0x05, (u8)((n - 1) >> 8));
    bench_out(b, 0x0a, 2);
}

static void start(struct rig *r)
{
    u8 out[16];

    bench_out(&r->b, DOR, 0);
    bench_out(&r->b, DOR, 0x1c);
    EXPECT(bench_irq(&r->b, 0));
    for (u8 i = 0; i < 4; i++) {
        command(r, (const u8[]){ 0x08 }, 1);
        EXPECT_EQ(results(r, out), 2);
        EXPECT_EQ(out[0], 0xc0 | i);
    }
    EXPECT(!bench_irq(&r->b, 0));
    command(r, (const u8[]){ 0x08 }, 1);
    EXPECT_EQ(results(r, out), 1);
    EXPECT_EQ(out[0], 0x80);
    bench_out(&r->b, CHANGE, 0); /* 500 kbit/s */
    command(r, (const u8[]){ 0x03, 0xdf, 0x02 }, 3);
}

static void seek(struct rig *r, u8 cylinder)
{
    u8 out[16];

    command(r, (const u8[]){ 0x0f, 0, cylinder }, 3);
    EXPECT(bench_irq(&r->b, 0));
    command(r, (const u8[]){ 0x08 }, 1);
    EXPECT_EQ(results(r, out), 2);
    EXPECT_EQ(out[0], 0x20);
    EXPECT_EQ(out[1], cylinder);
}

static u32 word_at(struct rig *r, gpa at)
{
    u32 v = 0;

    EXPECT(ram_get_u32(r->b.vm->ram, at, &v));
    return v;
}

TEST(reads_by_dma)
{
    struct rig r;
    u8 out[16];

    begin(&r, false);
    start(&r);
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0x80); /* the medium is new */
    seek(&r, 2);
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0);
    dma_setup(&r, BUF, 4 * 512, 0x46);
    /* both sides, from the last but one sector of the first */
    command(&r, (const u8[]){ 0xe6, 0, 2, 0, 17, 2, 18, 0x1b, 0xff }, 9);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[0] | out[1] | out[2], 0);
    EXPECT_EQ(out[3], 2);
    EXPECT_EQ(out[4], 1);
    EXPECT_EQ(out[5], 3);
    u32 lba = 2 * 36 + 16;
    EXPECT_EQ(word_at(&r, BUF), lba * 128);
    EXPECT_EQ(word_at(&r, BUF + 2044), (lba + 4) * 128 - 1);
    EXPECT_EQ(bench_in(&r.b, 0x08) & 4, 4); /* terminal count */
    /* more room than data: the command ends with an error that says so */
    dma_setup(&r, BUF, 4 * 512, 0x46);
    command(&r, (const u8[]){ 0x46, 0, 2, 0, 17, 2, 18, 0x1b, 0xff }, 9);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[0], 0x40);
    EXPECT_EQ(out[1], 0x80);
    end(&r);
}

TEST(writes_by_dma)
{
    struct rig r;
    u8 out[16];

    begin(&r, false);
    start(&r);
    seek(&r, 0);
    EXPECT(ram_fill(r.b.vm->ram, BUF, 0x5a, 1024));
    dma_setup(&r, BUF, 1024, 0x4a);
    command(&r, (const u8[]){ 0xc5, 4, 0, 1, 3, 2, 18, 0x1b, 0xff }, 9);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[0], 4);
    EXPECT_EQ(out[1], 0);
    u8 sector[512];
    EXPECT_EQ(image_read_now(r.drive->image, 21 * 512, sector, 512), 0);
    EXPECT_EQ(sector[511], 0x5a);
    EXPECT_EQ(image_read_now(r.drive->image, 22 * 512, sector, 512), 0);
    EXPECT_EQ(sector[0], 0); /* word 22 * 128, its low byte */
    end(&r);
    begin(&r, true);
    start(&r);
    seek(&r, 0);
    dma_setup(&r, BUF, 512, 0x4a);
    command(&r, (const u8[]){ 0xc5, 0, 0, 0, 1, 2, 18, 0x1b, 0xff }, 9);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[0], 0x40);
    EXPECT_EQ(out[1], 0x02);
    end(&r);
}

TEST(reads_byte_by_byte)
{
    struct rig r;
    u8 out[16], b[512];

    begin(&r, false);
    start(&r);
    command(&r, (const u8[]){ 0x03, 0xdf, 0x03 }, 3);
    seek(&r, 1);
    command(&r, (const u8[]){ 0x46, 0, 1, 0, 5, 2, 5, 0x1b, 0xff }, 9);
    EXPECT(wait_for(&r, 0xf0, 0xf0));
    for (u32 i = 0; i < 512; i++) {
        if (i == 100) { /* the state goes and comes back in the middle */
            g_autoptr(GByteArray) s = bench_save(&r.b);
            EXPECT_EQ(bench_load_bytes(&r.b, s->data, s->len), 0);
        }
        EXPECT_EQ(bench_in(&r.b, MSR), 0xf0);
        EXPECT(bench_irq(&r.b, 0));
        b[i] = bench_in(&r.b, FIFO);
    }
    u32 word;
    memcpy(&word, b + 4, 4);
    EXPECT_EQ(word, (36 + 4) * 128 + 1);
    memcpy(&word, b + 508, 4);
    EXPECT_EQ(word, (36 + 5) * 128 - 1);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[0], 0);
    EXPECT_EQ(out[5], 1); /* the side's end, as EOT says */
    end(&r);
}

TEST(what_cannot_be_read)
{
    static const struct {
        u8 c[9], st0, st1, st2;
    } tries[] = {
        { { 0x46, 0, 1, 0, 1, 2, 18, 0, 0 }, 0x40, 0x04, 0x10 }, /* not sought there */
        { { 0x46, 0, 0, 0, 19, 2, 19, 0, 0 }, 0x40, 0x04, 0 },   /* no such sector */
        { { 0x46, 4, 0, 0, 1, 2, 18, 0, 0 }, 0x44, 0x04, 0 },    /* another head's id */
        { { 0x46, 0, 0, 0, 1, 3, 18, 0, 0 }, 0x40, 0x04, 0 },    /* 1024-byte sectors */
        { { 0x46, 1, 0, 0, 1, 2, 18, 0, 0 }, 0x41, 0x01, 0x01 }, /* no such drive */
        { { 0x45, 3, 255, 1, 255, 255, 255, 0, 0 }, 0x43, 0x01, 0x01 },
    };
    struct rig r;
    u8 out[16];

    begin(&r, false);
    start(&r);
    seek(&r, 0);
    for (u32 i = 0; i < ARRAY_LEN(tries); i++) {
        command(&r, tries[i].c, 9);
        EXPECT_EQ(results(&r, out), 7);
        EXPECT_EQ(out[0], tries[i].st0);
        EXPECT_EQ(out[1], tries[i].st1);
        EXPECT_EQ(out[2], tries[i].st2);
    }
    bench_out(&r.b, CHANGE, 2); /* a rate that the medium was not written with */
    command(&r, (const u8[]){ 0x4a, 0 }, 2);
    EXPECT_EQ(results(&r, out), 7);
    EXPECT_EQ(out[1], 0x01);
    command(&r, (const u8[]){ 0x1f }, 1);
    EXPECT_EQ(results(&r, out), 1);
    EXPECT_EQ(out[0], 0x80);
    end(&r);
}

TEST(the_medium_is_changed)
{
    struct rig r;

    begin(&r, true);
    start(&r);
    seek(&r, 0);
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0);
    EXPECT(drive_eject(r.drive, false, NULL));
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0x80);
    seek(&r, 1);
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0x80); /* still none */
    EXPECT(drive_change(r.drive, r.path, "raw", 1, false, NULL));
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0x80);
    seek(&r, 0);
    EXPECT_EQ(bench_in(&r.b, CHANGE), 0);
    end(&r);
}

TEST(noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    struct rig r;
    u8 out[16];

    begin(&r, false);
    for (u32 i = 0; i < 30000; i++) {
        u32 what = g_rand_int(rand), val = g_rand_int(rand);

        if (what % 4 == 0)
            bench_in(&r.b, PORT + (what >> 8) % 7);
        else if (what % 64 == 1)
            bench_out(&r.b, PORT + (what >> 8) % 7, (u8)val);
        else if (what % 4 == 1)
            dma_setup(&r, val & 0xffff0, (u16)(val >> 20), what & 0x100 ? 0x46 : 0x4a);
        else
            bench_out(&r.b, FIFO,
                      what % 8 == 2 ? (u8[]){ 0xe6, 0xc5, 0x0f, 0x4d }[val % 4]
                                    : (u8)(val % 40));
        if (i % 500)
            continue;
        image_drain(r.drive->image);
        g_autoptr(GByteArray) s = bench_save(&r.b);
        EXPECT_EQ(bench_load_bytes(&r.b, s->data, s->len), 0);
        for (u32 k = 0; k < 3; k++)
            s->data[g_rand_int(rand) % 300] = (u8)g_rand_int(rand);
        bench_load_bytes(&r.b, s->data, s->len); /* refused or not, what follows must be safe */
    }
    image_drain(r.drive->image);
    dev_reset(r.b.dev);
    bench_out(&r.b, DOR, 0);
    bench_out(&r.b, DOR, 0x1c);
    command(&r, (const u8[]){ 0x10 }, 1);
    EXPECT_EQ(results(&r, out), 1);
    EXPECT_EQ(out[0], 0x90);
    end(&r);
}
TEST_MAIN()
