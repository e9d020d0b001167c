// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * parallel.c - code that writes code, and two threads at once.
 */
#include "bench.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

/* A small compiler: each round writes 200 functions of constants over the old ones, and calls
 * each of them many times. */
typedef u64 (*compiled)(u64);
enum { FUNCTIONS = 200, STEPS = 24, FUNCTION_ROOM = 512 };

static u8 *emit(u8 *p, u32 constant, unsigned kind)
{
    static const u8 op[3][3] = { { 0x48, 0x81, 0xc0 },   /* add rax, imm32 */
                                 { 0x48, 0x81, 0xf0 },   /* xor rax, imm32 */
                                 { 0x48, 0x69, 0xc0 } }; /* imul rax, rax, imm32 */

    memcpy(p, op[kind], 3);
    memcpy(p + 3, &constant, 4);
    return p + 7;
}

static u64 run_jit(void)
{
    u8 *code = mmap(NULL, FUNCTIONS * FUNCTION_ROOM, PROT_READ | PROT_WRITE | PROT_EXEC,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u64 seed = 5, sum = 0;

    if (code == MAP_FAILED)
        return NO_RESULT;
    for (int round = 0; round < 40; round++) {
        for (int f = 0; f < FUNCTIONS; f++) {
            u8 *p = code + f * FUNCTION_ROOM;

            memcpy(p, "\x48\x89\xf8", 3); /* mov rax, rdi */
            p += 3;
            for (int s = 0; s < STEPS; s++) {
                u64 r = next_random(&seed);
                p = emit(p, (u32)r | 1, (r >> 33) % 3);
            }
            *p = 0xc3;
        }
        for (int n = 0; n < 500; n++)
            for (int f = 0; f < FUNCTIONS; f += 7)
                sum = ((compiled)(uintptr_t)(code + f * FUNCTION_ROOM))(sum + n);
    }
    munmap(code, FUNCTIONS * FUNCTION_ROOM);
    return sum;
}

/* ---- two threads ----------------------------------------------------------------------------
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static u64 shared;
static _Atomic u64 atomic_shared;

static u64 both(void *(*fn)(void *), int threads)
{
    pthread_t t[2];

    shared = 0;
    atomic_shared = 0;
    for (intptr_t k = 0; k < threads; k++)
        if (pthread_create(&t[k], NULL, fn, (void *)k))
            return NO_RESULT;
    for (int k = 0; k < threads; k++)
        pthread_join(t[k], NULL);
    return shared + atomic_shared;
}

static void *with_mutex(void *opaque)
{
    (void)opaque;
    for (int i = 0; i < 400000; i++) {
        pthread_mutex_lock(&lock);
        shared += 3;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *with_atomics(void *opaque)
{
    (void)opaque;
    for (int i = 0; i < 2000000; i++)
        atomic_fetch_add(&atomic_shared, 5);
    return NULL;
}

/* Each its share of the numbers, so one thread alone has twice the work. */
static int sharers;
static void *collatz(void *opaque)
{
    u64 steps = 0;

    for (u64 n = 1 + (u64)(intptr_t)opaque; n < 600000; n += sharers)
        for (u64 v = n; v != 1; steps++)
            v = v & 1 ? 3 * v + 1 : v / 2;
    atomic_fetch_add(&atomic_shared, steps);
    return NULL;
}

static u64 run_mutex(void)
{
    return both(with_mutex, 2);
}

static u64 run_atomics(void)
{
    return both(with_atomics, 2);
}

static u64 run_two(void)
{
    sharers = 2;
    return both(collatz, 2);
}

static u64 run_one(void)
{
    sharers = 1;
    return both(collatz, 1);
}

const struct program parallel_programs[] = {
    { "jit", "functions", run_jit },
    { "smp", "mutex", run_mutex },
    { "smp", "atomics", run_atomics },
    { "smp", "parallel", run_two },
    { "smp", "parallel, one thread", run_one },
    { 0 },
};
