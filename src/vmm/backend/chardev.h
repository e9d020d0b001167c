// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev.h - host ends of character devices: stdio, pty, socket, file, pipe, null, and the mux
 * that lets several users (serial port, monitor) share one terminal.
 *
 * The user of a chardev (a UART, a console, the monitor) attaches handlers; they run on the main
 * loop.  Writing never blocks: what the host does not take is kept, up to 64 KiB, then dropped
 * oldest first for terminals and ptys, and reported as not taken for sockets and files.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct vm;
struct chardev;

enum chardev_event { CHARDEV_OPENED, CHARDEV_CLOSED, CHARDEV_BREAK, CHARDEV_WRITABLE };
struct chardev_user {
    size_t (*can_read)(void *opaque); /* how many bytes may come now; 0: wait for chardev_accept */
    void (*read)(void *opaque, const u8 *bytes, size_t n);
    void (*event)(void *opaque, enum chardev_event); /* may be NULL */
};

/* spec in QEMU's -serial form ("stdio", "mon:stdio", "pty", "file:PATH", "unix:PATH,server=on",
 * "tcp:HOST:PORT,server=on", "telnet:...", "pipe:PATH", "null", "none" -> NULL without error,
 * "chardev:ID"), or -chardev form via chardev_new_opts. Registered in the vm under id. */
struct chardev *chardev_new(struct vm *, const char *id, const char *spec, GError **error);
/* -chardev socket,id=x,path=...,server=on,wait=off */
struct chardev *chardev_new_opts(struct vm *, const char *opts, GError **error);
struct chardev *chardev_find(struct vm *, const char *id);
void chardev_free_all(struct vm *); /* restores the terminal */

/* One user each; on a mux, several (the newest has the focus). Main thread. */
void chardev_attach(struct chardev *, const struct chardev_user *, void *opaque);
void chardev_detach(struct chardev *, void *opaque);
/* Any thread. Returns how many bytes were taken (see above). */
size_t chardev_write(struct chardev *, const void *bytes, size_t n);
/* The user has room again. Any thread. */
void chardev_accept(struct chardev *);
const char *chardev_describe(struct chardev *); /* "pty:/dev/pts/3" */
