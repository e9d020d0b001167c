// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * port92.c - system control port A of the PS/2: fast reset, A20.
 * Intel 82371SB data sheet (290550), 2.5.8 (PORT 92).
 *
 * Not modelled: the A20 gate itself; address line 20 is always open, as on processors of today.
 */
#include "vmm/dev/pc/misc.h"

enum { FAST_RESET = 1, A20 = 2 };

struct port92 {
    struct dev dev;
    struct port92_regs {
        u8 val;
    } r;
};

static const struct state_field port92_fields[] = {
    STATE_INT(struct port92_regs, val),
};

static u64 port92_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    return container_of(d, struct port92, dev)->r.val;
}

static void port92_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    struct port92 *s = container_of(d, struct port92, dev);
    bool pulse = val & FAST_RESET && !(s->r.val & FAST_RESET);

    s->r.val = val;
    if (pulse)
        vm_request(d->vm, VM_REQ_RESET, VM_BY_GUEST);
}

static void port92_reset(struct dev *d)
{
    container_of(d, struct port92, dev)->r.val = A20;
}

static const struct region port92_region = {
    .name = "port92",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = port92_read,
    .write = port92_write,
};

const struct dev_type port92_type = {
    .name = "port92",
    .desc = "system control port A",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct port92),
    .io = { &port92_region },
    .state = STATE_TABLE(struct port92, r, port92_fields),
    .reset = port92_reset,
};
