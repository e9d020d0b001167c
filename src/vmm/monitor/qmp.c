// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qmp.c - one QMP session: greeting, negotiation, commands, events.
 *
 *   connect -> greeting -> NEGOTIATION --qmp_capabilities--> COMMANDS -> disconnect
 *
 * Commands run one after the other, in the order they came.  Events go to sessions that have
 * negotiated.  Bad input is answered with an error; nothing that comes in ends the session.
 */
#include <errno.h>
#include <string.h>

#include "vmm/backend/chardev.h"
#include "vmm/monitor/monitor_impl.h"
#include "wire/json_in.h"
#include "wire/json_out.h"
#include "wire/qmp/qmp_gen.h"

enum { COMMAND_MAX = 16 * 1024 * 1024 };

struct qmp_session {
    struct monitor m;
    struct json_in in;
    GByteArray *held; /* came, and waits until the answers before it have left */
    bool pretty, open, negotiated;
};

static void send_line(struct qmp_session *s, struct json_out *o)
{
    g_string_append(o->text, "\r\n");
    monitor_put(&s->m, o->text->str, o->text->len);
    g_string_free(o->text, TRUE);
}

static struct json_out begin_line(struct qmp_session *s)
{
    struct json_out o = { .text = g_string_new(NULL), .pretty = s->pretty };

    json_open(&o, '{');
    return o;
}

static void send_greeting(struct qmp_session *s)
{
    struct json_out o = begin_line(s);

    json_key(&o, "QMP");
    json_open(&o, '{');
    json_key(&o, "version");
    qmp_version_put(&o);
    json_key(&o, "capabilities");
    json_open(&o, '[');
    json_close(&o, ']');
    json_close(&o, '}');
    json_close(&o, '}');
    send_line(s, &o);
}

static void send_error(struct qmp_session *s, const GError *error, JsonNode *id)
{
    struct json_out o = begin_line(s);

    if (id) {
        json_key(&o, "id");
        json_node(&o, id);
    }
    qmp_put_error(&o, error);
    json_close(&o, '}');
    send_line(s, &o);
}

/* Which command, in this state of the session? */
static const struct qmp_command *command_of(struct qmp_session *s, const char *name,
                                            GError **error)
{
    const struct qmp_command *c = qmp_command_find(qmp_commands, name);
    bool negotiation = strcmp(name, "qmp_capabilities") == 0;

    if (!s->negotiated && !negotiation) {
        qmp_fail(error, QMP_COMMAND_NOT_FOUND,
                 "Expecting capabilities negotiation with 'qmp_capabilities'");
        return NULL;
    }
    if (s->negotiated && negotiation) {
        qmp_fail(error, QMP_COMMAND_NOT_FOUND,
                 "Capabilities negotiation is already complete, command ignored");
        return NULL;
    }
    if (!c)
        qmp_fail(error, QMP_COMMAND_NOT_FOUND, "The command %s has not been found", name);
    return c;
}

static void run_request(struct qmp_session *s, JsonNode *node)
{
    g_autoptr(GError) error = NULL;
    struct qmp_request r;
    struct json_out o = begin_line(s);
    const struct qmp_command *c = NULL;

    json_key(&o, "return");
    size_t before = o.text->len;
    if (qmp_request_read(node, &r, &error))
        c = command_of(s, r.execute, &error);
    if (!c || !c->run(s->m.vm, r.arguments, &o, &error)) {
        g_string_free(o.text, TRUE);
        send_error(s, error, r.id);
        return;
    }
    if (!s->negotiated)
        s->negotiated = true; /* only qmp_capabilities comes this far */
    if (o.text->len == before) {
        json_open(&o, '{');
        json_close(&o, '}');
    }
    if (r.id) {
        json_key(&o, "id");
        json_node(&o, r.id);
    }
    json_close(&o, '}');
    send_line(s, &o);
}

/* Runs what has come, as long as the other side reads the answers. */
static void qmp_pump(struct qmp_session *s)
{
    size_t at = 0;

    while (at < s->held->len && monitor_room(&s->m)) {
        enum json_in_result result;
        g_autoptr(JsonNode) value = NULL;
        g_autoptr(GError) error = NULL;

        at += json_in_feed(&s->in, s->held->data + at, s->held->len - at, &result, &value,
                           &error);
        if (result == JSON_IN_VALUE)
            run_request(s, value);
        else if (result == JSON_IN_ERROR)
            send_error(s, error, NULL);
    }
    g_byte_array_remove_range(s->held, 0, (guint)at);
}

