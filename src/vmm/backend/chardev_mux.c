// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_mux.c - several users (serial port, monitor) on one terminal, and the escape key.
 *
 * Input goes to the user with the focus; output of all of them goes out.  Ctrl-A starts a
 * command: x  quit                 c  give the input to the next user h  help b, s  break
 * Ctrl-A  the key itself The mux always reads (up to 4 KiB ahead for each user), so that Ctrl-A
 * x works when the guest does not listen.
 */
#include <string.h>
#include <unistd.h>

#include "vmm/backend/chardev_impl.h"
#include "vmm/core/vm.h"

enum { ESCAPE = 0x01, USERS_MAX = 4, AHEAD = 4096 };

struct mux_user {
    const struct chardev_user *user;
    void *opaque;
    u8 ahead[AHEAD]; /* ring: read, not yet taken */
    u32 at, n;
};

struct mux {
    struct chardev c;
    struct chardev *base;
    struct mux_user users[USERS_MAX];
    u32 n_users, focus;
    u32 told; /* the user that believes it has the focus */
    bool escaped, terminal;
};

static const char help[] = "\r\n"
                           "Ctrl-A h       this help\r\n"
                           "Ctrl-A x       quit\r\n"
                           "Ctrl-A c       switch between console and monitor\r\n"
                           "Ctrl-A b       send a break\r\n"
                           "Ctrl-A Ctrl-A  send Ctrl-A\r\n";

static struct mux *mux_of(struct chardev *c)
{
    return container_of(c, struct mux, c);
}

static void user_event(struct mux *m, u32 i, enum chardev_event ev)
{
    if (i < m->n_users && m->users[i].user->event)
        m->users[i].user->event(m->users[i].opaque, ev);
}

static void mux_focus(struct mux *m, u32 to)
{
    if (to == m->focus || to >= m->n_users)
        return;
    m->focus = to;
    chardev_accept(&m->c); /* the pump tells them */
}

/* On the main loop's next turn, so that users that attach one after the other see one focus. */
static void mux_tell(struct mux *m)
{
    if (m->told == m->focus)
        return;
    user_event(m, m->told, CHARDEV_FOCUS_OUT);
    m->told = m->focus;
    user_event(m, m->focus, CHARDEV_FOCUS_IN);
}

/* Hands read-ahead bytes on while the users take them. */
static void mux_pump(struct chardev *c)
{
    struct mux *m = mux_of(c);

    mux_tell(m);
    for (u32 i = 0; i < m->n_users; i++) {
        struct mux_user *u = &m->users[i];
        while (u->n) {
            size_t room = u->user->can_read(u->opaque);
            u32 piece = MIN(u->n, AHEAD - u->at);
            u8 bytes[256]; /* a copy: the handler may come back to us */

            piece = (u32)MIN(MIN(piece, sizeof bytes), room);
            if (!piece)
                break;
            memcpy(bytes, u->ahead + u->at, piece);
            u->at = (u->at + piece) % AHEAD;
            u->n -= piece;
            u->user->read(u->opaque, bytes, piece);
        }
    }
    chardev_accept(m->base);
}

static void mux_put(struct mux *m, u8 byte)
{
    struct mux_user *u = &m->users[m->focus];

    if (m->focus < m->n_users && u->n < AHEAD)
        u->ahead[(u->at + u->n++) % AHEAD] = byte;
}

static void mux_command(struct mux *m, u8 key)
{
    switch (key) {
    case 'x':
        vm_request(m->c.vm, VM_REQ_QUIT, VM_BY_HOST_UI);
        break;
    case 'c':
        if (m->n_users)
            mux_focus(m, (m->focus + 1) % m->n_users);
        break;
    case 'b':
    case 's':
        mux_pump(&m->c); /* what was typed before comes before */
        user_event(m, m->focus, CHARDEV_BREAK);
        break;
    case ESCAPE:
        mux_put(m, ESCAPE);
        break;
    case 'h':
    case '?':
        chardev_write(m->base, help, sizeof help - 1);
        break;
    default:
        break;
    }
}

static size_t base_can_read(void *opaque)
{
    struct mux *m = opaque;

    return m->focus < m->n_users ? AHEAD - m->users[m->focus].n : 64;
}

static void base_read(void *opaque, const u8 *bytes, size_t n)
{
    struct mux *m = opaque;

    for (size_t i = 0; i < n; i++) {
        if (m->escaped)
            mux_command(m, bytes[i]);
        else if (bytes[i] != ESCAPE)
            mux_put(m, bytes[i]);
        m->escaped = !m->escaped && bytes[i] == ESCAPE;
    }
    mux_pump(&m->c);
}

static void base_event(void *opaque, enum chardev_event ev)
{
    struct mux *m = opaque;

    if (ev == CHARDEV_BREAK) {
        user_event(m, m->focus, ev);
        return;
    }
    if (ev == CHARDEV_OPENED || ev == CHARDEV_CLOSED) {
        pthread_mutex_lock(&m->c.lock);
        m->c.open = ev == CHARDEV_OPENED;
        pthread_mutex_unlock(&m->c.lock);
    }
    for (u32 i = 0; i < m->n_users; i++)
        user_event(m, i, ev);
}

static const struct chardev_user base_user = { .can_read = base_can_read,
                                               .read = base_read,
                                               .event = base_event };

static size_t mux_write(struct chardev *c, const u8 *bytes, size_t n)
{
    return chardev_write(mux_of(c)->base, bytes, n);
}

static void mux_attach(struct chardev *c, const struct chardev_user *user, void *opaque)
{
    struct mux *m = mux_of(c);

    if (m->n_users == USERS_MAX)
        return;
    u32 i = m->n_users++;
    m->users[i] = (struct mux_user){ .user = user, .opaque = opaque };
    c->user = user; /* so that it counts as used */
    if (c->open)
        user_event(m, i, CHARDEV_OPENED);
    if (!user->background)
        mux_focus(m, i);
}

static void mux_detach(struct chardev *c, void *opaque)
{
    struct mux *m = mux_of(c);

    for (u32 i = 0; i < m->n_users; i++) {
        if (m->users[i].opaque != opaque)
            continue;
        m->n_users--;
        m->told = USERS_MAX;
        memmove(&m->users[i], &m->users[i + 1], (m->n_users - i) * sizeof m->users[0]);
        if (m->focus > i || m->focus >= m->n_users)
            m->focus = m->focus ? m->focus - 1 : 0;
        break;
    }
    if (!m->n_users)
        c->user = NULL;
}

static void mux_fini(struct chardev *c)
{
    chardev_detach(mux_of(c)->base, c);
}

static const struct chardev_ops mux_ops = {
    .kind = "mux",
    .write = mux_write,
    .attach = mux_attach,
    .detach = mux_detach,
    .pump = mux_pump,
    .fini = mux_fini,
};

struct chardev *chardev_open_mux(struct vm *vm, const char *id, struct chardev *base)
{
    struct mux *m = (struct mux *)chardev_alloc(vm, &mux_ops, sizeof *m, id);

    m->base = base;
    m->told = USERS_MAX;
    m->c.open = base->open;
    chardev_set_describe(&m->c, "mux:%s", base->describe);
    chardev_start(&m->c);
    chardev_attach(base, &base_user, m);
    if (strcmp(base->ops->kind, "stdio") == 0 && isatty(STDIN_FILENO) &&
        isatty(STDOUT_FILENO)) {
        static const char hint[] = "Ctrl-A x quits, Ctrl-A h helps\r\n";
        chardev_write(base, hint, sizeof hint - 1);
    }
    return &m->c;
}
