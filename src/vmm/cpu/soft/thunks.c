// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * thunks.c - the pieces of host code that all blocks share: in, out, TLB fill.
 *
 * enter(v, code): System V call from C. Saves C's registers, loads the guest's, jumps.
 * leave:     guest registers to v->s.gpr, back to enter's caller.
 * exit_off:  R11 = exit code, R10 = offset of the next guest instruction from page_va.
 * exit_link: R11 = link, R10 as above.
 * lookup:    R9 = target VA: from the jump cache, see code_emit_lookup().
 * miss:      R9 = target VA that is not at R10, its first place in the jump cache.
 * fill:      R9 = VA, R10 = size | write << 16, R11 = where to go on with R10 = addend.
 * fill_traded: the same, but R11 only names the access; it goes on at scratch[6].
 * fill_stack, fill_stack_traded: the same for an access through RSP; its page is then at hand
 * in v->stack_tag, if it may be. fault:     entered by the signal handler, which has set
 * exit_arg to the faulting host PC.
 */
#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/emit.h"
#include "vmm/cpu/soft/native.h"

#define OFF(f)     ((u32)offsetof(struct soft_vcpu, f))
#define OFF_GPR(n) (OFF(s.gpr) + 8 * (n))

/* Guest registers that live in the host's. */
static const u8 mapped[] = { RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R12, R13, R14, R15 };
static const u8 c_saved[] = { RBX, RBP, R12, R13, R14, R15 };
/* Of the mapped ones those that a C function may destroy. */
static const u8 c_lost[] = { RAX, RCX, RDX, RSI, RDI, R8 };

/* To the code of R9 if it is what the jump cache's entry at R10 has, else to `miss`. */
static void emit_jump_if_found(struct emit *e, const u8 *miss)
{
    e_op_mem(e, 0x3b, R9, R10, 0xff, 1, offsetof(struct jump_cache_entry, va), true);
    e_jcc(e, 5, miss);
    e_op_mem(e, 0x8b, R11, R10, 0xff, 1, offsetof(struct jump_cache_entry, gen), false);
    e_gs(e, 0x3b, R11, OFF(jump_gen), false);
    e_jcc(e, 5, miss);
    e_op_mem(e, 0x8b, R11, R10, 0xff, 1, offsetof(struct jump_cache_entry, code), false);
    e_gs(e, 0x03, R11, OFF(code_base), true);
    e_alu_imm(e, 4, R9, (u32)-4096, true);
    e_store(e, OFF(page_va), R9);
    e_bytes(e, (const u8[]){ 0x41, 0xff, 0xe3 }, 3); /* jmp r11 */
}

/* jump_cache_at() */
void code_emit_lookup(struct emit *e, const u8 *miss)
{
    e_mov(e, R10, R9);
    e_rr(e, 0x89, R11, R9, false);
    e_shift(e, 4, R11, 28, false);
    e_shift(e, 5, R11, 20, false);
    e_rr(e, 0x31, R10, R11, false);
    e_alu_imm(e, 4, R10, (JUMP_CACHE_SIZE - 1) * sizeof(struct jump_cache_entry), false);
    e_gs(e, 0x03, R10, OFF(jump_cache), true);
    emit_jump_if_found(e, miss);
}

static void emit_exit_code(struct emit *e, u32 code)
{
    e8(e, 0x65), e8(e, 0xc7), e8(e, 0x04), e8(e, 0x25), e32(e, OFF(exit_code)), e32(e, code);
}

/* Under AC the TLB may let the kernel into user pages, which is over with the next CLAC: then
 * the page is not kept. */
