// SPDX-License-Identifier: GPL-2.0-or-later
/* drivers.c - all formats, protocols and filters: add yours here.  See docs/new-format.md. */
#include "image/drivers.h"

const struct driver *const drivers[] = {
    /* formats, probed in this order */
    &format_raw,
    &format_qcow2,
    &format_bochs,
    &format_cloop,
    &format_dmg,
    &format_luks,
    &format_parallels,
    &format_qcow,
    &format_qed,
    &format_vdi,
    &format_vhdx,
    &format_vmdk,
    &format_vpc,
    /* protocols */
    &proto_file,
    &proto_host_device,
    &proto_nbd,
#ifdef HAVE_CURL
    &proto_http,
    &proto_https,
    &proto_ftp,
    &proto_ftps,
#endif
    /* filters */
    &filter_blkdebug,
    &filter_overlay,
    &filter_throttle,
    NULL,
};
