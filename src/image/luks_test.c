// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * luks_test.c - ciphers against published vectors and themselves; LUKS images: any alignment,
 * many threads, key slots, wrong secrets, hostile headers, power cuts while slots change.
 */
#include "image/luks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/secret.h"
#include "base/test.h"
#include "image/drivers.h"
#include "image/journal.h"

enum { SIZE = 1 << 20, SLOTS_AT = 208, SLOT_SIZE = 48 };

static const struct open_how rw = { .write = true }, header_only = { .no_io = true };

static void secret(const char *id, const char *data)
{
    struct secret_props p = { .id = (char *)id, .data = (char *)data };

    secret_remove(id);
    EXPECT(secret_add(&p, NULL));
}

/* --- ciphers ---------------------------------------------------------------------------------
 */

static void hex(const char *text, u8 *to)
{
    for (; text[0] && text[1]; text += 2)
        *to++ = (u8)(g_ascii_xdigit_value(text[0]) << 4 | g_ascii_xdigit_value(text[1]));
}

/* IEEE 1619, annex B, vectors 4 and 10: AES-128 and AES-256, sectors 0 and 0xff */
TEST(crypt_xts_is_ieee_1619)
{
    static const struct {
        u8 cipher;
        u64 sector;
        const char *key, *begin;
    } known[] = {
        { 0, 0, "2718281828459045235360287471352631415926535897932384626433832795",
          "27a7479befa1d476489f308cd4cfa6e2" },
        { 2, 0xff,
          "2718281828459045235360287471352662497757247093699959574966967627"
          "3141592653589793238462643383279502884197169399375105820974944592",
          "1c3b3a102f770386e4836c99e370cf9b" },
    };

    for (u32 i = 0; i < ARRAY_LEN(known); i++) {
        struct crypt_spec s = { known[i].cipher, CRYPT_XTS, CRYPT_PLAIN64 };
        u8 key[CRYPT_KEY_MAX], begin[16], text[512], out[512];

        hex(known[i].key, key);
        hex(known[i].begin, begin);
        for (u32 k = 0; k < 512; k++)
            text[k] = (u8)k;
        struct crypt *c = crypt_new(&s, key, NULL);
        EXPECT(c && !crypt_encrypt(c, known[i].sector, out, text, 512));
        EXPECT(!memcmp(out, begin, sizeof begin));
        crypt_free(c);
    }
}

TEST(crypt_every_cipher_comes_back)
{
    g_autofree u8 *text = g_malloc(4096);
    g_autofree u8 *out = g_malloc(4096);
    u8 key[CRYPT_KEY_MAX];
    u32 tried = 0;

    crypt_random(key, sizeof key);
    for (u32 k = 0; k < 4096; k++)
        text[k] = (u8)(k / 16); /* blocks of the same bytes in every sector */
    for (u32 k = 512; k < 4096; k += 512)
        memcpy(text + k, text, 512);
    for (u8 cipher = 0; crypt_ciphers[cipher]; cipher++) {
        for (u8 mode = 0; crypt_modes[mode]; mode++) {
            for (u8 iv = 0; crypt_ivgens[iv]; iv++) {
                struct crypt_spec s = { cipher, mode, iv, CRYPT_SHA256 };
                g_autoptr(GError) error = NULL;
                struct crypt *c = crypt_new(&s, key, &error);

                EXPECT(!c == !!error);
                if (!c)
                    continue;
                tried++;
                EXPECT_EQ(crypt_encrypt(c, 0xfffffffeull, out, text, 4096), 0);
                EXPECT(memcmp(out, text, 4096));
                /* Two sectors look alike without vectors only; plain wraps at 32 bits. */
                EXPECT_EQ(!memcmp(out, out + 512, 512), mode == CRYPT_ECB);
                EXPECT_EQ(crypt_decrypt(c, 0xfffffffeull, out, out, 2048), 0);
                EXPECT_EQ(crypt_decrypt(c, iv == CRYPT_PLAIN ? 2 : 0x100000002ull, out + 2048,
                                        out + 2048, 2048),
                          0);
                EXPECT(!memcmp(out, text, 4096));
                crypt_free(c);
            }
        }
    }
    EXPECT(tried >= 80);
}

/* --- images ----------------------------------------------------------------------------------
 */

static struct node *open_on(struct node *file, const char *id, const struct open_how *how,
                            GError **error)
{
    g_autodict d = dict_new();

    if (id)
        dict_set(d, "key-secret", id);
    return node_open_over(&format_luks, d, node_ref(file), how, error);
}

