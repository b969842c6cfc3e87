/*
 * Connections of names that may not speak any more; see revocation.h.
 *
 * Every broker does it: two that kick the same connection do no harm, and there is none that all would have to wait for.
 */
#include "core/revocation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "core/broker.h"
#include "core/lane.h"
#include "core/listing.h"
#include "metrics/metrics.h"

enum { RETRY_MS = 500, MAX_KEY = 2 * NAME_TOKEN_SIZE, MAX_SUBJECT = 128 };
static const int64_t kick_ns = 2 * CLOCK_S;

/* Names in the order in which they came. */
struct name {
    struct name *next;
    int64_t before_wall_ns; /* only connections that are older; 0: any */
    size_t len;
    char key[MAX_KEY]; /* "acme.bob" */
};

struct revocation {
    struct broker *broker;
    struct metric *kicked;
    struct map names;
    struct name *first, **last;
    struct listing *listing; /* NULL: none runs */
    uint32_t n_kicks;        /* on their way */
    bool due;                /* a name has come that no listing has looked for */
    bool open;
    uv_timer_t retry;
};

static size_t key_of(char out[MAX_KEY], const char *tenant, const char *agent)
{
    int n = snprintf(out, MAX_KEY, "%s.%s", tenant, agent);

    return n > 0 && n < MAX_KEY ? (size_t)n : 0;
}

static bool has(const struct revocation *r, const struct sys_client *client)
{
    char key[MAX_KEY];
    size_t len = *client->tenant ? key_of(key, client->tenant, client->agent) : 0;
    const struct name *name = len ? map_get(&r->names, key, len) : NULL;

    return name && (!name->before_wall_ns || client->at_wall_ns < name->before_wall_ns);
}

static void begin_listing(struct revocation *r);

static void on_retry(uv_timer_t *timer)
{
    begin_listing(timer->data);
}

/* Not at once: what went wrong may go wrong again. */
static void look_again(struct revocation *r)
{
    r->due = true;
    if (r->open)
        ASSERT(uv_timer_start(&r->retry, on_retry, RETRY_MS, 0) == 0);
}

/* ---- kicking ---------------------------------------------------------------------------------------------------------------- */

struct kick {
    struct revocation *r;
    struct sys_client client;
};

static void on_kicked(void *arg, int code, const struct bus_msg *msg)
{
    struct kick *k = arg;
    struct revocation *r = k->r;

    if (!code)
        code = sys_read_kick(bus_msg_data(msg));
    metric_add(r->kicked, code == 0 ? "cut" : code == MUSTER_ENOTFOUND ? "gone" : "failed", 1);
    if (code == 0)
        log_info("core", "%s.%s may not speak any more, or not so: connection %llu of server %.8s is cut", k->client.tenant, k->client.agent,
                 (unsigned long long)k->client.id, k->client.server);
    else if (code != MUSTER_ENOTFOUND)
        look_again(r);
    r->n_kicks--;
    free(k);
    begin_listing(r);
}

static int send_kick(struct kick *k)
{
    struct bus *bus = broker_bus(k->r->broker);
    const struct bus_call call = {
        .lane = broker_lane(k->r->broker), .owner = k->r, .timeout_ns = kick_ns, .fn = on_kicked, .arg = k};
    char subject[MAX_SUBJECT], body[32];
    struct bus_out out = {.subject = subject, .fence = -1};

    (void)snprintf(subject, sizeof subject, "$SYS.REQ.SERVER.%s.KICK", k->client.server);
    out.payload.data = body;
    out.payload.len = (size_t)snprintf(body, sizeof body, "{\"cid\":%llu}", (unsigned long long)k->client.id);
    return bus_request(bus, BUS_SYSTEM, &out, &call);
}

/* What cannot be sent now is found again by the next listing. */
static void kick(struct revocation *r, const struct sys_client *client)
{
    struct kick *k = r->n_kicks < REVOCATION_KICKS ? malloc(sizeof *k) : NULL;

    if (k)
        *k = (struct kick){r, *client};
    if (k && send_kick(k) == 0) {
        r->n_kicks++;
        return;
    }
    free(k);
    r->due = true;
}

/* ---- looking ---------------------------------------------------------------------------------------------------------------- */

static int ask(void *arg, const struct bus_out *out, const struct bus_call *call)
{
    const struct revocation *r = arg;

    return bus_request(broker_bus(r->broker), BUS_SYSTEM, out, call);
}

static void on_row(void *arg, const struct sys_client *client, const struct sys_server *server)
{
    struct revocation *r = arg;

    if (!r->open || !has(r, client))
        return;
    if (server->can_kick) {
        kick(r, client);
        return;
    }
    metric_add(r->kicked, "too_old", 1);
    log_warn("core",
             "%s.%s may not speak any more, and is connected: a server before 2.10 cuts it when it takes the account's JWT or is reloaded; "
             "see what `muster agent revoke` says",
             client->tenant, client->agent);
}

