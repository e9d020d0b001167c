// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fpu.c - x87, MMX and SSE state and exceptions; FXSAVE, XSAVE, XCR0, AVX.
 * The compiler uses no vector registers here, so what a test leaves in them stays.
 */
#include "lib/guest.h"

static u8 area[4096] __attribute__((aligned(64))), other[4096] __attribute__((aligned(64)));

static u16 fsw(void)
{
    u16 v;
    __asm__ volatile("fnstsw %0" : "=a"(v));
    return v;
}
static u16 fcw(void)
{
    u16 v;
    __asm__ volatile("fnstcw %0" : "=m"(v));
    return v;
}
static void set_fcw(u16 v)
{
    __asm__ volatile("fldcw %0" ::"m"(v));
}
static u32 mxcsr(void)
{
    u32 v;
    __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}
static void set_mxcsr(u32 v)
{
    __asm__ volatile("ldmxcsr %0" ::"m"(v));
}

static const u64 one = 0x3ff0000000000000, two = 0x4000000000000000, three = 0x4008000000000000,
                 zero, nan_s = 0x7ff0000000000001, tiny = 1, pi_d = 0x400921fb54442d18;

static void x87(void)
{
    u64 v;
    u8 t[10];

    __asm__ volatile("fninit");
    check_eq("FNINIT control word", fcw(), 0x37f);
    check_eq("FNINIT status word", fsw(), 0);
    __asm__ volatile("fldl %1; fdivl %2; fstpl %0" : "=m"(v) : "m"(one), "m"(three));
    check_eq("1/3", v, 0x3fd5555555555555);
    __asm__ volatile("fldl %1; fdivl %2; fstpt %0" : "=m"(t) : "m"(one), "m"(three));
    check("1/3 in 80 bits", *(u64 *)t == 0xaaaaaaaaaaaaaaab && *(u16 *)(t + 8) == 0x3ffd);
    set_fcw(0x27f); /* 53 bits */
    __asm__ volatile("fldl %1; fdivl %2; fstpt %0" : "=m"(t) : "m"(one), "m"(three));
    check("precision control 53", *(u64 *)t == 0xaaaaaaaaaaaaa800);
    set_fcw(0x07f); /* 24 bits */
    __asm__ volatile("fldl %1; fdivl %2; fstpt %0" : "=m"(t) : "m"(one), "m"(three));
    check("precision control 24", *(u64 *)t == 0xaaaaab0000000000);
    set_fcw(0xf7f); /* toward zero */
    __asm__ volatile("fldl %1; fdivl %2; fstpt %0" : "=m"(t) : "m"(two), "m"(three));
    check("rounding toward zero", *(u64 *)t == 0xaaaaaaaaaaaaaaaa);
    set_fcw(0x37f);
    u32 i;
    __asm__ volatile("fldpi; fistpl %0" : "=m"(i));
    check_eq("FLDPI FISTP", i, 3);
    __asm__ volatile(
        "fld1; fldz; fucomip %%st(1), %%st; fstp %%st(0); setb %b0; movzbl %b0, %k0"
        : "=q"(v)::"cc");
    check_eq("FUCOMIP", v, 1);
    __asm__ volatile("fldl %1; fsqrt; fstpl %0" : "=m"(v) : "m"(two));
    check_eq("FSQRT", v, 0x3ff6a09e667f3bcd);
    __asm__ volatile("fldl %1; fldl %2; fprem; fstpl %0; fstp %%st(0)"
                     : "=m"(v)
                     : "m"(two), "m"(three));
    check_eq("FPREM", v, one);
    __asm__ volatile("fildl %1; fbstp %0" : "=m"(t) : "m"((u32){ 1234567 }));
    check_eq("FBSTP", *(u64 *)t, 0x1234567);
    __asm__ volatile("fnclex; fld1; fldl %0; fdivrp" ::"m"(zero));
    check_eq("masked divide by zero sets ZE", fsw() & 0x7f, 4);
    __asm__ volatile("fstp %st(0); fnclex");
    for (int k = 0; k < 9; k++)
        __asm__ volatile("fld1");
    check_eq("stack overflow", fsw() & 0x7f, 0x41);
    check_eq("overflow sets C1", fsw() & 0x200, 0x200);
    __asm__ volatile("fninit; fstp %st(0)");
    check_eq("stack underflow", fsw() & 0x27f, 0x41);
    __asm__ volatile("fninit; fld1; fxam");
    check_eq("FXAM of one", fsw() & 0x4700, 0x400);
    __asm__ volatile("fninit; fxam");
    check_eq("FXAM of empty", fsw() & 0x4500, 0x4100);
    check_eq("TOP", (fsw() >> 11) & 7, 0);
    __asm__ volatile("fld1; fld1");
    check_eq("TOP counts down", (fsw() >> 11) & 7, 6);
    __asm__ volatile("fninit");
}

