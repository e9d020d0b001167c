// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bus.c - port and memory-mapped I/O: the flattened map and the accesses through it.  See
 * bus.h.
 *
 * Changes rebuild the whole flat array from the list of mappings: there are some tens of them
 * and they change when the guest programs a BAR.
 */
#include "vmm/core/bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "vmm/core/dev.h"

struct mapping {
    u64 at, last; /* last may lie before at: nothing of it is on the bus */
    bool seen;    /* at..last is not empty */
    const struct region *r;
    struct dev *dev;
    int priority;
};

struct range {
    u64 first, last;
    const struct mapping *m;
};

/* Immutable once published. */
struct flat {
    u32 n, n_bells;
    struct doorbell *bells; /* sorted by at */
    struct range range[];
};

struct bus {
    char *name;
    u64 last; /* highest address */
    struct flat *_Atomic flat;
    pthread_mutex_t lock; /* all below; inside device locks */
    GPtrArray *mappings;  /* struct mapping *, in the order they came */
    GArray *bells;
    void (*listener)(void *opaque, const struct doorbell *, bool add);
    void *listener_opaque;
};

static void flat_free(void *p)
{
    struct flat *f = p;

    g_free(f->bells);
    g_free(f);
}

struct bus *bus_new(const char *name, u64 size)
{
    struct bus *b = g_new0(struct bus, 1);

    b->name = g_strdup(name);
    b->last = size - 1;
    atomic_init(&b->flat, g_malloc0(sizeof(struct flat)));
    pthread_mutex_init(&b->lock, NULL);
    b->mappings = g_ptr_array_new();
    b->bells = g_array_new(false, false, sizeof(struct doorbell));
    return b;
}

void bus_free(struct bus *b)
{
    if (!b)
        return;
    for (u32 i = 0; i < b->mappings->len; i++)
        g_free(b->mappings->pdata[i]);
    g_ptr_array_free(b->mappings, true);
    g_array_free(b->bells, true);
    flat_free(atomic_load(&b->flat));
    pthread_mutex_destroy(&b->lock);
    g_free(b->name);
    g_free(b);
}

/* --- the map --------------------------------------------------------------------------------
 */

static int compare_u64(const void *a, const void *b)
{
    u64 x = *(const u64 *)a, y = *(const u64 *)b;

    return x < y ? -1 : x > y;
}

static int compare_bells(const void *a, const void *b)
{
    return compare_u64(&((const struct doorbell *)a)->at, &((const struct doorbell *)b)->at);
}

static const struct mapping *winner(const struct bus *b, u64 at)
{
    const struct mapping *best = NULL;

    for (u32 i = 0; i < b->mappings->len; i++) {
        const struct mapping *m = b->mappings->pdata[i];
        if (m->seen && at >= m->at && at <= m->last && (!best || m->priority >= best->priority))
            best = m;
    }
    return best;
}

/* The owner changes only where some mapping begins or has just ended. */
static void publish(struct bus *b)
{
    u32 n = 0;
    g_autofree u64 *edge = g_new(u64, 2 * b->mappings->len + 1);

    for (u32 i = 0; i < b->mappings->len; i++) {
        const struct mapping *m = b->mappings->pdata[i];
        if (!m->seen)
            continue;
        edge[n++] = m->at;
        if (m->last < b->last)
            edge[n++] = m->last + 1;
    }
    qsort(edge, n, sizeof *edge, compare_u64);

    struct flat *f = g_malloc0(sizeof *f + n * sizeof(struct range));
    for (u32 i = 0; i < n; i++) {
        if (i && edge[i] == edge[i - 1])
            continue;
        const struct mapping *m = winner(b, edge[i]);
        struct range *prev = f->n ? &f->range[f->n - 1] : NULL;

        if (prev && prev->last == b->last) /* still open: ends here */
            prev->last = edge[i] - 1;
        if (!m)
            continue;
        if (prev && prev->m == m && prev->last == edge[i] - 1) {
            prev->last = b->last;
            continue;
        }
        f->range[f->n++] = (struct range){ edge[i], b->last, m };
    }
    if (b->bells->len) {
        f->n_bells = b->bells->len;
        f->bells = g_memdup2(b->bells->data, b->bells->len * sizeof(struct doorbell));
        qsort(f->bells, f->n_bells, sizeof *f->bells, compare_bells);
    }

    struct flat *old = atomic_load(&b->flat);
    atomic_store(&b->flat, f);
    core_retire(old, flat_free);
}

