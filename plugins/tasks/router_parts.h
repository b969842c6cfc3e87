/*
 * tasks/router_parts.h - what the files of the router share. It assigns for the tenants whose shard this broker holds.
 *
 * Parts    router.c           life, one turn after the other, metrics
 *          router_shards.c    the lease of each of 16 shards, its fence in the database
 *          router_tenants.c   the tenants of the shards that are held: from nothing to what the database has
 *          router_read.c      what is asked of the database: windows, routes, what is held
 *          router_look.c      looks at single tasks
 *          router_feed.c      events and the roster
 *          router_return.c    agents that connect again, and may have missed something
 *          router_assign.c    a pair becomes an assignment, which is delivered
 *          router_pull.c      agents that ask for their tasks
 *          match.h            who gets what
 *
 * Turns    Whatever is heard is told to the matcher; what follows from it is done once afterwards (router_soon), so that a batch that was
 *          committed together is assigned together.
 * Lives    A tenant's state ends with the lease. What is asked carries the state's number (life): an answer to an older one is dropped.
 */
#ifndef MUSTER_TASKS_ROUTER_PARTS_H
#define MUSTER_TASKS_ROUTER_PARTS_H

#include "base/buf.h"
#include "base/map.h"
#include "base/ring.h"
#include "common/shares.h"
#include "common/work/ask.h"
#include "tasks/match.h"
#include "tasks/tasks.h"

enum { TASK_SHARDS = 16, LOOK_MAX = 500, SOUGHT_MAX = 20000, PEEK_MAX = 256, HELD_PAGE = 1000, ROUTES_PAGE = 100 };

enum shard_state {
    SHARD_ELSEWHERE,
    SHARD_FENCING, /* the lease is held; holders before are shut out */
    SHARD_READING, /* which tenants have anything */
    SHARD_SERVES,
};

struct task_shard {
    struct router *r;
    uint32_t n;
    enum shard_state state;
    uint64_t lease, epoch;
    uint32_t generation; /* raised with each lease: answers of older ones are dropped */
    int64_t got_ns;      /* when the lease came; what is done then may have to wait for the database */
    int64_t contend_ns;  /* when to contend; 0: it does */
    int64_t retry_ns;    /* when to try again what failed; 0: nothing */
};

/* A tenant of a shard that is held. */
struct routed {
    struct router *r;
    const struct muster_tenant *tenant;
    const char *name;
    struct task_shard *shard;
    struct match_tenant *m;
    uint32_t life;
    struct link link;     /* r->routed */
    struct link looking;  /* r->looking: something is sought */
    struct link sought, later; /* tasks to be looked at; router_read.c */
    uint32_t n_sought, n_looks;
    bool ready;           /* what is held is known */
    bool reading_held, reading_routes, held_failed;
    bool again;           /* events may have been missed */
    char *held_after;     /* page of what is held */
    int64_t routes_after;
    int64_t synced_ns, resync_ns, held_ns, settle_ns;
    int64_t unheard_ns;   /* what was assigned since may not have been sent; 0: it was */
    bool unheard_all;     /* whatever it is; else what is in missed */
    uint64_t event_epoch, event_seq;
    struct link pulls;    /* router_pull.c */
    struct map pullers;   /* and by agent: struct puller */
    struct link missed;   /* router_return.c */
    uint32_t n_missed;
};

/* An assignment that could not be sent. */
struct unsent {
    struct unsent *next;
    const struct muster_tenant *tenant;
    int64_t since_ns;
    struct buf body, reply;
    char agent[];
};

struct router_metrics {
    uint64_t assigned, refused, held, queued, shards, unroutable, resent, lost, wait;
};
enum { WORDS_MAX = 1024 };
/* Where the words of one task stand that is being submitted. */
struct needs {
    const char *capabilities[WORDS_MAX], *labels[WORDS_MAX];
    struct buf text; /* of labels */
};

struct router {
    struct tasks *t;
    struct work *w;
    const struct muster_lease *lease;
    const struct muster_kv *kv;
    const struct muster_roster *roster;
    struct matcher *matcher;
    struct task_shard shards[TASK_SHARDS];
    struct shares shares;
    struct map by_tenant; /* the handle's bytes, struct routed */
    struct link routed, looking;
    const struct muster_sys *sys; /* NULL: there are no system credentials */
    struct link returned;         /* router_return.c */
    uint32_t n_returned;
    struct {
        uint64_t assign, unroutable, session_lost, fence, tenants, peek, look, routes, held, unheard;
    } stmt;
    struct router_metrics m;
    uint32_t lives, n_assigning, n_peeks, n_tells;
    uint64_t roster_id;
    int64_t looked_ns;
    struct unsent *unsent, **unsent_end;
    uint32_t n_unsent;
    size_t unsent_bytes;
    struct needs needs;
    bool posted, draining, link_up;
    int64_t away_ns, back_ns; /* since when NATS was away, the last time, and until when */
};

/* What a callback of the database has to know. */
struct question {
    struct router *r;
    const struct muster_tenant *tenant;
    uint32_t life;
    int64_t route; /* of a peek */
};

/* ---- router.c ---- */

/* Do what follows from what was told, once what runs now is through. */
void router_soon(struct router *r);
struct muster_bytes number_param(int64_t v, char out[24]);
const char *field_of(const struct muster_sql_result *result, uint32_t row, uint32_t column); /* NULL: it is NULL, or empty */
int64_t number_of(const struct muster_sql_result *result, uint32_t row, uint32_t column);

/* ---- router_shards.c ---- */

