/*
 * fanout - everything that an agent should hear: its inbox, the history of every channel, watches, casts and groups.
 *
 * in   requests to the services message, group and watch; what streams have stored
 * out  MAIL, R.<T>.to.<B>.<A>.<type> of casts, R.<T>.sub.<A>.<n> of watches, answers
 *
 * The parts are told in fanout.h.
 */
#include "fanout/fanout.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fanout/ask.h"
#include "fanout/cast.h"
#include "fanout/history.h"
#include "fanout/inbox.h"
#include "schemas/group.h"
#include "schemas/message.h"
#include "schemas/watch.h"

#define DAY (INT64_C(86400) * CLOCK_S)
#define FIELD(member) .offset = offsetof(struct fanout_config, member)

const struct muster_option fanout_options[FANOUT_OPTIONS_N] = {
    {.key = "replicas", .help = "Copies of the stream MAIL, which has the inboxes, in the NATS cluster.", .type = MUSTER_T_INT, .def = "1",
     .min = 1, .max = 5, FIELD(replicas)},
    {.key = "retention", .help = "How long an inbox keeps a message (longer than the two minutes for which the stream knows one again).",
     .type = MUSTER_T_DURATION_NS, .def = "7d", .min = 5 * 60 * CLOCK_S, .max = 365 * DAY, FIELD(retention_ns)},
    {.key = "max_bytes", .help = "How much all inboxes keep together; the oldest go first (0: no limit).", .type = MUSTER_T_BYTES, .def = "0",
     .min = 0, .max = INT64_MAX, FIELD(max_bytes)},
    {.key = "cache_bytes", .help = "How many bytes of recent messages are kept for history.", .type = MUSTER_T_BYTES, .def = "32MiB",
     .min = INT64_C(1) << 20, .max = INT64_C(1) << 33, .flags = MUSTER_O_RELOADABLE, FIELD(cache_bytes)},
    {.key = "cast_timeout", .help = "How long a cast waits for receipts that says nothing else.", .type = MUSTER_T_DURATION_NS, .def = "5s",
     .min = 100 * CLOCK_MS, .max = 60 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(cast_timeout_ns)},
    {.key = "cast_max", .help = "Casts that may wait for receipts at one time.", .type = MUSTER_T_INT, .def = "4096", .min = 1, .max = 65536,
     .flags = MUSTER_O_RELOADABLE, FIELD(cast_max)},
    {.key = "watch_linger", .help = "How long a watch outlives the presence of its agent.", .type = MUSTER_T_DURATION_NS, .def = "60s",
     .min = CLOCK_S, .max = DAY, .flags = MUSTER_O_RELOADABLE, FIELD(watch_linger_ns)},
    {.key = "watch_interval", .help = "Watches that name no interval_ms get one batch in that time (0s: each message by itself).",
     .type = MUSTER_T_DURATION_NS, .def = "0s", .min = 0, .max = 600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(watch_interval_ns)},
};

static const int64_t high_ns = 500 * CLOCK_MS;

/* The interval of watches that name none: FEDERATION_BROADCAST_LATENCY, which libraries read, too, wins over the file. */
static int find_interval(const struct muster_host *host, const struct fanout_config *config, int64_t *ret_ns)
{
    const char *latency = getenv("FEDERATION_BROADCAST_LATENCY");
    bool high = latency && strcmp(latency, "high") == 0, low = latency && strcmp(latency, "low") == 0;

    if (latency && *latency && !high && !low)
        return host->fail(host, MUSTER_EINVAL, "watch_interval: FEDERATION_BROADCAST_LATENCY is \"%.32s\", expected low or high", latency);
    *ret_ns = low ? 0 : high && !config->watch_interval_ns ? high_ns : config->watch_interval_ns;
    return 0;
}

static int fanout_check(const struct muster_host *host, const void *config)
{
    int64_t ns;

    return find_interval(host, config, &ns);
}

static const struct fanout_part *const parts[] = {&inbox_part, &history_part, &group_part, &cast_part, &watch_part};
enum { PARTS_N = sizeof parts / sizeof *parts };

