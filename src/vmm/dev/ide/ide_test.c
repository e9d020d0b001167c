// SPDX-License-Identifier: GPL-2.0-or-later
/* ide_test.c - PIIX3's channels with a disk as master and a CD-ROM as slave, as drivers see
 * them.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pci/pci.h"

enum { DISK = 4 << 20, CD = 1 << 20, TASK = 0x1f0, CTL = 0x3f6, BM = 0xc000, PRD = 0x1000 };
enum { BUF = 0x10000, PATIENCE_US = 10 * 1000 * 1000 };

struct rig {
    struct bench b;
    struct dev *hd, *cd;
    struct drive *disk, *disc;
    char path[2][64];
};

static struct image *file_open(char *path, u32 size, bool read_only)
{
    struct image_options o = { .format = "raw", .read_only = read_only, .discard = true };
    g_autoptr(GError) error = NULL;

    strcpy(path, "/tmp/posada-ide-XXXXXX");
    int fd = mkstemp(path);
    g_autofree u32 *words = g_new(u32, size / 4);
    for (u32 i = 0; i < size / 4; i++)
        words[i] = i;
    if (fd < 0 || write(fd, words, size) != (ssize_t)size)
        g_error("%s", path);
    close(fd);
    struct image *image = image_open(path, &o, &error);
    if (!image)
        g_error("%s", error->message);
    return image;
}

static struct dev *unit_new(struct rig *r, const struct dev_type *t, struct drive *d,
                            const char *const *props)
{
    struct dev *u = dev_new(r->b.vm, t, t->name);
    g_autoptr(GError) error = NULL;
    bool ok = ide_place(u, "ide.0", &error) && dev_set_ptr(u, "drive", d, &error);

    for (; ok && props && props[0]; props += 2)
        ok = dev_set(u, props[0], props[1], &error);
    if (!ok || !dev_realize(u, &error))
        g_error("%s", error->message);
    return u;
}

static void begin_with(struct rig *r, const char *const *props)
{
    struct dev *host;
    g_autoptr(GError) error = NULL;

    *r = (struct rig){ .b = bench_begin(&piix3_ide_type, 0x2000) };
    host = dev_new(r->b.vm, &pci_host_type, "host");
    if (!dev_realize(host, &error) || !pci_place(r->b.dev, pci_host_bus(host), 9, &error) ||
        !bench_realize(&r->b, &error))
        g_error("%s", error->message);
    r->disk = drive_new(r->b.vm, "disk", file_open(r->path[0], DISK, false), false);
    r->disc = drive_new(r->b.vm, "disc", file_open(r->path[1], CD, true), true);
    r->hd = unit_new(r, &ide_hd_type, r->disk, props);
    r->cd = unit_new(r, &ide_cd_type, r->disc, NULL);
    struct pci_dev *p = pci_dev_of(r->b.dev);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 16, BM, 4);
    pci_config_write(p->bus, p->fn, 0x40, 0x80008000, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER, 2);
}

static void begin(struct rig *r)
{
    begin_with(r, (const char *const[]){ "serial", "S-77", NULL });
}

static void end(struct rig *r)
{
    struct vm *vm = r->b.vm;

    vm_free_devs(vm);
    r->b.dev = NULL;
    drive_free_all(vm);
    bench_free(&r->b);
    unlink(r->path[0]);
    unlink(r->path[1]);
}

/* Until BSY is off, as a driver polls. */
static u8 settle(struct rig *r)
{
    for (u32 us = 0; us < PATIENCE_US; us += 20) {
        u8 s = bench_in(&r->b, CTL);

        if (!(s & ATA_BSY))
            return s;
        g_usleep(20);
    }
    return 0xff;
}

