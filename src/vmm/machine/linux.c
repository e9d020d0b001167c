// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * linux.c - the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst), 2.02 to 2.15.
 *
 * The real-mode half of a bzImage is not run: its setup header is copied into the zero page and
 * the kernel is entered at its 64-bit entry point (offset 0x200) when it has one, else at its
 * 32-bit one.  Not done: zImage (loaded low), EFI handover, setup that depends on the BIOS
 * (EDD, VBE, APM).
 */
#include "vmm/machine/boot.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

/* Setup header and zero page, by offset. */
enum {
    ZP_EXT_MEM_K = 0x002,
    ZP_ACPI_RSDP = 0x070,
    ZP_ALT_MEM_K = 0x1e0,
    ZP_E820_N = 0x1e8,
    ZP_SENTINEL = 0x1ef,
    HDR = 0x1f1,
    HDR_SETUP_SECTS = 0x1f1,
    HDR_VID_MODE = 0x1fa,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x200,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMDLINE = 0x228,
    HDR_INITRD_MAX = 0x22c,
    HDR_ALIGN = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END = 0x290,
    ZP_E820 = 0x2d0,
    ZP_SIZE = 0x1000,

    HDRS = 0x53726448,
    LOADED_HIGH = 1,
    XLF_KERNEL_64 = 1,
    SETUP_RNG_SEED = 9,
    SEED_LEN = 32,
};

static u16 get16(const u8 *p)
{
    le16 v;
    memcpy(&v, p, 2);
    return le16_get(v);
}

static u32 get32(const u8 *p)
{
    le32 v;
    memcpy(&v, p, 4);
    return le32_get(v);
}

static u64 get64(const u8 *p)
{
    return get32(p) | (u64)get32(p + 4) << 32;
}

static void put32(u8 *p, u32 v)
{
    le32 l = le32_of(v);
    memcpy(p, &l, 4);
}

static void put64(u8 *p, u64 v)
{
    put32(p, (u32)v);
    put32(p + 4, (u32)(v >> 32));
}

struct setup {
    u8 h[ZP_SIZE]; /* the zero page to be; what the file has lies in HDR .. HDR_END */
    u32 version;
    u64 code_at, code_len; /* of the protected-mode part in the file */
    u64 load, room;        /* where it goes, and how much it needs before it reads the map */
    u64 initrd_max, cmdline_max;
    bool has64;
};

/* Reads and bounds the header. *ret_mine false: not a Linux kernel. */
static bool setup_read(struct setup *s, const struct boot_file *f, bool *ret_mine,
                       GError **error)
{
    u8 raw[HDR_END];

    *ret_mine = false;
    if (f->size < HDR_MAGIC + 6)
        return true;
    memset(raw, 0, sizeof raw);
    if (!boot_read(f, 0, raw, MIN(f->size, sizeof raw), error))
        return false;
    if (get16(raw + HDR_BOOT_FLAG) != 0xaa55 || get32(raw + HDR_MAGIC) != HDRS)
        return true;
    *ret_mine = true;

    s->version = get16(raw + HDR_VERSION);
    if (s->version < 0x202)
        return fail(error, ERR_UNSUPPORTED,
                    "%s: boot protocol %u.%02u is too old, 2.02 is needed", f->path,
                    s->version >> 8, s->version & 0xff);
    if (!(raw[HDR_LOADFLAGS] & LOADED_HIGH))
        return fail(error, ERR_UNSUPPORTED, "%s: a zImage; only bzImage can be loaded",
                    f->path);

    /* The header ends where its jump goes, and never beyond its place in the zero page. */
    u32 end = MIN(HDR_MAGIC + (u32)raw[HDR_JUMP + 1], (u32)HDR_END);
    if (end < HDR_SETUP_DATA && s->version >= 0x209)
        return fail(error, ERR_FORMAT, "%s: setup header is cut short", f->path);
    memcpy(s->h + HDR, raw + HDR, end - HDR);

    u64 sects = raw[HDR_SETUP_SECTS] ? raw[HDR_SETUP_SECTS] : 4;
    s->code_at = (sects + 1) * 512;
    if (f->size <= s->code_at)
        return fail(error, ERR_FORMAT, "%s: ends within its setup code", f->path);
    s->code_len = f->size - s->code_at;

    const u8 *h = s->h;
    s->has64 = s->version >= 0x20c && get16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64;
    s->initrd_max = s->version >= 0x203 ? get32(h + HDR_INITRD_MAX) : 0x37ffffff;
    s->cmdline_max = s->version >= 0x206 ? get32(h + HDR_CMDLINE_SIZE) : 255;
    s->load = 0x100000;
    s->room = s->code_len;
    if (s->version >= 0x20a) {
        if (h[HDR_RELOCATABLE])
            s->load = get64(h + HDR_PREF_ADDRESS);
        s->room = MAX(s->room, get32(h + HDR_INIT_SIZE));
    }
    if (s->load < 0x100000 || s->load >= 0x80000000)
        return fail(error, ERR_FORMAT, "%s: wants to be loaded at %#" PRIx64, f->path, s->load);
    return true;
}

