// SPDX-License-Identifier: GPL-2.0-or-later
/* str.c - string instructions: widths, directions, counts, overlap, address sizes, faults
 * midway. */
#include "lib/guest.h"

extern u64 pml4[512];
static u8 a[8192] __attribute__((aligned(4096))), b[8192] __attribute__((aligned(4096)));
static u64 tables[3][512] __attribute__((aligned(4096)));
#define VA ((u8 *)0x0000400000000000)

static void fill(void)
{
    for (int i = 0; i < 8192; i++) {
        a[i] = (u8)(i * 7 + (i >> 8));
        b[i] = 0xee;
    }
}

static bool same(const u8 *x, const u8 *y, int n)
{
    return memcmp(x, y, (ul)n) == 0;
}

#define MOVS(name, insn, size, count, down)                                                    \
    do {                                                                                       \
        u64 s = (u64)a + 256 + (down ? size * (count - 1) : 0), d = s - (u64)a + (u64)b,       \
            c = count, s0 = s, d0 = d;                                                         \
        fill();                                                                                \
        if (down)                                                                              \
            __asm__ volatile("std; rep " insn "; cld" : "+S"(s), "+D"(d), "+c"(c)::"memory");  \
        else                                                                                   \
            __asm__ volatile("rep " insn : "+S"(s), "+D"(d), "+c"(c)::"memory");               \
        s64 step = (s64)(down ? -1 : 1) * size * count;                                        \
        check(name, same(a + 256, b + 256, size * count) && b[255] == 0xee &&                  \
                        b[256 + size * count] == 0xee && !c && s == s0 + (u64)step &&          \
                        d == d0 + (u64)step);                                                  \
    } while (0)

static void moves(void)
{
    MOVS("rep movsb", "movsb", 1, 1001, 0);
    MOVS("rep movsw", "movsw", 2, 1001, 0);
    MOVS("rep movsd", "movsl", 4, 1001, 0);
    MOVS("rep movsq", "movsq", 8, 901, 0);
    MOVS("rep movsb down", "movsb", 1, 1001, 1);
    MOVS("rep movsw down", "movsw", 2, 1001, 1);
    MOVS("rep movsd down", "movsl", 4, 1001, 1);
    MOVS("rep movsq down", "movsq", 8, 901, 1);
    MOVS("rep movsb, one", "movsb", 1, 1, 0);

    /* overlap by one replicates */
    fill();
    u64 s = (u64)a, d = (u64)a + 1, c = 5000;
    __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c)::"memory");
    bool ok = true;
    for (int i = 0; i <= 5000; i++)
        ok &= a[i] == a[0];
    check("rep movsb onto itself plus one", ok);
    fill();
    s = (u64)a, d = (u64)a + 3, c = 1000;
    __asm__ volatile("rep movsq" : "+S"(s), "+D"(d), "+c"(c)::"memory");
    ok = true;
    for (int i = 8; i < 8000; i++) /* each quadword reads what the one before wrote */
        ok &= a[i] == a[i - 8] || i < 16;
    u8 want[64];
    for (int i = 0; i < 64; i++)
        want[i] = (u8)(i * 7);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 8; k++) {
            static u8 t[8];
            if (!k)
                for (int j = 0; j < 8; j++)
                    t[j] = want[8 * i + j];
            want[8 * i + 3 + k] = t[k];
        }
    check("rep movsq onto itself plus three", same(a, want, 32));
    /* no count: nothing is touched, no fault either */
    s = d = 1;
    c = 0;
    __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check("rep with no count", s == 1 && d == 1);
    /* 32-bit addresses */
    fill();
    s = (u64)a | 0xffffffff00000000, d = (u64)b | 0x1234567800000000, c = 0x9900000010;
    __asm__ volatile("addr32 rep movsb" : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check("addr32 rep movsb copies", same(a, b, 16) && b[16] == 0xee);
    check_eq("addr32 rep movsb rsi", s, (u64)a + 16);
    check_eq("addr32 rep movsb rdi", d, (u64)b + 16);
    check_eq("addr32 rep movsb rcx", c, 0);
}

