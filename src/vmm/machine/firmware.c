// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * firmware.c - what firmware reads of a machine (CMOS RAM, fw_cfg), and for a direct boot its
 * ACPI and SMBIOS tables in RAM.
 *
 * Without firmware all tables lie in the last 64 KiB below 1 MiB, where kernels look for the
 * RSDP and for the SMBIOS entry point:
 *
 *   0xf0000  SMBIOS entry point
 *   0xf0020  RSDP
 *   0xf0080  ACPI tables, then SMBIOS structures
 */
#include <string.h>

#include "base/error.h"
#include "vmm/dev/ide/ide.h"
#include "vmm/dev/pc/fdc.h"
#include "vmm/dev/pc/fw_cfg.h"
#include "vmm/dev/pc/rtc.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/machine/acpi.h"
#include "vmm/machine/board.h"
#include "vmm/machine/smbios.h"

enum { FSEG = 0xf0000, FSEG_LEN = 0x10000, RSDP_AT = 0x20, ACPI_AT = 0x80 };

static struct acpi_tables *tables_make(const struct machine *m)
{
    const struct machine_desc *d = m->desc;
    g_autofree u32 *ids = g_new(u32, m->vm->n_vcpus);
    struct acpi_input in = {
        .cpus = m->vm->n_vcpus,
        .apic_ids = ids,
        .pci = m->pci != NULL,
        .pci_mem = (u32)MAX(m->ram_low, (u64)0x80000000),
        .pci_mem_end = PC_PCI_MEM_END,
        .pm_base = m->has_pm ? PC_PM_BASE : 0,
        .smi_cmd = m->has_smi_cmd,
        .hpet = m->has_hpet,
        .i8042 = m->has_i8042,
        .rtc = m->rtc != NULL,
        .pit = d->board != BOARD_NONE,
        .fw_cfg = m->fw_cfg != NULL,
        .pci_hotplug = m->hotplug != NULL,
        .reset_port = m->has_pm,
    };

    for (u32 i = 0; i < m->vm->n_vcpus; i++)
        ids[i] = m->vm->vcpus[i]->apic_id;
    for (int i = 0; i < SERIALS_MAX; i++)
        in.serial[i] = m->serial_at[i];
    if (m->mmio_used) {
        in.virtio_mmio_n = m->mmio_used;
        in.virtio_mmio_base = VIRTIO_MMIO_BASE;
        in.virtio_mmio_gsi = VIRTIO_MMIO_GSI;
    }
    return acpi_build(&in);
}

static bool append(GByteArray *to, u32 at, const void *bytes, u32 n, GError **error)
{
    if (at > FSEG_LEN || n > FSEG_LEN - at)
        return fail(error, ERR_LIMIT, "ACPI and SMBIOS tables are larger than 64 KiB");
    if (to->len < at + n) {
        u32 old = to->len;

        g_byte_array_set_size(to, at + n);
        memset(to->data + old, 0, at + n - old);
    }
    memcpy(to->data + at, bytes, n);
    return true;
}

bool machine_make_tables(struct machine *m, GError **error)
{
    u8 anchor[SMBIOS_ANCHOR_LEN];
    u32 n, max, at = ACPI_AT;
    bool ok = true;

    m->tables = g_byte_array_new();
    m->tables_at = FSEG;
    if (m->desc->acpi) {
        struct acpi_tables *t = tables_make(m);

        acpi_place(t, FSEG + ACPI_AT);
        ok = append(m->tables, ACPI_AT, t->tables->data, t->tables->len, error) &&
             append(m->tables, RSDP_AT, t->rsdp->data, t->rsdp->len, error);
        at = ROUND_UP(ACPI_AT + t->tables->len, 16u);
        m->rsdp = FSEG + RSDP_AT;
        acpi_free(t);
    }
    g_autoptr(GByteArray) smbios = smbios_build(m->desc, m->ram_low, &n, &max);
    if (!ok || !append(m->tables, at, smbios->data, smbios->len, error))
        return false;
    smbios_anchor(smbios, n, max, FSEG + at, anchor);
    return append(m->tables, 0, anchor, sizeof anchor, error);
}

