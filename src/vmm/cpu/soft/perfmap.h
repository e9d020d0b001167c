// SPDX-License-Identifier: GPL-2.0-or-later
/* perfmap.h - names of translated code for perf(1). */
#pragma once

#include <stdio.h>

#include "base/types.h"

/* Opens /tmp/perf-PID.map, where perf looks for the symbols of code that a program has made;
 * NULL: cannot, a warning says why. fclose() it. */
FILE *perfmap_open(void);
/* One piece of code: host address and bytes, and the guest's: "kernel:ffffffff81000000". */
void perfmap_add(FILE *, const void *code, u32 len, u64 guest, bool user);
