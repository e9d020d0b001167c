// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ram.h - guest RAM and ROM: memfd blocks, where they appear in guest-physical space, and
 * bounded access to them.
 *
 * A block is host memory of one memfd, mapped once, sparse.  A slot shows a range of a block at
 * a guest-physical address; slots never overlap (a later ram_map() replaces what was there), so
 * the same block can appear at several places (BIOS below 1 MiB and below 4 GiB).  The slot
 * list is immutable and swapped by pointer: readers take no lock.
 *
 * Every access names its length and can fail; no bare pointer gets out, except through
 * ram_page(), which is for CPU backends and the dirty log only.
 *
 * Every 4 KiB page of a block has one flag byte (RAM_PAGE_*), set with atomic or.  Whoever
 * writes guest memory by another way than these functions marks the page through
 * ram_written().
 *
 * Threads: access from any; mapping changes under the topology lock (vm_lock()).
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "base/types.h"

enum { RAM_PAGE_SHIFT = 12, RAM_PAGE_SIZE = 4096 };

enum ram_page_flag {
    RAM_PAGE_DIRTY_MIGRATE = 1, /* written since the migration log was last read */
    RAM_PAGE_DIRTY_SCREEN = 2,
    RAM_PAGE_CODE = 4, /* a translator holds code of this page: writes must call the watch */
    RAM_PAGE_WTLB = 8, /* some vCPU of the soft backend may hold a write entry for it */
    RAM_PAGE_DIRTY = RAM_PAGE_DIRTY_MIGRATE | RAM_PAGE_DIRTY_SCREEN,
};

struct ram_block {
    const char *name;
    int fd;
    u8 *host;          /* the one mapping */
    u64 size;          /* multiple of 4096 */
    _Atomic u8 *flags; /* one per page */
    u64 index_base;    /* page number of this block's first page in an index over all blocks */
};

struct ram_slot {
    gpa at;
    u64 len;
    struct ram_block *block;
    u64 off;  /* in the block */
    bool rom; /* guest writes are dropped */
};

/* Immutable once published. Sorted by at. */
struct ram_map {
    u32 n;
    u64 generation;
    struct ram_slot slot[];
};

struct ram;

struct ram *ram_new(void);
void ram_free(struct ram *);

/* A new block of zeroes; name is copied. NULL and *error when the host has no memory. */
struct ram_block *ram_block_new(struct ram *, const char *name, u64 size, GError **error);
/* A block whose mapping is n blocks long in total; page index space: 0 .. ram_pages(). */
u64 ram_pages(const struct ram *);
struct ram_block *ram_block_find(struct ram *, const char *name);
u32 ram_block_count(const struct ram *);
struct ram_block *ram_block_at(const struct ram *, u32 i);

/* Shows block[off, off+len) at `at`, replacing what was there; all page-aligned. Takes effect
 * at ram_commit(), which also tells the listener (the CPU backend). REQUIRES topology lock or
 * that no vCPU runs yet. */
void ram_map_at(struct ram *, gpa at, u64 len, struct ram_block *, u64 off, bool rom);
void ram_unmap(struct ram *, gpa at, u64 len);
void ram_commit(struct ram *);
/* fn(opaque) runs after each ram_commit(), in the caller's thread. Several may listen. */
void ram_listen(struct ram *, void (*fn)(void *opaque), void *opaque);

/* The current map; valid until the calling thread passes core_quiescent() (vCPU, I/O threads).
 */
const struct ram_map *ram_current(const struct ram *);
const struct ram_slot *ram_slot_find(const struct ram *, gpa at); /* NULL: no RAM there */
u64 ram_size(const struct ram *); /* bytes mapped as writable RAM */

/* false, and nothing (or only a prefix, for ranges that end outside RAM) copied, when any byte
 * is not RAM. Writes to ROM return false. */
