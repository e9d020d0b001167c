// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd.c - posada-img nbd: serves an image by the NBD protocol, or lists what a server has.
 * Options and behaviour are qemu-nbd's; under that name it is this command alone.
 *
 * Not done: -c and -d (the kernel's client: nbd-client does that), sockets by systemd, trace.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "img/img.h"
#include "nbd/server.h"
#include "stream/stream.h"
#include "wire/nbd/handshake.h"
#include "wire/nbd/nbd.h"

enum { LIST_MS = 30000 };

struct serve {
    const char *name, *description, *format, *socket, *port, *bind, *pid_file, *snapshot;
    const char *cache, *aio, *discard, *detect, *tls, *tls_hostname, *file;
    bool read_only, persistent, fork, temporary, image_opts, depth, list, verbose;
    u64 offset;
    u32 shared;
    GMainLoop *loop;
};

/* --- listing ---------------------------------------------------------------------------------
 */

static void print_listed(const struct nbd_listed *l)
{
    static const char *const flags[] = { NULL,         "readonly", "flush",  "fua",
                                         "rotational", "trim",     "zeroes", "df",
                                         "multi",      "resize",   "cache",  "fast-zero" };

    printf(" export: '%s'\n", l->name);
    if (l->description && *l->description)
        printf("  description: %s\n", l->description);
    if (l->info.flags & NBD_FLAG_HAS_FLAGS) {
        printf("  size:  %" G_GUINT64_FORMAT "\n  flags: 0x%x (", l->info.size, l->info.flags);
        for (u32 i = 1; i < ARRAY_LEN(flags); i++) {
            if (l->info.flags >> i & 1)
                printf(" %s", flags[i]);
        }
        printf(" )\n");
    }
    if (l->info.has_block_size)
        printf("  min block: %u\n  opt block: %u\n  max block: %u\n", l->info.min,
               l->info.preferred, l->info.max);
    if (l->contexts->len)
        printf("  available meta contexts: %u\n", l->contexts->len);
    for (guint i = 0; i < l->contexts->len; i++)
        printf("   %s\n", (const char *)l->contexts->pdata[i]);
}

static int list(const struct serve *o, const struct stream_address *address)
{
    const struct stream_limit limit = { stream_now() + LIST_MS, -1 };
    GError *error = NULL;
    struct nbd_ask ask = { .name = "", .hostname = o->tls_hostname };
    struct stream s = { .fd = -1 };
    int fd = -1;

    if (!ask.hostname && !o->socket)
        ask.hostname = address->host;
    if (!o->tls || (ask.tls = tls_creds_find(o->tls, false, &error)))
        fd = stream_connect(address, &limit, &error);
    g_autoptr(GPtrArray) all = NULL;
    if (fd >= 0) {
        stream_init(&s, fd);
        all = nbd_list(&s, &ask, &limit, &error);
    }
    stream_close(&s);
    tls_creds_unref(ask.tls);
    if (!all)
        return img_fail_error(error);
    printf("exports available: %u\n", all->len);
    for (guint i = 0; i < all->len; i++)
        print_listed(all->pdata[i]);
    return 0;
}

/* --- serving ---------------------------------------------------------------------------------
 */

static void clients(void *opaque, u32 count, bool one_left)
{
    struct serve *o = opaque;

    if (!count && one_left && !o->persistent)
        g_main_loop_quit(o->loop);
}

static gboolean stop(gpointer opaque)
{
    g_main_loop_quit(((struct serve *)opaque)->loop);
    return G_SOURCE_CONTINUE;
}

static struct image *open_image(const struct serve *o)
{
    struct image_options how = { .format = o->format,
                                 .read_only = o->read_only || o->snapshot,
                                 .snapshot = o->temporary };
    GError *error = NULL;
    struct image *img;
    g_autofree char *id = NULL;

    if (o->cache && !image_cache_from_text(o->cache, &how.cache))
        return img_fail("Invalid cache mode `%s'", o->cache), NULL;
    if (o->aio && !image_aio_from_text(o->aio, &how.aio))
        return img_fail("Invalid aio mode `%s'", o->aio), NULL;
    if (o->detect && !image_detect_zeroes_from_text(o->detect, &how.detect_zeroes))
        return img_fail("Invalid detect-zeroes mode `%s'", o->detect), NULL;
    how.discard = o->discard && (!strcmp(o->discard, "unmap") || !strcmp(o->discard, "on"));
    if (o->discard && !how.discard && strcmp(o->discard, "ignore") != 0 &&
        strcmp(o->discard, "off") != 0)
        return img_fail("Invalid discard mode `%s'", o->discard), NULL;
    if (how.detect_zeroes == IMAGE_DETECT_UNMAP && !how.discard)
        return img_fail("setting detect-zeroes to unmap is not allowed without setting discard "
                        "operation to unmap"),
               NULL;
    how.load_snapshot = o->snapshot;
    if (o->snapshot && g_str_has_prefix(o->snapshot, "snapshot.")) {
        g_autodict d = dict_from_text(o->snapshot, NULL, &error);
        const char *v = d ? dict_str(d, "snapshot.id") : NULL;

        if (d && !v)
            v = dict_str(d, "snapshot.name");
        if (!d || !dict_done(d, "snapshot", &error))
            return img_fail_error(error), NULL;
        how.load_snapshot = id = g_strdup(v);
    }
    if (o->image_opts) {
        struct dict *d = dict_from_text(o->file, NULL, &error);
        img = d ? image_open_dict(d, &how, &error) : NULL;
    } else {
        img = image_open(o->file, &how, &error);
    }
    if (!img) {
        g_prefix_error(&error, "Failed to blk_new_open '%s': ", o->file);
        img_fail_error(error);
    }
    return img;
}

static bool write_pid(const char *path)
{
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    g_autofd fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    return (fd >= 0 && fd_write_all(fd, text, strlen(text), -1, NULL)) ||
           (img_fail("cannot create PID file '%s': %s", path, g_strerror(errno)), false);
}

/* In the background: tells the parent that all went well, and gives its terminal up. */
static void detach(int ready)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    for (int i = 0; null >= 0 && i < 3; i++)
        dup2(null, i);
    if (null > 2)
        close(null);
    if (write(ready, "", 1) != 1)
        exit(1);
    close(ready);
}

