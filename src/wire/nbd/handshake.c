// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * handshake.c - see handshake.h.  doc/proto.md of the nbd project, "Handshake phase".
 *
 *   server: NBDMAGIC, cliserv magic, size, flags                      oldstyle: that was all
 *   server: NBDMAGIC, IHAVEOPT, flags   client: flags                 newstyle
 *   client: STARTTLS, STRUCTURED_REPLY, SET_META_CONTEXT, GO ...      fixed newstyle
 *   client: EXPORT_NAME                 server: size, flags, zeroes   where there is no GO
 */
#include "wire/nbd/handshake.h"

#include <string.h>

#include "base/error.h"
#include "wire/nbd/nbd.h"

enum {
    REPLIES_MAX = 10000,
    BLOCK_MAX = 64 << 10,
    MESSAGE_MAX = 4096,
    TALK_MAX = 16 << 20, /* bytes of all answers together */
};

struct talk {
    struct stream *s;
    const struct stream_limit *limit;
    GError **error;
    u32 heard; /* bytes */
};

static bool take(struct talk *t, void *to, size_t n)
{
    return stream_read_all(t->s, to, n, t->limit, t->error);
}

static bool give(struct talk *t, const void *from, size_t n)
{
    return stream_write_all(t->s, from, n, t->limit, t->error);
}

static bool send_option(struct talk *t, u32 option, const void *data, size_t n)
{
    struct nbd_option h = { be64_of(NBD_OPTS_MAGIC), be32_of(option), be32_of((u32)n) };
    g_autofree u8 *all = g_malloc(sizeof h + n);

    memcpy(all, &h, sizeof h);
    if (n)
        memcpy(all + sizeof h, data, n);
    return give(t, all, sizeof h + n);
}

/* A reply's data end with a zero byte that is not counted, so that text can be read as such. */
struct reply {
    u32 type, len;
    u8 *data; /* g_free */
};

static bool take_reply(struct talk *t, u32 option, struct reply *ret)
{
    struct nbd_option_reply h;

    g_clear_pointer(&ret->data, g_free);
    if (!take(t, &h, sizeof h))
        return false;
    if (be64_get(h.magic) != NBD_REP_MAGIC || be32_get(h.option) != option)
        return fail(t->error, ERR_FORMAT, "the server's reply to an option is none");
    ret->type = be32_get(h.type);
    ret->len = be32_get(h.len);
    if (ret->len > NBD_OPT_DATA_MAX || (t->heard += ret->len + sizeof h) > TALK_MAX)
        return fail(t->error, ERR_LIMIT, "the server says too much before it begins");
    ret->data = g_malloc0(ret->len + 1);
    return take(t, ret->data, ret->len);
}

static bool refused(struct talk *t, const struct reply *r, const char *what)
{
    static const char *const why[] = {
        "",
        "unsupported",
        "denied by policy",
        "invalid",
        "not available on its platform",
        "the server wants TLS",
        "the export is unknown",
        "the server is shutting down",
        "the server wants block sizes to be asked for",
        "too big",
    };
    u32 code = r->type & ~NBD_REP_ERR;
    g_autofree char *said = g_utf8_make_valid((char *)r->data, MIN(r->len, MESSAGE_MAX));

    return fail(t->error, code == 6 ? ERR_NOT_FOUND : ERR_FAILED, "%s: %s%s%s", what,
                code < ARRAY_LEN(why) ? why[code] : "refused", *said ? ": " : "",
                g_strdelimit(said, "\n\r", ' '));
}

/* An option that is answered by one ACK, or not known (*ret_known). */
static bool simple_option(struct talk *t, u32 option, const char *what, bool *ret_known)
{
    struct reply r = { 0 };
    bool ok = send_option(t, option, NULL, 0) && take_reply(t, option, &r);

    if (ok && r.type != NBD_REP_ACK && !(r.type & NBD_REP_ERR))
        ok = fail(t->error, ERR_FORMAT, "%s: an answer out of place (%u)", what, r.type);
    else if (ok && r.type == NBD_REP_ERR_TLS_REQD)
        ok = refused(t, &r, what);
    else if (ok)
        *ret_known = r.type == NBD_REP_ACK;
    g_free(r.data);
    return ok;
}

