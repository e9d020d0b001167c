// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lsi_scripts.c - the SCRIPTS processor of the LSI 53C895A.  LSI53C895A technical manual 2.2,
 * chapter 5 (instruction set), 4.2 (registers for phase mismatches).
 *
 *   31:30  29:27
 *   00                block move: 29 indirect, 28 by a table at DSA, 26:24 phase, 23:0 count
 *   01     0..4       select, wait disconnect, wait reselect, set, clear
 *   01     5..7       read-modify-write of registers
 *   10     0..3       jump, call, return, interrupt
 *   11                memory move; with bit 29 load and store
 *
 * It runs on the thread of whoever lets it go on, with the lock held, for a bounded number of
 * steps; then the timer lets it go on, so that one that never ends costs the guest's time only.
 *
 * Not modelled: target mode, prefetching, 64-bit jumps, the high halves of script addresses.
 */
#include "vmm/dev/scsi/lsi.h"

enum { STEPS = 4096, STEP_BYTES = 256, TIRED_NS = 1000 * 1000 };
enum { OP_SELECT, OP_WAIT_DISCONNECT, OP_WAIT_RESELECT, OP_SET, OP_CLEAR };
enum { OP_JUMP, OP_CALL, OP_RETURN, OP_INT };
enum { FLAG_CARRY = 0x400, FLAG_ACK = 0x40, FLAG_ATN = 0x08 };

static s32 offset24(u32 v)
{
    return (s32)(v << 8) >> 8;
}

static bool fetch(struct lsi *s, u32 *ret)
{
    u32 at = lsi_get32(s, DSP);
    le32 v;

    if (!lsi_mem_read(s, at, &v, 4)) {
        lsi_dma_interrupt(s, DSTAT_BF);
        return false;
    }
    lsi_put32(s, DSP, at + 4);
    *ret = le32_get(v);
    return true;
}

/* A selection that nobody has answered is told when the bus is wanted next. */
static bool selection_told(struct lsi *s)
{
    if (!s->r.selection_failed)
        return false;
    s->r.selection_failed = false;
    lsi_scsi_interrupt(s, 0, SIST1_STO);
    s->r.wait = LSI_HALTED;
    return true;
}

static void disconnected(struct lsi *s)
{
    lsi_scsi_interrupt(s, SIST0_UDC, 0);
    s->r.wait = LSI_HALTED;
}

/* The instruction that has just been fetched is tried again when the target has a phase. */
static void wait_phase(struct lsi *s, u32 at)
{
    lsi_put32(s, DSP, at);
    s->r.wait = LSI_PHASE;
}

/* ---- block moves ---------------------------------------------------------------------------
 */

/* Dynamic block moves: upper halves of addresses, chosen by five bits. */
static u32 selector(const struct lsi *s, unsigned i)
{
    if (i < 16)
        return lsi_get32(s, (enum lsi_reg)(SCRATCHC + 4 * i));
    return i < 22 ? lsi_get32(s, (enum lsi_reg)(MMRS + 4 * (i - 16))) : 0;
}

struct bmov {
    u32 at, insn; /* where the instruction is */
    u32 n, top;   /* top: bits 31:24 of RBC */
    u64 addr;
    u32 entry;
};

static bool bmov_fetch(struct lsi *s, u32 insn, u32 arg, struct bmov *ret)
{
    u8 cntl1 = s->r.reg[CCNTL1];
    struct bmov b = { .at = lsi_get32(s, DSP) - 8,
                      .insn = insn,
                      .n = insn & 0xffffff,
                      .top = insn & 0xff000000,
                      .addr = arg };
    le32 v[2];

    if (insn & 1u << 28) {
        b.entry = lsi_get32(s, DSA) + (u32)offset24(arg);
        if (!lsi_mem_read(s, b.entry, v, sizeof v)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            return false;
        }
        u32 count = le32_get(v[0]);
        b.n = count & 0xffffff;
        b.top = count & 0xff000000;
        b.addr = le32_get(v[1]);
        if (cntl1 & CCNTL1_EN64TIBMV)
            b.addr |=
                (u64)(cntl1 & CCNTL1_64TIMOD ? count >> 24 : selector(s, count >> 24 & 31))
                << 32;
    } else if (insn & 1u << 29) {
        if (!lsi_mem_read(s, arg, v, 4)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            return false;
        }
        b.addr = le32_get(v[0]);
    } else if (cntl1 & CCNTL1_EN64DBMV) {
        u32 high;

        if (!fetch(s, &high))
            return false;
        b.addr |= (u64)high << 32;
    }
    *ret = b;
    return true;
}

