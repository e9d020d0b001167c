// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * multiboot.c - the Multiboot Specification, version 0.6.96: kernels that are ELF files or
 * carry their addresses in the header, with modules.
 *
 * -initrd is a list of modules: "file1 arguments,file2 arguments".  Not passed on: drives, boot
 * device, symbols, APM and video tables; a kernel that asks for a video mode gets none.
 */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "vmm/machine/boot.h"

enum {
    SEARCH = 8192, /* the header lies in the first 8 KiB, 32-bit aligned */
    HEADER_MAGIC = 0x1badb002,
    BOOT_MAGIC = 0x2badb002,
    MODULES_MAX = 64,
    /* Header flags. The upper half may be ignored, the lower must be understood. */
    H_PAGE_ALIGN = 1,
    H_MEMORY = 2,
    H_VIDEO = 4,
    H_ADDRESSES = 1 << 16,
    /* Information flags. */
    I_MEMORY = 1,
    I_CMDLINE = 1 << 2,
    I_MODULES = 1 << 3,
    I_MAP = 1 << 6,
    I_LOADER = 1 << 9,
};

struct header {
    le32 magic, flags, checksum;
    le32 header_at, load_at, load_end, bss_end, entry;
};
struct info {
    le32 flags, mem_lower, mem_upper, boot_device, cmdline;
    le32 mods_n, mods;
    le32 syms[4];
    le32 map_len, map;
    le32 drives_len, drives, config_table, loader, apm, vbe[4];
};
struct module {
    le32 start, end, cmdline, reserved;
};
struct map_entry {
    le32 size; /* of what follows */
    le64 at, len;
    le32 type;
} __attribute__((packed));

static bool header_find(const struct boot_file *f, struct header *ret, u64 *ret_at,
                        GError **error)
{
    u64 n = MIN(f->size, (u64)SEARCH);
    g_autofree u8 *buf = g_malloc0(SEARCH + sizeof *ret);

    ret->magic = le32_of(0);
    if (!boot_read(f, 0, buf, n, error))
        return false;
    for (u64 at = 0; at + 12 <= n; at += 4) {
        struct header h;

        memcpy(&h, buf + at, sizeof h);
        if (le32_get(h.magic) == HEADER_MAGIC &&
            le32_get(h.magic) + le32_get(h.flags) + le32_get(h.checksum) == 0) {
            *ret = h;
            *ret_at = at;
            return true;
        }
    }
    return true;
}

/* The a.out kludge: the header says where all goes. */
static bool addresses_load(struct boot *b, const struct boot_file *f, const struct header *h,
                           u64 header_off, GError **error)
{
    u64 header_at = le32_get(h->header_at), load = le32_get(h->load_at);
    u64 end = le32_get(h->load_end), bss = le32_get(h->bss_end);

    if (load > header_at || header_at - load > header_off)
        return fail(error, ERR_FORMAT, "%s: multiboot header lies before what it loads",
                    f->path);
    u64 off = header_off - (header_at - load);
    u64 len = f->size - off;
    if (end) {
        if (end < load || end - load > len)
            return fail(error, ERR_FORMAT, "%s: multiboot load end %#" PRIx64 " is impossible",
                        f->path, end);
        len = end - load;
    }
    if (bss && bss < load + len)
        return fail(error, ERR_FORMAT, "%s: multiboot bss end %#" PRIx64 " is impossible",
                    f->path, bss);
    return boot_add_file(b, load, f, off, len, error) &&
           boot_add_zero(b, load + len, bss ? bss - (load + len) : 0, f->path, error);
}

static bool module_put(struct boot *b, const char *text, struct module *ret, GError **error)
{
    g_autofree char *path = g_strndup(text, strcspn(text, " "));
    struct boot_file *f = boot_open(b, path, error);
    gpa at, line;

    if (!f)
        return false;
    if (!boot_find(b, MAX(f->size, 1), 4096, MiB, b->ram_low, true, &at))
        return fail(error, ERR_LIMIT,
                    "%s: %" PRIu64 " KiB do not fit into memory; a larger -m is needed", path,
                    f->size >> 10);
    if (!boot_add_file(b, at, f, 0, f->size, error) ||
        !boot_put_low(b, text, strlen(text) + 1, path, &line, error))
        return false;
    ret->start = le32_of((u32)at);
    ret->end = le32_of((u32)(at + f->size));
    ret->cmdline = le32_of((u32)line);
    return true;
}

