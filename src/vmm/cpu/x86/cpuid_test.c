// SPDX-License-Identifier: GPL-2.0-or-later
/* cpuid_test.c - models, wishes, topology and the leaves that depend on state. */
#include "vmm/cpu/x86/cpuid.h"

#include "base/error.h"
#include "base/test.h"
#include "vmm/cpu/x86/model.h"
#include "vmm/cpu/x86/state.h"

/* A host that can do everything. */
static struct cpuid_limits all(void)
{
    struct cpuid_limits l = { .xcr0 = 0x2e7, .phys_bits = 48 };

    memset(l.can, 0xff, sizeof l.can);
    return l;
}

static struct cpu_table table;

static bool build(const char *spec, u32 sockets, u32 cores, u32 threads)
{
    struct cpuid_limits l = all();
    GError *error = NULL;
    bool ok = cpuid_build(spec, &l, sockets, cores, threads, &table, &error);

    g_clear_error(&error);
    return ok;
}

static u32 r[4];
static void query(u32 leaf, u32 sub, u32 apic)
{
    cpuid_query(&table, leaf, sub, apic, CR4_OSXSAVE, 7, r);
}

TEST(every_model_builds)
{
    for (const struct cpu_model *m = cpu_models; m->name; m++) {
        EXPECT(build(m->name, 2, 2, 2));
        EXPECT(table.n < CPUID_MAX);
        EXPECT(!m->base || cpu_model_find(m->base));
        EXPECT_EQ(strlen(m->vendor), 12);
        query(1, 0, 0);
        if (m->family < 15 && m->model < 16)
            EXPECT_EQ(r[0], m->family << 8 | m->model << 4 | m->stepping);
    }
    EXPECT(build("max", 1, 4, 1));
    EXPECT(build("host", 1, 4, 1));
}

/* Every word of the models' feature lists is a known name. */
TEST(model_features_have_names)
{
    for (const struct cpu_model *m = cpu_models; m->name; m++) {
        g_auto(GStrv) f = g_strsplit(m->add ? m->add : "", " ", -1);
        enum cpuid_word w;
        u32 mask;

        for (unsigned i = 0; f[i]; i++)
            if (*f[i] && !cpu_feature_find(f[i], strlen(f[i]), &w, &mask)) {
                printf("# %s: %s\n", m->name, f[i]);
                EXPECT(false);
            }
    }
}

TEST(signatures)
{
    EXPECT(build("Haswell", 1, 1, 1));
    EXPECT_EQ(table.signature, 0x306c4);
    EXPECT(build("EPYC-Milan", 1, 1, 1));
    EXPECT_EQ(table.signature, 0xa00f11);
    EXPECT(build("qemu64", 1, 1, 1));
    EXPECT_EQ(table.signature, 0x60fb1);
    EXPECT(build("Nehalem,family=15,model=300", 1, 1, 1) == false);
}

TEST(wishes)
{
    EXPECT(build("Nehalem,+avx,-popcnt,xsave=on,sse4_2=off,vendor=AuthenticAMD", 1, 1, 1));
    EXPECT(cpuid_has_name(&table, "avx"));
    EXPECT(!cpuid_has_name(&table, "popcnt"));
    EXPECT(!cpuid_has_name(&table, "sse4.2"));
    EXPECT_STR(table.vendor, "AuthenticAMD");
    EXPECT_EQ(table.xcr0, 7);
    EXPECT(!build("Nehalem,+nonsense", 1, 1, 1));
    EXPECT(!build("nonsense", 1, 1, 1));
    EXPECT(!build("", 1, 1, 1));
    EXPECT(!build("max,vendor=x", 1, 1, 1));
    EXPECT(!build("max,avx=maybe", 1, 1, 1));
    EXPECT(!build("max,what=ever", 1, 1, 1));
    /* what hangs on XSAVE goes with it */
    EXPECT(build("Haswell,-xsave", 1, 1, 1));
    EXPECT(!cpuid_has_name(&table, "avx2"));
    EXPECT_EQ(table.xcr0, 1);
}

TEST(enforce_names_what_lacks)
{
    struct cpuid_limits l = all();
    GError *error = NULL;

    l.can[W_7_EBX] = 0;
    EXPECT(!cpuid_build("Haswell,enforce", &l, 1, 1, 1, &table, &error));
    EXPECT(error && strstr(error->message, "avx2"));
    g_clear_error(&error);
}

