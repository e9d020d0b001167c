// SPDX-License-Identifier: GPL-2.0-or-later
/* hmp_commands.c - the human monitor's commands, but for "info" and looking at memory. */
#include <string.h>

#include "base/log.h"
#include "vmm/core/vm.h"
#include "vmm/dev/drive.h"
#include "vmm/machine/machine.h"
#include "vmm/monitor/monitor_impl.h"

static const struct hmp_command *find(const struct hmp_command *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

/* The first word; *rest is what follows it. */
static char *word_of(const char *line, const char **rest)
{
    while (*line == ' ')
        line++;
    size_t n = strcspn(line, " /");
    char *word = g_strndup(line, n);

    *rest = line + n;
    while (**rest == ' ')
        (*rest)++;
    return word;
}

static void list_commands(const struct hmp_command *table, const char *before, GString *to)
{
    for (; table->name; table++) {
        g_autofree char *usage = g_strdup_printf("%s%s %s", before, table->name, table->args);
        g_string_append_printf(to, "%-32s %s\n", usage, table->help);
    }
}

static void run_help(struct vm *vm UNUSED, const char *args, GString *to)
{
    const struct hmp_command *c = *args ? find(hmp_commands, args) : NULL;

    if (strcmp(args, "info") == 0)
        list_commands(hmp_infos, "info ", to);
    else if (c)
        g_string_append_printf(to, "%s %s -- %s\n", c->name, c->args, c->help);
    else if (*args)
        g_string_append_printf(to, "unknown command: '%s'\n", args);
    else
        list_commands(hmp_commands, "", to);
}

static void run_info(struct vm *vm, const char *args, GString *to)
{
    const char *rest;
    g_autofree char *name = word_of(args, &rest);
    const struct hmp_command *c = find(hmp_infos, name);

    if (c)
        c->run(vm, rest, to);
    else if (*name)
        g_string_append_printf(to, "unknown subject: '%s'; 'info' lists them\n", name);
    else
        list_commands(hmp_infos, "info ", to);
}

static void run_stop(struct vm *vm, const char *args UNUSED, GString *to UNUSED)
{
    if (vm->run == RUN_RUNNING)
        vm_stop(vm, RUN_PAUSED);
}

static void run_cont(struct vm *vm, const char *args UNUSED, GString *to)
{
    if (vm->run == RUN_SHUTDOWN || vm->run == RUN_INTERNAL_ERROR)
        g_string_append(to, "the guest has ended: 'system_reset' first\n");
    else
        vm_cont(vm);
}

static void run_powerdown(struct vm *vm, const char *args UNUSED, GString *to UNUSED)
{
    vm_request(vm, VM_REQ_POWERDOWN, VM_BY_HOST_UI);
}

static void run_reset(struct vm *vm, const char *args UNUSED, GString *to UNUSED)
{
    vm_request(vm, VM_REQ_RESET, VM_BY_QMP);
}

static void run_quit(struct vm *vm, const char *args UNUSED, GString *to UNUSED)
{
    vm_request(vm, VM_REQ_QUIT, VM_BY_QMP);
}

static void run_nmi(struct vm *vm, const char *args UNUSED, GString *to UNUSED)
{
    for (u32 i = 0; i < vm->n_vcpus; i++)
        vcpu_signal(vm->vcpus[i], VCPU_NMI);
}

static void run_log(struct vm *vm UNUSED, const char *args, GString *to)
{
    if (strcmp(args, "on") == 0 || strcmp(args, "off") == 0 || strcmp(args, "none") == 0)
        log_set_verbose(strcmp(args, "on") == 0);
    else
        g_string_append(to, "log on|off\n");
}

/* A drive by the name of either itself or its device. */
static struct drive *drive_named(struct vm *vm, const char *name, GString *to)
{
    struct drive *d = drive_find(vm, name, name);

    if (!d)
        g_string_append_printf(to, "there is no drive '%s'; 'info block' lists them\n", name);
    return d;
}

static void run_eject(struct vm *vm, const char *args, GString *to)
{
    bool force = g_str_has_prefix(args, "-f ");
    struct drive *d = drive_named(vm, force ? g_strchug((char *)args + 3) : args, to);
    g_autoptr(GError) error = NULL;

    if (d && !drive_eject(d, force, &error))
        g_string_append_printf(to, "%s\n", error->message);
}

static void run_change(struct vm *vm, const char *args, GString *to)
{
    const char *file;
    g_autofree char *name = word_of(args, &file);
    g_autoptr(GError) error = NULL;

    if (!*file) {
        g_string_append(to, "change drive file\n");
        return;
    }
    struct drive *d = drive_named(vm, name, to);
    if (d && !drive_change(d, file, NULL, -1, false, &error))
        g_string_append_printf(to, "%s\n", error->message);
}

static void run_device_add(struct vm *vm, const char *args, GString *to)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) props = opts_parse(args, "driver", "device_add", &error);
    g_autofree char *driver = props ? opts_take(props, "driver") : NULL;
    g_autofree char *id = props ? opts_take(props, "id") : NULL;

    if (props && (!driver || !vm->machine))
        g_string_append(to, "device_add driver,property=value,...\n");
    else if (!props || !machine_device_add(vm, driver, id, props, &error))
        g_string_append_printf(to, "%s\n", error->message);
}

