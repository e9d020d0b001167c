// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * acpi_pm.c - ACPI fixed hardware: PM1 event and control registers, PM timer, GPE0.
 * ACPI 6.4, section 4.8; Intel 82371AB (PIIX4) data sheet, section 7.
 *
 * The timer is computed from the VM clock; its carry (bit 23 changes) has a host timer only
 * while the guest asks for the interrupt.  Events raise SCI only in ACPI mode (SCI_EN); in
 * legacy mode there would be an SMI, which nobody would handle.
 *
 * Not modelled: sleeping states but S5, SMIs, throttling, device monitors of the PIIX4.
 */
#include "vmm/dev/pc/acpi_pm.h"

enum {
    PM1_STS = 0x00,
    PM1_EN = 0x02,
    PM1_CNT = 0x04,
    PM_TMR = 0x08,
    GPE_STS = 0x0c,
    GPE_EN = 0x0e,
    BLOCK = 0x40
};
enum {
    TMR = 1 << 0,
    GBL = 1 << 5,
    PWRBTN = 1 << 8,
    SLPBTN = 1 << 9,
    RTC = 1 << 10,
    WAK = 1 << 15,
    EVENTS = TMR | GBL | PWRBTN | SLPBTN | RTC
};
enum { SCI_EN = 1 << 0, SLP_TYP = 7 << 10, SLP_EN = 1 << 13, CNT_SET = SCI_EN | 2 | SLP_TYP };
enum { S5_TYP = 0 };
enum { RST_CPU = 0x04, RST_SYSTEM = 0x02 };
enum { CARRY_BIT = 23 };

struct acpi_pm {
    struct dev dev;
    struct timer timer;
    bool sci_enabled;
    struct acpi_pm_regs {
        u64 carries;      /* changes of bit 23 when TMR_STS was last cleared */
        u16 sts, en, cnt; /* sts without TMR */
        u16 gpe_sts, gpe_en;
        u8 smi_cmd, smi_sts, rcr;
        u8 zero[3];
    } r;
};

static const struct state_field acpi_pm_fields[] = {
    STATE_INT(struct acpi_pm_regs, carries),
    STATE_INT(struct acpi_pm_regs, sts),
    STATE_INT(struct acpi_pm_regs, en),
    STATE_INT(struct acpi_pm_regs, cnt),
    STATE_INT(struct acpi_pm_regs, gpe_sts),
    STATE_INT(struct acpi_pm_regs, gpe_en),
    STATE_INT(struct acpi_pm_regs, smi_cmd),
    STATE_INT(struct acpi_pm_regs, smi_sts),
    STATE_UINT(struct acpi_pm_regs, rcr, RST_SYSTEM),
    STATE_PAD(struct acpi_pm_regs, zero),
};

static struct acpi_pm *pm_of(struct dev *d)
{
    return container_of(d, struct acpi_pm, dev);
}

static u64 pm_ticks(struct acpi_pm *s)
{
    return (unsigned __int128)vm_now(s->dev.vm) * ACPI_PM_HZ / NS_PER_SEC;
}

static u16 pm_status(struct acpi_pm *s)
{
    return s->r.sts | (pm_ticks(s) >> CARRY_BIT != s->r.carries ? TMR : 0);
}

/* SCI, and the host timer for the next carry. */
static void pm_update(struct acpi_pm *s)
{
    bool sci = pm_status(s) & s->r.en & EVENTS || s->r.gpe_sts & s->r.gpe_en;

    irq_set(s->dev.irq[0], sci && s->r.cnt & SCI_EN);
    if (s->r.en & TMR && !(pm_status(s) & TMR)) {
        u64 next = ((pm_ticks(s) >> CARRY_BIT) + 1) << CARRY_BIT;

        timer_set(&s->timer,
                  ((unsigned __int128)next * NS_PER_SEC + ACPI_PM_HZ - 1) / ACPI_PM_HZ);
    } else {
        timer_cancel(&s->timer);
    }
}

static void pm_fire(struct dev *d, struct timer *t UNUSED)
{
    pm_update(pm_of(d));
}

static void pm_write_cnt(struct acpi_pm *s, u16 val)
{
    s->r.cnt = (val & CNT_SET & ~SCI_EN) | (s->r.cnt & SCI_EN);
    /* SCI_EN belongs to the firmware, but there is none when a kernel is loaded directly. */
    s->r.cnt |= val & SCI_EN;
    if (val & SLP_EN && (val & SLP_TYP) >> 10 == S5_TYP)
        vm_request(s->dev.vm, VM_REQ_SHUTDOWN, VM_BY_GUEST);
}

static u16 pm_read16(struct acpi_pm *s, u64 off)
{
    switch (off) {
    case PM1_STS:
        return pm_status(s);
    case PM1_EN:
        return s->r.en;
    case PM1_CNT:
        return s->r.cnt;
    case PM_TMR:
        return pm_ticks(s);
    case PM_TMR + 2:
        return pm_ticks(s) >> 16 & 0xff;
    case GPE_STS:
        return s->r.gpe_sts;
    case GPE_EN:
        return s->r.gpe_en;
    }
    return 0;
}

