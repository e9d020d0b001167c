// SPDX-License-Identifier: GPL-2.0-or-later
/* scsi_test.c - virtio-scsi with a disk and a CD-ROM behind it, as drivers see them. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/test.h"
#include "image/graph.h"
#include "vmm/dev/scsi/bytes.h"
#include "vmm/dev/scsi/scsi.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

enum { DISK = 4 << 20, CD = 1 << 20, QSIZE = 64, LEN = 0x20000 };
enum {
    REQ = VT_DATA,
    RESP = VT_DATA + 0x1000,
    BUF = VT_DATA + 0x10000,
    EVENTS = VT_DATA + 0x2000
};
enum { S_OVERRUN = 1, S_BAD_TARGET = 3 };

struct rig {
    struct vtest t;
    struct graph *graph;
    struct drive *disk, *disc;
    struct dev *hd;
    char path[2][64];
    /* of the last command */
    u8 response, status, key, asc;
    u32 residual;
};

static struct image *file_open(struct rig *r, char *path, u32 size, bool read_only)
{
    struct image_options o = { .format = "raw",
                               .read_only = read_only,
                               .discard = true,
                               .graph = r->graph,
                               .node_name = read_only ? "disc" : "disk" };
    g_autofree u32 *words = g_new(u32, size / 4);
    g_autoptr(GError) error = NULL;

    strcpy(path, "/tmp/posada-scsi-XXXXXX");
    int fd = mkstemp(path);
    for (u32 i = 0; i < size / 4; i++)
        words[i] = i;
    if (fd < 0 || write(fd, words, size) != (ssize_t)size)
        g_error("%s", path);
    close(fd);
    struct image *image = image_open(path, &o, &error);
    if (!image)
        g_error("%s", error->message);
    return image;
}

static struct dev *unit_new(struct rig *r, const struct dev_type *t, struct drive *d,
                            const char *const *props)
{
    struct dev *u = dev_new(r->t.vm, t, t->name);
    g_autoptr(GError) error = NULL;
    bool ok = scsi_place(u, NULL, &error) && dev_set_ptr(u, "drive", d, &error);

    for (; ok && props && props[0]; props += 2)
        ok = dev_set(u, props[0], props[1], &error);
    if (!ok || !dev_realize(u, &error))
        g_error("%s", error->message);
    return u;
}

static void begin(struct rig *r)
{
    *r = (struct rig){ 0 };
    r->graph = graph_new(NULL, NULL, NULL, NULL);
    vtest_begin(&r->t, &virtio_scsi_pci_type, VT_MODERN);
    vtest_realize(&r->t);
    r->disk = drive_new(r->t.vm, "disk", file_open(r, r->path[0], DISK, false), false);
    r->disc = drive_new(r->t.vm, "disc", file_open(r, r->path[1], CD, true), true);
    r->hd =
        unit_new(r, &scsi_hd_type, r->disk,
                 (const char *const[]){ "serial", "S-77", "wwn", "0x5000c50015ea71ac", NULL });
    unit_new(r, &scsi_cd_type, r->disc,
             (const char *const[]){ "scsi-id", "3", "lun", "300", NULL });
    EXPECT(vt_start(&r->t, vt_features(&r->t), 3, QSIZE));
}

static void end(struct rig *r)
{
    vm_free_devs(r->t.vm);
    drive_free_all(r->t.vm);
    graph_free(r->graph);
    vtest_free(&r->t);
    unlink(r->path[0]);
    unlink(r->path[1]);
}

