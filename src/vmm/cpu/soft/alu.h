// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * alu.h - arithmetic on operands of 1, 2, 4 and 8 bytes with the status flags that the host
 * computes for it, undefined ones included, so that they are those of translated code.
 *
 * Each function takes RFLAGS in *fl and leaves the new ones there.
 */
#pragma once

#include "vmm/cpu/soft/interp.h"

/* AL = OF, AH = the others, as SETO and LAHF give them. */
static inline u32 alu_flags(u32 fl, u32 ax, u32 which)
{
    u32 n = ((ax >> 8) & 0xd5) | (ax & 1) << 11;

    return (fl & ~which) | (n & which);
}

#define ALU_TAIL "\n\tlahf\n\tseto %%al"

#define ALU_BIN_CASE(T, ins, pre, which)                                                       \
    {                                                                                          \
        T x_ = (T)a;                                                                           \
        u32 ax_;                                                                               \
        __asm__(pre ins " %[b],%[x]" ALU_TAIL                                                  \
                : [x] "+q"(x_), "=&a"(ax_)                                                     \
                : [b] "q"((T)b), [fl] "r"(*fl)                                                 \
                : "cc");                                                                       \
        *fl = alu_flags(*fl, ax_, which);                                                      \
        return x_;                                                                             \
    }
#define ALU_BIN(name, ins, pre)                                                                \
    static inline u64 name(unsigned size, u64 a, u64 b, u32 *fl)                               \
    {                                                                                          \
        switch (size) {                                                                        \
        case 1:                                                                                \
            ALU_BIN_CASE(u8, ins "b", pre, FL_STATUS)                                          \
        case 2:                                                                                \
            ALU_BIN_CASE(u16, ins "w", pre, FL_STATUS)                                         \
        case 4:                                                                                \
            ALU_BIN_CASE(u32, ins "l", pre, FL_STATUS)                                         \
        default:                                                                               \
            ALU_BIN_CASE(u64, ins "q", pre, FL_STATUS)                                         \
        }                                                                                      \
    }
ALU_BIN(alu_add, "add", "")
ALU_BIN(alu_or, "or", "")
ALU_BIN(alu_adc, "adc", "btl $0,%[fl]\n\t")
ALU_BIN(alu_sbb, "sbb", "btl $0,%[fl]\n\t")
ALU_BIN(alu_and, "and", "")
ALU_BIN(alu_sub, "sub", "")
ALU_BIN(alu_xor, "xor", "")

#define ALU_UN_CASE(T, ins, which)                                                             \
    {                                                                                          \
        T x_ = (T)a;                                                                           \
        u32 ax_;                                                                               \
        __asm__(ins " %[x]" ALU_TAIL : [x] "+q"(x_), "=&a"(ax_) : : "cc");                     \
        *fl = alu_flags(*fl, ax_, which);                                                      \
        return x_;                                                                             \
    }
#define ALU_UN(name, ins, which)                                                               \
    static inline u64 name(unsigned size, u64 a, u64 b UNUSED, u32 *fl)                        \
    {                                                                                          \
        switch (size) {                                                                        \
        case 1:                                                                                \
            ALU_UN_CASE(u8, ins "b", which)                                                    \
        case 2:                                                                                \
            ALU_UN_CASE(u16, ins "w", which)                                                   \
        case 4:                                                                                \
            ALU_UN_CASE(u32, ins "l", which)                                                   \
        default:                                                                               \
            ALU_UN_CASE(u64, ins "q", which)                                                   \
        }                                                                                      \
    }
ALU_UN(alu_inc, "inc", FL_STATUS & ~FL_CF)
ALU_UN(alu_dec, "dec", FL_STATUS & ~FL_CF)
ALU_UN(alu_neg, "neg", FL_STATUS)

static inline u64 alu_not(unsigned size, u64 a, u64 b UNUSED, u32 *fl UNUSED)
{
    return ~a & mask_of(size);
}

static inline u64 alu_mov(unsigned size UNUSED, u64 a UNUSED, u64 b, u32 *fl UNUSED)
{
    return b;
}

