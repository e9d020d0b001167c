// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * prot.c - 32-bit protected mode with segmentation: descriptor checks, limits, expand-down and
 * conforming segments, call and interrupt gates with and without change of ring, LDT, LAR, LSL,
 * VERR, VERW, ARPL, task gates and switches refused or done.
 */
#include "lib/guest.h"

/* The programs' own descriptors. */
enum {
    S1 = 0x40,
    S2 = 0x48,
    S3 = 0x50,
    GATE = 0x58,
    LDT = 0x60,
    TSS2 = 0x68,
    CONF = 0x70,
    STACK16 = 0x78,
    CODE16 = 0x80,
    UGATE = 0x88
};

static u8 area[8192] __attribute__((aligned(4096)));

static void seg(u32 sel, ul base, u32 limit, u32 attr) /* attr: type byte | flags nibble << 8 */
{
    gdt[sel / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xff) << 40 |
                   (u64)(limit >> 16 & 15) << 48 | (u64)(attr >> 8 & 15) << 52 |
                   (u64)(base >> 24) << 56;
}

static void gate(u32 sel, u32 to_sel, ul off, u32 type, u32 params)
{
    gdt[sel / 8] = (off & 0xffff) | (u64)to_sel << 16 | (u64)params << 32 | (u64)type << 40 |
                   (u64)(off >> 16) << 48;
}

#define LOAD_DS(name, sel, vec, err)                                                           \
    do {                                                                                       \
        TRY("movw %w0, %%es", ::"r"(sel));                                                     \
        check_exc(name, vec, err, 0);                                                          \
        __asm__ volatile("movw %w0, %%es" ::"r"(KDS));                                         \
    } while (0)

static void loads(void)
{
    seg(S1, 0, 0xfffff, 0xc93);
    LOAD_DS("data segment", S1, NONE, 0);
    seg(S1, 0, 0xfffff, 0xc13);
    LOAD_DS("not present", S1, 11, S1);
    seg(S1, 0, 0xfffff, 0xc99);
    LOAD_DS("execute-only code as data", S1, 13, S1);
    seg(S1, 0, 0xfffff, 0xc9b);
    LOAD_DS("readable code as data", S1, NONE, 0);
    seg(S1, 0, 0xfff, 0x089);
    LOAD_DS("TSS as data", S1, 13, S1);
    LOAD_DS("beyond the table", 0x7f8, 13, 0x7f8);
    LOAD_DS("beyond the table, RPL dropped", 0x7fb, 13, 0x7f8);
    LOAD_DS("LDT selector without LDT", 0x47, 13, 0x44);
    LOAD_DS("RPL above DPL", KDS | 3, 13, KDS);
    LOAD_DS("null", 0, NONE, 0);
    seg(S1, 0, 0xfffff, 0xc92);
    LOAD_DS("sets A", S1, NONE, 0);
    barrier();
    check_eq("A is set", ((volatile u8 *)&gdt[S1 / 8])[5], 0x93);
    TRY("movw %w0, %%ss", ::"r"(0));
    check_exc("SS null", 13, 0, 0);
    seg(S1, 0, 0xfffff, 0xc91);
    TRY("movw %w0, %%ss", ::"r"(S1));
    check_exc("SS read-only", 13, S1, 0);
    seg(S1, 0, 0xfffff, 0xc13);
    TRY("movw %w0, %%ss", ::"r"(S1));
    check_exc("SS not present", 12, S1, 0);
    TRY("movw %w0, %%ss", ::"r"(0x20));
    check_exc("SS of another ring", 13, 0x20, 0);
    TRY("lldt %w0", ::"r"(S1));
    check_exc("LLDT of data", 13, S1, 0);
    TRY("ltr %w0", ::"r"(S1));
    check_exc("LTR of data", 13, S1, 0);
}

static u32 es_read(u32 sel, u32 off)
{
    u32 v = 0x5a5a5a5a;
    TRY_BETWEEN("movw %w2, %%es", "movl %%es:(%1), %0", "pushl $0x10; popl %%es",
                : "+r"(v)
                : "r"(off), "r"(sel)
                : "memory");
    return v;
}
static void es_write(u32 sel, u32 off, u32 v)
{
    TRY_BETWEEN("movw %w2, %%es", "movl %0, %%es:(%1)", "pushl $0x10; popl %%es", ::"r"(v),
                "r"(off), "r"(sel)
                : "memory");
}

