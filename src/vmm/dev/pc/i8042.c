// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * i8042.c - the PC's keyboard controller.
 * IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
 *
 *   keyboard --> queue --+                            0x60 read
 *                        +--> output buffer (1 byte) ----------> guest; IRQ 1 or 12
 *   mouse ----> queue ---+          ^
 *                                   |  answers of the controller itself
 *
 * The output buffer is filled again as soon as it has been read, so the lines fall and rise for
 * each byte.
 *
 * Not modelled: parity and timeout errors, passwords, the A20 gate (the bit is kept).
 */
#include "vmm/dev/pc/i8042.h"

#include "vmm/dev/pc/ps2.h"

enum { STS_OBF = 0x01, STS_SYS = 0x04, STS_CMD = 0x08, STS_UNLOCKED = 0x10, STS_AUX = 0x20 };
enum {
    CTR_KBD_INT = 0x01,
    CTR_AUX_INT = 0x02,
    CTR_SYS = 0x04,
    CTR_KBD_OFF = 0x10,
    CTR_AUX_OFF = 0x20,
    CTR_TRANSLATE = 0x40
};
enum { OUT_RUN = 0x01, OUT_A20 = 0x02, OUT_KBD = 0x10, OUT_AUX = 0x20 };
enum { RAM_SIZE = 32 };

struct i8042 {
    struct dev dev;
    struct i8042_regs {
        struct ps2_mouse mouse;
        struct ps2_kbd kbd;
        u8 ram[RAM_SIZE]; /* ram[0] is the command byte */
        u8 out, out_full, out_aux;
        u8 reply, reply_full, reply_aux; /* the controller's own answer, waiting for out */
        u8 command;                      /* waits for its argument at 0x60, or 0 */
        u8 was_command;                  /* the last write went to 0x64 */
        u8 port;                         /* output port: A20 */
        u8 broke;                        /* translation has swallowed 0xf0 */
    } r;
};

static const struct state_field i8042_fields[] = {
    STATE_STRUCT(struct i8042_regs, mouse, ps2_mouse_fields),
    STATE_STRUCT(struct i8042_regs, kbd, ps2_kbd_fields),
    STATE_BYTES(struct i8042_regs, ram),
    STATE_INT(struct i8042_regs, out),
    STATE_UINT(struct i8042_regs, out_full, 1),
    STATE_UINT(struct i8042_regs, out_aux, 1),
    STATE_INT(struct i8042_regs, reply),
    STATE_UINT(struct i8042_regs, reply_full, 1),
    STATE_UINT(struct i8042_regs, reply_aux, 1),
    STATE_INT(struct i8042_regs, command),
    STATE_UINT(struct i8042_regs, was_command, 1),
    STATE_INT(struct i8042_regs, port),
    STATE_UINT(struct i8042_regs, broke, 1),
};

static struct i8042 *i8042_of(struct dev *d)
{
    return container_of(d, struct i8042, dev);
}

static u8 i8042_ctr(const struct i8042 *s)
{
    return s->r.ram[0];
}

/* A byte of the keyboard through the translation; false: it was a break prefix. */
static bool i8042_kbd_byte(struct i8042 *s, u8 *ret)
{
    u8 val;

    while (ps2_take(&s->r.kbd.out, &val)) {
        if (!(i8042_ctr(s) & CTR_TRANSLATE)) {
            *ret = val;
            return true;
        }
        if (val == 0xf0) {
            s->r.broke = 1;
            continue;
        }
        *ret = ps2_translate(val) | (s->r.broke && val < 0x85 ? 0x80 : 0);
        s->r.broke = 0;
        return true;
    }
    return false;
}

/* Fills the output buffer if it is empty, and drives the lines. */
static void i8042_update(struct i8042 *s)
{
    struct i8042_regs *r = &s->r;

    if (!r->out_full) {
        if (r->reply_full) {
            r->out = r->reply;
            r->out_aux = r->reply_aux;
            r->reply_full = 0;
            r->out_full = 1;
        } else if (!(i8042_ctr(s) & CTR_KBD_OFF) && i8042_kbd_byte(s, &r->out)) {
            r->out_aux = 0;
            r->out_full = 1;
        } else if (!(i8042_ctr(s) & CTR_AUX_OFF)) {
            ps2_mouse_report(&r->mouse);
            if (ps2_take(&r->mouse.out, &r->out))
                r->out_aux = r->out_full = 1;
        }
    }
    irq_set(s->dev.irq[I8042_IRQ_KBD],
            r->out_full && !r->out_aux && i8042_ctr(s) & CTR_KBD_INT);
    irq_set(s->dev.irq[I8042_IRQ_MOUSE],
            r->out_full && r->out_aux && i8042_ctr(s) & CTR_AUX_INT);
}

/* An answer of the controller comes before what the devices have. */
static void i8042_reply(struct i8042 *s, u8 val, bool aux)
{
    s->r.reply = val;
    s->r.reply_aux = aux;
    s->r.reply_full = 1;
}

static void i8042_output_port(struct i8042 *s, u8 val)
{
    s->r.port = val & OUT_A20;
    if (!(val & OUT_RUN))
        vm_request(s->dev.vm, VM_REQ_RESET, VM_BY_GUEST);
}

