// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fw_cfg.c - firmware configuration device: numbered items, a directory of named files, and
 * DMA. QEMU's docs/specs/fw_cfg.rst.
 *
 *   0x510  selector (16 bits)     0x511  data, a byte a time
 *   0x514  DMA address, big-endian, high half first; writing the low half starts.  Reads give
 *          the signature "QEMU CFG".
 *
 * Reads beyond an item give zeroes.  Data-port writes are ignored, as they have been since the
 * interface got DMA.
 */
#include "vmm/dev/pc/fw_cfg.h"

#include <string.h>

#include "base/error.h"

enum { KEYS_LOW = FW_CFG_FILE_FIRST + FW_CFG_FILES_MAX, KEYS_ARCH = 0x20 };
enum { ID_TRADITIONAL = 1, ID_DMA = 2 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };

struct item {
    GBytes *data;
    u8 *writable; /* instead of data */
    size_t n;     /* of both */
    char name[FW_CFG_NAME_MAX + 1];
    GBytes *(*make)(void *opaque);
    void (*written)(void *opaque, const u8 *bytes, size_t n);
    void *opaque;
    bool made;
};

struct fw_cfg {
    struct dev dev;
    struct item item[KEYS_LOW], arch[KEYS_ARCH];
    unsigned files;
    struct fw_cfg_regs {
        u32 offset; /* in the selected item */
        u32 dma_high;
        u16 key;
        u8 zero[6];
    } r;
};

struct file_entry {
    be32 size;
    be16 select, reserved;
    char name[FW_CFG_NAME_MAX + 1];
};
struct dma_access {
    be32 control, length;
    be64 address;
};

static const struct state_field fw_cfg_fields[] = {
    STATE_INT(struct fw_cfg_regs, offset),
    STATE_INT(struct fw_cfg_regs, dma_high),
    STATE_INT(struct fw_cfg_regs, key),
    STATE_PAD(struct fw_cfg_regs, zero),
};

static struct fw_cfg *fw_cfg_of(struct dev *d)
{
    return container_of(d, struct fw_cfg, dev);
}

static struct item *item_at(struct fw_cfg *s, u16 key)
{
    if (key < KEYS_LOW)
        return &s->item[key];
    if (key >= FW_CFG_ARCH && key < FW_CFG_ARCH + KEYS_ARCH)
        return &s->arch[key - FW_CFG_ARCH];
    return NULL;
}

static void item_clear(struct item *i)
{
    if (i->data)
        g_bytes_unref(i->data);
    g_free(i->writable);
    *i = (struct item){};
}

static const u8 *item_bytes(const struct item *i)
{
    return i->writable ? i->writable : i->data ? g_bytes_get_data(i->data, NULL) : NULL;
}

/* --- what the guest does (REQUIRES(dev->lock)) ----------------------------------------------
 */

static void fw_cfg_select(struct fw_cfg *s, u16 key)
{
    struct item *i = item_at(s, key);

    s->r.key = key;
    s->r.offset = 0;
    if (i && i->make && !i->made) {
        GBytes *fresh = i->make(i->opaque);

        i->made = true;
        if (fresh) {
            if (i->data)
                g_bytes_unref(i->data);
            i->data = fresh;
            i->n = g_bytes_get_size(fresh);
        }
    }
}

/* The part of [offset, offset + n) that the selected item has. */
static const u8 *fw_cfg_here(struct fw_cfg *s, u32 n, size_t *ret_have)
{
    struct item *i = item_at(s, s->r.key);

    *ret_have = 0;
    if (!i || s->r.offset >= i->n)
        return NULL;
    *ret_have = MIN((size_t)n, i->n - s->r.offset);
    return item_bytes(i) + s->r.offset;
}

static void fw_cfg_skip(struct fw_cfg *s, u32 n)
{
    s->r.offset = n > UINT32_MAX - s->r.offset ? UINT32_MAX : s->r.offset + n;
}

static bool fw_cfg_dma_write(struct fw_cfg *s, gpa at, u32 n)
{
    struct item *i = item_at(s, s->r.key);
    struct ram *ram = s->dev.vm->ram;

    if (!i || !i->writable || s->r.offset > i->n || n > i->n - s->r.offset)
        return false;
    g_autofree u8 *copy = g_malloc(n ? n : 1); /* n is at most the item's own length */
    if (!ram_get(ram, at, copy, n))
        return false;
    memcpy(i->writable + s->r.offset, copy, n);
    if (i->written)
        i->written(i->opaque, i->writable, i->n);
    return true;
}

static bool fw_cfg_dma_read(struct fw_cfg *s, gpa at, u32 n)
{
    struct ram *ram = s->dev.vm->ram;
    size_t have;
    const u8 *from = fw_cfg_here(s, n, &have);

    if (have && !ram_put(ram, at, from, have))
        return false;
    return n == have || ram_fill(ram, at + have, 0, n - have);
}

