// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ps2.h - PS/2 keyboard and mouse as state machines behind the 8042: bytes in, bytes out.
 * No locks, no time: i8042.c calls them with its lock held.
 */
#pragma once

#include "base/types.h"
#include "vmm/core/state.h"

enum { PS2_QUEUE = 32 };

/* Bytes on their way to the host; a ring. */
struct ps2_queue {
    u8 byte[PS2_QUEUE];
    u8 head, n;
    u8 zero[2];
};

struct ps2_kbd {
    struct ps2_queue out;
    u8 enabled;
    u8 set;     /* 1 or 2 */
    u8 command; /* the one that waits for its argument, or 0 */
    u8 last;    /* for "resend" */
    u8 leds, rate;
};

struct ps2_mouse {
    struct ps2_queue out;
    s32 dx, dy, dz; /* motion not yet reported */
    u8 buttons, reported;
    u8 enabled, remote, wrap, scale21;
    u8 resolution, rate;
    u8 kind;  /* 0: three buttons, 3: wheel, 4: wheel and five buttons */
    u8 magic; /* how far the sample rates that select a kind have come */
    u8 command, last;
};

enum { PS2_KBD_FIELDS = 7, PS2_MOUSE_FIELDS = 16 };
extern const struct state_field ps2_kbd_fields[PS2_KBD_FIELDS];
extern const struct state_field ps2_mouse_fields[PS2_MOUSE_FIELDS];

bool ps2_take(struct ps2_queue *, u8 *ret); /* the next byte for the host */

void ps2_kbd_reset(struct ps2_kbd *);
void ps2_kbd_write(struct ps2_kbd *, u8 val);
/* code: of set 1, 0xe0xx for extended keys, PS2_PAUSE. */
enum { PS2_PAUSE = 0xe11d };
void ps2_kbd_key(struct ps2_kbd *, u16 code, bool down);
/* What the controller makes of a byte of set 2; 0xf0 makes the next one a break code. */
u8 ps2_translate(u8 set2);

void ps2_mouse_reset(struct ps2_mouse *);
void ps2_mouse_write(struct ps2_mouse *, u8 val);
void ps2_mouse_move(struct ps2_mouse *, s32 dx, s32 dy, s32 dz, u8 buttons);
/* Queues a packet if there is something to report and room. Call after reads as well. */
void ps2_mouse_report(struct ps2_mouse *);