static void i8042_command(struct i8042 *s, u8 val)
{
    struct i8042_regs *r = &s->r;

    r->command = 0;
    switch (val) {
    case 0x20 ... 0x3f:
        i8042_reply(s, r->ram[val & 31], false);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        r->command = val;
        break;
    case 0xa7:
        r->ram[0] |= CTR_AUX_OFF;
        break;
    case 0xa8:
        r->ram[0] &= ~CTR_AUX_OFF;
        break;
    case 0xa9: /* interface tests: no error */
    case 0xab:
        i8042_reply(s, 0x00, false);
        break;
    case 0xaa:
        r->ram[0] |= CTR_SYS;
        i8042_reply(s, 0x55, false);
        break;
    case 0xad:
        r->ram[0] |= CTR_KBD_OFF;
        break;
    case 0xae:
        r->ram[0] &= ~CTR_KBD_OFF;
        break;
    case 0xc0: /* input port: keyboard not locked */
        i8042_reply(s, 0x80, false);
        break;
    case 0xd0:
        i8042_reply(s, OUT_RUN | r->port | (r->out_full ? r->out_aux ? OUT_AUX : OUT_KBD : 0),
                    false);
        break;
    case 0xdd:
        r->port &= ~OUT_A20;
        break;
    case 0xdf:
        r->port |= OUT_A20;
        break;
    case 0xf0 ... 0xff: /* pulses the low bits of the output port; bit 0 is the reset line */
        if (!(val & 1))
            vm_request(s->dev.vm, VM_REQ_RESET, VM_BY_GUEST);
        break;
    }
}

static void i8042_data(struct i8042 *s, u8 val)
{
    struct i8042_regs *r = &s->r;
    u8 command = r->command;

    r->command = 0;
    switch (command) {
    case 0x60 ... 0x7f:
        r->ram[command & 31] = val;
        break;
    case 0xd1:
        i8042_output_port(s, val);
        break;
    case 0xd2:
        i8042_reply(s, val, false);
        break;
    case 0xd3:
        i8042_reply(s, val, true);
        break;
    case 0xd4:
        r->ram[0] &= ~CTR_AUX_OFF;
        ps2_mouse_write(&r->mouse, val);
        break;
    default:
        r->ram[0] &= ~CTR_KBD_OFF;
        r->broke = 0;
        ps2_kbd_write(&r->kbd, val);
    }
}

static u64 i8042_data_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    struct i8042 *s = i8042_of(d);
    u8 val = s->r.out;

    if (s->r.out_full) {
        s->r.out_full = 0;
        /* Both lines fall before the next byte raises one again. */
        irq_set(d->irq[I8042_IRQ_KBD], false);
        irq_set(d->irq[I8042_IRQ_MOUSE], false);
        i8042_update(s);
    }
    return val;
}

static void i8042_data_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    i8042_of(d)->r.was_command = 0;
    i8042_data(i8042_of(d), val);
    i8042_update(i8042_of(d));
}

static u64 i8042_status_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    const struct i8042_regs *r = &i8042_of(d)->r;

    return STS_UNLOCKED | (r->ram[0] & CTR_SYS ? STS_SYS : 0) | (r->was_command ? STS_CMD : 0) |
           (r->out_full ? STS_OBF | (r->out_aux ? STS_AUX : 0) : 0);
}

static void i8042_command_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    i8042_of(d)->r.was_command = 1;
    i8042_command(i8042_of(d), val);
    i8042_update(i8042_of(d));
}

void i8042_key(struct dev *d, u16 code, bool down)
{
    dev_lock(d);
    ps2_kbd_key(&i8042_of(d)->r.kbd, code, down);
    i8042_update(i8042_of(d));
    dev_unlock(d);
}

void i8042_mouse(struct dev *d, s32 dx, s32 dy, s32 dz, u8 buttons)
{
    dev_lock(d);
    ps2_mouse_move(&i8042_of(d)->r.mouse, dx, dy, dz, buttons);
    i8042_update(i8042_of(d));
    dev_unlock(d);
}

u8 i8042_leds(struct dev *d)
{
    dev_lock(d);
    u8 leds = i8042_of(d)->r.kbd.leds;

    dev_unlock(d);
    return leds;
}

static void i8042_reset(struct dev *d)
{
    struct i8042 *s = i8042_of(d);

    s->r = (struct i8042_regs){ .port = OUT_A20 };
    /* As firmware leaves it; a kernel that is loaded directly looks at the translation. */
    s->r.ram[0] = CTR_KBD_INT | CTR_AUX_INT | CTR_SYS | CTR_TRANSLATE;
    ps2_kbd_reset(&s->r.kbd);
    ps2_mouse_reset(&s->r.mouse);
    i8042_update(s);
}

static void i8042_loaded(struct dev *d)
{
    const struct i8042_regs *r = &i8042_of(d)->r;

    irq_set(d->irq[I8042_IRQ_KBD], r->out_full && !r->out_aux && r->ram[0] & CTR_KBD_INT);
    irq_set(d->irq[I8042_IRQ_MOUSE], r->out_full && r->out_aux && r->ram[0] & CTR_AUX_INT);
}

static const struct region i8042_data_port = {
    .name = "i8042-data",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = i8042_data_read,
    .write = i8042_data_write,
};
static const struct region i8042_command_port = {
    .name = "i8042-command",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = i8042_status_read,
    .write = i8042_command_write,
};

const struct dev_type i8042_type = {
    .name = "i8042",
    .desc = "keyboard controller with PS/2 keyboard and mouse",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct i8042),
    .io = { &i8042_data_port, &i8042_command_port },
    .irqs = 2,
    .state = STATE_TABLE(struct i8042, r, i8042_fields),
    .reset = i8042_reset,
    .loaded = i8042_loaded,
};
