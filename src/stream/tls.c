// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tls.c - credentials and sessions by GnuTLS.  See tls.h, stream.h.
 *
 * Not done: authorization by the client's name (tls-authz).
 */
#include "stream/tls.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/secret.h"
#include "stream/tls_impl.h"

bool tls_creds_kind(const char *type)
{
    return !strcmp(type, "tls-creds-x509") || !strcmp(type, "tls-creds-psk") ||
           !strcmp(type, "tls-creds-anon");
}

char **tls_creds_prop(struct tls_creds_props *p, const char *name)
{
    const struct {
        const char *name;
        char **at;
    } all[] = {
        { "id", &p->id },
        { "dir", &p->dir },
        { "endpoint", &p->endpoint },
        { "verify-peer", &p->verify_peer },
        { "priority", &p->priority },
        { "passwordid", &p->passwordid },
        { "username", &p->username },
    };

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (!strcmp(all[i].name, name))
            return all[i].at;
    }
    return NULL;
}

void tls_creds_props_free(struct tls_creds_props *p)
{
    if (!p)
        return;
    g_free(p->id);
    g_free(p->dir);
    g_free(p->endpoint);
    g_free(p->verify_peer);
    g_free(p->priority);
    g_free(p->passwordid);
    g_free(p->username);
    g_free(p);
}

#ifdef HAVE_GNUTLS
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "base/library.h"

/* The library's functions; gnutls_load() finds them. */
#define GNUTLS_FUNCTIONS(X)                                                                    \
    X(anon_allocate_client_credentials)                                                        \
    X(anon_allocate_server_credentials)                                                        \
    X(anon_free_client_credentials)                                                            \
    X(anon_free_server_credentials)                                                            \
    X(anon_set_server_dh_params)                                                               \
    X(anon_set_server_known_dh_params)                                                         \
    X(bye)                                                                                     \
    X(certificate_allocate_credentials)                                                        \
    X(certificate_free_credentials)                                                            \
    X(certificate_server_set_request)                                                          \
    X(certificate_set_dh_params)                                                               \
    X(certificate_set_known_dh_params)                                                         \
    X(certificate_set_x509_crl_file)                                                           \
    X(certificate_set_x509_key_file2)                                                          \
    X(certificate_set_x509_system_trust)                                                       \
    X(certificate_set_x509_trust_file)                                                         \
    X(certificate_type_get)                                                                    \
    X(certificate_verification_status_print)                                                   \
    X(certificate_verify_peers3)                                                               \
    X(credentials_set)                                                                         \
    X(deinit)                                                                                  \
    X(dh_params_deinit)                                                                        \
    X(dh_params_import_pkcs3)                                                                  \
    X(dh_params_init)                                                                          \
    X(free)                                                                                    \
    X(handshake)                                                                               \
    X(handshake_set_timeout)                                                                   \
    X(init)                                                                                    \
    X(priority_set_direct)                                                                     \
    X(psk_allocate_client_credentials)                                                         \
    X(psk_allocate_server_credentials)                                                         \
    X(psk_free_client_credentials)                                                             \
    X(psk_free_server_credentials)                                                             \
    X(psk_set_client_credentials)                                                              \
    X(psk_set_server_credentials_file)                                                         \
    X(psk_set_server_dh_params)                                                                \
    X(psk_set_server_known_dh_params)                                                          \
    X(record_check_pending)                                                                    \
    X(record_get_direction)                                                                    \
    X(record_recv)                                                                             \
    X(record_send)                                                                             \
    X(server_name_set)                                                                         \
    X(strerror)                                                                                \
    X(transport_set_int2)
static struct {
#define X(f) __typeof__(gnutls_##f) *f;
    GNUTLS_FUNCTIONS(X)
#undef X
} tls;

static bool gnutls_load(GError **error)
{
    static const char *const names[] = { "libgnutls.so.30", NULL };
    static const struct library_symbol symbols[] = {
#define X(f) { "gnutls_" #f, &tls.f },
        GNUTLS_FUNCTIONS(X)
#undef X
            { NULL, NULL },
    };

    return library_load("TLS", names, symbols, error);
}

enum { RECORD = 16384, DH_FILE_MAX = 65536 };
enum kind { X509, PSK, ANON };

struct tls_creds {
    _Atomic u32 refs;
    char *id;
    enum kind kind;
    bool server, verify;
    char *priority;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_anon_server_credentials_t anon_server;
    gnutls_anon_client_credentials_t anon_client;
    gnutls_dh_params_t dh;
};

/* All that -object has made. */
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static GPtrArray *registry;

bool tls_built_in(void)
{
    return true;
}

