/* Known weaknesses of nats-server; see advisories.h. */
#include "core/advisories.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/buf.h"
#include "config/config.h"
#include "core/broker.h"
#include "core/health.h"

/* From the texts of advisories.nats.io. A line that got no fix of its own goes on to the next one that did. */
static const struct advisory table[] = {
    {"CVE-2026-33249",
     "the header Nats-Trace-Dest has the server write trace events to any subject, also another tenant's",
     ADVISORY_OPEN,
     "upgrade: no permission stands before it",
     {{{2, 11, 0}, {2, 11, 15}}, {{2, 12, 0}, {2, 12, 6}}}},
    {"GHSA-g33f-6538-grxh",
     "a malformed JWT crashes the server before any login",
     ADVISORY_OPERATOR,
     "let only machines you trust reach the NATS port, or upgrade",
     {{{2, 0, 0}, {2, 12, 10}}, {{2, 14, 0}, {2, 14, 2}}}},
    {"CVE-2025-30215",
     "JetStream's API reaches the streams of other accounts",
     ADVISORY_HELD,
     "agents are granted nothing of $JS",
     {{{2, 2, 0}, {2, 10, 27}}, {{2, 11, 0}, {2, 11, 1}}}},
    {"CVE-2026-33222",
     "who may restore one stream may overwrite others",
     ADVISORY_HELD,
     "agents are granted nothing of $JS",
     {{{2, 0, 0}, {2, 11, 15}}, {{2, 12, 0}, {2, 12, 6}}}},
    {"GHSA-q59r-vq66-pxc2",
     "a question for an account's connections crashes the server",
     ADVISORY_HELD,
     "agents are granted nothing of $SYS",
     {{{2, 0, 0}, {2, 12, 12}}, {{2, 14, 0}, {2, 14, 3}}}},
    {"GHSA-jx8g-9g95-6322, GHSA-wh7g-5m82-pmhr",
     "queue subscriptions and overlapping wildcards pass deny rules",
     ADVISORY_HELD,
     "permissions are allow-lists only",
     {{{2, 0, 0}, {2, 11, 16}}, {{2, 12, 0}, {2, 12, 7}}}},
    {"CVE-2026-33223",
     "the header Nats-Request-Info can be forged",
     ADVISORY_HELD,
     "Muster takes nothing from it: the subject proves the sender",
     {{{2, 0, 0}, {2, 11, 15}}, {{2, 12, 0}, {2, 12, 6}}}},
    {"CVE-2023-46129",
     "what auth callout encrypts with an xkey is readable",
     ADVISORY_LISTENER,
     "set no xkey on this server",
     {{{2, 10, 0}, {2, 10, 4}}}},
    {"CVE-2023-47090",
     "an account $SYS beside a block authorization lets anybody in",
     ADVISORY_LISTENER,
     "nats-config --static writes an account for every user",
     {{{2, 2, 0}, {2, 9, 23}}, {{2, 10, 0}, {2, 10, 2}}}},
    {"CVE-2026-27889",
     "a frame on the websocket listener crashes the server before any login",
     ADVISORY_LISTENER,
     "nats-config writes no websocket listener; add none on this server",
     {{{2, 2, 0}, {2, 11, 14}}, {{2, 12, 0}, {2, 12, 5}}}},
    {"CVE-2026-27571, CVE-2026-33219",
     "the websocket listener runs out of memory before any login",
     ADVISORY_LISTENER,
     "nats-config writes no websocket listener; add none on this server",
     {{{2, 2, 0}, {2, 11, 15}}, {{2, 12, 0}, {2, 12, 6}}}},
    {"CVE-2026-29785, CVE-2026-33218, GHSA-3g5q-cfh2-cq67",
     "the leafnode listener crashes before any login",
     ADVISORY_LISTENER,
     "nats-config writes no leafnode listener; add none on this server",
     {{{2, 0, 0}, {2, 11, 17}}, {{2, 12, 0}, {2, 12, 8}}}},
    {"CVE-2026-33215, CVE-2026-33216, CVE-2026-33217 and later",
     "MQTT passes the permissions and shows passwords",
     ADVISORY_LISTENER,
     "nats-config writes no MQTT listener; add none on this server",
     {{{2, 2, 0}, {2, 12, 12}}, {{2, 14, 0}, {2, 14, 3}}}},
};
enum { TABLE_N = sizeof table / sizeof *table };