static void fw_cfg_dma(struct fw_cfg *s, gpa at)
{
    struct ram *ram = s->dev.vm->ram;
    struct dma_access a; /* our copy */
    be32 done = be32_of(0);
    u32 control, n;
    gpa to;
    bool ok = true;

    if (!ram_get(ram, at, &a, sizeof a))
        return; /* nowhere to say so */
    control = be32_get(a.control);
    n = be32_get(a.length);
    to = be64_get(a.address);
    if (control & DMA_SELECT)
        fw_cfg_select(s, control >> 16);
    if (control & DMA_READ)
        ok = fw_cfg_dma_read(s, to, n);
    else if (control & DMA_WRITE)
        ok = fw_cfg_dma_write(s, to, n);
    else if (!(control & DMA_SKIP))
        n = 0;
    if (ok)
        fw_cfg_skip(s, n);
    else
        done = be32_of(DMA_ERROR);
    if (!ram_put(ram, at, &done, sizeof done))
        return;
}

static u64 fw_cfg_read(struct dev *d, u64 off, unsigned size UNUSED)
{
    struct fw_cfg *s = fw_cfg_of(d);
    const u8 *from;
    size_t have;

    if (off != 1)
        return 0;
    from = fw_cfg_here(s, 1, &have);
    fw_cfg_skip(s, 1);
    return have ? *from : 0;
}

static void fw_cfg_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    if (off == 0)
        fw_cfg_select(fw_cfg_of(d), val);
}

static u64 fw_cfg_dma_port_read(struct dev *d UNUSED, u64 off, unsigned size UNUSED)
{
    static const u8 signature[] = "QEMU CFG";

    return signature[off] | signature[off + 1] << 8 | signature[off + 2] << 16 |
           (u32)signature[off + 3] << 24;
}

static void fw_cfg_dma_port_write(struct dev *d, u64 off, u64 val, unsigned size UNUSED)
{
    struct fw_cfg *s = fw_cfg_of(d);
    u32 half = be32toh((u32)val);

    if (off == 0) {
        s->r.dma_high = half;
    } else {
        gpa at = (u64)s->r.dma_high << 32 | half;

        s->r.dma_high = 0;
        fw_cfg_dma(s, at);
    }
}

/* --- what the builder does ------------------------------------------------------------------
 */

static void item_set(struct fw_cfg *s, u16 key, GBytes *b)
{
    struct item *i = item_at(s, key);

    g_assert(i);
    item_clear(i);
    i->data = g_bytes_ref(b);
    i->n = g_bytes_get_size(b);
}

void fw_cfg_add_gbytes(struct dev *d, u16 key, GBytes *b)
{
    dev_lock(d);
    item_set(fw_cfg_of(d), key, b);
    dev_unlock(d);
}

void fw_cfg_add_bytes(struct dev *d, u16 key, const void *bytes, size_t n)
{
    g_autoptr(GBytes) b = g_bytes_new(bytes, n);

    fw_cfg_add_gbytes(d, key, b);
}

void fw_cfg_add_u16(struct dev *d, u16 key, u16 val)
{
    le16 v = le16_of(val);

    fw_cfg_add_bytes(d, key, &v, sizeof v);
}

void fw_cfg_add_u32(struct dev *d, u16 key, u32 val)
{
    le32 v = le32_of(val);

    fw_cfg_add_bytes(d, key, &v, sizeof v);
}

void fw_cfg_add_u64(struct dev *d, u16 key, u64 val)
{
    le64 v = le64_of(val);

    fw_cfg_add_bytes(d, key, &v, sizeof v);
}

void fw_cfg_add_string(struct dev *d, u16 key, const char *text)
{
    fw_cfg_add_bytes(d, key, text, strlen(text) + 1);
}

static struct item *file_find(struct fw_cfg *s, const char *name)
{
    for (unsigned n = 0; n < s->files; n++)
        if (!strcmp(s->item[FW_CFG_FILE_FIRST + n].name, name))
            return &s->item[FW_CFG_FILE_FIRST + n];
    return NULL;
}

/* The directory, anew. */
static void file_directory(struct fw_cfg *s)
{
    g_autoptr(GByteArray) dir = g_byte_array_new();
    be32 n = be32_of(s->files);

    g_byte_array_append(dir, (const u8 *)&n, sizeof n);
    for (unsigned k = 0; k < s->files; k++) {
        const struct item *i = &s->item[FW_CFG_FILE_FIRST + k];
        struct file_entry e = { .size = be32_of(i->n),
                                .select = be16_of(FW_CFG_FILE_FIRST + k) };

        memcpy(e.name, i->name, sizeof e.name);
        g_byte_array_append(dir, (const u8 *)&e, sizeof e);
    }
    g_autoptr(GBytes) b = g_bytes_new(dir->data, dir->len);
    item_set(s, FW_CFG_FILE_DIR, b);
}

