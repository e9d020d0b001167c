// SPDX-License-Identifier: GPL-2.0-or-later
/* qmp_jobs.c - the QMP commands and events of jobs.  Main loop. */
#include <string.h>

#include "image/job.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/qmp/qmp_gen.h"

/* The schema's list and job.h's are one. */
_Static_assert(QMP_JOB_STATUS_UNDEFINED == (int)JOB_UNDEFINED &&
                   QMP_JOB_STATUS_STANDBY == (int)JOB_STANDBY &&
                   QMP_JOB_STATUS_NULL == (int)JOB_NULL,
               "JobStatus");

static struct graph *graph_of(struct vm *vm, GError **error)
{
    if (!vm->graph)
        qmp_fail(error, QMP_GENERIC_ERROR, "this machine has no disks");
    return vm->graph;
}

static int type_of(const char *name)
{
    for (int i = 0; i < QMP_JOB_TYPE__MAX; i++) {
        if (strcmp(qmp_job_type_names[i], name) == 0)
            return i;
    }
    return 0;
}

void qmp_job_event_put(struct json_out *o, const struct job_event *ev)
{
    int type = type_of(ev->type);
    s64 len = (s64)ev->len, offset = (s64)ev->offset, speed = (s64)ev->speed;

    switch (ev->kind) {
    case JOB_EV_STATUS:
        qmp_event_job_status_change(o, ev->id, (int)ev->status);
        break;
    case JOB_EV_READY:
        qmp_event_block_job_ready(o, type, ev->id, len, offset, speed);
        break;
    case JOB_EV_COMPLETED:
        qmp_event_block_job_completed(o, type, ev->id, len, offset, speed, ev->error);
        break;
    case JOB_EV_CANCELLED:
        qmp_event_block_job_cancelled(o, type, ev->id, len, offset, speed);
        break;
    case JOB_EV_PENDING:
        qmp_event_block_job_pending(o, type, ev->id);
        break;
    case JOB_EV_ERROR:
        qmp_event_block_job_error(
            o, ev->id, ev->write ? QMP_IO_OPERATION_TYPE_WRITE : QMP_IO_OPERATION_TYPE_READ,
            ev->action == JOB_STOP     ? QMP_BLOCK_ERROR_ACTION_STOP
            : ev->action == JOB_IGNORE ? QMP_BLOCK_ERROR_ACTION_IGNORE
                                       : QMP_BLOCK_ERROR_ACTION_REPORT);
        break;
    }
}

/* --- lists -----------------------------------------------------------------------------------
 */

bool qmp_query_jobs(struct vm *vm, struct json_out *o, GError **error UNUSED)
{
    json_open(o, '[');
    for (u32 i = 0; vm->graph && i < job_count(vm->graph); i++) {
        struct job_info j;

        job_get_info(job_at(vm->graph, i), &j);
        json_open(o, '{');
        json_put_int(o, "current-progress", (s64)j.offset);
        json_put_str(o, "status", job_status_names[j.status]);
        json_put_int(o, "total-progress", (s64)j.len);
        json_put_str(o, "type", j.type);
        json_put_str(o, "id", j.id);
        if (j.error)
            json_put_str(o, "error", j.error);
        json_close(o, '}');
    }
    json_close(o, ']');
    return true;
}

bool qmp_query_block_jobs(struct vm *vm, struct json_out *o, GError **error UNUSED)
{
    json_open(o, '[');
    for (u32 i = 0; vm->graph && i < job_count(vm->graph); i++) {
        struct job_info j;

        job_get_info(job_at(vm->graph, i), &j);
        if (!j.block)
            continue;
        json_open(o, '{');
        json_put_bool(o, "auto-finalize", j.auto_finalize);
        json_put_str(o, "io-status", j.io_status);
        json_put_str(o, "device", j.id);
        json_put_bool(o, "auto-dismiss", j.auto_dismiss);
        json_put_bool(o, "busy", j.busy);
        json_put_int(o, "len", (s64)j.len);
        json_put_int(o, "offset", (s64)j.offset);
        json_put_str(o, "status", job_status_names[j.status]);
        json_put_bool(o, "paused", j.paused);
        json_put_int(o, "speed", (s64)j.speed);
        json_put_bool(o, "ready", j.ready);
        json_put_str(o, "type", j.type);
        if (j.error)
            json_put_str(o, "error", j.error);
        json_close(o, '}');
    }
    json_close(o, ']');
    return true;
}

/* --- verbs -----------------------------------------------------------------------------------
 */

/* block: by a command on block jobs, with its own words. */
static struct job *find(struct vm *vm, const char *id, bool block, GError **error)
{
    struct job *j = vm->graph ? job_find(vm->graph, id) : NULL;

    if (j && block) {
        struct job_info info;

        job_get_info(j, &info);
        if (!info.block)
            j = NULL;
    }
    if (!j && block)
        qmp_fail(error, QMP_DEVICE_NOT_ACTIVE, "Block job '%s' not found", id);
    else if (!j)
        qmp_fail(error, QMP_GENERIC_ERROR, "Job not found");
    return j;
}