static int serve(struct serve *o, const struct stream_address *address, int ready)
{
    GError *error = NULL;
    struct image *img = open_image(o);
    struct tls_creds *tls = NULL;

    if (!img)
        return 1;
    o->loop = g_main_loop_new(NULL, FALSE);
    struct nbd_server_options so = {
        .address = address, .max_clients = o->shared, .clients = clients, .opaque = o
    };
    if (o->offset > image_size(img))
        g_set_error(&error, G_FILE_ERROR, G_FILE_ERROR_INVAL,
                    "Image size is smaller than the offset");
    if (!error && o->tls)
        tls = tls_creds_find(o->tls, true, &error);
    so.tls = tls;
    struct nbd_server *s = error ? NULL : nbd_server_new(&so, &error);
    tls_creds_unref(tls);
    bool ok = s != NULL;
    if (ok) {
        const struct nbd_export_options e = { .name = o->name,
                                              .description = o->description,
                                              .image = img,
                                              .writable = !image_read_only(img),
                                              .allocation_depth = o->depth,
                                              .offset = o->offset };
        ok = nbd_export_add(s, &e, &error) != NULL;
    } else {
        image_close(img);
    }
    if (error)
        img_fail_error(error);
    ok = ok && (!o->pid_file || write_pid(o->pid_file));
    if (ok) {
        g_unix_signal_add(SIGTERM, stop, o);
        g_unix_signal_add(SIGINT, stop, o);
        g_unix_signal_add(SIGHUP, stop, o);
        if (o->verbose && nbd_server_port(s))
            printf("NBD server listening on port %u\n", nbd_server_port(s));
        else if (o->verbose)
            printf("NBD server listening on %s\n", o->socket);
        fflush(stdout);
        if (ready >= 0)
            detach(ready);
        g_main_loop_run(o->loop);
    }
    nbd_server_free(s);
    if (ok && o->pid_file)
        unlink(o->pid_file);
    g_main_loop_unref(o->loop);
    return !ok;
}

