// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * debugcon.c - a port that prints, for firmware and test programs; and one that ends the
 * program. SeaBIOS writes its log to port 0x402 when a read of it gives 0xe9.
 */
#include "base/error.h"
#include "vmm/backend/chardev.h"
#include "vmm/dev/pc/misc.h"

/* --- isa-debugcon ---------------------------------------------------------------------------
 */

struct debugcon {
    struct dev dev;
    struct chardev *chardev;
    u32 iobase, readback;
};

static u64 debugcon_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    return container_of(d, struct debugcon, dev)->readback;
}

static void debugcon_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    struct debugcon *s = container_of(d, struct debugcon, dev);
    u8 byte = val;

    /* What the host does not take is lost: nothing waits for a log. */
    if (s->chardev && chardev_write(s->chardev, &byte, 1) != 1)
        return;
}

static const struct region debugcon_region = {
    .name = "debugcon",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = debugcon_read,
    .write = debugcon_write,
};

/* Nobody reads here: what arrives is taken and forgotten. */
static size_t debugcon_can_read(void *opaque UNUSED)
{
    return 4096;
}
static void debugcon_drop(void *opaque UNUSED, const u8 *bytes UNUSED, size_t n UNUSED)
{
}

static const struct chardev_user debugcon_user = {
    .can_read = debugcon_can_read,
    .read = debugcon_drop,
    .background = true,
};

static bool debugcon_init(struct dev *d, GError **error)
{
    struct debugcon *s = container_of(d, struct debugcon, dev);

    if (s->chardev && !chardev_free_for_use(s->chardev))
        return fail(error, ERR_BUSY, "its chardev is in use");
    if (s->chardev)
        chardev_attach(s->chardev, &debugcon_user, s);
    bus_map(d->vm->io, s->iobase, &debugcon_region, d, 0);
    return true;
}

static void debugcon_fini(struct dev *d)
{
    struct debugcon *s = container_of(d, struct debugcon, dev);

    if (s->chardev)
        chardev_detach(s->chardev, s);
}

static const struct prop debugcon_props[] = {
    PROP(struct debugcon, chardev, PROP_PTR, .name = "chardev", .link = "chardev"),
    PROP(struct debugcon, iobase, PROP_U32, .name = "iobase", .def = "0xe9", .max = 0xffff),
    PROP(struct debugcon, readback, PROP_U32, .name = "readback", .def = "0xe9", .max = 0xff),
    {},
};

const struct dev_type debugcon_type = {
    .name = "isa-debugcon",
    .desc = "port that prints what is written to it",
    .kind = DEV_ISA,
    .size = sizeof(struct debugcon),
    .props = debugcon_props,
    .init = debugcon_init,
    .fini = debugcon_fini,
};

/* --- isa-debug-exit -------------------------------------------------------------------------
 */

struct debugexit {
    struct dev dev;
    u32 iobase, iosize;
    struct region region;
};

static u64 debugexit_read(struct dev *d UNUSED, u64 off UNUSED, unsigned size UNUSED)
{
    return 0;
}

static void debugexit_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    vm_request_exit(d->vm, (val << 1 | 1) & 0xff);
}

static bool debugexit_init(struct dev *d, GError **error)
{
    struct debugexit *s = container_of(d, struct debugexit, dev);

    if (s->iobase > 0x10000 - s->iosize)
        return fail(error, ERR_ARGUMENT, "iobase %#x with iosize %u ends behind port 0xffff",
                    s->iobase, s->iosize);
    s->region = (struct region){ .name = "debug-exit",
                                 .len = s->iosize,
                                 .min = 1,
                                 .max = 4,
                                 .read = debugexit_read,
                                 .write = debugexit_write };
    bus_map(d->vm->io, s->iobase, &s->region, d, 0);
    return true;
}

static const struct prop debugexit_props[] = {
    PROP(struct debugexit, iobase, PROP_U32, .name = "iobase", .def = "0x501", .max = 0xffff),
    PROP(struct debugexit, iosize, PROP_U32, .name = "iosize", .def = "2", .min = 1, .max = 64),
    {},
};

const struct dev_type debugexit_type = {
    .name = "isa-debug-exit",
    .desc = "port that ends the program with a status",
    .kind = DEV_ISA,
    .size = sizeof(struct debugexit),
    .props = debugexit_props,
    .init = debugexit_init,
};
