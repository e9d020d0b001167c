// SPDX-License-Identifier: GPL-2.0-or-later
/* code.c - the code cache (code.h): finding, linking and dropping blocks. */
#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/direct_code.h"
#include "vmm/cpu/soft/perfmap.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/cpu/soft/emit.h"

static u32 block_hash(const u8 *page, u16 off, u16 mode)
{
    u64 h = ((u64)(uintptr_t)page | off) * 0x9e3779b97f4a7c15ull + mode * 0x85ebca6bu;

    return (u32)(h >> 40) & (CODE_HASH - 1);
}

/* Address space for a table that is filled from its start; NULL: none. */
static void *room(u64 size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void room_free(void *p, u64 size)
{
    if (p)
        munmap(p, size);
}

bool code_init(struct soft_vm *sv, u64 size, u64 reserve, GError **error)
{
    struct code_cache *cc = g_new0(struct code_cache, 1);

    sv->code = cc;
    pthread_mutex_init(&cc->lock, NULL);
    cc->fd = memfd_create("posada-code", MFD_CLOEXEC);
    cc->size = (u32)(size + reserve);
    cc->limit = (u32)size;
    size = cc->size;
    if (cc->fd < 0 || ftruncate(cc->fd, (off_t)size) < 0)
        return fail_errno(error, errno, "code cache of %" G_GUINT64_FORMAT " MiB",
                          (u64)(size / MiB));
    cc->rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cc->fd, 0);
    cc->rx = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, cc->fd, 0);
    if (cc->rw == MAP_FAILED || cc->rx == MAP_FAILED)
        return fail_errno(error, errno,
                          "soft accelerator: executable memory (is it forbidden by a security "
                          "policy?)");
    cc->hash = g_new0(struct block *, CODE_HASH);
    cc->blocks = room(size / CODE_BLOCK_MIN * sizeof *cc->blocks);
    cc->chunks = room((size / CODE_CHUNK + 2) * sizeof *cc->chunks);
    cc->trans = trans_new();
    cc->n_pages = sv->n_pages;
    cc->pages = room(MAX(cc->n_pages, 1) * sizeof *cc->pages);
    if (!cc->pages || !cc->blocks || !cc->chunks)
        return fail_errno(error, errno, "soft accelerator: tables of the code cache");
    cc->bmi2 = __builtin_cpu_supports("bmi2");
    code_make_thunks(sv);
    return true;
}

static void block_free(struct block *b)
{
    g_free(b->sharing);
    g_free(b);
}

void code_free(struct soft_vm *sv)
{
    struct code_cache *cc = sv->code;

    if (!cc)
        return;
    if (cc->perfmap)
        fclose(cc->perfmap);
    for (u32 k = 0; k < cc->n_blocks; k++)
        block_free(cc->blocks[k]);
    for (u64 k = 0; cc->pages && k < cc->n_pages; k++)
        g_free(cc->pages[k]);
    room_free(cc->pages, MAX(cc->n_pages, 1) * sizeof *cc->pages);
    room_free(cc->blocks, cc->size / CODE_BLOCK_MIN * sizeof *cc->blocks);
    room_free(cc->chunks, (cc->size / CODE_CHUNK + 2) * sizeof *cc->chunks);
    if (cc->rw && cc->rw != MAP_FAILED)
        munmap(cc->rw, cc->size);
    if (cc->rx && cc->rx != MAP_FAILED)
        munmap((void *)(uintptr_t)cc->rx, cc->size);
    if (cc->fd >= 0)
        close(cc->fd);
    g_free(cc->hash);
    trans_free(cc->trans);
    g_free(cc->links);
    g_free(cc);
    sv->code = NULL;
}

/* ---- contexts: what a jump-cache entry is valid for
 * ------------------------------------------ */

u16 code_mode_of(const struct soft_vcpu *v)
{
    const struct x86_state *s = &v->s;
    u16 m = v->mode;

    if (s->cr0 & (CR0_EM | CR0_TS) || !(s->cr4 & CR4_OSFXSR))
        m |= CODE_NOFP;
    if (!(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & 6) != 6)
        m |= CODE_NOAVX;
    if (v->mode == MODE_64) {
        m |= CODE_FS | CODE_GS;
    } else {
        for (int k = FS; k <= GS; k++) {
            const struct x86_seg *g = &s->seg[k];
            if (!(g->attr & ATTR_UNUSABLE) && g->limit == UINT32_MAX && g->attr & ATTR_P &&
                (g->attr & (ATTR_CODE | ATTR_W | ATTR_S)) == (ATTR_W | ATTR_S) &&
                !(g->attr & ATTR_E))
                m |= k == FS ? CODE_FS : CODE_GS;
        }
    }
    if (v->cpl) {
        m |= CODE_USER;
        if (s->cr4 & CR4_TSD)
            m |= CODE_NOTSC;
    }
    return m;
}

