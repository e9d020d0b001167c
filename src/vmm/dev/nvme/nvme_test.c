// SPDX-License-Identifier: GPL-2.0-or-later
/* nvme_test.c - the NVMe controller as a driver sees it, over a real image file. */
#include "vmm/dev/nvme/nvme.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "image/graph.h"
#include "vmm/core/bench.h"
#include "vmm/dev/pci/pci.h"

enum { DISK = 4 << 20, BAR = 0xe0000000, QSIZE = 16, PATIENCE_US = 10 * 1000 * 1000 };
enum { RINGS = 0x1000, LIST = 0x8000, BUF = 0x20000 }; /* rings: two pages for each queue */
enum { CQ_INVALID = 0x100, QUEUE_ID = 0x101, QUEUE_SIZE = 0x102, LBA_RANGE = 0x80 };

struct rig {
    struct bench b;
    struct graph *graph;
    struct image *image;
    char path[64];
    u16 tail[3], head[3], phase[3], size[3], cid;
};

static void begin(struct rig *r)
{
    struct image_options o = { .format = "raw", .discard = true, .node_name = "n" };
    g_autoptr(GError) error = NULL;
    g_autofree u32 *words = g_new(u32, DISK / 4);

    for (u32 i = 0; i < DISK / 4; i++)
        words[i] = i;
    *r = (struct rig){ .b = bench_begin(&nvme_type, 0) };
    strcpy(r->path, "/tmp/posada-nvme-XXXXXX");
    int fd = mkstemp(r->path);
    if (fd < 0 || write(fd, words, DISK) != DISK)
        g_error("%s", r->path);
    close(fd);
    o.graph = r->graph = graph_new(NULL, NULL, NULL, NULL);
    r->image = image_open(r->path, &o, &error);
    struct dev *host = dev_new(r->b.vm, &pci_host_type, "host");
    if (!r->image || !dev_realize(host, &error) ||
        !pci_place(r->b.dev, pci_host_bus(host), 8, &error) ||
        !dev_set_ptr(r->b.dev, "drive", r->image, &error) ||
        !dev_set(r->b.dev, "serial", "N-77", &error) || !bench_realize(&r->b, &error))
        g_error("%s", error->message);
    struct pci_dev *p = pci_dev_of(r->b.dev);
    pci_config_write(p->bus, p->fn, PCI_BAR0, BAR, 4);
    pci_config_write(p->bus, p->fn, PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_MASTER, 2);
}

static void end(struct rig *r)
{
    bench_free(&r->b);
    image_close(r->image);
    graph_free(r->graph);
    unlink(r->path);
}

static u32 reg(struct rig *r, u32 off)
{
    return (u32)bench_mem_read(&r->b, BAR + off, 4);
}

static void set_reg(struct rig *r, u32 off, u32 val)
{
    bench_mem_write(&r->b, BAR + off, val, 4);
}

static void queue_ready(struct rig *r, u16 q, u16 size)
{
    EXPECT(ram_fill(r->b.vm->ram, RINGS + 0x2000 * q, 0, 0x2000));
    r->tail[q] = r->head[q] = 0;
    r->phase[q] = 1;
    r->size[q] = size;
}

static void enable(struct rig *r)
{
    queue_ready(r, 0, QSIZE);
    set_reg(r, 0x24, (QSIZE - 1) << 16 | (QSIZE - 1));
    bench_mem_write(&r->b, BAR + 0x28, RINGS, 8);
    bench_mem_write(&r->b, BAR + 0x30, RINGS + 0x1000, 8);
    set_reg(r, 0x14, 0x00460001);
    EXPECT_EQ(reg(r, 0x1c), 1);
}

struct cmd {
    u8 opcode;
    u32 nsid;
    u64 prp1, prp2;
    u32 d10, d11, d12;
};

static void put(struct rig *r, u16 q, const struct cmd *c)
{
    u8 e[64] = { 0 };

    e[0] = c->opcode;
    pci_put16(e, 2, ++r->cid);
    pci_put32(e, 4, c->nsid);
    memcpy(e + 24, &c->prp1, 8);
    memcpy(e + 32, &c->prp2, 8);
    pci_put32(e, 40, c->d10);
    pci_put32(e, 44, c->d11);
    pci_put32(e, 48, c->d12);
    EXPECT(ram_put(r->b.vm->ram, RINGS + 0x2000 * q + 64 * r->tail[q], e, sizeof e));
    r->tail[q] = (r->tail[q] + 1) % QSIZE;
}

