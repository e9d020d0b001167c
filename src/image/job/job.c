// SPDX-License-Identifier: GPL-2.0-or-later
/* job.c - states, verbs and threads of jobs.  See job.h for the picture. */
#include "image/job/job_impl.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"

enum { JOBS_MAX = 256, ID_MAX_BYTES = 255 };

const char *const job_status_names[] = {
    "undefined", "created", "running",  "paused",    "ready", "standby",
    "waiting",   "pending", "aborting", "concluded", "null",  NULL,
};
static const char *const verb_names[] = { "cancel",   "pause",    "resume", "set-speed",
                                          "complete", "finalize", "dismiss" };
/* The states, as bits, in which a verb means something. */
static const u32 verb_states[] = {
    [JOB_CANCEL] = BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) |
                   BIT(JOB_STANDBY) | BIT(JOB_WAITING) | BIT(JOB_PENDING),
    [JOB_PAUSE] = BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) |
                  BIT(JOB_STANDBY),
    [JOB_RESUME] = BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) |
                   BIT(JOB_STANDBY),
    [JOB_SET_SPEED] = BIT(JOB_CREATED) | BIT(JOB_RUNNING) | BIT(JOB_PAUSED) | BIT(JOB_READY) |
                      BIT(JOB_STANDBY),
    [JOB_COMPLETE] = BIT(JOB_READY),
    [JOB_FINALIZE] = BIT(JOB_PENDING),
    [JOB_DISMISS] = BIT(JOB_CONCLUDED),
};

static s64 now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* --- telling ---------------------------------------------------------------------------------
 */

struct told {
    struct graph *graph;
    struct job_event ev;
    char *id, *error;
};

static void tell(void *opaque)
{
    struct told *t = opaque;

    t->ev.id = t->id;
    t->ev.error = t->error;
    if (t->graph->event)
        t->graph->event(t->graph->opaque, &t->ev);
    g_free(t->id);
    g_free(t->error);
    g_free(t);
}

/* REQUIRES(job->lock) */
static void post(struct job *job, int kind, const char *error, bool write,
                 enum job_on_error action)
{
    struct told *t = g_new0(struct told, 1);

    if (kind != JOB_EV_STATUS && !job->drv->block) {
        g_free(t);
        return;
    }
    t->graph = job->graph;
    t->id = g_strdup(job->id);
    t->error = g_strdup(error);
    t->ev = (struct job_event){ .kind = kind,
                                .type = job->drv->type,
                                .status = job->status,
                                .len = job->len,
                                .offset = job->offset,
                                .speed = job->speed,
                                .write = write,
                                .action = action };
    graph_call(job->graph, tell, t);
}

/* REQUIRES(job->lock) */
static void set_status(struct job *job, enum job_status s)
{
    if (job->status == s)
        return;
    job->status = s;
    post(job, JOB_EV_STATUS, NULL, false, 0);
}

static void set_status_locked(struct job *job, enum job_status s)
{
    pthread_mutex_lock(&job->lock);
    set_status(job, s);
    pthread_mutex_unlock(&job->lock);
}

/* --- life ------------------------------------------------------------------------------------
 */

u32 job_count(const struct graph *g)
{
    return g->jobs->len;
}

struct job *job_at(struct graph *g, u32 i)
{
    return g->jobs->pdata[i];
}

struct job *job_find(struct graph *g, const char *id)
{
    for (guint i = 0; i < g->jobs->len; i++) {
        struct job *j = g->jobs->pdata[i];

        if (strcmp(j->id, id) == 0)
            return j;
    }
    return NULL;
}

const char *job_type(const struct job *job)
{
    return job->drv->type;
}

static bool id_ok(struct graph *g, const char *id, GError **error)
{
    bool well = g_ascii_isalpha(id[0]) && strlen(id) <= ID_MAX_BYTES;

    for (const char *p = id; *p && well; p++)
        well = g_ascii_isalnum(*p) || strchr("-._", *p);
    if (!well)
        return fail(error, ERR_ARGUMENT, "Invalid job ID '%s'", id);
    return !job_find(g, id) || fail(error, ERR_ARGUMENT, "Job ID '%s' already in use", id);
}

