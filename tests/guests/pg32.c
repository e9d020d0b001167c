// SPDX-License-Identifier: GPL-2.0-or-later
/* pg32.c - 32-bit paging: two levels, 4 MiB pages, and PAE with its four loaded pointers. */
#include "lib/guest.h"

enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };

static u32 dir[1024] __attribute__((aligned(4096))), table[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(32))), pds[4][512] __attribute__((aligned(4096))),
    ptab[512] __attribute__((aligned(4096)));
static u8 pages[4][4096] __attribute__((aligned(4096)));
#define VA ((volatile u8 *)0x80000000)

#define LOAD(va)  TRY("movl (%0), %%eax", ::"r"(va) : "eax", "memory")
#define STORE(va) TRY("movl %%eax, (%0)", ::"r"(va), "a"(0x11223344) : "memory")

static void expect_pf(const char *name, u32 error, const volatile void *at)
{
    check_exc(name, 14, error, 0);
    check_eq(name, exc_cr2, (ul)at);
}

__attribute__((naked)) static void u_load(void)
{
    __asm__("movl 0x80000000, %eax; ud2");
}

static void two_levels(void)
{
    for (u32 i = 0; i < 1024; i++)
        dir[i] = i << 22 | PS | US | RW | P;
    dir[0x200] = (ul)table | US | RW | P;
    set_cr4(cr4() | 0x10);
    set_cr3((ul)dir);
    set_cr0(cr0() | 0x80010000);
    LOAD(VA + 4);
    expect_pf("read of an absent page", 0, VA + 4);
    STORE(VA + 4);
    expect_pf("write of an absent page", 2, VA + 4);
    table[0] = (ul)pages[0] | P | RW;
    *(volatile u32 *)VA = 0x12345678;
    check_eq("write", *(u32 *)pages[0], 0x12345678);
    check_eq("A and D", table[0] & (A | D), A | D);
    check_eq("A in the directory", dir[0x200] & A, A);
    table[0] = (ul)pages[0] | P;
    invlpg(VA);
    STORE(VA);
    expect_pf("write of a read-only page", 3, VA);
    set_cr0(cr0() & ~0x10000u);
    STORE(VA);
    check_exc("without WP", NONE, 0, 0);
    set_cr0(cr0() | 0x10000);
    user_run((void *)u_load, 0, 2);
    check_eq("user read of a kernel page", exc.vector << 8 | exc.error, 14 << 8 | 5);
    table[0] |= US;
    invlpg(VA);
    user_run((void *)u_load, 0, 2);
    check_eq("user read", exc.vector, 6);
    dir[0x201] = PS | RW | P;
    check_eq("4 MiB page", *(volatile u32 *)(VA + 0x400000 + 0x100000),
             *(volatile u32 *)0x100000);
    check_eq("A in a 4 MiB entry", dir[0x201] & (A | D), A);
    set_cr3(cr3());
    table[0] |= RW;
    table[1] = (ul)pages[1] | P | RW;
    *(volatile u32 *)(VA + 4094) = 0xaabbccdd;
    check("across pages", *(u16 *)(pages[0] + 4094) == 0xccdd && *(u16 *)pages[1] == 0xaabb);
    set_cr0(cr0() & ~0x80000000u);
    check_eq("paging off", *(u16 *)pages[1], 0xaabb);
}

static void pae(void)
{
    for (u32 i = 0; i < 2048; i++)
        pds[i / 512][i % 512] = (u64)i << 21 | PS | US | RW | P;
    for (u32 i = 0; i < 4; i++)
        pdpt[i] = (ul)pds[i] | P;
    pds[2][0] = (ul)ptab | US | RW | P;
    set_cr4((cr4() & ~0x10ul) | 0x20);
    set_cr3((ul)pdpt);
    set_cr0(cr0() | 0x80000000);
    LOAD(VA);
    expect_pf("PAE: absent page", 0, VA);
    ptab[0] = (ul)pages[2] | P | RW;
    *(volatile u32 *)VA = 7;
    check_eq("PAE: write", *(u32 *)pages[2], 7);
    check_eq("PAE: A and D", ptab[0] & (A | D), A | D);
    if (has(0x80000001, 0, 3, 20)) {
        wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
        ptab[0] |= BIT(63);
        pages[2][0] = 0xc3;
        invlpg(VA);
        TRY_CALL(VA, "eax");
        check_eq("PAE: NX", exc.vector << 8 | exc.error, 14 << 8 | 0x11);
        ptab[0] &= ~BIT(63);
        invlpg(VA);
        TRY_CALL(VA, "eax");
        check_exc("PAE: execute", NONE, 0, 0);
    } else {
        skip("PAE: NX");
    }
    /* the pointers are loaded with CR3: a change in memory counts at the next load */
    u64 was = pdpt[2];
    pdpt[2] = 0;
    invlpg(VA);
    LOAD(VA);
    check("PAE: pointers are loaded with CR3", exc_count == 0 || exc.vector == 14);
    set_cr3((ul)pdpt);
    LOAD(VA);
    check_eq("PAE: absent pointer", exc.vector, 14);
    pdpt[2] = was;
    set_cr3((ul)pdpt);
    LOAD(VA);
    check_exc("PAE: and back", NONE, 0, 0);
    pdpt[2] = was | 6; /* reserved bits */
    TRY("mov %0, %%cr3", ::"r"(pdpt) : "memory");
    check_exc("PAE: reserved bits in a pointer", 13, 0, 0);
    TRY("mov %0, %%cr4", ::"r"(cr4() ^ 0x80) : "memory");
    check_exc("PAE: reserved bits, pointers loaded by CR4", 13, 0, 0);
    pdpt[2] = was ^ P ^ 6;
    TRY("mov %0, %%cr3", ::"r"(pdpt) : "memory");
    check_exc("PAE: reserved bits in an absent pointer", NONE, 0, 0);
    pdpt[2] = was | BIT(63);
    TRY("mov %0, %%cr3", ::"r"(pdpt) : "memory");
    check_exc("PAE: NX in a pointer", 13, 0, 0);
    TRY("mov %0, %%cr0; mov %1, %%cr0", ::"r"(cr0() & ~0x80000000ul), "r"(cr0()) : "memory");
    check_eq("PAE: pointers loaded by CR0", exc.vector, 13);
    check_eq("PAE: paging is still off then", cr0() >> 31, 0);
    for (u32 i = 0; i < 4; i++) /* all of them: TCG sets A in pointers, where it is reserved */
        pdpt[i] = (ul)pds[i] | P;
    set_cr3((ul)pdpt);
    set_cr0(cr0() | 0x80000000ul);
    ptab[0] |= BIT(45);
    u32 r[4];
    cpuid(0x80000008, 0, r);
    invlpg(VA);
    LOAD(VA);
    if ((r[0] & 0xff) < 45)
        check_eq("PAE: reserved address bit", exc.vector << 8 | exc.error, 14 << 8 | 9);
    ptab[0] &= ~BIT(45);
    set_cr0(cr0() & ~0x80000000u);
}

void main(void)
{
    two_levels();
    pae();
}
