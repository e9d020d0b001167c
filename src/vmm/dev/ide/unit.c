// SPDX-License-Identifier: GPL-2.0-or-later
/* unit.c - ide-hd and ide-cd as devices: where they sit, what they are made of, their state. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "vmm/dev/ide/ide.h"

static const struct state_field unit_fields[] = {
    STATE_INT(struct ide_unit_regs, feature),
    STATE_INT(struct ide_unit_regs, count),
    STATE_INT(struct ide_unit_regs, lbal),
    STATE_INT(struct ide_unit_regs, lbam),
    STATE_INT(struct ide_unit_regs, lbah),
    STATE_INT(struct ide_unit_regs, device),
    STATE_INT(struct ide_unit_regs, prev_feature),
    STATE_INT(struct ide_unit_regs, prev_count),
    STATE_INT(struct ide_unit_regs, prev_lbal),
    STATE_INT(struct ide_unit_regs, prev_lbam),
    STATE_INT(struct ide_unit_regs, prev_lbah),
    STATE_INT(struct ide_unit_regs, status),
    STATE_INT(struct ide_unit_regs, error),
    STATE_INT(struct ide_unit_regs, command),
    STATE_UINT(struct ide_unit_regs, irq, 1),
    STATE_UINT(struct ide_unit_regs, multiple, ATA_MULTIPLE_MAX),
    STATE_UINT(struct ide_unit_regs, write_cache, 1),
    STATE_UINT(struct ide_unit_regs, smart, 1),
    STATE_INT(struct ide_unit_regs, transfer_mode),
    STATE_UINT(struct ide_unit_regs, heads, 16),
    STATE_INT(struct ide_unit_regs, sectors),
    STATE_UINT(struct ide_unit_regs, flow, FLOW_CD_IN),
    STATE_UINT(struct ide_unit_regs, dma, 1),
    STATE_UINT(struct ide_unit_regs, fua, 1),
    STATE_UINT(struct ide_unit_regs, waits, 1),
    STATE_UINT(struct ide_unit_regs, first, 1),
    STATE_UINT(struct ide_unit_regs, piece, 256),
    STATE_PAD(struct ide_unit_regs, zero4),
    STATE_UINT(struct ide_unit_regs, lba, BIT(48)),
    STATE_INT(struct ide_unit_regs, left),
    STATE_UINT(struct ide_unit_regs, len, ATA_BUF),
    STATE_UINT(struct ide_unit_regs, pos, ATA_BUF),
    STATE_UINT(struct ide_unit_regs, block, ATA_BUF),
    STATE_UINT(struct ide_unit_regs, limit, 0xffff),
    STATE_UINT(struct ide_unit_regs, sense, 15),
    STATE_INT(struct ide_unit_regs, asc),
    STATE_INT(struct ide_unit_regs, ascq),
    STATE_INT(struct ide_unit_regs, attention),
    STATE_UINT(struct ide_unit_regs, tray_open, 1),
    STATE_UINT(struct ide_unit_regs, locked, 1),
    STATE_UINT(struct ide_unit_regs, event, 3),
    STATE_UINT(struct ide_unit_regs, cd_raw, 1),
    STATE_INT(struct ide_unit_regs, ncq_failed),
    STATE_INT(struct ide_unit_regs, ncq_error),
    STATE_PAD(struct ide_unit_regs, zero),
    STATE_BYTES(struct ide_unit_regs, buf),
};

/* ---- buses ---------------------------------------------------------------------------------
 */

void ide_bus_init(struct ide_bus *b, struct dev *host, const struct ide_bus_ops *ops,
                  const char *name, unsigned index, unsigned units)
{
    struct vm *vm = host->vm;

    b->name = g_strdup(name);
    b->host = host;
    b->ops = ops;
    b->index = index;
    b->units = units;
    if (!vm->ide_buses)
        vm->ide_buses = g_ptr_array_new();
    g_ptr_array_add(vm->ide_buses, b);
}

void ide_bus_fini(struct ide_bus *b)
{
    if (!b->name)
        return;
    g_ptr_array_remove(b->host->vm->ide_buses, b);
    for (unsigned i = 0; i < b->units; i++)
        if (b->unit[i])
            b->unit[i]->bus = NULL;
    g_clear_pointer(&b->name, g_free);
}

void ide_bus_drain(struct ide_bus *b)
{
    for (unsigned i = 0; i < b->units; i++)
        if (b->unit[i] && b->unit[i]->drive->image)
            image_quiesce(b->unit[i]->drive->image);
}