/* Shifts and rotates; b is the count. */
#define ALU_SH_CASE(T, ins, which)                                                             \
    {                                                                                          \
        T x_ = (T)a;                                                                           \
        u32 ax_;                                                                               \
        __asm__("btl $0,%[fl]\n\t" ins " %%cl,%[x]" ALU_TAIL                                   \
                : [x] "+q"(x_), "=&a"(ax_)                                                     \
                : "c"((u32)b), [fl] "r"(*fl)                                                   \
                : "cc");                                                                       \
        *fl = alu_flags(*fl, ax_, which);                                                      \
        return x_;                                                                             \
    }
#define ALU_SH(name, ins, which)                                                               \
    static inline u64 name(unsigned size, u64 a, u64 b, u32 *fl)                               \
    {                                                                                          \
        b &= size == 8 ? 63 : 31;                                                              \
        if (b == 0)                                                                            \
            return a;                                                                          \
        switch (size) {                                                                        \
        case 1:                                                                                \
            ALU_SH_CASE(u8, ins "b", which)                                                    \
        case 2:                                                                                \
            ALU_SH_CASE(u16, ins "w", which)                                                   \
        case 4:                                                                                \
            ALU_SH_CASE(u32, ins "l", which)                                                   \
        default:                                                                               \
            ALU_SH_CASE(u64, ins "q", which)                                                   \
        }                                                                                      \
    }
ALU_SH(alu_shl, "shl", FL_STATUS)
ALU_SH(alu_shr, "shr", FL_STATUS)
ALU_SH(alu_sar, "sar", FL_STATUS)
ALU_SH(alu_rol, "rol", FL_CF | FL_OF)
ALU_SH(alu_ror, "ror", FL_CF | FL_OF)
ALU_SH(alu_rcl, "rcl", FL_CF | FL_OF)
ALU_SH(alu_rcr, "rcr", FL_CF | FL_OF)

/* SHLD, SHRD: b = the register shifted in, count beside it. */
#define ALU_DSH_CASE(T, ins)                                                                   \
    {                                                                                          \
        T x_ = (T)a;                                                                           \
        u32 ax_;                                                                               \
        __asm__(ins " %%cl,%[b],%[x]" ALU_TAIL                                                 \
                : [x] "+r"(x_), "=&a"(ax_)                                                     \
                : "c"((u32)n), [b] "r"((T)b)                                                   \
                : "cc");                                                                       \
        *fl = alu_flags(*fl, ax_, FL_STATUS);                                                  \
        return x_;                                                                             \
    }
#define ALU_DSH(name, ins)                                                                     \
    static inline u64 name(unsigned size, u64 a, u64 b, unsigned n, u32 *fl)                   \
    {                                                                                          \
        n &= size == 8 ? 63 : 31;                                                              \
        if (!n)                                                                                \
            return a;                                                                          \
        switch (size) {                                                                        \
        case 2:                                                                                \
            ALU_DSH_CASE(u16, ins "w")                                                         \
        case 4:                                                                                \
            ALU_DSH_CASE(u32, ins "l")                                                         \
        default:                                                                               \
            ALU_DSH_CASE(u64, ins "q")                                                         \
        }                                                                                      \
    }
ALU_DSH(alu_shld, "shld")
ALU_DSH(alu_shrd, "shrd")

/*
 * The one-operand multiplications and divisions: hi:lo with b; sizes 2, 4, 8. Flags go in, as
 * processors leave some alone.  The caller has made sure that a division does not overflow.
 */
#define ALU_WIDE_CASE(T, ins)                                                                  \
    {                                                                                          \
        u64 lo_ = *lo, hi_ = *hi;                                                              \
        u32 ax_ = ((*fl & 0xd5) | 2) << 8 | ((*fl >> 11) & 1);                                 \
        __asm__("xchgq %%rax,%q[ax]\n\taddb $0x7f,%%al\n\tsahf\n\txchgq %%rax,%q[ax]\n\t" ins  \
                " %[b]\n\txchgq %%rax,%q[ax]\n\tlahf\n\tseto %%al\n\txchgq %%rax,%q[ax]"       \
                : "+a"(lo_), "+d"(hi_), [ax] "+r"(ax_)                                         \
                : [b] "r"((T)b)                                                                \
                : "cc");                                                                       \
        *lo = (T)lo_;                                                                          \
        *hi = (T)hi_;                                                                          \
        *fl = alu_flags(*fl, ax_, FL_STATUS);                                                  \
    }                                                                                          \
    break