static size_t qmp_can_read(void *opaque)
{
    struct qmp_session *s = opaque;

    return s->held->len ? 0 : monitor_room(&s->m);
}

static void qmp_read(void *opaque, const u8 *bytes, size_t n)
{
    struct qmp_session *s = opaque;

    g_byte_array_append(s->held, bytes, (guint)n);
    qmp_pump(s);
}

static void qmp_chardev_event(void *opaque, enum chardev_event ev)
{
    struct qmp_session *s = opaque;

    switch (ev) {
    case CHARDEV_OPENED:
        s->open = true;
        s->negotiated = false;
        send_greeting(s);
        break;
    case CHARDEV_CLOSED:
        s->open = s->negotiated = false;
        json_in_reset(&s->in);
        g_byte_array_set_size(s->held, 0);
        g_string_truncate(s->m.out, 0);
        break;
    case CHARDEV_WRITABLE:
        monitor_flush(&s->m);
        qmp_pump(s);
        if (!s->held->len)
            chardev_accept(s->m.chardev);
        break;
    default:
        break;
    }
}

static const struct chardev_user qmp_user = {
    .can_read = qmp_can_read, .read = qmp_read, .event = qmp_chardev_event, .background = true
};

static struct json_out begin_event(struct qmp_session *s)
{
    s64 now = g_get_real_time();
    struct json_out o = begin_line(s);

    json_key(&o, "timestamp");
    json_open(&o, '{');
    json_put_int(&o, "seconds", now / G_USEC_PER_SEC);
    json_put_int(&o, "microseconds", now % G_USEC_PER_SEC);
    json_close(&o, '}');
    return o;
}

static void qmp_event(struct monitor *m, enum vm_event ev, enum vm_cause cause)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    size_t before = o.text->len;
    qmp_event_put(&o, m->vm, ev, cause);
    if (o.text->len == before) { /* nothing that QMP tells */
        g_string_free(o.text, TRUE);
        return;
    }
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_deleted(struct monitor *m, const char *dev)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);
    g_autofree char *path = g_strdup_printf("/machine/peripheral/%s", dev);

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    qmp_event_device_deleted(&o, dev, path);
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_tray(struct monitor *m, const char *drive, const char *dev, bool open)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    qmp_event_device_tray_moved(&o, drive, dev, open);
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_job(struct monitor *m, const struct job_event *ev)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    qmp_job_event_put(&o, ev);
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_exported(struct monitor *m, const char *id)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    qmp_event_block_export_deleted(&o, id);
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_io_error(struct monitor *m, const char *drive, const char *dev,
                         const char *node, bool read, int err, enum vm_io_error did)
{
    static const enum qmp_block_error_action acts[] = {
        [VM_IO_REPORT] = QMP_BLOCK_ERROR_ACTION_REPORT,
        [VM_IO_IGNORE] = QMP_BLOCK_ERROR_ACTION_IGNORE,
        [VM_IO_STOP] = QMP_BLOCK_ERROR_ACTION_STOP,
    };
    struct qmp_session *s = container_of(m, struct qmp_session, m);
    g_autofree char *path = dev ? g_strdup_printf("/machine/peripheral/%s", dev) : NULL;

    if (!s->negotiated)
        return;
    struct json_out o = begin_event(s);
    qmp_event_block_io_error(&o, path, drive, node,
                             read ? QMP_IO_OPERATION_TYPE_READ : QMP_IO_OPERATION_TYPE_WRITE,
                             acts[did], err == ENOSPC, g_strerror(err));
    json_close(&o, '}');
    send_line(s, &o);
}

static void qmp_free(struct monitor *m)
{
    struct qmp_session *s = container_of(m, struct qmp_session, m);

    monitor_clear(m);
    json_in_clear(&s->in);
    g_byte_array_unref(s->held);
    g_free(s);
}

bool monitor_open_qmp(struct vm *vm, struct chardev *c, bool pretty, GError **error)
{
    if (!monitor_check(c, error))
        return false;
    struct qmp_session *s = g_new0(struct qmp_session, 1);
    json_in_init(&s->in, COMMAND_MAX);
    s->held = g_byte_array_new();
    s->pretty = pretty;
    s->m.event = qmp_event;
    s->m.deleted = qmp_deleted;
    s->m.tray = qmp_tray;
    s->m.io_error = qmp_io_error;
    s->m.job = qmp_job;
    s->m.exported = qmp_exported;
    s->m.free = qmp_free;
    monitor_add(&s->m, vm, c);
    chardev_attach(c, &qmp_user, s);
    return true;
}
