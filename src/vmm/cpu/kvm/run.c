// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * run.c - a vCPU's loop: into the guest, serve what it left for, again.
 *
 * Kicks: who wants the vCPU to look sets an event bit, then immediate_exit, then, if the thread
 * is inside the ioctl, sends the signal that is open only there.  The loop clears
 * immediate_exit before it looks at the events, so none is lost.
 *
 * Without the kernel's interrupt controllers, HLT, INIT and SIPI are handled here, interrupts
 * are taken from our local APIC when the guest can accept them (else an exit is asked for the
 * moment it can), and CR8 and APIC_BASE travel through the shared page.
 */
#include "vmm/cpu/kvm/kvm.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

enum { MSR_APIC_BASE = 0x1b, EMULATION_RETRIES = 3 };

static void futex(_Atomic u32 *word, int op, u32 val)
{
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, NULL, NULL, 0);
}

void kvm_kick(struct vcpu *v)
{
    struct kvm_vcpu *kc = v->impl;

    if (!kc)
        return;
    atomic_store((_Atomic u8 *)&kc->run->immediate_exit, 1);
    atomic_fetch_add(&kc->wake, 1);
    futex(&kc->wake, FUTEX_WAKE, 1);

    pid_t tid = atomic_load(&kc->tid);
    if (atomic_load(&kc->in_run) && tid && vcpu_current() != v)
        syscall(SYS_tgkill, getpid(), tid, kvm_kick_signal());
}

/* Sleeps until the next kick, unless an event is there already. */
static void wait_event(struct kvm_vcpu *kc)
{
    u32 seen = atomic_load(&kc->wake);

    if (atomic_load(&kc->vcpu->events))
        return;
    core_offline();
    futex(&kc->wake, FUTEX_WAIT, seen);
    core_online();
}

/* ---- exits ----------------------------------------------------------------------------------
 */

/* An access of any length, in the largest naturally aligned pieces. RAM first: while slots are
 * exchanged an access to it can arrive here. */
static void mmio(struct kvm_vcpu *kc)
{
    struct vm *vm = kc->vcpu->vm;
    struct kvm_run *r = kc->run;
    gpa at = r->mmio.phys_addr;
    u8 *data = r->mmio.data;
    u32 len = MIN(r->mmio.len, 8u);

    if (ram_slot_find(vm->ram, at) &&
        (r->mmio.is_write ? ram_put(vm->ram, at, data, len) : ram_get(vm->ram, at, data, len)))
        return;
    for (u32 i = 0, n; i < len; i += n) {
        u64 val = 0;

        for (n = 8; n > len - i || (at + i) & (n - 1); n /= 2)
            ;
        if (len == 8 || len == 4 || len == 2)
            n = len; /* as the guest did it, aligned or not */
        if (r->mmio.is_write) {
            memcpy(&val, data + i, n);
            bus_write(vm->mem, at + i, val, n);
        } else {
            val = bus_read(vm->mem, at + i, n);
            memcpy(data + i, &val, n);
        }
    }
}

static void port_io(struct kvm_vcpu *kc)
{
    struct bus *io = kc->vcpu->vm->io;
    struct kvm_run *r = kc->run;
    u8 *data = (u8 *)r + r->io.data_offset;

    for (u32 i = 0; i < r->io.count; i++, data += r->io.size) {
        u32 val = 0;

        if (r->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&val, data, r->io.size);
            bus_write(io, r->io.port, val, r->io.size);
        } else {
            val = (u32)bus_read(io, r->io.port, r->io.size);
            memcpy(data, &val, r->io.size);
        }
    }
}

/* MSRs that the kernel refused: x2APIC registers when the local APIC is ours. */
static void msr_exit(struct kvm_vcpu *kc, bool write)
{
    struct vcpu *v = kc->vcpu;
    struct kvm_run *r = kc->run;
    u32 index = r->msr.index;
    u64 val = r->msr.data;
    bool ok = false;

    if (v->lapic && index >= 0x800 && index <= 0x8ff)
        ok = write ? v->lapic_ops->msr_write(v->lapic, index, val)
                   : v->lapic_ops->msr_read(v->lapic, index, &val);
    if (ok && !write)
        r->msr.data = val;
    r->msr.error = !ok;
}

static void dump(struct kvm_vcpu *kc, const char *what)
{
    g_autoptr(GString) s = g_string_new(NULL);
    struct x86_state st;

    if (kvm_get(kc->vcpu, &st, NULL))
        x86_print(&st, s);
    log_error("kvm: vCPU %u: %s\n%s", kc->vcpu->index, what, s->str);
}

