// SPDX-License-Identifier: GPL-2.0-or-later
/* vm_test.c - run state, requests and parking, with threads that play vCPUs. */
#include "vmm/core/vm.h"

#include <stdatomic.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/clock.h"

enum { CPUS = 3 };
static struct vcpu cpu[CPUS];
static struct vcpu *cpus[CPUS];
static _Atomic u64 turns[CPUS];
static _Atomic u32 ask; /* a request that vCPU 1 makes at its next turn */
static u32 told[8], resets;

/* A vCPU as cpu/vcpu.c runs it, without a processor. */
static void *fake_vcpu(void *opaque)
{
    struct vcpu *v = opaque;

    vcpu_set_current(v);
    for (;;) {
        pthread_mutex_lock(&v->park_lock);
        while (v->stopped && !v->quit) {
            v->parked = true;
            pthread_cond_broadcast(&v->parked_cond);
            pthread_cond_wait(&v->park, &v->park_lock);
        }
        v->parked = v->quit;
        atomic_fetch_and(&v->events, ~(u32)VCPU_STOP);
        pthread_mutex_unlock(&v->park_lock);
        if (v->quit)
            break;
        while (!(atomic_load(&v->events) & VCPU_STOP)) {
            turns[v->index]++;
            u32 r = v->index == 1 ? atomic_exchange(&ask, 0) : 0;
            if (r)
                vm_request(v->vm, r, VM_BY_GUEST);
            else
                usleep(100);
        }
    }
    return NULL;
}

static void listen(void *opaque UNUSED, enum vm_event ev, enum vm_cause cause UNUSED)
{
    told[ev]++;
}
static void count_reset(struct vm *vm UNUSED)
{
    resets++;
    for (u32 i = 0; i < CPUS; i++)
        EXPECT(cpu[i].parked);
}

static struct vm *vm_with_cpus(void)
{
    struct vm *vm = vm_new();

    memset(told, 0, sizeof told);
    resets = 0;
    for (u32 i = 0; i < CPUS; i++) {
        cpu[i] = (struct vcpu){ .vm = vm, .index = i, .stopped = true, .parked = true };
        pthread_mutex_init(&cpu[i].park_lock, NULL);
        pthread_cond_init(&cpu[i].park, NULL);
        pthread_cond_init(&cpu[i].parked_cond, NULL);
        cpus[i] = &cpu[i];
    }
    vm->vcpus = cpus;
    vm->n_vcpus = CPUS;
    vm->vcpus_reset = count_reset;
    vm_listen(vm, listen, NULL);
    for (u32 i = 0; i < CPUS; i++)
        pthread_create(&cpu[i].thread, NULL, fake_vcpu, &cpu[i]);
    return vm;
}

static void vm_end(struct vm *vm)
{
    for (u32 i = 0; i < CPUS; i++) {
        pthread_mutex_lock(&cpu[i].park_lock);
        cpu[i].quit = true;
        pthread_cond_broadcast(&cpu[i].park);
        pthread_mutex_unlock(&cpu[i].park_lock);
        vcpu_signal(&cpu[i], VCPU_STOP);
        pthread_join(cpu[i].thread, NULL);
    }
    vm->n_vcpus = 0;
    vm_free(vm);
}

static void run_for_a_while(struct vm *vm)
{
    u64 was[CPUS];

    for (u32 i = 0; i < CPUS; i++)
        was[i] = turns[i];
    for (u32 i = 0; i < CPUS; i++) {
        for (u32 n = 0; n < 5000 && turns[i] == was[i]; n++) {
            g_main_context_iteration(vm->main, false);
            usleep(1000);
        }
        EXPECT(turns[i] != was[i]);
    }
}

TEST(vm_stops_and_goes_on)
{
    struct vm *vm = vm_with_cpus();

    EXPECT_STR(run_state_name(vm->run), "prelaunch");
    for (u32 n = 0; n < 20; n++) {
        vm_cont(vm);
        run_for_a_while(vm);
        vm_stop(vm, RUN_PAUSED);
        u64 was = turns[0] + turns[1] + turns[2], now = vm_now(vm);
        usleep(1000);
        EXPECT_EQ(turns[0] + turns[1] + turns[2], was);
        EXPECT_EQ(vm_now(vm), now);
    }
    EXPECT_EQ(told[VM_EV_STOP], 20);
    EXPECT_EQ(told[VM_EV_RESUME], 20);
    vm_reset(vm);
    EXPECT_STR(run_state_name(vm->run), "prelaunch");
    vm_end(vm);
}

TEST(vm_serves_requests_of_vcpus)
{
    struct vm *vm = vm_with_cpus();

    vm_cont(vm);
    for (u32 n = 1; n <= 20; n++) {
        ask = VM_REQ_RESET;
        for (u32 i = 0; i < 5000 && resets < n; i++) {
            g_main_context_iteration(vm->main, false);
            usleep(100);
        }
        EXPECT_EQ(resets, n);
        EXPECT_EQ(told[VM_EV_RESET], n);
        run_for_a_while(vm);
    }
    ask = VM_REQ_ERROR;
    for (u32 i = 0; i < 5000 && vm->run == RUN_RUNNING; i++) {
        g_main_context_iteration(vm->main, false);
        usleep(1000);
    }
    EXPECT_STR(run_state_name(vm->run), "internal-error");
    vm_cont(vm);
    EXPECT_STR(run_state_name(vm->run), "internal-error");
    vm_reset(vm);
    vm_cont(vm);
    run_for_a_while(vm);
    vm_end(vm);
}

static void quit_soon(void *opaque)
{
    vm_request_exit(opaque, 33);
}

TEST(vm_runs_until_told_to_end)
{
    struct vm *vm = vm_with_cpus();

    vm->no_reboot = true;
    vm_cont(vm);
    ask = VM_REQ_RESET; /* -no-reboot: ends */
    vm_run(vm);
    EXPECT_EQ(told[VM_EV_SHUTDOWN], 1);
    EXPECT_EQ(resets, 0);
    EXPECT(cpu[1].parked);
    vm_end(vm);

    vm = vm_with_cpus();
    vm->no_shutdown = true;
    vm_cont(vm);
    ask = VM_REQ_SHUTDOWN;
    while (vm->run == RUN_RUNNING)
        g_main_context_iteration(vm->main, true);
    EXPECT_STR(run_state_name(vm->run), "shutdown");
    vm_on_main(vm, quit_soon, vm);
    vm_run(vm);
    EXPECT_EQ(vm->exit_status, 33);
    vm_end(vm);
}

static u32 gsi_seen, msi_seen;
static void see_gsi(void *opaque UNUSED, unsigned gsi, bool level)
{
    gsi_seen = gsi * 2 + level;
}
static void see_msi(void *opaque UNUSED, u64 addr UNUSED, u32 data)
{
    msi_seen = data;
}

TEST(vm_lines)
{
    static const struct intc_ops ops = { .gsi = see_gsi, .msi = see_msi };
    struct vm *vm = vm_new();
    struct irq *line = vm_gsi(vm, 10);

    irq_set(line, true); /* no controller yet */
    vm_msi(vm, 0xfee00000, 1);
    vm->intc = &ops;
    irq_set(line, true);
    EXPECT_EQ(gsi_seen, 21);
    vm_msi(vm, 0xfee00000, 0x41);
    EXPECT_EQ(msi_seen, 0x41);
    EXPECT(!vm_gsi(vm, VM_GSI_MAX));
    vm_free(vm);
}
TEST_MAIN()
