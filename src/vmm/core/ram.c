// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ram.c - guest RAM: blocks, the slot map, bounded access, dirty and code flags.  See ram.h.
 *
 * A write goes: bytes, full fence, flags.  The fence is what makes two hand-overs safe without
 * a lock: a log that is cleared and then reads the page, and a translator that sets
 * RAM_PAGE_CODE and then reads the bytes.  Either they see our bytes or we see their flag.
 */
#include "vmm/core/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/core/quiescent.h"

enum { RAM_BLOCKS_MAX = 64, RAM_LISTENERS_MAX = 8 };

struct ram {
    struct ram_map *_Atomic map;
    GArray *next; /* struct ram_slot: what ram_commit() will publish; topology lock */
    struct ram_block *blocks[RAM_BLOCKS_MAX];
    _Atomic u32 n_blocks;
    u64 pages;
    _Atomic u8 logging;
    void (*watch)(void *opaque, u64 index, u32 off, u32 len);
    void *watch_opaque;
    struct {
        void (*fn)(void *opaque);
        void *opaque;
    } listeners[RAM_LISTENERS_MAX];
    u32 n_listeners;
};

struct ram *ram_new(void)
{
    struct ram *r = g_new0(struct ram, 1);

    r->next = g_array_new(false, false, sizeof(struct ram_slot));
    atomic_init(&r->map, g_malloc0(sizeof(struct ram_map)));
    return r;
}

static void block_free(struct ram_block *b)
{
    if (b->host)
        munmap(b->host, b->size);
    if (b->flags)
        munmap(b->flags, b->size >> RAM_PAGE_SHIFT);
    fd_close(&b->fd);
    g_free((char *)b->name);
    g_free(b);
}

void ram_free(struct ram *r)
{
    if (!r)
        return;
    for (u32 i = 0; i < r->n_blocks; i++)
        block_free(r->blocks[i]);
    g_array_free(r->next, true);
    g_free(atomic_load(&r->map));
    g_free(r);
}