static void emit_fill_stack(struct emit *e, struct code_cache *cc)
{
    u8 *slow[3], *not_kept;

    cc->fill_stack = (u32)(e->p - cc->rw);
    e_store(e, OFF(scratch[6]), R11);
    cc->fill_stack_traded = (u32)(e->p - cc->rw);
    e_store(e, OFF(scratch[5]), R11);
    e_store(e, OFF(scratch[11]), R10);
    e_store(e, OFF(scratch[12]), RAX);
    e_mov(e, R11, R9);
    e_shift(e, 5, R11, 12 - TLB_ENTRY_BITS, true);
    e_alu_imm(e, 4, R11, (TLB_SIZE - 1) * sizeof(struct tlb_entry), false);
    e_gs(e, 0x03, R11, OFF(tlb), true);
    e_mov(e, RAX, R9);
    e_op_mem(e, 0x2b, RAX, R11, 0xff, 1, offsetof(struct tlb_entry, rd), true);
    e_alu_imm(e, 7, RAX, 4095, true);
    slow[0] = e_jcc(e, 7, e->p + e->delta);
    e_bytes(e, (const u8[]){ 0x45, 0x0f, 0xb7, 0xd2 }, 4); /* movzx r10d, r10w */
    e_rr(e, 0x01, RAX, R10, true);
    e_alu_imm(e, 7, RAX, 4096, true);
    slow[1] = e_jcc(e, 7, e->p + e->delta);
    e_op_mem(e, 0x8b, RAX, R11, 0xff, 1, offsetof(struct tlb_entry, rd), true);
    e_op_mem(e, 0x3b, RAX, R11, 0xff, 1, offsetof(struct tlb_entry, wr), true);
    slow[2] = e_jcc(e, 5, e->p + e->delta);
    e_op_mem(e, 0x8b, R10, R11, 0xff, 1, offsetof(struct tlb_entry, addend), true);
    e_bytes(e, (const u8[]){ 0x65, 0xf6, 0x04, 0x25 }, 4); /* test byte gs:[], imm */
    e32(e, OFF(s.rflags) + 2), e8(e, FL_AC >> 16);
    not_kept = e_jcc(e, 5, e->p + e->delta);
    e_store(e, OFF(stack_tag), RAX);
    e_store(e, OFF(stack_addend), R10);
    e_here(e, not_kept);
    e_load(e, RAX, OFF(scratch[12]));
    e_load(e, R11, OFF(scratch[5]));
    e_bytes(e, (const u8[]){ 0x65, 0xff, 0x24, 0x25 }, 4); /* jmp gs:[scratch[6]] */
    e32(e, OFF(scratch[6]));
    for (unsigned k = 0; k < ARRAY_LEN(slow); k++)
        e_here(e, slow[k]);
    e_load(e, RAX, OFF(scratch[12]));
    e_load(e, R10, OFF(scratch[11]));
    e_load(e, R11, OFF(scratch[5]));
    e_jmp(e, cc->rx + cc->fill_traded);
}

