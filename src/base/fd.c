// SPDX-License-Identifier: GPL-2.0-or-later
/* fd.c - see fd.h. */
#include "base/fd.h"

#include <errno.h>

#include "base/error.h"

bool fd_read_all(int fd, void *to, size_t n, s64 at, GError **error)
{
    for (size_t done = 0; done < n;) {
        ssize_t r = at < 0 ? read(fd, (char *)to + done, n - done)
                           : pread(fd, (char *)to + done, n - done, at + (s64)done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return fail_errno(error, errno, "read of %zu bytes", n);
        if (r == 0)
            return fail(error, ERR_FORMAT, "file ends after %zu of %zu bytes", done, n);
        done += (size_t)r;
    }
    return true;
}

bool fd_write_all(int fd, const void *from, size_t n, s64 at, GError **error)
{
    for (size_t done = 0; done < n;) {
        ssize_t r = at < 0 ? write(fd, (const char *)from + done, n - done)
                           : pwrite(fd, (const char *)from + done, n - done, at + (s64)done);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return fail_errno(error, errno, "write of %zu bytes", n);
        done += (size_t)r;
    }
    return true;
}
