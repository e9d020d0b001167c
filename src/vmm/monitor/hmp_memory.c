// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hmp_memory.c - "x", "xp" and "print": expressions, and guest memory as numbers.
 *
 *   x/NFS EXPR    N items; F one of x d u o c; S one of b h w g (1, 2, 4, 8 bytes)
 *   EXPR          C's integers, $register, unary - ~, * / %, + -, << >>, &, ^, |, parentheses
 *
 * Virtual addresses are those of CPU 0 now; its page tables (SDM volume 3, chapter 4: 32-bit,
 * PAE, 4 and 5 levels) are walked here, without rights.  Instructions ("x/i") are not shown.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/core/ram.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/state.h"
#include "vmm/monitor/monitor_impl.h"

enum { ITEMS_MAX = 65536, DEPTH_MAX = 64 };

/* ---- expressions ---- */

struct expr {
    struct vm *vm;
    struct x86_state *state; /* fetched when the first register is named */
    const char *at, *error;
    u32 depth;
};

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                           "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                           "r12", "r13", "r14", "r15" };
static const char *const seg_names[X86_SEGS] = { "es", "cs", "ss", "ds", "fs", "gs" };

/* Of CPU 0; NULL when that cannot be had. Free with free(). */
static struct x86_state *fetch_state(struct vm *vm)
{
    struct x86_state *s = aligned_alloc(64, ROUND_UP(sizeof *s, 64ul));
    bool ok = false;

    if (s && vm->n_vcpus) {
        vm_freeze(vm);
        ok = cpu_get_state(vm->vcpus[0], s, NULL);
        vm_thaw(vm);
    }
    if (ok)
        return s;
    free(s);
    return NULL;
}

static u64 expr_register(struct expr *e)
{
    size_t n = 0;

    while (isalnum((unsigned char)e->at[n]))
        n++;
    g_autofree char *name = g_ascii_strdown(e->at, (gssize)n);
    e->at += n;
    if (!e->state)
        e->state = fetch_state(e->vm);
    const struct x86_state *s = e->state;
    if (!s) {
        e->error = "no registers to be had";
        return 0;
    }
    for (u32 i = 0; i < 16; i++) {
        if (strcmp(name, gpr_names[i]) == 0)
            return s->gpr[i];
        if (i < 8 && name[0] == 'e' && strcmp(name + 1, gpr_names[i] + 1) == 0)
            return (u32)s->gpr[i];
    }
    for (u32 i = 0; i < X86_SEGS; i++)
        if (strcmp(name, seg_names[i]) == 0)
            return s->seg[i].sel;
    if (strcmp(name, "rip") == 0 || strcmp(name, "eip") == 0 || strcmp(name, "pc") == 0)
        return s->rip;
    if (strcmp(name, "eflags") == 0 || strcmp(name, "rflags") == 0)
        return s->rflags;
    if (strcmp(name, "cr0") == 0)
        return s->cr0;
    if (strcmp(name, "cr2") == 0)
        return s->cr2;
    if (strcmp(name, "cr3") == 0)
        return s->cr3;
    if (strcmp(name, "cr4") == 0)
        return s->cr4;
    e->error = "unknown register";
    return 0;
}

static void skip_space(struct expr *e)
{
    while (*e->at == ' ')
        e->at++;
}

static u64 expr_binary(struct expr *e, u32 level);

static u64 expr_unary(struct expr *e)
{
    char *end;
    u64 v = 0;

    skip_space(e);
    if (e->error || ++e->depth > DEPTH_MAX) {
        e->error = e->error ? e->error : "expression nested too deep";
        return 0;
    }
    switch (*e->at) {
    case '(':
        e->at++;
        v = expr_binary(e, 0);
        skip_space(e);
        if (*e->at == ')')
            e->at++;
        else if (!e->error)
            e->error = "')' expected";
        break;
    case '-':
        e->at++;
        v = -expr_unary(e);
        break;
    case '~':
        e->at++;
        v = ~expr_unary(e);
        break;
    case '$':
        e->at++;
        v = expr_register(e);
        break;
    default:
        if (!isdigit((unsigned char)*e->at)) {
            e->error = "number expected"; /* no error yet: checked above */
            break;
        }
        v = strtoull(e->at, &end, 0);
        e->at = end;
    }
    e->depth--;
    return v;
}

