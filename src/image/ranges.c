// SPDX-License-Identifier: GPL-2.0-or-later
/* ranges.c - see ranges.h.  There are as many entries as threads at work: a list will do. */
#include "image/ranges.h"

void ranges_init(struct ranges *s)
{
    s->first = NULL;
    s->waiting = 0;
    pthread_cond_init(&s->changed, NULL);
}

void ranges_clear(struct ranges *s)
{
    pthread_cond_destroy(&s->changed);
}

static bool conflicts(const struct ranges *s, const struct range *r)
{
    for (const struct range *o = s->first; o; o = o->next) {
        if (o->at < r->end && r->at < o->end && (o->alone || r->alone))
            return true;
    }
    return false;
}

void ranges_enter(struct ranges *s, pthread_mutex_t *lock, struct range *r)
{
    while (conflicts(s, r)) {
        s->waiting++;
        pthread_cond_wait(&s->changed, lock);
        s->waiting--;
    }
    r->next = s->first;
    s->first = r;
}

void ranges_leave(struct ranges *s, struct range *r)
{
    for (struct range **p = &s->first; *p; p = &(*p)->next) {
        if (*p == r) {
            *p = r->next;
            break;
        }
    }
    if (s->waiting)
        pthread_cond_broadcast(&s->changed);
}
