// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * kvmclock.c - the paravirtual clock that KVM offers, for guests of the software CPU.
 * Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW)
 * and cpuid.rst.
 *
 * The guest learns from it how fast its TSC runs, which it cannot measure well on a busy host,
 * and then uses the TSC itself.  Time is TSC time since reset, alike on all vCPUs, so the page
 * is written once, when the guest asks.
 */
#include "vmm/core/clock.h"
#include "vmm/cpu/soft/soft.h"

enum { PVCLOCK_TSC_STABLE = 1 };

struct pvclock {
    le32 version, pad0;
    le64 tsc_timestamp, system_time;
    le32 tsc_to_system_mul;
    u8 tsc_shift, flags, pad[2];
} __attribute__((packed));

struct pvclock_wall {
    le32 version, sec, nsec;
} __attribute__((packed));

/* ns = ((tsc << shift) * mul) >> 32, shift may be negative */
static void scale(u64 hz, u32 *mul, s8 *shift)
{
    u64 ns = NS_PER_SEC, tsc = hz;

    *shift = 0;
    while (tsc > ns * 2 || tsc >> 32) {
        tsc >>= 1;
        --*shift;
    }
    while (tsc <= ns) {
        tsc <<= 1;
        ++*shift;
    }
    *mul = (u32)((ns << 32) / tsc);
}

static u64 to_ns(const struct soft_vcpu *v, u64 tsc)
{
    return (u64)((unsigned __int128)tsc * NS_PER_SEC / v->cpuid->tsc_hz);
}

bool kvmclock_write(struct soft_vcpu *v, u32 msr, u64 val)
{
    if (!cpuid_has(v->cpuid, W_KVM_EAX, 3))
        return false;
    soft_fp_save(v);
    if (msr == MSR_KVM_WALL_CLOCK_NEW) {
        u64 boot = vm_wall_ns(v->vm) - to_ns(v, soft_tsc(v));
        struct pvclock_wall w = { le32_of(2), le32_of((u32)(boot / NS_PER_SEC)),
                                  le32_of((u32)(boot % NS_PER_SEC)) };

        v->s.msr.kvm_wall_clock = val;
        if (!ram_put(v->ram, val, &w, sizeof w))
            return false;
        return true;
    }
    v->s.msr.kvm_system_time = val;
    if (val & 1) {
        struct pvclock p = { .version = le32_of(2), .flags = PVCLOCK_TSC_STABLE };
        u32 mul;
        s8 shift;

        scale(v->cpuid->tsc_hz, &mul, &shift);
        p.tsc_to_system_mul = le32_of(mul);
        p.tsc_shift = (u8)shift;
        if (!ram_put(v->ram, val & ~1ull, &p, sizeof p))
            return false;
    }
    return true;
}
