// SPDX-License-Identifier: GPL-2.0-or-later
/* state_test.c - tables and hostile streams. */
#include "vmm/core/state.h"

#include <glib.h>

#include "base/test.h"

struct chan {
    u16 count;
    u8 mode;
    u8 pad;
};
struct regs {
    u64 base;
    u32 idx;
    u8 flag;
    u8 zero[3];
    u16 list[4];
    u8 blob[8];
    struct chan chan[2];
    struct chan solo;
    u32 late;
};
struct thing {
    int other;
    struct regs r;
};
static const struct state_field chan_fields[] = {
    STATE_UINT(struct chan, count, 1000),
    STATE_UINT(struct chan, mode, 5),
    STATE_PAD(struct chan, pad),
};
static const struct state_field fields[] = {
    STATE_INT(struct regs, base),
    STATE_UINT(struct regs, idx, 7),
    STATE_BOOL(struct regs, flag),
    STATE_PAD(struct regs, zero),
    STATE_UINTS(struct regs, list, 0xfff),
    STATE_BYTES(struct regs, blob),
    STATE_STRUCTS(struct regs, chan, chan_fields),
    STATE_STRUCT(struct regs, solo, chan_fields),
    { .name = "late",
      .kind = STATE_K_UINT,
      .offset = offsetof(struct regs, late),
      .size = 4,
      .count = 1,
      .max = 9,
      .optional = true },
};
static struct state_table table(void)
{
    return STATE_TABLE(struct thing, r, fields);
}
static struct thing sample(void)
{
    return (struct thing){ .r = { .base = 0x1122334455667788,
                                  .idx = 7,
                                  .flag = 1,
                                  .list = { 1, 2, 3, 0xfff },
                                  .blob = "blobby",
                                  .chan = { { 10, 1 }, { 20, 2 } },
                                  .solo = { 30, 3 },
                                  .late = 4 } };
}
static GByteArray *saved(const struct thing *t)
{
    GByteArray *b = g_byte_array_new();
    struct state_table tab = table();

    state_save(&tab, t, b);
    return b;
}

TEST(state_round_trip)
{
    struct state_table tab = table();
    struct thing a = sample(), b = { .other = 42 };
    g_autoptr(GByteArray) s = saved(&a);
    g_autoptr(GError) error = NULL;

    EXPECT(state_check_table(&tab, NULL));
    EXPECT(state_load(&tab, &b, s->data, s->len, &error));
    EXPECT_EQ(b.other, 42);
    EXPECT(!memcmp(&a.r, &b.r, sizeof a.r));
    g_autoptr(GByteArray) s2 = saved(&b);
    EXPECT(s->len == s2->len && !memcmp(s->data, s2->data, s->len));
    g_autoptr(GString) text = g_string_new(NULL);
    state_print(&tab, &b, text);
    EXPECT(strstr(text->str, "chan[1].mode = 0x2\n"));
    EXPECT(strstr(text->str, "solo.count = 0x1e\n"));
}

TEST(state_stream_is_as_written_down)
{
    static const struct state_field f[] = { STATE_UINT(struct chan, count, 1000),
                                            STATE_UINT(struct chan, mode, 5),
                                            STATE_PAD(struct chan, pad) };
    struct state_table t = { .size = sizeof(struct chan), .fields = f, .n = 3 };
    struct chan c = { 0x123, 4, 0 };
    g_autoptr(GByteArray) s = g_byte_array_new();

    state_save(&t, &c, s);
    EXPECT_EQ(s->len, 1 + 5 + 4 + 2 + 1 + 4 + 4 + 1);
    EXPECT(!memcmp(s->data, "\5count\2\0\0\0\x23\1\4mode\1\0\0\0\4", s->len));
}

TEST(state_refuses_what_is_out_of_range)
{
    struct state_table tab = table();
    struct thing bad[4], t;

    for (u32 i = 0; i < 4; i++)
        bad[i] = sample();
    bad[0].r.idx = 8;
    bad[1].r.list[2] = 0x1000;
    bad[2].r.chan[1].mode = 6;
    bad[3].r.flag = 2;
    for (u32 i = 0; i < 4; i++) {
        g_autoptr(GByteArray) s = saved(&bad[i]);
        g_autoptr(GError) error = NULL;
        struct thing before;

        t = sample();
        t.r.base = i;
        before = t;
        EXPECT(!state_load(&tab, &t, s->data, s->len, &error));
        EXPECT(error && strstr(error->message, "field '"));
        EXPECT(!memcmp(&t, &before, sizeof t));
    }
}

TEST(state_missing_and_unknown_fields)
{
    struct state_table tab = table();
    struct thing a = sample(), b = sample();
    g_autoptr(GByteArray) s = saved(&a);

    b.r.late = 9;
    EXPECT(state_load(&tab, &b, s->data, s->len - 13, NULL)); /* without "late" */
    EXPECT_EQ(b.r.late, 9);
    EXPECT(!state_load(&tab, &b, s->data, 0, NULL));
    s->data[1] ^= 0x20; /* "Base" */
    EXPECT(!state_load(&tab, &b, s->data, s->len, NULL));
    s->data[1] ^= 0x20;
    g_byte_array_append(s, s->data, 17); /* "base" again */
    EXPECT(!state_load(&tab, &b, s->data, s->len, NULL));
}

TEST(state_survives_noise)
{
    struct state_table tab = table();
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    struct thing a = sample();
    g_autoptr(GByteArray) s = saved(&a);

    for (u32 len = 0; len < s->len; len++) {
        struct thing t = sample();
        bool ok = state_load(&tab, &t, s->data, len, NULL);
        EXPECT_EQ(ok, len == s->len - 13);
    }
    for (u32 i = 0; i < 20000; i++) {
        g_autofree u8 *copy = g_memdup2(s->data, s->len);
        struct thing t = sample();

        for (u32 k = g_rand_int_range(rand, 1, 4); k--;)
            copy[g_rand_int_range(rand, 0, (s32)s->len)] = (u8)g_rand_int(rand);
        if (state_load(&tab, &t, copy, s->len, NULL)) {
            EXPECT(t.r.idx <= 7 && t.r.flag <= 1 && t.r.chan[0].mode <= 5 && t.r.late <= 9);
        }
    }
}

TEST(state_check_finds_holes)
{
    static const struct state_field hole[] = { STATE_UINT(struct chan, count, 1000),
                                               STATE_UINT(struct chan, mode, 5) };
    static const struct state_field twice[] = { STATE_UINT(struct chan, count, 1000),
                                                STATE_UINT(struct chan, mode, 5),
                                                STATE_PAD(struct chan, mode) };
    struct state_table t = { .size = sizeof(struct chan), .fields = hole, .n = 2 };
    char *why = NULL;

    EXPECT(!state_check_table(&t, &why));
    EXPECT_STR(why, "byte 3 belongs to no field");
    g_free(why);
    t.fields = twice;
    t.n = 3;
    EXPECT(!state_check_table(&t, &why));
    EXPECT_STR(why, "field 'mode' appears twice");
    g_free(why);
    t.size = 2;
    EXPECT(!state_check_table(&t, NULL));
}
TEST_MAIN()
