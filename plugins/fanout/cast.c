/* message.cast; see cast.h. */
#include "fanout/cast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/inbox.h"
#include "fanout/stored.h"

enum { RECEIPTS_BYTES_MAX = 800000 };

/* ---- the end ------------------------------------------------------------------------------------------------------------ */

static void forget(struct cast *c)
{
    struct cast **at = &c->all->waiting;

    if (!c->waits)
        return;
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at)
        *at = c->next;
    (void)map_take(&c->all->by_ref, c->ref, strlen(c->ref));
    c->waits = false;
}

void cast_free(struct cast *c)
{
    forget(c);
    for (size_t i = 0; i < c->n_receipts; i++)
        buf_done(&c->receipts[i].body);
    free(c->receipts);
    map_done(&c->open);
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

/* ---- the answer --------------------------------------------------------------------------------------------------------- */

static void write_receipt(struct muster_writer *w, uint32_t encoding, const struct receipt *r)
{
    char at[CLOCK_RFC3339_SIZE];

    clock_rfc3339(r->wall_ns, at);
    writer_map(w, r->omitted ? 4 : 3);
    writer_text(w, "agent");
    writer_text(w, r->agent);
    writer_text(w, "at");
    writer_text(w, at);
    writer_text(w, "body");
    if (!r->omitted) {
        stored_body(w, encoding, (struct muster_bytes){r->body.data, r->body.len});
        return;
    }
    writer_null(w);
    writer_text(w, "omitted");
    writer_int(w, (int64_t)r->omitted);
}

static void write_answer(const struct cast *c, struct muster_writer *w, uint32_t encoding, struct buf *out)
{
    writer_init(w, encoding, out);
    writer_map(w, 2);
    writer_text(w, "delivered_to");
    writer_int(w, (int64_t)c->n);
    writer_text(w, "receipts");
    writer_array(w, c->n_receipts);
    for (size_t i = 0; i < c->n_receipts; i++)
        write_receipt(w, encoding, &c->receipts[i]);
}

static void on_kept(void *arg, const struct muster_sql_result *result)
{
    struct cast *c = arg;

    ask_reply_outcome(c->a, result);
    cast_free(c);
}

static void keep_answer(struct cast *c)
{
    struct muster_writer w;
    struct buf out = {0};
    int err;

    write_answer(c, &w, MUSTER_JSON, &out);
    err = writer_finish(&w, NULL);
    if (!err)
        err = ask_done(c->a, (struct muster_bytes){out.data, out.len}, on_kept, c);
    buf_done(&out);
    if (err)
        cast_fail(c, err, "the answer could not be kept");
}

static void finish(struct cast *c)
{
    struct muster_writer w;
    struct buf out = {0};

    forget(c);
    if (c->once) {
        keep_answer(c);
        return;
    }
    write_answer(c, &w, c->a->msg->encoding, &out);
    ask_reply_written(c->a, &w, &out);
    cast_free(c);
}

/* ---- receipts ----------------------------------------------------------------------------------------------------------- */

static void take_receipt(struct cast *c, const struct muster_msg *msg)
{
    const struct fanout *f = c->all->f;
    struct receipt *r = &c->receipts[c->n_receipts];
    const char *agent = map_take(&c->open, msg->agent, strlen(msg->agent));
    size_t n_bytes = msg->payload.len * 4 / 3;

    if (!agent)
        return; /* it was not asked, or says it twice */
    *r = (struct receipt){.agent = agent, .wall_ns = f->timer->wall_now(f->host)};
    if (!msg->payload.len || c->n_bytes + n_bytes <= RECEIPTS_BYTES_MAX) {
        buf_put(&r->body, msg->payload.data, msg->payload.len);
        c->n_bytes += n_bytes;
    } else {
        r->omitted = msg->payload.len;
    }
    c->n_receipts++;
    f->metrics->add(f->host, c->all->m_receipts, NULL, 1);
    if (c->n_receipts == c->wanted && c->sent == c->n)
        finish(c);
}

/* Every broker hears it; the ref says whose it is. */
static int on_receipt(void *self, const struct muster_msg *msg)
{
    struct fanout *f = self;
    struct casts *all = f->casts;
    const char *ref = strrchr(msg->subject, '.');
    struct cast *c = ref ? map_get(&all->by_ref, ref + 1, strlen(ref + 1)) : NULL;

    if (c && msg->agent && msg->tenant == c->a->msg->tenant && c->n_receipts < c->wanted)
        take_receipt(c, msg);
    else if (ref && strncmp(ref + 1, all->tag, strlen(all->tag)) == 0)
        f->metrics->add(f->host, all->m_late, NULL, 1);
    return 0;
}

static void on_due(void *self, int64_t now_ns)
{
    struct fanout *f = self;
    struct cast *c = f->casts->waiting, *next;

    for (; c; c = next) {
        next = c->next;
        if (c->until_ns <= now_ns && c->sent == c->n)
            finish(c);
    }
}

/* ---- sending ------------------------------------------------------------------------------------------------------------ */

static int publish(struct cast *c, const char *to)
{
    const struct fanout *f = c->all->f;
    const struct muster_msg *msg = c->a->msg;
    const struct muster_header all[] = {
        {"Muster-Cast", c->id}, {"traceparent", ask_header(c->a, "traceparent")}, {"tracestate", ask_header(c->a, "tracestate")}};
    struct muster_header headers[3];
    char subject[3 * NAME_MAX_LEN + 16], reply[NAME_MAX_LEN + CAST_REF_SIZE + 32];
    struct muster_publication pub = {.size = sizeof pub,
                                     .tenant = msg->tenant,
                                     .subject = subject,
                                     .headers = headers,
                                     .payload = {c->payload.data, c->payload.len},
                                     .reply = c->wanted ? reply : NULL};

    for (size_t i = 0; i < 3; i++)
        if (all[i].value)
            headers[pub.n_headers++] = all[i];
    (void)snprintf(subject, sizeof subject, "to.%s.%s.%s", to, msg->agent, ask_str(c->a, "type"));
    (void)snprintf(reply, sizeof reply, "rpc.%s.message.receipt.%s", to, c->ref);
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
        finish(c);
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
    for (size_t i = 0; i < c->n; i++)
        if (!map_put(&c->open, c->names[i], strlen(c->names[i]), c->names[i]))
            return MUSTER_ENOMEM;
    if (!c->receipts || !map_put(&all->by_ref, c->ref, strlen(c->ref), c))
        return MUSTER_ENOMEM;
    c->waits = true;
    c->next = all->waiting;
    all->waiting = c;
    c->until_ns = f->timer->now(f->host) + timeout_ns;
    return f->timer->once(f->host, timeout_ns + CLOCK_MS, on_due, &id);
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
    const char *outcome = r->code || !r->n_rows ? NULL : r->get(r, 0, 0);
    struct muster_value *doc = NULL;
    struct wire_error error;
    const char *claim = NULL;

    if (outcome && value_decode(MUSTER_JSON, (struct muster_bytes){outcome, strlen(outcome)}, &doc, &error) == 0)
        claim = text_in(value_in(doc, "ok"), "claim");
    if (claim && strcmp(claim, c->id) == 0) {
        cast_find(c);
    } else {
        if (claim)
            ask_error(c->a, "aborted", "request_id", "request_id: %s was begun and is not finished: what it did is unknown",
                      ask_str(c->a, "request_id"));
        else
            ask_reply_outcome(c->a, r);
        cast_free(c);
    }
    value_free(doc);
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
                                            .fn = on_receipt};
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
            finish(c);
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
