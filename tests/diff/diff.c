// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * diff.c - differential test of the software CPU: random user-level instruction sequences run
 * natively on this host and in the engine, in the same place of the same address space; every
 * register, flag, vector register and byte of memory is compared.
 *
 *   diff [-n instructions] [-s seed] [-i] [-v] [-1]     -n 0: until a difference is found
 *
 * -i: the interpreter alone.  Native side: a signal handler swaps in the start state and jumps;
 * the sequence ends in INT3 or a fault, whose handler takes the state out.  Engine side: the same
 * at CPL 3 under an identity-like page table; every exception enters a stub that writes its
 * vector to a port, which stops the vCPU.
 *
 * Left out: what is not user-level or not repeatable (RDTSC, CPUID, ...), FS/GS, x87 environment
 * stores (instruction pointers differ by nature).
 */
#include <errno.h>
#include <glib.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "vmm/core/dev.h"
#include "vmm/core/vm.h"
#include "vmm/cpu/cpu.h"
#include "vmm/core/quiescent.h"
#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/native.h"
#include "vmm/cpu/x86/state.h"

enum {
    CODE_VA = 0x10000000, CODE_LEN = 0x2000,
    DATA_VA = 0x20000000, DATA_LEN = 0x4000, /* three pages, a hole, one page */
    STACK_VA = 0x30000000, STACK_LEN = 0x2000,
    HOLE_VA = 0x28000000,
};
/* Guest-physical layout. */
enum {
    P_GDT = 0x1000, P_IDT = 0x2000, P_STUBS = 0x3000, P_TSS = 0x4000, P_KSTACK = 0x6000,
    P_PML4 = 0x10000, P_PDPT = 0x11000, P_PD = 0x12000, P_PT_CODE = 0x13000, P_PT_DATA = 0x14000,
    P_PT_STACK = 0x15000, P_PT_LOW = 0x16000,
    P_CODE = 0x20000, P_DATA = 0x30000, P_STACK = 0x40000,
};

struct outcome {
    u64 gpr[16], rip, flags, cr2;
    int vector; /* exception that ended it; 3 = the INT3 at the end */
    u8 fx[512];
    u8 ymmh[256];
    u8 data[DATA_LEN], stack[STACK_LEN];
};

static struct outcome start, native, engine;
static u8 code[CODE_LEN];
static u32 origin; /* where in it a sequence begins: anywhere before the end of the first page */
enum { ENTRY = CODE_LEN - 16 }; /* a jump there, from the second page, which is thereby known */
static bool interp_mode, verbose;
static u64 seed;

static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}
static u32 below(u32 n)
{
    return (u32)((rnd() >> 32) % n);
}

/* ---- native ---------------------------------------------------------------------------------- */

static ucontext_t home;
static u8 home_fp[4096];
static size_t home_fp_size;
static volatile int phase;

static int vector_of(int sig, const siginfo_t *info)
{
    switch (sig) {
    case SIGTRAP:
        return EXC_BP;
    case SIGFPE:
        if (info->si_code == FPE_INTDIV || info->si_code == FPE_INTOVF)
            return EXC_DE;
        return EXC_XM; /* or EXC_MF: told apart by the instruction; compared as one */
    case SIGILL:
        return EXC_UD;
    case SIGBUS:
        return EXC_AC;
    default:
        return info->si_code == SI_KERNEL ? EXC_GP : EXC_PF;
    }
}

