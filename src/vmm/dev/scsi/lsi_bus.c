// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lsi_bus.c - the SCSI bus of the LSI 53C895A as its targets drive it: selection, messages,
 * phases, disconnection.  SCSI-2 (X3.131), chapters 6 and 7; SPI-4 chapter 16 (messages).
 *
 *   selection - MSG OUT (identify, tag) - COMMAND -+- data - STATUS - MSG IN (complete) - free
 *                                                  |
 *                                       MSG IN (disconnect), free,
 *                                       reselection, MSG IN (identify, tag)
 *
 * A target that has nothing at once disconnects if the initiator lets it; else, and between
 * the pieces of a long transfer, it keeps the bus without asking for anything.  Transfers are
 * asynchronous and narrow: offers of others are rejected.
 *
 * Not modelled: disconnection in the middle of data, linked commands, the parity of anything.
 */
#include <string.h>

#include "vmm/dev/scsi/lsi.h"

enum {
    M_COMPLETE = 0x00,
    M_EXTENDED = 0x01,
    M_SAVE_POINTERS = 0x02,
    M_DISCONNECT = 0x04,
    M_ABORT = 0x06,
    M_REJECT = 0x07,
    M_NOP = 0x08,
    M_DEVICE_RESET = 0x0c,
    M_ABORT_TAG = 0x0d,
    M_CLEAR_QUEUE = 0x0e,
    M_SIMPLE_TAG = 0x20,
    M_ORDERED_TAG = 0x22,
    M_IDENTIFY = 0x80,
};
enum { S_QUEUE_FULL = 0x28 };

static void ask(struct lsi *s, enum phase phase)
{
    s->r.phase = phase;
    s->r.asks = true;
}

static void say(struct lsi *s, u8 byte)
{
    if (s->r.msg_len < MSG_MAX)
        s->r.msg[s->r.msg_len++] = byte;
}

static void message(struct lsi *s, u8 byte, enum lsi_after after)
{
    say(s, byte);
    s->r.after = after;
    ask(s, MSG_IN);
}

void lsi_bus_free(struct lsi *s)
{
    s->r.connected = s->r.asks = s->r.atn = false;
    s->r.reg[SCNTL1] &= ~SCNTL1_CON;
    s->r.msg_len = 0;
    s->now = NULL;
}

/* ---- commands ------------------------------------------------------------------------------
 */

static void cmd_free(struct lsi_cmd *c)
{
    struct lsi_cmd **at = &c->s->commands;

    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    c->s->n_commands--;
    c->s->r.commands = c->s->n_commands != 0;
    scsi_req_free(&c->q);
    g_free(c);
}

/* What the connected target asks for: data or its status; nothing while it has none. */
static void show(struct lsi *s)
{
    const struct lsi_cmd *c = s->now;

    if (!c)
        ask(s, COMMAND);
    else if (c->has_data)
        ask(s, c->q.dir == SCSI_IN ? DATA_IN : DATA_OUT);
    else if (c->over)
        ask(s, STATUS);
    else
        s->r.asks = false;
}

static void ready(struct lsi_cmd *c)
{
    struct lsi *s = c->s;

    if (s->now == c) {
        if (!s->r.asks)
            show(s);
    } else {
        c->waits = true;
    }
    if (!s->inside)
        lsi_run(s);
}

static void on_data(struct scsi_req *q)
{
    struct lsi_cmd *c = container_of(q, struct lsi_cmd, q);

    c->has_data = true;
    c->pos = 0;
    ready(c);
}

static void on_done(struct scsi_req *q)
{
    struct lsi_cmd *c = container_of(q, struct lsi_cmd, q);

    if (q->aborted) {
        if (c->s->now == c)
            lsi_bus_free(c->s);
        cmd_free(c);
        return;
    }
    c->over = true;
    c->has_data = false;
    c->status = q->status;
    ready(c);
}

const struct scsi_bus_ops lsi_bus_ops = { .data = on_data, .done = on_done };

static void begin(struct lsi *s, const u8 *cdb, u32 n)
{
    struct lsi_cmd *c = g_new0(struct lsi_cmd, 1);

    c->s = s;
    c->next = s->commands;
    s->commands = s->now = c;
    s->n_commands++;
    s->r.commands = true;
    memcpy(c->q.cdb, cdb, n);
    c->q.target = s->r.target;
    c->q.lun = s->r.lun;
    c->tag = s->r.tag;
    c->tagged = s->r.tagged;
    c->disconnects = s->r.disconnects;
    s->r.asks = false;
    if (s->n_commands > LSI_COMMANDS) {
        c->over = true;
        c->status = S_QUEUE_FULL;
    } else {
        scsi_submit(&s->bus, &c->q);
    }
    if (s->now == c && !s->r.asks) {
        show(s);
        if (!s->r.asks && c->disconnects) {
            say(s, M_SAVE_POINTERS);
            message(s, M_DISCONNECT, AFTER_FREE);
        }
    }
}

