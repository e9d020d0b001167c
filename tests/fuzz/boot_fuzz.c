// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot_fuzz.c - fuzz target of the boot loaders: a file of any bytes as -kernel.
 *
 * The first byte says which guest it is for (little or more memory, initrd or not); the rest is
 * the kernel.  Without libFuzzer replay.c mutates a few seeds by a fixed sequence.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "vmm/core/ram.h"
#include "vmm/machine/boot.h"

static struct ram *ram_of(u64 mib)
{
    struct ram *r = ram_new();
    struct ram_block *b = ram_block_new(r, "ram", mib * MiB, NULL);

    ram_map_at(r, 0, mib * MiB, b, 0, false);
    ram_commit(r);
    return r;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static struct ram *ram;
    struct boot_input in = { .append = "console=ttyS0", .rsdp = 0xf0020 };
    char path[32];

    if (!n)
        return 0;
    if (!ram)
        ram = ram_of(64);
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data + 1, n - 1) != (ssize_t)(n - 1))
        abort();
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    in.kernel = path;
    in.initrd = data[0] & 1 ? path : NULL;
    in.ram_low = data[0] & 2 ? 64 * MiB : 2 * MiB;
    e820_add(&in.map, 0, 0x9fc00, E820_RAM);
    e820_add(&in.map, 0xf0000, 0x10000, E820_RESERVED);
    e820_add(&in.map, MiB, in.ram_low - MiB, E820_RAM);

    g_autoptr(GError) error = NULL;
    struct boot *b = boot_load(&in, &error);
    if (!b != !!error)
        abort(); /* exactly one of the two */
    /* What was accepted lies in RAM, all of it. */
    if (b && !boot_write(b, ram, &error))
        abort();
    boot_free(b);
    close(fd);
    return 0;
}

/* ---- seeds for the replay ------------------------------------------------------------------
 */

static void put(u8 *p, u64 v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (u8)(v >> (8 * i));
}

size_t fuzz_seed(unsigned i, u8 *to)
{
    u8 *k = to + 1;

    memset(to, 0, FUZZ_SEED_MAX);
    to[0] = (u8)(2 | (i & 1));
    switch (i) {
    case 0: /* bzImage */
    case 1:
        k[0x1f1] = 1;
        put(k + 0x1fe, 0xaa55, 2);
        k[0x201] = 0x6a;
        memcpy(k + 0x202, "HdrS", 4);
        put(k + 0x206, 0x20f, 2);
        k[0x211] = 1;
        put(k + 0x22c, 0x7fffffff, 4);
        k[0x234] = 1;
        put(k + 0x236, i, 2);
        put(k + 0x238, 255, 4);
        put(k + 0x258, 0x1000000, 8);
        put(k + 0x260, 0x100000, 4);
        return 1 + 2048;
    case 2: /* multiboot, addresses in the header */
        put(k + 16, 0x1badb002, 4);
        put(k + 20, 0x10003, 4);
        put(k + 24, (u32) - (0x1badb002 + 0x10003), 4);
        put(k + 28, 0x200010, 4);
        put(k + 32, 0x200000, 4);
        put(k + 36, 0x200200, 4);
        put(k + 40, 0x201000, 4);
        put(k + 44, 0x200020, 4);
        return 1 + 1024;
    default: /* ELF32 with the Xen note, or with a multiboot header */
        memcpy(k, "\177ELF\1\1\1", 7);
        put(k + 16, 2, 2);
        put(k + 18, 3, 2);
        put(k + 24, 0x100000, 4);
        put(k + 28, 52, 4);
        put(k + 42, 32, 2);
        put(k + 44, 2, 2);
        put(k + 52, 1, 4);        /* PT_LOAD */
        put(k + 56, 512, 4);      /* offset */
        put(k + 64, 0x100000, 4); /* paddr */
        put(k + 68, 256, 4);
        put(k + 72, 8192, 4);
        put(k + 84, 4, 4); /* PT_NOTE */
        put(k + 88, 400, 4);
        put(k + 100, 20, 4);
        put(k + 104, 20, 4);
        put(k + 400, 4, 4);
        put(k + 404, 4, 4);
        put(k + 408, 18, 4);
        memcpy(k + 412, "Xen", 4);
        put(k + 416, 0x100010, 4);
        if (i == 4) {
            put(k + 512, 0x1badb002, 4);
            put(k + 516, 7, 4);
            put(k + 520, (u32) - (0x1badb002 + 7), 4);
        }
        return 1 + 1024;
    }
}

const unsigned fuzz_seeds = 5;