static void on_native(int sig, siginfo_t *info, void *ctx)
{
    ucontext_t *uc = ctx;
    greg_t *r = uc->uc_mcontext.gregs;
    static const int order[] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
                                 REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13,
                                 REG_R14, REG_R15 };
    u8 *fp = (u8 *)uc->uc_mcontext.fpregs;
    u32 magic, xsize = 512;

    memcpy(&magic, fp + 464, 4);
    if (magic == 0x46505853) { /* FP_XSTATE_MAGIC1: an XSAVE image of this size */
        memcpy(&xsize, fp + 464 + 16, 4);
    }
    if (sig == SIGUSR1) {
        home_fp_size = xsize;
        memcpy(home_fp, fp, xsize);
        memcpy(home.uc_mcontext.gregs, r, sizeof home.uc_mcontext.gregs);
        for (int k = 0; k < 16; k++)
            r[order[k]] = (greg_t)start.gpr[k];
        r[REG_RIP] = CODE_VA + ENTRY;
        r[REG_EFL] = (greg_t)start.flags;
        /* software-reserved bytes of the image stay as they are */
        memcpy(fp, start.fx, 464);
        if (xsize > 576) {
            u64 bv;
            memcpy(&bv, fp + 512, 8);
            bv |= 7;
            memcpy(fp + 512, &bv, 8);
            memcpy(fp + 576, start.ymmh, 256);
        }
        phase = 1;
        return;
    }
    if (phase != 1) {
        signal(sig, SIG_DFL);
        return;
    }
    phase = 0;
    for (int k = 0; k < 16; k++)
        native.gpr[k] = (u64)r[order[k]];
    native.rip = (u64)r[REG_RIP];
    native.flags = (u64)r[REG_EFL];
    native.vector = vector_of(sig, info);
    native.cr2 = native.vector == EXC_PF ? (u64)info->si_addr : 0;
    memcpy(native.fx, fp, 512);
    memset(native.ymmh, 0, sizeof native.ymmh);
    if (xsize > 576) {
        u64 bv;
        memcpy(&bv, fp + 512, 8);
        if (bv & 4)
            memcpy(native.ymmh, fp + 576, 256);
        if (!(bv & 2))
            memset(native.fx + 160, 0, 256);
        if (!(bv & 1)) { /* x87 in its initial state */
            memset(native.fx, 0, 24);
            native.fx[0] = 0x7f, native.fx[1] = 3;
            memset(native.fx + 32, 0, 128);
        }
    }
    memcpy(r, home.uc_mcontext.gregs, sizeof home.uc_mcontext.gregs);
    memcpy(fp, home_fp, home_fp_size);
}

static void native_map(u64 va, size_t n, int prot)
{
    void *p = mmap((void *)(uintptr_t)va, n, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
                   -1, 0);
    if (p != (void *)(uintptr_t)va) {
        perror("diff: mmap");
        exit(2);
    }
}

static void native_setup(void)
{
    static const int sigs[] = { SIGUSR1, SIGTRAP, SIGSEGV, SIGFPE, SIGILL, SIGBUS };
    static u8 stack[65536];
    stack_t st = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction a = { .sa_sigaction = on_native, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

    native_map(CODE_VA, CODE_LEN, PROT_READ | PROT_WRITE | PROT_EXEC);
    native_map(DATA_VA, DATA_LEN - 0x1000, PROT_READ | PROT_WRITE);
    native_map(STACK_VA, STACK_LEN, PROT_READ | PROT_WRITE);
    sigaltstack(&st, NULL);
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++)
        sigaction(sigs[k], &a, NULL);
}

