// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vm.h - one guest: what its parts share.  Run state, requests, the vCPUs' common half.
 *
 * The main thread runs a GLib main loop (vm->main).  Everything that changes the run state
 * happens there: other threads ask by vm_request() and go on.  vCPU threads, the timer thread
 * and I/O threads never wait for the main thread while they hold a device lock.
 */
#pragma once

#include <glib.h>
#include <pthread.h>

#include "base/types.h"
#include "vmm/core/irq.h"

struct ram;
struct bus;
struct dev;
struct vcpu;
struct clock;
struct cpu_ops;
struct cpu_config;
struct machine;

enum run_state {
    RUN_PRELAUNCH, /* -S, or still being built */
    RUN_RUNNING,
    RUN_PAUSED,
    RUN_SHUTDOWN, /* guest has powered off, -no-shutdown keeps it */
    RUN_INMIGRATE,
    RUN_INTERNAL_ERROR,
    RUN_IO_ERROR, /* a request to a disk has failed, and will be tried again */
};
const char *run_state_name(enum run_state); /* QMP's names */

/* Requests: may be asked for from any thread, carried out on the main loop. */
enum vm_req {
    VM_REQ_STOP = 1,
    VM_REQ_CONT = 2,
    VM_REQ_RESET = 4,      /* the guest or the user resets */
    VM_REQ_SHUTDOWN = 8,   /* guest powered itself off */
    VM_REQ_POWERDOWN = 16, /* press the ACPI button */
    VM_REQ_QUIT = 32,      /* leave now */
    VM_REQ_ERROR = 64,     /* a vCPU cannot go on */
};
enum { VM_REQS = 7 };
enum vm_cause {
    VM_BY_GUEST,
    VM_BY_HOST_UI,
    VM_BY_QMP,
    VM_BY_SIGNAL,
    VM_BY_PANIC,
    VM_BY_TRIPLE_FAULT
};

/* What the rest of the program may hear about; main loop. QMP turns them into its events. */
enum vm_event { VM_EV_STOP, VM_EV_RESUME, VM_EV_RESET, VM_EV_SHUTDOWN, VM_EV_POWERDOWN };

enum vm_io_error { VM_IO_REPORT, VM_IO_IGNORE, VM_IO_STOP };

enum { VM_VCPUS_MAX = 255, VM_GSI_MAX = 24 };

struct graph;
struct exports;
struct job_event;
struct vm {
    char *name;
    u8 uuid[16];
    struct ram *ram;
    struct bus *io, *mem;
    struct clock *clock;
    GMainContext *main;
    GMainLoop *loop;
    GPtrArray *devs; /* struct dev *, in the order they were realized; topology lock */

    const struct cpu_ops *cpu; /* the backend */
    void *cpu_vm;              /* its own per-vm data */
    /* What was asked for; cpu_open() sets it before vm_init(), the caller keeps it alive.
     * vm_init() reads -cpu and -smp from it, refuses what cannot be, and makes the CPUID table.
     */
    const struct cpu_config *cpu_config;
    u32 phys_bits; /* width of a guest-physical address by CPUID; vm_init() sets it */
    struct vcpu **vcpus;
    u32 n_vcpus;

    const struct intc_ops *intc;
    void *intc_opaque;
    struct irq gsi[VM_GSI_MAX];
    bool kernel_irqchip; /* KVM's, so the board makes no PIC, IOAPIC, LAPIC, (PIT) of its own */

    _Atomic u32 requests;
    u8 causes[VM_REQS]; /* enum vm_cause of the last request of each kind, by its bit */
    bool reset_ends;    /* VM_EV_SHUTDOWN is told of a reset that -no-reboot makes an end */
    enum run_state run;
    bool no_reboot, no_shutdown;
    int exit_status;                              /* what the process ends with */
    void (*powerdown)(struct vm *, void *opaque); /* the board's power button */
    void *powerdown_opaque;
    GPtrArray *event_listeners;
    pthread_mutex_t topology; /* recursive; outermost */
    u32 next_dev;             /* numbers made-up device ids */
    GSource *request_source;

    /* What the CPU backend's door (cpu_open) lends to core, which cannot see it. */
    void (*vcpu_kick)(struct vcpu *); /* cpu_ops.kick */
    void (*vcpus_reset)(struct vm *); /* architectural reset of all, parked, vCPUs */
    /* Lists that the folders above keep; main thread; NULL until the first. */
    GPtrArray *chardevs;     /* struct chardev *: backend/ */
    GPtrArray *nets;         /* struct net *: whoever makes one (options, builder) enters it */
    GPtrArray *monitors;     /* monitor/'s own */
    struct exports *exports; /* likewise: what NBD clients have */
    GPtrArray *drives;       /* struct drive *: dev/drive.c */
    struct graph *graph;     /* the nodes below them, and jobs: image/graph.h */
    GPtrArray *ide_buses;    /* struct ide_bus *: dev/ide/unit.c */
    GPtrArray *scsi_buses;   /* struct scsi_bus *: dev/scsi/bus.c */
    /* A drive's tray was opened or closed, by whomever; main thread; NULL: nobody listens. */
    /* A device that the user had made is gone; main thread. */
    void (*device_deleted)(struct vm *, const char *id);
    struct machine *machine; /* machine/builder.c; NULL: made by hand */
    void (*tray_moved)(struct vm *, const char *drive, const char *dev, bool open);
    /* A request to a drive has failed; the same. did: what came of it. */
    void (*io_error)(struct vm *, const char *drive, const char *dev, const char *node,
                     bool read, int err, enum vm_io_error did);
    /* Something happened to a job; likewise. */
    void (*job_event)(struct vm *, const struct job_event *);
};

