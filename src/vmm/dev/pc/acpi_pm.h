// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi_pm.h - ACPI power management as the PIIX4 has it: event, control and timer registers, a
 * GPE block, the SMI command port, the reset control register.
 *
 * Regions of acpi_pm_type.io; the board or the PIIX4 function maps those it wants:
 *   ACPI_PM_IO_BLOCK  64 ports at PMBASE: PM1a event +0 (4), PM1a control +4 (2), timer +8 (4),
 *                     GPE0 +0x0c (4: status, enable) as well
 *   ACPI_PM_IO_GPE    the same GPE0 alone, 4 ports (QEMU's tables have it at 0xafe0)
 *   ACPI_PM_IO_SMI    0xb2: command, 0xb3: status
 *   ACPI_PM_IO_RESET  0xcf9, for boards without a PIIX
 * For the FADT: SMI_CMD 0xb2, ACPI_ENABLE 0xf1, ACPI_DISABLE 0xf0, PM timer of 24 bits.
 * Output 0 is SCI (GSI 9).  For the DSDT: \_S5 is { 0, 0 }; no other sleeping state.
 */
#pragma once

#include "vmm/core/dev.h"

enum { ACPI_PM_IO_BLOCK, ACPI_PM_IO_GPE, ACPI_PM_IO_SMI, ACPI_PM_IO_RESET };
enum { ACPI_PM_HZ = 3579545, ACPI_ENABLE = 0xf1, ACPI_DISABLE = 0xf0, ACPI_PM_SCI = 9 };

extern const struct dev_type acpi_pm_type; /* property "sci-enabled": ACPI mode after reset */

/* The power button is pressed: an event if the guest listens. Any thread without device locks.
 */
void acpi_pm_power_button(struct dev *);
/* Sets GPE0 status bit n (0..15). Any thread without device locks. */
void acpi_pm_gpe(struct dev *, unsigned n);
