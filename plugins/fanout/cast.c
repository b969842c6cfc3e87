/* message.cast; see cast.h. */
#include "fanout/cast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/inbox.h"

/* ---- the end ------------------------------------------------------------------------------------------------------------ */

void cast_forget(struct cast *c)
{
    if (!c->waits)
        return;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    (void)map_take(&c->all->by_ref, c->ref, strlen(c->ref));
    c->waits = false;
}

void cast_free(struct cast *c)
{
    cast_forget(c);
    for (size_t i = 0; i < c->n_receipts; i++)
        buf_done(&c->receipts[i].body);
    free(c->receipts);
    roll_done(&c->roll);
    buf_done(&c->payload);
    free(c->names);
    c->all->n_open--;
    free(c);
}

void cast_fail(struct cast *c, int code, const char *what)
{
    ask_failed(c->a, code, what);
    cast_free(c);
}

/* ---- sending ------------------------------------------------------------------------------------------------------------ */

/* What every message has: only the receiver's name differs. */
static void fill_headers(struct cast *c)
{
    const struct muster_header all[CAST_HEADERS] = {
        {"Muster-Cast", c->id}, {"traceparent", ask_header(c->a, "traceparent")}, {"tracestate", ask_header(c->a, "tracestate")}};

    for (size_t i = 0; i < CAST_HEADERS; i++)
        if (all[i].value)
            c->headers[c->n_headers++] = all[i];
}

static void write_frame(struct cast *c)
{
    fill_headers(c);
    c->behind_to_len = (size_t)snprintf(c->behind_to, sizeof c->behind_to, ".%s.%s", c->a->msg->agent, ask_str(c->a, "type"));
    c->behind_rpc_len = (size_t)snprintf(c->behind_rpc, sizeof c->behind_rpc, ".message.receipt.%s", c->ref);
}

/* "<before><name><behind>"; behind ends in a NUL. */
static void join(char *out, const char *before, const char *name, const char *behind, size_t behind_len)
{
    size_t n_before = strlen(before), n_name = strlen(name);

    memcpy(out, before, n_before);
    memcpy(out + n_before, name, n_name);
    memcpy(out + n_before + n_name, behind, behind_len + 1);
}

static int publish(struct cast *c, const char *to)
{
    const struct fanout *f = c->all->f;
    char subject[NAME_MAX_LEN + 4 + sizeof c->behind_to], reply[NAME_MAX_LEN + 4 + sizeof c->behind_rpc];
    struct muster_publication pub = {.size = sizeof pub,
                                     .tenant = c->a->msg->tenant,
                                     .subject = subject,
                                     .headers = c->headers,
                                     .n_headers = c->n_headers,
                                     .payload = {c->payload.data, c->payload.len},
                                     .reply = c->wanted ? reply : NULL};

    join(subject, "to.", to, c->behind_to, c->behind_to_len);
    if (c->wanted)
        join(reply, "rpc.", to, c->behind_rpc, c->behind_rpc_len);
    return f->bus->publish(f->host, &pub);
}

static void go_on(struct cast *c)
{
    struct casts *all = c->all;
    int err = 0;

    while (c->sent < c->n && !err) {
        err = publish(c, c->names[c->sent]);
        c->sent += !err;
    }
    if (err == MUSTER_EAGAIN) {
        struct cast **at = &all->stalled;

        while (*at)
            at = &(*at)->next_stalled;
        c->next_stalled = NULL;
        *at = c;
        return;
    }
    all->f->metrics->add(all->f->host, all->m_messages, NULL, (int64_t)c->sent);
    if (err)
        cast_fail(c, err, "the message could not be sent to all");
    else if (c->n_receipts >= c->wanted || c->until_ns <= all->f->timer->now(all->f->host))
        cast_finish(c);
}

static void resume(struct fanout *f)
{
    struct cast *c = f->casts->stalled, *next;

    f->casts->stalled = NULL;
    for (; c; c = next) {
        next = c->next_stalled;
        go_on(c);
    }
}

/* Have receipts brought here: before the first message goes out. */
static int expect(struct cast *c)
{
    struct casts *all = c->all;
    struct fanout *f = all->f;
    int64_t timeout_ns = ask_int(c->a, "timeout_ms", f->config->cast_timeout_ns / CLOCK_MS) * CLOCK_MS;
    uint64_t id;

    c->receipts = calloc(c->wanted, sizeof *c->receipts);
    (void)snprintf(c->ref, sizeof c->ref, "%s-%llx-%016llx", all->tag, (unsigned long long)++all->next, (unsigned long long)clock_random());
    if (!c->receipts || !roll_make(&c->roll, c->names, c->n) || !map_put(&all->by_ref, c->ref, strlen(c->ref), c))
        return MUSTER_ENOMEM;
    c->waits = true;
    c->next = all->waiting;
    c->link = &all->waiting;
    if (c->next)
        c->next->link = &c->next;
    all->waiting = c;
    c->until_ns = f->timer->now(f->host) + timeout_ns;
    return f->timer->once(f->host, timeout_ns + CLOCK_MS, cast_on_due, &id);
}

void cast_begin(struct cast *c)
{
    size_t asked = (size_t)ask_int(c->a, "receipts", 0);
    int err = 0;

    if (c->too_many) {
        ask_error(c->a, "resource_exhausted", "cast", "more than %d agents match", CAST_NAMES_MAX);
        cast_free(c);
        return;
    }
    c->wanted = asked < c->n ? asked : c->n;
    if (c->wanted)
        err = expect(c);
    write_frame(c);
    if (err)
        cast_fail(c, err, "the cast could not be begun");
    else
        go_on(c);
}

