// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpu.h - processors: the door over the backends kvm/ and soft/.
 *
 * Backends differ in run() only.  run() does its own port and memory I/O through vm->io and
 * vm->mem, takes interrupts itself (from vcpu->lapic, or the kernel's), sleeps in HLT, and
 * returns only for a change of run state.  All share one struct x86_state.
 */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "vmm/core/vm.h"

struct x86_state;
struct cpu_model;

enum cpu_exit {
    CPU_EXIT_KICK,     /* vcpu_signal(VCPU_STOP) or a kick: look at the run state */
    CPU_EXIT_TRIPLE,   /* triple fault */
    CPU_EXIT_SHUTDOWN, /* the backend was told by the guest to end (KVM_EXIT_SYSTEM_EVENT) */
    CPU_EXIT_DEBUG,    /* breakpoint or step of a debugger */
    CPU_EXIT_ERROR,    /* cannot go on; already logged with registers */
};

struct cpu_ops {
    const char *name; /* "kvm", "soft" */
    /* Once, after RAM blocks exist and before vCPUs. vm->kernel_irqchip is what the user wants;
     * cleared or refused here if the backend cannot. */
    bool (*vm_init)(struct vm *, GError **error);
    void (*vm_fini)(struct vm *);
    bool (*vcpu_init)(struct vcpu *, GError **error); /* any thread, before run() */
    void (*vcpu_fini)(struct vcpu *);
    enum cpu_exit (*run)(struct vcpu *); /* the vCPU's own thread */
    void (*kick)(struct vcpu *);         /* any thread: make run() look at vcpu->events */
    /* Only while the vCPU is parked, or from its own thread outside run(). */
    bool (*get)(struct vcpu *, struct x86_state *ret, GError **error);
    bool (*set)(struct vcpu *, const struct x86_state *, GError **error);
    /* Brings the backend's dirty pages into the RAM flags (ram.h). */
    void (*dirty)(struct vm *);
    /* "info jit" and the like; may be NULL. */
    void (*info)(struct vm *, GString *to);
};
extern const struct cpu_ops cpu_ops_kvm, cpu_ops_soft;

enum { CPU_CODE_CACHE_MIN_MIB = 4, CPU_CODE_CACHE_MAX_MIB = 1024 };
/* soft: may user code run on the host's processor as it is? Where it pays; never; wherever it
 * can (for tests). */
enum cpu_direct { CPU_DIRECT_AUTO, CPU_DIRECT_OFF, CPU_DIRECT_ALWAYS };
/* What the user asked for with -accel, -cpu, -smp; filled by the option parser. */
struct cpu_config {
    const char *accel;   /* "kvm", "soft"/"tcg", "kvm:soft", or NULL: choose and log why */
    const char *model;   /* "max,+feat,-feat"; NULL: "max" for soft, "host" for kvm */
    u32 smp, sockets, cores, threads;
    bool no_kernel_irqchip;
    u32 code_cache_mib; /* soft: for translated code; 0: 64 */
    enum cpu_direct direct;
    bool perfmap; /* soft: write /tmp/perf-PID.map */
    /* The platform's PCI/ioapic facts that KVM needs are in vm. */
};

/* Opens the backend, sets vm->cpu. Refusal names what is missing. */
bool cpu_open(struct vm *, const struct cpu_config *, GError **error);
/* Makes vcpus[] (in reset state), still parked. The board then gives each its lapic. */
bool cpu_make_vcpus(struct vm *, const struct cpu_config *, GError **error);
/* Starts the vCPU threads, parked until vm_cont(). */
bool cpu_start_threads(struct vm *, GError **error);
/* Ends the threads; the vCPUs stay, as devices (a LAPIC) point to them. */
void cpu_stop(struct vm *);
/* After the devices are gone: cpu_stop(), frees vCPUs, closes the backend. */
void cpu_close(struct vm *);

/* Does /dev/kvm run a long-mode, page-table-switching loop at speed? *ret_why (g_free) says
 * what was found either way, for the log line. Takes about 50 ms at most. */
bool kvm_self_test(char **ret_why);

/* Registers of one vCPU for people ("info registers"); parked vCPUs only. */
void cpu_print_registers(struct vcpu *, GString *to);
/* Boot loaders set the first state of vCPU 0 through this. */
bool cpu_get_state(struct vcpu *, struct x86_state *ret, GError **error);
bool cpu_set_state(struct vcpu *, const struct x86_state *, GError **error);

/* "-cpu help": one model a line. */
void cpu_print_models(GString *to);
