// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * features.c - names of CPUID feature bits, as command lines and libvirt use them.
 * Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
 */
#include "vmm/cpu/x86/model.h"

#include <string.h>

static const char *const names[CPUID_WORDS][32] = {
    [W_1_EDX] = { "fpu",  "vme",   "de",   "pse",     "tsc",  "msr", "pae",  "mce",
                  "cx8",  "apic",  NULL,   "sep",     "mtrr", "pge", "mca",  "cmov",
                  "pat",  "pse36", "pn",   "clflush", NULL,   "ds",  "acpi", "mmx",
                  "fxsr", "sse",   "sse2", "ss",      "ht",   "tm",  "ia64", "pbe" },
    [W_1_ECX] = { "pni",          "pclmulqdq", "dtes64", "monitor", "ds-cpl", "vmx",
                  "smx",          "est",       "tm2",    "ssse3",   "cid",    NULL,
                  "fma",          "cx16",      "xtpr",   "pdcm",    NULL,     "pcid",
                  "dca",          "sse4.1",    "sse4.2", "x2apic",  "movbe",  "popcnt",
                  "tsc-deadline", "aes",       "xsave",  "osxsave", "avx",    "f16c",
                  "rdrand",       "hypervisor" },
    [W_7_EBX] = { "fsgsbase",
                  "tsc-adjust",
                  "sgx",
                  "bmi1",
                  "hle",
                  "avx2",
                  "fdp-excptn-only",
                  "smep",
                  "bmi2",
                  "erms",
                  "invpcid",
                  "rtm",
                  NULL,
                  "zero-fcs-fds",
                  "mpx",
                  NULL,
                  "avx512f",
                  "avx512dq",
                  "rdseed",
                  "adx",
                  "smap",
                  "avx512ifma",
                  "pcommit",
                  "clflushopt",
                  "clwb",
                  "intel-pt",
                  "avx512pf",
                  "avx512er",
                  "avx512cd",
                  "sha-ni",
                  "avx512bw",
                  "avx512vl" },
    [W_7_ECX] = { [1] = "avx512vbmi",
                  [2] = "umip",
                  [3] = "pku",
                  [4] = "ospke",
                  [5] = "waitpkg",
                  [6] = "avx512vbmi2",
                  [8] = "gfni",
                  [9] = "vaes",
                  [10] = "vpclmulqdq",
                  [11] = "avx512vnni",
                  [12] = "avx512bitalg",
                  [14] = "avx512-vpopcntdq",
                  [16] = "la57",
                  [22] = "rdpid",
                  [24] = "bus-lock-detect",
                  [25] = "cldemote",
                  [27] = "movdiri",
                  [28] = "movdir64b",
                  [31] = "pks" },
    [W_7_EDX] = { [2] = "avx512-4vnniw",
                  [3] = "avx512-4fmaps",
                  [4] = "fsrm",
                  [8] = "avx512-vp2intersect",
                  [10] = "md-clear",
                  [14] = "serialize",
                  [16] = "tsx-ldtrk",
                  [19] = "arch-lbr",
                  [22] = "amx-bf16",
                  [23] = "avx512-fp16",
                  [24] = "amx-tile",
                  [25] = "amx-int8",
                  [26] = "spec-ctrl",
                  [27] = "stibp",
                  [28] = "flush-l1d",
                  [29] = "arch-capabilities",
                  [30] = "core-capability",
                  [31] = "ssbd" },
    [W_7_1_EAX] = { [4] = "avx-vnni",
                    [5] = "avx512-bf16",
                    [7] = "cmpccxadd",
                    [10] = "fzrm",
                    [11] = "fsrs",
                    [12] = "fsrc",
                    [21] = "amx-fp16",
                    [23] = "avx-ifma",
                    [26] = "lam" },
    [W_80000001_EDX] = { [11] = "syscall",
                         [19] = "mp",
                         [20] = "nx",
                         [22] = "mmxext",
                         [25] = "fxsr-opt",
                         [26] = "pdpe1gb",
                         [27] = "rdtscp",
                         [29] = "lm",
                         [30] = "3dnowext",
                         [31] = "3dnow" },
    [W_80000001_ECX] = { "lahf-lm",   "cmp-legacy",  "svm",
                         "extapic",   "cr8legacy",   "abm",
                         "sse4a",     "misalignsse", "3dnowprefetch",
                         "osvw",      "ibs",         "xop",
                         "skinit",    "wdt",         NULL,
                         "lwp",       "fma4",        "tce",
                         NULL,        "nodeid-msr",  NULL,
                         "tbm",       "topoext",     "perfctr-core",
                         "perfctr-nb" },
    [W_80000007_EDX] = { [8] = "invtsc" },
    [W_80000008_EBX] = { [0] = "clzero",
                         [2] = "xsaveerptr",
                         [4] = "rdpru",
                         [9] = "wbnoinvd",
                         [12] = "ibpb",
                         [14] = "ibrs",
                         [15] = "amd-stibp",
                         [17] = "stibp-always-on",
                         [24] = "amd-ssbd",
                         [25] = "virt-ssbd",
                         [26] = "amd-no-ssb",
                         [28] = "amd-psfd" },
    [W_D_1_EAX] = { "xsaveopt", "xsavec", "xgetbv1", "xsaves" },
    [W_6_EAX] = { [2] = "arat" },
    [W_KVM_EAX] = { [0] = "kvmclock",
                    [1] = "kvm-nopiodelay",
                    [3] = "kvmclock2",
                    [4] = "kvm-asyncpf",
                    [5] = "kvm-steal-time",
                    [6] = "kvm-pv-eoi",
                    [7] = "kvm-pv-unhalt",
                    [9] = "kvm-pv-tlb-flush",
                    [10] = "kvm-asyncpf-vmexit",
                    [11] = "kvm-pv-ipi",
                    [12] = "kvm-poll-control",
                    [13] = "kvm-pv-sched-yield",
                    [14] = "kvm-asyncpf-int",
                    [15] = "kvm-msi-ext-dest-id",
                    [24] = "kvmclock-stable-bit" },
};

