// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * node.h - inside the image library: an image is a tree of nodes, and this is what one is.
 *
 *      qcow2 --backing--> raw          a format knows clusters, tables, headers
 *        |                 |
 *      file              file          a protocol moves bytes: file, nbd, https ...
 *
 * A filter (the overlay of -snapshot, a throttle) is a node whose child is a whole image.
 *
 * EXECUTION MODEL.  Operations block, and several threads call them on one node at once: the
 * workers of the door's queue (image.c) for the VMM, posada-img's own threads.  So a format is
 * plain sequential code; what it needs is a mutex over its metadata, never held while guest
 * data move, and struct ranges (ranges.h), which keeps requests out of each other's clusters.
 * Reasons: formats are where data get lost, and a state machine or coroutine for each of a
 * dozen would hide the order of writes that must be seen at a glance; threads run compression
 * and copying on all processors without further work; the cost, a wake-up a request, is paid
 * at the door only, which can hand requests that need no format to the kernel directly.
 *
 * Data path: 0 or -errno; nothing here aborts on what an image or a peer says.  Control path:
 * GError.  Every number from an image is checked before it sizes or indexes anything, and
 * every loop over foreign links has a bound.
 */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "base/types.h"
#include "image/dict.h"
#include "image/image.h"
#include "image/ranges.h"

struct graph;
struct job;

/* What is left of a request's buffer; the array is the request's own copy and is used up. */
struct cursor {
    struct iovec *v;
    int n;
};
void cursor_advance(struct cursor *, size_t n);
void cursor_zero(struct cursor *, size_t n); /* fills with zeroes, and advances */
void cursor_put(struct cursor *, const void *from, size_t n); /* copies in, and advances */
void cursor_get(struct cursor *, void *to, size_t n);         /* copies out, and advances */
bool cursor_is_zero(const struct cursor *, size_t n);         /* nothing else in the next n */
/* The next pieces, at most max bytes and `room` pieces; returns how many. */
int cursor_peek(const struct cursor *, size_t max, struct iovec *to, int room);

/* How to open; passed down to children with what does not hold for them taken away. */
struct open_how {
    bool write;
    bool no_backing; /* the chain above all: only this layer */
    bool no_io; /* only headers are of interest (info): children that are missing may stay so */
    bool check; /* do not repair on opening, and open what is corrupt */
    bool force_share; /* -U: takes no lock against others; only for reading */
    bool share_rw;    /* others may write too */
    bool discard;     /* discards reach the bottom */
    bool bitmaps;     /* dirty bitmaps are wanted even if nobody writes */
    enum image_cache cache;
    enum image_aio aio;
    u32 depth;           /* of the backing chain and of children, bounded */
    struct graph *graph; /* enters what is opened, and resolves node names; or NULL */
};

enum {
    EXTENT_DATA = 1,
    EXTENT_ZERO = 2,
    EXTENT_ALLOCATED = 4,
    EXTENT_OFFSET = 8,
    EXTENT_COMPRESSED = 16
};
/*
 * A run of bytes with one answer.  ALLOCATED: this layer decides what they are (else the
 * backing file).  ZERO: they read as zeroes.  DATA: storage lies behind them.  OFFSET: `host`
 * is where they lie in `in`, plainly.
 */
struct extent {
    u64 len;
    u32 flags;
    u64 host;
    struct node *in;
};

/* Table of options for create and amend; ends with a NULL name. */
enum option_type { OPTION_STR, OPTION_BOOL, OPTION_SIZE, OPTION_NUM };
struct image_option {
    const char *name;
    enum option_type type;
    const char *help;
    const char *def; /* shown when a new image is announced; NULL: not shown */
};

struct direct {
    int fd;
    u64 at;
    bool no_flush; /* nobody wants it to be durable */
};

