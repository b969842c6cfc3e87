/* Watches as a part of the plugin: shards and their leases, requests, time; see watch.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "common/metric_list.h"
#include "fanout/ask.h"
#include "fanout/watch.h"

static const int64_t spread_ns = 10 * CLOCK_MS; /* between the places in which brokers contend for a shard */
static const int64_t ready_ns = 2 * CLOCK_S; /* since NATS is there: a shard that has not come here until then is another broker's */
static const int64_t rest_ns = 1500 * CLOCK_MS; /* until who let a shard go contends for it again */
static const int64_t keep_ns = CLOCK_S, look_max_ns = 5 * CLOCK_S;
static const char end_sql[] = "SELECT muster.watch_close($1, $2, $3::jsonb)";

uint32_t shard_number(struct watches *ws, const struct muster_tenant *tenant)
{
    const struct tenant_watches *tw = map_get(&ws->tenants, &tenant, sizeof tenant);

    return tw ? tw->shard : shard_of_name(ws->f->tenants->name(tenant));
}

/* A broker that was stopped and wakes has lost its leases before it is told: it neither delivers nor answers nor ends anything then. */
bool shard_is_held(struct watches *ws, uint32_t shard)
{
    return ws->f->lease->epoch(ws->f->host, ws->shards[shard].lease) != 0;
}

/* ---- shards ---------------------------------------------------------------------------------------------------------------------- */

static void count_shards(struct watches *ws)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        n += ws->shards[i].state == SHARD_SERVED;
    ws->f->metrics->set(ws->f->host, ws->m.shards, NULL, n);
}

static void on_got(void *arg, uint64_t epoch)
{
    struct watch_shard *s = arg;

    s->epoch = epoch;
    s->generation++;
    s->state = SHARD_LOADING;
    s->leaving = false;
    s->tries = 0;
    shard_load(s);
}

#define MOVED "another broker serves the tenant from now on; try again"

static void refuse_waiting(struct watch_shard *s)
{
    while (s->waiting) {
        struct ask *a = s->waiting;

        s->waiting = a->next;
        ask_error(a, "unavailable", NULL, MOVED);
    }
}

void shard_drop(struct watch_shard *s)
{
    struct watches *ws = s->ws;
    void *value;

    s->state = SHARD_ELSEWHERE;
    s->generation++;
    load_stop(s);
    refuse_waiting(s);
    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);) {
        struct watch *w = value;

        if (w->shard == s->n)
            watch_free(w);
    }
    for (struct feed *feed = ws->feeds; feed; feed = feed->next)
        feed_drop_shard(feed, s->n);
    count_shards(ws);
}

static void on_lost(void *arg, int code)
{
    (void)code;
    shard_drop(arg);
}

void shard_loaded(struct watch_shard *s)
{
    struct ask *list = s->waiting, *next;

    s->state = SHARD_SERVED;
    fanout_look_ready(s->ws->f);
    s->waiting = NULL;
    count_shards(s->ws);
    for (; list; list = next) {
        next = list->next;
        watch_ask(s->ws, list);
    }
}

static void contend(struct watch_shard *s)
{
    struct fanout *f = s->ws->f;
    char name[16];
    struct muster_lease_options options = {.size = sizeof options, .name = name, .on_got = on_got, .on_lost = on_lost, .arg = s};

    (void)snprintf(name, sizeof name, "watch.%u", s->n);
    if (f->lease->acquire(f->host, &options, &s->lease) == 0)
        s->contend_ns = 0;
}

static void contend_due(struct watches *ws, int64_t now_ns)
{
    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        if (ws->shards[i].contend_ns && now_ns >= ws->shards[i].contend_ns && !ws->f->draining)
            contend(&ws->shards[i]);
}

static void on_contend(void *self, int64_t now_ns)
{
    contend_due(((struct fanout *)self)->watches, now_ns);
}

static uint32_t count_held(void *arg)
{
    const struct watches *ws = arg;
    uint32_t n = 0;

    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        n += ws->shards[i].state != SHARD_ELSEWHERE;
    return n;
}

/* Where its watches are is kept first, so that nothing comes again. */
static bool let_go(void *arg, uint32_t n)
{
    struct watches *ws = arg;
    struct watch_shard *s = &ws->shards[n];

    if (s->state != SHARD_SERVED || s->writes || !shard_is_held(ws, n))
        return false;
    s->leaving = true;
    if (!outlets_empty(ws, n)) {
        s->leaving = false;
        return false;
    }
    keep_shard(ws, n);
    shard_drop(s);
    return true;
}

static bool holds(void *arg, uint32_t n)
{
    const struct watches *ws = arg;

    return ws->shards[n].state == SHARD_SERVED;
}

static void stand_back(void *arg, uint32_t n, int64_t until_ns)
{
    struct watches *ws = arg;
    struct watch_shard *s = &ws->shards[n];

    if (s->state != SHARD_ELSEWHERE || s->leaving)
        return;
    if (s->lease)
        ws->f->lease->release(ws->f->host, s->lease);
    s->lease = 0;
    s->contend_ns = until_ns;
}

