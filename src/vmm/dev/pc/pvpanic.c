// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pvpanic.c - a port by which a guest says that its kernel has panicked.
 * QEMU's docs/specs/pvpanic.rst, the ISA variant: reading gives the events it takes.
 */
#include "base/log.h"
#include "vmm/dev/pc/misc.h"

enum { PANICKED = 1, CRASH_LOADED = 2 };

struct pvpanic {
    struct dev dev;
    u32 iobase;
};

static u64 pvpanic_read(struct dev *d UNUSED, u64 off UNUSED, unsigned size UNUSED)
{
    return PANICKED | CRASH_LOADED;
}

static void pvpanic_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    if (val & PANICKED) {
        log_guest("the guest's kernel has panicked");
        vm_request(d->vm, VM_REQ_SHUTDOWN, VM_BY_PANIC);
    } else if (val & CRASH_LOADED) {
        log_guest("the guest's kernel has panicked and starts its crash kernel");
    }
}

static const struct region pvpanic_region = {
    .name = "pvpanic",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = pvpanic_read,
    .write = pvpanic_write,
};

static bool pvpanic_init(struct dev *d, GError **error UNUSED)
{
    bus_map(d->vm->io, container_of(d, struct pvpanic, dev)->iobase, &pvpanic_region, d, 0);
    return true;
}

static const struct prop pvpanic_props[] = {
    PROP(struct pvpanic, iobase, PROP_U32, .name = "ioport", .def = "0x505", .max = 0xffff),
    {},
};

const struct dev_type pvpanic_type = {
    .name = "pvpanic",
    .desc = "port that tells of a panic of the guest's kernel",
    .kind = DEV_ISA,
    .size = sizeof(struct pvpanic),
    .props = pvpanic_props,
    .init = pvpanic_init,
};
