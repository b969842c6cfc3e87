/*
 * doctor: NATS. Each server by its greeting, which comes before any login; then the brokers'
 * credentials, JetStream and its streams; then the system account's credentials.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/probe.h"
#include "bus/greeting.h"
#include "bus/js.h"
#include "cli/doctor.h"
#include "cli/session.h"
#include "core/advisories.h"
#include "core/guard.h"

enum {
    PROBE_MS = 3000,
    INFO_MAX = 64 << 10,
    N_PRESENCE = 16,
    N_OWN = N_PRESENCE + 2,
    OWN_SIZE = 24
};
static const int64_t login_ns = 5 * CLOCK_S, question_ns = 5 * CLOCK_S;

/* ---- servers ---- */

/* The ids of those that stand behind the same wall. */
static void say_behind(struct doctor *d, const char *what, const struct greeting *info, int when, const char *wall)
{
    struct buf ids = {0};

    for (const struct advisory *a = advisory_next(&info->number, NULL); a; a = advisory_next(&info->number, a))
        if (a->when == when)
            buf_printf(&ids, "%s%s", ids.len ? ", " : "", a->id);
    if (ids.len)
        doctor_say(d, DOCTOR_HINT, what, "server_advisories", "%s: %s", wall, ids.data);
    buf_done(&ids);
}

/* Hints: what stands in front of them works. */
static void say_advisories(struct doctor *d, const char *server, const struct greeting *info)
{
    bool is_static = d->cli->config->nats.user != NULL;
    char what[DOCTOR_WHAT_SIZE + 16];

    (void)snprintf(what, sizeof what, "%s weaknesses", server);
    for (const struct advisory *a = advisory_next(&info->number, NULL); a; a = advisory_next(&info->number, a))
        if (advisory_is_open(a, is_static))
            doctor_say(d, DOCTOR_HINT, what, "server_advisories", "%s is open: %s; %s", a->id, a->what, a->answer);
    say_behind(d, what, info, ADVISORY_HELD, "known, and held off by what agents are granted");
    say_behind(d, what, info, ADVISORY_LISTENER, "known, and matter only with what nats-config does not write (websocket, leafnode, MQTT)");
}

/* Nothing older than 2.9 was ever tried with Muster. */
static void judge_server(struct doctor *d, const char *what, const struct greeting *info)
{
    static const struct bus_version oldest = {2, 9, 0};

    if (bus_version_compare(&info->number, &oldest) < 0)
        doctor_say(d, DOCTOR_BROKEN, what, "server_too_old",
                   "nats-server %s: expected 2.9 or newer", info->version);
    else if (!info->jetstream)
        doctor_say(d, DOCTOR_HINT, what, "jetstream_away",
                   "nats-server %s without JetStream: at least one server of the cluster needs it",
                   info->version);
    else
        doctor_say(d, DOCTOR_OK, what, NULL, "nats-server %s with JetStream", info->version);
    say_advisories(d, what, info);
    if (d->cli->config->nats.user && !info->nonce)
        doctor_say(d, DOCTOR_HINT, what, "names_forgeable",
                   "its users have passwords only, so that an agent may connect under another's name "
                   "in the server's events: run `muster nats-config --static` again, then reload it");
}

/* True when it answers. level: what it means when it does not. */
static bool check_server(struct doctor *d, const char *url, int level)
{
    struct probe p = {.one_line = true, .timeout_ms = PROBE_MS, .max = INFO_MAX};
    char what[DOCTOR_WHAT_SIZE], why[PROBE_WHY_SIZE];
    struct buf answer = {0};
    struct greeting info;
    bool up;

    if (!probe_parse(&p, url, "4222"))
        return false; /* the configuration's check knows more about URLs */
    (void)snprintf(what, sizeof what, "nats %.200s:%s", p.host, p.port);
    up = probe_ask(&p, &answer, why);
    if (!up)
        doctor_say(d, level, what, "nats_away",
                   "no answer: %s; start nats-server there, or correct nats.urls", why);
    else if (answer.len == 0 || greeting_read(answer.data, answer.len, &info) != 0)
        doctor_say(d, level, what, "nats_away",
                   "what answers is no NATS server; correct nats.urls");
    else
        judge_server(d, what, &info);
    buf_done(&answer);
    return up;
}

