// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * iothread.h - a thread that waits for eventfds and calls back: it does the work that a guest's
 * doorbell asks for, so that vCPUs do not.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct iothread;

/* Starts the thread; name is cut to what the kernel shows (15 characters). */
struct iothread *iothread_new(const char *name, GError **error);
void iothread_free(struct iothread *); /* ends and joins it; NULL does nothing */
/* A new eventfd, or -1 and *error; when it is signalled fn(opaque) runs on the thread, no lock
 * held. Closed by iothread_free(). Before that, eventfd_ring() from anywhere signals it. */
int iothread_add(struct iothread *, void (*fn)(void *opaque), void *opaque, GError **error);
void eventfd_ring(int fd);
/* After iothread_pause() returned, no callback runs until iothread_resume(); signals are kept.
 * Main thread, no device lock held; twice is once. */
void iothread_pause(struct iothread *);
void iothread_resume(struct iothread *);