static void x87_faults(void)
{
    u32 at;

    /* an unmasked exception is reported by the next waiting instruction */
    __asm__ volatile("fninit");
    set_fcw(0x37b); /* ZE unmasked */
    TRY("fld1; fdivl %0; fwait; 9:", ::"m"(zero));
    check_eq("#MF at the next waiting instruction", exc.vector, 16);
    at = (u32)(exc.ip - exc_at);
    check("#MF points at it", at > 2);
    check_eq("status has ES and ZE", fsw() & 0x84, 0x84);
    TRY("fnstsw %%ax; fnclex", ::: "rax");
    check_exc("no #MF for those that do not wait", NONE, 0, 0);
    __asm__ volatile("fninit");
    set_fcw(0x37e); /* IE unmasked */
    TRY("fldz; fldz; fdivp; fld1", :::);
    check_eq("invalid operation", exc.vector, 16);
    check_eq("operands are kept", (fsw() >> 11) & 7, 6);
    __asm__ volatile("fnclex; fninit");
}

static void sse(void)
{
    u64 v;

    set_mxcsr(0x1f80);
    __asm__ volatile("movsd %1, %%xmm0; divsd %2, %%xmm0; movsd %%xmm0, %0"
                     : "=m"(v)
                     : "m"(one), "m"(three));
    check_eq("DIVSD", v, 0x3fd5555555555555);
    check_eq("PE is set", mxcsr() & 0x3f, 0x20);
    set_mxcsr(0x7f80);
    __asm__ volatile("movsd %1, %%xmm0; divsd %2, %%xmm0; movsd %%xmm0, %0"
                     : "=m"(v)
                     : "m"(two), "m"(three));
    check_eq("rounding toward zero", v, 0x3fe5555555555555);
    set_mxcsr(0x1f80);
    TRY("ldmxcsr %0", ::"m"((u32){ 0x10000 }));
    check_exc("LDMXCSR reserved bits", 13, 0, 0);
    set_mxcsr(0x1d80); /* ZM off */
    TRY_BETWEEN("movsd %0, %%xmm0", "divsd %1, %%xmm0", "", ::"m"(one), "m"(zero));
    check_exc("#XM", 19, 0, 0);
    check_eq("MXCSR has ZE", mxcsr() & 0x3f, 4);
    __asm__ volatile("movsd %%xmm0, %0" : "=m"(v));
    check_eq("the destination is kept", v, one);
    set_cr4(cr4() & ~0x400ul);
    TRY_BETWEEN("movsd %0, %%xmm0", "divsd %1, %%xmm0", "", ::"m"(one), "m"(zero));
    check_exc("without OSXMMEXCPT it is #UD", 6, 0, 0);
    set_cr4(cr4() | 0x400);
    set_mxcsr(0x1f00); /* IM off */
    TRY("ucomisd %0, %%xmm0", ::"m"(nan_s) : "cc");
    check_exc("#XM by a signalling NaN", 19, 0, 0);
    set_mxcsr(0x1f80);
    set_mxcsr(0x9fc0); /* FTZ and DAZ */
    __asm__ volatile("movsd %1, %%xmm0; addsd %1, %%xmm0; movsd %%xmm0, %0"
                     : "=m"(v)
                     : "m"(tiny));
    check_eq("DAZ", v, 0);
    set_mxcsr(0x1f80);
    u32 r;
    __asm__ volatile("cvttsd2si %1, %0" : "=r"(r) : "m"(pi_d));
    check_eq("CVTTSD2SI", r, 3);
    __asm__ volatile("cvtsd2si %1, %q0" : "=r"(v) : "m"(nan_s));
    check_eq("CVTSD2SI of NaN", v, 1ull << 63);
    /* MMX shares the x87 registers */
    __asm__ volatile("fninit; movq %0, %%mm3" ::"m"(pi_d));
    __asm__ volatile("fnstenv %0" : "=m"(area));
    u16 tags = *(u16 *)(area + 8);
    check_eq("MMX leaves no register empty", tags & tags >> 1 & 0x5555, 0);
    __asm__ volatile("emms; fnstenv %0" : "=m"(area));
    check_eq("EMMS empties them", *(u16 *)(area + 8), 0xffff);
    __asm__ volatile("fninit");
}

