// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vhdx.c - Hyper-V's VHDX ([MS-VHDX]): two headers of which the one with the higher sequence
 * number holds, a log, regions for the block allocation table (BAT) and for metadata.
 *
 *   0 identifier | 64 KiB header 1 | 128 KiB header 2 | 192, 256 KiB region tables
 *   1 MiB log | BAT | metadata | blocks, each at a multiple of 1 MiB
 *
 * A log that somebody left is replayed when the image is opened for writing.  We write none: a
 * BAT entry is eight bytes in one sector, and is written after the block it points to is
 * durable; a header is written to the place of the older one.
 *
 * In the BAT, an entry for a sector bitmap follows each chunk of blocks (only differencing
 * disks, which are not supported, use those).
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/format/blocks.h"

enum {
    HEADER_BYTES = 4096,
    REGION_TABLE_BYTES = 64 << 10,
    REGION_ENTRIES_MAX = 2047,
    META_ENTRIES_MAX = 2047,
    META_ITEMS_AT = 64 << 10,
    LOG_SECTOR = 4096,
    LOG_MAX = 256 << 20,
    LOG_BUDGET = 16, /* times the log's length may be read to find the entries */
    BLOCK_MIN = 1 << 20,
    BLOCK_MAX = 256 << 20,
    FLAG_FIXED = 1,
    FLAG_PARENT = 2,
    META_IS_DISK = 2,
    META_REQUIRED = 4,
};
#define SIZE_MAX_BYTES (64ull << 40)
#define GROW_MAX       (4 * GiB) /* by a log's replay */
#define HEADER_AT(i)   ((u64)(64 << 10) * (1 + (i)))
#define TABLE_AT(i)    ((u64)(64 << 10) * (3 + (i)))

enum bat_state {
    STATE_NONE = 0,
    STATE_UNDEFINED = 1,
    STATE_ZERO = 2,
    STATE_UNMAPPED = 3,
    STATE_PRESENT = 6
};
#define BAT_OFFSET ~(MiB - 1)

struct guid {
    u8 b[16];
};
/* As they lie on disk: the first three fields are little endian. */
static const struct guid guid_bat = { { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d,
                                        0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 } };
static const struct guid guid_meta = { { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8,
                                         0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e } };
static const struct guid guid_params = { { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3,
                                           0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b } };
static const struct guid guid_size = { { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2,
                                         0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8 } };
static const struct guid guid_page83 = { { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93,
                                           0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46 } };
static const struct guid guid_logical = { { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                            0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f } };
static const struct guid guid_physical = { { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                             0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 } };

struct vhdx_header {
    char signature[4]; /* "head" */
    le32 checksum;
    le64 sequence;
    struct guid file_write, data_write, log;
    le16 log_version, version;
    le32 log_length;
    le64 log_offset;
    u8 pad[HEADER_BYTES - 80];
};
_Static_assert(sizeof(struct vhdx_header) == HEADER_BYTES, "a VHDX header has 4 KiB");

struct region_entry {
    struct guid guid;
    le64 offset;
    le32 length, required;
};
struct region_table {
    char signature[4]; /* "regi" */
    le32 checksum, count, reserved;
    struct region_entry e[REGION_ENTRIES_MAX];
    u8 pad[16];
};
_Static_assert(sizeof(struct region_table) == REGION_TABLE_BYTES, "a region table has 64 KiB");

struct meta_entry {
    struct guid guid;
    le32 offset, length, flags, reserved;
};
struct meta_table {
    char signature[8]; /* "metadata" */
    le16 reserved, count;
    u8 reserved2[20];
    struct meta_entry e[META_ENTRIES_MAX];
};
_Static_assert(sizeof(struct meta_table) == META_ITEMS_AT, "a metadata table has 64 KiB");

