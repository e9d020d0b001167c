// SPDX-License-Identifier: GPL-2.0-or-later
/* log.c - see log.h. One write() a line, so that lines of several threads do not mix. */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

static const char *log_name = "posada";
static int log_fd = -1;
static bool log_verbose;

void log_set_name(const char *program)
{
    log_name = program;
}

void log_set_verbose(bool on)
{
    log_verbose = on;
}

bool log_set_file(const char *path, char **ret_error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (fd < 0) {
        *ret_error = g_strdup_printf("%s: %s", path, g_strerror(errno));
        return false;
    }
    if (log_fd >= 0)
        close(log_fd);
    log_fd = fd;
    return true;
}

static void log_line(const char *level, const char *fmt, va_list ap)
{
    char line[2048];
    int n = g_snprintf(line, sizeof line, "%s: %s", log_name, level);

    n += g_vsnprintf(line + n, sizeof line - 1 - (size_t)n, fmt, ap);
    n = MIN(n, (int)sizeof line - 2);
    line[n++] = '\n';
    ssize_t w UNUSED = write(STDERR_FILENO, line, (size_t)n);
    if (log_fd >= 0)
        w = write(log_fd, line, (size_t)n);
}

#define LOG_FUNCTION(f, level, cond)                                                               \
    void f(const char *fmt, ...)                                                                   \
    {                                                                                              \
        va_list ap;                                                                                \
                                                                                                   \
        if (!(cond))                                                                               \
            return;                                                                                \
        va_start(ap, fmt);                                                                         \
        log_line(level, fmt, ap);                                                                  \
        va_end(ap);                                                                                \
    }
LOG_FUNCTION(log_error, "", true)
LOG_FUNCTION(log_warn, "warning: ", true)
LOG_FUNCTION(log_info, "", log_verbose || log_fd >= 0)

void log_guest_at(struct log_limit *l, const char *fmt, ...)
{
    struct timespec ts;
    va_list ap;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    if (l->window != (u64)ts.tv_sec) {
        l->window = (u64)ts.tv_sec;
        l->lines = 0;
    }
    if (++l->lines > 10)
        return;
    va_start(ap, fmt);
    log_line("guest: ", fmt, ap);
    va_end(ap);
}
