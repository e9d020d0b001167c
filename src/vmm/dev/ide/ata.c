// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ata.c - an ATA drive: task file, commands of a disk, requests to its image.
 * ATA/ATAPI-7 volume 1 (T13/1532D): chapter 6 (commands), annex on geometry; ACS-3 for DATA SET
 * MANAGEMENT, write FUA.
 *
 * A command with data goes in pieces: of one DRQ block for PIO, of up to ATA_BUF bytes for DMA.
 * A piece for the host is read from the image and then given to the controller; one from the
 * host is given by the controller and then written.
 *
 * Not modelled: HPA and security (not announced), power states (all are answered, none makes a
 * difference), queued commands of parallel ATA, CFA.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/dev/ide/ide.h"

enum {
    NOP = 0x00,
    DATA_SET_MANAGEMENT = 0x06,
    DEVICE_RESET = 0x08,
    RECALIBRATE = 0x10, /* to 0x1f */
    READ_SECTORS = 0x20,
    READ_SECTORS_ONCE = 0x21,
    READ_SECTORS_EXT = 0x24,
    READ_DMA_EXT = 0x25,
    READ_NATIVE_MAX_EXT = 0x27,
    READ_MULTIPLE_EXT = 0x29,
    READ_LOG_EXT = 0x2f,
    WRITE_SECTORS = 0x30,
    WRITE_SECTORS_ONCE = 0x31,
    WRITE_SECTORS_EXT = 0x34,
    WRITE_DMA_EXT = 0x35,
    WRITE_MULTIPLE_EXT = 0x39,
    WRITE_VERIFY = 0x3c,
    WRITE_DMA_FUA_EXT = 0x3d,
    VERIFY = 0x40,
    VERIFY_ONCE = 0x41,
    VERIFY_EXT = 0x42,
    SEEK = 0x70, /* to 0x7f */
    EXECUTE_DIAGNOSTIC = 0x90,
    INITIALIZE_PARAMETERS = 0x91,
    STANDBY_NOW_OLD = 0x94,
    IDLE_NOW_OLD,
    STANDBY_OLD,
    IDLE_OLD,
    CHECK_POWER_OLD,
    SLEEP_OLD,
    PACKET = 0xa0,
    IDENTIFY_PACKET = 0xa1,
    SMART = 0xb0,
    READ_MULTIPLE = 0xc4,
    WRITE_MULTIPLE = 0xc5,
    SET_MULTIPLE = 0xc6,
    READ_DMA = 0xc8,
    READ_DMA_ONCE = 0xc9,
    WRITE_DMA = 0xca,
    WRITE_DMA_ONCE = 0xcb,
    WRITE_MULTIPLE_FUA_EXT = 0xce,
    STANDBY_NOW = 0xe0,
    IDLE_NOW = 0xe1,
    STANDBY = 0xe2,
    IDLE = 0xe3,
    CHECK_POWER = 0xe5,
    SLEEP = 0xe6,
    FLUSH_CACHE = 0xe7,
    FLUSH_CACHE_EXT = 0xea,
    IDENTIFY = 0xec,
    SET_FEATURES = 0xef,
    READ_NATIVE_MAX = 0xf8,
};
enum { LBA28_MAX = 0x0fffffff, RANGE_BLOCKS_MAX = 8, IDENTIFY_WORDS = 256 };
enum { TRIM = 1, SMART_LBAM = 0x4f, SMART_LBAH = 0xc2 };

/* ---- requests to the image -----------------------------------------------------------------
 */

void ata_io(struct ide_unit *u, enum bounce_op op, u64 at, u32 len)
{
    u->r.status = (u->r.status & ~ATA_DRQ) | ATA_BSY;
    bounce_start(&u->io, u->drive->image, op, at, len, u->r.buf, u->r.fua || !u->r.write_cache);
}

bool ata_busy(const struct ide_unit *u)
{
    return bounce_busy(&u->io);
}