static void stores(void)
{
    u64 d, c, v;

    fill();
    d = (u64)b + 1, c = 777, v = 0x1122334455667788;
    __asm__ volatile("rep stosq" : "+D"(d), "+c"(c) : "a"(v) : "memory");
    check("rep stosq", b[0] == 0xee && b[1] == 0x88 && b[8] == 0x11 && b[777 * 8] == 0x11 &&
                           b[777 * 8 + 1] == 0xee && d == (u64)b + 1 + 777 * 8);
    fill();
    d = (u64)b + 4000, c = 300;
    __asm__ volatile("std; rep stosw; cld" : "+D"(d), "+c"(c) : "a"(v) : "memory");
    check("rep stosw down", b[4001] == 0x77 && b[4000] == 0x88 && b[3402] == 0x88 &&
                                b[3401] == 0xee && b[4002] == 0xee);
    fill();
    d = (u64)a + 1, v = 0;
    __asm__ volatile("mov %1, %%rsi; lodsb; lodsw; lodsl; lodsq" : "+a"(v) : "r"(d) : "rsi");
    check_eq("lods of all widths", v, *(u64 *)(a + 8));
    v = ~0ull;
    __asm__ volatile("mov %1, %%rsi; lodsl" : "+a"(v) : "r"(d) : "rsi");
    check_eq("lodsd clears the upper half", v, *(u32 *)(a + 1));
    v = ~0ull;
    __asm__ volatile("mov %1, %%rsi; lodsb" : "+a"(v) : "r"(d) : "rsi");
    check_eq("lodsb keeps the rest", v, ~0xffull | a[1]);
}

static void compares(void)
{
    u64 s, d, c, f;

    fill();
    memcpy(b, a, 8192);
    b[5000] ^= 1;
    s = (u64)a, d = (u64)b, c = 8000;
    __asm__ volatile("repe cmpsb; pushf; pop %3"
                     : "+S"(s), "+D"(d), "+c"(c), "=r"(f)::"memory");
    check_eq("repe cmpsb stops behind the difference", s - (u64)a, 5001);
    check_eq("repe cmpsb count", c, 8000 - 5001);
    check_eq("repe cmpsb ZF", f >> 6 & 1, 0);
    check_eq("repe cmpsb CF", f & 1, a[5000] < b[5000]);
    s = (u64)a, d = (u64)b, c = 600;
    __asm__ volatile("repe cmpsq; pushf; pop %3"
                     : "+S"(s), "+D"(d), "+c"(c), "=r"(f)::"memory");
    check("repe cmpsq to the end", !c && f >> 6 & 1);
    d = (u64)a, c = 3000;
    memset(a, 0x20, 8192);
    a[2999] = 0;
    __asm__ volatile("repne scasb; pushf; pop %2"
                     : "+D"(d), "+c"(c), "=r"(f)
                     : "a"(0)
                     : "memory");
    check("repne scasb finds the last", !c && f >> 6 & 1 && d == (u64)a + 3000);
    d = (u64)a + 2998, c = 100;
    __asm__ volatile("std; repe scasb; cld; pushf; pop %2"
                     : "+D"(d), "+c"(c), "=r"(f)
                     : "a"(0x20)
                     : "memory");
    check("repe scasb down", !c && f >> 6 & 1 && d == (u64)a + 2898);
    c = 0, d = 1;
    __asm__ volatile("xor %%eax, %%eax; inc %%eax; stc; repe scasb; pushf; pop %2"
                     : "+D"(d), "+c"(c), "=r"(f)::"rax");
    check_eq("repe with no count keeps the flags", f & 0x41, 1);
    d = (u64)a, c = 10;
    __asm__ volatile("repne scasl; pushf; pop %2"
                     : "+D"(d), "+c"(c), "=r"(f)
                     : "a"(0x20202020)
                     : "memory");
    check("repne scasd", c == 9 && d == (u64)a + 4);
}

static void map(int page, const void *to, u64 flags)
{
    pml4[128] = (u64)tables[0] | 7;
    tables[0][0] = (u64)tables[1] | 7;
    tables[1][0] = (u64)tables[2] | 7;
    tables[2][page] = (u64)to | flags;
    invlpg(VA + 4096 * page);
}

