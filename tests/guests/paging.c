// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * paging.c - 4-level paging: faults with their error codes and addresses, accessed and dirty
 * bits, write protection, NX, SMEP, SMAP, global pages, PCID, large pages, accesses that cross
 * pages.
 */
#include "lib/guest.h"

enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX   BIT(63)
#define ADDR 0x000ffffffffff000ull

extern u64 pml4[512], pds[2048];
static u64 tables[32][512] __attribute__((aligned(4096)));
static u32 used;
static u8 pages[16][4096] __attribute__((aligned(4096)));
static u8 big[2][2 << 20] __attribute__((aligned(2 << 20)));

/* Where the tests map things: another slot of the top level, four pages next to each other. */
#define VA ((volatile u8 *)0x0000400000000000)

static u64 *entry(u64 *top, const volatile void *va, int level)
{
    u64 *t = top;

    for (int l = 3;; l--) {
        u64 *e = &t[(u64)va >> (12 + 9 * l) & 511];

        if (l == level)
            return e;
        if (!(*e & P))
            *e = (u64)tables[used++] | P | RW | US;
        t = (u64 *)(*e & ADDR);
    }
}

static u64 *pte(const volatile void *va)
{
    return entry(pml4, va, 0);
}

static void map(const volatile void *va, const void *to, u64 flags)
{
    *pte(va) = (u64)to | flags;
    invlpg(va);
}

static void flush(void)
{
    set_cr3(cr3());
}

#define LOAD(va)  TRY("movl (%0), %%eax", ::"r"(va) : "rax", "memory")
#define STORE(va) TRY("movl %%eax, (%0)", ::"r"(va), "a"(0x11223344) : "memory")
#define RMW(va)   TRY("addl %%eax, (%0)", ::"r"(va), "a"(1) : "memory")
#define CALL(va)  TRY_CALL(va, "rax")

static void expect_pf(const char *name, u32 error, const volatile void *at)
{
    check_exc(name, 14, error, 0);
    if (exc_count)
        check_eq(name, exc_cr2, (u64)at);
}

static void absent(void)
{
    map(VA, pages[0], 0);
    LOAD(VA + 8);
    expect_pf("read of an absent page", 0, VA + 8);
    STORE(VA + 0x123);
    expect_pf("write of an absent page", 2, VA + 0x123);
    RMW(VA + 0xff8);
    expect_pf("rmw of an absent page", 2, VA + 0xff8);
    u64 *pde = entry(pml4, VA, 1), save = *pde;
    *pde = 0;
    flush();
    LOAD(VA);
    expect_pf("absent page table", 0, VA);
    *pde = save;
    TRY("movl (%0), %%eax", ::"r"(0x7ffffffffffc) : "rax");
    check_eq("absent top level", exc.vector, 14);
    check_eq("absent top level address", exc_cr2, 0x7ffffffffffc);
    /* a fault leaves the registers as they were */
    u64 a = 0x55, c = 3, s = (u64)VA, d = (u64)pages[1];
    TRY("rep movsb", : "+c"(c), "+S"(s), "+D"(d)::"memory");
    check_exc("rep movsb from an absent page", 14, 0, 0);
    check("rep movsb changed nothing", c == 3 && s == (u64)VA && d == (u64)pages[1]);
    TRY("xchg %%rax, (%1)", : "+a"(a) : "r"(VA) : "memory");
    check_eq("xchg with an absent page", a, 0x55);
}

static void protection(void)
{
    map(VA, pages[0], P | US);
    LOAD(VA);
    check_exc("read of a read-only page", NONE, 0, 0);
    STORE(VA);
    expect_pf("write of a read-only page with WP", 3, VA);
    set_cr0(cr0() & ~0x10000ul);
    STORE(VA + 4);
    check_exc("write of a read-only page without WP", NONE, 0, 0);
    check_eq("is written", *(u32 *)(pages[0] + 4), 0x11223344);
    set_cr0(cr0() | 0x10000ul);
    STORE(VA + 4);
    expect_pf("WP comes back", 3, VA + 4);
    /* read-only in an upper level */
    map(VA, pages[0], P | RW);
    *entry(pml4, VA, 1) &= ~(u64)RW;
    flush();
    STORE(VA);
    expect_pf("read-only directory entry", 3, VA);
    *entry(pml4, VA, 1) |= RW;
    flush();
    /* reserved bits */
    map(VA, pages[0], P | RW | BIT(51));
    u32 r[4];
    cpuid(0x80000008, 0, r);
    if ((r[0] & 0xff) < 52) {
        LOAD(VA);
        expect_pf("reserved bit in a page table entry", 9, VA);
        STORE(VA);
        expect_pf("reserved bit, write", 11, VA);
    } else {
        skip("reserved bit in a page table entry");
    }
    u64 save = *entry(pml4, VA, 2);
    *entry(pml4, VA, 2) = P | RW | PS | BIT(13);
    flush();
    LOAD(VA);
    expect_pf("reserved bits in a 1 GiB entry", 9, VA);
    *entry(pml4, VA, 2) = save;
    *entry(pml4, VA, 3) |= PS;
    flush();
    LOAD(VA);
    expect_pf("PS in the top level", 9, VA);
    *entry(pml4, VA, 3) &= ~(u64)PS;
    flush();
}

