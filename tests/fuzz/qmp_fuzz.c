// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp_fuzz.c - hostile bytes into a QMP session.
 *
 * Built with clang (target qmp_fuzz_libfuzzer) it is libFuzzer's; set the build up with
 * -Dc_args=-fsanitize=fuzzer-no-link,address so that coverage of the whole guides it.  Built
 * plainly it replays: the files named on the command line, else a fixed number of inputs made
 * from a seed, which is what the test suite runs.
 *
 *   qmp_fuzz [-n ROUNDS] [-s SEED] [FILE...]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/graph.h"
#include "vmm/backend/chardev_impl.h"
#include "vmm/core/vm.h"
#include "vmm/dev/drive.h"
#include "vmm/monitor/monitor.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* One session for each input, on a chardev that forgets what is written; the guest has no
 * processors and no memory. */
int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct vm *vm = vm_new();
    struct chardev *c = chardev_new(vm, "fuzz", "null", NULL);

    drive_make_graph(vm);
    if (!c || !monitor_open_qmp(vm, c, size & 1, NULL))
        abort();
    static const char hello[] = "{'execute':'qmp_capabilities'}";
    c->user->read(c->opaque, (const u8 *)hello, sizeof hello - 1);
    while (size) { /* as a socket would hand it over */
        size_t n = MIN(size, 1 + data[0] % 64);

        c->user->read(c->opaque, data, n);
        data += n;
        size -= n;
        while (g_main_context_iteration(vm->main, FALSE))
            ;
    }
    monitor_close_all(vm);
    chardev_free_all(vm);
    graph_free(vm->graph);
    vm_free(vm);
    return 0;
}

#ifndef POSADA_LIBFUZZER
static const char *const words[] = {
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "'",
    "\\",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\\ud800",
    "\n",
    " ",
    "0",
    "-1",
    "1.5e300",
    "1e99999",
    "18446744073709551616",
    "true",
    "null",
    "\"execute\"",
    "\"arguments\"",
    "\"id\"",
    "{\"execute\":\"",
    "\",\"arguments\":{",
    "}}",
    "\"}",
    "query-status",
    "transaction",
    "\"actions\":[{\"type\":\"",
    "\",\"data\":{",
    "blockdev-add",
    "\"driver\":\"qcow2\"",
    "\"node-name\":\"n\"",
    "\"file\":\"n\"",
    "block-dirty-bitmap-merge",
    "\"bitmaps\":[",
    "blockdev-snapshot",
    "blockdev-del",
    "block-commit",
    "\"device\":\"n\"",
    "job-cancel",
    "query-commands",
    "query-qmp-schema",
    "query-cpus-fast",
    "human-monitor-command",
    "\"command-line\":\"",
    "info qtree",
    "info mtree",
    "info registers",
    "xp/100xb 0",
    "x/4xg $rip+8*(2",
    "p 1<<(3|4)/0",
    "stop",
    "cont",
    "system_reset",
    "quit",
    "inject-nmi",
    "\"cpu-index\":",
};

static u32 next(u32 *seed)
{
    return (*seed = *seed * 1664525 + 1013904223) >> 8;
}

/* Mostly words of the language, some of them damaged. */
static void make_input(u32 *seed, GByteArray *to)
{
    u32 n = 1 + next(seed) % 60;

    g_byte_array_set_size(to, 0);
    for (u32 i = 0; i < n; i++) {
        const char *w = words[next(seed) % ARRAY_LEN(words)];
        g_autofree char *whole = NULL;

        if (n < 20 && *w >= 'a') /* a short input is of whole commands */
            w = whole = g_strdup_printf(*w < 'o' || strchr(w, '/')
                                            ? "{'execute':'human-monitor-command','arguments':"
                                              "{'command-line':'%s'}}"
                                            : "{'execute':'%s','id':1}",
                                        w);
        g_byte_array_append(to, (const u8 *)w, (guint)strlen(w));
    }
    for (u32 i = next(seed) % 4; i && to->len; i--)
        to->data[next(seed) % to->len] = (u8)next(seed);
}

int main(int argc, char **argv)
{
    u32 rounds = 3000, seed = 1;
    int i = 1;

    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        u32 v = (u32)strtoul(argv[i + 1], NULL, 0);
        *(argv[i][1] == 'n' ? &rounds : &seed) = v;
    }
    for (; i < argc; i++) {
        g_autofree char *bytes = NULL;
        g_autoptr(GError) error = NULL;
        size_t n;

        if (!g_file_get_contents(argv[i], &bytes, &n, &error)) {
            fprintf(stderr, "qmp_fuzz: %s\n", error->message);
            return 1;
        }
        LLVMFuzzerTestOneInput((const u8 *)bytes, n);
        rounds = 0;
    }
    g_autoptr(GByteArray) input = g_byte_array_new();
    for (u32 r = 0; r < rounds; r++) {
        make_input(&seed, input);
        LLVMFuzzerTestOneInput(input->data, input->len);
    }
    printf("%u inputs, none of which ended it\n", rounds);
    return 0;
}
#endif
