/*
 * plugins/presence: who is declared gone, against an oracle that knows the truth.
 *
 * A seeded world of NATS servers, agents and one broker goes on in steps of 50 ms: agents connect, crash, freeze and come back, servers die or are
 * out of sight, the broker's link fails, its lane stands still, what muster.sys/1 tells has gaps, the lead is lost and won. At each leave the
 * oracle asks whether that agent is there; and each agent that is not must be told within the bound that its kind of death has.
 * The parts under test are linked in; the rest of presence is stood for here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "presence/presence.h"

enum { AGENTS = 60, SERVERS = 3, TENANTS = 2, EVENTS = 4096, ALARMS = 8 };
static const int64_t ms = 1000000, s = 1000000000, step_ns = 50 * INT64_C(1000000);

enum state { AWAY, THERE, RECONNECTS, CRASHED, FROZEN }; /* FROZEN: the connection stays, nothing is said */

struct body { /* an agent as it really is */
    struct tenancy *tenancy;
    char name[16], session[32];
    enum state state;
    int server;
    uint64_t client; /* 0: no connection */
    int64_t beat_ns, back_ns, gone_ns; /* next beat; when it reconnects; since when it is CRASHED or FROZEN */
    int64_t called_ns;                 /* beats then, because of a roll call; 0: no */
    int64_t bound_ns;                  /* until when its death must be told */
    unsigned int n_sessions;
    bool late; /* as was told last */
    uint64_t seed; /* of its own for what is done in no certain order */
};

struct place {
    char id[16];
    bool dead, hidden; /* hidden: it works, but out of the broker's sight */
    int64_t since_ns, until_ns;
    bool told; /* as lost */
    unsigned int life;
};

/* What waits for the lane. */
struct event {
    struct muster_connection c;
    char agent[16], server[16], reason[32];
};

struct asked { /* change_*() that is not stored yet */
    struct agent *agent;
    int what; /* KIND_LEAVE, KIND_SUSPECT, KIND_STATUS for trust */
    char reason[16];
    int64_t due_ns;
};

static struct world {
    struct presence p;
    struct presence_config config;
    struct muster_host host;
    struct body bodies[AGENTS];
    struct place places[SERVERS];
    struct event events[EVENTS];
    struct asked asked[AGENTS];
    size_t n_events, n_asked;
    uint64_t first_seed, seed, last_client;
    int64_t next_tick_ns, now_ns, link_down_until_ns, stalled_until_ns, tick_ns, deaf_until_ns;
    int64_t last_trouble_ns; /* link, lane, gaps, servers, leads: deaths around it take longer */
    bool led;
    int64_t lead_ns;
    bool list_asked;
    muster_connection_fn on_told;
    muster_connections_fn on_listed;
    muster_timer_fn on_tick, on_alarm;
    int64_t alarms_ns[ALARMS]; /* 0: none */
    unsigned int n_leaves, n_late, n_suspects, n_calls, n_deaths, n_mass;
} *w;

static uint64_t roll(uint64_t *seed, uint64_t n)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % n;
}

static uint64_t dice(uint64_t n)
{
    return roll(&w->seed, n);
}

static bool chance(uint64_t one_in)
{
    return dice(one_in) == 0;
}

/* ---- the host ----------------------------------------------------------------------------------------------------------------- */

static int64_t now(const struct muster_host *host)
{
    (void)host;
    return w->now_ns;
}

static int64_t wall_now(const struct muster_host *host)
{
    (void)host;
    return w->now_ns;
}

static int every(const struct muster_host *host, int64_t period_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    (void)host;
    w->tick_ns = period_ns;
    w->on_tick = fn;
    *ret_id = 1;
    return 0;
}

static int once(const struct muster_host *host, int64_t delay_ns, muster_timer_fn fn, uint64_t *ret_id)
{
    size_t i = 0;

    (void)host;
    while (i < ALARMS && w->alarms_ns[i])
        i++;
    assert_true(i < ALARMS);
    w->alarms_ns[i] = w->now_ns + delay_ns;
    w->on_alarm = fn;
    *ret_id = 2;
    return 0;
}

