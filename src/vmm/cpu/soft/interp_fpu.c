// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp_fpu.c - instructions that run on the host itself (x87, MMX, SSE, AVX, and integer ones
 * that only compute), with the checks that the guest's state asks for first; and those that
 * cannot: FXSAVE, XSAVE and their kin, masked stores, gathers.  SDM volume 1, chapter 13;
 * volume 2.
 *
 * The save areas are made from v->s.xsave.  A component whose bit in its XSTATE_BV is clear is
 * in its initial state, whatever the bytes say; image() writes the initial bytes out.
 *
 * Not modelled: XSAVES, AVX-512, XOP, FMA4, 3DNow!.
 */
#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/interp.h"

/* ---- what is announced
 * ------------------------------------------------------------------------
 */
enum { ALWAYS = 1, FEATURE = 2 };
struct isa_rule {
    u8 kind, word, bit;
    bool general; /* general registers only: op_native() may run it */
};
#define YES(s)           [ZYDIS_ISA_SET_##s] = { ALWAYS, 0, 0, false }
#define IF(s, w, b)      [ZYDIS_ISA_SET_##s] = { FEATURE, w, b, false }
#define GENERAL(s, w, b) [ZYDIS_ISA_SET_##s] = { FEATURE, w, b, true }
static const struct isa_rule isa_rules[] = {
    YES(X87),
    YES(I86),
    YES(I186),
    YES(I386),
    YES(I486),
    YES(PPRO),
    YES(FAT_NOP),
    YES(LONGMODE),
    YES(PENTIUMREAL),
    YES(I486REAL),
    YES(I286REAL),
    IF(FCMOV, W_1_EDX, 15),
    IF(PENTIUMMMX, W_1_EDX, 23),
    IF(SSE, W_1_EDX, 25),
    IF(SSEMXCSR, W_1_EDX, 25),
    IF(SSE2, W_1_EDX, 26),
    IF(SSE2MMX, W_1_EDX, 26),
    IF(SSE3, W_1_ECX, 0),
    IF(SSE3X87, W_1_ECX, 0),
    IF(SSSE3, W_1_ECX, 9),
    IF(SSSE3MMX, W_1_ECX, 9),
    IF(SSE4, W_1_ECX, 19),
    GENERAL(SSE42, W_1_ECX, 20),
    IF(SSE4A, W_80000001_ECX, 6),
    IF(AES, W_1_ECX, 25),
    IF(PCLMULQDQ, W_1_ECX, 1),
    IF(SHA, W_7_EBX, 29),
    IF(GFNI, W_7_ECX, 8),
    IF(AVX, W_1_ECX, 28),
    IF(AVX2, W_7_EBX, 5),
    IF(AVX2GATHER, W_7_EBX, 5),
    IF(AVXAES, W_1_ECX, 25),
    IF(AVX_GFNI, W_7_ECX, 8),
    IF(FMA, W_1_ECX, 12),
    IF(F16C, W_1_ECX, 29),
    IF(VAES, W_7_ECX, 9),
    IF(VPCLMULQDQ, W_7_ECX, 10),
    IF(MOVBE, W_1_ECX, 22),
    IF(CMPXCHG16B, W_1_ECX, 13),
    GENERAL(BMI1, W_7_EBX, 3),
    GENERAL(BMI2, W_7_EBX, 8),
    GENERAL(ADOX_ADCX, W_7_EBX, 19),
    GENERAL(LZCNT, W_80000001_ECX, 5),
    GENERAL(POPCNT, W_1_ECX, 23),
    GENERAL(RDRAND, W_1_ECX, 30),
    GENERAL(RDSEED, W_7_EBX, 18),
};

bool isa_allowed(const struct soft_vcpu *v, const struct insn *i)
{
    const struct isa_rule *r;

    if (i->isa >= ARRAY_LEN(isa_rules))
        return false;
    r = &isa_rules[i->isa];
    return r->kind == ALWAYS ||
           (r->kind == FEATURE && (v->cpuid->have[r->word] & (1u << r->bit)));
}

/* ---- checks ---------------------------------------------------------------------------------
 */
