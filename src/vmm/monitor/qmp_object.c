// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_object.c - the QMP commands on objects: secrets, TLS credentials. Main loop. */
#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "stream/tls.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/json_out.h"
#include "wire/qmp/qmp_gen.h"

/* prop(props, name): where the value goes, or NULL. */
static bool take_props(JsonObject *args, void *props, char **(*prop)(void *, const char *name),
                       GError **error)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *n;

    json_object_iter_init(&iter, args);
    while (json_object_iter_next(&iter, &name, &n)) {
        char **at = prop(props, name);

        if (strcmp(name, "qom-type") == 0)
            continue;
        if (!at)
            return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is unexpected", name);
        bool value = JSON_NODE_HOLDS_VALUE(n);
        if (value && json_node_get_value_type(n) == G_TYPE_BOOLEAN)
            *at = g_strdup(json_node_get_boolean(n) ? "on" : "off");
        else if (value && json_node_get_value_type(n) == G_TYPE_STRING)
            *at = g_strdup(json_node_get_string(n));
        else
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Invalid parameter type for '%s', expected: string", name);
    }
    return true;
}

static char **prop_of_secret(void *p, const char *name)
{
    return secret_prop(p, name);
}

static char **prop_of_creds(void *p, const char *name)
{
    return tls_creds_prop(p, name);
}

bool qmp_object_add(struct vm *vm UNUSED, JsonObject *args, struct json_out *ret UNUSED,
                    GError **error)
{
    JsonNode *t = args ? json_object_get_member(args, "qom-type") : NULL;
    const char *type =
        t && JSON_NODE_HOLDS_VALUE(t) && json_node_get_value_type(t) == G_TYPE_STRING
            ? json_node_get_string(t)
            : NULL;
    GError *why = NULL;
    bool ok;

    if (!type)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'qom-type' is missing");
    if (tls_creds_kind(type)) {
        struct tls_creds_props *p = g_new0(struct tls_creds_props, 1);

        ok = take_props(args, p, prop_of_creds, error) &&
             qmp_told(tls_creds_add(type, p, &why), &why, error);
        tls_creds_props_free(p);
    } else if (strcmp(type, "secret") == 0) {
        struct secret_props *p = g_new0(struct secret_props, 1);

        ok = take_props(args, p, prop_of_secret, error) &&
             qmp_told(secret_add(p, &why), &why, error);
        secret_props_free(p);
    } else {
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Parameter 'qom-type' does not accept value '%s'", type);
    }
    return ok;
}

bool qmp_object_del(struct vm *vm UNUSED, const struct qmp_object_del *a,
                    struct json_out *ret UNUSED, GError **error)
{
    return secret_remove(a->id) || tls_creds_remove(a->id) ||
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
    g_autoptr(GPtrArray) types = NULL;
    g_autoptr(GPtrArray) creds = tls_creds_ids(&types);
    for (guint i = 0; i < creds->len; i++) {
        g_autofree char *type = g_strdup_printf("child<%s>", (char *)types->pdata[i]);
        put_property(ret, creds->pdata[i], type);
    }
    json_close(ret, ']');
    return true;
}
