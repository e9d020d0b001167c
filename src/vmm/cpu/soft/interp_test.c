// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp_test.c - the interpreter by itself: integer instructions against the host's own, and
 * directed cases of segmentation, paging, exceptions, stacks, strings.
 *
 * Memory map of the bench: code at 0x1000, IDT 0x2000, GDT 0x3000, TSS 0x3800, stack below
 * 0x8000, inner stack below 0xa000, handlers at 0x4000 + 16 * vector, page tables from 0x10000.
 */
#include "base/test.h"
#include "vmm/core/quiescent.h"
#include "vmm/cpu/soft/interp.h"
#include "vmm/cpu/soft/native.h"

enum { RAM_BYTES = 4 * MiB };
enum { CODE = 0x1000, IDT = 0x2000, GDT = 0x3000, TSS = 0x3800, HANDLERS = 0x4000 };
enum { STACK = 0x8000, INNER = 0xa000, DATA = 0xc000, TABLES = 0x10000 };
enum { S_CODE32 = 8, S_DATA = 16, S_CODE3 = 24 | 3, S_DATA3 = 32 | 3, S_CODE64 = 40 };
enum { S_TSS = 48, S_CODE16 = 64, S_SMALL = 72, S_DOWN = 80, S_GATE = 88 | 3 };

struct bench {
    struct vm *vm;
    struct ram_block *ram;
    struct soft_vcpu *v;
};
static struct bench b;
static const struct cpu_config config = { .accel = "soft", .model = "max", .smp = 1 };

static void put(u64 at, u64 val, unsigned n)
{
    memcpy(b.ram->host + at, &val, n);
}

static u64 get(u64 at, unsigned n)
{
    u64 val = 0;

    memcpy(&val, b.ram->host + at, n);
    return val;
}