/* ---- CMOS RAM ------------------------------------------------------------------------------
 */

static u8 boot_code(char letter)
{
    switch (letter) {
    case 'a':
    case 'b':
        return 1;
    case 'c':
        return 2;
    case 'd':
        return 3;
    case 'n':
        return 4;
    default:
        return 0;
    }
}

void machine_set_boot_order(struct machine *m)
{
    const char *order = m->desc->boot_order ? m->desc->boot_order : "cad";
    u8 boot[3] = { 0 };

    if (m->desc->boot_once && !m->booted)
        order = m->desc->boot_once;
    m->booted = true;
    for (int i = 0; i < 3 && order[i]; i++)
        boot[i] = boot_code(order[i]);
    rtc_set_cmos(m->rtc, 0x38,
                 (u8)(boot[2] << 4 | 1)); /* 1: floppies without signature boot too */
    rtc_set_cmos(m->rtc, 0x3d, (u8)(boot[0] | boot[1] << 4));
}

/* How a BIOS shows a disk's geometry to those that know 1024 cylinders: two bits a disk. */
static u8 disk_translation(const struct machine *m)
{
    u8 bits = 0;

    for (u32 i = 0; i < m->vm->devs->len; i++) {
        const struct ide_unit *u = ide_unit_of(m->vm->devs->pdata[i]);
        enum { AS_IS, LBA, LARGE } how = AS_IS;

        if (!u || u->cd || u->bus->host->type != &piix3_ide_type)
            continue;
        if (u->cylinders > 1024)
            how = u->cylinders * u->default_heads > 131072 ? LBA : LARGE;
        bits |= (u8)(how << 2 * (u->bus->index * 2 + u->nr));
    }
    return bits;
}

/* Indices as SeaBIOS reads them (src/hw/rtc.h). */
void machine_set_cmos(struct machine *m)
{
    u64 ext_kib = m->ram_low > MiB ? MIN((m->ram_low - MiB) >> 10, 0xffffull) : 0;
    u64 above_16m = m->ram_low > 16 * MiB ? (m->ram_low - 16 * MiB) >> 16 : 0;
    u64 high = m->ram_high >> 16;
    struct dev *rtc = m->rtc;

    u8 a = m->fdc ? fdc_cmos_type(m->fdc, 0) : 0, b = m->fdc ? fdc_cmos_type(m->fdc, 1) : 0;
    u8 equipment = 0x06; /* coprocessor, mouse */
    if (a || b)
        equipment |= 0x01 | (a && b ? 0x40 : 0); /* floppy drives, how many less one */
    rtc_set_cmos(rtc, 0x10, (u8)(a << 4 | b));
    rtc_set_cmos(rtc, 0x14, equipment);
    rtc_set_cmos(rtc, 0x15, 640 & 0xff);
    rtc_set_cmos(rtc, 0x16, 640 >> 8);
    rtc_set_cmos(rtc, 0x17, (u8)ext_kib);
    rtc_set_cmos(rtc, 0x18, (u8)(ext_kib >> 8));
    rtc_set_cmos(rtc, 0x30, (u8)ext_kib);
    rtc_set_cmos(rtc, 0x31, (u8)(ext_kib >> 8));
    rtc_set_cmos(rtc, 0x34, (u8)above_16m);
    rtc_set_cmos(rtc, 0x35, (u8)(above_16m >> 8));
    rtc_set_cmos(rtc, 0x39, disk_translation(m));
    rtc_set_cmos(rtc, 0x5b, (u8)high);
    rtc_set_cmos(rtc, 0x5c, (u8)(high >> 8));
    rtc_set_cmos(rtc, 0x5d, (u8)(high >> 16));
    rtc_set_cmos(rtc, 0x5f, (u8)(m->vm->n_vcpus - 1));
}

/* ---- fw_cfg --------------------------------------------------------------------------------
 */

