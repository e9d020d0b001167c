// SPDX-License-Identifier: GPL-2.0-or-later
/* secret.c - see secret.h. */
#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <gcrypt.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

enum { SECRET_MAX = 64 << 10, KEY = 32, BLOCK = 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GHashTable *secrets; /* id: struct secret_bytes */

void secret_wipe(void *p, size_t n)
{
    if (p)
        explicit_bzero(p, n);
}

static void init_once(void)
{
    gcry_check_version(NULL);
    gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
}

void crypto_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_once);
}

/* --- properties ------------------------------------------------------------------------------
 */

char **secret_prop(struct secret_props *p, const char *name)
{
    const struct {
        const char *name;
        char **at;
    } all[] = { { "id", &p->id },         { "data", &p->data },   { "file", &p->file },
                { "format", &p->format }, { "keyid", &p->keyid }, { "iv", &p->iv } };

    for (u32 i = 0; i < ARRAY_LEN(all); i++) {
        if (!strcmp(all[i].name, name))
            return all[i].at;
    }
    return NULL;
}

void secret_props_free(struct secret_props *p)
{
    if (!p)
        return;
    if (p->data)
        secret_wipe(p->data, strlen(p->data));
    g_free(p->id);
    g_free(p->data);
    g_free(p->file);
    g_free(p->format);
    g_free(p->keyid);
    g_free(p->iv);
    g_free(p);
}

/* --- bytes -----------------------------------------------------------------------------------
 */

void secret_bytes_clear(struct secret_bytes *b)
{
    secret_wipe(b->p, b->n);
    g_free(b->p);
    *b = (struct secret_bytes){ 0 };
}

static void free_bytes(void *p)
{
    secret_bytes_clear(p);
    g_free(p);
}

static void take_copy(struct secret_bytes *b, const void *from, size_t n)
{
    b->p = g_malloc0(n + 1);
    b->n = n;
    memcpy(b->p, from, n);
}

