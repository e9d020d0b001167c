// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * mmu.c - page walk, software TLB, guest memory access, invalidation.
 * SDM volume 3, chapter 4 (paging), 4.10 (TLBs and PCIDs).
 *
 *   va --- TLB of (space, class) ---> host pointer            hit: loads and stores in place
 *    \--- walk ---> gpa --- RAM map ---> host page, flags ---> entry, if nothing forbids it
 *                    \--- no RAM, ROM write, code page, watched page ---> mmu_phys_*
 *
 * mmu_fill_fast() runs with the guest's vector registers live, so everything up to the bus uses
 * general registers only and looks RAM up by itself.
 *
 * Accessed and dirty bits are set by compare-exchange once the whole access is allowed.  PDPTEs
 * of PAE paging are checked at the load of CR3, but read at the walk.  Memory types (PWT, PCD,
 * PAT) have no effect.  Not modelled: LA57, protection keys, shadow stacks.
 */
#include "vmm/cpu/soft/direct.h"
#include "vmm/cpu/soft/interp.h"

#include <sys/mman.h>

enum pte_bits {
    PTE_P = 1,
    PTE_W = 2,
    PTE_U = 4,
    PTE_A = 32,
    PTE_D = 64,
    PTE_PS = 128,
    PTE_G = 256,
};
#define PTE_NX   BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull
/* Of a pointer of PAE paging, beside address bits that the processor does not have. */
#define PDPTE_RSVD (PTE_NX | 0x7ff00000000001e6ull)

enum { PF_P = 1, PF_W = 2, PF_U = 4, PF_RSVD = 8, PF_I = 16 };

struct walk {
    gpa pa;
    u64 page_size;
    bool read, write, exec; /* what this class may do; write also needs the D bit set */
    bool global;
};

/* ---- RAM by general registers ---------------------------------------------------------------
 */
