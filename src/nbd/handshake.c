// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * handshake.c - the server's side of a handshake, fixed newstyle: doc/proto.md of the nbd
 * project.  The server's thread.
 */
#include <string.h>

#include "base/error.h"
#include "nbd/impl.h"

static void say(struct client *c, const void *a, size_t n_a, const void *b, size_t n_b)
{
    struct out *o = g_new0(struct out, 1);

    o->data = g_malloc(n_a + n_b);
    memcpy(o->data, a, n_a);
    if (n_b)
        memcpy(o->data + n_a, b, n_b);
    o->n_data = n_a + n_b;
    client_put(c, o);
}

static void reply(struct client *c, u32 option, u32 type, const void *data, size_t n)
{
    struct nbd_option_reply h = { be64_of(NBD_REP_MAGIC), be32_of(option), be32_of(type),
                                  be32_of((u32)n) };

    say(c, &h, sizeof h, data, n);
}

static void refuse(struct client *c, u32 option, u32 type, const char *why)
{
    reply(c, option, type, why, strlen(why));
}

void handshake_hello(struct client *c)
{
    struct {
        be64 magic, opts;
        be16 flags;
    } __attribute__((packed)) hello = { be64_of(NBD_MAGIC), be64_of(NBD_OPTS_MAGIC),
                                        be16_of(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES) };

    say(c, &hello, sizeof hello, NULL, 0);
}

s64 handshake_greeting(struct client *c, const u8 *p, u32 have)
{
    be32 flags;

    if (have < sizeof flags)
        return 0;
    memcpy(&flags, p, sizeof flags);
    c->fixed = be32_get(flags) & NBD_FLAG_FIXED_NEWSTYLE;
    c->no_zeroes = be32_get(flags) & NBD_FLAG_NO_ZEROES;
    if (be32_get(flags) & ~3u)
        return -1;
    c->state = OPTIONS;
    return sizeof flags;
}

/* --- reading an option's data ----------------------------------------------------------------
 */

struct text {
    const u8 *p;
    u32 len;
};

static bool take32(struct text *t, u32 *ret)
{
    be32 v;

    if (t->len < 4)
        return false;
    memcpy(&v, t->p, 4);
    t->p += 4;
    t->len -= 4;
    *ret = be32_get(v);
    return true;
}

/* A string with its length before it. */
static bool take_text(struct text *t, struct text *ret)
{
    u32 n;

    if (!take32(t, &n) || n > t->len || n > NBD_NAME_MAX)
        return false;
    *ret = (struct text){ t->p, n };
    t->p += n;
    t->len -= n;
    return true;
}

static bool is(const struct text *t, const char *word)
{
    return t->len == strlen(word) && !memcmp(t->p, word, t->len);
}

/* --- exports ---------------------------------------------------------------------------------
 */

static struct nbd_export *find(struct nbd_server *s, const char *name, u32 len)
{
    for (guint i = 0; i < s->exports->len; i++) {
        struct nbd_export *e = s->exports->pdata[i];

        if (!e->removed && strlen(e->name) == len && !memcmp(e->name, name, len))
            return e;
    }
    return NULL;
}

struct nbd_export *export_enter(struct nbd_server *s, const char *name, u32 len)
{
    pthread_mutex_lock(&s->lock);
    struct nbd_export *e = find(s, name, len);
    if (e)
        e->clients++;
    pthread_mutex_unlock(&s->lock);
    return e;
}

static void export_leave(struct nbd_export *e)
{
    pthread_mutex_lock(&e->server->lock);
    e->clients--;
    pthread_mutex_unlock(&e->server->lock);
    server_wake(e->server); /* it may have been removed meanwhile */
}

static s64 list(struct client *c)
{
    struct nbd_server *s = c->server;

    pthread_mutex_lock(&s->lock);
    for (guint i = 0; i < s->exports->len; i++) {
        struct nbd_export *e = s->exports->pdata[i];
        be32 n = be32_of((u32)strlen(e->name));
        const char *about = e->description ? e->description : "";

        if (e->removed)
            continue;
        g_autofree char *all = g_strdup_printf("1234%s%s", e->name, about);
        memcpy(all, &n, 4);
        reply(c, NBD_OPT_LIST, NBD_REP_SERVER, all, 4 + strlen(e->name) + strlen(about));
    }
    pthread_mutex_unlock(&s->lock);
    reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
    return 0;
}

