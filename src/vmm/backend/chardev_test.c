// SPDX-License-Identifier: GPL-2.0-or-later
/* chardev_test.c - character devices against the other end of their pipes and sockets. */
#include "vmm/backend/chardev_impl.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/core/vm.h"

/* A user that keeps what comes. */
struct sink {
    GString *got;
    size_t room;
    u32 opened, closed, breaks, writable, focus_in;
};

static size_t sink_can_read(void *opaque)
{
    return ((struct sink *)opaque)->room;
}

static void sink_read(void *opaque, const u8 *bytes, size_t n)
{
    struct sink *s = opaque;

    EXPECT(n <= s->room);
    s->room -= n;
    g_string_append_len(s->got, (const char *)bytes, (gssize)n);
}

static void sink_event(void *opaque, enum chardev_event ev)
{
    struct sink *s = opaque;

    s->opened += ev == CHARDEV_OPENED;
    s->closed += ev == CHARDEV_CLOSED;
    s->breaks += ev == CHARDEV_BREAK;
    s->writable += ev == CHARDEV_WRITABLE;
    s->focus_in += ev == CHARDEV_FOCUS_IN;
}

static const struct chardev_user sink_user = { .can_read = sink_can_read,
                                               .read = sink_read,
                                               .event = sink_event };
static const struct chardev_user monitor_user = {
    .can_read = sink_can_read, .read = sink_read, .event = sink_event, .background = true
};

static struct sink sink_new(void)
{
    return (struct sink){ .got = g_string_new(NULL), .room = 1 << 20 };
}

struct bench {
    struct vm vm;
    char *dir;
};

static void bench_open(struct bench *b)
{
    *b = (struct bench){ .vm = { .main = g_main_context_new() } };
    b->dir = g_dir_make_tmp("posada-chardev-XXXXXX", NULL);
}

static void bench_close(struct bench *b)
{
    chardev_free_all(&b->vm);
    g_main_context_unref(b->vm.main);
    g_autofree char *cmd = g_strdup_printf("rm -rf '%s'", b->dir);
    EXPECT_EQ(system(cmd), 0);
    g_free(b->dir);
}

/* Turns the loop until it has nothing to do, or cond (which is looked at after each turn). */
static void turn(struct bench *b)
{
    for (u32 i = 0; i < 50; i++) {
        g_main_context_iteration(b->vm.main, FALSE);
        if (i % 10 == 9)
            g_usleep(1000);
    }
}

static int connect_unix(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    g_strlcpy(un.sun_path, path, sizeof un.sun_path);
    EXPECT_EQ(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
    return fd;
}

TEST(spec_refusals)
{
    struct bench b;
    bench_open(&b);
    static const char *const bad[] = {
        "",
        "stdioo",
        "floppy:x",
        "file:",
        "pty,x=1",
        "tcp:nowhere",
        "tcp:h:1,wait=on",
        "unix:/nonexistent/dir/x,server=on,wait=off",
        "chardev:no",
        "null,signal=off",
        "unix:x,server=on,reconnect=1",
    };

    for (u32 i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        EXPECT(!chardev_new(&b.vm, "c", bad[i], &error));
        EXPECT(error != NULL);
        if (!error)
            printf("# accepted: %s\n", bad[i]);
    }
    g_autoptr(GError) error = NULL;
    EXPECT(!chardev_new(&b.vm, "c", "none", &error) && !error);
    EXPECT(chardev_new(&b.vm, "c", "null", &error) != NULL);
    EXPECT(!chardev_new(&b.vm, "c", "null", &error) && error);
    g_clear_error(&error);
    EXPECT(!chardev_new_opts(&b.vm, "ringbuf,id=r", &error) && error);
    g_clear_error(&error);
    EXPECT(!chardev_new_opts(&b.vm, "null", &error) && error);
    bench_close(&b);
}

TEST(file_takes_output_and_log_copies)
{
    struct bench b;
    bench_open(&b);
    g_autofree char *path = g_strdup_printf("%s/out", b.dir);
    g_autofree char *opts = g_strdup_printf("file,id=f,path=%s,logfile=%s.log", path, path);
    g_autofree char *log = g_strconcat(path, ".log", NULL);
    struct chardev *c = chardev_new_opts(&b.vm, opts, NULL);

    EXPECT(c && chardev_find(&b.vm, "f") == c);
    EXPECT_EQ(chardev_write(c, "hello", 5), 5);
    g_autofree char *text = NULL, *log_text = NULL;
    EXPECT(g_file_get_contents(path, &text, NULL, NULL));
    EXPECT_STR(text, "hello");
    EXPECT(g_file_get_contents(log, &log_text, NULL, NULL));
    EXPECT_STR(log_text, "hello");
    bench_close(&b);
}

TEST(socket_server_and_its_clients)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    g_autofree char *path = g_strdup_printf("%s/s", b.dir);
    g_autofree char *spec = g_strdup_printf("unix:%s,server,nowait", path);
    struct chardev *c = chardev_new(&b.vm, "s", spec, NULL);
    char buf[16] = { 0 };

    chardev_attach(c, &sink_user, &s);
    EXPECT_EQ(chardev_write(c, "lost", 4), 4); /* nobody there */
    EXPECT(g_str_has_prefix(chardev_describe(c), "disconnected:unix:"));
    for (u32 round = 0; round < 2; round++) {
        int fd = connect_unix(path);
        turn(&b);
        EXPECT_EQ(s.opened, round + 1);
        EXPECT_EQ(write(fd, "in", 2), 2);
        EXPECT_EQ(chardev_write(c, "out", 3), 3);
        turn(&b);
        EXPECT_EQ(read(fd, buf, sizeof buf), 3);
        close(fd);
        turn(&b);
        EXPECT_EQ(s.closed, round + 1);
    }
    EXPECT_STR(s.got->str, "inin");
    bench_close(&b);
    EXPECT(access(path, F_OK) < 0);
}

