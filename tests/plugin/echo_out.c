/* Verbs about the bus, tenants, settings, metrics and the codec; see echo.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "echo.h"

static const int64_t ms = 1000000;

/* ---- the bus ------------------------------------------------------------------------------------------------------------ */

static struct muster_publication publication(struct echo *e, const struct muster_msg *msg,
                                             const struct muster_value *args)
{
    return (struct muster_publication){.size = sizeof(struct muster_publication),
                                       .tenant = msg->tenant,
                                       .subject = arg_str(e, args, "subject", ""),
                                       .payload = bytes_of(arg_str(e, args, "text", ""))};
}

static void on_answer(void *arg, int code, const struct muster_msg *answer)
{
    struct job *job = arg;
    char text[100] = "";

    if (answer)
        (void)snprintf(text, sizeof text, "%.*s", (int)answer->payload.len,
                       (const char *)answer->payload.data);
    JOB_ANSWER(job, {"code", NULL, code}, {"text", text, 0});
}

static int do_ask(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_publication pub = publication(e, msg, args);
    int64_t timeout = arg_int(e, args, "timeout_ms", 1000) * ms;
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->bus->request(e->host, &pub, timeout, on_answer, job)) : 0;
}

static void on_done(void *arg, int code)
{
    struct job *job = arg;

    job->sent++;
    JOB_ANSWER(job, {"code", NULL, code}, {"inside", NULL, job->n});
}

/* With done() when the database or NATS has it; it must not run inside publish(). */
static int do_publish(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_header headers[] = {{"X-Echo", "yes"}};
    struct muster_publication pub = publication(e, msg, args);
    struct job *job = job_new(e, msg);
    int err;

    if (!job)
        return 0;
    pub.headers = headers;
    pub.n_headers = 1;
    pub.done = on_done;
    pub.arg = job;
    job->n = 1;
    err = e->bus->publish(e->host, &pub);
    if (!err)
        job->n = 0; /* a done() inside would have freed the job, and the sanitizer would say so */
    return job_failed(job, err);
}

/* {n, bytes}: publish n messages as fast as the host takes them, going on when it says that there is room. */
static int do_flood(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    size_t size = (size_t)arg_int(e, args, "bytes", 1000);
    struct job *job = e->flooding ? NULL : job_new(e, msg);

    if (!job)
        return MUSTER_EAGAIN;
    job->n = arg_int(e, args, "n", 1000);
    job->body = calloc(1, size + 1);
    if (!job->body)
        return job_failed(job, MUSTER_ENOMEM);
    memset(job->body, 'x', size);
    e->flooding = job;
    flood_on(e);
    return 0;
}

void flood_on(struct echo *e)
{
    struct job *job = e->flooding;
    struct muster_publication pub = {.size = sizeof pub, .subject = "all._muster.flood"};
    int err = 0;

    if (!job)
        return;
    pub.tenant = job->msg->tenant;
    pub.payload = bytes_of(job->body);
    while (job->sent < job->n && !err) {
        err = e->bus->publish(e->host, &pub);
        job->sent += !err;
    }
    job->refused += err == MUSTER_EAGAIN;
    if (err == MUSTER_EAGAIN)
        return; /* on_writable follows */
    e->flooding = NULL;
    JOB_ANSWER(job, {"sent", NULL, job->sent}, {"refused", NULL, job->refused},
               {"code", NULL, err});
}

static int do_event(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_publication pub = publication(e, msg, args);
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    pub.done = on_done;
    pub.arg = job;
    return job_failed(job, e->bus->publish(e->host, &pub));
}

static int on_extra(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;

    (void)snprintf(e->last_text, sizeof e->last_text, "%s %.*s", msg->subject,
                   (int)msg->payload.len, (const char *)msg->payload.data);
    e->n_heard++;
    return 0;
}

static int do_listen(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_subscription sub = {
        .size = sizeof sub,
        .subject = arg_str(e, args, "subject", ""),
        .overflow = (uint32_t)arg_int(e, args, "overflow", MUSTER_OVERFLOW_DROP_NEW),
        .max_msgs = (uint32_t)arg_int(e, args, "max_msgs", 100),
        .max_bytes = 1 << 20,
        .fn = on_extra};

    return ANSWER(e, msg, {"code", NULL, e->bus->subscribe(e->host, &sub, &e->extra)});
}

static int do_unlisten(struct echo *e, const struct muster_msg *msg,
                       const struct muster_value *args)
{
    (void)args;
    e->bus->unsubscribe(e->host, e->extra);
    e->bus->unsubscribe(e->host, e->extra); /* of what is gone: no effect */
    return ANSWER(e, msg, {"code", NULL, 0});
}

static int do_heard(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    (void)args;
    return ANSWER(e, msg, {"heard", NULL, e->n_heard}, {"text", e->last_text, 0});
}

/* ---- tenants ------------------------------------------------------------------------------------------------------------ */

struct list {
    struct echo *e;
    char names[200];
    int64_t n_tables;
};

static void add_name(void *arg, const struct muster_tenant *tenant)
{
    struct list *list = arg;
    size_t len = strlen(list->names);

    (void)snprintf(list->names + len, sizeof list->names - len, "%s ",
                   list->e->tenants->name(tenant));
}