static void native_signals(void)
{
    static u8 stack[65536];
    stack_t st = { .ss_sp = stack, .ss_size = sizeof stack };
    static const int sigs[] = { SIGUSR1, SIGTRAP, SIGSEGV, SIGFPE, SIGILL, SIGBUS };
    struct sigaction a = { .sa_sigaction = on_native, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

    sigaltstack(&st, NULL);
    for (unsigned k = 0; k < ARRAY_LEN(sigs); k++)
        sigaction(sigs[k], &a, NULL);
}

static void native_run(void)
{
    memcpy((void *)(uintptr_t)CODE_VA, code, CODE_LEN);
    memcpy((void *)(uintptr_t)DATA_VA, start.data, DATA_LEN - 0x1000);
    memcpy((void *)(uintptr_t)STACK_VA, start.stack, STACK_LEN);
    native_signals();
    raise(SIGUSR1);
    memcpy(native.data, (void *)(uintptr_t)DATA_VA, DATA_LEN - 0x1000);
    memcpy(native.stack, (void *)(uintptr_t)STACK_VA, STACK_LEN);
}

/* ---- engine ---------------------------------------------------------------------------------- */

static struct vm *vm;
static struct vcpu *vcpu;
static int stopped_by;
static struct dev port_dev;

static void stop_write(struct dev *d UNUSED, u64 off, u64 val UNUSED, unsigned size UNUSED)
{
    stopped_by = (int)off;
    vcpu_signal(vcpu, VCPU_STOP);
}
static u64 stop_read(struct dev *d UNUSED, u64 off UNUSED, unsigned size UNUSED)
{
    return 0;
}
static const struct region stop_port = { .name = "stop", .len = 32, .min = 1, .max = 1,
                                         .read = stop_read, .write = stop_write };

static void put(gpa at, const void *p, size_t n)
{
    if (!ram_put(vm->ram, at, p, n))
        abort();
}
static void put64(gpa at, u64 v)
{
    put(at, &v, 8);
}

static void kick_none(struct vcpu *c)
{
    cpu_ops_soft.kick(c);
}

static void engine_setup(void)
{
    static struct cpu_config cfg = { .accel = "soft", .model = "max", .smp = 1, .sockets = 1,
                                     .cores = 1, .threads = 1 };
    GError *error = NULL;

    vm = vm_new();
    struct ram_block *b = ram_block_new(vm->ram, "ram", 1 * MiB, &error);
    if (!b)
        goto bad;
    ram_map_at(vm->ram, 0, 1 * MiB, b, 0, false);
    ram_commit(vm->ram);
    static const struct dev_type type = { .name = "diff-stop", .size = sizeof(struct dev) };
    port_dev.type = &type;
    port_dev.vm = vm;
    pthread_mutex_init(&port_dev.lock, NULL);
    bus_map(vm->io, 0, &stop_port, &port_dev, 0);
    if (interp_mode)
        setenv("POSADA_SOFT_JIT", "off", 1);
    if (!cpu_open(vm, &cfg, &error) || !cpu_make_vcpus(vm, &cfg, &error))
        goto bad;
    vcpu = vm->vcpus[0];
    vcpu_set_current(vcpu);
    vm->vcpu_kick = kick_none;
    core_thread_register();

    /* GDT: null, kernel code, kernel data, user data, user code, TSS */
    put64(P_GDT + 8, 0x00af9b000000ffffull);
    put64(P_GDT + 16, 0x00cf93000000ffffull);
    put64(P_GDT + 24, 0x00cff3000000ffffull);
    put64(P_GDT + 32, 0x00affb000000ffffull);
    for (int k = 0; k < 32; k++) {
        u64 at = P_STUBS + 16 * (u64)k;
        u8 stub[4] = { 0xe6, (u8)k, 0xeb, 0xfc }; /* out k, al; jmp back */
        put(at, stub, 4);
        u16 gate[8] = { (u16)at, 8, 0xee00, (u16)(at >> 16), 0, 0, 0, 0 };
        put(P_IDT + 16 * (u64)k, gate, 16);
    }
    put64(P_TSS + 4, P_KSTACK);
    put64(P_PML4, P_PDPT | 7);
    put64(P_PDPT, P_PD | 7);
    put64(P_PD, P_PT_LOW | 7);
    for (u64 k = 0; k < 16; k++)
        put64(P_PT_LOW + 8 * k, k << 12 | 3); /* kernel only */
    put64(P_PD + 8 * (CODE_VA >> 21), P_PT_CODE | 7);
    put64(P_PD + 8 * (DATA_VA >> 21), P_PT_DATA | 7);
    put64(P_PD + 8 * (STACK_VA >> 21), P_PT_STACK | 7);
    for (u64 k = 0; k < CODE_LEN / 4096; k++)
        put64(P_PT_CODE + 8 * k, (P_CODE + k * 4096) | 7);
    for (u64 k = 0; k < DATA_LEN / 4096 - 1; k++)
        put64(P_PT_DATA + 8 * k, (P_DATA + k * 4096) | 7);
    for (u64 k = 0; k < STACK_LEN / 4096; k++)
        put64(P_PT_STACK + 8 * k, (P_STACK + k * 4096) | 7);
    return;
bad:
    fprintf(stderr, "diff: %s\n", error->message);
    exit(2);
}

static void engine_run(void)
{
    static struct x86_state s;
    GError *error = NULL;

    put(P_CODE, code, CODE_LEN);
    put(P_DATA, start.data, DATA_LEN - 0x1000);
    put(P_STACK, start.stack, STACK_LEN);
    x86_reset(&s, true);
    memcpy(s.gpr, start.gpr, sizeof s.gpr);
    s.rip = CODE_VA + ENTRY;
    s.rflags = start.flags;
    s.cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_ET | CR0_MP;
    s.cr3 = P_PML4;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_PGE;
    s.xcr0 = 7;
    s.msr.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    for (int k = 0; k < X86_SEGS; k++)
        s.seg[k] = (struct x86_seg){ .sel = 0x1b, .limit = UINT32_MAX, .attr = 0xc0f3 };
    s.seg[CS] = (struct x86_seg){ .sel = 0x23, .limit = UINT32_MAX, .attr = 0xa0fb };
    s.tr = (struct x86_seg){ .sel = 0x28, .base = P_TSS, .limit = 0x67, .attr = 0x8b };
    s.gdt = (struct x86_dtable){ .base = P_GDT, .limit = 0x3f };
    s.idt = (struct x86_dtable){ .base = P_IDT, .limit = 0x1ff };
    memcpy(s.xsave, start.fx, 464);
    s.xsave[512] = 7;
    memcpy(s.xsave + 576, start.ymmh, 256);
    if (!cpu_ops_soft.set(vcpu, &s, &error)) {
        fprintf(stderr, "diff: %s\n", error->message);
        exit(2);
    }
    stopped_by = -1;
    atomic_fetch_and(&vcpu->events, ~(u32)VCPU_STOP);
    enum cpu_exit why = cpu_ops_soft.run(vcpu);
    cpu_ops_soft.get(vcpu, &s, &error);
    memcpy(engine.gpr, s.gpr, sizeof s.gpr);
    engine.vector = why == CPU_EXIT_TRIPLE ? -2 : stopped_by;
    bool has_error = engine.vector == EXC_GP || engine.vector == EXC_PF || engine.vector == EXC_AC ||
                     engine.vector == EXC_SS || engine.vector == EXC_NP;
    u64 frame[6];
    if (!ram_get(vm->ram, P_KSTACK - (has_error ? 48 : 40), frame, sizeof frame))
        abort();
    u64 *f = frame + has_error;
    engine.rip = f[0];
    engine.flags = f[2];
    engine.gpr[RSP] = f[3];
    engine.cr2 = engine.vector == EXC_PF ? s.cr2 : 0;
    memcpy(engine.fx, s.xsave, 512);
    memcpy(engine.ymmh, s.xsave + 576, 256);
    u64 bv;
    memcpy(&bv, s.xsave + 512, 8);
    if (!(bv & 4))
        memset(engine.ymmh, 0, 256);
    if (!(bv & 2))
        memset(engine.fx + 160, 0, 256);
    if (!(bv & 1)) {
        memset(engine.fx, 0, 24);
        engine.fx[0] = 0x7f, engine.fx[1] = 3;
        memset(engine.fx + 32, 0, 128);
    }
    if (!ram_get(vm->ram, P_DATA, engine.data, DATA_LEN - 0x1000) ||
        !ram_get(vm->ram, P_STACK, engine.stack, STACK_LEN))
        abort();
}

/* ---- sequences ------------------------------------------------------------------------------- */

static u32 pos;
static u32 starts[256], n_starts;
static bool af_undefined; /* some instruction leaves AF undefined: see settle_flags() */

static void c8(u8 b)
{
    if (pos < ENTRY)
        code[pos++] = b;
}
static void c32(u32 v)
{
    for (int k = 0; k < 4; k++)
        c8((u8)(v >> 8 * k));
}

static void mov_imm(u8 reg, u64 v)
{
    starts[n_starts++] = pos;
    if (v <= UINT32_MAX) {
        if (reg >= 8)
            c8(0x41);
        c8(0xb8 | (reg & 7));
        c32((u32)v);
    } else {
        c8(0x48 | (reg >= 8));
        c8(0xb8 | (reg & 7));
        c32((u32)v);
        c32((u32)(v >> 32));
    }
}

static u64 data_address(u32 size)
{
    switch (below(32)) {
    case 0: /* not there */
        return HOLE_VA + below(4096);
    case 1: /* runs out of the last page */
        return DATA_VA + DATA_LEN - 0x1000 - below(size + 1);
    case 2:
    case 3: /* crosses pages */
        return DATA_VA + 0x1000 * (1 + below(2)) - below(size + 1);
    default:
        return DATA_VA + below(DATA_LEN - 0x1000 - 0x100);
    }
}

static bool wanted(const ZydisDecodedInstruction *z, const struct insn *i)
{
    const struct soft_vm *sv = vm->cpu_vm;

    if (!trans_isa_ok(sv, i->isa) || i->enc == ENC_EVEX || i->enc == ENC_3DNOW)
        return false;
    if (z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        return false;
    switch (z->meta.category) {
    case ZYDIS_CATEGORY_SYSTEM: case ZYDIS_CATEGORY_SYSCALL: case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT: case ZYDIS_CATEGORY_IO: case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_COND_BR: case ZYDIS_CATEGORY_UNCOND_BR: case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET: case ZYDIS_CATEGORY_SEGOP: case ZYDIS_CATEGORY_VTX:
    case ZYDIS_CATEGORY_RDRAND: case ZYDIS_CATEGORY_RDSEED: case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT: case ZYDIS_CATEGORY_RDWRFSGS: case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_PUSH:
        if (z->meta.category == ZYDIS_CATEGORY_PUSH && i->mnem == ZYDIS_MNEMONIC_PUSH &&
            i->op[0].kind != OP_SEG)
            return true;
        if (z->meta.category == ZYDIS_CATEGORY_POP && i->mnem == ZYDIS_MNEMONIC_POP &&
            i->op[0].kind == OP_GPR && i->op[0].reg != RSP)
            return true;
        return false;
    default:
        break;
    }
    if (i->mnem == ZYDIS_MNEMONIC_NOP && i->nops && !i->has_mem)
        return false; /* 0F 0D with a register: vendors differ */
    switch (i->mnem) {
    case ZYDIS_MNEMONIC_CPUID: case ZYDIS_MNEMONIC_RDTSC: case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_XGETBV: case ZYDIS_MNEMONIC_FXSAVE: case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXSAVE64: case ZYDIS_MNEMONIC_FXRSTOR64: case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV: case ZYDIS_MNEMONIC_FNSAVE: case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_ENTER: case ZYDIS_MNEMONIC_LEAVE: case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_MASKMOVDQU: case ZYDIS_MNEMONIC_MASKMOVQ: case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_LDMXCSR: case ZYDIS_MNEMONIC_VLDMXCSR: case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDPKRU: case ZYDIS_MNEMONIC_WRPKRU: case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_LAR: case ZYDIS_MNEMONIC_VERR: case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_MOVDIR64B: case ZYDIS_MNEMONIC_UD0: case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: case ZYDIS_MNEMONIC_STD: case ZYDIS_MNEMONIC_CLZERO:
        return false;
    default:
        return true;
    }
}

/*
 * Bit scans and bit tests leave some flags undefined, and processors make something of the address
 * or of the offset there that no other way of doing it gives.  So the one that is defined goes to
 * AL, and a CMP defines them all.  AF, which logic and shifts leave undefined, the translator does
 * not keep: it is not compared after these, and defined before LAHF.
 */
static void settle_flags(u16 mnem)
{
    bool scan;

    switch (mnem) {
    case ZYDIS_MNEMONIC_BSF: case ZYDIS_MNEMONIC_BSR:
        scan = true;
        break;
    case ZYDIS_MNEMONIC_BT: case ZYDIS_MNEMONIC_BTS: case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        scan = false;
        break;
    default:
        return;
    }
    starts[n_starts++] = pos;
    c8(0x0f), c8(scan ? 0x94 : 0x92), c8(0xc0); /* setz al; setb al */
    starts[n_starts++] = pos;
    c8(0x3c), c8(1); /* cmp al, 1 */
}

/* A base register that still has an address in the data: the translator shares checks by it. */
static int kept = -1;
static u64 kept_at;

/* One random instruction at `pos`, with its address registers loaded before it. */
static bool random_insn(void)
{
    u8 b[15];
    u32 n = 0;
    struct insn i;
    ZydisDecoder d;
    ZydisDecodedInstruction z;
    u32 shape = below(20), rex = 0;

    for (u32 k = 0; k < sizeof b; k++)
        b[k] = (u8)rnd();
    if (shape < 16) {
        if (below(5) == 0)
            b[n++] = (const u8[]){ 0x66, 0xf2, 0xf3, 0xf0 }[below(4)];
        if (below(40) == 0)
            b[n++] = 0x67;
        if (below(3))
            b[rex = n++] = 0x40 | below(16);
        if (shape >= 6) {
            b[n++] = 0x0f;
            if (shape >= 13)
                b[n++] = shape == 15 ? 0x3a : 0x38;
        }
        n++; /* random opcode */
    } else {
        b[n++] = 0xc4;
        b[n++] = (u8)(below(8) << 5 | (1 + below(3)));
        n++;
        n++;
    }
    if (below(4)) /* memory operands of moderate displacement are likelier */
        b[n] = (u8)((b[n] & 0x3f) | (below(3) << 6));
    if (kept >= 0 && shape < 16 && below(3) && (kept < 8 || rex)) {
        b[n] = (u8)(0x40 | (b[n] & 0x38) | (kept & 7)); /* [kept + disp8] */
        if (rex)
            b[rex] = (u8)((b[rex] & ~1) | (kept >= 8));
    }
    if (insn_decode(b, 15, MODE_64, &i) != 0)
        return false;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&d, NULL, b, i.len, &z)) || !wanted(&z, &i))
        return false;
    for (u32 k = 0; k < i.nops; k++)
        if (i.op[k].kind == OP_SEG)
            return false;
    if (i.seg_override || (i.prefixes & PFX_REPNE && i.prefixes & PFX_REP))
        return false;
    if (i.prefixes & (PFX_REP | PFX_REPNE) && i.enc == ENC_LEGACY)
        mov_imm(RCX, below(70));
    bool string = z.meta.category == ZYDIS_CATEGORY_STRINGOP;
    if (string) {
        u64 from = data_address(16), to = data_address(16);
        /* Which of two missing pages CMPS reports differs between vendors. */
        if ((i.opcode & 0xfe) == 0xa6)
            *(below(2) ? &from : &to) = DATA_VA + below(0x1000);
        mov_imm(RSI, from);
        mov_imm(RDI, to);
    } else if (i.has_mem && !i.mem_agen) {
        if (i.mem_vsib)
            return false;
        if (i.base == GPR_RIP || (i.base == GPR_NONE && i.index == GPR_NONE))
            return false;
        if (i.base == RSP || i.index == RSP)
            return false;
        u64 at = data_address(i.mem_size ? i.mem_size : 16) & (below(2) ? ~31ull : ~0ull);
        u64 idx = i.index == GPR_NONE ? 0 : below(64);
        bool bt = (i.mnem == ZYDIS_MNEMONIC_BT || i.mnem == ZYDIS_MNEMONIC_BTS ||
                   i.mnem == ZYDIS_MNEMONIC_BTR || i.mnem == ZYDIS_MNEMONIC_BTC) &&
                  i.op[1].kind == OP_GPR;
        if (bt) {
            if (i.op[1].reg == RSP || i.op[1].reg == i.base || i.op[1].reg == i.index)
                return false;
            at = DATA_VA + 0x1800;
        }
        if ((int)i.base == kept && i.index == GPR_NONE && !bt && i.adsize == 8 &&
            kept_at + (u64)i.disp - DATA_VA < DATA_LEN - 0x1100)
            goto loaded;
        if (i.base == i.index)
            at = (at - (u64)i.disp) / (1 + i.scale), idx = at;
        else
            at -= idx * i.scale + (u64)i.disp;
        if (i.base == GPR_NONE) {
            if (i.index == GPR_NONE)
                return false;
            idx = (data_address(16) - (u64)i.disp) / i.scale;
        } else {
            mov_imm(i.base, at);
        }
        if (i.index != GPR_NONE && i.index != i.base)
            mov_imm(i.index, idx);
        if (bt)
            mov_imm(i.op[1].reg, (u64)((s64)below(0x8000) - 0x4000));
        kept = i.base != GPR_NONE && i.base != i.index ? i.base : -1;
        kept_at = at;
    }