/* Loosest first. */
static const struct {
    const char *text;
    u32 level;
} operators[] = {
    { "|", 0 }, { "^", 1 }, { "&", 2 }, { "<<", 3 }, { ">>", 3 },
    { "+", 4 }, { "-", 4 }, { "*", 5 }, { "/", 5 },  { "%", 5 },
};

static u64 apply(struct expr *e, char op, u64 a, u64 b)
{
    switch (op) {
    case '|':
        return a | b;
    case '^':
        return a ^ b;
    case '&':
        return a & b;
    case '<':
        return b < 64 ? a << b : 0;
    case '>':
        return b < 64 ? a >> b : 0;
    case '+':
        return a + b;
    case '-':
        return a - b;
    case '*':
        return a * b;
    }
    if (!b) {
        e->error = "division by zero";
        return 0;
    }
    return op == '/' ? a / b : a % b;
}

static u64 expr_binary(struct expr *e, u32 level)
{
    if (level > 5)
        return expr_unary(e);
    u64 v = expr_binary(e, level + 1);
    for (;;) {
        u32 i;

        skip_space(e);
        for (i = 0; i < ARRAY_LEN(operators); i++)
            if (operators[i].level == level && g_str_has_prefix(e->at, operators[i].text))
                break;
        if (e->error || i == ARRAY_LEN(operators))
            return v;
        e->at += strlen(operators[i].text);
        v = apply(e, *operators[i].text, v, expr_binary(e, level + 1));
    }
}

static bool expr_value(struct vm *vm, const char *text, u64 *ret, GString *to)
{
    struct expr e = { .vm = vm, .at = text };
    u64 v = expr_binary(&e, 0);

    skip_space(&e);
    if (!e.error && *e.at)
        e.error = "end of expression expected";
    free(e.state);
    if (e.error)
        g_string_append_printf(to, "%s at '%s'\n", e.error, e.at);
    else
        *ret = v;
    return !e.error;
}

/* ---- virtual to physical ---- */

static bool entry_get(struct vm *vm, u64 at, u32 size, u64 *ret)
{
    le64 wide = { 0 };
    le32 narrow;
    bool ok = size == 8 ? ram_get(vm->ram, at, &wide, 8) : ram_get(vm->ram, at, &narrow, 4);

    if (ok)
        *ret = size == 8 ? le64_get(wide) : le32_get(narrow);
    return ok && (*ret & 1);
}

static bool to_physical(struct vm *vm, const struct x86_state *s, u64 va, gpa *ret)
{
    const u64 frame = 0x000ffffffffff000;
    bool pae = s->cr4 & CR4_PAE, lng = s->msr.efer & EFER_LMA;
    u64 table = s->cr3 & (lng ? frame : pae ? 0xffffffe0 : 0xfffff000), entry = 0;

    if (!(s->cr0 & CR0_PG)) {
        *ret = va & 0xffffffff;
        return true;
    }
    if (!lng)
        va &= 0xffffffff;
    if (!pae) {
        if (!entry_get(vm, table + (va >> 22) * 4, 4, &entry))
            return false;
        if ((entry & 0x80) && (s->cr4 & CR4_PSE)) {
            *ret = (entry & 0xffc00000) | (entry & 0x1fe000) << 19 | (va & 0x3fffff);
            return true;
        }
        if (!entry_get(vm, (entry & 0xfffff000) + (va >> 12 & 0x3ff) * 4, 4, &entry))
            return false;
        *ret = (entry & 0xfffff000) | (va & 0xfff);
        return true;
    }
    u32 shift = !lng ? 30 : s->cr4 & CR4_LA57 ? 48 : 39;
    for (;; shift -= 9) {
        u64 index = va >> shift & (!lng && shift == 30 ? 3 : 0x1ff);

        if (!entry_get(vm, table + index * 8, 8, &entry))
            return false;
        if (shift == 12 || ((entry & 0x80) && shift <= 30 && (lng || shift == 21)))
            break;
        table = entry & frame;
    }
    u64 page = BIT(shift) - 1;
    *ret = (entry & frame & ~page) | (va & page);
    return true;
}

