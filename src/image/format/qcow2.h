// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2.h - inside the qcow2 format (versions 2 and 3; the specification is QEMU's
 * docs/interop/qcow2.txt).
 *
 *   header -> refcount table -> refcount blocks        how often each host cluster is used
 *          -> L1 table -> L2 tables -> data clusters   where each guest cluster lies
 *          -> snapshot table -> further L1 tables
 *
 * What is changed, and when it reaches the file.  L1 and the refcount table are held whole;
 * L2 tables and refcount blocks are cached in slices; all are changed in memory only.
 * qcow2_barrier() alone writes them, in this order:
 *
 *   1  refcount blocks; flush and the refcount table, if it changed
 *   2  flush: now data, copies made for copy-on-write and counts are durable
 *   3  L2 slices and L1 entries; flush
 *   4  clusters that 3 made unreachable are counted down, and may be used again
 *
 * so a power cut leaves counts that are too high at worst, which are leaks.  A new L2 table is
 * written as zeroes (or as its copy) when it is allocated, so it does not matter whether an L1
 * entry or the table's slices are the first of step 3 to arrive.  Changes to the whole (a
 * snapshot, a repair) are built aside and come into force by one write to the header's first
 * sector: qcow2_snapshot.c.
 *
 * Locks: flush_lock (recursive), then lock.  lock guards all tables; neither it nor a slice is
 * held while guest data move.  Requests stay out of each other's clusters by ranges.
 */
#pragma once

#include <pthread.h>

#include "image/drivers.h"
#include "image/luks.h"
#include "image/ranges.h"

#define QCOW2_MAGIC   0x514649fb
#define OFFSET_MASK   0x00fffffffffffe00ull
#define L2_COPIED     BIT(63)
#define L2_COMPRESSED BIT(62)
#define L2_ZERO       1ull
#define REFTABLE_MASK 0xfffffffffffffe00ull

enum {
    INCOMPAT_DIRTY = 1,
    INCOMPAT_CORRUPT = 2,
    INCOMPAT_DATA_FILE = 4,
    INCOMPAT_COMPRESSION = 8,
    INCOMPAT_EXTENDED_L2 = 16,
    INCOMPAT_KNOWN = 31
};
enum { COMPAT_LAZY_REFCOUNTS = 1 };
enum { AUTOCLEAR_BITMAPS = 1, AUTOCLEAR_DATA_FILE_RAW = 2 };
enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = 0xe2792aca,
    EXT_FEATURES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_CRYPTO = 0x0537be77,
    EXT_DATA_FILE = 0x44415441
};
enum { CRYPT_AES = 1, CRYPT_LUKS = 2 }; /* crypt_method */
enum { COMPRESSION_ZLIB = 0, COMPRESSION_ZSTD = 1 };
enum {
    L1_BYTES_MAX = 32 << 20,
    REFTABLE_BYTES_MAX = 8 << 20,
    SNAPSHOTS_MAX = 65536,
    SNAPSHOT_EXTRA_MAX = 1024,
    SNAPSHOT_TABLE_MAX = 64 << 20,
    SUBCLUSTERS = 32
};

struct qcow2_header {
    be32 magic, version;
    be64 backing_at;
    be32 backing_len, cluster_bits;
    be64 size;
    be32 crypt_method, l1_size;
    be64 l1_at;
    be64 reftable_at;
    be32 reftable_clusters, n_snapshots;
    be64 snapshots_at;
    /* version 3 */
    be64 incompatible, compatible, autoclear;
    be32 refcount_order, header_length;
    u8 compression, zero[7];
} __attribute__((packed));
enum { HEADER_V2 = 72, HEADER_V3 = 104 };

struct qcow2_extension {
    u32 type, len;
    u8 *data;
};

/* A piece of a table, cached. */
struct slice {
    u64 at; /* in the file; the key */
    u8 *data;
    u32 dirty_from, dirty_to; /* bytes; equal: clean */
    u32 next;                 /* in its bucket, index + 1 */
    bool busy;                /* being written by the barrier: stays */
    bool used;                /* lately */
};
struct slice_cache {
    u32 bytes; /* of a slice */
    u32 max, n, hand, n_dirty, mask;
    struct slice *slices;
    u32 *buckets;
};

struct qcow2_free {
    u64 at, len;
};
struct qcow2_snap {
    u64 l1_at;
    u32 l1_size;
    struct image_snapshot s;
    u32 extra_len; /* beyond what we know, kept as it is */
    u8 *extra;
};