static void leave(struct watch_shard *s, int64_t now_ns)
{
    struct fanout *f = s->ws->f;

    if (!s->leaving || keep_is_busy(s->ws, s->n))
        return;
    s->leaving = false;
    f->lease->release(f->host, s->lease);
    s->lease = 0;
    s->contend_ns = now_ns + rest_ns;
}

/* Brokers that start together are each the first for some shards. */
static void plan(struct watch_shard *s, int64_t now_ns)
{
    struct fanout *f = s->ws->f;
    uint64_t timer;
    char text[160];
    int n = snprintf(text, sizeof text, "%s %u", f->host->broker_id, s->n);

    s->contend_ns = now_ns + spread_ns * (int64_t)(hash_bytes(text, (size_t)n) % WATCH_SHARDS);
    (void)f->timer->once(f->host, s->contend_ns - now_ns, on_contend, &timer); /* the tick would be late */
}

/* ---- requests -------------------------------------------------------------------------------------------------------------------- */

void watch_ask(struct watches *ws, struct ask *a)
{
    if (strcmp(a->msg->verb, "open") == 0)
        watch_open(ws, a);
    else if (strcmp(a->msg->verb, "close") == 0)
        watch_close(ws, a);
    else
        watch_list(ws, a);
}

/* Who does not serve the tenant says nothing: another broker answers. */
static int on_request(void *self, const struct muster_msg *msg)
{
    struct fanout *f = self;
    struct watches *ws = f->watches;
    struct watch_shard *s = &ws->shards[shard_number(ws, msg->tenant)];
    struct ask *a, **end = &s->waiting;
    int err;

    if ((s->state == SHARD_ELSEWHERE && !s->leaving) || !shard_is_held(ws, s->n))
        return 0;
    err = ask_new(f, msg, &a);
    if (err)
        return err;
    if (s->leaving || f->draining) {
        ask_error(a, "unavailable", NULL, MOVED);
        return 0;
    }
    if (s->state == SHARD_SERVED) {
        watch_ask(ws, a);
        return 0;
    }
    while (*end)
        end = &(*end)->next;
    a->next = NULL;
    *end = a;
    return 0;
}

static int subscribe(struct fanout *f, const char *subject)
{
    struct muster_subscription sub = {.size = sizeof sub, .subject = subject, .overflow = MUSTER_OVERFLOW_REJECT, .max_msgs = 10000,
                                      .max_bytes = (size_t)16 << 20, .fn = on_request};
    uint64_t id;

    return f->bus->subscribe(f->host, &sub, &id);
}

/* ---- the part -------------------------------------------------------------------------------------------------------------------- */

static int make_metrics(struct watches *ws)
{
    const struct wanted_metric wanted[] = {
        {MUSTER_GAUGE, "watches", "Watches that this broker serves", NULL, &ws->m.watches},
        {MUSTER_GAUGE, "watch_shards", "Shards of tenants whose watches this broker serves", NULL, &ws->m.shards},
        {MUSTER_COUNTER, "watch_messages_total", "Messages of streams that were held against watches", NULL, &ws->m.changes},
        {MUSTER_COUNTER, "watch_looked_at_total", "Watches of tables that a change was held against", NULL, &ws->m.looked_at},
        {MUSTER_COUNTER, "watch_matches_total", "Messages that matched a watch, each watch counted", NULL, &ws->m.matches},
        {MUSTER_COUNTER, "watch_delivered_total", "Messages delivered to watches", NULL, &ws->m.delivered},
        {MUSTER_COUNTER, "watch_dropped_total", "Messages dropped by a watch's own bounds, told when it ends", "reason", &ws->m.dropped},
        {MUSTER_COUNTER, "watch_gaps_total", "Gaps told to watches", "reason", &ws->m.gaps},
        {MUSTER_COUNTER, "watch_refused_total", "Watches refused because their stream would be one too many for the broker", NULL, &ws->m.refused},
    };

    return metric_list_make(ws->f->host, ws->f->metrics, wanted, sizeof wanted / sizeof *wanted);
}

static int watches_create(struct fanout *f)
{
    struct watches *ws = calloc(1, sizeof *ws);
    int err;

    if (!ws)
        return f->host->fail(f->host, MUSTER_ENOMEM, "no memory for watches");
    f->watches = ws;
    ws->f = f;
    ws->routes_serial = 1;
    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        ws->shards[i] = (struct watch_shard){.ws = ws, .n = i};
    ws->shares.how = (struct shares_how){
        .host = f->host, .kv = f->kv, .timer = f->timer, .n_shards = WATCH_SHARDS, .held = count_held, .holds = holds, .let_go = let_go,
        .stand_back = stand_back, .arg = ws};
    if (f->host->service(f->host, MUSTER_SYS, (const void **)&ws->sys) != 0)
        ws->sys = NULL; /* without it who never said hello is taken to be there */
    err = make_metrics(ws);
    if (!err)
        err = f->sql->prepare(f->host, "watch_table", MUSTER_SQL_READ, watch_table_sql, &ws->stmt_table);
    if (!err)
        err = f->sql->prepare(f->host, "watch_rows", MUSTER_SQL_READ, watch_rows_sql, &ws->stmt_rows);
    return err ? err : f->sql->prepare(f->host, "watch_end", MUSTER_SQL_WRITE, end_sql, &ws->stmt_end);
}