static void no_execute(void)
{
    pages[2][0] = 0xc3;
    map(VA, pages[2], P | RW);
    CALL(VA);
    check_exc("call into a page", NONE, 0, 0);
    if (!has(0x80000001, 0, 3, 20)) {
        skip("NX");
        return;
    }
    map(VA, pages[2], P | RW | NX);
    CALL(VA);
    check_eq("fetch from an NX page", exc.vector, 14);
    check_eq("fetch from an NX page: error", exc.error, 0x11);
    check_eq("fetch from an NX page: address", exc_cr2, (u64)VA);
    check_eq("fetch from an NX page: rip", exc.ip, (u64)VA);
    LOAD(VA);
    check_exc("read of an NX page", NONE, 0, 0);
    map(VA, pages[2], 0);
    CALL(VA);
    check_eq("fetch from an absent page: error", exc.error, 0x10);
    map(VA, pages[2], P | RW);
    *entry(pml4, VA, 2) |= NX;
    flush();
    CALL(VA);
    check_eq("NX in an upper level", exc.error, 0x11);
    *entry(pml4, VA, 2) &= ~NX;
    /* with EFER.NXE off, NX is a reserved bit */
    map(VA, pages[2], P | RW | NX);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
    flush();
    LOAD(VA);
    expect_pf("NX bit without NXE", 9, VA);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    flush();
}

static void accessed_dirty(void)
{
    map(VA, pages[0], P | RW);
    *entry(pml4, VA, 1) &= ~(u64)(A | D);
    *entry(pml4, VA, 2) &= ~(u64)(A | D);
    *entry(pml4, VA, 3) &= ~(u64)(A | D);
    flush();
    (void)*VA;
    check_eq("a read sets A alone", *pte(VA) & (A | D), A);
    check_eq("A in the directory", *entry(pml4, VA, 1) & (A | D), A);
    check_eq("A in the directory pointers", *entry(pml4, VA, 2) & (A | D), A);
    check_eq("A at the top", *entry(pml4, VA, 3) & (A | D), A);
    *VA = 1;
    check_eq("a write sets D", *pte(VA) & (A | D), A | D);
    *pte(VA) &= ~(u64)(A | D);
    invlpg(VA);
    *VA = 2;
    check_eq("a write sets A and D at once", *pte(VA) & (A | D), A | D);
    *pte(VA) &= ~(u64)(A | D);
    invlpg(VA);
    __asm__ volatile("lock cmpxchgl %1, (%2)" ::"a"(0x999), "r"(1), "r"(VA) : "memory");
    check_eq("a failing cmpxchg sets D", *pte(VA) & D, D);
    /* a write that faults sets no D */
    map(VA, pages[0], P);
    STORE(VA);
    check_eq("a refused write sets no D", *pte(VA) & D, 0);
    /* an entry that is not present stays as it is */
    map(VA, pages[0], 0);
    LOAD(VA);
    check_eq("nothing in an absent entry", *pte(VA) & (A | D), 0);
}

