// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lsi.h - inside the LSI 53C895A: what its register file (lsi.c), its SCRIPTS processor
 * (lsi_scripts.c) and its SCSI bus (lsi_bus.c) share.
 */
#pragma once

#include "vmm/dev/pci/pci.h"
#include "vmm/dev/scsi/scsi.h"

enum lsi_reg {
    SCNTL0 = 0x00,
    SCNTL1 = 0x01,
    SCNTL2 = 0x02,
    SCNTL3 = 0x03,
    SCID = 0x04,
    SDID = 0x06,
    SFBR = 0x08,
    SOCL = 0x09,
    SSID = 0x0a,
    SBCL = 0x0b,
    DSTAT = 0x0c,
    SSTAT0 = 0x0d,
    SSTAT1 = 0x0e,
    SSTAT2 = 0x0f,
    DSA = 0x10,
    ISTAT0 = 0x14,
    ISTAT1 = 0x15,
    CTEST2 = 0x1a,
    CTEST3 = 0x1b,
    TEMP = 0x1c,
    DFIFO = 0x20,
    CTEST5 = 0x22,
    DBC = 0x24,
    DCMD = 0x27,
    DNAD = 0x28,
    DSP = 0x2c,
    DSPS = 0x30,
    DMODE = 0x38,
    DIEN = 0x39,
    DCNTL = 0x3b,
    SIEN0 = 0x40,
    SIEN1 = 0x41,
    SIST0 = 0x42,
    SIST1 = 0x43,
    MACNTL = 0x46,
    STIME1 = 0x49,
    RESPID0 = 0x4a,
    STEST1 = 0x4d,
    SIDL = 0x50,
    STEST4 = 0x52,
    CCNTL0 = 0x56,
    CCNTL1 = 0x57,
    SCRATCHC = 0x60,
    MMRS = 0xa0,
    SBMS = 0xb0,
    DNAD64 = 0xb8,
    PMJAD1 = 0xc0,
    PMJAD2 = 0xc4,
    RBC = 0xc8,
    UA = 0xcc,
    ESA = 0xd0,
    IA = 0xd4,
    SBC = 0xd8,
    CSBC = 0xdc,
    LSI_REGS = 0x100,
};
enum {
    SCNTL1_CON = 0x10,
    SCNTL1_RST = 0x08,
    ISTAT0_ABRT = 0x80,
    ISTAT0_SRST = 0x40,
    ISTAT0_SIGP = 0x20,
    ISTAT0_SEM = 0x10,
    ISTAT0_CON = 0x08,
    ISTAT0_INTF = 0x04,
    ISTAT0_SIP = 0x02,
    ISTAT0_DIP = 0x01,
    ISTAT1_SRUN = 0x02,
    DSTAT_DFE = 0x80,
    DSTAT_BF = 0x20,
    DSTAT_ABRT = 0x10,
    DSTAT_SSI = 0x08,
    DSTAT_SIR = 0x04,
    DSTAT_IID = 0x01,
    SIST0_MA = 0x80,
    SIST0_CMP = 0x40,
    SIST0_SEL = 0x20,
    SIST0_RSL = 0x10,
    SIST0_UDC = 0x04,
    SIST0_RST = 0x02,
    SIST1_STO = 0x04,
    SIST1_GEN = 0x02,
    SIST1_HTH = 0x01,
    DMODE_MAN = 0x01,
    DCNTL_STD = 0x04,
    DCNTL_SSM = 0x10,
    CCNTL0_ENPMJ = 0x80,
    CCNTL0_PMJCTL = 0x40,
    CCNTL1_EN64TIBMV = 0x02,
    CCNTL1_EN64DBMV = 0x01,
    CCNTL1_64TIMOD = 0x04,
};
/* MSG, C/D and I/O as the bus has them. */
enum phase { DATA_OUT, DATA_IN, COMMAND, STATUS, MSG_OUT = 6, MSG_IN = 7 };

enum { LSI_RAM = 8192, LSI_TARGETS = 15, LSI_LUNS = 7, LSI_COMMANDS = 256, MSG_MAX = 8 };