TEST(topology_2_2_2)
{
    /* index -> id: all three levels have one bit */
    for (u32 i = 0; i < 8; i++)
        EXPECT_EQ(cpuid_apic_id(i, 2, 2), i);
    EXPECT_EQ(cpuid_apic_id(3, 3, 1), 4);
    EXPECT_EQ(cpuid_apic_id(7, 3, 2), 1 << 3 | 0 << 1 | 1);

    EXPECT(build("Haswell", 2, 2, 2));
    query(1, 0, 5);
    EXPECT_EQ(r[1] >> 24, 5);
    EXPECT_EQ(r[1] >> 16 & 0xff, 4);
    EXPECT(r[3] & 1u << 28);
    EXPECT(r[2] & 1u << 27);
    query(0xb, 0, 5);
    EXPECT_EQ(r[0], 1);
    EXPECT_EQ(r[1], 2);
    EXPECT_EQ(r[2], 0x100);
    EXPECT_EQ(r[3], 5);
    query(0xb, 1, 5);
    EXPECT_EQ(r[0], 2);
    EXPECT_EQ(r[1], 4);
    EXPECT_EQ(r[2], 0x201);
    query(0xb, 7, 5);
    EXPECT_EQ(r[2], 7);
    EXPECT_EQ(r[3], 5);
    query(4, 3, 0); /* L3: 4 ids share it, 2 cores */
    EXPECT_EQ(r[0] >> 5 & 7, 3);
    EXPECT_EQ((r[0] >> 14 & 0xfff) + 1, 4);
    EXPECT_EQ((r[0] >> 26) + 1, 2);
    EXPECT_EQ(((r[1] >> 22) + 1) * (u64)(r[2] + 1) * 64, 16 * MiB);

    EXPECT(build("EPYC", 2, 2, 2));
    query(0x8000001e, 0, 7);
    EXPECT_EQ(r[0], 7);
    EXPECT_EQ(r[1], 0x101);
    EXPECT_EQ(r[2], 1);
    query(0x80000008, 0, 0);
    EXPECT_EQ(r[2], 3 | 2 << 12);
    query(0x8000001d, 3, 0);
    EXPECT_EQ((r[0] >> 14 & 0xfff) + 1, 4);
    EXPECT(!build("EPYC", 0, 1, 1));
    EXPECT(!build("EPYC", 255, 255, 255));
}

TEST(xsave_sizes)
{
    EXPECT(build("Skylake-Server", 1, 1, 1));
    query(0xd, 0, 0);
    EXPECT_EQ(r[0], 0xe7);
    EXPECT_EQ(r[1], 832);
    EXPECT(r[2] >= 832 + 1600);
    cpuid_query(&table, 0xd, 0, 0, 0, 3, r);
    EXPECT_EQ(r[1], 576);
    query(0xd, 2, 0);
    EXPECT_EQ(r[0], 256);
    EXPECT_EQ(r[1], 576);
    query(0xd, 3, 0);
    EXPECT_EQ(r[0], 0);
    query(0xd, 1, 0);
    EXPECT_EQ(r[1], 832);
}

TEST(beyond_the_last_leaf)
{
    EXPECT(build("qemu64", 1, 1, 1));
    query(0x12345, 0, 0);
    EXPECT_EQ(r[0] | r[1] | r[2] | r[3], 0);
    query(0x40000000, 0, 0);
    EXPECT_EQ(r[0], 0x40000010);
    query(0xffffffff, 0xffffffff, 0xffffffff);
    EXPECT_EQ(r[0] | r[1] | r[2] | r[3], 0);
}

TEST(tsc_rate)
{
    u64 hz = cpuid_host_tsc_hz();

    EXPECT(hz > 100000000 && hz < 20000000000);
    EXPECT(build("Haswell", 1, 1, 1));
    query(0x15, 0, 0);
    EXPECT(r[0] && r[1]);
    s64 off = (s64)((u64)r[2] * r[1] / r[0]) - (s64)hz;
    EXPECT(off < (s64)hz / 100000 && off > -(s64)hz / 100000);
    EXPECT(1000000ull * r[1] < UINT32_MAX);
}

TEST_MAIN()
