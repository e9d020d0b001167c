// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * monitor_test.c - monitors over a socket, against a machine without processors: sessions,
 * errors and their wording, events, several at once, and seeded hostile input.
 */
#include "vmm/monitor/monitor_impl.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/test.h"
#include "vmm/backend/chardev.h"
#include "vmm/core/ram.h"
#include "wire/json_in.h"
#include "wire/qmp/qmp_gen.h"

struct bench {
    struct vm *vm;
    char *dir;
    u32 n;
};

static void bench_open(struct bench *b)
{
    *b = (struct bench){ .vm = vm_new(), .dir = g_dir_make_tmp("posada-monitor-XXXXXX", NULL) };
    b->vm->name = g_strdup("inn \"7\"");
    b->vm->ram = b->vm->ram ? b->vm->ram : ram_new();
}

static void bench_close(struct bench *b)
{
    monitor_close_all(b->vm);
    chardev_free_all(b->vm);
    vm_free(b->vm);
    EXPECT_EQ(rmdir(b->dir), 0);
    g_free(b->dir);
}

static void turn(struct bench *b)
{
    for (u32 i = 0; i < 30; i++)
        g_main_context_iteration(b->vm->main, FALSE);
}

/* A monitor and a connection to it. */
static int monitor_connect(struct bench *b, bool qmp)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    g_autofree char *id = g_strdup_printf("m%u", b->n++);
    g_autofree char *path = g_strdup_printf("%s/%s", b->dir, id);
    g_autofree char *spec = g_strdup_printf("unix:%s,server=on,wait=off", path);
    struct chardev *c = chardev_new(b->vm, id, spec, NULL);

    EXPECT(qmp ? monitor_open_qmp(b->vm, c, false, NULL) : monitor_open_hmp(b->vm, c, NULL));
    EXPECT(!monitor_open_qmp(b->vm, c, false, NULL)); /* taken */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    g_strlcpy(un.sun_path, path, sizeof un.sun_path);
    EXPECT_EQ(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
    turn(b);
    return fd;
}

/* All that has come; g_free. */
static char *answer(struct bench *b, int fd)
{
    GString *s = g_string_new(NULL);
    char buf[4096];
    ssize_t n;

    turn(b);
    while ((n = read(fd, buf, sizeof buf)) > 0) {
        g_string_append_len(s, buf, n);
        turn(b);
    }
    return g_string_free(s, FALSE);
}

static char *ask(struct bench *b, int fd, const char *text)
{
    EXPECT_EQ(write(fd, text, strlen(text)), strlen(text));
    return answer(b, fd);
}

static void check(struct bench *b, int fd, const char *text, const char *want)
{
    g_autofree char *got = ask(b, fd, text);
    g_autofree char *line = g_strconcat(want, "\r\n", NULL);

    EXPECT_STR(got, line);
}

static int qmp_connect(struct bench *b)
{
    int fd = monitor_connect(b, true);
    g_autofree char *greeting = answer(b, fd);

    EXPECT_STR(greeting,
               "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, "
               "\"package\": \"Posada " POSADA_VERSION "\"}, \"capabilities\": []}}\r\n");
    return fd;
}

#define ERR(class, desc) "{\"error\": {\"class\": \"" class "\", \"desc\": \"" desc "\"}}"
#define GENERIC(desc)    ERR("GenericError", desc)