/* The environment in its two formats, what is done by storing it and by loading it. */
static void environment(void)
{
    const u16 *e16 = (u16 *)area;
    const u32 *e = (u32 *)area;
    static const u64 denormal[2] = { 1, 0 };

    memset(area, 0xcc, 1024);
    __asm__ volatile("fninit; fldz; fld1; fldl %1; fldt %2; fnstenv %0"
                     : "=m"(area)
                     : "m"(nan_s), "m"(denormal));
    check_eq("FNSTENV control word", (u16)e[0], 0x37f);
    check_eq("FNSTENV status word: TOP", (u16)e[1] >> 11 & 7, 4);
    check_eq("FNSTENV tag word", (u16)e[2], 0x4aff);
    check_eq("FNSTENV fills the upper halves", e[0] >> 16 & e[1] >> 16 & e[2] >> 16, 0xffff);
    check("FNSTENV ends", area[27] != 0xcc && area[28] == 0xcc);
    memset(area, 0xcc, 1024);
    __asm__ volatile("data16 fnstenv %0" : "=m"(area));
    check_eq("FNSTENV, 16 bits: control word", e16[0], 0x37f);
    check_eq("FNSTENV, 16 bits: TOP", e16[1] >> 11 & 7, 4);
    check_eq("FNSTENV, 16 bits: tag word", e16[2], 0x4aff);
    check_eq("FNSTENV, 16 bits ends", area[14], 0xcc);
    memset(area, 0xcc, 1024);
    __asm__ volatile("data16 fnsave %0" : "=m"(area));
    check("FNSAVE, 16 bits: ST3 is zero", !*(u64 *)(area + 44) && !*(u16 *)(area + 52));
    check_eq("FNSAVE, 16 bits: ST2 is one", *(u16 *)(area + 42), 0x3fff);
    check_eq("FNSAVE, 16 bits ends", area[94], 0xcc);
    check_eq("FNSAVE empties the registers", fsw() | (fcw() ^ 0x37f), 0);
    __asm__ volatile("data16 frstor %0" ::"m"(area));
    check_eq("FRSTOR, 16 bits: TOP", fsw() >> 11 & 7, 4);
    __asm__ volatile("fstp %%st; fstp %%st; fstpl %0" : "=m"(*(u64 *)other));
    check_eq("FRSTOR, 16 bits: ST2", *(u64 *)other, one);
    /* a pending exception: stored, masked by that, and pending again after the load */
    __asm__ volatile("fninit");
    set_fcw(0x37b);
    __asm__ volatile("fld1; fdivs %1; fnstenv %0" : "=m"(area) : "m"(zero));
    check_eq("FNSTENV with a pending exception: ES", (u16)e[1] & 0x8084, 0x8084);
    check_eq("FNSTENV masks all", fcw() & 0x3f, 0x3f);
    TRY("fwait", :::);
    check_exc("FNSTENV takes the pending one away", NONE, 0, 0);
    set_cr0(cr0() | 0x20);
    __asm__ volatile("fldenv %0" ::"m"(area));
    TRY("fwait", :::);
    check_exc("FLDENV brings it back", 16, 0, 0);
    TRY("fldenv %0", ::"m"(area));
    check_exc("FLDENV waits for it", 16, 0, 0);
    __asm__ volatile("fnclex; fnstenv %0" : "=m"(area));
    ((u32 *)area)[0] = 0xffff037b; /* divide by zero is not masked ... */
    ((u32 *)area)[1] = 0xffff0004; /* ... and flagged, but the summary is not */
    __asm__ volatile("fldenv %0" ::"m"(area));
    check_eq("FLDENV makes the summary", fsw() & 0x8080, 0x8080);
    __asm__ volatile("fninit");
    TRY("fnstenv (%0)", ::"r"((u8 *)0x4000000000 - 8) : "memory");
    check_eq("FNSTENV out of the page", exc.vector, 14);
    check_eq("FNSTENV that faults masks nothing new", fcw(), 0x37f);
}