static void add_table(void *arg, const struct muster_table *table)
{
    struct list *list = arg;

    list->n_tables += table->schema && table->table;
}

static int do_tenants(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *name = arg_str(e, args, "find", "");
    const struct muster_tenant *found = e->tenants->find(e->host, name, strlen(name));
    struct list list = {.e = e};
    uint64_t serial = 0;
    int err = e->tenants->each(e->host, add_name, &list);

    if (!err)
        err = e->tenants->tables(e->host, add_table, &list, &serial);
    return ANSWER(e, msg, {"code", NULL, err}, {"names", list.names, 0},
                  {"found", found ? e->tenants->name(found) : "", 0},
                  {"tables", NULL, list.n_tables}, {"serial", NULL, (int64_t)serial});
}

static int do_limits(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_tenant_limits limits = {.size = sizeof limits}, none = {.size = 0};
    int err = e->tenants->limits(e->host, msg->tenant, &limits);

    (void)args;
    return ANSWER(e, msg, {"code", NULL, err}, {"requests_per_s", NULL, limits.requests_per_s},
                  {"encoding", NULL, limits.encoding},
                  {"watches", NULL, e->tenants->limit(e->host, msg->tenant, "watches")},
                  {"shouts", NULL, e->tenants->limit(e->host, msg->tenant, "echo.shouts")},
                  {"nothing", NULL, e->tenants->limit(e->host, msg->tenant, "nothing")},
                  {"short", NULL, e->tenants->limits(e->host, msg->tenant, &none)});
}

static void on_found(void *arg, int code, const struct muster_tenant *tenant)
{
    struct job *job = arg;

    JOB_ANSWER(job, {"code", NULL, code}, {"name", tenant ? job->e->tenants->name(tenant) : "", 0});
}

static int do_refresh(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *name = arg_str(e, args, "name", "");
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->tenants->refresh(e->host, name, strlen(name), on_found, job))
               : 0;
}

/* ---- settings and metrics ----------------------------------------------------------------------------------------------- */

static int do_where(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *given = e->positions->position(e->host, "greeting"),
               *not_given = e->positions->position(e->host, "sql");

    (void)args;
    return ANSWER(e, msg, {"greeting", given ? given : "", 0},
                  {"sql", not_given ? not_given : "", 0});
}

/* The last two do not fit their metrics: they are told, and nothing comes of them. */
static int do_measure(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    e->metrics->set(e->host, e->m_open, NULL, arg_int(e, args, "value", 0));
    e->metrics->add(e->host, e->m_open, NULL, 1);
    e->metrics->observe(e->host, e->m_took, 2 * ms);
    e->metrics->set(e->host, e->m_said, "x", 1);
    e->metrics->add(e->host, e->m_said, "x", -1);
    return ANSWER(e, msg, {"bad_name", NULL, e->bad_name});
}

/* ---- the codec ---------------------------------------------------------------------------------------------------------- */

static void copy(const struct muster_codec *c, struct muster_writer *w,
                 const struct muster_value *v)
{
    const char *s;
    size_t len;

    switch (c->type(v)) {
    case MUSTER_MAP:
        c->put_map(w, c->count(v));
        for (size_t i = 0; i < c->count(v); i++) {
            const struct muster_value *inner = c->key(v, i, &s, &len);

            c->put_str(w, s, len);
            copy(c, w, inner);
        }
        break;
    case MUSTER_ARRAY:
        c->put_array(w, c->count(v));
        for (size_t i = 0; i < c->count(v); i++)
            copy(c, w, c->at(v, i));
        break;
    case MUSTER_STR:
        s = c->as_str(v, &len);
        c->put_str(w, s, len);
        break;
    case MUSTER_BIN:
        s = c->as_str(v, &len);
        c->put_bin(w, s, len);
        break;
    case MUSTER_INT:
        c->put_int(w, c->as_int(v));
        break;
    case MUSTER_FLOAT:
        c->put_float(w, c->as_float(v));
        break;
    case MUSTER_BOOL:
        c->put_bool(w, (int)c->as_int(v));
        break;
    default:
        c->put_null(w);
    }
}

/* {body, again}: the body value by value, and once more as a whole. */
static int do_mirror(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_codec *c = e->codec;
    struct muster_bytes body;
    struct muster_writer *w;
    int err = c->writer_new(e->host, msg->encoding, &w);

    if (err)
        return err;
    c->put_map(w, 2);
    c->put_str(w, "body", 4);
    copy(c, w, args);
    c->put_str(w, "again", 5);
    if (c->bytes(w, &body) != MUSTER_EINVAL) /* a value is missing */
        err = e->host->fail(e->host, MUSTER_EINVAL, "an incomplete map was given out");
    c->put_value(w, args);
    if (!err)
        err = c->bytes(w, &body);
    if (!err)
        err = e->bus->reply(e->host, msg->request, body);
    c->writer_free(w);
    return err;
}

const struct verb echo_verbs_out[] = {
    {"ask", do_ask},       {"publish", do_publish},
    {"flood", do_flood},   {"event", do_event},
    {"listen", do_listen}, {"unlisten", do_unlisten},
    {"heard", do_heard},   {"tenants", do_tenants},
    {"limits", do_limits}, {"refresh", do_refresh},
    {"where", do_where},   {"measure", do_measure},
    {"mirror", do_mirror}, {NULL, NULL},
};
