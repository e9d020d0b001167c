// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * direct.c - direct execution: which user code runs in a stub process, with which pages.
 *
 *   timer interrupt in user code, few exits lately ---> the space gets a stub (direct_sample)
 *   CPL 3 in such a space ---> direct_run: registers in, run, stop:
 *       a page that the stub lacks ---> page tables allow it? map it, go on
 *       anything else -----------> the interpreter does that one instruction
 *   stops cost more than they save ---> back to translation, for a while
 *
 * The stub's mappings are a cache of the guest's page tables with the rules of a TLB: a page
 * is there only when its accessed bit is set, writable only when its dirty bit is, and never
 * writable while it holds translated code.  A flush compares all that is mapped with the page
 * tables: most of it is as it was, and comparing is far cheaper than to map again.
 *
 * Not all code may run like that: see direct_code.c.
 */
#include "vmm/cpu/soft/direct.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/cpu/soft/direct_code.h"
#include "vmm/cpu/soft/stub.h"

enum {
    PAGES_MAX = 40000, /* mappings of a process: vm.max_map_count is 65530 by default */
    BURST = 4,         /* page faults of the guest, each soon after the last ... */
    BURST_US = 100,
    HOLD_US = 500,        /* ... make it run translated for so long */
    AROUND = 16,          /* pages looked at around a fault */
    PAGE_US = 6,          /* what a page costs to map, and in what runs slower until it is */
    EXCLUDED_STEPS = 300, /* instructions interpreted in a page that may not be executed */
    TRAPS_JUDGED = 200,   /* after so many stops, look whether it pays */
    USER_CS = 0x33,       /* the host's selectors for user code */
    USER_SS = 0x2b,
    SEGV_CODE_MAPERR = 1,
    SEGV_CODE_ACCERR = 2,
    TRAP_CODE_STEP = 2,
};
#define LARGE      (2 * MiB)
#define LARGE_KEY  BIT(62)
#define COPY_INDEX BIT(56)
#define FL_DIRECT  (FL_STATUS | FL_TF | FL_DF | FL_NT | FL_AC)

struct direct_cpus {
    cpu_set_t set;
};

static u64 ticks(u64 us)
{
    return us * (vm_tsc_hz() / 1000000);
}

/* ---- the guest's page tables ----------------------------------------------------------------
 */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 32, PTE_D = 64, PTE_PS = 128 };
#define PTE_NX   BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull

struct leaf {
    gpa pa; /* of the 4 KiB page */
    u64 size;
    bool w, x, a, d;
};

/* Looks, and changes nothing; four levels. false: no user page (or one with reserved bits). */
static bool peek(struct soft_vcpu *v, u64 va, struct leaf *ret)
{
    u64 table = v->s.cr3 & PTE_ADDR, may = PTE_U | PTE_W | PTE_A, nx = 0, e;
    u64 rsvd = PTE_ADDR & ~(BIT(v->cpuid->phys_bits) - 1);

    if (!(v->s.msr.efer & EFER_NXE))
        rsvd |= PTE_NX;
    for (unsigned shift = 39;; shift -= 9) {
        gpa at = table + ((va >> shift) & 511) * 8;
        const struct ram_slot *s = ram_slot_find(v->ram, at);

        if (!s)
            return false;
        e = __atomic_load_n((const u64 *)(const void *)(s->block->host + s->off + (at - s->at)),
                            __ATOMIC_RELAXED);
        if (!(e & PTE_P) || (e & rsvd))
            return false;
        may &= e;
        nx |= e & PTE_NX;
        if (shift == 12 || e & PTE_PS) {
            u64 size = BIT(shift);

            if (shift == 39 || (shift > 12 && e & (size - 1) & PTE_ADDR & ~0x1000ull))
                return false;
            *ret = (struct leaf){ .pa = (e & PTE_ADDR & ~(size - 1)) |
                                        (va & (size - 1) & ~4095ull),
                                  .size = size,
                                  .w = may & PTE_W,
                                  .x = !nx,
                                  .a = may & PTE_A,
                                  .d = e & PTE_D };
            return may & PTE_U;
        }
        table = e & PTE_ADDR;
    }
}

/* ---- mappings -------------------------------------------------------------------------------
 * The table's keys are page numbers, with LARGE_KEY those of 2 MiB pages; its values the RAM
 * page's index and PROT_*.
 */
struct view {
    u64 key, va, len;
    int fd;
    u64 off;   /* in it */
    u64 index; /* RAM page, or COPY_INDEX and the copy's number */
    u8 prot;
    bool excluded;
    bool cut; /* the guest's page is larger */
};

static void *packed(const struct view *w)
{
    return (void *)(uintptr_t)(w->index << 3 | w->prot);
}

