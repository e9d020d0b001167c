// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_object.c - the QMP commands on objects, of which there are secrets. Main loop. */
#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/json_out.h"
#include "wire/qmp/qmp_gen.h"

static bool take_props(JsonObject *args, struct secret_props *p, GError **error)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *n;
    bool secret = false;

    if (args)
        json_object_iter_init(&iter, args);
    while (args && json_object_iter_next(&iter, &name, &n)) {
        bool type = !strcmp(name, "qom-type");
        char **at = secret_prop(p, name);

        if (!type && !at)
            return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is unexpected", name);
        if (!JSON_NODE_HOLDS_VALUE(n) || json_node_get_value_type(n) != G_TYPE_STRING)
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Invalid parameter type for '%s', expected: string", name);
        const char *v = json_node_get_string(n);
        if (at)
            *at = g_strdup(v);
        else if (!(secret = !strcmp(v, "secret")))
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Parameter 'qom-type' does not accept value '%s'", v);
    }
    return secret || qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'qom-type' is missing");
}

bool qmp_object_add(struct vm *vm UNUSED, JsonObject *args, struct json_out *ret UNUSED,
                    GError **error)
{
    struct secret_props *p = g_new0(struct secret_props, 1);
    GError *why = NULL;
    bool ok = take_props(args, p, error) && qmp_told(secret_add(p, &why), &why, error);

    secret_props_free(p);
    return ok;
}

bool qmp_object_del(struct vm *vm UNUSED, const struct qmp_object_del *a,
                    struct json_out *ret UNUSED, GError **error)
{
    return secret_remove(a->id) ||
           qmp_fail(error, QMP_GENERIC_ERROR, "object '%s' not found", a->id);
}

static void put_property(struct json_out *o, const char *name, const char *type)
{
    json_open(o, '{');
    json_put_str(o, "name", name);
    json_put_str(o, "type", type);
    json_close(o, '}');
}

bool qmp_qom_list(struct vm *vm UNUSED, const struct qmp_qom_list *a, struct json_out *ret,
                  GError **error)
{
    if (strcmp(a->path, "/objects") != 0)
        return qmp_fail(error, QMP_DEVICE_NOT_FOUND, "Device '%s' not found", a->path);
    g_autoptr(GPtrArray) ids = secret_ids();
    json_open(ret, '[');
    put_property(ret, "type", "string");
    for (guint i = 0; i < ids->len; i++)
        put_property(ret, ids->pdata[i], "child<secret>");
    json_close(ret, ']');
    return true;
}