static void run_device_del(struct vm *vm, const char *args, GString *to)
{
    g_autoptr(GError) error = NULL;

    if (vm->machine && !machine_device_del(vm, args, &error))
        g_string_append_printf(to, "%s\n", error->message);
}

static void run_x(struct vm *vm, const char *args, GString *to)
{
    hmp_memory(vm, args, false, to);
}

static void run_xp(struct vm *vm, const char *args, GString *to)
{
    hmp_memory(vm, args, true, to);
}

const struct hmp_command hmp_commands[] = {
    { "c", "", "the same as cont", run_cont },
    { "change", "DRIVE FILE", "put another medium in", run_change },
    { "cont", "", "let the guest go on", run_cont },
    { "device_add", "DRIVER[,PROPERTY=VALUE]...", "plug a device in", run_device_add },
    { "device_del", "ID", "ask the guest to let go of a device", run_device_del },
    { "eject", "[-f] DRIVE", "take the medium out; -f: although the guest holds it",
      run_eject },
    { "help", "[command]", "this list, or one command", run_help },
    { "info", "[subject]", "look at something; alone: what there is", run_info },
    { "log", "on|off", "more messages on standard error", run_log },
    { "nmi", "", "send an NMI to every processor", run_nmi },
    { "p", "/FMT EXPR", "the same as print", hmp_print },
    { "print", "/FMT EXPR", "a value: numbers, $registers, + - * / & | ^ << >>", hmp_print },
    { "q", "", "the same as quit", run_quit },
    { "quit", "", "end at once; the guest loses power", run_quit },
    { "stop", "", "stop the guest", run_stop },
    { "system_powerdown", "", "press the ACPI power button", run_powerdown },
    { "system_reset", "", "press the reset button", run_reset },
    { "x", "/NFS EXPR",
      "memory at a virtual address (of CPU 0); N items of format F "
      "(x d u o c) and size S (b h w g)",
      run_x },
    { "xp", "/NFS EXPR", "memory at a physical address", run_xp },
    { NULL },
};

void monitor_command(struct vm *vm, const char *line, GString *to)
{
    const char *rest;
    g_autofree char *name = word_of(line, &rest);
    g_autofree char *args = g_strstrip(g_strdup(rest));
    const struct hmp_command *c = find(hmp_commands, name);

    if (c)
        c->run(vm, args, to);
    else if (*name)
        g_string_append_printf(to, "unknown command: '%s'\n", name);
}

u32 hmp_complete(const char *line, char **ret_common, GString *list)
{
    const struct hmp_command *table = hmp_commands;
    const char *word = line, *first = NULL;
    size_t common = 0;
    u32 n = 0;

    if (g_str_has_prefix(line, "info ")) {
        table = hmp_infos;
        word = line + 5;
    }
    size_t typed = strlen(word);
    for (; table->name; table++) {
        if (strncmp(table->name, word, typed) != 0)
            continue;
        g_string_append_printf(list, "%s%s", n ? "  " : "", table->name);
        if (!n++) {
            first = table->name;
            common = strlen(first);
        }
        while (strncmp(first, table->name, common) != 0)
            common--;
    }
    *ret_common = n ? g_strndup(first + typed, common - typed) : NULL;
    return n;
}
