// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lsi_fuzz.c - the LSI 53C895A with registers and SCRIPTS as a hostile driver may write them,
 * over a disk and a CD-ROM.
 *
 * The input is a list of steps: registers, memory, instructions that could be right, a start.
 * Built as a test it runs lists from a seeded generator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/core/bench.h"
#include "vmm/dev/scsi/lsi.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { DISK = 64 << 20, IO = 0xc000, REGS = 0xe0000000u, CHIP_RAM = 0xe0010000u };
enum { SCRIPT = 0x1000, DATA = 0x2000 };

static const u8 *input;
static size_t left;

static u32 take(unsigned n)
{
    u32 val = 0;

    for (unsigned i = 0; i < n && left; i++, left--)
        val |= (u32)*input++ << (8 * i);
    return val;
}

static void unit(struct vm *vm, const struct dev_type *t, const char *target)
{
    struct image_options o = {
        .format = "raw", .discard = true, .cache = IMAGE_UNSAFE, .read_only = t == &scsi_cd_type
    };
    char path[] = "/tmp/posada-fuzz-XXXXXX";
    struct dev *d = dev_new(vm, t, t->name);
    int fd = mkstemp(path);

    if (fd < 0 || ftruncate(fd, DISK))
        abort();
    struct image *image = image_open(path, &o, NULL);
    close(fd);
    unlink(path);
    if (!image || !scsi_place(d, NULL, NULL) ||
        !dev_set_ptr(d, "drive", drive_new(vm, t->name, image, o.read_only), NULL) ||
        !dev_set(d, "scsi-id", target, NULL) || !dev_realize(d, NULL))
        abort();
}

static u32 address(void)
{
    u8 how = (u8)take(1);

    return how < 4    ? take(4)
           : how < 16 ? REGS + (how & 3) * 0x40 + take(1)
           : how < 40 ? CHIP_RAM + take(2) % 8192
           : how < 80 ? SCRIPT + how % 32 * 8
                      : DATA + take(1) * 4;
}

/* A message, a command block or the like. */
static void some_data(struct bench *b)
{
    static const u8 known[][10] = {
        { 0xc0, 0x20, 0x01 },
        { 0x80 },
        { 0xc0, 0x01, 0x03, 0x01, 0x19, 0x08 },
        { 0x80, 0x06 },
        { 0xc0, 0x20, 0x02, 0x0d },
        { 0x80, 0x0c },
        { 0x28, 0, 0, 0, 0, 1, 0, 0, 2 },
        { 0x2a, 0, 0, 0, 0, 1, 0, 1, 9 },
        { 0x12, 0, 0, 0, 36 },
        { 0 },
        { 0x03, 0, 0, 0, 18 },
        { 0x15, 0x10, 0, 0, 24 },
        { 0x42, 0, 0, 0, 0, 0, 0, 0, 24 },
        { 0xa0, 0, 0, 0, 0, 0, 0, 0, 1 },
    };
    u8 how = (u8)take(1), *to = ram_block_at(b->vm->ram, 0)->host + DATA + take(1) * 4;

    if (how < 200)
        memcpy(to, known[how % ARRAY_LEN(known)], 10);
    else
        for (u32 i = 0; i < 16; i++)
            to[i] = (u8)take(1);
}

/* A whole command, as drivers have it. */
static void whole(struct bench *b)
{
    u8 how = (u8)take(1);
    u32 n = take(2) % 0x3000, script[] = {
        0x41000000 | (how & 1) << 16,
        SCRIPT,
        0x0e000001 + (how >> 1 & 3),
        DATA + take(1) * 4,
        0x0a00000a,
        DATA + take(1) * 4,
        (how & 8 ? 0x09000000 : 0x08000000) | n,
        0x10000,
        0x0b000001,
        DATA,
        0x0f000001,
        DATA + 4,
        0x48000000,
        0,
        0x98080000,
        0,
    };

    if (how & 16) { /* it may disconnect after the command */
        script[6] = 0x0f000002;
        script[7] = DATA + 8;
        script[8] = 0x50000000;
        script[9] = SCRIPT + 14 * 4;
        script[10] = 0x0f000001 + (how >> 5 & 3);
        script[12] = 0x09000000 | n | 1;
        script[13] = 0x10000;
    }
    memcpy(ram_block_at(b->vm->ram, 0)->host + SCRIPT, script, sizeof script);
}

static void instruction(struct bench *b)
{
    static const u8 opcodes[] = { 0x08, 0x09, 0x0a, 0x0b, 0x0e, 0x0f, 0x18, 0x19, 0x29, 0x41,
                                  0x48, 0x50, 0x58, 0x60, 0x6a, 0x72, 0x78, 0x7c, 0x7e, 0x80,
                                  0x88, 0x90, 0x98, 0xc0, 0xe0, 0xe1, 0xf0, 0xf1, 0x47, 0x83 };
    u8 how = (u8)take(1);
    u32 at = take(1) % 32 * 8;
    u32 insn =
        how < 250 ? (u32)opcodes[how % sizeof opcodes] << 24 | (take(3) & 0xff70ff) : take(4);
    u32 two[] = { insn, address() };

    memcpy(ram_block_at(b->vm->ram, 0)->host + SCRIPT + at, two, sizeof two);
}

static void start(struct bench *b, u32 at)
{
    for (u32 i = 0; i < 4; i++)
        bench_out(b, (u64)IO + DSP + i, (u8)(at >> 8 * i));
}

static void step(struct bench *b)
{
    u8 how = (u8)take(1);

    if (how < 60)
        instruction(b);
    else if (how < 100)
        some_data(b);
    else if (how < 130)
        bench_out(b, IO + take(1), (u8)take(1));
    else if (how < 150)
        bench_in(b, IO + take(1));
    else if (how < 175)
        whole(b);
    else if (how < 235)
        start(b, SCRIPT + (how & 3 ? 0 : take(1) % 32 * 8));
    else if (how < 250)
        bench_step(b, 2 * NS_PER_MS);
    else
        scsi_bus_rest(&lsi_of(b->dev)->bus);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct bench b = bench_begin(&lsi53c895a_type, 0x2000);
    struct dev *host = dev_new(b.vm, &pci_host_type, "host");

    input = data;
    left = size;
    if (!dev_realize(host, NULL) || !pci_place(b.dev, pci_host_bus(host), 9, NULL) ||
        !bench_realize(&b, NULL))
        abort();
    unit(b.vm, &scsi_hd_type, "0");
    unit(b.vm, &scsi_cd_type, "1");
    struct pci_dev *p = pci_dev_of(b.dev);
    pci_config_write(p->bus, p->fn, PCI_BAR0, IO, 4);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 4, REGS, 4);
    pci_config_write(p->bus, p->fn, PCI_BAR0 + 8, CHIP_RAM, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, 7, 2);
    for (unsigned i = 0; i < 2000 && left; i++)
        step(&b);
    vm_free_devs(b.vm);
    drive_free_all(b.vm);
    b.dev = NULL;
    bench_free(&b);
    return 0;
}

#ifndef POSADA_LIBFUZZER
int main(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(895);
    static u8 program[10000];

    puts("1..1");
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned i = 0; i < sizeof program; i++)
            program[i] = (u8)g_rand_int(rand);
        LLVMFuzzerTestOneInput(program, sizeof program);
    }
    puts("ok 1 - seeded scripts");
    return 0;
}
#endif
