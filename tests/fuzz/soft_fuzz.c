// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * soft_fuzz.c - fuzz target of the software CPU: any bytes as code, in every mode.
 *
 *   byte 0     mode (low three bits) and flags: FUZZ_*
 *   byte 1-8   what registers and data are made of
 *   the rest   code
 *
 * The guest may do what it likes, also in ring 0, to its page tables and descriptors; it ends
 * by an exception (whose handler writes its vector to a port), by a triple fault, or after a
 * while. It runs in the translator and then in the interpreter from the same state: if both
 * came to an end by themselves, registers and memory must be the same.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "fuzz.h"
#include "vmm/core/dev.h"
#include "vmm/core/quiescent.h"
#include "vmm/core/vm.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/soft/soft.h"

enum { USER64, KERNEL64, USER32, KERNEL32, REAL, COMPAT, PROT16, MODES };
enum { FUZZ_TF = 8, FUZZ_PAGE_END = 16, FUZZ_DR = 32, FUZZ_NOFPU = 64, FUZZ_STACK_LOW = 128 };
enum {
    GDT = 0x1000,
    IDT64 = 0x2000,
    IDT32 = 0x2800,
    STUBS = 0x3000,
    TSS64 = 0x4000,
    TSS32 = 0x5000,
    KSTACK = 0x7000,
    PML4 = 0x10000,
    PDPT = 0x11000,
    PD = 0x12000,
    PT = 0x13000,
    PAGE_DIR = 0x14000,
    TABLE = 0x15000,
    CODE = 0x20000,
    DATA = 0x30000,
    HOLE = 0x33000,
    STACK = 0x40000,
    RAM = 0x48000,
    STACK_LEN = 0x2000,
    CODE_LEN = 0x2000,
    DATA_LEN = 0x3000,
};
enum {
    K64 = 8,
    KDATA = 16,
    UDATA = 24 | 3,
    U64 = 32 | 3,
    TR64 = 40,
    K32 = 56,
    U32 = 64 | 3,
    K16 = 72,
    TR32 = 80
};
enum { HEAD = 9, VECTORS = 32 };

static struct vm *vm;
static struct vcpu *vcpu;
static struct dev port;
static int ended; /* vector of the exception that ended it; -1: nothing did */
static u8 clean[RAM], image[RAM];
static _Atomic u32 running; /* counts up at each start and each end: odd while the guest runs */

/* ---- the machine ---- */

static void stop_write(struct dev *d UNUSED, u64 off, u64 val UNUSED, unsigned size UNUSED)
{
    ended = (int)off;
    vcpu_signal(vcpu, VCPU_STOP);
}

static u64 stop_read(struct dev *d UNUSED, u64 off UNUSED, unsigned size UNUSED)
{
    return 0;
}

static const struct region stop_port = {
    .name = "stop", .len = VECTORS, .min = 1, .max = 1, .read = stop_read, .write = stop_write
};

static void kick(struct vcpu *c)
{
    cpu_ops_soft.kick(c);
}

/* Ends what does not end by itself. */
static void *watch(void *unused UNUSED)
{
    u32 seen = 0, ticks = 0;

    for (;;) {
        struct timespec t = { 0, 400000 };
        u32 now = atomic_load(&running);

        ticks = now == seen ? ticks + 1 : 0;
        seen = now;
        if ((now & 1) && ticks >= 4)
            vcpu_signal(vcpu, VCPU_STOP);
        nanosleep(&t, NULL);
    }
    return NULL;
}

static void store(u64 at, u64 val, unsigned n)
{
    memcpy(clean + at, &val, n);
}

