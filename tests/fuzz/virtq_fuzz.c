// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * virtq_fuzz.c - virtqueues and the devices behind them, with rings, requests and registers as
 * a hostile driver may write them.
 *
 * The input is a program: each step has an opcode byte and its operands.  Steps write guest
 * memory, registers and configuration, and let a queue's handler run, in this thread.  Built as
 * a test it runs programs from a seeded generator; with clang,
 *     CC=clang meson setup -Dc_args=-fsanitize=fuzzer-no-link,address ... && ninja
 * virtq_fuzz_libfuzzer makes the libFuzzer program (tests/fuzz/meson.build).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/image.h"
#include "net/net.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

struct input {
    const u8 *p;
    size_t left;
};

static u64 take(struct input *in, unsigned n)
{
    u64 val = 0;

    for (unsigned i = 0; i < n && in->left; i++, in->left--)
        val |= (u64)*in->p++ << (8 * i);
    return val;
}

enum { KINDS = 6, RINGS = VT_RINGS, QSIZE = 16 };

static struct net *net;
static struct image *image;

static void backends(void)
{
    char path[] = "/tmp/posada-fuzz-XXXXXX";
    int fd = mkstemp(path);

    if (fd < 0 || ftruncate(fd, 1 << 20))
        abort();
    image = image_open(
        path,
        &(struct image_options){ .format = "raw", .discard = true, .cache = IMAGE_UNSAFE },
        NULL);
    net = net_new("none,id=n", NULL);
    if (!image || !net)
        abort();
    close(fd);
    unlink(path);
}

static void device_new(struct vtest *t, unsigned kind)
{
    static const struct dev_type *const types[KINDS] = {
        &virtio_rng_pci_type,    &virtio_blk_pci_type,     &virtio_net_pci_type,
        &virtio_serial_pci_type, &virtio_balloon_pci_type, &virtio_scsi_pci_type,
    };

    vtest_begin(t, types[kind], VT_MODERN);
    if (kind == 1)
        dev_set_ptr(t->dev, "drive", image, NULL);
    if (kind == 2)
        dev_set_ptr(t->dev, "netdev", net, NULL);
    vtest_realize(t);
    if (kind == 3) {
        struct dev *p = dev_new(t->vm, &virtconsole_type, "console");
        if (!dev_realize(p, NULL))
            abort();
    }
}

static void start(struct vtest *t, u64 features)
{
    vt_start(t, features & vt_features(t), MIN(virtio_of(t->dev)->n_queues, VT_QUEUES), QSIZE);
}

static void request(struct vtest *t, unsigned q, struct input *in)
{
    static const u32 lens[16] = { 0,  1,  2,   8,   10,   12,   16,   16,
                                  16, 64, 512, 513, 1024, 4096, 8192, 70000 };
    u8 shape = (u8)take(in, 1), readable = shape & 3, n = readable + (shape >> 2 & 3);
    struct vtest_seg s[6];
    u8 *head = vt_at(t, VT_DATA + 0x1000 * q);

    for (unsigned i = 0; i < n; i++) {
        u8 b = (u8)take(in, 1);
        s[i] = (struct vtest_seg){ VT_DATA + 0x1000 * q + (b >> 4) * 16, lens[b & 15],
                                   i >= readable };
    }
    if (shape & 0x10) /* block: type and sector; control: class; port: event */
        for (unsigned i = 0; i < 12; i++)
            head[i] = i % 4 ? 0 : (u8)take(in, 1) % 16;
    t->q[q].indirect = shape & 0x20 && t->features & BIT(VIRTIO_F_RING_INDIRECT);
    if (n)
        vt_add(t, q, s, n);
}

