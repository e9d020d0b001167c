// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mmc.h - what a CD/DVD-ROM drive says of itself and its medium, for ATAPI and SCSI alike.
 * INCITS 396 (MMC-5), T10/1228-D (MMC-2) for READ TOC.
 *
 * The medium is one data track of 2048-byte sectors, as an ISO image has it.  The functions
 * fill in `to`, which has MMC_ANSWER_MAX bytes, and return the length of the answer; 0: the
 * command asks for what there is not (INVALID FIELD IN CDB).  The CDB has at least 12 bytes.
 */
#pragma once

#include "base/types.h"

enum { MMC_SECTOR = 2048, MMC_ANSWER_MAX = 256 };
enum mmc_event {
    MMC_EVENT_NONE,
    MMC_EVENT_EJECT_REQUEST,
    MMC_EVENT_NEW_MEDIUM,
    MMC_EVENT_REMOVAL
};

struct mmc_drive {
    u32 sectors; /* of the medium, there or not */
    bool there;  /* a medium is in it and the tray is closed */
    bool tray_open, locked;
    bool atapi;
};

u32 mmc_read_toc(const struct mmc_drive *, const u8 *cdb, u8 *to);
u32 mmc_get_configuration(const struct mmc_drive *, const u8 *cdb, u8 *to);
/* *event is taken when it was told. */
u32 mmc_get_event_status(const struct mmc_drive *, const u8 *cdb, u8 *event, u8 *to);
u32 mmc_disc_information(u8 *to);
u32 mmc_mechanism_status(const struct mmc_drive *, u8 *to);
/* A mode page of a CD drive; 0: there is none of that number. changeable: the mask of what MODE
 * SELECT may change, which is nothing. */
u32 mmc_mode_page(const struct mmc_drive *, u8 page, bool changeable, u8 *to);
u8 mmc_medium_type(const struct mmc_drive *);
void mmc_put_msf(u8 *to, u32 lba); /* minute, second, frame */

/* What READ CD is for: sectors of 2048 bytes, whole ones of 2352, none, or what we have not. */
enum mmc_read { MMC_READ_NOTHING, MMC_READ_DATA, MMC_READ_RAW, MMC_READ_BAD, MMC_READ_AUDIO };
enum mmc_read mmc_read_cd(const u8 *cdb, u32 *ret_lba, u32 *ret_n);
