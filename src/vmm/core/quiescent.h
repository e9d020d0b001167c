// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * quiescent.h - when an old map may be freed.
 *
 * Readers of immutable maps (RAM, buses) take no lock.  A registered thread says at its loop
 * top that it holds no map; a map that was replaced is freed when every registered thread that
 * is not offline has said so since.  Threads that never registered are covered by core_enter(),
 * which the access functions of ram.h and bus.h call themselves.
 */
#pragma once

#include "base/types.h"

/* vCPU and I/O threads, once each.  A thread that ends without unregistering is taken out. */
void core_thread_register(void);
void core_thread_unregister(void);
/* The loop top: no map in hand.  Costs two loads when nothing has changed. */
void core_quiescent(void);
/* A registered thread that is about to sleep or wait says so, and when it is back. */
void core_offline(void);
void core_online(void);

/* Around an access from a thread that may not be registered or is offline. */
bool core_enter(void);
void core_leave(bool entered);

/* Has fn(p) called once nobody can hold p, which the caller has unpublished already.  The work
 * is done by this or a later call, in whichever thread makes it.  fn must be a plain free. */
void core_retire(void *p, void (*fn)(void *));