static void task(struct rig *r, u8 device, u64 lba, u16 count, u8 command)
{
    struct bench *b = &r->b;
    bool ext = lba >> 28 || count > 256 || command == 0x24 || command == 0x06 ||
               command == 0x34 || command == 0x25 || command == 0x35;

    bench_out(b, TASK + 6, 0xe0 | device | (ext ? 0 : lba >> 24 & 15));
    if (ext) {
        bench_out(b, TASK + 2, (u8)(count >> 8));
        bench_out(b, TASK + 3, (u8)(lba >> 24));
        bench_out(b, TASK + 4, (u8)(lba >> 32));
        bench_out(b, TASK + 5, (u8)(lba >> 40));
    }
    bench_out(b, TASK + 2, (u8)count);
    bench_out(b, TASK + 3, (u8)lba);
    bench_out(b, TASK + 4, (u8)(lba >> 8));
    bench_out(b, TASK + 5, (u8)(lba >> 16));
    bench_out(b, TASK + 7, command);
}

static void take(struct rig *r, void *to, u32 n)
{
    for (u32 i = 0; i < n / 2; i++)
        ((u16 *)to)[i] = bench_in16(&r->b, TASK);
}

static void give(struct rig *r, const void *from, u32 n)
{
    for (u32 i = 0; i < n / 4; i++)
        bench_out32(&r->b, TASK, ((const u32 *)from)[i]);
}

static u32 word_at(struct rig *r, gpa at)
{
    u32 v = 0;

    EXPECT(ram_get_u32(r->b.vm->ram, at, &v));
    return v;
}

/* A packet command; up to max bytes of its reply by PIO; returns how many, -1: it failed. */
static int packet(struct rig *r, const u8 *cdb, u8 *to, u32 max, u16 limit)
{
    u32 got = 0;
    u8 s;

    bench_out(&r->b, TASK + 6, 0xb0);
    bench_out(&r->b, TASK + 1, 0);
    bench_out(&r->b, TASK + 4, (u8)limit);
    bench_out(&r->b, TASK + 5, (u8)(limit >> 8));
    bench_out(&r->b, TASK + 7, 0xa0);
    EXPECT_EQ(settle(r) & ATA_DRQ, ATA_DRQ);
    EXPECT_EQ(bench_in(&r->b, TASK + 2) & 3, ATAPI_COD);
    give(r, cdb, 12);
    while ((s = settle(r)) & ATA_DRQ) {
        u32 n = bench_in(&r->b, TASK + 4) | bench_in(&r->b, TASK + 5) << 8;
        u8 block[65536];

        EXPECT_EQ(bench_in(&r->b, TASK + 2) & 3, ATAPI_IO);
        EXPECT(n && n <= limit);
        take(r, block, n + 1);
        if (got + n <= max)
            memcpy(to + got, block, n);
        got += n;
    }
    EXPECT_EQ(bench_in(&r->b, TASK + 2) & 3, ATAPI_IO | ATAPI_COD);
    return s & ATA_ERR ? -1 : (int)got;
}

static u32 sense(struct rig *r)
{
    const u8 c[12] = { 0x03, 0, 0, 0, 18 };
    u8 b[18] = { 0 };

    EXPECT_EQ(packet(r, c, b, sizeof b, 512), 18);
    return (u32)b[2] << 16 | b[12] << 8 | b[13];
}

