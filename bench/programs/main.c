// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main.c - runs the programs.
 *
 *   bench [-r TIMES] [GROUP...]          the programs built in
 *   bench [-r TIMES] -c GROUP NAME COMMAND...  a command; its result is a sum of its output
 *
 * For each it prints when it begins (so that the host can look at its own clocks) and the least
 * time of several runs:
 *
 *   BEGIN group/name
 *   RESULT group/name <result in hex> <nanoseconds>
 */
#include "bench.h"
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **command; /* of -c */

static u64 run_command(void)
{
    u64 sum = 0xcbf29ce484222325ull;
    u8 buf[4096];
    ssize_t n;
    int out[2], status;

    if (pipe(out))
        return NO_RESULT;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execvp(command[0], command);
        _exit(127);
    }
    close(out[1]);
    while ((n = read(out[0], buf, sizeof buf)) > 0)
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ buf[i]) * 0x100000001b3ull;
    close(out[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        return NO_RESULT;
    return sum;
}

/* The compute programs are short; real ones are not. */
enum { REPEAT = 8 };
static u64 again(const struct program *p)
{
    u64 r = p->run();

    for (int k = 1; k < REPEAT; k++)
        if (p->run() != r)
            return 0xdead;
    return r;
}

static void measure(const struct program *p, int times, int repeat)
{
    u64 least = UINT64_MAX, result = 0;

    printf("BEGIN %s/%s\n", p->group, p->name);
    fflush(stdout);
    for (int i = 0; i < times; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        u64 r = repeat ? again(p) : p->run();
        clock_gettime(CLOCK_MONOTONIC, &b);
        u64 ns = (b.tv_sec - a.tv_sec) * 1000000000ull + b.tv_nsec - a.tv_nsec;
        if (ns < least)
            least = ns;
        if (i && r != result)
            r = 0xdead; /* not even the same twice */
        result = r;
    }
    printf("RESULT %s/%s %llx %llu\n", p->group, p->name, (unsigned long long)result,
           (unsigned long long)least);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const struct program *const all[] = { compute_programs, system_programs,
                                           parallel_programs };
    int at = 1, times = 3;

    if (argc > 1 && !strcmp(argv[1], "nothing"))
        return 7; /* what the exec program runs */
    if (at + 1 < argc && !strcmp(argv[at], "-r")) {
        times = atoi(argv[at + 1]);
        at += 2;
    }
    if (at + 3 < argc && !strcmp(argv[at], "-c")) {
        struct program p = { argv[at + 1], argv[at + 2], run_command };
        command = argv + at + 3;
        measure(&p, times, 0);
        return 0;
    }
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        for (const struct program *p = all[i]; p->group; p++) {
            int wanted = at == argc;
            for (int k = at; k < argc; k++)
                wanted |= !strcmp(argv[k], p->group);
            if (wanted)
                measure(p, times, all[i] == compute_programs);
        }
    return 0;
}
