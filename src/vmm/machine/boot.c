// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot.c - what all boot loaders share: files, pieces of guest memory, the first state of vCPU
 * 0.
 *
 * The state is that of the Linux boot protocol (32-bit and 64-bit), which the multiboot and PVH
 * entries accept too: flat segments, interrupts off, paging off or mapped 1:1.
 */
#include "vmm/machine/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/core/ram.h"

enum {
    LOW_START = 0x1000, /* the first page is the real-mode vector table and BIOS data */
    LOW_END = 0x9f000,
    COPY_CHUNK = 64 * 1024,
    PIECES_MAX = 4096,
};

void e820_add(struct e820 *m, u64 at, u64 len, enum e820_type type)
{
    if (len && m->n < E820_MAX)
        m->e[m->n++] = (struct e820_entry){ at, len, type };
}

static void file_free(void *p)
{
    struct boot_file *f = p;

    g_free(f->path);
    fd_close(&f->fd);
    g_free(f);
}

static void piece_clear(void *p)
{
    struct boot_piece *b = p;

    g_clear_pointer(&b->bytes, g_bytes_unref);
}

struct boot *boot_new(const struct boot_input *in)
{
    struct boot *b = g_new0(struct boot, 1);

    b->map = in->map;
    b->ram_low = in->ram_low;
    b->files = g_ptr_array_new_with_free_func(file_free);
    b->pieces = g_array_new(FALSE, TRUE, sizeof(struct boot_piece));
    g_array_set_clear_func(b->pieces, piece_clear);
    return b;
}

void boot_free(struct boot *b)
{
    if (!b)
        return;
    g_array_unref(b->pieces);
    g_ptr_array_unref(b->files);
    g_free(b);
}

struct boot_file *boot_open(struct boot *b, const char *path, GError **error)
{
    g_autofd fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0) {
        fail_errno(error, errno, "%s", path);
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        fail(error, ERR_ARGUMENT, "%s: not a regular file", path);
        return NULL;
    }
    struct boot_file *f = g_new(struct boot_file, 1);
    f->path = g_strdup(path);
    f->fd = fd_steal(&fd);
    f->size = (u64)st.st_size;
    g_ptr_array_add(b->files, f);
    return f;
}

bool boot_read(const struct boot_file *f, u64 at, void *to, size_t n, GError **error)
{
    if (at > f->size || n > f->size - at)
        return fail(error, ERR_FORMAT, "%s: ends before byte %" PRIu64, f->path, at + n);
    if (fd_read_all(f->fd, to, n, (s64)at, error))
        return true;
    g_prefix_error(error, "%s: ", f->path);
    return false;
}

/* ---- pieces --------------------------------------------------------------------------------
 */

static bool is_ram(const struct boot *b, gpa at, u64 len)
{
    for (u32 i = 0; i < b->map.n; i++) {
        const struct e820_entry *e = &b->map.e[i];

        if (e->type == E820_RAM && at >= e->at && at - e->at <= e->len &&
            len <= e->len - (at - e->at))
            return true;
    }
    return false;
}

static const struct boot_piece *piece_over(const struct boot *b, gpa at, u64 len)
{
    for (guint i = 0; i < b->pieces->len; i++) {
        const struct boot_piece *p = &g_array_index(b->pieces, struct boot_piece, i);

        if (at < p->at + p->len && p->at < at + len)
            return p;
    }
    return NULL;
}

static bool piece_add(struct boot *b, struct boot_piece p, const char *what, GError **error)
{
    if (!p.len)
        return true;
    if (b->pieces->len >= PIECES_MAX)
        return fail(error, ERR_LIMIT, "%s: too many pieces", what);
    if (!is_ram(b, p.at, p.len))
        return fail(error, ERR_LIMIT,
                    "%s: needs %#" PRIx64 " bytes at %#" PRIx64
                    ", where there is no memory; a larger -m may help",
                    what, p.len, p.at);
    if (piece_over(b, p.at, p.len))
        return fail(error, ERR_FORMAT,
                    "%s: %#" PRIx64 " bytes at %#" PRIx64 " are in use already", what, p.len,
                    p.at);
    if (p.bytes)
        g_bytes_ref(p.bytes);
    g_array_append_val(b->pieces, p);
    return true;
}

bool boot_add_file(struct boot *b, gpa at, const struct boot_file *f, u64 off, u64 len,
                   GError **error)
{
    if (off > f->size || len > f->size - off)
        return fail(error, ERR_FORMAT, "%s: shorter than its headers say", f->path);
    return piece_add(b,
                     (struct boot_piece){
                         .kind = BOOT_PIECE_FILE, .at = at, .len = len, .file = f, .off = off },
                     f->path, error);
}

bool boot_add_bytes(struct boot *b, gpa at, const void *bytes, u64 len, const char *what,
                    GError **error)
{
    g_autoptr(GBytes) copy = g_bytes_new(bytes, len);

    return piece_add(
        b, (struct boot_piece){ .kind = BOOT_PIECE_BYTES, .at = at, .len = len, .bytes = copy },
        what, error);
}

bool boot_add_zero(struct boot *b, gpa at, u64 len, const char *what, GError **error)
{
    return piece_add(b, (struct boot_piece){ .kind = BOOT_PIECE_ZERO, .at = at, .len = len },
                     what, error);
}

bool boot_add_reserve(struct boot *b, gpa at, u64 len, const char *what, GError **error)
{
    return piece_add(b, (struct boot_piece){ .kind = BOOT_PIECE_RESERVE, .at = at, .len = len },
                     what, error);
}

