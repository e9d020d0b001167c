// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp.h - what the files of the interpreter share.
 *
 * A handler runs one instruction.  It commits nothing before its last possible fault, and
 * leaves a fault by interp_throw(), which returns to interp_exec() (or to the delivery of an
 * event). v->x.next_rip is RIP after the instruction; jumps change it.
 */
#pragma once

#include <stdatomic.h>

#include "vmm/cpu/soft/soft.h"

/* ---- host memory ----------------------------------------------------------------------------
 */
struct host_u16 {
    u16 v;
} __attribute__((packed, may_alias));
struct host_u32 {
    u32 v;
} __attribute__((packed, may_alias));
struct host_u64 {
    u64 v;
} __attribute__((packed, may_alias));

static inline u64 host_load(const void *p, unsigned size)
{
    switch (size) {
    case 1:
        return *(const volatile u8 *)p;
    case 2:
        return ((const volatile struct host_u16 *)p)->v;
    case 4:
        return ((const volatile struct host_u32 *)p)->v;
    default:
        return ((const volatile struct host_u64 *)p)->v;
    }
}

static inline void host_store(void *p, unsigned size, u64 val)
{
    switch (size) {
    case 1:
        *(volatile u8 *)p = (u8)val;
        break;
    case 2:
        ((volatile struct host_u16 *)p)->v = (u16)val;
        break;
    case 4:
        ((volatile struct host_u32 *)p)->v = (u32)val;
        break;
    default:
        ((volatile struct host_u64 *)p)->v = val;
    }
}

/* By general registers, whatever libc does. */
static inline void bytes_copy(void *to, const void *from, u64 n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void bytes_zero(void *to, u64 n)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}

static inline bool canonical(u64 va)
{
    return (u64)((s64)(va << 16) >> 16) == va;
}

static inline u64 mask_of(unsigned size)
{
    return size >= 8 ? ~0ull : BIT(8 * size) - 1;
}

static inline u64 sext(u64 val, unsigned size)
{
    unsigned k = 64 - 8 * size;

    return (u64)((s64)(val << k) >> k);
}

/* ---- faults ---------------------------------------------------------------------------------
 */
NORETURN static inline void interp_throw(struct soft_vcpu *v) /* v->fault is set */
{
    __builtin_longjmp(v->x.jump, 1);
}
NORETURN void throw_vec(struct soft_vcpu *, u8 vector);            /* without error code */
NORETURN void throw_err(struct soft_vcpu *, u8 vector, u32 error); /* with */
#define throw_ud(v) throw_vec(v, EXC_UD)
#define throw_gp(v) throw_err(v, EXC_GP, 0)

static inline bool is_real(const struct soft_vcpu *v)
{
    return !(v->s.cr0 & CR0_PE);
}
static inline bool is_v86(const struct soft_vcpu *v)
{
    return v->s.rflags & FL_VM;
}
static inline bool is_prot(const struct soft_vcpu *v) /* protected, not V86 */
{
    return (v->s.cr0 & CR0_PE) && !(v->s.rflags & FL_VM);
}
static inline bool is_long(const struct soft_vcpu *v) /* IA-32e: compatibility or 64-bit */
{
    return v->s.msr.efer & EFER_LMA;
}
static inline unsigned iopl_of(const struct soft_vcpu *v)
{
    return (v->s.rflags >> 12) & 3;
}

/* ---- linear addresses and segments
 * ------------------------------------------------------------
 */
/* Full checks of a segmented access, mode below 64-bit. Throws. */
u64 seg_linear(struct soft_vcpu *, unsigned seg, u64 off, unsigned size, bool write);
NORETURN void throw_noncanonical(struct soft_vcpu *, unsigned seg);
void align_check(struct soft_vcpu *, u64 la, unsigned size); /* #AC */

static inline u64 linear(struct soft_vcpu *v, unsigned seg, u64 off, unsigned size, bool write)
{
    if (likely(v->mode == MODE_64)) {
        if (unlikely(seg >= FS))
            off += v->s.seg[seg].base;
        if (unlikely(!canonical(off) || !canonical(off + size - 1)))
            throw_noncanonical(v, seg);
        if (unlikely(v->x.align))
            align_check(v, off, size);
        return off;
    }
    off = seg_linear(v, seg, off, size, write);
    if (unlikely(v->x.align))
        align_check(v, off, size);
    return off;
}

/* Offset of the memory operand, cut to the address size. */
static inline u64 mem_offset(const struct soft_vcpu *v, const struct insn *i)
{
    u64 a = (u64)i->disp;

    if (i->base != GPR_NONE)
        a += i->base == GPR_RIP ? v->s.rip + i->len : v->s.gpr[i->base];
    if (i->index != GPR_NONE)
        a += v->s.gpr[i->index] * i->scale;
    return a & mask_of(i->adsize);
}

