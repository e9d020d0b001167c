// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cpuid.c - makes the CPUID table of a guest from a model, what host and backend can do, and
 * the topology; and answers CPUID from it. Intel SDM volume 2, CPUID; AMD APM volume 3,
 * appendix E; Linux' paravirtual leaves for KVM.
 *
 * Layout of the APIC ids: package | core | thread, each in the bits that the largest number of
 * its level needs, as leaf 0xb tells.  Threads share L1 and L2, a package shares L3.
 *
 * Not modelled: dies and clusters, performance monitoring (leaf 0xa), thermal leaves but ARAT,
 * SGX, processor trace, resource director.
 */
#include "vmm/cpu/x86/cpuid.h"

#include <cpuid.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/cpu/x86/model.h"
#include "vmm/cpu/x86/state.h"

#define F(b) (1u << (b))

/* Bits of 80000001 EDX that AMD repeats from leaf 1 EDX. */
enum { AMD_SAME = 0x0183f3ff };
/* Features that exist only to be patched in by state, or that are ours to give. */
enum { OSXSAVE = 27, HYPERVISOR = 31, OSPKE = 4 };

/* What the specification text says: a model changed by the user's wishes. */
struct wish {
    cpuid_words words, asked, refused; /* refused by the user: "-feat" */
    char vendor[13], brand[49];
    u32 family, model, stepping;
    u32 phys_bits; /* 0: the host's, at most 40 for old models */
    bool enforce, hide, all;
};

static u32 bits_for(u32 n)
{
    return n > 1 ? 32 - (u32)__builtin_clz(n - 1) : 0;
}

u32 cpuid_apic_id(u32 index, u32 cores, u32 threads)
{
    u32 tb = bits_for(threads), cb = bits_for(cores);

    return index / (cores * threads) << (cb + tb) | index / threads % cores << tb |
           index % threads;
}

static void cpuid_regs(u32 leaf, u32 sub, u32 r[4])
{
    r[0] = r[1] = r[2] = r[3] = 0;
    if (leaf <= __get_cpuid_max(leaf & 0x80000000, NULL))
        __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
}

static void signature_split(u32 eax, struct wish *w)
{
    w->stepping = eax & 15;
    w->model = eax >> 4 & 15;
    w->family = eax >> 8 & 15;
    if (w->family == 6 || w->family == 15)
        w->model |= eax >> 12 & 0xf0;
    if (w->family == 15)
        w->family += eax >> 20 & 0xff;
}

static u32 signature_join(const struct wish *w)
{
    u32 fam = w->family > 15 ? 15 : w->family, ext = w->family - fam;

    return w->stepping | (w->model & 15) << 4 | fam << 8 | (w->model >> 4) << 16 | ext << 20;
}

static void wish_host(struct wish *w, const struct cpuid_limits *lim)
{
    u32 r[4];

    cpuid_regs(0, 0, r);
    memcpy(w->vendor, &r[1], 4);
    memcpy(w->vendor + 4, &r[3], 4);
    memcpy(w->vendor + 8, &r[2], 4);
    cpuid_regs(1, 0, r);
    signature_split(r[0], w);
    for (u32 i = 0; i < 3; i++) {
        cpuid_regs(0x80000002 + i, 0, r);
        memcpy(w->brand + 16 * i, r, 16);
    }
    memcpy(w->words, lim->can, sizeof w->words);
    /* Nested virtualization only for those who ask for it: its state is not saved. */
    w->words[W_1_ECX] &= ~F(5);
    w->words[W_80000001_ECX] &= ~F(2);
    w->phys_bits = lim->phys_bits;
    w->all = true;
}

static bool number(const char *val, u64 max, u32 *ret)
{
    char *end;
    u64 n = g_ascii_strtoull(val, &end, 0);

    if (end == val || *end || n > max)
        return false;
    *ret = n;
    return true;
}

static bool boolean(const char *val, bool *ret)
{
    static const char *const yes[] = { "on", "yes", "true", "1" }, *const no[] = { "off", "no",
                                                                                   "false",
                                                                                   "0" };
    for (unsigned i = 0; i < 4; i++)
        if (!strcmp(val, yes[i]) || !strcmp(val, no[i])) {
            *ret = !strcmp(val, yes[i]);
            return true;
        }
    return false;
}

