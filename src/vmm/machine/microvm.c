// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * microvm.c - lean boards for direct boot: "microvm" (serial port, clock, interrupt
 * controllers, no PCI, no firmware) and "none".
 */
#include "base/error.h"
#include "vmm/backend/chardev.h"
#include "vmm/dev/pc/intc.h"
#include "vmm/machine/board.h"

static bool microvm_build(struct machine *m, GError **error)
{
    return m->vm->kernel_irqchip || pc_intc_make(m->vm, true, error);
}

static bool place_nothing(struct machine *m UNUSED, struct dev *d UNUSED,
                          const char *bus UNUSED, GError **error UNUSED)
{
    return true;
}

static bool none_build(struct machine *m UNUSED, GError **error UNUSED)
{
    return true;
}

static bool finish(struct machine *m, GError **error)
{
    return machine_load_kernel(m, error);
}

static bool reset(struct machine *m, GError **error)
{
    return machine_reset_kernel(m, error);
}

const struct board_ops board_microvm = {
    .build = microvm_build, .place = place_nothing, .finish = finish, .reset = reset
};
const struct board_ops board_none = {
    .build = none_build, .place = place_nothing, .finish = finish, .reset = reset
};