static int watch(const struct muster_host *host, muster_connection_fn fn, void *arg, uint64_t *ret_id)
{
    (void)host;
    (void)arg;
    w->on_told = fn;
    *ret_id = 1;
    return 0;
}

static int list(const struct muster_host *host, muster_connections_fn fn, void *arg)
{
    (void)host;
    (void)arg;
    if (w->now_ns < w->link_down_until_ns)
        return MUSTER_ELINK;
    w->on_listed = fn;
    w->list_asked = true;
    return 0;
}

static int publish(const struct muster_host *host, const struct muster_publication *pub)
{
    (void)host;
    assert_string_equal(pub->subject, "all._muster.roll_call");
    assert_memory_equal(pub->payload.data, "{\"within_ms\":5000}", pub->payload.len);
    w->n_calls++;
    for (size_t i = 0; i < AGENTS; i++) {
        struct body *b = &w->bodies[i];

        if (b->tenancy->tenant == pub->tenant && b->state == THERE && !w->places[b->server].hidden)
            b->called_ns = w->now_ns + (int64_t)roll(&b->seed, 5000) * ms;
    }
    return 0;
}

static int make(const struct muster_host *host, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric)
{
    (void)host;
    (void)type;
    (void)name;
    (void)help;
    (void)label;
    *ret_metric = 1;
    return 0;
}

static void count(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    (void)host;
    (void)metric;
    (void)by;
    if (label_value && strcmp(label_value, "silent") == 0)
        w->n_mass++;
}

static void say(const struct muster_host *host, int level, const char *fmt, ...)
{
    (void)host;
    (void)level;
    (void)fmt;
}

static const char *tenant_name(const struct muster_tenant *tenant)
{
    return (const char *)tenant;
}

static const struct muster_timer timer = {.size = sizeof timer, .every = every, .once = once, .now = now, .wall_now = wall_now};
static const struct muster_sys sys = {.size = sizeof sys, .watch = watch, .list = list};
static const struct muster_bus bus = {.size = sizeof bus, .publish = publish};
static const struct muster_metrics metrics = {.size = sizeof metrics, .make = make, .add = count};
static const struct muster_tenants tenants = {.size = sizeof tenants, .name = tenant_name};
static const struct muster_sql sql = {.size = sizeof sql};

static int service(const struct muster_host *host, const char *id, const void **ret_table)
{
    (void)host;
    *ret_table = strcmp(id, MUSTER_SYS) == 0 ? (const void *)&sys : (const void *)&sql;
    return 0;
}

/* ---- the rest of presence ----------------------------------------------------------------------------------------------------- */

int sessions_prepare(struct presence *p)
{
    (void)p;
    return 0;
}

int sessions_start(struct presence *p)
{
    (void)p;
    return 0;
}

void sessions_tick(struct presence *p, int64_t now_ns)
{
    (void)p;
    (void)now_ns;
}

void sessions_drain(struct presence *p)
{
    (void)p;
}

void sessions_done(struct presence *p)
{
    (void)p;
}

int stats_start(struct presence *p)
{
    (void)p;
    return 0;
}

bool tenancy_next(struct presence *p, size_t *at, struct tenancy **ret_tenancy)
{
    void *value;

    if (!map_next(&p->by_tenant, at, NULL, &value))
        return false;
    *ret_tenancy = value;
    return true;
}

static struct body *body_of(const struct agent *a)
{
    for (size_t i = 0; i < AGENTS; i++)
        if (w->bodies[i].tenancy == a->tenancy && strcmp(w->bodies[i].name, a->name) == 0)
            return &w->bodies[i];
    fail();
    return NULL;
}