/*
 * A jump-cache entry is valid in one context: mode, privilege, and space, but that supervisor
 * code (CPL 0) has one context for all spaces as long as it lies in global pages, which MOV CR3
 * does not touch.  Each has a generation of its own; to void its entries is to give it another.
 */
static void context_renew(struct soft_vcpu *v, struct code_context *c)
{
    if (unlikely(!++v->gen_counter)) { /* all numbers used up: begin anew */
        for (unsigned k = 0; k < JUMP_CACHE_SIZE; k++)
            v->jump_cache[k].gen = 0;
        for (unsigned k = 0; k < ARRAY_LEN(v->contexts); k++)
            v->contexts[k].ident = 0;
        v->gen_counter = 1;
    }
    c->gen = v->gen_counter;
}

void code_context_changed(struct soft_vcpu *v)
{
    u32 mode = code_mode_of(v);
    u32 ident = 0x80000000u | (v->cpl ? (1u + v->space) << 16 : 0) | mode;
    struct code_context *c = &v->contexts[(mode ^ mode >> 4 ^ (ident >> 16) * 5) & 63];

    if (unlikely(c->ident != ident)) {
        context_renew(v, c);
        c->ident = ident;
    }
    v->jump_gen = c->gen;
    v->code_mode = (u16)mode;
}

void code_flush_contexts(struct soft_vcpu *v)
{
    for (unsigned k = 0; k < ARRAY_LEN(v->contexts); k++)
        v->contexts[k].ident = 0;
    v->supervisor_local = false;
    code_context_changed(v);
}

void code_flush_space(struct soft_vcpu *v, unsigned space)
{
    for (unsigned k = 0; k < ARRAY_LEN(v->contexts); k++)
        if ((v->contexts[k].ident >> 16 & 0x7fff) == 1 + space)
            v->contexts[k].ident = 0;
    code_leave_space(v);
}

void code_leave_space(struct soft_vcpu *v)
{
    if (v->supervisor_local) {
        for (unsigned k = 0; k < ARRAY_LEN(v->contexts); k++)
            if (!(v->contexts[k].ident >> 16 & 0x7fff))
                v->contexts[k].ident = 0;
        v->supervisor_local = false;
    }
    code_context_changed(v);
}

void code_flush_page(struct soft_vcpu *v, u64 va)
{
    struct jump_cache_entry *j = (void *)((u8 *)v->jump_cache + jump_cache_at(va & ~4095ull));

    for (unsigned k = 0; k < JUMP_CACHE_PAGE; k++)
        if (!((j[k].va ^ va) >> 12))
            j[k].gen = 0;
}

/* ---- blocks
 * ---------------------------------------------------------------------------------- */

__attribute__((no_sanitize("alignment"))) static void put32(struct code_cache *cc, u32 at,
                                                            u32 to)
{
    /* one aligned or at least single-instruction store: rel32 of a jump that others may run */
    *(volatile u32 *)(void *)(cc->rw + at) = to - (at + 4);
}

static void link_slot(struct code_cache *cc, const struct link *l, const u8 *page)
{
    if (l->slot)
        __atomic_store_n((u64 *)(void *)(cc->rw + l->slot), (u64)(uintptr_t)page,
                         __ATOMIC_RELEASE);
}

static void link_cut(struct code_cache *cc, struct link *l)
{
    link_slot(cc, l, NULL);
    put32(cc, l->at, l->stub);
    l->linked = 0;
}

/* The entry is 16-byte aligned, so its first eight bytes change at once under who runs it. */
static u64 entry_get(const struct code_cache *cc, const struct block *b)
{
    return *(volatile u64 *)(void *)(cc->rw + b->code);
}
static void entry_set(struct soft_vm *sv, const struct block *b, u64 bytes)
{
    struct vm *vm = sv->vm;

    *(volatile u64 *)(void *)(sv->code->rw + b->code) = bytes;
    if (b->loops) /* who goes round in it does not come by its entry: let them look up */
        for (u32 k = 0; k < vm->n_vcpus; k++)
            if (vm->vcpus[k] && vm->vcpus[k]->impl)
                atomic_store(vm->vcpus[k]->poll, 1);
}
/* jmp to */
static u64 entry_jump(const struct code_cache *cc, const struct block *b, u32 to)
{
    return (entry_get(cc, b) & ~0xffffffffffull) | 0xe9 | (u64)(to - (b->code + 5)) << 8;
}

