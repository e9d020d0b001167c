// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * trans.c - the translator: guest x86 code to host x86-64 code, a block at a time.
 *
 * Guest registers live in the host's registers of the same name, RSP included, except R9, R10
 * and R11: those stay in v->s.gpr, and the host's R9-R11 are scratch (S1, S2, S3).  GS is the
 * vCPU. An instruction that only computes is copied byte for byte; one with a memory operand
 * gets the operand replaced by [S1 + S2]: guest address + addend from the TLB.
 *
 *   S1 = address; S2 = &tlb[index]; S3 = S1 - tag; if S3 > 4096 - size: slow; S2 = addend
 *
 * The slow path fills the TLB and comes back, or leaves the block for the interpreter to do
 * this one instruction: MMIO, page-crossing accesses, faults, writes to code.  So only the
 * interpreter raises exceptions, and every instruction either happens whole or not at all.
 *
 * Status flags.  Between blocks they are in v->cc (SETO in bits 7:0, LAHF in 15:8); inside,
 * they are in the host's flags or in v->cc or dead.  Checks destroy the host's, so a check
 * saves them first if somebody still reads them (a backward pass over the block knows; at a
 * jump within the page the target is decoded ahead).  At a fault, flags that the code would
 * overwrite before reading are not restored.
 */
#include <string.h>

#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/emit.h"

enum { S1 = 9, S2 = 10, S3 = 11 };
#define OFF(f)     ((u32)offsetof(struct soft_vcpu, f))
#define OFF_GPR(n) (OFF(s.gpr) + 8 * (n))
#define MN(x)      ZYDIS_MNEMONIC_##x

struct slow { /* out-of-line part of a check */
    u8 *jcc;
    u8 *back; /* writable address to come back to */
    u32 size;
    bool write;
};
struct exit_stub { /* out-of-line part of a conditional exit */
    u8 *jcc;
    s32 target;
    bool save;
};

/*
 * Accesses through one register that does not change in between (or, for RSP, changes by known
 * amounts) share one check: the first one checks the whole span and leaves the addend in
 * v->group[], the others use it.
 */
enum { GROUPS = 8, GROUP_SPAN = 1024 };
struct group {
    u8 base;
    s32 lo, hi; /* span, from the register's value at the start of the group's numbering */
    s32 shift;  /* RSP: how far it had moved at the first access */
    u32 first, n;
    bool write;
    s8 slot; /* in v->group[], -1: not shared */
};

struct interp_stub { /* out-of-line: leave for the interpreter at instruction k */
    u8 *jcc;
    u32 k;
};

struct trans {
    struct emit e;
    struct soft_vm *sv;
    struct code_cache *cc;
    const u8 *page;
    u16 mode;
    bool is64;
    bool single; /* native.c: operand at v->exit_arg, no checks */
    u8 *entry;
    u32 n;
    struct insn i[CODE_BLOCK_MAX_INSNS];
    u16 off[CODE_BLOCK_MAX_INSNS + 1];
    u16 live[CODE_BLOCK_MAX_INSNS + 1]; /* flags read at or after instruction k */
    struct site sites[CODE_BLOCK_MAX_INSNS];
    struct slow slow[CODE_BLOCK_MAX_INSNS * 2];
    u32 n_slow;
    struct exit_stub exits[CODE_BLOCK_MAX_INSNS];
    u32 n_exits;
    s8 group_of[CODE_BLOCK_MAX_INSNS]; /* index into groups, -1: own check */
    struct group groups[CODE_BLOCK_MAX_INSNS];
    u32 n_groups;
    struct interp_stub interps[CODE_BLOCK_MAX_INSNS];
    u32 n_interps;
    bool in_host, in_cc; /* where the flags are */
    struct {
        u32 at, stub;
        s32 target;
    } links[CODE_BLOCK_MAX_INSNS + 2];
    u32 n_links;
    struct code_page *cp;
};

/* ---- what may be copied ---------------------------------------------------------------------
 */

/* CPUID feature that an instruction set extension needs: word << 8 | bit; 0 = base, -1 = no. */
static int isa_feature(u8 isa)
{
#define F(w, b) ((w) << 8 | (b) | 0x10000)
    switch ((ZydisISASet)isa) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_PENTIUMREAL:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_LONGMODE:
    case ZYDIS_ISA_SET_PAUSE:
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_X87:
        return 0;
    case ZYDIS_ISA_SET_CMOV:
    case ZYDIS_ISA_SET_FCMOV:
        return F(W_1_EDX, 15);
    case ZYDIS_ISA_SET_PENTIUMMMX:
        return F(W_1_EDX, 23);
    case ZYDIS_ISA_SET_CMPXCHG16B:
        return F(W_1_ECX, 13);
    case ZYDIS_ISA_SET_LAHF:
        return 0;
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR:
    case ZYDIS_ISA_SET_SSE_PREFETCH:
        return F(W_1_EDX, 25);
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
        return F(W_1_EDX, 26);
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87:
        return F(W_1_ECX, 0);
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
        return F(W_1_ECX, 9);
    case ZYDIS_ISA_SET_SSE4:
        return F(W_1_ECX, 19);
    case ZYDIS_ISA_SET_SSE42:
        return F(W_1_ECX, 20);
    case ZYDIS_ISA_SET_POPCNT:
        return F(W_1_ECX, 23);
    case ZYDIS_ISA_SET_MOVBE:
        return F(W_1_ECX, 22);
    case ZYDIS_ISA_SET_AES:
        return F(W_1_ECX, 25);
    case ZYDIS_ISA_SET_PCLMULQDQ:
        return F(W_1_ECX, 1);
    case ZYDIS_ISA_SET_AVX:
        return F(W_1_ECX, 28);
    case ZYDIS_ISA_SET_AVXAES:
        return F(W_1_ECX, 25);
    case ZYDIS_ISA_SET_F16C:
        return F(W_1_ECX, 29);
    case ZYDIS_ISA_SET_FMA:
        return F(W_1_ECX, 12);
    case ZYDIS_ISA_SET_AVX2:
        return F(W_7_EBX, 5);
    case ZYDIS_ISA_SET_BMI1:
        return F(W_7_EBX, 3);
    case ZYDIS_ISA_SET_BMI2:
        return F(W_7_EBX, 8);
    case ZYDIS_ISA_SET_ADOX_ADCX:
        return F(W_7_EBX, 19);
    case ZYDIS_ISA_SET_SHA:
        return F(W_7_EBX, 29);
    case ZYDIS_ISA_SET_LZCNT:
        return F(W_80000001_ECX, 5);
    case ZYDIS_ISA_SET_VAES:
        return F(W_7_ECX, 9);
    case ZYDIS_ISA_SET_VPCLMULQDQ:
        return F(W_7_ECX, 10);
    default:
        return -1;
    }
#undef F
}

bool trans_isa_ok(const struct soft_vm *sv, u8 isa)
{
    int f = isa_feature(isa);

    return f == 0 ||
           (f > 0 && cpuid_has(&sv->cpuid, (enum cpuid_word)(f >> 8 & 0xff), f & 0xff));
}