/* The child goes on with *ret_ready; the parent returns its status. -1: go on. */
static int into_background(int *ret_ready)
{
    int p[2], status = 1;
    u8 byte;

    if (pipe2(p, O_CLOEXEC) < 0)
        return img_fail("pipe: %s", g_strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid < 0)
        return img_fail("Failed to fork: %s", g_strerror(errno));
    if (!pid) {
        close(p[0]);
        setsid();
        *ret_ready = p[1];
        return -1;
    }
    close(p[1]);
    if (read(p[0], &byte, 1) == 1)
        status = 0;
    close(p[0]);
    return status;
}

/* --- options ---------------------------------------------------------------------------------
 */

static bool number(const char *what, const char *text, u32 max, u32 *ret)
{
    guint64 n;

    if (g_ascii_string_to_unsigned(text, 10, 0, max, &n, NULL)) {
        *ret = (u32)n;
        return true;
    }
    img_fail("Invalid %s '%s'", what, text);
    return false;
}

enum {
    OPT_CACHE = 256,
    OPT_AIO,
    OPT_DISCARD,
    OPT_DETECT,
    OPT_TLS,
    OPT_OPTS,
    OPT_FORK,
    OPT_PID,
    OPT_HOSTNAME
};

static const struct option long_options[] = {
    { "socket", 1, NULL, 'k' },
    { "port", 1, NULL, 'p' },
    { "bind", 1, NULL, 'b' },
    { "export-name", 1, NULL, 'x' },
    { "description", 1, NULL, 'D' },
    { "read-only", 0, NULL, 'r' },
    { "shared", 1, NULL, 'e' },
    { "persistent", 0, NULL, 't' },
    { "format", 1, NULL, 'f' },
    { "offset", 1, NULL, 'o' },
    { "snapshot", 0, NULL, 's' },
    { "load-snapshot", 1, NULL, 'l' },
    { "nocache", 0, NULL, 'n' },
    { "list", 0, NULL, 'L' },
    { "allocation-depth", 0, NULL, 'A' },
    { "bitmap", 1, NULL, 'B' },
    { "connect", 1, NULL, 'c' },
    { "disconnect", 0, NULL, 'd' },
    { "verbose", 0, NULL, 'v' },
    { "help", 0, NULL, 'h' },
    { "version", 0, NULL, 'V' },
    { "cache", 1, NULL, OPT_CACHE },
    { "aio", 1, NULL, OPT_AIO },
    { "discard", 1, NULL, OPT_DISCARD },
    { "detect-zeroes", 1, NULL, OPT_DETECT },
    { "tls-creds", 1, NULL, OPT_TLS },
    { "tls-hostname", 1, NULL, OPT_HOSTNAME },
    { "image-opts", 0, NULL, OPT_OPTS },
    { "fork", 0, NULL, OPT_FORK },
    { "pid-file", 1, NULL, OPT_PID },
    { NULL, 0, NULL, 0 },
};

static void usage(void)
{
    printf(
        "usage: posada-img nbd [options] filename      (also as qemu-nbd [options] filename)\n"
        "       posada-img nbd -L [-k path | -b host -p port]\n"
        "Serves an image by the NBD protocol until its last client leaves.\n\n"
        "  -k, --socket=PATH        listen on a UNIX socket\n"
        "  -p, --port=PORT          else on this TCP port (%d), -b, --bind=ADDR of this "
        "address\n"
        "  -x, --export-name=NAME   the export's name (empty), -D, --description=TEXT\n"
        "  -e, --shared=N           at most N clients at once (1), 0: any number\n"
        "  -t, --persistent         go on when the last client has left\n"
        "  -r, --read-only          nobody may write\n"
        "  -f, --format=FORMAT      the image's format, else it is guessed\n"
        "      --image-opts         filename is driver=FORMAT,file.filename=FILE,...\n"
        "  -o, --offset=N           the export begins at this byte of the image\n"
        "  -s, --snapshot           writes go to a temporary file and are forgotten\n"
        "  -l, --load-snapshot=S    an internal snapshot, by id or name, read-only\n"
        "  -A, --allocation-depth   tell which layer of a backing chain has what\n"
        "      --cache=MODE, -n     as for disks (writeback); -n: none\n"
        "      --aio=MODE           threads, native, io_uring\n"
        "      --discard=MODE       ignore, unmap       --detect-zeroes=MODE  off, on, unmap\n"
        "      --object=TYPE,id=ID,...  tls-creds-x509, tls-creds-psk, tls-creds-anon\n"
        "      --tls-creds=ID       clients have to use TLS (with -L: we do)\n"
        "      --tls-hostname=NAME  with -L: the name in the server's certificate\n"
        "      --fork               into the background once it listens\n"
        "      --pid-file=FILE      the process's number, while it runs\n"
        "  -L, --list               what a server has to offer\n"
        "  -v, --verbose\n",
        NBD_PORT);
}

