// SPDX-License-Identifier: GPL-2.0-or-later
/* acpi_test.c - checksums and pointers, and what iasl says to the tables. */
#include "vmm/machine/acpi.h"

#include <sys/stat.h>

#include "base/test.h"
#include "vmm/machine/aml.h"

enum { AT = 0xf0080 };

static u32 get32(const u8 *p)
{
    return p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24;
}

static u8 sum(const u8 *p, u32 n)
{
    u8 s = 0;

    while (n--)
        s += *p++;
    return s;
}

static const u32 ids[255];

static struct acpi_input pc(u32 cpus)
{
    return (struct acpi_input){
        .cpus = cpus,
        .apic_ids = ids,
        .pci = true,
        .pci_mem = 0x80000000,
        .pci_mem_end = 0xfebfffff,
        .pm_base = 0x600,
        .smi_cmd = true,
        .hpet = true,
        .i8042 = true,
        .rtc = true,
        .pit = true,
        .fw_cfg = true,
        .reset_port = true,
        .serial = { true, true },
    };
}

static struct acpi_input microvm(void)
{
    return (struct acpi_input){
        .cpus = 2,
        .apic_ids = ids,
        .rtc = true,
        .serial = { true },
        .virtio_mmio_n = 3,
        .virtio_mmio_base = 0xfeb00000,
        .virtio_mmio_gsi = 16,
    };
}

/* Disassembles and compiles one table again; iasl finds bad lengths, names and opcodes. */
static void iasl(const u8 *table, u32 n, const char *name)
{
    g_autofree char *dir = g_dir_make_tmp("posada-acpi-XXXXXX", NULL);
    g_autofree char *aml = g_strdup_printf("%s/%s.aml", dir, name);
    g_autofree char *dsl = g_strdup_printf("%s/%s.dsl", dir, name);
    g_autofree char *cmd = g_strdup_printf("iasl -d %s", aml);
    g_autofree char *again = g_strdup_printf("iasl -p %s/x %s", dir, dsl);
    g_autofree char *rm = g_strdup_printf("rm -rf %s", dir);
    g_autofree char *out = NULL, *err = NULL, *text = NULL, *out2 = NULL;
    int status = 0;

    EXPECT(g_file_set_contents(aml, (const char *)table, n, NULL));
    EXPECT(g_spawn_command_line_sync(cmd, &out, &err, &status, NULL) && status == 0);
    EXPECT(g_file_get_contents(dsl, &text, NULL, NULL));
    if (err && (strstr(err, "Error") || strstr(err, "rror:"))) {
        printf("# %s\n", err);
        EXPECT(!"iasl complains");
    }
    if (text && (strstr(text, "Invalid") || strstr(text, "rror:") || strstr(text, "Unknown") ||
                 strstr(text, "Incorrect"))) {
        EXPECT(!"iasl found something wrong");
        printf("# in %s: %.2000s\n", name, strstr(text, "nvalid") ?: text);
    }
    EXPECT(g_spawn_command_line_sync(again, &out2, NULL, &status, NULL));
    if (!out2 || !strstr(out2, " 0 Errors, 0 Warnings")) {
        EXPECT(!"what was disassembled does not compile");
        g_autofree char *line = g_strdup(out2 ? out2 : "");
        printf("# %s\n", g_strdelimit(line, "\n", '|'));
    }
    EXPECT(g_spawn_command_line_sync(rm, NULL, NULL, NULL, NULL));
}

static void check(const struct acpi_input *in, bool with_iasl)
{
    struct acpi_tables *t = acpi_build(in);
    u32 n;

    acpi_place(t, AT);
    const u8 *r = t->rsdp->data, *base = t->tables->data;
    EXPECT_EQ(t->rsdp->len, 36);
    EXPECT_EQ(memcmp(r, "RSD PTR ", 8), 0);
    EXPECT_EQ(sum(r, 20), 0);
    EXPECT_EQ(sum(r, 36), 0);

    const u8 *xsdt = base + (get32(r + 24) - AT), *rsdt = base + (get32(r + 16) - AT);
    EXPECT_EQ(memcmp(xsdt, "XSDT", 4), 0);
    EXPECT_EQ(memcmp(rsdt, "RSDT", 4), 0);
    n = (get32(xsdt + 4) - 36) / 8;
    EXPECT_EQ(n, (get32(rsdt + 4) - 36) / 4);
    for (u32 i = 0; i < n; i++) {
        u32 at = get32(xsdt + 36 + 8 * i) - AT;
        char name[5] = { 0 };

        EXPECT_EQ(get32(rsdt + 36 + 4 * i), at + AT);
        EXPECT(at + 36 <= t->tables->len);
        const u8 *p = base + at;
        memcpy(name, p, 4);
        EXPECT(at + get32(p + 4) <= t->tables->len);
        EXPECT_EQ(sum(p, get32(p + 4)), 0);
        if (with_iasl)
            iasl(p, get32(p + 4), name);
        if (strcmp(name, "FACP") == 0) {
            const u8 *dsdt = base + (get32(p + 40) - AT);

            EXPECT_EQ(get32(p + 40), get32(p + 140));
            EXPECT_EQ(memcmp(dsdt, "DSDT", 4), 0);
            EXPECT_EQ(sum(dsdt, get32(dsdt + 4)), 0);
            if (with_iasl)
                iasl(dsdt, get32(dsdt + 4), "dsdt");
            if (in->pm_base)
                EXPECT_EQ((get32(p + 36)) % 64, 0);
        }
    }
    acpi_free(t);
}

static bool have_iasl(void)
{
    g_autofree char *path = g_find_program_in_path("iasl");

    return path != NULL;
}

TEST(tables_of_a_pc)
{
    struct acpi_input in = pc(2);

    check(&in, have_iasl());
}

TEST(tables_of_a_microvm)
{
    struct acpi_input in = microvm();

    check(&in, have_iasl());
}

TEST(many_processors_fit)
{
    struct acpi_input in = pc(255);
    struct acpi_tables *t = acpi_build(&in);

    check(&in, false);
    EXPECT(t->tables->len < 0x8000);
    acpi_free(t);
}

TEST(package_lengths)
{
    /* 63 is the longest of one byte, 4095 of two, counting the length itself. */
    static const struct {
        u32 body;
        u8 first;
    } cases[] = { { 0, 1 }, { 62, 63 }, { 63, 0x41 }, { 4093, 0x4f }, { 4094, 0x81 } };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g_autoptr(GByteArray) a = g_byte_array_new();
        guint mark = aml_begin(a, AML_SCOPE);

        for (u32 j = 0; j < cases[i].body; j++)
            aml_op(a, 0);
        aml_end(a, mark);
        u32 n = a->data[1] >> 6, len = n ? a->data[1] & 15 : a->data[1];
        for (u32 j = 0; j < n; j++)
            len |= (u32)a->data[2 + j] << (4 + 8 * j);
        EXPECT_EQ(len, cases[i].body + 1 + n);
        EXPECT_EQ(a->data[1], cases[i].first);
    }
}

TEST(loader_script)
{
    struct acpi_input in = pc(1);
    struct acpi_tables *t = acpi_build(&in);
    g_autoptr(GByteArray) s = acpi_loader_script(t);

    EXPECT_EQ(s->len % 128, 0);
    EXPECT_EQ(s->len / 128, 2 + t->pointers->len + t->checksums->len);
    EXPECT_EQ(get32(s->data), 1);
    EXPECT_STR((char *)s->data + 4, "etc/acpi/rsdp");
    acpi_free(t);
}

TEST_MAIN()