/* ---- the end of a command ------------------------------------------------------------------
 */

void ata_end(struct ide_unit *u, u8 error)
{
    struct ide_unit_regs *r = &u->r;

    r->error = error;
    r->status = ATA_DRDY | ATA_SRV | (error ? ATA_ERR : 0);
    r->flow = FLOW_NONE;
    r->waits = r->dma = r->fua = false;
    r->len = r->pos = r->block = r->left = 0;
    u->bus->ops->end(u);
}

/* ---- addresses -----------------------------------------------------------------------------
 */

static bool is_ext(u8 command)
{
    switch (command) {
    case READ_SECTORS_EXT:
    case READ_DMA_EXT:
    case READ_MULTIPLE_EXT:
    case WRITE_SECTORS_EXT:
    case WRITE_DMA_EXT:
    case WRITE_MULTIPLE_EXT:
    case WRITE_DMA_FUA_EXT:
    case WRITE_MULTIPLE_FUA_EXT:
    case VERIFY_EXT:
        return true;
    }
    return false;
}

/* In units of the logical block; false: such a CHS address does not exist. */
static bool address_get(const struct ide_unit_regs *r, bool ext, u64 *ret)
{
    if (ext) {
        *ret = r->lbal | (u64)r->lbam << 8 | (u64)r->lbah << 16 | (u64)r->prev_lbal << 24 |
               (u64)r->prev_lbam << 32 | (u64)r->prev_lbah << 40;
        return true;
    }
    if (r->device & ATA_DEV_LBA) {
        *ret = r->lbal | (u64)r->lbam << 8 | (u64)r->lbah << 16 | (u64)(r->device & 15) << 24;
        return true;
    }
    u32 cylinder = r->lbam | r->lbah << 8, head = r->device & 15u;

    if (!r->lbal || r->lbal > r->sectors || head >= r->heads)
        return false;
    *ret = ((u64)cylinder * r->heads + head) * r->sectors + r->lbal - 1;
    return true;
}

/* Where an error was, or a command has come to. */
static void address_put(struct ide_unit *u, u64 lba)
{
    struct ide_unit_regs *r = &u->r;

    if (is_ext(r->command)) {
        r->prev_lbal = (u8)(lba >> 24);
        r->prev_lbam = (u8)(lba >> 32);
        r->prev_lbah = (u8)(lba >> 40);
    } else if (!(r->device & ATA_DEV_LBA)) {
        u32 per = (u32)r->heads * r->sectors;
        u64 cylinder = lba / per;

        r->lbam = (u8)cylinder;
        r->lbah = (u8)(cylinder >> 8);
        r->device = (r->device & 0xf0) | (u8)(lba % per / r->sectors);
        r->lbal = (u8)(lba % r->sectors + 1);
        return;
    } else {
        r->device = (r->device & 0xf0) | (lba >> 24 & 15);
    }
    r->lbal = (u8)lba;
    r->lbam = (u8)(lba >> 8);
    r->lbah = (u8)(lba >> 16);
}

static u64 blocks(const struct ide_unit *u)
{
    return u->sectors / (u->logical_block / ATA_SECTOR);
}

/* ---- data ----------------------------------------------------------------------------------
 */

static u32 piece_blocks(const struct ide_unit *u)
{
    return MIN(u->r.left, u->r.piece);
}

static void piece_begin(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    r->len = r->block = piece_blocks(u) * u->logical_block;
    r->pos = 0;
    if (r->flow == FLOW_DISK_IN) {
        ata_io(u, BOUNCE_READ, r->lba * u->logical_block, r->len);
        return;
    }
    r->waits = true;
    u->bus->ops->receive(u);
}

static void piece_moved(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;
    u32 n = piece_blocks(u);

    r->lba += n;
    r->left -= n;
    r->first = false;
    if (r->left) {
        piece_begin(u);
        return;
    }
    address_put(u, r->lba - 1);
    r->count = r->prev_count = 0;
    ata_end(u, 0);
}