static void wish_feature(struct wish *w, enum cpuid_word word, u32 mask, bool on)
{
    if (on) {
        w->words[word] |= mask;
        w->asked[word] |= mask;
        w->refused[word] &= ~mask;
    } else {
        w->words[word] &= ~mask;
        w->asked[word] &= ~mask;
        w->refused[word] |= mask;
    }
}

/* One "name=value"; false without *error when the name is unknown. */
static bool wish_option(struct wish *w, const char *name, const char *val, bool *ret_known,
                        GError **error)
{
    bool on = false, ok = true;

    *ret_known = true;
    if (!strcmp(name, "family"))
        ok = number(val, 0xff + 0xf, &w->family);
    else if (!strcmp(name, "model"))
        ok = number(val, 0xff, &w->model);
    else if (!strcmp(name, "stepping"))
        ok = number(val, 15, &w->stepping);
    else if (!strcmp(name, "phys-bits"))
        ok = number(val, 52, &w->phys_bits) && w->phys_bits >= 32;
    else if (!strcmp(name, "vendor")) {
        ok = strlen(val) == 12;
        if (ok)
            memcpy(w->vendor, val, 13);
    } else if (!strcmp(name, "model-id")) {
        ok = strlen(val) <= 48;
        if (ok)
            g_strlcpy(w->brand, val, sizeof w->brand);
    } else if (!strcmp(name, "kvm")) {
        ok = boolean(val, &on);
        w->hide = !on;
    } else if (!strcmp(name, "enforce")) {
        ok = boolean(val, &w->enforce);
    } else if (!strcmp(name, "check")) {
        ok = boolean(val, &on); /* a warning comes in any case */
    } else if (!strcmp(name, "migratable")) {
        ok = boolean(val, &on);
        if (on) /* a frequency that another host cannot keep */
            w->words[W_80000007_EDX] &= ~F(8);
    } else if (!strcmp(name, "pmu")) {
        ok = boolean(val, &on) && !on;
    } else {
        *ret_known = false;
        return true;
    }
    return ok || fail(error, ERR_ARGUMENT, "-cpu: %s=%s: not a value that %s can have", name,
                      val, name);
}

static bool wish_token(struct wish *w, const char *tok, GError **error)
{
    enum cpuid_word word;
    u32 mask;
    const char *eq = strchr(tok, '=');
    bool on = true;

    if (*tok == '+' || *tok == '-') {
        if (!cpu_feature_find(tok + 1, strlen(tok + 1), &word, &mask))
            return fail(error, ERR_ARGUMENT, "-cpu: unknown feature '%s'", tok + 1);
        wish_feature(w, word, mask, *tok == '+');
        return true;
    }

    g_autofree char *name = eq ? g_strndup(tok, (gsize)(eq - tok)) : g_strdup(tok);
    const char *val = eq ? eq + 1 : "on";
    bool known;

    if (!wish_option(w, name, val, &known, error))
        return false;
    if (known)
        return true;
    if (!cpu_feature_find(name, strlen(name), &word, &mask))
        return fail(error, ERR_ARGUMENT, "-cpu: unknown feature or property '%s'", name);
    if (!boolean(val, &on))
        return fail(error, ERR_ARGUMENT, "-cpu: %s=%s: neither on nor off", name, val);
    wish_feature(w, word, mask, on);
    return true;
}

