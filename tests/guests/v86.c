// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * v86.c - virtual-8086 mode: segments, sensitive instructions by IOPL, interrupts out of it
 * with all segments on the ring 0 stack, I/O bitmap, page faults. VME is off.
 */
#include "lib/guest.h"

extern u8 v86_start[], v86_end[], user_back[];
extern ul user_saved_sp;
void v86_enter(u32 cs, u32 ip, u32 flags);

#define T(n) extern u8 n[];
T(t_plain)
T(t_int) T(t_cli) T(t_sti) T(t_pushf) T(t_popf) T(t_iret) T(t_done) T(t_hlt) T(t_in) T(t_in80)
    T(t_lgdt) T(t_cr0) T(t_limit) T(t_page) T(t_div) T(t_far) T(t_arpl) T(t_step)

        static struct frame got;
static u32 start_ip;

/* Whatever comes out of V86 mode ends its run. */
static void out(struct frame *f)
{
    got = *f;
    f->ds = f->es = f->fs = f->gs = KDS;
    __asm__ volatile("movl %0, %%esp; jmp user_back" ::"r"(user_saved_sp));
    __builtin_unreachable();
}

static void run(u8 *code, u32 flags)
{
    start_ip = (u32)(code - v86_start);
    v86_enter(0x1000, start_ip, flags);
}

static void expect(const char *name, u8 *code, u32 flags, u32 vector, u32 error, u32 off)
{
    run(code, flags);
    check_eq(name,
             (u64)got.vector << 32 | (got.error & 0xffff) << 16 |
                 ((got.ip - start_ip) & 0xffff),
             (u64)vector << 32 | error << 16 | off);
}

static u32 dir[1024] __attribute__((aligned(4096))), table[1024] __attribute__((aligned(4096)));

void main(void)
{
    for (u32 v = 0; v < 0x70; v++)
        handlers[v] = out;
    memcpy((void *)0x10000, v86_start, (ul)(v86_end - v86_start));
    *(u32 *)0x80 = 0; /* its own vector table is not asked */

    idt[3].type = 0xee;
    expect("runs, INT3 with IOPL 3", t_plain, 0x3002, 3, 0, (u32)(t_int - t_plain));
    check_eq("DS", got.ax & 0xffff, 0x1000);
    check_eq("segment base and 32-bit data", got.cx, 0x12345678);
    check_eq("memory at 0x20010", *(volatile u32 *)0x20010, 0x12345678);
    check_eq("VM on the stack", got.flags >> 17 & 1, 1);
    check("segments on the stack",
          got.ves == 0x2000 && got.vds == 0x1000 && got.vfs == 0x4444 && got.vgs == 0x5555);
    check_eq("CS on the stack", got.cs & 0xffff, 0x1000);
    check_eq("SS on the stack", got.ss & 0xffff, 0x3000);
    check_eq("SP on the stack", got.sp, 0x8000);
    check_eq("IOPL on the stack", got.flags >> 12 & 3, 3);
    u32 fs, gs;
    __asm__ volatile("mov %%fs, %0; mov %%gs, %1" : "=r"(fs), "=r"(gs));
    expect("INT n with IOPL 0", t_int, 2, 13, 0, 0);
    expect("INT n with IOPL 3, gate of ring 0", t_int, 0x3002, 13, 0x60 * 8 + 2, 0);
    idt[0x60].type = 0xee;
    expect("INT n with IOPL 3", t_int, 0x3002, 0x60, 0, 2);
    expect("CLI with IOPL 0", t_cli, 2, 13, 0, 0);
    expect("CLI with IOPL 3", t_cli, 0x3202, 6, 0, 1);
    check_eq("CLI clears IF", got.flags >> 9 & 1, 0);
    expect("STI with IOPL 0", t_sti, 2, 13, 0, 0);
    expect("PUSHF with IOPL 0", t_pushf, 2, 13, 0, 0);
    expect("PUSHF with IOPL 3", t_pushf, 0x3002, 6, 0, 2);
    check_eq("PUSHF shows IOPL", got.ax >> 12 & 3, 3);
    expect("POPF with IOPL 0", t_popf, 2, 13, 0, 3);
    expect("POPF with IOPL 3", t_popf, 0x3002, 6, 0, 4);
    check_eq("POPF sets IF, keeps IOPL and VM", got.flags & 0x23200, 0x23200);
    run(t_iret, 2);
    check_eq("IRET with IOPL 0", got.vector, 13);
    run(t_iret, 0x3002);
    check("IRET with IOPL 3",
          got.vector == 6 && got.ip == (u32)(t_done - v86_start) && got.flags >> 17 & 1);
    expect("HLT", t_hlt, 0x3002, 13, 0, 0);
    expect("IN", t_in, 0x3002, 13, 0, 0);
    tss_set_io(0x80, 0x80, false);
    expect("IN allowed by the bitmap", t_in80, 2, 6, 0, 2);
    expect("LGDT", t_lgdt, 0x3002, 13, 0, 0);
    expect("MOV CR0", t_cr0, 0x3002, 13, 0, 0);
    expect("word at offset ffff", t_limit, 2, 13, 0, 3);
    expect("divide error", t_div, 2, 0, 0, 2);
    expect("far call and return", t_far, 2, 6, 0, 5);
    check_eq("CS inside", got.ax & 0xffff, 0x1000);
    expect("ARPL", t_arpl, 2, 6, 0, 0);
    expect("single step", t_step, 0x102, 1, 0, 1);

    /* with paging: one page of the first MiB is not there */
    for (u32 i = 0; i < 1024; i++)
        table[i] = i << 12 | 7;
    table[0xf0] = 0;
    dir[0] = (ul)table | 7;
    for (u32 i = 1; i < 1024; i++)
        dir[i] = i << 22 | 0x87;
    set_cr4(cr4() | 0x10);
    set_cr3((ul)dir);
    set_cr0(cr0() | 0x80010000);
    expect("page fault", t_page, 2, 14, 4, 5);
    check_eq("its address", cr2(), 0xf0000);
    expect("runs with paging", t_plain, 0x3002, 3, 0, (u32)(t_int - t_plain));
    set_cr0(cr0() & ~0x80000000u);
}
