// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vcpu.c - what all backends share: which backend, the vCPUs' threads, reset.  See cpu.h.
 *
 * A vCPU's thread parks while vcpu->stopped is set (vm.c sets and clears it), else it is in the
 * backend's run().  run() returns when VCPU_STOP is among the events, and for the few things
 * that end or change the run state; those become requests to the main loop, and vm_request()
 * has the asking vCPU park at its loop top.
 */
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/core/clock.h"
#include "vmm/core/quiescent.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/cpuid.h"
#include "vmm/cpu/x86/state.h"

/* --- which backend --------------------------------------------------------------------------
 */

static bool open_one(struct vm *vm, const struct cpu_config *cfg, const char *name,
                     GError **error)
{
    const struct cpu_ops *ops;

    if (!strcmp(name, "kvm"))
        ops = &cpu_ops_kvm;
    else if (!strcmp(name, "soft") || !strcmp(name, "tcg"))
        ops = &cpu_ops_soft;
    else
        return fail(error, ERR_ARGUMENT, "accelerator '%s' is unknown; there are kvm and soft",
                    name);

    vm->kernel_irqchip = ops == &cpu_ops_kvm && !cfg->no_kernel_irqchip;
    if (!ops->vm_init(vm, error))
        return g_prefix_error(error, "%s: ", ops->name), false;
    vm->cpu = ops;
    return true;
}

/* kvm if it runs guests at speed, else soft: decided by trying, not by the device node. */
static bool open_default(struct vm *vm, const struct cpu_config *cfg, GError **error)
{
    g_autofree char *why = NULL;
    g_autoptr(GError) kvm_error = NULL;

    if (kvm_self_test(&why)) {
        if (open_one(vm, cfg, "kvm", &kvm_error)) {
            log_info("KVM is used: %s", why);
            return true;
        }
        log_warn("KVM is not used, but the software CPU: %s", kvm_error->message);
    } else {
        log_warn("KVM is not used, but the software CPU: %s", why);
    }
    return open_one(vm, cfg, "soft", error);
}

/* "kvm:soft": the first that opens. */
static bool open_list(struct vm *vm, const struct cpu_config *cfg, GError **error)
{
    g_auto(GStrv) names = g_strsplit(cfg->accel, ":", 8);

    for (u32 i = 0; names[i]; i++) {
        g_autoptr(GError) why = NULL;

        if (open_one(vm, cfg, names[i], &why))
            return true;
        if (!names[i + 1]) {
            g_propagate_error(error, g_steal_pointer(&why));
            return false;
        }
        log_warn("%s", why->message);
    }
    return fail(error, ERR_ARGUMENT, "no accelerator is named");
}

static void reset_all(struct vm *vm)
{
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i];
        g_autoptr(GError) error = NULL;
        struct x86_state s;

        /* What was on its way to the old guest; a stale VCPU_INTR is harmless, a lost one not.
         */
        atomic_fetch_and(&v->events, VCPU_STOP | VCPU_INTR | VCPU_FLUSH);
        atomic_store(&v->sipi_vector, 0);
        x86_reset(&s, i == 0);
        if (!cpu_set_state(v, &s, &error)) {
            log_error("vcpu %u: reset: %s", i, error->message);
            vm_request(vm, VM_REQ_ERROR, VM_BY_PANIC);
        }
    }
}

static void kick(struct vcpu *v)
{
    v->vm->cpu->kick(v);
}

bool cpu_open(struct vm *vm, const struct cpu_config *cfg, GError **error)
{
    vm_set_tsc_hz(cpuid_host_tsc_hz());
    vm->cpu_config = cfg;
    if (!(cfg->accel ? open_list(vm, cfg, error) : open_default(vm, cfg, error)))
        return false;
    vm->vcpus_reset = reset_all;
    return true;
}

/* --- vCPUs and their threads ----------------------------------------------------------------
 */

static u32 bits_for(u32 n)
{
    return n > 1 ? 32 - (u32)__builtin_clz(n - 1) : 0;
}

/* SDM 3, 10.9: each level of the topology has a field of whole bits in the APIC id. */
static u32 apic_id_of(const struct cpu_config *cfg, u32 i)
{
    u32 threads = MAX(cfg->threads, 1), cores = MAX(cfg->cores, 1);
    u32 thread = i % threads, core = i / threads % cores, socket = i / threads / cores;

    if (cfg->threads * cfg->cores * cfg->sockets == 0)
        return i;
    return (socket << bits_for(cores) | core) << bits_for(threads) | thread;
}

static void vcpu_free(struct vcpu *v)
{
    pthread_mutex_destroy(&v->park_lock);
    pthread_cond_destroy(&v->park);
    pthread_cond_destroy(&v->parked_cond);
    g_free(v);
}

bool cpu_make_vcpus(struct vm *vm, const struct cpu_config *cfg, GError **error)
{
    u32 n = MAX(cfg->smp, 1);

    if (n > VM_VCPUS_MAX || apic_id_of(cfg, n - 1) > 254)
        return fail(error, ERR_LIMIT, "%u processors in this topology need APIC ids above 254",
                    n);
    vm->vcpus = g_new0(struct vcpu *, n);
    for (u32 i = 0; i < n; i++) {
        struct vcpu *v = g_new0(struct vcpu, 1);

        v->vm = vm;
        v->index = i;
        v->apic_id = apic_id_of(cfg, i);
        v->stopped = v->parked = true; /* its thread starts there */
        pthread_mutex_init(&v->park_lock, NULL);
        pthread_cond_init(&v->park, NULL);
        pthread_cond_init(&v->parked_cond, NULL);
        if (!vm->cpu->vcpu_init(v, error)) {
            vcpu_free(v);
            return g_prefix_error(error, "vcpu %u: ", i), false;
        }
        vm->vcpus[i] = v;
        vm->n_vcpus = i + 1;
    }
    vm->vcpu_kick = kick;
    reset_all(vm);
    return true;
}