static bool lookup(const struct direct_space *s, u64 va, u64 *ret_key, u64 *ret_index,
                   u8 *ret_prot)
{
    u64 keys[2] = { va >> 12, va / LARGE | LARGE_KEY };
    void *val;

    for (unsigned k = 0; k < 2; k++) {
        if (!g_hash_table_lookup_extended(s->pages, (void *)(uintptr_t)keys[k], NULL, &val))
            continue;
        *ret_key = keys[k];
        *ret_index = (u64)(uintptr_t)val >> 3;
        *ret_prot = (u8)((u64)(uintptr_t)val & 7);
        return true;
    }
    return false;
}

/* A page may be written without our knowing: unless it holds translated code. */
static bool allow_write(_Atomic u8 *flags)
{
    u8 f = atomic_load(flags);

    while (!(f & (RAM_PAGE_WTLB | RAM_PAGE_CODE)) &&
           !atomic_compare_exchange_weak(flags, &f, f | RAM_PAGE_WTLB))
        ;
    return !(f & RAM_PAGE_CODE);
}

static bool has_code(const _Atomic u8 *flags, u64 n)
{
    for (u64 k = 0; k < n; k++)
        if (atomic_load_explicit(&flags[k], memory_order_relaxed) & RAM_PAGE_CODE)
            return true;
    return false;
}

/* Host memory of the user page at va that may be executed; NULL: none. */
static const u8 *code_at(struct soft_vcpu *v, u64 va)
{
    struct leaf l;
    const struct ram_slot *s;

    if (va >= STUB_END || !peek(v, va, &l) || !l.x || !(s = ram_slot_find(v->ram, l.pa)))
        return NULL;
    return s->block->host + s->off + (l.pa - s->at);
}

/* What the stub may have at va, by the page tables as they are now.  `known`: it had this RAM
 * page there, executable; so that need not be looked at again. */
static bool view_of(struct soft_vcpu *v, u64 va, u64 known, struct view *ret)
{
    struct leaf l;
    const struct ram_slot *s;
    _Atomic u8 *flags;
    u64 pages = 1;

    va &= ~4095ull;
    if (!stub_can_map(va) || !peek(v, va, &l) || !l.a || !(s = ram_slot_find(v->ram, l.pa)))
        return false;
    *ret = (struct view){ .key = va >> 12, .va = va, .len = 4096 };
    if (l.size >= LARGE && !l.x) {
        u64 large = va & ~(LARGE - 1);
        gpa pa = l.pa - (va - large);

        if (pa >= s->at && pa - s->at + LARGE <= s->len && stub_can_map(large) &&
            stub_can_map(large + LARGE - 4096) &&
            !(STUB_BASE >= large && STUB_BASE < large + LARGE) &&
            !has_code(&s->block->flags[(s->off + (pa - s->at)) >> 12], LARGE / 4096)) {
            *ret = (struct view){ .key = large / LARGE | LARGE_KEY, .va = large, .len = LARGE };
            l.pa = pa;
            pages = LARGE / 4096;
        }
    }
    ret->cut = l.size > ret->len;
    ret->off = s->off + (l.pa - s->at);
    ret->index = s->block->index_base + (ret->off >> 12);
    flags = &s->block->flags[ret->off >> 12];
    ret->prot = PROT_READ;
    ret->fd = s->block->fd;
    if (l.x && ret->index == known) {
        ret->prot |= PROT_EXEC;
    } else if (l.x) {
        u32 slot;

        switch (direct_code_judge(v, ret->index, flags, s->block->host + ret->off,
                                  code_at(v, va - 4096), code_at(v, va + 4096), &slot)) {
        case CODE_PATCHED: /* never writable: writes to the page itself have to be seen */
            ret->fd = direct_code_fd(v->sv->direct_code);
            ret->off = (u64)slot << 12;
            ret->index = slot | COPY_INDEX;
            ret->prot |= PROT_EXEC;
            return true;
        case CODE_CLEAN:
            ret->prot |= PROT_EXEC;
            break;
        case CODE_EXCLUDED:
            ret->excluded = true;
        }
    }
    if (l.w && l.d && !s->rom) {
        bool ok = true;

        for (u64 k = 0; k < pages; k++)
            ok &= allow_write(&flags[k]);
        if (ok)
            ret->prot |= PROT_WRITE;
    }
    return true;
}

/* Neighbours become one call. */
struct run {
    struct view w;
    u64 len;
};

static void run_flush(struct direct_space *s, struct run *r)
{
    if (r->len)
        stub_map(s->stub, r->w.va, r->len, r->w.prot, r->w.fd, r->w.off);
    r->len = 0;
}

static void run_add(struct soft_vcpu *v, struct direct_space *s, struct run *r,
                    const struct view *w)
{
    v->direct->n_map++;
    s->cut |= w->cut;
    g_hash_table_insert(s->pages, (void *)(uintptr_t)w->key, packed(w));
    if (r->len && r->w.va + r->len == w->va && r->w.fd == w->fd &&
        r->w.off + r->len == w->off && r->w.prot == w->prot) {
        r->len += w->len;
        return;
    }
    run_flush(s, r);
    r->w = *w;
    r->len = w->len;
}

