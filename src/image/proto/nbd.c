// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd.c - an image on another host, or in another program: driver "nbd".
 *
 *   nbd://HOST[:PORT]/EXPORT   nbd+unix:///EXPORT?socket=PATH   nbds://..., nbds+unix://...
 * (TLS) nbd:HOST:PORT[:exportname=NAME]   nbd:unix:PATH[:exportname=NAME]
 *
 * Options as QEMU's BlockdevOptionsNbd; tls=on stands for nbds: with the authorities of this
 * host.  What the server cannot (writing zeroes, say) is done by what it can; requests that are
 * not aligned as it wants them are widened.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"
#include "image/proto/nbd.h"

enum { SILENCE_MS = 120000, ZERO_MAX = 1 << 30, STATUS_MAX = 1 << 30, SECONDS_MAX = 3600 };

struct nbd {
    struct node node;
    struct nbd_link link;
    pthread_mutex_t lock; /* for ranges */
    struct ranges ranges; /* writes that are widened go alone */
    /* Requests that nobody waits for, done: their completions run on a thread of their own,
     * since they may want locks whose holders wait for the connection. */
    pthread_t teller;
    pthread_mutex_t told_lock; /* what follows */
    pthread_cond_t told;
    struct async *done, **last_done;
    bool over;
};

struct async {
    struct async *next;
    struct nbd *nbd;
    struct nbd_op op;
    node_done *done;
    void *tag;
    int result;
    struct iovec v[];
};

static struct nbd *nbd_of(struct node *n)
{
    return container_of(n, struct nbd, node);
}

/* --- requests --------------------------------------------------------------------------------
 */

static int command(struct nbd *s, u16 type, u16 flags, u64 at, u64 len)
{
    struct nbd_op op = { .type = type, .flags = flags, .at = at, .len = (u32)len };

    return nbd_link_do(&s->link, &op);
}

/* len bytes of the cursor, which is used up. */
static int transfer(struct nbd *s, u16 type, u64 at, u64 len, struct cursor *c)
{
    enum { PIECES = 64 };

    while (len) {
        struct iovec few[PIECES], *v = few;
        u64 part = MIN(len, s->link.info.max);

        if (c->n > PIECES)
            v = g_new(struct iovec, c->n);
        int k = cursor_peek(c, part, v, MAX(c->n, PIECES));
        struct nbd_op op = { .type = type, .at = at, .len = (u32)part, .v = v, .n = k };
        int r = nbd_link_do(&s->link, &op);
        if (v != few)
            g_free(v);
        if (r)
            return r;
        cursor_advance(c, part);
        at += part;
        len -= part;
    }
    return 0;
}

/* Its aligned surroundings, as far as the export goes. */
static bool unaligned(const struct nbd *s, u64 at, u64 len, u64 *ret_from, u64 *ret_len)
{
    u64 align = s->link.info.min, end = ROUND_UP(at + len, align);

    *ret_from = at & ~(align - 1);
    *ret_len = end - *ret_from;
    return ((at | len) & (align - 1)) != 0;
}

static int plain(struct nbd *s, u16 type, u64 at, void *buf, u64 len)
{
    struct iovec v = { buf, len };
    struct cursor c = { &v, 1 };

    return transfer(s, type, at, len, &c);
}