static bool fw_cfg_e820(struct machine *m, GError **error)
{
    struct {
        le64 at, len;
        le32 type;
    } __attribute__((packed)) out[E820_MAX];
    struct e820 map;

    machine_e820(m, &map, false);
    for (u32 i = 0; i < map.n; i++) {
        out[i].at = le64_of(map.e[i].at);
        out[i].len = le64_of(map.e[i].len);
        out[i].type = le32_of(map.e[i].type);
    }
    return fw_cfg_add_file(m->fw_cfg, "etc/e820", out, map.n * sizeof out[0], error);
}

static bool fw_cfg_acpi(struct machine *m, GError **error)
{
    if (!m->desc->acpi)
        return true;
    struct acpi_tables *t = tables_make(m);
    g_autoptr(GByteArray) script = acpi_loader_script(t);
    bool ok =
        fw_cfg_add_file(m->fw_cfg, "etc/acpi/tables", t->tables->data, t->tables->len, error) &&
        fw_cfg_add_file(m->fw_cfg, "etc/acpi/rsdp", t->rsdp->data, t->rsdp->len, error) &&
        fw_cfg_add_file(m->fw_cfg, "etc/table-loader", script->data, script->len, error);
    acpi_free(t);
    return ok;
}

static bool fw_cfg_smbios(struct machine *m, GError **error)
{
    u8 anchor[SMBIOS_ANCHOR_LEN];
    u32 n, max;
    g_autoptr(GByteArray) tables = smbios_build(m->desc, m->ram_low, &n, &max);

    smbios_anchor(tables, n, max, 0, anchor);
    return fw_cfg_add_file(m->fw_cfg, "etc/smbios/smbios-tables", tables->data, tables->len,
                           error) &&
           fw_cfg_add_file(m->fw_cfg, "etc/smbios/smbios-anchor", anchor, sizeof anchor, error);
}

struct boot_entry {
    u32 index;
    char *path;
};

static int by_index(gconstpointer a, gconstpointer b)
{
    const struct boot_entry *x = *(struct boot_entry *const *)a,
                            *y = *(struct boot_entry *const *)b;

    return x->index < y->index ? -1 : x->index > y->index;
}

static void boot_entry_free(void *p)
{
    struct boot_entry *e = p;

    g_free(e->path);
    g_free(e);
}

static char *pci_path(const struct pci_dev *p, const char *name)
{
    unsigned slot = p->fn >> 3, fn = p->fn & 7;

    return fn ? g_strdup_printf("/pci@i0cf8/%s@%x,%x", name, slot, fn)
              : g_strdup_printf("/pci@i0cf8/%s@%x", name, slot);
}

/* Where a device with bootindex= is, as an Open Firmware path; NULL: it has none. */
static char *boot_path(struct dev *d, u32 *ret_index)
{
    const struct ide_unit *u = ide_unit_of(d);
    const struct pci_dev *p = pci_dev_of(d);
    const struct scsi_unit *unit = scsi_unit_of(d);
    unsigned floppy;

    if (fdc_of_floppy(d, &floppy, ret_index))
        return g_strdup_printf("/pci@i0cf8/isa@1/fdc@03f0/floppy@%x", floppy);
    if (u) {
        g_autofree char *host = pci_path(pci_dev_of(u->bus->host), "ide");

        *ret_index = u->bootindex;
        return g_strdup_printf("%s/drive@%x/disk@%x", host, u->bus->index, u->nr);
    }
    if (unit) {
        g_autofree char *host = pci_path(pci_dev_of(unit->bus->host), "scsi");

        *ret_index = unit->bootindex;
        return g_strdup_printf("%s/channel@0/disk@%x,%x", host, unit->target, unit->lun);
    }
    if (!p || p->pt->fixed)
        return NULL;
    bool net = p->pt->class >> 16 == 2;
    g_autofree char *host = pci_path(p, net ? "ethernet" : "scsi");

    *ret_index = p->bootindex;
    return g_strconcat(host, net ? "/ethernet-phy@0" : "/disk@0,0", NULL);
}

