// SPDX-License-Identifier: GPL-2.0-or-later
/* vcpu_test.c - vCPU threads over a backend that does what the test says. */
#include <stdatomic.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/clock.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/state.h"

enum { CPUS = 4 };
static _Atomic u64 turns[CPUS];
static _Atomic u32 sets, finis, next_exit[CPUS];
static u32 told[8];

static bool fake_vcpu_init(struct vcpu *v, GError **error)
{
    if (v->index >= CPUS)
        g_set_error(error, g_quark_from_string("fake"), 0, "no more");
    return v->index < CPUS;
}
static void fake_vcpu_fini(struct vcpu *v UNUSED)
{
    finis++;
}
static enum cpu_exit fake_run(struct vcpu *v)
{
    EXPECT(vcpu_current() == v);
    for (;;) {
        if (atomic_load(&v->events) & VCPU_STOP)
            return CPU_EXIT_KICK;
        turns[v->index]++;
        u32 e = atomic_exchange(&next_exit[v->index], 0);
        if (e)
            return (enum cpu_exit)e;
        usleep(50);
    }
}
static void fake_kick(struct vcpu *v UNUSED)
{
}
static bool fake_get(struct vcpu *v UNUSED, struct x86_state *ret, GError **error UNUSED)
{
    x86_reset(ret, true);
    return true;
}
static bool fake_set(struct vcpu *v, const struct x86_state *s, GError **error UNUSED)
{
    EXPECT_EQ(s->mp_state, v->index ? MP_WAIT_SIPI : MP_RUNNING);
    sets++;
    return true;
}
static const struct cpu_ops fake = { .name = "fake",
                                     .vcpu_init = fake_vcpu_init,
                                     .vcpu_fini = fake_vcpu_fini,
                                     .run = fake_run,
                                     .kick = fake_kick,
                                     .get = fake_get,
                                     .set = fake_set };

static void listen(void *opaque UNUSED, enum vm_event ev, enum vm_cause cause UNUSED)
{
    told[ev]++;
}

static void turn_until(struct vm *vm, u32 *count, u32 want)
{
    for (u32 i = 0; i < 20000 && *count < want; i++) {
        g_main_context_iteration(vm->main, false);
        usleep(100);
    }
    EXPECT_EQ(*count, want);
}

TEST(vcpus_run_park_reset_and_end)
{
    struct vm *vm = vm_new();
    struct cpu_config cfg = { .smp = CPUS, .sockets = 1, .cores = CPUS, .threads = 1 };

    vm->cpu = &fake;
    EXPECT(cpu_make_vcpus(vm, &cfg, NULL));
    vm_listen(vm, listen, NULL);
    EXPECT_EQ(sets, CPUS);
    vm_stop(vm, RUN_PRELAUNCH); /* before there are threads */
    EXPECT(cpu_start_threads(vm, NULL));
    usleep(5000);
    EXPECT_EQ(turns[0], 0);
    vm_cont(vm);
    while (!turns[0] || !turns[CPUS - 1])
        usleep(100);
    for (u32 i = 0; i < 30; i++) {
        vm_stop(vm, RUN_PAUSED);
        u64 was = turns[2];
        vm_cont(vm);
        while (turns[2] == was)
            usleep(100);
    }
    vm->vcpus_reset = NULL; /* cpu_open() has not been here */
    next_exit[1] = CPU_EXIT_TRIPLE;
    turn_until(vm, &told[VM_EV_RESET], 1);
    next_exit[2] = CPU_EXIT_TRIPLE;
    next_exit[3] = CPU_EXIT_TRIPLE;
    turn_until(vm, &told[VM_EV_RESET], 2);
    next_exit[0] = CPU_EXIT_DEBUG;
    for (u32 i = 0; i < 20000 && vm->run != RUN_PAUSED; i++) {
        g_main_context_iteration(vm->main, false);
        usleep(100);
    }
    EXPECT_EQ(vm->run, RUN_PAUSED);
    vm_cont(vm);
    vm->no_reboot = true;
    next_exit[2] = CPU_EXIT_TRIPLE;
    vm_run(vm);
    EXPECT_EQ(told[VM_EV_SHUTDOWN], 1);
    cpu_close(vm);
    EXPECT_EQ(finis, CPUS);
    vm_free(vm);
}

TEST(vcpus_have_apic_ids_by_topology)
{
    struct vm *vm = vm_new();
    struct cpu_config cfg = { .smp = 4, .sockets = 1, .cores = 2, .threads = 2 };
    struct cpu_config odd = { .smp = 4, .sockets = 2, .cores = 3, .threads = 1 };
    struct cpu_config many = { .smp = 255, .sockets = 255, .cores = 1, .threads = 1 };
    struct cpu_config wide = { .smp = 200, .sockets = 40, .cores = 5, .threads = 1 };
    g_autoptr(GError) error = NULL;

    vm->cpu = &fake;
    EXPECT(cpu_make_vcpus(vm, &cfg, NULL));
    EXPECT_EQ(vm->vcpus[3]->apic_id, 3);
    EXPECT_EQ(vm->n_vcpus, 4);
    vm->cpu = &fake;
    cpu_close(vm);
    vm->cpu = &fake;
    EXPECT(cpu_make_vcpus(vm, &odd, NULL));
    EXPECT_EQ(vm->vcpus[2]->apic_id, 2);
    EXPECT_EQ(vm->vcpus[3]->apic_id, 4);
    cpu_close(vm);
    vm->cpu = &fake;
    EXPECT(!cpu_make_vcpus(vm, &wide, &error));
    EXPECT(strstr(error->message, "APIC ids above 254"));
    cpu_close(vm);
    g_clear_error(&error);
    vm->cpu = &fake;
    EXPECT(!cpu_make_vcpus(vm, &many, &error)); /* the backend refuses the fifth */
    EXPECT(strstr(error ? error->message : "", "vcpu 4"));
    cpu_close(vm);
    vm_free(vm);
}

TEST(unknown_accelerators_are_named)
{
    struct vm *vm = vm_new();
    struct cpu_config cfg = { .accel = "hax", .smp = 1 };
    g_autoptr(GError) error = NULL;

    EXPECT(!cpu_open(vm, &cfg, &error));
    EXPECT_STR(error->message, "accelerator 'hax' is unknown; there are kvm and soft");
    cpu_close(vm);
    vm_free(vm);
}
TEST_MAIN()
