// SPDX-License-Identifier: GPL-2.0-or-later
/* trans_classify.c - which instructions the translator knows (trans.h). */
#include "vmm/cpu/soft/trans.h"

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
    case MN(NOP): /* not 0F 0D of a register: vendors differ */
        return i->opcode != 0x0d || i->map != ZYDIS_OPCODE_MAP_0F || i->has_mem;
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

u16 trans_flags_killed(const struct insn *i)
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
    /* Nobody reads AF where it is undefined (logic, shifts); other undefined flags are kept as
     * they were, since processors differ in what they leave there. */
    return i->fl_write & ~(i->fl_undefined & ~FL_AF);
}

static bool is_string(const struct insn *i)
{
    return i->map == ZYDIS_OPCODE_MAP_DEFAULT && ((i->opcode >= 0xa4 && i->opcode <= 0xa7) ||
                                                  (i->opcode >= 0xaa && i->opcode <= 0xaf));
}

static bool is_jcc(const struct insn *i)
{
    if (i->map == ZYDIS_OPCODE_MAP_DEFAULT)
        return i->opcode >= 0x70 && i->opcode <= 0x7f;
    return i->map == ZYDIS_OPCODE_MAP_0F && i->opcode >= 0x80 && i->opcode <= 0x8f;
}

enum kind trans_classify(const struct soft_vm *sv, const struct insn *i, u16 mode)
{
    bool is64 = (mode & CODE_MODE) == MODE_64;
    bool full = i->opsize == (is64 ? 8 : 4); /* for stack and branch instructions */

    if (i->has_mem && !i->mem_agen) {
        if (!is64 && i->seg == CS) /* not writable, maybe not readable */
            return K_NONE;
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
    /* Targets are kept as 32 bits from the page's start. */
    if (is64 && i->nops && i->op[0].kind == OP_REL && (s64)i->imm > INT32_MAX - 8192)
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
        case MN(RDTSCP):
            if (!cpuid_has(&sv->cpuid, W_80000001_EDX, 27))
                return K_NONE;
            return mode & CODE_NOTSC ? K_NONE : K_RDTSC;
        case MN(RDTSC):
            return mode & CODE_NOTSC ? K_NONE : K_RDTSC;
        case MN(MOV):
            if (i->op[1].kind == OP_SEG && i->op[0].kind == OP_GPR)
                return K_FROMSEG;
            break;
        case MN(CLD):
            return K_CLD;
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
        case MN(JCXZ):
        case MN(JECXZ):
        case MN(JRCXZ):
            if (!is64 && i->prefixes & PFX_66) /* cuts EIP, as for Jcc */
                return K_NONE;
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
        if (is_string(i)) {
            if (i->adsize != (is64 ? 8 : 4) || i->seg == FS || i->seg == GS ||
                (!is64 && i->seg == CS))
                return K_NONE;
            if (!(i->prefixes & (PFX_REP | PFX_REPNE)))
                return K_STRING;
            return (i->opcode & 0xfe) == 0xa4 || (i->opcode & 0xfe) == 0xaa ? K_REP : K_NONE;
        }
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

const struct trans_decoded *trans_decode(struct trans *t, s32 at)
{
    const u8 *host = t->page + at;
    u16 mode = t->mode & ~CODE_NOSHARE;
    u64 h = (u64)(uintptr_t)host;
    struct trans_decoded *d = &t->decoded[(h ^ h >> 10) & (TRANS_DECODED - 1)];

    if (d->at == host && d->gen == t->gen && d->mode == mode)
        return d;
    d->at = NULL;
    if (insn_decode(host, (size_t)MIN(15, 4096 - at), mode & CODE_MODE, &d->i) != 0)
        return NULL;
    d->at = host;
    d->gen = t->gen;
    d->mode = mode;
    d->kind = trans_classify(t->sv, &d->i, mode);
    return d;
}
