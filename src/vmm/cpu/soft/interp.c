// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * interp.c - the interpreter's frame: fetch, one instruction, traps after it; memory by the
 * slow way; segmented addresses.  The instructions are in interp_int.c, interp_fpu.c, string.c,
 * seg.c, exc.c and sys.c.
 *
 * Decoded instructions are kept by host address; an entry holds while the write counter of its
 * page (page_gen) stands.  Instructions that cross a page are kept by their address and bytes,
 * which are compared each time.
 */
#include "vmm/cpu/soft/interp.h"

#include <errno.h>
#include <sys/mman.h>

enum { CACHE_SIZE = 32768 };
struct interp_cache_entry {
    u64 host; /* 0: empty */
    const _Atomic u32 *gen_at;
    u32 gen;
    u8 mode;
    struct insn insn;
};

bool interp_init(struct soft_vcpu *v)
{
    void *p = mmap(NULL, sizeof(struct interp_cache_entry) * CACHE_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return false;
    v->x.cache = p;
    return true;
}

void interp_fini(struct soft_vcpu *v)
{
    if (v->x.cache)
        munmap(v->x.cache, sizeof(struct interp_cache_entry) * CACHE_SIZE);
    v->x.cache = NULL;
}

/* ---- fetch ----------------------------------------------------------------------------------
 */
static const struct insn *fetch_raise(struct soft_vcpu *v, u8 vector, bool has_error)
{
    v->fault = (struct soft_fault){ vector, has_error, 0, 0 };
    v->x.fetch_stop = exc_fault(v);
    return NULL;
}

static bool code_breakpoint(struct soft_vcpu *v, u64 la)
{
    u64 dr7 = v->s.dr[7], hit = 0;

    for (unsigned i = 0; i < 4; i++)
        if (((dr7 >> (2 * i)) & 3) && !((dr7 >> (16 + 4 * i)) & 3) && v->s.dr[i] == la)
            hit |= BIT(i);
    v->s.dr[6] |= hit;
    return hit;
}

/* Bytes of one page, at most n. Returns how many; 0: v->fault. */
static unsigned fetch_bytes(struct soft_vcpu *v, u64 la, u8 *to, unsigned n,
                            const _Atomic u32 **ret_gen, u32 *ret_count)
{
    unsigned left = 4096 - (la & 4095);
    _Atomic u8 *flags = NULL;
    const u8 *page;
    u64 index;
    gpa at;

    if (n > left)
        n = left;
    if (!mmu_code(v, la, &page, &index, &at))
        return 0;
    *ret_gen = NULL;
    if (index == ~0ull) {
        for (unsigned k = 0; k < n; k++)
            to[k] = (u8)mmu_phys_read(v, at + k, 1);
        return n;
    }
    if (index < v->sv->n_pages) {
        struct ram_page p;

        if (mmu_ram_page(v, at, &p)) {
            flags = p.flags;
            mmu_protect_code(v, p.index, flags);
            *ret_gen = &v->sv->page_gen[p.index];
            *ret_count = atomic_load(*ret_gen);
        }
    }
    bytes_copy(to, page + (la & 4095), n);
    /* Not to be cached when writes are no longer counted; see code_written(). */
    if (flags && !(atomic_load(flags) & RAM_PAGE_CODE))
        *ret_gen = NULL;
    return n;
}

/* Where the TLB says that the bytes at la lie; NULL: it does not know, or they are not RAM. */
static const u8 *code_at(const struct soft_vcpu *v, u64 la)
{
    const struct tlb_entry *e =
        &v->tlbs[v->space][v->cpl == 3 ? TLB_USER : TLB_KERNEL].e[(la >> 12) & (TLB_SIZE - 1)];

    return la - e->ex <= 4095 ? (const u8 *)(uintptr_t)(la + e->addend) : NULL;
}

static bool bytes_equal(const u8 *a, const u8 *b, unsigned n)
{
    while (n && a[n - 1] == b[n - 1])
        n--;
    return !n;
}

static const struct insn *crossing_find(struct soft_vcpu *v, u64 la)
{
    const struct interp_crossing *c = &v->x.crossing[(la >> 12) & (INTERP_CROSSINGS - 1)];
    u64 next = (la | 4095) + 1;
    const u8 *here, *there;

    if (c->la != la || !c->here || c->mode != v->mode)
        return NULL;
    here = code_at(v, la);
    there = code_at(v, v->mode == MODE_64 ? next : (u32)next);
    if (!here || !there || !bytes_equal(c->bytes, here, c->here) ||
        !bytes_equal(c->bytes + c->here, there, c->insn.len - c->here))
        return NULL;
    return &c->insn;
}

static void crossing_keep(struct soft_vcpu *v, u64 la, const u8 *buf, unsigned n)
{
    struct interp_crossing *c = &v->x.crossing[(la >> 12) & (INTERP_CROSSINGS - 1)];

    c->la = la;
    c->here = (u8)n;
    c->mode = v->mode;
    c->insn = v->x.insn;
    bytes_copy(c->bytes, buf, c->insn.len);
}

static const struct insn *fetch_slow(struct soft_vcpu *v, u64 la, u64 rip)
{
    u8 buf[16];
    const _Atomic u32 *gen, *gen2;
    const struct insn *known = crossing_find(v, la);
    u32 count = 0, count2;
    struct insn *i = &v->x.insn;
    unsigned n;
    int r;

    if (known && (v->mode == MODE_64 || rip + known->len - 1 <= v->s.seg[CS].limit))
        return known;
    n = fetch_bytes(v, la, buf, 15, &gen, &count);
    if (!n) {
        v->x.fetch_stop = exc_fault(v);
        return NULL;
    }
    soft_fp_save(v);
    if (gen) {
        u64 host = 0;
        struct tlb_entry *e = &v->tlbs[v->space][v->cpl == 3 ? TLB_USER : TLB_KERNEL]
                                   .e[(la >> 12) & (TLB_SIZE - 1)];

        if (la - e->ex <= 4095)
            host = la + e->addend;
        if (host) {
            struct interp_cache_entry *c =
                &v->x.cache[(host ^ (host >> 13)) & (CACHE_SIZE - 1)];

            c->host = 0;
            r = insn_decode(buf, n, v->mode, &c->insn);
            if (r == 0) {
                c->host = host;
                c->gen_at = gen;
                c->gen = count;
                c->mode = v->mode;
                i = &c->insn;
                goto out;
            }
        } else {
            r = insn_decode(buf, n, v->mode, i);
        }
    } else {
        r = insn_decode(buf, n, v->mode, i);
    }
    if (r == -EAGAIN) {
        u64 next = la + n;
        unsigned more;

        if (v->mode != MODE_64)
            next = (u32)next;
        more = fetch_bytes(v, next, buf + n, 15 - n, &gen2, &count2);
        if (!more) {
            v->x.fetch_stop = exc_fault(v);
            return NULL;
        }
        soft_fp_save(v);
        i = &v->x.insn;
        r = insn_decode(buf, n + more, v->mode, i);
        if (r == 0 && i->len > n)
            crossing_keep(v, la, buf, n);
    }
    if (r == -E2BIG)
        return fetch_raise(v, EXC_GP, true);
    if (r)
        return fetch_raise(v, EXC_UD, false);
out:
    if (v->mode != MODE_64 && rip + i->len - 1 > v->s.seg[CS].limit)
        return fetch_raise(v, EXC_GP, true);
    return i;
}

const struct insn *interp_fetch(struct soft_vcpu *v)
{
    u64 rip = v->s.rip, la, host;
    const struct tlb_entry *e;
    const struct interp_cache_entry *c;

    v->x.fetch_stop = SOFT_GO;
    if (likely(v->mode == MODE_64)) {
        la = rip;
        if (unlikely(!canonical(la)))
            return fetch_raise(v, EXC_GP, true);
    } else {
        if (unlikely(rip > v->s.seg[CS].limit))
            return fetch_raise(v, EXC_GP, true);
        la = (u32)(v->s.seg[CS].base + rip);
    }
    if (unlikely(v->dr_active) && !(v->s.rflags & FL_RF) && v->s.int_shadow != 2 &&
        code_breakpoint(v, la)) {
        v->x.fetch_stop = exc_raise(v, EXC_DB, false, 0);
        return NULL;
    }
    e = &v->tlbs[v->space][v->cpl == 3 ? TLB_USER : TLB_KERNEL].e[(la >> 12) & (TLB_SIZE - 1)];
    if (unlikely(la - e->ex > 4095))
        return fetch_slow(v, la, rip);
    host = la + e->addend;
    c = &v->x.cache[(host ^ (host >> 13)) & (CACHE_SIZE - 1)];
    if (unlikely(c->host != host || c->mode != v->mode ||
                 atomic_load_explicit(c->gen_at, memory_order_acquire) != c->gen))
        return fetch_slow(v, la, rip);
    if (unlikely(v->mode != MODE_64 && rip + c->insn.len - 1 > v->s.seg[CS].limit))
        return fetch_raise(v, EXC_GP, true);
    return &c->insn;
}

/* ---- one instruction
 * -------------------------------------------------------------------------
 */
/* Single step and data breakpoints, both traps after the instruction. */
static int after_traps(struct soft_vcpu *v, bool step)
{
    if (v->x.shadow == 2) /* MOV SS: not between it and the next instruction */
        return v->x.stop;
    if (!step && !v->dr_hit)
        return v->x.stop;
    v->s.dr[6] |= v->dr_hit | (step ? BIT(14) : 0);
    v->dr_hit = 0;
    return exc_raise(v, EXC_DB, false, 0);
}

static void run_default(struct soft_vcpu *v, const struct insn *i)
{
    if (i->vector)
        op_vector(v, i);
    else
        op_native(v, i);
}

int interp_exec(struct soft_vcpu *v, const struct insn *i)
{
    struct interp_state *x = &v->x;
    bool step = v->s.rflags & FL_TF;
    interp_fn *fn = interp_table[i->mnem];

    x->next_rip = v->s.rip + i->len;
    if (i->mode != MODE_64)
        x->next_rip = (u32)x->next_rip;
    x->stop = SOFT_GO;
    x->shadow = 0;
    x->keep_rf = x->no_step = false;
    if (__builtin_setjmp(x->jump)) {
        v->dr_hit = 0;
        return exc_fault(v);
    }
    if (likely(fn))
        fn(v, i);
    else
        run_default(v, i);
    v->s.rip = x->next_rip;
    v->s.int_shadow = x->shadow;
    if (unlikely(v->s.rflags & FL_RF) && !x->keep_rf)
        v->s.rflags &= ~(u64)FL_RF;
    if (unlikely(step) || unlikely(v->dr_hit))
        return after_traps(v, step && !x->no_step);
    return x->stop;
}

/* ---- faults ---------------------------------------------------------------------------------
 */
void throw_vec(struct soft_vcpu *v, u8 vector)
{
    v->fault = (struct soft_fault){ vector, false, 0, 0 };
    interp_throw(v);
}

void throw_err(struct soft_vcpu *v, u8 vector, u32 error)
{
    v->fault = (struct soft_fault){ vector, true, error, 0 };
    interp_throw(v);
}

void throw_noncanonical(struct soft_vcpu *v, unsigned seg)
{
    throw_err(v, seg == SS ? EXC_SS : EXC_GP, 0);
}

void align_check(struct soft_vcpu *v, u64 la, unsigned size)
{
    if ((size == 2 || size == 4 || size == 8) && (la & (size - 1)))
        throw_err(v, EXC_AC, 0);
}

/* ---- segmented addresses
 * ---------------------------------------------------------------------
 */
u64 seg_linear(struct soft_vcpu *v, unsigned seg, u64 off, unsigned size, bool write)
{
    const struct x86_seg *s = &v->s.seg[seg];
    u64 last = off + size - 1;

    if (is_prot(v)) {
        if (s->attr & ATTR_UNUSABLE)
            throw_noncanonical(v, seg);
        if (s->attr & ATTR_CODE ? write || !(s->attr & ATTR_R) : write && !(s->attr & ATTR_W))
            throw_noncanonical(v, seg);
    }
    if ((s->attr & (ATTR_S | ATTR_CODE | ATTR_E)) == (ATTR_S | ATTR_E)) { /* expand-down */
        u64 top = s->attr & ATTR_DB ? 0xffffffff : 0xffff;

        if (off <= s->limit || last > top)
            throw_noncanonical(v, seg);
    } else if (last > s->limit) {
        /* A flat segment wraps; others do not. */
        if (s->limit != 0xffffffff)
            throw_noncanonical(v, seg);
    }
    return (u32)(s->base + off);
}

void jump_near(struct soft_vcpu *v, u64 rip)
{
    if (v->mode == MODE_64) {
        if (!canonical(rip))
            throw_gp(v);
    } else {
        rip = (u32)rip;
        if (rip > v->s.seg[CS].limit)
            throw_gp(v);
    }
    v->x.next_rip = rip;
}

/* ---- memory, slow way
 * -------------------------------------------------------------------------
 */
u64 lin_read_slow(struct soft_vcpu *v, u64 la, unsigned size, enum tlb_class cls)
{
    u64 val = 0;

    if (!mmu_read(v, la, &val, size, cls))
        interp_throw(v);
    return val;
}

void lin_write_slow(struct soft_vcpu *v, u64 la, unsigned size, u64 val, enum tlb_class cls)
{
    if (!mmu_write(v, la, &val, size, cls))
        interp_throw(v);
}

u64 op_get_other(struct soft_vcpu *v, const struct insn *i, const struct insn_op *o)
{
    switch (o->kind) {
    case OP_HIGH8:
        return (v->s.gpr[o->reg & 3] >> 8) & 0xff;
    case OP_SEG:
        return v->s.seg[o->reg].sel;
    case OP_REL:
        return i->imm;
    default:
        throw_ud(v);
    }
}