TEST(signatures_and_who_is_there)
{
    struct rig r;

    begin(&r);
    bench_out(&r.b, CTL, 4);
    EXPECT_EQ(bench_in(&r.b, CTL), ATA_BSY);
    bench_out(&r.b, CTL, 0);
    EXPECT_EQ(bench_in(&r.b, CTL), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(bench_in(&r.b, TASK + 1), 1);
    EXPECT_EQ(bench_in(&r.b, TASK + 4) | bench_in(&r.b, TASK + 5) << 8, 0);
    bench_out(&r.b, TASK + 6, 0xb0);
    EXPECT_EQ(bench_in(&r.b, TASK + 4) | bench_in(&r.b, TASK + 5) << 8, 0xeb14);
    EXPECT_EQ(bench_in(&r.b, CTL), 0);
    /* the second channel has nobody */
    EXPECT_EQ(bench_in(&r.b, 0x177), 0);
    bench_out(&r.b, 0x172, 0x55);
    EXPECT_EQ(bench_in(&r.b, 0x172), 0);
    end(&r);
}

TEST(identify)
{
    struct rig r;
    u16 w[256];
    u8 sum = 0;

    begin(&r);
    task(&r, 0, 0, 0, 0xec);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV | ATA_DRQ);
    EXPECT(bench_irq(&r.b, 0));
    EXPECT_EQ(bench_in(&r.b, TASK + 7) & ATA_DRQ, ATA_DRQ);
    EXPECT(!bench_irq(&r.b, 0));
    take(&r, w, 512);
    EXPECT_EQ(bench_in(&r.b, CTL), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(w[60] | w[61] << 16, DISK / 512);
    EXPECT_EQ(w[100], DISK / 512);
    EXPECT_EQ(w[10], 'S' << 8 | '-');
    EXPECT_EQ(w[11], '7' << 8 | '7');
    EXPECT_EQ(w[12], ' ' << 8 | ' ');
    for (u32 i = 0; i < 512; i++)
        sum += ((u8 *)w)[i];
    EXPECT_EQ(sum, 0);
    /* the CD-ROM refuses, and says what it is */
    task(&r, 0x10, 0, 0, 0xec);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    EXPECT_EQ(bench_in(&r.b, TASK + 4) | bench_in(&r.b, TASK + 5) << 8, 0xeb14);
    task(&r, 0x10, 0, 0, 0xa1);
    settle(&r);
    take(&r, w, 512);
    EXPECT_EQ(w[0], 0x85c0);
    end(&r);
}

TEST(pio_reads_and_writes)
{
    struct rig r;
    u32 data[4096];

    begin(&r);
    task(&r, 0, 3, 2, 0x20);
    for (u32 i = 0; i < 2; i++) {
        EXPECT_EQ(settle(&r) & ATA_DRQ, ATA_DRQ);
        take(&r, data, 512);
        EXPECT_EQ(data[0], (3 + i) * 128);
        EXPECT_EQ(data[127], (3 + i) * 128 + 127);
    }
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    /* multiple: 3 sectors in blocks of 2 */
    task(&r, 0, 0, 2, 0xc6);
    EXPECT_EQ(settle(&r) & ATA_ERR, 0);
    task(&r, 0, 100, 3, 0xc4);
    settle(&r);
    take(&r, data, 1024);
    settle(&r);
    take(&r, data + 256, 512);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(data[0], 12800);
    EXPECT_EQ(data[383], 12800 + 383);
    /* 48 bit, written and read back; the state moves in the middle */
    for (u32 i = 0; i < 256; i++)
        data[i] = ~i;
    task(&r, 0, 5000, 2, 0x34);
    EXPECT_EQ(settle(&r) & ATA_DRQ, ATA_DRQ);
    EXPECT(!bench_irq(&r.b, 0));
    give(&r, data, 256);
    g_autoptr(GByteArray) saved = g_byte_array_new();
    dev_save(r.hd, saved);
    EXPECT(dev_load(r.hd, saved->data, saved->len, NULL));
    give(&r, data + 64, 256);
    EXPECT_EQ(settle(&r) & ATA_DRQ, ATA_DRQ);
    EXPECT(bench_irq(&r.b, 0));
    give(&r, data + 128, 512);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    memset(data, 0, sizeof data);
    task(&r, 0, 5000, 1, 0x24);
    settle(&r);
    take(&r, data, 512);
    EXPECT_EQ(data[1], ~1u);
    EXPECT_EQ(data[127], ~127u);
    task(&r, 0, 0, 0, 0xe7);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    end(&r);
}

TEST(chs)
{
    struct rig r;
    u32 data[128];

    begin(&r);
    bench_out(&r.b, TASK + 6, 0xa2); /* head 2 */
    bench_out(&r.b, TASK + 2, 1);
    bench_out(&r.b, TASK + 3, 5);
    bench_out(&r.b, TASK + 4, 1);
    bench_out(&r.b, TASK + 5, 0);
    bench_out(&r.b, TASK + 7, 0x20);
    settle(&r);
    take(&r, data, 512);
    EXPECT_EQ(data[0], ((1 * 16 + 2) * 63 + 4) * 128);
    bench_out(&r.b, TASK + 3, 0); /* there is no sector 0 */
    bench_out(&r.b, TASK + 2, 1);
    bench_out(&r.b, TASK + 7, 0x20);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    EXPECT_EQ(bench_in(&r.b, TASK + 1), ATA_IDNF);
    /* another geometry: 4 heads of 10 sectors */
    bench_out(&r.b, TASK + 6, 0xa3);
    bench_out(&r.b, TASK + 2, 10);
    bench_out(&r.b, TASK + 7, 0x91);
    EXPECT_EQ(settle(&r) & ATA_ERR, 0);
    bench_out(&r.b, TASK + 6, 0xa1);
    bench_out(&r.b, TASK + 2, 1);
    bench_out(&r.b, TASK + 3, 10);
    bench_out(&r.b, TASK + 7, 0x20);
    settle(&r);
    take(&r, data, 512);
    EXPECT_EQ(data[0], ((1 * 4 + 1) * 10 + 9) * 128);
    end(&r);
}

TEST(what_is_out_of_range)
{
    struct rig r;

    begin(&r);
    task(&r, 0, DISK / 512 - 1, 1, 0x40);
    EXPECT_EQ(settle(&r) & ATA_ERR, 0);
    task(&r, 0, DISK / 512 - 1, 2, 0x20);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    EXPECT_EQ(bench_in(&r.b, TASK + 1), ATA_IDNF);
    task(&r, 0, 0xffffffffffff, 1, 0x24);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    task(&r, 0, 0, 0, 0x77 + 0x10);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    EXPECT_EQ(bench_in(&r.b, TASK + 1), ATA_ABRT);
    end(&r);
}

static void prd(struct rig *r, u32 i, u32 at, u16 len, bool last)
{
    u8 e[8] = { 0 };

    pci_put32(e, 0, at);
    pci_put16(e, 4, len);
    e[7] = last ? 0x80 : 0;
    EXPECT(ram_put(r->b.vm->ram, PRD + 8 * i, e, 8));
}

TEST(dma)
{
    struct rig r;

    begin(&r);
    /* command first, engine later; scattered; longer than a piece of the drive's */
    prd(&r, 0, BUF, 0x200, false);
    prd(&r, 1, BUF + 0x1000, 0, false); /* 64 KiB */
    prd(&r, 2, BUF + 0x11000, 0, false);
    prd(&r, 3, BUF + 0x21000, 0x8000 - 0x200, true);
    bench_out32(&r.b, BM + 4, PRD);
    task(&r, 0, 8, 320, 0x25);
    bench_out(&r.b, BM, 9);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 4);
    EXPECT(bench_irq(&r.b, 0));
    EXPECT_EQ(word_at(&r, BUF), 8 * 128);
    EXPECT_EQ(word_at(&r, BUF + 0x1000), 9 * 128);
    EXPECT_EQ(word_at(&r, BUF + 0x21000 + 0x8000 - 0x204), 328 * 128 - 1);
    bench_out(&r.b, BM, 0);
    bench_out(&r.b, BM + 2, 6);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 0);
    /* to the disk, the engine first */
    prd(&r, 0, BUF, 0x200, true);
    bench_out(&r.b, BM, 1);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 1);
    task(&r, 0, 70, 1, 0xca);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 4);
    u32 data[128];
    bench_out(&r.b, BM, 0);
    task(&r, 0, 70, 1, 0x20);
    settle(&r);
    take(&r, data, 512);
    EXPECT_EQ(data[0], 8 * 128);
    /* a table that is longer than the data: the engine stays active */
    prd(&r, 0, BUF, 0x400, true);
    bench_out(&r.b, BM + 2, 6);
    bench_out(&r.b, BM, 9);
    task(&r, 0, 1, 1, 0xc8);
    settle(&r);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 5);
    bench_out(&r.b, BM, 0);
    /* memory that is not there */
    prd(&r, 0, 0xf0000000, 0x200, true);
    bench_out(&r.b, BM + 2, 6);
    bench_out(&r.b, BM, 9);
    task(&r, 0, 1, 1, 0xc8);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 3, 2);
    end(&r);
}

