// SPDX-License-Identifier: GPL-2.0-or-later
/* direct_code.h - which code of the guest may run as it is; see direct_code.c. */
#pragma once

#include <glib.h>

#include "base/types.h"

struct soft_vcpu;
struct soft_vm;
struct direct_code {
    _Atomic u8 *judged; /* by RAM page: has a verdict */
};

struct direct_code *direct_code_new(u64 n_pages); /* NULL: no memfd */
void direct_code_free(struct direct_code *);
int direct_code_fd(const struct direct_code *); /* of patched copies */

enum direct_verdict { CODE_CLEAN, CODE_PATCHED, CODE_EXCLUDED };
/*
 * May the page at `host` (RAM page `index`, at most one user address `va` of it) be executed?
 * prev, next: the user pages before and behind it, where there are any.  CODE_PATCHED: only the
 * copy at *ret_slot * 4096 in the memfd; a write to the page ends that, and tells all vCPUs
 * (v->direct_again).  On the vCPU's thread, vector registers saved.
 */
enum direct_verdict direct_code_judge(struct soft_vcpu *v, u64 index, _Atomic u8 *flags,
                                      const u8 *host, const u8 *prev, const u8 *next,
                                      u32 *ret_slot);
/* The interpreter has executed the instruction of `len` bytes at `at` in RAM page `index`, one
 * of those that are looked for. */
void direct_code_confirm(struct direct_code *, u64 index, u32 at, const u8 *bytes,
                         unsigned len);
/* Bytes of a page with translated code were written: does somebody have to be told? Any thread,
 * vector registers live; then, with these saved: */
static inline bool direct_code_concerns(const struct direct_code *c, u64 index)
{
    return c && c->judged[index];
}
void direct_code_written(struct soft_vm *, u64 index);
