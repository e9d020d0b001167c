// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_crypt.c - encrypted images (the specification's "Data encryption"): LUKS, with its
 * header in clusters that a header extension names, and sectors numbered by where they lie in
 * the file; and the old AES-128-CBC, whose key is the password and whose sectors are numbered
 * by where the guest sees them.  Metadata is not encrypted, nor are compressed clusters.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "image/crypt_io.h"
#include "image/format/qcow2.h"

enum { AES_KEY = 16 };

static const char *const formats[] = { [CRYPT_AES] = "aes", [CRYPT_LUKS] = "luks" };

static struct luks_place place(struct qcow2 *q)
{
    return (struct luks_place){ q->node.file, q->crypt_at, q->crypt_len };
}

struct crypt *qcow2_crypt_aes(const char *id, GError **error)
{
    static const struct crypt_spec spec = { .cipher = CRYPT_AES_128,
                                            .mode = CRYPT_CBC,
                                            .ivgen = CRYPT_PLAIN64 };
    SECRET_AUTO secret = { 0 };
    u8 key[CRYPT_KEY_MAX] = { 0 };

    if (!id) {
        fail(error, ERR_ARGUMENT, "Parameter 'encrypt.key-secret' is required for cipher");
        return NULL;
    }
    if (!secret_get_utf8(id, &secret, error))
        return NULL;
    memcpy(key, secret.p, MIN(secret.n, AES_KEY));
    struct crypt *c = crypt_new(&spec, key, error);
    secret_wipe(key, sizeof key);
    return c;
}

static bool find_header(struct qcow2 *q, GError **error)
{
    for (guint i = 0; i < q->extensions->len; i++) {
        const struct qcow2_extension *e = q->extensions->pdata[i];
        be64 v[2];

        if (e->type != EXT_CRYPTO)
            continue;
        if (e->len != sizeof v)
            return fail(error, ERR_FORMAT,
                        "image '%s': CRYPTO header extension size %u, but expected size %zu",
                        q->node.filename, e->len, sizeof v);
        memcpy(v, e->data, sizeof v);
        q->crypt_at = be64_get(v[0]);
        q->crypt_len = be64_get(v[1]);
        if (q->crypt_at % q->cluster || q->crypt_at > INT64_MAX || q->crypt_len > INT64_MAX)
            return fail(error, ERR_FORMAT,
                        "image '%s': Encryption header offset '%" G_GUINT64_FORMAT
                        "' is not a multiple of cluster size '%" G_GUINT64_FORMAT "'",
                        q->node.filename, q->crypt_at, q->cluster);
        return true;
    }
    return fail(error, ERR_FORMAT, "image '%s': Missing CRYPTO header for crypt method 2",
                q->node.filename);
}

bool qcow2_crypt_open(struct qcow2 *q, struct dict *o, const struct open_how *how,
                      GError **error)
{
    const char *format = dict_str(o, "encrypt.format");
    u32 method = q->crypt_method;

    if (!method)
        return !format || fail(error, ERR_ARGUMENT,
                               "No encryption in image header, but options specified format "
                               "'%s'",
                               format);
    if (method > CRYPT_LUKS)
        return fail(error, ERR_UNSUPPORTED, "image '%s': Unsupported encryption method %u",
                    q->node.filename, method);
    if (format && strcmp(format, formats[method]) != 0)
        return fail(error, ERR_ARGUMENT,
                    "Header reported '%s' encryption format but options specify '%s'",
                    formats[method], format);
    q->secret_id = g_strdup(dict_str(o, "encrypt.key-secret"));
    struct luks_place p = { NULL };
    if (method == CRYPT_LUKS) {
        if (!find_header(q, error))
            return false;
        p = place(q);
        if (!luks_load(&p, &q->luks, error))
            return false;
    }
    if (how->no_io && !how->write)
        return true;
    q->crypt = method == CRYPT_LUKS
                   ? luks_unlock(&q->luks, &p, q->secret_id, "encrypt.key-secret", error)
                   : qcow2_crypt_aes(q->secret_id, error);
    return q->crypt;
}

void qcow2_crypt_close(struct qcow2 *q)
{
    crypt_free(q->crypt);
    g_free(q->secret_id);
}

static u64 iv_at(const struct qcow2 *q, u64 at, u64 host)
{
    return q->crypt_method == CRYPT_LUKS ? host : at;
}

int qcow2_data_read(struct qcow2 *q, u64 at, u64 host, u64 len, struct cursor *c)
{
    if (!q->crypt_method)
        return node_read(qcow2_data(q), host, len, c);
    return q->crypt ? crypt_read(q->crypt, qcow2_data(q), host, iv_at(q, at, host), len, c)
                    : -EIO;
}

int qcow2_data_write(struct qcow2 *q, u64 at, u64 host, u64 len, struct cursor *c)
{
    if (!q->crypt_method)
        return node_write(qcow2_data(q), host, len, c);
    return q->crypt ? crypt_write(q->crypt, qcow2_data(q), host, iv_at(q, at, host), len, c)
                    : -EIO;
}

void qcow2_crypt_describe(const struct qcow2 *q, GPtrArray *to)
{
    if (!q->crypt_method)
        return;
    struct image_detail *d = image_detail_new(to, "encrypt", DETAIL_DICT);
    if (q->crypt_method == CRYPT_LUKS)
        luks_describe(&q->luks, true, d->members);
    else
        image_detail_str(d->members, "format", "aes");
}

bool qcow2_crypt_amend(struct qcow2 *q, struct dict *o, bool force, GError **error)
{
    g_autodict e = dict_take(o, "encrypt");

    if (!e)
        return true;
    if (!q->crypt_method)
        return fail(error, ERR_ARGUMENT,
                    "Can not amend encryption options - encryption not present");
    if (q->crypt_method != CRYPT_LUKS)
        return fail(error, ERR_UNSUPPORTED,
                    "Only LUKS encryption options can be amended for qcow2 with amend command");
    const char *format = dict_str(e, "format");
    if (format && strcmp(format, "luks") != 0)
        return fail(error, ERR_UNSUPPORTED, "Changing the encryption format is not supported");
    struct luks_place p = place(q);
    return luks_amend(&q->luks, &p, e, "", q->secret_id, force, error) &&
           dict_done(e, "encrypt", error);
}

bool qcow2_crypt_options(struct dict *o, struct qcow2_crypt_new *n, GError **error)
{
    const char *format = dict_str(o, "encrypt.format");
    bool old = dict_bool(o, "encryption", false);

    *n = (struct qcow2_crypt_new){ 0 };
    if (dict_has(o, "encryption") && format)
        return fail(error, ERR_ARGUMENT,
                    "'encrypt.format' and its alias 'encryption' can't be used at the same "
                    "time");
    if (!format && !old) {
        g_autodict rest = dict_take(o, "encrypt");

        return !rest || fail(error, ERR_ARGUMENT, "Parameter 'encrypt.format' is missing");
    }
    n->method = old || !strcmp(format, "aes") ? CRYPT_AES
                : !strcmp(format, "luks")     ? CRYPT_LUKS
                                              : 0;
    if (!n->method)
        return fail(error, ERR_ARGUMENT, "Parameter 'format' does not accept value '%s'",
                    format);
    if (n->method == CRYPT_LUKS)
        return luks_new_options(o, "encrypt.", &n->luks, error);
    n->luks.secret_id = dict_str(o, "encrypt.key-secret");
    struct crypt *c = qcow2_crypt_aes(n->luks.secret_id, error);
    crypt_free(c);
    return c;
}