static bool simple_mnemonic(u16 m)
{
    switch (m) {
    case MN(MOV):
    case MN(MOVZX):
    case MN(MOVSX):
    case MN(MOVSXD):
    case MN(ADD):
    case MN(OR):
    case MN(ADC):
    case MN(SBB):
    case MN(AND):
    case MN(SUB):
    case MN(XOR):
    case MN(CMP):
    case MN(TEST):
    case MN(INC):
    case MN(DEC):
    case MN(NEG):
    case MN(NOT):
    case MN(SHL):
    case MN(SHR):
    case MN(SAR):
    case MN(ROL):
    case MN(ROR):
    case MN(RCL):
    case MN(RCR):
    case MN(SHLD):
    case MN(SHRD):
    case MN(IMUL):
    case MN(MUL):
    case MN(DIV):
    case MN(IDIV):
    case MN(XCHG):
    case MN(XADD):
    case MN(CMPXCHG):
    case MN(CMPXCHG8B):
    case MN(CMPXCHG16B):
    case MN(BT):
    case MN(BTS):
    case MN(BTR):
    case MN(BTC):
    case MN(BSF):
    case MN(BSR):
    case MN(TZCNT):
    case MN(LZCNT):
    case MN(POPCNT):
    case MN(BSWAP):
    case MN(MOVBE):
    case MN(SETB):
    case MN(SETBE):
    case MN(SETL):
    case MN(SETLE):
    case MN(SETNB):
    case MN(SETNBE):
    case MN(SETNL):
    case MN(SETNLE):
    case MN(SETNO):
    case MN(SETNP):
    case MN(SETNS):
    case MN(SETNZ):
    case MN(SETO):
    case MN(SETP):
    case MN(SETS):
    case MN(SETZ):
    case MN(CMOVB):
    case MN(CMOVBE):
    case MN(CMOVL):
    case MN(CMOVLE):
    case MN(CMOVNB):
    case MN(CMOVNBE):
    case MN(CMOVNL):
    case MN(CMOVNLE):
    case MN(CMOVNO):
    case MN(CMOVNP):
    case MN(CMOVNS):
    case MN(CMOVNZ):
    case MN(CMOVO):
    case MN(CMOVP):
    case MN(CMOVS):
    case MN(CMOVZ):
    case MN(CBW):
    case MN(CWDE):
    case MN(CDQE):
    case MN(CWD):
    case MN(CDQ):
    case MN(CQO):
    case MN(LAHF):
    case MN(SAHF):
    case MN(CLC):
    case MN(STC):
    case MN(CMC):
    case MN(ANDN):
    case MN(BEXTR):
    case MN(BLSI):
    case MN(BLSMSK):
    case MN(BLSR):
    case MN(PDEP):
    case MN(PEXT):
    case MN(RORX):
    case MN(SARX):
    case MN(SHLX):
    case MN(SHRX):
    case MN(BZHI):
    case MN(MULX):
    case MN(ADCX):
    case MN(ADOX):
    case MN(CRC32):
    case MN(MOVNTI):
    case MN(LFENCE):
    case MN(MFENCE):
    case MN(SFENCE):
    case MN(PAUSE):
        return true;
    default:
        return false;
    }
}

/* Decoded as a no-operation whatever its operands. */
static bool is_nop(const struct insn *i)
{
    switch (i->mnem) {
    case MN(NOP):
    case MN(ENDBR32):
    case MN(ENDBR64):
    case MN(PREFETCH):
    case MN(PREFETCHNTA):
    case MN(PREFETCHT0):
    case MN(PREFETCHT1):
    case MN(PREFETCHT2):
    case MN(PREFETCHW):
        return true;
    default:
        return false;
    }
}

bool trans_is_simple(const struct soft_vm *sv, const struct insn *i)
{
    if (i->enc != ENC_LEGACY && i->enc != ENC_VEX)
        return false;
    if (!trans_isa_ok(sv, i->isa) || i->mem_vsib)
        return false;
    if (i->has_mem && !i->mem_agen && (i->mem_size == 0 || i->mem_size > 32))
        return false;
    if (i->has_mem && i->adsize == 2)
        return false;
    for (unsigned k = 0; k < i->nops; k++) {
        switch (i->op[k].kind) {
        case OP_SEG:
        case OP_CR:
        case OP_DR:
        case OP_FAR:
        case OP_K:
        case OP_BND:
        case OP_OTHER:
            return false;
        default:
            break;
        }
    }
    if (i->vector) {
        switch (i->mnem) {
        case MN(MASKMOVDQU):
        case MN(MASKMOVQ):
        case MN(VMASKMOVDQU):
        case MN(VMASKMOVPS):
        case MN(VMASKMOVPD):
        case MN(VPMASKMOVD):
        case MN(VPMASKMOVQ):
        case MN(FXSAVE):
        case MN(FXRSTOR):
        case MN(FXSAVE64):
        case MN(FXRSTOR64):
        case MN(XSAVE):
        case MN(XRSTOR):
        case MN(FNSTENV):
        case MN(FLDENV):
        case MN(FNSAVE):
        case MN(FRSTOR):
            return false;
        default:
            return true;
        }
    }
    if (!simple_mnemonic(i->mnem))
        return false;
    switch (i->mnem) {
    case MN(BT):
    case MN(BTS):
    case MN(BTR):
    case MN(BTC):
        /* bit string in memory: the register reaches beyond the operand */
        if (i->has_mem && i->op[1].kind == OP_GPR)
            return false;
        break;
    case MN(CMPXCHG):
    case MN(XADD):
    case MN(XCHG):
        for (unsigned k = 0; k < i->nops; k++)
            if (i->op[k].kind == OP_HIGH8 && i->has_mem)
                return false;
        break;
    default:
        break;
    }
    if (i->prefixes & PFX_LOCK && !i->has_mem)
        return false;
    return true;
}

/* Flags that are certainly overwritten (a shift by a variable count may leave them alone). */
static u16 flags_killed(const struct insn *i)
{
    switch (i->mnem) {
    case MN(SHL):
    case MN(SHR):
    case MN(SAR):
    case MN(ROL):
    case MN(ROR):
    case MN(RCL):
    case MN(RCR):
    case MN(SHLD):
    case MN(SHRD): {
        unsigned last = i->nops - 1u;
        if (i->op[last].kind != OP_IMM || !(i->imm & (i->opsize == 8 ? 63 : 31)))
            return 0;
        break;
    }
    case MN(CMPSB):
    case MN(CMPSW):
    case MN(CMPSD):
    case MN(CMPSQ):
    case MN(SCASB):
    case MN(SCASW):
    case MN(SCASD):
    case MN(SCASQ):
        if (i->prefixes & (PFX_REP | PFX_REPNE)) /* perhaps no element at all */
            return 0;
        break;
    default:
        break;
    }
    return i->fl_write & ~i->fl_undefined;
}

/* ---- flags ----------------------------------------------------------------------------------
 */

static void emit_flags_save(struct trans *t)
{
    struct emit *e = &t->e;

    e_mov(e, S3, RAX);
    e8(e, 0x9f);                                     /* lahf */
    e_bytes(e, (const u8[]){ 0x0f, 0x90, 0xc0 }, 3); /* seto al */
    e8(e, 0x65), e8(e, 0x66), e8(e, 0x89), e8(e, 0x04), e8(e, 0x25), e32(e, OFF(cc));
    e_mov(e, RAX, S3);
}

static void emit_flags_restore(struct trans *t)
{
    struct emit *e = &t->e;

    e_mov(e, S3, RAX);
    e8(e, 0x65), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x04), e8(e, 0x25), e32(e, OFF(cc));
    e8(e, 0x04), e8(e, 0x7f); /* add al, 0x7f: OF = al */
    e8(e, 0x9e);              /* sahf */
    e_mov(e, RAX, S3);
}

/* The host's flags are about to be destroyed; `live`: what is still read. */
static void flags_clobber(struct trans *t, u16 live)
{
    if (t->in_host && !t->in_cc && live) {
        emit_flags_save(t);
        t->in_cc = true;
    }
    t->in_host = false;
}

/* Before leaving the block: flags in v->cc if somebody reads them. */
static void flags_leave(struct trans *t, u16 live)
{
    if (live && t->in_host && !t->in_cc) {
        emit_flags_save(t);
        t->in_cc = true;
    }
}

static void flags_need(struct trans *t)
{
    if (!t->in_host)
        emit_flags_restore(t);
    t->in_host = true;
}

/* ---- memory ---------------------------------------------------------------------------------
 */

/* S1 = guest-linear address of the memory operand. Uses S2. Flags are destroyed if a segment
 * base is added. */
