// SPDX-License-Identifier: GPL-2.0-or-later
/* arith.c - integer instructions at their edges: results and defined flags. */
#include "lib/guest.h"

enum { CF = 1, PF = 4, AF = 16, ZF = 64, SF = 128, OF = 2048 };
#define ALL (CF | PF | AF | ZF | SF | OF)

/* insn on %0 with source %1; flags start as given. */
#define OP2(name, insn, type, x, y, start, want, mask, flags)                                  \
    do {                                                                                       \
        type r = (type)(x);                                                                    \
        u64 f = (start);                                                                       \
        __asm__ volatile("push %1; popf; " insn "; pushf; pop %1"                              \
                         : "+r"(r), "+&r"(f)                                                   \
                         : "c"((type)(y))                                                      \
                         : "rbx", "memory", "cc");                                             \
        check_eq(name, r, (type)(want));                                                       \
        check_eq(name " flags", f &(mask), flags);                                             \
    } while (0)

static void adds(void)
{
    OP2("add overflow", "addl %2, %0", u32, 0x7fffffff, 1, 2, 0x80000000, ALL,
        OF | SF | AF | PF);
    OP2("add carry", "addl %2, %0", u32, 0xffffffff, 1, 2, 0, ALL, CF | ZF | AF | PF);
    OP2("add 8", "addb %b2, %b0", u8, 0x80, 0x80, 2, 0, ALL, CF | OF | ZF | PF);
    OP2("adc", "adcq %2, %0", u64, ~0ull, 0, 3, 0, ALL, CF | ZF | AF | PF);
    OP2("sbb", "sbbl %2, %0", u32, 0, 0, 3, 0xffffffff, ALL, CF | SF | AF | PF);
    OP2("sub borrow", "subw %w2, %w0", u16, 0x8000, 1, 2, 0x7fff, ALL, OF | AF | PF);
    OP2("cmp keeps", "cmpl %2, %0", u32, 5, 6, 2, 5, ALL, CF | SF | AF | PF);
    OP2("inc keeps CF", "incl %0", u32, 0x7fffffff, 0, 3, 0x80000000, ALL,
        CF | OF | SF | AF | PF);
    OP2("dec keeps CF", "decl %0", u32, 0, 0, 3, 0xffffffff, ALL, CF | SF | AF | PF);
    OP2("neg", "negl %0", u32, 0x80000000, 0, 2, 0x80000000, ALL, CF | OF | SF | PF);
    OP2("neg zero", "negl %0", u32, 0, 0, 3, 0, ALL, ZF | PF);
    OP2("and clears CF and OF", "andl %2, %0", u32, 0xf0, 0x0f, 3 | OF, 0, ALL & ~AF, ZF | PF);
    OP2("not keeps the flags", "notl %0", u32, 0, 0, 2 | ALL, 0xffffffff, ALL, ALL);
    OP2("32 bits clear the rest", "movl %k2, %k0", u64, ~0ull, 5, 2, 5, 0, 0);
    OP2("16 bits keep the rest", "movw %w2, %w0", u64, ~0ull, 5, 2, 0xffffffffffff0005, 0, 0);
    OP2("8 bits keep the rest", "movb %b2, %b0", u64, ~0ull, 5, 2, 0xffffffffffffff05, 0, 0);
    OP2("xadd", "xaddl %2, %0", u32, 0xffffffff, 2, 2, 1, ALL, CF | AF);
    OP2("adcx keeps OF", "adcx %2, %0", u64, ~0ull, 1, 2 | OF, 0, CF | OF, CF | OF);
    OP2("adox uses OF", "adox %2, %0", u64, 1, 1, 2 | OF, 3, CF | OF, 0);
}