static bool wish_parse(const char *spec, const struct cpuid_limits *lim, struct wish *w,
                       GError **error)
{
    g_auto(GStrv) tok = g_strsplit(spec, ",", -1);
    const struct cpu_model *m;

    if (!tok[0] || !*tok[0])
        return fail(error, ERR_ARGUMENT, "-cpu: no model named");
    if (!strcmp(tok[0], "max") || !strcmp(tok[0], "host")) {
        wish_host(w, lim);
    } else {
        m = cpu_model_find(tok[0]);
        if (!m)
            return fail(error, ERR_NOT_FOUND,
                        "-cpu: unknown model '%s' (\"-cpu help\" lists what there is)", tok[0]);
        g_strlcpy(w->vendor, m->vendor, sizeof w->vendor);
        g_strlcpy(w->brand, m->brand, sizeof w->brand);
        w->family = m->family;
        w->model = m->model;
        w->stepping = m->stepping;
        cpu_model_words(m, w->words);
        memcpy(w->asked, w->words, sizeof w->asked);
        if (lim->hv_kvm)
            w->words[W_KVM_EAX] = lim->can[W_KVM_EAX];
        /* A virtual machine gains from these whatever the model. */
        w->words[W_1_ECX] |= F(21);
        w->words[W_1_ECX] |= F(24) & lim->can[W_1_ECX];
        w->words[W_80000007_EDX] |= F(8) & lim->can[W_80000007_EDX];
        w->words[W_6_EAX] |= F(2);
        w->words[W_7_EBX] |= F(1);
    }
    w->words[W_1_ECX] |= F(HYPERVISOR);
    for (unsigned i = 1; tok[i]; i++)
        if (*tok[i] && !wish_token(w, tok[i], error))
            return false;
    return true;
}

/* Drops what cannot be had; names it when it was asked for. */
static bool wish_mask(struct wish *w, const struct cpuid_limits *lim, GError **error)
{
    g_autoptr(GString) lost = g_string_new(NULL);

    for (unsigned i = 0; i < CPUID_WORDS; i++) {
        u32 can = lim->can[i];

        if (i == W_1_ECX)
            can |= F(HYPERVISOR);
        if (i == W_KVM_EAX && !lim->hv_kvm)
            can = 0;
        u32 gone = w->words[i] & ~can & w->asked[i];
        for (unsigned b = 0; b < 32; b++)
            if (gone & F(b) && cpu_feature_name(i, b))
                g_string_append_printf(lost, "%s%s", lost->len ? ", " : "",
                                       cpu_feature_name(i, b));
        w->words[i] &= can;
    }
    w->words[W_1_ECX] &= ~F(OSXSAVE);
    w->words[W_7_ECX] &= ~F(OSPKE);
    if (!lost->len)
        return true;
    if (w->enforce)
        return fail(error, ERR_UNSUPPORTED, "-cpu: host or accelerator lacks %s", lost->str);
    log_warn("-cpu: host or accelerator lacks %s", lost->str);
    return true;
}

/* XCR0 follows the features; features that live in state which is not there go. */
static u64 xcr0_of(cpuid_words w, u64 can)
{
    u64 x = 3;

    if (!(w[W_1_ECX] & F(26))) {
        w[W_1_ECX] &= ~(F(28) | F(29) | F(12));
        w[W_D_1_EAX] = 0;
        w[W_7_ECX] &= ~F(3);
    } else if (w[W_1_ECX] & F(28) && can & 4) {
        x |= 4;
    }
    if (!(x & 4)) {
        w[W_1_ECX] &= ~(F(28) | F(29) | F(12)); /* avx f16c fma */
        w[W_7_EBX] &= ~(F(5) | F(16));          /* avx2 avx512f */
        w[W_7_ECX] &= ~(F(9) | F(10));          /* vaes vpclmulqdq */
        w[W_7_1_EAX] &= ~(F(4) | F(23));
        w[W_80000001_ECX] &= ~(F(11) | F(16)); /* xop fma4 */
    }
    if (w[W_7_EBX] & F(16) && (can & 0xe0) == 0xe0) {
        x |= 0xe0;
    } else {
        w[W_7_EBX] &= ~(F(16) | F(17) | F(21) | F(26) | F(27) | F(28) | F(30) | F(31));
        w[W_7_ECX] &= ~(F(1) | F(6) | F(11) | F(12) | F(14));
        w[W_7_EDX] &= ~(F(2) | F(3) | F(8) | F(23));
        w[W_7_1_EAX] &= ~F(5);
    }
    if (w[W_7_ECX] & F(3) && can & 0x200)
        x |= 0x200;
    else
        w[W_7_ECX] &= ~F(3);
    w[W_7_EDX] &= ~(F(22) | F(24) | F(25)); /* tiles do not fit our XSAVE image */
    w[W_7_1_EAX] &= ~F(21);
    w[W_7_EBX] &= ~F(14); /* bound registers */
    w[W_D_1_EAX] &= 15;
    return w[W_1_ECX] & F(26) ? x : 1;
}

