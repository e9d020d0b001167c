// SPDX-License-Identifier: GPL-2.0-or-later
/* drivers.h - what drivers.c lists. */
#pragma once

#include "image/node.h"

extern const struct driver format_raw, format_qcow2;
extern const struct driver format_bochs, format_cloop, format_dmg, format_luks,
    format_parallels, format_qcow, format_qed, format_vdi, format_vhdx, format_vmdk, format_vpc;
extern const struct driver proto_file, proto_host_device, proto_nbd;
extern const struct driver proto_http, proto_https, proto_ftp, proto_ftps;
extern const struct driver filter_blkdebug, filter_overlay, filter_throttle;
