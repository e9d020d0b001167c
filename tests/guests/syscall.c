// SPDX-License-Identifier: GPL-2.0-or-later
/* syscall.c - SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FS and GS bases, far transfers, IRET.
 */
#include "lib/guest.h"

enum {
    EFER = 0xc0000080,
    STAR = 0xc0000081,
    LSTAR,
    CSTAR,
    SFMASK,
    FS_BASE = 0xc0000100,
    GS_BASE,
    KERNEL_GS
};

volatile u64 seen[8] __attribute__((visibility("hidden")));
u64 kernel_sp;

/* SYSCALL lands here: notes what it got, goes on in ring 3 by SYSRET with RAX = 0x1234. */
__attribute__((naked)) static void entry(void)
{
    __asm__("mov %rcx, seen\n mov %r11, seen+8\n mov %cs, seen+16\n mov %ss, seen+24\n"
            "mov %rsp, seen+32\n mov kernel_sp, %rsp\n pushf\n popq seen+40\n"
            "mov seen+32, %rsp\n mov $0x1234, %eax\n sysretq");
}
__attribute__((naked)) static void entry32(void)
{
    __asm__("mov %rcx, seen\n mov %r11, seen+8\n mov $0x4321, %eax\n sysretl");
}
__attribute__((naked)) static void u_syscall(void)
{
    __asm__("mov $0x5678, %r12d; stc; std; syscall; .globl u_after; u_after: mov %cs, %ebx; "
            "mov %ss, "
            "%ebp; pushf; pop %rdx; cld; ud2");
}
extern u8 u_after[];
__attribute__((naked)) static void u_syscall_ud(void)
{
    __asm__("syscall; ud2");
}
__attribute__((naked)) static void u_gs(void)
{
    __asm__("mov %gs:0, %rax; mov %fs:8, %rbx; ud2");
}
__attribute__((naked)) static void u_fsgsbase(void)
{
    __asm__(
        "rdgsbase %rax; rdfsbase %rbx; mov $0x5555, %ecx; wrgsbase %rcx; rdgsbase %rdx; ud2");
}
/* 32-bit code: far jump in from 64-bit ring 3 by its selector */
__attribute__((naked)) static void u_compat(void)
{
    __asm__("sub $16, %rsp; movl $1f, (%rsp); movl $0x1b, 4(%rsp); ljmpl *(%rsp)\n"
            ".code32\n1: inc %eax\n" /* 40 is a REX prefix in 64-bit mode */
            ".byte 0x40, 0x40\n"     /* inc eax twice */
            "mov %cs, %ebx; ud2\n.code64");
}

static void syscalls(void)
{
    wrmsr(STAR, (u64)0x18 << 48 | (u64)KCS << 32);
    wrmsr(LSTAR, (ul)entry);
    wrmsr(SFMASK, 0x401);
    __asm__ volatile("mov %%rsp, %0" : "=m"(kernel_sp));
    kernel_sp -= 1024;
    user_run((void *)u_syscall, 0, 2);
    check_eq("comes back", exc.vector, 6);
    check_eq("RAX by the kernel", exc.ax, 0x1234);
    check_eq("RCX is where it goes on", seen[0], (ul)u_after);
    check_eq("R11 has the flags", seen[1] & 0x401, 0x401);
    check_eq("kernel CS", (u16)seen[2], KCS);
    check_eq("kernel SS", (u16)seen[3], KDS);
    check_eq("RSP is the user's", seen[4], (ul)user_stack_top - 64);
    check_eq("SFMASK clears flags", seen[5] & 0x401, 0);
    check_eq("user CS after SYSRET", exc.bx & 0xffff, UCS);
    check_eq("user SS after SYSRET", exc.bp & 0xffff, UDS);
    check_eq("flags after SYSRET", exc.dx & 0x401, 0x401);
    check_eq("R12 is kept", exc.r12, 0x5678);
    wrmsr(EFER, rdmsr(EFER) & ~1ull);
    user_run((void *)u_syscall_ud, 0, 2);
    check_exc("SYSCALL without SCE", 6, 0, 0);
    TRY("sysretq", :::);
    check_exc("SYSRET without SCE", 6, 0, 0);
    wrmsr(EFER, rdmsr(EFER) | 1);
    wrmsr(LSTAR, (ul)entry32);
    user_run((void *)u_syscall, 0, 2);
    check_eq("SYSRET to 32-bit code", exc.cs, 0x1b);
    check_eq("SYSRET to 32-bit code: RAX", exc.ax, 0x4321);
    wrmsr(LSTAR, (ul)entry);
}

static u64 user_data[2] = { 0x1111, 0x2222 }, kernel_data[2] = { 0x3333, 0x4444 };

