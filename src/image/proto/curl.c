// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * curl.c - an image on a web or FTP server, to read: drivers "http", "https", "ftp", "ftps", by
 * libcurl.  Options as QEMU's BlockdevOptionsCurl.
 *
 * A few handles, each with the piece that it fetched last: who reads on finds it there, since
 * pieces are longer than what was asked for (readahead).  A server that sends more than it was
 * asked for, or something else than that range, fails the request.
 */
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/library.h"
#include "base/log.h"
#include "base/secret.h"
#include "image/drivers.h"

/* The library's functions; curl_load() finds them. */
#define CURL_FUNCTIONS(X)                                                                      \
    X(easy_cleanup)                                                                            \
    X(easy_getinfo)                                                                            \
    X(easy_init)                                                                               \
    X(easy_perform)                                                                            \
    X(easy_setopt)                                                                             \
    X(easy_strerror)                                                                           \
    X(global_init)
static struct {
#define X(f) __typeof__(curl_##f) *f;
    CURL_FUNCTIONS(X)
#undef X
} lib;

static bool curl_load(GError **error)
{
    static const char *const names[] = { "libcurl-gnutls.so.4", "libcurl.so.4", NULL };
    static const struct library_symbol symbols[] = {
#define X(f) { "curl_" #f, &lib.f },
        CURL_FUNCTIONS(X)
#undef X
            { NULL, NULL },
    };

    return library_load("libcurl", names, symbols, error);
}

enum {
    HANDLES = 8,
    PIECE_MAX = 1 << 20,
    READAHEAD = 256 << 10,
    TIMEOUT = 5, /* seconds */
    TIMEOUT_MAX = 10000,
    REDIRECTS = 10,
};

struct handle {
    CURL *curl;
    bool busy;
    u64 at;
    u32 len, want; /* bytes that are there; that are asked for */
    u64 used;      /* when it was, in reads */
    u8 *data;
};
struct web {
    struct node node;
    char *url, *cookie;
    struct secret_bytes secret_cookie;
    char *username, *proxy_username;
    struct secret_bytes password, proxy_password;
    bool verify, ranges;
    u32 timeout, readahead;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t free;
    u64 reads;
    bool told;
    struct handle handle[HANDLES];
};

static struct web *web_of(struct node *n)
{
    return container_of(n, struct web, node);
}

/* --- requests --------------------------------------------------------------------------------
 */

static size_t on_data(char *p, size_t size, size_t count, void *opaque)
{
    struct handle *h = opaque;
    size_t n = size * count;

    if (n > h->want - h->len)
        return 0; /* more than was asked for: that ends it */
    memcpy(h->data + h->len, p, n);
    h->len += (u32)n;
    return n;
}

/* A handle with all that does not change. NULL: libcurl cannot. */
static CURL *new_curl(struct web *w, const char *schemes)
{
    CURL *c = lib.easy_init();

    if (!c)
        return NULL;
    lib.easy_setopt(c, CURLOPT_URL, w->url);
    lib.easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    lib.easy_setopt(c, CURLOPT_FAILONERROR, 1L);
    lib.easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    lib.easy_setopt(c, CURLOPT_MAXREDIRS, (long)REDIRECTS);
    lib.easy_setopt(c, CURLOPT_TIMEOUT, (long)w->timeout);
    lib.easy_setopt(c, CURLOPT_SSL_VERIFYPEER, w->verify ? 1L : 0L);
    lib.easy_setopt(c, CURLOPT_SSL_VERIFYHOST, w->verify ? 2L : 0L);
    /* No file:, scp: or the like, wherever the server sends us. */
    if (lib.easy_setopt(c, CURLOPT_PROTOCOLS_STR, schemes) ||
        lib.easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, schemes)) {
        lib.easy_cleanup(c);
        return NULL;
    }
    if (w->secret_cookie.p || w->cookie)
        lib.easy_setopt(c, CURLOPT_COOKIE,
                        w->secret_cookie.p ? (char *)w->secret_cookie.p : w->cookie);
    if (w->username)
        lib.easy_setopt(c, CURLOPT_USERNAME, w->username);
    if (w->password.p)
        lib.easy_setopt(c, CURLOPT_PASSWORD, (char *)w->password.p);
    if (w->proxy_username)
        lib.easy_setopt(c, CURLOPT_PROXYUSERNAME, w->proxy_username);
    if (w->proxy_password.p)
        lib.easy_setopt(c, CURLOPT_PROXYPASSWORD, (char *)w->proxy_password.p);
    return c;
}