static void pm_write16(struct acpi_pm *s, u64 off, u16 val)
{
    switch (off) {
    case PM1_STS:
        s->r.sts &= ~val;
        if (val & TMR)
            s->r.carries = pm_ticks(s) >> CARRY_BIT;
        break;
    case PM1_EN:
        s->r.en = val;
        break;
    case PM1_CNT:
        pm_write_cnt(s, val);
        break;
    case GPE_STS:
        s->r.gpe_sts &= ~val;
        break;
    case GPE_EN:
        s->r.gpe_en = val;
        break;
    default:
        return;
    }
    pm_update(s);
}

static u64 pm_read(struct acpi_pm *s, u64 off, unsigned size)
{
    u64 val;

    if (off == PM_TMR && size == 4) /* one look at the clock */
        return pm_ticks(s) & 0xffffff;
    val = pm_read16(s, off & ~1ull);
    if (size == 4)
        val |= (u32)pm_read16(s, (off & ~1ull) + 2) << 16;
    if (size == 1)
        val = val >> (off & 1 ? 8 : 0) & 0xff;
    return val;
}

static void pm_write(struct acpi_pm *s, u64 off, u64 val, unsigned size)
{
    u64 reg = off & ~1ull;

    if (size == 1) {
        /* The other byte: keep what is set, clear nothing where 1 clears. */
        bool w1c = reg == PM1_STS || reg == GPE_STS;
        u16 rest = w1c ? 0 : pm_read16(s, reg);

        val = off & 1 ? (rest & 0xff) | val << 8 : (rest & 0xff00) | (val & 0xff);
    }
    pm_write16(s, reg, val);
    if (size == 4)
        pm_write16(s, reg + 2, val >> 16);
}

static u64 pm_block_read(struct dev *d, u64 off, unsigned size)
{
    return pm_read(pm_of(d), off, size);
}
static void pm_block_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    pm_write(pm_of(d), off, val, size);
}
static u64 pm_gpe_read(struct dev *d, u64 off, unsigned size)
{
    return pm_read(pm_of(d), GPE_STS + off, size);
}
static void pm_gpe_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    pm_write(pm_of(d), GPE_STS + off, val, size);
}

static u64 pm_smi_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    return off == 0 ? pm_of(d)->r.smi_cmd : pm_of(d)->r.smi_sts;
}

static void pm_smi_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct acpi_pm *s = pm_of(d);

    if (off == 1) {
        s->r.smi_sts = val;
        return;
    }
    s->r.smi_cmd = val;
    if (s->r.smi_cmd == ACPI_ENABLE)
        s->r.cnt |= SCI_EN;
    else if (s->r.smi_cmd == ACPI_DISABLE)
        s->r.cnt &= ~SCI_EN;
    pm_update(s);
}

static u64 pm_reset_read(struct dev *d, u64 off UNUSED, unsigned size UNUSED)
{
    return pm_of(d)->r.rcr;
}

static void pm_reset_write(struct dev *d, u64 off UNUSED, u64 val, unsigned size UNUSED)
{
    pm_of(d)->r.rcr = val & RST_SYSTEM;
    if (val & RST_CPU)
        vm_request(d->vm, VM_REQ_RESET, VM_BY_GUEST);
}

void acpi_pm_power_button(struct dev *d)
{
    dev_lock(d);
    pm_of(d)->r.sts |= PWRBTN;
    pm_update(pm_of(d));
    dev_unlock(d);
}

void acpi_pm_gpe(struct dev *d, unsigned n)
{
    dev_lock(d);
    pm_of(d)->r.gpe_sts |= 1 << (n & 15);
    pm_update(pm_of(d));
    dev_unlock(d);
}

static void pm_reset(struct dev *d)
{
    struct acpi_pm *s = pm_of(d);

    s->r = (struct acpi_pm_regs){ .carries = pm_ticks(s) >> CARRY_BIT,
                                  .cnt = s->sci_enabled ? SCI_EN : 0 };
    pm_update(s);
}

static void pm_loaded(struct dev *d)
{
    pm_update(pm_of(d));
}

static bool pm_init(struct dev *d, GError **error UNUSED)
{
    timer_init(&pm_of(d)->timer, d, pm_fire);
    return true;
}

static const struct prop pm_props[] = {
    PROP(struct acpi_pm, sci_enabled, PROP_BOOL, .name = "sci-enabled",
         .help = "in ACPI mode after reset, as firmware would leave it"),
    {},
};

static const struct region pm_block = {
    .name = "acpi-pm",
    .len = BLOCK,
    .min = 1,
    .max = 4,
    .read = pm_block_read,
    .write = pm_block_write,
};
static const struct region pm_gpe = {
    .name = "acpi-gpe0",
    .len = 4,
    .min = 1,
    .max = 4,
    .read = pm_gpe_read,
    .write = pm_gpe_write,
};
static const struct region pm_smi = {
    .name = "smi-command",
    .len = 2,
    .min = 1,
    .max = 1,
    .read = pm_smi_read,
    .write = pm_smi_write,
};
static const struct region pm_reset_port = {
    .name = "reset-control",
    .len = 1,
    .min = 1,
    .max = 1,
    .read = pm_reset_read,
    .write = pm_reset_write,
};

const struct dev_type acpi_pm_type = {
    .name = "acpi-pm",
    .desc = "ACPI power management registers",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct acpi_pm),
    .io = { &pm_block, &pm_gpe, &pm_smi, &pm_reset_port },
    .irqs = 1,
    .props = pm_props,
    .state = STATE_TABLE(struct acpi_pm, r, acpi_pm_fields),
    .init = pm_init,
    .reset = pm_reset,
    .loaded = pm_loaded,
};
