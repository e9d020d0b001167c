// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * luks.c - see luks.h.
 *
 * Power cuts: a new slot's key material is durable before the slot says that it is active; a
 * slot that is given up says so on disk before its material is overwritten.
 */
#include "image/luks.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/secret.h"

enum {
    SLOTS_AT = 4096,
    STRIPES = 4000,
    SLOT_ACTIVE = 0x00ac71f3,
    SLOT_INACTIVE = 0x0000dead,
    ITERATIONS_MIN = 1000,
    DIGEST_MAX = 64,
    ITER_TIME = 2000 /* ms */
};
/* What unlocking may cost in all: a minute or two of rounds of the hash's HMAC. */
#define WORK_MAX (1ull << 29)

struct disk_slot {
    be32 active, iterations;
    u8 salt[LUKS_SALT];
    be32 sector, stripes;
};
struct disk_header {
    u8 magic[6];
    be16 version;
    char cipher[32], mode[32], hash[32];
    be32 payload_sector, key_len;
    u8 digest[LUKS_DIGEST], digest_salt[LUKS_SALT];
    be32 digest_iterations;
    char uuid[LUKS_UUID];
    struct disk_slot slot[LUKS_SLOTS];
} __attribute__((packed));
_Static_assert(sizeof(struct disk_header) == 592, "LUKS header");
static const u8 magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

/* Bytes of a slot's key material, as they lie on disk: whole sectors. */
static size_t material_len(u32 key_len)
{
    return ROUND_UP((size_t)key_len * STRIPES, CRYPT_SECTOR);
}

/* From one slot to the next: the material, rounded up to 4 KiB. */
static u64 slot_step(u32 key_len)
{
    return ROUND_UP((u64)material_len(key_len), SLOTS_AT);
}

/* --- reading ---------------------------------------------------------------------------------
 */

int luks_probe(const u8 *head, size_t n)
{
    return n >= 8 && !memcmp(head, magic, sizeof magic) && !head[6] && head[7] == 1 ? 100 : 0;
}

static bool find(const char *const *names, const char *name, size_t n, u8 *ret)
{
    for (u8 i = 0; names[i]; i++) {
        if (strlen(names[i]) == n && !memcmp(names[i], name, n)) {
            *ret = i;
            return true;
        }
    }
    return false;
}

/* "xts-plain64", "cbc-essiv:sha256" */
static bool take_mode(struct luks *l, const char *text, const char *file, GError **error)
{
    const char *iv = strchr(text, '-'), *hash = iv ? strchr(iv, ':') : NULL;

    if (!iv)
        return fail(error, ERR_FORMAT, "image '%s': Unexpected cipher mode string format '%s'",
                    file, text);
    size_t n_iv = hash ? (size_t)(hash - iv - 1) : strlen(iv + 1);
    if (!find(crypt_modes, text, (size_t)(iv - text), &l->spec.mode))
        return fail(error, ERR_UNSUPPORTED, "image '%s': cipher mode '%s' is not supported",
                    file, text);
    if (!find(crypt_ivgens, iv + 1, n_iv, &l->spec.ivgen))
        return fail(error, ERR_UNSUPPORTED, "image '%s': IV generator '%s' is not supported",
                    file, iv + 1);
    if (l->spec.ivgen != CRYPT_ESSIV)
        return true; /* a hash is named for nothing, as dm-crypt has it */
    if (!hash)
        return fail(error, ERR_FORMAT, "image '%s': Missing IV generator hash specification",
                    file);
    l->spec.has_ivhash = true;
    return find(crypt_hashes, hash + 1, strlen(hash + 1), &l->spec.ivhash) ||
           fail(error, ERR_UNSUPPORTED, "image '%s': hash '%s' is not supported", file,
                hash + 1);
}

