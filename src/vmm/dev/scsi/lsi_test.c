// SPDX-License-Identifier: GPL-2.0-or-later
/* lsi_test.c - the LSI 53C895A with SCRIPTS as a driver writes them. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/bench.h"
#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/lsi.h"

enum { DISK = 4 << 20, IO = 0xc000, REGS = 0xe0000000u, CHIP_RAM = 0xe0010000u };
enum {
    SCRIPT = 0x1000,
    MSG = 0x2000,
    CDB = 0x2010,
    STAT = 0x2020,
    REPLY = 0x2030,
    TABLE = 0x2100
};
enum { BUF = 0x10000, PATIENCE_US = 10 * 1000 * 1000 };

struct rig {
    struct bench b;
    struct drive *disk;
    char path[64];
    u32 script[64], n;
};

static struct image *file_open(char *path)
{
    struct image_options o = { .format = "raw", .discard = true };
    g_autofree u32 *words = g_new(u32, DISK / 4);
    g_autoptr(GError) error = NULL;

    strcpy(path, "/tmp/posada-lsi-XXXXXX");
    int fd = mkstemp(path);
    for (u32 i = 0; i < DISK / 4; i++)
        words[i] = i;
    if (fd < 0 || write(fd, words, DISK) != DISK)
        g_error("%s", path);
    close(fd);
    struct image *image = image_open(path, &o, &error);
    if (!image)
        g_error("%s", error->message);
    return image;
}

static void begin(struct rig *r)
{
    g_autoptr(GError) error = NULL;

    *r = (struct rig){ .b = bench_begin(&lsi53c895a_type, 0x2000) };
    struct dev *host = dev_new(r->b.vm, &pci_host_type, "host");
    if (!dev_realize(host, &error) || !pci_place(r->b.dev, pci_host_bus(host), 9, &error) ||
        !bench_realize(&r->b, &error))
        g_error("%s", error->message);
    r->disk = drive_new(r->b.vm, "disk", file_open(r->path), false);
    struct dev *hd = dev_new(r->b.vm, &scsi_hd_type, "hd");
    if (!scsi_place(hd, NULL, &error) || !dev_set_ptr(hd, "drive", r->disk, &error) ||
        !dev_set(hd, "scsi-id", "2", &error) || !dev_realize(hd, &error))
        g_error("%s", error->message);
    struct pci_dev *p = pci_dev_of(r->b.dev);
    pci_config_write(p->bus, p->fn, PCI_BAR0, IO, 4);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 4, REGS, 4);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 8, CHIP_RAM, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, 7, 2);
    bench_out(&r->b, IO + DIEN, 0x7d);
    bench_out(&r->b, IO + SIEN0, 0x8f);
    bench_out(&r->b, IO + SIEN1, 0x04);
}

static void end(struct rig *r)
{
    vm_free_devs(r->b.vm);
    drive_free_all(r->b.vm);
    r->b.dev = NULL;
    bench_free(&r->b);
    unlink(r->path);
}

static void *at(struct rig *r, gpa a)
{
    return ram_block_at(r->b.vm->ram, 0)->host + a;
}

static void op(struct rig *r, u32 insn, u32 arg)
{
    r->script[r->n++] = insn;
    r->script[r->n++] = arg;
}

static void start(struct rig *r, u32 where)
{
    memcpy(at(r, SCRIPT), r->script, sizeof r->script);
    r->n = 0;
    for (u32 i = 0; i < 4; i++)
        bench_out(&r->b, (u64)IO + DSP + i, (u8)(where >> 8 * i));
}

/* Waits for an interrupt; DSTAT in bits 7:0, SIST0, SIST1 above. */
static u32 wait(struct rig *r)
{
    for (u32 us = 0; us < PATIENCE_US; us += 100) {
        if (bench_in(&r->b, IO + ISTAT0) & 3) {
            u32 val = bench_in(&r->b, IO + DSTAT) & 0x7fu;

            val |= (u32)bench_in(&r->b, IO + SIST0) << 8;
            return val | (u32)bench_in(&r->b, IO + SIST1) << 16;
        }
        g_usleep(100);
    }
    return UINT32_MAX;
}

/* One command, without disconnecting. */
static u32 command(struct rig *r, const u8 *cdb, u32 n, bool in)
{
    *(u8 *)at(r, MSG) = 0x80;
    memcpy(at(r, CDB), cdb, 10);
    op(r, 0x41020000, 0);
    op(r, 0x0e000001, MSG);
    op(r, 0x0a00000a, CDB);
    if (n)
        op(r, (in ? 0x09000000 : 0x08000000) | n, BUF);
    op(r, 0x0b000001, STAT);
    op(r, 0x0f000001, REPLY);
    op(r, 0x48000000, 0);
    op(r, 0x98080000, 0x1234);
    start(r, SCRIPT);
    return wait(r);
}

