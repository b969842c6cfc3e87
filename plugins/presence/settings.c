/*
 * The settings of presence, and what of them the environment says: FEDERATION_HEARTBEAT_INTERVAL, in milliseconds, which libraries read, too.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "presence/presence.h"

static const int64_t heartbeat_min_ns = 100 * CLOCK_MS, heartbeat_max_ns = 600 * CLOCK_S;

#define FIELD(member) .offset = offsetof(struct presence_config, member)
const struct muster_option presence_options[PRESENCE_OPTIONS_N] = {
    {.key = "heartbeat", .help = "How often agents beat.", .type = MUSTER_T_DURATION_NS, .def = "5s", .min = 100 * CLOCK_MS,
     .max = 600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(heartbeat_ns)},
    {.key = "dead_after", .help = "An agent without a beat for that long is gone (three heartbeats).", .type = MUSTER_T_DURATION_NS,
     .min = 300 * CLOCK_MS, .max = 3600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(dead_after_ns)},
    {.key = "grace", .help = "An agent whose last connection ended is gone after that, unless it is back.", .type = MUSTER_T_DURATION_NS,
     .def = "2s", .min = 0, .max = 600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(grace_ns)},
    {.key = "stuck_after", .help = "An agent that is busy with one task for that long without a word of it is suspect (0s: never).",
     .type = MUSTER_T_DURATION_NS, .def = "0s", .min = 0, .max = INT64_C(7) * 86400 * CLOCK_S, .flags = MUSTER_O_RELOADABLE,
     FIELD(stuck_after_ns)},
    {.key = "roll_call", .help = "Within which time agents answer a roll call.", .type = MUSTER_T_DURATION_NS, .def = "5s",
     .min = 100 * CLOCK_MS, .max = 600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE, FIELD(roll_call_ns)},
    {.key = "lost_after", .help = "Agents of a NATS server that is lost are suspect for that long before they are gone.",
     .type = MUSTER_T_DURATION_NS, .def = "60s", .min = 300 * CLOCK_MS, .max = 3600 * CLOCK_S, .flags = MUSTER_O_RELOADABLE,
     FIELD(lost_after_ns)},
    {.key = "digest_above", .help = "More joins, leaves or changes of a tenant that wait at once are told as one event.", .type = MUSTER_T_INT, .def = "100",
     .min = 1, .max = INT64_MAX, .flags = MUSTER_O_RELOADABLE, FIELD(digest_above)},
    {.key = "count_above", .help = "Tenants with more agents hear evt.presence.count._ as well.", .type = MUSTER_T_INT, .def = "1000", .min = 0,
     .max = INT64_MAX, .flags = MUSTER_O_RELOADABLE, FIELD(count_above)},
    {.key = "replicas", .help = "Copies of the streams PRES_0 to PRES_15 in the NATS cluster.", .type = MUSTER_T_INT, .def = "1", .min = 1,
     .max = 5, FIELD(replicas)},
    {.key = "keep_sessions", .help = "Rows of agent_sessions are deleted that long after the session ended (0s: never).",
     .type = MUSTER_T_DURATION_NS, .def = "30d", .min = 0, .max = INT64_C(3650) * 86400 * CLOCK_S, .flags = MUSTER_O_RELOADABLE,
     FIELD(keep_sessions_ns)},
};

/* 0, also where it is not set; MUSTER_EINVAL with a reason. */
static int read_environment(const struct muster_host *host, int64_t *heartbeat_ns)
{
    const char *text = getenv("FEDERATION_HEARTBEAT_INTERVAL");
    char *end;
    long long ms;

    if (!text || !*text)
        return 0;
    errno = 0;
    ms = strtoll(text, &end, 10);
    if (errno || *end || ms < heartbeat_min_ns / CLOCK_MS || ms > heartbeat_max_ns / CLOCK_MS)
        return host->fail(host, MUSTER_EINVAL, "heartbeat: FEDERATION_HEARTBEAT_INTERVAL is \"%.32s\", expected %lld to %lld milliseconds", text,
                          (long long)(heartbeat_min_ns / CLOCK_MS), (long long)(heartbeat_max_ns / CLOCK_MS));
    *heartbeat_ns = ms * CLOCK_MS;
    return 0;
}

int settings_settle(const struct muster_host *host, const struct presence_config *given, struct presence_config *ret_settled)
{
    struct presence_config c = *given;
    int err = read_environment(host, &c.heartbeat_ns);

    if (err)
        return err;
    if (!c.dead_after_ns)
        c.dead_after_ns = 3 * c.heartbeat_ns;
    if (c.dead_after_ns < 2 * c.heartbeat_ns)
        return host->fail(host, MUSTER_EINVAL, "dead_after: %lld ms is below twice the heartbeat of %lld ms: one late beat would be a death",
                          (long long)(c.dead_after_ns / CLOCK_MS), (long long)(c.heartbeat_ns / CLOCK_MS));
    *ret_settled = c;
    return 0;
}

int settings_check(const struct muster_host *host, const void *config)
{
    struct presence_config settled;

    if (host->n_lanes != 1)
        return host->fail(host, MUSTER_EINVAL, "lanes: %u: the roster of a broker has one writer, expected 1", host->n_lanes);
    return settings_settle(host, config, &settled);
}
