// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * i8042.h - keyboard controller with a PS/2 keyboard and a PS/2 mouse.
 *
 * i8042_type.io: 0x60 (1 port), 0x64 (1 port).  Outputs: 0 is IRQ 1, 1 is IRQ 12.
 */
#pragma once

#include "vmm/core/dev.h"

enum { I8042_IO_DATA, I8042_IO_COMMAND };
enum { I8042_IRQ_KBD, I8042_IRQ_MOUSE };

extern const struct dev_type i8042_type;

/* A key: its code of scan code set 1, 0xe000 | code for extended ones, PS2_PAUSE (ps2.h).
 * Any thread without device locks. */
void i8042_key(struct dev *, u16 code, bool down);
/* Motion (dy positive is down, dz positive is towards the user) and the buttons that are down:
 * bit 0 left, 1 right, 2 middle, 3 and 4 the side buttons. Any thread without device locks. */
void i8042_mouse(struct dev *, s32 dx, s32 dy, s32 dz, u8 buttons);
/* The guest's LEDs: bit 0 scroll lock, 1 num lock, 2 caps lock. */
u8 i8042_leds(struct dev *);