static void emit_address(struct trans *t, const struct insn *i, u16 off)
{
    struct emit *e = &t->e;
    bool w = i->adsize == 8;
    u8 base = i->base, index = i->index;

    if (base == GPR_RIP) {
        e_load(e, S1, OFF(page_va));
        e_lea(e, S1, S1, (s32)(off + i->len + i->disp), w);
    } else if (base == GPR_NONE && index == GPR_NONE) {
        if (i->disp == (s32)i->disp && w) {
            e_op_mem(e, 0x8d, S1, 0xff, 0xff, 1, (s32)i->disp, true);
        } else if (!w) {
            e_mov_imm32(e, S1, (u32)i->disp);
        } else {
            e_mov_imm64(e, S1, (u64)i->disp);
        }
    } else {
        if (base >= S1 && base <= S3) {
            e_load(e, S1, OFF_GPR(base));
            base = S1;
        }
        if (index >= S1 && index <= S3) {
            e_load(e, S2, OFF_GPR(index));
            index = S2;
        }
        e_op_mem(e, 0x8d, S1, base, index, i->scale, (s32)i->disp, w);
    }
    if (!i->mem_agen && (i->seg == FS || i->seg == GS)) {
        e_gs(e, 0x03, S1,
             OFF(s.seg) + i->seg * sizeof(struct x86_seg) + offsetof(struct x86_seg, base),
             t->is64);
    }
}

/* S1 = guest address -> S2 = addend. Destroys flags, S3. */
static void emit_check(struct trans *t, u32 size, bool write)
{
    struct emit *e = &t->e;

    if (t->single) {
        e_load(e, S1, OFF(exit_arg));
        e_rr(e, 0x31, S2, S2, false);
        return;
    }
    if (t->cc->bmi2) {
        /* rorx S2, S1, 7 */
        e_bytes(e, (const u8[]){ 0xc4, 0x43, 0xfb, 0xf0, 0xd1, 7 }, 6);
    } else {
        e_mov(e, S2, S1);
        e_shift(e, 5, S2, 7, true);
    }
    e_alu_imm(e, 4, S2, (TLB_SIZE - 1) * sizeof(struct tlb_entry), false);
    e_gs(e, 0x03, S2, OFF(tlb), true);
    e_mov(e, S3, S1);
    e_op_mem(e, 0x2b, S3, S2, 0xff, 1, write ? offsetof(struct tlb_entry, wr) : 0, true);
    e_alu_imm(e, 7, S3, 4096 - size, true);
    u8 *jcc = e_jcc(e, 7 /* ja */, e->p + e->delta);
    e_op_mem(e, 0x8b, S2, S2, 0xff, 1, offsetof(struct tlb_entry, addend), true);
    if (t->n_slow < ARRAY_LEN(t->slow))
        t->slow[t->n_slow++] = (struct slow){ jcc, e->p, size, write };
    else
        e->full = true;
}

/* ---- instructions ---------------------------------------------------------------------------
 */

static bool uses_scratch_gpr(const struct insn *i, u8 *set)
{
    *set = 0;
    for (unsigned k = 0; k < i->nops; k++)
        if (i->op[k].kind == OP_GPR && i->op[k].reg >= S1 && i->op[k].reg <= S3)
            *set |= 1 << (i->op[k].reg - S1);
    return *set;
}
static void load_scratch_gprs(struct trans *t, u8 set)
{
    for (unsigned k = 0; k < 3; k++)
        if (set & 1 << k)
            e_load(&t->e, S1 + k, OFF_GPR(S1 + k));
}
static void store_scratch_gprs(struct trans *t, const struct insn *i)
{
    u8 done = 0;

    for (unsigned k = 0; k < i->nops; k++) {
        const struct insn_op *o = &i->op[k];
        if (o->kind == OP_GPR && o->reg >= S1 && o->reg <= S3 && o->access & OP_WRITE &&
            !(done & 1 << (o->reg - S1))) {
            e_store(&t->e, OFF_GPR(o->reg), o->reg);
            done |= 1 << (o->reg - S1);
        }
    }
}

static u8 opcode_start(const struct insn *i)
{
    static const u8 escape[] = { [ZYDIS_OPCODE_MAP_DEFAULT] = 0,
                                 [ZYDIS_OPCODE_MAP_0F] = 1,
                                 [ZYDIS_OPCODE_MAP_0F38] = 2,
                                 [ZYDIS_OPCODE_MAP_0F3A] = 2 };
    return i->opcode_at - (i->map < sizeof escape ? escape[i->map] : 0);
}

static bool skip_prefix(u8 b)
{
    switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x67:
        return true;
    default:
        return false;
    }
}

/* The instruction without memory operand: the same bytes, but for what 64-bit mode lacks. */
static void emit_copy(struct trans *t, const struct insn *i)
{
    struct emit *e = &t->e;

    if (!t->is64) {
        u8 at = i->enc == ENC_LEGACY ? opcode_start(i) : 0;
        u8 op = i->bytes[at];

        if (i->enc == ENC_LEGACY && i->map == ZYDIS_OPCODE_MAP_DEFAULT && op >= 0x40 &&
            op <= 0x4f) {
            for (u8 k = 0; k < at; k++)
                if (i->bytes[k] == 0x66)
                    e8(e, 0x66);
            e8(e, 0xff);
            e8(e, 0xc0 | (op & 8) | (op & 7));
            return;
        }
        if (i->enc == ENC_LEGACY && i->map == ZYDIS_OPCODE_MAP_DEFAULT && op == 0x82) {
            e_bytes(e, (const u8[]){ 0x80, i->bytes[at + 1], i->bytes[at + 2] }, 3);
            return;
        }
    }
    e_bytes(e, i->bytes, i->len);
}

/* The instruction with its memory operand replaced by [b + x + disp] (x 0xff: none). */
static void emit_with_operand(struct trans *t, const struct insn *i, u8 b, u8 x, s32 disp)
{
    struct emit *e = &t->e;
    u8 reg = i->modrm >> 3 & 7;

    if (i->enc == ENC_VEX) {
        u8 k = 0;
        /* A REX that another prefix follows counts for nothing. */
        while (skip_prefix(i->bytes[k]) || (t->is64 && (i->bytes[k] & 0xf0) == 0x40))
            k++;
        u8 v1, v2;
        if (i->bytes[k] == 0xc5) {
            v1 = (i->bytes[k + 1] & 0x80) | 0x60 | 1;
            v2 = i->bytes[k + 1] & 0x7f;
        } else {
            v1 = i->bytes[k + 1];
            v2 = i->bytes[k + 2];
        }
        if (!t->is64) { /* the bits that are ignored or fixed there */
            v1 |= 0xe0;
            v2 |= 0x40;
            if (i->bytes[k] == 0xc4)
                v2 = (v2 & 0x7f) | (i->bytes[k + 2] & 0x80);
        }
        v1 |= 0x60;
        if (b >= 8)
            v1 &= (u8)~0x20;
        if (x != 0xff && x >= 8)
            v1 &= (u8)~0x40;
        e8(e, 0xc4);
        e8(e, v1);
        e8(e, v2);
        e8(e, i->opcode);
    } else {
        u8 at = opcode_start(i);
        bool moffs = !i->has_modrm; /* A0-A3 */
        u8 rex = 0x40 | (i->rex & 0x0c) | (b >= 8) | (x != 0xff && x >= 8 ? 2 : 0);
        u8 high = 0xff;

        for (u8 k = 0; k < i->nops; k++)
            if (i->op[k].kind == OP_HIGH8)
                high = i->op[k].reg;
        if (high != 0xff) { /* AH cannot be named together with a REX prefix: swap it into AL */
            e8(e, 0x86), e8(e, 0xc0 | (4 + high) << 3 | high);
            reg = high;
        }
        for (u8 k = 0; k < at; k++) {
            u8 c = i->bytes[k];
            if (!skip_prefix(c) && !(t->is64 && (c & 0xf0) == 0x40))
                e8(e, c);
        }
        e8(e, rex);
        if (moffs) {
            static const u8 as[] = { 0x8a, 0x8b, 0x88, 0x89 };
            e8(e, as[i->opcode & 3]);
            reg = 0;
        } else {
            if (!t->is64 && i->map == ZYDIS_OPCODE_MAP_DEFAULT && i->opcode == 0x82)
                e8(e, 0x80);
            else
                e_bytes(e, i->bytes + at, i->modrm_at - at);
        }
        e_mem_tail(e, reg, b, x, 1, disp);
        if (!moffs)
            e_bytes(e, i->bytes + i->len - i->imm_size, i->imm_size);
        if (high != 0xff)
            e8(e, 0x86), e8(e, 0xc0 | (4 + high) << 3 | high);
        return;
    }
    e_mem_tail(e, reg, b, x, 1, disp);
    e_bytes(e, i->bytes + i->len - i->imm_size, i->imm_size);
}

