// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * pvh.c - ELF kernels with a PVH entry point (Xen's docs/misc/pvh.pandoc and start_info.h):
 * 32-bit protected mode, EBX points to hvm_start_info, version 1.
 */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "vmm/machine/boot.h"

struct start_info {
    le32 magic, version, flags, nr_modules;
    le64 modlist, cmdline, rsdp;
    le64 memmap; /* from version 1 on */
    le32 memmap_entries, reserved;
};
struct modlist_entry {
    le64 at, size, cmdline, reserved;
};
struct memmap_entry {
    le64 at, size;
    le32 type, reserved;
};
enum { START_MAGIC = 0x336ec578 };

static bool initrd_put(struct boot *b, const char *path, struct start_info *si, GError **error)
{
    struct boot_file *f = boot_open(b, path, error);
    struct modlist_entry m = { 0 };
    gpa at;

    if (!f)
        return false;
    if (!boot_find(b, f->size, 4096, MiB, b->ram_low, true, &at))
        return fail(error, ERR_LIMIT,
                    "%s: %" PRIu64 " KiB do not fit into memory; a larger -m is needed", path,
                    f->size >> 10);
    if (!boot_add_file(b, at, f, 0, f->size, error))
        return false;
    m.at = le64_of(at);
    m.size = le64_of(f->size);
    if (!boot_put_low(b, &m, sizeof m, "module list", &at, error))
        return false;
    si->nr_modules = le32_of(1);
    si->modlist = le64_of(at);
    return true;
}

bool pvh_load(struct boot *b, const struct boot_input *in, struct boot_file *f, bool *ret_mine,
              GError **error)
{
    struct start_info si = { .magic = le32_of(START_MAGIC), .version = le32_of(1) };
    struct memmap_entry map[E820_MAX] = { 0 };
    const char *append = in->append ? in->append : "";
    struct elf_image elf;
    gpa at;

    if (!elf_load(b, f, false, &elf, ret_mine, error))
        return false;
    if (!*ret_mine)
        return true;
    if (!elf.has_phys32)
        return fail(
            error, ERR_FORMAT,
            "%s: an ELF file with neither a PVH entry (Xen note) nor a multiboot header",
            f->path);
    if (!elf_load(b, f, true, &elf, ret_mine, error))
        return false;

    if (!boot_put_low(b, append, strlen(append) + 1, "-append", &at, error))
        return false;
    si.cmdline = le64_of(at);
    for (u32 i = 0; i < in->map.n; i++)
        map[i] = (struct memmap_entry){ .at = le64_of(in->map.e[i].at),
                                        .size = le64_of(in->map.e[i].len),
                                        .type = le32_of(in->map.e[i].type) };
    if (!boot_put_low(b, map, in->map.n * sizeof map[0], "memory map", &at, error))
        return false;
    si.memmap = le64_of(at);
    si.memmap_entries = le32_of(in->map.n);
    si.rsdp = le64_of(in->rsdp);
    if (in->initrd && !initrd_put(b, in->initrd, &si, error))
        return false;
    if (!boot_put_low(b, &si, sizeof si, "start info", &at, error))
        return false;
    b->rbx = at;
    b->protocol = "PVH";
    return boot_set_entry(b, false, elf.phys32, error);
}