TEST(socket_reports_what_it_does_not_take)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    g_autofree char *path = g_strdup_printf("%s/s", b.dir);
    g_autofree char *spec = g_strdup_printf("unix:%s,server=on,wait=off", path);
    struct chardev *c = chardev_new(&b.vm, "s", spec, NULL);
    size_t sent = 0, got = 0;
    static u8 block[10000], in[65536];

    chardev_attach(c, &sink_user, &s);
    int fd = connect_unix(path);
    turn(&b);
    for (u32 i = 0; i < 1000; i++) { /* far more than socket buffer and queue hold */
        for (u32 k = 0; k < sizeof block; k++)
            block[k] = (u8)((sent + k) * 7);
        size_t w = chardev_write(c, block, sizeof block);
        sent += w;
        if (w < sizeof block)
            break;
    }
    EXPECT(sent < 1000 * sizeof block);
    EXPECT_EQ(chardev_write(c, "x", 1), 0);
    EXPECT_EQ(s.writable, 0);
    for (u32 i = 0; i < 10000 && got < sent; i++) {
        ssize_t r = read(fd, in, sizeof in);
        for (ssize_t k = 0; k < r; k++)
            if (in[k] != (u8)((got + (size_t)k) * 7))
                EXPECT(!"bytes in order");
        got += r > 0 ? (size_t)r : 0;
        g_main_context_iteration(b.vm.main, FALSE);
    }
    EXPECT_EQ(got, sent);
    EXPECT_EQ(s.writable, 1);
    close(fd);
    bench_close(&b);
}

TEST(input_waits_for_room)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    g_autofree char *path = g_strdup_printf("%s/s", b.dir);
    g_autofree char *spec = g_strdup_printf("unix:%s,server=on,wait=off", path);
    struct chardev *c = chardev_new(&b.vm, "s", spec, NULL);

    s.room = 2;
    chardev_attach(c, &sink_user, &s);
    int fd = connect_unix(path);
    EXPECT_EQ(write(fd, "abcdef", 6), 6);
    turn(&b);
    EXPECT_STR(s.got->str, "ab");
    s.room = 3;
    turn(&b);
    EXPECT_STR(s.got->str, "ab"); /* not before it says so */
    chardev_accept(c);
    turn(&b);
    EXPECT_STR(s.got->str, "abcde");
    close(fd);
    bench_close(&b);
}

TEST(client_connects_again)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new(), t = sink_new();
    g_autofree char *spec = g_strdup_printf("unix:%s/s,reconnect=1", b.dir);
    g_autofree char *server = g_strdup_printf("unix:%s/s,server=on,wait=off", b.dir);
    struct chardev *c = chardev_new(&b.vm, "client", spec, NULL);

    EXPECT(c != NULL);
    chardev_attach(c, &sink_user, &s);
    turn(&b);
    EXPECT_EQ(s.opened, 0);
    struct chardev *d = chardev_new(&b.vm, "server", server, NULL);
    chardev_attach(d, &sink_user, &t);
    for (u32 i = 0; i < 300 && !t.opened; i++, g_usleep(10000))
        turn(&b);
    EXPECT_EQ(s.opened, 1);
    chardev_write(c, "hi", 2);
    turn(&b);
    EXPECT_STR(t.got->str, "hi");
    bench_close(&b);
}

TEST(telnet_strips_and_doubles)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    g_autofree char *path = g_strdup_printf("%s/s", b.dir);
    g_autofree char *spec = g_strdup_printf("unix:%s,server=on,wait=off,telnet=on", path);
    struct chardev *c = chardev_new(&b.vm, "s", spec, NULL);
    static const u8 in[] = { 'a', 255, 253, 1,   'b', 255, 255, 255,
                             250, 24,  1,   255, 240, 'c', 255, 243 };
    u8 out[64];

    chardev_attach(c, &sink_user, &s);
    int fd = connect_unix(path);
    turn(&b);
    EXPECT_EQ(read(fd, out, sizeof out), 12); /* our options */
    EXPECT_EQ(write(fd, in, sizeof in), sizeof in);
    EXPECT_EQ(chardev_write(c, "x\xffy", 3), 3);
    turn(&b);
    EXPECT_STR(s.got->str, "ab\xff"
                           "c");
    EXPECT_EQ(s.breaks, 1);
    EXPECT_EQ(read(fd, out, sizeof out), 4);
    EXPECT(memcmp(out, "x\xff\xffy", 4) == 0);
    close(fd);
    bench_close(&b);
}

