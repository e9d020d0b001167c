// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lsi.c - LSI 53C895A, a PCI to Ultra2 SCSI host adapter with a processor of its own:
 * registers, interrupts, life.  LSI53C895A technical manual 2.2, chapter 4.
 *
 * Registers are an array of bytes; only those that do something, or that are not what was
 * written, have code.
 *
 * Commands that were under way are not in a state: after loading one the guest sees a reset of
 * the bus, and starts them again.
 *
 * Not modelled: target mode, low-level mode (STEST2), the FIFOs, parity, the handshake timer.
 */
#include "vmm/dev/scsi/lsi.h"

#include <string.h>

#include "base/error.h"
#include "vmm/dev/virtio/iothread.h"

static const struct state_field lsi_fields[] = {
    STATE_STRUCT(struct lsi_regs, pci, pci_fields),
    STATE_BYTES(struct lsi_regs, reg),
    STATE_BYTES(struct lsi_regs, ram),
    STATE_UINT(struct lsi_regs, wait, LSI_TIRED),
    STATE_UINT(struct lsi_regs, connected, 1),
    STATE_UINT(struct lsi_regs, phase, MSG_IN),
    STATE_UINT(struct lsi_regs, asks, 1),
    STATE_UINT(struct lsi_regs, atn, 1),
    STATE_UINT(struct lsi_regs, carry, 1),
    STATE_UINT(struct lsi_regs, selection_failed, 1),
    STATE_UINT(struct lsi_regs, target, 15),
    STATE_UINT(struct lsi_regs, lun, 7),
    STATE_UINT(struct lsi_regs, disconnects, 1),
    STATE_UINT(struct lsi_regs, tagged, 1),
    STATE_INT(struct lsi_regs, tag),
    STATE_UINT(struct lsi_regs, commands, 1),
    STATE_UINT(struct lsi_regs, msg_len, MSG_MAX),
    STATE_UINT(struct lsi_regs, after, AFTER_RESUME),
    STATE_BYTES(struct lsi_regs, msg),
    STATE_UINT(struct lsi_regs, moving, 1),
};

u32 lsi_get32(const struct lsi *s, enum lsi_reg r)
{
    return pci_get32(s->r.reg, r);
}

void lsi_put32(struct lsi *s, enum lsi_reg r, u32 val)
{
    pci_put32(s->r.reg, r, val);
}

/* ---- memory --------------------------------------------------------------------------------
 */

enum { BAR_IO, BAR_REGS, BAR_RAM, BAR_REGS_LEN = 1024 };

static bool in_bar(const struct lsi *s, unsigned bar, u64 at, u32 n, u32 len, u32 *ret_off)
{
    u64 base = s->pci.bar[bar].at;

    if (base == PCI_UNMAPPED || at < base || n > len || at - base > len - n)
        return false;
    *ret_off = (u32)(at - base);
    return true;
}

bool lsi_mem_read(struct lsi *s, u64 at, void *to, u32 n)
{
    u32 off;

    if (in_bar(s, BAR_RAM, at, n, LSI_RAM, &off)) {
        memcpy(to, s->r.ram + off, n);
        return true;
    }
    return ram_get(s->pci.dev.vm->ram, at, to, n);
}

bool lsi_mem_write(struct lsi *s, u64 at, const void *from, u32 n)
{
    u32 off;

    if (in_bar(s, BAR_RAM, at, n, LSI_RAM, &off)) {
        memcpy(s->r.ram + off, from, n);
        return true;
    }
    return ram_put(s->pci.dev.vm->ram, at, from, n);
}

bool lsi_own_reg(const struct lsi *s, u64 at, u32 n, u8 *ret_reg)
{
    u32 off;

    if (!in_bar(s, BAR_REGS, at, n, LSI_REGS, &off))
        return false;
    *ret_reg = (u8)off;
    return true;
}

/* ---- interrupts ----------------------------------------------------------------------------
 */

