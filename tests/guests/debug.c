// SPDX-License-Identifier: GPL-2.0-or-later
/* debug.c - single step, breakpoints on code, data and ports, DR6 and DR7, ICEBP. */
#include "lib/guest.h"

static volatile u32 steps, hits;
static volatile u64 ips[64], dr6_seen, hit_ip;
static u64 data[8] __attribute__((aligned(64)));

#define DR(n)                                                                                  \
    static u64 dr##n(void)                                                                     \
    {                                                                                          \
        u64 v;                                                                                 \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                      \
        return v;                                                                              \
    }                                                                                          \
    static void set_dr##n(u64 v)                                                               \
    {                                                                                          \
        __asm__ volatile("mov %0, %%dr" #n ::"r"(v) : "memory");                               \
    }
DR(0)
DR(1)
DR(6)
DR(7)

static void on_step(struct frame *f)
{
    if (steps < 64)
        ips[steps] = f->ip;
    steps++;
    dr6_seen = dr6();
    set_dr6(0xffff0ff0);
    if (steps > 60)
        f->flags &= ~0x100ul;
}

static void on_hit(struct frame *f)
{
    hits++;
    hit_ip = f->ip;
    dr6_seen = dr6();
    set_dr6(0xffff0ff0);
    f->flags |= 0x10000; /* RF: go over a breakpoint on code */
}

/* POPF that sets TF, code, POPF that clears it: the step comes after each instruction of code
 * and after the clearing POPF's... (the POPF that clears TF is itself stepped). */
#define STEP(code, ...)                                                                        \
    do {                                                                                       \
        steps = 0;                                                                             \
        barrier();                                                                             \
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf\n" code                             \
                         "\npushf; andl $~0x100, (%%rsp); popf\n" __VA_ARGS__);                \
        barrier();                                                                             \
    } while (0)
enum { TAIL = 3 }; /* pushf, andl, popf */

static void stepping(void)
{
    u64 a, b;

    handlers[1] = on_step;
    STEP("nop; nop; nop", ::: "memory", "cc");
    check_eq("one step for each instruction", steps, 3 + TAIL);
    check_eq("DR6.BS", dr6_seen & 0x4000, 0x4000);
    STEP("lea 1f(%%rip), %0; 1: nop; lea 2f(%%rip), %1; 2: nop",
         : "=&r"(a), "=&r"(b)::"memory", "cc");
    check_eq("the trap points behind the instruction", ips[0], a);
    check_eq("and so does the next but one", ips[2], b);
    static u8 x[16], y[16];
    u64 s = (u64)x, d = (u64)y, c = 5;
    STEP("rep movsb", : "+S"(s), "+D"(d), "+c"(c)::"memory", "cc");
    check_eq("each iteration of REP MOVSB is a step", steps, 5 + TAIL);
    STEP("mov %%ss, %%ebx; mov %%ebx, %%ss; nop", ::: "rbx", "memory", "cc");
    check_eq("MOV SS holds the step back", steps, 2 + TAIL);
    STEP("jmp 1f; nop; 1: call 2f; jmp 3f; 2: ret; 3:", ::: "memory", "cc");
    check_eq("branches", steps, 4 + TAIL);
    STEP("cpuid", ::: "rax", "rbx", "rcx", "rdx", "memory", "cc");
    check_eq("CPUID is stepped", steps, 1 + TAIL);
    STEP("rdtsc; in $0x61, %%al; out %%al, $0x80", ::: "rax", "rdx", "memory", "cc");
    check_eq("exits are stepped", steps, 3 + TAIL);
    STEP("pushf; pop %0", : "=r"(a)::"memory", "cc");
    check_eq("PUSHF shows TF", a & 0x100, 0x100);
    check_eq("TF is off again", flags_now() & 0x100, 0);
    /* an interrupt clears TF for its handler: only the INT is not stepped into */
    steps = 0;
    __asm__ volatile(
        "movq $1f, exc_resume; pushf; orl $0x100, (%%rsp); popf; int $0x60; 1: nop" ::
            : "memory", "cc");
    check_eq("INT n pushes TF", exc.flags & 0x100, 0x100);
    check_eq("the handler is not stepped", steps, 0);
}

static void code_breakpoint(void)
{
    u64 at;

    handlers[1] = on_hit;
    hits = 0;
    __asm__ volatile("lea 1f(%%rip), %0\n mov %0, %%dr0\n mov %1, %%dr7\n nop\n 1: nop\n nop"
                     : "=&r"(at)
                     : "r"(0x402ul)
                     : "memory");
    check_eq("code breakpoint hits once", hits, 1);
    check_eq("before the instruction", hit_ip, at);
    check_eq("DR6.B0", dr6_seen & 0x400f, 1);
    hits = 0;
    set_dr7(0x400);
    __asm__ volatile("lea 1f(%%rip), %0\n mov %0, %%dr0\n nop\n 1: nop\n"
                     : "=&r"(at)::"memory");
    check_eq("off", hits, 0);
    /* in a loop that was already running (and translated) */
    u64 n = 0;
    hits = 0;
    for (int round = 0; round < 4; round++) {
        __asm__ volatile("lea 1f(%%rip), %%rax\n mov %%rax, %%dr1\n mov %1, %%dr7\n"
                         "mov $50, %%ecx\n 1: inc %0\n dec %%ecx\n jnz 1b\n mov %2, %%dr7"
                         : "+r"(n)
                         : "r"(round & 1 ? 0x408ul : 0x400ul), "r"(0x400ul)
                         : "rax", "rcx", "memory", "cc");
    }
    check_eq("code breakpoint in a loop", hits, 100);
    check_eq("the loop ran", n, 200);
    check_eq("DR6.B1", dr6_seen & 0xf, 2);
}

/* rw: 1 write, 3 read or write; len 0: 1, 1: 2, 3: 4, 2: 8 bytes */
static void arm(const volatile void *p, u32 rw, u32 len)
{
    set_dr0((u64)p);
    set_dr7(0x402 | rw << 16 | len << 18);
    hits = 0;
}

static void data_breakpoints(void)
{
    volatile u8 *p = (volatile u8 *)data;
    u64 after;

    handlers[1] = on_hit;
    arm(p, 1, 0);
    __asm__ volatile("movb $1, (%1)\n lea 1f(%%rip), %0\n 1: nop"
                     : "=r"(after)
                     : "r"(p)
                     : "memory");
    check_eq("data write", hits, 1);
    /* a trap: the address is that of the next instruction, the LEA of 7 bytes */
    check_eq("data write traps behind", hit_ip, after - 7);
    check_eq("data write DR6", dr6_seen & 0x400f, 1);
    hits = 0;
    (void)*p;
    check_eq("a read does not hit a write breakpoint", hits, 0);
    p[1] = 2;
    check_eq("the byte beside does not", hits, 0);
    *(volatile u32 *)(p - 3) = 0;
    check_eq("a write that covers it does", hits, 1);
    arm(p, 3, 3);
    (void)p[3];
    check_eq("a read in its four bytes", hits, 1);
    (void)p[4];
    check_eq("not behind them", hits, 1);
    (void)*(volatile u64 *)(p - 4);
    check_eq("a read that overlaps", hits, 2);
    arm(p, 1, 2);
    p[7] = 1;
    check_eq("eight bytes", hits, 1);
    arm(p + 16, 1, 1);
    __asm__ volatile(
        "mov %%rsp, %%rbx; lea 26(%0), %%rsp; push $1; push $2; mov %%rbx, %%rsp" ::"r"(p)
        : "rbx", "memory");
    check("a push hits", hits >= 1);
    arm(p + 8, 1, 0);
    static u8 from[32];
    u64 s = (u64)from, d = (u64)p, c = 32;
    __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(c)::"memory");
    check_eq("REP MOVSB hits once", hits, 1);
    arm(p, 1, 0);
    __asm__ volatile("lock incb (%0)" ::"r"(p) : "memory", "cc");
    check_eq("a locked write", hits, 1);
    /* a faulting instruction does not trap */
    hits = 0;
    TRY("movb $1, (%0); ud2", ::"r"(p) : "memory");
    check_eq("write and then a fault: the trap comes first", hits, 1);
    set_dr7(0x400);
    hits = 0;
    *p = 1;
    check_eq("off", hits, 0);
}

static void registers(void)
{
    handlers[1] = NULL;
    set_dr7(0x400);
    set_dr6(0);
    check_eq("DR6 fixed bits", dr6() & 0xfffe0ff0, 0xfffe0ff0);
    set_dr7(0);
    check_eq("DR7 bit 10", dr7(), 0x400);
    set_dr0(0x123456789abcdef0);
    check_eq("DR0 is 64 bits wide", dr0(), 0x123456789abcdef0);
    u64 v;
    set_dr6(0xffff0ff0);
    __asm__ volatile("mov %%dr4, %0" : "=r"(v));
    check_eq("DR4 is DR6 without CR4.DE", v, dr6());
    set_cr4(cr4() | 8);
    TRY("mov %%dr4, %%rax", ::: "rax");
    check_exc("DR4 with CR4.DE", 6, 0, 0);
    TRY("mov %%dr5, %%rax", ::: "rax");
    check_exc("DR5 with CR4.DE", 6, 0, 0);
    set_dr7(0x2400); /* GD */
    TRY("mov %%dr0, %%rax", ::: "rax");
    check_exc("DR7.GD", 1, 0, 0);
    check_eq("DR6.BD", dr6() & 0x2000, 0x2000);
    check_eq("GD is cleared on the way in", dr7() & 0x2000, 0);
    set_dr7(0x400);
    set_dr6(0xffff0ff0);
    /* ports, with CR4.DE */
    handlers[1] = on_hit;
    set_dr1(0x80);
    set_dr7(0x400 | 8 | 2 << 20);
    hits = 0;
    outb(0x80, 1);
    check_eq("port breakpoint", hits, 1);
    outb(0x61, inb(0x61));
    check_eq("not on others", hits, 1);
    set_dr7(0x400);
    set_cr4(cr4() & ~8ul);
    (void)dr1;
}

void main(void)
{
    stepping();
    code_breakpoint();
    data_breakpoints();
    registers();
}
