// SPDX-License-Identifier: GPL-2.0-or-later
/* console_test.c - ports, their control messages and bytes, over a host end made up here. */
#include "base/test.h"
#include "vmm/backend/chardev.h"
#include "vmm/dev/virtio/types.h"
#include "vmm/dev/virtio/vtest.h"

struct chardev {
    const struct chardev_user *user;
    void *opaque;
    char out[4096];
    size_t n_out, room;
    _Atomic u32 accepts;
};

void chardev_attach(struct chardev *c, const struct chardev_user *user, void *opaque)
{
    c->user = user;
    c->opaque = opaque;
}
void chardev_detach(struct chardev *c, void *opaque UNUSED)
{
    c->user = NULL;
}
size_t chardev_write(struct chardev *c, const void *bytes, size_t n)
{
    n = MIN(n, c->room);
    memcpy(c->out + c->n_out, bytes, n);
    c->n_out += n;
    c->room -= n;
    return n;
}
void chardev_accept(struct chardev *c)
{
    c->accepts++;
}
const char *chardev_id(const struct chardev *c UNUSED)
{
    return "c";
}
bool chardev_free_for_use(const struct chardev *c)
{
    return !c->user;
}

enum {
    MULTIPORT = BIT(1),
    CTRL_RX = 2,
    CTRL_TX = 3,
    OUT = VT_DATA,
    IN = VT_DATA + 0x100000,
    CTRL = VT_DATA + 0x200000
};

static struct dev *add(struct vtest *t, const struct dev_type *type, const char *id,
                       struct chardev *c, const char *name)
{
    struct dev *d = dev_new(t->vm, type, id);
    g_autoptr(GError) error = NULL;

    memset(c, 0, sizeof *c);
    c->room = sizeof c->out;
    if (!dev_set_ptr(d, "chardev", c, &error) || (name && !dev_set(d, "name", name, &error)) ||
        !dev_realize(d, &error))
        g_error("%s", error->message);
    return d;
}

static void send(struct vtest *t, unsigned q, const void *bytes, u32 n)
{
    struct vtest_seg s[] = { { OUT, n, false } };

    memcpy(vt_at(t, OUT), bytes, n);
    vt_add(t, q, s, 1);
    vt_kick(t, q);
}

static void control(struct vtest *t, u32 port, u16 event, u16 value)
{
    u16 m[4] = { (u16)port, 0, event, value };

    send(t, CTRL_TX, m, 8);
    EXPECT_EQ(vt_wait(t, CTRL_TX, NULL), 0);
}

static void ctrl_buffers(struct vtest *t, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct vtest_seg s[] = { { CTRL + (t->q[CTRL_RX].idx % 32) * 64, 64, true } };
        vt_add(t, CTRL_RX, s, 1);
    }
    vt_kick(t, CTRL_RX);
}

/* The next message; its text when it has one. */
static const char *expect(struct vtest *t, u32 port, u16 event, u16 value)
{
    u16 slot = t->q[CTRL_RX].seen % 32;
    s64 n = vt_wait(t, CTRL_RX, NULL);
    u16 *m = vt_at(t, CTRL + slot * 64);

    EXPECT(n >= 8);
    EXPECT_EQ(m[0], port);
    EXPECT_EQ(m[2], event);
    EXPECT_EQ(m[3], value);
    return n > 8 ? (const char *)(m + 4) : NULL;
}

TEST(one_console_without_ports)
{
    struct vtest t;
    struct chardev c;
    struct vtest_seg in[] = { { IN, 100, true } };

    vtest_begin(&t, &virtio_serial_pci_type, VT_MODERN);
    vtest_realize(&t);
    add(&t, &virtconsole_type, "con", &c, NULL);
    EXPECT(vt_start(&t, 0, 2, 32));
    send(&t, 1, "hello", 5);
    EXPECT_EQ(vt_wait(&t, 1, NULL), 0);
    EXPECT_STR(c.out, "hello");
    EXPECT_EQ(c.user->can_read(c.opaque), 0);
    vt_add(&t, 0, in, 1);
    u32 before = c.accepts;
    vt_kick(&t, 0);
    for (unsigned k = 0; k < 5000 && c.accepts == before; k++)
        g_usleep(200);
    EXPECT(c.accepts > before);
    EXPECT_EQ(c.user->can_read(c.opaque), 100);
    c.user->read(c.opaque, (const u8 *)"abc", 3);
    EXPECT_EQ(vt_wait(&t, 0, NULL), 3);
    EXPECT(!memcmp(vt_at(&t, IN), "abc", 3));
    EXPECT_EQ(c.user->can_read(c.opaque), 0);
    vtest_free(&t);
}

