// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main.c - the program posada-vmm: one guest from a command line, until it ends.
 *
 * Exit status: 0 when the guest powered off or somebody asked to quit, 1 when it could not be
 * started or cannot go on, and what the guest wrote to isa-debug-exit.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/vm.h"
#include "vmm/monitor/monitor.h"
#include "vmm/options.h"

struct program {
    struct options *o;
    struct machine *machine;
    struct vm *vm;
    int parent;  /* pipe to the process that waits for -daemonize; -1 */
    int pidfile; /* locked while we run; -1 */
    GSource *signals[3];
};

/* Dying of a bug or an abort must not leave the terminal raw. The default action follows. */
static void on_fatal(int sig)
{
    chardev_restore_terminal();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void signals_prepare(void)
{
    static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGQUIT };
    struct sigaction sa = { .sa_handler = on_fatal, .sa_flags = SA_RESETHAND };

    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        sigaction(fatal[i], &sa, NULL);
}

static gboolean on_quit_signal(gpointer data)
{
    vm_request(data, VM_REQ_QUIT, VM_BY_SIGNAL);
    return G_SOURCE_CONTINUE;
}

static void signals_watch(struct program *p)
{
    static const int quit[] = { SIGTERM, SIGINT, SIGHUP };

    for (size_t i = 0; i < ARRAY_LEN(quit); i++) {
        p->signals[i] = g_unix_signal_source_new(quit[i]);
        g_source_set_callback(p->signals[i], on_quit_signal, p->vm, NULL);
        g_source_attach(p->signals[i], p->vm->main);
    }
}

/* Nobody could look at or restart a guest that cannot go on. */
static void on_event(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct program *p = opaque;

    if (ev == VM_EV_STOP && p->vm->run == RUN_INTERNAL_ERROR && !p->o->monitors->len)
        vm_request_exit(p->vm, 1);
}

/* Holds a lock on it as long as the guest lives, as others who look at the file expect. */
static bool pidfile_write(struct program *p, GError **error)
{
    const char *path = p->o->pidfile;
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());

    if (!path)
        return true;
    g_autofd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail_errno(error, errno, "-pidfile: %s", path);
    if (lockf(fd, F_TLOCK, 0) != 0)
        return fail_errno(error, errno, "-pidfile: %s: locked by another process", path);
    if (ftruncate(fd, 0) != 0 || !fd_write_all(fd, text, strlen(text), 0, error)) {
        g_prefix_error(error, "-pidfile: %s: ", path);
        return false;
    }
    p->pidfile = fd_steal(&fd);
    return true;
}

/* The caller's process waits until the guest is ready to run and takes over the status. */
static bool daemonize(struct program *p, GError **error)
{
    int fd[2];
    char ok;

    if (!p->o->daemonize)
        return true;
    if (pipe2(fd, O_CLOEXEC) != 0)
        return fail_errno(error, errno, "-daemonize: pipe");
    pid_t pid = fork();
    if (pid < 0)
        return fail_errno(error, errno, "-daemonize: fork");
    if (pid > 0) {
        close(fd[1]);
        ssize_t n = read(fd[0], &ok, 1);
        _exit(n == 1 ? 0 : 1);
    }
    close(fd[0]);
    p->parent = fd[1];
    setsid();
    return true;
}

static bool daemon_ready(struct program *p, GError **error)
{
    if (p->parent < 0)
        return true;
    g_autofd null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || chdir("/") != 0)
        return fail_errno(error, errno, "-daemonize: /dev/null");
    for (int i = 0; i < 3; i++)
        dup2(null, i);
    ssize_t n UNUSED = write(p->parent, "", 1);
    fd_close(&p->parent);
    return true;
}

/* The -monitor, -qmp and -mon ones, and one for each -serial mon:... */
static bool monitors_open(struct program *p, GError **error)
{
    for (guint i = 0; i < p->o->monitors->len; i++) {
        const struct monitor_desc *d = p->o->monitors->pdata[i];
        g_autofree char *id = g_strdup_printf("compat_monitor%u", i);
        g_autoptr(GError) why = NULL;
        struct chardev *c = chardev_new(p->vm, id, d->chardev, &why);
        /* -monitor mon:stdio and -qmp none are possible, if of little use. */
        bool ok = !why && (!c || (d->qmp ? monitor_open_qmp(p->vm, c, d->pretty, &why)
                                         : monitor_open_hmp(p->vm, c, &why)));
        if (!ok) {
            g_propagate_prefixed_error(error, g_steal_pointer(&why),
                                       "%s: ", d->qmp ? "-qmp" : "-monitor");
            return false;
        }
    }
    for (unsigned i = 0; i < SERIALS_MAX; i++) {
        const char *spec = p->o->machine->serial[i];
        g_autofree char *id = g_strdup_printf("serial%u", i);
        struct chardev *c = chardev_find(p->vm, id);

        if (spec && g_str_has_prefix(spec, "mon:") && c && !monitor_open_hmp(p->vm, c, error))
            return false;
    }
    return true;
}

static bool start(struct program *p, GError **error)
{
    g_autofree char *why = NULL;

    if (p->o->log_file && !log_set_file(p->o->log_file, &why))
        return fail(error, ERR_IO, "-D: %s", why);
    log_set_verbose(p->o->verbose);
    if (!daemonize(p, error) || !pidfile_write(p, error))
        return false;
    p->machine = machine_build(p->o->machine, error);
    if (!p->machine)
        return false;
    p->vm = machine_vm(p->machine);
    vm_listen(p->vm, on_event, p);
    signals_watch(p);
    if (!monitors_open(p, error))
        return false;
    return daemon_ready(p, error);
}

static void stop(struct program *p)
{
    for (size_t i = 0; i < ARRAY_LEN(p->signals); i++) {
        if (!p->signals[i])
            continue;
        g_source_destroy(p->signals[i]);
        g_source_unref(p->signals[i]);
    }
    if (p->machine)
        monitor_close_all(p->vm);
    machine_free(p->machine);
    if (p->pidfile >= 0)
        unlink(p->o->pidfile);
    fd_close(&p->pidfile);
    options_free(p->o);
}

int main(int argc, char **argv)
{
    struct program p = { .parent = -1, .pidfile = -1 };
    g_autoptr(GError) error = NULL;
    int status = 1;

    log_set_name("posada-vmm");
    signals_prepare();
    p.o = options_parse(argc, argv, &error);
    if (p.o && p.o->print) {
        fputs(p.o->print, stdout);
        options_free(p.o);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    if (p.o && start(&p, &error)) {
        if (!p.o->stopped)
            vm_cont(p.vm);
        vm_run(p.vm);
        status = p.vm->exit_status;
    }
    if (error)
        log_error("%s", error->message);
    stop(&p);
    return status;
}
