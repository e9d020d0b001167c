// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpuid.h - CPU models and the CPUID table that a guest sees.
 *
 * A model is a name, vendor, family/model/stepping, a brand string and feature words.  The
 * table of a guest is made once: model + "+feat,-feat", masked by what host and backend can do
 * (`supported`), plus topology (leaves 1, 4, 0xb, 0x1f, 0x8000001d/e), caches, XSAVE sizes
 * (0xd), TSC frequency (0x15, 0x40000010) and the hypervisor leaves.  It does not change,
 * except for bits that mirror state (OSXSAVE, APIC enable), which the reader patches.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

struct cpuid_entry {
    u32 leaf, subleaf;
    bool has_subleaf;
    u32 eax, ebx, ecx, edx;
};
enum { CPUID_MAX = 96 };

/* Feature words by the leaf and register they come from. */
enum cpuid_word {
    W_1_EDX,
    W_1_ECX,
    W_7_EBX,
    W_7_ECX,
    W_7_EDX,
    W_7_1_EAX,
    W_80000001_EDX,
    W_80000001_ECX,
    W_80000007_EDX,
    W_80000008_EBX,
    W_D_1_EAX,
    W_6_EAX,
    W_KVM_EAX,
    CPUID_WORDS,
};
typedef u32 cpuid_words[CPUID_WORDS];

struct cpu_table {
    u32 n;
    struct cpuid_entry e[CPUID_MAX];
    cpuid_words have; /* features after masking */
    u64 xcr0;         /* XCR0 bits that the guest may set */
    u32 xsave_size;   /* of all xcr0 components, standard format */
    u32 phys_bits, virt_bits;
    u64 tsc_hz;
    char vendor[13];
    u32 signature; /* leaf 1 EAX; EDX after reset */
    u32 sockets, cores, threads;
};

/* What backend and host can do; soft_cpuid_supported() and kvm's fill it. */
struct cpuid_limits {
    cpuid_words can;
    u64 xcr0;
    u32 phys_bits;
    bool no_return_overflow; /* a guest's RET is no RET of the host: AMD's SRSO_NO */
    bool hv_kvm; /* announce the KVM signature and W_KVM_EAX at 0x40000000 */
};

/* `spec`: "max", "host", "Nehalem,+avx,-pcid". Unknown names are errors that name them;
 * features asked for by name that cannot be had are a warning naming them (an error with
 * ",enforce"). */
bool cpuid_build(const char *spec, const struct cpuid_limits *, u32 sockets, u32 cores,
                 u32 threads, struct cpu_table *ret, GError **error);
/* The answer to CPUID for one vCPU: leaf/subleaf, APIC id patched in, OSXSAVE by cr4, size of
 * leaf 0xd by xcr0. */
void cpuid_query(const struct cpu_table *, u32 leaf, u32 subleaf, u32 apic_id, u64 cr4,
                 u64 xcr0, u32 ret[4]);
/* Feature by the usual name ("avx2"); unknown names: false. */
bool cpuid_has_name(const struct cpu_table *, const char *feature);
/* APIC ids leave room for a power of two at each level, as leaf 0xb says. */
u32 cpuid_apic_id(u32 index, u32 cores, u32 threads);
bool cpuid_has(const struct cpu_table *, enum cpuid_word, u32 bit);
/* The host's own words by CPUID. */
void cpuid_host(struct cpuid_limits *ret);
u64 cpuid_host_tsc_hz(void); /* measured or from leaf 0x15/0x40000010; cached */
void cpuid_print_models(GString *to);
