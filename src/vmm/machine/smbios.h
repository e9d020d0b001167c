// SPDX-License-Identifier: GPL-2.0-or-later
/* smbios.h - SMBIOS 2.8 tables of a guest. */
#pragma once

#include <glib.h>

#include "base/types.h"

struct machine_desc;

enum { SMBIOS_ANCHOR_LEN = 31 };
/* The structures; *ret_n is how many, *ret_max the length of the longest. */
GByteArray *smbios_build(const struct machine_desc *, u64 ram_low, u32 *ret_n, u32 *ret_max);
/* The entry point for tables that will lie at this address (0: firmware puts it in). */
void smbios_anchor(const GByteArray *tables, u32 n, u32 max, u32 tables_at,
                   u8 ret[SMBIOS_ANCHOR_LEN]);