struct place { /* host address of an operand: [base + index + disp] */
    u8 base, index;
    s32 disp;
};

/* Access [base + disp] of instruction k as part of its group. */
static struct place emit_grouped(struct trans *t, u32 k, u8 base, s32 disp)
{
    struct group *g = &t->groups[t->group_of[k]];
    struct emit *e = &t->e;
    u32 slot = OFF(group) + 8 * (u32)g->slot;
    bool in_memory = base >= S1 && base <= S3;

    if (g->first == k) {
        flags_clobber(t, t->live[k]);
        if (in_memory)
            e_load(e, S1, OFF_GPR(base));
        e_lea(e, S1, in_memory ? S1 : base, g->lo - g->shift, t->is64);
        t->sites[k].shared = true;
        emit_check(t, (u32)(g->hi - g->lo), g->write);
        e_store(e, slot, S2);
    } else {
        e_load(e, S2, slot);
    }
    if (in_memory) {
        e_load(e, S1, OFF_GPR(base));
        base = S1;
    }
    if (t->is64)
        return (struct place){ base, S2, disp };
    e_lea(e, S1, base, disp, false); /* EA wraps at 4 GiB */
    return (struct place){ S1, S2, 0 };
}

/* The memory operand of instruction k. */
static struct place emit_place(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];

    if (t->group_of[k] >= 0)
        return emit_grouped(t, k, i->base, (s32)i->disp);
    flags_clobber(t, t->live[k]);
    emit_address(t, i, t->off[k]);
    emit_check(t, i->mem_size, i->mem_access & OP_WRITE);
    return (struct place){ S1, S2, 0 };
}

/* The stack slot [base + disp] of instruction k. */
static struct place emit_stack(struct trans *t, u32 k, u8 base, s32 disp, bool write)
{
    if (t->group_of[k] >= 0)
        return emit_grouped(t, k, base, disp);
    flags_clobber(t, t->live[k]);
    e_lea(&t->e, S1, base, disp, t->is64);
    emit_check(t, t->is64 ? 8 : 4, write);
    return (struct place){ S1, S2, 0 };
}

/* mov between a register and a place: opcode 0x8b load, 0x89 store */
static void emit_at(struct trans *t, u8 opcode, u8 reg, struct place at)
{
    e_op_mem(&t->e, opcode, reg, at.base, at.index, 1, at.disp, t->is64);
}

/* An instruction that only computes. k is its place in the block. */
static void emit_simple(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    u16 after = t->live[k + 1];
    bool need = i->fl_read || (i->fl_write && (after & ~flags_killed(i)));
    u8 set;

    if (!i->has_mem) {
        if (need)
            flags_need(t);
        t->sites[k].flags = t->in_host;
        uses_scratch_gpr(i, &set);
        load_scratch_gprs(t, set);
        emit_copy(t, i);
        store_scratch_gprs(t, i);
    } else {
        struct place at = { S1, S2, 0 };

        if (t->single) {
            flags_clobber(t, FL_STATUS);
            emit_check(t, i->mem_size, false);
        } else {
            at = emit_place(t, k);
        }
        for (unsigned o = 0; o < i->nops; o++) {
            if (i->op[o].kind == OP_HIGH8 &&
                at.base != S1) { /* AH and AL get swapped around it */
                e_op_mem(&t->e, 0x8d, S1, at.base, at.index, 1, at.disp, true);
                at = (struct place){ S1, 0xff, 0 };
            }
        }
        u8 b = at.base, x = at.index;
        if (uses_scratch_gpr(i, &set)) {
            for (b = S1; set & 1 << (b - S1); b++)
                ;
            e_op_mem(&t->e, 0x8d, b, at.base, at.index, 1, at.disp, true);
            x = 0xff;
            at.disp = 0;
        }
        if (need) {
            if (b == S3) { /* restoring uses S3 */
                e_store(&t->e, OFF(scratch[2]), S3);
                flags_need(t);
                e_load(&t->e, S3, OFF(scratch[2]));
            } else {
                flags_need(t);
            }
        }
        t->sites[k].flags = t->in_host;
        load_scratch_gprs(t, set);
        emit_with_operand(t, i, b, x, at.disp);
        store_scratch_gprs(t, i);
    }
    if (i->fl_write) {
        t->in_host = true;
        t->in_cc = false;
    }
}

static void emit_lea(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    u8 r = i->op[0].reg;
    bool mem = r >= S1 && r <= S3;

    emit_address(t, i, t->off[k]);
    if (i->opsize == 2) {
        if (mem)
            e_load(&t->e, S2, OFF_GPR(r));
        e8(&t->e, 0x66);
        e_rr(&t->e, 0x89, mem ? S2 : r, S1, false);
        if (mem)
            e_store(&t->e, OFF_GPR(r), S2);
    } else {
        e_rr(&t->e, 0x89, mem ? S1 : r, S1, i->opsize == 8);
        if (mem)
            e_store(&t->e, OFF_GPR(r), S1);
    }
}

/* Leaves for the target at S1, a VA; flags are in v->cc or dead. */
static void emit_indirect(struct trans *t)
{
    struct emit *e = &t->e;
    const u8 *miss = t->cc->rx + t->cc->miss;

    if (!t->is64)
        e_rr(e, 0x89, S1, S1, false); /* EIP is 32 bits */
    /* jump_cache_at() */
    e_mov(e, S2, S1);
    e_shift(e, 5, S2, 1, false);
    e_rr(e, 0x89, S3, S1, false);
    e_shift(e, 4, S3, 27, false);
    e_shift(e, 5, S3, 21, false);
    e_rr(e, 0x31, S2, S3, false);
    e_alu_imm(e, 4, S2, (JUMP_CACHE_SIZE - 1) * sizeof(struct jump_cache_entry), false);
    e_gs(e, 0x03, S2, OFF(jump_cache), true);
    e_op_mem(e, 0x3b, S1, S2, 0xff, 1, 0, true);
    e_jcc(e, 5, miss);
    e_op_mem(e, 0x8b, S3, S2, 0xff, 1, offsetof(struct jump_cache_entry, gen), false);
    e_gs(e, 0x3b, S3, OFF(jump_gen), false);
    e_jcc(e, 5, miss);
    e_op_mem(e, 0x8b, S3, S2, 0xff, 1, offsetof(struct jump_cache_entry, code), false);
    e_gs(e, 0x03, S3, OFF(code_base), true);
    e_alu_imm(e, 4, S1, (u32)-4096, true);
    e_store(e, OFF(page_va), S1);
    e_bytes(e, (const u8[]){ 0x41, 0xff, 0xe3 }, 3); /* jmp r11 */
}

/* Leaves for a place known relative to the page; flags are in v->cc or dead. */
static void emit_direct(struct trans *t, s32 target)
{
    struct emit *e = &t->e;

    if (target >= 0 && target < 4096) {
        u8 *at = e_jmp(e, e->p + e->delta);
        e_here(e, at);
        if (t->n_links < ARRAY_LEN(t->links)) {
            t->links[t->n_links].at = (u32)(at - t->cc->rw);
            t->links[t->n_links].stub = (u32)(e->p - t->cc->rw);
            t->links[t->n_links].target = target;
        } else {
            e->full = true;
        }
        e_mov_imm32(e, S3, t->cc->n_links + t->n_links);
        e_mov_imm32(e, S2, (u32)target);
        e_jmp(e, t->cc->rx + t->cc->exit_link);
        t->n_links++;
    } else {
        e_load(e, S1, OFF(page_va));
        e_lea(e, S1, S1, target, true);
        emit_indirect(t);
    }
}

/* Leaves with the given exit code; RIP = page_va + off. */
static void emit_exit(struct trans *t, u32 code, s32 off)
{
    e_mov_imm32(&t->e, S3, code);
    e8(&t->e, 0x49), e8(&t->e, 0xc7), e8(&t->e, 0xc2),
        e32(&t->e, (u32)off); /* mov r10, simm32 */
    e_jmp(&t->e, t->cc->rx + t->cc->exit_off);
}

static s32 branch_target(const struct trans *t, u32 k)
{
    return (s32)(t->off[k] + t->i[k].len + (s64)t->i[k].imm);
}