static void disk_error(struct ide_unit *u, int ret)
{
    address_put(u, u->r.lba);
    log_guest("%s: I/O error at block %llu: %s", u->dev.id, (unsigned long long)u->r.lba,
              strerror(-ret));
    ata_end(u, u->r.flow == FLOW_DISK_IN || u->r.flow == FLOW_WAIT ? ATA_UNC | ATA_ABRT
                                                                   : ATA_ABRT);
}

/* Discards the next range of the list; the list's end ends the command. */
static void ranges_next(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    for (; r->pos + 8 <= r->len; r->pos += 8) {
        le64 entry;

        memcpy(&entry, r->buf + r->pos, sizeof entry);
        u64 v = le64_get(entry), lba = v & (BIT(48) - 1);
        u32 n = (u32)(v >> 48);

        if (!n)
            continue;
        if (n > blocks(u) || lba > blocks(u) - n) {
            ata_end(u, ATA_IDNF | ATA_ABRT);
            return;
        }
        r->pos += 8;
        ata_io(u, BOUNCE_DISCARD, lba * u->logical_block, n * u->logical_block);
        return;
    }
    if (r->left <= 1) {
        ata_end(u, 0);
        return;
    }
    r->left--;
    r->len = r->block = ATA_SECTOR;
    r->pos = 0;
    r->waits = true;
    u->bus->ops->receive(u);
}

void ata_io_idle(void *opaque)
{
    struct ide_unit *u = opaque;

    if (u->bus->ops->idle)
        u->bus->ops->idle(u);
}

void ata_io_came(void *opaque, enum bounce_op op, int ret, const u8 *bytes, u32 len)
{
    struct ide_unit *u = opaque;
    struct ide_unit_regs *r = &u->r;

    r->status &= ~ATA_BSY;
    if (op == BOUNCE_READ && !ret)
        memcpy(r->buf, bytes, len);
    if (r->flow == FLOW_CD_IN) {
        atapi_read_done(u, ret);
        return;
    }
    if (op == BOUNCE_DISCARD) {
        ranges_next(u); /* that a host cannot discard is no error */
        return;
    }
    if (ret) {
        disk_error(u, ret);
        return;
    }
    switch (r->flow) {
    case FLOW_DISK_IN:
        r->waits = true;
        u->bus->ops->send(u);
        break;
    case FLOW_DISK_OUT:
        piece_moved(u);
        break;
    default:
        ata_end(u, 0);
    }
}

void ata_sent(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    if (!r->waits)
        return;
    r->waits = false;
    r->status &= ~ATA_DRQ;
    if (r->flow == FLOW_DISK_IN)
        piece_moved(u);
    else if (u->cd && r->command == PACKET)
        atapi_next(u);
    else
        ata_end(u, 0);
}

void ata_received(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    if (!r->waits)
        return;
    r->waits = false;
    r->status &= ~ATA_DRQ;
    r->pos = 0;
    switch (r->flow) {
    case FLOW_DISK_OUT:
        ata_io(u, BOUNCE_WRITE, r->lba * u->logical_block, r->len);
        break;
    case FLOW_PACKET:
        atapi_packet(u);
        break;
    case FLOW_RANGES:
        r->first = false;
        ranges_next(u);
        break;
    default:
        ata_end(u, ATA_ABRT);
    }
}

void ata_dma_failed(struct ide_unit *u)
{
    ata_end(u, ATA_ABRT);
}

/* ---- commands of a disk --------------------------------------------------------------------
 */

enum way { WAY_PIO, WAY_MULTIPLE, WAY_DMA };

