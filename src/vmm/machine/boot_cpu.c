// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * boot_cpu.c - the first state of the processors after a direct boot.
 *
 * It is that of the Linux boot protocol (32-bit and 64-bit), which the multiboot and PVH
 * entries accept too: flat segments, interrupts off, paging off or mapped 1:1.
 */
#include <string.h>

#include "vmm/core/vm.h"
#include "vmm/cpu/cpu.h"
#include "vmm/cpu/x86/state.h"
#include "vmm/machine/boot.h"

/* SeaBIOS' choice: all is write-back but the hole below 4 GiB and what is no RAM below 1 MiB.
 */
static void mtrr_set(struct x86_msrs *m, u32 phys_bits)
{
    const u64 wb = 0x0606060606060606, wp = 0x0505050505050505;

    m->mtrr_def_type = 0xc06;
    m->mtrr_fix[0] = m->mtrr_fix[1] = wb;
    m->mtrr_fix[2] = 0;
    for (int i = 3; i < 11; i++)
        m->mtrr_fix[i] = wp;
    m->mtrr_var_base[0] = 0xc0000000;
    m->mtrr_var_mask[0] = ((BIT(phys_bits) - 1) & ~0x3fffffffull) | 0x800;
}

static void segments_flat(struct x86_state *s, bool lng)
{
    const struct x86_seg data = { .sel = 0x18, .limit = 0xffffffff, .attr = 0xc093 };
    const struct x86_seg code = { .sel = 0x10,
                                  .limit = 0xffffffff,
                                  .attr = lng ? 0xa09b : 0xc09b };

    for (int i = 0; i < X86_SEGS; i++)
        s->seg[i] = data;
    s->seg[CS] = code;
}

static void enter_bsp(const struct boot *b, struct x86_state *s)
{
    segments_flat(s, b->lng);
    s->gdt.base = b->gdt;
    s->gdt.limit = 4 * 8 - 1;
    s->idt.base = 0;
    s->idt.limit = 0;
    s->cr0 = CR0_PE | CR0_ET;
    s->cr4 = 0;
    if (b->lng) {
        s->cr0 |= CR0_PG | CR0_NE | CR0_WP | CR0_MP;
        s->cr4 = CR4_PAE;
        s->cr3 = b->cr3;
        s->msr.efer = EFER_LME | EFER_LMA;
    }
    memset(s->gpr, 0, sizeof s->gpr);
    s->gpr[RAX] = b->rax;
    s->gpr[RBX] = b->rbx;
    s->gpr[RSI] = b->rsi;
    s->rip = b->rip;
    s->rflags = FL_1;
}

bool boot_enter(const struct boot *b, struct vm *vm, GError **error)
{
    struct x86_state *s = g_aligned_alloc0(1, sizeof *s, 64);
    bool ok = true;

    for (u32 i = 0; ok && i < vm->n_vcpus; i++) {
        ok = cpu_get_state(vm->vcpus[i], s, error);
        if (!ok)
            break;
        mtrr_set(&s->msr, vm->phys_bits ? vm->phys_bits : 36);
        if (i == 0)
            enter_bsp(b, s);
        ok = cpu_set_state(vm->vcpus[i], s, error);
    }
    g_aligned_free(s);
    return ok;
}