/* REQUIRES(cc->lock) */
static void block_drop(struct soft_vm *sv, struct block *b)
{
    struct code_cache *cc = sv->code;

    if (b->dead) /* through its other page */
        return;

    struct block **p = &cc->hash[block_hash(b->page, b->off, b->mode)];

    while (*p && *p != b)
        p = &(*p)->hash_next;
    if (*p) /* a reader that is at b goes on from it */
        __atomic_store_n(p, b->hash_next, __ATOMIC_RELEASE);
    b->dead = true;
    for (u32 k = b->incoming; k; k = cc->links[k - 1].next)
        link_cut(cc, &cc->links[k - 1]);
    b->incoming = 0;
    entry_set(sv, b, entry_jump(cc, b, b->poll_exit));
    cc->n_drops++;
}

/* REQUIRES(cc->lock) */
static void page_drop(struct soft_vm *sv, struct code_page *cp)
{
    for (struct block *b = cp->blocks, *next; b; b = next) {
        next = b->page_next;
        block_drop(sv, b);
    }
    for (struct block *b = cp->crossing, *next; b; b = next) {
        next = b->crossing_next;
        block_drop(sv, b);
    }
    cp->blocks = cp->crossing = NULL;
    for (unsigned k = 0; k < ARRAY_LEN(cp->bytes); k++)
        cp->bytes[k] = 0;
}

void code_written(void *opaque, u64 page_index, u32 off, u32 len)
{
    struct soft_vm *sv = opaque;
    struct code_cache *cc = sv->code;

    if (page_index >= sv->n_pages)
        return;
    pthread_mutex_lock(&cc->lock);
    struct code_page *cp = cc->pages[page_index];

    if (cp && (cp->blocks || cp->crossing)) {
        bool hit = false;
        for (u32 b = off; b < off + len && b < 4096 && !hit; b++)
            hit = cp->bytes[b >> 6] >> (b & 63) & 1;
        if (hit)
            page_drop(sv, cp);
    }
    /*
     * Nothing is cached of it any more: writes are free again, but not after each of them,
     * since taking that back stops all vCPUs when code and data share a page.  The flag goes
     * before the count, so that who sees the flag after the count has seen a count that will
     * change.
     */
    if ((!cp || (!cp->blocks && !cp->crossing)) &&
        !((atomic_load(&sv->page_gen[page_index]) + 1) & 63)) {
        for (u32 k = 0; k < ram_block_count(sv->vm->ram); k++) {
            struct ram_block *b = ram_block_at(sv->vm->ram, k);
            if (page_index - b->index_base < b->size >> RAM_PAGE_SHIFT)
                atomic_fetch_and(&b->flags[page_index - b->index_base], (u8)~RAM_PAGE_CODE);
        }
    }
    atomic_fetch_add(&sv->page_gen[page_index], 1);
    pthread_mutex_unlock(&cc->lock);
    if (direct_code_concerns(sv->direct_code, page_index)) {
        struct vcpu *self = vcpu_current();

        if (self)
            soft_fp_save(self->impl);
        direct_code_written(sv, page_index);
    }
}

void code_forget(struct soft_vm *sv, u64 page_index, _Atomic u8 *flags)
{
    struct code_cache *cc = sv->code;

    pthread_mutex_lock(&cc->lock);
    struct code_page *cp = cc->pages[page_index];

    if (cp && (cp->blocks || cp->crossing))
        page_drop(sv, cp);
    atomic_fetch_and(flags, (u8)~RAM_PAGE_CODE); /* before the count: see code_written() */
    atomic_fetch_add(&sv->page_gen[page_index], 1);
    pthread_mutex_unlock(&cc->lock);
}

