// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_pty.c - a pseudo-terminal; its path is printed for the person who wants to attach.
 *
 * The other side is kept open by us, so that the line neither hangs up nor changes its settings
 * when programs come and go.  The price: who is there is not seen; output waits (a terminal's
 * buffer and our queue) and the oldest is dropped.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/backend/chardev_impl.h"

struct pty {
    struct chardev c;
    int other;
};

static void pty_fini(struct chardev *c)
{
    fd_close(&container_of(c, struct pty, c)->other);
}

static const struct chardev_ops pty_ops = { .kind = "pty",
                                            .drop_oldest = true,
                                            .fini = pty_fini };

struct chardev *chardev_open_pty(struct vm *vm, const char *id, struct keyval *kv,
                                 GError **error)
{
    struct termios t;
    char name[128];

    if (!keyval_done(kv, error))
        return NULL;
    g_autofd fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || grantpt(fd) < 0 || unlockpt(fd) < 0 ||
        ptsname_r(fd, name, sizeof name) != 0 || !fd_set_nonblock(fd))
        return fail_errno(error, errno, "pseudo-terminal"), NULL;
    g_autofd other = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other < 0)
        return fail_errno(error, errno, "%s", name), NULL;
    if (tcgetattr(other, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(other, TCSANOW, &t);
    }

    struct pty *p = (struct pty *)chardev_alloc(vm, &pty_ops, sizeof *p, id);
    p->other = fd_steal(&other);
    p->c.fd_in = p->c.fd_out = fd_steal(&fd);
    p->c.open = true;
    chardev_set_describe(&p->c, "pty:%s", name);
    fprintf(stderr, "char device redirected to %s (label %s)\n", name, id);
    chardev_start(&p->c);
    return &p->c;
}