/* 0: go on; else the exit status + 1. */
static int take_options(struct serve *o, int argc, char **argv)
{
    int c;

    optind = 1;
    while ((c = getopt_long(argc, argv, "k:p:b:x:D:re:tf:o:sl:nLAB:c:dvhV", long_options,
                            NULL)) != -1) {
        switch (c) {
        case 'k':
            o->socket = optarg;
            break;
        case 'p':
            o->port = optarg;
            break;
        case 'b':
            o->bind = optarg;
            break;
        case 'x':
            o->name = optarg;
            break;
        case 'D':
            o->description = optarg;
            break;
        case 'r':
            o->read_only = true;
            break;
        case 't':
            o->persistent = true;
            break;
        case 'f':
            o->format = optarg;
            break;
        case 's':
            o->temporary = true;
            break;
        case 'l':
            o->snapshot = optarg;
            break;
        case 'n':
            o->cache = "none";
            break;
        case 'L':
            o->list = true;
            break;
        case 'A':
            o->depth = true;
            break;
        case 'v':
            o->verbose = true;
            break;
        case OPT_CACHE:
            o->cache = optarg;
            break;
        case OPT_AIO:
            o->aio = optarg;
            break;
        case OPT_DISCARD:
            o->discard = optarg;
            break;
        case OPT_DETECT:
            o->detect = optarg;
            break;
        case OPT_TLS:
            o->tls = optarg;
            break;
        case OPT_HOSTNAME:
            o->tls_hostname = optarg;
            break;
        case OPT_OPTS:
            o->image_opts = true;
            break;
        case OPT_FORK:
            o->fork = true;
            break;
        case OPT_PID:
            o->pid_file = optarg;
            break;
        case 'e':
            if (!number("shared device number", optarg, 4096, &o->shared))
                return 2;
            break;
        case 'o':
            if (!img_size("offset", optarg, &o->offset))
                return 2;
            break;
        case 'B':
            img_fail("-B: bitmaps of an image are served by posada-vmm alone");
            return 2;
        case 'c':
        case 'd':
            img_fail("-%c: the kernel's devices are nbd-client's", c);
            return 2;
        case 'h':
            usage();
            return 1;
        case 'V':
            printf("posada-img nbd version %s\n", POSADA_VERSION);
            return 1;
        default:
            fprintf(stderr, "Try 'posada-img nbd --help' for more information\n");
            return 2;
        }
    }
    return 0;
}

int img_nbd(int argc, char **argv)
{
    struct serve o = { .name = "", .shared = 1 };
    int r = take_options(&o, argc, argv), ready = -1;

    if (r)
        return r - 1;
    if (o.list ? optind != argc : optind + 1 != argc)
        return img_fail(o.list ? "List mode is incompatible with a file name"
                               : "Invalid number of arguments");
    if (o.image_opts && o.format)
        return img_fail("--image-opts and --format are mutually exclusive");
    if (o.socket && (o.port || o.bind))
        return img_fail("A UNIX socket has neither port nor address");
    o.file = argv[optind];
    g_autofree char *port = g_strdup_printf("%d", NBD_PORT);
    struct stream_address address = {
        .kind = o.socket ? STREAM_UNIX : STREAM_INET,
        .path = (char *)o.socket,
        .host = (char *)(o.bind   ? o.bind
                         : o.list ? "127.0.0.1"
                                  : "0.0.0.0"),
        .port = (char *)(o.port ? o.port : port),
    };
    if (o.list)
        return list(&o, &address);
    if (o.fork && (r = into_background(&ready)) >= 0)
        return r;
    return serve(&o, &address, ready);
}
