// SPDX-License-Identifier: GPL-2.0-or-later
/* user_sandbox.h - what posada-net gives up before it sees the first foreign byte. */
#pragma once

#include <glib.h>

#include "base/types.h"

/* tftp: a directory that stays readable, or NULL. */
bool sandbox_enter(const char *tftp, GError **error);