#define ALU_WIDE(name, ins)                                                                    \
    static inline void name(unsigned size, u64 *lo, u64 *hi, u64 b, u32 *fl)                   \
    {                                                                                          \
        switch (size) {                                                                        \
        case 2:                                                                                \
            ALU_WIDE_CASE(u16, ins "w");                                                       \
        case 4:                                                                                \
            ALU_WIDE_CASE(u32, ins "l");                                                       \
        default:                                                                               \
            ALU_WIDE_CASE(u64, ins "q");                                                       \
        }                                                                                      \
    }
ALU_WIDE(alu_mul, "mul")
ALU_WIDE(alu_imul, "imul")
ALU_WIDE(alu_div, "div")
ALU_WIDE(alu_idiv, "idiv")
/* Bytes: AX with b. */
#define ALU_WIDE8(name, ins)                                                                   \
    static inline u64 name(u64 a, u64 b, u32 *fl)                                              \
    {                                                                                          \
        u32 ax_ = ((*fl & 0xd5) | 2) << 8 | ((*fl >> 11) & 1);                                 \
        __asm__("xchgq %%rax,%q[ax]\n\taddb $0x7f,%%al\n\tsahf\n\txchgq %%rax,%q[ax]\n\t" ins  \
                "b %[b]\n\txchgq %%rax,%q[ax]\n\tlahf\n\tseto %%al\n\txchgq %%rax,%q[ax]"      \
                : "+a"(a), [ax] "+r"(ax_)                                                      \
                : [b] "r"((u8)b)                                                               \
                : "cc");                                                                       \
        *fl = alu_flags(*fl, ax_, FL_STATUS);                                                  \
        return a & 0xffff;                                                                     \
    }
ALU_WIDE8(alu_mul8, "mul")
ALU_WIDE8(alu_imul8, "imul")
ALU_WIDE8(alu_div8, "div")
ALU_WIDE8(alu_idiv8, "idiv")

/* IMUL with two operands. */
#define ALU_IMUL2_CASE(T, ins)                                                                 \
    {                                                                                          \
        T x_ = (T)a;                                                                           \
        u32 ax_ = ((*fl & 0xd5) | 2) << 8 | ((*fl >> 11) & 1);                                 \
        __asm__("addb $0x7f,%%al\n\tsahf\n\t" ins " %[b],%[x]" ALU_TAIL                        \
                : [x] "+r"(x_), "+a"(ax_)                                                      \
                : [b] "r"((T)b)                                                                \
                : "cc");                                                                       \
        *fl = alu_flags(*fl, ax_, FL_STATUS);                                                  \
        return x_;                                                                             \
    }
static inline u64 alu_imul2(unsigned size, u64 a, u64 b, u32 *fl)
{
    switch (size) {
    case 2:
        ALU_IMUL2_CASE(u16, "imulw")
    case 4:
        ALU_IMUL2_CASE(u32, "imull")
    default:
        ALU_IMUL2_CASE(u64, "imulq")
    }
}

/* Bit operations: b = bit number within the operand. Only CF changes. */
static inline u32 bit_flag(u32 fl, u64 a, u64 b)
{
    return (fl & ~(u32)FL_CF) | ((a >> b) & 1);
}
static inline u64 alu_bt(unsigned size UNUSED, u64 a, u64 b, u32 *fl)
{
    *fl = bit_flag(*fl, a, b);
    return a;
}
static inline u64 alu_bts(unsigned size UNUSED, u64 a, u64 b, u32 *fl)
{
    *fl = bit_flag(*fl, a, b);
    return a | BIT(b);
}
static inline u64 alu_btr(unsigned size UNUSED, u64 a, u64 b, u32 *fl)
{
    *fl = bit_flag(*fl, a, b);
    return a & ~BIT(b);
}
static inline u64 alu_btc(unsigned size UNUSED, u64 a, u64 b, u32 *fl)
{
    *fl = bit_flag(*fl, a, b);
    return a ^ BIT(b);
}

/* ---- read-modify-write
 * ------------------------------------------------------------------------
 */
typedef u64 alu_fn(unsigned size, u64 a, u64 b, u32 *fl);

