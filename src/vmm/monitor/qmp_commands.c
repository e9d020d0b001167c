// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp_commands.c - the QMP commands on the session, the run state and the machine, and the
 * events.  The schema is in wire/schema/; the generated callers have checked the arguments.
 * All run on the main loop.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/backend/chardev.h"
#include "vmm/core/quiescent.h"
#include "vmm/core/ram.h"
#include "vmm/cpu/cpu.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

/* ---- session ---- */

bool qmp_qmp_capabilities(struct vm *vm UNUSED, const struct qmp_qmp_capabilities *a,
                          struct json_out *ret UNUSED, GError **error)
{
    for (u32 i = 0; a->enable && i < json_array_get_length(a->enable); i++) {
        JsonNode *n = json_array_get_element(a->enable, i);

        if (!JSON_NODE_HOLDS_VALUE(n) || json_node_get_value_type(n) != G_TYPE_STRING)
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Invalid parameter type for 'enable[%u]', expected: string", i);
        if (strcmp(json_node_get_string(n), "oob") != 0)
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Parameter 'enable[%u]' does not accept value '%s'", i,
                            json_node_get_string(n));
        return qmp_fail(error, QMP_GENERIC_ERROR, "Capability 'oob' is not available");
    }
    return true;
}

void qmp_version_put(struct json_out *o)
{
    json_open(o, '{');
    json_key(o, "qemu");
    json_open(o, '{');
    json_put_int(o, "micro", 0);
    json_put_int(o, "minor", 2);
    json_put_int(o, "major", 7);
    json_close(o, '}');
    json_put_str(o, "package", "Posada " POSADA_VERSION);
    json_close(o, '}');
}

bool qmp_query_version(struct vm *vm UNUSED, struct json_out *ret, GError **error UNUSED)
{
    qmp_version_put(ret);
    return true;
}

bool qmp_query_commands(struct vm *vm UNUSED, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '[');
    for (const struct qmp_command *c = qmp_commands; c->name; c++) {
        json_open(ret, '{');
        json_put_str(ret, "name", c->name);
        json_close(ret, '}');
    }
    json_close(ret, ']');
    return true;
}

bool qmp_query_qmp_schema(struct vm *vm UNUSED, struct json_out *ret, GError **error UNUSED)
{
    json_raw(ret, qmp_schema);
    return true;
}

bool qmp_human_monitor_command(struct vm *vm, const struct qmp_human_monitor_command *a,
                               struct json_out *ret, GError **error)
{
    if (a->has_cpu_index && (a->cpu_index < 0 || a->cpu_index >= vm->n_vcpus))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'cpu-index' expects a CPU number");
    GString *text = g_string_new(NULL);
    monitor_command(vm, a->command_line, text);
    json_str(ret, text->str);
    g_string_free(text, TRUE);
    return true;
}

/* ---- run state ---- */

bool qmp_query_status(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '{');
    json_put_str(ret, "status", run_state_name(vm->run));
    json_put_bool(ret, "singlestep", false);
    json_put_bool(ret, "running", vm->run == RUN_RUNNING);
    json_close(ret, '}');
    return true;
}

bool qmp_stop(struct vm *vm, struct json_out *ret UNUSED, GError **error UNUSED)
{
    if (vm->run == RUN_RUNNING)
        vm_stop(vm, RUN_PAUSED);
    return true;
}

bool qmp_cont(struct vm *vm, struct json_out *ret UNUSED, GError **error)
{
    if (vm->run == RUN_SHUTDOWN || vm->run == RUN_INTERNAL_ERROR)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Resetting the Virtual Machine is required");
    if (vm->run == RUN_INMIGRATE)
        return qmp_fail(error, QMP_GENERIC_ERROR, "The guest's state has not arrived yet");
    vm_cont(vm);
    return true;
}

bool qmp_system_reset(struct vm *vm, struct json_out *ret UNUSED, GError **error UNUSED)
{
    vm_request(vm, VM_REQ_RESET, VM_BY_QMP);
    return true;
}

bool qmp_system_powerdown(struct vm *vm, struct json_out *ret UNUSED, GError **error UNUSED)
{
    vm_request(vm, VM_REQ_POWERDOWN, VM_BY_QMP);
    return true;
}

bool qmp_quit(struct vm *vm, struct json_out *ret UNUSED, GError **error UNUSED)
{
    vm_request(vm, VM_REQ_QUIT, VM_BY_QMP);
    return true;
}

bool qmp_inject_nmi(struct vm *vm, struct json_out *ret UNUSED, GError **error UNUSED)
{
    for (u32 i = 0; i < vm->n_vcpus; i++)
        vcpu_signal(vm->vcpus[i], VCPU_NMI);
    return true;
}