bool boot_add_seed(struct boot *b, gpa at, u64 len, GError **error)
{
    return piece_add(b, (struct boot_piece){ .kind = BOOT_PIECE_SEED, .at = at, .len = len },
                     "random seed", error);
}

bool boot_find(const struct boot *b, u64 len, u64 align, gpa from, gpa to, bool high, gpa *ret)
{
    /* Each step passes one piece, so the loop ends. */
    if (to <= from || len > to - from)
        return false;
    gpa at = high ? ROUND_DOWN(to - len, align) : ROUND_UP(from, align);

    while (at >= from && at <= to && len <= to - at) {
        const struct boot_piece *p = piece_over(b, at, len);

        if (!p && is_ram(b, at, len)) {
            *ret = at;
            return true;
        }
        if (!p)
            return false; /* callers name one stretch of RAM */
        if (high && p->at < len)
            return false;
        at = high ? ROUND_DOWN(p->at - len, align) : ROUND_UP(p->at + p->len, align);
    }
    return false;
}

bool boot_put_low(struct boot *b, const void *bytes, u64 len, const char *what, gpa *ret,
                  GError **error)
{
    if (!boot_find(b, len, 4096, LOW_START, LOW_END, false, ret))
        return fail(error, ERR_LIMIT, "%s: no room below 640 KiB", what);
    return boot_add_bytes(b, *ret, bytes, len, what, error);
}

static bool file_write(const struct boot_piece *p, struct ram *ram, GError **error)
{
    g_autofree u8 *buf = g_malloc(COPY_CHUNK);

    for (u64 done = 0, n; done < p->len; done += n) {
        n = MIN(p->len - done, COPY_CHUNK);
        if (!boot_read(p->file, p->off + done, buf, n, error))
            return false;
        if (!ram_load(ram, p->at + done, buf, n))
            return fail(error, ERR_FAILED, "%s: no memory at %#" PRIx64, p->file->path, p->at);
    }
    return true;
}

bool boot_write(const struct boot *b, struct ram *ram, GError **error)
{
    for (guint i = 0; i < b->pieces->len; i++) {
        const struct boot_piece *p = &g_array_index(b->pieces, struct boot_piece, i);
        u8 seed[64];
        bool ok = true;

        switch (p->kind) {
        case BOOT_PIECE_FILE:
            if (!file_write(p, ram, error))
                return false;
            break;
        case BOOT_PIECE_BYTES:
            ok = ram_load(ram, p->at, g_bytes_get_data(p->bytes, NULL), p->len);
            break;
        case BOOT_PIECE_ZERO:
            ok = ram_fill(ram, p->at, 0, p->len);
            break;
        case BOOT_PIECE_SEED:
            /* Without a seed the kernel gathers its own. */
            if (p->len <= sizeof seed &&
                getrandom(seed, p->len, GRND_NONBLOCK) == (ssize_t)p->len)
                ok = ram_load(ram, p->at, seed, p->len);
            break;
        case BOOT_PIECE_RESERVE:
            break;
        }
        if (!ok)
            return fail(error, ERR_FAILED, "boot: no memory at %#" PRIx64, p->at);
    }
    return true;
}

/* ---- the processor -------------------------------------------------------------------------
 */

bool boot_set_entry(struct boot *b, bool lng, u64 rip, GError **error)
{
    /* Selectors 0x10 and 0x18, as the Linux boot protocol has them. */
    const le64 gdt[] = {
        le64_of(0),
        le64_of(0),
        le64_of(lng ? 0x00af9b000000ffff : 0x00cf9b000000ffff),
        le64_of(0x00cf93000000ffff),
    };
    enum { PTES = 512, TABLES = 6 };

    b->lng = lng;
    b->rip = rip;
    if (!boot_put_low(b, gdt, sizeof gdt, "GDT", &b->gdt, error))
        return false;
    if (!lng)
        return true;

    /* PML4, PDPT, four page directories of 2 MiB pages. */
    g_autofree le64 *t = g_new0(le64, PTES * TABLES);
    gpa at;
    if (!boot_find(b, TABLES * 4096, 4096, LOW_START, LOW_END, false, &at))
        return fail(error, ERR_LIMIT, "page tables: no room below 640 KiB");
    enum { P_RW = 3, P_LARGE = 0x83 };
    t[0] = le64_of((at + 4096) | P_RW);
    for (u64 i = 0; i < 4; i++)
        t[PTES + i] = le64_of((at + (2 + i) * 4096) | P_RW);
    for (u64 i = 0; i < 4 * PTES; i++)
        t[2 * PTES + i] = le64_of(i << 21 | P_LARGE);
    b->cr3 = at;
    return boot_add_bytes(b, at, t, PTES * TABLES * sizeof *t, "page tables", error);
}

struct boot *boot_load(const struct boot_input *in, GError **error)
{
    /* As QEMU tries them: an ELF with a multiboot header is started by that. */
    static bool (*const loaders[])(struct boot *, const struct boot_input *, struct boot_file *,
                                   bool *,
                                   GError **) = { linux_load, multiboot_load, pvh_load };
    struct boot *b = boot_new(in);
    struct boot_file *f = boot_open(b, in->kernel, error);
    bool mine = false, ok = f != NULL;

    for (size_t i = 0; ok && !mine && i < ARRAY_LEN(loaders); i++)
        ok = loaders[i](b, in, f, &mine, error);
    if (ok && !mine)
        ok = fail(
            error, ERR_FORMAT,
            "%s: no kernel: neither Linux (bzImage) nor multiboot nor an ELF with a PVH entry",
            in->kernel);
    if (!ok) {
        boot_free(b);
        return NULL;
    }
    log_info("kernel: %s, entry %#" PRIx64, b->protocol, b->rip);
    return b;
}
