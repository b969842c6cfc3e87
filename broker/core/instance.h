/*
 * core/instance.h - one running instance of a plugin: what stands behind its struct muster_host. Private to core/.
 *
 * Threads  Fields are written at create and start, or on the instance's lane; what other threads touch is atomic or under `lock`.
 */
#ifndef MUSTER_CORE_INSTANCE_H
#define MUSTER_CORE_INSTANCE_H

#include <muster/plugin.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/map.h"
#include "config/config.h"
#include "core/broker.h"
#include "core/lane.h"

struct delivery;    /* inbox.h */
struct host_stream; /* host_stream.c */
struct host_event;  /* host_time.c: a timer or a watched descriptor */
struct sql;

enum { INSTANCE_MAGIC = 0x4d535452 };

struct instance {
    struct muster_host host; /* first: the plugin's pointer is the instance */
    uint32_t magic;
    struct broker *broker;
    const struct muster_plugin *plugin;
    const struct config_plugin *how;
    struct lane *lane; /* owned */
    struct lane_crumb crumb;
    char area[140]; /* "cdc.main": who speaks in the log */
    void *config;   /* of plugin->config_size bytes; owned */
    void *self;     /* the plugin's */
    bool created, started;
    bool ending; /* lane only: what the plugin asks for from now on is refused */
    bool ended;  /* destroy() has returned; set on the lane, read there or after its end */
    int64_t drain_until_ns;
    struct health_component *health;

    pthread_mutex_t lock; /* guards reason */
    char reason[512];

    /* Lane only. */
    uint64_t next_id;
    struct host_event *events;
    struct host_stream *streams;
    struct delivery *delivering; /* what the message callback that runs was given */
    struct sql *sql; /* NULL until the first statement is prepared */
    struct map positions;

    atomic_int n_posted;       /* posts that wait */
    atomic_bool wants_writable; /* got MUSTER_EAGAIN from a link */
    struct inbox *inbox;       /* messages that wait for the lane; dispatch.c */
};

static inline struct instance *instance_of(const struct muster_host *host)
{
    return host->impl;
}

/* True when a [lane] function was called on the lane. Otherwise it is said, and debug builds abort. */
bool instance_is_here(const struct instance *in, const char *function);
/* For what begins something: 0, MUSTER_EINVAL as above or in create(), MUSTER_ELINK when the instance ends. */
int instance_may_begin(const struct instance *in, const char *function);
#define ON_LANE(in) instance_is_here((in), __func__)
#define MAY_BEGIN(in) instance_may_begin((in), __func__)
/* A link refused with MUSTER_EAGAIN: on_writable follows. */
void instance_starve(struct instance *in, int link);

/* Bracket a callback of the plugin; subject may be NULL. */
static inline void instance_enter(struct instance *in, const char *callback, const char *subject)
{
    lane_enter(in->lane, &in->crumb, callback, subject);
}

static inline void instance_leave(struct instance *in)
{
    lane_leave(in->lane);
}

bool instance_has_capability(const struct instance *in, const char *capability);
/* Make instance `lane` of n_lanes: bind its configuration and call create(). *ret_in is NULL on failure, which has been logged. */
int instance_new(struct broker *broker, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane,
                 struct instance **ret_in);
/* MUSTER_ETIME: start() has not returned in time. */
int instance_start(struct instance *in);
/* Have the plugin finish what it holds. MUSTER_ETIME: its lane hangs. */
int instance_drain(struct instance *in, int64_t deadline_ns);
/* Cancel what is open, destroy the plugin's part, end the lane. MUSTER_ETIME: it hangs, and the instance cannot be freed. */
int instance_end(struct instance *in, int64_t deadline_ns);
void instance_free(struct instance *in);
/* Tell the plugin, on its lane; any thread. */
void instance_tell_writable(struct instance *in);
void instance_tell_link(struct instance *in, bool up);
void instance_tell_tables(struct instance *in);

/* The service tables, and what they leave behind when an instance ends. */
extern const struct muster_bus host_bus;
extern const struct muster_stream host_stream;
extern const struct muster_kv host_kv;
extern const struct muster_timer host_timer;
extern const struct muster_io host_io;
extern const struct muster_tenants host_tenants;
extern const struct muster_config host_config;
extern const struct muster_metrics host_metrics;
extern const struct muster_sql host_sql;
void host_time_done(struct instance *in);   /* on the lane */
void host_stream_done(struct instance *in); /* on the lane */
void host_sql_done(struct instance *in);    /* on the lane */
void host_bus_done(struct instance *in);    /* on the lane */

#endif
