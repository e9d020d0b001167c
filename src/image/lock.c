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
 */
#include <errno.h>
#include <fcntl.h>

#include "base/error.h"
#include "base/log.h"
#include "image/node.h"

enum { DOES = 100, DENIES = 200 };
enum { P_READ = 0, P_WRITE = 1, P_RESIZE = 3, P_COUNT = 4 };

static int lock_byte(int fd, int cmd, short type, off_t at, short *ret_type)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

    if (fcntl(fd, cmd, &l) < 0)
        return errno;
    if (ret_type)
        *ret_type = l.l_type;
    return 0;
}

bool lock_file(int fd, const char *path, bool write, GError **error)
{
    static const char *const names[P_COUNT] = { "consistent read", "write", "write unchanged",
                                                "resize" };
    u32 does = BIT(P_READ) | (write ? BIT(P_WRITE) : 0);
    u32 denies = BIT(P_WRITE) | (write ? BIT(P_RESIZE) : 0);

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
                return true;
            }
        }
    }
    for (u32 p = 0; p < P_COUNT; p++) {
        short seen = F_UNLCK;

        if (does & BIT(p) && !lock_byte(fd, F_OFD_GETLK, F_WRLCK, DENIES + (off_t)p, &seen) &&
            seen != F_UNLCK)
            return fail(
                error, ERR_BUSY,
                "image '%s': the \"%s\" lock is not to be had: another program uses the "
                "image and does not share it; stop it first",
                path, names[p]);
        if (denies & BIT(p) && !lock_byte(fd, F_OFD_GETLK, F_WRLCK, DOES + (off_t)p, &seen) &&
            seen != F_UNLCK)
            return fail(error, ERR_BUSY,
                        "image '%s': the shared \"%s\" lock is not to be had: another program "
                        "writes to the image; stop it first",
                        path, names[p]);
    }
    return true;
}
