// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mmio.c - accesses to device memory by all kinds of instructions: the local APIC's task
 * priority and initial count as registers that hold what is written; ROM; nothing at all.
 */
#include "lib/pic.h"

/* the initial count of the timer, which is masked: it holds any number */
#define HOLD       0xfee00380ul
#define NONE_THERE 0xfe000000ul

void main(void)
{
    volatile u32 *reg = (volatile u32 *)HOLD;
    u64 v, f;

    apic_on();
    apic_write(APIC_TIMER, 0x10000);
    *reg = 0x40;
    check_eq("MOV", *reg, 0x40);
    __asm__ volatile("orl $0x10, %0" : "+m"(*reg)::"cc");
    check_eq("OR", *reg, 0x50);
    __asm__ volatile("andl %1, %0" : "+m"(*reg) : "r"(0xf0) : "cc");
    check_eq("AND", *reg, 0x50);
    __asm__ volatile("addl $0x20, %0" : "+m"(*reg)::"cc");
    check_eq("ADD", *reg, 0x70);
    __asm__ volatile("xorl $0xff, %0" : "+m"(*reg)::"cc");
    check_eq("XOR", *reg, 0x8f);
    v = 0x30;
    __asm__ volatile("xchgl %k0, %1" : "+r"(v), "+m"(*reg));
    check("XCHG", v == 0x8f && *reg == 0x30);
    v = 5;
    __asm__ volatile("lock xaddl %k0, %1" : "+r"(v), "+m"(*reg)::"cc");
    check("XADD", v == 0x30 && *reg == 0x35);
    v = 0x99;
    *reg = 0x35;
    __asm__ volatile("lock cmpxchgl %k2, %1" : "+a"(v), "+m"(*reg) : "r"(0x66) : "cc");
    check("CMPXCHG unequal", v == 0x35 && *reg == 0x35);
    __asm__ volatile("lock cmpxchgl %k2, %1" : "+a"(v), "+m"(*reg) : "r"(0x66) : "cc");
    check("CMPXCHG equal", v == 0x35 && *reg == 0x66);
    *reg = 0x80;
    __asm__ volatile("movzbl %1, %k0" : "=r"(v) : "m"(*(volatile u8 *)HOLD));
    check_eq("MOVZX", v, 0x80);
    __asm__ volatile("movsbq %1, %0" : "=r"(v) : "m"(*(volatile u8 *)HOLD));
    check_eq("MOVSX", v, (u64)-128);
    __asm__ volatile("movslq %1, %0" : "=r"(v) : "m"(*reg));
    check_eq("MOVSXD", v, 0x80);
    __asm__ volatile("cmpl $0x80, %1; pushf; pop %0" : "=r"(f) : "m"(*reg) : "cc");
    check_eq("CMP", f >> 6 & 1, 1);
    __asm__ volatile("testl $0x80, %1; pushf; pop %0" : "=r"(f) : "m"(*reg) : "cc");
    check_eq("TEST", f >> 6 & 1, 0);
    v = 0x11;
    __asm__ volatile("addl %1, %k0" : "+r"(v) : "m"(*reg) : "cc");
    check_eq("ADD from it", v, 0x91);
    v = 3;
    __asm__ volatile("imull %1, %k0" : "+r"(v) : "m"(*reg) : "cc");
    check_eq("IMUL from it", v, 0x180);
    __asm__ volatile("btl $7, %1; pushf; pop %0" : "=r"(f) : "m"(*reg) : "cc");
    check_eq("BT", f & 1, 1);
    __asm__ volatile("btrl $7, %0" : "+m"(*reg)::"cc");
    check_eq("BTR", *reg, 0);
    __asm__ volatile("mov %%rsp, %%rbx; pushq (%1); pop %0; mov %%rbx, %%rsp"
                     : "=r"(v)
                     : "r"(HOLD)
                     : "rbx", "memory");
    check_eq("PUSH from it", (u32)v, 0);
    *reg = 0x20;
    __asm__ volatile("movl %1, %k0" : "=r"(v) : "m"(*reg));
    static u32 buf[4];
    u64 s = HOLD, d = (ul)buf;
    __asm__ volatile("movsl" : "+S"(s), "+D"(d)::"memory");
    check("MOVS from it", buf[0] == 0x20 && s == HOLD + 4 && d == (ul)buf + 4);
    buf[1] = 0x30;
    s = (ul)&buf[1], d = HOLD;
    __asm__ volatile("movsl" : "+S"(s), "+D"(d)::"memory");
    check_eq("MOVS to it", *reg, 0x30);
    d = HOLD;
    __asm__ volatile("stosl" : "+D"(d) : "a"(0x40) : "memory");
    check_eq("STOS", *reg, 0x40);
    s = HOLD;
    __asm__ volatile("lodsl" : "+S"(s), "=a"(v)::"memory");
    check_eq("LODS", (u32)v, 0x40);
    d = HOLD;
    __asm__ volatile("scasl; pushf; pop %1" : "+D"(d), "=r"(f) : "a"(0x40) : "cc");
    check_eq("SCAS", f >> 6 & 1, 1);
    u32 hv[4];
    cpuid(0x40000000, 0, hv);
    if (hv[1] == 0x4b4d564b) { /* KVM's emulator knows no MOVD */
        skip("MOVD");
    } else {
        __asm__ volatile("movd %1, %%xmm0; movd %%xmm0, %k0" : "=r"(v) : "m"(*reg));
        check_eq("MOVD from it", (u32)v, 0x40);
        v = 0x50;
        __asm__ volatile("movd %k1, %%xmm0; movd %%xmm0, %0" : "=m"(*reg) : "r"(v));
        check_eq("MOVD to it", *reg, 0x50);
    }
    *reg = 0x50;
    __asm__ volatile("clc; setc %0" : "=m"(*(volatile u8 *)NONE_THERE));
    v = 0;
    __asm__ volatile("stc; cmovcl %1, %k0" : "+r"(v) : "m"(*reg) : "cc");
    check_eq("CMOV", v, 0x50);
    *reg = 0;

    check_eq("nobody home: byte", *(volatile u8 *)NONE_THERE, 0xff);
    check_eq("nobody home: word", *(volatile u16 *)NONE_THERE, 0xffff);
    check_eq("nobody home: dword", *(volatile u32 *)NONE_THERE, 0xffffffff);
    check_eq("nobody home: qword", *(volatile u64 *)NONE_THERE, ~0ull);
    check_eq("nobody home: unaligned", *(volatile u64 *)(NONE_THERE + 3), ~0ull);
    check_eq("nobody home: across pages", *(volatile u64 *)(NONE_THERE + 4092), ~0ull);
    __asm__ volatile("movdqu (%1), %%xmm0; movq %%xmm0, %0" : "=r"(v) : "r"(NONE_THERE));
    check_eq("nobody home: sixteen bytes", v, ~0ull);
    *(volatile u64 *)NONE_THERE = 5;
    check_eq("writes are lost", *(volatile u64 *)NONE_THERE, ~0ull);
    *(volatile u32 *)0xfec00000ul = 1;
    check_eq("two registers make one", *(volatile u32 *)0xfec00010ul & 0xff,
             ioapic_read(1) & 0xff);
    apic_write(APIC_COUNT, 0);
}