static void shifts(void)
{
    OP2("shl by 0 keeps the flags", "shll %%cl, %0", u32, 0x80000001, 0, 2 | ALL, 0x80000001,
        ALL, ALL);
    OP2("shl by 32 is by 0", "shll %%cl, %0", u32, 0x80000001, 32, 2 | ALL, 0x80000001, ALL,
        ALL);
    OP2("shl 1", "shll $1, %0", u32, 0xc0000000, 0, 2, 0x80000000, ALL & ~AF, CF | SF | PF);
    OP2("shl 1 overflow", "shll $1, %0", u32, 0x40000000, 0, 2, 0x80000000, ALL & ~AF,
        OF | SF | PF);
    OP2("shr 1", "shrl $1, %0", u32, 0x80000001, 0, 2, 0x40000000, ALL & ~AF, CF | OF | PF);
    OP2("shr 31", "shrl %%cl, %0", u32, 0x80000000, 31, 2, 1, CF | ZF | SF | PF, 0);
    OP2("sar", "sarl %%cl, %0", u32, 0x80000000, 31, 2, 0xffffffff, CF | ZF | SF | PF, SF | PF);
    OP2("sar 64 by 63", "sarq %%cl, %0", u64, 1ull << 63, 63, 2, ~0ull, CF | ZF | SF, SF);
    OP2("shl 8 by 9", "shlb %%cl, %b0", u8, 0xff, 9, 2, 0, ZF | SF, ZF);
    OP2("rol 8 by 8 sets CF", "rolb %%cl, %b0", u8, 0x81, 8, 2, 0x81, CF, CF);
    OP2("rol keeps ZF", "roll $4, %0", u32, 0xf0000001, 0, 2 | ZF, 0x1f, CF | ZF, CF | ZF);
    OP2("ror", "rorl $1, %0", u32, 1, 0, 2, 0x80000000, CF | OF, CF | OF);
    OP2("rcl by 1", "rcll $1, %0", u32, 0x80000000, 0, 3, 1, CF | OF, CF | OF);
    OP2("rcl 8 by 9", "rclb %%cl, %b0", u8, 0x35, 9, 3, 0x35, CF, CF);
    OP2("rcl 16 by 17", "rclw %%cl, %w0", u16, 0x1235, 17, 3, 0x1235, CF, CF);
    OP2("rcl by 10", "rcll %%cl, %0", u32, 0x80000001, 10, 3, 0x700, CF, 0);
    OP2("rcr by 1", "rcrl $1, %0", u32, 1, 0, 2, 0, CF, CF);
    OP2("rcr 64 by 5", "rcrq %%cl, %0", u64, 0x1f, 5, 3, 0xf800000000000000, CF, CF);
    OP2("shld", "shldl %%cl, %2, %0", u32, 0x12345678, 4, 2, 0x23456780, CF, CF);
    OP2("shld by 0", "shldl %%cl, %2, %0", u32, 0x12345678, 0, 2 | ALL, 0x12345678, ALL, ALL);
    OP2("shrd", "shrdl %%cl, %2, %0", u32, 0x12345678, 8, 2, 0x08123456, CF, 0);
    OP2("shrd 64", "shrdq %%cl, %2, %0", u64, 0, 3, 2, 0x6000000000000000, 0, 0);
    OP2("bswap", "bswap %0", u32, 0x11223344, 0, 2, 0x44332211, 0, 0);
}

