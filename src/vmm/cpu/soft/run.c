// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * run.c - the loop of a software vCPU, and the backend's operations (cpu.h).
 *
 *   events? -> interrupt? -> block (jump cache, else find or translate) -> run it -> why did it
 *   leave? -> ...
 *
 * Nothing is locked in the loop.  Another thread that wants something sets v->vcpu->events and
 * *poll; translated code looks at poll at the start of each block.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/core/quiescent.h"
#include "vmm/cpu/soft/code.h"
#include "vmm/cpu/soft/direct.h"
#include "vmm/cpu/soft/direct_code.h"
#include "vmm/cpu/soft/native.h"
#include "vmm/cpu/soft/perfmap.h"

enum { CODE_CACHE_DEFAULT = 64 * MiB };

/* ---- exclusive sections
 * ---------------------------------------------------------------------- */

static void run_begin(struct soft_vcpu *v)
{
    struct soft_vm *sv = v->sv;

    atomic_store(&v->running, 1);
    if (likely(!atomic_load(&sv->excl_pending)))
        return;
    atomic_store(&v->running, 0);
    pthread_mutex_lock(&sv->excl_lock);
    atomic_store(&v->running, 1);
    pthread_mutex_unlock(&sv->excl_lock);
}

static void run_end(struct soft_vcpu *v)
{
    atomic_store(&v->running, 0);
}

/* Waits until no vCPU but self (or none) is in guest code. */
static void stop_others(struct soft_vm *sv, struct soft_vcpu *self)
{
    struct vm *vm = sv->vm;

    pthread_mutex_lock(&sv->excl_lock);
    atomic_store(&sv->excl_pending, 1);
    for (u32 k = 0; k < vm->n_vcpus; k++) {
        struct soft_vcpu *o = vm->vcpus[k]->impl;

        if (!o || o == self)
            continue;
        atomic_store(&o->poll, 1);
        direct_kick(o);
        for (u32 spins = 0; atomic_load(&o->running); spins++) {
            if (spins < 200)
                __builtin_ia32_pause();
            else
                sched_yield();
        }
    }
}

void soft_exclusive_begin(struct soft_vcpu *self)
{
    atomic_store(&self->running, 0);
    stop_others(self->sv, self);
}

void soft_exclusive_end(struct soft_vcpu *self)
{
    struct soft_vm *sv = self->sv;

    atomic_store(&sv->excl_pending, 0);
    atomic_store(&self->running, 1);
    pthread_mutex_unlock(&sv->excl_lock);
}

/* ---- events
 * ---------------------------------------------------------------------------------- */

