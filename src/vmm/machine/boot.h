// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot.h - a kernel given by -kernel, made ready without firmware: which bytes go where, and
 * how vCPU 0 starts.
 *
 * A loader (linux.c, multiboot.c, pvh.c) reads the headers of a file once, checks them, and
 * describes the result as pieces: ranges of open files, our own bytes, zeroes.  boot_write()
 * puts them into guest RAM, at the start and again after every reset.  Headers are hostile:
 * every field is bounded before it is used, and no piece lies outside RAM or over another.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct ram;
struct vm;

/* The memory map that a kernel is told; types are those of ACPI's address ranges. */
enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };
struct e820_entry {
    u64 at, len;
    u32 type;
};
enum { E820_MAX = 16 };
struct e820 {
    u32 n;
    struct e820_entry e[E820_MAX]; /* sorted, disjoint */
};
void e820_add(struct e820 *, u64 at, u64 len, enum e820_type);

struct boot_file {
    char *path;
    int fd;
    u64 size;
};

enum boot_kind {
    BOOT_PIECE_BYTES,
    BOOT_PIECE_FILE,
    BOOT_PIECE_ZERO,
    BOOT_PIECE_SEED,    /* fresh random bytes each time */
    BOOT_PIECE_RESERVE, /* nothing is written: the kernel uses it before it looks at the map */
};
struct boot_piece {
    enum boot_kind kind;
    gpa at;
    u64 len;
    GBytes *bytes;
    const struct boot_file *file;
    u64 off; /* in the file */
};

/* What the loaders are given. */
struct boot_input {
    const char *kernel, *initrd, *append; /* append NULL: "" */
    struct e820 map;
    u64 ram_low; /* end of RAM below 4 GiB */
    gpa rsdp;    /* 0: no ACPI */
};

struct boot {
    const char *protocol; /* "Linux, 64-bit": for the log */
    struct e820 map;
    u64 ram_low;
    GPtrArray *files; /* struct boot_file */
    GArray *pieces;   /* struct boot_piece */
    /* vCPU 0's first state; the rest is as after reset, with flat segments. */
    bool lng; /* long mode with cr3, else protected mode without paging */
    u64 rip, rax, rbx, rsi, cr3;
    gpa gdt;
};

/* Finds out what the kernel is and loads it. NULL and *error: names file and reason. */
struct boot *boot_load(const struct boot_input *, GError **error);
void boot_free(struct boot *);
bool boot_write(const struct boot *, struct ram *, GError **error);
/* Puts vCPU 0 at the entry point, and gives all vCPUs the MTRRs that firmware would. */
bool boot_enter(const struct boot *, struct vm *, GError **error);

/* ---- for the loaders ---- */

struct boot *boot_new(const struct boot_input *);
struct boot_file *boot_open(struct boot *, const char *path, GError **error);
/* Exactly n bytes, or an error that names the file as too short. */
bool boot_read(const struct boot_file *, u64 at, void *to, size_t n, GError **error);
/* The range is checked against RAM and the pieces there are; what: "initrd". len 0 is nothing.
 */
bool boot_add_file(struct boot *, gpa at, const struct boot_file *, u64 off, u64 len,
                   GError **error);
bool boot_add_bytes(struct boot *, gpa at, const void *bytes, u64 len, const char *what,
                    GError **error);
bool boot_add_zero(struct boot *, gpa at, u64 len, const char *what, GError **error);
bool boot_add_reserve(struct boot *, gpa at, u64 len, const char *what, GError **error);
bool boot_add_seed(struct boot *, gpa at, u64 len, GError **error);
/* A free place in [from, to), lowest or highest possible. */
bool boot_find(const struct boot *, u64 len, u64 align, gpa from, gpa to, bool high, gpa *ret);
/* The same in the first 640 KiB, with the bytes put there; len 0 is an error of ours. */
bool boot_put_low(struct boot *, const void *bytes, u64 len, const char *what, gpa *ret,
                  GError **error);
/* A GDT with 0x10 = code and 0x18 = data, flat, and for long mode the first 4 GiB mapped 1:1.
 */
bool boot_set_entry(struct boot *, bool lng, u64 rip, GError **error);

/* Each returns false with *error, or sets *ret_mine to whether the file is of its kind. */
bool linux_load(struct boot *, const struct boot_input *, struct boot_file *, bool *ret_mine,
                GError **error);
bool multiboot_load(struct boot *, const struct boot_input *, struct boot_file *,
                    bool *ret_mine, GError **error);
bool pvh_load(struct boot *, const struct boot_input *, struct boot_file *, bool *ret_mine,
              GError **error);

/* ELF program segments into pieces; entry as the header has it. elf.c */
enum { ELF_SEGMENTS_MAX = 64, ELF_NOTES_MAX = 65536 };
struct elf_image {
    bool is64;
    u64 entry;
    bool has_phys32;
    u32 phys32; /* of the Xen note */
};
/* *ret_mine false: no ELF for x86. load: also add the pieces. */
bool elf_load(struct boot *, struct boot_file *, bool load, struct elf_image *ret,
              bool *ret_mine, GError **error);