struct log_header {
    char signature[4]; /* "loge" */
    le32 checksum, length, tail;
    le64 sequence;
    le32 count, reserved;
    struct guid log;
    le64 flushed_size, last_size;
};
_Static_assert(sizeof(struct log_header) == 64, "a log entry's header has 64 bytes");
struct log_descriptor {
    char signature[4]; /* "desc" or "zero" */
    u8 trailing[4];
    union {
        u8 leading[8];
        le64 zero_length;
    };
    le64 offset, sequence;
};
_Static_assert(sizeof(struct log_descriptor) == 32, "a log descriptor has 32 bytes");
struct log_data {
    char signature[4]; /* "data" */
    le32 sequence_high;
    u8 bytes[4084];
    le32 sequence_low;
};
_Static_assert(sizeof(struct log_data) == LOG_SECTOR, "a log's data sector has 4 KiB");

struct region {
    u64 at, len;
};
struct vhdx {
    struct blocks_node bn;
    struct vhdx_header h;
    u32 slot;  /* where h lies */
    u32 ratio; /* blocks in a chunk */
    struct region bat, meta;
    u64 size_at; /* the disk size's place */
    pthread_mutex_t lock;
    bool marked; /* the header says that we write */
};

/* --- CRC-32C ---------------------------------------------------------------------------------
 */

static u32 crc_table[256];

static void crc_init(void)
{
    static gsize once;

    if (!g_once_init_enter(&once))
        return;
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (u32 k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0x82f63b78 : c >> 1;
        crc_table[i] = c;
    }
    g_once_init_leave(&once, 1);
}

/* Of n bytes, as if the four at `field` were zeroes. */
static u32 crc32c(const void *p, size_t n, size_t field)
{
    const u8 *b = p;
    u32 c = ~0u;

    crc_init();
    for (size_t i = 0; i < n; i++)
        c = c >> 8 ^ crc_table[(c ^ (i - field < 4 ? 0 : b[i])) & 0xff];
    return ~c;
}

/* --- headers ---------------------------------------------------------------------------------
 */

static int vhdx_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                      size_t n_tail UNUSED, const char *filename UNUSED)
{
    return n_head >= 8 && !memcmp(head, "vhdxfile", 8) ? 100 : 0;
}

static struct guid random_guid(void)
{
    struct guid g;

    for (u32 i = 0; i < sizeof g.b; i++)
        g.b[i] = (u8)g_random_int();
    g.b[7] = (g.b[7] & 0x0f) | 0x40;
    g.b[8] = (g.b[8] & 0x3f) | 0x80;
    return g;
}

static bool guid_is(const struct guid *a, const struct guid *b)
{
    return !memcmp(a, b, sizeof *a);
}

static bool load_headers(struct vhdx *v, GError **error)
{
    struct node *n = &v->bn.node;
    bool found = false;

    for (u32 i = 0; i < 2; i++) {
        struct vhdx_header h;

        if (!node_load(n->file, HEADER_AT(i), &h, sizeof h, "a VHDX header", error))
            return false;
        if (memcmp(h.signature, "head", 4) != 0 || le16_get(h.version) != 1 ||
            le32_get(h.checksum) != crc32c(&h, sizeof h, 4))
            continue;
        if (found && le64_get(h.sequence) <= le64_get(v->h.sequence))
            continue;
        v->h = h;
        v->slot = i;
        found = true;
    }
    return found || fail(error, ERR_FORMAT, "image '%s': it has no VHDX header that is whole",
                         n->filename);
}

/* Writes v->h as the newer one, over the older. */
static int write_header(struct vhdx *v)
{
    struct node *file = v->bn.node.file;

    v->slot = !v->slot;
    v->h.sequence = le64_of(le64_get(v->h.sequence) + 1);
    v->h.checksum = le32_of(crc32c(&v->h, sizeof v->h, 4));
    int r = node_pwrite(file, HEADER_AT(v->slot), &v->h, sizeof v->h);
    return r ? r : node_flush(file);
}

/* Before the first change: other programs can tell that file and data are not what they were.
 */
static int mark(struct vhdx *v)
{
    int r = 0;

    pthread_mutex_lock(&v->lock);
    if (!v->marked) {
        v->h.file_write = random_guid();
        v->h.data_write = random_guid();
        r = write_header(v);
        if (!r)
            r = write_header(v); /* both places, so that neither is stale */
        v->marked = !r;
    }
    pthread_mutex_unlock(&v->lock);
    return r;
}