static int watches_start(struct fanout *f)
{
    static const char *const subjects[] = {"rpc.*.watch.open", "rpc.*.watch.close", "rpc.*.watch.list"};
    int64_t now = f->timer->now(f->host);
    int err = 0;

    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        plan(&f->watches->shards[i], now);
    for (size_t i = 0; i < sizeof subjects / sizeof *subjects && !err; i++)
        err = subscribe(f, subjects[i]);
    return err;
}

static void tell_metrics(struct watches *ws)
{
    const struct muster_metrics *m = ws->f->metrics;

    m->add(ws->f->host, ws->m.changes, NULL, (int64_t)ws->passed);
    m->add(ws->f->host, ws->m.looked_at, NULL, (int64_t)ws->looked_at);
    m->add(ws->f->host, ws->m.matches, NULL, (int64_t)ws->matched);
    ws->passed = ws->looked_at = ws->matched = 0;
}

static void tick_shards(struct watches *ws, int64_t now_ns)
{
    contend_due(ws, now_ns);
    for (uint32_t i = 0; i < WATCH_SHARDS; i++) {
        struct watch_shard *s = &ws->shards[i];

        if (s->retry_ns && now_ns >= s->retry_ns && s->state == SHARD_LOADING)
            shard_load(s);
        leave(s, now_ns);
    }
}

/* How often it is looked who has left: with the time that is left to them. */
static int64_t look_ns(const struct fanout *f)
{
    int64_t half = f->config->watch_linger_ns / 2;

    return half < look_max_ns ? half : look_max_ns;
}

static void watches_tick(struct fanout *f, int64_t now_ns)
{
    struct watches *ws = f->watches;

    watches_sweep(ws);
    tick_shards(ws, now_ns);
    if (f->link_up)
        shares_tick(&ws->shares, now_ns);
    feeds_tick(ws, now_ns);
    outlets_run(ws);
    if (now_ns - ws->kept_ns >= keep_ns) {
        ws->kept_ns = now_ns;
        keep_all(ws);
        tell_metrics(ws);
    }
    if (now_ns - ws->looked_ns >= look_ns(f)) {
        ws->looked_ns = now_ns;
        watches_look(ws, now_ns);
    }
}

/* Whose first requests would otherwise be heard by nobody. */
static bool watches_are_ready(struct fanout *f)
{
    bool ready = true;

    for (uint32_t i = 0; i < WATCH_SHARDS; i++)
        ready = ready && f->watches->shards[i].state == SHARD_SERVED;
    return ready || (f->watches->linked_ns && f->timer->now(f->host) - f->watches->linked_ns >= ready_ns);
}

static void watches_on_writable(struct fanout *f)
{
    outlets_run(f->watches);
}

static void watches_on_link(struct fanout *f, bool up)
{
    if (!up)
        return;
    if (!f->watches->linked_ns)
        f->watches->linked_ns = f->timer->now(f->host);
    outlets_run(f->watches);
}

/* What waits goes out, and where all are is kept for whoever serves them next; nothing more is taken. */
static void watches_drain(struct fanout *f, int64_t deadline_ns)
{
    (void)deadline_ns;
    shares_end(&f->watches->shares);
    for (struct feed *feed = f->watches->feeds; feed; feed = feed->next)
        if (feed->ready)
            f->stream->hold_back(f->host, feed->follow, 1);
    outlets_run(f->watches);
    keep_all(f->watches);
}

static void watches_destroy(struct fanout *f)
{
    struct watches *ws = f->watches;
    void *value;

    if (!ws)
        return;
    f->watches = NULL;
    for (uint32_t i = 0; i < WATCH_SHARDS; i++) {
        load_stop(&ws->shards[i]);
        refuse_waiting(&ws->shards[i]);
    }
    opens_done(ws);
    for (size_t at = 0; map_next(&ws->by_id, &at, NULL, &value);)
        watch_free(value);
    feeds_done(ws);
    nodes_done(ws);
    map_done(&ws->by_id);
    map_done(&ws->tenants);
    map_done(&ws->unseen);
    row_done(&ws->row);
    buf_done(&ws->scratch);
    outlet_next(ws);
    free(ws);
}

const struct fanout_part watch_part = {.create = watches_create,
                                       .start = watches_start,
                                       .drain = watches_drain,
                                       .destroy = watches_destroy,
                                       .on_link = watches_on_link,
                                       .on_writable = watches_on_writable,
                                       .tick = watches_tick,
                                       .is_ready = watches_are_ready};
