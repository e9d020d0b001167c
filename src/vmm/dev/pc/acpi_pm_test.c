// SPDX-License-Identifier: GPL-2.0-or-later
/* acpi_pm_test.c - power management registers. */
#include "vmm/dev/pc/acpi_pm.h"

#include "base/test.h"
#include "vmm/core/bench.h"

enum { P = 0x600, GPE = P + 0x40, SMI = GPE + 4, RST = SMI + 2 };

TEST(acpi_pm_timer)
{
    struct bench b = bench_new(&acpi_pm_type, P);

    bench_step(&b, NS_PER_SEC);
    EXPECT_EQ(bench_in32(&b, P + 8), 3579545);
    bench_step(&b, 4 * NS_PER_SEC);
    EXPECT_EQ(bench_in32(&b, P + 8), 5 * 3579545 - (1 << 24));
    EXPECT_EQ(bench_in16(&b, P) & 1, 1); /* bit 23 has changed */
    bench_out16(&b, P, 1);
    EXPECT_EQ(bench_in16(&b, P) & 1, 0);
    bench_out(&b, SMI, ACPI_ENABLE);
    EXPECT_EQ(bench_in16(&b, P + 4), 1);
    bench_out16(&b, P + 2, 1);
    EXPECT(!bench_irq(&b, 0));
    bench_step(&b, 2400 * NS_PER_MS);
    EXPECT(bench_irq(&b, 0));
    bench_migrate(&b);
    EXPECT(bench_irq(&b, 0));
    bench_out16(&b, P, 1);
    EXPECT(!bench_irq(&b, 0));
    bench_free(&b);
}

TEST(acpi_pm_button_and_gpe)
{
    struct bench b = bench_new(&acpi_pm_type, P);

    bench_out16(&b, P + 2, 0x100);
    acpi_pm_power_button(b.dev);
    EXPECT(!bench_irq(&b, 0)); /* not in ACPI mode */
    bench_out(&b, SMI, ACPI_ENABLE);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(bench_in16(&b, P), 0x100);
    bench_out(&b, P + 1, 0x01);
    EXPECT(!bench_irq(&b, 0));
    acpi_pm_gpe(b.dev, 3);
    EXPECT(!bench_irq(&b, 0));
    bench_out16(&b, GPE + 2, 0x08);
    EXPECT(bench_irq(&b, 0));
    EXPECT_EQ(bench_in(&b, GPE), 0x08);
    EXPECT_EQ(bench_in16(&b, P + 0x0c), 0x08);
    bench_out(&b, GPE, 0x08);
    EXPECT(!bench_irq(&b, 0));
    bench_out(&b, SMI, ACPI_DISABLE);
    EXPECT_EQ(bench_in16(&b, P + 4), 0);
    bench_free(&b);
}

TEST(acpi_pm_requests)
{
    struct bench b = bench_new(&acpi_pm_type, P);

    bench_out16(&b, P + 4, 0x2400); /* S1: there is none */
    EXPECT_EQ(b.vm->requests, 0);
    bench_out16(&b, P + 4, 0x2000);
    EXPECT_EQ(b.vm->requests, VM_REQ_SHUTDOWN);
    bench_out(&b, RST, 0x02);
    EXPECT_EQ(b.vm->requests, VM_REQ_SHUTDOWN);
    bench_out(&b, RST, 0x06);
    EXPECT_EQ(b.vm->requests, VM_REQ_SHUTDOWN | VM_REQ_RESET);
    bench_free(&b);
}

TEST_MAIN()