bool ram_get(const struct ram *, gpa at, void *to, size_t n) MUST_CHECK;
bool ram_put(struct ram *, gpa at, const void *from, size_t n) MUST_CHECK;
bool ram_fill(struct ram *, gpa at, u8 byte, size_t n) MUST_CHECK;
/* For loaders: writes through to ROM too. */
bool ram_load(struct ram *, gpa at, const void *from, size_t n) MUST_CHECK;

/* Gives memory back to the host: whole 4 KiB pages inside the range read as zeroes from then
 * on. false when some of it is not writable RAM (the rest is done nevertheless). */
bool ram_discard(struct ram *, gpa at, u64 len);

/* Atomic 8/16/32-bit loads and stores of naturally aligned guest memory (virtqueue indices). */
bool ram_get_u16(const struct ram *, gpa at, u16 *ret) MUST_CHECK;
bool ram_put_u16(struct ram *, gpa at, u16 val) MUST_CHECK;
bool ram_get_u32(const struct ram *, gpa at, u32 *ret) MUST_CHECK;
bool ram_put_u32(struct ram *, gpa at, u32 val) MUST_CHECK;

/* A scattered buffer in guest RAM: host pieces, bounded, consumed from the front. */
enum ram_dir { RAM_FROM_GUEST, RAM_TO_GUEST };
enum { IOVS_MAX = 1024 };
struct iovs {
    struct ram *ram;
    u32 n, cap;      /* pieces used, room */
    struct iovec *v; /* grows up to IOVS_MAX; iovs_free() */
    size_t left;     /* bytes not yet taken */
    u32 cur;         /* first piece not used up (v[cur] shrinks as it is taken) */
    enum ram_dir dir;
};
void iovs_init(struct iovs *, struct ram *, enum ram_dir);
void iovs_free(struct iovs *);
/* Appends guest range; false when it is not RAM or there are too many pieces. */
bool ram_iov(struct ram *, gpa at, size_t n, struct iovs *) MUST_CHECK;
/* Take exactly n bytes off the front, or fail and take none. iovs_put marks pages written. */
bool iovs_get(struct iovs *, void *to, size_t n) MUST_CHECK;
bool iovs_put(struct iovs *, const void *from, size_t n) MUST_CHECK;
bool iovs_skip(struct iovs *, size_t n) MUST_CHECK;
/* After another party (preadv) has written into the pieces: marks them written. Call it while
 * v[] is as it was handed out. */
void iovs_written(const struct iovs *);

/* ram_discard() of all pieces that are left. */
bool iovs_discard(const struct iovs *);

/* --- for CPU backends, migration and display ------------------------------------------------
 */

struct ram_page {
    u8 *host; /* start of the 4 KiB page */
    _Atomic u8 *flags;
    u64 index; /* unique number of the page over all blocks */
    bool rom;
};
/* The page that holds `at`; false when that is not RAM. */
bool ram_page(const struct ram *, gpa at, struct ram_page *ret) MUST_CHECK;

/* Marks host range (inside some block) as written: dirty bits, and the code watch if needed. */
void ram_written(struct ram *, const u8 *host, size_t n);
/* Called for writes to pages with RAM_PAGE_CODE: page index, offset and length in the page.
 * One watcher (the translator). Any thread. */
void ram_set_watch(struct ram *, void (*fn)(void *opaque, u64 index, u32 off, u32 len),
                   void *opaque);

/* Starts or stops a log; `who` is one of RAM_PAGE_DIRTY_*. Starting marks nothing dirty. The
 * listener of ram_commit() is told, as backends must start or stop tracking. */
void ram_log(struct ram *, u8 who, bool on);
u8 ram_logging(const struct ram *);
/* Reads and clears the log of a block: bit i of bitmap = page i was written. The backend's
 * `dirty` operation has to have been called first to fetch what it knows. */
void ram_log_fetch(struct ram *, u8 who, struct ram_block *, unsigned long *bitmap);
