// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * soft.h - inside of the soft backend: the vCPU, its software TLB, and who calls whom.
 *
 *   run.c      loop of a vCPU: events, interrupts, HLT; enters translated code or interprets
 *   interp*.c  executes one decoded instruction in C: everything, exactly; the oracle
 *   exc.c      delivers exceptions and interrupts; IRET, far transfers, segment loads
 *   mmu.c      page walk, TLB, physical access, MMIO, invalidation
 *   trans*.c   translator: guest code -> host code;  code.c: code cache, lookup, invalidation
 *   native.c   runs one vector/x87 instruction natively for the interpreter
 *
 * Vector registers.  While `fp_live`, the guest's x87/SSE/AVX registers (and MXCSR, x87 control
 * word) are in the host's own registers.  Code of this folder is compiled for general registers
 * only, and calls nothing that may touch vector registers - no libc memcpy/memset, no bus, no
 * lapic, no log - before soft_fp_save(v).  soft_fp_load(v) brings them back.  v->s.xsave is
 * current only when !fp_live.
 *
 * Status flags.  In C, v->s.rflags is complete.
 */
#pragma once

#include "vmm/core/bus.h"
#include "vmm/core/ram.h"
#include "vmm/core/vm.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/soft/insn.h"
#include "vmm/cpu/x86/cpuid.h"
#include "vmm/cpu/x86/state.h"

enum { TLB_BITS = 12, TLB_SIZE = 1 << TLB_BITS, SOFT_SPACES = 8 };
/* Kernel with AC: CPL < 3 with EFLAGS.AC set (or SMAP off: never used then, plain kernel
 * serves). */
enum tlb_class { TLB_KERNEL, TLB_USER, TLB_KERNEL_AC, TLB_CLASSES };

/*
 * A tag is the page's VA (low 12 bits 0); access is allowed if va - tag <= 4096 - size.  The
 * empty tag is 0, which matches no address that indexes there: entry 0 has 0x1000 instead.
 * Write entries exist only for pages that are dirty (PTE.D), hold no translated code
 * (RAM_PAGE_CODE), are not ROM, need no dirty logging and no data breakpoint.
 * Index: (va >> 12) & (TLB_SIZE - 1).  host address = va + addend.
 */
struct tlb_entry {
    u64 rd, wr, ex;
    u64 addend;
};
enum { TLB_ENTRY_BITS = 5 };
_Static_assert(sizeof(struct tlb_entry) == 1 << TLB_ENTRY_BITS, "shifts in translated code");
struct tlb {
    struct tlb_entry e[TLB_SIZE];
    u64 used[TLB_SIZE / 64];   /* entries that may hold something */
    u64 global[TLB_SIZE / 64]; /* entries of global pages: MOV CR3 leaves them */
    u64 large[TLB_SIZE / 64];  /* entries cut from large pages: INVLPG drops all of the page */
};

/* An address space that TLBs are kept for: CR3 (and PCID). Slots are reused, oldest first. */
struct soft_space {
    u64 cr3; /* CR3 & ~0xfff, without PCID, or ~0: free */
    u16 pcid;
    u64 used;                     /* for choosing a victim */
    u64 large_lo[2], large_hi[2]; /* span of large pages that were filled: lower, upper half */
    u64 large_size;               /* the largest of them */
    bool touched[TLB_CLASSES];    /* anything filled since the last flush */
};

/* Where the code of a VA is. A page has JUMP_CACHE_PAGE neighbouring entries. */
struct jump_cache_entry {
    u64 va;
    u32 gen;  /* of the context it was found in; 0: empty */
    u32 code; /* offset from code_base */
};
enum { JUMP_CACHE_SIZE = 131072, JUMP_CACHE_PAGE = 256 };
#define JUMP_CACHE_BYTES (JUMP_CACHE_SIZE * (sizeof(struct jump_cache_entry) + sizeof(u64)))
/* Offset in the cache; emit_indirect() computes the same. */
static inline u32 jump_cache_at(u64 va)
{
    return ((u32)va ^ (u32)va << 28 >> 20) &
           (JUMP_CACHE_SIZE - 1) * (u32)sizeof(struct jump_cache_entry);
}

struct soft_fault { /* set by mmu and others when they return false */
    u8 vector;
    bool has_error;
    u32 error;
    u64 cr2;
};

struct soft_vm;

