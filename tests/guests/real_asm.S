/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * real_asm.S - the real-mode half of real.c: copied to segment 0x1000, entered from protected mode,
 * appends its results as 32-bit words at segment 0x2000, and comes back.
 */
    .text
    .code32
    .globl real_run, real_start, real_end
real_run:
    pusha
    movl %esp, saved_esp
    sidt saved_idt
    movl $real_start, %esi
    movl $0x10000, %edi
    movl $real_end, %ecx
    subl %esi, %ecx
    rep movsb
    ljmp $0x80, $(pm16 - real_start)  /* 16-bit code at 0x10000 */

    .globl real_back32
real_back32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl saved_esp, %esp
    lidt saved_idt
    popa
    ret

    .data
saved_esp:
    .long 0
saved_idt:
    .long 0, 0

    .text
    .code16
#define O(label) (label - real_start)

.macro RESULT                      /* EAX to the list */
    pushl %eax
    pushw %es
    pushw $0x2000
    popw %es
    cld
    movl %eax, %es:(%di)
    addw $4, %di
    popw %es
    popl %eax
.endm
.macro RESULT16                    /* AX */
    movzwl %ax, %eax
    RESULT
.endm

real_start:
pm16:
    movw $0x38, %ax                /* 64 KiB data: real mode's limit */
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    ljmpw $0x1000, $O(real)
real:
    movw $0x1000, %ax
    movw %ax, %ds
    movw %ax, %es
    movw $0x3000, %ax
    movw %ax, %ss
    movl $0x8000, %esp
    lidtl O(ivt)
    xorl %edi, %edi
    xorl %ebx, %ebx
    movw %bx, %fs
    /* vectors 0, 4, 5, 6, 13, 0x60 */
    movl $(0x10000000 + O(on_fault)), %fs:0
    movl $(0x10000000 + O(on_into)), %fs:16
    movl $(0x10000000 + O(on_fault)), %fs:20
    movl $(0x10000000 + O(on_fault)), %fs:24
    movl $(0x10000000 + O(on_fault)), %fs:48
    movl $(0x10000000 + O(on_fault)), %fs:52
    movl $(0x10000000 + O(on_60)), %fs:0x180

    /* 0: base of a segment is 16 times its selector */
    movw $0x1001, %ax
    movw %ax, %gs
    movl %gs:O(magic) - 16, %eax
    RESULT
    /* 1: INT and IRET: IF and TF cleared inside, all back after */
    sti
    movw $0, %ax
    stc
    int $0x60
    pushfw
    popw %bx
    cli
    RESULT16                        /* flags inside */
    movw %bx, %ax
    andw $0x301, %ax
    RESULT16                        /* 2: flags after */
    /* 3: the address pushed by a fault is that of the instruction */
    movw $O(1f), O(resume)
    xorw %cx, %cx
    movw $5, %ax
    xorw %dx, %dx
0:  divw %cx
1:  movw O(fault_ip), %ax
    subw $O(0b), %ax
    RESULT16
    /* 4: word at offset ffff */
    movw $0, O(faults)
    movw $O(1f), O(resume)
    movw $0xffff, %bx
    movw %ds:(%bx), %ax
1:  movw O(faults), %ax
    RESULT16
    /* 5: a byte there is fine; 32-bit offset beyond 64 KiB is not */
    movw $0, O(faults)
    movw $O(1f), O(resume)
    movb %ds:(%bx), %al
    movl $0x10000, %ebx
    movb %ds:(%ebx), %al
1:  movw O(faults), %ax
    RESULT16
    /* 6: above 1 MiB through segment ffff */
    movw $0xffff, %ax
    movw %ax, %gs
    movl %gs:0x10, %eax
    RESULT
    /* 7: SI wraps at 64 KiB in a string instruction */
    pushw %di
    movw $0x2000, %ax
    movw %ax, %gs
    movb $0x5a, %gs:0xffff
    movb $0xa5, %gs:0x8000
    pushw %ds
    pushw %es
    movw %ax, %ds
    movw $0x4000, %ax
    movw %ax, %es
    movw $0xffff, %si
    movw $0x10, %di
    movl $0x12340001, %ecx
    rep movsb
    movb %es:0x10, %al
    movw %si, %bx
    popw %es
    popw %ds
    popw %di
    movb $0, %ah
    RESULT16
    movw %bx, %ax
    RESULT16                        /* 8: SI */
    movl %ecx, %eax
    RESULT                          /* 9: the upper half of ECX stays */
    /* 10: 32-bit operands and addresses */
    movl $0x12345678, %eax
    addl $0x11111111, %eax
    RESULT
    movl $O(magic), %ebx
    movl $1, %ecx
    movl 4(%ebx, %ecx, 4), %eax
    RESULT                          /* 11 */
    leal 0x12345(%ebx), %eax
    subl %ebx, %eax
    RESULT                          /* 12 */
    /* 13: 16-bit effective addresses wrap */
    movw $0xfffe, %bx
    movw $(O(magic) + 2), %si
    movw (%bx, %si), %ax
    RESULT16
    /* 14: PUSHA and POPA, ENTER, far calls */
    movw $0x1234, %bp
    pushaw
    movw $0, %bp
    popaw
    movw %bp, %ax
    RESULT16
    movw $0x77, %bp
    movw %sp, %bx
    enterw $16, $2
    movw %bx, %ax
    subw %sp, %ax
    leavew
    RESULT16                        /* 15 */
    lcallw $0x1000, $O(far_proc)
    RESULT16                        /* 16 */
    pushw %cs
    pushw $O(1f)
    lretw