static void bits(void)
{
    static u32 words[8] = { 0, 0, 0, 0, 0x80000000, 0, 0, 0 };
    u64 f, r;

    OP2("bsf of zero keeps", "bsfl %2, %0", u32, 0x1234, 0, 2, 0x1234, ZF, ZF);
    OP2("bsf", "bsfl %2, %0", u32, 0, 0x80, 2, 7, ZF, 0);
    OP2("bsr", "bsrq %2, %0", u64, 0, 1ull << 40, 2, 40, ZF, 0);
    OP2("bt register wraps", "btl %2, %0", u32, 2, 33, 2, 2, CF, CF);
    OP2("bts", "btsl %2, %0", u32, 0, 31, 3, 0x80000000, CF, 0);
    OP2("btr", "btrq %2, %0", u64, ~0ull, 63, 2, ~0ull >> 1, CF, CF);
    OP2("btc", "btcw %w2, %w0", u16, 1, 16, 2, 0, CF, CF);
    __asm__ volatile("btl %2, (%1); pushf; pop %0"
                     : "=r"(f)
                     : "r"(words + 6), "r"(-33)
                     : "memory");
    check_eq("bt memory, negative offset", f & 1, 1);
    __asm__ volatile("btsq %2, (%1); pushf; pop %0"
                     : "=r"(f)
                     : "r"(words), "r"(200ll)
                     : "memory");
    check_eq("bts memory, beyond the operand", words[6], 1 << 8);
    __asm__ volatile("lock btrl %2, (%1); pushf; pop %0"
                     : "=r"(f)
                     : "r"(words), "r"(200)
                     : "memory");
    check("lock btr memory", words[6] == 0 && f & 1);
    if (has(1, 0, 2, 23))
        OP2("popcnt", "popcntq %2, %0", u64, 0, 0xf0f0f0f0f0f0f0f0, 3, 32, ALL, 0);
    if (has(0x80000001, 0, 2, 5)) {
        OP2("lzcnt of zero", "lzcntl %2, %0", u32, 0, 0, 2, 32, CF | ZF, CF);
        OP2("lzcnt", "lzcntq %2, %0", u64, 0, 1ull << 63, 2, 0, CF | ZF, ZF);
    }
    if (has(7, 0, 1, 3)) {
        OP2("tzcnt of zero", "tzcntl %2, %0", u32, 0, 0, 2, 32, CF | ZF, CF);
        OP2("blsr", "blsr %2, %0", u64, 0, 0x18, 2, 0x10, ZF | SF | CF, 0);
        OP2("blsi", "blsi %2, %0", u64, 0, 0x18, 2, 8, ZF | SF | CF, CF);
        OP2("andn", "andn %2, %0, %0", u64, 0xf0, 0xff, 2, 0xf, ZF | SF, 0);
        OP2("bextr", "mov $0x804, %%ebx; bextr %%ebx, %2, %0", u32, 0, 0x12345678, 2, 0x67, 0,
            0);
    }
    if (has(7, 0, 1, 8)) {
        OP2("pdep", "mov $0xf0f0, %%ebx; pdep %%ebx, %2, %0", u32, 0, 0xa5, 2, 0xa050, 0, 0);
        OP2("pext", "mov $0xf0f0, %%ebx; pext %%ebx, %2, %0", u32, 0, 0x1a2b, 2, 0x12, 0, 0);
        OP2("rorx", "rorx $4, %2, %0", u32, 0, 0x1f, 2 | ALL, 0xf0000001, ALL, ALL);
        OP2("shlx", "shlx %2, %0, %0", u64, 1, 65, 2 | ALL, 2, ALL, ALL);
        __asm__ volatile("mulx %%rbx, %%rcx, %0" : "=r"(r) : "d"(~0ull), "b"(~0ull) : "rcx");
        check_eq("mulx", r, ~0ull - 1);
    }
    if (has(1, 0, 2, 22)) {
        u32 v = 0x11223344, got;
        __asm__ volatile("movbe %1, %0" : "=r"(got) : "m"(v));
        check_eq("movbe", got, 0x44332211);
    }
}

#define MULDIV(name, insn, ra, rd, src, want_a, want_d)                                        \
    do {                                                                                       \
        u64 ax = (ra), dx = (rd);                                                              \
        __asm__ volatile(insn : "+a"(ax), "+d"(dx) : "c"(src) : "cc");                         \
        check_eq(name, ax, want_a);                                                            \
        check_eq(name " rdx", dx, want_d);                                                     \
    } while (0)

