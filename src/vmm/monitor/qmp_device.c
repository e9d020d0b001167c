// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_device.c - the QMP commands on devices that come and go. Main loop. */
#include <string.h>

#include "vmm/machine/machine.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

/* What JSON has as a value, as -device has it as text; NULL: what no property can be. */
static char *value_text(JsonNode *n)
{
    if (!JSON_NODE_HOLDS_VALUE(n))
        return NULL;
    switch (json_node_get_value_type(n)) {
    case G_TYPE_STRING:
        return g_strdup(json_node_get_string(n));
    case G_TYPE_BOOLEAN:
        return g_strdup(json_node_get_boolean(n) ? "on" : "off");
    case G_TYPE_INT64:
        return g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(n));
    }
    return NULL;
}

bool qmp_device_add(struct vm *vm, JsonObject *args, struct json_out *ret UNUSED,
                    GError **error)
{
    g_autoptr(GPtrArray) props = opts_parse("", NULL, "device_add", NULL);
    g_autofree char *driver = NULL, *id = NULL;
    GError *why = NULL;
    JsonObjectIter iter;
    const char *name;
    JsonNode *n;

    if (args)
        json_object_iter_init(&iter, args);
    while (args && json_object_iter_next(&iter, &name, &n)) {
        g_autofree char *text = value_text(n);

        if (!text)
            return qmp_fail(error, QMP_GENERIC_ERROR, "Invalid parameter type for '%s'", name);
        if (strcmp(name, "driver") == 0)
            driver = g_steal_pointer(&text);
        else if (strcmp(name, "id") == 0)
            id = g_steal_pointer(&text);
        else
            opts_add(props, name, text);
    }
    if (!driver)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'driver' is missing");
    if (!vm->machine)
        return qmp_fail(error, QMP_GENERIC_ERROR, "this machine takes no devices");
    return qmp_told(machine_device_add(vm, driver, id, props, &why), &why, error);
}

bool qmp_device_del(struct vm *vm, const struct qmp_device_del *a, struct json_out *ret UNUSED,
                    GError **error)
{
    GError *why = NULL;

    if (!vm->machine)
        return qmp_fail(error, QMP_DEVICE_NOT_FOUND, "Device '%s' not found", a->id);
    return qmp_told(machine_device_del(vm, a->id, &why), &why, error);
}