static void crossing(void)
{
    map(VA, pages[0], P | RW);
    map(VA + 4096, pages[5], P | RW); /* not next to it in memory */
    memset(pages[0], 0, 4096);
    memset(pages[5], 0, 4096);
    *(volatile u64 *)(VA + 4092) = 0x1122334455667788;
    check_eq("write across pages, first", *(u32 *)(pages[0] + 4092), 0x55667788);
    check_eq("write across pages, second", *(u32 *)pages[5], 0x11223344);
    check_eq("read across pages", *(volatile u64 *)(VA + 4093), 0x11223344556677);
    u64 old = 1;
    __asm__ volatile("lock xaddq %0, (%1)" : "+r"(old) : "r"(VA + 4092) : "memory");
    check_eq("lock xadd across pages", old, 0x1122334455667788);
    check_eq("lock xadd across pages, memory", *(u32 *)(pages[0] + 4092), 0x55667789);
    map(VA + 4096, pages[5], 0);
    TRY("movq %%rax, (%0)", ::"r"(VA + 4092), "a"(-1l) : "memory");
    expect_pf("write into an absent second page", 2, VA + 4096);
    check_eq("and not into the first", *(u32 *)(pages[0] + 4092), 0x55667789);
    TRY("movq (%0), %%rax", ::"r"(VA + 4089) : "rax");
    expect_pf("read from an absent second page", 0, VA + 4096);
    map(VA + 4096, pages[5], P);
    TRY("movups %%xmm0, (%0)", ::"r"(VA + 4088) : "memory");
    expect_pf("vector write into a read-only second page", 3, VA + 4096);
    check_eq("vector write: and not into the first", *(u32 *)(pages[0] + 4092), 0x55667789);
    map(VA, pages[0], 0);
    TRY("movq (%0), %%rax", ::"r"(VA + 4092) : "rax");
    expect_pf("absent first page", 0, VA + 4092);
    /* code across pages: mov eax, imm32; ret */
    static const u8 code[] = { 0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3 };
    map(VA, pages[0], P | RW);
    map(VA + 4096, pages[5], P | RW);
    memcpy(pages[0] + 4093, code, 3);
    memcpy(pages[5], code + 3, 3);
    u32 got;
    __asm__ volatile("call *%1" : "=a"(got) : "r"(VA + 4093) : "memory");
    check_eq("instruction across pages", got, 0x12345678);
    map(VA + 4096, pages[5], 0);
    CALL(VA + 4093);
    check_eq("instruction into an absent page: vector", exc.vector, 14);
    check_eq("instruction into an absent page: cr2", exc_cr2, (u64)VA + 4096);
    check_eq("instruction into an absent page: rip", exc.ip, (u64)VA + 4093);
}

/* ---- ring 3 ---- */

__attribute__((naked)) static void u_load(void)
{
    __asm__("mov (%rdi), %eax; ud2");
}
__attribute__((naked)) static void u_store(void)
{
    __asm__("mov %eax, (%rdi); ud2");
}
__attribute__((naked)) static void u_jump(void)
{
    __asm__("jmp *%rdi");
}

static void user(const char *name, void (*fn)(void), u64 flags, s64 error)
{
    map(VA, pages[3], flags);
    user_run((void *)fn, (ul)VA, 2);
    if (error < 0) {
        check_eq(name, exc.vector, 6);
        return;
    }
    check_eq(name, exc.vector << 32 | exc.error, 14ull << 32 | (u64)error);
    check_eq(name, exc_cr2, (u64)VA);
}

static void ring3(void)
{
    pages[3][0] = 0x0f;
    pages[3][1] = 0x0b; /* ud2 */
    user("user read of a user page", u_load, P | RW | US, -1);
    user("user write of a user page", u_store, P | RW | US, -1);
    pages[3][0] = 0x0f;
    pages[3][1] = 0x0b;
    user("user jump to a user page", u_jump, P | RW | US, -1);
    user("user read of a kernel page", u_load, P | RW, 5);
    user("user write of a kernel page", u_store, P | RW, 7);
    user("user write of a read-only page", u_store, P | US, 7);
    user("user read of an absent page", u_load, 0, 4);
    user("user write of an absent page", u_store, 0, 6);
    user("user jump to a kernel page", u_jump, P | RW, 0x15);
    user("user jump to an NX page", u_jump, P | RW | US | NX, 0x15);
    user("user jump to an absent page", u_jump, 0, 0x14);
    set_cr0(cr0() & ~0x10000ul);
    user("user write of a read-only page without WP", u_store, P | US, 7);
    set_cr0(cr0() | 0x10000ul);
}

