// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compute.c - programs that keep to the processor: integer, floating point, strings.
 * Floating-point results are the same everywhere as all operations are IEEE's and their order is
 * written down (the build must not contract or reorder them: -ffp-contract=off, no -ffast-math).
 */
#include "bench.h"
#include <string.h>

/* ---- integer ---- */

static u64 run_crc(void)
{
    static u32 table[256];
    u32 crc = ~0u;

    for (u32 i = 0; i < 256; i++) {
        u32 v = i;
        for (int k = 0; k < 8; k++)
            v = v & 1 ? v >> 1 ^ 0xedb88320 : v >> 1;
        table[i] = v;
    }
    for (u32 i = 0; i < 8000000; i++)
        crc = table[(u8)(crc ^ i * 7)] ^ crc >> 8;
    return ~crc;
}

struct item {
    struct item *next;
    u32 key;
};

static int by_key(const struct item *a, const struct item *b)
{
    return (a->key > b->key) - (a->key < b->key);
}

static struct item *merge(struct item *a, struct item *b,
                          int (*cmp)(const struct item *, const struct item *))
{
    struct item head = { 0 }, *last = &head;

    while (a && b) {
        struct item **from = cmp(a, b) <= 0 ? &a : &b;
        last = last->next = *from;
        *from = (*from)->next;
    }
    last->next = a ? a : b;
    return head.next;
}

static struct item *merge_sort(struct item *list, u32 n,
                               int (*cmp)(const struct item *, const struct item *))
{
    struct item *at = list, *rest;

    if (n < 2)
        return list;
    for (u32 i = 1; i < n / 2; i++)
        at = at->next;
    rest = at->next;
    at->next = NULL;
    return merge(merge_sort(list, n / 2, cmp), merge_sort(rest, n - n / 2, cmp), cmp);
}

static u64 run_list(void)
{
    enum { N = 20000 };
    static struct item items[N];
    int (*volatile cmp)(const struct item *, const struct item *) = by_key;
    u64 seed = 1, sum = 0;

    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < N; i++)
            items[i] = (struct item){ i + 1 < N ? &items[i + 1] : NULL, next_random(&seed) };
        u64 place = 0;
        for (struct item *i = merge_sort(items, N, cmp); i; i = i->next)
            sum += ++place * i->key;
    }
    return sum;
}

