// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rtc.h - MC146818 real-time clock and CMOS RAM.  rtc_type.io: 0x70 (2 ports).  Output 0:
 * IRQ 8.
 */
#pragma once

#include "vmm/core/dev.h"

extern const struct dev_type rtc_type;

/* What firmware finds in CMOS RAM (memory size, boot order ...). Before the guest runs; stays
 * over resets. Indices below 0x0e are the clock's and are ignored. */
void rtc_set_cmos(struct dev *, u8 index, u8 val);
u8 rtc_get_cmos(struct dev *, u8 index);
/* Sets the guest's clock (-rtc base=): it runs on from there. Seconds since 1970. */
void rtc_set_time(struct dev *, u64 seconds);