static void ring(struct rig *r, u16 q)
{
    set_reg(r, 0x1000 + 8 * q, r->tail[q]);
}

/* The next completion's status; -1: none comes. *ret_result may be NULL. */
static int take(struct rig *r, u16 q, u32 wait_us, u32 *ret_result)
{
    for (u32 us = 0; us <= wait_us; us += 20) {
        u8 e[16];

        EXPECT(ram_get(r->b.vm->ram, RINGS + 0x2000 * q + 0x1000 + 16 * r->head[q], e, 16));
        u16 status = pci_get16(e, 14);
        if ((status & 1) == r->phase[q]) {
            if (++r->head[q] == r->size[q]) {
                r->head[q] = 0;
                r->phase[q] ^= 1;
            }
            set_reg(r, 0x1004 + 8 * q, r->head[q]);
            if (ret_result)
                *ret_result = pci_get32(e, 0);
            return status >> 1 & 0x7ff;
        }
        g_usleep(20);
    }
    return -1;
}

static int run(struct rig *r, u16 q, struct cmd c, u32 *ret_result)
{
    put(r, q, &c);
    ring(r, q);
    return take(r, q, PATIENCE_US, ret_result);
}

/* I/O queues 1, the completion queue of cq_size entries. */
static void io_queues(struct rig *r, u16 cq_size)
{
    queue_ready(r, 1, cq_size);
    EXPECT_EQ(run(r, 0,
                  (struct cmd){ .opcode = 5,
                                .prp1 = RINGS + 0x3000,
                                .d10 = (u32)(cq_size - 1) << 16 | 1,
                                .d11 = 3 },
                  NULL),
              0);
    EXPECT_EQ(run(r, 0,
                  (struct cmd){ .opcode = 1,
                                .prp1 = RINGS + 0x2000,
                                .d10 = (QSIZE - 1) << 16 | 1,
                                .d11 = 1 << 16 | 1 },
                  NULL),
              0);
}

static u32 word_at(struct rig *r, gpa at)
{
    u32 v = 0;

    EXPECT(ram_get_u32(r->b.vm->ram, at, &v));
    return v;
}

TEST(identify_and_features)
{
    struct rig r;
    char text[21] = "";
    u32 result;

    begin(&r);
    EXPECT_EQ(reg(&r, 8), 0x00010300);
    EXPECT_EQ(reg(&r, 0x1c), 0);
    enable(&r);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 6, .prp1 = BUF, .d10 = 1 }, NULL), 0);
    EXPECT(ram_get(r.b.vm->ram, BUF + 4, text, 20));
    EXPECT(g_str_has_prefix(text, "N-77 "));
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 6, .nsid = 1, .prp1 = BUF }, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF), DISK / 512);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 6, .nsid = 2, .prp1 = BUF }, NULL), 0x0b);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0xa, .d10 = 7 }, &result), 0);
    EXPECT_EQ(result, 63 << 16 | 63);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 9, .d10 = 6, .d11 = 0 }, NULL), 0);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0xa, .d10 = 6 }, &result), 0);
    EXPECT_EQ(result, 0);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0x7f }, NULL), 1);
    set_reg(&r, 0x14, 0);
    EXPECT_EQ(reg(&r, 0x1c), 0);
    end(&r);
}

TEST(queues_that_cannot_be)
{
    static const struct {
        struct cmd c;
        int status;
    } tries[] = {
        { { .opcode = 5, .prp1 = BUF, .d10 = 15 << 16, .d11 = 1 }, QUEUE_ID },
        { { .opcode = 5, .prp1 = BUF, .d10 = 15 << 16 | 65, .d11 = 1 }, QUEUE_ID },
        { { .opcode = 5, .prp1 = BUF, .d10 = 1, .d11 = 1 }, QUEUE_SIZE },
        { { .opcode = 5, .prp1 = BUF, .d10 = 0xffff0001, .d11 = 1 }, QUEUE_SIZE },
        { { .opcode = 5, .prp1 = BUF + 8, .d10 = 15 << 16 | 1, .d11 = 1 }, 2 },
        { { .opcode = 5, .prp1 = BUF, .d10 = 15 << 16 | 1, .d11 = 999 << 16 | 3 }, 0x108 },
        { { .opcode = 1, .prp1 = BUF, .d10 = 15 << 16 | 1, .d11 = 1 << 16 | 1 }, CQ_INVALID },
        { { .opcode = 0, .d10 = 3 }, QUEUE_ID },
        { { .opcode = 4, .d10 = 0 }, QUEUE_ID },
    };
    struct rig r;

    begin(&r);
    enable(&r);
    for (u32 i = 0; i < ARRAY_LEN(tries); i++)
        EXPECT_EQ(run(&r, 0, tries[i].c, NULL), tries[i].status);
    io_queues(&r, QSIZE);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 4, .d10 = 1 }, NULL), 0x10c); /* in use */
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0, .d10 = 1 }, NULL), 0);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 4, .d10 = 1 }, NULL), 0);
    end(&r);
}

