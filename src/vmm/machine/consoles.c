// SPDX-License-Identifier: GPL-2.0-or-later
/* consoles.c - serial ports and debug console: devices of a board with their host ends. */
#include "vmm/backend/chardev.h"
#include "vmm/machine/board.h"

static const struct {
    u16 port;
    u8 gsi;
} com[SERIALS_MAX] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

bool machine_make_serials(struct machine *m, GError **error)
{
    for (unsigned i = 0; i < SERIALS_MAX; i++) {
        const char *spec = m->desc->serial[i];

        if (!spec)
            continue;
        g_autofree char *id = g_strdup_printf("serial%u", i);
        g_autoptr(GError) why = NULL;
        struct chardev *c = chardev_new(m->vm, id, spec, &why);
        if (why) {
            g_propagate_prefixed_error(error, g_steal_pointer(&why), "-serial: ");
            return false;
        }
        const struct part p = { .type = "isa-serial",
                                .id = id,
                                .io = { com[i].port },
                                .gsis = 1,
                                .gsi = { (s8)com[i].gsi } };
        /* "chardev:ID" gives one that has another name. */
        const char *const props[] = { "chardev", c ? chardev_id(c) : NULL, NULL };
        if (!machine_part(m, &p, c ? props : NULL, error))
            return false;
        m->serial_at[i] = true;
    }
    return true;
}

bool machine_make_debugcon(struct machine *m, GError **error)
{
    const struct part p = { .type = "isa-debugcon", .id = "debugcon" };

    if (!m->desc->debugcon)
        return true;
    g_autoptr(GError) why = NULL;
    struct chardev *c = chardev_new(m->vm, "debugcon", m->desc->debugcon, &why);
    if (why) {
        g_propagate_prefixed_error(error, g_steal_pointer(&why), "-debugcon: ");
        return false;
    }
    const char *const props[] = { "chardev", c ? chardev_id(c) : NULL, NULL };
    return machine_part(m, &p, c ? props : NULL, error) != NULL;
}