struct qcow2 {
    struct node node;
    u32 version, cluster_bits, refcount_order;
    u32 l2_bits;       /* log2 of entries in an L2 table */
    u32 l2_entry;      /* bytes: 8 or 16 */
    u64 cluster, unit; /* unit: a subcluster, or the cluster where there are none */
    u64 incompatible, compatible, autoclear;
    u8 compression;
    u32 header_length;
    GPtrArray *extensions; /* struct qcow2_extension; without the backing format */
    bool discard;
    bool bitmaps_held; /* they are in memory, and in use as far as the file says */
    u32 crypt_method;        /* 0: not encrypted */
    struct crypt *crypt;     /* NULL: opened for its headers alone */
    struct luks luks;        /* the slots change under amend only */
    u64 crypt_at, crypt_len; /* where it lies */
    char *secret_id;         /* or NULL */

    pthread_mutex_t flush_lock, lock;
    struct ranges ranges;
    u64 *l1;
    u32 l1_size; /* entries */
    u64 l1_at;
    u32 l1_dirty_from, l1_dirty_to; /* entries */
    u64 *reftable;
    u32 reftable_size; /* entries */
    u64 reftable_at;
    u32 reftable_dirty_from, reftable_dirty_to;
    struct slice_cache l2, rc;
    u64 hint;         /* no cluster below is free */
    u64 packed_at;    /* where the next compressed cluster may go; 0: nowhere yet */
    GArray *freed;    /* struct qcow2_free: to be counted down by the barrier */
    GPtrArray *snaps; /* struct qcow2_snap */
    u64 snapshots_at, snapshots_len;
    _Atomic bool gone_bad; /* a flush failed: what is on disk is whole, no more writes */
    pthread_mutex_t pool_lock;
    GPtrArray *packers; /* struct packer, idle */
};
#define QCOW2(n) container_of(n, struct qcow2, node)

static inline u64 qcow2_l2_coverage(const struct qcow2 *q)
{
    return q->cluster << q->l2_bits;
}
static inline u64 qcow2_block_entries(const struct qcow2 *q)
{
    return q->cluster * 8 >> q->refcount_order;
}
static inline struct node *qcow2_data(struct qcow2 *q)
{
    return q->node.data_file ? q->node.data_file : q->node.file;
}

/* --- qcow2_cache.c --- */
void qcow2_cache_init(struct slice_cache *, u32 slice_bytes, u64 bytes_max);
void qcow2_cache_clear(struct slice_cache *);
/* The slice that lies at `at` (a multiple of its size). Valid until the lock is let go, which
 * this may do itself. REQUIRES(q->lock) */
int qcow2_slice(struct qcow2 *, struct slice_cache *, u64 at, struct slice **ret);
void qcow2_slice_dirty(struct slice_cache *, struct slice *, u32 from, u32 to);
/* Drops what is cached of a range, unwritten. REQUIRES(q->lock) */
void qcow2_cache_drop(struct slice_cache *, u64 at, u64 len);
/* Makes all that was written durable. Takes both locks. */
int qcow2_barrier(struct qcow2 *);
/* The same with flush_lock held; and everything freed is counted down and written, too. */
int qcow2_settle(struct qcow2 *);
void qcow2_l1_set(struct qcow2 *, u32 i, u64 entry); /* REQUIRES(q->lock) */

/* --- qcow2_refcount.c --- all REQUIRES(q->lock), and may let go of it for a while */
u64 refcount_get(const void *block, u64 i, u32 order);
void refcount_set(void *block, u64 i, u32 order, u64 count);
int qcow2_count(struct qcow2 *, u64 cluster, u64 *ret);
/* Between 1 and n clusters in a row, counted once; *ret_at in bytes. */
int qcow2_alloc(struct qcow2 *, u64 n, u64 *ret_at, u64 *ret_n);
int qcow2_alloc_exactly(struct qcow2 *, u64 n, u64 *ret_at);
int qcow2_alloc_packed(struct qcow2 *, u32 bytes, u64 *ret_at);
int qcow2_count_add(struct qcow2 *, u64 at, u64 len, s64 by);
void qcow2_free_later(struct qcow2 *, u64 at, u64 len);

/* --- qcow2_map.c --- */
enum run_type { RUN_UNALLOCATED, RUN_ZERO, RUN_DATA, RUN_PACKED };
struct run {
    enum run_type type;
    bool mine; /* nobody else's: may be written in place */
    u64 host;  /* DATA, and ZERO with storage behind it; 0: none */
    u64 len;
    u64 entry;
};
/* What lies at `at`, for at most len bytes. REQUIRES(q->lock) */
int qcow2_lookup(struct qcow2 *, u64 at, u64 len, struct run *);
int qcow2_read(struct node *, u64 at, u64 len, struct cursor *);
int qcow2_write(struct node *, u64 at, u64 len, struct cursor *);
int qcow2_write_compressed(struct node *, u64 at, u64 len, struct cursor *);
int qcow2_zero(struct node *, u64 at, u64 len, bool may_unmap);
int qcow2_discard(struct node *, u64 at, u64 len);
int qcow2_status(struct node *, u64 at, u64 len, struct extent *);
/* Gives all clusters of the range storage, as preallocation wants it. */
int qcow2_preallocate(struct qcow2 *, u64 at, u64 len);
/* Where a compressed cluster's bytes lie. */
void qcow2_packed_place(const struct qcow2 *, u64 entry, u64 *ret_at, u64 *ret_len);

