// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * options_parse.h - inside the command line's parser: its state, the values that options share,
 * and the function of each option.
 */
#pragma once

#include "vmm/options.h"

enum { VALUE_NAME_MAX = 256 };

/* What is known only after the whole line has been read. */
struct parse {
    struct options *o;
    struct machine_desc *m;
    bool nographic, nodefaults, snapshot;
    bool no_monitor; /* not the default one */
    u32 serials, nics;
};

typedef bool option_fn(struct parse *, const char *arg, GError **error);

/* ---- values (options_value.c); messages do not name the option, the caller of fn adds it ----
 */

bool value_uint(const char *text, u64 max, u64 *ret, GError **error);
bool value_bool(const char *key, const char *text, bool *ret, GError **error);
bool value_size(const char *text, u64 unit, u64 *ret, GError **error);
bool value_one_of(const char *key, const char *val, const char *const *list, GError **error);
bool value_none_left(const GPtrArray *kv, GError **error);
bool value_take_bool(GPtrArray *kv, const char *key, bool *io, GError **error);
/* Limits as -drive has them, checked; *ret_group: g_free. */
bool value_take_throttling(GPtrArray *kv, struct image_throttle *, char **ret_group,
                           GError **error);
bool value_take_uint(GPtrArray *kv, const char *key, u64 max, u64 *io, GError **error);
bool value_take_off(GPtrArray *kv, const char *key, GError **error);
bool value_id(const char *id, GError **error);
void value_set(char **at, const char *text);

/* After the last option: which drive gets which place, and the devices for them. */
bool settle_drives(struct parse *, GError **error);

/* ---- one function an option ---- */

option_fn opt_machine, opt_accel, opt_no_kvm, opt_enable_kvm, opt_no_irqchip, opt_cpu, opt_smp,
    opt_m, opt_kernel, opt_initrd, opt_append, opt_bios, opt_boot, opt_fw_cfg, opt_uuid,
    opt_smbios, opt_rtc;
option_fn opt_drive, opt_blockdev, opt_snapshot, opt_device, opt_global, opt_netdev, opt_nic,
    opt_net, opt_hda, opt_hdb, opt_hdc, opt_hdd, opt_cdrom, opt_fda, opt_fdb, opt_object,
    opt_serial, opt_monitor, opt_qmp, opt_qmp_pretty, opt_mon, opt_chardev, opt_debugcon,
    opt_display, opt_vga, opt_parallel, opt_nographic;
/* -object throttle-group (options_throttle.c) */
bool throttle_group_option(struct parse *, GPtrArray *kv, const char *id, GError **error);