loaded:
    for (u32 k = 0; k < i.nops; k++) /* keep the stack pointer sane */
        if (i.op[k].kind == OP_GPR && i.op[k].reg == RSP && i.op[k].access & OP_WRITE)
            return false;
    if (i.mnem == ZYDIS_MNEMONIC_LAHF) {
        starts[n_starts++] = pos;
        c8(0x3c), c8(1); /* cmp al, 1 */
    }
    starts[n_starts++] = pos;
    for (u32 k = 0; k < i.len; k++)
        c8(i.bytes[k]);
    settle_flags(i.mnem);
    if (kept >= 0 && (i.gpr_written >> kept & 1 || string || kept == RAX || kept == RCX))
        kept = -1;
    af_undefined |= i.fl_undefined & FL_AF;
    return true;
}

static u32 make_sequence(u32 len)
{
    u32 made = 0;

    memset(code, 0xcc, sizeof code);
    pos = origin = below(2) ? 0 : 0x1000 - below(200);
    code[ENTRY] = 0xe9;
    memcpy(code + ENTRY + 1, &(s32){ (s32)origin - (ENTRY + 5) }, 4);
    n_starts = 0;
    af_undefined = false;
    kept = -1;
    while (made < len && n_starts < ARRAY_LEN(starts) - 16 && pos - origin < 1500) {
        u32 kind = below(24);

        kept = kind <= 2 ? -1 : kept;
        if (kind == 0) { /* jcc over the next instruction or two */
            starts[n_starts++] = pos;
            c8(0x70 | below(16));
            u32 at = pos;
            c8(0);
            u32 more = 1 + below(2);
            for (u32 k = 0; k < more; k++)
                while (!random_insn())
                    ;
            if (pos - at - 1 > 127)
                code[at] = 0;
            else
                code[at] = (u8)(pos - at - 1);
            made += 1 + more;
            kept = -1;
        } else if (kind == 1 && below(2)) { /* call over nothing, and drop the address */
            starts[n_starts++] = pos;
            c8(0xe8), c32(0);
            starts[n_starts++] = pos;
            c8(0x58 | (const u8[]){ 0, 1, 2, 3, 5, 6, 7 }[below(7)]);
            made += 2;
        } else if (kind == 2 && below(2)) { /* call a RET */
            starts[n_starts++] = pos;
            c8(0xe8), c32(2);
            starts[n_starts++] = pos;
            c8(0xeb), c8(1);
            starts[n_starts++] = pos;
            c8(0xc3);
            made += 3;
        } else if (random_insn()) {
            made++;
        }
    }
    c8(0xcc);
    return n_starts;
}