void lsi_irq_update(struct lsi *s)
{
    u8 *r = s->r.reg;
    bool level = r[DSTAT] & r[DIEN] || r[SIST0] & r[SIEN0] || r[SIST1] & r[SIEN1] ||
                 r[ISTAT0] & ISTAT0_INTF;

    r[ISTAT0] &= ~(ISTAT0_DIP | ISTAT0_SIP);
    if (r[DSTAT])
        r[ISTAT0] |= ISTAT0_DIP;
    if (r[SIST0] || r[SIST1])
        r[ISTAT0] |= ISTAT0_SIP;
    pci_intx_set(&s->pci, level);
}

void lsi_dma_interrupt(struct lsi *s, u8 dstat)
{
    s->r.reg[DSTAT] |= dstat;
    s->r.wait = LSI_HALTED;
    s->r.moving = false;
    lsi_irq_update(s);
}

/* Those that are not fatal halt SCRIPTS only when they are enabled. */
void lsi_scsi_interrupt(struct lsi *s, u8 sist0, u8 sist1)
{
    u8 *r = s->r.reg;

    r[SIST0] |= sist0;
    r[SIST1] |= sist1;
    if (sist0 & (r[SIEN0] | ~(SIST0_CMP | SIST0_SEL | SIST0_RSL)) ||
        sist1 & (r[SIEN1] | ~(SIST1_GEN | SIST1_HTH))) {
        s->r.wait = LSI_HALTED;
        s->r.moving = false;
    }
    lsi_irq_update(s);
}

/* ---- registers -----------------------------------------------------------------------------
 */

static void soft_reset(struct lsi *s)
{
    u8 *r = s->r.reg;

    lsi_bus_reset(s);
    timer_cancel(&s->go_on);
    timer_cancel(&s->general);
    memset(r, 0, sizeof s->r.reg);
    r[SCNTL0] = 0xc0;
    r[SCID] = 7;
    r[DCMD] = 0x40;
    r[MACNTL] = 0xd0; /* chip type */
    r[0x4a] = 0x80;   /* RESPID0: it answers as 7 */
    s->r.wait = LSI_HALTED;
    s->r.phase = DATA_OUT;
    s->r.carry = s->r.selection_failed = s->r.moving = 0;
    s->r.target = s->r.lun = s->r.disconnects = s->r.tagged = s->r.tag = 0;
    s->r.after = 0;
    memset(s->r.msg, 0, sizeof s->r.msg);
    lsi_irq_update(s);
}

static u8 bus_lines(const struct lsi *s)
{
    return (u8)((s->r.asks ? 0x80 | s->r.phase : 0) | (s->r.connected ? 0x20 : 0) |
                (s->r.atn ? 0x08 : 0));
}

u8 lsi_reg_read(struct lsi *s, u8 reg)
{
    u8 *r = s->r.reg, val = r[reg];

    switch (reg) {
    case SBCL:
        return bus_lines(s);
    case DSTAT:
        r[DSTAT] = 0;
        lsi_irq_update(s);
        return val | DSTAT_DFE;
    case SSTAT0: /* the line RST */
        return r[SCNTL1] & SCNTL1_RST ? 0x02 : 0;
    case SSTAT1:
        return s->r.phase;
    case SSTAT2: /* the last one has disconnected */
        return s->r.connected ? 0 : 0x02;
    case ISTAT0:
        return (u8)(val | (s->r.connected ? ISTAT0_CON : 0));
    case ISTAT1:
        return s->r.wait == LSI_HALTED ? 0 : ISTAT1_SRUN;
    case CTEST2:
        val = (u8)(0x01 | (r[ISTAT0] & ISTAT0_SIGP ? 0x40 : 0));
        r[ISTAT0] &= ~ISTAT0_SIGP;
        return val;
    case SIST0:
    case SIST1:
        r[reg] = 0;
        lsi_irq_update(s);
        return val;
    case STEST4: /* the clock quadrupler has locked; LVD */
        return 0xe0;
    }
    return val;
}