/* ---- selection -----------------------------------------------------------------------------
 */

bool lsi_select(struct lsi *s, u8 target, bool atn)
{
    if (!scsi_target_there(&s->bus, target))
        return false;
    s->r.connected = true;
    s->r.reg[SCNTL1] |= SCNTL1_CON;
    s->r.target = target;
    s->r.lun = 0;
    s->r.tagged = s->r.disconnects = false;
    s->r.msg_len = 0;
    s->r.atn = atn;
    s->now = NULL;
    ask(s, atn ? MSG_OUT : COMMAND);
    return true;
}

bool lsi_reselected(struct lsi *s)
{
    struct lsi_cmd *c = NULL;

    /* the one that has waited for the longest: new ones are put in front */
    for (struct lsi_cmd *i = s->commands; i; i = i->next)
        if (i->waits)
            c = i;
    if (!c)
        return false;
    c->waits = false;
    s->now = c;
    s->r.connected = true;
    s->r.reg[SCNTL1] |= SCNTL1_CON;
    s->r.target = c->q.target;
    s->r.lun = (u8)c->q.lun;
    s->r.atn = false;
    s->r.reg[SSID] = (u8)(0x80 | s->r.target);
    s->r.reg[SFBR] = (u8)(1u << (s->r.target & 7));
    s->r.msg_len = 0;
    say(s, M_IDENTIFY | s->r.lun);
    if (c->tagged) {
        say(s, M_SIMPLE_TAG);
        say(s, c->tag);
    }
    s->r.after = AFTER_RESUME;
    ask(s, MSG_IN);
    return true;
}

/* ---- messages of the initiator -------------------------------------------------------------
 */

static bool hit(const struct lsi *s, const struct lsi_cmd *c, u8 what)
{
    if (c->q.target != s->r.target || (what != M_DEVICE_RESET && c->q.lun != s->r.lun))
        return false;
    return what != M_ABORT_TAG || (c->tagged == s->r.tagged && c->tag == s->r.tag);
}

static void abort_cmd(struct lsi_cmd *c)
{
    if (c->over || c->q.aborted) { /* it is not the core's any more, or soon will not be */
        if (c->over)
            cmd_free(c);
    } else {
        c->waits = false;
        scsi_abort(&c->q);
    }
}

/* They end with the bus free. */
static void abort_some(struct lsi *s, u8 what)
{
    u8 target = s->r.target;

    for (struct lsi_cmd *c = s->commands, *next; c; c = next) {
        next = c->next;
        if (hit(s, c, what))
            abort_cmd(c);
    }
    lsi_bus_free(s);
    if (what != M_DEVICE_RESET)
        return;
    scsi_bus_drain(&s->bus);
    for (u32 i = 0; i < s->bus.units->len; i++)
        if (((struct scsi_unit *)s->bus.units->pdata[i])->target == target)
            scsi_reset(&s->bus, s->bus.units->pdata[i]);
}

static void messages(struct lsi *s, const u8 *m, u32 n)
{
    bool reject = false;

    for (u32 i = 0; i < n && s->r.connected; i++) {
        if (m[i] & M_IDENTIFY) {
            s->r.lun = m[i] & 7;
            s->r.disconnects = m[i] >> 6 & 1;
        } else if (m[i] >= M_SIMPLE_TAG && m[i] <= M_ORDERED_TAG) {
            s->r.tagged = true;
            s->r.tag = i + 1 < n ? m[++i] : 0;
        } else if (m[i] == M_EXTENDED) {
            i += i + 1 < n ? 1u + m[i + 1] : n; /* an offer of another way to transfer */
            reject = true;
        } else if (m[i] == M_ABORT || m[i] == M_ABORT_TAG || m[i] == M_CLEAR_QUEUE ||
                   m[i] == M_DEVICE_RESET) {
            abort_some(s, m[i]);
        } else if (m[i] != M_NOP && m[i] != M_REJECT && m[i] != M_DISCONNECT) {
            reject = true;
        }
    }
    if (!s->r.connected)
        return;
    if (reject)
        message(s, M_REJECT, AFTER_RESUME);
    else
        show(s);
}