static void limits(void)
{
    for (int i = 0; i < 8192; i++)
        area[i] = (u8)i;
    seg(S1, (ul)area, 0xfff, 0x493);
    check_eq("base", es_read(S1, 4), 0x07060504);
    check_eq("last four bytes", es_read(S1, 0xffc), 0xfffefdfc);
    es_read(S1, 0xffd);
    check_exc("read beyond the limit", 13, 0, 0);
    es_read(S1, 0xffffffff);
    check_exc("read that wraps", 13, 0, 0);
    es_write(S1, 0x1000, 1);
    check_exc("write beyond the limit", 13, 0, 0);
    seg(S1, (ul)area, 1, 0xc93);
    es_read(S1, 0x1ffc);
    check_exc("page granular limit", NONE, 0, 0);
    es_read(S1, 0x1ffd);
    check_exc("beyond a page granular limit", 13, 0, 0);
    seg(S1, (ul)area, 0xfff, 0x491);
    es_write(S1, 0, 1);
    check_exc("write to a read-only segment", 13, 0, 0);
    es_read(S1, 0);
    check_exc("read of a read-only segment", NONE, 0, 0);
    seg(S1, (ul)area, 0xfff, 0x49b);
    es_write(S1, 0, 1);
    check_exc("write to code", 13, 0, 0);
    EXPECT_EXC("write through CS", 13, 0, "movl %0, %%cs:(%1)", ::"r"(1), "r"(area) : "memory");
    EXPECT_EXC("read through CS", NONE, 0, "movl %%cs:(%0), %%eax", ::"r"(area) : "eax");
    seg(S1, (ul)area, 0xfff, 0x497); /* expand down, 32-bit: valid above 0xfff */
    es_read(S1, 0xfff);
    check_exc("expand-down: at the limit", 13, 0, 0);
    es_read(S1, 0x1000);
    check_exc("expand-down: above it", NONE, 0, 0);
    es_read(S1, 0xfffffffd);
    check_exc("expand-down: past the end", 13, 0, 0);
    seg(S1, (ul)area, 0xfff, 0x097); /* 16-bit: to 0xffff */
    es_read(S1, 0xfffc);
    check_exc("expand-down 16: the last", NONE, 0, 0);
    es_read(S1, 0x10000);
    check_exc("expand-down 16: above 64 KiB", 13, 0, 0);
    /* null segment is unusable */
    TRY_BETWEEN("movw %w0, %%fs", "movl %%fs:(%1), %%eax", "", ::"r"(0), "r"(0) : "eax");
    check_exc("read through a null segment", 13, 0, 0);
    /* by EBP and ESP it is #SS */
    u32 sp;
    TRY_BETWEEN("movl $-2, %%ebx", "movl %%ss:(%%ebx), %%eax", "", ::: "eax", "ebx");
    check_exc("SS read that wraps: flat is not checked below 4 GiB", exc_count ? 12 : NONE, 0,
              0);
    seg(S1, 0, 0x1ff, 0xc93);
    TRY_BETWEEN("movw %w1, %%ss", "movl %%ss:0x300000, %%eax", "movw %w2, %%ss",
                : "=&r"(sp)
                : "r"(S1), "r"(KDS)
                : "eax", "memory");
    check_exc("SS read beyond the limit", 12, 0, 0);
}

/* ---- gates ---- */

u32 seen[8];
extern u8 through[], through16[], to_conf[], far_ret[];
__asm__("through: mov %cs, seen\n mov %ss, seen+4\n mov %esp, seen+8\n movl 4(%esp), %eax\n "
        "mov %eax, "
        "seen+12\n movl 8(%esp), %eax\n movl %eax, seen+16\n movl 12(%esp), %eax\n movl %eax, "
        "seen+20\n lret $8\n"
        "to_conf: mov %cs, seen\n lret\n");

__attribute__((naked)) static void u_gate(void)
{
    __asm__("pushl $0x1111; pushl $0x2222; lcall $0x8b, $0; ud2");
}
__attribute__((naked)) static void u_gate_direct(void)
{
    __asm__("lcall $0x08, $0; ud2");
}
__attribute__((naked)) static void u_conf(void)
{
    __asm__("lcall $0x73, $to_conf; ud2");
}
__attribute__((naked)) static void u_int(void)
{
    __asm__("int $0x50; ud2");
}
__attribute__((naked)) static void u_seg(void)
{
    __asm__("movw $0x10, %ax; movw %ax, %es; ud2");
}
__attribute__((naked)) static void u_retf0(void)
{
    __asm__("pushl $8; pushl $0; lret");
}
__attribute__((naked)) static void u_arpl(void)
{
    __asm__("movw $0x40, %bx; movw $3, %cx; arpl %cx, %bx; setz %al; ud2");
}