/* Linear address of `size` bytes at the memory operand + add. */
static inline u64 mem_linear(struct soft_vcpu *v, const struct insn *i, u64 add, unsigned size,
                             bool write)
{
    return linear(v, i->seg, (mem_offset(v, i) + add) & mask_of(i->adsize), size, write);
}

/* ---- memory by linear address; all throw
 * ------------------------------------------------------
 */
u64 lin_read_slow(struct soft_vcpu *, u64 la, unsigned size, enum tlb_class);
void lin_write_slow(struct soft_vcpu *, u64 la, unsigned size, u64 val, enum tlb_class);

static inline u64 lin_read(struct soft_vcpu *v, u64 la, unsigned size)
{
    const struct tlb_entry *e = &v->tlb[(la >> 12) & (TLB_SIZE - 1)];

    if (likely(la - e->rd <= 4096 - size))
        return host_load((void *)(uintptr_t)(la + e->addend), size);
    return lin_read_slow(v, la, size, soft_class(v));
}

static inline void lin_write(struct soft_vcpu *v, u64 la, unsigned size, u64 val)
{
    const struct tlb_entry *e = &v->tlb[(la >> 12) & (TLB_SIZE - 1)];

    if (likely(la - e->wr <= 4096 - size))
        host_store((void *)(uintptr_t)(la + e->addend), size, val);
    else
        lin_write_slow(v, la, size, val, soft_class(v));
}

static inline void lin_probe(struct soft_vcpu *v, u64 la, unsigned size)
{
    if (!mmu_probe(v, la, size, MMU_WRITE, soft_class(v)))
        interp_throw(v);
}

/* As the system does: descriptor tables, TSS, inner stacks. */
static inline u64 sys_read(struct soft_vcpu *v, u64 la, unsigned size)
{
    return lin_read_slow(v, la, size, TLB_KERNEL);
}
static inline void sys_write(struct soft_vcpu *v, u64 la, unsigned size, u64 val)
{
    lin_write_slow(v, la, size, val, TLB_KERNEL);
}

/*
 * RAM that has no write entry because its writes are watched (code, a breakpoint): the place
 * for a read-modify-write, atomic with what others do by their write entries.  NULL: no RAM, or
 * ROM. mmu_late_done() tells who watches, after the write.
 */
u8 *mmu_late_ptr(struct soft_vcpu *, gpa at);
void mmu_late_done(struct soft_vcpu *, u64 la, gpa at, unsigned size);

/* ---- registers and operands
 * -------------------------------------------------------------------
 */
static inline u64 gpr_get(const struct soft_vcpu *v, unsigned reg, unsigned size)
{
    return v->s.gpr[reg] & mask_of(size);
}

static inline void gpr_set(struct soft_vcpu *v, unsigned reg, unsigned size, u64 val)
{
    switch (size) {
    case 8:
        v->s.gpr[reg] = val;
        break;
    case 4:
        v->s.gpr[reg] = (u32)val;
        break;
    case 2:
        v->s.gpr[reg] = (v->s.gpr[reg] & ~0xffffull) | (u16)val;
        break;
    default:
        v->s.gpr[reg] = (v->s.gpr[reg] & ~0xffull) | (u8)val;
    }
}

u64 op_get_other(struct soft_vcpu *, const struct insn *, const struct insn_op *);

static inline u64 op_get(struct soft_vcpu *v, const struct insn *i, unsigned n)
{
    const struct insn_op *o = &i->op[n];

    switch (o->kind) {
    case OP_GPR:
        return gpr_get(v, o->reg, o->size);
    case OP_MEM:
        return lin_read(v, mem_linear(v, i, 0, o->size, false), o->size);
    case OP_IMM:
        return i->imm;
    default:
        return op_get_other(v, i, o);
    }
}

static inline void op_set(struct soft_vcpu *v, const struct insn *i, unsigned n, u64 val)
{
    const struct insn_op *o = &i->op[n];

    if (o->kind == OP_GPR)
        gpr_set(v, o->reg, o->size, val);
    else if (o->kind == OP_MEM)
        lin_write(v, mem_linear(v, i, 0, o->size, true), o->size, val);
    else /* OP_HIGH8 */
        v->s.gpr[o->reg & 3] = (v->s.gpr[o->reg & 3] & ~0xff00ull) | (val & 0xff) << 8;
}

/* ---- stack
 * ------------------------------------------------------------------------------------ A run of
 * pushes or pops on the current stack that commits RSP at its end.
 */
