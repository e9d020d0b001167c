// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp.c - see qmp.h and qmp_args.h. */
#include "wire/qmp/qmp.h"

#include <stdarg.h>
#include <string.h>

#include "base/error.h"
#include "wire/json_out.h"
#include "wire/qmp/qmp_args.h"

G_DEFINE_QUARK(posada - qmp - error - quark, qmp_error)

bool qmp_fail(GError **error, enum qmp_class class, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(error, qmp_error_quark(), (int)class, text);
    return false;
}

void qmp_put_error(struct json_out *o, const GError *error)
{
    static const char *const names[] = { "GenericError", "CommandNotFound", "DeviceNotActive",
                                         "DeviceNotFound", "KVMMissingCap" };
    bool classed = error->domain == qmp_error_quark();

    json_key(o, "error");
    json_open(o, '{');
    json_put_str(o, "class", names[classed ? error->code : QMP_GENERIC_ERROR]);
    json_put_str(o, "desc", error->message);
    json_close(o, '}');
}

const struct qmp_command *qmp_command_find(const struct qmp_command *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

bool qmp_request_read(JsonNode *node, struct qmp_request *ret, GError **error)
{
    JsonObjectIter it;
    const char *key;
    JsonNode *member;

    *ret = (struct qmp_request){ 0 };
    if (!JSON_NODE_HOLDS_OBJECT(node))
        return qmp_fail(error, QMP_GENERIC_ERROR, "QMP input must be a JSON object");
    JsonObject *o = json_node_get_object(node);
    ret->id = json_object_get_member(o, "id");
    json_object_iter_init_ordered(&it, o);
    while (json_object_iter_next_ordered(&it, &key, &member)) {
        if (strcmp(key, "execute") == 0) {
            if (!JSON_NODE_HOLDS_VALUE(member) ||
                json_node_get_value_type(member) != G_TYPE_STRING)
                return qmp_fail(error, QMP_GENERIC_ERROR,
                                "QMP input member 'execute' must be a string");
            ret->execute = json_node_get_string(member);
        } else if (strcmp(key, "arguments") == 0) {
            if (!JSON_NODE_HOLDS_OBJECT(member))
                return qmp_fail(error, QMP_GENERIC_ERROR,
                                "QMP input member 'arguments' must be an object");
            ret->arguments = json_node_get_object(member);
        } else if (strcmp(key, "id") != 0) {
            return qmp_fail(error, QMP_GENERIC_ERROR, "QMP input member '%s' is unexpected",
                            key);
        }
    }
    return ret->execute ||
           qmp_fail(error, QMP_GENERIC_ERROR, "QMP input lacks member 'execute'");
}

/* ---- arguments ---- */

/* true with *ret NULL: not given, and need not be. */
static bool arg_get(JsonObject *args, const char *name, bool *has, JsonNode **ret,
                    GError **error)
{
    *ret = args ? json_object_get_member(args, name) : NULL;
    if (has)
        *has = *ret != NULL;
    return *ret || has || qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is missing", name);
}

static bool arg_type(const char *name, const char *type, GError **error)
{
    return qmp_fail(error, QMP_GENERIC_ERROR, "Invalid parameter type for '%s', expected: %s",
                    name, type);
}

static bool is_value(JsonNode *n, GType type)
{
    return JSON_NODE_HOLDS_VALUE(n) && json_node_get_value_type(n) == type;
}

bool qmp_arg_str(JsonObject *args, const char *name, bool *has, const char **ret,
                 GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !is_value(n, G_TYPE_STRING))
        return arg_type(name, "string", error);
    if (n)
        *ret = json_node_get_string(n);
    return true;
}

bool qmp_arg_int(JsonObject *args, const char *name, bool *has, s64 *ret, GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !is_value(n, G_TYPE_INT64))
        return arg_type(name, "integer", error);
    if (n)
        *ret = json_node_get_int(n);
    return true;
}

bool qmp_arg_size(JsonObject *args, const char *name, bool *has, u64 *ret, GError **error)
{
    s64 v = 0;

    if (!qmp_arg_int(args, name, has, &v, error))
        return false;
    if (v < 0)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' expects uint64", name);
    *ret = (u64)v;
    return true;
}

bool qmp_arg_number(JsonObject *args, const char *name, bool *has, double *ret, GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !is_value(n, G_TYPE_DOUBLE) && !is_value(n, G_TYPE_INT64))
        return arg_type(name, "number", error);
    if (n)
        *ret = json_node_get_double(n);
    return true;
}

bool qmp_arg_bool(JsonObject *args, const char *name, bool *has, bool *ret, GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !is_value(n, G_TYPE_BOOLEAN))
        return arg_type(name, "boolean", error);
    if (n)
        *ret = json_node_get_boolean(n);
    return true;
}

bool qmp_arg_any(JsonObject *args, const char *name, bool *has, JsonNode **ret, GError **error)
{
    return arg_get(args, name, has, ret, error);
}

bool qmp_arg_array(JsonObject *args, const char *name, bool *has, JsonArray **ret,
                   GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !JSON_NODE_HOLDS_ARRAY(n))
        return arg_type(name, "array", error);
    if (n)
        *ret = json_node_get_array(n);
    return true;
}

bool qmp_arg_object(JsonObject *args, const char *name, bool *has, JsonObject **ret,
                    GError **error)
{
    JsonNode *n;

    if (!arg_get(args, name, has, &n, error))
        return false;
    if (n && !JSON_NODE_HOLDS_OBJECT(n))
        return arg_type(name, "object", error);
    if (n)
        *ret = json_node_get_object(n);
    return true;
}

bool qmp_arg_enum(JsonObject *args, const char *name, bool *has, const char *const *names,
                  int *ret, GError **error)
{
    const char *text = NULL;

    if (!qmp_arg_str(args, name, has, &text, error))
        return false;
    for (int i = 0; text && names[i]; i++) {
        if (strcmp(names[i], text) == 0) {
            *ret = i;
            return true;
        }
    }
    return !text || qmp_fail(error, QMP_GENERIC_ERROR,
                             "Parameter '%s' does not accept value '%s'", name, text);
}

bool qmp_args_known(JsonObject *args, const char *const *names, GError **error)
{
    JsonObjectIter it;
    const char *key;

    if (!args)
        return true;
    json_object_iter_init_ordered(&it, args);
    while (json_object_iter_next_ordered(&it, &key, NULL))
        if (!g_strv_contains(names, key))
            return qmp_fail(error, QMP_GENERIC_ERROR, "Parameter '%s' is unexpected", key);
    return true;
}
