// SPDX-License-Identifier: GPL-2.0-or-later
/* real.c - real mode, from protected mode and back: see real_asm.S for what is done. */
#include "lib/guest.h"

void real_run(void);

static const struct {
    const char *name;
    u32 want;
} results[] = {
    { "segment base", 0xcafe1234 },
    { "INT clears IF and TF", 0x001 },
    { "IRET restores the flags", 0x201 },
    { "divide error points at the DIV", 0 },
    { "word at offset ffff faults", 1 },
    { "32-bit offset beyond 64 KiB faults", 1 },
    { "above 1 MiB", 0x1badb002 },
    { "byte at offset ffff", 0x5a },
    { "SI wraps", 0 },
    { "REP keeps the upper half of ECX", 0x12340000 },
    { "32-bit operand", 0x23456789 },
    { "32-bit address", 0x55667788 },
    { "LEA 32", 0x12345 },
    { "16-bit effective address wraps", 0x1234 },
    { "PUSHA and POPA", 0x1234 },
    { "ENTER with levels", 22 },
    { "far call", 0xbeef },
    { "SP wraps", 0xfffe },
    { "and back", 0x4321 },
    { "INTO", 1 },
    { "BOUND", 1 },
    { "LOOP and JCXZ", 3 },
    { "unreal mode", 0x1badb002 },
    { "unreal mode after a load", 0xcafe1234 },
    { "DAA", 0x100 },
    { "UD2", 1 },
    { "ARPL in real mode", 1 },
    { "SMSW", 0 },
    { "IOPL and NT", 0x7000 },
    { "CMPSB with an override", 0 },
    { "all of them", 30 },
};

void main(void)
{
    gdt[16] = 0x00009b010000ffff; /* 16-bit code at 0x10000 */
    for (int round = 0; round < 2; round++) {
        memset((void *)0x20000, 0, 256);
        real_run();
        for (unsigned i = 0; i < ARRAY_LEN(results); i++)
            check_eq(results[i].name, ((volatile u32 *)0x20000)[i], results[i].want);
    }
}
