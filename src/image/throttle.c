// SPDX-License-Identifier: GPL-2.0-or-later
/* throttle.c - see throttle.h. */
#include "image/throttle.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

enum { VALUE_MAX_DIGITS = 15 };
#define VALUE_MAX 1000000000000000ull

struct throttle_group {
    struct throttle_group *next;
    char *name;
    u32 refs; /* members, and an owner if it was made by name */
    bool owned;
    struct throttle_state s;
    struct throttle_member *members, *turn[2]; /* turn: who is asked first */
    u32 waiting[2];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work;
static struct throttle_group *groups;
const char *const image_limit_names[IMAGE_LIMITS] = {
    [IMAGE_BPS] = "bps-total",       [IMAGE_BPS_READ] = "bps-read",
    [IMAGE_BPS_WRITE] = "bps-write", [IMAGE_IOPS] = "iops-total",
    [IMAGE_IOPS_READ] = "iops-read", [IMAGE_IOPS_WRITE] = "iops-write",
};
static bool thread_runs;
static u32 drains; /* under way: filter nodes let all pass, as it may be theirs */

/* --- buckets ---------------------------------------------------------------------------------
 */

static double brim(const struct image_limit *l)
{
    return l->max ? (double)l->max * (double)l->seconds : (double)l->avg / 10;
}

static u64 bucket_wait(const struct throttle_bucket *b, const struct image_limit *l)
{
    double over;

    if (!l->avg)
        return 0;
    over = b->level - brim(l);
    if (over > 0)
        return (u64)ceil(over / (double)l->avg * 1e9);
    if (l->seconds <= 1)
        return 0;
    over = b->burst - (double)l->max / 10;
    return over > 0 ? (u64)ceil(over / (double)l->max * 1e9) : 0;
}

static bool concerns(u32 bucket, bool write)
{
    static const u8 of[IMAGE_LIMITS] = {
        [IMAGE_BPS] = 3,  [IMAGE_BPS_READ] = 1,  [IMAGE_BPS_WRITE] = 2,
        [IMAGE_IOPS] = 3, [IMAGE_IOPS_READ] = 1, [IMAGE_IOPS_WRITE] = 2,
    };

    return of[bucket] & (write ? 2 : 1);
}

u64 throttle_wait_ns(struct throttle_state *s, bool write, u64 now)
{
    double passed = now > s->last ? (double)(now - s->last) / 1e9 : 0;
    u64 wait = 0;

    s->last = now;
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        const struct image_limit *l = &s->limits.limit[i];
        struct throttle_bucket *b = &s->bucket[i];

        b->level = fmax(b->level - (double)l->avg * passed, 0);
        b->burst = fmax(b->burst - (double)l->max * passed, 0);
        if (concerns(i, write))
            wait = MAX(wait, bucket_wait(b, l));
    }
    return wait;
}

void throttle_account(struct throttle_state *s, bool write, u64 bytes)
{
    u64 op = s->limits.op_size;
    double requests = op && bytes > op ? (double)bytes / (double)op : 1;

    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        if (!concerns(i, write))
            continue;
        double n = i < IMAGE_IOPS ? (double)bytes : requests;
        s->bucket[i].level += n;
        s->bucket[i].burst += n;
    }
}

bool image_throttle_any(const struct image_throttle *t)
{
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        if (t->limit[i].avg)
            return true;
    }
    return false;
}

static bool limit_ok(const struct image_limit *l, GError **error)
{
    if (l->avg > VALUE_MAX || l->max > VALUE_MAX)
        return fail(error, ERR_ARGUMENT, "throttling: no limit is over 10^%d",
                    VALUE_MAX_DIGITS);
    if (!l->seconds)
        return fail(error, ERR_ARGUMENT, "throttling: a burst lasts at least one second");
    if (l->seconds > 1 && !l->max)
        return fail(error, ERR_ARGUMENT,
                    "throttling: the length of a burst needs its rate (-max)");
    if (l->max && l->seconds > VALUE_MAX / l->max)
        return fail(error, ERR_ARGUMENT, "throttling: so long a burst is not to be had");
    if (l->max && !l->avg)
        return fail(error, ERR_ARGUMENT,
                    "throttling: the rate of bursts (-max) needs the limit itself");
    if (l->max && l->max < l->avg)
        return fail(error, ERR_ARGUMENT,
                    "throttling: bursts (-max) are not slower than the limit itself");
    return true;
}