/* The interpreter's own; of interest to others: fetch_stop. */
struct interp_cache_entry;
/* An instruction that crosses a page, as it was decoded: holds while its bytes are the same. */
struct interp_crossing {
    u64 la;
    u8 bytes[15], mode;
    u8 here; /* bytes in the first page; 0: empty */
    struct insn insn;
};
enum { INTERP_CROSSINGS = 32 };
struct interp_state {
    void *jump[5]; /* __builtin_setjmp: where interp_throw() goes */
    u64 next_rip;
    int stop;       /* what interp_exec() will return */
    int fetch_stop; /* enum soft_stop, set when interp_fetch() returns NULL */
    u8 shadow;      /* int_shadow after this instruction */
    bool keep_rf, no_step;
    bool align;                       /* alignment is checked: CPL 3, CR0.AM, EFLAGS.AC */
    struct interp_cache_entry *cache; /* decoded instructions, by host address */
    struct insn insn;                 /* the one at hand when it cannot be cached */
    struct interp_crossing crossing[INTERP_CROSSINGS]; /* by page */
};

/* No address is near it, and no host address is where it leads to. */
#define SOFT_NO_STACK BIT(63)

struct soft_vcpu {
    /* What translated code reaches through GS, hot fields first. */
    struct tlb_entry *tlb;                    /* of the current space and class */
    struct tlb_entry *class_tlb[TLB_CLASSES]; /* of the current space; soft_update() */
    _Atomic u8 poll; /* != 0: leave translated code at the next block */
    u8 fp_live;
    u16 cc; /* status flags at block boundaries: SETO in 7:0, LAHF in 15:8 */
    u32 exit_code;
    u64 page_va; /* VA of the page that the running block lies in */
    u64 host_rsp;
    struct jump_cache_entry *jump_cache;
    u32 jump_gen;  /* generation of the current context */
    u16 code_mode; /* enum code_mode of the current context */
    struct soft_vcpu *self;
    const u8 *code_base; /* executable view of the code cache */
    u64 exit_arg;
    u64 scratch[16];
    u64 group[8];  /* addends of shared checks */
    u64 stack_tag; /* the page of the last access through RSP that the TLB lets read and write;
                      SOFT_NO_STACK: none. In 64-bit mode; soft_stack_forget() */
    u64 stack_addend;
    u64 tsc_offset; /* guest TSC = host TSC + offset */
    struct x86_state s;

    /* ---- C only ---- */
    struct soft_stack {
        u64 tag, addend;
    } stack_kept[2];   /* stack_tag and stack_addend of user code and of the kernel: */
    bool stack_kernel; /* whose are at hand now */
    u64 *jump_from; /* for each entry of jump_cache: its host page, and its mode in the low bits
                     */
    struct vcpu *vcpu;
    struct vm *vm;
    struct soft_vm *sv;
    struct ram *ram;
    const struct cpu_table *cpuid;
    u8 cpl;    /* = SS.DPL, kept at hand; 3 in V86 */
    u8 mode;   /* enum insn_mode of CS */
    u8 space;  /* current slot */
    bool flat; /* ES/DS/SS base 0, limit 4 GiB (or 64-bit mode), not expand-down */
    struct tlb (*tlbs)[TLB_CLASSES]; /* [SOFT_SPACES][TLB_CLASSES], mmap'ed */
    struct soft_space spaces[SOFT_SPACES];
    u64 space_clock;
    struct soft_fault fault;
    u64 a20_mask;
    u64 tsc_got;          /* what get() told last */
    bool dr_active;       /* any breakpoint enabled in DR7 */
    u64 dr_hit;           /* data breakpoints hit by the instruction under way (DR6 bits) */
    _Atomic u32 running;  /* in translated code or interpreting; see soft_exclusive_begin() */
    _Atomic u32 hlt_wake; /* futex */
    u64 halt_poll;        /* TSC ticks to look for events before sleeping */
    u64 n_interp_kernel;  /* of n_interp: in the guest's kernel, a measure of how often it is
                             entered */
    u64 n_interp, n_fill, n_exit[32]; /* statistics, "info jit" */
    u64 n_mnem[2048];                 /* interpreted, by ZydisMnemonic */
    struct interp_state x;
    struct code_context {
        u32 ident, gen; /* see code.c; ident 0: free */
    } contexts[64];
    bool supervisor_local; /* the jump cache has supervisor code of pages that are not global */
    struct code_hot { /* where translated code leaves for the interpreter, roughly counted */
        u64 rip, n;
    } hot[256];
    u32 gen_counter;
    struct native_code *native;
    void *signal_stack;
    bool intr;             /* the LAPIC may have something: ask it when interrupts are open */
    struct direct *direct; /* direct.c; NULL: all is translated */
    struct direct_space *direct_space; /* of this CR3: user code runs in a stub */
    u64 direct_hold;                   /* no stub before this TSC; 0: now */
    bool direct_always;                /* a stub for every space: tests */
    _Atomic pid_t direct_pid;          /* the stub that runs now */
    _Atomic bool direct_again;         /* code that it was given was written: look again */
};