static void random_start(void)
{
    static const u64 edge[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fffffff, 0x80000000,
                                0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, ~0ull };
    for (int k = 0; k < 16; k++)
        start.gpr[k] = below(3) ? rnd() : edge[below(ARRAY_LEN(edge))];
    start.gpr[RSP] = STACK_VA + STACK_LEN / 2 + 8 * below(64);
    start.flags = FL_1 | FL_IF | (rnd() & FL_STATUS);
    for (u32 k = 0; k < DATA_LEN; k += 8) {
        u64 v = below(4) ? rnd() : 0x3ff0000000000000ull + (rnd() >> 8);
        memcpy(start.data + k, &v, 8);
    }
    for (u32 k = 0; k < STACK_LEN; k += 8) {
        u64 v = rnd();
        memcpy(start.stack + k, &v, 8);
    }
    memset(start.fx, 0, 512);
    start.fx[0] = 0x7f, start.fx[1] = 3; /* FCW */
    u32 mxcsr = 0x1f80 | below(4) << 13 | (below(8) == 0 ? 0x8040 : 0), mask = 0xffff;
    if (below(16) == 0)
        mxcsr &= ~(below(64) << 7);
    memcpy(start.fx + 24, &mxcsr, 4);
    memcpy(start.fx + 28, &mask, 4);
    for (u32 k = 160; k < 416; k += 4) {
        u32 v = below(3) ? (u32)rnd() : below(2) ? 0x3f800000u + below(1 << 23) : 0;
        memcpy(start.fx + k, &v, 4);
    }
    for (u32 k = 0; k < 256; k += 8) {
        u64 v = rnd();
        memcpy(start.ymmh + k, &v, 8);
    }
}

