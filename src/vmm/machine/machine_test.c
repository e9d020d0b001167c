// SPDX-License-Identifier: GPL-2.0-or-later
/* machine_test.c - whole machines, built and reset but not run; what the checks refuse. */
#include "vmm/machine/machine.h"

#include <glib/gstdio.h>

#include "base/test.h"
#include "vmm/core/ram.h"
#include "vmm/core/vm.h"
#include "vmm/cpu/x86/state.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/rtc.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/machine/board.h"

/* A multiboot kernel with addresses in its header, for 1 MiB; 64 bytes. */
static char *kernel_make(void)
{
    const u32 k[16] = {
        0x1badb002, 0x10000,    (u32) - (0x1badb002 + 0x10000), 0x100000, 0x100000, 0x100040, 0,
        0x100020,   0xf4f4f4f4,
    };
    char *path = g_strdup_printf("%s/posada-machine-%d", g_get_tmp_dir(), (int)getpid());

    EXPECT(g_file_set_contents(path, (const char *)k, sizeof k, NULL));
    return path;
}

static struct machine_desc *desc_new(const char *kernel)
{
    struct machine_desc *d = machine_desc_new();

    d->accel = g_strdup("soft");
    d->kernel = g_strdup(kernel);
    d->ram = 64 * MiB;
    return d;
}

static struct machine *build(const struct machine_desc *d)
{
    g_autoptr(GError) e = NULL;
    struct machine *m = machine_build(d, &e);

    if (!m)
        printf("# %s\n", e->message);
    EXPECT(m);
    return m;
}

static GPtrArray *props(const char *text)
{
    return opts_parse(text, NULL, "test", NULL);
}

TEST(pc_with_a_kernel)
{
    g_autofree char *path = kernel_make();
    struct machine_desc *d = desc_new(path);
    machine_add_device(d, "virtio-rng-pci", "r", "-device", props(""));
    machine_add_device(d, "virtio-rng-pci", NULL, "-device", props("addr=7"));
    d->serial[0] = g_strdup("null");
    struct machine *m = build(d);
    if (!m)
        return;
    struct vm *vm = machine_vm(m);
    u32 v;

    /* PCI as firmware leaves it: BARs inside the windows, apart, decoded; PIRQ routes. */
    for (u8 slot = 3; slot <= 7; slot += 4) {
        u32 io = pci_config_read(m->pci, slot << 3, PCI_BAR0, 4);
        u32 mem = pci_config_read(m->pci, slot << 3, PCI_BAR0 + 4, 4);

        EXPECT(io >= 0xc001 && io < 0x10000 && (io & 1));
        EXPECT(!mem || (mem >= PC_PCI_MEM && mem < PC_PCI_MEM_END));
        EXPECT_EQ(pci_config_read(m->pci, slot << 3, PCI_COMMAND, 2) & 3, 3);
        EXPECT_EQ(pci_config_read(m->pci, slot << 3, PCI_INT_LINE, 1), 11);
    }
    EXPECT(pci_config_read(m->pci, 3 << 3, PCI_BAR0, 4) !=
           pci_config_read(m->pci, 7 << 3, PCI_BAR0, 4));
    EXPECT_EQ(pci_config_read(m->pci, 1 << 3, 0x60, 4), 0x0b0b0a0a);
    EXPECT_EQ(bus_read(vm->io, 0x4d1, 1), 0x0c);
    EXPECT_EQ(bus_read(vm->io, PC_PM_BASE + 4, 2) & 1, 1); /* SCI_EN */
    EXPECT_EQ(rtc_get_cmos(m->rtc, 0x34) | rtc_get_cmos(m->rtc, 0x35) << 8, 48 * 16);

    EXPECT(ram_get(vm->ram, 0xf0000, &v, 4) && v == 0x5f4d535f); /* _SM_ */
    EXPECT(ram_get(vm->ram, 0xf0020, &v, 4) && v == 0x20445352); /* RSD */
    EXPECT(ram_get(vm->ram, 0x100020, &v, 4) && v == 0xf4f4f4f4);

    struct x86_state s;
    EXPECT(cpu_get_state(vm->vcpus[0], &s, NULL));
    EXPECT_EQ(s.rip, 0x100020);
    EXPECT_EQ(s.gpr[RAX], 0x2badb002);
    EXPECT_EQ(s.msr.mtrr_def_type, 0xc06);

    /* A reset brings all of it back. */
    pci_config_write(m->pci, 3 << 3, PCI_BAR0, 0, 4);
    EXPECT(ram_fill(vm->ram, 0x100000, 0xaa, 64));
    EXPECT(ram_fill(vm->ram, 0xf0000, 0xaa, 64));
    vm_reset(vm);
    EXPECT(ram_get(vm->ram, 0x100020, &v, 4) && v == 0xf4f4f4f4);
    EXPECT(ram_get(vm->ram, 0xf0000, &v, 4) && v == 0x5f4d535f);
    EXPECT(pci_config_read(m->pci, 3 << 3, PCI_BAR0, 4) >= 0xc001);
    EXPECT(cpu_get_state(vm->vcpus[0], &s, NULL) && s.rip == 0x100020);
    machine_free(m);
    machine_desc_free(d);
    g_unlink(path);
}

