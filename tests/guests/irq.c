// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * irq.c - interrupts on one processor: 8259 and PIT, local APIC timer, IPIs to itself,
 * priorities, I/O APIC, NMI, HLT, the shadows of STI and MOV SS.
 */
#include "lib/pic.h"

static volatile u32 count[256], order[16], n_order, nested, nested_max;
static volatile u64 last_ip, nmi_ip;

static void on_irq(struct frame *f)
{
    count[f->vector]++;
    last_ip = f->ip;
    if (n_order < 16)
        order[n_order++] = (u32)f->vector;
    if (f->vector >= 0x20 && f->vector < 0x30) {
        if (f->vector >= 0x28)
            outb(0xa0, 0x20);
        outb(0x20, 0x20);
    } else {
        if (rdmsr(0x1b) & 0x400)
            wrmsr(0x80b, 0);
        else
            apic_eoi();
    }
}

static bool wait_for(volatile u32 *n, u32 want)
{
    u64 end = rdtsc() + 20000000000ull; /* some seconds */

    while (*n < want && rdtsc() < end)
        __asm__ volatile("pause");
    return *n >= want;
}

static void halt_until(volatile u32 *n, u32 want)
{
    for (u32 i = 0; i < 1000 && *n < want; i++)
        __asm__ volatile("sti; hlt; cli" ::: "memory");
}

static void pic(void)
{
    pic_setup();
    handlers[0x20] = handlers[0x21] = handlers[0x28] = on_irq;
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_LINT0, 0x700);
    outb(0x21, 0xfe);
    pit_set(0, 1000);
    sti();
    check("PIT once", wait_for(&count[0x20], 1));
    u64 end = rdtsc() + 20000000;
    while (rdtsc() < end)
        ;
    check_eq("and only once", count[0x20], 1);
    pit_set(2, 2000);
    check("PIT again and again", wait_for(&count[0x20], 5));
    cli();
    u32 n = count[0x20];
    end = rdtsc() + 50000000;
    while (rdtsc() < end)
        ;
    check_eq("none with IF clear", count[0x20], n);
    halt_until(&count[0x20], n + 5);
    check("HLT wakes", count[0x20] >= n + 5);
    outb(0x21, 0xff);
    pit_set(0, 0);
    outb(0x20, 0x0b);
    check_eq("nothing in service", inb(0x20), 0);
    outb(0x20, 0x0a);
    apic_write(APIC_LINT0, 0x10000);
}

static void timer(void)
{
    apic_on();
    for (u32 v = 0x30; v < 0x100; v++)
        handlers[v] = on_irq;
    apic_write(APIC_DIV, 0xb);
    apic_write(APIC_TIMER, 0x40);
    sti();
    apic_write(APIC_COUNT, 100000);
    check("APIC timer once", wait_for(&count[0x40], 1));
    check_eq("its count ends at 0", apic_read(APIC_NOW), 0);
    apic_write(APIC_TIMER, 0x20041);
    apic_write(APIC_COUNT, 100000);
    check("APIC timer again and again", wait_for(&count[0x41], 5));
    apic_write(APIC_TIMER, 0x10041);
    apic_write(APIC_COUNT, 0);
    u32 n = count[0x41];
    u64 end = rdtsc() + 50000000;
    while (rdtsc() < end)
        ;
    check("masked", count[0x41] <= n + 1);
    apic_write(APIC_TIMER, 0x10000);
    apic_write(APIC_COUNT, 0xffffffff);
    u32 a = apic_read(APIC_NOW), b;
    for (int i = 0; i < 1000; i++)
        b = apic_read(APIC_NOW);
    check("it counts down", b < a);
    apic_write(APIC_COUNT, 0);
    if (has(1, 0, 2, 24)) {
        apic_write(APIC_TIMER, 0x40042);
        wrmsr(0x6e0, rdtsc() + 1000000);
        check("TSC deadline", wait_for(&count[0x42], 1));
        check_eq("it is spent", rdmsr(0x6e0), 0);
        wrmsr(0x6e0, rdtsc() - 1000);
        check("a deadline in the past", wait_for(&count[0x42], 2));
        cli();
        wrmsr(0x6e0, rdtsc() + 1000000);
        halt_until(&count[0x42], 3);
        check_eq("HLT until the deadline", count[0x42], 3);
        apic_write(APIC_TIMER, 0x10000);
    } else {
        skip("TSC deadline");
    }
    cli();
}