/* --- qcow2_crypt.c --- */
bool qcow2_crypt_open(struct qcow2 *, struct dict *, const struct open_how *, GError **);
void qcow2_crypt_close(struct qcow2 *);
/* Data of the guest's `at`, which lie in the file at host.  A write that does not begin and end
 * with a sector wants its range alone. */
int qcow2_data_read(struct qcow2 *, u64 at, u64 host, u64 len, struct cursor *);
int qcow2_data_write(struct qcow2 *, u64 at, u64 host, u64 len, struct cursor *);
void qcow2_crypt_describe(const struct qcow2 *, GPtrArray *to);
bool qcow2_crypt_amend(struct qcow2 *, struct dict *, bool force, GError **);
/* How a new image is to be encrypted; strings are valid while the dict lives. */
struct qcow2_crypt_new {
    u32 method;
    struct luks_new luks; /* AES: secret_id alone */
};
bool qcow2_crypt_options(struct dict *, struct qcow2_crypt_new *ret, GError **);
struct crypt *qcow2_crypt_aes(const char *secret_id, GError **);

/* --- qcow2_pack.c --- compression; any thread */
/* Bytes of the result in to (which has n), 0: it does not become smaller, or -errno. */
s64 qcow2_pack(struct qcow2 *, void *to, const void *from, size_t n);
int qcow2_unpack(struct qcow2 *, void *to, size_t n, const void *from, size_t n_from);
void qcow2_packers_free(struct qcow2 *);

/* --- qcow2_snapshot.c --- */
extern const struct snapshot_ops qcow2_snapshot_ops;
bool qcow2_make_empty(struct node *, GError **);
bool qcow2_snapshots_load(struct qcow2 *, u64 at, u32 n, GError **);
void qcow2_snap_free(void *);

/* --- qcow2_check.c --- */
bool qcow2_check(struct node *, enum image_repair, struct image_check *, GError **);
/* How often each cluster is used, by what the tables say; the refcount structure itself left
 * out.  Nothing may be dirty. */
struct qcow2_counts {
    u32 *of;
    u8 *held; /* not free although nothing counts them; or NULL */
    u64 n;    /* clusters, with some room behind the file's end */
};
bool qcow2_count_references(struct qcow2 *, struct qcow2_counts *, GError **);
void qcow2_counts_free(struct qcow2_counts *);
/* Writes a refcount structure with these counts, into clusters that they call free, at or
 * behind the cluster first_free, and counts itself.  Nothing on disk refers to it yet. */
bool qcow2_write_refcounts(struct qcow2 *, struct qcow2_counts *, u64 first_free, u64 *ret_at,
                           u32 *ret_clusters, GError **);
/* The first of n clusters in a row that nobody uses, at or behind *from; 0: none. */
u64 qcow2_counts_take(struct qcow2_counts *, u64 *from, u64 n);
/* What is counted now, and the refcount structure in force, is not to be taken, whatever the
 * counts become. */
bool qcow2_counts_hold(struct qcow2 *, struct qcow2_counts *, GError **);
bool qcow2_counts_release(struct qcow2 *, struct qcow2_counts *, u64 at, u64 len);
/* All that an L2 table refers to, by times more. */
bool qcow2_counts_add_table(struct qcow2 *, struct qcow2_counts *, const u8 *table, s32 by);
/* The header says so now: it is the one in force. REQUIRES(q->lock) */
bool qcow2_switch_refcounts(struct qcow2 *, u64 at, u32 clusters, GError **);

/* --- qcow2_bitmap.c --- persistent dirty bitmaps */
enum { QCOW2_BITMAP_IN_USE = 1, QCOW2_BITMAP_AUTO = 2 };
struct qcow2_bitmap {
    char *name;
    u64 table_at, flags_at; /* in the file */
    u32 table_size;         /* entries */
    u32 flags, granularity_bits;
};
extern const struct bitmap_ops qcow2_bitmap_ops;
/* The directory, as the file has it, and where it lies; empty: there is none.  NULL and *error:
 * it is broken.  g_ptr_array_unref */
GPtrArray *qcow2_bitmaps(struct qcow2 *, u64 *ret_at, u64 *ret_len, GError **);
u64 *qcow2_bitmap_table(struct qcow2 *, const struct qcow2_bitmap *, GError **); /* g_free */

/* --- qcow2.c --- */
int qcow2_header_put(struct qcow2 *, size_t at, const void *from, size_t n);
bool qcow2_header_rewrite(struct qcow2 *, GError **);
