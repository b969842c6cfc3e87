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
#include "core/loader.h"
#include "core/settings.h"

struct delivery;    /* inbox.h */
struct host_stream; /* host_stream.h */
struct host_read;   /* host_read.c */
struct host_follow; /* host_follow.c */
struct host_event;  /* host_time.c: a timer or a watched descriptor */
struct metric;
struct host_lease;  /* host_lease.c */
struct departures_ear;
struct kv_sweeper;  /* host_kv_sweep.c */
struct lease_metrics;
struct sys_listing;     /* host_sys.c */
struct desk;            /* host_login.c */
struct sql;
struct sql_call;

enum { INSTANCE_MAGIC = 0x4d535452, INSTANCE_WHY_SIZE = 1024 };

struct instance {
    struct muster_host host; /* first: the plugin's pointer is the instance */
    uint32_t magic, number;
    struct broker *broker;
    const struct muster_plugin *plugin;
    const struct config_plugin *how; /* as at the start: what it is called, where it runs; its settings are in_force */
    struct stamp file; /* as it was loaded: a library that is in the process stays, whatever becomes of its file */
    struct lane *lane; /* owned */
    struct lane_crumb crumb;
    char area[140]; /* "cdc.main": who speaks in the log */
    void *self;     /* the plugin's */
    bool created, started;
    bool ending; /* lane only: what the plugin asks for from now on is refused */
    bool ended;  /* destroy() has returned; set on the lane, read there or after its end */
    int64_t drain_until_ns;
    struct health_component *health;

    pthread_mutex_t lock; /* guards reason */
    char reason[512];
    struct plugin_settings in_force; /* written on the lane while `reloading` is set, by others not read then */
    const struct plugin_settings *taking; /* lane only: what reload() is to take over, while it runs */
    atomic_bool reloading;    /* set by the main thread, cleared where the takeover ends; its caller may have given it up */
    struct metric *reload_failures;

    /* Lane only. */
    uint64_t next_id;
    struct host_event *events;
    struct host_stream *streams;
    struct host_read *reads;
    bool reads_starved; /* one found no room among those that wait */
    struct host_follow *follows;
    struct host_lease *leases;
    struct departures_ear *departures;   /* NULL until the first lease */
    struct lease_metrics *lease_metrics; /* NULL until the first lease */
    uint32_t lease_replicas, lease_asked; /* of the bucket of leases: at least so many, and asked for; 0: not known */
    int64_t lease_grow_ns;               /* not before is it asked again */
    bool leases_over;                    /* nothing is read or written for them any more */
    struct kv_sweeper *sweeper;          /* NULL until something is to be swept */
    size_t n_kv_bytes;                   /* of values that are on their way to a bucket */
    bool kv_starved;                     /* a put found no room among them */
    struct sys_listing *listings;
    struct desk *desk; /* NULL until it serves logins */
    uint32_t n_corked; /* messages that were published and lie in the outbox until more have come, or the callback returns */
    struct delivery *delivering; /* what the message callback that runs was given */
    struct sql *sql; /* NULL until the first statement is prepared */
    struct metric *sql_refused; /* with sql */
    bool sql_pressed;  /* its statements are nearly full */
    bool told_pressed; /* on_pause() was called after on_resume() */
    int64_t refused_ns; /* a stream or bucket was refused and this was logged; 0: never */
    struct map positions; /* every text that config->position() has given out, by itself */

    atomic_int n_posted;       /* posts that wait */
    atomic_int n_logins;       /* that wait for an answer */
    atomic_size_t n_login_bytes;
    atomic_int n_leases;       /* of `leases`; those that are being released count */
    atomic_bool wants_writable; /* got MUSTER_EAGAIN from a link */
    struct inbox *inbox;       /* messages that wait for the lane; dispatch.c */
};

static inline struct instance *instance_of(const struct muster_host *host)
{
    return host->impl;
}

/* True when a [lane] function was called on the lane. Otherwise it is said, and debug builds abort. */
bool instance_is_here(const struct instance *in, const char *function);
/* The same for an [init] function: true inside create(). */
bool instance_in_create(const struct instance *in, const char *function);
/* For what begins something: 0, MUSTER_EINVAL as above or in create(), MUSTER_ELINK when the instance ends. */
int instance_may_begin(const struct instance *in, const char *function);
#define ON_LANE(in) instance_is_here((in), __func__)
#define IN_CREATE(in) instance_in_create((in), __func__)
#define MAY_BEGIN(in) instance_may_begin((in), __func__)
/* What came of sending on a link is given to the plugin: on_writable follows MUSTER_EAGAIN. Returns err. */
int instance_sent(struct instance *in, int link, int err);

/* Bracket a callback of the plugin; subject may be NULL. */
static inline void instance_enter(struct instance *in, const char *callback, const char *subject)
{
    lane_enter(in->lane, &in->crumb, callback, subject);
}

