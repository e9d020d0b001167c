// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * direct_code.c - which code of the guest may run as it is.
 *
 * Some instructions that do not fault give user code another answer on the host than in the
 * guest: CPUID, where the host does not let it fault; RDTSCP and RDPID (the processor's
 * number); LSL (the host's descriptors); XSAVE and XSAVEC (the host's set of states, which the
 * guest's XRSTOR refuses).  SYSENTER would
 * leave the host's kernel not knowing where it came from.  So the bytes of a page are looked
 * through before it is mapped executable.  (SGDT, SIDT, SLDT, STR and SMSW are the host's
 * affair: UMIP.  A page that is writable and executable at once is looked at only when it is
 * mapped.)
 *
 * Bytes that look like one of them are mostly a part of something else.  Decoding from 41
 * places before says what they are: x86 code falls into step within a few instructions, so if
 * all of them pass through the middle, it is not an instruction.  If it is one, it may have
 * been seen in execution: then the stub gets a copy of the page in which it is an UD2, and the
 * interpreter does it when that traps.  The same goes for others close by.  Anything else makes
 * the page one that is never executed in a stub: no byte is changed that might be data.
 */
#include "vmm/cpu/soft/direct_code.h"

#include <Zydis/Zydis.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/cpu/soft/direct.h"

enum {
    SLOTS = 1024,     /* patched pages ever made */
    FOUND_MAX = 64,   /* in one page */
    SITES_MAX = 8192, /* seen in execution */
    NEAR = 1024,      /* bytes around one that was seen */
    BACK_MIN = 24,
    BACK_MAX = 64,
};

struct verdict {
    u32 gen;       /* writes to the page, when it was judged */
    u32 confirmed; /* what was known then */
    u32 slot;
    u8 verdict;
};

struct book {
    struct direct_code pub;
    pthread_mutex_t lock;
    int fd;
    u8 *copies;
    u32 n_slots, n_confirmed;
    GHashTable *sites; /* page index << 12 | offset of the 0F */
    u64 n_pages;
    GHashTable *verdicts; /* page index -> struct verdict; pages with something to find only */
};

static struct book *book_of(const struct direct_code *c)
{
    return container_of(c, struct book, pub);
}

static void free_book(struct book *c)
{
    if (c->copies != MAP_FAILED)
        munmap(c->copies, SLOTS * 4096);
    if (c->pub.judged != MAP_FAILED)
        munmap(c->pub.judged, MAX(c->n_pages, 1));
    if (c->fd >= 0)
        close(c->fd);
    g_hash_table_destroy(c->sites);
    g_hash_table_destroy(c->verdicts);
    pthread_mutex_destroy(&c->lock);
    g_free(c);
}

struct direct_code *direct_code_new(u64 n_pages)
{
    struct book *c = g_new0(struct book, 1);

    pthread_mutex_init(&c->lock, NULL);
    c->copies = MAP_FAILED;
    c->fd = memfd_create("posada patched code", MFD_CLOEXEC);
    if (c->fd >= 0 && ftruncate(c->fd, SLOTS * 4096) == 0)
        c->copies = mmap(NULL, SLOTS * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    c->n_pages = n_pages;
    c->pub.judged = mmap(NULL, MAX(n_pages, 1), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    c->sites = g_hash_table_new(g_direct_hash, g_direct_equal);
    c->verdicts = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    if (c->copies == MAP_FAILED || c->pub.judged == MAP_FAILED)
        g_clear_pointer(&c, free_book);
    return c ? &c->pub : NULL;
}

void direct_code_free(struct direct_code *c)
{
    if (c)
        free_book(book_of(c));
}

int direct_code_fd(const struct direct_code *c)
{
    return book_of(c)->fd;
}

/* p[0] is 0F, n bytes can be read from there; before: the byte before it. */
static bool looks_like(const u8 *p, size_t n, u8 before)
{
    if (n < 2)
        return false;
    switch (p[1]) {
    case 0xa2: /* CPUID */
    case 0x34: /* SYSENTER */
        return true;
    case 0x01: /* RDTSCP */
        return n > 2 && p[2] == 0xf9;
    case 0x03: /* LSL r, r */
        return n > 2 && p[2] >= 0xc0;
    case 0xc7: /* RDPID, XSAVEC */
        return n > 2 &&
               ((p[2] >= 0xf8 && before == 0xf3) || (p[2] < 0xc0 && (p[2] >> 3 & 7) == 4));
    case 0xae: /* XSAVE */
        return n > 2 && p[2] < 0xc0 && (p[2] >> 3 & 7) == 4;
    }
    return false;
}

/* One that lies in two pages: `tail` and `head` are neighbours. */
static bool across(const u8 *tail, const u8 *head)
{
    u8 b[8];

    memcpy(b, tail + 4096 - 4, 4);
    memcpy(b + 4, head, 4);
    for (unsigned k = 1; k < 4; k++)
        if (b[k] == 0x0f && looks_like(b + k, 8 - k, b[k - 1]) &&
            !looks_like(b + k, 4 - k, b[k - 1]))
            return true;
    return b[3] == 0xf3 && b[4] == 0x0f && b[5] == 0xc7 && b[6] >= 0xf8;
}

enum place { INSIDE, BEGINS, UNSURE };

static enum place place_of(const u8 *page, u32 at)
{
    ZydisDecoder decoder;
    unsigned hit = 0, through = 0;

    /* An REX or other prefix before it belongs to the instruction. */
    if (at < BACK_MAX)
        return UNSURE;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (u32 from = at - BACK_MAX; from <= at - BACK_MIN; from++) {
        u32 pos = from;

        while (pos < at) {
            ZydisDecodedInstruction i;

            if (ZYAN_FAILED(
                    ZydisDecoderDecodeInstruction(&decoder, NULL, page + pos, 4096 - pos, &i)))
                break;
            if (pos + i.length > at) {
                if (pos + i.raw.prefix_count == at)
                    hit++;
                else
                    through++;
                pos = at + 1;
                break;
            }
            pos += i.length;
        }
        if (pos == at)
            hit++;
    }
    if (hit + through < (BACK_MAX - BACK_MIN) / 2)
        return UNSURE;
    return !hit ? INSIDE : !through ? BEGINS : UNSURE;
}

static bool confirmed(const struct book *c, u64 index, u32 at)
{
    return g_hash_table_contains(c->sites, (void *)(uintptr_t)(index << 12 | at));
}

static enum direct_verdict judge(struct book *c, u64 index, const u8 *page, const u32 *found,
                                 u32 n, u32 *ret_slot)
{
    u32 patch[FOUND_MAX], n_patch = 0;

    for (u32 k = 0; k < n; k++) {
        enum place p = place_of(page, found[k]);
        bool near = confirmed(c, index, found[k]);

        if (p == INSIDE && !near)
            continue;
        for (u32 o = 0; o < n && !near && p == BEGINS; o++)
            near = confirmed(c, index, found[o]) && found[o] - found[k] + NEAR < 2 * NEAR;
        if (!near)
            return CODE_EXCLUDED;
        patch[n_patch++] = found[k];
    }
    if (!n_patch)
        return CODE_CLEAN;
    if (c->n_slots == SLOTS)
        return CODE_EXCLUDED;
    *ret_slot = c->n_slots++;
    u8 *copy = c->copies + (size_t)*ret_slot * 4096;
    memcpy(copy, page, 4096);
    for (u32 k = 0; k < n_patch; k++)
        copy[patch[k] + 1] = 0x0b; /* 0F 0B: UD2 */
    return CODE_PATCHED;
}

enum direct_verdict direct_code_judge(struct soft_vcpu *v, u64 index, _Atomic u8 *flags,
                                      const u8 *host, const u8 *prev, const u8 *next,
                                      u32 *ret_slot)
{
    struct book *c = book_of(v->sv->direct_code);
    const u8 *end = host + 4096;
    u32 found[FOUND_MAX], n = 0, gen;
    struct verdict *d;

    if ((prev && across(prev, host)) || (next && across(host, next)))
        return CODE_EXCLUDED;
    for (const u8 *p = host; (p = memchr(p, 0x0f, (size_t)(end - p))); p++) {
        if (!looks_like(p, (size_t)(end - p), p > host ? p[-1] : 0))
            continue;
        if (n == FOUND_MAX)
            return CODE_EXCLUDED;
        found[n++] = (u32)(p - host);
    }
    if (!n)
        return CODE_CLEAN;

    /* From here on writes to it are told. */
    mmu_protect_code(v, index, flags);
    gen = atomic_load(&v->sv->page_gen[index]);
    pthread_mutex_lock(&c->lock);
    d = g_hash_table_lookup(c->verdicts, (void *)(uintptr_t)index);
    if (!d || d->gen != gen ||
        (d->confirmed != c->n_confirmed && d->verdict == CODE_EXCLUDED)) {
        struct verdict *w = g_new0(struct verdict, 1);

        w->gen = gen;
        w->confirmed = c->n_confirmed;
        w->verdict = (u8)judge(c, index, host, found, n, &w->slot);
        atomic_store(&c->pub.judged[index], 1);
        g_hash_table_replace(c->verdicts, (void *)(uintptr_t)index, d = w);
    }
    *ret_slot = d->slot;
    enum direct_verdict r = d->verdict;
    pthread_mutex_unlock(&c->lock);
    return r;
}

void direct_code_confirm(struct direct_code *code, u64 index, u32 at, const u8 *bytes,
                         unsigned len)
{
    struct book *c = book_of(code);
    const u8 *p = memchr(bytes, 0x0f, len);

    if (!p)
        return;
    at += (u32)(p - bytes);
    pthread_mutex_lock(&c->lock);
    if (at < 4095 && g_hash_table_size(c->sites) < SITES_MAX &&
        g_hash_table_add(c->sites, (void *)(uintptr_t)(index << 12 | at)))
        c->n_confirmed++;
    pthread_mutex_unlock(&c->lock);
}

void direct_code_written(struct soft_vm *sv, u64 index)
{
    struct book *c = book_of(sv->direct_code);
    bool was;

    pthread_mutex_lock(&c->lock);
    atomic_store(&c->pub.judged[index], 0);
    was = g_hash_table_remove(c->verdicts, (void *)(uintptr_t)index);
    pthread_mutex_unlock(&c->lock);
    for (u32 k = 0; was && k < sv->vm->n_vcpus; k++) {
        struct soft_vcpu *o = sv->vm->vcpus[k] ? sv->vm->vcpus[k]->impl : NULL;

        if (!o)
            continue;
        atomic_store(&o->direct_again, true);
        atomic_store(&o->poll, 1);
        direct_kick(o);
    }
}