static void gates(void)
{
    struct {
        u32 off;
        u16 sel;
    } __attribute__((packed)) far = { 0, GATE };

    gate(GATE, KCS, (ul)through, 0x8c, 2);
    __asm__ volatile("pushl $0x3333; pushl $0x4444; lcall *%0" ::"m"(far) : "eax", "memory");
    check_eq("call gate, same ring: CS", seen[0] & 0xffff, KCS);
    check_eq("call gate, same ring: arguments", seen[4], 0x4444);
    gate(GATE, KCS, (ul)through, 0x0c, 2);
    TRY("lcall *%0", ::"m"(far) : "eax");
    check_exc("call gate not present", 11, GATE, 0);
    gate(GATE, KDS, (ul)through, 0x8c, 2);
    TRY("lcall *%0", ::"m"(far) : "eax");
    check_exc("call gate to data", 13, KDS, 0);
    gate(GATE, 0, (ul)through, 0x8c, 2);
    TRY("lcall *%0", ::"m"(far) : "eax");
    check_exc("call gate to null", 13, 0, 0);
    gate(GATE, UCS, (ul)through, 0x8c, 2);
    TRY("lcall *%0", ::"m"(far) : "eax");
    check_exc("call gate to an outer ring", 13, UCS & ~3, 0);

    gate(UGATE, KCS, (ul)through, 0xec, 2);
    seen[0] = 0;
    user_run((void *)u_gate, 0, 2);
    check_eq("call gate to ring 0 comes back", exc.vector, 6);
    check_eq("call gate to ring 0: CS", seen[0] & 0xffff, KCS);
    check_eq("call gate to ring 0: SS", seen[1] & 0xffff, KDS);
    check_eq("call gate to ring 0: stack of the TSS", seen[2], (ul)trap_stack_top - 24);
    check_eq("call gate to ring 0: caller's CS", seen[3] & 0xffff, UCS);
    check_eq("call gate to ring 0: first argument", seen[4], 0x2222);
    check_eq("call gate to ring 0: second argument", seen[5], 0x1111);
    check_eq("RET n frees the outer stack too", exc.sp, (ul)user_stack_top - 64);
    gate(UGATE, KCS, (ul)through, 0x8c, 2);
    user_run((void *)u_gate, 0, 2);
    check_eq("call gate with DPL 0 from ring 3", exc.vector << 16 | exc.error,
             13 << 16 | UGATE);
    user_run((void *)u_gate_direct, 0, 2);
    check_exc("far call to ring 0", 13, KCS, 0);
    seg(CONF, 0, 0xfffff, 0xc9f);
    user_run((void *)u_conf, 0, 2);
    check_eq("conforming code from ring 3", exc.vector, 6);
    check_eq("keeps CPL", seen[0] & 0xffff, CONF | 3);
    user_run((void *)u_seg, 0, 2);
    check_exc("ring 3 loads a kernel segment", 13, KDS, 4);
    user_run((void *)u_retf0, 0, 2);
    check_eq("RETF to an inner ring", exc.vector << 16 | exc.error, 13 << 16 | KCS);
    user_run((void *)u_arpl, 0, 2);
    check_eq("ARPL", exc.bx & 0xffff, 0x43);
    check_eq("ARPL ZF", exc.ax & 0xff, 1);
    user_run((void *)u_int, 0, 2);
    check_exc("INT n with DPL 0 from ring 3", 13, 0x50 * 8 + 2, 0);
    idt[0x50].type = 0xee;
    user_run((void *)u_int, 0, 2);
    check_exc("INT n with DPL 3", 0x50, 0, 2);
    check_eq("frame has SS", exc.ss & 0xffff, UDS);
    idt[0x50].type = 0x8f;
    __asm__ volatile("sti");
    TRY("int $0x50", :::);
    __asm__ volatile("cli");
    check_exc("trap gate", 0x50, 0, 2);
    idt[0x50].type = 0x8e;
}

