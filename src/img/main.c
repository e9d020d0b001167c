// SPDX-License-Identifier: GPL-2.0-or-later
/* main.c - posada-img: disk images, offline.  Answers to the name qemu-img, too. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "img/img.h"

static const char *program = "posada-img";

static const struct img_command commands[] = {
    { "amend", img_amend,
      "[--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options filename" },
    { "bench", img_bench,
      "[-c count] [-d depth] [-f fmt] [--flush-interval=N] [-i aio] [-n] [--no-drain] [-o "
      "offset] "
      "[--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] "
      "filename" },
    { "bitmap", img_bitmap,
      "(--merge source | --add | --remove | --clear | --enable | --disable)... "
      "[-b source_file [-F source_fmt]] [-g granularity] [--image-opts | -f fmt] filename "
      "bitmap" },
    { "check", img_check,
      "[--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] "
      "filename" },
    { "commit", img_commit,
      "[--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-d] [-p] filename" },
    { "compare", img_compare,
      "[--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 "
      "filename2" },
    { "convert", img_convert,
      "[--image-opts] [--target-image-opts] [--target-is-zero] [-U] [-C] [-c] [-p] [-q] [-n] "
      "[-f fmt] [-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] "
      "[-o options] [-l snapshot_param] [-S sparse_size] [-r rate_limit] [-m threads] [-W] "
      "[--salvage] [--bitmaps [--skip-broken-bitmaps]] filename [filename2 [...]] "
      "output_filename" },
    { "create", img_create,
      "[-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]" },
    { "dd", img_dd,
      "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] "
      "[skip=blocks] "
      "if=input of=output" },
    { "info", img_info,
      "[--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename" },
    { "map", img_map,
      "[--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] "
      "filename" },
    { "measure", img_measure,
      "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--image-opts] [-f fmt] "
      "[-l snapshot_param] filename]" },
    { "nbd", img_nbd, "[options] filename | -L [options]   (nbd --help)" },
    { "rebase", img_rebase,
      "[--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] -b backing_file "
      "[-F backing_fmt] filename" },
    { "resize", img_resize,
      "[--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | "
      "-]size" },
    { "snapshot", img_snapshot,
      "[--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename" },
};

int img_fail(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", program, text);
    return 1;
}

int img_fail_error(GError *error)
{
    img_fail("%s", error->message);
    g_error_free(error);
    return 1;
}

int img_usage(const char *command)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (!strcmp(commands[i].name, command))
            fprintf(stderr, "usage: %s %s %s\n", program, command, commands[i].usage);
    }
    fprintf(stderr, "Try '%s --help' for more information\n", program);
    return 1;
}

static void print_names(const char *what, bool create)
{
    g_autoptr(GPtrArray) names = image_formats(create);

    printf("%s", what);
    for (guint i = 0; i < names->len; i++)
        printf(" %s", (const char *)names->pdata[i]);
    printf("\n");
}

static void help(void)
{
    printf("%s version %s\nusage: %s [-h | --help] [-V | --version] command [options]\n"
           "Disk images: makes, looks at, checks and converts them.\n\nCommands:\n",
           program, POSADA_VERSION, program);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        printf("  %s %s\n", commands[i].name, commands[i].usage);
    printf(
        "\n"
        "  filename   a file, a block device, PROTOCOL:rest, or json:{...}; with --image-opts\n"
        "             driver=FORMAT,file.filename=FILE and so on\n"
        "  fmt        the format, else guessed; cache: none, writeback, writethrough,\n"
        "             directsync, unsafe (what convert writes with, if nothing is said)\n"
        "  size       bytes, or with k, M, G, T, P or E\n"
        "  --object secret,id=ID,data=TEXT|file=FILE[,format=base64][,keyid=ID,iv=IV]\n"
        "             with every command: a password, for key-secret=ID\n"
        "  --object tls-creds-x509|tls-creds-psk|tls-creds-anon,id=ID,endpoint=client,dir=DIR\n"
        "             likewise: for driver=nbd,...,tls-creds=ID\n"
        "  options    name=value,...; -o help lists a format's\n"
        "  -c         compressed     -p  progress     -q  quiet\n"
        "  -n         the target is there already     -U  others may be writing\n"
        "  -S size    runs of zeroes of that length become holes (4k); 0: none\n"
        "  -u         (create, rebase) the backing file need not be there\n\n");
    printf("Servers: nbd:// nbd+unix:// nbds:// %s\n\n",
           image_format_known("http") ? "http:// https:// ftp:// ftps:// (libcurl)" : "");
    print_names("Supported formats:", false);
    print_names("New images:", true);
}

int main(int argc, char **argv)
{
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];

    if (strstr(name, "qemu-img"))
        program = "qemu-img";
    log_set_name(program);
    if (strstr(name, "qemu-nbd")) {
        program = "qemu-nbd";
        log_set_name(program);
        return img_take_objects(&argc, argv) ? img_nbd(argc, argv) : 1;
    }
    if (argc < 2) {
        img_fail("Not enough arguments");
        fprintf(stderr, "Try '%s --help' for more information\n", program);
        return 1;
    }
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help")) {
        help();
        return 0;
    }
    if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version")) {
        printf("%s version %s\n", program, POSADA_VERSION);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, argv[1]) != 0)
            continue;
        if (argc > 2 && commands[i].run != img_nbd &&
            (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
            printf("usage: %s %s %s\n", program, commands[i].name, commands[i].usage);
            return 0;
        }
        int n = argc - 1;
        if (!img_take_objects(&n, argv + 1))
            return commands[i].run == img_compare ? 2 : 1;
        int r = commands[i].run(n, argv + 1);
        if (fflush(stdout) || ferror(stdout))
            return r ? r : 1;
        return r;
    }
    img_fail("Command not found: %s", argv[1]);
    fprintf(stderr, "Try '%s --help' for more information\n", program);
    return 1;
}
