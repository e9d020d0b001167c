// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * journal.h - for tests: a protocol in memory that remembers every write and flush, and can say
 * what a disk would hold after a power cut.
 *
 * What was complete when the last complete flush began is there.  Of what came later up to the
 * cut, each sector of each write is there or not, in any order.
 */
#pragma once

#include "image/node.h"

struct journal; /* begins with its struct node */
struct node *journal_new(void);
/* One of several on one time, so that a cut hits all of them at the same moment; each has its
 * own flushes.  name: as overlays call it. */
struct node *journal_new_on(_Atomic u32 *clock, const char *name);
u32 journal_length_at(struct node *, u32 time); /* operations before that time */
u32 journal_length(struct node *); /* operations so far */
/* The last moment before a flush at or after `from`: when most is at stake. */
u32 journal_before_flush(struct node *, u32 from);
/* A journal whose content is that of a cut after `length` operations. */
struct node *journal_cut(struct node *, u32 length, GRand *);
/* A copy of the content, n bytes; g_free. */
u8 *journal_bytes(struct node *, u64 *ret_n);
/* The next `writes` operations go well, then all fail with -EIO, flushes too; UINT32_MAX:
 * never. */
void journal_fail_after(struct node *, u32 writes);
