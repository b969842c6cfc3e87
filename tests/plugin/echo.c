/* The plugin of the plugin tests: life, subscriptions, and what the verbs share; see echo.h. */
#include "echo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- answers and arguments ---------------------------------------------------------------------------------------------- */

struct muster_bytes bytes_of(const char *s)
{
    return (struct muster_bytes){s, strlen(s)};
}

int echo_answer(struct echo *e, const struct muster_msg *msg, const struct pair *pairs, size_t n)
{
    const struct muster_codec *c = e->codec;
    struct muster_writer *w;
    struct muster_bytes body;
    int err = c->writer_new(e->host, msg->encoding, &w);

    if (err)
        return err;
    c->put_map(w, n);
    for (size_t i = 0; i < n; i++) {
        c->put_str(w, pairs[i].key, strlen(pairs[i].key));
        if (pairs[i].s)
            c->put_str(w, pairs[i].s, strlen(pairs[i].s));
        else
            c->put_int(w, pairs[i].i);
    }
    err = c->bytes(w, &body);
    if (!err)
        err = e->bus->reply(e->host, msg->request, body);
    c->writer_free(w);
    return err;
}

int64_t arg_int(const struct echo *e, const struct muster_value *args, const char *key,
                int64_t otherwise)
{
    const struct muster_value *v = e->codec->get(args, key);

    return v && (e->codec->type(v) == MUSTER_INT || e->codec->type(v) == MUSTER_BOOL)
               ? e->codec->as_int(v)
               : otherwise;
}

const char *arg_str(const struct echo *e, const struct muster_value *args, const char *key,
                    const char *otherwise)
{
    const struct muster_value *v = e->codec->get(args, key);

    return v && e->codec->type(v) == MUSTER_STR ? e->codec->as_str(v, NULL) : otherwise;
}

/* ---- jobs --------------------------------------------------------------------------------------------------------------- */

struct job *job_new(struct echo *e, const struct muster_msg *msg)
{
    struct job *job = calloc(1, sizeof *job);
    int err = job ? e->bus->hold(e->host, msg, &job->msg) : MUSTER_ENOMEM;

    if (!err)
        err = e->codec->decode(e->host, msg->encoding, msg->payload, &job->args);
    if (!err) {
        job->e = e;
        return job;
    }
    (void)e->bus->reply_error(e->host, msg->request, "resource_exhausted", NULL,
                              "cannot hold the message");
    if (job && job->msg)
        e->bus->drop(e->host, job->msg);
    free(job);
    return NULL;
}

void job_drop(struct job *job)
{
    job->e->codec->free_doc(job->args);
    job->e->bus->drop(job->e->host, job->msg);
    free(job->body);
    free(job);
}

void job_answer(struct job *job, const struct pair *pairs, size_t n)
{
    (void)echo_answer(job->e, job->msg, pairs, n); /* the asker sees that nothing came */
    job_drop(job);
}

int job_failed(struct job *job, int code)
{
    if (code)
        JOB_ANSWER(job, {"code", NULL, code});
    return 0;
}

/* ---- messages ----------------------------------------------------------------------------------------------------------- */