static void forget_all(struct direct_space *s)
{
    g_hash_table_remove_all(s->pages);
    stub_unmap_all(s->stub);
    s->stale = s->cut = false;
    s->n_pending = 0;
}

static void forget(struct direct_space *s, u64 key)
{
    g_hash_table_remove(s->pages, (void *)(uintptr_t)key);
    if (key & LARGE_KEY)
        stub_unmap(s->stub, (key & ~LARGE_KEY) * LARGE, LARGE);
    else
        stub_unmap(s->stub, key << 12, 4096);
}

/* One mapping against the page tables. true: it stays (changed or not). */
static bool compare(struct soft_vcpu *v, struct direct_space *s, u64 key, u64 index, u8 prot,
                    struct run *r)
{
    u64 va = key & LARGE_KEY ? (key & ~LARGE_KEY) * LARGE : key << 12;
    struct view w;

    if (!view_of(v, va, prot & PROT_EXEC ? index : ~0ull, &w) || w.key != key) {
        run_flush(s, r);
        stub_unmap(s->stub, va, key & LARGE_KEY ? LARGE : 4096);
        v->direct->n_unmap++;
        return false;
    }
    if (w.index != index || (prot & ~w.prot))
        run_add(v, s, r, &w);
    return true;
}

/* Carries out the flushes that were noted. false: most of what was there is gone, so this is
 * another program under the old one's CR3. */
static bool catch_up(struct soft_vcpu *v, struct direct_space *s)
{
    struct run r = { .len = 0 };
    GHashTableIter it;
    void *key, *val;

    if (s->stale) {
        g_autoptr(GArray) gone = g_array_new(false, false, sizeof(u64));
        u32 n = g_hash_table_size(s->pages);
        /* The table must not grow under the iterator: changed pages go out and in later. */
        g_autoptr(GArray) changed = g_array_new(false, false, sizeof(struct view));

        v->direct->n_resync++;
        s->stale = false; /* what is found below may set it again */
        g_hash_table_iter_init(&it, s->pages);
        while (g_hash_table_iter_next(&it, &key, &val)) {
            u64 k = (u64)(uintptr_t)key, index = (u64)(uintptr_t)val >> 3;
            u8 prot = (u8)((u64)(uintptr_t)val & 7);
            u64 va = k & LARGE_KEY ? (k & ~LARGE_KEY) * LARGE : k << 12;
            struct view w;

            if (!view_of(v, va, prot & PROT_EXEC ? index : ~0ull, &w) || w.key != k) {
                g_array_append_val(gone, k);
                g_hash_table_iter_remove(&it);
            } else if (w.index != index || (prot & ~w.prot)) {
                g_array_append_val(changed, w);
            }
        }
        if (gone->len > 8 && gone->len > n / 2)
            return false;
        for (guint k = 0; k < gone->len; k++) {
            u64 g = g_array_index(gone, u64, k);

            if (g & LARGE_KEY)
                stub_unmap(s->stub, (g & ~LARGE_KEY) * LARGE, LARGE);
            else
                stub_unmap(s->stub, g << 12, 4096);
        }
        v->direct->n_unmap += gone->len;
        for (guint k = 0; k < changed->len; k++)
            run_add(v, s, &r, &g_array_index(changed, struct view, k));
    }
    for (u32 k = 0; k < s->n_pending; k++) {
        u64 at, index;
        u8 prot;

        struct view w;

        if (lookup(s, s->pending[k], &at, &index, &prot)) {
            if (!compare(v, s, at, index, prot, &r))
                g_hash_table_remove(s->pages, (void *)(uintptr_t)at);
        } else if (view_of(v, s->pending[k], ~0ull, &w)) {
            run_add(v, s, &r, &w);
        }
    }
    s->n_pending = 0;
    run_flush(s, &r);
    return true;
}

static int by_value(const void *a, const void *b)
{
    u64 x = *(const u64 *)a, y = *(const u64 *)b;

    return x < y ? -1 : x > y;
}

/* All pages that the TLB knows: for a new stub, and for one that was not used for a while. */
static void prefault(struct soft_vcpu *v, struct direct_space *s)
{
    const struct tlb *t = &v->tlbs[v->space][TLB_USER];
    g_autoptr(GArray) at = g_array_new(false, false, sizeof(u64));
    struct run r = { .len = 0 };
    u64 last = ~0ull, key, index;
    u8 prot;

    for (unsigned i = 0; i < TLB_SIZE; i++) {
        const u64 tags[] = { t->e[i].rd, t->e[i].wr, t->e[i].ex };

        if (!(t->used[i >> 6] & BIT(i & 63)))
            continue;
        for (unsigned k = 0; k < 3; k++)
            if (tags[k] != (i ? 0u : 0x1000u))
                g_array_append_val(at, tags[k]);
    }
    g_array_sort(at, by_value);
    for (guint k = 0; k < at->len; k++) {
        struct view w;

        if (lookup(s, g_array_index(at, u64, k), &key, &index, &prot) ||
            !view_of(v, g_array_index(at, u64, k), ~0ull, &w) || w.key == last)
            continue;
        last = w.key;
        run_add(v, s, &r, &w);
    }
    run_flush(s, &r);
}

