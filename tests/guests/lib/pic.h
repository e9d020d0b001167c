// SPDX-License-Identifier: GPL-2.0-or-later
/* pic.h - interrupt controllers and the PIT, as far as the test programs need them. */
#pragma once

#include "guest.h"

enum {
    APIC_ID = 0x20,
    APIC_VER = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_ICR = 0x300,
    APIC_ICR2 = 0x310,
    APIC_TIMER = 0x320,
    APIC_LINT0 = 0x350,
    APIC_LINT1 = 0x360,
    APIC_ERR = 0x370,
    APIC_COUNT = 0x380,
    APIC_NOW = 0x390,
    APIC_DIV = 0x3e0,
};

static inline volatile u32 *apic_reg(u32 reg)
{
    return (volatile u32 *)(ul)(0xfee00000u + reg);
}
static inline u32 apic_read(u32 reg)
{
    return *apic_reg(reg);
}
static inline void apic_write(u32 reg, u32 val)
{
    *apic_reg(reg) = val;
}
static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}
static inline void apic_on(void)
{
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, 0x10000);
    apic_write(APIC_TPR, 0);
}
/* Interrupt command: shorthand and vector in lo, destination in the upper byte of hi. */
static inline void apic_ipi(u32 dest, u32 lo)
{
    for (int i = 0; i < 1000000 && apic_read(APIC_ICR) & 0x1000; i++)
        ;
    apic_write(APIC_ICR2, dest << 24);
    apic_write(APIC_ICR, lo);
    for (int i = 0; i < 1000000 && apic_read(APIC_ICR) & 0x1000; i++)
        ;
}
static inline void ioapic_write(u32 reg, u32 val)
{
    *(volatile u32 *)(ul)0xfec00000u = reg;
    *(volatile u32 *)(ul)0xfec00010u = val;
}
static inline u32 ioapic_read(u32 reg)
{
    *(volatile u32 *)(ul)0xfec00000u = reg;
    return *(volatile u32 *)(ul)0xfec00010u;
}
/* The two 8259s at vectors 0x20 and 0x28, all masked. */
static inline void pic_setup(void)
{
    outb(0x20, 0x11);
    outb(0xa0, 0x11);
    outb(0x21, 0x20);
    outb(0xa1, 0x28);
    outb(0x21, 4);
    outb(0xa1, 2);
    outb(0x21, 1);
    outb(0xa1, 1);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}
/* Channel 0: mode 0 fires once after n ticks of 838 ns, mode 2 again and again. */
static inline void pit_set(u8 mode, u16 n)
{
    outb(0x43, (u8)(0x30 | mode << 1));
    outb(0x40, (u8)n);
    outb(0x40, (u8)(n >> 8));
}