static bool take_slots(struct luks *l, const struct disk_header *h, u64 room, const char *file,
                       GError **error)
{
    size_t len = material_len(l->key_len);

    for (u32 i = 0; i < LUKS_SLOTS; i++) {
        const struct disk_slot *d = &h->slot[i];
        struct luks_slot *s = &l->slot[i];

        s->active = be32_get(d->active) == SLOT_ACTIVE;
        s->iterations = be32_get(d->iterations);
        s->sector = be32_get(d->sector);
        memcpy(s->salt, d->salt, sizeof s->salt);
        u64 at = (u64)s->sector * CRYPT_SECTOR;
        if (be32_get(d->stripes) != STRIPES)
            return fail(error, ERR_FORMAT,
                        "image '%s': Keyslot %u is corrupted (stripes %u != %d)", file, i,
                        be32_get(d->stripes), STRIPES);
        if (at < SLOTS_AT)
            return fail(error, ERR_FORMAT,
                        "image '%s': Keyslot %u is overlapping with the LUKS header", file, i);
        if (s->active && !s->iterations)
            return fail(error, ERR_FORMAT, "image '%s': Keyslot %u iteration count is zero",
                        file, i);
        if (at + len > l->payload || at + len > room)
            return fail(error, ERR_FORMAT,
                        "image '%s': Keyslot %u is overlapping with the encrypted payload",
                        file, i);
        for (u32 k = 0; k < i; k++) {
            u64 other = (u64)l->slot[k].sector * CRYPT_SECTOR;

            if (at < other + len && other < at + len)
                return fail(error, ERR_FORMAT,
                            "image '%s': Keyslots %u and %u are overlapping in the header",
                            file, k, i);
        }
    }
    return true;
}

bool luks_load(const struct luks_place *p, struct luks *l, GError **error)
{
    const char *file = p->file->filename;
    struct disk_header h;

    *l = (struct luks){ 0 };
    if (p->room < sizeof h)
        return fail(error, ERR_FORMAT, "image '%s': no room for a LUKS header", file);
    if (!node_load(p->file, p->at, &h, sizeof h, "the LUKS header", error))
        return false;
    if (memcmp(h.magic, magic, sizeof magic) != 0)
        return fail(error, ERR_FORMAT, "image '%s': Volume is not in LUKS format", file);
    if (be16_get(h.version) != 1)
        return fail(error, ERR_UNSUPPORTED, "image '%s': LUKS version %u is not supported",
                    file, be16_get(h.version));
    if (h.cipher[31] || h.mode[31] || h.hash[31])
        return fail(error, ERR_FORMAT, "image '%s': LUKS header: a name does not end", file);
    g_autofree char *cipher = g_utf8_make_valid(h.cipher, -1);
    g_autofree char *mode = g_utf8_make_valid(h.mode, -1);
    g_autofree char *hash = g_utf8_make_valid(h.hash, -1);
    if (!take_mode(l, mode, file, error))
        return false;
    if (!find(crypt_hashes, hash, strlen(hash), &l->hash))
        return fail(error, ERR_UNSUPPORTED, "image '%s': Hash algorithm '%s' is not supported",
                    file, hash);
    l->key_len = be32_get(h.key_len);
    u32 keys = l->spec.mode == CRYPT_XTS ? 2 : 1;
    if (l->key_len % keys || !crypt_cipher_find(cipher, l->key_len / keys, &l->spec.cipher))
        return fail(error, ERR_UNSUPPORTED,
                    "image '%s': Algorithm '%s' with key size %u bytes not supported", file,
                    cipher, l->key_len / keys);
    l->payload = (u64)be32_get(h.payload_sector) * CRYPT_SECTOR;
    if (l->payload < SLOTS_AT)
        return fail(error, ERR_FORMAT,
                    "image '%s': LUKS payload is overlapping with the header", file);
    l->digest_iterations = be32_get(h.digest_iterations);
    if (!l->digest_iterations)
        return fail(error, ERR_FORMAT, "image '%s': LUKS key iteration count is zero", file);
    memcpy(l->digest, h.digest, sizeof l->digest);
    memcpy(l->digest_salt, h.digest_salt, sizeof l->digest_salt);
    g_autofree char *raw = g_strndup(h.uuid, LUKS_UUID);
    g_autofree char *uuid = g_utf8_make_valid(raw, -1);
    g_strlcpy(l->uuid, uuid, sizeof l->uuid);
    return take_slots(l, &h, p->room, file, error);
}

