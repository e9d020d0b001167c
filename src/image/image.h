// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * image.h - disk images: the door.  Any format over any protocol, with its backing chain.
 *
 * Requests exist twice.  The asynchronous ones return at once; done(opaque, ret) runs later on
 * one of the image's own threads (never inside the call), ret 0 or -errno; the caller keeps
 * iov's memory (not the iov array, which is copied) until then.  The ones whose names end in
 * _now do the same on the caller's thread; any number of threads may.  Offsets and lengths are
 * bytes, any alignment; beyond the end is -EINVAL.  A write is durable after a flush that was
 * issued after its completion has completed.
 */
#pragma once

#include <glib.h>
#include <sys/uio.h>

#include "base/types.h"
#include "image/dict.h"

struct image;
struct graph; /* graph.h */

/* --- opening --- */

enum image_cache {
    IMAGE_WRITEBACK,
    IMAGE_NONE,
    IMAGE_WRITETHROUGH,
    IMAGE_DIRECTSYNC,
    IMAGE_UNSAFE
};
/* What becomes of writes of nothing but zeroes: ZERO makes write-zeroes of them, UNMAP ones
 * that may also free the space. */
enum image_detect_zeroes { IMAGE_DETECT_OFF, IMAGE_DETECT_ZERO, IMAGE_DETECT_UNMAP };
/* How requests are carried out, where image_reap_by() is used: by the kernel itself (io_uring;
 * NATIVE means the same), or by threads, as is what needs more than a file. */
enum image_aio { IMAGE_AIO_DEFAULT, IMAGE_AIO_THREADS, IMAGE_AIO_NATIVE, IMAGE_AIO_IO_URING };
bool image_aio_from_text(const char *text, enum image_aio *ret);
struct image_options {
    const char *format; /* NULL: probe */
    bool read_only;
    bool snapshot; /* writes go to a temporary overlay and are forgotten */
    enum image_cache cache;
    bool discard;
    enum image_detect_zeroes detect_zeroes;
    enum image_aio aio;
    const char *node_name; /* with a graph; NULL: one is made up */
    struct graph *graph;   /* where nodes, jobs and doors know each other; NULL: nowhere */
    const struct dict *driver; /* with a path: options of its driver (key-secret); or NULL */
    /* What follows is for tools. */
    bool no_backing;           /* this layer only */
    bool no_io;                /* headers only: what they refer to may be missing */
    bool check;                /* opens what is marked corrupt or dirty as it is */
    bool force_share;          /* reads although somebody else writes */
    bool share_rw;             /* others may write at the same time: the guest knows how */
    const char *load_snapshot; /* internal snapshot to read, by id or name */
    bool bitmaps;              /* dirty bitmaps are wanted although it is read-only */
};

typedef void image_done(void *opaque, int ret);

/*
 * path: a file or block device, PROTOCOL:rest, or json:{...} with driver=, file.filename= and
 * so on as -blockdev has them.  Takes the image lock that QEMU takes too (OFD locks); a second
 * writer is refused and told who holds it.
 */
struct image *image_open(const char *path, const struct image_options *, GError **error);
/* The same from options ("driver", "file.driver", ...); takes the dict. */
struct image *image_open_dict(struct dict *, const struct image_options *, GError **error);
void image_close(struct image *); /* waits for requests under way, flushes */
/* The same, saying whether the last flush went well: 0 or -errno. */
int image_finish(struct image *);
u64 image_size(const struct image *);
/* Called on the main thread after the image has got another size. */
typedef void image_resized(void *opaque);
void image_on_resize(struct image *, image_resized *, void *opaque);
bool image_read_only(const struct image *);
/* cache=writethrough and directsync: what has been written is durable, tables of the format
 * included, as after a flush. */
