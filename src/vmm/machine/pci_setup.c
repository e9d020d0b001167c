// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci_setup.c - what firmware does to PCI before it starts an operating system, for direct
 * boot: gives every BAR an address, every function its interrupt line, and the PIIX its routes.
 *
 * Values are SeaBIOS' (fw/pciinit.c): BARs from 0xe0000000 and 0xc000 up, PIRQ A-D on ISA
 * interrupts 10, 10, 11, 11.  Bridges are not followed: the board has one bus.
 */
#include "vmm/machine/pci_setup.h"

#include "base/error.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/machine/board.h"

enum {
    IO_START = 0xc000,
    IO_END = 0x10000,
    PIIX3_FN = 1 * 8,
    PIIX3_IDE_FN = 1 * 8 + 1,
    PIIX4_PM_FN = 1 * 8 + 3,
    IDETIM = 0x40, /* of each channel; bit 15: its ports answer */
    PIRQRC = 0x60,
    PMBA = 0x40,
    PMREGMISC = 0x80,
    BAR_IO = 1,
    BAR_TYPE_64 = 4,
    BAR_TYPE = 6,
};

static const u8 pirq_gsi[4] = { 10, 10, 11, 11 };

struct window {
    u64 next, end;
};

static bool window_take(struct window *w, u64 size, u64 *ret, GError **error)
{
    u64 at = ROUND_UP(w->next, size);

    if (at >= w->end || size > w->end - at)
        return fail(error, ERR_LIMIT,
                    "PCI: the BARs of all devices need more address space than "
                    "there is below 4 GiB");
    *ret = at;
    w->next = at + size;
    return true;
}

/* One BAR; *ret_next is the number of the next. */
static bool bar_place(struct pci_bus *bus, u8 fn, unsigned bar, struct window *io,
                      struct window *mem, u16 *command, unsigned *ret_next, GError **error)
{
    u32 off = PCI_BAR0 + 4 * bar;
    u64 at = 0;

    *ret_next = bar + 1;
    u32 old = pci_config_read(bus, fn, off, 4);
    pci_config_write(bus, fn, off, UINT32_MAX, 4);
    u32 mask = pci_config_read(bus, fn, off, 4);
    pci_config_write(bus, fn, off, old, 4);
    if (!mask || mask == UINT32_MAX)
        return true;
    if (mask & BAR_IO) {
        u64 size = (~(mask & ~3u) & 0xffff) + 1;

        if (!window_take(io, MAX(size, 4), &at, error))
            return false;
        *command |= PCI_COMMAND_IO;
    } else {
        u64 size = (u64)(~(mask & ~15u)) + 1;
        bool wide = (mask & BAR_TYPE) == BAR_TYPE_64 && bar < 5;

        if (!window_take(mem, MAX(size, 16), &at, error))
            return false;
        *command |= PCI_COMMAND_MEM;
        if (wide) {
            pci_config_write(bus, fn, off + 4, 0, 4);
            *ret_next = bar + 2;
        }
    }
    pci_config_write(bus, fn, off, (u32)at, 4);
    return true;
}

static bool function_setup(struct pci_bus *bus, u8 fn, struct window *io, struct window *mem,
                           GError **error)
{
    u16 command = (u16)pci_config_read(bus, fn, PCI_COMMAND, 2);
    u8 pin = (u8)pci_config_read(bus, fn, PCI_INT_PIN, 1);

    if (pci_config_read(bus, fn, PCI_HEADER_TYPE, 1) & 0x7f)
        return true; /* a bridge */
    for (unsigned bar = 0, next; bar < 6; bar = next)
        if (!bar_place(bus, fn, bar, io, mem, &command, &next, error))
            return false;
    if (pin >= 1 && pin <= 4)
        pci_config_write(bus, fn, PCI_INT_LINE, pci_setup_gsi(fn >> 3, pin - 1u), 1);
    pci_config_write(bus, fn, PCI_COMMAND, command, 2);
    return true;
}

unsigned pci_setup_gsi(unsigned slot, unsigned pin)
{
    return pirq_gsi[(slot + pin - 1) & 3];
}

bool pci_setup(struct vm *vm, struct pci_bus *bus, GError **error)
{
    struct window io = { IO_START, IO_END }, mem = { PC_PCI_MEM, PC_PCI_MEM_END + 1ull };

    for (unsigned i = 0; i < 4; i++)
        pci_config_write(bus, PIIX3_FN, PIRQRC + i, pirq_gsi[i], 1);
    /* Those two are level-triggered for the 8259s. */
    bus_write(vm->io, 0x4d1, 0x0c, 1);
    for (unsigned fn = 0; fn < PCI_FNS; fn++) {
        if (!pci_bus_dev(bus, (u8)fn) || fn == PIIX4_PM_FN)
            continue;
        if (!function_setup(bus, (u8)fn, &io, &mem, error))
            return false;
    }
    if (pci_bus_dev(bus, PIIX3_IDE_FN)) {
        pci_config_write(bus, PIIX3_IDE_FN, IDETIM, 0x8000, 2);
        pci_config_write(bus, PIIX3_IDE_FN, IDETIM + 2, 0x8000, 2);
    }
    if (pci_bus_dev(bus, PIIX4_PM_FN)) {
        pci_config_write(bus, PIIX4_PM_FN, PCI_INT_LINE, PC_SCI, 1);
        pci_config_write(bus, PIIX4_PM_FN, PMBA, PC_PM_BASE | 1, 4);
        pci_config_write(bus, PIIX4_PM_FN, PMREGMISC, 1, 1);
        /* SCI_EN: the machine starts in ACPI mode. */
        bus_write(vm->io, PC_PM_BASE + 4, 1, 2);
    }
    return true;
}