static void gdt_set(unsigned sel, u32 base, u32 limit, u32 access, u32 flags)
{
    put(GDT + (sel & ~7u),
        (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
            (u64)((limit >> 16) & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56,
        8);
}

static void bench_open(void)
{
    GError *error = NULL;

    if (!b.vm) {
        b.vm = vm_new();
        b.ram = ram_block_new(b.vm->ram, "ram", RAM_BYTES, &error);
        g_assert_no_error(error);
        ram_map_at(b.vm->ram, 0, RAM_BYTES, b.ram, 0, false);
        ram_commit(b.vm->ram);
        cpu_open(b.vm, &config, &error);
        g_assert_no_error(error);
        cpu_make_vcpus(b.vm, &config, &error);
        g_assert_no_error(error);
        b.v = b.vm->vcpus[0]->impl;
        core_thread_register();
        native_thread_enter(b.v);
    }
    memset(b.ram->host, 0, RAM_BYTES);
    x86_reset(&b.v->s, true);
    for (unsigned k = 0; k < 2; k++) /* what was decoded before is void */
        for (u64 i = 0; i < b.v->sv->n_pages; i++)
            b.v->sv->page_gen[i]++;
    mmu_flush_all(b.v);
}

static void seg_set(unsigned seg, u16 sel, u32 attr)
{
    b.v->s.seg[seg] = (struct x86_seg){ .limit = 0xffffffff, .attr = attr, .sel = sel };
}

/* Flat 32-bit protected mode with tables; gates lead to HANDLERS + 16 * vector. */
static void bench_prot(unsigned cpl)
{
    struct x86_state *s;

    bench_open();
    s = &b.v->s;
    gdt_set(S_CODE32, 0, 0xfffff, 0x9b, 0xc);
    gdt_set(S_DATA, 0, 0xfffff, 0x93, 0xc);
    gdt_set(S_CODE3, 0, 0xfffff, 0xfb, 0xc);
    gdt_set(S_DATA3, 0, 0xfffff, 0xf3, 0xc);
    gdt_set(S_CODE64, 0, 0xfffff, 0x9b, 0xa);
    gdt_set(S_TSS, TSS, 0x67, 0x8b, 0);
    gdt_set(S_CODE16, 0, 0xffff, 0x9b, 0);
    gdt_set(S_SMALL, DATA, 0xff, 0xf3, 0x4);
    gdt_set(S_DOWN, DATA, 0xff, 0xf7, 0x4);
    put(GDT + (S_GATE & ~7), 0x4000 | (u64)S_CODE32 << 16 | 2ull << 32 | 0xecull << 40, 8);
    for (unsigned n = 0; n < 256; n++)
        put(IDT + 8 * n, ((HANDLERS + 16 * n) & 0xffff) | S_CODE32 << 16 | 0x8eull << 40, 8);
    put(IDT + 8 * 0x80 + 5, 0xee, 1);
    put(TSS + 4, INNER, 4);
    put(TSS + 8, S_DATA, 2);
    put(TSS + 0x66, 0x68, 2);
    s->gdt = (struct x86_dtable){ .base = GDT, .limit = 0xff };
    s->idt = (struct x86_dtable){ .base = IDT, .limit = 0x7ff };
    s->tr = (struct x86_seg){ .base = TSS, .limit = 0x67, .attr = 0x8b, .sel = S_TSS };
    s->cr0 = CR0_PE | CR0_ET | CR0_NE;
    seg_set(CS, cpl ? S_CODE3 : S_CODE32, cpl ? 0xc0fb : 0xc09b);
    for (unsigned k = ES; k <= GS; k++)
        if (k != CS)
            seg_set(k, cpl ? S_DATA3 : S_DATA, cpl ? 0xc0f3 : 0xc093);
    s->rip = CODE;
    s->rflags = FL_1;
    s->gpr[RSP] = STACK;
    soft_update(b.v);
}

/* 64-bit mode, the first 2 MiB identity-mapped by 4 KiB pages, writable, user. */
static void bench_long(unsigned cpl)
{
    struct x86_state *s;

    bench_prot(0);
    s = &b.v->s;
    put(TABLES, (TABLES + 0x1000) | 7, 8);
    put(TABLES + 0x1000, (TABLES + 0x2000) | 7, 8);
    put(TABLES + 0x2000, (TABLES + 0x3000) | 7, 8);
    for (unsigned n = 0; n < 512; n++)
        put(TABLES + 0x3000 + 8 * n, n << 12 | 7, 8);
    for (unsigned n = 0; n < 128; n++) {
        put(IDT + 16 * n, ((HANDLERS + 16 * n) & 0xffff) | S_CODE64 << 16 | 0x8eull << 40, 8);
        put(IDT + 16 * n + 8, 0, 8);
    }
    put(TSS + 4, INNER, 8);
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->cr3 = TABLES;
    s->msr.efer = EFER_LME | EFER_LMA | EFER_NXE;
    s->cr0 |= CR0_PG | CR0_WP;
    seg_set(CS, cpl ? S_CODE3 : S_CODE64, cpl ? 0xa0fb : 0xa09b);
    seg_set(SS, cpl ? S_DATA3 : S_DATA, cpl ? 0xc0f3 : 0xc093);
    soft_update(b.v);
    mmu_set_cr3(b.v, TABLES);
}

/* One step at RIP; returns the enum soft_stop. */
static int step(void)
{
    const struct insn *i = interp_fetch(b.v);

    return i ? interp_exec(b.v, i) : b.v->x.fetch_stop;
}

static int run_bytes(const char *bytes, unsigned n)
{
    memcpy(b.ram->host + CODE, bytes, n);
    b.v->sv->page_gen[CODE >> 12]++;
    b.v->s.rip = CODE;
    return step();
}
#define RUN(s) run_bytes(s, sizeof(s) - 1)

static int vector_of(u64 rip)
{
    return rip >= HANDLERS && rip < HANDLERS + 16 * 256 ? (int)(rip - HANDLERS) / 16 : -1;
}
#define EXPECT_EXC(vec) EXPECT_EQ(vector_of(b.v->s.rip), vec)

/* ---- against the host
 * -------------------------------------------------------------------------
 */
static u64 seed = 88172645463325252ull;
static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static u64 rnd_value(void)
{
    static const u64 odd[] = { 0,         1,      ~0ull,      0x80,       0x7f,
                               0x8000,    0x7fff, 0x80000000, 0x7fffffff, 1ull << 63,
                               INT64_MAX, 0xff,   0xffff,     0xffffffff };

    switch (rnd() % 3) {
    case 0:
        return odd[rnd() % ARRAY_LEN(odd)];
    case 1:
        return rnd() & 0xff;
    default:
        return rnd();
    }
}

/* Flags that the manual leaves undefined are not compared. */
static u64 undefined_flags(const struct insn *i)
{
    switch (i->mnem) {
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        return FL_SF | FL_ZF | FL_AF | FL_PF;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return FL_STATUS;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
        return FL_STATUS & ~FL_ZF;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return FL_STATUS & ~FL_CF & ~FL_ZF;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
        return FL_AF;
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return FL_AF | FL_OF;
    default:
        return 0;
    }
}

static bool comparable(const struct insn *i)
{
    switch (i->mnem) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
    case ZYDIS_MNEMONIC_CMC:
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        if (i->has_mem && i->op[1].kind != OP_IMM) /* reaches outside of the buffer */
            return false;
        break;
    default:
        if ((i->opcode & 0xf0) == 0x40 && i->map == ZYDIS_OPCODE_MAP_0F)
            break; /* CMOVcc */
        if ((i->opcode & 0xf0) == 0x90 && i->map == ZYDIS_OPCODE_MAP_0F)
            break; /* SETcc */
        return false;
    }
    if (i->mnem == ZYDIS_MNEMONIC_BSWAP && i->op[0].size == 2)
        return false;
    for (unsigned k = 0; k < i->nops; k++)
        if (i->op[k].kind == OP_SEG || i->op[k].kind == OP_CR || i->op[k].kind == OP_DR)
            return false;
    /* Memory by RBX alone, so that the bench knows where. */
    return !i->has_mem || (i->base == RBX && i->index == GPR_NONE && !i->disp &&
                           i->adsize == 8 && i->seg == DS);
}

TEST(integers_as_the_host)
{
    unsigned done = 0, bad = 0;

    bench_long(0);
    for (unsigned n = 0; n < 400000 && bad < 10; n++) {
        u8 code[16];
        struct insn i;
        struct x86_state *s = &b.v->s;
        u64 gpr[16], fl, host_gpr[16], host_fl, mem, host_mem;
        int vec;
        bool mem_op;

        for (unsigned k = 0; k < sizeof code; k++)
            code[k] = (u8)rnd();
        if (rnd() & 1) { /* more two-byte opcodes and prefixes */
            code[0] = (u8[]){ 0x66, 0x48, 0x4c, 0xf0, 0x0f, 0x41 }[rnd() % 6];
            if (rnd() & 1)
                code[1] = 0x0f;
        }
        if (insn_decode(code, 15, MODE_64, &i) || !comparable(&i))
            continue;
        mem_op = i.has_mem && !i.mem_agen;
        for (unsigned k = 0; k < 16; k++)
            gpr[k] = rnd_value();
        if (i.mnem == ZYDIS_MNEMONIC_DIV && rnd() % 4)
            gpr[RDX] = 0;
        gpr[RBX] = DATA + 64;
        mem = rnd_value();
        fl = FL_1 | (rnd() & FL_STATUS);

        memcpy(s->gpr, gpr, sizeof gpr);
        s->rflags = fl;
        host_mem = mem;
        vec = soft_native(b.v, &i, &host_mem);
        memcpy(host_gpr, s->gpr, sizeof gpr);
        host_fl = s->rflags;
        if ((i.mnem == ZYDIS_MNEMONIC_DIV || i.mnem == ZYDIS_MNEMONIC_IDIV) &&
            !memcmp(gpr, host_gpr, sizeof gpr))
            continue; /* #DE, which is tested below */

        memcpy(s->gpr, gpr, sizeof gpr);
        s->rflags = fl;
        put(DATA + 64, mem, 8);
        memcpy(b.ram->host + CODE, code, 16);
        b.v->sv->page_gen[CODE >> 12]++;
        s->rip = CODE;
        if (vec) {
            s->gpr[RSP] = STACK;
            step();
            if (vector_of(s->rip) != vec) {
                char text[96];

                insn_format(&i, CODE, text, sizeof text);
                printf("# %s: host raises %d, here rip %llx\n", text, vec,
                       (unsigned long long)s->rip);
                bad++;
            }
            done++;
            continue;
        }
        step();
        done++;
        u64 undef = undefined_flags(&i);
        bool differ = memcmp(s->gpr, host_gpr, sizeof gpr) || s->rip != CODE + i.len ||
                      ((s->rflags ^ host_fl) & ~undef) ||
                      (mem_op && get(DATA + 64, 8) != host_mem);

        if (differ) {
            char text[96];

            insn_format(&i, CODE, text, sizeof text);
            printf("# %s: flags %llx -> host %llx, here %llx; rip %llx\n", text,
                   (unsigned long long)fl, (unsigned long long)host_fl,
                   (unsigned long long)s->rflags, (unsigned long long)s->rip);
            for (unsigned k = 0; k < 16; k++)
                if (s->gpr[k] != host_gpr[k])
                    printf("#   r%u: %llx -> host %llx, here %llx\n", k,
                           (unsigned long long)gpr[k], (unsigned long long)host_gpr[k],
                           (unsigned long long)s->gpr[k]);
            if (mem_op)
                printf("#   memory %llx -> host %llx, here %llx\n", (unsigned long long)mem,
                       (unsigned long long)host_mem, (unsigned long long)get(DATA + 64, 8));
            bad++;
        }
    }
    EXPECT_EQ(bad, 0);
    EXPECT(done > 5000);
    printf("# %u instructions compared\n", done);
}

/* ---- exceptions
 * -------------------------------------------------------------------------------
 */
TEST(exceptions_push_what_they_should)
{
    bench_long(0);
    b.v->s.gpr[RCX] = 0;
    RUN("\x48\xf7\xf1"); /* div rcx */
    EXPECT_EXC(EXC_DE);
    EXPECT_EQ(b.v->s.gpr[RSP], STACK - 40);
    EXPECT_EQ(get(STACK - 40, 8), CODE);
    EXPECT_EQ(get(STACK - 32, 8), S_CODE64);
    EXPECT_EQ(get(STACK - 24, 8), FL_1 | FL_RF);
    EXPECT_EQ(get(STACK - 16, 8), STACK);

    bench_long(3);
    b.v->s.gpr[RAX] = 0x300000;
    RUN("\x48\x89\x08"); /* mov [rax], rcx: not present */
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(b.v->s.cr2, 0x300000);
    EXPECT_EQ(b.v->cpl, 0);
    EXPECT_EQ(get(INNER - 48, 8), 6); /* W U */
    EXPECT_EQ(get(INNER - 40, 8), CODE);
    EXPECT_EQ(get(INNER - 32, 8), S_CODE3);
    EXPECT_EQ(get(INNER - 16, 8), STACK);
    EXPECT_EQ(get(INNER - 8, 8), S_DATA3);

    bench_long(0);
    RUN("\x0f\x0b");
    EXPECT_EXC(EXC_UD);
    bench_long(0);
    b.v->s.gpr[RAX] = 0x800000000000;
    RUN("\x48\x8b\x08");
    EXPECT_EXC(EXC_GP);
    bench_long(0);
    b.v->s.gpr[RBP] = 0x800000000000;
    RUN("\x48\x8b\x4d\x00");
    EXPECT_EXC(EXC_SS);

    bench_long(0);
    EXPECT_EQ(RUN("\xcc"), SOFT_GO);
    EXPECT_EXC(EXC_BP);
    EXPECT_EQ(get(STACK - 40, 8), CODE + 1);
    EXPECT_EQ(get(STACK - 24, 8), FL_1);
}

TEST(page_faults_name_their_reason)
{
    const u64 pte = TABLES + 0x3000 + 8 * (DATA >> 12);

    bench_long(0);
    put(pte, DATA | 5, 8); /* read-only */
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x89\x08");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 3);

    bench_long(0);
    b.v->s.cr0 &= ~(u64)CR0_WP;
    put(pte, DATA | 5, 8);
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x89\x08");
    EXPECT_EQ(b.v->s.rip, CODE + 3);
    EXPECT_EQ(get(pte, 8), DATA | 5 | 0x60);

    bench_long(0); /* A by a read, D by a write */
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x8b\x08");
    EXPECT_EQ(get(pte, 8), DATA | 7 | 0x20);
    RUN("\x48\x89\x08");
    EXPECT_EQ(get(pte, 8), DATA | 7 | 0x60);

    bench_long(3); /* supervisor page from user mode */
    put(pte, DATA | 3, 8);
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x8b\x08");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 5);

    bench_long(0); /* SMAP, with and without AC */
    b.v->s.cr4 |= CR4_SMAP;
    b.v->s.msr.efer |= EFER_NXE;
    for (unsigned n = 0; n < 512; n++) /* all supervisor but DATA */
        put(TABLES + 0x3000 + 8 * n, n << 12 | (n == DATA >> 12 ? 7 : 3), 8);
    soft_update(b.v);
    mmu_flush_all(b.v);
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x8b\x08");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 1);
    b.v->s.gpr[RSP] = STACK;
    RUN("\x0f\x01\xcb"); /* stac */
    EXPECT_EQ(b.v->s.rip, CODE + 3);
    RUN("\x48\x8b\x08");
    EXPECT_EQ(b.v->s.rip, CODE + 3);

    bench_long(0); /* NX */
    put(TABLES + 0x3000 + 8 * (CODE >> 12), CODE | 7 | BIT(63), 8);
    RUN("\x90");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 0x11);

    bench_long(0); /* reserved bit */
    put(pte, DATA | 7 | BIT(51), 8);
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x8b\x08");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 9);
}

