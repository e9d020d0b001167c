// SPDX-License-Identifier: GPL-2.0-or-later
/* samples.h - for tests: images in the formats that we only read, made from a disk's bytes. */
#pragma once

#include <glib.h>

#include "base/types.h"

/* n is a multiple of 512; g_byte_array_unref. */
GByteArray *sample_bochs(const u8 *disk, u64 n);
GByteArray *sample_cloop(const u8 *disk, u64 n, u32 block);
GByteArray *sample_dmg(const u8 *disk, u64 n);