/* ---- comparison ------------------------------------------------------------------------------ */

static int differ(void)
{
    int bad = 0;
#define DIFF(...) (bad++ ? 0 : 0, printf("  " __VA_ARGS__))
    int nv = native.vector == EXC_MF ? EXC_XM : native.vector;
    int ev = engine.vector == EXC_MF ? EXC_XM : engine.vector;

    if (nv != ev)
        DIFF("vector: native %d, engine %d\n", native.vector, engine.vector);
    if (native.rip != engine.rip)
        DIFF("rip: native %#" G_GINT64_MODIFIER "x, engine %#" G_GINT64_MODIFIER "x\n", native.rip, engine.rip);
    if (native.cr2 != engine.cr2)
        DIFF("address: native %#" G_GINT64_MODIFIER "x, engine %#" G_GINT64_MODIFIER "x\n", native.cr2, engine.cr2);
    for (int k = 0; k < 16; k++)
        if (native.gpr[k] != engine.gpr[k])
            DIFF("r%d: native %#" G_GINT64_MODIFIER "x, engine %#" G_GINT64_MODIFIER "x\n", k, native.gpr[k], engine.gpr[k]);
    u64 mask = FL_STATUS | FL_DF;
    if (af_undefined)
        mask &= ~(u64)FL_AF;
    if (native.vector != EXC_BP) /* dead flags at a fault are not kept, see trans.c */
        mask = FL_DF;
    if ((native.flags ^ engine.flags) & mask)
        DIFF("flags: native %#x, engine %#x\n", (u32)(native.flags & mask), (u32)(engine.flags & mask));
    for (int k = 0; k < 16; k++)
        if (memcmp(native.fx + 160 + 16 * k, engine.fx + 160 + 16 * k, 16) ||
            memcmp(native.ymmh + 16 * k, engine.ymmh + 16 * k, 16))
            DIFF("ymm%d differs\n", k);
    if (memcmp(native.fx, engine.fx, 5))
        DIFF("x87 control/status/tag: native %02x%02x %02x%02x %02x, engine %02x%02x %02x%02x %02x\n",
             native.fx[1], native.fx[0], native.fx[3], native.fx[2], native.fx[4], engine.fx[1],
             engine.fx[0], engine.fx[3], engine.fx[2], engine.fx[4]);
    for (int k = 0; k < 8; k++)
        if (memcmp(native.fx + 32 + 16 * k, engine.fx + 32 + 16 * k, 10))
            DIFF("st%d differs\n", k);
    if (memcmp(native.fx + 24, engine.fx + 24, 4))
        DIFF("mxcsr: native %02x%02x, engine %02x%02x\n", native.fx[25], native.fx[24], engine.fx[25], engine.fx[24]);
    for (u32 k = 0; k < DATA_LEN - 0x1000; k++)
        if (native.data[k] != engine.data[k]) {
            DIFF("memory at %#x: native %02x, engine %02x\n", DATA_VA + k, native.data[k], engine.data[k]);
            break;
        }
    for (u32 k = 0; k < STACK_LEN; k++)
        if (native.stack[k] != engine.stack[k]) {
            DIFF("stack at %#x: native %02x, engine %02x\n", STACK_VA + k, native.stack[k], engine.stack[k]);
            break;
        }
    return bad;
}

