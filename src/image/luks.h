// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * luks.h - the header of LUKS version 1 (its on-disk format specification 1.2.3), as the
 * formats luks and qcow2 have it.
 *
 *   0     header: cipher, hash, digest of the master key, eight key slots
 *   4096  key slot 0: the master key, split into 4000 stripes, encrypted by a secret's key
 *   ...   key slots 1 to 7
 *   payload: sectors encrypted by the master key (for qcow2 they lie elsewhere)
 *
 * A header's numbers are bounded before anything is computed by them: what unlocking may cost
 * is limited, whatever it asks for.
 */
#pragma once

#include "image/crypt.h"
#include "image/node.h"

enum { LUKS_SLOTS = 8, LUKS_SALT = 32, LUKS_DIGEST = 20, LUKS_UUID = 40 };

struct luks {
    struct crypt_spec spec;
    u8 hash;
    u32 key_len; /* bytes */
    char uuid[LUKS_UUID + 1];
    u64 payload; /* bytes from the header's begin */
    u8 digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
    u32 digest_iterations;
    struct luks_slot {
        bool active;
        u32 iterations;
        u8 salt[LUKS_SALT];
        u32 sector; /* from the header's begin */
    } slot[LUKS_SLOTS];
};

/* Where a header lies: at `at`, with at most `room` bytes that belong to it. */
struct luks_place {
    struct node *file;
    u64 at, room;
};

int luks_probe(const u8 *head, size_t n);
bool luks_load(const struct luks_place *, struct luks *ret, GError **error);
/* The payload's cipher, by the secret of that id. what: the option's name, for messages. */
struct crypt *luks_unlock(const struct luks *, const struct luks_place *, const char *secret_id,
                          const char *what, GError **error);
void luks_describe(const struct luks *, bool in_qcow2, GPtrArray *to);

/* --- making ---
 * Options begin with prefix ("", "encrypt."): key-secret, cipher-alg, cipher-mode, ivgen-alg,
 * ivgen-hash-alg, hash-alg, iter-time. */
struct luks_new {
    struct crypt_spec spec;
    u8 hash;
    u64 iter_time; /* ms */
    const char *secret_id;
};
/* secret_id is valid while the dict lives. */
bool luks_new_options(struct dict *, const char *prefix, struct luks_new *ret, GError **error);
u64 luks_new_payload(const struct luks_new *); /* bytes of header and key slots */
/* Writes header and slot 0 (room: all of it is zeroed or written).  *ret: the payload's cipher,
 * or NULL if nobody wants it. */
bool luks_make(const struct luks_new *, const struct luks_place *, struct crypt **ret,
               GError **error);

/* --- changing the key slots ---
 * Options: state, new-secret, old-secret, keyslot, iter-time.  unlocked_by: the secret of the
 * image as it is open. */
bool luks_amend(struct luks *, const struct luks_place *, struct dict *, const char *prefix,
                const char *unlocked_by, bool force, GError **error);

#define LUKS_CREATE_OPTIONS(p)                                                                 \
    { p "key-secret", OPTION_STR,                                                              \
      sizeof p > 1 ? "ID of secret providing qcow AES key or LUKS passphrase"                  \
                   : "ID of the secret that provides the keyslot passphrase",                  \
      NULL },                                                                                  \
        { p "cipher-alg", OPTION_STR, "Name of encryption cipher algorithm", NULL },           \
        { p "cipher-mode", OPTION_STR, "Name of encryption cipher mode", NULL },               \
        { p "ivgen-alg", OPTION_STR, "Name of IV generator algorithm", NULL },                 \
        { p "ivgen-hash-alg", OPTION_STR, "Name of IV generator hash algorithm", NULL },       \
        { p "hash-alg", OPTION_STR, "Name of encryption hash algorithm", NULL },               \
    {                                                                                          \
        p "iter-time", OPTION_NUM, "Time to spend in PBKDF in milliseconds", NULL              \
    }
#define LUKS_AMEND_OPTIONS(p)                                                                  \
    { p "state", OPTION_STR, "Select new state of affected keyslots (active/inactive)",        \
      NULL },                                                                                  \
        { p "keyslot", OPTION_NUM, "Select a single keyslot to modify explicitly", NULL },     \
        { p "old-secret", OPTION_STR, "Select all keyslots that match this password", NULL },  \
        { p "new-secret", OPTION_STR,                                                          \
          "New secret to set in the matching keyslots. Empty string to erase", NULL },         \
    {                                                                                          \
        p "iter-time", OPTION_NUM, "Time to spend in PBKDF in milliseconds", NULL              \
    }
