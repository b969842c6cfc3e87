/* The sends of each sender, in the order in which they came; see send.h. The lane. */
#include <stdlib.h>
#include <string.h>

#include "fanout/send.h"

enum { KEY_MAX = sizeof(void *) + 128 };

/* One sender, while it has sends. */
struct line {
    struct inbox *in;
    struct send *first, *last; /* those that are not handed over whole */
    struct send *next;         /* the first of them that has not begun */
    size_t n_begun, n_wide;    /* of them; at most SENDS_AHEAD and, of those that are not single, WIDE_AHEAD */
    size_t n_sends;            /* all that are not answered */
    size_t n_again;            /* those that are tried again: none that came later is appended before they are over */
    bool running;
    size_t key_len;
    char key[KEY_MAX];
};

/* ---- the lines ---------------------------------------------------------------------------------------------------------- */

static size_t write_key(const struct muster_msg *msg, char key[KEY_MAX])
{
    const char *agent = msg->agent ? msg->agent : "";
    size_t len = strnlen(agent, KEY_MAX - sizeof msg->tenant);

    memcpy(key, &msg->tenant, sizeof msg->tenant);
    memcpy(key + sizeof msg->tenant, agent, len);
    return sizeof msg->tenant + len;
}

static struct line *line_of(struct inbox *in, const struct muster_msg *msg)
{
    char key[KEY_MAX];
    size_t len = write_key(msg, key);
    struct line *line = map_get(&in->lines, key, len);

    if (line)
        return line;
    line = calloc(1, sizeof *line);
    if (!line || !map_put(&in->lines, key, len, line)) {
        free(line);
        return NULL;
    }
    line->in = in;
    line->key_len = len;
    memcpy(line->key, key, len);
    return line;
}

static void free_empty(struct line *line)
{
    if (line->n_sends)
        return;
    (void)map_take(&line->in->lines, line->key, line->key_len);
    free(line);
}

/* ---- going on ----------------------------------------------------------------------------------------------------------- */

/* Who receives it may be looked up, and its request_id claimed, while others before it are on their way. */
static void begin_ahead(struct line *line)
{
    while (line->next && line->n_begun < SENDS_AHEAD && line->n_wide < WIDE_AHEAD) {
        struct send *s = line->next;

        line->next = s->behind;
        line->n_begun++;
        line->n_wide += !s->single;
        send_begin(s);
    }
}

static bool may_append(const struct line *line)
{
    const struct send *s = line->first;

    return s && s->ready && !s->stalled && line->n_again == s->tries_again;
}

/* True when the first is out of the way. */
static bool hand_over(struct line *line)
{
    size_t n = line->n_begun;

    if (!may_append(line))
        return false;
    send_append(line->first);
    return line->n_begun < n;
}

/* Whatever is called here may end up here again: the loop that runs already goes on with it. */
static void run(struct line *line)
{
    if (line->running)
        return;
    line->running = true;
    do
        begin_ahead(line);
    while (hand_over(line));
    line->running = false;
    free_empty(line);
}

void send_go_on(struct send *s)
{
    if (s->in_line)
        run(s->line);
    else
        send_append(s);
}

/* ---- in and out --------------------------------------------------------------------------------------------------------- */

int line_join(struct send *s)
{
    struct line *line = line_of(s->a->f->inbox, s->a->msg);

    if (!line)
        return MUSTER_ENOMEM;
    *(line->first ? &line->last->behind : &line->first) = s;
    line->last = s;
    if (!line->next)
        line->next = s;
    line->n_sends++;
    s->line = line;
    s->in_line = true;
    run(line);
    return 0;
}

/* It has begun, so few are in front of it. */
void line_leave(struct send *s)
{
    struct line *line = s->line;
    struct send *before = NULL;

    if (!s->in_line)
        return;
    if (line->first != s)
        for (before = line->first; before->behind != s;)
            before = before->behind;
    *(before ? &before->behind : &line->first) = s->behind;
    if (line->last == s)
        line->last = before;
    s->in_line = false;
    line->n_begun--;
    line->n_wide -= !s->single;
}

void line_hold(struct send *s)
{
    if (!s->line || s->tries_again)
        return;
    s->tries_again = true;
    s->line->n_again++;
}

void line_release(struct send *s)
{
    if (!s->tries_again)
        return;
    s->tries_again = false;
    s->line->n_again--;
    run(s->line);
}

void line_end(struct send *s)
{
    struct line *line = s->line;

    if (!line)
        return;
    line_leave(s);
    line_release(s);
    line->n_sends--;
    s->line = NULL;
    run(line);
}