TEST(ports_are_told_and_opened)
{
    struct vtest t;
    struct chardev con, agent;
    struct vtest_seg in[] = { { IN, 100, true } };

    vtest_begin(&t, &virtio_serial_pci_type, VT_MODERN);
    vtest_realize(&t);
    add(&t, &virtserialport_type, "agent", &agent, "org.qemu.guest_agent.0");
    add(&t, &virtconsole_type, "con", &con, NULL);
    EXPECT(vt_start(&t, MULTIPORT, 6, 32));
    EXPECT_EQ(vt_config(&t, 4, 4), 31);
    ctrl_buffers(&t, 3);
    control(&t, 0, 0, 1); /* DEVICE_READY */
    expect(&t, 0, 1, 1);
    expect(&t, 1, 1, 1);
    control(&t, 0, 3, 1); /* PORT_READY */
    expect(&t, 0, 4, 1);  /* CONSOLE_PORT */
    control(&t, 1, 3, 1);
    ctrl_buffers(&t, 8); /* this one had to wait */
    EXPECT_STR(expect(&t, 1, 7, 1), "org.qemu.guest_agent.0");
    agent.user->event(agent.opaque, CHARDEV_OPENED);
    expect(&t, 1, 6, 1);
    vt_add(&t, 4, in, 1);
    vt_kick(&t, 4);
    EXPECT_EQ(agent.user->can_read(agent.opaque), 0); /* nobody has opened it there */
    control(&t, 1, 6, 1);
    for (unsigned k = 0; k < 5000 && !agent.user->can_read(agent.opaque); k++)
        g_usleep(200);
    EXPECT_EQ(agent.user->can_read(agent.opaque), 100);
    agent.user->read(agent.opaque, (const u8 *)"{}", 2);
    EXPECT_EQ(vt_wait(&t, 4, NULL), 2);
    send(&t, 5, "pong", 4);
    EXPECT_EQ(vt_wait(&t, 5, NULL), 0);
    EXPECT_STR(agent.out, "pong");
    agent.user->event(agent.opaque, CHARDEV_CLOSED);
    expect(&t, 1, 6, 0);
    vtest_free(&t);
}

TEST(a_full_host_end_holds_bytes_back)
{
    struct vtest t;
    struct chardev c;
    u16 *used;

    vtest_begin(&t, &virtio_serial_pci_type, VT_MODERN);
    vtest_realize(&t);
    add(&t, &virtconsole_type, "con", &c, NULL);
    c.room = 3;
    EXPECT(vt_start(&t, 0, 2, 32));
    used = vt_at(&t, t.q[1].used);
    send(&t, 1, "abcdefgh", 8);
    for (unsigned k = 0; k < 1000 && c.n_out < 3; k++)
        g_usleep(200);
    g_usleep(2000);
    EXPECT_EQ(used[1], 0);
    c.room = 4;
    c.user->event(c.opaque, CHARDEV_WRITABLE);
    for (unsigned k = 0; k < 1000 && c.n_out < 7; k++)
        g_usleep(200);
    g_usleep(2000);
    EXPECT_EQ(used[1], 0);
    c.room = 100;
    c.user->event(c.opaque, CHARDEV_WRITABLE);
    EXPECT_EQ(vt_wait(&t, 1, NULL), 0);
    EXPECT_STR(c.out, "abcdefgh");
    vtest_free(&t);
}

TEST(hostile_control_messages)
{
    struct vtest t;
    struct chardev c;

    vtest_begin(&t, &virtio_serial_pci_type, VT_MODERN);
    vtest_realize(&t);
    add(&t, &virtconsole_type, "con", &c, NULL);
    EXPECT(vt_start(&t, MULTIPORT, 6, 32));
    for (unsigned i = 0; i < 400; i++)
        control(&t, i % 3 ? i * 77 : 0, i % 9, i & 1);
    for (unsigned i = 0; i < 300; i++)
        control(&t, 0, 0, 1); /* answers pile up, and are bounded */
    send(&t, CTRL_TX, "x", 1);
    EXPECT_EQ(vt_wait(&t, CTRL_TX, NULL), 0);
    ctrl_buffers(&t, 16);
    EXPECT(vt_wait(&t, CTRL_RX, NULL) >= 8);
    vtest_free(&t);
}

TEST(wrong_ports)
{
    struct vtest t;
    g_autoptr(GError) error = NULL;
    struct dev *d;

    vtest_begin(&t, &virtio_serial_pci_type, VT_MODERN);
    d = dev_new(t.vm, &virtconsole_type, "early");
    EXPECT(!dev_realize(d, &error));
    g_clear_error(&error);
    dev_free(d);
    vtest_realize(&t);
    d = dev_new(t.vm, &virtserialport_type, "far");
    EXPECT(dev_set(d, "nr", "31", &error));
    EXPECT(!dev_realize(d, &error));
    dev_free(d);
    vtest_free(&t);
}
TEST_MAIN()