struct soft_vm {
    struct vm *vm;
    struct cpu_table cpuid;
    struct code_cache *code;
    _Atomic u32 *page_gen; /* by RAM page index: counts writes to pages with RAM_PAGE_CODE */
    u64 n_pages;
    struct direct_code *direct_code;
    bool interp_only; /* -accel soft,jit=off: the oracle */
    pthread_mutex_t excl_lock;
    pthread_cond_t excl_cond;
    _Atomic u32 excl_pending;
    pthread_mutex_t atomic_lock; /* locked accesses to devices */
};

/* ---- mmu.c ----------------------------------------------------------------------------------
 */
enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

/* Current class for data accesses of the running code. */
static inline enum tlb_class soft_class(const struct soft_vcpu *v)
{
    if (v->cpl == 3)
        return TLB_USER;
    return (v->s.cr4 & CR4_SMAP) && (v->s.rflags & FL_AC) ? TLB_KERNEL_AC : TLB_KERNEL;
}

/* To be called when a TLB entry goes or changes, and with another address space. */
static inline void soft_stack_forget(struct soft_vcpu *v)
{
    v->stack_tag = v->stack_kept[0].tag = v->stack_kept[1].tag = SOFT_NO_STACK;
    v->stack_addend = v->stack_kept[0].addend = v->stack_kept[1].addend = 0;
}

/*
 * Host pointer for one access that lies within a page, filling the TLB; NULL: look at *ret_mmio
 * - true: `*ret_gpa` is not plain RAM for this access (MMIO, ROM write, code page, watched
 * page: go through mmu_phys_write and friends); false: v->fault is set (#PF, #GP
 * non-canonical...).
 */
void *mmu_ptr(struct soft_vcpu *, u64 va, unsigned size, enum mmu_access, enum tlb_class,
              bool *ret_mmio, gpa *ret_gpa);
/* Linear-address access of any size up to 64 bytes, page-crossing and MMIO included; checks all
 * of it before it writes any. false: v->fault. */
bool mmu_read(struct soft_vcpu *, u64 va, void *to, unsigned size, enum tlb_class) MUST_CHECK;
bool mmu_write(struct soft_vcpu *, u64 va, const void *from, unsigned size,
               enum tlb_class) MUST_CHECK;
/* Would a write of size bytes succeed? Also sets A and D. For read-modify-write, PUSHA... */
bool mmu_probe(struct soft_vcpu *, u64 va, unsigned size, enum mmu_access,
               enum tlb_class) MUST_CHECK;
/* Code fetch: host pointer to the page that holds va and its index; false: v->fault, or (index
 * ~0) code outside RAM. */
bool mmu_code(struct soft_vcpu *, u64 va, const u8 **ret_page, u64 *ret_index,
              gpa *ret_gpa) MUST_CHECK;
/* Has code been fetched from this page? Looks into the TLB only. */
bool mmu_code_known(const struct soft_vcpu *, u64 va);
/* Called by translated code on a TLB miss (only general registers!). Fills and returns the
 * addend such that va + addend is the host address, for [va, va+size) inside one page; 0: the
 * instruction has to be interpreted (fault, MMIO, page crossing, ...). No side effect then. */
u64 mmu_fill_fast(struct soft_vcpu *, u64 va, unsigned size, u32 write);

bool mmu_init(struct soft_vcpu *); /* maps the TLBs; false: no memory */
void mmu_fini(struct soft_vcpu *);
/* A page is about to be cached as code: sets RAM_PAGE_CODE and sees to it that no vCPU has a
 * write entry for it left. Not with the code lock held (stops the other vCPUs if it must). */
void mmu_protect_code(struct soft_vcpu *, u64 page_index, _Atomic u8 *flags);
/* Marks every page dirty that this vCPU has a write entry for, and drops the entries. For the
 * `dirty` operation, while the vCPU is stopped (exclusive). */
void mmu_log_sync(struct soft_vcpu *);
/* Logging was switched on or the map changed: all vCPUs flush soon (VCPU_FLUSH). Any thread. */
void mmu_log_changed(struct soft_vm *);
/* All of the rest of gpa's page, by general registers only. */
bool mmu_ram_page(const struct soft_vcpu *, gpa, struct ram_page *ret) MUST_CHECK;

void mmu_flush_all(struct soft_vcpu *);          /* everything, all spaces, globals too */
void mmu_flush_page(struct soft_vcpu *, u64 va); /* INVLPG */
void mmu_invpcid(struct soft_vcpu *, u64 type, u16 pcid, u64 va);
void mmu_set_cr3(struct soft_vcpu *, u64 val); /* MOV CR3 semantics, PCID no-flush bit 63 */
/* PAE paging: have the four pointers that CR3 would load no reserved bits? */
bool mmu_pdptes_ok(struct soft_vcpu *, u64 cr3) MUST_CHECK;
/* After a change of CR0/CR4/EFER/CPL/AC/segments: recomputes cpl, mode, flat, tlb, then
 * code_context_changed(). */
