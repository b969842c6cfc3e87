/*
 * presence/death.h - who is gone: what the parts about death and sessions keep, and the seam between them and the rest of presence.
 *
 * Parts    death.c        their life, and the tick
 *          wheel.c, contacts.c  deadlines; who is connected where
 *          connections.c  what muster.sys/1 tells of connections and servers; grace
 *          silence.c      deadlines of beats on a timer wheel; late lanes and links that were away move them
 *          suspects.c     silence of many at once, lost servers, gaps: suspect, roll call, and who is gone after it; stuck ones
 *          mirror.c       sessions as public.agent_sessions has them, written a moment later
 *          sessions.c     the roster from there after a restart; session_verbs.c: the service session
 *          retention.c    sessions that ended long ago are deleted
 *          stats.c        stats.hub
 *
 * Seam     Every broker keeps connections and deadlines of all agents, so that a shard that moves needs no time to learn them; only where
 *          tenancy_leads() is true anything is asked for, by change_*() of presence.h.
 */
#ifndef MUSTER_PRESENCE_DEATH_H
#define MUSTER_PRESENCE_DEATH_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/map.h"
#include "presence/contacts.h"
#include "presence/wheel.h"

struct presence;
struct tenancy;
struct agent;
struct shard;
struct session_row;
struct session_store;

enum { /* flags of an agent */
    DEATH_OVERDUE = 1u << 0, /* its beats are missing, though not for long enough; it is counted so with its server */
    DEATH_GONE = 1u << 1,    /* its last connection has ended */
    DEATH_KICKED = 1u << 2,  /* by somebody's will */
    DEATH_DOUBT = 1u << 3,   /* suspect, and to be declared gone at doubt_ns */
    DEATH_STUCK = 1u << 4,   /* suspect although it beats */
};

/* Part of struct agent. */
struct agent_death {
    struct wheel_entry entry; /* when it is looked at next */
    struct contact *contact;  /* NULL: it has not been connected since it joined */
    struct server *server;    /* with which it is counted: where it was connected last; never NULL once it has joined */
    int64_t met_ns;           /* when it connected last: as good a sign of life as a beat */
    int64_t gone_ns, doubted_ns, doubt_ns, stuck_ns; /* since when; since when, until when; which task_ns */
    const char *why;          /* of its doubt */
    uint8_t flags;            /* DEATH_* */
    bool joined;
};

/* Part of struct tenancy. */
struct tenancy_death {
    int64_t floor_ns;  /* silence counts from here at the earliest: what its agents said before was heard late, or found no room */
    int64_t called_ns; /* the last roll call */
    bool call_due;
    struct session_row *rows; /* mirror.c: a ring of those that wait to be written; NULL: none */
    struct map by_session;
    bool writing;
    int64_t not_before_ns;
};

/* Whose sessions that ended long ago are deleted next. */
struct retention {
    uint64_t stmt, purged; /* purged: metric */
    int64_t next_ns;
    size_t at; /* in the tenancies */
    struct tenancy *again; /* has more; NULL: nobody */
    bool asking, any; /* any: somebody's were, in this round */
};

/* Part of struct presence. */
struct death {
    const struct muster_sys *sys;
    const struct muster_sql *sql;
    struct wheel wheel;
    struct contacts contacts;
    struct server nowhere; /* counts the agents that no connection is known of */
    int64_t tick_ns;       /* of the last look */
    int64_t alarm_ns;      /* when there is a look between two ticks; 0: none */
    int64_t floor_ns;      /* silence counts from here at the earliest: we could not hear before */
    int64_t calm_ns;       /* nobody is declared gone until then */
    int64_t list_ns;       /* when to ask the servers who is connected; 0: no need */
    int64_t listed_ns;     /* when they were asked last */
    int64_t gap_ns;        /* up to when connections may have come without a word */
    bool listing, calls_due, was_down, done;
    uint64_t doubts, calls, vanished, lost_servers, refused; /* metrics */
    struct session_store *store;                  /* mirror.c */
    struct retention retention;
    uint64_t present, enrol, set_status, active, begin, answered; /* statements */
};

/* ---- what presence calls ---- */