static void bmov_show(struct lsi *s, const struct bmov *b, u32 left, u64 addr)
{
    u32 cmd = (u32)s->r.reg[DCMD] << 24;

    lsi_put32(s, DBC, (left & 0xffffff) | cmd);
    s->r.reg[DFIFO] = (u8)left; /* the FIFO is empty */
    s->r.reg[CTEST5] = (u8)((s->r.reg[CTEST5] & ~3) | (left >> 8 & 3));
    lsi_put32(s, DNAD, (u32)addr);
    lsi_put32(s, DNAD64, (u32)(addr >> 32));
    lsi_put32(s, RBC, left | b->top);
    lsi_put32(s, UA, (u32)addr);
    lsi_put32(s, ESA, b->entry);
    lsi_put32(s, IA, b->at);
    lsi_put32(s, SBC, b->n - left);
}

/* The target wants another phase than the one that is moved. */
static void mismatch(struct lsi *s, u8 phase)
{
    u8 c = s->r.reg[CCNTL0];

    if (!(c & CCNTL0_ENPMJ) || phase > DATA_IN) {
        lsi_scsi_interrupt(s, SIST0_MA, 0);
        s->r.wait = LSI_HALTED;
    } else if (c & CCNTL0_PMJCTL) { /* by direction */
        lsi_put32(s, DSP, lsi_get32(s, phase == DATA_IN ? PMJAD2 : PMJAD1));
    } else { /* by a wide residue, which there never is */
        lsi_put32(s, DSP, lsi_get32(s, PMJAD1));
    }
}

/* Goes on with a block move; SBC has what was moved before, RBC and UA what is left. */
static void bmov_go(struct lsi *s, const struct bmov *b, u32 left, s32 *budget)
{
    u32 before = b->n - left, done = 0;
    u8 phase = b->insn >> 24 & 7;

    s->r.moving = false;
    while (left && s->r.connected && s->r.asks && s->r.phase == phase) {
        u32 n;

        if (!lsi_move(s, b->addr + before + done, left, &n)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            return;
        }
        if (!n)
            break;
        done += n;
        left -= n;
        *budget -= (s32)(n / STEP_BYTES);
    }
    lsi_put32(s, CSBC, lsi_get32(s, CSBC) + done);
    bmov_show(s, b, left, b->addr + before + done);
    if (!left || s->r.wait != LSI_RUNNING)
        return;
    if (s->r.connected && !s->r.asks) { /* that was a piece: the rest comes */
        s->r.wait = LSI_PHASE;
        s->r.moving = true;
    } else if (s->r.connected) {
        mismatch(s, phase);
    } else {
        disconnected(s);
    }
}

static void block_move(struct lsi *s, u32 insn, u32 arg, s32 *budget)
{
    struct bmov b;

    if (selection_told(s))
        return;
    if (!s->r.connected) {
        disconnected(s);
    } else if (!s->r.asks) {
        wait_phase(s, lsi_get32(s, DSP) - 8);
    } else if (bmov_fetch(s, insn, arg, &b)) {
        if ((insn >> 24 & 7) == MSG_OUT)
            lsi_listen(s);
        bmov_show(s, &b, b.n, b.addr);
        if (b.n) /* of nothing is illegal; SeaBIOS has that for commands without data */
            bmov_go(s, &b, b.n, budget);
    }
}

/* All that is known of it stands in registers. */
static void bmov_resume(struct lsi *s, s32 *budget)
{
    u32 rbc = lsi_get32(s, RBC), left = rbc & 0xffffff, before = lsi_get32(s, SBC);
    u64 addr = lsi_get32(s, UA) | (u64)lsi_get32(s, DNAD64) << 32;
    const struct bmov b = { .at = lsi_get32(s, IA),
                            .insn = (u32)s->r.reg[DCMD] << 24,
                            .n = before + left,
                            .top = rbc & 0xff000000,
                            .addr = addr - before,
                            .entry = lsi_get32(s, ESA) };

    bmov_go(s, &b, left, budget);
}

/* ---- input and output ----------------------------------------------------------------------
 */

static void flags(struct lsi *s, u32 insn, bool on)
{
    if (insn & FLAG_CARRY)
        s->r.carry = on;
    if (insn & FLAG_ATN)
        s->r.atn = on && s->r.connected;
    if (insn & FLAG_ACK && !on)
        lsi_ack_cleared(s);
}