/* Runs a command; data lie at BUF.  The response stands in the rig; false: no answer. */
static bool command_at(struct rig *r, u8 target, u16 lun, const u8 *cdb, u32 len, bool in)
{
    struct vtest_seg s[5] = { { REQ, 51, false } };
    u8 *q = vt_at(&r->t, REQ), *a = vt_at(&r->t, RESP);
    unsigned n = 1;

    memset(q, 0, 51);
    memset(a, 0xee, 108);
    q[0] = 1;
    q[1] = target;
    q[2] = (u8)(0x40 | lun >> 8);
    q[3] = (u8)lun;
    memcpy(q + 19, cdb, 16);
    if (len && !in)
        s[n++] = (struct vtest_seg){ BUF, len, false };
    s[n++] = (struct vtest_seg){ RESP, 108, true };
    if (len && in) { /* in two pieces */
        s[n++] = (struct vtest_seg){ BUF, len / 2, true };
        s[n++] = (struct vtest_seg){ BUF + len / 2, len - len / 2, true };
    }
    vt_add(&r->t, 2, s, n);
    vt_kick(&r->t, 2);
    if (vt_wait(&r->t, 2, NULL) < 0)
        return false;
    memcpy(&r->residual, a + 4, 4);
    r->status = a[10];
    r->response = a[11];
    r->key = a[12 + 2];
    r->asc = a[12 + 12];
    return true;
}

#define CDB(...) ((const u8[16]){ __VA_ARGS__ })

static bool command(struct rig *r, const u8 *cdb, u32 len, bool in)
{
    return command_at(r, 0, 0, cdb, len, in) && !r->response && !r->status;
}

static void ready(struct rig *r)
{
    EXPECT(!command(r, CDB(0), 0, true)); /* power on */
    EXPECT_EQ(r->status, SCSI_CHECK_CONDITION);
    EXPECT_EQ(r->key, KEY_UNIT_ATTENTION);
    EXPECT_EQ(r->asc, 0x29);
    EXPECT(command(r, CDB(0), 0, true));
}

TEST(inquiry_and_pages)
{
    struct rig r;

    begin(&r);
    const u8 *b = vt_at(&r.t, BUF);
    EXPECT(command(&r, CDB(0x12, 0, 0, 0, 96), 96, true)); /* before the unit attention */
    EXPECT_EQ(b[0], 0);
    EXPECT_EQ(b[2], 5);
    EXPECT_EQ(r.residual, 96 - 36);
    EXPECT(memcmp(b + 8, "POSADA  POSADA HARDDISK 1.0 ", 28) == 0);
    EXPECT(command(&r, CDB(0x12, 1, 0, 0, 255), 255, true));
    EXPECT_EQ(b[3], 6);
    EXPECT(command(&r, CDB(0x12, 1, 0x80, 0, 255), 255, true));
    EXPECT(memcmp(b + 4, "S-77", 4) == 0);
    EXPECT(command(&r, CDB(0x12, 1, 0x83, 0, 255), 255, true));
    EXPECT_EQ(get_be64(b + 4 + 8 + 4), 0x5000c50015ea71ac);
    EXPECT(command(&r, CDB(0x12, 1, 0xb0, 0, 255), 255, true));
    EXPECT_EQ(get_be32(b + 20), GiB / 512);
    EXPECT(command(&r, CDB(0x12, 1, 0xb2, 0, 255), 255, true));
    EXPECT_EQ(b[5], 0xe0);
    EXPECT(!command(&r, CDB(0x12, 1, 0xb9, 0, 255), 255, true));
    EXPECT_EQ(r.key, KEY_ILLEGAL_REQUEST);
    EXPECT_EQ(r.asc, 0x24);
    ready(&r);
    EXPECT(command(&r, CDB(0x25), 8, true));
    EXPECT_EQ(get_be32(b), DISK / 512 - 1);
    EXPECT_EQ(get_be32(b + 4), 512);
    EXPECT(command(&r, CDB(0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32), 32, true));
    EXPECT_EQ(get_be64(b), DISK / 512 - 1);
    EXPECT_EQ(b[14], 0x80);
    EXPECT(!command(&r, CDB(0xff), 0, true));
    EXPECT_EQ(r.asc, 0x20);
    end(&r);
}