/* One server of several may be down for a while; that all are away is a fault. */
static bool check_servers(struct doctor *d)
{
    const struct config *config = d->cli->config;
    int level = config->nats.n_urls > 1 ? DOCTOR_HINT : DOCTOR_BROKEN;
    size_t n_up = 0;

    for (size_t i = 0; i < config->nats.n_urls; i++)
        n_up += check_server(d, config->nats.urls[i], level);
    if (!n_up && level == DOCTOR_HINT)
        doctor_say(d, DOCTOR_BROKEN, "nats", "nats_away", "none of the %zu servers answers",
                   config->nats.n_urls);
    return n_up > 0;
}

/* ---- streams ---- */

/* The list of streams, waited for. */
struct listing {
    struct doctor *d;
    int code;
    size_t n_dangers;
    uv_sem_t done;
};

static void keep_stream(struct listing *l, const struct js_listed *stream)
{
    struct doctor *d = l->d;
    char what[DOCTOR_WHAT_SIZE], why[512];

    if (!map_put(&d->streams, stream->name, strlen(stream->name), d))
        l->code = MUSTER_ENOMEM;
    if (!guard_refuses(d->cli->config->broker.root, stream, why, sizeof why))
        return;
    (void)snprintf(what, sizeof what, "stream %.200s", stream->name);
    doctor_say(d, DOCTOR_BROKEN, what, "stream_acknowledges", "%s", why);
    l->n_dangers++;
}

/* On the lane; the main thread waits meanwhile, so that struct doctor has one user. */
static void on_list(void *arg, int code, const struct js_listed *streams, size_t n)
{
    struct listing *l = arg;

    l->code = code;
    for (size_t i = 0; !code && i < n; i++)
        keep_stream(l, &streams[i]);
    uv_sem_post(&l->done);
}

/* One completion for the whole list, however many pages it has. */
static int list_streams(struct listing *l, const struct session *s)
{
    const struct js_target target = {session_bus(s), session_lane(s), l, question_ns};
    int code;

    ASSERT(uv_sem_init(&l->done, 0) == 0);
    code = js_list(&target, on_list, l);
    if (!code)
        uv_sem_wait(&l->done);
    uv_sem_destroy(&l->done);
    return code ? code : l->code;
}

static bool has_stream(const struct doctor *d, const char *name)
{
    return map_get(&d->streams, name, strlen(name)) != NULL;
}

static bool has_plugin(const struct doctor *d, const char *name)
{
    const struct config *c = d->cli->config;

    for (size_t i = 0; c && i < c->n_plugins; i++)
        if (c->plugins[i].name && strcmp(c->plugins[i].name, name) == 0)
            return true;
    return false;
}

/* Their number is the contract's (INTERFACE 2.1), so they can be named without a broker. False: no plugin that is configured here has it. */
static bool own_stream(const struct doctor *d, int i, char out[OWN_SIZE])
{
    if (i < N_PRESENCE)
        (void)snprintf(out, OWN_SIZE, "PRES_%d", i);
    else
        (void)snprintf(out, OWN_SIZE, "%s", i == N_PRESENCE ? "MAIL" : "AUDIT");
    if (i > N_PRESENCE)
        return true;
    return has_plugin(d, i < N_PRESENCE ? "presence" : "fanout");
}

/* What brokers make by themselves; that all of them are missing means that none has run yet. */
static void check_own_streams(struct doctor *d)
{
    char name[OWN_SIZE];
    struct buf missing = {0};
    size_t n_missing = 0, n = 0;

    for (int i = 0; i < N_OWN; i++) {
        if (!own_stream(d, i, name))
            continue;
        n++;
        if (has_stream(d, name))
            continue;
        buf_printf(&missing, "%s%s", n_missing ? ", " : "", name);
        n_missing++;
    }
    if (n_missing == n)
        doctor_say(d, DOCTOR_HINT, "streams", NULL,
                   "no broker has made its streams yet: start musterd");
    else if (n_missing)
        doctor_say(d, DOCTOR_HINT, "streams", "stream_missing",
                   "missing: %s; a running broker makes them within a minute",
                   missing.data ? missing.data : "");
    buf_done(&missing);
}