static int ask(struct agent *a, int what, const char *reason)
{
    uint64_t *seed = &body_of(a)->seed;

    if (!tenancy_leads(a->tenancy))
        return MUSTER_ESTALE;
    if (roll(seed, 20) == 0)
        return MUSTER_ENOMEM; /* no room: it will be asked again */
    if (a->asked)
        return 0;
    a->asked = (uint8_t)what;
    w->asked[w->n_asked] = (struct asked){.agent = a, .what = what, .due_ns = w->now_ns + (int64_t)roll(seed, 300) * ms};
    (void)snprintf(w->asked[w->n_asked++].reason, sizeof w->asked->reason, "%s", reason ? reason : "");
    return 0;
}

/* Of those who are late others are told, while there is somebody to hear it. */
void roster_put_again(struct agent *a)
{
    struct body *b = body_of(a);

    b->late = death_is_late(a);
    assert_true(w->p.link_up || !b->late);
    w->n_late += b->late;
}

int change_leave(struct agent *a, const char *reason)
{
    return ask(a, KIND_LEAVE, reason);
}

int change_suspect(struct agent *a, const char *reason)
{
    return a->suspect ? 0 : ask(a, KIND_SUSPECT, reason);
}

int change_trust(struct agent *a)
{
    return a->suspect ? ask(a, KIND_STATUS, NULL) : 0;
}

/* ---- the truth ---------------------------------------------------------------------------------------------------------------- */

static void trouble(void)
{
    w->last_trouble_ns = w->now_ns;
}

static bool is_deaf(void)
{
    return w->now_ns < w->link_down_until_ns;
}

static void remove_agent(struct agent *a)
{
    for (size_t i = 0; i < w->n_asked; i++)
        if (w->asked[i].agent == a)
            w->asked[i].agent = NULL;
    agent_end(a);
}

static void hello(struct body *b)
{
    struct agent *a = agent_find(b->tenancy, b->name);
    char session[sizeof b->session];

    (void)snprintf(session, sizeof session, "%s-%u", b->name, ++b->n_sessions);
    memcpy(b->session, session, sizeof session);
    if (!a)
        a = agent_add(b->tenancy, b->name, b->session);
    assert_true(a && agent_set_session(a, b->session));
    a->status = MUSTER_AGENT_ONLINE;
    a->suspect = false;
    a->beat_ns = w->now_ns;
    b->late = false; /* whoever tells of a session tells that, too */
    death_joined(a);
    b->beat_ns = w->now_ns + (int64_t)dice(5000) * ms;
}

/* It takes effect, unless something else is true by now. */
static void store(const struct asked *asked)
{
    struct agent *a = asked->agent;
    struct body *b;

    if (!a)
        return;
    if (asked->what == KIND_LEAVE) {
        bool still = death_still(a, asked->reason);

        a->asked = 0;
        if (!still)
            return;
        b = body_of(a);
        w->n_leaves++;
        if (b->state == THERE || b->state == RECONNECTS)
            fail_msg("seed %llu: %s is declared gone (%s) at %lld ms, and is not (state %d)", (unsigned long long)w->first_seed, a->name, asked->reason, (long long)(w->now_ns / ms), b->state);
        b->state = AWAY;
        b->back_ns = w->now_ns + (int64_t)roll(&b->seed, 20000) * ms;
        if (b->client)
            b->client = 0; /* whatever froze is killed at last; the server tells nothing of it here */
        remove_agent(a);
        return;
    }
    w->n_suspects += asked->what == KIND_SUSPECT;
    a->suspect = asked->what == KIND_SUSPECT;
    death_changed(a);
    a->asked = 0;
}

static void store_due(void)
{
    for (size_t i = 0; i < w->n_asked;) {
        struct asked asked = w->asked[i];

        if (asked.due_ns > w->now_ns) {
            i++;
            continue;
        }
        w->asked[i] = w->asked[--w->n_asked];
        store(&asked);
    }
}

/* ---- what is told ------------------------------------------------------------------------------------------------------------- */