/* Condition code of a Jcc/SETcc/CMOVcc: low four bits of the opcode, in all encodings. */
static void emit_jcc(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    s32 target = branch_target(t, k);

    flags_need(t);
    t->sites[k].flags = true;
    u8 *jcc = e_jcc(&t->e, i->opcode & 15, t->e.p + t->e.delta);
    t->exits[t->n_exits++] = (struct exit_stub){ jcc, target, !t->in_cc };
}

static void emit_push(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;
    u8 r = i->op[0].reg;

    if (i->has_mem) {
        flags_clobber(t, t->live[k]);
        emit_address(t, i, t->off[k]);
        emit_check(t, w, false);
        e_op_mem(e, 0x8b, S3, S1, S2, 1, 0, t->is64);
        e_store(e, OFF(scratch[0]), S3);
    }
    struct place at = emit_stack(t, k, RSP, -w, true);

    if (i->op[0].kind == OP_IMM) {
        e8(e, e_rex(t->is64, 0, at.base, at.index));
        e8(e, 0xc7), e_mem_tail(e, 0, at.base, at.index, 1, at.disp), e32(e, (u32)i->imm);
    } else {
        if (i->has_mem)
            e_load(e, r = S3, OFF(scratch[0]));
        else if (r >= S1 && r <= S3)
            e_load(e, S3, OFF_GPR(r)), r = S3;
        emit_at(t, 0x89, r, at);
    }
    e_lea(e, RSP, RSP, -w, t->is64);
}

static void emit_pop(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;
    u8 r = t->i[k].op[0].reg;

    struct place at = emit_stack(t, k, RSP, 0, false);

    if (r == RSP) {
        emit_at(t, 0x8b, RSP, at);
        return;
    }
    if (r >= S1 && r <= S3) {
        emit_at(t, 0x8b, S3, at);
        e_store(e, OFF_GPR(r), S3);
    } else {
        emit_at(t, 0x8b, r, at);
    }
    e_lea(e, RSP, RSP, w, t->is64);
}

/* Pushes the return address; flags are destroyed. */
static void emit_push_return(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;

    struct place at = emit_stack(t, k, RSP, -w, true);

    e_load(e, S3, OFF(page_va));
    e_lea(e, S3, S3, t->off[k] + t->i[k].len, true);
    emit_at(t, 0x89, S3, at);
    e_lea(e, RSP, RSP, -w, t->is64);
}

/* Target of an indirect JMP or CALL to S1. */
static void emit_target(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;

    if (i->has_mem) {
        emit_address(t, i, t->off[k]);
        emit_check(t, t->is64 ? 8 : 4, false);
        e_op_mem(e, 0x8b, S1, S1, S2, 1, 0, t->is64);
    } else if (i->op[0].reg >= S1 && i->op[0].reg <= S3) {
        e_load(e, S1, OFF_GPR(i->op[0].reg));
    } else {
        e_mov(e, S1, i->op[0].reg);
    }
}

static void emit_rdtsc(struct trans *t, u32 k)
{
    struct emit *e = &t->e;

    flags_clobber(t, t->live[k + 1]);
    e8(e, 0x0f), e8(e, 0x31);
    e_shift(e, 4, RDX, 32, true);
    e_rr(e, 0x09, RDX, RAX, true);
    e_gs(e, 0x03, RDX, OFF(tsc_offset), true);
    e_rr(e, 0x89, RAX, RDX, false);
    e_shift(e, 5, RDX, 32, true);
}

/* ---- system instructions that are worth it --------------------------------------------------
 */

/* op byte gs:[off], imm: digit 1 or, 4 and, 7 cmp */
static void emit_gs_byte(struct trans *t, u8 digit, u32 off, u8 imm)
{
    e_bytes(&t->e, (const u8[]){ 0x65, 0x80, (u8)(0x04 | digit << 3), 0x25 }, 4);
    e32(&t->e, off);
    e8(&t->e, imm);
}

/* RFLAGS = what memory has of the system flags + v->cc. */
static void emit_pushf(struct trans *t, u32 k)
{
    struct emit *e = &t->e;
    u8 w = t->is64 ? 8 : 4;

    if (t->in_host && !t->in_cc)
        emit_flags_save(t);
    t->in_cc = true;
    t->in_host = false;
    e8(e, 0x65), e8(e, 0x44), e8(e, 0x0f), e8(e, 0xb7), e8(e, 0x0c),
        e8(e, 0x25); /* movzx r9d */
    e32(e, OFF(cc));
    e_rr(e, 0x89, S2, S1, false);
    e_alu_imm(e, 4, S2, 1, false);
    e_shift(e, 4, S2, 11, false);
    e_shift(e, 5, S1, 8, false);
    e_alu_imm(e, 4, S1, 0xd5, false);
    e_rr(e, 0x09, S1, S2, false);
    e_gs(e, 0x8b, S2, OFF(s.rflags), false);
    e_alu_imm(e, 4, S2, ~(u32)(FL_STATUS | FL_RF | FL_VM), false);
    e_rr(e, 0x09, S1, S2, false);
    e_store(e, OFF(scratch[0]), S1);
    e_lea(e, S1, RSP, -w, t->is64);
    emit_check(t, w, true);
    e_load(e, S3, OFF(scratch[0]));
    e_op_mem(e, 0x89, S3, S1, S2, 1, 0, t->is64);
    e_lea(e, RSP, RSP, -w, t->is64);
    (void)k;
}

static void emit_interp_if(struct trans *t, u8 cc, u32 k)
{
    t->interps[t->n_interps++] =
        (struct interp_stub){ e_jcc(&t->e, cc, t->e.p + t->e.delta), k };
}

/* The caller has seen to it that the next instruction is in the block too (interrupt shadow).
 */
static void emit_sti(struct trans *t, u32 k)
{
    flags_clobber(t, t->live[k]);
    emit_gs_byte(t, 7, OFF(intr), 0);
    emit_interp_if(t, 5, k);
    emit_gs_byte(t, 1, OFF(s.rflags) + 1, FL_IF >> 8);
}

static void emit_swapgs(struct trans *t)
{
    u32 base = OFF(s.seg) + GS * sizeof(struct x86_seg) + offsetof(struct x86_seg, base);

    e_load(&t->e, S1, base);
    e_load(&t->e, S2, OFF(s.msr.kernel_gs_base));
    e_store(&t->e, base, S2);
    e_store(&t->e, OFF(s.msr.kernel_gs_base), S1);
}

static void emit_ac(struct trans *t, u32 k, bool set)
{
    flags_clobber(t, t->live[k]);
    emit_gs_byte(t, set ? 1 : 4, OFF(s.rflags) + 2, set ? FL_AC >> 16 : (u8) ~(FL_AC >> 16));
    e_load(&t->e, S1, OFF(class_tlb) + 8 * (set ? TLB_KERNEL_AC : TLB_KERNEL));
    e_store(&t->e, OFF(tlb), S1);
}

/* BT family with a register offset into memory: the offset's upper bits select the word. */
static void emit_bit_string(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 r = i->op[1].reg;
    bool w = i->opsize == 8;

    flags_clobber(t, t->live[k]);
    emit_address(t, i, t->off[k]);
    if (r >= S1 && r <= S3)
        e_load(e, S3, OFF_GPR(r)), r = S3;
    e_rr(e, 0x89, S2, r, true);
    e_alu_imm(e, 4, S2, w ? 63 : 31, false);
    e_store(e, OFF(scratch[3]), S2);
    if (w)
        e_mov(e, S2, r);
    else
        e_bytes(e, (const u8[]){ (u8)(0x4c | (r >= 8)), 0x63, (u8)(0xd0 | (r & 7)) },
                3); /* movsxd */
    e_shift(e, 7, S2, w ? 6 : 5, true);
    e_shift(e, 4, S2, w ? 3 : 2, true);
    e_rr(e, 0x01, S1, S2, i->adsize == 8);
    emit_check(t, i->opsize, i->mem_access & OP_WRITE);
    if (t->live[k + 1] & ~flags_killed(i))
        flags_need(t);
    e_load(e, S3, OFF(scratch[3]));
    t->sites[k].flags = t->in_host;
    if (i->prefixes & PFX_LOCK)
        e8(e, 0xf0);
    e8(e, 0x47 | (w ? 8 : 0));
    e8(e, 0x0f);
    e8(e, i->opcode);
    e_mem_tail(e, S3, S1, S2, 1, 0);
    t->in_host = true;
    t->in_cc = false;
}