static void istat_write(struct lsi *s, u8 val)
{
    u8 *r = s->r.reg, keep = r[ISTAT0] & (ISTAT0_INTF | ISTAT0_SIP | ISTAT0_DIP);

    if (val & ISTAT0_SRST && !(r[ISTAT0] & ISTAT0_SRST)) {
        soft_reset(s);
        r[ISTAT0] = ISTAT0_SRST; /* until it is taken away */
        return;
    }
    if (val & ISTAT0_INTF)
        keep &= ~ISTAT0_INTF;
    r[ISTAT0] = (u8)(keep | (val & (ISTAT0_ABRT | ISTAT0_SRST | ISTAT0_SIGP | ISTAT0_SEM)));
    lsi_irq_update(s);
    if (val & ISTAT0_ABRT)
        lsi_dma_interrupt(s, DSTAT_ABRT);
    else if (val & ISTAT0_SIGP)
        lsi_run(s);
}

static void scntl1_write(struct lsi *s, u8 val)
{
    u8 was = s->r.reg[SCNTL1];

    s->r.reg[SCNTL1] = (u8)((val & ~SCNTL1_CON) | (was & SCNTL1_CON));
    if (val & SCNTL1_RST && !(was & SCNTL1_RST)) {
        lsi_bus_reset(s);
        lsi_scsi_interrupt(s, SIST0_RST, 0);
    }
}

/* Steps of 125 us times a power of two. */
static void general_timer(struct lsi *s, u8 val)
{
    if (val & 15)
        timer_set(&s->general, vm_now(s->pci.dev.vm) + (125 * NS_PER_US << ((val & 15) - 1)));
    else
        timer_cancel(&s->general);
}

void lsi_reg_write(struct lsi *s, u8 reg, u8 val)
{
    u8 *r = s->r.reg;

    switch (reg) {
    case SCNTL1:
        scntl1_write(s, val);
        return;
    case SSID: /* read-only */
    case SBCL:
    case DSTAT:
    case SSTAT0:
    case SSTAT1:
    case SSTAT2:
    case ISTAT1:
    case SIST0:
    case SIST1:
    case STEST4:
        return;
    case ISTAT0:
        istat_write(s, val);
        return;
    case CTEST2:
        r[reg] = val & 0x08;
        return;
    case CTEST3: /* the revision is above; flushing and clearing are done at once */
        r[reg] = val & 0x01;
        return;
    case MACNTL:
        r[reg] = (u8)(0xd0 | (val & 0x0f));
        return;
    }
    r[reg] = val;
    switch (reg) {
    case DSP + 3:
        if (!(r[DMODE] & DMODE_MAN))
            lsi_start(s);
        break;
    case DCNTL:
        r[reg] &= ~DCNTL_STD;
        if (val & DCNTL_STD)
            lsi_start(s);
        break;
    case DIEN:
    case SIEN0:
    case SIEN1:
        lsi_irq_update(s);
        break;
    case STIME1:
        general_timer(s, val);
        break;
    }
}

/* Byte by byte, lowest first, as the bus cuts wider accesses. */
static u64 regs_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    return off < LSI_REGS ? lsi_reg_read(lsi_of(d), (u8)off) : 0xff;
}

static void regs_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    if (off < LSI_REGS)
        lsi_reg_write(lsi_of(d), (u8)off, (u8)val);
}

static u64 ram_read(struct dev *d, u64 off, unsigned size)
{
    u64 val = 0;

    memcpy(&val, lsi_of(d)->r.ram + off, size);
    return le64toh(val);
}

static void ram_write(struct dev *d, u64 off, u64 val, unsigned size)
{
    val = htole64(val);
    memcpy(lsi_of(d)->r.ram + off, &val, size);
}

static const struct region io_bar = { .name = "lsi-io",
                                      .len = LSI_REGS,
                                      .min = 1,
                                      .max = 1,
                                      .read = regs_read,
                                      .write = regs_write };
static const struct region regs_bar = { .name = "lsi-regs",
                                        .len = BAR_REGS_LEN,
                                        .min = 1,
                                        .max = 1,
                                        .read = regs_read,
                                        .write = regs_write };
static const struct region ram_bar = {
    .name = "lsi-ram", .len = LSI_RAM, .min = 1, .max = 4, .read = ram_read, .write = ram_write
};