TEST(who_is_there)
{
    struct rig r;

    begin(&r);
    const u8 *b = vt_at(&r.t, BUF);
    EXPECT(command_at(&r, 7, 0, CDB(0), 0, true));
    EXPECT_EQ(r.response, S_BAD_TARGET);
    EXPECT(command_at(&r, 3, 0, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64), 64, true));
    EXPECT_EQ(get_be32(b), 8);
    EXPECT_EQ(get_be16(b + 8), 0x4000 | 300);
    EXPECT(command_at(&r, 3, 0, CDB(0x12, 0, 0, 0, 36), 36, true));
    EXPECT_EQ(b[0], 0x7f);
    EXPECT(command_at(&r, 3, 0, CDB(0), 0, true));
    EXPECT_EQ(r.asc, 0x25);
    EXPECT(command_at(&r, 3, 300, CDB(0x12, 0, 0, 0, 36), 36, true));
    EXPECT_EQ(b[0], 5);
    end(&r);
}

TEST(data_there_and_back)
{
    struct rig r;

    begin(&r);
    u32 *w = vt_at(&r.t, BUF);
    ready(&r);
    EXPECT(command(&r, CDB(0x28, 0, 0, 0, 0x10, 0, 0, 1, 0), LEN, true));
    for (u32 i = 0; i < LEN / 4; i++)
        EXPECT_EQ(w[i], 0x1000 * 128 + i);
    for (u32 i = 0; i < LEN / 4; i++)
        w[i] = ~i;
    EXPECT(command(&r, CDB(0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1, 0), LEN, false));
    memset(w, 0, LEN);
    EXPECT(command(&r, CDB(0xa8, 0, 0, 0, 0, 3, 0, 0, 1, 0), LEN, true));
    for (u32 i = 0; i < LEN / 4; i++)
        EXPECT_EQ(w[i], ~i);
    EXPECT(command(&r, CDB(0x08, 0, 0, 4, 1), 512, true));
    EXPECT_EQ(w[0], ~128u);
    EXPECT(command(&r, CDB(0x35), 0, true));
    EXPECT(!command(&r, CDB(0x28, 0, 0, 0, 0x1f, 0xff, 0, 0, 2), 1024, true));
    EXPECT_EQ(r.asc, 0x21);
    EXPECT(command_at(&r, 0, 0, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 2), 512, true));
    EXPECT_EQ(r.response, S_OVERRUN);
    end(&r);
}

TEST(zeroes_and_patterns)
{
    struct rig r;

    begin(&r);
    u8 *b = vt_at(&r.t, BUF);
    u32 *w = (u32 *)b;
    ready(&r);
    memset(b, 0x5a, 512);
    EXPECT(command(&r, CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 4, 0), 512, false));
    EXPECT(command(&r, CDB(0x28, 0, 0, 0, 4, 8, 0, 0, 2), 1024,
                   true)); /* the last, and one more */
    EXPECT_EQ(w[0], 0x5a5a5a5a);
    EXPECT_EQ(w[128], 0x409u * 128);
    memset(b, 0, 512);
    EXPECT(command(&r, CDB(0x41, 8, 0, 0, 0, 9, 0, 0, 1), 512, false));
    EXPECT(command(&r, CDB(0x28, 0, 0, 0, 0, 9, 0, 0, 2), 1024, true));
    EXPECT_EQ(w[0], 0);
    EXPECT_EQ(w[128], 0x5a5a5a5a);
    memset(b, 0, 40); /* two extents, one of which is nothing */
    put_be16(b, 38);
    put_be16(b + 2, 32);
    put_be64(b + 8, 100);
    put_be32(b + 16, 200);
    EXPECT(command(&r, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40), 40, false));
    put_be64(b + 8, DISK / 512 - 100);
    EXPECT(!command(&r, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 40), 40, false));
    EXPECT_EQ(r.asc, 0x21);
    EXPECT(!command(&r, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 20), 20, false));
    EXPECT_EQ(r.asc, 0x1a);
    end(&r);
}