static void begin(struct client *c, struct nbd_export *e)
{
    c->export = e;
    c->size = export_size(e);
    c->state = TRANSMISSION;
    if (!c->context_name || strcmp(c->context_name, e->name) != 0)
        memset(c->context, 0, sizeof c->context); /* chosen for another one */
}

static s64 export_name(struct client *c, const struct text *t)
{
    struct nbd_export *e = export_enter(c->server, (const char *)t->p, t->len);
    struct {
        be64 size;
        be16 flags;
        u8 zero[124];
    } __attribute__((packed)) a = { 0 };

    if (!e)
        return -1; /* there is no other way to say so */
    begin(c, e);
    a.size = be64_of(c->size);
    a.flags = be16_of(export_flags(c, e));
    say(c, &a, c->no_zeroes ? 10 : sizeof a, NULL, 0);
    return 0;
}

static void info_text(struct client *c, u32 option, u16 type, const char *text)
{
    g_autofree char *all = g_strdup_printf("12%s", text);
    be16 t = be16_of(type);

    memcpy(all, &t, 2);
    reply(c, option, NBD_REP_INFO, all, 2 + strlen(text));
}

static s64 info(struct client *c, u32 option, struct text t)
{
    struct text name;
    bool wants[4] = { false };

    if (!take_text(&t, &name) || t.len < 2 || t.len % 2)
        return refuse(c, option, NBD_REP_ERR_INVALID, "malformed"), 0;
    for (u32 i = 2; i < t.len; i += 2) {
        be16 want;

        memcpy(&want, t.p + i, 2);
        if (be16_get(want) < ARRAY_LEN(wants))
            wants[be16_get(want)] = true;
    }
    struct nbd_export *e = export_enter(c->server, (const char *)name.p, name.len);
    if (!e)
        return refuse(c, option, NBD_REP_ERR_UNKNOWN, "there is no such export"), 0;
    struct {
        be16 type;
        be64 size;
        be16 flags;
    } __attribute__((packed))
    x = { be16_of(NBD_INFO_EXPORT), be64_of(export_size(e)), be16_of(export_flags(c, e)) };
    struct {
        be16 type;
        be32 min, preferred, max;
    } __attribute__((packed))
    b = { be16_of(NBD_INFO_BLOCK_SIZE), be32_of(1), be32_of(4096), be32_of(NBD_PAYLOAD_MAX) };

    if (wants[NBD_INFO_NAME])
        info_text(c, option, NBD_INFO_NAME, e->name);
    if (wants[NBD_INFO_DESCRIPTION] && e->description)
        info_text(c, option, NBD_INFO_DESCRIPTION, e->description);
    if (wants[NBD_INFO_BLOCK_SIZE])
        reply(c, option, NBD_REP_INFO, &b, sizeof b);
    reply(c, option, NBD_REP_INFO, &x, sizeof x);
    if (option == NBD_OPT_GO)
        begin(c, e);
    else
        export_leave(e);
    reply(c, option, NBD_REP_ACK, NULL, 0);
    return 0;
}

/* --- metadata contexts -----------------------------------------------------------------------
 */

static char *context_of(const struct nbd_export *e, u32 i)
{
    switch (i) {
    case CONTEXT_BASE:
        return g_strdup("base:allocation");
    case CONTEXT_DEPTH:
        return e->depth ? g_strdup("qemu:allocation-depth") : NULL;
    default:
        return e->bitmap ? g_strdup_printf("qemu:dirty-bitmap:%s", e->bitmap) : NULL;
    }
}

/* Does the question name it: by its whole name, or (for lists) by its beginning? */
static bool asks_for(const struct text *q, const char *name, bool lists)
{
    if (is(q, name))
        return true;
    return lists && q->len && q->p[q->len - 1] == ':' && strlen(name) > q->len &&
           !memcmp(q->p, name, q->len);
}

