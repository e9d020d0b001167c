// SPDX-License-Identifier: GPL-2.0-or-later
/* dev_test.c - properties, life, input lines. */
#include "vmm/core/dev.h"

#include "base/test.h"

struct toy {
    struct dev dev;
    bool on;
    u8 small;
    u16 port;
    u32 count;
    u64 size, ranged;
    char *path;
    u8 mac[6];
    void *end;
    u32 inits, resets, finis;
    bool in[4];
};
static const struct prop toy_props[] = {
    PROP(struct toy, on, PROP_BOOL, .name = "on", .def = "on"),
    PROP(struct toy, small, PROP_U8, .name = "small"),
    PROP(struct toy, port, PROP_U16, .name = "port", .def = "0x3f8"),
    PROP(struct toy, count, PROP_U32, .name = "count"),
    PROP(struct toy, size, PROP_SIZE, .name = "size"),
    PROP(struct toy, ranged, PROP_U64, .name = "ranged", .min = 2, .max = 8, .def = "4"),
    PROP(struct toy, path, PROP_STR, .name = "path", .def = "none"),
    PROP(struct toy, mac, PROP_MAC, .name = "mac"),
    PROP(struct toy, end, PROP_PTR, .name = "chardev", .link = "chardev"),
    { 0 },
};
static u32 finis;
static bool toy_init(struct dev *d, GError **error)
{
    struct toy *t = container_of(d, struct toy, dev);

    t->inits++;
    if (t->small == 13) {
        g_set_error(error, g_quark_from_string("toy"), 0, "13 brings bad luck");
        return false;
    }
    return true;
}
static void toy_reset(struct dev *d)
{
    container_of(d, struct toy, dev)->resets++;
    EXPECT(dev_locked(d));
}
static void toy_fini(struct dev *d UNUSED)
{
    finis++;
}
static void toy_in(struct dev *d, unsigned pin, bool level)
{
    EXPECT(dev_locked(d));
    container_of(d, struct toy, dev)->in[pin] = level;
}
static const struct dev_type toy_type = { .name = "toy",
                                          .size = sizeof(struct toy),
                                          .props = toy_props,
                                          .init = toy_init,
                                          .reset = toy_reset,
                                          .fini = toy_fini,
                                          .irq_in = toy_in };

static const char *why(struct dev *d, const char *prop, const char *text)
{
    static char buf[256];
    g_autoptr(GError) error = NULL;

    if (dev_set(d, prop, text, &error))
        return "ok";
    g_strlcpy(buf, error->message, sizeof buf);
    return buf;
}

TEST(properties_are_parsed_and_checked)
{
    struct vm *vm = vm_new();
    struct dev *d = dev_new(vm, &toy_type, "t0");
    struct toy *t = container_of(d, struct toy, dev);
    int end;

    EXPECT(t->on);
    EXPECT_EQ(t->port, 0x3f8);
    EXPECT_EQ(t->ranged, 4);
    EXPECT_STR(t->path, "none");
    EXPECT_STR(why(d, "on", "off"), "ok");
    EXPECT(!t->on);
    EXPECT_STR(why(d, "on", "perhaps"),
               "device 't0': property 'on': 'perhaps' is not 'on' or 'off'");
    EXPECT_STR(why(d, "small", "256"),
               "device 't0': property 'small': '256' is not within 0..255");
    EXPECT_STR(why(d, "small", "-1"), "device 't0': property 'small': '-1' is not a number");
    EXPECT_STR(why(d, "small", "0xff"), "ok");
    EXPECT_EQ(t->small, 255);
    EXPECT_STR(why(d, "count", "12x"), "device 't0': property 'count': '12x' is not a number");
    EXPECT_STR(why(d, "count", "64K"), "device 't0': property 'count': '64K' is not a number");
    EXPECT_STR(why(d, "size", "64K"), "ok");
    EXPECT_EQ(t->size, 65536);
    EXPECT_STR(why(d, "size", "2GiB"), "ok");
    EXPECT_EQ(t->size, 2 * GiB);
    EXPECT_STR(why(d, "size", "99999999999G"),
               "device 't0': property 'size': '99999999999G' is not a size");
    EXPECT_STR(why(d, "ranged", "9"), "device 't0': property 'ranged': '9' is not within 2..8");
    EXPECT_STR(why(d, "path", "/x"), "ok");
    EXPECT_STR(t->path, "/x");
    EXPECT_STR(why(d, "mac", "52:54:00:12:34:56"), "ok");
    EXPECT_EQ(t->mac[5], 0x56);
    EXPECT(strstr(why(d, "mac", "52:54:00:12:34:56:78"), "is not a MAC address"));
    EXPECT(strstr(why(d, "mac", "hello"), "is not a MAC address"));
    EXPECT_STR(why(d, "chardev", "c0"),
               "device 't0': property 'chardev' cannot be set from text");
    EXPECT(dev_set_ptr(d, "chardev", &end, NULL));
    EXPECT(t->end == &end);
    EXPECT_STR(why(d, "nonsense", "1"), "device 't0' (toy) has no property 'nonsense'");
    dev_free(d);
    dev_free(NULL);
    EXPECT_EQ(finis, 0);
    vm_free(vm);
}

TEST(devices_live_and_die)
{
    struct vm *vm = vm_new();
    struct dev *d = dev_new(vm, &toy_type, "a"), *e = dev_new(vm, &toy_type, NULL);
    struct toy *t = container_of(d, struct toy, dev);
    g_autoptr(GError) error = NULL;

    EXPECT_STR(e->id, "toy.0");
    EXPECT(dev_realize(d, NULL));
    EXPECT_EQ(t->inits, 1);
    EXPECT_EQ(t->resets, 1);
    EXPECT(dev_set(e, "small", "13", NULL));
    EXPECT(!dev_realize(e, &error));
    EXPECT_STR(error->message, "toy.0: 13 brings bad luck");
    dev_free(e);
    g_clear_error(&error);
    e = dev_new(vm, &toy_type, "a");
    EXPECT(!dev_realize(e, &error));
    EXPECT_STR(error->message, "device id 'a' is taken by a toy");
    dev_free(e);
    vm_reset(vm);
    EXPECT_EQ(t->resets, 2);

    struct irq *line = dev_irq_in(d, 2);
    EXPECT(line == dev_irq_in(d, 2));
    irq_set(line, true);
    EXPECT(t->in[2]);
    irq_set(line, false);
    EXPECT(!t->in[2]);
    irq_set(NULL, true);
    finis = 0;
    vm_free(vm);
    EXPECT_EQ(finis, 1);
}
TEST_MAIN()