static enum qmp_shutdown_cause cause_of(enum vm_cause cause, bool reset)
{
    switch (cause) {
    case VM_BY_GUEST:
        return reset ? QMP_SHUTDOWN_CAUSE_GUEST_RESET : QMP_SHUTDOWN_CAUSE_GUEST_SHUTDOWN;
    case VM_BY_TRIPLE_FAULT:
        return QMP_SHUTDOWN_CAUSE_GUEST_RESET;
    case VM_BY_PANIC:
        return QMP_SHUTDOWN_CAUSE_GUEST_PANIC;
    case VM_BY_QMP:
        return reset ? QMP_SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET
                     : QMP_SHUTDOWN_CAUSE_HOST_QMP_QUIT;
    case VM_BY_SIGNAL:
        return QMP_SHUTDOWN_CAUSE_HOST_SIGNAL;
    case VM_BY_HOST_UI:
        return QMP_SHUTDOWN_CAUSE_HOST_UI;
    }
    return QMP_SHUTDOWN_CAUSE_NONE;
}

void qmp_event_put(struct json_out *o, struct vm *vm, enum vm_event ev, enum vm_cause cause)
{
    bool guest = cause == VM_BY_GUEST || cause == VM_BY_TRIPLE_FAULT || cause == VM_BY_PANIC;

    switch (ev) {
    case VM_EV_STOP:
        /* The stop that is part of the end is not told. */
        if (vm->run != RUN_SHUTDOWN || vm->no_shutdown)
            qmp_event_stop(o);
        break;
    case VM_EV_RESUME:
        qmp_event_resume(o);
        break;
    case VM_EV_RESET:
        qmp_event_reset(o, guest, cause_of(cause, true));
        break;
    case VM_EV_SHUTDOWN:
        qmp_event_shutdown(o, guest, cause_of(cause, vm->reset_ends));
        break;
    case VM_EV_POWERDOWN:
        qmp_event_powerdown(o);
        break;
    }
}

/* ---- the machine ---- */

bool qmp_query_name(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '{');
    if (vm->name)
        json_put_str(ret, "name", vm->name);
    json_close(ret, '}');
    return true;
}

bool qmp_query_uuid(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    const u8 *u = vm->uuid;
    char text[40];

    g_snprintf(text, sizeof text,
               "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
               u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
               u[14], u[15]);
    json_open(ret, '{');
    json_put_str(ret, "UUID", text);
    json_close(ret, '}');
    return true;
}

bool qmp_query_kvm(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '{');
    json_put_bool(ret, "enabled", vm->cpu && strcmp(vm->cpu->name, "kvm") == 0);
    json_put_bool(ret, "present", access("/dev/kvm", R_OK | W_OK) == 0);
    json_close(ret, '}');
    return true;
}

bool qmp_query_target(struct vm *vm UNUSED, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '{');
    json_put_str(ret, "arch", "x86_64");
    json_close(ret, '}');
    return true;
}

bool qmp_query_cpus_fast(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    const struct cpu_config *cfg = vm->cpu_config;
    u32 threads = cfg && cfg->threads ? cfg->threads : 1,
        cores = cfg && cfg->cores ? cfg->cores : 1;

    json_open(ret, '[');
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        char path[64];

        g_snprintf(path, sizeof path, "/machine/unattached/device[%u]", i);
        json_open(ret, '{');
        json_put_int(ret, "thread-id", vm->vcpus[i]->tid);
        json_key(ret, "props");
        json_open(ret, '{');
        json_put_int(ret, "core-id", i / threads % cores);
        json_put_int(ret, "thread-id", i % threads);
        json_put_int(ret, "socket-id", i / threads / cores);
        json_close(ret, '}');
        json_put_str(ret, "qom-path", path);
        json_put_int(ret, "cpu-index", i);
        json_put_str(ret, "target", "x86_64");
        json_close(ret, '}');
    }
    json_close(ret, ']');
    return true;
}

/* What was plugged in, holes in the address space notwithstanding: blocks that show as RAM. */
static u64 memory_plugged(struct vm *vm)
{
    bool entered = core_enter();
    const struct ram_map *map = ram_current(vm->ram);
    u64 sum = 0;

    for (u32 b = 0; b < ram_block_count(vm->ram); b++) {
        const struct ram_block *block = ram_block_at(vm->ram, b);
        bool shown = false;

        for (u32 i = 0; map && i < map->n; i++)
            shown |= map->slot[i].block == block && !map->slot[i].rom;
        sum += shown ? block->size : 0;
    }
    core_leave(entered);
    return sum;
}

bool qmp_query_memory_size_summary(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '{');
    json_put_int(ret, "base-memory", (s64)memory_plugged(vm));
    json_put_int(ret, "plugged-memory", 0);
    json_close(ret, '}');
    return true;
}

bool qmp_query_chardev(struct vm *vm, struct json_out *ret, GError **error UNUSED)
{
    json_open(ret, '[');
    for (u32 i = 0; vm->chardevs && i < vm->chardevs->len; i++) {
        struct chardev *c = vm->chardevs->pdata[i];

        json_open(ret, '{');
        json_put_bool(ret, "frontend-open", chardev_has_user(c));
        json_put_str(ret, "filename", chardev_describe(c));
        json_put_str(ret, "label", chardev_id(c));
        json_close(ret, '}');
    }
    json_close(ret, ']');
    return true;
}
