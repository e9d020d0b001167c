// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * log.h - messages for the person who runs the program.  Any thread.
 *
 * A line goes to standard error as "posada-vmm: warning: text" (and to the -D file if one is set).
 * log_guest() is for what a guest does wrong: at most ten lines a second for each limit, the rest
 * are counted and reported later, so that a guest cannot fill a disk.
 */
#pragma once

#include "base/types.h"

struct log_limit {
    _Atomic u64 window; /* the second that is being counted */
    _Atomic u32 lines;
};

void log_set_name(const char *program);        /* call once, from main() */
bool log_set_file(const char *path, char **ret_error); /* also append to this file; g_free *ret_error */
void log_set_verbose(bool on);                 /* show log_info */

void log_error(const char *fmt, ...) PRINTF(1, 2);
void log_warn(const char *fmt, ...) PRINTF(1, 2);
void log_info(const char *fmt, ...) PRINTF(1, 2);
void log_guest_at(struct log_limit *limit, const char *fmt, ...) PRINTF(2, 3);

/* One limit per call site is enough for most. */
#define log_guest(...)                                                                             \
    do {                                                                                           \
        static struct log_limit limit_;                                                            \
        log_guest_at(&limit_, __VA_ARGS__);                                                        \
    } while (0)