TEST(reset_in_the_middle)
{
    struct rig r;
    u32 data[128];

    begin(&r);
    for (u32 i = 0; i < 200; i++) {
        prd(&r, 0, BUF, 0x8000, true);
        bench_out32(&r.b, BM + 4, PRD);
        bench_out(&r.b, BM, 9);
        task(&r, 0, i, 64, 0xc8);
        bench_out(&r.b, CTL, 4);
        bench_out(&r.b, CTL, 0);
        bench_out(&r.b, BM, 0);
        EXPECT_EQ(bench_in(&r.b, CTL), ATA_DRDY | ATA_SRV);
        task(&r, 0, i + 1, 1, 0x20); /* waits for the one that was cut loose */
        EXPECT_EQ(settle(&r) & ATA_DRQ, ATA_DRQ);
        take(&r, data, 512);
        EXPECT_EQ(data[0], (i + 1) * 128);
    }
    end(&r);
}

TEST(trim)
{
    struct rig r;
    u32 data[128];
    u8 list[512] = { 0 };

    begin(&r);
    list[0] = 16; /* 8 sectors from 16 on */
    list[6] = 8;
    EXPECT(ram_put(r.b.vm->ram, BUF, list, sizeof list));
    prd(&r, 0, BUF, 0x200, true);
    bench_out32(&r.b, BM + 4, PRD);
    bench_out(&r.b, BM, 1);
    bench_out(&r.b, TASK + 1, 1);
    task(&r, 0, 0, 1, 0x06);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    bench_out(&r.b, BM, 0);
    task(&r, 0, 24, 1, 0x20);
    settle(&r);
    take(&r, data, 512);
    EXPECT_EQ(data[0], 24 * 128);
    list[6] = 0xff; /* beyond the end */
    list[7] = 0xff;
    EXPECT(ram_put(r.b.vm->ram, BUF, list, sizeof list));
    bench_out(&r.b, BM, 1);
    task(&r, 0, 0, 1, 0x06);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    end(&r);
}