TEST(rmw_changes_nothing_when_it_faults)
{
    bench_long(0);
    put(TABLES + 0x3000 + 8 * (DATA >> 12), DATA | 5, 8);
    put(DATA, 5, 8);
    b.v->s.gpr[RAX] = DATA;
    b.v->s.gpr[RCX] = 7;
    RUN("\x48\x0f\xc1\x08"); /* xadd [rax], rcx */
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(b.v->s.gpr[RCX], 7);
    EXPECT_EQ(get(DATA, 8), 5);

    bench_long(0); /* a write across pages, the second absent: the first stays */
    put(TABLES + 0x3000 + 8 * ((DATA >> 12) + 1), 0, 8);
    b.v->s.gpr[RAX] = DATA + 0xffc;
    b.v->s.gpr[RCX] = ~0ull;
    RUN("\x48\x89\x08");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(b.v->s.cr2, DATA + 0x1000);
    EXPECT_EQ(get(DATA + 0xffc, 4), 0);

    bench_long(0); /* push with RSP in an absent page */
    put(TABLES + 0x3000 + 8 * (DATA >> 12), 0, 8);
    put(TSS + 36, INNER, 8);
    put(IDT + 16 * EXC_PF + 4, 1, 1); /* IST 1 */
    b.v->s.gpr[RSP] = DATA + 0x100;
    RUN("\x50");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(get(INNER - 16, 8), DATA + 0x100);
}

TEST(double_and_triple_faults)
{
    bench_long(0);
    put(IDT + 16 * EXC_GP + 5, 0x0e, 1); /* #GP gate absent: #NP, contributory, so #DF */
    b.v->s.gpr[RAX] = 1ull << 63;
    EXPECT_EQ(RUN("\x48\x8b\x08"), SOFT_GO);
    EXPECT_EXC(EXC_DF);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), 0);
    EXPECT_EQ(get(b.v->s.gpr[RSP] + 8, 8), CODE);

    bench_long(0);
    put(IDT + 16 * EXC_UD + 5, 0x0e, 1); /* #UD is benign: the #NP is delivered */
    EXPECT_EQ(RUN("\x0f\x0b"), SOFT_GO);
    EXPECT_EXC(EXC_NP);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), EXC_UD * 8 + 3);

    bench_long(0);
    b.v->s.idt.limit = 0;
    EXPECT_EQ(RUN("\x0f\x0b"), SOFT_TRIPLE);

    bench_long(0);
    b.v->s.gpr[RSP] = 0x300000; /* stack absent: #PF while delivering #PF */
    EXPECT_EQ(RUN("\x50"), SOFT_TRIPLE);
}

