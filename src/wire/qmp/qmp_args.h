// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp_args.h - what the generated code calls to take a command's arguments apart.
 *
 * has NULL: the argument is mandatory.  args may be NULL: no arguments were given.  The
 * messages are those of QEMU, which clients know.
 */
#pragma once

#include "wire/qmp/qmp.h"

bool qmp_arg_str(JsonObject *args, const char *name, bool *has, const char **ret,
                 GError **error);
bool qmp_arg_int(JsonObject *args, const char *name, bool *has, s64 *ret, GError **error);
bool qmp_arg_size(JsonObject *args, const char *name, bool *has, u64 *ret, GError **error);
bool qmp_arg_number(JsonObject *args, const char *name, bool *has, double *ret, GError **error);
bool qmp_arg_bool(JsonObject *args, const char *name, bool *has, bool *ret, GError **error);
bool qmp_arg_any(JsonObject *args, const char *name, bool *has, JsonNode **ret, GError **error);
bool qmp_arg_array(JsonObject *args, const char *name, bool *has, JsonArray **ret,
                   GError **error);
bool qmp_arg_object(JsonObject *args, const char *name, bool *has, JsonObject **ret,
                    GError **error);
bool qmp_arg_enum(JsonObject *args, const char *name, bool *has, const char *const *names,
                  int *ret, GError **error);
bool qmp_args_known(JsonObject *args, const char *const *names, GError **error);