void luks_describe(const struct luks *l, bool in_qcow2, GPtrArray *to)
{
    image_detail_str(to, "ivgen-alg", crypt_ivgens[l->spec.ivgen]);
    image_detail_str(to, "hash-alg", crypt_hashes[l->hash]);
    image_detail_str(to, "cipher-alg", crypt_ciphers[l->spec.cipher]);
    image_detail_str(to, "uuid", l->uuid);
    if (l->spec.ivgen == CRYPT_ESSIV)
        image_detail_str(to, "ivgen-hash-alg", crypt_hashes[l->spec.ivhash]);
    if (in_qcow2)
        image_detail_str(to, "format", "luks");
    image_detail_str(to, "cipher-mode", crypt_modes[l->spec.mode]);
    struct image_detail *slots = image_detail_new(to, "slots", DETAIL_LIST);
    for (u32 i = 0; i < LUKS_SLOTS; i++) {
        const struct luks_slot *s = &l->slot[i];
        struct image_detail *d = image_detail_new(slots->members, "", DETAIL_DICT);

        image_detail_bool(d->members, "active", s->active);
        if (s->active)
            image_detail_int(d->members, "iters", s->iterations);
        image_detail_int(d->members, "key-offset", (s64)s->sector * CRYPT_SECTOR);
        if (s->active)
            image_detail_int(d->members, "stripes", STRIPES);
    }
    image_detail_int(to, "payload-offset", (s64)l->payload);
    image_detail_int(to, "master-key-iters", l->digest_iterations);
}

/* --- the anti-forensic splitter --------------------------------------------------------------
 */

/* Each piece of a digest's length becomes the hash of its number and itself. */
static void diffuse(u8 hash, u8 *block, size_t n)
{
    size_t step = crypt_hash_len(hash);
    u8 in[4 + DIGEST_MAX], out[DIGEST_MAX];

    for (size_t at = 0, i = 0; at < n; at += step, i++) {
        size_t part = MIN(step, n - at);
        be32 number = be32_of((u32)i);

        memcpy(in, &number, sizeof number);
        memcpy(in + sizeof number, block + at, part);
        crypt_hash(hash, in, sizeof number + part, out);
        memcpy(block + at, out, part);
    }
    secret_wipe(in, sizeof in);
    secret_wipe(out, sizeof out);
}

/* What all stripes but the last come to. */
static void fold(u8 hash, const u8 *material, size_t n, u8 *block)
{
    memset(block, 0, n);
    for (u32 i = 0; i < STRIPES - 1; i++) {
        for (size_t k = 0; k < n; k++)
            block[k] ^= material[i * n + k];
        diffuse(hash, block, n);
    }
}

static void split(u8 hash, const u8 *key, size_t n, u8 *material)
{
    u8 block[CRYPT_KEY_MAX];
    u8 *last = material + (STRIPES - 1) * n;

    crypt_random(material, (STRIPES - 1) * n);
    fold(hash, material, n, block);
    for (size_t k = 0; k < n; k++)
        last[k] = block[k] ^ key[k];
    secret_wipe(block, sizeof block);
}

static void merge(u8 hash, const u8 *material, size_t n, u8 *key)
{
    const u8 *last = material + (STRIPES - 1) * n;

    fold(hash, material, n, key);
    for (size_t k = 0; k < n; k++)
        key[k] ^= last[k];
}

/* --- unlocking -------------------------------------------------------------------------------
 */

static u64 work_of(const struct luks *l, u64 iterations, u32 len)
{
    u32 digest = crypt_hash_len(l->hash);

    return iterations * ((len + digest - 1) / digest);
}