static void fxsave(void)
{
    u64 v;

    set_mxcsr(0x1f80);
    __asm__ volatile("fninit; fld1; movq %0, %%xmm5" ::"m"(pi_d));
    memset(area, 0xcc, 1024);
    __asm__ volatile("fxsave64 %0" : "=m"(area));
    check_eq("FXSAVE FCW", *(u16 *)area, 0x37f);
    check_eq("FXSAVE FTW", area[4], 0x80);
    check_eq("FXSAVE MXCSR", *(u32 *)(area + 24), 0x1f80);
    check("FXSAVE MXCSR mask", (*(u32 *)(area + 28) & 0xffbf) == 0xffbf);
    check("FXSAVE ST0", *(u64 *)(area + 32) == 1ull << 63 && *(u16 *)(area + 40) == 0x3fff);
    check_eq("FXSAVE XMM5", *(u64 *)(area + 160 + 80), pi_d);
    check_eq("FXSAVE leaves the last 48 bytes", area[511], 0xcc);
    *(u64 *)(area + 160 + 80) = 0x1234;
    *(u16 *)area = 0x27f;
    __asm__ volatile("fxrstor64 %0" ::"m"(area));
    __asm__ volatile("movq %%xmm5, %0" : "=m"(v));
    check_eq("FXRSTOR XMM5", v, 0x1234);
    check_eq("FXRSTOR FCW", fcw(), 0x27f);
    check_eq("FXRSTOR TOP", (fsw() >> 11) & 7, 7);
    *(u32 *)(area + 24) = 0x80001f80;
    TRY("fxrstor64 %0", ::"m"(area));
    check_exc("FXRSTOR reserved MXCSR bits", 13, 0, 0);
    __asm__ volatile("fninit");
    set_mxcsr(0x1f80);
    __asm__ volatile("fld1; fnsave %0" : "=m"(area));
    check_eq("FNSAVE initialises", fcw(), 0x37f);
    check_eq("FNSAVE tag word", *(u16 *)(area + 8), 0x3fff);
    __asm__ volatile("frstor %0" ::"m"(area));
    check_eq("FRSTOR", (fsw() >> 11) & 7, 7);
    __asm__ volatile("fninit");
}

static u64 xgetbv(u32 n)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(n));
    return (u64)hi << 32 | lo;
}
static void xsetbv(u64 v)
{
    __asm__ volatile("xsetbv" ::"c"(0), "a"((u32)v), "d"((u32)(v >> 32)));
}

