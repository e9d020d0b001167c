// SPDX-License-Identifier: GPL-2.0-or-later
/* insn.c - from Zydis's view of an instruction to ours (insn.h). */
#include "vmm/cpu/soft/insn.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#include "vmm/cpu/x86/state.h"

static bool reg_to_op(ZydisRegister r, struct insn_op *op)
{
    s8 id = ZydisRegisterGetId(r);

    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        op->kind = OP_GPR;
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
            op->kind = OP_HIGH8;
            op->reg = (u8)(r - ZYDIS_REGISTER_AH);
        } else if (r <= ZYDIS_REGISTER_BL) {
            op->reg = (u8)(r - ZYDIS_REGISTER_AL);
        } else {
            op->reg = (u8)(r - ZYDIS_REGISTER_SPL + 4);
        }
        return true;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        op->kind = OP_GPR;
        break;
    case ZYDIS_REGCLASS_X87:
        op->kind = OP_ST;
        break;
    case ZYDIS_REGCLASS_MMX:
        op->kind = OP_MM;
        break;
    case ZYDIS_REGCLASS_XMM:
        op->kind = OP_XMM;
        break;
    case ZYDIS_REGCLASS_YMM:
        op->kind = OP_YMM;
        break;
    case ZYDIS_REGCLASS_SEGMENT:
        op->kind = OP_SEG;
        break;
    case ZYDIS_REGCLASS_CONTROL:
        op->kind = OP_CR;
        break;
    case ZYDIS_REGCLASS_DEBUG:
        op->kind = OP_DR;
        break;
    case ZYDIS_REGCLASS_MASK:
        op->kind = OP_K;
        break;
    case ZYDIS_REGCLASS_BOUND:
        op->kind = OP_BND;
        break;
    default:
        op->kind = OP_OTHER;
    }
    op->reg = (u8)id;
    return true;
}

static u8 gpr_number(ZydisRegister r)
{
    if (r == ZYDIS_REGISTER_NONE)
        return GPR_NONE;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return GPR_RIP;
    return (u8)ZydisRegisterGetId(r);
}

static u8 seg_number(ZydisRegister r)
{
    switch (r) {
    case ZYDIS_REGISTER_ES:
        return ES;
    case ZYDIS_REGISTER_CS:
        return CS;
    case ZYDIS_REGISTER_SS:
        return SS;
    case ZYDIS_REGISTER_FS:
        return FS;
    case ZYDIS_REGISTER_GS:
        return GS;
    default:
        return DS;
    }
}

static void take_memory(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *o,
                        struct insn *i, u8 access)
{
    i->has_mem = true;
    i->mem_vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    i->mem_agen = o->mem.type == ZYDIS_MEMOP_TYPE_AGEN;
    i->seg = seg_number(o->mem.segment);
    i->base = gpr_number(o->mem.base);
    i->index = gpr_number(o->mem.index);
    i->scale = o->mem.scale ? o->mem.scale : 1;
    i->disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0;
    i->mem_size16 = (u16)(o->size / 8);
    i->mem_size = i->mem_size16 > 64 ? 0 : (u8)i->mem_size16;
    i->mem_access = access;
    i->disp_at = z->raw.disp.offset;
    i->disp_size = z->raw.disp.size / 8;
}

