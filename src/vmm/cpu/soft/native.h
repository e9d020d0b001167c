// SPDX-License-Identifier: GPL-2.0-or-later
/* native.h - see native.c.  All but native_install() on the vCPU's own thread. */
#pragma once

#include "vmm/cpu/soft/soft.h"

void native_install(void); /* signal handlers, once a process */
bool native_init(struct soft_vcpu *, GError **error);
void native_fini(struct soft_vcpu *);
u32 native_area(u32 vcpus); /* bytes at the end of the code cache */
/* This thread is the vCPU now: GS base, signal stack; and no longer. */
void native_thread_enter(struct soft_vcpu *);
void native_thread_leave(struct soft_vcpu *);
/* Runs host code until it leaves: general registers and flags from v->s and back. */
void native_enter(struct soft_vcpu *, const u8 *code);
/* mmu_fill_fast() for translated code. */
u64 native_fill(struct soft_vcpu *, u64 va, unsigned size, u32 write);
