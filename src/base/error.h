// SPDX-License-Identifier: GPL-2.0-or-later
/* error.h - one GError domain for the control path; the message names object, reason, remedy. */
#pragma once

#include <glib.h>

#include "base/types.h"

enum posada_error {
    ERR_FAILED,
    ERR_ARGUMENT,  /* the user asked for something impossible */
    ERR_NOT_FOUND,
    ERR_FORMAT,    /* foreign bytes are not what they should be */
    ERR_LIMIT,
    ERR_IO,
    ERR_UNSUPPORTED,
    ERR_BUSY,
};

GQuark posada_error_quark(void);

/* Sets *error and returns false, so that `return fail(error, ...)` reads well. */
bool fail(GError **error, enum posada_error code, const char *fmt, ...) PRINTF(3, 4);
/* The same with ": strerror(err)" appended. */
bool fail_errno(GError **error, int err, const char *fmt, ...) PRINTF(3, 4);