/* ---- the verb ----------------------------------------------------------------------------------------------------------- */

/* A claim that is another's: it is being done, or was begun and nobody knows how far it came. */
static void on_begun(void *arg, const struct muster_sql_result *r)
{
    struct cast *c = arg;
    char claim[CLOCK_UUID_SIZE];
    bool is_claimed = ask_claim(r, claim);

    if (is_claimed && strcmp(claim, c->id) == 0) {
        cast_find(c);
        return;
    }
    if (is_claimed)
        ask_error(c->a, "aborted", "request_id", "request_id: %s was begun and is not finished: what it did is unknown", ask_str(c->a, "request_id"));
    else
        ask_reply_outcome(c->a, r);
    cast_free(c);
}

static void begin_once(struct cast *c)
{
    char args[CLOCK_UUID_SIZE + 16];
    int err;

    (void)snprintf(args, sizeof args, "{\"id\":\"%s\"}", c->id);
    err = ask_begin(c->a, args, on_begun, c);
    if (err)
        cast_fail(c, err, "the request could not be written down");
}

/* False, with the error told. */
static bool is_asked_well(struct ask *a)
{
    struct fanout *f = a->f;
    const char *group = ask_str(a, "group");
    char subject[NAME_MAX_LEN + 8];

    if (!group && !value_get(a->args, "labels") && !value_get(a->args, "capabilities") && !value_get(a->args, "agents")) {
        ask_error(a, "invalid_argument", "labels", "labels, capabilities, group, agents: none came, one at least was expected");
        return false;
    }
    (void)snprintf(subject, sizeof subject, "grp.%s.>", group ? group : "_");
    if (group && f->tenants->may_hear(f->host, a->msg->tenant, a->msg->agent, subject) == MUSTER_EACCES) {
        ask_error(a, "permission_denied", "group", "group: %s came, which this name may not hear", group);
        return false;
    }
    if (f->casts->n_open < (uint64_t)f->config->cast_max)
        return true;
    ask_error(a, "resource_exhausted", "cast_max", "cast_max: %llu casts are open", (unsigned long long)f->casts->n_open);
    return false;
}

void cast_send(struct ask *a)
{
    struct casts *all = a->f->casts;
    struct cast *c;
    int err;

    if (!is_asked_well(a))
        return;
    c = calloc(1, sizeof *c);
    if (!c) {
        ask_failed(a, MUSTER_ENOMEM, "the cast could not be begun");
        return;
    }
    c->all = all;
    c->a = a;
    c->once = ask_str(a, "request_id") != NULL;
    all->n_open++;
    a->f->metrics->add(a->f->host, all->m_casts, NULL, 1);
    clock_uuid7(c->id);
    err = payload_write(a, &c->payload);
    if (err)
        cast_fail(c, err, "payload: it could not be written");
    else if (c->once)
        begin_once(c);
    else
        cast_find(c);
}

/* ---- the part ----------------------------------------------------------------------------------------------------------- */

static int casts_create(struct fanout *f)
{
    struct casts *all = calloc(1, sizeof *all);
    const struct {
        const char *name, *help;
        uint64_t *metric;
    } counters[] = {{"casts_total", "Requests of message.cast.", all ? &all->m_casts : NULL},
                    {"cast_messages_total", "Messages that casts have sent.", all ? &all->m_messages : NULL},
                    {"receipts_total", "Receipts that came in time.", all ? &all->m_receipts : NULL},
                    {"receipts_late_total", "Receipts of casts that were answered already.", all ? &all->m_late : NULL}};
    int err = all ? 0 : f->host->fail(f->host, MUSTER_ENOMEM, "no memory for an instance");

    f->casts = all;
    for (size_t i = 0; i < sizeof counters / sizeof *counters && !err; i++)
        err = f->metrics->make(f->host, MUSTER_COUNTER, counters[i].name, counters[i].help, NULL, counters[i].metric);
    if (err)
        return err;
    all->f = f;
    (void)snprintf(all->tag, sizeof all->tag, "%016llx", (unsigned long long)clock_random());
    return 0;
}

static int casts_start(struct fanout *f)
{
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .subject = "rpc.*.message.receipt.*",
                                            .overflow = MUSTER_OVERFLOW_DROP_NEW,
                                            .max_msgs = 65536,
                                            .max_bytes = 16 << 20,
                                            .fn = cast_on_receipt};
    uint64_t id;

    return f->bus->subscribe(f->host, &sub, &id);
}

/* What waits for receipts is answered with those that came. */
static void casts_drain(struct fanout *f, int64_t deadline_ns)
{
    (void)deadline_ns;
    for (struct cast *c = f->casts->waiting, *next; c; c = next) {
        next = c->next;
        if (c->sent == c->n)
            cast_finish(c);
    }
}

static void casts_destroy(struct fanout *f)
{
    struct casts *all = f->casts;

    if (!all)
        return;
    while (all->stalled) {
        struct cast *c = all->stalled;

        all->stalled = c->next_stalled;
        cast_fail(c, MUSTER_ELINK, "the message could not be sent to all");
    }
    while (all->waiting)
        cast_fail(all->waiting, MUSTER_ELINK, "this broker stops");
    map_done(&all->by_ref);
    free(all);
    f->casts = NULL;
}

const struct fanout_part cast_part = {
    .create = casts_create, .start = casts_start, .drain = casts_drain, .destroy = casts_destroy, .on_writable = resume};