TEST(qmp_negotiation_and_errors)
{
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b);

    check(&b, fd, "{'execute': 'query-status'}",
          ERR("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    check(&b, fd, "{'execute': 'qmp_capabilities', 'arguments': {'enable': ['oob']}}",
          GENERIC("Capability 'oob' is not available"));
    check(&b, fd, "{\"execute\": \"qmp_capabilities\"}\n", "{\"return\": {}}");
    check(&b, fd, "{'execute': 'qmp_capabilities', 'id': 1}",
          "{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
          "negotiation is "
          "already complete, command ignored\"}}");
    check(&b, fd, "{'execute': 'fly'}",
          ERR("CommandNotFound", "The command fly has not been found"));
    check(&b, fd, "{'execute': 'query-name', 'id': {'a': [1, null, 2.5, true]}}",
          "{\"return\": {\"name\": \"inn \\\"7\\\"\"}, \"id\": {\"a\": [1, null, 2.5, true]}}");
    check(&b, fd, "[1]", GENERIC("QMP input must be a JSON object"));
    check(&b, fd, "{}", GENERIC("QMP input lacks member 'execute'"));
    check(&b, fd, "{'execute': 1}", GENERIC("QMP input member 'execute' must be a string"));
    check(&b, fd, "{'execute': 'stop', 'arguments': []}",
          GENERIC("QMP input member 'arguments' must be an object"));
    check(&b, fd, "{'execute': 'stop', 'colour': 1}",
          GENERIC("QMP input member 'colour' is unexpected"));
    check(&b, fd, "{'execute': 'stop', 'arguments': {'a': 1}}",
          GENERIC("Parameter 'a' is unexpected"));
    check(&b, fd, "{'execute': 'human-monitor-command'}",
          GENERIC("Parameter 'command-line' is missing"));
    check(&b, fd, "{'execute': 'human-monitor-command', 'arguments': {'command-line': 1}}",
          GENERIC("Invalid parameter type for 'command-line', expected: string"));
    check(&b, fd,
          "{'execute': 'human-monitor-command', 'arguments': {'command-line': 'p 1+2*3'}}",
          "{\"return\": \"0x7\\n\"}");
    check(&b, fd, "}\n", GENERIC("JSON parse error, unexpected bracket"));
    check(&b, fd,
          "{'execute': 'query-kvm', 'id': 'x'}{'execute':'query-target'}", /* in one go */
          access("/dev/kvm", R_OK | W_OK) == 0
              ? "{\"return\": {\"enabled\": false, \"present\": true}, \"id\": \"x\"}\r\n"
                "{\"return\": {\"arch\": \"x86_64\"}}"
              : "{\"return\": {\"enabled\": false, \"present\": false}, \"id\": \"x\"}\r\n"
                "{\"return\": {\"arch\": \"x86_64\"}}");
    close(fd);
    bench_close(&b);
}

static void negotiate(struct bench *b, int fd)
{
    check(b, fd, "{'execute': 'qmp_capabilities'}", "{\"return\": {}}");
}

TEST(qmp_run_state_and_events)
{
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b), other = qmp_connect(&b), silent = qmp_connect(&b);

    negotiate(&b, fd);
    negotiate(&b, other);
    check(
        &b, fd, "{'execute': 'query-status'}",
        "{\"return\": {\"status\": \"prelaunch\", \"singlestep\": false, \"running\": false}}");
    g_autofree char *cont = ask(&b, fd, "{'execute': 'cont'}");
    EXPECT(g_str_has_prefix(cont, "{\"timestamp\": {\"seconds\": "));
    EXPECT(strstr(cont, "\"event\": \"RESUME\"}\r\n{\"return\": {}}\r\n"));
    g_autofree char *heard = answer(&b, other);
    EXPECT(strstr(heard, "\"event\": \"RESUME\"}\r\n"));
    g_autofree char *unheard = answer(&b, silent);
    EXPECT_STR(unheard, ""); /* it has not negotiated */

    g_autofree char *stop = ask(&b, fd, "{'execute': 'stop'}{'execute': 'stop'}");
    EXPECT(strstr(stop, "\"event\": \"STOP\"}\r\n{\"return\": {}}\r\n{\"return\": {}}\r\n"));
    check(&b, fd, "{'execute': 'query-status'}",
          "{\"return\": {\"status\": \"paused\", \"singlestep\": false, \"running\": false}}");
    g_autofree char *reset = ask(&b, fd, "{'execute': 'system_reset'}");
    EXPECT(g_str_has_prefix(reset, "{\"return\": {}}\r\n"));
    EXPECT(strstr(reset, "\"event\": \"RESET\", \"data\": {\"guest\": false, \"reason\": "
                         "\"host-qmp-system-reset\"}}\r\n"));
    g_autofree char *power = ask(&b, fd, "{'execute': 'system_powerdown'}");
    EXPECT(strstr(power, "\"event\": \"POWERDOWN\"}\r\n"));
    vm_request(b.vm, VM_REQ_SHUTDOWN, VM_BY_GUEST);
    b.vm->no_shutdown = true;
    g_autofree char *off = answer(&b, fd);
    EXPECT(strstr(off, "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": "
                       "\"guest-shutdown\"}}\r\n"));
    check(&b, fd, "{'execute': 'cont'}", GENERIC("Resetting the Virtual Machine is required"));
    close(fd);
    close(other);
    close(silent);
    bench_close(&b);
}

#define SHUTDOWN_OF(guest, reason)                                                             \
    "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": " guest ", \"reason\": \"" reason "\"}}"   \
                                                                                      "\r\n"