TEST(interrupts_and_iret)
{
    bench_prot(3);
    b.v->s.rflags |= FL_IF;
    EXPECT_EQ(RUN("\xcd\x80"), SOFT_GO); /* int 0x80 */
    EXPECT_EXC(0x80);
    EXPECT_EQ(b.v->cpl, 0);
    EXPECT_EQ(b.v->s.gpr[RSP], INNER - 20);
    EXPECT_EQ(get(INNER - 20, 4), CODE + 2);
    EXPECT_EQ(get(INNER - 16, 4), S_CODE3);
    EXPECT_EQ(get(INNER - 8, 4), STACK);
    EXPECT_EQ(get(INNER - 4, 4), S_DATA3);
    EXPECT(!(b.v->s.rflags & FL_IF));
    b.v->s.seg[DS].attr = 0xc093; /* kernel data: must be dropped on the way out */
    RUN("\xcf");
    EXPECT_EQ(b.v->cpl, 3);
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    EXPECT_EQ(b.v->s.gpr[RSP], STACK);
    EXPECT(b.v->s.rflags & FL_IF);
    EXPECT(b.v->s.seg[DS].attr & ATTR_UNUSABLE);
    EXPECT(!(b.v->s.seg[ES].attr & ATTR_UNUSABLE));

    bench_prot(3);
    RUN("\xcd\x21"); /* gate DPL 0 */
    EXPECT_EXC(EXC_GP);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 4), 0x21 * 8 + 2);
    EXPECT_EQ(get(b.v->s.gpr[RSP] + 4, 4), CODE);

    bench_prot(0);
    b.v->s.rip = CODE;
    EXPECT_EQ(exc_interrupt(b.v, 0x30), SOFT_GO);
    EXPECT_EXC(0x30);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 4), CODE);
}

TEST(v86_goes_in_and_out)
{
    bench_prot(0);
    u32 frame[] = { 0x100, 0x200, FL_1 | FL_VM | FL_IF | FL_IOPL, 0x400, 0x300, 0x501, 0x502,
                    0x503, 0x504 };

    memcpy(b.ram->host + STACK - 64, frame, sizeof frame);
    b.v->s.gpr[RSP] = STACK - 64;
    RUN("\xcf");
    EXPECT_EQ(b.v->cpl, 3);
    EXPECT_EQ(b.v->mode, MODE_16);
    EXPECT_EQ(b.v->s.rip, 0x100);
    EXPECT_EQ(b.v->s.seg[CS].base, 0x2000);
    EXPECT_EQ(b.v->s.seg[SS].sel, 0x300);
    EXPECT_EQ(b.v->s.seg[ES].sel, 0x501);
    EXPECT_EQ(b.v->s.seg[GS].sel, 0x504);
    memcpy(b.ram->host + 0x2100, "\xf4", 1); /* hlt: #GP(0) to ring 0 */
    b.v->sv->page_gen[2]++;
    step();
    EXPECT_EXC(EXC_GP);
    EXPECT_EQ(b.v->cpl, 0);
    EXPECT(!(b.v->s.rflags & FL_VM));
    EXPECT_EQ(get(INNER - 4, 4), 0x504);
    EXPECT_EQ(get(INNER - 24, 4), 0x400);
    EXPECT(b.v->s.seg[DS].attr & ATTR_UNUSABLE);
}

TEST(segments_are_checked)
{
    bench_prot(0);
    b.v->s.gpr[RAX] = S_SMALL;
    RUN("\x8e\xd8"); /* mov ds, ax */
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    EXPECT(!b.v->flat);
    b.v->s.gpr[RCX] = 0xfc;
    RUN("\x8b\x01"); /* mov eax, [ecx] */
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    b.v->s.gpr[RCX] = 0xfd;
    RUN("\x8b\x01");
    EXPECT_EXC(EXC_GP);

    bench_prot(0); /* expand-down: above the limit only */
    b.v->s.gpr[RAX] = S_DOWN;
    RUN("\x8e\xd8");
    b.v->s.gpr[RCX] = 0x100;
    put(DATA + 0x100, 0x1234, 4);
    RUN("\x8b\x01");
    EXPECT_EQ(b.v->s.gpr[RAX], 0x1234);
    b.v->s.gpr[RCX] = 0xff;
    RUN("\x8b\x01");
    EXPECT_EXC(EXC_GP);

    bench_prot(0); /* null, then use */
    b.v->s.gpr[RAX] = 0;
    RUN("\x8e\xd8");
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    RUN("\x8b\x01");
    EXPECT_EXC(EXC_GP);

    bench_prot(0); /* not present */
    gdt_set(S_SMALL, DATA, 0xff, 0x73, 4);
    b.v->s.gpr[RAX] = S_SMALL;
    RUN("\x8e\xd8");
    EXPECT_EXC(EXC_NP);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 4), S_SMALL);

    bench_prot(0); /* SS: null, wrong privilege */
    b.v->s.gpr[RAX] = 0;
    RUN("\x8e\xd0");
    EXPECT_EXC(EXC_GP);
    bench_prot(0);
    b.v->s.gpr[RAX] = S_DATA3;
    RUN("\x8e\xd0");
    EXPECT_EXC(EXC_GP);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 4), S_DATA3 & ~3);
    bench_prot(0);
    b.v->s.gpr[RAX] = S_DATA;
    RUN("\x8e\xd0");
    EXPECT_EQ(b.v->s.int_shadow, 2);
    RUN("\x90");
    EXPECT_EQ(b.v->s.int_shadow, 0);
}

TEST(call_gate_switches_stacks)
{
    bench_prot(3);
    put(STACK, 0x11111111, 4);
    put(STACK + 4, 0x22222222, 4);
    RUN("\x9a\x00\x00\x00\x00\x5b\x00"); /* call far S_GATE:0 */
    EXPECT_EQ(b.v->s.rip, 0x4000);
    EXPECT_EQ(b.v->cpl, 0);
    EXPECT_EQ(b.v->s.gpr[RSP], INNER - 24);
    EXPECT_EQ(get(INNER - 24, 4), CODE + 7);
    EXPECT_EQ(get(INNER - 20, 4), S_CODE3);
    EXPECT_EQ(get(INNER - 16, 4), 0x11111111);
    EXPECT_EQ(get(INNER - 12, 4), 0x22222222);
    EXPECT_EQ(get(INNER - 8, 4), STACK);
    RUN("\xca\x08\x00"); /* retf 8 */
    EXPECT_EQ(b.v->s.rip, CODE + 7);
    EXPECT_EQ(b.v->cpl, 3);
    EXPECT_EQ(b.v->s.gpr[RSP], STACK + 8);
}