struct job *job_new(struct graph *g, const struct job_driver *drv, const struct job_args *a,
                    GError **error)
{
    const char *id = a->id;
    pthread_condattr_t attr;

    /* A drive's name is the job's; a node's is not, as QEMU has it. */
    if (!id && a->device && g->lookup && g->lookup(g->opaque, a->device))
        id = a->device;
    if (!id) {
        fail(error, ERR_ARGUMENT, "An explicit job ID is required for this node");
        return NULL;
    }
    if (a->speed < 0) {
        fail(error, ERR_ARGUMENT, "Parameter 'speed' expects a non-negative value");
        return NULL;
    }
    if (!id_ok(g, id, error))
        return NULL;
    if (g->jobs->len >= JOBS_MAX) {
        fail(error, ERR_LIMIT, "there are %d jobs already", JOBS_MAX);
        return NULL;
    }
    struct job *job = g_malloc0(drv->size);
    job->drv = drv;
    job->graph = g;
    job->id = g_strdup(id);
    job->auto_finalize = !a->manual_finalize;
    job->auto_dismiss = !a->manual_dismiss;
    job->on_source_error = a->on_source_error;
    job->on_target_error = a->on_target_error;
    job->speed = (u64)a->speed;
    job->io_status = "ok";
    job->nodes = g_ptr_array_new();
    pthread_mutex_init(&job->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&job->wake, &attr);
    pthread_condattr_destroy(&attr);
    g_ptr_array_add(g->jobs, job);
    return job;
}

bool job_own(struct job *job, struct node *n, GError **error)
{
    if (!node_no_job(n, error))
        return false;
    n->job = job;
    g_ptr_array_add(job->nodes, node_ref(n));
    return true;
}

bool job_own_chain(struct job *job, struct node *n, GError **error)
{
    for (; n; n = n->backing) {
        if (n->job != job && !job_own(job, n, error))
            return false;
    }
    return true;
}

void job_swap_node(struct job *job, struct node *from, struct node *to)
{
    if (from == to)
        return;
    for (guint i = 0; i < job->nodes->len; i++) {
        if (job->nodes->pdata[i] == from) {
            job->nodes->pdata[i] = node_ref(to);
            to->job = job;
            node_unref(from);
        }
    }
}

/* PAUSED */
static void let_go(struct job *job)
{
    if (job->drv->clean)
        job->drv->clean(job);
    for (guint i = 0; i < job->nodes->len; i++) {
        struct node *n = job->nodes->pdata[i];

        n->job = NULL;
        node_unref(n);
    }
    g_ptr_array_set_size(job->nodes, 0);
}

static void group_leave(struct job *);

static void job_free(struct job *job)
{
    g_ptr_array_remove(job->graph->jobs, job);
    g_ptr_array_unref(job->nodes);
    g_clear_error(&job->why);
    g_free(job->error);
    g_free(job->id);
    pthread_cond_destroy(&job->wake);
    pthread_mutex_destroy(&job->lock);
    g_free(job);
}

void job_discard(struct job *job)
{
    group_leave(job);
    let_go(job);
    job_free(job);
}

static void dismiss(struct job *job)
{
    set_status_locked(job, JOB_NULL);
    job_free(job);
}

/* PAUSED.  The end: error NULL when all went well. */
static void conclude(struct job *job, bool cancelled)
{
    let_go(job);
    pthread_mutex_lock(&job->lock);
    if (cancelled)
        post(job, JOB_EV_CANCELLED, NULL, false, 0);
    else
        post(job, JOB_EV_COMPLETED, job->error, false, 0);
    set_status(job, JOB_CONCLUDED);
    pthread_mutex_unlock(&job->lock);
}

static void fail_job(struct job *job, bool cancelled)
{
    struct graph *g = job->graph;

    group_leave(job);
    set_status_locked(job, JOB_ABORTING);
    graph_pause(g);
    if (job->drv->abort)
        job->drv->abort(job);
    conclude(job, cancelled);
    graph_resume(g);
    if (job->auto_dismiss)
        dismiss(job);
}

/* --- jobs that end together ------------------------------------------------------------------
 */

struct job_group {
    u32 refs;
    GPtrArray *jobs; /* struct job *, that are not concluded */
    bool failed;
};

struct job_group *job_group_new(void)
{
    struct job_group *group = g_new0(struct job_group, 1);

    group->refs = 1;
    group->jobs = g_ptr_array_new();
    return group;
}

void job_group_add(struct job_group *group, struct job *job)
{
    group->refs++;
    job->group = group;
    g_ptr_array_add(group->jobs, job);
}

void job_group_unref(struct job_group *group)
{
    if (!group || --group->refs)
        return;
    g_ptr_array_unref(group->jobs);
    g_free(group);
}

static void group_leave(struct job *job)
{
    struct job_group *group = job->group;

    if (!group)
        return;
    job->group = NULL;
    g_ptr_array_remove(group->jobs, job);
    job_group_unref(group);
}