static bool read_file(const char *name, struct secret_bytes *ret, GError **error)
{
    g_autofd fd = open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t r = 1;

    if (fd < 0)
        return fail_errno(error, errno, "Unable to read %s", name);
    ret->p = g_malloc0(SECRET_MAX + 2);
    while (r && ret->n <= SECRET_MAX) {
        r = read(fd, ret->p + ret->n, SECRET_MAX + 1 - ret->n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return fail_errno(error, errno, "Unable to read %s", name);
        ret->n += (size_t)r;
    }
    return ret->n <= SECRET_MAX ||
           fail(error, ERR_LIMIT, "%s: a secret has at most %d bytes", name, SECRET_MAX);
}

static bool of_base64(const char *text, size_t n, struct secret_bytes *ret, GError **error)
{
    static const char valid[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\n";
    gsize len = 0;

    if (strlen(text) != n || strspn(text, valid) != n)
        return fail(error, ERR_ARGUMENT, "Base64 data contains invalid characters");
    u8 *p = g_base64_decode(text, &len);
    take_copy(ret, p, len);
    secret_wipe(p, len);
    g_free(p);
    return true;
}

/* b, which is AES-256-CBC with PKCS#7 padding, in place. */
static bool decrypt(struct secret_bytes *b, const char *keyid, const char *iv_text,
                    GError **error)
{
    SECRET_AUTO key = { 0 };
    SECRET_AUTO iv = { 0 };
    gcry_cipher_hd_t h;

    if (!secret_get(keyid, &key, error))
        return false;
    if (key.n != KEY)
        return fail(error, ERR_ARGUMENT, "Key should be %d bytes in length", KEY);
    if (!iv_text)
        return fail(error, ERR_ARGUMENT, "IV is required to decrypt secret");
    if (!of_base64(iv_text, strlen(iv_text), &iv, error))
        return false;
    if (iv.n != BLOCK)
        return fail(error, ERR_ARGUMENT, "IV should be %d bytes in length not %zu", BLOCK,
                    iv.n);
    if (!b->n || b->n % BLOCK)
        return fail(error, ERR_ARGUMENT,
                    "an encrypted secret has a multiple of %d bytes, not %zu", BLOCK, b->n);
    crypto_init();
    if (gcry_cipher_open(&h, GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_CBC, 0))
        return fail(error, ERR_UNSUPPORTED, "the host's libgcrypt has no AES-256-CBC");
    bool ok = !gcry_cipher_setkey(h, key.p, key.n) && !gcry_cipher_setiv(h, iv.p, iv.n) &&
              !gcry_cipher_decrypt(h, b->p, b->n, NULL, 0);
    gcry_cipher_close(h);
    u8 pad = b->p[b->n - 1];
    if (!ok || !pad || pad > BLOCK)
        return fail(error, ERR_ARGUMENT,
                    "Incorrect number of padding bytes found on decrypted data");
    memset(b->p + b->n - pad, 0, pad);
    b->n -= pad;
    return true;
}

/* --- the registry ----------------------------------------------------------------------------
 */

static bool id_ok(const char *id)
{
    bool ok = g_ascii_isalpha(id[0]);

    for (const char *p = id; ok && *p; p++)
        ok = g_ascii_isalnum(*p) || strchr("-._", *p);
    return ok;
}

static bool load(const struct secret_props *p, struct secret_bytes *ret, GError **error)
{
    bool base64 = p->format && !strcmp(p->format, "base64");
    SECRET_AUTO raw = { 0 };

    if (p->data && p->file)
        return fail(error, ERR_ARGUMENT, "'file' and 'data' are mutually exclusive");
    if (!p->data && !p->file)
        return fail(error, ERR_ARGUMENT, "Either 'file' or 'data' must be provided");
    if (p->format && !base64 && strcmp(p->format, "raw") != 0)
        return fail(error, ERR_ARGUMENT, "Parameter 'format' does not accept value '%s'",
                    p->format);
    if (p->data && strlen(p->data) > SECRET_MAX)
        return fail(error, ERR_LIMIT, "a secret has at most %d bytes", SECRET_MAX);
    if (p->data)
        take_copy(&raw, p->data, strlen(p->data));
    else if (!read_file(p->file, &raw, error))
        return false;
    if (base64) {
        if (!of_base64((char *)raw.p, raw.n, ret, error))
            return false;
    } else {
        *ret = raw;
        raw = (struct secret_bytes){ 0 };
    }
    return !p->keyid || decrypt(ret, p->keyid, p->iv, error);
}

bool secret_add(const struct secret_props *p, GError **error)
{
    SECRET_AUTO b = { 0 };

    if (!p->id)
        return fail(error, ERR_ARGUMENT, "Parameter 'id' is missing");
    if (!id_ok(p->id))
        return fail(error, ERR_ARGUMENT,
                    "Parameter 'id' expects an identifier\n"
                    "Identifiers consist of letters, digits, '-', '.', '_', starting with a "
                    "letter.");
    if (!load(p, &b, error))
        return false;
    pthread_mutex_lock(&lock);
    if (!secrets)
        secrets = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_bytes);
    bool ok = !g_hash_table_contains(secrets, p->id);
    if (ok) {
        g_hash_table_insert(secrets, g_strdup(p->id), g_memdup2(&b, sizeof b));
        b = (struct secret_bytes){ 0 };
    }
    pthread_mutex_unlock(&lock);
    return ok ||
           fail(error, ERR_BUSY,
                "attempt to add duplicate property '%s' to object (type 'container')", p->id);
}

bool secret_remove(const char *id)
{
    pthread_mutex_lock(&lock);
    bool ok = secrets && g_hash_table_remove(secrets, id);
    if (ok && !g_hash_table_size(secrets))
        g_clear_pointer(&secrets, g_hash_table_unref);
    pthread_mutex_unlock(&lock);
    return ok;
}

bool secret_exists(const char *id)
{
    pthread_mutex_lock(&lock);
    bool ok = secrets && g_hash_table_contains(secrets, id);
    pthread_mutex_unlock(&lock);
    return ok;
}

static int by_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *secret_ids(void)
{
    GPtrArray *a = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter it;
    void *id;

    pthread_mutex_lock(&lock);
    if (secrets) {
        g_hash_table_iter_init(&it, secrets);
        while (g_hash_table_iter_next(&it, &id, NULL))
            g_ptr_array_add(a, g_strdup(id));
    }
    pthread_mutex_unlock(&lock);
    g_ptr_array_sort(a, by_text);
    return a;
}

bool secret_get(const char *id, struct secret_bytes *ret, GError **error)
{
    pthread_mutex_lock(&lock);
    const struct secret_bytes *b = secrets ? g_hash_table_lookup(secrets, id) : NULL;
    if (b)
        take_copy(ret, b->p, b->n);
    pthread_mutex_unlock(&lock);
    return b || fail(error, ERR_NOT_FOUND, "No secret with id '%s'", id);
}

bool secret_get_utf8(const char *id, struct secret_bytes *ret, GError **error)
{
    if (!secret_get(id, ret, error))
        return false;
    if (g_utf8_validate((const char *)ret->p, (gssize)ret->n, NULL))
        return true;
    secret_bytes_clear(ret);
    return fail(error, ERR_ARGUMENT, "Data from secret %s is not valid UTF-8", id);
}
