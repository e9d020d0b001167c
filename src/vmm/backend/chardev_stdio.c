// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_stdio.c - standard input and output as a serial line; a terminal is put into raw
 * mode.
 *
 * The descriptors are shared with the shell and whoever else has them, so O_NONBLOCK must not
 * be set on them: they are opened anew through /proc where that works (terminals, pipes), else
 * written in pieces that poll() has promised.  signal=off takes the terminal's signal keys too.
 *
 * The one mutable global: a process has one terminal, and a signal handler must be able to put
 * it back.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/backend/chardev_impl.h"
#include "vmm/core/vm.h"

static struct termios terminal_before;
static atomic_int terminal_changed; /* the process that changed it, else 0 */

void chardev_restore_terminal(void)
{
    int pid = getpid();

    /* A forked child that exits must not touch its parent's terminal. */
    if (!atomic_compare_exchange_strong(&terminal_changed, &pid, 0))
        return;
    int saved = errno;
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
    errno = saved;
}

static void terminal_raw(bool signals)
{
    struct termios t;

    /* In the background tcsetattr() would stop us. */
    if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() ||
        tcgetattr(STDIN_FILENO, &t) < 0)
        return;
    terminal_before = t;
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag |= OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals)
        t.c_lflag &= ~(tcflag_t)ISIG;
    t.c_cflag &= ~(tcflag_t)(CSIZE | PARENB);
    t.c_cflag |= CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    atomic_store(&terminal_changed, getpid());
    tcsetattr(STDIN_FILENO, TCSANOW, &t);
    atexit(chardev_restore_terminal);
}

/* The same file, by a description of our own that is non-blocking; -1 where that cannot be. */
static int reopen(int fd, int mode)
{
    char path[32];
    struct stat st;

    if (fstat(fd, &st) < 0 || !(S_ISFIFO(st.st_mode) || isatty(fd)))
        return -1;
    g_snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static void stdio_fini(struct chardev *c UNUSED)
{
    chardev_restore_terminal();
}

static const struct chardev_ops stdio_ops = { .kind = "stdio",
                                              .drop_oldest = true,
                                              .fini = stdio_fini };

struct chardev *chardev_open_stdio(struct vm *vm, const char *id, struct keyval *kv,
                                   GError **error)
{
    bool signals = keyval_bool(kv, "signal", true);

    if (!keyval_done(kv, error))
        return NULL;
    for (u32 i = 0; vm->chardevs && i < vm->chardevs->len; i++) {
        struct chardev *other = vm->chardevs->pdata[i];
        if (other->ops == &stdio_ops)
            return fail(error, ERR_BUSY, "standard input and output are in use by '%s'",
                        other->id),
                   NULL;
    }

    struct chardev *c = chardev_alloc(vm, &stdio_ops, sizeof *c, id);
    c->fd_in = reopen(STDIN_FILENO, O_RDONLY);
    if (c->fd_in < 0)
        c->fd_in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    c->fd_out = reopen(STDOUT_FILENO, O_WRONLY);
    c->may_block = c->fd_out < 0;
    if (c->fd_out < 0)
        c->fd_out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    c->open = true;
    terminal_raw(signals);
    chardev_start(c);
    return c;
}
