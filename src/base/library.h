// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * library.h - shared libraries that are loaded when they are first needed: those that few
 * programs use, and that bring many others with them (a monitor starts in milliseconds, with a
 * few MiB).  dlopen(3).
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "base/types.h"

struct library_symbol {
    const char *name;
    void *at; /* a pointer to a pointer of that symbol's type */
};
/*
 * Loads the first of `names` (NULL at the end) that there is, for good, and looks all symbols
 * up (a NULL name at the end). `what`: for messages. Any thread; doing it again does no harm.
 */
bool library_load(const char *what, const char *const *names,
                  const struct library_symbol *symbols, GError **error) MUST_CHECK;
