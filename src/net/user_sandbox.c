// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * user_sandbox.c - see user_sandbox.h.  In this order:
 *
 *   descriptors   all but 0, 1, 2, the VMM's socket and the forwarded ports' (those libslirp
 * has) privileges    none to be gained (no_new_privs), all capabilities dropped, no core dumps
 *   files         Landlock, where the kernel has it: reading below /etc, where resolv.conf
 *                 really lies, and the TFTP folder, nothing else
 *   system calls  seccomp: sockets, memory, time, reading files; no exec, no fork, no writing
 *                 open, no ptrace, no other socket families.  A refused call fails with EPERM.
 */
#include "net/user_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif

#include "base/error.h"
#include "base/fd.h"

static bool drop_privileges(GError **error)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[2] = { 0 };
    struct rlimit zero = { 0, 0 };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fail_errno(error, errno, "no_new_privs");
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* refused to whom has none to drop */
    if (syscall(SYS_capset, &head, none) < 0)
        return fail_errno(error, errno, "dropping capabilities");
    setrlimit(RLIMIT_CORE, &zero);
    setrlimit(RLIMIT_FSIZE, &zero);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return true;
}

static void allow_below(int rules, const char *path)
{
    g_autofd dir = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr below = {
        .allowed_access = LANDLOCK_ACCESS_FS_READ_FILE,
        .parent_fd = dir,
    };

    if (dir >= 0)
        syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &below, 0);
}

/* Version 1 of Landlock is enough for us: all that it can forbid, but reading some folders. */
static bool confine_files(const char *tftp, GError **error)
{
    struct landlock_ruleset_attr all = { .handled_access_fs = (1ull << 13) - 1 };
    g_autofd rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);

    if (rules < 0) /* a kernel without it, or where it is off */
        return true;
    allow_below(rules, "/etc");
    g_autofree char *resolv = realpath("/etc/resolv.conf", NULL); /* often a link elsewhere */
    if (resolv) {
        g_autofree char *dir = g_path_get_dirname(resolv);
        allow_below(rules, dir);
    }
    if (tftp)
        allow_below(rules, tftp);
    if (syscall(SYS_landlock_restrict_self, rules, 0) < 0)
        return fail_errno(error, errno, "landlock");
    return true;
}

#ifdef HAVE_SECCOMP
static const int allowed[] = {
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(fcntl),
    SCMP_SYS(ioctl),
    SCMP_SYS(dup),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(connect),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(sendto),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(recvmmsg),
    SCMP_SYS(shutdown),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(tgkill),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(sched_yield),
    SCMP_SYS(uname),
    SCMP_SYS(access),
    SCMP_SYS(readlink),
};

static bool confine_calls(GError **error)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int err = f ? 0 : -ENOMEM;

    for (u32 i = 0; i < ARRAY_LEN(allowed) && !err; i++)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                               SCMP_A0(SCMP_CMP_EQ, AF_INET));
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                               SCMP_A0(SCMP_CMP_EQ, AF_INET6));
    /* Memory is never made executable; files are opened for reading only. */
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, 4 /* PROT_EXEC */, 0));
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(open), 1,
                               SCMP_A1(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0));
    if (!err)
        err = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0));
    if (!err)
        err = seccomp_load(f);
    if (f)
        seccomp_release(f);
    return !err || fail_errno(error, -err, "seccomp");
}
#else
static bool confine_calls(GError **error UNUSED)
{
    return true;
}
#endif

bool sandbox_enter(const char *tftp, GError **error)
{
    return drop_privileges(error) && confine_files(tftp, error) && confine_calls(error);
}