bool mmu_ram_page(const struct soft_vcpu *v, gpa at, struct ram_page *ret)
{
    const struct ram_map *m = ram_current(v->ram);
    u32 lo = 0, hi = m->n;

    while (lo < hi) {
        u32 mid = (lo + hi) / 2;

        if (m->slot[mid].at <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (!lo)
        return false;

    const struct ram_slot *s = &m->slot[lo - 1];

    if (at - s->at >= s->len)
        return false;

    u64 page = (s->off + (at - s->at)) >> RAM_PAGE_SHIFT;

    ret->host = s->block->host + (page << RAM_PAGE_SHIFT);
    ret->flags = &s->block->flags[page];
    ret->index = s->block->index_base + page;
    ret->rom = s->rom;
    return true;
}

static void mark_dirty(struct soft_vcpu *v, const struct ram_page *p)
{
    u8 log = ram_logging(v->ram);

    if (log & ~atomic_load_explicit(p->flags, memory_order_relaxed))
        atomic_fetch_or(p->flags, log);
}

/* The slow half of a write to RAM: after the bytes are there. */
static void page_written(struct soft_vcpu *v, const struct ram_page *p, u32 off, u32 n)
{
    mark_dirty(v, p);
    if (atomic_load(p->flags) & RAM_PAGE_CODE)
        code_written(v->sv, p->index, off, n);
}

/* ---- page walk ------------------------------------------------------------------------------
 */
static bool fault_page(struct soft_vcpu *v, u64 va, enum mmu_access acc, enum tlb_class cls,
                       u32 why)
{
    u32 e = why | (acc == MMU_WRITE ? PF_W : 0) | (cls == TLB_USER ? PF_U : 0);

    if (acc == MMU_EXEC &&
        ((v->s.cr4 & CR4_SMEP) || ((v->s.msr.efer & EFER_NXE) && (v->s.cr4 & CR4_PAE))))
        e |= PF_I;
    v->fault = (struct soft_fault){ EXC_PF, true, e, va };
    return false;
}

static bool fault_gp(struct soft_vcpu *v)
{
    v->fault = (struct soft_fault){ EXC_GP, true, 0, 0 };
    return false;
}

enum { LEVELS = 4, WALK_TRIES = 64 };
struct pte_ref {
    u8 *host; /* of the entry; NULL: not in RAM, or ROM */
    struct ram_page page;
    u64 val;
};

static u64 pte_load(struct soft_vcpu *v, gpa at, unsigned size, struct pte_ref *r)
{
    if (!mmu_ram_page(v, at & v->a20_mask, &r->page)) {
        r->host = NULL;
        r->val = ~0ull;
        return r->val;
    }
    r->host = r->page.host + (at & 4095);
    r->val = size == 8 ? __atomic_load_n((u64 *)(void *)r->host, __ATOMIC_RELAXED)
                       : __atomic_load_n((u32 *)(void *)r->host, __ATOMIC_RELAXED);
    if (r->page.rom)
        r->host = NULL;
    return r->val;
}

enum pte_set { SET_OK, SET_AGAIN, SET_SLOW };

static enum pte_set pte_or(struct soft_vcpu *v, struct pte_ref *r, unsigned size, u64 bits,
                           bool fast)
{
    bool ok;

    if ((r->val & bits) == bits || !r->host)
        return SET_OK;
    if (fast && (atomic_load(r->page.flags) & RAM_PAGE_CODE))
        return SET_SLOW; /* code_written() must not run below translated code */
    if (size == 8) {
        u64 old = r->val;

        ok = __atomic_compare_exchange_n((u64 *)(void *)r->host, &old, old | bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        u32 old = (u32)r->val;

        ok = __atomic_compare_exchange_n((u32 *)(void *)r->host, &old, old | (u32)bits, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (!ok)
        return SET_AGAIN;
    page_written(v, &r->page, (u32)((uintptr_t)r->host & 4095), size);
    return SET_OK;
}

/* 1: done; 0: fault; -1: table changed under way, again; -2 (fast only): not here. */
static int walk_once(struct soft_vcpu *v, u64 va, enum mmu_access acc, enum tlb_class cls,
                     bool fast, struct walk *w)
{
    struct pte_ref refs[LEVELS];
    unsigned n = 0, level, size, bits;
    bool pae = v->s.cr4 & CR4_PAE, lma = v->s.msr.efer & EFER_LMA;
    bool nxe = v->s.msr.efer & EFER_NXE;
    u64 rsvd = PTE_ADDR & ~(BIT(v->cpuid->phys_bits) - 1), table;
    u64 may = PTE_U | PTE_W, nx = 0, e;

    if (pae) {
        size = 8;
        bits = 9;
        level = lma ? 4 : 3;
        table = lma ? v->s.cr3 & PTE_ADDR : v->s.cr3 & 0xffffffe0;
        if (!nxe)
            rsvd |= PTE_NX;
        if (!lma)
            rsvd |= 0x7ff0000000000000ull;
    } else {
        size = 4;
        bits = 10;
        level = 2;
        table = v->s.cr3 & 0xfffff000;
        rsvd = 0;
    }
    for (;; level--) {
        unsigned shift = 12 + bits * (level - 1);
        u64 index = (va >> shift) & ((1u << bits) - 1);

        if (pae && !lma && level == 3)
            index &= 3;
        e = pte_load(v, table + index * size, size, &refs[n]);
        if (!(e & PTE_P))
            return fault_page(v, va, acc, cls, 0);
        if (pae && !lma && level == 3) { /* PDPTE: no rights in it */
            if (e & (rsvd | PDPTE_RSVD))
                return fault_page(v, va, acc, cls, PF_P | PF_RSVD);
            table = e & PTE_ADDR;
            continue;
        }
        n++;
        if (e & rsvd)
            return fault_page(v, va, acc, cls, PF_P | PF_RSVD);
        may &= e;
        if (size == 8)
            nx |= e & PTE_NX;
        if (level == 1) {
            w->page_size = 4096;
            w->pa = size == 8 ? e & PTE_ADDR : e & 0xfffff000;
            break;
        }
        if ((e & PTE_PS) && (pae || (v->s.cr4 & CR4_PSE))) {
            w->page_size = BIT(shift);
            if (level == 4)
                return fault_page(v, va, acc, cls, PF_P | PF_RSVD);
            if (pae) {
                if (e & (w->page_size - 1) & PTE_ADDR & ~0x1000ull)
                    return fault_page(v, va, acc, cls, PF_P | PF_RSVD);
                w->pa = e & PTE_ADDR & ~(w->page_size - 1);
            } else { /* PSE-36: address bits 39:32 in 20:13 */
                if (e & (1u << 21))
                    return fault_page(v, va, acc, cls, PF_P | PF_RSVD);
                w->pa = (e & 0xffc00000) | ((e >> 13) & 0xff) << 32;
            }
            w->pa |= va & (w->page_size - 1) & ~0xfffull;
            break;
        }
        table = size == 8 ? e & PTE_ADDR : e & 0xfffff000;
    }

    bool user = may & PTE_U, wr = may & PTE_W;

    w->global = e & PTE_G && v->s.cr4 & CR4_PGE;
    if (cls == TLB_USER) {
        if (!user)
            return fault_page(v, va, acc, cls, PF_P);
        w->read = true;
        w->write = wr;
        w->exec = !nx;
    } else {
        w->read = !(user && (v->s.cr4 & CR4_SMAP) && cls == TLB_KERNEL);
        w->write = w->read && (wr || !(v->s.cr0 & CR0_WP));
        w->exec = !nx && !(user && (v->s.cr4 & CR4_SMEP));
    }
    if (!(acc == MMU_READ ? w->read : acc == MMU_WRITE ? w->write : w->exec))
        return fault_page(v, va, acc, cls, PF_P);

    for (unsigned i = 0; i < n; i++) {
        u64 set = PTE_A | (i == n - 1 && acc == MMU_WRITE ? PTE_D : 0);

        switch (pte_or(v, &refs[i], size, set, fast)) {
        case SET_OK:
            break;
        case SET_AGAIN:
            return -1;
        case SET_SLOW:
            return -2;
        }
    }
    return 1;
}

bool mmu_pdptes_ok(struct soft_vcpu *v, u64 cr3)
{
    u64 rsvd = PDPTE_RSVD | (PTE_ADDR & ~(BIT(v->cpuid->phys_bits) - 1));
    struct pte_ref ref;

    for (unsigned k = 0; k < 4; k++) {
        u64 e = pte_load(v, (cr3 & 0xffffffe0) + 8 * k, 8, &ref);

        if ((e & PTE_P) && (e & rsvd))
            return false;
    }
    return true;
}

static bool walk(struct soft_vcpu *v, u64 va, enum mmu_access acc, enum tlb_class cls,
                 bool fast, struct walk *w)
{
    if (!(v->s.cr0 & CR0_PG)) {
        *w = (struct walk){ (va & 0xfffff000) & v->a20_mask, 4096, true, true, true, false };
        return true;
    }
    if ((v->s.msr.efer & EFER_LMA) && !canonical(va))
        return fault_gp(v);
    for (unsigned tries = 0; tries < WALK_TRIES; tries++) {
        int r = walk_once(v, va, acc, cls, fast, w);

        if (r == -1)
            continue;
        if (r == 1)
            w->pa &= v->a20_mask;
        return r == 1;
    }
    /* Somebody changes this entry without pause: let the guest come again. */
    return fault_page(v, va, acc, cls, 0);
}

/* ---- TLB ------------------------------------------------------------------------------------
 */
static void entry_clear(struct tlb *t, unsigned i)
{
    u64 none = i ? 0 : 0x1000;

    t->e[i].rd = t->e[i].wr = t->e[i].ex = none;
    t->global[i >> 6] &= ~BIT(i & 63);
    t->large[i >> 6] &= ~BIT(i & 63);
}

/* The first entry from i on that may hold something; TLB_SIZE: none. */
static unsigned next_used(const struct tlb *t, unsigned i)
{
    for (unsigned k = i >> 6; k < ARRAY_LEN(t->used); k++) {
        u64 left = t->used[k] & (k == i >> 6 ? ~0ull << (i & 63) : ~0ull);

        if (left)
            return k * 64 + (unsigned)__builtin_ctzll(left);
    }
    return TLB_SIZE;
}

static bool entry_has(u64 tag, unsigned i)
{
    return tag != (i ? 0 : 0x1000);
}

/* A write entry that goes may have been used since the log was last read. */
static void entry_log(struct soft_vcpu *v, const struct tlb_entry *e, unsigned i, u8 log)
{
    if (log && entry_has(e->wr, i)) {
        u8 *host = (u8 *)(uintptr_t)(e->wr + e->addend); /* tlb_fill() left the page there */
        u32 n = ram_block_count(v->ram);

        for (u32 k = 0; k < n; k++) {
            struct ram_block *b = ram_block_at(v->ram, k);

            if (host >= b->host && host < b->host + b->size)
                atomic_fetch_or(&b->flags[(u64)(host - b->host) >> RAM_PAGE_SHIFT], log);
        }
    }
}

/* Empties the entries that `keep` (a set, or NULL) does not name. */
static void tlb_clear(struct soft_vcpu *v, struct tlb *t, const u64 *keep)
{
    soft_stack_forget(v);
    u8 log = ram_logging(v->ram);

    for (unsigned k = 0; k < ARRAY_LEN(t->used); k++) {
        u64 stay = keep ? keep[k] : 0;

        for (u64 left = t->used[k] & ~stay; left; left &= left - 1) {
            unsigned i = k * 64 + (unsigned)__builtin_ctzll(left);

            entry_log(v, &t->e[i], i, log);
            t->e[i].rd = t->e[i].wr = t->e[i].ex = i ? 0 : 0x1000;
        }
        t->used[k] &= stay;
        t->global[k] &= stay;
        t->large[k] &= stay;
    }
}

static void space_flush(struct soft_vcpu *v, unsigned s)
{
    struct soft_space *sp = &v->spaces[s];

    for (unsigned c = 0; c < TLB_CLASSES; c++) {
        if (sp->touched[c])
            tlb_clear(v, &v->tlbs[s][c], NULL);
        sp->touched[c] = false;
    }
    sp->large_lo[0] = sp->large_lo[1] = ~0ull;
    sp->large_hi[0] = sp->large_hi[1] = 0;
    sp->large_size = 0;
    direct_flush_space(v, sp->cr3);
    code_flush_space(v, s);
}

static void copy_global(struct tlb *to, const struct tlb *from)
{
    for (unsigned k = 0; k < ARRAY_LEN(to->used); k++) {
        for (u64 left = from->global[k]; left; left &= left - 1) {
            unsigned i = k * 64 + (unsigned)__builtin_ctzll(left);

            to->e[i] = from->e[i];
        }
        to->used[k] = to->global[k] = from->global[k];
        to->large[k] = from->large[k] & from->global[k];
    }
}

/* The same but for global pages: the space begins with those that the current one knows. */
static void space_flush_local(struct soft_vcpu *v, unsigned s)
{
    struct soft_space *sp = &v->spaces[s], *cur = &v->spaces[v->space];

    for (unsigned c = 0; c < TLB_CLASSES; c++) {
        struct tlb *to = &v->tlbs[s][c], *from = &v->tlbs[v->space][c];

        if (!sp->touched[c] && !cur->touched[c])
            continue;
        tlb_clear(v, to, to == from ? to->global : NULL);
        if (to != from)
            copy_global(to, from);
        sp->touched[c] = true;
    }
    for (unsigned half = 0; half < 2; half++) {
        sp->large_lo[half] = cur->large_lo[half];
        sp->large_hi[half] = cur->large_hi[half];
    }
    sp->large_size = cur->large_size;
    direct_flush_space(v, sp->cr3);
    code_flush_space(v, s);
}

bool mmu_init(struct soft_vcpu *v)
{
    void *p = mmap(NULL, sizeof(struct tlb) * TLB_CLASSES * SOFT_SPACES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return false;
    v->tlbs = p;
    if (!v->a20_mask)
        v->a20_mask = ~0ull;
    for (unsigned s = 0; s < SOFT_SPACES; s++) {
        struct soft_space *sp = &v->spaces[s];

        sp->cr3 = ~0ull;
        sp->large_lo[0] = sp->large_lo[1] = ~0ull;
        sp->large_hi[0] = sp->large_hi[1] = 0;
        for (unsigned c = 0; c < TLB_CLASSES; c++) {
            sp->touched[c] = false;
            entry_clear(&v->tlbs[s][c], 0);
        }
    }
    v->space = 0;
    v->tlb = v->tlbs[0][TLB_KERNEL].e;
    soft_stack_forget(v);
    return true;
}

void mmu_fini(struct soft_vcpu *v)
{
    if (v->tlbs)
        munmap(v->tlbs, sizeof(struct tlb) * TLB_CLASSES * SOFT_SPACES);
    v->tlbs = NULL;
    v->tlb = NULL;
}

/* Does a data breakpoint lie in this page? *ret_rd: one that reads hit, too. */
static bool page_watched(const struct soft_vcpu *v, u64 va, bool *ret_rd)
{
    bool any = false;

    *ret_rd = false;
    for (unsigned i = 0; i < 4; i++) {
        unsigned rw = (v->s.dr[7] >> (16 + 4 * i)) & 3;

        if (!((v->s.dr[7] >> (2 * i)) & 3) || !(rw & 1) || ((v->s.dr[i] ^ va) & ~0xfffull))
            continue;
        any = true;
        if (rw == 3)
            *ret_rd = true;
    }
    return any;
}

/*
 * Translates and makes an entry.  Host pointer of va; NULL: *ret_mmio and *ret_gpa, or
 * v->fault. With `fast`, NULL without any of that may come for what must be done outside
 * translated code.
 */
static u8 *tlb_fill(struct soft_vcpu *v, u64 va, enum mmu_access acc, enum tlb_class cls,
                    bool fast, struct ram_page *p, bool *ret_mmio, gpa *ret_gpa)
{
    struct walk w;
    bool watch = false, watch_rd = false;

    *ret_mmio = false;
    if (!walk(v, va, acc, cls, fast, &w))
        return NULL;
    *ret_gpa = w.pa | (va & 4095);
    v->n_fill++;
    if (!mmu_ram_page(v, w.pa, p) || (acc == MMU_WRITE && p->rom)) {
        *ret_mmio = true;
        return NULL;
    }
    if (unlikely(v->dr_active)) {
        watch = page_watched(v, va, &watch_rd);
        if (watch && ((acc == MMU_WRITE) || (acc == MMU_READ && watch_rd))) {
            *ret_mmio = true;
            return NULL;
        }
    }
    if (acc == MMU_WRITE) {
        u8 f = atomic_load(p->flags);

        /* WTLB and CODE exclude each other: whoever comes second sees the first. */
        while (!(f & (RAM_PAGE_WTLB | RAM_PAGE_CODE)) &&
               !atomic_compare_exchange_weak(p->flags, &f, f | RAM_PAGE_WTLB))
            ;
        if (f & RAM_PAGE_CODE) {
            *ret_mmio = true;
            return NULL;
        }
        mark_dirty(v, p);
    }

    unsigned i = (va >> 12) & (TLB_SIZE - 1);
    struct tlb *t = &v->tlbs[v->space][cls];
    struct tlb_entry *e = &t->e[i];
    struct soft_space *sp = &v->spaces[v->space];
    u64 tag = va & ~0xfffull, addend = (u64)(uintptr_t)p->host - tag;

    if ((entry_has(e->rd, i) && e->rd != tag) || (entry_has(e->wr, i) && e->wr != tag) ||
        (entry_has(e->ex, i) && e->ex != tag) || e->addend != addend) {
        entry_log(v, e, i, ram_logging(v->ram));
        entry_clear(t, i);
        soft_stack_forget(v);
        e->addend = addend;
    }
    if (w.read && !watch_rd)
        e->rd = tag;
    if (acc == MMU_WRITE)
        e->wr = tag;
    if (w.exec)
        e->ex = tag;
    sp->touched[cls] = true;
    t->used[i >> 6] |= BIT(i & 63);
    if (w.global)
        t->global[i >> 6] |= BIT(i & 63);
    else
        t->global[i >> 6] &= ~BIT(i & 63);
    if (w.page_size > 4096) {
        unsigned half = va >> 63;
        u64 lo = va & ~(w.page_size - 1);

        t->large[i >> 6] |= BIT(i & 63);
        sp->large_size = MAX(sp->large_size, w.page_size);
        if (lo < sp->large_lo[half])
            sp->large_lo[half] = lo;
        if (lo + (w.page_size - 1) > sp->large_hi[half])
            sp->large_hi[half] = lo + (w.page_size - 1);
    }
    return p->host + (va & 4095);
}

void *mmu_ptr(struct soft_vcpu *v, u64 va, unsigned size, enum mmu_access acc,
              enum tlb_class cls, bool *ret_mmio, gpa *ret_gpa)
{
    struct tlb_entry *e = &v->tlbs[v->space][cls].e[(va >> 12) & (TLB_SIZE - 1)];
    u64 tag = acc == MMU_READ ? e->rd : acc == MMU_WRITE ? e->wr : e->ex;
    struct ram_page p;

    if (likely(va - tag <= 4096 - size))
        return (void *)(uintptr_t)(va + e->addend);
    return tlb_fill(v, va, acc, cls, false, &p, ret_mmio, ret_gpa);
}

/* Over a page's end, if the TLB knows both pages and they are neighbours on the host, too. */
static u64 crossing_addend(const struct soft_vcpu *v, u64 va, bool write)
{
    const struct tlb_entry *e[2];
    u64 next = (va | 4095) + 1;

    if (v->mode != MODE_64 && next > UINT32_MAX)
        return 0;
    for (unsigned k = 0; k < 2; k++) {
        u64 at = k ? next : va;

        e[k] = &v->tlb[(at >> 12) & (TLB_SIZE - 1)];
        if (at - (write ? e[k]->wr : e[k]->rd) > 4095)
            return 0;
    }
    return e[0]->addend == e[1]->addend ? e[0]->addend : 0;
}

u64 mmu_fill_fast(struct soft_vcpu *v, u64 va, unsigned size, u32 write)
{
    struct ram_page p;
    bool mmio;
    gpa at;
    u8 *host;

    if ((va & 4095) + size > 4096)
        return crossing_addend(v, va, write);
    host = tlb_fill(v, va, write ? MMU_WRITE : MMU_READ, soft_class(v), true, &p, &mmio, &at);
    return host ? (u64)(uintptr_t)host - va : 0;
}

bool mmu_code(struct soft_vcpu *v, u64 va, const u8 **ret_page, u64 *ret_index, gpa *ret_gpa)
{
    enum tlb_class cls = v->cpl == 3 ? TLB_USER : TLB_KERNEL;
    struct ram_page p;
    bool mmio;
    gpa at;

    if (tlb_fill(v, va, MMU_EXEC, cls, false, &p, &mmio, &at)) {
        *ret_page = p.host;
        *ret_index = p.index;
        *ret_gpa = at;
        return true;
    }
    if (!mmio)
        return false;
    *ret_page = NULL;
    *ret_index = ~0ull;
    *ret_gpa = at;
    return true;
}

bool mmu_code_known(const struct soft_vcpu *v, u64 va)
{
    enum tlb_class cls = v->cpl == 3 ? TLB_USER : TLB_KERNEL;

    return va - v->tlbs[v->space][cls].e[(va >> 12) & (TLB_SIZE - 1)].ex <= 4095;
}

/* ---- accesses -------------------------------------------------------------------------------
 */
u64 mmu_phys_read(struct soft_vcpu *v, gpa at, unsigned size)
{
    struct ram_page p;

    if (mmu_ram_page(v, at, &p))
        return host_load(p.host + (at & 4095), size);
    soft_fp_save(v);
    return bus_read(v->vm->mem, at, size);
}

void mmu_phys_write(struct soft_vcpu *v, gpa at, u64 val, unsigned size)
{
    struct ram_page p;

    if (mmu_ram_page(v, at, &p) && !p.rom) {
        host_store(p.host + (at & 4095), size, val);
        page_written(v, &p, at & 4095, size);
        return;
    }
    soft_fp_save(v);
    bus_write(v->vm->mem, at, val, size);
}

static unsigned step_of(unsigned n)
{
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

static void piece_read(struct soft_vcpu *v, const u8 *host, gpa at, u8 *to, unsigned n)
{
    while (n) {
        unsigned k = step_of(n);

        host_store(to, k, host ? host_load(host, k) : mmu_phys_read(v, at, k));
        host += host ? k : 0;
        at += k;
        to += k;
        n -= k;
    }
}

static void piece_write(struct soft_vcpu *v, u8 *host, gpa at, const u8 *from, unsigned n)
{
    while (n) {
        unsigned k = step_of(n);

        if (host) {
            host_store(host, k, host_load(from, k));
            host += k;
        } else {
            mmu_phys_write(v, at, host_load(from, k), k);
        }
        at += k;
        from += k;
        n -= k;
    }
}

/* Debug registers: notes hits of [va, va+size); DR6 bits gather in v->dr_hit. */
static void watch_check(struct soft_vcpu *v, u64 va, unsigned size, bool write)
{
    static const u8 lens[] = { 1, 2, 8, 4 };

    for (unsigned i = 0; i < 4; i++) {
        u64 dr7 = v->s.dr[7];
        unsigned rw = (dr7 >> (16 + 4 * i)) & 3, len = lens[(dr7 >> (18 + 4 * i)) & 3];
        u64 at = v->s.dr[i] & ~(u64)(len - 1);

        if (!((dr7 >> (2 * i)) & 3) || !(rw == 3 || (rw == 1 && write)))
            continue;
        if (va < at + len && at < va + size)
            v->dr_hit |= BIT(i);
    }
}

struct piece {
    u8 *host;
    gpa at;
    unsigned n;
};

/* Resolves the one or two pages of an access. */
static bool pieces(struct soft_vcpu *v, u64 va, unsigned size, enum mmu_access acc,
                   enum tlb_class cls, struct piece p[2])
{
    unsigned first = 4096 - (va & 4095);
    bool mmio;

    p[0].n = size <= first ? size : first;
    p[1].n = size - p[0].n;
    p[0].host = mmu_ptr(v, va, p[0].n, acc, cls, &mmio, &p[0].at);
    if (!p[0].host && !mmio)
        return false;
    if (p[1].n) {
        u64 next = va + first;

        if (v->mode != MODE_64)
            next = (u32)next;
        p[1].host = mmu_ptr(v, next, p[1].n, acc, cls, &mmio, &p[1].at);
        if (!p[1].host && !mmio)
            return false;
    }
    return true;
}

bool mmu_read(struct soft_vcpu *v, u64 va, void *to, unsigned size, enum tlb_class cls)
{
    struct piece p[2];

    if (!pieces(v, va, size, MMU_READ, cls, p))
        return false;
    if (unlikely(v->dr_active))
        watch_check(v, va, size, false);
    piece_read(v, p[0].host, p[0].at, to, p[0].n);
    if (p[1].n)
        piece_read(v, p[1].host, p[1].at, (u8 *)to + p[0].n, p[1].n);
    return true;
}

bool mmu_write(struct soft_vcpu *v, u64 va, const void *from, unsigned size, enum tlb_class cls)
{
    struct piece p[2];

    if (!pieces(v, va, size, MMU_WRITE, cls, p))
        return false;
    if (unlikely(v->dr_active))
        watch_check(v, va, size, true);
    piece_write(v, p[0].host, p[0].at, from, p[0].n);
    if (p[1].n)
        piece_write(v, p[1].host, p[1].at, (const u8 *)from + p[0].n, p[1].n);
    return true;
}

bool mmu_probe(struct soft_vcpu *v, u64 va, unsigned size, enum mmu_access acc,
               enum tlb_class cls)
{
    struct piece p[2];

    return pieces(v, va, size, acc, cls, p);
}

u8 *mmu_late_ptr(struct soft_vcpu *v, gpa at)
{
    struct ram_page p;

    return mmu_ram_page(v, at, &p) && !p.rom ? p.host + (at & 4095) : NULL;
}

void mmu_late_done(struct soft_vcpu *v, u64 la, gpa at, unsigned size)
{
    struct ram_page p;

    if (unlikely(v->dr_active))
        watch_check(v, la, size, true);
    if (mmu_ram_page(v, at, &p))
        page_written(v, &p, at & 4095, size);
}

/* ---- invalidation ---------------------------------------------------------------------------
 */
void mmu_flush_all(struct soft_vcpu *v)
{
    struct soft_space *cur = &v->spaces[v->space];

    for (unsigned s = 0; s < SOFT_SPACES; s++) {
        space_flush(v, s);
        v->spaces[s].cr3 = ~0ull;
    }
    code_flush_contexts(v);
    direct_flush_all(v);
    /* The slot at hand goes on under whatever CR3 is now. */
    cur->cr3 = v->s.cr3 & ~0xfffull;
    cur->pcid = v->s.cr4 & CR4_PCIDE ? v->s.cr3 & 0xfff : 0;
    direct_choose(v);
}

/* Entries cut from a large page that va may lie in. */
static void large_flush(struct soft_vcpu *v, struct tlb *t, u64 va, u64 size)
{
    u8 log = ram_logging(v->ram);

    for (unsigned k = 0; k < ARRAY_LEN(t->large); k++) {
        for (u64 left = t->large[k]; left; left &= left - 1) {
            unsigned i = k * 64 + (unsigned)__builtin_ctzll(left);
            struct tlb_entry *e = &t->e[i];
            u64 tag = entry_has(e->rd, i) ? e->rd : entry_has(e->wr, i) ? e->wr : e->ex;

            if ((tag ^ va) & ~(size - 1))
                continue;
            entry_log(v, e, i, log);
            entry_clear(t, i);
        }
    }
}

void mmu_flush_page(struct soft_vcpu *v, u64 va)
{
    unsigned i = (va >> 12) & (TLB_SIZE - 1), half = va >> 63;
    u64 tag = va & ~0xfffull;
    u8 log = ram_logging(v->ram);
    bool any_large = false;

    soft_stack_forget(v);

    for (unsigned s = 0; s < SOFT_SPACES; s++) {
        struct soft_space *sp = &v->spaces[s];
        bool large = va >= sp->large_lo[half] && va <= sp->large_hi[half];

        any_large |= large;

        for (unsigned c = 0; c < TLB_CLASSES; c++) {
            struct tlb_entry *e = &v->tlbs[s][c].e[i];

            if (!sp->touched[c])
                continue;
            if (e->rd == tag || e->wr == tag || e->ex == tag) {
                entry_log(v, e, i, log);
                entry_clear(&v->tlbs[s][c], i);
            }
            if (large)
                large_flush(v, &v->tlbs[s][c], va, sp->large_size);
        }
    }
    direct_flush_page(v, va);
    /* The jump cache may know code of the whole large page, though the TLB has lost its entry.
     */
    if (any_large)
        code_flush_contexts(v);
    else
        code_flush_page(v, va);
}

static void class_tables(struct soft_vcpu *v);

static void space_use(struct soft_vcpu *v, unsigned s)
{
    v->space = (u8)s;
    v->spaces[s].used = ++v->space_clock;
    class_tables(v);
    v->tlb = v->tlbs[s][soft_class(v)].e;
    soft_stack_forget(v);
    code_leave_space(v);
    direct_choose(v);
}

void mmu_set_cr3(struct soft_vcpu *v, u64 val)
{
    bool pcide = v->s.cr4 & CR4_PCIDE, keep = pcide && (val & BIT(63));
    u16 pcid = pcide ? val & 0xfff : 0;
    unsigned s, victim = 0;

    val &= ~BIT(63);
    v->s.cr3 = val;
    if (!pcide) { /* one slot serves: every load flushes */
        v->spaces[0].cr3 = val & ~0xfffull;
        v->spaces[0].pcid = 0;
        space_flush_local(v, 0); /* under the new CR3's name */
        space_use(v, 0);
        return;
    }
    /* A PCID lives in one slot, so that INVPCID finds it. */
    for (s = 0; s < SOFT_SPACES; s++) {
        if (v->spaces[s].cr3 != ~0ull && v->spaces[s].pcid == pcid)
            break;
        if (v->spaces[s].used < v->spaces[victim].used)
            victim = s;
    }
    if (s == SOFT_SPACES) {
        s = victim;
        keep = false;
    }
    keep = keep && v->spaces[s].cr3 == (val & ~0xfffull);
    v->spaces[s].cr3 = val & ~0xfffull;
    if (!keep)
        space_flush_local(v, s);
    v->spaces[s].pcid = pcid;
    space_use(v, s);
}

void mmu_invpcid(struct soft_vcpu *v, u64 type, u16 pcid, u64 va)
{
    if (type == 0) {
        mmu_flush_page(v, va);
        return;
    }
    for (unsigned s = 0; s < SOFT_SPACES; s++)
        if (type != 1 || v->spaces[s].pcid == pcid)
            space_flush(v, s);
    code_flush_contexts(v);
}

void mmu_drop_write(struct soft_vcpu *v, u64 page_index)
{
    u32 n = ram_block_count(v->ram);
    u64 host = 0;

    for (u32 k = 0; k < n; k++) {
        struct ram_block *b = ram_block_at(v->ram, k);
        u64 pages = b->size >> RAM_PAGE_SHIFT;

        if (page_index - b->index_base < pages)
            host = (u64)(uintptr_t)(b->host + ((page_index - b->index_base) << RAM_PAGE_SHIFT));
    }
    if (!host)
        return;
    soft_stack_forget(v);
    for (unsigned s = 0; s < SOFT_SPACES; s++) {
        for (unsigned c = 0; c < TLB_CLASSES; c++) {
            struct tlb *t = &v->tlbs[s][c];

            if (!v->spaces[s].touched[c])
                continue;
            for (unsigned i = next_used(t, 0); i < TLB_SIZE; i = next_used(t, i + 1)) {
                struct tlb_entry *e = &t->e[i];

                if (entry_has(e->wr, i) && e->wr + e->addend == host) {
                    entry_log(v, e, i, ram_logging(v->ram));
                    e->wr = i ? 0 : 0x1000;
                }
            }
        }
    }
}

void mmu_log_sync(struct soft_vcpu *v)
{
    u8 log = ram_logging(v->ram);

    soft_stack_forget(v);

    for (unsigned s = 0; s < SOFT_SPACES; s++) {
        for (unsigned c = 0; c < TLB_CLASSES; c++) {
            struct tlb *t = &v->tlbs[s][c];

            if (!v->spaces[s].touched[c])
                continue;
            for (unsigned i = next_used(t, 0); i < TLB_SIZE; i = next_used(t, i + 1)) {
                entry_log(v, &t->e[i], i, log);
                t->e[i].wr = i ? 0 : 0x1000;
            }
        }
    }
}

void mmu_log_changed(struct soft_vm *sv)
{
    for (u32 i = 0; i < sv->vm->n_vcpus; i++)
        if (sv->vm->vcpus[i])
            vcpu_signal(sv->vm->vcpus[i], VCPU_FLUSH);
}

void mmu_protect_code(struct soft_vcpu *v, u64 page_index, _Atomic u8 *flags)
{
    u8 f = atomic_load(flags);

    if (!(f & RAM_PAGE_CODE))
        f = atomic_fetch_or(flags, RAM_PAGE_CODE);
    if (!(f & RAM_PAGE_WTLB)) /* with it and CODE set another vCPU is in the midst of this */
        return;
    soft_fp_save(v);
    soft_exclusive_begin(v);
    for (u32 i = 0; i < v->vm->n_vcpus; i++) {
        struct vcpu *c = v->vm->vcpus[i];

        if (c && c->impl) {
            mmu_drop_write(c->impl, page_index);
            direct_flush_all(c->impl);
        }
    }
    atomic_fetch_and(flags, (u8)~RAM_PAGE_WTLB);
    soft_exclusive_end(v);
}

/* ---- what depends on mode and privilege
 * ------------------------------------------------------
 */
static bool seg_flat(const struct x86_seg *s)
{
    return !s->base && s->limit == 0xffffffff && !(s->attr & ATTR_UNUSABLE) &&
           (s->attr & ATTR_P) && (s->attr & (ATTR_CODE | ATTR_W)) == ATTR_W &&
           !(s->attr & ATTR_E);
}

/* What STAC and CLAC switch between: without SMAP, AC means nothing in the kernel. */
static void class_tables(struct soft_vcpu *v)
{
    bool smap = v->s.cr4 & CR4_SMAP;

    v->class_tlb[TLB_KERNEL] = v->tlbs[v->space][TLB_KERNEL].e;
    v->class_tlb[TLB_USER] = v->tlbs[v->space][TLB_USER].e;
    v->class_tlb[TLB_KERNEL_AC] = v->tlbs[v->space][smap ? TLB_KERNEL_AC : TLB_KERNEL].e;
}

void soft_update_class(struct soft_vcpu *v)
{
    v->x.align = v->cpl == 3 && (v->s.rflags & FL_AC) && (v->s.cr0 & CR0_AM);
    v->tlb = v->tlbs[v->space][soft_class(v)].e;
    if (v->stack_kernel != (v->cpl != 3)) {
        v->stack_kept[v->stack_kernel] = (struct soft_stack){ v->stack_tag, v->stack_addend };
        v->stack_kernel = v->cpl != 3;
        v->stack_tag = v->stack_kept[v->stack_kernel].tag;
        v->stack_addend = v->stack_kept[v->stack_kernel].addend;
    }
    code_context_changed(v);
}

void soft_update(struct soft_vcpu *v)
{
    const struct x86_seg *cs = &v->s.seg[CS];

    if (!(v->s.cr0 & CR0_PE))
        v->cpl = 0;
    else if (v->s.rflags & FL_VM)
        v->cpl = 3;
    else
        v->cpl = (v->s.seg[SS].attr >> ATTR_DPL_SHIFT) & 3;
    if ((v->s.msr.efer & EFER_LMA) && (cs->attr & ATTR_L))
        v->mode = MODE_64;
    else
        v->mode = cs->attr & ATTR_DB ? MODE_32 : MODE_16;
    v->flat = v->mode == MODE_64 ||
              (seg_flat(&v->s.seg[DS]) && seg_flat(&v->s.seg[ES]) && seg_flat(&v->s.seg[SS]));
    v->dr_active = v->s.dr[7] & 0xff;
    class_tables(v);
    soft_update_class(v);
}