/* ---- the table ------------------------------------------------------------------------------
 */

static void add(struct cpu_table *t, u32 leaf, s32 sub, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
    if (t->n < CPUID_MAX)
        t->e[t->n++] =
            (struct cpuid_entry){ leaf, sub < 0 ? 0 : (u32)sub, sub >= 0, eax, ebx, ecx, edx };
}

static void add_text(struct cpu_table *t, u32 leaf, u32 eax, const char *text)
{
    u32 r[3] = { 0 };

    memcpy(r, text, strnlen(text, 12));
    if (leaf & 0x40000000) /* a hypervisor's name is in order, a vendor's is not */
        add(t, leaf, -1, eax, r[0], r[1], r[2]);
    else
        add(t, leaf, -1, eax, r[0], r[2], r[1]);
}

struct cache {
    u8 level, type, ways; /* type: 1 data, 2 instruction, 3 unified */
    u32 kib;
    bool package; /* shared by the package, else by the threads of a core */
};
static const struct cache caches[] = {
    { 1, 1, 8, 32, false },
    { 1, 2, 8, 32, false },
    { 2, 3, 8, 512, false },
    { 3, 3, 16, 16384, true },
};

/* Leaf 4 of Intel and 0x8000001d of AMD are alike but for the numbers in EAX. */
static void add_caches(struct cpu_table *t, u32 leaf, bool amd)
{
    u32 tb = bits_for(t->threads), cb = bits_for(t->cores);

    for (u32 i = 0; i < ARRAY_LEN(caches); i++) {
        const struct cache *c = &caches[i];
        u32 sharing = c->package ? t->cores * t->threads : t->threads;
        u32 eax = c->type | c->level << 5 | F(8);

        if (amd)
            eax |= (sharing - 1) << 14;
        else
            eax |= (c->package ? F(cb + tb) - 1 : F(tb) - 1) << 14 | (F(cb) - 1) << 26;
        add(t, leaf, (s32)i, eax, 63 | (u32)(c->ways - 1) << 22,
            c->kib * 1024 / 64 / c->ways - 1, c->package ? 2 : 0);
    }
    add(t, leaf, ARRAY_LEN(caches), 0, 0, 0, 0);
}

static void add_topology(struct cpu_table *t, u32 leaf)
{
    u32 tb = bits_for(t->threads), cb = bits_for(t->cores);

    add(t, leaf, 0, tb, t->threads, 0 | 1 << 8, 0);
    add(t, leaf, 1, tb + cb, t->cores * t->threads, 1 | 2 << 8, 0);
    add(t, leaf, 2, 0, 0, 2, 0);
}

/* Offsets are the host's: its XSAVE writes the image.  On a host without, Intel's. */
static void xsave_part(unsigned i, u32 *ret_size, u32 *ret_at, u32 *ret_flags)
{
    static const struct {
        u8 i;
        u32 size, at;
    } usual[] = {
        { 2, 256, 576 }, { 5, 64, 1088 }, { 6, 512, 1152 }, { 7, 1024, 1664 }, { 9, 8, 2688 }
    };
    u32 r[4];

    cpuid_regs(0xd, i, r);
    *ret_size = r[0];
    *ret_at = r[1];
    *ret_flags = r[2] & 2; /* aligned to 64 bytes in the compacted format */
    for (unsigned k = 0; !r[0] && k < ARRAY_LEN(usual); k++)
        if (usual[k].i == i) {
            *ret_size = usual[k].size;
            *ret_at = usual[k].at;
        }
}

static u32 xsave_bytes(const struct cpu_table *t, u64 xcr0, bool compacted)
{
    u32 end = 576;

    for (u32 k = 0; k < t->n; k++) {
        const struct cpuid_entry *e = &t->e[k];

        if (e->leaf != 0xd || e->subleaf < 2 || !(xcr0 >> e->subleaf & 1))
            continue;
        if (compacted)
            end = (e->ecx & 2 ? ROUND_UP(end, 64u) : end) + e->eax;
        else
            end = MAX(end, e->ebx + e->eax);
    }
    return end;
}