static bool is_x87(const struct insn *i)
{
    return i->enc == ENC_LEGACY && i->map == ZYDIS_OPCODE_MAP_DEFAULT &&
           ((i->opcode & 0xf8) == 0xd8 || i->opcode == 0x9b);
}

static bool has_op(const struct insn *i, u8 kind)
{
    for (unsigned k = 0; k < i->nops; k++)
        if (i->op[k].kind == kind)
            return true;
    return false;
}

static void vector_check(struct soft_vcpu *v, const struct insn *i)
{
    u64 cr0 = v->s.cr0;

    if ((i->enc != ENC_LEGACY && i->enc != ENC_VEX) || !isa_allowed(v, i))
        throw_ud(v);
    if (i->enc == ENC_VEX) {
        if (!is_prot(v) || !(v->s.cr4 & CR4_OSXSAVE) || (v->s.xcr0 & 6) != 6)
            throw_ud(v);
    } else if (is_x87(i)) {
        if (i->opcode == 0x9b ? (cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS)
                              : cr0 & (CR0_EM | CR0_TS))
            throw_vec(v, EXC_NM);
        return;
    } else {
        bool mmx = i->mnem == ZYDIS_MNEMONIC_EMMS || (has_op(i, OP_MM) && !has_op(i, OP_XMM));

        if ((cr0 & CR0_EM) || (!mmx && !(v->s.cr4 & CR4_OSFXSR)))
            throw_ud(v);
    }
    if (cr0 & CR0_TS)
        throw_vec(v, EXC_NM);
}

/* Must the memory operand be aligned to its size? */
static bool aligned_only(const struct insn *i)
{
    if (i->enc == ENC_VEX) {
        switch (i->mnem) {
        case ZYDIS_MNEMONIC_VMOVAPS:
        case ZYDIS_MNEMONIC_VMOVAPD:
        case ZYDIS_MNEMONIC_VMOVDQA:
        case ZYDIS_MNEMONIC_VMOVNTPS:
        case ZYDIS_MNEMONIC_VMOVNTPD:
        case ZYDIS_MNEMONIC_VMOVNTDQ:
        case ZYDIS_MNEMONIC_VMOVNTDQA:
            return true;
        default:
            return false;
        }
    }
    if (i->mem_size16 != 16 || is_x87(i))
        return false;
    if (i->isa == ZYDIS_ISA_SET_SHA) /* processors differ; the host decides */
        return false;
    switch (i->mnem) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return false;
    default:
        return true;
    }
}

static void area_read(struct soft_vcpu *v, u64 la, void *to, unsigned n)
{
    if (!mmu_read(v, la, to, n, soft_class(v)))
        interp_throw(v);
}

static void area_write(struct soft_vcpu *v, u64 la, const void *from, unsigned n)
{
    if (!mmu_write(v, la, from, n, soft_class(v)))
        interp_throw(v);
}

/* An unmasked x87 exception is pending, and this instruction reports it. */
static bool fp_error_waits(struct soft_vcpu *v, const struct insn *i)
{
    u16 status;

    if (!is_x87(i) && !has_op(i, OP_MM))
        return false;
    switch (i->mnem) {
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        return false;
    default:
        soft_fp_load(v);
        __asm__ volatile("fnstsw %0" : "=m"(status));
        if (!SOFT_LAZY_FP)
            soft_fp_save(v);
        return status & 0x80;
    }
}

/* ---- natively -------------------------------------------------------------------------------
 */
static void run_native(struct soft_vcpu *v, const struct insn *i)
{
    u8 room[192] __attribute__((aligned(64))), *buf = room;
    unsigned n = i->has_mem && !i->mem_agen ? i->mem_size16 : 0;
    bool wr = n && (i->mem_access & OP_WRITE);
    u64 la = 0;
    int vec;

    if (n > 128)
        throw_ud(v);
    if (n && fp_error_waits(v, i)) /* comes before the operand is looked at */
        throw_vec(v, EXC_MF);
    if (n) {
        la = mem_linear(v, i, 0, n, wr);
        if (i->vector && aligned_only(i) && (la & (n - 1)))
            throw_gp(v);
        buf = room + (la & 63); /* misaligned as the guest's */
        if (wr)
            lin_probe(v, la, n);
        /* An x87 store may leave memory as it is. */
        if ((i->mem_access & OP_READ) || is_x87(i))
            area_read(v, la, buf, n);
    }
    vec = soft_native(v, i, buf);
    if (vec == EXC_XM && !(v->s.cr4 & CR4_OSXMMEXCPT))
        vec = EXC_UD;
    if (vec == EXC_GP)
        throw_gp(v);
    if (vec)
        throw_vec(v, (u8)vec);
    if (wr)
        area_write(v, la, buf, n);
}