/* --- the log ---------------------------------------------------------------------------------
 */

struct log {
    u8 *bytes;
    u64 len, budget;
    struct guid guid;
};

/* n bytes from `at` on, around the end. */
static void log_get(const struct log *l, u64 at, void *to, u64 n)
{
    u64 first = MIN(n, l->len - at % l->len);

    memcpy(to, l->bytes + at % l->len, first);
    memcpy((u8 *)to + first, l->bytes, n - first);
}

/* The entry at `at`, whole; NULL: there is none. g_free. */
static u8 *log_entry(struct log *l, u64 at)
{
    struct log_header h;

    log_get(l, at, &h, sizeof h);
    u64 len = le32_get(h.length), count = le32_get(h.count);
    if (memcmp(h.signature, "loge", 4) != 0 || !guid_is(&h.log, &l->guid) || !len ||
        len % LOG_SECTOR || len > l->len || !le64_get(h.sequence) ||
        le32_get(h.tail) % LOG_SECTOR || le32_get(h.tail) >= l->len ||
        count > (len - sizeof h) / sizeof(struct log_descriptor) || len > l->budget)
        return NULL;
    l->budget -= len;
    g_autofree u8 *e = g_try_malloc(len);
    if (!e)
        return NULL;
    log_get(l, at, e, len);
    return crc32c(e, len, 4) == le32_get(h.checksum) ? g_steal_pointer(&e) : NULL;
}

static u64 entry_sequence(const u8 *e)
{
    return le64_get(((const struct log_header *)(const void *)e)->sequence);
}

/* Follows entries from `at`; returns how far; *sequence: of the last, *tail: where it says that
 * the valid ones begin, *whole: that is one of those seen. */
static u64 log_follow(struct log *l, u64 at, u64 *sequence, u64 *tail, bool *whole)
{
    GArray *starts = g_array_new(FALSE, FALSE, sizeof(u64));
    u64 n = 0;

    *sequence = 0;
    while (n < l->len) {
        u64 here = (at + n) % l->len;
        g_autofree u8 *e = log_entry(l, here);
        const struct log_header *h = (const void *)e;

        if (!e || (*sequence && entry_sequence(e) != *sequence + 1))
            break;
        *sequence = entry_sequence(e);
        *tail = le32_get(h->tail);
        n += le32_get(h->length);
        g_array_append_val(starts, here);
    }
    *whole = false;
    for (guint i = 0; i < starts->len; i++)
        *whole |= g_array_index(starts, u64, i) == *tail;
    g_array_unref(starts);
    return n;
}

static int apply_descriptor(struct node *file, const struct log_descriptor *d, u64 sequence,
                            const struct log_data *data)
{
    u64 at = le64_get(d->offset), len = LOG_SECTOR;
    bool zero = !memcmp(d->signature, "zero", 4);

    if (zero)
        len = le64_get(d->zero_length);
    if (at % LOG_SECTOR || len % LOG_SECTOR || le64_get(d->sequence) != sequence ||
        len > file->size || at > file->size - len)
        return -EBADMSG;
    if (zero)
        return node_zero(file, at, len, true);
    if (memcmp(data->signature, "data", 4) != 0 ||
        ((u64)le32_get(data->sequence_high) << 32 | le32_get(data->sequence_low)) != sequence)
        return -EBADMSG;
    u8 sector[LOG_SECTOR];
    memcpy(sector, d->leading, 8);
    memcpy(sector + 8, data->bytes, sizeof data->bytes);
    memcpy(sector + LOG_SECTOR - 4, d->trailing, 4);
    return node_pwrite(file, at, sector, sizeof sector);
}