TEST(pty_carries_both_ways_and_drops_oldest)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    struct chardev *c = chardev_new(&b.vm, "p", "pty", NULL);
    char buf[8];

    EXPECT(c && g_str_has_prefix(chardev_describe(c), "pty:/dev/pts/"));
    chardev_attach(c, &sink_user, &s);
    int fd = open(chardev_describe(c) + 4, O_RDWR | O_NOCTTY | O_NONBLOCK);
    EXPECT_EQ(write(fd, "key\n", 4), 4);
    EXPECT_EQ(chardev_write(c, "out\n", 4), 4);
    turn(&b);
    EXPECT_STR(s.got->str, "key\n");
    EXPECT_EQ(read(fd, buf, sizeof buf), 4);
    for (u32 i = 0; i < 400; i++) { /* nobody reads: all of it is taken */
        u8 block[1000];
        memset(block, 'a' + (int)(i % 26), sizeof block);
        EXPECT_EQ(chardev_write(c, block, sizeof block), sizeof block);
    }
    EXPECT(c->q_len <= CHARDEV_QUEUE);
    EXPECT_EQ(c->queue[(c->q_at + c->q_len - 1) % CHARDEV_QUEUE], 'a' + 399 % 26);
    close(fd);
    bench_close(&b);
}

TEST(pipe_in_and_out)
{
    struct bench b;
    bench_open(&b);
    struct sink s = sink_new();
    g_autofree char *in = g_strdup_printf("%s/p.in", b.dir),
                    *out = g_strdup_printf("%s/p.out", b.dir);
    g_autofree char *spec = g_strdup_printf("pipe:%s/p", b.dir);
    char buf[8];

    EXPECT_EQ(mkfifo(in, 0600) | mkfifo(out, 0600), 0);
    struct chardev *c = chardev_new(&b.vm, "p", spec, NULL);
    chardev_attach(c, &sink_user, &s);
    int in_fd = open(in, O_WRONLY | O_NONBLOCK), out_fd = open(out, O_RDONLY | O_NONBLOCK);
    EXPECT_EQ(write(in_fd, "in", 2), 2);
    chardev_write(c, "out", 3);
    turn(&b);
    EXPECT_STR(s.got->str, "in");
    EXPECT_EQ(read(out_fd, buf, sizeof buf), 3);
    close(in_fd);
    close(out_fd);
    bench_close(&b);
}

TEST(mux_moves_the_focus_and_escapes)
{
    struct bench b;
    bench_open(&b);
    struct sink serial = sink_new(), monitor = sink_new();
    g_autofree char *path = g_strdup_printf("%s/s", b.dir);
    g_autofree char *spec = g_strdup_printf("mon:unix:%s,server=on,wait=off", path);
    struct chardev *c = chardev_new(&b.vm, "m", spec, NULL);
    char buf[1024];

    EXPECT(chardev_is_mux(c));
    chardev_attach(c, &monitor_user, &monitor);
    chardev_attach(c, &sink_user, &serial);
    int fd = connect_unix(path);
    turn(&b);
    EXPECT_EQ(serial.opened, 1);
    EXPECT_EQ(write(fd, "a\001cb\001\001\001b\001cd", 11), 11);
    turn(&b);
    EXPECT_STR(serial.got->str, "ad");
    EXPECT_STR(monitor.got->str, "b\001");
    EXPECT_EQ(monitor.breaks, 1);
    EXPECT_EQ(monitor.focus_in, 1);
    EXPECT_EQ(serial.focus_in, 2);
    EXPECT_EQ(write(fd, "\001c", 2), 2);
    turn(&b);
    EXPECT_EQ(monitor.focus_in, 2);
    EXPECT_EQ(write(fd, "\001c", 2), 2);
    turn(&b);
    EXPECT_EQ(serial.focus_in, 3);
    chardev_write(c, "hello", 5);
    EXPECT_EQ(read(fd, buf, sizeof buf), 5);
    EXPECT_EQ(write(fd, "\001h", 2), 2);
    turn(&b);
    EXPECT(read(fd, buf, sizeof buf) > 20);
    /* A guest that does not listen: bytes are kept, the escape key still works. */
    serial.room = 1;
    EXPECT_EQ(write(fd, "xyz\001b", 5), 5);
    turn(&b);
    EXPECT_STR(serial.got->str, "adx");
    EXPECT_EQ(serial.breaks, 1);
    serial.room = 10;
    chardev_accept(c);
    turn(&b);
    EXPECT_STR(serial.got->str, "adxyz");
    close(fd);
    bench_close(&b);
}

TEST_MAIN()
