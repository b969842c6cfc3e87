/*
 * What NATS alone sees of a tenant; see quotas.h.
 *
 * A connection's counter says what it was delivered in its life: the difference of two rounds is what a tenant is charged. Of one that was not
 * seen before that is all of it, where it is younger than the round before.
 */
#include "core/quotas.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "core/broker.h"
#include "core/connections.h"
#include "core/health.h"
#include "core/listing.h"
#include "core/peers.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"

enum { LOOK_MS = 250, MAX_KEY = SYS_SERVER_SIZE + 24, MAX_SUBJECT = 128, SHARE = 10 /* of the time, a listing may take one part */ };
static const int64_t round_ns = CLOCK_S, kick_ns = 2 * CLOCK_S, depth_ns = 10 * CLOCK_S, penalty_ns = 60 * CLOCK_S;

/* A tenant that has such a limit, or had one. */
struct held {
    struct muster_tenant *tenant;
    int64_t full_at_ns; /* the bucket of bytes */
    uint64_t round;     /* the last that saw a connection of it */
    size_t n;           /* connections that this round saw */
    bool is_over;       /* told */
    bool too_old;       /* a server would not cut what is over */
};

struct followed {
    struct held *held;
    char server[SYS_SERVER_SIZE];
    uint64_t id, out_bytes, round;
    int64_t at_wall_ns;
    bool can_kick;
};

struct quotas {
    struct broker *broker;
    struct peers *peers;
    struct metric *cut;
    struct health_component *health;
    struct map tenants;     /* name → struct held */
    struct map connections; /* server and id → struct followed */
    struct listing *listing;
    uv_timer_t timer;
    uint64_t round;
    int64_t begun_ns, due_ns;             /* this round; when the next may begin */
    int64_t begun_wall_ns, seen_wall_ns;  /* this round, and the last that saw all */
    uint32_t n_kicks;
    bool open, full;
};

static bool limits_it(const struct muster_tenant *t)
{
    return tenants_limit(t, TENANT_CONNECTIONS) > 0 || tenants_limit(t, TENANT_SUBSCRIPTIONS) > 0 || tenants_limit(t, TENANT_OUT_BYTES) > 0;
}

/* NULL: nothing of it is limited. */
static struct held *held_of(struct quotas *q, const struct sys_client *client)
{
    size_t len = client->is_operator ? 0 : strlen(client->tenant); /* what all tenants send an operator is no fault of its own */
    struct muster_tenant *tenant = len ? tenants_find(broker_tenants(q->broker), client->tenant, len) : NULL;
    struct held *held;

