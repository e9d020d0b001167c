// SPDX-License-Identifier: GPL-2.0-or-later
/* guest.c - output, exit, exceptions and ring 3 for the test programs. See guest.h. */
#include "guest.h"

enum { COM1 = 0x3f8, EXIT = 0x501 };

struct gate idt[256] __attribute__((aligned(16)));
struct frame exc;
ul exc_cr2, exc_at, exc_resume, user_saved_sp;
u32 exc_count;
void (*handlers[256])(struct frame *);
extern u8 user_back[];
static u32 failed;
static bool in_user;

#ifdef GUEST64
static struct tss {
    u32 zero;
    u64 rsp[3], zero2, ist[7], zero3;
    u16 zero4, io_at;
    u8 io[8193];
} __attribute__((packed, aligned(128))) tss;
#else
static struct tss {
    u32 link, esp0, ss0, rest[22];
    u16 trap, io_at;
    u8 redir[32];
    u8 io[8193];
} __attribute__((packed, aligned(128))) tss;
#endif
u8 *const tss_bytes = (u8 *)&tss;

static void put_char(char c)
{
    for (int i = 0; i < 100000 && !(inb(COM1 + 5) & 0x20); i++)
        ;
    outb(COM1, (u8)c);
}

void put(const char *s)
{
    for (; *s; s++)
        put_char(*s);
}

void put_hex(u64 n)
{
    char s[19] = "0x0", *p = s + 2;
    int at = 60;

    while (at > 0 && !(n >> at & 15))
        at -= 4;
    for (; at >= 0; at -= 4)
        *p++ = "0123456789abcdef"[n >> at & 15];
    *p = 0;
    put(s);
}

void check(const char *name, bool ok)
{
    put(ok ? "ok " : "FAIL ");
    put(name);
    put("\n");
    failed += !ok;
}

void check_eq(const char *name, u64 got, u64 want)
{
    if (got == want) {
        check(name, true);
        return;
    }
    put("FAIL ");
    put(name);
    put(" got ");
    put_hex(got);
    put(" want ");
    put_hex(want);
    put("\n");
    failed++;
}

void skip(const char *name)
{
    put("skip ");
    put(name);
    put("\n");
}

void check_exc(const char *name, u32 vector, u32 error, long off)
{
    u32 got = exc_count ? (u32)exc.vector : NONE;

    if (got == vector &&
        (vector == NONE || ((u32)exc.error == error && (long)(exc.ip - exc_at) == off))) {
        check(name, true);
        return;
    }
    put("FAIL ");
    put(name);
    put(" got vector ");
    put_hex(got);
    put(" error ");
    put_hex(exc.error);
    put(" at +");
    put_hex(exc.ip - exc_at);
    put(" want vector ");
    put_hex(vector);
    put(" error ");
    put_hex(error);
    put(" at +");
    put_hex((ul)off);
    put("\n");
    failed++;
}

void finish(void)
{
    static const u8 no_idt[10];

    put(failed ? "failed\n" : "done\n");
    for (int i = 0; i < 100000 && !(inb(COM1 + 5) & 0x40); i++)
        ;
    outb(EXIT, failed ? 1 : 0x10);
    /* Nobody there: a triple fault ends it as well. */
    __asm__ volatile("lidt %0; int3" ::"m"(no_idt));
    __builtin_unreachable();
}

bool has(u32 leaf, u32 sub, unsigned reg, unsigned bit)
{
    u32 r[4];

    cpuid(leaf & 0x80000000, 0, r);
    if (leaf > r[0])
        return false;
    cpuid(leaf, sub, r);
    return r[reg] >> bit & 1;
}

bool is_amd(void)
{
    u32 r[4];

    cpuid(0, 0, r);
    return r[1] == 0x68747541 || r[1] == 0x6f677948;
}

/* ---- exceptions ---- */

void gate_set(u8 v, void *handler, u8 type, u16 sel)
{
    ul h = (ul)handler;

#ifdef GUEST64
    idt[v] = (struct gate){ (u16)h, sel, 0, type, (u16)(h >> 16), (u32)(h >> 32), 0 };
#else
    idt[v] = (struct gate){ (u16)h, sel, 0, type, (u16)(h >> 16) };
#endif
}

static void panic(struct frame *f)
{
    put("FAIL unexpected vector ");
    put_hex(f->vector);
    put(" error ");
    put_hex(f->error);
    put(" ip ");
    put_hex(f->ip);
    put(" cr2 ");
    put_hex(cr2());
    put("\n");
    failed++;
    finish();
}

void trap(struct frame *);
void trap(struct frame *f)
{
    ul fault_at = cr2();

    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    exc = *f;
    exc_cr2 = fault_at;
    exc_count++;
    if (in_user && (f->cs & 3)) {
        in_user = false;
        f->ip = (ul)user_back;
        f->cs = KCS;
        f->flags = 2;
#ifdef GUEST64
        f->sp = user_saved_sp;
        f->ss = KDS;
#else
        /* To the same ring IRET takes no stack with it: leave by hand. */
        f->ds = f->es = f->fs = f->gs = KDS;
        __asm__ volatile("movl %0, %%esp; jmp user_back" ::"r"(user_saved_sp));
        __builtin_unreachable();
#endif
    } else if (exc_resume) {
        f->ip = exc_resume;
        exc_resume = 0;
        f->flags &= ~0x100ul; /* a step under way ends here */
    } else {
        panic(f);
    }
}

void user_run(void *ip, ul arg, ul flags)
{
    exc_count = 0;
    exc.vector = 0xff;
    exc_at = (ul)ip;
    in_user = true;
    user_enter((ul)ip, (ul)user_stack_top - 64, arg, flags);
}

void tss_set_io(u32 from, u32 to, bool deny)
{
    for (; from <= to; from++)
        tss.io[from / 8] =
            (u8)(deny ? tss.io[from / 8] | 1 << from % 8 : tss.io[from / 8] & ~(1 << from % 8));
}

void setup(void);
void setup(void)
{
    struct {
        u16 limit;
        ul base;
    } __attribute__((packed)) p = { sizeof idt - 1, (ul)idt };
    u64 base = (ul)&tss, limit = sizeof tss - 1;

    outb(COM1 + 1, 0);
    outb(COM1 + 3, 3);
    for (unsigned i = 0; i < 256; i++)
        gate_set((u8)i, stubs + 16 * i, 0x8e, KCS);
    __asm__ volatile("lidt %0" ::"m"(p));
    memset(&tss, 0, sizeof tss);
    memset(tss.io, 0xff, sizeof tss.io);
    tss.io_at = (u16)((u8 *)tss.io - (u8 *)&tss);
#ifdef GUEST64
    tss.rsp[0] = (ul)trap_stack_top;
    gdt[7] = base >> 32;
#else
    tss.esp0 = (ul)trap_stack_top;
    tss.ss0 = KDS;
    set_cr0(cr0() | 0x22); /* NE, MP */
#endif
    gdt[6] = (limit & 0xffff) | (base & 0xffffff) << 16 | 0x89ull << 40 |
             (limit >> 16 & 15) << 48 | (base >> 24 & 0xff) << 56;
    __asm__ volatile("ltr %w0" ::"r"(0x30));
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

void delay_us(u32 us)
{
    while (us--)
        inb(0x61);
}

void *memset(void *to, int c, ul n)
{
    void *ret = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return ret;
}
void *memcpy(void *to, const void *from, ul n)
{
    void *ret = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return ret;
}
int memcmp(const void *a, const void *b, ul n)
{
    const u8 *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