TEST(real_mode)
{
    bench_open();
    b.v->s.seg[CS].sel = 0;
    b.v->s.seg[CS].base = 0;
    b.v->s.gpr[RSP] = 0x7000;
    soft_update(b.v);
    EXPECT_EQ(b.v->mode, MODE_16);
    put(0x21 * 4, 0x5000, 2);
    put(0x21 * 4 + 2, 0x100, 2);
    RUN("\xcd\x21");
    EXPECT_EQ(b.v->s.rip, 0x5000);
    EXPECT_EQ(b.v->s.seg[CS].base, 0x1000);
    EXPECT_EQ(b.v->s.gpr[RSP], 0x7000 - 6);
    EXPECT_EQ(get(0x7000 - 6, 2), CODE + 2);
    b.v->s.seg[CS].base = b.v->s.seg[CS].sel = 0;
    RUN("\xcf");
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    EXPECT_EQ(b.v->s.gpr[RSP], 0x7000);
    b.v->s.gpr[RSP] = 0;
    RUN("\x50"); /* push wraps */
    EXPECT_EQ(b.v->s.gpr[RSP], 0xfffe);
    RUN("\xea\x34\x12\x00\xf0");
    EXPECT_EQ(b.v->s.seg[CS].base, 0xf0000);
    EXPECT_EQ(b.v->s.rip, 0x1234);
}

/* ---- strings
 * ----------------------------------------------------------------------------------
 */
TEST(strings_commit_as_they_go)
{
    bench_long(0);
    for (unsigned k = 0; k < 0x3000; k++)
        b.ram->host[0x100000 + k] = (u8)(k * 7);
    b.v->s.gpr[RSI] = 0x100001;
    b.v->s.gpr[RDI] = 0x110002;
    b.v->s.gpr[RCX] = 0x2ff0;
    RUN("\xf3\xa4");
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    EXPECT_EQ(b.v->s.gpr[RCX], 0);
    EXPECT_EQ(b.v->s.gpr[RDI], 0x110002 + 0x2ff0);
    EXPECT(!memcmp(b.ram->host + 0x100001, b.ram->host + 0x110002, 0x2ff0));

    put(TABLES + 0x3000 + 8 * 0x112, 0, 8); /* fault in the middle */
    mmu_flush_all(b.v);
    b.v->s.gpr[RDI] = 0x110ff0;
    b.v->s.gpr[RCX] = 0x1000;
    b.v->s.gpr[RAX] = 0x5a5a5a5a5a5a5a5a;
    RUN("\xf3\x48\xab");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(b.v->s.cr2, 0x112000);
    EXPECT_EQ(b.v->s.gpr[RDI], 0x112000);
    EXPECT_EQ(b.v->s.gpr[RCX], 0x1000 - 0x1010 / 8);
    EXPECT_EQ(get(0x111ff8, 8), 0x5a5a5a5a5a5a5a5a);

    bench_long(0); /* downwards, overlapping */
    put(DATA, 0x0807060504030201, 8);
    b.v->s.gpr[RSI] = DATA + 7;
    b.v->s.gpr[RDI] = DATA + 9;
    b.v->s.gpr[RCX] = 8;
    b.v->s.rflags |= FL_DF;
    RUN("\xf3\xa4");
    EXPECT_EQ(get(DATA + 2, 8), 0x0807060504030201);
    EXPECT_EQ(b.v->s.gpr[RSI], DATA - 1);

    bench_long(0); /* repne scasb finds */
    memcpy(b.ram->host + DATA, "hello world", 12);
    b.v->s.gpr[RDI] = DATA;
    b.v->s.gpr[RCX] = ~0ull;
    b.v->s.gpr[RAX] = 0;
    RUN("\xf2\xae");
    EXPECT_EQ(b.v->s.gpr[RDI], DATA + 12);
    EXPECT_EQ(b.v->s.gpr[RCX], ~0ull - 12);
    EXPECT(b.v->s.rflags & FL_ZF);

    memcpy(b.ram->host + DATA + 0x100, "hello there", 12);
    b.v->s.gpr[RSI] = DATA;
    b.v->s.gpr[RDI] = DATA + 0x100;
    b.v->s.gpr[RCX] = 12;
    RUN("\xf3\xa6"); /* repe cmpsb stops at w/t */
    EXPECT_EQ(b.v->s.gpr[RCX], 12 - 7);
    EXPECT(!(b.v->s.rflags & FL_ZF));
}

/* ---- debug
 * ------------------------------------------------------------------------------------
 */
TEST(single_step_and_breakpoints)
{
    bench_long(0);
    b.v->s.rflags |= FL_TF;
    RUN("\x90");
    EXPECT_EXC(EXC_DB);
    EXPECT(b.v->s.dr[6] & BIT(14));
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), CODE + 1);
    EXPECT(!(b.v->s.rflags & FL_TF));

    bench_long(0); /* write watch on 4 bytes */
    b.v->s.dr[0] = DATA + 8;
    b.v->s.dr[7] = 0x400 | 2 | 0xdull << 16;
    soft_update(b.v);
    mmu_flush_all(b.v);
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x89\x08");
    EXPECT_EQ(b.v->s.rip, CODE + 3);
    RUN("\x48\x89\x48\x08");
    EXPECT_EXC(EXC_DB);
    EXPECT_EQ(b.v->s.dr[6] & 15, 1);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), CODE + 4);

    bench_long(0); /* instruction breakpoint, skipped by RF */
    b.v->s.dr[1] = CODE;
    b.v->s.dr[7] = 0x400 | 8;
    soft_update(b.v);
    RUN("\x90");
    EXPECT_EXC(EXC_DB);
    EXPECT_EQ(get(b.v->s.gpr[RSP], 8), CODE);
    b.v->s.rflags |= FL_RF;
    RUN("\x90");
    EXPECT_EQ(b.v->s.rip, CODE + 1);
    EXPECT(!(b.v->s.rflags & FL_RF));
}

TEST(code_that_changes_is_seen)
{
    bench_long(0);
    memcpy(b.ram->host + CODE, "\xc6\x00\x42\xb0\x11",
           5); /* mov byte [rax], 0x42; mov al, 0x11 */
    b.v->sv->page_gen[CODE >> 12]++;
    b.v->s.rip = CODE;
    b.v->s.gpr[RAX] = CODE + 4;
    for (unsigned k = 0; k < 2; k++) { /* decoded twice, changed between */
        b.v->s.rip = CODE + 3;
        step();
        EXPECT_EQ(b.v->s.gpr[RAX] & 0xff, k ? 0x42 : 0x11);
        b.v->s.gpr[RAX] = CODE + 4;
        b.v->s.rip = CODE;
        step();
    }
}

/* ---- vector state
 * -----------------------------------------------------------------------------
 */
static void vec_on(void)
{
    b.v->s.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    b.v->s.xcr0 = 7 & b.v->cpuid->xcr0;
    soft_update(b.v);
}

