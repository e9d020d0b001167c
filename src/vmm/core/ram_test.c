// SPDX-License-Identifier: GPL-2.0-or-later
/* ram_test.c - RAM: slots, bounds, flags, scattered buffers. */
#include "base/test.h"
#include "vmm/core/ram.h"

/* 1 MiB at 0, whose last 64 KiB are shown again as ROM at the end of the address space. */
static struct ram *two_slots(struct ram_block **ret)
{
    struct ram *r = ram_new();
    struct ram_block *b = ram_block_new(r, "ram", MiB, NULL);

    ram_map_at(r, 0, MiB, b, 0, false);
    ram_map_at(r, 0 - 64 * KiB, 64 * KiB, b, MiB - 64 * KiB, true);
    ram_commit(r);
    *ret = b;
    return r;
}

TEST(ram_reads_what_was_written)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    u8 buf[8] = { 0 };
    u16 h;
    u32 w;

    EXPECT(ram_put(r, MiB - 4, "abcd", 4));
    EXPECT(ram_get(r, UINT64_MAX - 3, buf, 4));
    EXPECT(!memcmp(buf, "abcd", 4));
    EXPECT(ram_fill(r, 0x1000, 0x5a, 0x2000));
    EXPECT(ram_get_u32(r, 0x2ffc, &w));
    EXPECT_EQ(w, 0x5a5a5a5a);
    EXPECT(ram_get_u32(r, 0x2ffe, &w)); /* misaligned, half of it outside */
    EXPECT_EQ(w, 0x5a5a);
    EXPECT(ram_put_u16(r, 0x10, 0x1234));
    EXPECT(ram_get_u16(r, 0x10, &h));
    EXPECT_EQ(h, 0x1234);
    EXPECT_EQ(ram_size(r), MiB);
    EXPECT_EQ(ram_pages(r), 256);
    ram_free(r);
}

TEST(ram_discards_whole_pages)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    u8 byte = 0;

    EXPECT(ram_fill(r, 0, 0x5a, MiB));
    EXPECT(ram_discard(r, 0x1800, 0x3000));
    EXPECT(ram_get(r, 0x1fff, &byte, 1));
    EXPECT_EQ(byte, 0x5a);
    EXPECT_EQ(b->host[0x2000], 0);
    EXPECT_EQ(b->host[0x3fff], 0);
    EXPECT_EQ(b->host[0x4000], 0x5a);
    EXPECT(ram_discard(r, 0x100, 0x10)); /* less than a page: nothing */
    EXPECT_EQ(b->host[0x100], 0x5a);
    EXPECT(!ram_discard(r, MiB - 0x1000, 0x2000));
    EXPECT_EQ(b->host[MiB - 1], 0);
    EXPECT(!ram_discard(r, UINT64_MAX - 10, 100));
    EXPECT(!ram_discard(r, 0 - 64 * KiB, 0x1000)); /* ROM */
    EXPECT_EQ(b->host[MiB - 64 * KiB], 0x5a);
    ram_free(r);
}

TEST(ram_refuses_what_is_not_ram)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    u8 buf[16] = { 0 };
    u16 h;
    g_autoptr(GError) error = NULL;

    EXPECT(!ram_get(r, MiB, buf, 1));
    EXPECT(!ram_get(r, MiB - 8, buf, 16));
    EXPECT(!ram_get(r, UINT64_MAX, buf, 2)); /* wraps */
    EXPECT(ram_get(r, UINT64_MAX, buf, 1));
    EXPECT(!ram_get(r, UINT64_MAX - 3, buf, SIZE_MAX)); /* before a byte too many is copied? */
    EXPECT(!ram_put(r, UINT64_MAX, buf, 1));            /* ROM */
    EXPECT(!ram_put_u16(r, UINT64_MAX - 1, 1));
    EXPECT(ram_load(r, UINT64_MAX, "x", 1));
    EXPECT(ram_get(r, MiB - 1, buf, 1));
    EXPECT_EQ(buf[0], 'x');
    EXPECT(ram_get(r, MiB + 5, buf, 0));
    EXPECT(!ram_get_u16(r, MiB, &h));
    EXPECT(!ram_block_new(r, "odd", 4097, &error));
    EXPECT(error && strstr(error->message, "odd"));
    EXPECT(!ram_block_new(r, "ram", 4096, NULL));
    ram_free(r);
}

TEST(ram_map_replaces_and_splits)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    struct ram_block *o = ram_block_new(r, "other", 64 * KiB, NULL);
    u64 before = ram_current(r)->generation;
    u8 c;

    ram_map_at(r, 0xc0000, 0x4000, o, 0, true);
    EXPECT_EQ(ram_slot_find(r, 0xc0000)->rom, false); /* not committed yet */
    ram_commit(r);
    EXPECT_EQ(ram_current(r)->generation, before + 1);
    EXPECT_EQ(ram_current(r)->n, 4);
    EXPECT(ram_slot_find(r, 0xc3fff)->block == o);
    EXPECT(ram_slot_find(r, 0xc4000)->block == b);
    EXPECT_EQ(ram_slot_find(r, 0xc4000)->off, 0xc4000);
    EXPECT(!ram_put(r, 0xbffff, "ab", 2)); /* runs into ROM */
    EXPECT(ram_get(r, 0xbffff, &c, 1) && c == 'a');
    EXPECT_EQ(ram_size(r), MiB - 0x4000);

    ram_map_at(r, 0xc0000, 0x4000, b, 0xc0000, false); /* back: the pieces join again */
    ram_commit(r);
    EXPECT_EQ(ram_current(r)->n, 2);

    ram_unmap(r, 0x1000, UINT64_MAX);
    ram_commit(r);
    EXPECT_EQ(ram_current(r)->n, 1);
    EXPECT_EQ(ram_current(r)->slot[0].len, 0x1000);
    ram_map_at(r, UINT64_MAX & ~0xfffull, 0x2000, o, 0, false); /* a guest's BAR may wrap */
    ram_commit(r);
    EXPECT_EQ(ram_current(r)->n, 1);
    ram_free(r);
}