static void transfer(struct ide_unit *u, enum ata_flow flow, enum way way, bool fua)
{
    struct ide_unit_regs *r = &u->r;
    bool ext = is_ext(r->command);
    u64 at;
    u32 n = ext ? r->count | r->prev_count << 8 : r->count;

    if (!n)
        n = ext ? 65536 : 256;
    if (way == WAY_MULTIPLE && !r->multiple) {
        ata_end(u, ATA_ABRT);
        return;
    }
    if (!address_get(r, ext, &at) || n > blocks(u) || at > blocks(u) - n) {
        ata_end(u, ATA_IDNF);
        return;
    }
    if (flow == FLOW_DISK_OUT && image_read_only(u->drive->image)) {
        ata_end(u, ATA_ABRT);
        return;
    }
    r->lba = at;
    r->left = n;
    r->flow = flow;
    r->fua = fua;
    r->dma = way == WAY_DMA;
    r->first = true;
    r->piece = way == WAY_PIO ? 1 : way == WAY_MULTIPLE ? r->multiple : 256;
    if (r->piece * u->logical_block > ATA_BUF)
        r->piece = ATA_BUF / u->logical_block;
    r->status = ATA_DRDY | ATA_SRV | ATA_BSY;
    piece_begin(u);
}

static void wait_for(struct ide_unit *u, enum bounce_op op)
{
    u->r.flow = FLOW_WAIT;
    u->r.status = ATA_DRDY | ATA_SRV;
    ata_io(u, op, 0, 0);
}

static void send_buf(struct ide_unit *u, u32 len)
{
    struct ide_unit_regs *r = &u->r;

    r->flow = FLOW_BUF_IN;
    r->len = r->block = len;
    r->pos = 0;
    r->first = true;
    r->waits = true;
    r->status = ATA_DRDY | ATA_SRV;
    u->bus->ops->send(u);
}

void ata_put_string(u8 *to, const char *text, size_t n)
{
    size_t have = text ? strnlen(text, n) : 0;

    memset(to, ' ', n);
    if (have)
        memcpy(to, text, have);
}

/* Strings have the first character in the high byte of a word. */
static void words_string(u16 *w, const char *text, u32 words)
{
    u8 bytes[64];

    ata_put_string(bytes, text, words * 2);
    for (u32 i = 0; i < words; i++)
        w[i] = (u16)(bytes[2 * i] << 8 | bytes[2 * i + 1]);
}

void ata_identify_strings(struct ide_unit *u, u16 *w)
{
    words_string(w + 10, u->serial, 10);
    words_string(w + 23, u->version, 4);
    words_string(w + 27, u->model, 20);
}

static void words_put(struct ide_unit *u, u16 *w)
{
    u8 sum = 0;

    for (u32 i = 0; i < IDENTIFY_WORDS; i++) {
        u->r.buf[2 * i] = (u8)w[i];
        u->r.buf[2 * i + 1] = (u8)(w[i] >> 8);
    }
    u->r.buf[510] = 0xa5;
    for (u32 i = 0; i < 511; i++)
        sum += u->r.buf[i];
    u->r.buf[511] = (u8)-sum;
}

/* Which of the modes in word 62, 63, 88 is set. */
static u16 mode_word(const struct ide_unit *u, u8 kind, u16 supported)
{
    u8 m = u->r.transfer_mode;

    return supported | ((m & 0xf8) == kind ? 1 << (8 + (m & 7)) : 0);
}

