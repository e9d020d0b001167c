// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * nbd.h - the numbers of the Network Block Device protocol, and its messages as they lie on the
 * wire.  Names are those of doc/proto.md of the nbd project.
 */
#pragma once

#include "base/types.h"

#define NBD_MAGIC              0x4e42444d41474943ull /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC         0x49484156454f5054ull /* "IHAVEOPT" */
#define NBD_OLDSTYLE_MAGIC     0x00420281861253ull
#define NBD_REP_MAGIC          0x0003e889045565a9ull
#define NBD_REQUEST_MAGIC      0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_CHUNK_MAGIC        0x668e33efu

enum {
    NBD_PORT = 10809,
    NBD_NAME_MAX = 4096,        /* bytes of a string */
    NBD_PAYLOAD_MAX = 32 << 20, /* bytes that a request or a reply may carry */
    NBD_OPT_DATA_MAX = 65536,   /* bytes of an option or its reply, which are names at most */
};

/* handshake flags, both ways */
enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT,
    NBD_OPT_LIST,
    NBD_OPT_PEEK_EXPORT,
    NBD_OPT_STARTTLS,
    NBD_OPT_INFO,
    NBD_OPT_GO,
    NBD_OPT_STRUCTURED_REPLY,
    NBD_OPT_LIST_META_CONTEXT,
    NBD_OPT_SET_META_CONTEXT,
};
enum { NBD_REP_ACK = 1, NBD_REP_SERVER, NBD_REP_INFO, NBD_REP_META_CONTEXT };
#define NBD_REP_ERR                 (1u << 31)
#define NBD_REP_ERR_UNSUP           (NBD_REP_ERR | 1)
#define NBD_REP_ERR_POLICY          (NBD_REP_ERR | 2)
#define NBD_REP_ERR_INVALID         (NBD_REP_ERR | 3)
#define NBD_REP_ERR_PLATFORM        (NBD_REP_ERR | 4)
#define NBD_REP_ERR_TLS_REQD        (NBD_REP_ERR | 5)
#define NBD_REP_ERR_UNKNOWN         (NBD_REP_ERR | 6)
#define NBD_REP_ERR_SHUTDOWN        (NBD_REP_ERR | 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD (NBD_REP_ERR | 8)
#define NBD_REP_ERR_TOO_BIG         (NBD_REP_ERR | 9)
enum { NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE };

/* transmission flags: what the export can do */
enum {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_ROTATIONAL = 1 << 4,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_RESIZE = 1 << 9,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
};

enum {
    NBD_CMD_READ,
    NBD_CMD_WRITE,
    NBD_CMD_DISC,
    NBD_CMD_FLUSH,
    NBD_CMD_TRIM,
    NBD_CMD_CACHE,
    NBD_CMD_WRITE_ZEROES,
    NBD_CMD_BLOCK_STATUS,
};
enum {
    NBD_CMD_FLAG_FUA = 1,
    NBD_CMD_FLAG_NO_HOLE = 2,
    NBD_CMD_FLAG_DF = 4,
    NBD_CMD_FLAG_REQ_ONE = 8,
    NBD_CMD_FLAG_FAST_ZERO = 16,
};
/* structured replies */
enum { NBD_REPLY_FLAG_DONE = 1 };
enum {
    NBD_REPLY_NONE = 0,
    NBD_REPLY_OFFSET_DATA = 1,
    NBD_REPLY_OFFSET_HOLE = 2,
    NBD_REPLY_BLOCK_STATUS = 5,
    NBD_REPLY_ERR = 1 << 15,
    NBD_REPLY_ERROR = 1 << 15 | 1,
    NBD_REPLY_ERROR_OFFSET = 1 << 15 | 2,
};
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };

enum {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

struct nbd_option {
    be64 magic;
    be32 option, len;
} __attribute__((packed));
struct nbd_option_reply {
    be64 magic;
    be32 option, type, len;
} __attribute__((packed));
struct nbd_request {
    be32 magic;
    be16 flags, type;
    be64 cookie, at;
    be32 len;
} __attribute__((packed));
struct nbd_simple_reply {
    be32 magic, error;
    be64 cookie;
} __attribute__((packed));
struct nbd_chunk {
    be32 magic;
    be16 flags, type;
    be64 cookie;
    be32 len;
} __attribute__((packed));