/* ---- faults ---------------------------------------------------------------------------------
 */
enum fix { FIXED, NOT_FIXED, EXCLUDED };

static void may_write(struct soft_vcpu *v, gpa pa)
{
    struct ram_page p;

    if (ram_page(v->ram, pa, &p) && !p.rom && atomic_load(p.flags) & RAM_PAGE_CODE &&
        !direct_code_concerns(v->sv->direct_code, p.index))
        code_forget(v->sv, p.index, p.flags);
}

static enum fix fix_fault(struct soft_vcpu *v, struct direct_space *s, u64 addr)
{
    u64 va = addr & ~4095ull, key, index = ~0ull;
    bool fetch = (v->s.rip & ~4095ull) == va, had;
    u8 prot = 0;
    struct leaf l;
    struct view w;
    struct run r = { .len = 0 };

    if (!stub_can_map(va) || !peek(v, va, &l))
        return NOT_FIXED;
    had = lookup(s, va, &key, &index, &prot);
    if (!had) {
        if (!l.a && !mmu_probe(v, addr, 1, fetch && l.x ? MMU_EXEC : MMU_READ, TLB_USER))
            return NOT_FIXED;
    } else if (!(fetch && !(prot & PROT_EXEC) && l.x) && l.w && !l.d &&
               !mmu_probe(v, addr, 1, MMU_WRITE, TLB_USER)) {
        return NOT_FIXED;
    }
    /* A write to a page with translated code: here it runs by itself, so away with that. (Not
     * if the stub has a copy: its original is watched.) */
    if (had && l.w && l.size == 4096 && !(prot & PROT_WRITE) && !(fetch && !(prot & PROT_EXEC)))
        may_write(v, l.pa);
    if (!view_of(v, va, prot & PROT_EXEC ? index : ~0ull, &w))
        return NOT_FIXED;
    if (had && key == w.key && index == w.index && !(w.prot & ~prot))
        return fetch && w.excluded ? EXCLUDED : NOT_FIXED;
    if (g_hash_table_size(s->pages) > PAGES_MAX)
        forget_all(s);
    else if (had && key != w.key)
        forget(s, key);
    /* Its neighbours are likely wanted, too: those that were in use already. */
    u64 first = va & ~(AROUND * 4096ull - 1);
    for (u64 at = first; at < first + AROUND * 4096; at += 4096) {
        struct view n;

        if (at == va || w.len == LARGE) {
            if (at == va)
                run_add(v, s, &r, &w);
            continue;
        }
        if (!lookup(s, at, &key, &index, &prot) && view_of(v, at, ~0ull, &n) && n.len == 4096)
            run_add(v, s, &r, &n);
    }
    run_flush(s, &r);
    return fetch && w.excluded ? EXCLUDED : FIXED;
}

/* ---- on which CPU ---------------------------------------------------------------------------
 * Thread and stub hand over to each other at each stop. Bound to one CPU that costs a few
 * microseconds; across CPUs, more than ten times that.
 */
static bool cpu_taken(struct soft_vcpu *v, int cpu)
{
    for (u32 k = 0; k < v->vm->n_vcpus; k++) {
        struct soft_vcpu *o = v->vm->vcpus[k] ? v->vm->vcpus[k]->impl : NULL;

        if (o && o != v && o->direct && atomic_load(&o->direct->cpu) == cpu)
            return true;
    }
    return false;
}

static void pin(struct soft_vcpu *v, struct direct_space *s)
{
    struct direct *d = v->direct;
    u64 now = __builtin_ia32_rdtsc();
    int cpu, busy = -1;
    cpu_set_t one;

    if (d->cpu >= 0 && now - d->pinned_at > ticks(20000)) {
        u64 delay = stub_delay_ns(s->stub);

        /* Others want this one, too: the kernel cannot move us, so look elsewhere. */
        if (delay - s->delay > 5 * NS_PER_MS && now - d->moved_at > ticks(200000)) {
            busy = d->cpu;
            d->moved_at = now;
        }
        s->delay = delay;
        direct_unpin(v);
    }
    if (d->cpu < 0) {
        if (sched_getaffinity(0, sizeof d->allowed->set, &d->allowed->set) < 0)
            return;
        cpu = sched_getcpu();
        for (int c = 0; (cpu_taken(v, cpu) || cpu == busy) && c < CPU_SETSIZE; c++)
            if (c != busy && CPU_ISSET(c, &d->allowed->set) && !cpu_taken(v, c))
                cpu = c;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) < 0)
            return;
        d->cpu = cpu;
        d->pinned_at = now;
    }
    stub_pin(s->stub, d->cpu);
}

