/* Verbs about leases, and about many keys and messages at once; see echo.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "echo.h"

enum { MAX_LIST = 60000 };

/* ---- lists -------------------------------------------------------------------------------------------------------------- */

static int begin_list(struct job *job)
{
    job->body = calloc(1, MAX_LIST);
    return job->body ? 0 : MUSTER_ENOMEM;
}

/* What does not fit is counted only. */
static void add_to_list(struct job *job, const char *name, struct muster_bytes value, uint64_t number)
{
    size_t at = strlen(job->body);

    job->n++;
    (void)snprintf(job->body + at, MAX_LIST - at, "%s:%.*s@%llu\n", name, value.len < 100 ? (int)value.len : 100,
                   value.data ? (const char *)value.data : "", (unsigned long long)number);
}

static void end_list(struct job *job, int code)
{
    JOB_ANSWER(job, {"code", NULL, code}, {"n", NULL, job->n}, {"list", job->body, 0});
}

static void on_entry(void *arg, int code, const struct muster_kv_entry *entry)
{
    struct job *job = arg;

    if (entry)
        add_to_list(job, entry->key, entry->value, entry->revision);
    else
        end_list(job, code);
}

static int do_kv_scan(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);
    int err = job ? begin_list(job) : 0;

    if (job && !err)
        err = e->kv->scan(e->host, arg_int(e, args, "own", 1) ? NULL : msg->tenant,
                          arg_str(e, args, "prefix", ""), on_entry, job);
    return job ? job_failed(job, err) : 0;
}

static void on_removed(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct job *job = arg;

    (void)value;
    JOB_ANSWER(job, {"code", NULL, code}, {"revision", NULL, (int64_t)revision});
}

static int do_kv_del(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t revision = arg_int(e, args, "revision", -1);
    struct job *job = job_new(e, msg);

    return job ? job_failed(job, e->kv->del(e->host, arg_int(e, args, "own", 1) ? NULL : msg->tenant,
                                            arg_str(e, args, "key", ""),
                                            revision < 0 ? MUSTER_UNFENCED : (uint64_t)revision, on_removed, job))
               : 0;
}

/* With `close` the stream is closed after that many messages. */
static void on_stored(void *arg, int code, const struct muster_msg *stored)
{
    struct job *job = arg;
    struct echo *e = job->e;

    if (!stored) {
        end_list(job, code);
        return;
    }
    add_to_list(job, stored->subject, stored->payload, stored->seq);
    if (job->n == arg_int(e, job->args, "close", -1))
        e->streams->close(e->host, e->stream);
}

static int do_read_on(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *subject = arg_str(e, args, "subject", NULL);
    struct job *job = job_new(e, msg);
    int err = job ? begin_list(job) : 0;

    if (job && !err)
        err = e->streams->read(e->host, e->stream, subject ? msg->tenant : NULL, subject,
                               (uint64_t)arg_int(e, args, "from", 1), (uint32_t)arg_int(e, args, "max", 10),
                               on_stored, job);
    return job ? job_failed(job, err) : 0;
}

/* ---- leases --------------------------------------------------------------------------------------------------------------- */

/* The writer: as long as the lease is held, one message after another into a fenced stream, each with the epoch. What the
 * fence must hold is who is first to write after a change of holders. */
static void on_last_seq(void *arg, int code, const struct muster_stream_info *info)
{
    struct echo *e = arg;

    e->writing = false;
    e->knows_last = code == 0;
    e->last_seq = info ? info->last_seq : 0;
    if (!code)
        return;
    e->streams->close(e->host, e->stream);
    e->stream = 0;
}

static void on_written(void *arg, int code, uint64_t seq)
{
    struct echo *e = arg;

    e->writing = false;
    e->knows_last = code == 0;
    e->last_seq = seq;
}

static void write_on(void *self, int64_t now_ns)
{
    struct echo *e = self;
    uint64_t epoch = e->leases->epoch(e->host, e->lease[0].id);
    char body[120];
    const struct muster_stream_options options = {.size = sizeof options, .name = "WRITTEN", .subjects = "written.>"};
    struct muster_append append = {.size = sizeof append,
                                   .tenant = e->tenants->find(e->host, "acme", 4),
                                   .subject = "written.on",
                                   .expected_seq = e->last_seq,
                                   .acked = on_written,
                                   .arg = e,
                                   .lease = e->lease[0].id};
    int err;

    (void)now_ns;
    if (!epoch || e->writing || !append.tenant)
        return;
    (void)snprintf(body, sizeof body, "{\"epoch\":%llu,\"broker\":\"%s\"}", (unsigned long long)epoch,
                   e->host->broker_id);
    append.payload = bytes_of(body);
    if (!e->stream) /* NATS was away until now */
        err = e->streams->open(e->host, &options, on_last_seq, e, &e->stream);
    else
        err = e->knows_last ? e->streams->append(e->host, e->stream, &append)
                            : e->streams->info(e->host, e->stream, on_last_seq, e);
    e->writing = err == 0;
}

int echo_write_on(struct echo *e)
{
    uint64_t id;

    return e->timers->every(e->host, 10000000, write_on, &id);
}

static void on_got(void *arg, uint64_t epoch)
{
    struct echo_lease *l = arg;

    l->n_got++;
    l->epoch = (int64_t)epoch;
    l->e->knows_last = false; /* somebody else may have written */
    if (l->release_when_got) {
        l->e->leases->release(l->e->host, l->id);
        l->id = 0;
    }
}

static void on_lost(void *arg, int code)
{
    struct echo_lease *l = arg;

    l->n_lost++;
    l->code = code;
}

