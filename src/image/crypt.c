// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * crypt.c - see crypt.h.
 *
 * Initialization vectors (dm-crypt): plain is the sector's number in 32 bits, little-endian,
 * with zeroes behind; plain64 the same in 64 bits; ESSIV is plain64, encrypted by the cipher
 * with the hash of the key.
 */
#include "image/crypt.h"

#include <errno.h>
#include <gcrypt.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/secret.h"

enum { BLOCK_MAX = 16, DIGEST_MAX = 64 };

static const struct {
    const char *family;
    u8 key, block; /* bytes */
    int algorithm; /* 0: libgcrypt does not have it */
} ciphers[] = {
    { "aes", 16, 16, GCRY_CIPHER_AES128 },
    { "aes", 24, 16, GCRY_CIPHER_AES192 },
    { "aes", 32, 16, GCRY_CIPHER_AES256 },
    { "cast5", 16, 8, GCRY_CIPHER_CAST5 },
    { "serpent", 16, 16, GCRY_CIPHER_SERPENT128 },
    { "serpent", 24, 16, GCRY_CIPHER_SERPENT192 },
    { "serpent", 32, 16, GCRY_CIPHER_SERPENT256 },
    { "twofish", 16, 16, GCRY_CIPHER_TWOFISH128 },
    { "twofish", 24, 16, 0 },
    { "twofish", 32, 16, GCRY_CIPHER_TWOFISH },
};
const char *const crypt_ciphers[] = { "aes-128",     "aes-192",     "aes-256",
                                      "cast5-128",   "serpent-128", "serpent-192",
                                      "serpent-256", "twofish-128", "twofish-192",
                                      "twofish-256", NULL };
const char *const crypt_modes[] = {
    [CRYPT_ECB] = "ecb", [CRYPT_CBC] = "cbc", [CRYPT_XTS] = "xts", [CRYPT_CTR] = "ctr", NULL
};
const char *const crypt_ivgens[] = {
    [CRYPT_PLAIN] = "plain", [CRYPT_PLAIN64] = "plain64", [CRYPT_ESSIV] = "essiv", NULL
};
const char *const crypt_hashes[] = { "md5",    "sha1",   "sha224",    "sha256",
                                     "sha384", "sha512", "ripemd160", NULL };
static const int hashes[] = { GCRY_MD_MD5,    GCRY_MD_SHA1,   GCRY_MD_SHA224, GCRY_MD_SHA256,
                              GCRY_MD_SHA384, GCRY_MD_SHA512, GCRY_MD_RMD160 };
static const int modes[] = { [CRYPT_ECB] = GCRY_CIPHER_MODE_ECB,
                             [CRYPT_CBC] = GCRY_CIPHER_MODE_CBC,
                             [CRYPT_XTS] = GCRY_CIPHER_MODE_XTS,
                             [CRYPT_CTR] = GCRY_CIPHER_MODE_CTR };

/* What one thread works with. */
struct handle {
    gcry_cipher_hd_t data, essiv; /* essiv: or NULL */
};
struct crypt {
    struct crypt_spec spec;
    u32 key_len, block;
    u8 key[CRYPT_KEY_MAX];
    u8 essiv_cipher;
    u8 essiv_key[DIGEST_MAX];
    pthread_mutex_t lock;
    GPtrArray *idle; /* struct handle */
};

/* --- what there is ---------------------------------------------------------------------------
 */

const char *crypt_cipher_family(u8 cipher)
{
    return ciphers[cipher].family;
}

bool crypt_cipher_find(const char *family, u32 key_len, u8 *ret)
{
    for (u8 i = 0; i < ARRAY_LEN(ciphers); i++) {
        if (!strcmp(ciphers[i].family, family) && ciphers[i].key == key_len) {
            *ret = i;
            return true;
        }
    }
    return false;
}

u32 crypt_key_len(const struct crypt_spec *s)
{
    return ciphers[s->cipher].key * (s->mode == CRYPT_XTS ? 2u : 1u);
}

