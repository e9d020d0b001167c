// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * aml.h - ACPI machine language, as bytes appended to an array (ACPI 6.4, chapter 20).
 *
 * Terms nest by aml_begin()/aml_end(): begin writes the opcode and remembers where the package
 * length goes, which end puts in.  Names are paths such as "\\_SB.PCI0" or "LNKA"; a segment
 * shorter than four characters is filled up with "_".
 */
#pragma once

#include <glib.h>

#include "base/types.h"

enum aml_scope {
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_IF = 0xa0,
    AML_ELSE = 0xa1,
    AML_DEVICE = 0x5b82,
    AML_FIELD = 0x5b81,
};
enum aml_op {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_LOCAL0 = 0x60,
    AML_LOCAL1 = 0x61,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_NOTIFY = 0x86,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_CREATE_DWORD_FIELD = 0x8a,
    AML_LLESS = 0x95,
    AML_RETURN = 0xa4,
};

/* Returns the mark for aml_end(). */
guint aml_begin(GByteArray *, enum aml_scope);
void aml_end(GByteArray *, guint mark);

void aml_op(GByteArray *, u8 op);
void aml_path(GByteArray *, const char *path);
void aml_int(GByteArray *, u64 val);
void aml_string(GByteArray *, const char *text);
/* Name(path, ...): the value follows. */
void aml_name(GByteArray *, const char *path);
void aml_name_int(GByteArray *, const char *path, u64 val);
void aml_name_string(GByteArray *, const char *path, const char *text);
void aml_name_eisaid(GByteArray *, const char *path, const char *id); /* "PNP0A03" */
/* Device(name) { ... }; the caller ends it. */
guint aml_device(GByteArray *, const char *name);
guint aml_method(GByteArray *, const char *name, u8 args);
void aml_region_io(GByteArray *, const char *name, u16 at, u8 len);
void aml_region_pci(GByteArray *, const char *name, u8 off, u8 len);

/* Name(path, ResourceTemplate() {...}): between the two calls descriptors are added to *res,
 * a byte array of the caller's. */
void aml_name_resources(GByteArray *, const char *path, const GByteArray *res);
void res_io(GByteArray *, u16 at, u8 align, u8 len);
void res_irq(GByteArray *, u8 irq); /* edge, active high, exclusive */
void res_mem32(GByteArray *, u32 at, u32 len);
void res_bus(GByteArray *, u16 min, u16 max);
void res_word_io(GByteArray *, u16 min, u16 max);
void res_dword_mem(GByteArray *, u32 min, u32 max, bool cacheable);
/* Level, active high, shared. */
void res_irqs_ext(GByteArray *, const u32 *irqs, u8 n);