static const struct {
    const char *alias, *name;
} aliases[] = {
    { "sse3", "pni" },
    { "xd", "nx" },
    { "i64", "lm" },
    { "ffxsr", "fxsr-opt" },
    { "sha", "sha-ni" },
    { "lzcnt", "abm" },
    { "pclmuldq", "pclmulqdq" },
    { "cmpxchg16b", "cx16" },
    { "clfsh", "clflush" },
    { "stibp-amd", "amd-stibp" },
    { "constant-tsc", "invtsc" },
};

static bool same(const char *a, const char *b, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char x = g_ascii_tolower(a[i]), y = b[i];

        if (!y)
            return false;
        if (x == '_' || x == '.')
            x = '-';
        if (y == '.')
            y = '-';
        if (x != y)
            return false;
    }
    return b[len] == 0;
}

bool cpu_feature_find(const char *name, size_t len, enum cpuid_word *ret_word, u32 *ret_mask)
{
    for (unsigned i = 0; i < ARRAY_LEN(aliases); i++)
        if (same(name, aliases[i].alias, len)) {
            name = aliases[i].name;
            len = strlen(name);
            break;
        }
    for (unsigned w = 0; w < CPUID_WORDS; w++)
        for (unsigned b = 0; b < 32; b++)
            if (names[w][b] && same(name, names[w][b], len)) {
                *ret_word = w;
                *ret_mask = 1u << b;
                /* the clock has two MSR layouts, hence two bits, and one name */
                if (w == W_KVM_EAX && b == 0)
                    *ret_mask |= 1u << 3;
                return true;
            }
    return false;
}

const char *cpu_feature_name(enum cpuid_word w, u32 bit)
{
    return w < CPUID_WORDS && bit < 32 ? names[w][bit] : NULL;
}
