/* Verbs about what is stored: keys, streams and the database; see echo.h. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "echo.h"

/* ---- keys --------------------------------------------------------------------------------------------------------------- */

static void on_key(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct job *job = arg;
    char text[100];

    (void)snprintf(text, sizeof text, "%.*s", (int)value.len,
                   value.data ? (const char *)value.data : "");
    JOB_ANSWER(job, {"code", NULL, code}, {"value", text, 0},
               {"revision", NULL, (int64_t)revision});
}

static int do_kv_get(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->kv->get(e->host, arg_int(e, args, "own", 1) ? NULL : msg->tenant, arg_str(e, args, "key", ""), on_key, job)) : 0;
}

/* Without a revision: whatever there is. */
static int do_kv_put(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t revision = arg_int(e, args, "revision", -1);
    struct job *job = job_new(e, msg);
    const struct muster_kv_put put = {.size = sizeof put,
                                      .tenant = arg_int(e, args, "own", 1) ? NULL : msg->tenant,
                                      .key = arg_str(e, args, "key", ""),
                                      .value = bytes_of(arg_str(e, args, "value", "")),
                                      .revision = revision < 0 ? MUSTER_UNFENCED : (uint64_t)revision,
                                      .ttl_ns = arg_int(e, args, "ttl_ms", 0) * 1000000,
                                      .lease = echo_lease_id(e, arg_str(e, args, "lease", "")),
                                      .fn = on_key,
                                      .arg = job};

    return job ? job_failed(job, e->kv->put(e->host, &put)) : 0;
}

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

static void on_info(void *arg, int code, const struct muster_stream_info *info)
{
    struct job *job = arg;

    JOB_ANSWER(job, {"code", NULL, code}, {"last_seq", NULL, info ? (int64_t)info->last_seq : -1},
               {"n_msgs", NULL, info ? (int64_t)info->n_msgs : -1});
}

/* Close what is open, and open it anew. */
static int do_reopen(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_stream_options options = {.size = sizeof options,
                                            .name = arg_str(e, args, "name", "echo"),
                                            .subjects = arg_str(e, args, "subjects", "echo.>"),
                                            .max_age_ns = arg_int(e, args, "max_age_s", 3600) * 1000000000,
                                            .replicas = (uint32_t)arg_int(e, args, "replicas", 0),
                                            .republish = arg_str(e, args, "republish", NULL),
                                            .max_msgs = arg_int(e, args, "max_msgs", 0),
                                            .max_msgs_per_subject = arg_int(e, args, "per_subject", 0)};
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    e->streams->close(e->host, e->stream);
    return job_failed(job, e->streams->open(e->host, &options, on_info, job, &e->stream));
}

/* Close what is open, and attach to a stream of others. */
static int do_attach(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    e->streams->close(e->host, e->stream);
    return job_failed(job, e->streams->attach(e->host, arg_str(e, args, "name", ""), arg_int(e, args, "own", 0) ? msg->tenant : NULL, on_info,
                                              job, &e->stream));
}

static int do_info(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);
    int err;

    if (!job)
        return 0;
    err = e->streams->info(e->host, e->stream, on_info, job);
    if (!err && arg_int(e, args, "close", 0))
        e->streams->close(e->host, e->stream); /* what is due comes with MUSTER_ELINK */
    return job_failed(job, err);
}

static void on_appended(void *arg, int code, uint64_t seq)
{
    struct job *job = arg;

    JOB_ANSWER(job, {"code", NULL, code}, {"seq", NULL, (int64_t)seq});
}

static int do_append(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_header headers[] = {{"X-Echo", "stored"}};
    int64_t expected = arg_int(e, args, "expected", -1);
    struct muster_append append = {.size = sizeof append,
                                   .tenant = msg->tenant,
                                   .subject = arg_str(e, args, "subject", "echo.said"),
                                   .headers = headers,
                                   .n_headers = 1,
                                   .payload = bytes_of(arg_str(e, args, "text", "{}")),
                                   .expected_seq =
                                       expected < 0 ? MUSTER_UNFENCED : (uint64_t)expected,
                                   .acked = on_appended,
                                   .lease = echo_lease_id(e, arg_str(e, args, "lease", ""))};
    struct job *job = job_new(e, msg);

    append.arg = job;
    return job ? job_failed(job, e->streams->append(e->host, e->stream, &append)) : 0;
}

enum { BURST_ASKS_EVERY = 64 };

static void on_burst(void *arg, int code, uint64_t seq)
{
    struct job *job = arg;

    if (code && !job->refused)
        job->refused = code;
    if (--job->n == 0)
        JOB_ANSWER(job, {"code", NULL, job->refused}, {"seq", NULL, (int64_t)seq}, {"sent", NULL, job->sent});
}

