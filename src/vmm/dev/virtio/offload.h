// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * offload.h - what network drivers leave to the card: checksums and cutting long TCP segments.
 * Frames are copies: nobody changes them meanwhile.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

/* Completes the checksum whose field, at start + offset, holds the sum of the pseudo header.
 * false: that is not inside the frame. */
bool offload_checksum(u8 *frame, size_t n, u32 start, u32 offset) MUST_CHECK;
/* Is this an IP frame whose TCP or UDP checksum is right?  false also for what it cannot say.
 */
bool offload_verify(const u8 *frame, size_t n);
/* Cuts a TCP frame, over IPv4 or IPv6, into ones of at most mss bytes of payload, each with
 * its headers and checksums. false: it is no such frame, or mss is unreasonable. */
bool offload_segment(const u8 *frame, size_t n, u32 mss,
                     void (*send)(void *opaque, const struct iovec *, int n),
                     void *opaque) MUST_CHECK;