struct node;
typedef void node_done(void *tag, int res);
struct driver {
    const char *name; /* "qcow2" */
    enum { FORMAT, PROTOCOL, FILTER } kind;
    size_t size;       /* of the driver's struct, which begins with struct node */
    bool backing;      /* can have a backing file */
    const char *child; /* filters: what the option is called that names theirs; NULL: "file" */
    bool new_is_zero;  /* every new image reads as zeroes: convert need not write them */

    /*
     * Formats: how sure (0 to 100) that the bytes are this format.  head: the first n_head
     * bytes, up to PROBE_BYTES; tail: the last 512, or none.
     */
    int (*probe)(const u8 *head, size_t n_head, const u8 *tail, size_t n_tail,
                 const char *filename);
    /* Protocols: file names that begin with one of these ("nbd:") are taken apart by parse. */
    const char *const *prefixes;
    bool (*parse)(const char *filename, struct dict *, GError **);

    /*
     * n->file is open (formats, filters).  Sets n->size, and n->backing_name if the header has
     * one; takes its options from the dict.  On failure close() is not called: use one release
     * function for both.
     */
    bool (*open)(struct node *, struct dict *, const struct open_how *, GError **);
    void (*close)(struct node *); /* flushes nothing that flush() would not have */

    /* 0 or -errno; at..at+len is inside n->size (protocols: writes may lie beyond and grow it,
     * reads beyond it give zeroes); len > 0.  Exactly len bytes are taken off the cursor. */
    int (*read)(struct node *, u64 at, u64 len, struct cursor *);
    int (*write)(struct node *, u64 at, u64 len, struct cursor *);
    int (*zero)(struct node *, u64 at, u64 len, bool may_unmap); /* NULL: zeroes are written */
    int (*discard)(struct node *, u64 at, u64 len);              /* NULL: nothing happens */
    /* All that write() has returned from is durable.  Metadata go in an order that leaves
     * leaks at worst: what is pointed to is durable before the pointer is written. */
    int (*flush)(struct node *);
    /* ret->len > 0, at most len. NULL: all is data here. */
    int (*status)(struct node *, u64 at, u64 len, struct extent *ret);
    /* One whole cluster (less at the image's end), compressed. NULL: cannot. */
    int (*write_compressed)(struct node *, u64 at, u64 len, struct cursor *);

    /* Formats: makes an image of `size` bytes on file, which is empty and writable. */
    const struct image_option *create_options;
    bool (*create)(struct node *file, u64 size, struct dict *, GError **);
    /* Protocols: makes or empties what the dict names.  NULL: it is there, or it is not. */
    bool (*create_file)(struct dict *, GError **);
    /* preallocation: NULL or a mode's name */
    bool (*resize)(struct node *, u64 size, const char *preallocation, GError **);
    const struct image_option *amend_options;
    bool (*amend)(struct node *, struct dict *, bool force, GError **);
    /* name NULL: no backing file any more */
    bool (*set_backing)(struct node *, const char *name, const char *format, GError **);
    bool (*make_empty)(struct node *, GError **);     /* nothing is allocated any more */
    void (*info)(struct node *, struct image_info *); /* fills in what the format knows */
    bool (*check)(struct node *, enum image_repair, struct image_check *ret, GError **);
    /* Bytes that an image of `size` with `data` bytes written takes. */
    bool (*measure)(u64 size, u64 data, struct dict *, struct image_measure *ret, GError **);
    const struct snapshot_ops *snapshots;
    const struct bitmap_ops *bitmaps; /* NULL: the format keeps none */
    /* Where the bytes lie plainly in a file, for io_uring, see node_direct(). NULL: not so. */
    bool (*direct)(struct node *, enum image_op, u64 at, u64 len, const struct iovec *, int n,
                   struct direct *ret);
    /*
     * The request without a thread that waits for it: true, and done(tag, 0 or -errno) comes
     * later from another thread, never inside the call; v's array is copied.  false: not so,
     * make it by read() and so on.  For READ, WRITE and FLUSH. NULL: never so.
     */
    bool (*start)(struct node *, enum image_op, u64 at, u64 len, const struct iovec *v, int n,
                  bool fua, node_done *done, void *tag);
    /* Protocols: writing comes or goes while it is open, and with it the locks. */
    bool (*set_writable)(struct node *, bool writable, GError **);
};

