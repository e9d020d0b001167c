// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi.c - ACPI tables: RSDP, RSDT, XSDT, FADT, FACS, DSDT, MADT, HPET, WAET (ACPI 6.4, chapter
 * 5; HPET specification 3.2.4).
 *
 * PCI interrupts go by link devices, because PIIX3 routes are set in its registers; the fixed
 * power button and S5 are there, S3 and S4 are not.  On boards without power management ports
 * the FADT says so by its hardware-reduced flag.
 */
#include "vmm/machine/acpi.h"

#include <string.h>

#include "vmm/machine/aml.h"
#include "vmm/machine/board.h"

enum {
    HEADER = 36,
    FADT_LEN = 268, /* revision 5 */
    FACS_LEN = 64,
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_X_DSDT = 140,
    RSDP_LEN = 36,
    RSDP_RSDT = 16,
    RSDP_XSDT = 24,
};

static void put(GByteArray *a, u64 val, unsigned n)
{
    u8 b[8];

    for (unsigned i = 0; i < n; i++)
        b[i] = (u8)(val >> (8 * i));
    g_byte_array_append(a, b, n);
}

static void poke(GByteArray *a, u32 at, u64 val, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        a->data[at + i] = (u8)(val >> (8 * i));
}

static void put_text(GByteArray *a, const char *text, unsigned n)
{
    char b[16];

    memset(b, ' ', sizeof b);
    memcpy(b, text, MIN(strlen(text), n));
    g_byte_array_append(a, (const u8 *)b, n);
}

/* ---- tables and what has to be done to them ------------------------------------------------
 */

static u32 table_begin(struct acpi_tables *t, const char *sig, u8 revision)
{
    GByteArray *a = t->tables;

    while (a->len % 16)
        put(a, 0, 1);
    u32 at = a->len;
    put_text(a, sig, 4);
    put(a, 0, 4); /* length */
    put(a, revision, 1);
    put(a, 0, 1); /* checksum */
    put_text(a, "POSADA", 6);
    put_text(a, "POSADAPC", 8);
    put(a, 1, 4);
    put_text(a, "PSDA", 4);
    put(a, 1, 4);
    return at;
}

static void table_end(struct acpi_tables *t, u32 at)
{
    struct acpi_checksum c = { .at = at + 9, .start = at, .len = t->tables->len - at };

    poke(t->tables, at + 4, c.len, 4);
    g_array_append_val(t->checksums, c);
}

static void pointer(struct acpi_tables *t, bool in_rsdp, u32 at, u32 size, u32 to)
{
    struct acpi_pointer p = { .at = at, .size = size, .in_rsdp = in_rsdp };

    poke(in_rsdp ? t->rsdp : t->tables, at, to, size);
    g_array_append_val(t->pointers, p);
}

/* ---- DSDT ----------------------------------------------------------------------------------
 */

static void resources(GByteArray *a, GByteArray *res)
{
    aml_name_resources(a, "_CRS", res);
    g_byte_array_set_size(res, 0);
}