static void on_end(void *arg, int code)
{
    struct revocation *r = arg;

    r->listing = NULL;
    if (code)
        look_again(r);
    else
        begin_listing(r);
}

/* Once all that was found before is through. */
static void begin_listing(struct revocation *r)
{
    struct listing_how how = {.bus = broker_bus(r->broker), .lane = broker_lane(r->broker), .ask = ask, .row = on_row, .end = on_end, .arg = r};

    if (!r->open || !r->due || r->listing || r->n_kicks || uv_is_active((uv_handle_t *)&r->retry))
        return;
    r->due = false;
    if (connections_account(broker_connections(r->broker), how.account) == 0 && listing_begin(&how, &r->listing) == 0)
        return;
    look_again(r); /* the system account is away */
}

/* ---- names ------------------------------------------------------------------------------------------------------------------ */

static void remove_name(struct revocation *r, struct name **at)
{
    struct name *name = *at;

    *at = name->next;
    if (!*at)
        r->last = at;
    (void)map_take(&r->names, name->key, name->len);
    free(name);
}

static void add_name(struct revocation *r, const char *tenant, const char *agent, int64_t before_wall_ns)
{
    struct name *name = calloc(1, sizeof *name);

    if (name)
        name->len = key_of(name->key, tenant, agent);
    if (!name || !name->len || !map_put(&r->names, name->key, name->len, name)) {
        free(name);
        return;
    }
    name->before_wall_ns = before_wall_ns;
    *r->last = name;
    r->last = &name->next;
    if (r->names.n > REVOCATION_MAX)
        remove_name(r, &r->first);
}

static void cut(struct revocation *r, const char *tenant, const char *agent, int64_t before_wall_ns)
{
    char key[MAX_KEY];
    size_t len = key_of(key, tenant, agent);
    struct name *known;

    if (!r || !len)
        return;
    known = map_get(&r->names, key, len);
    if (!known)
        add_name(r, tenant, agent, before_wall_ns);
    else if (!before_wall_ns || known->before_wall_ns) /* that a name may not speak at all stands until it is lifted */
        known->before_wall_ns = before_wall_ns;
    r->due = true;
    begin_listing(r);
}

void revocation_cut(struct revocation *r, const char *tenant, const char *agent)
{
    cut(r, tenant, agent, 0);
}

void revocation_cut_before(struct revocation *r, const char *tenant, const char *agent, int64_t wall_ns)
{
    cut(r, tenant, agent, wall_ns);
}

/* That a name may not speak at all. NULL: it does not. */
static struct name *find_ban(const struct revocation *r, const char *tenant, const char *agent)
{
    char key[MAX_KEY];
    size_t len = key_of(key, tenant, agent);
    struct name *name = r && len ? map_get(&r->names, key, len) : NULL;

    return name && !name->before_wall_ns ? name : NULL;
}

bool revocation_is_cut(const struct revocation *r, const char *tenant, const char *agent)
{
    return find_ban(r, tenant, agent) != NULL;
}

void revocation_lift(struct revocation *r, const char *tenant, const char *agent)
{
    const struct name *name = find_ban(r, tenant, agent);

    if (!name)
        return;
    for (struct name **at = &r->first; *at; at = &(*at)->next)
        if (*at == name) {
            remove_name(r, at);
            return;
        }
}

void revocation_saw(struct revocation *r, const struct sys_client *client)
{
    if (!r || !r->open || !has(r, client))
        return;
    kick(r, client);
    begin_listing(r);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

int revocation_open(struct revocation *r)
{
    if (!r)
        return 0;
    ASSERT(uv_timer_init(lane_loop(broker_lane(r->broker)), &r->retry) == 0);
    r->retry.data = r;
    r->open = true;
    begin_listing(r);
    return 0;
}

void revocation_close(struct revocation *r)
{
    if (!r || !r->open)
        return;
    r->open = false;
    bus_cancel(broker_bus(r->broker), r);
    if (r->listing)
        listing_cancel(r->listing);
    uv_close((uv_handle_t *)&r->retry, NULL);
}

int revocation_new(struct broker *broker, struct revocation **ret_revocation)
{
    const struct metric_spec kicked = {
        MUSTER_COUNTER, "muster_kicked_total", "Connections of names that may not speak any more, by what came of cutting them.", "result", {{0}}};
    struct revocation *r = calloc(1, sizeof *r);
    int err;

    if (!r)
        return MUSTER_ENOMEM;
    r->broker = broker;
    r->last = &r->first;
    err = metrics_make(broker_metrics(broker), &kicked, &r->kicked);
    if (err) {
        free(r);
        return err;
    }
    *ret_revocation = r;
    return 0;
}

void revocation_free(struct revocation *r)
{
    if (!r)
        return;
    while (r->first)
        remove_name(r, &r->first);
    map_done(&r->names);
    free(r);
}