static void tables(void)
{
    static const u64 gdt[] = {
        0,
        0x00af9b000000ffff,
        0x00cf93000000ffff,
        0x00cff3000000ffff,
        0x00affb000000ffff,
        0x0000890000000067 | (u64)TSS64 << 16,
        0,
        0x00cf9b000000ffff,
        0x00cffb000000ffff,
        0x00009b020000ffff,
        0x0000890000000067 | (u64)TSS32 << 16,
    };

    memcpy(clean + GDT, gdt, sizeof gdt);
    for (u64 k = 0; k < VECTORS; k++) {
        u64 at = STUBS + 16 * k;

        store(at, 0xfceb00e6 | k << 8, 4); /* 1: out k, al; jmp 1b: the same in every mode */
        store(4 * k, at, 4);
        store(IDT64 + 16 * k, at | K64 << 16 | 0xee00ull << 32, 8);
        store(IDT32 + 8 * k, at | K32 << 16 | 0xee00ull << 32, 8);
    }
    store(TSS64 + 4, KSTACK, 8);
    store(TSS32 + 4, KSTACK, 4);
    store(TSS32 + 8, KDATA, 2);
    store(PML4, PDPT | 7, 8);
    store(PDPT, PD | 7, 8);
    store(PD, PT | 7, 8);
    store(PAGE_DIR, TABLE | 7, 4);
    for (u64 k = 0; k < RAM / 4096; k++) {
        u64 at = k << 12;
        bool user = at >= CODE;

        store(PT + 8 * k, at == HOLE ? 0 : at | (user ? 7 : 3), 8);
        store(TABLE + 4 * k, at == HOLE ? 0 : at | (user ? 7 : 3), 4);
    }
}

static void setup(void)
{
    static const struct cpu_config config = { .accel = "soft", .model = "max", .smp = 1 };
    static const struct dev_type type = { .name = "stop", .size = sizeof(struct dev) };
    GError *error = NULL;
    struct ram_block *b;
    pthread_t thread;

    vm = vm_new();
    b = ram_block_new(vm->ram, "ram", RAM, &error);
    g_assert_no_error(error);
    ram_map_at(vm->ram, 0, RAM, b, 0, false);
    ram_commit(vm->ram);
    port.type = &type;
    port.vm = vm;
    pthread_mutex_init(&port.lock, NULL);
    bus_map(vm->io, 0, &stop_port, &port, 0);
    if (!cpu_open(vm, &config, &error) || !cpu_make_vcpus(vm, &config, &error))
        g_error("%s", error->message);
    vcpu = vm->vcpus[0];
    vcpu_set_current(vcpu);
    vm->vcpu_kick = kick;
    core_thread_register();
    tables();
    if (pthread_create(&thread, NULL, watch, NULL))
        abort();
}

/* ---- one run ---- */

static u64 next(u64 *s)
{
    *s ^= *s << 13; /* xorshift64 */
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1d;
}

static struct x86_seg seg(u16 sel, u32 attr)
{
    return (struct x86_seg){ .sel = sel, .limit = UINT32_MAX, .attr = attr };
}

