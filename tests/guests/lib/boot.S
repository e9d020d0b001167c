/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * boot.S - entry of the test programs: multiboot 1 and PVH, both 32-bit flat protected mode.
 * With GUEST64 it goes on to long mode with 4 GiB mapped one to one by 2 MiB pages.
 * Interrupt stubs of all 256 vectors; entry to and return from ring 3.
 */
    .section .mb, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long start

    .text
    .code32
    .globl start
start:
    cli
    cld
    movl $stack_top, %esp
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    rep stosb
#ifndef GUEST64
    lgdt gdt_ptr
    ljmp $0x08, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    call setup
    call main
    call finish
2:  hlt
    jmp 2b
#else
    movl $pml4, %eax
    movl $pdpt + 7, pml4
    movl $pds + 7, pdpt
    movl $pds + 0x1007, pdpt + 8
    movl $pds + 0x2007, pdpt + 16
    movl $pds + 0x3007, pdpt + 24
    xorl %ecx, %ecx
    movl $0x87, %edx          /* ring 3 may use it all */
1:  movl %edx, pds(, %ecx, 8)
    addl $0x200000, %edx
    incl %ecx
    cmpl $2048, %ecx
    jb 1b
    lgdt gdt_ptr
    call to_long
    .code64
    call setup
    call main
    call finish
2:  hlt
    jmp 2b

    .code32
    /* Into long mode with the tables at pml4; returns as 64-bit code. Also for APs. */
    .globl to_long
to_long:
    popl %esi
    movl %cr4, %eax
    orl $0x6a0, %eax          /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x80000001, %eax
    cpuid
    movl %edx, %edi
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x101, %eax          /* LME, SCE */
    testl $0x100000, %edi
    jz 1f
    orl $0x800, %eax          /* NXE */
1:  wrmsr
    movl %cr0, %eax
    andl $~0xe, %eax
    orl $0x80010022, %eax     /* PG, WP, NE, MP */
    movl %eax, %cr0
    ljmp $0x08, $2f
    .code64
2:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    jmp *%rsi

    /* Real-mode start of an AP, copied to a page below 1 MiB; finds its own address in CS. */
    .code16
    .globl ap_start, ap_end
ap_start:
    cli
    xorl %eax, %eax
    movw %cs, %ax
    movw %ax, %ds
    lgdtl ap_gdt - ap_start
    movl %cr0, %eax
    andl $~0x60000000, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x40, $ap32
ap_gdt:
    .word 0x57
    .long gdt
ap_end:
    .code32
ap32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $4096, %eax          /* a stack each */
    lock xaddl %eax, ap_stack_next
    leal ap_stacks + 4096(%eax), %esp
    call to_long
    .code64
    .weak ap_main             /* only the SMP programs have it */
    call ap_main
1:  cli
    hlt
    jmp 1b
#endif

    .data
    .balign 16
    .globl gdt, gdt_ptr
gdt:
#ifdef GUEST64
    .quad 0
    .quad 0x00af9b000000ffff  /* 08 ring 0 code, 64-bit */
    .quad 0x00cf93000000ffff  /* 10 ring 0 data */
    .quad 0x00cffb000000ffff  /* 18 ring 3 code, 32-bit */
    .quad 0x00cff3000000ffff  /* 20 ring 3 data */
    .quad 0x00affb000000ffff  /* 28 ring 3 code, 64-bit */
    .quad 0, 0                /* 30 TSS */
    .quad 0x00cf9b000000ffff  /* 40 ring 0 code, 32-bit */
    .quad 0, 0                /* 48, 50: the programs' own */
#else
    .quad 0
    .quad 0x00cf9b000000ffff  /* 08 ring 0 code */
    .quad 0x00cf93000000ffff  /* 10 ring 0 data */
    .quad 0x00cffb000000ffff  /* 18 ring 3 code */
    .quad 0x00cff3000000ffff  /* 20 ring 3 data */
    .quad 0x00009b000000ffff  /* 28 ring 0 code, 16-bit, base 0 */
    .quad 0                   /* 30 TSS */
    .quad 0x000093000000ffff  /* 38 ring 0 data, 64 KiB */
    .rept 24                  /* 40...: the programs' own */
    .quad 0
    .endr
#endif
gdt_end:
gdt_ptr:
    .word gdt_end - gdt - 1
    .long gdt, 0
    .globl ap_stack_next
ap_stack_next:
    .long 0

    .bss
    .balign 4096
    .globl pml4, pdpt, pds, stack_top, user_stack_top, trap_stack_top
#ifdef GUEST64
pml4:
    .skip 4096
pdpt:
    .skip 4096
pds:
    .skip 4 * 4096
ap_stacks:
    .skip 64 * 4096
#endif
    .skip 16384
stack_top:
    .skip 8192
trap_stack_top:
    .skip 8192
user_stack_top:

/* ---- interrupts ---- */
    .text
#ifdef GUEST64
    .code64
#define W .quad
#else
    .code32
#define W .long
#endif
    .balign 16
    .globl stubs
stubs:
    vec = 0
    .rept 256
    .balign 16
    .if !(vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21 || vec == 29 || vec == 30)
    push $0
    .endif
    push $vec
    jmp trap_common
    vec = vec + 1
    .endr

trap_common:
#ifdef GUEST64
    push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    cld
    call trap
    mov %rbx, %rsp
    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
    pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
    add $16, %rsp
    iretq
#else
    push %gs; push %fs; push %es; push %ds
    pusha
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %esp, %eax
    movl %esp, %ebx
    andl $-16, %esp
    subl $12, %esp
    push %eax
    cld
    call trap
    movl %ebx, %esp
    popa
    pop %ds; pop %es; pop %fs; pop %gs
    addl $8, %esp
    iretl
#endif

/* void user_enter(ip, sp, arg, flags): to ring 3; comes back when trap() says so. */
    .globl user_enter, user_back
#ifdef GUEST64
user_enter:
    push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15
    mov %rsp, user_saved_sp
    push $0x23
    push %rsi
    push %rcx
    push $0x2b
    push %rdi
    mov %rdx, %rdi
    iretq
user_back:
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx
    ret
#else
user_enter:
    movl 4(%esp), %eax
    movl 8(%esp), %ecx
    movl 12(%esp), %edi
    movl 16(%esp), %edx
    push %ebx; push %ebp; push %esi; push %edi
    movl %esp, user_saved_sp
    push $0x23
    push %ecx
    push %edx
    push $0x1b
    push %eax
    movl $0x23, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    movl %edi, %eax
    iretl
user_back:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    pop %edi; pop %esi; pop %ebp; pop %ebx
    ret
#endif