static void print_sequence(void)
{
    for (u32 at = origin; at < pos;) {
        struct insn i;
        char text[128];

        if (insn_decode(code + at, 15, MODE_64, &i) != 0)
            break;
        insn_format(&i, CODE_VA + at, text, sizeof text);
        printf("    %#x: %s  ;", CODE_VA + at, text);
        for (u32 q = 0; q < i.len; q++)
            printf(" %02x", i.bytes[q]);
        printf("\n");
        at += i.len;
    }
}

int main(int argc, char **argv)
{
    u64 limit = 200000, done = 0, runs = 0, bad = 0, ended[32] = { 0 };
    bool open_end = false, one = false;
    int c;

    seed = 1;
    while ((c = getopt(argc, argv, "n:s:iv1")) != -1) {
        switch (c) {
        case 'n':
            limit = strtoull(optarg, NULL, 0);
            open_end = limit == 0;
            break;
        case 's':
            seed = strtoull(optarg, NULL, 0);
            break;
        case 'i':
            interp_mode = true;
            break;
        case 'v':
            verbose = true;
            break;
        case '1':
            one = true;
            break;
        default:
            return 2;
        }
    }
    seed = seed * 0x9e3779b97f4a7c15ull + 1;
    engine_setup();
    native_setup();
    while ((open_end || done < limit) && bad < 10) {
        u64 this_seed = seed;

        random_start();
        done += make_sequence(1 + below(one ? 1 : 24));
        native_run();
        native_install();
        engine_run();
        runs++;
        if (native.vector >= 0 && native.vector < 32)
            ended[native.vector]++;
        if (differ()) {
            printf("difference in run %llu (state %#llx):\n", (unsigned long long)runs,
                   (unsigned long long)this_seed);
            print_sequence();
            bad++;
        }
        if (verbose && runs % 10000 == 0) {
            printf("%llu instructions, %llu runs\n", (unsigned long long)done, (unsigned long long)runs);
            fflush(stdout);
        }
    }
    printf("%llu instructions in %llu runs, %llu differences; ended by #BP %llu, #PF %llu, #GP %llu, "
           "#DE %llu, #UD %llu, #XM/#MF %llu\n",
           (unsigned long long)done, (unsigned long long)runs, (unsigned long long)bad,
           (unsigned long long)ended[3], (unsigned long long)ended[14], (unsigned long long)ended[13],
           (unsigned long long)ended[0], (unsigned long long)ended[6], (unsigned long long)ended[19]);
    return bad != 0;
}
