// SPDX-License-Identifier: GPL-2.0-or-later
/* mmc.c - see mmc.h. */
#include "vmm/dev/scsi/mmc.h"

#include <string.h>

#include "vmm/dev/scsi/bytes.h"

enum { CD_SECTORS_MAX = 80 * 60 * 75, DATA_TRACK = 0x14, DVD_ROM = 0x10, CD_ROM = 0x08 };

void mmc_put_msf(u8 *p, u32 lba)
{
    lba += 150;
    p[0] = (u8)(lba / 75 / 60);
    p[1] = (u8)(lba / 75 % 60);
    p[2] = (u8)(lba % 75);
}

u32 mmc_read_toc(const struct mmc_drive *d, const u8 *c, u8 *b)
{
    u8 format = c[2] & 15;
    bool msf = c[1] & 2;
    u32 n = 4, end = d->sectors;

    if (!format)
        format = c[9] >> 6;
    memset(b, 0, 64);
    b[2] = b[3] = 1;
    if (format == 0) {
        if (c[6] > 1 && c[6] != 0xaa)
            return 0;
        for (u32 i = c[6] == 0xaa; i < 2; i++, n += 8) {
            b[n + 1] = DATA_TRACK;
            b[n + 2] = i ? 0xaa : 1;
            if (msf)
                mmc_put_msf(b + n + 5, i ? end : 0);
            else
                put_be32(b + n + 4, i ? end : 0);
        }
    } else if (format == 1) {
        b[5] = DATA_TRACK;
        b[6] = 1;
        if (msf)
            mmc_put_msf(b + 9, 0);
        n = 12;
    } else if (format == 2) {
        static const u8 points[] = { 0xa0, 0xa1, 0xa2, 1 };

        for (u32 i = 0; i < 4; i++, n += 11) {
            b[n] = 1;
            b[n + 1] = DATA_TRACK;
            b[n + 3] = points[i];
            if (i < 2)
                b[n + 8] = 1; /* first, last track */
            else
                mmc_put_msf(b + n + 8, i == 2 ? end : 0);
        }
    } else {
        return 0;
    }
    put_be16(b, n - 2);
    return n;
}

u32 mmc_get_configuration(const struct mmc_drive *d, const u8 *c, u8 *b)
{
    static const u8 features[] = {
        0x00, 0x00, 0x03, 8, 0,    0x10, 0, 0, 0, 0x08, 0, 0, /* profiles: DVD-ROM, CD-ROM */
        0x00, 0x01, 0x0b, 8, 0,    0,    0, 2, 1, 0,    0, 0, /* core: ATAPI */
        0x00, 0x02, 0x07, 4, 1,    0,    0, 0,                /* morphing: events */
        0x00, 0x03, 0x0b, 4, 0x29, 0,    0, 0,                /* removable: tray, eject, lock */
        0x00, 0x10, 0x01, 8, 0,    0,    8, 0, 0, 1,    0, 0, /* random readable: 2048 */
        0x00, 0x1e, 0x09, 4, 0,    0,    0, 0,                /* CD read */
        0x00, 0x1f, 0x01, 0,                                  /* DVD read */
        0x01, 0x00, 0x03, 0,                                  /* power management */
        0x01, 0x05, 0x07, 4, 0,    0,    0, 0,                /* timeout */
    };
    u8 rt = c[1] & 3;
    u32 n = 8, from = get_be16(c + 2);
    u32 profile = !d->there ? 0 : d->sectors > CD_SECTORS_MAX ? DVD_ROM : CD_ROM;

    if (rt == 3)
        return 0;
    memset(b, 0, 8);
    for (u32 at = 0; at < sizeof features; at += 4u + features[at + 3]) {
        u32 code = get_be16(features + at), len = 4u + features[at + 3];
        bool current = code != 0x10 && code != 0x1e && code != 0x1f;

        current |= profile && code == 0x10;
        current |= profile == CD_ROM && code == 0x1e;
        current |= profile == DVD_ROM && code == 0x1f;
        if ((rt == 2 ? code != from : code < from) || (rt == 1 && !current))
            continue;
        memcpy(b + n, features + at, len);
        b[n + 2] = (u8)((b[n + 2] & ~1) | current);
        if (code == 0) { /* which of the profiles is in force */
            b[n + 6] = profile == DVD_ROM;
            b[n + 10] = profile == CD_ROM;
        }
        if (code == 1 && !d->atapi)
            b[n + 7] = 1; /* physical interface: SCSI */
        n += len;
    }
    put_be32(b, n - 4);
    put_be16(b + 6, profile);
    return n;
}

u32 mmc_get_event_status(const struct mmc_drive *d, const u8 *c, u8 *event, u8 *b)
{
    if (!(c[1] & 1)) /* asynchronous notification */
        return 0;
    memset(b, 0, 8);
    b[3] = 0x10; /* there is the class of media events */
    if (!(c[4] & 0x10)) {
        b[1] = 2;
        b[2] = 0x80;
        return 4;
    }
    b[1] = 6;
    b[2] = 4;
    b[4] = *event;
    b[5] = (u8)(d->tray_open | d->there << 1);
    if (get_be16(c + 7) > 4)
        *event = MMC_EVENT_NONE;
    return 8;
}

u32 mmc_disc_information(u8 *b)
{
    memset(b, 0, 34);
    b[1] = 32;
    b[2] = 0x0e; /* complete */
    b[3] = b[4] = b[5] = b[6] = 1;
    b[7] = 0x20;
    return 34;
}

u32 mmc_mechanism_status(const struct mmc_drive *d, u8 *b)
{
    memset(b, 0, 8);
    b[1] = d->tray_open ? 0x10 : 0;
    return 8;
}

u32 mmc_mode_page(const struct mmc_drive *d, u8 page, bool changeable, u8 *to)
{
    u32 n = 0;

    if (page == 0x01) {
        n = 8;
        memset(to, 0, n);
        to[3] = 5; /* retries */
    } else if (page == 0x0e) {
        n = 16;
        memset(to, 0, n);
        to[2] = 4;
    } else if (page == 0x2a) {
        n = 22;
        memset(to, 0, n);
        to[2] = 0x08;                        /* reads DVD-ROM */
        to[4] = 0x70;                        /* mode 2 form 1 and 2, multisession */
        to[6] = (u8)(0x29 | d->locked << 1); /* tray, eject, lock */
        put_be16(to + 8, 706);
        put_be16(to + 12, 512);
        put_be16(to + 14, 706);
    }
    if (n && changeable)
        memset(to, 0, n);
    if (n) {
        to[0] = page;
        to[1] = (u8)(n - 2);
    }
    return n;
}

u8 mmc_medium_type(const struct mmc_drive *d)
{
    return d->tray_open ? 0x71 : d->there ? 0x01 : 0x70;
}

enum mmc_read mmc_read_cd(const u8 *c, u32 *ret_lba, u32 *ret_n)
{
    u8 type = c[1] >> 2 & 7, what = c[9] & 0xf8;

    *ret_lba = get_be32(c + 2);
    *ret_n = get_be24(c + 6);
    if (type == 1)
        return MMC_READ_AUDIO;
    if (!*ret_n || !what)
        return MMC_READ_NOTHING;
    if (c[10] & 7)
        return MMC_READ_BAD;
    return what == 0x10 ? MMC_READ_DATA : what == 0xf8 ? MMC_READ_RAW : MMC_READ_BAD;
}
