// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * host.c - what the host's processor says of itself, and how fast its time-stamp counter runs.
 * Intel SDM volume 2, CPUID; volume 3, 18.7.3 for the nominal TSC frequency.
 */
#include <cpuid.h>
#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#include "vmm/cpu/x86/cpuid.h"

static bool leaf(u32 n, u32 sub, u32 r[4])
{
    u32 max = __get_cpuid_max(n & 0x80000000, NULL);

    r[0] = r[1] = r[2] = r[3] = 0;
    if (n > max)
        return false;
    __cpuid_count(n, sub, r[0], r[1], r[2], r[3]);
    return true;
}

void cpuid_host(struct cpuid_limits *ret)
{
    u32 r[4];

    *ret = (struct cpuid_limits){ .xcr0 = 1, .phys_bits = 36 };
    leaf(1, 0, r);
    ret->can[W_1_EDX] = r[3];
    ret->can[W_1_ECX] = r[2];
    leaf(6, 0, r);
    ret->can[W_6_EAX] = r[0];
    if (leaf(7, 0, r)) {
        u32 subs = r[0];

        ret->can[W_7_EBX] = r[1];
        ret->can[W_7_ECX] = r[2];
        ret->can[W_7_EDX] = r[3];
        if (subs >= 1 && leaf(7, 1, r))
            ret->can[W_7_1_EAX] = r[0];
    }
    leaf(0x80000001, 0, r);
    ret->can[W_80000001_EDX] = r[3];
    ret->can[W_80000001_ECX] = r[2];
    leaf(0x80000007, 0, r);
    ret->can[W_80000007_EDX] = r[3];
    if (leaf(0x80000008, 0, r)) {
        ret->can[W_80000008_EBX] = r[1];
        ret->phys_bits = r[0] & 0xff;
    }
    if (ret->can[W_1_ECX] & 1u << 27) { /* the kernel has switched XSAVE on */
        leaf(0xd, 1, r);
        ret->can[W_D_1_EAX] = r[0];
        u32 lo, hi;
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        ret->xcr0 = (u64)hi << 32 | lo;
    }
}

/* A reading of both clocks, as close together as one of eight tries gives. */
static void both_clocks(u64 *ret_tsc, u64 *ret_ns)
{
    u64 best = UINT64_MAX;

    for (int i = 0; i < 8; i++) {
        struct timespec t;
        u64 a = __rdtsc();
        clock_gettime(CLOCK_MONOTONIC_RAW, &t);
        u64 b = __rdtsc();

        if (b - a < best) {
            best = b - a;
            *ret_tsc = a + (b - a) / 2;
            *ret_ns = (u64)t.tv_sec * NS_PER_SEC + (u64)t.tv_nsec;
        }
    }
}

static u64 measure(void)
{
    /* The readings are within 20 ns of each other: good for 20 parts in a million. */
    const struct timespec nap = { .tv_nsec = 2 * NS_PER_MS };
    u64 t0, n0, t1, n1;

    both_clocks(&t0, &n0);
    nanosleep(&nap, NULL);
    both_clocks(&t1, &n1);
    if (n1 <= n0)
        return 0;
    return (u64)((unsigned __int128)(t1 - t0) * NS_PER_SEC / (n1 - n0));
}

static bool sane(u64 hz)
{
    return hz >= 100000000 && hz <= 20000000000;
}

static u64 find_tsc_hz(void)
{
    u32 r[4];
    u64 hz = 0;

    if (leaf(0x15, 0, r) && r[0] && r[1] && r[2])
        hz = (u64)r[2] * r[1] / r[0];
    if (sane(hz))
        return hz;
    leaf(1, 0, r);
    if (r[2] & 1u << 31) { /* a hypervisor: VMware's timing leaf, which others give too */
        __cpuid(0x40000000, r[0], r[1], r[2], r[3]);
        if (r[0] >= 0x40000010 && r[0] <= 0x400000ff) {
            __cpuid(0x40000010, r[0], r[1], r[2], r[3]);
            hz = (u64)r[0] * 1000;
        }
    }
    return sane(hz) ? hz : measure();
}

/* A constant of the host, found once; not state of a guest. */
static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;
static u64 tsc_hz;

static void tsc_find_once(void)
{
    tsc_hz = find_tsc_hz();
}

u64 cpuid_host_tsc_hz(void)
{
    pthread_once(&tsc_once, tsc_find_once);
    return tsc_hz;
}