struct mapping *bus_map(struct bus *b, u64 at, const struct region *r, struct dev *d,
                        int priority)
{
    struct mapping *m = g_new0(struct mapping, 1);

    *m = (struct mapping){ .at = at, .r = r, .dev = d, .priority = priority };
    m->seen = at <= b->last && r->len;
    if (m->seen)
        m->last = r->len - 1 > b->last - at ? b->last : at + (r->len - 1);
    pthread_mutex_lock(&b->lock);
    g_ptr_array_add(b->mappings, m);
    publish(b);
    pthread_mutex_unlock(&b->lock);
    return m;
}

void bus_unmap(struct bus *b, struct mapping *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&b->lock);
    if (g_ptr_array_remove(b->mappings, m)) {
        publish(b);
        core_retire(m, g_free);
    }
    pthread_mutex_unlock(&b->lock);
}

void bus_unmap_dev(struct bus *b, struct dev *d)
{
    g_autoptr(GPtrArray) gone = g_ptr_array_new();

    pthread_mutex_lock(&b->lock);
    for (u32 i = b->mappings->len; i--;) {
        struct mapping *m = b->mappings->pdata[i];
        if (m->dev == d)
            g_ptr_array_add(gone, g_ptr_array_remove_index(b->mappings, i));
    }
    if (gone->len)
        publish(b);
    for (u32 i = 0; i < gone->len; i++)
        core_retire(gone->pdata[i], g_free);
    pthread_mutex_unlock(&b->lock);
}

/* --- accesses -------------------------------------------------------------------------------
 */