struct stack {
    u64 sp, mask;
};
static inline u64 stack_mask(const struct soft_vcpu *v)
{
    return v->mode == MODE_64 ? ~0ull : v->s.seg[SS].attr & ATTR_DB ? 0xffffffff : 0xffff;
}
static inline struct stack stack_open(const struct soft_vcpu *v)
{
    return (struct stack){ v->s.gpr[RSP], stack_mask(v) };
}
static inline void stack_push(struct soft_vcpu *v, struct stack *k, unsigned size, u64 val)
{
    u64 at = (k->sp - size) & k->mask;

    lin_write(v, linear(v, SS, at, size, true), size, val);
    k->sp = (k->sp & ~k->mask) | at;
}
static inline u64 stack_pop(struct soft_vcpu *v, struct stack *k, unsigned size)
{
    u64 at = k->sp & k->mask;
    u64 val = lin_read(v, linear(v, SS, at, size, false), size);

    k->sp = (k->sp & ~k->mask) | ((at + size) & k->mask);
    return val;
}
static inline void stack_close(struct soft_vcpu *v, const struct stack *k)
{
    if (k->mask == 0xffffffff)
        v->s.gpr[RSP] = (u32)k->sp;
    else
        v->s.gpr[RSP] = k->sp;
}

/* Near jump: checks the limit of CS, or that it is canonical, then sets next_rip. Throws. */
void jump_near(struct soft_vcpu *, u64 rip);

/* ---- seg.c
 * ------------------------------------------------------------------------------------
 */
struct desc {
    u32 lo, hi;
    u64 base_hi; /* of a 16-byte system descriptor */
    u64 at;      /* linear address */
};
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15,
};
static inline unsigned desc_type(const struct desc *d)
{
    return (d->hi >> 8) & 15;
}
static inline bool desc_s(const struct desc *d)
{
    return d->hi & (1u << 12);
}
static inline unsigned desc_dpl(const struct desc *d)
{
    return (d->hi >> 13) & 3;
}
static inline bool desc_p(const struct desc *d)
{
    return d->hi & (1u << 15);
}
static inline bool desc_code(const struct desc *d)
{
    return (d->hi & 0x1800) == 0x1800;
}
u32 desc_limit(const struct desc *);
u64 desc_base(const struct desc *);
/* Reads a descriptor; beyond the table or null: throws `vec`(sel | ext). */
void desc_read(struct soft_vcpu *, u16 sel, u8 vec, u32 ext, struct desc *ret);
bool desc_find(struct soft_vcpu *, u16 sel, struct desc *ret); /* false: beyond the table */
void desc_accessed(struct soft_vcpu *, u16 sel, struct desc *);
void desc_to_seg(const struct desc *, u16 sel, struct x86_seg *ret);
/* Real and V86 mode: base = sel << 4. */
void seg_real(struct soft_vcpu *, unsigned seg, u16 sel);
/* MOV/POP/LxS into a segment register (not CS). Throws. */
void seg_load(struct soft_vcpu *, unsigned seg, u16 sel);
/* Checks sel as SS for privilege cpl; vec: EXC_TS for inner stacks, EXC_GP for returns. */
void seg_check_ss(struct soft_vcpu *, u16 sel, unsigned cpl, u8 vec, u32 ext,
                  struct x86_seg *ret);
/* After a return to an outer level: DS..GS that cpl may not use become null. */
void seg_drop_outer(struct soft_vcpu *, unsigned cpl);
/* Stack pointer for `cpl` out of the TSS. */
void tss_stack(struct soft_vcpu *, unsigned cpl, u32 ext, u16 *ret_ss, u64 *ret_sp);

/* ---- handlers
 * ---------------------------------------------------------------------------------
 */
typedef void interp_fn(struct soft_vcpu *, const struct insn *);
/* Segments and far transfers, seg.c and exc.c */
interp_fn op_mov_to_seg, op_pop_seg, op_lxs, op_far_jmp, op_far_call, op_far_ret, op_lgdt,
    op_lidt, op_sgdt, op_sidt, op_lldt, op_ltr, op_sldt, op_str, op_lar, op_lsl, op_verr,
    op_verw, op_arpl, op_iret;
/* exc.c: INT n and its kin. Never returns normally. */
void soft_int(struct soft_vcpu *, u8 vector, bool gate_dpl);
/* sys.c */
interp_fn op_mov_cr, op_mov_dr, op_lmsw, op_smsw, op_clts, op_invlpg, op_invpcid, op_wbinvd,
    op_rdmsr, op_wrmsr, op_rdtsc, op_rdtscp, op_rdpmc, op_rdpid, op_cpuid, op_xgetbv, op_xsetbv,
    op_hlt, op_in, op_out, op_cli, op_sti, op_clac, op_stac, op_swapgs, op_fsgsbase, op_syscall,
    op_sysret, op_sysenter, op_sysexit;
void io_check(struct soft_vcpu *, u16 port, unsigned size);
/* string.c */
interp_fn op_movs, op_stos, op_lods, op_cmps, op_scas, op_ins, op_outs;
/* interp_fpu.c: vector, x87, save areas; and whatever else runs natively */
interp_fn op_vector, op_native, op_fnstenv, op_fldenv, op_fxsave, op_fxrstor, op_xsave,
    op_xrstor, op_maskmov, op_vmaskmov, op_gather;
/* Is this instruction's set announced to the guest? */
bool isa_allowed(const struct soft_vcpu *, const struct insn *);

/* interp_int.c fills these in; NULL: by kind (vector, native, #UD). */
extern interp_fn *const interp_table[];