static void add_xsave(struct cpu_table *t)
{
    if (!(t->have[W_1_ECX] & F(26))) {
        add(t, 0xd, 0, 0, 0, 0, 0);
        return;
    }
    u32 first = t->n;
    u64 fits = t->xcr0 & 3;

    add(t, 0xd, 0, 0, 0, 0, 0);
    add(t, 0xd, 1, t->have[W_D_1_EAX], 0, 0, 0);
    for (unsigned i = 2; i < 63; i++) {
        u32 size, at, flags;

        if (!(t->xcr0 >> i & 1))
            continue;
        xsave_part(i, &size, &at, &flags);
        if (!size || at > X86_XSAVE_MAX || size > X86_XSAVE_MAX - at)
            continue;
        add(t, 0xd, (s32)i, size, at, flags, 0);
        fits |= BIT(i);
    }
    t->xcr0 = fits;
    t->xsave_size = xsave_bytes(t, fits, false);
    t->e[first] = (struct cpuid_entry){
        0xd, 0, true, (u32)fits, t->xsave_size, t->xsave_size, (u32)(fits >> 32)
    };
    t->e[first + 1].ebx = xsave_bytes(t, fits, true);
}

/*
 * TSC over crystal (1 GHz, which is what our local APIC counts with) as a fraction whose terms
 * are small: Linux multiplies kHz by the numerator in 32 bits.  Continued fraction, error below
 * 1e-5, and usually far below.
 */
static void tsc_ratio(u64 hz, u32 *ret_num, u32 *ret_den)
{
    u64 a = hz, b = 1000000000, p0 = 0, p1 = 1, q0 = 1, q1 = 0;

    while (b) {
        u64 q = a / b, p = q * p1 + p0, d = q * q1 + q0;

        if (p > 4294 || d > 4294)
            break;
        p0 = p1, q0 = q1, p1 = p, q1 = d;
        u64 rest = a % b;
        a = b;
        b = rest;
    }
    *ret_num = (u32)p1;
    *ret_den = (u32)q1;
}

static void add_basic(struct cpu_table *t, const struct wish *w, bool intel)
{
    u32 logical = t->cores * t->threads, mhz = (u32)(t->tsc_hz / 1000000);
    bool modern = intel && w->family == 6 && w->model >= 60, old = w->family < 6;
    u32 max = old ? 1 : modern ? 0x1f : 0xd;
    u32 num, den;

    add_text(t, 0, max, t->vendor);
    add(t, 1, -1, t->signature, MIN(logical, 255u) << 16 | 8 << 8, t->have[W_1_ECX],
        t->have[W_1_EDX]);
    if (old)
        return;
    /* Descriptor ff: look at leaf 4; the others are TLBs. */
    add(t, 2, -1, intel ? 0x00feff01 : 0, intel ? 0xf0 : 0, 0, 0);
    if (intel)
        add_caches(t, 4, false);
    add(t, 5, -1, 0, 0, 3, 0);
    add(t, 6, -1, t->have[W_6_EAX], 0, 0, 0);
    add(t, 7, 0, t->have[W_7_1_EAX] ? 1 : 0, t->have[W_7_EBX], t->have[W_7_ECX],
        t->have[W_7_EDX]);
    if (t->have[W_7_1_EAX])
        add(t, 7, 1, t->have[W_7_1_EAX], 0, 0, 0);
    add_topology(t, 0xb);
    add_xsave(t);
    if (!modern)
        return;
    tsc_ratio(t->tsc_hz, &num, &den);
    add(t, 0x15, -1, den, num, 1000000000, 0);
    add(t, 0x16, -1, mhz, mhz, 100, 0);
    add_topology(t, 0x1f);
}

