// SPDX-License-Identifier: GPL-2.0-or-later
/* trans_plan.c - what is known of a block before it is written (trans.h). */
#include "vmm/cpu/soft/trans.h"

#include <string.h>

void trans_mark_bytes(struct code_page *cp, u32 from, u32 n)
{
    for (u32 b = from; b < from + n && b < 4096; b++)
        cp->bytes[b >> 6] |= 1ull << (b & 63);
}

/* Which of `open` code at `off` reads before it overwrites them; *budget: instructions to look
 * at. */
static u16 wanted(struct trans *t, s32 off, u16 open, u32 *budget)
{
    u16 want = 0;

    while (open && off >= 0 && off < 4096 && *budget) {
        const struct trans_decoded *d = trans_decode(t, off);

        if (!d || d->kind == K_NONE || d->kind > K_CALL)
            break;
        enum kind kind = d->kind;
        s32 next = off + d->i.len, target = (s32)((u32)next + (u32)d->i.imm);

        --*budget;
        trans_mark_bytes(t->cp, (u32)off, d->i.len);
        if (kind == K_PUSHF)
            return want | open;
        want |= d->i.fl_read & open;
        open &= ~(want | trans_flags_killed(&d->i));
        if (kind == K_JMP || kind == K_CALL) {
            off = target;
        } else {
            if (kind == K_JCC || kind == K_LOOP)
                want |= wanted(t, target, open, budget);
            open &= ~want;
            off = next;
        }
    }
    return want | open;
}

u16 trans_flags_wanted(struct trans *t, s32 off)
{
    u32 budget = 16;

    return wanted(t, off, FL_STATUS, &budget);
}

/*
 * One access of instruction k through `base`; may it share a check with the ones before?  A
 * check of a wide span fails when a page ends in it, which costs as much as fifty checks; so a
 * group grows by GROUP_GAP at a time (fields of a structure that are far apart are checked
 * apart).
 */
static void plan_access(struct trans *t, u32 k, s8 (*open)[GROUPS_OPEN], u8 base, s32 from,
                        u32 size, bool write, s32 shift)
{
    s32 to = from + (s32)size;
    s8 *mine = open[base];

    for (unsigned n = 0; n < GROUPS_OPEN && mine[n] >= 0; n++) {
        struct group *g = &t->groups[mine[n]];
        s32 lo = MIN(g->lo, from), hi = MAX(g->hi, to);

        if (hi - lo <= GROUP_SPAN && hi - lo <= g->hi - g->lo + GROUP_GAP) {
            g->lo = lo;
            g->hi = hi;
            g->write |= write;
            g->n++;
            t->group_of[k] = mine[n];
            return;
        }
    }
    memmove(mine + 1, mine, GROUPS_OPEN - 1);
    mine[0] = t->group_of[k] = (s8)t->n_groups;
    t->groups[t->n_groups++] = (struct group){ base, from, to, shift, k, 1, write, -1 };
}

void trans_plan_groups(struct trans *t)
{
    s8 open[16][GROUPS_OPEN], w = t->is64 ? 8 : 4;
    s32 rsp = 0; /* how far RSP has moved since `open[RSP]` numbers began */
    s8 slots = 0;

    memset(open, -1, sizeof open);
    for (u32 k = 0; k < t->n; k++) {
        const struct insn *i = &t->i[k];
        u16 written = i->gpr_written;

        t->group_of[k] = -1;
        if (t->mode & CODE_NOSHARE)
            continue;
        switch (t->kinds[k]) {
        case K_PUSH:
            plan_access(t, k, open, RSP, rsp - w, (u32)w, true, rsp);
            rsp -= w;
            written = 0;
            break;
        case K_CALL:
        case K_CALL_IND:
            plan_access(t, k, open, RSP, rsp - w, (u32)w, true, rsp);
            break;
        case K_RET:
            plan_access(t, k, open, RSP, rsp, (u32)w, false, rsp);
            break;
        case K_POP:
            plan_access(t, k, open, RSP, rsp, (u32)w, false, rsp);
            rsp += w;
            written = (u16)(1 << i->op[0].reg);
            break;
        case K_LEAVE:
            plan_access(t, k, open, RBP, 0, (u32)w, false, 0);
            written = 1 << RSP | 1 << RBP;
            break;
        case K_PUSHF:
            rsp -= w;
            written = 0;
            break;
        case K_SIMPLE:
            if (i->has_mem && !i->mem_agen && i->base < 16 && i->index == GPR_NONE &&
                i->seg != FS && i->seg != GS && i->adsize == (t->is64 ? 8 : 4) &&
                i->disp >= -(1 << 20) && i->disp < 1 << 20 && rsp > -(1 << 20) && rsp < 1 << 20)
                plan_access(t, k, open, i->base, (s32)i->disp + (i->base == RSP ? rsp : 0),
                            i->mem_size, i->mem_access & OP_WRITE, i->base == RSP ? rsp : 0);
            if ((i->mnem == MN(ADD) || i->mnem == MN(SUB)) && i->op[0].kind == OP_GPR &&
                i->op[0].reg == RSP && i->op[1].kind == OP_IMM &&
                i->opsize == (t->is64 ? 8 : 4) && (s64)i->imm < 1 << 16 &&
                (s64)i->imm > -(1 << 16)) {
                rsp += i->mnem == MN(ADD) ? (s32)i->imm : -(s32)i->imm;
                written = 0;
            }
            break;
        default:
            break;
        }
        for (unsigned r = 0; r < ARRAY_LEN(open); r++)
            if (written & 1 << r)
                memset(open[r], -1, sizeof open[r]);
        if (written & 1 << RSP)
            rsp = 0;
    }
    for (u32 g = 0; g < t->n_groups; g++)
        if (t->groups[g].n > 1 && slots < GROUPS)
            t->groups[g].slot = slots++;
    for (u32 k = 0; k < t->n; k++)
        if (t->group_of[k] >= 0 && t->groups[t->group_of[k]].slot < 0)
            t->group_of[k] = -1;
}

