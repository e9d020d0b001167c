// SPDX-License-Identifier: GPL-2.0-or-later
/* model.h - what the files of this folder share: feature names and the table of CPU models. */
#pragma once

#include "vmm/cpu/x86/cpuid.h"

struct cpu_model {
    const char *name;
    const char *vendor; /* 12 characters; NULL: as base */
    u16 family, model, stepping;
    const char *brand;
    const char *base; /* model whose features this one has too */
    const char *add, *del;
};
/* Ends with name NULL. "max" and "host" are not in it: they are made from the host. */
extern const struct cpu_model cpu_models[];
const struct cpu_model *cpu_model_find(const char *name);
/* Adds the features of a model and its bases. */
void cpu_model_words(const struct cpu_model *, cpuid_words to);

/* Feature by name: case, '_', '.' and '-' do not matter. */
bool cpu_feature_find(const char *name, size_t len, enum cpuid_word *ret_word, u32 *ret_mask);
/* NULL: the bit has no name. */
const char *cpu_feature_name(enum cpuid_word, u32 bit);