void code_make_thunks(struct soft_vm *sv)
{
    struct code_cache *cc = sv->code;
    struct emit e = { .p = cc->rw + 64, .end = cc->rw + 8192, .delta = cc->rx - cc->rw };
    const u8 *leave;

    cc->enter = (u32)(e.p - cc->rw);
    for (unsigned k = 0; k < ARRAY_LEN(c_saved); k++) {
        if (c_saved[k] >= 8)
            e8(&e, 0x41);
        e8(&e, 0x50 | (c_saved[k] & 7));
    }
    e_lea(&e, RSP, RSP, -8, true); /* 16-byte aligned for calls from thunks */
    e_store(&e, OFF(host_rsp), RSP);
    e_mov(&e, R11, RSI);
    for (unsigned k = 0; k < ARRAY_LEN(mapped); k++)
        e_load(&e, mapped[k], OFF_GPR(mapped[k]));
    e_load(&e, RSP, OFF_GPR(RSP));
    e_bytes(&e, (const u8[]){ 0x41, 0xff, 0xe3 }, 3); /* jmp r11 */

    cc->leave = (u32)(e.p - cc->rw);
    leave = e.p + e.delta;
    for (unsigned k = 0; k < ARRAY_LEN(mapped); k++)
        e_store(&e, OFF_GPR(mapped[k]), mapped[k]);
    e_store(&e, OFF_GPR(RSP), RSP);
    e_load(&e, RSP, OFF(host_rsp));
    e_lea(&e, RSP, RSP, 8, true);
    for (unsigned k = ARRAY_LEN(c_saved); k-- > 0;) {
        if (c_saved[k] >= 8)
            e8(&e, 0x41);
        e8(&e, 0x58 | (c_saved[k] & 7));
    }
    e8(&e, 0xc3);

    cc->exit_link = (u32)(e.p - cc->rw);
    e_store(&e, OFF(exit_arg), R11);
    e_mov_imm32(&e, R11, CODE_EXIT_LINK);
    cc->exit_off = (u32)(e.p - cc->rw);
    e_gs(&e, 0x03, R10, OFF(page_va), true);
    e_store(&e, OFF(s.rip), R10);
    e_gs(&e, 0x89, R11, OFF(exit_code), false);
    e_jmp(&e, leave);

    u32 unknown = (u32)(e.p - cc->rw);
    e_store(&e, OFF(s.rip), R9);
    emit_exit_code(&e, CODE_EXIT_LOOKUP);
    e_jmp(&e, leave);

    cc->miss = (u32)(e.p - cc->rw);
    e_alu_imm(&e, 6, R10, sizeof(struct jump_cache_entry), true); /* xor: jump_cache_second() */
    emit_jump_if_found(&e, cc->rx + unknown);

    cc->lookup = (u32)(e.p - cc->rw);
    code_emit_lookup(&e, cc->rx + cc->miss);

    cc->fault = (u32)(e.p - cc->rw);
    emit_exit_code(&e, CODE_EXIT_FAULT);
    e_jmp(&e, leave);

    cc->fill = (u32)(e.p - cc->rw);
    e_store(&e, OFF(scratch[6]), R11);
    cc->fill_traded = (u32)(e.p - cc->rw);
    for (unsigned k = 0; k < ARRAY_LEN(c_lost); k++)
        e_store(&e, OFF_GPR(c_lost[k]), c_lost[k]);
    e_store(&e, OFF(scratch[4]), R9);
    e_store(&e, OFF(scratch[5]), R11);
    e_store(&e, OFF_GPR(RSP), RSP);
    e_load(&e, RSP, OFF(host_rsp));
    e_load(&e, RDI, OFF(self));
    e_mov(&e, RSI, R9);
    e_bytes(&e, (const u8[]){ 0x41, 0x0f, 0xb7, 0xd2 }, 4); /* movzx edx, r10w */
    e_rr(&e, 0x89, RCX, R10, false);
    e_shift(&e, 5, RCX, 16, false);
    e_mov_imm64(&e, RAX, (u64)(uintptr_t)native_fill);
    e8(&e, 0xff), e8(&e, 0xd0); /* call rax */
    e_mov(&e, R10, RAX);
    for (unsigned k = 0; k < ARRAY_LEN(c_lost); k++)
        e_load(&e, c_lost[k], OFF_GPR(c_lost[k]));
    e_load(&e, R9, OFF(scratch[4]));
    e_load(&e, R11, OFF(scratch[5]));
    e_load(&e, RSP, OFF_GPR(RSP));
    e_rr(&e, 0x85, R10, R10, true);
    u8 *none = e_jcc(&e, 4, e.p + e.delta);
    e_bytes(&e, (const u8[]){ 0x65, 0xff, 0x24, 0x25 }, 4); /* jmp gs:[scratch[6]] */
    e32(&e, OFF(scratch[6]));
    e_here(&e, none);
    e_store(&e, OFF(exit_arg), R11);
    emit_exit_code(&e, CODE_EXIT_SLOW);
    e_jmp(&e, leave);

    emit_fill_stack(&e, cc);
    g_assert(!e.full);
    cc->start = cc->pos = ROUND_UP((u32)(e.p - cc->rw), 64u);
}
