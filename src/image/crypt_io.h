// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * crypt_io.h - bytes of a node that are encrypted there.
 *
 * Everything passes through a buffer of ours: a guest's memory holds plain text only, and may
 * change while it is read.  Requests need no alignment; a write that does not begin and end
 * with a sector reads the rest of it first, so nobody else may write to those sectors
 * meanwhile.
 */
#pragma once

#include "image/crypt.h"
#include "image/node.h"

/* at: in the node; iv_at: what sectors are numbered by, which has the same place in a sector.
 */
int crypt_read(struct crypt *, struct node *, u64 at, u64 iv_at, u64 len, struct cursor *);
int crypt_write(struct crypt *, struct node *, u64 at, u64 iv_at, u64 len, struct cursor *);
