// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * state.h - tables that describe all guest-visible state of a device or a vCPU.
 *
 * One table, four uses: save and load (migration, snapshot), print (monitor), check (the
 * generic device test).  A table describes one nested struct completely: every byte of it
 * belongs to exactly one field (STATE_PAD for holes), which state_check_table() verifies. Field
 * names are the stream's ABI; order is not.  Loading is hostile: unknown fields are an error,
 * values above `max` are refused, missing fields keep the reset value only if marked optional.
 *
 * Format of a saved object: a sequence of fields (u8 name length, name, le32 byte length,
 * bytes little-endian), each integer at its natural size; nested structs are a field whose
 * bytes are such a sequence.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

enum state_kind { STATE_K_UINT, STATE_K_BYTES, STATE_K_PAD, STATE_K_STRUCT };

struct state_field {
    const char *name;
    enum state_kind kind;
    u32 offset;
    u32 size;                      /* of one element */
    u32 count;                     /* elements; 1 for a scalar */
    u64 max;                       /* STATE_K_UINT: largest value accepted */
    const struct state_field *sub; /* STATE_K_STRUCT */
    u32 n_sub;
    bool optional;
};

#define STATE_SIZEOF_(s, f) sizeof(((s *)0)->f)
#define STATE_UINT(s, f, m)                                                                    \
    {                                                                                          \
        .name = #f, .kind = STATE_K_UINT, .offset = offsetof(s, f),                            \
        .size = STATE_SIZEOF_(s, f), .count = 1, .max = (m)                                    \
    }
/* Any value fits. bool members take max 1. */
#define STATE_INT(s, f)  STATE_UINT(s, f, UINT64_MAX)
#define STATE_BOOL(s, f) STATE_UINT(s, f, 1)
#define STATE_UINTS(s, f, m)                                                                   \
    {                                                                                          \
        .name = #f, .kind = STATE_K_UINT, .offset = offsetof(s, f),                            \
        .size = STATE_SIZEOF_(s, f[0]), .count = STATE_SIZEOF_(s, f) / STATE_SIZEOF_(s, f[0]), \
        .max = (m)                                                                             \
    }
#define STATE_BYTES(s, f)                                                                      \
    {                                                                                          \
        .name = #f, .kind = STATE_K_BYTES, .offset = offsetof(s, f),                           \
        .size = STATE_SIZEOF_(s, f), .count = 1                                                \
    }
#define STATE_PAD(s, f)                                                                        \
    {                                                                                          \
        .name = #f, .kind = STATE_K_PAD, .offset = offsetof(s, f),                             \
        .size = STATE_SIZEOF_(s, f), .count = 1                                                \
    }
#define STATE_STRUCT(s, f, table)                                                              \
    {                                                                                          \
        .name = #f, .kind = STATE_K_STRUCT, .offset = offsetof(s, f),                          \
        .size = STATE_SIZEOF_(s, f), .count = 1, .sub = table, .n_sub = ARRAY_LEN(table)       \
    }
#define STATE_STRUCTS(s, f, table)                                                             \
    {                                                                                          \
        .name = #f, .kind = STATE_K_STRUCT, .offset = offsetof(s, f),                          \
        .size = STATE_SIZEOF_(s, f[0]), .count = STATE_SIZEOF_(s, f) / STATE_SIZEOF_(s, f[0]), \
        .sub = table, .n_sub = ARRAY_LEN(table)                                                \
    }

/* The registers of an object: where the nested struct lies in it, and its fields. */
struct state_table {
    u32 offset, size;
    const struct state_field *fields;
    u32 n;
};
#define STATE_TABLE(s, member, table)                                                          \
    (struct state_table)                                                                       \
    {                                                                                          \
        .offset = offsetof(s, member), .size = STATE_SIZEOF_(s, member), .fields = table,      \
        .n = ARRAY_LEN(table)                                                                  \
    }

/* true when the fields cover every byte once; else *ret_why (g_free) says which not. */
bool state_check_table(const struct state_table *, char **ret_why);
void state_save(const struct state_table *, const void *object, GByteArray *to);
/* Object is unchanged on failure. */
bool state_load(const struct state_table *, void *object, const u8 *bytes, size_t n,
                GError **error);
void state_print(const struct state_table *, const void *object, GString *to);
