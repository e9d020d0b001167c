// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blocks.h - what most formats have in common: a table says for each block of the guest's disk
 * where in the file it lies.
 *
 *      root (first table, optional)      pages (of equal size)          file
 *      [0] ----------------------------> [entry][entry][entry] ...      block
 *      [1] not there: nothing allocated     `--------------------->     block
 *
 * A flat table is cut into pages, too, so that no image makes us hold its table in memory: a
 * fixed number of pages is kept.  A format describes its entries by struct blocks_ops and gets
 * reading, writing, status, zeroing, checking with locks and a safe order of writes from here.
 *
 * New blocks are made at the file's end (or where the format's room() says), which is extended
 * under the lock first; nothing is ever freed, so there is no block that an old table on disk
 * could still name.  Flush: data, counters (before), pages, root, trailers (after).
 *
 * A format whose whole disk lies in one piece (fixed) sets `flat`.
 */
#pragma once

#include <pthread.h>

#include "image/node.h"
#include "image/ranges.h"

enum block_kind { BLOCK_NONE, BLOCK_ZERO, BLOCK_DATA, BLOCK_PACKED, BLOCK_BROKEN };
struct block {
    enum block_kind kind;
    u64 host;  /* DATA, PACKED: byte in the file */
    u32 bytes; /* PACKED: how many, if the table says so */
};

struct blocks;
struct blocks_ops {
    /* An entry of the table, in host byte order. Whether host lies in the file is checked by
     * the caller, also against b->data_min. */
    struct block (*decode)(const struct blocks *, u64 index, u64 entry);
    /* Which entry is block index's; NULL: the index'th. */
    u64 (*slot)(const struct blocks *, u64 index);
    /* NULL: the table cannot be changed. */
    u64 (*encode)(const struct blocks *, u64 index, struct block);

    /* All that follow run with b->lock held, and may be NULL. */

    /* Finds room for *count blocks one after another, or fewer. */
    int (*room)(struct blocks *, u64 *count, u64 *host);
    /* Before the block at host is used for the first time: what the format keeps beside it. */
    int (*prepare)(struct blocks *, u64 host);
    /* Writes entries from..to of the root. */
    int (*write_root)(struct blocks *, u64 from, u64 to);
    /* Where a copy of page p belongs; 0: nowhere. */
    u64 (*mirror)(const struct blocks *, u64 p);
    /* A page was made at host: its copy, if there is one. */
    int (*page_made)(struct blocks *, u64 p);
    /* Flush: before the first table is written, and after the last. */
    int (*before)(struct blocks *);
    int (*after)(struct blocks *);

    /* Without the lock: a packed block's bytes, b->block of them. */
    int (*unpack)(struct blocks *, u64 index, struct block, u8 *to);
    /* Stores a block packed, for formats in which all blocks are; then write() does so. */
    int (*pack)(struct blocks *, u64 index, const u8 *from);
};

struct block_page {
    u64 index; /* UINT64_MAX: none is here */
    u8 *raw;
    u32 lo, hi; /* bytes that are newer than the file's; hi 0: none */
};
struct blocks_packed { /* the block unpacked last */
    _Atomic u32 refs;
    u64 index, host;
    u8 bytes[];
};

struct blocks {
    const struct blocks_ops *ops;
    struct node *n;    /* whose backing file shows through holes ... */
    u64 base;          /* ... and where in it we begin */
    struct node *file; /* where blocks and tables lie */
    u64 size;          /* of the guest's part, bytes */
    u32 block;         /* bytes */
    u32 align;         /* of new blocks */
    u64 data_min;      /* no block lies before it */
    u64 host_max;      /* no block may begin beyond it, for entries of few bits; 0: no limit */
    bool flat;         /* one piece, at data_min */
    bool zero_kind;    /* the table can say "zeroes" */

    u8 entry_bytes; /* 4 or 8 */
    bool big_endian, opened;
    u64 table_at, entries; /* flat table */
    u64 *root;             /* two levels: where pages lie, 0: nowhere; NULL: flat. Owned. */
    u64 root_len, root_lo, root_hi; /* hi 0: clean */
    u32 page_bytes;

    pthread_mutex_t lock; /* tables, end, packed */
    struct ranges ranges;
    struct block_page *pages;
    u32 n_pages;
    u64 end;      /* where the next new thing goes */
    bool changed; /* pages or root are newer than the file's */
    struct blocks_packed *packed;
};

/* Fields above the lock are set; checks that the table lies in the file.  Afterwards (also
 * after failure) blocks_close() frees, root included. */
bool blocks_open(struct blocks *, GError **error);
void blocks_close(struct blocks *);
int blocks_read(struct blocks *, u64 at, u64 len, struct cursor *);
int blocks_write(struct blocks *, u64 at, u64 len, struct cursor *);
int blocks_zero(struct blocks *, u64 at, u64 len, bool may_unmap);
int blocks_discard(struct blocks *, u64 at, u64 len);
int blocks_flush(struct blocks *);
int blocks_status(struct blocks *, u64 at, u64 len, struct extent *);
/* Walks all entries: outside of the file, or twice the same place; then the end of the file. */
bool blocks_check(struct blocks *, enum image_repair, struct image_check *, GError **error);

/* REQUIRES lock: for room() and others.  At the end of the file, extended with zeroes. */
int blocks_append(struct blocks *, u64 bytes, u32 align, u64 *host);
/* REQUIRES lock: makes host..host+bytes exist and be zeroes. */
int blocks_clear(struct blocks *, u64 host, u64 bytes);
int blocks_get(struct blocks *, u64 index, struct block *ret);
int blocks_set(struct blocks *, u64 index, struct block);
/* REQUIRES lock, and nobody else inside: forgets pages (clean ones), as after resizing. */
void blocks_forget(struct blocks *);
/* For formats that pack blocks on demand: waits until nobody uses block `index`. */
void blocks_enter(struct blocks *, struct range *, u64 index);
void blocks_leave(struct blocks *, struct range *);

/* A format with one table and nothing else begins with this, and uses BLOCKS_OPS. */
struct blocks_node {
    struct node node;
    struct blocks b;
};
int blocks_node_read(struct node *, u64 at, u64 len, struct cursor *);
int blocks_node_write(struct node *, u64 at, u64 len, struct cursor *);
int blocks_node_zero(struct node *, u64 at, u64 len, bool may_unmap);
int blocks_node_discard(struct node *, u64 at, u64 len);
int blocks_node_flush(struct node *);
int blocks_node_status(struct node *, u64 at, u64 len, struct extent *);
bool blocks_node_check(struct node *, enum image_repair, struct image_check *, GError **);
void blocks_node_info(struct node *, struct image_info *); /* never dirty */
void blocks_node_close(struct node *);
#define BLOCKS_READ_OPS .read = blocks_node_read, .status = blocks_node_status
#define BLOCKS_OPS                                                                             \
    BLOCKS_READ_OPS, .write = blocks_node_write, .zero = blocks_node_zero,                     \
                     .discard = blocks_node_discard, .flush = blocks_node_flush

/* Deflate.  Inflating: how many bytes came out, or -errno; what follows the stream is not
 * looked at. */
enum deflate_kind { DEFLATE_RAW, DEFLATE_ZLIB };
s64 inflate_to(enum deflate_kind, const void *from, size_t n, void *to, size_t n_to);
/* The length, 0 if it does not fit. */
size_t deflate_to(enum deflate_kind, const void *from, size_t n, void *to, size_t room);

/* For create(): -errno as an error that names the file. */
bool create_failed(struct node *file, int r, GError **error);