static void state_make(struct x86_state *s, u8 what, u64 seed, u32 entry)
{
    unsigned mode = what & 7, cpl = mode == USER64 || mode == USER32 || mode == COMPAT ? 3 : 0;
    u64 base = mode == REAL ? 0 : DATA, stack = mode == REAL ? 0 : STACK;
    bool lm = mode == USER64 || mode == KERNEL64 || mode == COMPAT;

    x86_reset(s, true);
    for (unsigned k = 0; k < 16; k++)
        s->gpr[k] = next(&seed) & 7 ? base + next(&seed) % (DATA_LEN - 256) : next(&seed);
    if (!lm)
        for (unsigned k = 0; k < 16; k++)
            s->gpr[k] = k < 8 ? (u32)s->gpr[k] : 0;
    s->gpr[RCX] = next(&seed) % 80;
    s->gpr[RSP] = stack + (what & FUZZ_STACK_LOW ? 0x20 : 0x1800);
    s->rip = entry;
    s->rflags = 2 | (next(&seed) & 0x8d5) | (what & FUZZ_TF ? FL_TF : 0);
    s->gdt = (struct x86_dtable){ .base = GDT, .limit = 0x57 };
    memcpy(s->xsave, image + DATA, 6); /* FOP and the pointers after it: none */
    s->xsave[0] |= 0x3f;               /* FCW: exceptions masked */
    s->xsave[3] &= 0x7f;               /* FSW: not busy, none pending */
    s->xsave[2] = 0;
    memcpy(s->xsave + 24, "\x80\x1f", 3);
    memcpy(s->xsave + 160, image + DATA, 256);
    memcpy(s->xsave + 576, image + DATA + 256, 256);
    s->xsave[512] = 7;
    s->xcr0 = 7;
    if (mode == REAL) {
        s->idt = (struct x86_dtable){ .limit = 0x3ff };
        s->seg[CS] =
            (struct x86_seg){ .sel = CODE >> 4, .base = CODE, .limit = 0xffff, .attr = 0x9b };
        for (unsigned k = 0; k < X86_SEGS; k++)
            if (k != CS)
                s->seg[k] = (struct x86_seg){
                    .sel = DATA >> 4, .base = DATA, .limit = 0xffff, .attr = 0x93
                };
        s->seg[SS].sel = STACK >> 4, s->seg[SS].base = STACK;
        s->rip -= CODE;
        s->cr0 = CR0_ET;
        s->cr4 = CR4_OSFXSR;
        return;
    }
    s->cr0 = CR0_PE | CR0_NE | CR0_WP | CR0_ET | CR0_MP;
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_PGE;
    if (what & FUZZ_NOFPU)
        s->cr0 |= CR0_TS;
    for (unsigned k = 0; k < X86_SEGS; k++)
        s->seg[k] = cpl ? seg(UDATA, 0xc0f3) : seg(KDATA, 0xc093);
    s->seg[CS] = mode == USER64     ? seg(U64, 0xa0fb)
                 : mode == KERNEL64 ? seg(K64, 0xa09b)
                 : cpl              ? seg(U32, 0xc0fb)
                                    : seg(K32, 0xc09b);
    if (mode == PROT16) {
        s->seg[CS] =
            (struct x86_seg){ .sel = K16, .base = CODE, .limit = 0xffff, .attr = 0x9b };
        s->rip -= CODE;
    }
    if (lm) {
        s->idt = (struct x86_dtable){ .base = IDT64, .limit = 16 * VECTORS - 1 };
        s->tr = (struct x86_seg){ .sel = TR64, .base = TSS64, .limit = 0x67, .attr = 0x8b };
        s->cr0 |= CR0_PG;
        s->cr3 = PML4;
        s->cr4 |= CR4_PAE;
        s->msr.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    } else {
        s->idt = (struct x86_dtable){ .base = IDT32, .limit = 8 * VECTORS - 1 };
        s->tr = (struct x86_seg){ .sel = TR32, .base = TSS32, .limit = 0x67, .attr = 0x8b };
        if (mode == USER32) {
            s->cr0 |= CR0_PG;
            s->cr3 = PAGE_DIR;
        }
    }
    if (what & FUZZ_DR) {
        s->dr[0] = DATA + (next(&seed) & 0x1ff8);
        s->dr[1] = entry + (next(&seed) & 31);
        s->dr[7] = 0x400 | 2 | 8 | (next(&seed) & 0xd0000);
    }
}

/* How it ended: a vector, VECTORS for a triple fault, -1 for not at all. */
static int run(bool interpreter, const struct x86_state *from, struct x86_state *to)
{
    struct soft_vm *sv = vm->cpu_vm;
    GError *error = NULL;
    u8 page[4096];

    for (u32 at = 0; at < RAM; at += 4096)
        if (!ram_get(vm->ram, at, page, 4096) ||
            (memcmp(page, image + at, 4096) && !ram_put(vm->ram, at, image + at, 4096)))
            abort();
    sv->interp_only = interpreter;
    if (!cpu_ops_soft.set(vcpu, from, &error))
        g_error("%s", error->message);
    ended = -1;
    atomic_fetch_and(&vcpu->events, ~(u32)VCPU_STOP);
    atomic_fetch_add(&running, 1);
    enum cpu_exit why = cpu_ops_soft.run(vcpu);
    atomic_fetch_add(&running, 1);
    if (!cpu_ops_soft.get(vcpu, to, &error))
        abort();
    return why == CPU_EXIT_TRIPLE ? VECTORS : ended;
}