static void xsave(void)
{
    u32 r[4];
    u64 v;

    if (!has(1, 0, 2, 26)) {
        skip("XSAVE");
        return;
    }
    TRY("xgetbv", ::"c"(0) : "rax", "rdx");
    check_exc("XGETBV without OSXSAVE", 6, 0, 0);
    set_cr4(cr4() | 1ul << 18);
    check("CPUID shows OSXSAVE", has(1, 0, 2, 27));
    cpuid(0xd, 0, r);
    u64 all = r[0] | (u64)r[3] << 32;
    check_eq("x87 and SSE can be had", all & 3, 3);
    check_eq("XCR0 begins as", xgetbv(0), 1);
    check_eq("size without AVX", r[1], 576);
    TRY("xgetbv", ::"c"(5) : "rax", "rdx");
    check_exc("XGETBV of another", 13, 0, 0);
    if (all & 4) {
        TRY("vpxor %%ymm0, %%ymm0, %%ymm0", :::);
        check_exc("AVX without XCR0", 6, 0, 0);
        xsetbv(7);
        cpuid(0xd, 0, r);
        check_eq("size with AVX", r[1], 832);
        TRY("vpxor %%xmm0, %%xmm0, %%xmm0", :::);
        check_exc("AVX", NONE, 0, 0);
        __asm__ volatile("vpcmpeqd %xmm1, %xmm1, %xmm1; vmovq %xmm1, %xmm1");
        __asm__ volatile("vmovdqu %%ymm1, %0" : "=m"(other));
        check("VEX.128 clears the rest",
              *(u64 *)other == ~0ull && !*(u64 *)(other + 8) && !*(u64 *)(other + 16));
        for (int i = 0; i < 64; i++)
            other[i] = (u8)i;
        __asm__ volatile("vmovdqu %0, %%ymm2" ::"m"(other));
        memset(area, 0, 1024);
        __asm__ volatile("xsave64 %0" : "=m"(area) : "a"(7), "d"(0));
        check_eq("XSAVE XSTATE_BV", *(u64 *)(area + 512) & 4, 4);
        check_eq("XSAVE low half", *(u64 *)(area + 160 + 32), *(u64 *)other);
        check_eq("XSAVE high half", *(u64 *)(area + 576 + 32), *(u64 *)(other + 16));
        *(u64 *)(area + 576 + 32) = 0x99;
        __asm__ volatile("xrstor64 %0" ::"m"(area), "a"(4), "d"(0));
        __asm__ volatile("vmovdqu %%ymm2, %0" : "=m"(other));
        check("XRSTOR of AVX alone", *(u64 *)(other + 16) == 0x99 && other[1] == 1);
        *(u64 *)(area + 512) = 3;
        __asm__ volatile("xrstor64 %0" ::"m"(area), "a"(7), "d"(0));
        __asm__ volatile("vmovdqu %%ymm2, %0" : "=m"(other));
        check_eq("XRSTOR initialises what is not in the image", *(u64 *)(other + 16), 0);
        set_mxcsr(0x3f80);
        __asm__ volatile("vzeroall");
        __asm__ volatile("fxsave64 %0" : "=m"(area));
        check_eq("MXCSR is kept when all vector registers are zero", mxcsr(), 0x3f80);
        check_eq("and saved", *(u32 *)(area + 24), 0x3f80);
        set_mxcsr(0x1f80);
        set_cr0(cr0() | 8);
        TRY("vpxor %%ymm0, %%ymm0, %%ymm0", :::);
        check_exc("AVX with TS", 7, 0, 0);
        __asm__ volatile("clts");
    }
    *(u64 *)(area + 512) = BIT(62);
    TRY("xrstor64 %0", ::"m"(area), "a"(3), "d"(0));
    check_exc("XRSTOR of what is not enabled", 13, 0, 0);
    *(u64 *)(area + 512) = 3;
    *(u64 *)(area + 528) = 1;
    TRY("xrstor64 %0", ::"m"(area), "a"(3), "d"(0));
    check_exc("XRSTOR reserved header", 13, 0, 0);
    *(u64 *)(area + 528) = 0;
    TRY("xsave64 8(%0)", ::"r"(area), "a"(3), "d"(0));
    check_exc("XSAVE unaligned", 13, 0, 0);
    memset(area, 0xff, 576);
    memset(area + 512, 0, 64);
    if (has(0xd, 1, 0, 0)) {
        __asm__ volatile("fninit");
        set_mxcsr(0x1f80);
        __asm__ volatile("xsaveopt64 %0" : "=m"(area) : "a"(3), "d"(0) : "memory");
        check("XSAVEOPT", (*(u64 *)(area + 512) & ~3ull) == 0);
    }
    xsetbv(1);
    if (all & 4) {
        TRY("vpxor %%ymm0, %%ymm0, %%ymm0", :::);
        check_exc("AVX switched off", 6, 0, 0);
    }
    (void)v;
    set_cr4(cr4() & ~(1ul << 18));
}

void main(void)
{
    x87();
    x87_faults();
    sse();
    environment();
    fxsave();
    xsave();
}