TEST(vector_needs_its_switches)
{
    bench_long(0);
    b.v->s.cr0 |= CR0_TS;
    RUN("\x0f\x58\xc1"); /* addps xmm0, xmm1 */
    EXPECT_EXC(EXC_NM);
    bench_long(0);
    b.v->s.cr0 |= CR0_EM;
    RUN("\x0f\x58\xc1");
    EXPECT_EXC(EXC_UD);
    bench_long(0);
    b.v->s.cr0 |= CR0_EM;
    RUN("\xd9\xe8"); /* fld1 */
    EXPECT_EXC(EXC_NM);
    bench_long(0);
    b.v->s.cr4 &= ~(u64)CR4_OSFXSR;
    RUN("\x0f\x58\xc1");
    EXPECT_EXC(EXC_UD);
    bench_long(0);
    RUN("\xc5\xf8\x58\xc1"); /* vaddps without OSXSAVE */
    EXPECT_EXC(EXC_UD);
    bench_long(0);
    b.v->s.gpr[RAX] = DATA + 4;
    RUN("\x0f\x28\x00"); /* movaps, misaligned */
    EXPECT_EXC(EXC_GP);
    bench_long(0);
    vec_on();
    RUN("\x62\xf1\x7c\x48\x58\xc1"); /* vaddps zmm: not announced */
    EXPECT_EXC(EXC_UD);
}

TEST(fxsave_and_xsave_keep_all)
{
    bench_long(0);
    vec_on();
    for (unsigned k = 0; k < 16; k++)
        put(DATA + k, 0x30 + k, 1);
    b.v->s.gpr[RAX] = DATA;
    b.v->s.gpr[RBX] = DATA + 0x100;
    RUN("\x44\x0f\x28\x08"); /* movaps xmm9, [rax] */
    RUN("\xdb\xe3");         /* fninit */
    RUN("\xd9\xe8");         /* fld1 */
    RUN("\x0f\xae\x03");     /* fxsave [rbx] */
    EXPECT_EQ(get(DATA + 0x100 + 160 + 9 * 16, 4), 0x33323130);
    EXPECT_EQ(get(DATA + 0x100, 2), 0x37f);
    EXPECT_EQ(get(DATA + 0x100 + 32 + 8, 2), 0x3fff);
    RUN("\x45\x0f\x57\xc9");     /* xorps xmm9, xmm9 */
    RUN("\xdd\xd8");             /* fstp st0 */
    RUN("\x0f\xae\x0b");         /* fxrstor [rbx] */
    RUN("\x44\x0f\x11\x48\x20"); /* movups [rax+32], xmm9 */
    EXPECT_EQ(get(DATA + 32, 4), 0x33323130);
    RUN("\xdd\x58\x40"); /* fstp qword [rax+64] */
    EXPECT_EQ(get(DATA + 64, 8), 0x3ff0000000000000);

    put(DATA + 0x100 + 24, 0xffff0000, 4);
    RUN("\x0f\xae\x0b"); /* reserved MXCSR bits */
    EXPECT_EXC(EXC_GP);

    if (!(b.v->cpuid->xcr0 & 4))
        return;
    bench_long(0);
    vec_on();
    memset(b.ram->host + DATA, 0x77, 32);
    b.v->s.gpr[RAX] = DATA;
    RUN("\xc5\x7c\x10\x18"); /* vmovups ymm11, [rax] */
    b.v->s.gpr[RBX] = DATA + 0x400;
    b.v->s.gpr[RAX] = 7;
    b.v->s.gpr[RDX] = 0;
    RUN("\x0f\xae\x23"); /* xsave [rbx] */
    EXPECT_EQ(get(DATA + 0x400 + 512, 8) & 6, 6);
    EXPECT_EQ(get(DATA + 0x400 + 576 + 11 * 16, 8), 0x7777777777777777);
    RUN("\xc5\xfc\x77"); /* vzeroall */
    RUN("\x0f\xae\x2b"); /* xrstor [rbx] */
    b.v->s.gpr[RAX] = DATA + 0x800;
    RUN("\xc5\x7c\x11\x18");
    EXPECT_EQ(get(DATA + 0x800 + 24, 8), 0x7777777777777777);
    b.v->s.gpr[RAX] = 7;
    RUN("\x0f\xc7\x23"); /* xsavec [rbx] */
    EXPECT_EQ(get(DATA + 0x400 + 520, 8), BIT(63) | 7);
    RUN("\xc5\xfc\x77");
    RUN("\x0f\xae\x2b");
    b.v->s.gpr[RAX] = DATA + 0x900;
    RUN("\xc5\x7c\x11\x18");
    EXPECT_EQ(get(DATA + 0x900 + 24, 8), 0x7777777777777777);
    put(DATA + 0x400 + 512, 0x80, 8); /* a component that is not there */
    b.v->s.gpr[RAX] = 7;
    RUN("\x0f\xae\x2b");
    EXPECT_EXC(EXC_GP);
}

TEST(masked_and_gathered)
{
    bench_long(0);
    vec_on();
    if (!(b.v->cpuid->xcr0 & 4))
        return;
    /* mask: elements 0 and 2; data beyond in an absent page */
    put(DATA, 0x80000000, 4);
    put(DATA + 8, 0x80000000, 4);
    b.v->s.gpr[RAX] = DATA;
    RUN("\xc5\xf8\x10\x08"); /* vmovups xmm1, [rax] */
    put(TABLES + 0x3000 + 8 * ((DATA >> 12) + 1), 0, 8);
    mmu_flush_all(b.v);
    put(DATA + 0xff4, 0x11111111, 4);
    put(DATA + 0xff8, 0x22222222, 4);
    put(DATA + 0xffc, 0x33333333, 4);
    b.v->s.gpr[RBX] = DATA + 0xff4;
    RUN("\xc4\xe2\x71\x2c\x13"); /* vmaskmovps xmm2, xmm1, [rbx]: element 3 is not read */
    EXPECT_EQ(b.v->s.rip, CODE + 5);
    b.v->s.gpr[RAX] = DATA + 0x40;
    RUN("\xc5\xf8\x11\x10");
    EXPECT_EQ(get(DATA + 0x40, 8), 0x11111111);
    EXPECT_EQ(get(DATA + 0x48, 8), 0x33333333);
    RUN("\xc4\xe2\x71\x2e\x13"); /* vmaskmovps [rbx], xmm1, xmm2 */
    EXPECT_EQ(b.v->s.rip, CODE + 5);

    /* vgatherdps xmm3, [rbx+xmm4*4], xmm1: faults at element 2 after 0 is done */
    u32 idx[] = { 0, 5, 3, 7 };
    memcpy(b.ram->host + DATA + 0x80, idx, sizeof idx);
    b.v->s.gpr[RAX] = DATA + 0x80;
    RUN("\xc5\xf8\x10\x20");
    RUN("\xc4\xe2\x71\x92\x1c\xa3");
    EXPECT_EXC(EXC_PF);
    EXPECT_EQ(b.v->s.cr2, DATA + 0x1000);
    put(TABLES + 0x3000 + 8 * ((DATA >> 12) + 1), (DATA + 0x1000) | 7, 8);
    put(DATA + 0x1000, 0x44444444, 4);
    RUN("\xc4\xe2\x71\x92\x1c\xa3");
    EXPECT_EQ(b.v->s.rip, CODE + 6);
    b.v->s.gpr[RAX] = DATA + 0xc0;
    RUN("\xc5\xf8\x11\x18");
    EXPECT_EQ(get(DATA + 0xc0, 4), 0x11111111);
    EXPECT_EQ(get(DATA + 0xc8, 4), 0x44444444);
    RUN("\xc5\xf8\x11\x08"); /* the mask is zero now */
    EXPECT_EQ(get(DATA + 0xc8, 8), 0);
}