/* In create(): services, metrics, statements. death_done() comes also when this has failed. */
int death_prepare(struct presence *p);
/* In start(): subscriptions (rpc.*.session.*, rpc.*.stats.hub), timers, muster.sys watch. */
int death_start(struct presence *p);
void death_drain(struct presence *p);
void death_done(struct presence *p);
void death_link(struct presence *p, bool up);
/* There are tenants that were not known before, or some are gone. */
void death_tenants(struct presence *p);
/* The agent is new here, or has another session: a->beat_ns is set. Also for those that an event, a list or agent_sessions tells of. */
void death_joined(struct agent *a);
/* A beat, hello or status of it was heard, lag_ns after it came; a->beat_ns is set. The hot path. */
void death_heard(struct agent *a, int64_t lag_ns);
/* Status, task or suspicion changed, as stored. */
void death_changed(struct agent *a);
/* It is about to be freed. */
void death_left(struct agent *a);
/* The shard is held here now, and the roster is complete; or is no longer. Whatever was asked for before is void: a->asked is 0. */
void death_leads(struct shard *s, bool leads);
/* Just before a leave that was asked for is appended: is it still so? false drops it. */
bool death_still(const struct agent *a, const char *reason);
/* Its beats are missing, and with the next one it is gone: see common/late.h. */
bool death_is_late(const struct agent *a);

/* An event of a shard that is held here was stored: kind is KIND_*, body the JSON of the agent as `get` shows it, reason NULL where
 * there is none. session: the one that it is about; with KIND_JOIN, replaced is the session before, or NULL. */
struct session_event {
    struct tenancy *tenancy;
    int kind;
    const char *agent, *session, *replaced, *reason;
    struct muster_bytes body;
    uint64_t epoch; /* of the shard: what carries an older one is late */
};
void sessions_stored(struct presence *p, const struct session_event *event);

/* Nobody here knows the roster of the shard's tenants: read those that were active from PostgreSQL. For each agent_restore(), then
 * shard_loaded() once, maybe within this call. */
void sessions_load(struct shard *s);

/* ---- what presence offers for that ---- */

/* An agent whose body stands in PostgreSQL, unless it is present already. It is suspect until it is heard of. */
void agent_restore(struct shard *s, const struct muster_tenant *tenant, struct muster_bytes body);
/* code 0, or MUSTER_E*: it is asked again after a moment. */
void shard_loaded(struct shard *s, int code);

/* ---- between these parts ---- */

/* death.c */
/* Who is gone when its grace ends between two ticks is told of then: what is due so is looked for. */
void death_hurry(struct presence *p, int64_t now_ns);

/* connections.c */
int conn_start(struct presence *p);
void conn_tick(struct presence *p, int64_t now_ns);
/* Have a look at the agent's connections once more: it has joined. */
void conn_join(struct agent *a);
/* Whether it is sure that an agent which is gone has not come back unseen. */
bool conn_is_sure(const struct agent *a);
/* Whether the agent, of which no connection is known, may be on a server that is out of sight. */
bool conn_may_be_hidden(const struct agent *a);

/* silence.c */
/* A sign of life. */
void silence_met(struct agent *a);
/* Look at the agent at once, instead of when the wheel says. */
void silence_look(struct agent *a);
/* Count it with that server from now on. */
void silence_move(struct agent *a, struct server *server);
void silence_tick(struct presence *p, int64_t now_ns);

/* suspects.c */
/* True when so many of the server's agents are silent that the reason is hardly in them. */
bool suspects_many(const struct server *server);
/* Tell that it may be gone, and declare it gone at until_ns if nothing is heard. reason as with change_suspect(). Only where the tenant is led. */
void suspects_doubt(struct agent *a, const char *reason, int64_t until_ns);
/* How long one is waited for that has been called: until when. */
int64_t suspects_wait(const struct presence *p, int64_t now_ns);
/* It was heard: no doubt any more. */
void suspects_trust(struct agent *a);
/* From when on it counts as stuck, if it says nothing of its task before; INT64_MAX: never. */
int64_t suspects_stuck_ns(const struct agent *a);
/* Whether it has become stuck. */
void suspects_look_stuck(struct agent *a, int64_t now_ns);
/* What is told of the agent and what is thought of it differ; ask for what makes them agree, where nothing is asked for yet. */
bool suspects_unsettled(const struct agent *a);
void suspects_settle(struct agent *a);
void suspects_tick(struct presence *p, int64_t now_ns);

/* mirror.c */
int mirror_prepare(struct presence *p);
void mirror_tick(struct presence *p, int64_t now_ns);
void mirror_done(struct presence *p);

/* retention.c */
int retention_prepare(struct presence *p);
void retention_tick(struct presence *p, int64_t now_ns);

/* answers.c */
int answers_prepare(struct presence *p);

/* session_verbs.c */
int session_verbs_prepare(struct presence *p);
int session_verbs_start(struct presence *p);

/* sessions.c, stats.c */
int sessions_prepare(struct presence *p);
int sessions_start(struct presence *p);
void sessions_tick(struct presence *p, int64_t now_ns);
void sessions_drain(struct presence *p);
void sessions_forget(struct tenancy *t); /* the tenant is gone, or the tenancy about to be freed */
void sessions_done(struct presence *p);
int stats_start(struct presence *p);

#endif