static void bases(void)
{
    u64 v;

    wrmsr(GS_BASE, (ul)user_data);
    wrmsr(KERNEL_GS, (ul)kernel_data);
    wrmsr(FS_BASE, (ul)kernel_data);
    __asm__ volatile("mov %%gs:0, %0" : "=r"(v));
    check_eq("GS base", v, 0x1111);
    __asm__ volatile("swapgs; mov %%gs:8, %0; swapgs" : "=r"(v));
    check_eq("SWAPGS", v, 0x4444);
    __asm__ volatile("mov %%gs:8, %0" : "=r"(v));
    check_eq("SWAPGS and back", v, 0x2222);
    user_run((void *)u_gs, 0, 2);
    check("bases in ring 3", exc.ax == 0x1111 && exc.bx == 0x4444);
    wrmsr(GS_BASE, 0);
    __asm__ volatile("mov %0, %%gs" ::"r"(UDS));
    check_eq("loading GS loads its base", rdmsr(GS_BASE), 0);
    if (has(7, 0, 1, 0)) {
        TRY("rdgsbase %%rax", ::: "rax");
        check_exc("RDGSBASE without CR4.FSGSBASE", 6, 0, 0);
        set_cr4(cr4() | 1ul << 16);
        wrmsr(GS_BASE, 0x7777);
        wrmsr(FS_BASE, 0x8888);
        user_run((void *)u_fsgsbase, 0, 2);
        check("RDGSBASE and WRGSBASE",
              exc.ax == 0x7777 && exc.bx == 0x8888 && exc.dx == 0x5555);
        check_eq("WRGSBASE is what the MSR shows", rdmsr(GS_BASE), 0x5555);
        TRY("wrgsbase %0", ::"r"(0x8000000000000000));
        check_exc("WRGSBASE non-canonical", 13, 0, 0);
        set_cr4(cr4() & ~(1ul << 16));
    } else {
        skip("FSGSBASE");
    }
    wrmsr(GS_BASE, 0);
    wrmsr(FS_BASE, 0);
}

static void far_transfers(void)
{
    u64 v;
    struct {
        u32 off;
        u16 sel;
    } __attribute__((packed)) far;

    user_run((void *)u_compat, 5, 2);
    check_eq("32-bit code in ring 3", exc.cs, 0x1b);
    check_eq("RAX counts there", (u32)exc.bx, 0x1b);
    /* ring 0: through a 32-bit segment and back by LRET */
    __asm__ volatile("push $0x40; lea 1f(%%rip), %%rax; push %%rax; lretq\n"
                     ".code32\n 1: movl $0x11223344, %%ebx; pushl $0x08; pushl $2f; lretl\n"
                     ".code64\n 2: mov %%rbx, %0"
                     : "=r"(v)::"rax", "rbx", "memory");
    check_eq("LRET to 32-bit code and back", (u32)v, 0x11223344);
    far.sel = 0x40;
    __asm__ volatile("lea 1f(%%rip), %%rax; mov %%eax, %0; ljmpl *%0\n"
                     ".code32\n 1: ljmpl $8, $2f\n .code64\n 2:"
                     : "=m"(far.off), "+m"(far.sel)::"rax", "memory");
    check("LJMP to 32-bit code and back", true);
    __asm__ volatile("mov %%rsp, %%rbx; push $0x10; push %%rbx; pushf; orl $0x40000, (%%rsp); "
                     "push $8; lea 1f(%%rip), %%rax; push %%rax; iretq; 1: pushf; pop %0; "
                     "pushf; andl $~0x40000, (%%rsp); popf"
                     : "=r"(v)::"rax", "rbx", "memory", "cc");
    check_eq("IRETQ restores AC", v >> 18 & 1, 1);
    far.sel = 0x48;
    gdt[9] = 0;
    TRY("ljmpl *%0", ::"m"(far.off), "m"(far.sel));
    check_exc("LJMP to an empty descriptor", 13, 0x48, 0);
    gdt[9] = 0x00af1b000000ffff;
    TRY("ljmpl *%0", ::"m"(far.off), "m"(far.sel));
    check_exc("LJMP to a segment not present", 11, 0x48, 0);
    gdt[9] = 0x00cf93000000ffff;
    TRY("ljmpl *%0", ::"m"(far.off), "m"(far.sel));
    check_exc("LJMP to a data segment", 13, 0x48, 0);
    far.sel = 0;
    TRY("ljmpl *%0", ::"m"(far.off), "m"(far.sel));
    check_exc("LJMP to a null selector", 13, 0, 0);
    u32 lar = 0;
    __asm__ volatile("lar %1, %0; setz %b0" : "=&q"(lar) : "r"(0x10));
    check_eq("LAR of data", lar & 0xff, 1);
    __asm__ volatile("lsl %1, %0" : "=r"(lar) : "r"(0x10));
    check_eq("LSL scales", lar, 0xffffffff);
    u8 ok;
    __asm__ volatile("verw %w1; setz %0" : "=q"(ok) : "r"(0x08));
    check_eq("VERW of code", ok, 0);
    __asm__ volatile("verr %w1; setz %0" : "=q"(ok) : "r"(0x08));
    check_eq("VERR of readable code", ok, 1);
}

static void sysenter(void)
{
    u32 hv[4];

    cpuid(0x40000000, 0, hv);
    if (is_amd() && hv[1] == 0x4b4d564b) { /* KVM tries to emulate it and gives up */
        skip("SYSENTER");
        return;
    }
    if (is_amd()) { /* not in long mode there */
        EXPECT_EXC("SYSENTER", 6, 0, "sysenter", :::);
        EXPECT_EXC("SYSEXIT", 6, 0, "sysexitq", :::);
        return;
    }
    wrmsr(0x174, 0);
    TRY("sysenter", :::);
    check_exc("SYSENTER without CS", 13, 0, 0);
    TRY("sysexitq", :::);
    check_exc("SYSEXIT without CS", 13, 0, 0);
}

void main(void)
{
    syscalls();
    bases();
    far_transfers();
    sysenter();
}