void direct_unpin(struct soft_vcpu *v)
{
    struct direct *d = v->direct;
    cpu_set_t now;

    if (!d || d->cpu < 0)
        return;
    /* Somebody else may have bound this thread in the meantime: then that holds. */
    if (sched_getaffinity(0, sizeof now, &now) == 0 && CPU_COUNT(&now) == 1 &&
        CPU_ISSET(d->cpu, &now))
        sched_setaffinity(0, sizeof d->allowed->set, &d->allowed->set);
    d->cpu = -1;
}

/* ---- when it pays ---------------------------------------------------------------------------
 */
static bool banned(struct direct *d, u64 cr3, u64 now)
{
    for (unsigned k = 0; k < ARRAY_LEN(d->banned_cr3); k++)
        if (d->banned_cr3[k] == cr3 && now < d->banned_until[k])
            return true;
    return false;
}

static void ban(struct direct *d, u64 cr3, u64 now)
{
    unsigned k;

    for (k = 0; k < ARRAY_LEN(d->banned_cr3); k++)
        if (d->banned_cr3[k] == cr3)
            break;
    if (k == ARRAY_LEN(d->banned_cr3)) {
        k = d->banned_next++ % ARRAY_LEN(d->banned_cr3);
        d->backoff[k] = ticks(20000);
    } else if (now - d->banned_until[k] > ticks(2000000)) {
        d->backoff[k] = ticks(20000);
    }
    d->banned_cr3[k] = cr3;
    d->banned_until[k] = now + d->backoff[k];
    d->backoff[k] = MIN(d->backoff[k] * 2, ticks(2000000));
}

static void drop(struct soft_vcpu *v, struct direct_space *s)
{
    g_clear_pointer(&s->stub, stub_free);
    g_hash_table_remove_all(s->pages);
    s->cr3 = ~0ull;
    if (v->direct_space == s)
        v->direct_space = NULL;
}

/* Back to translation; the stub is kept, and emptied when it is used again. */
static void release(struct soft_vcpu *v, struct direct_space *s)
{
    s->cr3 = ~0ull;
    v->direct_space = NULL;
}

static void demote(struct soft_vcpu *v, struct direct_space *s)
{
    v->direct->n_demoted++;
    ban(v->direct, s->cr3, __builtin_ia32_rdtsc());
    release(v, s);
}

static bool new_stub(struct soft_vcpu *v, struct direct_space *s)
{
    u32 n = ram_block_count(v->ram);
    g_autofree int *fds = g_new(int, n + 1);
    g_autoptr(GError) error = NULL;

    for (u32 k = 0; k < n; k++)
        fds[k] = ram_block_at(v->ram, k)->fd;
    fds[n] = direct_code_fd(v->sv->direct_code);
    s->stub = stub_new(fds, n + 1, &error);
    if (!s->stub) {
        log_info("vcpu %u: user code is translated, not run directly: %s", v->vcpu->index,
                 error->message);
        v->direct->refused = true;
        v->direct_always = false;
        return false;
    }
    v->direct->n_blocks = n;
    s->tsc_traps = false;
    return true;
}

static void promote(struct soft_vcpu *v)
{
    struct direct *d = v->direct;
    struct direct_space *s = &d->space[0];

    for (unsigned k = 0; k < DIRECT_SPACES; k++) {
        if (d->space[k].cr3 == ~0ull && s->cr3 != ~0ull)
            s = &d->space[k];
        else if ((d->space[k].cr3 == ~0ull) == (s->cr3 == ~0ull) && d->space[k].used < s->used)
            s = &d->space[k];
    }
    if (d->n_blocks != ram_block_count(v->ram)) {
        for (unsigned k = 0; k < DIRECT_SPACES; k++)
            drop(v, &d->space[k]);
    }
    if (!s->stub && !new_stub(v, s))
        return;
    forget_all(s);
    s->cr3 = v->spaces[v->space].cr3;
    s->used = ++d->clock;
    prefault(v, s);
    d->n_promoted++;
    s->ran = stub_cpu_ns(s->stub);
    s->traps = 0;
    v->direct_space = s;
}

/* User pages that the TLB knows: what prefault() will have to map. */
static u32 pages_known(const struct soft_vcpu *v)
{
    const struct tlb *t = &v->tlbs[v->space][TLB_USER];
    u32 n = 0;

    for (unsigned k = 0; k < ARRAY_LEN(t->used); k++)
        n += (u32)__builtin_popcountll(t->used[k]);
    return n;
}

