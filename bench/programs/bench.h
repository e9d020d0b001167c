// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bench.h - small programs whose work is fixed and whose result is known to be the same on every
 * machine.  One binary holds them all; it runs natively and in guests.
 */
#pragma once
#include <stdint.h>
#include <stdlib.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

struct program {
    const char *group, *name;
    u64 (*run)(void); /* does the work; the result is compared between machines */
};

/* Pseudo-random numbers that every machine agrees on (xorshift64*). */
static inline u64 next_random(u64 *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

#define NO_RESULT 0 /* what a program gives that this machine cannot run */

extern const struct program compute_programs[], system_programs[], parallel_programs[]; /* end with a NULL group */