static int on_say(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;
    struct muster_value *args;
    int err = e->codec->decode(e->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    e->n_said++;
    e->metrics->add(e->host, e->m_said, msg->agent, 1);
    e->metrics->observe(e->host, e->m_took, e->timers->now(e->host) - msg->recv_ns);
    if (msg->request)
        err = ANSWER(e, msg, {"text", arg_str(e, args, "text", ""), 0},
                     {"greeting", e->config->greeting, 0}, {"agent", msg->agent, 0},
                     {"tenant", e->tenants->name(msg->tenant), 0}, {"said", NULL, e->n_said},
                     {"lane", NULL, e->host->lane}, {"subject", msg->subject, 0},
                     {"verb", msg->verb, 0});
    e->codec->free_doc(args);
    return err;
}

/* An agent's respond() to what the broker pushed: any body, behind a ref. */
static int on_answered(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;
    const char *ref = strrchr(msg->subject, '.');

    (void)snprintf(e->last_text, sizeof e->last_text, "%s %.*s", ref ? ref + 1 : "",
                   (int)msg->payload.len, (const char *)msg->payload.data);
    return 0;
}

static int on_count(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;

    return ANSWER(e, msg, {"beats", NULL, e->n_beats}, {"heard", NULL, e->n_heard},
                  {"ticks", NULL, e->n_ticks}, {"writable", NULL, e->n_writable},
                  {"up", NULL, e->n_up}, {"down", NULL, e->n_down}, {"tables", NULL, e->n_tables},
                  {"paused", NULL, e->n_paused}, {"resumed", NULL, e->n_resumed},
                  {"last_agent", e->last_agent, 0}, {"last_text", e->last_text, 0});
}

static const struct verb *find_verb(const struct verb *verbs, const char *name)
{
    while (verbs->name && strcmp(verbs->name, name) != 0)
        verbs++;
    return verbs->name ? verbs : NULL;
}

static int on_lab(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;
    const struct verb *verb = find_verb(echo_verbs_lane, msg->verb);
    struct muster_value *args;
    int err = e->codec->decode(e->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    if (!verb)
        verb = find_verb(echo_verbs_out, msg->verb);
    if (!verb)
        verb = find_verb(echo_verbs_store, msg->verb);
    if (!verb)
        verb = find_verb(echo_verbs_keep, msg->verb);
    if (!verb)
        verb = find_verb(echo_verbs_follow, msg->verb);
    err = verb ? verb->fn(e, msg, args) : MUSTER_ENOTFOUND;
    e->codec->free_doc(args);
    return err;
}

/* Every broker hears a beat, and nobody answers it. */
static int on_beat(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;

    (void)msg;
    e->n_beats++;
    return 0;
}

/* What agents say to all, and events. */
static int on_heard(void *self, const struct muster_msg *msg)
{
    struct echo *e = self;

    e->n_heard++;
    (void)snprintf(e->last_agent, sizeof e->last_agent, "%s", msg->agent ? msg->agent : "");
    (void)snprintf(e->last_text, sizeof e->last_text, "%.*s", (int)msg->payload.len,
                   (const char *)msg->payload.data);
    return 0;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

static int find_services(struct echo *e)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {{MUSTER_BUS, (const void **)&e->bus},
                  {MUSTER_STREAM, (const void **)&e->streams},
                  {MUSTER_KV, (const void **)&e->kv},
                  {MUSTER_LEASE, (const void **)&e->leases},
                  {MUSTER_TIMER, (const void **)&e->timers},
                  {MUSTER_IO, (const void **)&e->io},
                  {MUSTER_TENANT, (const void **)&e->tenants},
                  {MUSTER_CONFIG, (const void **)&e->positions},
                  {MUSTER_METRICS, (const void **)&e->metrics},
                  {MUSTER_CODEC, (const void **)&e->codec},
                  {MUSTER_SQL, (const void **)&e->sql}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int err = e->host->service(e->host, wanted[i].id, wanted[i].table);

        if (err)
            return err;
    }
    return 0;
}

static int make_metrics(struct echo *e)
{
    uint64_t none;
    int err = e->metrics->make(e->host, MUSTER_COUNTER, "said_total", "Texts said, by agent.",
                               "agent", &e->m_said);

    if (!err)
        err = e->metrics->make(e->host, MUSTER_GAUGE, "open", "What verb measure says.", NULL,
                               &e->m_open);
    if (!err)
        err = e->metrics->make(e->host, MUSTER_HISTOGRAM, "took_seconds",
                               "From arrival to the answer.", NULL, &e->m_took);
    e->bad_name = e->metrics->make(e->host, MUSTER_COUNTER, "no blanks", "x", NULL, &none);
    return err;
}

static int prepare(struct echo *e)
{
    int err = e->sql->prepare(e->host, "read", MUSTER_SQL_READ,
                              "SELECT $1, current_setting('app.current_tenant'), $2::text",
                              &e->read_stmt);

    if (!err)
        err = e->sql->prepare(e->host, "write", MUSTER_SQL_WRITE, "SELECT public.echo_note($1, $2)",
                              &e->write_stmt);
    return err;
}

static void echo_destroy(void *self)
{
    struct echo *e = self;

    if (!e)
        return;
    while (e->config->misbehave == MISBEHAVE_DESTROY)
        (void)pause();
    while (e->waiting) {
        struct job *job = e->waiting;

        e->waiting = job->next;
        job_drop(job);
    }
    if (e->flooding)
        job_drop(e->flooding);
    free(e);
}

static int echo_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct echo *e = calloc(1, sizeof *e);
    const void *table;
    int err;

    if (!e)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    e->host = host;
    e->config = config;
    err = find_services(e);
    if (!err)
        err = make_metrics(e);
    if (!err && e->config->sql)
        err = prepare(e);
    if (!err && host->service(host, "muster.nothing/9", &table) != MUSTER_EABI)
        err = host->fail(host, MUSTER_EINVAL, "a service that there is not was found");
    if (!err && e->config->misbehave == MISBEHAVE_CREATE)
        err = host->fail(host, MUSTER_EINVAL, "misbehaves in create, greeting at %s",
                         e->positions->position(host, "greeting"));
    if (!err && e->config->misbehave == MISBEHAVE_CRASH)
        abort();
    while (!err && e->config->misbehave == MISBEHAVE_STUCK)
        (void)sleep(1);
    if (!err && e->config->misbehave == MISBEHAVE_EARLY)
        err = e->timers->once(host, 1, NULL, &e->clock);
    if (err) {
        free(e);
        return err;
    }
    *ret_self = e;
    return 0;
}

static int echo_start(void *self)
{
    struct echo *e = self;
    const struct muster_subscription subs[] = {
        {.subject = "rpc.*.echo.say",
         .overflow = MUSTER_OVERFLOW_REJECT,
         .max_msgs = 1000,
         .queue = 1,
         .fn = on_say},
        {.subject = "rpc.*.echo.count",
         .overflow = MUSTER_OVERFLOW_REJECT,
         .max_msgs = 1000,
         .queue = 1,
         .fn = on_count},
        {.subject = "rpc.*.lab.*",
         .overflow = MUSTER_OVERFLOW_REJECT,
         .max_msgs = 2000,
         .queue = 1,
         .fn = on_lab},
        {.subject = "rpc.*.echo.say.*",
         .overflow = MUSTER_OVERFLOW_REJECT,
         .max_msgs = 1000,
         .queue = 1,
         .fn = on_answered},
        {.subject = "rpc.*.pulse.beat",
         .overflow = MUSTER_OVERFLOW_DROP_OLD,
         .max_msgs = 1000,
         .fn = on_beat},
        {.subject = "all.*.shout",
         .overflow = MUSTER_OVERFLOW_DROP_NEW,
         .max_msgs = 1000,
         .fn = on_heard},
        {.subject = "evt.echo.>",
         .overflow = MUSTER_OVERFLOW_DROP_NEW,
         .max_msgs = 1000,
         .fn = on_heard},
    };
    uint64_t id = 0;
    int err = 0;

    for (size_t i = 0; i < sizeof subs / sizeof *subs && !err; i++) {
        struct muster_subscription sub = subs[i];

        sub.size = sizeof sub;
        sub.max_bytes = 16u << 20;
        err = e->bus->subscribe(e->host, &sub, &id);
        if (strcmp(sub.subject, "all.*.shout") == 0)
            e->shouts = id;
    }
    if (!err && e->config->lease)
        err = echo_acquire(e, e->config->lease, e->config->lease_ttl_ns / 1000000, 0);
    if (!err && e->config->writer)
        err = echo_write_on(e);
    while (!err && e->config->misbehave == MISBEHAVE_HANG)
        (void)pause();
    if (!err && e->config->misbehave == MISBEHAVE_START)
        err = e->host->fail(e->host, MUSTER_ETIME, "misbehaves in start");
    if (!err)
        e->host->health(e->host, MUSTER_HEALTH_OK, "ok", "%s", e->config->greeting);
    return err;
}

static void echo_drain(void *self, int64_t deadline_ns)
{
    struct echo *e = self;

    e->host->log(e->host, MUSTER_LOG_INFO, "drains for %s",
                 deadline_ns > e->timers->now(e->host) ? "a while" : "no time");
    e->bus->unsubscribe(e->host, e->shouts); /* what comes is left to who follows */
}

static void echo_on_writable(void *self)
{
    struct echo *e = self;

    e->n_writable++;
    flood_on(e);
}

static void echo_on_link(void *self, int up)
{
    struct echo *e = self;

    e->n_up += up;
    e->n_down += !up;
}

static void echo_on_tables(void *self)
{
    struct echo *e = self;

    e->n_tables++;
}

static void echo_on_pause(void *self)
{
    struct echo *e = self;

    e->n_paused++;
    e->host->log(e->host, MUSTER_LOG_INFO, "hears of little room");
}

static void echo_on_resume(void *self)
{
    struct echo *e = self;

    e->n_resumed++;
    e->host->log(e->host, MUSTER_LOG_INFO, "hears of room again");
}

/* Two greetings are special: "refused" is, and "slow" takes its time. */
static int echo_reload(void *self, const void *config)
{
    const struct echo_config *next = config;
    struct echo *e = self;

    if (strcmp(next->greeting, "refused") == 0)
        return e->host->fail(e->host, MUSTER_EINVAL, "greeting: it will not say that, at %s",
                             e->positions->position(e->host, "greeting"));
    if (strcmp(next->greeting, "slow") == 0)
        (void)sleep(5);
    e->config = next;
    return 0;
}

static const struct muster_option options[] = {
    {.key = "greeting",
     .help = "What is said back.",
     .type = MUSTER_T_STRING,
     .flags = MUSTER_O_RELOADABLE,
     .def = "hello",
     .offset = offsetof(struct echo_config, greeting)},
    {.key = "misbehave",
     .help = "Where to go wrong.",
     .type = MUSTER_T_ENUM,
     .def = "no",
     .choices = "no|create|start|crash|hang|early|destroy|stuck",
     .offset = offsetof(struct echo_config, misbehave)},
    {.key = "sql",
     .help = "Use the database.",
     .type = MUSTER_T_BOOL,
     .def = "false",
     .offset = offsetof(struct echo_config, sql)},
    {.key = "lease",
     .help = "A lease to contend for.",
     .type = MUSTER_T_STRING,
     .offset = offsetof(struct echo_config, lease)},
    {.key = "lease_ttl",
     .help = "Its time to live.",
     .type = MUSTER_T_DURATION_NS,
     .def = "3s",
     .offset = offsetof(struct echo_config, lease_ttl_ns)},
    {.key = "writer",
     .help = "Write while it is held.",
     .type = MUSTER_T_BOOL,
     .def = "false",
     .offset = offsetof(struct echo_config, writer)},
};

static const char definition[] = "{\"service\":\"echo\",\"doc\":\"Says what it hears.\",\"limits\":{\"shouts\":\"Loud words.\"},\"verbs\":{"
                                 "\"say\":{\"doc\":\"One text.\",\"request\":{\"text\":\"str "
                                 "1..100 - What to say.\",\"times?\":\"int 1..10 - How often.\","
                                 "\"tags?\":\"name[] 0..3 - Labels.\",\"how?\":\"loud|soft - "
                                 "How.\"},\"object\":\"how\",\"reply\":\"any{} - What was said.\"},"
                                 "\"count\":{\"doc\":\"Counts.\",\"reply\":\"any{} - Numbers.\"}}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service),
     .name = "echo",
     .verbs = "say count",
     .schema = definition},
    {.size = sizeof(struct muster_service),
     .name = "lab",
     .verbs = ECHO_VERBS_LANE " " ECHO_VERBS_OUT " " ECHO_VERBS_STORE " " ECHO_VERBS_KEEP " " ECHO_VERBS_FOLLOW},
    {.size = sizeof(struct muster_service), .name = "pulse", .verbs = "beat"},
};

#ifndef ECHO_NAME
#define ECHO_NAME "echo"
#endif

MUSTER_PLUGIN(.name = ECHO_NAME, .version = "1.2.3", .source_id = "test",
              .capabilities = "cross_tenant stream sql", .options = options,
              .n_options = sizeof options / sizeof *options,
              .config_size = sizeof(struct echo_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = echo_create,
              .start = echo_start, .drain = echo_drain, .destroy = echo_destroy,
              .on_writable = echo_on_writable, .on_link = echo_on_link,
              .on_tables = echo_on_tables, .reload = echo_reload,
              .on_pause = echo_on_pause, .on_resume = echo_on_resume);