static void identify(struct ide_unit *u)
{
    const struct ide_unit_regs *r = &u->r;
    u16 w[IDENTIFY_WORDS] = { 0 };
    u64 n = blocks(u);
    u32 spc = (u32)r->heads * r->sectors; /* a cylinder of the geometry now in force */
    u32 cylinders = (u32)MIN(n / spc, 65535u), chs = cylinders * spc;
    u8 exp = 0;

    while (u->logical_block << (exp + 1) <= u->physical_block)
        exp++;
    w[0] = 0x0040; /* fixed */
    w[1] = (u16)u->cylinders;
    w[3] = (u16)u->default_heads;
    w[6] = (u16)u->default_sectors;
    ata_identify_strings(u, w);
    w[47] = 0x8000 | ATA_MULTIPLE_MAX;
    w[49] = 0x0f00; /* IORDY, LBA, DMA */
    w[50] = 0x4000;
    w[51] = w[52] = 0x0200;
    w[53] = 7;
    w[54] = (u16)cylinders;
    w[55] = r->heads;
    w[56] = r->sectors;
    w[57] = (u16)chs;
    w[58] = (u16)(chs >> 16);
    w[59] = r->multiple ? 0x0100 | r->multiple : 0;
    u32 lba28 = (u32)MIN(n, (u64)LBA28_MAX);
    w[60] = (u16)lba28;
    w[61] = (u16)(lba28 >> 16);
    w[63] = mode_word(u, 0x20, 7);
    w[64] = 3;
    w[65] = w[66] = w[67] = w[68] = 120;
    if (u->bus->queues) {
        w[75] = 31;     /* queue depth, less one */
        w[76] = 0x0102; /* queuing, first generation */
    }
    w[80] = 0x00f0; /* ATA-4 to ATA-7 */
    w[81] = 0x0016;
    w[82] = 0x4021; /* NOP, write cache, SMART */
    w[83] = 0x7400; /* FLUSH, FLUSH EXT, 48 bit */
    w[84] = 0x4042; /* FUA, SMART self-test */
    w[85] = 0x4000 | (r->write_cache ? 0x20 : 0) | r->smart;
    w[86] = 0x3400;
    w[87] = 0x4042;
    w[88] = mode_word(u, 0x40, 0x3f);
    w[93] = 0x6001;
    for (int i = 0; i < 4; i++)
        w[100 + i] = (u16)(n >> (16 * i));
    w[106] = (u16)(0x4000 | (exp ? 0x2000 | exp : 0) | (u->logical_block > 512 ? 0x1000 : 0));
    if (u->bus->queues) { /* general purpose logs */
        w[84] |= 0x0020;
        w[87] |= 0x0020;
    }
    if (u->wwn) {
        w[84] |= 0x0100;
        w[87] |= 0x0100;
        for (int i = 0; i < 4; i++)
            w[108 + i] = (u16)(u->wwn >> (48 - 16 * i));
    }
    if (u->logical_block > 512) {
        w[117] = (u16)(u->logical_block / 2);
        w[118] = (u16)(u->logical_block / 2 >> 16);
    }
    if (!image_read_only(u->drive->image)) {
        w[105] = RANGE_BLOCKS_MAX;
        w[169] = 1; /* TRIM */
    }
    w[217] = (u16)u->rotation;
    words_put(u, w);
    send_buf(u, 512);
}

static void set_features(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    switch (r->feature) {
    case 0x02:
        r->write_cache = true;
        break;
    case 0x82:
        r->write_cache = false;
        if (!u->cd) {
            wait_for(u, BOUNCE_FLUSH);
            return;
        }
        break;
    case 0x03: /* transfer mode */
        switch (r->count >> 3) {
        case 0: /* PIO default */
        case 1: /* PIO with flow control */
            r->transfer_mode = 0;
            break;
        case 4: /* multiword DMA */
        case 8: /* ultra DMA */
            if ((r->count & 7) > (r->count >> 3 == 4 ? 2 : 5)) {
                ata_end(u, ATA_ABRT);
                return;
            }
            r->transfer_mode = r->count;
            break;
        default:
            ata_end(u, ATA_ABRT);
            return;
        }
        break;
    case 0x05: /* power management, acoustics, read ahead, defaults at reset: as you like */
    case 0x85:
    case 0x42:
    case 0xc2:
    case 0x55:
    case 0xaa:
    case 0x66:
    case 0xcc:
        break;
    default:
        ata_end(u, ATA_ABRT);
        return;
    }
    ata_end(u, 0);
}

/* ---- SMART: a healthy drive ----------------------------------------------------------------
 */

static void checksum(u8 *b)
{
    u8 sum = 0;

    for (u32 i = 0; i < 511; i++)
        sum += b[i];
    b[511] = (u8)-sum;
}