/* Kernel code and data must not be user pages now. */
static void smep_smap(void)
{
    u64 cr4_was = cr4();

    for (int i = 0; i < 2048; i++)
        pds[i] &= ~(u64)US;
    flush();
    pages[2][0] = 0xc3;
    if (has(7, 0, 1, 7)) {
        map(VA, pages[2], P | RW | US);
        set_cr4(cr4() | 1ul << 20);
        CALL(VA);
        check_eq("SMEP: kernel fetch from a user page", exc.vector << 32 | exc.error,
                 14ull << 32 | 0x11);
        LOAD(VA);
        check_exc("SMEP: kernel read of a user page", NONE, 0, 0);
        map(VA, pages[2], P | RW);
        CALL(VA);
        check_exc("SMEP: kernel fetch from a kernel page", NONE, 0, 0);
        set_cr4(cr4_was);
        map(VA, pages[2], P | RW | US);
        CALL(VA);
        check_exc("SMEP off", NONE, 0, 0);
    } else {
        skip("SMEP");
    }
    if (has(7, 0, 1, 20)) {
        map(VA, pages[2], P | RW | US);
        set_cr4(cr4() | 1ul << 21);
        LOAD(VA);
        expect_pf("SMAP: kernel read of a user page", 1, VA);
        STORE(VA);
        expect_pf("SMAP: kernel write of a user page", 3, VA);
        __asm__ volatile("stac");
        LOAD(VA);
        check_exc("SMAP: with AC", NONE, 0, 0);
        STORE(VA);
        check_exc("SMAP: write with AC", NONE, 0, 0);
        __asm__ volatile("clac");
        LOAD(VA);
        expect_pf("SMAP: after clac", 1, VA);
        __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf" ::: "memory");
        LOAD(VA);
        check_exc("SMAP: AC by popf", NONE, 0, 0);
        __asm__ volatile("clac");
        map(VA, pages[2], P | RW);
        LOAD(VA);
        check_exc("SMAP: a kernel page", NONE, 0, 0);
        set_cr4(cr4_was);
    } else {
        skip("SMAP");
    }
    for (int i = 0; i < 2048; i++)
        pds[i] |= US;
    flush();
}

static void tlb(void)
{
    memset(pages[6], 0x66, 4096);
    memset(pages[7], 0x77, 4096);
    map(VA, pages[6], P | RW);
    check_eq("before", *VA, 0x66);
    *pte(VA) = (u64)pages[7] | P | RW;
    invlpg(VA + 0xfff);
    check_eq("INVLPG by any address of the page", *VA, 0x77);
    *pte(VA) = (u64)pages[6] | P | RW;
    flush();
    check_eq("a CR3 load flushes", *VA, 0x66);
    /* global: CR3 may keep it, toggling PGE must not */
    *pte(VA) = (u64)pages[6] | P | RW | G;
    invlpg(VA);
    check_eq("global page", *VA, 0x66);
    *pte(VA) = (u64)pages[7] | P | RW | G;
    set_cr4(cr4() & ~0x80ul);
    set_cr4(cr4() | 0x80);
    check_eq("toggling PGE flushes global pages", *VA, 0x77);
    *pte(VA) = (u64)pages[6] | P | RW | G;
    invlpg(VA);
    check_eq("INVLPG flushes global pages", *VA, 0x66);
    /* a not-present entry is never cached */
    map(VA, pages[6], 0);
    LOAD(VA);
    *pte(VA) = (u64)pages[6] | P | RW;
    LOAD(VA);
    check_exc("absent to present needs no flush", NONE, 0, 0);
    /* more rights need none: the fault walks again */
    map(VA, pages[6], P);
    LOAD(VA);
    *pte(VA) |= RW;
    STORE(VA);
    check("read-only to writable", exc_count == 0 || exc.error == 3);
    /* an alias sees what is written */
    map(VA, pages[6], P | RW);
    map(VA + 4096, pages[6], P | RW);
    VA[5] = 0x12;
    check_eq("alias", VA[4096 + 5], 0x12);
    /* a changed table entry */
    u64 *pde = entry(pml4, VA, 1), save = *pde;
    u64 *other = tables[used++];
    other[(u64)VA >> 12 & 511] = (u64)pages[7] | P | RW;
    check_eq("before", VA[8], 0x66);
    *pde = (u64)other | P | RW | US;
    invlpg(VA);
    check_eq("INVLPG drops what upper levels said", VA[8], 0x77);
    *pde = save;
    invlpg(VA);
    check_eq("and back", VA[8], 0x66);
}

static void large(void)
{
    u64 *pde = entry(pml4, VA + (4ul << 20), 1);
    volatile u8 *va = VA + (4ul << 20);

    *pde = (u64)big[0] | P | RW | PS;
    invlpg(va);
    big[0][0x123456] = 0xab;
    check_eq("2 MiB page", va[0x123456], 0xab);
    check_eq("A in a 2 MiB entry", *pde & (A | D), A);
    va[0x1fffff] = 0xcd;
    check_eq("write to its end", big[0][0x1fffff], 0xcd);
    check_eq("D in a 2 MiB entry", *pde & (A | D), A | D);
    *pde = (u64)big[1] | P | RW | PS;
    invlpg(va + 0x100000);
    check_eq("INVLPG drops all of a large page", va[0x123456], 0);
    *pde = (u64)big[1] | P | RW | PS | BIT(13);
    flush();
    LOAD(va);
    expect_pf("reserved bit in a 2 MiB entry", 9, va);
    *pde = 0;
    flush();
    if (has(0x80000001, 0, 3, 26)) {
        u64 *pdpte = entry(pml4, VA + (1ul << 30), 2);

        *pdpte = 0 | P | RW | PS;
        flush();
        check_eq("1 GiB page", (u64)VA[(1ul << 30) + (u64)pages[6]], pages[6][0]);
        *pdpte = 0;
        flush();
    } else {
        skip("1 GiB page");
    }
}

