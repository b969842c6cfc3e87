/*
 * conns - muster.sys/1 behind verbs: what watch() told, list(), kick(). See tests/integration/test_connections.py.
 *
 * Keeps every event from start() on. Verb `seen` answers them from number `from` on, at most SHOWN; `list` answers how many there are
 * (of `agent`, where it is given), how many are distinct, and the first SHOWN of them.
 */
#include <muster/plugin.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef CONNS_NAME
#define CONNS_NAME "conns" /* else as it was built with a header of before */
#endif

enum { SHOWN = 1000 };

struct conns_config {
    int32_t watch; /* from start() on */
};

struct row {
    uint32_t kind;
    uint64_t client;
    int64_t at;
    char tenant[72], agent[72], server[72], name[264], reason[72];
};

struct rows {
    struct row *all;
    size_t n, cap;
};

struct conns {
    const struct muster_host *host;
    const struct conns_config *config;
    const struct muster_bus *bus;
    const struct muster_sys *sys;
    const struct muster_tenants *tenants;
    const struct muster_codec *codec;
    const struct muster_metrics *metrics;
    uint64_t m_seen;
    struct rows seen;
    uint64_t watch;
    int64_t sleep_ms; /* before the next event is taken, once */
};

/* A request that waits for the servers. */
struct job {
    struct conns *c;
    const struct muster_msg *msg;
    char agent[72]; /* "": all */
    struct rows rows;
};

/* ---- rows --------------------------------------------------------------------------------------------------------------- */

static void put(char *out, size_t size, const char *s)
{
    (void)snprintf(out, size, "%s", s ? s : "(null)");
}

static void keep(struct conns *c, struct rows *rows, const struct muster_connection *from)
{
    struct row *row;

    if (rows->n == rows->cap) {
        size_t cap = rows->cap ? rows->cap * 2 : 64;
        struct row *all = realloc(rows->all, cap * sizeof *all);

        if (!all)
            abort();
        rows->all = all;
        rows->cap = cap;
    }
    row = &rows->all[rows->n++];
    *row = (struct row){.kind = from->kind, .client = from->client, .at = from->at_wall_ns};
    put(row->tenant, sizeof row->tenant, from->tenant ? c->tenants->name(from->tenant) : NULL);
    put(row->agent, sizeof row->agent, from->agent);
    put(row->server, sizeof row->server, from->server);
    put(row->name, sizeof row->name, from->name);
    put(row->reason, sizeof row->reason, from->reason);
}

static int compare(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    int order = strcmp(x->server, y->server);

    return order ? order : (x->client > y->client) - (x->client < y->client);
}

static size_t count_distinct(struct rows *rows)
{
    size_t n = 0;

    if (rows->n)
        qsort(rows->all, rows->n, sizeof *rows->all, compare);
    for (size_t i = 0; i < rows->n; i++)
        n += i == 0 || compare(&rows->all[i], &rows->all[i - 1]) != 0;
    return n;
}

static void write_str(const struct muster_codec *k, struct muster_writer *w, const char *key, const char *s)
{
    k->put_str(w, key, strlen(key));
    k->put_str(w, s, strlen(s));
}

static void write_int(const struct muster_codec *k, struct muster_writer *w, const char *key, int64_t i)
{
    k->put_str(w, key, strlen(key));
    k->put_int(w, i);
}

static void write_rows(const struct muster_codec *k, struct muster_writer *w, const struct rows *rows, size_t from)
{
    size_t n = from < rows->n ? rows->n - from : 0;

    if (n > SHOWN)
        n = SHOWN;
    k->put_str(w, "rows", 4);
    k->put_array(w, n);
    for (size_t i = from; i < from + n; i++) {
        const struct row *row = &rows->all[i];

        k->put_map(w, 8);
        write_int(k, w, "kind", row->kind);
        write_int(k, w, "client", (int64_t)row->client);
        write_int(k, w, "at", row->at);
        write_str(k, w, "tenant", row->tenant);
        write_str(k, w, "agent", row->agent);
        write_str(k, w, "server", row->server);
        write_str(k, w, "name", row->name);
        write_str(k, w, "reason", row->reason);
    }
}

/* ---- answers ------------------------------------------------------------------------------------------------------------ */

/* {code, n, distinct, rows}; rows may be NULL. */
static int answer(struct conns *c, const struct muster_msg *msg, int code, struct rows *rows, size_t from)
{
    static struct rows none;
    struct muster_writer *w;
    struct muster_bytes body;
    int err = c->codec->writer_new(c->host, msg->encoding, &w);

    if (err)
        return err;
    rows = rows ? rows : &none;
    c->codec->put_map(w, 4);
    write_int(c->codec, w, "code", code);
    write_int(c->codec, w, "n", (int64_t)rows->n);
    write_int(c->codec, w, "distinct", rows == &c->seen ? 0 : (int64_t)count_distinct(rows)); /* events keep their order */
    write_rows(c->codec, w, rows, from);
    err = c->codec->bytes(w, &body);
    if (!err)
        err = c->bus->reply(c->host, msg->request, body);
    c->codec->writer_free(w);
    return err;
}

static struct job *job_new(struct conns *c, const struct muster_msg *msg)
{
    struct job *job = calloc(1, sizeof *job);

    if (!job)
        return NULL;
    job->c = c;
    if (c->bus->hold(c->host, msg, &job->msg) == 0)
        return job;
    free(job);
    return NULL;
}

static void job_answer(struct job *job, int code)
{
    (void)answer(job->c, job->msg, code, &job->rows, 0); /* the asker sees that nothing came */
    job->c->bus->drop(job->c->host, job->msg);
    free(job->rows.all);
    free(job);
}