static void add_extended(struct cpu_table *t, const struct wish *w,
                         const struct cpuid_limits *lim, bool amd)
{
    u32 per_pkg = t->cores * t->threads;
    u32 brand[12] = { 0 };
    bool topoext = amd && t->have[W_80000001_ECX] & F(22);
    bool srso_no = amd && lim->no_return_overflow;
    u32 max = srso_no ? 0x80000021 : topoext ? 0x8000001e : amd ? 0x8000000a : 0x80000008;

    add_text(t, 0x80000000, max, amd ? t->vendor : "");
    add(t, 0x80000001, -1, amd ? t->signature : 0, 0, t->have[W_80000001_ECX],
        t->have[W_80000001_EDX]);
    memcpy(brand, w->brand, strnlen(w->brand, 48));
    for (u32 i = 0; i < 3; i++)
        add(t, 0x80000002 + i, -1, brand[4 * i], brand[4 * i + 1], brand[4 * i + 2],
            brand[4 * i + 3]);
    if (amd)
        add(t, 0x80000005, -1, 0xff40ff40, 0xff40ff40, 32u << 24 | 8 << 16 | 1 << 8 | 64,
            32u << 24 | 8 << 16 | 1 << 8 | 64);
    add(t, 0x80000006, -1, amd ? 0x64004200 : 0, amd ? 0x66004200 : 0,
        512u << 16 | 6 << 12 | 1 << 8 | 64,
        amd ? (16384u / 512) << 18 | 8 << 12 | 1 << 8 | 64 : 0);
    add(t, 0x80000007, -1, 0, 0, 0, t->have[W_80000007_EDX]);
    add(t, 0x80000008, -1, t->phys_bits | t->virt_bits << 8, t->have[W_80000008_EBX],
        amd ? (per_pkg - 1) | (bits_for(t->cores) + bits_for(t->threads)) << 12 : 0, 0);
    if (amd && t->have[W_80000001_ECX] & F(2))
        add(t, 0x8000000a, -1, 1, 8, 0, 0);
    if (topoext) {
        add_caches(t, 0x8000001d, true);
        add(t, 0x8000001e, -1, 0, (t->threads - 1) << 8, 0, 0);
    }
    if (srso_no)
        add(t, 0x80000021, -1, 1u << 29, 0, 0, 0);
}

static void add_hypervisor(struct cpu_table *t, const struct cpuid_limits *lim, bool hide)
{
    if (!(t->have[W_1_ECX] & F(HYPERVISOR)))
        return;
    bool kvm = lim->hv_kvm && !hide;

    add_text(t, 0x40000000, 0x40000010, kvm ? "KVMKVMKVM" : "PosadaPosada");
    add(t, 0x40000001, -1, kvm ? t->have[W_KVM_EAX] : 0, 0, 0, 0);
    /* TSC and local APIC rate in kHz */
    add(t, 0x40000010, -1, (u32)(t->tsc_hz / 1000), 1000000, 0, 0);
}

bool cpuid_build(const char *spec, const struct cpuid_limits *lim, u32 sockets, u32 cores,
                 u32 threads, struct cpu_table *ret, GError **error)
{
    struct wish w = { 0 };

    if (!sockets || !cores || !threads || sockets > 255 || cores > 255 || threads > 255 ||
        bits_for(sockets) + bits_for(cores) + bits_for(threads) > 16)
        return fail(error, ERR_ARGUMENT, "-smp: %u sockets of %u cores of %u threads: too many",
                    sockets, cores, threads);
    if (!wish_parse(spec, lim, &w, error) || !wish_mask(&w, lim, error))
        return false;

    bool amd = !strcmp(w.vendor, "AuthenticAMD") || !strcmp(w.vendor, "HygonGenuine");
    bool intel = !strcmp(w.vendor, "GenuineIntel");
    struct cpu_table t = {
        .sockets = sockets, .cores = cores, .threads = threads, .tsc_hz = cpuid_host_tsc_hz()
    };

    memcpy(t.vendor, w.vendor, sizeof t.vendor);
    t.signature = signature_join(&w);
    t.xcr0 = xcr0_of(w.words, lim->xcr0);
    if (cores * threads > 1)
        w.words[W_1_EDX] |= F(28); /* ht: the count in leaf 1 means something */
    else
        w.words[W_1_EDX] &= ~F(28);
    w.words[W_80000001_ECX] &= ~F(1);
    if (amd && cores > 1)
        w.words[W_80000001_ECX] |= F(1);
    w.words[W_80000001_EDX] &= ~(u32)AMD_SAME | F(11);
    w.words[W_80000001_EDX] &= ~F(11) | (lim->can[W_80000001_EDX] & F(11));
    if (amd)
        w.words[W_80000001_EDX] |= w.words[W_1_EDX] & AMD_SAME & ~(u32)F(11);
    memcpy(t.have, w.words, sizeof t.have);

    bool lm = t.have[W_80000001_EDX] & F(29);
    u32 phys = w.phys_bits ? w.phys_bits : MIN(40u, lim->phys_bits);
    t.phys_bits = MIN(lm ? phys : MIN(phys, 36u), lim->phys_bits ? lim->phys_bits : 52);
    t.virt_bits = lm ? 48 : 32;
    if (t.have[W_7_ECX] & F(16) && lm)
        t.virt_bits = 57;
    t.xsave_size = 576;
    add_basic(&t, &w, intel);
    add_extended(&t, &w, lim, amd);
    add_hypervisor(&t, lim, w.hide);
    *ret = t;
    return true;
}