static u32 fib(u32 n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static u64 run_fib(void)
{
    u32 (*volatile f)(u32) = fib;
    return f(33);
}

static int by_value(const void *a, const void *b)
{
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return (x > y) - (x < y);
}

static u64 run_qsort(void)
{
    enum { N = 300000 };
    u32 *v = malloc(N * sizeof *v);
    u64 seed = 2, sum = 0;

    for (int i = 0; i < N; i++)
        v[i] = next_random(&seed) >> 32;
    qsort(v, N, sizeof *v, by_value);
    for (u32 i = 0; i < N; i++)
        sum = sum * 31 + v[i];
    free(v);
    return sum;
}

/* An interpreter of a little stack machine, as scripting languages have: a switch in a loop. */
static u64 run_interp(void)
{
    enum { PUSH, ADD, MUL, XOR, DUP, SWAP, DEC, JNZ, ROT, END };
    static const u8 code[] = { PUSH, 3, ADD, DUP, PUSH, 7, MUL, XOR, SWAP, DEC, DUP, ROT,
                               ROT,  SWAP, ROT, SWAP, JNZ, 0, END };
    u32 stack[16] = { 0, 600000, 5 };
    int sp = 2, at = 0;
    u32 count = 600000, acc = 5;

    for (;;) {
        u32 t;
        switch (code[at++]) {
        case PUSH:
            stack[++sp & 15] = code[at++];
            break;
        case ADD:
            t = stack[sp-- & 15];
            stack[sp & 15] += t;
            break;
        case MUL:
            t = stack[sp-- & 15];
            stack[sp & 15] *= t | 1;
            break;
        case XOR:
            t = stack[sp-- & 15];
            stack[sp & 15] ^= t;
            break;
        case DUP:
            t = stack[sp & 15];
            stack[++sp & 15] = t;
            break;
        case SWAP:
            t = stack[sp & 15];
            stack[sp & 15] = stack[(sp - 1) & 15];
            stack[(sp - 1) & 15] = t;
            break;
        case DEC:
            stack[sp & 15]--;
            break;
        case ROT:
            t = stack[sp & 15];
            stack[sp & 15] = t << 5 | t >> 27;
            break;
        case JNZ:
            acc = acc * 33 + stack[sp-- & 15];
            at = --count ? code[at] : at + 1;
            break;
        case END:
            return acc;
        }
    }
}

static u64 run_hash_table(void)
{
    enum { SLOTS = 1 << 16 };
    u64 *keys = calloc(SLOTS, sizeof *keys), *vals = calloc(SLOTS, sizeof *vals);
    u64 seed = 3, sum = 0;

    for (u32 i = 0; i < 3000000; i++) {
        u64 k = next_random(&seed) % 40000 + 1;
        u32 at = k * 0x9e3779b97f4a7c15ull >> 48;
        while (keys[at] && keys[at] != k)
            at = (at + 1) % SLOTS;
        keys[at] = k;
        sum += vals[at] += i;
    }
    free(keys);
    free(vals);
    return sum;
}

/* The work of a kernel: locked counters, function pointers, lists through memory. */
static u64 add_one(u64 v)
{
    return v + 1;
}

static u64 rotate(u64 v)
{
    return v << 7 | v >> 57;
}

static u64 run_locked(void)
{
    static u64 (*const volatile ops[2])(u64) = { add_one, rotate };
    volatile u32 lock = 0;
    u64 refs = 0, v = 1;

    for (u32 i = 0; i < 4000000; i++) {
        while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
            ;
        v = ops[(v >> 3 ^ i) & 1](v) ^ i;
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
        __atomic_fetch_add(&refs, v & 3, __ATOMIC_SEQ_CST);
    }
    return refs ^ v;
}

static u64 run_sieve(void)
{
    enum { N = 4000000 };
    u8 *no = calloc(N, 1);
    u64 count = 0;

    for (u32 i = 2; i < N; i++) {
        if (no[i])
            continue;
        count += i;
        for (u64 k = (u64)i * i; k < N; k += i)
            no[k] = 1;
    }
    free(no);
    return count;
}

static u64 run_divide(void)
{
    u64 seed = 4, sum = 0;

    for (u32 i = 0; i < 1500000; i++) {
        u64 a = next_random(&seed), b = next_random(&seed) >> (i & 31);
        sum += a / (b | 1) + a % (b | 1) + (u32)a / ((u32)b | 1);
        sum ^= (unsigned __int128)a * b >> 64;
    }
    return sum;
}

/* ---- floating point ---- */

static u64 bits(double v)
{
    u64 b;
    memcpy(&b, &v, sizeof b);
    return b;
}

enum { DIM = 192 };

static void fill(double (*m)[DIM], u64 seed)
{
    for (int i = 0; i < DIM; i++)
        for (int k = 0; k < DIM; k++)
            m[i][k] = (double)(next_random(&seed) >> 40) / 65536.0;
}

static double ma[DIM][DIM], mb[DIM][DIM], mc[DIM][DIM];

static u64 run_matmul(void)
{
    double trace = 0;

    fill(ma, 5);
    fill(mb, 6);
    for (int i = 0; i < DIM; i++)
        for (int k = 0; k < DIM; k++) {
            double s = 0;
            for (int j = 0; j < DIM; j++)
                s += ma[i][j] * mb[j][k];
            mc[i][k] = s;
        }
    for (int i = 0; i < DIM; i++)
        trace += mc[i][(i * 7) % DIM];
    return bits(trace);
}

typedef double v4 __attribute__((vector_size(32), aligned(8)));

__attribute__((target("avx2,fma"))) static u64 matmul_avx2(void)
{
    double trace = 0;

    fill(ma, 5);
    fill(mb, 6);
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < DIM; i++)
            for (int k = 0; k < DIM; k += 4) {
                v4 s = { 0 };
                for (int j = 0; j < DIM; j++) {
                    double a = ma[i][j];
                    v4 b = *(v4 *)&mb[j][k], va = { a, a, a, a };
                    s = s + va * b;
                }
                *(v4 *)&mc[i][k] = s;
            }
    for (int i = 0; i < DIM; i++)
        trace += mc[i][(i * 7) % DIM];
    return bits(trace);
}

