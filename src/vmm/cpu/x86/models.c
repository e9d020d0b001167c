// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * models.c - the table of CPU models: what each processor generation reports of itself.
 * Family, model and stepping are the vendors'; features are what the generation brought,
 * without those that no virtual machine has (power management, debug store, performance
 * counters).
 */
#include "vmm/cpu/x86/model.h"

#include <string.h>

#define INTEL "GenuineIntel"
#define AMD   "AuthenticAMD"
#define HYGON "HygonGenuine"

#define PPRO "fpu de pse tsc msr mce cx8 pge cmov pat fxsr mmx sse sse2 pae sep apic"
#define CORE2                                                                                  \
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx "     \
    "fxsr sse "                                                                                \
    "sse2"

const struct cpu_model cpu_models[] = {
    { "486", INTEL, 4, 8, 0, "", NULL, "fpu vme pse" },
    { "pentium", INTEL, 5, 4, 3, "", "486", "de tsc msr mce cx8 mmx apic" },
    { "pentium2", INTEL, 6, 5, 2, "", "pentium", "pae sep mtrr pge mca cmov pat pse36 fxsr" },
    { "pentium3", INTEL, 6, 7, 3, "", "pentium2", "sse" },
    { "athlon", AMD, 6, 2, 3, "Posada Virtual CPU", NULL,
      PPRO " pse36 vme mtrr mca mmxext 3dnow 3dnowext" },
    { "qemu32", INTEL, 6, 6, 3, "Posada Virtual CPU", NULL, PPRO " pni" },
    { "qemu64", AMD, 15, 107, 1, "Posada Virtual CPU", NULL,
      PPRO " mtrr clflush mca pse36 pni cx16 syscall lm nx lahf-lm" },
    { "kvm32", INTEL, 15, 6, 1, "Common 32-bit KVM processor", NULL,
      PPRO " vme mtrr clflush mca pse36 pni" },
    { "kvm64", INTEL, 15, 6, 1, "Common KVM processor", "kvm32", "cx16 syscall lm nx" },
    { "coreduo", INTEL, 6, 14, 8, "Genuine Intel(R) CPU           T2600  @ 2.16GHz", NULL,
      CORE2 " pni nx" },
    { "core2duo", INTEL, 6, 15, 11, "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", NULL,
      CORE2 " pni ssse3 cx16 lm syscall nx lahf-lm" },
    { "n270", INTEL, 6, 28, 2, "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", NULL,
      CORE2 " pni ssse3 movbe nx lahf-lm" },
    { "Conroe", INTEL, 6, 15, 3, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", NULL,
      CORE2 " pni ssse3 lm syscall nx lahf-lm" },
    { "Penryn", INTEL, 6, 23, 3, "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", "Conroe",
      "cx16 sse4.1" },
    { "Nehalem", INTEL, 6, 26, 3, "Intel Core i7 9xx (Nehalem Class Core i7)", "Penryn",
      "sse4.2 popcnt" },
    { "Westmere", INTEL, 6, 44, 1, "Westmere E56xx/L56xx/X56xx (Nehalem-C)", "Nehalem",
      "aes pclmulqdq arat" },
    { "SandyBridge", INTEL, 6, 42, 1, "Intel Xeon E312xx (Sandy Bridge)", "Westmere",
      "avx xsave xsaveopt tsc-deadline x2apic rdtscp" },
    { "IvyBridge", INTEL, 6, 58, 9, "Intel Xeon E3-12xx v2 (Ivy Bridge)", "SandyBridge",
      "f16c rdrand fsgsbase smep erms" },
    { "Haswell-noTSX", INTEL, 6, 60, 1, "Intel Core Processor (Haswell, no TSX)", "IvyBridge",
      "fma movbe pcid abm bmi1 bmi2 avx2 invpcid" },
    { "Haswell", INTEL, 6, 60, 4, "Intel Core Processor (Haswell)", "Haswell-noTSX",
      "hle rtm" },
    { "Broadwell-noTSX", INTEL, 6, 61, 2, "Intel Core Processor (Broadwell, no TSX)",
      "Haswell-noTSX", "3dnowprefetch rdseed adx smap" },
    { "Broadwell", INTEL, 6, 61, 2, "Intel Core Processor (Broadwell)", "Broadwell-noTSX",
      "hle rtm" },
    { "Skylake-Client-noTSX-IBRS", INTEL, 6, 94, 3,
      "Intel Core Processor (Skylake, IBRS, no TSX)", "Broadwell-noTSX",
      "xsavec xgetbv1 spec-ctrl" },
    { "Skylake-Client", INTEL, 6, 94, 3, "Intel Core Processor (Skylake)", "Broadwell",
      "xsavec xgetbv1" },
    { "Skylake-Client-IBRS", INTEL, 6, 94, 3, "Intel Core Processor (Skylake, IBRS)",
      "Skylake-Client", "spec-ctrl" },
    { "Skylake-Server-noTSX-IBRS", INTEL, 6, 85, 4,
      "Intel Xeon Processor (Skylake, IBRS, no TSX)", "Skylake-Client-noTSX-IBRS",
      "pdpe1gb clwb avx512f avx512dq avx512bw avx512cd avx512vl clflushopt" },
    { "Skylake-Server", INTEL, 6, 85, 4, "Intel Xeon Processor (Skylake)",
      "Skylake-Server-noTSX-IBRS", "hle rtm", "spec-ctrl" },
    { "Skylake-Server-IBRS", INTEL, 6, 85, 4, "Intel Xeon Processor (Skylake, IBRS)",
      "Skylake-Server", "spec-ctrl" },
    { "Cascadelake-Server-noTSX", INTEL, 6, 85, 6, "Intel Xeon Processor (Cascadelake)",
      "Skylake-Server-noTSX-IBRS", "avx512vnni ssbd" },
    { "Cascadelake-Server", INTEL, 6, 85, 6, "Intel Xeon Processor (Cascadelake)",
      "Cascadelake-Server-noTSX", "hle rtm" },
    { "Icelake-Server-noTSX", INTEL, 6, 134, 0, "Intel Xeon Processor (Icelake)",
      "Cascadelake-Server-noTSX",
      "avx512ifma avx512vbmi umip pku avx512vbmi2 gfni vaes vpclmulqdq avx512bitalg "
      "avx512-vpopcntdq wbnoinvd sha-ni" },
    { "Icelake-Server", INTEL, 6, 134, 0, "Intel Xeon Processor (Icelake)",
      "Icelake-Server-noTSX", "hle rtm" },
    { "SapphireRapids", INTEL, 6, 143, 4, "Intel Xeon Processor (SapphireRapids)",
      "Icelake-Server",
      "fsrm rdpid serialize avx-vnni avx512-bf16 avx512-fp16 xsaves "
      "bus-lock-detect movdiri movdir64b" },
    { "Opteron_G1", AMD, 15, 6, 1, "AMD Opteron 240 (Gen 1 Class Opteron)", NULL,
      CORE2 " pni syscall lm nx" },
    { "Opteron_G2", AMD, 15, 6, 1, "AMD Opteron 22xx (Gen 2 Class Opteron)", "Opteron_G1",
      "cx16 lahf-lm" },
    { "Opteron_G3", AMD, 16, 2, 3, "AMD Opteron 23xx (Gen 3 Class Opteron)", "Opteron_G2",
      "popcnt monitor rdtscp abm sse4a misalignsse" },
    { "Opteron_G4", AMD, 21, 1, 2, "AMD Opteron 62xx class CPU", "Opteron_G3",
      "pclmulqdq ssse3 sse4.1 sse4.2 aes xsave avx pdpe1gb 3dnowprefetch xop fma4", "monitor" },
    { "Opteron_G5", AMD, 21, 2, 0, "AMD Opteron 63xx class CPU", "Opteron_G4", "fma f16c tbm" },
    { "EPYC", AMD, 23, 1, 2, "AMD EPYC Processor", NULL,
      CORE2
      " rdrand f16c avx xsave aes popcnt movbe sse4.2 sse4.1 cx16 fma ssse3 pclmulqdq pni lm "
      "rdtscp pdpe1gb fxsr-opt mmxext nx syscall osvw 3dnowprefetch misalignsse sse4a abm "
      "cr8legacy lahf-lm topoext fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt "
      "sha-ni xsaveopt xsavec xgetbv1 arat" },
    { "EPYC-IBPB", AMD, 23, 1, 2, "AMD EPYC Processor (with IBPB)", "EPYC", "ibpb" },
    { "EPYC-Rome", AMD, 23, 49, 0, "AMD EPYC-Rome Processor", "EPYC",
      "clzero xsaveerptr wbnoinvd ibpb amd-stibp clwb umip rdpid perfctr-core" },
    { "EPYC-Milan", AMD, 25, 1, 1, "AMD EPYC-Milan Processor", "EPYC-Rome",
      "ibrs amd-ssbd erms fsrm invpcid pku pcid vaes vpclmulqdq" },
    { "EPYC-Genoa", AMD, 25, 17, 0, "AMD EPYC-Genoa Processor", "EPYC-Milan",
      "avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 gfni "
      "avx512vnni avx512bitalg avx512-vpopcntdq avx512-bf16 la57 stibp-always-on amd-psfd" },
    { "Dhyana", HYGON, 24, 0, 1, "Hygon Dhyana Processor", "EPYC-IBPB", "", "sha-ni" },
    { NULL },
};

