/*
 * doctor: whether the servers of NATS that have JetStream are one cluster.
 *
 * Each says who leads it and, the leader, whom it counts as peers: on those streams are placed. A server may be up, take clients and pass
 * messages on and be no peer, and nothing but this tells. What moves for a moment is no fault: only what a second look finds, too.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/assert.h"
#include "base/clock.h"
#include "bus/sys.h"
#include "cli/doctor.h"
#include "cli/session.h"

enum { MAX_SERVERS = 64, FAR_BEHIND = 1000, SUBJECT_SIZE = BUS_SERVER_SIZE + 32 };
static const int64_t own_ns = 5 * CLOCK_S, all_ns = CLOCK_S, unheard_ns = 10 * CLOCK_S;

struct look {
    struct doctor *d; /* NULL: what is found is counted, not said */
    size_t n_faults;
    struct sys_meta servers[MAX_SERVERS]; /* that have answered, and are clustered */
    struct sys_peer peers[MAX_SERVERS];   /* of the leader, as it says */
    size_t n_servers, n_peers;
    const struct sys_meta *leader; /* NULL: it has not answered, or there is none */
    struct sys_meta own;           /* of the server that is asked by way of */
    struct sys_meta answer;        /* the last */
    uv_sem_t done;
};

/* ---- asking ---- */

static bool leads(const struct sys_meta *server)
{
    return server->is_clustered && strcmp(server->name, server->leader) == 0;
}

/* Servers behind a leaf node have another domain, and are a cluster of their own. One without JetStream has none. */
static bool belongs(const struct look *l, const struct sys_meta *server)
{
    return server->is_clustered && (!l->own.is_clustered || strcmp(server->domain, l->own.domain) == 0);
}

static void on_peer(void *arg, const struct sys_peer *peer)
{
    struct look *l = arg;

    if (!l->leader && leads(&l->answer) && belongs(l, &l->answer) && l->n_peers < MAX_SERVERS)
        l->peers[l->n_peers++] = *peer;
}

/* On the lane; the main thread waits meanwhile. */
static void on_answer(void *arg, int code, const struct bus_msg *msg)
{
    struct look *l = arg;

    if (code) {
        uv_sem_post(&l->done);
        return;
    }
    if (sys_read_meta(bus_msg_data(msg), &l->answer, on_peer, l) != 0 || !belongs(l, &l->answer) || l->n_servers == MAX_SERVERS)
        return;
    l->servers[l->n_servers++] = l->answer;
    if (!l->leader && leads(&l->answer))
        l->leader = &l->servers[l->n_servers - 1];
}

static void no_peer(void *arg, const struct sys_peer *peer)
{
    (void)arg;
    (void)peer;
}

static void on_own(void *arg, int code, const struct bus_msg *msg)
{
    struct look *l = arg;

    if (code || sys_read_meta(bus_msg_data(msg), &l->own, no_peer, NULL) != 0)
        l->own = (struct sys_meta){0};
    uv_sem_post(&l->done);
}

static void ask(struct look *l, const struct session *s, const char *subject, const struct bus_call *how)
{
    const struct bus_out out = {.subject = subject, .fence = -1};
    struct bus_call call = *how;

    call.lane = session_lane(s);
    call.owner = call.arg = l;
    ASSERT(uv_sem_init(&l->done, 0) == 0);
    if (bus_request(session_bus(s), BUS_LIVE, &out, &call) == 0)
        uv_sem_wait(&l->done);
    uv_sem_destroy(&l->done);
}

