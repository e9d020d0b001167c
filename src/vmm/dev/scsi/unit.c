// SPDX-License-Identifier: GPL-2.0-or-later
/* unit.c - scsi-hd and scsi-cd as devices: where they sit, what they are made of, their state.
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/scsi/mmc.h"
#include "vmm/dev/scsi/scsi.h"

static const struct state_field unit_fields[] = {
    STATE_UINT(struct scsi_unit_regs, key, 15),
    STATE_INT(struct scsi_unit_regs, asc),
    STATE_INT(struct scsi_unit_regs, ascq),
    STATE_INT(struct scsi_unit_regs, attention_asc),
    STATE_INT(struct scsi_unit_regs, attention_ascq),
    STATE_UINT(struct scsi_unit_regs, write_cache, 1),
    STATE_UINT(struct scsi_unit_regs, tray_open, 1),
    STATE_UINT(struct scsi_unit_regs, locked, 1),
    STATE_UINT(struct scsi_unit_regs, event, MMC_EVENT_REMOVAL),
    STATE_PAD(struct scsi_unit_regs, zero),
};

bool scsi_medium_there(const struct scsi_unit *u)
{
    return u->drive->image && !u->r.tray_open;
}

u32 scsi_block_size(const struct scsi_unit *u)
{
    return u->cd ? MMC_SECTOR : u->logical_block;
}

u64 scsi_blocks(const struct scsi_unit *u)
{
    u64 n = scsi_medium_there(u) ? image_size(u->drive->image) / scsi_block_size(u) : 0;

    return u->cd ? MIN(n, (u64)UINT32_MAX) : n;
}

bool scsi_read_only(const struct scsi_unit *u)
{
    return u->cd || image_read_only(u->drive->image);
}

/* ---- life ----------------------------------------------------------------------------------
 */

static bool block_size_ok(u32 n)
{
    return n >= 512 && n <= 32768 && !(n & (n - 1));
}

static bool disk_check(struct scsi_unit *u, GError **error)
{
    if (!u->drive || !u->drive->image)
        return fail(error, ERR_ARGUMENT, "it needs a drive with a disk: drive=ID");
    if (!block_size_ok(u->logical_block) || !block_size_ok(u->physical_block) ||
        u->physical_block < u->logical_block)
        return fail(error, ERR_ARGUMENT,
                    "block sizes are powers of two from 512 to 32768, the physical one not "
                    "smaller than the logical one");
    if (u->discard_granularity && (u->discard_granularity & (u->discard_granularity - 1) ||
                                   u->discard_granularity < u->logical_block))
        return fail(error, ERR_ARGUMENT,
                    "discard_granularity is a power of two, not smaller than a block, or 0");
    if (!scsi_blocks(u))
        return fail(error, ERR_ARGUMENT, "the disk is smaller than one block");
    return true;
}

/* Numbers that were not given: the first free ones, LUN 0 of a target before others. */
static bool sit_down(struct scsi_unit *u, GError **error)
{
    struct scsi_bus *b = u->bus;

    if (u->channel)
        return fail(error, ERR_ARGUMENT, "channel=%u: there is channel 0", u->channel);
    if (u->lun == UINT32_MAX && u->target != UINT32_MAX)
        for (u->lun = 0; u->lun < b->luns && scsi_unit_at(b, (u8)u->target, (u16)u->lun);)
            u->lun++;
    if (u->lun == UINT32_MAX)
        u->lun = 0;
    if (u->target == UINT32_MAX)
        for (u->target = 0;
             u->target < b->targets &&
             (u->target == b->own_target || scsi_unit_at(b, (u8)u->target, (u16)u->lun));)
            u->target++;
    if (u->target > b->targets || u->target == b->own_target)
        return fail(error, ERR_LIMIT, "bus %s has no target %u", b->name, u->target);
    if (u->lun > b->luns)
        return fail(error, ERR_LIMIT, "bus %s has LUNs up to %u, not %u", b->name, b->luns,
                    u->lun);
    const struct scsi_unit *other = scsi_unit_at(b, (u8)u->target, (u16)u->lun);
    if (other)
        return fail(error, ERR_BUSY, "target %u LUN %u of bus %s is taken by %s", u->target,
                    u->lun, b->name, other->dev.id);
    return true;
}

static void default_text(char **at, const char *text)
{
    if (!*at)
        *at = g_strdup(text);
}

/* Main thread. */
static void resized(void *opaque)
{
    struct scsi_unit *u = opaque;

    dev_lock(u->bus->host);
    scsi_attention(u, ASC_CAPACITY_CHANGED);
    dev_unlock(u->bus->host);
}

