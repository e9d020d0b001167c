// SPDX-License-Identifier: GPL-2.0-or-later
/* trans.c - translates a block (trans.h). */
#include "vmm/cpu/soft/trans.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

/* For a block that trades registers: the way to a fill thunk and back. */
static u8 *emit_fill_traded(struct trans *t, u32 thunk)
{
    struct emit *e = &t->e;
    u8 *entry = e->p;

    e_store(e, OFF(scratch[8]), S1);
    e_store(e, OFF(scratch[9]), S3);
    e_store(e, OFF(scratch[10]), S2);
    trans_emit_trade_back(t, 0xff);
    u8 *lea = e_lea_rip(e, C1);
    e_store(e, OFF(scratch[6]), C1);
    e_load(e, C1, OFF(scratch[8]));
    e_load(e, C2, OFF(scratch[9]));
    e_load(e, C3, OFF(scratch[10]));
    e_jmp(e, t->cc->rx + thunk);
    e_here(e, lea);
    e_store(e, OFF(scratch[8]), C1);
    e_store(e, OFF(scratch[9]), C2);
    trans_emit_trade(t);
    e_load(e, S1, OFF(scratch[8]));
    e_load(e, S2, OFF(scratch[9]));
    e_bytes(e, (const u8[]){ 0x65, 0xff, 0x24, 0x25 }, 4); /* jmp gs:[scratch[5]] */
    e32(e, OFF(scratch[5]));
    return entry;
}

static void emit_stubs(struct trans *t)
{
    struct emit *e = &t->e;
    bool traded = t->in_mem != CODE_IN_MEMORY;

    for (u32 k = 0; k < t->n_exits; k++) {
        struct exit_stub *x = &t->exits[k];
        e_here(e, x->jcc);
        if (x->save)
            trans_emit_flags_save(t);
        trans_emit_direct(t, x->target);
    }
    for (u32 k = 0; k < t->n_interps; k++) {
        e_here(e, t->interps[k].jcc);
        trans_emit_trade_back(t, 0xff);
        trans_emit_exit(t, CODE_EXIT_INTERP, t->off[t->interps[k].k]);
    }
    trans_emit_far_stubs(t);
    if (!t->n_slow)
        return;

    const u8 *fill[2] = { t->cc->rx + t->cc->fill, t->cc->rx + t->cc->fill_stack };
    bool have[2] = { !traded, !traded };

    for (u32 k = 0; k < t->n_slow; k++) {
        struct slow *s = &t->slow[k];

        if (!have[s->stack]) {
            have[s->stack] = true;
            fill[s->stack] = e->delta + emit_fill_traded(t, s->stack ? t->cc->fill_stack_traded
                                                                     : t->cc->fill_traded);
        }
        e_here(e, s->jcc);
        if (s->stack) {
            e_mov(e, S1, S3);
            e_gs(e, 0x03, S1, OFF(stack_tag), true);
        }
        /* R9 = address, R10 = how, R11 = back; when traded S1, S3, S2 */
        e_mov_imm32(e, traded ? S3 : C2, s->size | (s->write ? 0x10000 : 0));
        u8 *at = e_lea_rip(e, traded ? S2 : C3);
        u32 rel = (u32)(s->back - (at + 4));
        if (!e->full)
            for (int b = 0; b < 4; b++)
                at[b] = (u8)(rel >> (8 * b));
        e_jmp(e, fill[s->stack]);
    }
}

/* Will the instruction at `at` be translated in the same block? For STI's shadow. */
static bool followed(struct trans *t, s32 at)
{
    const struct trans_decoded *d;

    if (t->n + 2 > CODE_BLOCK_MAX_INSNS || at >= 4096)
        return false;
    d = trans_decode(t, at);
    return d && d->kind != K_NONE;
}

/* The instruction at `at` for the block; with t->next as its tail if it is the first. Returns
 * as insn_decode(). */
static int take(struct trans *t, s32 at, const struct code_source *src, struct insn *i,
                enum kind *ret_kind)
{
    const struct trans_decoded *d = trans_decode(t, at);
    u8 buf[15];
    u32 here = (u32)MIN(15, 4096 - at);
    int r;

    *ret_kind = K_NONE;
    if (d) {
        *i = d->i;
        *ret_kind = d->kind;
        return 0;
    }
    r = insn_decode(t->page + at, here, t->mode & CODE_MODE, i);
    if (r != -EAGAIN || t->n || !src->next)
        return r;
    memcpy(buf, t->page + at, here);
    memcpy(buf + here, src->next, sizeof buf - here);
    r = insn_decode(buf, sizeof buf, t->mode & CODE_MODE, i);
    if (r == 0) {
        t->next = src->next;
        *ret_kind = trans_classify(t->sv, i, t->mode);
    }
    return r;
}