/* ---- system
 * -----------------------------------------------------------------------------------
 */
TEST(fast_system_calls)
{
    struct x86_state *s;

    bench_long(3);
    s = &b.v->s;
    s->msr.efer |= EFER_SCE;
    s->msr.star = (u64)S_CODE32 << 32 | (u64)(S_CODE3 - 16) << 48;
    s->msr.lstar = 0x5000;
    s->msr.sfmask = FL_IF | FL_DF;
    s->rflags |= FL_IF | FL_DF;
    RUN("\x0f\x05");
    EXPECT_EQ(s->rip, 0x5000);
    EXPECT_EQ(b.v->cpl, 0);
    EXPECT_EQ(s->gpr[RCX], CODE + 2);
    EXPECT_EQ(s->gpr[R11], FL_1 | FL_IF | FL_DF);
    EXPECT(!(s->rflags & (FL_IF | FL_DF)));
    RUN("\x48\x0f\x07");
    EXPECT_EQ(s->rip, CODE + 2);
    EXPECT_EQ(b.v->cpl, 3);
    EXPECT_EQ(b.v->mode, MODE_64);
    EXPECT_EQ(s->seg[CS].sel, (S_CODE3 - 16 + 16) | 3);
    EXPECT(s->rflags & FL_IF);

    bench_prot(3);
    s->msr.sysenter_cs = S_CODE32;
    s->msr.sysenter_eip = 0x5000;
    s->msr.sysenter_esp = 0x6000;
    RUN("\x0f\x34");
    EXPECT_EQ(s->rip, 0x5000);
    EXPECT_EQ(s->gpr[RSP], 0x6000);
    EXPECT_EQ(b.v->cpl, 0);
    s->gpr[RDX] = CODE;
    s->gpr[RCX] = STACK;
    RUN("\x0f\x35");
    EXPECT_EQ(b.v->cpl, 3);
    EXPECT_EQ(s->rip, CODE);
}

TEST(ports_by_bitmap)
{
    bench_prot(3);
    b.v->s.tr.limit = 0x68 + 0x100;
    memset(b.ram->host + TSS + 0x68, 0xff, 0x100);
    put(TSS + 0x68 + 0x60 / 8, 0xfe, 1); /* port 0x60 alone */
    RUN("\xe4\x60");
    EXPECT_EQ(b.v->s.rip, CODE + 2);
    EXPECT_EQ(b.v->s.gpr[RAX] & 0xff, 0xff);
    RUN("\xe5\x60"); /* four ports */
    EXPECT_EXC(EXC_GP);
    bench_prot(3);
    RUN("\xfa"); /* cli */
    EXPECT_EXC(EXC_GP);
}

TEST(two_levels_and_pae)
{
    bench_prot(0);
    /* 4 MiB page at 0, writable; 4 KiB pages from 4 MiB on, the first is DATA */
    put(TABLES, 0x83, 4);
    put(TABLES + 4, (TABLES + 0x1000) | 3, 4);
    put(TABLES + 0x1000, DATA | 3, 4);
    b.v->s.cr3 = TABLES;
    b.v->s.cr4 = CR4_PSE;
    b.v->s.cr0 |= CR0_PG;
    soft_update(b.v);
    mmu_set_cr3(b.v, TABLES);
    put(DATA + 8, 0xcafe, 4);
    b.v->s.gpr[RAX] = 0x400008;
    RUN("\x8b\x08");
    EXPECT_EQ(b.v->s.gpr[RCX], 0xcafe);
    put(TABLES + 0x1000, (DATA + 0x1000) | 3, 4);
    put(DATA + 0x1008, 0xbeef, 4);
    RUN("\x8b\x08"); /* still the old one: no INVLPG yet */
    EXPECT_EQ(b.v->s.gpr[RCX], 0xcafe);
    RUN("\x0f\x01\x38"); /* invlpg [eax] */
    RUN("\x8b\x08");
    EXPECT_EQ(b.v->s.gpr[RCX], 0xbeef);

    bench_prot(0);
    put(TABLES, (TABLES + 0x1000) | 1, 8);
    put(TABLES + 0x1000, 0x83, 8);
    put(TABLES + 0x1008, 0x200083, 8);
    put(TABLES + 24, (TABLES + 0x2000) | 1, 8); /* 3 GiB: 2 MiB page at 0 */
    put(TABLES + 0x2000, 0x83, 8);
    b.v->s.cr4 = CR4_PAE;
    b.v->s.cr0 |= CR0_PG;
    soft_update(b.v);
    mmu_set_cr3(b.v, TABLES);
    put(DATA, 0x1234, 4);
    b.v->s.gpr[RAX] = 0xc0000000 + DATA;
    RUN("\x8b\x08");
    EXPECT_EQ(b.v->s.gpr[RCX], 0x1234);
    b.v->s.gpr[RAX] = 0x40000000;
    RUN("\x8b\x08");
    EXPECT_EXC(EXC_PF);
}

TEST(pcids_keep_their_entries)
{
    struct x86_state *s;

    bench_long(0);
    s = &b.v->s;
    s->gpr[RAX] = s->cr4 | CR4_PCIDE;
    RUN("\x0f\x22\xe0"); /* mov cr4, rax */
    EXPECT_EQ(s->rip, CODE + 3);
    put(DATA, 1, 8);
    put(DATA + 0x1000, 2, 8);
    s->gpr[RBX] = DATA;
    s->gpr[RAX] = TABLES | 1;
    RUN("\x0f\x22\xd8"); /* mov cr3, rax */
    RUN("\x48\x8b\x0b");
    EXPECT_EQ(s->gpr[RCX], 1);
    put(TABLES + 0x3000 + 8 * (DATA >> 12), (DATA + 0x1000) | 7, 8);
    s->gpr[RAX] = TABLES | 2;
    RUN("\x0f\x22\xd8");
    RUN("\x48\x8b\x0b");
    EXPECT_EQ(s->gpr[RCX], 2);
    s->gpr[RAX] = TABLES | 1 | BIT(63);
    RUN("\x0f\x22\xd8");
    RUN("\x48\x8b\x0b");
    EXPECT_EQ(s->gpr[RCX], 1); /* what PCID 1 had */
    put(DATA + 0x100, 1, 8);
    put(DATA + 0x108, 0, 8);
    s->gpr[RAX] = 1;
    s->gpr[RDX] = DATA + 0x1100; /* through the identity of the next page */
    put(DATA + 0x1100, 1, 8);
    RUN("\x66\x0f\x38\x82\x02"); /* invpcid rax, [rdx] */
    EXPECT_EQ(s->rip, CODE + 5);
    RUN("\x48\x8b\x0b");
    EXPECT_EQ(s->gpr[RCX], 2);
}

