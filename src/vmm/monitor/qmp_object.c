// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_object.c - the QMP commands on objects: secrets, TLS credentials, throttle groups. Main
 * loop. */
#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "image/image.h"
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

/* --- throttle groups -------------------------------------------------------------------------
 */

/* Where a limit of that name goes ("bps-total", "iops-read-max-length"); NULL: there is none.
 */
static u64 *limit_at(struct image_throttle *t, const char *name)
{
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        const char *rest = name + strlen(image_limit_names[i]);

        if (!g_str_has_prefix(name, image_limit_names[i]))
            continue;
        if (!*rest)
            return &t->limit[i].avg;
        if (strcmp(rest, "-max") == 0)
            return &t->limit[i].max;
        if (strcmp(rest, "-max-length") == 0)
            return &t->limit[i].seconds;
    }
    return strcmp(name, "iops-size") == 0 ? &t->op_size : NULL;
}

static bool take_limits(JsonNode *n, struct image_throttle *t, GError **error)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *v;

    if (!JSON_NODE_HOLDS_OBJECT(n))
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Invalid parameter type for 'limits', expected: object");
    json_object_iter_init(&iter, json_node_get_object(n));
    while (json_object_iter_next(&iter, &name, &v)) {
        u64 *at = limit_at(t, name);

        if (!at)
            return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is unexpected", name);
        if (!JSON_NODE_HOLDS_VALUE(v) || json_node_get_value_type(v) != G_TYPE_INT64 ||
            json_node_get_int(v) < 0)
            return qmp_fail(error, QMP_GENERIC_ERROR,
                            "Invalid parameter type for '%s', expected: integer", name);
        *at = (u64)json_node_get_int(v);
    }
    return true;
}

static bool throttle_add(JsonObject *args, GError **error)
{
    JsonNode *id = json_object_get_member(args, "id"),
             *limits = json_object_get_member(args, "limits");
    struct image_throttle t;
    JsonObjectIter iter;
    GError *why = NULL;
    const char *name;
    JsonNode *n;

    if (!id || !JSON_NODE_HOLDS_VALUE(id) || json_node_get_value_type(id) != G_TYPE_STRING)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'id' is missing");
    json_object_iter_init(&iter, args);
    while (json_object_iter_next(&iter, &name, &n)) {
        if (strcmp(name, "id") != 0 && strcmp(name, "limits") != 0 &&
            strcmp(name, "qom-type") != 0)
            return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is unexpected", name);
    }
    name = json_node_get_string(id);
    if (!g_ascii_isalpha(*name))
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter 'id' expects an identifier");
    if (image_throttle_group_find(name, NULL))
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "attempt to add duplicate property '%s' to object (type 'container')",
                        name);
    image_throttle_init(&t);
    return (!limits || take_limits(limits, &t, error)) &&
           qmp_told(image_throttle_group(name, &t, &why), &why, error);
}

/* The group that /objects/NAME is; the property has to be its limits. */
static const char *group_at(const char *path, const char *property, struct image_throttle *ret,
                            GError **error)
{
    const char *name = g_str_has_prefix(path, "/objects/") ? path + strlen("/objects/") : path;

    if (!image_throttle_group_find(name, ret)) {
        qmp_fail(error, QMP_DEVICE_NOT_FOUND, "Device '%s' not found", path);
        return NULL;
    }
    if (strcmp(property, "limits") != 0) {
        qmp_fail(error, QMP_GENERIC_ERROR, "Property 'throttle-group.%s' not found", property);
        return NULL;
    }
    return name;
}

bool qmp_qom_get(struct vm *vm UNUSED, const struct qmp_qom_get *a, struct json_out *o,
                 GError **error)
{
    struct image_throttle t;

    if (!group_at(a->path, a->property, &t, error))
        return false;
    json_open(o, '{');
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        g_autofree char *max = g_strconcat(image_limit_names[i], "-max", NULL);
        g_autofree char *length = g_strconcat(max, "-length", NULL);

        json_put_int(o, image_limit_names[i], (s64)t.limit[i].avg);
        json_put_int(o, max, (s64)t.limit[i].max);
        json_put_int(o, length, (s64)t.limit[i].seconds);
    }
    json_put_int(o, "iops-size", (s64)t.op_size);
    json_close(o, '}');
    return true;
}

bool qmp_qom_set(struct vm *vm UNUSED, const struct qmp_qom_set *a, struct json_out *ret UNUSED,
                 GError **error)
{
    struct image_throttle t;
    GError *why = NULL;
    const char *name = group_at(a->path, a->property, &t, error);

    return name && take_limits(a->value, &t, error) &&
           qmp_told(image_throttle_group(name, &t, &why), &why, error);
}

/* --- all of them -----------------------------------------------------------------------------
 */

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
    } else if (strcmp(type, "throttle-group") == 0) {
        ok = throttle_add(args, error);
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
           image_throttle_group_free(a->id) ||
           (image_throttle_group_find(a->id, NULL)
                ? qmp_fail(error, QMP_GENERIC_ERROR,
                           "object '%s' is in use, can not be deleted", a->id)
                : qmp_fail(error, QMP_GENERIC_ERROR, "object '%s' not found", a->id));
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
    g_autoptr(GPtrArray) groups = image_throttle_groups();
    for (guint i = 0; i < groups->len; i++)
        put_property(ret, groups->pdata[i], "child<throttle-group>");
    json_close(ret, ']');
    return true;
}