static u64 ones(unsigned size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

static const struct mapping *find(const struct flat *f, u64 at)
{
    for (u32 lo = 0, hi = f->n; lo < hi;) {
        u32 mid = (lo + hi) / 2;

        if (at < f->range[mid].first)
            hi = mid;
        else if (at > f->range[mid].last)
            lo = mid + 1;
        else
            return f->range[mid].m;
    }
    return NULL;
}

/* The largest aligned piece that the handler takes: at most `left` and region.max. */
static unsigned piece(const struct region *r, u64 off, unsigned left)
{
    unsigned step = r->max ? r->max : 8;

    while (step > left || (off & (step - 1)))
        step >>= 1;
    return step;
}

static u64 region_read(const struct mapping *m, u64 off, unsigned size)
{
    const struct region *r = m->r;
    u64 val = 0;

    for (unsigned done = 0; done < size;) {
        unsigned step = piece(r, off + done, size - done);
        u64 at = off + done, got;

        if (step < r->min) {
            u64 base = at & ~(u64)(r->min - 1);
            got = r->read(m->dev, base, r->min) >> (8 * (at - base));
        } else {
            got = r->read(m->dev, at, step);
        }
        val |= (got & ones(step)) << (8 * done);
        done += step;
    }
    return val;
}

static void region_write(const struct mapping *m, u64 off, u64 val, unsigned size)
{
    const struct region *r = m->r;

    for (unsigned done = 0; done < size;) {
        unsigned step = piece(r, off + done, size - done);
        u64 at = off + done, out = (val >> (8 * done)) & ones(step);

        if (step < r->min) {
            u64 base = at & ~(u64)(r->min - 1);
            r->write(m->dev, base, out << (8 * (at - base)), r->min);
        } else {
            r->write(m->dev, at, out, step);
        }
        done += step;
    }
}

static u64 flat_read(const struct flat *f, u64 at, unsigned size)
{
    const struct mapping *m = find(f, at);

    if (!m || !m->r->read)
        return ones(size);
    if (size > m->r->len - (at - m->at)) { /* size > 1, as the first byte is inside */
        unsigned half = size / 2;
        return flat_read(f, at, half) | flat_read(f, at + half, half) << (8 * half);
    }
    bool lock = m->dev && !m->r->unlocked;

    if (lock)
        dev_lock(m->dev);
    u64 val = region_read(m, at - m->at, size);
    if (lock)
        dev_unlock(m->dev);
    return val;
}

static void flat_write(const struct flat *f, u64 at, u64 val, unsigned size)
{
    const struct mapping *m = find(f, at);

    if (!m || !m->r->write)
        return;
    if (size > m->r->len - (at - m->at)) {
        unsigned half = size / 2;
        flat_write(f, at, val & ones(half), half);
        flat_write(f, at + half, val >> (8 * half), half);
        return;
    }
    bool lock = m->dev && !m->r->unlocked;

    if (lock)
        dev_lock(m->dev);
    region_write(m, at - m->at, val, size);
    if (lock)
        dev_unlock(m->dev);
}

static bool ring(const struct flat *f, u64 at, u64 val, unsigned size)
{
    u32 lo = 0, hi = f->n_bells;

    while (lo < hi) {
        u32 mid = (lo + hi) / 2;
        if (f->bells[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < f->n_bells && f->bells[lo].at == at; lo++) {
        const struct doorbell *d = &f->bells[lo];
        if ((d->size && d->size != size) || (d->match && d->val != val))
            continue;
        ssize_t w UNUSED = write(d->fd, &(u64){ 1 }, 8); /* a full counter rings already */
        return true;
    }
    return false;
}

u64 bus_read(struct bus *b, u64 at, unsigned size)
{
    if (at > b->last || size - 1 > b->last - at)
        return ones(size);
    bool entered = core_enter();
    u64 val = flat_read(atomic_load(&b->flat), at, size);

    core_leave(entered);
    return val;
}

void bus_write(struct bus *b, u64 at, u64 val, unsigned size)
{
    if (at > b->last || size - 1 > b->last - at)
        return;
    bool entered = core_enter();
    const struct flat *f = atomic_load(&b->flat);

    val &= ones(size);
    if (!f->n_bells || !ring(f, at, val, size))
        flat_write(f, at, val, size);
    core_leave(entered);
}

bool bus_has(struct bus *b, u64 at)
{
    bool entered = core_enter();
    bool has = at <= b->last && find(atomic_load(&b->flat), at);

    core_leave(entered);
    return has;
}

/* --- doorbells ------------------------------------------------------------------------------
 */

void bus_doorbell_add(struct bus *b, const struct doorbell *d)
{
    pthread_mutex_lock(&b->lock);
    g_array_append_val(b->bells, *d);
    publish(b);
    if (b->listener)
        b->listener(b->listener_opaque, d, true);
    pthread_mutex_unlock(&b->lock);
}

void bus_doorbell_del(struct bus *b, const struct doorbell *d)
{
    pthread_mutex_lock(&b->lock);
    for (u32 i = 0; i < b->bells->len; i++) {
        const struct doorbell *e = &g_array_index(b->bells, struct doorbell, i);
        if (e->at != d->at || e->size != d->size || e->match != d->match || e->fd != d->fd ||
            (e->match && e->val != d->val))
            continue;
        g_array_remove_index(b->bells, i);
        publish(b);
        if (b->listener)
            b->listener(b->listener_opaque, d, false);
        break;
    }
    pthread_mutex_unlock(&b->lock);
}

void bus_doorbell_listen(struct bus *b,
                         void (*fn)(void *opaque, const struct doorbell *, bool add),
                         void *opaque)
{
    pthread_mutex_lock(&b->lock);
    b->listener = fn;
    b->listener_opaque = opaque;
    for (u32 i = 0; fn && i < b->bells->len; i++)
        fn(opaque, &g_array_index(b->bells, struct doorbell, i), true);
    pthread_mutex_unlock(&b->lock);
}

void bus_print(struct bus *b, GString *to)
{
    pthread_mutex_lock(&b->lock);
    const struct flat *f = atomic_load(&b->flat);

    g_string_append_printf(to, "%s\n", b->name);
    for (u32 i = 0; i < f->n; i++) {
        const struct range *r = &f->range[i];
        g_string_append_printf(
            to, "  %016" G_GINT64_MODIFIER "x-%016" G_GINT64_MODIFIER "x %s (%s)\n", r->first,
            r->last, r->m->r->name ? r->m->r->name : "?", r->m->dev ? r->m->dev->id : "-");
    }
    pthread_mutex_unlock(&b->lock);
}