void soft_update(struct soft_vcpu *);
/* Only what a CPL or AC change alters (cheap), code_context_changed() included. */
void soft_update_class(struct soft_vcpu *);
void mmu_drop_write(struct soft_vcpu *,
                    u64 page_index); /* removes write entries of a RAM page */
/* Guest-physical access with everything (RAM, ROM, MMIO via bus); FP is saved if needed. */
u64 mmu_phys_read(struct soft_vcpu *, gpa, unsigned size);
void mmu_phys_write(struct soft_vcpu *, gpa, u64 val, unsigned size);

/* ---- interp.c, exc.c ------------------------------------------------------------------------
 */
bool interp_init(struct soft_vcpu *); /* its decode cache; false: no memory */
void interp_fini(struct soft_vcpu *);
/*
 * Fetches and decodes the instruction at RIP (through a cache). NULL: an exception has been
 * delivered already, go on at the new RIP unless v->x.fetch_stop is set (triple fault). The
 * result is good until the next interp_fetch().
 */
const struct insn *interp_fetch(struct soft_vcpu *);
/*
 * Executes one instruction that lies at RIP, completely, with its exceptions delivered through
 * the IDT, single-step traps and interrupt shadows handled; RIP is then the next to run. A REP
 * string instruction may do a bounded part and leave RIP at itself.
 * Returns 0, or an enum soft_stop.
 */
int interp_exec(struct soft_vcpu *, const struct insn *);
/* SOFT_LOST: the vCPU cannot go on; logged. */
enum soft_stop { SOFT_GO, SOFT_HALT, SOFT_TRIPLE, SOFT_LEAVE, SOFT_LOST };

/* Delivers through the IDT (double and triple fault logic inside). Returns as interp_exec. */
int exc_raise(struct soft_vcpu *, u8 vector, bool has_error, u32 error);
int exc_fault(struct soft_vcpu *);                /* v->fault */
int exc_interrupt(struct soft_vcpu *, u8 vector); /* external interrupt or NMI */

/* ---- sys.c ----------------------------------------------------------------------------------
 */
/* What the host has and this engine does. */
void soft_cpuid_limits(struct cpuid_limits *ret);
/* MSR access as by RDMSR/WRMSR; false: #GP. FP is saved if needed. */
bool soft_rdmsr(struct soft_vcpu *, u32 msr, u64 *ret) MUST_CHECK;
bool soft_wrmsr(struct soft_vcpu *, u32 msr, u64 val) MUST_CHECK;

/* ---- kvmclock.c
 * ------------------------------------------------------------------------------ */
enum { MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00, MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01 };
bool kvmclock_write(struct soft_vcpu *, u32 msr, u64 val) MUST_CHECK; /* false: #GP */

/* ---- native.c, trans.c ----------------------------------------------------------------------
 */
void soft_fp_save(struct soft_vcpu *); /* no-op when not live */
void soft_fp_load(struct soft_vcpu *);
/*
 * Runs one instruction on the host itself, for vector/x87 (and any other that only computes):
 * general registers and flags come from and go to v->s, the memory operand (if any) is `mem`,
 * a host buffer of its size. Returns 0, or the vector of the exception it raised natively
 * (EXC_XM, EXC_MF, EXC_GP for misaligned, EXC_UD, EXC_DE) with no register changed.
 */
int soft_native(struct soft_vcpu *, const struct insn *, void *mem);

/* ---- run.c, code.c --------------------------------------------------------------------------
 */
/* Stops all other vCPUs of the vm outside of guest code; not recursive. The caller must not
 * hold the code lock. */
void soft_exclusive_begin(struct soft_vcpu *self);
void soft_exclusive_end(struct soft_vcpu *self);
/* Fetches and executes one instruction; an enum soft_stop. */
int soft_interpret(struct soft_vcpu *);
/* The jump-cache key has to change: mapping or mode changed for this space/context. */
void code_context_changed(struct soft_vcpu *);
/* Jump-cache entries that are void now: those of a space, those of supervisor code that is not
 * the same in all spaces (before another space is used), all, those of a page. */
void code_flush_space(struct soft_vcpu *, unsigned space);
void code_leave_space(struct soft_vcpu *);
void code_flush_contexts(struct soft_vcpu *);
void code_flush_page(struct soft_vcpu *, u64 va);
/* ram_set_watch target: bytes of a page with code were written. Any thread. */
void code_written(void *sv, u64 page_index, u32 off, u32 len);
/* Drops what was translated of a page, so that it may be written without a word. FP is saved.
 */
void code_forget(struct soft_vm *, u64 page_index, _Atomic u8 *flags);
static inline u64 soft_tsc(const struct soft_vcpu *v)
{
    return __builtin_ia32_rdtsc() + v->tsc_offset;
}