TEST(mode_pages)
{
    struct rig r;

    begin(&r);
    u8 *b = vt_at(&r.t, BUF);
    ready(&r);
    EXPECT(command(&r, CDB(0x1a, 0, 0x3f, 0, 255), 255, true));
    EXPECT_EQ(b[0], 255 - r.residual - 1);
    EXPECT_EQ(b[2], 0x10);
    EXPECT(command(&r, CDB(0x1a, 8, 0x08, 0, 255), 255, true));
    EXPECT_EQ(b[4 + 2], 4);
    b[0] = 0;
    b[2] = 0;
    b[4 + 2] = 0;
    EXPECT(command(&r, CDB(0x15, 0x10, 0, 0, 24), 24, false));
    EXPECT(command(&r, CDB(0x5a, 8, 0x08, 0, 0, 0, 0, 0, 255), 255, true));
    EXPECT_EQ(b[8 + 2], 0);
    EXPECT(command(&r, CDB(0x1a, 8, 0x88, 0, 255), 255, true)); /* the default */
    EXPECT_EQ(b[4 + 2], 4);
    b[0] = b[2] = 0;
    b[4 + 3] = 1; /* may not be changed */
    EXPECT(!command(&r, CDB(0x15, 0x10, 0, 0, 24), 24, false));
    EXPECT_EQ(r.asc, 0x26);
    EXPECT(!command(&r, CDB(0x15, 0x10, 0, 0, 10), 10, false));
    EXPECT_EQ(r.asc, 0x1a);
    EXPECT(!command(&r, CDB(0x1a, 8, 0xc8, 0, 255), 255, true));
    EXPECT_EQ(r.asc, 0x39);
    end(&r);
}

TEST(a_cd_and_its_medium)
{
    struct rig r;
    g_autoptr(GError) error = NULL;

    begin(&r);
    u8 *b = vt_at(&r.t, BUF);
    EXPECT(command_at(&r, 3, 300, CDB(0), 0, true));
    EXPECT_EQ(r.key, KEY_UNIT_ATTENTION);
    EXPECT(command_at(&r, 3, 300, CDB(0x25), 8, true));
    EXPECT_EQ(get_be32(b), CD / 2048 - 1);
    EXPECT(command_at(&r, 3, 300, CDB(0x43, 0, 0, 0, 0, 0, 0, 0, 20), 20, true));
    EXPECT_EQ(get_be32(b + 16), CD / 2048);
    EXPECT(command_at(&r, 3, 300, CDB(0x46, 0, 0, 0, 0, 0, 0, 0, 255), 255, true));
    EXPECT_EQ(get_be16(b + 6), 8);
    EXPECT(command_at(&r, 3, 300, CDB(0x28, 0, 0, 0, 0, 5, 0, 0, 2), 4096, true));
    EXPECT_EQ(*(u32 *)b, 5 * 512);
    EXPECT(command_at(&r, 3, 300, CDB(0x1e, 0, 0, 0, 1), 0, true));
    EXPECT(!drive_eject(r.disc, false, &error));
    EXPECT(drive_eject(r.disc, true, NULL));
    EXPECT(command_at(&r, 3, 300, CDB(0), 0, true));
    EXPECT_EQ(r.key, KEY_NOT_READY);
    EXPECT_EQ(r.asc, 0x3a);
    EXPECT(drive_change(r.disc, r.path[1], "raw", -1, false, NULL));
    EXPECT(command_at(&r, 3, 300, CDB(0), 0, true));
    EXPECT_EQ(r.key, KEY_UNIT_ATTENTION);
    EXPECT_EQ(r.asc, 0x28);
    EXPECT(command_at(&r, 3, 300, CDB(0x25), 8, true));
    EXPECT_EQ(get_be32(b), CD / 2048 - 1);
    end(&r);
}