/* ---- answers --------------------------------------------------------------------------------
 */

static const struct cpuid_entry *find(const struct cpu_table *t, u32 leaf, u32 sub)
{
    for (u32 i = 0; i < t->n; i++)
        if (t->e[i].leaf == leaf && (!t->e[i].has_subleaf || t->e[i].subleaf == sub))
            return &t->e[i];
    return NULL;
}

void cpuid_query(const struct cpu_table *t, u32 leaf, u32 sub, u32 apic_id, u64 cr4, u64 xcr0,
                 u32 ret[4])
{
    const struct cpuid_entry *e;
    u32 base = leaf & 0xf0000000, tb = bits_for(t->threads), cb = bits_for(t->cores);

    ret[0] = ret[1] = ret[2] = ret[3] = 0;
    if (base == 0x40000000 && !(t->have[W_1_ECX] & F(HYPERVISOR)))
        base = 1; /* nothing there: like any leaf beyond the last */
    e = base == 0 || base == 0x40000000 || base == 0x80000000 ? find(t, base, 0) : NULL;
    if (!e || leaf > e->eax) {
        /* Intel answers with its highest basic leaf; zeroes are safer and what AMD does. */
        return;
    }
    e = find(t, leaf, sub);
    if (!e) {
        /* Levels beyond the last still tell the x2APIC id and echo the level. */
        if (leaf == 0xb || leaf == 0x1f) {
            ret[2] = sub & 0xff;
            ret[3] = apic_id;
        }
        return;
    }
    ret[0] = e->eax;
    ret[1] = e->ebx;
    ret[2] = e->ecx;
    ret[3] = e->edx;
    switch (leaf) {
    case 1:
        ret[1] |= MIN(apic_id, 255u) << 24;
        if (cr4 & CR4_OSXSAVE)
            ret[2] |= F(OSXSAVE);
        break;
    case 7:
        if (sub == 0 && cr4 & CR4_PKE)
            ret[2] |= F(OSPKE);
        break;
    case 0xb:
    case 0x1f:
        ret[3] = apic_id;
        break;
    case 0xd:
        if (sub == 0 && t->have[W_1_ECX] & F(26))
            ret[1] = xsave_bytes(t, xcr0, false);
        if (sub == 1 && t->have[W_D_1_EAX] & (F(1) | F(3)))
            ret[1] = xsave_bytes(t, xcr0, true);
        break;
    case 0x8000001e:
        ret[0] = apic_id;
        ret[1] |= (apic_id >> tb) & (F(cb) - 1) & 0xff;
        ret[2] = (apic_id >> (tb + cb)) & 0xff;
        break;
    default:
        break;
    }
}

bool cpuid_has(const struct cpu_table *t, enum cpuid_word w, u32 bit)
{
    return w < CPUID_WORDS && bit < 32 && t->have[w] & F(bit);
}

bool cpuid_has_name(const struct cpu_table *t, const char *feature)
{
    enum cpuid_word w;
    u32 mask;

    return cpu_feature_find(feature, strlen(feature), &w, &mask) && (t->have[w] & mask) == mask;
}
