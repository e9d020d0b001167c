// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * faults.c - a fault in the memory operand of each class of instructions: nothing has happened
 * but the exception, no register, flag or byte has changed; and when its cause is gone, the
 * instruction does what it does without a fault.
 *
 * Two pages: the first is there, the second is absent, read-only or there.  The operand lies in
 * the second, or across both.  Before the instruction there are others in the same stretch of
 * code whose effects must have come to pass.
 */
#include "lib/guest.h"

enum { P = 1, RW = 2 };
extern u64 pml4[512];
static u64 tables[3][512] __attribute__((aligned(4096)));
static u8 pages[2][4096] __attribute__((aligned(4096))), before[2][4096], clean[2][4096];
static u8 code[4096] __attribute__((aligned(4096))),
    ist_stack[8192] __attribute__((aligned(16)));
static u8 fx_before[512] __attribute__((aligned(16))),
    fx_clean[512] __attribute__((aligned(16))), fx[512] __attribute__((aligned(16)));
static u64 aside[2];
#define VA   0x0000400000000000ul
#define HOLE 0x8000000000000000ul

/*
 * One instruction with its operand at RBX, RSI and RDI, or (STACK: below, POPS: at) RSP.
 * R, W: what it does to it; JUMP: the operand holds where it goes on; WHOLE: has to be aligned,
 * so it is never across pages.
 */
enum {
    R = 1,
    W = 2,
    RW_ = R | W,
    STACK = 4,
    POPS = 8,
    JUMP = 16,
    WHOLE = 32,
    AVX = 64,
    FPU = 128
};
struct test {
    const char *name;
    const u8 *from, *to;
    u32 size, how;
};
#define T(text, size, how)                                                                     \
    ({                                                                                         \
        const u8 *from, *to;                                                                   \
        __asm__("jmp 2f\n1: " text "\n2: lea 1b(%%rip), %0; lea 2b(%%rip), %1"                 \
                : "=r"(from), "=r"(to));                                                       \
        one(&(struct test){ text, from, to, size, how });                                      \
    })

struct regs {
    u64 ax, cx, dx, bx, si, di, bp, sp, r8, r9, r10, r11, r12, r13, r14, r15, flags, ip;
};
static struct regs start __attribute__((used));
u64 go_sp;

/* Loads everything out of start and jumps; comes back by way of the exception. */
__attribute__((naked)) static void go(void)
{
    __asm__(
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, go_sp; movq $1f, exc_resume\n"
        "pushq start+128; popf\n"
        "mov start, %rax; mov start+8, %rcx; mov start+16, %rdx; mov start+24, %rbx\n"
        "mov start+32, %rsi; mov start+40, %rdi; mov start+48, %rbp; mov start+56, %rsp\n"
        "mov start+64, %r8; mov start+72, %r9; mov start+80, %r10; mov start+88, %r11\n"
        "mov start+96, %r12; mov start+104, %r13; mov start+112, %r14; mov start+120, %r15\n"
        "jmp *start+136\n"
        "1: mov go_sp, %rsp; cld\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret");
}

static void run(void)
{
    exc_count = 0;
    exc.vector = NONE;
    barrier();
    go();
    barrier();
    __asm__ volatile("fxsave64 %0" : "=m"(fx));
}

static void second(u64 flags)
{
    tables[2][1] = flags & P ? (u64)pages[1] | flags : 0;
    invlpg((void *)(VA + 4096));
}

/* Registers and flags of the exception against those that it started with. */
static bool same_regs(u64 ip)
{
    const struct frame *f = &exc;
    const struct regs *s = &start;

    return f->ax == s->ax && f->cx == s->cx && f->dx == s->dx && f->bx == s->bx &&
           f->si == s->si && f->di == s->di && f->bp == s->bp && f->sp == s->sp &&
           f->r8 == s->r8 && f->r9 == s->r9 + 1 && f->r10 == s->r10 && f->r11 == s->r11 &&
           f->r12 == s->r12 && f->r13 == s->r13 && f->r14 == s->r14 && f->r15 == s->r15 &&
           f->ip == ip && ((f->flags ^ s->flags) & 0xcd5) == 0;
}

static bool same_after(const struct frame *a, const struct frame *b)
{
    return a->ax == b->ax && a->cx == b->cx && a->dx == b->dx && a->bx == b->bx &&
           a->si == b->si && a->di == b->di && a->bp == b->bp && a->sp == b->sp &&
           a->r8 == b->r8 && a->r9 == b->r9 && a->r10 == b->r10 && a->ip == b->ip &&
           ((a->flags ^ b->flags) & 0xcd5) == 0;
}