static bool create(struct node *file, const char *options)
{
    g_autodict o = dict_from_text(options, NULL, NULL);
    g_autoptr(GError) error = NULL;
    bool ok = format_luks.create(file, SIZE, o, &error) && dict_done(o, "luks", &error);

    if (!ok)
        printf("# %s: %s\n", options, error->message);
    return ok;
}

static struct node *make(struct node *file)
{
    secret("s", "sesame");
    EXPECT(create(file, "key-secret=s,iter-time=1"));
    return open_on(file, "s", &rw, NULL);
}

TEST(luks_any_alignment)
{
    struct node *file = journal_new(), *n = make(file);
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    g_autofree u8 *model = g_malloc0(SIZE);
    g_autofree u8 *buf = g_malloc(SIZE);

    EXPECT(n && n->size == SIZE);
    EXPECT_EQ(node_zero(n, 0, SIZE, true), 0);
    for (u32 i = 0; i < 400; i++) {
        u32 at = (u32)g_rand_int_range(rand, 0, SIZE), len;

        len = (u32)g_rand_int_range(rand, 1, i % 8 ? 3000 : 600000);
        len = MIN(len, SIZE - at);
        for (u32 k = 0; k < len; k++)
            buf[k] = (u8)g_rand_int(rand);
        /* in three pieces */
        struct iovec v[3] = { { buf, len / 3 },
                              { buf + len / 3, 0 },
                              { buf + len / 3, len - len / 3 } };
        struct cursor c = { v, 3 };
        EXPECT_EQ(node_write(n, at, len, &c), 0);
        memcpy(model + at, buf, len);
        at = (u32)g_rand_int_range(rand, 0, SIZE - 1000);
        EXPECT_EQ(node_pread(n, at, buf, 1000), 0);
        EXPECT(!memcmp(buf, model + at, 1000));
    }
    EXPECT_EQ(node_flush(n), 0);
    node_unref(n);
    n = open_on(file, "s", &rw, NULL);
    EXPECT(n && !node_pread(n, 0, buf, SIZE) && !memcmp(buf, model, SIZE));
    node_unref(n);
    node_unref(file);
}

struct writer {
    struct node *n;
    u8 *model;
    u32 id;
};
enum { WRITERS = 4, STEP = 100 };

/* Every fourth piece of 100 bytes: sectors are shared with the others'. */
static gpointer write_pieces(gpointer p)
{
    struct writer *w = p;

    for (u32 at = w->id * STEP; at + STEP <= SIZE / 4; at += WRITERS * STEP)
        EXPECT_EQ(node_pwrite(w->n, at, w->model + at, STEP), 0);
    return NULL;
}

TEST(luks_threads_share_sectors)
{
    struct node *file = journal_new(), *n = make(file);
    g_autofree u8 *model = g_malloc(SIZE), *back = g_malloc(SIZE);
    struct writer w[WRITERS];
    GThread *t[WRITERS];
    u32 end = SIZE / 4 / STEP * STEP;

    crypt_random(model, SIZE);
    for (u32 i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){ n, model, i };
        t[i] = g_thread_new("writer", write_pieces, &w[i]);
    }
    for (u32 i = 0; i < WRITERS; i++)
        g_thread_join(t[i]);
    EXPECT(!node_pread(n, 0, back, end) && !memcmp(back, model, end));
    node_unref(n);
    node_unref(file);
}

static void refused(struct node *file, const char *id, const struct open_how *how,
                    const char *why)
{
    g_autoptr(GError) error = NULL;
    struct node *n = open_on(file, id, how, &error);

    EXPECT(!n && error && strstr(error->message, why));
    if (error && !strstr(error->message, why))
        printf("# %s\n", error->message);
    EXPECT(!error || !strstr(error->message, "sesame"));
    node_unref(n);
}

TEST(luks_wrong_and_missing_secrets)
{
    struct node *file = journal_new();

    node_unref(make(file));
    secret("w", "wrong");
    refused(file, NULL, &rw, "Parameter 'key-secret' is required for cipher");
    refused(file, "w", &rw, "Invalid password, cannot unlock any keyslot");
    refused(file, "none", &rw, "No secret with id 'none'");
    struct node *n = open_on(file, NULL, &header_only, NULL); /* info wants none */
    u8 b;
    EXPECT(n && n->size == SIZE && node_pread(n, 0, &b, 1) == -EIO);
    node_unref(n);
    node_unref(file);
}

