// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bench.h - for unit tests: one device on its buses, with a clock that the test turns.
 *
 *     struct bench b = bench_new(&rtc_type, 0x70);
 *     bench_out(&b, 0x70, 0x0a);
 *     bench_step(&b, 3 * NS_PER_SEC);
 *     bench_migrate(&b);
 *     EXPECT_EQ(bench_in(&b, 0x71), 0x26);
 *     bench_free(&b);
 *
 * All in the calling thread.  The guest has 1 MiB of RAM at 0.
 */
#pragma once

#include "vmm/core/dev.h"

enum { BENCH_RAM = 1 << 20 };
#define BENCH_MEM 0xfe000000u /* where mem[0] lies; mem[i] at + i * 1 MiB */

struct bench_wires;
struct bench {
    struct vm *vm;
    struct dev *dev;
    u64 port;
    struct bench_wires *wires;
};

/* A realized device, io[0] at `port`, io[1] behind it, and so on; outputs go to counters.
 * Aborts with the message when it does not realize. */
struct bench bench_new(const struct dev_type *, u64 port);
/* The same in two steps, with dev_set(b.dev, ...) and the like between. */
struct bench bench_begin(const struct dev_type *, u64 port);
bool bench_realize(struct bench *, GError **error);
void bench_free(struct bench *);

/* Ports: a byte, or as the name says. Addresses as the guest's. */
u8 bench_in(struct bench *, u64 port);
u16 bench_in16(struct bench *, u64 port);
u32 bench_in32(struct bench *, u64 port);
void bench_out(struct bench *, u64 port, u8 val);
void bench_out16(struct bench *, u64 port, u16 val);
void bench_out32(struct bench *, u64 port, u32 val);
u64 bench_mem_read(struct bench *, u64 at, unsigned size);
void bench_mem_write(struct bench *, u64 at, u64 val, unsigned size);

void bench_step(struct bench *, u64 ns);

/* Output n: its level now, and how often it rose. */
bool bench_irq(const struct bench *, unsigned n);
u32 bench_irq_edges(const struct bench *, unsigned n);
/* Drives an input. */
void bench_irq_in(struct bench *, unsigned pin, bool level);

/* Save, free, build anew with the same properties and wires, load. */
void bench_migrate(struct bench *);
/* The device's state as its stream. g_byte_array_unref(). */
GByteArray *bench_save(const struct bench *);
int bench_load_bytes(struct bench *, const u8 *bytes, size_t n); /* 0 or -EBADMSG */
/* Loads the device's own state with one field changed: "index=255", "channel[2].mode=7". */
int bench_load(struct bench *, const char *field_is_value);