static void smart(struct ide_unit *u)
{
    /* id, flags, value, worst, raw, threshold */
    static const struct {
        u8 id, flags, value, raw, threshold;
    } attrs[] = {
        { 1, 0x03, 100, 0, 6 },   /* raw read error rate */
        { 3, 0x03, 100, 16, 0 },  /* spin-up time */
        { 4, 0x02, 100, 0, 20 },  /* start and stop count */
        { 5, 0x03, 100, 0, 36 },  /* reallocated sectors */
        { 9, 0x03, 100, 1, 0 },   /* power-on hours */
        { 12, 0x03, 100, 0, 0 },  /* power cycles */
        { 190, 0x03, 69, 31, 50 } /* temperature */
    };
    struct ide_unit_regs *r = &u->r;
    u8 *b = r->buf;

    if (r->lbam != SMART_LBAM || r->lbah != SMART_LBAH || (!r->smart && r->feature != 0xd8)) {
        ata_end(u, ATA_ABRT);
        return;
    }
    memset(b, 0, 512);
    switch (r->feature) {
    case 0xd0: /* read data */
        b[0] = 1;
        for (u32 i = 0; i < ARRAY_LEN(attrs); i++) {
            u8 *a = b + 2 + 12 * i;

            a[0] = attrs[i].id;
            a[1] = attrs[i].flags;
            a[3] = a[4] = attrs[i].value;
            a[5] = attrs[i].raw;
        }
        b[362] = 0x02; /* off-line collection: done */
        b[367] = 0x11; /* off-line: execute, self-tests */
        b[368] = 0x03;
        b[370] = 0x01; /* logs */
        b[372] = 2;
        b[373] = 54;
        checksum(b);
        send_buf(u, 512);
        return;
    case 0xd1: /* read thresholds */
        b[0] = 1;
        for (u32 i = 0; i < ARRAY_LEN(attrs); i++) {
            b[2 + 12 * i] = attrs[i].id;
            b[3 + 12 * i] = attrs[i].threshold;
        }
        checksum(b);
        send_buf(u, 512);
        return;
    case 0xd5: /* read log: directory, errors, self-tests; all empty */
        if (r->lbal == 0)
            b[0] = b[2] = b[12] = 1;
        else if (r->lbal == 1 || r->lbal == 6)
            b[0] = 1;
        else
            break;
        if (r->lbal)
            checksum(b);
        send_buf(u, 512);
        return;
    case 0xd2: /* attribute autosave */
    case 0xd4: /* off-line tests: passed already */
        ata_end(u, 0);
        return;
    case 0xd8:
    case 0xd9:
        r->smart = r->feature == 0xd8;
        ata_end(u, 0);
        return;
    case 0xda: /* status: unchanged LBA says healthy */
        ata_end(u, 0);
        return;
    }
    ata_end(u, ATA_ABRT);
}

/* General purpose logs: the directory, and why a queued command failed. */
static void read_log(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;
    u8 *b = r->buf;

    if (!u->bus->queues || (r->count | r->prev_count << 8) != 1 || r->lbam || r->prev_lbam ||
        (r->lbal != 0 && r->lbal != 0x10)) {
        ata_end(u, ATA_ABRT);
        return;
    }
    memset(b, 0, 512);
    if (r->lbal == 0) {
        b[0] = 1;    /* version */
        b[0x20] = 1; /* log 10h has one page */
    } else {
        b[0] = r->ncq_failed ? r->ncq_failed & 31 : 0x80;
        b[2] = ATA_DRDY | ATA_SRV | (r->ncq_failed ? ATA_ERR : 0);
        b[3] = r->ncq_error;
        r->ncq_failed = r->ncq_error = 0;
        checksum(b);
    }
    send_buf(u, 512);
}

static void signature(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    r->count = r->lbal = 1;
    r->lbam = u->cd ? 0x14 : 0;
    r->lbah = u->cd ? 0xeb : 0;
    r->device &= ATA_DEV_1;
    r->prev_count = r->prev_lbal = r->prev_lbam = r->prev_lbah = 0;
}

