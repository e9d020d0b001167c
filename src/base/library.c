// SPDX-License-Identifier: GPL-2.0-or-later
/* library.c - see library.h. */
#include "base/library.h"

#include <dlfcn.h>
#include <string.h>

#include "base/error.h"

bool library_load(const char *what, const char *const *names,
                  const struct library_symbol *symbols, GError **error)
{
    void *lib = NULL;

    for (unsigned k = 0; names[k] && !lib; k++)
        lib = dlopen(names[k], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!lib)
        return fail(error, ERR_FAILED, "%s: the library is not installed (%s)", what,
                    dlerror());
    for (; symbols->name; symbols++) {
        void *p = dlsym(lib, symbols->name);

        if (!p)
            return fail(error, ERR_FAILED, "%s: the library has no %s", what, symbols->name);
        memcpy(symbols->at, &p, sizeof p);
    }
    return true;
}