/* op reg, [S1 + S2] of 1, 2, 4 or 8 bytes; op: the byte form's opcode. */
static void emit_sized(struct trans *t, u8 op, u8 reg, u8 size)
{
    struct emit *e = &t->e;

    if (size == 2)
        e8(e, 0x66);
    e8(e, e_rex(size == 8, reg, S1, S2));
    e8(e, size == 1 ? op : op + 1);
    e_mem_tail(e, reg, S1, S2, 1, 0);
}

static bool is_string(const struct insn *i)
{
    return i->map == ZYDIS_OPCODE_MAP_DEFAULT && ((i->opcode >= 0xa4 && i->opcode <= 0xa7) ||
                                                  (i->opcode >= 0xaa && i->opcode <= 0xaf));
}

/* One element of MOVS, CMPS, STOS, LODS, SCAS upwards; downwards is left to the interpreter. */
static void emit_string(struct trans *t, u32 k)
{
    const struct insn *i = &t->i[k];
    struct emit *e = &t->e;
    u8 size = i->opcode & 1 ? i->opsize : 1;
    u8 what = i->opcode & 0xfe;

    flags_clobber(t, t->live[k]);
    e_bytes(e, (const u8[]){ 0x65, 0xf6, 0x04, 0x25 }, 4); /* test byte gs:[rflags + 1], DF */
    e32(e, OFF(s.rflags) + 1);
    e8(e, FL_DF >> 8);
    emit_interp_if(t, 5, k);
    if (what == 0xa4 || what == 0xa6 || what == 0xac) { /* the source at RSI */
        e_rr(e, 0x89, S1, RSI, t->is64);
        emit_check(t, size, false);
        emit_sized(t, 0x8a, what == 0xac ? RAX : S3, size);
        if (what != 0xac)
            e_store(e, OFF(scratch[0]), S3);
    }
    if (what != 0xac) { /* the destination at RDI */
        e_rr(e, 0x89, S1, RDI, t->is64);
        emit_check(t, size, what == 0xa4 || what == 0xaa);
        if (what == 0xa4 || what == 0xa6)
            e_load(e, S3, OFF(scratch[0]));
        switch (what) {
        case 0xa4:
            emit_sized(t, 0x88, S3, size);
            break;
        case 0xaa:
            emit_sized(t, 0x88, RAX, size);
            break;
        case 0xa6:
            emit_sized(t, 0x3a, S3, size);
            break;
        default:
            emit_sized(t, 0x3a, RAX, size);
            break;
        }
        e_lea(e, RDI, RDI, size, t->is64);
    }
    if (what == 0xa4 || what == 0xa6 || what == 0xac)
        e_lea(e, RSI, RSI, size, t->is64);
    if (what == 0xa6 || what == 0xae) {
        t->in_host = true;
        t->in_cc = false;
    }
}

/* ---- what a block consists of ---------------------------------------------------------------
 */

enum kind {
    K_NONE, /* interpreter */
    K_SIMPLE,
    K_NOP,
    K_LEA,
    K_PUSH,
    K_POP,
    K_LEAVE,
    K_RDTSC,
    K_PUSHF,
    K_CLI,
    K_STI,
    K_SWAPGS,
    K_STAC,
    K_CLAC,
    K_BITS,
    K_STRING,
    K_JCC,
    K_LOOP, /* may go on */
    K_JMP,
    K_CALL,
    K_JMP_IND,
    K_CALL_IND,
    K_RET, /* end the block */
};

static bool is_jcc(const struct insn *i)
{
    if (i->map == ZYDIS_OPCODE_MAP_DEFAULT)
        return i->opcode >= 0x70 && i->opcode <= 0x7f;
    return i->map == ZYDIS_OPCODE_MAP_0F && i->opcode >= 0x80 && i->opcode <= 0x8f;
}

static enum kind classify(const struct soft_vm *sv, const struct insn *i, u16 mode)
{
    bool is64 = (mode & CODE_MODE) == MODE_64;
    bool full = i->opsize == (is64 ? 8 : 4); /* for stack and branch instructions */

    if (i->has_mem && !i->mem_agen) {
        if ((i->seg == FS && !(mode & CODE_FS)) || (i->seg == GS && !(mode & CODE_GS)))
            return K_NONE;
        if (i->base == GPR_RIP && i->adsize != 8)
            return K_NONE;
    }
    if (i->has_mem && (i->adsize == 2 || (i->base == GPR_RIP && i->disp > INT32_MAX - 8192)))
        return K_NONE;
    if (!is64 && i->enc == ENC_VEX && !i->vector && i->bytes[0] == 0xc4 && i->bytes[2] & 0x80)
        return K_NONE;
    if (i->prefixes & PFX_LOCK && !(i->has_mem && i->mem_access & OP_WRITE))
        return K_NONE;
    if (i->enc == ENC_LEGACY) {
        if (is_nop(i))
            return K_NOP;
        switch (i->mnem) {
        case MN(LEA):
            return K_LEA;
        case MN(PUSH):
            return full && (i->op[0].kind == OP_GPR || i->op[0].kind == OP_IMM ||
                            (i->op[0].kind == OP_MEM && i->base != RSP && i->index != RSP) ||
                            i->op[0].kind == OP_MEM)
                       ? K_PUSH
                       : K_NONE;
        case MN(POP):
            return full && i->op[0].kind == OP_GPR ? K_POP : K_NONE;
        case MN(LEAVE):
            return full ? K_LEAVE : K_NONE;
        case MN(RDTSC):
            return mode & CODE_NOTSC ? K_NONE : K_RDTSC;
        case MN(PUSHF):
        case MN(PUSHFD):
        case MN(PUSHFQ):
            return full ? K_PUSHF : K_NONE;
        case MN(CLI):
            return mode & CODE_USER ? K_NONE : K_CLI;
        case MN(STI):
            return mode & CODE_USER ? K_NONE : K_STI;
        case MN(SWAPGS):
            return mode & CODE_USER || !is64 ? K_NONE : K_SWAPGS;
        case MN(STAC):
        case MN(CLAC):
            if (mode & CODE_USER || !cpuid_has(&sv->cpuid, W_7_EBX, 20) ||
                i->prefixes & ~PFX_REX)
                return K_NONE;
            return i->mnem == MN(STAC) ? K_STAC : K_CLAC;
        case MN(BT):
        case MN(BTS):
        case MN(BTR):
        case MN(BTC):
            if (i->has_mem && i->op[1].kind == OP_GPR) {
                if (i->opsize < 4 || (i->prefixes & PFX_LOCK && i->mnem == MN(BT)))
                    return K_NONE;
                return K_BITS;
            }
            break;
        case MN(LOOP):
            return i->adsize == (is64 ? 8 : 4) ? K_LOOP : K_NONE;
        case MN(JCXZ):
        case MN(JECXZ):
        case MN(JRCXZ):
            return i->adsize == (is64 ? 8 : 4) ? K_LOOP : K_NONE;
        case MN(JMP):
            if (i->op[0].kind == OP_REL)
                return full || is64 ? K_JMP : K_NONE;
            return full && (i->op[0].kind == OP_GPR ||
                            (i->op[0].kind == OP_MEM && (i->modrm >> 3 & 7) == 4))
                       ? K_JMP_IND
                       : K_NONE;
        case MN(CALL):
            if (i->op[0].kind == OP_REL)
                return full ? K_CALL : K_NONE;
            return full && (i->op[0].kind == OP_GPR ||
                            (i->op[0].kind == OP_MEM && (i->modrm >> 3 & 7) == 2))
                       ? K_CALL_IND
                       : K_NONE;
        case MN(RET):
            return full && (i->opcode == 0xc3 || i->opcode == 0xc2) ? K_RET : K_NONE;
        default:
            break;
        }
        if (is_string(i))
            return i->adsize == (is64 ? 8 : 4) && i->seg != FS && i->seg != GS &&
                           !(i->prefixes & (PFX_REP | PFX_REPNE))
                       ? K_STRING
                       : K_NONE;
        if (is_jcc(i))
            return (is64 || !(i->prefixes & PFX_66)) ? K_JCC : K_NONE;
    }
    if (i->vector && (mode & CODE_NOFP))
        return K_NONE;
    if (i->avx && (mode & CODE_NOAVX))
        return K_NONE;
    if (!trans_is_simple(sv, i))
        return K_NONE;
    return K_SIMPLE;
}