/* {n, expected, bytes}: n fenced messages, of which few ask for an acknowledgement, and each says the sequence that it gets. */
static int do_burst(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_append append = {.size = sizeof append, .tenant = msg->tenant, .subject = arg_str(e, args, "subject", "shelf.x")};
    int64_t n = arg_int(e, args, "n", 100);
    size_t pad = (size_t)arg_int(e, args, "bytes", 0);
    struct job *job = job_new(e, msg);
    char *text = job ? malloc(pad + 32) : NULL;
    int err = text ? 0 : MUSTER_ENOMEM;

    if (!job)
        return 0;
    job->n = 1; /* until all are sent */
    append.expected_seq = (uint64_t)arg_int(e, args, "expected", 0);
    append.arg = job;
    for (int64_t i = 1; i <= n && !err; i++) {
        int len = snprintf(text, 32, "%llu ", (unsigned long long)append.expected_seq + 1);

        memset(text + len, ' ', pad);
        append.payload = (struct muster_bytes){text, (size_t)len + pad};
        append.acked = i == n || i % BURST_ASKS_EVERY == 0 ? on_burst : NULL;
        err = e->streams->append(e->host, e->stream, &append);
        job->n += !err && append.acked;
        job->sent += !err;
        append.expected_seq++;
    }
    free(text);
    on_burst(job, err, append.expected_seq);
    return 0;
}

static void on_last(void *arg, int code, const struct muster_msg *last)
{
    struct job *job = arg;
    const char *header = "";
    char text[100] = "";

    for (uint32_t i = 0; last && i < last->n_headers; i++)
        if (strcmp(last->headers[i].name, "X-Echo") == 0)
            header = last->headers[i].value;
    if (last)
        (void)snprintf(text, sizeof text, "%.*s", (int)last->payload.len,
                       (const char *)last->payload.data);
    JOB_ANSWER(job, {"code", NULL, code}, {"text", text, 0},
               {"seq", NULL, last ? (int64_t)last->seq : 0},
               {"subject", last ? last->subject : "", 0}, {"header", header, 0},
               {"tenant", last && last->tenant ? job->e->tenants->name(last->tenant) : "", 0});
}

static int do_last_of(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *subject = arg_str(e, args, "subject", NULL);
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->streams->last(e->host, e->stream, subject ? msg->tenant : NULL,
                                                  subject, on_last, job))
               : 0;
}

/* ---- the database ------------------------------------------------------------------------------------------------------- */

static void on_row(void *arg, const struct muster_sql_result *r)
{
    struct job *job = arg;
    bool row = !r->code && r->n_rows == 1;
    const char *first = row ? r->get(r, 0, 0) : NULL,
               *second = row && r->n_columns > 1 ? r->get(r, 0, 1) : NULL;

    JOB_ANSWER(job, {"code", NULL, r->code}, {"first", first ? first : "", 0},
               {"second", second ? second : "", 0},
               {"third", row && r->n_columns > 2 && !r->get(r, 0, 2) ? "null" : "", 0},
               {"error", r->error, 0}, {"sqlstate", r->sqlstate, 0});
}

static int run(struct echo *e, const struct muster_msg *msg, const struct muster_value *args,
               uint64_t stmt)
{
    const struct muster_bytes params[] = {bytes_of(arg_str(e, args, "text", "")), {NULL, 0}};
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->sql->exec(e->host, stmt, msg->tenant, msg->agent, 2, params,
                                              on_row, job))
               : 0;
}

static int do_read(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    return run(e, msg, args, e->read_stmt);
}

static int do_write(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    return run(e, msg, args, e->write_stmt);
}

static void on_one_of_many(void *arg, const struct muster_sql_result *result)
{
    struct job *job = arg;

    job->refused += result->code != 0;
    if (--job->n == 0)
        JOB_ANSWER(job, {"sent", NULL, job->sent}, {"failed", NULL, job->refused});
}

/* {n}: so many reads at once, or as many as there is room for. */
static int do_many(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct muster_bytes params[] = {bytes_of("x"), {NULL, 0}};
    int64_t n = arg_int(e, args, "n", 10);
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    job->n = 1; /* ours, until all are sent */
    while (job->sent < n &&
           e->sql->exec(e->host, e->read_stmt, msg->tenant, "", 2, params, on_one_of_many, job) == 0) {
        job->sent++;
        job->n++;
    }
    if (--job->n == 0)
        JOB_ANSWER(job, {"sent", NULL, 0}, {"failed", NULL, 0});
    return 0;
}

const struct verb echo_verbs_store[] = {
    {"kv_put", do_kv_put},   {"kv_get", do_kv_get}, {"append", do_append}, {"burst", do_burst},
    {"last_of", do_last_of}, {"info", do_info},     {"reopen", do_reopen},
    {"attach", do_attach},
    {"read", do_read},       {"write", do_write},   {"many", do_many},
    {NULL, NULL},
};