void op_vector(struct soft_vcpu *v, const struct insn *i)
{
    vector_check(v, i);
    run_native(v, i);
}

void op_native(struct soft_vcpu *v, const struct insn *i)
{
    if (!isa_allowed(v, i) || !isa_rules[i->isa].general ||
        (i->enc != ENC_LEGACY && i->enc != ENC_VEX) || (i->enc == ENC_VEX && !is_prot(v)))
        throw_ud(v);
    run_native(v, i);
}

/* ---- the state image
 * --------------------------------------------------------------------------
 */
enum {
    X_FCW = 0,
    X_FSW = 2,
    X_FTW = 4,
    X_FOP = 6,
    X_FIP = 8,
    X_FDP = 16,
    X_MXCSR = 24,
    X_ST = 32,
    X_XMM = 160,
    X_HEADER = 512,
    X_YMMH = 576
};

/*
 * x87 instructions run in the code cache, so the pointers to the last one are the host's: they
 * read as none.  What the guest itself loaded stays.
 */
static void pointers_hide(const struct soft_vcpu *v, u8 *x)
{
    const struct code_cache *cc = v->sv->code;

    if (host_load(x + X_FIP, 8) - (u64)(uintptr_t)cc->rx < cc->size) {
        bytes_zero(x + X_FOP, 2);
        bytes_zero(x + X_FIP, 16);
    }
}

/* Saves, and makes every component explicit. */
static u8 *image(struct soft_vcpu *v, u64 *ret_inuse)
{
    u8 *x = v->s.xsave;
    u64 bv;

    soft_fp_save(v);
    bv = host_load(x + X_HEADER, 8);
    if (!(bv & 1)) {
        bytes_zero(x, X_MXCSR);
        bytes_zero(x + X_ST, 128);
        host_store(x + X_FCW, 2, 0x37f);
    }
    host_store(x + X_FCW, 2, (host_load(x + X_FCW, 2) & 0x1f3f) | 0x40); /* as loaded */
    pointers_hide(v, x);
    if (!(bv & 2))
        bytes_zero(x + X_XMM, 256);
    /* MXCSR is saved always: no bit speaks of it (SDM 1, 13.7). */
    if (!(bv & 4))
        bytes_zero(x + X_YMMH, 256);
    host_store(x + X_HEADER, 8, bv | (v->cpuid->xcr0 & 4) | 3);
    if (ret_inuse)
        *ret_inuse = bv & 7;
    return x;
}

static bool mxcsr_ok(u32 val)
{
    return !(val & 0xffff0000);
}

static void save_check(struct soft_vcpu *v, const struct insn *i, u64 cr0_bits)
{
    if (!i->has_mem)
        throw_ud(v);
    if (v->s.cr0 & cr0_bits)
        throw_vec(v, EXC_NM);
}

void op_fxsave(struct soft_vcpu *v, const struct insn *i)
{
    unsigned n = i->mode == MODE_64 ? 416 : 288;
    u64 la;
    u8 *x;

    save_check(v, i, CR0_EM | CR0_TS);
    la = mem_linear(v, i, 0, 512, true);
    if (la & 15)
        throw_gp(v);
    if (!mmu_probe(v, la, 512, MMU_WRITE, soft_class(v)))
        interp_throw(v);
    x = image(v, NULL);
    host_store(x + 28, 4, 0xffff);
    area_write(v, la, x, n);
}