/* Open Firmware paths of the devices with bootindex=, in their order. */
static bool fw_cfg_bootorder(struct machine *m, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(boot_entry_free);
    g_autoptr(GString) s = g_string_new(NULL);

    for (guint i = 0; i < m->vm->devs->len; i++) {
        struct boot_entry e = { .index = UINT32_MAX };

        e.path = boot_path(m->vm->devs->pdata[i], &e.index);
        if (e.path && e.index != UINT32_MAX)
            g_ptr_array_add(list, g_memdup2(&e, sizeof e));
        else
            g_free(e.path);
    }
    g_ptr_array_sort(list, by_index);
    for (guint i = 0; i < list->len; i++)
        g_string_append_printf(s, "%s%s", i ? "\n" : "",
                               ((const struct boot_entry *)list->pdata[i])->path);
    if (m->desc->boot_strict)
        g_string_append_printf(s, "%sHALT", s->len ? "\n" : "");
    return !s->len || fw_cfg_add_file(m->fw_cfg, "bootorder", s->str, s->len + 1, error);
}

static bool fw_cfg_user(struct machine *m, GError **error)
{
    for (guint i = 0; i < m->desc->fw_cfg->len; i++) {
        const struct fw_cfg_desc *f = m->desc->fw_cfg->pdata[i];
        g_autoptr(GBytes) bytes = f->bytes ? g_bytes_ref(f->bytes) : NULL;

        if (f->file) {
            g_autofree char *text = NULL;
            gsize n;

            if (!g_file_get_contents(f->file, &text, &n, error)) {
                g_prefix_error(error, "-fw_cfg: ");
                return false;
            }
            bytes = g_bytes_new_take(g_steal_pointer(&text), n);
        }
        if (!fw_cfg_add_file_gbytes(m->fw_cfg, f->name, bytes, error)) {
            g_prefix_error(error, "-fw_cfg: %s: ", f->name);
            return false;
        }
    }
    return true;
}

bool machine_fill_fw_cfg(struct machine *m, GError **error)
{
    /* Which sleeping states there are: bit 7 enables, the rest is the type. Only S5 is. */
    static const u8 states[6] = { 128, 0, 0, 1, 2, 128 };
    const struct machine_desc *d = m->desc;
    struct dev *f = m->fw_cfg;
    u32 apic_max = m->vm->vcpus[m->vm->n_vcpus - 1]->apic_id;
    g_autofree le64 *numa = g_new0(le64, 1 + apic_max + 1);

    fw_cfg_add_bytes(f, FW_CFG_UUID, d->uuid, 16);
    fw_cfg_add_u64(f, FW_CFG_RAM_SIZE, d->ram);
    fw_cfg_add_u16(f, FW_CFG_NOGRAPHIC, !d->graphics);
    fw_cfg_add_u16(f, FW_CFG_NB_CPUS, (u16)m->vm->n_vcpus);
    fw_cfg_add_u16(f, FW_CFG_MAX_CPUS, (u16)(apic_max + 1));
    fw_cfg_add_u16(f, FW_CFG_BOOT_MENU, d->boot_menu);
    fw_cfg_add_u32(f, FW_CFG_IRQ0_OVERRIDE, 1);
    fw_cfg_add_bytes(f, FW_CFG_NUMA, numa, (1 + apic_max + 1) * sizeof *numa);
    if (!fw_cfg_add_file(f, "etc/system-states", states, sizeof states, error))
        return false;
    if (d->boot_menu_wait >= 0) {
        le16 ms = le16_of((u16)d->boot_menu_wait);
        if (!fw_cfg_add_file(f, "etc/boot-menu-wait", &ms, sizeof ms, error))
            return false;
    }
    if (d->boot_fail_wait >= 0) {
        le32 ms = le32_of((u32)d->boot_fail_wait);
        if (!fw_cfg_add_file(f, "etc/boot-fail-wait", &ms, sizeof ms, error))
            return false;
    }
    /* Without graphics SeaBIOS' screen goes to the serial port. */
    if (!d->graphics && m->serial_at[0]) {
        le16 port = le16_of(0x3f8);
        if (!fw_cfg_add_file(f, "etc/sercon-port", &port, sizeof port, error))
            return false;
    }
    return fw_cfg_e820(m, error) && fw_cfg_acpi(m, error) && fw_cfg_smbios(m, error) &&
           fw_cfg_bootorder(m, error) && fw_cfg_user(m, error);
}
