/*
 * cron - asks services at times of the day, once in the cluster.
 *
 * The life of an instance, its jobs and its clock; see cron.h.
 */
#include "cron.h"

#include <stdlib.h>
#include <string.h>

struct cron_config {
    struct muster_map jobs;
    int64_t ttl_ns;
};

static const int64_t longest_wait_ns = 10000000000; /* the wall clock may jump: look again after 10 s */
static const int64_t shortest_wait_ns = 1000000;

static const struct muster_option options[] = {
    {.key = "jobs", .help = "What is asked, and when.", .type = MUSTER_T_MAP, .flags = MUSTER_O_RELOADABLE, .max = 1000,
     .offset = offsetof(struct cron_config, jobs), .fields = job_fields, .n_fields = JOB_FIELDS, .entry_size = sizeof(struct job_config)},
    {.key = "lease_ttl", .help = "How long after the death of a broker another one goes on.", .type = MUSTER_T_DURATION_NS, .def = "15s",
     .min = INT64_C(3000000000), .max = INT64_C(3600000000000), .offset = offsetof(struct cron_config, ttl_ns)},
};

/* ---- the clock ---- */

static int64_t wait_of(const struct cron *c, const struct job *job)
{
    int64_t wait = job_due_ns(job) - c->timer->wall_now(c->host), after = job->not_before_ns - c->timer->now(c->host);

    if (job->state != JOB_WAITING)
        return CRON_RETRY_NS;
    return wait > after ? wait : after;
}

static void on_timer(void *self, int64_t now_ns);

static void set_timer(struct cron *c)
{
    int64_t wait = longest_wait_ns;

    for (size_t i = 0; i < c->n_jobs; i++) {
        int64_t one = wait_of(c, &c->jobs[i]);

        wait = one < wait ? one : wait;
    }
    if (wait < shortest_wait_ns)
        wait = shortest_wait_ns;
    if (c->timer_id)
        c->timer->stop(c->host, c->timer_id);
    c->timer_id = 0;
    if (c->timer->once(c->host, wait, on_timer, &c->timer_id) != 0)
        c->host->health(c->host, MUSTER_HEALTH_DOWN, "no_timer", "a timer could not be set: nothing is run until the next reload");
}

void cron_look(struct cron *c)
{
    if (c->lease_id)
        set_timer(c);
}

/* Only the holder's jobs move. */
static void look(struct cron *c)
{
    if (!c->lease_id || !c->lease->epoch(c->host, c->lease_id))
        return;
    for (size_t i = 0; i < c->n_jobs; i++)
        run_step(c, &c->jobs[i]);
    set_timer(c);
}

static void on_timer(void *self, int64_t now_ns)
{
    struct cron *c = self;

    (void)now_ns; /* what is due is told by the wall clock */
    c->timer_id = 0;
    look(c);
}

/* ---- the lease ---- */

/* What another broker has done meanwhile is read first. */
static void forget_runs(struct cron *c)
{
    for (size_t i = 0; i < c->n_jobs; i++) {
        c->jobs[i].state = JOB_UNKNOWN;
        c->jobs[i].tried_s = 0;
    }
    c->generation++;
}

static void on_got(void *arg, uint64_t epoch)
{
    struct cron *c = arg;

    (void)epoch; /* kv->put() asks for it */
    c->host->health(c->host, MUSTER_HEALTH_OK, "ok", "this broker runs the jobs");
    forget_runs(c);
    look(c);
}

static void on_lost(void *arg, int code)
{
    struct cron *c = arg;

    (void)code; /* whatever the reason, another has it or will */
    c->host->health(c->host, MUSTER_HEALTH_STANDBY, "standby", "another broker runs the jobs");
    forget_runs(c);
}

/* ---- jobs ---- */

static const struct job_config *entry(const struct cron_config *config, size_t i)
{
    return (const struct job_config *)config->jobs.entries + i;
}

static int cron_check(const struct muster_host *host, const void *config)
{
    const struct cron_config *cc = config;
    struct job job;
    int err = 0;

    if (host->n_lanes > 1)
        return host->fail(host, MUSTER_EINVAL, "lanes: %u came, 1 was expected: each job belongs to one lane", host->n_lanes);
    for (size_t i = 0; i < cc->jobs.n && !err; i++)
        err = job_parse(host, cc->jobs.keys[i], entry(cc, i), &job);
    return err;
}

static int check_body(const struct cron *c, const struct job *job)
{
    const struct muster_bytes body = {job->config->body, strlen(job->config->body)};
    struct muster_value *doc;
    int err = c->codec->decode(c->host, MUSTER_JSON, body, &doc);
    int is_map = !err && c->codec->type(doc) == MUSTER_MAP;

    if (!err)
        c->codec->free_doc(doc);
    return is_map ? 0 : c->host->fail(c->host, MUSTER_EINVAL, "jobs.%s.body: a JSON object was expected", job->name);
}

