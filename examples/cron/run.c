/* One run of a job, from the record to the answers; see cron.h. */
#include "cron.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const int64_t second_ns = 1000000000;

/* What a callback gets: a reload may have replaced the jobs meanwhile. */
struct ticket {
    struct cron *cron;
    uint64_t generation;
    size_t job;
    uint64_t epoch;
    char tenant[65];
};

static struct ticket *ticket_new(struct cron *c, const struct job *job)
{
    struct ticket *t = calloc(1, sizeof *t);

    if (t)
        *t = (struct ticket){.cron = c, .generation = c->generation, .job = (size_t)(job - c->jobs),
                             .epoch = c->lease->epoch(c->host, c->lease_id)};
    return t;
}

/* NULL: the job is gone. */
static struct job *job_of(const struct ticket *t)
{
    return t->generation == t->cron->generation ? &t->cron->jobs[t->job] : NULL;
}

/* The instance's own: two instances of the plugin have jobs of their own. */
static const char *key_of(const struct cron *c, const struct job *job, char out[160])
{
    (void)snprintf(out, 160, "last.%s.%s", c->host->instance, job->name);
    return out;
}

static void plan(struct cron *c, struct job *job)
{
    job->state = JOB_WAITING;
    job->tried_s = 0;
    if (job_plan(job, c->timer->wall_now(c->host))) {
        c->metrics->add(c->host, c->counts.missed, job->name, 1);
        c->host->log(c->host, MUSTER_LOG_WARN, "job %s was missed; %s", job->name,
                     job->config->missed == MISSED_ONCE ? "it runs once now" : "the next time counts");
    }
    cron_look(c);
}

/* ---- asking ---- */

static void failed(struct cron *c, const char *job, const char *tenant, const char *why)
{
    c->metrics->add(c->host, c->counts.failed, job, 1);
    c->host->log(c->host, MUSTER_LOG_WARN, "job %s, tenant %s: %s", job, tenant, why);
}

static const char *words_of(int code)
{
    return code == MUSTER_ETIME      ? "no answer came in time"
           : code == MUSTER_ENOTFOUND ? "nobody serves that"
           : code == MUSTER_ELINK     ? "the link to NATS went away before an answer came"
           : code == MUSTER_EACCES    ? "the plugin may not ask that"
                                      : "the request could not be sent";
}

static const char *error_in(const struct muster_msg *msg)
{
    for (uint32_t i = 0; i < msg->n_headers; i++)
        if (strcmp(msg->headers[i].name, "Nats-Service-Error") == 0)
            return msg->headers[i].value;
    return NULL;
}

static void on_answer(void *arg, int code, const struct muster_msg *msg)
{
    struct ticket *t = arg;
    struct job *job = job_of(t);
    const char *why = code ? words_of(code) : error_in(msg);

    if (job && why)
        failed(t->cron, job->name, t->tenant, why);
    else if (job)
        t->cron->metrics->add(t->cron->host, t->cron->counts.answered, job->name, 1);
    free(t);
}

/* 0: sent, or refused for good. MUSTER_EAGAIN: not now. */
static int ask(struct cron *c, struct job *job, const struct muster_tenant *tenant, struct ticket *t)
{
    time_t due = (time_t)job->due_s;
    char at[32];
    struct tm tm;
    const struct muster_header headers[] = {{"Muster-Cron-Job", job->name}, {"Muster-Cron-Time", at}};
    const struct muster_publication pub = {.size = sizeof pub, .tenant = tenant, .subject = job->subject, .headers = headers, .n_headers = 2,
                                           .payload = {job->config->body, strlen(job->config->body)}};
    int err;

    (void)strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&due, &tm));
    err = c->bus->request(c->host, &pub, job->config->timeout_ns, on_answer, t);
    if (!err) {
        c->metrics->add(c->host, c->counts.asked, job->name, 1);
        return 0;
    }
    if (err == MUSTER_EAGAIN || err == MUSTER_ELINK) {
        free(t);
        return MUSTER_EAGAIN;
    }
    failed(c, job->name, t->tenant, words_of(err));
    free(t);
    return 0;
}

static void send_rest(struct cron *c, struct job *job);

/* The database was asked, because a tenant may have been added a moment ago. */
static void on_tenant(void *arg, int code, const struct muster_tenant *tenant)
{
    struct ticket *t = arg;
    struct cron *c = t->cron;
    struct job *job = job_of(t);

    if (!job || job->state != JOB_SENDING) {
        free(t);
        return;
    }
    if (code) {
        failed(c, job->name, t->tenant, code == MUSTER_ENOTFOUND ? "there is no such tenant" : "the tenant could not be looked up");
        free(t);
    } else if (ask(c, job, tenant, t) != 0) {
        failed(c, job->name, t->tenant, "the request found no room");
    }
    send_rest(c, job);
}

/* 1: on_tenant() goes on. */
static int look_up(struct cron *c, struct job *job, const char *name, struct ticket *t)
{
    if (c->tenants->refresh(c->host, name, strlen(name), on_tenant, t) == 0)
        return 1;
    failed(c, job->name, name, "the tenant could not be looked up");
    free(t);
    return 0;
}