void op_fxrstor(struct soft_vcpu *v, const struct insn *i)
{
    unsigned xmm = i->mode == MODE_64 ? 256 : 128;
    u8 buf[512];
    u64 la;
    u8 *x;

    save_check(v, i, CR0_EM | CR0_TS);
    la = mem_linear(v, i, 0, 512, false);
    if (la & 15)
        throw_gp(v);
    area_read(v, la, buf, 512);
    if (!mxcsr_ok((u32)host_load(buf + X_MXCSR, 4)))
        throw_gp(v);
    x = image(v, NULL);
    bytes_copy(x, buf, 28);
    bytes_copy(x + X_ST, buf + X_ST, 128);
    bytes_copy(x + X_XMM, buf + X_XMM, xmm);
}

/* ---- the x87 environment (SDM 1, 8.1.10) ---- */

enum { FPU_EXCEPTIONS = 0x3f, FSW_ES_B = 0x8080 };
enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

/* ST(n) of the image. */
static u8 *st_at(u8 *x, unsigned n)
{
    return x + X_ST + 16 * n;
}

static unsigned top_of(const u8 *x)
{
    return (unsigned)host_load(x + X_FSW, 2) >> 11 & 7;
}

/* The tag word with two bits for each register, out of what is in them. */
static u16 tags_full(u8 *x)
{
    u16 tags = 0;

    for (unsigned r = 0; r < 8; r++) {
        const u8 *st = st_at(x, (r - top_of(x)) & 7);
        u64 mantissa = host_load(st, 8);
        unsigned exponent = (unsigned)host_load(st + 8, 2) & 0x7fff, tag = TAG_SPECIAL;

        if (!(x[X_FTW] >> r & 1))
            tag = TAG_EMPTY;
        else if (!exponent && !mantissa)
            tag = TAG_ZERO;
        else if (exponent && exponent != 0x7fff && mantissa >> 63)
            tag = TAG_VALID;
        tags |= (u16)(tag << 2 * r);
    }
    return tags;
}

/* Its bytes: 14 with 16-bit operands, 28 with 32-bit ones. */
static unsigned env_make(const struct soft_vcpu *v, u8 *x, bool wide, u8 *to)
{
    u32 word[7] = { (u32)host_load(x + X_FCW, 2), (u32)host_load(x + X_FSW, 2), tags_full(x) };
    u32 ip = (u32)host_load(x + X_FIP, 4), dp = (u32)host_load(x + X_FDP, 4);
    u32 op = (u32)host_load(x + X_FOP, 2) & 0x7ff;

    word[3] = ip;
    word[4] = (u32)host_load(x + X_FIP + 4, 2);
    word[5] = dp;
    word[6] = (u32)host_load(x + X_FDP + 4, 2);
    if (!is_prot(v)) { /* linear addresses of 20 or 32 bits, in pieces */
        word[3] = ip & 0xffff;
        word[4] = (wide ? ip >> 4 & 0xffff000 : ip >> 4 & 0xf000) | op;
        word[5] = dp & 0xffff;
        word[6] = wide ? dp >> 4 & 0xffff000 : dp >> 4 & 0xf000;
    } else if (wide) {
        word[4] |= op << 16;
        word[6] |= 0xffff0000;
    }
    for (unsigned k = 0; k < 7; k++) {
        if (wide)
            host_store(to + 4 * k, 4, k < 3 ? word[k] | 0xffff0000 : word[k]);
        else
            host_store(to + 2 * k, 2, word[k]);
    }
    return wide ? 28 : 14;
}

/* And back, into the image. */
static void env_take(const struct soft_vcpu *v, u8 *x, bool wide, const u8 *from)
{
    u32 word[7];
    u16 fsw, pending, op = 0;

    for (unsigned k = 0; k < 7; k++)
        word[k] = (u32)(wide ? host_load(from + 4 * k, 4) : host_load(from + 2 * k, 2));
    host_store(x + X_FCW, 2, word[0]);
    fsw = (u16)word[1];
    pending = fsw & ~(u16)host_load(x + X_FCW, 2) & FPU_EXCEPTIONS;
    fsw = pending ? fsw | FSW_ES_B : fsw & ~FSW_ES_B;
    host_store(x + X_FSW, 2, fsw);
    x[X_FTW] = 0;
    for (unsigned r = 0; r < 8; r++)
        if ((word[2] >> 2 * r & 3) != TAG_EMPTY)
            x[X_FTW] |= (u8)(1 << r);
    bytes_zero(x + X_FIP, 16);
    if (!is_prot(v)) {
        op = word[4] & 0x7ff;
        word[3] = (word[3] & 0xffff) | (word[4] & 0xffff000) << 4;
        word[5] = (word[5] & 0xffff) | (word[6] & 0xffff000) << 4;
    } else {
        if (wide)
            op = word[4] >> 16 & 0x7ff;
        host_store(x + X_FIP + 4, 2, word[4]);
        host_store(x + X_FDP + 4, 2, word[6]);
    }
    host_store(x + X_FIP, 4, word[3]);
    host_store(x + X_FDP, 4, word[5]);
    host_store(x + X_FOP, 2, op);
}

