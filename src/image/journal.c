// SPDX-License-Identifier: GPL-2.0-or-later
/* journal.c - see journal.h. */
#include "image/journal.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { SECTOR = 512 };
struct op {
    enum { OP_WRITE, OP_SIZE, OP_FLUSH } kind;
    u64 at, len; /* OP_SIZE: len; OP_FLUSH: at is how many operations it covers */
    u8 *data;    /* NULL: zeroes */
    u32 time;
};
struct journal {
    struct node node;
    pthread_mutex_t lock;
    GByteArray *bytes;
    GArray *ops;
    u32 left; /* before failures */
    _Atomic u32 *clock, own_clock;
};

static void op_clear(void *p)
{
    g_free(((struct op *)p)->data);
}

static void apply(GByteArray *b, u64 at, const u8 *data, u64 len)
{
    if (at + len > b->len) {
        guint was = b->len;

        g_byte_array_set_size(b, (guint)(at + len));
        memset(b->data + was, 0, b->len - was);
    }
    if (data)
        memcpy(b->data + at, data, len);
    else
        memset(b->data + at, 0, len);
}

static int record(struct journal *j, struct op op)
{
    pthread_mutex_lock(&j->lock);
    if (!j->left || op.at + op.len > 1 << 30) {
        int r = j->left ? -ENOSPC : -EIO;

        g_free(op.data);
        pthread_mutex_unlock(&j->lock);
        return r;
    }
    if (j->left != UINT32_MAX)
        j->left--;
    apply(j->bytes, op.at, op.data, op.len);
    j->node.size = j->bytes->len;
    op.time = (*j->clock)++;
    g_array_append_val(j->ops, op);
    pthread_mutex_unlock(&j->lock);
    return 0;
}

static int journal_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct journal *j = container_of(n, struct journal, node);

    pthread_mutex_lock(&j->lock);
    cursor_put(c, j->bytes->data + at, len);
    pthread_mutex_unlock(&j->lock);
    return 0;
}

static int journal_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct op op = { .kind = OP_WRITE, .at = at, .len = len, .data = g_malloc(len) };

    cursor_get(c, op.data, len);
    return record(container_of(n, struct journal, node), op);
}

static int journal_zero(struct node *n, u64 at, u64 len, bool may_unmap UNUSED)
{
    return record(container_of(n, struct journal, node),
                  (struct op){ .kind = OP_WRITE, .at = at, .len = len });
}

static int journal_discard(struct node *n, u64 at, u64 len)
{
    len = at < n->size ? MIN(len, n->size - at) : 0;
    return len ? journal_zero(n, at, len, true) : 0;
}

static int journal_flush(struct node *n)
{
    struct journal *j = container_of(n, struct journal, node);

    pthread_mutex_lock(&j->lock);
    struct op op = { .kind = OP_FLUSH, .at = j->ops->len };
    bool ok = j->left;
    if (ok) {
        op.time = (*j->clock)++;
        g_array_append_val(j->ops, op);
    }
    pthread_mutex_unlock(&j->lock);
    return ok ? 0 : -EIO;
}

static bool journal_resize(struct node *n, u64 size, const char *mode UNUSED,
                           GError **error UNUSED)
{
    struct journal *j = container_of(n, struct journal, node);
    struct op op = { .kind = OP_SIZE, .len = size };

    pthread_mutex_lock(&j->lock);
    guint was = j->bytes->len;
    g_byte_array_set_size(j->bytes, (guint)size);
    if (size > was)
        memset(j->bytes->data + was, 0, size - was);
    n->size = size;
    op.time = (*j->clock)++;
    g_array_append_val(j->ops, op);
    pthread_mutex_unlock(&j->lock);
    return true;
}

static void journal_close(struct node *n)
{
    struct journal *j = container_of(n, struct journal, node);

    g_byte_array_unref(j->bytes);
    g_array_unref(j->ops);
    pthread_mutex_destroy(&j->lock);
}

static bool journal_set_writable(struct node *n, bool on, GError **error UNUSED)
{
    n->read_only = !on;
    return true;
}

static const struct driver journal_driver = {
    .name = "journal",
    .kind = PROTOCOL,
    .size = sizeof(struct journal),
    .close = journal_close,
    .read = journal_read,
    .write = journal_write,
    .zero = journal_zero,
    .discard = journal_discard,
    .flush = journal_flush,
    .resize = journal_resize,
    .set_writable = journal_set_writable,
};