bool image_writethrough(const struct image *);
enum image_detect_zeroes image_detect_zeroes(const struct image *);
bool image_detect_zeroes_from_text(const char *text, enum image_detect_zeroes *ret);
const char *image_detect_zeroes_text(enum image_detect_zeroes);
const char *image_path(const struct image *);
const char *image_format(const struct image *);
const char *image_node_name(const struct image *); /* NULL: it has none */
bool image_format_known(const char *name);         /* a format or protocol that can be opened */
/* Names of formats (of those that can be created, if `create`); g_ptr_array_unref. */
GPtrArray *image_formats(bool create);
bool image_cache_from_text(const char *text, enum image_cache *ret); /* "writeback" ... */

/* --- requests --- */

enum image_op { IMAGE_OP_READ, IMAGE_OP_WRITE, IMAGE_OP_FLUSH, IMAGE_OP_DISCARD, IMAGE_OPS };

void image_read(struct image *, u64 at, const struct iovec *, int n, image_done *,
                void *opaque);
void image_write(struct image *, u64 at, const struct iovec *, int n, bool fua, image_done *,
                 void *opaque);
void image_flush(struct image *, image_done *, void *opaque);
void image_discard(struct image *, u64 at, u64 len, image_done *, void *opaque);
void image_write_zeroes(struct image *, u64 at, u64 len, bool may_unmap, image_done *,
                        void *opaque);
/* Waits until nothing is under way. What is limited (throttled) does not wait for its turn any
 * more; what is held after an error (IMAGE_STOP) is given up and completes with -ECANCELED. */
void image_drain(struct image *);
/* The same, but what is held stays so; how many that are. For a guest that stops. */
u32 image_quiesce(struct image *);
/* What is held now completes with -ECANCELED, soon. */
void image_give_up(struct image *);

int image_read_now(struct image *, u64 at, void *to, size_t n);
int image_write_now(struct image *, u64 at, const void *from, size_t n);
int image_write_compressed_now(struct image *, u64 at, const void *from, size_t n);
int image_zero_now(struct image *, u64 at, u64 len, bool may_unmap);
int image_discard_now(struct image *, u64 at, u64 len);
int image_flush_now(struct image *);

/*
 * For those with a loop of their own: requests go to the kernel directly if the image and the
 * host allow it (true), and their done() runs in image_reap(), which is to be called when
 * `eventfd` (or -1) rings, or in whoever drains the image.  Those that cannot go there complete
 * on the image's threads as ever.  Before the first request, and again with `off` when nothing
 * is under way.
 */
bool image_reap_by(struct image *, int eventfd);
void image_reap_off(struct image *);
u32 image_reap(struct image *); /* how many were done */
void image_reap_wait(struct image *, u32 msec);
/* Between true and false requests are collected, and go to the kernel together; image_reap() is
 * to follow, since the eventfd does not ring for those done at once. */
void image_batch(struct image *, bool);

/* --- what happens when a request fails --- */

/* STOP: it is held; image_retry() starts it again.  ENOSPC: STOP for a lack of space, else
 * REPORT.  What the image cannot do at all (-ENOTSUP, -EROFS, -EINVAL) is always reported. */
enum image_on_error { IMAGE_REPORT, IMAGE_IGNORE, IMAGE_STOP, IMAGE_ENOSPC };
/* A thread of the image's. did: REPORT, IGNORE or STOP. */
typedef void image_failed(void *opaque, bool read, int err, enum image_on_error did);
/* failed NULL: all errors are reported, which is how images begin. Before the first request. */
void image_watch_errors(struct image *, image_failed *failed, void *opaque);
/* write: all but reads. Any time. */
void image_on_errors(struct image *, enum image_on_error read, enum image_on_error write);
void image_errors(struct image *, enum image_on_error *ret_read,
                  enum image_on_error *ret_write);
bool image_on_error_from_text(const char *text, enum image_on_error *ret);
void image_retry(struct image *);
/* Since the last image_retry(): 0, or the -errno of the last request that was held. */
int image_held(struct image *);

/* --- how fast it may be --- */