static void ranges_begin(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;
    u32 n = r->count | r->prev_count << 8;

    if (r->feature != TRIM || !n || n > RANGE_BLOCKS_MAX || image_read_only(u->drive->image)) {
        ata_end(u, ATA_ABRT);
        return;
    }
    r->flow = FLOW_RANGES;
    r->dma = true;
    r->left = n;
    r->len = r->block = ATA_SECTOR;
    r->pos = 0;
    r->first = r->waits = true;
    r->status = ATA_DRDY | ATA_SRV;
    u->bus->ops->receive(u);
}

static void native_max(struct ide_unit *u, bool ext)
{
    u64 last = blocks(u) - 1;

    if (!ext)
        last = MIN(last, (u64)LBA28_MAX - 1);
    u->r.lbal = (u8)last;
    u->r.lbam = (u8)(last >> 8);
    u->r.lbah = (u8)(last >> 16);
    if (ext) {
        u->r.prev_lbal = (u8)(last >> 24);
        u->r.prev_lbam = (u8)(last >> 32);
        u->r.prev_lbah = (u8)(last >> 40);
    } else {
        u->r.device = (u->r.device & 0xf0) | (last >> 24 & 15);
    }
    ata_end(u, 0);
}

static void disk_command(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    switch (r->command) {
    case READ_SECTORS:
    case READ_SECTORS_ONCE:
    case READ_SECTORS_EXT:
        transfer(u, FLOW_DISK_IN, WAY_PIO, false);
        return;
    case READ_MULTIPLE:
    case READ_MULTIPLE_EXT:
        transfer(u, FLOW_DISK_IN, WAY_MULTIPLE, false);
        return;
    case READ_DMA:
    case READ_DMA_ONCE:
    case READ_DMA_EXT:
        transfer(u, FLOW_DISK_IN, WAY_DMA, false);
        return;
    case WRITE_SECTORS:
    case WRITE_SECTORS_ONCE:
    case WRITE_SECTORS_EXT:
    case WRITE_VERIFY:
        transfer(u, FLOW_DISK_OUT, WAY_PIO, r->command == WRITE_VERIFY);
        return;
    case WRITE_MULTIPLE:
    case WRITE_MULTIPLE_EXT:
    case WRITE_MULTIPLE_FUA_EXT:
        transfer(u, FLOW_DISK_OUT, WAY_MULTIPLE, r->command == WRITE_MULTIPLE_FUA_EXT);
        return;
    case WRITE_DMA:
    case WRITE_DMA_ONCE:
    case WRITE_DMA_EXT:
    case WRITE_DMA_FUA_EXT:
        transfer(u, FLOW_DISK_OUT, WAY_DMA, r->command == WRITE_DMA_FUA_EXT);
        return;
    case VERIFY:
    case VERIFY_ONCE:
    case VERIFY_EXT: {
        bool ext = r->command == VERIFY_EXT;
        u32 n = ext ? r->count | r->prev_count << 8 : r->count;
        u64 at;

        n = n ? n : ext ? 65536 : 256;
        bool ok = address_get(r, ext, &at) && n <= blocks(u) && at <= blocks(u) - n;
        ata_end(u, ok ? 0 : ATA_IDNF);
        return;
    }
    case RECALIBRATE ... RECALIBRATE + 15:
    case SEEK ... SEEK + 15:
        ata_end(u, 0);
        return;
    case INITIALIZE_PARAMETERS:
        if (!r->count) {
            ata_end(u, ATA_ABRT);
            return;
        }
        r->heads = (r->device & 15) + 1;
        r->sectors = r->count;
        ata_end(u, 0);
        return;
    case SET_MULTIPLE:
        if (r->count > ATA_MULTIPLE_MAX || r->count & (r->count - 1)) {
            ata_end(u, ATA_ABRT);
            return;
        }
        r->multiple = r->count;
        ata_end(u, 0);
        return;
    case DATA_SET_MANAGEMENT:
        ranges_begin(u);
        return;
    case SMART:
        smart(u);
        return;
    case READ_LOG_EXT:
        read_log(u);
        return;
    case FLUSH_CACHE:
    case FLUSH_CACHE_EXT:
        wait_for(u, BOUNCE_FLUSH);
        return;
    case IDENTIFY:
        identify(u);
        return;
    case READ_NATIVE_MAX:
    case READ_NATIVE_MAX_EXT:
        native_max(u, r->command == READ_NATIVE_MAX_EXT);
        return;
    }
    ata_end(u, ATA_ABRT);
}