u32 crypt_hash_len(u8 hash)
{
    return gcry_md_get_algo_dlen(hashes[hash]);
}

void crypt_hash(u8 hash, const void *from, size_t n, u8 *to)
{
    crypto_init();
    gcry_md_hash_buffer(hashes[hash], to, from, n);
}

bool crypt_spec_ok(const struct crypt_spec *s, GError **error)
{
    const char *family = ciphers[s->cipher].family;
    u8 essiv;

    if (!ciphers[s->cipher].algorithm)
        return fail(error, ERR_UNSUPPORTED,
                    "Algorithm '%s' is not supported: libgcrypt lacks it",
                    crypt_ciphers[s->cipher]);
    if (s->mode == CRYPT_XTS && ciphers[s->cipher].block != 16)
        return fail(error, ERR_UNSUPPORTED,
                    "Cipher mode xts wants blocks of 16 bytes, which '%s' does not have",
                    crypt_ciphers[s->cipher]);
    if (s->ivgen != CRYPT_ESSIV)
        return true;
    u32 len = crypt_hash_len(s->ivhash);
    if (!crypt_cipher_find(family, len, &essiv) || !ciphers[essiv].algorithm)
        return fail(error, ERR_UNSUPPORTED,
                    "No %s cipher with key size %u available: essiv wants one as long as the "
                    "hash %s",
                    family, len, crypt_hashes[s->ivhash]);
    return true;
}

/* --- sectors ---------------------------------------------------------------------------------
 */

static void handle_free(struct handle *h)
{
    if (h->data)
        gcry_cipher_close(h->data);
    if (h->essiv)
        gcry_cipher_close(h->essiv);
    g_free(h);
}

static struct handle *handle_new(const struct crypt *c)
{
    struct handle *h = g_new0(struct handle, 1);
    u8 essiv = c->essiv_cipher;

    if (gcry_cipher_open(&h->data, ciphers[c->spec.cipher].algorithm, modes[c->spec.mode], 0) ||
        gcry_cipher_setkey(h->data, c->key, c->key_len) ||
        (c->spec.ivgen == CRYPT_ESSIV &&
         (gcry_cipher_open(&h->essiv, ciphers[essiv].algorithm, GCRY_CIPHER_MODE_ECB, 0) ||
          gcry_cipher_setkey(h->essiv, c->essiv_key, ciphers[essiv].key)))) {
        handle_free(h);
        return NULL;
    }
    return h;
}

static struct handle *handle_take(struct crypt *c)
{
    struct handle *h = NULL;

    pthread_mutex_lock(&c->lock);
    if (c->idle->len)
        h = g_ptr_array_steal_index_fast(c->idle, c->idle->len - 1);
    pthread_mutex_unlock(&c->lock);
    return h ? h : handle_new(c);
}

static void handle_put(struct crypt *c, struct handle *h)
{
    pthread_mutex_lock(&c->lock);
    g_ptr_array_add(c->idle, h);
    pthread_mutex_unlock(&c->lock);
}

struct crypt *crypt_new(const struct crypt_spec *s, const u8 *key, GError **error)
{
    if (!crypt_spec_ok(s, error))
        return NULL;
    crypto_init();
    struct crypt *c = g_new0(struct crypt, 1);
    c->spec = *s;
    c->key_len = crypt_key_len(s);
    c->block = ciphers[s->cipher].block;
    memcpy(c->key, key, c->key_len);
    pthread_mutex_init(&c->lock, NULL);
    c->idle = g_ptr_array_new();
    if (s->ivgen == CRYPT_ESSIV) {
        crypt_cipher_find(ciphers[s->cipher].family, crypt_hash_len(s->ivhash),
                          &c->essiv_cipher);
        crypt_hash(s->ivhash, key, c->key_len, c->essiv_key);
    }
    struct handle *h = handle_new(c); /* so that what does not work is known now */
    if (!h) {
        fail(error, ERR_UNSUPPORTED, "libgcrypt refuses the cipher %s-%s",
             crypt_ciphers[s->cipher], crypt_modes[s->mode]);
        crypt_free(c);
        return NULL;
    }
    handle_put(c, h);
    return c;
}