void op_fnstenv(struct soft_vcpu *v, const struct insn *i)
{
    bool all = i->mnem == ZYDIS_MNEMONIC_FNSAVE;
    bool wide = i->mem_size16 == 28 || i->mem_size16 == 108;
    u8 buf[108];
    unsigned n;
    u64 la;
    u8 *x;

    vector_check(v, i);
    la = mem_linear(v, i, 0, i->mem_size16, true);
    x = image(v, NULL);
    n = env_make(v, x, wide, buf);
    if (all)
        for (unsigned k = 0; k < 8; k++, n += 10)
            bytes_copy(buf + n, st_at(x, k), 10);
    area_write(v, la, buf, n);
    if (!all) {
        host_store(x + X_FCW, 2, host_load(x + X_FCW, 2) | FPU_EXCEPTIONS);
        host_store(x + X_FSW, 2, host_load(x + X_FSW, 2) & ~(u64)FSW_ES_B);
        return;
    }
    bytes_zero(x, X_MXCSR); /* the registers keep what is in them, but are empty */
    host_store(x + X_FCW, 2, 0x37f);
}

void op_fldenv(struct soft_vcpu *v, const struct insn *i)
{
    bool all = i->mnem == ZYDIS_MNEMONIC_FRSTOR;
    bool wide = i->mem_size16 == 28 || i->mem_size16 == 108;
    u8 buf[108];
    u64 la;
    u8 *x;

    vector_check(v, i);
    if (fp_error_waits(v, i))
        throw_vec(v, EXC_MF);
    la = mem_linear(v, i, 0, i->mem_size16, false);
    area_read(v, la, buf, i->mem_size16);
    x = image(v, NULL);
    env_take(v, x, wide, buf);
    if (all)
        for (unsigned k = 0; k < 8; k++)
            bytes_copy(st_at(x, k), buf + (wide ? 28 : 14) + 10 * k, 10);
}

void op_xsave(struct soft_vcpu *v, const struct insn *i)
{
    u64 rfbm, inuse, la, bv, save;
    bool compact = i->mnem == ZYDIS_MNEMONIC_XSAVEC || i->mnem == ZYDIS_MNEMONIC_XSAVEC64;
    bool opt = i->mnem == ZYDIS_MNEMONIC_XSAVEOPT || i->mnem == ZYDIS_MNEMONIC_XSAVEOPT64;
    unsigned regs = i->mode == MODE_64 ? 256 : 128, n;
    u8 *x;

    if (!(v->s.cr4 & CR4_OSXSAVE) || (compact && !(v->cpuid->have[W_D_1_EAX] & 2)) ||
        (opt && !(v->cpuid->have[W_D_1_EAX] & 1)))
        throw_ud(v);
    save_check(v, i, CR0_TS);
    rfbm = (v->s.gpr[RDX] << 32 | (u32)v->s.gpr[RAX]) & v->s.xcr0;
    n = rfbm & 4 ? X_YMMH + 256 : X_YMMH;
    la = mem_linear(v, i, 0, n, true);
    if (la & 63)
        throw_gp(v);
    if (!mmu_probe(v, la, n, MMU_WRITE, soft_class(v)))
        interp_throw(v);
    x = image(v, &inuse);
    host_store(x + 28, 4, 0xffff);
    if (compact && host_load(x + X_MXCSR, 4) != 0x1f80)
        inuse |= 2;
    save = compact || opt ? rfbm & inuse : rfbm;
    if (save & 1) {
        area_write(v, la, x, X_MXCSR);
        area_write(v, la + X_ST, x + X_ST, 128);
    }
    if (rfbm & 6)
        area_write(v, la + X_MXCSR, x + X_MXCSR, 8);
    if (save & 2)
        area_write(v, la + X_XMM, x + X_XMM, regs);
    if (save & 4)
        area_write(v, la + X_YMMH, x + X_YMMH, regs);
    if (compact) {
        lin_write(v, la + X_HEADER, 8, rfbm & inuse);
        lin_write(v, la + X_HEADER + 8, 8, rfbm | BIT(63));
    } else {
        bv = lin_read(v, la + X_HEADER, 8);
        lin_write(v, la + X_HEADER, 8, (bv & ~rfbm) | (rfbm & inuse));
    }
}

