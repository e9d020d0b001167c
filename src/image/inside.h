// SPDX-License-Identifier: GPL-2.0-or-later
/* inside.h - what struct image is, for the files that make up the door. */
#pragma once

#include <pthread.h>

#include "image/node.h"

struct request;
struct image {
    struct node *node;
    bool read_only;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t work, idle;
    struct request *first, **last;
    u32 threads, waiting;
    u32 pending; /* requests not yet done */
    bool closing;
};
