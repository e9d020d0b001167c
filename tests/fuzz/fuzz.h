// SPDX-License-Identifier: GPL-2.0-or-later
/* fuzz.h - what a fuzz target gives to libFuzzer and to the replay. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/types.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t n);

/* Well-formed inputs that the replay starts from; to[] has FUZZ_SEED_MAX bytes. */
enum { FUZZ_SEED_MAX = 16384 };
size_t fuzz_seed(unsigned i, u8 *to);
extern const unsigned fuzz_seeds;
