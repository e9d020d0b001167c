// SPDX-License-Identifier: GPL-2.0-or-later
/* monitor_impl.h - what the kinds of monitors share; included in this folder only. */
#pragma once

#include "vmm/core/vm.h"
#include "vmm/monitor/monitor.h"

struct job_event;
struct monitor {
    struct vm *vm;
    struct chardev *chardev;
    GString *out; /* what the chardev has not taken yet */
    void (*event)(struct monitor *, enum vm_event, enum vm_cause); /* may be NULL */
    void (*deleted)(struct monitor *, const char *dev); /* a device; may be NULL */
    void (*tray)(struct monitor *, const char *drive, const char *dev,
                 bool open); /* a tray has moved; may be NULL */
    /* A request to a disk has failed (vm.h); may be NULL. */
    void (*io_error)(struct monitor *, const char *drive, const char *dev, const char *node,
                     bool read, int err, enum vm_io_error did);
    void (*job)(struct monitor *, const struct job_event *); /* may be NULL */
    void (*exported)(struct monitor *, const char *id); /* an export is gone; may be NULL */
    void (*free)(struct monitor *);
};

/* Beyond this the other side has to read before it may say more. */
enum { MONITOR_OUT_HIGH = 256 * 1024, MONITOR_OUT_MAX = 16 * 1024 * 1024 };

bool monitor_check(struct chardev *, GError **error);
void monitor_add(struct monitor *, struct vm *, struct chardev *);
void monitor_clear(struct monitor *); /* frees what monitor_add() made */
void monitor_put(struct monitor *, const char *text, size_t n);
void monitor_flush(struct monitor *);
/* Room for input: none while too much output waits. */
size_t monitor_room(const struct monitor *);

void monitor_export_deleted(struct vm *, const char *id);
void exports_free(struct vm *); /* ends the NBD server and all that it has */

/* ---- QMP ---- */

struct json_out;
struct qmp_drive_backup;
struct qmp_blockdev_backup;

/* Writes "event": ..., "data": ... into an open object. */
void qmp_job_event_put(struct json_out *, const struct job_event *);
struct transaction;
/* As commands, and as actions of a transaction (t not NULL). */
bool qmp_drive_backup_in(struct vm *, struct transaction *t, const struct qmp_drive_backup *,
                         GError **error);
bool qmp_blockdev_backup_in(struct vm *, struct transaction *t,
                            const struct qmp_blockdev_backup *, GError **error);
struct node;
/* A value: what an image is, with what lies below it unless flat. */
void qmp_put_image(struct json_out *, struct node *, bool flat);
/* Members of an open object that are the same for a drive's image and a node. */
void qmp_put_layers(struct json_out *, struct node *);
/* What the image library says, as QMP says it. */
bool qmp_told(bool ok, GError **why, GError **error);

void qmp_event_put(struct json_out *, struct vm *, enum vm_event, enum vm_cause);
void qmp_version_put(struct json_out *);

/* ---- the human monitor ---- */

struct hmp_command {
    const char *name, *args, *help;
    void (*run)(struct vm *, const char *args, GString *to);
};
extern const struct hmp_command hmp_commands[]; /* ends with name NULL */
extern const struct hmp_command hmp_infos[];
void hmp_memory(struct vm *, const char *args, bool physical, GString *to);
void hmp_print(struct vm *, const char *args, GString *to);
/* Names that begin with this, to complete it; *ret_common (g_free) is their common beginning.
 */
u32 hmp_complete(const char *line, char **ret_common, GString *list);

/* A line editor; its text is what has been typed. */
enum { LINE_MAX_BYTES = 1024, LINE_HISTORY = 32 };
struct line_edit {
    char text[LINE_MAX_BYTES];
    u32 len, at;
    u8 escape; /* inside an escape sequence: 1 after ESC, 2 after ESC [, 3 parameters */
    char *history[LINE_HISTORY]; /* newest last */
    u32 n_history, shown;
};
/* One key. What the terminal shall do goes to `echo`. true: the line is complete. */
bool line_key(struct line_edit *, u8 key, const char *prompt, GString *echo);
void line_redraw(const struct line_edit *, const char *prompt, GString *echo);
void line_done(struct line_edit *); /* into the history; a new line begins */
void line_clear(struct line_edit *);