static void tell_to_lane(const struct event *e)
{
    struct muster_connection c = e->c;

    c.agent = e->c.tenant ? e->agent : NULL;
    c.server = *e->server ? e->server : NULL;
    c.reason = *e->reason ? e->reason : NULL;
    w->on_told(&w->p, &c);
}

static void tell(uint32_t kind, const struct body *b, const char *server, const char *reason)
{
    struct event e = {.c = {.size = sizeof e.c, .kind = kind}};

    if (is_deaf() || w->now_ns < w->deaf_until_ns)
        return; /* the GAP that follows stands for it */
    if (b) {
        e.c.tenant = b->tenancy->tenant;
        e.c.client = b->client;
        (void)snprintf(e.agent, sizeof e.agent, "%s", b->name);
    }
    (void)snprintf(e.server, sizeof e.server, "%s", server ? server : "");
    (void)snprintf(e.reason, sizeof e.reason, "%s", reason ? reason : "");
    if (w->now_ns >= w->stalled_until_ns) {
        tell_to_lane(&e);
        return;
    }
    assert_true(w->n_events < EVENTS);
    w->events[w->n_events++] = e;
}

static bool is_seen(int server)
{
    return !w->places[server].dead && !w->places[server].hidden;
}

static void connect_to(struct body *b, int server)
{
    b->server = server;
    b->client = ++w->last_client;
    if (is_seen(server))
        tell(MUSTER_SYS_CONNECT, b, w->places[server].id, NULL);
}

static void disconnect(struct body *b, const char *reason)
{
    if (is_seen(b->server))
        tell(MUSTER_SYS_DISCONNECT, b, w->places[b->server].id, reason);
    b->client = 0;
}

static int some_server(void)
{
    for (;;) {
        int i = (int)dice(SERVERS);

        if (is_seen(i))
            return i;
    }
}

static void list_connections(void)
{
    struct muster_connection c = {.size = sizeof c, .kind = MUSTER_SYS_CONNECT};

    w->list_asked = false;
    if (is_deaf()) {
        w->on_listed(&w->p, MUSTER_ELINK, NULL);
        return;
    }
    for (size_t i = 0; i < AGENTS; i++) {
        struct body *b = &w->bodies[i];

        if (!b->client || !is_seen(b->server))
            continue;
        c.tenant = b->tenancy->tenant;
        c.agent = b->name;
        c.server = w->places[b->server].id;
        c.client = b->client;
        w->on_listed(&w->p, 0, &c);
    }
    w->on_listed(&w->p, chance(5) ? MUSTER_ETIME : 0, NULL);
}

/* ---- what happens ------------------------------------------------------------------------------------------------------------- */

static void die(struct body *b, enum state how)
{
    b->state = how;
    b->gone_ns = w->now_ns;
    w->n_deaths++;
}

static void live(struct body *b)
{
    struct agent *a = agent_find(b->tenancy, b->name);
    bool heard = !is_deaf() && b->client && is_seen(b->server) && w->now_ns >= w->stalled_until_ns;

    if (w->now_ns < b->beat_ns && !(b->called_ns && w->now_ns >= b->called_ns))
        return;
    b->beat_ns = w->now_ns + 5 * s;
    b->called_ns = 0;
    if (!heard)
        return;
    assert_non_null(a); /* it was never declared gone */
    a->beat_ns = w->now_ns;
    death_heard(a, 0);
}

static void one_agent(struct body *b, bool calm)
{
    switch (b->state) {
    case AWAY:
        if (calm || w->now_ns < b->back_ns || is_deaf() || w->now_ns < w->stalled_until_ns || !w->led)
            return;
        connect_to(b, some_server());
        hello(b);
        b->state = THERE;
        return;
    case THERE:
        live(b);
        if (calm || !chance(2000))
            return;
        if (chance(3)) {
            die(b, FROZEN);
            return;
        }
        disconnect(b, "Client Closed");
        if (chance(2)) {
            die(b, CRASHED);
            return;
        }
        b->state = RECONNECTS;
        b->back_ns = w->now_ns + 300 * ms + (int64_t)dice(1200) * ms;
        return;
    case RECONNECTS:
        if (w->now_ns < b->back_ns)
            return;
        connect_to(b, some_server());
        b->state = THERE;
        b->beat_ns = w->now_ns + (int64_t)dice(200) * ms; /* a client that is back says so: its connect may be in a gap */
        return;
    default:
        return;
    }
}

