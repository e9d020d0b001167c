// SPDX-License-Identifier: GPL-2.0-or-later
/* json_out.c - see json_out.h. */
#include "wire/json_out.h"

#include <inttypes.h>
#include <string.h>

static void new_line(struct json_out *o)
{
    g_string_append_c(o->text, '\n');
    for (u32 i = 0; i < o->depth; i++)
        g_string_append(o->text, "    ");
}

static void value_begins(struct json_out *o)
{
    if (o->comma)
        g_string_append(o->text, o->pretty ? "," : ", ");
    if (o->pretty && o->depth && !o->keyed)
        new_line(o);
    o->comma = true;
    o->keyed = false;
}

void json_open(struct json_out *o, char bracket)
{
    value_begins(o);
    g_string_append_c(o->text, bracket);
    o->comma = false;
    o->depth++;
}

void json_close(struct json_out *o, char bracket)
{
    o->depth--;
    if (o->pretty && o->comma)
        new_line(o);
    g_string_append_c(o->text, bracket);
    o->comma = true;
}

static void put_string(struct json_out *o, const char *s)
{
    g_autofree char *valid = g_utf8_make_valid(s, -1);

    g_string_append_c(o->text, '"');
    for (const char *p = valid; *p; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_c(o->text, '\\');
        if (*p == '\n')
            g_string_append(o->text, "\\n");
        else if (*p == '\r')
            g_string_append(o->text, "\\r");
        else if (*p == '\t')
            g_string_append(o->text, "\\t");
        else if ((u8)*p < 0x20 || *p == 0x7f)
            g_string_append_printf(o->text, "\\u%04x", *p);
        else
            g_string_append_c(o->text, *p);
    }
    g_string_append_c(o->text, '"');
}

void json_key(struct json_out *o, const char *key)
{
    value_begins(o);
    put_string(o, key);
    g_string_append(o->text, ": ");
    o->comma = false;
    o->keyed = true;
}

void json_str(struct json_out *o, const char *value)
{
    value_begins(o);
    put_string(o, value);
}

void json_int(struct json_out *o, s64 value)
{
    value_begins(o);
    g_string_append_printf(o->text, "%" PRId64, value);
}

void json_bool(struct json_out *o, bool value)
{
    json_raw(o, value ? "true" : "false");
}

void json_null(struct json_out *o)
{
    json_raw(o, "null");
}

void json_raw(struct json_out *o, const char *text)
{
    value_begins(o);
    g_string_append(o->text, text);
}

static void json_scalar(struct json_out *o, JsonNode *n)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];
    GType type = json_node_get_value_type(n);

    if (type == G_TYPE_STRING)
        json_str(o, json_node_get_string(n));
    else if (type == G_TYPE_BOOLEAN)
        json_bool(o, json_node_get_boolean(n));
    else if (type == G_TYPE_INT64)
        json_int(o, json_node_get_int(n));
    else
        json_raw(o, g_ascii_dtostr(number, sizeof number, json_node_get_double(n)));
}

/* Recursion is as deep as the parser let the value be. */
void json_node(struct json_out *o, JsonNode *n)
{
    switch (json_node_get_node_type(n)) {
    case JSON_NODE_OBJECT: {
        JsonObjectIter it;
        const char *key;
        JsonNode *member;

        json_open(o, '{');
        json_object_iter_init_ordered(&it, json_node_get_object(n));
        while (json_object_iter_next_ordered(&it, &key, &member)) {
            json_key(o, key);
            json_node(o, member);
        }
        json_close(o, '}');
        break;
    }
    case JSON_NODE_ARRAY: {
        JsonArray *a = json_node_get_array(n);

        json_open(o, '[');
        for (u32 i = 0; i < json_array_get_length(a); i++)
            json_node(o, json_array_get_element(a, i));
        json_close(o, ']');
        break;
    }
    case JSON_NODE_VALUE:
        json_scalar(o, n);
        break;
    case JSON_NODE_NULL:
        json_null(o);
        break;
    }
}

void json_put_str(struct json_out *o, const char *key, const char *value)
{
    json_key(o, key);
    json_str(o, value);
}

void json_put_int(struct json_out *o, const char *key, s64 value)
{
    json_key(o, key);
    json_int(o, value);
}

void json_put_bool(struct json_out *o, const char *key, bool value)
{
    json_key(o, key);
    json_bool(o, value);
}