static u64 slot_work(const struct luks *l, const struct luks_slot *s)
{
    return work_of(l, s->iterations, l->key_len) +
           work_of(l, l->digest_iterations, LUKS_DIGEST);
}

/* Slot i by a secret. *ret: is it this secret's? */
static bool try_slot(const struct luks *l, const struct luks_place *p, u32 i,
                     const struct secret_bytes *secret, u8 *key, bool *ret, GError **error)
{
    const struct luks_slot *s = &l->slot[i];
    size_t n = material_len(l->key_len);
    u8 slot_key[CRYPT_KEY_MAX], digest[LUKS_DIGEST], differ = 0;

    *ret = false;
    if (!crypt_pbkdf2(l->hash, secret->p, secret->n, s->salt, LUKS_SALT, s->iterations,
                      slot_key, l->key_len, error))
        return false;
    struct crypt *c = crypt_new(&l->spec, slot_key, error);
    secret_wipe(slot_key, sizeof slot_key);
    u8 *material = g_malloc(n);
    bool ok = c && node_load(p->file, p->at + (u64)s->sector * CRYPT_SECTOR, material, n,
                             "a key slot", error);
    if (ok && crypt_decrypt(c, 0, material, material, n))
        ok = fail(error, ERR_IO, "image '%s': a key slot", p->file->filename);
    if (ok)
        merge(l->hash, material, l->key_len, key);
    ok = ok && crypt_pbkdf2(l->hash, key, l->key_len, l->digest_salt, LUKS_SALT,
                            l->digest_iterations, digest, sizeof digest, error);
    for (u32 k = 0; ok && k < LUKS_DIGEST; k++)
        differ |= digest[k] ^ l->digest[k];
    *ret = ok && !differ;
    secret_wipe(material, n);
    g_free(material);
    crypt_free(c);
    return ok;
}

/* The slot that a secret opens; LUKS_SLOTS: none of them. */
static bool find_slot(const struct luks *l, const struct luks_place *p,
                      const struct secret_bytes *secret, u8 *key, u32 *ret, GError **error)
{
    u64 work = 0;

    for (*ret = 0; *ret < LUKS_SLOTS; ++*ret) {
        bool fits;

        if (!l->slot[*ret].active)
            continue;
        work += slot_work(l, &l->slot[*ret]);
        if (work > WORK_MAX)
            return fail(error, ERR_LIMIT,
                        "image '%s': its key slots want more PBKDF2 iterations than are taken "
                        "(keyslot %u: %u)",
                        p->file->filename, *ret, l->slot[*ret].iterations);
        if (!try_slot(l, p, *ret, secret, key, &fits, error))
            return false;
        if (fits)
            return true;
    }
    secret_wipe(key, CRYPT_KEY_MAX);
    return true;
}

static bool get_key(const struct luks *l, const struct luks_place *p, const char *id, u8 *key,
                    GError **error)
{
    SECRET_AUTO secret = { 0 };
    u32 i;

    if (!secret_get_utf8(id, &secret, error) || !find_slot(l, p, &secret, key, &i, error))
        return false;
    return i < LUKS_SLOTS ||
           fail(error, ERR_ARGUMENT, "Invalid password, cannot unlock any keyslot");
}

struct crypt *luks_unlock(const struct luks *l, const struct luks_place *p, const char *id,
                          const char *what, GError **error)
{
    u8 key[CRYPT_KEY_MAX];

    if (!id) {
        fail(error, ERR_ARGUMENT, "Parameter '%s' is required for cipher", what);
        return NULL;
    }
    struct crypt *c = crypt_spec_ok(&l->spec, error) && get_key(l, p, id, key, error)
                          ? crypt_new(&l->spec, key, error)
                          : NULL;
    secret_wipe(key, sizeof key);
    return c;
}

/* --- writing ---------------------------------------------------------------------------------
 */

