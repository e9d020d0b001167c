// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mem_test.h - for tests: a protocol node in memory that remembers in which order it was
 * written, so that a power cut at any point can be played.
 */
#pragma once

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/node.h"

struct mem_entry {
    enum { MEM_WRITE, MEM_ZERO, MEM_SIZE, MEM_FLUSH } what;
    u64 at, len;
    u8 *bytes;
};
struct mem {
    struct node node;
    u8 *bytes;
    u64 room;
    u8 *start; /* as it was when the journal began */
    u64 start_size;
    GArray *journal; /* NULL: not kept */
};

static void mem_note(struct mem *m, int what, u64 at, u64 len)
{
    struct mem_entry e = { what, at, len, NULL };

    if (!m->journal)
        return;
    if (what == MEM_WRITE)
        e.bytes = g_memdup2(m->bytes + at, len);
    g_array_append_val(m->journal, e);
}

static int mem_reach(struct mem *m, u64 end)
{
    enum { MEM_MAX = 256 << 20 };

    if (end > MEM_MAX)
        return -ENOSPC;
    if (end > m->room) {
        u64 room = MAX(end, m->room * 2);
        m->bytes = g_realloc(m->bytes, room);
        memset(m->bytes + m->room, 0, room - m->room);
        m->room = room;
    }
    if (end > m->node.size)
        m->node.size = end;
    return 0;
}

static int mem_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    cursor_put(c, container_of(n, struct mem, node)->bytes + at, len);
    return 0;
}

static int mem_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct mem *m = container_of(n, struct mem, node);
    int r = mem_reach(m, at + len);

    if (r)
        return r;
    cursor_get(c, m->bytes + at, len);
    mem_note(m, MEM_WRITE, at, len);
    return 0;
}

static int mem_zero(struct node *n, u64 at, u64 len, bool may_unmap UNUSED)
{
    struct mem *m = container_of(n, struct mem, node);
    int r = mem_reach(m, at + len);

    if (r)
        return r;
    memset(m->bytes + at, 0, len);
    mem_note(m, MEM_ZERO, at, len);
    return 0;
}

static int mem_flush(struct node *n)
{
    mem_note(container_of(n, struct mem, node), MEM_FLUSH, 0, 0);
    return 0;
}

static bool mem_resize(struct node *n, u64 size, const char *how UNUSED, GError **error)
{
    struct mem *m = container_of(n, struct mem, node);

    if (mem_reach(m, size))
        return fail(error, ERR_IO, "no memory");
    memset(m->bytes + size, 0, m->room - size);
    n->size = size;
    mem_note(m, MEM_SIZE, size, 0);
    return true;
}

static void mem_close(struct node *n)
{
    struct mem *m = container_of(n, struct mem, node);

    for (guint i = 0; m->journal && i < m->journal->len; i++)
        g_free(g_array_index(m->journal, struct mem_entry, i).bytes);
    if (m->journal)
        g_array_unref(m->journal);
    g_free(m->bytes);
    g_free(m->start);
}

static const struct driver mem_driver = {
    .name = "mem",
    .kind = PROTOCOL,
    .size = sizeof(struct mem),
    .close = mem_close,
    .read = mem_read,
    .write = mem_write,
    .zero = mem_zero,
    .flush = mem_flush,
    .resize = mem_resize,
};

static const struct driver mem_closed = { .name = "closed" };

static UNUSED struct node *mem_new(void)
{
    struct node *n = node_alloc(&mem_driver);

    n->filename = g_strdup("mem");
    return n;
}

static UNUSED void mem_journal(struct node *n)
{
    struct mem *m = container_of(n, struct mem, node);

    m->journal = g_array_new(FALSE, FALSE, sizeof(struct mem_entry));
    m->start = g_memdup2(m->bytes, n->size);
    m->start_size = n->size;
}

static UNUSED guint mem_entries(struct node *n)
{
    return container_of(n, struct mem, node)->journal->len;
}

/* What a disk may hold when the power goes after `at` entries: all before the last flush, and
 * of each sector written since, either. */
static UNUSED struct node *mem_cut(struct node *n, guint at, GRand *rand)
{
    struct mem *m = container_of(n, struct mem, node);
    struct node *left = mem_new();
    guint sure = 0;

    mem_reach(container_of(left, struct mem, node), m->start_size);
    memcpy(container_of(left, struct mem, node)->bytes, m->start, m->start_size);
    for (guint i = 0; i < at; i++) {
        if (g_array_index(m->journal, struct mem_entry, i).what == MEM_FLUSH)
            sure = i + 1;
    }
    for (guint i = 0; i < at; i++) {
        const struct mem_entry *e = &g_array_index(m->journal, struct mem_entry, i);
        u32 luck = i < sure ? 0 : (u32)g_rand_int_range(rand, 0, 3); /* all, some, none */

        if (e->what == MEM_FLUSH || luck == 2)
            continue;
        if (e->what == MEM_SIZE) {
            mem_resize(left, e->at, NULL, NULL);
            continue;
        }
        for (u64 k = 0; k < e->len;) {
            u64 part = MIN(512 - (e->at + k) % 512, e->len - k);
            if (!luck || g_rand_boolean(rand)) {
                if (e->bytes)
                    node_pwrite(left, e->at + k, e->bytes + k, part);
                else
                    node_zero(left, e->at + k, part, true);
            }
            k += part;
        }
    }
    return left;
}

/* Takes the file. */
static UNUSED struct node *mem_open(const struct driver *drv, struct node *file, bool write,
                                    GError **error)
{
    struct open_how how = { .write = write };
    struct node *n = node_alloc(drv);
    g_autodict options = dict_new();

    n->file = file;
    n->filename = g_strdup(file->filename);
    n->read_only = !write || !drv->write;
    file->read_only = !write;
    if (drv->open(n, options, &how, error))
        return n;
    n->drv = &mem_closed; /* close() is not called then */
    node_unref(n);
    return NULL;
}