static void put_text(GByteArray *a, const char *text)
{
    be32 n = be32_of((u32)strlen(text));

    g_byte_array_append(a, (u8 *)&n, sizeof n);
    g_byte_array_append(a, (const u8 *)text, (guint)strlen(text));
}

static void put32(GByteArray *a, u32 v)
{
    be32 b = be32_of(v);

    g_byte_array_append(a, (u8 *)&b, sizeof b);
}

static u32 get32(const u8 *p)
{
    be32 v;

    memcpy(&v, p, sizeof v);
    return be32_get(v);
}

/* context NULL: all that there are (LIST); names: they are added there, if not NULL. */
static bool meta_contexts(struct talk *t, u32 option, const char *name, const char *context,
                          struct nbd_export_info *info, GPtrArray *names)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    struct reply r = { 0 };

    put_text(a, name);
    put32(a, context ? 1 : 0);
    if (context)
        put_text(a, context);
    bool ok = send_option(t, option, a->data, a->len);
    for (u32 i = 0; ok; i++) {
        ok = take_reply(t, option, &r);
        if (!ok || r.type == NBD_REP_ACK || (r.type & NBD_REP_ERR))
            break; /* without, if the server does not want to */
        if (r.type != NBD_REP_META_CONTEXT || r.len < 4 || i >= REPLIES_MAX) {
            ok = fail(t->error, ERR_FORMAT, "metadata contexts: an answer out of place");
        } else if (names) {
            g_ptr_array_add(names, g_utf8_make_valid((char *)r.data + 4, r.len - 4));
        } else if (strlen(context) == r.len - 4 && !memcmp(r.data + 4, context, r.len - 4)) {
            info->context = get32(r.data);
            info->has_context = true;
        }
    }
    g_free(r.data);
    return ok;
}

static bool check_info(struct talk *t, struct nbd_export_info *i)
{
    if (i->size > INT64_MAX)
        return fail(t->error, ERR_FORMAT, "the export is too large");
    if (!(i->flags & NBD_FLAG_HAS_FLAGS))
        i->flags = 0;
    if (!i->has_block_size) {
        i->min = 1;
        i->preferred = 4096;
        i->max = NBD_PAYLOAD_MAX;
    }
    if (!i->min || i->min & (i->min - 1) || i->min > BLOCK_MAX || i->max < i->min ||
        i->preferred < i->min)
        return fail(t->error, ERR_FORMAT, "the server's block sizes are none (%u, %u, %u)",
                    i->min, i->preferred, i->max);
    i->max = MIN(i->max, NBD_PAYLOAD_MAX) & ~(i->min - 1);
    return true;
}

static bool take_info(struct talk *t, const struct reply *r, struct nbd_export_info *info,
                      bool *has_export, char **description)
{
    be16 type, flags;
    be64 size;

    if (r->len < 2)
        return fail(t->error, ERR_FORMAT, "the server's information is cut short");
    memcpy(&type, r->data, 2);
    switch (be16_get(type)) {
    case NBD_INFO_EXPORT:
        if (r->len != 12)
            return fail(t->error, ERR_FORMAT, "the server's information has a wrong length");
        memcpy(&size, r->data + 2, 8);
        memcpy(&flags, r->data + 10, 2);
        info->size = be64_get(size);
        info->flags = be16_get(flags);
        *has_export = true;
        return true;
    case NBD_INFO_BLOCK_SIZE:
        if (r->len != 14)
            return fail(t->error, ERR_FORMAT, "the server's information has a wrong length");
        info->min = get32(r->data + 2);
        info->preferred = get32(r->data + 6);
        info->max = get32(r->data + 10);
        info->has_block_size = true;
        return true;
    case NBD_INFO_DESCRIPTION:
        if (description) {
            g_free(*description);
            *description = g_utf8_make_valid((char *)r->data + 2, r->len - 2);
        }
        return true;
    default:
        return true; /* whatever else it tells */
    }
}

