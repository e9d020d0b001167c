// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vm.c - one guest: life, run state, requests, interrupts, the vCPUs' common half.  See vm.h.
 *
 *                 vm_cont                  vm_stop
 *   PRELAUNCH ------------------> RUNNING ---------> PAUSED, SHUTDOWN, INTERNAL_ERROR ...
 *       ^                            ^                 |        |
 *       |                            +----vm_cont------+        |
 *       +------------------------- vm_reset --------------------+
 *
 * A vCPU that asks for a reset or a shutdown marks itself stopped at once, so that the guest
 * does not run past the instruction that asked; the others are parked when the main loop gets
 * there.
 */
#include "vmm/core/vm.h"

#include <stdatomic.h>

#include "base/log.h"
#include "vmm/core/bus.h"
#include "vmm/core/clock.h"
#include "vmm/core/dev.h"
#include "vmm/core/quiescent.h"
#include "vmm/core/ram.h"

struct listener {
    void (*fn)(void *opaque, enum vm_event, enum vm_cause);
    void *opaque;
};

struct request_source {
    GSource source;
    struct vm *vm;
};

static void serve(struct vm *vm);

const char *run_state_name(enum run_state s)
{
    switch (s) {
    case RUN_PRELAUNCH:
        return "prelaunch";
    case RUN_RUNNING:
        return "running";
    case RUN_PAUSED:
        return "paused";
    case RUN_SHUTDOWN:
        return "shutdown";
    case RUN_INMIGRATE:
        return "inmigrate";
    case RUN_INTERNAL_ERROR:
        return "internal-error";
    case RUN_IO_ERROR:
        return "io-error";
    }
    return "?";
}

/* --- life -----------------------------------------------------------------------------------
 */

static gboolean source_ready(GSource *source)
{
    return atomic_load(&((struct request_source *)source)->vm->requests) != 0;
}

static gboolean source_prepare(GSource *source, gint *timeout)
{
    *timeout = -1;
    return source_ready(source);
}

static gboolean source_dispatch(GSource *source, GSourceFunc fn UNUSED, gpointer data UNUSED)
{
    serve(((struct request_source *)source)->vm);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs request_funcs = { .prepare = source_prepare,
                                      .check = source_ready,
                                      .dispatch = source_dispatch };

static void gsi_set(void *opaque, unsigned n, bool level)
{
    struct vm *vm = opaque;

    if (vm->intc && vm->intc->gsi)
        vm->intc->gsi(vm->intc_opaque, n, level);
}

struct vm *vm_new(void)
{
    struct vm *vm = g_new0(struct vm, 1);
    pthread_mutexattr_t attr;

    vm->ram = ram_new();
    vm->io = bus_new("io", 0x10000);
    vm->mem = bus_new("memory", 0);
    vm->clock = clock_new(vm);
    vm->main = g_main_context_ref_thread_default();
    vm->loop = g_main_loop_new(vm->main, false);
    vm->devs = g_ptr_array_new();
    vm->event_listeners = g_ptr_array_new_with_free_func(g_free);
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&vm->topology, &attr);
    pthread_mutexattr_destroy(&attr);
    for (u32 i = 0; i < VM_GSI_MAX; i++)
        vm->gsi[i] = (struct irq){ .set = gsi_set, .opaque = vm, .n = i };
    vm->request_source = g_source_new(&request_funcs, sizeof(struct request_source));
    ((struct request_source *)vm->request_source)->vm = vm;
    g_source_set_priority(vm->request_source, G_PRIORITY_HIGH);
    g_source_attach(vm->request_source, vm->main);
    return vm;
}

void vm_free_devs(struct vm *vm)
{
    clock_stop(vm);
    while (vm->devs->len)
        dev_free(vm->devs->pdata[vm->devs->len - 1]);
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    vm_free_devs(vm);
    if (vm->nets)
        g_ptr_array_unref(vm->nets);
    if (vm->monitors)
        g_ptr_array_unref(vm->monitors);
    g_source_destroy(vm->request_source);
    g_source_unref(vm->request_source);
    g_main_loop_unref(vm->loop);
    g_main_context_unref(vm->main);
    clock_free(vm->clock);
    bus_free(vm->io);
    bus_free(vm->mem);
    ram_free(vm->ram);
    g_ptr_array_free(vm->devs, true);
    g_ptr_array_free(vm->event_listeners, true);
    pthread_mutex_destroy(&vm->topology);
    g_free(vm->name);
    g_free(vm);
}

void vm_lock(struct vm *vm)
{
    pthread_mutex_lock(&vm->topology);
}

void vm_unlock(struct vm *vm)
{
    pthread_mutex_unlock(&vm->topology);
}