TEST(smart)
{
    struct rig r;
    u8 b[512], sum = 0;

    begin(&r);
    bench_out(&r.b, TASK + 1, 0xd0);
    task(&r, 0, 0xc24f00, 1, 0xb0);
    EXPECT_EQ(settle(&r) & ATA_DRQ, ATA_DRQ);
    take(&r, b, 512);
    for (u32 i = 0; i < 512; i++)
        sum += b[i];
    EXPECT_EQ(sum, 0);
    bench_out(&r.b, TASK + 1, 0xda);
    task(&r, 0, 0xc24f00, 1, 0xb0);
    EXPECT_EQ(settle(&r) & ATA_ERR, 0);
    EXPECT_EQ(bench_in(&r.b, TASK + 4), 0x4f);
    EXPECT_EQ(bench_in(&r.b, TASK + 5), 0xc2);
    bench_out(&r.b, TASK + 1, 0xda);
    task(&r, 0, 0, 1, 0xb0);
    EXPECT_EQ(settle(&r) & ATA_ERR, ATA_ERR);
    end(&r);
}

static const u8 ready[12] = { 0x00 };

TEST(cd_reads)
{
    struct rig r;
    const u8 inquiry[12] = { 0x12, 0, 0, 0, 36 };
    const u8 capacity[12] = { 0x25 };
    const u8 read10[12] = { 0x28, 0, 0, 0, 0, 7, 0, 0, 3 };
    const u8 raw[12] = { 0xbe, 0, 0, 0, 0, 7, 0, 0, 2, 0xf8 };
    const u8 beyond[12] = { 0x28, 0, 0, 0, 2, 0, 0, 0, 1 };
    const u8 toc[12] = { 0x43, 2, 0, 0, 0, 0, 0, 0, 20 };
    u8 b[8192];

    begin(&r);
    EXPECT_EQ(packet(&r, ready, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x062900); /* power on */
    EXPECT_EQ(packet(&r, ready, b, 0, 64), 0);
    EXPECT_EQ(packet(&r, inquiry, b, sizeof b, 64), 36);
    EXPECT_EQ(b[0], 5);
    EXPECT_EQ(packet(&r, capacity, b, sizeof b, 64), 8);
    EXPECT_EQ(b[2] << 8 | b[3], CD / 2048 - 1);
    EXPECT_EQ(packet(&r, read10, b, sizeof b, 1000), 3 * 2048); /* several blocks */
    u32 word;
    memcpy(&word, b, 4);
    EXPECT_EQ(word, 7 * 512);
    memcpy(&word, b + 3 * 2048 - 4, 4);
    EXPECT_EQ(word, 10 * 512 - 1);
    EXPECT_EQ(packet(&r, raw, b, sizeof b, 0xfffe), 2 * 2352);
    EXPECT_EQ(b[0] << 8 | b[1], 0xff);
    EXPECT_EQ(b[13], 0x02); /* 2 seconds, 7 frames */
    EXPECT_EQ(b[14], 0x07);
    memcpy(&word, b + 2352 + 16, 4);
    EXPECT_EQ(word, 8 * 512);
    EXPECT_EQ(packet(&r, beyond, b, sizeof b, 512), -1);
    EXPECT_EQ(sense(&r), 0x052100);
    EXPECT_EQ(sense(&r), 0);
    EXPECT_EQ(packet(&r, toc, b, sizeof b, 512), 20);
    EXPECT_EQ(b[14], 0xaa);
    end(&r);
}

TEST(cd_by_dma)
{
    struct rig r;
    const u8 read10[12] = { 0x28, 0, 0, 0, 0, 1, 0, 0, 100 };

    begin(&r);
    packet(&r, ready, NULL, 0, 64);
    for (u32 i = 0; i < 4; i++)
        prd(&r, i, BUF + i * 0x10000, (u16)(i == 3 ? 100 * 2048 - 3 * 0x10000 : 0), i == 3);
    bench_out32(&r.b, BM + 4, PRD);
    bench_out(&r.b, TASK + 6, 0xb0);
    bench_out(&r.b, TASK + 1, 1);
    bench_out(&r.b, TASK + 7, 0xa0);
    settle(&r);
    give(&r, read10, 12);
    bench_out(&r.b, BM, 9);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    EXPECT_EQ(bench_in(&r.b, BM + 2) & 7, 4);
    EXPECT_EQ(word_at(&r, BUF), 512);
    EXPECT_EQ(word_at(&r, BUF + 100 * 2048 - 4), 101 * 512 - 1);
    end(&r);
}

TEST(cd_eject_and_change)
{
    struct rig r;
    const u8 lock[12] = { 0x1e, 0, 0, 0, 1 }, unlock[12] = { 0x1e };
    const u8 eject[12] = { 0x1b, 0, 0, 0, 2 }, load[12] = { 0x1b, 0, 0, 0, 3 };
    const u8 event[12] = { 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8 };
    g_autoptr(GError) error = NULL;
    u8 b[64];

    begin(&r);
    packet(&r, ready, b, 0, 64);
    EXPECT_EQ(packet(&r, lock, b, 0, 64), 0);
    EXPECT_EQ(packet(&r, eject, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x055302);
    EXPECT(!drive_eject(r.disc, false, &error));
    EXPECT_STR(error->message, "Device 'disc' is locked and force was not specified, wait for "
                               "tray to open and try again");
    EXPECT_EQ(packet(&r, event, b, sizeof b, 64), 8);
    EXPECT_EQ(b[4], 1); /* somebody wants it to be ejected */
    EXPECT_EQ(packet(&r, event, b, sizeof b, 64), 8);
    EXPECT_EQ(b[4], 0);
    EXPECT_EQ(packet(&r, unlock, b, 0, 64), 0);
    EXPECT_EQ(packet(&r, eject, b, 0, 64), 0);
    EXPECT(drive_tray_open(r.disc));
    EXPECT_EQ(packet(&r, ready, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x023a02);
    EXPECT_EQ(packet(&r, load, b, 0, 64), 0);
    EXPECT_EQ(packet(&r, ready, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x062800);
    EXPECT_EQ(packet(&r, ready, b, 0, 64), 0);
    /* the monitor takes it out, and puts another one in */
    EXPECT(drive_eject(r.disc, false, NULL));
    EXPECT(!r.disc->image);
    EXPECT_EQ(packet(&r, ready, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x023a02);
    EXPECT(!drive_change(r.disc, "/nowhere/at/all", "raw", -1, false, NULL));
    EXPECT(drive_change(r.disc, r.path[1], "raw", -1, false, NULL));
    EXPECT_EQ(packet(&r, ready, b, 0, 64), -1);
    EXPECT_EQ(sense(&r), 0x062800);
    EXPECT_EQ(packet(&r, event, b, sizeof b, 64), 8);
    EXPECT_EQ(b[4], 2);
    EXPECT_EQ(b[5], 2);
    end(&r);
}

/* Whatever a guest writes where, it does no harm, and a reset helps. */
TEST(noise)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    struct rig r;

    begin(&r);
    for (u32 i = 0; i < 60000; i++) {
        u32 what = g_rand_int(rand), val = g_rand_int(rand);

        switch (what % 8) {
        case 0 ... 2:
            bench_out(&r.b, TASK + (what >> 8) % 8, (u8)val);
            break;
        case 3:
            bench_out32(&r.b, TASK, val);
            bench_in32(&r.b, TASK);
            break;
        case 4:
            bench_out(&r.b, TASK + 7,
                      (u8[]){ 0x20, 0xc8, 0xca, 0xa0, 0x25, 0x30, 0x06, 0xec }[val % 8]);
            break;
        case 5:
            bench_out(&r.b, BM + (what >> 8) % 16, (u8)val);
            break;
        case 6:
            EXPECT(ram_put_u32(r.b.vm->ram, val % (BENCH_RAM - 4) & ~3u, val * 7));
            bench_in(&r.b, TASK + (what >> 8) % 8);
            break;
        case 7:
            if (what % 512 == 7)
                bench_out(&r.b, CTL, (u8)val);
            break;
        }
        if (i % 1000)
            continue;
        image_drain(r.disk->image);
        image_drain(r.disc->image);
        struct dev *d = i % 2000 ? r.hd : r.cd;
        g_autoptr(GByteArray) s = g_byte_array_new();
        dev_save(d, s);
        EXPECT(dev_load(d, s->data, s->len, NULL));
        for (u32 k = 0; k < 3; k++)
            s->data[g_rand_int(rand) % 600] = (u8)g_rand_int(rand);
        dev_load(d, s->data, s->len, NULL); /* refused or not, what follows must be safe */
    }
    image_drain(r.disk->image);
    dev_reset(r.b.dev);
    struct pci_dev *p = pci_dev_of(r.b.dev);
    pci_config_write(p->bus, p->fn, 0x40, 0x80008000, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MASTER, 2);
    task(&r, 0, 1, 1, 0x40);
    EXPECT_EQ(settle(&r), ATA_DRDY | ATA_SRV);
    end(&r);
}
TEST_MAIN()