/* INFO or GO.  *ret_known: the server knows the option. */
static bool ask_info(struct talk *t, u32 option, const char *name, struct nbd_export_info *info,
                     char **description, bool *ret_known)
{
    g_autoptr(GByteArray) a = g_byte_array_new();
    be16 wants[] = { be16_of(description ? 2 : 1), be16_of(NBD_INFO_BLOCK_SIZE),
                     be16_of(NBD_INFO_DESCRIPTION) };
    struct reply r = { 0 };
    bool has_export = false;

    *ret_known = true;
    put_text(a, name);
    g_byte_array_append(a, (u8 *)wants, description ? 6 : 4);
    bool ok = send_option(t, option, a->data, a->len);
    for (u32 i = 0; ok; i++) {
        ok = take_reply(t, option, &r);
        if (!ok || r.type == NBD_REP_ACK)
            break;
        if (r.type == NBD_REP_ERR_UNSUP) {
            *ret_known = false;
            break;
        }
        if (r.type & NBD_REP_ERR) {
            g_autofree char *what = g_strdup_printf("export '%s'", name);
            ok = refused(t, &r, what);
        } else if (r.type != NBD_REP_INFO || i >= 100) {
            ok = fail(t->error, ERR_FORMAT, "export: an answer out of place");
        } else {
            ok = take_info(t, &r, info, &has_export, description);
        }
    }
    g_free(r.data);
    if (ok && *ret_known && !has_export)
        return fail(t->error, ERR_FORMAT, "the server does not tell the export's size");
    return ok && (!*ret_known || check_info(t, info));
}

static bool export_name(struct talk *t, const char *name, bool zeroes,
                        struct nbd_export_info *info)
{
    struct {
        be64 size;
        be16 flags;
        u8 zero[124];
    } __attribute__((packed)) h;

    if (!send_option(t, NBD_OPT_EXPORT_NAME, name, strlen(name)))
        return false;
    if (!take(t, &h, zeroes ? sizeof h : 10)) {
        g_prefix_error(t->error, "the server may not have the export '%s': ", name);
        return false;
    }
    info->size = be64_get(h.size);
    info->flags = be16_get(h.flags);
    return check_info(t, info);
}

enum style { OLDSTYLE, NEWSTYLE, FIXED };

/* As far as the options: *ret_zeroes: EXPORT_NAME's answer is padded. */
static bool greet(struct talk *t, const struct nbd_ask *ask, enum style *ret_style,
                  bool *ret_zeroes, struct nbd_export_info *info)
{
    be64 magic[2];
    be16 flags;

    if (!take(t, magic, sizeof magic))
        return false;
    if (be64_get(magic[0]) != NBD_MAGIC)
        return fail(t->error, ERR_FORMAT, "this is no NBD server");
    if (be64_get(magic[1]) == NBD_OLDSTYLE_MAGIC) {
        struct {
            be64 size;
            be16 global, flags;
            u8 zero[124];
        } __attribute__((packed)) old;

        if (ask->tls || (ask->name && *ask->name))
            return fail(t->error, ERR_UNSUPPORTED,
                        "the server is an old one (no names of exports, no TLS)");
        *ret_style = OLDSTYLE;
        if (!take(t, &old, sizeof old))
            return false;
        info->size = be64_get(old.size);
        info->flags = be16_get(old.flags);
        return check_info(t, info);
    }
    if (be64_get(magic[1]) != NBD_OPTS_MAGIC)
        return fail(t->error, ERR_FORMAT, "this is no NBD server");
    if (!take(t, &flags, sizeof flags))
        return false;
    u16 f = be16_get(flags);
    bool fixed = f & NBD_FLAG_FIXED_NEWSTYLE, no_zeroes = f & NBD_FLAG_NO_ZEROES;
    be32 mine =
        be32_of((fixed ? NBD_FLAG_FIXED_NEWSTYLE : 0u) | (no_zeroes ? NBD_FLAG_NO_ZEROES : 0u));
    *ret_style = fixed ? FIXED : NEWSTYLE;
    *ret_zeroes = !no_zeroes;
    if (ask->tls && !fixed)
        return fail(t->error, ERR_UNSUPPORTED, "the server is an old one (no TLS)");
    return give(t, &mine, sizeof mine);
}

static bool start_tls(struct talk *t, const struct nbd_ask *ask)
{
    bool known;

    if (!ask->tls)
        return true;
    if (!simple_option(t, NBD_OPT_STARTTLS, "TLS", &known))
        return false;
    if (!known)
        return fail(t->error, ERR_UNSUPPORTED, "the server has no TLS");
    return stream_start_tls(t->s, ask->tls, false, ask->hostname, t->error) &&
           stream_tls_all(t->s, t->limit, t->error);
}