static void prepare(const struct test *t, u64 at)
{
    static const u8 fx_start[] = { 0x7f, 3, 0, 0 };

    memcpy(pages, before, sizeof pages);
    if (t->how & JUMP) {
        u64 to = (u64)code + 512;
        u64 off = at - VA;

        for (u32 k = 0; k < 8; k++)
            if (off + k < sizeof pages)
                (&pages[0][0])[off + k] = (u8)(to >> 8 * k);
    }
    memcpy(fx, fx_before, sizeof fx);
    memcpy(fx, fx_start, sizeof fx_start);
    __asm__ volatile("fxrstor64 %0" ::"m"(fx));
    aside[0] = 0;
    start.bx = start.si = start.di = at;
    start.sp = t->how & STACK ? at + t->size : t->how & POPS ? at : (u64)ist_stack + 2048;
    start.bp = (u64)aside;
    start.ip = (u64)code;
}

/* The pages as prepare() makes them. */
static bool untouched(const struct test *t, u64 at)
{
    static u8 was[2][4096];

    memcpy(was, pages, sizeof was);
    prepare(t, at);
    return !memcmp(was, pages, sizeof was);
}

/* Bits of what went wrong. */
static u32 with_fault(const struct test *t, u64 at, u64 pte, u32 vector, u32 error, u64 cr2,
                      const struct frame *good)
{
    u64 ip = (u64)code + (u64)(8 + 0);
    u32 bad = 0;

    if (t->how & STACK && at == HOLE)
        at -= 4096; /* not to begin below it */
    second(pte);
    prepare(t, at);
    memcpy(fx_before, fx, sizeof fx);
    run();
    if (exc.vector != vector || exc.error != error)
        bad |= 1;
    if (vector == 14 && exc_cr2 != cr2)
        bad |= 2;
    if (!same_regs(ip))
        bad |= 4;
    if (aside[0] != start.r10)
        bad |= 8;
    if (memcmp(fx + 160, fx_before + 160, 256) || memcmp(fx + 32, fx_before + 32, 128) ||
        memcmp(fx, fx_before, 5))
        bad |= 16;
    struct frame f = exc;
    if (!good)
        return bad | (untouched(t, at) ? 0 : 32);
    /* again, from there, with the page in place */
    second(P | RW);
    start.ax = f.ax, start.cx = f.cx, start.dx = f.dx, start.bx = f.bx, start.r9 = f.r9;
    start.flags = f.flags & ~0x10000ull;
    start.ip = f.ip;
    run();
    start.r9--;
    if (!same_after(&exc, good) || memcmp(pages, clean, sizeof pages))
        bad |= 64;
    if (memcmp(fx + 32, fx_clean + 32, 384) || memcmp(fx, fx_clean, 5))
        bad |= 128;
    return bad;
}

static void one(const struct test *t)
{
    /* mov %r10, (%rbp); lea 1(%r9), %r9 */
    static const u8 head[] = { 0x4c, 0x89, 0x55, 0, 0x4d, 0x8d, 0x49, 1 };
    u32 n = sizeof head, bad = 0, write = t->how & W ? 2 : 0;
    u64 seg = t->how & (STACK | POPS) ? 12 : 13;
    struct frame good;

    memset(code, 0x90, sizeof code);
    memcpy(code, head, n);
    for (const u8 *p = t->from; p < t->to; p++)
        code[n++] = *p;
    for (u32 k = n; k < n + 32; k += 2)
        code[k] = 0x0f, code[k + 1] = 0x0b;
    code[512] = 0x0f, code[513] = 0x0b;
    for (u32 across = 0; across < 2; across++) {
        u64 at = across ? VA + 4096 - (t->size + 1) / 2 : VA + 4096 + 64;
        u64 cr2 = across ? VA + 4096 : at;
        u32 b = 0;

        if (across && (t->size < 2 || t->how & WHOLE))
            break;
        second(P | RW);
        prepare(t, at);
        run();
        good = exc;
        memcpy(clean, pages, sizeof pages);
        memcpy(fx_clean, fx, sizeof fx);
        if (exc.vector != 6)
            b |= 256;
        b |= with_fault(t, at, 0, 14, write, cr2, &good);
        if (t->how & W)
            b |= with_fault(t, at, P, 14, 3, cr2, &good);
        bad |= across ? b << 12 : b;
    }
    if (!(t->how & (STACK | POPS)) || t->how & W || t->how & POPS)
        bad |= with_fault(t, HOLE, P | RW, (u32)seg, 0, 0, NULL) << 24;
    check_eq(t->name, bad, 0);
}

