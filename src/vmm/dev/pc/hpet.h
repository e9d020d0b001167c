// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hpet.h - high precision event timer: a 100 MHz counter of 64 bits and three comparators.
 *
 * hpet_type.mem[0] at HPET_PAGE.  Timers drive GSIs of the machine directly (vm_gsi) or send
 * messages.  In legacy replacement mode timers 0 and 1 take GSI 0 and 8 away from the 8254 and
 * the RTC: so those are connected to hpet_legacy_line() instead of to the GSI.
 */
#pragma once

#include "vmm/core/dev.h"

enum { HPET_PAGE = 0xfed00000u, HPET_TIMERS = 3 };
/* Capabilities' low half, as ACPI's HPET table wants it for its event timer block id. */
enum { HPET_ID = 0x8086a201u };

extern const struct dev_type hpet_type;

/* Which 0: the 8254's output to GSI 0; 1: the RTC's to GSI 8. Any thread, any lock held. */
struct irq *hpet_legacy_line(struct dev *, unsigned which);