static bool amend(struct node *n, const char *options, const char *why)
{
    g_autodict o = dict_from_text(options, NULL, NULL);
    g_autoptr(GError) error = NULL;
    bool ok = format_luks.amend(n, o, false, &error) && dict_done(o, "luks", &error);

    EXPECT(ok == !why);
    EXPECT(!why || (error && strstr(error->message, why)));
    if (error && (!why || !strstr(error->message, why)))
        printf("# %s: %s\n", options, error->message);
    return ok;
}

TEST(luks_key_slots)
{
    struct node *file = journal_new(), *n = make(file), *again;
    u8 text[512], back[512];

    secret("a", "another");
    secret("w", "wrong");
    memset(text, 0x5a, sizeof text);
    EXPECT_EQ(node_pwrite(n, 4096, text, sizeof text), 0);
    amend(n, "new-secret=a", "'state' is missing");
    amend(n, "state=on,new-secret=a", "does not accept value 'on'");
    amend(n, "state=active", "'new-secret' is required");
    amend(n, "state=active,new-secret=a,old-secret=s", "'old-secret' must not be given");
    amend(n, "state=active,new-secret=a,keyslot=8", "between 0 and 7");
    amend(n, "state=active,new-secret=a,keyslot=0,iter-time=1", "active keyslot 0");
    amend(n, "state=active,new-secret=a,keyslot=3,iter-time=1", NULL);
    again = open_on(file, "a", &rw, NULL);
    EXPECT(again && !node_pread(again, 4096, back, 512) && !memcmp(text, back, 512));
    node_unref(again);
    amend(n, "state=inactive,old-secret=w", "No keyslots match");
    amend(n, "state=inactive,old-secret=a,keyslot=0", "doesn't contain");
    amend(n, "state=inactive,keyslot=5", "already erased");
    amend(n, "state=inactive,keyslot=3,iter-time=5", "'iter-time' must not be given");
    amend(n, "state=inactive", "either explicit keyslot");
    amend(n, "state=inactive,old-secret=s", NULL);
    refused(file, "s", &rw, "Invalid password");
    amend(n, "state=inactive,keyslot=3", "only active keyslot 3");
    amend(n, "state=inactive,old-secret=a", "All the active keyslots match");
    node_unref(n);
    n = open_on(file, "a", &rw, NULL);
    for (u32 i = 0; i < 7; i++)
        amend(n, "state=active,new-secret=s,iter-time=1", NULL);
    amend(n, "state=active,new-secret=s,iter-time=1", "all keyslots are in use");
    EXPECT(!node_pread(n, 4096, back, 512) && !memcmp(text, back, 512));
    node_unref(n);
    node_unref(file);
}

TEST(luks_grows_and_shrinks)
{
    struct node *file = journal_new(), *n = make(file);
    u8 text[512], back[512];

    memset(text, 0x5a, sizeof text);
    EXPECT(format_luks.resize(n, 2 * SIZE, NULL, NULL) && n->size == 2 * SIZE);
    EXPECT_EQ(node_pwrite(n, 2 * SIZE - 512, text, 512), 0);
    EXPECT_EQ(node_pwrite(n, 1024, text, 512), 0);
    EXPECT(format_luks.resize(n, SIZE / 2, NULL, NULL) && n->size == SIZE / 2);
    node_unref(n);
    n = open_on(file, "s", &rw, NULL);
    EXPECT(n && n->size == SIZE / 2 && !node_pread(n, 1024, back, 512));
    EXPECT(!memcmp(text, back, 512));
    node_unref(n);
    node_unref(file);
}

/* --- headers that lie ------------------------------------------------------------------------
 */

static void broken(struct node *file, u64 at, u32 v, const char *why)
{
    be32 was, is = be32_of(v);

    EXPECT_EQ(node_pread(file, at, &was, sizeof was), 0);
    EXPECT_EQ(node_pwrite(file, at, &is, sizeof is), 0);
    refused(file, "s", &rw, why);
    EXPECT_EQ(node_pwrite(file, at, &was, sizeof was), 0);
}

