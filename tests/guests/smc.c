// SPDX-License-Identifier: GPL-2.0-or-later
/* smc.c - code that changes: by itself, in place, across pages, through aliases and remapping.
 */
#include "lib/guest.h"

extern u64 pml4[512];
static u8 page[4 * 4096] __attribute__((aligned(4096)));
static u64 tables[3][512] __attribute__((aligned(4096)));
#define VA ((u8 *)0x0000400000000000)

static void map(int n, const void *to)
{
    pml4[128] = (u64)tables[0] | 7;
    tables[0][0] = (u64)tables[1] | 7;
    tables[1][0] = (u64)tables[2] | 7;
    tables[2][n] = (u64)to | 3;
    invlpg(VA + 4096 * n);
}

/* mov eax, imm32; ret */
static void put_code(u8 *at, u32 imm)
{
    at[0] = 0xb8;
    memcpy(at + 1, &imm, 4);
    at[5] = 0xc3;
}

static u32 call(const void *at)
{
    u32 r;
    __asm__ volatile("call *%1" : "=a"(r) : "r"(at) : "memory", "rcx", "rdx");
    return r;
}

static void simple(void)
{
    put_code(page, 1);
    check_eq("made code", call(page), 1);
    bool ok = true;
    for (u32 i = 0; i < 1000; i++) {
        *(volatile u32 *)(page + 1) = i;
        ok &= call(page) == i;
    }
    check("immediate rewritten 1000 times", ok);
    page[5] = 0x90;
    page[6] = 0xc3;
    check_eq("longer code", call(page), 999);
    *(volatile u8 *)page = 0xb9; /* mov ecx */
    *(volatile u8 *)page = 0xb8;
    check_eq("there and back", call(page), 999);
    ok = true;
    for (u32 i = 0; i < 200; i++) {
        static u8 image[64];
        put_code(image, i * 3);
        memcpy(page + 64, image, 6); /* by a string instruction */
        ok &= call(page + 64) == i * 3;
    }
    check("rewritten by rep movsb", ok);
    memset(page + 128, 0x90, 256);
    put_code(page + 384, 7);
    check_eq("a slide", call(page + 128), 7);
    put_code(page + 200, 8);
    check_eq("cut short", call(page + 128), 8);
    memset(page + 128, 0x90, 256);
    check_eq("and long again", call(page + 128), 7);
}

/* The very next instruction is written. */
static void next_instruction(void)
{
    u32 r;
    __asm__ volatile("movl $0, %%eax\n"
                     "movb $0x42, 1f+1(%%rip)\n" /* imm8 of the next */
                     "1: add $0x01, %%al\n"      /* 04 ib */
                     "movb $0x01, 1b+1(%%rip)\n"
                     : "=a"(r)::"memory");
    check_eq("the next instruction", r, 0x42);
    __asm__ volatile("xorl %%eax, %%eax\n"
                     "movl $100, %%ecx\n"
                     "1: movb %%cl, 2f+1(%%rip)\n"
                     "2: movb $0, %%dl\n" /* b2 ib */
                     "movzbl %%dl, %%edx\n"
                     "addl %%edx, %%eax\n"
                     "loop 1b\n"
                     : "=a"(r)::"rcx", "rdx", "memory");
    check_eq("the next instruction in a loop", r, 5050);
    /* a string store over itself: the rest of the loop is new */
    __asm__ volatile("lea 1f(%%rip), %%rdi\n"
                     "movl $4, %%ecx\n"
                     "movb $0x40, %%al\n"
                     "xorl %%edx, %%edx\n"
                     "movb $0xc0, %%al\n"
                     "lea 2f(%%rip), %%rsi\n"
                     "rep movsb\n"
                     "1: .byte 0x90, 0x90, 0x90, 0x90\n"
                     "jmp 3f\n"
                     "2: .byte 0xff, 0xc2, 0xff, 0xc2\n" /* inc edx; inc edx */
                     "3: movl %%edx, %0\n"
                     : "=r"(r)::"rax", "rcx", "rdx", "rsi", "rdi", "memory");
    check_eq("rep movsb over what follows", r, 2);
}

static void across_pages(void)
{
    u8 *at = page + 4096 - 3; /* imm32 in both pages */

    put_code(at, 0x11223344);
    check_eq("across pages", call(at), 0x11223344);
    page[4096] = 0x99;
    check_eq("its second page changed", call(at), 0x11993344);
    page[4095] = 0x77;
    check_eq("its first page changed", call(at), 0x11997744);
    /* a jump over the boundary */
    memset(page + 4096 - 16, 0x90, 32);
    put_code(page + 4096 + 16, 5);
    check_eq("runs over the boundary", call(page + 4096 - 16), 5);
    put_code(page + 4096, 6);
    check_eq("second page changed", call(page + 4096 - 16), 6);
    /* a store that crosses into code */
    put_code(page + 8192, 7);
    check_eq("before", call(page + 8192), 7);
    put_code(page + 8192 - 2, 0);
    *(volatile u64 *)(page + 8192 - 4) = 0x00000008b8909090 & 0xffffffffffffffff;
    put_code(page + 8192, 9);
    check_eq("after", call(page + 8192), 9);
    *(volatile u64 *)(page + 8192 - 6) = 0x0ab8 * (1ull << 48);
    check_eq("a store that ends in the code's first bytes", call(page + 8192), 0x0a);
}