/* Everything goes; all other vCPUs are outside. */
static void code_flush_all(struct soft_vcpu *v)
{
    struct soft_vm *sv = v->sv;
    struct code_cache *cc = sv->code;

    soft_exclusive_begin(v);
    pthread_mutex_lock(&cc->lock);
    for (u32 k = 0; k < cc->n_blocks; k++)
        block_free(cc->blocks[k]);
    for (u64 k = 0; k < cc->n_pages; k++) {
        g_free(cc->pages[k]);
        cc->pages[k] = NULL;
    }
    for (u32 k = 0; k < CODE_HASH; k++)
        cc->hash[k] = NULL;
    cc->n_blocks = cc->n_links = 0;
    cc->rerouted = NULL;
    cc->rerouted_until = 0;
    cc->pos = cc->start;
    cc->n_flushes++;
    for (u32 k = 0; k < sv->vm->n_vcpus; k++) {
        struct soft_vcpu *o = sv->vm->vcpus[k]->impl;
        if (!o)
            continue;
        for (unsigned j = 0; j < JUMP_CACHE_SIZE; j++)
            o->jump_cache[j].gen = 0, o->jump_from[j] = 0;
    }
    pthread_mutex_unlock(&cc->lock);
    soft_exclusive_end(v);
}

/* Valid in the current context from now on. */
static const u8 *jump_cache_use(struct soft_vcpu *v, struct jump_cache_entry *j)
{
    unsigned i = (v->s.rip >> 12) & (TLB_SIZE - 1);

    j->gen = v->jump_gen;
    if (!v->cpl && !(v->tlbs[v->space][TLB_KERNEL].global[i >> 6] >> (i & 63) & 1))
        v->supervisor_local = true;
    return v->code_base + j->code;
}

static u64 *jump_from(const struct soft_vcpu *v, const struct jump_cache_entry *j)
{
    return &v->jump_from[j - v->jump_cache];
}

/* Who was there goes to the second place. */
static void jump_cache_put(struct soft_vcpu *v, const struct block *b)
{
    struct jump_cache_entry *j = jump_cache_entry(v, v->s.rip), *second = jump_cache_second(j);

    if (j->va != v->s.rip) {
        *second = *j;
        *jump_from(v, second) = *jump_from(v, j);
    }
    j->va = v->s.rip;
    j->code = b->code;
    *jump_from(v, j) = (u64)(uintptr_t)b->page | b->mode;
    jump_cache_use(v, j);
}

const u8 *code_known(struct soft_vcpu *v)
{
    u64 va = v->s.rip, from;
    struct jump_cache_entry *j = jump_cache_entry(v, va), *second = jump_cache_second(j);
    const struct tlb_entry *e =
        &v->tlbs[v->space][v->cpl == 3 ? TLB_USER : TLB_KERNEL].e[(va >> 12) & (TLB_SIZE - 1)];

    if (j->va == va && j->gen == v->jump_gen)
        return v->code_base + j->code;
    if (va - e->ex > 4095)
        return NULL;
    from = (e->ex + e->addend) | v->code_mode;
    if (j->va == va && *jump_from(v, j) == from)
        return jump_cache_use(v, j);
    if (second->va == va && *jump_from(v, second) == from)
        return jump_cache_use(v, second);
    return NULL;
}

void code_forgotten(struct soft_vcpu *v)
{
    struct jump_cache_entry *j = jump_cache_entry(v, v->s.rip);

    for (unsigned k = 0; k < 2; k++, j = jump_cache_second(j)) {
        if (j->va == v->s.rip) {
            j->gen = 0;
            *jump_from(v, j) = 0;
        }
    }
}

/* Without the lock: blocks are freed only while no vCPU is in here. */
static struct block *block_find(const struct code_cache *cc, const u8 *page, u16 off, u16 mode)
{
    struct block *b = __atomic_load_n(&cc->hash[block_hash(page, off, mode)], __ATOMIC_ACQUIRE);

    while (b && (b->page != page || b->off != off || b->mode != mode))
        b = __atomic_load_n(&b->hash_next, __ATOMIC_ACQUIRE);
    return b;
}

/* REQUIRES(cc->lock) */
static void block_add(struct code_cache *cc, struct block *b, struct code_page *cp)
{
    struct block **head = &cc->hash[block_hash(b->page, b->off, b->mode)];

    cc->blocks[cc->n_blocks] = b;
    for (u32 c = ROUND_UP(b->code, CODE_CHUNK) / CODE_CHUNK; c <= cc->pos / CODE_CHUNK + 1; c++)
        cc->chunks[c] = cc->n_blocks;
    atomic_store(&cc->n_blocks, cc->n_blocks + 1);
    b->hash_next = *head;
    __atomic_store_n(head, b, __ATOMIC_RELEASE);
    b->page_next = cp->blocks;
    cp->blocks = b;
}

