// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * share.c - structures that lie across a page's end: a translator that checks several fields at
 * once has to do with fields that are apart, for a moment and for long, and with faults at the
 * second field after the first was written.
 */
#include "lib/guest.h"

extern u64 pml4[512];
static u8 pages[4][4096] __attribute__((aligned(4096)));
static u64 tables[3][512] __attribute__((aligned(4096)));
#define VA 0x0000400000000000ull

static void map(int page, const void *to, u64 flags)
{
    pml4[128] = (u64)tables[0] | 7;
    tables[0][0] = (u64)tables[1] | 7;
    tables[1][0] = (u64)tables[2] | 7;
    tables[2][page] = (u64)to | flags;
    invlpg((void *)(VA + 4096 * (u64)page));
}

struct fields {
    u64 a, b, c, d, e;
};

static __attribute__((noinline)) void work(volatile struct fields *f, u64 rounds)
{
    for (u64 k = 0; k < rounds; k++) {
        f->a += 1;
        f->b += f->a ^ k;
        f->c ^= f->b << 1;
        f->d += f->c;
        f->e -= f->d >> 3;
    }
}

static void same_everywhere(const char *name, u64 at, u64 rounds)
{
    struct fields want = { 1, 2, 3, 4, 5 };
    volatile struct fields *f = (void *)at;

    f->a = 1, f->b = 2, f->c = 3, f->d = 4, f->e = 5;
    work(&want, rounds);
    work(f, rounds);
    check(name, f->a == want.a && f->b == want.b && f->c == want.c && f->d == want.d &&
                    f->e == want.e);
}

/* Pushes and pops over the end of a page. */
static u64 stack_work(u64 top, u64 rounds)
{
    u64 sum = 0, n = rounds, keep;

    __asm__ volatile("mov %%rsp, %2\n"
                     "mov %3, %%rsp\n"
                     "1: push %1\n push %0\n push %1\n push %0\n"
                     "add (%%rsp), %0\n add 16(%%rsp), %0\n add %1, 8(%%rsp)\n"
                     "pop %%rax\n pop %%rdx\n pop %%rax\n pop %%rax\n"
                     "add %%rdx, %0\n"
                     "dec %1\n jnz 1b\n"
                     "mov %2, %%rsp\n"
                     : "+&r"(sum), "+&r"(n), "=&r"(keep)
                     : "r"(top)
                     : "rax", "rdx", "memory", "cc");
    return sum;
}

void main(void)
{
    /* Neighbours for the program, strangers in memory. */
    map(0, pages[2], 3);
    map(1, pages[0], 3);
    map(2, pages[1], 3);
    map(3, pages[3], 3); /* neither before nor behind: 1 and 2 are neighbours, 2 and 3 not */
    same_everywhere("within a page", VA + 512, 1000);
    same_everywhere("across", VA + 4096 - 24, 1000);
    same_everywhere("across, for long", VA + 4096 - 24, 3000000);
    same_everywhere("across neighbours", VA + 8192 - 24, 300000);
    same_everywhere("across the next", VA + 12288 - 24, 300000);
    same_everywhere("an element across", VA + 4096 - 20, 300000);
    same_everywhere("within a page again", VA + 512, 3000000);
    same_everywhere("across again", VA + 4096 - 8, 1000000);
    u64 within = stack_work(VA + 2048, 1000000);
    check("a stack across, for long", stack_work(VA + 4096 + 16, 1000000) == within);
    check("a stack across neighbours", stack_work(VA + 8192 + 16, 1000000) == within);
    check("a stack within again", stack_work(VA + 2048, 1000000) == within);

    /* The second page goes away: what came before it has happened. */
    volatile struct fields *f = (void *)(VA + 4096 - 16);
    for (int k = 0; k < 3; k++) {
        f->a = 10, f->b = 20;
        map(1, pages[0], k == 1 ? 1 : 0);
        TRY_BETWEEN("incq (%0)\n incq 8(%0)", "movq $7, 16(%0)", "", ::"r"(f) : "memory");
        check_exc("the third field", 14, k == 1 ? 3 : 2, 0);
        check_eq("its address", exc_cr2, VA + 4096);
        check_eq("the first field", f->a, 11);
        check_eq("the second field", f->b, 21);
        map(1, pages[0], 3);
        f->c = 1;
    }
}