static int is_too_late(const struct cron *c, const struct job *job)
{
    return c->timer->wall_now(c->host) > job_due_ns(job) + job->config->late_ns;
}

static void send_rest(struct cron *c, struct job *job)
{
    while (job->next_tenant < job->config->tenants.n) {
        const char *name = job->config->tenants.items[job->next_tenant];
        const struct muster_tenant *tenant = c->tenants->find(c->host, name, strlen(name));
        struct ticket *t = ticket_new(c, job);

        if (!t)
            return; /* the clock comes back */
        (void)snprintf(t->tenant, sizeof t->tenant, "%s", name);
        job->next_tenant++;
        if (!tenant && look_up(c, job, name, t))
            return;
        if (tenant && ask(c, job, tenant, t) != 0) {
            if (is_too_late(c, job)) {
                failed(c, job->name, name, "the request found no room in time");
                continue;
            }
            job->next_tenant--;
            return; /* on_writable(), on_link() or the clock comes back */
        }
    }
    plan(c, job);
}

/* ---- the record ---- */

/* However often other jobs have something to do meanwhile. */
static void pause_job(struct cron *c, struct job *job)
{
    job->not_before_ns = c->timer->now(c->host) + CRON_RETRY_NS;
}

static void begin_sending(struct cron *c, struct job *job)
{
    job->last_s = job->due_s;
    job->tried_s = 0;
    job->next_tenant = 0;
    job->state = JOB_SENDING;
    send_rest(c, job);
}

/* Only the holder of the lease writes. A write that nobody knows of is found out by reading; one that was refused means that the lease
 * is another's by now, or was. */
static void on_recorded(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct ticket *t = arg;
    struct job *job = job_of(t);

    (void)value; /* empty after a put */
    if (job && job->state == JOB_RECORDING) {
        job->state = JOB_UNKNOWN;
        if (code == 0) {
            job->revision = revision;
            begin_sending(t->cron, job);
        } else {
            pause_job(t->cron, job);
        }
        cron_look(t->cron);
    }
    free(t);
}

static void record(struct cron *c, struct job *job)
{
    struct ticket *t = ticket_new(c, job);
    char key[160], text[64];
    struct muster_kv_put put = {.size = sizeof put, .key = key_of(c, job, key), .revision = job->revision, .lease = c->lease_id,
                                .fn = on_recorded, .arg = t};

    if (!t)
        return; /* the clock comes back */
    (void)snprintf(text, sizeof text, "%" PRId64 " %" PRIu64, job->due_s, t->epoch);
    put.value = (struct muster_bytes){text, strlen(text)};
    job->tried_s = job->due_s;
    job->state = JOB_RECORDING;
    if (c->kv->put(c->host, &put) != 0) { /* no room, no link, or no lease any more */
        job->state = JOB_WAITING;
        job->tried_s = 0;
        pause_job(c, job);
        free(t);
    }
}

/* "1767225600 12": the time of the last run, and whose it was. What cannot be read counts as none. */
static void read_record(struct job *job, struct muster_bytes value, uint64_t *ret_epoch)
{
    char text[64];
    size_t len = value.len < sizeof text - 1 ? value.len : sizeof text - 1;
    int64_t last_s;

    if (len)
        memcpy(text, value.data, len);
    text[len] = '\0';
    if (sscanf(text, "%" SCNd64 " %" SCNu64, &last_s, ret_epoch) == 2 && last_s > 0)
        job->last_s = last_s;
    else
        *ret_epoch = 0;
}

static void on_loaded(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct ticket *t = arg;
    struct cron *c = t->cron;
    struct job *job = job_of(t);
    int64_t tried = job ? job->tried_s : 0;
    uint64_t epoch = 0;

    if (!job || job->state != JOB_LOADING) {
        free(t);
        return;
    }
    job->state = JOB_UNKNOWN;
    if (code == 0 || code == MUSTER_ENOTFOUND) {
        job->revision = revision;
        if (code == 0)
            read_record(job, value, &epoch);
        if (!job->last_s) /* a new job has missed nothing */
            job->last_s = c->timer->wall_now(c->host) / second_ns;
        if (tried && job->last_s == tried && epoch == t->epoch)
            begin_sending(c, job); /* it was written after all, and by this broker */
        else
            plan(c, job);
    } else {
        pause_job(c, job);
    }
    cron_look(c);
    free(t);
}

void run_load(struct cron *c, struct job *job)
{
    struct ticket *t = ticket_new(c, job);
    char key[160];

    if (!t)
        return;
    job->state = JOB_LOADING;
    if (c->kv->get(c->host, NULL, key_of(c, job, key), on_loaded, t) != 0) {
        job->state = JOB_UNKNOWN;
        pause_job(c, job);
        free(t);
    }
}

void run_step(struct cron *c, struct job *job)
{
    if (job->state == JOB_SENDING)
        send_rest(c, job);
    else if (c->timer->now(c->host) < job->not_before_ns)
        return;
    else if (job->state == JOB_UNKNOWN)
        run_load(c, job);
    else if (job->state == JOB_WAITING && c->timer->wall_now(c->host) >= job_due_ns(job)) {
        if (is_too_late(c, job))
            plan(c, job);
        else
            record(c, job);
    }
}
