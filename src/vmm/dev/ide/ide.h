// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ide.h - ATA and ATAPI drives (ide-hd, ide-cd), and what the controllers over them share.
 *
 *      ata.c      task file, commands of a disk, requests to the image
 *      atapi.c    packet commands of a CD-ROM
 *      piix_ide.c two channels of two drives behind ports, bus-master DMA by PRD tables
 *      ahci.c     ports of one drive each behind memory, command lists
 *
 * A drive knows commands and data; how data travel (ports, PRD tables, AHCI's tables) is its
 * controller's.  The core calls
 *
 *      send(u)     r.buf[pos..block) is for the host: take it, then call ata_sent()
 *      receive(u)  r.buf[pos..block) has to come from the host: fill it, then call
 *                  ata_received()
 *      end(u)      the command is done: status and error stand, an interrupt is due
 *
 * and a controller calls ata_command() when the command register was written.
 *
 * Everything of a drive is guarded by its controller's lock (u->bus->host), also what lies in
 * its own struct dev; its own lock is taken by nobody but save and load, when the guest stands.
 *
 * Requests to the image go through bounce.h: a reset in the middle does not wait for them.
 */
#pragma once

#include "vmm/dev/bounce.h"
#include "vmm/dev/drive.h"

struct pci_dev;
struct ide_bus;
struct ide_unit;

enum {
    ATA_SECTOR = 512,
    ATA_CD_SECTOR = 2048,
    ATA_BUF = 128 * 1024, /* a piece of a transfer */
    ATA_MULTIPLE_MAX = 16,
};
enum {
    ATA_ERR = 0x01,
    ATA_DRQ = 0x08,
    ATA_SRV = 0x10, /* and DSC: seek complete */
    ATA_DF = 0x20,
    ATA_DRDY = 0x40,
    ATA_BSY = 0x80,

    ATA_ABRT = 0x04,
    ATA_IDNF = 0x10,
    ATA_UNC = 0x40,

    ATA_DEV_LBA = 0x40,
    ATA_DEV_1 = 0x10,

    /* interrupt reason of packet commands, in the count register */
    ATAPI_COD = 1,
    ATAPI_IO = 2,
};

/* Where the data of the command under way come from or go to. */
enum ata_flow {
    FLOW_NONE,
    FLOW_BUF_IN,  /* buf was filled in by the command */
    FLOW_DISK_IN, /* sectors from r.lba on */
    FLOW_DISK_OUT,
    FLOW_PACKET, /* the 12 bytes of a packet command */
    FLOW_RANGES, /* data set management: ranges to be discarded */
    FLOW_WAIT,   /* no data: flush, verify */
    FLOW_CD_IN,  /* CD sectors from r.lba on */
};

struct ide_unit_regs {
    /* the task file; prev: what was written before (LBA48) */
    u8 feature, count, lbal, lbam, lbah, device;
    u8 prev_feature, prev_count, prev_lbal, prev_lbam, prev_lbah;
    u8 status, error, command;
    u8 irq; /* INTRQ */
    /* settings */
    u8 multiple, write_cache, smart, transfer_mode;
    u8 heads, sectors; /* of the geometry that the host has set */
    /* the command under way */
    u8 flow, dma, fua, waits; /* waits: the controller has buf and is not done with it */
    u8 first;                 /* no piece of this command has moved yet */
    u16 piece;                /* sectors at most in one piece */
    u8 zero4[4];
    u64 lba;
    u32 left; /* sectors that have not been moved */
    /* of buf: valid bytes; how far a PIO transfer has come, and up to where it goes now */
    u32 len, pos, block;
    /* CD-ROM */
    u32 limit;            /* bytes in one DRQ block */
    u8 sense, asc, ascq;  /* for REQUEST SENSE */
    u8 attention;         /* pending unit attention: its ASC, 0: none */
    u8 tray_open, locked; /* locked by the guest */
    u8 event;             /* of GET EVENT STATUS NOTIFICATION */
    u8 cd_raw;            /* whole sectors of 2352 bytes are wanted */
    u8 ncq_failed;        /* what log 10h says: 0x80 with the tag that failed; 0: none */
    u8 ncq_error, zero[2];
    u8 buf[ATA_BUF];
};

struct ide_unit {
    struct dev dev;
    struct ide_unit_regs r;
    struct ide_bus *bus;
    unsigned nr; /* on its bus */
    bool cd;
    u64 sectors; /* of 512 bytes */
    u32 cylinders, default_heads, default_sectors;
    struct bounce io;
    /* properties */
    struct drive *drive;
    char *bus_name, *serial, *model, *version, *rerror, *werror;
    u64 wwn;
    u32 unit, bootindex, logical_block, physical_block, rotation;
    bool write_cache_prop;
};

struct ide_bus_ops {
    void (*send)(struct ide_unit *);
    void (*receive)(struct ide_unit *);
    void (*end)(struct ide_unit *);
    void (*idle)(struct ide_unit *);   /* requests cut loose are all back; may be NULL */
    void (*loaded)(struct ide_unit *); /* the interrupt line may stand otherwise now */
};
/* One per channel or port; in the controller, which enters it by ide_bus_add(). */
struct ide_bus {
    char *name; /* "ide.0" */
    struct dev *host;
    const struct ide_bus_ops *ops;
    struct ide_unit *unit[2];
    unsigned units; /* how many it takes */
    unsigned index; /* channel or port */
    bool queues;    /* the controller knows native command queuing */
};

/* For controllers' init and fini. */
void ide_bus_init(struct ide_bus *, struct dev *host, const struct ide_bus_ops *,
                  const char *name, unsigned index, unsigned units);
void ide_bus_fini(struct ide_bus *);
/* Waits until no unit of it has a request under way, but for those that are held after an
 * error; without the lock. */
void ide_bus_drain(struct ide_bus *);

/* Finds the bus for a device of kind DEV_IDE before it is realized: by name, or (NULL) the
 * first with room. */
bool ide_place(struct dev *, const char *bus, GError **error);
struct ide_unit *ide_unit_of(struct dev *); /* NULL: it is none */

/* ---- for controllers; REQUIRES(bus->host->lock) ---- */

void ata_command(struct ide_unit *, u8 command);
void ata_sent(struct ide_unit *);
void ata_received(struct ide_unit *);
/* Power-on, or (soft) SRST, COMRESET and the like; leaves the signature in the registers. */
void ata_reset(struct ide_unit *, bool soft);
/* What a transfer by DMA could not move: the command ends with an error. */
void ata_dma_failed(struct ide_unit *);
bool ata_busy(const struct ide_unit *); /* has requests to the image under way */

/* ---- between ata.c and atapi.c ---- */

void ata_io(struct ide_unit *, enum bounce_op, u64 at, u32 len);
void ata_io_idle(void *opaque);
void ata_io_came(void *opaque, enum bounce_op, int ret, const u8 *bytes, u32 len);
void ata_end(struct ide_unit *, u8 error);
void ata_identify_strings(struct ide_unit *, u16 *words);
void ata_put_string(u8 *to, const char *text, size_t n); /* padded with spaces, not swapped */

void atapi_identify(struct ide_unit *);
void atapi_packet(struct ide_unit *);
void atapi_read_done(struct ide_unit *, int ret); /* a piece of sectors is in buf */
void atapi_next(struct ide_unit *);               /* the host has taken it */
void atapi_reset(struct ide_unit *, bool soft);
extern const struct drive_ops atapi_drive_ops;

extern const struct dev_type ide_hd_type, ide_cd_type, piix3_ide_type, ahci_type;

struct pci_bus;
/* At 0:1.1, its interrupts on these lines. */
bool piix3_ide_new(struct pci_bus *, struct irq *irq14, struct irq *irq15, GError **error);
