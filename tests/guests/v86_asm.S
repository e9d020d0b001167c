/* SPDX-License-Identifier: GPL-2.0-or-later */
/* v86_asm.S - the way into virtual-8086 mode, and the code that runs there (segment 0x1000). */
    .text
    .code32
    .globl v86_enter, v86_start, v86_end
/* void v86_enter(u32 cs, u32 ip, u32 flags): the trap handler comes back through user_back. */
v86_enter:
    movl 4(%esp), %eax
    movl 8(%esp), %ecx
    movl 12(%esp), %edx
    push %ebx; push %ebp; push %esi; push %edi
    movl %esp, user_saved_sp
    pushl $0x5555              /* GS */
    pushl $0x4444              /* FS */
    pushl $0x1000              /* DS */
    pushl $0x1000              /* ES */
    pushl $0x3000              /* SS */
    pushl $0x8000
    orl $0x20000, %edx
    pushl %edx
    pushl %eax
    pushl %ecx
    xorl %eax, %eax
    xorl %ebx, %ebx
    iretl

#define FN(name) .globl name; name:
    .code16
v86_start:
FN(t_plain)
    movw %ds, %ax
    movw $0x2000, %bx
    movw %bx, %es
    movl $0x12345678, %es:0x10
    movl %es:0x10, %ecx
    int3                       /* ends a test, where IOPL is 3 */
FN(t_int)
    int $0x60
    ud2
FN(t_cli)
    cli
    ud2
FN(t_sti)
    sti
    ud2
FN(t_pushf)
    pushfw
    popw %ax
    ud2
FN(t_popf)
    pushw $0x7202
    popfw
    ud2
FN(t_iret)
    pushw $0x202
    pushw %cs
    pushw $(t_done - v86_start)
    iretw
FN(t_done)
    ud2
FN(t_hlt)
    hlt
FN(t_in)
    inb $0x60, %al
    ud2
FN(t_in80)
    inb $0x80, %al
    ud2
FN(t_lgdt)
    lgdtl 0
FN(t_cr0)
    movl %cr0, %eax
    ud2
FN(t_limit)
    movw $0xffff, %bx
    movw (%bx), %ax
    ud2
FN(t_page)
    movw $0xf000, %bx
    movw %bx, %es
    movb %es:0x0, %al
    ud2
FN(t_div)
    xorw %cx, %cx
    divw %cx
    ud2
FN(t_far)
    lcallw $0x1000, $(t_far2 - v86_start)
    ud2
FN(t_far2)
    movw %cs, %ax
    lretw
FN(t_arpl)
    arpl %ax, %bx
    ud2
FN(t_step)
    nop
    nop
    ud2
v86_end:
    nop