TEST(reads_and_writes)
{
    struct rig r;
    le64 list[20];

    begin(&r);
    enable(&r);
    io_queues(&r, QSIZE);
    /* 64 KiB from an address inside a page on: 17 pages, a list of 16 */
    for (u32 i = 0; i < ARRAY_LEN(list); i++)
        list[i] = le64_of(BUF + 0x10000 + 0x2000 * i);
    EXPECT(ram_put(r.b.vm->ram, LIST, list, sizeof list));
    EXPECT_EQ(run(&r, 1,
                  (struct cmd){ .opcode = 2,
                                .nsid = 1,
                                .prp1 = BUF + 0x800,
                                .prp2 = LIST,
                                .d10 = 10,
                                .d12 = 127 },
                  NULL),
              0);
    EXPECT_EQ(word_at(&r, BUF + 0x800), 10 * 128);
    EXPECT_EQ(word_at(&r, BUF + 0x10000), 10 * 128 + 0x200);
    EXPECT_EQ(word_at(&r, BUF + 0x10000 + 15 * 0x2000), 10 * 128 + 0x200 + 15 * 0x400);
    EXPECT_EQ(run(&r, 1,
                  (struct cmd){ .opcode = 1, .nsid = 1, .prp1 = BUF + 0x800, .d10 = 100 },
                  NULL),
              0);
    u32 word;
    EXPECT_EQ(image_read_now(r.image, 100 * 512, &word, 4), 0);
    EXPECT_EQ(word, 10 * 128);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 0, .nsid = 1 }, NULL), 0);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 8, .nsid = 1, .d10 = 100, .d12 = 1 }, NULL),
              0);
    EXPECT_EQ(image_read_now(r.image, 100 * 512, &word, 4), 0);
    EXPECT_EQ(word, 0);
    /* what cannot be */
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF, .d10 = DISK / 512 },
                  NULL),
              LBA_RANGE);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF, .d11 = 0xffffffff },
                  NULL),
              LBA_RANGE);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 2, .nsid = 1, .prp1 = 1ull << 40 }, NULL), 4);
    EXPECT_EQ(
        run(&r, 1,
            (struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF, .prp2 = LIST + 4, .d12 = 100 },
            NULL),
        0x13);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 2, .nsid = 7, .prp1 = BUF }, NULL), 0x0b);
    end(&r);
}

TEST(discards)
{
    struct rig r;
    u8 list[32] = { 0 };

    begin(&r);
    enable(&r);
    io_queues(&r, QSIZE);
    pci_put32(list, 4, 8);
    pci_put32(list, 8, 16);
    pci_put32(list, 20, 8);
    pci_put32(list, 24, 64);
    EXPECT(ram_put(r.b.vm->ram, BUF, list, sizeof list));
    EXPECT_EQ(run(&r, 1,
                  (struct cmd){ .opcode = 9, .nsid = 1, .prp1 = BUF, .d10 = 1, .d11 = 4 },
                  NULL),
              0);
    u32 word;
    EXPECT_EQ(image_read_now(r.image, 24 * 512, &word, 4), 0);
    EXPECT_EQ(word, 24 * 128);
    pci_put32(list, 24, DISK / 512);
    EXPECT(ram_put(r.b.vm->ram, BUF, list, sizeof list));
    EXPECT_EQ(run(&r, 1,
                  (struct cmd){ .opcode = 9, .nsid = 1, .prp1 = BUF, .d10 = 1, .d11 = 4 },
                  NULL),
              LBA_RANGE);
    end(&r);
}

