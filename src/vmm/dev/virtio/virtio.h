// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtio.h - what virtio devices share: queues, features, status, the transports' side.
 * Virtual I/O Device (VIRTIO) 1.2, chapters 2 to 4; "legacy" is what 1.2 calls so.
 *
 * A device (blk.c, net.c ...) embeds struct virtio first and struct virtio_regs first in its
 * state; it has two device types, one over PCI and one over memory-mapped I/O, which share a
 * struct virtio_type.  Doorbells are eventfds, answered by the device's I/O thread: it takes
 * the device's lock and calls the queue's handler.  Everything here REQUIRES the device's lock.
 *
 * While the guest is stopped the I/O thread rests and the device has nothing under way.
 */
#pragma once

#include <sys/uio.h>

#include "vmm/core/dev.h"
#include "vmm/dev/pci/pci.h"

enum { VIRTIO_QUEUES_MAX = 64, VQ_SIZE_MAX = 1024, VIRTIO_CONFIG_MAX = 256 };
enum { VIRTIO_NO_VECTOR = 0xffff };

enum {
    VIRTIO_S_ACKNOWLEDGE = 0x01,
    VIRTIO_S_DRIVER = 0x02,
    VIRTIO_S_DRIVER_OK = 0x04,
    VIRTIO_S_FEATURES_OK = 0x08,
    VIRTIO_S_NEEDS_RESET = 0x40,
    VIRTIO_S_FAILED = 0x80,
};
enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

/* Feature bits of all devices. */
enum {
    VIRTIO_F_NOTIFY_ON_EMPTY = 24, /* legacy; not offered */
    VIRTIO_F_ANY_LAYOUT = 27,      /* legacy */
    VIRTIO_F_RING_INDIRECT = 28,
    VIRTIO_F_RING_EVENT_IDX = 29,
    VIRTIO_F_VERSION_1 = 32,
};

struct virtio;
struct vq;

/* ---- state ---- */

struct vq_regs {
    u64 desc, driver, device; /* rings: guest-physical */
    u16 size, vector;
    u16 last_avail, used; /* our indices */
    u16 signalled;        /* used index at the last interrupt decision */
    u8 ready;
    u8 signalled_valid;
    u8 zero[4];
};
struct virtio_regs {
    struct pci_regs pci; /* of the PCI transport; zero otherwise */
    struct pci_msix_regs msix;
    u64 driver_features;
    u32 device_feature_sel, driver_feature_sel;
    u16 queue_sel, config_vector;
    u8 status, isr, generation;
    u8 legacy; /* the driver speaks through the legacy interface */
    struct vq_regs vq[VIRTIO_QUEUES_MAX];
};
extern const struct state_field virtio_fields[12];

/* ---- queues (queue.c) ---- */

struct vq {
    struct virtio *v;
    struct vq_regs *r;
    u16 index, max;
    u32 in_flight;        /* popped and not pushed */
    u32 epoch;            /* counts resets: what was popped before is not pushed after */
    int kick;             /* eventfd */
    struct bus *bell_bus; /* where the doorbell hangs; NULL: nowhere */
    struct doorbell bell;
    void (*handle)(struct vq *);
};

/* A request: what the driver lets us read (out) and write (in). Can be used again and again
 * after vq_req_init(); vq_req_free() at the end. */
struct vq_req {
    struct vq *vq;
    struct iovs out, in;
    u32 epoch;
    u16 head;
};
void vq_req_init(struct vq_req *, struct vq *);
void vq_req_free(struct vq_req *);

/* 1: *req is the next request; 0: none; -1: the queue is broken (and stays so until reset). */
int vq_pop(struct vq *, struct vq_req *);
/* Hands it back, `written` bytes of `in` used. Does nothing when a reset came between. */
void vq_push(struct vq_req *, u32 written);
/* The last n popped ones were not taken after all; nothing popped since may have been pushed.
 */
void vq_rewind(struct vq *, unsigned n);
/* Interrupts the driver if it wants that; after one or more vq_push(). */
void vq_signal(struct vq *);
/* Between disable and enable the driver need not ring. enable: true if there is more by now. */
void vq_disable(struct vq *);
bool vq_enable(struct vq *);
bool vq_ready(const struct vq *); /* enabled, device live, not broken, may reach memory */
bool vq_empty(struct vq *);
void vq_reset(struct vq *);
void vq_break(struct vq *, const char *why);
void vq_kick(struct vq *); /* as if the driver had rung */

/* ---- devices ---- */

struct virtio_transport {
    void (*interrupt)(struct virtio *, u8 isr, u16 vector);
    /* The device has begun or ceased to listen: look where the doorbells belong. */
    void (*bells)(struct virtio *);
};

struct virtio_type {
    struct pci_type pci; /* first: dev_type.more points here */
    u16 id;              /* the spec's device number, chapter 5 */
    u16 legacy_device;   /* PCI device id of the transitional one; 0: there is none */
    u32 regs;            /* offset of struct virtio_regs */
    /* Adds queues, sets v->features (its own bits) and v->config_len. */
    bool (*init)(struct virtio *, GError **error);
    void (*fini)(struct virtio *);
    /* The driver resets, or the machine: nothing may be under way afterwards. */
    void (*reset)(struct virtio *);
    void (*config)(struct virtio *, u8 *bytes); /* fills in v->config_len zeroed bytes */
    void (*config_written)(struct virtio *, const u8 *bytes, u32 off, u32 len);
    void (*driver_ok)(struct virtio *);
    void (*loaded)(struct virtio *); /* check own state */
    /* The device may reach no memory from here on: what is under way ends first. */
    void (*drain)(struct virtio *);
    /* The guest stops or goes on; main thread, without the lock; the I/O thread rests. */
    void (*pause)(struct virtio *, bool paused);
};