bool image_throttle_ok(const struct image_throttle *t, GError **error)
{
    const struct image_limit *l = t->limit;

    for (u32 i = 0; i < IMAGE_LIMITS; i += IMAGE_IOPS) {
        if ((l[i].avg && (l[i + 1].avg || l[i + 2].avg)) ||
            (l[i].max && (l[i + 1].max || l[i + 2].max)))
            return fail(error, ERR_ARGUMENT,
                        "throttling: a limit for all (-total) goes without one for reads or "
                        "writes");
    }
    if (t->op_size && !l[IMAGE_IOPS].avg && !l[IMAGE_IOPS_READ].avg && !l[IMAGE_IOPS_WRITE].avg)
        return fail(error, ERR_ARGUMENT, "throttling: iops-size needs a limit of requests");
    for (u32 i = 0; i < IMAGE_LIMITS; i++) {
        if (!limit_ok(&l[i], error))
            return false;
    }
    return true;
}

void image_throttle_init(struct image_throttle *t)
{
    *t = (struct image_throttle){ 0 };
    for (u32 i = 0; i < IMAGE_LIMITS; i++)
        t->limit[i].seconds = 1;
}

/* --- groups; all with the lock held ----------------------------------------------------------
 */

static u64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
}

static struct throttle_group *group_find(const char *name)
{
    struct throttle_group *g = groups;

    while (g && strcmp(g->name, name) != 0)
        g = g->next;
    return g;
}

static struct throttle_group *group_ref(const char *name)
{
    struct throttle_group *g = group_find(name);

    if (!g) {
        g = g_new0(struct throttle_group, 1);
        g->name = g_strdup(name);
        image_throttle_init(&g->s.limits);
        g->next = groups;
        groups = g;
    }
    g->refs++;
    return g;
}

static void group_unref(struct throttle_group *g)
{
    struct throttle_group **at = &groups;

    if (--g->refs)
        return;
    while (*at != g)
        at = &(*at)->next;
    *at = g->next;
    g_free(g->name);
    g_free(g);
}

static void push(struct throttle_queue *q, struct throttle_request *r)
{
    r->next = NULL;
    *q->last = r;
    q->last = &r->next;
}

static struct throttle_request *pop(struct throttle_queue *q)
{
    struct throttle_request *r = q->first;

    q->first = r->next;
    if (!q->first)
        q->last = &q->first;
    return r;
}

static void start(struct throttle_member *m, bool write)
{
    struct throttle_request *r = pop(&m->queue[write]);

    m->group->waiting[write]--;
    throttle_account(&m->group->s, write, r->bytes);
    m->go(m, r);
}

static void start_all(struct throttle_member *m)
{
    for (u32 write = 0; write < 2; write++) {
        while (m->queue[write].first)
            start(m, write);
    }
}

/* Starts one request if one may pass; else *until tells when. */
static bool start_one(struct throttle_group *g, bool write, u64 now, u64 *until)
{
    u64 wait;

    if (!g->waiting[write])
        return false;
    wait = throttle_wait_ns(&g->s, write, now);
    if (wait) {
        *until = MIN(*until, now + wait);
        return false;
    }
    struct throttle_member *m = g->turn[write];
    for (;; m = m->next) { /* somebody has one: waiting says so */
        if (!m)
            m = g->members;
        if (m->queue[write].first)
            break;
    }
    g->turn[write] = m->next;
    start(m, write);
    return true;
}

/* Starts what may go; when to look again, UINT64_MAX: when somebody says so. */
static u64 start_due(u64 now)
{
    u64 until = UINT64_MAX;

    for (struct throttle_group *g = groups; g; g = g->next) {
        bool more = true;

        while (more) { /* reads and writes in turn */
            more = start_one(g, false, now, &until);
            more |= start_one(g, true, now, &until);
        }
    }
    return until;
}

static void *run(void *opaque UNUSED)
{
    pthread_setname_np(pthread_self(), "throttle");
    pthread_mutex_lock(&lock);
    for (;;) {
        u64 until = start_due(now_ns());
        struct timespec t = { (time_t)(until / NS_PER_SEC), (long)(until % NS_PER_SEC) };

        if (until == UINT64_MAX)
            pthread_cond_wait(&work, &lock);
        else
            pthread_cond_timedwait(&work, &lock, &t);
    }
    return NULL;
}