/* True: the slots changed while the guest ran; its next try may find memory in place. */
static bool emulation_retry(struct kvm_vcpu *kc)
{
    u32 gen = atomic_load(&kc->kv->slots_gen);

    if (gen == kc->slots_gen || kc->retries >= EMULATION_RETRIES)
        return false;
    kc->retries++;
    return true;
}

static enum cpu_exit internal_error(struct kvm_vcpu *kc)
{
    const struct kvm_run *r = kc->run;
    g_autoptr(GString) s = g_string_new(NULL);

    g_string_append_printf(s, "internal error %u%s", r->internal.suberror,
                           r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                               ? " (an instruction that the kernel cannot emulate)"
                               : "");
    for (u32 i = 0; i < r->internal.ndata && i < ARRAY_LEN(r->internal.data); i++)
        g_string_append_printf(s, " %llx", (unsigned long long)r->internal.data[i]);
    dump(kc, s->str);
    return CPU_EXIT_ERROR;
}

/* CPU_EXIT_KICK: go on. */
static enum cpu_exit serve(struct kvm_vcpu *kc)
{
    struct kvm_run *r = kc->run;
    char what[80];

    kc->io_pending = false;
    switch (r->exit_reason) {
    case KVM_EXIT_IO:
        kc->io_pending = true;
        port_io(kc);
        return CPU_EXIT_KICK;
    case KVM_EXIT_MMIO:
        kc->io_pending = true;
        mmio(kc);
        return CPU_EXIT_KICK;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        kc->io_pending = true;
        msr_exit(kc, r->exit_reason == KVM_EXIT_X86_WRMSR);
        return CPU_EXIT_KICK;
    case KVM_EXIT_HLT:
        kc->halted = true;
        return CPU_EXIT_KICK;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR:
        return CPU_EXIT_KICK;
    case KVM_EXIT_SHUTDOWN:
        return CPU_EXIT_TRIPLE;
    case KVM_EXIT_SYSTEM_EVENT:
        if (r->system_event.type == KVM_SYSTEM_EVENT_RESET) {
            vm_request(kc->vcpu->vm, VM_REQ_RESET, VM_BY_GUEST);
            return CPU_EXIT_KICK;
        }
        return CPU_EXIT_SHUTDOWN;
    case KVM_EXIT_DEBUG:
        return CPU_EXIT_DEBUG;
    case KVM_EXIT_INTERNAL_ERROR:
        if (r->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && emulation_retry(kc))
            return CPU_EXIT_KICK;
        return internal_error(kc);
    case KVM_EXIT_FAIL_ENTRY:
        g_snprintf(what, sizeof what, "entry failed, hardware reason %#llx",
                   (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
        dump(kc, what);
        return CPU_EXIT_ERROR;
    default:
        g_snprintf(what, sizeof what, "unknown exit %u", r->exit_reason);
        dump(kc, what);
        return CPU_EXIT_ERROR;
    }
}

/* ---- events ---------------------------------------------------------------------------------
 */

/* The last exit's data are taken over only at the next entry: enter and come straight back. */
static void complete_io(struct kvm_vcpu *kc)
{
    for (int i = 0; kc->io_pending && i < 64; i++) {
        atomic_store((_Atomic u8 *)&kc->run->immediate_exit, 1);
        kc->io_pending = false;
        if (ioctl(kc->fd, KVM_RUN, 0) == 0)
            serve(kc); /* the second half of a wide access */
    }
    kvm_drain_kick();
}

/* SDM 3, table 10-1, column INIT: the FPU, MTRRs, TSC and MSRs keep their values. */
static void take_init(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;
    struct x86_state s, n;
    bool bsp = v->index == 0;

    complete_io(kc);
    if (kvm_get(v, &s, NULL)) {
        x86_reset(&n, bsp);
        n.gpr[RDX] = kc->kv->cpuid.signature;
        n.cr0 = CR0_ET | (s.cr0 & (CR0_CD | CR0_NW));
        n.xcr0 = s.xcr0;
        memcpy(n.xsave, s.xsave, sizeof n.xsave);
        n.msr = s.msr;
        n.msr.efer = 0;
        kvm_set(v, &n, NULL);
    }
    if (v->lapic)
        v->lapic_ops->init(v->lapic);
}

static void take_sipi(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;
    struct x86_state s;
    u8 vector = atomic_load(&v->sipi_vector);

    if (!kc->wait_sipi)
        return;
    if (kvm_get(v, &s, NULL)) {
        s.seg[CS].sel = (u16)(vector << 8);
        s.seg[CS].base = (u32)vector << 12;
        s.rip = 0;
        s.mp_state = MP_RUNNING;
        kvm_set(v, &s, NULL);
    }
}

/* False: leave run(). */
static bool take_events(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;
    u32 ev = atomic_load(&v->events);

    if (!ev)
        return true;
    ev = atomic_exchange(&v->events, 0);
    if (ev & VCPU_STOP) {
        if (ev & ~(u32)VCPU_STOP)
            atomic_fetch_or(&v->events, ev & ~(u32)VCPU_STOP);
        complete_io(kc);
        return false;
    }
    if (ev & VCPU_NMI) {
        kvm_ioctl(kc->fd, KVM_NMI, NULL);
        kc->halted = false;
    }
    if (kc->kv->vm->kernel_irqchip)
        return true;
    if (ev & VCPU_INIT)
        take_init(kc);
    if (ev & VCPU_SIPI)
        take_sipi(kc);
    return true;
}

/* ---- our own local APIC ---------------------------------------------------------------------
 */

static void inject(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;
    struct kvm_run *r = kc->run;

    if (!v->lapic)
        return;
    if (r->ready_for_interrupt_injection && r->if_flag && v->lapic_ops->pending(v->lapic)) {
        int vector = v->lapic_ops->ack(v->lapic);
        struct kvm_interrupt i = { .irq = (u32)vector };

        if (vector >= 0 && kvm_ioctl(kc->fd, KVM_INTERRUPT, &i) >= 0)
            r->ready_for_interrupt_injection = 0;
    }
    r->request_interrupt_window = v->lapic_ops->pending(v->lapic);
    r->cr8 = v->lapic_ops->tpr_get(v->lapic) >> 4;
}

static void after_run(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;
    struct kvm_run *r = kc->run;

    if (!v->lapic)
        return;
    if (r->cr8 != v->lapic_ops->tpr_get(v->lapic) >> 4)
        v->lapic_ops->tpr_set(v->lapic, (u8)(r->cr8 << 4));
    if (r->apic_base != kc->apic_base) {
        kc->apic_base = r->apic_base;
        v->lapic_ops->msr_write(v->lapic, MSR_APIC_BASE, r->apic_base);
    }
}

/* True: may run; false: slept, look again. */
static bool awake(struct kvm_vcpu *kc)
{
    struct vcpu *v = kc->vcpu;

    if (kc->wait_sipi) {
        wait_event(kc);
        return false;
    }
    if (!kc->halted)
        return true;
    if (kc->run->if_flag && v->lapic && v->lapic_ops->pending(v->lapic)) {
        kc->halted = false;
        return true;
    }
    wait_event(kc);
    return false;
}

/* ---- the loop -------------------------------------------------------------------------------
 */

static void first_run(struct kvm_vcpu *kc)
{
    pid_t tid = (pid_t)syscall(SYS_gettid);

    if (atomic_load(&kc->tid) == tid)
        return;
    kvm_block_kick();
    kvm_set_run_mask(kc->fd);
    atomic_store(&kc->tid, tid);
}

enum cpu_exit kvm_run_loop(struct vcpu *v)
{
    struct kvm_vcpu *kc = v->impl;
    bool own = !v->vm->kernel_irqchip;

    first_run(kc);
    for (;;) {
        core_quiescent();
        atomic_store((_Atomic u8 *)&kc->run->immediate_exit, 0);
        if (!take_events(kc))
            return CPU_EXIT_KICK;
        if (own) {
            if (!awake(kc))
                continue;
            inject(kc);
        }
        kc->slots_gen = atomic_load(&kc->kv->slots_gen);
        atomic_store(&kc->in_run, true);
        core_offline();
        int rc = ioctl(kc->fd, KVM_RUN, 0), err = errno;
        core_online();
        atomic_store(&kc->in_run, false);
        if (own)
            after_run(kc);
        if (rc < 0 && (err == EINTR || err == EAGAIN)) {
            kc->io_pending = false; /* taken over before the signal was looked at */
            kvm_drain_kick();
            continue;
        }
        if (rc < 0) {
            g_autofree char *what = g_strdup_printf("KVM_RUN: %s", g_strerror(err));

            dump(kc, what);
            return CPU_EXIT_ERROR;
        }
        enum cpu_exit e = serve(kc);
        if (e != CPU_EXIT_KICK)
            return e;
        if (kc->run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
            kc->retries = 0;
    }
}
