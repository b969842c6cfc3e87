/* The streams that no plugin owns, and the guard over all; see streams.h. */
#include "core/streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/js.h"
#include "core/broker.h"
#include "core/guard.h"
#include "core/health.h"
#include "tenant/tenant.h"

#define HISTORY_PREFIX "MSG_" /* and the tenant's name */
enum { HISTORY_MSGS = 100000, MAX_SUBJECT = 256 };
enum { CHECK_MS = 60000, RETRY_MS = 1000 };
static const int64_t timeout_ns = 5 * CLOCK_S, day_ns = INT64_C(86400) * CLOCK_S;

struct streams {
    struct broker *broker;
    void (*on_danger)(void *arg, const char *why);
    void *arg;
    struct health_component *health;
    bool busy, again; /* one check at a time */
    bool closing;     /* nothing is begun any more: an answer may come while the bus cannot be asked */
    bool passed;      /* all was well once */
    unsigned int n_open, n_failed;
    uv_timer_t timer;
    uint64_t pause_ms; /* after the next check, when it fails */
};

/* One stream, before its root is put in front. */
struct spec {
    const char *name, *subjects; /* "_in.*.msg.*" */
    const char *dest;            /* "{{wildcard(1)}}.msg.{{wildcard(2)}}" */
    int64_t max_age_ns, max_msgs_per_subject;
};

static void finish(struct streams *s);

static struct js_target target(struct streams *s)
{
    return (struct js_target){
        .bus = broker_bus(s->broker), .lane = broker_lane(s->broker), .owner = s, .timeout_ns = timeout_ns};
}

/* The tenant whose messages the stream keeps in more than one copy; NULL: it is no such stream. */
static const struct muster_tenant *replicated_tenant(struct streams *s, const char *stream)
{
    const char *name = stream + sizeof HISTORY_PREFIX - 1;
    const struct muster_tenant *tenant;

    if (strncmp(stream, HISTORY_PREFIX, sizeof HISTORY_PREFIX - 1) != 0)
        return NULL;
    tenant = tenants_find(broker_tenants(s->broker), name, strlen(name));
    return tenant && tenants_history(tenant) > 1 ? tenant : NULL;
}

/* A server that was reached and refused a stream with copies has most likely too few others beside it. */
static void tell_failed(struct streams *s, int code, const struct js_info *info)
{
    bool refused = code != MUSTER_ELINK && code != MUSTER_ETIME;
    const struct muster_tenant *tenant = refused ? replicated_tenant(s, info->stream) : NULL;

    if (code == MUSTER_EEXIST) /* the text names the stream */
        health_set(s->health, MUSTER_HEALTH_DOWN, "stream_conflict", "%s", info->text);
    else if (tenant)
        health_set(s->health, MUSTER_HEALTH_DOWN, "stream_missing",
                   "stream %s: %s; tenant %s has --history r%u, which takes %u servers with JetStream: start more, or UPDATE muster.tenants SET "
                   "history = 'r1' WHERE name = '%s'",
                   info->stream, info->text, tenants_name(tenant), tenants_history(tenant), tenants_history(tenant), tenants_name(tenant));
    else
        health_set(s->health, MUSTER_HEALTH_DOWN, "stream_missing", "stream %s: %s", info->stream, info->text);
}

static void on_ensured(void *arg, int code, const struct js_info *info)
{
    struct streams *s = arg;

    if (code) {
        s->n_failed++;
        tell_failed(s, code, info);
    }
    s->n_open--;
    finish(s);
}

static void ensure(struct streams *s, const struct js_config *config)
{
    struct js_target t = target(s);

    if (js_ensure(&t, config, on_ensured, s) == 0)
        s->n_open++;
    else
        s->n_failed++;
}

static void ensure_spec(struct streams *s, const struct spec *spec)
{
    const char *root = broker_root(s->broker);
    char src[MAX_SUBJECT], dest[MAX_SUBJECT];
    const char *subjects[] = {src};

    (void)snprintf(src, sizeof src, "%s.%s", root, spec->subjects);
    (void)snprintf(dest, sizeof dest, "%s.%s", root, spec->dest);
    ensure(s, &(struct js_config){.name = spec->name,
                                  .subjects = subjects,
                                  .n_subjects = 1,
                                  .republish_src = src,
                                  .republish_dest = dest,
                                  .max_age_ns = spec->max_age_ns,
                                  .max_msgs_per_subject = spec->max_msgs_per_subject});
}