/* One of them ends badly: the others that have not begun to end do so, too. */
static void group_fail(struct job_group *group)
{
    if (group->failed)
        return;
    group->failed = true;
    group->refs++;
    for (guint i = 0; i < group->jobs->len;) {
        struct job *job = group->jobs->pdata[i];

        pthread_mutex_lock(&job->lock);
        job->cancel = job->force = true;
        job->pause = false;
        pthread_cond_broadcast(&job->wake);
        pthread_mutex_unlock(&job->lock);
        if (job->idle)
            fail_job(job, true); /* leaves the list */
        else
            i++;
    }
    job_group_unref(group);
}

static bool group_waits(const struct job_group *group)
{
    for (guint i = 0; i < group->jobs->len; i++) {
        if (!((struct job *)group->jobs->pdata[i])->idle)
            return false;
    }
    return true;
}

/* --- the end ---------------------------------------------------------------------------------
 */

/* These, and no others: all are prepared, then all are done; or all fail. */
static void finalize(struct graph *g, struct job **jobs, u32 n)
{
    g_autoptr(GError) error = NULL;
    u32 done = 0;

    graph_pause(g);
    while (done < n &&
           (!jobs[done]->drv->prepare || jobs[done]->drv->prepare(jobs[done], &error)))
        done++;
    for (u32 i = 0; done == n && i < n; i++) {
        if (jobs[i]->drv->commit)
            jobs[i]->drv->commit(jobs[i]);
        group_leave(jobs[i]);
        conclude(jobs[i], false);
    }
    graph_resume(g);
    if (done < n)
        jobs[done]->error = g_strdup(error->message);
    for (u32 i = 0; i < n; i++) {
        struct job *job = jobs[i];

        if (done < n)
            fail_job(job, i != done);
        else if (job->auto_dismiss)
            dismiss(job);
    }
}

static void finalize_all(struct job *job)
{
    struct graph *g = job->graph;

    if (!job->group) {
        finalize(g, &job, 1);
        return;
    }
    g_autoptr(GPtrArray) all = g_ptr_array_copy(job->group->jobs, NULL, NULL);
    finalize(g, (struct job **)all->pdata, all->len);
}

/* The thread has ended; true: badly, and the job with it. */
static bool reaped(struct job *job)
{
    if (!job->joined)
        pthread_join(job->thread, NULL);
    job->joined = true;
    pthread_mutex_lock(&job->lock);
    bool cancelled = job->cancel && (job->force || job->ret == -ECANCELED);
    int ret = job->ret;
    pthread_mutex_unlock(&job->lock);
    job->idle = !cancelled && !ret;
    if (job->idle)
        return false;
    if (!cancelled)
        job->error = g_strdup(job->why ? job->why->message : g_strerror(-ret));
    struct job_group *group = job->group;
    if (group)
        group->refs++;
    fail_job(job, cancelled);
    if (group)
        group_fail(group);
    job_group_unref(group);
    return true;
}

static void lingered(void *opaque)
{
    struct job *job = opaque;

    if (!reaped(job))
        finalize_all(job);
}

static bool run_thread(struct job *, void *(*)(void *));

static void *linger_thread(void *opaque)
{
    struct job *job = opaque;

    pthread_setname_np(pthread_self(), "block job");
    int r = job->drv->linger(job);
    pthread_mutex_lock(&job->lock);
    job->ret = r;
    job->busy = false;
    graph_call(job->graph, lingered, job);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

static void pend(struct job *job)
{
    set_status_locked(job, JOB_PENDING);
    if (job->auto_finalize)
        return;
    pthread_mutex_lock(&job->lock);
    post(job, JOB_EV_PENDING, NULL, false, 0);
    pthread_mutex_unlock(&job->lock);
    if (!job->drv->linger)
        return;
    job->joined = job->idle = false;
    if (!run_thread(job, linger_thread))
        graph_call(job->graph, lingered, job);
}

/* The thread has ended. */
static void reap(void *opaque)
{
    struct job *job = opaque;
    bool automatic = true;

    if (reaped(job))
        return;
    set_status_locked(job, JOB_WAITING);
    if (!job->group) {
        pend(job);
        if (job->auto_finalize)
            finalize_all(job);
        return;
    }
    if (!group_waits(job->group))
        return;
    for (guint i = 0; i < job->group->jobs->len; i++) {
        struct job *other = job->group->jobs->pdata[i];

        automatic &= other->auto_finalize;
        pend(other);
    }
    if (automatic)
        finalize_all(job);
}

static void *thread(void *opaque)
{
    struct job *job = opaque;

    pthread_setname_np(pthread_self(), "block job");
    int r = job->drv->run(job);
    pthread_mutex_lock(&job->lock);
    job->ret = r;
    job->busy = false;
    graph_call(job->graph, reap, job);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

static bool run_thread(struct job *job, void *(*fn)(void *))
{
    sigset_t all, old;

    job->busy = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&job->thread, NULL, fn, job);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r) {
        job->joined = true;
        job->ret = -r;
    }
    return !r;
}

