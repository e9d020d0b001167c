// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * string.c - MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with and without REP.  SDM volume 2.
 *
 * Runs that lie in plain RAM go a page at a time over host pointers; RCX, RSI and RDI are
 * committed after each run, so a fault or an interrupt finds a state from which the instruction
 * goes on. After CHUNK bytes, when something waits for this vCPU, RIP stays at the instruction.
 */
#include "vmm/cpu/soft/alu.h"

enum { CHUNK = 65536 };

struct str {
    unsigned size;
    bool rep, down;
    u64 mask; /* of the address size */
    u64 count;
    u64 done; /* bytes */
};

static unsigned elem_size(const struct insn *i)
{
    /* The opcode's low bit tells byte forms from the others. */
    return i->opcode & 1 ? i->opsize : 1;
}

static bool str_open(struct soft_vcpu *v, const struct insn *i, struct str *t)
{
    t->size = elem_size(i);
    t->rep = i->prefixes & (PFX_REP | PFX_REPNE);
    t->down = v->s.rflags & FL_DF;
    t->mask = mask_of(i->adsize);
    t->count = t->rep ? v->s.gpr[RCX] & t->mask : 1;
    t->done = 0;
    return t->count;
}

/* n elements are done: registers. Returns whether to go on. */
static inline bool str_step(struct soft_vcpu *v, const struct insn *i, struct str *t, u64 n,
                            bool si, bool di)
{
    u64 by = t->down ? -(n * t->size) : n * t->size;

    if (si)
        gpr_set(v, RSI, i->adsize, (v->s.gpr[RSI] + by) & t->mask);
    if (di)
        gpr_set(v, RDI, i->adsize, (v->s.gpr[RDI] + by) & t->mask);
    if (!t->rep)
        return false;
    t->count -= n;
    gpr_set(v, RCX, i->adsize, t->count);
    t->done += n * t->size;
    if (!t->count)
        return false;
    /* One at a time under TF and breakpoints; else until somebody waits. */
    if ((v->s.rflags & FL_TF) || v->dr_hit ||
        (t->done >= CHUNK && atomic_load_explicit(&v->poll, memory_order_relaxed))) {
        v->x.next_rip = v->s.rip;
        v->x.keep_rf = v->s.rflags & FL_RF;
        return false;
    }
    return true;
}

/*
 * Elements from offset `off` on that can be done at one go: upwards, in one page, in plain RAM,
 * without wrap, inside the segment. 0: do one by the general way.
 */
static u64 run_length(struct soft_vcpu *v, const struct str *t, unsigned seg, u64 off,
                      bool write, u64 *ret_la, u8 **ret_host)
{
    const struct x86_seg *s = &v->s.seg[seg];
    u64 la, n = t->count, left;
    bool mmio;
    gpa at;
    u8 *host;

    if (t->down || n < 2 || (v->s.rflags & FL_TF) || v->x.align)
        return 0;
    if (v->mode == MODE_64) {
        la = off + (seg >= FS ? s->base : 0);
        if (!canonical(la))
            return 0;
    } else {
        /* Plain big or small segments only; the rest element-wise. */
        if ((s->attr & (ATTR_S | ATTR_CODE | ATTR_E)) == (ATTR_S | ATTR_E) || off > s->limit)
            return 0;
        left = ((u64)s->limit - off + 1) / t->size;
        if (n > left)
            n = left;
        if (n < 2)
            return 0;
        la = seg_linear(v, seg, off, t->size, write);
    }
    left = (t->mask - off) / t->size; /* stays clear of the wrap */
    if (n > left)
        n = left;
    left = (4096 - (la & 4095)) / t->size;
    if (n > left)
        n = left;
    if (n < 2)
        return 0;
    host = mmu_ptr(v, la, (unsigned)(n * t->size), write ? MMU_WRITE : MMU_READ, soft_class(v),
                   &mmio, &at);
    if (!host) {
        if (!mmio)
            interp_throw(v);
        return 0;
    }
    *ret_la = la;
    *ret_host = host;
    return n;
}

/* ---- MOVS, STOS, LODS
 * -------------------------------------------------------------------------
 */
static void copy_up(void *to, const void *from, u64 n, unsigned size)
{
    if (size == 8) {
        n /= 8;
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    } else if (size == 4) {
        n /= 4;
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    } else if (size == 2) {
        n /= 2;
        __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    } else {
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    }
}

void op_movs(struct soft_vcpu *v, const struct insn *i)
{
    struct str t;
    bool more;

    if (i->vector) { /* MOVSD of SSE2 has the same name */
        op_vector(v, i);
        return;
    }
    if (!str_open(v, i, &t))
        return;
    do {
        u64 si = v->s.gpr[RSI] & t.mask, di = v->s.gpr[RDI] & t.mask, la, la2, n, n2;
        u8 *from, *to;

        n = run_length(v, &t, i->seg, si, false, &la, &from);
        n2 = n ? run_length(v, &t, ES, di, true, &la2, &to) : 0;
        if (n && n2) {
            n = n < n2 ? n : n2;
            copy_up(to, from, n * t.size, t.size);
        } else {
            u64 val;

            la = linear(v, i->seg, si, t.size, false);
            la2 = linear(v, ES, di, t.size, true);
            val = lin_read(v, la, t.size);
            lin_write(v, la2, t.size, val);
            n = 1;
        }
        more = str_step(v, i, &t, n, true, true);
    } while (more);
}