struct tls_creds *tls_creds_ref(struct tls_creds *c)
{
    c->refs++;
    return c;
}

void tls_creds_unref(struct tls_creds *c)
{
    if (!c || --c->refs)
        return;
    if (c->x509)
        tls.certificate_free_credentials(c->x509);
    if (c->psk_server)
        tls.psk_free_server_credentials(c->psk_server);
    if (c->psk_client)
        tls.psk_free_client_credentials(c->psk_client);
    if (c->anon_server)
        tls.anon_free_server_credentials(c->anon_server);
    if (c->anon_client)
        tls.anon_free_client_credentials(c->anon_client);
    if (c->dh)
        tls.dh_params_deinit(c->dh);
    g_free(c->id);
    g_free(c->priority);
    g_free(c);
}

static bool gnutls_ok(int r, GError **error, const char *what, const char *name)
{
    return r >= 0 || fail(error, ERR_FAILED, "TLS: %s '%s': %s", what, name, tls.strerror(r));
}

static char *file_in(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS) ? g_steal_pointer(&path) : NULL;
}

static bool load_x509(struct tls_creds *c, const char *dir, const char *password,
                      GError **error)
{
    SECRET_AUTO pass = { 0 };
    g_autofree char *ca = file_in(dir, "ca-cert.pem"), *crl = file_in(dir, "ca-crl.pem");
    g_autofree char *cert = file_in(dir, c->server ? "server-cert.pem" : "client-cert.pem");
    g_autofree char *key = file_in(dir, c->server ? "server-key.pem" : "client-key.pem");

    if (password && !secret_get_utf8(password, &pass, error))
        return false;
    if (!ca && (!c->server || c->verify))
        return fail(error, ERR_NOT_FOUND, "TLS: there is no '%s/ca-cert.pem'", dir);
    if ((!cert || !key) && (c->server || cert || key))
        return fail(error, ERR_NOT_FOUND, "TLS: certificate and key of the %s are not in '%s'",
                    c->server ? "server" : "client", dir);
    if (!gnutls_ok(tls.certificate_allocate_credentials(&c->x509), error, "memory", dir))
        return false;
    if (ca && !gnutls_ok(tls.certificate_set_x509_trust_file(c->x509, ca, GNUTLS_X509_FMT_PEM),
                         error, "CA certificate", ca))
        return false;
    if (crl && !gnutls_ok(tls.certificate_set_x509_crl_file(c->x509, crl, GNUTLS_X509_FMT_PEM),
                          error, "CRL", crl))
        return false;
    return !cert || gnutls_ok(tls.certificate_set_x509_key_file2(
                                  c->x509, cert, key, GNUTLS_X509_FMT_PEM, (char *)pass.p, 0),
                              error, "certificate", cert);
}

/* Lines "user:hexadecimal key". */
static bool load_psk_client(struct tls_creds *c, const char *path, const char *user,
                            GError **error)
{
    g_autofree char *text = NULL;
    gsize n;

    if (!g_file_get_contents(path, &text, &n, error))
        return false;
    g_auto(GStrv) lines = g_strsplit(text, "\n", 1000);
    memset(text, 0, n);
    for (u32 i = 0; lines[i]; i++) {
        size_t len = strlen(user);

        if (strncmp(lines[i], user, len) != 0 || lines[i][len] != ':')
            continue;
        char *hex = g_strchomp(lines[i] + len + 1);
        gnutls_datum_t key = { (u8 *)hex, (unsigned)strlen(hex) };
        return gnutls_ok(
            tls.psk_set_client_credentials(c->psk_client, user, &key, GNUTLS_PSK_KEY_HEX),
            error, "key", path);
    }
    return fail(error, ERR_NOT_FOUND, "TLS: there is no key of '%s' in '%s'", user, path);
}

static bool load_psk(struct tls_creds *c, const char *dir, const char *user, GError **error)
{
    g_autofree char *path = g_build_filename(dir, "keys.psk", NULL);

    if (!c->server)
        return gnutls_ok(tls.psk_allocate_client_credentials(&c->psk_client), error, "memory",
                         dir) &&
               load_psk_client(c, path, user, error);
    return gnutls_ok(tls.psk_allocate_server_credentials(&c->psk_server), error, "memory",
                     dir) &&
           gnutls_ok(tls.psk_set_server_credentials_file(c->psk_server, path), error,
                     "key file", path);
}

static bool load_anon(struct tls_creds *c, GError **error)
{
    if (!c->server)
        return gnutls_ok(tls.anon_allocate_client_credentials(&c->anon_client), error, "memory",
                         "anon");
    return gnutls_ok(tls.anon_allocate_server_credentials(&c->anon_server), error, "memory",
                     "anon");
}