/* Its clients see it and go elsewhere; those that are dead stay where they are. */
static void kill_server(struct place *p, int i)
{
    p->dead = true;
    p->since_ns = w->now_ns;
    p->until_ns = w->now_ns + 10 * s + (int64_t)dice(60000) * ms;
    for (size_t k = 0; k < AGENTS; k++) {
        struct body *b = &w->bodies[k];

        if (b->server != i || !b->client)
            continue;
        b->client = 0;
        if (b->state == FROZEN)
            b->state = CRASHED;
        if (b->state != THERE)
            continue;
        b->state = RECONNECTS;
        b->back_ns = w->now_ns + (int64_t)dice(4000) * ms;
    }
    trouble();
}

static void one_server(int i, bool calm)
{
    struct place *p = &w->places[i];
    bool others = is_seen((i + 1) % SERVERS) && is_seen((i + 2) % SERVERS);

    if (!p->dead && !p->hidden) {
        if (calm || !others || !chance(6000))
            return;
        if (chance(2)) {
            kill_server(p, i);
            return;
        }
        p->hidden = true;
        p->since_ns = w->now_ns;
        p->until_ns = w->now_ns + 1 * s + (int64_t)dice(35000) * ms;
        trouble();
        return;
    }
    trouble();
    if (!p->told && w->now_ns - p->since_ns > 5 * s) {
        tell(MUSTER_SYS_SERVER_LOST, NULL, p->id, NULL);
        p->told = true;
    }
    if (w->now_ns < p->until_ns)
        return;
    if (p->dead) {
        if (!p->told)
            return;
        (void)snprintf(p->id, sizeof p->id, "N%d-%u", i, ++p->life);
    } else if (p->told) {
        tell(MUSTER_SYS_SERVER_BACK, NULL, p->id, NULL);
    } else {
        tell(MUSTER_SYS_GAP, NULL, NULL, NULL); /* out of sight for less than it takes to be lost */
    }
    p->dead = p->hidden = p->told = false;
}

static void lead(bool leads)
{
    struct shard *shard = &w->p.shards[0];

    w->led = leads;
    shard->state = leads ? SHARD_LEADS : SHARD_FOLLOWS;
    if (!leads) { /* what was asked for is void */
        for (size_t i = 0; i < w->n_asked; i++)
            if (w->asked[i].agent)
                w->asked[i].agent->asked = 0;
        w->n_asked = 0;
    }
    death_leads(shard, leads);
    trouble();
}

static void broker(bool calm)
{
    if (w->link_down_until_ns && !is_deaf()) {
        w->link_down_until_ns = 0;
        w->p.link_up = true;
        death_link(&w->p, true);
        tell(MUSTER_SYS_GAP, NULL, NULL, NULL);
        trouble();
    }
    if (w->deaf_until_ns && w->now_ns >= w->deaf_until_ns) {
        w->deaf_until_ns = 0;
        tell(MUSTER_SYS_GAP, NULL, NULL, NULL);
        trouble();
    }
    if (!w->led && w->now_ns >= w->lead_ns)
        lead(true);
    if (is_deaf())
        trouble();
    if (calm || is_deaf() || w->deaf_until_ns || w->now_ns < w->stalled_until_ns || !w->led)
        return;
    if (chance(6000)) {
        w->link_down_until_ns = w->now_ns + (int64_t)dice(20000) * ms + step_ns;
        w->p.link_up = false;
        death_link(&w->p, false);
    } else if (chance(6000)) {
        w->stalled_until_ns = w->now_ns + (int64_t)dice(12000) * ms + step_ns;
        trouble();
    } else if (chance(6000)) {
        w->deaf_until_ns = w->now_ns + (int64_t)dice(3000) * ms + step_ns;
        trouble();
    } else if (chance(6000)) {
        w->lead_ns = w->now_ns + (int64_t)dice(3000) * ms;
        lead(false);
    }
}