static void self(u8 vector)
{
    apic_ipi(0, 0x40000 | vector);
}

static void priority(void)
{
    cli();
    n_order = 0;
    self(0x51);
    self(0x91);
    self(0x71);
    check_eq("IRR", apic_read(APIC_IRR + 0x20) >> 17 & 1, 1);
    sti();
    wait_for(&n_order, 3);
    cli();
    check("the highest first",
          n_order == 3 && order[0] == 0x91 && order[1] == 0x71 && order[2] == 0x51);
    n_order = 0;
    __asm__ volatile("mov %0, %%cr8" ::"r"(7ul));
    check_eq("CR8 is the TPR", apic_read(APIC_TPR), 0x70);
    self(0x71);
    self(0x81);
    sti();
    wait_for(&count[0x81], 1);
    check("the TPR holds back its own class", n_order == 1 && order[0] == 0x81);
    __asm__ volatile("mov %0, %%cr8" ::"r"(6ul));
    __asm__ volatile("nop");
    check("lowering CR8 lets it in", wait_for(&n_order, 2) && order[1] == 0x71);
    apic_write(APIC_TPR, 0);
    ul cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    check_eq("TPR is CR8", cr8, 0);
    cli();
}

static void on_low(struct frame *f)
{
    nested++;
    if (nested > nested_max)
        nested_max = nested;
    self(0xa1); /* higher: comes in the middle */
    sti();
    __asm__ volatile("nop; nop");
    check("a higher one nests", count[0xa1] == 1);
    self(0x61); /* the same class: waits for EOI */
    __asm__ volatile("nop; nop");
    check_eq("a lower one waits", count[0x61], 0);
    cli();
    apic_eoi();
    nested--;
    count[f->vector]++;
}

static void nesting(void)
{
    handlers[0x62] = on_low;
    count[0xa1] = count[0x61] = 0;
    self(0x62);
    sti();
    wait_for(&count[0x61], 1);
    cli();
    check("and comes after", count[0x61] == 1 && count[0x62] == 1 && nested_max == 1);
}

static void shadows(void)
{
    u64 after, two;

    cli();
    self(0x55);
    __asm__ volatile("sti\n lea 1f(%%rip), %0\n 1: nop\n nop\n cli" : "=r"(after)::"memory");
    check_eq("an interrupt comes one instruction after STI", last_ip, after);
    count[0x56] = 0;
    self(0x56);
    __asm__ volatile("sti; cli; nop; nop" ::: "memory");
    check_eq("STI then CLI lets none in", count[0x56], 0);
    __asm__ volatile("sti; nop; cli" ::: "memory");
    check_eq("STI, NOP does", count[0x56], 1);
    self(0x57);
    __asm__ volatile(
        "mov %%ss, %%ebx\n sti\n mov %%ebx, %%ss\n nop\n 1: lea 1b(%%rip), %0\n cli"
        : "=r"(two)::"rbx", "memory");
    check("MOV SS after STI holds it back once more", last_ip == two || last_ip == two - 1);
    check_eq("and then it came", count[0x57], 1);
    self(0x58);
    __asm__ volatile("pushf; orl $0x200, (%%rsp); popf\n 1: lea 1b(%%rip), %0\n nop; cli"
                     : "=r"(after)::"memory", "cc");
    check_eq("after POPF it comes at once", last_ip, after);
    count[0x59] = 0;
    self(0x59);
    __asm__ volatile("sti; hlt; cli" ::: "memory");
    check_eq("STI; HLT does not sleep through it", count[0x59], 1);
}

static volatile u32 nmis, nmi_depth, nmi_depth_max;

