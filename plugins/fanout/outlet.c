/*
 * From what waits for a watch to the subject it delivers on; see watch.h.
 *
 * The first message after an open, or after its shard has come here, is sent as a question, because the server answers one that nobody
 * hears: it is sent again until somebody subscribes, and what comes after it waits. Somebody who does hear it answers nothing. So it has
 * been heard when a question behind it that nobody can hear is back, by the same way, and it is not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/emit.h"
#include "fanout/watch.h"
#include "wire/value.h"

enum { HEADERS = OUTLET_HEADERS };
static const int64_t heard_within_ns = CLOCK_S, ask_again_ns = 100 * CLOCK_MS; /* without an echo: who hears all of sub has heard both */

struct outlet_first {
    struct watch *w; /* NULL: it is gone, or heard */
    uint32_t pending; /* callbacks still due */
    struct buf body, headers;
    struct muster_header table[HEADERS];
    uint32_t n;
    struct gap gaps[GAPS_MAX]; /* that it tells */
    size_t n_gaps;
    int64_t again_ns;
};

uint64_t message_number(const struct muster_msg *msg, const char *header)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, header) == 0)
            return strtoull(msg->headers[i].value, NULL, 10);
    return 0;
}

const struct gap *outlet_gap_at(const struct watch *w, size_t i)
{
    size_t n_first = w->first ? w->first->n_gaps : 0;

    if (i < n_first)
        return &w->first->gaps[i];
    return i - n_first < w->n_gaps ? &w->gaps[i - n_first] : NULL;
}

/* Until somebody has heard it, it is part of where the watch is. */
static void keep_gap(struct watch *w)
{
    for (size_t i = 0; i < w->n_taps; i++)
        tap_stray(&w->taps[i]);
    if (w->heard != HEARD)
        w->ws->kept_ns = 0;
}

void outlet_gap(struct watch *w, const char *reason, const char *channel, uint64_t epoch, uint64_t seq)
{
    struct gap *gap = &w->gaps[w->n_gaps < GAPS_MAX ? w->n_gaps : GAPS_MAX - 1];

    if (w->ended)
        return;
    if (w->n_gaps < GAPS_MAX)
        w->n_gaps++;
    *gap = (struct gap){.reason = reason, .epoch = epoch, .seq = seq}; /* of too many the last stands for the rest */
    (void)snprintf(gap->channel, sizeof gap->channel, "%s", channel);
    w->ws->f->metrics->add(w->ws->f->host, w->ws->m.gaps, reason, 1);
    keep_gap(w);
    outlet_mark(w);
}

/* ---- sending -------------------------------------------------------------------------------------------------------------------- */

static void on_first(void *arg, int code, const struct muster_msg *msg);
static void on_echo(void *arg, int code, const struct muster_msg *msg);

static void ask_echo(struct outlet_first *first)
{
    const struct watch *w = first->w;
    struct fanout *f = w->ws->f;
    const struct muster_publication pub = {.size = sizeof pub, .tenant = w->tenant, .subject = "sub._muster.none"};

    if (f->bus->request(f->host, &pub, heard_within_ns, on_echo, first) == 0)
        first->pending++;
}

static int ask_first(struct watch *w)
{
    struct fanout *f = w->ws->f;
    struct outlet_first *first = w->first;
    struct muster_publication pub = {.size = sizeof pub, .tenant = w->tenant, .subject = w->subject, .headers = first->table,
                                     .n_headers = first->n, .payload = {first->body.data, first->body.len}};
    int err = f->bus->request(f->host, &pub, heard_within_ns, on_first, first);

    w->heard = err ? HEARD_NO : HEARD_ASKED;
    if (err) {
        first->again_ns = f->timer->now(f->host) + ask_again_ns;
        return err;
    }
    first->pending++;
    ask_echo(first);
    return 0;
}

/* It is freed with its last callback. */
static void leave_first(struct outlet_first *first)
{
    first->w = NULL;
    if (first->pending)
        return;
    buf_done(&first->body);
    buf_done(&first->headers);
    free(first);
}