int insn_decode(const u8 *bytes, size_t n, enum insn_mode mode, struct insn *i)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth width;
    } modes[] = {
        [MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
        [MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
        [MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
    };
    ZydisDecoder d;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    ZydisDecoderInit(&d, modes[mode].mode, modes[mode].width);
    /* Hosts that lack an extension decode its prefix space as the older instruction does. */
    ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
    ZydisDecoderContext ctx;
    ZyanStatus st = ZydisDecoderDecodeInstruction(&d, &ctx, bytes, n, &z);

    if (ZYAN_SUCCESS(st))
        st = ZydisDecoderDecodeOperands(&d, &ctx, &z, ops, ZYDIS_MAX_OPERAND_COUNT);
    if (st == ZYDIS_STATUS_NO_MORE_DATA)
        return n >= 15 ? -E2BIG : -EAGAIN;
    if (st == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return -E2BIG;
    if (ZYAN_FAILED(st))
        return -EILSEQ;

    memset(i, 0, sizeof *i);
    memcpy(i->bytes, bytes, z.length);
    i->len = z.length;
    i->mode = mode;
    i->mnem = (u16)z.mnemonic;
    i->opsize = z.operand_width / 8;
    i->adsize = z.address_width / 8;
    i->map = (u8)z.opcode_map;
    i->opcode = z.opcode;
    i->isa = (u8)z.meta.isa_set;
    i->base = i->index = GPR_NONE;
    i->scale = 1;
    i->seg = DS;
    switch (z.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        i->enc = ENC_LEGACY;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW:
        i->enc = ENC_3DNOW;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        i->enc = ENC_VEX;
        i->vex_len = z.raw.vex.L;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        i->enc = ENC_EVEX;
        break;
    default:
        i->enc = ENC_OTHER;
    }
    for (u8 p = 0; p < z.raw.prefix_count; p++) {
        switch (z.raw.prefixes[p].value) {
        case 0xf0:
            i->prefixes |= PFX_LOCK;
            break;
        case 0xf3:
            i->prefixes = (i->prefixes & ~PFX_REPNE) | PFX_REP;
            break;
        case 0xf2:
            i->prefixes = (i->prefixes & ~PFX_REP) | PFX_REPNE;
            break;
        case 0x66:
            i->prefixes |= PFX_66;
            break;
        case 0x67:
            i->prefixes |= PFX_67;
            break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            if (mode == MODE_64)
                break;
            __attribute__((fallthrough));
        case 0x64:
        case 0x65: {
            static const u8 seg_of[] = {
                [0x26] = ES, [0x2e] = CS, [0x36] = SS, [0x3e] = DS, [0x64] = FS, [0x65] = GS
            };
            i->seg_override = true;
            i->seg = seg_of[z.raw.prefixes[p].value];
            break;
        }
        }
    }
    if (z.attributes & ZYDIS_ATTRIB_HAS_REX) {
        i->rex = bytes[z.raw.rex.offset];
        i->prefixes |= PFX_REX | (z.raw.rex.W ? PFX_REXW : 0);
    }
    i->has_modrm = !!(z.attributes & ZYDIS_ATTRIB_HAS_MODRM);
    if (i->has_modrm) {
        i->modrm_at = z.raw.modrm.offset;
        i->modrm = bytes[i->modrm_at];
        i->opcode_at = i->modrm_at - 1;
    } else {
        u8 tail = z.raw.disp.size / 8 + z.raw.imm[0].size / 8 + z.raw.imm[1].size / 8;
        i->opcode_at = z.length - tail - 1;
    }
    i->imm_at = z.raw.imm[0].offset;
    i->imm_size = z.raw.imm[0].size / 8;

    for (u8 k = 0; k < z.operand_count_visible && k < ARRAY_LEN(i->op); k++) {
        const ZydisDecodedOperand *o = &ops[k];
        struct insn_op *op = &i->op[i->nops++];

        op->size = (u8)MIN(o->size / 8, 255);
        op->access = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? OP_READ : 0) |
                     (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? OP_WRITE : 0);
        switch (o->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            reg_to_op(o->reg.value, op);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            op->kind = OP_MEM;
            take_memory(&z, o, i, op->access);
            break;
        case ZYDIS_OPERAND_TYPE_POINTER:
            op->kind = OP_FAR;
            i->imm = o->ptr.offset;
            i->imm2 = o->ptr.segment;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            op->kind = o->imm.is_relative ? OP_REL : OP_IMM;
            if (k > 0 && i->op[k - 1].kind == OP_IMM)
                i->imm2 = (u32)o->imm.value.u;
            else
                i->imm = o->imm.is_signed ? (u64)o->imm.value.s : o->imm.value.u;
            break;
        default:
            op->kind = OP_NONE;
        }
    }
    for (u8 k = 0; k < z.operand_count; k++) {
        if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
            struct insn_op op = { 0 };
            reg_to_op(ops[k].reg.value, &op);
            if (op.kind == OP_GPR || op.kind == OP_HIGH8)
                i->gpr_written |= (u16)(1 << op.reg);
        }
        switch (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER
                    ? ZydisRegisterGetClass(ops[k].reg.value)
                    : ZYDIS_REGCLASS_INVALID) {
        case ZYDIS_REGCLASS_X87:
        case ZYDIS_REGCLASS_MMX:
        case ZYDIS_REGCLASS_XMM:
        case ZYDIS_REGCLASS_YMM:
        case ZYDIS_REGCLASS_ZMM:
            i->vector = true;
            break;
        default:
            break;
        }
    }
    if (z.fpu_flags && (z.fpu_flags->modified | z.fpu_flags->tested | z.fpu_flags->undefined |
                        z.fpu_flags->set_0 | z.fpu_flags->set_1))
        i->vector = true;
    switch (z.meta.category) {
    case ZYDIS_CATEGORY_X87_ALU:
    case ZYDIS_CATEGORY_MMX:
    case ZYDIS_CATEGORY_SSE:
    case ZYDIS_CATEGORY_FCMOV:
        i->vector = true;
        break;
    default:
        break;
    }
    if (z.mnemonic == ZYDIS_MNEMONIC_LDMXCSR || z.mnemonic == ZYDIS_MNEMONIC_STMXCSR ||
        z.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || z.mnemonic == ZYDIS_MNEMONIC_VSTMXCSR ||
        z.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || z.mnemonic == ZYDIS_MNEMONIC_VZEROALL ||
        z.mnemonic == ZYDIS_MNEMONIC_EMMS)
        i->vector = true;
    /* Zydis 4.0 sees R13 as a base where mod 0 with base 5 means "disp32 alone". */
    if (i->has_mem && i->adsize != 2 && (i->modrm & 0xc7) == 4 &&
        (bytes[i->modrm_at + 1] & 7) == 5 && i->base != GPR_NONE) {
        s32 disp;

        memcpy(&disp, bytes + i->modrm_at + 2, 4);
        i->base = GPR_NONE;
        i->disp = disp;
        i->disp_at = i->modrm_at + 2;
        i->disp_size = 4;
        if (!i->seg_override)
            i->seg = DS;
    }
    /* And PAUSE where REX.B makes it XCHG R8, RAX. */
    if (z.mnemonic == ZYDIS_MNEMONIC_PAUSE && (i->rex & 1)) {
        u8 size = i->rex & 8 ? 8 : i->prefixes & PFX_66 ? 2 : 4;

        i->mnem = ZYDIS_MNEMONIC_XCHG;
        i->opsize = size;
        i->nops = 2;
        i->op[0] = (struct insn_op){ OP_GPR, 8, size, OP_READ | OP_WRITE };
        i->op[1] = (struct insn_op){ OP_GPR, 0, size, OP_READ | OP_WRITE };
    }
    /* CVTTSD2SI r, m and the like show general registers alone. */
    if (z.meta.category == ZYDIS_CATEGORY_CONVERT &&
        (z.meta.isa_set == ZYDIS_ISA_SET_SSE || z.meta.isa_set == ZYDIS_ISA_SET_SSE2 ||
         z.meta.isa_set == ZYDIS_ISA_SET_AVX))
        i->vector = true;
    i->avx = i->enc == ENC_VEX && i->vector;
    if (z.cpu_flags) {
        const ZydisAccessedFlags *f = z.cpu_flags;

        i->fl_read = (u16)(f->tested & FL_STATUS);
        i->fl_undefined = (u16)(f->undefined & ~(f->modified | f->set_0 | f->set_1) & FL_STATUS);
        i->fl_write = (u16)((f->modified | f->set_0 | f->set_1 | f->undefined) & FL_STATUS);
    }
    return 0;
}

const char *insn_name(u16 mnem)
{
    const char *name = ZydisMnemonicGetString((ZydisMnemonic)mnem);

    return name ? name : "?";
}

void insn_format(const struct insn *i, u64 rip, char *to, size_t n)
{
    ZydisDisassembledInstruction d;
    ZydisMachineMode mode = i->mode == MODE_64   ? ZYDIS_MACHINE_MODE_LONG_64
                            : i->mode == MODE_32 ? ZYDIS_MACHINE_MODE_LEGACY_32
                                                 : ZYDIS_MACHINE_MODE_LEGACY_16;

    if (ZYAN_SUCCESS(ZydisDisassembleIntel(mode, rip, i->bytes, i->len, &d)))
        g_strlcpy(to, d.text, n);
    else
        g_strlcpy(to, "(undecodable)", n);
}