static struct ide_bus *bus_find(const struct vm *vm, const char *name)
{
    for (u32 i = 0; vm->ide_buses && i < vm->ide_buses->len; i++) {
        struct ide_bus *b = vm->ide_buses->pdata[i];
        bool room = false;

        for (unsigned k = 0; k < b->units; k++)
            room |= !b->unit[k];
        if (name ? strcmp(b->name, name) == 0 : room)
            return b;
    }
    return NULL;
}

struct ide_unit *ide_unit_of(struct dev *d)
{
    return d->type->kind == DEV_IDE ? container_of(d, struct ide_unit, dev) : NULL;
}

bool ide_place(struct dev *d, const char *bus, GError **error)
{
    struct ide_unit *u = ide_unit_of(d);

    u->bus = bus_find(d->vm, bus);
    if (u->bus)
        return true;
    if (bus)
        return fail(error, ERR_NOT_FOUND, "%s: there is no IDE bus '%s'", d->type->name, bus);
    return fail(error, ERR_NOT_FOUND, "%s: there is no IDE bus with room for it",
                d->type->name);
}

/* ---- life ----------------------------------------------------------------------------------
 */

static bool sit_down(struct ide_unit *u, GError **error)
{
    struct ide_bus *b = u->bus;

    if (u->unit == UINT32_MAX)
        for (u->unit = 0; u->unit < b->units && b->unit[u->unit];)
            u->unit++;
    if (u->unit >= b->units)
        return fail(error, ERR_LIMIT, "bus %s has room for %u, there is no unit %u", b->name,
                    b->units, u->unit);
    if (b->unit[u->unit])
        return fail(error, ERR_BUSY, "unit %u of bus %s is taken by %s", u->unit, b->name,
                    b->unit[u->unit]->dev.id);
    u->nr = u->unit;
    return true;
}

static bool block_size_ok(u32 n)
{
    return n >= ATA_SECTOR && n <= 32768 && !(n & (n - 1));
}

static bool disk_init(struct ide_unit *u, GError **error)
{
    if (!u->drive || !u->drive->image)
        return fail(error, ERR_ARGUMENT, "it needs a drive with a disk: drive=ID");
    if (!block_size_ok(u->logical_block) || !block_size_ok(u->physical_block) ||
        u->physical_block < u->logical_block)
        return fail(error, ERR_ARGUMENT,
                    "block sizes are powers of two from 512 to 32768, the physical one not "
                    "smaller than the logical one");
    u->sectors = image_size(u->drive->image) / u->logical_block * (u->logical_block / 512);
    if (!u->sectors)
        return fail(error, ERR_ARGUMENT, "the disk is smaller than one sector");
    if (u->sectors / (u->logical_block / 512) > BIT(48) - 1)
        return fail(error, ERR_LIMIT, "the disk has more than 2^48 sectors");
    u->default_heads = 16;
    u->default_sectors = 63;
    u64 cylinders = u->sectors / (u->logical_block / 512) / (16 * 63);
    u->cylinders = (u32)CLAMP(cylinders, 1, 16383);
    return true;
}

static void default_text(char **at, const char *fmt, unsigned n)
{
    if (!*at) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        *at = g_strdup_printf(fmt, n);
#pragma GCC diagnostic pop
    }
}

static bool unit_init(struct dev *d, GError **error)
{
    struct ide_unit *u = ide_unit_of(d);

    u->cd = d->type == &ide_cd_type;
    u->io = (struct bounce){ .came = ata_io_came, .idle = ata_io_idle, .opaque = u };
    if (!u->bus)
        return fail(error, ERR_ARGUMENT, "there is no IDE bus to put it on");
    u->io.dev = u->bus->host;
    if (!sit_down(u, error) || (!u->cd && !disk_init(u, error)))
        return false;
    if (u->drive && u->drive->dev)
        return fail(error, ERR_BUSY, "drive=%s has a device already", u->drive->id);
    if (u->cd) {
        if (!u->drive)
            u->drive = drive_new(d->vm, d->id, NULL, true);
        u->default_heads = u->default_sectors = 1;
    }
    if (!drive_error_props(u->drive, u->rerror, u->werror, error))
        return false;
    default_text(&u->serial, "PS%05u", u->bus->index * 2 + u->nr + 1);
    default_text(&u->model, u->cd ? "POSADA DVD-ROM" : "POSADA HARDDISK", 0);
    default_text(&u->version, "1.0", 0);
    drive_attach(u->drive, d, u->bus->host, u->cd ? &atapi_drive_ops : NULL, u);
    dev_lock(u->bus->host);
    u->bus->unit[u->nr] = u;
    ata_reset(u, false);
    dev_unlock(u->bus->host);
    return true;
}