/* What keeps SCRIPTS from its next instruction. */
enum lsi_wait {
    LSI_HALTED,   /* an interrupt, or it has not been started */
    LSI_RUNNING,  /* nothing; it goes on at the next occasion */
    LSI_RESELECT, /* a WAIT RESELECT */
    LSI_PHASE,    /* the target has not asked for anything yet */
    LSI_TIRED,    /* its share of time is used up: the timer lets it go on */
};
/* What follows a message of the target. */
enum lsi_after { AFTER_COMMAND, AFTER_FREE, AFTER_RESUME };

struct lsi_cmd {
    struct scsi_req q;
    struct lsi *s;
    u8 tag;
    bool tagged, disconnects; /* the initiator lets it go */
    bool waits;               /* for the adapter to come back to it: ready, and disconnected */
    bool has_data, over;      /* q.buf has to be moved; the status stands */
    u8 status;
    u32 pos;
    struct lsi_cmd *next;
};

struct lsi_regs {
    struct pci_regs pci;
    u8 reg[LSI_REGS];
    u8 ram[LSI_RAM];
    u8 wait;
    u8 connected, phase, asks; /* asks: the target has a phase (REQ) */
    u8 atn, carry;
    u8 selection_failed; /* told at the next instruction that is about the bus */
    u8 target, lun, disconnects, tagged, tag; /* of the connection */
    u8 commands;                              /* some were under way */
    u8 msg_len, after;
    u8 msg[MSG_MAX]; /* from the target */
    u8 moving; /* a block move waits for more data: RBC, UA and so on say what is left of it */
};

struct lsi {
    struct pci_dev pci;
    struct lsi_regs r;
    struct scsi_bus bus;
    struct iothread *io;
    struct timer go_on, general;
    struct lsi_cmd *commands, *now; /* all; the connected one */
    u32 n_commands;
    bool inside; /* SCRIPTS runs: who completes something need not start it */
};

static inline struct lsi *lsi_of(struct dev *d)
{
    return container_of(d, struct lsi, pci.dev);
}

/* ---- lsi.c; all REQUIRES the lock ---- */

u32 lsi_get32(const struct lsi *, enum lsi_reg);
void lsi_put32(struct lsi *, enum lsi_reg, u32);
u8 lsi_reg_read(struct lsi *, u8 reg);
void lsi_reg_write(struct lsi *, u8 reg, u8 val);
/* Memory as the chip sees it: its own RAM, and the guest's. */
bool lsi_mem_read(struct lsi *, u64 at, void *to, u32 n);
bool lsi_mem_write(struct lsi *, u64 at, const void *from, u32 n);
/* Are these bytes its own registers? */
bool lsi_own_reg(const struct lsi *, u64 at, u32 n, u8 *ret_reg);
void lsi_dma_interrupt(struct lsi *, u8 dstat); /* halts SCRIPTS */
void lsi_scsi_interrupt(struct lsi *, u8 sist0, u8 sist1);
void lsi_irq_update(struct lsi *);

/* ---- lsi_scripts.c ---- */

void lsi_run(struct lsi *);   /* as far as it goes */
void lsi_start(struct lsi *); /* at DSP */

/* ---- lsi_bus.c ---- */

bool lsi_select(struct lsi *, u8 target, bool atn); /* false: nobody answers */
/* A command that waits has come: the bus belongs to its target now. false: none waits. */
bool lsi_reselected(struct lsi *);
/* Moves up to n bytes of the present phase; how many, and whether the memory was there. */
bool lsi_move(struct lsi *, u64 at, u32 n, u32 *ret_moved);
void lsi_ack_cleared(struct lsi *);
void lsi_listen(struct lsi *); /* the initiator means to send a message */
void lsi_bus_free(struct lsi *);
void lsi_bus_reset(struct lsi *); /* waits for what the image has */
void lsi_forget(struct lsi *);    /* all commands, likewise */
extern const struct scsi_bus_ops lsi_bus_ops;