static void *map_sparse(u64 size, int fd)
{
    int flags = MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

struct ram_block *ram_block_new(struct ram *r, const char *name, u64 size, GError **error)
{
    if (!size || size % RAM_PAGE_SIZE || size > INT64_MAX) {
        fail(error, ERR_ARGUMENT,
             "RAM block '%s': a size of %" G_GUINT64_FORMAT
             " bytes is not a multiple of 4096 in range",
             name, size);
        return NULL;
    }
    if (r->n_blocks == RAM_BLOCKS_MAX || ram_block_find(r, name)) {
        fail(error, ERR_LIMIT, "RAM block '%s': exists already, or there are %u of them", name,
             r->n_blocks);
        return NULL;
    }

    struct ram_block *b = g_new0(struct ram_block, 1);
    b->name = g_strdup(name);
    b->size = size;
    b->fd = memfd_create(name, MFD_CLOEXEC);
    if (b->fd < 0 || ftruncate(b->fd, (s64)size) < 0 || !(b->host = map_sparse(size, b->fd)) ||
        !(b->flags = map_sparse(size >> RAM_PAGE_SHIFT, -1))) {
        fail_errno(error, errno,
                   "RAM block '%s': no %" G_GUINT64_FORMAT " bytes of host memory", name, size);
        block_free(b);
        return NULL;
    }
    madvise(b->host, size, MADV_DONTDUMP);
    b->index_base = r->pages;
    r->pages += size >> RAM_PAGE_SHIFT;
    r->blocks[r->n_blocks] = b;
    atomic_fetch_add(&r->n_blocks, 1); /* publishes the entry */
    return b;
}

u64 ram_pages(const struct ram *r)
{
    return r->pages;
}

struct ram_block *ram_block_find(struct ram *r, const char *name)
{
    for (u32 i = 0; i < r->n_blocks; i++) {
        if (!strcmp(r->blocks[i]->name, name))
            return r->blocks[i];
    }
    return NULL;
}

u32 ram_block_count(const struct ram *r)
{
    return r->n_blocks;
}

struct ram_block *ram_block_at(const struct ram *r, u32 i)
{
    return i < r->n_blocks ? r->blocks[i] : NULL;
}

/* --- the map --------------------------------------------------------------------------------
 */

void ram_unmap(struct ram *r, gpa at, u64 len)
{
    if (!len)
        return;
    u64 last = len - 1 > UINT64_MAX - at ? UINT64_MAX : at + (len - 1);

    for (u32 i = 0; i < r->next->len;) {
        struct ram_slot s = g_array_index(r->next, struct ram_slot, i);
        u64 s_last = s.at + (s.len - 1);

        if (s_last < at || s.at > last) {
            i++;
            continue;
        }
        g_array_remove_index(r->next, i);
        if (s.at < at) {
            struct ram_slot head = s;
            head.len = at - s.at;
            g_array_insert_val(r->next, i, head);
            i++;
        }
        if (s_last > last) {
            struct ram_slot tail = s;
            tail.at = last + 1;
            tail.off = s.off + (tail.at - s.at);
            tail.len = s_last - last;
            g_array_insert_val(r->next, i, tail);
            i++;
        }
    }
}

void ram_map_at(struct ram *r, gpa at, u64 len, struct ram_block *b, u64 off, bool rom)
{
    struct ram_slot s = { .at = at, .len = len, .block = b, .off = off, .rom = rom };
    u32 i = 0;

    g_assert((at | len | off) % RAM_PAGE_SIZE == 0);
    g_assert(len && len <= b->size && off <= b->size - len);
    if (len - 1 > UINT64_MAX - at) {
        log_guest("RAM block '%s' does not fit at %#" G_GINT64_MODIFIER "x", b->name, at);
        return;
    }
    ram_unmap(r, at, len);
    while (i < r->next->len && g_array_index(r->next, struct ram_slot, i).at < at)
        i++;
    g_array_insert_val(r->next, i, s);
}

static void tell_listeners(struct ram *r)
{
    for (u32 i = 0; i < r->n_listeners; i++)
        r->listeners[i].fn(r->listeners[i].opaque);
}

static bool slots_join(const struct ram_slot *a, const struct ram_slot *b)
{
    return a->block == b->block && a->rom == b->rom && b->at - a->at == a->len &&
           b->off - a->off == a->len;
}

void ram_commit(struct ram *r)
{
    struct ram_map *old = atomic_load(&r->map);
    struct ram_map *new = g_malloc0(sizeof *new + r->next->len * sizeof(struct ram_slot));

    for (u32 i = 0; i < r->next->len; i++) {
        struct ram_slot s = g_array_index(r->next, struct ram_slot, i);
        if (new->n && slots_join(&new->slot[new->n - 1], &s))
            new->slot[new->n - 1].len += s.len;
        else
            new->slot[new->n++] = s;
    }
    new->generation = old->generation + 1;
    atomic_store(&r->map, new);
    core_retire(old, g_free);
    tell_listeners(r);
}

void ram_listen(struct ram *r, void (*fn)(void *opaque), void *opaque)
{
    g_assert(r->n_listeners < RAM_LISTENERS_MAX);
    r->listeners[r->n_listeners].fn = fn;
    r->listeners[r->n_listeners++].opaque = opaque;
}

const struct ram_map *ram_current(const struct ram *r)
{
    return atomic_load(&r->map);
}

static inline const struct ram_slot *slot_find(const struct ram_map *m, gpa at)
{
    for (u32 lo = 0, hi = m->n; lo < hi;) {
        u32 mid = (lo + hi) / 2;
        const struct ram_slot *s = &m->slot[mid];

        if (at < s->at)
            hi = mid;
        else if (at - s->at >= s->len)
            lo = mid + 1;
        else
            return s;
    }
    return NULL;
}

const struct ram_slot *ram_slot_find(const struct ram *r, gpa at)
{
    return slot_find(ram_current(r), at);
}

u64 ram_size(const struct ram *r)
{
    bool entered = core_enter();
    const struct ram_map *m = ram_current(r);
    u64 sum = 0;

    for (u32 i = 0; i < m->n; i++)
        sum += m->slot[i].rom ? 0 : m->slot[i].len;
    core_leave(entered);
    return sum;
}

/* --- flags ----------------------------------------------------------------------------------
 */

static void block_written(struct ram *r, struct ram_block *b, u64 off, size_t n)
{
    u8 logging = atomic_load_explicit(&r->logging, memory_order_relaxed);

    if ((!logging && !r->watch) || !n)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    while (n) {
        u64 page = off >> RAM_PAGE_SHIFT;
        u32 in = off % RAM_PAGE_SIZE;
        u32 len = (u32)MIN(n, (size_t)(RAM_PAGE_SIZE - in));
        u8 flags = atomic_load_explicit(&b->flags[page], memory_order_relaxed);

        if (logging & ~flags)
            atomic_fetch_or(&b->flags[page], logging);
        if (unlikely(flags & RAM_PAGE_CODE) && r->watch)
            r->watch(r->watch_opaque, b->index_base + page, in, len);
        off += len;
        n -= len;
    }
}

void ram_written(struct ram *r, const u8 *host, size_t n)
{
    u32 blocks = atomic_load_explicit(&r->n_blocks, memory_order_acquire);

    for (u32 i = 0; i < blocks; i++) {
        struct ram_block *b = r->blocks[i];
        if (host >= b->host && host < b->host + b->size) {
            u64 off = (u64)(host - b->host);
            block_written(r, b, off, MIN(n, b->size - off));
            return;
        }
    }
}

/* The whole pages of block[off, off + len). */
static bool block_discard(struct ram *r, struct ram_block *b, u64 off, u64 len)
{
    u64 end = ROUND_DOWN(off + len, (u64)RAM_PAGE_SIZE);

    off = ROUND_UP(off, (u64)RAM_PAGE_SIZE);
    if (off >= end)
        return true;
    if (fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (s64)off,
                  (s64)(end - off)) < 0)
        return false;
    block_written(r, b, off, end - off);
    return true;
}

