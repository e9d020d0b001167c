// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi.h - SCSI disks and CD-ROMs (scsi-hd, scsi-cd), and what the host adapters over them
 * share. SAM-5 (tasks, statuses), SPC-4 (commands of all), SBC-3 (disks), MMC-5 (CD-ROMs).
 *
 *      bus.c   buses, requests, moving data, what a target says of units it has not
 *      unit.c  scsi-hd and scsi-cd as devices
 *      spc.c   commands of both kinds: INQUIRY, MODE SENSE, REQUEST SENSE ...
 *      sbc.c   commands of disks
 *      cd.c    commands of CD-ROMs, over mmc.c
 *
 * A host adapter fills in a struct scsi_req and gives it to scsi_submit(); it gets it back by
 * ops->done().  Data travel in one of two ways:
 *
 *      sg set    all at once, straight between the image and these pieces of guest RAM
 *      sg NULL   in pieces through q->buf: ops->data(q) says that buf[0..n) is there for the
 * host (SCSI_IN) or has to be filled by it (SCSI_OUT); scsi_go_on(q) when that is done
 *
 * Both callbacks may come from inside scsi_submit() and scsi_go_on().
 *
 * Everything of a unit is guarded by its adapter's lock (bus->host), also what lies in its own
 * struct dev; its own lock is taken by nobody but save and load, when the guest stands.
 * Completions come on the image's threads: they take the adapter's lock if it is free, else
 * they leave the request on a list for the adapter's I/O thread.  So whoever has the lock can
 * wait for requests.
 */
#pragma once

#include "vmm/dev/drive.h"

struct iothread;
struct scsi_bus;
struct scsi_unit;

enum {
    SCSI_CDB_MAX = 16,
    SCSI_SENSE_LEN = 18,
    SCSI_PIECE = 128 * 1024, /* of a transfer through buf */
    SCSI_LUN_MAX = 16383,
};
enum {
    SCSI_GOOD = 0x00,
    SCSI_CHECK_CONDITION = 0x02,
    SCSI_TASK_ABORTED = 0x40,
};
enum scsi_dir { SCSI_NONE, SCSI_IN, SCSI_OUT };

struct scsi_range {
    u64 at, len; /* bytes */
};

struct scsi_req {
    /* set by the adapter */
    u8 cdb[SCSI_CDB_MAX];
    u8 target;
    u16 lun;
    struct iovs *sg;
    /* for the adapter */
    u8 status;
    u8 sense_len; /* 0: none */
    u8 sense[SCSI_SENSE_LEN];
    bool overrun; /* sg is shorter than what the command transfers: nothing was done */
    bool aborted; /* by scsi_abort() */
    enum scsi_dir dir;
    u64 moved; /* bytes that have been transferred */
    u8 *buf;
    u32 n;
    /* the core's own */
    struct scsi_bus *bus;
    struct scsi_unit *unit;          /* NULL: the target answers for a unit that is not there */
    void (*then)(struct scsi_req *); /* when the image, or the host, is done */
    bool io;                         /* the image has it */
    bool fua;
    int ret;
    u32 cap;
    u64 at, left; /* on the medium, bytes */
    struct scsi_range *ranges;
    u32 n_ranges, range;
    struct scsi_req *next_done, *prev, *next; /* bus->done; bus->reqs */
};

struct scsi_bus_ops {
    void (*data)(struct scsi_req *); /* NULL: all requests have an sg */
    void (*done)(struct scsi_req *);
    /* Optional. A unit came (while the machine exists) or goes. */
    void (*plugged)(struct scsi_bus *, const struct scsi_unit *, bool there);
    /* Optional. It has a unit attention to report. */
    void (*attention)(struct scsi_bus *, const struct scsi_unit *, u8 asc, u8 ascq);
};
/* In the adapter, which enters it by scsi_bus_init(). */
struct scsi_bus {
    char *name; /* "scsi.0" */
    struct dev *host;
    const struct scsi_bus_ops *ops;
    u8 targets;     /* highest number of one */
    u8 own_target;  /* the adapter's own number; 0xff: it has none */
    u16 luns;       /* highest number of one */
    bool autosense; /* the adapter delivers sense data with the status */
    /* the core's own */
    GPtrArray *units;
    struct scsi_req *reqs; /* under way */
    struct scsi_req *_Atomic done;
    int done_fd;
};

struct scsi_unit_regs {
    u8 key, asc, ascq;                /* sense data that wait for REQUEST SENSE */
    u8 attention_asc, attention_ascq; /* pending unit attention; asc 0: none */
    u8 write_cache;
    u8 tray_open, locked, event; /* of a CD-ROM */
    u8 zero[7];
};

struct scsi_unit {
    struct dev dev;
    struct scsi_unit_regs r;
    struct scsi_bus *bus;
    bool cd;
    /* properties */
    struct drive *drive;
    char *serial, *vendor, *product, *version, *device_id, *rerror, *werror;
    u64 wwn;
    u32 channel, target, lun, bootindex;
    u32 logical_block, physical_block, rotation, discard_granularity;
    bool write_cache_prop;
};

/* ---- for adapters' init and fini ---- */