void trans_plan_flags(struct trans *t, bool ends, bool interp)
{
    u16 live = FL_STATUS;
    if (ends && (t->kinds[t->n - 1] == K_JMP || t->kinds[t->n - 1] == K_CALL))
        live = trans_flags_wanted(t, branch_target(t, t->n - 1));
    else if (!ends && !interp)
        live = trans_flags_wanted(t, t->off[t->n]);
    t->live[t->n] = live;
    for (u32 k = t->n; k-- > 0;) {
        const struct insn *i = &t->i[k];
        live = (live & ~trans_flags_killed(i)) | i->fl_read;
        if (t->kinds[k] == K_PUSHF)
            live = FL_STATUS;
        if (t->kinds[k] == K_JCC || t->kinds[k] == K_LOOP)
            live |= t->want[k] = trans_flags_wanted(t, branch_target(t, k));
        t->live[k] = live;
    }
}

static void set_registers(struct trans *t, u16 in_mem)
{
    u8 s[3], n = 0;

    for (u8 r = 0; r < 16; r++)
        if (in_mem >> r & 1)
            s[n++] = r;
    t->in_mem = in_mem;
    t->s1 = s[0];
    t->s2 = s[1];
    t->s3 = s[2];
    t->spill = in_mem & ~CODE_IN_MEMORY;
    t->fetch = CODE_IN_MEMORY & ~in_mem;
}

void trans_plan_default_registers(struct trans *t)
{
    set_registers(t, CODE_IN_MEMORY);
}

/* How often each register is named; those that an instruction takes without naming them, or as
 * a high byte, have to be where they are. */
static void count_uses(const struct trans *t, u32 k, u32 *uses)
{
    enum { PINNED = 1 << 16 };
    const struct insn *i = &t->i[k];
    u16 named = 0;

    for (unsigned n = 0; n < i->nops; n++) {
        if (i->op[n].kind == OP_GPR && i->op[n].reg < 16) {
            named |= 1 << i->op[n].reg;
            uses[i->op[n].reg] += i->op[n].access & OP_WRITE ? 2 : 1;
        } else if (i->op[n].kind == OP_HIGH8) {
            uses[i->op[n].reg & 3] += PINNED;
        }
    }
    if (i->has_mem && i->base < 16)
        uses[i->base]++;
    if (i->has_mem && i->index < 16 && !i->mem_vsib)
        uses[i->index]++;
    for (u8 r = 0; r < 16; r++)
        if (i->gpr_written & ~named & 1 << r)
            uses[r] += PINNED;
    switch (t->kinds[k]) {
    case K_STRING:
    case K_REP:
        uses[RSI] += PINNED;
        uses[RDI] += PINNED;
        break;
    case K_LEAVE:
        uses[RBP] += PINNED;
        break;
    default:
        if (i->mnem == MN(CMPXCHG8B) || i->mnem == MN(CMPXCHG16B))
            uses[RBX] += PINNED;
        break;
    }
}

/*
 * The three registers that are named least stay in memory, if that is worth the trade at entry
 * and exits.  RAX, RCX, RDX and RSP have to do with too many instructions by themselves.
 */
void trans_plan_registers(struct trans *t)
{
    static const u8 by_choice[] = { 11, 10, 9, R8, R12, R13, R14, R15, RBX, RDI, RSI, RBP };
    u32 uses[16] = { 0 }, before, after = 0, traded = 0;
    u16 in_mem = 0;

    trans_plan_default_registers(t);
    if (!t->is64)
        return;
    for (u32 k = 0; k < t->n; k++)
        count_uses(t, k, uses);
    before = uses[9] + uses[10] + uses[11];
    for (unsigned n = 0; n < 3; n++) {
        u8 best = 0xff;

        for (unsigned c = 0; c < ARRAY_LEN(by_choice); c++)
            if (!(in_mem >> by_choice[c] & 1) &&
                (best == 0xff || uses[by_choice[c]] < uses[best]))
                best = by_choice[c];
        in_mem |= 1 << best;
        after += uses[best];
        traded += best < 9 || best > 11;
    }
    /* The trade: a load and a store for each of the pair, at the entry and at an exit. */
    if (before >= after + 4 * traded)
        set_registers(t, in_mem);
}