static u64 run_matmul_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? matmul_avx2()
                                                                           : NO_RESULT;
}

static u64 run_mandelbrot(void)
{
    u64 sum = 0;

    for (int y = 0; y < 160; y++)
        for (int x = 0; x < 160; x++) {
            double cr = x / 64.0 - 1.75, ci = y / 64.0 - 1.25, zr = 0, zi = 0;
            int n = 0;
            while (n < 200 && zr * zr + zi * zi < 4) {
                double t = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = t;
                n++;
            }
            sum = sum * 3 + n;
        }
    return sum;
}

static u64 run_nbody(void)
{
    double p[5][3], v[5][3] = { 0 }, m[5];
    u64 seed = 7;

    for (int i = 0; i < 5; i++) {
        m[i] = 1 + i;
        for (int k = 0; k < 3; k++)
            p[i][k] = (double)(next_random(&seed) >> 48) / 4096.0;
    }
    for (int step = 0; step < 60000; step++) {
        for (int i = 0; i < 5; i++)
            for (int k = i + 1; k < 5; k++) {
                double d[3], r2 = 0.01;
                for (int c = 0; c < 3; c++) {
                    d[c] = p[i][c] - p[k][c];
                    r2 += d[c] * d[c];
                }
                double f = 0.001 / (r2 * __builtin_sqrt(r2));
                for (int c = 0; c < 3; c++) {
                    v[i][c] -= d[c] * m[k] * f;
                    v[k][c] += d[c] * m[i] * f;
                }
            }
        for (int i = 0; i < 5; i++)
            for (int c = 0; c < 3; c++)
                p[i][c] += 0.001 * v[i][c];
    }
    return bits(p[0][0] + p[1][1] + p[4][2]);
}

static u64 run_x87(void)
{
    long double s = 0, x = 0.5L;

    for (int i = 1; i < 1500000; i++) {
        x = 3.7L * x * (1 - x);
        s += __builtin_sqrtl(x) / i;
    }
    return bits((double)s);
}

/* ---- strings ---- */

static u8 from[1 << 16], to[1 << 16];

static void fill_bytes(void)
{
    u64 seed = 8;

    for (u32 i = 0; i < sizeof from; i++)
        from[i] = next_random(&seed) >> 56 | 1;
}

static u64 sum_bytes(const u8 *p, size_t n)
{
    u64 sum = 0;

    for (size_t i = 0; i < n; i++)
        sum = sum * 31 + p[i];
    return sum;
}

static u64 run_memcpy(void)
{
    void *(*volatile copy)(void *, const void *, size_t) = memcpy;

    fill_bytes();
    for (int i = 0; i < 3000; i++)
        copy(to + i % 16, from, sizeof to - 16);
    return sum_bytes(to, sizeof to);
}

static u64 run_strlen(void)
{
    size_t (*volatile len)(const char *) = strlen;
    u64 sum = 0;

    fill_bytes();
    for (u32 i = 0; i < 60000; i++) {
        u32 end = (i * 37) % 4096 + 64;
        u8 was = from[end];
        from[end] = 0;
        sum += len((char *)from + i % 64);
        from[end] = was;
    }
    return sum;
}

static u64 run_rep_movs(void)
{
    fill_bytes();
    for (u32 i = 0; i < 200000; i++) {
        void *d = to + (i * 61) % 60000;
        const void *s = from + (i * 97) % 60000;
        size_t n = 250 + i % 70;
        __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
    }
    return sum_bytes(to, sizeof to);
}

const struct program compute_programs[] = {
    { "integer", "crc32", run_crc },
    { "integer", "list sort", run_list },
    { "integer", "fib", run_fib },
    { "integer", "qsort", run_qsort },
    { "integer", "interpreter", run_interp },
    { "integer", "hash table", run_hash_table },
    { "integer", "locked", run_locked },
    { "integer", "sieve", run_sieve },
    { "integer", "divide", run_divide },
    { "float", "matmul", run_matmul },
    { "float", "matmul avx2", run_matmul_avx2 },
    { "float", "mandelbrot", run_mandelbrot },
    { "float", "nbody", run_nbody },
    { "float", "x87", run_x87 },
    { "string", "memcpy", run_memcpy },
    { "string", "strlen", run_strlen },
    { "string", "rep movsb", run_rep_movs },
    { 0 },
};
