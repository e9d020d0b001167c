// SPDX-License-Identifier: GPL-2.0-or-later
/* hmp_info.c - what "info" can show. */
#include <inttypes.h>
#include <stdlib.h>

#include "net/net.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/dev.h"
#include "vmm/core/quiescent.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/state.h"
#include "vmm/dev/drive.h"
#include "vmm/monitor/monitor_impl.h"

static void info_status(struct vm *vm, const char *args UNUSED, GString *to)
{
    if (vm->run == RUN_RUNNING)
        g_string_append(to, "VM status: running\n");
    else
        g_string_append_printf(to, "VM status: paused (%s)\n", run_state_name(vm->run));
}

static void info_version(struct vm *vm UNUSED, const char *args UNUSED, GString *to)
{
    g_string_append(to, "Posada " POSADA_VERSION "\n");
}

static void info_name(struct vm *vm, const char *args UNUSED, GString *to)
{
    if (vm->name)
        g_string_append_printf(to, "%s\n", vm->name);
}

static void info_uuid(struct vm *vm, const char *args UNUSED, GString *to)
{
    for (u32 i = 0; i < sizeof vm->uuid; i++)
        g_string_append_printf(to, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                               vm->uuid[i]);
    g_string_append_c(to, '\n');
}

static void info_registers(struct vm *vm, const char *args, GString *to)
{
    bool all = strcmp(args, "-a") == 0;
    char *end;
    u64 index = strtoull(args, &end, 0);

    if (!all && (*end || index >= vm->n_vcpus)) {
        g_string_append(to, "info registers [-a | CPU number]\n");
        return;
    }
    vm_freeze(vm);
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        if (!all && i != index)
            continue;
        g_string_append_printf(to, "CPU#%u\n", i);
        cpu_print_registers(vm->vcpus[i], to);
    }
    vm_thaw(vm);
}

static void info_cpus(struct vm *vm, const char *args UNUSED, GString *to)
{
    vm_freeze(vm);
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i];
        g_autofree struct x86_state *s = aligned_alloc(64, ROUND_UP(sizeof *s, 64ul));
        bool ok = s && cpu_get_state(v, s, NULL);

        g_string_append_printf(to, "%c CPU #%u: thread_id=%d", i ? ' ' : '*', i, v->tid);
        if (ok)
            g_string_append_printf(to, " pc=0x%016" PRIx64 "%s", s->seg[CS].base + s->rip,
                                   s->mp_state == MP_HALTED      ? " (halted)"
                                   : s->mp_state == MP_WAIT_SIPI ? " (waits for SIPI)"
                                                                 : "");
        g_string_append_c(to, '\n');
    }
    vm_thaw(vm);
}

static void info_jit(struct vm *vm, const char *args UNUSED, GString *to)
{
    if (vm->cpu && vm->cpu->info)
        vm->cpu->info(vm, to);
    else
        g_string_append_printf(to, "backend '%s' has nothing to tell\n",
                               vm->cpu ? vm->cpu->name : "none");
}

static void info_kvm(struct vm *vm, const char *args UNUSED, GString *to)
{
    bool on = vm->cpu && g_strcmp0(vm->cpu->name, "kvm") == 0;

    g_string_append_printf(to, "kvm support: %s\n", on ? "enabled" : "disabled");
}

static void info_mtree(struct vm *vm, const char *args UNUSED, GString *to)
{
    bool entered = core_enter();
    const struct ram_map *map = ram_current(vm->ram);

    g_string_append(to, "ram:\n");
    for (u32 i = 0; map && i < map->n; i++) {
        const struct ram_slot *s = &map->slot[i];
        g_string_append_printf(to, "  %016" PRIx64 "-%016" PRIx64 " %s %s+0x%" PRIx64 "\n",
                               s->at, s->at + s->len - 1, s->rom ? "rom" : "ram",
                               s->block->name, s->off);
    }
    core_leave(entered);
    g_string_append(to, "memory:\n");
    bus_print(vm->mem, to);
    g_string_append(to, "I/O:\n");
    bus_print(vm->io, to);
}

static void info_chardev(struct vm *vm, const char *args UNUSED, GString *to)
{
    for (u32 i = 0; vm->chardevs && i < vm->chardevs->len; i++) {
        struct chardev *c = vm->chardevs->pdata[i];
        g_string_append_printf(to, "%s: filename=%s\n", chardev_id(c), chardev_describe(c));
    }
}

static void info_network(struct vm *vm, const char *args UNUSED, GString *to)
{
    for (u32 i = 0; vm->nets && i < vm->nets->len; i++)
        net_print(vm->nets->pdata[i], to);
}

static void info_block(struct vm *vm, const char *args UNUSED, GString *to)
{
    for (u32 i = 0; vm->drives && i < vm->drives->len; i++) {
        struct drive *d = vm->drives->pdata[i];

        if (d->image)
            g_string_append_printf(to, "%s: %s (%s%s)\n", d->id, image_path(d->image),
                                   image_format(d->image),
                                   image_read_only(d->image) ? ", read-only" : "");
        else
            g_string_append_printf(to, "%s: [not inserted]\n", d->id);
        if (d->dev)
            g_string_append_printf(to, "    Attached to:      %s\n", d->dev->id);
        if (d->ops)
            g_string_append_printf(to, "    Removable device: %slocked, tray %s\n",
                                   drive_locked(d) ? "" : "not ",
                                   drive_tray_open(d) ? "open" : "closed");
        if (d->image)
            g_string_append_printf(to, "    Size:             %" PRIu64 " bytes\n",
                                   image_size(d->image));
    }
}

static void info_qtree(struct vm *vm, const char *args, GString *to)
{
    for (u32 i = 0; i < vm->devs->len; i++) {
        struct dev *d = vm->devs->pdata[i];

        if (*args && g_strcmp0(args, d->id) != 0)
            continue;
        g_string_append_printf(to, "dev: %s, id \"%s\"%s%s\n", d->type->name, d->id,
                               d->type->desc ? " -- " : "", d->type->desc ? d->type->desc : "");
        if (!d->type->state.size)
            continue;
        g_autoptr(GString) state = g_string_new(NULL);
        dev_lock(d);
        if (d->type->saving)
            d->type->saving(d);
        state_print(&d->type->state, d, state);
        dev_unlock(d);
        g_auto(GStrv) line = g_strsplit(state->str, "\n", -1);
        for (u32 k = 0; line[k]; k++)
            if (*line[k])
                g_string_append_printf(to, "  %s\n", line[k]);
    }
}

const struct hmp_command hmp_infos[] = {
    { "block", "", "disks and their images", info_block },
    { "chardev", "", "character devices", info_chardev },
    { "cpus", "", "processors", info_cpus },
    { "jit", "", "the CPU backend's counters", info_jit },
    { "kvm", "", "whether KVM is used", info_kvm },
    { "mtree", "", "RAM, and what is mapped on the buses", info_mtree },
    { "name", "", "the guest's name", info_name },
    { "network", "", "network ends", info_network },
    { "qtree", "[id]", "devices and their state", info_qtree },
    { "registers", "[-a | CPU]", "registers of a processor", info_registers },
    { "status", "", "run state", info_status },
    { "uuid", "", "the guest's UUID", info_uuid },
    { "version", "", "this program's version", info_version },
    { NULL },
};
