// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * scsi_fuzz.c - SCSI commands with their parameter data, as a hostile driver may write them, to
 * a disk and a CD-ROM; data at once and in pieces.
 *
 * The input is a list of commands: how, target and LUN, the CDB, what the host sends; some are
 * aborted half-way.  Built as a test it runs lists from a seeded generator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/core/bench.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/iothread.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { DISK = 64 << 20, BUF = 0x10000, BUF_LEN = 0x40000 };

static const struct dev_type host_type = { .name = "host", .size = sizeof(struct dev) };
static const u8 *input;
static size_t left;
static struct scsi_req *waits; /* for its data */
static bool done;

static u64 take(unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n && left; i++, left--)
        val |= (u64)*input++ << (8 * i);
    return val;
}

static void on_data(struct scsi_req *q)
{
    if (q->n > q->cap)
        abort();
    waits = q;
}

static void on_done(struct scsi_req *q)
{
    if (q->status == SCSI_CHECK_CONDITION && !q->sense_len)
        abort();
    done = true;
}

static const struct scsi_bus_ops ops = { .data = on_data, .done = on_done };

static struct drive *disk(struct vm *vm, const char *id, bool cd)
{
    struct image_options o = {
        .format = "raw", .discard = true, .cache = IMAGE_UNSAFE, .read_only = cd
    };
    char path[] = "/tmp/posada-fuzz-XXXXXX";
    int fd = mkstemp(path);

    if (fd < 0 || ftruncate(fd, DISK))
        abort();
    struct image *image = image_open(path, &o, NULL);
    close(fd);
    unlink(path);
    if (!image)
        abort();
    return drive_new(vm, id, image, cd);
}

static void unit(struct vm *vm, const struct dev_type *t, const char *target)
{
    struct dev *d = dev_new(vm, t, t->name);

    if (!scsi_place(d, NULL, NULL) ||
        !dev_set_ptr(d, "drive", disk(vm, t->name, t == &scsi_cd_type), NULL) ||
        !dev_set(d, "scsi-id", target, NULL) || !dev_realize(d, NULL))
        abort();
}

/* A CDB is mostly a command that there is, on blocks that there are. */
static void cdb(u8 *c)
{
    static const u8 known[] = {
        0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x2b, 0x2e,
        0x2f, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x88, 0x8a, 0x8e, 0x8f,
        0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa, 0xbd, 0xbe, 0x42, 0x55, 0x15, 0x93,
    };
    u8 how = (u8)take(1);

    for (unsigned i = 0; i < SCSI_CDB_MAX; i++)
        c[i] = (u8)take(1) & (how & 1 ? 0xff : i < 10 ? 0x1f : 3);
    if (!(how & 2))
        c[0] = known[take(1) % sizeof known];
    if (how & 4) { /* addresses and lengths that can be */
        static const u8 last[8][2] = {
            { 3, 4 }, { 5, 8 }, { 5, 8 }, { 0 }, { 9, 13 }, { 5, 9 }
        };
        const u8 *at = last[c[0] >> 5];

        memset(c + 1, 0, at[0] - (at[0] > 0)); /* the last byte of each stays */
        if (at[1] > at[0])
            memset(c + at[0] + 1, 0, (size_t)(at[1] - at[0] - 1));
    }
    if (how & 8)
        c[1] = 0x10; /* MODE SELECT: pages */
}

static void run_one(struct bench *b, struct scsi_bus *bus, struct scsi_req *q)
{
    u8 how = (u8)take(1), *host = ram_block_at(b->vm->ram, 0)->host;
    u32 budget = 64;
    struct iovs sg;

    cdb(q->cdb);
    q->target = how & 1;
    q->lun = (how & 0xc6) == 0xc6; /* mostly one that there is */
    iovs_init(&sg, b->vm->ram, how & 8 ? RAM_FROM_GUEST : RAM_TO_GUEST);
    q->sg = how & 16 ? &sg : NULL;
    u32 n = (u32)take(how & 32 ? 2 : 1) % BUF_LEN;
    for (u32 i = 0; i < 48; i++)
        host[BUF + i] = (u8)take(1) & (how & 32 ? 0xff : 0x1f);
    if (n && !ram_iov(b->vm->ram, BUF, n, &sg))
        abort();
    done = false;
    waits = NULL;
    dev_lock(bus->host);
    scsi_submit(bus, q);
    while (!done) {
        scsi_bus_drain(bus);
        if (!waits)
            continue;
        struct scsi_req *w = waits;

        waits = NULL;
        if (!budget--) {
            scsi_abort(w);
            continue;
        }
        for (u32 i = 0; i < w->n && w->dir == SCSI_OUT; i++)
            w->buf[i] = host[BUF + i % 48];
        scsi_go_on(w);
    }
    dev_unlock(bus->host);
    iovs_free(&sg);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct bench b = bench_begin(&host_type, 0x1000);
    struct scsi_bus bus = { .ops = &ops, .targets = 7, .own_target = 7, .luns = 7 };
    struct iothread *io = iothread_new("fuzz", NULL);
    struct scsi_req q = { 0 };

    input = data;
    left = size;
    if (!io || !bench_realize(&b, NULL) || !scsi_bus_init(&bus, b.dev, "scsi.0", io, NULL))
        abort();
    unit(b.vm, &scsi_hd_type, "0");
    unit(b.vm, &scsi_cd_type, "1");
    for (unsigned i = 0; i < 400 && left; i++)
        run_one(&b, &bus, &q);
    scsi_req_free(&q);
    iothread_free(io);
    while (b.vm->devs->len > 1) /* all but the host */
        dev_free(b.vm->devs->pdata[b.vm->devs->len - 1]);
    scsi_bus_fini(&bus);
    drive_free_all(b.vm);
    bench_free(&b);
    return 0;
}

#ifndef POSADA_LIBFUZZER
int main(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4321);
    static u8 program[30000];

    puts("1..1");
    for (unsigned round = 0; round < 60; round++) {
        for (unsigned i = 0; i < sizeof program; i++)
            program[i] = (u8)g_rand_int(rand);
        LLVMFuzzerTestOneInput(program, sizeof program);
    }
    puts("ok 1 - seeded commands");
    return 0;
}
#endif
