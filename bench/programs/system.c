// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * system.c - programs that make the operating system work: calls, processes, pages, files.
 * Each checks its own steps; a failed one gives NO_RESULT.
 */
#include "bench.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static u64 run_getppid(void)
{
    u64 same = 0;

    for (int i = 0; i < 300000; i++)
        same += syscall(SYS_getppid) == getppid();
    return same;
}

static u64 run_read(void)
{
    char buf[64];
    u64 sum = 0;
    int fd = open("/dev/zero", O_RDONLY);

    for (int i = 0; i < 200000; i++)
        sum += read(fd, buf, sizeof buf);
    close(fd);
    return sum;
}

static u64 run_fork(void)
{
    u64 sum = 0;

    for (int i = 0; i < 400; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0)
            _exit(i & 127);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return NO_RESULT;
        sum = sum * 3 + WEXITSTATUS(status);
    }
    return sum;
}

static u64 run_exec(void)
{
    volatile u64 sum = 1; /* vfork's child runs on this stack */

    for (int i = 0; i < 200; i++) {
        int status;
        pid_t pid = vfork();
        if (pid == 0) {
            execl("/proc/self/exe", "bench", "nothing", NULL);
            _exit(99);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 7)
            return NO_RESULT;
        sum++;
    }
    return sum;
}

/* Two processes pass a byte to and fro: wake-ups and address-space switches. */
static u64 run_ping_pong(void)
{
    int a[2], b[2];
    u8 v = 0;
    u64 sum = 0;

    if (pipe(a) || pipe(b))
        return NO_RESULT;
    pid_t pid = fork();
    if (pid == 0) {
        close(a[1]);
        while (read(a[0], &v, 1) == 1) {
            v++;
            if (write(b[1], &v, 1) != 1)
                break;
        }
        _exit(0);
    }
    for (int i = 0; i < 15000; i++) {
        if (write(a[1], &v, 1) != 1 || read(b[0], &v, 1) != 1)
            return NO_RESULT;
        sum += v;
    }
    close(a[1]);
    close(a[0]);
    close(b[0]);
    close(b[1]);
    waitpid(pid, NULL, 0);
    return sum;
}

static u64 run_pages(void)
{
    u64 sum = 0;

    for (int round = 0; round < 8; round++) {
        size_t len = 16 << 20;
        u8 *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return NO_RESULT;
        madvise(p, len, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < len; i += 4096)
            p[i] = i >> 12;
        for (size_t i = 0; i < len; i += 4096)
            sum += p[i];
        munmap(p, len);
    }
    return sum;
}

static u64 run_files(void)
{
    char name[64], buf[4096];
    u64 sum = 0;

    memset(buf, 7, sizeof buf);
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "/tmp/posada-bench.%d", i);
        int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0 || write(fd, buf, sizeof buf) != sizeof buf ||
            pread(fd, buf, 100, 50) != 100)
            return NO_RESULT;
        sum += lseek(fd, 0, SEEK_END);
        close(fd);
        unlink(name);
    }
    return sum;
}

/* A disk, past the page cache: needs BENCH_DISK (a device or a file of 64 MiB). */
static int disk_open(void)
{
    const char *path = getenv("BENCH_DISK");
    return path ? open(path, O_RDWR | O_DIRECT) : -1;
}

static u64 run_disk_stream(void)
{
    enum { PIECE = 256 << 10, COUNT = 192 };
    int fd = disk_open();
    u64 *buf = aligned_alloc(4096, PIECE), sum = 0;

    if (fd < 0)
        return NO_RESULT;
    for (u64 i = 0; i < COUNT; i++) {
        for (u64 k = 0; k < PIECE / 8; k += 64)
            buf[k] = i * k;
        if (pwrite(fd, buf, PIECE, i * PIECE) != PIECE)
            return NO_RESULT;
    }
    fsync(fd);
    for (u64 i = 0; i < COUNT; i++) {
        if (pread(fd, buf, PIECE, i * PIECE) != PIECE)
            return NO_RESULT;
        for (u64 k = 0; k < PIECE / 8; k += 64)
            sum = sum * 5 + buf[k];
    }
    close(fd);
    free(buf);
    return sum;
}

static u64 run_disk_random(void)
{
    int fd = disk_open();
    u64 *buf = aligned_alloc(4096, 4096), seed = 9, sum = 0;

    if (fd < 0)
        return NO_RESULT;
    memset(buf, 0, 4096);
    for (int i = 0; i < 4000; i++) {
        u64 at = next_random(&seed) % 8192 * 4096;
        buf[0] = i;
        if ((i & 3) == 0 ? pwrite(fd, buf, 4096, at) != 4096 : pread(fd, buf, 4096, at) != 4096)
            return NO_RESULT;
        sum += 1;
    }
    close(fd);
    free(buf);
    return sum;
}

const struct program system_programs[] = {
    { "syscall", "getppid", run_getppid },
    { "syscall", "read", run_read },
    { "process", "fork", run_fork },
    { "process", "exec", run_exec },
    { "process", "ping-pong", run_ping_pong },
    { "memory", "first touch", run_pages },
    { "file", "tmpfs", run_files },
    { "file", "disk stream", run_disk_stream },
    { "file", "disk random", run_disk_random },
    { 0 },
};