struct node *journal_new(void)
{
    return journal_new_on(NULL, "journal");
}

struct node *journal_new_on(_Atomic u32 *clock, const char *name)
{
    struct node *n = node_alloc(&journal_driver);
    struct journal *j = container_of(n, struct journal, node);

    pthread_mutex_init(&j->lock, NULL);
    j->bytes = g_byte_array_new();
    j->ops = g_array_new(FALSE, FALSE, sizeof(struct op));
    g_array_set_clear_func(j->ops, op_clear);
    j->left = UINT32_MAX;
    j->clock = clock ? clock : &j->own_clock;
    n->filename = g_strdup(name);
    n->discard = true;
    return n;
}

u32 journal_length(struct node *n)
{
    struct journal *j = container_of(n, struct journal, node);

    pthread_mutex_lock(&j->lock);
    u32 len = j->ops->len;
    pthread_mutex_unlock(&j->lock);
    return len;
}

u32 journal_length_at(struct node *n, u32 time)
{
    struct journal *j = container_of(n, struct journal, node);
    u32 len = 0;

    while (len < j->ops->len && g_array_index(j->ops, struct op, len).time < time)
        len++;
    return len;
}

u32 journal_before_flush(struct node *n, u32 from)
{
    struct journal *j = container_of(n, struct journal, node);

    while (from < j->ops->len && g_array_index(j->ops, struct op, from).kind != OP_FLUSH)
        from++;
    return from;
}

static void apply_op(GByteArray *b, const struct op *op)
{
    if (op->kind == OP_WRITE) {
        apply(b, op->at, op->data, op->len);
    } else if (op->kind == OP_SIZE) {
        guint was = b->len;

        g_byte_array_set_size(b, (guint)op->len);
        if (b->len > was)
            memset(b->data + was, 0, b->len - was);
    }
}

/* Some sectors of a write. chance: of eight, how many are there */
static void apply_some(GByteArray *b, const struct op *op, GRand *rand, int chance)
{
    for (u64 at = op->at; at < op->at + op->len;) {
        u64 part = MIN(op->at + op->len - at, SECTOR - at % SECTOR);

        if (g_rand_int_range(rand, 0, 8) < chance)
            apply(b, at, op->data ? op->data + (at - op->at) : NULL, part);
        at += part;
    }
}

struct node *journal_cut(struct node *n, u32 length, GRand *rand)
{
    struct journal *j = container_of(n, struct journal, node);
    struct node *to = journal_new();
    GByteArray *b = container_of(to, struct journal, node)->bytes;
    u32 sure = 0;

    for (u32 i = 0; i < length; i++) {
        const struct op *op = &g_array_index(j->ops, struct op, i);
        if (op->kind == OP_FLUSH)
            sure = MAX(sure, (u32)op->at);
    }
    for (u32 i = 0; i < sure; i++)
        apply_op(b, &g_array_index(j->ops, struct op, i));
    g_autofree u32 *order = g_new(u32, length - sure + 1);
    int chance = g_rand_int_range(rand, 0, 9);
    for (u32 i = sure; i < length; i++)
        order[i - sure] = i;
    for (u32 i = length - sure; i > 1; i--) {
        u32 k = (u32)g_rand_int_range(rand, 0, (s32)i), t = order[i - 1];

        order[i - 1] = order[k];
        order[k] = t;
    }
    for (u32 i = 0; i < length - sure; i++) {
        const struct op *op = &g_array_index(j->ops, struct op, order[i]);

        if (op->kind == OP_WRITE)
            apply_some(b, op, rand, chance);
        else if (op->kind == OP_SIZE && g_rand_boolean(rand))
            apply_op(b, op);
    }
    to->size = b->len;
    return to;
}

u8 *journal_bytes(struct node *n, u64 *ret_n)
{
    struct journal *j = container_of(n, struct journal, node);

    *ret_n = j->bytes->len;
    return g_memdup2(j->bytes->data, j->bytes->len);
}

void journal_fail_after(struct node *n, u32 writes)
{
    struct journal *j = container_of(n, struct journal, node);

    pthread_mutex_lock(&j->lock);
    j->left = writes;
    pthread_mutex_unlock(&j->lock);
}
