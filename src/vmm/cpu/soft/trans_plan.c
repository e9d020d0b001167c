// SPDX-License-Identifier: GPL-2.0-or-later
/* trans_plan.c - what is known of a block before it is written (trans.h). */
#include "vmm/cpu/soft/trans.h"

#define MN(x) ZYDIS_MNEMONIC_##x

void trans_mark_bytes(struct code_page *cp, u32 from, u32 n)
{
    for (u32 b = from; b < from + n && b < 4096; b++)
        cp->bytes[b >> 6] |= 1ull << (b & 63);
}

u16 trans_flags_wanted(struct trans *t, s32 off)
{
    u16 want = 0, open = FL_STATUS;

    if (off < 0 || off >= 4096)
        return FL_STATUS;
    for (int k = 0; k < 8 && open && off < 4096; k++) {
        struct insn i;

        if (insn_decode(t->page + off, (size_t)MIN(15, 4096 - off), t->mode & CODE_MODE, &i) !=
            0)
            break;
        enum kind kind = trans_classify(t->sv, &i, t->mode);
        if (kind == K_NONE || (kind >= K_JCC))
            break;
        trans_mark_bytes(t->cp, (u32)off, i.len);
        want |= i.fl_read & open;
        open &= ~trans_flags_killed(&i);
        off += i.len;
    }
    return want | open;
}

/* One access of instruction k through `base`; may it share a check with the ones before? */
static void plan_access(struct trans *t, u32 k, s8 *open, u8 base, s32 from, u32 size,
                        bool write, s32 shift)
{
    s32 to = from + (s32)size;

    if (open[base] >= 0) {
        struct group *g = &t->groups[open[base]];
        s32 lo = MIN(g->lo, from), hi = MAX(g->hi, to);

        if (hi - lo <= GROUP_SPAN) {
            g->lo = lo;
            g->hi = hi;
            g->write |= write;
            g->n++;
            t->group_of[k] = open[base];
            return;
        }
    }
    open[base] = (s8)t->n_groups;
    t->group_of[k] = (s8)t->n_groups;
    t->groups[t->n_groups++] = (struct group){ base, from, to, shift, k, 1, write, -1 };
}

void trans_plan_groups(struct trans *t)
{
    s8 open[16], w = t->is64 ? 8 : 4;
    s32 rsp = 0; /* how far RSP has moved since `open[RSP]` numbers began */
    s8 slots = 0;

    for (unsigned r = 0; r < ARRAY_LEN(open); r++)
        open[r] = -1;
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
                open[r] = -1;
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
            live |= trans_flags_wanted(t, branch_target(t, k));
        t->live[k] = live;
    }
}