/* A server by itself, which is most of them, is known by its own answer: nobody else is waited for. */
static void ask_own(struct look *l, const struct session *s)
{
    const struct bus_call call = {.timeout_ns = own_ns, .fn = on_own};
    char server[BUS_SERVER_SIZE], subject[SUBJECT_SIZE];
    uint64_t client;

    if (bus_where(session_bus(s), BUS_LIVE, server, &client) == 0) {
        (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.JSZ", server);
        ask(l, s, subject, &call);
    }
}

static void ask_all(struct look *l, const struct session *s, struct doctor *d)
{
    const struct bus_call call = {.timeout_ns = all_ns, .many = true, .fn = on_answer};

    l->d = d;
    l->n_faults = l->n_servers = l->n_peers = 0;
    l->leader = NULL;
    ask(l, s, "$SYS.REQ.SERVER.PING.JSZ", &call);
}

/* ---- judging ---- */

static void fault(struct look *l, int level, const char *server, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* server NULL: of all of them. */
static void fault(struct look *l, int level, const char *server, const char *code, const char *fmt, ...)
{
    char what[DOCTOR_WHAT_SIZE], text[1024];
    va_list ap;

    l->n_faults++;
    if (!l->d)
        return;
    (void)snprintf(what, sizeof what, "jetstream %s%.200s", server ? "on " : "cluster", server ? server : "");
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    doctor_say(l->d, level, what, code, "%s", text);
}

static bool is_peer(const struct look *l, const char *name)
{
    bool found = strcmp(name, l->leader->name) == 0;

    for (size_t i = 0; i < l->n_peers && !found; i++)
        found = strcmp(name, l->peers[i].name) == 0;
    return found;
}

static void judge_peer(struct look *l, const struct sys_peer *peer)
{
    if (peer->is_offline || peer->heard_ns > unheard_ns)
        fault(l, DOCTOR_HINT, peer->name, "nats_peer_away",
              "%s, which leads, does not hear it: start its nats-server; if it is gone for good: `nats server cluster peer-remove`", l->leader->name);
    else if (peer->n_behind > FAR_BEHIND)
        fault(l, DOCTOR_HINT, peer->name, "nats_peer_behind", "it is %llu operations behind %s, which leads: look at its disk and its network",
              (unsigned long long)peer->n_behind, l->leader->name);
}

/* Whoever leads may be too busy to answer, or be cut off from here. */
static void judge_leaderless(struct look *l)
{
    const char *named = "";
    size_t n_all = l->n_servers;

    for (size_t i = 0; i < l->n_servers; i++) {
        named = *l->servers[i].leader ? l->servers[i].leader : named;
        n_all = l->servers[i].n_servers > n_all ? l->servers[i].n_servers : n_all;
    }
    if (*named)
        fault(l, DOCTOR_HINT, named, "nats_peer_away", "it leads, as others say, and does not answer: look at its nats-server");
    else
        fault(l, DOCTOR_BROKEN, NULL, "nats_leader_missing", "none of the servers with JetStream leads, so that no stream is made or changed; %zu of %zu are up: %s",
              l->n_servers, n_all, l->n_servers > n_all / 2 ? "if that stays so, restart their nats-servers one after the other"
                                                            : "start the others, because it takes more than half");
}

static void judge(struct look *l)
{
    if (!l->leader) {
        if (l->n_servers)
            judge_leaderless(l);
        return;
    }
    for (size_t i = 0; i < l->n_servers; i++)
        if (!is_peer(l, l->servers[i].name))
            fault(l, DOCTOR_BROKEN, l->servers[i].name, "nats_peer_missing",
                  "it is up, and no peer of %s, which leads: no stream has a copy there, and one that wants it is refused; restart its nats-server",
                  l->leader->name);
    for (size_t i = 0; i < l->n_peers; i++)
        judge_peer(l, &l->peers[i]);
}

static void judge_replicas(struct doctor *d, size_t n_servers)
{
    char what[DOCTOR_WHAT_SIZE];

    if (d->replicas <= (int64_t)n_servers)
        return;
    (void)snprintf(what, sizeof what, "plugin %.200s", d->replicated_by);
    doctor_say(d, DOCTOR_BROKEN, what, "peers_few", "replicas is %lld, and NATS has %zu server%s that can have a copy of a stream: start more, or lower it",
               (long long)d->replicas, n_servers, n_servers == 1 ? "" : "s");
}

static void look_at_cluster(struct doctor *d, const struct session *s, struct look *l)
{
    ask_all(l, s, NULL);
    judge(l);
    if (l->n_faults) {
        (void)sleep(1);
        ask_all(l, s, d);
        judge(l);
    }
    if (!l->leader)
        return;
    if (!l->n_faults)
        doctor_say(d, DOCTOR_OK, "jetstream cluster", NULL, "%s leads, and has %zu peer%s beside it", l->leader->name, l->n_peers,
                   l->n_peers == 1 ? "" : "s");
    judge_replicas(d, l->n_peers + 1);
}

void doctor_peers(struct doctor *d, const struct session *system)
{
    struct look *l = calloc(1, sizeof *l);

    if (!l)
        return;
    ask_own(l, system);
    if (l->own.is_clustered || (*l->own.name && !l->own.has_jetstream))
        look_at_cluster(d, system, l);
    else if (l->own.has_jetstream)
        judge_replicas(d, 1);
    free(l);
}