/* Until somebody hears the first message, who takes the shard over must send it again, and what waits behind it. */
static void note_unheard(struct watch *w, bool heard)
{
    for (size_t i = 0; i < w->n_taps; i++) {
        struct tap *tap = &w->taps[i];
        const struct note *note = heard ? NULL : w->batch.first;

        while (note && note->from != tap)
            note = note->next;
        tap->unheard = note ? note->seq : 0;
    }
}

static void be_heard(struct watch *w)
{
    struct outlet_first *first = w->first;

    w->heard = HEARD;
    note_unheard(w, true);
    w->first = NULL;
    leave_first(first);
    outlet_mark(w);
}

/* True: nobody wants to know any more. */
static bool came_back(struct outlet_first *first)
{
    first->pending--;
    if (first->w)
        return false;
    leave_first(first);
    return true;
}

static void on_first(void *arg, int code, const struct muster_msg *msg)
{
    struct outlet_first *first = arg;
    struct watch *w = first->w;

    (void)msg;
    if (came_back(first))
        return;
    if (code != MUSTER_ENOTFOUND && code != MUSTER_ELINK) {
        be_heard(w);
        return;
    }
    w->heard = HEARD_NO;
    first->again_ns = w->ws->f->timer->now(w->ws->f->host) + ask_again_ns;
    outlet_mark(w);
}

static void on_echo(void *arg, int code, const struct muster_msg *msg)
{
    struct outlet_first *first = arg;
    struct watch *w = first->w;

    (void)msg;
    if (came_back(first))
        return;
    if (w->heard != HEARD_ASKED)
        outlet_mark(w);
    else if (code == MUSTER_ENOTFOUND)
        be_heard(w);
}

/* Copy it, because it may have to be sent more than once. */
static bool first_new(struct watch *w, const struct muster_publication *pub)
{
    struct outlet_first *first = calloc(1, sizeof *first);
    size_t at = 0;

    if (!first)
        return false;
    first->w = w;
    first->n_gaps = w->spec.rules.interval_ns || !w->n_gaps ? w->n_gaps : 1;
    memcpy(first->gaps, w->gaps, first->n_gaps * sizeof *w->gaps);
    buf_put(&first->body, pub->payload.data, pub->payload.len);
    for (uint32_t i = 0; i < pub->n_headers; i++) {
        buf_put(&first->headers, pub->headers[i].name, strlen(pub->headers[i].name) + 1);
        buf_put(&first->headers, pub->headers[i].value, strlen(pub->headers[i].value) + 1);
    }
    if (buf_failed(&first->body) || buf_failed(&first->headers)) {
        leave_first(first);
        return false;
    }
    for (first->n = 0; first->n < pub->n_headers; first->n++) {
        const char *name = first->headers.data + at, *value = name + strlen(name) + 1;

        first->table[first->n] = (struct muster_header){name, value};
        at = (size_t)(value - first->headers.data) + strlen(value) + 1;
    }
    w->first = first;
    return true;
}

int outlet_send(struct watch *w, const struct muster_publication *pub)
{
    struct fanout *f = w->ws->f;

    if (w->heard == HEARD)
        return f->bus->publish(f->host, pub);
    if (!first_new(w, pub))
        return MUSTER_ENOMEM;
    note_unheard(w, false);
    (void)ask_first(w); /* it is asked again */
    return 0;
}

/* ---- flushing ------------------------------------------------------------------------------------------------------------------- */

/* False: it does not go on now. */
static bool sent(struct watch *w, const struct note *end, int err, int64_t now)
{
    struct fanout *f = w->ws->f;
    uint64_t before = w->batch.delivered;

    if (err == MUSTER_EINVAL) { /* with what stands around it the first is larger than a message may be */
        batch_drop_first(&w->batch, DROPPED_TOO_LARGE);
        return true;
    }
    if (err)
        return false;
    batch_delivered(&w->batch, end, now);
    f->metrics->add(f->host, w->ws->m.delivered, NULL, (int64_t)(w->batch.delivered - before));
    return w->heard == HEARD;
}

static void make_room(struct watch *w)
{
    if (w->batch.full && w->batch.rules.slow == SLOW_PAUSE)
        return;
    for (size_t i = 0; i < w->n_taps; i++)
        if (w->taps[i].waits)
            tap_go(&w->taps[i]);
}

