// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fw_cfg.h - the configuration device that SeaBIOS, OVMF and Linux know from QEMU.
 *
 * fw_cfg_type.io: 0x510 (2 ports), 0x514 (8 ports, DMA).  Items are added by the machine
 * builder before the guest runs, on the main thread, or later under the topology lock with the
 * guest stopped.  All data is little-endian as the item says; the file directory is made here.
 */
#pragma once

#include <glib.h>

#include "vmm/core/dev.h"

enum { FW_CFG_IO_PORTS, FW_CFG_IO_DMA };
enum { FW_CFG_NAME_MAX = 55, FW_CFG_FILES_MAX = 256 };

/* Fixed keys; the architecture's own begin at FW_CFG_ARCH. */
enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_UUID = 0x02,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NOGRAPHIC = 0x04,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_MACHINE_ID = 0x06,
    FW_CFG_KERNEL_ADDR = 0x07,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_KERNEL_CMDLINE = 0x09,
    FW_CFG_INITRD_ADDR = 0x0a,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_BOOT_DEVICE = 0x0c,
    FW_CFG_NUMA = 0x0d,
    FW_CFG_BOOT_MENU = 0x0e,
    FW_CFG_MAX_CPUS = 0x0f,
    FW_CFG_KERNEL_ENTRY = 0x10,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_ADDR = 0x13,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_SETUP_ADDR = 0x16,
    FW_CFG_SETUP_SIZE = 0x17,
    FW_CFG_SETUP_DATA = 0x18,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
    FW_CFG_ARCH = 0x8000,
    FW_CFG_ACPI_TABLES = FW_CFG_ARCH + 0,
    FW_CFG_SMBIOS = FW_CFG_ARCH + 1,
    FW_CFG_IRQ0_OVERRIDE = FW_CFG_ARCH + 2,
    FW_CFG_E820 = FW_CFG_ARCH + 3,
    FW_CFG_HPET = FW_CFG_ARCH + 4,
};

extern const struct dev_type fw_cfg_type;

/* Sets an item, replacing what was there. Bytes are copied; _gbytes keeps a reference, so a
 * mapped file costs nothing. A key out of range is a bug of the caller. */
void fw_cfg_add_bytes(struct dev *, u16 key, const void *bytes, size_t n);
void fw_cfg_add_gbytes(struct dev *, u16 key, GBytes *);
void fw_cfg_add_u16(struct dev *, u16 key, u16 val);
void fw_cfg_add_u32(struct dev *, u16 key, u32 val);
void fw_cfg_add_u64(struct dev *, u16 key, u64 val);
void fw_cfg_add_string(struct dev *, u16 key, const char *); /* with its zero */

/* Sets a named file ("etc/e820"). false and *error: name too long, or too many files. */
bool fw_cfg_add_file(struct dev *, const char *name, const void *bytes, size_t n,
                     GError **error);
bool fw_cfg_add_file_gbytes(struct dev *, const char *name, GBytes *, GError **error);
/* A file whose content is made when the guest first selects it after a reset: make returns a
 * new reference, of the length given here. It runs with the device's lock held and must take no
 * device's lock. */
bool fw_cfg_add_callback(struct dev *, const char *name, size_t n,
                         GBytes *(*make)(void *opaque), void *opaque, GError **error);
/* A file that the guest may write through DMA; written() gets the whole content after each
 * write, with the device's lock held. It is not part of the saved state. */
bool fw_cfg_add_writable(struct dev *, const char *name, const void *bytes, size_t n,
                         void (*written)(void *opaque, const u8 *bytes, size_t n), void *opaque,
                         GError **error);
/* Content of a file, or NULL; valid until it is replaced. For tests and direct boot. */
GBytes *fw_cfg_file(struct dev *, const char *name);