/* The fields above "the core's own" but name and host have been set. */
bool scsi_bus_init(struct scsi_bus *, struct dev *host, const char *name, struct iothread *,
                   GError **error);
void scsi_bus_fini(struct scsi_bus *); /* without the lock; nothing may be under way */
void scsi_req_free(struct scsi_req *); /* what it holds */

/* Finds the bus for a device of kind DEV_SCSI before it is realized: by name, or (NULL) the
 * first one. */
bool scsi_place(struct dev *, const char *bus, GError **error);
struct scsi_unit *scsi_unit_of(struct dev *); /* NULL: it is none */

/* ---- for adapters; REQUIRES(bus->host->lock) ---- */

struct scsi_unit *scsi_unit_at(const struct scsi_bus *, u8 target, u16 lun); /* NULL: none */
bool scsi_target_there(const struct scsi_bus *, u8 target);
/* Clears all but what the adapter has set, buf and cap. */
void scsi_submit(struct scsi_bus *, struct scsi_req *);
void scsi_go_on(struct scsi_req *);
/* ops->done() will come, or has come from inside this call, with `aborted` set. */
void scsi_abort(struct scsi_req *);
/* Waits until the image has none of the bus's requests. */
void scsi_bus_drain(struct scsi_bus *);
/* The same without the lock held, but for those that are held after an error: for a guest that
 * has stopped. Main thread. */
void scsi_bus_rest(struct scsi_bus *);
/* A reset of a unit, or (NULL) of all: its attention is pending. Nothing may be under way. */
void scsi_reset(struct scsi_bus *, struct scsi_unit *);

/* ---- between the files of this folder ---- */

enum {
    KEY_NONE = 0x0,
    KEY_NOT_READY = 0x2,
    KEY_MEDIUM_ERROR = 0x3,
    KEY_ILLEGAL_REQUEST = 0x5,
    KEY_UNIT_ATTENTION = 0x6,
    KEY_DATA_PROTECT = 0x7,
};
/* Additional sense codes: code << 8 | qualifier. */
enum {
    ASC_WRITE_ERROR = 0x0c00,
    ASC_READ_ERROR = 0x1100,
    ASC_LIST_LENGTH = 0x1a00,
    ASC_OPCODE = 0x2000,
    ASC_RANGE = 0x2100,
    ASC_CDB_FIELD = 0x2400,
    ASC_LUN = 0x2500,
    ASC_LIST_FIELD = 0x2600,
    ASC_PROTECTED = 0x2700,
    ASC_NO_SPACE = 0x2707,
    ASC_MEDIUM_CHANGED = 0x2800,
    ASC_POWER_ON = 0x2900,
    ASC_BUS_RESET = 0x2902,
    ASC_CAPACITY_CHANGED = 0x2a09,
    ASC_SAVING = 0x3900,
    ASC_NO_MEDIUM = 0x3a00,
    ASC_REMOVAL_PREVENTED = 0x5302,
    ASC_TRACK_MODE = 0x6400,
};

void scsi_ok(struct scsi_req *);
void scsi_fail(struct scsi_req *, u8 key, u16 asc);
/* Room for n bytes at q->buf. */
u8 *scsi_buf(struct scsi_req *, u32 n);
/* n bytes of buf, no more than the host has room for, and the command is done. */
void scsi_reply(struct scsi_req *, u32 n, u32 room);
/* n bytes from the host into buf (at most SCSI_PIECE), then `then`; n 0: it is called at once.
 */
void scsi_take(struct scsi_req *, u32 n, void (*then)(struct scsi_req *));
/* The command is n bytes of the medium at `at`. */
void scsi_read(struct scsi_req *, u64 at, u64 n);
void scsi_write(struct scsi_req *, u64 at, u64 n, bool fua);
void scsi_flush(struct scsi_req *);
/* Discards or zeroes the ranges, which it takes. */
void scsi_discard(struct scsi_req *, struct scsi_range *, u32 n);
void scsi_zero(struct scsi_req *, u64 at, u64 n, bool may_unmap);
/* Writes buf[0..n), again and again, to `left` bytes at q->at. */
void scsi_fill(struct scsi_req *, u64 at, u64 left, u32 n);
void scsi_attention(struct scsi_unit *, u16 asc);
void scsi_put_sense(u8 *to, u8 key, u8 asc, u8 ascq, bool descriptors, u8 *ret_len);

u64 scsi_blocks(const struct scsi_unit *); /* of the medium; 0: none */
u32 scsi_block_size(const struct scsi_unit *);
bool scsi_read_only(const struct scsi_unit *);
bool scsi_medium_there(const struct scsi_unit *);

/* false: the command is not one of those. */
bool spc_command(struct scsi_req *);
bool sbc_command(struct scsi_req *);
bool cd_command(struct scsi_req *);
u32 sbc_mode_page(const struct scsi_unit *, u8 page, u8 control, u8 *to);
void sbc_mode_select(struct scsi_req *, bool write_cache);
u32 cd_mode_page(const struct scsi_unit *, u8 page, u8 control, u8 *to);
u8 cd_medium_type(const struct scsi_unit *);
bool cd_wants_medium(u8 opcode);
extern const struct drive_ops cd_drive_ops;

extern const struct dev_type scsi_hd_type, scsi_cd_type, lsi53c895a_type;