static void ints(void)
{
    TRY("into", :::);
    check_exc("INTO without OF", NONE, 0, 0);
    TRY_BETWEEN("movb $0x7f, %%al; addb $1, %%al", "into", "", ::: "eax", "cc");
    check_exc("INTO", 4, 0, 1);
    static const s32 bounds[2] = { -5, 10 };
    TRY("boundl %0, %1", ::"r"(10), "m"(bounds[0]));
    check_exc("BOUND within", NONE, 0, 0);
    TRY("boundl %0, (%1)", ::"r"(11), "r"(bounds));
    check_exc("BOUND above", 5, 0, 0);
    TRY("boundl %0, (%1)", ::"r"(-6), "r"(bounds));
    check_exc("BOUND below", 5, 0, 0);
    u8 al = 0x15, ah;
    u32 v = 0x0015, f;
    __asm__ volatile("addb $0x27, %%al; daa; pushf; pop %1" : "+a"(v), "=r"(f)::"cc");
    check_eq("DAA", v & 0xff, 0x42);
    v = 0x42;
    __asm__ volatile("subb $0x15, %%al; das" : "+a"(v)::"cc");
    check_eq("DAS", v & 0xff, 0x27);
    v = 0x0009;
    __asm__ volatile("addb $5, %%al; aaa" : "+a"(v)::"cc");
    check_eq("AAA", v & 0xffff, 0x0104);
    v = 0x0203;
    __asm__ volatile("subb $5, %%al; aas" : "+a"(v)::"cc");
    check_eq("AAS", v & 0xffff, 0x0108);
    v = 63;
    __asm__ volatile("aam" : "+a"(v)::"cc");
    check_eq("AAM", v & 0xffff, 0x0603);
    __asm__ volatile("aad" : "+a"(v)::"cc");
    check_eq("AAD", v & 0xffff, 63);
    TRY("aam $0", ::"a"(5));
    check_exc("AAM by zero", 0, 0, 0);
    (void)al, (void)ah;
    __asm__ volatile("stc; salc_: .byte 0xd6; movzbl %%al, %0" : "=r"(v)::"eax", "cc");
    check_eq("SALC", v, 0xff);
    TRY("lock; incl %0", ::"r"(1) : "cc");
    check_exc("LOCK on a register", 6, 0, 0);
    TRY(".byte 0x0f, 0x05", :::);
    check("SYSCALL in protected mode", exc_count == 0 || exc.vector == 6);
}

static void descriptors(void)
{
    u32 v, ok;

#define LAR(sel)                                                                               \
    __asm__ volatile("movl $0x77, %0; larl %2, %0; setz %b1; movzbl %b1, %1"                   \
                     : "=&r"(v), "=&q"(ok)                                                     \
                     : "r"(sel)                                                                \
                     : "cc")
#define LSL(sel)                                                                               \
    __asm__ volatile("movl $0x77, %0; lsll %2, %0; setz %b1; movzbl %b1, %1"                   \
                     : "=&r"(v), "=&q"(ok)                                                     \
                     : "r"(sel)                                                                \
                     : "cc")
#define VER(rw, sel)                                                                           \
    __asm__ volatile("ver" rw " %w1; setz %b0; movzbl %b0, %0" : "=&q"(ok) : "r"(sel) : "cc")
    LAR(KDS);
    check("LAR of data", ok && (v & 0xf0ff00) == 0xc09300);
    LAR(0);
    check("LAR of null", !ok && v == 0x77);
    LAR(0x30);
    check("LAR of a busy TSS", ok && (v & 0xff00) == 0x8b00);
    gate(GATE, KCS, (ul)through, 0x8c, 2);
    LAR(GATE);
    check_eq("LAR of a call gate", ok, 1);
    LSL(GATE);
    check_eq("LSL of a call gate", ok, 0);
    seg(S1, 0, 0x12345, 0x493);
    LSL(S1);
    check("LSL by bytes", ok && v == 0x12345);
    seg(S1, 0, 0x12345, 0xc93);
    LSL(S1);
    check("LSL by pages", ok && v == 0x12345fff);
    seg(S1, 0, 0x12345, 0xc8e); /* 32-bit interrupt gate type in the GDT */
    LAR(S1);
    check_eq("LAR of an interrupt gate", ok, 0);
    VER("r", KCS);
    check_eq("VERR of readable code", ok, 1);
    VER("w", KCS);
    check_eq("VERW of code", ok, 0);
    VER("w", KDS);
    check_eq("VERW of data", ok, 1);
    VER("w", KDS | 3);
    check_eq("VERW with RPL 3", ok, 0);
    VER("r", 0x7f8);
    check_eq("VERR beyond the table", ok, 0);
    /* LDT */
    static u64 ldt[4];
    ldt[1] = 0x00cf93000000ffff;
    seg(LDT, (ul)ldt, sizeof ldt - 1, 0x082);
    TRY("lldt %w0", ::"r"(LDT));
    check_exc("LLDT", NONE, 0, 0);
    LOAD_DS("segment of the LDT", 0x0c, NONE, 0);
    LOAD_DS("empty entry of the LDT", 0x14, 13, 0x14);
    LOAD_DS("beyond the LDT", 0x24, 13, 0x24);
    __asm__ volatile("sldt %0" : "=r"(v));
    check_eq("SLDT", v & 0xffff, LDT);
    __asm__ volatile("str %0" : "=r"(v));
    check_eq("STR", v & 0xffff, 0x30);
    __asm__ volatile("lldt %w0" ::"r"(0));
    LOAD_DS("null LDT", 0x0c, 13, 0x0c);
    seg(LDT, (ul)ldt, sizeof ldt - 1, 0x002);
    TRY("lldt %w0", ::"r"(LDT));
    check_exc("LLDT not present", 11, LDT, 0);
}

/* With 16-bit operand size a branch that is taken cuts EIP to 16 bits. */
static void cut_branches(void)
{
    static const struct {
        const char *name;
        u8 code[8]; /* behind MOV ECX, 2; the target is the INT3 */
    } t[] = {
        { "LOOP cuts EIP", { 0x66, 0xe2, 0, 0xcc } },
        { "JMP cuts EIP", { 0x66, 0xeb, 0, 0xcc } },
        { "JNZ cuts EIP", { 0x66, 0x75, 0, 0xcc } },
        { "JECXZ that is not taken does not", { 0x66, 0xe3, 0, 0xcc } },
    };
    static u8 code[32] = { 0x83, 0xc9, 2 }; /* or ecx, 2: ZF clear */

    for (u32 k = 0; k < ARRAY_LEN(t); k++) {
        u8 *at = code + 6, *low = (u8 *)((ul)at & 0xffff), was = *low;

        memcpy(code + 3, t[k].code, 8);
        *low = 0xcc;
        __asm__ volatile("xor %%ecx, %%ecx" ::: "ecx");
        TRY_CALL(code, "ecx");
        *low = was;
        check_eq(t[k].name, exc.ip, (ul)(k < 3 ? low : at) + 1);
    }
}

/* 16-bit code and stack inside protected mode. */
extern u8 code16[];
__asm__(".code16\n code16: movl $0x12345678, %eax\n addw $1, %ax\n ljmpl $8, $code16_back\n "
        ".code32");

static void sixteen(void)
{
    u32 v, sp;

    seg(CODE16, (ul)code16, 0xffff, 0x09b);
    __asm__ volatile("ljmp $0x80, $0\n .globl code16_back\n code16_back: movl %%eax, %0"
                     : "=r"(v)::"eax", "memory", "cc");
    check_eq("16-bit code segment", v, 0x12345679);
    seg(STACK16, (ul)area, 0xffff, 0x093); /* B = 0: SP counts */
    __asm__ volatile("movl %%esp, %%ebx; movw %w2, %%ss; movl $0x12340004, %%esp; pushl $0x55; "
                     "movl %%esp, %1; popl %0; movw %w3, %%ss; movl %%ebx, %%esp"
                     : "=&r"(v), "=&r"(sp)
                     : "r"(STACK16), "r"(KDS)
                     : "ebx", "memory");
    check_eq("16-bit stack", v, 0x55);
    check_eq("16-bit stack keeps the upper half", sp, 0x12340000);
    check_eq("16-bit stack: where it lies", *(u32 *)area, 0x55);
}

static void task_switch(void)
{
    gdt[TSS2 / 8] = 0x0000850000300000; /* task gate to TSS 0x30, busy */
    struct {
        u32 off;
        u16 sel;
    } __attribute__((packed)) far = { 0, TSS2 };

    TRY("lcall *%0", ::"m"(far));
    check("task gate to a busy TSS is refused", exc_count == 1 && exc.vector == 13);
    __asm__ volatile("pushf; orl $0x4000, (%%esp); popf" ::: "cc", "memory");
    (void)far;
    __asm__ volatile("pushf; andl $~0x4000, (%%esp); popf" ::: "cc", "memory");
}

void main(void)
{
    loads();
    limits();
    gates();
    ints();
    descriptors();
    cut_branches();
    sixteen();
    task_switch();
}
