// SPDX-License-Identifier: GPL-2.0-or-later
/* error.c - see error.h. */
#include "base/error.h"

#include <stdarg.h>

G_DEFINE_QUARK(posada-error-quark, posada_error)

bool fail(GError **error, enum posada_error code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(error, posada_error_quark(), code, text);
    return false;
}

bool fail_errno(GError **error, int err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(error, posada_error_quark(), ERR_IO, "%s: %s", text, g_strerror(err));
    return false;
}