void crypt_free(struct crypt *c)
{
    if (!c)
        return;
    for (guint i = 0; i < c->idle->len; i++)
        handle_free(c->idle->pdata[i]);
    g_ptr_array_unref(c->idle);
    pthread_mutex_destroy(&c->lock);
    secret_wipe(c, sizeof *c);
    g_free(c);
}

static int set_iv(struct crypt *c, struct handle *h, u64 sector)
{
    union {
        le64 sector;
        u8 bytes[BLOCK_MAX];
    } iv = { .bytes = { 0 } };

    if (c->spec.mode == CRYPT_ECB)
        return 0;
    iv.sector = le64_of(c->spec.ivgen == CRYPT_PLAIN ? (u32)sector : sector);
    if (h->essiv && gcry_cipher_encrypt(h->essiv, iv.bytes, c->block, NULL, 0))
        return -EIO;
    if (c->spec.mode == CRYPT_CTR)
        return gcry_cipher_setctr(h->data, iv.bytes, c->block) ? -EIO : 0;
    return gcry_cipher_setiv(h->data, iv.bytes, c->block) ? -EIO : 0;
}

static int work(struct crypt *c, bool encrypt, u64 sector, u8 *to, const u8 *from, size_t n)
{
    struct handle *h = handle_take(c);
    int r = h ? 0 : -EIO;

    for (size_t at = 0; !r && at < n; at += CRYPT_SECTOR) {
        const u8 *in = to == from ? NULL : from + at;
        size_t n_in = in ? CRYPT_SECTOR : 0;

        r = set_iv(c, h, sector + at / CRYPT_SECTOR);
        if (!r && (encrypt ? gcry_cipher_encrypt(h->data, to + at, CRYPT_SECTOR, in, n_in)
                           : gcry_cipher_decrypt(h->data, to + at, CRYPT_SECTOR, in, n_in)))
            r = -EIO;
    }
    if (h)
        handle_put(c, h);
    return r;
}

int crypt_encrypt(struct crypt *c, u64 sector, void *to, const void *from, size_t n)
{
    return work(c, true, sector, to, from, n);
}

int crypt_decrypt(struct crypt *c, u64 sector, void *to, const void *from, size_t n)
{
    return work(c, false, sector, to, from, n);
}

/* --- keys ------------------------------------------------------------------------------------
 */

bool crypt_pbkdf2(u8 hash, const void *secret, size_t n_secret, const u8 *salt, size_t n_salt,
                  u64 iterations, u8 *to, size_t n, GError **error)
{
    crypto_init();
    gcry_error_t e = gcry_kdf_derive(secret, n_secret, GCRY_KDF_PBKDF2, hashes[hash], salt,
                                     n_salt, iterations, n, to);
    return !e || fail(error, ERR_UNSUPPORTED, "PBKDF2 with %s: %s", crypt_hashes[hash],
                      gcry_strerror(e));
}

u64 crypt_pbkdf2_speed(u8 hash, size_t n)
{
    enum { LONG_ENOUGH = 50 }; /* ms */
    static const u8 salt[32];
    u8 key[CRYPT_KEY_MAX];

    for (u64 iterations = 4096;; iterations *= 2) {
        struct timespec a, b;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        if (!crypt_pbkdf2(hash, "password", 8, salt, sizeof salt, iterations, key, n, NULL))
            return 1;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        u64 ns = (u64)((s64)(b.tv_sec - a.tv_sec) * (s64)NS_PER_SEC + b.tv_nsec - a.tv_nsec);
        if (ns >= LONG_ENOUGH * NS_PER_MS || iterations > BIT(28))
            return (u64)((double)iterations * 1e9 / (double)MAX(ns, 1));
    }
}

void crypt_random(void *to, size_t n)
{
    crypto_init();
    gcry_randomize(to, n, GCRY_STRONG_RANDOM);
}