/* The register of a link holds an ISA interrupt, or 0x80: off. */
static void link_device(GByteArray *a, unsigned i)
{
    static const u32 choices[] = { 5, 10, 11 };
    static const u32 none[] = { 0 };
    g_autoptr(GByteArray) res = g_byte_array_new();
    const char name[] = { 'L', 'N', 'K', (char)('A' + i), 0 };
    const char reg[] = { 'P', 'R', 'Q', (char)('0' + i), 0 };
    guint dev = aml_device(a, name), m, cond;

    aml_name_eisaid(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", i);
    res_irqs_ext(res, choices, ARRAY_LEN(choices));
    aml_name_resources(a, "_PRS", res);
    g_byte_array_set_size(res, 0);
    res_irqs_ext(res, none, 1);
    aml_name_resources(a, "BUFA", res);

    m = aml_method(a, "_STA", 0); /* If (PRQx & 0x80) Return (9) Return (11) */
    cond = aml_begin(a, AML_IF);
    aml_op(a, AML_AND);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_op(a, 0); /* result goes nowhere */
    aml_op(a, AML_RETURN);
    aml_int(a, 0x09);
    aml_end(a, cond);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_end(a, m);

    m = aml_method(a, "_DIS", 0); /* PRQx |= 0x80 */
    aml_op(a, AML_OR);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_path(a, reg);
    aml_end(a, m);

    m = aml_method(a, "_CRS", 0); /* the interrupt number lies at byte 5 of the descriptor */
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_path(a, "BUFA");
    aml_int(a, 5);
    aml_path(a, "IRQW");
    cond = aml_begin(a, AML_IF);
    aml_op(a, AML_LLESS);
    aml_path(a, reg);
    aml_int(a, 0x80);
    aml_op(a, AML_STORE);
    aml_path(a, reg);
    aml_path(a, "IRQW");
    aml_end(a, cond);
    cond = aml_begin(a, AML_ELSE);
    aml_op(a, AML_STORE);
    aml_int(a, 0);
    aml_path(a, "IRQW");
    aml_end(a, cond);
    aml_op(a, AML_RETURN);
    aml_path(a, "BUFA");
    aml_end(a, m);

    m = aml_method(a, "_SRS", 1);
    aml_op(a, AML_CREATE_DWORD_FIELD);
    aml_op(a, AML_ARG0);
    aml_int(a, 5);
    aml_path(a, "IRQW");
    aml_op(a, AML_STORE);
    aml_path(a, "IRQW");
    aml_path(a, reg);
    aml_end(a, m);
    aml_end(a, dev);
}

/* Package(4) for each slot and pin: slot 0 is the host bridge's. */
static void prt(GByteArray *a)
{
    guint outer, inner;

    aml_name(a, "_PRT");
    outer = aml_begin(a, AML_PACKAGE);
    aml_op(a, 31 * 4);
    for (unsigned slot = 1; slot < 32; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            const char name[] = { 'L', 'N', 'K', (char)('A' + (slot + pin - 1) % 4), 0 };

            inner = aml_begin(a, AML_PACKAGE);
            aml_op(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_path(a, name);
            aml_int(a, 0);
            aml_end(a, inner);
        }
    }
    aml_end(a, outer);
}

/* A device at fixed ports with one interrupt (or -1). */
static void isa_device(GByteArray *a, const char *name, const char *hid, int uid, u16 port,
                       u8 len, int irq)
{
    g_autoptr(GByteArray) res = g_byte_array_new();
    guint dev = aml_device(a, name);

    aml_name_eisaid(a, "_HID", hid);
    if (uid >= 0)
        aml_name_int(a, "_UID", (u64)uid);
    aml_name_int(a, "_STA", 0x0f);
    if (len)
        res_io(res, port, 1, len);
    if (irq >= 0)
        res_irq(res, (u8)irq);
    resources(a, res);
    aml_end(a, dev);
}

static void isa_devices(GByteArray *a, const struct acpi_input *in)
{
    static const struct {
        u16 port;
        u8 irq;
    } com[] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };
    g_autoptr(GByteArray) res = g_byte_array_new();

    if (in->rtc)
        isa_device(a, "RTC", "PNP0B00", -1, 0x70, 2, 8);
    if (in->pit)
        isa_device(a, "TMR", "PNP0100", -1, 0x40, 4, in->hpet ? -1 : 0);
    if (in->i8042) {
        guint dev = aml_device(a, "KBD");

        aml_name_eisaid(a, "_HID", "PNP0303");
        aml_name_int(a, "_STA", 0x0f);
        res_io(res, 0x60, 1, 1);
        res_io(res, 0x64, 1, 1);
        res_irq(res, 1);
        resources(a, res);
        aml_end(a, dev);
        isa_device(a, "MOU", "PNP0F13", -1, 0, 0, 12);
    }
    for (unsigned i = 0; i < ARRAY_LEN(com); i++) {
        const char name[] = { 'C', 'O', 'M', (char)('1' + i), 0 };

        if (in->serial[i])
            isa_device(a, name, "PNP0501", (int)i + 1, com[i].port, 8, com[i].irq);
    }
}