/* Parameters for DHE: from the file, else those that GnuTLS knows (RFC 7919). */
static bool load_dh(struct tls_creds *c, const char *dir, GError **error)
{
    g_autofree char *path = dir ? file_in(dir, "dh-params.pem") : NULL, *text = NULL;
    gsize n = 0;

    if (!path) {
        if (c->x509)
            tls.certificate_set_known_dh_params(c->x509, GNUTLS_SEC_PARAM_MEDIUM);
        if (c->psk_server)
            tls.psk_set_server_known_dh_params(c->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
        if (c->anon_server)
            tls.anon_set_server_known_dh_params(c->anon_server, GNUTLS_SEC_PARAM_MEDIUM);
        return true;
    }
    if (!g_file_get_contents(path, &text, &n, error))
        return false;
    if (n > DH_FILE_MAX)
        return fail(error, ERR_LIMIT, "TLS: '%s' is too long", path);
    gnutls_datum_t d = { (u8 *)text, (unsigned)n };
    if (!gnutls_ok(tls.dh_params_init(&c->dh), error, "memory", path) ||
        !gnutls_ok(tls.dh_params_import_pkcs3(c->dh, &d, GNUTLS_X509_FMT_PEM), error,
                   "DH parameters", path))
        return false;
    if (c->x509)
        tls.certificate_set_dh_params(c->x509, c->dh);
    if (c->psk_server)
        tls.psk_set_server_dh_params(c->psk_server, c->dh);
    if (c->anon_server)
        tls.anon_set_server_dh_params(c->anon_server, c->dh);
    return true;
}

static struct tls_creds *find(const char *id)
{
    for (guint i = 0; registry && i < registry->len; i++) {
        struct tls_creds *c = registry->pdata[i];

        if (!strcmp(c->id, id))
            return c;
    }
    return NULL;
}

/* Takes c on success. */
static bool enter(struct tls_creds *c, GError **error)
{
    pthread_mutex_lock(&registry_lock);
    bool ok = !find(c->id) && !secret_exists(c->id);
    if (!registry)
        registry = g_ptr_array_new();
    if (ok)
        g_ptr_array_add(registry, c);
    pthread_mutex_unlock(&registry_lock);
    return ok ||
           fail(error, ERR_ARGUMENT, "there is an object with the id '%s' already", c->id);
}

static bool on_off(const char *text, bool def, GError **error)
{
    if (text && strcmp(text, "on") != 0 && strcmp(text, "off") != 0 &&
        strcmp(text, "yes") != 0 && strcmp(text, "no") != 0)
        fail(error, ERR_ARGUMENT, "Parameter 'verify-peer' expects 'on' or 'off'");
    return text ? !strcmp(text, "on") || !strcmp(text, "yes") : def;
}

bool tls_creds_add(const char *type, const struct tls_creds_props *p, GError **error)
{
    if (!gnutls_load(error))
        return false;

    struct tls_creds *c = g_new0(struct tls_creds, 1);
    const char *end = p->endpoint;
    GError *why = NULL;

    c->refs = 1;
    c->kind = strcmp(type, "tls-creds-x509") == 0  ? X509
              : strcmp(type, "tls-creds-psk") == 0 ? PSK
                                                   : ANON;
    c->id = g_strdup(p->id ? p->id : "");
    c->server = end && !strcmp(end, "server");
    c->verify = on_off(p->verify_peer, true, &why);
    if (!*c->id)
        fail(&why, ERR_ARGUMENT, "Parameter 'id' is missing");
    else if (!why && end && !c->server && strcmp(end, "client") != 0)
        fail(&why, ERR_ARGUMENT, "Parameter 'endpoint' does not accept value '%s'", end);
    else if (!why && !p->dir && c->kind != ANON)
        fail(&why, ERR_ARGUMENT, "Parameter 'dir' is missing");
    else if (!why && (p->username ? c->kind != PSK : p->passwordid && c->kind != X509))
        fail(&why, ERR_ARGUMENT, "%s has no property '%s'", type,
             p->username ? "username" : "passwordid");
    c->priority = g_strdup_printf("%s%s", p->priority ? p->priority : "NORMAL",
                                  c->kind == PSK    ? ":+ECDHE-PSK:+DHE-PSK:+PSK"
                                  : c->kind == ANON ? ":+ANON-ECDH:+ANON-DH"
                                                    : "");
    bool ok = !why &&
              (c->kind == X509  ? load_x509(c, p->dir, p->passwordid, &why)
               : c->kind == PSK ? load_psk(c, p->dir, p->username ? p->username : "qemu", &why)
                                : load_anon(c, &why)) &&
              (!c->server || load_dh(c, p->dir, &why)) && enter(c, &why);
    if (!ok) {
        g_propagate_error(error, why);
        tls_creds_unref(c);
    }
    return ok;
}

GPtrArray *tls_creds_ids(GPtrArray **types)
{
    static const char *const names[] = { "tls-creds-x509", "tls-creds-psk", "tls-creds-anon" };
    GPtrArray *ids = g_ptr_array_new_with_free_func(g_free);

    if (types)
        *types = g_ptr_array_new_with_free_func(g_free);
    pthread_mutex_lock(&registry_lock);
    for (guint i = 0; registry && i < registry->len; i++) {
        const struct tls_creds *c = registry->pdata[i];

        g_ptr_array_add(ids, g_strdup(c->id));
        if (types)
            g_ptr_array_add(*types, g_strdup(names[c->kind]));
    }
    pthread_mutex_unlock(&registry_lock);
    return ids;
}

bool tls_creds_remove(const char *id)
{
    pthread_mutex_lock(&registry_lock);
    struct tls_creds *c = find(id);
    if (c)
        g_ptr_array_remove(registry, c);
    pthread_mutex_unlock(&registry_lock);
    tls_creds_unref(c);
    return c != NULL;
}

struct tls_creds *tls_creds_find(const char *id, bool server, GError **error)
{
    pthread_mutex_lock(&registry_lock);
    struct tls_creds *c = find(id);
    if (c)
        c->refs++;
    pthread_mutex_unlock(&registry_lock);
    if (!c) {
        fail(error, ERR_NOT_FOUND, "No TLS credentials with id '%s'", id);
    } else if (c->server != server) {
        fail(error, ERR_ARGUMENT, "Expecting TLS credentials with a %s endpoint",
             server ? "server" : "client");
        tls_creds_unref(c);
        c = NULL;
    }
    return c;
}

struct tls_creds *tls_creds_system(GError **error)
{
    if (!gnutls_load(error))
        return NULL;

    struct tls_creds *c = g_new0(struct tls_creds, 1);

    c->refs = 1;
    c->kind = X509;
    c->verify = true;
    c->priority = g_strdup("NORMAL");
    if (gnutls_ok(tls.certificate_allocate_credentials(&c->x509), error, "memory", "x509") &&
        gnutls_ok(tls.certificate_set_x509_system_trust(c->x509), error, "authorities",
                  "system"))
        return c;
    tls_creds_unref(c);
    return NULL;
}

/* --- sessions --------------------------------------------------------------------------------
 */

void tls_end(struct stream *s)
{
    if (s->tls) {
        tls.bye(s->tls, GNUTLS_SHUT_WR); /* as far as it goes without waiting */
        tls.deinit(s->tls);
    }
    s->tls = NULL;
}

bool stream_start_tls(struct stream *s, struct tls_creds *c, bool server, const char *hostname,
                      GError **error)
{
    const char *at;
    gnutls_session_t t;
    int r = tls.init(&t, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                             GNUTLS_NO_SIGNAL);

    if (!gnutls_ok(r, error, "session of", c->id ? c->id : "system"))
        return false;
    c->refs++;
    s->creds = c;
    s->tls = t;
    s->hostname = g_strdup(hostname);
    r = tls.priority_set_direct(t, c->priority, &at);
    if (r < 0)
        return fail(error, ERR_ARGUMENT, "TLS: priority '%s': %s", c->priority,
                    tls.strerror(r));
    if (c->x509)
        r = tls.credentials_set(t, GNUTLS_CRD_CERTIFICATE, c->x509);
    else if (c->kind == PSK)
        r = tls.credentials_set(t, GNUTLS_CRD_PSK,
                                server ? (void *)c->psk_server : (void *)c->psk_client);
    else
        r = tls.credentials_set(t, GNUTLS_CRD_ANON,
                                server ? (void *)c->anon_server : (void *)c->anon_client);
    if (!gnutls_ok(r, error, "credentials of", c->id ? c->id : "system"))
        return false;
    if (server && c->x509 && c->verify)
        tls.certificate_server_set_request(t, GNUTLS_CERT_REQUIRE);
    if (!server && hostname && *hostname && !g_hostname_is_ip_address(hostname))
        tls.server_name_set(t, GNUTLS_NAME_DNS, hostname, strlen(hostname));
    tls.handshake_set_timeout(t, 0); /* the callers have limits of their own */
    tls.transport_set_int2(t, s->fd, s->fd);
    return true;
}

static bool verified(struct stream *s, GError **error)
{
    struct tls_creds *c = s->creds;
    unsigned status = 0;

    if (!c->x509 || !c->verify)
        return true;
    int r = tls.certificate_verify_peers3(s->tls, s->hostname, &status);
    if (r < 0)
        return fail(error, ERR_FAILED, "TLS: the peer's certificate: %s", tls.strerror(r));
    if (!status)
        return true;
    gnutls_datum_t why = { 0 };
    tls.certificate_verification_status_print(status, tls.certificate_type_get(s->tls), &why,
                                              0);
    fail(error, ERR_FAILED, "TLS: the peer's certificate is refused: %s",
         why.data ? g_strchomp((char *)why.data) : "");
    (*tls.free)(why.data);
    return false;
}

int stream_tls_step(struct stream *s, short *ret_events, GError **error)
{
    int r;

    do
        r = tls.handshake(s->tls);
    while (r == GNUTLS_E_INTERRUPTED || r == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (r == GNUTLS_E_AGAIN) {
        *ret_events = tls.record_get_direction(s->tls) ? POLLOUT : POLLIN;
        return 0;
    }
    if (r < 0) {
        fail(error, ERR_FAILED, "TLS handshake failed: %s", tls.strerror(r));
        return -1;
    }
    if (!verified(s, error))
        return -1;
    s->tls_done = true;
    return 1;
}

ssize_t tls_recv(struct stream *s, void *to, size_t n)
{
    ssize_t r;

    do
        r = tls.record_recv(s->tls, to, n);
    while (r == GNUTLS_E_INTERRUPTED);
    if (r == GNUTLS_E_PREMATURE_TERMINATION)
        return 0;
    return r >= 0 ? r : r == GNUTLS_E_AGAIN ? -EAGAIN : -EIO;
}

ssize_t tls_send(struct stream *s, const struct iovec *v, int n)
{
    u8 all[RECORD];
    size_t len = 0;
    ssize_t r;

    /* What GnuTLS has already and could not send: its length is told when it is gone. */
    for (int i = 0; i < n && len < sizeof all && !s->tls_unsent; i++) {
        size_t part = MIN(v[i].iov_len, sizeof all - len);

        memcpy(all + len, v[i].iov_base, part);
        len += part;
    }
    if (!len && !s->tls_unsent)
        return 0;
    do
        r = tls.record_send(s->tls, s->tls_unsent ? NULL : all, len);
    while (r == GNUTLS_E_INTERRUPTED);
    s->tls_unsent = r == GNUTLS_E_AGAIN;
    return r >= 0 ? r : r == GNUTLS_E_AGAIN ? -EAGAIN : -EIO;
}

bool stream_buffered(const struct stream *s)
{
    return s->tls && tls.record_check_pending(s->tls) > 0;
}

#else

bool tls_built_in(void)
{
    return false;
}

static bool without(GError **error)
{
    return fail(error, ERR_UNSUPPORTED, "TLS is not built in (GnuTLS)");
}

bool tls_creds_add(const char *type UNUSED, const struct tls_creds_props *p UNUSED,
                   GError **error)
{
    return without(error);
}

GPtrArray *tls_creds_ids(GPtrArray **types)
{
    if (types)
        *types = g_ptr_array_new_with_free_func(g_free);
    return g_ptr_array_new_with_free_func(g_free);
}

bool tls_creds_remove(const char *id UNUSED)
{
    return false;
}

struct tls_creds *tls_creds_find(const char *id UNUSED, bool server UNUSED, GError **error)
{
    without(error);
    return NULL;
}

struct tls_creds *tls_creds_system(GError **error)
{
    without(error);
    return NULL;
}

struct tls_creds *tls_creds_ref(struct tls_creds *c)
{
    return c;
}

void tls_creds_unref(struct tls_creds *c UNUSED)
{
}

void tls_end(struct stream *s UNUSED)
{
}

bool stream_start_tls(struct stream *s UNUSED, struct tls_creds *c UNUSED, bool server UNUSED,
                      const char *hostname UNUSED, GError **error)
{
    return without(error);
}

int stream_tls_step(struct stream *s UNUSED, short *ret_events UNUSED, GError **error)
{
    without(error);
    return -1;
}

ssize_t tls_recv(struct stream *s UNUSED, void *to UNUSED, size_t n UNUSED)
{
    return -EIO;
}

ssize_t tls_send(struct stream *s UNUSED, const struct iovec *v UNUSED, int n UNUSED)
{
    return -EIO;
}

bool stream_buffered(const struct stream *s UNUSED)
{
    return false;
}
#endif
