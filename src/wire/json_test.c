// SPDX-License-Identifier: GPL-2.0-or-later
/* json_test.c - JSON in, JSON out, and bytes that are none. */
#include "base/test.h"
#include "wire/json_in.h"
#include "wire/json_out.h"

/* Feeds all in pieces of `step` bytes; returns values and errors, one a line. */
static char *lines_of(const char *in, size_t n, size_t step, size_t max)
{
    struct json_in j;
    struct json_out o = { .text = g_string_new(NULL) };

    json_in_init(&j, max);
    for (size_t at = 0; at < n;) {
        enum json_in_result r;
        g_autoptr(JsonNode) value = NULL;
        g_autoptr(GError) error = NULL;

        at += json_in_feed(&j, (const u8 *)in + at, MIN(step, n - at), &r, &value, &error);
        if (r == JSON_IN_MORE)
            continue;
        o.comma = false;
        if (r == JSON_IN_VALUE)
            json_node(&o, value);
        else
            g_string_append_printf(o.text, "E %s", error->message);
        g_string_append_c(o.text, '\n');
    }
    json_in_clear(&j);
    return g_string_free(o.text, FALSE);
}

static void check(const char *in, const char *want)
{
    for (size_t step = 1; step < 100; step += 7) {
        g_autofree char *got = lines_of(in, strlen(in), step, 1 << 20);
        if (strcmp(got, want) != 0) {
            EXPECT_STR(got, want);
            break;
        }
    }
}

TEST(values)
{
    check("{\"a\":1,\"b\":[true,null,-2.5,\"x\"]}",
          "{\"a\": 1, \"b\": [true, null, -2.5, \"x\"]}\n");
    check("{}{} []\n", "{}\n{}\n[]\n");
    check("{'single': 'it\\'s \"quoted\"'}", "{\"single\": \"it's \\\"quoted\\\"\"}\n");
    check("12 \"s\"true ", "12\n\"s\"\ntrue\n");
    check("[9223372036854775807,9223372036854775808]",
          "[9223372036854775807, 9.2233720368547758e+18]\n");
    check("\"\\u00e9\\ud83d\\ude00\\n\\u0001\"", "\"é😀\\n\\u0001\"\n");
    check("  \r\n\t", "");
}

TEST(errors_do_not_outlive_their_line)
{
    check("hello\n{}", "E JSON parse error, invalid keyword 'hello'\n{}\n");
    check("}{}\n{}", "E JSON parse error, unexpected bracket\n{}\n");
    check("{]}\n[1]", "E JSON parse error, unexpected bracket\n[1]\n");
    check("\"a\nb\" \n[1]", "E JSON parse error, control character in a string\n"
                            "E JSON parse error, invalid keyword 'b'\n[1]\n");
    check("\"\\ud800\\u0041\"\n1 ", "E JSON parse error, invalid surrogate escape\n1\n");
    check("\"\\ud800x\"\n1 ", "E JSON parse error, invalid surrogate escape\n1\n");
    check("\"\\udc00\"\n1 ", "E JSON parse error, invalid surrogate escape\n1\n");
    check("\"\\ud800\"\n1 ", "E JSON parse error, invalid surrogate escape\n1\n");
    check("\"\\u0000\"\n1 ", "E JSON parse error, \\u0000 in a string\n1\n");
    check("\"\\x\"\n1 ", "E JSON parse error, invalid escape sequence\n1\n");
    check("01 \n1 ", "E JSON parse error, invalid keyword '01'\n1\n");
    check(":\n1 ", "E JSON parse error, stray ',' or ':'\n1\n");
    check("{/**/}\n1 ", "E JSON parse error, stray character\n1\n");
}

TEST(grammar_is_checked)
{
    static const char *const bad[] = { "[1 2]", "{\"a\"}",    "{\"a\":}",  "[,]",      "{1:2}",
                                       "[1,]",  "{\"a\":1,}", "{\"a\" 1}", "[\"a\":1]" };

    for (u32 i = 0; i < ARRAY_LEN(bad); i++) {
        g_autofree char *got = lines_of(bad[i], strlen(bad[i]), 3, 1000);
        EXPECT(g_str_has_prefix(got, "E JSON parse error"));
        if (*got != 'E')
            printf("# %s: %s", bad[i], got);
    }
}

TEST(bounds)
{
    g_autoptr(GString) deep = g_string_new(NULL);

    for (u32 i = 0; i < 100000; i++)
        g_string_append_c(deep, '[');
    g_autofree char *got = lines_of(deep->str, deep->len, 4096, 1 << 20);
    EXPECT_STR(got, "E JSON nesting depth limit exceeded\n");

    g_string_assign(deep, "\"");
    for (u32 i = 0; i < 5000; i++)
        g_string_append(deep, "aaaaaaaaaa");
    g_string_append(deep, "\"\n[1]");
    g_autofree char *long_one = lines_of(deep->str, deep->len, 4096, 1000);
    EXPECT_STR(long_one, "E JSON token size limit exceeded\n[1]\n");
    g_autofree char *fits = lines_of(deep->str, deep->len, 4096, 100000);
    EXPECT_EQ(strlen(fits), 50000 + 2 + 1 + 4);
}

TEST(random_bytes_end_in_values_or_errors)
{
    static const char alphabet[] = "{}[]\",:'\\u0d8 1-e.+tnfalsrue\n\xc3\xa9\xff";
    u32 seed = 7;

    for (u32 round = 0; round < 3000; round++) {
        char in[400];
        for (u32 i = 0; i < sizeof in; i++)
            in[i] =
                alphabet[((seed = seed * 1103515245 + 12345) >> 16) % (sizeof alphabet - 1)];
        g_autofree char *whole = lines_of(in, sizeof in, sizeof in, 200);
        g_autofree char *bytewise = lines_of(in, sizeof in, 1, 200);
        EXPECT_STR(whole, bytewise);
    }
}

TEST(out_escapes)
{
    struct json_out o = { .text = g_string_new(NULL) };

    json_open(&o, '{');
    json_put_str(&o, "k\"", "a\\b\n\x01\xff");
    json_put_int(&o, "n", INT64_MIN);
    json_put_bool(&o, "t", true);
    json_key(&o, "list");
    json_open(&o, '[');
    json_null(&o);
    json_int(&o, 2);
    json_close(&o, ']');
    json_close(&o, '}');
    EXPECT_STR(o.text->str,
               "{\"k\\\"\": \"a\\\\b\\n\\u0001\xef\xbf\xbd\", \"n\": -9223372036854775808, "
               "\"t\": true, \"list\": [null, 2]}");
    g_string_free(o.text, TRUE);
}

TEST_MAIN()
