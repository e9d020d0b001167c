// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * line_edit.c - typing a line on a terminal: moving, deleting, history.  One byte is one
 * column: only ASCII is taken.
 *
 *   Ctrl-A E B F  left and right   Ctrl-H D K U W  deleting   Ctrl-P N  history   Ctrl-L redraw
 *   and the cursor keys, Home, End, Delete as ANSI terminals send them
 */
#include <string.h>

#include "vmm/monitor/monitor_impl.h"

#define CTRL(c) ((c)&0x1f)

void line_redraw(const struct line_edit *l, const char *prompt, GString *echo)
{
    g_string_append_printf(echo, "\r%s%.*s\033[K", prompt, (int)l->len, l->text);
    if (l->at < l->len)
        g_string_append_printf(echo, "\033[%uD", l->len - l->at);
}

static void delete_range(struct line_edit *l, u32 from, u32 to)
{
    memmove(l->text + from, l->text + to, l->len - to);
    l->len -= to - from;
    l->at = from;
}

static void set_text(struct line_edit *l, const char *text)
{
    l->len = l->at = (u32)MIN(strlen(text), sizeof l->text - 1);
    memcpy(l->text, text, l->len);
}

static void history_move(struct line_edit *l, int by)
{
    if ((by < 0 && !l->shown) || (by > 0 && l->shown >= l->n_history))
        return;
    l->shown += (u32)by;
    set_text(l, l->shown < l->n_history ? l->history[l->shown] : "");
}

/* The key that an escape sequence stands for, or 0. */
static u8 escape_key(struct line_edit *l, u8 key)
{
    if (l->escape == 1) {
        l->escape = key == '[' || key == 'O' ? 2 : 0;
        return 0;
    }
    if (g_ascii_isdigit((char)key) || key == ';') {
        l->escape = key == '3' ? 4 : 3;
        return 0;
    }
    u8 was = l->escape;
    l->escape = 0;
    switch (key) {
    case 'A':
        return CTRL('P');
    case 'B':
        return CTRL('N');
    case 'C':
        return CTRL('F');
    case 'D':
        return CTRL('B');
    case 'H':
        return CTRL('A');
    case 'F':
        return CTRL('E');
    case '~':
        return was == 4 ? CTRL('D') : 0;
    }
    return 0;
}

static void edit(struct line_edit *l, u8 key)
{
    u32 word = l->at;

    switch (key) {
    case CTRL('A'):
        l->at = 0;
        break;
    case CTRL('E'):
        l->at = l->len;
        break;
    case CTRL('B'):
        l->at -= l->at > 0;
        break;
    case CTRL('F'):
        l->at += l->at < l->len;
        break;
    case CTRL('D'):
        if (l->at < l->len)
            delete_range(l, l->at, l->at + 1);
        break;
    case CTRL('H'):
    case 0x7f:
        if (l->at)
            delete_range(l, l->at - 1, l->at);
        break;
    case CTRL('K'):
        l->len = l->at;
        break;
    case CTRL('U'):
        delete_range(l, 0, l->at);
        break;
    case CTRL('W'):
        while (word && l->text[word - 1] == ' ')
            word--;
        while (word && l->text[word - 1] != ' ')
            word--;
        delete_range(l, word, l->at);
        break;
    case CTRL('P'):
        history_move(l, -1);
        break;
    case CTRL('N'):
        history_move(l, 1);
        break;
    case CTRL('C'):
        set_text(l, "");
        break;
    default:
        if (key >= 0x20 && key < 0x7f && l->len < sizeof l->text - 1) {
            memmove(l->text + l->at + 1, l->text + l->at, l->len - l->at);
            l->text[l->at++] = (char)key;
            l->len++;
        }
    }
}

bool line_key(struct line_edit *l, u8 key, const char *prompt, GString *echo)
{
    if (l->escape) {
        key = escape_key(l, key);
        if (!key)
            return false;
    } else if (key == 27) {
        l->escape = 1;
        return false;
    }
    if (key == '\r' || key == '\n') {
        l->text[l->len] = 0;
        g_string_append(echo, "\r\n");
        return true;
    }
    bool at_end = l->at == l->len;
    u32 before = l->len;
    edit(l, key);
    if (at_end && l->len == before + 1 && l->at == l->len)
        g_string_append_c(echo, l->text[l->len - 1]);
    else
        line_redraw(l, prompt, echo);
    return false;
}

void line_done(struct line_edit *l)
{
    l->text[l->len] = 0;
    if (l->len && (!l->n_history || strcmp(l->history[l->n_history - 1], l->text) != 0)) {
        if (l->n_history == LINE_HISTORY) {
            g_free(l->history[0]);
            memmove(l->history, l->history + 1, (LINE_HISTORY - 1) * sizeof l->history[0]);
            l->n_history--;
        }
        l->history[l->n_history++] = g_strdup(l->text);
    }
    l->shown = l->n_history;
    l->len = l->at = 0;
}

void line_clear(struct line_edit *l)
{
    for (u32 i = 0; i < l->n_history; i++)
        g_free(l->history[i]);
    *l = (struct line_edit){ 0 };
}
