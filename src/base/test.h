// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test.h - the unit tests' harness: TEST(name) { ... EXPECT_EQ(a, b); ... } in any number, then
 * TEST_MAIN().  Prints TAP.  A failed EXPECT marks the test and goes on.
 */
#pragma once

#include <stdio.h>
#include <string.h>

#include "base/types.h"

struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
};
extern struct test_case *test_cases;
extern int test_failures;
int test_main(int argc, char **argv);

#define TEST(n)                                                                                    \
    static void test_##n(void);                                                                    \
    static struct test_case test_case_##n = { #n, test_##n, NULL };                                \
    __attribute__((constructor)) static void test_add_##n(void)                                    \
    {                                                                                              \
        struct test_case **p = &test_cases;                                                        \
        while (*p)                                                                                 \
            p = &(*p)->next;                                                                       \
        *p = &test_case_##n;                                                                       \
    }                                                                                              \
    static void test_##n(void)

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("# %s:%d: expected %s\n", __FILE__, __LINE__, #cond);                           \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)
#define EXPECT_EQ(a, b)                                                                            \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (a_ != b_) {                                                                            \
            printf("# %s:%d: %s is %lld (%#llx), expected %lld (%#llx)\n", __FILE__, __LINE__, #a, \
                   a_, a_, b_, b_);                                                                \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)
#define EXPECT_STR(a, b)                                                                           \
    do {                                                                                           \
        const char *a_ = (a), *b_ = (b);                                                           \
        if (!a_ || strcmp(a_, b_) != 0) {                                                          \
            printf("# %s:%d: %s is \"%s\", expected \"%s\"\n", __FILE__, __LINE__, #a,             \
                   a_ ? a_ : "(null)", b_);                                                        \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

#define TEST_MAIN()                                                                                \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return test_main(argc, argv);                                                              \
    }
