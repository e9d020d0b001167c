// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * uart.h - 16550A serial port.
 *
 * Properties: "chardev" (struct chardev *, may be missing: what is sent goes nowhere), "iobase"
 * and "irq": when iobase is set, the port maps itself and drives that GSI; otherwise the board
 * maps uart_type.io[0] and connects output 0.
 */
#pragma once

#include "vmm/core/dev.h"

extern const struct dev_type uart_type;