#define VERB(name, key, block, call)                                                           \
    bool qmp_##name(struct vm *vm, const struct qmp_##name *a, struct json_out *ret UNUSED,    \
                    GError **error)                                                            \
    {                                                                                          \
        struct job *j = find(vm, a->key, block, error);                                        \
        GError *why = NULL;                                                                    \
                                                                                               \
        return j && qmp_told(call, &why, error);                                               \
    }

VERB(job_pause, id, false, job_pause(j, &why))
VERB(job_resume, id, false, job_resume(j, &why))
VERB(job_cancel, id, false, job_cancel(j, true, &why))
VERB(job_complete, id, false, job_complete(j, &why))
VERB(job_dismiss, id, false, job_dismiss(j, &why))
VERB(job_finalize, id, false, job_finalize(j, &why))
VERB(block_job_set_speed, device, true, job_set_speed(j, a->speed, &why))
VERB(block_job_pause, device, true, job_pause(j, &why))
VERB(block_job_resume, device, true, job_resume(j, &why))
VERB(block_job_complete, device, true, job_complete(j, &why))
VERB(block_job_dismiss, id, true, job_dismiss(j, &why))
VERB(block_job_finalize, id, true, job_finalize(j, &why))
VERB(block_job_cancel, device, true, job_cancel(j, a->force, &why))

/* --- beginning -------------------------------------------------------------------------------
 */

static enum job_on_error on_error(bool has, enum qmp_blockdev_on_error e)
{
    if (!has)
        return JOB_REPORT;
    switch (e) {
    case QMP_BLOCKDEV_ON_ERROR_IGNORE:
        return JOB_IGNORE;
    case QMP_BLOCKDEV_ON_ERROR_STOP:
        return JOB_STOP;
    case QMP_BLOCKDEV_ON_ERROR_ENOSPC:
    case QMP_BLOCKDEV_ON_ERROR_AUTO:
        return JOB_ENOSPC;
    default:
        return JOB_REPORT;
    }
}

/* What all commands that begin a job have. */
#define JOB_ARGS(a)                                                                            \
    {                                                                                          \
        .id = (a)->job_id, .device = (a)->device, .speed = (a)->speed,                         \
        .manual_finalize = (a)->has_auto_finalize && !(a)->auto_finalize,                      \
        .manual_dismiss = (a)->has_auto_dismiss && !(a)->auto_dismiss                          \
    }

static enum job_sync sync_of(enum qmp_mirror_sync_mode s)
{
    static const enum job_sync modes[] = {
        [QMP_MIRROR_SYNC_MODE_TOP] = SYNC_TOP,
        [QMP_MIRROR_SYNC_MODE_FULL] = SYNC_FULL,
        [QMP_MIRROR_SYNC_MODE_NONE] = SYNC_NONE,
        [QMP_MIRROR_SYNC_MODE_INCREMENTAL] = SYNC_INCREMENTAL,
        [QMP_MIRROR_SYNC_MODE_BITMAP] = SYNC_BITMAP,
    };

    return modes[s];
}

static bool start_mirror(struct vm *vm, struct mirror_args *m, bool has_granularity,
                         s64 granularity, GError **error)
{
    GError *why = NULL;

    if (!graph_of(vm, error))
        return false;
    if (m->sync == SYNC_INCREMENTAL || m->sync == SYNC_BITMAP)
        return qmp_fail(error, QMP_GENERIC_ERROR, "Sync mode '%s' not supported",
                        m->sync == SYNC_BITMAP ? "bitmap" : "incremental");
    if (has_granularity && granularity < 0)
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Parameter 'granularity' expects a value in range [512B, 64MB]");
    m->granularity = has_granularity ? (u64)granularity : 0;
    return qmp_told(job_mirror(vm->graph, m, &why), &why, error);
}

bool qmp_drive_mirror(struct vm *vm, const struct qmp_drive_mirror *a,
                      struct json_out *ret UNUSED, GError **error)
{
    struct mirror_args m = {
        .job = JOB_ARGS(a),
        .target = { .file = a->target,
                    .format = a->format,
                    .node_name = a->node_name,
                    .existing = a->has_mode && a->mode == QMP_NEW_IMAGE_MODE_EXISTING },
        .sync = sync_of(a->sync),
        .replaces = a->replaces,
        .write_blocking =
            a->has_copy_mode && a->copy_mode == QMP_MIRROR_COPY_MODE_WRITE_BLOCKING,
        .keep_allocated = a->has_unmap && !a->unmap,
    };

    m.job.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    m.job.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return start_mirror(vm, &m, a->has_granularity, a->granularity, error);
}

