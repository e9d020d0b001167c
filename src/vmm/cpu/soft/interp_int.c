// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp_int.c - integer instructions: moves, arithmetic, shifts, bits, locked forms.
 * SDM volume 2.
 */
#include "vmm/cpu/soft/interp_int.h"
#include "vmm/cpu/soft/alu.h"

struct rmw_place rmw_place_slow(struct soft_vcpu *v, u64 la, unsigned size)
{
    struct rmw_place w = { NULL, ~0ull };
    bool mmio;
    gpa at;

    if ((la & 4095) + size > 4096) {
        lin_probe(v, la, size);
        return w;
    }
    w.host = mmu_ptr(v, la, size, MMU_WRITE, soft_class(v), &mmio, &at);
    if (w.host)
        return w;
    if (!mmio)
        interp_throw(v);
    w.host = mmu_late_ptr(v, at);
    if (w.host)
        w.late = at;
    return w;
}

/*
 * A locked access that the host's own lock cannot do.  Across two pages of RAM it is alone
 * among all accesses of all vCPUs; to a device (whose registers nobody locks) among its own
 * kind.
 */
static bool locked_begin(struct soft_vcpu *v, u64 la, unsigned size)
{
    bool crosses = (la & 4095) + size > 4096;

    soft_fp_save(v);
    if (crosses)
        soft_exclusive_begin(v);
    else
        pthread_mutex_lock(&v->sv->atomic_lock);
    return crosses;
}

static void locked_end(struct soft_vcpu *v, bool crosses)
{
    if (crosses)
        soft_exclusive_end(v);
    else
        pthread_mutex_unlock(&v->sv->atomic_lock);
}

u64 rmw_slow(struct soft_vcpu *v, u64 la, unsigned size, bool locked, alu_fn *fn, u64 b,
             u32 *fl)
{
    enum tlb_class cls = soft_class(v);
    u64 old = 0, val;
    bool ok, crosses;

    if (!locked) {
        old = lin_read_slow(v, la, size, cls);
        lin_write_slow(v, la, size, fn(size, old, b, fl), cls);
        return old;
    }
    crosses = locked_begin(v, la, size);
    ok = mmu_read(v, la, &old, size, cls);
    if (ok) {
        val = fn(size, old, b, fl);
        ok = mmu_write(v, la, &val, size, cls);
    }
    locked_end(v, crosses);
    if (!ok)
        interp_throw(v);
    return old;
}

/* op[0] = fn(op[0], b) */
static inline __attribute__((always_inline)) void rmw(struct soft_vcpu *v, const struct insn *i,
                                                      alu_fn *fn, u64 b)
{
    u32 fl = (u32)v->s.rflags;
    unsigned size = i->op[0].size;

    if (i->op[0].kind == OP_MEM)
        rmw_at(v, mem_linear(v, i, 0, size, true), size, i->prefixes & PFX_LOCK, fn, b, &fl);
    else
        op_set(v, i, 0, fn(size, op_get(v, i, 0), b, &fl));
    v->s.rflags = fl;
}

