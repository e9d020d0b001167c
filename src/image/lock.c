// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lock.c - keeps two programs from writing to one image.
 *
 * The scheme is QEMU's, so that we and QEMU see each other.  Locks are read locks of single
 * bytes (open file description locks, which do not vanish when another descriptor is closed):
 *
 *     100 + p   this user does p          200 + p   this user does not let others do p
 *     p = 0 consistent read, 1 write, 2 write unchanged, 3 resize
 *
 * A user first takes its bytes, then looks whether somebody else's stand against it: another's
 * 200 + p for each p it does, another's 100 + p for each p it does not allow.
 *
 * The kernel does not say whose an OFD lock is.  For the message we look in /proc for a process
 * that has the file open with such a lock; another user's processes cannot be seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "image/node.h"

enum { DOES = 100, DENIES = 200, P_COUNT = 4 };

static int lock_byte(int fd, int cmd, short type, off_t at, short *ret_type)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    if (fcntl(fd, cmd, &l) < 0)
        return errno;
    if (ret_type)
        *ret_type = l.l_type;
    return 0;
}

static bool holds_locks(const char *pid, const char *fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%s/fdinfo/%s", pid, fd);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && strstr(text, "OFDLCK");
}

/* Does the process have the file open, and locked?  except: our own descriptor. */
static bool process_holds(const char *pid, const struct stat *file, int except)
{
    g_autofree char *folder = g_strdup_printf("/proc/%s/fd", pid);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    bool self = g_ascii_strtoull(pid, NULL, 10) == (u64)getpid();
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("%s/%s", folder, name);
        struct stat st;

        if (stat(path, &st) == 0 && st.st_dev == file->st_dev && st.st_ino == file->st_ino &&
            !(self && g_ascii_strtoll(name, NULL, 10) == except) && holds_locks(pid, name))
            return true;
    }
    return false;
}

/* Who it may be, for people: "qemu-img (process 123)"; NULL: nobody to be seen. */
static char *holder(int fd)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    struct stat file;
    const char *pid;

    while (proc && fstat(fd, &file) == 0 && (pid = g_dir_read_name(proc))) {
        if (!g_ascii_isdigit(*pid) || !process_holds(pid, &file, fd))
            continue;
        if (g_ascii_strtoull(pid, NULL, 10) == (u64)getpid())
            return g_strdup("this process itself");
        g_autofree char *path = g_strdup_printf("/proc/%s/comm", pid);
        g_autofree char *comm = NULL;
        g_file_get_contents(path, &comm, NULL, NULL);
        return g_strdup_printf("%s (process %s)", comm ? g_strchomp(comm) : "a program", pid);
    }
    return NULL;
}

/* Locks as far as QEMU's scheme sees them; a stranger's lock or none at all decides at once. */
static bool take(int fd, const char *path, u32 does, u32 denies, bool *ret_none, GError **error)
{
    for (u32 p = 0; p < P_COUNT; p++) {
        for (u32 k = 0; k < 2; k++) {
            if (!((k ? denies : does) & BIT(p)))
                continue;
            int err = lock_byte(fd, F_OFD_SETLK, F_RDLCK, (k ? DENIES : DOES) + (off_t)p, NULL);
            if (err == EAGAIN || err == EACCES) /* nobody but a stranger write-locks these */
                return fail(error, ERR_BUSY, "image '%s': another program has locked it", path);
            if (err) {
                log_info("image '%s': no locks on this file system (%s)", path,
                         g_strerror(err));
                *ret_none = true;
                return true;
            }
        }
    }
    return true;
}

/* Another one's lock that is against it: of which permission, and whether the other one has it
 * (does) or forbids it. */
static bool find_conflict(int fd, u32 does, u32 denies, u32 *ret_p, bool *ret_has)
{
    for (u32 p = 0; p < P_COUNT; p++) {
        for (u32 k = 0; k < 2; k++) {
            short seen = F_UNLCK;

            if ((k ? denies : does) & BIT(p) &&
                !lock_byte(fd, F_OFD_GETLK, F_WRLCK, (k ? DOES : DENIES) + (off_t)p, &seen) &&
                seen != F_UNLCK) {
                *ret_p = p;
                *ret_has = k;
                return true;
            }
        }
    }
    return false;
}

bool lock_file(int fd, const char *path, u32 does, u32 denies, GError **error)
{
    static const char *const names[P_COUNT] = { "consistent read", "write", "write unchanged",
                                                "resize" };
    enum { TRIES = 200, STEP_US = 10000 };
    bool none = false, has;
    u32 p;

    if (!take(fd, path, does, denies, &none, error) || none)
        return none;
    for (u32 i = 0; find_conflict(fd, does, denies, &p, &has); i++) {
        g_autofree char *who = holder(fd);

        if (!who && i < TRIES) {
            /* The kernel holds the files of a killed process's io_uring a little longer. */
            g_usleep(STEP_US);
            continue;
        }
        if (!who)
            who = g_strdup("another program");
        return has ? fail(error, ERR_BUSY,
                          "image '%s': the shared \"%s\" lock is not to be had: %s writes to "
                          "the image; stop it first",
                          path, names[p], who)
                   : fail(error, ERR_BUSY,
                          "image '%s': the \"%s\" lock is not to be had: %s uses the image and "
                          "does not share it; stop it first",
                          path, names[p], who);
    }
    return true;
}

void lock_drop(int fd, u32 does, u32 denies)
{
    for (u32 p = 0; p < P_COUNT; p++) {
        if (does & BIT(p))
            lock_byte(fd, F_OFD_SETLK, F_UNLCK, DOES + (off_t)p, NULL);
        if (denies & BIT(p))
            lock_byte(fd, F_OFD_SETLK, F_UNLCK, DENIES + (off_t)p, NULL);
    }
}
