// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pci.h - conventional PCI: the host bridge's configuration mechanism, one bus, functions with
 * BARs, INTx, MSI and MSI-X.
 *
 * A PCI device type has kind DEV_PCI and a struct pci_type at dev_type.more; its struct begins
 * with struct pci_dev, which begins with struct dev.  The builder's order:
 *
 *     struct dev *d = dev_new(vm, type, id);      properties ...
 *     pci_place(d, bus, -1, &error);              slot from "addr", or the first free one
 *     dev_realize(d, &error);
 *
 * The type's init calls pci_init() first, then pci_bar_add() and so on; its reset calls
 * pci_reset(), its loaded calls pci_loaded(), its fini calls pci_fini().
 *
 * Locks: configuration accesses arrive with the host bridge's lock (DEV_RANK_BRIDGE) and take
 * the function's lock; BARs are entered by the bus as usual.  The bus's interrupt lines have a
 * lock of their own between devices and interrupt controllers.
 */
#pragma once

#include "vmm/core/dev.h"

enum { PCI_CONFIG_LEN = 256, PCI_FNS = 256, PCI_BARS = 7, PCI_ROM = 6, PCI_MSIX_MAX = 128 };

/* Configuration registers (PCI 3.0, chapter 6). */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, /* 24 bits */
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBVENDOR = 0x2c,
    PCI_SUBDEVICE = 0x2e,
    PCI_ROM_BAR = 0x30,
    PCI_CAP_PTR = 0x34,
    PCI_INT_LINE = 0x3c,
    PCI_INT_PIN = 0x3d,

    PCI_COMMAND_IO = 0x0001,
    PCI_COMMAND_MEM = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_INTX_OFF = 0x0400,
    PCI_STATUS_INTX = 0x0008,
    PCI_STATUS_CAPS = 0x0010,

    PCI_CAP_MSI = 0x05,
    PCI_CAP_VENDOR = 0x09,
    PCI_CAP_MSIX = 0x11,
};

/* All of a function that the guest can see or set; part of the device's state struct. */
struct pci_regs {
    u8 config[PCI_CONFIG_LEN];
    u8 intx; /* the device's own line, before the command register's disable bit */
    u8 zero[7];
};
extern const struct state_field pci_fields[3];

/* The same for those with MSI-X. */
struct pci_msix_regs {
    u8 table[PCI_MSIX_MAX * 16];
    u8 pending[PCI_MSIX_MAX / 8];
};
extern const struct state_field pci_msix_fields[2];

enum pci_bar_kind { PCI_BAR_IO, PCI_BAR_MEM, PCI_BAR_MEM64, PCI_BAR_MEM64_PREFETCH };
struct pci_bar {
    enum pci_bar_kind kind;
    struct region region; /* len 0: no such BAR; else a power of two */
    u64 at;               /* where it is mapped now; PCI_UNMAPPED */
    struct mapping *map;
};
#define PCI_UNMAPPED UINT64_MAX

struct pci_bus;
struct pci_dev;

struct pci_type {
    u16 vendor, device, subvendor, subdevice; /* subvendor 0: 1af4:1100 */
    u32 class;                                /* 24 bits: base, sub, programming interface */
    u8 revision;
    u8 pin;     /* 1..4: INTA..INTD, 0: none */
    bool fixed; /* part of the board: -device does not offer it */
    u32 regs,
        msix; /* offset of struct pci_regs and pci_msix_regs in the device; msix 0: none */
    /* All optional, all with the device's lock held. */
    void (*config_read)(struct pci_dev *, u32 off,
                        unsigned size); /* before the bytes are read */
    void (*config_written)(struct pci_dev *, u32 off, unsigned size);
    void (*bar_moved)(struct pci_dev *, unsigned bar, u64 from, u64 to); /* or PCI_UNMAPPED */
};