static bool wrote(const struct luks_place *p, int r, GError **error)
{
    return !r || fail_errno(error, -r, "image '%s': LUKS header", p->file->filename);
}

static bool put_slot(const struct luks *l, const struct luks_place *p, u32 i, GError **error)
{
    const struct luks_slot *s = &l->slot[i];
    struct disk_slot d = {
        .active = be32_of(s->active ? SLOT_ACTIVE : SLOT_INACTIVE),
        .iterations = be32_of(s->iterations),
        .sector = be32_of(s->sector),
        .stripes = be32_of(STRIPES),
    };

    memcpy(d.salt, s->salt, sizeof d.salt);
    int r = node_pwrite(p->file, p->at + offsetof(struct disk_header, slot) + i * sizeof d, &d,
                        sizeof d);
    return wrote(p, r ? r : node_flush(p->file), error);
}

static bool iterations_for(u64 ms, u8 hash, size_t n, u64 part, u32 *ret, GError **error)
{
    u64 all = crypt_pbkdf2_speed(hash, n);

    if (ms && all > UINT64_MAX / ms)
        return fail(error, ERR_LIMIT, "PBKDF iterations too large for iter-time %" PRIu64, ms);
    all = MAX(all * ms / 1000 / part, ITERATIONS_MIN);
    if (all > UINT32_MAX)
        return fail(error, ERR_LIMIT, "PBKDF iterations %" PRIu64 " larger than %u", all,
                    UINT32_MAX);
    *ret = (u32)all;
    return true;
}

/* Puts the key into slot i: the material only, the slot is still to be written. */
static bool fill_slot(struct luks *l, const struct luks_place *p, u32 i,
                      const struct secret_bytes *secret, const u8 *key, u64 iter_time,
                      GError **error)
{
    struct luks_slot *s = &l->slot[i];
    size_t n = material_len(l->key_len);
    u8 slot_key[CRYPT_KEY_MAX];
    u64 work = 0;

    if (!iterations_for(iter_time, l->hash, l->key_len, 1, &s->iterations, error))
        return false;
    for (u32 k = 0; k < LUKS_SLOTS; k++)
        work += l->slot[k].active || k == i ? slot_work(l, &l->slot[k]) : 0;
    if (work > WORK_MAX)
        return fail(error, ERR_LIMIT,
                    "iter-time=%" PRIu64 ": unlocking this image would take too long",
                    iter_time);
    crypt_random(s->salt, sizeof s->salt);
    if (!crypt_pbkdf2(l->hash, secret->p, secret->n, s->salt, LUKS_SALT, s->iterations,
                      slot_key, l->key_len, error))
        return false;
    struct crypt *c = crypt_new(&l->spec, slot_key, error);
    secret_wipe(slot_key, sizeof slot_key);
    if (!c)
        return false;
    u8 *material = g_malloc0(n);
    split(l->hash, key, l->key_len, material);
    int r = crypt_encrypt(c, 0, material, material, n);
    if (!r)
        r = node_pwrite(p->file, p->at + (u64)s->sector * CRYPT_SECTOR, material, n);
    if (!r)
        r = node_flush(p->file);
    secret_wipe(material, n);
    g_free(material);
    crypt_free(c);
    return wrote(p, r, error);
}

static const char *take(struct dict *o, const char *prefix, const char *name)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);

    return dict_str(o, key);
}

static bool take_name(struct dict *o, const char *prefix, const char *name,
                      const char *const *names, u8 *ret, bool *given, GError **error)
{
    const char *v = take(o, prefix, name);

    *given = v;
    return !v || find(names, v, strlen(v), ret) ||
           fail(error, ERR_ARGUMENT, "Parameter '%s' does not accept value '%s'", name, v);
}

static bool take_number(struct dict *o, const char *prefix, const char *name, u64 max, u64 *ret,
                        GError **error)
{
    const char *v = take(o, prefix, name);

    return !v || g_ascii_string_to_unsigned(v, 10, 0, max, ret, NULL) ||
           fail(error, ERR_ARGUMENT, "Parameter '%s' expects a number", name);
}