TEST(pc_with_firmware)
{
    g_autofree char *path =
        g_strdup_printf("%s/posada-bios-%d", g_get_tmp_dir(), (int)getpid());
    g_autofree char *rom = g_malloc0(0x40000);
    struct machine_desc *d = desc_new(NULL);
    u32 v;

    memcpy(rom + 0x3fff0, "\xea\x5b\xe0\x00", 4);
    EXPECT(g_file_set_contents(path, rom, 0x40000, NULL));
    d->bios = g_strdup(path);
    machine_add_device(d, "virtio-rng-pci", NULL, "-device", props("bootindex=2,addr=9"));
    machine_add_device(d, "virtio-rng-pci", NULL, "-device", props("bootindex=1"));
    struct machine *m = build(d);
    if (!m)
        return;
    struct vm *vm = machine_vm(m);

    EXPECT(ram_get(vm->ram, 0xfffffff0, &v, 4) && v == 0x00e05bea);
    EXPECT(ram_get(vm->ram, 0xffff0, &v, 4) && v == 0x00e05bea);
    EXPECT(!ram_put(vm->ram, 0xffff0, &v, 4)); /* ROM */
    GBytes *order = fw_cfg_file(m->fw_cfg, "bootorder");
    EXPECT(order);
    if (order)
        EXPECT_STR(g_bytes_get_data(order, NULL),
                   "/pci@i0cf8/scsi@3/disk@0,0\n/pci@i0cf8/scsi@9/disk@0,0");
    EXPECT(fw_cfg_file(m->fw_cfg, "etc/e820"));
    EXPECT(fw_cfg_file(m->fw_cfg, "etc/table-loader"));
    EXPECT(fw_cfg_file(m->fw_cfg, "etc/smbios/smbios-anchor"));
    struct x86_state s;
    EXPECT(cpu_get_state(vm->vcpus[0], &s, NULL));
    EXPECT_EQ(s.seg[CS].base + s.rip, 0xfffffff0);
    machine_free(m);
    machine_desc_free(d);
    g_unlink(path);
}

TEST(microvm)
{
    g_autofree char *path = kernel_make();
    struct machine_desc *d = desc_new(path);

    d->board = BOARD_MICROVM;
    for (int i = 0; i < 8; i++)
        machine_add_device(d, "virtio-rng-device", NULL, "-device", props(""));
    struct machine *m = build(d);
    if (m)
        for (int i = 0; i < 8; i++)
            EXPECT_EQ(bus_read(machine_vm(m)->mem, VIRTIO_MMIO_BASE + 0x200u * i, 4),
                      0x74726976);
    machine_free(m);

    g_autoptr(GError) e = NULL;
    machine_add_device(d, "virtio-rng-device", NULL, "-device", props(""));
    EXPECT(!machine_build(d, &e));
    EXPECT(e && strstr(e->message, "all 8 virtio slots are taken"));
    machine_desc_free(d);
    g_unlink(path);
}

static void refused(struct machine_desc *d, const char *message)
{
    g_autoptr(GError) e = NULL;

    EXPECT(!machine_check(d, &e));
    if (e)
        EXPECT_STR(e->message, message);
    machine_desc_free(d);
}

static struct machine_desc *with(enum machine_board board, const char *type, const char *text)
{
    struct machine_desc *d = desc_new("k");

    d->board = board;
    machine_add_device(d, type, NULL, "-device", props(text));
    return d;
}

TEST(checks)
{
    refused(with(BOARD_PC, "foo", ""),
            "-device: there is no device 'foo'; -device help lists them");
    refused(with(BOARD_PC, "i440FX", ""),
            "-device: there is no device 'i440FX'; -device help lists them");
    refused(with(BOARD_PC, "virtio-rng-pci", "foo=1"),
            "-device: virtio-rng-pci has no property 'foo'; -device virtio-rng-pci,help lists "
            "them");
    refused(with(BOARD_PC, "virtio-rng-pci", "rng=r"),
            "-device: virtio-rng-pci: rng=r: there is no -object with that id");
    refused(with(BOARD_PC, "virtio-blk-pci", "drive=d"),
            "-device: virtio-blk-pci: drive=d: there is no drive with that id");
    refused(with(BOARD_PC, "virtio-rng-device", ""),
            "-device: virtio-rng-device is for machine microvm; machine pc has PCI devices");
    refused(with(BOARD_MICROVM, "virtio-rng-pci", ""),
            "-device: virtio-rng-pci needs PCI, which machine microvm has not");

    struct machine_desc *d = with(BOARD_PC, "virtio-rng-pci", "");
    machine_add_device(d, "virtio-rng-pci", "x", "-device", props(""));
    machine_add_device(d, "virtio-rng-pci", "x", "-device", props(""));
    refused(d, "-device: id 'x' is used twice");

    d = desc_new("k");
    machine_add_drive(d)->id = g_strdup("a");
    machine_add_drive(d)->id = g_strdup("a");
    refused(d, "-drive: id 'a' is used twice");

    d = desc_new("k");
    machine_add_drive(d)->id = g_strdup("a");
    machine_add_device(d, "virtio-blk", NULL, "-drive", props("drive=a"));
    machine_add_device(d, "virtio-blk-pci", NULL, "-device", props("drive=a"));
    refused(d, "-device: virtio-blk-pci: drive=a has a device already");

    d = desc_new(NULL);
    d->board = BOARD_MICROVM;
    refused(d, "-machine microvm: needs -kernel");
    d = desc_new("k");
    d->board = BOARD_MICROVM;
    d->bios = g_strdup("b");
    refused(d, "-bios: machine microvm has no firmware");
    d = desc_new("k");
    d->board = BOARD_NONE;
    d->serial[1] = g_strdup("stdio");
    refused(d, "-serial: machine none has no serial ports");
}

TEST_MAIN()