static void packet_begin(struct ide_unit *u)
{
    struct ide_unit_regs *r = &u->r;

    if (r->feature & 2) { /* overlapped */
        ata_end(u, ATA_ABRT);
        return;
    }
    r->flow = FLOW_PACKET;
    r->dma = r->feature & 1;
    r->limit = r->lbam | (u32)r->lbah << 8;
    r->len = r->block = 12;
    r->pos = 0;
    r->first = r->waits = true;
    r->count = ATAPI_COD;
    r->status = ATA_DRDY | ATA_SRV;
    u->bus->ops->receive(u);
}

static void cd_command(struct ide_unit *u)
{
    switch (u->r.command) {
    case PACKET:
        packet_begin(u);
        return;
    case IDENTIFY_PACKET:
        atapi_identify(u);
        send_buf(u, 512);
        return;
    case IDENTIFY:
    case READ_SECTORS: /* they say what kind of drive this is */
        signature(u);
        break;
    }
    ata_end(u, ATA_ABRT);
}

void ata_command(struct ide_unit *u, u8 command)
{
    struct ide_unit_regs *r = &u->r;

    if (command == DEVICE_RESET && u->cd) {
        ata_reset(u, true);
        r->status = 0;
        return;
    }
    if (r->status & (ATA_BSY | ATA_DRQ) || r->waits)
        return; /* only a reset is taken now */
    r->command = command;
    r->error = 0;
    r->dma = r->fua = false;
    switch (command) {
    case EXECUTE_DIAGNOSTIC:
        signature(u);
        ata_end(u, 0);
        r->error = 1; /* passed */
        if (u->cd)
            r->status = 0;
        return;
    case SET_FEATURES:
        set_features(u);
        return;
    case CHECK_POWER:
    case CHECK_POWER_OLD:
        r->count = 0xff; /* active or idle */
        ata_end(u, 0);
        return;
    case STANDBY_NOW_OLD ... IDLE_OLD:
    case SLEEP_OLD:
    case STANDBY_NOW ... IDLE:
    case SLEEP:
        if (u->cd || image_read_only(u->drive->image))
            ata_end(u, 0);
        else
            wait_for(u, BOUNCE_FLUSH);
        return;
    case NOP:
        ata_end(u, ATA_ABRT);
        return;
    }
    if (u->cd)
        cd_command(u);
    else
        disk_command(u);
}

void ata_reset(struct ide_unit *u, bool soft)
{
    struct ide_unit_regs *r = &u->r;

    bounce_forget(&u->io);
    r->feature = r->prev_feature = 0;
    r->flow = FLOW_NONE;
    r->dma = r->fua = r->waits = r->irq = false;
    r->len = r->pos = r->block = r->left = 0;
    r->error = 1;
    r->status = u->cd ? 0 : ATA_DRDY | ATA_SRV;
    signature(u);
    if (!soft) {
        r->device = 0;
        r->multiple = r->transfer_mode = 0;
        r->smart = true;
        r->write_cache = u->write_cache_prop && (u->cd || !image_writethrough(u->drive->image));
        r->heads = (u8)u->default_heads;
        r->sectors = (u8)u->default_sectors;
    }
    if (u->cd)
        atapi_reset(u, soft);
}