static bool is_http(const struct node *n)
{
    return g_str_has_prefix(n->drv->name, "http");
}

static const char *schemes_of(const struct node *n)
{
    return is_http(n) ? "http,https" : "ftp,ftps";
}

/* h->want bytes from h->at on: 0 or -errno. */
static int fetch(struct web *w, struct handle *h)
{
    char range[64];
    long code = 0;

    if (!h->curl && !(h->curl = new_curl(w, schemes_of(&w->node))))
        return -EIO;
    if (!h->data && !(h->data = g_try_malloc(PIECE_MAX)))
        return -ENOMEM;
    h->len = 0;
    g_snprintf(range, sizeof range, "%" G_GUINT64_FORMAT "-%" G_GUINT64_FORMAT, h->at,
               h->at + h->want - 1);
    lib.easy_setopt(h->curl, CURLOPT_RANGE, range);
    lib.easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_data);
    lib.easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    CURLcode r = lib.easy_perform(h->curl);
    lib.easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &code);
    bool whole = h->at == 0 && h->want == w->node.size;
    bool right = !is_http(&w->node) || code == 206 || (code == 200 && whole);
    if (!r && right && h->len == h->want)
        return 0;
    h->len = 0;
    pthread_mutex_lock(&w->lock);
    bool told = w->told;
    w->told = true;
    pthread_mutex_unlock(&w->lock);
    if (!told)
        log_warn("%s: reading: %s", w->node.filename,
                 r ? lib.easy_strerror(r) : "the server sends something else");
    return r == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -EIO;
}

/* One that has the byte, else the free one that was not used for longest. REQUIRES(w->lock) */
static struct handle *take(struct web *w, u64 at)
{
    for (;;) {
        struct handle *best = NULL;

        for (u32 i = 0; i < HANDLES; i++) {
            struct handle *h = &w->handle[i];

            if (h->busy)
                continue;
            if (h->len && at >= h->at && at < h->at + h->len)
                return h;
            if (!best || h->used < best->used)
                best = h;
        }
        if (best)
            return best;
        pthread_cond_wait(&w->free, &w->lock);
    }
}

static int web_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    struct web *w = web_of(n);
    int r = 0;

    while (len && !r) {
        pthread_mutex_lock(&w->lock);
        struct handle *h = take(w, at);
        h->busy = true;
        h->used = ++w->reads;
        pthread_mutex_unlock(&w->lock);
        if (!h->len || at < h->at || at >= h->at + h->len) {
            h->at = at;
            h->want = (u32)MIN(MIN(MAX(len, w->readahead), PIECE_MAX), n->size - at);
            r = fetch(w, h);
        }
        u64 part = r ? 0 : MIN(len, h->at + h->len - at);
        if (part)
            cursor_put(c, h->data + (at - h->at), part);
        pthread_mutex_lock(&w->lock);
        h->busy = false;
        pthread_cond_signal(&w->free);
        pthread_mutex_unlock(&w->lock);
        at += part;
        len -= part;
    }
    return r;
}

/* --- opening ---------------------------------------------------------------------------------
 */

static size_t on_header(char *p, size_t size, size_t count, void *opaque)
{
    static const char name[] = "accept-ranges:";
    struct web *w = opaque;
    size_t n = size * count;

    if (n > strlen(name) && !g_ascii_strncasecmp(p, name, strlen(name))) {
        g_autofree char *value = g_strndup(p + strlen(name), n - strlen(name));

        w->ranges = !g_ascii_strcasecmp(g_strstrip(value), "bytes");
    }
    return n;
}

static size_t on_nothing(char *p UNUSED, size_t size, size_t count, void *opaque UNUSED)
{
    return size * count; /* the answer to an FTP command */
}

