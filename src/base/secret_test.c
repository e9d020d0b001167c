// SPDX-License-Identifier: GPL-2.0-or-later
/* secret_test.c - secrets by data, file, base64, encrypted with another; and what is refused.
 */
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/secret.h"
#include "base/test.h"

/* "what the secret is", AES-256-CBC (openssl enc), key 00..1f, IV 20..2f */
#define CIPHERTEXT "bfvjKXXrUvmOe0FSsH1yYhlD0eKj8eyyM140TJxHSgM="

static bool holds(const char *id, const char *text)
{
    SECRET_AUTO b = { 0 };

    return secret_get(id, &b, NULL) && b.n == strlen(text) && !memcmp(b.p, text, b.n);
}

static void refused(const struct secret_props *p, const char *why)
{
    GError *error = NULL;

    EXPECT(!secret_add(p, &error));
    EXPECT(error && strstr(error->message, why));
    if (error && !strstr(error->message, why))
        printf("# %s\n", error->message);
    g_clear_error(&error);
}

TEST(secret_by_data_and_by_name)
{
    struct secret_props p = { .id = (char *)"s0", .data = (char *)"pass\xc3\xa9" };

    EXPECT(!secret_exists("s0"));
    EXPECT(secret_add(&p, NULL));
    EXPECT(secret_exists("s0") && holds("s0", "pass\xc3\xa9"));
    refused(&p, "duplicate");
    g_autoptr(GPtrArray) ids = secret_ids();
    EXPECT(ids->len == 1 && !strcmp(ids->pdata[0], "s0"));
    EXPECT(secret_remove("s0") && !secret_remove("s0") && !secret_exists("s0"));
    EXPECT(!holds("s0", ""));
}

TEST(secret_from_a_file)
{
    char name[] = "/tmp/posada-secret-XXXXXX";
    int fd = mkstemp(name);
    struct secret_props p = { .id = (char *)"f", .file = name };

    EXPECT(fd >= 0 && write(fd, "from a file\n", 12) == 12);
    EXPECT(secret_add(&p, NULL));
    EXPECT(holds("f", "from a file\n")); /* its last newline is part of it, as for QEMU */
    secret_remove("f");
    EXPECT(ftruncate(fd, 1 << 20) == 0);
    refused(&p, "at most");
    close(fd);
    unlink(name);
    refused(&p, "Unable to read");
}

TEST(secret_in_base64_and_encrypted)
{
    struct secret_props key = { .id = (char *)"key",
                                .format = (char *)"base64",
                                .data =
                                    (char *)"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" };
    struct secret_props p = { .id = (char *)"s",
                              .format = (char *)"base64",
                              .data = (char *)CIPHERTEXT,
                              .keyid = (char *)"key",
                              .iv = (char *)"ICEiIyQlJicoKSorLC0uLw==" };

    refused(&p, "No secret with id 'key'");
    EXPECT(secret_add(&key, NULL));
    EXPECT(secret_add(&p, NULL));
    EXPECT(holds("s", "what the secret is"));
    secret_remove("s");
    p.iv = NULL;
    refused(&p, "IV is required");
    p.iv = (char *)"ICEi";
    refused(&p, "IV should be 16 bytes in length not 3");
    p.iv = (char *)"ICEiIyQlJicoKSorLC0uLw==";
    p.data = (char *)"ICEi";
    refused(&p, "multiple of 16");
    p.data = (char *)"ICEiIyQlJicoKSorLC0uLw==";
    refused(&p, "padding");
    secret_remove("key");
}

TEST(secret_refuses)
{
    refused(&(struct secret_props){ .data = (char *)"x" }, "'id' is missing");
    refused(&(struct secret_props){ .id = (char *)"1", .data = (char *)"x" }, "identifier");
    refused(&(struct secret_props){ .id = (char *)"a" }, "Either 'file' or 'data'");
    refused(
        &(struct secret_props){ .id = (char *)"a", .data = (char *)"x", .file = (char *)"/" },
        "mutually exclusive");
    refused(&(struct secret_props){ .id = (char *)"a",
                                    .data = (char *)"sesame",
                                    .format = (char *)"hex" },
            "'format' does not accept value 'hex'");
    refused(&(struct secret_props){ .id = (char *)"a",
                                    .data = (char *)"%%%",
                                    .format = (char *)"base64" },
            "invalid characters");
    struct secret_props p = { .id = (char *)"a", .data = (char *)"\xff" };
    struct secret_bytes b = { 0 };
    GError *error = NULL;
    EXPECT(secret_add(&p, NULL));
    EXPECT(!secret_get_utf8("a", &b, &error) && strstr(error->message, "UTF-8"));
    g_clear_error(&error);
    secret_remove("a");
}

TEST_MAIN()
