// SPDX-License-Identifier: GPL-2.0-or-later
/* bus.h - what pci.c and bus.c say to each other; everybody else includes pci.h. */
#pragma once

#include "vmm/dev/pci/pci.h"

/* One function's INTx pin (1..4) goes up or down. */
void pci_bus_line(struct pci_bus *, u8 fn, u8 pin, bool level);
void pci_bus_remove(struct pci_dev *);

/* REQUIRES(p->dev.lock) */
u32 pci_dev_config_read(struct pci_dev *p, u32 off, unsigned size);
void pci_dev_config_write(struct pci_dev *p, u32 off, u32 val, unsigned size);
