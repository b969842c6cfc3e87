/*
 * good - a plugin that keeps to the header and uses every service of it: what the tests of the test host look at.
 *
 * good.put {key, value} stores through kv and answers when it is stored; good.ask {agent} asks an agent; good.log {text} appends to a stream
 * while the lease is held; good.row {} runs a statement; good.work {} is answered by a thread; good.say {} at once.
 * good.hand {} sends the asker a message whose respond() it counts; good.hears {} is answered with what may_hear() says of evt.>.
 */
#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "good.h"

struct good;
struct job { /* a request that is answered later */
    struct good *g;
    const struct muster_msg *msg;
    atomic_int given_up; /* of work: the thread has answered */
};

struct good {
    const struct muster_host *host;
    const struct good_config *config;
    const struct muster_bus *bus;
    const struct muster_stream *stream;
    const struct muster_kv *kv;
    const struct muster_lease *lease;
    const struct muster_sys *sys;
    const struct muster_timer *timer;
    const struct muster_tenants *tenants;
    const struct muster_metrics *metrics;
    const struct muster_sql *sql;
    const struct muster_codec *codec;
    uint64_t said, took, stmt, log, leading, watch, tick, last_seq;
    int64_t n_ticks, n_connected;
    pthread_t thread; /* of good.work, while has_thread; it has working */
    int has_thread;
    struct job *working;
};

static void answer(struct good *g, const struct muster_msg *msg, const char *key, int64_t value)
{
    struct muster_bytes body;
    struct muster_writer *w;
    int err = g->codec->writer_new(g->host, msg->encoding, &w);

    if (!err) {
        g->codec->put_map(w, 1);
        g->codec->put_str(w, key, strlen(key));
        g->codec->put_int(w, value);
        err = g->codec->bytes(w, &body);
        if (!err)
            err = g->bus->reply(g->host, msg->request, body);
        g->codec->writer_free(w);
    }
    if (err) /* who asks gets `internal`, when this fails too */
        (void)g->bus->reply_error(g->host, msg->request, "unavailable", NULL, "no answer could be made");
}

static int job_new(struct good *g, const struct muster_msg *msg, struct job **ret_job)
{
    struct job *job = calloc(1, sizeof *job);
    int err = job ? g->bus->hold(g->host, msg, &job->msg) : MUSTER_ENOMEM;

    if (err) {
        free(job);
        return err;
    }
    job->g = g;
    *ret_job = job;
    return 0;
}

static void job_end(struct job *job, const char *key, int64_t value)
{
    answer(job->g, job->msg, key, value);
    job->g->bus->drop(job->g->host, job->msg);
    free(job);
}

/* What began the job could not be done. */
static int job_failed(struct job *job, int err)
{
    if (err)
        job_end(job, "code", err);
    return 0;
}

static void on_stored(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    (void)value;
    job_end(arg, code ? "code" : "revision", code ? code : (int64_t)revision);
}

static int begin_put(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job)
{
    size_t len;
    const char *value = g->codec->as_str(g->codec->get(args, "value"), &len);
    const struct muster_kv_put put = {.size = sizeof put,
                                      .tenant = msg->tenant,
                                      .key = g->codec->as_str(g->codec->get(args, "key"), NULL),
                                      .value = {value, len},
                                      .revision = MUSTER_UNFENCED,
                                      .ttl_ns = g->config->keep_ns,
                                      .fn = on_stored,
                                      .arg = job};

    return g->kv->put(g->host, &put);
}

static void on_answer(void *arg, int code, const struct muster_msg *msg)
{
    job_end(arg, code ? "code" : "bytes", code ? code : (int64_t)msg->payload.len);
}

static int begin_ask(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job)
{
    char subject[128] = "to.";
    const struct muster_publication pub = {
        .size = sizeof pub, .tenant = msg->tenant, .subject = subject, .payload = {"{}", 2}};
    size_t len;
    const char *agent = g->codec->as_str(g->codec->get(args, "agent"), &len);

    memcpy(subject + 3, agent, len + 1);
    strcat(subject, "._muster.ping");
    return g->bus->request(g->host, &pub, INT64_C(2000000000), on_answer, job);
}

static void on_appended(void *arg, int code, uint64_t seq)
{
    struct job *job = arg;

    if (code == 0 || code == MUSTER_ESTALE)
        job->g->last_seq = seq;
    job_end(job, code ? "code" : "seq", code ? code : (int64_t)seq);
}