struct vm *vm_new(void);
/* After cpu_close(). Frees the devices, last realized first, then buses and RAM. */
void vm_free(struct vm *);
/* The devices alone, newest first: before what they stand on (netdevs, chardevs) goes. */
void vm_free_devs(struct vm *);
void vm_lock(struct vm *); /* topology; never held across vm_stop() or vm_reset() */
void vm_unlock(struct vm *);

/* Any thread. Wakes the main loop. For RESET and SHUTDOWN the asking vCPU should go on to its
 * loop top, where it finds itself stopped. */
void vm_request(struct vm *, enum vm_req, enum vm_cause);
void vm_request_exit(struct vm *, int status); /* isa-debug-exit: QUIT with this exit status */

/* Main thread. */
void vm_run(struct vm *); /* the main loop, until QUIT */
void vm_stop(struct vm *, enum run_state);
void vm_cont(struct vm *);
/* Between these no vCPU runs; no event, no change of run state: for looking at registers. */
void vm_freeze(struct vm *);
void vm_thaw(struct vm *);
/* All devices in order, then vCPUs; then VM_EV_RESET is told (a direct-boot loader puts the
 * kernel back here, and sets vCPU 0); then, if the guest was running, it goes on. */
void vm_reset(struct vm *);
void vm_listen(struct vm *, void (*fn)(void *opaque, enum vm_event, enum vm_cause),
               void *opaque);
/* All listeners with that opaque. Not from inside one. */
void vm_unlisten(struct vm *, void *opaque);
/* fn(opaque) on the main loop, soon. Any thread. */
void vm_on_main(struct vm *, void (*fn)(void *opaque), void *opaque);

/* ---- the vCPUs' common half: what devices (a LAPIC) may know of a processor ---- */

enum vcpu_event {
    VCPU_INTR = 1, /* the LAPIC (or PIC) has, or had, something: ask lapic->ack() */
    VCPU_NMI = 2,
    VCPU_INIT = 4,
    VCPU_SIPI = 8,
    VCPU_SMI = 16,
    VCPU_STOP = 32,  /* leave run() */
    VCPU_FLUSH = 64, /* soft: other CPUs ask for a TLB action */
    VCPU_TIMER = 128,
};

/* What a processor asks its interrupt controller. Any of it from the vCPU's own thread only;
 * implementations take their own lock. The lapic is a struct dev of rank LAPIC. */
struct lapic_ops {
    /* Highest deliverable vector goes from IRR to ISR and is returned (or the PIC's, when it is
     * wired through); -1: nothing deliverable. */
    int (*ack)(struct dev *);
    bool (*pending)(struct dev *); /* would ack() give a vector? No side effect */
    u8 (*tpr_get)(struct dev *);   /* 8 bits; CR8 is bits 7:4 */
    void (*tpr_set)(struct dev *, u8);
    /* APIC_BASE (0x1b), TSC_DEADLINE (0x6e0), x2APIC 0x800-0x8ff. false: #GP. */
    bool (*msr_read)(struct dev *, u32 msr, u64 *ret);
    bool (*msr_write)(struct dev *, u32 msr, u64 val);
    /* After INIT: the LAPIC's own reset, keeping its id. */
    void (*init)(struct dev *);
};

struct vcpu {
    struct vm *vm;
    u32 index, apic_id;
    pthread_t thread;
    s32 tid;            /* the kernel's id of that thread, for people; 0 until it runs */
    _Atomic u32 events; /* enum vcpu_event bits */
    _Atomic u8 sipi_vector;
    _Atomic u8 *poll;  /* soft: byte that translated code polls, set with every event */
    struct dev *lapic; /* NULL with the kernel's irqchip */
    const struct lapic_ops *lapic_ops;
    void *impl;     /* the backend's */
    s64 tsc_offset; /* guest TSC = host TSC + this; own thread, or while it is parked */
    /* Parking: a vCPU thread that is not running waits here. */
    pthread_mutex_t park_lock;
    pthread_cond_t park;
    pthread_cond_t parked_cond;
    bool stopped; /* has to park; park_lock */
    bool parked;  /* does; park_lock */
    bool quit;
    bool started;        /* has a thread */
    bool halted_forever; /* AP that waits for SIPI is handled in the backend; this is for errors
                          */
};

/* Sets event bits and makes the vCPU look: sets *poll, wakes it from HLT, kicks the backend.
 * Any thread, any lock held. */
void vcpu_signal(struct vcpu *, u32 events);
/* The vCPU that this thread is, or NULL. A LAPIC's register page asks. */
struct vcpu *vcpu_current(void);
void vcpu_set_current(struct vcpu *);
/* Guest TSC of this vm now (all vCPUs alike unless the guest wrote TSC_ADJUST), and its rate.
 */
u64 vm_tsc_hz(void);
void vm_set_tsc_hz(u64 hz); /* cpu_open() says it once; 1 GHz until then */
