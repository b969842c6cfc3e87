/* Verbs about the lane: answers of all kinds, clocks, descriptors, threads, and every way to go wrong; see echo.h. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "echo.h"

static const int64_t ms = 1000000;

/* ---- answers ------------------------------------------------------------------------------------------------------------ */

static int do_silent(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    (void)e;
    (void)msg;
    (void)args;
    return 0;
}

static int do_fail(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    (void)msg;
    return (int)arg_int(e, args, "code", MUSTER_EINVAL);
}

static int do_error(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int err = e->bus->reply_error(e->host, msg->request, arg_str(e, args, "code", "aborted"),
                                  arg_str(e, args, "field", NULL),
                                  arg_str(e, args, "message", "as asked"));

    return err == MUSTER_EINVAL ? ANSWER(e, msg, {"code", NULL, err}) : err;
}

/* The second answer finds nothing; verb last tells. */
static int do_twice(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int first = ANSWER(e, msg, {"answer", NULL, 1});

    (void)args;
    e->again_left = ANSWER(e, msg, {"answer", NULL, 2});
    return first;
}

static int do_last(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t code = e->again_left;

    (void)args;
    e->again_left = 0;
    return ANSWER(e, msg, {"code", NULL, code});
}

static int do_large(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    size_t n = (size_t)arg_int(e, args, "bytes", 0);
    char *body = malloc(n + 1);
    int err;

    if (!body)
        return MUSTER_ENOMEM;
    memset(body, ' ', n);
    memcpy(body, "{}", n < 2 ? n : 2);
    err = e->bus->reply(e->host, msg->request, (struct muster_bytes){body, n});
    free(body);
    return err ? ANSWER(e, msg, {"code", NULL, err}) : 0;
}

/* Come again `times` times, then answer. */
static int do_again(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t times = arg_int(e, args, "times", 1);

    if (e->again_left++ < times)
        return MUSTER_EAGAIN;
    e->again_left = 0;
    return ANSWER(e, msg, {"times", NULL, times});
}

static int do_lane(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    (void)args;
    return ANSWER(e, msg, {"lane", NULL, e->host->lane}, {"n_lanes", NULL, e->host->n_lanes},
                  {"plugin", e->host->plugin, 0}, {"instance", e->host->instance, 0},
                  {"broker", e->host->broker_id, 0},
                  {"dsn", e->host->postgres_dsn ? "given" : "none", 0});
}

/* ---- time --------------------------------------------------------------------------------------------------------------- */

static void on_clock(void *self, int64_t now_ns)
{
    struct echo *e = self;
    struct job **at = &e->waiting;

    while (*at) {
        struct job *job = *at;

        if (job->due_ns > now_ns) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        JOB_ANSWER(job, {"held", NULL, 1}, {"agent", job->msg->agent, 0});
    }
    if (e->waiting)
        return;
    e->timers->stop(e->host, e->clock);
    e->clock = 0;
}

static int do_hold(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    job->due_ns = e->timers->now(e->host) + arg_int(e, args, "ms", 10) * ms;
    job->next = e->waiting;
    e->waiting = job;
    return e->clock ? 0 : e->timers->every(e->host, 5 * ms, on_clock, &e->clock);
}

/* Holding is for the message of the callback that runs. */
static int do_held(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct muster_msg other = *msg;
    const struct muster_msg *held;

    (void)args;
    return ANSWER(e, msg, {"code", NULL, e->bus->hold(e->host, &other, &held)});
}

static void on_once(void *self, int64_t now_ns)
{
    struct echo *e = self;

    (void)now_ns;
    e->n_ticks++;
}

static int do_tick(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    uint64_t id, stopped = 0;
    int err = e->timers->once(e->host, arg_int(e, args, "ms", 1) * ms, on_once, &id);

    if (!err)
        err = e->timers->once(e->host, 0, on_once, &stopped);
    if (!err)
        e->timers->stop(e->host, stopped);
    e->timers->stop(e->host, stopped); /* of one that is gone: no effect */
    return ANSWER(e, msg, {"code", NULL, err},
                  {"never", NULL, e->timers->every(e->host, 0, on_once, &id)},
                  {"wall", NULL, e->timers->wall_now(e->host)});
}