#define CDB10(...) ((const u8[10]){ __VA_ARGS__ })

TEST(a_command_and_its_data)
{
    struct rig r;

    begin(&r);
    const u8 *b = at(&r, BUF), *status = at(&r, STAT);
    EXPECT_EQ(command(&r, CDB10(0x12, 0, 0, 0, 36), 36, true), DSTAT_SIR);
    EXPECT_EQ(bench_in32(&r.b, IO + DSPS), 0x1234);
    EXPECT_EQ(*status, 0);
    EXPECT(memcmp(b + 8, "POSADA", 6) == 0);
    EXPECT_EQ(command(&r, CDB10(0), 0, true), DSTAT_SIR);
    EXPECT_EQ(*status, SCSI_CHECK_CONDITION);
    EXPECT_EQ(command(&r, CDB10(0x03, 0, 0, 0, 18), 18, true), DSTAT_SIR);
    EXPECT_EQ(b[2], KEY_UNIT_ATTENTION);
    EXPECT_EQ(b[12], 0x29);
    EXPECT_EQ(command(&r, CDB10(0x28, 0, 0, 0, 0x10, 0, 0, 2, 0x10), 0x42000, true), DSTAT_SIR);
    const u32 *w = (const u32 *)b;
    for (u32 i = 0; i < 0x42000 / 4; i++) /* three pieces */
        EXPECT_EQ(w[i], 0x1000 * 128 + i);
    EXPECT_EQ(command(&r, CDB10(0x2a, 0, 0, 0, 0, 1, 0, 1, 2), 0x20400, false), DSTAT_SIR);
    EXPECT_EQ(*status, 0);
    memset(at(&r, BUF), 0, 512);
    EXPECT_EQ(command(&r, CDB10(0x28, 0, 0, 0, 0, 1, 0, 0, 1), 512, true), DSTAT_SIR);
    EXPECT_EQ(w[0], 0x1000 * 128);
    end(&r);
}

TEST(nobody_answers)
{
    struct rig r;

    begin(&r);
    op(&r, 0x41050000, 0);
    op(&r, 0x78340500, 0); /* a register is set before it is told */
    op(&r, 0x0e000001, MSG);
    start(&r, SCRIPT);
    EXPECT_EQ(wait(&r), SIST1_STO << 16);
    EXPECT_EQ(bench_in(&r.b, IO + 0x34), 5);
    EXPECT_EQ(bench_in32(&r.b, IO + DSP), SCRIPT + 24);
    end(&r);
}

TEST(less_than_asked_for)
{
    struct rig r;

    begin(&r);
    EXPECT_EQ(command(&r, CDB10(0x12, 0, 0, 0, 36), 100, true), SIST0_MA << 8);
    EXPECT_EQ(bench_in32(&r.b, IO + DBC) & 0xffffff, 64);
    EXPECT_EQ(bench_in(&r.b, IO + SSTAT1) & 7, STATUS);
    bench_out(&r.b, IO + SCNTL1, SCNTL1_RST); /* the way out of anything */
    EXPECT_EQ(wait(&r), SIST0_RST << 8);
    bench_out(&r.b, IO + SCNTL1, 0);
    bench_out(&r.b, IO + CCNTL0, CCNTL0_ENPMJ);
    for (u32 i = 0; i < 4; i++)
        bench_out(&r.b, (u64)IO + PMJAD1 + i, (u8)((SCRIPT + 0x80) >> 8 * i));
    u32 jump[] = { 0x98080000, 0x77 };
    memcpy(&r.script[32], jump, sizeof jump);
    EXPECT_EQ(command(&r, CDB10(0x12, 0, 0, 0, 36), 100, true), DSTAT_SIR);
    EXPECT_EQ(bench_in32(&r.b, IO + DSPS), 0x77);
    EXPECT_EQ(bench_in32(&r.b, IO + UA), BUF + 36);
    EXPECT_EQ(bench_in32(&r.b, IO + RBC), 0x09000000 | 64);
    EXPECT_EQ(bench_in32(&r.b, IO + IA), SCRIPT + 24);
    end(&r);
}