#define OP_BIN(name)                                                                           \
    static void op_##name(struct soft_vcpu *v, const struct insn *i)                           \
    {                                                                                          \
        rmw(v, i, alu_##name, op_get(v, i, 1));                                                \
    }
OP_BIN(add)
OP_BIN(or)
OP_BIN(adc)
OP_BIN(sbb)
OP_BIN(and)
OP_BIN(sub)
OP_BIN(xor)
#define OP_UN(name)                                                                            \
    static void op_##name(struct soft_vcpu *v, const struct insn *i)                           \
    {                                                                                          \
        rmw(v, i, alu_##name, 0);                                                              \
    }
OP_UN(inc)
OP_UN(dec)
OP_UN(neg)
OP_UN(not )

static void op_cmp(struct soft_vcpu *v, const struct insn *i)
{
    u32 fl = (u32)v->s.rflags;

    alu_sub(i->op[0].size, op_get(v, i, 0), op_get(v, i, 1), &fl);
    v->s.rflags = fl;
}

static void op_test(struct soft_vcpu *v, const struct insn *i)
{
    u32 fl = (u32)v->s.rflags;

    alu_and(i->op[0].size, op_get(v, i, 0), op_get(v, i, 1), &fl);
    v->s.rflags = fl;
}

/* Shift counts: an immediate, CL, or an implicit 1. */
static inline u64 shift_count(struct soft_vcpu *v, const struct insn *i, unsigned n)
{
    return i->nops > n ? op_get(v, i, n) & 0xff : 1;
}

#define OP_SHIFT(name)                                                                         \
    static void op_##name(struct soft_vcpu *v, const struct insn *i)                           \
    {                                                                                          \
        rmw(v, i, alu_##name, shift_count(v, i, 1));                                           \
    }
OP_SHIFT(shl)
OP_SHIFT(shr)
OP_SHIFT(sar)
OP_SHIFT(rol)
OP_SHIFT(ror)
OP_SHIFT(rcl)
OP_SHIFT(rcr)

static void double_shift(struct soft_vcpu *v, const struct insn *i, bool left)
{
    unsigned size = i->op[0].size, n = (unsigned)shift_count(v, i, 2);
    u64 b = op_get(v, i, 1), a, la = 0;
    u32 fl = (u32)v->s.rflags;

    if (i->op[0].kind == OP_MEM) {
        la = mem_linear(v, i, 0, size, true);
        lin_probe(v, la, size);
        a = lin_read(v, la, size);
    } else {
        a = op_get(v, i, 0);
    }
    a = left ? alu_shld(size, a, b, n, &fl) : alu_shrd(size, a, b, n, &fl);
    if (i->op[0].kind == OP_MEM)
        lin_write(v, la, size, a);
    else
        op_set(v, i, 0, a);
    v->s.rflags = fl;
}

static void op_shld(struct soft_vcpu *v, const struct insn *i)
{
    double_shift(v, i, true);
}

static void op_shrd(struct soft_vcpu *v, const struct insn *i)
{
    double_shift(v, i, false);
}

/* ---- moves ----------------------------------------------------------------------------------
 */
static void op_mov(struct soft_vcpu *v, const struct insn *i)
{
    switch (i->op[0].kind) {
    case OP_SEG:
        op_mov_to_seg(v, i);
        return;
    case OP_CR:
        op_mov_cr(v, i);
        return;
    case OP_DR:
        op_mov_dr(v, i);
        return;
    default:
        break;
    }
    if (unlikely(i->op[1].kind == OP_CR)) {
        op_mov_cr(v, i);
        return;
    }
    if (unlikely(i->op[1].kind == OP_DR)) {
        op_mov_dr(v, i);
        return;
    }
    op_set(v, i, 0, op_get(v, i, 1));
}

static void op_movzx(struct soft_vcpu *v, const struct insn *i)
{
    op_set(v, i, 0, op_get(v, i, 1));
}

static void op_movsx(struct soft_vcpu *v, const struct insn *i)
{
    op_set(v, i, 0, sext(op_get(v, i, 1), i->op[1].size));
}

static void op_lea(struct soft_vcpu *v, const struct insn *i)
{
    op_set(v, i, 0, mem_offset(v, i));
}

static u64 swap_bytes(u64 x, unsigned size)
{
    return size == 8   ? __builtin_bswap64(x)
           : size == 4 ? __builtin_bswap32((u32)x)
                       : __builtin_bswap16((u16)x);
}

static void op_movbe(struct soft_vcpu *v, const struct insn *i)
{
    if (!isa_allowed(v, i))
        throw_ud(v);
    op_set(v, i, 0, swap_bytes(op_get(v, i, 1), i->op[0].size));
}

static void op_bswap(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;

    /* Of a 16-bit register: undefined; processors clear it. */
    op_set(v, i, 0, size == 2 ? 0 : swap_bytes(op_get(v, i, 0), size));
}

static void op_xlat(struct soft_vcpu *v, const struct insn *i)
{
    u64 off = (v->s.gpr[RBX] + (v->s.gpr[RAX] & 0xff)) & mask_of(i->adsize);

    gpr_set(v, RAX, 1, lin_read(v, linear(v, i->seg, off, 1, false), 1));
}

static void op_xchg(struct soft_vcpu *v, const struct insn *i)
{
    unsigned m = i->op[0].kind == OP_MEM ? 0 : 1, r = !m, size = i->op[0].size;
    u64 a, b;

    if (i->op[m].kind == OP_MEM) {
        u32 fl = 0;

        a = rmw_at(v, mem_linear(v, i, 0, size, true), size, true, alu_mov, op_get(v, i, r),
                   &fl);
        op_set(v, i, r, a);
        return;
    }
    a = op_get(v, i, 0);
    b = op_get(v, i, 1);
    op_set(v, i, 0, b);
    op_set(v, i, 1, a);
}

static void op_xadd(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    u32 fl = (u32)v->s.rflags;
    u64 b = op_get(v, i, 1), a;

    if (i->op[0].kind == OP_MEM) {
        a = rmw_at(v, mem_linear(v, i, 0, size, true), size, i->prefixes & PFX_LOCK, alu_add, b,
                   &fl);
        op_set(v, i, 1, a);
    } else {
        a = op_get(v, i, 0);
        op_set(v, i, 1, a);
        op_set(v, i, 0, alu_add(size, a, b, &fl));
    }
    v->s.rflags = fl;
}

static void op_cmpxchg(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    u32 fl = (u32)v->s.rflags;
    u64 b = op_get(v, i, 1), acc = gpr_get(v, RAX, size), a;

    if (i->op[0].kind == OP_MEM) {
        u64 la = mem_linear(v, i, 0, size, true);
        bool locked = i->prefixes & PFX_LOCK, ok = true;
        struct rmw_place w = rmw_place(v, la, size);

        if (w.host) {
            if (locked) {
                a = host_cas_old(w.host, size, acc, b);
            } else {
                a = host_load(w.host, size);
                if (a == acc)
                    host_store(w.host, size, b);
            }
            rmw_done(v, w, la, size);
        } else {
            bool crosses = locked && locked_begin(v, la, size);

            a = 0;
            ok = mmu_read(v, la, &a, size, soft_class(v)) &&
                 mmu_write(v, la, a == acc ? &b : &a, size, soft_class(v));
            if (locked)
                locked_end(v, crosses);
            if (!ok)
                interp_throw(v);
        }
    } else {
        a = op_get(v, i, 0);
        if (a == acc)
            op_set(v, i, 0, b);
    }
    alu_sub(size, acc, a, &fl);
    if (a != acc)
        gpr_set(v, RAX, size, a);
    v->s.rflags = fl;
}

static void op_cmpxchg8b(struct soft_vcpu *v, const struct insn *i)
{
    u64 la = mem_linear(v, i, 0, 8, true), old, val;
    u64 want = gpr_get(v, RDX, 4) << 32 | gpr_get(v, RAX, 4);
    struct rmw_place w = rmw_place(v, la, 8);

    val = gpr_get(v, RCX, 4) << 32 | gpr_get(v, RBX, 4);
    if (w.host) {
        old = host_cas_old(w.host, 8, want, val);
        rmw_done(v, w, la, 8);
    } else {
        bool ok, crosses = locked_begin(v, la, 8);

        old = 0;
        ok = mmu_read(v, la, &old, 8, soft_class(v)) &&
             mmu_write(v, la, old == want ? &val : &old, 8, soft_class(v));
        locked_end(v, crosses);
        if (!ok)
            interp_throw(v);
    }
    if (old == want) {
        v->s.rflags |= FL_ZF;
        return;
    }
    v->s.rflags &= ~(u64)FL_ZF;
    gpr_set(v, RAX, 4, old);
    gpr_set(v, RDX, 4, old >> 32);
}

static void op_cmpxchg16b(struct soft_vcpu *v, const struct insn *i)
{
    u64 la = mem_linear(v, i, 0, 16, true), old[2], val[2] = { v->s.gpr[RBX], v->s.gpr[RCX] };
    struct rmw_place w;

    if (!isa_allowed(v, i))
        throw_ud(v);
    if (la & 15)
        throw_gp(v);
    w = rmw_place(v, la, 16);
    old[0] = v->s.gpr[RAX];
    old[1] = v->s.gpr[RDX];
    if (w.host) {
        __asm__ volatile("lock cmpxchg16b %0"
                         : "+m"(*(__uint128_t *)(void *)w.host), "+a"(old[0]), "+d"(old[1])
                         : "b"(val[0]), "c"(val[1])
                         : "cc", "memory");
        rmw_done(v, w, la, 16);
    } else {
        bool ok, crosses = locked_begin(v, la, 16);

        ok = mmu_read(v, la, old, 16, soft_class(v)) &&
             mmu_write(v, la, old[0] == v->s.gpr[RAX] && old[1] == v->s.gpr[RDX] ? val : old,
                       16, soft_class(v));
        locked_end(v, crosses);
        if (!ok)
            interp_throw(v);
    }
    if (old[0] == v->s.gpr[RAX] && old[1] == v->s.gpr[RDX]) {
        v->s.rflags |= FL_ZF;
        return;
    }
    v->s.rflags &= ~(u64)FL_ZF;
    v->s.gpr[RAX] = old[0];
    v->s.gpr[RDX] = old[1];
}

/* ---- multiply, divide
 * -------------------------------------------------------------------------
 */
static void mul_wide(struct soft_vcpu *v, const struct insn *i, bool sign)
{
    unsigned size = i->op[0].size;
    u64 b = op_get(v, i, 0), lo, hi;
    u32 fl = (u32)v->s.rflags;

    if (size == 1) {
        u64 a = gpr_get(v, RAX, 1);

        gpr_set(v, RAX, 2, sign ? alu_imul8(a, b, &fl) : alu_mul8(a, b, &fl));
        v->s.rflags = fl;
        return;
    }
    lo = gpr_get(v, RAX, size);
    hi = gpr_get(v, RDX, size);
    if (sign)
        alu_imul(size, &lo, &hi, b, &fl);
    else
        alu_mul(size, &lo, &hi, b, &fl);
    gpr_set(v, RAX, size, lo);
    gpr_set(v, RDX, size, hi);
    v->s.rflags = fl;
}

static void op_mul(struct soft_vcpu *v, const struct insn *i)
{
    mul_wide(v, i, false);
}

static void op_imul(struct soft_vcpu *v, const struct insn *i)
{
    unsigned first = i->nops == 2 ? 0 : 1;
    u32 fl = (u32)v->s.rflags;

    if (i->nops == 1) {
        mul_wide(v, i, true);
        return;
    }
    op_set(v, i, 0,
           alu_imul2(i->op[0].size, op_get(v, i, first), op_get(v, i, first + 1), &fl));
    v->s.rflags = fl;
}

static void op_div(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    u64 d = op_get(v, i, 0), hi, lo;
    u32 fl = (u32)v->s.rflags;

    if (size == 1) {
        lo = gpr_get(v, RAX, 2);
        if (lo >> 8 >= d)
            throw_vec(v, EXC_DE);
        gpr_set(v, RAX, 2, alu_div8(lo, d, &fl));
        v->s.rflags = fl;
        return;
    }
    hi = gpr_get(v, RDX, size);
    lo = gpr_get(v, RAX, size);
    if (hi >= d) /* d == 0, too */
        throw_vec(v, EXC_DE);
    alu_div(size, &lo, &hi, d, &fl);
    gpr_set(v, RAX, size, lo);
    gpr_set(v, RDX, size, hi);
    v->s.rflags = fl;
}

/* Does n / d fit into a signed number of `bits` bits? By magnitudes. */
static bool quotient_fits(__int128 n, s64 d, unsigned bits)
{
    unsigned __int128 un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n;
    u64 ud = d < 0 ? -(u64)d : (u64)d;
    unsigned __int128 max = ((unsigned __int128)1 << (bits - 1)) - ((n < 0) == (d < 0));

    /* |n| / |d| <= max */
    return ud && un < (max + 1) * ud;
}

static void op_idiv(struct soft_vcpu *v, const struct insn *i)
{
    unsigned size = i->op[0].size;
    u64 d = sext(op_get(v, i, 0), size), hi, lo;
    u32 fl = (u32)v->s.rflags;
    __int128 n;

    if (size == 1) {
        lo = gpr_get(v, RAX, 2);
        if (!quotient_fits((s16)lo, (s64)d, 8))
            throw_vec(v, EXC_DE);
        gpr_set(v, RAX, 2, alu_idiv8(lo, d, &fl));
        v->s.rflags = fl;
        return;
    }
    hi = gpr_get(v, RDX, size);
    lo = gpr_get(v, RAX, size);
    if (size == 8)
        n = (__int128)((unsigned __int128)hi << 64 | lo);
    else
        n = (s64)sext(hi << (8 * size) | lo, 2 * size);
    if (!quotient_fits(n, (s64)d, 8 * size))
        throw_vec(v, EXC_DE);
    alu_idiv(size, &lo, &hi, d, &fl);
    gpr_set(v, RAX, size, lo);
    gpr_set(v, RDX, size, hi);
    v->s.rflags = fl;
}

/* ---- bits -----------------------------------------------------------------------------------
 */
static inline __attribute__((always_inline)) void
bit_op(struct soft_vcpu *v, const struct insn *i, alu_fn *fn, bool write)
{
    unsigned size = i->op[0].size;
    u64 b = op_get(v, i, 1), add = 0;
    u32 fl = (u32)v->s.rflags;

    if (i->op[0].kind != OP_MEM) {
        u64 r = fn(size, op_get(v, i, 0), b & (8 * size - 1), &fl);

        if (write)
            op_set(v, i, 0, r);
        v->s.rflags = fl;
        return;
    }
    if (i->op[1].kind != OP_IMM) { /* a register selects the word, too */
        s64 n = (s64)sext(b, size);

        add = (u64)((n >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (s64)size);
    }
    b &= 8 * size - 1;
    if (write)
        rmw_at(v, mem_linear(v, i, add, size, true), size, i->prefixes & PFX_LOCK, fn, b, &fl);
    else
        fn(size, lin_read(v, mem_linear(v, i, add, size, false), size), b, &fl);
    v->s.rflags = fl;
}

static void op_bt(struct soft_vcpu *v, const struct insn *i)
{
    bit_op(v, i, alu_bt, false);
}

static void op_bts(struct soft_vcpu *v, const struct insn *i)
{
    bit_op(v, i, alu_bts, true);
}

static void op_btr(struct soft_vcpu *v, const struct insn *i)
{
    bit_op(v, i, alu_btr, true);
}

static void op_btc(struct soft_vcpu *v, const struct insn *i)
{
    bit_op(v, i, alu_btc, true);
}

static void bit_scan(struct soft_vcpu *v, const struct insn *i, bool forward)
{
    u64 b = op_get(v, i, 1);

    if (!b) { /* the destination stays, on all processors that there are */
        v->s.rflags |= FL_ZF;
        return;
    }
    v->s.rflags &= ~(u64)FL_ZF;
    op_set(v, i, 0, (u64)(forward ? __builtin_ctzll(b) : 63 - __builtin_clzll(b)));
}

static void op_bsf(struct soft_vcpu *v, const struct insn *i)
{
    bit_scan(v, i, true);
}

static void op_bsr(struct soft_vcpu *v, const struct insn *i)
{
    bit_scan(v, i, false);
}

/* Without the extension the prefix means nothing. */
static void op_tzcnt(struct soft_vcpu *v, const struct insn *i)
{
    if (isa_allowed(v, i))
        op_native(v, i);
    else
        op_bsf(v, i);
}

static void op_lzcnt(struct soft_vcpu *v, const struct insn *i)
{
    if (isa_allowed(v, i))
        op_native(v, i);
    else
        op_bsr(v, i);
}

/* ---- decimal
 * ---------------------------------------------------------------------------------
 */
static void flags_of_al(struct soft_vcpu *v, u64 keep)
{
    u8 al = (u8)v->s.gpr[RAX];

    v->s.rflags &= ~(u64)(FL_STATUS & ~keep);
    if (!al)
        v->s.rflags |= FL_ZF;
    if (al & 0x80)
        v->s.rflags |= FL_SF;
    if (!__builtin_parity(al))
        v->s.rflags |= FL_PF;
}

static void decimal_adjust(struct soft_vcpu *v, bool sub)
{
    u8 al = (u8)v->s.gpr[RAX], old = al;
    bool cf = v->s.rflags & FL_CF, af = v->s.rflags & FL_AF, old_cf = cf;

    cf = false;
    if ((al & 15) > 9 || af) {
        cf = old_cf || (sub ? al < 6 : al > 0xf9);
        al = (u8)(sub ? al - 6 : al + 6);
        af = true;
    } else {
        af = false;
    }
    if (old > 0x99 || old_cf) {
        al = (u8)(sub ? al - 0x60 : al + 0x60);
        cf = true;
    }
    gpr_set(v, RAX, 1, al);
    flags_of_al(v, 0);
    v->s.rflags |= (cf ? FL_CF : 0) | (af ? FL_AF : 0);
}

static void op_daa(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    decimal_adjust(v, false);
}

static void op_das(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    decimal_adjust(v, true);
}

static void ascii_adjust(struct soft_vcpu *v, int by)
{
    u16 ax = (u16)v->s.gpr[RAX];

    v->s.rflags &= ~(u64)FL_CF;
    if ((ax & 15) > 9 || (v->s.rflags & FL_AF)) {
        ax = (u16)(by > 0 ? ax + 0x106 : ax - 0x106);
        v->s.rflags |= FL_CF | FL_AF;
    } else {
        v->s.rflags &= ~(u64)FL_AF;
    }
    gpr_set(v, RAX, 2, ax & 0xff0f);
}

static void op_aaa(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    ascii_adjust(v, 1);
}

static void op_aas(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    ascii_adjust(v, -1);
}

static void op_aam(struct soft_vcpu *v, const struct insn *i)
{
    u8 base = (u8)i->imm, al = (u8)v->s.gpr[RAX];

    if (!base)
        throw_vec(v, EXC_DE);
    gpr_set(v, RAX, 2, (u64)(al / base) << 8 | al % base);
    flags_of_al(v, 0);
}

static void op_aad(struct soft_vcpu *v, const struct insn *i)
{
    u16 ax = (u16)v->s.gpr[RAX];

    gpr_set(v, RAX, 2, (u8)((ax & 0xff) + (ax >> 8) * (u8)i->imm));
    flags_of_al(v, 0);
}

/* ---- flags, widening ------------------------------------------------------------------------
 */
static void op_clc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags &= ~(u64)FL_CF;
}

static void op_stc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags |= FL_CF;
}

static void op_cmc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags ^= FL_CF;
}

static void op_cld(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags &= ~(u64)FL_DF;
}

static void op_std(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags |= FL_DF;
}

static void op_lahf(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    u64 ah = (v->s.rflags & 0xd5) | 2;

    v->s.gpr[RAX] = (v->s.gpr[RAX] & ~0xff00ull) | ah << 8;
}

static void op_sahf(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.rflags = (v->s.rflags & ~0xd5ull) | ((v->s.gpr[RAX] >> 8) & 0xd5);
}

static void op_salc(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    gpr_set(v, RAX, 1, v->s.rflags & FL_CF ? 0xff : 0);
}

static void op_cbw(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    gpr_set(v, RAX, 2, sext(v->s.gpr[RAX], 1));
}

static void op_cwde(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    gpr_set(v, RAX, 4, sext(v->s.gpr[RAX], 2));
}

static void op_cdqe(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.gpr[RAX] = sext(v->s.gpr[RAX], 4);
}

static void op_cwd(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    gpr_set(v, RDX, 2, (s16)v->s.gpr[RAX] < 0 ? ~0ull : 0);
}

static void op_cdq(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    gpr_set(v, RDX, 4, (s32)v->s.gpr[RAX] < 0 ? ~0ull : 0);
}

static void op_cqo(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    v->s.gpr[RDX] = (u64)((s64)v->s.gpr[RAX] >> 63);
}

static void op_nop(struct soft_vcpu *v, const struct insn *i)
{
    /* PREFETCHW of a register: AMD's have no hint space there. */
    if (i->opcode == 0x0d && i->map == ZYDIS_OPCODE_MAP_0F && i->modrm >= 0xc0 &&
        v->cpuid->vendor[0] == 'A')
        throw_ud(v);
}

static void op_ud(struct soft_vcpu *v, const struct insn *i UNUSED)
{
    throw_ud(v);
}

static void op_clflush(struct soft_vcpu *v, const struct insn *i)
{
    u64 la = mem_linear(v, i, 0, 1, false);

    if (!mmu_probe(v, la, 1, MMU_READ, soft_class(v)))
        interp_throw(v);
}

static void op_movnti(struct soft_vcpu *v, const struct insn *i)
{
    op_set(v, i, 0, op_get(v, i, 1));
}

#define ROW(m, f) [ZYDIS_MNEMONIC_##m] = f
#define COND_ROWS(op, f)                                                                       \
    ROW(op##O, f##_o), ROW(op##NO, f##_no), ROW(op##B, f##_b), ROW(op##NB, f##_nb),            \
        ROW(op##Z, f##_z), ROW(op##NZ, f##_nz), ROW(op##BE, f##_be), ROW(op##NBE, f##_nbe),    \
        ROW(op##S, f##_s), ROW(op##NS, f##_ns), ROW(op##P, f##_p), ROW(op##NP, f##_np),        \
        ROW(op##L, f##_l), ROW(op##NL, f##_nl), ROW(op##LE, f##_le), ROW(op##NLE, f##_nle)

/* By mnemonic. What is not in here: by kind, see run_default(). */
interp_fn *const interp_table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    ROW(ADD, op_add),
    ROW(OR, op_or),
    ROW(ADC, op_adc),
    ROW(SBB, op_sbb),
    ROW(AND, op_and),
    ROW(SUB, op_sub),
    ROW(XOR, op_xor),
    ROW(CMP, op_cmp),
    ROW(TEST, op_test),
    ROW(INC, op_inc),
    ROW(DEC, op_dec),
    ROW(NEG, op_neg),
    ROW(NOT, op_not),
    ROW(SHL, op_shl),
    ROW(SHR, op_shr),
    ROW(SAR, op_sar),
    ROW(ROL, op_rol),
    ROW(ROR, op_ror),
    ROW(RCL, op_rcl),
    ROW(RCR, op_rcr),
    ROW(SHLD, op_shld),
    ROW(SHRD, op_shrd),
    ROW(MUL, op_mul),
    ROW(IMUL, op_imul),
    ROW(DIV, op_div),
    ROW(IDIV, op_idiv),
    ROW(BT, op_bt),
    ROW(BTS, op_bts),
    ROW(BTR, op_btr),
    ROW(BTC, op_btc),
    ROW(BSF, op_bsf),
    ROW(BSR, op_bsr),
    ROW(TZCNT, op_tzcnt),
    ROW(LZCNT, op_lzcnt),
    ROW(DAA, op_daa),
    ROW(DAS, op_das),
    ROW(AAA, op_aaa),
    ROW(AAS, op_aas),
    ROW(AAM, op_aam),
    ROW(AAD, op_aad),

    ROW(MOV, op_mov),
    ROW(MOVZX, op_movzx),
    ROW(MOVSX, op_movsx),
    ROW(MOVSXD, op_movsx),
    ROW(LEA, op_lea),
    ROW(MOVBE, op_movbe),
    ROW(BSWAP, op_bswap),
    ROW(XLAT, op_xlat),
    ROW(XCHG, op_xchg),
    ROW(XADD, op_xadd),
    ROW(CMPXCHG, op_cmpxchg),
    ROW(CMPXCHG8B, op_cmpxchg8b),
    ROW(CMPXCHG16B, op_cmpxchg16b),
    ROW(MOVNTI, op_movnti),
    ROW(CBW, op_cbw),
    ROW(CWDE, op_cwde),
    ROW(CDQE, op_cdqe),
    ROW(CWD, op_cwd),
    ROW(CDQ, op_cdq),
    ROW(CQO, op_cqo),

    ROW(CLC, op_clc),
    ROW(STC, op_stc),
    ROW(CMC, op_cmc),
    ROW(CLD, op_cld),
    ROW(STD, op_std),
    ROW(LAHF, op_lahf),
    ROW(SAHF, op_sahf),
    ROW(SALC, op_salc),

    COND_ROWS(J, op_j),
    COND_ROWS(SET, op_set),
    COND_ROWS(CMOV, op_cmov),
    ROW(JMP, op_jmp),
    ROW(CALL, op_call),
    ROW(RET, op_ret),
    ROW(LOOP, op_loop),
    ROW(LOOPE, op_loope),
    ROW(LOOPNE, op_loopne),
    ROW(JCXZ, op_jcxz),
    ROW(JECXZ, op_jcxz),
    ROW(JRCXZ, op_jcxz),
    ROW(PUSH, op_push),
    ROW(POP, op_pop),
    ROW(PUSHA, op_pusha),
    ROW(PUSHAD, op_pusha),
    ROW(POPA, op_popa),
    ROW(POPAD, op_popa),
    ROW(PUSHF, op_pushf),
    ROW(PUSHFD, op_pushf),
    ROW(PUSHFQ, op_pushf),
    ROW(POPF, op_popf),
    ROW(POPFD, op_popf),
    ROW(POPFQ, op_popf),
    ROW(ENTER, op_enter),
    ROW(LEAVE, op_leave),
    ROW(INT, op_int),
    ROW(INT1, op_int1),
    ROW(INT3, op_int3),
    ROW(INTO, op_into),
    ROW(BOUND, op_bound),
    ROW(IRET, op_iret),
    ROW(IRETD, op_iret),
    ROW(IRETQ, op_iret),

    ROW(NOP, op_nop),
    ROW(PAUSE, op_nop),
    ROW(ENDBR32, op_nop),
    ROW(ENDBR64, op_nop),
    ROW(RDSSPD, op_nop),
    ROW(RDSSPQ, op_nop),
    ROW(PREFETCH, op_nop),
    ROW(PREFETCHNTA, op_nop),
    ROW(PREFETCHT0, op_nop),
    ROW(PREFETCHT1, op_nop),
    ROW(PREFETCHT2, op_nop),
    ROW(PREFETCHW, op_nop),
    ROW(PREFETCHWT1, op_nop),
    ROW(CLDEMOTE, op_nop),
    ROW(LFENCE, op_fence),
    ROW(MFENCE, op_fence),
    ROW(SFENCE, op_fence),
    ROW(CLFLUSH, op_clflush),
    ROW(CLFLUSHOPT, op_clflush),
    ROW(CLWB, op_clflush),
    ROW(UD0, op_ud),
    ROW(UD1, op_ud),
    ROW(UD2, op_ud),
    ROW(MONITOR, op_ud),
    ROW(MWAIT, op_ud),
    ROW(RSM, op_ud),
    ROW(GETSEC, op_ud),

    ROW(MOVSB, op_movs),
    ROW(MOVSW, op_movs),
    ROW(MOVSD, op_movs),
    ROW(MOVSQ, op_movs),
    ROW(STOSB, op_stos),
    ROW(STOSW, op_stos),
    ROW(STOSD, op_stos),
    ROW(STOSQ, op_stos),
    ROW(LODSB, op_lods),
    ROW(LODSW, op_lods),
    ROW(LODSD, op_lods),
    ROW(LODSQ, op_lods),
    ROW(CMPSB, op_cmps),
    ROW(CMPSW, op_cmps),
    ROW(CMPSD, op_cmps),
    ROW(CMPSQ, op_cmps),
    ROW(SCASB, op_scas),
    ROW(SCASW, op_scas),
    ROW(SCASD, op_scas),
    ROW(SCASQ, op_scas),
    ROW(INSB, op_ins),
    ROW(INSW, op_ins),
    ROW(INSD, op_ins),
    ROW(OUTSB, op_outs),
    ROW(OUTSW, op_outs),
    ROW(OUTSD, op_outs),
    ROW(IN, op_in),
    ROW(OUT, op_out),

    ROW(LDS, op_lxs),
    ROW(LES, op_lxs),
    ROW(LFS, op_lxs),
    ROW(LGS, op_lxs),
    ROW(LSS, op_lxs),
    ROW(LGDT, op_lgdt),
    ROW(LIDT, op_lidt),
    ROW(SGDT, op_sgdt),
    ROW(SIDT, op_sidt),
    ROW(LLDT, op_lldt),
    ROW(LTR, op_ltr),
    ROW(SLDT, op_sldt),
    ROW(STR, op_str),
    ROW(LAR, op_lar),
    ROW(LSL, op_lsl),
    ROW(VERR, op_verr),
    ROW(VERW, op_verw),
    ROW(ARPL, op_arpl),
    ROW(LMSW, op_lmsw),
    ROW(SMSW, op_smsw),
    ROW(CLTS, op_clts),
    ROW(INVLPG, op_invlpg),
    ROW(INVPCID, op_invpcid),
    ROW(INVD, op_wbinvd),
    ROW(WBINVD, op_wbinvd),
    ROW(RDMSR, op_rdmsr),
    ROW(WRMSR, op_wrmsr),
    ROW(RDTSC, op_rdtsc),
    ROW(RDTSCP, op_rdtscp),
    ROW(RDPMC, op_rdpmc),
    ROW(RDPID, op_rdpid),
    ROW(CPUID, op_cpuid),
    ROW(XGETBV, op_xgetbv),
    ROW(XSETBV, op_xsetbv),
    ROW(HLT, op_hlt),
    ROW(CLI, op_cli),
    ROW(STI, op_sti),
    ROW(CLAC, op_clac),
    ROW(STAC, op_stac),
    ROW(SWAPGS, op_swapgs),
    ROW(RDFSBASE, op_fsgsbase),
    ROW(RDGSBASE, op_fsgsbase),
    ROW(WRFSBASE, op_fsgsbase),
    ROW(WRGSBASE, op_fsgsbase),
    ROW(SYSCALL, op_syscall),
    ROW(SYSRET, op_sysret),
    ROW(SYSENTER, op_sysenter),
    ROW(SYSEXIT, op_sysexit),

    ROW(FNSTENV, op_fnstenv),
    ROW(FNSAVE, op_fnstenv),
    ROW(FLDENV, op_fldenv),
    ROW(FRSTOR, op_fldenv),
    ROW(FXSAVE, op_fxsave),
    ROW(FXSAVE64, op_fxsave),
    ROW(FXRSTOR, op_fxrstor),
    ROW(FXRSTOR64, op_fxrstor),
    ROW(XSAVE, op_xsave),
    ROW(XSAVE64, op_xsave),
    ROW(XSAVEC, op_xsave),
    ROW(XSAVEC64, op_xsave),
    ROW(XSAVEOPT, op_xsave),
    ROW(XSAVEOPT64, op_xsave),
    ROW(XRSTOR, op_xrstor),
    ROW(XRSTOR64, op_xrstor),
    ROW(XSAVES, op_ud),
    ROW(XSAVES64, op_ud),
    ROW(XRSTORS, op_ud),
    ROW(XRSTORS64, op_ud),
    ROW(MASKMOVDQU, op_maskmov),
    ROW(MASKMOVQ, op_maskmov),
    ROW(VMASKMOVDQU, op_maskmov),
    ROW(VMASKMOVPS, op_vmaskmov),
    ROW(VMASKMOVPD, op_vmaskmov),
    ROW(VPMASKMOVD, op_vmaskmov),
    ROW(VPMASKMOVQ, op_vmaskmov),
    ROW(VGATHERDPS, op_gather),
    ROW(VGATHERDPD, op_gather),
    ROW(VGATHERQPS, op_gather),
    ROW(VGATHERQPD, op_gather),
    ROW(VPGATHERDD, op_gather),
    ROW(VPGATHERDQ, op_gather),
    ROW(VPGATHERQD, op_gather),
    ROW(VPGATHERQQ, op_gather),
};
