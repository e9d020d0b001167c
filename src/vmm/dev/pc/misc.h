// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * misc.h - small chips and ports of a PC that need no functions of their own.
 */
#pragma once

#include "vmm/core/dev.h"

/* Port 0x92: fast reset and the A20 bit. io[0]: 1 port. */
extern const struct dev_type port92_type;

/* "isa-debugcon": bytes written go to "chardev", reads give "readback" (0xe9). Maps itself at
 * "iobase" (0xe9; SeaBIOS writes to 0x402). */
extern const struct dev_type debugcon_type;

/* "isa-debug-exit": a write of v ends the program with status (v << 1) | 1. Maps itself at
 * "iobase" (0x501), "iosize" ports. */
extern const struct dev_type debugexit_type;

/* "i8257": two 8237 DMA controllers, and the POST port 0x80. io: 0x80 (16 ports), 0xc0 (32
 * ports), 0x480 (16 ports); maps its ports 0x00-0x0f itself. */
extern const struct dev_type dma_type;
/* A device's data between buf and memory, up to what the channel is programmed for; returns how
 * many bytes it took. *ret_tc: terminal count, the channel has come to its end. The device's
 * lock may be held. */
u32 dma_move(struct dev *dma, unsigned channel, void *buf, u32 n, bool to_memory, bool *ret_tc);

/* "pvpanic": a write of bit 0 shuts the guest down, as panicked. Maps itself at "ioport"
 * (0x505). */
extern const struct dev_type pvpanic_type;