static void muldiv(void)
{
    u64 f, r;

    MULDIV("mul 64", "mulq %2", ~0ull, 0, ~0ull, 1, ~0ull - 1);
    MULDIV("mul 32", "mull %k2", ~0ull, ~0ull, 0xffffffffull, 1, 0xfffffffe);
    MULDIV("mul 16", "mulw %w2", 0xffffffffffff8000, 0x1111, 0x8000ull, 0xffffffffffff0000,
           0x4000);
    MULDIV("mul 8", "mulb %b2", 0x11ff, 7, 0xffull, 0xfe01, 7);
    MULDIV("imul 64", "imulq %2", ~0ull, 0, 5ull, (u64)-5, ~0ull);
    MULDIV("imul 8", "imulb %b2", 0x80, 7, 0x80ull, 0x4000, 7);
    MULDIV("div 64", "divq %2", 0, 1, 2ull, 1ull << 63, 0);
    MULDIV("div 32", "divl %k2", 7, 1, 2ull, 0x80000003, 1);
    MULDIV("div 16", "divw %w2", 0x10005, 0, 10ull, 0x10000, 5);
    MULDIV("div 8", "divb %b2", 0x1ff, 9, 4ull, 0x037f, 9);
    MULDIV("idiv 32", "idivl %k2", (u32)-7, (u32)-1, 2ull, (u32)-3, (u32)-1);
    MULDIV("idiv 64 smallest", "idivq %2", 1ull << 63, ~0ull, 1ull, 1ull << 63, 0);
    MULDIV("idiv 8", "idivb %b2", 0xff81, 9, 2ull, 0xffc1, 9);
    MULDIV("cqo", "cqo", 1ull << 63, 5, 0ull, 1ull << 63, ~0ull);
    MULDIV("cdq", "cdq", 0x80000000, 5, 0ull, 0x80000000, 0xffffffff);
    MULDIV("cwd", "cwd", 0x8000, 0x55550000, 0ull, 0x8000, 0x5555ffff);
    MULDIV("cdqe", "cdqe", 0x80000000, 0, 0ull, 0xffffffff80000000, 0);
    MULDIV("cbw", "cbw", 0x110080, 0, 0ull, 0x11ff80, 0);
    __asm__ volatile("imulq %2, %0; pushf; pop %1"
                     : "=r"(r), "=r"(f)
                     : "r"(3ull), "0"(1ull << 62)
                     : "cc");
    check_eq("imul overflow", f & (CF | OF), CF | OF);
    __asm__ volatile("imull %k2, %k0; pushf; pop %1"
                     : "=r"(r), "=r"(f)
                     : "r"(3ull), "0"(5ull)
                     : "cc");
    check_eq("imul fits", f & (CF | OF), 0);
    TRY("divb %b0", ::"c"(1), "a"(0x100) : "cc");
    check_exc("div 8 overflow", 0, 0, 0);
    TRY("idivb %b0", ::"c"(0xff), "a"(0xff80) : "cc");
    check_exc("idiv 8 overflow", 0, 0, 0);
    TRY("divw %w0", ::"c"(1), "a"(0), "d"(1) : "cc");
    check_exc("div 16 overflow", 0, 0, 0);
    TRY("idivw %w0", ::"c"(0xffff), "a"(0x8000), "d"(0xffff) : "cc");
    check_exc("idiv 16 overflow", 0, 0, 0);
    TRY("divq %0", ::"c"(1ull), "a"(0ull), "d"(1ull) : "cc");
    check_exc("div 64 overflow", 0, 0, 0);
}

static void exchange(void)
{
    static u64 m[2] __attribute__((aligned(16))) = { 5, 6 };
    u64 f, lo, hi;

    lo = 9;
    __asm__ volatile("cmpxchgq %3, (%2); pushf; pop %1"
                     : "+a"(lo), "=r"(f)
                     : "r"(m), "c"(7ull)
                     : "memory");
    check("cmpxchg unequal", lo == 5 && m[0] == 5 && !(f & ZF));
    __asm__ volatile("lock cmpxchgq %3, (%2); pushf; pop %1"
                     : "+a"(lo), "=r"(f)
                     : "r"(m), "c"(7ull)
                     : "memory");
    check("cmpxchg equal", lo == 5 && m[0] == 7 && f & ZF);
    lo = 0xffffffff00000007;
    __asm__ volatile("cmpxchgl %k3, (%2); pushf; pop %1"
                     : "+a"(lo), "=r"(f)
                     : "r"(m), "c"(8ull)
                     : "memory");
    check("cmpxchg 32 compares the lower half",
          m[0] == 8 && f & ZF && lo == 0xffffffff00000007);
    lo = 1, hi = 2;
    __asm__ volatile("lock cmpxchg16b (%2)"
                     : "+a"(lo), "+d"(hi)
                     : "r"(m), "b"(3ull), "c"(4ull)
                     : "memory");
    check("cmpxchg16b unequal", lo == 8 && hi == 6 && m[1] == 6);
    __asm__ volatile("lock cmpxchg16b (%2)"
                     : "+a"(lo), "+d"(hi)
                     : "r"(m), "b"(3ull), "c"(4ull)
                     : "memory");
    check("cmpxchg16b equal", m[0] == 3 && m[1] == 4);
    lo = 3, hi = 0;
    __asm__ volatile("lock cmpxchg8b (%2)"
                     : "+a"(lo), "+d"(hi)
                     : "r"(m), "b"(0x11ull), "c"(0x22ull)
                     : "memory");
    check_eq("cmpxchg8b", m[0], 0x2200000011);
    lo = 0x55;
    __asm__ volatile("xchgb %b0, 3(%1)" : "+q"(lo) : "r"(m) : "memory");
    check("xchg 8", lo == 0 && m[0] == 0x2255000011);
}

