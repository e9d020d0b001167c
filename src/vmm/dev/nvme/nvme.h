// SPDX-License-Identifier: GPL-2.0-or-later
/* nvme.h - the NVMe controller's type. */
#pragma once

#include "vmm/core/dev.h"

extern const struct dev_type nvme_type;
