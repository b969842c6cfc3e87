/* Has a message stored in the inboxes of its receivers; see send.h. The lane. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/send.h"

enum { MAX_UNDER_WAY = 256, MAX_HEADERS = 8 };
static const int64_t give_up_ns = 10 * CLOCK_S;

/* One append. */
struct item {
    struct send *s;
    uint32_t i;
};

static uint32_t fill_headers(const struct send *s, const char *msg_id, struct muster_header out[MAX_HEADERS])
{
    const struct muster_msg *msg = s->a->msg;
    const struct muster_header all[MAX_HEADERS] = {{"Muster-From", msg->agent},
                                                   {"Muster-Type", ask_str(s->a, "type")},
                                                   {"Muster-Id", s->id},
                                                   {"Muster-Expires", s->expires[0] ? s->expires : NULL},
                                                   {"Nats-Msg-Id", msg_id},
                                                   {"traceparent", ask_header(s->a, "traceparent")},
                                                   {"tracestate", ask_header(s->a, "tracestate")}};
    uint32_t n = 0;

    for (size_t i = 0; i < MAX_HEADERS; i++)
        if (all[i].value)
            out[n++] = all[i];
    return n;
}

/* What nobody knows the outcome of, or what a stream without a leader did not take. */
static bool may_pass(int code)
{
    return code == MUSTER_ELINK || code == MUSTER_ETIME || code == MUSTER_ENOTFOUND || code == MUSTER_ENOMEM;
}

static bool will_try_again(const struct send *s)
{
    const struct fanout *f = s->a->f;

    return s->once && !f->draining && f->timer->now(f->host) - s->since_ns < give_up_ns;
}

static void count_under_way(const struct fanout *f, int by)
{
    f->inbox->under_way += (size_t)by;
    f->metrics->set(f->host, f->inbox->m_under_way, NULL, (int64_t)f->inbox->under_way);
}

/* Nothing is let in before half of the room is free: each takes as much as it can. */
static void let_in(struct inbox *in)
{
    if (in->under_way > SENDS_UNDER_WAY / 2)
        return;
    while (in->crowded && in->under_way < SENDS_UNDER_WAY) {
        struct send *s = in->crowded;

        in->crowded = s->next;
        s->stalled = false;
        send_go_on(s);
    }
}

static void try_again(struct send *s, uint32_t i)
{
    s->again[s->n_again++] = i;
    line_hold(s);
}

static void on_stored(void *arg, int code, uint64_t seq)
{
    struct item *item = arg;
    struct send *s = item->s;
    struct fanout *f = s->a->f;

    s->under_way--;
    count_under_way(f, -1);
    if (!code) {
        s->stored++;
        s->seq = seq;
        if (seq > f->inbox->last_seq)
            f->inbox->last_seq = seq;
    } else if (may_pass(code) && will_try_again(s)) {
        try_again(s, item->i);
    } else if (!s->code) {
        s->code = code;
    }
    if (code == MUSTER_ENOTFOUND)
        inbox_reopen(f);
    free(item);
    send_go_on(s);
    let_in(f->inbox);
}

static int append(struct send *s, uint32_t i)
{
    struct fanout *f = s->a->f;
    struct muster_header headers[MAX_HEADERS];
    struct muster_append append = {.size = sizeof append,
                                   .tenant = s->a->msg->tenant,
                                   .headers = headers,
                                   .payload = {s->payload.data, s->payload.len},
                                   .expected_seq = MUSTER_UNFENCED,
                                   .acked = on_stored};
    char subject[NAME_MAX_LEN + 8], msg_id[CLOCK_UUID_SIZE + NAME_MAX_LEN + 2];
    struct item *item = malloc(sizeof *item);
    int err;

    if (!item)
        return MUSTER_ENOMEM;
    *item = (struct item){s, i};
    (void)snprintf(subject, sizeof subject, "msg.%s", s->names[i]);
    (void)snprintf(msg_id, sizeof msg_id, "%s.%s", s->id, s->names[i]);
    append.subject = subject;
    append.n_headers = fill_headers(s, s->once ? msg_id : NULL, headers);
    append.arg = item;
    err = f->inbox->open ? f->stream->append(f->host, f->inbox->stream, &append) : MUSTER_ELINK;
    if (err)
        free(item);
    return err;
}

static void stall(struct send *s)
{
    struct inbox *in = s->a->f->inbox;

    if (s->stalled)
        return;
    s->stalled = true;
    s->next = NULL;
    *(in->stalled ? &in->last_stalled->next : &in->stalled) = s;
    in->last_stalled = s;
}

/* No room among all: it goes on behind those that wait already. */
static void wait_its_turn(struct send *s)
{
    struct inbox *in = s->a->f->inbox;

    s->stalled = true;
    s->next = NULL;
    *(in->crowded ? &in->last_crowded->next : &in->crowded) = s;
    in->last_crowded = s;
}

static void on_refused(struct send *s, uint32_t i, int err)
{
    if (err == MUSTER_EAGAIN) {
        s->at--; /* none is appended while one waits for room */
        stall(s);
    } else if (err == MUSTER_ELINK && will_try_again(s)) {
        try_again(s, i);
    } else if (!s->code) {
        s->code = err;
    }
}

void send_append(struct send *s)
{
    struct inbox *in = s->a->f->inbox;

    while (!s->stalled && !s->code && s->under_way < MAX_UNDER_WAY && in->under_way < SENDS_UNDER_WAY && s->at < s->end) {
        uint32_t i = s->order[s->at++];
        int err = append(s, i);

        if (err) {
            on_refused(s, i, err);
            continue;
        }
        s->under_way++;
        count_under_way(s->a->f, 1);
    }
    if (s->code || s->at == s->end)
        line_leave(s);
    if (s->under_way || s->stalled)
        return;
    if (!s->code && s->at < s->end)
        wait_its_turn(s);
    else if (!s->code && s->n_again)
        stall(s); /* until the next tick */
    else
        send_over(s);
}

static void begin_again(struct send *s)
{
    uint32_t *order = s->again;

    if (s->at < s->end)
        return; /* it had waited for room */
    s->again = s->order;
    s->order = order;
    s->at = 0;
    s->end = s->n_again;
    s->n_again = 0;
}

void inbox_resume(struct fanout *f)
{
    struct send *s = f->inbox->stalled, *next;

    f->inbox->stalled = NULL;
    for (; s; s = next) {
        next = s->next;
        s->stalled = false;
        if (s->n_again && !will_try_again(s))
            s->code = s->code ? s->code : MUSTER_ELINK;
        else
            begin_again(s);
        send_go_on(s);
    }
}

static void drop(struct send **list)
{
    while (*list) {
        struct send *s = *list;

        *list = s->next;
        s->stalled = false;
        s->code = MUSTER_ELINK;
        s->once = false;
        send_append(s);
    }
}

void inbox_drop_stalled(struct fanout *f)
{
    drop(&f->inbox->stalled);
    drop(&f->inbox->crowded);
}
