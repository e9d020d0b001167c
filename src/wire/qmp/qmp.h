// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp.h - the QEMU Machine Protocol: errors, and one request from parsed JSON to its answer.
 *
 *   in   {"execute": NAME, "arguments": {...}, "id": ANY}
 *   out  {"return": ANY, "id": ANY}   or   {"error": {"class": ..., "desc": ...}, "id": ANY}
 *
 * The commands are in schema/; tools/qmp-gen makes qmp_gen.h of it.
 */
#pragma once

#include <glib.h>
#include <json-glib/json-glib.h>

#include "base/types.h"

struct vm;
struct json_out;

/* Errors of this domain carry their QMP class; any other GError is a GenericError. */
enum qmp_class {
    QMP_GENERIC_ERROR,
    QMP_COMMAND_NOT_FOUND,
    QMP_DEVICE_NOT_ACTIVE,
    QMP_DEVICE_NOT_FOUND,
    QMP_KVM_MISSING_CAP,
};
GQuark qmp_error_quark(void);
bool qmp_fail(GError **error, enum qmp_class, const char *fmt, ...) PRINTF(3, 4);
/* {"error": ...} members into an open object. */
void qmp_put_error(struct json_out *, const GError *);

struct qmp_command {
    const char *name;
    /* Writes one value to ret, or nothing: then {} is returned. */
    bool (*run)(struct vm *, JsonObject *args, struct json_out *ret, GError **error);
};
const struct qmp_command *qmp_command_find(const struct qmp_command *table, const char *name);

/* The parts of a request; they belong to the node. */
struct qmp_request {
    const char *execute;
    JsonObject *arguments; /* NULL: none */
    JsonNode *id;          /* NULL: none; set even when the request is refused */
};
bool qmp_request_read(JsonNode *, struct qmp_request *ret, GError **error);