static void mark_bytes(struct code_page *cp, u32 from, u32 n)
{
    for (u32 b = from; b < from + n && b < 4096; b++)
        cp->bytes[b >> 6] |= 1ull << (b & 63);
}

/* Flags that code at `off` of the page reads before it overwrites them. */
static u16 flags_wanted(struct trans *t, s32 off)
{
    u16 want = 0, open = FL_STATUS;

    if (off < 0 || off >= 4096)
        return FL_STATUS;
    for (int k = 0; k < 8 && open && off < 4096; k++) {
        struct insn i;

        if (insn_decode(t->page + off, (size_t)MIN(15, 4096 - off), t->mode & CODE_MODE, &i) !=
            0)
            break;
        enum kind kind = classify(t->sv, &i, t->mode);
        if (kind == K_NONE || (kind >= K_JCC))
            break;
        mark_bytes(t->cp, (u32)off, i.len);
        want |= i.fl_read & open;
        open &= ~flags_killed(&i);
        off += i.len;
    }
    return want | open;
}

static void emit_one(struct trans *t, u32 k, enum kind kind)
{
    struct emit *e = &t->e;
    const struct insn *i = &t->i[k];
    u8 w = t->is64 ? 8 : 4;
    struct place at;

    t->sites[k] = (struct site){ .host = (u32)(e->p - t->entry),
                                 .guest = t->off[k],
                                 .flags = t->in_host };
    switch (kind) {
    case K_SIMPLE:
        emit_simple(t, k);
        break;
    case K_NOP:
        break;
    case K_LEA:
        emit_lea(t, k);
        break;
    case K_PUSH:
        emit_push(t, k);
        break;
    case K_POP:
        emit_pop(t, k);
        break;
    case K_LEAVE:
        at = emit_stack(t, k, RBP, 0, false);
        e_lea(e, RSP, RBP, w, t->is64);
        emit_at(t, 0x8b, RBP, at);
        break;
    case K_RDTSC:
        emit_rdtsc(t, k);
        break;
    case K_PUSHF:
        emit_pushf(t, k);
        break;
    case K_CLI:
        flags_clobber(t, t->live[k]);
        emit_gs_byte(t, 4, OFF(s.rflags) + 1, (u8) ~(FL_IF >> 8));
        break;
    case K_STI:
        emit_sti(t, k);
        break;
    case K_SWAPGS:
        emit_swapgs(t);
        break;
    case K_STAC:
    case K_CLAC:
        emit_ac(t, k, kind == K_STAC);
        break;
    case K_BITS:
        emit_bit_string(t, k);
        break;
    case K_STRING:
        emit_string(t, k);
        break;
    case K_JCC:
        emit_jcc(t, k);
        break;
    case K_LOOP: {
        s32 target = branch_target(t, k);
        u8 *to_taken;

        flags_leave(t, t->live[k]);
        t->in_host = false; /* both ways read v->cc */
        if (i->mnem == MN(LOOP))
            e_lea(e, RCX, RCX, -1, t->is64);
        if (!t->is64)
            e8(e, 0x67);
        e8(e, 0xe3), e8(e, i->mnem == MN(LOOP) ? 5 : 2);
        if (i->mnem != MN(LOOP))
            e8(e, 0xeb), e8(e, 5);
        to_taken = e_jmp(e, e->p + e->delta);
        t->exits[t->n_exits++] = (struct exit_stub){ to_taken, target, false };
        break;
    }
    case K_JMP:
        flags_leave(t, t->live[k]);
        emit_direct(t, branch_target(t, k));
        break;
    case K_CALL:
        flags_leave(t, t->live[k]);
        t->in_host = false;
        emit_push_return(t, k);
        emit_direct(t, branch_target(t, k));
        break;
    case K_JMP_IND:
        flags_leave(t, t->live[k]);
        t->in_host = false;
        emit_target(t, k);
        emit_indirect(t);
        break;
    case K_CALL_IND:
        flags_leave(t, t->live[k]);
        t->in_host = false;
        emit_target(t, k);
        e_store(e, OFF(scratch[1]), S1);
        emit_push_return(t, k);
        e_load(e, S1, OFF(scratch[1]));
        emit_indirect(t);
        break;
    case K_RET:
        flags_leave(t, t->live[k]);
        t->in_host = false;
        at = emit_stack(t, k, RSP, 0, false);
        emit_at(t, 0x8b, S1, at);
        e_lea(e, RSP, RSP, (s32)(w + (i->opcode == 0xc2 ? (i->imm & 0xffff) : 0)), t->is64);
        emit_indirect(t);
        break;
    case K_NONE:
        break;
    }
}

static void emit_stubs(struct trans *t)
{
    struct emit *e = &t->e;

    for (u32 k = 0; k < t->n_exits; k++) {
        struct exit_stub *x = &t->exits[k];
        e_here(e, x->jcc);
        if (x->save && flags_wanted(t, x->target))
            emit_flags_save(t);
        emit_direct(t, x->target);
    }
    for (u32 k = 0; k < t->n_interps; k++) {
        e_here(e, t->interps[k].jcc);
        emit_exit(t, CODE_EXIT_INTERP, t->off[t->interps[k].k]);
    }
    for (u32 k = 0; k < t->n_slow; k++) {
        struct slow *s = &t->slow[k];
        e_here(e, s->jcc);
        e_mov_imm32(e, S2, s->size | (s->write ? 0x10000 : 0));
        u8 *at = e_lea_rip(e, S3);
        u32 rel = (u32)(s->back - (at + 4));
        if (!e->full)
            for (int b = 0; b < 4; b++)
                at[b] = (u8)(rel >> (8 * b));
        e_jmp(e, t->cc->rx + t->cc->fill);
    }
}

/* One access of instruction k through `base`; may it share a check with the ones before? */
static void plan_access(struct trans *t, u32 k, s8 *open, u8 base, s32 from, u32 size,
                        bool write, s32 shift)
{
    s32 to = from + (s32)size;

    if (open[base] >= 0) {
        struct group *g = &t->groups[open[base]];
        s32 lo = MIN(g->lo, from), hi = MAX(g->hi, to);

        if (hi - lo <= GROUP_SPAN) {
            g->lo = lo;
            g->hi = hi;
            g->write |= write;
            g->n++;
            t->group_of[k] = open[base];
            return;
        }
    }
    open[base] = (s8)t->n_groups;
    t->group_of[k] = (s8)t->n_groups;
    t->groups[t->n_groups++] = (struct group){ base, from, to, shift, k, 1, write, -1 };
}

