// SPDX-License-Identifier: GPL-2.0-or-later
/* ctl.c - what control registers, debug registers and MSRs refuse. */
#include "lib/guest.h"

void main(void)
{
    u32 lo, hi;

    EXPECT_EXC("bad msr read", 13, 0, "rdmsr", : "=a"(lo), "=d"(hi) : "c"(0x12345678));
    EXPECT_EXC("bad msr write", 13, 0, "wrmsr", ::"c"(0x12345678), "a"(0), "d"(0));
    EXPECT_EXC("cr4 reserved bit", 13, 0, "mov %0, %%cr4", ::"r"(cr4() | 1ul << 31));
    EXPECT_EXC("cr0 upper half", 13, 0, "mov %0, %%cr0", ::"r"(cr0() | 1ul << 32));
    EXPECT_EXC("cr0 pg without pe", 13, 0, "mov %0, %%cr0", ::"r"(cr0() & ~1ul));
    EXPECT_EXC("cr0 nw without cd", 13, 0, "mov %0, %%cr0", ::"r"(cr0() | 1ul << 29));
    EXPECT_EXC("cr4 pae off in long mode", 13, 0, "mov %0, %%cr4", ::"r"(cr4() & ~0x20ul));
    EXPECT_EXC("efer reserved bit", 13, 0, "wrmsr", ::"c"(0xc0000080), "a"(0x502 | 0x200000),
               "d"(0));
    EXPECT_EXC("cr8 above 15", 13, 0, "mov %0, %%cr8", ::"r"(16ul));
    EXPECT_EXC("dr7 upper half", 13, 0, "mov %0, %%dr7", ::"r"(1ul << 32));
    EXPECT_EXC("ltr null", 13, 0, "ltr %w0", ::"r"(0));
    check_eq("cr0 is unchanged", cr0() & 0x80000021, 0x80000021);
    /* what changes nothing is allowed */
    TRY("mov %0, %%cr0", ::"r"(cr0()));
    check_exc("cr0 as it is", NONE, 0, 0);
    EXPECT_EXC("pat bad type", 13, 0, "wrmsr", ::"c"(0x277), "a"(2), "d"(0));
    EXPECT_EXC("lstar non-canonical", 13, 0, "wrmsr", ::"c"(0xc0000082), "a"(0),
               "d"(0x80000000));
    EXPECT_EXC("fs base non-canonical", 13, 0, "wrmsr", ::"c"(0xc0000100), "a"(0),
               "d"(0x80000000));
    EXPECT_EXC("efer lme off while paging", 13, 0, "wrmsr", ::"c"(0xc0000080),
               "a"((u32)rdmsr(0xc0000080) & ~0x100u), "d"(0));
    TRY("wrmsr", ::"c"(0xc0000080), "a"((u32)rdmsr(0xc0000080)), "d"(0));
    check_exc("efer as it is", NONE, 0, 0);
    if (has(1, 0, 2, 26)) {
        set_cr4(cr4() | 1ul << 18);
        EXPECT_EXC("xsetbv without x87", 13, 0, "xsetbv", ::"c"(0), "a"(6), "d"(0));
        EXPECT_EXC("xsetbv avx without sse", 13, 0, "xsetbv", ::"c"(0), "a"(5), "d"(0));
        set_cr4(cr4() & ~(1ul << 18));
    }
    EXPECT_EXC("cr3 reserved bits", 13, 0, "mov %0, %%cr3", ::"r"(cr3() | 1ul << 62));
}
