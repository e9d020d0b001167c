// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * machine.h - from a description to a running PC: the door of machine/.
 *
 * Command line (and later XML and JSON) fill one struct machine_desc, plain data that opens
 * nothing.  machine_check() looks for what cannot be (unknown device types and properties, ids
 * used twice, drives nobody made); machine_build() then opens backends and files and makes the
 * vm, stopped, with its vCPUs parked.  Main thread throughout.
 */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "image/image.h"
#include "vmm/cpu/cpu.h"

struct vm;

enum machine_board { BOARD_PC, BOARD_MICROVM, BOARD_NONE };
const char *machine_board_name(enum machine_board);
bool machine_board_find(const char *name, enum machine_board *ret, GError **error);
void machine_print_boards(GString *to);

/* "key=value,key=value"; a comma in a value is doubled. */
struct opt {
    char *key, *val;
};
/* Elements are struct opt *. first: key of a first element without "=", or NULL. Another
 * element without "=" means "=on". what prefixes messages. */
GPtrArray *opts_parse(const char *text, const char *first, const char *what, GError **error);
const char *opts_get(const GPtrArray *, const char *key); /* the last one wins; NULL: none */
/* Removes all of that key, returning the last value (g_free) or NULL. */
char *opts_take(GPtrArray *, const char *key);
void opts_add(GPtrArray *, const char *key, const char *val);
/* Back to text, with commas doubled. */
char *opts_text(const GPtrArray *);

struct drive_desc {
    char *id;          /* never NULL */
    char *file;        /* NULL: an empty drive */
    struct dict *dict; /* -blockdev: what to open instead of file; or NULL */
    GPtrArray *nodes;  /* the node-names that -blockdev gave, which stay until blockdev-del */
    char *iface;       /* if=: the device to make for it; "none": none; NULL: the board's */
    int index, bus, unit; /* of those of its interface; -1: the next free one */
    bool cdrom;
    char *serial;
    char *node_name;              /* of the image's top; or NULL */
    struct dict *driver; /* with file: options of its driver (key-secret); or NULL */
    struct image_options options; /* format is owned here */
    enum image_on_error rerror, werror;
    char *group; /* throttling; NULL: its own */
    struct image_throttle throttle;
};
struct throttle_desc {
    char *id;
    struct image_throttle limits;
};
struct tls_creds_props;
struct creds_desc { /* -object tls-creds-... */
    char *type;
    struct tls_creds_props *props;
};
struct device_desc {
    char *type;
    char *id;         /* or NULL */
    char *origin;     /* "-device", "-nic", "-drive": for messages */
    GPtrArray *props; /* struct opt; bus, addr, bootindex and multifunction too */
};
struct global_desc {
    char *type, *prop, *val;
};
struct fw_cfg_desc {
    char *name;
    GBytes *bytes; /* string=; else read from file */
    char *file;
};
/* One -smbios type=N; fields as given. */
struct smbios_desc {
    unsigned type;
    GPtrArray *fields;
};

enum { SERIALS_MAX = 4, MACHINE_DEVICES_MAX = 512 };

struct machine_desc {
    enum machine_board board;
    bool acpi, hpet, graphics;
    char *name; /* NULL: "guest" is not shown anywhere */
    u8 uuid[16];
    bool has_uuid;

    u64 ram;
    char *accel, *cpu_model;
    u32 code_cache_mib; /* 0: as the accelerator has it */
    enum cpu_direct direct;
    bool perfmap;
    u32 smp, sockets, cores, threads, max_cpus;
    bool no_kernel_irqchip, force_kernel_irqchip;

    char *bios, *kernel, *initrd, *append;

    GPtrArray *drives;         /* struct drive_desc */
    GPtrArray *devices;        /* struct device_desc */
    GPtrArray *globals;        /* struct global_desc */
    GPtrArray *netdevs;        /* char *, as -netdev takes them */
    GPtrArray *chardevs;       /* char *, as -chardev takes them */
    GPtrArray *objects;        /* GPtrArray of struct opt: qom-type, id, ... */
    GPtrArray *secrets;        /* struct secret_props */
    GPtrArray *creds;          /* struct creds_desc */
    GPtrArray *throttles;      /* struct throttle_desc */
    GPtrArray *fw_cfg;         /* struct fw_cfg_desc */
    GPtrArray *smbios;         /* struct smbios_desc */
    char *serial[SERIALS_MAX]; /* NULL: no such port */
    char *debugcon;            /* chardev spec for port 0x402, or NULL */

    char *boot_order; /* letters, or NULL */
    char *boot_once;  /* the same for the first boot only, or NULL */
    bool boot_menu, boot_strict;
    int boot_menu_wait; /* ms, -1: default */
    int boot_fail_wait; /* ms, -1: none */
    char *rtc_base;     /* "utc", "localtime" or a date; NULL: utc */
    bool no_reboot, no_shutdown;
};

struct machine_desc *machine_desc_new(void); /* all defaults in place */
void machine_desc_free(struct machine_desc *);
struct drive_desc *machine_add_drive(struct machine_desc *);
/* Takes props. */
struct device_desc *machine_add_device(struct machine_desc *, const char *type, const char *id,
                                       const char *origin, GPtrArray *props);

/* Everything that can be said without opening anything. */
bool machine_check(const struct machine_desc *, GError **error);
/* What -device help and -device NAME,help print; false: no such type. */
void machine_print_devices(GString *to);
bool machine_print_props(const char *type, GString *to);

struct machine;
/* desc must outlive the machine. NULL and *error on failure, with all undone. */
struct machine *machine_build(const struct machine_desc *, GError **error);
struct vm *machine_vm(struct machine *);
/* While it runs; props: struct opt, as -device has them. The guest is told of PCI devices by ACPI,
 * of SCSI disks by their adapter. */
bool machine_device_add(struct vm *, const char *driver, const char *id, GPtrArray *props,
                        GError **error);
/* A SCSI disk goes at once, a PCI device when the guest lets go of it; then the vm's
 * device_deleted() is called. */
bool machine_device_del(struct vm *, const char *id, GError **error);
/* Ends the vCPU threads, closes drives and network, frees the vm. NULL does nothing. */
void machine_free(struct machine *);
