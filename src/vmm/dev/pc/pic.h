// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pic.h - the PC's pair of 8259A interrupt controllers, as one device.
 *
 * Inputs 0..15 are IRQ0..IRQ15 (2 is the cascade and ignores what is driven into it).  Output 0
 * is INTR; it follows the master's request and is driven with the device's lock held, so its
 * sink must be of a higher rank (the LAPICs' LINT0) or take no lock.
 */
#pragma once

#include "vmm/core/dev.h"

extern const struct dev_type pic_type;
/* Regions, in the order of pic_type.io: 0x20, 0xa0 (2 ports each), 0x4d0 (ELCR, 2 ports). */
enum { PIC_IO_MASTER, PIC_IO_SLAVE, PIC_IO_ELCR };

/* Is INTR asserted?  Any thread, no lock needed. */
bool pic_pending(struct dev *);
/* The processor's two INTA cycles: the vector, or -1 when INTR is not asserted (any more).
 * Takes the device's lock. */
int pic_ack(struct dev *);
