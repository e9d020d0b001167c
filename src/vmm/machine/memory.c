// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * memory.c - where RAM and ROM of a PC lie, and the map of it that firmware and kernels get.
 *
 *   0 .. 0xa0000              RAM
 *   0xa0000 .. 0xc0000        the graphics card's window
 *   0xc0000 .. 0x100000       RAM or ROM as the host bridge says; RAM on boards without one
 *   0x100000 .. ram_low       RAM, to 3 GiB at most
 *   0xe0000000 ..             PCI, IOAPIC, HPET, LAPIC, firmware's ROM
 *   0x100000000 ..            the rest of RAM
 */
#include "vmm/core/ram.h"

#include <string.h>

#include "base/error.h"
#include "vmm/machine/board.h"

enum { LOW_END = 0xa0000, EBDA = 0x9fc00, HIGH_START = 0x100000, TABLES = 0xe0000 };

bool machine_make_ram(struct machine *m, GError **error)
{
    struct vm *vm = m->vm;
    u64 size = m->desc->ram;

    m->ram = ram_block_new(vm->ram, "pc.ram", size, error);
    if (!m->ram)
        return false;
    m->ram_low = MIN(size, (u64)PC_BELOW_4G_MAX);
    m->ram_high = size - m->ram_low;
    vm_lock(vm);
    ram_map_at(vm->ram, 0, LOW_END, m->ram, 0, false);
    if (m->desc->board != BOARD_PC)
        ram_map_at(vm->ram, 0xc0000, HIGH_START - 0xc0000, m->ram, 0xc0000, false);
    if (m->ram_low > HIGH_START)
        ram_map_at(vm->ram, HIGH_START, m->ram_low - HIGH_START, m->ram, HIGH_START, false);
    if (m->ram_high)
        ram_map_at(vm->ram, 4 * GiB, m->ram_high, m->ram, m->ram_low, false);
    ram_commit(vm->ram);
    vm_unlock(vm);
    return true;
}

/* Firmware gets RAM as it is and makes its own reservations; a kernel gets those that firmware
 * would have made. */
void machine_e820(const struct machine *m, struct e820 *ret, bool direct)
{
    memset(ret, 0, sizeof *ret);
    if (direct) {
        e820_add(ret, 0, EBDA, E820_RAM);
        e820_add(ret, EBDA, LOW_END - EBDA, E820_RESERVED);
        e820_add(ret, TABLES, HIGH_START - TABLES, E820_RESERVED);
        e820_add(ret, HIGH_START, m->ram_low - HIGH_START, E820_RAM);
    } else {
        e820_add(ret, 0, m->ram_low, E820_RAM);
    }
    /* Where KVM on Intel keeps a page table and a task segment of its own. */
    e820_add(ret, 0xfeffc000, 0x4000, E820_RESERVED);
    e820_add(ret, 4 * GiB, m->ram_high, E820_RAM);
}

bool machine_load_kernel(struct machine *m, GError **error)
{
    const struct machine_desc *d = m->desc;
    struct boot_input in = {
        .kernel = d->kernel, .initrd = d->initrd, .append = d->append, .ram_low = m->ram_low
    };

    if (!d->kernel)
        return true;
    if (!machine_make_tables(m, error))
        return false;
    machine_e820(m, &in.map, true);
    in.rsdp = m->rsdp;
    m->boot = boot_load(&in, error);
    if (m->boot)
        return true;
    g_prefix_error(error, "-kernel: ");
    return false;
}

bool machine_reset_kernel(struct machine *m, GError **error)
{
    const le16 ebda_segment = le16_of(EBDA >> 4), base_kib = le16_of(EBDA >> 10);

    if (!m->boot)
        return true;
    /* BIOS data area: kernels look there for the end of low memory. */
    if (!ram_fill(m->vm->ram, 0, 0, 0x1000) || !ram_load(m->vm->ram, 0x40e, &ebda_segment, 2) ||
        !ram_load(m->vm->ram, 0x413, &base_kib, 2))
        return fail(error, ERR_FAILED, "boot: no memory at 0");
    if (m->tables && !ram_load(m->vm->ram, m->tables_at, m->tables->data, m->tables->len))
        return fail(error, ERR_FAILED, "boot: no memory at %#" G_GINT64_MODIFIER "x",
                    m->tables_at);
    return boot_write(m->boot, m->vm->ram, error) && boot_enter(m->boot, m->vm, error);
}