/* SeaBIOS selects without ATN and sends its IDENTIFY all the same. */
void lsi_listen(struct lsi *s)
{
    if (s->r.phase == COMMAND && !s->now)
        ask(s, MSG_OUT);
}

void lsi_ack_cleared(struct lsi *s)
{
    if (s->r.connected && s->r.atn)
        ask(s, MSG_OUT);
}

/* ---- moving --------------------------------------------------------------------------------
 */

static bool move_out(struct lsi *s, u64 at, u32 n, u32 *ret_moved)
{
    u8 m[256];

    n = MIN(n, (u32)sizeof m);
    if (!lsi_mem_read(s, at, m, n))
        return false;
    *ret_moved = n;
    s->r.atn = false; /* with the last byte */
    messages(s, m, n);
    return true;
}

static bool move_command(struct lsi *s, u64 at, u32 n, u32 *ret_moved)
{
    u8 cdb[SCSI_CDB_MAX];

    n = MIN(n, (u32)sizeof cdb);
    if (!lsi_mem_read(s, at, cdb, n))
        return false;
    *ret_moved = n;
    s->r.reg[SFBR] = cdb[0];
    if (s->now) /* it has one */
        show(s);
    else
        begin(s, cdb, n);
    return true;
}

static bool move_data(struct lsi *s, u64 at, u32 n, u32 *ret_moved)
{
    struct lsi_cmd *c = s->now;
    bool in = s->r.phase == DATA_IN;

    n = MIN(n, c->q.n - c->pos);
    if (in ? !lsi_mem_write(s, at, c->q.buf + c->pos, n)
           : !lsi_mem_read(s, at, c->q.buf + c->pos, n))
        return false;
    if (n)
        s->r.reg[SFBR] = c->q.buf[c->pos];
    *ret_moved = n;
    c->pos += n;
    if (c->pos == c->q.n) {
        c->has_data = false;
        s->r.asks = false;
        scsi_go_on(&c->q);
    }
    return true;
}

static bool move_status(struct lsi *s, u64 at, u32 *ret_moved)
{
    struct lsi_cmd *c = s->now;

    if (!lsi_mem_write(s, at, &c->status, 1))
        return false;
    *ret_moved = 1;
    s->r.reg[SFBR] = c->status;
    cmd_free(c);
    s->now = NULL;
    message(s, M_COMPLETE, AFTER_FREE);
    return true;
}

static bool move_in(struct lsi *s, u64 at, u32 n, u32 *ret_moved)
{
    n = MIN(n, (u32)s->r.msg_len);
    if (!lsi_mem_write(s, at, s->r.msg, n))
        return false;
    *ret_moved = n;
    if (!n)
        return true;
    s->r.reg[SFBR] = s->r.msg[0];
    s->r.reg[SIDL] = s->r.msg[n - 1]; /* what was on the bus last: drivers look */
    s->r.msg_len -= (u8)n;
    memmove(s->r.msg, s->r.msg + n, s->r.msg_len);
    if (s->r.msg_len)
        return true;
    if (s->r.after == AFTER_FREE) {
        struct lsi_cmd *c = s->now;

        lsi_bus_free(s);
        if (c) /* it may have come meanwhile */
            c->waits = c->has_data || c->over;
    } else {
        show(s);
    }
    return true;
}

bool lsi_move(struct lsi *s, u64 at, u32 n, u32 *ret_moved)
{
    *ret_moved = 0;
    switch ((enum phase)s->r.phase) {
    case DATA_OUT:
    case DATA_IN:
        return move_data(s, at, n, ret_moved);
    case COMMAND:
        return move_command(s, at, n, ret_moved);
    case STATUS:
        return move_status(s, at, ret_moved);
    case MSG_OUT:
        return move_out(s, at, n, ret_moved);
    case MSG_IN:
        return move_in(s, at, n, ret_moved);
    }
    return true;
}

/* ---- resets --------------------------------------------------------------------------------
 */

void lsi_forget(struct lsi *s)
{
    bool inside = s->inside;

    s->inside = true; /* what comes now lets nothing run */
    for (struct lsi_cmd *c = s->commands, *next; c; c = next) {
        next = c->next;
        abort_cmd(c);
    }
    scsi_bus_drain(&s->bus);
    lsi_bus_free(s);
    s->inside = inside;
}

void lsi_bus_reset(struct lsi *s)
{
    lsi_forget(s);
    scsi_reset(&s->bus, NULL);
}