static void on_nmi(struct frame *f)
{
    nmis++;
    nmi_ip = f->ip;
    nmi_depth++;
    if (nmi_depth > nmi_depth_max)
        nmi_depth_max = nmi_depth;
    if (nmis == 2) { /* another one while this runs: held until IRET */
        apic_ipi(0, 0x40400);
        for (int i = 0; i < 100; i++)
            apic_read(APIC_ID);
    }
    nmi_depth--;
}

static void nmi(void)
{
    handlers[2] = on_nmi;
    cli();
    u32 id = apic_read(APIC_ID) >> 24;
    apic_ipi(id, 0x400);
    check("NMI with IF clear", wait_for(&nmis, 1));
    apic_ipi(id, 0x400);
    check("NMI while one runs waits for IRET", wait_for(&nmis, 3));
    check_eq("NMIs do not nest", nmi_depth_max, 1);
}

static void io_apic(void)
{
    u32 id = apic_read(APIC_ID) >> 24;

    check("I/O APIC has 24 inputs", (ioapic_read(1) >> 16 & 0xff) == 23);
    count[0x65] = 0;
    ioapic_write(0x11 + 4, id << 24);
    ioapic_write(0x10 + 4, 0x65);
    check_eq("entry reads back", ioapic_read(0x10 + 4), 0x65);
    pit_set(2, 3000);
    sti();
    check("PIT through the I/O APIC", wait_for(&count[0x65], 3));
    ioapic_write(0x10 + 4, 0x10065);
    cli();
    pit_set(0, 0);
    u32 n = count[0x65];
    u64 end = rdtsc() + 20000000;
    sti();
    while (rdtsc() < end)
        ;
    cli();
    check("masked entry", count[0x65] <= n + 1);
    /* the serial port's transmitter on IRQ 4 */
    handlers[0x66] = on_irq;
    ioapic_write(0x11 + 8, id << 24);
    ioapic_write(0x10 + 8, 0x66);
    for (int i = 0; i < 100000 && !(inb(0x3fd) & 0x40); i++)
        ;
    outb(0x3fc, 8);
    outb(0x3f9, 2);
    sti();
    bool came = wait_for(&count[0x66], 1);
    outb(0x3f9, 0);
    cli();
    ioapic_write(0x10 + 8, 0x10066);
    check("serial port through the I/O APIC", came);
}

static void registers(void)
{
    check_eq("version", apic_read(APIC_VER) & 0xf0, 0x10);
    apic_write(APIC_LDR, 0x02000000);
    check_eq("LDR", apic_read(APIC_LDR), 0x02000000);
    count[0x67] = 0;
    apic_ipi(2, 0x867); /* logical */
    sti();
    check("logical destination", wait_for(&count[0x67], 1));
    cli();
    if (has(1, 0, 2, 21)) {
        u32 id = apic_read(APIC_ID) >> 24;
        u64 base = rdmsr(0x1b);

        wrmsr(0x1b, base | 0x400);
        check_eq("x2APIC: id", rdmsr(0x802), id);
        count[0x68] = 0;
        wrmsr(0x83f, 0x68);
        sti();
        check("x2APIC: self IPI", wait_for(&count[0x68], 1));
        cli();
        wrmsr(0x80b, 0);
        TRY("wrmsr", ::"c"(0x80b), "a"(1), "d"(0));
        check_exc("x2APIC: EOI takes 0 only", 13, 0, 0);
        TRY("rdmsr", ::"c"(0x80b) : "rax", "rdx");
        check_exc("x2APIC: EOI is not read", 13, 0, 0);
        TRY("wrmsr", ::"c"(0x802), "a"(1), "d"(0));
        check_exc("x2APIC: id is not written", 13, 0, 0);
        wrmsr(0x808, 0x50);
        ul cr8;
        __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
        check_eq("x2APIC: TPR is CR8", cr8, 5);
        wrmsr(0x808, 0);
        wrmsr(0x1b, base & ~0xc00ull);
        wrmsr(0x1b, base);
    } else {
        skip("x2APIC");
    }
}

void main(void)
{
    pic();
    timer();
    priority();
    nesting();
    shadows();
    nmi();
    io_apic();
    registers();
}