static int begin_log(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job)
{
    const struct muster_append append = {.size = sizeof append,
                                         .tenant = msg->tenant,
                                         .subject = "good.log",
                                         .payload = msg->payload,
                                         .expected_seq = g->last_seq,
                                         .acked = on_appended,
                                         .arg = job,
                                         .lease = g->leading};

    (void)args;
    if (!g->log)
        return MUSTER_ELINK; /* it could not be opened */
    return g->stream->append(g->host, g->log, &append);
}

static void on_row(void *arg, const struct muster_sql_result *r)
{
    const char *cell = r->code || !r->n_rows ? NULL : r->get(r, 0, 0);

    job_end(arg, r->code ? "code" : "row", r->code ? r->code : cell ? (int64_t)strlen(cell) : -1);
}

static int begin_row(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job)
{
    const struct muster_bytes params[] = {{"x", 1}, {NULL, 0}};

    (void)args;
    return g->sql->exec(g->host, g->stmt, msg->tenant, "x", 2, params, on_row, job);
}

static void on_worked(void *arg)
{
    struct job *job = arg;

    job->g->working = NULL;
    job_end(job, "worked", 1);
}

/* On a thread of its own. Where it cannot be posted, it is answered from here, and the job goes with the thread. */
static void *work(void *arg)
{
    struct job *job = arg;
    const struct good *g = job->g;

    if (g->host->post(g->host, on_worked, job) != 0) {
        (void)g->bus->reply_error(g->host, job->msg->request, "unavailable", NULL, "too much is posted");
        job->given_up = 1;
    }
    return NULL;
}

/* Wait for the thread, which ends soon, and for what it could not hand over. */
static void finish_work(struct good *g)
{
    if (!g->has_thread)
        return;
    (void)pthread_join(g->thread, NULL);
    g->has_thread = 0;
    if (!g->working)
        return;
    if (!g->working->given_up) /* posted, and not run any more */
        (void)g->bus->reply_error(g->host, g->working->msg->request, "unavailable", NULL, "it ends");
    g->bus->drop(g->host, g->working->msg);
    free(g->working);
    g->working = NULL;
}

static int begin_work(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job)
{
    (void)msg;
    (void)args;
    if (g->working && !g->working->given_up)
        return MUSTER_EAGAIN; /* one at a time */
    finish_work(g);
    g->working = job;
    g->has_thread = pthread_create(&g->thread, NULL, work, job) == 0;
    if (g->has_thread)
        return 0;
    g->working = NULL;
    return MUSTER_ENOMEM;
}