static s64 contexts(struct client *c, u32 option, struct text t)
{
    bool lists = option == NBD_OPT_LIST_META_CONTEXT, found[CONTEXTS] = { false };
    struct text name, q;
    u32 n;

    if (!c->structured)
        return refuse(c, option, NBD_REP_ERR_INVALID, "structured replies come first"), 0;
    if (!take_text(&t, &name) || !take32(&t, &n))
        return refuse(c, option, NBD_REP_ERR_INVALID, "malformed"), 0;
    struct nbd_export *e = export_enter(c->server, (const char *)name.p, name.len);
    if (!e)
        return refuse(c, option, NBD_REP_ERR_UNKNOWN, "there is no such export"), 0;
    bool ok = true;
    for (u32 i = 0; i < CONTEXTS; i++)
        found[i] = lists && !n;
    for (u32 k = 0; k < n && ok; k++) { /* the data's end ends it */
        ok = take_text(&t, &q);
        for (u32 i = 0; ok && i < CONTEXTS; i++) {
            g_autofree char *own = context_of(e, i);
            if (own)
                found[i] |= asks_for(&q, own, lists);
        }
    }
    ok = ok && !t.len;
    for (u32 i = 0; i < CONTEXTS && ok; i++) {
        g_autofree char *own = context_of(e, i), *all = NULL;
        be32 id = be32_of(lists ? 0 : i);

        found[i] &= own != NULL;
        if (!found[i])
            continue;
        all = g_strdup_printf("1234%s", own);
        memcpy(all, &id, 4);
        reply(c, option, NBD_REP_META_CONTEXT, all, 4 + strlen(own));
    }
    if (!lists) {
        memset(c->context, 0, sizeof c->context);
        g_free(c->context_name);
        c->context_name = g_strdup(e->name);
    }
    if (!lists && ok)
        memcpy(c->context, found, sizeof found);
    export_leave(e);
    if (ok)
        reply(c, option, NBD_REP_ACK, NULL, 0);
    else
        refuse(c, option, NBD_REP_ERR_INVALID, "malformed");
    return 0;
}

/* --- options ---------------------------------------------------------------------------------
 */

static s64 start_tls(struct client *c, bool more)
{
    g_autoptr(GError) why = NULL;

    if (c->stream.tls || more)
        return -1; /* once; and what follows the option in the clear is not to be trusted */
    reply(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    pthread_mutex_lock(&c->lock);
    bool ok = !c->out && stream_start_tls(&c->stream, c->server->tls, true, NULL, &why);
    pthread_mutex_unlock(&c->lock);
    c->state = TLS;
    c->structured = false; /* nothing of before holds */
    return ok ? 0 : -1;
}

static s64 option(struct client *c, u32 opt, struct text t, bool more)
{
    bool bare = c->server->tls && !c->stream.tls;

    if (opt == NBD_OPT_ABORT) {
        reply(c, opt, NBD_REP_ACK, NULL, 0);
        return -1;
    }
    if (opt == NBD_OPT_EXPORT_NAME)
        return bare ? -1 : export_name(c, &t);
    if (!c->fixed)
        return -1;
    if (opt == NBD_OPT_STARTTLS && c->server->tls && !t.len)
        return start_tls(c, more);
    if (opt == NBD_OPT_STARTTLS)
        return refuse(c, opt, t.len ? NBD_REP_ERR_INVALID : NBD_REP_ERR_POLICY, "no TLS here"),
               0;
    if (bare)
        return refuse(c, opt, NBD_REP_ERR_TLS_REQD, "TLS comes first"), 0;
    switch (opt) {
    case NBD_OPT_LIST:
        return t.len ? refuse(c, opt, NBD_REP_ERR_INVALID, "malformed"), 0 : list(c);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return info(c, opt, t);
    case NBD_OPT_STRUCTURED_REPLY:
        if (t.len)
            return refuse(c, opt, NBD_REP_ERR_INVALID, "malformed"), 0;
        c->structured = true;
        reply(c, opt, NBD_REP_ACK, NULL, 0);
        return 0;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return contexts(c, opt, t);
    default:
        return refuse(c, opt, NBD_REP_ERR_UNSUP, "unknown option"), 0;
    }
}

s64 handshake_option(struct client *c, const u8 *p, u32 have)
{
    struct nbd_option h;

    if (c->out)
        return 0; /* he has to listen before he may say more */
    if (have < sizeof h)
        return 0;
    memcpy(&h, p, sizeof h);
    u32 len = be32_get(h.len);
    if (be64_get(h.magic) != NBD_OPTS_MAGIC || len > OPTION_MAX)
        return -1;
    if (have < sizeof h + len)
        return 0;
    struct text t = { p + sizeof h, len };
    s64 r = option(c, be32_get(h.option), t, have > sizeof h + len);
    return r < 0 ? r : (s64)(sizeof h + len);
}