/* ---- verbs -------------------------------------------------------------------------------------------------------------- */

static void nap(int64_t ms)
{
    struct timespec ts = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    (void)nanosleep(&ts, NULL); /* an early end is no matter */
}

static const char *const kinds[] = {"", "connect", "disconnect", "gap", "server_lost", "server_back"};

static void on_connection(void *arg, const struct muster_connection *connection)
{
    struct conns *c = arg;

    if (c->sleep_ms)
        nap(c->sleep_ms);
    c->sleep_ms = 0;
    keep(c, &c->seen, connection);
    c->metrics->add(c->host, c->m_seen, kinds[connection->kind], 1);
}

static int do_watch(struct conns *c, const struct muster_msg *msg)
{
    return answer(c, msg, c->sys->watch(c->host, on_connection, c, &c->watch), NULL, 0);
}

static int do_unwatch(struct conns *c, const struct muster_msg *msg)
{
    c->sys->unwatch(c->host, c->watch);
    return answer(c, msg, 0, NULL, 0);
}

static void on_listed(void *arg, int code, const struct muster_connection *connection)
{
    struct job *job = arg;

    if (connection && *job->agent && strcmp(job->agent, connection->agent) != 0)
        return;
    if (connection)
        keep(job->c, &job->rows, connection);
    else
        job_answer(job, code);
}

static int do_list(struct conns *c, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_value *agent = c->codec->get(args, "agent");
    struct job *job = job_new(c, msg);
    int err;

    if (job && agent)
        put(job->agent, sizeof job->agent, c->codec->as_str(agent, NULL));
    err = job ? c->sys->list(c->host, on_listed, job) : MUSTER_ENOMEM;
    if (job && err)
        job_answer(job, err);
    return 0;
}

static void on_kicked(void *arg, int code)
{
    job_answer(arg, code);
}

static int64_t number(const struct conns *c, const struct muster_value *args, const char *key)
{
    const struct muster_value *v = c->codec->get(args, key);

    return v ? c->codec->as_int(v) : 0;
}

static int do_kick(struct conns *c, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_value *server = c->codec->get(args, "server");
    struct job *job = job_new(c, msg);
    int err = job ? c->sys->kick(c->host, server ? c->codec->as_str(server, NULL) : NULL, (uint64_t)number(c, args, "client"),
                                 on_kicked, job)
                  : MUSTER_ENOMEM;

    if (job && err)
        job_answer(job, err);
    return 0;
}

static int on_verb(void *self, const struct muster_msg *msg)
{
    struct conns *c = self;
    struct muster_value *args;
    int err = c->codec->decode(c->host, msg->encoding, msg->payload, &args);

    if (err)
        return err;
    if (strcmp(msg->verb, "seen") == 0)
        err = answer(c, msg, 0, &c->seen, (size_t)number(c, args, "from"));
    else if (strcmp(msg->verb, "list") == 0)
        err = do_list(c, msg, args);
    else if (strcmp(msg->verb, "kick") == 0)
        err = do_kick(c, msg, args);
    else if (strcmp(msg->verb, "watch") == 0)
        err = do_watch(c, msg);
    else if (strcmp(msg->verb, "unwatch") == 0)
        err = do_unwatch(c, msg);
    else
        c->sleep_ms = number(c, args, "ms"); /* sleep, without an answer */
    c->codec->free_doc(args);
    return err;
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

static void conns_destroy(void *self)
{
    struct conns *c = self;

    if (!c)
        return;
    free(c->seen.all);
    free(c);
}

static int conns_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct conns *c = calloc(1, sizeof *c);
    int err;

    if (!c)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    c->host = host;
    c->config = config;
    err = host->service(host, MUSTER_BUS, (const void **)&c->bus);
    if (!err)
        err = host->service(host, MUSTER_SYS, (const void **)&c->sys);
    if (!err)
        err = host->service(host, MUSTER_TENANT, (const void **)&c->tenants);
    if (!err)
        err = host->service(host, MUSTER_CODEC, (const void **)&c->codec);
    if (!err)
        err = host->service(host, MUSTER_METRICS, (const void **)&c->metrics);
    if (!err)
        err = c->metrics->make(host, MUSTER_COUNTER, "seen_total", "Events that watch() told.", "kind", &c->m_seen);
    if (err) {
        free(c);
        return err;
    }
    *ret_self = c;
    return 0;
}


static int conns_start(void *self)
{
    struct conns *c = self;
    const struct muster_subscription sub = {.size = sizeof sub,
                                            .overflow = MUSTER_OVERFLOW_REJECT,
                                            .subject = "rpc.*." CONNS_NAME ".*",
                                            .queue = 1,
                                            .max_msgs = 1000,
                                            .max_bytes = 1u << 20,
                                            .fn = on_verb};
    uint64_t id;
    int err = c->bus->subscribe(c->host, &sub, &id);

    if (!err && c->config->watch)
        err = c->sys->watch(c->host, on_connection, c, &c->watch);
    if (!err)
        c->host->health(c->host, MUSTER_HEALTH_OK, "ok", "counts connections");
    return err;
}

static const struct muster_option options[] = {
    {.key = "watch",
     .help = "Watch from the start on.",
     .type = MUSTER_T_BOOL,
     .def = "true",
     .offset = offsetof(struct conns_config, watch)},
};

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = CONNS_NAME, .verbs = "seen list kick watch unwatch sleep"},
};

MUSTER_PLUGIN(.name = CONNS_NAME, .version = "1.0.0", .capabilities = "system", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct conns_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = conns_create, .start = conns_start,
              .destroy = conns_destroy);
