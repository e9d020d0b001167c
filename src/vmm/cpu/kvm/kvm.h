// SPDX-License-Identifier: GPL-2.0-or-later
/* kvm.h - inside of the KVM backend: what its files share. */
#pragma once

#include <glib.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/types.h"
#include "vmm/core/bus.h"
#include "vmm/core/dev.h"
#include "vmm/core/ram.h"
#include "vmm/core/vm.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/cpuid.h"
#include "vmm/cpu/x86/state.h"

enum { KVM_SLOTS_MAX = 128, KVM_GSIS_MAX = 1024, KVM_MSRS_MAX = 96 };

/* A memory slot as the kernel knows it; len 0: not used. */
struct kvm_mem {
    gpa at;
    u64 len;
    u8 *host;
    u32 flags; /* KVM_MEM_* */
};

/* GSIs from VM_GSI_MAX on carry MSIs for irqfds. */
struct kvm_msi_route {
    bool used;
    int fd;
    u64 addr;
    u32 data;
};

struct kvm_vm {
    struct vm *vm;
    int kvm, fd; /* /dev/kvm, the VM */
    u32 run_size;
    struct cpu_table cpuid;
    struct {
        bool user_msr, readonly, ioeventfd_any, adjust_clock, xsave;
    } has;
    /* Slots change under the topology lock; vCPUs read the generation only. */
    struct kvm_mem slots[KVM_SLOTS_MAX];
    _Atomic u32 slots_gen;
    pthread_mutex_t route_lock;
    struct kvm_msi_route routes[KVM_GSIS_MAX - VM_GSI_MAX];
    u64 clock; /* kvm-clock at the last stop; 0: none taken */
    /* MSRs that this kernel saves: index, and where they lie in struct x86_msrs. */
    u32 n_msrs;
    struct {
        u32 index, at;
    } msrs[KVM_MSRS_MAX];
};

struct kvm_vcpu {
    struct vcpu *vcpu;
    struct kvm_vm *kv;
    int fd;
    struct kvm_run *run;
    _Atomic pid_t tid; /* of the thread that is in run(); 0: none was yet */
    _Atomic bool in_run;
    _Atomic u32 wake; /* futex: counts kicks, for those who sleep in user space */
    bool io_pending;  /* the kernel completes the last exit at the next entry */
    u32 slots_gen;    /* at the last entry */
    u8 retries;
    u64 tsc_got; /* what get() told last: set() of the same leaves the counter alone */
    /* Without the kernel's local APIC the waiting states are ours. */
    bool halted, wait_sipi;
    u64 apic_base;
};

/* ioctl that goes on after EINTR; -errno or the result. */
int kvm_ioctl(int fd, unsigned long req, void *arg);
static inline int kvm_ioctl_n(int fd, unsigned long req, unsigned long arg)
{
    return kvm_ioctl(fd, req, (void *)arg);
}

/* The signal that gets a thread out of KVM_RUN. Blocked in all of our threads, so no handler
 * is needed: it is let through only inside the ioctl, and taken off after. */
int kvm_kick_signal(void);
void kvm_block_kick(void);
void kvm_drain_kick(void);
bool kvm_set_run_mask(int vcpu_fd);

/* mem.c */
void kvm_mem_changed(void *vm); /* a ram_listen() function */
void kvm_mem_dirty(struct vm *);
/* irq.c */
bool kvm_irq_init(struct kvm_vm *, GError **error);
void kvm_doorbells_listen(struct kvm_vm *);
void kvm_doorbells_unlisten(struct kvm_vm *);
/* irqchip.c: the kernel's PIC, IOAPIC and PIT as a device of the vm */
bool kvm_irqchip_make(struct kvm_vm *, GError **error);
void kvm_irqchip_free(struct kvm_vm *);
/* The PIT counts host time: it is held while the guest stands still. */
void kvm_irqchip_stop(struct kvm_vm *);
void kvm_irqchip_resume(struct kvm_vm *);
/* cpuid.c */
bool kvm_cpuid_limits(struct kvm_vm *, struct cpuid_limits *ret, GError **error);
bool kvm_cpuid_set(struct kvm_vcpu *, GError **error);
/* state.c */
void kvm_msrs_find(struct kvm_vcpu *);
bool kvm_get(struct vcpu *, struct x86_state *ret, GError **error);
bool kvm_set(struct vcpu *, const struct x86_state *, GError **error);
/* run.c */
enum cpu_exit kvm_run_loop(struct vcpu *);
void kvm_kick(struct vcpu *);