struct pci_dev {
    struct dev dev;
    const struct pci_type *pt;
    struct pci_bus *bus;
    struct pci_regs *r;
    struct pci_msix_regs *mx; /* NULL: no MSI-X */
    u8 fn;                    /* slot * 8 + function */
    bool ready;               /* base holds what init has built */
    u8 intx_out;              /* what the bus was told */
    u8 cap_end;               /* first byte after the last capability */
    u8 msi, msix;             /* offsets of the capabilities; 0: none */
    u16 vectors;              /* of MSI-X */
    u16 msix_pba;             /* offset of the pending bits in its BAR */
    u8 base[PCI_CONFIG_LEN];  /* after reset */
    u8 wmask[PCI_CONFIG_LEN]; /* bits that the guest may set */
    u8 w1c[PCI_CONFIG_LEN];   /* bits that writing 1 clears */
    struct pci_bar bar[PCI_BARS];
    const u8 *rom; /* of the ROM BAR, owned */
    u32 rom_len;
    /* properties */
    char *addr; /* "5", "5.0" or "05.0", hexadecimal as everywhere */
    bool multifunction;
    u32 bootindex; /* UINT32_MAX: none */
};

/* Properties every PCI device has; s embeds struct pci_dev as its member m. */
#define PCI_PROPS(s, m)                                                                        \
    PROP(s, m.addr, PROP_STR, .name = "addr", .help = "slot and function, such as 5 or 5.1"),  \
        PROP(s, m.multifunction, PROP_BOOL, .name = "multifunction",                           \
             .help = "more functions of this slot follow"),                                    \
        PROP(s, m.bootindex, PROP_U32, .name = "bootindex", .def = "4294967295",               \
             .help = "place in the boot order, lowest first")

/* ---- the bus ---- */

/* The host bridge's configuration ports: io[0] at 0xcf8, io[1] at 0xcfc. Has the bus. */
extern const struct dev_type pci_host_type;
struct pci_bus *pci_host_bus(struct dev *host);
struct vm *pci_bus_vm(struct pci_bus *);
/* NULL when nobody is there. */
struct pci_dev *pci_bus_dev(struct pci_bus *, u8 fn);
/* PIRQ line 0..3 drives this GSI; -1: none. Any thread; takes the lines' lock. */
void pci_bus_route(struct pci_bus *, unsigned pirq, int gsi);
/* Prints the functions and where their BARs are ("info pci"). */
void pci_bus_print(struct pci_bus *, GString *to);

/* Before dev_realize(). fn: slot * 8 + function; -1: property "addr", else the first free slot.
 */
bool pci_place(struct dev *, struct pci_bus *, int fn, GError **error);
/* Takes back pci_place(), if that was, for a device that did not realize. */
void pci_unplace(struct dev *);
/* NULL when dev is no PCI device. */
struct pci_dev *pci_dev_of(struct dev *);

u32 pci_config_read(struct pci_bus *, u8 fn, u32 off, unsigned size);
void pci_config_write(struct pci_bus *, u8 fn, u32 off, u32 val, unsigned size);

/* ---- for devices; REQUIRES(dev->lock) or their own init ---- */

bool pci_init(struct pci_dev *, GError **error);
void pci_reset(struct pci_dev *);
void pci_loaded(struct pci_dev *);
void pci_fini(struct pci_dev *);

/* Copies the region; its len is rounded up to a power of two (I/O at least 4, memory 16). */
void pci_bar_add(struct pci_dev *, unsigned bar, enum pci_bar_kind, const struct region *);
/* A ROM image, copied; at most 16 MiB. */
void pci_rom_add(struct pci_dev *, const u8 *bytes, u32 len);
/* Room for a capability of len bytes, whose first two are filled in; returns its offset. */
u8 pci_cap_add(struct pci_dev *, u8 id, u8 len);
/* 64-bit MSI with per-vector masking; vectors 1, 2, 4 .. 32. */
void pci_msi_add(struct pci_dev *, unsigned vectors);
/* MSI-X with table and pending bits in a BAR of its own. */
void pci_msix_add(struct pci_dev *, unsigned bar, unsigned vectors);

void pci_intx_set(struct pci_dev *, bool level);
bool pci_msi_on(const struct pci_dev *);
bool pci_msix_on(const struct pci_dev *);
void pci_msi_fire(struct pci_dev *, unsigned vector);
void pci_msix_fire(struct pci_dev *, unsigned vector);
/* May it do DMA? */
bool pci_master(const struct pci_dev *);
/* As if the driver had turned bus mastering on. */
void pci_master_on(struct pci_dev *);

u16 pci_get16(const u8 *config, u32 off);
u32 pci_get32(const u8 *config, u32 off);
void pci_put16(u8 *config, u32 off, u16 val);
void pci_put32(u8 *config, u32 off, u32 val);