void vm_listen(struct vm *vm, void (*fn)(void *opaque, enum vm_event, enum vm_cause),
               void *opaque)
{
    struct listener *l = g_new(struct listener, 1);

    *l = (struct listener){ fn, opaque };
    g_ptr_array_add(vm->event_listeners, l);
}

void vm_unlisten(struct vm *vm, void *opaque)
{
    for (u32 i = vm->event_listeners->len; i--;) {
        struct listener *l = vm->event_listeners->pdata[i];
        if (l->opaque == opaque)
            g_ptr_array_remove_index(vm->event_listeners, i);
    }
}

/* Who asked last for what the request does. */
static enum vm_cause cause_of(const struct vm *vm, enum vm_req req)
{
    return __atomic_load_n(&vm->causes[__builtin_ctz(req)], __ATOMIC_RELAXED);
}

static void tell(struct vm *vm, enum vm_event ev, enum vm_req req)
{
    enum vm_cause cause = cause_of(vm, req);

    for (u32 i = 0; i < vm->event_listeners->len; i++) {
        struct listener *l = vm->event_listeners->pdata[i];
        l->fn(l->opaque, ev, cause);
    }
}

/* --- vCPUs ----------------------------------------------------------------------------------
 */

static __thread struct vcpu *current;
static _Atomic u64 tsc_hz = NS_PER_SEC; /* the host's: one for the process */

struct vcpu *vcpu_current(void)
{
    return current;
}

void vcpu_set_current(struct vcpu *v)
{
    current = v;
}

u64 vm_tsc_hz(void)
{
    return atomic_load_explicit(&tsc_hz, memory_order_relaxed);
}

void vm_set_tsc_hz(u64 hz)
{
    atomic_store(&tsc_hz, hz);
}

void vcpu_signal(struct vcpu *v, u32 events)
{
    _Atomic u8 *poll = v->poll;

    atomic_fetch_or(&v->events, events);
    if (poll)
        atomic_store(poll, 1);
    void (*kick)(struct vcpu *) = v->vm->vcpu_kick; /* goes when the threads end */
    if (kick)
        kick(v);
}

static void vcpu_mark_stopped(struct vcpu *v)
{
    pthread_mutex_lock(&v->park_lock);
    v->stopped = true;
    pthread_mutex_unlock(&v->park_lock);
    vcpu_signal(v, VCPU_STOP);
}

/* Returns with every vCPU parked. The main thread, without any lock. */
static void vcpus_park(struct vm *vm)
{
    g_assert(!current);
    for (u32 i = 0; i < vm->n_vcpus; i++)
        vcpu_mark_stopped(vm->vcpus[i]);
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i];

        pthread_mutex_lock(&v->park_lock);
        while (!v->parked)
            pthread_cond_wait(&v->parked_cond, &v->park_lock);
        pthread_mutex_unlock(&v->park_lock);
    }
}

static void vcpus_release(struct vm *vm)
{
    for (u32 i = 0; i < vm->n_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i];

        pthread_mutex_lock(&v->park_lock);
        v->stopped = false;
        pthread_cond_broadcast(&v->park);
        pthread_mutex_unlock(&v->park_lock);
    }
}

/* --- run state ------------------------------------------------------------------------------
 */

static void stand_still(struct vm *vm, enum run_state to)
{
    vcpus_park(vm);
    clock_stop(vm);
    vm->run = to;
}

void vm_stop(struct vm *vm, enum run_state to)
{
    bool was_running = vm->run == RUN_RUNNING;

    stand_still(vm, to);
    if (was_running && to != RUN_RUNNING)
        tell(vm, VM_EV_STOP, VM_REQ_STOP);
}

void vm_cont(struct vm *vm)
{
    /* After a shutdown or an error only a reset helps. */
    if (vm->run == RUN_RUNNING || vm->run == RUN_SHUTDOWN || vm->run == RUN_INTERNAL_ERROR)
        return;
    vm->run = RUN_RUNNING;
    clock_run(vm);
    tell(vm, VM_EV_RESUME, VM_REQ_CONT);
    vcpus_release(vm);
}

void vm_freeze(struct vm *vm)
{
    vcpus_park(vm);
}

void vm_thaw(struct vm *vm)
{
    /* With a request under way the main loop releases them when that is done. */
    if (vm->run == RUN_RUNNING && !atomic_load(&vm->requests))
        vcpus_release(vm);
}

void vm_reset(struct vm *vm)
{
    vcpus_park(vm);
    for (u32 i = 0; i < vm->devs->len; i++)
        dev_reset(vm->devs->pdata[i]);
    if (vm->vcpus_reset)
        vm->vcpus_reset(vm);
    tell(vm, VM_EV_RESET, VM_REQ_RESET);
    if (vm->run == RUN_RUNNING)
        vcpus_release(vm);
    else if (vm->run != RUN_INMIGRATE)
        vm->run = RUN_PRELAUNCH;
}

