// SPDX-License-Identifier: GPL-2.0-or-later
/* keyval_test.c - option strings. */
#include "base/keyval.h"

#include "base/test.h"

TEST(keyval_words_flags_and_double_commas)
{
    g_autokeyval kv = keyval_parse("-x", "tcp:a:1,server,nowait,path=/a,,b,n=0x10", "addr");
    g_autoptr(GError) error = NULL;

    EXPECT_STR(keyval_str(kv, "addr"), "tcp:a:1");
    EXPECT(keyval_bool(kv, "server", false));
    EXPECT(!keyval_bool(kv, "wait", true));
    EXPECT_STR(keyval_str(kv, "path"), "/a,b");
    EXPECT_EQ(keyval_uint(kv, "n", 1, 0, 100), 16);
    EXPECT_EQ(keyval_uint(kv, "m", 7, 0, 100), 7);
    EXPECT(keyval_done(kv, &error));
}

TEST(keyval_refuses_what_nobody_reads)
{
    g_autokeyval kv = keyval_parse("-x", "id=a,colour=red", NULL);
    g_autoptr(GError) error = NULL;

    EXPECT_STR(keyval_str(kv, "id"), "a");
    EXPECT(!keyval_done(kv, &error));
    EXPECT_STR(error ? error->message : NULL, "-x: Invalid parameter 'colour'");
}

TEST(keyval_first_complaint_stays)
{
    g_autokeyval kv = keyval_parse("-x", "n=12a,b=maybe", NULL);
    g_autoptr(GError) error = NULL;

    EXPECT_EQ(keyval_uint(kv, "n", 3, 0, 9), 3);
    keyval_bool(kv, "b", false);
    EXPECT(!keyval_done(kv, &error));
    EXPECT(error && strstr(error->message, "'n' expects a number from 0 to 9, not '12a'"));
}

TEST(keyval_repeated)
{
    g_autokeyval kv = keyval_parse("-x", "f=1,f=2,f=3", NULL);

    EXPECT_STR(keyval_nth(kv, "f", 1), "2");
    EXPECT_STR(keyval_str(kv, "f"), "3");
    EXPECT(keyval_nth(kv, "f", 3) == NULL);
}

TEST_MAIN()
