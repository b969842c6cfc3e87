/*
 * presence/presence.h - one instance of the presence plugin: what its parts share. Everything runs on the instance's lane.
 *
 * Parts    tenants.c      tenants
 *          agents.c       their agents: the small struct that presence keeps of each; the rest is in muster.roster/1
 *          agent.c        an agent as a body: written for answers and events, read from hello, events and lists
 *          shards.c       the lease and the fenced stream of each of 16 shards; taking one over
 *          changes.c      what is to happen, in order a tenant, round after round; decide.c: what an event of it is
 *          flights.c      one event or digest after another, appended, then applied
 *          answers.c      who asked is told, and told the same when he asks again; request.c: what PostgreSQL says of a request
 *          apply.c        an event that is stored takes effect here
 *          follow.c       the events of shards that others hold; gaps, and the list that mends them
 *          verbs.c        who asks what; beats; asks.c: what is asked while the shard is being taken over
 *          lists.c        list, get, count
 *          settings.c     options and environment; wellbeing.c: what the instance says of itself
 *          notices.c      evt.presence.count._ and the head notices
 *          death.h        who is gone: connections, silence, suspects, and the mirror of sessions in PostgreSQL
 *
 * Order    Only the holder of a tenant's shard decides. What it decides waits in the tenancy's queue, is appended to PRES_<n>, and takes
 *          effect when it is stored: what `list` shows is what was told, under the epoch and seq that it names. Whoever follows applies the
 *          same events. An event has all of the agent, so that applying a run of events a second time ends in the same state.
 */
#ifndef MUSTER_PRESENCE_PRESENCE_H
#define MUSTER_PRESENCE_PRESENCE_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/map.h"
#include "base/name.h"
#include "base/table.h"
#include "common/shares.h"
#include "presence/death.h"

#define PRESENCE_ITSELF "_p_presence" /* who asks when a broker asks another one */
#define PRESENCE_STREAM "Muster-Stream"   /* header of head notices: what of the shard's stream is in the roster by then */
enum { SHARDS = 16, SESSION_MAX = 64, DIGEST_MAX = 500, PAGE = 1000 };

struct presence_config {
    int64_t heartbeat_ns, dead_after_ns, grace_ns, stuck_after_ns; /* stuck_after 0: off */
    int64_t roll_call_ns;                                          /* within which a roll call wants its beats */
    int64_t lost_after_ns;                                         /* how long agents of a lost NATS server are waited for */
    int64_t digest_above, count_above, replicas;
    int64_t keep_sessions_ns; /* that have ended, in agent_sessions; 0: for ever */
};

enum { PRESENCE_OPTIONS_N = 10 };
extern const struct muster_option presence_options[PRESENCE_OPTIONS_N];
/* What is given, with what the environment says and what follows from it. MUSTER_EINVAL with a reason. */
int settings_settle(const struct muster_host *host, const struct presence_config *given, struct presence_config *ret_settled);
int settings_check(const struct muster_host *host, const void *config);

/* What an event says. */
enum kind { KIND_JOIN = 1, KIND_LEAVE, KIND_STATUS, KIND_SUSPECT, KIND_COUNT, KINDS };

/* One agent that is present. The roster has what it said in hello and status. There may be a hundred thousand: nothing stands here that can
 * be found elsewhere, and what a beat touches stands in front. */
struct agent {
    struct tenancy *tenancy;
    int64_t beat_ns, beat_wall_ns; /* when it was heard last: beat, hello or status; monotonic, and for people */
    uint64_t beat_digest;          /* of the last beat's body */
    double load;     /* of the last beat or status; NaN: none */
    float load_put;  /* which the roster has */
    uint8_t status;  /* MUSTER_AGENT_ONLINE … */
    bool suspect;
    bool heard;      /* by this broker, since the session began or the broker started */
    bool restored;   /* from what was stored, after all brokers were gone, and not heard of when its shard was taken over */
    struct agent_death death;      /* death.h */
    uint64_t task_digest;          /* of the task; 0: none */
    int64_t task_ns;               /* since its last word of its task and status; monotonic */
    int64_t started_wall_ns;       /* of the session */
    char *session;   /* behind the name, or, of one that is longer than the first, its own */
    uint32_t round;  /* of the list that named it last; follow.c */
    uint8_t asked;   /* kind that was asked for by change_*() and is not done yet; 0: nothing */
    uint8_t session_room;
    char name[];
};

