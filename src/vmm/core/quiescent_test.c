// SPDX-License-Identifier: GPL-2.0-or-later
/* quiescent_test.c - objects stay while somebody may hold them, and go then. */
#include "vmm/core/quiescent.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/test.h"

static _Atomic int freed;
static void count(void *p UNUSED)
{
    freed++;
}

static _Atomic int step;
static void *holder(void *opaque UNUSED)
{
    core_thread_register();
    atomic_store(&step, 1);
    while (atomic_load(&step) == 1)
        ;
    core_quiescent();
    atomic_store(&step, 3);
    while (atomic_load(&step) == 3)
        ;
    core_offline();
    atomic_store(&step, 5);
    while (atomic_load(&step) == 5)
        ;
    core_online();
    core_thread_unregister();
    return NULL;
}

static void to(int want)
{
    atomic_store(&step, want - 1);
    while (atomic_load(&step) != want)
        ;
}

TEST(retired_objects_wait_for_readers)
{
    pthread_t t;

    core_retire(NULL, count);
    EXPECT_EQ(freed, 1);
    pthread_create(&t, NULL, holder, NULL);
    while (atomic_load(&step) != 1)
        ;
    core_retire(NULL, count);
    core_retire(NULL, count);
    EXPECT_EQ(freed, 1);
    to(3); /* it passed its loop top */
    core_retire(NULL, count);
    EXPECT_EQ(freed, 3);
    to(5); /* it sleeps */
    core_retire(NULL, count);
    EXPECT_EQ(freed, 5);
    atomic_store(&step, 6);
    pthread_join(t, NULL);
    bool entered = core_enter();
    EXPECT(entered);
    EXPECT(!core_enter());
    core_retire(NULL, count);
    EXPECT_EQ(freed, 5);
    core_leave(entered);
    core_retire(NULL, count);
    EXPECT_EQ(freed, 7);
}

struct cell {
    u64 a, b;
};
static struct cell *_Atomic shared;
static _Atomic bool done;
static void *reader(void *opaque)
{
    bool registered = opaque;
    u64 bad = 0;

    if (registered)
        core_thread_register();
    while (!atomic_load(&done)) {
        core_quiescent();
        bool entered = core_enter();
        struct cell *c = atomic_load(&shared);
        bad += c->a != c->b;
        core_leave(entered);
    }
    if (registered)
        core_thread_unregister();
    return (void *)bad;
}

TEST(readers_never_see_a_freed_cell)
{
    pthread_t t[2];

    atomic_store(&shared, calloc(1, sizeof(struct cell)));
    pthread_create(&t[0], NULL, reader, (void *)1);
    pthread_create(&t[1], NULL, reader, NULL);
    for (u64 i = 1; i < 20000; i++) {
        struct cell *c = malloc(sizeof *c);
        *c = (struct cell){ i, i };
        core_retire(atomic_exchange(&shared, c), free);
    }
    atomic_store(&done, true);
    for (u32 i = 0; i < 2; i++) {
        void *bad;
        pthread_join(t[i], &bad);
        EXPECT(!bad);
    }
    core_retire(atomic_load(&shared), free);
}
TEST_MAIN()