static struct echo_lease *lease_of(struct echo *e, const char *name)
{
    for (size_t i = 0; i < sizeof e->lease / sizeof *e->lease; i++)
        if (e->lease[i].id && strcmp(e->lease[i].name, name) == 0)
            return &e->lease[i];
    return NULL;
}

uint64_t echo_lease_id(struct echo *e, const char *name)
{
    const struct echo_lease *l = name[0] ? lease_of(e, name) : NULL;

    return l ? l->id : name[0] ? UINT64_MAX : 0;
}

int echo_acquire(struct echo *e, const char *name, int64_t ttl_ms, int64_t release_when_got)
{
    struct muster_lease_options options = {.size = sizeof options,
                                           .name = name,
                                           .ttl_ns = ttl_ms * 1000000,
                                           .on_got = on_got,
                                           .on_lost = on_lost};
    struct echo_lease *l = NULL;

    for (size_t i = 0; i < sizeof e->lease / sizeof *e->lease && !l; i++)
        if (!e->lease[i].id)
            l = &e->lease[i];
    if (!l)
        return MUSTER_EAGAIN;
    *l = (struct echo_lease){.e = e, .release_when_got = release_when_got};
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    options.arg = l;
    return e->leases->acquire(e->host, &options, &l->id);
}

/* With several brokers any of them may answer: the others say whose turn it is not. */
static bool is_for_another(struct echo *e, const struct muster_value *args)
{
    const char *broker = arg_str(e, args, "broker", "");

    return broker[0] && strcmp(broker, e->host->broker_id) != 0;
}

static int do_acquire(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    if (is_for_another(e, args))
        return ANSWER(e, msg, {"broker", e->host->broker_id, 0});
    return ANSWER(e, msg, {"broker", e->host->broker_id, 0},
                  {"code", NULL,
                   echo_acquire(e, arg_str(e, args, "name", ""), arg_int(e, args, "ttl_ms", 3000),
                                arg_int(e, args, "brief", 0))});
}

static int do_release(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct echo_lease *l = lease_of(e, arg_str(e, args, "name", ""));

    if (is_for_another(e, args))
        return ANSWER(e, msg, {"broker", e->host->broker_id, 0});
    if (l) {
        e->leases->release(e->host, l->id);
        l->id = 0;
    }
    return ANSWER(e, msg, {"broker", e->host->broker_id, 0}, {"code", NULL, l ? 0 : MUSTER_ENOTFOUND});
}

static int do_lease(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const struct echo_lease *l = lease_of(e, arg_str(e, args, "name", ""));

    if (!l)
        return ANSWER(e, msg, {"broker", e->host->broker_id, 0}, {"code", NULL, MUSTER_ENOTFOUND});
    return ANSWER(e, msg, {"broker", e->host->broker_id, 0}, {"code", NULL, 0},
                  {"epoch", NULL, (int64_t)e->leases->epoch(e->host, l->id)},
                  {"told", NULL, l->epoch}, {"got", NULL, l->n_got}, {"lost", NULL, l->n_lost},
                  {"why", NULL, l->code});
}

static void on_put(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct job *job = arg;

    (void)value;
    (void)revision;
    JOB_ANSWER(job, {"broker", job->e->host->broker_id, 0}, {"code", NULL, code});
}

/* A put under the lease, of one broker. */
static int do_lease_put(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = is_for_another(e, args) ? NULL : job_new(e, msg);
    struct muster_kv_put put = {.size = sizeof put,
                                .key = arg_str(e, args, "key", ""),
                                .value = bytes_of(arg_str(e, args, "value", "")),
                                .revision = MUSTER_UNFENCED,
                                .lease = echo_lease_id(e, arg_str(e, args, "name", "")),
                                .fn = on_put,
                                .arg = job};
    int err = job ? e->kv->put(e->host, &put) : 0;

    if (!job)
        return ANSWER(e, msg, {"broker", e->host->broker_id, 0});
    if (err)
        on_put(job, err, (struct muster_bytes){0}, 0);
    return 0;
}

static void on_one_of_many(void *arg, int code, struct muster_bytes value, uint64_t revision)
{
    struct job *job = arg;

    (void)value;
    (void)revision;
    job->refused += code != 0;
    if (--job->n == 0)
        JOB_ANSWER(job, {"sent", NULL, job->sent}, {"failed", NULL, job->refused});
}

/* {n, bytes, stem}: so many puts at once, or as many as there is room for. */
static int do_kv_many(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);
    size_t len = (size_t)arg_int(e, args, "bytes", 65536);
    int64_t n = arg_int(e, args, "n", 1);
    char key[64];
    struct muster_kv_put put = {
        .size = sizeof put, .key = key, .revision = MUSTER_UNFENCED, .fn = on_one_of_many, .arg = job};
    int err = 0;

    if (!job)
        return 0;
    job->body = calloc(1, len + 1);
    if (!job->body)
        return job_failed(job, MUSTER_ENOMEM);
    put.value = (struct muster_bytes){job->body, len};
    while (job->sent < n && !err) {
        (void)snprintf(key, sizeof key, "%.30s.%lld", arg_str(e, args, "stem", "many"), (long long)job->sent);
        err = e->kv->put(e->host, &put);
        job->sent += !err;
    }
    job->n = job->sent;
    return job->sent ? 0 : job_failed(job, err);
}

const struct verb echo_verbs_keep[] = {
    {"kv_scan", do_kv_scan}, {"kv_del", do_kv_del},   {"read_on", do_read_on}, {"acquire", do_acquire},
    {"release", do_release}, {"lease", do_lease},       {"lease_put", do_lease_put},
    {"kv_many", do_kv_many}, {NULL, NULL},
};