/* Takes over what `fresh` holds. */
static bool file_set(struct dev *d, const char *name, struct item *fresh, GError **error)
{
    struct fw_cfg *s = fw_cfg_of(d);
    bool ok = false;

    dev_lock(d);
    struct item *i = file_find(s, name);

    if (strlen(name) == 0 || strlen(name) > FW_CFG_NAME_MAX)
        fail(error, ERR_ARGUMENT, "fw_cfg: the name '%s' has to be of 1 to %d bytes", name,
             FW_CFG_NAME_MAX);
    else if (fresh->n > UINT32_MAX)
        fail(error, ERR_LIMIT, "fw_cfg: '%s' is larger than 4 GiB", name);
    else if (!i && s->files == FW_CFG_FILES_MAX)
        fail(error, ERR_LIMIT, "fw_cfg: no room for '%s': there are %d files", name,
             FW_CFG_FILES_MAX);
    else
        ok = true;
    if (ok) {
        i = i ? i : &s->item[FW_CFG_FILE_FIRST + s->files++];
        item_clear(i);
        *i = *fresh;
        *fresh = (struct item){};
        g_strlcpy(i->name, name, sizeof i->name);
        file_directory(s);
    }
    dev_unlock(d);
    item_clear(fresh);
    return ok;
}

bool fw_cfg_add_file_gbytes(struct dev *d, const char *name, GBytes *b, GError **error)
{
    struct item i = { .data = g_bytes_ref(b), .n = g_bytes_get_size(b) };

    return file_set(d, name, &i, error);
}

bool fw_cfg_add_file(struct dev *d, const char *name, const void *bytes, size_t n,
                     GError **error)
{
    g_autoptr(GBytes) b = g_bytes_new(bytes, n);

    return fw_cfg_add_file_gbytes(d, name, b, error);
}

bool fw_cfg_add_callback(struct dev *d, const char *name, size_t n,
                         GBytes *(*make)(void *opaque), void *opaque, GError **error)
{
    struct item i = {
        .data = g_bytes_new_take(g_malloc0(n), n), .n = n, .make = make, .opaque = opaque
    };

    return file_set(d, name, &i, error);
}

bool fw_cfg_add_writable(struct dev *d, const char *name, const void *bytes, size_t n,
                         void (*written)(void *opaque, const u8 *bytes, size_t n), void *opaque,
                         GError **error)
{
    struct item i = {
        .writable = g_malloc0(MAX(n, 1)), .n = n, .written = written, .opaque = opaque
    };

    if (bytes && n)
        memcpy(i.writable, bytes, n);
    return file_set(d, name, &i, error);
}

GBytes *fw_cfg_file(struct dev *d, const char *name)
{
    dev_lock(d);
    struct item *i = file_find(fw_cfg_of(d), name);
    GBytes *b = i ? i->data : NULL;

    dev_unlock(d);
    return b;
}

/* --- the device -----------------------------------------------------------------------------
 */

static void fw_cfg_reset(struct dev *d)
{
    struct fw_cfg *s = fw_cfg_of(d);

    s->r = (struct fw_cfg_regs){};
    for (unsigned n = 0; n < s->files; n++)
        s->item[FW_CFG_FILE_FIRST + n].made = false;
}

static bool fw_cfg_init(struct dev *d, GError **error UNUSED)
{
    fw_cfg_add_bytes(d, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_add_u32(d, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
    if (!item_at(fw_cfg_of(d), FW_CFG_FILE_DIR)->data)
        file_directory(fw_cfg_of(d));
    return true;
}

static void fw_cfg_fini(struct dev *d)
{
    struct fw_cfg *s = fw_cfg_of(d);

    for (unsigned i = 0; i < KEYS_LOW; i++)
        item_clear(&s->item[i]);
    for (unsigned i = 0; i < KEYS_ARCH; i++)
        item_clear(&s->arch[i]);
}

static const struct region fw_cfg_ports = {
    .name = "fw_cfg",
    .len = 2,
    .min = 1,
    .max = 2,
    .read = fw_cfg_read,
    .write = fw_cfg_write,
};
static const struct region fw_cfg_dma_ports = {
    .name = "fw_cfg-dma",
    .len = 8,
    .min = 4,
    .max = 4,
    .read = fw_cfg_dma_port_read,
    .write = fw_cfg_dma_port_write,
};

const struct dev_type fw_cfg_type = {
    .name = "fw_cfg",
    .desc = "firmware configuration",
    .kind = DEV_SYSBUS,
    .size = sizeof(struct fw_cfg),
    .io = { &fw_cfg_ports, &fw_cfg_dma_ports },
    .state = STATE_TABLE(struct fw_cfg, r, fw_cfg_fields),
    .init = fw_cfg_init,
    .reset = fw_cfg_reset,
    .fini = fw_cfg_fini,
};