/* Field(region, DWordAcc, NoLock, WriteAsZeros) { names of 32 bits } */
static void dwords(GByteArray *a, const char *region, const char *const *names, unsigned n)
{
    guint field = aml_begin(a, AML_FIELD);

    aml_path(a, region);
    aml_op(a, 0x43);
    for (unsigned i = 0; i < n; i++) {
        g_byte_array_append(a, (const u8 *)names[i], 4);
        aml_op(a, 32);
    }
    aml_end(a, field);
}

/* If (slots & (1 << slot)) Notify (Sxx, what) */
static void notify_slot(GByteArray *a, u8 slots, unsigned slot, u8 what)
{
    char name[5];
    guint cond = aml_begin(a, AML_IF);

    g_snprintf(name, sizeof name, "S%02X_", slot);
    aml_op(a, AML_AND);
    aml_op(a, slots);
    aml_int(a, 1u << slot);
    aml_op(a, 0); /* result goes nowhere */
    aml_op(a, AML_NOTIFY);
    aml_path(a, name);
    aml_int(a, what);
    aml_end(a, cond);
}

/* Slots that can be plugged and ejected, in the scope of the root bridge. */
static void hotplug(GByteArray *a)
{
    enum { CHECK = 1, EJECT_REQUEST = 3, FIRST = 2, SLOTS = 32 };
    static const char *const fields[] = { "PCIU", "PCID", "B0EJ", "PCIR", "BSEL" };
    guint dev, m;

    aml_region_io(a, "PCST", PC_HOTPLUG, 20);
    dwords(a, "PCST", fields, ARRAY_LEN(fields));
    for (unsigned slot = FIRST; slot < SLOTS; slot++) {
        char name[5];

        g_snprintf(name, sizeof name, "S%02X_", slot);
        dev = aml_device(a, name);
        aml_name_int(a, "_ADR", slot << 16);
        aml_name_int(a, "_SUN", slot);
        m = aml_method(a, "_EJ0", 1);
        aml_op(a, AML_STORE);
        aml_int(a, 1u << slot);
        aml_path(a, "B0EJ");
        aml_end(a, m);
        aml_end(a, dev);
    }
    m = aml_method(a, "PCNT", 0);
    aml_op(a, AML_STORE);
    aml_int(a, 0);
    aml_path(a, "BSEL");
    aml_op(a, AML_STORE);
    aml_path(a, "PCIU");
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_STORE);
    aml_path(a, "PCID");
    aml_op(a, AML_LOCAL1);
    for (unsigned slot = FIRST; slot < SLOTS; slot++) {
        notify_slot(a, AML_LOCAL0, slot, CHECK);
        notify_slot(a, AML_LOCAL1, slot, EJECT_REQUEST);
    }
    aml_end(a, m);
}

