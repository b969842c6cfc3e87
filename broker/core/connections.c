/* Who connects to NATS and who goes; see connections.h. */
#include "core/connections.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/map.h"
#include "core/broker.h"
#include "core/departures.h"
#include "core/health.h"
#include "core/instance.h"
#include "core/servers.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { LOOK_MS = 1000 /* two make a round of servers.c */, MAX_STRANGERS = 1024 };
static const int64_t ask_ns = 2 * CLOCK_S;

struct connections {
    struct broker *broker;
    struct health_component *health;
    struct metric *events, *skipped;
    struct feed *watchers;
    struct servers *servers;
    sys_client_fn on_connect, on_gone; /* may be NULL */
    void *connect_arg, *gone_arg;

    pthread_mutex_t lock; /* guards these */
    bool hearing; /* the events come */
    char account[CONNECTIONS_ACCOUNT_SIZE]; /* "" before it was learned */
    struct map strangers; /* names of no tenant that connections had */
    bool many_strangers;  /* more than the map may hold */

    atomic_size_t n_msgs, n_bytes; /* events before the core lane */
    atomic_bool missed;            /* some did not get there */

    /* Core lane only. */
    uv_timer_t timer;
    bool open, asking;
    uint64_t n_slow, n_connects; /* as the bus counted them last */
};

/* ---- whose they are --------------------------------------------------------------------------------------------------------- */

/* The tenant may be made a moment later, or known here a moment later: then its connections must be shown. */
static void note_stranger(struct connections *c, const char *name)
{
    pthread_mutex_lock(&c->lock);
    if (c->strangers.n >= MAX_STRANGERS || !map_put(&c->strangers, name, strlen(name), c))
        c->many_strangers = true;
    pthread_mutex_unlock(&c->lock);
}

static const struct muster_tenant *find_tenant(struct connections *c, const struct sys_client *client)
{
    bool is_agent = *client->tenant && !client->is_operator;
    struct muster_tenant *tenant = is_agent ? tenants_find(broker_tenants(c->broker), client->tenant, strlen(client->tenant)) : NULL;

    if (!tenant && is_agent)
        note_stranger(c, client->tenant);
    return tenant;
}

const struct muster_tenant *connections_tenant(struct connections *c, const struct instance *in, const struct sys_client *client)
{
    const struct muster_tenant *tenant = find_tenant(c, client);

    return tenant && feed_is_of(in, tenant) ? tenant : NULL;
}

/* True when one of them is a tenant now, or may be. */
static bool met_stranger(struct connections *c)
{
    bool met = c->many_strangers;
    const char *name;
    void *value;

    for (size_t at = 0; map_next(&c->strangers, &at, &name, &value);) {
        size_t len = strlen(name);

        if (!tenants_find(broker_tenants(c->broker), name, len))
            continue;
        met = true;
        (void)map_take(&c->strangers, name, len);
    }
    c->many_strangers = false;
    return met;
}

void connections_tenants_changed(struct connections *c)
{
    bool met;

    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    met = met_stranger(c);
    pthread_mutex_unlock(&c->lock);
    if (met)
        feed_gap(c->watchers);
}

/* ---- events ----------------------------------------------------------------------------------------------------------------- */

struct arrival {
    struct lane_item item;
    struct connections *c;
    struct bus_msg *msg;
    size_t n_bytes;
};

struct reading {
    struct connections *c;
    int kind;
};

static void on_client(void *arg, const struct sys_client *client)
{
    const struct reading *r = arg;
    struct connections *c = r->c;
    const struct muster_tenant *tenant = find_tenant(c, client);

    if (c->on_connect && r->kind == MUSTER_SYS_CONNECT)
        c->on_connect(c->connect_arg, client);
    if (c->on_gone && r->kind == MUSTER_SYS_DISCONNECT)
        c->on_gone(c->gone_arg, client);
    if (!tenant) {
        metric_add(c->skipped, *client->tenant && !client->is_operator ? "unknown_tenant" : "no_agent", 1);
        return;
    }
    metric_add(c->events, r->kind == MUSTER_SYS_CONNECT ? "connect" : "disconnect", 1);
    watchers_push(c->watchers, r->kind, tenant, client);
}