static int apply_entry(struct node *file, const u8 *e)
{
    const struct log_header *h = (const void *)e;
    const struct log_descriptor *d = (const void *)(h + 1);
    u64 len = le32_get(h->length), count = le32_get(h->count);
    u64 data_at = ROUND_UP(sizeof *h + count * sizeof *d, LOG_SECTOR);
    u64 last = le64_get(h->last_size), size = file->size;
    int r = 0;

    if (le64_get(h->flushed_size) > size || (last > size && last - size > GROW_MAX))
        return -EBADMSG;
    if (last > size)
        r = node_zero(file, size, last - size, true);
    for (u64 i = 0; i < count && !r; i++) {
        bool zero = !memcmp(d[i].signature, "zero", 4);

        if (!zero && (memcmp(d[i].signature, "desc", 4) != 0 || data_at + LOG_SECTOR > len))
            return -EBADMSG;
        r = apply_descriptor(file, &d[i], le64_get(h->sequence), (const void *)(e + data_at));
        if (!zero)
            data_at += LOG_SECTOR;
    }
    return r;
}

static int log_apply(struct node *file, struct log *l, u64 tail, u64 head_sequence)
{
    u64 sequence = 0, n = 0;

    l->budget = 2 * l->len;
    while (sequence != head_sequence && n < l->len) {
        g_autofree u8 *e = log_entry(l, tail + n);
        int r = e ? apply_entry(file, e) : -EBADMSG;

        if (r)
            return r;
        sequence = entry_sequence(e);
        n += le32_get(((const struct log_header *)(const void *)e)->length);
    }
    return node_flush(file);
}

static bool replay(struct vhdx *v, GError **error)
{
    struct node *n = &v->bn.node;
    struct log l = { .len = le32_get(v->h.log_length), .guid = v->h.log };
    u64 best = 0, best_tail = 0;
    static const struct guid none;

    if (guid_is(&v->h.log, &none))
        return true;
    if (le16_get(v->h.log_version) || !l.len || l.len % MiB)
        return fail(error, ERR_FORMAT, "image '%s': its log is of an unknown kind",
                    n->filename);
    g_autofree u8 *bytes = node_load_new(n->file, le64_get(v->h.log_offset), l.len, LOG_MAX,
                                         "the VHDX log", error);
    if (!bytes)
        return false;
    l.bytes = bytes;
    l.budget = LOG_BUDGET * l.len;
    for (u64 at = 0; at < l.len;) {
        u64 sequence, tail = 0;
        bool whole;
        u64 len = log_follow(&l, at, &sequence, &tail, &whole);

        if (whole && sequence > best) {
            best = sequence;
            best_tail = tail;
        }
        at += MAX(len, LOG_SECTOR);
    }
    if (best && n->read_only)
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': it was not closed properly, and its log is to be replayed: "
                    "open it for writing once",
                    n->filename);
    int r = best ? log_apply(n->file, &l, best_tail, best) : 0;
    if (r == -EBADMSG)
        return fail(error, ERR_FORMAT, "image '%s': its log is damaged", n->filename);
    memset(&v->h.log, 0, sizeof v->h.log);
    if (!r && !n->read_only)
        r = write_header(v);
    if (!r && !n->read_only)
        r = write_header(v);
    return !r || fail_errno(error, -r, "image '%s': replaying its log", n->filename);
}

/* --- regions and metadata --------------------------------------------------------------------
 */

static bool load_regions(struct vhdx *v, GError **error)
{
    struct node *n = &v->bn.node;
    g_autofree struct region_table *t = g_new(struct region_table, 1);
    bool ok = false;

    for (u32 i = 0; i < 2 && !ok; i++) {
        if (!node_load(n->file, TABLE_AT(i), t, sizeof *t, "a VHDX region table", error))
            return false;
        ok = !memcmp(t->signature, "regi", 4) && le32_get(t->count) <= REGION_ENTRIES_MAX &&
             le32_get(t->checksum) == crc32c(t, sizeof *t, 4);
    }
    if (!ok)
        return fail(error, ERR_FORMAT, "image '%s': it has no VHDX region table that is whole",
                    n->filename);
    for (u32 i = 0; i < le32_get(t->count); i++) {
        struct region r = { le64_get(t->e[i].offset), le32_get(t->e[i].length) };
        struct region *to = guid_is(&t->e[i].guid, &guid_bat)    ? &v->bat
                            : guid_is(&t->e[i].guid, &guid_meta) ? &v->meta
                                                                 : NULL;

        if (!to && le32_get(t->e[i].required))
            return fail(error, ERR_UNSUPPORTED,
                        "image '%s': it requires a region that is unknown here", n->filename);
        if (!to)
            continue;
        if (to->len || r.at < MiB || r.at % MiB || !r.len || r.len % MiB ||
            r.len > n->file->size || r.at > n->file->size - r.len)
            return fail(error, ERR_FORMAT, "image '%s': its region table is damaged",
                        n->filename);
        *to = r;
    }
    ok = v->bat.len && v->meta.len &&
         (v->bat.at + v->bat.len <= v->meta.at || v->meta.at + v->meta.len <= v->bat.at);
    return ok ||
           fail(error, ERR_FORMAT,
                "image '%s': its BAT and metadata regions are missing or overlap", n->filename);
}

