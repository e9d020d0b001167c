// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_pack.c - compressed clusters: raw deflate (RFC 1951) or a zstd frame.
 *
 * What is stored is followed by bytes that belong to nobody, up to a sector's end, so both are
 * read as streams that know their own end.  Contexts are costly to make and are kept.
 */
#include <errno.h>
#include <libdeflate.h>
#include <zstd.h>

#include "image/format/qcow2.h"

/* Levels whose results are no larger than those of peers with the usual ones, for clusters. */
struct packer {
    struct libdeflate_compressor *deflate;
    struct libdeflate_decompressor *inflate;
    ZSTD_CCtx *zc;
    ZSTD_DCtx *zd;
};
enum { DEFLATE_LEVEL = 4, ZSTD_LEVEL = 4, SAMPLES = 3, SAMPLE = 4096, NOISE = 2048 };

static struct packer *packer_take(struct qcow2 *q)
{
    struct packer *p = NULL;

    pthread_mutex_lock(&q->pool_lock);
    if (q->packers->len)
        p = g_ptr_array_remove_index_fast(q->packers, q->packers->len - 1);
    pthread_mutex_unlock(&q->pool_lock);
    return p ? p : g_new0(struct packer, 1);
}

static void packer_give(struct qcow2 *q, struct packer *p)
{
    pthread_mutex_lock(&q->pool_lock);
    g_ptr_array_add(q->packers, p);
    pthread_mutex_unlock(&q->pool_lock);
}

void qcow2_packers_free(struct qcow2 *q)
{
    for (guint i = 0; i < q->packers->len; i++) {
        struct packer *p = q->packers->pdata[i];

        libdeflate_free_compressor(p->deflate);
        libdeflate_free_decompressor(p->inflate);
        ZSTD_freeCCtx(p->zc);
        ZSTD_freeDCtx(p->zd);
        g_free(p);
    }
    g_ptr_array_unref(q->packers);
}

/*
 * Noise (what is compressed or encrypted already) costs deflate more time than anything else.
 * It is what has all bytes equally often (by chi squared; noise has about 255) and where
 * samples do not shrink either.
 */
static bool is_noise(struct packer *p, u8 *scratch, const u8 *from, size_t n)
{
    u32 count[4][256] = { 0 };
    double sum = 0;

    if (n < 8 * SAMPLE)
        return false;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        count[0][from[i]]++;
        count[1][from[i + 1]]++;
        count[2][from[i + 2]]++;
        count[3][from[i + 3]]++;
    }
    for (u32 i = 0; i < 256; i++) {
        double c = (double)count[0][i] + count[1][i] + count[2][i] + count[3][i];
        sum += c * c;
    }
    if (sum * 256.0 / (double)n - (double)n > NOISE)
        return false;
    for (u32 i = 0; i < SAMPLES; i++) {
        if (libdeflate_deflate_compress(p->deflate, from + i * (n - SAMPLE) / (SAMPLES - 1),
                                        SAMPLE, scratch, SAMPLE - SAMPLE / 64))
            return false;
    }
    return true;
}

s64 qcow2_pack(struct qcow2 *q, void *to, const void *from, size_t n)
{
    struct packer *p = packer_take(q);
    s64 r = -ENOMEM;

    if (q->compression == COMPRESSION_ZSTD) {
        if (p->zc || (p->zc = ZSTD_createCCtx())) {
            size_t k = ZSTD_compressCCtx(p->zc, to, n - 1, from, n, ZSTD_LEVEL);
            r = ZSTD_isError(k) ? 0 : (s64)k;
        }
    } else if (p->deflate || (p->deflate = libdeflate_alloc_compressor(DEFLATE_LEVEL))) {
        r = is_noise(p, to, from, n)
                ? 0
                : (s64)libdeflate_deflate_compress(p->deflate, from, n, to, n - 1);
    }
    packer_give(q, p);
    return r;
}

int qcow2_unpack(struct qcow2 *q, void *to, size_t n, const void *from, size_t n_from)
{
    struct packer *p = packer_take(q);
    int r = -ENOMEM;

    if (q->compression == COMPRESSION_ZSTD) {
        size_t frame = ZSTD_findFrameCompressedSize(from, n_from);

        if (ZSTD_isError(frame))
            r = -EIO;
        else if (p->zd || (p->zd = ZSTD_createDCtx()))
            r = ZSTD_decompressDCtx(p->zd, to, n, from, frame) == n ? 0 : -EIO;
    } else if (p->inflate || (p->inflate = libdeflate_alloc_decompressor())) {
        size_t used;

        r = libdeflate_deflate_decompress_ex(p->inflate, from, n_from, to, n, &used, NULL)
                ? -EIO
                : 0;
    }
    packer_give(q, p);
    return r;
}
