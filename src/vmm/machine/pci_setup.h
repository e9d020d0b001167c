// SPDX-License-Identifier: GPL-2.0-or-later
/* pci_setup.h - PCI as firmware leaves it, for boards that boot without one. */
#pragma once

#include <glib.h>

#include "base/types.h"

struct pci_bus;
struct vm;

/* After a reset of all devices; vCPUs parked, main thread. */
bool pci_setup(struct vm *, struct pci_bus *, GError **error);
/* The GSI that INTA (0) .. INTD (3) of a slot arrives at. */
unsigned pci_setup_gsi(unsigned slot, unsigned pin);