/* Reads exactly n bytes of an item; *at: where it lies. */
static bool load_item(struct vhdx *v, const struct meta_table *t, const struct guid *guid,
                      void *to, u32 len, u64 *at, GError **error)
{
    struct node *n = &v->bn.node;

    for (u32 i = 0; i < le16_get(t->count); i++) {
        u64 offset = le32_get(t->e[i].offset);

        if (!guid_is(&t->e[i].guid, guid))
            continue;
        if (le32_get(t->e[i].length) < len || offset < META_ITEMS_AT || offset > v->meta.len ||
            len > v->meta.len - offset)
            break;
        *at = v->meta.at + offset;
        return node_load(n->file, *at, to, len, "VHDX metadata", error);
    }
    return fail(error, ERR_FORMAT, "image '%s': its metadata are incomplete", n->filename);
}

static bool load_metadata(struct vhdx *v, GError **error)
{
    static const struct guid *const known[] = { &guid_params, &guid_size, &guid_page83,
                                                &guid_logical, &guid_physical };
    struct node *n = &v->bn.node;
    g_autofree struct meta_table *t = g_new(struct meta_table, 1);
    struct {
        le32 block, flags;
    } params;
    le64 size;
    le32 logical;
    u64 at;
    const char *wrong = NULL;

    if (!node_load(n->file, v->meta.at, t, sizeof *t, "the VHDX metadata table", error))
        return false;
    if (memcmp(t->signature, "metadata", 8) != 0 || le16_get(t->count) > META_ENTRIES_MAX)
        return fail(error, ERR_FORMAT, "image '%s': its metadata table is damaged",
                    n->filename);
    if (!load_item(v, t, &guid_params, &params, sizeof params, &at, error) ||
        !load_item(v, t, &guid_logical, &logical, sizeof logical, &at, error) ||
        !load_item(v, t, &guid_size, &size, sizeof size, &v->size_at, error))
        return false;
    u32 block = le32_get(params.block), sector = le32_get(logical);
    if (le32_get(params.flags) & FLAG_PARENT)
        wrong = "it is a differencing disk, which is not supported";
    for (u32 i = 0; i < le16_get(t->count) && !wrong; i++) {
        bool found = !(le32_get(t->e[i].flags) & META_REQUIRED);
        for (u32 k = 0; k < ARRAY_LEN(known); k++)
            found |= guid_is(&t->e[i].guid, known[k]);
        if (!found)
            wrong = "it requires metadata that are unknown here";
    }
    if (!wrong && (block < BLOCK_MIN || block > BLOCK_MAX || (block & (block - 1))))
        wrong = "its block size is not possible";
    else if (!wrong && sector != 512 && sector != 4096)
        wrong = "its sector size is not possible";
    else if (!wrong && (le64_get(size) > SIZE_MAX_BYTES || le64_get(size) % sector))
        wrong = "its size is not possible";
    if (wrong)
        return fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
    n->size = le64_get(size);
    n->cluster = block;
    v->ratio = (u32)((BIT(23) * sector) / block);
    return true;
}

/* --- blocks ----------------------------------------------------------------------------------
 */

static u64 bat_entries(u64 size, u64 block, u32 ratio)
{
    u64 blocks = (size + block - 1) / block;

    return blocks ? blocks + (blocks - 1) / ratio : 0;
}

static u64 vhdx_slot(const struct blocks *b, u64 index)
{
    return index + index / container_of(b, struct vhdx, bn.b)->ratio;
}