void direct_sample(struct soft_vcpu *v)
{
    struct direct *d = v->direct;
    u64 now = __builtin_ia32_rdtsc(), cr3 = v->spaces[v->space].cr3, dt;

    if (!d || d->refused || v->direct_space)
        return;
    dt = now - d->sample_at;
    if (d->sample_cr3 == cr3 && dt < ticks(20000) &&
        v->n_interp_kernel - d->sample_interp < 60 + dt / ticks(40))
        d->score += MIN(dt, ticks(5000));
    else
        d->score = 0;
    d->sample_cr3 = cr3;
    d->sample_at = now;
    d->sample_interp = v->n_interp_kernel;
    /* It has computed for as long as its first pages will cost. */
    if (d->score && d->score > pages_known(v) * ticks(PAGE_US) && v->mode == MODE_64 &&
        !banned(d, cr3, now)) {
        d->score = 0;
        promote(v);
    }
}

/* Stops cost more than the translation of what runs between them, which takes about twice as
 * long as the thing itself.  A stop takes the stub's time and as much of ours. */
static bool too_dear(struct direct_space *s)
{
    u64 now, ran;

    if (++s->traps < TRAPS_JUDGED)
        return false;
    now = stub_cpu_ns(s->stub);
    ran = now - s->ran;
    s->ran = now;
    s->traps = 0;
    return ran < 3 * TRAPS_JUDGED * stub_stop_ns(s->stub);
}

/* ---- running --------------------------------------------------------------------------------
 */
static bool null_or(const struct x86_seg *s, u16 sel)
{
    return s->sel == 0 || s->sel == sel;
}

static bool allowed(const struct soft_vcpu *v)
{
    const struct x86_state *s = &v->s;
    u64 must = FL_IF, never = FL_TF | FL_IOPL | FL_VM;

    return v->cpl == 3 && v->mode == MODE_64 && s->seg[CS].sel == USER_CS &&
           s->seg[SS].sel == USER_SS && null_or(&s->seg[DS], USER_SS) &&
           null_or(&s->seg[ES], USER_SS) && !s->seg[FS].sel && !s->seg[GS].sel &&
           (s->rflags & (must | never)) == must && !(s->cr0 & (CR0_TS | CR0_EM)) &&
           s->cr0 & CR0_PG && s->msr.efer & EFER_SCE && s->cr4 & CR4_OSFXSR &&
           s->cr4 & CR4_FSGSBASE && (s->cr4 & CR4_OSXSAVE ? (s->xcr0 & 7) == 7 : 0) &&
           s->rip < STUB_END && s->seg[FS].base < STUB_END && s->seg[GS].base < STUB_END &&
           !v->dr_active && !s->int_shadow && v->a20_mask == ~0ull &&
           !(ram_logging(v->ram) & RAM_PAGE_DIRTY_MIGRATE);
}

static void regs_put(const struct soft_vcpu *v, struct user_regs_struct *r)
{
    const u64 *g = v->s.gpr;

    *r = (struct user_regs_struct){
        .rax = g[RAX],
        .rcx = g[RCX],
        .rdx = g[RDX],
        .rbx = g[RBX],
        .rsp = g[RSP],
        .rbp = g[RBP],
        .rsi = g[RSI],
        .rdi = g[RDI],
        .r8 = g[R8],
        .r9 = g[R9],
        .r10 = g[R10],
        .r11 = g[R11],
        .r12 = g[R12],
        .r13 = g[R13],
        .r14 = g[R14],
        .r15 = g[R15],
        .orig_rax = ~0ull,
        .rip = v->s.rip,
        .eflags = v->s.rflags & FL_DIRECT,
        .cs = USER_CS,
        .ss = USER_SS,
        .ds = v->s.seg[DS].sel,
        .es = v->s.seg[ES].sel,
        .fs_base = v->s.seg[FS].base,
        .gs_base = v->s.seg[GS].base,
    };
}

static void regs_take(struct soft_vcpu *v, const struct user_regs_struct *r)
{
    u64 *g = v->s.gpr;

    g[RAX] = r->rax, g[RCX] = r->rcx, g[RDX] = r->rdx, g[RBX] = r->rbx, g[RSP] = r->rsp;
    g[RBP] = r->rbp, g[RSI] = r->rsi, g[RDI] = r->rdi, g[R8] = r->r8, g[R9] = r->r9;
    g[R10] = r->r10, g[R11] = r->r11, g[R12] = r->r12, g[R13] = r->r13, g[R14] = r->r14;
    g[R15] = r->r15;
    v->s.rip = r->rip;
    v->s.rflags = (v->s.rflags & ~(u64)FL_DIRECT) | (r->eflags & FL_DIRECT);
    v->s.seg[FS].base = r->fs_base;
    v->s.seg[GS].base = r->gs_base;
}

static bool bytes_before(struct soft_vcpu *v, u8 a, u8 b)
{
    u8 at[2];

    return mmu_read(v, v->s.rip - 2, at, 2, TLB_USER) && at[0] == a && at[1] == b;
}