static void io(struct lsi *s, u32 insn, u32 arg)
{
    u32 at = lsi_get32(s, DSP);
    u8 target = insn >> 16 & 15;
    le32 v;

    if (insn & 1u << 26) /* relative */
        arg = at + (u32)offset24(arg);
    lsi_put32(s, DNAD, arg);
    switch (insn >> 27 & 7) {
    case OP_SELECT:
        if (s->r.connected) { /* a target was faster */
            lsi_put32(s, DSP, arg);
            break;
        }
        if (insn & 1u << 25) { /* ID and the like from a table */
            if (!lsi_mem_read(s, lsi_get32(s, DSA) + (u32)offset24(insn), &v, 4)) {
                lsi_dma_interrupt(s, DSTAT_BF);
                return;
            }
            target = le32_get(v) >> 16 & 15;
        }
        s->r.reg[SDID] = target;
        s->r.selection_failed = !lsi_select(s, target, insn & 1u << 24);
        break;
    case OP_WAIT_DISCONNECT:
        s->r.selection_failed = false;
        lsi_bus_free(s);
        break;
    case OP_WAIT_RESELECT:
        if (s->r.reg[ISTAT0] & ISTAT0_SIGP)
            lsi_put32(s, DSP, arg);
        else if (!s->r.connected)
            s->r.wait = LSI_RESELECT;
        break;
    case OP_SET:
        flags(s, insn, true);
        break;
    case OP_CLEAR:
        flags(s, insn, false);
        break;
    }
}

/* ---- registers -----------------------------------------------------------------------------
 */

static u8 operate(struct lsi *s, unsigned op, u8 a, u8 b)
{
    unsigned sum = a;

    switch (op) {
    case 0:
        return b;
    case 1:
        sum = (unsigned)a << 1 | s->r.carry;
        s->r.carry = a >> 7;
        break;
    case 2:
        return a | b;
    case 3:
        return a ^ b;
    case 4:
        return a & b;
    case 5:
        sum = a >> 1 | (unsigned)s->r.carry << 7;
        s->r.carry = a & 1;
        break;
    case 6:
    case 7:
        sum = (unsigned)a + b + (op == 7 && s->r.carry);
        s->r.carry = sum > 0xff;
        break;
    }
    return (u8)sum;
}

static void read_write(struct lsi *s, u32 insn)
{
    u8 reg = (u8)((insn >> 16 & 0x7f) | (insn & 0x80));
    u8 sfbr = s->r.reg[SFBR], data = insn & 1u << 23 ? sfbr : (u8)(insn >> 8);
    unsigned op = insn >> 24 & 7, kind = insn >> 27 & 7;
    u8 from = kind == 5 ? sfbr : op ? lsi_reg_read(s, reg) : 0;
    u8 val = operate(s, op, from, data);

    if (kind == 6)
        s->r.reg[SFBR] = val;
    else
        lsi_reg_write(s, reg, val);
}

/* ---- jumps ---------------------------------------------------------------------------------
 */

static bool holds(const struct lsi *s, u32 insn)
{
    bool want = insn >> 19 & 1, ok = true;

    if (insn & 1u << 21)
        ok &= s->r.carry == want;
    if (insn & 1u << 17)
        ok &= (s->r.phase == (insn >> 24 & 7)) == want;
    if (insn & 1u << 18) {
        u8 mask = (u8) ~(insn >> 8);

        ok &= ((s->r.reg[SFBR] & mask) == (insn & mask & 0xff)) == want;
    }
    /* without a comparison: true jumps, false does not */
    return insn & (1u << 21 | 1u << 17 | 1u << 18) ? ok : want;
}

static void transfer_control(struct lsi *s, u32 insn, u32 arg)
{
    u32 at = lsi_get32(s, DSP);

    if (insn & (1u << 16 | 1u << 17)) { /* about phases */
        bool wait = insn >> 16 & 1;

        if (selection_told(s))
            return;
        if (wait && !s->r.connected) {
            disconnected(s);
            return;
        }
        if (wait && !s->r.asks) {
            wait_phase(s, at - 8);
            return;
        }
    }
    if (!holds(s, insn))
        return;
    if (insn & 1u << 23)
        arg = at + (u32)offset24(arg);
    switch (insn >> 27 & 7) {
    case OP_CALL:
        lsi_put32(s, TEMP, at);
        lsi_put32(s, DSP, arg);
        break;
    case OP_JUMP:
        lsi_put32(s, DSP, arg);
        break;
    case OP_RETURN:
        lsi_put32(s, DSP, lsi_get32(s, TEMP));
        break;
    case OP_INT:
        if (insn & 1u << 20) { /* on the fly */
            s->r.reg[ISTAT0] |= ISTAT0_INTF;
            lsi_irq_update(s);
        } else {
            lsi_dma_interrupt(s, DSTAT_SIR);
        }
        break;
    default:
        lsi_dma_interrupt(s, DSTAT_IID);
    }
}

/* ---- memory --------------------------------------------------------------------------------
 */