static bool cmdline_put(struct boot *b, struct setup *s, const char *append, GError **error)
{
    gpa at;

    if (strlen(append) > s->cmdline_max)
        return fail(error, ERR_LIMIT, "-append: %zu bytes, the kernel takes at most %" PRIu64,
                    strlen(append), s->cmdline_max);
    if (!boot_put_low(b, append, strlen(append) + 1, "-append", &at, error))
        return false;
    put32(s->h + HDR_CMDLINE, (u32)at);
    return true;
}

static bool initrd_put(struct boot *b, struct setup *s, const char *path, GError **error)
{
    struct boot_file *f = boot_open(b, path, error);
    gpa at;

    if (!f)
        return false;
    if (!f->size)
        return fail(error, ERR_FORMAT, "%s: empty", path);
    u64 top = MIN(b->ram_low, s->initrd_max + 1);
    if (!boot_find(b, f->size, 4096, 0x100000, top, true, &at))
        return fail(error, ERR_LIMIT,
                    "%s: %" PRIu64 " KiB do not fit beside the kernel in %" PRIu64
                    " MiB of memory; a larger -m is needed",
                    path, f->size >> 10, b->ram_low >> 20);
    put32(s->h + HDR_RAMDISK, (u32)at);
    put32(s->h + HDR_RAMDISK_SIZE, (u32)f->size);
    return boot_add_file(b, at, f, 0, f->size, error);
}

/* Saves the guest from waiting for entropy; a new one for each boot. */
static bool seed_put(struct boot *b, struct setup *s, GError **error)
{
    u8 head[16] = { 0 };
    gpa at;

    if (s->version < 0x209)
        return true;
    put32(head + 8, SETUP_RNG_SEED);
    put32(head + 12, SEED_LEN);
    if (!boot_put_low(b, head, sizeof head, "setup data", &at, error))
        return false;
    put64(s->h + HDR_SETUP_DATA, at);
    return boot_add_seed(b, at + sizeof head, SEED_LEN, error);
}

static void map_put(const struct boot *b, u8 *zp)
{
    for (u32 i = 0; i < b->map.n; i++) {
        u8 *e = zp + ZP_E820 + 20 * i;

        put64(e, b->map.e[i].at);
        put64(e + 8, b->map.e[i].len);
        put32(e + 16, b->map.e[i].type);
    }
    zp[ZP_E820_N] = (u8)b->map.n;
    put32(zp + ZP_ALT_MEM_K, (u32)((b->ram_low - MiB) / KiB));
    zp[ZP_EXT_MEM_K] = zp[ZP_EXT_MEM_K + 1] = 0xff;
}

bool linux_load(struct boot *b, const struct boot_input *in, struct boot_file *f,
                bool *ret_mine, GError **error)
{
    g_autofree struct setup *s = g_new0(struct setup, 1);
    gpa zp;

    if (!setup_read(s, f, ret_mine, error))
        return false;
    if (!*ret_mine)
        return true;
    if (in->ram_low <= MiB || s->load >= in->ram_low || s->room > in->ram_low - s->load)
        return fail(error, ERR_LIMIT,
                    "%s: needs %" PRIu64 " MiB of memory below 4 GiB, there are %" PRIu64,
                    f->path, (u64)((s->load + s->room + MiB - 1) >> 20), in->ram_low >> 20);
    if (!boot_add_file(b, s->load, f, s->code_at, s->code_len, error) ||
        !boot_add_reserve(b, s->load + s->code_len, s->room - s->code_len, f->path, error))
        return false;

    s->h[HDR_LOADER] = 0xff; /* none that is registered */
    s->h[HDR_VID_MODE] = s->h[HDR_VID_MODE + 1] = 0xff;
    put32(s->h + HDR_CODE32_START, (u32)s->load);
    put32(s->h + HDR_RAMDISK, 0);
    put32(s->h + HDR_RAMDISK_SIZE, 0);
    put64(s->h + ZP_ACPI_RSDP, in->rsdp);
    map_put(b, s->h);
    if (!cmdline_put(b, s, in->append ? in->append : "", error) || !seed_put(b, s, error))
        return false;
    if (in->initrd && !initrd_put(b, s, in->initrd, error))
        return false;
    if (!boot_put_low(b, s->h, sizeof s->h, "zero page", &zp, error))
        return false;
    b->rsi = zp;
    b->protocol = s->has64 ? "Linux, 64-bit entry" : "Linux, 32-bit entry";
    return boot_set_entry(b, s->has64, s->load + (s->has64 ? 0x200 : 0), error);
}
