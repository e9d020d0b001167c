// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lapic.h - local APICs: one device per vCPU, and one for the register page that all share.
 *
 * A vCPU reaches its LAPIC through vcpu->lapic_ops from its own thread.  Everybody else may
 * deliver to it at any time, with any lock held: that sets a bit and signals the vCPU.
 */
#pragma once

#include "vmm/core/dev.h"

/* The APIC timer's input clock; CPUID leaf 0x40000010 EBX may announce it (in kHz). */
enum { LAPIC_BUS_HZ = 1000000000 };
enum { LAPIC_PAGE = 0xfee00000u };

extern const struct dev_type lapic_type;      /* property "vcpu" (pointer) */
extern const struct dev_type lapic_page_type; /* mem[0]: the page, at LAPIC_PAGE */
extern const struct lapic_ops lapic_ops;

/* Makes, realizes and ties a LAPIC to the vCPU (vcpu->lapic, lapic_ops). NULL and *error. */
struct dev *lapic_make(struct vm *, struct vcpu *, GError **error);

enum lapic_mode {
    LAPIC_FIXED,
    LAPIC_LOWEST,
    LAPIC_SMI,
    LAPIC_RESERVED,
    LAPIC_NMI,
    LAPIC_INIT,
    LAPIC_SIPI,
    LAPIC_EXTINT,
};
struct lapic_msg {
    u32 dest;
    u8 vector, mode; /* enum lapic_mode */
    bool logical, level;
    bool wide; /* dest is an x2APIC's 32 bits, not 8 */
};
/* Any thread, any lock held. Returns whether some LAPIC took it. */
bool lapic_deliver(struct vm *, const struct lapic_msg *);
/* What a write of data to 0xfeexxxxx does (SDM 3, 11.11). Any thread, any lock held. */
bool lapic_deliver_msi(struct vm *, u64 addr, u32 data);
/* Pins LINT0 (0: the PIC's INTR) and LINT1 (1: NMI) of all LAPICs. Any thread, any lock held.
 */
void lapic_lint(struct vm *, unsigned pin, bool level);

/* For the boot processor's debuggers and "info lapic". */
void lapic_print(struct dev *, GString *to);
