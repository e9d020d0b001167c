// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * board.h - inside machine/: what the builder, the boards and the firmware tables share.
 */
#pragma once

#include "vmm/core/dev.h"
#include "vmm/machine/boot.h"
#include "vmm/machine/machine.h"

struct pci_bus;
struct ram_block;

enum {
    PC_BELOW_4G_MAX = 0xc0000000u, /* RAM beyond goes above 4 GiB */
    PC_IOAPIC = 0xfec00000u,
    PC_HPET = 0xfed00000u,
    PC_LAPIC = 0xfee00000u,
    PC_PCI_MEM = 0xe0000000u, /* window for BARs: to the IOAPIC */
    PC_PCI_MEM_END = 0xfebfffffu,
    PC_PM_BASE = 0x600, /* where SeaBIOS puts the power management ports, and we too */
    PC_GPE_BASE = 0xafe0,
    PC_HOTPLUG = 0xae00,
    PC_SCI = 9,
    VIRTIO_MMIO_BASE = 0xfeb00000u, /* microvm: slots of 512 bytes */
    VIRTIO_MMIO_SLOTS = 8,
    VIRTIO_MMIO_GSI = 16,
};

/* A device of a board: what, where, and on which lines. */
struct part {
    const char *type, *id;
    u16 io[4]; /* in the order of the type's regions; 0: not mapped here */
    u64 mem[2];
    s8 gsi[4]; /* of its outputs */
    u8 gsis;   /* how many of gsi[] count */
};

struct machine {
    const struct machine_desc *desc;
    struct vm *vm;
    struct cpu_config cpu;
    struct ram_block *ram, *bios;
    u64 ram_low, ram_high; /* bytes below and above 4 GiB */
    bool started;          /* vCPU threads exist */
    bool booted;           /* -boot once= has been used up */

    GHashTable *nets; /* netdev id -> struct net * */
    u32 mmio_used;    /* microvm: virtio slots */

    struct pci_bus *pci; /* NULL: none */
    struct dev *fw_cfg;  /* NULL: none */
    struct dev *rtc;
    struct dev *fdc; /* NULL: none */
    struct dev *hotplug; /* PCI slots through ACPI; NULL: they stay as they are */
    u32 leaving;         /* slots that the guest was asked to let go of */
    bool serial_at[SERIALS_MAX];
    bool has_hpet, has_i8042, has_pm, has_smi_cmd;

    struct boot *boot;   /* direct boot, or NULL: firmware */
    GByteArray *tables;  /* direct boot: ACPI and SMBIOS as they lie from tables_at on */
    gpa tables_at, rsdp; /* rsdp 0: no ACPI */
};

/* A new device in the vm; the part's regions are mapped and lines connected before realize.
 * props: "name=text" pairs ending with NULL. */
struct dev *machine_part(struct machine *, const struct part *, const char *const *props,
                         GError **error);
/* The same, with output 0 on a line that is no GSI. */
struct dev *machine_part_on(struct machine *, const struct part *, struct irq *,
                            GError **error);
/* Makes one that the user (or -drive, -nic) asked for. */
bool machine_user_device(struct machine *, const struct device_desc *, GError **error);
/* Finishes what is under way in a device, frees it and says so; and what hangs on it before. */
void machine_remove(struct machine *, struct dev *);
/* The guest lets go of PCI slots: any thread, any lock. */
void machine_ejects(void *machine, u32 slots);
/* A reset takes away what the guest was asked to let go of. */
void machine_hotplug_reset(struct machine *);
/* Resolves property text of any kind, ids of backends too. */
bool machine_set_prop(struct machine *, struct dev *, const char *prop, const char *text,
                      GError **error);
/* "virtio-blk" -> "virtio-blk-pci" or "virtio-blk-device" as the board has it. */
const char *machine_type_name(const struct machine_desc *, const char *name);

/* The id= in an option text; valid until the next call in this thread. "" without one. */
const char *machine_id_of(const char *opts);
bool machine_is_mmio(const struct dev_type *);
/* A property of any device that the builder takes itself when the type has it not. */
bool machine_own_prop(const struct dev_type *, const char *name);

struct board_ops {
    /* More RAM blocks than RAM itself, before the CPU backend looks at them; may be NULL. */
    bool (*memory)(struct machine *, GError **error);
    bool (*build)(struct machine *, GError **error); /* parts and buses, after the vCPUs */
    bool (*place)(struct machine *, struct dev *, const char *addr, GError **error);
    void (*placed)(struct machine *, struct dev *);   /* it is realized; may be NULL */
    bool (*finish)(struct machine *, GError **error); /* after user devices: tables, boot */
    bool (*reset)(struct machine *, GError **error);  /* after devices and vCPUs: as firmware */
};
extern const struct board_ops board_pc, board_microvm, board_none;

/* RAM block and slots, for boards with the PC's split. */
bool machine_make_ram(struct machine *, GError **error);
bool machine_make_serials(struct machine *, GError **error);
bool machine_make_debugcon(struct machine *, GError **error);
/* What firmware reads: CMOS RAM, and the configuration device with tables and -fw_cfg files. */
void machine_set_cmos(struct machine *);
/* -boot's letters; at each reset, as once= holds for the first time only. */
void machine_set_boot_order(struct machine *);
bool machine_fill_fw_cfg(struct machine *, GError **error);
/* Direct boot: makes tables (ACPI, SMBIOS); then the kernel's pieces. */
bool machine_make_tables(struct machine *, GError **error);
/* Direct boot: tables in RAM and the kernel; firmware: ROM. */
bool machine_load_kernel(struct machine *, GError **error);
bool machine_reset_kernel(struct machine *, GError **error);
void machine_e820(const struct machine *, struct e820 *ret, bool direct);