/* What the input writes is mostly an address, length or flag that could be right. */
static void step(struct vtest *t, struct input *in)
{
    struct virtio *v = virtio_of(t->dev);
    /* opcodes by weight: without many descriptors and looks, nothing else matters */
    static const u8 ops[32] = { 0, 1, 1, 2, 2, 2, 9, 9, 9, 9, 9, 9, 9, 3, 3, 9,
                                9, 9, 4, 4, 4, 4, 4, 4, 4, 4, 5, 6, 6, 7, 8 };
    u8 op = ops[take(in, 1) % ARRAY_LEN(ops)];
    unsigned q = (unsigned)take(in, 1) % MIN(v->n_queues, VT_QUEUES);
    struct vtest_queue *d = &t->q[q];

    switch (op) {
    case 0: /* raw bytes near the rings */
    case 1: {
        gpa at = (op ? VT_DATA : RINGS) + take(in, 2);
        u8 n = (u8)take(in, 1) % 64;
        for (unsigned i = 0; i < n; i++)
            *(u8 *)vt_at(t, at + i) = (u8)take(in, 1);
        break;
    }
    case 2: /* a descriptor, here or in an indirect table */
    {
        u8 how = (u8)take(in, 1), at = (u8)take(in, 1), next = (u8)take(in, 1);
        u16 flags = how & 2 ? how >> 4 & 7 : how >> 4 & 3; /* fewer indirect ones */
        u32 len = (u32)take(in, 2);
        if (flags & 4)
            len = flags & 3 ? len : (len % QSIZE + 1) * 16;
        vt_desc(t, how & 1 ? VT_DATA : d->desc, at % QSIZE,
                flags & 4 ? VT_DATA : VT_DATA + take(in, 3), len, flags,
                next == 0xff ? QSIZE : (at + 1 + next / 64) % QSIZE);
        break;
    }
    case 9: /* a request that could be one */
        request(t, q, in);
        break;
    case 3: { /* make it available */
        u16 *avail = vt_at(t, d->avail);
        u8 head = (u8)take(in, 1);
        avail[2 + d->idx++ % QSIZE] = head == 0xff ? QSIZE : head % QSIZE;
        avail[1] = d->idx;
        break;
    }
    case 4: /* the device looks */
        if (!virtio_live(v))
            start(t, t->features);
        dev_lock(t->dev);
        if (vq_ready(&v->vq[q]))
            v->vq[q].handle(&v->vq[q]);
        dev_unlock(t->dev);
        break;
    case 5: { /* registers */
        u32 off = (u32)take(in, 1) % 0x40;
        bus_write(t->vm->mem, t->bar4 + off, take(in, 4), 1u << take(in, 1) % 4);
        bus_read(t->vm->mem, t->bar4 + off, 4);
        break;
    }
    case 6: {
        u32 off = (u32)take(in, 1) % 80;
        vt_config_write(t, off, take(in, 4), 1u << take(in, 1) % 3);
        vt_config(t, off, 4);
        break;
    }
    case 7: /* start over */
        start(t, take(in, 5));
        break;
    case 8: { /* configuration space */
        u32 off = (u32)take(in, 1);
        if (off < 0x10 || off > 0x33) /* the BARs stay where they are */
            vt_pci_write(t, off, (u32)take(in, 4), 1u << take(in, 1) % 3);
        vt_pci_write(t, PCI_COMMAND, 7, 2);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = { data, size };
    struct vtest t;

    if (!image)
        backends();
    device_new(&t, (unsigned)take(&in, 1) % KINDS);
    start(&t, take(&in, 5));
    for (unsigned i = 0; i < 2000 && in.left; i++)
        step(&t, &in);
    vtest_free(&t);
    return 0;
}

#ifndef POSADA_LIBFUZZER
int main(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(1234);
    u8 program[4000];

    puts("1..1");
    fclose(stderr); /* the devices say what they think of it, at length */
    for (unsigned round = 0; round < 150; round++) {
        for (unsigned i = 0; i < sizeof program; i++)
            program[i] = (u8)g_rand_int(rand);
        program[0] = (u8)round;
        LLVMFuzzerTestOneInput(program, sizeof program);
    }
    puts("ok 1 - seeded programs");
    return 0;
}
#endif