/* Send what was published without waking the link. */
void instance_uncork(struct instance *in);

static inline void instance_leave(struct instance *in)
{
    lane_leave(in->lane);
    if (in->n_corked)
        instance_uncork(in);
}

bool instance_has_capability(const struct instance *in, const char *capability);
/* Make instance `lane` of n_lanes: bind its configuration and call create(). *ret_in is NULL on failure, which has been logged. */
int instance_new(struct broker *broker, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane,
                 struct instance **ret_in);
/* MUSTER_ETIME: start() has not returned in time. */
int instance_start(struct instance *in);
/* The settings in force, good until the next instance_reload(). NULL: an earlier one is not through. Main thread. */
const struct plugin_settings *instance_settings(const struct instance *in);
/* Have the instance take over the settings of `how` in config, all of whose changes are reloadable; the one way to it. Waits until
 * deadline_ns. On failure it goes on with what it had, and why says the reason. MUSTER_EABI: it has no reload(), or is in a child whose
 * walls keep it from a file that they name; MUSTER_EAGAIN: an earlier one is not through; MUSTER_ETIME: its lane hangs, and nothing was
 * changed, unless why says that reload() still runs; else what reload() gave. Main thread. */
int instance_reload(struct instance *in, const struct config *config, const struct config_plugin *how, int64_t deadline_ns,
                    char why[INSTANCE_WHY_SIZE]);
/* Have the plugin finish what it holds. MUSTER_ETIME: its lane hangs. */
int instance_drain(struct instance *in, int64_t deadline_ns);
/* Cancel what is open, destroy the plugin's part, end the lane. MUSTER_ETIME: it hangs, and the instance cannot be freed. */
int instance_end(struct instance *in, int64_t deadline_ns);
void instance_free(struct instance *in);
/* Tell the plugin, on its lane; any thread. */
void instance_tell_writable(struct instance *in);
/* The same where what refused is the instance's own, and no link. */
void instance_has_room(struct instance *in);
void instance_tell_pressure(struct instance *in); /* an outbox or its statements are nearly full, or not any more */
void instance_tell_link(struct instance *in, bool up);
void instance_tell_tables(struct instance *in);

/* metrics->make(), at any time: of a child that is started again. */
int instance_make_metric(struct instance *in, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric);

/* The service tables, and what they leave behind when an instance ends. */
extern const struct muster_bus host_bus;
extern const struct muster_stream host_stream;
extern const struct muster_kv host_kv;
extern const struct muster_lease host_lease;
extern const struct muster_sys host_sys;
extern const struct muster_logins host_logins;
extern const struct muster_roster host_roster;
extern const struct muster_timer host_timer;
extern const struct muster_io host_io;
extern const struct muster_tenants host_tenants;
extern const struct muster_config host_config;
extern const struct muster_metrics host_metrics;
extern const struct muster_sql host_sql;
/* exec() by the tenant's name; fn is the plugin's. */
int host_sql_run(struct instance *in, const struct sql_call *call);
/* prepare() for the broker itself, which may do so at any time. On the lane. */
int host_sql_prepare(struct instance *in, const char *name, int kind, const char *statement, uint64_t *ret_stmt);
void host_time_done(struct instance *in);   /* on the lane */
void host_stream_done(struct instance *in); /* on the lane */
void host_kv_done(struct instance *in);     /* on the lane */
/* Until when it is held, by clock_boot_ns(); 0: it is not. On the lane. */
void host_lease_on_link(struct instance *in); /* a link came or went; [lane] */
int64_t host_lease_until(struct instance *in, uint64_t lease);
/* Release every lease; n_leases says when that is through. Then forget those that could not be. On the lane. */
void host_lease_end(struct instance *in);
void host_lease_done(struct instance *in);
void host_sql_done(struct instance *in);    /* on the lane */
void host_bus_done(struct instance *in);    /* on the lane */
void host_sys_done(struct instance *in);    /* on the lane */
void host_roster_done(struct instance *in); /* on the lane */
/* Who kept the roster is gone: what it said last holds no longer. On the lane, after destroy(). */
void host_roster_leave(struct instance *in);
void host_login_done(struct instance *in);  /* on the lane, after host_sql_done() */
/* Register the statement that logins need; also before serve(). On the lane. */
int host_login_prepare(struct instance *in, uint64_t *ret_stmt);
/* Show the plugin one request, which came at recv_ns. False: it cannot be read, waited too long, or nobody serves any more. On the lane. */
bool host_login_take(struct instance *in, struct bus_msg *msg, int64_t recv_ns);
/* The plugin is told that a connection has ended: no listing shows it any more. On the lane. */
void host_sys_saw(struct instance *in, const char *server, uint64_t client);

#endif