static u64 watched[3], watches;
static void watch(void *opaque, u64 index, u32 off, u32 len)
{
    struct ram_page p;

    if (ram_page(opaque, 0x5000, &p))
        EXPECT_EQ(p.host[0x10], 7); /* the bytes are there before the watch is called */
    watched[0] = index;
    watched[1] = off;
    watched[2] = len;
    watches++;
}

TEST(ram_marks_writes)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    unsigned long map[4];
    u8 seven[0x2000];
    struct ram_page p;

    memset(seven, 7, sizeof seven);
    EXPECT(ram_put(r, 0x5000, seven, 1)); /* nobody logs */
    ram_log_fetch(r, RAM_PAGE_DIRTY_MIGRATE, b, map);
    EXPECT_EQ(map[0], 0);

    ram_log(r, RAM_PAGE_DIRTY_MIGRATE, true);
    ram_log(r, RAM_PAGE_DIRTY_SCREEN, true);
    EXPECT_EQ(ram_logging(r), RAM_PAGE_DIRTY);
    EXPECT(ram_put(r, 0x5800, seven, 0x1000));
    EXPECT(ram_put_u16(r, 0xff000, 1));
    ram_written(r, b->host + 0x9fff, 2);
    ram_written(r, b->host + MiB - 1, 100); /* cut at the block's end */
    ram_log_fetch(r, RAM_PAGE_DIRTY_MIGRATE, b, map);
    EXPECT_EQ(map[0], BIT(5) | BIT(6) | BIT(9) | BIT(10));
    EXPECT_EQ(map[3], BIT(63));
    ram_log_fetch(r, RAM_PAGE_DIRTY_MIGRATE, b, map);
    EXPECT_EQ(map[0], 0);
    ram_log_fetch(r, RAM_PAGE_DIRTY_SCREEN, b, map);
    EXPECT_EQ(map[0], BIT(5) | BIT(6) | BIT(9) | BIT(10));

    ram_set_watch(r, watch, r);
    EXPECT(ram_page(r, 0x5abc, &p));
    EXPECT_EQ(p.index, 5);
    *p.flags |= RAM_PAGE_CODE;
    EXPECT(ram_put(r, 0x4ff0, seven, 0x100));
    EXPECT_EQ(watches, 1);
    EXPECT_EQ(watched[0], 5);
    EXPECT_EQ(watched[1], 0);
    EXPECT_EQ(watched[2], 0xf0);
    EXPECT(ram_fill(r, 0x5010, 7, 1));
    EXPECT_EQ(watches, 2);
    EXPECT(!ram_page(r, MiB, &p));
    ram_free(r);
}

TEST(iovs_are_bounded)
{
    struct ram_block *b;
    struct ram *r = two_slots(&b);
    struct iovs v;
    char buf[16] = { 0 };

    EXPECT(ram_put(r, 0x100, "hello", 5));
    EXPECT(ram_put(r, 0x200, "world", 5));
    iovs_init(&v, r, RAM_FROM_GUEST);
    EXPECT(ram_iov(r, 0x100, 5, &v));
    EXPECT(ram_iov(r, 0x200, 5, &v));
    EXPECT(!ram_iov(r, MiB - 1, 2, &v));
    EXPECT(!ram_iov(r, 0x100, SIZE_MAX, &v));
    iovs_free(&v);

    EXPECT(ram_iov(r, 0x100, 5, &v));
    EXPECT(ram_iov(r, 0x200, 5, &v));
    EXPECT_EQ(v.left, 10);
    EXPECT(!iovs_get(&v, buf, 11));
    EXPECT(iovs_get(&v, buf, 3));
    EXPECT(iovs_skip(&v, 1));
    EXPECT(iovs_get(&v, buf + 3, 6));
    EXPECT_STR(buf, "heloworld");
    EXPECT_EQ(v.left, 0);
    EXPECT(!iovs_get(&v, buf, 1));
    iovs_free(&v);

    ram_log(r, RAM_PAGE_DIRTY_MIGRATE, true);
    iovs_init(&v, r, RAM_TO_GUEST);
    EXPECT(!ram_iov(r, UINT64_MAX - 5, 2, &v)); /* ROM */
    EXPECT(ram_iov(r, 0x1fff, 2, &v));
    EXPECT_EQ(v.n, 1);
    EXPECT(ram_iov(r, 0x2001, 3, &v)); /* joins */
    EXPECT_EQ(v.n, 1);
    EXPECT(iovs_put(&v, "ab", 2));
    EXPECT(ram_get(r, 0x1fff, buf, 2) && buf[0] == 'a' && buf[1] == 'b');
    unsigned long map[4];
    ram_log_fetch(r, RAM_PAGE_DIRTY_MIGRATE, b, map);
    EXPECT_EQ(map[0], BIT(1) | BIT(2));
    iovs_written(&v);
    ram_log_fetch(r, RAM_PAGE_DIRTY_MIGRATE, b, map);
    EXPECT_EQ(map[0], BIT(2));
    iovs_free(&v);

    u32 n = 0;
    while (n < 2 * IOVS_MAX && ram_iov(r, n * 16, 1, &v))
        n++;
    EXPECT_EQ(n, IOVS_MAX);
    iovs_free(&v);
    ram_free(r);
}
TEST_MAIN()