const struct cpu_model *cpu_model_find(const char *name)
{
    for (const struct cpu_model *m = cpu_models; m->name; m++)
        if (!g_ascii_strcasecmp(m->name, name))
            return m;
    return NULL;
}

static void words_change(const char *list, cpuid_words to, bool on)
{
    for (const char *p = list; p && *p;) {
        size_t len = strcspn(p, " ");
        enum cpuid_word w;
        u32 mask;

        if (len && cpu_feature_find(p, len, &w, &mask))
            to[w] = on ? to[w] | mask : to[w] & ~mask;
        p += len + (p[len] == ' ');
    }
}

void cpu_model_words(const struct cpu_model *m, cpuid_words to)
{
    const struct cpu_model *chain[16];
    unsigned n = 0;

    for (; m && n < ARRAY_LEN(chain); m = m->base ? cpu_model_find(m->base) : NULL)
        chain[n++] = m;
    while (n--) {
        words_change(chain[n]->add, to, true);
        words_change(chain[n]->del, to, false);
    }
}

void cpuid_print_models(GString *to)
{
    g_string_append_printf(to, "%-28s %s\n", "max", "all features that backend and host have");
    g_string_append_printf(to, "%-28s %s\n", "host", "the host's processor");
    for (const struct cpu_model *m = cpu_models; m->name; m++)
        g_string_append_printf(to, "%-28s %s\n", m->name, m->brand);
}