/* Memory moves reach registers, too. */
static bool any_read(struct lsi *s, u32 at, u8 *to, u32 n)
{
    u8 reg;

    if (!lsi_own_reg(s, at, n, &reg))
        return lsi_mem_read(s, at, to, n);
    for (u32 i = 0; i < n; i++)
        to[i] = lsi_reg_read(s, (u8)(reg + i));
    return true;
}

static bool any_write(struct lsi *s, u32 at, const u8 *from, u32 n)
{
    u8 reg;

    if (!lsi_own_reg(s, at, n, &reg))
        return lsi_mem_write(s, at, from, n);
    for (u32 i = 0; i < n; i++)
        lsi_reg_write(s, (u8)(reg + i), from[i]);
    return true;
}

static void memory_move(struct lsi *s, u32 insn, u32 from, s32 *budget)
{
    u32 n = insn & 0xffffff, to;
    u8 b[1024];

    if (!fetch(s, &to))
        return;
    lsi_put32(s, TEMP, to);
    *budget -= (s32)(n / STEP_BYTES);
    while (n) {
        u32 part = MIN(n, (u32)sizeof b);

        if (!any_read(s, from, b, part) || !any_write(s, to, b, part)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            return;
        }
        from += part;
        to += part;
        n -= part;
    }
}

static void load_store(struct lsi *s, u32 insn, u32 arg)
{
    u32 n = insn & 7;
    u8 reg = insn >> 16 & 0xff, b[8];

    if (insn & 1u << 28)
        arg = lsi_get32(s, DSA) + (u32)offset24(arg);
    if (insn & 1u << 24) { /* load */
        if (!lsi_mem_read(s, arg, b, n)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            return;
        }
        for (u32 i = 0; i < n; i++)
            lsi_reg_write(s, (u8)(reg + i), b[i]);
        return;
    }
    for (u32 i = 0; i < n; i++)
        b[i] = lsi_reg_read(s, (u8)(reg + i));
    if (!lsi_mem_write(s, arg, b, n))
        lsi_dma_interrupt(s, DSTAT_BF);
}

/* ---- going on ------------------------------------------------------------------------------
 */

static void step(struct lsi *s, s32 *budget)
{
    u32 insn, arg;

    if (!fetch(s, &insn))
        return;
    lsi_put32(s, DBC, insn); /* and DCMD */
    if (!fetch(s, &arg))
        return;
    lsi_put32(s, DSPS, arg);
    switch (insn >> 30) {
    case 0:
        block_move(s, insn, arg, budget);
        break;
    case 1:
        if ((insn >> 27 & 7) < 5)
            io(s, insn, arg);
        else
            read_write(s, insn);
        break;
    case 2:
        transfer_control(s, insn, arg);
        break;
    case 3:
        if (insn & 1u << 29)
            load_store(s, insn, arg);
        else
            memory_move(s, insn, arg, budget);
        break;
    }
}

/* What it waits for may be there. */
static void wake(struct lsi *s)
{
    if (s->r.wait == LSI_PHASE && (s->r.asks || !s->r.connected))
        s->r.wait = LSI_RUNNING;
    if (s->r.wait != LSI_RESELECT)
        return;
    if (s->r.reg[ISTAT0] & ISTAT0_SIGP) {
        lsi_put32(s, DSP, lsi_get32(s, DNAD));
        s->r.wait = LSI_RUNNING;
    } else if (lsi_reselected(s)) {
        s->r.wait = LSI_RUNNING;
        if (s->r.reg[SIEN0] & SIST0_RSL)
            lsi_scsi_interrupt(s, SIST0_RSL, 0);
    }
}

void lsi_run(struct lsi *s)
{
    s32 budget = STEPS;

    if (s->inside)
        return;
    s->inside = true;
    for (wake(s); s->r.wait == LSI_RUNNING; wake(s)) {
        if (!pci_master(&s->pci)) {
            lsi_dma_interrupt(s, DSTAT_BF);
            break;
        }
        if (budget-- <= 0) {
            s->r.wait = LSI_TIRED;
            timer_set(&s->go_on, vm_now(s->pci.dev.vm) + TIRED_NS);
            break;
        }
        if (s->r.moving)
            bmov_resume(s, &budget);
        else
            step(s, &budget);
        if (s->r.reg[DCNTL] & DCNTL_SSM && s->r.wait == LSI_RUNNING)
            lsi_dma_interrupt(s, DSTAT_SSI);
    }
    s->inside = false;
}

void lsi_start(struct lsi *s)
{
    if (s->r.wait == LSI_RUNNING || s->r.wait == LSI_TIRED)
        return;
    s->r.wait = LSI_RUNNING;
    s->r.moving = false;
    lsi_run(s);
}