void job_start(struct job *job)
{
    set_status_locked(job, JOB_CREATED);
    set_status_locked(job, JOB_RUNNING);
    if (!run_thread(job, thread))
        graph_call(job->graph, reap, job);
}

/* --- verbs -----------------------------------------------------------------------------------
 */

static bool verb_ok(struct job *job, enum job_verb v, GError **error)
{
    pthread_mutex_lock(&job->lock);
    enum job_status s = job->status;
    pthread_mutex_unlock(&job->lock);
    return verb_states[v] & BIT(s) ||
           fail(error, ERR_ARGUMENT, "Job '%s' in state '%s' cannot accept command verb '%s'",
                job->id, job_status_names[s], verb_names[v]);
}

bool job_cancel(struct job *job, bool force, GError **error)
{
    if (!verb_ok(job, JOB_CANCEL, error))
        return false;
    pthread_mutex_lock(&job->lock);
    job->cancel = true;
    /* One that is ready and is not forced ends in order, but nobody is moved over to its copy.
     */
    job->force |= force || !job->ready;
    job->pause &= !job->force;
    bool over = job->status == JOB_PENDING || job->status == JOB_WAITING;
    job->force |= over;
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    if (over && job->idle) /* else its thread sees it */
        reaped(job);
    return true;
}

bool job_pause(struct job *job, GError **error)
{
    if (!verb_ok(job, JOB_PAUSE, error))
        return false;
    pthread_mutex_lock(&job->lock);
    bool was = job->pause;
    job->pause = true;
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    return !was || fail(error, ERR_ARGUMENT, "Job is already paused");
}

bool job_resume(struct job *job, GError **error)
{
    if (!verb_ok(job, JOB_RESUME, error))
        return false;
    pthread_mutex_lock(&job->lock);
    bool was = job->pause;
    job->pause = false;
    job->io_status = "ok";
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    return was || fail(error, ERR_ARGUMENT, "Can't resume a job that was not paused");
}

bool job_set_speed(struct job *job, s64 speed, GError **error)
{
    if (!verb_ok(job, JOB_SET_SPEED, error))
        return false;
    if (speed < 0)
        return fail(error, ERR_ARGUMENT, "Parameter 'speed' expects a non-negative value");
    pthread_mutex_lock(&job->lock);
    job->speed = (u64)speed;
    job->due = 0;
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    return true;
}

bool job_complete(struct job *job, GError **error)
{
    if (!verb_ok(job, JOB_COMPLETE, error))
        return false;
    pthread_mutex_lock(&job->lock);
    bool cancel = job->cancel;
    pthread_mutex_unlock(&job->lock);
    if (cancel || !job->drv->completes)
        return fail(error, ERR_ARGUMENT, "The active block job '%s' cannot be completed",
                    job->id);
    pthread_mutex_lock(&job->lock);
    job->complete_asked = true;
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    return true;
}

bool job_finalize(struct job *job, GError **error)
{
    if (!verb_ok(job, JOB_FINALIZE, error))
        return false;
    if (job->idle) {
        finalize_all(job);
        return true;
    }
    pthread_mutex_lock(&job->lock);
    job->finalize_asked = true; /* lingered() goes on from there */
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
    return true;
}

bool job_dismiss(struct job *job, GError **error)
{
    if (!verb_ok(job, JOB_DISMISS, error))
        return false;
    dismiss(job);
    return true;
}

void job_get_info(struct job *job, struct job_info *ret)
{
    pthread_mutex_lock(&job->lock);
    *ret = (struct job_info){
        .id = job->id,
        .type = job->drv->type,
        .error = job->error,
        .status = job->status,
        .len = job->len,
        .offset = job->offset,
        .speed = job->speed,
        .block = job->drv->block,
        .busy = job->busy,
        .paused = job->pause,
        .ready = job->ready,
        .auto_finalize = job->auto_finalize,
        .auto_dismiss = job->auto_dismiss,
        .io_status = job->io_status,
    };
    pthread_mutex_unlock(&job->lock);
}

