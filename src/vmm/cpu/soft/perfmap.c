// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * perfmap.c - see perfmap.h.  The format is that of tools/perf/Documentation/jit-interface.txt
 * in Linux: start and size in hexadecimal, and a name.
 */
#include "vmm/cpu/soft/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <unistd.h>

#include "base/log.h"

FILE *perfmap_open(void)
{
    g_autofree char *path = g_strdup_printf("/tmp/perf-%d.map", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

    if (!f) {
        log_warn("perfmap: %s: %s", path, g_strerror(errno));
        return NULL;
    }
    setvbuf(f, NULL, _IOLBF, 4096);
    return f;
}

void perfmap_add(FILE *f, const void *code, u32 len, u64 guest, bool user)
{
    fprintf(f, "%lx %x %s:%016lx\n", (unsigned long)(uintptr_t)code, len, user ? "user" : "kernel",
            (unsigned long)guest);
}