static int later(struct good *g, const struct muster_msg *msg,
                 int (*begin)(struct good *g, const struct muster_msg *msg, const struct muster_value *args, struct job *job))
{
    struct muster_value *args;
    struct job *job;
    int err = g->codec->decode(g->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    err = job_new(g, msg, &job);
    if (!err)
        err = job_failed(job, begin(g, msg, args, job));
    g->codec->free_doc(args);
    return err;
}

static int on_put(void *self, const struct muster_msg *msg)
{
    return msg->request ? later(self, msg, begin_put) : 0;
}

static int on_ask(void *self, const struct muster_msg *msg)
{
    return msg->request ? later(self, msg, begin_ask) : 0;
}

static int on_log(void *self, const struct muster_msg *msg)
{
    return msg->request ? later(self, msg, begin_log) : 0;
}

static int on_query(void *self, const struct muster_msg *msg)
{
    return msg->request ? later(self, msg, begin_row) : 0;
}

static int on_work(void *self, const struct muster_msg *msg)
{
    return msg->request ? later(self, msg, begin_work) : 0;
}

static int on_say(void *self, const struct muster_msg *msg)
{
    struct good *g = self;
    int64_t began = g->timer->now(g->host);

    g->metrics->add(g->host, g->said, msg->agent, 1);
    if (msg->request)
        answer(g, msg, "number", g->config->number);
    g->metrics->observe(g->host, g->took, g->timer->now(g->host) - began);
    return 0;
}

static int on_heard(void *self, const struct muster_msg *msg)
{
    struct good *g = self;
    const struct muster_publication pub = {.size = sizeof pub,
                                           .tenant = msg->tenant,
                                           .subject = "evt.good.heard.k",
                                           .payload = {"{\"a\":1}", 7}};

    return g->bus->publish(g->host, &pub);
}

static int on_hand(void *self, const struct muster_msg *msg)
{
    struct good *g = self;
    char to[128], reply[128];
    const struct muster_publication pub = {.size = sizeof pub, .tenant = msg->tenant, .subject = to, .payload = {"{}", 2}, .reply = reply};
    int err = 0;

    if (msg->agent && msg->agent[0] != '_') {
        (void)snprintf(to, sizeof to, "to.%s._muster.hand", msg->agent);
        (void)snprintf(reply, sizeof reply, "rpc.%s.good.took.r7", msg->agent);
        err = g->bus->publish(g->host, &pub);
    }
    if (!err && msg->request)
        answer(g, msg, "number", 1);
    return err;
}

static int on_took(void *self, const struct muster_msg *msg)
{
    struct good *g = self;

    g->metrics->add(g->host, g->said, "took", 1);
    if (msg->request)
        answer(g, msg, "number", 1);
    return 0;
}

static int on_hears(void *self, const struct muster_msg *msg)
{
    struct good *g = self;

    if (msg->request)
        answer(g, msg, "code", msg->agent ? g->tenants->may_hear(g->host, msg->tenant, msg->agent, "evt.>") : 0);
    return 0;
}

/* ---- life ---- */

static void on_tick(void *self, int64_t now_ns)
{
    struct good *g = self;

    (void)now_ns;
    if (g->working && g->working->given_up)
        finish_work(g);
    g->n_ticks++;
    g->host->log(g->host, MUSTER_LOG_INFO, "tick %lld", (long long)g->n_ticks);
}

static void on_opened(void *arg, int code, const struct muster_stream_info *info)
{
    struct good *g = arg;

    if (!code)
        g->last_seq = info->last_seq;
}

static void on_got(void *arg, uint64_t epoch)
{
    struct good *g = arg;

    g->host->health(g->host, MUSTER_HEALTH_OK, "leads", "epoch %llu", (unsigned long long)epoch);
}

static void on_lost(void *arg, int code)
{
    struct good *g = arg;

    g->host->health(g->host, MUSTER_HEALTH_STANDBY, "follows", "lost with %d", code);
}

static void on_connection(void *arg, const struct muster_connection *c)
{
    struct good *g = arg;

    g->n_connected += c->kind == MUSTER_SYS_CONNECT;
    g->n_connected -= c->kind == MUSTER_SYS_DISCONNECT;
    if (c->kind == MUSTER_SYS_SERVER_LOST || c->kind == MUSTER_SYS_SERVER_BACK)
        g->host->log(g->host, MUSTER_LOG_INFO, "server %s: %s", c->server, c->kind == MUSTER_SYS_SERVER_LOST ? "lost" : "back");
    g->host->log(g->host, MUSTER_LOG_INFO, "connected: %lld", (long long)g->n_connected);
}

static int subscribe(struct good *g)
{
    static const struct {
        const char *subject;
        muster_msg_fn fn;
    } subs[] = {{"rpc.*.good.put", on_put}, {"rpc.*.good.ask", on_ask},   {"rpc.*.good.log", on_log}, {"rpc.*.good.row", on_query},
                {"rpc.*.good.say", on_say}, {"rpc.*.good.work", on_work}, {"rpc.*.good.hand", on_hand},
                {"rpc.*.good.took", on_took}, {"rpc.*.good.took.*", on_took}, {"rpc.*.good.hears", on_hears}, {"all.*.hear", on_heard}};
    int err = 0;

    for (size_t i = 0; i < sizeof subs / sizeof *subs && !err; i++) {
        const struct muster_subscription sub = {.size = sizeof sub,
                                                .overflow = MUSTER_OVERFLOW_REJECT,
                                                .subject = subs[i].subject,
                                                .queue = 1,
                                                .max_msgs = 3,
                                                .max_bytes = 1 << 20,
                                                .fn = subs[i].fn};
        uint64_t id;

        err = g->bus->subscribe(g->host, &sub, &id);
    }
    return err;
}

static int open_log(struct good *g)
{
    const struct muster_stream_options options = {.size = sizeof options, .name = "GOOD", .subjects = "good.>"};

    return g->log ? 0 : g->stream->open(g->host, &options, on_opened, g, &g->log);
}

static int good_start(void *self)
{
    struct good *g = self;
    const struct muster_lease_options lease = {
        .size = sizeof lease, .name = "leader", .on_got = on_got, .on_lost = on_lost, .arg = g};
    int err = subscribe(g);

    if (!err)
        err = g->timer->every(g->host, g->config->tick_ns, on_tick, &g->tick);
    if (!err)
        err = g->lease->acquire(g->host, &lease, &g->leading);
    if (!err)
        err = g->sys->watch(g->host, on_connection, g, &g->watch);
    if (!err)
        g->host->health(g->host, MUSTER_HEALTH_STANDBY, "follows", "contends");
    return err;
}

static void good_on_link(void *self, int up)
{
    struct good *g = self;

    if (up)
        (void)open_log(g); /* without it good.log says so */
}

static void good_destroy(void *self)
{
    struct good *g = self;

    if (!g)
        return;
    finish_work(g);
    free(g);
}

static int find_services(struct good *g)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {{MUSTER_BUS, (const void **)&g->bus},       {MUSTER_STREAM, (const void **)&g->stream},
                  {MUSTER_KV, (const void **)&g->kv},         {MUSTER_LEASE, (const void **)&g->lease},
                  {MUSTER_SYS, (const void **)&g->sys},       {MUSTER_TIMER, (const void **)&g->timer},
                  {MUSTER_TENANT, (const void **)&g->tenants}, {MUSTER_METRICS, (const void **)&g->metrics},
                  {MUSTER_SQL, (const void **)&g->sql},       {MUSTER_CODEC, (const void **)&g->codec}};
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = g->host->service(g->host, wanted[i].id, wanted[i].table);
    return err;
}