static bool modules_put(struct boot *b, const char *list, struct info *info, GError **error)
{
    struct module m[MODULES_MAX] = { 0 };
    g_auto(GStrv) texts = g_strsplit(list, ",", MODULES_MAX + 1);
    u32 n = g_strv_length(texts);
    gpa at;

    if (n > MODULES_MAX)
        return fail(error, ERR_LIMIT, "-initrd: more than %d modules", MODULES_MAX);
    for (u32 i = 0; i < n; i++)
        if (!module_put(b, g_strchug(texts[i]), &m[i], error))
            return false;
    if (!n)
        return true;
    if (!boot_put_low(b, m, n * sizeof m[0], "module list", &at, error))
        return false;
    info->mods_n = le32_of(n);
    info->mods = le32_of((u32)at);
    info->flags = le32_of(le32_get(info->flags) | I_MODULES);
    return true;
}

static bool map_put(struct boot *b, struct info *info, GError **error)
{
    struct map_entry map[E820_MAX] = { 0 };
    gpa at;

    for (u32 i = 0; i < b->map.n; i++)
        map[i] = (struct map_entry){ .size = le32_of(sizeof map[0] - 4),
                                     .at = le64_of(b->map.e[i].at),
                                     .len = le64_of(b->map.e[i].len),
                                     .type = le32_of(b->map.e[i].type) };
    if (!boot_put_low(b, map, b->map.n * sizeof map[0], "memory map", &at, error))
        return false;
    info->map = le32_of((u32)at);
    info->map_len = le32_of(b->map.n * (u32)sizeof map[0]);
    return true;
}

static bool info_put(struct boot *b, const struct boot_input *in, GError **error)
{
    g_autofree char *line = g_strjoin(" ", in->kernel, in->append, NULL);
    struct info info = { .flags = le32_of(I_MEMORY | I_CMDLINE | I_MAP | I_LOADER) };
    gpa at;

    info.mem_lower = le32_of(639);
    info.mem_upper = le32_of((u32)((b->ram_low - MiB) / KiB));
    if (!boot_put_low(b, line, strlen(line) + 1, "-append", &at, error))
        return false;
    info.cmdline = le32_of((u32)at);
    if (!boot_put_low(b, "posada", 7, "loader name", &at, error))
        return false;
    info.loader = le32_of((u32)at);
    if (!map_put(b, &info, error) ||
        (in->initrd && !modules_put(b, in->initrd, &info, error)) ||
        !boot_put_low(b, &info, sizeof info, "multiboot information", &at, error))
        return false;
    b->rbx = at;
    b->rax = BOOT_MAGIC;
    return true;
}

bool multiboot_load(struct boot *b, const struct boot_input *in, struct boot_file *f,
                    bool *ret_mine, GError **error)
{
    struct elf_image elf;
    struct header h;
    u64 at = 0, entry;

    *ret_mine = false;
    if (!header_find(f, &h, &at, error))
        return false;
    if (!le32_get(h.magic))
        return true;
    u32 flags = le32_get(h.flags);
    if (flags & 0xffff & ~(u32)(H_PAGE_ALIGN | H_MEMORY | H_VIDEO))
        return fail(error, ERR_UNSUPPORTED, "%s: multiboot header asks for unknown flags %#x",
                    f->path, flags & 0xffff);
    if (in->ram_low <= MiB)
        return fail(error, ERR_LIMIT, "%s: needs more than 1 MiB of memory", f->path);
    if (flags & H_ADDRESSES) {
        if (at + sizeof h > f->size)
            return fail(error, ERR_FORMAT, "%s: multiboot header is cut short", f->path);
        if (!addresses_load(b, f, &h, at, error))
            return false;
        entry = le32_get(h.entry);
    } else {
        bool elf_file;

        if (!elf_load(b, f, true, &elf, &elf_file, error))
            return false;
        if (!elf_file)
            return fail(error, ERR_FORMAT,
                        "%s: multiboot header without addresses in a file that is no ELF",
                        f->path);
        entry = elf.entry;
    }
    if (entry > UINT32_MAX)
        return fail(error, ERR_FORMAT, "%s: entry %#" PRIx64 " is beyond 4 GiB", f->path,
                    entry);
    *ret_mine = true;
    b->protocol = "multiboot";
    return info_put(b, in, error) && boot_set_entry(b, false, entry, error);
}
