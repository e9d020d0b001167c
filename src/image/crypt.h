// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * crypt.h - sectors of 512 bytes, encrypted each for itself: a cipher, its mode, and how a
 * sector's number becomes the initialization vector.  Names and meanings are LUKS1's and
 * dm-crypt's ("aes-256", "xts", "plain64"); the ciphers are libgcrypt's.
 *
 * Any number of threads en- and decrypt at once: each takes a cipher handle of its own from a
 * pool for the time of a call.
 */
#pragma once

#include <glib.h>

#include "base/types.h"

enum { CRYPT_SECTOR = 512, CRYPT_KEY_MAX = 64 };
enum crypt_mode { CRYPT_ECB, CRYPT_CBC, CRYPT_XTS, CRYPT_CTR };
enum crypt_ivgen { CRYPT_PLAIN, CRYPT_PLAIN64, CRYPT_ESSIV };
struct crypt_spec {
    u8 cipher; /* of crypt_ciphers */
    u8 mode, ivgen;
    u8 ivhash;       /* of crypt_hashes; for ESSIV */
    bool has_ivhash; /* it is named, if only named */
};
/* Tables of names; each ends with NULL. */
extern const char *const crypt_ciphers[], *const crypt_modes[], *const crypt_ivgens[],
                                                                    *const crypt_hashes[];
enum { CRYPT_AES_128 = 0, CRYPT_AES_256 = 2, CRYPT_SHA256 = 3 };

const char *crypt_cipher_family(u8 cipher);                       /* "aes" */
bool crypt_cipher_find(const char *family, u32 key_len, u8 *ret); /* key_len: of the cipher */
u32 crypt_key_len(const struct crypt_spec *);                     /* bytes; XTS has two keys */
/* Can it be?  ERR_UNSUPPORTED says what cannot. */
bool crypt_spec_ok(const struct crypt_spec *, GError **error);

struct crypt;
/* key has crypt_key_len() bytes and is copied. */
struct crypt *crypt_new(const struct crypt_spec *, const u8 *key, GError **error);
void crypt_free(struct crypt *); /* wipes the key */
/* n: a multiple of 512. to and from are the same, or do not overlap. 0 or -EIO. */
int crypt_encrypt(struct crypt *, u64 sector, void *to, const void *from, size_t n);
int crypt_decrypt(struct crypt *, u64 sector, void *to, const void *from, size_t n);

/* --- what keys are made by --- */

u32 crypt_hash_len(u8 hash);
void crypt_hash(u8 hash, const void *from, size_t n, u8 *to);
/* PBKDF2 with HMAC of the hash. */
bool crypt_pbkdf2(u8 hash, const void *secret, size_t n_secret, const u8 *salt, size_t n_salt,
                  u64 iterations, u8 *to, size_t n, GError **error);
/* How many iterations for n bytes this thread makes in a second. */
u64 crypt_pbkdf2_speed(u8 hash, size_t n);
void crypt_random(void *to, size_t n); /* fit for keys */