enum follow_state { FOLLOW_UNKNOWN, FOLLOW_ASKING, FOLLOW_LIVE };

/* One tenant. */
struct tenancy {
    struct presence *p;
    const struct muster_tenant *tenant;
    const char *name;
    uint32_t found; /* the look at all tenants that found it last */
    struct shard *shard;
    struct table agents; /* by name, struct agent, owned */
    uint32_t n_suspect, n_status[MUSTER_AGENT_AWAY + 1];
    uint64_t epoch, seq; /* of what is applied */

    /* follow.c: of one whose shard another holds */
    enum follow_state follow;
    uint32_t round;  /* of lists; an answer to an older one is dropped */
    uint32_t n_held, n_failed; /* n_failed: lists in a row that nobody answered */
    int64_t asked_ns;
    uint64_t list_epoch, list_seq, list_stream;
    uint64_t covered; /* of the stream, by the list: what follows of an older epoch was stored late */
    struct held *held, **held_end; /* events that came while the list was under way */

    /* changes.c: of one whose shard is held here */
    struct change *waiting, **waiting_end; /* in order */
    struct flight *flights, **flights_end; /* appended, not acknowledged */
    uint64_t sent_seq;
    uint32_t n_waiting;
    bool posted;
    struct map keeping; /* answers.c: agents whose answer is being kept */

    /* notices.c */
    uint64_t count_seq, head_epoch, head_seq; /* at the last notice */
    uint32_t n_heads;                         /* of that position; 0: none */

    struct tenancy_death death; /* death.h */
};

enum shard_state {
    SHARD_FOLLOWS, /* another holds it, or nobody */
    SHARD_OPENING, /* the lease is held; the stream is being opened */
    SHARD_TAIL,    /* what was stored since is being read */
    SHARD_LOADING, /* the sessions are being read from PostgreSQL, because nobody here knew the roster */
    SHARD_LEADS,   /* decides and tells */
};

struct shard {
    struct presence *p;
    uint32_t n;
    enum shard_state state;
    uint32_t generation; /* raised when what is under way is given up: its answers are not believed */
    int64_t retry_ns;    /* when to try again what failed; 0: nothing */
    int64_t contend_ns;  /* when to contend; 0: it does */
    uint64_t lease, epoch, stream;
    uint64_t sent;       /* the stream's last sequence, with what is under way */
    uint64_t acked;      /* all up to it took effect here; while another holds it: of what came without a hole */
    uint64_t last;       /* what the tail is read to */
    uint64_t heard;      /* sequence of the last event heard */
    uint64_t newest;     /* of those heard since the stream was asked how far it is: what comes until this one leads is read, too */
    int64_t hole_ns;     /* since when events are missing after `acked`; 0: none are */
    bool led;            /* since the lease is held it has led: what came after is no new beginning */
    bool unknown;        /* when the lease was got: nobody here knew the whole roster */
    bool loaded;         /* the roster needs nothing from agent_sessions (any more) */
    bool not_loaded;     /* it needs something, and was refused it when it asked last */
    struct kept_ask *asks, **asks_end; /* asks.c */
    uint32_t n_asks;
};

struct presence_metrics {
    uint64_t agents, shards, events, digests, beats, lists, gaps, failed, waiting, store;
};