static void ring(void)
{
    for (size_t i = 0; i < ALARMS; i++) {
        if (!w->alarms_ns[i] || w->now_ns < w->alarms_ns[i])
            continue;
        w->alarms_ns[i] = 0;
        w->on_alarm(&w->p, w->now_ns);
    }
}

/* The timers come first, as on a lane that was late, and in any order: what came meanwhile waits behind them. */
static void lane(void)
{
    if (w->now_ns < w->stalled_until_ns) {
        trouble();
        return;
    }
    if (chance(2))
        ring();
    if (w->now_ns >= w->next_tick_ns) {
        w->next_tick_ns = w->now_ns + w->tick_ns;
        w->on_tick(&w->p, w->now_ns);
    }
    ring();
    for (size_t i = 0; i < w->n_events; i++)
        tell_to_lane(&w->events[i]);
    w->n_events = 0;
    if (w->list_asked)
        list_connections();
    store_due();
}

/* Nobody who died stays for longer than the longest way to learn of it; without trouble around it, than the way of his death. */
static void check_deaths(void)
{
    const struct presence_config *c = &w->config;

    for (size_t i = 0; i < AGENTS; i++) {
        const struct body *b = &w->bodies[i];
        int64_t since_ns = w->now_ns - b->gone_ns, slack_ns = 6 * s; /* no room for a change, some times in a row */
        int64_t silent_ns = 2 * c->dead_after_ns + c->roll_call_ns + c->heartbeat_ns, calm_ns = w->now_ns - w->last_trouble_ns;

        if (b->state != CRASHED && b->state != FROZEN)
            continue;
        /* What was lost more than 70 s ago is forgotten. */
        if (w->last_trouble_ns < b->gone_ns - 70 * s && b->state == CRASHED && since_ns > c->grace_ns + slack_ns)
            fail_msg("seed %llu: %s crashed %lld ms ago and is there still", (unsigned long long)w->first_seed, b->name, (long long)(since_ns / ms));
        if (w->last_trouble_ns < b->gone_ns - 70 * s && since_ns > silent_ns + slack_ns)
            fail_msg("seed %llu: %s is silent for %lld ms and is there still", (unsigned long long)w->first_seed, b->name, (long long)(since_ns / ms));
        if (since_ns > silent_ns + c->lost_after_ns && calm_ns > silent_ns + c->lost_after_ns + slack_ns)
            fail_msg("seed %llu: %s died %lld ms ago, all is calm for %lld ms", (unsigned long long)w->first_seed, b->name, (long long)(since_ns / ms), (long long)(calm_ns / ms));
    }
}

/* Who is heard again is so for all. */
static void check_late(void)
{
    for (size_t i = 0; i < AGENTS; i++) {
        const struct agent *a = agent_find(w->bodies[i].tenancy, w->bodies[i].name);

        assert_true(!a || !w->bodies[i].late || death_is_late(a));
    }
}

static void run(int64_t for_ns, bool calm)
{
    for (int64_t end_ns = w->now_ns + for_ns; w->now_ns < end_ns; w->now_ns += step_ns) {
        broker(calm);
        for (int i = 0; i < SERVERS; i++)
            one_server(i, calm);
        for (size_t i = 0; i < AGENTS; i++)
            one_agent(&w->bodies[i], calm);
        lane();
        check_deaths();
        check_late();
    }
}

/* ---- the tests ---------------------------------------------------------------------------------------------------------------- */