/* More commands at once than their completion queue holds; the state moves in the middle. */
TEST(a_full_completion_queue)
{
    struct rig r;

    begin(&r);
    enable(&r);
    io_queues(&r, 2);
    for (u32 i = 0; i < 10; i++)
        put(&r, 1, &(struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF + 0x1000 * i, .d10 = i });
    ring(&r, 1);
    for (u32 i = 0; i < 10; i++)
        EXPECT_EQ(take(&r, 1, PATIENCE_US, NULL), 0);
    EXPECT_EQ(take(&r, 1, 1000, NULL), -1);
    for (u32 i = 0; i < 10; i++)
        EXPECT_EQ(word_at(&r, BUF + 0x1000 * i), i * 128);
    g_autoptr(GByteArray) s = bench_save(&r.b);
    EXPECT_EQ(bench_load_bytes(&r.b, s->data, s->len), 0);
    EXPECT_EQ(run(&r, 1, (struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF, .d10 = 3 }, NULL),
              0);
    EXPECT_EQ(word_at(&r, BUF), 3 * 128);
    end(&r);
}

TEST(disabled_in_the_middle)
{
    struct rig r;

    begin(&r);
    for (u32 i = 0; i < 50; i++) {
        enable(&r);
        io_queues(&r, QSIZE);
        for (u32 k = 0; k < 8; k++)
            put(&r, 1,
                &(struct cmd){ .opcode = 2, .nsid = 1, .prp1 = BUF + 0x1000 * k, .d10 = k });
        ring(&r, 1);
        if (i % 2) {
            set_reg(&r, 0x14, 0);
            for (u32 us = 0; us < PATIENCE_US && reg(&r, 0x1c) & 1; us += 20)
                g_usleep(20);
        } else {
            struct pci_dev *p = pci_dev_of(r.b.dev);

            dev_reset(r.b.dev);
            pci_config_write(p->bus, p->fn, PCI_BAR0, BAR, 4);
            pci_config_write(p->bus, p->fn, PCI_COMMAND, PCI_COMMAND_MEM | PCI_COMMAND_MASTER,
                             2);
        }
        EXPECT_EQ(reg(&r, 0x1c), 0);
    }
    end(&r);
}

TEST(another_size_is_an_event)
{
    struct rig r;
    u32 result = 0;

    begin(&r);
    enable(&r);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 6, .prp1 = BUF, .d10 = 1 }, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF + 92), 0x100);
    put(&r, 0, &(struct cmd){ .opcode = 0xc });
    ring(&r, 0);
    EXPECT(graph_resize(r.graph, "n", 2 * DISK, NULL));
    EXPECT_EQ(take(&r, 0, 1000, NULL), -1); /* nobody wants to know */
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 9, .d10 = 0xb, .d11 = 0x17f }, NULL), 0);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0xa, .d10 = 0xb }, &result), 0);
    EXPECT_EQ(result, 0x100);
    EXPECT(graph_resize(r.graph, "n", 3 * DISK, NULL));
    EXPECT_EQ(take(&r, 0, PATIENCE_US, &result), 0);
    EXPECT_EQ(result, 0x040002);
    /* once, until the log has been read */
    put(&r, 0, &(struct cmd){ .opcode = 0xc });
    ring(&r, 0);
    EXPECT(graph_resize(r.graph, "n", DISK / 2, NULL));
    EXPECT_EQ(take(&r, 0, 1000, NULL), -1);
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 6, .nsid = 1, .prp1 = BUF }, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF), DISK / 2 / 512);
    struct cmd log = { .opcode = 2, .prp1 = BUF, .d10 = 1023 << 16 | 1 << 15 | 4 };
    EXPECT_EQ(run(&r, 0, log, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF), 1);
    log.d10 = 1023 << 16 | 4;
    EXPECT_EQ(run(&r, 0, log, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF), 1);
    EXPECT_EQ(run(&r, 0, log, NULL), 0);
    EXPECT_EQ(word_at(&r, BUF), 0);
    EXPECT(graph_resize(r.graph, "n", DISK, NULL));
    EXPECT_EQ(take(&r, 0, PATIENCE_US, &result), 0);
    EXPECT_EQ(result, 0x040002);
    EXPECT_EQ(run(&r, 0, log, NULL), 0);
    /* it changes while nobody waits: who asks next is told at once */
    EXPECT(graph_resize(r.graph, "n", 2 * DISK, NULL));
    EXPECT_EQ(run(&r, 0, (struct cmd){ .opcode = 0xc }, &result), 0);
    EXPECT_EQ(result, 0x040002);
    end(&r);
}
TEST_MAIN()