bool nbd_handshake(struct stream *s, const struct nbd_ask *ask,
                   const struct stream_limit *limit, struct nbd_export_info *ret,
                   GError **error)
{
    GError *mine = NULL;
    struct talk t = { s, limit, &mine, 0 };
    struct nbd_export_info info = { 0 };
    enum style style = OLDSTYLE;
    bool zeroes = true, known = false;

    bool ok = greet(&t, ask, &style, &zeroes, &info);
    if (ok && style == FIXED)
        ok = start_tls(&t, ask) &&
             simple_option(&t, NBD_OPT_STRUCTURED_REPLY, "structured replies",
                           &info.structured) &&
             (!info.structured || !ask->context ||
              meta_contexts(&t, NBD_OPT_SET_META_CONTEXT, ask->name, ask->context, &info,
                            NULL)) &&
             ask_info(&t, NBD_OPT_GO, ask->name, &info, NULL, &known);
    if (ok && style != OLDSTYLE && !known)
        ok = export_name(&t, ask->name, zeroes, &info);
    if (ok)
        *ret = info;
    else
        g_propagate_error(error, mine);
    return ok;
}

/* --- what there is ---------------------------------------------------------------------------
 */

void nbd_listed_free(void *p)
{
    struct nbd_listed *l = p;

    g_free(l->name);
    g_free(l->description);
    g_ptr_array_unref(l->contexts);
    g_free(l);
}

static bool list_names(struct talk *t, GPtrArray *all)
{
    struct reply r = { 0 };
    bool ok = send_option(t, NBD_OPT_LIST, NULL, 0);

    for (u32 i = 0; ok; i++) {
        ok = take_reply(t, NBD_OPT_LIST, &r);
        if (!ok || r.type == NBD_REP_ACK)
            break;
        if (r.type & NBD_REP_ERR) {
            ok = refused(t, &r, "list of exports");
        } else if (r.type != NBD_REP_SERVER || r.len < 4 || get32(r.data) > r.len - 4 ||
                   i >= REPLIES_MAX) {
            ok = fail(t->error, ERR_FORMAT, "list of exports: an answer out of place");
        } else {
            struct nbd_listed *l = g_new0(struct nbd_listed, 1);
            u32 n = get32(r.data);

            l->name = g_strndup((char *)r.data + 4, n);
            if (r.len > 4 + n)
                l->description = g_strndup((char *)r.data + 4 + n, r.len - 4 - n);
            l->contexts = g_ptr_array_new_with_free_func(g_free);
            g_ptr_array_add(all, l);
        }
    }
    g_free(r.data);
    return ok;
}

GPtrArray *nbd_list(struct stream *s, const struct nbd_ask *ask,
                    const struct stream_limit *limit, GError **error)
{
    GError *mine = NULL;
    struct talk t = { s, limit, &mine, 0 };
    struct nbd_export_info info = { 0 };
    enum style style = OLDSTYLE;
    GPtrArray *all = g_ptr_array_new_with_free_func(nbd_listed_free);
    bool zeroes, known, structured = false;

    bool ok = greet(&t, ask, &style, &zeroes, &info);
    if (ok && style != FIXED)
        ok = fail(&mine, ERR_UNSUPPORTED, "the server is an old one: it cannot list exports");
    ok = ok && start_tls(&t, ask) &&
         simple_option(&t, NBD_OPT_STRUCTURED_REPLY, "structured replies", &structured) &&
         list_names(&t, all);
    for (guint i = 0; ok && i < all->len; i++) {
        struct nbd_listed *l = all->pdata[i];

        l->info.structured = structured;
        ok = ask_info(&t, NBD_OPT_INFO, l->name, &l->info, &l->description, &known) &&
             (!structured || !known ||
              meta_contexts(&t, NBD_OPT_LIST_META_CONTEXT, l->name, NULL, NULL, l->contexts));
    }
    if (ok) {
        struct nbd_option bye = { be64_of(NBD_OPTS_MAGIC), be32_of(NBD_OPT_ABORT), be32_of(0) };

        give(&t, &bye, sizeof bye); /* it may be gone already */
        g_clear_error(&mine);
        return all;
    }
    g_ptr_array_unref(all);
    g_propagate_error(error, mine);
    return NULL;
}
