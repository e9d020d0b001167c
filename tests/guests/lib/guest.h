// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest.h - what the bare-metal test programs stand on: output, exit, exceptions, ring 3,
 * ports, control registers.  One program prints "ok NAME" or "FAIL NAME got ... want ..." for
 * each check, "skip NAME" for what this processor lacks, and "done" at its end.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long long s64;
typedef unsigned long ul; /* as wide as a register */
#define bool _Bool
#define true 1
#define false 0
#define NULL ((void *)0)

#define BIT(n)       (1ull << (n))
#define ARRAY_LEN(a) (sizeof(a) / sizeof *(a))
#define PAGE         4096

#ifdef GUEST64
#define KCS 0x08
#define KDS 0x10
#define UCS 0x2b
#define UDS 0x23
#define SZ  "q"
#define SP  "rsp"
#define BX  "rbx"
struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
    u64 vector, error, ip, cs, flags, sp, ss;
};
struct gate {
    u16 lo, sel;
    u8 ist, type;
    u16 mid;
    u32 hi, zero;
};
#else
#define KCS 0x08
#define KDS 0x10
#define UCS 0x1b
#define UDS 0x23
#define SZ  "l"
#define SP  "esp"
#define BX  "ebx"
struct frame {
    u32 di, si, bp, osp, bx, dx, cx, ax, ds, es, fs, gs;
    u32 vector, error, ip, cs, flags, sp, ss; /* sp, ss: from ring 3 only */
    u32 ves, vds, vfs, vgs;                   /* from V86 only */
};
struct gate {
    u16 lo, sel;
    u8 zero, type;
    u16 hi;
};
#endif

extern struct gate idt[256];
extern u64 gdt[];
extern u8 stubs[], stack_top[], user_stack_top[], trap_stack_top[];

void main(void);

/* ---- results ---- */
void put(const char *);
void put_hex(u64);
void check(const char *name, bool ok);
void check_eq(const char *name, u64 got, u64 want);
void skip(const char *name);
void finish(void) __attribute__((noreturn)); /* prints "done" and leaves */

/* ---- exceptions ---- */
extern struct frame exc; /* the last one, as pushed */
extern ul exc_cr2, exc_at, exc_resume;
extern u32 exc_count;
extern void (*handlers[256])(struct frame *);
void gate_set(u8 vector, void *handler, u8 type, u16 sel);

/*
 * Runs one instruction (or a few) that may raise an exception, and goes on behind it.  TRY is
 * followed by a comma and operands as in asm.  exc.ip - exc_at tells how far it came.
 */
#define TRY_BETWEEN(before, code, after, ...)                                                  \
    do {                                                                                       \
        exc_count = 0;                                                                         \
        exc.vector = 0xff;                                                                     \
        barrier();                                                                             \
        __asm__ volatile("mov" SZ " $2f, exc_at\n"                                             \
                         "mov" SZ " $3f, exc_resume\n" before "\n"                             \
                         "2: " code "\n"                                                       \
                         "3: mov" SZ " $0, exc_resume\n" after "\n" __VA_ARGS__);              \
        barrier();                                                                             \
    } while (0)
#define TRY(code, ...) TRY_BETWEEN("", code, "", __VA_ARGS__)
/* A call whose target may not be executable: the stack is put right after. */
#define TRY_CALL(to, ...)                                                                      \
    TRY_BETWEEN("mov %%" SP ", %%" BX, "call *%0", "mov %%" BX ", %%" SP, ::"r"(to)            \
                : BX, "memory", ##__VA_ARGS__)
enum { NONE = 0xff };
/* The exception of the last TRY, its error code and where its return address points. */
void check_exc(const char *name, u32 vector, u32 error, long off);
#define EXPECT_EXC(name, vector, error, code, ...)                                             \
    do {                                                                                       \
        TRY(code, __VA_ARGS__);                                                                \
        check_exc(name, vector, error, 0);                                                     \
    } while (0)

/* Runs code in ring 3 until it raises anything; exc tells what. */
void user_run(void *ip, ul arg, ul flags);
void user_enter(ul ip, ul sp, ul arg, ul flags);

/* ---- machine ---- */
static inline void outb(u16 port, u8 val)
{
    __asm__ volatile("outb %0, %1" ::"a"(val), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 val;
    __asm__ volatile("inb %1, %0" : "=a"(val) : "Nd"(port));
    return val;
}
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}
static inline u64 rdmsr(u32 n)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n));
    return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 n, u64 val)
{
    __asm__ volatile("wrmsr" ::"c"(n), "a"((u32)val), "d"((u32)(val >> 32)) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(sub));
}
#define CR(n)                                                                                  \
    static inline ul cr##n(void)                                                               \
    {                                                                                          \
        ul v;                                                                                  \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));                                      \
        return v;                                                                              \
    }                                                                                          \
    static inline void set_cr##n(ul v)                                                         \
    {                                                                                          \
        __asm__ volatile("mov %0, %%cr" #n ::"r"(v) : "memory");                               \
    }
CR(0)
CR(2)
CR(3)
CR(4)
static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg (%0)" ::"r"(p) : "memory");
}
static inline void sti(void)
{
    __asm__ volatile("sti" ::: "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" ::: "memory");
}
static inline ul flags_now(void)
{
    ul f;
    __asm__ volatile("pushf; pop %0" : "=r"(f));
    return f;
}
static inline void barrier(void)
{
    __asm__ volatile("" ::: "memory");
}
/* bit of a CPUID register: 0 eax, 1 ebx, 2 ecx, 3 edx */
bool has(u32 leaf, u32 sub, unsigned reg, unsigned bit);
bool is_amd(void);
void *memset(void *, int, ul);
void *memcpy(void *, const void *, ul);
int memcmp(const void *, const void *, ul);
void tss_set_io(u32 from, u32 to, bool deny);
extern u8 *const tss_bytes;
void delay_us(u32 us); /* by the PIT-free way of port reads: roughly */