struct presence {
    const struct muster_host *host;
    const struct muster_bus *bus;
    const struct muster_stream *stream;
    const struct muster_lease *lease;
    const struct muster_timer *timer;
    const struct muster_tenants *tenants;
    const struct muster_metrics *metrics;
    const struct muster_codec *codec;
    const struct muster_roster *roster;
    const struct muster_kv *kv;
    struct presence_config settled;
    const struct presence_config *config; /* the same */
    struct presence_metrics m;
    struct shard shards[SHARDS];
    struct map by_tenant; /* by name, struct tenancy, owned */
    struct tenancy *asked_last; /* of whom the last message was; NULL: of nobody yet */
    int64_t wall_ns;      /* what the wall clock is ahead of the monotonic one, as of the last tick */
    uint32_t n_asking;    /* lists under way */
    uint32_t n_waiting;   /* changes */
    uint32_t looks;       /* at all tenants */
    bool link_up, draining, tenants_known, tenants_changed;
    struct shares shares;
    bool ready;           /* the whole roster was known once */
    uint32_t n_missing;   /* looks in a row that found some of it missing */
    bool was_loading;     /* at the last look */
    char load_fault[160]; /* what PostgreSQL said when sessions could not be read; empty: they could, or it said nothing */
    const char *stream_code; /* of the last stream that was refused; NULL: none was since one was opened, or a shard went */
    char stream_fault[320];
    struct buf scratch;   /* answers and bodies while they are written */
    struct death death;
};

/* ---- tenants.c, agents.c ---- */

/* Find or make it. NULL: no memory. */
struct tenancy *tenancy_of(struct presence *p, const struct muster_tenant *tenant);
bool tenancy_next(struct presence *p, size_t *at, struct tenancy **ret_tenancy);
/* The tenant was removed: nothing of it is kept but its position, because it may come back. Again and again, as events may be under way. */
void tenancy_clear(struct tenancy *t);
void tenancies_done(struct presence *p);
struct agent *agent_find(const struct tenancy *t, const char *name); /* NULL: it is not present */
/* One that is not present. NULL: no memory. */
struct agent *agent_add(struct tenancy *t, const char *name, const char *session);
/* False: no memory, and it has the one before. */
bool agent_set_session(struct agent *a, const char *session);
bool agent_next(const struct tenancy *t, size_t *at, struct agent **ret_agent); /* ending the current one is allowed */
/* True while this broker decides for the tenant. */
static inline bool tenancy_leads(const struct tenancy *t)
{
    return t->shard->state == SHARD_LEADS;
}
/* False: the tenant was removed. */
static inline bool tenancy_is(const struct tenancy *t)
{
    return t->found == t->p->looks;
}
uint32_t shard_of(const char *tenant);

/* It was heard of: beat, hello or status, which came at recv_ns. */
void agent_heard(struct agent *a, int64_t recv_ns);
/* It is about to have another status, or to end. */
void agent_uncount(struct agent *a);
void agent_end(struct agent *a); /* no longer present: told to death.h, and freed; the roster is not touched */

/* ---- apply.c: what is stored takes effect ---- */

struct said;
/* The agent is here as said; kind KIND_JOIN, KIND_STATUS or KIND_SUSPECT. NULL: no memory, or it is of an older session. */
struct agent *apply_present(struct tenancy *t, int kind, const struct said *said);
/* It is gone. */
void apply_leave(struct tenancy *t, const char *agent, int64_t started_wall_ns, const char *reason);
/* The body of an event, which may be a digest. */
void apply_event(struct tenancy *t, int kind, const struct muster_value *body);
/* "join" of KIND_JOIN. */
const char *kind_name(int kind);
/* Of a message "evt.presence.join.ann" or "pres.3.join.ann". */
struct event_place {
    uint64_t epoch, seq, stream_seq;
    int kind;
};
/* False: it is no event of presence. */
bool place_read(const struct muster_msg *msg, struct event_place *ret_place);
/* Of a header: the last value, because a sender could put one before that of the server. 0: there is none. */
uint64_t header_number(const struct muster_msg *msg, const char *name);
/* Its position is taken over, too. */
void apply_message(struct tenancy *t, const struct event_place *place, const struct muster_msg *msg);
/* A holder before stored it when the present one had begun, and had told nothing yet: it takes effect, and has a position. Who knows the
 * roster as it was at this one finds one missing, and reads it anew. */
