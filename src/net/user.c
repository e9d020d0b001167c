// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user.c - user-mode network: the VMM's end.  The TCP/IP stack (libslirp) lives in a process of
 * its own, posada-net, because it parses what the guest and the whole network send.
 *
 *   VMM  <-- SOCK_SEQPACKET, one frame a packet -->  posada-net
 *
 * The helper's first packet says how it went: "ok", or why not.  It ends when the socket
 * closes. It is looked for beside our own program, then in ../libexec/posada.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "net/net_impl.h"
#include "net/user_opts.h"

enum { HELPER_FD = 3, START_MS = 10000 };

struct net_user_mode {
    struct net n;
    pid_t helper;
};

static ssize_t user_recv(struct net *n, u8 *buf, size_t size)
{
    ssize_t r = recv(n->fd, buf, size, MSG_DONTWAIT);

    if (r < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    return r ? r : -1;
}

static bool user_send(struct net *n, const struct iovec *iov, int count, size_t len)
{
    struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count };

    return sendmsg(n->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

static void user_fini(struct net *n)
{
    struct net_user_mode *u = container_of(n, struct net_user_mode, n);

    if (u->helper > 0) { /* it holds nothing that could be lost */
        kill(u->helper, SIGKILL);
        while (waitpid(u->helper, NULL, 0) < 0 && errno == EINTR)
            ;
    }
}

static const struct net_ops user_ops = {
    .kind = "user", .large = true, .recv = user_recv, .send = user_send, .fini = user_fini
};

static char *helper_path(GError **error)
{
    static const char *const places[] = { "posada-net", "src/net/posada-net",
                                          "../libexec/posada/posada-net" };
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n < 0)
        return fail_errno(error, errno, "/proc/self/exe"), NULL;
    self[n] = 0;
    g_autofree char *dir = g_path_get_dirname(self);
    for (u32 i = 0; i < ARRAY_LEN(places); i++) {
        g_autofree char *path = g_build_filename(dir, places[i], NULL);
        if (access(path, X_OK) == 0)
            return g_steal_pointer(&path);
    }
    fail(error, ERR_NOT_FOUND,
         "the helper program posada-net is not there; it was looked for in %s and in "
         "../libexec/posada",
         dir);
    return NULL;
}

static pid_t helper_spawn(const char *path, const char *opts, int fd, GError **error)
{
    const char *argv[] = { "posada-net", opts, NULL };
    extern char **environ;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    pid_t pid;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_adddup2(&files, STDIN_FILENO, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, fd, HELPER_FD); /* also clears close-on-exec */
    posix_spawnattr_init(&attr);
    /* A session of its own: the terminal's keys are not for it. */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETSID);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    int err = posix_spawn(&pid, path, &files, &attr, (char **)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attr);
    return err ? (fail_errno(error, err, "%s", path), -1) : pid;
}

/* Waits for the helper's word. */
static bool helper_ready(int fd, GError **error)
{
    char word[512];
    struct pollfd p = { .fd = fd, .events = POLLIN };
    int ready;

    do {
        ready = poll(&p, 1, START_MS);
    } while (ready < 0 && errno == EINTR);
    if (ready <= 0)
        return fail(error, ERR_FAILED, "posada-net does not answer");
    ssize_t n = recv(fd, word, sizeof word - 1, MSG_DONTWAIT);
    if (n <= 0)
        return fail(error, ERR_FAILED, "posada-net ended at once");
    word[n] = 0;
    return strcmp(word, "ok") == 0 || fail(error, ERR_FAILED, "%s", word);
}

struct net *net_open_user(const char *id, struct keyval *kv, GError **error)
{
    struct user_opts o;
    int pair[2];

    if (!user_opts_read(kv, &o, error))
        return NULL;
    user_opts_clear(&o);
    if (!keyval_done(kv, error))
        return NULL;
    g_autofree char *path = helper_path(error);
    if (!path)
        return NULL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return fail_errno(error, errno, "socketpair"), NULL;
    g_autofd ours = pair[0], theirs = pair[1];
    int size = 1 << 20; /* as far as the host lets us */
    setsockopt(ours, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(theirs, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (theirs == HELPER_FD) { /* dup2 onto itself would leave close-on-exec set */
        int up = fcntl(theirs, F_DUPFD_CLOEXEC, HELPER_FD + 1);
        fd_close(&theirs);
        theirs = up;
    }

    struct net_user_mode *u = (struct net_user_mode *)net_alloc(&user_ops, sizeof *u, id);
    u->n.fd = fd_steal(&ours);
    u->helper = helper_spawn(path, keyval_text(kv), theirs, error);
    fd_close(&theirs);
    if (u->helper > 0 && helper_ready(u->n.fd, error) && net_start(&u->n, error))
        return &u->n;
    net_free(&u->n);
    return NULL;
}
