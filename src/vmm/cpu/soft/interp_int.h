// SPDX-License-Identifier: GPL-2.0-or-later
/* interp_int.h - handlers of interp_flow.c for the table in interp_int.c. */
#pragma once

#include "vmm/cpu/soft/interp.h"

#define COND_FNS(f)                                                                            \
    f##_o, f##_no, f##_b, f##_nb, f##_z, f##_nz, f##_be, f##_nbe, f##_s, f##_ns, f##_p,        \
        f##_np, f##_l, f##_nl, f##_le, f##_nle

interp_fn COND_FNS(op_j), COND_FNS(op_set), COND_FNS(op_cmov);
interp_fn op_jmp, op_call, op_ret, op_loop, op_loope, op_loopne, op_jcxz, op_push, op_pop,
    op_pusha, op_popa, op_pushf, op_popf, op_enter, op_leave, op_int, op_int1, op_int3, op_into,
    op_bound, op_fence;