static void control(void)
{
    u64 r, c, f;

    __asm__ volatile("xor %0, %0; mov $5, %%ecx; 1: inc %0; loop 1b" : "=&r"(r)::"rcx");
    check_eq("loop", r, 5);
    c = 0x100000001;
    __asm__ volatile("xor %0, %0; 1: inc %0; addr32 loop 1b" : "=&r"(r), "+c"(c));
    check_eq("addr32 loop", r, 1);
    __asm__ volatile(
        "xor %0, %0; mov $0x100000000, %%rcx; jecxz 1f; inc %0; 1: jrcxz 2f; add $2, %0; 2:"
        : "=&r"(r)::"rcx");
    check_eq("jecxz and jrcxz", r, 2);
    __asm__ volatile(
        "xor %0, %0; mov $10, %%ecx; 1: inc %0; cmp $4, %0; loopne 1b; pushf; pop %1"
        : "=&r"(r), "=r"(f)::"rcx");
    check_eq("loopne", r, 4);
    __asm__ volatile("mov %%rsp, %%rbx; push %%rbp; enter $32, $0; mov %%rbp, %0; leave; pop "
                     "%%rbp; sub %%rsp, %%rbx; mov %%rbx, %1"
                     : "=&r"(r), "=&r"(c)::"rbx", "memory");
    check_eq("enter and leave", c, 0);
    __asm__ volatile(
        "mov $0xd500, %%eax; sahf; pushf; pop %0; lahf; movzbl %%ah, %%eax; mov %%rax, %1"
        : "=&r"(f), "=&r"(c)::"rax", "cc");
    check_eq("sahf", f & 0xff, 0xd7);
    check_eq("lahf", c, 0xd7);
    __asm__ volatile("stc; setc %b0; cmc; adc $0, %b0" : "=&q"(r) : "0"(0));
    check_eq("stc setc cmc", r & 0xff, 1);
    static const u8 table[256] = { [0x7f] = 0x99 };
    __asm__ volatile("xlat" : "=a"(r) : "b"(table), "0"(0x17f));
    check_eq("xlat", r, 0x199);
    __asm__ volatile("mov $0x1234, %%eax; movb %%ah, %%bl; movsbl %%bl, %%eax; mov %%rax, %0"
                     : "=r"(r)::"rax", "rbx");
    check_eq("high byte register", r, 0x12);
    __asm__ volatile("mov $0x80, %%ecx; movsbq %%cl, %0" : "=r"(r)::"rcx");
    check_eq("movsx 8 to 64", r, (u64)-128);
    __asm__ volatile("mov $0x80000000, %%ecx; movslq %%ecx, %0" : "=r"(r)::"rcx");
    check_eq("movsxd", r, 0xffffffff80000000);
    __asm__ volatile("mov $-1, %0; stc; cmovnc %%rax, %0; clc; mov $7, %%ecx; cmovnc %%ecx, %k0"
                     : "=&r"(r)::"rcx");
    check_eq("cmov", r, 7);
    __asm__ volatile("mov $-1, %0; clc; cmovc %%ecx, %k0" : "=&r"(r));
    check_eq("cmov that does not move clears the upper half", r, 0xffffffff);
    __asm__ volatile("lea -3(%1,%1,8), %0" : "=r"(r) : "r"(7ull));
    check_eq("lea", r, 60);
    __asm__ volatile("leal -3(%1), %k0" : "=r"(r) : "r"(1ull));
    check_eq("lea 32", r, 0xfffffffe);
    __asm__ volatile("push $-1; pop %0" : "=r"(r));
    check_eq("push imm8 is extended", r, ~0ull);
    __asm__ volatile("mov %%rsp, %%rbx; pushw $0x1234; mov %%rsp, %0; mov %%rbx, %%rsp; sub "
                     "%0, %%rbx; mov %%rbx, %0"
                     : "=&r"(r)::"rbx", "memory");
    check_eq("push 16", r, 2);
    __asm__ volatile("mov %%rsp, %%rbx; push %%rsp; pop %0; sub %%rbx, %0"
                     : "=&r"(r)::"rbx", "memory");
    check_eq("push rsp pushes the old one", r, 0);
    __asm__ volatile("mov %%rsp, %%rbx; push $0x77; pop -8(%%rsp); mov -8(%%rbx), %0"
                     : "=&r"(r)::"rbx", "memory");
    check_eq("pop to memory by rsp", r, 0x77);
    u32 crc = 0;
    if (has(1, 0, 2, 20)) {
        __asm__ volatile("crc32q %1, %q0" : "+r"(crc) : "r"(0x3132333435363738ull));
        check_eq("crc32", crc, 0x8cdf2f8d);
    }
}

void main(void)
{
    adds();
    shifts();
    bits();
    muldiv();
    exchange();
    control();
}
