// SPDX-License-Identifier: GPL-2.0-or-later
/* bounce.c - see bounce.h. */
#include "vmm/dev/bounce.h"

#include <string.h>

struct bounce_request {
    struct bounce *b;
    struct image *image;
    enum bounce_op op;
    bool loose, fua;
    u64 at;
    u32 len;
    u8 bytes[];
};

static void did(void *opaque, int ret);

static void submit(struct bounce_request *q)
{
    struct iovec v = { q->bytes, q->len };

    switch (q->op) {
    case BOUNCE_READ:
        image_read(q->image, q->at, &v, 1, did, q);
        break;
    case BOUNCE_WRITE:
        image_write(q->image, q->at, &v, 1, q->fua, did, q);
        break;
    case BOUNCE_FLUSH:
        image_flush(q->image, did, q);
        break;
    case BOUNCE_DISCARD:
        image_discard(q->image, q->at, q->len, did, q);
        break;
    }
}

/* A thread of the image's. */
static void did(void *opaque, int ret)
{
    struct bounce_request *q = opaque;
    struct bounce *b = q->b;

    dev_lock(b->dev);
    if (!q->loose) {
        b->now = NULL;
        b->came(b->opaque, q->op, ret, q->bytes, q->len);
    } else if (!--b->loose) {
        if (b->parked) {
            b->now = b->parked;
            b->parked = NULL;
            submit(b->now);
        } else if (b->idle) {
            b->idle(b->opaque);
        }
    }
    dev_unlock(b->dev);
    g_free(q);
}

void bounce_start(struct bounce *b, struct image *image, enum bounce_op op, u64 at, u32 len,
                  const void *bytes, bool fua)
{
    bool data = op == BOUNCE_READ || op == BOUNCE_WRITE;
    struct bounce_request *q = g_malloc(sizeof *q + (data ? len : 0));

    g_assert(!b->now && !b->parked);
    *q = (struct bounce_request){
        .b = b, .image = image, .op = op, .fua = fua, .at = at, .len = len
    };
    if (op == BOUNCE_WRITE)
        memcpy(q->bytes, bytes, len);
    if (b->loose) {
        b->parked = q;
        return;
    }
    b->now = q;
    submit(q);
}

void bounce_forget(struct bounce *b)
{
    g_clear_pointer(&b->parked, g_free);
    if (!b->now)
        return;
    b->now->loose = true;
    image_give_up(b->now->image);
    b->now = NULL;
    b->loose++;
}

bool bounce_busy(const struct bounce *b)
{
    return b->now || b->parked || b->loose;
}