static void begin(uint64_t seed)
{
    static const char *const names[TENANTS] = {"acme", "zeta"};

    w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->first_seed = seed;
    w->seed = seed * 7919 + 1;
    w->now_ns = w->last_trouble_ns = 1000 * s;
    w->config = (struct presence_config){.heartbeat_ns = 5 * s, .dead_after_ns = 15 * s, .grace_ns = 2 * s, .roll_call_ns = 5 * s, .lost_after_ns = 60 * s};
    w->host = (struct muster_host){.size = sizeof w->host, .log = say, .service = service};
    w->p = (struct presence){.host = &w->host, .bus = &bus, .timer = &timer, .tenants = &tenants, .metrics = &metrics, .config = &w->config,
                             .link_up = true};
    for (size_t i = 0; i < TENANTS; i++) {
        struct tenancy *t = calloc(1, sizeof *t);

        assert_non_null(t);
        *t = (struct tenancy){.p = &w->p, .tenant = (const struct muster_tenant *)names[i], .name = names[i], .shard = &w->p.shards[0]};
        assert_true(map_put(&w->p.by_tenant, names[i], strlen(names[i]), t));
    }
    w->p.shards[0].p = &w->p;
    for (int i = 0; i < SERVERS; i++)
        (void)snprintf(w->places[i].id, sizeof w->places[i].id, "N%d-0", i);
    for (size_t i = 0; i < AGENTS; i++) {
        w->bodies[i] = (struct body){.tenancy = map_get(&w->p.by_tenant, names[i % TENANTS], 4), .back_ns = w->now_ns, .seed = dice(UINT64_MAX) + 1};
        (void)snprintf(w->bodies[i].name, sizeof w->bodies[i].name, "a%zu", i);
    }
    assert_int_equal(death_prepare(&w->p), 0);
    assert_int_equal(death_start(&w->p), 0);
    lead(true);
}

static void end(void)
{
    struct tenancy *t;
    struct agent *a;

    for (size_t i = 0; tenancy_next(&w->p, &i, &t);) {
        for (size_t at = 0; agent_next(t, &at, &a);)
            remove_agent(a);
        table_done(&t->agents);
        free(t);
    }
    assert_int_equal(w->p.death.nowhere.n_agents, 0);
    assert_int_equal(w->p.death.nowhere.n_overdue, 0);
    map_done(&w->p.by_tenant);
    death_done(&w->p);
    free(w);
}

/* After a while in which nothing happens the roster is as the world is. */
static void check_roster(void)
{
    for (size_t i = 0; i < AGENTS; i++) {
        const struct body *b = &w->bodies[i];
        const struct agent *a = agent_find(b->tenancy, b->name);

        if (b->state == AWAY)
            assert_null(a);
        else if (!a || a->suspect || b->state != THERE)
            fail_msg("seed %llu: %s: state %d, in the roster: %d, suspect: %d", (unsigned long long)w->first_seed, b->name, b->state, a != NULL, a && a->suspect);
        if (a && (a->death.flags || b->late))
            fail_msg("%s has flags %u, late: %d", b->name, a->death.flags, b->late);
    }
}

static void nobody_is_declared_gone_who_is_there(void **state)
{
    const char *word = getenv("MUSTER_TEST_LONG"); /* how many; or anything, for 150 */
    uint64_t seeds = !word || !*word ? 25 : strtoull(word, NULL, 10) > 1 ? strtoull(word, NULL, 10) : 150;
    unsigned int leaves = 0, late = 0, suspects = 0, calls = 0, deaths = 0, mass = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        begin(seed);
        run(600 * s, false);
        run(180 * s, true);
        check_roster();
        leaves += w->n_leaves;
        late += w->n_late;
        suspects += w->n_suspects;
        calls += w->n_calls;
        deaths += w->n_deaths;
        mass += w->n_mass;
        end();
    }
    print_message("%u deaths, %u leaves, %u suspects (%u silent with many), %u roll calls\n", deaths, leaves, suspects, mass, calls);
    assert_true(leaves > 100 && late > 100 && suspects > 100 && calls > 10 && mass > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_is_declared_gone_who_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
