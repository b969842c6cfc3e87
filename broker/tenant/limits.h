/*
 * tenant/limits.h - the one table of what a tenant may be held to: names, bounds and what they mean.
 *
 * Shape    `muster tenant limits` takes these names, muster.tenants.limits keeps them as JSON numbers, `limits:` of the configuration
 *          gives what holds for tenants without one of their own, and the brokers enforce them. Counts of objects are declared by the
 *          services that hold them (tenants_declare()) and are called <service>.<name>; they are kept beside these.
 * Values   -1: none. None by default, but for subscriptions and watches.
 * Threads  Any; constants.
 */
#ifndef MUSTER_TENANT_LIMITS_H
#define MUSTER_TENANT_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(ID, name, min, max, kind, least in the configuration (0: none), its default, help) */
#define TENANT_LIMITS(X)                                                                                                                  \
    X(REQUESTS_PER_S, requests_per_s, 1, 1000000, INT, 0, "0", "Requests to services a second, of all its agents together.")              \
    X(BURST, burst, 1, 1000000, INT, 0, "0", "Requests at once; needs requests_per_s, what a second gives stands in for it.")             \
    X(BYTES_PER_S, bytes_per_s, 1024, INT64_C(1) << 40, BYTES, 0, "0", "Bytes of requests a second, of all its agents together.")         \
    X(IN_FLIGHT, in_flight, 1, 65536, INT, 0, "0", "Requests that wait for their answer, in one broker.")                                 \
    X(AGENT_REQUESTS_PER_S, agent_requests_per_s, 1, 1000000, INT, 0, "0", "Requests a second of one agent, to one broker.")              \
    X(AGENT_BYTES_PER_S, agent_bytes_per_s, 1024, INT64_C(1) << 40, BYTES, 0, "0", "Bytes of requests a second of one agent, to one broker.")\
    X(AGENT_IN_FLIGHT, agent_in_flight, 1, 65536, INT, 0, "0", "Requests of one agent that wait for their answer, in one broker.")        \
    X(QUEUED_MESSAGES, queued_messages, 1, 10000000, INT, 0, "0", "Messages that wait for a plugin, in one broker.")                      \
    X(QUEUED_BYTES, queued_bytes, 65536, INT64_C(1) << 40, BYTES, 0, "0", "The same in bytes.")                                           \
    X(CONNECTIONS, connections, 1, 1000000, INT, 0, "0", "Connections to NATS; the newest above it are cut.")                             \
    X(SUBSCRIPTIONS, subscriptions, 1, 1000000, INT, 1, "500", "Subscriptions of one connection; of one tenant, who has more is cut.")    \
    X(OUT_BYTES, out_bytes, 65536, INT64_C(1) << 40, BYTES, 0, "0", "Bytes a second that NATS delivers to its agents; over it its connections are cut.")\
    X(STREAM_BYTES, stream_bytes, 65536, INT64_C(1) << 50, BYTES, 0, "0", "Bytes of its history; the oldest go.")                         \
    X(STREAM_MESSAGES, stream_messages, 1, INT64_C(1) << 40, INT, 0, "0", "Messages of its history, 100000 without it; the oldest go.")   \
    X(WATCHES, watches, 0, 1000000, INT, 1, "1000", "Watches that may be open.")

#define TENANT_LIMIT_ID(id, ...) TENANT_##id,
enum { TENANT_LIMITS(TENANT_LIMIT_ID) TENANT_N_LIMITS };
#undef TENANT_LIMIT_ID

enum {
    LIMITS_MAX_OBJECTS = 32, /* counts that the services of one broker may declare */
    LIMIT_NAME_SIZE = 130    /* <service>.<name> */
};
#define LIMITS_MAX_COUNT (INT64_C(1) << 53) /* of objects: what a JSON number holds exactly */

struct limit_key {
    const char *name;
    int64_t min, max;
    bool bytes; /* the value may have a unit */
    const char *help;
};
extern const struct limit_key limit_keys[TENANT_N_LIMITS];

/* TENANT_…, or -1. */
int limit_find(const char *name, size_t len);
/* True for <service>.<name>, both names of INTERFACE 1. */
bool limit_is_object(const char *name, size_t len);

#endif