/* Compare-exchange of host memory, any alignment, as LOCK does it. */
static inline bool host_cas(void *p, unsigned size, u64 old, u64 val)
{
    bool ok;

    switch (size) {
    case 1:
        __asm__ volatile("lock cmpxchgb %b3,%1"
                         : "=@ccz"(ok), "+m"(*(u8 *)p), "+a"(old)
                         : "q"(val)
                         : "memory");
        break;
    case 2:
        __asm__ volatile("lock cmpxchgw %w3,%1"
                         : "=@ccz"(ok), "+m"(*(struct host_u16 *)p), "+a"(old)
                         : "r"(val)
                         : "memory");
        break;
    case 4:
        __asm__ volatile("lock cmpxchgl %k3,%1"
                         : "=@ccz"(ok), "+m"(*(struct host_u32 *)p), "+a"(old)
                         : "r"(val)
                         : "memory");
        break;
    default:
        __asm__ volatile("lock cmpxchgq %3,%1"
                         : "=@ccz"(ok), "+m"(*(struct host_u64 *)p), "+a"(old)
                         : "r"(val)
                         : "memory");
    }
    return ok;
}

/* What cmpxchg leaves in the accumulator. */
static inline u64 host_cas_old(void *p, unsigned size, u64 acc, u64 val)
{
    switch (size) {
    case 1:
        __asm__ volatile("lock cmpxchgb %b2,%0"
                         : "+m"(*(u8 *)p), "+a"(acc)
                         : "q"(val)
                         : "cc", "memory");
        break;
    case 2:
        __asm__ volatile("lock cmpxchgw %w2,%0"
                         : "+m"(*(struct host_u16 *)p), "+a"(acc)
                         : "r"(val)
                         : "cc", "memory");
        break;
    case 4:
        __asm__ volatile("lock cmpxchgl %k2,%0"
                         : "+m"(*(struct host_u32 *)p), "+a"(acc)
                         : "r"(val)
                         : "cc", "memory");
        break;
    default:
        __asm__ volatile("lock cmpxchgq %2,%0"
                         : "+m"(*(struct host_u64 *)p), "+a"(acc)
                         : "r"(val)
                         : "cc", "memory");
    }
    return acc & mask_of(size);
}

/* Where a read-modify-write takes place. host NULL: the slow way; rights are checked. */
struct rmw_place {
    u8 *host;
    gpa late; /* not ~0: mmu_late_done() is to be called */
};

/* The part of rmw_place() beyond a TLB hit. */
struct rmw_place rmw_place_slow(struct soft_vcpu *, u64 la, unsigned size);

static inline struct rmw_place rmw_place(struct soft_vcpu *v, u64 la, unsigned size)
{
    const struct tlb_entry *e = &v->tlb[(la >> 12) & (TLB_SIZE - 1)];

    if (likely(la - e->wr <= 4096 - size))
        return (struct rmw_place){ (u8 *)(uintptr_t)(la + e->addend), ~0ull };
    return rmw_place_slow(v, la, size);
}

static inline void rmw_done(struct soft_vcpu *v, struct rmw_place w, u64 la, unsigned size)
{
    if (unlikely(w.late != ~0ull))
        mmu_late_done(v, la, w.late, size);
}

/* The slow way, one at a time when locked. Returns what the memory had before. */
u64 rmw_slow(struct soft_vcpu *, u64 la, unsigned size, bool locked, alu_fn *, u64 b, u32 *fl);

/* *p = fn(*p, b); returns the old value. Flags are committed by the caller. */
static inline __attribute__((always_inline)) u64
rmw_at(struct soft_vcpu *v, u64 la, unsigned size, bool locked, alu_fn *fn, u64 b, u32 *fl)
{
    struct rmw_place w = rmw_place(v, la, size);
    u32 in = *fl;
    u64 old;

    if (unlikely(!w.host))
        return rmw_slow(v, la, size, locked, fn, b, fl);
    if (unlikely(locked)) {
        do {
            old = host_load(w.host, size);
            *fl = in;
        } while (!host_cas(w.host, size, old, fn(size, old, b, fl)));
    } else {
        old = host_load(w.host, size);
        host_store(w.host, size, fn(size, old, b, fl));
    }
    rmw_done(v, w, la, size);
    return old;
}
