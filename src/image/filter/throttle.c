// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * throttle.c - what passes goes at the speed of a throttle group: throttle-group=NAME, file=...
 *
 * A request that has to wait holds up its thread; the door starts another one meanwhile.
 */
#include <pthread.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/inside.h"
#include "image/throttle.h"

struct throttle {
    struct node node;
    struct throttle_member member;
};

struct wait {
    struct throttle_request limit;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool go;
};

static void go(struct throttle_member *m UNUSED, struct throttle_request *limit)
{
    struct wait *w = container_of(limit, struct wait, limit);

    pthread_mutex_lock(&w->lock);
    w->go = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static struct node *pass(struct node *n, bool write, u64 len)
{
    struct throttle *t = container_of(n, struct throttle, node);
    struct wait w = { .limit.bytes = len,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .cond = PTHREAD_COND_INITIALIZER };

    if (!throttle_pass(&t->member, write, &w.limit)) {
        door_thread_sleeps(true);
        pthread_mutex_lock(&w.lock);
        while (!w.go)
            pthread_cond_wait(&w.cond, &w.lock);
        pthread_mutex_unlock(&w.lock);
        door_thread_sleeps(false);
    }
    return n->file;
}

static int throttle_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return node_read(pass(n, false, len), at, len, c);
}

static int throttle_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    return node_write(pass(n, true, len), at, len, c);
}

static int throttle_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    return node_zero(pass(n, true, len), at, len, may_unmap);
}

static int throttle_discard(struct node *n, u64 at, u64 len)
{
    return node_discard(n->file, at, len);
}

static int throttle_flush(struct node *n)
{
    return node_flush(n->file);
}

static int throttle_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    return node_status(n->file, at, len, ret);
}

static bool throttle_resize(struct node *n, u64 size, const char *preallocation, GError **error)
{
    if (!n->file->drv->resize)
        return node_truncate(n->file, size, error); /* says that it cannot be */
    if (!n->file->drv->resize(n->file, size, preallocation, error))
        return false;
    n->size = n->file->size;
    return true;
}

static bool throttle_open(struct node *n, struct dict *o, const struct open_how *how UNUSED,
                          GError **error)
{
    struct throttle *t = container_of(n, struct throttle, node);
    const char *group = dict_str(o, "throttle-group");

    if (!group)
        return fail(error, ERR_ARGUMENT, "throttle: throttle-group= is needed");
    if (!image_throttle_group_find(group, NULL))
        return fail(error, ERR_NOT_FOUND, "throttle: there is no throttle-group '%s'", group);
    n->size = n->file->size;
    n->cluster = n->file->cluster;
    throttle_member_init(&t->member, go);
    t->member.node = true;
    throttle_join(&t->member, group);
    return true;
}

static void throttle_close(struct node *n)
{
    throttle_join(&container_of(n, struct throttle, node)->member, NULL);
}

const struct driver filter_throttle = {
    .name = "throttle",
    .kind = FILTER,
    .size = sizeof(struct throttle),
    .child = "file",
    .open = throttle_open,
    .close = throttle_close,
    .read = throttle_read,
    .write = throttle_write,
    .zero = throttle_zero,
    .discard = throttle_discard,
    .flush = throttle_flush,
    .status = throttle_status,
    .resize = throttle_resize,
};
