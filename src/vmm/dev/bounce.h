// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bounce.h - requests to an image one at a time, through buffers of their own, for devices that
 * can be reset in the middle.
 *
 * A reset does not wait: bounce_forget() cuts the request under way loose, whose data then go
 * nowhere (a write is finished all the same), and the next request starts only when it has come
 * back, so that the order of requests stays what the guest made it.
 *
 * All with the lock of `dev` held, which completions take, too.  Before the struct goes, the
 * image has to be drained without it.
 */
#pragma once

#include "image/image.h"
#include "vmm/core/dev.h"

enum bounce_op { BOUNCE_READ, BOUNCE_WRITE, BOUNCE_FLUSH, BOUNCE_DISCARD };

struct bounce_request;
struct bounce {
    struct dev *dev;
    /* It has come back: 0 or -errno; bytes: what was read. It may start the next one. */
    void (*came)(void *opaque, enum bounce_op, int ret, const u8 *bytes, u32 len);
    /* The last one that was cut loose has come back, and none waits; may be NULL. */
    void (*idle)(void *opaque);
    void *opaque;
    struct bounce_request *now, *parked;
    unsigned loose; /* cut loose, and not back yet */
};

/* None may be under way. bytes: what is written, copied; else NULL. */
void bounce_start(struct bounce *, struct image *, enum bounce_op, u64 at, u32 len,
                  const void *bytes, bool fua);
void bounce_forget(struct bounce *);
bool bounce_busy(const struct bounce *); /* the image is in use, by loose ones too */
