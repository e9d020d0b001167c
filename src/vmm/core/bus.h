// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus.h - how a guest access to a port or to memory-mapped I/O finds its device.
 *
 * A region is a constant description (length, access sizes, handlers); a mapping puts a region
 * of a device at an address.  The map is an immutable sorted array, swapped by pointer, read
 * without a lock.  bus_read/bus_write take the device's lock before its handler runs, so
 * devices lock nothing.
 *
 * What a handler sees: `size` between region.min and region.max, `off` a multiple of `size`.  A
 * wider or misaligned access is split into such pieces, lowest first; a narrower one is widened
 * (read: the byte lanes are cut out; write: the value stands in its lanes, zeroes around it).
 * The region that holds the first byte gets the whole access as long as it fits into the
 * region, even where another mapping covers later bytes (a dword at 0xcf8 is not torn by port
 * 0xcf9); one that overruns it is halved. Where mappings overlap the one with the higher
 * priority wins, then the later one.
 */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "vmm/core/quiescent.h"

struct dev;
struct bus;

struct region {
    const char *name;
    u64 len;
    u8 min, max; /* access sizes the handlers take; 1, 2, 4 or 8 */
    u64 (*read)(struct dev *, u64 off, unsigned size);
    void (*write)(struct dev *, u64 off, u64 val, unsigned size);
    bool unlocked; /* the handlers lock for themselves: a page that differs for each vCPU */
};

struct bus *bus_new(const char *name, u64 size); /* size: 0x10000 for ports, 0 = 2^64 */
void bus_free(struct bus *);

/* Handle of a mapping, for bus_unmap(). REQUIRES topology lock once vCPUs run (PCI BAR writes
 * arrive with the device lock held: the bus takes its own lock, ranked after devices). */
struct mapping *bus_map(struct bus *, u64 at, const struct region *, struct dev *,
                        int priority);
void bus_unmap(struct bus *, struct mapping *);
/* All mappings of a device that goes. */
void bus_unmap_dev(struct bus *, struct dev *);

/* A guest access of 1, 2, 4 or 8 bytes; nobody home reads as all ones, writes are dropped. */
u64 bus_read(struct bus *, u64 at, unsigned size);
void bus_write(struct bus *, u64 at, u64 val, unsigned size);
/* The same for a host-side caller that wants to know: is anything mapped there? */
bool bus_has(struct bus *, u64 at);

/*
 * Doorbells: a write of `size` bytes (0: any) at `at` (and value val if match) signals fd
 * instead of entering the device.  KVM turns them into ioeventfds; the bus does it for other
 * backends.
 */
struct doorbell {
    u64 at, val;
    u8 size;
    bool match;
    int fd; /* caller keeps it */
};
void bus_doorbell_add(struct bus *, const struct doorbell *);
void bus_doorbell_del(struct bus *, const struct doorbell *);
/* The backend learns of doorbells (add true/false). One listener. Told of present ones first.
 * Called with the bus's lock held: it must not call the bus. */
void bus_doorbell_listen(struct bus *,
                         void (*fn)(void *opaque, const struct doorbell *, bool add),
                         void *opaque);

/* Prints the map, one line a mapping ("info mtree"). */
void bus_print(struct bus *, GString *to);