/* A tagged read that disconnects, and comes back. */
TEST(it_disconnects_and_comes_back)
{
    struct rig r;
    static const u8 read[] = { 0x28, 0, 0, 0, 0, 7, 0, 0, 1, 0 };

    begin(&r);
    command(&r, CDB10(0), 0, true);
    memcpy(at(&r, MSG), (const u8[]){ 0xc0, 0x20, 0x55 }, 3);
    memcpy(at(&r, CDB), read, 10);
    op(&r, 0x41020000, 0);
    op(&r, 0x0e000003, MSG);
    op(&r, 0x0a00000a, CDB);
    op(&r, 0x0f000001, REPLY); /* save pointers */
    op(&r, 0x0f000001, REPLY + 1);
    op(&r, 0x60000040, 0); /* the acknowledgement goes */
    op(&r, 0x48000000, 0);
    op(&r, 0x50000000, SCRIPT); /* wait for reselection */
    op(&r, 0x0f000003, REPLY + 2);
    op(&r, 0x09000200, BUF);
    op(&r, 0x0b000001, STAT);
    op(&r, 0x0f000001, REPLY + 5);
    op(&r, 0x98080000, 1);
    start(&r, SCRIPT);
    EXPECT_EQ(wait(&r), DSTAT_SIR);
    const u8 *m = at(&r, REPLY);
    EXPECT_EQ(m[0], 0x02);
    EXPECT_EQ(m[1], 0x04);
    EXPECT_EQ(m[2], 0x80);
    EXPECT_EQ(m[3], 0x20);
    EXPECT_EQ(m[4], 0x55);
    EXPECT_EQ(m[5], 0x00);
    EXPECT_EQ(bench_in(&r.b, IO + SSID), 0x82);
    EXPECT_EQ(*(u32 *)at(&r, BUF), 7 * 128);
    EXPECT_EQ(*(u8 *)at(&r, STAT), 0);
    end(&r);
}

TEST(waiting_is_broken_off_by_a_signal)
{
    struct rig r;

    begin(&r);
    op(&r, 0x50000000, SCRIPT + 16);
    op(&r, 0x98080000, 1);
    op(&r, 0x98080000, 2);
    start(&r, SCRIPT);
    EXPECT_EQ(bench_in(&r.b, IO + ISTAT0) & 3, 0);
    bench_out(&r.b, IO + ISTAT0, ISTAT0_SIGP);
    EXPECT_EQ(wait(&r), DSTAT_SIR);
    EXPECT_EQ(bench_in32(&r.b, IO + DSPS), 2);
    EXPECT_EQ(bench_in(&r.b, IO + CTEST2) & 0x40, 0x40);
    EXPECT_EQ(bench_in(&r.b, IO + CTEST2) & 0x40, 0);
    end(&r);
}

TEST(arithmetic_jumps_and_moves)
{
    struct rig r;

    begin(&r);
    op(&r, 0x7834f000, 0);             /* scratch A0 = f0 */
    op(&r, 0x7e342000, 0);             /* += 20, carry */
    op(&r, 0x80280000, SCRIPT + 0x20); /* jump if carry */
    op(&r, 0x98080000, 1);             /* not here */
    op(&r, 0x72340000, 0);             /* SFBR = A0 */
    op(&r, 0x80840010, 8);             /* jump relative if it is not 10 */
    op(&r, 0xc0000004, BUF);           /* memory move, to chip RAM */
    op(&r, CHIP_RAM, 0xe1340004);      /* (third word), load to scratch A */
    op(&r, CHIP_RAM, 0x98080000);
    op(&r, 3, 0);
    *(u32 *)at(&r, BUF) = 0x11223344;
    start(&r, SCRIPT);
    EXPECT_EQ(wait(&r), DSTAT_SIR);
    EXPECT_EQ(bench_in32(&r.b, IO + DSPS), 3);
    EXPECT_EQ(bench_mem_read(&r.b, CHIP_RAM, 4), 0x11223344);
    end(&r);
}

TEST(an_endless_script_hangs_nobody)
{
    struct rig r;

    begin(&r);
    op(&r, 0x80080000, SCRIPT); /* jump to itself */
    start(&r, SCRIPT);
    for (u32 i = 0; i < 50; i++)
        bench_step(&r.b, NS_PER_MS);
    EXPECT_EQ(bench_in(&r.b, IO + ISTAT1) & ISTAT1_SRUN, ISTAT1_SRUN);
    bench_out(&r.b, IO + ISTAT0, ISTAT0_ABRT);
    EXPECT_EQ(wait(&r), DSTAT_ABRT);
    EXPECT_EQ(bench_in(&r.b, IO + ISTAT1) & ISTAT1_SRUN, 0);
    end(&r);
}
TEST_MAIN()
