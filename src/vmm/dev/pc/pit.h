// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pit.h - 8254 interval timer with the speaker port.
 *
 * pit_type.io: 0x40 (4 ports), 0x61 (1 port).  Output 0 is OUT0: IRQ 0, or the HPET's
 * hpet_legacy_line(hpet, 0), which can cut it off.
 */
#pragma once

#include "vmm/core/dev.h"

enum { PIT_HZ = 1193182 };
enum { PIT_IO_TIMER, PIT_IO_SPEAKER };

extern const struct dev_type pit_type;
