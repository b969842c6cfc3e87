/* Jobs; see job.h. */
#include "job.h"

#include <stdio.h>
#include <string.h>

static const int64_t second_ns = 1000000000;

const struct muster_option job_fields[JOB_FIELDS] = {
    {.key = "at", .help = "A cron expression in UTC, \"30 6 * * mon-fri\"; or @hourly, @daily, @weekly, @monthly, @yearly.",
     .type = MUSTER_T_STRING, .min = 1, .max = 100, .offset = offsetof(struct job_config, at)},
    {.key = "every", .help = "Instead of at: whenever the clock is at a multiple of this, in whole seconds.", .type = MUSTER_T_DURATION_NS,
     .min = 1000000000, .max = INT64_C(31536000000000000), .offset = offsetof(struct job_config, every_ns)},
    {.key = "tenants", .help = "On whose behalf it asks.", .type = MUSTER_T_LIST, .flags = MUSTER_O_REQUIRED, .min = 1, .max = 1000,
     .offset = offsetof(struct job_config, tenants)},
    {.key = "request", .help = "What it asks: service.verb.", .type = MUSTER_T_STRING, .flags = MUSTER_O_REQUIRED, .min = 3, .max = 129,
     .offset = offsetof(struct job_config, request)},
    {.key = "body", .help = "The request's body, a JSON object.", .type = MUSTER_T_STRING, .def = "{}", .min = 2, .max = 65536,
     .offset = offsetof(struct job_config, body)},
    {.key = "missed", .help = "When no broker ran at a time: leave it out, or ask once for all that were missed.", .type = MUSTER_T_ENUM,
     .def = "skip", .choices = "skip|once", .offset = offsetof(struct job_config, missed)},
    {.key = "late", .help = "A run that is not later than this is not missed: it takes place.", .type = MUSTER_T_DURATION_NS, .def = "2m",
     .min = 1000000000, .max = INT64_C(86400000000000), .offset = offsetof(struct job_config, late_ns)},
    {.key = "jitter", .help = "Each run is put off by a part of this, which differs from time to time.", .type = MUSTER_T_DURATION_NS,
     .def = "0s", .max = INT64_C(86400000000000), .offset = offsetof(struct job_config, jitter_ns)},
    {.key = "timeout", .help = "How long an answer is waited for.", .type = MUSTER_T_DURATION_NS, .def = "30s", .min = 1000000,
     .max = INT64_C(3600000000000), .offset = offsetof(struct job_config, timeout_ns)},
};

static int is_name(const char *s, size_t len)
{
    static const char legal[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

    return len >= 1 && len <= 64 && strspn(s, legal) >= len;
}

static int parse_times(const struct muster_host *host, const char *name, const struct job_config *c, struct job *job)
{
    char why[TIMES_WHY_SIZE];

    if (!c->at == !c->every_ns)
        return host->fail(host, MUSTER_EINVAL, "jobs.%s: %s, one of at and every was expected", name, c->at ? "both came" : "neither came");
    if (c->every_ns % second_ns)
        return host->fail(host, MUSTER_EINVAL, "jobs.%s.every: whole seconds were expected", name);
    job->times.every_s = c->every_ns / second_ns;
    if (c->at && !times_parse(c->at, &job->times, why))
        return host->fail(host, MUSTER_EINVAL, "jobs.%s.at: %s", name, why);
    return 0;
}

static int parse_request(const struct muster_host *host, const char *name, const struct job_config *c, struct job *job)
{
    const char *dot = strchr(c->request, '.');

    if (!dot || !is_name(c->request, (size_t)(dot - c->request)) || !is_name(dot + 1, strlen(dot + 1)))
        return host->fail(host, MUSTER_EINVAL, "jobs.%s.request: \"%s\" came, service.verb was expected", name, c->request);
    (void)snprintf(job->subject, sizeof job->subject, "rpc._p_%s.%s", host->plugin, c->request);
    return 0;
}

int job_parse(const struct muster_host *host, const char *name, const struct job_config *config, struct job *ret)
{
    int err;

    *ret = (struct job){.name = name, .config = config};
    if (!is_name(name, strlen(name)))
        return host->fail(host, MUSTER_EINVAL, "jobs.%s: the name came, letters, digits, _ and - were expected, 64 at most", name);
    if (config->late_ns < config->jitter_ns)
        return host->fail(host, MUSTER_EINVAL, "jobs.%s.late: less than jitter: then a run that was put off would be missed", name);
    err = parse_times(host, name, config, ret);
    return err ? err : parse_request(host, name, config, ret);
}

/* FNV-1a over the name and the time. */
int64_t job_due_ns(const struct job *job)
{
    uint64_t hash = UINT64_C(14695981039346656037);

    for (const char *c = job->name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * UINT64_C(1099511628211);
    for (int i = 0; i < 64; i += 8)
        hash = (hash ^ ((uint64_t)job->due_s >> i & 0xff)) * UINT64_C(1099511628211);
    hash ^= hash >> 32;
    return job->due_s * second_ns + (job->config->jitter_ns ? (int64_t)(hash % (uint64_t)job->config->jitter_ns) : 0);
}

int job_plan(struct job *job, int64_t now_ns)
{
    job->due_s = times_next(&job->times, job->last_s);
    if (job->due_s * second_ns + job->config->late_ns >= now_ns)
        return 0;
    if (job->config->missed == MISSED_ONCE)
        job->due_s = now_ns / second_ns;
    else
        job->due_s = times_next(&job->times, (now_ns - job->config->late_ns) / second_ns);
    return 1;
}