static void pci_root(GByteArray *a, const struct acpi_input *in)
{
    g_autoptr(GByteArray) res = g_byte_array_new();
    guint root = aml_device(a, "PCI0"), isa, field;

    aml_name_eisaid(a, "_HID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    res_bus(res, 0, 255);
    res_io(res, 0xcf8, 1, 8);
    res_word_io(res, 0, 0xcf7);
    res_word_io(res, 0xd00, 0xffff);
    res_dword_mem(res, 0xa0000, 0xbffff, true);
    res_dword_mem(res, in->pci_mem, in->pci_mem_end, false);
    resources(a, res);
    prt(a);

    isa = aml_device(a, "ISA");
    aml_name_int(a, "_ADR", 0x10000);
    aml_region_pci(a, "PIRQ", 0x60, 4);
    isa_devices(a, in);
    aml_end(a, isa);
    if (in->pci_hotplug)
        hotplug(a);
    aml_end(a, root);

    /* Byte access, no lock, preserve. */
    field = aml_begin(a, AML_FIELD);
    aml_path(a, "PCI0.ISA.PIRQ");
    aml_op(a, 0x01);
    for (unsigned i = 0; i < 4; i++) {
        const char reg[] = { 'P', 'R', 'Q', (char)('0' + i), 0 };

        g_byte_array_append(a, (const u8 *)reg, 4);
        aml_op(a, 8); /* bits */
    }
    aml_end(a, field);
    for (unsigned i = 0; i < 4; i++)
        link_device(a, i);
}

static void system_devices(GByteArray *a, const struct acpi_input *in)
{
    g_autoptr(GByteArray) res = g_byte_array_new();
    guint dev;

    if (in->hpet) {
        dev = aml_device(a, "HPET");
        aml_name_eisaid(a, "_HID", "PNP0103");
        aml_name_int(a, "_UID", 0);
        res_mem32(res, PC_HPET, 0x400);
        resources(a, res);
        aml_end(a, dev);
    }
    if (in->fw_cfg) {
        dev = aml_device(a, "FWCF");
        aml_name_string(a, "_HID", "QEMU0002"); /* what drivers look for */
        aml_name_int(a, "_STA", 0x0b);
        res_io(res, 0x510, 1, 12);
        resources(a, res);
        aml_end(a, dev);
    }
    for (u32 i = 0; i < in->virtio_mmio_n; i++) {
        const u32 gsi = in->virtio_mmio_gsi + i;
        char name[5];

        g_snprintf(name, sizeof name, "VR%02X", i);
        dev = aml_device(a, name);
        aml_name_string(a, "_HID", "LNRO0005");
        aml_name_int(a, "_UID", i);
        aml_name_int(a, "_CCA", 1);
        res_mem32(res, in->virtio_mmio_base + i * 0x200, 0x200);
        res_irqs_ext(res, &gsi, 1);
        resources(a, res);
        aml_end(a, dev);
    }
    for (u32 i = 0; i < in->cpus; i++) {
        char name[5];

        g_snprintf(name, sizeof name, "C%03X", i);
        dev = aml_device(a, name);
        aml_name_string(a, "_HID", "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_end(a, dev);
    }
}

static u32 dsdt_build(struct acpi_tables *t, const struct acpi_input *in)
{
    u32 at = table_begin(t, "DSDT", 2);
    GByteArray *a = t->tables;
    guint mark = aml_begin(a, AML_SCOPE);

    aml_path(a, "\\_SB");
    if (in->pci)
        pci_root(a, in);
    else
        isa_devices(a, in);
    system_devices(a, in);
    aml_end(a, mark);
    if (in->pci_hotplug) { /* general-purpose event 1 */
        mark = aml_begin(a, AML_SCOPE);
        aml_path(a, "\\_GPE");
        guint method = aml_method(a, "_E01", 0);
        aml_path(a, "\\_SB.PCI0.PCNT");
        aml_end(a, method);
        aml_end(a, mark);
    }
    if (in->pm_base) {
        /* SLP_TYPa, SLP_TYPb, two reserved: 0 is soft-off on a PIIX4. */
        aml_name(a, "\\_S5");
        mark = aml_begin(a, AML_PACKAGE);
        aml_op(a, 4);
        for (int i = 0; i < 4; i++)
            aml_int(a, 0);
        aml_end(a, mark);
    }
    table_end(t, at);
    return at;
}

/* ---- fixed tables --------------------------------------------------------------------------
 */

static u32 facs_build(struct acpi_tables *t)
{
    GByteArray *a = t->tables;

    while (a->len % 64)
        put(a, 0, 1);
    u32 at = a->len;
    put_text(a, "FACS", 4);
    put(a, FACS_LEN, 4);
    g_byte_array_set_size(a, at + FACS_LEN);
    memset(a->data + at + 8, 0, FACS_LEN - 8);
    a->data[at + 32] = 1; /* version */
    return at;
}

/* A generic address: system I/O. */
static void gas_io(GByteArray *a, u32 at, u16 port, u8 bits, u8 access)
{
    a->data[at] = 1;
    a->data[at + 1] = bits;
    a->data[at + 3] = access;
    poke(a, at + 4, port, 8);
}

static u32 fadt_build(struct acpi_tables *t, const struct acpi_input *in, u32 facs, u32 dsdt)
{
    enum {
        WBINVD = 1 << 0,
        PROC_C1 = 1 << 2,
        NO_SLEEP_BUTTON = 1 << 5,
        NO_POWER_BUTTON = 1 << 4,
        RESET_REG = 1 << 10,
        HW_REDUCED = 1 << 20,
    };
    enum { LEGACY_DEVICES = 1, HAS_8042 = 2, NO_VGA = 4 };
    u32 at = table_begin(t, "FACP", 5);
    u32 flags = WBINVD | PROC_C1 | NO_SLEEP_BUTTON;
    GByteArray *a = t->tables;

    g_byte_array_set_size(a, at + FADT_LEN);
    memset(a->data + at + HEADER, 0, FADT_LEN - HEADER);
    if (in->pm_base) {
        poke(a, at + 46, PC_SCI, 2);
        if (in->smi_cmd) {
            poke(a, at + 48, 0xb2, 4);
            a->data[at + 52] = 0xf1; /* ACPI on */
            a->data[at + 53] = 0xf0; /* and off */
        }
        poke(a, at + 56, in->pm_base, 4);     /* PM1a events */
        poke(a, at + 64, in->pm_base + 4, 4); /* PM1a control */
        poke(a, at + 76, in->pm_base + 8, 4); /* timer */
        poke(a, at + 80, PC_GPE_BASE, 4);
        a->data[at + 92] = 4; /* status and enable, two bytes each */
        gas_io(a, at + 220, PC_GPE_BASE, 32, 1);
        a->data[at + 88] = 4;
        a->data[at + 89] = 2;
        a->data[at + 91] = 4;
        gas_io(a, at + 148, (u16)in->pm_base, 32, 2);
        gas_io(a, at + 172, (u16)(in->pm_base + 4), 16, 2);
        gas_io(a, at + 208, (u16)(in->pm_base + 8), 32, 3);
    } else {
        flags |= HW_REDUCED | NO_POWER_BUTTON;
    }
    poke(a, at + 96, 0xfff, 2); /* no C2 */
    poke(a, at + 98, 0xfff, 2); /* no C3 */
    if (in->rtc)
        a->data[at + 108] = 0x32; /* century */
    poke(a, at + 109, LEGACY_DEVICES | (in->i8042 ? HAS_8042 : 0) | NO_VGA, 2);
    if (in->reset_port) {
        flags |= RESET_REG;
        gas_io(a, at + 116, 0xcf9, 8, 1);
        a->data[at + 128] = 0x06;
    }
    poke(a, at + 112, flags, 4);
    a->data[at + 131] = 1; /* 5.1 */
    if (in->pm_base)
        pointer(t, false, at + FADT_FACS, 4, facs);
    pointer(t, false, at + FADT_DSDT, 4, dsdt);
    pointer(t, false, at + FADT_X_DSDT, 8, dsdt);
    table_end(t, at);
    return at;
}

static void madt_override(GByteArray *a, u8 irq, u32 gsi, u16 flags)
{
    put(a, 2, 1);
    put(a, 10, 1);
    put(a, 0, 1); /* ISA */
    put(a, irq, 1);
    put(a, gsi, 4);
    put(a, flags, 2);
}

static u32 madt_build(struct acpi_tables *t, const struct acpi_input *in)
{
    enum { LEVEL_HIGH = 0x0d };
    u32 at = table_begin(t, "APIC", 3);
    GByteArray *a = t->tables;

    put(a, PC_LAPIC, 4);
    put(a, 1, 4); /* there are 8259s too */
    for (u32 i = 0; i < in->cpus; i++) {
        if (in->apic_ids[i] < 255) {
            put(a, 0, 1);
            put(a, 8, 1);
            put(a, i, 1);
            put(a, in->apic_ids[i], 1);
            put(a, 1, 4); /* enabled */
        } else {
            put(a, 9, 1); /* x2APIC */
            put(a, 16, 1);
            put(a, 0, 2);
            put(a, in->apic_ids[i], 4);
            put(a, 1, 4);
            put(a, i, 4);
        }
    }
    put(a, 1, 1); /* IOAPIC */
    put(a, 12, 1);
    put(a, 0, 1);
    put(a, 0, 1);
    put(a, PC_IOAPIC, 4);
    put(a, 0, 4);
    madt_override(a, 0, 2, 0);
    if (in->pm_base)
        madt_override(a, PC_SCI, PC_SCI, LEVEL_HIGH);
    if (in->pci) {
        madt_override(a, 5, 5, LEVEL_HIGH);
        madt_override(a, 10, 10, LEVEL_HIGH);
        madt_override(a, 11, 11, LEVEL_HIGH);
    }
    put(a, 4, 1); /* NMI: LINT1 of all processors */
    put(a, 6, 1);
    put(a, 0xff, 1);
    put(a, 0, 2);
    put(a, 1, 1);
    table_end(t, at);
    return at;
}

static u32 hpet_build(struct acpi_tables *t)
{
    u32 at = table_begin(t, "HPET", 1);
    GByteArray *a = t->tables;

    put(a, 0x8086a201, 4); /* as the low half of its capabilities register */
    put(a, 0, 4);          /* system memory */
    put(a, PC_HPET, 8);
    put(a, 0, 1);
    put(a, 0, 2);
    put(a, 0, 1);
    table_end(t, at);
    return at;
}

/* Windows: the PM timer needs no second read. */
static u32 waet_build(struct acpi_tables *t)
{
    u32 at = table_begin(t, "WAET", 1);

    put(t->tables, 2, 4);
    table_end(t, at);
    return at;
}

static u32 sdt_build(struct acpi_tables *t, const char *sig, const u32 *to, u32 n, u32 size)
{
    u32 at = table_begin(t, sig, 1);

    for (u32 i = 0; i < n; i++)
        put(t->tables, 0, size);
    for (u32 i = 0; i < n; i++)
        pointer(t, false, at + HEADER + i * size, size, to[i]);
    table_end(t, at);
    return at;
}

static void rsdp_build(struct acpi_tables *t, u32 rsdt, u32 xsdt)
{
    const struct acpi_checksum v1 = { .at = 8, .start = 0, .len = 20, .in_rsdp = true };
    const struct acpi_checksum v2 = { .at = 32, .start = 0, .len = RSDP_LEN, .in_rsdp = true };
    GByteArray *a = t->rsdp;

    put_text(a, "RSD PTR ", 8);
    put(a, 0, 1);
    put_text(a, "POSADA", 6);
    put(a, 2, 1); /* revision */
    put(a, 0, 4);
    put(a, RSDP_LEN, 4);
    put(a, 0, 8);
    put(a, 0, 4);
    pointer(t, true, RSDP_RSDT, 4, rsdt);
    pointer(t, true, RSDP_XSDT, 8, xsdt);
    g_array_append_val(t->checksums, v1);
    g_array_append_val(t->checksums, v2);
}

struct acpi_tables *acpi_build(const struct acpi_input *in)
{
    struct acpi_tables *t = g_new0(struct acpi_tables, 1);
    u32 to[8], n = 0;

    t->tables = g_byte_array_new();
    t->rsdp = g_byte_array_new();
    t->pointers = g_array_new(FALSE, TRUE, sizeof(struct acpi_pointer));
    t->checksums = g_array_new(FALSE, TRUE, sizeof(struct acpi_checksum));
    u32 facs = facs_build(t);
    u32 dsdt = dsdt_build(t, in);
    to[n++] = fadt_build(t, in, facs, dsdt);
    to[n++] = madt_build(t, in);
    if (in->hpet)
        to[n++] = hpet_build(t);
    to[n++] = waet_build(t);
    u32 rsdt = sdt_build(t, "RSDT", to, n, 4);
    u32 xsdt = sdt_build(t, "XSDT", to, n, 8);
    rsdp_build(t, rsdt, xsdt);
    return t;
}

void acpi_free(struct acpi_tables *t)
{
    if (!t)
        return;
    g_byte_array_unref(t->tables);
    g_byte_array_unref(t->rsdp);
    g_array_unref(t->pointers);
    g_array_unref(t->checksums);
    g_free(t);
}

/* ---- where they go -------------------------------------------------------------------------
 */

void acpi_place(struct acpi_tables *t, u32 tables_at)
{
    for (guint i = 0; i < t->pointers->len; i++) {
        const struct acpi_pointer *p = &g_array_index(t->pointers, struct acpi_pointer, i);
        GByteArray *a = p->in_rsdp ? t->rsdp : t->tables;
        u64 v = 0;

        memcpy(&v, a->data + p->at, p->size);
        poke(a, p->at, v + tables_at, p->size);
    }
    for (guint i = 0; i < t->checksums->len; i++) {
        const struct acpi_checksum *c = &g_array_index(t->checksums, struct acpi_checksum, i);
        GByteArray *a = c->in_rsdp ? t->rsdp : t->tables;
        u8 sum = 0;

        a->data[c->at] = 0;
        for (u32 j = 0; j < c->len; j++)
            sum += a->data[c->start + j];
        a->data[c->at] = (u8)-sum;
    }
}

/* The script's format is QEMU's bios-linker-loader: entries of 128 bytes, a le32 command first,
 * file names of 56 bytes. */
enum { LOADER_ENTRY = 128, LOADER_NAME = 56 };
enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER = 2, LOADER_ADD_CHECKSUM = 3 };
enum { LOADER_HIGH = 1, LOADER_FSEG = 2 };

static const char tables_name[] = "etc/acpi/tables", rsdp_name[] = "etc/acpi/rsdp";

static u32 entry_begin(GByteArray *s, u32 command, const char *file)
{
    u32 at = s->len;

    g_byte_array_set_size(s, at + LOADER_ENTRY);
    memset(s->data + at, 0, LOADER_ENTRY);
    poke(s, at, command, 4);
    g_strlcpy((char *)s->data + at + 4, file, LOADER_NAME);
    return at + 4 + LOADER_NAME;
}

GByteArray *acpi_loader_script(const struct acpi_tables *t)
{
    GByteArray *s = g_byte_array_new();
    u32 at;

    at = entry_begin(s, LOADER_ALLOCATE, rsdp_name);
    poke(s, at, 16, 4);
    s->data[at + 4] = LOADER_FSEG;
    at = entry_begin(s, LOADER_ALLOCATE, tables_name);
    poke(s, at, 64, 4);
    s->data[at + 4] = LOADER_HIGH;
    for (guint i = 0; i < t->pointers->len; i++) {
        const struct acpi_pointer *p = &g_array_index(t->pointers, struct acpi_pointer, i);

        at = entry_begin(s, LOADER_ADD_POINTER, p->in_rsdp ? rsdp_name : tables_name);
        g_strlcpy((char *)s->data + at, tables_name, LOADER_NAME);
        poke(s, at + LOADER_NAME, p->at, 4);
        s->data[at + LOADER_NAME + 4] = (u8)p->size;
    }
    for (guint i = 0; i < t->checksums->len; i++) {
        const struct acpi_checksum *c = &g_array_index(t->checksums, struct acpi_checksum, i);

        at = entry_begin(s, LOADER_ADD_CHECKSUM, c->in_rsdp ? rsdp_name : tables_name);
        poke(s, at, c->at, 4);
        poke(s, at + 4, c->start, 4);
        poke(s, at + 8, c->len, 4);
    }
    return s;
}
