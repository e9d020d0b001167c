// SPDX-License-Identifier: GPL-2.0-or-later
/* state_test.c - the state table is complete, reset values are the manual's. */
#include "vmm/cpu/x86/state.h"

#include "base/test.h"

static struct x86_state a, b;

TEST(table_covers_every_byte)
{
    char *why = NULL;

    EXPECT(state_check_table(&x86_state_table, &why));
    if (why)
        printf("# %s\n", why);
    g_free(why);
}

TEST(save_load_save)
{
    g_autoptr(GByteArray) one = g_byte_array_new(), two = g_byte_array_new();
    GError *error = NULL;

    x86_reset(&a, true);
    a.gpr[R15] = 0x1122334455667788;
    a.seg[GS].base = 0xffff888000000000;
    a.msr.mtrr_var_mask[7] = 5;
    a.xsave[4095] = 0xa5;
    state_save(&x86_state_table, &a, one);
    memset(&b, 0, sizeof b);
    EXPECT(state_load(&x86_state_table, &b, one->data, one->len, &error));
    g_clear_error(&error);
    state_save(&x86_state_table, &b, two);
    EXPECT_EQ(two->len, one->len);
    EXPECT(one->len == two->len && !memcmp(one->data, two->data, one->len));
    EXPECT_EQ(b.seg[GS].base, 0xffff888000000000);
}

TEST(reset_is_power_on)
{
    x86_reset(&a, true);
    EXPECT_EQ(a.seg[CS].base + a.rip, 0xfffffff0);
    EXPECT_EQ(a.seg[CS].attr, 0x9b);
    EXPECT_EQ(a.seg[DS].attr, 0x93);
    EXPECT_EQ(a.cr0, 0x60000010);
    EXPECT_EQ(a.msr.apic_base, 0xfee00900);
    EXPECT_EQ(a.mp_state, MP_RUNNING);
    x86_reset(&a, false);
    EXPECT_EQ(a.msr.apic_base, 0xfee00800);
    EXPECT_EQ(a.mp_state, MP_WAIT_SIPI);
}

TEST(prints)
{
    g_autoptr(GString) s = g_string_new(NULL);

    x86_reset(&a, true);
    x86_set_flat32(&a, 0x100000);
    x86_print(&a, s);
    EXPECT(strstr(s->str, "RIP=0000000000100000"));
    EXPECT(strstr(s->str, "CS32"));
}

TEST_MAIN()
