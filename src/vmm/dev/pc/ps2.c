// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ps2.c - PS/2 keyboard and mouse protocols.
 * IBM Personal System/2 Hardware Interface Technical Reference (keyboard, auxiliary device);
 * Microsoft's IntelliMouse protocol for wheel and five buttons.
 *
 * Not modelled: scan code set 3 and its key types (accepted and ignored), typematic repeat (the
 * host's keyboard repeats), sample rate limits.
 */
#include "vmm/dev/pc/ps2.h"

#include <glib.h>

enum { ACK = 0xfa, RESEND = 0xfe, BAT_OK = 0xaa };
enum { BUTTONS_MAX = 0x1f, MOTION_MAX = 4096 };

#define FIELDS_QUEUE(s)                                                                        \
    {                                                                                          \
        .name = "out", .kind = STATE_K_STRUCT, .offset = offsetof(s, out),                     \
        .size = sizeof(struct ps2_queue), .count = 1, .sub = queue_fields,                     \
        .n_sub = ARRAY_LEN(queue_fields)                                                       \
    }
static const struct state_field queue_fields[] = {
    STATE_BYTES(struct ps2_queue, byte),
    STATE_UINT(struct ps2_queue, head, PS2_QUEUE - 1),
    STATE_UINT(struct ps2_queue, n, PS2_QUEUE),
    STATE_PAD(struct ps2_queue, zero),
};
const struct state_field ps2_kbd_fields[PS2_KBD_FIELDS] = {
    FIELDS_QUEUE(struct ps2_kbd),       STATE_UINT(struct ps2_kbd, enabled, 1),
    STATE_UINT(struct ps2_kbd, set, 2), STATE_INT(struct ps2_kbd, command),
    STATE_INT(struct ps2_kbd, last),    STATE_INT(struct ps2_kbd, leds),
    STATE_INT(struct ps2_kbd, rate),
};
const struct state_field ps2_mouse_fields[PS2_MOUSE_FIELDS] = {
    FIELDS_QUEUE(struct ps2_mouse),
    STATE_INT(struct ps2_mouse, dx),
    STATE_INT(struct ps2_mouse, dy),
    STATE_INT(struct ps2_mouse, dz),
    STATE_UINT(struct ps2_mouse, buttons, BUTTONS_MAX),
    STATE_UINT(struct ps2_mouse, reported, BUTTONS_MAX),
    STATE_UINT(struct ps2_mouse, enabled, 1),
    STATE_UINT(struct ps2_mouse, remote, 1),
    STATE_UINT(struct ps2_mouse, wrap, 1),
    STATE_UINT(struct ps2_mouse, scale21, 1),
    STATE_UINT(struct ps2_mouse, resolution, 3),
    STATE_INT(struct ps2_mouse, rate),
    STATE_UINT(struct ps2_mouse, kind, 4),
    STATE_UINT(struct ps2_mouse, magic, 4),
    STATE_INT(struct ps2_mouse, command),
    STATE_INT(struct ps2_mouse, last),
};

static void put(struct ps2_queue *q, u8 val)
{
    if (q->n < PS2_QUEUE)
        q->byte[(q->head + q->n++) % PS2_QUEUE] = val;
}

static unsigned room(const struct ps2_queue *q)
{
    return PS2_QUEUE - q->n;
}

bool ps2_take(struct ps2_queue *q, u8 *ret)
{
    if (!q->n)
        return false;
    *ret = q->byte[q->head];
    q->head = (q->head + 1) % PS2_QUEUE;
    q->n--;
    return true;
}

/* A byte that "resend" may ask for again. */
static void answer(struct ps2_queue *q, u8 *last, u8 val)
{
    put(q, val);
    *last = val;
}

/* --- keyboard -------------------------------------------------------------------------------
 */

/* The 8042's table from set 2 to set 1; from 0x80 on bytes stay, but for two keys. */
static const u8 set2_to_1[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
    0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
    0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
    0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
    0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
    0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
    0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
    0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
    0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

u8 ps2_translate(u8 set2)
{
    if (set2 < 0x80)
        return set2_to_1[set2];
    return set2 == 0x83 ? 0x41 : set2 == 0x84 ? 0x54 : set2;
}

static u8 set1_to_2(u8 set1)
{
    if (set1 == 0x41) /* F7 */
        return 0x83;
    if (set1 == 0x54) /* SysRq */
        return 0x84;
    for (unsigned i = 1; i < 128; i++)
        if (set2_to_1[i] == set1)
            return i;
    return 0;
}

static void kbd_defaults(struct ps2_kbd *k)
{
    k->enabled = 1;
    k->rate = 0x2b;
    k->command = 0;
}

void ps2_kbd_reset(struct ps2_kbd *k)
{
    *k = (struct ps2_kbd){ .set = 2 };
    kbd_defaults(k);
}

void ps2_kbd_key(struct ps2_kbd *k, u16 code, bool down)
{
    u8 c = k->set == 1 ? code & 0x7f : set1_to_2(code & 0x7f);

    /* Nothing of a key that does not fit as a whole. */
    if (!k->enabled || !c || room(&k->out) < 8)
        return;
    if (code == PS2_PAUSE) { /* has no break code of its own */
        static const u8 pause1[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
        static const u8 pause2[] = { 0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77 };

        for (unsigned i = 0; down && i < (k->set == 1 ? sizeof pause1 : sizeof pause2); i++)
            put(&k->out, k->set == 1 ? pause1[i] : pause2[i]);
        return;
    }
    if (code >> 8 == 0xe0)
        put(&k->out, 0xe0);
    if (k->set == 1) {
        put(&k->out, down ? c : c | 0x80);
    } else {
        if (!down)
            put(&k->out, 0xf0);
        put(&k->out, c);
    }
}

static void kbd_argument(struct ps2_kbd *k, u8 val)
{
    u8 command = k->command;

    k->command = 0;
    answer(&k->out, &k->last, ACK);
    switch (command) {
    case 0xed:
        k->leds = val & 7;
        break;
    case 0xf0:
        if (val == 0)
            answer(&k->out, &k->last, k->set);
        else if (val <= 2)
            k->set = val;
        break;
    case 0xf3:
        k->rate = val & 0x7f;
        break;
    }
}

void ps2_kbd_write(struct ps2_kbd *k, u8 val)
{
    if (val != RESEND)
        k->out.n = 0; /* the answer is the next thing the host reads */
    if (k->command && val < 0xed) {
        kbd_argument(k, val);
        return;
    }
    k->command = 0;
    switch (val) {
    case 0xee: /* echo */
        answer(&k->out, &k->last, 0xee);
        return;
    case RESEND:
        if (room(&k->out))
            put(&k->out, k->last);
        return;
    case 0xed: /* LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate */
    case 0xfb: /* key types of set 3: their argument is a key */
    case 0xfc:
    case 0xfd:
        k->command = val;
        break;
    case 0xf2:
        answer(&k->out, &k->last, ACK);
        answer(&k->out, &k->last, 0xab);
        answer(&k->out, &k->last, 0x83);
        return;
    case 0xf4:
        k->enabled = 1;
        break;
    case 0xf5:
        kbd_defaults(k);
        k->enabled = 0;
        break;
    case 0xf6:
        kbd_defaults(k);
        break;
    case 0xf7 ... 0xfa:
        break;
    case 0xff:
        ps2_kbd_reset(k);
        answer(&k->out, &k->last, ACK);
        answer(&k->out, &k->last, BAT_OK);
        return;
    default:
        put(&k->out, RESEND);
        return;
    }
    answer(&k->out, &k->last, ACK);
}

/* --- mouse ----------------------------------------------------------------------------------
 */

static void mouse_defaults(struct ps2_mouse *m)
{
    m->enabled = m->remote = m->wrap = m->scale21 = m->command = 0;
    m->resolution = 2;
    m->rate = 100;
    m->dx = m->dy = m->dz = 0;
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    *m = (struct ps2_mouse){};
    mouse_defaults(m);
}

/* One packet from what has gathered. */
static void mouse_packet(struct ps2_mouse *m)
{
    s32 x = CLAMP(m->dx, -255, 255), y = CLAMP(m->dy, -255, 255), z = CLAMP(m->dz, -8, 7);

    m->dx -= x;
    m->dy -= y;
    m->dz = m->kind ? m->dz - z : 0;
    m->reported = m->buttons;
    put(&m->out, (m->buttons & 7) | 8 | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0));
    put(&m->out, x & 0xff);
    put(&m->out, y & 0xff);
    if (m->kind == 3)
        put(&m->out, z & 0xff);
    else if (m->kind == 4)
        put(&m->out, (z & 15) | (m->buttons & 0x18) << 1);
}

void ps2_mouse_report(struct ps2_mouse *m)
{
    if (!m->enabled || m->remote || m->wrap || m->out.n > PS2_QUEUE / 2)
        return;
    if (m->dx || m->dy || m->dz || m->buttons != m->reported)
        mouse_packet(m);
}

void ps2_mouse_move(struct ps2_mouse *m, s32 dx, s32 dy, s32 dz, u8 buttons)
{
    if (m->enabled) {
        m->dx = CLAMP((s64)m->dx + dx, -MOTION_MAX, MOTION_MAX);
        m->dy = CLAMP((s64)m->dy - dy, -MOTION_MAX, MOTION_MAX); /* up is positive */
        m->dz = CLAMP((s64)m->dz + dz, -MOTION_MAX, MOTION_MAX);
    }
    m->buttons = buttons & BUTTONS_MAX;
    ps2_mouse_report(m);
}

/* Three sample rates in a row select the protocol. */
static void mouse_rate(struct ps2_mouse *m, u8 val)
{
    static const u8 next[5][3] = {
        /* state: after 200, 100, 80 */
        { 1, 0, 0 }, /* nothing yet */
        { 3, 2, 0 }, /* 200 */
        { 1, 0, 0 }, /* 200 100, and 80 makes it a wheel mouse */
        { 3, 2, 0 }, /* 200 200, and 80 makes it one with five buttons */
        { 1, 0, 0 },
    };
    unsigned was = MIN(m->magic, 4);

    m->rate = val;
    m->magic = val == 200 ? next[was][0] : val == 100 ? next[was][1] : 0;
    if (val == 80 && was == 2)
        m->kind = 3;
    else if (val == 80 && was == 3)
        m->kind = 4;
}

void ps2_mouse_write(struct ps2_mouse *m, u8 val)
{
    u8 command = m->command;

    if (val != RESEND)
        m->out.n = 0;
    m->command = 0;
    if (m->wrap && val != 0xff && val != 0xec) {
        put(&m->out, val);
        return;
    }
    if (val == RESEND && !command) {
        if (room(&m->out))
            put(&m->out, m->last);
        return;
    }
    answer(&m->out, &m->last, ACK);
    if (command == 0xe8) {
        m->resolution = val & 3;
        return;
    }
    if (command == 0xf3) {
        mouse_rate(m, val);
        return;
    }
    switch (val) {
    case 0xe6:
    case 0xe7:
        m->scale21 = val & 1;
        break;
    case 0xe8:
    case 0xf3:
        m->command = val;
        break;
    case 0xe9: /* status */
        put(&m->out, (m->remote << 6) | (m->enabled << 5) | (m->scale21 << 4) |
                         (m->buttons & 1) << 2 | (m->buttons & 2) >> 1 | (m->buttons & 4) >> 1);
        put(&m->out, m->resolution);
        put(&m->out, m->rate);
        break;
    case 0xea:
        m->remote = 0;
        break;
    case 0xeb: /* read data */
        mouse_packet(m);
        break;
    case 0xec:
    case 0xee:
        m->wrap = val == 0xee;
        break;
    case 0xf0:
        m->remote = 1;
        break;
    case 0xf2:
        put(&m->out, m->kind);
        break;
    case 0xf4:
        m->enabled = 1;
        break;
    case 0xf5:
        m->enabled = 0;
        break;
    case 0xf6:
        mouse_defaults(m);
        break;
    case 0xff: {
        u8 buttons = m->buttons;

        ps2_mouse_reset(m);
        m->buttons = m->reported = buttons;
        answer(&m->out, &m->last, ACK);
        put(&m->out, BAT_OK);
        put(&m->out, 0x00);
        break;
    }
    default:
        m->out.n = 0;
        put(&m->out, RESEND);
    }
}
