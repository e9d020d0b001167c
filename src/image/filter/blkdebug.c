// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkdebug.c - fails on demand, for tests: QEMU's filter of that name, of which this has
 *
 *     driver=blkdebug,image.driver=...,inject-error.0.iotype=write,inject-error.0.errno=28,
 *     inject-error.0.sector=100,inject-error.0.once=on
 *
 * An error happens to requests of its kind (all kinds) that touch its sector (any sector),
 * every time or once.  Rules bound to the driver's inner events are refused.
 */
#include <errno.h>

#include "base/error.h"
#include "image/drivers.h"

enum { RULES_MAX = 16, SECTOR = 512 };
enum kind { KIND_READ, KIND_WRITE, KIND_ZERO, KIND_DISCARD, KIND_FLUSH, KIND_STATUS, KINDS };

struct rule {
    u32 kinds; /* bits */
    int err;
    u64 sector; /* UINT64_MAX: all */
    bool once;
    _Atomic bool spent;
};
struct blkdebug {
    struct node node;
    struct rule rule[RULES_MAX];
    u32 n_rules;
};

/* 0, or the error that shall be. */
static int injected(struct node *n, enum kind kind, u64 at, u64 len)
{
    struct blkdebug *b = container_of(n, struct blkdebug, node);

    for (u32 i = 0; i < b->n_rules; i++) {
        struct rule *r = &b->rule[i];
        bool here = r->sector == UINT64_MAX || kind == KIND_FLUSH ||
                    (r->sector >= at / SECTOR && r->sector <= (at + len - 1) / SECTOR);

        if (!(r->kinds & BIT(kind)) || !here || (r->once && atomic_exchange(&r->spent, true)))
            continue;
        return -r->err;
    }
    return 0;
}

static int debug_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = injected(n, KIND_READ, at, len);

    return r ? r : node_read(n->file, at, len, c);
}

static int debug_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = injected(n, KIND_WRITE, at, len);

    return r ? r : node_write(n->file, at, len, c);
}

static int debug_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    int r = injected(n, KIND_ZERO, at, len);

    return r ? r : node_zero(n->file, at, len, may_unmap);
}

static int debug_discard(struct node *n, u64 at, u64 len)
{
    int r = injected(n, KIND_DISCARD, at, len);

    return r ? r : node_discard(n->file, at, len);
}

static int debug_flush(struct node *n)
{
    int r = injected(n, KIND_FLUSH, 0, 1);

    return r ? r : node_flush(n->file);
}

static int debug_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    int r = injected(n, KIND_STATUS, at, len);

    return r ? r : node_status(n->file, at, len, ret);
}

static bool debug_resize(struct node *n, u64 size, const char *preallocation UNUSED,
                         GError **error)
{
    if (!node_truncate(n->file, size, error))
        return false;
    n->size = n->file->size;
    return true;
}

static void rule_take(struct rule *r, struct dict *d)
{
    static const char *const kinds[] = { "read",    "write", "write-zeroes",
                                         "discard", "flush", "block-status",
                                         NULL };
    static const char *const events[] = { "none", NULL };
    int kind = dict_enum(d, "iotype", kinds, -1);

    dict_enum(d, "event", events, 0);
    dict_bool(d, "immediately", false);
    r->kinds = kind < 0 ? BIT(KINDS) - 1 : BIT(kind);
    r->err = (int)dict_num(d, "errno", EIO, 1, 4095);
    r->sector = dict_num(d, "sector", UINT64_MAX, 0, INT64_MAX / SECTOR);
    r->once = dict_bool(d, "once", false);
}

static bool debug_open(struct node *n, struct dict *o, const struct open_how *how UNUSED,
                       GError **error)
{
    struct blkdebug *b = container_of(n, struct blkdebug, node);

    n->size = n->file->size;
    n->cluster = n->file->cluster;
    for (u32 i = 0;; i++) {
        char key[32];

        g_snprintf(key, sizeof key, "inject-error.%u", i);
        g_autodict d = dict_take(o, key);
        if (!d)
            return true;
        if (i == RULES_MAX)
            return fail(error, ERR_LIMIT, "blkdebug: more than %d rules", RULES_MAX);
        rule_take(&b->rule[b->n_rules++], d);
        if (!dict_done(d, "blkdebug: inject-error", error))
            return false;
    }
}

const struct driver filter_blkdebug = {
    .name = "blkdebug",
    .kind = FILTER,
    .size = sizeof(struct blkdebug),
    .child = "image",
    .open = debug_open,
    .read = debug_read,
    .write = debug_write,
    .zero = debug_zero,
    .discard = debug_discard,
    .flush = debug_flush,
    .status = debug_status,
    .resize = debug_resize,
};
