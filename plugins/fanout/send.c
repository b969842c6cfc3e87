/*
 * message.send: who receives it, the appends, the answer; see inbox.h. The lane.
 *
 * With a request_id it is claimed in the database first (SQL: muster.message_begin), each message carries the claim's id as its
 * Nats-Msg-Id, and the answer is kept before it is given: whoever asks again, at whatever broker, has it stored once. An append whose
 * outcome is unknown is tried again then; without a request_id nobody could tell whether it had been stored.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/name.h"
#include "fanout/inbox.h"

enum { MAX_UNDER_WAY = 256, MAX_HEADERS = 8 };
static const int64_t give_up_ns = 10 * CLOCK_S;

typedef char name_text[NAME_MAX_LEN + 1];

struct send {
    struct send *next; /* while it is stalled */
    struct ask *a;
    struct buf payload;
    char id[CLOCK_UUID_SIZE], expires[CLOCK_RFC3339_SIZE];
    bool once, single, stalled;
    name_text *names;
    size_t n, under_way, stored;
    uint32_t *order, *again; /* which to append: now, from at to end; and, of once, with the next tick */
    size_t at, end, n_again;
    uint64_t seq;
    int code; /* the first failure */
    int64_t since_ns;
};

/* One append. */
struct item {
    struct send *s;
    uint32_t i;
};

static void send_free(struct send *s)
{
    buf_done(&s->payload);
    free(s->names);
    free(s->order);
    free(s->again);
    free(s);
}

static void fail(struct send *s, int code, const char *what)
{
    ask_failed(s->a, code, what);
    send_free(s);
}

/* ---- the answer --------------------------------------------------------------------------------------------------------- */

static void write_answer(const struct send *s, uint32_t encoding, struct buf *out)
{
    struct muster_writer w;

    writer_init(&w, encoding, out);
    writer_map(&w, 1);
    writer_text(&w, s->single ? "seq" : "delivered_to");
    writer_int(&w, (int64_t)(s->single ? s->seq : s->stored));
}

static void on_done(void *arg, const struct muster_sql_result *result)
{
    struct send *s = arg;

    ask_reply_outcome(s->a, result);
    send_free(s);
}

static struct muster_bytes text(const char *s)
{
    return (struct muster_bytes){s, s ? strlen(s) : 0};
}

/* The answer is kept before it is given. */
static void keep_answer(struct send *s)
{
    struct buf answer = {0};
    int err;

    write_answer(s, MUSTER_JSON, &answer);
    err = buf_failed(&answer) ? MUSTER_ENOMEM : ask_done(s->a, (struct muster_bytes){answer.data, answer.len}, on_done, s);
    buf_done(&answer);
    if (err)
        fail(s, err, "the answer could not be kept");
}

static void finish(struct send *s)
{
    struct fanout *f = s->a->f;
    struct buf out = {0};

    f->metrics->add(f->host, f->inbox->m_stored, NULL, (int64_t)s->stored);
    f->metrics->add(f->host, f->inbox->m_failed, NULL, (int64_t)(s->n - s->stored));
    if (s->code && s->single) {
        fail(s, s->code, "the message could not be stored");
    } else if (s->code) {
        char what[96];

        (void)snprintf(what, sizeof what, "%zu of %zu inboxes have it", s->stored, s->n);
        fail(s, s->code, what);
    } else if (s->once) {
        keep_answer(s);
    } else {
        write_answer(s, s->a->msg->encoding, &out);
        ask_reply(s->a, out.data, out.len);
        buf_done(&out);
        send_free(s);
    }
}

/* ---- the appends -------------------------------------------------------------------------------------------------------- */

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

static void go_on(struct send *s);

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

static void on_stored(void *arg, int code, uint64_t seq)
{
    struct item *item = arg;
    struct send *s = item->s;
    struct fanout *f = s->a->f;

    s->under_way--;
    if (!code) {
        s->stored++;
        s->seq = seq;
        if (seq > f->inbox->last_seq)
            f->inbox->last_seq = seq;
    } else if (may_pass(code) && will_try_again(s)) {
        s->again[s->n_again++] = item->i;
    } else if (!s->code) {
        s->code = code;
    }
    if (code == MUSTER_ENOTFOUND)
        inbox_reopen(f);
    free(item);
    go_on(s);
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
    s->next = in->stalled;
    in->stalled = s;
}

static void on_refused(struct send *s, uint32_t i, int err)
{
    if (err == MUSTER_EAGAIN) {
        s->at--; /* none is appended while one waits for room */
        stall(s);
    } else if (err == MUSTER_ELINK && will_try_again(s)) {
        s->again[s->n_again++] = i;
    } else if (!s->code) {
        s->code = err;
    }
}

static void go_on(struct send *s)
{
    while (!s->stalled && !s->code && s->under_way < MAX_UNDER_WAY && s->at < s->end) {
        uint32_t i = s->order[s->at++];
        int err = append(s, i);

        if (err)
            on_refused(s, i, err);
        else
            s->under_way++;
    }
    if (s->under_way || s->stalled)
        return;
    if (!s->code && s->n_again)
        stall(s); /* until the next tick */
    else
        finish(s);
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
        go_on(s);
    }
}

void inbox_drop_stalled(struct fanout *f)
{
    while (f->inbox->stalled) {
        struct send *s = f->inbox->stalled;

        f->inbox->stalled = s->next;
        s->stalled = false;
        s->code = MUSTER_ELINK;
        s->once = false;
        go_on(s);
    }
}

/* ---- who receives it ---------------------------------------------------------------------------------------------------- */

