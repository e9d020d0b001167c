// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fdc.h - the floppy controller and its drives, for the board.
 */
#pragma once

#include "vmm/dev/drive.h"

/* "isa-fdc": io: 0x3f0 (6 ports), 0x3f7 (1 port); line 0; prop "dma": the DMA controllers. */
extern const struct dev_type fdc_type;
/* "floppy": a drive at the one controller there is. */
extern const struct dev_type floppy_type;

/* The drive's type as CMOS RAM has it; 0: there is no such drive. */
u8 fdc_cmos_type(struct dev *fdc, unsigned unit);
/* NULL: d is no floppy drive; else its unit and place in the boot order. */
struct dev *fdc_of_floppy(struct dev *d, unsigned *ret_unit, u32 *ret_bootindex);