/* Memory that a program touches for the first time costs two stops a page here, and none in
 * translated code; the TLB then tells all of it at once. */
static void fault_of_guest(struct soft_vcpu *v, struct direct_space *s)
{
    u64 now = __builtin_ia32_rdtsc();

    s->burst = now - s->fault_at < ticks(BURST_US) ? s->burst + 1 : 0;
    s->fault_at = now;
    if (s->burst >= BURST && !v->direct_always) {
        v->direct->n_held++;
        s->burst = 0;
        v->direct_hold = now + ticks(HOLD_US);
    }
}

/* One instruction by the interpreter; true: user code may go on directly. */
static bool step(struct soft_vcpu *v, int *ret_stop)
{
    *ret_stop = soft_interpret(v);
    soft_fp_save(v);
    return *ret_stop == SOFT_GO && v->cpl == 3;
}

static bool go_on(struct soft_vcpu *v)
{
    return !atomic_load(&v->poll) && !v->intr && allowed(v) && v->direct_space;
}

/* Out of a page that may not be executed: an instruction at a time. false: do not go on. */
static bool walk_out(struct soft_vcpu *v, int *ret_stop)
{
    u64 page = v->s.rip & ~4095ull;

    v->direct->n_excluded++;
    for (unsigned k = 0; k < EXCLUDED_STEPS; k++) {
        if (!step(v, ret_stop) || v->poll)
            return false;
        if ((v->s.rip & ~4095ull) != page)
            return true;
    }
    demote(v, v->direct_space);
    return false;
}

static int stub_lost(struct soft_vcpu *v, struct direct_space *s)
{
    log_error(
        "vcpu %u: its stub process ended, and with it the registers of the guest's program",
        v->vcpu->index);
    drop(v, s);
    return SOFT_LOST;
}

bool direct_run(struct soft_vcpu *v, int *ret_stop)
{
    struct direct *d = v->direct;
    struct direct_space *s = v->direct_space;
    struct user_regs_struct regs;
    struct stub_stop stop;

    if (!allowed(v))
        return false;
    if (!s) { /* direct_always */
        if (banned(d, v->spaces[v->space].cr3, __builtin_ia32_rdtsc()))
            return false;
        promote(v);
        if (!(s = v->direct_space))
            return false;
    }
    v->s.rflags &= ~(u64)FL_RF; /* holds for one instruction, and no breakpoint is set */
    *ret_stop = SOFT_GO;
    s->used = ++d->clock;
    if (v->direct_hold) { /* it is over */
        v->direct_hold = 0;
        prefault(v, s);
    }
    pin(v, s);
    for (;;) {
        bool traps = v->tsc_offset || v->s.cr4 & CR4_TSD;

        if (atomic_exchange(&v->direct_again, false))
            direct_flush_all(v);
        while (s->stale || s->n_pending) {
            if (!catch_up(v, s)) {
                release(v, s);
                return true;
            }
        }
        if (traps != s->tsc_traps)
            stub_trap_tsc(s->stub, s->tsc_traps = traps);
        if (!stub_commit(s->stub)) {
            u64 cr3 = s->cr3;

            drop(v, s);
            ban(d, cr3, __builtin_ia32_rdtsc());
            return true;
        }
        regs_put(v, &regs);
        atomic_store(&v->direct_pid, stub_pid(s->stub));
        if (atomic_load(&v->poll)) {
            atomic_store(&v->direct_pid, 0);
            return true;
        }
        memcpy(d->xsave, v->s.xsave, 832);
        stub_run(s->stub, &regs, d->xsave, &stop);
        atomic_store(&v->direct_pid, 0);
        d->n_enter++;
        if (stop.signal == STUB_REFUSED) {
            ban(d, s->cr3, __builtin_ia32_rdtsc());
            drop(v, s);
            return true;
        }
        if (stop.signal == STUB_GONE) {
            *ret_stop = stub_lost(v, s);
            return true;
        }
        memcpy(v->s.xsave, d->xsave, 832);
        regs_take(v, &regs);

        switch (stop.signal) {
        case STUB_KICKED:
            d->n_kick++;
            return true;
        case STUB_SYSCALL:
            d->n_syscall++;
            v->s.rip -= 2;
            v->s.gpr[RAX] = regs.orig_rax;
            step(v, ret_stop);
            break;
        case SIGSEGV:
            if (stop.code == SEGV_CODE_MAPERR || stop.code == SEGV_CODE_ACCERR) {
                enum fix f = fix_fault(v, s, stop.addr);

                d->n_fault++;
                if (f == FIXED)
                    break;
                if (f == EXCLUDED) {
                    if (!walk_out(v, ret_stop))
                        return true;
                    break;
                }
                direct_look_at(s, stop.addr);
            }
            step(v, ret_stop);
            if (v->cpl != 3) /* a page fault of the guest's */
                fault_of_guest(v, s);
            break;
        case SIGTRAP:
            d->n_other++;
            if (stop.code == TRAP_CODE_STEP) {
                v->s.dr[6] |= BIT(14);
                *ret_stop = exc_raise(v, EXC_DB, false, 0);
                return true;
            }
            v->s.rip -= bytes_before(v, 0xcd, 3) ? 2 : 1; /* INT 3, or INT3 and INT1 */
            step(v, ret_stop);
            break;
        default:
            d->n_other++;
            step(v, ret_stop);
            break;
        }
        if (v->direct_space == s && !v->direct_always && too_dear(s))
            demote(v, s);
        if (*ret_stop != SOFT_GO || v->direct_space != s || v->cpl != 3 || !go_on(v))
            return true;
    }
}