static bool look(struct web *w, GError **error)
{
    struct node *n = &w->node;
    curl_off_t size = -1;
    CURL *c = new_curl(w, schemes_of(n));

    if (!c)
        return fail(error, ERR_FAILED, "CURL: libcurl cannot do %s", n->drv->name);
    lib.easy_setopt(c, CURLOPT_NOBODY, 1L);
    lib.easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    lib.easy_setopt(c, CURLOPT_HEADERDATA, w);
    lib.easy_setopt(c, CURLOPT_WRITEFUNCTION, on_nothing);
    CURLcode r = lib.easy_perform(c);
    if (!r)
        r = lib.easy_getinfo(c, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &size);
    lib.easy_cleanup(c);
    if (r)
        return fail(error, ERR_IO, "CURL: Error opening file '%s': %s", w->url,
                    lib.easy_strerror(r));
    if (size < 0)
        return fail(error, ERR_FORMAT, "CURL: '%s': the server does not tell the size", w->url);
    if (is_http(n) && !w->ranges && size)
        return fail(error, ERR_UNSUPPORTED,
                    "CURL: '%s': Server does not support 'range' (byte ranges).", w->url);
    n->size = (u64)size;
    return true;
}

static void web_free(struct web *w)
{
    for (u32 i = 0; i < HANDLES; i++) {
        if (w->handle[i].curl)
            lib.easy_cleanup(w->handle[i].curl);
        g_free(w->handle[i].data);
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->free);
    secret_bytes_clear(&w->secret_cookie);
    secret_bytes_clear(&w->password);
    secret_bytes_clear(&w->proxy_password);
    g_free(w->url);
    g_free(w->cookie);
    g_free(w->username);
    g_free(w->proxy_username);
}

static bool take_secret(struct dict *o, const char *key, struct secret_bytes *ret,
                        GError **error)
{
    const char *id = dict_str(o, key);

    return !id || secret_get_utf8(id, ret, error);
}

static void init(void)
{
    lib.global_init(CURL_GLOBAL_DEFAULT);
}

static bool web_open(struct node *n, struct dict *o, const struct open_how *how, GError **error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct web *w = web_of(n);
    const char *url = dict_str(o, "url");

    if (!curl_load(error))
        return false;
    pthread_once(&once, init);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->free, NULL);
    w->url = g_strdup(url ? url : "");
    w->cookie = g_strdup(dict_str(o, "cookie"));
    w->username = g_strdup(dict_str(o, "username"));
    w->proxy_username = g_strdup(dict_str(o, "proxy-username"));
    w->verify = dict_bool(o, "sslverify", true);
    w->timeout = (u32)dict_num(o, "timeout", TIMEOUT, 1, TIMEOUT_MAX);
    w->readahead = (u32)dict_size(o, "readahead", READAHEAD, PIECE_MAX);
    g_free(n->filename);
    n->filename = g_strdup(w->url);
    bool ok = true;
    if (how->write)
        ok = fail(error, ERR_IO,
                  "CURL block driver does not support writes: open '%s' for "
                  "reading only",
                  w->url);
    else if (!g_str_has_prefix(w->url, n->drv->name) || w->url[strlen(n->drv->name)] != ':')
        ok = fail(error, ERR_ARGUMENT, "%s curl driver cannot handle the URL '%s'",
                  n->drv->name, w->url);
    ok = ok && take_secret(o, "cookie-secret", &w->secret_cookie, error) &&
         take_secret(o, "password-secret", &w->password, error) &&
         take_secret(o, "proxy-password-secret", &w->proxy_password, error) && look(w, error);
    if (!ok)
        web_free(w);
    return ok;
}

static void web_close(struct node *n)
{
    web_free(web_of(n));
}

static bool web_parse(const char *filename, struct dict *d, GError **error UNUSED)
{
    dict_set(d, "url", filename);
    return true;
}

#define WEB(id, prefix)                                                                        \
    static const char *const id##_prefixes[] = { prefix, NULL };                               \
    const struct driver proto_##id = {                                                         \
        .name = #id,                                                                           \
        .kind = PROTOCOL,                                                                      \
        .size = sizeof(struct web),                                                            \
        .prefixes = id##_prefixes,                                                             \
        .parse = web_parse,                                                                    \
        .open = web_open,                                                                      \
        .close = web_close,                                                                    \
        .read = web_read,                                                                      \
    }
WEB(http, "http:");
WEB(https, "https:");
WEB(ftp, "ftp:");
WEB(ftps, "ftps:");