static void midway(void)
{
    u64 s, d, c;

    fill();
    map(0, b, 3);
    map(1, b + 4096, 0);
    s = (u64)a, d = (u64)VA + 4096 - 100, c = 1000;
    TRY("rep movsb", : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check_exc("rep movsb into an absent page", 14, 2, 0);
    check_eq("midway: address", exc_cr2, (u64)VA + 4096);
    check_eq("midway: rcx", c, 900);
    check_eq("midway: rsi", s, (u64)a + 100);
    check_eq("midway: rdi", d, (u64)VA + 4096);
    check("midway: copied so far", same(a, b + 3996, 100));
    /* put it right and go on: as an operating system does */
    map(1, b + 4096, 3);
    TRY("rep movsb", : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check("goes on after the fault", !c && same(a, b + 3996, 1000));
    map(1, b + 4096, 0);
    s = (u64)VA + 4096 - 52, d = (u64)a, c = 100;
    TRY("rep movsq", : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check_exc("rep movsq from an absent page", 14, 0, 0);
    check_eq("element across: address", exc_cr2, (u64)VA + 4096);
    check_eq("element across: rcx", c, 94);
    check_eq("element across: rsi", s, (u64)VA + 4096 - 4);
    d = (u64)VA + 4096 - 30, c = 100;
    TRY("rep stosl", : "+D"(d), "+c"(c) : "a"(0x5a5a5a5a) : "memory");
    check_eq("rep stosd midway: rcx", c, 93);
    check_eq("rep stosd midway: nothing beyond", *(u16 *)(b + 4094) == 0x5a5a, 0);
    map(0, b, 0);
    map(1, b + 4096, 3);
    d = (u64)VA + 4096 + 16, c = 100;
    TRY_BETWEEN("std", "rep stosw", "cld", : "+D"(d), "+c"(c) : "a"(0x5a5a5a5a) : "memory");
    check_eq("rep stosw down midway: rcx", c, 91);
    check_eq("rep stosw down midway: rdi", d, (u64)VA + 4096 - 2);
    map(0, b, 3);
    map(1, b + 4096, 0);
    memset(b, 0x20, 4096);
    d = (u64)VA + 4000, c = 1000;
    TRY("repe scasb", : "+D"(d), "+c"(c) : "a"(0x20) : "memory");
    check_exc("repe scasb into an absent page", 14, 0, 0);
    check_eq("repe scasb midway: rcx", c, 1000 - 96);
    memcpy(a, b, 4096);
    s = (u64)a, d = (u64)VA + 4000, c = 1000;
    TRY("repe cmpsb", : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check_eq("repe cmpsb midway: rcx", c, 1000 - 96);
    check_eq("repe cmpsb midway: rsi", s, (u64)a + 96);
    /* read only: the fault comes at the element, its registers exact */
    map(1, b + 4096, 1);
    s = (u64)a, d = (u64)VA + 4096 - 10, c = 20;
    TRY("rep movsb", : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check_exc("rep movsb into a read-only page", 14, 3, 0);
    check_eq("read-only: rcx", c, 10);
}

static void ports(void)
{
    /* port 0x80 takes anything; 0x61 of the PIT reads; string output is counted by its
     * registers */
    u64 s = (u64)a, c = 100;
    __asm__ volatile("rep outsb" : "+S"(s), "+c"(c) : "d"(0x80) : "memory");
    check("rep outsb", !c && s == (u64)a + 100);
    u64 d = (u64)b;
    c = 16;
    fill();
    __asm__ volatile("rep insb" : "+D"(d), "+c"(c) : "d"(0x3ff) : "memory");
    outb(0x3ff, 0xa5); /* UART scratch */
    d = (u64)b, c = 16;
    __asm__ volatile("rep insb" : "+D"(d), "+c"(c) : "d"(0x3ff) : "memory");
    bool ok = true;
    for (int i = 0; i < 16; i++)
        ok &= b[i] == 0xa5;
    check("rep insb", ok && !c && d == (u64)b + 16 && b[16] == 0xee);
    d = (u64)b + 4, c = 1;
    __asm__ volatile("std; rep insb; cld" : "+D"(d), "+c"(c) : "d"(0x3ff) : "memory");
    check("insb down", d == (u64)b + 3);
    map(0, b, 0);
    d = (u64)VA, c = 4;
    TRY("rep insb", : "+D"(d), "+c"(c) : "d"(0x3ff) : "memory");
    check_exc("rep insb into an absent page", 14, 2, 0);
    check_eq("rep insb: rcx", c, 4);
    map(0, b, 3);
}

void main(void)
{
    moves();
    stores();
    compares();
    midway();
    ports();
}