1:  /* 17: SP wraps */
    movw %sp, %bx
    xorl %esp, %esp
    pushw $0x4321
    movw %sp, %ax
    popw %cx
    movl $0x8000, %esp
    RESULT16
    movw %cx, %ax
    RESULT16                        /* 18 */
    /* 19: INTO, BOUND */
    movw $0, O(faults)
    movb $0x7f, %al
    addb $1, %al
    into
    movw O(faults), %ax
    RESULT16
    movw $0, O(faults)
    movw $O(1f), O(resume)
    movw $9, %ax
    boundw %ax, O(bounds)
    movw $11, %ax
    boundw %ax, O(bounds)
1:  movw O(faults), %ax
    RESULT16                        /* 20 */
    /* 21: LOOP counts CX, JCXZ */
    movl $0x10003, %ecx
    xorw %ax, %ax
1:  incw %ax
    loopw 1b
    jcxz 2f
    movw $99, %ax
2:  RESULT16
    /* 22: unreal mode: limits stay when PE goes */
    cli
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $0x10, %bx
    movw %bx, %gs
    andb $~1, %al
    movl %eax, %cr0
    jmp 1f
1:  movl $0x100000, %ebx
    movl %gs:(%ebx), %eax
    RESULT
    xorw %ax, %ax
    movw %ax, %gs                   /* 23: a load in real mode keeps the limit, changes the base */
    movl $(0x10000 + O(magic)), %ebx
    movl %gs:(%ebx), %eax
    RESULT
    /* 24: BCD */
    movb $0x99, %al
    addb $0x01, %al
    daa
    pushfw
    popw %bx
    movb %bl, %ah
    andb $1, %ah
    RESULT16
    /* 25: invalid opcode */
    movw $0, O(faults)
    movw $O(1f), O(resume)
    ud2
1:  movw O(faults), %ax
    RESULT16
    /* 26: ARPL is invalid here */
    movw $0, O(faults)
    movw $O(1f), O(resume)
    arpl %ax, %bx
1:  movw O(faults), %ax
    RESULT16
    /* 27: SMSW, PUSHF */
    smsww %ax
    andw $1, %ax
    RESULT16
    movw $0x70d7, %ax
    pushw %ax
    popfw
    pushfw
    popw %ax
    andw $0x7000, %ax
    RESULT16                        /* 28: IOPL and NT can be set */
    pushw $2
    popfw
    /* 29: string compare with a segment override */
    pushw %di
    movw $O(magic), %si
    movw $O(magic), %di
    movw $4, %cx
    cld
    repe cmpsb %es:(%di), %cs:(%si)
    movw %cx, %ax
    popw %di
    RESULT16
    /* 30: count of results */
    movw %di, %ax
    shrw $2, %ax
    RESULT16

    /* and home */
    lgdtl O(gdt_at)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $real_back32

on_fault:                           /* count it, note IP, go on at `resume` */
    pushw %bp
    movw %sp, %bp
    pushw %ax
    incw %cs:O(faults)
    movw 2(%bp), %ax
    movw %ax, %cs:O(fault_ip)
    movw %cs:O(resume), %ax
    movw %ax, 2(%bp)
    popw %ax
    popw %bp
    iretw
on_into:
    incw %cs:O(faults)
    iretw
on_60:
    pushfw
    popw %ax
    andw $0x301, %ax
    iretw
far_proc:
    movw $0xbeef, %ax
    lretw

    .balign 4
magic:
    .long 0xcafe1234, 0x11223344, 0x55667788
bounds:
    .word 1, 10
faults:
    .word 0
fault_ip:
    .word 0
resume:
    .word 0
ivt:
    .word 0x3ff
    .long 0
gdt_at:
    .word 0xff
    .long gdt
real_end:
