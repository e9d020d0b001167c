// SPDX-License-Identifier: GPL-2.0-or-later
/* exc.c - exceptions and software interrupts in 64-bit mode: vector, error code, return
 * address. */
#include "lib/guest.h"

static const u64 noncanon = 0x8000000000000000;
static u64 one = 1;

/* What ring 3 does: one instruction each, then UD2 so that nothing runs on. */
#define USER(name, code)                                                                       \
    __attribute__((naked)) static void name(void)                                              \
    {                                                                                          \
        __asm__(code "\n ud2");                                                                \
    }
USER(u_hlt, "hlt")
USER(u_cli, "cli")
USER(u_sti, "sti")
USER(u_in, "in $0x60, %al")
USER(u_in80, "in $0x80, %al")
USER(u_int3, "int3")
USER(u_int80, "int $0x80")
USER(u_int81, "int $0x81")
USER(u_lgdt, "lgdt (%rsp)")
USER(u_cr0, "mov %cr0, %rax")
USER(u_cr8, "mov %cr8, %rax")
USER(u_dr7, "mov %dr7, %rax")
USER(u_rdmsr, "mov $0x10, %ecx; rdmsr")
USER(u_rdtsc, "rdtsc")
USER(u_clts, "clts")
USER(u_invd, "invd")
USER(u_swapgs, "swapgs")
USER(u_nc, "movabs $0x8000000000000000, %rax; mov (%rax), %rax")
USER(u_ncjmp, "movabs $0x8000000000000000, %rax; jmp *%rax")
USER(u_popf, "push $0x3202; popf; pushf; pop %rax")
USER(u_ac, "pushf; orl $0x40000, (%rsp); popf; lea -64(%rsp), %rdi; mov 1(%rdi), %eax")
USER(u_ac_ok,
     "pushf; orl $0x40000, (%rsp); popf; lea -64(%rsp), %rdi; and $-8, %rdi; mov 4(%rdi), "
     "%eax")
USER(u_ds_kernel, "mov $0x10, %eax; mov %eax, %ds")
USER(u_ds_null, "xor %eax, %eax; mov %eax, %ds")
USER(u_sysret, "sysretq")
USER(u_iret_kernel, "push $0x10; push %rsp; pushf; push $8; push $0; iretq")

static void user(const char *name, void (*fn)(void), u32 vector, u32 error, long off)
{
    user_run((void *)fn, 0, 2);
    check_exc(name, vector, error, off);
}

static void faults(void)
{

    TRY("divl %0", ::"r"(0), "a"(1), "d"(0));
    check_exc("div by zero", 0, 0, 0);
    TRY("divl %0", ::"r"(1), "a"(0), "d"(1));
    check_exc("div overflow", 0, 0, 0);
    TRY("idivl %0", ::"r"(-1), "a"(0x80000000), "d"(-1));
    check_exc("idiv overflow", 0, 0, 0);
    TRY("idivq %0", ::"r"(-1l), "a"(0x8000000000000000), "d"(-1l));
    check_exc("idiv 64 overflow", 0, 0, 0);
    TRY("int3", :::);
    check_exc("int3", 3, 0, 1);
    TRY(".byte 0xcd, 3", :::);
    check_exc("int 3, two bytes", 3, 0, 2);
    TRY(".byte 0xf1", :::);
    check_exc("icebp", 1, 0, 1);
    EXPECT_EXC("ud2", 6, 0, "ud2", :::);
    EXPECT_EXC("into in 64-bit mode", 6, 0, ".byte 0xce", :::);
    EXPECT_EXC("lock on a register", 6, 0, ".byte 0xf0, 0x01, 0xc0", :::);
    EXPECT_EXC("lock on nop", 6, 0, ".byte 0xf0, 0x90", :::);
    EXPECT_EXC("lock on a load", 6, 0, ".byte 0xf0, 0x8b, 0x00", ::"a"(&one));
    EXPECT_EXC("mov to cs", 6, 0, ".byte 0x8e, 0xc8", ::"a"(8));
    EXPECT_EXC("mov cr1", 6, 0, ".byte 0x0f, 0x20, 0xc8", ::: "rax");
    EXPECT_EXC("push es in 64-bit mode", 6, 0, ".byte 0x06", :::);
    EXPECT_EXC("non-canonical load", 13, 0, "mov (%0), %%rax", ::"b"(noncanon) : "rax");
    EXPECT_EXC("non-canonical stack load", 12, 0, "mov (%%rsp, %0), %%rax", ::"b"(noncanon)
               : "rax");
    /* Intel faults at the jump, AMD at its target */
    TRY("jmp *%0", ::"r"(noncanon));
    check_eq("non-canonical jump", exc.vector, 13);
    EXPECT_EXC("ltr busy", 13, 0x30, "ltr %w0", ::"r"(0x30));
    EXPECT_EXC("lldt of a code segment", 13, 8, "lldt %w0", ::"r"(8));
    EXPECT_EXC("ds beyond gdt", 13, 0xfff8, "mov %0, %%ds", ::"r"(0xfff8));
    EXPECT_EXC("ss null at ring 0 rpl 3", 13, 0, "mov %0, %%ss", ::"r"(3));
    EXPECT_EXC("ss of a code segment", 13, 8, "mov %0, %%ss", ::"r"(8));
    EXPECT_EXC("ss of another dpl", 13, 0x20, "mov %0, %%ss", ::"r"(0x20));
    TRY("mov %0, %%ss", ::"r"(0));
    check_exc("ss null in 64-bit mode", NONE, 0, 0);
    __asm__ volatile("mov %0, %%ss" ::"r"(KDS));
    gdt[9] = 0x00cf13000000ffff; /* data, not present */
    EXPECT_EXC("ds not present", 11, 0x48, "mov %0, %%ds", ::"r"(0x48));
    EXPECT_EXC("ss not present", 12, 0x48, "mov %0, %%ss", ::"r"(0x48));
    gdt[9] = 0x00cf92000000ffff; /* data, not accessed: a load sets A */
    __asm__ volatile("mov %0, %%ds; mov %1, %%ds" ::"r"(0x48), "r"(KDS) : "memory");
    check_eq("load sets the accessed bit", gdt[9], 0x00cf93000000ffff);
    EXPECT_EXC("movaps unaligned", 13, 0, "movaps 1(%0), %%xmm0", ::"r"(&idt[0]));
    EXPECT_EXC("cmpxchg16b unaligned", 13, 0, "cmpxchg16b 8(%0)", ::"r"(&idt[0])
               : "rax", "rdx");
    EXPECT_EXC("fxsave unaligned", 13, 0, "fxsave 8(%0)", ::"r"(stack_top - 4096));
    EXPECT_EXC(
        "15 byte limit", 13, 0,
        ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,"
        "0x90",
        ::
            :);
    TRY(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90", ::
            :);
    check_exc("15 bytes are fine", NONE, 0, 0);
}

static void gates(void)
{
    struct gate save = idt[0x50];

    TRY("int $0x50", :::);
    check_exc("int n", 0x50, 0, 2);
    check_eq("int gate clears IF", flags_now() & 0x200, 0);
    idt[0x50].type = 0x0e;
    TRY("int $0x50", :::);
    check_exc("int through a gate not present", 11, 0x50 * 8 + 2, 0);
    idt[0x50] = save;
    idt[0x50].sel = KDS;
    TRY("int $0x50", :::);
    check_exc("int to a data segment", 13, KDS, 0);
    idt[0x50].sel = 0;
    TRY("int $0x50", :::);
    check_exc("int to a null selector", 13, 0, 0);
    idt[0x50].sel = 0x40;
    TRY("int $0x50", :::);
    check_exc("int to a 32-bit segment", 13, 0x40, 0);
    idt[0x50] = save;
    idt[0x50].type = 0x85; /* task gate */
    TRY("int $0x50", :::);
    check_exc("task gate in long mode", 13, 0x50 * 8 + 2, 0);
    idt[0x50] = save;

    /* contributory after contributory: double fault */
    save = idt[13];
    idt[13].type = 0x0e;
    TRY("mov (%0), %%rax", ::"b"(noncanon) : "rax");
    check_exc("gp through a missing gate is a double fault", 8, 0, 0);
    idt[13] = save;
    /* benign first: serial */
    save = idt[3];
    idt[3].type = 0x0e;
    TRY("int3", :::);
    check_exc("int3 through a missing gate", 11, 3 * 8 + 2, 0);
    idt[3] = save;
    idt[6].type = 0x0e;
    TRY("ud2", :::);
    check_exc("ud through a missing gate", 11, 6 * 8 + 2 + 1, 0);
    idt[6].type = 0x8e;

    /* interrupt stack table */
    *(u64 *)(tss_bytes + 36) = (ul)stack_top - 8192;
    idt[0x50].ist = 1;
    TRY("int $0x50", :::);
    check_exc("int on an IST stack", 0x50, 0, 2);
    check("IST keeps the old stack pointer", exc.sp > (ul)stack_top - 8192);
    idt[0x50].ist = 0;
    /* the stack is aligned on the way in, and the frame has the old one */
    u64 sp_in;
    __asm__ volatile(
        "mov %%rsp, %%rbx; sub $3, %%rsp; mov %%rsp, %0; movq $1f, exc_resume; int "
        "$0x50; 1: mov %%rbx, %%rsp"
        : "=&r"(sp_in)::"rbx", "memory");
    check_eq("odd stack pointer comes back", exc.sp, sp_in);
}

/* An exception in the delivery of another (SDM 3, table 6-5). */
static void nested(void)
{
    const ul absent = 0x500000000800, odd = 0x8000000000000000;
    struct gate save[15];

    memcpy(save, idt, sizeof save);
    *(u64 *)(tss_bytes + 36) = absent;               /* IST 1: no page */
    *(u64 *)(tss_bytes + 44) = (ul)stack_top - 8192; /* IST 2: good */
    *(u64 *)(tss_bytes + 52) = odd;                  /* IST 3: no address */
    idt[8].ist = 2;
    idt[14].type = 0x0e;
    TRY("mov (%0), %%rax", ::"b"(absent) : "rax");
    check_exc("page fault through a missing gate is a double fault", 8, 0, 0);
    idt[14] = save[14];
    idt[14].ist = 1;
    TRY("mov 256(%0), %%rax", ::"b"(absent) : "rax");
    check_exc("page fault on a stack that is absent is a double fault", 8, 0, 0);
    check("CR2 is the stack's", exc_cr2 < absent && exc_cr2 >= absent - 48);
    idt[14].ist = 2;
    idt[13].ist = 1;
    TRY("mov (%0), %%rax", ::"b"(odd) : "rax");
    check_exc("gp on a stack that is absent becomes a page fault", 14, 2, 0);
    check("CR2 is the stack's then", exc_cr2 < absent && exc_cr2 >= absent - 48);
    idt[13].ist = 3;
    TRY("mov (%0), %%rax", ::"b"(odd) : "rax");
    check_exc("gp on a stack without address is a double fault", 8, 0, 0);
    idt[13] = save[13];
    idt[0].type = 0x0e;
    TRY("xor %%ecx, %%ecx; div %%ecx", ::: "rcx", "rax", "rdx");
    check_exc("div by zero through a missing gate is a double fault", 8, 0, 2);
    idt[0] = save[0];
    idt[0].ist = 1;
    TRY("xor %%ecx, %%ecx; div %%ecx", ::: "rcx", "rax", "rdx");
    check_exc("div by zero on a stack that is absent becomes a page fault", 14, 2, 2);
    idt[0] = save[0];
    idt[3].ist = 1;
    TRY("int3", :::);
    check_exc("int3 on a stack that is absent is a page fault of it", 14, 2, 0);
    idt[3] = save[3];
    idt[6].ist = 3;
    TRY("ud2", :::);
    check_eq("ud on a stack without address", exc.vector << 8 | exc.error, 12 << 8 | 1);
    idt[6] = save[6];
    struct gate at50 = idt[0x50];
    idt[0x50].ist = 1;
    TRY("int $0x50", :::);
    check_exc("int on a stack that is absent", 14, 2, 0);
    idt[0x50] = at50;
    memcpy(idt, save, sizeof save);
}

static void rf_and_flags(void)
{
    TRY("stc; std; ud2", :::);
    check_eq("flags as pushed", exc.flags & 0x401, 0x401);
    __asm__ volatile("cld");
    TRY("ud2", :::);
    check_eq("fault pushes RF", exc.flags >> 16 & 1, 1);
    TRY("int3", :::);
    check_eq("int3 pushes no RF", exc.flags >> 16 & 1, 0);
    TRY("int $0x50", :::);
    check_eq("int n pushes no RF", exc.flags >> 16 & 1, 0);
    __asm__ volatile("sti; nop");
    TRY("int $0x50", :::);
    check_eq("IF as pushed", exc.flags >> 9 & 1, 1);
    cli();
}

static void ring3(void)
{
    user("user hlt", u_hlt, 13, 0, 0);
    check_eq("user cs", exc.cs, UCS);
    check_eq("user ss", exc.ss, UDS);
    check_eq("user sp", exc.sp, (ul)user_stack_top - 64);
    user("user cli", u_cli, 13, 0, 0);
    user("user sti", u_sti, 13, 0, 0);
    user("user in", u_in, 13, 0, 0);
    tss_set_io(0x80, 0x80, false);
    user("user in, allowed by the bitmap", u_in80, 6, 0, 2);
    tss_set_io(0x80, 0x80, true);
    user_run((void *)u_in, 0, 0x3002);
    check_exc("user in with iopl 3", 6, 0, 2);
    user_run((void *)u_cli, 0, 0x3202);
    check_exc("user cli with iopl 3", 6, 0, 1);
    check_eq("cli with iopl 3 clears IF", exc.flags >> 9 & 1, 0);
    user("user int3 without dpl", u_int3, 13, 3 * 8 + 2, 0);
    idt[3].type = 0xee;
    user("user int3 with dpl", u_int3, 3, 0, 1);
    idt[3].type = 0x8e;
    idt[0x80].type = 0xee;
    user("user int 80", u_int80, 0x80, 0, 2);
    user("user int 81", u_int81, 13, 0x81 * 8 + 2, 0);
    user("user lgdt", u_lgdt, 13, 0, 0);
    user("user mov cr0", u_cr0, 13, 0, 0);
    user("user mov cr8", u_cr8, 13, 0, 0);
    user("user mov dr7", u_dr7, 13, 0, 0);
    user("user rdmsr", u_rdmsr, 13, 0, 5);
    user("user rdtsc", u_rdtsc, 6, 0, 2);
    set_cr4(cr4() | 4);
    user("user rdtsc with TSD", u_rdtsc, 13, 0, 0);
    set_cr4(cr4() & ~4ul);
    user("user clts", u_clts, 13, 0, 0);
    user("user invd", u_invd, 13, 0, 0);
    user("user swapgs", u_swapgs, 13, 0, 0);
    user("user non-canonical", u_nc, 13, 0, 10);
    user_run((void *)u_ncjmp, 0, 2);
    check_eq("user non-canonical jump", exc.vector, 13);
    user("user popf", u_popf, 6, 0, 8);
    check_eq("user popf leaves IF and IOPL", exc.ax & 0x3200, 0);
    user("user loads a kernel segment", u_ds_kernel, 13, 0x10, 5);
    user("user loads a null segment", u_ds_null, 6, 0, 4);
    user("user sysret", u_sysret, 13, 0, 0);
    user("user iret to ring 0", u_iret_kernel, 13, 8, 8);
    set_cr0(cr0() | 0x40000);
    user("user alignment check", u_ac, 17, 0, 14);
    user("user aligned with AC", u_ac_ok, 6, 0, 21);
    set_cr0(cr0() & ~0x40000ul);
    user("user unaligned without AM", u_ac, 6, 0, 17);
}

static void fpu_off(void)
{
    set_cr0(cr0() | 8); /* TS */
    EXPECT_EXC("x87 with TS", 7, 0, "fnop", :::);
    EXPECT_EXC("sse with TS", 7, 0, "pxor %%xmm0, %%xmm0", :::);
    EXPECT_EXC("fwait with TS and MP", 7, 0, "fwait", :::);
    __asm__ volatile("clts");
    TRY("fnop", :::);
    check_exc("x87 after clts", NONE, 0, 0);
    set_cr0(cr0() | 4); /* EM */
    EXPECT_EXC("x87 with EM", 7, 0, "fnop", :::);
    EXPECT_EXC("sse with EM", 6, 0, "pxor %%xmm0, %%xmm0", :::);
    set_cr0(cr0() & ~4ul);
    set_cr4(cr4() & ~0x200ul);
    EXPECT_EXC("sse without OSFXSR", 6, 0, "pxor %%xmm0, %%xmm0", :::);
    set_cr4(cr4() | 0x200);
}

void main(void)
{
    faults();
    gates();
    nested();
    rf_and_flags();
    ring3();
    fpu_off();
}