/* Is there a byte pair that may be an instruction whose result is different each time, or that
 * leaves flags undefined which the two compute in different ways? */
static bool comparable(const u8 *p, size_t n)
{
    for (size_t k = 0; k + 1 < n; k++) {
        if (p[k] != 0x0f)
            continue;
        switch (p[k + 1]) {
        case 0x01:          /* RDTSCP, XGETBV */
        case 0x30 ... 0x33: /* WRMSR, RDTSC, RDMSR */
        case 0xa3:
        case 0xab:
        case 0xae: /* FXSAVE, XSAVE: parts that nobody defines */
        case 0xb3:
        case 0xba ... 0xbd: /* BT, BSF and their kin */
        case 0xc7:          /* RDRAND, RDSEED */
            return false;
        default:
            break;
        }
    }
    return true;
}

static const struct x86_state *began; /* of the input at hand */
static const u8 *text;

/* The instructions as they lie there, to look at. */
static void list(void)
{
    enum insn_mode mode = began->msr.efer && began->seg[CS].attr & ATTR_L ? MODE_64
                          : began->seg[CS].attr & ATTR_DB                 ? MODE_32
                                                                          : MODE_16;

    for (unsigned at = 0; at < 100;) {
        struct insn i;
        char line[128];

        if (insn_decode(text + at, 15, mode, &i) != 0)
            break;
        insn_format(&i, began->rip + at, line, sizeof line);
        fprintf(stderr, "  %" G_GINT64_MODIFIER "x: %s\n", began->rip + at, line);
        at += i.len;
    }
}

static void differs(const char *what, unsigned n, u64 a, u64 b)
{
    list();
    fprintf(stderr,
            "soft_fuzz: %s %u: translator %#" G_GINT64_MODIFIER
            "x, interpreter %#" G_GINT64_MODIFIER "x\n",
            what, n, a, b);
    abort();
}

/*
 * What the translator may leave in another way in the memory than the interpreter: a check that
 * several instructions share sets A and D before the first of them; and of the flags in an
 * exception's frame it leaves out what nobody reads (trans.h).
 */
static bool may_differ(const struct x86_state *s, u64 at, u8 translator, u8 interpreter)
{
    u64 off = at - (s->seg[SS].base + s->gpr[RSP]);
    u8 diff = translator ^ interpreter;

    if (at >= PML4 && at < TABLE + 4096 && !(diff & ~(translator & 0x60)))
        return true;
    return ((off == 4 || off == 8 || off == 12 || off == 16 || off == 24) && !(diff & ~0xd5)) ||
           ((off == 5 || off == 9 || off == 13 || off == 17 || off == 25) && !(diff & ~0x08));
}

static void compare(const struct x86_state *a, const struct x86_state *b, const u8 *ram)
{
    for (unsigned k = 0; k < 16; k++)
        if (a->gpr[k] != b->gpr[k])
            differs("register", k, a->gpr[k], b->gpr[k]);
    for (unsigned k = 0; k < X86_SEGS; k++)
        if (a->seg[k].sel != b->seg[k].sel || a->seg[k].base != b->seg[k].base)
            differs("segment", k, a->seg[k].sel, b->seg[k].sel);
    if (a->rip != b->rip)
        differs("rip", 0, a->rip, b->rip);
    if (a->cr2 != b->cr2)
        differs("cr", 2, a->cr2, b->cr2);
    for (u32 at = 0; at < RAM; at += 4096) {
        u8 page[4096];

        if (!ram_get(vm->ram, at, page, 4096))
            abort();
        for (unsigned k = 0; k < 4096; k++)
            if (page[k] != ram[at + k] && !may_differ(b, at + k, ram[at + k], page[k]))
                differs("memory", at + k, ram[at + k], page[k]);
    }
    for (unsigned k = 0; k < 256; k += 8) {
        u64 x, y;

        memcpy(&x, a->xsave + 160 + k, 8);
        memcpy(&y, b->xsave + 160 + k, 8);
        if (x != y)
            differs("xmm", k / 16, x, y);
    }
}

