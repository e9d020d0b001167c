// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * types.h - short integer names, byte-order integers, small macros.
 *
 * An integer that lies on a wire, a disk or in guest memory is a one-member struct (le32, be64):
 * arithmetic does not accept it, so the conversion cannot be forgotten.
 */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

/* A guest-physical address. */
typedef u64 gpa;

#define UNUSED      __attribute__((unused))
#define MUST_CHECK  __attribute__((warn_unused_result))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define NORETURN    __attribute__((noreturn))
#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define container_of(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#define ARRAY_LEN(a)                  (sizeof(a) / sizeof *(a))
#define ROUND_UP(x, a)                (((x) + (a)-1) & ~((__typeof__(x))(a)-1))
#define ROUND_DOWN(x, a)              ((x) & ~((__typeof__(x))(a)-1))
#define BIT(n)                        (1ull << (n))
#define KiB                           1024ull
#define MiB                           (1024ull * KiB)
#define GiB                           (1024ull * MiB)
#define NS_PER_SEC                    1000000000ull
#define NS_PER_MS                     1000000ull
#define NS_PER_US                     1000ull

#define POSADA_ENDIAN_TYPE(name, bits, get, put)                                                   \
    typedef struct name {                                                                          \
        u##bits raw;                                                                               \
    } __attribute__((packed)) name;                                                                \
    static inline u##bits name##_get(name v)                                                       \
    {                                                                                              \
        return get(v.raw);                                                                         \
    }                                                                                              \
    static inline name name##_of(u##bits v)                                                        \
    {                                                                                              \
        return (name){ put(v) };                                                                   \
    }
POSADA_ENDIAN_TYPE(le16, 16, le16toh, htole16)
POSADA_ENDIAN_TYPE(le32, 32, le32toh, htole32)
POSADA_ENDIAN_TYPE(le64, 64, le64toh, htole64)
POSADA_ENDIAN_TYPE(be16, 16, be16toh, htobe16)
POSADA_ENDIAN_TYPE(be32, 32, be32toh, htobe32)
POSADA_ENDIAN_TYPE(be64, 64, be64toh, htobe64)
