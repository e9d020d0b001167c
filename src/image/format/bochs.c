// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * bochs.c - Bochs' growing images ("Redolog", subtype "Growing"), read only.
 *
 *   header | catalog: a number for each extent | extents: bitmap, data
 *
 * In the bitmap, a sector that was never written has no bit, and reads as zeroes.
 */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "image/drivers.h"

enum {
    BOCHS_V1 = 0x00010000,
    BOCHS_V2 = 0x00020000,
    CATALOG_MAX = 1 << 20, /* extents */
    EXTENT_MAX = 8 << 20,  /* bytes */
};
#define BOCHS_NONE 0xffffffffu

struct bochs_header {
    char magic[32], type[16], subtype[16];
    le32 version, header, catalog, bitmap, extent;
    union {
        struct {
            le32 timestamp;
            le64 disk;
        } __attribute__((packed)) v2;
        struct {
            le64 disk;
        } __attribute__((packed)) v1;
    };
} __attribute__((packed));

struct bochs {
    struct node node;
    le32 *catalog;
    u32 entries;
    u32 bitmap, extent; /* bytes, multiples of 512 */
    u64 data_at;
};

static int bochs_probe(const u8 *head, size_t n_head, const u8 *tail UNUSED,
                       size_t n_tail UNUSED, const char *filename UNUSED)
{
    const struct bochs_header *h = (const void *)head;

    return n_head >= sizeof *h && !strncmp(h->magic, "Bochs Virtual HD Image", 32) &&
                   !strncmp(h->type, "Redolog", 16) && !strncmp(h->subtype, "Growing", 16)
               ? 100
               : 0;
}

static void bochs_close(struct node *n)
{
    g_free(container_of(n, struct bochs, node)->catalog);
}

static bool bochs_open(struct node *n, struct dict *o UNUSED, const struct open_how *how UNUSED,
                       GError **error)
{
    struct bochs *s = container_of(n, struct bochs, node);
    struct bochs_header h;
    const char *wrong = NULL;

    if (!node_load(n->file, 0, &h, sizeof h, "the Bochs header", error))
        return false;
    u32 version = le32_get(h.version), extent = le32_get(h.extent);
    u64 size = version == BOCHS_V1 ? le64_get(h.v1.disk) : le64_get(h.v2.disk);
    s->entries = le32_get(h.catalog);
    if (!bochs_probe((const u8 *)&h, sizeof h, NULL, 0, NULL))
        wrong = "it is no growing Bochs image";
    else if (version != BOCHS_V1 && version != BOCHS_V2)
        wrong = "its version is not supported";
    else if (extent < 512 || extent > EXTENT_MAX || (extent & (extent - 1)))
        wrong = "its extent size is not supported";
    else if (le32_get(h.bitmap) < (extent / 512 + 7) / 8 || le32_get(h.bitmap) > EXTENT_MAX)
        wrong = "its bitmaps have not the size that extents need";
    else if (s->entries > CATALOG_MAX)
        wrong = "its catalog is too large";
    else if (size > INT64_MAX || (size + extent - 1) / extent > s->entries)
        wrong = "its catalog is too short for its size";
    if (wrong)
        return fail(error, ERR_FORMAT, "image '%s': %s", n->filename, wrong);
    s->extent = extent;
    s->bitmap = ROUND_UP(le32_get(h.bitmap), 512);
    s->data_at = (u64)le32_get(h.header) + s->entries * 4ull;
    n->size = size & ~511ull;
    s->catalog = node_load_new(n->file, le32_get(h.header), s->entries * 4ull, CATALOG_MAX * 4,
                               "the Bochs catalog", error);
    return s->catalog;
}

/* Where the sector at `at` lies, 0: it is zeroes. */
static int locate(struct bochs *s, u64 at, u64 *ret)
{
    u32 number = le32_get(s->catalog[at / s->extent]);
    u32 sector = (u32)(at % s->extent / 512);
    u8 bits;

    *ret = 0;
    if (number == BOCHS_NONE)
        return 0;
    u64 host = s->data_at + (u64)number * (s->bitmap + s->extent);
    if (host + s->bitmap > s->node.file->size)
        return -EIO;
    int r = node_pread(s->node.file, host + sector / 8, &bits, 1);
    if (!r && bits >> sector % 8 & 1)
        *ret = host + s->bitmap + (u64)sector * 512;
    return r;
}

/* at..at+len in one piece: found is where, 0 zeroes; ret_len at most len. */
static int run(struct bochs *s, u64 at, u64 len, u64 *found, u64 *ret_len)
{
    u64 next, n = 512 - at % 512;
    int r = locate(s, at, found);

    if (!r && !*found && le32_get(s->catalog[at / s->extent]) == BOCHS_NONE)
        n = s->extent - at % s->extent;
    while (!r && n < len && (at + n) % s->extent) {
        r = locate(s, at + n, &next);
        if (r || (*found ? next != *found + (at + n) / 512 * 512 - at / 512 * 512 : next != 0))
            break;
        n += 512;
    }
    if (*found)
        *found += at % 512;
    *ret_len = MIN(n, len);
    return r;
}

static int bochs_read(struct node *n, u64 at, u64 len, struct cursor *c)
{
    int r = 0;

    while (len && !r) {
        u64 found, part;

        r = run(container_of(n, struct bochs, node), at, len, &found, &part);
        if (!r && found)
            r = node_read(n->file, found, part, c);
        else if (!r)
            cursor_zero(c, part);
        at += part;
        len -= part;
    }
    return r;
}

static int bochs_status(struct node *n, u64 at, u64 len, struct extent *ret)
{
    u64 found;
    int r = run(container_of(n, struct bochs, node), at, len, &found, &ret->len);

    ret->flags = EXTENT_ALLOCATED | (found ? EXTENT_DATA | EXTENT_OFFSET : EXTENT_ZERO);
    ret->host = found;
    ret->in = n->file;
    return r;
}

const struct driver format_bochs = {
    .name = "bochs",
    .kind = FORMAT,
    .size = sizeof(struct bochs),
    .probe = bochs_probe,
    .open = bochs_open,
    .close = bochs_close,
    .read = bochs_read,
    .status = bochs_status,
};