TEST(control_registers_refuse_nonsense)
{
    bench_long(0);
    b.v->s.gpr[RAX] = CR0_PG;
    RUN("\x0f\x22\xc0"); /* PG without PE */
    EXPECT_EXC(EXC_GP);
    bench_long(0);
    b.v->s.gpr[RAX] = 0; /* CR4 without PAE in long mode */
    RUN("\x0f\x22\xe0");
    EXPECT_EXC(EXC_GP);
    bench_long(0);
    b.v->s.gpr[RAX] = b.v->s.cr4 | 1u << 31;
    RUN("\x0f\x22\xe0");
    EXPECT_EXC(EXC_GP);
    bench_long(3);
    RUN("\x0f\x20\xc0");
    EXPECT_EXC(EXC_GP);
    bench_long(0);
    b.v->s.gpr[RAX] = 0x10;
    RUN("\x44\x0f\x22\xc0"); /* CR8 > 15 */
    EXPECT_EXC(EXC_GP);
}

TEST(descriptors_are_looked_at)
{
    bench_prot(3);
    b.v->s.gpr[RAX] = S_DATA3;
    RUN("\x0f\x02\xc8"); /* lar ecx, eax */
    EXPECT(b.v->s.rflags & FL_ZF);
    EXPECT_EQ(b.v->s.gpr[RCX], 0xcff300);
    RUN("\x0f\x03\xc8"); /* lsl */
    EXPECT_EQ(b.v->s.gpr[RCX], 0xffffffff);
    b.v->s.gpr[RAX] = S_DATA; /* DPL 0 from ring 3 */
    b.v->s.gpr[RCX] = 7;
    RUN("\x0f\x02\xc8");
    EXPECT(!(b.v->s.rflags & FL_ZF));
    EXPECT_EQ(b.v->s.gpr[RCX], 7);
    b.v->s.gpr[RAX] = S_CODE3;
    RUN("\x0f\x00\xe0"); /* verr */
    EXPECT(b.v->s.rflags & FL_ZF);
    RUN("\x0f\x00\xe8"); /* verw: code */
    EXPECT(!(b.v->s.rflags & FL_ZF));
    b.v->s.gpr[RAX] = 0x10;
    b.v->s.gpr[RCX] = 3;
    RUN("\x63\xc8"); /* arpl ax, cx */
    EXPECT_EQ(b.v->s.gpr[RAX], 0x13);
}

TEST(modes_change)
{
    /* 16-bit protected to long and back is what every boot does; here compatibility mode. */
    bench_long(0);
    put(DATA, 0x5000, 4);
    put(DATA + 4, S_CODE32, 2);
    b.v->s.gpr[RAX] = DATA;
    RUN("\xff\x28"); /* jmp far [rax] */
    EXPECT_EQ(b.v->mode, MODE_32);
    EXPECT_EQ(b.v->s.rip, 0x5000);
    RUN("\xea\x00\x10\x00\x00\x28\x00"); /* jmp far S_CODE64:0x1000 */
    EXPECT_EQ(b.v->mode, MODE_64);
    EXPECT_EQ(b.v->s.rip, 0x1000);
}

TEST(msrs)
{
    u64 val;

    bench_long(0);
    EXPECT(!soft_rdmsr(b.v, 0x12345, &val));
    EXPECT(soft_wrmsr(b.v, 0xc0000101, 0x1234567890));
    EXPECT_EQ(b.v->s.seg[GS].base, 0x1234567890);
    EXPECT(!soft_wrmsr(b.v, 0xc0000101, 1ull << 63));
    EXPECT(!soft_wrmsr(b.v, 0xc0000080, 0)); /* LME off while paging */
    EXPECT(!soft_wrmsr(b.v, 0x277, 2));
    EXPECT(soft_wrmsr(b.v, 0x277, 0x0007040600070406));
    EXPECT(soft_wrmsr(b.v, 0x10, 1000));
    EXPECT(soft_rdmsr(b.v, 0x10, &val));
    EXPECT(val >= 1000 && val < 1000000000);
}

TEST(the_dirty_log_misses_nothing)
{
    unsigned long map[RAM_BYTES / 4096 / 64];
    struct ram *ram;

    bench_long(0);
    ram = b.vm->ram;
    b.v->s.gpr[RAX] = DATA;
    RUN("\x48\x89\x08"); /* a write entry from before */
    ram_log(ram, RAM_PAGE_DIRTY_MIGRATE, true);
    mmu_flush_all(b.v); /* what VCPU_FLUSH asks for */
    cpu_ops_soft.dirty(b.vm);
    ram_log_fetch(ram, RAM_PAGE_DIRTY_MIGRATE, b.ram, map);
    for (unsigned k = 0; k < 3; k++) { /* the second write goes by the entry of the first */
        RUN("\x48\x89\x08");
        cpu_ops_soft.dirty(b.vm);
        ram_log_fetch(ram, RAM_PAGE_DIRTY_MIGRATE, b.ram, map);
        EXPECT(map[DATA / 4096 / 64] >> (DATA / 4096 % 64) & 1);
        if (k == 1) { /* filled between sync and fetch, used after it */
            RUN("\x48\x89\x08");
            ram_log_fetch(ram, RAM_PAGE_DIRTY_MIGRATE, b.ram, map);
            RUN("\x48\x89\x08");
            cpu_ops_soft.dirty(b.vm);
            ram_log_fetch(ram, RAM_PAGE_DIRTY_MIGRATE, b.ram, map);
            EXPECT(map[DATA / 4096 / 64] >> (DATA / 4096 % 64) & 1);
        }
    }
    cpu_ops_soft.dirty(b.vm);
    ram_log_fetch(ram, RAM_PAGE_DIRTY_MIGRATE, b.ram, map);
    EXPECT(!(map[DATA / 4096 / 64] >> (DATA / 4096 % 64) & 1));
    ram_log(ram, RAM_PAGE_DIRTY_MIGRATE, false);
}

TEST(the_bench_closes)
{
    native_thread_leave(b.v);
    core_thread_unregister();
    cpu_close(b.vm);
    vm_free(b.vm);
    b.vm = NULL;
}

TEST_MAIN()
