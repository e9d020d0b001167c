// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img.h - what the commands of posada-img share.  Each command is a function that takes its own
 * arguments (argv[0] is its name) and returns the exit status that qemu-img has.
 */
#pragma once

#include <getopt.h>
#include <glib.h>
#include <stdio.h>

#include "image/image.h"
#include "wire/json_out.h"

struct img_command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *usage;
};
int img_amend(int argc, char **argv);
int img_bench(int argc, char **argv);
int img_bitmap(int argc, char **argv);
int img_check(int argc, char **argv);
int img_commit(int argc, char **argv);
int img_compare(int argc, char **argv);
int img_convert(int argc, char **argv);
int img_create(int argc, char **argv);
int img_dd(int argc, char **argv);
int img_info(int argc, char **argv);
int img_map(int argc, char **argv);
int img_measure(int argc, char **argv);
int img_nbd(int argc, char **argv);
int img_rebase(int argc, char **argv);
int img_resize(int argc, char **argv);
int img_snapshot(int argc, char **argv);

/* "posada-img: text" to standard error; returns 1, so that `return img_fail(...)` reads well.
 */
int img_fail(const char *fmt, ...) PRINTF(1, 2);
int img_fail_error(GError *error);  /* the same, taking the error */
int img_usage(const char *command); /* after a wrong option: says where help is; 1 */

/* How a command opens an image. */
struct img_open {
    const char *format, *cache, *aio;
    bool image_opts, force_share, write, no_backing, check, no_io, bitmaps;
    const char *snapshot;
    const struct dict *driver; /* without image_opts: the driver's options, or NULL */
    bool quiet;
};
struct image *img_open(const char *name, const struct img_open *); /* complains itself */
/* What --image-opts says of the image's backing file, `depth` layers below (1: its own), for
 * img_open's driver; NULL: nothing. */
struct dict *img_backing_options(const char *name, const struct img_open *, u32 depth);

/* convert --bitmaps; both complain themselves. */
bool img_check_bitmaps(struct image *from, bool skip_broken);
bool img_copy_bitmaps(struct image *from, struct image *to);

/* Options that come several times (-o a=1 -o b=2) are one. */
bool img_add_options(struct dict **to, const char *text);
/* Takes "--object secret,id=ID,...", in any number and anywhere, out of a command's arguments;
 * false: complained. */
bool img_take_objects(int *argc, char **argv);
bool img_is_help(const char *text);
bool img_size(const char *what, const char *text, u64 *ret);
bool img_json(const char *output, bool *ret);     /* --output=human|json */
void img_print_snapshots(GPtrArray *);            /* struct image_snapshot */
void img_size_text(u64 n, char *to, size_t room); /* "1.5 GiB" */

/* "    (12.34/100%)" on one line. Any thread. */
struct img_progress {
    bool on;
    u64 total;
    u64 done;
    int shown; /* hundredths of a percent */
    GMutex lock;
};
void img_progress_start(struct img_progress *, bool on, u64 total);
void img_progress_add(struct img_progress *, u64 n);
void img_progress_end(struct img_progress *);

/* Runs work(opaque) on that many threads (at most 64) at once, the caller's among them. */
void img_run(u32 threads, void (*work)(void *), void *opaque);
u32 img_threads(void); /* as many as are of use here */