static void drop_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;

    atomic_fetch_sub(&a->c->n_msgs, 1);
    atomic_fetch_sub(&a->c->n_bytes, a->n_bytes);
    bus_msg_free(a->msg);
    free(a);
}

static void run_arrival(struct lane_item *item)
{
    struct arrival *a = (struct arrival *)item;
    struct connections *c = a->c;
    struct reading r = {.c = c};
    char server[SYS_SERVER_SIZE];

    if (atomic_exchange(&c->missed, false))
        feed_gap(c->watchers);
    if (sys_read_stopped(bus_msg_subject(a->msg), server) == 0)
        servers_stopped(c->servers, server);
    else if (sys_read_event(bus_msg_data(a->msg), &r.kind, on_client, &r) != 0)
        metric_add(c->skipped, "malformed", 1);
    drop_arrival(item);
}

/* On a thread of the NATS library. */
static void on_event(void *arg, struct bus_msg *msg)
{
    struct connections *c = arg;
    struct arrival *a = malloc(sizeof *a);
    size_t n_bytes = bus_msg_size(msg);

    if (!a || atomic_load(&c->n_msgs) >= CONNECTIONS_MAX_MSGS || atomic_load(&c->n_bytes) >= CONNECTIONS_MAX_BYTES) {
        atomic_store(&c->missed, true);
        bus_msg_free(msg);
        free(a);
        return;
    }
    *a = (struct arrival){{.run = run_arrival, .drop = drop_arrival}, c, msg, n_bytes};
    atomic_fetch_add(&c->n_msgs, 1);
    atomic_fetch_add(&c->n_bytes, n_bytes);
    lane_push(broker_lane(c->broker), &a->item);
}

/* ---- the account ------------------------------------------------------------------------------------------------------------ */

static int subscribe(struct connections *c, const char *subject)
{
    uint64_t id;

    return bus_subscribe(broker_bus(c->broker), &(struct bus_sub){.subject = subject, .system = true, .fn = on_event, .arg = c}, &id);
}

static int subscribe_all(struct connections *c)
{
    char subject[CONNECTIONS_ACCOUNT_SIZE + 32];
    int err;

    (void)snprintf(subject, sizeof subject, "$SYS.ACCOUNT.%s.CONNECT", c->account);
    err = subscribe(c, subject);
    (void)snprintf(subject, sizeof subject, "$SYS.ACCOUNT.%s.DISCONNECT", c->account);
    if (!err)
        err = subscribe(c, subject);
    return err ? err : subscribe(c, SYS_STOPPED);
}

static void set_hearing(struct connections *c, bool hearing)
{
    pthread_mutex_lock(&c->lock);
    c->hearing = hearing;
    pthread_mutex_unlock(&c->lock);
    feed_hear(c->watchers, hearing);
}

static void hear(struct connections *c)
{
    health_set(c->health, MUSTER_HEALTH_OK, "ok", "connects and disconnects of account %s are seen", c->account);
    servers_begin(c->servers);
    set_hearing(c, true);
}

static void keep_account(void *arg, const struct sys_client *client)
{
    struct connections *c = arg;
    size_t len = strlen(client->account);

    if (!len || len >= sizeof c->account || strpbrk(client->account, " \t\r\n*>")) /* it becomes part of a subject */
        return;
    pthread_mutex_lock(&c->lock);
    memcpy(c->account, client->account, len + 1);
    pthread_mutex_unlock(&c->lock);
}