bool place_is_late(const struct tenancy *t, const struct event_place *place);
void apply_late(struct tenancy *t, const struct event_place *place, const struct muster_msg *msg);

/* ---- changes.c: what the holder decides. All are asynchronous: the agent is changed when the event is stored. ---- */

/* reason: disconnected, timeout, kicked. 0, also when something is asked for already; MUSTER_ESTALE: the shard is not held here (any more);
 * MUSTER_ENOMEM. A word that is heard of the agent meanwhile does not stop it: see death_still(). */
int change_leave(struct agent *a, const char *reason);
/* reason: silent, node, stuck, restart. */
int change_suspect(struct agent *a, const char *reason);
/* It is suspect no longer: told as a status event. */
int change_trust(struct agent *a);
/* Keep a request hello, status or bye until its event is stored. */
int change_request(struct tenancy *t, const struct muster_msg *msg);
void change_count(struct tenancy *t);
/* Append what waits, where nothing is under way. */
void changes_run(struct tenancy *t);
/* What is under way waits again, in its place: nobody knows whether it is stored. */
void changes_take_back(struct tenancy *t);
/* Nothing of it will be done here: who asked is told so. */
void changes_drop(struct tenancy *t);

/* ---- shards.c ---- */

void shards_start(struct presence *p);
/* missing: of each shard the tenants whose roster is not known. */
void shards_tick(struct presence *p, int64_t now_ns, const uint32_t missing[SHARDS]);
/* How they are shared out with other brokers. */
struct shares_how shards_how(struct presence *p);
/* An append was not acknowledged: read the stream again, then go on. */
void shard_failed(struct shard *s, int code);
/* An event of a shard that is held here is heard: its own, one that is being read, or one that a holder before has stored late. */
void shard_hears(struct shard *s, const struct event_place *place);

/* ---- follow.c ---- */

int follow_start(struct presence *p);
/* True while the roster of the tenant, whose shard another holds, is not known. */
bool follow_tick(struct tenancy *t, int64_t now_ns);
/* All that others hold is read anew: events may have been missed. */
void follow_again(struct presence *p);
/* The shard is held here now: no list is needed any more. */
void follow_end(struct tenancy *t);

/* ---- verbs.c, lists.c ---- */

int verbs_start(struct presence *p);
/* Answer what asks_keep() has kept. */
int verb_answer(struct tenancy *t, const struct muster_msg *msg);
void roster_put_again(struct agent *a); /* its load or its lateness is another */
int verb_list(struct tenancy *t, const struct muster_msg *msg);
int verb_get(struct tenancy *t, const struct muster_msg *msg);
int verb_count(struct tenancy *t, const struct muster_msg *msg);
/* Write {"count": …, "by_status": {…}} of all agents. */
void count_write(struct tenancy *t, struct buf *b);
/* JSON in MessagePack: bytes are the writer's, which the caller frees. */
int recode(struct presence *p, struct muster_bytes json, struct muster_writer **ret_writer, struct muster_bytes *ret_bytes);
/* Answer with JSON, in the encoding of the request. */
int reply_json(struct presence *p, const struct muster_msg *msg, const struct buf *json);

/* ---- asks.c ---- */

/* A question that only the holder answers, and that cannot be answered now. Where another holds the shard it is left to him. */
int asks_keep(struct tenancy *t, const struct muster_msg *msg);
void asks_answer(struct shard *s); /* it leads */
/* Those that have waited long enough by then are told to ask again; INT64_MAX: all. */
void asks_refuse(struct shard *s, int64_t now_ns);
void asks_done(struct shard *s);

/* ---- wellbeing.c ---- */

void wellbeing_tick(struct presence *p, const uint32_t missing[SHARDS]);

/* ---- notices.c ---- */

void notices_tick(struct presence *p);  /* every second */
void notices_heads(struct presence *p); /* every 5 s */

#endif