void op_stos(struct soft_vcpu *v, const struct insn *i)
{
    u64 val = v->s.gpr[RAX];
    struct str t;
    bool more;

    if (!str_open(v, i, &t))
        return;
    do {
        u64 di = v->s.gpr[RDI] & t.mask, la, n;
        u8 *to;

        n = run_length(v, &t, ES, di, true, &la, &to);
        if (n) {
            u64 k = n;
            void *p = to;

            switch (t.size) {
            case 1:
                __asm__ volatile("rep stosb" : "+D"(p), "+c"(k) : "a"(val) : "memory");
                break;
            case 2:
                __asm__ volatile("rep stosw" : "+D"(p), "+c"(k) : "a"(val) : "memory");
                break;
            case 4:
                __asm__ volatile("rep stosl" : "+D"(p), "+c"(k) : "a"(val) : "memory");
                break;
            default:
                __asm__ volatile("rep stosq" : "+D"(p), "+c"(k) : "a"(val) : "memory");
            }
        } else {
            lin_write(v, linear(v, ES, di, t.size, true), t.size, val);
            n = 1;
        }
        more = str_step(v, i, &t, n, false, true);
    } while (more);
}

void op_lods(struct soft_vcpu *v, const struct insn *i)
{
    struct str t;
    bool more;

    if (!str_open(v, i, &t))
        return;
    do {
        u64 si = v->s.gpr[RSI] & t.mask;

        gpr_set(v, RAX, t.size, lin_read(v, linear(v, i->seg, si, t.size, false), t.size));
        more = str_step(v, i, &t, 1, true, false);
    } while (more);
}

/* ---- CMPS, SCAS
 * ------------------------------------------------------------------------------- A run ends at
 * the element that decides; the flags come from the last compare.
 */
static bool goes_on(const struct insn *i, u64 a, u64 b)
{
    return i->prefixes & PFX_REPNE ? a != b : a == b;
}

static bool compare_step(struct soft_vcpu *v, const struct insn *i, struct str *t, u64 n,
                         bool si, u64 a, u64 b)
{
    u32 fl = (u32)v->s.rflags;
    bool on = goes_on(i, a, b);

    alu_sub(t->size, a, b, &fl);
    v->s.rflags = fl;
    if (str_step(v, i, t, n, si, true))
        return on;
    if (!on && t->rep && t->count) /* decided, though str_step() wants to come back */
        v->x.next_rip = (v->mode == MODE_64) ? v->s.rip + i->len : (u32)(v->s.rip + i->len);
    return false;
}

void op_cmps(struct soft_vcpu *v, const struct insn *i)
{
    struct str t;
    bool more;

    if (i->vector) {
        op_vector(v, i);
        return;
    }
    if (!str_open(v, i, &t))
        return;
    do {
        u64 si = v->s.gpr[RSI] & t.mask, di = v->s.gpr[RDI] & t.mask, la, la2, n, n2, a, b;
        u8 *p, *q;

        /* The second operand is read first. */
        n2 = run_length(v, &t, ES, di, false, &la2, &q);
        n = n2 ? run_length(v, &t, i->seg, si, false, &la, &p) : 0;
        if (n && n2) {
            u64 k = 0;

            n = n < n2 ? n : n2;
            do {
                a = host_load(p + k * t.size, t.size);
                b = host_load(q + k * t.size, t.size);
                k++;
            } while (k < n && goes_on(i, a, b));
            n = k;
        } else {
            b = lin_read(v, linear(v, ES, di, t.size, false), t.size);
            a = lin_read(v, linear(v, i->seg, si, t.size, false), t.size);
            n = 1;
        }
        more = compare_step(v, i, &t, n, true, a, b);
    } while (more);
}

void op_scas(struct soft_vcpu *v, const struct insn *i)
{
    struct str t;
    bool more;

    if (!str_open(v, i, &t))
        return;
    do {
        u64 di = v->s.gpr[RDI] & t.mask, la, n, a = gpr_get(v, RAX, t.size), b;
        u8 *q;

        n = run_length(v, &t, ES, di, false, &la, &q);
        if (n) {
            u64 k = 0;

            do {
                b = host_load(q + k * t.size, t.size);
                k++;
            } while (k < n && goes_on(i, a, b));
            n = k;
        } else {
            b = lin_read(v, linear(v, ES, di, t.size, false), t.size);
            n = 1;
        }
        more = compare_step(v, i, &t, n, false, a, b);
    } while (more);
}

/* ---- INS, OUTS
 * --------------------------------------------------------------------------------
 */
static unsigned port_size(const struct insn *i)
{
    unsigned n = elem_size(i);

    return n == 8 ? 4 : n;
}

void op_ins(struct soft_vcpu *v, const struct insn *i)
{
    u16 port = (u16)v->s.gpr[RDX];
    struct str t;
    bool more;

    if (!str_open(v, i, &t))
        return;
    t.size = port_size(i);
    io_check(v, port, t.size);
    soft_fp_save(v);
    do {
        u64 la = linear(v, ES, v->s.gpr[RDI] & t.mask, t.size, true);

        lin_probe(v, la, t.size); /* a device must not be read in vain */
        lin_write(v, la, t.size, bus_read(v->vm->io, port, t.size));
        more = str_step(v, i, &t, 1, false, true);
    } while (more);
}

void op_outs(struct soft_vcpu *v, const struct insn *i)
{
    u16 port = (u16)v->s.gpr[RDX];
    struct str t;
    bool more;

    if (!str_open(v, i, &t))
        return;
    t.size = port_size(i);
    io_check(v, port, t.size);
    soft_fp_save(v);
    do {
        u64 la = linear(v, i->seg, v->s.gpr[RSI] & t.mask, t.size, false);

        bus_write(v->vm->io, port, lin_read(v, la, t.size), t.size);
        more = str_step(v, i, &t, 1, true, false);
    } while (more);
}