    if (!tenant || !limits_it(tenant))
        return NULL;
    held = map_get(&q->tenants, client->tenant, len);
    if (held)
        return held;
    held = calloc(1, sizeof *held);
    if (!held || !map_put(&q->tenants, client->tenant, len, held)) {
        free(held);
        return NULL;
    }
    held->tenant = tenant;
    return held;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------------------- */

struct kick {
    struct quotas *q;
    const char *limit;
};

static void on_kicked(void *arg, int code, const struct bus_msg *msg)
{
    struct kick *k = arg;

    if (!code)
        code = sys_read_kick(bus_msg_data(msg));
    if (code == 0)
        metric_add(k->q->cut, k->limit, 1);
    k->q->n_kicks--;
    free(k);
}

/* What is not cut now is found again by the next round. */
static void kick(struct quotas *q, struct held *held, const struct followed *f, int limit)
{
    struct bus_call call = {.lane = broker_lane(q->broker), .owner = q, .timeout_ns = kick_ns, .fn = on_kicked};
    char subject[MAX_SUBJECT], body[32];
    struct bus_out out = {.subject = subject, .fence = -1};
    struct kick *k;

    if (!f->can_kick) {
        held->too_old = true;
        return;
    }
    k = q->n_kicks < QUOTAS_KICKS ? malloc(sizeof *k) : NULL;
    if (!k)
        return;
    *k = (struct kick){q, limit_keys[limit].name};
    call.arg = k;
    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.KICK", f->server);
    out.payload.data = body;
    out.payload.len = (size_t)snprintf(body, sizeof body, "{\"cid\":%llu}", (unsigned long long)f->id);
    if (bus_request(broker_bus(q->broker), BUS_SYSTEM, &out, &call) == 0)
        q->n_kicks++;
    else
        free(k);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------------------ */

static bool is_overdrawn(const struct held *held)
{
    return tenants_limit(held->tenant, TENANT_OUT_BYTES) > 0 && held->full_at_ns - clock_now_ns() > depth_ns;
}

static void charge(struct held *held, uint64_t n_bytes)
{
    int64_t rate = tenants_limit(held->tenant, TENANT_OUT_BYTES), now = clock_now_ns(), most = now + depth_ns + penalty_ns;
    double cost = rate > 0 ? (double)n_bytes / (double)rate * (double)CLOCK_S : 0;

    if (held->full_at_ns < now)
        held->full_at_ns = now;
    held->full_at_ns = cost > (double)(most - held->full_at_ns) ? most : held->full_at_ns + (int64_t)cost;
}

/* ---- connections ------------------------------------------------------------------------------------------------------------ */

static size_t key_of(char out[MAX_KEY], const struct sys_client *client)
{
    return (size_t)snprintf(out, MAX_KEY, "%s.%llu", client->server, (unsigned long long)client->id); /* bounded */
}

static struct followed *follow(struct quotas *q, struct held *held, const struct sys_client *client)
{
    char key[MAX_KEY];
    size_t len = key_of(key, client);
    struct followed *f = map_get(&q->connections, key, len);

    if (f)
        return f;
    f = q->connections.n < QUOTAS_CONNECTIONS ? calloc(1, sizeof *f) : NULL;
    if (!f || !map_put(&q->connections, key, len, f)) {
        free(f);
        q->full = true;
        return NULL;
    }
    *f = (struct followed){.held = held, .id = client->id, .at_wall_ns = client->at_wall_ns};
    memcpy(f->server, client->server, sizeof f->server);
    f->out_bytes = q->seen_wall_ns && client->at_wall_ns > q->seen_wall_ns ? 0 : client->out_bytes;
    return f;
}

static void on_row(void *arg, const struct sys_client *client, const struct sys_server *server)
{
    struct quotas *q = arg;
    struct held *held = q->open ? held_of(q, client) : NULL;
    struct followed *f = held ? follow(q, held, client) : NULL;
    int64_t subscriptions;

    if (!f)
        return;
    f->can_kick = server->can_kick;
    f->round = q->round;
    if (client->out_bytes > f->out_bytes)
        charge(held, client->out_bytes - f->out_bytes);
    f->out_bytes = client->out_bytes;
    held->n = held->round == q->round ? held->n + 1 : 1;
    held->round = q->round;
    subscriptions = tenants_limit(held->tenant, TENANT_SUBSCRIPTIONS);
    if (subscriptions > 0 && client->n_subscriptions > (uint64_t)subscriptions) {
        log_warn("quota", "%s.%s: %llu subscriptions on one connection, its tenant's limit is %lld", client->tenant, client->agent,
                 (unsigned long long)client->n_subscriptions, (long long)subscriptions);
        kick(q, held, f, TENANT_SUBSCRIPTIONS);
    }
}

/* ---- a round's end ---------------------------------------------------------------------------------------------------------- */

static int newest_first(const void *a, const void *b)
{
    const struct followed *x = *(const struct followed *const *)a, *y = *(const struct followed *const *)b;

    return x->at_wall_ns < y->at_wall_ns ? 1 : x->at_wall_ns > y->at_wall_ns ? -1 : 0;
}

static void cut_newest(struct quotas *q, struct held *held, size_t n_over)
{
    struct followed **list = malloc(held->n * sizeof *list);
    const char *key;
    size_t n = 0;
    void *value;

    if (!list)
        return;
    for (size_t at = 0; map_next(&q->connections, &at, &key, &value) && n < held->n;) {
        struct followed *f = value;

        if (f->held == held && f->round == q->round)
            list[n++] = f;
    }
    qsort(list, n, sizeof *list, newest_first);
    log_warn("quota", "%s: %zu connections, its limit is %lld: the newest %zu are cut", tenants_name(held->tenant), held->n,
             (long long)tenants_limit(held->tenant, TENANT_CONNECTIONS), n_over);
    for (size_t i = 0; i < n_over && i < n; i++)
        kick(q, held, list[i], TENANT_CONNECTIONS);
    free(list);
}

static void cut_all(struct quotas *q, struct held *held)
{
    const char *key;
    void *value;

    for (size_t at = 0; map_next(&q->connections, &at, &key, &value);) {
        struct followed *f = value;

        if (f->held == held && f->round == q->round)
            kick(q, held, f, TENANT_OUT_BYTES);
    }
}

static void say_over(struct held *held, bool over)
{
    const char *name = tenants_name(held->tenant);

    if (over && !held->is_over)
        log_warn("quota", "%s: more than the %lld bytes a second of its limit out_bytes are delivered to it: its connections are to be cut for %.0f s",
                 name, (long long)tenants_limit(held->tenant, TENANT_OUT_BYTES),
                 (double)(held->full_at_ns - clock_now_ns() - depth_ns) / (double)CLOCK_S);
    else if (!over && held->is_over)
        log_info("quota", "%s: may connect again, its limit out_bytes is kept", name);
    held->is_over = over;
}

/* The tenant that an old server keeps over its limit, for people; NULL: none. */
static const char *judge(struct quotas *q, bool seen_all)
{
    const char *name, *too_old = NULL;
    void *value;

    for (size_t at = 0; map_next(&q->tenants, &at, &name, &value);) {
        struct held *held = value;
        int64_t most = tenants_limit(held->tenant, TENANT_CONNECTIONS);

        if (seen_all && most > 0 && held->round == q->round && held->n > (size_t)most)
            cut_newest(q, held, held->n - (size_t)most);
        say_over(held, is_overdrawn(held));
        if (held->is_over)
            cut_all(q, held);
        if (held->too_old) {
            metric_add(q->cut, "too_old", 1);
            too_old = name;
        }
        held->too_old = false;
    }
    return too_old;
}

static void say_health(struct quotas *q, const char *too_old)
{
    if (too_old)
        health_set(q->health, MUSTER_HEALTH_DEGRADED, "servers_too_old",
                   "tenant %s is over a limit of its connections, and nats-server before 2.10 cuts nobody: update it", too_old);
    else if (q->full)
        health_set(q->health, MUSTER_HEALTH_DEGRADED, "too_many", "more than %d connections of tenants with limits: not all are looked at",
                   QUOTAS_CONNECTIONS);
    else
        health_set(q->health, MUSTER_HEALTH_OK, "ok", "connections are held to the limits of their tenants");
}

static void forget_old(struct quotas *q, bool all)
{
    const char *key;
    void *value;

    for (size_t at = 0; map_next(&q->connections, &at, &key, &value);) {
        struct followed *f = value;
        char copy[MAX_KEY];
        size_t len = strlen(key);

        if (!all && f->round == q->round)
            continue;
        memcpy(copy, key, len + 1); /* the map's own goes with the entry */
        free(map_take(&q->connections, copy, len));
    }
}

static void on_end(void *arg, int code)
{
    struct quotas *q = arg;
    int64_t now = clock_now_ns(), next = q->begun_ns + round_ns, rest = now + (SHARE - 1) * (now - q->begun_ns);

    q->listing = NULL;
    q->due_ns = next > rest ? next : rest;
    if (!q->open)
        return;
    say_health(q, judge(q, code == 0));
    q->full = false;
    if (code)
        return;
    q->seen_wall_ns = q->begun_wall_ns;
    forget_old(q, false);
}

/* ---- rounds ----------------------------------------------------------------------------------------------------------------- */

static void count_limited(void *arg, const struct muster_tenant *tenant)
{
    *(bool *)arg = *(bool *)arg || limits_it(tenant);
}

static int ask(void *arg, const struct bus_out *out, const struct bus_call *call)
{
    const struct quotas *q = arg;

    return bus_request(broker_bus(q->broker), BUS_SYSTEM, out, call);
}

static void begin_round(struct quotas *q)
{
    struct listing_how how = {.bus = broker_bus(q->broker), .lane = broker_lane(q->broker), .ask = ask, .row = on_row, .end = on_end, .arg = q};

    q->begun_ns = clock_now_ns();
    q->begun_wall_ns = clock_wall_ns();
    q->due_ns = q->begun_ns + round_ns;
    q->round++;
    if (connections_account(broker_connections(q->broker), how.account) == 0)
        (void)listing_begin(&how, &q->listing); /* the next round tries again */
}

/* Another broker does it, or there is nothing to do: what was seen is no measure any more. */
static void rest(struct quotas *q)
{
    forget_old(q, true);
    q->seen_wall_ns = 0;
    health_set(q->health, MUSTER_HEALTH_OK, "ok", "another broker holds connections to the limits of their tenants, or none has such a limit");
}

static void on_timer(uv_timer_t *timer)
{
    struct quotas *q = timer->data;
    bool limited = false;

    if (q->listing || clock_now_ns() < q->due_ns)
        return;
    q->due_ns = clock_now_ns() + round_ns;
    tenants_each(broker_tenants(q->broker), count_limited, &limited);
    if (limited && !broker_connections(q->broker))
        health_set(q->health, MUSTER_HEALTH_DEGRADED, "no_system_account",
                   "limits of connections, subscriptions and out_bytes are not held: set nats.system_creds, or nats.system_user");
    else if (limited && peers_is_first(q->peers))
        begin_round(q);
    else
        rest(q);
}

/* While its bucket is overdrawn. */
void quotas_saw(struct quotas *q, const struct sys_client *client)
{
    struct held *held = q && q->open && *client->tenant && !client->is_operator ? map_get(&q->tenants, client->tenant, strlen(client->tenant)) : NULL;
    struct followed f = {.id = client->id, .can_kick = true};

    if (!held || !held->is_over)
        return;
    memcpy(f.server, client->server, sizeof f.server);
    kick(q, held, &f, TENANT_OUT_BYTES);
}

void quotas_gone(struct quotas *q, const struct sys_client *client)
{
    struct held *held = q && q->open && q->seen_wall_ns ? held_of(q, client) : NULL;
    char key[MAX_KEY];
    struct followed *f;
    uint64_t before;

    if (!held)
        return;
    f = map_take(&q->connections, key, key_of(key, client));
    before = f ? f->out_bytes : 0;
    if (client->out_bytes > before && (f || client->at_wall_ns > q->seen_wall_ns))
        charge(held, client->out_bytes - before);
    free(f);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int quotas_open(struct quotas *q)
{
    ASSERT(uv_timer_init(lane_loop(broker_lane(q->broker)), &q->timer) == 0);
    q->timer.data = q;
    q->open = true;
    rest(q); /* no tenant is known yet */
    return uv_timer_start(&q->timer, on_timer, LOOK_MS, LOOK_MS) == 0 ? 0 : MUSTER_ENOMEM;
}

void quotas_close(struct quotas *q)
{
    if (!q || !q->open)
        return;
    q->open = false;
    bus_cancel(broker_bus(q->broker), q);
    if (q->listing)
        listing_cancel(q->listing);
    uv_close((uv_handle_t *)&q->timer, NULL);
}

int quotas_new(struct broker *broker, struct peers *peers, struct quotas **ret_quotas)
{
    const struct metric_spec cut = {MUSTER_COUNTER, "muster_quota_cut_total",
                                    "Connections cut because their tenant was over a limit, by limit; too_old: tenants whom a server would not cut.",
                                    "limit", {{0}}};
    struct quotas *q = calloc(1, sizeof *q);
    int err;

    if (!q)
        return MUSTER_ENOMEM;
    q->broker = broker;
    q->peers = peers;
    err = metrics_make(broker_metrics(broker), &cut, &q->cut);
    if (!err)
        err = health_add(broker_health(broker), HEALTH_QUOTA, "connections", false, &q->health);
    if (err) {
        free(q);
        return err;
    }
    *ret_quotas = q;
    return 0;
}

void quotas_free(struct quotas *q)
{
    const char *name;
    void *value;

    if (!q)
        return;
    forget_old(q, true);
    for (size_t at = 0; map_next(&q->tenants, &at, &name, &value);)
        free(value);
    map_done(&q->tenants);
    map_done(&q->connections);
    free(q);
}