bool luks_new_options(struct dict *o, const char *prefix, struct luks_new *n, GError **error)
{
    bool given;

    *n = (struct luks_new){ .spec = { .cipher = CRYPT_AES_256,
                                      .mode = CRYPT_XTS,
                                      .ivgen = CRYPT_PLAIN64,
                                      .ivhash = CRYPT_SHA256 },
                            .hash = CRYPT_SHA256,
                            .iter_time = ITER_TIME };
    if (!take_name(o, prefix, "cipher-alg", crypt_ciphers, &n->spec.cipher, &given, error) ||
        !take_name(o, prefix, "cipher-mode", crypt_modes, &n->spec.mode, &given, error) ||
        !take_name(o, prefix, "ivgen-alg", crypt_ivgens, &n->spec.ivgen, &given, error) ||
        !take_name(o, prefix, "hash-alg", crypt_hashes, &n->hash, &given, error) ||
        !take_name(o, prefix, "ivgen-hash-alg", crypt_hashes, &n->spec.ivhash,
                   &n->spec.has_ivhash, error) ||
        !take_number(o, prefix, "iter-time", INT64_MAX, &n->iter_time, error))
        return false;
    n->spec.has_ivhash |= n->spec.ivgen == CRYPT_ESSIV;
    n->secret_id = take(o, prefix, "key-secret");
    if (!n->secret_id)
        return fail(error, ERR_ARGUMENT, "Parameter '%skey-secret' is required for cipher",
                    prefix);
    return crypt_spec_ok(&n->spec, error);
}

u64 luks_new_payload(const struct luks_new *n)
{
    return SLOTS_AT + LUKS_SLOTS * slot_step(crypt_key_len(&n->spec));
}

/* All but the slots' contents. */
static bool put_header(const struct luks *l, const struct luks_place *p, GError **error)
{
    struct disk_header h = {
        .version = be16_of(1),
        .payload_sector = be32_of((u32)(l->payload / CRYPT_SECTOR)),
        .key_len = be32_of(l->key_len),
        .digest_iterations = be32_of(l->digest_iterations),
    };

    memcpy(h.magic, magic, sizeof magic);
    g_strlcpy(h.cipher, crypt_cipher_family(l->spec.cipher), sizeof h.cipher);
    g_snprintf(h.mode, sizeof h.mode, "%s-%s%s%s", crypt_modes[l->spec.mode],
               crypt_ivgens[l->spec.ivgen], l->spec.has_ivhash ? ":" : "",
               l->spec.has_ivhash ? crypt_hashes[l->spec.ivhash] : "");
    g_strlcpy(h.hash, crypt_hashes[l->hash], sizeof h.hash);
    memcpy(h.digest, l->digest, sizeof h.digest);
    memcpy(h.digest_salt, l->digest_salt, sizeof h.digest_salt);
    g_strlcpy(h.uuid, l->uuid, sizeof h.uuid);
    for (u32 i = 0; i < LUKS_SLOTS; i++) {
        struct disk_slot *d = &h.slot[i];

        d->active = be32_of(l->slot[i].active ? SLOT_ACTIVE : SLOT_INACTIVE);
        d->iterations = be32_of(l->slot[i].iterations);
        memcpy(d->salt, l->slot[i].salt, sizeof d->salt);
        d->sector = be32_of(l->slot[i].sector);
        d->stripes = be32_of(STRIPES);
    }
    int r = node_pwrite(p->file, p->at, &h, sizeof h);
    return wrote(p, r ? r : node_flush(p->file), error);
}