TEST(luks_refuses_headers_that_lie)
{
    enum {
        VERSION = 6,
        CIPHER = 8,
        MODE = 40,
        HASH = 72,
        PAYLOAD = 104,
        KEY_LEN = 108,
        DIGEST_ITERATIONS = 164,
        ACTIVE = 0,
        ITERATIONS = 4,
        SECTOR = 40,
        STRIPES = 44
    };
    struct node *file = journal_new();
    u64 slot1 = SLOTS_AT + SLOT_SIZE;
    struct timespec a, b;

    node_unref(make(file));
    broken(file, 0, 0x12345678, "not in LUKS format");
    broken(file, VERSION, 0x00026165, "LUKS version 2 is not supported");
    broken(file, CIPHER, 0x41414141, "not supported");
    broken(file, MODE, 0x41414141, "cipher mode");
    broken(file, MODE + 3, 0x41414141, "Unexpected cipher mode string format");
    broken(file, HASH, 0x41414141, "Hash algorithm");
    broken(file, PAYLOAD, 0, "overlapping with the header");
    broken(file, PAYLOAD, 100, "overlapping with the encrypted payload");
    broken(file, PAYLOAD, UINT32_MAX, "beyond the end");
    broken(file, KEY_LEN, 0, "key size 0 bytes");
    broken(file, KEY_LEN, UINT32_MAX, "not supported");
    broken(file, DIGEST_ITERATIONS, 0, "iteration count is zero");
    broken(file, slot1 + STRIPES, 1u << 31, "stripes");
    broken(file, slot1 + SECTOR, 0, "overlapping with the LUKS header");
    broken(file, slot1 + SECTOR, UINT32_MAX, "overlapping with the encrypted payload");
    broken(file, slot1 + SECTOR, 9, "Keyslots 0 and 1 are overlapping");
    broken(file, SLOTS_AT + ITERATIONS, 0, "iteration count is zero");
    /* What would take hours is not begun. */
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    broken(file, SLOTS_AT + ITERATIONS, UINT32_MAX, "more PBKDF2 iterations than are taken");
    broken(file, DIGEST_ITERATIONS, UINT32_MAX, "more PBKDF2 iterations than are taken");
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    EXPECT(b.tv_sec - a.tv_sec < 2);
    /* A slot's material that is not what it was opens nothing. */
    be32 noise = be32_of(1);
    EXPECT_EQ(node_pwrite(file, 4096 + 1000, &noise, sizeof noise), 0);
    refused(file, "s", &rw, "Invalid password");
    node_unref(file);
}

TEST(luks_create_refuses)
{
    static const struct {
        const char *options, *why;
    } wrong[] = {
        { "iter-time=1", "Parameter 'key-secret' is required for cipher" },
        { "key-secret=none,iter-time=1", "No secret with id 'none'" },
        { "key-secret=s,cipher-alg=rot13", "'cipher-alg' does not accept value 'rot13'" },
        { "key-secret=s,cipher-mode=x", "'cipher-mode' does not accept value 'x'" },
        { "key-secret=s,iter-time=-1", "expects a number" },
        { "key-secret=s,cipher-alg=cast5-128", "blocks of 16 bytes" },
        { "key-secret=s,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha512",
          "No aes cipher" },
    };

    secret("s", "sesame");
    for (u32 i = 0; i < ARRAY_LEN(wrong); i++) {
        struct node *file = journal_new();
        g_autodict o = dict_from_text(wrong[i].options, NULL, NULL);
        g_autoptr(GError) error = NULL;

        EXPECT(!format_luks.create(file, SIZE, o, &error));
        EXPECT(error && strstr(error->message, wrong[i].why));
        if (error && !strstr(error->message, wrong[i].why))
            printf("# %s: %s\n", wrong[i].options, error->message);
        node_unref(file);
    }
}

/* --- power cuts ------------------------------------------------------------------------------
 */

TEST(luks_power_cuts_leave_a_key)
{
    struct node *file = journal_new(), *n = make(file);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    u8 text[512], back[512];

    secret("a", "another");
    memset(text, 0x5a, sizeof text);
    EXPECT(!node_pwrite(n, 0, text, 512) && !node_flush(n));
    u32 first = journal_length(file);
    amend(n, "state=active,new-secret=a,iter-time=1", NULL);
    u32 added = journal_length(file);
    amend(n, "state=inactive,old-secret=s", NULL);
    u32 end = journal_length(file);
    node_unref(n);
    for (u32 i = 0; i < 60; i++) {
        u32 cut = (u32)g_rand_int_range(rand, (s32)first, (s32)end + 1);
        struct node *left = journal_cut(file, cut, rand);
        struct node *old = open_on(left, "s", &rw, NULL), *new = open_on(left, "a", &rw, NULL);

        EXPECT(old || new);
        EXPECT(cut > added || old); /* not given up yet */
        EXPECT(cut < added || new); /* said to be there */
        EXPECT(cut < end || !old);
        EXPECT(!node_pread(old ? old : new, 0, back, 512) && !memcmp(text, back, 512));
        node_unref(old);
        node_unref(new);
        node_unref(left);
    }
    node_unref(file);
}

TEST_MAIN()