/* REQUIRES(cc->lock) */
static struct code_page *page_of(struct code_cache *cc, u64 index)
{
    if (!cc->pages[index]) {
        struct code_page *fresh = g_new0(struct code_page, 1);
        __atomic_store_n(&cc->pages[index], fresh, __ATOMIC_RELEASE);
    }
    return cc->pages[index];
}

/* Translates the block at va, if no other vCPU has done so meanwhile. */
static struct block *block_make(struct soft_vcpu *v, u64 va, u16 mode)
{
    struct code_cache *cc = v->sv->code;
    struct code_source src = { 0 };
    u16 off = (u16)(va & 4095);
    struct ram_page here, there;
    u64 began, next_va = (va | 4095) + 1;
    struct block *b;
    bool full = false;
    gpa at;

    if (v->mode != MODE_64)
        next_va = (u32)next_va;
    if (!mmu_code(v, va, &src.page, &src.index, &at) || src.index >= cc->n_pages ||
        !mmu_ram_page(v, at, &here)) /* index ~0: not RAM */
        return NULL;
    soft_fp_save(v);
    mmu_protect_code(v, src.index, here.flags);
    /* Only a page that code was fetched from already: else the look itself could be seen. */
    if (off > 4096 - 15 && mmu_code_known(v, next_va) &&
        mmu_code(v, next_va, &src.next, &src.next_index, &at) && src.next_index < cc->n_pages &&
        src.next_index != src.index && mmu_ram_page(v, at, &there))
        mmu_protect_code(v, src.next_index, there.flags);
    else
        src.next = NULL;
    pthread_mutex_lock(&cc->lock);
    b = block_find(cc, src.page, off, mode);
    /* Without the marks it was written meanwhile: next time. */
    if (!b && atomic_load(here.flags) & RAM_PAGE_CODE &&
        (!src.next || atomic_load(there.flags) & RAM_PAGE_CODE)) {
        struct code_page *cp = page_of(cc, src.index), *cp2 = NULL;

        began = __builtin_ia32_rdtsc();
        if (src.next)
            cp2 = page_of(cc, src.next_index);
        b = trans_block(v, &src, off, mode, &full);
        if (b)
            block_add(cc, b, cp);
        if (b && cc->perfmap)
            perfmap_add(cc->perfmap, cc->rx + b->code, b->code_len, va, v->cpl == 3);
        if (b && b->crosses) {
            b->crossing_next = cp2->crossing;
            cp2->crossing = b;
        }
        cc->tsc_translating += __builtin_ia32_rdtsc() - began;
    }
    pthread_mutex_unlock(&cc->lock);
    if (full)
        code_flush_all(v);
    return b;
}

struct block *code_find_mode(struct soft_vcpu *v, u16 extra)
{
    u64 va = v->s.rip;
    const struct tlb_entry *e =
        &v->tlbs[v->space][v->cpl == 3 ? TLB_USER : TLB_KERNEL].e[(va >> 12) & (TLB_SIZE - 1)];
    u16 mode = v->code_mode | extra;
    struct block *b = NULL;

    if (likely(va - e->ex <= 4095))
        b = block_find(v->sv->code, (const u8 *)(uintptr_t)(e->ex + e->addend),
                       (u16)(va & 4095), mode);
    if (!b)
        b = block_make(v, va, mode);
    if (b && !extra)
        jump_cache_put(v, b);
    return b;
}

struct block *code_find(struct soft_vcpu *v)
{
    return code_find_mode(v, 0);
}

void code_link(struct soft_vcpu *v, u32 n, struct block *to)
{
    struct code_cache *cc = v->sv->code;

    pthread_mutex_lock(&cc->lock);
    if (n < cc->n_links && !to->dead) {
        struct link *l = &cc->links[n];
        const struct block *from = cc->blocks[l->from];
        bool there = l->slot ? (l->target & 4095) == to->off
                             : from->page == to->page && l->target == to->off;

        if (!l->linked && !from->dead && there && (from->mode & ~CODE_NOSHARE) == to->mode) {
            l->linked = 1;
            l->next = to->incoming;
            to->incoming = n + 1;
            put32(cc, l->at, to->code);
            link_slot(cc, l, to->page); /* from now on it is taken */
            cc->n_links_made++;
        }
    }
    pthread_mutex_unlock(&cc->lock);
}