/* ---- life ----------------------------------------------------------------------------------
 */

static void tired_over(struct dev *d, struct timer *t UNUSED)
{
    struct lsi *s = lsi_of(d);

    if (s->r.wait == LSI_TIRED)
        s->r.wait = LSI_RUNNING;
    lsi_run(s);
}

static void general_over(struct dev *d, struct timer *t UNUSED)
{
    lsi_scsi_interrupt(lsi_of(d), 0, SIST1_GEN);
}

/* The guest stops: the image gets nothing more; what has come is kept. */
static void heard(void *opaque, enum vm_event ev, enum vm_cause cause UNUSED)
{
    struct lsi *s = opaque;

    if (ev == VM_EV_STOP)
        scsi_bus_rest(&s->bus);
}

static bool lsi_init(struct dev *d, GError **error)
{
    struct lsi *s = lsi_of(d);
    g_autofree char *name = g_strdup_printf("%s.0", d->id);

    if (!pci_init(&s->pci, error))
        return false;
    s->io = iothread_new("lsi", error);
    s->bus.ops = &lsi_bus_ops;
    s->bus.targets = LSI_TARGETS;
    s->bus.own_target = 7;
    s->bus.luns = LSI_LUNS;
    if (!s->io || !scsi_bus_init(&s->bus, d, name, s->io, error)) {
        iothread_free(s->io);
        pci_fini(&s->pci);
        return false;
    }
    pci_bar_add(&s->pci, BAR_IO, PCI_BAR_IO, &io_bar);
    pci_bar_add(&s->pci, BAR_REGS, PCI_BAR_MEM, &regs_bar);
    pci_bar_add(&s->pci, BAR_RAM, PCI_BAR_MEM, &ram_bar);
    timer_init(&s->go_on, d, tired_over);
    timer_init(&s->general, d, general_over);
    vm_listen(d->vm, heard, s);
    return true;
}

static void lsi_reset(struct dev *d)
{
    struct lsi *s = lsi_of(d);

    soft_reset(s);
    memset(s->r.ram, 0, sizeof s->r.ram);
    pci_reset(&s->pci);
}

static void lsi_loaded(struct dev *d)
{
    struct lsi *s = lsi_of(d);
    bool lost = s->r.commands || s->r.connected;
    u8 wait = s->r.wait;

    pci_loaded(&s->pci);
    lsi_forget(s);
    s->r.commands = false;
    if (lost)
        lsi_scsi_interrupt(s, SIST0_RST, 0);
    else if (wait == LSI_RUNNING || wait == LSI_TIRED || wait == LSI_PHASE)
        timer_set(&s->go_on, vm_now(d->vm)); /* not under the loader's hands */
    lsi_irq_update(s);
}

static void lsi_fini(struct dev *d)
{
    struct lsi *s = lsi_of(d);

    vm_unlisten(d->vm, s);
    iothread_pause(s->io);
    dev_lock(d);
    s->r.wait = LSI_HALTED;
    lsi_bus_reset(s);
    dev_unlock(d);
    scsi_bus_fini(&s->bus);
    iothread_free(s->io);
    pci_fini(&s->pci);
}

static const struct prop lsi_props[] = {
    PCI_PROPS(struct lsi, pci),
    { 0 },
};

static const struct pci_type lsi_pci = {
    .vendor = 0x1000,
    .device = 0x0012,
    .subvendor = 0x1000,
    .subdevice = 0x1000,
    .class = 0x010000,
    .revision = 0x01,
    .pin = 1,
    .regs = offsetof(struct lsi, r.pci),
};

const struct dev_type lsi53c895a_type = {
    .name = "lsi53c895a",
    .desc = "LSI 53C895A SCSI host adapter",
    .kind = DEV_PCI,
    .size = sizeof(struct lsi),
    .props = lsi_props,
    .state = STATE_TABLE(struct lsi, r, lsi_fields),
    .init = lsi_init,
    .reset = lsi_reset,
    .loaded = lsi_loaded,
    .fini = lsi_fini,
    .more = &lsi_pci,
};
