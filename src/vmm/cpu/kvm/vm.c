// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vm.c - the KVM backend: opening it, the VM, its vCPUs.
 * Linux, Documentation/virt/kvm/api.rst.
 *
 * Not used: split interrupt controllers, the dirty ring, coalesced MMIO, SMM, Hyper-V and Xen
 * interfaces, nested state.
 */
#include "vmm/cpu/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

/* Pages that Intel's KVM needs for itself, below the firmware and above devices. */
enum { IDENTITY_MAP = 0xfeffc000u, TSS_PAGES = 0xfeffd000u };

int kvm_ioctl(int fd, unsigned long req, void *arg)
{
    int rc;

    do
        rc = ioctl(fd, req, arg);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

int kvm_kick_signal(void)
{
    return SIGRTMIN + 2;
}

static sigset_t kick_set(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, kvm_kick_signal());
    return set;
}

void kvm_block_kick(void)
{
    sigset_t set = kick_set();

    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void kvm_drain_kick(void)
{
    sigset_t set = kick_set();
    struct timespec none = { 0 };

    while (sigtimedwait(&set, NULL, &none) > 0)
        ;
}

bool kvm_set_run_mask(int vcpu_fd)
{
    struct {
        struct kvm_signal_mask h;
        u64 set; /* the kernel's sigset_t */
    } __attribute__((packed)) m = { .h.len = 8 };
    sigset_t now;

    pthread_sigmask(SIG_SETMASK, NULL, &now);
    sigdelset(&now, kvm_kick_signal());
    memcpy(&m.set, &now, 8);
    return kvm_ioctl(vcpu_fd, KVM_SET_SIGNAL_MASK, &m) >= 0;
}

static bool has(struct kvm_vm *kv, long cap)
{
    return kvm_ioctl_n(kv->fd >= 0 ? kv->fd : kv->kvm, KVM_CHECK_EXTENSION,
                       (unsigned long)cap) > 0;
}

static bool open_kvm(struct kvm_vm *kv, GError **error)
{
    static const struct {
        long cap;
        const char *name;
    } need[] = { { KVM_CAP_USER_MEMORY, "user memory" },
                 { KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
                 { KVM_CAP_EXT_CPUID, "CPUID tables" },
                 { KVM_CAP_VCPU_EVENTS, "vCPU events" },
                 { KVM_CAP_XSAVE, "XSAVE state" } };

    kv->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kv->kvm < 0)
        return fail_errno(error, errno, "/dev/kvm");
    int version = kvm_ioctl(kv->kvm, KVM_GET_API_VERSION, NULL);
    if (version != KVM_API_VERSION)
        return fail(error, ERR_UNSUPPORTED, "/dev/kvm: interface version %d, not %d", version,
                    KVM_API_VERSION);
    for (unsigned i = 0; i < ARRAY_LEN(need); i++)
        if (!has(kv, need[i].cap))
            return fail(error, ERR_UNSUPPORTED, "/dev/kvm: the kernel lacks %s", need[i].name);
    kv->fd = kvm_ioctl(kv->kvm, KVM_CREATE_VM, NULL);
    if (kv->fd < 0)
        return fail_errno(error, -kv->fd, "/dev/kvm: cannot create a virtual machine");
    return true;
}

static bool set_up(struct kvm_vm *kv, GError **error)
{
    const struct cpu_config *c = kv->vm->cpu_config;
    struct cpuid_limits limits;
    u64 identity = IDENTITY_MAP;
    int size;

    kv->has.readonly = has(kv, KVM_CAP_READONLY_MEM);
    kv->has.ioeventfd_any = has(kv, KVM_CAP_IOEVENTFD_ANY_LENGTH);
    kv->has.user_msr = has(kv, KVM_CAP_X86_USER_SPACE_MSR);
    kv->has.adjust_clock = has(kv, KVM_CAP_ADJUST_CLOCK);
    kv->has.xsave = has(kv, KVM_CAP_XCRS);
    size = kvm_ioctl(kv->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof(struct kvm_run))
        return fail(error, ERR_UNSUPPORTED, "/dev/kvm: run page of %d bytes", size);
    kv->run_size = (u32)size;
    kvm_ioctl(kv->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    kvm_ioctl_n(kv->fd, KVM_SET_TSS_ADDR, TSS_PAGES);
    if (!kv->vm->kernel_irqchip && kv->has.user_msr) {
        struct kvm_enable_cap e = {
            .cap = KVM_CAP_X86_USER_SPACE_MSR,
            .args = { KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN },
        };

        kv->has.user_msr = kvm_ioctl(kv->fd, KVM_ENABLE_CAP, &e) >= 0;
    }
    if (!kvm_irq_init(kv, error) || !kvm_cpuid_limits(kv, &limits, error))
        return false;
    if (!cpuid_build(c && c->model ? c->model : "host", &limits,
                     c && c->sockets ? c->sockets : 1, c && c->cores ? c->cores : 1,
                     c && c->threads ? c->threads : 1, &kv->cpuid, error))
        return false;
    kv->vm->phys_bits = kv->cpuid.phys_bits;
    return true;
}

/* The guest's clock stands still while it is stopped. */
static void run_state(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct kvm_vm *kv = ((struct vm *)opaque)->cpu_vm;
    struct kvm_clock_data d = { 0 };

    if (!kv)
        return;
    switch (ev) {
    case VM_EV_SHUTDOWN: /* at the end of the process no stop is told */
        kvm_irqchip_stop(kv);
        break;
    case VM_EV_STOP:
        kvm_irqchip_stop(kv);
        if (kv->has.adjust_clock && kvm_ioctl(kv->fd, KVM_GET_CLOCK, &d) >= 0)
            kv->clock = d.clock;
        break;
    case VM_EV_RESUME:
        kvm_irqchip_resume(kv);
        if (!kv->clock)
            break;
        d.clock = kv->clock;
        kv->clock = 0;
        kvm_ioctl(kv->fd, KVM_SET_CLOCK, &d);
        for (u32 i = 0; i < kv->vm->n_vcpus; i++) { /* no soft-lockup alarms */
            struct kvm_vcpu *kc = kv->vm->vcpus[i]->impl;

            if (kc)
                kvm_ioctl(kc->fd, KVM_KVMCLOCK_CTRL, NULL);
        }
        break;
    default:
        break;
    }
}

static void vm_fini(struct vm *vm)
{
    struct kvm_vm *kv = vm->cpu_vm;

    if (!kv)
        return;
    kvm_doorbells_unlisten(kv);
    kvm_irqchip_free(kv);
    fd_close(&kv->fd);
    fd_close(&kv->kvm);
    if (vm->intc_opaque == kv)
        vm->intc = NULL, vm->intc_opaque = NULL;
    vm->cpu_vm = NULL;
    g_free(kv);
}

static bool vm_init(struct vm *vm, GError **error)
{
    struct kvm_vm *kv = g_new0(struct kvm_vm, 1);

    kv->vm = vm;
    kv->kvm = kv->fd = -1;
    vm->cpu_vm = kv;
    kvm_block_kick();
    if (!open_kvm(kv, error) || !set_up(kv, error)) {
        vm_fini(vm);
        return false;
    }
    ram_listen(vm->ram, kvm_mem_changed, vm);
    kvm_mem_changed(vm);
    kvm_doorbells_listen(kv);
    vm_listen(vm, run_state, vm);
    return true;
}

static void vcpu_fini(struct vcpu *v)
{
    struct kvm_vcpu *kc = v->impl;

    if (!kc)
        return;
    v->impl = NULL;
    if (kc->run)
        munmap(kc->run, kc->kv->run_size);
    fd_close(&kc->fd);
    g_free(kc);
}

static bool vcpu_init(struct vcpu *v, GError **error)
{
    struct kvm_vcpu *kc = g_new0(struct kvm_vcpu, 1);

    kc->vcpu = v;
    kc->kv = v->vm->cpu_vm;
    v->impl = kc;
    kc->fd = kvm_ioctl_n(kc->kv->fd, KVM_CREATE_VCPU, v->apic_id);
    if (kc->fd < 0) {
        fail_errno(error, -kc->fd, "kvm: cannot create vCPU %u (APIC id %u)", v->index,
                   v->apic_id);
        vcpu_fini(v);
        return false;
    }
    kc->run = mmap(NULL, kc->kv->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kc->fd, 0);
    if (kc->run == MAP_FAILED) {
        kc->run = NULL;
        fail_errno(error, errno, "kvm: run page of vCPU %u", v->index);
        vcpu_fini(v);
        return false;
    }
    kc->wait_sipi = v->index != 0;
    if (!kvm_cpuid_set(kc, error)) {
        vcpu_fini(v);
        return false;
    }
    kvm_msrs_find(kc);
    return true;
}

const struct cpu_ops cpu_ops_kvm = {
    .name = "kvm",
    .vm_init = vm_init,
    .vm_fini = vm_fini,
    .vcpu_init = vcpu_init,
    .vcpu_fini = vcpu_fini,
    .run = kvm_run_loop,
    .kick = kvm_kick,
    .get = kvm_get,
    .set = kvm_set,
    .dirty = kvm_mem_dirty,
};