bool ram_discard(struct ram *r, gpa at, u64 len)
{
    bool ok = true, entered;

    if (len > UINT64_MAX - at)
        return false;
    entered = core_enter();
    const struct ram_map *m = ram_current(r);
    for (u32 i = 0; i < m->n && len; i++) {
        const struct ram_slot *s = &m->slot[i];

        if (s->at + (s->len - 1) < at)
            continue;
        if (s->at > at) { /* a hole before this slot */
            u64 gap = MIN(len, s->at - at);
            ok = false;
            at += gap;
            len -= gap;
            if (!len)
                break;
        }
        u64 n = MIN(len, s->len - (at - s->at));
        ok &= !s->rom && block_discard(r, s->block, s->off + (at - s->at), n);
        at += n;
        len -= n;
    }
    core_leave(entered);
    return ok && !len;
}

bool iovs_discard(const struct iovs *v)
{
    struct ram *r = v->ram;
    bool ok = true;

    for (u32 i = v->cur; i < v->n; i++) {
        const u8 *host = v->v[i].iov_base;
        bool done = false;

        for (u32 k = 0; k < r->n_blocks && !done; k++) {
            struct ram_block *b = r->blocks[k];
            if (host < b->host || host >= b->host + b->size)
                continue;
            u64 off = (u64)(host - b->host);
            done = block_discard(r, b, off, MIN(v->v[i].iov_len, b->size - off));
        }
        ok &= done;
    }
    return ok;
}

void ram_set_watch(struct ram *r, void (*fn)(void *opaque, u64 index, u32 off, u32 len),
                   void *opaque)
{
    r->watch_opaque = opaque;
    r->watch = fn;
}

void ram_log(struct ram *r, u8 who, bool on)
{
    if (on)
        atomic_fetch_or(&r->logging, who & RAM_PAGE_DIRTY);
    else
        atomic_fetch_and(&r->logging, (u8) ~(who & RAM_PAGE_DIRTY));
    tell_listeners(r);
}

u8 ram_logging(const struct ram *r)
{
    return atomic_load(&r->logging);
}

void ram_log_fetch(struct ram *r, u8 who, struct ram_block *b, unsigned long *bitmap)
{
    u64 pages = b->size >> RAM_PAGE_SHIFT;
    const u64 all = 0x0101010101010101u * who;

    memset(bitmap, 0, ROUND_UP(pages, 64) / 8);
    for (u64 i = 0; i < pages; i++) {
        /* Most of a guest's memory is clean: look at eight pages at a time. */
        if (i % 8 == 0 && i + 8 <= pages &&
            !(__atomic_load_n((const u64 *)(const void *)(b->flags + i), __ATOMIC_RELAXED) &
              all)) {
            i += 7;
            continue;
        }
        if (!(atomic_load_explicit(&b->flags[i], memory_order_relaxed) & who))
            continue;
        atomic_fetch_and(&b->flags[i], (u8)~who);
        bitmap[i / 64] |= 1ul << (i % 64);
    }
}