void main(void)
{
    u64 stack = (u64)ist_stack + sizeof ist_stack;

    pml4[128] = (u64)tables[0] | 7;
    tables[0][0] = (u64)tables[1] | 7;
    tables[1][0] = (u64)tables[2] | 7;
    tables[2][0] = (u64)pages[0] | P | RW;
    memcpy(tss_bytes + 36, &stack, 8);
    idt[6].ist = idt[12].ist = idt[13].ist = idt[14].ist = 1;
    for (u32 k = 0; k < sizeof before; k++)
        (&before[0][0])[k] = (u8)(0x21 + k % 61);
    __asm__ volatile("fninit; fld1; fldpi; fxsave64 %0; fninit" : "=m"(fx_before));
    for (u32 k = 0; k < 256; k++)
        fx_before[160 + k] = (u8)(k * 7 + 3);
    u64 *gpr = (u64 *)&start;
    for (u32 k = 0; k < 16; k++)
        gpr[k] = (u64)(k & 7) * 0x1111111111111111 + k * 256;
    start.r12 = (u64)code + 512;
    start.cx = 3;
    start.dx = 0;
    start.r10 = 0x5566778899aabbcc;
    start.flags = 0x8d7 & ~0x800ull; /* CF PF AF ZF SF */

    T("movb (%%rbx), %%al", 1, R);
    T("movw (%%rbx), %%ax", 2, R);
    T("movl (%%rbx), %%eax", 4, R);
    T("movq (%%rbx), %%rax", 8, R);
    T("movb %%ah, (%%rbx)", 1, W);
    T("movw %%dx, (%%rbx)", 2, W);
    T("movl %%r8d, (%%rbx)", 4, W);
    T("movq %%r8, (%%rbx)", 8, W);
    T("movl $0x12345678, (%%rbx)", 4, W);
    T("movzwl (%%rbx), %%r9d; dec %%r9", 2, R);
    T("movsbq (%%rbx), %%rcx", 1, R);
    T("movslq (%%rbx), %%rcx", 4, R);
    T("movbe (%%rbx), %%rdx", 8, R);
    T("movbe %%edx, (%%rbx)", 4, W);
    T("movnti %%rdx, (%%rbx)", 8, W);
    T("xlatb", 1, R);
    T("addb (%%rbx), %%cl", 1, R);
    T("addq (%%rbx), %%rdx", 8, R);
    T("addl %%ecx, (%%rbx)", 4, RW_);
    T("adcq %%rcx, (%%rbx)", 8, RW_);
    T("sbbw $7, (%%rbx)", 2, RW_);
    T("andl (%%rbx), %%eax", 4, R);
    T("orb $1, (%%rbx)", 1, RW_);
    T("xorq %%rax, (%%rbx)", 8, RW_);
    T("cmpl $5, (%%rbx)", 4, R);
    T("testq %%rax, (%%rbx)", 8, R);
    T("incl (%%rbx)", 4, RW_);
    T("decq (%%rbx)", 8, RW_);
    T("negw (%%rbx)", 2, RW_);
    T("notl (%%rbx)", 4, RW_);
    T("shll %%cl, (%%rbx)", 4, RW_);
    T("sarq $3, (%%rbx)", 8, RW_);
    T("rolw (%%rbx)", 2, RW_);
    T("rcrl $1, (%%rbx)", 4, RW_);
    T("shldq $1, %%rax, (%%rbx)", 8, RW_);
    T("shrdl $1, %%eax, (%%rbx)", 4, RW_);
    T("imulq (%%rbx), %%rax; cmp %%al, %%al", 8, R);
    T("imull $77, (%%rbx), %%ecx; cmp %%al, %%al", 4, R);
    T("mulq (%%rbx); cmp %%al, %%al", 8, R);
    T("divl (%%rbx); cmp %%al, %%al", 4, R);
    T("idivw (%%rbx); cmp %%al, %%al", 2, R);
    T("xchgq %%rax, (%%rbx)", 8, RW_);
    T("xaddl %%ecx, (%%rbx)", 4, RW_);
    T("lock addq $1, (%%rbx)", 8, RW_);
    T("lock xaddq %%rcx, (%%rbx)", 8, RW_);
    T("lock decl (%%rbx)", 4, RW_);
    T("lock btsl $3, (%%rbx); cmp %%al, %%al", 4, RW_);
    T("cmpxchgl %%ecx, (%%rbx)", 4, RW_);
    T("lock cmpxchgq %%rcx, (%%rbx)", 8, RW_);
    T("cmpxchg8b (%%rbx)", 8, RW_);
    T("btl $5, (%%rbx); cmp %%al, %%al", 4, R);
    T("btcq $5, (%%rbx); cmp %%al, %%al", 8, RW_);
    T("btrl %%ecx, (%%rbx); cmp %%al, %%al", 4, RW_);
    T("bsfq (%%rbx), %%rax; cmp %%al, %%al", 8, R);
    T("popcntl (%%rbx), %%eax", 4, R);
    T("sete (%%rbx)", 1, W);
    T("cmovnel (%%rbx), %%eax", 4, R);
    T("crc32q (%%rbx), %%rax", 8, R);
    T("pushq (%%rbx)", 8, R);
    T("popq (%%rbx)", 8, W);
    T("callq *(%%rbx)", 8, R | JUMP);
    T("jmpq *(%%rbx)", 8, R | JUMP);
    T("pushq %%rax", 8, W | STACK);
    T("pushq $5", 8, W | STACK);
    T("pushw %%ax", 2, W | STACK);
    T("pushfq", 8, W | STACK);
    T("call 3f; 3:", 8, W | STACK);
    T("call *%%r12", 8, W | STACK);
    T("enterq $16, $0", 8, W | STACK);
    T("popq %%rax", 8, R | POPS);
    T("popw %%ax", 2, R | POPS);
    T("retq", 8, R | POPS | JUMP);
    T("retq $32", 8, R | POPS | JUMP);
    T("lodsq", 8, R);
    T("stosl", 4, W);
    T("movsw", 2, R);
    T("cmpsb", 1, R);
    T("scasq", 8, R);
    T("movups (%%rbx), %%xmm1", 16, R);
    T("movups %%xmm2, (%%rbx)", 16, W);
    T("movaps (%%rbx), %%xmm1", 16, R | WHOLE);
    T("movaps %%xmm9, (%%rbx)", 16, W | WHOLE);
    T("movss (%%rbx), %%xmm3", 4, R);
    T("movsd %%xmm3, (%%rbx)", 8, W);
    T("movd (%%rbx), %%xmm4", 4, R);
    T("movq %%xmm4, (%%rbx)", 8, W);
    T("movhps (%%rbx), %%xmm5", 8, R);
    T("movhps %%xmm5, (%%rbx)", 8, W);
    T("movdqu (%%rbx), %%xmm15", 16, R);
    T("movntdq %%xmm15, (%%rbx)", 16, W | WHOLE);
    T("addps (%%rbx), %%xmm1", 16, R | WHOLE);
    T("addsd (%%rbx), %%xmm1", 8, R);
    T("ucomisd (%%rbx), %%xmm2", 8, R);
    T("cvtsi2sdq (%%rbx), %%xmm6", 8, R);
    T("cvttss2si (%%rbx), %%ecx", 4, R);
    T("pshufd $0x1b, (%%rbx), %%xmm7", 16, R | WHOLE);
    T("paddd (%%rbx), %%xmm7", 16, R | WHOLE);
    T("pextrb $1, %%xmm7, (%%rbx)", 1, W);
    T("pinsrw $1, (%%rbx), %%xmm7", 2, R);
    T("pcmpistri $0x0c, (%%rbx), %%xmm7", 16, R);
    T("stmxcsr (%%rbx)", 4, W);
    T("flds (%%rbx)", 4, R);
    T("fldl (%%rbx)", 8, R);
    T("fldt (%%rbx)", 10, R);
    T("filds (%%rbx)", 2, R);
    T("fildll (%%rbx)", 8, R);
    T("fsts (%%rbx)", 4, W);
    T("fstpl (%%rbx)", 8, W);
    T("fstpt (%%rbx)", 10, W);
    T("fistpl (%%rbx)", 4, W);
    T("fbstp (%%rbx)", 10, W);
    T("fadds (%%rbx)", 4, R);
    T("fdivrl (%%rbx)", 8, R);
    T("ficoml (%%rbx)", 4, R);
    T("fnstcw (%%rbx)", 2, W);
    T("fnstsw (%%rbx)", 2, W);
    T("movq (%%rbx), %%mm3; emms; fninit", 8, R);
    T("fxsave64 (%%rbx)", 512, W | WHOLE);
    finish();
}