/* What a reset does is done by the controller's, which has the right lock. */
static void unit_reset(struct dev *d UNUSED)
{
}

/* A command whose request was under way is not in a state: drives stand still when saved. */
static void unit_loaded(struct dev *d)
{
    struct ide_unit *u = ide_unit_of(d);
    struct ide_unit_regs *r = &u->r;
    bool bad = r->pos > r->block || r->block > r->len || (r->flow != FLOW_NONE && !r->waits) ||
               (r->flow == FLOW_NONE && r->waits) || !r->heads || !r->sectors;

    if (r->flow == FLOW_DISK_IN || r->flow == FLOW_DISK_OUT)
        bad |= u->cd || !r->piece || !r->left || r->piece * u->logical_block > ATA_BUF ||
               r->len != MIN(r->left, r->piece) * u->logical_block;
    if (r->flow == FLOW_PACKET || r->flow == FLOW_CD_IN)
        bad |= !u->cd;
    if (r->flow == FLOW_PACKET)
        bad |= r->len != 12;
    if (r->flow == FLOW_RANGES)
        bad |= u->cd || r->len != ATA_SECTOR;
    bad |= r->flow == FLOW_WAIT || (r->flow == FLOW_NONE && r->status & (ATA_BSY | ATA_DRQ));
    if (bad)
        ata_reset(u, false);
    u->bus->ops->loaded(u);
}

static void unit_fini(struct dev *d)
{
    struct ide_unit *u = ide_unit_of(d);

    if (u->bus) {
        dev_lock(u->bus->host);
        ata_reset(u, false);
        dev_unlock(u->bus->host);
        if (u->drive->image)
            image_drain(u->drive->image);
        dev_lock(u->bus->host);
        u->bus->unit[u->nr] = NULL;
        dev_unlock(u->bus->host);
    }
    drive_detach(u->drive);
}

#define UNIT_PROPS                                                                             \
    PROP(struct ide_unit, drive, PROP_PTR, .name = "drive", .link = "medium",                  \
         .help = "what is in it"),                                                             \
        PROP(struct ide_unit, unit, PROP_U32, .name = "unit", .def = "4294967295",             \
             .help = "0: master, 1: slave"),                                                   \
        PROP(struct ide_unit, serial, PROP_STR, .name = "serial",                              \
             .help = "serial number, 20 characters"),                                          \
        PROP(struct ide_unit, rerror, PROP_STR, .name = "rerror",                              \
             .help = "reads that fail: report, ignore, stop, auto (as the drive has it)"),     \
        PROP(struct ide_unit, werror, PROP_STR, .name = "werror",                              \
             .help = "writes that fail: the same, or enospc"),                                 \
        PROP(struct ide_unit, model, PROP_STR, .name = "model", .help = "40 characters"),      \
        PROP(struct ide_unit, version, PROP_STR, .name = "ver",                                \
             .help = "firmware revision, 8 characters"),                                       \
        PROP(struct ide_unit, bootindex, PROP_U32, .name = "bootindex", .def = "4294967295",   \
             .help = "place in the boot order, lowest first"),                                 \
        PROP(struct ide_unit, write_cache_prop, PROP_BOOL, .name = "write-cache", .def = "on", \
             .help = "writes are durable after a flush only"),                                 \
        PROP(struct ide_unit, logical_block, PROP_U32, .name = "logical_block_size",           \
             .def = "512", .help = "bytes"),                                                   \
        PROP(struct ide_unit, physical_block, PROP_U32, .name = "physical_block_size",         \
             .def = "512", .help = "bytes")

static const struct prop hd_props[] = {
    UNIT_PROPS,
    PROP(struct ide_unit, wwn, PROP_U64, .name = "wwn", .help = "world wide name"),
    PROP(struct ide_unit, rotation, PROP_U32, .name = "rotation_rate", .max = 0xffff,
         .help = "1: solid state, else per minute"),
    { 0 },
};
static const struct prop cd_props[] = {
    UNIT_PROPS,
    { 0 },
};

#define UNIT_TYPE                                                                              \
    .kind = DEV_IDE, .size = sizeof(struct ide_unit),                                          \
    .state = STATE_TABLE(struct ide_unit, r, unit_fields), .init = unit_init,                  \
    .reset = unit_reset, .loaded = unit_loaded, .fini = unit_fini

const struct dev_type ide_hd_type = {
    .name = "ide-hd",
    .desc = "ATA disk",
    .props = hd_props,
    UNIT_TYPE,
};
const struct dev_type ide_cd_type = {
    .name = "ide-cd",
    .desc = "ATAPI CD-ROM",
    .props = cd_props,
    UNIT_TYPE,
};
