// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev.h - host ends of character devices: stdio, pty, socket, file, pipe, null, and the mux
 * that lets several users (serial port, monitor) share one terminal.
 *
 * The user of a chardev (a UART, a console, the monitor) attaches handlers; they run on the
 * main loop, without any lock held.  Writing never blocks: what the host does not take is kept,
 * up to 64 KiB, then reported as not taken (CHARDEV_WRITABLE says when there is room again); a
 * pty, which perhaps nobody reads, drops its oldest instead.  With nobody connected, what is
 * written is gone and counts as taken.
 *
 * The program has to ignore SIGPIPE, and to call chardev_restore_terminal() before it dies of a
 * signal.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct vm;
struct chardev;

enum chardev_event {
    CHARDEV_OPENED, /* somebody is there; also sent by attach when that is so already */
    CHARDEV_CLOSED,
    CHARDEV_BREAK,
    CHARDEV_WRITABLE,
    CHARDEV_FOCUS_IN, /* mux: input comes to this user now (and not any more) */
    CHARDEV_FOCUS_OUT,
};
struct chardev_user {
    size_t (*can_read)(
        void *opaque); /* how many bytes may come now; 0: wait for chardev_accept */
    void (*read)(void *opaque, const u8 *bytes, size_t n);
    void (*event)(void *opaque, enum chardev_event); /* may be NULL */
    bool background; /* on a mux, does not take the focus by attaching: the monitor */
};

/*
 * spec in QEMU's -serial form: "stdio", "mon:stdio" (or mon:anything: a mux over it), "pty",
 * "file:PATH", "unix:PATH,server=on,wait=off", "tcp:HOST:PORT,server=on", "telnet:...",
 * "pipe:PATH", "null", "none" (NULL without error), "chardev:ID" (the one that exists already).
 * Registered in the vm under id.  For "mon:..." the caller also opens a monitor on the result.
 * A server that waits for its client runs vm->main meanwhile.
 */
struct chardev *chardev_new(struct vm *, const char *id, const char *spec, GError **error);
/* -chardev socket,id=x,path=...,server=on,wait=off; mux=on gives a mux over it. */
struct chardev *chardev_new_opts(struct vm *, const char *opts, GError **error);
struct chardev *chardev_find(struct vm *, const char *id);
/* Gives what is still queued 100 ms to leave, then closes all; restores the terminal. */
void chardev_free_all(struct vm *);
/* Async-signal-safe; does nothing when no terminal was changed. */
void chardev_restore_terminal(void);

/* One user each; on a mux, several (the newest that is not background has the focus; Ctrl-A c
 * moves it on). Main thread. */
void chardev_attach(struct chardev *, const struct chardev_user *, void *opaque);
void chardev_detach(struct chardev *, void *opaque);
/* Would another attach be accepted? A chardev that is no mux has one user. */
bool chardev_free_for_use(const struct chardev *);
/* Any thread. Returns how many bytes were taken (see above). */
size_t chardev_write(struct chardev *, const void *bytes, size_t n);
/* The user has room again. Any thread. */
void chardev_accept(struct chardev *);
const char *chardev_describe(struct chardev *); /* "pty:/dev/pts/3" */
const char *chardev_id(const struct chardev *);
bool chardev_has_user(const struct chardev *);
bool chardev_is_mux(const struct chardev *);