static bool is_silenced(struct watch *w, int64_t now)
{
    if (w->heard == HEARD_NO && now >= w->first->again_ns && !w->first->pending)
        (void)ask_first(w);
    return w->heard == HEARD_ASKED || w->heard == HEARD_NO;
}

static void flush_batches(struct watch *w, int64_t now)
{
    bool force = w->ws->f->draining || w->ws->shards[w->shard].leaving;

    while ((w->batch.first && (force || batch_is_due(&w->batch, now))) || (w->n_gaps && (force || now >= w->batch.next_ns))) {
        const struct note *end = batch_end(&w->batch);

        if (!sent(w, end, outlet_send_batch(w, end), now))
            return;
        if (!force)
            return; /* one an interval */
    }
}

static void flush_single(struct watch *w, int64_t now)
{
    if (outlet_send_gaps(w) != 0)
        return;
    while (w->batch.first && w->heard != HEARD_ASKED && w->heard != HEARD_NO) {
        const struct note *next = w->batch.first->next;

        if (!sent(w, next, outlet_send_one(w), now))
            return;
    }
}

void outlet_flush(struct watch *w)
{
    int64_t now = w->ws->f->timer->now(w->ws->f->host);

    if (!w->open || w->ended || !w->ws->f->link_up || is_silenced(w, now))
        return;
    if (w->spec.rules.interval_ns)
        flush_batches(w, now);
    else
        flush_single(w, now);
    make_room(w);
}

/* ---- when ------------------------------------------------------------------------------------------------------------------------ */

static int64_t due_ns(const struct watch *w)
{
    if (w->heard == HEARD_NO)
        return w->first->again_ns;
    return w->batch.next_ns;
}

static bool is_waiting(const struct watch *w)
{
    return w->batch.first || w->n_gaps || w->heard == HEARD_NO;
}

static void on_due(void *self, int64_t now_ns)
{
    struct watches *ws = ((struct fanout *)self)->watches;

    (void)now_ns;
    ws->timer_ns = 0;
    outlets_run(ws);
}

static void arm(struct watches *ws, int64_t at_ns)
{
    struct fanout *f = ws->f;
    int64_t now, delay;

    if (ws->timer_ns && ws->timer_ns <= at_ns)
        return;
    now = f->timer->now(f->host);
    delay = at_ns > now + CLOCK_MS ? at_ns - now : CLOCK_MS;
    if (ws->timer_ns)
        f->timer->stop(f->host, ws->timer);
    ws->timer_ns = f->timer->once(f->host, delay, on_due, &ws->timer) == 0 ? now + delay : 0;
}

static void enlist(struct watch *w)
{
    if (w->dirty || w->ended)
        return;
    w->dirty = true;
    w->next_dirty = w->ws->dirty;
    w->ws->dirty = w;
}

void outlet_mark(struct watch *w)
{
    if (!w->spec.rules.interval_ns)
        outlet_flush(w);
    if (!is_waiting(w) || w->ended)
        return;
    enlist(w);
    if (w->open && w->heard != HEARD_ASKED)
        arm(w->ws, due_ns(w));
}

void outlets_run(struct watches *ws)
{
    struct watch *list = ws->dirty, *next;

    ws->dirty = NULL;
    for (; list; list = next) {
        next = list->next_dirty;
        list->dirty = false;
        if (shard_is_held(ws, list->shard))
            outlet_flush(list);
        if (!is_waiting(list) || list->ended)
            continue;
        enlist(list);
        if (list->open && list->heard != HEARD_ASKED && due_ns(list) > ws->f->timer->now(ws->f->host))
            arm(ws, due_ns(list)); /* what is due and did not go waits for on_writable(), or the next tick */
    }
}

bool outlets_empty(struct watches *ws, uint32_t shard)
{
    void *value;

    outlets_run(ws);
    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        const struct watch *w = value;

        if (w->shard == shard && w->heard == HEARD_ASKED)
            return false;
    }
    return true;
}

void outlet_done(struct watch *w)
{
    if (w->dirty) {
        struct watch **at = &w->ws->dirty;

        while (*at != w)
            at = &(*at)->next_dirty;
        *at = w->next_dirty;
        w->dirty = false;
    }
    if (w->first)
        leave_first(w->first);
    w->first = NULL;
}