bool luks_make(const struct luks_new *n, const struct luks_place *p, struct crypt **ret,
               GError **error)
{
    SECRET_AUTO secret = { 0 };
    struct luks l = { .spec = n->spec,
                      .hash = n->hash,
                      .key_len = crypt_key_len(&n->spec),
                      .payload = luks_new_payload(n) };
    g_autofree char *uuid = g_uuid_string_random();
    u8 key[CRYPT_KEY_MAX];

    if (!secret_get_utf8(n->secret_id, &secret, error))
        return false;
    g_strlcpy(l.uuid, uuid, sizeof l.uuid);
    crypt_random(key, l.key_len);
    crypt_random(l.digest_salt, sizeof l.digest_salt);
    for (u32 i = 0; i < LUKS_SLOTS; i++)
        l.slot[i].sector = (u32)((SLOTS_AT + i * slot_step(l.key_len)) / CRYPT_SECTOR);
    /* An eighth of the time, as cryptsetup has it. */
    bool ok =
        iterations_for(n->iter_time, l.hash, LUKS_DIGEST, 8, &l.digest_iterations, error) &&
        crypt_pbkdf2(l.hash, key, l.key_len, l.digest_salt, LUKS_SALT, l.digest_iterations,
                     l.digest, LUKS_DIGEST, error) &&
        fill_slot(&l, p, 0, &secret, key, n->iter_time, error);
    l.slot[0].active = true;
    ok = ok && put_header(&l, p, error);
    if (ok && ret)
        ok = (*ret = crypt_new(&l.spec, key, error));
    secret_wipe(key, sizeof key);
    return ok;
}

/* --- key slots -------------------------------------------------------------------------------
 */

static u32 count_active(const struct luks *l)
{
    u32 n = 0;

    for (u32 i = 0; i < LUKS_SLOTS; i++)
        n += l->slot[i].active;
    return n;
}

static bool add_slot(struct luks *l, const struct luks_place *p, const char *new_id, u64 slot,
                     u64 iter_time, const char *unlocked_by, bool force, GError **error)
{
    SECRET_AUTO secret = { 0 };
    u8 key[CRYPT_KEY_MAX];
    u32 i = (u32)slot;

    if (slot == UINT64_MAX) {
        for (i = 0; i < LUKS_SLOTS && l->slot[i].active; i++)
            ;
        if (i == LUKS_SLOTS)
            return fail(error, ERR_LIMIT, "Can't add a keyslot - all keyslots are in use");
    } else if (l->slot[i].active && !force) {
        return fail(error, ERR_ARGUMENT,
                    "Refusing to overwrite active keyslot %u - please erase it first", i);
    }
    if (!secret_get_utf8(new_id, &secret, error))
        return false;
    struct luks_slot was = l->slot[i];
    bool ok = get_key(l, p, unlocked_by, key, error) &&
              fill_slot(l, p, i, &secret, key, iter_time, error);
    secret_wipe(key, sizeof key);
    if (ok) {
        l->slot[i].active = true;
        return put_slot(l, p, i, error);
    }
    l->slot[i] = was;
    return false;
}

static bool erase_slot(struct luks *l, const struct luks_place *p, u32 i, GError **error)
{
    struct luks_slot *s = &l->slot[i];
    size_t n = material_len(l->key_len);

    s->active = false;
    s->iterations = 0;
    memset(s->salt, 0, sizeof s->salt);
    if (!put_slot(l, p, i, error))
        return false;
    g_autofree u8 *noise = g_malloc(n);
    crypt_random(noise, n);
    int r = node_pwrite(p->file, p->at + (u64)s->sector * CRYPT_SECTOR, noise, n);
    return wrote(p, r ? r : node_flush(p->file), error);
}