TEST(qmp_shutdown_says_why)
{
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b);

    negotiate(&b, fd);
    b.vm->no_shutdown = b.vm->no_reboot = true;
    vm_request(b.vm, VM_REQ_RESET, VM_BY_GUEST);
    g_autofree char *reset = answer(&b, fd);
    EXPECT(strstr(reset, SHUTDOWN_OF("true", "guest-reset")));
    g_autofree char *asked = ask(&b, fd, "{'execute': 'system_reset'}");
    EXPECT(strstr(asked, SHUTDOWN_OF("false", "host-qmp-system-reset")));
    /* Others that ask meanwhile for something else do not take the blame. */
    vm_request(b.vm, VM_REQ_SHUTDOWN, VM_BY_GUEST);
    vm_request(b.vm, VM_REQ_STOP, VM_BY_QMP);
    g_autofree char *off = answer(&b, fd);
    EXPECT(strstr(off, SHUTDOWN_OF("true", "guest-shutdown")));
    vm_request(b.vm, VM_REQ_RESET, VM_BY_TRIPLE_FAULT);
    g_autofree char *triple = answer(&b, fd);
    EXPECT(strstr(triple, SHUTDOWN_OF("true", "guest-reset")));
    close(fd);
    bench_close(&b);
}

TEST(qmp_session_ends_and_begins_anew)
{
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b);
    struct sockaddr_un un = { .sun_family = AF_UNIX };

    negotiate(&b, fd);
    EXPECT_EQ(write(fd, "{'execute': 'sto", 16), 16);
    turn(&b);
    close(fd);
    turn(&b);
    g_snprintf(un.sun_path, sizeof un.sun_path, "%s/m0", b.dir);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    EXPECT_EQ(connect(fd, (struct sockaddr *)&un, sizeof un), 0);
    g_autofree char *greeting = answer(&b, fd);
    EXPECT(g_str_has_prefix(greeting, "{\"QMP\": "));
    check(&b, fd, "{'execute': 'stop'}",
          ERR("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    close(fd);
    bench_close(&b);
}

TEST(qmp_schema_and_commands_agree)
{
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b);
    g_autoptr(JsonParser) p = json_parser_new();

    negotiate(&b, fd);
    g_autofree char *text = ask(&b, fd, "{'execute': 'query-qmp-schema'}");
    EXPECT(strlen(text) > 2000);
    EXPECT(json_parser_load_from_data(p, text, -1, NULL));
    for (const struct qmp_command *c = qmp_commands; c->name; c++) {
        g_autofree char *want =
            g_strdup_printf("{\"name\": \"%s\", \"meta-type\": \"command\"", c->name);
        EXPECT(strstr(text, want) != NULL);
    }
    /* Whoever does not read its answers is not listened to; nothing is lost. */
    for (u32 i = 0; i < 200; i++)
        EXPECT(write(fd, "{'execute': 'query-qmp-schema'}", 31) == 31);
    size_t got = 0;
    for (u32 i = 0; i < 2000; i++) {
        g_autofree char *more = answer(&b, fd);
        got += strlen(more);
        if (got == 200 * strlen(text))
            break;
    }
    EXPECT_EQ(got, 200 * strlen(text));
    close(fd);
    bench_close(&b);
}

TEST(hmp_edits_completes_and_answers)
{
    struct bench b;
    bench_open(&b);
    int fd = monitor_connect(&b, false);
    g_autofree char *hello = answer(&b, fd);

    EXPECT(g_str_has_suffix(hello, "monitor - type 'help'\r\n(posada) "));
    g_autofree char *status = ask(&b, fd, "info status\r");
    EXPECT_STR(status, "info status\r\nVM status: paused (prelaunch)\r\n(posada) ");
    g_autofree char *again = ask(&b, fd, "\033[A\r"); /* cursor up */
    EXPECT(strstr(again, "VM status: paused (prelaunch)"));
    g_autofree char *edited = ask(&b, fd, "1\x02p \x05*3x\x7f\r");
    EXPECT(strstr(edited, "\r\n0x3\r\n"));
    g_autofree char *tab = ask(&b, fd, "info ver\t\r");
    EXPECT(strstr(tab, "Posada " POSADA_VERSION "\r\n"));
    g_autofree char *list = ask(&b, fd, "info n\t\x15");
    EXPECT(strstr(list, "name  network"));
    g_autofree char *none = ask(&b, fd, "frobnicate\r\n");
    EXPECT(strstr(none, "unknown command: 'frobnicate'"));
    close(fd);
    bench_close(&b);
}