static int find_services(struct fanout *f)
{
    const struct {
        const char *id;
        const void **table;
    } wanted[] = {
        {MUSTER_BUS, (const void **)&f->bus},         {MUSTER_STREAM, (const void **)&f->stream},
        {MUSTER_KV, (const void **)&f->kv},           {MUSTER_LEASE, (const void **)&f->lease},
        {MUSTER_SQL, (const void **)&f->sql},         {MUSTER_CODEC, (const void **)&f->codec},
        {MUSTER_TIMER, (const void **)&f->timer},     {MUSTER_TENANT, (const void **)&f->tenants},
        {MUSTER_METRICS, (const void **)&f->metrics}, {MUSTER_ROSTER, (const void **)&f->roster},
    };
    int err = 0;

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !err; i++)
        err = f->host->service(f->host, wanted[i].id, wanted[i].table);
    return err;
}

static void fanout_destroy(void *self)
{
    struct fanout *f = self;

    for (size_t i = PARTS_N; f && i-- > 0;)
        if (parts[i]->destroy)
            parts[i]->destroy(f);
    if (f)
        asks_done(f);
    free(f);
}

static int fanout_create(const struct muster_host *host, const void *config, void **ret_self)
{
    struct fanout *f = calloc(1, sizeof *f);
    int err;

    if (!f)
        return host->fail(host, MUSTER_ENOMEM, "no memory for an instance");
    f->host = host;
    f->config = config;
    err = find_interval(host, config, &f->watch_interval_ns);
    if (!err)
        err = find_services(f);
    if (!err)
        err = asks_create(f);
    for (size_t i = 0; i < PARTS_N && !err; i++)
        err = parts[i]->create ? parts[i]->create(f) : 0;
    if (err) {
        fanout_destroy(f);
        return err;
    }
    *ret_self = f;
    return 0;
}

void fanout_look_ready(struct fanout *f)
{
    bool ready = !f->ready;

    for (size_t i = 0; i < PARTS_N && ready; i++)
        ready = !parts[i]->is_ready || parts[i]->is_ready(f);
    if (!ready)
        return;
    f->ready = true;
    f->host->health(f->host, MUSTER_HEALTH_OK, "ok", "at work");
}

static void on_tick(void *self, int64_t now_ns)
{
    fanout_look_ready(self);
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->tick)
            parts[i]->tick(self, now_ns);
}

static int fanout_start(void *self)
{
    struct fanout *f = self;
    uint64_t id;
    int err = f->timer->every(f->host, FANOUT_TICK_NS, on_tick, &id);

    for (size_t i = 0; i < PARTS_N && !err; i++)
        err = parts[i]->start ? parts[i]->start(f) : 0;
    return err;
}

static void fanout_drain(void *self, int64_t deadline_ns)
{
    struct fanout *f = self;

    f->draining = true;
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->drain)
            parts[i]->drain(f, deadline_ns);
}

static void fanout_on_link(void *self, int up)
{
    struct fanout *f = self;

    f->link_up = up;
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->on_link)
            parts[i]->on_link(f, f->link_up);
}

static void fanout_on_writable(void *self)
{
    asks_flush(self);
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->on_writable)
            parts[i]->on_writable(self);
}

static void fanout_on_tables(void *self)
{
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->on_tables)
            parts[i]->on_tables(self);
}

static int fanout_reload(void *self, const void *config)
{
    struct fanout *f = self;
    int err = find_interval(f->host, config, &f->watch_interval_ns);

    if (err)
        return err;
    f->config = config;
    for (size_t i = 0; i < PARTS_N; i++)
        if (parts[i]->on_config)
            parts[i]->on_config(f);
    return 0;
}

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "message", .verbs = "send ack history cast receipt", .schema = muster_schema_message},
    {.size = sizeof(struct muster_service), .name = "group", .verbs = "join leave list", .schema = muster_schema_group},
    {.size = sizeof(struct muster_service), .name = "watch", .verbs = "open close list", .schema = muster_schema_watch},
};

MUSTER_PLUGIN(.name = "fanout", .version = MUSTER_VERSION, .capabilities = "stream sql cross_tenant system", .options = fanout_options,
              .n_options = FANOUT_OPTIONS_N, .config_size = sizeof(struct fanout_config), .services = services,
              .n_services = sizeof services / sizeof *services, .create = fanout_create, .start = fanout_start, .drain = fanout_drain,
              .destroy = fanout_destroy, .check = fanout_check, .reload = fanout_reload, .on_link = fanout_on_link, .on_writable = fanout_on_writable,
              .on_tables = fanout_on_tables);
