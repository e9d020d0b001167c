// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dev.h - the base of every device model.
 *
 * A device type is a constant: its regions, number of interrupt outputs and inputs, properties,
 * state table and a few functions.  A device is made by dev_new() (zeroed, lock initialised,
 * properties set to defaults), gets properties and wiring, then dev_realize() calls init, which
 * checks the configuration; then reset.  The board maps its regions.
 *
 * Locking: the bus, timers, interrupt inputs and completions take d->lock before they enter the
 * device, so device code is single-threaded and locks nothing.  Ranks, outermost first:
 * DEV_RANK_BRIDGE (a host bridge's configuration ports, which enter the function they select),
 * DEV_RANK_DEVICE, DEV_RANK_INTC (PIC, IOAPIC), DEV_RANK_LAPIC.  A device enters another one
 * only through its interrupt lines, to a higher rank.  Debug builds assert the order.
 *
 * What the guest does wrong is never a GError: the device answers as hardware would.
 */
#pragma once

#include <glib.h>
#include <pthread.h>

#include "base/types.h"
#include "vmm/core/bus.h"
#include "vmm/core/clock.h"
#include "vmm/core/irq.h"
#include "vmm/core/ram.h"
#include "vmm/core/state.h"
#include "vmm/core/vm.h"

enum dev_rank { DEV_RANK_BRIDGE = -1, DEV_RANK_DEVICE, DEV_RANK_INTC, DEV_RANK_LAPIC };

enum prop_kind {
    PROP_BOOL,
    PROP_U8,
    PROP_U16,
    PROP_U32,
    PROP_U64,
    PROP_SIZE,
    PROP_STR,
    PROP_MAC,
    PROP_PTR
};
/* PROP_STR: char * (g_free'd with the device); PROP_MAC: u8[6]; PROP_PTR: set in code only (a
 * backend: chardev, netdev, image), named on the command line by id and resolved by the builder
 * through `link`. */
struct prop {
    const char *name;
    enum prop_kind kind;
    u32 offset;
    const char *def;  /* default as text, or NULL: zero */
    u64 min, max;     /* integers; max 0 = type's */
    const char *link; /* PROP_PTR: "chardev", "netdev", "drive" */
    const char *help;
};
#define PROP(s, f, k, ...)                                                                     \
    {                                                                                          \
        .kind = k, .offset = offsetof(s, f), __VA_ARGS__                                       \
    }

/* DEV_VIRTIO_PORT: a port of the virtio-serial device, which it finds by itself.
 * DEV_IDE: a disk on a controller's IDE bus; DEV_SCSI: on a SCSI bus; DEV_FLOPPY: a drive at
 * the floppy controller. */
enum dev_kind { DEV_SYSBUS, DEV_ISA, DEV_PCI, DEV_VIRTIO_PORT, DEV_IDE, DEV_SCSI, DEV_FLOPPY };
enum { DEV_IRQS_MAX = 32 };

struct dev_type {
    const char *name, *desc;
    enum dev_kind kind;
    enum dev_rank rank;
    u32 size;
    const struct region *io[8];  /* ports, NULL-terminated; the machine's table says where */
    const struct region *mem[4]; /* memory-mapped, likewise */
    u32 irqs;                    /* interrupt outputs */
    void (*irq_in)(struct dev *, unsigned pin, bool level); /* lock is taken by the line */
    const struct prop *props; /* ends with name NULL; may be NULL */
    struct state_table state; /* size 0: no state */
    bool (*init)(struct dev *, GError **error);
    void (*reset)(struct dev *);
    void (*saving)(struct dev *); /* before state_save: fetch what lies elsewhere */
    void (*loaded)(struct dev *); /* after state_load: rebuild what is derived, re-arm timers */
    void (*fini)(struct dev *);
    void (*unplug)(struct dev *);
    const void *more; /* for the kind: struct pci_type */
};

struct dev {
    const struct dev_type *type;
    struct vm *vm;
    char *id; /* the user's name for it, or one made up: "pit", "virtio-net-pci.0" */
    pthread_mutex_t lock;
    struct irq *irq[DEV_IRQS_MAX]; /* outputs; NULL: not connected */
    bool realized, user; /* user: made by -device, so it has to be placed by the builder */
    GPtrArray *lines;    /* dev.c's: what dev_irq_in() handed out */
};

/* All types there are: dev/types.c lists them by hand. NULL-terminated. */
extern const struct dev_type *const dev_types[];
const struct dev_type *dev_type_find(const char *name);

struct dev *dev_new(struct vm *, const struct dev_type *, const char *id);
/* A property from text: "on", "64K", "52:54:00:12:34:56". The message names device and
 * property. */
bool dev_set(struct dev *, const char *prop, const char *text, GError **error);
bool dev_set_ptr(struct dev *, const char *prop, void *ptr, GError **error);
const struct prop *dev_prop_find(const struct dev_type *, const char *prop);
/* init + reset + enters it in the vm's list, from which it is saved, reset and freed.  On
 * failure the caller still owns d, and init has cleaned up after itself. */
bool dev_realize(struct dev *, GError **error);
void dev_reset(struct dev *);
/* Loads saved state into a realized device and runs its `loaded`, under its lock. Unchanged
 * when the bytes are bad. */
bool dev_load(struct dev *, const u8 *bytes, size_t n, GError **error);
void dev_save(struct dev *, GByteArray *to);
/* NULL and half-built ones too; fini runs for realized ones. Takes the device's mappings off
 * the buses and cancels its timers. No vCPU may run, nor a device lock be held. */
void dev_free(struct dev *);

/* A line into input `pin` of d: takes d->lock, calls irq_in. Owned by d, freed with it. */
struct irq *dev_irq_in(struct dev *d, unsigned pin);

/* The order of ranks, asserted by debug builds; see dev_lock(). */
void dev_lock_check(struct dev *);
void dev_unlock_check(struct dev *);
bool dev_locked(const struct dev *); /* does this thread hold it? Debug builds only */

static inline void dev_lock(struct dev *d)
{
#ifndef NDEBUG
    dev_lock_check(d);
#endif
    pthread_mutex_lock(&d->lock);
}
/* For completions that may come while the device waits for them with its lock held. */
static inline bool dev_trylock(struct dev *d)
{
    if (pthread_mutex_trylock(&d->lock))
        return false;
#ifndef NDEBUG
    dev_lock_check(d);
#endif
    return true;
}
static inline void dev_unlock(struct dev *d)
{
#ifndef NDEBUG
    dev_unlock_check(d);
#endif
    pthread_mutex_unlock(&d->lock);
}