static bool unit_init(struct dev *d, GError **error)
{
    struct scsi_unit *u = scsi_unit_of(d);

    u->cd = d->type == &scsi_cd_type;
    if (!u->bus)
        return fail(error, ERR_ARGUMENT, "there is no SCSI bus to put it on");
    if (u->drive && u->drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", u->drive->id);
    if (!sit_down(u, error) || (!u->cd && !disk_check(u, error)))
        return false;
    if (!u->drive)
        u->drive = drive_new(d->vm, d->id, NULL, true);
    if (!drive_error_props(u->drive, u->rerror, u->werror, error))
        return false;
    default_text(&u->serial, "");
    default_text(&u->vendor, "POSADA");
    default_text(&u->product, u->cd ? "POSADA CD-ROM" : "POSADA HARDDISK");
    default_text(&u->version, "1.0");
    default_text(&u->device_id, *u->serial ? u->serial : u->drive->id);
    drive_attach(u->drive, d, u->bus->host, u->cd ? &cd_drive_ops : NULL, u);
    if (!u->cd)
        image_on_resize(u->drive->image, resized, u);
    dev_lock(u->bus->host);
    g_ptr_array_add(u->bus->units, u);
    scsi_reset(u->bus, u);
    if (u->bus->ops->plugged)
        u->bus->ops->plugged(u->bus, u, true);
    dev_unlock(u->bus->host);
    return true;
}

/* What a reset does is done by the adapter's, which has the right lock. */
static void unit_reset(struct dev *d UNUSED)
{
}

static struct scsi_req *streaming(const struct scsi_unit *u)
{
    for (struct scsi_req *q = u->bus->reqs; q; q = q->next)
        if (q->unit == u && !q->io)
            return q;
    return NULL;
}

/* What is under way is finished, as far as the image has it: nothing that was written is lost.
 */
static void unit_fini(struct dev *d)
{
    struct scsi_unit *u = scsi_unit_of(d);

    if (!u->cd)
        image_on_resize(u->drive->image, NULL, NULL);
    if (u->bus) {
        struct scsi_req *q;

        dev_lock(u->bus->host);
        g_ptr_array_remove(u->bus->units, u); /* no more of them come */
        scsi_bus_drain(u->bus);
        while ((q = streaming(u)))
            scsi_abort(q);
        if (u->bus->ops->plugged)
            u->bus->ops->plugged(u->bus, u, false);
        dev_unlock(u->bus->host);
    }
    drive_detach(u->drive);
}

#define UNIT_PROPS                                                                             \
    PROP(struct scsi_unit, drive, PROP_PTR, .name = "drive", .link = "medium",                 \
         .help = "what is in it"),                                                             \
        PROP(struct scsi_unit, channel, PROP_U32, .name = "channel", .help = "0"),             \
        PROP(struct scsi_unit, target, PROP_U32, .name = "scsi-id", .def = "4294967295",       \
             .help = "target; the first free one"),                                            \
        PROP(struct scsi_unit, lun, PROP_U32, .name = "lun", .def = "4294967295",              \
             .help = "logical unit; the first free one"),                                      \
        PROP(struct scsi_unit, rerror, PROP_STR, .name = "rerror",                             \
             .help = "reads that fail: report, ignore, stop, auto (as the drive has it)"),     \
        PROP(struct scsi_unit, werror, PROP_STR, .name = "werror",                             \
             .help = "writes that fail: the same, or enospc"),                                 \
        PROP(struct scsi_unit, serial, PROP_STR, .name = "serial", .help = "serial number"),   \
        PROP(struct scsi_unit, vendor, PROP_STR, .name = "vendor", .help = "8 characters"),    \
        PROP(struct scsi_unit, product, PROP_STR, .name = "product", .help = "16 characters"), \
        PROP(struct scsi_unit, version, PROP_STR, .name = "ver",                               \
             .help = "revision, 4 characters"),                                                \
        PROP(struct scsi_unit, device_id, PROP_STR, .name = "device_id",                       \
             .help = "name for systems to know it by; the serial number"),                     \
        PROP(struct scsi_unit, wwn, PROP_U64, .name = "wwn", .help = "world wide name"),       \
        PROP(struct scsi_unit, bootindex, PROP_U32, .name = "bootindex", .def = "4294967295",  \
             .help = "place in the boot order, lowest first")

static const struct prop hd_props[] = {
    UNIT_PROPS,
    PROP(struct scsi_unit, write_cache_prop, PROP_BOOL, .name = "write-cache", .def = "on",
         .help = "writes are durable after a flush only"),
    PROP(struct scsi_unit, logical_block, PROP_U32, .name = "logical_block_size", .def = "512",
         .help = "bytes"),
    PROP(struct scsi_unit, physical_block, PROP_U32, .name = "physical_block_size",
         .def = "512", .help = "bytes"),
    PROP(struct scsi_unit, rotation, PROP_U32, .name = "rotation_rate", .max = 0xffff,
         .help = "1: solid state, else per minute"),
    PROP(struct scsi_unit, discard_granularity, PROP_U32, .name = "discard_granularity",
         .def = "4096", .help = "bytes; 0: no discarding"),
    { 0 },
};
static const struct prop cd_props[] = {
    UNIT_PROPS,
    { 0 },
};

#define UNIT_TYPE                                                                              \
    .kind = DEV_SCSI, .size = sizeof(struct scsi_unit),                                        \
    .state = STATE_TABLE(struct scsi_unit, r, unit_fields), .init = unit_init,                 \
    .reset = unit_reset, .fini = unit_fini

const struct dev_type scsi_hd_type = {
    .name = "scsi-hd",
    .desc = "SCSI disk",
    .props = hd_props,
    UNIT_TYPE,
};
const struct dev_type scsi_cd_type = {
    .name = "scsi-cd",
    .desc = "SCSI CD-ROM",
    .props = cd_props,
    UNIT_TYPE,
};