static struct block vhdx_decode(const struct blocks *b UNUSED, u64 index UNUSED, u64 e)
{
    switch (e & 7) {
    case STATE_NONE:
    case STATE_UNDEFINED:
    case STATE_UNMAPPED:
        return (struct block){ .kind = BLOCK_NONE };
    case STATE_ZERO:
        return (struct block){ .kind = BLOCK_ZERO };
    case STATE_PRESENT:
        return (struct block){ .kind = BLOCK_DATA, .host = e & BAT_OFFSET };
    }
    return (struct block){ .kind = BLOCK_BROKEN };
}

static u64 vhdx_encode(const struct blocks *b UNUSED, u64 index UNUSED, struct block k)
{
    return k.kind == BLOCK_DATA   ? k.host | STATE_PRESENT
           : k.kind == BLOCK_ZERO ? STATE_ZERO
                                  : STATE_NONE;
}

static const struct blocks_ops vhdx_ops = {
    .slot = vhdx_slot,
    .decode = vhdx_decode,
    .encode = vhdx_encode,
};

static void vhdx_close(struct node *n)
{
    struct vhdx *v = container_of(n, struct vhdx, bn.node);

    blocks_close(&v->bn.b);
    pthread_mutex_destroy(&v->lock);
}

static bool open_all(struct vhdx *v, GError **error)
{
    struct node *n = &v->bn.node;
    struct blocks *b = &v->bn.b;
    char id[8];

    if (!node_load(n->file, 0, id, sizeof id, "the VHDX identifier", error))
        return false;
    if (memcmp(id, "vhdxfile", 8) != 0)
        return fail(error, ERR_FORMAT, "image '%s': it is no VHDX image", n->filename);
    if (!load_headers(v, error) || !replay(v, error) || !load_regions(v, error) ||
        !load_metadata(v, error))
        return false;
    *b = (struct blocks){ .ops = &vhdx_ops,
                          .n = n,
                          .file = n->file,
                          .size = n->size,
                          .block = n->cluster,
                          .align = MiB,
                          .data_min = MiB,
                          .zero_kind = true,
                          .entry_bytes = 8,
                          .table_at = v->bat.at,
                          .entries = bat_entries(n->size, n->cluster, v->ratio) };
    if (b->entries > v->bat.len / 8)
        return fail(error, ERR_FORMAT, "image '%s': its BAT is too short for its size",
                    n->filename);
    return blocks_open(b, error);
}

static bool vhdx_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                      GError **error)
{
    struct vhdx *v = container_of(n, struct vhdx, bn.node);

    pthread_mutex_init(&v->lock, NULL);
    if (open_all(v, error))
        return true;
    vhdx_close(n);
    return false;
}

static int vhdx_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = mark(container_of(n, struct vhdx, bn.node));

    return r ? r : blocks_node_write(n, at, len, c);
}

static int vhdx_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    int r = mark(container_of(n, struct vhdx, bn.node));

    return r ? r : blocks_node_zero(n, at, len, may_unmap);
}

static int vhdx_discard(struct node *n, u64 at, u64 len)
{
    int r = mark(container_of(n, struct vhdx, bn.node));

    return r ? r : blocks_node_discard(n, at, len);
}

/* --- creation --------------------------------------------------------------------------------
 */

static const struct image_option vhdx_options[] = {
    { "size", OPTION_SIZE, "Virtual disk size; max of 64TB.", NULL },
    { "log_size", OPTION_SIZE, "Log size; min 1MB.", "1048576" },
    { "block_size", OPTION_SIZE,
      "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.", "0" },
    { "subformat", OPTION_STR,
      "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.", NULL },
    { "block_state_zero", OPTION_BOOL,
      "Mark the blocks of a new dynamic image as zeroes rather than as not present", NULL },
    { NULL },
};

