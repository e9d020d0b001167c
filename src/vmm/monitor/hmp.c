// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hmp.c - a human monitor on a character device: prompt, line editing, completion.
 * Commands are in hmp_commands.c and hmp_info.c.
 */
#include <string.h>

#include "vmm/backend/chardev.h"
#include "vmm/monitor/monitor_impl.h"

static const char prompt[] = "(posada) ";

struct hmp_session {
    struct monitor m;
    struct line_edit line;
    bool open, greeted, focus;
};

/* Lines end in CR LF on a terminal. */
static void put_text(struct hmp_session *s, const char *text)
{
    g_autoptr(GString) t = g_string_new(NULL);

    for (; *text; text++) {
        if (*text == '\n')
            g_string_append_c(t, '\r');
        g_string_append_c(t, *text);
    }
    monitor_put(&s->m, t->str, t->len);
}

static void hmp_complete_line(struct hmp_session *s)
{
    g_autofree char *start = g_strndup(s->line.text, s->line.len), *common = NULL;
    g_autoptr(GString) list = g_string_new(NULL), echo = g_string_new(NULL);

    if (s->line.at != s->line.len)
        return;
    u32 n = hmp_complete(start, &common, list);
    for (const char *p = common; p && *p; p++)
        line_key(&s->line, (u8)*p, prompt, echo);
    if (n == 1)
        line_key(&s->line, ' ', prompt, echo);
    if (n > 1 && (!common || !*common)) {
        g_string_append_printf(echo, "\r\n%s\r\n", list->str);
        line_redraw(&s->line, prompt, echo);
    }
    monitor_put(&s->m, echo->str, echo->len);
}

static size_t hmp_can_read(void *opaque)
{
    struct hmp_session *s = opaque;

    return monitor_room(&s->m);
}

static void hmp_read(void *opaque, const u8 *bytes, size_t n)
{
    struct hmp_session *s = opaque;

    for (size_t i = 0; i < n; i++) {
        g_autoptr(GString) echo = g_string_new(NULL);
        bool cr_lf = bytes[i] == '\n' && i && bytes[i - 1] == '\r';

        if (cr_lf)
            continue;
        if (bytes[i] == '\t') {
            hmp_complete_line(s);
            continue;
        }
        bool done = line_key(&s->line, bytes[i], prompt, echo);
        monitor_put(&s->m, echo->str, echo->len);
        if (!done)
            continue;
        g_autofree char *text = g_strndup(s->line.text, s->line.len);
        g_autoptr(GString) out = g_string_new(NULL);
        line_done(&s->line);
        monitor_command(s->m.vm, text, out);
        put_text(s, out->str);
        put_text(s, prompt);
    }
}

/* Shows itself: to a new caller, or when the terminal's focus comes back. */
static void hmp_show(struct hmp_session *s)
{
    if (!s->open || (chardev_is_mux(s->m.chardev) && !s->focus))
        return;
    put_text(s, s->greeted ? "\n" : "Posada " POSADA_VERSION " monitor - type 'help'\n");
    s->greeted = true;
    put_text(s, prompt);
}

static void hmp_chardev_event(void *opaque, enum chardev_event ev)
{
    struct hmp_session *s = opaque;

    switch (ev) {
    case CHARDEV_OPENED:
        s->open = true;
        s->greeted = false;
        hmp_show(s);
        break;
    case CHARDEV_FOCUS_IN:
    case CHARDEV_FOCUS_OUT:
        s->focus = ev == CHARDEV_FOCUS_IN;
        if (s->focus)
            hmp_show(s);
        break;
    case CHARDEV_CLOSED:
        s->open = false;
        line_clear(&s->line);
        g_string_truncate(s->m.out, 0);
        break;
    case CHARDEV_WRITABLE:
        monitor_flush(&s->m);
        break;
    default:
        break;
    }
}

static const struct chardev_user hmp_user = {
    .can_read = hmp_can_read, .read = hmp_read, .event = hmp_chardev_event, .background = true
};

static void hmp_free(struct monitor *m)
{
    struct hmp_session *s = container_of(m, struct hmp_session, m);

    monitor_clear(m);
    line_clear(&s->line);
    g_free(s);
}

bool monitor_open_hmp(struct vm *vm, struct chardev *c, GError **error)
{
    if (!monitor_check(c, error))
        return false;
    struct hmp_session *s = g_new0(struct hmp_session, 1);
    s->m.free = hmp_free;
    monitor_add(&s->m, vm, c);
    chardev_attach(c, &hmp_user, s);
    return true;
}