static void on_account(void *arg, int code, const struct bus_msg *msg)
{
    struct connections *c = arg;
    struct sys_page page;

    c->asking = false;
    if (!code && sys_read_page(bus_msg_data(msg), &page, keep_account, c) != 0)
        code = MUSTER_EINVAL;
    if (code == MUSTER_ENOTFOUND || code == MUSTER_EINVAL)
        health_set(c->health, MUSTER_HEALTH_DEGRADED, "not_system_account",
                   "nats.system_creds (or nats.system_user) lets into an account where the servers of nats.urls do not answer: expected "
                   "the system account of the same servers, as `muster nats-config` sets it up");
    if (code || !*c->account || !c->open)
        return; /* the next look asks again */
    if (subscribe_all(c) == 0)
        hear(c);
    else
        c->account[0] = '\0'; /* no memory */
}

/* The server itself says whose account the broker is in: so there is nothing to configure, and no other account's agent is shown. */
static void ask_account(struct connections *c)
{
    struct bus *bus = broker_bus(c->broker);
    struct bus_call call = {
        .lane = broker_lane(c->broker), .owner = c, .timeout_ns = ask_ns, .fn = on_account, .arg = c};
    char server[BUS_SERVER_SIZE], subject[128], body[64];
    struct bus_out out = {.subject = subject, .fence = -1};
    uint64_t client;

    if (c->asking || bus_where(bus, BUS_LIVE, server, &client) != 0)
        return;
    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.CONNZ", server);
    out.payload.data = body;
    out.payload.len = (size_t)snprintf(body, sizeof body, "{\"auth\":true,\"cid\":%llu}", (unsigned long long)client);
    c->asking = bus_request(bus, BUS_SYSTEM, &out, &call) == 0;
}

/* Bring all to how the link is; also notice what the library has dropped. */
static void look(struct connections *c)
{
    struct bus *bus = broker_bus(c->broker);
    struct bus_counters counters;

    bus_counters(bus, BUS_SYSTEM, &counters);
    if (!bus_is_up(bus, BUS_SYSTEM))
        set_hearing(c, false);
    else if (!*c->account)
        ask_account(c);
    else if (!c->hearing || counters.connects != c->n_connects)
        hear(c);
    if (counters.slow != c->n_slow || atomic_exchange(&c->missed, false))
        feed_gap(c->watchers);
    c->n_slow = counters.slow;
    c->n_connects = counters.connects;
    if (c->hearing)
        servers_ask(c->servers);
}

static void on_look(uv_timer_t *timer)
{
    look(timer->data);
}

struct change {
    struct lane_item item;
    struct connections *c;
};

static void run_change(struct lane_item *item)
{
    struct change *change = (struct change *)item;

    if (change->c->open)
        look(change->c);
    free(change);
}

static void drop_change(struct lane_item *item)
{
    free(item);
}