bool qmp_blockdev_mirror(struct vm *vm, const struct qmp_blockdev_mirror *a,
                         struct json_out *ret UNUSED, GError **error)
{
    struct mirror_args m = {
        .job = JOB_ARGS(a),
        .target = { .node = a->target },
        .sync = sync_of(a->sync),
        .replaces = a->replaces,
        .write_blocking =
            a->has_copy_mode && a->copy_mode == QMP_MIRROR_COPY_MODE_WRITE_BLOCKING,
    };

    m.job.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    m.job.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return start_mirror(vm, &m, a->has_granularity, a->granularity, error);
}

static bool start_backup(struct vm *vm, struct transaction *t, const struct backup_args *b,
                         GError **error)
{
    GError *why = NULL;

    if (!graph_of(vm, error))
        return false;
    return qmp_told(t ? transaction_backup(t, b, &why) : job_backup(vm->graph, b, &why), &why,
                    error);
}

/* incremental is bitmap by another name, so it wants no mode, and bitmap wants one. */
static bool bitmap_mode_ok(enum job_sync sync, bool has_mode, GError **error)
{
    return sync != SYNC_BITMAP || has_mode ||
           qmp_fail(error, QMP_GENERIC_ERROR,
                    "Bitmap sync mode must be given when providing a bitmap");
}

bool qmp_drive_backup_in(struct vm *vm, struct transaction *t, const struct qmp_drive_backup *a,
                         GError **error)
{
    struct backup_args b = {
        .job = JOB_ARGS(a),
        .target = { .file = a->target,
                    .format = a->format,
                    .existing = a->has_mode && a->mode == QMP_NEW_IMAGE_MODE_EXISTING },
        .sync = sync_of(a->sync),
        .bitmap = a->bitmap,
        .bitmap_mode = a->has_bitmap_mode ? (int)a->bitmap_mode : BITMAP_ON_SUCCESS,
        .compress = a->compress,
    };

    b.job.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    b.job.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return bitmap_mode_ok(b.sync, a->has_bitmap_mode, error) && start_backup(vm, t, &b, error);
}

bool qmp_blockdev_backup_in(struct vm *vm, struct transaction *t,
                            const struct qmp_blockdev_backup *a, GError **error)
{
    struct backup_args b = {
        .job = JOB_ARGS(a),
        .target = { .node = a->target },
        .sync = sync_of(a->sync),
        .bitmap = a->bitmap,
        .bitmap_mode = a->has_bitmap_mode ? (int)a->bitmap_mode : BITMAP_ON_SUCCESS,
        .compress = a->compress,
    };

    b.job.on_source_error = on_error(a->has_on_source_error, a->on_source_error);
    b.job.on_target_error = on_error(a->has_on_target_error, a->on_target_error);
    return bitmap_mode_ok(b.sync, a->has_bitmap_mode, error) && start_backup(vm, t, &b, error);
}

bool qmp_drive_backup(struct vm *vm, const struct qmp_drive_backup *a,
                      struct json_out *ret UNUSED, GError **error)
{
    return qmp_drive_backup_in(vm, NULL, a, error);
}

bool qmp_blockdev_backup(struct vm *vm, const struct qmp_blockdev_backup *a,
                         struct json_out *ret UNUSED, GError **error)
{
    return qmp_blockdev_backup_in(vm, NULL, a, error);
}

bool qmp_block_commit(struct vm *vm, const struct qmp_block_commit *a,
                      struct json_out *ret UNUSED, GError **error)
{
    struct commit_args c = {
        .job = JOB_ARGS(a),
        .top = a->top,
        .top_node = a->top_node,
        .base = a->base,
        .base_node = a->base_node,
        .backing_file = a->backing_file,
    };
    GError *why = NULL;

    c.job.on_source_error = c.job.on_target_error = on_error(a->has_on_error, a->on_error);
    return graph_of(vm, error) && qmp_told(job_commit(vm->graph, &c, &why), &why, error);
}

bool qmp_block_stream(struct vm *vm, const struct qmp_block_stream *a,
                      struct json_out *ret UNUSED, GError **error)
{
    struct stream_args s = {
        .job = JOB_ARGS(a),
        .base = a->base,
        .base_node = a->base_node,
        .bottom = a->bottom,
        .backing_file = a->backing_file,
    };
    GError *why = NULL;

    s.job.on_source_error = s.job.on_target_error = on_error(a->has_on_error, a->on_error);
    return graph_of(vm, error) && qmp_told(job_stream(vm->graph, &s, &why), &why, error);
}

bool qmp_blockdev_create(struct vm *vm, const struct qmp_blockdev_create *a,
                         struct json_out *ret UNUSED, GError **error)
{
    GError *why = NULL;

    if (!graph_of(vm, error))
        return false;
    if (!JSON_NODE_HOLDS_OBJECT(a->options))
        return qmp_fail(error, QMP_GENERIC_ERROR,
                        "Invalid parameter type for 'options', expected: object");
    g_autofree char *text = json_to_string(a->options, FALSE);
    struct dict *d = dict_from_json(text, &why);
    return qmp_told(d && job_create(vm->graph, a->job_id, d, &why), &why, error);
}
