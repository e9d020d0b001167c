// SPDX-License-Identifier: GPL-2.0-or-later
/* sys.c - CPUID, MSRs, time-stamp counter, control register odds and ends, RDRAND. */
#include "lib/guest.h"

static void cpuids(void)
{
    u32 r[4], a[4];

    cpuid(0, 0, r);
    check("leaves", r[0] >= 1);
    u64 fill = ~0ull, b;
    __asm__ volatile(
        "mov %1, %%rax; mov %1, %%rcx; mov %1, %%rdx; mov %1, %%rbx; xor %%eax, %%eax; cpuid; "
        "or %%rcx, %%rax; or %%rdx, %%rax; or %%rbx, %%rax; mov %%rax, %0"
        : "=r"(b)
        : "r"(fill)
        : "rax", "rbx", "rcx", "rdx");
    check_eq("CPUID clears the upper halves", b >> 32, 0);
    check("fpu tsc msr cx8 apic cmov fxsr sse2",
          has(1, 0, 3, 0) && has(1, 0, 3, 4) && has(1, 0, 3, 5) && has(1, 0, 3, 8) &&
              has(1, 0, 3, 9) && has(1, 0, 3, 15) && has(1, 0, 3, 24) && has(1, 0, 3, 26));
    check("long mode", has(0x80000001, 0, 3, 29));
    check("hypervisor", has(1, 0, 2, 31));
    cpuid(0x80000002, 0, a);
    check("brand string", a[0] != 0);
    cpuid(0x80000008, 0, a);
    check("address bits", (a[0] & 0xff) >= 36 && (a[0] >> 8 & 0xff) >= 48);
    if (r[0] >= 0xb) {
        cpuid(0xb, 0, a);
        check_eq("leaf b, level of threads", a[2], 0x100);
        cpuid(0xb, 1, a);
        check_eq("leaf b, level of cores", a[2], 0x201);
        check_eq("leaf b tells the APIC id", a[3], *(volatile u32 *)0xfee00020 >> 24);
    }
    cpuid(1, 0, a);
    check_eq("leaf 1 tells the APIC id", a[1] >> 24, *(volatile u32 *)0xfee00020 >> 24);
    cpuid(0x3fffffff, 0, a);
    cpuid(0x80ffffff, 0, a);
    check("beyond the last leaf", true);
}

static void msr_holds(const char *name, u32 n, u64 val)
{
    u64 was = rdmsr(n);

    wrmsr(n, val);
    check_eq(name, rdmsr(n), val);
    wrmsr(n, was);
    check_eq(name, rdmsr(n), was);
}

static void msrs(void)
{
    msr_holds("STAR", 0xc0000081, 0x1234567800000000);
    msr_holds("LSTAR", 0xc0000082, 0xffffffff81000000);
    msr_holds("CSTAR", 0xc0000083, 0xffffffff81000123);
    msr_holds("SFMASK", 0xc0000084, 0x47700);
    msr_holds("FS base", 0xc0000100, 0xffff888000001234);
    msr_holds("GS base", 0xc0000101, 0x7fffffff1234);
    msr_holds("kernel GS base", 0xc0000102, 0xffff888000005678);
    msr_holds("SYSENTER_CS", 0x174, 0x10);
    msr_holds("SYSENTER_ESP", 0x175, 0xffff8880);
    msr_holds("SYSENTER_EIP", 0x176, 0xffff8890);
    msr_holds("PAT", 0x277, 0x0007040600070106);
    if (has(1, 0, 3, 12)) {
        check("MTRRs", (rdmsr(0xfe) & 0xff) >= 1);
        msr_holds("MTRR default", 0x2ff, 0xc06);
        msr_holds("MTRR base", 0x200, 0x80000006);
        msr_holds("MTRR fixed", 0x250, 0x0606060606060606);
    }
    check_eq("PAT after reset", rdmsr(0x277), 0x0007040600070406);
    check_eq("APIC base", rdmsr(0x1b) & ~0x400ull, 0xfee00900);
    check("EFER", (rdmsr(0xc0000080) & 0x500) == 0x500);
    if (has(0x80000001, 0, 3, 27)) {
        u32 aux;
        msr_holds("TSC_AUX", 0xc0000103, 0x1234);
        wrmsr(0xc0000103, 0x77);
        __asm__ volatile("rdtscp" : "=c"(aux)::"rax", "rdx");
        check_eq("RDTSCP tells TSC_AUX", aux, 0x77);
        if (has(7, 0, 2, 22)) {
            u64 p;
            __asm__ volatile("rdpid %0" : "=r"(p));
            check_eq("RDPID", p, 0x77);
        }
    }
}