enum image_limits {
    IMAGE_BPS, /* bytes a second, of reads and writes together */
    IMAGE_BPS_READ,
    IMAGE_BPS_WRITE,
    IMAGE_IOPS, /* requests a second */
    IMAGE_IOPS_READ,
    IMAGE_IOPS_WRITE,
    IMAGE_LIMITS
};
extern const char *const image_limit_names[IMAGE_LIMITS]; /* "bps-total" ... */
struct image_throttle {
    struct image_limit {
        u64 avg;     /* 0: no limit */
        u64 max;     /* in bursts; 0: bursts of a tenth of a second's worth */
        u64 seconds; /* how long a burst may be */
    } limit[IMAGE_LIMITS];
    u64 op_size; /* bytes: a bigger request counts as several; 0: as one */
};
void image_throttle_init(struct image_throttle *);
bool image_throttle_ok(const struct image_throttle *,
                       GError **error); /* do they go together? */
bool image_throttle_any(const struct image_throttle *);
/* Sets the limits of the group of that name for all its members, and makes this image one; no
 * limits: takes it out. They have to be ok. Any time. */
void image_set_throttle(struct image *, const char *group, const struct image_throttle *);
/* The group's name, g_free; NULL: the image is not limited. */
char *image_get_throttle(struct image *, struct image_throttle *ret);
/* A group that is there without members too, or new limits for it. */
bool image_throttle_group(const char *name, const struct image_throttle *, GError **error);
bool image_throttle_group_find(const char *name, struct image_throttle *ret); /* ret or NULL */
bool image_throttle_group_free(const char *name); /* false: it is in use, or not there */
/* The names of those that are there by themselves; g_ptr_array_unref. */
GPtrArray *image_throttle_groups(void);

/* --- what it has done --- */

struct image_stats { /* write zeroes count as writes */
    u64 bytes[IMAGE_OPS], done[IMAGE_OPS], failed[IMAGE_OPS], invalid[IMAGE_OPS], ns[IMAGE_OPS];
    u64 highest; /* byte after the last one written */
    u64 last_ns; /* CLOCK_MONOTONIC when the last one was done; 0: none yet */
};
void image_get_stats(struct image *, struct image_stats *ret);
/* A layer of the backing chain: names or NULL, valid while the chain stays as it is. */
struct image_layer {
    const char *name, *file_name;
    u64 highest, file_highest; /* byte after the last one written */
    bool has_file;
};
bool image_get_layer(const struct image *, u32 depth, struct image_layer *ret); /* 0: top */

/* --- what is where --- */

enum {
    IMAGE_DATA = 1,
    IMAGE_ZERO = 2,
    IMAGE_ALLOCATED = 4,
    IMAGE_OFFSET = 8,
    IMAGE_COMPRESSED = 16
};
struct image_extent {
    u64 at, len;
    u32 flags;
    u32 depth; /* layers below the top: 0 is the top */
    u64 host;  /* with IMAGE_OFFSET: where in `filename` */
    const char *filename;
};
/* The extent at `at`, at most len long, looking through at most `layers` layers (0: all). */
int image_status_now(struct image *, u64 at, u64 len, u32 layers, struct image_extent *ret);

/* --- what an image is --- */

/* A detail that the format alone knows, in the order shown. */
struct image_detail {
    char *name; /* as in JSON; for people dashes are spaces */
    enum { DETAIL_STR, DETAIL_INT, DETAIL_BOOL, DETAIL_LIST, DETAIL_DICT } type;
    char *text;
    s64 number;
    GPtrArray *members; /* struct image_detail, for LIST and DICT */
};
struct image_snapshot {
    char *id, *name;
    u64 vm_state_size, disk_size;
    u32 date_sec, date_nsec;
    u64 vm_clock_nsec;
    u64 icount; /* UINT64_MAX: none */
};
struct image_info {
    char *filename, *format;
    u64 virtual_size, actual_size;
    bool has_actual_size;
    u32 cluster_size;
    bool encrypted, compressed;
    bool has_dirty, dirty;
    char *backing_filename, *full_backing_filename, *backing_format;
    GPtrArray *snapshots; /* or NULL */
    GPtrArray *details;   /* struct image_detail, or NULL */
};
void image_info_free(struct image_info *);
struct image_info *image_get_info(struct image *);
/* For formats: appends to info->details, or to a member list. */
struct image_detail *image_detail_new(GPtrArray *to, const char *name, int type);
void image_detail_str(GPtrArray *to, const char *name, const char *value);
void image_detail_int(GPtrArray *to, const char *name, s64 value);
void image_detail_bool(GPtrArray *to, const char *name, bool value);
GPtrArray *image_details_new(void);

