// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * monitor.h - the door of the monitors: the machine one (QMP) and the one for people (HMP).
 *
 * A monitor lives on a character device until monitor_close_all(); there may be any number.  It
 * runs on the main thread.  Open monitors before the guest runs, so that they miss no event.
 *
 *   -qmp unix:PATH,server=on,wait=off   c = chardev_new(vm, "compat_monitor0", spec, error),
 *                                       monitor_open_qmp(vm, c, false, error)
 *   -monitor stdio, -serial mon:stdio   likewise, monitor_open_hmp()
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct vm;
struct chardev;

/* false when the chardev has another user already. pretty: a line a value (-qmp-pretty). */
bool monitor_open_qmp(struct vm *, struct chardev *, bool pretty, GError **error);
bool monitor_open_hmp(struct vm *, struct chardev *, GError **error);
/* Before chardev_free_all(). */
void monitor_close_all(struct vm *);
/* One line of the human monitor, as if typed; what it prints goes to `to`. Main thread. */
void monitor_command(struct vm *, const char *line, GString *to);
