/*
 * A bus and a lane for one command; see session.h.
 *
 * The bus tries to connect for ever, which is right for a broker; a command that only asks
 * something takes the second failure for the answer (session_wait), because somebody sits before the
 * screen. Not the first: libnats before 3.9 leaves out a signature that begins with a NUL byte (its
 * change #705), so that one login in 256 with good credentials is refused.
 */
#include "cli/session.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/file.h"
#include "config/config.h"

/* A command sends a request now and then: these only have to be there. */
enum { OUTBOX_MSGS = 1024, OUTBOX_BYTES = 4 << 20 };
/* Bytes of the file; whoever names a larger one has named the wrong file. */
enum { PASSWORD_MAX = 4096 };
enum { FAILURES_ENOUGH = 2 };

struct session {
    struct session_options options;
    struct buf password; /* of a static server; wiped at the end */
    struct bus *bus;
    struct lane *lane;
    char name[64];

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    bool up;
    bool closing; /* that the link goes down is no news */
    unsigned int n_failed; /* attempts since it was opened */
    char reason[SESSION_WHY_SIZE];
};

/* Both links go up and down together, within milliseconds; the one that subscriptions and answers
 * are on speaks for both. Called on its thread, so the caller's function runs without our lock. */
static void on_link(void *arg, int link, bool up, const char *reason)
{
    struct session *s = arg;
    bool tell;

    if (link != BUS_LIVE)
        return;
    pthread_mutex_lock(&s->lock);
    tell = !s->closing && s->options.on_link;
    s->up = up;
    s->n_failed += !up;
    (void)snprintf(s->reason, sizeof s->reason, "%s", reason);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (tell)
        s->options.on_link(s->options.arg, up, reason);
}

/* Nobody here ever gets MUSTER_EAGAIN and waits. */
static void on_writable(void *arg, int link)
{
    (void)arg;
    (void)link;
}

/* The first line of the file, as the broker reads it. */
static int read_password(struct session *s, const char *path, char why[SESSION_WHY_SIZE])
{
    struct file_error err;

    if (file_read(path, PASSWORD_MAX, &s->password, &err) != 0) {
        (void)snprintf(why, SESSION_WHY_SIZE, "%s", err.text);
        return CLI_FAILED;
    }
    if (s->password.data)
        s->password.data[strcspn(s->password.data, "\r\n")] = '\0';
    return CLI_DONE;
}

static int open_bus(struct session *s, char why[SESSION_WHY_SIZE])
{
    const struct config *c = s->options.config;
    bool system = s->options.who == SESSION_SYSTEM;
    const char *password_file = system ? c->nats.system_password_file : c->nats.password_file;
    struct bus_options options = {.urls = c->nats.urls,
                                  .n_urls = c->nats.n_urls,
                                  .name = s->name,
                                  .creds = system ? c->nats.system_creds : c->nats.creds,
                                  .user = system ? c->nats.system_user : c->nats.user,
                                  .tls_ca = c->nats.tls_ca,
                                  .tls_cert = c->nats.tls_cert,
                                  .tls_key = c->nats.tls_key,
                                  .answers = {s->options.answers},
                                  .max_out_msgs = OUTBOX_MSGS,
                                  .max_out_bytes = OUTBOX_BYTES,
                                  .on_link = on_link,
                                  .on_writable = on_writable,
                                  .arg = s};
    int err;

    if (options.user && password_file && read_password(s, password_file, why) != CLI_DONE)
        return CLI_FAILED;
    options.password = s->password.data;
    err = bus_open(&options, &s->bus);
    if (err)
        (void)snprintf(
            why, SESSION_WHY_SIZE,
            "the NATS client cannot be set up; check nats.urls, nats.creds and nats.tls (error %d)",
            err);
    return err ? CLI_FAILED : CLI_DONE;
}

/* Waiting goes by the monotonic clock: a step of the wall clock must not end or stretch it. */
static void init_lock(struct session *s)
{
    pthread_condattr_t attr;

    ASSERT(pthread_mutex_init(&s->lock, NULL) == 0 && pthread_condattr_init(&attr) == 0);
    ASSERT(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 &&
           pthread_cond_init(&s->changed, &attr) == 0);
    (void)pthread_condattr_destroy(&attr); /* cannot fail */
}

int session_open(const struct session_options *options, struct session **ret_session,
                 char why[SESSION_WHY_SIZE])
{
    struct session *s = calloc(1, sizeof *s);
    int code = CLI_FAILED;

    if (!s) {
        (void)snprintf(why, SESSION_WHY_SIZE, "no memory");
        return CLI_FAILED;
    }
    s->options = *options;
    init_lock(s);
    (void)snprintf(s->name, sizeof s->name, "muster %s", options->name);
    if (lane_new(options->name, &s->lane) != 0 || lane_start(s->lane) != 0)
        (void)snprintf(why, SESSION_WHY_SIZE, "no memory for a thread");
    else
        code = open_bus(s, why);
    if (code != CLI_DONE) {
        session_close(s);
        return code;
    }
    *ret_session = s;
    return CLI_DONE;
}

int session_wait(struct session *s, int64_t timeout_ns, char why[SESSION_WHY_SIZE])
{
    int64_t until = clock_now_ns() + timeout_ns;
    const struct timespec deadline = {.tv_sec = until / CLOCK_S, .tv_nsec = until % CLOCK_S};
    bool up;

    pthread_mutex_lock(&s->lock);
    while (!s->up && s->n_failed < FAILURES_ENOUGH && clock_now_ns() < until)
        (void)pthread_cond_timedwait(&s->changed, &s->lock, &deadline); /* the loop judges */
    up = s->up;
    if (!up)
        (void)snprintf(why, SESSION_WHY_SIZE, "%s", *s->reason ? s->reason : "no answer");
    pthread_mutex_unlock(&s->lock);
    return up ? CLI_DONE : CLI_FAILED;
}

struct bus *session_bus(const struct session *s)
{
    return s->bus;
}

struct lane *session_lane(const struct session *s)
{
    return s->lane;
}

/* The lane first, as in the broker: its completions hold messages of the library, which must be
 * gone before the library is. */
void session_close(struct session *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_mutex_unlock(&s->lock);
    lane_stop(s->lane);
    bus_close(s->bus, CLOCK_S);
    lane_free(s->lane);
    if (s->password.data)
        explicit_bzero(s->password.data, s->password.cap);
    buf_done(&s->password);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}