static int write_start(struct node *file, u64 log, struct region bat, struct region meta)
{
    static const char creator[] = "P\0o\0s\0a\0d\0a\0";
    struct vhdx_header h = { .signature = { 'h', 'e', 'a', 'd' } };
    g_autofree struct region_table *t = g_new0(struct region_table, 1);
    u8 first[64] = "vhdxfile";
    int r;

    memcpy(first + 8, creator, sizeof creator - 1);
    h.file_write = random_guid();
    h.data_write = random_guid();
    h.version = le16_of(1);
    h.log_length = le32_of((u32)log);
    h.log_offset = le64_of(MiB);
    memcpy(t->signature, "regi", 4);
    t->count = le32_of(2);
    t->e[0] =
        (struct region_entry){ guid_bat, le64_of(bat.at), le32_of((u32)bat.len), le32_of(1) };
    t->e[1] = (struct region_entry){ guid_meta, le64_of(meta.at), le32_of((u32)meta.len),
                                     le32_of(1) };
    t->checksum = le32_of(crc32c(t, sizeof *t, 4));
    if ((r = node_pwrite(file, 0, first, sizeof first)))
        return r;
    for (u32 i = 0; i < 2 && !r; i++) {
        h.sequence = le64_of(i + 1);
        h.checksum = le32_of(0);
        h.checksum = le32_of(crc32c(&h, sizeof h, 4));
        r = node_pwrite(file, HEADER_AT(i), &h, sizeof h);
        if (!r)
            r = node_pwrite(file, TABLE_AT(i), t, sizeof *t);
    }
    return r;
}

static void add_item(struct meta_table *t, u8 *items, u32 *at, const struct guid *guid,
                     const void *value, u32 len, u32 flags)
{
    u16 i = le16_get(t->count);

    t->e[i] = (struct meta_entry){ *guid, le32_of(META_ITEMS_AT + *at), le32_of(len),
                                   le32_of(flags), le32_of(0) };
    memcpy(items + *at, value, len);
    *at += len;
    t->count = le16_of(i + 1);
}

static int write_metadata(struct node *file, struct region meta, u64 size, u64 block,
                          bool fixed)
{
    g_autofree struct meta_table *t = g_new0(struct meta_table, 1);
    u8 items[64];
    u32 at = 0;
    le32 params[2] = { le32_of((u32)block), le32_of(fixed ? FLAG_FIXED : 0) };
    le64 disk = le64_of(size);
    le32 sector = le32_of(512);
    struct guid page83 = random_guid();

    memcpy(t->signature, "metadata", 8);
    add_item(t, items, &at, &guid_params, params, sizeof params, META_REQUIRED);
    add_item(t, items, &at, &guid_size, &disk, sizeof disk, META_REQUIRED | META_IS_DISK);
    add_item(t, items, &at, &guid_page83, &page83, sizeof page83, META_REQUIRED | META_IS_DISK);
    add_item(t, items, &at, &guid_logical, &sector, sizeof sector,
             META_REQUIRED | META_IS_DISK);
    add_item(t, items, &at, &guid_physical, &sector, sizeof sector,
             META_REQUIRED | META_IS_DISK);
    int r = node_pwrite(file, meta.at, t, sizeof *t);
    return r ? r : node_pwrite(file, meta.at + META_ITEMS_AT, items, at);
}

/* All entries of a new BAT; blocks lie one after another from `data` on, if there are any. */
static int write_bat(struct node *file, u64 bat, u64 entries, u32 ratio, u64 block, u64 data,
                     u32 state)
{
    le64 part[512];

    for (u64 i = 0, k = 0; i < entries;) {
        u64 n = MIN(entries - i, ARRAY_LEN(part));

        for (u64 j = 0; j < n; j++) {
            if ((i + j) % (ratio + 1ull) == ratio) /* a chunk's bitmap */
                part[j] = le64_of(0);
            else
                part[j] = le64_of((state == STATE_PRESENT ? data + k++ * block : 0) | state);
        }
        int r = node_pwrite(file, bat + i * 8, part, n * 8);
        if (r)
            return r;
        i += n;
    }
    return 0;
}

static u64 default_block(u64 size)
{
    return size > 32 * KiB * GiB ? 64 * MiB
           : size > 100 * GiB    ? 32 * MiB
           : size > GiB          ? 16 * MiB
                                 : 8 * MiB;
}

