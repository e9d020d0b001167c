// SPDX-License-Identifier: GPL-2.0-or-later
/* ahci_test.c - one port of the AHCI controller with a disk, as a driver sees it. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pci/pci.h"

enum { DISK = 4 << 20, BAR = 0xe0000000, PORT = 0x100 + 2 * 0x80, PATIENCE_US = 10000000 };
enum { LIST = 0x1000, FIS = 0x2000, TABLES = 0x4000, BUF = 0x20000 };

struct rig {
    struct bench b;
    struct drive *drive;
    char path[64];
};

static u32 reg(struct rig *r, u32 off)
{
    return (u32)bench_mem_read(&r->b, BAR + off, 4);
}

static void set_reg(struct rig *r, u32 off, u32 val)
{
    bench_mem_write(&r->b, BAR + off, val, 4);
}

static void port_start(struct rig *r)
{
    set_reg(r, PORT + 0x00, LIST);
    set_reg(r, PORT + 0x08, FIS);
    set_reg(r, PORT + 0x18, 0x17);
    EXPECT_EQ(reg(r, PORT + 0x18) & 0xc000, 0xc000);
}

static void begin(struct rig *r)
{
    struct image_options o = { .format = "raw" };
    g_autoptr(GError) error = NULL;
    g_autofree u32 *words = g_new(u32, DISK / 4);

    for (u32 i = 0; i < DISK / 4; i++)
        words[i] = i;
    *r = (struct rig){ .b = bench_begin(&ahci_type, 0) };
    strcpy(r->path, "/tmp/posada-ahci-XXXXXX");
    int fd = mkstemp(r->path);
    if (fd < 0 || write(fd, words, DISK) != DISK)
        g_error("%s", r->path);
    close(fd);
    struct dev *host = dev_new(r->b.vm, &pci_host_type, "host");
    if (!dev_realize(host, &error) || !pci_place(r->b.dev, pci_host_bus(host), 8, &error) ||
        !bench_realize(&r->b, &error))
        g_error("%s", error->message);
    r->drive = drive_new(r->b.vm, "disk", image_open(r->path, &o, &error), false);
    struct dev *u = dev_new(r->b.vm, &ide_hd_type, "hd");
    if (!ide_place(u, "bench.2", &error) || !dev_set_ptr(u, "drive", r->drive, &error) ||
        !dev_realize(u, &error))
        g_error("%s", error->message);
    struct pci_dev *p = pci_dev_of(r->b.dev);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 20, BAR, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 2);
    port_start(r);
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

/* A command in a slot, its data in one piece at BUF + slot * 64 KiB. */
static void put(struct rig *r, u8 slot, u8 opcode, u64 lba, u16 count, u32 len)
{
    bool ncq = opcode == 0x60 || opcode == 0x61;
    u8 h[32] = { 5 }, t[0x90] = { 0x27, 0x80, opcode };

    pci_put16(h, 2, 1);
    pci_put32(h, 8, TABLES + slot * 0x100);
    t[4] = (u8)lba;
    t[5] = (u8)(lba >> 8);
    t[6] = (u8)(lba >> 16);
    t[7] = 0x40;
    t[8] = (u8)(lba >> 24);
    t[3] = ncq ? (u8)count : 0;
    t[11] = ncq ? (u8)(count >> 8) : 0;
    t[12] = ncq ? (u8)(slot << 3) : (u8)count;
    t[13] = ncq ? 0 : (u8)(count >> 8);
    pci_put32(t, 0x80, BUF + slot * 0x10000);
    pci_put32(t, 0x8c, len - 1);
    EXPECT(ram_put(r->b.vm->ram, LIST + 32 * slot, h, sizeof h));
    EXPECT(ram_put(r->b.vm->ram, TABLES + slot * 0x100, t, sizeof t));
}

static bool settle(struct rig *r, u32 off, u32 mask)
{
    for (u32 us = 0; us < PATIENCE_US; us += 20) {
        if (!(reg(r, PORT + off) & mask))
            return true;
        g_usleep(20);
    }
    return false;
}

static u32 word_at(struct rig *r, gpa at)
{
    u32 v = 0;

    EXPECT(ram_get_u32(r->b.vm->ram, at, &v));
    return v;
}

TEST(who_is_there)
{
    struct rig r;

    begin(&r);
    EXPECT_EQ(reg(&r, 0x0c), 0x3f);
    EXPECT_EQ(reg(&r, PORT + 0x28), 0x113);
    EXPECT_EQ(reg(&r, PORT + 0x24), 0x101);
    EXPECT_EQ(reg(&r, PORT + 0x20), 0x150);
    EXPECT_EQ(reg(&r, 0x100 + 0x28), 0);
    put(&r, 0, 0xec, 0, 0, 512);
    set_reg(&r, PORT + 0x38, 1);
    EXPECT(settle(&r, 0x38, 1));
    EXPECT_EQ(word_at(&r, BUF + 120), DISK / 512);
    EXPECT_EQ(word_at(&r, LIST + 4), 512);
    EXPECT_EQ(reg(&r, PORT + 0x10) & 3, 3);
    end(&r);
}

TEST(dma_and_errors)
{
    struct rig r;

    begin(&r);
    put(&r, 3, 0x25, 9, 4, 2048);
    set_reg(&r, PORT + 0x38, 8);
    EXPECT(settle(&r, 0x38, 8));
    EXPECT_EQ(word_at(&r, BUF + 0x30000), 9 * 128);
    put(&r, 0, 0x25, DISK / 512, 1, 512);
    set_reg(&r, PORT + 0x38, 1);
    for (u32 us = 0; us < PATIENCE_US && !(reg(&r, PORT + 0x10) & 0x40000000); us += 20)
        g_usleep(20);
    EXPECT_EQ(reg(&r, PORT + 0x20), 0x1051);
    EXPECT_EQ(reg(&r, PORT + 0x38), 1); /* the one that failed stays */
    set_reg(&r, PORT + 0x18, 0x16);
    EXPECT_EQ(reg(&r, PORT + 0x38), 0);
    end(&r);
}

TEST(queued_and_reset_in_the_middle)
{
    struct rig r;

    begin(&r);
    for (u32 round = 0; round < 60; round++) {
        for (u8 i = 0; i < 8; i++)
            put(&r, i, 0x60, round * 8 + i, 2, 1024);
        set_reg(&r, PORT + 0x34, 0xff);
        set_reg(&r, PORT + 0x38, 0xff);
        if (round % 3 == 2) { /* what was under way goes nowhere, and the port works again */
            set_reg(&r, PORT + 0x18, 0x16);
            EXPECT_EQ(reg(&r, PORT + 0x34) | reg(&r, PORT + 0x38), 0);
            set_reg(&r, PORT + 0x2c, 1);
            set_reg(&r, PORT + 0x2c, 0);
            port_start(&r);
            continue;
        }
        EXPECT(settle(&r, 0x34, 0xff));
        for (u32 i = 0; i < 8; i++)
            EXPECT_EQ(word_at(&r, BUF + i * 0x10000 + 1020), (round * 8 + i + 2) * 128 - 1);
    }
    end(&r);
}
TEST_MAIN()