struct snapshot_ops {
    /* Each element is a struct image_snapshot, owned by the caller. */
    GPtrArray *(*list)(struct node *);
    bool (*create)(struct node *, const struct image_snapshot *, GError **);
    bool (*remove)(struct node *, const char *id, GError **);
    bool (*apply)(struct node *, const char *id, GError **);
    /* Reads give the snapshot's bytes from now on; the node is read-only. */
    bool (*load)(struct node *, const char *id, GError **);
};

/* Dirty bitmaps that the image itself keeps.  With the node: nobody else is inside. */
struct bitmap;
struct bitmap_ops {
    /* Puts what the image holds on the node, and if it is open for writing, does in_use(). */
    bool (*load)(struct node *, GError **);
    /* The file says: what it holds is out of date until store(). */
    bool (*in_use)(struct node *, GError **);
    /* All persistent ones of the node, and no others, are in the file. Twice is once. */
    bool (*store)(struct node *, GError **);
    bool (*remove)(struct node *, const char *name, GError **); /* from the file, now */
    bool (*can_store)(struct node *, const struct bitmap *, GError **);
    u64 (*space)(struct node *, u64 cluster); /* bytes in an image with such clusters */
};

/*
 * Told of each change to a node's bytes, on the thread that makes it.  Taps come and go only
 * while no request is under way (graph_pause()).  `range` is the change's own, for the tap to
 * keep others out with between before() and after().
 */
struct tap {
    /* Nothing has changed yet. Not 0: refuses the request with this -errno. */
    int (*before)(struct tap *, u64 at, u64 len, struct range *range); /* may be NULL */
    /* If before() did not refuse; the request may have failed. */
    void (*after)(struct tap *, u64 at, u64 len, struct range *range);
};
enum { TAP_BITMAPS, TAP_JOB, TAPS };

struct node {
    const struct driver *drv;
    _Atomic u32 refs;
    char *name;          /* node-name, or NULL */
    char *filename;      /* what to call it in messages; relative names start from its folder */
    _Atomic u64 size;    /* bytes; formats: a multiple of 512 */
    _Atomic u64 highest; /* byte after the last one written */
    bool read_only;
    enum image_detect_zeroes detect_zeroes;
    bool discard; /* discards are wanted; else node_discard() does nothing */
    u32 cluster;  /* bytes of a cluster, 0: the format has none */
    struct node *file, *backing, *data_file; /* references of ours */
    char *backing_name, *backing_format;     /* from the header */
    /* What follows is for nodes of a graph (graph.h). */
    struct graph *graph;      /* NULL: none */
    struct tap *taps[TAPS];   /* NULL: nobody there */
    struct job *job;          /* whose it is for now, or NULL */
    struct dict *opened_with; /* the driver's own options */
    enum image_cache cache;
    bool monitor;   /* blockdev-add holds a reference */
    bool auto_ro;   /* read-only until somebody wants to write */
    bool opened_rw; /* the driver is ready for writing, whatever read_only says */
};

/* --- graph.c --- */
enum { PROBE_BYTES = 2048, DEPTH_MAX = 200 };
extern const struct driver *const drivers[]; /* drivers.c; ends with NULL */
const struct driver *driver_find(const char *name);
const struct driver *probe_format(const u8 *head, size_t n_head, const u8 *tail, size_t n_tail,
                                  const char *filename);
/* Opens what the dict says ("driver", "file.driver", "file.filename", ...); takes the dict. */
struct node *node_open_dict(struct dict *, const struct open_how *, GError **);
/* The driver over a child that is open, which is taken (also on failure); d stays the
 * caller's.  Tests put formats over nodes of their own so. */