void direct_seen(struct soft_vcpu *v, const struct insn *i)
{
    struct ram_page p;
    struct leaf l;

    if (v->cpl == 3 && v->mode == MODE_64 && v->s.cr0 & CR0_PG && peek(v, v->s.rip, &l) &&
        ram_page(v->ram, l.pa, &p))
        direct_code_confirm(v->sv->direct_code, p.index, v->s.rip & 4095, i->bytes, i->len);
}

void direct_kick(struct soft_vcpu *v)
{
    pid_t pid = atomic_load(&v->direct_pid);

    if (pid)
        stub_kick(pid);
}

void direct_log_sync(struct soft_vcpu *v, u8 log)
{
    struct direct *d = v->direct;
    GHashTableIter it;
    void *key, *val;

    for (unsigned k = 0; d && k < DIRECT_SPACES; k++) {
        if (!d->space[k].stub)
            continue;
        g_hash_table_iter_init(&it, d->space[k].pages);
        while (g_hash_table_iter_next(&it, &key, &val)) {
            u64 index = (u64)(uintptr_t)val >> 3;
            u64 n = (u64)(uintptr_t)key & LARGE_KEY ? LARGE / 4096 : 1;

            if (!((u64)(uintptr_t)val & PROT_WRITE)) /* copies are not */
                continue;
            for (u32 b = 0; b < ram_block_count(v->ram); b++) {
                struct ram_block *r = ram_block_at(v->ram, b);

                if (index - r->index_base < r->size >> 12)
                    for (u64 p = 0; p < n; p++)
                        atomic_fetch_or(&r->flags[index - r->index_base + p], log);
            }
        }
    }
}

void direct_info(const struct soft_vcpu *v, GString *to)
{
    const struct direct *d = v->direct;

    if (!d)
        return;
    if (d->refused) {
        g_string_append(to, "  direct: the host does not allow it\n");
        return;
    }
    g_string_append_printf(
        to,
        "  direct: spaces promoted %" G_GUINT64_FORMAT ", demoted %" G_GUINT64_FORMAT
        "; entries %" G_GUINT64_FORMAT ", ended by kick %" G_GUINT64_FORMAT
        ", system call %" G_GUINT64_FORMAT ", page %" G_GUINT64_FORMAT
        ", other %" G_GUINT64_FORMAT ", excluded code %" G_GUINT64_FORMAT
        ", bursts of page faults %" G_GUINT64_FORMAT "; pages mapped %" G_GUINT64_FORMAT
        ", dropped %" G_GUINT64_FORMAT ", compared %" G_GUINT64_FORMAT " times\n",
        d->n_promoted, d->n_demoted, d->n_enter, d->n_kick, d->n_syscall, d->n_fault,
        d->n_other, d->n_excluded, d->n_held, d->n_map, d->n_unmap, d->n_resync);
}

bool direct_init(struct soft_vcpu *v)
{
    struct direct *d = g_new0(struct direct, 1);

    for (unsigned k = 0; k < DIRECT_SPACES; k++) {
        d->space[k].cr3 = ~0ull;
        d->space[k].pages = g_hash_table_new(g_direct_hash, g_direct_equal);
    }
    for (unsigned k = 0; k < ARRAY_LEN(d->banned_cr3); k++)
        d->banned_cr3[k] = ~0ull;
    d->cpu = -1;
    d->allowed = g_new0(struct direct_cpus, 1);
    d->xsave = g_malloc0(832);
    v->direct = d;
    v->direct_always = v->vm->cpu_config->direct == CPU_DIRECT_ALWAYS;
    return true;
}

void direct_fini(struct soft_vcpu *v)
{
    struct direct *d = v->direct;

    if (!d)
        return;
    for (unsigned k = 0; k < DIRECT_SPACES; k++) {
        stub_free(d->space[k].stub);
        g_hash_table_destroy(d->space[k].pages);
    }
    g_free(d->allowed);
    g_free(d->xsave);
    g_free(d);
    v->direct = NULL;
}