void op_xrstor(struct soft_vcpu *v, const struct insn *i)
{
    u64 rfbm, la, bv, comp, head[8];
    unsigned regs = i->mode == MODE_64 ? 256 : 128, n;
    u8 buf[X_YMMH + 256];
    bool compact;
    u8 *x;

    if (!(v->s.cr4 & CR4_OSXSAVE))
        throw_ud(v);
    save_check(v, i, CR0_TS);
    rfbm = (v->s.gpr[RDX] << 32 | (u32)v->s.gpr[RAX]) & v->s.xcr0;
    la = mem_linear(v, i, 0, X_YMMH, false);
    if (la & 63)
        throw_gp(v);
    area_read(v, la, buf, X_YMMH);
    for (unsigned k = 0; k < 8; k++)
        head[k] = host_load(buf + X_HEADER + 8 * k, 8);
    bv = head[0];
    comp = head[1];
    compact = comp >> 63;
    if (compact) {
        if (!(v->cpuid->have[W_D_1_EAX] & 2))
            throw_gp(v);
        comp &= ~BIT(63);
        if ((comp & ~v->s.xcr0) || (bv & ~comp))
            throw_gp(v);
        for (unsigned k = 2; k < 8; k++)
            if (head[k])
                throw_gp(v);
    } else if ((bv & ~v->s.xcr0) || comp || head[2]) {
        throw_gp(v);
    }
    n = (rfbm & bv & 4) ? 256 : 0;
    if (n)
        area_read(v, mem_linear(v, i, X_YMMH, n, false), buf + X_YMMH, n);
    if ((rfbm & 6) && (!compact || (bv & 2)) && !mxcsr_ok((u32)host_load(buf + X_MXCSR, 4)))
        throw_gp(v);

    x = image(v, NULL);
    if (rfbm & 1) {
        if (bv & 1) {
            bytes_copy(x, buf, X_MXCSR);
            bytes_copy(x + X_ST, buf + X_ST, 128);
        } else {
            bytes_zero(x, X_MXCSR);
            bytes_zero(x + X_ST, 128);
            host_store(x + X_FCW, 2, 0x37f);
        }
    }
    if (compact ? rfbm & 2 : rfbm & 6)
        host_store(x + X_MXCSR, 4, compact && !(bv & 2) ? 0x1f80 : host_load(buf + X_MXCSR, 4));
    if (rfbm & 2) {
        if (bv & 2)
            bytes_copy(x + X_XMM, buf + X_XMM, regs);
        else
            bytes_zero(x + X_XMM, regs);
    }
    if (rfbm & 4) {
        if (bv & 4)
            bytes_copy(x + X_YMMH, buf + X_YMMH, regs);
        else
            bytes_zero(x + X_YMMH, regs);
    }
    /* Say what is in its initial state, so that the guest's XSAVEOPT can skip it. */
    u64 now = host_load(x + X_HEADER, 8);

    now &= ~(rfbm & ~bv & 5);
    host_store(x + X_HEADER, 8, now);
}

/* ---- vector registers in C
 * ---------------------------------------------------------------------
 */
/* Byte `at` (0-31) of vector register n. */
static u8 *vec_byte(struct soft_vcpu *v, unsigned n, unsigned at)
{
    return at < 16 ? v->s.xsave + X_XMM + 16 * n + at : v->s.xsave + X_YMMH + 16 * n + at - 16;
}