static int good_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct good *g = calloc(1, sizeof *g);
    int err;

    if (!g)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    g->host = host;
    g->config = config;
    err = find_services(g);
    if (!err)
        err = g->metrics->make(host, MUSTER_COUNTER, "said_total", "Sayings.", "agent", &g->said);
    if (!err)
        err = g->metrics->make(host, MUSTER_HISTOGRAM, "took_seconds", "Time.", NULL, &g->took);
    if (!err)
        err = g->sql->prepare(host, "row", MUSTER_SQL_READ, "SELECT $1, $2", &g->stmt);
    if (err) {
        good_destroy(g);
        return err;
    }
    *ret_self = g;
    return 0;
}

static int good_check(const struct muster_host *host, const void *config)
{
    const struct good_config *c = config;

    return c->number == 13 ? host->fail(host, MUSTER_EINVAL, "number: 13 brings bad luck") : 0;
}

static int good_reload(void *self, const void *config)
{
    struct good *g = self;

    g->config = config;
    return 0;
}

static const struct muster_option options[] = {
    {.key = "number", .help = "What is said.", .def = "7", .type = MUSTER_T_INT, .flags = MUSTER_O_RELOADABLE, .min = 1, .max = 100,
     .offset = offsetof(struct good_config, number)},
    {.key = "tick", .help = "How often it ticks.", .def = "1s", .type = MUSTER_T_DURATION_NS, .min = 1000000, .max = INT64_C(3600000000000),
     .offset = offsetof(struct good_config, tick_ns)},
    {.key = "keep", .help = "How long keys are kept.", .def = "1h", .type = MUSTER_T_DURATION_NS, .min = 1000000000,
     .max = INT64_C(86400000000000), .offset = offsetof(struct good_config, keep_ns)},
};

static const char definition[] =
    "{\"service\": \"good\", \"verbs\": {"
    "\"put\": {\"request\": {\"key\": \"name\", \"value\": \"str ..100\"}, \"reply\": {\"revision?\": \"int 1..\", \"code?\": \"int\"}},"
    "\"ask\": {\"request\": {\"agent\": \"name\"}, \"reply\": {\"bytes?\": \"int\", \"code?\": \"int\"}},"
    "\"log\": {\"request\": {\"text\": \"str 1..50\"}, \"reply\": {\"seq?\": \"int 1..\", \"code?\": \"int\"}},"
    "\"row\": {\"reply\": {\"row?\": \"int\", \"code?\": \"int\"}},"
    "\"work\": {\"reply\": {\"worked?\": \"int\", \"code?\": \"int\"}},"
    "\"hand\": {\"reply\": {\"number\": \"int\"}},"
    "\"took\": {\"reply\": {\"number\": \"int\"}},"
    "\"hears\": {\"reply\": {\"code\": \"int\"}},"
    "\"say\": {\"reply\": {\"number\": \"int 1..100\"}}}}";

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "good", .verbs = "put ask log row work hand took hears say", .schema = definition}};

MUSTER_PLUGIN(.name = "good", .version = "1.2.3", .capabilities = "stream sql system", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct good_config), .services = services,
              .n_services = 1, .create = good_create, .start = good_start, .destroy = good_destroy, .on_link = good_on_link,
              .check = good_check, .reload = good_reload);