static bool vhdx_create(struct node *file, u64 size, struct dict *o, GError **error)
{
    static const char *const kinds[] = { "dynamic", "fixed", NULL };
    u64 log = dict_size(o, "log_size", MiB, UINT32_MAX);
    u64 block = dict_size(o, "block_size", 0, UINT32_MAX);
    bool fixed = dict_enum(o, "subformat", kinds, 0) == 1;
    u32 state = dict_bool(o, "block_state_zero", true) ? STATE_ZERO : STATE_NONE;

    size = ROUND_UP(size, 512);
    if (size > SIZE_MAX_BYTES)
        return fail(error, ERR_LIMIT, "Image size too large; max of 64TB");
    if (!block)
        block = default_block(size);
    block = ROUND_UP(block, MiB);
    if (block > BLOCK_MAX || (block & (block - 1)))
        return fail(error, ERR_ARGUMENT,
                    "'%s': a VHDX image's block size is a power of two from 1 to 256 MiB",
                    file->filename);
    log = ROUND_UP(MAX(log, MiB), MiB);
    if (log > LOG_MAX)
        return fail(error, ERR_LIMIT, "'%s': a log has at most 256 MiB", file->filename);
    u32 ratio = (u32)((BIT(23) * 512) / block);
    u64 entries = bat_entries(size, block, ratio);
    struct region bat = { MiB + log, MAX(ROUND_UP(entries * 8, MiB), MiB) };
    struct region meta = { bat.at + bat.len, MiB };
    u64 data = meta.at + meta.len;
    u64 end = data + (fixed ? (size + block - 1) / block * block : 0);
    int r = node_zero(file, 0, end, true);
    if (!r)
        r = write_bat(file, bat.at, entries, ratio, block, data, fixed ? STATE_PRESENT : state);
    if (!r)
        r = write_metadata(file, meta, size, block, fixed);
    if (!r)
        r = write_start(file, log, bat, meta);
    return !r || create_failed(file, r, error);
}

/* As far as the BAT's region has room. */
static bool vhdx_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    struct vhdx *v = container_of(n, struct vhdx, bn.node);
    struct blocks *b = &v->bn.b;
    u64 entries;
    le64 disk;

    size = ROUND_UP(size, 4096);
    entries = bat_entries(size, b->block, v->ratio);
    disk = le64_of(size);
    if (preallocation && strcmp(preallocation, "off") != 0)
        return fail(error, ERR_UNSUPPORTED, "Unsupported preallocation mode '%s'",
                    preallocation);
    if (size < n->size)
        return fail(error, ERR_UNSUPPORTED, "image '%s': VHDX images cannot be shrunk",
                    n->filename);
    if (size > SIZE_MAX_BYTES || entries > v->bat.len / 8)
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': its BAT has no room for that size; convert it to a larger one",
                    n->filename);
    int r = mark(v);
    if (!r)
        r = blocks_flush(b);
    if (!r && entries > b->entries)
        r = node_zero(n->file, b->table_at + b->entries * 8, (entries - b->entries) * 8, false);
    if (!r)
        r = node_flush(n->file);
    if (!r)
        r = node_pwrite(n->file, v->size_at, &disk, sizeof disk);
    if (!r)
        r = node_flush(n->file);
    if (r)
        return fail_errno(error, -r, "image '%s': growing", n->filename);
    pthread_mutex_lock(&b->lock);
    blocks_forget(b);
    b->entries = MAX(entries, b->entries);
    b->size = size;
    n->size = b->size;
    pthread_mutex_unlock(&b->lock);
    return true;
}

const struct driver format_vhdx = {
    .name = "vhdx",
    .kind = FORMAT,
    .size = sizeof(struct vhdx),
    .new_is_zero = true,
    .probe = vhdx_probe,
    .open = vhdx_open,
    .close = vhdx_close,
    BLOCKS_READ_OPS,
    .write = vhdx_write,
    .zero = vhdx_zero,
    .discard = vhdx_discard,
    .flush = blocks_node_flush,
    .create_options = vhdx_options,
    .create = vhdx_create,
    .resize = vhdx_resize,
    .info = blocks_node_info,
    .check = blocks_node_check,
};