void op_maskmov(struct soft_vcpu *v, const struct insn *i)
{
    bool mmx = i->mnem == ZYDIS_MNEMONIC_MASKMOVQ;
    unsigned n = mmx ? 8 : 16, top = 0;
    u64 off = v->s.gpr[RDI] & mask_of(i->adsize);
    u8 *x, *src, *mask;

    vector_check(v, i);
    x = image(v, NULL);
    if (mmx) {
        top = (unsigned)(host_load(x + 2, 2) >> 11) & 7;
        src = x + X_ST + 16 * ((i->op[0].reg - top) & 7);
        mask = x + X_ST + 16 * ((i->op[1].reg - top) & 7);
    } else {
        src = vec_byte(v, i->op[0].reg, 0);
        mask = vec_byte(v, i->op[1].reg, 0);
    }
    for (unsigned k = 0; k < n; k++) /* all of it can be written? */
        if (mask[k] & 0x80)
            lin_probe(v, linear(v, i->seg, (off + k) & mask_of(i->adsize), 1, true), 1);
    for (unsigned k = 0; k < n; k++)
        if (mask[k] & 0x80)
            lin_write(v, linear(v, i->seg, (off + k) & mask_of(i->adsize), 1, true), 1, src[k]);
}

void op_vmaskmov(struct soft_vcpu *v, const struct insn *i)
{
    unsigned es =
        i->mnem == ZYDIS_MNEMONIC_VMASKMOVPD || i->mnem == ZYDIS_MNEMONIC_VPMASKMOVQ ? 8 : 4;
    unsigned n = (i->vex_len ? 32 : 16) / es, m = i->op[1].reg;
    bool store = i->op[0].kind == OP_MEM;
    u64 val[8] = { 0 };

    vector_check(v, i);
    image(v, NULL);
    for (unsigned k = 0; k < n; k++) {
        u64 la;

        if (!(*vec_byte(v, m, k * es + es - 1) & 0x80))
            continue;
        la = mem_linear(v, i, k * es, es, store);
        if (store)
            lin_probe(v, la, es);
        else
            val[k] = lin_read(v, la, es);
    }
    for (unsigned k = 0; k < n; k++) {
        if (!store)
            host_store(vec_byte(v, i->op[0].reg, k * es), es, val[k]);
        else if (*vec_byte(v, m, k * es + es - 1) & 0x80)
            lin_write(v, mem_linear(v, i, k * es, es, true), es,
                      host_load(vec_byte(v, i->op[2].reg, k * es), es));
    }
    if (!store && !i->vex_len)
        bytes_zero(vec_byte(v, i->op[0].reg, 16), 16);
}

void op_gather(struct soft_vcpu *v, const struct insn *i)
{
    unsigned is, es, n, dst = i->op[0].reg, m = i->op[2].reg, width = i->vex_len ? 32 : 16;

    switch (i->mnem) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
        is = 4;
        es = 4;
        break;
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
        is = 4;
        es = 8;
        break;
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
        is = 8;
        es = 4;
        break;
    default:
        is = es = 8;
    }
    vector_check(v, i);
    if (dst == i->index || dst == m || m == i->index)
        throw_ud(v);
    n = width / (is > es ? is : es);
    image(v, NULL);
    /* Each element that is there is done for good: its mask goes, as after a fault in the next.
     */
    for (unsigned k = 0; k < n; k++) {
        u8 *mask = vec_byte(v, m, k * es);

        if (mask[es - 1] & 0x80) {
            u64 a = sext(host_load(vec_byte(v, i->index, k * is), is), is) * i->scale;
            u64 val;

            a += (u64)i->disp + (i->base != GPR_NONE ? v->s.gpr[i->base] : 0);
            val = lin_read(v, linear(v, i->seg, a & mask_of(i->adsize), es, false), es);
            host_store(vec_byte(v, dst, k * es), es, val);
        }
        host_store(mask, es, 0);
    }
    bytes_zero(vec_byte(v, m, 0), 16);
    bytes_zero(vec_byte(v, m, 16), 16);
    for (unsigned k = n * es; k < 32; k++)
        *vec_byte(v, dst, k) = 0;
}
