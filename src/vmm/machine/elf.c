// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * elf.c - the program segments of an x86 ELF file as pieces of guest memory, and the Xen note
 * that names the PVH entry.  System V ABI, chapter 5; Xen's elfnote.h.
 */
#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "vmm/machine/boot.h"

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18 };

/* One program header, of either class. Hosts and guests are little-endian. */
struct segment {
    u32 type;
    u64 off, paddr, filesz, memsz, align;
};

static bool segment_read(const struct boot_file *f, bool is64, u64 at, struct segment *ret,
                         GError **error)
{
    Elf64_Phdr p64;
    Elf32_Phdr p;

    if (is64) {
        if (!boot_read(f, at, &p64, sizeof p64, error))
            return false;
        *ret = (struct segment){ p64.p_type,   p64.p_offset, p64.p_paddr,
                                 p64.p_filesz, p64.p_memsz,  p64.p_align };
        return true;
    }
    if (!boot_read(f, at, &p, sizeof p, error))
        return false;
    *ret =
        (struct segment){ p.p_type, p.p_offset, p.p_paddr, p.p_filesz, p.p_memsz, p.p_align };
    return true;
}

/* Looks for the PVH entry in a note segment; others' notes are passed over. */
static bool notes_read(const struct boot_file *f, const struct segment *s,
                       struct elf_image *ret, GError **error)
{
    u64 align = s->align == 8 ? 8 : 4;

    if (s->filesz > ELF_NOTES_MAX)
        return true; /* none that a kernel for us would have */
    g_autofree u8 *n = g_malloc(s->filesz + 1);
    if (!boot_read(f, s->off, n, s->filesz, error))
        return false;
    for (u64 at = 0; s->filesz - at >= sizeof(Elf32_Nhdr);) {
        Elf32_Nhdr h;

        memcpy(&h, n + at, sizeof h);
        u64 name = at + sizeof h;
        u64 desc = ROUND_UP(name + h.n_namesz, align);
        u64 next = ROUND_UP(desc + h.n_descsz, align);
        if (desc > s->filesz || h.n_descsz > s->filesz - desc)
            break;
        if (h.n_type == XEN_ELFNOTE_PHYS32_ENTRY && h.n_namesz == 4 &&
            memcmp(n + name, "Xen", 4) == 0 && (h.n_descsz == 4 || h.n_descsz == 8)) {
            memcpy(&ret->phys32, n + desc, 4);
            ret->has_phys32 = true;
        }
        if (next >= s->filesz)
            break;
        at = next;
    }
    return true;
}

static bool segment_load(struct boot *b, const struct boot_file *f, const struct segment *s,
                         GError **error)
{
    if (s->filesz > s->memsz)
        return fail(error, ERR_FORMAT, "%s: a segment with more bytes than memory", f->path);
    if (s->paddr > UINT32_MAX || s->memsz > UINT32_MAX)
        return fail(error, ERR_FORMAT, "%s: a segment beyond 4 GiB", f->path);
    return boot_add_file(b, s->paddr, f, s->off, s->filesz, error) &&
           boot_add_zero(b, s->paddr + s->filesz, s->memsz - s->filesz, f->path, error);
}

bool elf_load(struct boot *b, struct boot_file *f, bool load, struct elf_image *ret,
              bool *ret_mine, GError **error)
{
    union {
        u8 ident[EI_NIDENT];
        Elf32_Ehdr h32;
        Elf64_Ehdr h64;
    } u;
    u64 phoff, entsize, loaded = 0;
    u32 n;

    *ret_mine = false;
    memset(ret, 0, sizeof *ret);
    if (f->size < sizeof u.h32)
        return true;
    memset(&u, 0, sizeof u);
    if (!boot_read(f, 0, &u, MIN(f->size, sizeof u), error))
        return false;
    if (memcmp(u.ident, ELFMAG, SELFMAG) != 0)
        return true;
    bool is64 = u.ident[EI_CLASS] == ELFCLASS64;
    u32 machine = is64 ? u.h64.e_machine : u.h32.e_machine;
    if (u.ident[EI_DATA] != ELFDATA2LSB || machine != (is64 ? EM_X86_64 : EM_386))
        return fail(error, ERR_FORMAT, "%s: an ELF file, but not for x86", f->path);
    *ret_mine = true;
    ret->is64 = is64;
    ret->entry = is64 ? u.h64.e_entry : u.h32.e_entry;
    phoff = is64 ? u.h64.e_phoff : u.h32.e_phoff;
    n = is64 ? u.h64.e_phnum : u.h32.e_phnum;
    entsize = is64 ? u.h64.e_phentsize : u.h32.e_phentsize;
    if (!n || n > ELF_SEGMENTS_MAX)
        return fail(error, ERR_FORMAT, "%s: %u ELF segments; 1 to %d can be loaded", f->path, n,
                    ELF_SEGMENTS_MAX);
    if (entsize < (is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || phoff > f->size)
        return fail(error, ERR_FORMAT, "%s: bad ELF program headers", f->path);
    for (u32 i = 0; i < n; i++) {
        struct segment s;

        if (!segment_read(f, is64, phoff + i * entsize, &s, error))
            return false;
        if (s.type == PT_NOTE && !notes_read(f, &s, ret, error))
            return false;
        if (s.type != PT_LOAD || !load || !s.memsz)
            continue;
        if (!segment_load(b, f, &s, error))
            return false;
        loaded++;
    }
    if (load && !loaded)
        return fail(error, ERR_FORMAT, "%s: an ELF file with nothing to load", f->path);
    return true;
}