bool ram_page(const struct ram *r, gpa at, struct ram_page *ret)
{
    bool entered = core_enter();
    const struct ram_slot *s = slot_find(ram_current(r), at);

    if (s) {
        u64 off = s->off + (ROUND_DOWN(at, RAM_PAGE_SIZE) - s->at);
        u64 page = off >> RAM_PAGE_SHIFT;

        *ret = (struct ram_page){ .host = s->block->host + off,
                                  .flags = s->block->flags + page,
                                  .index = s->block->index_base + page,
                                  .rom = s->rom };
    }
    core_leave(entered);
    return s;
}

/* --- access ---------------------------------------------------------------------------------
 */

enum op { OP_GET, OP_PUT, OP_FILL, OP_LOAD };

static bool ram_copy(const struct ram *cr, gpa at, void *buf, size_t n, enum op op)
{
    struct ram *r = (struct ram *)cr; /* only flags change, and only for writes */
    bool entered = core_enter(), ok = true;
    const struct ram_map *m = ram_current(r);
    u8 *p = buf;

    while (n) {
        const struct ram_slot *s = slot_find(m, at);

        if (!s || (s->rom && (op == OP_PUT || op == OP_FILL))) {
            ok = false;
            break;
        }
        u64 off = s->off + (at - s->at);
        size_t len = MIN(n, s->len - (at - s->at));
        u8 *host = s->block->host + off;

        if (op == OP_GET)
            memcpy(p, host, len);
        else if (op == OP_FILL)
            memset(host, *p, len);
        else
            memcpy(host, p, len);
        if (op != OP_GET)
            block_written(r, s->block, off, len);
        p += op == OP_FILL ? 0 : len;
        n -= len;
        at += len; /* may wrap to 0 at the very end: then n decides */
        if (!at && n) {
            ok = false;
            break;
        }
    }
    core_leave(entered);
    return ok;
}

bool ram_get(const struct ram *r, gpa at, void *to, size_t n)
{
    return ram_copy(r, at, to, n, OP_GET);
}

bool ram_put(struct ram *r, gpa at, const void *from, size_t n)
{
    return ram_copy(r, at, (void *)from, n, OP_PUT);
}

bool ram_fill(struct ram *r, gpa at, u8 byte, size_t n)
{
    return ram_copy(r, at, &byte, n, OP_FILL);
}

bool ram_load(struct ram *r, gpa at, const void *from, size_t n)
{
    return ram_copy(r, at, (void *)from, n, OP_LOAD);
}

/* The slot of a naturally aligned integer; it never crosses a page. */
#define RAM_ATOMIC(bits)                                                                       \
    bool ram_get_u##bits(const struct ram *r, gpa at, u##bits *ret)                            \
    {                                                                                          \
        if (at % sizeof *ret)                                                                  \
            return ram_get(r, at, ret, sizeof *ret);                                           \
        bool entered = core_enter();                                                           \
        const struct ram_slot *s = slot_find(ram_current(r), at);                              \
                                                                                               \
        if (s)                                                                                 \
            *ret = le##bits##toh(                                                              \
                __atomic_load_n((u##bits *)(void *)(s->block->host + s->off + (at - s->at)),   \
                                __ATOMIC_ACQUIRE));                                            \
        core_leave(entered);                                                                   \
        return s;                                                                              \
    }                                                                                          \
                                                                                               \
    bool ram_put_u##bits(struct ram *r, gpa at, u##bits val)                                   \
    {                                                                                          \
        u##bits le = htole##bits(val);                                                         \
                                                                                               \
        if (at % sizeof le)                                                                    \
            return ram_put(r, at, &le, sizeof le);                                             \
        bool entered = core_enter();                                                           \
        const struct ram_slot *s = slot_find(ram_current(r), at);                              \
        bool ok = s && !s->rom;                                                                \
                                                                                               \
        if (ok) {                                                                              \
            u64 off = s->off + (at - s->at);                                                   \
            __atomic_store_n((u##bits *)(void *)(s->block->host + off), le, __ATOMIC_RELEASE); \
            block_written(r, s->block, off, sizeof le);                                        \
        }                                                                                      \
        core_leave(entered);                                                                   \
        return ok;                                                                             \
    }
RAM_ATOMIC(16)
RAM_ATOMIC(32)
