/* message.send: who receives it, and the answer; see send.h. The lane. */
#include "fanout/send.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/name.h"

static void send_free(struct send *s)
{
    buf_done(&s->payload);
    free(s->names);
    free(s->order);
    free(s->again);
    line_end(s);
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

void send_over(struct send *s)
{
    struct fanout *f = s->a->f;
    struct buf out = {0};

    line_release(s);
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

/* True: it is told that nobody could read it. Roles whose subscriptions have no inbox (INTERFACE 2.2). */
static bool refuse_role(struct send *s, const char *role)
{
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "observer") != 0))
        return false;
    ask_error(s->a, "failed_precondition", "to", "to: %s came, of role %s, which has no inbox; an agent, human or admin was expected",
              ask_str(s->a, "to"), role);
    send_free(s);
    return true;
}

static void begin_once(struct send *s);

static void set_ready(struct send *s)
{
    if (s->single && !s->n) {
        ask_error(s->a, "not_found", "to", "to: %s came, the name of an agent was expected", ask_str(s->a, "to"));
        send_free(s);
        return;
    }
    s->ready = true;
    send_go_on(s);
}

/* Of a single one the request_id is claimed last: what is refused for its role is not begun. Of several it has been claimed: for what was
 * answered before nobody is looked up. */
static void on_found(struct send *s)
{
    if (s->once && s->single)
        begin_once(s);
    else
        set_ready(s);
}

static void on_receivers(void *arg, const struct muster_sql_result *r)
{
    struct send *s = arg;

    if (r->code || set_names(s, r->n_rows) != 0) {
        fail(s, r->code ? r->code : MUSTER_ENOMEM, "the receivers could not be read");
        return;
    }
    for (uint32_t i = 0; i < r->n_rows; i++)
        (void)snprintf(s->names[i], sizeof s->names[i], "%s", r->get(r, i, 0));
    if (!s->single || !r->n_rows || !refuse_role(s, r->get(r, 0, 1)))
        on_found(s);
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
            on_found(s);
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

    if (!ask_claim(r, s->id)) {
        ask_reply_outcome(s->a, r); /* the first answer, or why not */
        send_free(s);
    } else if (s->single) {
        set_ready(s);
    } else {
        find_receivers(s);
    }
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

void send_begin(struct send *s)
{
    int err = payload_write(s->a, &s->payload);

    if (err)
        fail(s, err, "payload: it could not be written");
    else if (s->once && !s->single)
        begin_once(s);
    else
        find_receivers(s);
}

void inbox_send(struct ask *a)
{
    struct fanout *f = a->f;
    int64_t ttl_ms = ask_int(a, "ttl_ms", 0);
    struct send *s;

    if (!has_receiver(a))
        return;
    s = calloc(1, sizeof *s);
    if (!s) {
        ask_failed(a, MUSTER_ENOMEM, "the message could not be stored");
        return;
    }
    s->a = a;
    s->single = ask_str(a, "to") != NULL;
    s->once = ask_str(a, "request_id") != NULL;
    s->since_ns = f->timer->now(f->host);
    clock_uuid7(s->id);
    if (ttl_ms)
        clock_rfc3339(f->timer->wall_now(f->host) + ttl_ms * CLOCK_MS, s->expires);
    if (line_join(s) != 0)
        fail(s, MUSTER_ENOMEM, "the message could not be stored");
}
