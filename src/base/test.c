// SPDX-License-Identifier: GPL-2.0-or-later
/* test.c - runs the cases of test.h and prints TAP. */
#include "base/test.h"

struct test_case *test_cases;
int test_failures;

int test_main(int argc, char **argv)
{
    int n = 0, bad = 0;

    for (struct test_case *c = test_cases; c; c = c->next)
        n += argc < 2 || strstr(c->name, argv[1]);
    printf("1..%d\n", n);
    n = 0;
    for (struct test_case *c = test_cases; c; c = c->next) {
        if (argc > 1 && !strstr(c->name, argv[1]))
            continue;
        int before = test_failures;
        c->run();
        bool ok = test_failures == before;
        bad += !ok;
        printf("%s %d - %s\n", ok ? "ok" : "not ok", ++n, c->name);
        fflush(stdout);
    }
    return bad != 0;
}