static void tsc(void)
{
    u64 a = rdtsc(), b, min = ~0ull;

    for (int i = 0; i < 20000; i++) {
        b = rdtsc();
        if (b < a) {
            check("TSC goes forward", false);
            return;
        }
        if (b - a < min)
            min = b - a;
        a = b;
    }
    check("TSC goes forward", true);
    if (has(1, 0, 3, 5) && has(7, 0, 1, 1)) {
        u64 adj = rdmsr(0x3b), t0 = rdtsc();
        wrmsr(0x3b, adj + (1ull << 40));
        u64 t1 = rdtsc();
        check("TSC_ADJUST moves the TSC", t1 - t0 > 1ull << 39 && t1 - t0 < 1ull << 41);
        wrmsr(0x3b, adj);
        check("and back", rdtsc() - t0 < 1ull << 39);
    }
    wrmsr(0x10, 1000);
    u64 t = rdtsc();
    check("the TSC can be written", t >= 1000 && t < 1ull << 36);
    /* against the PIT: 10 ms by polling its counter */
    outb(0x61, (u8)((inb(0x61) & ~2) | 1));
    outb(0x43, 0xb0);
    outb(0x42, 0x9b);
    outb(0x42, 0x2e);
    u64 t0 = rdtsc();
    for (u32 i = 0; i < 10000000 && !(inb(0x61) & 0x20); i++)
        ;
    u64 ms10 = rdtsc() - t0;
    put("# TSC kHz ");
    put_hex(ms10 / 10);
    put("\n");
    check("10 ms by the PIT", ms10 > 1000000 && ms10 < 1000000000);
}

static void control(void)
{
    u64 v = 0;

    __asm__ volatile("smsw %k0" : "=r"(v));
    check_eq("SMSW", v & 0xffff, cr0() & 0xffff);
    __asm__ volatile("lmsw %w0" ::"r"((u32)cr0() & 0xe)); /* cannot clear PE */
    check_eq("LMSW keeps PE", cr0() & 1, 1);
    __asm__ volatile("mov %0, %%cr8" ::"r"(5ul));
    __asm__ volatile("mov %%cr8, %0" : "=r"(v));
    check_eq("CR8", v, 5);
    check_eq("CR8 is the TPR", *(volatile u32 *)0xfee00080, 0x50);
    __asm__ volatile("mov %0, %%cr8" ::"r"(0ul));
    set_cr2(0x123456789abc);
    check_eq("CR2", cr2(), 0x123456789abc);
    __asm__ volatile("wbinvd");
    check("WBINVD", true);
    if (has(1, 0, 3, 19)) {
        __asm__ volatile("clflush %0" ::"m"(v));
        check("CLFLUSH", true);
    }
    __asm__ volatile("prefetcht0 (%0); prefetchnta (%0)" ::"r"(0x8000000000000000));
    check("PREFETCH does not fault", true);
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) d;
    __asm__ volatile("sgdt %0" : "=m"(d));
    check_eq("SGDT", d.base, (ul)gdt);
    __asm__ volatile("sidt %0" : "=m"(d));
    check("SIDT", d.base == (ul)idt && d.limit == 4095);
    __asm__ volatile("str %k0" : "=r"(v));
    check_eq("STR", v & 0xffff, 0x30);
    if (has(1, 0, 2, 30)) {
        u64 x = 0, y = 0, n = 0;
        for (int i = 0; i < 100; i++) {
            u8 ok;
            __asm__ volatile("rdrand %0; setc %1" : "=r"(x), "=q"(ok)::"cc");
            n += ok && x != y;
            y = x;
        }
        check("RDRAND", n > 90);
    }
    if (has(7, 0, 1, 18)) {
        u64 x = 0, n = 0;
        for (int i = 0; i < 100; i++) {
            u8 ok;
            __asm__ volatile("rdseed %0; setc %1" : "=r"(x), "=q"(ok)::"cc");
            n += ok;
        }
        check("RDSEED", n > 0);
    }
    TRY("rdpmc", ::"c"(0x12345) : "rax", "rdx");
    check("RDPMC of none", exc_count == 0 || exc.vector == 13);
    TRY("ud0 %%eax, %%ecx", :::);
    check_exc("UD0", 6, 0, 0);
    TRY("ud1 %%eax, %%ecx", :::);
    check_exc("UD1", 6, 0, 0);
    TRY(".byte 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0", :::);
    check_exc("long NOP", NONE, 0, 0);
    TRY("endbr64; pause; nop", :::);
    check_exc("hints", NONE, 0, 0);
    TRY("vmcall", ::"a"(0x7fffffff) : "memory");
    check("VMCALL or VMMCALL", exc_count == 0 || exc.vector == 6);
}

__attribute__((naked)) static void u_sgdt(void)
{
    __asm__("sub $64, %rsp; sgdt (%rsp); ud2");
}
__attribute__((naked)) static void u_smsw(void)
{
    __asm__("smsw %eax; ud2");
}

static void umip(void)
{
    if (!has(7, 0, 2, 2)) {
        skip("UMIP");
        return;
    }
    user_run((void *)u_sgdt, 0, 2);
    check_exc("SGDT in ring 3", 6, 0, 8);
    set_cr4(cr4() | 0x800);
    user_run((void *)u_sgdt, 0, 2);
    check_exc("SGDT with UMIP", 13, 0, 4);
    user_run((void *)u_smsw, 0, 2);
    check_exc("SMSW with UMIP", 13, 0, 0);
    set_cr4(cr4() & ~0x800ul);
}

void main(void)
{
    cpuids();
    msrs();
    tsc();
    control();
    umip();
}