/* All or none. */
static int set_jobs(struct cron *c, const struct cron_config *config)
{
    struct job *jobs = calloc(config->jobs.n + 1, sizeof *jobs);
    int err = jobs ? 0 : c->host->fail(c->host, MUSTER_ENOMEM, "no memory for %zu jobs", config->jobs.n);

    for (size_t i = 0; i < config->jobs.n && !err; i++) {
        err = job_parse(c->host, config->jobs.keys[i], entry(config, i), &jobs[i]);
        if (!err)
            err = check_body(c, &jobs[i]);
    }
    if (err) {
        free(jobs);
        return err;
    }
    free(c->jobs);
    c->jobs = jobs;
    c->n_jobs = config->jobs.n;
    c->generation++;
    return 0;
}

/* ---- life ---- */

static int find_services(struct cron *c)
{
    const struct {
        const char *id;
        const void **table;
    } services[] = {{MUSTER_BUS, (const void **)&c->bus},         {MUSTER_KV, (const void **)&c->kv},
                    {MUSTER_LEASE, (const void **)&c->lease},     {MUSTER_TIMER, (const void **)&c->timer},
                    {MUSTER_TENANT, (const void **)&c->tenants},  {MUSTER_CODEC, (const void **)&c->codec},
                    {MUSTER_METRICS, (const void **)&c->metrics}};
    int err = 0;

    for (size_t i = 0; i < sizeof services / sizeof *services && !err; i++)
        err = c->host->service(c->host, services[i].id, services[i].table);
    return err;
}

static int make_metrics(struct cron *c)
{
    const struct {
        const char *name, *help;
        uint64_t *ret;
    } counters[] = {{"asked_total", "Requests sent, by job.", &c->counts.asked},
                    {"answered_total", "Answers without an error, by job.", &c->counts.answered},
                    {"failed_total", "Requests that could not be sent, were not answered or were answered with an error, by job.",
                     &c->counts.failed},
                    {"missed_total", "Times at which no broker ran the job, each gap counted once, by job.", &c->counts.missed}};
    int err = 0;

    for (size_t i = 0; i < sizeof counters / sizeof *counters && !err; i++)
        err = c->metrics->make(c->host, MUSTER_COUNTER, counters[i].name, counters[i].help, "job", counters[i].ret);
    return err;
}

static void cron_destroy(void *self)
{
    struct cron *c = self;

    if (!c)
        return;
    free(c->jobs);
    free(c);
}

static int cron_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct cron *c = calloc(1, sizeof *c);
    int err;

    if (!c)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    c->host = host;
    c->ttl_ns = ((const struct cron_config *)config)->ttl_ns;
    err = find_services(c);
    if (!err)
        err = make_metrics(c);
    if (!err)
        err = set_jobs(c, config);
    if (err) {
        cron_destroy(c);
        return err;
    }
    *ret_self = c;
    return 0;
}

static int cron_start(void *self)
{
    struct cron *c = self;
    const struct muster_lease_options lease = {.size = sizeof lease, .name = c->host->instance, .ttl_ns = c->ttl_ns, .on_got = on_got,
                                               .on_lost = on_lost, .arg = c};

    c->host->health(c->host, MUSTER_HEALTH_STANDBY, "standby", "waiting for the lease");
    return c->lease->acquire(c->host, &lease, &c->lease_id);
}

static int cron_reload(void *self, const void *config)
{
    struct cron *c = self;
    int err = set_jobs(c, config);

    if (!err)
        look(c);
    return err;
}

/* What was asked may still be answered; nothing is asked any more, and another broker goes on at once. */
static void cron_drain(void *self, int64_t deadline_ns)
{
    struct cron *c = self;

    (void)deadline_ns; /* nothing is waited for */
    if (c->timer_id)
        c->timer->stop(c->host, c->timer_id);
    c->timer_id = 0;
    if (c->lease_id)
        c->lease->release(c->host, c->lease_id);
    c->lease_id = 0;
}

static void cron_on_writable(void *self)
{
    look(self);
}

static void cron_on_link(void *self, int up)
{
    if (up)
        look(self);
}

MUSTER_PLUGIN(.name = "cron", .version = MUSTER_PLUGIN_VERSION, .capabilities = "cross_tenant", .options = options,
              .n_options = sizeof options / sizeof *options, .config_size = sizeof(struct cron_config), .check = cron_check,
              .create = cron_create, .start = cron_start, .reload = cron_reload, .drain = cron_drain, .destroy = cron_destroy,
              .on_writable = cron_on_writable, .on_link = cron_on_link);