void graph_stop_jobs(struct graph *g)
{
    for (guint i = 0; i < g->jobs->len; i++) {
        struct job *job = g->jobs->pdata[i];

        pthread_mutex_lock(&job->lock);
        job->cancel = job->force = true;
        job->pause = false;
        job->auto_dismiss = true;
        pthread_cond_broadcast(&job->wake);
        bool idle = job->status == JOB_CONCLUDED || job->idle;
        pthread_mutex_unlock(&job->lock);
        if (!idle && !job->joined)
            pthread_join(job->thread, NULL);
        if (!idle)
            job->joined = true;
    }
    graph_run_calls(g); /* what the threads left: their ends */
    while (g->jobs->len) {
        struct job *job = g->jobs->pdata[0];

        if (job->status == JOB_CONCLUDED) {
            dismiss(job);
        } else {
            fail_job(job, true);
        }
    }
    graph_run_calls(g);
}

/* --- on the job's thread ---------------------------------------------------------------------
 */

static void sleep_until(struct job *job, s64 ns)
{
    struct timespec t = { ns / 1000000000ll, ns % 1000000000ll };

    pthread_cond_timedwait(&job->wake, &job->lock, &t);
}

bool job_stop_asked(struct job *job)
{
    pthread_mutex_lock(&job->lock);
    while (job->pause && !(job->cancel && job->force)) {
        enum job_status was = job->status;

        set_status(job, job->ready ? JOB_STANDBY : JOB_PAUSED);
        job->busy = false;
        pthread_cond_wait(&job->wake, &job->lock);
        job->busy = true;
        if (!job->pause || (job->cancel && job->force))
            set_status(job, job->ready ? JOB_READY : was == JOB_PAUSED ? JOB_RUNNING : was);
    }
    bool stop = job->cancel && job->force;
    pthread_mutex_unlock(&job->lock);
    return stop;
}

void job_pace(struct job *job, u64 bytes)
{
    pthread_mutex_lock(&job->lock);
    s64 now = now_ns();
    if (job->speed) {
        job->due = MAX(job->due, now);
        job->due += (s64)((double)bytes * 1e9 / (double)job->speed);
        job->busy = false;
    }
    while (job->speed && job->due > now && !job->cancel && !job->pause &&
           !job->finalize_asked) {
        sleep_until(job, job->due);
        now = now_ns();
    }
    job->busy = true;
    pthread_mutex_unlock(&job->lock);
}

void job_wait(struct job *job, u32 ms)
{
    pthread_mutex_lock(&job->lock);
    job->busy = false;
    if (!job->waiting && !job->cancel && !job->pause &&
        !(job->status == JOB_PENDING ? job->finalize_asked : job->complete_asked))
        sleep_until(job, now_ns() + ms * 1000000ll);
    job->waiting = false;
    job->busy = true;
    pthread_mutex_unlock(&job->lock);
}

void job_wake(struct job *job)
{
    pthread_mutex_lock(&job->lock);
    job->waiting = true;
    pthread_cond_broadcast(&job->wake);
    pthread_mutex_unlock(&job->lock);
}

void job_progress(struct job *job, u64 add)
{
    pthread_mutex_lock(&job->lock);
    job->offset += add;
    pthread_mutex_unlock(&job->lock);
}

void job_set_len(struct job *job, u64 offset, u64 len)
{
    pthread_mutex_lock(&job->lock);
    job->offset = offset;
    job->len = len;
    pthread_mutex_unlock(&job->lock);
}

void job_set_ready(struct job *job)
{
    pthread_mutex_lock(&job->lock);
    if (!job->ready) {
        job->ready = true;
        set_status(job, JOB_READY);
        post(job, JOB_EV_READY, NULL, false, 0);
    }
    pthread_mutex_unlock(&job->lock);
}

bool job_told(struct job *job, bool *flag)
{
    pthread_mutex_lock(&job->lock);
    bool v = *flag;
    pthread_mutex_unlock(&job->lock);
    return v;
}

enum job_on_error job_error(struct job *job, int err, bool write)
{
    enum job_on_error action = write ? job->on_target_error : job->on_source_error;

    if (action == JOB_ENOSPC)
        action = err == -ENOSPC ? JOB_STOP : JOB_REPORT;
    pthread_mutex_lock(&job->lock);
    post(job, JOB_EV_ERROR, NULL, write, action);
    if (action == JOB_STOP) {
        job->pause = true;
        job->io_status = err == -ENOSPC ? "nospace" : "failed";
    }
    pthread_mutex_unlock(&job->lock);
    if (action == JOB_IGNORE)
        job_wait(job, 100); /* no use in trying as fast as we can */
    return action;
}