/* Which accesses share a check. */
static void plan_groups(struct trans *t, const enum kind *kinds)
{
    s8 open[16], w = t->is64 ? 8 : 4;
    s32 rsp = 0; /* how far RSP has moved since `open[RSP]` numbers began */
    s8 slots = 0;

    for (unsigned r = 0; r < ARRAY_LEN(open); r++)
        open[r] = -1;
    for (u32 k = 0; k < t->n; k++) {
        const struct insn *i = &t->i[k];
        u16 written = i->gpr_written;

        t->group_of[k] = -1;
        if (t->mode & CODE_NOSHARE)
            continue;
        switch (kinds[k]) {
        case K_PUSH:
            plan_access(t, k, open, RSP, rsp - w, (u32)w, true, rsp);
            rsp -= w;
            written = 0;
            break;
        case K_CALL:
        case K_CALL_IND:
            plan_access(t, k, open, RSP, rsp - w, (u32)w, true, rsp);
            break;
        case K_RET:
            plan_access(t, k, open, RSP, rsp, (u32)w, false, rsp);
            break;
        case K_POP:
            plan_access(t, k, open, RSP, rsp, (u32)w, false, rsp);
            rsp += w;
            written = (u16)(1 << i->op[0].reg);
            break;
        case K_LEAVE:
            plan_access(t, k, open, RBP, 0, (u32)w, false, 0);
            written = 1 << RSP | 1 << RBP;
            break;
        case K_PUSHF:
            rsp -= w;
            written = 0;
            break;
        case K_SIMPLE:
            if (i->has_mem && !i->mem_agen && i->base < 16 && i->index == GPR_NONE &&
                i->seg != FS && i->seg != GS && i->adsize == (t->is64 ? 8 : 4) &&
                i->disp >= -(1 << 20) && i->disp < 1 << 20 && rsp > -(1 << 20) && rsp < 1 << 20)
                plan_access(t, k, open, i->base, (s32)i->disp + (i->base == RSP ? rsp : 0),
                            i->mem_size, i->mem_access & OP_WRITE, i->base == RSP ? rsp : 0);
            if ((i->mnem == MN(ADD) || i->mnem == MN(SUB)) && i->op[0].kind == OP_GPR &&
                i->op[0].reg == RSP && i->op[1].kind == OP_IMM &&
                i->opsize == (t->is64 ? 8 : 4) && (s64)i->imm < 1 << 16 &&
                (s64)i->imm > -(1 << 16)) {
                rsp += i->mnem == MN(ADD) ? (s32)i->imm : -(s32)i->imm;
                written = 0;
            }
            break;
        default:
            break;
        }
        for (unsigned r = 0; r < ARRAY_LEN(open); r++)
            if (written & 1 << r)
                open[r] = -1;
        if (written & 1 << RSP)
            rsp = 0;
    }
    for (u32 g = 0; g < t->n_groups; g++)
        if (t->groups[g].n > 1 && slots < GROUPS)
            t->groups[g].slot = slots++;
    for (u32 k = 0; k < t->n; k++)
        if (t->group_of[k] >= 0 && t->groups[t->group_of[k]].slot < 0)
            t->group_of[k] = -1;
}

/* Will the instruction at `at` be translated in the same block? For STI's shadow. */
static bool followed(struct trans *t, s32 at)
{
    struct insn i;

    return t->n + 2 <= CODE_BLOCK_MAX_INSNS && at < 4096 &&
           insn_decode(t->page + at, (size_t)MIN(15, 4096 - at), t->mode & CODE_MODE, &i) ==
               0 &&
           classify(t->sv, &i, t->mode) != K_NONE;
}

struct block *trans_block(struct soft_vcpu *v, const u8 *page, u64 page_index, u16 off,
                          u16 mode, bool *ret_full)
{
    struct soft_vm *sv = v->sv;
    struct code_cache *cc = sv->code;
    g_autofree struct trans *t = g_new0(struct trans, 1);
    enum kind kinds[CODE_BLOCK_MAX_INSNS];
    s32 at = off;
    bool ends = false, interp = false;

    *ret_full = false;
    t->sv = sv;
    t->cc = cc;
    t->page = page;
    t->mode = mode;
    t->is64 = (mode & CODE_MODE) == MODE_64;
    t->cp = cc->pages[page_index];
    while (t->n < CODE_BLOCK_MAX_INSNS && !ends && at < 4096) {
        struct insn *i = &t->i[t->n];
        if (insn_decode(page + at, (size_t)MIN(15, 4096 - at), mode & CODE_MODE, i) != 0) {
            interp = true; /* invalid, or it crosses into the next page */
            break;
        }
        enum kind kind = classify(sv, i, mode);
        if (kind == K_STI && !followed(t, at + i->len))
            kind = K_NONE;
        if (kind == K_NONE) {
            interp = true;
            break;
        }
        kinds[t->n] = kind;
        t->off[t->n++] = (u16)at;
        mark_bytes(t->cp, (u32)at, i->len);
        at += i->len;
        ends = kind >= K_JMP;
    }
    if (interp)
        mark_bytes(t->cp, (u32)at, 15);
    t->off[t->n] = (u16)at;

    /* backward: who reads which flags */
    u16 live = FL_STATUS;
    if (ends && (kinds[t->n - 1] == K_JMP || kinds[t->n - 1] == K_CALL))
        live = flags_wanted(t, branch_target(t, t->n - 1));
    else if (!ends && !interp)
        live = flags_wanted(t, at);
    t->live[t->n] = live;
    for (u32 k = t->n; k-- > 0;) {
        const struct insn *i = &t->i[k];
        live = (live & ~flags_killed(i)) | i->fl_read;
        if (kinds[k] == K_PUSHF)
            live = FL_STATUS;
        if (kinds[k] == K_JCC || kinds[k] == K_LOOP)
            live |= flags_wanted(t, branch_target(t, k));
        t->live[k] = live;
    }

    if (t->cp->no_share[off >> 6] >> (off & 63) & 1)
        t->mode |= CODE_NOSHARE;
    plan_groups(t, kinds);
    u32 start = ROUND_UP(cc->pos, 16u);
    t->e = (struct emit){ .p = cc->rw + start,
                          .end = cc->rw + cc->limit - 64,
                          .delta = cc->rx - cc->rw };
    t->entry = t->e.p;
    if (start + 32 > cc->limit - 64) {
        *ret_full = true;
        return NULL;
    }
    /* cmp byte gs:[poll], 0; jne poll_exit */
    e_bytes(&t->e, (const u8[]){ 0x65, 0x80, 0x3c, 0x25 }, 4);
    e32(&t->e, OFF(poll));
    e8(&t->e, 0);
    u8 *poll = e_jcc(&t->e, 5, t->e.p + t->e.delta);
    t->in_cc = true;
    for (u32 k = 0; k < t->n; k++)
        emit_one(t, k, kinds[k]);
    if (!ends) {
        flags_leave(t, interp ? FL_STATUS : t->live[t->n]);
        if (interp)
            emit_exit(t, CODE_EXIT_INTERP, at);
        else
            emit_direct(t, at);
    }
    emit_stubs(t);
    e_here(&t->e, poll);
    u32 poll_exit = (u32)(t->e.p - cc->rw);
    emit_exit(t, CODE_EXIT_POLL, off);
    if (t->e.full) {
        *ret_full = true;
        return NULL;
    }

    struct block *b = g_new0(struct block, 1);
    b->page = page;
    b->page_index = page_index;
    b->off = off;
    b->mode = mode;
    b->code = start;
    b->code_len = (u32)(t->e.p - cc->rw) - start;
    b->poll_exit = poll_exit;
    b->n_sites = (u16)t->n;
    b->sites = g_memdup2(t->sites, t->n * sizeof *t->sites);
    for (u32 k = 0; k < t->n_links; k++) {
        if (cc->n_links == cc->cap_links) {
            cc->cap_links = cc->cap_links ? cc->cap_links * 2 : 4096;
            cc->links = g_renew(struct link, cc->links, cc->cap_links);
        }
        cc->links[cc->n_links++] = (struct link){ .at = t->links[k].at,
                                                  .stub = t->links[k].stub,
                                                  .target = t->links[k].target,
                                                  .from = b };
    }
    cc->pos = start + b->code_len;
    cc->n_translated++;
    cc->n_insns += t->n;
    return b;
}

u32 trans_single(struct soft_vm *sv, const struct insn *i, u8 *rw, u8 *end, const u8 *rx)
{
    g_autofree struct trans *t = g_new0(struct trans, 1);

    t->sv = sv;
    t->cc = sv->code;
    t->is64 = i->mode == MODE_64;
    t->single = true;
    t->e = (struct emit){ .p = rw, .end = end, .delta = rx - rw };
    t->entry = rw;
    t->n = 1;
    t->i[0] = *i;
    t->live[0] = t->live[1] = FL_STATUS;
    t->in_cc = true;
    t->group_of[0] = -1;
    emit_flags_restore(t);
    t->in_host = true;
    emit_simple(t, 0);
    if (t->in_host)
        emit_flags_save(t);
    e_mov_imm32(&t->e, S3, CODE_EXIT_NATIVE);
    e_rr(&t->e, 0x31, S2, S2, false);
    e_jmp(&t->e, t->cc->rx + t->cc->exit_off);
    return t->e.full ? 0 : (u32)(t->e.p - rw);
}