static int do_slow(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t ns = arg_int(e, args, "ms", 100) * ms;
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};

    (void)nanosleep(&ts, NULL); /* an early end is no matter */
    return ANSWER(e, msg, {"slept", NULL, ns});
}

/* ---- descriptors and threads -------------------------------------------------------------------------------------------- */

static void on_readable(void *arg, uint32_t events)
{
    struct job *job = arg;
    struct echo *e = job->e;
    char text[8] = "";
    ssize_t n = read(job->fds[0], text, sizeof text - 1);

    e->io->unwatch(e->host, job->handle);
    (void)close(job->fds[0]);
    (void)close(job->fds[1]);
    JOB_ANSWER(job, {"text", n > 0 ? text : "", 0}, {"events", NULL, events});
}

/* Paused when it is written to, so that change() must let it be seen. */
static int do_pipe(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);
    int err;

    (void)args;
    if (!job)
        return 0;
    if (pipe(job->fds) != 0)
        return job_failed(job, MUSTER_EINVAL);
    err = e->io->watch(e->host, job->fds[0], MUSTER_READABLE, on_readable, job, &job->handle);
    if (!err)
        err = e->io->change(e->host, job->handle, 0);
    if (!err && write(job->fds[1], "ping", 4) != 4)
        err = MUSTER_EINVAL;
    if (!err)
        err = e->io->change(e->host, job->handle, MUSTER_READABLE);
    return job_failed(job, err);
}

static void count_post(void *arg)
{
    struct job *job = arg;

    if (++job->sent < job->n)
        return;
    (void)pthread_join(job->thread, NULL);
    JOB_ANSWER(job, {"posts", NULL, job->sent}, {"full", NULL, job->refused});
}

/* A thread of the plugin's own, whose one way to the lane this is. */
static void *post_many(void *arg)
{
    struct job *job = arg;
    int64_t n = job->n;

    for (int64_t i = 0; i < n; i++)
        while (job->e->host->post(job->e->host, count_post, job) == MUSTER_EAGAIN)
            job->refused++;
    return NULL;
}

static int do_post(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    struct job *job = job_new(e, msg);

    if (!job)
        return 0;
    job->n = arg_int(e, args, "n", 1);
    return job_failed(job, pthread_create(&job->thread, NULL, post_many, job) ? MUSTER_EAGAIN : 0);
}

static void *subscribe_elsewhere(void *arg)
{
    struct job *job = arg;
    struct muster_subscription sub = {
        .size = sizeof sub, .subject = "x", .max_msgs = 1, .max_bytes = 1};
    uint64_t id;

    job->n = job->e->bus->subscribe(job->e->host, &sub, &id);
    return NULL;
}

static int do_wrong_thread(struct echo *e, const struct muster_msg *msg,
                           const struct muster_value *args)
{
    struct job *job = job_new(e, msg);

    (void)args;
    if (!job)
        return 0;
    if (pthread_create(&job->thread, NULL, subscribe_elsewhere, job) == 0)
        (void)pthread_join(job->thread, NULL);
    JOB_ANSWER(job, {"code", NULL, job->n});
    return 0;
}

static int do_late_health(struct echo *e, const struct muster_msg *msg,
                          const struct muster_value *args)
{
    e->host->health(e->host, (int)arg_int(e, args, "state", MUSTER_HEALTH_OK),
                    arg_str(e, args, "code", "ok"), "%s", arg_str(e, args, "text", "as asked"));
    return ANSWER(e, msg, {"code", NULL, 0});
}

/* ---- ends --------------------------------------------------------------------------------------------------------------- */

