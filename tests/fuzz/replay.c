// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * replay.c - runs a fuzz target without libFuzzer: files named on the command line, or each
 * seed as it is and then a fixed sequence of mutations (bytes, words with telling values,
 * cuts).
 */
#ifndef POSADA_LIBFUZZER
#include <glib.h>

#include "fuzz.h"

enum { ROUNDS = 4000 };

static u64 random_next(u64 *s)
{
    *s ^= *s << 13; /* xorshift64 */
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void mutate(u8 *p, size_t *n, u64 *s)
{
    static const u32 telling[] = { 0,          1,          0x7fffffff, 0x80000000, 0xffffffff,
                                   0xfffffffe, 0x100000,   0xa0000,    0xffff,     0x1000000,
                                   0xfffff000, 0x80000001, 64,         512 };
    unsigned times = 1 + random_next(s) % 4;

    while (times--) {
        size_t at = random_next(s) % *n;
        u32 v = telling[random_next(s) % ARRAY_LEN(telling)];

        switch (random_next(s) % 8) {
        case 0:
            *n = 1 + random_next(s) % *n;
            break;
        case 1:
        case 2:
            p[at] = (u8)random_next(s);
            break;
        default: /* headers are made of aligned words */
            at = at ? 1 + ((at - 1) & ~(size_t)3) : 1;
            if (at + 4 <= *n)
                memcpy(p + at, &v, 4);
        }
    }
}

int main(int argc, char **argv)
{
    u8 seed[FUZZ_SEED_MAX], buf[FUZZ_SEED_MAX];
    u64 s = 0x9e3779b97f4a7c15;

    for (int i = 1; i < argc; i++) {
        g_autofree char *text = NULL;
        gsize n;

        if (!g_file_get_contents(argv[i], &text, &n, NULL))
            return 1;
        LLVMFuzzerTestOneInput((const u8 *)text, n);
    }
    for (unsigned i = 0; argc == 1 && i < fuzz_seeds; i++) {
        size_t full = fuzz_seed(i, seed);

        LLVMFuzzerTestOneInput(seed, full);
        for (unsigned j = 0; j < ROUNDS; j++) {
            size_t n = full;

            memcpy(buf, seed, full);
            mutate(buf, &n, &s);
            LLVMFuzzerTestOneInput(buf, n);
        }
    }
    return 0;
}
#endif