static void expect_command(struct bench *b, const char *line, const char *want)
{
    g_autoptr(GString) out = g_string_new(NULL);

    monitor_command(b->vm, line, out);
    EXPECT_STR(out->str, want);
}

TEST(hmp_memory_and_expressions)
{
    struct bench b;
    bench_open(&b);
    struct ram_block *block = ram_block_new(b.vm->ram, "pc.ram", 1 << 20, NULL);

    ram_map_at(b.vm->ram, 0, 1 << 20, block, 0, false);
    ram_commit(b.vm->ram);
    EXPECT(ram_put(b.vm->ram, 0x100, "\x01\x02\x03\x04\xff\xff\xff\xffHi", 10));
    expect_command(&b, "xp 0x100", "0000000000000100: 0x04030201\n");
    expect_command(&b, "xp/2dw 0x100", "0000000000000100: 67305985 -1\n");
    expect_command(&b, "xp /2cb 0x100+8", "0000000000000108: 'H' 'i'\n");
    expect_command(&b, "xp/xg 0xffffd+2", "00000000000fffff: not RAM\n");
    expect_command(&b, "xp/xh 256", "0000000000000100: 0x0201\n");
    expect_command(&b, "xp/99999999x 0",
                   "format: /N (at most 65536), one of x d u o c, one of b h w g\n");
    expect_command(&b, "p (1+2)*3-4/2", "0x7\n");
    expect_command(&b, "p/d -5", " -5\n");
    expect_command(&b, "p 1<<4|1^3&2", "0x13\n");
    expect_command(&b, "p 1/0", "division by zero at ''\n");
    expect_command(&b, "p 1+", "number expected at ''\n");
    expect_command(&b, "p 1)", "end of expression expected at ')'\n");
    expect_command(&b, "p $rip", "no registers to be had at ''\n");
    g_autoptr(GString) deep = g_string_new("p ");
    for (u32 i = 0; i < 100000; i++)
        g_string_append_c(deep, '(');
    g_autoptr(GString) out = g_string_new(NULL);
    monitor_command(b.vm, deep->str, out);
    EXPECT(g_str_has_prefix(out->str, "expression nested too deep"));

    for (const struct hmp_command *c = hmp_infos; c->name; c++) { /* none of them dies */
        g_autofree char *line = g_strdup_printf("info %s", c->name);
        monitor_command(b.vm, line, out);
    }
    monitor_command(b.vm, "help", out);
    monitor_command(b.vm, "help info", out);
    bench_close(&b);
}

/* Bytes that are nearly QMP: the session answers and lives. */
TEST(qmp_seeded_hostile_input)
{
    static const char *const pieces[] = {
        "{",
        "}",
        "[",
        "]",
        "\"execute\"",
        "'execute'",
        ":",
        ",",
        "\"stop\"",
        "\"cont\"",
        "\"id\"",
        "1",
        "-0.5e3",
        "true",
        "\\ud800",
        "\"",
        "'",
        "\n",
        "\\u0041",
        "\xff",
        "\"arguments\"",
        "{}",
        "1e999",
        " ",
        "\"query-qmp-schema\"",
        "\"human-monitor-command\"",
        "{\"command-line\":\"info qtree\"}",
        "{\"execute\":\"query-status\"}",
        "{\"execute\":\"human-monitor-command\",\"arguments\":",
        "\"command-line\"",
        "99999999999999999999",
        "null",
        "\"xp/9999x 0\"",
        "\x00",
    };
    struct bench b;
    bench_open(&b);
    int fd = qmp_connect(&b);
    u32 seed = 20240607;

    negotiate(&b, fd);
    for (u32 round = 0; round < 2000; round++) {
        g_autoptr(GString) in = g_string_new(NULL);
        for (u32 i = 0; i < 30; i++) {
            const char *p =
                pieces[((seed = seed * 1103515245 + 12345) >> 16) % ARRAY_LEN(pieces)];
            g_string_append_len(in, p, MAX(strlen(p), 1));
        }
        EXPECT(write(fd, in->str, in->len) >= 0);
        g_autofree char *got UNUSED = answer(&b, fd);
    }
    g_autofree char *rest UNUSED = ask(&b, fd, "\n\"\n'\n\n");
    g_autofree char *alive = ask(&b, fd, "{'execute': 'query-target', 'id': 'alive'}");
    EXPECT(strstr(alive, "\"id\": \"alive\"}"));
    close(fd);
    bench_close(&b);
}

TEST_MAIN()