static bool read_virtual(struct vm *vm, const struct x86_state *s, u64 va, u8 *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        size_t piece = MIN(n - done, 4096 - (va + done) % 4096);
        gpa at;

        if (!to_physical(vm, s, va + done, &at) || !ram_get(vm->ram, at, to + done, piece))
            return false;
        done += piece;
    }
    return true;
}

/* ---- commands ---- */

struct format {
    u32 n, size;
    char as;
};

/* "/NFS " before the expression; false: said so. */
static bool read_format(const char **args, struct format *f, GString *to)
{
    const char *p = *args;

    *f = (struct format){ 1, 4, 'x' };
    if (*p != '/')
        return true;
    p++;
    if (isdigit((unsigned char)*p)) {
        char *end;
        unsigned long n = strtoul(p, &end, 10);
        f->n = (u32)MIN(n, ITEMS_MAX + 1ul);
        p = end;
    }
    for (; *p && *p != ' '; p++) {
        const char *size = strchr("bhwg", *p);

        if (size)
            f->size = 1u << (size - "bhwg");
        else if (strchr("xduoc", *p))
            f->as = *p;
        else
            break;
    }
    if ((*p && *p != ' ') || f->n > ITEMS_MAX) {
        g_string_append_printf(
            to, "format: /N (at most %u), one of x d u o c, one of b h w g\n", ITEMS_MAX);
        return false;
    }
    while (*p == ' ')
        p++;
    *args = p;
    return true;
}

static void put_value(u64 v, const struct format *f, GString *to)
{
    u32 unused = 64 - f->size * 8;
    s64 sign = (s64)(v << unused) >> unused;

    switch (f->as) {
    case 'd':
        g_string_append_printf(to, " %" PRId64, sign);
        break;
    case 'u':
        g_string_append_printf(to, " %" PRIu64, v);
        break;
    case 'o':
        g_string_append_printf(to, " 0%" PRIo64, v);
        break;
    case 'c':
        g_string_append_printf(to, v >= 0x20 && v < 0x7f ? " '%c'" : " '\\x%02x'",
                               (int)(v & 0xff));
        break;
    default:
        g_string_append_printf(to, " 0x%0*" PRIx64, (int)f->size * 2, v);
    }
}

void hmp_memory(struct vm *vm, const char *args, bool physical, GString *to)
{
    struct format f;
    u64 at;

    if (!read_format(&args, &f, to) || !expr_value(vm, args, &at, to))
        return;
    struct x86_state *s = physical ? NULL : fetch_state(vm);
    if (!physical && !s) {
        g_string_append(to, "no registers to be had\n");
        return;
    }
    u32 per_line = f.as == 'c' ? 8 : 16 / f.size;
    for (u32 i = 0; i < f.n; i++, at += f.size) {
        le64 v = { 0 };
        bool ok = physical ? ram_get(vm->ram, at, &v, f.size)
                           : read_virtual(vm, s, at, (u8 *)&v, f.size);

        if (i % per_line == 0)
            g_string_append_printf(to, "%s%016" PRIx64 ":", i ? "\n" : "", at);
        if (!ok) {
            g_string_append(to, physical ? " not RAM" : " cannot access memory");
            break;
        }
        put_value(le64_get(v), &f, to);
    }
    g_string_append_c(to, '\n');
    free(s);
}

void hmp_print(struct vm *vm, const char *args, GString *to)
{
    struct format f;
    u64 v;

    if (!read_format(&args, &f, to) || !expr_value(vm, args, &v, to))
        return;
    if (f.as == 'x') {
        g_string_append_printf(to, "0x%" PRIx64 "\n", v);
        return;
    }
    f.size = 8;
    put_value(v, &f, to);
    g_string_append_c(to, '\n');
}