static bool erase_slots(struct luks *l, const struct luks_place *p, const char *old_id,
                        u64 slot, bool force, GError **error)
{
    SECRET_AUTO secret = { 0 };
    bool goes[LUKS_SLOTS] = { false };
    u32 n = 0, active = count_active(l);
    u64 work = 0;
    u8 key[CRYPT_KEY_MAX];

    if (old_id && !secret_get_utf8(old_id, &secret, error))
        return false;
    if (!old_id && slot == UINT64_MAX)
        return fail(error, ERR_ARGUMENT,
                    "To erase keyslot(s), either explicit keyslot index or the password "
                    "currently contained in them must be given");
    for (u32 i = 0; i < LUKS_SLOTS; i++) {
        if (!l->slot[i].active || (slot != UINT64_MAX && slot != i))
            continue;
        goes[i] = true;
        if (old_id) {
            work += slot_work(l, &l->slot[i]);
            if (work > WORK_MAX)
                return fail(error, ERR_LIMIT,
                            "image '%s': its key slots want more PBKDF2 iterations than are "
                            "taken",
                            p->file->filename);
            bool ok = try_slot(l, p, i, &secret, key, &goes[i], error);
            secret_wipe(key, sizeof key);
            if (!ok)
                return false;
        }
        n += goes[i];
    }
    if (slot != UINT64_MAX && !l->slot[slot].active)
        return fail(error, ERR_ARGUMENT, "Given keyslot %u is already erased (inactive) ",
                    (u32)slot);
    if (!n && slot != UINT64_MAX)
        return fail(error, ERR_ARGUMENT,
                    "Given keyslot %u doesn't contain the given old password for erase "
                    "operation",
                    (u32)slot);
    if (!n)
        return fail(error, ERR_ARGUMENT,
                    "No keyslots match given (old) password for erase operation");
    if (n == active && !force && slot != UINT64_MAX)
        return fail(error, ERR_ARGUMENT,
                    "Attempt to erase the only active keyslot %u which will erase all the data "
                    "in the image irreversibly - refusing operation",
                    (u32)slot);
    if (n == active && !force)
        return fail(error, ERR_ARGUMENT,
                    "All the active keyslots match the (old) password that was given and "
                    "erasing them will erase all the data in the image irreversibly - refusing "
                    "operation");
    for (u32 i = 0; i < LUKS_SLOTS; i++) {
        if (goes[i] && !erase_slot(l, p, i, error))
            return false;
    }
    return true;
}

bool luks_amend(struct luks *l, const struct luks_place *p, struct dict *o, const char *prefix,
                const char *unlocked_by, bool force, GError **error)
{
    const char *state = take(o, prefix, "state"), *new_id = take(o, prefix, "new-secret"),
               *old_id = take(o, prefix, "old-secret");
    u64 slot = UINT64_MAX, iter_time = UINT64_MAX;

    if (!state)
        return fail(error, ERR_ARGUMENT, "Parameter 'state' is missing");
    bool active = !strcmp(state, "active");
    if (!active && strcmp(state, "inactive") != 0)
        return fail(error, ERR_ARGUMENT, "Parameter 'state' does not accept value '%s'", state);
    if (!take_number(o, prefix, "keyslot", INT64_MAX, &slot, error) ||
        !take_number(o, prefix, "iter-time", INT64_MAX, &iter_time, error))
        return false;
    if (active && !new_id)
        return fail(error, ERR_ARGUMENT, "'new-secret' is required to activate a keyslot");
    if (active && old_id)
        return fail(error, ERR_ARGUMENT,
                    "'old-secret' must not be given when activating keyslots");
    if (!active && new_id)
        return fail(error, ERR_ARGUMENT,
                    "'new-secret' must not be given when erasing keyslots");
    if (!active && iter_time != UINT64_MAX)
        return fail(error, ERR_ARGUMENT, "'iter-time' must not be given when erasing keyslots");
    if (slot != UINT64_MAX && slot >= LUKS_SLOTS)
        return fail(error, ERR_ARGUMENT,
                    "Invalid keyslot %" PRIu64 " specified, must be between 0 and %d", slot,
                    LUKS_SLOTS - 1);
    if (!active)
        return erase_slots(l, p, old_id, slot, force, error);
    if (iter_time == UINT64_MAX)
        iter_time = ITER_TIME;
    return add_slot(l, p, new_id, slot, iter_time, unlocked_by, force, error);
}