struct block *trans_block(struct soft_vcpu *v, const struct code_source *src, u16 off, u16 mode,
                          bool *ret_full)
{
    struct soft_vm *sv = v->sv;
    struct code_cache *cc = sv->code;
    struct trans *t = cc->trans;
    s32 at = off;
    bool ends = false, interp = false;

    *ret_full = false;
    memset(t, 0, offsetof(struct trans, i));
    t->sv = sv;
    t->cc = cc;
    t->page = src->page;
    t->mode = mode;
    t->is64 = (mode & CODE_MODE) == MODE_64;
    t->cp = cc->pages[src->index];
    t->gen = atomic_load(&sv->page_gen[src->index]);
    while (t->n < CODE_BLOCK_MAX_INSNS && !ends && at < 4096) {
        struct insn *i = &t->i[t->n];
        enum kind kind;
        int r = take(t, at, src, i, &kind);

        if (r == -EAGAIN && t->n) /* it reaches into the next page: a block of its own */
            break;
        if (r == -EAGAIN)
            return NULL;
        if (kind == K_STI && !followed(t, at + i->len))
            kind = K_NONE;
        if (kind == K_NONE) {
            interp = true;
            break;
        }
        t->kinds[t->n] = kind;
        t->off[t->n++] = (u16)at;
        trans_mark_bytes(t->cp, (u32)at, i->len);
        at += i->len;
        ends = kind >= K_JMP;
    }
    if (interp)
        trans_mark_bytes(t->cp, (u32)at, 15);
    if (t->next) /* the last bytes of at most 15 */
        trans_mark_bytes(cc->pages[src->next_index], 0, 14);
    t->off[t->n] = (u16)at;

    trans_plan_flags(t, ends, interp);
    trans_plan_groups(t);
    trans_plan_registers(t);
    u32 start = ROUND_UP(cc->pos, 16u);
    t->e = (struct emit){ .p = cc->rw + start,
                          .end = cc->rw + cc->limit - 64,
                          .delta = cc->rx - cc->rw };
    t->entry = t->e.p;
    if (start + 32 > cc->limit - 64) {
        *ret_full = true;
        return NULL;
    }
    /* cmp byte gs:[poll], 0; jne poll_exit */
    e_bytes(&t->e, (const u8[]){ 0x65, 0x80, 0x3c, 0x25 }, 4);
    e32(&t->e, OFF(poll));
    e8(&t->e, 0);
    u8 *poll = e_jcc(&t->e, 5, t->e.p + t->e.delta);
    trans_emit_trade(t);
    t->body = t->e.p;
    t->held = -1;
    t->in_cc = true;
    if (t->next && t->n)
        trans_emit_next_guard(t);
    for (u32 k = 0; k < t->n; k++)
        trans_emit_insn(t, k);
    if (!ends) {
        trans_flags_leave(t, interp ? FL_STATUS : t->live[t->n]);
        if (interp) {
            trans_emit_trade_back(t, 0xff);
            trans_emit_exit(t, CODE_EXIT_INTERP, at);
        } else
            trans_emit_direct(t, at);
    }
    emit_stubs(t);
    e_here(&t->e, poll);
    u32 poll_exit = (u32)(t->e.p - cc->rw);
    trans_emit_exit(t, CODE_EXIT_POLL, off);
    u32 fault = cc->fault;
    if (t->in_mem != CODE_IN_MEMORY) {
        fault = (u32)(t->e.p - cc->rw);
        trans_emit_trade_back(t, 0xff);
        e_jmp(&t->e, cc->rx + cc->fault);
    }
    trans_emit_far_slots(t);
    if (t->e.full) {
        *ret_full = true;
        return NULL;
    }

    struct block *b = g_malloc0(sizeof *b + t->n * sizeof *t->sites);
    b->page = src->page;
    b->page_index = (u32)src->index;
    b->crosses = t->next;
    b->off = off;
    b->mode = mode;
    b->code = start;
    b->code_len = (u32)(t->e.p - cc->rw) - start;
    b->poll_exit = poll_exit;
    b->fault = fault;
    b->loops = t->loops;
    b->n_sites = (u16)t->n;
    memcpy(b->sites, t->sites, t->n * sizeof *t->sites);
    for (u32 k = 0; k < t->n_links; k++) {
        if (cc->n_links == cc->cap_links) {
            cc->cap_links = cc->cap_links ? cc->cap_links * 2 : 4096;
            cc->links = g_renew(struct link, cc->links, cc->cap_links);
        }
        cc->links[cc->n_links++] = (struct link){ .at = t->links[k].at,
                                                  .stub = t->links[k].stub,
                                                  .slot = t->links[k].slot,
                                                  .target = t->links[k].target,
                                                  .from = cc->n_blocks };
    }
    cc->pos = start + b->code_len;
    cc->n_translated++;
    cc->n_insns += t->n;
    return b;
}

struct trans *trans_new(void)
{
    struct trans *t = g_new0(struct trans, 1);

    t->decoded = g_new0(struct trans_decoded, TRANS_DECODED);
    return t;
}

void trans_free(struct trans *t)
{
    if (t)
        g_free(t->decoded);
    g_free(t);
}

u32 trans_single(struct soft_vm *sv, const struct insn *i, u8 *rw, u8 *end, const u8 *rx)
{
    g_autofree struct trans *t = g_new0(struct trans, 1);

    t->sv = sv;
    t->cc = sv->code;
    t->is64 = i->mode == MODE_64;
    t->single = true;
    trans_plan_default_registers(t);
    t->e = (struct emit){ .p = rw, .end = end, .delta = rx - rw };
    t->entry = rw;
    t->n = 1;
    t->i[0] = *i;
    t->live[0] = t->live[1] = FL_STATUS;
    t->in_cc = true;
    t->group_of[0] = -1;
    t->held = -1;
    trans_emit_flags_restore(t);
    t->in_host = true;
    trans_emit_simple(t, 0);
    if (t->in_host)
        trans_emit_flags_save(t);
    e_mov_imm32(&t->e, S3, CODE_EXIT_NATIVE);
    e_rr(&t->e, 0x31, S2, S2, false);
    e_jmp(&t->e, t->cc->rx + t->cc->exit_off);
    return t->e.full ? 0 : (u32)(t->e.p - rw);
}