static void tell_end(struct vm *vm, enum vm_req why)
{
    vm->reset_ends = why == VM_REQ_RESET;
    tell(vm, VM_EV_SHUTDOWN, why);
}

/* The process ends: clients hear of the shutdown, not of a stop. */
static void leave(struct vm *vm, enum vm_req why)
{
    stand_still(vm, RUN_SHUTDOWN);
    tell_end(vm, why);
    g_main_loop_quit(vm->loop);
}

static void shut_down(struct vm *vm, enum vm_req why)
{
    if (vm->no_shutdown) {
        tell_end(vm, why);
        vm_stop(vm, RUN_SHUTDOWN);
    } else {
        leave(vm, why);
    }
}

/* What was asked for, on the main loop, worst first. */
static void serve(struct vm *vm)
{
    u32 req = atomic_exchange(&vm->requests, 0);

    if (req & VM_REQ_QUIT) {
        leave(vm, VM_REQ_QUIT);
        return;
    }
    if (req & VM_REQ_ERROR)
        vm_stop(vm, RUN_INTERNAL_ERROR);
    if ((req & VM_REQ_SHUTDOWN) || ((req & VM_REQ_RESET) && vm->no_reboot)) {
        shut_down(vm, req & VM_REQ_SHUTDOWN ? VM_REQ_SHUTDOWN : VM_REQ_RESET);
        return;
    }
    if (req & VM_REQ_RESET)
        vm_reset(vm);
    if (req & VM_REQ_POWERDOWN) {
        tell(vm, VM_EV_POWERDOWN, VM_REQ_POWERDOWN);
        if (vm->powerdown)
            vm->powerdown(vm, vm->powerdown_opaque);
    }
    if (req & VM_REQ_STOP && vm->run == RUN_RUNNING)
        vm_stop(vm, RUN_PAUSED);
    if (req & VM_REQ_CONT)
        vm_cont(vm);
    if (vm->run == RUN_RUNNING)
        vcpus_release(vm); /* one that stopped itself for a request now done */
}

void vm_request(struct vm *vm, enum vm_req req, enum vm_cause cause)
{
    __atomic_store_n(&vm->causes[__builtin_ctz(req)], cause, __ATOMIC_RELAXED);
    if (req & (VM_REQ_RESET | VM_REQ_SHUTDOWN | VM_REQ_QUIT | VM_REQ_ERROR | VM_REQ_STOP) &&
        current && current->vm == vm)
        vcpu_mark_stopped(current);
    atomic_fetch_or(&vm->requests, req);
    g_main_context_wakeup(vm->main);
}

void vm_request_exit(struct vm *vm, int status)
{
    __atomic_store_n(&vm->exit_status, status, __ATOMIC_RELAXED);
    vm_request(vm, VM_REQ_QUIT, VM_BY_GUEST);
}

struct call {
    void (*fn)(void *opaque);
    void *opaque;
};

static gboolean call_run(gpointer data)
{
    struct call *c = data;

    c->fn(c->opaque);
    return G_SOURCE_REMOVE;
}

void vm_on_main(struct vm *vm, void (*fn)(void *opaque), void *opaque)
{
    struct call *c = g_new(struct call, 1);
    GSource *s = g_idle_source_new();

    *c = (struct call){ fn, opaque };
    g_source_set_priority(s, G_PRIORITY_DEFAULT);
    g_source_set_callback(s, call_run, c, g_free);
    g_source_attach(s, vm->main);
    g_source_unref(s);
}

/* The main thread holds no map while it sleeps. */
static gint poll_offline(GPollFD *fds, guint n, gint timeout)
{
    core_offline();
    gint r = g_poll(fds, n, timeout);
    core_online();
    return r;
}

void vm_run(struct vm *vm)
{
    core_thread_register();
    g_main_context_set_poll_func(vm->main, poll_offline);
    g_main_loop_run(vm->loop);
    g_main_context_set_poll_func(vm->main, g_poll);
    vcpus_park(vm);
    clock_stop(vm);
    core_thread_unregister();
}

/* --- interrupts -----------------------------------------------------------------------------
 */

struct irq *vm_gsi(struct vm *vm, unsigned gsi)
{
    if (gsi >= VM_GSI_MAX)
        return NULL;
    return &vm->gsi[gsi];
}

void vm_msi(struct vm *vm, u64 addr, u32 data)
{
    if (vm->intc && vm->intc->msi)
        vm->intc->msi(vm->intc_opaque, addr, data);
}