static int set_names(struct send *s, size_t n)
{
    s->n = s->end = n;
    s->names = calloc(n + 1, sizeof *s->names);
    s->order = calloc(n + 1, sizeof *s->order);
    s->again = calloc(n + 1, sizeof *s->again);
    for (uint32_t i = 0; i < n && s->order; i++)
        s->order[i] = i;
    return s->names && s->order && s->again ? 0 : MUSTER_ENOMEM;
}

static void on_receivers(void *arg, const struct muster_sql_result *r)
{
    struct send *s = arg;
    const char *to = ask_str(s->a, "to");

    if (r->code || set_names(s, r->n_rows) != 0) {
        fail(s, r->code ? r->code : MUSTER_ENOMEM, "the receivers could not be read");
        return;
    }
    if (s->single && !r->n_rows) {
        ask_error(s->a, "not_found", "to", "to: %s came, the name of an agent was expected", to);
        send_free(s);
        return;
    }
    for (uint32_t i = 0; i < r->n_rows; i++)
        (void)snprintf(s->names[i], sizeof s->names[i], "%s", r->get(r, i, 0));
    go_on(s);
}

/* Names that this broker knows to hear their inbox need not be looked up. */
static bool is_known(const struct send *s, const char *to)
{
    const struct fanout *f = s->a->f;
    char subject[NAME_MAX_LEN + 8];

    (void)snprintf(subject, sizeof subject, "msg.%s", to);
    return f->tenants->may_hear(f->host, s->a->msg->tenant, to, subject) == 0;
}

static void find_receivers(struct send *s)
{
    struct ask *a = s->a;
    struct fanout *f = a->f;
    const char *to = ask_str(a, "to");
    const struct muster_bytes params[] = {text(f->tenants->name(a->msg->tenant)), text(to), text(ask_str(a, "group"))};
    int err;

    if (to && is_known(s, to)) {
        err = set_names(s, 1);
        if (!err) {
            (void)snprintf(s->names[0], sizeof s->names[0], "%s", to);
            go_on(s);
            return;
        }
    } else {
        err = f->sql->exec(f->host, f->inbox->receivers, a->msg->tenant, NULL, 3, params, on_receivers, s);
    }
    if (err)
        fail(s, err, "the receivers could not be read");
}

/* ---- once --------------------------------------------------------------------------------------------------------------- */

static void on_begun(void *arg, const struct muster_sql_result *r)
{
    struct send *s = arg;
    const char *outcome = r->code || !r->n_rows ? NULL : r->get(r, 0, 0);
    struct muster_value *doc = NULL;
    struct wire_error error;
    const char *claim = NULL;

    if (outcome && value_decode(MUSTER_JSON, text(outcome), &doc, &error) == 0)
        claim = text_in(value_in(doc, "ok"), "claim");
    if (claim) {
        (void)snprintf(s->id, sizeof s->id, "%s", claim);
        find_receivers(s);
    } else {
        ask_reply_outcome(s->a, r); /* the first answer, or why not */
        send_free(s);
    }
    value_free(doc);
}

static void begin_once(struct send *s)
{
    struct ask *a = s->a;
    const char *to = ask_str(a, "to");
    char args[CLOCK_UUID_SIZE + NAME_MAX_LEN + 32];
    int err;

    (void)snprintf(args, sizeof args, to ? "{\"id\":\"%s\",\"to\":\"%s\"}" : "{\"id\":\"%s\"}", s->id, to);
    err = ask_begin(a, args, on_begun, s);
    if (err)
        fail(s, err, "the request could not be written down");
}

/* ---- the verb ----------------------------------------------------------------------------------------------------------- */

/* False, with the error told, unless one way to say who receives it was taken. */
static bool has_receiver(struct ask *a)
{
    const struct muster_value *all = value_get(a->args, "all");
    int n = (ask_str(a, "to") != NULL) + (ask_str(a, "group") != NULL) + (all != NULL && value_int(all));
    char subject[NAME_MAX_LEN + 8];

    if (n != 1) {
        ask_error(a, "invalid_argument", "to", "to, group, all: %d of them came, one of to, group and all: true was expected", n);
        return false;
    }
    if (!ask_str(a, "group"))
        return true;
    (void)snprintf(subject, sizeof subject, "grp.%s.>", ask_str(a, "group"));
    if (a->f->tenants->may_hear(a->f->host, a->msg->tenant, a->msg->agent, subject) != MUSTER_EACCES)
        return true;
    ask_error(a, "permission_denied", "group", "group: %s came, which this name may not hear", ask_str(a, "group"));
    return false;
}

void inbox_send(struct ask *a)
{
    struct fanout *f = a->f;
    struct send *s;
    int64_t ttl_ms;
    int err;

    if (!has_receiver(a))
        return;
    s = calloc(1, sizeof *s);
    if (!s) {
        ask_failed(a, MUSTER_ENOMEM, "the message could not be stored");
        return;
    }
    s->a = a;
    ttl_ms = ask_int(a, "ttl_ms", 0);
    s->single = ask_str(a, "to") != NULL;
    s->once = ask_str(a, "request_id") != NULL;
    s->since_ns = f->timer->now(f->host);
    clock_uuid7(s->id);
    if (ttl_ms)
        clock_rfc3339(f->timer->wall_now(f->host) + ttl_ms * CLOCK_MS, s->expires);
    err = payload_write(a, &s->payload);
    if (err)
        fail(s, err, "payload: it could not be written");
    else if (s->once)
        begin_once(s);
    else
        find_receivers(s);
}