static int nbd_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct nbd *s = nbd_of(n);
    u64 from, wide;

    if (!unaligned(s, at, len, &from, &wide))
        return transfer(s, NBD_CMD_READ, at, len, c);
    u64 align = s->link.info.min;
    g_autofree u8 *block = g_malloc(align);
    while (len) { /* the ends by a block, the middle as it is */
        u64 skip = at & (align - 1), part = MIN(len, align - skip);
        int r;

        if (!skip && len >= align) {
            part = len & ~(align - 1);
            r = transfer(s, NBD_CMD_READ, at, part, c);
        } else {
            r = plain(s, NBD_CMD_READ, at - skip, block, align);
            if (!r)
                cursor_put(c, block + skip, part);
        }
        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

static int write_wide(struct nbd *s, u64 at, u64 len, struct cursor *c)
{
    u64 align = s->link.info.min;
    g_autofree u8 *block = g_malloc(align);

    while (len) {
        u64 skip = at & (align - 1), part = MIN(len, align - skip);
        int r;

        if (!skip && len >= align) {
            part = len & ~(align - 1);
            r = transfer(s, NBD_CMD_WRITE, at, part, c);
        } else {
            r = plain(s, NBD_CMD_READ, at - skip, block, align);
            cursor_get(c, block + skip, part);
            if (!r)
                r = plain(s, NBD_CMD_WRITE, at - skip, block, align);
        }
        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

static int nbd_write(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct nbd *s = nbd_of(n);
    u64 from, wide;

    if (at + len > n->size)
        return -ENOSPC; /* an export does not grow */
    bool alone = unaligned(s, at, len, &from, &wide);
    if (s->link.info.min == 1)
        return transfer(s, NBD_CMD_WRITE, at, len, c);
    struct range range = { .at = from, .end = from + wide, .alone = alone };
    pthread_mutex_lock(&s->lock);
    ranges_enter(&s->ranges, &s->lock, &range);
    pthread_mutex_unlock(&s->lock);
    int r = alone ? write_wide(s, at, len, c) : transfer(s, NBD_CMD_WRITE, at, len, c);
    pthread_mutex_lock(&s->lock);
    ranges_leave(&s->ranges, &range);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int nbd_zero(struct node *n, u64 at, u64 len, bool may_unmap)
{
    struct nbd *s = nbd_of(n);
    u64 from, wide;

    if (at + len > n->size)
        return -ENOSPC;
    if (!(s->link.info.flags & NBD_FLAG_SEND_WRITE_ZEROES) ||
        unaligned(s, at, len, &from, &wide))
        return -ENOTSUP;
    while (len) {
        u64 part = MIN(len, ZERO_MAX);
        int r =
            command(s, NBD_CMD_WRITE_ZEROES, may_unmap ? 0 : NBD_CMD_FLAG_NO_HOLE, at, part);

        if (r)
            return r;
        at += part;
        len -= part;
    }
    return 0;
}

static int nbd_discard(struct node *n, u64 at, u64 len)
{
    struct nbd *s = nbd_of(n);
    u64 align = s->link.info.min, end = MIN(at + len, n->size) & ~(align - 1);

    at = ROUND_UP(at, align);
    while ((s->link.info.flags & NBD_FLAG_SEND_TRIM) && at < end) {
        u64 part = MIN(end - at, ZERO_MAX);
        int r = command(s, NBD_CMD_TRIM, 0, at, part);

        if (r)
            return r;
        at += part;
    }
    return 0;
}

static int nbd_flush(struct node *n)
{
    struct nbd *s = nbd_of(n);

    return s->link.info.flags & NBD_FLAG_SEND_FLUSH ? command(s, NBD_CMD_FLUSH, 0, 0, 0) : 0;
}

static int nbd_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    struct nbd *s = nbd_of(n);
    u64 from, wide;

    *ret = (struct extent){
        .len = len, .flags = EXTENT_DATA | EXTENT_ALLOCATED | EXTENT_OFFSET, .host = at, .in = n
    };
    if (!s->link.info.has_context)
        return 0;
    unaligned(s, at, MIN(len, STATUS_MAX), &from, &wide);
    wide = MIN(wide, n->size - from);
    struct nbd_op op = { .type = NBD_CMD_BLOCK_STATUS,
                         .flags = NBD_CMD_FLAG_REQ_ONE,
                         .at = from,
                         .len = (u32)wide };
    int r = nbd_link_do(&s->link, &op);
    if (r)
        return r;
    if (op.status_len <= at - from)
        return 0; /* it ends inside of a block: no alignment of ours */
    ret->len = MIN(len, op.status_len - (at - from));
    ret->flags = EXTENT_ALLOCATED | EXTENT_OFFSET;
    if (!(op.status_flags & NBD_STATE_HOLE))
        ret->flags |= EXTENT_DATA;
    if (op.status_flags & NBD_STATE_ZERO)
        ret->flags |= EXTENT_ZERO;
    return 0;
}

/* --- requests that nobody waits for ----------------------------------------------------------
 */

static void *tell(void *opaque)
{
    struct nbd *s = opaque;

    pthread_setname_np(pthread_self(), "nbd done");
    pthread_mutex_lock(&s->told_lock);
    while (s->done || !s->over) {
        struct async *a = s->done;

        if (!a) {
            pthread_cond_wait(&s->told, &s->told_lock);
            continue;
        }
        s->done = NULL;
        s->last_done = &s->done;
        pthread_mutex_unlock(&s->told_lock);
        while (a) {
            struct async *next = a->next;

            a->done(a->tag, a->result);
            g_free(a);
            a = next;
        }
        pthread_mutex_lock(&s->told_lock);
    }
    pthread_mutex_unlock(&s->told_lock);
    return NULL;
}

static void async_done(struct nbd_op *op, int result)
{
    struct async *a = container_of(op, struct async, op);
    struct nbd *s = a->nbd;

    a->result = result;
    a->next = NULL;
    pthread_mutex_lock(&s->told_lock);
    *s->last_done = a;
    s->last_done = &a->next;
    pthread_cond_signal(&s->told);
    pthread_mutex_unlock(&s->told_lock);
}

static bool nbd_start(struct node *n, enum image_op op, u64 at, u64 len, const struct iovec *v,
                      int k, bool fua, node_done *done, void *tag)
{
    static const u16 types[] = { [IMAGE_OP_READ] = NBD_CMD_READ,
                                 [IMAGE_OP_WRITE] = NBD_CMD_WRITE,
                                 [IMAGE_OP_FLUSH] = NBD_CMD_FLUSH };
    struct nbd *s = nbd_of(n);
    const struct nbd_export_info *i = &s->link.info;
    u16 needs =
        (op == IMAGE_OP_FLUSH ? NBD_FLAG_SEND_FLUSH : 0) | (fua ? NBD_FLAG_SEND_FUA : 0);

    if (op > IMAGE_OP_FLUSH || len > i->max || i->min > 1 || (i->flags & needs) != needs)
        return false;
    struct async *a = g_malloc0(sizeof *a + (size_t)k * sizeof *v);
    a->nbd = s;
    a->done = done;
    a->tag = tag;
    if (k)
        memcpy(a->v, v, (size_t)k * sizeof *v);
    a->op = (struct nbd_op){ .type = types[op],
                             .flags = fua ? NBD_CMD_FLAG_FUA : 0,
                             .at = op == IMAGE_OP_FLUSH ? 0 : at,
                             .len = op == IMAGE_OP_FLUSH ? 0 : (u32)len,
                             .v = a->v,
                             .n = k,
                             .done = async_done };
    if (nbd_link_try(&s->link, &a->op))
        return true;
    g_free(a);
    return false;
}

static bool nbd_set_writable(struct node *n, bool on, GError **error)
{
    struct nbd *s = nbd_of(n);

    if (on && s->link.info.flags & NBD_FLAG_READ_ONLY)
        return fail(error, ERR_IO, "'%s': the server's export is read-only", n->filename);
    pthread_mutex_lock(&s->link.lock);
    s->link.want_write = on;
    pthread_mutex_unlock(&s->link.lock);
    n->read_only = !on;
    n->opened_rw |= on;
    return true;
}

/* --- opening ---------------------------------------------------------------------------------
 */

static char *describe(const struct nbd_link *l)
{
    const struct stream_address *a = &l->address;
    g_autofree char *name = g_uri_escape_string(l->name, "/", TRUE);
    const char *s = l->tls ? "s" : "";

    if (a->kind == STREAM_UNIX) {
        g_autofree char *path = g_uri_escape_string(a->path, "/", TRUE);
        return g_strdup_printf("nbd%s+unix://%s%s?socket=%s", s, *name ? "/" : "", name, path);
    }
    bool v6 = strchr(a->host, ':');
    return g_strdup_printf("nbd%s://%s%s%s:%s%s%s", s, v6 ? "[" : "", a->host, v6 ? "]" : "",
                           a->port, *name ? "/" : "", name);
}

/* server.*, or the older host, port, path. */
static bool take_address(struct dict *o, struct stream_address *ret, GError **error)
{
    static const char *const kinds[] = { "inet", "unix", NULL };
    g_autodict server = dict_take(o, "server");
    struct dict *d = server ? server : o;
    int kind = server ? dict_enum(d, "type", kinds, -1) : dict_has(d, "path");

    if (kind < 0)
        dict_refuse(d, "Parameter 'server.type' is missing");
    if (kind == 1) {
        ret->kind = STREAM_UNIX;
        ret->path = g_strdup(dict_str(d, "path"));
    } else {
        ret->kind = STREAM_INET;
        ret->host = g_strdup(dict_str(d, "host"));
        ret->port = g_strdup(dict_str(d, "port"));
        if (!ret->port && (!server || !ret->host))
            ret->port = g_strdup_printf("%d", NBD_PORT);
    }
    if (server && !dict_done(d, "nbd: server", error))
        return false;
    if (kind == 1 ? !ret->path : !ret->host || !ret->port)
        return fail(error, ERR_ARGUMENT, "nbd: %s",
                    kind == 1 ? "the path of the server's socket is missing"
                              : "host or port of the server are missing");
    return true;
}

static void nbd_free(struct nbd *s)
{
    nbd_link_close(&s->link);
    if (s->teller) {
        pthread_mutex_lock(&s->told_lock);
        s->over = true;
        pthread_cond_signal(&s->told);
        pthread_mutex_unlock(&s->told_lock);
        pthread_join(s->teller, NULL);
    }
    pthread_cond_destroy(&s->told);
    pthread_mutex_destroy(&s->told_lock);
    ranges_clear(&s->ranges);
    pthread_mutex_destroy(&s->lock);
}

static bool take_options(struct nbd *s, struct dict *o, const struct open_how *how,
                         GError **error)
{
    struct nbd_link *l = &s->link;
    const char *name = dict_str(o, "export"), *creds = dict_str(o, "tls-creds");
    const char *hostname = dict_str(o, "tls-hostname");
    const char *bitmap = dict_str(o, "x-dirty-bitmap");
    bool tls = dict_bool(o, "tls", false);

    l->name = g_strdup(name ? name : "");
    l->context = g_strdup(bitmap ? bitmap : "base:allocation");
    l->reconnect_ms = (u32)dict_num(o, "reconnect-delay", 0, 0, SECONDS_MAX) * 1000;
    l->open_ms = (u32)dict_num(o, "open-timeout", 0, 0, SECONDS_MAX) * 1000;
    l->silence_ms = SILENCE_MS;
    l->want_write = how->write;
    if (!take_address(o, &l->address, error))
        return false;
    if (strlen(l->name) > NBD_NAME_MAX || strlen(l->context) > NBD_NAME_MAX)
        return fail(error, ERR_ARGUMENT, "nbd: the export's name is too long");
    if (creds)
        l->tls = tls_creds_find(creds, false, error);
    else if (tls)
        l->tls = tls_creds_system(error);
    if (l->tls)
        l->hostname = g_strdup(hostname                         ? hostname
                               : l->address.kind == STREAM_INET ? l->address.host
                                                                : NULL);
    return l->tls || !(creds || tls);
}

static bool start_teller(struct nbd *s, GError **error)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&s->teller, NULL, tell, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r)
        s->teller = 0;
    return !r || fail_errno(error, r, "no thread for the NBD client");
}

static bool nbd_open(struct node *n, struct dict *o, const struct open_how *how, GError **error)
{
    struct nbd *s = nbd_of(n);
    struct nbd_link *l = &s->link;

    nbd_link_init(l);
    pthread_mutex_init(&s->lock, NULL);
    ranges_init(&s->ranges);
    pthread_mutex_init(&s->told_lock, NULL);
    pthread_cond_init(&s->told, NULL);
    s->last_done = &s->done;
    bool ok = take_options(s, o, how, error);
    if (ok) {
        g_free(n->filename);
        n->filename = describe(l);
        l->title = n->filename;
        ok = nbd_link_open(l, error);
        if (!ok)
            g_prefix_error(error, "%s: ", n->filename);
    }
    if (ok && how->write && l->info.flags & NBD_FLAG_READ_ONLY)
        ok = fail(error, ERR_IO, "%s: the server's export is read-only", n->filename);
    if (ok && dict_has(o, "x-dirty-bitmap") && !l->info.has_context)
        ok = fail(error, ERR_NOT_FOUND, "%s: the server has no '%s'", n->filename, l->context);
    ok = ok && start_teller(s, error);
    if (!ok) {
        nbd_free(s);
        return false;
    }
    n->size = l->info.size;
    return true;
}

static void nbd_close(struct node *n)
{
    nbd_free(nbd_of(n));
}

/* --- names -----------------------------------------------------------------------------------
 */

static bool bad_name(const char *name, GError **error)
{
    return fail(error, ERR_ARGUMENT, "'%s' is no name of an NBD export", name);
}

static bool parse_uri(const char *name, struct dict *d, GError **error)
{
    g_autoptr(GUri) uri = g_uri_parse(name, G_URI_FLAGS_NONE, error);

    if (!uri)
        return false;
    const char *scheme = g_uri_get_scheme(uri), *path = g_uri_get_path(uri);
    const char *host = g_uri_get_host(uri);
    g_autofree char *port = g_strdup_printf("%d", g_uri_get_port(uri));
    g_autoptr(GHashTable) query = NULL;

    if (g_uri_get_query(uri)) {
        query = g_uri_parse_params(g_uri_get_query(uri), -1, "&;", G_URI_PARAMS_NONE, error);
        if (!query)
            return false;
    }
    const char *socket = query ? g_hash_table_lookup(query, "socket") : NULL;
    bool local = g_str_has_suffix(scheme, "+unix");
    if (local != (socket != NULL) || (query && g_hash_table_size(query) != (local ? 1u : 0u)) ||
        (local && host && *host))
        return bad_name(name, error);
    if (g_str_has_prefix(scheme, "nbds"))
        dict_set(d, "tls", "on");
    dict_set(d, "server.type", local ? "unix" : "inet");
    if (local) {
        dict_set(d, "server.path", socket);
    } else {
        dict_set(d, "server.host", host && *host ? host : "localhost");
        dict_set(d, "server.port", g_uri_get_port(uri) > 0 ? port : "10809");
    }
    dict_set(d, "export", *path == '/' ? path + 1 : path);
    return true;
}

/* After "nbd:". */
static bool parse_legacy(const char *name, struct dict *d, GError **error)
{
    static const char mark[] = ":exportname=";
    const char *rest = name + 4, *export = strstr(rest, mark);
    g_autofree char *where = export ? g_strndup(rest, (gsize)(export - rest)) : g_strdup(rest);

    dict_set(d, "export", export ? export + strlen(mark) : "");
    if (g_str_has_prefix(where, "unix:")) {
        if (!where[5])
            return bad_name(name, error);
        dict_set(d, "server.type", "unix");
        dict_set(d, "server.path", where + 5);
        return true;
    }
    char *host = where, *port = strrchr(where, ':');
    if (!port || port == where || !port[1])
        return bad_name(name, error);
    *port++ = 0;
    if (*host == '[' && host[strlen(host) - 1] == ']') {
        host[strlen(host) - 1] = 0;
        host++;
    }
    dict_set(d, "server.type", "inet");
    dict_set(d, "server.host", host);
    dict_set(d, "server.port", port);
    return true;
}

static bool nbd_parse(const char *name, struct dict *d, GError **error)
{
    return strstr(name, "://") ? parse_uri(name, d, error) : parse_legacy(name, d, error);
}

static const char *const prefixes[] = { "nbd:",      "nbds:",      "nbd+tcp:", "nbds+tcp:",
                                        "nbd+unix:", "nbds+unix:", NULL };

const struct driver proto_nbd = {
    .name = "nbd",
    .kind = PROTOCOL,
    .size = sizeof(struct nbd),
    .prefixes = prefixes,
    .parse = nbd_parse,
    .open = nbd_open,
    .close = nbd_close,
    .read = nbd_read,
    .write = nbd_write,
    .zero = nbd_zero,
    .discard = nbd_discard,
    .flush = nbd_flush,
    .status = nbd_status,
    .start = nbd_start,
    .set_writable = nbd_set_writable,
};
