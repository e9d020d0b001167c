// SPDX-License-Identifier: GPL-2.0-or-later
/* probe.c - which format an image's bytes announce, so that a refusal can name it. */
#include <string.h>

#include "image/node.h"

struct magic {
    const char *format;
    u32 at;
    bool tail; /* in the last 512 bytes */
    const char *bytes;
    u32 n;
};
#define MAGIC(f, a, s)                                                                         \
    {                                                                                          \
        .format = f, .at = a, .bytes = s, .n = sizeof(s) - 1                                   \
    }
#define MAGIC_TAIL(f, s)                                                                       \
    {                                                                                          \
        .format = f, .tail = true, .bytes = s, .n = sizeof(s) - 1                              \
    }

static const struct magic magics[] = {
    MAGIC("qcow2", 0, "QFI\xfb\0\0\0\2"),
    MAGIC("qcow2", 0, "QFI\xfb\0\0\0\3"),
    MAGIC("qcow", 0, "QFI\xfb\0\0\0\1"),
    MAGIC("qed", 0, "QED\0"),
    MAGIC("vmdk", 0, "KDMV"),
    MAGIC("vmdk", 0, "COWD"),
    MAGIC("vmdk", 0, "# Disk DescriptorFile"),
    MAGIC("vdi", 0x40, "\x7f\x10\xda\xbe"),
    MAGIC("vhdx", 0, "vhdxfile"),
    MAGIC("vpc", 0, "conectix"),
    MAGIC_TAIL("vpc", "conectix"),
    MAGIC("parallels", 0, "WithoutFreeSpace"),
    MAGIC("parallels", 0, "WithouFreSpacExt"),
    MAGIC("luks", 0, "LUKS\xba\xbe"),
    MAGIC("bochs", 0, "Bochs Virtual HD Image"),
    MAGIC_TAIL("dmg", "koly"),
};

const char *probe_format(const u8 *head, size_t n_head, const u8 *tail, size_t n_tail)
{
    for (u32 i = 0; i < ARRAY_LEN(magics); i++) {
        const struct magic *m = &magics[i];
        const u8 *in = m->tail ? tail : head;
        size_t n = m->tail ? n_tail : n_head;

        if (m->at + m->n <= n && !memcmp(in + m->at, m->bytes, m->n))
            return m->format;
    }
    return "raw";
}

bool probe_known(const char *format)
{
    for (u32 i = 0; i < ARRAY_LEN(magics); i++) {
        if (!strcmp(magics[i].format, format))
            return true;
    }
    return !strcmp(format, "raw");
}