enum image_repair { REPAIR_NONE, REPAIR_LEAKS, REPAIR_ALL };
struct image_check {
    u64 corruptions, leaks, check_errors;
    u64 corruptions_fixed, leaks_fixed;
    u64 image_end, total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    bool has_clusters;
    void (*say)(void *opaque, const char *line); /* or NULL */
    void *opaque;
};
/* ERR_UNSUPPORTED: the format has no checks. */
bool image_check(struct image *, enum image_repair, struct image_check *, GError **error);

/* --- making and changing --- */

/* options: what -o has, "size" and "backing_file" among them; takes it. *ret_announce: the
 * "Formatting ..." line, if not NULL. */
bool image_create(const char *path, const char *format, u64 size, struct dict *options,
                  bool unsafe_backing, char **ret_announce, GError **error);
char *image_create_help(const char *format, const char *protocol, GError **error);
bool image_resize(struct image *, u64 size, const char *preallocation, GError **error);
/* Takes the dict. force: although it may destroy what the image holds. */
bool image_amend(struct image *, struct dict *, bool force, GError **error);
char *image_amend_help(const char *format, GError **error);
bool image_set_backing(struct image *, const char *name, const char *format, GError **error);
/* Lets the backing file show everywhere. */
bool image_make_empty(struct image *, GError **error);
struct image_measure {
    u64 required, fully_allocated;
    bool has_bitmaps; /* it could keep them */
};
/* What an image of that format would take: of `size` bytes with `data` of them written. */
bool image_measure(const char *format, u64 size, u64 data, struct dict *,
                   struct image_measure *ret, GError **error);
bool image_can_compress(const struct image *);
u32 image_cluster_size(const struct image *); /* 0: none */
bool image_new_is_zero(const struct image *); /* a new one of this format reads as zeroes */
bool image_has_backing(const struct image *);

/* --- dirty bitmaps that the image keeps: for tools, while nobody makes requests --- */
struct image_bitmap {
    const char *name; /* valid until the bitmaps change */
    u32 granularity;
    bool recording, inconsistent;
};
bool image_keeps_bitmaps(const struct image *); /* the format, as the image has it */
bool image_bitmap_get(struct image *, u32 index, struct image_bitmap *ret); /* false: no more */
/* granularity 0: as it fits */
bool image_bitmap_add(struct image *, const char *name, u64 granularity, bool disabled,
                      GError **error);
bool image_bitmap_remove(struct image *, const char *name, GError **error);
bool image_bitmap_clear(struct image *, const char *name, GError **error);
bool image_bitmap_enable(struct image *, const char *name, bool on, GError **error);
bool image_bitmap_merge(struct image *, const char *name, struct image *from,
                        const char *source, GError **error);
/* What closing does, too, but tells how it went; nothing may be changed afterwards. */
bool image_bitmaps_store(struct image *, GError **error);
u64 image_bitmaps_space(struct image *, u64 cluster); /* bytes in a new image */

/* --- internal snapshots --- */
void image_snapshot_free(struct image_snapshot *);
GPtrArray *image_snapshots(struct image *); /* NULL: the format has none */
bool image_snapshot_create(struct image *, const struct image_snapshot *, GError **error);
bool image_snapshot_remove(struct image *, const char *id_or_name, GError **error);
bool image_snapshot_apply(struct image *, const char *id_or_name, GError **error);