void shards_start(struct router *r);
void shards_tick(struct router *r, int64_t now_ns);
struct shares_how shards_how(struct router *r);
/* Its lease is not held any more, as a statement has found out. */
void shard_is_lost(struct task_shard *s);
uint32_t task_shard_of(const char *tenant);

/* ---- router_tenants.c ---- */

struct routed *routed_find(const struct router *r, const struct muster_tenant *tenant);
struct routed *routed_of(const struct question *q); /* and frees the question; NULL: its life is over */
struct question *question_new(const struct routed *d); /* NULL: no memory */
/* State for each tenant of the shard; none: it is known to have nothing. */
void routed_begin(struct task_shard *s);
void routed_has_tasks(struct task_shard *s, const char *tenant);
void routed_end_all(struct task_shard *s);
void routed_tables(struct router *r);
void routed_tick(struct router *r, int64_t now_ns);
/* Events may have been missed: it is read anew. */
void routed_again(struct routed *d);
void routed_back(struct router *r); /* NATS was away for so short that the shards are still held */

/* ---- router_read.c ---- */

int reads_create(struct router *r);
void read_peeks(struct router *r);
void read_held(struct routed *d);
void read_routes(struct routed *d);
/* What was assigned since and may not have arrived is sent again; agent NULL: to all. */
void read_unheard(struct routed *d, const char *agent, int64_t since_ns);
/* What an agent that pulls has had for a while, and has said nothing of: what it was answered may be lost. */
void read_unspoken(struct routed *d, const char *agent);
/* What was assigned since, once what is held has been read anew. */
void unheard_since(struct routed *d, int64_t since_ns);
/* So long ago; where NATS was away until now, from before that on. */
int64_t unheard_from(const struct router *r, int64_t ago_ns);
/* Words with chr(30) between them, in place. Returns how many. */
uint32_t words_split(char *text, const char *words[WORDS_MAX]);
/* What a row has of words, and where they stand until the next one. */
struct row_words {
    char *text[4];
    const char *words[4][WORDS_MAX];
};
void row_words_free(struct row_words *of);
/* Columns 0 to 6 of task_peek and task_look. */
struct task_spec row_task(const struct muster_sql_result *result, uint32_t i, struct row_words *of);
/* Five columns from the first on. */
struct route_spec row_route(const struct muster_sql_result *result, uint32_t i, uint32_t first, struct row_words *of);

/* ---- router_look.c ---- */

/* The task was queued with this epoch (INT64_MAX: it is not known with which): find out where. */
void look_at(struct routed *d, const char *task_id, int64_t epoch);
void read_looks(struct router *r);
void looks_tick(struct routed *d, int64_t now_ns);
void looks_drop(struct link *sought);

/* ---- router_feed.c ---- */

int feed_start(struct router *r);
void feed_present(struct routed *d); /* who is there */
/* Release what the session has, if it is not the agent's present one: it ended while something was being assigned to it. */
void feed_look_for(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *session);
bool feed_has_other_session(const struct routed *d, const char *agent, const char *session); /* it is present, with another one than this */

/* ---- router_return.c ---- */

int returns_create(struct router *r);
int returns_start(struct router *r);
void returns_tick(struct router *r, int64_t now_ns);
void returns_done(struct router *r);
/* It connected anew, or what it may have missed could not be read: soon. */
void returned_note(struct router *r, const struct muster_tenant *tenant, const char *agent);
/* The agent may have missed a task that was assigned to it since: who pulls is told of it with its next request, others when unheard_since() has
 * been told. False: there are too many. */
bool missed_note(struct routed *d, const char *agent, const char *task_id, int64_t since_ns);
int64_t missed_ask(struct routed *d, const char *agent); /* since when to ask for what it (NULL: anybody) has missed; 0: nothing */
bool missed_take(struct routed *d, const char *agent, const char *task_id);
/* What was asked for and was not found is not held. True: it may be yet, for what was sent to the database may still be committed there. */
bool missed_end(struct routed *d, const char *agent);
void missed_drop(struct routed *d, const char *agent); /* agent NULL: of all */

/* ---- router_assign.c ---- */

int assign_create(struct router *r);
void assign_run(struct router *r);
/* What is about to be queued goes to somebody who is free, in the same transaction. False: it does not. */
bool assign_early(struct routed *d, const struct route_spec *needs, const char *task_id);
void deliver(struct router *r, const struct muster_tenant *tenant, const char *agent, const char *task_id, uint64_t epoch, const char *body, size_t len,
             bool again);
void unsent_flush(struct router *r);
void unsent_done(struct router *r);

/* ---- router_pull.c ---- */

int pull_start(struct router *r);
/* Tell the matcher how many more it would take: it gives it no others. */
void pull_credit(struct routed *d, const char *agent);
/* An agent that pulls is about to get one, or does not after all. */
void pull_begins(struct routed *d, const char *agent);
void pull_fails(struct routed *d, const char *agent);
/* It has it: true; false: nobody waits any more, or it is too much for this answer. */
bool pull_takes(struct routed *d, const char *agent, const char *body, size_t len);
/* The same of what it has missed; pull_handed() after the agent's last. */
bool pull_hand(struct routed *d, const char *agent, const char *body, size_t len);
void pull_handed(struct routed *d, const char *agent);
void pull_missed(struct routed *d); /* those that wait are told of what they have missed */
bool pull_does(const struct routed *d, const char *agent); /* its hello says delivery: pull */
void pull_tick(struct router *r, int64_t now_ns);
void pull_gone(struct routed *d, const char *agent);
void pull_end(struct routed *d); /* of all: another broker serves the tenant */

#endif