static void aliases(void)
{
    map(0, page);
    map(1, page);
    put_code(page, 1);
    check_eq("by one address", call(VA), 1);
    check_eq("by another", call(VA + 4096), 1);
    *(volatile u32 *)(VA + 1) = 2;
    check_eq("written through the one, run through the other", call(VA + 4096), 2);
    *(volatile u32 *)(page + 1) = 3;
    check_eq("written at home", call(VA), 3);
    put_code(page + 4096, 4);
    map(0, page + 4096);
    check_eq("remapped", call(VA), 4);
    map(0, page);
    check_eq("and back", call(VA), 3);
    bool ok = true;
    for (u32 i = 0; i < 200; i++) {
        map(0, page + 4096 * (i & 1));
        ok &= call(VA) == 3 + (i & 1);
    }
    check("remapped 200 times", ok);
    /* code across two pages that are remapped one at a time */
    put_code(page + 4096 - 3, 0x11223344);
    put_code(page + 3 * 4096 - 3, 0x55667788);
    map(0, page);
    map(1, page + 4096);
    check_eq("across mapped pages", call(VA + 4096 - 3), 0x11223344);
    map(1, page + 3 * 4096);
    check_eq("second one remapped", call(VA + 4096 - 3), 0x55663344);
    map(0, page + 2 * 4096);
    check_eq("first one remapped", call(VA + 4096 - 3), 0x55667788);
}

static void put_jump(u8 *at, u8 opcode, u32 to)
{
    at[0] = opcode;
    memcpy(at + 1, &to, 4);
}

static u32 call_often(const void *at)
{
    u32 r = call(at);

    for (int k = 0; k < 20; k++)
        if (call(at) != r)
            return 0xbad;
    return r;
}

/* A jump to another page, whose target goes elsewhere in every way there is. */
static void to_another_page(void)
{
    u8 *there = page + 4096;

    put_jump(page + 16, 0xe9, 4096 + 32 - 21);    /* to 32 of the next page */
    put_jump(page + 4096 + 256, 0xe9, -4096 - 5); /* to 256 of the page before */
    put_code(page + 256, 50);
    put_code(there + 32, 10);
    put_code(page + 2 * 4096 + 32, 20);
    put_code(page + 3 * 4096 + 32, 30);
    map(0, page);
    map(1, there);
    check_eq("jump to the next page", call_often(VA + 16), 10);
    check_eq("jump to the page before", call_often(VA + 4096 + 256), 50);
    *(volatile u32 *)(there + 33) = 11;
    check_eq("its target rewritten", call_often(VA + 16), 11);
    map(1, page + 2 * 4096);
    check_eq("its target remapped", call_often(VA + 16), 20);
    *(volatile u32 *)(there + 33) = 12;
    check_eq("the old target rewritten", call_often(VA + 16), 20);
    map(1, there);
    check_eq("its target mapped again", call_often(VA + 16), 12);
    /* The jump's own page at two addresses: the same bytes, two targets. */
    map(2, page);
    map(3, page + 3 * 4096);
    check_eq("the jump at another address", call_often(VA + 2 * 4096 + 16), 30);
    bool ok = true;
    for (u32 k = 0; k < 200; k++)
        ok &= call(VA + 16) == 12 && call(VA + 2 * 4096 + 16) == 30;
    check("both by turns", ok);
    for (u32 k = 0; k < 100; k++) {
        map(1, page + 4096 * (1 + k % 3));
        ok &= call(VA + 16) == (const u32[]){ 12, 20, 30 }[k % 3];
    }
    check("remapped by turns", ok);
    /* A target that is not there. */
    map(1, there);
    call_often(VA + 16);
    tables[2][1] = 0;
    invlpg(VA + 4096);
    TRY_CALL(VA + 16);
    check_eq("an absent target: vector", exc.vector, 14);
    check_eq("an absent target: address", exc_cr2, (u64)VA + 4096 + 32);
    map(1, there);
    check_eq("and there again", call_often(VA + 16), 12);
    /* A call, whose return address is in the first page. */
    put_jump(page + 768, 0xe8, 4096 + 32 - 773);
    memcpy(page + 773, "\x83\xc0\x01\xc3", 4); /* add eax, 1; ret */
    check_eq("call to the next page", call_often(VA + 768), 13);
    put_code(there + 32, 100);
    check_eq("its target rewritten again", call_often(VA + 768), 101);
}

static void data_beside(void)
{
    volatile u32 *n = (volatile u32 *)(page + 512);
    u32 sum = 0;

    put_code(page, 5);
    for (u32 i = 0; i < 5000; i++) {
        *n += 1;
        sum += call(page);
    }
    check_eq("data in the page of code", *n + sum, 30000);
    /* code that writes its own page: inc dword [rip+x]; mov eax, [rip+x]; ret */
    static const u8 code[] = { 0xff, 0x05, 0x0a, 0, 0,    0, 0x8b, 0x05,
                               0x04, 0,    0,    0, 0xc3, 0, 0,    0 };
    memcpy(page + 1024, code, sizeof code);
    *(u32 *)(page + 1024 + 16) = 0;
    for (u32 i = 0; i < 3000; i++)
        sum = call(page + 1024);
    check_eq("code that writes beside itself", sum, 3000);
    /* the stack in a page of code */
    u64 got;
    put_code(page + 2048, 9);
    __asm__ volatile("mov %%rsp, %%rbx; mov %1, %%rsp; push $1; push $2; call *%2; add $16, "
                     "%%rsp; mov %%rbx, %%rsp"
                     : "=a"(got)
                     : "r"(page + 2048 - 64), "r"(page + 2048)
                     : "rbx", "memory");
    check_eq("stack in the page of code", (u32)got, 9);
}

void main(void)
{
    simple();
    next_instruction();
    across_pages();
    aliases();
    to_another_page();
    data_beside();
}
