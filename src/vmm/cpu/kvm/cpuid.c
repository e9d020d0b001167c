// SPDX-License-Identifier: GPL-2.0-or-later
/* cpuid.c - what the kernel lets a guest have, and the table given to each vCPU. */
#include "vmm/cpu/kvm/kvm.h"

#include <errno.h>

#include "base/error.h"

enum { ENTRIES = 256 };
struct table {
    struct kvm_cpuid2 h;
    struct kvm_cpuid_entry2 e[ENTRIES];
};

static const struct kvm_cpuid_entry2 *find(const struct table *t, u32 leaf, u32 sub)
{
    static const struct kvm_cpuid_entry2 none;

    for (u32 i = 0; i < t->h.nent && i < ENTRIES; i++)
        if (t->e[i].function == leaf &&
            (!(t->e[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || t->e[i].index == sub))
            return &t->e[i];
    return &none;
}

bool kvm_cpuid_limits(struct kvm_vm *kv, struct cpuid_limits *ret, GError **error)
{
    g_autofree struct table *t = g_new0(struct table, 1);
    struct cpuid_limits l = { .hv_kvm = true };

    t->h.nent = ENTRIES;
    int rc = kvm_ioctl(kv->kvm, KVM_GET_SUPPORTED_CPUID, t);
    if (rc < 0)
        return fail_errno(error, -rc, "kvm: the kernel does not tell what CPUID may say");
    l.can[W_1_EDX] = find(t, 1, 0)->edx;
    l.can[W_1_ECX] = find(t, 1, 0)->ecx;
    l.can[W_7_EBX] = find(t, 7, 0)->ebx;
    l.can[W_7_ECX] = find(t, 7, 0)->ecx;
    l.can[W_7_EDX] = find(t, 7, 0)->edx;
    l.can[W_7_1_EAX] = find(t, 7, 1)->eax;
    l.can[W_80000001_EDX] = find(t, 0x80000001, 0)->edx;
    l.can[W_80000001_ECX] = find(t, 0x80000001, 0)->ecx;
    l.can[W_80000007_EDX] = find(t, 0x80000007, 0)->edx;
    l.can[W_80000008_EBX] = find(t, 0x80000008, 0)->ebx;
    l.can[W_D_1_EAX] = find(t, 0xd, 1)->eax & ~8u; /* no supervisor states */
    l.can[W_KVM_EAX] = find(t, 0x40000001, 0)->eax;
    l.can[W_6_EAX] = 1 << 2; /* the timer never stops: there are no deep sleep states */
    l.phys_bits = find(t, 0x80000008, 0)->eax & 0xff;
    if (!l.phys_bits)
        l.phys_bits = 36;
    l.xcr0 = find(t, 0xd, 0)->eax | (u64)find(t, 0xd, 0)->edx << 32;
    if (!l.xcr0)
        l.xcr0 = 3;
    /* These hang on the local APIC, not on the processor. The deadline timer's MSR never leaves
     * the kernel, which without a local APIC ignores it. */
    l.can[W_1_ECX] &= ~(1u << 21 | 1u << 24);
    if (kv->vm->kernel_irqchip) {
        l.can[W_1_ECX] |= 1u << 21;
        if (kvm_ioctl_n(kv->kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
            l.can[W_1_ECX] |= 1u << 24;
    } else {
        if (kv->has.user_msr)
            l.can[W_1_ECX] |= 1u << 21;
        /* pv EOI, unhalt, IPIs and MSI-based page faults go through the kernel's. */
        l.can[W_KVM_EAX] &= 1u << 0 | 1u << 3 | 1u << 1 | 1u << 5 | 1u << 24;
    }
    *ret = l;
    return true;
}

bool kvm_cpuid_set(struct kvm_vcpu *kc, GError **error)
{
    const struct cpu_table *from = &kc->kv->cpuid;
    g_autofree struct table *t = g_new0(struct table, 1);

    for (u32 i = 0; i < from->n; i++) {
        const struct cpuid_entry *e = &from->e[i];
        struct kvm_cpuid_entry2 *to = &t->e[t->h.nent++];
        u32 r[4];

        cpuid_query(from, e->leaf, e->subleaf, kc->vcpu->apic_id, 0, from->xcr0, r);
        *to = (struct kvm_cpuid_entry2){
            .function = e->leaf,
            .index = e->subleaf,
            .flags = e->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = r[0],
            .ebx = r[1],
            .ecx = r[2],
            .edx = r[3],
        };
    }
    int rc = kvm_ioctl(kc->fd, KVM_SET_CPUID2, t);
    return rc >= 0 || fail_errno(error, -rc, "kvm: CPUID table of vCPU %u", kc->vcpu->index);
}