/* Away and not permitted look alike from here: a request that nobody answers. */
static void check_jetstream(struct doctor *d, const struct session *s)
{
    struct listing l = {.d = d};
    int code = list_streams(&l, s);

    if (code == MUSTER_ELINK || code == MUSTER_ETIME) {
        doctor_say(d, DOCTOR_BROKEN, "jetstream", "jetstream_away",
                   "it does not answer: enable it in nats-server.conf (`muster nats-config` does) "
                   "and for this account");
        return;
    }
    if (code) {
        doctor_say(d, DOCTOR_BROKEN, "jetstream", "jetstream_away",
                   "the streams could not be listed (error %d)", code);
        return;
    }
    d->streams_known = true;
    doctor_say(d, DOCTOR_OK, "jetstream", NULL, "%zu streams%s", d->streams.n,
               l.n_dangers ? "" : ", none of which acknowledges what agents publish");
    check_own_streams(d);
}

/* ---- credentials ---- */

/* In sentences; a server without any login is legal. */
static const char *shown(const char *path)
{
    return path ? path : "none";
}

/* The streams are looked at with the brokers' rights, over the connection that was just tried. */
static void check_login(struct doctor *d)
{
    const struct config *config = d->cli->config;
    const struct session_options options = {
        .config = config, .name = "doctor", .who = SESSION_BROKER};
    const char *who = config->nats.user ? config->nats.user : shown(config->nats.creds);
    char why[SESSION_WHY_SIZE];
    struct session *s = NULL;

    if (session_open(&options, &s, why) != CLI_DONE || session_wait(s, login_ns, why) != CLI_DONE) {
        doctor_say(d, DOCTOR_BROKEN, "nats credentials", "authentication",
                   "%s is refused: %s; check nats.creds or nats.user", who, why);
    } else {
        doctor_say(d, DOCTOR_OK, "nats credentials", NULL, "%s is accepted", who);
        d->nats_up = true;
        check_jetstream(d, s);
    }
    session_close(s);
}

/* The answer to a question to the system account, waited for. */
struct ping {
    int code;
    uv_sem_t done;
};

static void on_ping(void *arg, int code, const struct bus_msg *msg)
{
    struct ping *ping = arg;

    (void)msg;
    ping->code = code;
    uv_sem_post(&ping->done);
}

/* Any server answers this, and only to the system account. */
static int ask_system(const struct session *s)
{
    const struct bus_out out = {.subject = "$SYS.REQ.SERVER.PING", .fence = -1};
    struct ping ping = {0};
    const struct bus_call call = {.lane = session_lane(s),
                                  .owner = &ping,
                                  .timeout_ns = question_ns,
                                  .fn = on_ping,
                                  .arg = &ping};
    int code;

    ASSERT(uv_sem_init(&ping.done, 0) == 0);
    code = bus_request(session_bus(s), BUS_LIVE, &out, &call);
    if (!code)
        uv_sem_wait(&ping.done);
    uv_sem_destroy(&ping.done);
    return code ? code : ping.code;
}

/* Credentials of another account are accepted too: only an answer shows that they are the system's.
 * */
static void check_system(struct doctor *d)
{
    static const char what[] = "nats system credentials";
    const struct config *config = d->cli->config;
    const struct session_options options = {
        .config = config, .name = "doctor", .who = SESSION_SYSTEM};
    const char *who =
        config->nats.system_user ? config->nats.system_user : config->nats.system_creds;
    char why[SESSION_WHY_SIZE];
    struct session *s = NULL;

    if (!who) {
        doctor_say(d, DOCTOR_HINT, what, NULL,
                   "nats.system_creds is not set; `muster nats-config` writes system.creds");
        return;
    }
    if (session_open(&options, &s, why) != CLI_DONE || session_wait(s, login_ns, why) != CLI_DONE)
        doctor_say(d, DOCTOR_BROKEN, what, "authentication",
                   "%s is refused: %s; check nats.system_creds or nats.system_user", who, why);
    else if (ask_system(s) != 0)
        doctor_say(d, DOCTOR_BROKEN, what, "authentication",
                   "%s is accepted and does not belong to the system account", who);
    else {
        doctor_say(d, DOCTOR_OK, what, NULL, "%s is accepted", who);
        doctor_peers(d, s);
    }
    session_close(s);
}

/* Logins are tried only where a server greets: a second "connection refused" would help nobody. */
void doctor_nats(struct doctor *d)
{
    if (!check_servers(d))
        return;
    check_login(d);
    check_system(d);
}