TEST(a_disk_that_goes_and_comes)
{
    struct vtest_seg seg = { EVENTS, 16, true };
    struct rig r;

    begin(&r);
    const u8 *e = vt_at(&r.t, EVENTS);
    ready(&r);
    vt_add(&r.t, 1, &seg, 1);
    vt_kick(&r.t, 1);
    dev_free(r.hd);
    EXPECT_EQ(vt_wait(&r.t, 1, NULL), 16);
    EXPECT_EQ(e[0], 1);
    EXPECT_EQ(e[12], 2); /* removed */
    EXPECT(command_at(&r, 0, 0, CDB(0), 0, true));
    EXPECT_EQ(r.response, S_BAD_TARGET);
    r.hd = unit_new(&r, &scsi_hd_type, r.disk, (const char *const[]){ "scsi-id", "9", NULL });
    vt_add(&r.t, 1, &seg, 1); /* only now: the event has waited */
    vt_kick(&r.t, 1);
    EXPECT_EQ(vt_wait(&r.t, 1, NULL), 16);
    EXPECT_EQ(e[4 + 1], 9);
    EXPECT_EQ(e[12], 1);
    EXPECT(command_at(&r, 9, 0, CDB(0x12, 0, 0, 0, 36), 36, true));
    EXPECT_EQ(r.status, SCSI_GOOD);
    end(&r);
}

static u8 manage(struct rig *r, u32 what, u8 target)
{
    struct vtest_seg s[] = { { REQ, 24, false }, { RESP, 1, true } };
    u8 *q = vt_at(&r->t, REQ), *a = vt_at(&r->t, RESP);

    memset(q, 0, 24);
    memcpy(q + 4, &what, 4);
    q[8] = 1;
    q[9] = target;
    q[10] = 0x40;
    vt_add(&r->t, 0, s, 2);
    vt_kick(&r->t, 0);
    EXPECT_EQ(vt_wait(&r->t, 0, NULL), 1);
    return a[0];
}

TEST(task_management)
{
    struct rig r;

    begin(&r);
    ready(&r);
    EXPECT_EQ(manage(&r, 5, 0), 0); /* reset of the unit */
    ready(&r);                      /* tells of it */
    EXPECT_EQ(manage(&r, 0, 0), 0);
    EXPECT_EQ(manage(&r, 6, 0), 0);
    EXPECT_EQ(manage(&r, 5, 9), S_BAD_TARGET);
    EXPECT_EQ(manage(&r, 5, 3), 12);
    EXPECT_EQ(manage(&r, 2, 0), 11);
    end(&r);
}

TEST(another_size_is_told)
{
    struct vtest_seg seg = { EVENTS, 16, true };
    struct rig r;

    begin(&r);
    const u8 *e = vt_at(&r.t, EVENTS), *b = vt_at(&r.t, BUF);
    vt_add(&r.t, 1, &seg, 1);
    vt_kick(&r.t, 1);
    EXPECT(graph_resize(r.graph, "disk", 2 * DISK, NULL));
    EXPECT_EQ(vt_wait(&r.t, 1, NULL), 16);
    EXPECT_EQ(e[0], 3); /* a parameter */
    EXPECT_EQ(e[12], 0x2a);
    EXPECT_EQ(e[13], 0x09);
    ready(&r); /* the power was switched on: that says more */
    EXPECT(graph_resize(r.graph, "disk", 3 * DISK, NULL));
    EXPECT(command_at(&r, 0, 0, CDB(0), 0, true));
    EXPECT_EQ(r.key, KEY_UNIT_ATTENTION);
    EXPECT_EQ(r.asc, 0x2a);
    EXPECT(command_at(&r, 0, 0, CDB(0x25), 8, true));
    EXPECT_EQ(get_be32(b), 3 * DISK / 512 - 1);
    end(&r);
}
TEST_MAIN()