static void ensure_history(void *arg, const struct muster_tenant *tenant)
{
    struct streams *s = arg;
    const char *root = broker_root(s->broker), *name = tenants_name(tenant);
    char stream[96], subjects[3][MAX_SUBJECT], src[MAX_SUBJECT], dest[MAX_SUBJECT];
    const char *list[] = {subjects[0], subjects[1], subjects[2]};
    uint32_t replicas = tenants_history(tenant);
    int64_t messages = tenants_limit(tenant, TENANT_STREAM_MESSAGES), bytes = tenants_limit(tenant, TENANT_STREAM_BYTES);

    if (!replicas)
        return;
    (void)snprintf(stream, sizeof stream, HISTORY_PREFIX "%s", name);
    (void)snprintf(subjects[0], MAX_SUBJECT, "%s.%s.all.>", root, name);
    (void)snprintf(subjects[1], MAX_SUBJECT, "%s.%s.to.>", root, name);
    (void)snprintf(subjects[2], MAX_SUBJECT, "%s.%s.grp.>", root, name);
    (void)snprintf(src, sizeof src, "%s.%s.>", root, name);
    (void)snprintf(dest, sizeof dest, "%s.%s.log.>", root, name);
    ensure(s, &(struct js_config){.name = stream,
                                  .subjects = list,
                                  .n_subjects = 3,
                                  .republish_src = src,
                                  .republish_dest = dest,
                                  .max_age_ns = 7 * day_ns,
                                  .max_msgs = messages > 0 ? messages : HISTORY_MSGS,
                                  .max_bytes = bytes > 0 ? bytes : 0,
                                  .max_msgs_per_subject = 1000,
                                  .replicas = replicas,
                                  .no_ack = true});
}

static void ensure_all(struct streams *s)
{
    static const struct spec audit = {"AUDIT", "_in.*.audit.>", "{{wildcard(1)}}.audit.>", 30 * INT64_C(86400) * CLOCK_S, 0};

    ensure_spec(s, &audit);
    tenants_each(broker_tenants(s->broker), ensure_history, s);
}

/* ---- the guard ------------------------------------------------------------------------------------------------------------- */

/* True when the stream must not be; the broker is told. */
static bool is_danger(struct streams *s, const struct js_listed *stream)
{
    char why[512];

    if (!guard_refuses(broker_root(s->broker), stream, why, sizeof why))
        return false;
    health_set(s->health, MUSTER_HEALTH_DOWN, "stream_acknowledges", "%s", why);
    if (!s->passed) /* later, one stream made by mistake must not end the fleet: it is not ready, and says why */
        s->on_danger(s->arg, why);
    return true;
}

static void on_list(void *arg, int code, const struct js_listed *list, size_t n)
{
    struct streams *s = arg;
    bool danger = false;

    s->n_open--;
    if (code) {
        s->n_failed++;
        health_set(s->health, MUSTER_HEALTH_DOWN, "jetstream_away",
                   "the streams could not be listed (error %d): is JetStream on, and has its cluster a leader? `muster doctor` looks", code);
    }
    for (size_t i = 0; !code && !s->closing && i < n && !danger; i++)
        danger = is_danger(s, &list[i]);
    if (danger)
        s->n_failed++;
    else if (!code && !s->closing)
        ensure_all(s);
    finish(s);
}

/* ---- when ------------------------------------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    streams_check(timer->data);
}

static void check_later(struct streams *s, bool failed)
{
    uint64_t ms = failed ? s->pause_ms : CHECK_MS;

    s->pause_ms = failed ? ms * 2 : RETRY_MS;
    if (s->pause_ms > CHECK_MS)
        s->pause_ms = CHECK_MS;
    if (!s->closing)
        ASSERT(uv_timer_start(&s->timer, on_timer, ms, CHECK_MS) == 0);
}

/* ---- life -------------------------------------------------------------------------------------------------------------------- */

static void finish(struct streams *s)
{
    if (s->n_open || !s->busy)
        return;
    s->busy = false;
    check_later(s, s->n_failed > 0);
    s->passed = s->passed || !s->n_failed;
    if (!s->n_failed)
        health_set(s->health, MUSTER_HEALTH_OK, "ok", "all streams are as they must be");
    if (s->again) {
        s->again = false;
        streams_check(s);
    }
}

void streams_check(struct streams *s)
{
    struct js_target t = target(s);

    if (s->busy) {
        s->again = true;
        return;
    }
    if (s->closing)
        return;
    if (!bus_is_up(broker_bus(s->broker), BUS_LIVE))
        return; /* the link's return checks */
    s->busy = true;
    s->n_failed = 0;
    s->n_open = 1;
    if (js_list(&t, on_list, s) != 0) {
        s->n_open = 0;
        s->busy = false;
        check_later(s, true);
    }
}

void streams_start(struct streams *s)
{
    ASSERT(uv_timer_init(lane_loop(broker_lane(s->broker)), &s->timer) == 0);
    s->timer.data = s;
    check_later(s, false);
    streams_check(s);
}

int streams_new(struct broker *broker, void (*on_danger)(void *arg, const char *why), void *arg, struct streams **ret_streams)
{
    struct streams *s = calloc(1, sizeof *s);
    int err;

    if (!s)
        return MUSTER_ENOMEM;
    *s = (struct streams){.broker = broker, .on_danger = on_danger, .arg = arg, .pause_ms = RETRY_MS};
    err = health_add(broker_health(broker), HEALTH_STREAM, "all", true, &s->health);
    if (err) {
        free(s);
        return err;
    }
    *ret_streams = s;
    return 0;
}

void streams_close(struct streams *s)
{
    s->closing = true;
    uv_close((uv_handle_t *)&s->timer, NULL);
    bus_cancel(broker_bus(s->broker), s);
}

void streams_free(struct streams *s)
{
    free(s);
}