struct virtio {
    struct pci_dev pci; /* over MMIO only its dev is alive */
    const struct virtio_type *vt;
    const struct virtio_transport *tr;
    struct virtio_regs *r;
    u64 features; /* offered */
    u32 config_len;
    u32 n_queues;
    bool dma; /* may reach memory: over PCI, bus mastering is on */
    struct vq vq[VIRTIO_QUEUES_MAX];
    struct iothread *io;
    /* PCI transport */
    u8 cfg_cap; /* the configuration access capability */
    bool has_legacy, has_modern;
    char *disable_legacy; /* property: on, off, auto */
    bool disable_modern;
    u32 vectors;     /* property; UINT32_MAX: as the device likes */
    u32 own_vectors; /* that; 0: one for each queue and one for the configuration */
    /* MMIO transport */
    u64 mmio_at;
};

#define VIRTIO_PCI_PROPS(s)                                                                    \
    PCI_PROPS(s, v.pci),                                                                       \
        PROP(s, v.disable_legacy, PROP_STR, .name = "disable-legacy", .def = "auto",           \
             .help = "on: modern only"),                                                       \
        PROP(s, v.disable_modern, PROP_BOOL, .name = "disable-modern",                         \
             .help = "on: legacy only"),                                                       \
        PROP(s, v.vectors, PROP_U32, .name = "vectors", .def = "4294967295",                   \
             .help = "MSI-X vectors; 0: none")
/* The .pci member of a struct virtio_type. */
#define VIRTIO_PCI(s, pci_class)                                                               \
    {                                                                                          \
        .vendor = 0x1af4, .class = pci_class, .pin = 1, .regs = offsetof(s, r.virtio.pci),     \
        .msix = offsetof(s, r.virtio.msix), .config_read = virtio_pci_config_read,             \
        .config_written = virtio_pci_config_written, .bar_moved = virtio_pci_bar_moved,        \
    }
/* What both device types of a virtio device have. */
#define VIRTIO_DEV(s, fields, vtype)                                                           \
    .size = sizeof(s), .state = STATE_TABLE(s, r, fields), .reset = virtio_dev_reset,          \
    .loaded = virtio_dev_loaded, .fini = virtio_dev_fini, .more = &(vtype)

static inline struct virtio *virtio_of(struct dev *d)
{
    return container_of(d, struct virtio, pci.dev);
}
static inline struct ram *virtio_ram(struct virtio *v)
{
    return v->pci.dev.vm->ram;
}
/* The driver has accepted feature `bit`. */
static inline bool virtio_has(const struct virtio *v, unsigned bit)
{
    return v->r->driver_features & v->features & BIT(bit);
}

/* For a device's init. Returns the queue. */
struct vq *virtio_add_queue(struct virtio *, u16 size, void (*handle)(struct vq *));
bool virtio_size_ok(struct virtio *, const char *prop, u32 size, GError **error);
void virtio_config_changed(struct virtio *);
bool virtio_live(const struct virtio *); /* DRIVER_OK and not broken */

/* ---- for the transports (virtio.c) ---- */

bool virtio_init(struct virtio *, const struct virtio_transport *, GError **error);
void virtio_free(struct virtio *);
void virtio_reset(struct virtio *);
void virtio_set_status(struct virtio *, u8 status);
u32 virtio_device_features(struct virtio *, u32 sel, bool legacy);
void virtio_driver_features(struct virtio *, u32 sel, u32 bits);
struct vq *virtio_queue(struct virtio *, u32 index); /* NULL: none such */
void virtio_queue_size(struct vq *, u32 size);
/* Bus mastering was turned on or off. */
void virtio_dma_set(struct virtio *, bool on);
/* Hangs the queue's doorbell up there, if the queue is in use; bus NULL: takes it down. */
void virtio_queue_bell(struct vq *, struct bus *, const struct doorbell *);
void virtio_queue_enable(struct vq *);
u64 virtio_config_read(struct virtio *, u64 off, unsigned size);
void virtio_config_write(struct virtio *, u64 off, u64 val, unsigned size);

/* Members of the device types. */
void virtio_dev_reset(struct dev *);
void virtio_dev_loaded(struct dev *);
void virtio_dev_fini(struct dev *);
bool virtio_pci_init(struct dev *, GError **error);
bool virtio_mmio_init(struct dev *, GError **error);
void virtio_pci_config_read(struct pci_dev *, u32 off, unsigned size);
void virtio_pci_config_written(struct pci_dev *, u32 off, unsigned size);
void virtio_pci_bar_moved(struct pci_dev *, unsigned bar, u64 from, u64 to);
extern const struct region virtio_mmio_region; /* 512 bytes */
/* The board puts an MMIO device here: maps it and hangs up its doorbells. */
void virtio_mmio_map(struct dev *, u64 at);