static int do_hang(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    volatile int64_t turns = 0;
    int64_t until = e->timers->now(e->host) + arg_int(e, args, "ms", 3600000) * ms;
    const char *broker = arg_str(e, args, "broker", e->host->broker_id);

    if (strcmp(broker, e->host->broker_id) != 0)
        return 0; /* it was not for this one */
    while (e->timers->now(e->host) < until)
        turns++; /* as a loop that was written wrong does */
    return ANSWER(e, msg, {"hung", NULL, turns});
}

/* As a program does that tells much of its end; all of it fits into a pipe. */
static void be_noisy(void)
{
    for (int i = 0; i < 600; i++)
        (void)fprintf(stderr, "echo: something is about to go wrong, and this is line %d of what is said of it: %s\n", i, "why, oh why");
}

/* Deep enough for any stack; the sum keeps it from being made a loop. */
static int64_t recurse(volatile char *above, int64_t n)
{
    volatile char here[4096];

    here[0] = above[0];
    return n == INT64_MAX ? 0 : n + recurse(here, n + 1) + here[0];
}

static int do_crash(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *how = arg_str(e, args, "how", "segv");
    volatile char start = 0;
    volatile int *volatile nowhere =
        (volatile int *)(uintptr_t)64; /* NULL would be the sanitizer's, not the signal's */

    (void)msg;
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "fpe") == 0)
        (void)raise(SIGFPE);
    if (strcmp(how, "noisy") == 0)
        be_noisy();
    if (strcmp(how, "stack") == 0)
        return (int)recurse(&start, 0);
    *nowhere = 1;
    return 0;
}

/* {mb}: memory that nobody gives back, written to. Ends the process where there is none left, as many programs do. */
static int do_leak(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t left = arg_int(e, args, "mb", 1);

    for (; left > 0; left--) {
        char *volatile lost = malloc(1 << 20);

        if (!lost)
            abort();
        memset(lost, 1, 1 << 20);
    }
    return ANSWER(e, msg, {"code", NULL, 0});
}

/* {what}: what belongs into create(). */
static int do_late(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    const char *what = arg_str(e, args, "what", "service");
    const void *table;
    uint64_t id;
    int code;

    if (strcmp(what, "service") == 0)
        code = e->host->service(e->host, MUSTER_BUS, &table);
    else if (strcmp(what, "make") == 0)
        code = e->metrics->make(e->host, MUSTER_COUNTER, "late_total", "Late.", NULL, &id);
    else
        code = e->sql->prepare(e->host, "late", MUSTER_SQL_READ, "SELECT 1", &id);
    return ANSWER(e, msg, {"code", NULL, code});
}

static void on_rested(void *self, int64_t now_ns)
{
    struct echo *e = self;

    (void)now_ns;
    e->bus->pause(e->host, 0);
}

/* {ms}: no message for so long; 0: for ever. */
static int do_rest(struct echo *e, const struct muster_msg *msg, const struct muster_value *args)
{
    int64_t rest = arg_int(e, args, "ms", 0) * ms;
    uint64_t id;
    int err = rest ? e->timers->once(e->host, rest, on_rested, &id) : 0;

    e->bus->pause(e->host, 1);
    return ANSWER(e, msg, {"code", NULL, err});
}

const struct verb echo_verbs_lane[] = {
    {"silent", do_silent},
    {"fail", do_fail},
    {"error", do_error},
    {"hold", do_hold},
    {"slow", do_slow},
    {"hang", do_hang},
    {"crash", do_crash},
    {"leak", do_leak},
    {"again", do_again},
    {"twice", do_twice},
    {"large", do_large},
    {"held", do_held},
    {"lane", do_lane},
    {"last", do_last},
    {"pipe", do_pipe},
    {"tick", do_tick},
    {"post", do_post},
    {"wrong_thread", do_wrong_thread},
    {"late_health", do_late_health},
    {"rest", do_rest},
    {"late", do_late},
    {NULL, NULL},
};
