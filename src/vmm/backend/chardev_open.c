// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chardev_open.c - from option text to a character device: the -serial form
 * ("tcp:host:port,...") and the -chardev form ("socket,id=x,host=...").  Both end in the same
 * named options.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "vmm/backend/chardev_impl.h"
#include "vmm/core/vm.h"

/* prefix of the -serial form; first: the option that what follows the prefix becomes (PATH, or
 * addr for HOST:PORT); more: options that the form implies. */
static const struct chardev_form {
    const char *prefix, *kind, *first, *more;
} forms[] = {
    { "stdio", "stdio", NULL, NULL },   { "pty", "pty", NULL, NULL },
    { "null", "null", NULL, NULL },     { "file:", "file", "path", NULL },
    { "pipe:", "pipe", "path", NULL },  { "unix:", "socket", "path", NULL },
    { "tcp:", "socket", "addr", NULL }, { "telnet:", "socket", "addr", ",telnet=on" },
};

static const struct chardev_kind {
    const char *name;
    chardev_open_fn *open;
} kinds[] = {
    { "stdio", chardev_open_stdio },   { "pty", chardev_open_pty },
    { "socket", chardev_open_socket }, { "file", chardev_open_file },
    { "pipe", chardev_open_pipe },     { "null", chardev_open_null },
};

static struct chardev *open_kind(struct vm *vm, const char *kind, const char *id,
                                 struct keyval *kv, bool mux, GError **error)
{
    g_autofree char *base_id = mux ? g_strconcat(id, "-base", NULL) : g_strdup(id);
    const char *log = keyval_str(kv, "logfile");
    bool log_append = keyval_bool(kv, "logappend", false);
    struct chardev *c = NULL;
    g_autofd log_fd = -1;

    if (chardev_find(vm, id) || chardev_find(vm, base_id))
        return fail(error, ERR_ARGUMENT, "Duplicate ID '%s' for chardev", id), NULL;
    if (log) {
        log_fd =
            open(log, O_WRONLY | O_CREAT | O_CLOEXEC | (log_append ? O_APPEND : O_TRUNC), 0666);
        if (log_fd < 0)
            return fail_errno(error, errno, "chardev %s: %s", id, log), NULL;
    }
    for (u32 i = 0; i < ARRAY_LEN(kinds) && !c; i++) {
        if (strcmp(kinds[i].name, kind) != 0)
            continue;
        c = kinds[i].open(vm, base_id, kv, error);
        if (!c)
            return g_prefix_error(error, "chardev %s: ", id), NULL;
    }
    if (!c)
        return fail(error, ERR_ARGUMENT,
                    "chardev %s: '%s' is not a kind of chardev; there are stdio, pty, socket, "
                    "file, pipe, null",
                    id, kind),
               NULL;
    c->log_fd = fd_steal(&log_fd);
    return mux ? chardev_open_mux(vm, id, c) : c;
}

struct chardev *chardev_new(struct vm *vm, const char *id, const char *spec, GError **error)
{
    bool mux = g_str_has_prefix(spec, "mon:");

    if (mux)
        spec += 4;
    if (strcmp(spec, "none") == 0)
        return NULL;
    if (g_str_has_prefix(spec, "chardev:")) {
        struct chardev *c = chardev_find(vm, spec + 8);
        if (!c)
            fail(error, ERR_NOT_FOUND, "Chardev '%s' not found", spec + 8);
        return c;
    }
    for (u32 i = 0; i < ARRAY_LEN(forms); i++) {
        const struct chardev_form *f = &forms[i];
        size_t n = strlen(f->prefix);

        if (strncmp(spec, f->prefix, n) != 0 || (!f->first && spec[n] && spec[n] != ','))
            continue;
        g_autofree char *what = g_strndup(spec, strcspn(spec, ":,"));
        g_autofree char *text = f->first ? g_strconcat(f->first, "=", spec + n, f->more, NULL)
                                         : g_strdup(spec[n] ? spec + n + 1 : "");
        /* On a shared terminal the signal keys belong to the guest. */
        if (mux && strcmp(f->kind, "stdio") == 0 && !strstr(text, "signal=")) {
            char *more = g_strconcat(*text ? text : "", *text ? "," : "", "signal=off", NULL);
            g_free(text);
            text = more;
        }
        g_autokeyval kv = keyval_parse(what, text, NULL);
        return open_kind(vm, f->kind, id, kv, mux, error);
    }
    return fail(error, ERR_ARGUMENT,
                "'%s' is not a valid character device; there are stdio, pty, null, none, "
                "file:PATH, pipe:PATH, unix:PATH, tcp:HOST:PORT, telnet:HOST:PORT, chardev:ID, "
                "and mon: before one of them",
                spec),
           NULL;
}

struct chardev *chardev_new_opts(struct vm *vm, const char *opts, GError **error)
{
    g_autokeyval kv = keyval_parse("-chardev", opts, "backend");
    const char *kind = keyval_str(kv, "backend"), *id = keyval_str(kv, "id");
    bool mux = keyval_bool(kv, "mux", false);

    if (!kind)
        return fail(error, ERR_ARGUMENT, "chardev: \"%s\" missing backend", opts), NULL;
    if (!id)
        return fail(error, ERR_ARGUMENT, "chardev: no id specified"), NULL;
    return open_kind(vm, kind, id, kv, mux, error);
}