void connections_on_link(struct connections *c, int link, bool up, const char *reason)
{
    struct change *change;

    if (!c || link == BUS_BULK)
        return;
    if (!up && link == BUS_SYSTEM)
        health_set(c->health, MUSTER_HEALTH_DEGRADED, "nats_away", "the system account is away, connects and disconnects are not seen: %s",
                   reason);
    change = malloc(sizeof *change);
    if (!change)
        return; /* the next look makes it good */
    *change = (struct change){{.run = run_change, .drop = drop_change}, c};
    lane_push(broker_lane(c->broker), &change->item);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int connections_may(const struct broker *broker, char why[BUS_WHY_SIZE])
{
    const struct config *config = broker_config(broker);
    const char *path = config->nats.system_creds ? config->nats.system_creds : config->nats.system_password_file;

    if (!path) {
        (void)snprintf(why, BUS_WHY_SIZE,
                       "service " MUSTER_SYS " needs nats.system_creds (or nats.system_user and nats.system_password_file): credentials in "
                       "the system account, as `muster nats-config` writes them");
        return MUSTER_EACCES;
    }
    if (access(path, R_OK) == 0)
        return 0;
    (void)snprintf(why, BUS_WHY_SIZE, "nats.system_%s: %.120s: %s, expected a readable file",
                   config->nats.system_creds ? "creds" : "password_file", path, strerror(errno));
    return MUSTER_EINVAL;
}

static int make_metrics(struct connections *c)
{
    struct metric *gaps = NULL;
    const struct {
        struct metric **metric;
        struct metric_spec spec;
    } all[] = {
        {&c->events, {MUSTER_COUNTER, "muster_sys_events_total", "Connects and disconnects of agents, and NATS servers lost and back.", "kind", {{0}}}},
        {&c->skipped, {MUSTER_COUNTER, "muster_sys_skipped_total", "Events of the servers that were not shown.", "reason", {{0}}}},
        {&gaps, {MUSTER_COUNTER, "muster_sys_gaps_total", "Times that a watching plugin was told of a gap.", NULL, {{0}}}},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all && !err; i++)
        err = metrics_make(broker_metrics(c->broker), &all[i].spec, all[i].metric);
    return err ? err : watchers_new(gaps, &c->watchers);
}

/* Whatever it has for clients nobody has told. */
static void on_new_server(void *arg)
{
    struct connections *c = arg;

    feed_gap(c->watchers);
}

/* What ended with a server nobody tells. */
static void on_server(void *arg, int kind, const char *id)
{
    struct connections *c = arg;

    metric_add(c->events, kind == MUSTER_SYS_SERVER_LOST ? "server_lost" : "server_back", 1);
    if (kind == MUSTER_SYS_SERVER_LOST)
        departures_note(broker_departures(c->broker), id, 0);
    else
        departures_back(broker_departures(c->broker), id);
    watchers_server(c->watchers, kind, id);
}

int connections_new(struct broker *broker, struct connections **ret_connections)
{
    struct connections *c = calloc(1, sizeof *c);
    int err;

    if (!c)
        return MUSTER_ENOMEM;
    c->broker = broker;
    ASSERT(pthread_mutex_init(&c->lock, NULL) == 0);
    err = health_add(broker_health(broker), HEALTH_LINK, "system", false, &c->health);
    if (!err)
        err = make_metrics(c);
    if (!err)
        err = servers_new(broker, &(struct servers_hooks){on_new_server, on_server, c}, &c->servers);
    if (err) {
        connections_free(c);
        return err;
    }
    *ret_connections = c;
    return 0;
}

void connections_free(struct connections *c)
{
    if (!c)
        return;
    servers_free(c->servers);
    feed_free(c->watchers);
    map_done(&c->strangers);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}

int connections_open(struct connections *c)
{
    if (!c)
        return 0;
    ASSERT(uv_timer_init(lane_loop(broker_lane(c->broker)), &c->timer) == 0);
    c->timer.data = c;
    c->open = true;
    return uv_timer_start(&c->timer, on_look, 0, LOOK_MS) == 0 ? 0 : MUSTER_ENOMEM;
}

void connections_close(struct connections *c)
{
    if (!c || !c->open)
        return;
    c->open = false;
    bus_cancel(broker_bus(c->broker), c);
    servers_close(c->servers);
    uv_close((uv_handle_t *)&c->timer, NULL);
}

int connections_account(struct connections *c, char out[CONNECTIONS_ACCOUNT_SIZE])
{
    bool known;

    pthread_mutex_lock(&c->lock);
    known = c->hearing;
    memcpy(out, c->account, CONNECTIONS_ACCOUNT_SIZE);
    pthread_mutex_unlock(&c->lock);
    return known ? 0 : MUSTER_ELINK;
}

void connections_on_connect(struct connections *c, sys_client_fn fn, void *arg)
{
    c->on_connect = fn;
    c->connect_arg = arg;
}

void connections_on_gone(struct connections *c, sys_client_fn fn, void *arg)
{
    c->on_gone = fn;
    c->gone_arg = arg;
}

struct feed *connections_watchers(struct connections *c)
{
    return c->watchers;
}