/* false: no room; the cache may have been emptied, and b is gone. */
static bool reroute(struct soft_vcpu *v, struct block *b, u64 now)
{
    struct code_cache *cc = v->sv->code;
    struct sharing *sh = b->sharing;
    u64 rip = v->s.rip;
    struct block *to;

    v->s.rip = v->page_va + b->off;
    to = code_find_mode(v, CODE_NOSHARE);
    v->s.rip = rip;
    if (!to)
        return false;
    pthread_mutex_lock(&cc->lock);
    if (!b->dead && !sh->until && !to->dead && to->page == b->page &&
        to->mode == (b->mode | CODE_NOSHARE)) {
        /* What lies across a page's end moves on in most programs: 10 ms, then longer. */
        sh->until = now + (vm_tsc_hz() / 100 << MIN(sh->n_rerouted, 8));
        sh->n_rerouted += sh->n_rerouted < 255;
        sh->entry = entry_get(cc, b);
        sh->next = cc->rerouted;
        cc->rerouted = b;
        if (!cc->rerouted_until || sh->until < cc->rerouted_until)
            cc->rerouted_until = sh->until;
        entry_set(v->sv, b, entry_jump(cc, b, to->code));
        cc->n_rerouted++;
    }
    pthread_mutex_unlock(&cc->lock);
    return true;
}

static struct sharing *sharing_of(struct soft_vcpu *v, struct block *b)
{
    struct code_cache *cc = v->sv->code;

    if (unlikely(!__atomic_load_n(&b->sharing, __ATOMIC_ACQUIRE))) {
        soft_fp_save(v);
        pthread_mutex_lock(&cc->lock);
        if (!b->sharing)
            __atomic_store_n(&b->sharing, g_new0(struct sharing, 1), __ATOMIC_RELEASE);
        pthread_mutex_unlock(&cc->lock);
    }
    return b->sharing;
}

struct block *code_shared_failed(struct soft_vcpu *v, struct block *b, const struct site *s)
{
    struct sharing *sh = sharing_of(v, b);
    struct block *to = __atomic_load_n(&sh->unshared, __ATOMIC_ACQUIRE);
    u64 now = __builtin_ia32_rdtsc();

    if (!to || to->dead || to->off != s->guest) {
        to = code_find_mode(v, CODE_NOSHARE);
        if (!to) /* as in reroute() */
            return NULL;
        if (to->page == b->page && to->mode == (b->mode | CODE_NOSHARE))
            __atomic_store_n(&sh->unshared, to, __ATOMIC_RELEASE);
    }
    /* A failure costs 0.1 microseconds; a few percent do not matter. */
    if (now - sh->since > vm_tsc_hz() / 20000) {
        sh->since = now;
        sh->n_failed = 0;
    }
    if (++sh->n_failed == 32 && !reroute(v, b, now))
        return NULL;
    return to;
}

void code_share_again(struct soft_vcpu *v)
{
    struct code_cache *cc = v->sv->code;
    u64 now = __builtin_ia32_rdtsc(), first = UINT64_MAX;

    if (likely(!cc->rerouted_until || now < cc->rerouted_until))
        return;
    pthread_mutex_lock(&cc->lock);
    for (struct block **p = &cc->rerouted; *p;) {
        struct block *b = *p;
        struct sharing *sh = b->sharing;

        if (!b->dead && sh->until > now) {
            first = MIN(first, sh->until);
            p = &sh->next;
            continue;
        }
        *p = sh->next;
        sh->until = 0;
        if (!b->dead)
            entry_set(v->sv, b, sh->entry);
    }
    cc->rerouted_until = first == UINT64_MAX ? 0 : first;
    pthread_mutex_unlock(&cc->lock);
}

/* Without the lock, see block_find(). */
const struct site *code_site(struct code_cache *cc, const u8 *pc, struct block **ret)
{
    u32 at = (u32)(pc - cc->rx), n_blocks = atomic_load(&cc->n_blocks);
    struct block *b;

    if (at >= cc->limit || !n_blocks)
        return NULL;
    u32 n = cc->chunks[at / CODE_CHUNK];

    while (n + 1 < n_blocks && cc->blocks[n + 1]->code <= at)
        n++;
    b = cc->blocks[n];
    if (at < b->code || at - b->code >= b->code_len || !b->n_sites)
        return NULL;
    at -= b->code;
    *ret = b;
    u32 k = b->n_sites;

    while (k > 1 && b->sites[k - 1].host > at)
        k--;
    return &b->sites[k - 1];
}