/* false: the host has no thread for us. */
static bool wake(void)
{
    pthread_condattr_t cond;
    pthread_attr_t attr;
    pthread_t t;
    sigset_t all, old;

    if (thread_runs) {
        pthread_cond_signal(&work);
        return true;
    }
    pthread_condattr_init(&cond);
    pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
    pthread_cond_init(&work, &cond);
    pthread_condattr_destroy(&cond);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread_runs = pthread_create(&t, &attr, run, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return thread_runs;
}

/* --- members ---------------------------------------------------------------------------------
 */

void throttle_member_init(struct throttle_member *m,
                          void (*go)(struct throttle_member *, struct throttle_request *))
{
    *m = (struct throttle_member){ .go = go };
    for (u32 i = 0; i < 2; i++)
        m->queue[i].last = &m->queue[i].first;
}

static void leave(struct throttle_member *m)
{
    struct throttle_member **at = &m->group->members;

    start_all(m);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    for (u32 i = 0; i < 2; i++) {
        if (m->group->turn[i] == m)
            m->group->turn[i] = m->next;
    }
    group_unref(m->group);
    m->group = NULL;
    m->on = false;
}

static void join(struct throttle_member *m, const char *name)
{
    if (m->group && name && strcmp(m->group->name, name) == 0)
        return;
    struct throttle_group *g = name ? group_ref(name) : NULL;
    if (m->group)
        leave(m);
    if (!g)
        return;
    m->group = g;
    m->next = g->members;
    g->members = m;
    m->on = true;
}

void throttle_join(struct throttle_member *m, const char *name)
{
    pthread_mutex_lock(&lock);
    join(m, name);
    pthread_mutex_unlock(&lock);
}

bool throttle_pass(struct throttle_member *m, bool write, struct throttle_request *r)
{
    bool pass;

    pthread_mutex_lock(&lock);
    struct throttle_group *g = m->group;
    pass = !g || m->passing || (m->node && drains) ||
           (!g->waiting[write] && !throttle_wait_ns(&g->s, write, now_ns()));
    if (!pass) {
        push(&m->queue[write], r);
        g->waiting[write]++;
        if (!wake()) /* better too fast than never */
            start_all(m);
    } else if (g) {
        throttle_account(&g->s, write, r->bytes);
    }
    pthread_mutex_unlock(&lock);
    return pass;
}

void throttle_passing(struct throttle_member *m, bool passing)
{
    pthread_mutex_lock(&lock);
    drains += passing ? 1 : -1u;
    if (m)
        m->passing += passing ? 1 : -1u;
    if (passing && m && m->group)
        start_all(m);
    for (struct throttle_group *g = passing ? groups : NULL; g; g = g->next) {
        for (struct throttle_member *n = g->members; n; n = n->next) {
            if (n->node)
                start_all(n);
        }
    }
    pthread_mutex_unlock(&lock);
}

/* --- the door's ------------------------------------------------------------------------------
 */

static void set_limits(struct throttle_group *g, const struct image_throttle *t)
{
    g->s = (struct throttle_state){ .limits = *t, .last = now_ns() };
    if (g->waiting[0] || g->waiting[1])
        wake();
}

void throttle_limit(struct throttle_member *m, const char *group,
                    const struct image_throttle *t)
{
    pthread_mutex_lock(&lock);
    join(m, image_throttle_any(t) ? group : NULL);
    if (m->group)
        set_limits(m->group, t);
    pthread_mutex_unlock(&lock);
}

char *throttle_limits(struct throttle_member *m, struct image_throttle *ret)
{
    char *name = NULL;

    pthread_mutex_lock(&lock);
    image_throttle_init(ret);
    if (m->group) {
        *ret = m->group->s.limits;
        name = g_strdup(m->group->name);
    }
    pthread_mutex_unlock(&lock);
    return name;
}

bool image_throttle_group(const char *name, const struct image_throttle *t, GError **error)
{
    if (!image_throttle_ok(t, error))
        return false;
    pthread_mutex_lock(&lock);
    struct throttle_group *g = group_find(name);
    if (!g || !g->owned) {
        g = group_ref(name);
        g->owned = true;
    }
    set_limits(g, t);
    pthread_mutex_unlock(&lock);
    return true;
}

bool image_throttle_group_find(const char *name, struct image_throttle *ret)
{
    pthread_mutex_lock(&lock);
    const struct throttle_group *g = group_find(name);
    if (g && ret)
        *ret = g->s.limits;
    pthread_mutex_unlock(&lock);
    return g != NULL;
}

GPtrArray *image_throttle_groups(void)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    pthread_mutex_lock(&lock);
    for (const struct throttle_group *g = groups; g; g = g->next) {
        if (g->owned)
            g_ptr_array_add(names, g_strdup(g->name));
    }
    pthread_mutex_unlock(&lock);
    return names;
}

bool image_throttle_group_free(const char *name)
{
    pthread_mutex_lock(&lock);
    struct throttle_group *g = group_find(name);
    bool ok = g && g->owned && g->refs == 1;
    if (ok)
        group_unref(g);
    pthread_mutex_unlock(&lock);
    return ok;
}