static void pcid(void)
{
    if (!has(1, 0, 2, 17)) {
        skip("PCID");
        return;
    }
    u64 *top = tables[used++];

    memcpy(top, pml4, 4096);
    top[(u64)VA >> 39 & 511] = 0;
    memset(pages[6], 0x66, 4096);
    memset(pages[7], 0x77, 4096);
    map(VA, pages[6], P | RW);
    *entry(top, VA, 0) = (u64)pages[7] | P | RW;
    u64 base = (u64)pml4, other = (u64)top;
    TRY("mov %0, %%cr3", ::"r"(base | BIT(63)));
    check_exc("CR3 bit 63 without PCIDE", 13, 0, 0);
    set_cr3(base | 8);
    TRY("mov %0, %%cr4", ::"r"(cr4() | 1ul << 17));
    check_exc("PCIDE with a PCID in CR3", 13, 0, 0);
    set_cr3(base);
    set_cr4(cr4() | 1ul << 17);
    check_eq("PCID 0", *VA, 0x66);
    set_cr3(other | 5);
    check_eq("PCID 5", *VA, 0x77);
    for (int i = 0; i < 100; i++) {
        set_cr3(base | BIT(63));
        if (*VA != 0x66)
            break;
        set_cr3(other | 5 | BIT(63));
        if (*VA != 0x77)
            break;
        if (i == 99)
            check("switching without flushes", true);
    }
    check_eq("CR3 reads without bit 63", cr3(), other | 5);
    *entry(top, VA, 0) = (u64)pages[6] | P | RW;
    set_cr3(other | 5);
    check_eq("CR3 load without bit 63 flushes its PCID", *VA, 0x66);
    if (has(7, 0, 1, 10)) {
        struct {
            u64 pcid, va;
        } d = { 5, (u64)VA };
        static const char *const names[] = { "INVPCID of an address", "INVPCID of a context",
                                             "INVPCID of all", "INVPCID of all but global" };

        for (u64 type = 0; type < 4; type++) {
            *entry(top, VA, 0) = (u64)pages[type & 1 ? 6 : 7] | P | RW;
            set_cr3(base | BIT(63));
            __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
            set_cr3(other | 5 | BIT(63));
            check_eq(names[type], *VA, type & 1 ? 0x66 : 0x77);
        }
        TRY("invpcid %0, %1", ::"m"(d), "r"(4ul) : "memory");
        check_exc("INVPCID of type 4", 13, 0, 0);
        d.pcid = 0x1000;
        TRY("invpcid %0, %1", ::"m"(d), "r"(1ul) : "memory");
        check_exc("INVPCID reserved bits", 13, 0, 0);
    } else {
        skip("INVPCID");
    }
    set_cr3(base);
    set_cr4(cr4() & ~(1ul << 17));
}

static void pku(void)
{
    if (!has(7, 0, 2, 3)) {
        skip("PKU");
        return;
    }
    set_cr4(cr4() | 1ul << 22);
    check("CPUID shows OSPKE", has(7, 0, 2, 4));
    __asm__ volatile("wrpkru" ::"a"(0x8), "c"(0), "d"(0)); /* key 1: no writes */
    user("PKU: read with WD", u_load, P | RW | US | 1ul << 59, -1);
    user("PKU: write with WD", u_store, P | RW | US | 1ul << 59, 0x27);
    __asm__ volatile("wrpkru" ::"a"(0xc), "c"(0), "d"(0));
    user("PKU: read with AD", u_load, P | RW | US | 1ul << 59, 0x25);
    user("PKU: another key", u_load, P | RW | US | 2ul << 59, -1);
    __asm__ volatile("wrpkru" ::"a"(0), "c"(0), "d"(0));
    set_cr4(cr4() & ~(1ul << 22));
}

void main(void)
{
    absent();
    protection();
    no_execute();
    accessed_dirty();
    crossing();
    ring3();
    smep_smap();
    tlb();
    large();
    pcid();
    pku();
}