static bool is_in(const struct bus_version *version, const struct advisory *a)
{
    for (int i = 0; i < ADVISORY_RANGES && a->ranges[i].fixed.major; i++)
        if (bus_version_compare(version, &a->ranges[i].from) >= 0 && bus_version_compare(version, &a->ranges[i].fixed) < 0)
            return true;
    return false;
}

const struct advisory *advisory_next(const struct bus_version *version, const struct advisory *after)
{
    for (const struct advisory *a = after ? after + 1 : table; a < table + TABLE_N; a++)
        if (is_in(version, a))
            return a;
    return NULL;
}

bool advisory_is_open(const struct advisory *advisory, bool is_static)
{
    return advisory->when == ADVISORY_OPEN || (advisory->when == ADVISORY_OPERATOR && !is_static);
}

/* ---- a broker's own servers --------------------------------------------------------------------------------------------------- */

struct advisories {
    struct broker *broker;
    struct health_component *health;
    pthread_mutex_t lock; /* guards these: links come up on threads of their own */
    struct {
        bool known;
        struct bus_version version;
    } servers[BUS_N_LINKS];
};

/* Ids of those that are open, or of the others. */
static void put_ids(struct buf *out, const struct bus_version *version, bool is_static, bool open)
{
    const char *between = "";

    for (const struct advisory *a = advisory_next(version, NULL); a; a = advisory_next(version, a)) {
        if (advisory_is_open(a, is_static) != open)
            continue;
        buf_printf(out, "%s%s", between, a->id);
        if (open)
            buf_printf(out, " (%s; %s)", a->what, a->answer);
        between = ", ";
    }
}

/* The worst comes first: a health text is cut at its bound. */
static void say_affected(struct advisories *as, const struct bus_version *version)
{
    bool is_static = broker_config(as->broker)->nats.user != NULL;
    struct buf open = {0}, held = {0};

    put_ids(&open, version, is_static, true);
    put_ids(&held, version, is_static, false);
    health_set(as->health, MUSTER_HEALTH_DEGRADED, "server_advisories",
               "nats-server %d.%d.%d has known weaknesses%s%s%s%s; `muster doctor` tells more", version->major, version->minor,
               version->patch, open.len ? ": " : "", open.len ? open.data : "", held.len ? "; held off, or not used: " : "",
               held.len ? held.data : "");
    buf_done(&open);
    buf_done(&held);
}

/* The oldest server of the links: a cluster is as good as its worst. The lock is held. */
static const struct bus_version *oldest(const struct advisories *as)
{
    const struct bus_version *found = NULL;

    for (int i = 0; i < BUS_N_LINKS; i++)
        if (as->servers[i].known && (!found || bus_version_compare(&as->servers[i].version, found) < 0))
            found = &as->servers[i].version;
    return found;
}

void advisories_on_link(struct advisories *as, int link)
{
    const struct bus_version *version;
    struct bus_version is;

    pthread_mutex_lock(&as->lock);
    as->servers[link].known = bus_server_version(broker_bus(as->broker), link, &is) == 0;
    as->servers[link].version = is;
    version = oldest(as);
    if (!version)
        health_set(as->health, MUSTER_HEALTH_OK, "ok", "no server tells its version");
    else if (advisory_next(version, NULL))
        say_affected(as, version);
    else
        health_set(as->health, MUSTER_HEALTH_OK, "ok", "no weakness of nats-server %d.%d.%d is known", version->major, version->minor,
                   version->patch);
    pthread_mutex_unlock(&as->lock);
}

int advisories_new(struct broker *broker, struct advisories **ret_advisories)
{
    struct advisories *as = calloc(1, sizeof *as);
    int err = as ? health_add(broker_health(broker), HEALTH_SERVER, "nats", false, &as->health) : MUSTER_ENOMEM;

    if (err) {
        free(as);
        return err;
    }
    as->broker = broker;
    ASSERT(pthread_mutex_init(&as->lock, NULL) == 0);
    *ret_advisories = as;
    return 0;
}

void advisories_free(struct advisories *as)
{
    if (!as)
        return;
    (void)pthread_mutex_destroy(&as->lock);
    free(as);
}
