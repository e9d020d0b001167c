# SPDX-License-Identifier: GPL-2.0-or-later
# A multiboot 1 program of less than 1 KiB: writes "Hello" on the first serial port, then waits
# for ever, so that the VMM's memory can be looked at.
    .code32
    .section .text, "ax"
    .globl _start
header:
    .long 0x1badb002, 0, -0x1badb002
_start:
    movl $message, %esi
    movw $0x3f8, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  cli
    hlt
    jmp 2b
message:
    .asciz "Hello\n"
