// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * options.h - posada-vmm's command line, in QEMU's syntax, as plain data.
 *
 * options_parse() opens nothing and changes nothing outside its result.  An option, a property
 * or a value that does not exist here is an error that names it; none is ignored.
 */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "vmm/machine/machine.h"

/* A monitor the user asked for. */
struct monitor_desc {
    char *chardev; /* spec as chardev_new() takes it, "chardev:ID" too */
    bool qmp, pretty;
};

struct options {
    struct machine_desc *machine;
    GPtrArray *monitors; /* struct monitor_desc */
    char *pidfile, *log_file;
    bool stopped; /* -S */
    bool daemonize;
    bool verbose;
    char *print; /* -help and the like: print this, open nothing, exit 0 */
};

/* NULL and *error ("-foo: ...") when the line is wrong. */
struct options *options_parse(int argc, char **argv, GError **error);
void options_free(struct options *);