/* A jump to where no address can be: the fault is the jump's for Intel and the interpreter, the
 * target's for AMD and the translator. */
static bool wild_jump(const struct x86_state *s, int vector, const u8 *ram)
{
    u64 rip = 0;

    if (vector == EXC_GP && s->msr.efer && s->gpr[RSP] < RAM - 16)
        memcpy(&rip, ram + s->gpr[RSP] + 8, 8);
    return (u64)((s64)(rip << 16) >> 16) != rip;
}

/* Its page tables, by itself: what it sees of that before it flushes is nobody's promise. */
static bool tables_changed(const u8 *ram)
{
    for (u32 at = PML4; at < TABLE + 4096; at++)
        if ((ram[at] ^ image[at]) & ~0x60)
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t n)
{
    static struct x86_state start, one, two;
    static u8 after[RAM];
    u64 seed;
    u32 entry;

    if (n <= HEAD || (data[0] & 7) >= MODES)
        return 0;
    if (!vm)
        setup();
    n -= HEAD;
    if (n > 1024)
        n = 1024;
    memcpy(&seed, data + 1, 8);
    seed |= 1;
    entry = data[0] & FUZZ_PAGE_END ? CODE + 4096 - 11 : CODE;
    memcpy(image, clean, RAM);
    for (u32 k = 0; k < DATA_LEN; k += 8) {
        u64 v = next(&seed);
        memcpy(image + DATA + k, &v, 8);
    }
    memset(image + CODE, 0xcc, CODE_LEN);
    memcpy(image + entry, data + HEAD, n);
    state_make(&start, data[0], seed, entry);

    began = &start;
    text = data + HEAD;
    int first = run(false, &start, &one);
    if (!ram_get(vm->ram, 0, after, RAM))
        abort();
    int second = run(true, &start, &two);
    if (first < 0 || second < 0 || !comparable(data + HEAD, n) ||
        wild_jump(&one, first, after) || tables_changed(after))
        return 0;
    if (first != second)
        differs("end", 0, (u64)first, (u64)second);
    compare(&one, &two, after);
    return 0;
}

/* ---- seeds for the replay: instructions that can be decoded ---- */

size_t fuzz_seed(unsigned i, u8 *to)
{
    static const u8 flags[] = {
        0, FUZZ_PAGE_END, FUZZ_STACK_LOW, FUZZ_TF, FUZZ_DR, FUZZ_NOFPU
    };
    unsigned kind = i % MODES;
    enum insn_mode mode = kind == USER64 || kind == KERNEL64 ? MODE_64
                          : kind == REAL || kind == PROT16   ? MODE_16
                                                             : MODE_32;
    u64 s = 0x9e3779b97f4a7c15 * (i + 1);
    size_t n = HEAD;

    to[0] = (u8)(kind | flags[i % ARRAY_LEN(flags)]);
    for (unsigned k = 1; k < HEAD; k++)
        to[k] = (u8)(next(&s) >> 32);
    while (n < 90) {
        u8 b[24], *p = b;
        struct insn insn;
        u32 shape = (u32)(next(&s) >> 40) % 16;

        for (unsigned k = 0; k < sizeof b; k++)
            b[k] = (u8)(next(&s) >> 32);
        if (b[20] % 8 == 0)
            *p++ = (const u8[]){ 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64 }[b[21] % 6];
        if (mode == MODE_64 && b[22] & 1)
            *p++ = 0x40 | (b[22] >> 4);
        if (shape >= 9)
            *p++ = 0x0f;
        if (shape == 14)
            *p++ = 0x38;
        if (*p == 0xf4 || (*p & 0xf8) == 0xc8) /* HLT, RET and their kin */
            continue;
        if (shape < 9 && ((*p & 0xf0) == 0x70 || *p == 0xeb || (*p & 0xfc) == 0xe0))
            p[1] &= 15;
        if (insn_decode(b, 15, mode, &insn) != 0)
            continue;
        memcpy(to + n, b, insn.len);
        n += insn.len;
    }
    return n;
}

const unsigned fuzz_seeds = MODES;