static void soft_kick(struct vcpu *c)
{
    struct soft_vcpu *v = c->impl;

    atomic_store(&v->poll, 1);
    direct_kick(v);
    if (atomic_exchange(&v->hlt_wake, 1) == 2)
        syscall(SYS_futex, &v->hlt_wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static bool interrupt_open(const struct soft_vcpu *v)
{
    return v->s.rflags & FL_IF && !v->s.int_shadow;
}

/* INIT (SDM 3, 10.1, table 10-1): FPU, XCR0, MTRRs and other MSRs keep their values. */
static void take_init(struct soft_vcpu *v)
{
    struct x86_state *s;

    soft_fp_save(v);
    s = g_new(struct x86_state, 1);
    x86_reset(s, v->vcpu->index == 0);
    memcpy(s->xsave, v->s.xsave, sizeof s->xsave);
    s->xcr0 = v->s.xcr0;
    s->msr = v->s.msr;
    s->msr.efer = 0;
    s->cr0 = CR0_ET | (v->s.cr0 & (CR0_CD | CR0_NW));
    if (v->vcpu->index)
        s->mp_state = MP_WAIT_SIPI;
    v->s = *s;
    g_free(s);
    if (v->vcpu->lapic)
        v->vcpu->lapic_ops->init(v->vcpu->lapic);
    mmu_flush_all(v);
    soft_update(v);
}

/* SDM 3, 9.4.2. */
static void take_sipi(struct soft_vcpu *v)
{
    u8 vector = atomic_load(&v->vcpu->sipi_vector);

    if (v->s.mp_state != MP_WAIT_SIPI)
        return;
    v->s.seg[CS].sel = (u16)(vector << 8);
    v->s.seg[CS].base = (u64)vector << 12;
    v->s.rip = 0;
    v->s.mp_state = MP_RUNNING;
    soft_update(v);
}

/* Returns true when run() has to return. */
static bool take_events(struct soft_vcpu *v)
{
    struct vcpu *c = v->vcpu;
    u32 ev = atomic_load(&c->events);

    if (ev & VCPU_STOP)
        return true;
    if (!ev)
        return false;
    atomic_fetch_and(&c->events, ~ev);
    if (ev & VCPU_FLUSH)
        mmu_flush_all(v);
    if (ev & VCPU_INIT)
        take_init(v);
    if (ev & VCPU_SIPI)
        take_sipi(v);
    if (ev & VCPU_NMI)
        v->s.nmi_pending = 1;
    if (ev & VCPU_INTR)
        v->intr = true;
    soft_fp_save(v);
    core_quiescent();
    return false;
}

/* In microseconds, as KVM has them: to wake a sleeping thread of the host is dear, so who is
 * woken soon after falling asleep looks around for a while first. */
enum { HALT_POLL_FIRST = 10, HALT_POLL_MAX = 200 };

static u64 ticks(u64 us)
{
    return us * (vm_tsc_hz() / 1000000);
}

/* Sleeps until there is an event. The caller looks what it is. */
static void halt_wait(struct soft_vcpu *v)
{
    u64 began = __builtin_ia32_rdtsc();
    bool slept = false;

    soft_fp_save(v);
    run_end(v);
    core_offline();
    while (!atomic_load(&v->vcpu->events) && __builtin_ia32_rdtsc() - began < v->halt_poll)
        __builtin_ia32_pause();
    while (!atomic_load(&v->vcpu->events)) {
        u32 was = atomic_exchange(&v->hlt_wake, 2);

        if (was != 1 && !atomic_load(&v->vcpu->events)) {
            slept = true;
            direct_unpin(v);
            syscall(SYS_futex, &v->hlt_wake, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
        }
        atomic_store(&v->hlt_wake, 0);
    }
    core_online();
    run_begin(v);
    if (!slept)
        return;
    if (__builtin_ia32_rdtsc() - began > ticks(HALT_POLL_MAX))
        v->halt_poll = 0;
    else
        v->halt_poll = CLAMP(v->halt_poll * 2, ticks(HALT_POLL_FIRST), ticks(HALT_POLL_MAX));
}

/* Delivers what is deliverable now; an enum soft_stop. */
static int take_interrupts(struct soft_vcpu *v)
{
    if (v->s.nmi_pending && !v->s.nmi_masked && !v->s.int_shadow) {
        v->s.nmi_pending = 0;
        v->s.nmi_masked = 1;
        v->s.mp_state = MP_RUNNING;
        return exc_interrupt(v, EXC_NMI);
    }
    if (v->intr && interrupt_open(v) && v->vcpu->lapic) {
        soft_fp_save(v);
        int vector = v->vcpu->lapic_ops->ack(v->vcpu->lapic);

        if (vector < 0) {
            v->intr = false;
            return SOFT_GO;
        }
        v->s.mp_state = MP_RUNNING;
        if (v->cpl == 3)
            direct_sample(v);
        return exc_interrupt(v, (u8)vector);
    }
    return SOFT_GO;
}

/* ---- the loop
 * -------------------------------------------------------------------------------- */

/* A place that leaves often stays; others push it out slowly. */
static void note_hot(struct soft_vcpu *v)
{
    struct code_hot *h = &v->hot[(v->s.rip ^ v->s.rip >> 9) & 255];

    if (h->rip == v->s.rip)
        h->n++;
    else if (h->n)
        h->n--;
    else
        *h = (struct code_hot){ v->s.rip, 1 };
}

static bool differs_on_host(const struct insn *i)
{
    return i->mnem == ZYDIS_MNEMONIC_CPUID || i->mnem == ZYDIS_MNEMONIC_RDTSCP ||
           i->mnem == ZYDIS_MNEMONIC_RDPID || i->mnem == ZYDIS_MNEMONIC_LSL ||
           i->mnem == ZYDIS_MNEMONIC_XSAVE || i->mnem == ZYDIS_MNEMONIC_XSAVE64 ||
           i->mnem == ZYDIS_MNEMONIC_XSAVEC || i->mnem == ZYDIS_MNEMONIC_XSAVEC64;
}

int soft_interpret(struct soft_vcpu *v)
{
    v->n_interp++;
    v->n_interp_kernel += v->cpl != 3;
    note_hot(v);
    const struct insn *i = interp_fetch(v);

    if (!i)
        return v->x.fetch_stop;
    v->n_mnem[i->mnem & (ARRAY_LEN(v->n_mnem) - 1)]++;
    if (unlikely(v->direct && v->cpl == 3 && differs_on_host(i))) {
        soft_fp_save(v);
        direct_seen(v, i);
    }
    return interp_exec(v, i);
}

/* Things that only the interpreter does, instruction by instruction. */
static bool needs_interpreter(const struct soft_vcpu *v)
{
    const struct x86_seg *cs = &v->s.seg[CS];

    if (v->mode == MODE_32 && (cs->base || cs->limit != UINT32_MAX))
        return true;
    return v->sv->interp_only || v->mode == MODE_16 || !v->flat || v->s.rflags & FL_TF ||
           v->s.int_shadow || v->dr_active || v->s.rflags & FL_RF || v->x.align;
}

/* User code of a space that has a stub. */
static bool wants_direct(const struct soft_vcpu *v)
{
    return (v->direct_space || v->direct_always) && v->cpl == 3 &&
           (!v->direct_hold || __builtin_ia32_rdtsc() > v->direct_hold);
}

static const u8 *find_code(struct soft_vcpu *v)
{
    const u8 *code = code_known(v);

    if (likely(code))
        return code;
    struct block *b = code_find(v);

    return b ? v->code_base + b->code : NULL;
}

/* RIP is at the instruction that left its block in the middle. */
static const struct site *rewind_to_site(struct soft_vcpu *v, struct block **ret)
{
    const struct site *s = code_site(v->sv->code, (const u8 *)(uintptr_t)v->exit_arg, ret);

    g_assert(s);
    v->s.rip = v->page_va + s->guest;
    if (v->mode != MODE_64)
        v->s.rip = (u32)v->s.rip;
    return s;
}

static int run_code(struct soft_vcpu *v)
{
    const u8 *code = find_code(v);

    if (!code)
        return soft_interpret(v);
    for (;;) {
        v->page_va = v->s.rip & ~4095ull;
        soft_fp_load(v);
        native_enter(v, code);
        if (!SOFT_LAZY_FP)
            soft_fp_save(v);
        if (v->mode != MODE_64)
            v->s.rip = (u32)v->s.rip;
        v->n_exit[v->exit_code & 31]++;
        switch (v->exit_code) {
        case CODE_EXIT_LINK: {
            u32 link = (u32)v->exit_arg;
            struct block *b = code_find(v);

            if (!b)
                return soft_interpret(v);
            code_link(v, link, b);
            code = v->code_base + b->code;
            break;
        }
        case CODE_EXIT_LOOKUP:
            code = find_code(v);
            if (!code)
                return soft_interpret(v);
            break;
        case CODE_EXIT_INTERP: {
            int stop = soft_interpret(v);

            if (stop != SOFT_GO || v->intr || needs_interpreter(v) || wants_direct(v))
                return stop;
            code = find_code(v);
            if (!code)
                return SOFT_GO;
            break;
        }
        case CODE_EXIT_SLOW: {
            struct block *b, *to = NULL;
            const struct site *s = rewind_to_site(v, &b);

            if (s->shared)
                to = code_shared_failed(v, b, s);
            if (!to)
                return soft_interpret(v);
            code = v->code_base + to->code;
            break;
        }
        case CODE_EXIT_FAULT: {
            struct block *b;

            rewind_to_site(v, &b);
            return soft_interpret(v);
        }
        default:
            /* Events; or the block was dropped, and the jump cache still has it. */
            if (!v->poll)
                code_forgotten(v);
            return SOFT_GO;
        }
        if (v->poll)
            return SOFT_GO;
    }
}

static enum cpu_exit soft_run(struct vcpu *c)
{
    struct soft_vcpu *v = c->impl;
    enum cpu_exit why = CPU_EXIT_KICK;

    native_thread_enter(v);
    v->tsc_offset = (u64)c->tsc_offset;
    run_begin(v);
    soft_update(v);
    v->intr = true; /* look once */
    for (;;) {
        int stop = SOFT_GO;

        if (unlikely(v->poll || atomic_load(&c->events))) {
            /* Before looking why: what is asked for after that sets it again. */
            atomic_store(&v->poll, 0);
            if (atomic_load(&v->sv->excl_pending)) {
                run_end(v);
                run_begin(v);
            }
            if (take_events(v))
                break;
        }
        if (unlikely(v->intr || v->s.nmi_pending)) {
            code_share_again(v);
            stop = take_interrupts(v);
            if (stop == SOFT_TRIPLE) {
                why = CPU_EXIT_TRIPLE;
                break;
            }
        }
        if (v->s.mp_state != MP_RUNNING) {
            halt_wait(v);
            continue;
        }
        bool direct = wants_direct(v);

        if (direct)
            soft_fp_save(v);
        if (!direct || !direct_run(v, &stop))
            stop = needs_interpreter(v) ? soft_interpret(v) : run_code(v);
        if (stop == SOFT_TRIPLE || stop == SOFT_LOST) {
            why = stop == SOFT_TRIPLE ? CPU_EXIT_TRIPLE : CPU_EXIT_ERROR;
            break;
        }
    }
    soft_fp_save(v);
    direct_unpin(v);
    run_end(v);
    native_thread_leave(v);
    return why;
}

/* ---- operations
 * ------------------------------------------------------------------------------ */

static void map_changed(void *opaque)
{
    mmu_log_changed(opaque);
}

static bool soft_vm_init(struct vm *vm, GError **error)
{
    struct soft_vm *sv = g_new0(struct soft_vm, 1);
    const struct cpu_config *cfg = vm->cpu_config;
    struct cpuid_limits limits;

    vm->cpu_vm = sv;
    vm->kernel_irqchip = false;
    sv->vm = vm;
    sv->n_pages = ram_pages(vm->ram);
    pthread_mutex_init(&sv->excl_lock, NULL);
    pthread_mutex_init(&sv->atomic_lock, NULL);
    sv->page_gen =
        mmap(NULL, MAX(sv->n_pages, 1) * sizeof *sv->page_gen, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sv->page_gen == MAP_FAILED)
        return fail_errno(error, errno, "page table of the software CPU");
    sv->interp_only = g_strcmp0(g_getenv("POSADA_SOFT_JIT"), "off") == 0;
    soft_cpuid_limits(&limits);
    if (!cpuid_build(cfg->model ? cfg->model : "max", &limits, MAX(cfg->sockets, 1),
                     MAX(cfg->cores, 1), MAX(cfg->threads, 1), &sv->cpuid, error))
        return false;
    vm->phys_bits = sv->cpuid.phys_bits;
    if (!code_init(sv, cfg->code_cache_mib ? cfg->code_cache_mib * MiB : CODE_CACHE_DEFAULT,
                   native_area(MAX(cfg->smp, 1)), error))
        return false;
    if (cfg->perfmap)
        sv->code->perfmap = perfmap_open();
    if (cfg->direct != CPU_DIRECT_OFF && !sv->interp_only)
        sv->direct_code = direct_code_new(sv->n_pages);
    native_install();
    ram_set_watch(vm->ram, code_written, sv);
    ram_listen(vm->ram, map_changed, sv);
    return true;
}

static void soft_vm_fini(struct vm *vm)
{
    struct soft_vm *sv = vm->cpu_vm;

    if (!sv)
        return;
    ram_set_watch(vm->ram, NULL, NULL);
    code_free(sv);
    direct_code_free(sv->direct_code);
    if (sv->page_gen && sv->page_gen != MAP_FAILED)
        munmap(sv->page_gen, MAX(sv->n_pages, 1) * sizeof *sv->page_gen);
    g_free(sv);
    vm->cpu_vm = NULL;
}

static bool soft_vcpu_init(struct vcpu *c, GError **error)
{
    struct soft_vm *sv = c->vm->cpu_vm;
    struct soft_vcpu *v = mmap(NULL, sizeof *v, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (v == MAP_FAILED)
        return fail_errno(error, errno, "software CPU");
    c->impl = v;
    c->poll = &v->poll;
    v->self = v;
    v->vcpu = c;
    v->vm = c->vm;
    v->sv = sv;
    v->ram = c->vm->ram;
    v->cpuid = &sv->cpuid;
    v->a20_mask = ~0ull;
    v->code_base = sv->code->rx;
    v->gen_counter = 1;
    v->jump_cache = mmap(NULL, JUMP_CACHE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    v->jump_from = (u64 *)(v->jump_cache + JUMP_CACHE_SIZE);
    if (v->jump_cache == MAP_FAILED || !mmu_init(v) || !interp_init(v))
        return fail(error, ERR_FAILED, "no memory for the tables of a software CPU");
    if (sv->direct_code)
        direct_init(v);
    return native_init(v, error);
}

static void soft_vcpu_fini(struct vcpu *c)
{
    struct soft_vcpu *v = c->impl;

    if (!v)
        return;
    c->poll = NULL;
    c->impl = NULL;
    direct_fini(v);
    native_fini(v);
    interp_fini(v);
    mmu_fini(v);
    munmap(v->jump_cache, JUMP_CACHE_BYTES);
    munmap(v, sizeof *v);
}

static bool soft_get(struct vcpu *c, struct x86_state *ret, GError **error UNUSED)
{
    struct soft_vcpu *v = c->impl;

    *ret = v->s;
    ret->msr.tsc = v->tsc_got = __builtin_ia32_rdtsc() + (u64)c->tsc_offset;
    if (c->lapic)
        ret->cr8 = c->lapic_ops->tpr_get(c->lapic) >> 4;
    return true;
}

static bool soft_set(struct vcpu *c, const struct x86_state *s, GError **error)
{
    struct soft_vcpu *v = c->impl;
    u32 mxcsr;

    memcpy(&mxcsr, s->xsave + 24, 4);
    if (mxcsr & ~0xffffu)
        return fail(error, ERR_FORMAT, "MXCSR %#x has reserved bits", mxcsr);
    v->s = *s;
    /* What XRSTOR would fault on. */
    u64 head;
    memcpy(&head, v->s.xsave + 512, 8);
    head &= 7;
    memset(v->s.xsave + 512, 0, 64);
    memcpy(v->s.xsave + 512, &head, 8);
    v->fp_live = false;
    /* A loader that changes registers puts the time back that it got: that is no change, and
     * would leave this TSC behind the others by what it took. */
    if (!s->msr.tsc) /* reset: the host's own counter, so that nobody has to translate it */
        c->tsc_offset = 0;
    else if (s->msr.tsc != v->tsc_got)
        c->tsc_offset = (s64)(s->msr.tsc - __builtin_ia32_rdtsc());
    v->tsc_offset = (u64)c->tsc_offset;
    mmu_flush_all(v);
    soft_update(v);
    return true;
}

/* With the vCPUs stopped for a moment: one that has just looked at its write entry would write
 * after its page was marked. The caller holds no device's lock. */
static void soft_dirty(struct vm *vm)
{
    struct soft_vm *sv = vm->cpu_vm;

    stop_others(sv, NULL);
    for (u32 k = 0; k < vm->n_vcpus; k++) {
        if (vm->vcpus[k]->impl) {
            mmu_log_sync(vm->vcpus[k]->impl);
            direct_log_sync(vm->vcpus[k]->impl, ram_logging(vm->ram));
        }
    }
    atomic_store(&sv->excl_pending, 0);
    pthread_mutex_unlock(&sv->excl_lock);
}

static void soft_info(struct vm *vm, GString *to)
{
    static const char *const names[] = {
        "lookup", "link", "poll", "interpret", "slow", "fault"
    };
    struct soft_vm *sv = vm->cpu_vm;
    struct code_cache *cc = sv->code;

    g_string_append_printf(to,
                           "code cache: %u of %u KiB, %u blocks, %" G_GUINT64_FORMAT
                           " translated (%" G_GUINT64_FORMAT " instructions, %" G_GUINT64_FORMAT
                           " ms), %" G_GUINT64_FORMAT " dropped, %" G_GUINT64_FORMAT
                           " flushes, %" G_GUINT64_FORMAT " links, %" G_GUINT64_FORMAT
                           " rerouted\n",
                           cc->pos / 1024, cc->size / 1024, cc->n_blocks, cc->n_translated,
                           cc->n_insns, cc->tsc_translating / MAX(vm_tsc_hz() / 1000, 1),
                           cc->n_drops, cc->n_flushes, cc->n_links_made, cc->n_rerouted);
    for (u32 k = 0; k < vm->n_vcpus; k++) {
        struct soft_vcpu *v = vm->vcpus[k]->impl;
        u64 last = 0;

        g_string_append_printf(
            to, "vcpu %u: interpreted %" G_GUINT64_FORMAT ", TLB fills %" G_GUINT64_FORMAT, k,
            v->n_interp, v->n_fill);
        for (unsigned e = 0; e < ARRAY_LEN(names); e++)
            g_string_append_printf(to, ", %s %" G_GUINT64_FORMAT, names[e], v->n_exit[e]);
        g_string_append_c(to, '\n');
        direct_info(v, to);
        last = ~0ull;
        for (unsigned top = 0; top < 16; top++) {
            unsigned best = 0;
            for (unsigned m = 0; m < ARRAY_LEN(v->n_mnem); m++)
                if (v->n_mnem[m] < last && v->n_mnem[m] > v->n_mnem[best])
                    best = m;
            last = v->n_mnem[best];
            if (!last)
                break;
            g_string_append_printf(to, "%s%s %" G_GUINT64_FORMAT, top ? ", " : "  ",
                                   insn_name((u16)best), last);
        }
        g_string_append_c(to, '\n');
        last = 0;
        for (unsigned top = 0; top < 12; top++) {
            struct code_hot *best = NULL;
            for (unsigned h = 0; h < ARRAY_LEN(v->hot); h++)
                if (v->hot[h].n && (!best || v->hot[h].n > best->n) &&
                    (!last || v->hot[h].n < last))
                    best = &v->hot[h];
            if (!best)
                break;
            last = best->n;
            g_string_append_printf(to,
                                   "  interpreted at %016" G_GINT64_MODIFIER
                                   "x: about %" G_GUINT64_FORMAT " times\n",
                                   best->rip, best->n);
        }
    }
}

const struct cpu_ops cpu_ops_soft = {
    .name = "soft",
    .vm_init = soft_vm_init,
    .vm_fini = soft_vm_fini,
    .vcpu_init = soft_vcpu_init,
    .vcpu_fini = soft_vcpu_fini,
    .run = soft_run,
    .kick = soft_kick,
    .get = soft_get,
    .set = soft_set,
    .dirty = soft_dirty,
    .info = soft_info,
};