struct node *node_open_over(const struct driver *, struct dict *d, struct node *file,
                            const struct open_how *, GError **);
/* A name as people write it: a path, PROTOCOL:rest, json:{...}.  format NULL: probed. */
struct node *node_open_name(const char *name, const char *format, const struct open_how *,
                            GError **);
/* The options that such a name stands for. */
struct dict *node_name_options(const char *name, const char *format, GError **error);
/* The protocol alone, without a format. */
struct node *node_open_file(const char *name, const struct open_how *, GError **);
/* A child for a driver: dict's "key.*" if there are any, else the protocol of `name`, which is
 * relative to n's file name. */
struct node *node_open_child(struct node *n, struct dict *, const char *key, const char *name,
                             const struct open_how *, GError **);
bool node_open_backing(struct node *, struct dict *, const struct open_how *, GError **);
char *node_sibling(const char *filename, const char *name); /* name, as seen from filename */
/* A name's protocol: sets "driver" and what it needs ("filename"). */
bool node_parse_protocol(const char *name, struct dict *, GError **);
/* Makes or truncates the file `name` and opens it for writing: what create() begins with, and
 * what formats of several files make the others by. */
struct node *node_create_file(const char *name, struct dict *protocol_options, GError **);
struct node *node_ref(struct node *);
void node_unref(struct node *);
/* A node of the driver's kind that has not been opened; for filters that wrap. */
struct node *node_alloc(const struct driver *);

/* --- node.c: operations with bounds and defaults; what drivers call on their children --- */
int node_read(struct node *, u64 at, u64 len, struct cursor *);
int node_write(struct node *, u64 at, u64 len, struct cursor *);
int node_zero(struct node *, u64 at, u64 len, bool may_unmap);
int node_discard(struct node *, u64 at, u64 len);
int node_flush(struct node *);
int node_status(struct node *, u64 at, u64 len, struct extent *ret);
/* The same through the backing chain, see image_status_now(). */
int node_chain_status(struct node *, u64 at, u64 len, u32 layers, struct image_extent *ret);
/* May the request be made of that file instead?  If so, and it has been done as a whole, tell
 * node_direct_wrote() of a write's end.  For READ, WRITE and FLUSH. */
bool node_direct(struct node *, enum image_op, u64 at, u64 len, const struct iovec *, int n,
                 struct direct *ret);
void node_direct_wrote(struct node *, u64 end);
/* See driver.start; what comes of a write is told by node_direct_wrote() too. */
bool node_start(struct node *, enum image_op, u64 at, u64 len, const struct iovec *, int n,
                bool fua, node_done *, void *tag);
int node_pread(struct node *, u64 at, void *to, size_t n);
int node_pwrite(struct node *, u64 at, const void *from, size_t n);
/* From the backing file, zeroes where there is none or where it ends. */
int node_read_backing(struct node *, u64 at, u64 len, struct cursor *);
int node_pread_backing(struct node *, u64 at, void *to, size_t n);
/* For open functions: exactly n bytes, inside the file, or an error that names `what`. */
bool node_load(struct node *file, u64 at, void *to, size_t n, const char *what, GError **);
/* The same into fresh memory; at most `max` bytes. g_free. */
void *node_load_new(struct node *file, u64 at, u64 n, u64 max, const char *what, GError **);
bool node_truncate(struct node *, u64 size, GError **);
bool node_is_zero(const void *, size_t n);
struct image_info *node_get_info(struct node *); /* image_info_free */

/* QEMU's lock bytes on an open file description, see lock.c. Released when it is closed. */
enum { PERM_READ = 1, PERM_WRITE = 2, PERM_WRITE_UNCHANGED = 4, PERM_RESIZE = 8 };
bool lock_file(int fd, const char *path, u32 does, u32 denies, GError **error);
void lock_drop(int fd, u32 does, u32 denies); /* gives these up */
/* Takes base over. All writes go to an unlinked temporary file. */
struct node *overlay_open(struct node *base, GError **error);