/* Returns at once while the vCPU may run; false when its thread shall end. */
static bool park(struct vcpu *v)
{
    pthread_mutex_lock(&v->park_lock);
    if (v->stopped && !v->quit) {
        core_offline();
        v->parked = true;
        pthread_cond_broadcast(&v->parked_cond);
        while (v->stopped && !v->quit)
            pthread_cond_wait(&v->park, &v->park_lock);
        core_online();
    }
    /* Also when it never waited: it may have been told to run before its thread was there. */
    v->parked = v->quit;
    bool go_on = !v->quit;
    /* Under the lock: a later stop sets the bit again after it has set `stopped`. */
    atomic_fetch_and(&v->events, ~(u32)VCPU_STOP);
    pthread_mutex_unlock(&v->park_lock);
    return go_on;
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *v = opaque;
    struct vm *vm = v->vm;
    char name[16];

    g_snprintf(name, sizeof name, "vcpu %u", v->index);
    pthread_setname_np(pthread_self(), name);
    v->tid = gettid();
    core_thread_register();
    vcpu_set_current(v);
    while (park(v)) {
        core_quiescent();
        switch (vm->cpu->run(v)) {
        case CPU_EXIT_KICK:
            break;
        case CPU_EXIT_TRIPLE:
            log_info("vcpu %u: triple fault", v->index);
            vm_request(vm, VM_REQ_RESET, VM_BY_TRIPLE_FAULT);
            break;
        case CPU_EXIT_SHUTDOWN:
            vm_request(vm, VM_REQ_SHUTDOWN, VM_BY_GUEST);
            break;
        case CPU_EXIT_DEBUG:
            vm_request(vm, VM_REQ_STOP, VM_BY_HOST_UI);
            break;
        case CPU_EXIT_ERROR:
            log_error("vcpu %u cannot go on; the guest is stopped", v->index);
            vm_request(vm, VM_REQ_ERROR, VM_BY_PANIC);
            break;
        }
    }
    vcpu_set_current(NULL);
    core_thread_unregister();
    return NULL;
}

bool cpu_start_threads(struct vm *vm, GError **error)
{
    sigset_t blocked, old;

    /* The program's signals go to its main thread; what a backend lives on (faults, its kick)
     * stays open. */
    sigfillset(&blocked);
    static const int open[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGUSR1 };
    for (u32 i = 0; i < ARRAY_LEN(open); i++)
        sigdelset(&blocked, open[i]);
    for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
        sigdelset(&blocked, s);
    pthread_sigmask(SIG_SETMASK, &blocked, &old);
    int err = 0;
    for (u32 i = 0; i < vm->n_vcpus && !err; i++) {
        struct vcpu *v = vm->vcpus[i];

        if (!v->started)
            err = pthread_create(&v->thread, NULL, vcpu_thread, v);
        v->started = !err;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return !err || fail_errno(error, err, "thread of a vCPU");
}

void cpu_stop(struct vm *vm)
{
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i];

        pthread_mutex_lock(&v->park_lock);
        v->quit = v->stopped = true;
        pthread_cond_broadcast(&v->park);
        pthread_mutex_unlock(&v->park_lock);
        vcpu_signal(v, VCPU_STOP);
    }
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        if (vm->vcpus[i]->started)
            pthread_join(vm->vcpus[i]->thread, NULL);
        vm->vcpus[i]->started = false;
    }
    /* Devices may still signal a vCPU, but there is nobody to kick. */
    clock_stop(vm);
    vm->vcpu_kick = NULL;
}

void cpu_close(struct vm *vm)
{
    cpu_stop(vm);
    u32 n = vm->n_vcpus;
    vm->n_vcpus = 0;
    for (u32 i = 0; i < n; i++) {
        vm->cpu->vcpu_fini(vm->vcpus[i]);
        vcpu_free(vm->vcpus[i]);
    }
    g_clear_pointer(&vm->vcpus, g_free);
    if (vm->cpu && vm->cpu->vm_fini)
        vm->cpu->vm_fini(vm);
    vm->cpu = NULL;
    vm->vcpus_reset = NULL;
}

/* --- state ----------------------------------------------------------------------------------
 */

bool cpu_get_state(struct vcpu *v, struct x86_state *ret, GError **error)
{
    return v->vm->cpu->get(v, ret, error);
}

bool cpu_set_state(struct vcpu *v, const struct x86_state *s, GError **error)
{
    return v->vm->cpu->set(v, s, error);
}

void cpu_print_registers(struct vcpu *v, GString *to)
{
    g_autoptr(GError) error = NULL;
    struct x86_state s;

    if (cpu_get_state(v, &s, &error))
        x86_print(&s, to);
    else
        g_string_append_printf(to, "%s\n", error->message);
}

void cpu_print_models(GString *to)
{
    cpuid_print_models(to);
}
